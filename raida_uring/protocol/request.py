"""Requests: values to bytes, and the header's bytes to values.

Pure: no I/O, no clock, no randomness. Offsets are bytes from the start of the request; numbers
are big-endian. Source: wire specification, sections 2 and 3.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol.status import Status

TERMINATOR: Final = b"\x3e\x3e"
CHALLENGE_RANDOM_BYTES: Final = 12
CHALLENGE_BYTES: Final = 16  # the random bytes and their CRC
BODY_OVERHEAD_BYTES: Final = CHALLENGE_BYTES + len(TERMINATOR)  # types 0, 1, 2
BODY_BYTES_MAX: Final = 0xFFFF  # what the header's length field can say

HEADER_BYTES: Final = 32
LONG_HEADER_BYTES: Final = 48
ENCRYPTION_OFFSET: Final = 16  # chooses between the two
SHORT_HEADER_TYPES: Final = frozenset((0, 1, 2))

_PREFIX: Final = struct.Struct(">6BH")  # bytes 0 to 7
_COIN: Final = struct.Struct(">bI")  # denomination and serial number


def header_bytes(encryption: int) -> int:
    """Return the header's size for the encryption type in byte 16: 32 or 48, any byte allowed."""
    return HEADER_BYTES if encryption in SHORT_HEADER_TYPES else LONG_HEADER_BYTES


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
    challenge: bytes = bytes(CHALLENGE_RANDOM_BYTES),
    body: bool = True,
) -> bytes:
    """Return an unencrypted (type 0) request.

    payload: at most 65,517 bytes. echo: 0 to 65535, comes back in the reply. challenge: the 12
    bytes that the reply proves to have read; a client draws them at random. body: False leaves
    the body out, which some commands take for an empty request; `payload` must then be empty.
    Raises ArgumentError when a value does not fit its field.
    """
    if len(challenge) != CHALLENGE_RANDOM_BYTES:
        raise ArgumentError(f"challenge has {len(challenge)} bytes, not {CHALLENGE_RANDOM_BYTES}")
    content = b""
    if body:
        content = challenge + crc32_challenge(challenge) + payload + TERMINATOR
    elif payload:
        raise ArgumentError("a request without a body has no payload")
    if len(content) > BODY_BYTES_MAX:
        raise ArgumentError(f"body has {len(content)} bytes, the header can say {BODY_BYTES_MAX}")
    try:
        tail = bytes(6) + echo.to_bytes(2)
    except OverflowError as error:
        raise ArgumentError(f"a header field does not fit: {error}") from None
    front = build_front(group, command, raida_id=raida_id, coin_id=coin_id, shard=shard)
    return front + bytes(6) + len(content).to_bytes(2) + tail + content


def build_front(group: int, command: int, *, raida_id: int, coin_id: int, shard: int) -> bytes:
    """Return bytes 0 to 15 of a request, the same for all encryption types.

    Raises ArgumentError when a value does not fit its field.
    """
    try:
        prefix = _PREFIX.pack(1, 0, raida_id, shard, group, command, coin_id)
    except struct.error as error:
        raise ArgumentError(f"a header field does not fit: {error}") from None
    # Bytes 8 to 15 are ignored; presentation 1 and packet count 1 is what clients send.
    return prefix + b"\x01" + bytes(6) + b"\x01"


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """A request's header, unjudged: any field may hold a value that a node refuses.

    body_bytes: what the header says, terminator included; 0 = no body.
    echo: two bytes, in types 1, 2, 4 and 5 also the nonce's end.
    nonce: 8 bytes in a short header, 24 in a long one; meaningless in type 0.
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
    if len(data) <= ENCRYPTION_OFFSET or len(data) < header_bytes(data[ENCRYPTION_OFFSET]):
        raise ProtocolError(
            f"request header cut short at {len(data)} bytes", Status.INVALID_PACKET_LENGTH
        )
    encryption = data[ENCRYPTION_OFFSET]
    short = encryption in SHORT_HEADER_TYPES
    size = header_bytes(encryption)
    length_offset, coin_offset = (22, 17) if short else (17, 19)
    version, split_id, raida_id, shard, group, command, coin_id = _PREFIX.unpack_from(data)
    return RequestHeader(
        version=version,
        split_id=split_id,
        raida_id=raida_id,
        shard=shard,
        group=group,
        command=command,
        coin_id=coin_id,
        encryption=encryption,
        body_bytes=int.from_bytes(data[length_offset : length_offset + 2]),
        echo=data[size - 2 : size],
        nonce=data[24:size],
        key_coin=_coin(data, coin_offset) if encryption in (1, 4, 5) else None,
        second_key_coin=_coin(data, 24) if encryption == 5 else None,
        locker_prefix=data[17:22] if encryption == 2 else None,
    )


def _coin(data: bytes, offset: int) -> tuple[int, int]:
    denomination, serial_number = _COIN.unpack_from(data, offset)
    return denomination, serial_number
