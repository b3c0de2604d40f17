"""Questions to other RAIDA: have them redeem tickets.

Thread: any; each call runs in the caller's event loop. Source: wire specification, "Healing group".
"""

import asyncio
import contextlib
import ipaddress
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
_MAPPED: Final = bytes(10) + b"\xff\xff"  # in front of an IPv4 address in an IPv6 one
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
        self._publish: Callable[[bytes], None] | None = None
        self._ended = threading.Event()

    def begin(self, publish: Callable[[bytes], None], missed: Callable[[], bool]) -> None:
        """Tell whoever answers without the interpreter, now and when an address was missed, until
        end(). publish: is given all addresses, 16 bytes each, IPv4 mapped into IPv6."""
        if not self._names:
            return
        self._publish = publish

        def keep_looking() -> None:
            self._look_up()
            while not self._ended.wait(LOOK_UP_INTERVAL_S):
                if missed():
                    self._look_up()

        with contextlib.suppress(RuntimeError):  # no thread: has() looks them up
            threading.Thread(target=keep_looking, name="raida-names", daemon=True).start()

    def end(self) -> None:
        """What begin() was given is not called any more."""
        self._ended.set()
        with self._lock:
            self._publish = None

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
        every = {address for one in found.values() for address in one}
        packed = b"".join(sorted(_as_ipv6(address) for address in every))
        with self._lock:
            if self._publish is not None:
                self._publish(packed)


def _as_ipv6(address: str) -> bytes:
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    return packed if len(packed) == 16 else _MAPPED + packed


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
