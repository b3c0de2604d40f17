"""Questions to other RAIDA: redeem tickets with them.

Thread: any; each call runs in the caller's event loop. Source: wire specification, "Healing group".
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from raida_uring import protocol
from raida_uring.client.question import Answer, Question
from raida_uring.config import Server
from raida_uring.errors import ProtocolError, RaidaError
from raida_uring.log import event
from raida_uring.protocol import CoinName, Status, calls
from raida_uring.protocol.coin import COIN_NAME_BYTES

TIMEOUT_S: Final = 32.0
LOOK_UP_INTERVAL_S: Final = 60.0  # between two look-ups of the names of RAIDA
_REPLY_BYTES_MAX: Final = (
    protocol.HEADER_BYTES + 4096 * COIN_NAME_BYTES + 2
)  # a ticket's most coins

# (family, type, protocol, name, address), as getaddrinfo() has them
_Found = list[tuple[Any, Any, int, str, Any]]

_lookups: Final[dict[tuple[str, int], "Future[_Found]"]] = {}  # under way
_lookups_lock = threading.Lock()

logger = logging.getLogger("raida_uring.peers")


class Addresses:
    """The IP addresses of the other RAIDA, of which names are looked up in the background.

    Thread: any. Nobody waits for a resolver: until it has answered, a name has no address.
    """

    def __init__(self, servers: Sequence[str] | None) -> None:
        """servers: as `[server] raida_servers`, "host:port"."""
        self._names = frozenset(one.rpartition(":")[0].strip("[]") for one in servers or ())
        self._found: frozenset[str] = frozenset()
        self._again_at = 0.0  # time.monotonic(), before which nothing is looked up
        self._lock = threading.Lock()

    def has(self, host: str) -> bool:
        """Whether a RAIDA has the address `host`, which is as `Request.peer` has it."""
        if host in self._found:
            return True
        with self._lock:
            due = bool(self._names) and time.monotonic() >= self._again_at
            if due:
                self._again_at = time.monotonic() + LOOK_UP_INTERVAL_S
        if due:
            threading.Thread(target=self._look_up, name="raida-names", daemon=True).start()
        return False

    def _look_up(self) -> None:
        found = set()
        for name in self._names:
            try:
                addresses = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):  # a name that does not exist, or cannot
                continue
            found |= {str(address[4][0]).removeprefix("::ffff:") for address in addresses}
        self._found = frozenset(found)


Heed = Callable[[set[bytes], int], bool]
"""Told the coins that a RAIDA names, 5 bytes each, and how many have not answered yet; True when
these no longer matter."""


async def redeem(server: Server, tickets: Mapping[int, bytes], heed: Heed) -> None:
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


async def _redeem_one(server: Server, raida: int, address: str, ticket: bytes) -> set[bytes]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await _ask(server, raida, address, ticket)
    except (OSError, TimeoutError, EOFError, ValueError, RaidaError) as error:
        # ValueError: a name that cannot be one.
        logger.info(
            "RAIDA %d (%s) did not redeem a ticket: %s",
            raida,
            address,
            error or "timeout",
            extra=event("ticket_refused", raida=raida, address=address),
        )
        return set()
    return {coin.wire for coin in answer.value or ()}


async def _ask(
    server: Server, raida: int, address: str, ticket: bytes
) -> Answer[tuple[CoinName, ...]]:
    question = Question(
        calls.validate_ticket(server.raida_id, int.from_bytes(ticket)),
        raida_id=raida,
        coin_id=server.coin_id,
        key=None,
        shard=0,
        transport="tcp",
    )
    host, _, port = address.rpartition(":")
    connected = await _connect(await _addresses(host.strip("[]"), int(port)))
    reader, writer = await asyncio.open_connection(sock=connected)
    try:
        writer.write(question.data)
        await writer.drain()
        header = await reader.readexactly(protocol.HEADER_BYTES)
        size = protocol.reply_bytes(header)
        if size > _REPLY_BYTES_MAX:
            raise ProtocolError(f"a reply of {size} bytes", Status.INVALID_PACKET_LENGTH)
        return question.read(header + await reader.readexactly(size - len(header)), 0.0)
    finally:
        writer.close()


async def _connect(found: _Found) -> socket.socket:
    """To the first address that takes it. Raises OSError."""
    loop = asyncio.get_running_loop()
    fault: OSError | None = None
    for family, kind, number, _, address in found:
        connecting = socket.socket(family, kind, number)
        try:
            connecting.setblocking(False)
            await loop.sock_connect(connecting, address)
        except OSError as error:
            connecting.close()
            fault = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise fault or OSError("no address")


async def _addresses(host: str, port: int) -> _Found:
    """Raises OSError, ValueError."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return await asyncio.wrap_future(_lookup(host, port))


def _lookup(host: str, port: int) -> "Future[_Found]":
    """Resolve a name, on a thread that nobody waits for.

    A resolver knows no deadline. asyncio's own threads for it are waited for at the end of the
    event loop, and there are fewer of them than RAIDA. Of one name there is one look-up at a time,
    whoever asks: they cannot pile up.
    """
    key = host, port
    with _lookups_lock:
        under_way = _lookups.get(key)
        if under_way is not None:
            return under_way
        future: Future[_Found] = Future()
        future.set_running_or_notify_cancel()  # who gives up waiting does not end it for others
        try:
            threading.Thread(
                target=_look_up, args=(key, future), name="resolver", daemon=True
            ).start()
        except RuntimeError as error:
            raise OSError(str(error)) from error
        _lookups[key] = future
        return future


def _look_up(key: tuple[str, int], future: "Future[_Found]") -> None:
    try:
        found: _Found = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
    except BaseException as error:
        with _lookups_lock:
            _lookups.pop(key, None)
        future.set_exception(error)
    else:
        with _lookups_lock:
            _lookups.pop(key, None)
        future.set_result(found)
