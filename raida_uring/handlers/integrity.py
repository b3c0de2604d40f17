"""The integrity group: Merkle trees, by which RAIDA compare their stores, and whole pages.

No RAIDA needs pages for healing: `fix` uses votes on tickets. A page reveals every AN on it.
Source: wire specification, "Integrity group".
"""

from typing import Final

from raida_uring.ffi.native_store import DEN_PAGES
from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import Status
from raida_uring.protocol.layout import (
    DENOMINATIONS,
    PAGE_REQUEST,
)
from raida_uring.store import DENOMINATION_BYTES, page_of

_LENGTH: Final = Reply(Status.INVALID_PACKET_LENGTH)
_REFUSED: Final = Reply(Status.NOT_IMPLEMENTED)
_NOT_THERE: Final = Reply(Status.FILE_NOT_EXIST)
_TOO_SHORT: Final = Reply(Status.FILESYSTEM)


@command(group=0, code=3, public=True)
def audit(_request: Request, node: Node) -> Reply:
    """Coins in circulation by denomination: 15 times denomination and u32, 75 bytes."""
    counts = node.integrity.circulating
    return Reply(
        payload=b"".join(
            byte.to_bytes(1) + count.to_bytes(4)
            for byte, count in zip(DENOMINATION_BYTES, counts, strict=True)
        )
    )


@command(group=14, code=4, needs_body=True, public=True)
def get_page_data(request: Request, node: Node) -> Reply:
    """The 17,408 bytes of a page, with every AN on it; only for peers in `[store] pages_for`."""
    if node.page_readers is not None and request.peer[0] not in node.page_readers:
        return _REFUSED
    payload = request.payload
    if len(payload) != PAGE_REQUEST.size:
        return _LENGTH
    denomination, number = PAGE_REQUEST.unpack(payload)
    if denomination not in DENOMINATIONS or number >= DEN_PAGES:
        return _NOT_THERE
    page = page_of(denomination, number)
    data = node.coins.page(page)
    if data is not None:
        return Reply(payload=data)
    return _NOT_THERE if node.coins.remains(page) == b"m" else _TOO_SHORT
