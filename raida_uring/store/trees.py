"""Merkle trees over the store: one per denomination, updated while coins change.

One thread updates the trees. It looks which pages have changed since its last look, rehashes them
and the paths above them, within a share of a core, and publishes all roots together: to the data
plane, which answers votes with them, and as a `Trees` that handlers read. A `Trees` never changes,
so a handler may keep it.
Source: wire specification, section 8.4.
"""

import hashlib
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import DEN_PAGES, DENOMINATIONS, PAGE_UNREADABLE, STORE_PAGES
from raida_uring.log import events
from raida_uring.store.store import Store
from raida_uring.threads import Vital

HASH_BYTES: Final = 32
COALESCE_S: Final = 0.010  # changes within this time are published together
CPU_SHARE: Final = 0.05  # of a core, for hashing and publishing
FOLLOW_S: Final = 0.050  # between looks for changes of another process
LOOK_S: Final = 1.0  # otherwise: of a batch that a killed process has left, nobody tells
PASSES_S: Final = 0.05  # CPU time for pages that change while others are hashed
RETRY_S: Final = 1.0  # after the store failed
PROGRESS_S: Final = 5.0

_NO_LEAF: Final = bytes(HASH_BYTES)  # leaf of an unreadable page
_EMPTY_LEAF: Final = hashlib.sha256(bytes(native_store.SELECTED_SIZE)).digest()


Tree = tuple[bytes, ...]  # levels, leaves first; each has its nodes one after the other


@dataclass(frozen=True, slots=True)
class Trees:
    """All trees at one moment. version: how often roots have been published, including these."""

    version: int
    levels: tuple[Tree, ...]
    circulating: tuple[int, ...]

    @property
    def roots(self) -> bytes:
        """The roots of denominations -8 to 6, 32 bytes each."""
        return b"".join(tree[-1] for tree in self.levels)

    def node(self, index: int, level: int, position: int) -> bytes | None:
        """Return a node of tree `index` (denomination + 8), 32 bytes; None if it does not exist."""
        if not 0 <= index < DENOMINATIONS or not 0 <= level < len(self.levels[index]):
            return None
        nodes = self.levels[index][level]
        if not 0 <= position < len(nodes) // HASH_BYTES:
            return None
        return nodes[position * HASH_BYTES : (position + 1) * HASH_BYTES]


def build(leaves: bytes) -> Tree:
    """Build the tree over `leaves`, 32 bytes each. A node without a sibling pairs with itself."""
    levels = [leaves]
    while len(levels[-1]) > HASH_BYTES:
        below = levels[-1]
        pairs = (below[at : at + 2 * HASH_BYTES] for at in range(0, len(below), 2 * HASH_BYTES))
        levels.append(b"".join(_parent(pair) for pair in pairs))
    return tuple(levels)


def update(tree: Tree, leaves: dict[int, bytes]) -> Tree:
    """Return the tree with some leaves replaced; hashes only their paths."""
    changed = leaves
    levels = []
    for number, nodes in enumerate(tree):
        level = bytearray(nodes)
        for position, node in changed.items():
            level[position * HASH_BYTES : (position + 1) * HASH_BYTES] = node
        levels.append(bytes(level))
        if number + 1 < len(tree):
            changed = {
                parent: _parent(level[parent * 2 * HASH_BYTES : (parent + 1) * 2 * HASH_BYTES])
                for parent in {position // 2 for position in changed}
            }
    return tuple(levels)


class Leaves:
    """The leaf of each page, with the number of coins in circulation and of the batch it is of.

    Thread: one at a time.
    """

    def __init__(self, store: native_store.Store) -> None:
        self._store = store
        self._selected = bytearray(native_store.SELECTED_SIZE)
        self.leaves = [bytearray(DEN_PAGES * HASH_BYTES) for _ in range(DENOMINATIONS)]
        self.counts = array("H", bytes(2 * STORE_PAGES))
        self.numbers = array("Q", bytes(8 * STORE_PAGES))

    def hash(self, page: int) -> bytes:
        """Hash a page as it is now; returns its leaf. Raises StoreError."""
        state, count, number = self._store.select(page, self._selected)
        if state == PAGE_UNREADABLE:
            leaf = _NO_LEAF
        elif count == 0:  # as on a page that was never written
            leaf = _EMPTY_LEAF
        else:
            leaf = hashlib.sha256(self._selected).digest()
        index, position = divmod(page, DEN_PAGES)
        self.leaves[index][position * HASH_BYTES : (position + 1) * HASH_BYTES] = leaf
        self.counts[page], self.numbers[page] = count, number
        return leaf

    def leaf(self, page: int) -> bytes:
        """The leaf as it was hashed last."""
        index, position = divmod(page, DEN_PAGES)
        return bytes(self.leaves[index][position * HASH_BYTES : (position + 1) * HASH_BYTES])

    def load(self, saved: Mapping[bytes, bytes]) -> list[int]:
        """Take saved leaves; returns the pages that have to be hashed, since none is saved of their
        present state."""
        todo: list[int] = []
        now = array("Q", bytes(8 * STORE_PAGES))
        for page, number in self._store.numbers():
            now[page] = number
        for index in range(DENOMINATIONS):
            pages = range(index * DEN_PAGES, (index + 1) * DEN_PAGES)
            parts = saved_leaves(saved.get(bytes((index,)), b""))
            if parts is None:
                todo += pages
                continue
            leaves, counts, numbers = parts
            self.leaves[index][:] = leaves
            self.counts[pages.start : pages.stop] = counts
            self.numbers[pages.start : pages.stop] = numbers
            todo += (page for page in pages if self.numbers[page] != now[page])
        return todo

    def save(self) -> dict[bytes, bytes]:
        """The entries that load() takes."""
        entries = {}
        for index in range(DENOMINATIONS):
            part = slice(index * DEN_PAGES, (index + 1) * DEN_PAGES)
            counts, numbers = self.counts[part], self.numbers[part]
            if sys.byteorder == "big":
                counts.byteswap()
                numbers.byteswap()
            packed = bytes(self.leaves[index]) + counts.tobytes() + numbers.tobytes()
            entries[bytes((index,))] = packed
        return entries

    @property
    def circulating(self) -> tuple[int, ...]:
        """Coins in circulation by denomination."""
        starts = range(0, STORE_PAGES, DEN_PAGES)
        return tuple(sum(self.counts[start : start + DEN_PAGES]) for start in starts)


def saved_leaves(saved: bytes) -> tuple[bytes, "array[int]", "array[int]"] | None:
    """Return a denomination's leaves, coins in circulation and numbers of batches, as Leaves.save()
    packed them, little-endian; None if `saved` does not have that form."""
    counts, numbers = array("H"), array("Q")
    if len(saved) != DEN_PAGES * (HASH_BYTES + counts.itemsize + numbers.itemsize):
        return None
    counts_at = DEN_PAGES * HASH_BYTES
    numbers_at = counts_at + DEN_PAGES * counts.itemsize
    counts.frombytes(saved[counts_at:numbers_at])
    numbers.frombytes(saved[numbers_at:])
    if sys.byteorder == "big":
        counts.byteswap()
        numbers.byteswap()
    return saved[:counts_at], counts, numbers


def _parent(pair: bytes | bytearray) -> bytes:
    if len(pair) == HASH_BYTES:
        pair = bytes(pair) * 2
    return hashlib.sha256(pair).digest()


class Integrity:
    """Builds and updates the trees. Thread: start() and stop() control, all others any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leaves = Leaves(store.native)
        self._recent: tuple[Trees, ...] = ()
        self._publish: Callable[[Mapping[int, bytes]], None] | None = None
        self._version: Callable[[], int] = lambda: 0
        self._reached = 0  # number of a batch; the leaves include it and all before it
        self._behind_s: float | None = None  # since when there are changes that they do not include
        self._stopping = False
        self._saving = threading.Lock()
        self._following = False  # another process changes the coins, too
        self._thread: threading.Thread | None = None
        self.lag_max_s = 0.0
        self.published = 0

    # -- start and stop ----------------------------------------------------------------------------

    def load(self, *, follow: bool = False) -> int:
        """Build the trees from the leaves saved last and the pages changed since.

        follow: another process changes the coins, too, until leave() is called. Returns the number
        of pages hashed. Raises StoreError.
        """
        started = next_line = time.monotonic()
        self._following = follow
        self._reached = self._store.native.progress().applied
        todo = self._leaves.load(self._store.saved_leaves())
        for done, page in enumerate(todo):
            self._leaves.hash(page)
            if time.monotonic() >= next_line + PROGRESS_S:
                next_line = time.monotonic()
                events.TREES_BUILDING.log(done=done, pages=len(todo))
        levels = tuple(build(bytes(one)) for one in self._leaves.leaves)
        self._recent = (Trees(0, levels, self._leaves.circulating),)
        events.TREES_BUILT.log(
            duration_s=time.monotonic() - started, hashed=len(todo), pages=STORE_PAGES
        )
        return len(todo)

    def start(
        self, publish: Callable[[Mapping[int, bytes]], None] | None, version: Callable[[], int]
    ) -> None:
        """Start the thread, which follows the changes of coins.

        publish: called with the trees that changed, first with all: denomination + 8 -> the bytes
        of all its nodes, leaves first; None: this node shows no roots. version: returns how often
        publish has been called.
        """
        self._publish, self._version = publish, version
        if publish is not None:
            self._show(self._recent[0].levels, range(DENOMINATIONS))
        self._store.leaves = self.saved
        thread = Vital(target=self._run, name="integrity", daemon=True)
        thread.start()
        self._thread = thread

    def follow(self) -> None:
        """Another process changes the coins, too, until leave() is called."""
        self._following = True
        self._store.native.rouse()

    def leave(self) -> None:
        """The other process has ended: from now on only this one changes the coins."""
        self._following = False
        self._store.native.rouse()

    def stop(self) -> None:
        """Stop the thread, which first includes every change. Call once this process no longer
        changes the coins."""
        if self._thread is not None:
            self._stopping = True
            self._store.native.rouse()
            self._thread.join()
            self._thread = None

    def saved(self) -> dict[bytes, bytes]:
        """What load() needs at the next start: a checkpoint saves it."""
        with self._saving:
            return self._leaves.save()

    # -- for handlers ------------------------------------------------------------------------------

    def trees(self) -> Trees | None:
        """Return the trees whose roots this node votes with now; None if it shows no roots."""
        if self._publish is None:
            return None
        while True:  # ends: _show() stores new trees in _recent before it publishes their version
            version = self._version()
            for trees in self._recent:
                if trees.version == version:
                    return trees

    @property
    def newest(self) -> Trees:
        """The newest trees, published or not."""
        return self._recent[-1]

    @property
    def circulating(self) -> tuple[int, ...]:
        """Coins in circulation, denominations -8 to 6."""
        return self._recent[-1].circulating

    @property
    def lag_s(self) -> float:
        """How long there have been changes that the roots do not include; 0 if they include all."""
        since = self._behind_s
        return 0.0 if since is None else time.monotonic() - since

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping:
            self._store.native.await_batch(self._reached, FOLLOW_S if self._following else LOOK_S)
            used_s = -time.thread_time()
            good = self._turn()
            used_s += time.thread_time()
            # Correctness needs no pause: it bounds what publication costs.
            pause_s = max(COALESCE_S, used_s / CPU_SHARE) if good else RETRY_S
            if not self._stopping:
                time.sleep(pause_s)
            if self._behind_s is None and self._store.native.progress().applied > self._reached:
                self._behind_s = time.monotonic()
        self._turn()

    def _turn(self) -> bool:
        """Bring the trees up to date; returns whether that succeeded. No error ends the thread:
        without it votes would use outdated trees for ever."""
        try:
            self._catch_up()
        except StoreError as error:
            events.TREES_STALE.log(error=error)
        except Exception as error:
            events.TREES_CRASHED.log(error=error, exc_info=True)
        else:
            return True
        return False

    def _catch_up(self) -> None:
        since, self._behind_s = self._behind_s, None
        reached = self._store.native.progress().applied
        if reached == self._reached:
            return
        since = time.monotonic() if since is None else since
        pages: set[int] = set()
        done = self._reached
        try:
            until_s = time.thread_time() + PASSES_S
            while True:
                pages |= self._hash(self._store.native.changed(done))
                done, reached = reached, self._store.native.progress().applied
                # No batch came between: the leaves are of one moment. If changes never pause, they
                # are of several.
                if done == reached or time.thread_time() > until_s:
                    break
            self._replace(pages)
        except BaseException:
            self._behind_s = since
            raise
        self._reached = done
        self.lag_max_s = max(self.lag_max_s, time.monotonic() - since)

    def _hash(self, pages: Iterable[int]) -> set[int]:
        """Hash pages as they are now; returns them."""
        with self._saving:
            for page in pages:
                self._leaves.hash(page)
        return set(pages)

    def _replace(self, pages: Iterable[int]) -> None:
        """Show trees with the present leaves of `pages`."""
        changed: dict[int, dict[int, bytes]] = {}
        for page in pages:
            index, number = divmod(page, DEN_PAGES)
            changed.setdefault(index, {})[number] = self._leaves.leaf(page)
        levels = list(self._recent[-1].levels)
        for index, leaves in changed.items():
            levels[index] = update(levels[index], leaves)
        self._show(tuple(levels), changed)

    def _show(self, levels: tuple[Tree, ...], changed: Iterable[int]) -> None:
        """Publish these trees to votes and handlers at the same moment. changed: which are new."""
        current = self._recent[-1]
        trees = Trees(current.version + 1, levels, self._leaves.circulating)
        if self._publish is None:
            self._recent = (trees,)
            return
        nodes = {index: b"".join(levels[index]) for index in changed}
        self._recent = (
            current,
            trees,
        )  # trees() returns the old ones until the roots are published
        try:
            self._publish(nodes)
        except BaseException:
            self._recent = (current,)  # not published, so this version does not exist
            raise
        self.published += 1
