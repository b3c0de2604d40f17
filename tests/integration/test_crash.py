"""Power cuts as far as a process can meet them: SIGKILL, at random moments and at chosen ones.

What must hold: tests/support/owners.py says it, and its History checks it; and the roots are those
of the pages. KILLS in the environment says how often the daemon is killed; its seed is in the
test's output.
"""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import (
    POWN,
    all_roots,
    an_of,
    ask,
    default_an,
    detects,
    pown_payload,
)
from tests.support.net import PATIENCE, VOLUME
from tests.support.node import SERVE, Daemon, daemon, started_daemon
from tests.support.owners import Owner, check_store, load, owners
from tests.support.stopper import ELSEWHERE, NOT_REACHED, Point, Stopper
from tests.support.store import make_store, tables_over
from tests.support.strace import Call, calls, require_strace, stop_traced

# Long enough for hundreds of commits, short enough for many kills.
SERVING_S_MAX = 0.4 * PATIENCE
STARTING_S_MAX = 1.0
SERVICE_STOP_S = 30.0 * PATIENCE  # TimeoutStopSec of systemd/raida-uring.service
HOLD_S = (0.02, 0.1)  # readers look so long while a thread stands at a point

POINTS = {
    "executed, not written": Point("ru_journal_append"),
    "written, not flushed": Point("ru_journal_sync"),
    "flushed, not applied": Point("ru_memory_apply"),
    "inside apply": Point("ru_memory_apply", steps=1500),
    "applied, nobody told": Point("ru_writer_commit", returning=True),
    "among the replies": Point("ru_writer_commit", returning=True, steps=5000),
    "before a checkpoint's commit": Point("ru_txn_commit", patience_s=2 * PATIENCE),
    "after a checkpoint's commit": Point("ru_journal_release", patience_s=2 * PATIENCE),
}
# A quarter each, but every point once: at random moments and at points, with each durability.
KILLS = int(os.environ.get("KILLS", 0))
RANDOM_KILLS = (KILLS + 3) // 4 or max(1, round(3 * VOLUME))
POINT_KILLS = max((KILLS + 3) // 4, len(POINTS))

Kill = Callable[[Daemon], str]  # returns what it is counted as
Clients = Sequence[Owner]


def kill_while_serving(node: Daemon, clients: Clients, kill: Kill) -> str:
    """Let all of them pown while others look, and kill the daemon meanwhile."""
    gone = threading.Event()
    threads = load(node.endpoint, clients, gone)
    try:
        killed = kill(node)
        node.kill()
    finally:
        gone.set()
        for thread in threads:
            thread.join()
    return killed


def check_node(node: Daemon, clients: Clients, roots: bytes) -> None:
    """What the restarted node says."""
    assert all_roots(node.endpoint) == roots
    for one in clients:
        assert detects(node.endpoint, one.ans(one.acknowledged)), one.name


class Lives:
    """Lives of a node on one store, each ended by a kill. Prints what was done at the end."""

    def __init__(self, directory: Path, durability: str) -> None:
        self.seed = int(os.environ.get("SEED", "4"))
        self.draw = random.Random(f"{self.seed} {durability}")
        self.clients = owners()
        self.killed: Counter[str] = Counter()
        self._directory = directory
        self._durability = durability
        self._store = make_store(directory / "store")
        self._settings = tables_over(
            self._store, durability=durability, checkpoint_interval_s=1, sync_interval_ms=100
        )
        self._roots = check_store(self._store, self.clients)
        self._unacknowledged = self._reads = self._found = 0

    def killed_starting(self) -> None:
        """One life that is killed while it starts, or soon after."""
        with started_daemon(self._directory, **self._settings) as node:
            time.sleep(self.draw.uniform(0, STARTING_S_MAX))  # the random moment
            node.kill()
            assert "Traceback" not in node.stderr(), node.stderr()
        assert check_store(self._store, self.clients) == self._roots
        self.killed["starting"] += 1

    def killed_serving(self, kill: Kill) -> None:
        """One life that checks what the last one has left."""
        with started_daemon(self._directory, **self._settings) as node:
            node.await_ready()
            check_node(node, self.clients, self._roots)
            before = [one.acknowledged for one in self.clients]
            self.killed[kill_while_serving(node, self.clients, kill)] += 1
            assert "Traceback" not in node.stderr(), node.stderr()
        acknowledged = [one.acknowledged for one in self.clients]
        self._unacknowledged -= sum(acknowledged)
        self._reads += sum(len(one.history.reads) for one in self.clients)
        self._found += sum(
            read.found is not None and read.found > step
            for one, step in zip(self.clients, acknowledged, strict=True)
            for read in one.history.reads
        )
        self._roots = check_store(self._store, self.clients)
        self._unacknowledged += sum(one.acknowledged for one in self.clients)
        assert [one.acknowledged for one in self.clients] >= before

    def finish(self) -> None:
        """A last life, which is not killed."""
        with daemon(self._directory, **self._settings) as node:
            check_node(node, self.clients, self._roots)
        assert check_store(self._store, self.clients) == self._roots
        steps = [one.acknowledged for one in self.clients]
        print(
            f"{self._durability}, seed {self.seed}: {self.killed.total()} kills "
            f"{dict(self.killed)}, {sum(steps)} changes, {self._unacknowledged} found that were "
            f"not acknowledged; {self._reads} reads, {self._found} of them before it was"
        )
        assert min(steps) > 0


@pytest.mark.hang_timeout_s(120 + 10 * RANDOM_KILLS)
@pytest.mark.any_backend
@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_what_was_acknowledged_survives_kills(tmp_path: Path, durability: str) -> None:
    lives = Lives(tmp_path, durability)

    def at_random(_: Daemon) -> str:
        time.sleep(lives.draw.uniform(0, SERVING_S_MAX))  # the random moment
        return "serving"

    for _ in range(RANDOM_KILLS):
        if lives.draw.random() < 0.2:
            lives.killed_starting()
        else:
            lives.killed_serving(at_random)
    lives.finish()


@pytest.mark.hang_timeout_s(120 + 10 * POINT_KILLS)
@pytest.mark.any_backend
@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_what_a_reader_saw_survives_kills_at_points(tmp_path: Path, durability: str) -> None:
    """While a thread stands between two steps of a batch, the others answer reads and changes."""
    lives = Lives(tmp_path, durability)
    stopper = Stopper(tmp_path)
    stood: Counter[str] = Counter()
    for turn in range(POINT_KILLS):
        name = list(POINTS)[turn % len(POINTS)]

        def at_point(node: Daemon, name: str = name) -> str:
            time.sleep(lives.draw.uniform(0, SERVING_S_MAX))  # any batch
            point = POINTS[name]
            point = replace(point, steps=lives.draw.randint(min(1, point.steps), point.steps))
            where = stopper.kill(node.process.pid, point, lives.draw.uniform(*HOLD_S))
            stood[where] += 1
            return name if where != NOT_REACHED else NOT_REACHED

        lives.killed_serving(at_point)
    lives.finish()
    print(f"stood in {dict(stood)}")
    assert lives.killed[NOT_REACHED] <= POINT_KILLS // 4
    assert stood["ru_memory_apply"] > 0
    assert set(stood) - {ELSEWHERE, NOT_REACHED}


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


TRACED = (
    "openat,fdatasync,fsync,msync,pwrite64,pwritev,write,sendmsg,sendmmsg,sendto,io_uring_enter"
)
SEGMENT = re.compile(r'"[0-9a-f]{16}[^"]*", O_RDWR')  # of the journal, opened to be written


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
    require_strace()
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
