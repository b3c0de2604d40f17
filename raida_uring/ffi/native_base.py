"""Typed access to the base in C: `Base` and `Txn` over LMDB, with exceptions for errors.

native_store.py has the coins in memory, native.py the data plane.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

from raida_uring import remedies
from raida_uring.errors import StoreError, passing
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs


class _Lib(Protocol):
    """The functions of base.h and survey.h that this module calls, and constants of theirs."""

    RU_BASE_DAMAGED: int
    RU_BASE_MISUSED: int
    RU_BASE_SHA_SIZE: int
    RU_PAGE_SIZE: int
    RU_STORE_MISUSED: int
    RU_TABLES: int

    def ru_base_open(self, path: bytes, map_bytes: int, flags: int, base: Any) -> int: ...
    def ru_base_close(self, base: Any) -> None: ...
    def ru_base_check(self, base: Any) -> int: ...
    def ru_base_sizes(self, base: Any, used_bytes: Any, map_bytes: Any) -> None: ...
    def ru_txn_begin(self, base: Any, writing: int, txn: Any) -> int: ...
    def ru_txn_make_room(self, txn: Any, pages: int) -> int: ...
    def ru_txn_end(self, txn: Any) -> None: ...
    def ru_txn_commit(self, txn: Any) -> int: ...
    def ru_txn_get(self, txn: Any, table: int, key: bytes, key_size: int, value: Any) -> int: ...
    def ru_txn_put(
        self, txn: Any, table: int, key: bytes, key_size: int, value: Any, size: int
    ) -> int: ...
    def ru_txn_seek(
        self, txn: Any, table: int, key: bytes, key_size: int, found: Any, value: Any
    ) -> int: ...
    def ru_txn_count(self, txn: Any, table: int) -> int: ...
    def ru_txn_put_page(self, txn: Any, page: int, data: Any, number: int, sha: Any) -> int: ...
    def ru_txn_page(self, txn: Any, page: int, data: Any, number: Any, sha: Any) -> int: ...
    def ru_store_error(self, result: int) -> Any: ...
    def ru_survey_store(self, path: bytes) -> int: ...
    def ru_survey_sync(self, path: bytes) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

PAGE_SIZE: Final = _lib.RU_PAGE_SIZE
TABLES: Final = _lib.RU_TABLES
SHA_BYTES: Final = _lib.RU_BASE_SHA_SIZE


BASE_CREATE, BASE_READ_ONLY = 1, 2  # enum ru_base_flag
(  # enum ru_base_table
    TABLE_META,
    TABLE_PAGES,
    TABLE_REMAINS,
    TABLE_LEAVES,
) = range(4)
_MISUSED: Final = frozenset((_lib.RU_STORE_MISUSED, _lib.RU_BASE_MISUSED))
BASE_PANIC: Final = -30795  # MDB_PANIC: of no use until it is opened again
BASE_DAMAGED: Final = _lib.RU_BASE_DAMAGED  # one page, not what was written
# MDB_NOTFOUND, PAGE_NOTFOUND, CORRUPTED, PANIC, INVALID, BAD_TXN: codes that mean a damaged store.
DAMAGED: Final = frozenset((-30798, -30797, -30796, -30795, -30793, -30782, BASE_DAMAGED))


def stored(result: int, doing: str) -> int:
    """`result` of a function of the store. Raises StoreError if it is negative, RuntimeError if the
    call was not allowed."""
    if result in _MISUSED:
        raise RuntimeError(f'{doing}: the view is not open, or not for changes (mode "write")')
    if result < 0:
        fault = StoreError(f"{doing}: {describe(result)}", result)
        raise passing(fault, result, busy=result == -errno.EAGAIN)
    return result


def describe(result: int) -> str:
    """Return what a negative result of the store means."""
    return str(_ffi.string(_lib.ru_store_error(result)).decode())


def survey(path: str) -> None:
    """Read every byte of a store in a child process, which a damaged file may kill. Raises
    StoreError, with a number in DAMAGED if the file is damaged."""
    stored(_lib.ru_survey_store(os.fsencode(path)), f"reading the store {path}")


def sync_files(path: str) -> None:
    """Flush the file system of `path` to the disk. Raises StoreError."""
    stored(_lib.ru_survey_sync(os.fsencode(path)), f"synchronising {path}")


def _taken(found: Any) -> bytes:
    return bytes(_ffi.buffer(found.at, found.size))


class Base:
    """An open LMDB environment; RuntimeError once it is closed. Thread: any."""

    def __init__(self, path: str, map_bytes: int, flags: int) -> None:
        """flags: BASE_*. Raises StoreError."""
        out = _ffi.new("struct ru_base **")
        doing = f"opening the store {path}"
        result = _lib.ru_base_open(os.fsencode(path), map_bytes, flags, out)
        if result == -errno.ENOMEM:
            fault = StoreError(f"{doing}: {remedies.for_store_memory(map_bytes)}", result)
            raise fault if remedies.is_address_space_limited() else passing(fault)
        stored(result, doing)
        self._made = out[0]

    def close(self) -> None:
        """Close it; every transaction must have ended."""
        base, self._made = self._made, _ffi.NULL
        _lib.ru_base_close(base)

    @property
    def handle(self) -> Any:
        """The base, for functions of the store. Raises RuntimeError once it is closed."""
        return self._base

    @property
    def _base(self) -> Any:
        """Raises RuntimeError once closed."""
        if self._made == _ffi.NULL:
            raise RuntimeError("the store is closed")
        return self._made

    def check(self) -> None:
        """Raise StoreError if the file was shortened, removed or replaced."""
        stored(_lib.ru_base_check(self._base), "looking at the store")

    def sizes(self) -> tuple[int, int]:
        """Return the bytes in use, and the most there may be. Raises StoreError."""
        self.check()  # they stand in the file, and a part that is missing is a SIGBUS
        out = _ffi.new("uint64_t[2]")
        _lib.ru_base_sizes(self._base, out, out + 1)
        return out[0], out[1]

    @contextlib.contextmanager
    def txn(self, *, writing: bool = False, room: int | None = None) -> Iterator["Txn"]:
        """A transaction for a `with` block; commits if it writes and the block ends without an
        exception. room: of a writing one, for so many pages and entries of other tables; then the
        base can be used on after a failed commit. Raises StoreError."""
        out = _ffi.new("struct ru_txn **")
        stored(_lib.ru_txn_begin(self._base, writing, out), "reading the store")
        txn = Txn(out[0])
        try:
            if room is not None:
                stored(_lib.ru_txn_make_room(txn.handle, room), "making room in the store")
            yield txn
            if writing:
                txn.commit()
        finally:
            txn.end()


class Txn:
    """A transaction of the base. Thread: the one that uses it. Raises StoreError."""

    def __init__(self, txn: Any) -> None:
        self.handle = txn
        self._found = _ffi.new("struct ru_bytes *")
        self._value = _ffi.new("struct ru_bytes *")
        self._number = _ffi.new("uint64_t *")
        self._sha = _ffi.new("uint8_t[]", SHA_BYTES)

    def end(self) -> None:
        """Drop the changes, unless they have been committed."""
        txn, self.handle = self.handle, _ffi.NULL
        _lib.ru_txn_end(txn)

    def commit(self) -> None:
        """Make the changes durable, all or none, and end."""
        txn, self.handle = self.handle, _ffi.NULL
        stored(_lib.ru_txn_commit(txn), "committing to the store")

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return an entry of a table, or None."""
        result = _lib.ru_txn_get(self.handle, table, key, len(key), self._value)
        if result == -errno.ENOENT:
            return None
        stored(result, "reading the store")
        return _taken(self._value)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Write an entry of a table; None deletes it."""
        data, size = (_ffi.NULL, 0) if value is None else (value, len(value))
        stored(_lib.ru_txn_put(self.handle, table, key, len(key), data, size), "changing the store")

    def entries(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield every entry of a table, by key. Do not write meanwhile."""
        for key in self.keys(table):
            yield key, _taken(self._value)

    def keys(self, table: int) -> Iterator[bytes]:
        """Yield the key of every entry of a table. Do not write meanwhile."""
        key = b""
        while True:
            result = _lib.ru_txn_seek(self.handle, table, key, len(key), self._found, self._value)
            if result == -errno.ENOENT:
                return
            stored(result, "reading the store")
            found = _taken(self._found)
            yield found
            key = found + b"\0"  # the next possible key

    def count(self, table: int) -> int:
        """Return the number of a table's entries."""
        return stored(_lib.ru_txn_count(self.handle, table), "reading the store")

    def put_page(self, page: int, data: bytes | None, number: int, sha: bytes = b"") -> None:
        """Store a page, None if it cannot be read, with the number of the last batch in it and the
        SHA-256 of its bytes."""
        if data is not None and (len(data), len(sha)) != (PAGE_SIZE, SHA_BYTES):
            raise ValueError(f"a page has {PAGE_SIZE} bytes, its hash {SHA_BYTES}")
        content = _ffi.NULL if data is None else data
        stored(_lib.ru_txn_put_page(self.handle, page, content, number, sha), "changing the store")

    def page(self, page: int) -> tuple[bytes | None, int, bytes] | None:
        """Return a page's bytes, None if it cannot be read, its number and SHA-256; None if it was
        never written."""
        result = _lib.ru_txn_page(self.handle, page, self._value, self._number, self._sha)
        if result == -errno.ENOENT:
            return None
        stored(result, f"reading page {page}")
        data = _taken(self._value) if self._value.size else None
        return data, self._number[0], bytes(_ffi.buffer(self._sha))
