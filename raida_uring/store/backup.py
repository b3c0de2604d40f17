"""A copy of a store, which a node can serve: `store backup`.

The copy has the state of one moment, all of it in its base, and no journal: the first node that
serves it begins one of its own, so that the journals of copy and original are never taken for each
other's. A node may have the original open. Thread: any, one call at a time. Memory: the store's
coins, and the pages of a transaction.
"""

from pathlib import Path

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.ffi.native_store import PAGE_BLANK, SELECTED_SIZE
from raida_uring.store import files
from raida_uring.store.fill import Progress, fill, no_progress, put_page
from raida_uring.store.layout import MAP_BYTES_DEFAULT
from raida_uring.store.store import reading


def backup(path: Path, target: Path, *, progress: Progress = no_progress) -> int:
    """Copy the store to `target`, a directory that does not exist, or is empty except for
    lost+found.

    Returns how many pages were written. Until all is on the disk, the copy is marked as unfinished,
    and no node serves it. Raises StoreError; nothing is then left at `target`.
    """
    files.refuse_used(target)
    room = max(MAP_BYTES_DEFAULT, 2 * files.size_of(path))
    written = 0
    with reading(path) as store:
        if not store.seed:
            raise StoreError(f"{path}: has no seed: the ANs of pages never written are lost")
        selected = bytearray(SELECTED_SIZE)

        def put(txn: native_base.Txn, page: int) -> None:
            nonlocal written
            state, *_ = store.native.select(page, selected)
            if state != PAGE_BLANK:
                content, _ = store.native.page(page)
                put_page(txn, page, content, store.remains(page))
                written += 1

        fill(
            target,
            put,
            doing=f"the backup of {files.printable(path)}",
            seed=store.seed.decode("ascii"),
            raida_id=store.raida_id,
            map_bytes=room,
            progress=progress,
        )
    return written
