"""Import and export of a store from and to the files of the reference server.

The reference server's `Data` directory has one file per page:
`<denomination>/<page / 256>/<page>.bin`, all in hex. Thread: any, one call at a time. Memory: of an
import, the pages of one transaction; of an export, the store's coins. Source: wire specification,
sections 8.1 to 8.3.
"""

import os
import re
import stat as modes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.ffi.native_store import DEN_PAGES, PAGE_SIZE, STORE_PAGES
from raida_uring.store.files import LOST_AND_FOUND, printable, refuse_used
from raida_uring.store.fill import PROGRESS_PAGES, Progress, fill, no_progress, put_page
from raida_uring.store.layout import (
    DENOMINATION_BYTES,
    MAP_BYTES_DEFAULT,
    PAGES_OF_FOLDER,
    file_name,
)
from raida_uring.store.store import Store, reading

FILE_BYTES_MAX: Final = 1 << 20  # a longer file is not a page file
UNFINISHED_EXPORT: Final = "UNFINISHED"  # a file in the target directory until the export is done
UNKNOWN_MAX: Final = 1000  # most names reported of files that are not page files

_FILE_NAME: Final = re.compile(r"([0-9a-f]{4})\.bin")

# --- Import -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    """Numbers of page files by kind; `unknown`: names below the directory that are not page files,
    the first UNKNOWN_MAX of `unknown_count`."""

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
    """Import the page files below `data` into the store at `path`, created if there is none.

    Short and missing files are recorded as such. Raises StoreError: `data` has no page file, one
    cannot be read, the store is not empty, in use, or cannot be written; a store created for the
    import is then removed. If the import is interrupted in any other way, the store stays marked as
    unfinished, and another import starts over.
    """
    found, unknown, unknown_count = _scan(data)
    sizes = []

    def put(txn: native_base.Txn, page: int) -> None:
        content = _read_file(data / file_name(page)) if page in found else None
        put_file(txn, page, content)
        sizes.append(-1 if content is None else len(content))

    doing = f"the import of {printable(data)}"
    fill(path, put, doing=doing, map_bytes=map_bytes, progress=progress)
    return Imported(
        whole=sizes.count(PAGE_SIZE),
        longer=sum(size > PAGE_SIZE for size in sizes),
        short=sum(0 <= size < PAGE_SIZE for size in sizes),
        missing=sizes.count(-1),
        unknown=unknown,
        unknown_count=unknown_count,
    )


def put_file(txn: native_base.Txn, page: int, content: bytes | None) -> None:
    """Put the content of a page file as a page; None: the file is missing."""
    if content is None:
        put_page(txn, page, None, b"m")
    elif len(content) < PAGE_SIZE:
        put_page(txn, page, None, b"s" + content)
    else:
        tail = content[PAGE_SIZE:]
        put_page(txn, page, content[:PAGE_SIZE], b"t" + tail if tail else None)


def _scan(data: Path) -> tuple[set[int], tuple[str, ...], int]:
    """Return the pages that have a file, names that are not page files, and the number of those."""
    found: set[int] = set()
    unknown: list[str] = []
    unknown_count = 0
    expected = {f"{byte:02x}": index * DEN_PAGES for index, byte in enumerate(DENOMINATION_BYTES)}
    folders = {f"{number:02x}" for number in range(-(-DEN_PAGES // PAGES_OF_FOLDER))}
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
                if number < DEN_PAGES and number // PAGES_OF_FOLDER == int(folder, 16):
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
    """Return the file's content. An unreadable file is an error, not missing. Raises StoreError."""
    try:
        # Nonblocking, because opening a FIFO would block.
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
    """files: page files written. missing: pages without a file, as when they were imported."""

    files: int
    missing: int


def export_files(path: Path, target: Path, *, progress: Progress = no_progress) -> Exported:
    """Write the store's pages as files below `target`: as imported, with the changes since.

    All files have the state of one moment; a node may have the store open. A page that was never
    written gets a file, too. target: a directory that does not exist, or is empty except for
    lost+found. It has a file UNFINISHED_EXPORT until all files are on the disk. Raises StoreError.
    """
    refuse_used(target)
    with reading(path) as store:
        try:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_used(target)
            _write_file(target / UNFINISHED_EXPORT, b"")
            files = _export_pages(store, target, progress)
            native_base.sync_files(str(target))
            (target / UNFINISHED_EXPORT).unlink()
            native_base.sync_files(str(target))
        except FileExistsError:
            raise StoreError(f"{target}: is not a directory") from None
        except OSError as error:
            raise StoreError(f"{error.filename or target}: {error.strerror}") from error
    return Exported(files, STORE_PAGES - files)


def _export_pages(store: Store, target: Path, progress: Progress) -> int:
    files = 0
    made: set[Path] = set()
    for page in range(STORE_PAGES):
        if page % PROGRESS_PAGES == 0:
            progress(page, STORE_PAGES)
        content = _file_content(store, page)
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


def _file_content(store: Store, page: int) -> bytes | None:
    """Return the content of the page's file; None: the page has no file."""
    (whole, _), remains = store.native.page(page), store.remains(page)
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
    raise StoreError(f"page {file_name(page)} is damaged: run `raida-uring store verify`")


def _write_file(path: Path, content: bytes) -> None:
    """Write under another name and rename, so that a file is complete or does not exist."""
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
