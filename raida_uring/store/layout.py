"""Numbering of denominations, pages, records and months in a store. Pure. Source: wire
specification, section 8."""

import functools
import time
from typing import Final

from raida_uring.ffi.native_store import DEN_PAGES, PAGE_RECORDS
from raida_uring.protocol import layout

FORMAT: Final = b"2"
FORMAT_OF_0_1: Final = b"1"  # coins in LMDB alone
MAP_BYTES_DEFAULT: Final = 2 << 30
JOURNAL_MIB_DEFAULT: Final = 1024
# Entries of the table META.
FORMAT_KEY: Final = b"format"
SEED_KEY: Final = b"seed"
RAIDA_KEY: Final = b"raida"  # the RAIDA that serves the store, one byte
IDENTITY_KEY: Final = b"identity"  # the journal's, drawn when it is made, or NO_JOURNAL
NO_JOURNAL: Final = b"none"  # no node has served the store yet
LEFT_KEY: Final = b"left"  # the identity of the journal that was abandoned: journal.py
SINCE_KEY: Final = b"since"  # number of the first batch that the pages may lack, big-endian
UNFINISHED_KEY: Final = b"unfinished"  # the operation under way, such as an import
CHECKPOINT_KEY: Final = b"checkpoint"  # when the last one ended, seconds since 1970, big-endian

COIN_BYTES: Final = layout.COIN_NAME_SIZE
AN_BYTES: Final = layout.AN_SIZE
SEED_BYTES: Final = 16
DENOMINATION_MIN: Final = layout.DENOMINATION_MIN
DENOMINATION_BYTES: Final = bytes(number & 0xFF for number in layout.DENOMINATIONS)  # on the wire
SERIALS: Final = DEN_PAGES * PAGE_RECORDS  # serial numbers of a denomination
PAGES_OF_FOLDER: Final = 256  # of the reference server's files
COIN: Final = layout.COIN_NAME


def page_of(denomination: int, page: int) -> int:
    """Return the store's number of page `page` (0 to 999) of a denomination (-8 to 6)."""
    return (denomination - DENOMINATION_MIN) * DEN_PAGES + page


def denomination_of(page: int) -> int:
    """Return the denomination, -8 to 6, of one of the store's pages."""
    return page // DEN_PAGES + DENOMINATION_MIN


def month_now(seconds: float | None = None) -> int:
    """Return the month as a record stores it: months since February 2023, UTC, modulo 256."""
    return _month_of(int(time.time() if seconds is None else seconds) // 3600)


@functools.lru_cache(maxsize=2)  # no month changes within an hour of UTC
def _month_of(hour: int) -> int:
    now = time.gmtime(hour * 3600)
    return ((now.tm_year - 2023) * 12 + now.tm_mon - 2) % 256


def file_name(page: int) -> str:
    """Return the path of a page's file below the `Data` directory."""
    index, number = divmod(page, DEN_PAGES)
    folder = number // PAGES_OF_FOLDER
    return f"{DENOMINATION_BYTES[index]:02x}/{folder:02x}/{number:04x}.bin"
