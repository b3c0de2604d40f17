"""The asynchronous client: sends one request and receives its reply, over UDP or TCP.

Each exchange uses a new connected socket, so the kernel drops datagrams of other peers. Thread: the
event loop's.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from raida_uring import protocol
from raida_uring.client import resolver
from raida_uring.client.question import (
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
from raida_uring.errors import ProtocolError
from raida_uring.protocol import Status
from raida_uring.protocol.calls import Call

T = TypeVar("T")


@dataclass(frozen=True)  # so that the error for a missing argument names AsyncClient()
class AsyncClient(Peer):
    """Asks one node from an event loop. Keeps no socket; any number of concurrent questions.

    Arguments as `Peer`; timeout_s includes resolving the name.
    """

    _reply_bytes_max: ClassVar[int] = 1 << 25  # over TCP; more than a header can announce

    async def ask(
        self, call: Call[T], *, shard: int = 0, timeout_s: float | None = None
    ) -> Answer[T]:
        """Send the request once and return the answer; raises as `Client.ask()`."""
        question, timeout_s = Question(self, call, shard), self._timeout_s(timeout_s)
        return await self._exchange(self.transport, question.data, question.read, timeout_s)

    async def vote(
        self, roots: bytes = bytes(protocol.ROOTS_BYTES), *, timeout_s: float | None = None
    ) -> bool:
        """Whether the node has the same 15 roots (480 bytes). Always over UDP.

        Raises as `ask()`.
        """
        (data, read), timeout_s = make_vote(roots), self._timeout_s(timeout_s)
        return await self._exchange("udp", data, read, timeout_s)

    async def _exchange(
        self, transport: Transport, data: bytes, read: Callable[[bytes, float], T], timeout_s: float
    ) -> T:
        """Send `data` once and return what `read` makes of the reply and of the time it took."""
        deadline_s = time.perf_counter() + timeout_s
        strays: list[StrayError] = []
        with naming(self.host, self.port):
            try:
                async with asyncio.timeout(timeout_s):
                    found = resolver.start(self.host, self.port)
                    places = found if isinstance(found, list) else await asyncio.wrap_future(found)
                    if transport == "tcp":
                        return read(*await self._ask_tcp(places, data, deadline_s))
                    return await _ask_udp(places, data, read, strays)
            except TimeoutError:
                raise explain_timeout(strays) from None

    async def _ask_tcp(
        self, found: list[Place], data: bytes, deadline_s: float
    ) -> tuple[bytes, float]:
        """Return the reply's bytes, or as many of them as arrived, and the time it took."""
        connected, start_s = await _connect(found, deadline_s)
        transport, stream = await asyncio.get_running_loop().create_connection(
            lambda: _ReplyStream(data[protocol.ENCRYPTION_OFFSET], self._reply_bytes_max),
            sock=connected,
        )
        try:
            transport.write(data)
            return await stream.ended, time.perf_counter() - start_s
        finally:
            transport.abort()  # close() would wait for unsent bytes, which no longer matter


async def _connect(found: list[Place], deadline_s: float) -> tuple[socket.socket, float]:
    """As that of the synchronous client."""
    fault: OSError | None = None
    for index, (family, address) in enumerate(found):
        try:
            peer = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            fault = telling(fault, error)
            continue
        start_s = time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - start_s) / (len(found) - index)):
                await asyncio.get_running_loop().sock_connect(peer, address)
        except OSError as error:
            peer.close()
            fault = error
        except BaseException:
            peer.close()
            raise
        else:
            return peer, start_s
    raise fault or OSError("no address")


async def _ask_udp(
    found: list[Place],
    data: bytes,
    read: Callable[[bytes, float], T],
    strays: list[StrayError],
) -> T:
    """Ask the addresses in turn until one has an open port; a closed port received nothing."""
    fault: OSError | None = None
    for place in found:
        try:
            return await _ask_udp_at(place, data, read, strays)
        except OSError as error:
            fault = telling(fault, error)
    raise fault or OSError("no address")


async def _ask_udp_at(
    place: Place, data: bytes, read: Callable[[bytes, float], T], strays: list[StrayError]
) -> T:
    """strays: collects the errors of datagrams that are not the reply. Raises OSError, such as for
    a closed port."""
    family, address = place
    peer = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        peer.connect(address)
    except OSError:
        peer.close()
        raise
    transport, inbox = await asyncio.get_running_loop().create_datagram_endpoint(_Inbox, sock=peer)
    try:
        start_s = time.perf_counter()
        transport.sendto(data)
        while True:
            reply = await inbox.next()
            try:
                return read(reply, time.perf_counter() - start_s)
            except StrayError as error:
                strays.append(error)
    finally:
        transport.close()


class _ReplyStream(asyncio.Protocol):
    """Receives one reply from a connection.

    Not a StreamReader: a node that refuses the header answers and resets the connection while the
    body is still being sent, and on a reset a reader drops the bytes it has received.
    """

    def __init__(self, encryption: int, bytes_max: int) -> None:
        self.ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._bytes_max = bytes_max
        self._encryption = encryption
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) < protocol.PREFIX_BYTES:
            return
        wanted = protocol.reply_bytes(self._data, self._encryption)
        if self.ended.done():
            return
        if wanted > self._bytes_max:
            fault = ProtocolError(f"a reply of {wanted} bytes", Status.INVALID_PACKET_LENGTH)
            self.ended.set_exception(fault)
        elif len(self._data) >= wanted:
            self.ended.set_result(self._data[:wanted])

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended.done():
            return
        if exc is not None and not self._data:
            self.ended.set_exception(exc)
        else:
            self.ended.set_result(self._data)


class _Inbox(asyncio.DatagramProtocol):
    """Datagrams and errors of one connected socket, in order."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  connected
        self._arrived.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self._arrived.put_nowait(exc)

    async def next(self) -> bytes:
        """Return the next datagram. Raises OSError on a network error, such as a closed port."""
        arrived = await self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived
