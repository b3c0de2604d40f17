"""Stores of format 1, as versions 0.1 and 0.2 wrote them, through LMDB's own library.

Independent of the product, which no longer writes that format: six tables, pages of bare bytes.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MAP_BYTES: Final = 2 << 30
TABLES: Final = ("meta", "pages", "remains", "leaves", "changed", "tickets")
_CREATE: Final = 0x40000  # MDB_CREATE


class _Value(ctypes.Structure):  # MDB_val
    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_char_p))


def write_old_store(path: Path, tables: Mapping[str, Mapping[bytes, bytes]]) -> Path:
    """Write a store of these entries, by the names of their tables, into directory `path`, which is
    made if need be; entries that are there already stay."""
    path.mkdir(parents=True, exist_ok=True)
    lmdb = ctypes.CDLL("liblmdb.so.0")
    environment, transaction = ctypes.c_void_p(), ctypes.c_void_p()

    def done(result: int) -> None:
        assert result == 0, f"LMDB: {result}"

    done(lmdb.mdb_env_create(ctypes.byref(environment)))
    done(lmdb.mdb_env_set_maxdbs(environment, len(TABLES)))
    done(lmdb.mdb_env_set_mapsize(environment, ctypes.c_size_t(MAP_BYTES)))
    done(lmdb.mdb_env_open(environment, os.fsencode(path), 0, 0o600))
    done(lmdb.mdb_txn_begin(environment, None, 0, ctypes.byref(transaction)))
    for name in TABLES:
        table = ctypes.c_uint()
        done(lmdb.mdb_dbi_open(transaction, name.encode(), _CREATE, ctypes.byref(table)))
        for key, value in tables.get(name, {}).items():
            where, what = _Value(len(key), key), _Value(len(value), value)
            done(lmdb.mdb_put(transaction, table, ctypes.byref(where), ctypes.byref(what), 0))
    done(lmdb.mdb_txn_commit(transaction))
    lmdb.mdb_env_close(environment)
    return path
