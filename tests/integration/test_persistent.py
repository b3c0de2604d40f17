"""`tcp.persistent`. What must hold: with it, a connection serves requests one after the other in
the order they were sent, until it is idle for too long or the peer ends it; without it, exactly
one."""

import socket

import pytest

from tests.support.handlers import BLOB, HOLD, MIRROR, NAP, blob_bytes, gate
from tests.support.net import PATIENCE, assert_silent, read_reply, read_to_close, tcp_connect
from tests.support.node import HANDLERS, running_node, total
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    challenge_of,
    reply_payload,
    request,
    status,
)

PERSISTENT = {"persistent": True}


def assert_answers(client: socket.socket, sent: bytes) -> None:
    reply = read_reply(client)
    assert (status(reply), reply[6:8]) == (250, sent[30:32])
    assert reply[16:32] == challenge_of(sent)


def test_default_is_one_request() -> None:
    """A pipelined second request is never read: one answer, then the close."""
    sent = [request(ECHO_COMMAND, echo=1), request(ECHO_COMMAND, echo=2)]
    with running_node() as node, tcp_connect(node.endpoint) as client:
        client.sendall(b"".join(sent))
        replies = read_to_close(client)
        assert (len(replies), replies[6:8]) == (32, b"\x00\x01")
        node.wait_for_counts(connections_open=0)
        node.wait_for_counts(tcp_answered=1)


def test_one_after_the_other() -> None:
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        for index in range(300):
            command = [ECHO_COMMAND, VERSION_COMMAND, MIRROR][index % 3]
            sent = request(command, bytes(index * 7), echo=index)
            client.sendall(sent)
            assert_answers(client, sent)
        node.wait_for_counts(connections_accepted=1, tcp_answered=300)


def test_pipelined_in_one_segment() -> None:
    """Quick answers do not overtake slow ones: fast path, worker and a napping handler mixed."""
    commands = [NAP, ECHO_COMMAND, VERSION_COMMAND, ECHO_COMMAND, MIRROR]
    sent = [request(commands[i % 5], bytes(i % 40), echo=i) for i in range(100)]
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        client.sendall(b"".join(sent))
        for data in sent:
            assert_answers(client, data)


@pytest.mark.parametrize("piece_bytes", [1, 7, 33, 50, 1000])
def test_pipelined_in_pieces(piece_bytes: int) -> None:
    """Segments that end anywhere, in the middle of the next header too."""
    sent = [request(MIRROR, bytes(i * 5), echo=i) for i in range(20)]
    stream = b"".join(sent)
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        for start in range(0, len(stream), piece_bytes):
            client.sendall(stream[start : start + piece_bytes])
        for data in sent:
            assert_answers(client, data)


def test_pipelining_past_every_buffer() -> None:
    """More requests and replies than any buffer holds: the peer is slowed down, nothing is lost."""
    count, size = 200, 20000
    stream = b"".join(request(MIRROR, blob_bytes(size), echo=i) for i in range(count))
    with running_node(tcp=PERSISTENT, handlers=HANDLERS) as node:
        with tcp_connect(node.endpoint) as client, tcp_connect(node.endpoint) as other:
            client.setblocking(False)
            position = 0
            try:
                while position < len(stream):
                    position += client.send(stream[position : position + 65536])
            except BlockingIOError:
                pass
            other.sendall(request(ECHO_COMMAND))  # a full connection holds up no other
            assert status(read_reply(other)) == 250
            client.settimeout(10 * PATIENCE)
            replies = bytearray()
            while len(replies) < count * (32 + size + 2):
                if position < len(stream):
                    client.setblocking(False)
                    try:
                        position += client.send(stream[position : position + 65536])
                    except BlockingIOError:
                        pass
                    client.settimeout(10 * PATIENCE)
                piece = client.recv(1 << 20)
                assert piece, f"closed after {len(replies)} bytes"
                replies += piece
        for index in range(count):
            reply = bytes(replies[index * (34 + size) : (index + 1) * (34 + size)])
            assert int.from_bytes(reply[6:8]) == index
            assert reply_payload(reply) == blob_bytes(size)


def test_held_request_holds_those_behind_it() -> None:
    """One request of a connection at a time: the answer behind a held one waits for it."""
    sent = [request(HOLD, b"first", echo=1), request(ECHO_COMMAND, echo=2)]
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        with gate.closed():
            client.sendall(b"".join(sent))
            node.wait_for_counts(tcp_in_flight=1)
            assert_silent([client], 0.1)
        for data in sent:
            assert_answers(client, data)


def test_idle_timeout_closes() -> None:
    """Idle counts from the last answer; the close is orderly and no request is lost by it."""
    tcp = {**PERSISTENT, "idle_timeout_ms": 300}
    with running_node(tcp=tcp) as node, tcp_connect(node.endpoint) as client:
        for index in range(3):
            sent = request(ECHO_COMMAND, echo=index)
            client.sendall(sent)
            assert_answers(client, sent)
        assert client.recv(1) == b""
        node.wait_for_counts(connections_open=0)
        counters = node.counters()
        assert counters["tcp_requests"] == counters["tcp_answered"] == 3
        assert total(counters, "tcp_dropped_") == 0


def test_half_close_is_answered() -> None:
    """The end of the stream ends the requests, not the answers."""
    sent = [request(command, echo=i) for i, command in enumerate([NAP, ECHO_COMMAND, MIRROR])]
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        client.sendall(b"".join(sent))
        client.shutdown(socket.SHUT_WR)
        for data in sent:
            assert_answers(client, data)
        assert client.recv(1) == b""


def test_half_close_inside_a_request() -> None:
    """What came before is answered; the incomplete request is dropped and counted."""
    with running_node(tcp=PERSISTENT) as node, tcp_connect(node.endpoint) as client:
        sent = request(ECHO_COMMAND)
        client.sendall(sent + sent[:40])
        client.shutdown(socket.SHUT_WR)
        assert_answers(client, sent)
        assert client.recv(1) == b""
        node.wait_for_counts(connections_open=0)
        counters = node.counters()
        assert (counters["tcp_answered"], total(counters, "tcp_dropped_")) == (1, 1)


def test_header_error_ends_the_connection() -> None:
    """After a wrong header the start of the next one is unknown."""
    with running_node(tcp=PERSISTENT) as node, tcp_connect(node.endpoint) as client:
        good = request(ECHO_COMMAND)
        client.sendall(good + b"\x02" + good[1:] + good)
        replies = read_to_close(client)
        assert [replies[start + 2] for start in range(0, len(replies), 32)] == [250, 255]


def test_body_error_keeps_the_connection() -> None:
    """A wrong CRC leaves the framing intact."""
    with running_node(tcp=PERSISTENT) as node, tcp_connect(node.endpoint) as client:
        good = request(ECHO_COMMAND)
        bad = good[:47] + bytes((good[47] ^ 1,)) + good[48:]
        client.sendall(bad + good)
        assert status(read_reply(client)) == 37
        assert_answers(client, good)


def test_large_replies_in_order() -> None:
    with (
        running_node(tcp=PERSISTENT, handlers=HANDLERS) as node,
        tcp_connect(node.endpoint) as client,
    ):
        sizes = [0, 1, 1400, 65000, 2, 30000, 1600]
        client.sendall(b"".join(request(BLOB, size.to_bytes(4)) for size in sizes))
        for size in sizes:
            assert reply_payload(read_reply(client)) == blob_bytes(size)
