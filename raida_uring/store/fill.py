"""Filling a new store with all pages of an import, a backup or an older store.

Pages go straight into the base, with no batch of a journal in them, and the store has no journal
afterwards: journal.py.
Until the end the store is marked as unfinished, so that no node serves half of the coins. Thread:
any, one call at a time. Memory: the pages of one transaction.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base, native_store
from raida_uring.ffi.native_base import TABLE_LEAVES, TABLE_META, TABLE_PAGES, TABLE_REMAINS
from raida_uring.ffi.native_store import STORE_PAGES
from raida_uring.store import files
from raida_uring.store.create import create
from raida_uring.store.journal import Journal, refuse_changes
from raida_uring.store.layout import (
    IDENTITY_KEY,
    MAP_BYTES_DEFAULT,
    NO_JOURNAL,
    RAIDA_KEY,
    UNFINISHED_KEY,
)
from raida_uring.store.meta import Meta

PROGRESS_PAGES: Final = 100
COMMIT_PAGES: Final = 1000  # of a transaction: 17 MB
_NO_BATCH: Final = 0  # number of a page that no batch of the journal has changed

Progress = Callable[[int, int], None]
"""Called repeatedly with the number of pages done and of all pages."""

Put = Callable[[native_base.Txn, int], None]
"""Puts the page of that number into the transaction, or leaves it as never written."""


def no_progress(done: int, total: int) -> None:
    """Report no progress."""


def put_page(txn: native_base.Txn, page: int, content: bytes | None, remains: bytes | None) -> None:
    """Put a page's bytes, None if it cannot be read, and how its imported file differs from a page
    (Store.remains())."""
    sha = b"" if content is None else hashlib.sha256(content).digest()
    txn.put_page(page, content, _NO_BATCH, sha)
    txn.put(TABLE_REMAINS, page.to_bytes(2), remains)


def fill(
    path: Path,
    put: Put,
    *,
    doing: str,
    seed: str | None = None,
    raida_id: int | None = None,
    unfinished: str | None = None,
    map_bytes: int = MAP_BYTES_DEFAULT,
    progress: Progress = no_progress,
) -> None:
    """Fill the store at `path`, made if there is none, with what `put` gives for each page.

    doing: the operation, as a noun. seed: of a store that is made. raida_id: whose the store is
    afterwards. unfinished: an older operation's mark that stays. Raises StoreError: the store is
    not empty, in use, or cannot be written; a store that was made is then removed. After any other
    interruption the store stays marked as unfinished, and the next fill() starts over.
    """
    made = not os.path.lexists(path / files.FILE)
    if made:
        create(path, seed=seed, map_bytes=map_bytes, unfinished=doing)
    with files.held(path):
        try:
            with contextlib.closing(_open(path, map_bytes)) as base:
                _begin(path, base, doing)
                _put_all(base, put, progress)
                native_base.sync_files(str(path))
                _end(base, raida_id, unfinished)
        except StoreError:
            if made:
                with contextlib.suppress(OSError):
                    files.remove(path)
            raise


def _open(path: Path, map_bytes: int) -> native_base.Base:
    files.check_size(path, files.size_of(path), map_bytes)
    try:
        return native_base.Base(str(path), map_bytes, 0)
    except StoreError as error:
        raise files.explained(path, error, writing=True) from error


def _begin(path: Path, base: native_base.Base, doing: str) -> None:
    """Mark the store, which must be empty or marked already."""
    meta = Meta.of(path, base)
    if meta.unfinished is None and _is_filled(path, base):
        raise StoreError(f"{path}: holds changed coins: import into a new store")
    if meta.identity is None:
        refuse_changes(path)
    with base.txn(writing=True) as txn:
        txn.put(TABLE_META, UNFINISHED_KEY, doing.encode())
        txn.put(TABLE_META, RAIDA_KEY, None)
        for key in list(txn.keys(TABLE_LEAVES)):  # of other pages with the same numbers
            txn.put(TABLE_LEAVES, key, None)
    # Without changes. Before META forgets it: what is left of it then could be another store's.
    files.remove_journal(path)
    files.sync_directory(path)
    with base.txn(writing=True) as txn:
        txn.put(TABLE_META, IDENTITY_KEY, NO_JOURNAL)


def _is_filled(path: Path, base: native_base.Base) -> bool:
    """Whether a coin was ever changed."""
    with base.txn() as txn:
        if txn.count(TABLE_PAGES) or txn.count(TABLE_REMAINS):
            return True
    with contextlib.closing(Journal(path, base)) as journal:
        meta = journal.find()
        try:
            with contextlib.closing(native_store.Store(seed=meta.seed)) as coins:
                replayed = journal.replay(coins, meta.since, 0)
        except StoreError as error:
            raise files.explained(path, error) from error
    return meta.since > 1 or replayed > 0


def _put_all(base: native_base.Base, put: Put, progress: Progress) -> None:
    for start in range(0, STORE_PAGES, COMMIT_PAGES):
        with base.txn(writing=True) as txn:
            for page in range(start, min(start + COMMIT_PAGES, STORE_PAGES)):
                if page % PROGRESS_PAGES == 0:
                    progress(page, STORE_PAGES)
                put(txn, page)
    progress(STORE_PAGES, STORE_PAGES)


def _end(base: native_base.Base, raida_id: int | None, unfinished: str | None) -> None:
    with base.txn(writing=True) as txn:
        if raida_id is not None:
            txn.put(TABLE_META, RAIDA_KEY, bytes((raida_id,)))
        mark = None if unfinished is None else unfinished.encode()
        txn.put(TABLE_META, UNFINISHED_KEY, mark)
