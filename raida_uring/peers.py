"""Questions to other RAIDA: redeem tickets with them.

Thread: any; each call runs in the caller's event loop. Source: wire specification, "Healing group".
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from raida_uring import protocol, resolver
from raida_uring.config import Server
from raida_uring.errors import ProtocolError, RaidaError
from raida_uring.log import event
from raida_uring.protocol import Status

TIMEOUT_S: Final = 32.0
_COIN_BYTES: Final = 5
_REPLY_BYTES_MAX: Final = protocol.HEADER_BYTES + 4096 * _COIN_BYTES + 2  # a ticket's most coins
_GROUP, _VALIDATE_TICKET = 2, 50

logger = logging.getLogger("raida_uring.peers")


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
            reply = await _ask(server, raida, address, ticket)
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
    if reply.status != Status.SUCCESS:
        return set()
    coins = reply.payload
    if len(coins) % _COIN_BYTES:
        return set()
    return {coins[at : at + _COIN_BYTES] for at in range(0, len(coins), _COIN_BYTES)}


async def _ask(server: Server, raida: int, address: str, ticket: bytes) -> protocol.ParsedReply:
    challenge, echo = secrets.token_bytes(12), int.from_bytes(secrets.token_bytes(2))
    request = protocol.build_request(
        _GROUP,
        _VALIDATE_TICKET,
        server.raida_id.to_bytes(1) + ticket,
        raida_id=raida,
        coin_id=server.coin_id,
        echo=echo,
        challenge=challenge,
    )
    host, _, port = address.rpartition(":")
    found = await resolver.addresses(host.strip("[]"), int(port))
    connected = await resolver.connect(found, TIMEOUT_S)
    reader, writer = await asyncio.open_connection(sock=connected)
    try:
        writer.write(request)
        await writer.drain()
        header = await reader.readexactly(protocol.HEADER_BYTES)
        size = protocol.reply_bytes(header)
        if size > _REPLY_BYTES_MAX:
            raise ProtocolError(f"a reply of {size} bytes", Status.INVALID_PACKET_LENGTH)
        reply = protocol.parse_reply(header + await reader.readexactly(size - len(header)))
        if (reply.raida_id, reply.group, reply.echo) != (raida, _GROUP, echo.to_bytes(2)):
            raise ProtocolError("the reply is to another request", Status.WRONG_RAIDA)
        return reply
    finally:
        writer.close()
