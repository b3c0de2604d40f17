"""Merkle trees over the store: one per denomination, updated while coins change.

One thread updates the trees. Each turn of it looks which pages have changed, hashes a bounded
number of them and the nodes above them, and publishes all roots together: to the data plane, which
answers votes with them. All of that is in ffi/coins/hasher.c; here is when it happens, and how far
behind the trees are.
Source: wire specification, section 8.4.
"""

import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_trees
from raida_uring.ffi.native_store import DEN_PAGES, DENOMINATIONS, STORE_PAGES
from raida_uring.log import events
from raida_uring.store.store import Store
from raida_uring.threads import Vital

HASH_BYTES: Final = native_trees.HASH_SIZE
CPU_SHARE: Final = 0.05  # of a core, at most, for hashing and publishing
ROUND_S: Final = 6.0  # in which all pages are hashed, if the share allows it: sooner helps nobody
TURN_PAGES: Final = 1024  # hashed in a turn: 10 ms
REST_S: Final = 1.0  # after a turn that left nothing: pages that change all the time cost no more
FOLLOW_S: Final = 0.050  # between looks for changes of another process
LOOK_S: Final = 1.0  # otherwise: of a batch that a killed process has left, nobody tells
RETRY_S: Final = 1.0  # after the store failed
PROGRESS_S: Final = 5.0

_LEVELS: Final = (1000, 500, 250, 125, 63, 32, 16, 8, 4, 2, 1)  # nodes, leaves first


@dataclass(frozen=True, slots=True)
class Trees:
    """All trees at one moment. version: how often roots have been published, including these; 0:
    they are not. nodes: of denominations -8 to 6 all nodes, 32 bytes each, leaves first."""

    version: int
    nodes: tuple[bytes, ...]

    @property
    def roots(self) -> bytes:
        """The roots of denominations -8 to 6, 32 bytes each."""
        return b"".join(nodes[-HASH_BYTES:] for nodes in self.nodes)

    def node(self, index: int, level: int, position: int) -> bytes | None:
        """Return a node of tree `index` (denomination + 8), 32 bytes; None if it does not exist."""
        if not 0 <= index < DENOMINATIONS or not 0 <= level < len(_LEVELS):
            return None
        if not 0 <= position < _LEVELS[level]:
            return None
        at = (sum(_LEVELS[:level]) + position) * HASH_BYTES
        return self.nodes[index][at : at + HASH_BYTES]


def saved_leaves(saved: bytes) -> tuple[bytes, "array[int]", "array[int]"] | None:
    """Return a denomination's leaves, coins in circulation and numbers of batches, as
    Integrity.saved() packed them, little-endian; None if `saved` does not have that form."""
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


class Integrity:
    """Builds and updates the trees. Thread: start() and stop() control, all others any."""

    def __init__(self, store: Store) -> None:
        """Raises StoreError (out of memory)."""
        self._store = store
        self._hasher = native_trees.Hasher(store.native)
        self._using = threading.Lock()  # the hasher
        self._shown: Callable[[], native_trees.Shown] | None = None
        self._newest: Trees | None = None  # as they were asked for last
        self._reached = 0  # number of a batch; the nodes include it and all before it
        self._looked_ns = time.monotonic_ns()  # when the last turn began
        self._since_ns = 0  # of the oldest change that it has left; 0: none
        self._stopping = threading.Event()
        self._following = False  # another process changes the coins, too
        self._thread: threading.Thread | None = None
        self.circulating: tuple[int, ...] = (0,) * DENOMINATIONS
        """Coins in circulation, denominations -8 to 6."""
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
        saved = self._store.saved_leaves()
        for index in range(DENOMINATIONS):
            parts = saved_leaves(saved.get(bytes((index,)), b""))
            if parts is not None:
                self._hasher.load(index, *parts)
        hashed, left = 0, 1
        while left:
            turn = self._take_turn(time.monotonic_ns(), None)
            hashed, left = hashed + turn.hashed, turn.left
            if time.monotonic() >= next_line + PROGRESS_S:
                next_line = time.monotonic()
                events.TREES_BUILDING.log(done=hashed, pages=hashed + left)
        self.lag_max_s = 0.0  # nobody has waited for these
        events.TREES_BUILT.log(
            duration_s=time.monotonic() - started, hashed=hashed, pages=STORE_PAGES
        )
        return hashed

    def start(self, shown: Callable[[], native_trees.Shown] | None) -> None:
        """Start the thread, which follows the changes of coins.

        shown: where to publish the trees; None: this node shows no roots.
        """
        self._shown = shown
        if shown is not None:
            with self._using:
                self._hasher.publish(shown())
            self.published += 1
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
            self._stopping.set()
            self._store.native.rouse()
            self._thread.join()
            self._thread = None

    def saved(self) -> dict[bytes, bytes]:
        """What load() needs at the next start: a checkpoint saves it."""
        with self._using:
            parts = [self._hasher.save(index) for index in range(DENOMINATIONS)]
        return {bytes((index,)): _packed(*part) for index, part in enumerate(parts)}

    # -- for handlers ------------------------------------------------------------------------------

    def trees(self) -> Trees | None:
        """Return the trees whose roots this node votes with now; None if it shows no roots. They
        are copied, about 1 MB, if they were not asked for since they were published."""
        if self._shown is None:
            return None
        shown, trees = self._shown(), self._newest
        if trees is None or trees.version != shown.version:
            self._newest = trees = Trees(*shown.copy())
        return trees

    @property
    def newest(self) -> Trees:
        """A copy of the newest trees, published or not."""
        with self._using:
            return Trees(0, self._hasher.nodes())

    @property
    def lag_s(self) -> float:
        """How long there have been changes that the roots do not include; 0 if they include all.
        Never less than it is, and at most the time between two turns more."""
        since_ns = self._since_ns
        if not since_ns and self._store.native.progress().applied > self._reached:
            since_ns = self._looked_ns
        return max(0.0, (time.monotonic_ns() - since_ns) / 1e9) if since_ns else 0.0

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        native = self._store.native
        while not self._stopping.is_set():
            # Changes of this moment have come since the last turn, later ones wake this thread.
            came = self._reached < native.progress().applied
            native.await_batch(self._reached, FOLLOW_S if self._following else LOOK_S)
            began_s, used_s = time.monotonic(), -time.thread_time()
            turn = self._turn(self._looked_ns if came else time.monotonic_ns())
            used_s += time.thread_time()
            pause_s = RETRY_S if turn is None else _span_s(turn, used_s)
            self._stopping.wait(max(0.0, pause_s - (time.monotonic() - began_s)))
        while (turn := self._turn(self._looked_ns)) is not None and turn.left:
            continue

    def _turn(self, found_ns: int) -> native_trees.Turn | None:
        """Bring the trees up to date, as far as a turn does; None if that failed. No error ends the
        thread: without it votes would use outdated trees for ever."""
        try:
            return self._take_turn(found_ns, None if self._shown is None else self._shown())
        except StoreError as error:
            events.TREES_STALE.log(error=error)
        except Exception as error:
            events.TREES_CRASHED.log(error=error, exc_info=True)
        return None

    def _take_turn(self, found_ns: int, shown: native_trees.Shown | None) -> native_trees.Turn:
        began_ns = time.monotonic_ns()
        with self._using:
            turn = self._hasher.turn(TURN_PAGES, found_ns, shown)
        self._looked_ns = began_ns
        self._reached, self._since_ns = turn.reached, turn.since_ns
        self.circulating = turn.circulating
        if turn.shown_since_ns:
            behind_s = (time.monotonic_ns() - turn.shown_since_ns) / 1e9
            self.lag_max_s = max(self.lag_max_s, behind_s)
        if turn.hashed and shown is not None:
            self.published += 1
        return turn


def _span_s(turn: native_trees.Turn, used_s: float) -> float:
    """How long after a turn's begin the next one begins. Correctness needs no pause: it bounds what
    the trees cost. used_s: CPU time of the turn."""
    rest_s = REST_S if turn.hashed and not turn.left else 0.0
    return max(used_s / CPU_SHARE, turn.hashed * ROUND_S / STORE_PAGES, rest_s)


def _packed(leaves: bytes, counts: bytes, numbers: bytes) -> bytes:
    """As saved_leaves() takes them."""
    arrays = array("H", counts), array("Q", numbers)
    for one in arrays:
        if sys.byteorder == "big":
            one.byteswap()
    return leaves + b"".join(one.tobytes() for one in arrays)
