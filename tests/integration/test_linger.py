"""Bytes that arrive late do not cut a reply in flight: the node closes its half of the connection
first, and discards further input until the client has closed the other half."""

import socket
import time
from collections.abc import Iterator

import pytest

from raida_uring.ffi import native
from tests.support.handlers import BLOB, blob_bytes
from tests.support.net import PATIENCE, tcp_connect
from tests.support.node import HANDLERS, Node, running_node
from tests.support.wire import ECHO_COMMAND, request, status

LINGER_S = 2.0
SMALL_BUFFER = 4096
# A reply of the first size waits in the kernel for a slow reader, one of the last stays in a block.
SIZES = [100, 1_000, 17_000, 60_000]


@pytest.fixture
def node() -> Iterator[Node]:
    with running_node(handlers=HANDLERS) as running:
        yield running


def slow_reader(node: Node) -> socket.socket:
    """Connected, with a receive window of a few KiB."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.settimeout(10 * PATIENCE)
    client.connect(node.endpoint)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_slowly(client: socket.socket) -> bytes:
    """To the end; a reset fails, but for one behind a small reply: that is whole before it."""
    data = bytearray()
    try:
        while piece := client.recv(1000):
            data += piece
            time.sleep(0.001)  # what makes it slow
    except ConnectionResetError:
        if not 0 < len(data) <= native.INLINE_SIZE:
            raise
    return bytes(data)


@pytest.mark.parametrize("size", SIZES)
def test_byte_behind_the_request_does_not_cut_the_reply(node: Node, size: int) -> None:
    """A newline arrives when the reply is on its way."""
    for _ in range(5):
        with slow_reader(node) as client:
            client.sendall(request(BLOB, size.to_bytes(4)))
            assert len(client.recv(1, socket.MSG_PEEK)) == 1
            client.sendall(b"\n")
            reply = read_slowly(client)
        assert status(reply) == 250
        assert reply[32:-2] == blob_bytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_with_the_request_do_not_cut_the_reply(node: Node, size: int) -> None:
    """More of them than the node reads at a time."""
    with slow_reader(node) as client:
        client.sendall(request(BLOB, size.to_bytes(4)) + bytes(60_000))
        assert read_slowly(client)[32:-2] == blob_bytes(size)


@pytest.mark.parametrize("persistent", [False, True])
def test_refused_request_is_sent_to_its_end(persistent: bool) -> None:
    """The client can send the whole body that was refused, and then reads why."""
    with running_node(tcp={"persistent": persistent}) as node, tcp_connect(node.endpoint) as client:
        refused = bytearray(request(ECHO_COMMAND, bytes(60_000)))
        refused[2] ^= 1  # another RAIDA's
        for at in range(0, len(refused), 5000):
            client.sendall(refused[at : at + 5000])
            time.sleep(0.002)  # so that the rest comes behind the refusal
        reply = b""
        while piece := client.recv(1000):
            reply += piece
        assert len(reply) == 32
        assert status(reply) != 250


def send_until_cut_off(client: socket.socket) -> None:
    """Without end."""
    try:
        while True:
            client.send(bytes(10_000))
    except ConnectionError:
        pass


@pytest.mark.parametrize("chatty", [False, True])
def test_client_that_does_not_end_is_not_waited_for(node: Node, chatty: bool) -> None:
    """Neither for long nor for many bytes; its request counts as answered meanwhile."""
    with tcp_connect(node.endpoint) as client:
        client.sendall(request(BLOB, (1000).to_bytes(4)))
        assert client.recv(1, socket.MSG_PEEK)
        node.wait_for_counts(tcp_answered=1, tcp_in_flight=0, connections_open=1)
        began = time.monotonic()
        if chatty:
            send_until_cut_off(client)
        node.wait_for_counts(connections_open=0, connections_closed_done=1)
        if not chatty:
            assert time.monotonic() - began > LINGER_S * 0.5


def test_the_state_of_an_answered_connection_is_listed(node: Node) -> None:
    """Operators see it among the open ones."""
    with tcp_connect(node.endpoint) as client:
        client.sendall(request(BLOB, (1000).to_bytes(4)))
        assert client.recv(1, socket.MSG_PEEK)
        node.wait_for_counts(tcp_answered=1)
        states = [connection.state for connection in node.server.connections()[0]]
        assert states == ["answered"]
