"""Stores for tests: the one of the recordings, and small ones made on the spot."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raida_uring.ffi import native_base
from raida_uring.store import PAGE_SIZE, Store, page_of
from raida_uring.store.layout import UNFINISHED_KEY
from raida_uring.store.transfer import put_file
from tests.support.wire import FIXTURE_ROOTS, STORE

SEED = "4567"  # of every fresh reference server
MAP_BYTES = 64 << 20

ROOTS = b"".join(bytes.fromhex(FIXTURE_ROOTS[str(denomination)]) for denomination in range(-8, 7))

Coin = tuple[int, int]  # denomination, serial number


def coin_bytes(coin: Coin) -> bytes:
    """Denomination and serial number as the wire has them."""
    return (coin[0] & 0xFF).to_bytes(1) + coin[1].to_bytes(4)


def make_store(path: Path, records: dict[Coin, tuple[bytes, int]] | None = None) -> Path:
    """A store whose coins have the default ANs, but for `records`: coin -> AN, month."""
    Store.create(path, seed=SEED, map_bytes=MAP_BYTES)
    store = Store(path, map_bytes=MAP_BYTES)
    with store.write() as coins:
        for coin, (an, month) in (records or {}).items():
            coins.set(coin_bytes(coin) + an, 1, 21, month)
    store.close()
    return path


def table_of(store: Path, size_mib: int = MAP_BYTES >> 20, **more: object) -> dict[str, object]:
    """[store] of a node with this store. more: further keys."""
    return {"path": str(store), "size_mib": size_mib, **more}


def tables_over(store: Path, size_mib: int = MAP_BYTES >> 20, **more: object) -> Any:
    """Configuration tables of a node with trees over this store. more: further keys of [store]."""
    return {
        "server": {"synchronization_enabled": True},
        "store": table_of(store, size_mib, **more),
    }


def make_recorded_store(path: Path) -> Path:
    """The store under which wire.json was recorded."""
    make_store(
        path,
        {
            (entry["den"], entry["sn"]): (bytes.fromhex(entry["an"]), entry["mfs"])
            for entry in STORE["records"]
        },
    )
    files: dict[int, bytes | None] = {}
    store = Store(path, map_bytes=MAP_BYTES)
    with store.read() as coins:
        for entry in STORE["short_pages"]:
            page = page_of(entry["den"], entry["page"])
            assert entry["size"] < PAGE_SIZE
            whole = coins.page(page)
            assert whole is not None
            files[page] = whole[: entry["size"]]
    store.close()
    put_files(path, files)
    return path


@contextlib.contextmanager
def without_journal(path: Path) -> Iterator[None]:
    """A `with` block during which a store's journal is elsewhere, so that no change succeeds."""
    elsewhere = path.with_name("journal elsewhere")
    (path / "journal").rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path / "journal")


def put_files(path: Path, files: Mapping[int, bytes | None]) -> None:
    """Have page files in a store that nobody has open, as if imported: page -> content; None: the
    file is missing."""
    base = native_base.Base(str(path), MAP_BYTES, 0)
    with contextlib.closing(base), base.txn(writing=True) as txn:
        for page, content in files.items():
            put_file(txn, page, content)


def put_entry(path: Path, table: int, key: bytes, value: bytes | None) -> None:
    """Write an entry of a store's base, whatever it does to the store; None removes it."""
    base = native_base.Base(str(path), 2 << 30, 0)
    with contextlib.closing(base), base.txn(writing=True) as txn:
        txn.put(table, key, value)


def mark_unfinished(path: Path, doing: str) -> None:
    """As an import leaves a store that was killed."""
    put_entry(path, native_base.TABLE_META, UNFINISHED_KEY, doing.encode())
