"""A small synchronous client: one request out, one reply in, over UDP or TCP.

Each exchange has a socket of its own, so a late reply to an earlier request cannot be taken for
this one's. Safe from any thread. Source: wire specification, sections 1 and 4.
"""

import socket
import time
from dataclasses import dataclass
from typing import Final, Literal

from raida_uring import protocol

Transport = Literal["udp", "tcp"]

_DATAGRAM_BYTES_MAX: Final = 65535


@dataclass(frozen=True, slots=True)
class Exchange:
    """A reply, and how long it took from the first byte sent (over TCP: from connecting)."""

    reply: protocol.ParsedReply
    round_trip_s: float


def format_endpoint(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Return the family and text of the first address of `host`, a name or an address.

    Raises OSError if it has none.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError:
        raise OSError(f"{host!r} cannot be a host name") from None
    return family, str(address[0])


def request(
    host: str, port: int, data: bytes, *, transport: Transport = "udp", timeout_s: float = 2.0
) -> Exchange:
    """Send the request `data` and return the reply.

    host: name or IP address. timeout_s: for the whole exchange, from the moment that the name is
    resolved. Raises TimeoutError when it passes, OSError when the machine or the network refuses,
    ProtocolError when the answer is no reply.
    """
    encryption = data[protocol.ENCRYPTION_OFFSET]
    family, address = resolve(host, port)
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as peer:
        start_s = time.perf_counter()
        peer.settimeout(timeout_s)
        # Connected UDP: the kernel drops other senders' datagrams and reports a closed port.
        peer.connect((address, port))
        peer.sendall(data)
        if transport == "udp":
            answer = peer.recv(_DATAGRAM_BYTES_MAX)
        else:
            answer = _receive_reply(peer, encryption, start_s + timeout_s)
        round_trip_s = time.perf_counter() - start_s
    return Exchange(protocol.parse_reply(answer, encryption), round_trip_s)


def _receive_reply(peer: socket.socket, encryption: int, deadline_s: float) -> bytes:
    """Read one reply off a stream; what an early end left of it is for parse_reply to refuse."""
    answer = b""
    wanted = protocol.PREFIX_BYTES
    while len(answer) < wanted:
        remaining_s = deadline_s - time.perf_counter()
        if remaining_s <= 0:
            raise TimeoutError("timed out")
        peer.settimeout(remaining_s)
        piece = peer.recv(wanted - len(answer))
        if not piece:
            break
        answer += piece
        if len(answer) == protocol.PREFIX_BYTES:
            wanted = protocol.reply_bytes(answer, encryption)
    return answer
