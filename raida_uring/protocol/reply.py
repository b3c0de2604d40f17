"""Replies: bytes to values, as a client reads them.

Pure: no I/O, no clock. Bodies are returned as they came; the caller decrypts types 1, 2, 4 and 5.
Source: docs/wire.md, "Reply".
"""

from dataclasses import dataclass
from typing import Final

from raida_uring.errors import ProtocolError
from raida_uring.protocol import layout
from raida_uring.protocol.layout import HEADER_SMALL, TERMINATOR
from raida_uring.protocol.request import header_bytes
from raida_uring.protocol.status import Status

# Answered before the encryption type is looked at: the header is small whatever was asked.
EARLY_STATUSES: Final = frozenset(
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
    challenge: 16 bytes that prove the request's body was read; zero otherwise and in large headers.
    header: the header's bytes, 32 or 48, for fields that have no attribute here.
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
        """The body without its terminator. Behind a large header the HMAC is still at its end."""
        return self.body[: -len(TERMINATOR)]


def reply_header_bytes(status: int, encryption: int = 0) -> int:
    """Return the header's size, 32 or 48, in the reply with `status` to a request of that type."""
    return HEADER_SMALL if status in EARLY_STATUSES else header_bytes(encryption)


def reply_bytes(prefix: bytes, encryption: int = 0) -> int:
    """Return how long the reply is that starts with `prefix`, at least 12 bytes of it.

    encryption: byte 16 of the request. Raises ProtocolError when `prefix` is too short.
    """
    if len(prefix) < layout.REPLY_PREFIX_SIZE:
        raise _malformed(f"reply cut short at {len(prefix)} bytes")
    body_bytes = int.from_bytes(prefix[layout.REPLY_BODY_SIZE_AT : layout.REPLY_PREFIX_SIZE])
    return reply_header_bytes(prefix[layout.REPLY_STATUS_AT], encryption) + body_bytes


def parse_reply(data: bytes, encryption: int = 0) -> ParsedReply:
    """Return the reply that `data` holds, no more and no less.

    encryption: byte 16 of the request. Raises ProtocolError when lengths or terminator are wrong.
    """
    total = reply_bytes(data, encryption)
    if len(data) != total:
        raise _malformed(f"reply has {len(data)} bytes, its header says {total}")
    size = reply_header_bytes(data[layout.REPLY_STATUS_AT], encryption)
    header, body = data[:size], data[size:]
    if body and not body.endswith(TERMINATOR):
        raise ProtocolError("reply body lacks its terminator", Status.INVALID_EOF)
    if size == HEADER_SMALL:
        time_at, echo_at = layout.REPLY_SMALL_TIME_AT, layout.REPLY_SMALL_ECHO_AT
        challenge = header[layout.REPLY_SMALL_CHALLENGE_AT :]
    else:
        time_at, echo_at = layout.REPLY_LARGE_TIME_AT, layout.REPLY_LARGE_ECHO_AT
        challenge = bytes(layout.CHALLENGE_SIZE)
    return ParsedReply(
        raida_id=header[layout.REPLY_RAIDA_AT],
        status=header[layout.REPLY_STATUS_AT],
        group=header[layout.REPLY_GROUP_AT],
        server_time_us=int.from_bytes(header[time_at : time_at + layout.REPLY_TIME_SIZE]),
        echo=header[echo_at : echo_at + layout.ECHO_SIZE],
        challenge=challenge,
        header=header,
        body=body,
    )


def _malformed(message: str) -> ProtocolError:
    return ProtocolError(message, Status.INVALID_PACKET_LENGTH)
