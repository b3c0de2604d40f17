"""A node on a disk that fails: what it answers, whether it goes on, and what a restart finds.

What must hold: as in test_crash.py; a failed write fails its own batch alone, and after a failed
flush nothing is acknowledged until the next start.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from tests.support.coin_requests import ask, detects, stored_ans
from tests.support.handlers import LOSE_SYNC
from tests.support.node import (
    HANDLERS,
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    daemon,
    started_daemon,
)
from tests.support.owners import Owner
from tests.support.store import make_store, tables_over
from tests.support.strace import require_strace, stop_traced


@contextmanager
def failing_daemon(directory: Path, store: Path, faults: str) -> Iterator[Daemon]:
    """A node whose system calls fail as `faults`, an injection of strace, says. On leaving, it is
    asked to end."""
    require_strace()
    traced = ["-e", "trace=fdatasync,pwrite64,pwritev", "-e", f"inject={faults}"]
    command = ["strace", "-f", "-o", "/dev/null", *traced, *SERVE]
    with started_daemon(directory, command=command, **tables_over(store)) as node:
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
