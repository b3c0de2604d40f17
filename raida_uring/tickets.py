"""Tickets: what a client takes from here to other RAIDA, which redeem it here for its coins.

They live in the store, so that a restart keeps them. Thread: the one of the view given; the view
must be a writing one. Source: wire specification, "Healing group".
"""

import secrets
import struct
import time
from typing import Final

from raida_uring.errors import RaidaError
from raida_uring.ffi.native import TABLE_TICKETS
from raida_uring.store import COIN_BYTES, DENOMINATION_BYTES, SERIALS, Coins

TICKETS_MAX: Final = 512  # alive at once
LIFETIME_S: Final = 300
TICKET_BYTES: Final = 4

_HEAD: Final = struct.Struct(">QI")  # expiry in seconds since 1970, one bit for each claimant


class UnknownTicketError(RaidaError):
    """No such ticket is alive."""


class ClaimedTicketError(RaidaError):
    """This RAIDA has redeemed it already."""


def clock() -> float:
    """Seconds since 1970: tickets outlive the process, so no monotonic clock will do."""
    return time.time()


def issue(coins: Coins, named: bytes) -> bytes | None:
    """A new ticket for coins, 5 bytes each: its 4 bytes; None when there are too many."""
    now = int(clock())
    alive = 0
    for key, value in list(coins.entries(TABLE_TICKETS)) if _maybe_full(coins) else ():
        if _HEAD.unpack_from(value)[0] <= now:
            coins.put(TABLE_TICKETS, key, None)
        else:
            alive += 1
    if alive >= TICKETS_MAX:
        return None
    while True:
        ticket = secrets.token_bytes(TICKET_BYTES)
        if any(ticket) and coins.get(TABLE_TICKETS, ticket) is None:
            coins.put(TABLE_TICKETS, ticket, _HEAD.pack(now + LIFETIME_S, 0) + named)
            return ticket


def alive(coins: Coins) -> int:
    """How many are not expired."""
    now = int(time.time())
    return sum(
        _HEAD.unpack_from(value)[0] > now
        for key, value in coins.entries(TABLE_TICKETS)
        if fault(key, value) is None
    )


def fault(ticket: bytes, value: bytes) -> str | None:
    """What is wrong with an entry of the store; None when nothing is."""
    if len(ticket) != TICKET_BYTES or not any(ticket):
        return "is no ticket number"
    if len(value) <= _HEAD.size or (len(value) - _HEAD.size) % COIN_BYTES:
        return f"has {len(value)} bytes, which are no coins"
    for at in range(_HEAD.size, len(value), COIN_BYTES):
        serial_number = int.from_bytes(value[at + 1 : at + COIN_BYTES])
        if value[at] not in DENOMINATION_BYTES or serial_number >= SERIALS:
            return f"names a coin that does not exist: {value[at : at + COIN_BYTES].hex()}"
    return None


def _maybe_full(coins: Coins) -> bool:
    """Whether there may be TICKETS_MAX of them: only then are they looked through."""
    return coins.count_at_most(TABLE_TICKETS) >= TICKETS_MAX


def claim(coins: Coins, ticket: bytes, raida_id: int) -> bytes:
    """The ticket's coins, 5 bytes each. Raises UnknownTicketError, ClaimedTicketError."""
    value = coins.get(TABLE_TICKETS, ticket)
    if value is None:
        raise UnknownTicketError(ticket.hex())
    expiry, claimants = _HEAD.unpack_from(value)
    if expiry <= clock():
        raise UnknownTicketError(ticket.hex())
    if claimants >> raida_id & 1:
        raise ClaimedTicketError(ticket.hex())
    named = value[_HEAD.size :]
    coins.put(TABLE_TICKETS, ticket, _HEAD.pack(expiry, claimants | 1 << raida_id) + named)
    return named
