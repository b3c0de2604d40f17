"""Creating a store. Thread: control."""

import contextlib
import os
import secrets
from pathlib import Path

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_base
from raida_uring.store import files
from raida_uring.store.layout import (
    FORMAT,
    FORMAT_KEY,
    IDENTITY_KEY,
    MAP_BYTES_DEFAULT,
    NO_JOURNAL,
    SEED_BYTES,
    SEED_KEY,
    UNFINISHED_KEY,
)


def create(
    path: Path | str,
    *,
    seed: str | None = None,
    map_bytes: int = MAP_BYTES_DEFAULT,
    unfinished: str | None = None,
) -> None:
    """Create an empty store, in which every page is a default page, and which has no journal yet.

    seed: prefix of the text that default ANs are hashed from; None: draw a secret one. unfinished:
    an operation under way, as a noun; no node serves the store until its mark is taken off. Raises
    StoreError if the directory has a store already or cannot be written.
    """
    path = Path(path)
    missing = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    owner = -1
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.refuse_existing(path)
        had_owner = os.path.lexists(path / files.LOCK)
        owner = files.acquire(path)
        files.refuse_existing(path)  # again: before the lock another process could create one
        _make(path, seed, map_bytes, unfinished)
    except FileExistsError:
        raise StoreError(f"{path}: is not a directory") from None
    except OSError as error:
        raise passing(StoreError(files.refusal(path, error)), error.errno or 0) from error
    finally:
        if owner >= 0:
            if not os.path.lexists(path / files.FILE) and not had_owner:
                (path / files.LOCK).unlink(missing_ok=True)
            os.close(owner)
        for one in missing:  # innermost first; rmdir() keeps those that are not empty
            with contextlib.suppress(OSError):
                one.rmdir()


def _make(path: Path, seed: str | None, map_bytes: int, unfinished: str | None) -> None:
    """Create the files; the caller has the lock. Raises StoreError, OSError, with none left.

    The base is made in a directory of its own and renamed when it is on the disk, so that a killed
    process leaves a whole store or none.
    """
    had_readers = os.path.lexists(path / files.READERS)
    made = path / files.MAKING
    files.clear(made)
    try:
        made.mkdir(mode=0o700)
        base = native_base.Base(str(made), map_bytes, native_base.BASE_CREATE)
        with contextlib.closing(base), base.txn(writing=True) as txn:
            drawn = (seed or secrets.token_hex(SEED_BYTES)).encode("ascii")
            txn.put(native_base.TABLE_META, FORMAT_KEY, FORMAT)
            txn.put(native_base.TABLE_META, SEED_KEY, drawn)
            txn.put(native_base.TABLE_META, IDENTITY_KEY, NO_JOURNAL)
            if unfinished is not None:
                txn.put(native_base.TABLE_META, UNFINISHED_KEY, unfinished.encode())
        os.rename(made / files.FILE, path / files.FILE)
        files.sync_directory(path)
        files.sync_directory(path.absolute().parent)
        files.remove(made)
        native_base.Base(str(path), map_bytes, 0).close()  # makes lock.mdb
    except BaseException:
        (path / files.FILE).unlink(missing_ok=True)
        files.remove(made)
        if not had_readers:
            (path / files.READERS).unlink(missing_ok=True)
        raise
