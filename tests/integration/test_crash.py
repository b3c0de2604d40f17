"""Power cuts as far as a process can meet them: SIGKILL at random moments, full and failing disks.

What must hold: a change that was acknowledged is there after every restart; of one that was not,
the coins of its request have all moved or none; the roots are those of the pages.
KILLS in the environment says how often the daemon is killed; its seed is in the test's output.
"""

import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from raida_uring.admin.client import result_of
from raida_uring.cli import top
from raida_uring.protocol import Status
from tests.support.coin_requests import (
    DETECT,
    GET_TICKET,
    POWN,
    all_roots,
    an_of,
    ask,
    coins_ans,
    default_an,
    detects,
    page_of_coin,
    pown_payload,
    stored_ans,
    stored_roots,
)
from tests.support.command_line import execute
from tests.support.handlers import LOSE_META
from tests.support.http import ask as http_ask
from tests.support.http import sample_value, scrape, status_json
from tests.support.needs import namespace, require
from tests.support.net import PATIENCE, VOLUME, Endpoint, family_of, read_exactly, tcp_connect
from tests.support.node import (
    HANDLERS,
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    daemon,
    eventually,
    free_port,
    started_daemon,
)
from tests.support.store import Coin, make_store, tables_over
from tests.support.wire import request

KILLS = int(os.environ.get("KILLS", round(10 * VOLUME)))
OWNERS = 6
# Long enough for hundreds of commits, short enough for many kills.
SERVING_S_MAX = 0.4 * PATIENCE
STARTING_S_MAX = 1.0
LOST_TIMEOUT_S = 1.0  # a datagram that died with the daemon is never answered


@dataclass
class Owner:
    """A client that gives its coins new ANs, all in one request, and keeps count."""

    name: int
    transport: str
    coins: list[Coin]
    acknowledged: int = 0  # steps that the node has said were done
    asked: int = 0  # steps that it was asked for
    faults: list[str] = field(default_factory=list)

    def ans(self, step: int) -> dict[Coin, bytes]:
        """What the coins have after `step` steps."""
        if step == 0:
            return {coin: default_an(coin) for coin in self.coins}
        return {coin: an_of(self.name, step, coin) for coin in self.coins}

    def pown(self, endpoint: Endpoint) -> None:
        """Until the node is gone."""
        try:
            while not self.faults:
                old, new = self.ans(self.acknowledged), self.ans(self.acknowledged + 1)
                self.asked = self.acknowledged + 1
                payload = pown_payload((coin, old[coin], new[coin]) for coin in self.coins)
                answered = self._exchange(endpoint, request(POWN, payload))
                if answered != Status.ALL_PASS:
                    self.faults.append(f"owner {self.name} step {self.asked}: {answered}")
                    return
                self.acknowledged = self.asked
        except (OSError, AssertionError):
            return  # no answer, or half of one

    def _exchange(self, endpoint: Endpoint, data: bytes) -> int:
        if self.transport == "tcp":
            with tcp_connect(endpoint) as client:
                client.sendall(data)
                return read_exactly(client, 32)[2]
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as client:
            client.settimeout(LOST_TIMEOUT_S)
            client.connect(endpoint)
            client.send(data)
            return client.recv(2048)[2]

    def settle(self, found: dict[Coin, bytes | None]) -> None:
        """Find out which step the coins are at: the last acknowledged, or the one in flight."""
        for step in {self.acknowledged, self.asked}:
            if all(found[coin] == an for coin, an in self.ans(step).items()):
                self.acknowledged = self.asked = step
                return
        raise AssertionError(
            f"owner {self.name}: neither step {self.acknowledged} nor {self.asked}"
        )


def owners() -> list[Owner]:
    """One coin, or several of one page or of many; pages shared with others."""
    shared = [(0, serial) for serial in range(3000, 3000 + 2 * OWNERS)]
    return [
        Owner(
            number,
            ("udp", "tcp")[number % 2],
            [
                shared[2 * number],
                *([shared[2 * number + 1]] if number % 3 else []),
                *((den, 1024 * (7 + number)) for den in range(-8, -8 + 4 * (number % 3))),
            ],
        )
        for number in range(OWNERS)
    ]


def kill_while_serving(node: Daemon, clients: Sequence[Owner], after_s: float) -> None:
    """Let all of them pown, and kill the daemon meanwhile."""
    threads = [threading.Thread(target=one.pown, args=(node.endpoint,)) for one in clients]
    for thread in threads:
        thread.start()
    time.sleep(after_s)  # the random moment
    node.kill()
    for thread in threads:
        thread.join()


def check_store(store: Path, clients: Sequence[Owner]) -> bytes:
    """Compare the store on disk, which no node serves, with the owners' counts; returns its
    roots."""
    found = stored_ans(store, (coin for one in clients for coin in one.coins))
    for one in clients:
        assert not one.faults, one.faults
        one.settle(found)
    return stored_roots(store, (page_of_coin(coin) for coin in found))


def check_node(node: Daemon, clients: Sequence[Owner], roots: bytes) -> None:
    """What the restarted node says."""
    assert all_roots(node.endpoint) == roots
    for one in clients:
        assert detects(node.endpoint, one.ans(one.acknowledged)), one


@pytest.mark.hang_timeout_s(60 + 10 * KILLS)
@pytest.mark.any_backend
def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "4"))
    draw = random.Random(seed)
    clients = owners()
    store = make_store(tmp_path / "store")
    settings = tables_over(store)
    roots = check_store(store, clients)
    unacknowledged = 0
    for _ in range(KILLS):
        with started_daemon(tmp_path, **settings) as node:
            if draw.random() < 0.1:
                time.sleep(draw.uniform(0, STARTING_S_MAX))  # the random moment
                node.kill()
            else:
                node.await_ready()
                check_node(node, clients, roots)
                before = [one.acknowledged for one in clients]
                kill_while_serving(node, clients, draw.uniform(0, SERVING_S_MAX))
                unacknowledged -= sum(one.acknowledged for one in clients)
                roots = check_store(store, clients)
                unacknowledged += sum(one.acknowledged for one in clients)
                assert [one.acknowledged for one in clients] >= before
            assert "Traceback" not in node.stderr(), node.stderr()
        assert check_store(store, clients) == roots
    with daemon(tmp_path, **settings) as node:
        check_node(node, clients, roots)
    steps = [one.acknowledged for one in clients]
    print(f"{KILLS} kills (seed {seed}), {sum(steps)} changes, {unacknowledged} not acknowledged")
    assert min(steps) > 0


# -- what the kernel was asked for ----------------------------------------------------------------


def strace_refusal() -> str | None:
    """Why an installed strace cannot be used here; None when it can."""
    tried = execute(require("strace"), "-f", "-o", "/dev/null", "true")
    return None if tried.returncode == 0 else f"strace: {tried.stderr.strip()}"


def stop_traced(node: Daemon) -> int:
    """Stop a daemon under strace, which passes no signal on: its exit status."""
    (traced,) = psutil.Process(node.process.pid).children()
    traced.terminate()
    return node.process.wait(STOP_TIMEOUT_S)


TRACED = (
    "openat,fdatasync,fsync,msync,pwrite64,pwritev,write,sendmsg,sendmmsg,sendto,io_uring_enter"
)


@dataclass(frozen=True)
class Call:
    """One line of the trace: a call that returned. `thread` is who made it."""

    thread: str
    name: str
    arguments: str
    result: str


def calls(trace: Path) -> list[Call]:
    """In the order of their ends; strace writes one that another overtakes in two lines."""
    begun: dict[str, str] = {}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<... "):
            text = begun.pop(thread, "") + text.partition("resumed>")[2]
        call, separator, result = text.rpartition(" = ")
        name, bracket, arguments = call.partition("(")
        if separator and bracket:
            found.append(Call(thread, name, arguments.strip().removesuffix(")").strip(), result))
    return found


def hand_overs(trace: Path) -> tuple[int, int, int]:
    """How often the writing thread made a commit durable, how often it woke the I/O thread to send
    its replies (which needs no waking while it is awake), and how many of those wakes came before
    the data was on the disk: pages, then fdatasync, then a new meta page through the descriptor
    that waits for the disk (O_DSYNC)."""
    of_store: dict[str, bool] = {}
    eventfds: set[str] = set()
    openers: set[str] = set()  # the main thread: it writes, too, but sends no replies
    for call in calls(trace):
        if call.name == "openat" and "/data.mdb" in call.arguments:
            of_store[call.result] = "SYNC" in call.arguments
            openers.add(call.thread)
    writers = {
        call.thread
        for call in calls(trace)
        if call.name.startswith("pwrite") and call.arguments.split(",")[0] in of_store
    } - openers
    assert len(writers) == 1
    durable = replies = unsafe = 0
    state = "none"
    mine = [call for call in calls(trace) if call.thread in writers]
    for call in mine:
        descriptor = call.arguments.split(",")[0]
        if call.name == "fdatasync" and call.result == "0" and descriptor in of_store:
            state = "data"
        elif call.name.startswith("pwrite") and of_store.get(descriptor):
            state = "safe" if state == "data" else "early"
            durable += state == "safe"
        elif call.name.startswith("pwrite") and descriptor in of_store:
            state = "written"
        elif call.name == "write" and call.result == "8":
            eventfds.add(descriptor)
            replies += 1
            unsafe += state != "safe"
            state = "none"
    assert len(eventfds) == 1
    return durable, replies, unsafe


@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_data_is_synchronised_before_each_reply(tmp_path: Path, durability: str) -> None:
    """The kernel writes the pages of a killed process, but not after a power cut. With "interval"
    no reply waits for the disk, which shows that this test can fail."""
    if (refusal := strace_refusal()) is not None:
        pytest.skip(refusal)
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-s", "64", "-o", str(trace), "-e", f"trace={TRACED}", *SERVE]
    settings = tables_over(
        make_store(tmp_path / "store"), durability=durability, sync_interval_ms=600_000
    )
    clients = owners()[:3]
    rounds = 8
    with started_daemon(tmp_path, command=command, **settings) as node:
        node.await_ready()
        for one in clients:
            for step in range(rounds):
                old, new = one.ans(step), one.ans(step + 1)
                payload = pown_payload((coin, old[coin], new[coin]) for coin in one.coins)
                answered, _ = ask(node.endpoint, POWN, payload, one.transport)
                assert answered == Status.ALL_PASS
        assert stop_traced(node) == 0, node.stderr()
    durable, replies, unsafe = hand_overs(trace)
    print(f"{durability}: {durable} commits synchronised, {unsafe} of {replies} wakes unsafe")
    assert replies > 0
    if durability == "commit":
        assert durable == rounds * len(clients)
        assert unsafe == 0
    else:
        assert durable == 0
        assert unsafe == replies


# -- a failing disk -------------------------------------------------------------------------------


@contextmanager
def failing_daemon(directory: Path, store: Path, faults: str) -> Iterator[Daemon]:
    """A node whose system calls fail as `faults`, an injection of strace, says. On leaving, it is
    asked to end."""
    if (refusal := strace_refusal()) is not None:
        pytest.skip(refusal)
    traced = ["-e", "trace=fdatasync,pwrite64,pwritev", "-e", f"inject={faults}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(directory, command=command, **tables_over(store)) as node:
        node.await_ready()
        yield node
        if node.process.poll() is None:
            stop_traced(node)


def test_a_sync_that_fails_is_reported(tmp_path: Path) -> None:
    """The change is not acknowledged, and later ones succeed."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (0, 2), (5, 9)])
    told = []
    with failing_daemon(tmp_path, store, "fdatasync:error=EIO:when=4..6") as node:
        for _ in range(12):
            old, new = one.ans(one.acknowledged), one.ans(one.acknowledged + 1)
            payload = pown_payload((coin, old[coin], new[coin]) for coin in one.coins)
            told.append(ask(node.endpoint, POWN, payload)[0])
            one.acknowledged += told[-1] == Status.ALL_PASS
            assert detects(node.endpoint, one.ans(one.acknowledged))
    # strace counts the calls of each thread for itself. After a second the node tries by itself.
    assert 1 <= told.count(Status.FILESYSTEM) <= 3
    assert told.count(Status.ALL_PASS) == 12 - told.count(Status.FILESYSTEM)
    with daemon(tmp_path, **tables_over(store)) as node:
        assert detects(node.endpoint, one.ans(one.acknowledged))


def test_a_store_that_only_opening_again_can_help_ends_the_node(tmp_path: Path) -> None:
    """LMDB refuses everything, reading included, once the write that completes a commit failed: an
    exit that the service manager answers with a restart is better than 194 for ever."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (5, 9)])
    with started_daemon(tmp_path, handlers=HANDLERS, **tables_over(store)) as node:
        node.await_ready()
        assert ask(node.endpoint, LOSE_META, b"")[0] == Status.SUCCESS
        old, new = one.ans(one.acknowledged), one.ans(one.acknowledged + 1)
        payload = pown_payload((coin, old[coin], new[coin]) for coin in one.coins)
        assert ask(node.endpoint, POWN, payload)[0] == Status.FILESYSTEM
        assert node.process.wait(STOP_TIMEOUT_S) == 1
    assert "the store must be opened again, so the node ends" in node.stderr()
    assert "Traceback" not in node.stderr()
    with daemon(tmp_path, **tables_over(store)) as node:
        assert detects(node.endpoint, one.ans(one.acknowledged))


# -- a full disk ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A small file system in a mount namespace of its own."""

    mounted: Path  # as processes in the namespace see it
    outside: Path  # as all others see it
    enter: tuple[str, ...]  # what to put in front of a command

    def fill(self) -> None:
        """Leave no byte."""
        with (self.outside / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def leave(self, size: int) -> None:
        """So many bytes, once it is full."""
        ballast = self.outside / "ballast"
        os.truncate(ballast, ballast.stat().st_size - size)

    def free(self) -> None:
        """Give it back."""
        (self.outside / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Of 8 MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    script = 'mount -t tmpfs -o size=8m,mode=0777 tmpfs "$0"'
    with namespace("mount", script, mounted) as pid:
        yield Disk(
            mounted,
            Path(f"/proc/{pid}/root{mounted}"),
            ("nsenter", f"--target={pid}", "--mount", f"--wd={tmp_path}"),
        )


def test_failed_writes_are_seen_and_their_end_too(tmp_path: Path, disk: Disk) -> None:
    """Every way to watch a node shows them while they fail, though small ones succeed; and shows
    that they succeed again, though no client asks for one."""
    make_store(disk.outside / "store")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    socket_path = tmp_path / "admin.sock"
    settings = tables_over(disk.mounted / "store") | {
        "http": {"enabled": True, "port": port},
        "admin": {"socket": str(socket_path)},
    }
    pages = iter(range(1000))

    def pown() -> int:
        coin: Coin = (2, next(pages) * 1024)
        change = pown_payload([(coin, default_an(coin), an_of(coin))])
        return ask(node.endpoint, POWN, change)[0]

    refused = 0
    reason = "the store cannot be written: No space left on device"
    with started_daemon(tmp_path, command=[*disk.enter, *SERVE], **settings) as node:
        node.await_ready()
        assert http_ask(url, "/readyz").status == 200
        for _ in range(2):
            disk.fill()
            while pown() == Status.ALL_PASS:
                pass
            refused += 1
            assert (http_ask(url, "/readyz").status, http_ask(url, "/readyz").text) == (
                503,
                f"{reason}\n",
            )
            for _ in range(20):
                assert pown() == Status.FILESYSTEM
                refused += 1
                ticket, _ = ask(node.endpoint, GET_TICKET, coins_ans({(5, 1): default_an((5, 1))}))
                refused += ticket == Status.FILESYSTEM
                assert http_ask(url, "/readyz").text == f"{reason}\n"
            seen = scrape(url)
            assert sample_value(seen, "raida_store_writable") == 0
            assert sample_value(seen, "raida_commit_failures_total") >= 21
            assert sample_value(seen, "raida_store_disk_free_bytes") < 1 << 20
            assert sample_value(seen, "raida_ready") == 0
            assert status_json(url)["node"]["unready"] == [reason]
            told = result_of(socket_path, "status")
            assert told["unready"] == [reason]
            assert f"NOT READY: {reason}" in top.render(told, None, 200, 100)
            disk.free()
            eventually(lambda: http_ask(url, "/readyz").status == 200)
            seen = scrape(url)
            assert sample_value(seen, "raida_store_writable") == 1
            assert sample_value(seen, "raida_store_disk_free_bytes") > 1 << 20
            assert result_of(socket_path, "status")["unready"] == []
            assert pown() == Status.ALL_PASS
        node.signal(signal.SIGTERM)
        assert node.process.wait(STOP_TIMEOUT_S) == 0
        said = node.stderr()
    counted = re.findall(r"No space left on device: (\d+) requests? answered 194", said)
    assert sum(map(int, counted)) == refused
    assert len(counted) < refused
    assert said.count("can be changed again") == 2


def test_a_disk_that_takes_a_part_of_a_change_is_full(tmp_path: Path, disk: Disk) -> None:
    """LMDB reports an input/output error, as for a failing disk."""
    make_store(disk.outside / "store")
    command = [*disk.enter, *SERVE]
    coins = {(2, page * 1024): default_an((2, page * 1024)) for page in range(4)}
    change = pown_payload((coin, an, an_of(coin)) for coin, an in coins.items())
    with started_daemon(tmp_path, command=command, **tables_over(disk.mounted / "store")) as node:
        node.await_ready()
        disk.fill()
        disk.leave(1 << 14)
        assert ask(node.endpoint, POWN, change)[0] == Status.FILESYSTEM
        eventually(lambda: "cannot be changed: No space left on device" in node.stderr())
        disk.free()
        assert ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS
        node.signal(signal.SIGTERM)
        assert node.process.wait(STOP_TIMEOUT_S) == 0


def test_a_full_disk_refuses_changes_and_loses_none(tmp_path: Path, disk: Disk) -> None:
    make_store(disk.outside / "store")
    settings = tables_over(disk.mounted / "store")
    command = [*disk.enter, *SERVE]
    kept = {(0, 0): default_an((0, 0))}
    pages = iter(range(1000))

    def pown_until_refused(node: Daemon) -> list[Coin]:
        """On fresh pages, so that the store must grow."""
        while True:
            coins: list[Coin] = [(2, next(pages) * 1024), (3, 1024), (3, 1025)]
            new = {coin: an_of("new", coin, coins) for coin in coins}
            changes = [(coin, kept.get(coin, default_an(coin)), new[coin]) for coin in coins]
            answered, _ = ask(node.endpoint, POWN, pown_payload(changes))
            if answered != Status.ALL_PASS:
                assert answered == Status.FILESYSTEM
                return coins
            kept.update(new)

    def is_as_before(node: Daemon, refused: Sequence[Coin]) -> None:
        assert detects(node.endpoint, kept)
        old = {coin: kept.get(coin, default_an(coin)) for coin in refused}
        assert detects(node.endpoint, old)

    with started_daemon(tmp_path, command=command, **settings) as node:
        node.await_ready()
        for _ in range(3):
            disk.fill()
            refused = pown_until_refused(node)
            is_as_before(node, refused)
            assert pown_until_refused(node)  # and again
            is_as_before(node, refused)
            disk.free()
            coin: Coin = (4, len(kept))
            change = pown_payload([(coin, default_an(coin), an_of(coin))])
            assert ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS
            kept[coin] = an_of(coin)
            is_as_before(node, refused)
        disk.fill()
        refused = pown_until_refused(node)
        node.kill()
    with started_daemon(tmp_path, command=command, **settings) as node:
        node.await_ready()
        is_as_before(node, refused)
        assert ask(node.endpoint, DETECT, coins_ans({(0, 0): bytes(16)}))[0] == Status.ALL_FAIL
        disk.free()
        coin = (4, 5000)
        change = pown_payload([(coin, default_an(coin), an_of(coin))])
        assert ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS
        kept[coin] = an_of(coin)
        assert all_roots(node.endpoint) != bytes(480)
    with daemon(tmp_path, command=command, **settings) as node:
        assert detects(node.endpoint, kept)
        said = all_roots(node.endpoint)
    assert said == stored_roots(disk.outside / "store", map(page_of_coin, kept))
