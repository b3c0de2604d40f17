"""Typed access to the store in C: `Store` and `View` over LMDB, with exceptions for errors.

The counterpart of native.py, which has the data plane.
"""

import errno
import os
from typing import Any, Final, Protocol, cast

from raida_uring import remedies
from raida_uring.errors import StoreError, passing
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs


class _Lib(Protocol):
    """The functions of store.h and survey.h that this module calls, and constants of theirs."""

    RU_AN_SIZE: int
    RU_BODY_MAX: int
    RU_COIN_NAME_SIZE: int
    RU_DENOMINATIONS_COUNT: int
    RU_PAGE_RECORDS_COUNT: int
    RU_PAGE_RECORD_SIZE: int
    RU_PAGE_SIZE: int
    RU_STORE_DEN_PAGES: int
    RU_STORE_MISUSED: int
    RU_STORE_PAGES: int
    RU_STORE_SELECTED: int
    RU_TABLES: int

    def ru_store_open(self, path: bytes, map_bytes: int, flags: int, store: Any) -> int: ...
    def ru_store_seed(self, store: Any, seed: bytes, seed_bytes: int) -> None: ...
    def ru_store_close(self, store: Any) -> None: ...
    def ru_store_check(self, store: Any) -> int: ...
    def ru_store_sync(self, store: Any) -> int: ...
    def ru_store_forget_dead(self, store: Any) -> int: ...
    def ru_store_sizes(self, store: Any, used_bytes: Any, map_bytes: Any) -> None: ...
    def ru_store_error(self, result: int) -> Any: ...
    def ru_survey_store(self, path: bytes) -> int: ...
    def ru_survey_sync(self, path: bytes) -> int: ...
    def ru_view_open(self, store: Any, writing: int, view: Any) -> int: ...
    def ru_view_close(self, view: Any) -> None: ...
    def ru_view_begin(self, view: Any) -> int: ...
    def ru_view_txn(self, view: Any) -> int: ...
    def ru_view_end(self, view: Any) -> None: ...
    def ru_view_commit(self, view: Any) -> int: ...
    def ru_view_dirty(self, view: Any, pages: Any) -> int: ...
    def ru_view_mark(self, view: Any) -> int: ...
    def ru_view_undo(self, view: Any, mark: int) -> None: ...
    def ru_view_match(
        self, view: Any, coins: bytes, count: int, stride: int, an_at: int, states: Any
    ) -> int: ...
    def ru_view_gather(
        self, view: Any, coins: bytes, count: int, stride: int, records: Any, states: Any
    ) -> int: ...
    def ru_view_exchange(
        self,
        view: Any,
        coins: bytes,
        count: int,
        stride: int,
        an_at: int,
        new_at: int,
        month: int,
        states: Any,
    ) -> int: ...
    def ru_view_set(
        self, view: Any, coins: bytes, count: int, stride: int, an_at: int, month: int, states: Any
    ) -> int: ...
    def ru_view_page(self, view: Any, page: int, data: Any, state: Any) -> int: ...
    def ru_view_select(self, view: Any, page: int, selected: Any, state: Any) -> int: ...
    def ru_view_fill(self, view: Any, page: int, data: bytes) -> int: ...
    def ru_view_get(self, view: Any, table: int, key: bytes, key_size: int, value: Any) -> int: ...
    def ru_view_put(
        self, view: Any, table: int, key: bytes, key_size: int, value: Any, size: int
    ) -> int: ...
    def ru_view_seek(
        self, view: Any, table: int, key: bytes, key_size: int, found: Any, value: Any
    ) -> int: ...
    def ru_view_count(self, view: Any, table: int) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

DENOMINATIONS: Final = _lib.RU_DENOMINATIONS_COUNT
DEN_PAGES: Final = _lib.RU_STORE_DEN_PAGES
STORE_PAGES: Final = _lib.RU_STORE_PAGES
PAGE_RECORDS: Final = _lib.RU_PAGE_RECORDS_COUNT
PAGE_SIZE: Final = _lib.RU_PAGE_SIZE
AN_SIZE: Final = _lib.RU_AN_SIZE
_COIN_SIZE: Final = _lib.RU_COIN_NAME_SIZE
TABLES: Final = _lib.RU_TABLES
RECORD_BYTES: Final = _lib.RU_PAGE_RECORD_SIZE
SELECTED_SIZE: Final = _lib.RU_STORE_SELECTED
COINS_MAX: Final = _lib.RU_BODY_MAX // _COIN_SIZE  # in one request

STORE_PANIC: Final = -30795  # MDB_PANIC: the environment is unusable until it is opened again
STORE_CREATE, STORE_READ_ONLY, STORE_LAZY = 1, 2, 4  # enum ru_store_flag
(  # enum ru_store_table
    TABLE_META,
    TABLE_PAGES,
    TABLE_REMAINS,
    TABLE_LEAVES,
    TABLE_CHANGED,
    TABLE_TICKETS,
) = range(6)
_MISUSED: Final = _lib.RU_STORE_MISUSED
DIFFERS, EQUAL, UNREADABLE, DEFAULT = range(4)  # enum ru_coin_state


# MDB_NOTFOUND, PAGE_NOTFOUND, CORRUPTED, PANIC, INVALID: codes that mean a damaged store.
DAMAGED: Final = frozenset((-30798, -30797, -30796, -30795, -30793))


def _require_room(coins: bytes, count: int, stride: int, reach: int) -> None:
    """Check the arguments of a handler: a wrong count must fail the request, not crash the node.

    reach: bytes read from each coin's start on. Raises ValueError, TypeError.
    """
    if type(coins) is not bytes:
        raise TypeError(f"coins must be bytes, not {type(coins).__name__}")
    if count == 0:
        return
    if not 0 < count <= COINS_MAX or stride < 0 or (count - 1) * stride + reach > len(coins):
        raise ValueError(f"{len(coins)} bytes do not hold {count} coins, {stride} bytes apart")


def _an_reach(*ans_at: int) -> int:
    if min(ans_at) < 0:
        raise ValueError("the offset of an AN is negative")
    return max(_COIN_SIZE, max(ans_at) + AN_SIZE)


def _stored(result: int, doing: str) -> int:
    if result == _MISUSED:
        raise RuntimeError(f'{doing}: the view is not open, or not for changes (mode "write")')
    if result < 0:
        reason = _ffi.string(_lib.ru_store_error(result)).decode()
        fault = StoreError(f"{doing}: {reason}", result)
        raise passing(fault, result, busy=result == -errno.EAGAIN)
    return result


def survey(path: str) -> None:
    """Read every byte of a store in a child process, which a damaged file may kill. Raises
    StoreError, with a number in DAMAGED if the file is damaged."""
    _stored(_lib.ru_survey_store(os.fsencode(path)), f"reading the store {path}")


def sync_files(path: str) -> None:
    """Flush the file system of `path` to the disk. Raises StoreError."""
    _stored(_lib.ru_survey_sync(os.fsencode(path)), f"synchronising {path}")


class Store:
    """An open LMDB environment; RuntimeError once it is closed. Thread: any."""

    def __init__(self, path: str, map_bytes: int, flags: int) -> None:
        """flags: STORE_*. Raises StoreError."""
        out = _ffi.new("struct ru_store **")
        doing = f"opening the store {path}"
        result = _lib.ru_store_open(os.fsencode(path), map_bytes, flags, out)
        if result == -errno.ENOMEM:
            fault = StoreError(f"{doing}: {remedies.for_store_memory(map_bytes)}", result)
            raise fault if remedies.is_address_space_limited() else passing(fault)
        _stored(result, doing)
        self._made = out[0]

    def seed(self, seed: bytes) -> None:
        """Set what the records of pages that were never written are computed from. Thread: the one
        that opens the store, before its views read coins."""
        _lib.ru_store_seed(self._store, seed, len(seed))

    def close(self) -> None:
        """Close the store; every view must be closed before."""
        store, self._made = self._made, _ffi.NULL
        _lib.ru_store_close(store)

    @property
    def _store(self) -> Any:
        """Raises RuntimeError once closed."""
        if self._made == _ffi.NULL:
            raise RuntimeError("the store is closed")
        return self._made

    def check(self) -> None:
        """Raise StoreError if the file was shortened, removed or replaced."""
        _stored(_lib.ru_store_check(self._store), "looking at the store")

    def sync(self) -> None:
        """Wait until every commit is on the disk. Raises StoreError."""
        _stored(_lib.ru_store_sync(self._store), "synchronising the store")

    def forget_dead(self) -> int:
        """Release pages pinned by killed readers; returns their number. Raises StoreError."""
        return _stored(_lib.ru_store_forget_dead(self._store), "looking for dead readers")

    def sizes(self) -> tuple[int, int]:
        """Return the bytes in use, and the most there may be."""
        out = _ffi.new("uint64_t[2]")
        _lib.ru_store_sizes(self._store, out, out + 1)
        return out[0], out[1]

    def view(self, *, writing: bool) -> "View":
        """Raises StoreError (out of memory)."""
        out = _ffi.new("struct ru_view **")
        _stored(_lib.ru_view_open(self._store, writing, out), "opening a view of the store")
        return View(out[0])


class View:
    """One state of the store, from begin() to end() or commit(). Thread: the one that uses it.

    Coins are given as the wire has them: `stride` bytes apart, denomination and serial number in
    front. The states that come back are one byte a coin: DIFFERS, EQUAL, UNREADABLE. Coins on a
    page that was never written have the AN that follows from the store's seed.
    Everything raises StoreError when the store fails, RuntimeError on a view that has not begun or
    is not for that, and ValueError for more coins than COINS_MAX, or than there are bytes for.
    """

    def __init__(self, view: Any) -> None:
        self._view = view
        self._states = _ffi.new("uint8_t[]", COINS_MAX)
        self._state_bytes = _ffi.buffer(self._states)
        self._found = _ffi.new("struct ru_bytes *")
        self._value = _ffi.new("struct ru_bytes *")
        self._selected = _ffi.new("uint8_t[]", SELECTED_SIZE)
        self._page = _ffi.new("uint8_t[]", PAGE_SIZE)
        self._record = _ffi.new("uint8_t[]", RECORD_BYTES)
        self._record_bytes = _ffi.buffer(self._record)

    def close(self) -> None:
        """End and close the view."""
        view, self._view = self._view, _ffi.NULL
        _lib.ru_view_close(view)

    def begin(self) -> None:
        """See the newest state. A writing view waits until no other one is open."""
        _stored(_lib.ru_view_begin(self._view), "reading the store")

    @property
    def transaction(self) -> int:
        """Number of the transaction whose state the view sees."""
        return _lib.ru_view_txn(self._view)

    def end(self) -> None:
        """End the transaction and drop its changes. Does nothing when not begun."""
        _lib.ru_view_end(self._view)

    def commit(self) -> None:
        """Commit the changes, all or none, and end the transaction."""
        _stored(_lib.ru_view_commit(self._view), "committing to the store")

    def dirty(self) -> list[int]:
        """Numbers of the changed pages."""
        pages = _ffi.new("uint16_t[]", _lib.ru_view_dirty(self._view, _ffi.NULL))
        _lib.ru_view_dirty(self._view, pages)
        return list(pages)

    def mark(self) -> int:
        """Return a point that undo() can go back to."""
        return _lib.ru_view_mark(self._view)

    def undo(self, mark: int) -> None:
        """Revert every coin changed after `mark`."""
        _lib.ru_view_undo(self._view, mark)

    def match(self, coins: bytes, count: int, stride: int, an_at: int) -> bytes:
        """Compare the AN `an_at` bytes after each coin's start with the stored one."""
        _require_room(coins, count, stride, _an_reach(an_at))
        _stored(
            _lib.ru_view_match(self._view, coins, count, stride, an_at, self._states),
            "reading coins",
        )
        return bytes(self._state_bytes[:count])

    def gather(self, coins: bytes, count: int, stride: int) -> tuple[bytes, bytes]:
        """Return the coins' records, RECORD_BYTES each, zeros unless EQUAL; and the states."""
        _require_room(coins, count, stride, _COIN_SIZE)
        records = _ffi.new("uint8_t[]", count * RECORD_BYTES)
        _stored(
            _lib.ru_view_gather(self._view, coins, count, stride, records, self._states),
            "reading coins",
        )
        return bytes(_ffi.buffer(records)), bytes(self._state_bytes[:count])

    def record(self, coin: bytes) -> tuple[bytes, int]:
        """gather() for one coin of 5 bytes, unchecked: called for each encrypted request."""
        _stored(
            _lib.ru_view_gather(self._view, coin, 1, len(coin), self._record, self._states),
            "reading a coin",
        )
        return self._record_bytes[:], self._states[0]

    def exchange(
        self, coins: bytes, count: int, stride: int, an_at: int, new_at: int, month: int
    ) -> bytes:
        """In order: if the AN at `an_at` is the stored one, replace it by the AN at `new_at`."""
        _require_room(coins, count, stride, _an_reach(an_at, new_at))
        _stored(
            _lib.ru_view_exchange(
                self._view, coins, count, stride, an_at, new_at, month, self._states
            ),
            "changing coins",
        )
        return bytes(self._state_bytes[:count])

    def set(self, coins: bytes, count: int, stride: int, an_at: int, month: int) -> bytes:
        """Store the AN at `an_at` for each coin; EQUAL where it was stored."""
        _require_room(coins, count, stride, _an_reach(an_at))
        _stored(
            _lib.ru_view_set(self._view, coins, count, stride, an_at, month, self._states),
            "changing coins",
        )
        return bytes(self._state_bytes[:count])

    def page(self, page: int) -> tuple[bytes, int]:
        """Return a page's bytes and EQUAL, or DEFAULT if it was never written; or no bytes and
        UNREADABLE."""
        _stored(_lib.ru_view_page(self._view, page, self._page, self._states), "reading a page")
        state = self._states[0]
        return b"" if state == UNREADABLE else bytes(_ffi.buffer(self._page)), state

    def select(self, page: int) -> tuple[Any, int, int]:
        """Return the bytes that a page's leaf is the hash of (valid until the next call, and only
        if the state is EQUAL), the number of its coins in circulation, and its state as in page().
        """
        count = _lib.ru_view_select(self._view, page, self._selected, self._states)
        return _ffi.buffer(self._selected), _stored(count, "reading a page"), self._states[0]

    def fill(self, page: int, data: bytes) -> None:
        """Replace the PAGE_SIZE bytes of a page; undo() does not revert this."""
        if len(data) != PAGE_SIZE:
            raise ValueError(f"a page has {PAGE_SIZE} bytes, not {len(data)}")
        _stored(_lib.ru_view_fill(self._view, page, data), "changing a page")

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return an entry of a table, or None."""
        result = _lib.ru_view_get(self._view, table, key, len(key), self._value)
        if result == -errno.ENOENT:
            return None
        _stored(result, "reading the store")
        return self._taken(self._value)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Write an entry of a table; None deletes it."""
        data, size = (_ffi.NULL, 0) if value is None else (value, len(value))
        _stored(
            _lib.ru_view_put(self._view, table, key, len(key), data, size), "changing the store"
        )

    def seek(self, table: int, key: bytes = b"") -> tuple[bytes, bytes] | None:
        """Return the first entry whose key is not below `key`, or None."""
        result = _lib.ru_view_seek(self._view, table, key, len(key), self._found, self._value)
        if result == -errno.ENOENT:
            return None
        _stored(result, "reading the store")
        return self._taken(self._found), self._taken(self._value)

    def count(self, table: int) -> int:
        """Number of entries of a table."""
        return _stored(_lib.ru_view_count(self._view, table), "reading the store")

    @staticmethod
    def _taken(found: Any) -> bytes:
        return bytes(_ffi.buffer(found.at, found.size)) if found.size else b""
