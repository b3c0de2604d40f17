"""An open store: a directory with an LMDB environment in it, for one node at a time."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import DEN_PAGES, PAGE_RECORDS, STORE_PAGES
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
    denomination_of,
)

# Entries of the table META.
_PROBE_KEY: Final = b"probe"  # for a moment, while it is tried whether the store can be written
_PROBE_PAGES_MAX: Final = 200
_PAGE_ON_DISK_BYTES: Final = 20 << 10  # what a page of coins takes of LMDB's
_RECORD_SUFFIXES: Final = tuple(b"%02x" % record for record in range(PAGE_RECORDS))


Durability = Literal["commit", "interval"]


def check(path: Path, *, map_bytes: int, raida_id: int) -> None:
    """Raise StoreError where RAIDA `raida_id`, run by this user, could not serve this store.

    Changes nothing; a node may have it open: that it is in use is no fault. Until somebody has
    opened a store its table of readers is not there, and looking inside would make it: then only
    its file is looked at.
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
    """used_bytes of map_bytes; pages that were written; tickets that are kept."""

    used_bytes: int
    map_bytes: int
    written_pages: int
    tickets: int


class Store:
    """An open store. Thread: any, but for the views."""

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
        """Open what create() made.

        read_only: may be done while a node has it open. unfinished: take it also when an import did
        not come to its end. owner: descriptor of the lock that this process's predecessor holds,
        too; closed when it is another store's. Raises StoreError: not a store, of another format,
        damaged, unfinished, in use by another process, larger than `map_bytes`, not permitted.
        """
        self.path = path = Path(path)
        self.on_commit: Callable[[Sequence[int]], None] | None = None
        # Set once nothing can be read or written any more until the store is opened again.
        self.fault: StoreError | None = None
        self.write_fault: str | None = None  # why changes fail, until one as large succeeds
        self.failed_commits = 0  # transactions that changed nothing, because the store failed
        self._fault_pages = 0  # a commit of so many pages shows that it can be written again
        self._noting = threading.Lock()
        self._owner = owner
        try:
            if owner >= 0 and not files.is_lock_of(path, owner):
                os.close(owner)
                self._owner = owner = -1
            size = files.size_of(path)
            if not read_only and owner < 0:
                self._owner = files.own(path)
        except OSError as error:
            raise passing(StoreError(files.refusal(path, error)), error.errno or 0) from error
        flags = native_store.STORE_READ_ONLY if read_only else 0
        if durability == "interval":
            flags |= native_store.STORE_LAZY
        try:
            files.check_size(path, size, map_bytes)
            self._store = native_store.Store(str(path), map_bytes, flags)
        except StoreError as error:
            self._disown()
            raise files.explained(path, error, writing=not read_only) from error
        try:
            self.seed, self.unfinished, self.raida_id = self._read_meta()
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
        """Take the files away, and the directory with them if it holds nothing else, of a store
        that create() has just made. Before close(), while nobody else can have it. Raises
        OSError."""
        for name in (files.FILE, files.READERS, files.LOCK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _read_meta(self) -> tuple[bytes, str | None, int | None]:
        """The seed, what was begun and did not come to its end, and whose it is."""
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
        """Descriptor of the lock on the store: whoever has it open owns it."""
        return self._owner

    def claim(self) -> None:
        """Whoever finds the store in use is told of this process from now on."""
        if self._owner >= 0:
            files.sign(self._owner)

    def refuse_other(self, raida_id: int) -> None:
        """Each RAIDA has its own secret of the same coin: by another's store every coin would be
        counterfeit. Raises StoreError unless this one is RAIDA `raida_id`'s, or nobody's yet."""
        if self.raida_id not in (None, raida_id):
            raise StoreError(
                f"{self.path}: is the store of RAIDA {self.raida_id}, and [server] raida_id = "
                f"{raida_id}; `raida-uring store export` and `import` give it to another"
            )

    def serve_as(self, raida_id: int) -> None:
        """Note whose store it is, the first time; nothing takes that back. Raises StoreError when
        it is another's."""
        self.refuse_other(raida_id)
        if self.raida_id is None:
            try:
                with self.write() as coins:
                    coins.put(native_store.TABLE_META, RAIDA_KEY, bytes([raida_id]))
            except StoreError as error:  # a full disk: the next start will
                events.STORE_RAIDA_NOT_NOTED.log(error=error)
            else:
                self.raida_id = raida_id

    def mark_unfinished(self, doing: str | None) -> None:
        """Until this is called with None, the store opens only for who asks for it.

        doing: words for what is being done; what it brings is nobody's yet. Raises StoreError.
        """
        with self.write() as coins:
            value = None if doing is None else doing.encode()
            coins.put(native_store.TABLE_META, UNFINISHED_KEY, value)
            if doing is not None:
                coins.put(native_store.TABLE_META, RAIDA_KEY, None)
                self.raida_id = None
        self.unfinished = doing

    def note_written(self, pages: int) -> None:
        """A change of so many pages of coins is durable. Thread: any."""
        with self._noting:
            if self.write_fault is not None and pages >= self._fault_pages:
                self.write_fault, self._fault_pages = None, 0

    def note_unwritten(self, error: StoreError, pages: int = 0, *, commits: int = 1) -> None:
        """Changes fail, `commits` of them just now, of so many pages of coins. Thread: any."""
        with self._noting:
            self.failed_commits += commits
            self._fault_pages = max(self._fault_pages, pages)
            self.write_fault = str(error).partition(": ")[2] or str(error)

    def look(self) -> None:
        """Find out what no request tells: that the file is gone, or that what kept changes from it
        has passed. Waits for the disk then. Thread: any."""
        try:
            self._store.check()
        except StoreError as error:
            self.note_unwritten(error, commits=0)
            return
        if self.write_fault is not None:
            self.probe()

    def probe(self) -> None:
        """While the store cannot be written: try whether it can, and note that.

        Writes as much as what failed, up to 4 MiB, and takes it back: what is smaller, as a ticket,
        may find room where a page of coins does not. Thread: any; waits for whoever writes.
        """
        try:
            for value in (bytes(self._probe_size()), None):
                with self.write() as coins:
                    coins.put(native_store.TABLE_META, _PROBE_KEY, value)
            self.sync()
        except StoreError as error:  # it has been noted
            if error.number == native_store.STORE_PANIC:
                self.fault = error
            return
        self.note_written(self._fault_pages)

    def _probe_size(self) -> int:
        return _PAGE_ON_DISK_BYTES * max(1, min(self._fault_pages, _PROBE_PAGES_MAX))

    def close(self) -> None:
        """Once every view is closed."""
        self._store.close()
        self._disown()

    def _disown(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def sync(self) -> None:
        """Return when every commit is on the disk. Raises StoreError."""
        try:
            self._store.sync()
        except StoreError as error:
            # No commit shows that the disk takes it: probe() does, which syncs.
            self.note_unwritten(error, STORE_PAGES + 1, commits=0)
            raise

    def forget_dead(self) -> int:
        """Let the space be used again that killed readers (an export, for one) still hold.

        Returns how many there were. Raises StoreError.
        """
        return self._store.forget_dead()

    def sizes(self) -> Sizes:
        """How full it is. Raises StoreError."""
        with self.read() as coins:  # which looks first whether there is a file to count in
            used, most = self._store.sizes()
            return Sizes(
                used,
                most,
                coins.view.count(native_store.TABLE_PAGES),
                coins.view.count(native_store.TABLE_TICKETS),
            )

    def coins(self, *, writing: bool = False) -> Coins:
        """A view for one thread; the caller closes it."""
        return Coins(self, self._store.view(writing=writing), writing=writing)

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """A coin's AN in the newest state, 16 bytes; None when its page cannot be read."""
        with self.read() as coins:
            return coins.an(denomination, serial_number)

    @contextlib.contextmanager
    def read(self) -> Iterator[Coins]:
        """A view of the newest state, for the length of a `with`."""
        coins = self.coins()
        try:
            coins.begin()
            yield coins
        finally:
            coins.close()

    @contextlib.contextmanager
    def write(self) -> Iterator[Coins]:
        """A writing view; what it changed is durable when the `with` ends normally."""
        coins = self.coins(writing=True)
        try:
            coins.begin()
            yield coins
            coins.keep()
            coins.commit()
        finally:
            coins.close()

    # -- default pages ---------------------------------------------------------------------------

    def default_an(self, denomination: int, serial_number: int) -> bytes:
        """The AN of a coin whose page was never written, 16 bytes."""
        page, record = divmod(serial_number, PAGE_RECORDS)
        return self._default(denomination, page, record)

    def default_page(self, page: int) -> bytes:
        """All bytes of one of the store's pages that was never written."""
        # A request of 55 bytes can ask for it: what all records share is hashed once.
        denomination, number = denomination_of(page) & 0xFFFFFFFF, page % DEN_PAGES
        text = b"%s%02x%04x" % (self.seed, denomination, number)
        shared = hashlib.md5(text, usedforsecurity=False).copy
        ans = []
        for suffix in _RECORD_SUFFIXES:
            one = shared()
            one.update(suffix)
            ans.append(one.digest())
        return b"\0".join(ans) + b"\0"

    def _default(self, denomination: int, page: int, record: int) -> bytes:
        text = b"%s%02x%04x%02x" % (self.seed, denomination & 0xFFFFFFFF, page, record)
        return hashlib.md5(text, usedforsecurity=False).digest()


@contextlib.contextmanager
def reading(path: Path, *, unfinished: bool = False) -> Iterator[Store]:
    """An open store for whoever only reads; a node may have it open, too. Raises StoreError."""
    # A node's store may be larger than the default, and may grow meanwhile.
    room = max(MAP_BYTES_DEFAULT, 2 * files.size_of(path))
    store = Store(path, map_bytes=room, read_only=True, unfinished=unfinished)
    try:
        yield store
    finally:
        store.close()
