"""The synchronous client: sends one request and receives its reply, over UDP or TCP.

Each exchange uses a new connected socket, so the kernel drops datagrams of other peers.
Thread: any.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from raida_uring import addresses, protocol
from raida_uring.client import resolver
from raida_uring.client.peer import Peer, make_vote
from raida_uring.client.question import (
    DATAGRAM_BYTES_MAX,
    TRANSPORTS,
    Answer,
    StrayError,
    Transport,
    read_vote,
)
from raida_uring.protocol import arguments
from raida_uring.protocol.calls import Call

T = TypeVar("T")

_Address = tuple[str | int | bytes, ...]
_Place = tuple[socket.AddressFamily, _Address]


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
        question, timeout_s = self._question(call, shard), self._timeout_s(timeout_s)
        endpoint = self.host, self.port
        with naming(*endpoint):
            if self.transport == "udp":
                return _ask_udp(*endpoint, question.data, question.read, timeout_s)
            data, round_trip_s = _ask_tcp(*endpoint, question.data, timeout_s)
        return question.read(data, round_trip_s)

    def vote(
        self, roots: bytes = bytes(protocol.ROOTS_BYTES), *, timeout_s: float | None = None
    ) -> bool:
        """Whether the node has the same 15 roots (480 bytes). Always over UDP.

        Raises as `ask()`.
        """
        (data, nonce), timeout_s = make_vote(roots), self._timeout_s(timeout_s)
        with naming(self.host, self.port):
            return _ask_udp(self.host, self.port, data, read_vote(nonce), timeout_s)


@contextlib.contextmanager
def naming(host: str, port: int) -> Iterator[None]:
    """Add the endpoint to the text of an OSError, since callers may ask many nodes."""
    try:
        yield
    except OSError as error:
        if error.errno is None and isinstance(error, TimeoutError):
            raise TimeoutError(f"{format_endpoint(host, port)}: {error}") from None
        if error.errno is None:
            raise  # the text is already ours
        # Negative: a resolver's code, with its text. asyncio's texts for an errno say less.
        reason = error.strerror if error.errno < 0 else os.strerror(error.errno)
        raise type(error)(error.errno, f"{format_endpoint(host, port)}: {reason}") from error


def explain_timeout(strays: list[StrayError]) -> TimeoutError:
    """Return the error for an exchange in which only `strays` arrived."""
    ignored = f"; {len(strays)} datagrams ignored, the last: {strays[-1]}" if strays else ""
    return TimeoutError(f"timed out{ignored}")


def no_name(host: str) -> OSError:
    """Return the error for a name that Python cannot encode (UnicodeError)."""
    return OSError(f"{host!r} cannot be a host name")


def _ask_udp(
    host: str, port: int, data: bytes, read: Callable[[bytes, float], T], timeout_s: float
) -> T:
    """Ask the first address of `host` with an open port. Returns the result of `read` for the first
    datagram that it accepts; ignores others."""
    deadline_s = time.perf_counter() + timeout_s
    found = _resolve(host, port, timeout_s)
    for family, address in found[:-1]:
        try:
            return _ask_udp_at(family, address, data, read, deadline_s)
        except TimeoutError:
            raise  # the node may have received it, and a request is never sent twice
        except OSError:
            continue  # nobody received it
    return _ask_udp_at(*found[-1], data, read, deadline_s)


def _ask_udp_at(
    family: socket.AddressFamily,
    address: _Address,
    data: bytes,
    read: Callable[[bytes, float], T],
    deadline_s: float,
) -> T:
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


def _ask_tcp(host: str, port: int, data: bytes, timeout_s: float) -> tuple[bytes, float]:
    """Return the reply's bytes, or as many of them as arrived, and the time it took."""
    deadline_s = time.perf_counter() + timeout_s
    found = _resolve(host, port, timeout_s)
    peer, start_s = _connect(found, deadline_s)
    with peer:
        unsent: OSError | None = None
        try:
            _set_deadline(peer, deadline_s)
            peer.sendall(data)
        except ConnectionError as error:  # a refused header: the reply may have arrived already
            unsent = error
        encryption = data[protocol.ENCRYPTION_OFFSET]
        answer = _receive_reply(peer, encryption, deadline_s)
        if unsent is not None and not answer:
            raise unsent
        return answer, time.perf_counter() - start_s


def _connect(found: list[_Place], deadline_s: float) -> tuple[socket.socket, float]:
    """Connect to the first address that accepts; returns the socket and when that attempt began.
    Each address gets an equal share of the time left. Raises OSError, that of the last address."""
    fault = OSError("no address")
    for index, (family, address) in enumerate(found):
        peer = socket.socket(family, socket.SOCK_STREAM)
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
    raise fault


def _receive_reply(peer: socket.socket, encryption: int, deadline_s: float) -> bytes:
    """Read one reply from a stream; parse_reply() refuses one that an early end cut short."""
    answer = b""
    wanted = protocol.PREFIX_BYTES
    while len(answer) < wanted:
        _set_deadline(peer, deadline_s)
        piece = peer.recv(wanted - len(answer))
        if not piece:
            break
        answer += piece
        if len(answer) == protocol.PREFIX_BYTES:
            wanted = protocol.reply_bytes(answer, encryption)
    return answer


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
    return [(family, _text_of(address)) for family, address in _resolve(host, port, timeout_s)]


def _text_of(address: _Address) -> str:
    scope = int(address[3]) if len(address) > 3 else 0
    return str(address[0]) + (f"%{socket.if_indextoname(scope)}" if scope else "")


def _resolve(host: str, port: int, timeout_s: float | None) -> list[_Place]:
    """As resolve_all(), with addresses for connect(); at least one."""
    arguments.host("host", host)
    arguments.whole("port", port, 0, 65535)
    try:
        found = resolver.find(host, port, timeout_s)
    except UnicodeError:
        raise no_name(host) from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


# --- Raw requests -----------------------------------------------------------------------------


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
    encryption = data[protocol.ENCRYPTION_OFFSET]
    if transport == "tcp":
        answer, round_trip_s = _ask_tcp(host, port, data, timeout_s)
    else:
        answer, round_trip_s = _ask_udp(host, port, data, lambda *taken: taken, timeout_s)
    return Exchange(protocol.parse_reply(answer, encryption), round_trip_s)
