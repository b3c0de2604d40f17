"""The thread that keeps the trees, when the store or the data plane fails.

What must hold: roots follow every commit as soon as they can; leaves are saved for the next start
only if they are those of the coins.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from raida_uring.ffi.native_store import DENOMINATIONS
from raida_uring.store import STORE_PAGES, Store, trees
from raida_uring.store.trees import HASH_BYTES, Integrity
from tests.support.coin_requests import an_of, leaf_of
from tests.support.node import eventually
from tests.support.store import MAP_BYTES, coin_bytes, make_store

COIN = (0, 5)


class Voters:
    """The data plane as the trees see it. `fault`: raised in place of a vote."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []
        self.nodes: dict[int, bytes] = {}
        self.asked = 0
        self.fault: Exception | None = None

    def publish(self, changed: Mapping[int, bytes]) -> None:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        self.nodes.update(changed)
        self.shown.append(b"".join(self.nodes[tree][-HASH_BYTES:] for tree in range(DENOMINATIONS)))

    def version(self) -> int:
        return len(self.shown)


def give(store: Store, an: bytes) -> None:
    with store.write() as coins:
        coins.set(coin_bytes(COIN) + an, 1, 21, 7)


def leaf_in(store: Store) -> bytes:
    """Of the coin's page, by another computation."""
    with store.read() as coins:
        return leaf_of(coins.page(8000))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "RETRY_S", 0.01)


def test_an_unexpected_fault_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    trees, voters = Integrity(store), Voters()
    trees.load()
    trees.start(voters.publish, voters.version)
    voters.fault = MemoryError("a test's fault")
    with caplog.at_level(logging.ERROR):
        give(store, an_of("new"))
        eventually(lambda: voters.asked >= 3)
    assert trees.lag_s > 0
    shown = trees.trees()  # those that voters know, whatever came in between
    assert shown is not None
    assert shown.roots == voters.shown[-1]
    voters.fault = None
    eventually(lambda: trees.lag_s == 0)
    shown = trees.trees()
    assert shown is not None
    assert shown.roots == voters.shown[-1]
    assert shown.node(8, 0, 0) == leaf_in(store)
    trees.stop()
    store.close()


def test_a_commit_that_no_thread_of_python_makes_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the native writing lane commits. Nobody would look for it by itself for minutes."""
    monkeypatch.setattr(trees, "LOOK_S", 600.0)
    with contextlib.closing(Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)) as store:
        integrity, voters = Integrity(store), Voters()
        integrity.load()
        integrity.start(voters.publish, voters.version)
        view = store.native.view(writing=True)
        for an in (an_of("first"), an_of("second")):
            view.begin()
            view.set(coin_bytes(COIN) + an, 1, 21, 5, 7)
            view.commit()
            eventually(lambda: integrity.newest.node(8, 0, 0) == leaf_in(store))
        view.close()
        integrity.stop()


def test_leaves_that_are_not_those_of_the_coins_are_not_saved(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    trees, voters = Integrity(store), Voters()
    trees.load()
    store.leaves = trees.saved
    store.checkpoint(pause_s=0)
    trees.start(voters.publish, voters.version)
    voters.fault = ValueError("a test's fault")
    give(store, an_of("new"))
    eventually(lambda: voters.asked > 1)
    trees.stop()
    store.checkpoint(pause_s=0)
    again = Integrity(store)
    again.load()
    assert again.newest.node(8, 0, 0) == leaf_in(store)
    store.close()


def test_saved_leaves_older_than_the_coins_are_hashed_again(tmp_path: Path) -> None:
    """For example when another process has changed coins since."""
    path = make_store(tmp_path / "store")
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store:
        trees = Integrity(store)
        assert trees.load() == STORE_PAGES
        store.leaves = trees.saved
        store.checkpoint(pause_s=0)
        assert Integrity(store).load() == 0
        give(store, an_of("first"))
        store.checkpoint(pause_s=0)
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store:
        give(store, an_of("second"))
        again = Integrity(store)
        assert again.load() == 1
        assert again.newest.node(8, 0, 0) == leaf_in(store)


def test_trees_whose_thread_cannot_be_had_are_stopped(tmp_path: Path) -> None:
    """Otherwise a start that fails so would leave its store and its sockets open."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    with contextlib.closing(store):
        integrity = Integrity(store)
        integrity.load()
        before = threading.stack_size(1 << 47)
        try:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                integrity.start(None, int)
        finally:
            threading.stack_size(before)
        integrity.stop()
