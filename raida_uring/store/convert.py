"""Taking over a store of version 0.1 or 0.2, format 1: `store convert`.

Format 1 is an LMDB file alone: pages of bare bytes, empty if they cannot be read, what remains of
imported files, and the same entries of META; tickets, which live for minutes, and leaves of the
trees are left behind. The new store is made in a directory within the old one's, and takes its
place file by file:

  1. data.mdb gets a second name, data.mdb.format-1, under which it stays;
  2. the new data.mdb replaces data.mdb;
  3. the directory is removed.

Before step 2 the store is of format 1, and a further conversion starts over; after it the store is
whole, and a further one removes the directory. The new store has no journal: journal.py. Thread:
any, one call at a time, while no node has the store open.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.ffi.native_base import TABLE_META, TABLE_PAGES, TABLE_REMAINS
from raida_uring.ffi.native_store import PAGE_SIZE
from raida_uring.store import files
from raida_uring.store.fill import Progress, fill, no_progress, put_page
from raida_uring.store.layout import (
    FORMAT,
    FORMAT_KEY,
    FORMAT_OF_0_1,
    MAP_BYTES_DEFAULT,
    RAIDA_KEY,
    SEED_KEY,
    UNFINISHED_KEY,
    file_name,
)

KEPT: Final = f"{files.FILE}.format-1"  # the old file's name afterwards


def convert(
    path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT, progress: Progress = no_progress
) -> int:
    """Convert the store at `path`, in place. Returns the number of its pages.

    Raises StoreError: not a store of format 1, damaged, in use, or the disk has no room for another
    one. In all these cases data.mdb is as it was.
    """
    files.check_size(path, files.size_of(path), map_bytes)
    with files.held(path):
        found = _format(path, map_bytes)
        if found == FORMAT:
            return _resume(path, map_bytes)
        if found != FORMAT_OF_0_1:
            shown = "none" if found is None else found.decode("ascii", "replace")
            raise StoreError(f"{path}: store of format {shown}: only format 1 is converted")
        _refuse_earlier(path)
        made = path / files.CONVERTING
        files.clear(made)
        pages = _make(path, made, map_bytes, progress)
        _place(path, made)
        return pages


def _format(path: Path, map_bytes: int) -> bytes | None:
    try:
        native_base.survey(str(path))
        base = native_base.Base(str(path), map_bytes, native_base.BASE_READ_ONLY)
    except StoreError as error:
        raise files.explained(path, error) from error
    with contextlib.closing(base), base.txn() as txn:
        return txn.get(TABLE_META, FORMAT_KEY)


def _refuse_earlier(path: Path) -> None:
    """Raise StoreError if files of an earlier conversion would be lost."""
    kept, journal = path / KEPT, path / files.JOURNAL
    if os.path.lexists(kept) and not os.path.samefile(kept, path / files.FILE):
        raise StoreError(f"{kept}: is there already, from an earlier conversion: move it away")
    if files.holds_changes(path):
        raise StoreError(
            f"{journal}: belongs to another {files.FILE}, since format 1 has no journal: move it "
            "away"
        )


def _make(path: Path, made: Path, map_bytes: int, progress: Progress) -> int:
    """Make a store at `made` with all that the one at `path` has; returns the number of pages."""
    copied = 0
    old_base = native_base.Base(str(path), map_bytes, native_base.BASE_READ_ONLY)
    with contextlib.closing(old_base), old_base.txn() as old:
        seed, raida = old.get(TABLE_META, SEED_KEY), old.get(TABLE_META, RAIDA_KEY)
        mark = old.get(TABLE_META, UNFINISHED_KEY)
        if not seed:
            raise StoreError(f"{path}: has no seed: the ANs of pages never written are lost")

        def put(txn: native_base.Txn, page: int) -> None:
            nonlocal copied
            key = page.to_bytes(2)
            content = old.get(TABLE_PAGES, key)
            if content is None:
                return
            if len(content) not in (0, PAGE_SIZE):
                raise StoreError(
                    f"{path}: page {file_name(page)} is damaged: it has {len(content)} bytes"
                )
            put_page(txn, page, content or None, old.get(TABLE_REMAINS, key))
            copied += 1

        pages = old.count(TABLE_PAGES)
        fill(
            made,
            put,
            doing=f"the conversion of {files.printable(path)}",
            seed=seed.decode("ascii"),
            raida_id=raida[0] if raida else None,
            unfinished=None if mark is None else mark.decode("utf-8", "replace"),
            map_bytes=map_bytes,
            progress=progress,
        )
    if copied != pages:
        files.remove(made)
        raise StoreError(f"{path}: is damaged: {pages - copied} of its {pages} pages are no pages")
    return pages


def _place(path: Path, made: Path) -> None:
    """Put the new store where the old one is. Raises OSError, StoreError."""
    files.give(made, path / files.FILE)
    native_base.sync_files(str(path))
    if not os.path.lexists(path / KEPT):
        os.link(path / files.FILE, path / KEPT)
        files.sync_directory(path)
    (path / files.READERS).unlink(missing_ok=True)  # it counts the old file's transactions
    os.replace(made / files.FILE, path / files.FILE)
    files.sync_directory(path)
    files.remove(made)


def _resume(path: Path, map_bytes: int) -> int:
    """Do what is left of a conversion whose data.mdb is in its place: remove the directory."""
    made = path / files.CONVERTING
    if not made.is_dir() or os.path.lexists(made / files.FILE):
        raise StoreError(f"{path}: is of format {FORMAT.decode()} already")
    files.remove(made)
    base = native_base.Base(str(path), map_bytes, native_base.BASE_READ_ONLY)
    with contextlib.closing(base), base.txn() as txn:
        return txn.count(TABLE_PAGES)
