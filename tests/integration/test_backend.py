"""Behaviour that does not depend on how a backend learns of events."""

import os
import socket
from contextlib import ExitStack

from tests.support.net import read_exactly, tcp_ask, tcp_connect, udp_ask
from tests.support.node import Node, running_node
from tests.support.wire import ECHO_COMMAND, challenge_of, request, status, vote, vote_agreed

REPLY_BYTES = 32


def test_the_backend_is_the_one_asked_for(backend: str) -> None:
    """Otherwise the suite would test one backend twice."""
    begins = {
        "uring": "io_uring, ",
        "epoll": "epoll (as configured)",
        "auto": "epoll (io_uring refused: ",  # support/refused.py
    }
    with running_node() as node:
        assert node.server.tier.startswith(begins[backend])


def test_pitfall_3_7_spinning_before_sleeping() -> None:
    """`busy_poll_us` shorter and longer than the pauses between requests."""
    for busy_poll_us in (1, 20_000):
        with running_node(network={"busy_poll_us": busy_poll_us}) as node:
            for _ in range(20):
                assert udp_ask(node.endpoint, vote()) == vote_agreed()
                assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250


def test_urgent_byte_does_not_end_a_stream() -> None:
    """A receive stops at an urgent mark with a short count although more is there."""
    sent = request(ECHO_COMMAND, bytes(5000))
    for at in (1, 20, 32, 4000):
        with running_node(tcp={"persistent": True}) as node, tcp_connect(node.endpoint) as client:
            client.sendall(sent[:at])
            client.send(b"!", socket.MSG_OOB)  # not part of the stream
            client.sendall(sent[at:])
            assert read_exactly(client, REPLY_BYTES)[16:] == challenge_of(sent)


def held_descriptor(node: Node, client: socket.socket) -> int:
    """A second descriptor for the node's end of `client`, as a forked child would have."""
    node.wait_for_counts(connections_open=1)
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            end = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)  # a ring, for one: it would lock memory as long as this process lives
            continue
        try:
            if end.getpeername() == client.getsockname():
                return end.detach()
        except OSError:  # not connected
            pass
        end.close()
    raise AssertionError("the node's end of the connection was not found")


def test_pitfall_3_5_connection_that_a_child_holds_open() -> None:
    """Closing ends nothing while a copy of the descriptor exists: what still arrives there must not
    reach the connection that took its place."""
    with running_node() as node, ExitStack() as stack:
        first = stack.enter_context(tcp_connect(node.endpoint))
        stack.callback(os.close, held_descriptor(node, first))
        sent = request(ECHO_COMMAND)
        first.sendall(sent)
        assert read_exactly(first, REPLY_BYTES)[16:] == challenge_of(sent)
        node.wait_for_counts(connections_open=0)
        for _ in range(3):
            second = stack.enter_context(tcp_connect(node.endpoint))
            second.sendall(sent[:20])
            node.wait_for_counts(tcp_in_flight=1)
            first.sendall(b"for nobody")
            second.sendall(sent[20:])
            assert read_exactly(second, REPLY_BYTES)[16:] == challenge_of(sent)
            node.wait_for_counts(connections_open=0)
        node.wait_for_counts(tcp_answered=4)
