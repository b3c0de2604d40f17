"""Requests about coins, and a second computation of what a node keeps about them.

Any thread. Source: wire specification, sections 6 and 8.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from raida_uring import protocol
from raida_uring.store import PAGE_SIZE, STORE_PAGES, Store, page_of
from tests.support.net import Endpoint, tcp_ask, udp_client, udp_exchange
from tests.support.store import MAP_BYTES, SEED, Coin, coin_bytes
from tests.support.wire import reply_payload, request, status

AUDIT, DETECT, DETECT_SUM, POWN, POWN_SUM = (0, 3), (1, 10), (1, 11), (1, 20), (1, 21)
GET_TICKET, VALIDATE_TICKET, FIND, FIX = (2, 40), (2, 50), (2, 60), (2, 80)
GET_MERKLE_BRANCH, GET_PAGE_DATA, GET_ALL_ROOTS = (14, 2), (14, 4), (14, 5)

HASH_BYTES = 32
EMPTY_LEAF = hashlib.sha256(bytes(16384)).digest()

Changes = Iterable[tuple[Coin, bytes, bytes]]  # coin, its AN, the one it is to have


def an_of(*parts: object) -> bytes:
    """16 bytes that differ for different parts."""
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).digest()


def default_an(coin: Coin) -> bytes:
    """The AN of a coin on a page that was never written, by the rule of section 8.3."""
    page, record = divmod(coin[1], 1024)
    text = f"{SEED}{coin[0] & 0xFFFFFFFF:02x}{page:04x}{record:02x}"
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()


def coins_ans(coins: Mapping[Coin, bytes]) -> bytes:
    """Coins with an AN each, as detect and get_ticket take them."""
    return b"".join(coin_bytes(coin) + an for coin, an in coins.items())


def pown_payload(changes: Changes) -> bytes:
    """Coins with their AN and the new one."""
    return b"".join(coin_bytes(coin) + old + new for coin, old, new in changes)


def sum_payload(coins: Iterable[Coin], *sums: bytes) -> bytes:
    """Coins, then the sums behind them."""
    return b"".join(map(coin_bytes, coins)) + b"".join(sums)


def xor(ans: Iterable[bytes]) -> bytes:
    """The sum of ANs."""
    total = 0
    for an in ans:
        total ^= int.from_bytes(an)
    return total.to_bytes(16)


def ask(
    endpoint: Endpoint, command: tuple[int, int], payload: bytes = b"", transport: str = "tcp"
) -> tuple[int, bytes]:
    """One exchange over a socket of its own: status and payload."""
    data = request(command, payload)
    if transport == "tcp":
        reply = tcp_ask(endpoint, data)
    else:
        with udp_client(endpoint) as client:
            reply = udp_exchange(client, endpoint, data)
    return status(reply), reply_payload(reply)


def detects(endpoint: Endpoint, coins: Mapping[Coin, bytes]) -> bool:
    """Whether all these ANs are the stored ones."""
    return ask(endpoint, DETECT, coins_ans(coins))[0] == protocol.Status.ALL_PASS


def all_roots(endpoint: Endpoint) -> bytes:
    """The 480 bytes of get_all_roots."""
    answered, roots = ask(endpoint, GET_ALL_ROOTS, bytes(480))
    assert answered == protocol.Status.SUCCESS
    assert len(roots) == 480
    return roots


def branch_payload(denomination: int, level: int, index: int) -> bytes:
    """What get_merkle_branch takes; any bytes fit."""
    return (denomination & 0xFF).to_bytes(1) + level.to_bytes(4) + index.to_bytes(4)


# -- trees, written down once more from section 8.4 ---------------------------------------------


def leaf_of(page: bytes | None) -> bytes:
    """The leaf of a page's 17,408 bytes; None: it cannot be read."""
    if page is None:
        return bytes(HASH_BYTES)
    assert len(page) == PAGE_SIZE
    records = (page[at : at + 17] for at in range(0, PAGE_SIZE, 17))
    return hashlib.sha256(
        b"".join(record[:16] if record[16] else bytes(16) for record in records)
    ).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves."""
    nodes = list(leaves)
    while len(nodes) > 1:
        pairs = itertools.zip_longest(nodes[::2], nodes[1::2])
        nodes = [hashlib.sha256(a + (a if b is None else b)).digest() for a, b in pairs]
    return nodes[0]


def roots_of(leaves: Mapping[int, bytes]) -> bytes:
    """All 15 roots; pages that are not named have no coin in circulation."""
    whole = [EMPTY_LEAF] * STORE_PAGES
    for page, leaf in leaves.items():
        whole[page] = leaf
    return b"".join(root_of(whole[at : at + 1000]) for at in range(0, STORE_PAGES, 1000))


def stored_roots(path: Path, pages: Iterable[int]) -> bytes:
    """The roots that follow from what a store holds in `pages`, all that were ever written. No
    process may have it open to write."""
    store = Store(path, map_bytes=MAP_BYTES, read_only=True)
    try:
        with store.read() as coins:
            return roots_of({page: leaf_of(coins.page(page)) for page in set(pages)})
    finally:
        store.close()


def stored_ans(path: Path, coins: Iterable[Coin]) -> dict[Coin, bytes | None]:
    """ANs as a store has them; in the same way."""
    store = Store(path, map_bytes=MAP_BYTES, read_only=True)
    try:
        with store.read() as view:
            return {coin: view.an(*coin) for coin in coins}
    finally:
        store.close()


def page_of_coin(coin: Coin) -> int:
    """The store's number of the page that a coin is on."""
    return page_of(coin[0], coin[1] // 1024)
