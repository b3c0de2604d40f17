"""Directories as the reference server's `Data`, with page files of any length.

`python -m tests.support.page_files DIRECTORY` makes a full one, 15,000 files and 261 MB, to measure
import and export with.
"""

import random
import sys
from collections.abc import Mapping
from pathlib import Path

from raida_uring.store import PAGE_SIZE, STORE_PAGES
from raida_uring.store.layout import file_name


def page_bytes(page: int, size: int = PAGE_SIZE) -> bytes:
    """Bytes that no other page has."""
    return random.Random(page).randbytes(size)


def write_page_files(data: Path, sizes: Mapping[int, int]) -> Path:
    """Make `data` with a file of sizes[page] bytes for each page."""
    for page, size in sizes.items():
        file = data / file_name(page)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(page_bytes(page, size))
    return data


def tree(data: Path) -> dict[str, bytes]:
    """Every file below `data`, by its name from there."""
    return {
        path.relative_to(data).as_posix(): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    write_page_files(Path(sys.argv[1]), dict.fromkeys(range(STORE_PAGES), PAGE_SIZE))
