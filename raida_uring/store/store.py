"""An open store: a directory with an LMDB environment in it, for one node at a time."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import STORE_PAGES
from raida_uring.log import events
from raida_uring.store import files
from raida_uring.store.coins import Coins
from raida_uring.store.create import create
from raida_uring.store.layout import (
    FORMAT,
    FORMAT_KEY,
    MAP_BYTES_DEFAULT,
    RAIDA_KEY,
    SEED_KEY,
    UNFINISHED_KEY,
)

# Entries of the table META.
_PROBE_KEY: Final = b"probe"  # exists only while probe() tries whether the store can be written
_PROBE_PAGES_MAX: Final = 200
_PAGE_ON_DISK_BYTES: Final = 20 << 10  # bytes of LMDB pages that a page of coins occupies


Durability = Literal["commit", "interval"]


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
        with contextlib.closing(Store(path, map_bytes=map_bytes, read_only=True)) as store:
            store.refuse_other(raida_id)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes in use of the maximum map_bytes; pages written; tickets stored."""

    used_bytes: int
    map_bytes: int
    written_pages: int
    tickets: int


class Store:
    """An open store. Thread: any; each view belongs to one thread."""

    def __init__(
        self,
        path: Path | str,
        *,
        map_bytes: int = MAP_BYTES_DEFAULT,
        durability: Durability = "commit",
        read_only: bool = False,
        unfinished: bool = False,
        owner: int = -1,
    ) -> None:
        """Open a store that create() made.

        read_only: also while a node has the store open. unfinished: also if an import did not
        finish. owner: descriptor of the lock, inherited from this process's predecessor; closed if
        it belongs to another store. Raises StoreError: not a store, another format, damaged,
        unfinished, in use by another process, larger than `map_bytes`, not permitted.
        """
        self.path = path = Path(path)
        self.on_commit: Callable[[Sequence[int]], None] | None = None
        # Set once the store can neither be read nor written until it is opened again.
        self.fault: StoreError | None = None
        self.write_fault: str | None = None  # why changes fail, until one as large succeeds
        self.failed_commits = 0  # transactions that changed nothing, because the store failed
        self._fault_pages = 0  # a commit of this many pages clears write_fault
        self._noting = threading.Lock()
        self._owner = owner
        try:
            if owner >= 0 and not files.is_lock_of(path, owner):
                os.close(owner)
                self._owner = owner = -1
            size = files.size_of(path)
            if not read_only and owner < 0:
                self._owner = files.acquire(path)
        except OSError as error:
            raise passing(StoreError(files.refusal(path, error)), error.errno or 0) from error
        flags = native_store.STORE_READ_ONLY if read_only else 0
        if durability == "interval":
            flags |= native_store.STORE_LAZY
        try:
            files.check_size(path, size, map_bytes)
            self._store = native_store.Store(str(path), map_bytes, flags)
        except StoreError as error:
            self._release()
            raise files.explained(path, error, writing=not read_only) from error
        try:
            self.seed, self.unfinished, self.raida_id = self._read_meta()
            self._store.seed(self.seed)
            if self.unfinished is not None and not unfinished:
                raise StoreError(
                    f"{path}: holds only a part of the coins: {self.unfinished} did not come to "
                    "its end; run it again"
                )
        except StoreError:
            self.close()
            raise

    create = staticmethod(create)

    def remove(self) -> None:
        """Remove the files of a store that create() has just made, and its directory if empty.

        Call before close(), while this process still has the lock. Raises OSError.
        """
        for name in (files.FILE, files.READERS, files.LOCK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _read_meta(self) -> tuple[bytes, str | None, int | None]:
        """Return the seed, the unfinished operation, and the RAIDA that serves the store."""
        view = self._store.view(writing=False)
        try:
            view.begin()
            found = view.get(native_store.TABLE_META, FORMAT_KEY)
            if found != FORMAT:
                shown = "none" if found is None else found.decode("ascii", "replace")
                raise StoreError(
                    f"{self.path}: store of format {shown}, this version reads "
                    f"{FORMAT.decode()}: import it again"
                )
            mark = view.get(native_store.TABLE_META, UNFINISHED_KEY)
            raida = view.get(native_store.TABLE_META, RAIDA_KEY)
            return (
                view.get(native_store.TABLE_META, SEED_KEY) or b"",
                None if mark is None else mark.decode("utf-8", "replace"),
                raida[0] if raida else None,
            )
        finally:
            view.close()

    @property
    def owner(self) -> int:
        """Descriptor of the lock on the store; processes that inherit it share the lock."""
        return self._owner

    def claim(self) -> None:
        """Name this process in the lock file, for other processes that find the store in use."""
        if self._owner >= 0:
            files.sign(self._owner)

    def refuse_other(self, raida_id: int) -> None:
        """Raise StoreError if another RAIDA than `raida_id` has served the store.

        Each RAIDA has a different AN for the same coin, so with another RAIDA's store every coin
        would be counterfeit.
        """
        if self.raida_id not in (None, raida_id):
            raise StoreError(
                f"{self.path}: is the store of RAIDA {self.raida_id}, and [server] raida_id = "
                f"{raida_id}; `raida-uring store export` and `import` give it to another"
            )

    def serve_as(self, raida_id: int) -> None:
        """Record, the first time, which RAIDA serves the store. Raises StoreError if another RAIDA
        has served it."""
        self.refuse_other(raida_id)
        if self.raida_id is None:
            try:
                with self.write() as coins:
                    coins.put(native_store.TABLE_META, RAIDA_KEY, bytes([raida_id]))
            except StoreError as error:  # such as a full disk: the next start tries again
                events.STORE_RAIDA_NOT_NOTED.log(error=error)
            else:
                self.raida_id = raida_id

    def mark_unfinished(self, doing: str | None) -> None:
        """Until this is called with None, the store opens only with `unfinished=True`.

        doing: the operation, as a noun. It also resets the RAIDA that serves the store. Raises
        StoreError.
        """
        with self.write() as coins:
            value = None if doing is None else doing.encode()
            coins.put(native_store.TABLE_META, UNFINISHED_KEY, value)
            if doing is not None:
                coins.put(native_store.TABLE_META, RAIDA_KEY, None)
                self.raida_id = None
        self.unfinished = doing

    def note_written(self, pages: int) -> None:
        """Record that a commit of `pages` pages of coins succeeded. Thread: any."""
        with self._noting:
            if self.write_fault is not None and pages >= self._fault_pages:
                self.write_fault, self._fault_pages = None, 0

    def note_unwritten(self, error: StoreError, pages: int = 0, *, commits: int = 1) -> None:
        """Record that `commits` commits failed, of up to `pages` pages of coins. Thread: any."""
        with self._noting:
            self.failed_commits += commits
            self._fault_pages = max(self._fault_pages, pages)
            self.write_fault = str(error).partition(": ")[2] or str(error)

    def look(self) -> None:
        """Find out, without a request, that the file was removed or can be written again. The
        latter waits for the disk. Thread: any."""
        try:
            self._store.check()
        except StoreError as error:
            self.note_unwritten(error, commits=0)
            return
        if self.write_fault is not None:
            self.probe()

    def probe(self) -> None:
        """After a failed change: try whether the store can be written again, and record it.

        Writes as much as the change that failed, up to 4 MiB, and removes it: a smaller change,
        such as a ticket, may fit where a page of coins does not. Thread: any; waits for other
        writers.
        """
        try:
            for value in (bytes(self._probe_size()), None):
                with self.write() as coins:
                    coins.put(native_store.TABLE_META, _PROBE_KEY, value)
            self.sync()
        except StoreError as error:  # write() or sync() has recorded it
            if error.number == native_store.STORE_PANIC:
                self.fault = error
            return
        self.note_written(self._fault_pages)

    def _probe_size(self) -> int:
        return _PAGE_ON_DISK_BYTES * max(1, min(self._fault_pages, _PROBE_PAGES_MAX))

    def close(self) -> None:
        """Close the store and release its lock; every view must be closed before."""
        self._store.close()
        self._release()

    def _release(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def sync(self) -> None:
        """Wait until every commit is on the disk. Raises StoreError."""
        try:
            self._store.sync()
        except StoreError as error:
            # More pages than any commit has: only probe(), which syncs, may clear this fault.
            self.note_unwritten(error, STORE_PAGES + 1, commits=0)
            raise

    def forget_dead(self) -> int:
        """Release pages pinned by killed readers, such as an export. Returns how many readers there
        were. Raises StoreError."""
        return self._store.forget_dead()

    def sizes(self) -> Sizes:
        """Return how full the store is. Raises StoreError."""
        with self.read() as coins:  # checks first that the file still exists
            used, most = self._store.sizes()
            return Sizes(
                used,
                most,
                coins.view.count(native_store.TABLE_PAGES),
                coins.view.count(native_store.TABLE_TICKETS),
            )

    def coins(self, *, writing: bool = False) -> Coins:
        """Return a view for one thread; the caller closes it."""
        return Coins(self, self._store.view(writing=writing), writing=writing)

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """Return a coin's AN in the newest state, 16 bytes; None if its page cannot be read."""
        with self.read() as coins:
            return coins.an(denomination, serial_number)

    @contextlib.contextmanager
    def read(self) -> Iterator[Coins]:
        """A view of the newest state for a `with` block."""
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
                self.note_unwritten(error, commits=0)
            raise
        finally:
            coins.close()


def reading(path: Path, *, unfinished: bool = False) -> AbstractContextManager[Store]:
    """Open a store read-only for a `with` block; a node may have it open. Raises StoreError."""
    # A node's store may be larger than the default, and may grow during the block.
    room = max(MAP_BYTES_DEFAULT, 2 * files.size_of(path))
    return contextlib.closing(Store(path, map_bytes=room, read_only=True, unfinished=unfinished))
