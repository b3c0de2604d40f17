"""The synchronous client: sends one request and receives its reply, over UDP or TCP.

Each exchange uses a new connected socket, so the kernel drops datagrams of other peers.
Thread: any.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from raida_uring import addresses, protocol
from raida_uring.client import resolver
from raida_uring.client.question import (
    DATAGRAM_BYTES_MAX,
    TRANSPORTS,
    Answer,
    Peer,
    Question,
    StrayError,
    Transport,
    explain_timeout,
    make_vote,
    naming,
    telling,
)
from raida_uring.client.resolver import Place
from raida_uring.protocol import arguments
from raida_uring.protocol.calls import Call

T = TypeVar("T")


@dataclass(frozen=True)  # so that the error for a missing argument names Client()
class Client(Peer):
    """Asks one node synchronously. Keeps no socket; any thread, several at once.

    Arguments as `Peer`; timeout_s includes resolving the name.
    """

    def ask(self, call: Call[T], *, shard: int = 0, timeout_s: float | None = None) -> Answer[T]:
        """Send the request once and return the answer; a refusal is an answer, too.

        timeout_s: replaces the client's. Raises TimeoutError when it passes, OSError on an error of
        the machine or the network, ProtocolError if the bytes received over TCP are not the reply,
        ArgumentError, a ValueError, if an argument does not fit the wire.
        """
        question, timeout_s = Question(self, call, shard), self._timeout_s(timeout_s)
        with naming(self.host, self.port):
            return _exchange(
                self.host, self.port, self.transport, question.data, question.read, timeout_s
            )

    def vote(
        self, roots: bytes = bytes(protocol.ROOTS_BYTES), *, timeout_s: float | None = None
    ) -> bool:
        """Whether the node has the same 15 roots (480 bytes). Always over UDP.

        Raises as `ask()`.
        """
        (data, read), timeout_s = make_vote(roots), self._timeout_s(timeout_s)
        with naming(self.host, self.port):
            return _exchange(self.host, self.port, "udp", data, read, timeout_s)


def _exchange(
    host: str,
    port: int,
    transport: Transport,
    data: bytes,
    read: Callable[[bytes, float], T],
    timeout_s: float,
) -> T:
    """Send `data` once and return what `read` makes of the reply and of the time it took."""
    deadline_s = time.perf_counter() + timeout_s
    found = resolver.find(host, port, timeout_s)
    if transport == "tcp":
        return read(*_ask_tcp(found, data, deadline_s))
    fault: OSError | None = None
    for place in found:
        try:
            return _ask_udp(place, data, read, deadline_s)
        except TimeoutError:
            raise  # the node may have received it, and a request is never sent twice
        except OSError as error:  # nobody received it
            fault = telling(fault, error)
    raise fault or OSError("no address")


def _ask_udp(place: Place, data: bytes, read: Callable[[bytes, float], T], deadline_s: float) -> T:
    """Return the result of `read` for the first datagram that it accepts; ignores others."""
    family, address = place
    strays: list[StrayError] = []
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        start_s = time.perf_counter()
        # Connected UDP: the kernel drops other senders' datagrams and reports a closed port.
        peer.connect(address)
        peer.send(data)
        while True:
            try:
                _set_deadline(peer, deadline_s)
                reply = peer.recv(DATAGRAM_BYTES_MAX)
            except TimeoutError:
                raise explain_timeout(strays) from None
            try:
                return read(reply, time.perf_counter() - start_s)
            except StrayError as error:
                strays.append(error)


def _ask_tcp(found: list[Place], data: bytes, deadline_s: float) -> tuple[bytes, float]:
    """Return the reply's bytes, or as many of them as arrived, and the time it took."""
    peer, start_s = _connect(found, deadline_s)
    with peer:
        fault: ConnectionError | None = None
        answer = b""
        try:
            _set_deadline(peer, deadline_s)
            peer.sendall(data)
        except ConnectionError as error:  # a refused header: the reply may have arrived already
            fault = error
        wanted = protocol.PREFIX_BYTES
        while len(answer) < wanted:
            _set_deadline(peer, deadline_s)
            try:
                piece = peer.recv(wanted - len(answer))
            except ConnectionError as error:
                fault = fault or error
                break
            if not piece:
                break
            answer += piece
            if len(answer) == protocol.PREFIX_BYTES:
                wanted = protocol.reply_bytes(answer, data[protocol.ENCRYPTION_OFFSET])
        if fault is not None and not answer:
            raise fault
        return answer, time.perf_counter() - start_s


def _connect(found: list[Place], deadline_s: float) -> tuple[socket.socket, float]:
    """Connect to the first address that accepts; returns the socket and when that attempt began.
    Each address gets an equal share of the time left. Raises OSError, that of the last address of a
    family that this machine has."""
    fault: OSError | None = None
    for index, (family, address) in enumerate(found):
        try:
            peer = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            fault = telling(fault, error)
            continue
        start_s = time.perf_counter()
        try:
            share_s = (deadline_s - start_s) / (len(found) - index)
            _set_deadline(peer, start_s + share_s)
            peer.connect(address)
        except OSError as error:
            peer.close()
            fault = error
        else:
            return peer, start_s
    raise fault or OSError("no address")


def _set_deadline(peer: socket.socket, deadline_s: float) -> None:
    remaining_s = deadline_s - time.perf_counter()
    if remaining_s <= 0:
        raise TimeoutError("timed out")
    peer.settimeout(remaining_s)


def format_endpoint(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets. Raises ArgumentError."""
    arguments.host("host", host)
    arguments.whole("port", port, 0, 65535)
    return addresses.format_endpoint(host, port)


def resolve(
    host: str, port: int, *, timeout_s: float | None = None
) -> tuple[socket.AddressFamily, str]:
    """Return the family and text of the first address of `host`, a name or an address. A link-local
    address includes its interface.

    timeout_s: None: no limit. Raises OSError if there is no address, TimeoutError, ArgumentError.
    """
    return resolve_all(host, port, timeout_s=timeout_s)[0]


def resolve_all(
    host: str, port: int, *, timeout_s: float | None = None
) -> list[tuple[socket.AddressFamily, str]]:
    """As resolve(), for every address of `host`, in the order in which to try them."""
    arguments.host("host", host)
    arguments.whole("port", port, 0, 65535)
    found = resolver.find(host, port, timeout_s)
    return [(family, _text_of(address)) for family, address in found]


def _text_of(address: tuple[Any, ...]) -> str:
    scope = int(address[3]) if len(address) > 3 else 0
    return str(address[0]) + (f"%{socket.if_indextoname(scope)}" if scope else "")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A reply, and the time it took from the first byte sent (over TCP: from connecting)."""

    reply: protocol.ParsedReply
    round_trip_s: float


def request(
    host: str, port: int, data: bytes, *, transport: Transport = "udp", timeout_s: float = 2.0
) -> Exchange:
    """Send the request `data` unchanged and return the reply without interpreting it.

    For requests that `Client` does not make; only the form of the reply is checked. timeout_s: for
    the whole exchange, including the resolution of the name. Raises TimeoutError when it passes,
    OSError on an error of the machine or the network, ProtocolError if the answer is not a reply,
    ArgumentError for an unusable argument: `data` needs at least 17 bytes, which determine the form
    of the reply.
    """
    arguments.host("host", host)
    arguments.port("port", port)
    arguments.choice("transport", transport, TRANSPORTS)
    arguments.timeout("timeout_s", timeout_s)
    data = arguments.octets("data", data)
    if len(data) <= protocol.ENCRYPTION_OFFSET:
        arguments.refuse("data", data, f"at least {protocol.ENCRYPTION_OFFSET + 1} bytes")

    def read(answer: bytes, round_trip_s: float) -> Exchange:
        encryption = data[protocol.ENCRYPTION_OFFSET]
        return Exchange(protocol.parse_reply(answer, encryption), round_trip_s)

    return _exchange(host, port, transport, data, read, timeout_s)
