"""The coins of the recordings' fixture, as far as encryption needs them.

Source: wire.json's fixture (`store`); default records by the wire specification, section 8.3.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

from raida_uring.store import Store
from tests.support.coin_requests import default_an
from tests.support.store import MAP_BYTES, make_recorded_store
from tests.support.wire import STORE

RECORDS_PER_PAGE: int = STORE["records_per_page"]
SN_MAX: int = STORE["pages_per_denomination"] * RECORDS_PER_PAGE - 1


@functools.cache
def _stored() -> Store:
    """The recordings' store, once for all nodes of this process. Its directory goes with all that
    the tests leave."""
    path = make_recorded_store(Path(tempfile.mkdtemp(prefix="raida-")) / "store")
    return Store(path, map_bytes=MAP_BYTES, read_only=True)


class Coins:
    """The coins by the fixture's rules, and in a store that has the same. Any thread."""

    def __init__(self) -> None:
        entries: list[dict[str, Any]] = STORE["records"]
        self._records = {(one["den"], one["sn"]): bytes.fromhex(one["an"]) for one in entries}
        self._months = {(one["den"], one["sn"]): int(one["mfs"]) for one in entries}
        self._missing = {(one["den"], one["page"]) for one in STORE["short_pages"]}

    @property
    def store(self) -> Store:
        """A store with these coins, for nodes that have none of their own; stays open."""
        return _stored()

    def an(self, den: int, sn: int) -> bytes | None:
        """The 16 bytes, or None for a coin whose page cannot be read."""
        page = sn // RECORDS_PER_PAGE
        if den not in STORE["denominations"] or sn > SN_MAX or (den, page) in self._missing:
            return None
        return self._records.get((den, sn)) or default_an((den, sn))

    def record(self, den: int, sn: int) -> bytes:
        """The 17 bytes of a coin whose page can be read: AN and MFS."""
        an = self.an(den, sn)
        assert an is not None
        return an + bytes((self._months.get((den, sn), 0),))
