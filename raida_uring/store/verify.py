"""`store verify` and `store stat`: check a store, and summarise its content.

A node may have the store open. Thread: any, one call at a time.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import (
    DEN_PAGES,
    DENOMINATIONS,
    PAGE_SIZE,
    STORE_PAGES,
    TABLE_CHANGED,
    TABLE_LEAVES,
    TABLE_PAGES,
    TABLE_REMAINS,
    TABLE_TICKETS,
)
from raida_uring.store import tickets, trees
from raida_uring.store.coins import Coins
from raida_uring.store.files import FILE, explained, printable, size_of
from raida_uring.store.layout import DENOMINATION_MIN, FORMAT, file_name
from raida_uring.store.store import Store, reading
from raida_uring.store.transfer import PROGRESS_PAGES, Progress, no_progress

_KEY_BYTES: Final = 2


def verify(path: Path, *, progress: Progress = no_progress) -> list[str]:
    """Return the faults of a store, one line each; a node may have the store open.

    Raises StoreError if it cannot be checked: no store, another format, not permitted.
    """
    size_of(path)
    try:
        native_store.survey(str(path))
        with reading(path, unfinished=True) as store, store.read() as coins:
            return list(_faults(store, coins, progress))
    except StoreError as error:
        if error.number not in native_store.DAMAGED:
            raise explained(path, error) from error
        return [str(error)]


def _faults(store: Store, coins: Coins, progress: Progress) -> Iterator[str]:
    if store.unfinished is not None:
        yield f"holds only a part of the coins: {store.unfinished} did not come to its end"
    if not store.seed:
        yield "has no seed: the ANs of pages that were never written are lost"
    yield from _page_faults(coins, progress)
    yield from _remains_faults(coins)
    for ticket, value in coins.entries(TABLE_TICKETS):
        fault = tickets.fault(ticket, value)
        if fault is not None:
            yield f"ticket {ticket.hex()} {fault}"
    yield from _leaf_faults(coins, progress)


def _page_faults(coins: Coins, progress: Progress) -> Iterator[str]:
    for done, (key, value) in enumerate(coins.entries(TABLE_PAGES)):
        if done % PROGRESS_PAGES == 0:
            progress(done // 2, STORE_PAGES)
        page = _page_of_key(key)
        if page is None:
            yield f"a page is named {key.hex()}, which no page is"
        elif len(value) not in (0, PAGE_SIZE):
            yield f"page {file_name(page)} has {len(value)} bytes, not {PAGE_SIZE}"
        elif not value and coins.remains(page) is None:
            yield f"page {file_name(page)} is empty without a recorded reason"


def _remains_faults(coins: Coins) -> Iterator[str]:
    for key, value in coins.entries(TABLE_REMAINS):
        page = _page_of_key(key)
        if page is None:
            yield f"what remains of a file is named {key.hex()}, which no page is"
            continue
        whole = coins.view.page(page)[1] == native_store.EQUAL
        kind, size = value[:1], len(value) - 1
        unreadable = (kind == b"m" and size == 0) or (kind == b"s" and size < PAGE_SIZE)
        if not (kind == b"t" and size > 0 if whole else unreadable):
            yield f"page {file_name(page)} contradicts the record of its imported file"


def _leaf_faults(coins: Coins, progress: Progress) -> Iterator[str]:
    changed = set()
    for key, _ in coins.entries(TABLE_CHANGED):
        page = _page_of_key(key)
        if page is None:
            yield f"a changed page is named {key.hex()}, which no page is"
        changed.add(page)
    for key, value in coins.entries(TABLE_LEAVES):
        saved = trees.saved_leaves(value)
        if len(key) != 1 or key[0] >= DENOMINATIONS or saved is None:
            yield f"leaves {key.hex()} are no denomination's"
            continue
        leaves, counts = saved
        for number in range(DEN_PAGES):
            page = key[0] * DEN_PAGES + number
            if number % PROGRESS_PAGES == 0:
                progress((STORE_PAGES + page) // 2, STORE_PAGES)
            at = number * trees.HASH_BYTES
            kept = (leaves[at : at + trees.HASH_BYTES], counts[number])
            if page not in changed and trees.leaf_of(coins, page) != kept:
                yield f"page {file_name(page)} differs from the leaf that was saved for it"
    progress(STORE_PAGES, STORE_PAGES)


def _page_of_key(key: bytes) -> int | None:
    page = int.from_bytes(key)
    return page if len(key) == _KEY_BYTES and page < STORE_PAGES else None


@dataclass(frozen=True, slots=True)
class Stat:
    """The content of a store in numbers. Sizes in bytes; last_change in seconds since 1970;
    circulating: denomination, -8 to 6 -> coins; raida_id: None until a node has served it."""

    path: str
    format: int
    raida_id: int | None
    unfinished: str | None
    file_bytes: int
    used_bytes: int
    pages: int
    pages_written: int
    pages_unreadable: int
    circulating: dict[int, int]
    tickets_alive: int
    last_change: float

    def as_dict(self) -> dict[str, object]:
        """Return the values for JSON."""
        circulating = {str(key): count for key, count in self.circulating.items()}
        changes = {"circulating": circulating, "last_change": self.last_change_text()}
        return dataclasses.asdict(self) | changes

    def last_change_text(self) -> str:
        """Return the time of the last change in UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.last_change))

    def table(self) -> str:
        """Return the values as a table of text."""
        counts = ", ".join(f"{key}: {count}" for key, count in self.circulating.items() if count)
        others = self.pages - self.pages_written - self.pages_unreadable
        rows = {
            "store": f"{self.path}, format {self.format}",
            "RAIDA": "not served yet" if self.raida_id is None else str(self.raida_id),
            "size": f"{self.used_bytes / 2**20:.1f} MiB in a file of "
            f"{self.file_bytes / 2**20:.1f} MiB",
            "pages": f"{self.pages}: {self.pages_written} written, "
            f"{self.pages_unreadable} that cannot be read"
            + (f", {others} as made by init" if others else ""),
            "circulating": counts or "none",
            "tickets": str(self.tickets_alive),
            "last change": self.last_change_text(),
        }
        if self.unfinished is not None:
            rows["unfinished"] = self.unfinished
        return "".join(f"{name:<12} {value}\n" for name, value in rows.items())


def stat(path: Path) -> Stat:
    """Count what a store contains; a node may have it open. Raises StoreError."""
    with reading(path, unfinished=True) as store:
        sizes = store.sizes()
        file = (path / FILE).stat()
        circulating = [0] * DENOMINATIONS
        unreadable = 0
        with store.read() as coins:
            for page in range(STORE_PAGES):
                _, count, state = coins.view.select(page)
                circulating[page // DEN_PAGES] += count
                unreadable += state == native_store.UNREADABLE
            alive = tickets.alive(coins)
        return Stat(
            path=printable(path),
            format=int(FORMAT),
            raida_id=store.raida_id,
            unfinished=store.unfinished,
            file_bytes=file.st_size,
            used_bytes=sizes.used_bytes,
            pages=STORE_PAGES,
            pages_written=sizes.written_pages - unreadable,
            pages_unreadable=unreadable,
            circulating={
                index + DENOMINATION_MIN: count for index, count in enumerate(circulating)
            },
            tickets_alive=alive,
            last_change=file.st_mtime,
        )
