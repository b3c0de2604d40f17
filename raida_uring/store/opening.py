"""Opening a store: its lock, its base, its coins in memory, its journal.

Thread: control, unless a function says otherwise.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_base, native_store
from raida_uring.ffi.native_store import STORE_PAGES
from raida_uring.log import events
from raida_uring.store import files
from raida_uring.store.journal import Journal
from raida_uring.store.layout import (
    JOURNAL_MIB_DEFAULT,
    MAP_BYTES_DEFAULT,
    RAIDA_KEY,
)
from raida_uring.store.meta import Meta

Durability = Literal["commit", "interval"]

_OPEN_TRIES: Final = 20  # a checkpoint may let go of journal that a reader is about to read


def check(path: Path, *, map_bytes: int, raida_id: int) -> None:
    """Raise StoreError if RAIDA `raida_id`, run by this user, could not serve this store.

    Changes nothing; a node may have the store open. A store that was never opened has no table of
    readers; opening it would create that table, so then only the file is checked.
    """
    size = files.size_of(path)
    files.check_size(path, size, map_bytes)
    denied = files.denied(path, os.R_OK | os.W_OK)
    if denied is not None:
        raise StoreError(denied)
    if (path / files.READERS).exists():
        base = native_base.Base(str(path), map_bytes, native_base.BASE_READ_ONLY)
        with contextlib.closing(base):
            meta = Meta.of(path, base)
            refuse_unfinished(path, meta.unfinished)
            refuse_other(path, meta.raida_id, raida_id)
            with contextlib.closing(Journal(path, base)) as journal:
                journal.find()


def refuse_unfinished(path: Path, mark: str | None) -> None:
    """Raise StoreError if the store is marked: an import, say, was killed."""
    if mark is not None:
        raise StoreError(
            f"{path}: holds only a part of the coins: {mark} did not come to its end; run it again"
        )


def refuse_other(path: Path, served_by: int | None, raida_id: int) -> None:
    """Raise StoreError if another RAIDA than `raida_id` has served the store.

    Each RAIDA has a different AN for the same coin, so with another RAIDA's store every coin would
    be counterfeit.
    """
    if served_by not in (None, raida_id):
        raise StoreError(
            f"{path}: is the store of RAIDA {served_by}, and [server] raida_id = {raida_id}; "
            "`raida-uring store export` and `import` give it to another"
        )


class Opened:
    """A store as it is opened and closed, and what its base says of it. Thread: any."""

    def __init__(
        self,
        path: Path | str,
        *,
        map_bytes: int = MAP_BYTES_DEFAULT,
        journal_mib: int = JOURNAL_MIB_DEFAULT,
        durability: Durability = "commit",
        read_only: bool = False,
        unfinished: bool = False,
        owner: int = -1,
        memory: int = -1,
    ) -> None:
        """Open a store that create() made.

        read_only: the state of this moment, also while a node has the store open. unfinished: also
        if an import did not finish. owner, memory: descriptors of the lock and of the coins, which
        this process inherits from a predecessor that goes on changing them. Raises StoreError: not
        a store, another format, damaged, unfinished, in use by another process, larger than
        `map_bytes`, not permitted, or the predecessor's is another store.
        """
        self.path = path = Path(path)
        # Set once the store can neither be read nor written until it is opened again.
        self.fault: StoreError | None = None
        self.write_fault: str | None = None  # why changes fail, until one succeeds
        self._applied_at_fault = 0  # the newest visible batch when it was noted
        self._failed_at_look = 0  # failed_commits when somebody last looked whether writes succeed
        self.checkpoint_fault: StoreError | None = None  # of the last try
        self._whole_from = 0  # first batch after a gap in the journal that the base cannot fill
        self.failed_commits = 0  # batches that changed nothing, because the store failed
        self.leaves: Callable[[], dict[bytes, bytes]] | None = None  # what a checkpoint saves
        self.checkpoint_s = time.monotonic()  # when the last one ended; until then, the start
        self._noting = threading.Lock()
        self._checkpointing = threading.Lock()
        self._read_only = read_only
        self._segments_max = max(2, (journal_mib << 20) // native_store.SEGMENT_BYTES)
        self._opened = contextlib.ExitStack()
        try:
            self._owner = self._lock(owner)
            files.check_size(path, files.size_of(path), map_bytes)
            self._open_base(map_bytes, unfinished=unfinished)
            self._open_journal(joins=memory >= 0)
            self._fill(memory)
            if not read_only:
                self._serve(durability, joins=memory >= 0)
        except BaseException:
            self._opened.close()
            raise

    # -- open and close ----------------------------------------------------------------------------

    def _lock(self, owner: int) -> int:
        """Take the lock, unless the predecessor's is passed; returns its descriptor, or -1."""
        path = self.path
        try:
            if owner >= 0:
                self._opened.callback(os.close, owner)
                os.set_inheritable(owner, False)
                if not files.is_lock_of(path, owner):
                    raise StoreError(
                        f"{path}: is not the store that the predecessor serves: restart the node"
                    )
            files.size_of(path)
            if not self._read_only and owner < 0:
                owner = files.acquire(path)
                self._opened.callback(os.close, owner)
        except OSError as error:
            raise passing(StoreError(files.refusal(path, error)), error.errno or 0) from error
        return owner

    def _open_base(self, map_bytes: int, *, unfinished: bool) -> None:
        flags = native_base.BASE_READ_ONLY if self._read_only else 0
        try:
            self._base = native_base.Base(str(self.path), map_bytes, flags)
        except StoreError as error:
            raise files.explained(self.path, error, writing=not self._read_only) from error
        self._opened.callback(self._base.close)
        meta = Meta.of(self.path, self._base)
        self.seed, self.unfinished, self.raida_id = meta.seed, meta.unfinished, meta.raida_id
        self.checkpointed = meta.checkpoint  # as it was when the store was opened
        if not unfinished:
            refuse_unfinished(self.path, meta.unfinished)

    def _open_journal(self, *, joins: bool) -> None:
        """The first start of a node makes the journal."""
        self._journal = Journal(self.path, self._base)
        self._opened.callback(self._journal.close)
        if not self._read_only and not joins:
            self._journal.begin()
        if self._journal.find().identity is None and joins:
            raise StoreError(
                f"{self.path}: is not the store that the predecessor serves: restart the node"
            )

    def _fill(self, memory: int) -> None:
        """Have the coins in memory: the predecessor's, or those of base and journal."""
        if memory >= 0:
            self._coins = native_store.Store(memory=memory)
            self._opened.callback(self._coins.close)
            self._since = Meta.of(self.path, self._base).since
            return
        for tries in range(_OPEN_TRIES):
            meta = self._journal.find()
            coins = native_store.Store(seed=meta.seed)
            try:
                highest = self._load(coins)
                self._journal.replay(coins, meta.since, highest)
            except StoreError as error:
                coins.close()
                # A node that appends and lets go of what it needs no more looks like that.
                again = self._read_only and error.number in native_store.JOURNAL_MOVES
                if not again or tries + 1 == _OPEN_TRIES:
                    raise files.explained(self.path, error) from error
                continue
            except BaseException:
                coins.close()
                raise
            self._coins, self._since = coins, meta.since
            self._opened.callback(coins.close)
            return

    def _load(self, coins: native_store.Store) -> int:
        """Load all pages of the base, on two threads; returns the highest number in them."""
        half = STORE_PAGES // 2

        def load(first: int) -> int:
            with self._base.txn() as txn:
                return coins.load(txn, first, half)

        with ThreadPoolExecutor(2, "store-load") as pool:
            return max(pool.map(load, (0, half)))

    def _serve(self, durability: Durability, *, joins: bool) -> None:
        try:
            writer = files.open_writer(self.path)
        except OSError as error:
            raise passing(StoreError(files.refusal(self.path, error)), error.errno or 0) from error
        self._opened.callback(os.close, writer)
        self._coins.serve(
            self._journal.descriptor,
            writer,
            self._journal.identity,
            joins=joins,
            interval=durability == "interval",
            segments_max=self._segments_max,
        )
        self._coins.need_base(self._base)
        journal = self.path / files.JOURNAL
        self._coins.need(journal, self._journal.descriptor, native_store.JOURNAL_GONE)
        if self._owner >= 0:
            self._coins.need(self.path / files.LOCK, self._owner, native_store.STORE_UNOWNED)

    @property
    def owner(self) -> int:
        """Descriptor of the lock on the store; processes that inherit it share the lock."""
        return self._owner

    @property
    def memory(self) -> int:
        """Descriptor of the coins in memory, for a successor."""
        return self._coins.memory

    def claim(self) -> None:
        """The predecessor has ended: name this process in the lock file, for others that find the
        store in use, and go on where the predecessor's checkpoints ended."""
        if self._owner >= 0:
            files.sign(self._owner)
        with self._checkpointing, contextlib.suppress(StoreError):  # the next checkpoint tells
            meta = Meta.of(self.path, self._base)
            self._since = max(self._since, meta.since)
            self.checkpointed = meta.checkpoint
        self.alone()

    def alone(self) -> None:
        """No other process changes the coins any more. Thread: any."""
        self._coins.alone()

    def close(self) -> None:
        """Close the store and release its lock; every view must be closed before."""
        self._owner = -1
        self._opened.close()

    # -- what the base says ------------------------------------------------------------------------

    def refuse_other(self, raida_id: int) -> None:
        """Raise StoreError if another RAIDA than `raida_id` has served the store."""
        refuse_other(self.path, self.raida_id, raida_id)

    def serve_as(self, raida_id: int) -> None:
        """Record, the first time, which RAIDA serves the store. Raises StoreError if another RAIDA
        has served it."""
        self.refuse_other(raida_id)
        if self.raida_id is None:
            try:
                with self._base.txn(writing=True, room=0) as txn:
                    txn.put(native_base.TABLE_META, RAIDA_KEY, bytes([raida_id]))
            except StoreError as error:  # such as a full disk: the next start tries again
                events.STORE_RAIDA_NOT_NOTED.log(error=error)
            else:
                self.raida_id = raida_id

    def remains(self, page: int) -> bytes | None:
        """How an imported file differs from a page: None if it does not, otherwise a letter and the
        file's bytes: `m` missing, `s` short, `t` the bytes after a whole page."""
        with self._base.txn() as txn:
            return txn.get(native_base.TABLE_REMAINS, page.to_bytes(2))

    def saved_leaves(self) -> dict[bytes, bytes]:
        """What `leaves` returned at the last checkpoint. Raises StoreError."""
        with self._base.txn() as txn:
            return dict(txn.entries(native_base.TABLE_LEAVES))
