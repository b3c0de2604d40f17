"""The coin store: reading and changing coins.

`Store` (store.py) is an open store, `Coins` (coins.py) one thread's view of it. transfer.py and
verify.py have the operators' tools, trees.py the Merkle trees over the pages.
"""

from raida_uring.ffi.native_store import (
    DENOMINATIONS,
    DIFFERS,
    EQUAL,
    PAGE_SIZE,
    STORE_PAGES,
    UNREADABLE,
)
from raida_uring.store.coins import Coins
from raida_uring.store.files import explained, size_of
from raida_uring.store.layout import (
    AN_BYTES,
    COIN_BYTES,
    DENOMINATION_BYTES,
    denomination_of,
    month_now,
    page_of,
)
from raida_uring.store.opening import Durability, check
from raida_uring.store.store import Sizes, Store
from raida_uring.store.upkeep import Checkpoints, Syncer, Watch

__all__ = [
    "AN_BYTES",
    "COIN_BYTES",
    "DENOMINATIONS",
    "DENOMINATION_BYTES",
    "DIFFERS",
    "EQUAL",
    "PAGE_SIZE",
    "STORE_PAGES",
    "UNREADABLE",
    "Checkpoints",
    "Coins",
    "Durability",
    "Sizes",
    "Store",
    "Syncer",
    "Watch",
    "check",
    "denomination_of",
    "explained",
    "month_now",
    "page_of",
    "size_of",
]
