"""A node on a disk that fails: what it answers, whether it goes on, and what a restart finds.

What must hold: as in test_crash.py; a failed write fails its own batch alone, and after a failed
flush nothing is acknowledged until the next start.
"""

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from raida_uring.protocol import Status
from raida_uring.store.verify import stat, verify
from tests.support.coin_requests import ask, detects, stored_ans
from tests.support.handlers import LOSE_SYNC
from tests.support.needs import require
from tests.support.net import PATIENCE
from tests.support.node import (
    HANDLERS,
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    daemon,
    eventually,
    started_daemon,
)
from tests.support.owners import Owner, check_store, owners
from tests.support.store import make_store, tables_over
from tests.support.strace import require_strace, stop_traced

ENTRY_BLOCK = 4096  # of the journal


@contextmanager
def failing_daemon(directory: Path, store: Path, faults: str, **settings: Any) -> Iterator[Daemon]:
    """A node whose system calls fail as `faults`, an injection of strace, says. On leaving, it is
    asked to end."""
    require_strace()
    traced = ["-e", "trace=fdatasync,pwrite64,pwritev", "-e", f"inject={faults}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(directory, command=command, **tables_over(store, **settings)) as node:
        node.await_ready()
        yield node
        if node.process.poll() is None:
            stop_traced(node)


def pown_once(node: Daemon, one: Owner) -> int:
    """Ask for one step; the status."""
    return one.step(node.endpoint, threading.Event())


def test_a_write_that_fails_is_reported(tmp_path: Path) -> None:
    """The change is not acknowledged, and later ones succeed."""
    store = make_store(tmp_path / "store")
    with daemon(tmp_path, **tables_over(store)):  # a first start writes to the base, too
        pass
    one = Owner(1, "tcp", [(0, 1), (0, 2), (5, 9)])
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
    one = Owner(1, "tcp", [(0, 1), (0, 2), (5, 9)])
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


def used_blocks(segment: Path) -> list[int]:
    """Where blocks of a journal's file begin that are not empty."""
    content, empty = segment.read_bytes(), bytes(ENTRY_BLOCK)
    blocks = range(0, len(content), ENTRY_BLOCK)
    return [at for at in blocks if content[at : at + ENTRY_BLOCK] != empty]


def cut(journal: Path, *, whole: bool) -> None:
    """What a power cut may leave after a flush that failed: zeros in place of the newest entry, or
    of everything."""
    used = [
        (segment, at)
        for segment in sorted(journal.glob("*.journal"))
        for at in used_blocks(segment)
    ]
    assert len(used) > 2
    for segment, at in used if whole else used[-1:]:
        with segment.open("r+b") as file:
            file.seek(at)
            file.write(bytes(ENTRY_BLOCK))


@pytest.mark.parametrize("whole", [False, True])
def test_a_flush_that_fails_takes_no_acknowledged_change(tmp_path: Path, whole: bool) -> None:
    """Although no commit waits for the disk: memory has all of them, and they go to the base."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "tcp", [(0, 1), (0, 2), (5, 9)])
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
    one = Owner(1, "tcp", [(0, 1), (5, 9)])
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
    require_strace()
    store = make_store(tmp_path / "store")
    traced = ["-e", "trace=fdatasync,fsync", "-e", f"inject={fault}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(tmp_path, command=command, **tables_over(store)) as node:
        assert node.process.wait(STOP_TIMEOUT_S) == 1, node.stderr()
    assert "Input/output error" in node.stderr()
    with daemon(tmp_path, **tables_over(store)) as node:
        assert pown_once(node, Owner(1, "tcp", [(0, 1)])) == Status.ALL_PASS


def test_a_store_that_only_opening_again_can_help_ends_the_node(tmp_path: Path) -> None:
    """After a flush that failed nobody knows what the disk has of the journal: an exit that the
    service manager answers with a restart is better than 194 for ever."""
    store = make_store(tmp_path / "store")
    one = Owner(1, "tcp", [(0, 1), (5, 9)])
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


# -- every call, one after the other --------------------------------------------------------------

CALLS = ("pwrite64", "pwritev", "writev", "fdatasync", "fsync")
WRITING_STEPS = 4  # of each of three clients, by two threads that write
CHECKPOINTS_S = 2.5 * PATIENCE  # two of them, one a second


def threads_of(process: int, *, writing: bool) -> list[int]:
    """The threads that write the journal, or all others."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text()
            if name.startswith("raida-work") == writing and not name.startswith("iou-"):
                found.append(int(task.name))
    return found


@contextmanager
def failing_calls(threads: Iterable[int], fault: str, directory: Path) -> Iterator[Path]:
    """Threads whose calls fail as `fault` says, each counted for itself; yields the file that says
    "INJECTED" where one has."""
    trace, said = directory / "trace", directory / "strace"
    attach = [part for thread in threads for part in ("-p", str(thread))]
    command = [require("strace"), "-o", str(trace), *attach, "-e", f"inject={fault}"]
    with said.open("wb") as errors, subprocess.Popen(command, stderr=errors) as tracer:
        try:
            eventually(
                lambda: (
                    tracer.poll() is not None
                    or said.read_text().count(" attached") == len(attach) // 2
                ),
                what=said.read_text,
            )
            if tracer.poll() is not None:
                pytest.skip(f"strace -p: {said.read_text().strip()}")
            yield trace
        finally:
            tracer.send_signal(signal.SIGTERM)


def pown_meanwhile(node: Daemon, clients: Iterable[Owner], end_s: float) -> Counter[int]:
    """Let each client ask for WRITING_STEPS, and on until `end_s`, or until the node has ended: how
    often each status was answered."""
    told: Counter[int] = Counter()
    with suppress(OSError, AssertionError):  # the node has ended
        for turn in itertools.count():
            if turn >= WRITING_STEPS and time.monotonic() > end_s:
                break
            for one in clients:
                told[pown_once(node, one)] += 1
    return told


def life_with(directory: Path, store: Path, clients: list[Owner], fault: str, why: str) -> str:
    """A node whose calls fail, killed at the end. Returns what became of it, or "" if no call
    did."""
    writing = why == "journal"
    settings = tables_over(store, checkpoint_interval_s=1)
    with started_daemon(directory, **settings) as node:
        node.await_ready()
        for one in clients:
            assert detects(node.endpoint, one.ans(one.acknowledged)), one.name
        threads = threads_of(node.process.pid, writing=writing)
        with failing_calls(threads, fault, directory) as trace:
            end_s = time.monotonic() + (0 if writing else CHECKPOINTS_S)
            told = pown_meanwhile(node, clients, end_s)
            failed = "INJECTED" in trace.read_text()
        if told[Status.FILESYSTEM] and (why == "checkpoint" or "sync" in fault):
            assert node.process.wait(STOP_TIMEOUT_S) == 1  # only a start can help
        elif told[Status.FILESYSTEM]:
            assert told[Status.FILESYSTEM] <= 2  # one of each thread
            assert {pown_once(node, one) for one in clients} == {Status.ALL_PASS}
        ended = node.process.poll()
        assert ended in (None, 1), node.stderr()
        assert "Traceback" not in node.stderr(), node.stderr()
        node.kill()
    check_store(store, clients)
    return "" if not failed else "went on" if ended is None else "ended"


@pytest.mark.hang_timeout_s(1800)
@pytest.mark.any_backend
@pytest.mark.parametrize("why", ["journal", "checkpoint"])
def test_what_was_acknowledged_survives_each_failed_call(tmp_path: Path, why: str) -> None:
    """With KILLS in the environment each call that there is, otherwise one of them."""
    require_strace()
    every = "KILLS" in os.environ
    draw = random.Random(os.environ.get("SEED", "4"))
    store, clients = make_store(tmp_path / "store"), owners()[:3]
    outcomes: Counter[str] = Counter()
    for call in CALLS if every else (draw.choice(("pwrite64", "fdatasync")),):
        for number in itertools.count(1 if every else draw.randint(1, 2)):
            fault = f"{call}:error={draw.choice(('EIO', 'ENOSPC'))}:when={number}"
            outcome = life_with(tmp_path, store, clients, fault, why)
            if not outcome:
                break
            outcomes[f"{call}: {outcome}"] += 1
            if not every:
                break
    print(f"{why}: {dict(outcomes)}")
    assert outcomes
    with daemon(tmp_path, **tables_over(store)) as node:
        assert {pown_once(node, one) for one in clients} == {Status.ALL_PASS}
