"""The thread that keeps the trees: when it works, how far it is behind, and when it fails.

What must hold: roots follow every commit as soon as they can; a turn hashes no more pages than it
may, and the thread rests as long as its share of a core says; leaves are saved for the next start
only if they are those of the coins. tests/native/test_hasher.c has the trees themselves.
"""

import contextlib
import logging
import threading
from pathlib import Path

import pytest

from raida_uring.ffi.native_trees import Hasher, Shown, Turn
from raida_uring.store import STORE_PAGES, Store, trees
from raida_uring.store.trees import Integrity
from tests.support.coin_requests import an_of, leaf_of
from tests.support.node import eventually
from tests.support.store import MAP_BYTES, coin_bytes, make_store

COIN = (0, 5)


class Faults:
    """Has turns of every hasher fail: `fault` is raised in their place."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fault: Exception | None = None
        self.asked = 0
        turn = Hasher.turn

        def fails(hasher: Hasher, pages_max: int, found_ns: int, shown: Shown | None) -> Turn:
            self.asked += 1
            if self.fault is not None:
                raise self.fault
            return turn(hasher, pages_max, found_ns, shown)

        patch.setattr(Hasher, "turn", fails)


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
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    trees, shown, faults = Integrity(store), Shown(), Faults(monkeypatch)
    trees.load()
    trees.start(lambda: shown)
    before = trees.trees()
    faults.fault = MemoryError("a test's fault")
    with caplog.at_level(logging.ERROR):
        give(store, an_of("new"))
        faults.asked = 0
        eventually(lambda: faults.asked >= 3)
    assert trees.lag_s > 0
    assert before is not None
    assert before.version == 1
    assert trees.trees() is before  # not copied again
    assert shown.copy() == (1, before.nodes)
    faults.fault = None
    eventually(lambda: trees.lag_s == 0)
    after = trees.trees()
    assert after is not None
    assert after.version == 2
    assert shown.copy() == (2, after.nodes)
    assert after.nodes == trees.newest.nodes
    assert after.node(8, 0, 0) == leaf_in(store)
    assert trees.published == 2
    trees.stop()
    store.close()


def test_places_in_trees(tmp_path: Path) -> None:
    with contextlib.closing(Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)) as store:
        integrity = Integrity(store)
        integrity.load()
        assert integrity.trees() is None  # it shows none
        shown = integrity.newest
        widths = (1000, 500, 250, 125, 63, 32, 16, 8, 4, 2, 1)
        places = [(level, at) for level, width in enumerate(widths) for at in range(width)]
        for index, nodes in enumerate(shown.nodes):
            assert b"".join(shown.node(index, *place) or b"" for place in places) == nodes
        assert shown.roots == b"".join(shown.node(index, 10, 0) or b"" for index in range(15))
        for level, width in enumerate(widths):
            assert shown.node(0, level, width) is None
            assert shown.node(0, level, -1) is None
        for place in ((15, 0, 0), (-1, 0, 0), (0, 11, 0), (0, -1, 0)):
            assert shown.node(*place) is None


def test_many_changed_pages_take_several_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn as many pages as it may, none of them twice."""
    turns: list[Turn] = []
    take = Hasher.turn

    def noted(hasher: Hasher, pages_max: int, found_ns: int, shown: Shown | None) -> Turn:
        turns.append(take(hasher, pages_max, found_ns, shown))
        return turns[-1]

    with contextlib.closing(Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)) as store:
        integrity, shown = Integrity(store), Shown()
        integrity.load()
        monkeypatch.setattr(Hasher, "turn", noted)
        monkeypatch.setattr(trees, "TURN_PAGES", 100)
        monkeypatch.setattr(trees, "ROUND_S", 1.0)
        with store.write() as coins:
            of = [coin_bytes((0, 1024 * page)) + an_of(page) for page in range(1000)]
            coins.set(b"".join(of), len(of), 21, 7)
        integrity.start(lambda: shown)
        eventually(lambda: integrity.lag_s == 0 and shown.version > 1)
        integrity.stop()
        full = [turn for turn in turns if turn.hashed]
        assert [turn.hashed for turn in full] == [100] * 10
        assert [turn.left for turn in full] == [*range(900, -1, -100)]
        assert len({turn.since_ns for turn in full[:-1]}) == 1  # the same change, all the time
        assert shown.version == 1 + len(full)
        assert integrity.lag_max_s > 0
        assert integrity.circulating[8] == 1000


@pytest.mark.parametrize(
    ("hashed", "left", "used_s", "span_s"),
    [
        (0, 0, 0.00002, 0.0004),  # nothing has changed: the next change is waited for
        (1, 0, 0.00005, 1.0),
        (1024, 0, 0.010, 1.0),
        (1024, 5000, 0.010, 0.4096),  # all pages in 6 s
        (1024, 5000, 0.040, 0.8),  # a slow processor: no more of it than the share
        (100, 0, 0.100, 2.0),
        (10, 20, 0.0001, 0.004),
    ],
)
def test_turns_begin_in_spans_that_bound_their_cost(
    hashed: int, left: int, used_s: float, span_s: float
) -> None:
    turn = Turn(reached=1, since_ns=0, shown_since_ns=1, hashed=hashed, left=left, circulating=())
    assert trees._span_s(turn, used_s) == pytest.approx(span_s)


def test_a_commit_that_no_thread_of_python_makes_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the native writing lane commits. Nobody would look for it by itself for minutes."""
    monkeypatch.setattr(trees, "LOOK_S", 600.0)
    with contextlib.closing(Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)) as store:
        integrity = Integrity(store)
        integrity.load()
        integrity.start(Shown)
        view = store.native.view(writing=True)
        for an in (an_of("first"), an_of("second")):
            view.begin()
            view.set(coin_bytes(COIN) + an, 1, 21, 5, 7)
            view.commit()
            eventually(lambda: integrity.newest.node(8, 0, 0) == leaf_in(store))
        view.close()
        integrity.stop()


def test_leaves_that_are_not_those_of_the_coins_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    trees, faults = Integrity(store), Faults(monkeypatch)
    trees.load()
    store.leaves = trees.saved
    store.checkpoint(pause_s=0)
    trees.start(Shown)
    faults.fault = ValueError("a test's fault")
    give(store, an_of("new"))
    faults.asked = 0
    eventually(lambda: faults.asked > 1)
    trees.stop()
    store.checkpoint(pause_s=0)
    faults.fault = None
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
                integrity.start(None)
        finally:
            threading.stack_size(before)
        integrity.stop()
