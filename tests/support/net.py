"""Blocking clients for the tests. Every wait is bounded; a timeout is a failure, never a result.

Any thread; each socket belongs to the caller.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Endpoint = tuple[str, int]  # numeric host, port

# Factor on how long tests wait for what has to come: an emulated processor takes its time. What
# tests measure does not follow it; of the deadlines that they set for a node, only those that a
# client must not meet.
PATIENCE = float(os.environ.get("RAIDA_TEST_PATIENCE", "1"))
# Share of the repetitions that only look for what is rare.
VOLUME = float(os.environ.get("RAIDA_TEST_VOLUME", "1"))
# Generous: a loaded CI machine must not fail a test that does not time.
ANSWER_TIMEOUT_S = 10.0 * PATIENCE
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024  # thousands of replies may wait for one client
DATAGRAM_BYTES_MAX = 65536


def family_of(endpoint: Endpoint) -> socket.AddressFamily:
    """AF_INET6 for a numeric host with a colon."""
    return socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET


@contextmanager
def udp_client(endpoint: Endpoint) -> Iterator[socket.socket]:
    """An unconnected UDP socket, which receives a reply from any address."""
    with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        client.settimeout(ANSWER_TIMEOUT_S)
        yield client


def udp_exchange(client: socket.socket, endpoint: Endpoint, request: bytes) -> bytes:
    """Send one datagram, return the reply, which must come from the address that was asked."""
    client.sendto(request, endpoint)
    reply, source = client.recvfrom(DATAGRAM_BYTES_MAX)
    assert source[:2] == endpoint, f"asked {endpoint}, answered from {source}"
    return reply


def udp_ask(endpoint: Endpoint, request: bytes) -> bytes:
    """One exchange from a socket of its own."""
    with udp_client(endpoint) as client:
        return udp_exchange(client, endpoint, request)


def udp_ask_all(endpoint: Endpoint, requests: Iterable[bytes], window: int) -> list[bytes]:
    """Send all requests, at most `window` unanswered at a time; replies in order of arrival."""
    replies: list[bytes] = []
    outstanding = 0
    with udp_client(endpoint) as client:
        for request in requests:
            client.sendto(request, endpoint)
            outstanding += 1
            if outstanding == window:
                replies.append(client.recv(DATAGRAM_BYTES_MAX))
                outstanding -= 1
        replies += [client.recv(DATAGRAM_BYTES_MAX) for _ in range(outstanding)]
    return replies


def tcp_connect(endpoint: Endpoint, source_host: str | None = None) -> socket.socket:
    """A connected socket without Nagle delay; the caller closes it."""
    source = None if source_host is None else (source_host, 0)
    client = socket.create_connection(endpoint, timeout=ANSWER_TIMEOUT_S, source_address=source)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_exactly(client: socket.socket, count: int) -> bytes:
    """`count` bytes, or an assertion that names how many came before the end."""
    data = bytearray()
    while len(data) < count:
        piece = client.recv(count - len(data))
        assert piece, f"connection closed after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def read_reply(client: socket.socket) -> bytes:
    """One reply with a 32-byte header, by its size field; the connection stays open."""
    header = read_exactly(client, 32)
    return header + read_exactly(client, int.from_bytes(header[9:12]))


def read_to_close(client: socket.socket) -> bytes:
    """Everything until the node closes. A reset ends the stream too: the node closes with
    unread input when it answers before the end of a request."""
    data = bytearray()
    while True:
        try:
            piece = client.recv(DATAGRAM_BYTES_MAX)
        except ConnectionResetError:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece


def send_pieces(client: socket.socket, pieces: Iterable[bytes]) -> None:
    """Send piece by piece; the node may answer and close before it has seen them all."""
    try:
        for piece in pieces:
            client.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass


def tcp_ask(endpoint: Endpoint, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send one request in pieces on a connection of its own; all bytes until the node closes."""
    with tcp_connect(endpoint) as client:
        send_pieces(client, pieces)
        if half_close:
            try:
                client.shutdown(socket.SHUT_WR)
            except OSError:  # already reset by an early answer; what it sent is still readable
                pass
        return read_to_close(client)


def reset(client: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def turned_away(endpoint: Endpoint, client: socket.socket | None = None) -> bool:
    """Whether a new client is refused, reset, or closed without a byte.

    client: an unconnected socket to try with, for callers that could not make one now.
    """
    with client or socket.socket(family_of(endpoint)) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            sock.connect(endpoint)
        except ConnectionError:
            return True
        return read_to_close(sock) == b""


def assert_silent(clients: Iterable[socket.socket], wait_s: float) -> None:
    """No byte arrives on any socket within `wait_s`; being closed by the node is no byte."""
    waiting = {client.fileno(): client for client in clients}
    poller = select.poll()
    for descriptor in waiting:
        poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + wait_s
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poller.poll(left_s * 1000):
            poller.unregister(descriptor)
            try:
                data = waiting.pop(descriptor).recv(DATAGRAM_BYTES_MAX)
            except ConnectionResetError:
                continue
            assert data == b"", f"{data.hex()} where silence was expected"
