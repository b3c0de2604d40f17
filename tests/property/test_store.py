"""The store against a dictionary, and a live tree against one built from scratch.

What must hold: after any sequence of changes, some of them taken back, a view shows what a
dictionary would; once an update ends without a commit, nothing of it is left; and a tree of which
some leaves were replaced is the tree over those leaves.
Source: wire specification, sections 6.2, 8.3 and 8.4.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raida_uring.errors import StoreError
from raida_uring.ffi.native_store import DEN_PAGES, DENOMINATIONS, STORE_PAGES
from raida_uring.ffi.native_trees import Hasher, Shown, Turn
from raida_uring.store import AN_BYTES, DIFFERS, EQUAL, UNREADABLE, Coins, Store
from raida_uring.store.trees import Integrity
from tests.support.coin_requests import (
    EMPTY_LEAF,
    default_an,
    leaf_of,
    page_of_coin,
    pown_payload,
    roots_of,
    sum_payload,
)
from tests.support.model import levels_of
from tests.support.store import SEED, Coin, coin_bytes, put_files

MAP_BYTES = 16 << 20
SHORT_PAGE = (-1, 7)

# Several coins of a page, pages at both ends, one that cannot be read, and no coins at all.
COINS: list[Coin] = [
    *((0, serial) for serial in (0, 1, 2, 1023, 1024)),
    (-8, 1_023_999),
    (-8, 1_023_998),
    (6, 500_000),
    (SHORT_PAGE[0], SHORT_PAGE[1] * 1024 + 5),
    (7, 0),
    (-9, 0),
    (0, 1_024_000),
    (0, 1 << 26),
]
READABLE = [c for c in COINS if -8 <= c[0] <= 6 and c[1] < 1_024_000 and c[0] != SHORT_PAGE[0]]
ANS = [bytes((n,)) * AN_BYTES for n in range(4)]

Record = tuple[bytes, int]  # AN, month


@dataclass
class Model:
    """What Coins promises, with dictionaries. `staged` belongs to a request, `kept` to a batch."""

    committed: dict[Coin, Record] = field(default_factory=dict)
    kept: dict[Coin, Record] = field(default_factory=dict)
    staged: dict[Coin, Record] = field(default_factory=dict)

    def record(self, coin: Coin) -> Record | None:
        if coin not in READABLE:
            return None
        default = (default_an(coin), 0)
        layers = (self.staged, self.kept, self.committed)
        return next((layer[coin] for layer in layers if coin in layer), default)

    def match(self, coin: Coin, an: bytes) -> int:
        record = self.record(coin)
        return UNREADABLE if record is None else EQUAL if record[0] == an else DIFFERS


coin = st.sampled_from(COINS)
# An AN by name: the stored one, the default one, or one of a few, so that matches are frequent.
an = st.one_of(st.just("own"), st.just("default"), st.sampled_from(ANS))
months = st.integers(1, 255)
step = st.one_of(
    st.tuples(st.just("pown"), st.lists(st.tuples(coin, an, an), min_size=1, max_size=6), months),
    st.tuples(st.just("sum"), st.lists(coin, min_size=1, max_size=4, unique=True), months),
    st.tuples(st.just("match"), st.lists(st.tuples(coin, an), min_size=1, max_size=6)),
    st.tuples(st.sampled_from(["keep", "undo", "commit", "abort", "fail"])),
)


@contextmanager
def opened_store() -> Iterator[Store]:
    """A fresh store with one page that cannot be read."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        Store.create(path, seed=SEED, map_bytes=MAP_BYTES)
        put_files(path, {page_of_coin((SHORT_PAGE[0], SHORT_PAGE[1] * 1024)): b"short"})
        store = Store(path, map_bytes=MAP_BYTES, durability="interval")
        try:
            yield store
        finally:
            store.close()


@contextmanager
def nothing_can_be_written() -> Iterator[None]:
    """This process may write no byte into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Pair:
    """The store and its model, moved together."""

    def __init__(self, store: Store) -> None:
        self.model = Model()
        self.coins = store.coins(writing=True)
        self.coins.begin()

    def an(self, of: Coin, name: bytes | str) -> bytes:
        if isinstance(name, bytes):
            return name
        record = self.model.record(of)
        return default_an(of) if name == "default" or record is None else record[0]

    def pown(self, changes: list[tuple[Coin, bytes | str, bytes | str]], month: int) -> None:
        named = [(of, self.an(of, old), self.an(of, new)) for of, old, new in changes]
        expected = []
        for of, old, new in named:
            expected.append(self.model.match(of, old))
            if expected[-1] == EQUAL:
                self.model.staged[of] = (new, month)
        payload = pown_payload(named)
        states = self.coins.exchange(payload, len(named), 37, 5, 21, month)
        assert list(states) == expected

    def sum(self, of: list[Coin], month: int) -> None:
        """What pown_sum does with coins whose sum was right."""
        _, states = self.coins.gather(sum_payload(of), len(of))
        readable = [one for one in of if self.model.record(one) is not None]
        assert [one for one, state in zip(of, states, strict=True) if state == EQUAL] == readable
        if len(readable) == len(of):
            changed = b"".join(coin_bytes(one) + ANS[2] for one in of)
            assert set(self.coins.set(changed, len(of), 21, month)) == {EQUAL}
            self.model.staged.update(dict.fromkeys(of, (ANS[2], month)))

    def match(self, asked: list[tuple[Coin, bytes | str]]) -> None:
        named = [(of, self.an(of, name)) for of, name in asked]
        payload = b"".join(coin_bytes(of) + an for of, an in named)
        states = self.coins.match(payload, len(named), 21)
        assert list(states) == [self.model.match(of, an) for of, an in named]

    def keep(self) -> None:
        self.coins.keep()
        self.model.kept |= self.model.staged
        self.model.staged.clear()

    def undo(self) -> None:
        self.coins.undo()
        self.model.staged.clear()

    def commit(self) -> None:
        """As a worker does: a request is kept or undone before the batch is committed."""
        self.keep()
        self.coins.commit()
        self.model.committed |= self.model.kept
        self.abort()

    def abort(self) -> None:
        self.coins.end()
        self.model.kept.clear()
        self.model.staged.clear()
        self.coins.begin()

    def fail(self) -> None:
        """A commit that the store cannot do."""
        self.coins.keep()
        with nothing_can_be_written():
            if self.coins.changed:
                with pytest.raises(StoreError, match="File too large"):
                    self.coins.commit()
            else:
                self.coins.commit()
        self.abort()

    def check(self, coins: Coins) -> None:
        """Every coin, one by one and all together."""
        whole = b"".join(map(coin_bytes, COINS))
        records, states = coins.gather(whole, len(COINS))
        for index, of in enumerate(COINS):
            record = self.model.record(of)
            found = records[index * 17 : index * 17 + 17]
            assert (states[index] == EQUAL) == (record is not None)
            assert found == (bytes(17) if record is None else record[0] + bytes((record[1],)))
            assert coins.an(*of) == (None if record is None else record[0])


@settings(max_examples=60)
@given(st.lists(step, max_size=25))
def test_the_store_is_a_dictionary(steps: list[tuple[object, ...]]) -> None:
    with opened_store() as store:
        pair = Pair(store)
        try:
            for name, *arguments in steps:
                getattr(pair, str(name))(*arguments)
                pair.check(pair.coins)
        finally:
            pair.coins.close()
        pair.model.kept.clear()
        pair.model.staged.clear()
        with store.read() as coins:
            pair.check(coins)


@settings(max_examples=6)
@given(st.lists(st.lists(st.sampled_from(READABLE), min_size=1, max_size=4), max_size=6))
def test_live_trees_are_those_of_the_pages(commits: list[list[Coin]]) -> None:
    """While coins change, after that, and after a restart, which hashes nothing again."""
    with opened_store() as store:
        trees = Integrity(store)
        trees.load()
        store.leaves = trees.saved
        trees.start(None)
        for month, of in enumerate(commits, 1):
            with store.write() as coins:
                coins.set(b"".join(coin_bytes(one) + ANS[3] for one in of), len(of), 21, month)
        trees.stop()
        store.checkpoint(pause_s=0)
        expected = roots_of(leaves_of(store))
        assert trees.newest.roots == expected
        assert sum(trees.circulating) == len({one for of in commits for one in of})
        again = Integrity(store)
        assert again.load() == 0
        assert again.newest.roots == expected
        assert again.circulating == trees.circulating


def leaves_of(store: Store) -> dict[int, bytes]:
    """Leaves of all pages that may have been written."""
    real = [one for one in COINS if -8 <= one[0] <= 6 and one[1] < 1_024_000]
    with store.read() as coins:
        return {page: leaf_of(coins.page(page)) for page in map(page_of_coin, real)}


def test_leaves_that_are_behind_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails while the trees follow a change, and the node is stopped: the next start must
    not take the old leaves for those of the pages."""

    def fails(*_: object) -> Turn:
        raise StoreError("a test's store fails on purpose")

    with opened_store() as store:
        integrity = Integrity(store)
        integrity.load()
        store.leaves = integrity.saved
        store.checkpoint(pause_s=0)
        integrity.start(None)
        with monkeypatch.context() as patch:
            patch.setattr(Hasher, "turn", fails)
            patch.setattr("raida_uring.store.trees.RETRY_S", 0.0)
            with store.write() as coins:
                coins.set(coin_bytes(READABLE[0]) + ANS[3], 1, 21, 1)
            integrity.stop()
        store.checkpoint(pause_s=0)
        again = Integrity(store)
        again.load()
        assert again.newest.roots == roots_of(leaves_of(store))
        assert sum(again.circulating) == 1


READER = """
import os, signal, sys
from pathlib import Path
from raida_uring.store import Store
store = Store(Path(sys.argv[1]), map_bytes=int(sys.argv[2]), read_only=True)
with store._base.txn():
    print("reading", flush=True)
    signal.pause()
"""


def test_a_reader_that_was_killed_does_not_fill_the_store() -> None:
    """Until it is noticed, the pages of the base that it was reading cannot be reused."""
    with opened_store() as store:
        place = [sys.executable, "-c", READER, str(store.path), str(MAP_BYTES)]
        with subprocess.Popen(place, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"reading\n"
            reader.kill()
        for month in range(200):  # would need 30 MB
            with store.write() as coins:
                of = b"".join(coin_bytes(one) + ANS[3] for one in READABLE)
                coins.set(of, len(READABLE), 21, month % 255 + 1)
            store.checkpoint(pause_s=0)
        assert store.sizes().used_bytes < MAP_BYTES // 4


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(0, DENOMINATIONS - 1),
            st.dictionaries(st.integers(0, DEN_PAGES - 1), st.binary(min_size=32, max_size=32)),
        ),
        max_size=6,
    )
)
def test_every_node_is_the_hash_of_those_below_it(
    updates: list[tuple[int, dict[int, bytes]]],
) -> None:
    """Whatever leaves are replaced, one after the other, in whichever tree."""
    zeros = bytes(8 * DEN_PAGES)  # no page was ever changed: no leaf is hashed anew
    with opened_store() as store:
        hasher, shown = Hasher(store.native), Shown()
        hasher.turn(STORE_PAGES, 1, None)
        whole = {tree: [EMPTY_LEAF] * DEN_PAGES for tree, _ in updates}
        hasher.publish(shown)
        for version, (tree, update) in enumerate(updates, 2):
            for at, leaf in update.items():
                whole[tree][at] = leaf
            hasher.load(tree, b"".join(whole[tree]), zeros[: 2 * DEN_PAGES], zeros)
            assert hasher.turn(STORE_PAGES, 1, shown).hashed == 0
            assert shown.version == version
        nodes = hasher.nodes()
        for tree, leaves in whole.items():
            assert nodes[tree] == b"".join(node for level in levels_of(leaves) for node in level)
        assert shown.copy() == (1 + len(updates), nodes)
