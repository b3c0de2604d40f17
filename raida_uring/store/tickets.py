"""Tickets: what a client takes from here to other RAIDA, which redeem it here for its coins.

They live in the store, so that a restart keeps them. Thread: the one of the view given; the view
must be a writing one. Source: wire specification, "Healing group".
"""

import secrets
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from raida_uring.errors import RaidaError
from raida_uring.ffi.native_store import TABLE_TICKETS
from raida_uring.store.coins import Coins
from raida_uring.store.layout import COIN_BYTES, DENOMINATION_BYTES, SERIALS
from raida_uring.store.store import Store

TICKETS_MAX: Final = 512  # alive at once
LIFETIME_S: Final = 300
OF_ONE_COIN_MAX: Final = 8  # once there are TICKETS_MAX
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
    room = _rooms.setdefault(coins.store, _Room())
    if room.left <= 0:
        if 0 < room.none_before - now <= 2 * LIFETIME_S:
            return None
        _make_room(coins, room, now)
    if room.left <= 0:
        return None
    while True:
        ticket = secrets.token_bytes(TICKET_BYTES)
        if any(ticket) and coins.get(TABLE_TICKETS, ticket) is None:
            coins.put(TABLE_TICKETS, ticket, _HEAD.pack(now + LIFETIME_S, 0) + named)
            room.left -= 1
            return ticket


@dataclass(slots=True)
class _Room:
    """How many tickets may be issued before all are looked through, and before when there cannot be
    any. A change that is taken back makes it wrong by that ticket, until the next look."""

    left: int = 0
    none_before: int = 0


_rooms: WeakKeyDictionary[Store, _Room] = WeakKeyDictionary()


def _make_room(coins: Coins, room: _Room, now: int) -> None:
    """Forget the dead, and where that is not enough, what one client holds beyond its share.

    Who has a coin can have tickets for it without end: the oldest ones for the same first coin make
    way, lest 512 requests keep everybody else from healing for five minutes.
    """
    living: list[tuple[int, bytes, bytes]] = []  # expiry, ticket, its first coin
    for ticket, value in list(coins.entries(TABLE_TICKETS)):
        if not _is_alive(value, now):
            coins.put(TABLE_TICKETS, ticket, None)
        else:
            coin = value[_HEAD.size : _HEAD.size + COIN_BYTES]
            living.append((_HEAD.unpack_from(value)[0], ticket, coin))
    if len(living) >= TICKETS_MAX:
        living.sort(reverse=True)
        held: Counter[bytes] = Counter()
        kept = []
        for one in living:
            held[one[2]] += 1
            if held[one[2]] <= OF_ONE_COIN_MAX:
                kept.append(one)
            else:
                coins.put(TABLE_TICKETS, one[1], None)
        living = kept
    room.left = TICKETS_MAX - len(living)
    room.none_before = 0 if room.left > 0 else min(expiry for expiry, _, _ in living)


def _is_alive(value: bytes, now: float) -> bool:
    """A ticket that expires later than one issued now by far is left from a clock that was ahead:
    it would live until then."""
    if len(value) < _HEAD.size:
        return False
    return 0 < int(_HEAD.unpack_from(value)[0]) - now <= 2 * LIFETIME_S


def alive(coins: Coins) -> int:
    """How many are not expired."""
    now = int(clock())
    return sum(
        _is_alive(value, now)
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


def claim(coins: Coins, ticket: bytes, raida_id: int) -> bytes:
    """The ticket's coins, 5 bytes each. Raises UnknownTicketError, ClaimedTicketError."""
    value = coins.get(TABLE_TICKETS, ticket)
    if value is None:
        raise UnknownTicketError(ticket.hex())
    if not _is_alive(value, clock()):
        raise UnknownTicketError(ticket.hex())
    expiry, claimants = _HEAD.unpack_from(value)
    if claimants >> raida_id & 1:
        raise ClaimedTicketError(ticket.hex())
    named = value[_HEAD.size :]
    coins.put(TABLE_TICKETS, ticket, _HEAD.pack(expiry, claimants | 1 << raida_id) + named)
    return named
