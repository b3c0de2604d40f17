"""One test for each fault of the reference server that a data plane can have.

Source: wire specification 10.1; the B numbers are its own. Each test opens with what must hold.
B18 (the key of show_stats) is with the other statuses in tests/wire/test_statuses.py.
"""

import os
import random
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.handlers import BLOB, HOLD, MIRROR, blob_bytes, gate
from tests.support.needs import require_descriptors
from tests.support.net import (
    ANSWER_TIMEOUT_S,
    PATIENCE,
    Endpoint,
    read_to_close,
    reset,
    tcp_ask,
    tcp_connect,
    turned_away,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import HANDLERS, Node, running_node, total
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    challenge_of,
    encrypted_request,
    masked,
    reply_payload,
    request,
    status,
    vote,
    vote_agreed,
)

# Deadlines short enough to be met in a test, each far from the others and from a loaded machine's
# hiccups.
SHORT_DEADLINES = {
    "progress_timeout_ms": 300,
    "header_timeout_ms": 900,
    "body_timeout_ms": 900,
    "write_timeout_ms": 900,
    "idle_timeout_ms": 900,
}


def own_answer(sent: bytes, reply: bytes) -> bool:
    """Whether `reply` answers exactly this request: challenge and echo are its own."""
    return status(reply) == 250 and reply[16:32] == challenge_of(sent) and reply[6:8] == sent[30:32]


class TestB2AcceptBurst:
    """A burst of connections is accepted whole; none waits for another client to come."""

    def test_burst_then_a_lone_client(self) -> None:
        with running_node() as node, ExitStack() as stack:
            for burst in range(5):
                sent = [request(ECHO_COMMAND, echo=burst * 100 + i) for i in range(100)]
                clients = [stack.enter_context(tcp_connect(node.endpoint)) for _ in sent]
                for client, data in zip(clients, sent, strict=True):
                    client.sendall(data)
                for client, data in zip(clients, sent, strict=True):
                    assert own_answer(data, read_to_close(client))
            lone = request(ECHO_COMMAND, echo=0xBEEF)
            assert own_answer(lone, tcp_ask(node.endpoint, lone))
            node.wait_for_counts(connections_open=0)
            node.wait_for_counts(connections_accepted=501)

    def test_silent_connections_delay_nobody(self) -> None:
        with running_node() as node, ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(tcp_connect(node.endpoint))
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250


class TestB3ClearedSlots:
    """A reply carries nothing of an earlier request: with one slot, each pair meets in it."""

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_errors_after_strangers(self, transport: str) -> None:
        ask = udp_ask if transport == "udp" else tcp_ask
        strangers = [
            request(VERSION_COMMAND, b"\xff" * 1000, echo=0xFFFF),
            encrypted_request(5, (14, 2), b"\xff" * 1300),
            encrypted_request(1, (2, 80), b"\xff" * 1300),
            request(BLOB, (1400).to_bytes(4), echo=0xFFFF),
        ]
        good = request(ECHO_COMMAND)
        errors = {
            255: b"\x02" + good[1:],
            3: good[:2] + b"\x0f" + good[3:],
            4: good[:3] + b"\x04" + good[4:],
            5: good[:4] + b"\x10" + good[5:],
            6: good[:4] + b"\x0f\x01" + good[6:],
        }
        with running_node(udp={"contexts": 1, "reserve": 1}, handlers=HANDLERS) as node:
            for stranger in strangers:
                for code, bad in errors.items():
                    assert ask(node.endpoint, stranger)
                    reply = masked(ask(node.endpoint, bad), ((12, 4),))
                    assert reply == bytes((14, 0, code, 0, 0, 1)) + bytes(26)
                assert ask(node.endpoint, stranger)
                without_body = ask(node.endpoint, request(ECHO_COMMAND, body=False))
                assert without_body[16:] == bytes(16)


class TestB4OneTagScheme:
    """A completion is never taken for one of another kind: with listeners, connections, datagrams,
    worker wake-ups and timers all busy, every answer belongs to its own request."""

    def test_everything_at_once(self) -> None:
        draw = random.Random(4)
        tcp = {"progress_timeout_ms": round(300 * PATIENCE)}  # enough for all who do send
        with running_node(tcp=tcp, handlers=HANDLERS) as node, ExitStack() as stack:
            datagrams = stack.enter_context(udp_client(node.endpoint))
            waiting: list[tuple[bytes, socket.socket]] = []
            for index in range(1500):
                sent = request(draw.choice([ECHO_COMMAND, MIRROR, VERSION_COMMAND]), echo=index)
                kind = draw.randrange(5)
                if kind == 0:
                    stack.enter_context(tcp_connect(node.endpoint))  # will meet its deadline
                elif kind == 1:
                    reset(tcp_connect(node.endpoint))
                elif kind == 2:
                    assert own_answer(sent, udp_exchange(datagrams, node.endpoint, sent))
                else:
                    client = stack.enter_context(tcp_connect(node.endpoint))
                    client.sendall(sent)
                    waiting.append((sent, client))
                while len(waiting) > draw.randrange(60):
                    data, client = waiting.pop(draw.randrange(len(waiting)))
                    assert own_answer(data, read_to_close(client))
                    client.close()
            for data, client in waiting:
                assert own_answer(data, read_to_close(client))
            node.wait_for_counts(connections_open=0)


class TestB14FinishedConnections:
    """However many requests finish at once, each answer is sent."""

    def test_more_than_1024_at_once(self) -> None:
        count = 1500
        require_descriptors(2 * count + 500)  # both ends are here
        # The first waits for its header until the last has connected.
        slow = {"header_timeout_ms": 60_000, "progress_timeout_ms": 60_000}
        with running_node(handlers=HANDLERS, tcp=slow) as node, ExitStack() as stack:
            sent = [request(HOLD, index.to_bytes(4), echo=index) for index in range(count)]
            clients = [stack.enter_context(tcp_connect(node.endpoint)) for _ in sent]
            with gate.closed():
                for client, data in zip(clients, sent, strict=True):
                    client.sendall(data)
                node.wait_for_counts(tcp_in_flight=count)
            for client, data in zip(clients, sent, strict=True):
                reply = read_to_close(client)
                assert own_answer(data, reply)
                assert reply_payload(reply) == data[48:-2]
            node.wait_for_counts(tcp_answered=count)


class TestB15Reset:
    """A reset in any state frees the connection once, and its request never twice: nothing is
    used after it was freed, no stranger gets the answer, and the counters balance."""

    STATES = ("nothing sent", "half a header", "a header", "half a body", "a body too much")

    def parts(self, state: str) -> bytes:
        sent = request(MIRROR, bytes(1000))
        lengths = dict(zip(self.STATES, (0, 20, 32, 500, len(sent)), strict=True))
        return sent[: lengths[state]]

    @pytest.mark.parametrize("state", STATES)
    def test_while_reading(self, state: str) -> None:
        with running_node(handlers=HANDLERS) as node:
            for _ in range(200):
                client = tcp_connect(node.endpoint)
                client.sendall(self.parts(state))
                reset(client)
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
            node.wait_for_counts(connections_open=0)
            # A reset that overtakes the handshake's last segment, from another processor, leaves
            # nothing to accept.
            assert 190 < node.counters()["connections_accepted"] <= 201

    def test_while_processing(self) -> None:
        with running_node(handlers=HANDLERS) as node:
            with gate.closed():
                for index in range(100):
                    client = tcp_connect(node.endpoint)
                    client.sendall(request(HOLD, b"for the one that left", echo=index))
                    node.wait_for_counts(tcp_in_flight=index + 1)
                    reset(client)
                node.wait_for_counts(connections_open=0)
                # New connections get the freed descriptors while the handlers still hold theirs.
                for index in range(100):
                    sent = request(ECHO_COMMAND, echo=index)
                    assert own_answer(sent, tcp_ask(node.endpoint, sent))
                node.wait_for_counts(tcp_in_flight=100, tcp_answered=100)
            node.wait_for_counts(tcp_in_flight=0)
            counters = node.counters()
            assert counters["tcp_answered"] == 100
            assert counters["tcp_dropped_peer_gone"] == 100

    def test_while_writing(self) -> None:
        with running_node(handlers=HANDLERS) as node:
            for _ in range(50):
                client = slow_reader(node.endpoint)
                client.sendall(request(BLOB, (60000).to_bytes(4)))
                assert client.recv(1)
                reset(client)
            node.wait_for_counts(connections_open=0)
            sent = request(BLOB, (60000).to_bytes(4))
            assert reply_payload(tcp_ask(node.endpoint, sent)) == blob_bytes(60000)

    def test_half_closed_then_reset(self) -> None:
        with running_node(handlers=HANDLERS) as node:
            with gate.closed():
                for index in range(50):
                    client = tcp_connect(node.endpoint)
                    client.sendall(request(HOLD, echo=index))
                    client.shutdown(socket.SHUT_WR)
                    node.wait_for_counts(tcp_in_flight=index + 1)
                    reset(client)
                assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
            node.wait_for_counts(tcp_in_flight=0, connections_open=0)


def slow_reader(endpoint: Endpoint) -> socket.socket:
    """A client whose small segments and window leave most of a 60 KB reply with the node."""
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(ANSWER_TIMEOUT_S)
    client.connect(endpoint)
    return client


class TestB16EveryCompletion:
    """A reply that cannot be sent, or needs memory that is lent out, is counted and gives its
    context back."""

    def test_pitfall_3_6_reply_to_port_zero(self) -> None:
        """The kernel refuses to send to port 0 (EINVAL); only a raw socket can claim it."""
        with running_node(udp={"contexts": 2, "reserve": 2}) as node, raw_udp() as raw:
            for data in (vote(), request(ECHO_COMMAND), request(VERSION_COMMAND)) * 20:
                header = struct.pack(">HHHH", 0, node.endpoint[1], 8 + len(data), 0)
                raw.sendto(header + data, (node.endpoint[0], 0))
            node.wait_for_counts(udp_received=60, udp_in_flight=0)
            counters = node.counters()
            assert counters["udp_answered"] == 0
            assert total(counters, "udp_dropped_") == 60
            assert udp_ask(node.endpoint, vote()) == vote_agreed()

    def test_reply_larger_than_a_datagram(self) -> None:
        """Within our own limit but past UDP's 65,507 bytes: refused or counted, never leaked."""
        tiny = {"contexts": 2, "reserve": 2}
        with running_node(udp=tiny, handlers=HANDLERS) as node, udp_client(node.endpoint) as client:
            for count in range(1, 21):
                client.sendto(request(BLOB, (65490).to_bytes(4)), node.endpoint)
                node.wait_for_counts(udp_received=count, udp_in_flight=0)
            counters = node.counters()
            assert counters["udp_answered"] + total(counters, "udp_dropped_") == 20
            assert udp_ask(node.endpoint, vote()) == vote_agreed()

    def test_tcp_replies_wait_for_blocks(self) -> None:
        """More large replies than blocks to hold them: each waits its turn, none is lost."""
        small = {"small_blocks": 6, "large_blocks": 6}
        workers = {"count": 1, "slow_count": 1, "native_count": 1}
        with (
            running_node(limits=small, workers=workers, handlers=HANDLERS) as node,
            ExitStack() as stack,
        ):
            clients = [stack.enter_context(tcp_connect(node.endpoint)) for _ in range(60)]
            for client in clients:
                client.sendall(request(BLOB, (60000).to_bytes(4)))
            for client in clients:
                assert reply_payload(read_to_close(client)) == blob_bytes(60000)

    def test_tcp_bodies_wait_for_blocks(self) -> None:
        """More bodies than blocks: a connection waits unread until one comes free."""
        small = {"small_blocks": 6, "large_blocks": 6}
        workers = {"count": 1, "slow_count": 1, "native_count": 1}
        with (
            running_node(limits=small, workers=workers, handlers=HANDLERS) as node,
            ExitStack() as stack,
        ):
            sent = [
                request(MIRROR, bytes((index,)) * size, echo=index)
                for index in range(30)
                for size in (1000, 30000)
            ]
            clients = [stack.enter_context(tcp_connect(node.endpoint)) for _ in sent]
            for client, data in zip(clients, sent, strict=True):
                client.sendall(data)
            for client, data in zip(clients, sent, strict=True):
                reply = read_to_close(client)
                assert own_answer(data, reply)
                assert reply_payload(reply) == data[48:-2]

    def test_pitfall_3_8_descriptors_exhausted(self) -> None:
        """Out of descriptors, a new client is closed instead of hanging; service then returns."""
        with running_node() as node:
            client = socket.socket()
            with every_descriptor_taken():
                assert turned_away(node.endpoint, client)
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
            node.wait_for_counts(connections_accepted=2, connections_open=0)

    def test_pitfall_3_8_connection_limit(self) -> None:
        """Past the limit a connection is closed at once; a place that comes free is used."""
        with running_node(limits={"connections_max": 10}) as node, ExitStack() as stack:
            first = [stack.enter_context(tcp_connect(node.endpoint)) for _ in range(10)]
            node.wait_for_counts(connections_open=10)
            assert turned_away(node.endpoint)
            assert node.counters()["connections_open"] == 10
            first.pop().close()
            node.wait_for_counts(connections_open=9)
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250


@contextmanager
def raw_udp() -> Iterator[socket.socket]:
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("raw sockets need CAP_NET_RAW")
    with raw:
        yield raw


@contextmanager
def every_descriptor_taken() -> Iterator[None]:
    """Use up the descriptors of this process, which it shares with an in-process node."""
    taken: list[int] = []
    try:
        with open(os.devnull, "rb") as source:
            for _ in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
                try:
                    taken.append(os.dup(source.fileno()))
                except OSError:
                    break
            else:
                raise AssertionError("the descriptor limit was not met")
            yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


class TestB17Deadlines:
    """No peer keeps a connection open by sending nothing, or too little: a deadline closes it, and
    both connection and request are counted."""

    def assert_closed_unanswered(self, node: Node, client: socket.socket) -> None:
        assert read_to_close(client) == b""
        node.wait_for_counts(connections_open=0)
        counters = node.counters()
        assert total(counters, "connections_closed_") == 1
        assert counters["tcp_answered"] == 0

    @pytest.mark.parametrize("sent_bytes", [0, 1, 17, 31])
    def test_incomplete_header(self, sent_bytes: int) -> None:
        with running_node(tcp=SHORT_DEADLINES) as node, tcp_connect(node.endpoint) as client:
            client.sendall(request(ECHO_COMMAND)[:sent_bytes])
            self.assert_closed_unanswered(node, client)

    @pytest.mark.parametrize("sent_bytes", [32, 33, 5000])
    def test_incomplete_body(self, sent_bytes: int) -> None:
        with running_node(tcp=SHORT_DEADLINES) as node, tcp_connect(node.endpoint) as client:
            client.sendall(request(ECHO_COMMAND, bytes(9000))[:sent_bytes])
            self.assert_closed_unanswered(node, client)

    @pytest.mark.parametrize(
        ("start_bytes", "part"), [(0, "header"), (32, "body")], ids=["header", "body"]
    )
    def test_progress_does_not_help_for_ever(self, start_bytes: int, part: str) -> None:
        """A byte now and then resets the progress deadline, never the absolute one."""
        deadlines = {**SHORT_DEADLINES, "progress_timeout_ms": 5000}
        sent = request(ECHO_COMMAND, bytes(60000))
        with running_node(tcp=deadlines) as node, tcp_connect(node.endpoint) as client:
            client.sendall(sent[:start_bytes])
            client.settimeout(0.1)  # the pace of the bytes: 31 of them last 3 s, the deadline 0.9
            for position in range(start_bytes, start_bytes + 31):
                try:
                    client.send(sent[position : position + 1])
                    assert client.recv(1) == b""
                    break
                except TimeoutError:
                    continue
                except (ConnectionResetError, BrokenPipeError):
                    break
            else:
                raise AssertionError(f"the {part} deadline did not close the connection")
            node.wait_for_counts(connections_open=0)
            assert node.counters()["tcp_answered"] == 0

    def test_reader_that_never_reads(self) -> None:
        with running_node(tcp=SHORT_DEADLINES, handlers=HANDLERS) as node:
            with slow_reader(node.endpoint) as client:
                client.sendall(request(BLOB, (60000).to_bytes(4)))
                node.wait_for_counts(tcp_requests=1, connections_open=0)
            counters = node.counters()
            assert counters["tcp_answered"] == 0
            assert total(counters, "tcp_dropped_") == 1
            assert tcp_ask(node.endpoint, request(ECHO_COMMAND))[2] == 250

    def test_handlers_are_not_the_peers_fault(self) -> None:
        """While a worker has the request, no deadline of the peer applies, however long it
        takes."""
        with running_node(tcp=SHORT_DEADLINES, handlers=HANDLERS) as node:
            sent = request(HOLD, b"patient")
            with tcp_connect(node.endpoint) as client, tcp_connect(node.endpoint) as idle:
                with gate.closed():
                    client.sendall(sent)
                    idle.sendall(sent[:10])
                    assert read_to_close(idle) == b""  # a deadline has passed since
                assert reply_payload(read_to_close(client)) == b"patient"
