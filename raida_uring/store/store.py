"""An open store: coins in memory, a journal of their changes, and the base on disk.

A directory holds the base (an LMDB file, as of the last checkpoint), the journal, once a node has
served it, and a lock, for one node at a time. docs/adr/0021 has the decision, ffi/coins/ the parts.
"""

import contextlib
import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base, native_store
from raida_uring.store import files
from raida_uring.store.coins import Coins
from raida_uring.store.create import create
from raida_uring.store.journal import abandon, is_abandoned
from raida_uring.store.layout import (
    CHECKPOINT_KEY,
    MAP_BYTES_DEFAULT,
    SINCE_KEY,
)
from raida_uring.store.meta import Meta
from raida_uring.store.opening import Opened

CHECKPOINT_PAGES: Final = 16  # of one transaction: more would make commits wait for the disk
CHECKPOINT_PAUSE_S: Final = 0.003  # between two of them
CHECKPOINT_PAGES_LAST: Final = 512  # without pauses, when nobody commits any more
_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the base, in use of the maximum map_bytes; of the journal's files that hold
    changes, and the maximum of all; pages written; tickets alive; entries of the journal that the
    base lacks, and those that are not certainly on the disk; seconds since the last checkpoint, or
    since the start; why the last try at one failed."""

    used_bytes: int
    map_bytes: int
    written_pages: int
    tickets: int
    journal_bytes: int
    journal_max_bytes: int
    journal_entries: int
    journal_unsynced: int
    checkpoint_age_s: float
    checkpoint_fault: str | None


class Store(Opened):
    """An open store. Thread: any; each view belongs to one thread."""

    create = staticmethod(create)

    # -- faults ------------------------------------------------------------------------------------

    def note_written(self) -> None:
        """Record that a batch of changes succeeded. Thread: any."""
        if self.write_fault is not None:
            with self._noting:
                self.write_fault = None

    def note_unwritten(self, error: StoreError, *, batches: int = 1) -> None:
        """Record that `batches` batches failed. Thread: any."""
        with self._noting:
            self.failed_commits += batches
            # A batch that was executed on one that failed says nothing new.
            if self.write_fault is None or error.number != -errno.ECANCELED:
                self.write_fault = _reason(error)
            self._applied_at_fault = self._coins.progress().applied
        # What the disk has of the journal is unknown, or the base can only be opened again.
        if self._coins.progress().failed or error.number == native_base.BASE_PANIC:
            self.fault = error

    def require_files(self) -> None:
        """Raise StoreError if files were removed, replaced, cut off or damaged: a start would not
        find the changes, although they can still be written. Thread: any."""
        if (doubt := self._doubt()) is not None:
            raise doubt
        self._coins.require()

    def _doubt(self) -> StoreError | None:
        """Why a start would not find all changes, as far as checkpoints and the watch know."""
        damage = self.checkpoint_fault
        if damage is not None and damage.number in native_base.DAMAGED:
            return damage
        return _lost(native_store.JOURNAL_HOLE) if self._journal_has_hole() else None

    def _tell_doubt(self) -> None:
        """Let native commands know, too."""
        doubt = self._doubt()
        self._coins.refuse(0 if doubt is None else doubt.number)

    def _require_owner(self) -> None:
        """Raise StoreError if the lock has lost its name: another node may have started, whose
        changes this one does not know of."""
        if self._owner >= 0 and not files.is_lock_of(self.path, self._owner):
            raise _lost(native_store.STORE_UNOWNED)

    def note_checkpoint(self, error: StoreError | None) -> None:
        """Record that a checkpoint succeeded, or why not. Thread: any. Changes go on until the
        journal is full, unless the base is damaged: then no start could find them. After a failed
        write LMDB may refuse everything until the base is opened again: then the node has to."""
        self.checkpoint_fault = error
        self._tell_doubt()
        if error is not None and error.number == native_base.BASE_PANIC:
            self.fault = error
        if error is not None and error.number in native_base.DAMAGED:
            self.note_unwritten(error, batches=0)

    def look(self) -> None:
        """Find out, without a request, that files were removed or can be written again. The latter
        waits for the disk. Thread: any."""
        try:
            self._base.check()
            whole_from = self._coins.check()
            # Read last: the base names a batch before files with older ones are let go of. It also
            # finds another state in the file.
            since = Meta.of(self.path, self._base).since
            self._whole_from = whole_from if since < whole_from else 0
            self._tell_doubt()
            self.require_files()
            if self.write_fault is not None and not self._writes_again():
                return
        except StoreError as error:
            self.note_unwritten(error, batches=0)
            return
        self.note_written()

    def _writes_again(self) -> bool:
        """Whether changes succeed again: one has, or none has failed since the last look and the
        journal has room. While a checkpoint runs, which may be about to make some, only a change
        can tell. Raises StoreError if there is no room."""
        failed_before, self._failed_at_look = self._failed_at_look, self.failed_commits
        if self._coins.progress().applied > self._applied_at_fault:
            return True
        if self.failed_commits > failed_before or not self._checkpointing.acquire(blocking=False):
            return False
        try:
            self._coins.tend(self._since)
        finally:
            self._checkpointing.release()
        return True

    def sync(self) -> None:
        """Wait until every change is on the disk. Raises StoreError."""
        try:
            self._coins.sync()
        except StoreError as error:
            self.note_unwritten(error, batches=0)
            raise

    # -- checkpoints -------------------------------------------------------------------------------

    def checkpoint(
        self, *, pause_s: float = CHECKPOINT_PAUSE_S, enough: Callable[[], bool] = lambda: False
    ) -> int:
        """Write the pages changed since the last checkpoint to the base, and let go of the journal
        before them. Returns how many. Raises StoreError. Thread: any; while no other process does.

        enough: asked between transactions; once true, the other pages are left to the journal,
        which then stays as it is.
        """
        with self._checkpointing:
            reached = self._coins.progress().applied
            pages = self._coins.changed(self._since - 1)
            at_once = CHECKPOINT_PAGES if pause_s else CHECKPOINT_PAGES_LAST
            saved = 0
            while saved < len(pages) and not enough():
                self._save(pages[saved : saved + at_once])
                saved += at_once
                time.sleep(pause_s)
            if saved < len(pages):
                self._finish(None)
                return saved
            self._finish(reached + 1)
            self._since = reached + 1
            self._tell_doubt()
            self.checkpoint_s = time.monotonic()
            with contextlib.suppress(StoreError):  # the checkpoint is made; a commit meets it, too
                self._coins.tend(self._since)
            return len(pages)

    def rescue(self, *, enough: Callable[[], bool]) -> int:
        """After a flush of the journal that failed: write all that memory has and the base lacks to
        the base, and abandon the journal, unless another process has. Returns how many pages.
        Raises StoreError, with the base as it was, also if `enough()` becomes true before all of
        them are ready to be written.

        In one transaction, since pages of which only some are written fit no journal that may have
        lost its end: its memory is 20 KiB a page. Thread: any.
        """
        if not self._coins.progress().failed:
            raise RuntimeError("the journal can be flushed: changes may come meanwhile")
        with self._checkpointing:
            self._require_owner()
            pages = self._coins.changed(self._since - 1)
            since = self._coins.progress().applied + 1
            with self._base.txn(writing=True, room=len(pages)) as txn:
                if is_abandoned(txn):  # by the other process of an upgrade; none changes any more
                    return 0
                for page in pages:
                    if enough():
                        raise StoreError(f"{self.path}: the disk is too slow")
                    _put(txn, page, *self._coins.page(page))
                self._note_since(txn, since)
                abandon(txn)
            self._since = since
            return len(pages)

    def _save(self, pages: list[int]) -> None:
        copies = [(page, *self._coins.page(page)) for page in pages]
        self._require_owner()
        self._coins.sync()  # the base must have nothing that a power cut takes from the journal
        with self._advancing(room=len(pages)) as txn:
            for copy in copies:
                _put(txn, *copy)

    @contextlib.contextmanager
    def _advancing(self, *, room: int) -> Iterator[native_base.Txn]:
        """A transaction of a checkpoint. Raises StoreError if the base has become the whole store:
        during an upgrade the other process rescues, too, and what this one has copied before may be
        older than what the base has now."""
        with self._base.txn(writing=True, room=room) as txn:
            if is_abandoned(txn):
                raise _lost(self._coins.progress().failed)
            yield txn

    def _finish(self, since: int | None) -> None:
        """Save the trees' leaves and, if all pages are saved, from which batch on the journal is
        needed."""
        leaves = self.leaves() if self.leaves else {}
        if leaves:  # after a power cut, other changes would get the numbers beside these leaves
            self._coins.sync()
        self._require_owner()
        with self._advancing(room=0) as txn:
            if since is not None:
                self._note_since(txn, since)
            for key, value in leaves.items():
                txn.put(native_base.TABLE_LEAVES, key, value)

    @staticmethod
    def _note_since(txn: native_base.Txn, since: int) -> None:
        txn.put(native_base.TABLE_META, SINCE_KEY, since.to_bytes(_NUMBER_BYTES))
        now = int(time.time()).to_bytes(_NUMBER_BYTES)
        txn.put(native_base.TABLE_META, CHECKPOINT_KEY, now)

    def _journal_has_hole(self) -> bool:
        return self._since < self._whole_from

    def needs_checkpoint(self) -> bool:
        """Whether a checkpoint is due, whatever the time: the journal is half full, or a part of it
        is lost that so far only memory has. Counts segments, as the journal's bound does: the first
        ones of a new store are small."""
        segments = self._coins.progress().journal_segments
        return self._journal_has_hole() or 2 * segments > self._segments_max

    def prepare(self) -> None:
        """Have the journal's next segment ready, so that no commit waits for it. Thread: any, while
        no other process does."""
        with contextlib.suppress(StoreError), self._checkpointing:  # a commit meets it, and tells
            self._coins.tend(self._since)

    def sizes(self) -> Sizes:
        """Return how full the store is. Raises StoreError."""
        used, most = self._base.sizes()
        progress = self._coins.progress()
        return Sizes(
            used_bytes=used,
            map_bytes=most,
            written_pages=self._coins.count(native_store.PAGE_WRITTEN),
            tickets=self._coins.tickets_alive(int(time.time())),
            journal_bytes=progress.journal_bytes,
            journal_max_bytes=self._segments_max * native_store.SEGMENT_BYTES,
            journal_entries=progress.applied + 1 - self._since,
            journal_unsynced=0
            if self._read_only
            else max(0, progress.applied - progress.durable),  # a batch may be durable first
            checkpoint_age_s=time.monotonic() - self.checkpoint_s,
            checkpoint_fault=_reason(fault) if (fault := self.checkpoint_fault) else None,
        )

    # -- coins -------------------------------------------------------------------------------------

    @property
    def native(self) -> native_store.Store:
        """The coins in memory, page by page."""
        return self._coins

    def coins(self, *, writing: bool = False) -> Coins:
        """Return a view for one thread; the caller closes it."""
        return Coins(self, self._coins.view(writing=writing), writing=writing)

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """Return a coin's AN in the newest state, 16 bytes; None if its page cannot be read."""
        with self.read() as coins:
            return coins.an(denomination, serial_number)

    @contextlib.contextmanager
    def read(self) -> Iterator[Coins]:
        """A view for a `with` block."""
        coins = self.coins()
        try:
            coins.begin()
            yield coins
        finally:
            coins.close()

    @contextlib.contextmanager
    def write(self) -> Iterator[Coins]:
        """A writing view for a `with` block; commits if the block ends without an exception."""
        coins = self.coins(writing=True)
        try:
            coins.begin()
            yield coins
            coins.keep()
            coins.commit()
        except StoreError as error:
            if error.number:  # not of a handler's making
                self.note_unwritten(error, batches=0)
            raise
        finally:
            coins.close()


def _put(txn: native_base.Txn, page: int, content: bytes | None, number: int) -> None:
    sha = b"" if content is None else hashlib.sha256(content).digest()
    txn.put_page(page, content, number, sha)


def _lost(number: int) -> StoreError:
    return StoreError(f"looking at the store: {native_base.describe(number)}", number)


def _reason(error: StoreError) -> str:
    """The error without what was being done."""
    return str(error).partition(": ")[2] or str(error)


def reading(path: Path, *, unfinished: bool = False) -> AbstractContextManager[Store]:
    """Open a store read-only for a `with` block: its state of this moment; a node may have it open.
    Raises StoreError."""
    # A node's store may be larger than the default, and may grow during the block.
    room = max(MAP_BYTES_DEFAULT, 2 * files.size_of(path))
    return contextlib.closing(Store(path, map_bytes=room, read_only=True, unfinished=unfinished))
