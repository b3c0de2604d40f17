"""Questions to other RAIDA: have them redeem tickets.

Thread: any; each call runs in the caller's event loop. Source: wire specification, "Healing group".
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from raida_uring.client.aio import AsyncClient
from raida_uring.config import ServerTable
from raida_uring.errors import RaidaError
from raida_uring.log import events
from raida_uring.protocol import calls, layout

TIMEOUT_S: Final = 32.0
LOOK_UP_INTERVAL_S: Final = 60.0  # between two look-ups of the names of RAIDA


class Addresses:
    """The IP addresses of the other RAIDA; names are looked up in the background.

    Thread: any. Nobody waits for a resolver: until it has answered, a name has no address.
    """

    def __init__(self, servers: Sequence[str] | None) -> None:
        """servers: as `[server] raida_servers`, "host:port"."""
        self._names = frozenset(one.rpartition(":")[0].strip("[]") for one in servers or ())
        self._found: dict[str, set[str]] = {}  # by name; replaced, never changed
        self._again_at = 0.0  # time.monotonic() of the next look-up
        self._lock = threading.Lock()

    def has(self, host: str) -> bool:
        """Whether a RAIDA has the address `host`, which is as `Request.peer` has it."""
        if any(host in found for found in self._found.values()):
            return True
        with self._lock:
            due = bool(self._names) and time.monotonic() >= self._again_at
            if due:
                self._again_at = time.monotonic() + LOOK_UP_INTERVAL_S
        if due:
            try:
                threading.Thread(target=self._look_up, name="raida-names", daemon=True).start()
            except RuntimeError:
                self._again_at = 0.0  # no thread: try again the next time
        return False

    def _look_up(self) -> None:
        found = dict(self._found)
        for name in self._names:
            try:
                addresses = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):  # no such name, or no resolver: what it had stays
                continue
            found[name] = {str(address[4][0]).removeprefix("::ffff:") for address in addresses}
        self._found = found


Heed = Callable[[set[bytes], int], bool]
"""Gets the coins that a RAIDA names, 5 bytes each, and how many have not answered yet. Returns
whether those no longer matter."""


async def redeem(server: ServerTable, tickets: Mapping[int, bytes], heed: Heed) -> None:
    """Ask RAIDA number `i` for the coins of `tickets[i]`, all at once, over TCP.

    Returns once all have answered, or heed() says that enough have. A RAIDA that is not configured,
    does not answer within TIMEOUT_S, or refuses, names none.
    """
    if server.raida_servers is None:
        return
    asked = [
        asyncio.ensure_future(_redeem_one(server, raida, server.raida_servers[raida], ticket))
        for raida, ticket in tickets.items()
    ]
    try:
        for left, answered in zip(
            reversed(range(len(asked))), asyncio.as_completed(asked), strict=False
        ):
            if heed(await answered, left):
                return
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


class _Client(AsyncClient):
    """Refuses replies that name more coins than a ticket can have."""

    _reply_bytes_max = layout.HEADER_SMALL + 4096 * layout.COIN_NAME_SIZE + layout.TERMINATOR_SIZE


async def _redeem_one(server: ServerTable, raida: int, address: str, ticket: bytes) -> set[bytes]:
    host, _, port = address.rpartition(":")
    try:
        client = _Client(
            host.strip("[]"),
            int(port),
            raida_id=raida,
            coin_id=server.coin_id,
            transport="tcp",
            timeout_s=TIMEOUT_S,
        )
        answer = await client.ask(calls.validate_ticket(server.raida_id, int.from_bytes(ticket)))
    except (OSError, RaidaError) as error:
        events.TICKET_REFUSED.log(raida=raida, address=address, error=error)
        return set()
    return {coin.wire for coin in answer.value or ()}
