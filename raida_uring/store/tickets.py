"""Tickets: a client gets one here and shows it to other RAIDA, which ask this one for its coins.

Tickets are entries of the store, so they survive a restart. Thread: that of the view passed, which
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
from raida_uring.store.coins import Coins, Stored
from raida_uring.store.layout import COIN_BYTES, DENOMINATION_BYTES, SERIALS

TICKETS_MAX: Final = 512  # unexpired at once
LIFETIME_S: Final = 300
OF_ONE_COIN_MAX: Final = 8  # tickets with the same first coin, once there are TICKETS_MAX
TICKET_BYTES: Final = 4

_HEAD: Final = struct.Struct(">QI")  # expiry in seconds since 1970, one bit for each claimant


class UnknownTicketError(RaidaError):
    """There is no such ticket, or it has expired."""


class ClaimedTicketError(RaidaError):
    """This RAIDA has redeemed it already."""


def clock() -> float:
    """Seconds since 1970; not monotonic, because tickets outlive the process."""
    return time.time()


def issue(coins: Coins, coin_names: bytes) -> bytes | None:
    """Issue a ticket for coins, 5 bytes each. Returns its 4 bytes; None: too many tickets."""
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
            coins.put(TABLE_TICKETS, ticket, _HEAD.pack(now + LIFETIME_S, 0) + coin_names)
            room.left -= 1
            return ticket


@dataclass(slots=True)
class _Room:
    """How many tickets may be issued before all are examined again (`left`), and until when none
    expires (`none_before`). An undone issue leaves `left` too low until the next examination."""

    left: int = 0
    none_before: int = 0


_rooms: WeakKeyDictionary[Stored, _Room] = WeakKeyDictionary()


def _make_room(coins: Coins, room: _Room, now: int) -> None:
    """Remove expired tickets; if that is not enough, those of one coin beyond OF_ONE_COIN_MAX.

    The owner of one coin may request any number of tickets for it. The oldest ones with the same
    first coin are removed; otherwise 512 requests could block everybody's healing for five minutes.
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
        of_coin: Counter[bytes] = Counter()
        kept = []
        for one in living:
            of_coin[one[2]] += 1
            if of_coin[one[2]] <= OF_ONE_COIN_MAX:
                kept.append(one)
            else:
                coins.put(TABLE_TICKETS, one[1], None)
        living = kept
    room.left = TICKETS_MAX - len(living)
    room.none_before = 0 if room.left > 0 else min(expiry for expiry, _, _ in living)


def _is_alive(value: bytes, now: float) -> bool:
    """Whether a ticket is valid. One that expires more than two lifetimes from now was issued while
    the clock was ahead, and counts as expired."""
    if len(value) < _HEAD.size:
        return False
    return 0 < int(_HEAD.unpack_from(value)[0]) - now <= 2 * LIFETIME_S


def alive(coins: Coins) -> int:
    """Return the number of tickets that have not expired."""
    now = int(clock())
    return sum(
        _is_alive(value, now)
        for key, value in coins.entries(TABLE_TICKETS)
        if fault(key, value) is None
    )


def fault(ticket: bytes, value: bytes) -> str | None:
    """Return what is wrong with an entry of the table, or None."""
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
    """Redeem a ticket for a RAIDA: returns its coins, 5 bytes each.

    Raises UnknownTicketError, ClaimedTicketError.
    """
    value = coins.get(TABLE_TICKETS, ticket)
    if value is None or not _is_alive(value, clock()):
        raise UnknownTicketError(ticket.hex())
    expiry, claimants = _HEAD.unpack_from(value)
    if claimants >> raida_id & 1:
        raise ClaimedTicketError(ticket.hex())
    coin_names = value[_HEAD.size :]
    coins.put(TABLE_TICKETS, ticket, _HEAD.pack(expiry, claimants | 1 << raida_id) + coin_names)
    return coin_names
