"""The command fix, which asks other RAIDA. ffi/commands/ has the others of the healing group.

Source: wire specification, "Healing group".
"""

import asyncio
import hashlib
from collections import Counter
from typing import Final

from raida_uring.handlers import Node, Reply, Request, command, peers
from raida_uring.protocol import Status
from raida_uring.protocol.layout import COIN_AN_SIZE, RAIDA_COUNT, TICKET_SIZE
from raida_uring.store import COIN_BYTES, UNREADABLE, month_now

VOTES_MIN: Final = 14  # of 25 RAIDA, including this node
GROUP_BYTES: Final = 16  # of the "PG", from which a fixed coin's new AN is computed

_LENGTH: Final = Reply(Status.INVALID_PACKET_LENGTH)
_NOT_DIVISIBLE: Final = Reply(Status.COINS_NOT_DIV)
_NO_SUCH_COIN: Final = Reply(Status.INVALID_SN_OR_DENOMINATION)
_ALL_PASS: Final = Reply(Status.ALL_PASS)
_ALL_FAIL: Final = Reply(Status.ALL_FAIL)
_TAIL_BYTES: Final = GROUP_BYTES + RAIDA_COUNT * TICKET_SIZE


@command(group=2, code=80, mode="slow", needs_body=True)
def fix(request: Request, node: Node) -> Reply:
    """Replace the ANs of coins for which enough other RAIDA confirm the client's tickets."""
    payload = request.payload
    if len(payload) < COIN_BYTES + _TAIL_BYTES:
        return _LENGTH
    count, over = divmod(len(payload) - _TAIL_BYTES, COIN_BYTES)
    if over:
        return _NOT_DIVISIBLE
    listed = [payload[at : at + COIN_BYTES] for at in range(0, count * COIN_BYTES, COIN_BYTES)]
    with node.read() as coins:
        if UNREADABLE in coins.gather(payload, count)[1]:
            return _NO_SUCH_COIN
    tail = payload[-_TAIL_BYTES:]
    group, numbers = tail[:GROUP_BYTES], tail[GROUP_BYTES:]
    votes = _votes(node, numbers, set(listed))
    fixed = [coin for coin in listed if votes[coin] >= VOTES_MIN]
    if fixed:
        raida = node.config.server.raida_id.to_bytes(1)
        changes = b"".join(
            coin + hashlib.md5(raida + coin + group, usedforsecurity=False).digest()
            for coin in fixed
        )
        with node.write() as coins:
            coins.set(changes, len(fixed), COIN_AN_SIZE, month_now())
    return _verdict([votes[coin] >= VOTES_MIN for coin in listed])


def _verdict(passed: list[bool]) -> Reply:
    """All, none, or some with a bit for each coin, the first one lowest."""
    if all(passed):
        return _ALL_PASS
    if not any(passed):
        return _ALL_FAIL
    bits = sum(1 << place for place, one in enumerate(passed) if one)
    return Reply(Status.MIXED, bits.to_bytes((len(passed) + 7) // 8, "little"))


def _votes(node: Node, numbers: bytes, coins: set[bytes]) -> Counter[bytes]:
    """Count the RAIDA, including this one, that confirm each of the coins, until all are decided.

    Stops as soon as the missing answers cannot change the result for any coin: otherwise one silent
    RAIDA would make every client wait for a time-out that is longer than the clients'.
    """
    server = node.config.server
    starts = enumerate(range(0, len(numbers), TICKET_SIZE))
    tickets_of = {raida: numbers[at : at + TICKET_SIZE] for raida, at in starts}
    asked = {i: one for i, one in tickets_of.items() if any(one) and i != server.raida_id}
    votes = Counter(coins)

    def decided(confirmed: set[bytes], left: int) -> bool:
        votes.update(confirmed & coins)
        return not any(VOTES_MIN - left <= votes[coin] < VOTES_MIN for coin in coins)

    asyncio.run(peers.redeem(server, asked, decided))
    return votes
