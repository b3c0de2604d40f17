"""Questions to other RAIDA: redeem tickets with them.

Thread: any; each call runs in the caller's event loop. Source: wire specification, "Healing group".
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Final

from raida_uring import protocol
from raida_uring.config import Server
from raida_uring.errors import ProtocolError, RaidaError
from raida_uring.protocol import Status

TIMEOUT_S: Final = 32.0
BODY_BYTES_MAX: Final = 65536  # a ticket's coins take a third of it
_COIN_BYTES: Final = 5
_GROUP, _VALIDATE_TICKET = 2, 50

logger = logging.getLogger("raida_uring.peers")


async def redeem(server: Server, tickets: Mapping[int, bytes]) -> list[set[bytes]]:
    """Ask RAIDA number `i` for the coins of `tickets[i]`, all at once, over TCP.

    Returns the coins, 5 bytes each, that each of those names that answered. A RAIDA that is not
    configured, does not answer within TIMEOUT_S, or refuses, names none.
    """
    if server.raida_servers is None:
        return []
    asked = (
        _redeem_one(server, raida, server.raida_servers[raida], ticket)
        for raida, ticket in tickets.items()
    )
    return [named for named in await asyncio.gather(*asked) if named]


async def _redeem_one(server: Server, raida: int, address: str, ticket: bytes) -> set[bytes]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await _ask(server, raida, address, ticket)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, RaidaError) as error:
        logger.info("RAIDA %d (%s) did not redeem a ticket: %s", raida, address, error or "timeout")
        return set()
    if reply.status != Status.SUCCESS:
        return set()
    coins = reply.payload
    return {coins[at : at + _COIN_BYTES] for at in range(0, len(coins), _COIN_BYTES)}


async def _ask(server: Server, raida: int, address: str, ticket: bytes) -> protocol.ParsedReply:
    request = protocol.build_request(
        _GROUP,
        _VALIDATE_TICKET,
        server.raida_id.to_bytes(1) + ticket,
        raida_id=raida,
        coin_id=server.coin_id,
        challenge=secrets.token_bytes(12),
    )
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(request)
        await writer.drain()
        header = await reader.readexactly(protocol.HEADER_BYTES)
        rest = protocol.reply_bytes(header) - len(header)
        if rest > BODY_BYTES_MAX:
            raise ProtocolError(f"reply announces {rest} bytes", Status.INVALID_PACKET_LENGTH)
        return protocol.parse_reply(header + await reader.readexactly(rest))
    finally:
        writer.close()
