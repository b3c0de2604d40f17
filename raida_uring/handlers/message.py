"""What a handler is given and what it returns: `Request` and `Reply`.

Pure. Any thread.
"""

import socket
import sys
from array import array
from itertools import repeat
from operator import is_
from typing import Final, NamedTuple

from raida_uring.protocol.layout import (
    CHALLENGE_SIZE,
    HEADER_LARGE,
    HEADER_SMALL,
    HMAC_SIZE,
    REPLY_MAX,
    SMALL_TYPE_MAX,
    TERMINATOR_SIZE,
    UDP_PAYLOAD_MAX,
)

# Where a record (struct ru_record) holds what, and what stands before a body in the batch's data.
_AT, _COMMAND, _KIND, _ENCRYPTION, _SHARD, _TRANSPORT, _BODY_SIZE = 0, 2, 3, 4, 5, 6, 7
_HEADER_OFFSET: Final = -HEADER_LARGE  # room for either size
_PEER_OFFSET: Final = _HEADER_OFFSET - 32  # RU_PEER_SIZE
PAYLOAD_FITS: Final = (
    UDP_PAYLOAD_MAX - HEADER_LARGE - HMAC_SIZE - TERMINATOR_SIZE
)  # any reply takes so many, with its seal
_MAPPED: Final = bytes(10) + b"\xff\xff"  # in front of an IPv4 address in an IPv6 one


class Reply(NamedTuple):
    """What a handler answers.

    status: 0 to 255, see `raida_uring.protocol.Status`. payload: up to 65,502 bytes over TCP
    (65,454 under encryption types 4 and 5); over UDP as many as `[limits] udp_reply_factor_max`
    allows.
    """

    status: int = 250
    payload: bytes = b""


def pack(replies: list[Reply]) -> tuple[bytes, "array[int]", bytes]:
    """Statuses, sizes and payloads of at least one reply. Raises an exception when one is not of a
    byte and of bytes.

    Packing checks all but the type: checking each reply beforehand would slow down every request
    for the sake of a few.
    """
    first = replies[0]
    if (
        type(first) is Reply
        and type(first.payload) is bytes
        and all(map(is_, replies, repeat(first)))
    ):
        count = len(replies)
        return (
            bytes((first.status,)) * count,
            array("I", (len(first.payload),)) * count,
            (first.payload * count),
        )
    for reply in replies:
        if type(reply) is not Reply and not isinstance(reply, Reply):  # a tuple packs like one
            raise TypeError(f"a handler must return a Reply, not {type(reply).__name__}")
    statuses, payloads = zip(*replies, strict=True)
    payload = b"".join(payloads)
    sizes = array("I", map(len, payloads))
    if sum(sizes) != len(payload):  # len() of an array or a wide memoryview counts items
        raise ValueError("a payload's length is not its number of bytes")
    return bytes(statuses), sizes, payload


def fault_of(reply: object) -> str | None:
    """Why `reply` cannot be sent; None when it can."""
    if not isinstance(reply, Reply):
        return f"a handler must return a Reply, not {type(reply).__name__}"
    try:
        pack([reply])
    except Exception as error:
        status: object = reply.status
        payload: object = reply.payload
        if type(status) is int and not 0 <= status <= 255:
            shown = status if abs(status) < 1 << 64 else "beyond 64 bits"
            return f"status is {shown}: must be an integer from 0 to 255"
        if not isinstance(status, int):
            return f"status is of type {type(status).__name__}: must be an integer from 0 to 255"
        if not isinstance(payload, bytes):
            return f"payload is of type {type(payload).__name__}: must be bytes"
        return str(error)
    return None


def payload_max(*, udp: bool, encryption: int) -> int:
    """The most bytes of payload that fit a reply."""
    sealed = encryption > SMALL_TYPE_MAX
    header, seal = (HEADER_LARGE, HMAC_SIZE) if sealed else (HEADER_SMALL, 0)
    return (UDP_PAYLOAD_MAX if udp else REPLY_MAX) - header - seal - TERMINATOR_SIZE


def size_fault(size: int, *, udp: bool, encryption: int) -> str | None:
    """Why a payload of so many bytes cannot be sent; None when it can."""
    most = payload_max(udp=udp, encryption=encryption)
    if size <= most:
        return None
    sealed = f" under encryption type {encryption}" if encryption > SMALL_TYPE_MAX else ""
    return f"payload has {size} bytes: at most {most} go over {'UDP' if udp else 'TCP'}{sealed}"


def payload_room(request: "Request", factor: int) -> int:
    """The most bytes of payload that a node sends in reply to `request`. factor: `[limits]
    udp_reply_factor_max`."""
    udp = request.transport == "udp"
    most = payload_max(udp=udp, encryption=request.encryption)
    if not udp or factor == 0:
        return most
    asked = len(request.header) + request._record[_BODY_SIZE]
    return min(most, factor * asked - (UDP_PAYLOAD_MAX - most))


def is_sent(payload: bytes, request: "Request", factor: int) -> bool:
    """Whether a node sends `payload` in reply to `request`, rather than 252 or 89 without any.
    factor: as for payload_room()."""
    return not payload or len(payload) <= payload_room(request, factor)


def unpack_peer(raw: bytes) -> tuple[str, int]:
    """Address and port of a sockaddr of 28 bytes, as the kernel writes it.

    A socket of the service manager may take both families: IPv4 is shown as IPv4 then, too.
    """
    family = int.from_bytes(raw[:2], sys.byteorder)
    port = int.from_bytes(raw[2:4])
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    if raw[8:20] == _MAPPED:
        return socket.inet_ntop(socket.AF_INET, raw[20:24]), port
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port


class Request:
    """A request whose header, length and body check have passed; an encrypted one in the clear.

    `payload` is a copy of its own: it may be kept. The other properties are decoded when asked for.
    """

    __slots__ = ("_data", "_record", "payload")

    def __init__(self, payload: bytes, record: tuple[int, ...], data: bytes) -> None:
        self.payload = payload
        self._record = record
        self._data = data

    @property
    def group(self) -> int:
        """Command group, 0 to 15."""
        return self._record[_COMMAND] >> 8

    @property
    def command(self) -> int:
        """Command within the group, 0 to 255."""
        return self._record[_COMMAND] & 0xFF

    @property
    def encryption(self) -> int:
        """Encryption type of request and reply: 0, 1, 2, 4 or 5."""
        return self._record[_ENCRYPTION]

    @property
    def shard(self) -> int:
        """Shard id, 0 to 3."""
        return self._record[_SHARD]

    @property
    def has_body(self) -> bool:
        """Whether there was a body at all; without one the payload is empty too."""
        return self._record[_BODY_SIZE] > 0

    @property
    def transport(self) -> str:
        """`udp` or `tcp`."""
        return "tcp" if self._record[_TRANSPORT] else "udp"

    @property
    def header(self) -> bytes:
        """The request's header as sent: 32 bytes, or 48 for encryption types 4 and 5."""
        start = self._front() + _HEADER_OFFSET
        header_size = HEADER_SMALL if self.encryption <= SMALL_TYPE_MAX else HEADER_LARGE
        return self._data[start : start + header_size]

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the sender."""
        start = self._front() + _PEER_OFFSET
        return unpack_peer(self._data[start : start + 28])

    def _front(self) -> int:
        """Where the body starts in the batch's data; a plain one has its challenge first."""
        return self._record[_AT] - (CHALLENGE_SIZE if self._record[_KIND] == 0 else 0)

    def __repr__(self) -> str:
        host, port = self.peer
        return (
            f"<Request {self.group}/{self.command} {len(self.payload)} bytes "
            f"over {self.transport} from {host} port {port}>"
        )
