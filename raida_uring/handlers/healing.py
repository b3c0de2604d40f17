"""The healing group: tickets, find and fix.

Source: wire specification, "Healing group".
"""

import asyncio
import hashlib
from collections import Counter
from typing import Final

from raida_uring.handlers import Node, Reply, Request, command, peers
from raida_uring.handlers.coins import ALL_FAIL, LENGTH, NO_SUCH_COIN, bits, count_of, verdict
from raida_uring.handlers.message import payload_room
from raida_uring.protocol import Status
from raida_uring.protocol.layout import COIN_AN_SIZE, COIN_PAN_SIZE, RAIDA_COUNT, TICKET_SIZE
from raida_uring.store import COIN_BYTES, DIFFERS, EQUAL, UNREADABLE, month_now, tickets

VOTES_MIN: Final = 14  # of 25 RAIDA, including this node
GROUP_BYTES: Final = 16  # of the "PG", from which a fixed coin's new AN is computed

_NO_SLOT: Final = Reply(Status.NO_TICKET_SLOT)
_NO_TICKET: Final = Reply(Status.NO_TICKET_FOUND)
_CLAIMED: Final = Reply(Status.TICKET_CLAIMED_ALREADY)
_WRONG_RAIDA: Final = Reply(Status.WRONG_RAIDA)
_ASK_OVER_TCP: Final = Reply(Status.NOT_IMPLEMENTED)
_FIND_NEITHER: Final = Reply(Status.FIND_NEITHER)
_FIND_ALL_AN: Final = Reply(Status.FIND_ALL_AN)
_FIND_ALL_PAN: Final = Reply(Status.FIND_ALL_PAN)


@command(group=2, code=40, needs_body=True)
def get_ticket(request: Request, node: Node) -> Reply:
    """Issue a ticket for the coins whose AN is right; other RAIDA redeem it here."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_AN_SIZE), Reply):
        return count
    states = node.coins.match(payload, count, COIN_AN_SIZE)
    if UNREADABLE in states:
        return NO_SUCH_COIN
    passed = states.count(EQUAL)
    if passed == 0:
        return ALL_FAIL
    starts = (index * COIN_AN_SIZE for index, state in enumerate(states) if state == EQUAL)
    ticket = tickets.issue(node.coins, b"".join(payload[at : at + COIN_BYTES] for at in starts))
    if ticket is None:
        return _NO_SLOT
    if passed == count:
        return Reply(Status.ALL_PASS, ticket)
    return Reply(Status.MIXED, bits(states) + ticket)


# public: the client that got a ticket knows its coins, and could make this node encrypt them under
# the key of another client whose request it has recorded.
@command(group=2, code=50, needs_body=True, public=True, guesses=(Status.NO_TICKET_FOUND,))
def validate_ticket(request: Request, node: Node) -> Reply:
    """Return the coins of a ticket, once for each RAIDA."""
    payload = request.payload
    if len(payload) != 1 + TICKET_SIZE:
        return LENGTH
    if payload[0] >= RAIDA_COUNT:
        return _WRONG_RAIDA
    # A reply without room would be refused after the ticket was redeemed, which nothing takes back.
    room = payload_room(request, node.reply_factor)
    try:
        return Reply(payload=tickets.claim(node.coins, payload[1:], payload[0], room))
    except tickets.LargeTicketError:
        return _ASK_OVER_TCP
    except tickets.UnknownTicketError:
        return _NO_TICKET
    except tickets.ClaimedTicketError:
        return _CLAIMED


@command(group=2, code=60, needs_body=True)
def find(request: Request, node: Node) -> Reply:
    """Tell which of two ANs each coin has."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_PAN_SIZE), Reply):
        return count
    # Both ANs in one call, which sees one state: between two calls an owner may change coins.
    twice = b"".join(
        payload[at : at + COIN_AN_SIZE]
        + payload[at : at + COIN_BYTES]
        + payload[at + COIN_AN_SIZE : at + COIN_PAN_SIZE]
        for at in range(0, len(payload), COIN_PAN_SIZE)
    )
    states = node.coins.match(twice, 2 * count, COIN_AN_SIZE)
    ans, pans = states[::2], states[1::2]
    if UNREADABLE in ans:
        return NO_SUCH_COIN
    if ans.count(EQUAL) == count:
        return _FIND_ALL_AN
    found = bytes(
        1 if an == EQUAL else 2 if pan == EQUAL else 0 for an, pan in zip(ans, pans, strict=True)
    )
    if found.count(2) == count:
        return _FIND_ALL_PAN
    return Reply(Status.FIND_MIXED, found) if any(found) else _FIND_NEITHER


@command(group=2, code=80, mode="slow", needs_body=True)
def fix(request: Request, node: Node) -> Reply:
    """Replace the ANs of coins for which enough other RAIDA confirm the client's tickets."""
    payload = request.payload
    tail = GROUP_BYTES + RAIDA_COUNT * TICKET_SIZE
    if isinstance(count := count_of(payload, COIN_BYTES, tail), Reply):
        return count
    listed = [payload[at : at + COIN_BYTES] for at in range(0, count * COIN_BYTES, COIN_BYTES)]
    with node.read() as coins:
        if UNREADABLE in coins.gather(payload, count)[1]:
            return NO_SUCH_COIN
    group, numbers = payload[-tail : -tail + GROUP_BYTES], payload[-tail + GROUP_BYTES :]
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
    return verdict(bytes(EQUAL if votes[coin] >= VOTES_MIN else DIFFERS for coin in listed))


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
