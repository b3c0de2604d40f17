"""Replies: bytes to values, as a client reads them.

Pure: no I/O, no clock. Bodies stay as they came; deciphering types 1, 2, 4 and 5 is the caller's.
Source: wire specification, section 4.
"""

from dataclasses import dataclass
from typing import Final

from raida_uring.errors import ProtocolError
from raida_uring.protocol.request import (
    HEADER_BYTES,
    LONG_HEADER_BYTES,
    SHORT_HEADER_TYPES,
    TERMINATOR,
)
from raida_uring.protocol.status import Status

PREFIX_BYTES: Final = 12  # enough of a reply to know its whole length

# Answered before the encryption type is looked at: the header is short whatever was asked.
_EARLY_STATUSES: Final = frozenset(
    (
        Status.INVALID_ROUTING,
        Status.INVALID_SPLIT_ID,
        Status.INVALID_RAIDA_ID,
        Status.INVALID_COMMAND_GROUP,
        Status.INVALID_SHARD_ID,
        Status.INVALID_COMMAND,
        Status.INVALID_COIN_ID,
    )
)


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """One complete reply.

    status: as sent; may be a number that Status does not list.
    server_time_us: what the node says it spent.
    echo: the request's two echo bytes; zero in errors found before they were read.
    challenge: 16 bytes that prove the request's body was read; zero otherwise, and in long headers.
    header: the header's bytes, 32 or 48, for what is not spelled out here.
    body: everything behind the header, terminator included; empty if there is none.
    """

    raida_id: int
    status: int
    group: int
    server_time_us: int
    echo: bytes
    challenge: bytes
    header: bytes
    body: bytes

    @property
    def payload(self) -> bytes:
        """The body without its terminator. In a long-header reply the HMAC is still at its end."""
        return self.body[: -len(TERMINATOR)]


def reply_header_bytes(status: int, encryption: int = 0) -> int:
    """Return the header's size, 32 or 48, in the reply with `status` to a request of that type."""
    if encryption in SHORT_HEADER_TYPES or status in _EARLY_STATUSES:
        return HEADER_BYTES
    return LONG_HEADER_BYTES


def reply_bytes(prefix: bytes, encryption: int = 0) -> int:
    """Return how long the reply is that starts with `prefix`, at least 12 bytes of it.

    encryption: byte 16 of the request. Raises ProtocolError when `prefix` is too short.
    """
    if len(prefix) < PREFIX_BYTES:
        raise _malformed(f"reply cut short at {len(prefix)} bytes")
    return reply_header_bytes(prefix[2], encryption) + int.from_bytes(prefix[9:12])


def parse_reply(data: bytes, encryption: int = 0) -> ParsedReply:
    """Return the reply that `data` holds, no more and no less.

    encryption: byte 16 of the request. Raises ProtocolError when lengths or terminator are wrong.
    """
    total = reply_bytes(data, encryption)
    if len(data) != total:
        raise _malformed(f"reply has {len(data)} bytes, its header says {total}")
    size = reply_header_bytes(data[2], encryption)
    header, body = data[:size], data[size:]
    if body and not body.endswith(TERMINATOR):
        raise ProtocolError("reply body lacks its terminator", Status.INVALID_EOF)
    short = size == HEADER_BYTES
    return ParsedReply(
        raida_id=header[0],
        status=header[2],
        group=header[3],
        server_time_us=int.from_bytes(header[12:16] if short else header[4:8]),
        echo=header[6:8] if short else header[46:48],
        challenge=header[16:32] if short else bytes(16),
        header=header,
        body=body,
    )


def _malformed(message: str) -> ProtocolError:
    return ProtocolError(message, Status.INVALID_PACKET_LENGTH)
