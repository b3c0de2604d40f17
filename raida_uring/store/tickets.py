"""Tickets: a client gets one here and shows it to other RAIDA, which ask this one for its coins.

They live in shared memory, beside the coins (ffi/coins/tickets.h): a successor has them, a restart
has lost them. Any view will do. They are no changes of coins, and nothing takes them back.
Thread: any. Source: wire specification, "Healing group".
"""

import time
from typing import Final

from raida_uring.errors import RaidaError
from raida_uring.ffi import native_store
from raida_uring.protocol.layout import TICKET_SIZE
from raida_uring.store.coins import Coins

TICKETS_MAX: Final = native_store.TICKETS_MAX  # unexpired at once
LIFETIME_S: Final = native_store.TICKET_LIFETIME_S
# Tickets with the same first coin, once there are TICKETS_MAX: older ones end before their time.
OF_ONE_COIN_MAX: Final = native_store.TICKETS_OF_COIN_MAX


class UnknownTicketError(RaidaError):
    """There is no such ticket, or it has expired."""


class ClaimedTicketError(RaidaError):
    """This RAIDA has redeemed it already."""


class LargeTicketError(RaidaError):
    """It has more coins than the asker can be sent."""


_FAULTS: Final[dict[int, type[RaidaError]]] = {
    native_store.TICKET_UNKNOWN: UnknownTicketError,
    native_store.TICKET_CLAIMED: ClaimedTicketError,
    native_store.TICKET_LARGE: LargeTicketError,
}


def clock() -> float:
    """Seconds since 1970; not monotonic, because tickets outlive the process."""
    return time.time()


def issue(coins: Coins, coin_names: bytes) -> bytes | None:
    """Issue a ticket for coins, 5 bytes each. Returns its 4 bytes; None: too many tickets.

    Raises StoreError: no memory; ValueError: no coins, or more than a request can name.
    """
    number = coins.view.store.tickets_issue(coin_names, int(clock()))
    return None if number is None else number.to_bytes(TICKET_SIZE)


def claim(coins: Coins, ticket: bytes, raida_id: int, bytes_max: int) -> bytes:
    """Redeem a ticket for a RAIDA: returns its coins, 5 bytes each.

    Raises UnknownTicketError, ClaimedTicketError; LargeTicketError if the coins have more than
    `bytes_max` bytes, and the ticket is not redeemed.
    """
    number = int.from_bytes(ticket)
    fault, names = coins.view.store.tickets_claim(number, raida_id, bytes_max, int(clock()))
    if fault:
        raise _FAULTS[fault](ticket.hex())
    return names
