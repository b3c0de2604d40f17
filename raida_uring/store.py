"""The coin store: what coins there are, and how they are read and changed.

A store is a directory with an LMDB environment in it. `Store` opens it, for one node at a time;
`Coins` is one thread's view of it. A page that was never written is a default page: its ANs follow
from the store's secret seed, its coins are not in circulation.
Source: wire specification, section 8.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import hmac
import logging
import os
import secrets
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import (
    DEFAULT,
    DEN_PAGES,
    DENOMINATIONS,
    DIFFERS,
    EQUAL,
    PAGE_RECORDS,
    PAGE_SIZE,
    STORE_PAGES,
    UNREADABLE,
)
from raida_uring.log import event
from raida_uring.ownership import user_name
from raida_uring.threads import Vital

FORMAT: Final = b"1"
MAP_BYTES_DEFAULT: Final = 2 << 30
COIN_BYTES: Final = 5
AN_BYTES: Final = 16
SEED_BYTES: Final = 16
DENOMINATION_MIN: Final = -8
# The denominations as the wire has them, -8 to 6.
DENOMINATION_BYTES: Final = bytes(
    (DENOMINATION_MIN + index) & 0xFF for index in range(DENOMINATIONS)
)
SERIALS: Final = DEN_PAGES * PAGE_RECORDS  # serial numbers of a denomination

WATCH_INTERVAL_S: Final = 1.0

FILE: Final = "data.mdb"
_LOCK: Final = "owner"
_READERS: Final = "lock.mdb"  # LMDB's
_FILES: Final = (FILE, _LOCK, _READERS)
# Entries of the table META.
_FORMAT_KEY: Final = b"format"
_SEED_KEY: Final = b"seed"
_RAIDA_KEY: Final = b"raida"  # the RAIDA that has served it, one byte
_UNFINISHED_KEY: Final = b"unfinished"  # what is being done to the store, until it is done
_PROBE_KEY: Final = b"probe"  # for a moment, while it is tried whether the store can be written
_PROBE_PAGES_MAX: Final = 200
_PAGE_ON_DISK_BYTES: Final = 20 << 10  # what a page of coins takes of LMDB's

_COIN: Final = struct.Struct(">bI")  # as the wire names it
_STATES_DEFAULT: Final = bytes((DEFAULT,))
_STATES_DIFFERS: Final = bytes((DIFFERS,))
_KEY_BYTES_MAX: Final = 511  # LMDB's
_RECORD_SUFFIXES: Final = tuple(b"%02x" % record for record in range(PAGE_RECORDS))

logger = logging.getLogger("raida_uring.store")

Durability = Literal["commit", "interval"]


def size_of(path: Path) -> int:
    """Bytes of the file of the store at `path`. Raises StoreError: there is no store."""
    try:
        found = (path / FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path}: is not a directory") from None
        raise StoreError(
            f"{path.absolute()}: not a store: is its disk mounted? "
            "`raida-uring store init` makes a new one"
        ) from None
    except OSError as error:
        raise passing(StoreError(_refusal(path, error)), error.errno or 0) from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: not a store: {FILE} is not a file")
    if found.st_size == 0:
        raise StoreError(f"{path}: {FILE} is damaged: it is empty")
    return found.st_size


def check(path: Path, *, map_bytes: int, raida_id: int) -> None:
    """Raise StoreError where RAIDA `raida_id`, run by this user, could not serve this store.

    Changes nothing; a node may have it open: that it is in use is no fault. Until somebody has
    opened a store its table of readers is not there, and looking inside would make it: then only
    its file is looked at.
    """
    size = size_of(path)
    _check_size(path, size, map_bytes)
    denied = _denied(path, os.R_OK | os.W_OK)
    if denied is not None:
        raise StoreError(denied)
    if (path / _READERS).exists():
        with contextlib.closing(Store(path, map_bytes=map_bytes, read_only=True)) as store:
            store.refuse_other(raida_id)


def explained(path: Path, error: StoreError, *, writing: bool = False) -> StoreError:
    """The same, with the file that this user may not use where that is the cause."""
    if error.number not in (-errno.EACCES, -errno.EPERM):
        return error
    denied = _denied(path, os.R_OK | os.W_OK if writing else os.R_OK)
    return error if denied is None else StoreError(denied, error.number)


def _refusal(path: Path, error: OSError) -> str:
    """What the machine says of the store at `path`, and of which file of it."""
    denied = None
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        denied = _denied(path, os.R_OK | os.W_OK)
    if error.errno == errno.ELOOP:
        denied = f"{error.filename or path}: is a symbolic link, which is not followed: remove it"
    return denied or f"{error.filename or path}: {error.strerror}"


def _denied(path: Path, wanted: int) -> str | None:
    """Which directory or file of a store this user may not use, and why; None when it may.

    wanted: of os.R_OK and os.W_OK.
    """
    for one in (*reversed(path.parents), path):
        if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True):
            return _why_denied(one, path)
    for one in (path, path / FILE, path / _READERS, path / _LOCK):
        if one.exists() and not os.access(one, wanted, effective_ids=True):
            return _why_denied(one, path)
    return None


def _why_denied(one: Path, path: Path) -> str:
    found, user = one.stat(), os.geteuid()
    if os.access(one, os.R_OK, effective_ids=True) and os.statvfs(one).f_flag & os.ST_RDONLY:
        return f"{one}: Read-only file system"
    owner, mode = user_name(found.st_uid), f"{stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid == user or one not in (path, *(path / file for file in _FILES)):
        return f"{one}: Permission denied: its mode is {mode}, its owner {owner}"
    own = user_name(user)
    return (
        f"{one}: Permission denied: it belongs to {owner} (mode {mode}), and this is user {own}: "
        f"`chown -R {own} {path}` makes the store this user's"
    )


def page_of(denomination: int, page: int) -> int:
    """The number that the store gives page `page` (0 to 999) of a denomination (-8 to 6)."""
    return (denomination - DENOMINATION_MIN) * DEN_PAGES + page


def denomination_of(page: int) -> int:
    """The denomination, -8 to 6, of one of the store's pages."""
    return page // DEN_PAGES + DENOMINATION_MIN


def month_now(seconds: float | None = None) -> int:
    """The month of an ownership change as a record holds it: months since February 2023, UTC."""
    return _month_of(int(time.time() if seconds is None else seconds) // 3600)


@functools.lru_cache(maxsize=2)  # no month changes within an hour of UTC
def _month_of(hour: int) -> int:
    now = time.gmtime(hour * 3600)
    return ((now.tm_year - 2023) * 12 + now.tm_mon - 2) % 256


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
            if owner >= 0 and not _is_lock_of(path, owner):
                os.close(owner)
                self._owner = owner = -1
            size = size_of(path)
            if not read_only and owner < 0:
                self._owner = _own(path)
        except OSError as error:
            raise passing(StoreError(_refusal(path, error)), error.errno or 0) from error
        flags = native_store.STORE_READ_ONLY if read_only else 0
        if durability == "interval":
            flags |= native_store.STORE_LAZY
        try:
            _check_size(path, size, map_bytes)
            self._store = native_store.Store(str(path), map_bytes, flags)
        except StoreError as error:
            self._disown()
            raise explained(path, error, writing=not read_only) from error
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

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        seed: str | None = None,
        map_bytes: int = MAP_BYTES_DEFAULT,
        unfinished: str | None = None,
    ) -> None:
        """Make an empty store: every page is a default page.

        seed: text in front of what default ANs are hashed from; None draws a secret one.
        unfinished: see mark_unfinished(). Raises StoreError when the directory holds a store
        already or cannot be written.
        """
        path = Path(path)
        missing = [one for one in (path, *path.parents) if not os.path.lexists(one)]
        owner = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_existing(path)
            had_owner = os.path.lexists(path / _LOCK)
            owner = _own(path)
            _refuse_existing(path)  # again, now that nobody else can be making one
            cls._make(path, seed, map_bytes, unfinished)
        except FileExistsError:
            raise StoreError(f"{path}: is not a directory") from None
        except OSError as error:
            raise passing(StoreError(f"{path}: {error.strerror}"), error.errno or 0) from error
        finally:
            if owner >= 0:
                if not os.path.lexists(path / FILE) and not had_owner:
                    (path / _LOCK).unlink(missing_ok=True)
                os.close(owner)
            for one in missing:  # the innermost first; only what nothing was made in
                with contextlib.suppress(OSError):
                    one.rmdir()

    @staticmethod
    def _make(path: Path, seed: str | None, map_bytes: int, unfinished: str | None) -> None:
        """Whoever calls it owns the directory. Raises StoreError, OSError, with nothing made."""
        had_readers = os.path.lexists(path / _READERS)
        try:
            store = native_store.Store(str(path), map_bytes, native_store.STORE_CREATE)
            try:
                view = store.view(writing=True)
                try:
                    view.begin()
                    drawn = (seed or secrets.token_hex(SEED_BYTES)).encode("ascii")
                    view.put(native_store.TABLE_META, _FORMAT_KEY, FORMAT)
                    view.put(native_store.TABLE_META, _SEED_KEY, drawn)
                    if unfinished is not None:
                        view.put(native_store.TABLE_META, _UNFINISHED_KEY, unfinished.encode())
                    view.commit()
                finally:
                    view.close()
            finally:
                store.close()
            _sync_directory(path)
            _sync_directory(path.absolute().parent)
        except BaseException:
            (path / FILE).unlink(missing_ok=True)
            if not had_readers:
                (path / _READERS).unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Take the files away, and the directory with them if it holds nothing else, of a store
        that create() has just made. Before close(), while nobody else can have it. Raises
        OSError."""
        for name in (FILE, _READERS, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _read_meta(self) -> tuple[bytes, str | None, int | None]:
        """The seed, what was begun and did not come to its end, and whose it is."""
        view = self._store.view(writing=False)
        try:
            view.begin()
            found = view.get(native_store.TABLE_META, _FORMAT_KEY)
            if found != FORMAT:
                shown = "none" if found is None else found.decode("ascii", "replace")
                raise StoreError(
                    f"{self.path}: store of format {shown}, this version reads "
                    f"{FORMAT.decode()}: import it again"
                )
            mark = view.get(native_store.TABLE_META, _UNFINISHED_KEY)
            raida = view.get(native_store.TABLE_META, _RAIDA_KEY)
            return (
                view.get(native_store.TABLE_META, _SEED_KEY) or b"",
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
            _sign(self._owner)

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
                    coins.put(native_store.TABLE_META, _RAIDA_KEY, bytes([raida_id]))
            except StoreError as error:  # a full disk: the next start will
                logger.warning(
                    "not noted whose store it is: %s", error, extra=event("store_raida_not_noted")
                )
            else:
                self.raida_id = raida_id

    def mark_unfinished(self, doing: str | None) -> None:
        """Until this is called with None, the store opens only for who asks for it.

        doing: words for what is being done; what it brings is nobody's yet. Raises StoreError.
        """
        with self.write() as coins:
            value = None if doing is None else doing.encode()
            coins.put(native_store.TABLE_META, _UNFINISHED_KEY, value)
            if doing is not None:
                coins.put(native_store.TABLE_META, _RAIDA_KEY, None)
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

    def coins(self, *, writing: bool = False) -> "Coins":
        """A view for one thread; the caller closes it."""
        return Coins(self, self._store.view(writing=writing), writing=writing)

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """A coin's AN in the newest state, 16 bytes; None when its page cannot be read."""
        with self.read() as coins:
            return coins.an(denomination, serial_number)

    @contextlib.contextmanager
    def read(self) -> Iterator["Coins"]:
        """A view of the newest state, for the length of a `with`."""
        coins = self.coins()
        try:
            coins.begin()
            yield coins
        finally:
            coins.close()

    @contextlib.contextmanager
    def write(self) -> Iterator["Coins"]:
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


class _Lent:
    """Coins.lent(): by hand, since a generator's context costs as much as the change of a coin."""

    __slots__ = ("_coins",)

    def __init__(self, coins: "Coins") -> None:
        self._coins = coins

    def __enter__(self) -> "Coins":
        self._coins._lent = True
        return self._coins

    def __exit__(self, *_: object) -> None:
        self._coins._lent = False


class Coins:
    """One thread's view of the store, from begin() to end() or commit().

    Coins are given as the wire has them: `stride` bytes apart, denomination (1 byte) and serial
    number (4) in front. Results are one byte a coin: EQUAL, DIFFERS, or UNREADABLE for a coin that
    no page holds. A writing view sees its own changes. Raises StoreError when the store fails.
    """

    def __init__(self, store: Store, view: native_store.View, *, writing: bool) -> None:
        self.store = store
        self.view = view
        self._kept: dict[tuple[int, bytes], bytes | None] = {}
        self._staged: dict[tuple[int, bytes], bytes | None] = {}
        self._after: list[Callable[[], None]] = []
        self._after_staged: list[Callable[[], None]] = []
        self._mark = 0
        self._wrote = False
        self._lent = False
        self._writing = writing

    # -- life --------------------------------------------------------------------------------------

    def lent(self) -> "_Lent":
        """For the length of a `with` whoever has it can use it, but not begin, end or commit it."""
        return _Lent(self)

    def _require_own(self) -> None:
        if self._lent:
            raise RuntimeError("a view begins, ends and commits by itself: not a handler's affair")

    def _require_writing(self) -> None:
        if not self._writing:
            raise RuntimeError('this view only reads: changes are for handlers of mode "write"')

    def begin(self) -> None:
        """See the newest state; a writing view waits until no other one writes."""
        self._require_own()
        try:
            self.view.begin()
        except StoreError as error:
            if self._writing:
                self.store.note_unwritten(error)
            raise

    def end(self) -> None:
        """Forget it, with every change."""
        self._require_own()
        self.view.end()
        self._forget()

    def close(self) -> None:
        """End it for good."""
        self._require_own()
        self.view.close()
        self._forget()

    def keep(self) -> None:
        """Count what was changed since the last keep() or undo() as done."""
        self._require_own()
        self._mark = self.view.mark()
        if self._staged:
            self._kept |= self._staged
            self._staged.clear()
        if self._after_staged:
            self._after += self._after_staged
            self._after_staged.clear()

    def undo(self) -> None:
        """Take back what was changed since the last keep() or undo()."""
        self._require_own()
        self.view.undo(self._mark)
        self._staged.clear()
        self._after_staged.clear()

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._wrote or self._kept or self._staged or self.view.mark())

    def commit(self) -> None:
        """Make every change that was kept durable, all or none, and end.

        Raises StoreError (nothing has changed then): the disk is full or fails, its file is gone,
        the store is full.
        """
        self._settle(write=True)

    def finish(self) -> None:
        """commit(), but write nothing where nothing has changed."""
        self._settle(write=self.changed)

    def _settle(self, *, write: bool) -> None:
        self._require_own()
        pages: list[int] = []
        changed = self.changed
        try:
            if write:
                pages = self.view.dirty()
                for (table, key), value in self._kept.items():
                    self.view.put(table, key, value)
                self.view.commit()
                if changed:  # else nothing had to be written, and nothing is known
                    self.store.note_written(len(pages))
            after = self._after[:]
        except StoreError as error:
            self.store.note_unwritten(error, len(pages))
            raise
        finally:
            self.view.end()
            self._forget()
        if pages and self.store.on_commit is not None:
            self.store.on_commit(pages)
        for action in after:
            try:
                action()
            except BaseException as error:
                # The changes stand, its own and everybody else's: to raise would deny them.
                logger.error(
                    "what was to be done after a commit failed: %r",
                    error,
                    exc_info=error,
                    extra=event("after_commit_failed"),
                )

    def after_commit(self, action: Callable[[], None]) -> None:
        """Have something done once the current request's changes are durable. Must not fail: what
        it raises is logged and the changes stand."""
        self._require_writing()
        self._after_staged.append(action)

    def _forget(self) -> None:
        self._mark = 0
        self._wrote = False
        self._kept.clear()
        self._staged.clear()
        self._after.clear()
        self._after_staged.clear()

    # -- coins -------------------------------------------------------------------------------------

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """A coin's AN, 16 bytes; None when its page cannot be read. Raises TypeError."""
        try:
            coin = _COIN.pack(denomination, serial_number)
        except struct.error:
            if isinstance(denomination, int) and isinstance(serial_number, int):
                return None
            raise TypeError(
                "a denomination and a serial number are integers, not "
                f"{type(denomination).__name__} and {type(serial_number).__name__}"
            ) from None
        record, state = self.view.record(coin)
        if state == DEFAULT:
            return self.store.default_an(denomination, serial_number)
        return record[:AN_BYTES] if state == EQUAL else None

    def match(self, coins: bytes, count: int, stride: int, an_at: int = COIN_BYTES) -> bytes:
        """Compare the AN that stands `an_at` bytes behind each coin's start with the stored one."""
        states = self.view.match(coins, count, stride, an_at)
        if DEFAULT not in states:
            return states
        found = bytearray(states)
        for index in _positions(states):
            start = index * stride
            an = self._default_an(coins, start)
            given = coins[start + an_at : start + an_at + AN_BYTES]
            found[index] = EQUAL if hmac.compare_digest(an, given) else DIFFERS
        return bytes(found)

    def gather(self, coins: bytes, count: int, stride: int = COIN_BYTES) -> tuple[bytes, bytes]:
        """The coins' records, 17 bytes each (zeros where unreadable), and the states."""
        records, states = self.view.gather(coins, count, stride)
        if DEFAULT not in states:
            return records, states
        size = native_store.RECORD_BYTES
        whole, found = bytearray(records), bytearray(states)
        for index in _positions(states):
            whole[index * size : index * size + AN_BYTES] = self._default_an(coins, index * stride)
            found[index] = EQUAL
        return bytes(whole), bytes(found)

    def exchange(
        self, coins: bytes, count: int, stride: int, an_at: int, new_at: int, month: int
    ) -> bytes:
        """In order: where the AN at `an_at` is the stored one, store the one at `new_at`."""
        mark = self.view.mark()
        states = self.view.exchange(coins, count, stride, an_at, new_at, month)
        if DEFAULT not in states:
            return states
        # Writing a default page costs a thousand hashes, so only those who know an AN of it may
        # have it written; of any other default page no coin can change, however often it is listed.
        right = bytearray(states)
        for index in _positions(states):
            start = index * stride
            given = coins[start + an_at : start + an_at + AN_BYTES]
            if not hmac.compare_digest(self._default_an(coins, start), given):
                right[index] = DIFFERS
        if DEFAULT in right:
            self.view.undo(mark)
            self._write_defaults(coins, bytes(right), stride)
            states = self.view.exchange(coins, count, stride, an_at, new_at, month)
        return states.replace(_STATES_DEFAULT, _STATES_DIFFERS)

    def set(
        self, coins: bytes, count: int, stride: int, month: int, an_at: int = COIN_BYTES
    ) -> bytes:
        """Store the AN at `an_at` for each coin; EQUAL where that was done."""
        mark = self.view.mark()
        states = self.view.set(coins, count, stride, an_at, month)
        if DEFAULT in states:
            self.view.undo(mark)
            self._write_defaults(coins, states, stride)
            states = self.view.set(coins, count, stride, an_at, month)
        return states

    def page(self, number: int) -> bytes | None:
        """The 17,408 bytes of one of the store's pages; None when it cannot be read."""
        data, state = self.view.page(number)
        if state == DEFAULT:
            return self.store.default_page(number)
        return data if state == EQUAL else None

    def remains(self, number: int) -> bytes | None:
        """What an imported file had instead of a page: None nothing out of the ordinary, else the
        file's bytes behind a letter: `m` missing, `s` short, `t` the tail behind a whole page."""
        return self.view.get(native_store.TABLE_REMAINS, number.to_bytes(2))

    def put_file(self, number: int, content: bytes | None) -> None:
        """Make one of the store's pages what a page file holds; None: the file is missing.

        No undo() takes it back.
        """
        key = number.to_bytes(2)
        if content is not None and len(content) >= PAGE_SIZE:
            tail = content[PAGE_SIZE:]
            self.view.put(native_store.TABLE_REMAINS, key, b"t" + tail if tail else None)
            self.view.fill(number, content[:PAGE_SIZE])
            self._wrote = True
            return
        self.view.put(native_store.TABLE_REMAINS, key, b"m" if content is None else b"s" + content)
        self.view.put(native_store.TABLE_PAGES, key, b"")
        self.view.put(native_store.TABLE_CHANGED, key, b"")
        self._wrote = True

    def _write_defaults(self, coins: bytes, states: bytes, stride: int) -> None:
        """Write the pages of those coins that are DEFAULT in `states`."""
        for index in _positions(states):
            denomination, serial_number = _coin_at(coins, index * stride)
            page = page_of(denomination, serial_number // PAGE_RECORDS)
            if self.view.page(page)[1] == DEFAULT:
                self.view.fill(page, self.store.default_page(page))

    def _default_an(self, coins: bytes, start: int) -> bytes:
        return self.store.default_an(*_coin_at(coins, start))

    # -- entries of the other tables ------------------------------------------------------------

    def get(self, table: int, key: bytes) -> bytes | None:
        """An entry, this view's own changes included; None when there is none."""
        name = (table, key)
        if name in self._staged:
            return self._staged[name]
        if name in self._kept:
            return self._kept[name]
        return self.view.get(table, key)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Change an entry; None removes it. table: native_store.TABLE_*. key: 1 to 511 bytes.

        Raises ValueError or TypeError for what is none of that, RuntimeError on a reading view.
        """
        # Said now, to the one who asks: at commit it would fail everybody's changes, or nobody's.
        self._require_writing()
        if type(key) is not bytes or not (value is None or type(value) is bytes):
            raise TypeError("a key is bytes, a value bytes or None")
        if not 1 <= len(key) <= _KEY_BYTES_MAX:
            raise ValueError(f"a key has 1 to {_KEY_BYTES_MAX} bytes, not {len(key)}")
        if type(table) is not int or not 0 <= table < native_store.TABLES:
            raise ValueError(f"there is no table {table!r}")
        self._staged[table, key] = value

    def entries(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """Every entry of a table in the order of the keys, this view's own changes included."""
        own = {
            key: value for (of, key), value in (self._kept | self._staged).items() if of == table
        }
        for key, value in self._stored_entries(table):
            if key not in own:
                yield key, value
        for key, changed in own.items():
            if changed is not None:
                yield key, changed

    def _stored_entries(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        key = b""
        while (found := self.view.seek(table, key)) is not None:
            yield found
            key = found[0] + b"\0"  # the next possible key


class Watch:
    """Looks at an open store every WATCH_INTERVAL_S and logs when changes begin to fail, and when
    they succeed again. On a thread of its own: a disk may hang."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = Vital(target=self._run, name="store-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once it does not use the store any more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        store, told = self._store, False
        while not self._stopping.wait(WATCH_INTERVAL_S):
            store.look()
            fault = store.write_fault
            if fault is not None and not told:
                logger.error(
                    "the store %s cannot be changed: %s",
                    store.path,
                    fault,
                    extra=event("store_unwritable", path=str(store.path)),
                )
            elif told and fault is None:
                logger.info(
                    "the store %s can be changed again",
                    store.path,
                    extra=event("store_writes_again", path=str(store.path)),
                )
            told = fault is not None


class Syncer:
    """Brings commits to the disk every so often, for a store that does not wait for it."""

    def __init__(self, store: Store, interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = Vital(target=self._run, name="store-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once everything is on the disk, as far as it can be."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stopping.wait(self._interval_s)
            try:
                self._store.sync()
            except StoreError as error:
                logger.error(
                    "changes are not safe from a power loss: %s", error, extra=event("sync_failed")
                )


def _positions(states: bytes) -> Iterator[int]:
    at = states.find(_STATES_DEFAULT)
    while at >= 0:
        yield at
        at = states.find(_STATES_DEFAULT, at + 1)


def _coin_at(coins: bytes, start: int) -> tuple[int, int]:
    denomination, serial_number = _COIN.unpack_from(coins, start)
    return denomination, serial_number


def _check_size(path: Path, size: int, map_bytes: int) -> None:
    if size > map_bytes:
        raise StoreError(
            f"{path}: has {size >> 20} MiB, more than the {map_bytes >> 20} MiB allowed: "
            "raise [store] size_mib"
        )


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path / FILE):
        raise StoreError(f"{path}: holds a store already")


def _own(path: Path) -> int:
    """Take the store for this process. Raises StoreError when another has it, OSError."""
    while True:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError):
                owner = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            raise passing(
                StoreError(f"{path}: in use by process {owner or '?'}"), busy=True
            ) from None
        except OSError:
            os.close(lock)
            raise
        if _is_lock_of(path, lock):
            break
        os.close(lock)  # whoever had it has taken it away meanwhile
    _sign(lock)
    return lock


def _open_lock(path: Path) -> int:
    """Root that serves a store for once must not keep out whose it is: what it makes is as data.mdb
    is, as in ffi/store.c. Nothing that is there already changes hands, and no link is followed: its
    owner may have put it there for root. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path / _LOCK, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path / _LOCK, flags, 0o600)
    with contextlib.suppress(OSError):  # there is no store yet
        data = os.stat(path / FILE)
        if os.geteuid() == 0 != data.st_uid:
            os.fchown(lock, data.st_uid, data.st_gid)
            os.fchmod(lock, data.st_mode & 0o666)
    return lock


def _sign(lock: int) -> None:
    """Write into the lock who holds it."""
    with contextlib.suppress(OSError):  # for people only: a node must start on a full disk
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)  # two processes share the file's position


def _is_lock_of(path: Path, owner: int) -> bool:
    os.set_inheritable(owner, False)
    try:
        return os.path.samestat(os.fstat(owner), os.stat(path / _LOCK))
    except OSError:
        return False


def _sync_directory(path: Path) -> None:
    """A new file survives a power loss only once its directory does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "AN_BYTES",
    "COIN_BYTES",
    "DENOMINATIONS",
    "DENOMINATION_BYTES",
    "DIFFERS",
    "EQUAL",
    "PAGE_SIZE",
    "STORE_PAGES",
    "UNREADABLE",
    "Coins",
    "Durability",
    "Sizes",
    "Store",
    "Syncer",
    "Watch",
    "check",
    "denomination_of",
    "explained",
    "month_now",
    "page_of",
    "size_of",
]
