"""What an operator does with a store: import, export, verify, stat.

Import and export speak the reference server's `Data` directory, one file per page:
`<denomination>/<page / 256>/<page>.bin`, all in hex. Thread: any, one call at a time. Memory: a
thousand pages at most. Source: wire specification, sections 8.1 to 8.3.
"""

import contextlib
import os
import re
import stat as modes
import time
from collections.abc import Callable, Iterator
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
from raida_uring.store import (
    DENOMINATION_BYTES,
    DENOMINATION_MIN,
    FILE,
    FORMAT,
    MAP_BYTES_DEFAULT,
    Coins,
    Store,
    explained,
    size_of,
    tickets,
    trees,
)

FILE_BYTES_MAX: Final = 1 << 20  # a longer page file is something else
COMMIT_PAGES: Final = 1000  # changed at once: 17 MB
PROGRESS_PAGES: Final = 100
UNFINISHED_EXPORT: Final = "UNFINISHED"  # a file that stands in a directory until all others do
LOST_AND_FOUND: Final = "lost+found"  # of mkfs, in the root of a file system
UNKNOWN_MAX: Final = 1000  # names kept of files that are no page files

_PAGES_OF_FOLDER: Final = 256
_FILE_NAME: Final = re.compile(r"([0-9a-f]{4})\.bin")
_KEY_BYTES: Final = 2

Progress = Callable[[int, int], None]
"""Called with the number of pages done, and of all, now and then."""


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def file_name(page: int) -> str:
    """Where the file of one of the store's pages stands below the `Data` directory."""
    index, number = divmod(page, DEN_PAGES)
    folder = number // _PAGES_OF_FOLDER
    return f"{DENOMINATION_BYTES[index]:02x}/{folder:02x}/{number:04x}.bin"


# --- Import -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    """Files by what they were; `unknown`: names below the directory that are no page files, the
    first UNKNOWN_MAX of `unknown_count`."""

    whole: int
    longer: int
    short: int
    missing: int
    unknown: tuple[str, ...]
    unknown_count: int


def import_files(
    data: Path,
    path: Path,
    *,
    map_bytes: int = MAP_BYTES_DEFAULT,
    progress: Progress = no_progress,
) -> Imported:
    """Fill the store at `path`, made when there is none, with the page files below `data`.

    A short or missing file stays that. Raises StoreError: `data` holds no page file, one cannot be
    read, the store is not empty, in use, or cannot be written; a store that was made for it is
    gone then. Whatever else ends it before its end, the store stays marked as unfinished, and a
    further import begins anew.
    """
    found, unknown, unknown_count = _scan(data)
    doing = f"the import of {_printable(data)}"
    made = not os.path.lexists(path / FILE)
    if made:
        Store.create(path, map_bytes=map_bytes, unfinished=doing)
    store = Store(path, map_bytes=map_bytes, unfinished=True)
    try:
        if store.unfinished is None:
            _refuse_filled(store)
            store.mark_unfinished(doing)
        sizes = _import_pages(store, data, found, progress)
        store.mark_unfinished(None)
    except StoreError:
        if made:
            with contextlib.suppress(OSError):
                store.remove()
        raise
    finally:
        store.close()
    return Imported(
        whole=sizes.count(PAGE_SIZE),
        longer=sum(size > PAGE_SIZE for size in sizes),
        short=sum(0 <= size < PAGE_SIZE for size in sizes),
        missing=sizes.count(-1),
        unknown=unknown,
        unknown_count=unknown_count,
    )


def _refuse_filled(store: Store) -> None:
    with store.read() as coins:
        if any(coins.view.count(table) for table in (TABLE_PAGES, TABLE_REMAINS, TABLE_TICKETS)):
            raise StoreError(f"{store.path}: holds changed coins: import into a new store")


def _import_pages(store: Store, data: Path, found: set[int], progress: Progress) -> list[int]:
    """The sizes of the files, -1: missing."""
    sizes = []
    for start in range(0, STORE_PAGES, COMMIT_PAGES):
        with store.write() as coins:
            for page in range(start, min(start + COMMIT_PAGES, STORE_PAGES)):
                if page % PROGRESS_PAGES == 0:
                    progress(page, STORE_PAGES)
                content = _read_file(data / file_name(page)) if page in found else None
                coins.put_file(page, content)
                sizes.append(-1 if content is None else len(content))
    progress(STORE_PAGES, STORE_PAGES)
    return sizes


def _scan(data: Path) -> tuple[set[int], tuple[str, ...], int]:
    """The pages that have a file, names that stand for none, and how many those are."""
    found: set[int] = set()
    unknown: list[str] = []
    unknown_count = 0
    expected = {f"{byte:02x}": index * DEN_PAGES for index, byte in enumerate(DENOMINATION_BYTES)}
    folders = {f"{number:02x}" for number in range(-(-DEN_PAGES // _PAGES_OF_FOLDER))}
    for name in _names(data):
        if name == UNFINISHED_EXPORT:
            raise StoreError(f"{data}: an export that did not come to its end")
        inner = _names(data / name) if name in expected else []
        strays = [] if name in expected or name == LOST_AND_FOUND else [name]
        for folder in inner:
            if folder not in folders:
                strays.append(f"{name}/{folder}")
                continue
            for file in _names(data / name / folder):
                match = _FILE_NAME.fullmatch(file)
                number = int(match[1], 16) if match else DEN_PAGES
                if number < DEN_PAGES and number // _PAGES_OF_FOLDER == int(folder, 16):
                    found.add(expected[name] + number)
                else:
                    strays.append(f"{name}/{folder}/{file}")
        unknown += strays[: UNKNOWN_MAX - len(unknown)]
        unknown_count += len(strays)
    if not found:
        hint = f" such as {data / 'Data'}" if (data / "Data").is_dir() else ""
        raise StoreError(
            f"{data}: no page file in it: name the directory that has f8 to 06 in it{hint}"
        )
    return found, tuple(unknown), unknown_count


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}") from error


def _read_file(path: Path) -> bytes:
    """All of it. What is there and cannot be read must not pass for missing."""
    try:
        # Nonblocking: a FIFO must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0, closefd=True) as file:
            if not modes.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path}: is not a file")
            content = bytearray()
            while chunk := file.read(FILE_BYTES_MAX + 1 - len(content)):
                content += chunk
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise StoreError(f"{path}: is longer than {FILE_BYTES_MAX >> 20} MiB: not a page file")
    return bytes(content)


# --- Export -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exported:
    """files written; pages that have none, because they had none when imported."""

    files: int
    missing: int


def export_files(path: Path, target: Path, *, progress: Progress = no_progress) -> Exported:
    """Write the store's pages as files below `target`, as they were imported, but for changes.

    All are of one moment; a node may have the store open. A page that was never written gets a
    file, too. target: a directory that is empty, but for what mkfs leaves, or does not exist.
    Until all is on the disk it holds a file UNFINISHED_EXPORT. Raises StoreError.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_reading(path))
        try:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            if set(os.listdir(target)) - {LOST_AND_FOUND}:
                raise StoreError(f"{target}: is not empty")
            _write_file(target / UNFINISHED_EXPORT, b"")
            coins = stack.enter_context(store.read())
            files = _export_pages(coins, target, progress)
            native_store.sync_files(str(target))
            (target / UNFINISHED_EXPORT).unlink()
            native_store.sync_files(str(target))
        except FileExistsError:
            raise StoreError(f"{target}: is not a directory") from None
        except OSError as error:
            raise StoreError(f"{error.filename or target}: {error.strerror}") from error
    return Exported(files, STORE_PAGES - files)


def _export_pages(coins: Coins, target: Path, progress: Progress) -> int:
    files = 0
    made: set[Path] = set()
    for page in range(STORE_PAGES):
        if page % PROGRESS_PAGES == 0:
            progress(page, STORE_PAGES)
        content = _file_content(coins, page)
        if content is None:
            continue
        file = target / file_name(page)
        if file.parent not in made:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.add(file.parent)
        _write_file(file, content)
        files += 1
    progress(STORE_PAGES, STORE_PAGES)
    return files


def _file_content(coins: Coins, page: int) -> bytes | None:
    """What the page's file holds; None: there is none."""
    whole, remains = coins.page(page), coins.remains(page)
    if whole is not None:
        if remains is None:
            return whole
        if remains[:1] == b"t":
            return whole + remains[1:]
    elif remains is not None:
        if remains == b"m":
            return None
        if remains[:1] == b"s":
            return remains[1:]
    raise StoreError(f"page {file_name(page)} is damaged: verify tells more")


def _write_file(path: Path, content: bytes) -> None:
    """Under another name first, so that a file is there in full or not at all."""
    partial = path.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        os.close(descriptor)
    partial.rename(path)


# --- Verify -----------------------------------------------------------------------------------


def verify(path: Path, *, progress: Progress = no_progress) -> list[str]:
    """What is wrong with a store, a line each; a node may have it open.

    Raises StoreError when it cannot be looked at: no store, of another format, not permitted.
    """
    size_of(path)
    try:
        native_store.survey(str(path))
        with _reading(path, unfinished=True) as store, store.read() as coins:
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
            yield f"page {file_name(page)} is empty, and nothing says why"


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
            yield f"page {file_name(page)} contradicts what is kept of its file"


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


# --- Stat -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store holds. Sizes in bytes; last_change in seconds since 1970; circulating:
    denomination, -8 to 6 -> coins; raida_id: None until a node has served it."""

    path: str
    format: int
    raida_id: int | None
    unfinished: str | None
    file_bytes: int
    used_bytes: int
    pages_written: int
    pages_unreadable: int
    circulating: dict[int, int]
    tickets_alive: int
    last_change: float

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        return {
            "path": self.path,
            "format": self.format,
            "raida_id": self.raida_id,
            "unfinished": self.unfinished,
            "file_bytes": self.file_bytes,
            "used_bytes": self.used_bytes,
            "pages": STORE_PAGES,
            "pages_written": self.pages_written,
            "pages_unreadable": self.pages_unreadable,
            "circulating": {str(key): count for key, count in self.circulating.items()},
            "tickets_alive": self.tickets_alive,
            "last_change": self.last_change_text(),
        }

    def last_change_text(self) -> str:
        """In UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.last_change))

    def table(self) -> str:
        """For people."""
        counts = ", ".join(f"{key}: {count}" for key, count in self.circulating.items() if count)
        others = STORE_PAGES - self.pages_written - self.pages_unreadable
        rows = {
            "store": f"{self.path}, format {self.format}",
            "RAIDA": "not served yet" if self.raida_id is None else str(self.raida_id),
            "size": f"{self.used_bytes / 2**20:.1f} MiB in a file of "
            f"{self.file_bytes / 2**20:.1f} MiB",
            "pages": f"{STORE_PAGES}: {self.pages_written} written, "
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
    """Look at a store; a node may have it open. Raises StoreError."""
    with _reading(path, unfinished=True) as store:
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
            path=_printable(path),
            format=int(FORMAT),
            raida_id=store.raida_id,
            unfinished=store.unfinished,
            file_bytes=file.st_size,
            used_bytes=sizes.used_bytes,
            pages_written=sizes.written_pages - unreadable,
            pages_unreadable=unreadable,
            circulating={
                index + DENOMINATION_MIN: count for index, count in enumerate(circulating)
            },
            tickets_alive=alive,
            last_change=file.st_mtime,
        )


# --- Common -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(path: Path, *, unfinished: bool = False) -> Iterator[Store]:
    # A node's store may be larger than the default, and may grow meanwhile.
    room = max(MAP_BYTES_DEFAULT, 2 * size_of(path))
    store = Store(path, map_bytes=room, read_only=True, unfinished=unfinished)
    try:
        yield store
    finally:
        store.close()


def _printable(path: Path) -> str:
    """The path for people; its bytes may be no text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
