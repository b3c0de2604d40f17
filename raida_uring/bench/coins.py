"""The coins of the benchmark's stores: which there are, their ANs, and the choice of some of them.

A coin is its index here: 1,024 of each page of the store, page after page. In the full store every
record was written, so that reading a coin is reading memory; in the fresh one none was, so that its
AN is computed. Requests take coins of their own from one of the choices below: a few that are asked
again and again would be in the processor's cache.
"""

import functools
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from raida_uring.ffi.native_store import DEN_PAGES
from raida_uring.protocol import layout
from raida_uring.store import STORE_PAGES, Store, denomination_of, month_now
from raida_uring.store.fill import fill, put_page

COINS_COUNT: Final = STORE_PAGES * layout.PAGE_RECORDS_COUNT
WORKING_SET: Final = 102_400  # coins of a busy hour, say: 4,096 requests of 25

_SEED: Final = "bench"
_RECORD: Final = layout.PAGE_RECORD_SIZE
_RECORDS: Final = layout.PAGE_RECORDS_COUNT
_WALK_PAGES: Final = 15  # pages whose coins have the same place there: 1,000 places, of 1,024
_WALKS_MAX: Final = 24
_SPARE: Final = 5000  # drawn in addition, for those that others change


@functools.cache
def _pool() -> bytes:
    """Records of which page n holds those from number n on: so they need not be made one by one."""
    size = (STORE_PAGES + _RECORDS) * _RECORD
    pool = bytearray(hashlib.shake_128(_SEED.encode()).digest(size))
    pool[layout.AN_SIZE :: _RECORD] = bytes((month_now(),)) * (size // _RECORD)
    return bytes(pool)


def name(coin: int) -> bytes:
    """Return denomination and serial number as the wire has them."""
    page, record = divmod(coin, _RECORDS)
    denomination, number = denomination_of(page), page % DEN_PAGES
    return layout.COIN_NAME.pack(denomination, number * _RECORDS + record)


def an(coin: int) -> bytes:
    """Return the coin's AN in the full store."""
    at = sum(divmod(coin, _RECORDS)) * _RECORD
    return _pool()[at : at + layout.AN_SIZE]


def other_an(coin: int) -> bytes:
    """Return the AN that the coin gets and loses again."""
    return bytes(byte ^ 0xFF for byte in an(coin))


def first_an(coin: int) -> bytes:
    """Return the AN of a coin in the fresh store (wire specification, default pages)."""
    page, record = divmod(coin, _RECORDS)
    denomination, number = denomination_of(page), page % DEN_PAGES
    text = b"%s%02x%04x%02x" % (_SEED.encode(), denomination & 0xFFFFFFFF, number, record)
    return hashlib.md5(text, usedforsecurity=False).digest()


# -- choices ---------------------------------------------------------------------------------------


def _is_read_only(coin: int) -> bool:
    """Whether own_pages() never names it: its AN then stays, whatever runs at the same time."""
    page, record = divmod(coin, _RECORDS)
    return not 0 <= record - page // _WALK_PAGES < _WALKS_MAX


@functools.cache
def working_set() -> Sequence[int]:
    """Coins that a node is asked about within a while: they fit into the last cache."""
    drawn = random.Random(1).sample(range(COINS_COUNT), WORKING_SET + _SPARE)
    return [coin for coin in drawn if _is_read_only(coin)][:WORKING_SET]


def anywhere(count: int) -> Sequence[int]:
    """Return coins at random out of all that there are; some may be named twice."""
    drawn = random.Random(2).choices(range(COINS_COUNT), k=count + count // 16 + _SPARE)
    return [coin for coin in drawn if _is_read_only(coin)][:count]


def own_pages(count: int) -> Sequence[int]:
    """Return different coins for changes, `count` at most _WALKS_MAX times the number of pages.

    Neighbours are on pages of their own, but for a few where a walk through all pages ends and the
    next begins, and within a walk no two have the same AN, which the sums of a request could not
    tell apart.
    """
    drawn = random.Random(3)
    found: list[int] = []
    for turn in range(-(-count // STORE_PAGES)):
        pages = drawn.sample(range(STORE_PAGES), STORE_PAGES)
        # Page and record add up to the place in the pool: both grow, so no two are the same.
        found += (page * _RECORDS + page // _WALK_PAGES + turn for page in pages)
    return found[:count]


# -- stores ----------------------------------------------------------------------------------------


def make_full_store(path: Path) -> None:
    """Make a store in which every coin was written. Raises StoreError."""
    pool = _pool()

    def content(page: int) -> bytes:
        return pool[page * _RECORD :][: layout.PAGE_SIZE]

    fill(path, lambda txn, page: put_page(txn, page, content(page), None), doing="a benchmark")


def make_fresh_store(path: Path) -> None:
    """Make a store that was never written. Raises StoreError."""
    Store.create(path, seed=_SEED)
