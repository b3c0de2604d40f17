"""Power cuts as far as a process can meet them: SIGKILL at random moments, failing disks.

What must hold: a change that was acknowledged is there after every restart; of one that was not,
the coins of its request have all moved or none, and are seen so at every moment; what any read has
seen is there after the restart; the roots are those of the pages.
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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from raida_uring.protocol import Status
from raida_uring.store import Store
from raida_uring.store.verify import stat, verify
from tests.support.coin_requests import (
    DETECT,
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
from tests.support.handlers import LOSE_SYNC
from tests.support.needs import require
from tests.support.net import PATIENCE, VOLUME, Endpoint, family_of, read_exactly, tcp_connect
from tests.support.node import (
    HANDLERS,
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    daemon,
    started_daemon,
)
from tests.support.store import Coin, make_store, tables_over
from tests.support.wire import request

KILLS = int(os.environ.get("KILLS", round(10 * VOLUME)))
OWNERS = 6
# Long enough for hundreds of commits, short enough for many kills.
SERVING_S_MAX = 0.4 * PATIENCE
STARTING_S_MAX = 1.0
SERVICE_STOP_S = 30.0 * PATIENCE  # TimeoutStopSec of systemd/raida-uring.service
ENTRY_BLOCK = 4096  # of the journal
LOST_TIMEOUT_S = 1.0  # a datagram that died with the daemon is never answered


@dataclass
class Owner:
    """A client that gives its coins new ANs, all in one request, and keeps count."""

    name: int
    transport: str
    coins: list[Coin]
    acknowledged: int = 0  # steps that the node has said were done
    asked: int = 0  # steps that it was asked for
    seen: int = 0  # steps that a reader has seen
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
                answered = exchange(endpoint, request(POWN, payload), self.transport)
                if answered != Status.ALL_PASS:
                    self.faults.append(f"owner {self.name} step {self.asked}: {answered}")
                    return
                self.acknowledged = self.asked
        except (OSError, AssertionError):
            return  # no answer, or half of one

    def look(self, endpoint: Endpoint) -> None:
        """Ask whether the coins have the newest ANs that they may have by now. Raises OSError when
        there is no answer."""
        known = max(self.acknowledged, self.seen)
        step = self.asked
        answered = exchange(endpoint, request(DETECT, coins_ans(self.ans(step))), "udp")
        if answered == Status.ALL_PASS:
            self.seen = max(self.seen, step)
        elif answered != Status.ALL_FAIL or known == step == self.asked:
            self.faults.append(f"owner {self.name} looks at step {step}: {answered}")

    def settle(self, found: dict[Coin, bytes | None]) -> None:
        """Find out which step the coins are at: the last acknowledged, or the one in flight."""
        for step in {self.acknowledged, self.asked}:
            if all(found[coin] == an for coin, an in self.ans(step).items()):
                assert step >= self.seen, (
                    f"owner {self.name}: step {self.seen} was seen, not {step}"
                )
                self.acknowledged = self.asked = step
                return
        raise AssertionError(
            f"owner {self.name}: neither step {self.acknowledged} nor {self.asked}"
        )


def exchange(endpoint: Endpoint, data: bytes, transport: str) -> int:
    """The status of the reply. Raises OSError or AssertionError when there is none."""
    if transport == "tcp":
        with tcp_connect(endpoint) as client:
            client.sendall(data)
            return read_exactly(client, 32)[2]
    with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as client:
        client.settimeout(LOST_TIMEOUT_S)
        client.connect(endpoint)
        client.send(data)
        return client.recv(2048)[2]


def watch(endpoint: Endpoint, clients: Sequence[Owner]) -> None:
    """Look at all coins again and again, until the node is gone."""
    with suppress(OSError):
        while True:
            for one in clients:
                one.look(endpoint)


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
    """Let all of them pown while readers watch, and kill the daemon meanwhile."""
    threads = [threading.Thread(target=one.pown, args=(node.endpoint,)) for one in clients]
    threads += [threading.Thread(target=watch, args=(node.endpoint, clients)) for _ in range(2)]
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


def test_a_stop_loses_nothing_and_is_over_in_time(tmp_path: Path) -> None:
    """Before the service manager loses its patience, also when every page has changed: pages that
    the last checkpoint had no time for are in the journal."""
    store = make_store(tmp_path / "store")
    coins = [(den, 1024 * page) for den in range(-8, 7) for page in range(1000)]
    with started_daemon(tmp_path, **tables_over(store, size_mib=1024)) as node:
        node.await_ready()
        for start in range(0, len(coins), 1500):
            part = coins[start : start + 1500]
            payload = pown_payload((coin, default_an(coin), an_of(coin)) for coin in part)
            assert ask(node.endpoint, POWN, payload)[0] == Status.ALL_PASS
        node.signal(signal.SIGTERM)
        assert node.process.wait(SERVICE_STOP_S) == 0
    with closing(Store(store, map_bytes=1 << 30, read_only=True)) as opened:
        print(f"{opened.sizes().journal_entries} batches left to the journal")
        assert all(opened.an(*coin) == an_of(coin) for coin in coins[::1000])


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


SEGMENT = re.compile(r'"[0-9a-f]{16}[^"]*", O_RDWR')  # of the journal, opened to be written


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
    """How often the writing thread made a batch durable, how often it woke the I/O thread to send
    its replies (which needs no waking while it is awake), and how many of those wakes came before
    the data was on the disk: an entry of the journal, then fdatasync."""
    segments: set[str] = set()
    eventfds: set[str] = set()
    for call in calls(trace):
        if call.name == "openat" and SEGMENT.search(call.arguments):
            segments.add(call.result)
    mine: list[Call] = []
    for call in calls(trace):
        descriptor, _, rest = call.arguments.partition(",")
        is_entry = call.name == "pwrite64" and descriptor in segments and not rest.endswith(" 0")
        if is_entry and not any(one.thread == call.thread for one in mine):
            mine += (one for one in calls(trace) if one.thread == call.thread)
    assert len({call.thread for call in mine}) == 1
    durable = replies = unsafe = 0
    state = "none"
    for call in mine:
        descriptor = call.arguments.split(",")[0]
        if call.name == "pwrite64" and descriptor in segments:
            state = "written"
        elif call.name == "fdatasync" and call.result == "0" and descriptor in segments:
            durable += state == "written"
            state = "safe"
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
def failing_daemon(directory: Path, store: Path, faults: str, **settings: Any) -> Iterator[Daemon]:
    """A node whose system calls fail as `faults`, an injection of strace, says. On leaving, it is
    asked to end."""
    if (refusal := strace_refusal()) is not None:
        pytest.skip(refusal)
    traced = ["-e", "trace=fdatasync,pwrite64,pwritev", "-e", f"inject={faults}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(directory, command=command, **tables_over(store, **settings)) as node:
        node.await_ready()
        yield node
        if node.process.poll() is None:
            stop_traced(node)


def pown_once(node: Daemon, one: Owner) -> int:
    """Ask for one step; the status."""
    one.asked = one.acknowledged + 1
    old, new = one.ans(one.acknowledged), one.ans(one.asked)
    payload = pown_payload((coin, old[coin], new[coin]) for coin in one.coins)
    answered, _ = ask(node.endpoint, POWN, payload)
    one.acknowledged += answered == Status.ALL_PASS
    return answered


def test_a_write_that_fails_is_reported(tmp_path: Path) -> None:
    """The change is not acknowledged, and later ones succeed."""
    store = make_store(tmp_path / "store")
    with daemon(tmp_path, **tables_over(store)):  # a first start writes to the base, too
        pass
    one = Owner(1, "udp", [(0, 1), (0, 2), (5, 9)])
    told = []
    with failing_daemon(tmp_path, store, "pwrite64:error=EIO:when=4..6") as node:
        for _ in range(12):
            told.append(pown_once(node, one))
            assert detects(node.endpoint, one.ans(one.acknowledged))
    assert told.count(Status.FILESYSTEM) == 3  # strace counts the calls of each thread for itself
    assert told.count(Status.ALL_PASS) == 9
    with daemon(tmp_path, **tables_over(store)) as node:
        assert detects(node.endpoint, one.ans(one.acknowledged))


def test_a_sync_that_fails_ends_the_node(tmp_path: Path) -> None:
    """Nothing is acknowledged after it, and what was before it is there after the restart: what was
    not may be there or not, but not a part of it."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (0, 2), (5, 9)])
    with failing_daemon(tmp_path, store, "fdatasync:error=EIO:when=4") as node:
        told = [pown_once(node, one) for _ in range(4)]
        assert told == [*[Status.ALL_PASS] * 3, Status.FILESYSTEM]
        assert node.process.wait(STOP_TIMEOUT_S) == 1
    assert "the store must be opened again, so the node ends" in node.stderr()
    assert "Traceback" not in node.stderr()
    one.settle(stored_ans(store, one.coins))
    with daemon(tmp_path, **tables_over(store)) as node:
        assert detects(node.endpoint, one.ans(one.acknowledged))
        assert pown_once(node, one) == Status.ALL_PASS


def cut(journal: Path, *, whole: bool) -> None:
    """What a power cut may leave after a flush that failed: zeros in place of the newest entry, or
    of everything."""
    (segment,) = [one for one in journal.glob("*.journal") if one.read_bytes()[:8] != bytes(8)]
    data = segment.read_bytes()
    blocks = range(0, len(data), ENTRY_BLOCK)
    used = [at for at in blocks if data[at : at + ENTRY_BLOCK] != bytes(ENTRY_BLOCK)]
    assert len(used) > 2
    with segment.open("r+b") as file:
        for at in used if whole else used[-1:]:
            file.seek(at)
            file.write(bytes(ENTRY_BLOCK))


@pytest.mark.parametrize("whole", [False, True])
def test_a_flush_that_fails_takes_no_acknowledged_change(tmp_path: Path, whole: bool) -> None:
    """Although no commit waits for the disk: memory has all of them, and they go to the base."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (0, 2), (5, 9)])
    # strace counts the calls of each thread for itself: only the one that flushes makes so many.
    faults = "fdatasync:error=EIO:when=20"
    interval = {"durability": "interval", "sync_interval_ms": 100}
    told: list[int] = []
    with failing_daemon(tmp_path, store, faults, **interval) as node:
        with suppress(OSError, AssertionError):  # the node is gone before it answers
            while Status.FILESYSTEM not in told:
                told.append(pown_once(node, one))
        assert node.process.wait(STOP_TIMEOUT_S) == 1
        assert set(told[:-1]) == {Status.ALL_PASS}
        assert "every acknowledged change is in data.mdb: 2 pages were written" in node.stderr()
        assert "Traceback" not in node.stderr()
    cut(store / "journal", whole=whole)
    kept = one.ans(one.acknowledged)
    assert stored_ans(store, one.coins) == kept
    assert verify(store) == []
    assert stat(store).journal_entries == 0
    for _ in range(2):
        with daemon(tmp_path, **tables_over(store)) as node:
            assert detects(node.endpoint, one.ans(one.acknowledged))
            assert pown_once(node, one) == Status.ALL_PASS
    assert stored_ans(store, one.coins) == one.ans(one.acknowledged)
    assert verify(store) == []


def test_a_disk_that_fails_altogether_leaves_it_to_the_next_start(tmp_path: Path) -> None:
    """The base cannot be flushed either, and remains as it was."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (5, 9)])
    settings = tables_over(store, durability="interval", sync_interval_ms=200)
    with started_daemon(tmp_path, handlers=HANDLERS, **settings) as node:
        node.await_ready()
        assert pown_once(node, one) == Status.ALL_PASS
        assert ask(node.endpoint, LOSE_SYNC, b"")[0] == Status.SUCCESS
        assert node.process.wait(STOP_TIMEOUT_S) == 1
        assert "the last acknowledged changes may be lost: " in node.stderr()
        assert "Traceback" not in node.stderr()
    assert stored_ans(store, one.coins) == one.ans(one.acknowledged)
    assert verify(store) == []
    with daemon(tmp_path, **tables_over(store)) as node:
        assert pown_once(node, one) == Status.ALL_PASS


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO:when=1", "fsync:error=EIO:when=1+"])
def test_a_start_on_a_disk_that_fails_is_worth_another(tmp_path: Path, fault: str) -> None:
    """Status 2 keeps a service manager from starting the node again: no setting is wrong here."""
    if (refusal := strace_refusal()) is not None:
        pytest.skip(refusal)
    store = make_store(tmp_path / "store")
    traced = ["-e", "trace=fdatasync,fsync", "-e", f"inject={fault}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(tmp_path, command=command, **tables_over(store)) as node:
        assert node.process.wait(STOP_TIMEOUT_S) == 1, node.stderr()
    assert "Input/output error" in node.stderr()
    with daemon(tmp_path, **tables_over(store)) as node:
        assert pown_once(node, Owner(1, "udp", [(0, 1)])) == Status.ALL_PASS


def test_a_store_that_only_opening_again_can_help_ends_the_node(tmp_path: Path) -> None:
    """After a flush that failed nobody knows what the disk has of the journal: an exit that the
    service manager answers with a restart is better than 194 for ever."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "udp", [(0, 1), (5, 9)])
    with started_daemon(tmp_path, handlers=HANDLERS, **tables_over(store)) as node:
        node.await_ready()
        assert ask(node.endpoint, LOSE_SYNC, b"")[0] == Status.SUCCESS
        assert pown_once(node, one) == Status.FILESYSTEM
        assert node.process.wait(STOP_TIMEOUT_S) == 1
    assert "the store must be opened again, so the node ends" in node.stderr()
    assert "Traceback" not in node.stderr()
    one.settle(stored_ans(store, one.coins))
    with daemon(tmp_path, **tables_over(store)) as node:
        assert detects(node.endpoint, one.ans(one.acknowledged))
