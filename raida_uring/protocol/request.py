"""Requests: values to bytes, and the header's bytes to values.

Pure: no I/O, no clock, no randomness. Offsets are bytes from the start of the request; numbers
are big-endian. Source: docs/wire.md, "Request header" and "Body".
"""

import struct
import zlib
from dataclasses import dataclass

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol import layout
from raida_uring.protocol.layout import BODY_MAX, CHALLENGE_RANDOM_SIZE, HEADER_SMALL, TERMINATOR
from raida_uring.protocol.status import Status


def header_bytes(encryption: int) -> int:
    """Return the header's size for the encryption type in byte 16: 32 or 48, any byte allowed."""
    return HEADER_SMALL if encryption in layout.SMALL_TYPES else layout.HEADER_LARGE


def crc32_challenge(random: bytes) -> bytes:
    """Return the 4 CRC bytes that follow the challenge's 12 random bytes."""
    return zlib.crc32(random).to_bytes(4)


def build_request(
    group: int,
    command: int,
    payload: bytes = b"",
    *,
    raida_id: int,
    coin_id: int = 6,
    echo: int = 0,
    shard: int = 0,
    challenge: bytes = bytes(CHALLENGE_RANDOM_SIZE),
    body: bool = True,
) -> bytes:
    """Return an unencrypted (type 0) request.

    payload: at most 65,517 bytes. echo: 0 to 65535, comes back in the reply. challenge: the 12
    bytes that the reply proves to have read; a client draws them at random. body: False leaves
    the body out, and most commands refuse such a request; `payload` must then be empty.
    Raises ArgumentError when a value does not fit its field.
    """
    if len(challenge) != CHALLENGE_RANDOM_SIZE:
        raise ArgumentError(f"challenge has {len(challenge)} bytes, not {CHALLENGE_RANDOM_SIZE}")
    content = b""
    if body:
        content = challenge + crc32_challenge(challenge) + payload + TERMINATOR
    elif payload:
        raise ArgumentError("a request without a body has no payload")
    if len(content) > BODY_MAX:
        raise ArgumentError(f"body has {len(content)} bytes, more than {BODY_MAX}")
    try:
        rest = layout.REQUEST_PLAIN_REST.pack(len(content), echo)
    except struct.error as error:
        raise ArgumentError(f"a header field does not fit: {error}") from None
    front = build_front(group, command, raida_id=raida_id, coin_id=coin_id, shard=shard)
    return front + rest + content


def build_front(group: int, command: int, *, raida_id: int, coin_id: int, shard: int) -> bytes:
    """Return a request header up to its encryption type.

    Raises ArgumentError when a value does not fit its field.
    """
    fields = layout.REQUEST_VERSION, 0, raida_id, shard, group, command, coin_id
    try:
        front = layout.REQUEST_FRONT.pack(*fields)
    except struct.error as error:
        raise ArgumentError(f"a header field does not fit: {error}") from None
    # A node ignores the other bytes; clients send presentation 1 first and packet count 1 last.
    return front + b"\x01" + bytes(layout.REQUEST_IGNORED_SIZE - 2) + b"\x01"


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """A request header before any check: every field may hold a value that a node refuses.

    body_bytes: what the header says, terminator included; 0 = no body.
    echo: two bytes, in types 1, 2, 4 and 5 also the nonce's end.
    nonce: 8 bytes in a small header, 24 in a large one; meaningless in type 0.
    key_coin: (denomination, serial number) of the key coin; second_key_coin: type 5's other one.
    locker_prefix: type 2's first 5 bytes of the locker key. Each is None for other types.
    """

    version: int
    split_id: int
    raida_id: int
    shard: int
    group: int
    command: int
    coin_id: int
    encryption: int
    body_bytes: int
    echo: bytes
    nonce: bytes
    key_coin: tuple[int, int] | None
    second_key_coin: tuple[int, int] | None
    locker_prefix: bytes | None

    @property
    def size_bytes(self) -> int:
        """Size of the header itself: 32 or 48."""
        return header_bytes(self.encryption)


def parse_request_header(data: bytes) -> RequestHeader:
    """Return the header at the front of `data`; bytes behind it are ignored.

    Raises ProtocolError INVALID_PACKET_LENGTH when `data` is shorter than its header.
    """
    if len(data) < layout.HEADER_PEEK or len(data) < header_bytes(
        data[layout.REQUEST_ENCRYPTION_AT]
    ):
        raise ProtocolError(
            f"request header cut short at {len(data)} bytes", Status.INVALID_PACKET_LENGTH
        )
    encryption = data[layout.REQUEST_ENCRYPTION_AT]
    size = header_bytes(encryption)
    small = size == HEADER_SMALL
    coin_at = layout.REQUEST_SMALL_COIN_AT if small else layout.REQUEST_LARGE_COIN_AT
    nonce_at = layout.REQUEST_SMALL_NONCE_AT if small else layout.REQUEST_LARGE_NONCE_AT
    size_at = layout.REQUEST_SMALL_BODY_SIZE_AT if small else layout.REQUEST_LARGE_BODY_SIZE_AT
    second_at, locker_at = layout.REQUEST_LARGE_SECOND_COIN_AT, layout.REQUEST_SMALL_LOCKER_AT
    prefix = data[locker_at : locker_at + layout.LOCKER_PREFIX_SIZE]
    fields: tuple[int, int, int, int, int, int, int] = layout.REQUEST_FRONT.unpack_from(data)
    return RequestHeader(
        *fields,
        encryption=encryption,
        body_bytes=layout.U16.unpack_from(data, size_at)[0],
        echo=data[size - layout.ECHO_SIZE : size],
        nonce=data[nonce_at:size],
        key_coin=_coin(data, coin_at) if encryption in (1, 4, 5) else None,
        second_key_coin=_coin(data, second_at) if encryption == 5 else None,
        locker_prefix=prefix if encryption == 2 else None,
    )


def _coin(data: bytes, offset: int) -> tuple[int, int]:
    denomination, serial_number = layout.COIN_NAME.unpack_from(data, offset)
    return denomination, serial_number
