"""`store verify` and `store stat`: check a store, and summarise its content.

A node may have the store open. Thread: any, one call at a time. Memory: the store's coins.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base, native_store, native_trees
from raida_uring.ffi.native_base import TABLE_LEAVES, TABLE_PAGES, TABLE_REMAINS
from raida_uring.ffi.native_store import (
    DEN_PAGES,
    DENOMINATIONS,
    PAGE_SIZE,
    PAGE_UNREADABLE,
    PAGE_WRITTEN,
    SELECTED_SIZE,
    STORE_PAGES,
)
from raida_uring.store import files, trees
from raida_uring.store.files import FILE, JOURNAL, explained, printable, size_of
from raida_uring.store.fill import PROGRESS_PAGES, Progress, no_progress
from raida_uring.store.journal import Journal
from raida_uring.store.layout import DENOMINATION_MIN, FORMAT, MAP_BYTES_DEFAULT, file_name
from raida_uring.store.meta import Meta
from raida_uring.store.store import reading

_KEY_BYTES: Final = 2
_TRIES: Final = 20  # a node may let go of journal that is about to be read


# --- Verify -----------------------------------------------------------------------------------


def verify(path: Path, *, progress: Progress = no_progress) -> list[str]:
    """Return the faults of a store, one line each; a node may have the store open.

    Raises StoreError if it cannot be checked: no store, another format, not permitted.
    """
    room = max(MAP_BYTES_DEFAULT, 2 * size_of(path))
    try:
        native_base.survey(str(path))
        base = native_base.Base(str(path), room, native_base.BASE_READ_ONLY)
        with contextlib.closing(base):
            return list(_faults(path, base, progress))
    except StoreError as error:
        if error.number not in native_base.DAMAGED:
            raise explained(path, error) from error
        return [str(error)]


def _faults(path: Path, base: native_base.Base, progress: Progress) -> Iterator[str]:
    meta = Meta.of(path, base)
    if meta.unfinished is not None:
        yield f"holds only a part of the coins: {meta.unfinished} did not come to its end"
    if not meta.seed:
        yield "has no seed: the ANs of pages that were never written are lost"
    yield from _name_faults(base)
    yield from _page_faults(base, progress)
    yield from _remains_faults(base)
    yield from _state_faults(path, base, progress)
    progress(STORE_PAGES, STORE_PAGES)


def _name_faults(base: native_base.Base) -> Iterator[str]:
    tables = {TABLE_PAGES: "a page", TABLE_REMAINS: "what remains of a file"}
    with base.txn() as txn:
        for table, what in tables.items():
            for key in txn.keys(table):
                if _page_of_key(key) is None:
                    yield f"{what} is named {key.hex()}, which no page is"


def _page_faults(base: native_base.Base, progress: Progress) -> Iterator[str]:
    """In many transactions: a long one would keep a node from reusing LMDB's pages."""
    for start in range(0, STORE_PAGES, PROGRESS_PAGES):
        progress(start // 2, STORE_PAGES)
        with base.txn() as txn:
            for page in range(start, min(start + PROGRESS_PAGES, STORE_PAGES)):
                fault = _page_fault(txn, page)
                if fault is not None:
                    yield f"page {file_name(page)} {fault}"


def _page_fault(txn: native_base.Txn, page: int) -> str | None:
    try:
        found = txn.page(page)
    except StoreError as error:
        if error.number != native_base.BASE_DAMAGED:
            raise
        return "is damaged: its bytes do not have the checksum that was written with them"
    if found is None:
        return None
    content, _, sha = found
    if content is None:
        told = txn.get(TABLE_REMAINS, page.to_bytes(_KEY_BYTES)) is not None
        return None if told else "is empty without a recorded reason"
    if hashlib.sha256(content).digest() != sha:
        return "is damaged: its bytes do not have the SHA-256 that was written with them"
    return None


def _remains_faults(base: native_base.Base) -> Iterator[str]:
    with base.txn() as txn:
        for key, value in txn.entries(TABLE_REMAINS):
            page = _page_of_key(key)
            if page is None:
                continue  # named by _name_faults()
            try:
                found = txn.page(page)
            except StoreError:
                continue  # named by _page_faults()
            whole = found is not None and found[0] is not None
            kind, size = value[:1], len(value) - 1
            unreadable = (kind == b"m" and size == 0) or (kind == b"s" and size < PAGE_SIZE)
            if not (kind == b"t" and size > 0 if whole else found is not None and unreadable):
                yield f"page {file_name(page)} contradicts the record of its imported file"


def _state_faults(path: Path, base: native_base.Base, progress: Progress) -> Iterator[str]:
    """Faults of the journal, and of what follows from base and journal together."""
    with contextlib.ExitStack() as stack:
        journal = Journal(path, base)
        stack.callback(journal.close)
        for left in reversed(range(_TRIES)):
            try:
                meta = journal.find()
            except StoreError as error:
                if error.number not in (native_store.JOURNAL_MISSING, native_store.JOURNAL_FOREIGN):
                    raise
                yield str(error)
                return
            coins = native_store.Store(seed=meta.seed)
            stack.callback(coins.close)
            damaged = _load(base, coins)
            fault = _replay(coins, journal, meta.since)
            if fault is None:
                yield from _ahead_faults(coins)
                yield from _leaf_faults(base, coins, damaged, progress)
                return
            if left == 0 or fault.number not in native_store.JOURNAL_MOVES:
                yield str(explained(path, fault))
                return
            coins.close()


def _load(base: native_base.Base, coins: native_store.Store) -> set[int]:
    """Load all pages of the base but damaged ones, which are returned."""
    damaged = set()
    for start in range(0, STORE_PAGES, PROGRESS_PAGES):
        with base.txn() as txn:
            for page in range(start, min(start + PROGRESS_PAGES, STORE_PAGES)):
                try:
                    coins.load(txn, page, 1)
                except StoreError as error:
                    if error.number != native_base.BASE_DAMAGED:
                        raise
                    damaged.add(page)
    return damaged


def _replay(coins: native_store.Store, journal: Journal, since: int) -> StoreError | None:
    """Apply the journal; returns what is wrong with it."""
    # Where the base knew of no journal, changes in it say that a node has begun one meanwhile.
    none_yet = journal.descriptor < 0
    at_least = max((number for _, number in coins.numbers()), default=0) if none_yet else 0
    try:
        journal.replay(coins, since, at_least)
    except StoreError as error:
        if error.number not in native_store.JOURNAL_FAULTS:
            raise
        return error
    return None


def _ahead_faults(coins: native_store.Store) -> Iterator[str]:
    """Pages with changes that the journal does not have yet: a part of it is gone."""
    end = coins.progress().applied
    ahead = [number for _, number in coins.numbers() if number > end]
    if ahead:
        yield (
            f"{len(ahead)} pages have changes up to number {max(ahead)}, and the {JOURNAL} ends at "
            f"{end}: it was cut off, or {FILE} and {JOURNAL} are not of one time"
        )


def _leaf_faults(
    base: native_base.Base, coins: native_store.Store, damaged: set[int], progress: Progress
) -> Iterator[str]:
    """Saved leaves of the trees that are not those of the same state of the page."""
    with base.txn() as txn:
        entries = list(txn.entries(TABLE_LEAVES))
    end, now, fresh = coins.progress().applied, dict(coins.numbers()), native_trees.Hasher(coins)
    for key, value in entries:
        saved = trees.saved_leaves(value)
        if len(key) != 1 or key[0] >= DENOMINATIONS or saved is None:
            yield f"leaves {key.hex()} are no denomination's"
            continue
        leaves, counts, numbers = saved
        for number in range(DEN_PAGES):
            page = key[0] * DEN_PAGES + number
            if number % PROGRESS_PAGES == 0:
                progress((STORE_PAGES + page) // 2, STORE_PAGES)
            if page in damaged or numbers[number] != now.get(page, 0) or numbers[number] > end:
                continue
            at = number * trees.HASH_BYTES
            kept = (leaves[at : at + trees.HASH_BYTES], counts[number])
            if fresh.page(page) != kept:
                yield f"page {file_name(page)} differs from the leaf that was saved for it"


def _page_of_key(key: bytes) -> int | None:
    page = int.from_bytes(key)
    return page if len(key) == _KEY_BYTES and page < STORE_PAGES else None


# --- Stat -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stat:
    """The content of a store in numbers. Sizes in bytes; last_change in seconds since 1970;
    circulating: denomination, -8 to 6 -> coins; raida_id: None until a node has served it;
    journal_entries: batches of changes that the base lacks; checkpoint_age_s: None before the
    first one."""

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
    journal_bytes: int
    journal_entries: int
    checkpoint_age_s: float | None
    last_change: float

    def as_dict(self) -> dict[str, object]:
        """Return the values for JSON."""
        circulating = {str(key): count for key, count in self.circulating.items()}
        changes = {"circulating": circulating, "last_change": self.last_change_text()}
        return dataclasses.asdict(self) | changes

    def last_change_text(self) -> str:
        """Return the time of the last change in UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.last_change))

    def _checkpoint_text(self) -> str:
        age_s = self.checkpoint_age_s
        return "none yet" if age_s is None else f"{age_s:.0f} s ago"

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
            "journal": f"{self.journal_bytes / 2**20:.1f} MiB, {self.journal_entries} batches of "
            f"changes since the last checkpoint ({self._checkpoint_text()})",
            "last change": self.last_change_text(),
        }
        if self.unfinished is not None:
            rows["unfinished"] = self.unfinished
        return "".join(f"{name:<12} {value}\n" for name, value in rows.items())


def stat(path: Path) -> Stat:
    """Count what a store contains; a node may have it open. Raises StoreError."""
    with reading(path, unfinished=True) as store:
        file = (path / FILE).stat()
        circulating, states = [0] * DENOMINATIONS, [0] * 3
        selected = bytearray(SELECTED_SIZE)
        for page in range(STORE_PAGES):
            state, count, _ = store.native.select(page, selected)
            circulating[page // DEN_PAGES] += count
            states[state] += 1
        sizes, saved_s = store.sizes(), store.checkpointed
        return Stat(
            path=printable(path),
            format=int(FORMAT),
            raida_id=store.raida_id,
            unfinished=store.unfinished,
            file_bytes=file.st_size,
            used_bytes=sizes.used_bytes,
            pages=STORE_PAGES,
            pages_written=states[PAGE_WRITTEN],
            pages_unreadable=states[PAGE_UNREADABLE],
            circulating={
                index + DENOMINATION_MIN: count for index, count in enumerate(circulating)
            },
            journal_bytes=files.journal_bytes(path),
            journal_entries=sizes.journal_entries,
            checkpoint_age_s=None if saved_s is None else max(0.0, time.time() - saved_s),
            last_change=files.last_change(path),
        )
