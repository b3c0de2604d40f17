"""Merkle trees over the store: one per denomination, updated while coins change.

One thread updates the trees. Each commit reports the pages it changed; the thread rehashes them and
the paths above them, and publishes all roots together: to the data plane, which answers votes with
them, and as a `Trees` that handlers read. A `Trees` never changes, so a handler may keep it.
Source: wire specification, section 8.4.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import DEN_PAGES, DENOMINATIONS, STORE_PAGES, UNREADABLE
from raida_uring.log import events
from raida_uring.store.coins import Coins
from raida_uring.store.store import Store
from raida_uring.threads import Vital

HASH_BYTES: Final = 32
COALESCE_S: Final = 0.010  # changes within this time are published together
RETRY_S: Final = 1.0  # after the store failed
PROGRESS_S: Final = 5.0

_NO_LEAF: Final = bytes(HASH_BYTES)  # leaf of an unreadable page
_EMPTY_LEAF: Final = hashlib.sha256(bytes(native_store.SELECTED_SIZE)).digest()
_COUNT_BYTES: Final = 2


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


def leaf_of(coins: Coins, page: int) -> tuple[bytes, int]:
    """Return a page's leaf and the number of its coins in circulation. Raises StoreError."""
    selected, count, state = coins.view.select(page)
    if state == UNREADABLE:
        return _NO_LEAF, 0
    if count == 0:  # as on a page that was never written
        return _EMPTY_LEAF, 0
    return hashlib.sha256(selected).digest(), count


def saved_leaves(saved: bytes) -> tuple[bytes, list[int]] | None:
    """Return a denomination's leaves and its pages' coins in circulation, as save() wrote them;
    None if `saved` does not have that form."""
    if len(saved) != DEN_PAGES * (HASH_BYTES + _COUNT_BYTES):
        return None
    counts = saved[DEN_PAGES * HASH_BYTES :]
    return saved[: DEN_PAGES * HASH_BYTES], [
        int.from_bytes(counts[at : at + _COUNT_BYTES]) for at in range(0, len(counts), _COUNT_BYTES)
    ]


def _parent(pair: bytes | bytearray) -> bytes:
    if len(pair) == HASH_BYTES:
        pair = bytes(pair) * 2
    return hashlib.sha256(pair).digest()


class Integrity:
    """Builds and updates the trees. Thread: start() and stop() control, all others any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = [0] * STORE_PAGES
        self._recent: tuple[Trees, ...] = ()
        self._publish: Callable[[bytes], None] | None = None
        self._version: Callable[[], int] = lambda: 0
        self._lock = threading.Lock()
        self._pending: set[int] = set()
        self._oldest_s = 0.0
        self._hashing_s: float | None = None  # when the first of the pages being hashed changed
        self._wake = threading.Event()
        self._stopping = False
        self._followed: int | None = None  # last transaction seen of another process's changes
        self._thread: threading.Thread | None = None
        self._left = False
        self.lag_max_s = 0.0
        self.published = 0

    # -- start and stop ----------------------------------------------------------------------------

    def load(self, *, follow: bool = False) -> int:
        """Build the trees from the leaves saved last and the pages changed since.

        follow: another process changes the store, too, until leave() is called. Returns the number
        of pages hashed. Raises StoreError.
        """
        started = next_line = time.monotonic()
        with self._store.read() as coins:
            seen = coins.view.transaction
            leaves, todo = self._load_leaves(coins)
            for done, page in enumerate(todo):
                index, number = divmod(page, DEN_PAGES)
                leaf = self._leaf(coins, page)
                leaves[index][number * HASH_BYTES : (number + 1) * HASH_BYTES] = leaf
                if time.monotonic() >= next_line + PROGRESS_S:
                    next_line = time.monotonic()
                    events.TREES_BUILDING.log(done=done, pages=len(todo))
        if follow:
            self._followed = seen
        levels = tuple(build(bytes(one)) for one in leaves)
        self._recent = (Trees(0, levels, self._circulating()),)
        events.TREES_BUILT.log(
            duration_s=time.monotonic() - started, hashed=len(todo), pages=STORE_PAGES
        )
        return len(todo)

    def start(self, publish: Callable[[bytes], None] | None, version: Callable[[], int]) -> None:
        """Start the thread, which follows the store's commits.

        publish: called with the 480 bytes of all roots; None: this node shows no roots. version:
        returns how often publish has been called.
        """
        self._publish, self._version = publish, version
        if publish is not None:
            self._show(self._recent[0].levels)
        self._store.on_commit = self.notify
        thread = Vital(target=self._run, name="integrity", daemon=True)
        thread.start()
        self._thread = thread

    def follow(self) -> None:
        """Follow the changes of another process, too, until leave() is called. Call after start(),
        before that process changes the store. Raises StoreError."""
        with self._store.read() as coins:
            seen = coins.view.transaction
        with self._lock:
            self._left = False
            if self._followed is None:  # otherwise earlier transactions are still to be followed
                self._followed = seen
        self._wake.set()

    def leave(self) -> None:
        """The other process has ended: from now on only this one changes the store."""
        self._left = True
        self._wake.set()

    def stop(self, *, save: bool = True) -> None:
        """Stop the thread and save the leaves for the next start.

        Call once this process no longer changes the store. save: False if another process does.
        """
        self._store.on_commit = None
        if self._thread is not None:
            self._stopping = True
            self._wake.set()
            self._thread.join()
            self._thread = None
        if not save or self._followed is not None:  # another process changes it, or did unseen
            return
        if self._pending:
            # Saved leaves count as up to date, so outdated ones must not be saved.
            events.LEAVES_OUTDATED.log()
        elif self._recent:
            self.save_if_possible()

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
        """Age of the oldest commit that the roots do not include yet; 0 if they include all."""
        with self._lock:
            since = self._hashing_s
            if since is None:
                since = self._oldest_s if self._pending else None
        return 0.0 if since is None else time.monotonic() - since

    def notify(self, pages: Sequence[int]) -> None:
        """Report the pages that a commit has changed."""
        with self._lock:
            if not self._pending:
                self._oldest_s = time.monotonic()
            self._pending.update(pages)
        self._wake.set()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        coins = self._store.coins()
        try:
            while not self._stopping:
                self._wake.wait(None if self._followed is None else COALESCE_S)
                self._wake.clear()
                time.sleep(COALESCE_S)  # limits the rate of publication; correctness needs no sleep
                if not self._turn(coins):
                    time.sleep(RETRY_S)
            self._turn(coins)
        finally:
            coins.close()

    def _turn(self, coins: Coins) -> bool:
        """Bring the trees up to date; returns whether that succeeded. No error ends the thread:
        without it votes would use outdated trees for ever."""
        try:
            self._follow(coins)
            self._catch_up(coins)
        except StoreError as error:
            events.TREES_STALE.log(error=error)
        except Exception as error:
            events.TREES_CRASHED.log(error=error, exc_info=True)
        else:
            return True
        return False

    def _follow(self, coins: Coins) -> None:
        """Find the pages that another process has changed since the last call."""
        if self._followed is None:
            return
        left = self._left  # read before begin(): the view then sees that process's last change
        coins.begin()
        try:
            seen = coins.view.transaction
            if seen != self._followed:
                changed = [
                    int.from_bytes(key)
                    for key, when in coins.entries(native_store.TABLE_CHANGED)
                    if int.from_bytes(when) > self._followed
                ]
                self.notify(changed)
        finally:
            coins.end()
        with self._lock:  # follow() may have been called again meanwhile
            self._followed = None if left and self._left else seen

    def _catch_up(self, coins: Coins) -> None:
        with self._lock:
            pages, self._pending = self._pending, set()
            since = self._oldest_s
            self._hashing_s = since if pages else None
        if not pages:
            return
        try:
            self._rehash(coins, pages)
        except BaseException:
            self.notify(list(pages))
            with self._lock:
                self._oldest_s, self._hashing_s = since, None
            raise
        with self._lock:
            self._hashing_s = None
        self.lag_max_s = max(self.lag_max_s, time.monotonic() - since)

    def _rehash(self, coins: Coins, pages: Iterable[int]) -> None:
        changed: dict[int, dict[int, bytes]] = {}
        coins.begin()
        try:
            for page in pages:
                index, number = divmod(page, DEN_PAGES)
                changed.setdefault(index, {})[number] = self._leaf(coins, page)
        finally:
            coins.end()
        levels = list(self._recent[-1].levels)
        for index, leaves in changed.items():
            levels[index] = update(levels[index], leaves)
        self._show(tuple(levels))

    def _show(self, levels: tuple[Tree, ...]) -> None:
        """Publish these trees to votes and handlers at the same moment."""
        current = self._recent[-1]
        trees = Trees(current.version + 1, levels, self._circulating())
        if self._publish is None:
            self._recent = (trees,)
            return
        roots = trees.roots
        self._recent = (
            current,
            trees,
        )  # trees() returns the old ones until the roots are published
        try:
            self._publish(roots)
        except BaseException:
            self._recent = (current,)  # not published, so this version does not exist
            raise
        self.published += 1

    def _leaf(self, coins: Coins, page: int) -> bytes:
        leaf, self._counts[page] = leaf_of(coins, page)
        return leaf

    def _circulating(self) -> tuple[int, ...]:
        starts = range(0, STORE_PAGES, DEN_PAGES)
        return tuple(sum(self._counts[start : start + DEN_PAGES]) for start in starts)

    # -- saved leaves ------------------------------------------------------------------------------

    def _load_leaves(self, coins: Coins) -> tuple[list[bytearray], list[int]]:
        """Return the saved leaves, and the pages that have to be hashed."""
        leaves = []
        todo: list[int] = []
        changed = {int.from_bytes(key) for key, _ in coins.entries(native_store.TABLE_CHANGED)}
        for index in range(DENOMINATIONS):
            saved = saved_leaves(coins.get(native_store.TABLE_LEAVES, bytes((index,))) or b"")
            pages = range(index * DEN_PAGES, (index + 1) * DEN_PAGES)
            if saved is not None:
                self._counts[pages.start : pages.stop] = saved[1]
                leaves.append(bytearray(saved[0]))
                todo += [page for page in pages if page in changed]
            else:
                leaves.append(bytearray(DEN_PAGES * HASH_BYTES))
                todo += pages
        return leaves, todo

    def save_if_possible(self) -> None:
        """Save, or log a warning: a full disk must not keep a node from starting."""
        try:
            self.save()
        except StoreError as error:
            events.LEAVES_NOT_SAVED.log(error=error)

    def save(self) -> None:
        """Write the leaves into the store, before start() or after stop(), while nothing else
        changes the store. Thread: control. Raises StoreError."""
        with self._store.read() as coins:
            unsaved = any(True for _ in coins.entries(native_store.TABLE_CHANGED))
            if not unsaved and coins.get(native_store.TABLE_LEAVES, b"\0") is not None:
                return
        with self._store.write() as coins:
            for index, tree in enumerate(self._recent[-1].levels):
                counts = self._counts[index * DEN_PAGES : (index + 1) * DEN_PAGES]
                packed = b"".join(count.to_bytes(_COUNT_BYTES) for count in counts)
                coins.put(native_store.TABLE_LEAVES, bytes((index,)), tree[0] + packed)
            for key, _ in list(coins.entries(native_store.TABLE_CHANGED)):
                coins.put(native_store.TABLE_CHANGED, key, None)
