"""Faults found in reviews, each as the scenario that shows it."""

import os
import signal
import socket
import struct
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from raida_uring.errors import EngineError, StartError
from tests.integration.test_faults import raw_udp
from tests.support.command_line import output_of
from tests.support.handlers import DOZE, HANG, HOLD, MIRROR, RAISE_UNNAMED, WRONG_TYPE, gate
from tests.support.needs import require
from tests.support.net import PATIENCE, read_to_close, tcp_ask, tcp_connect, udp_ask, udp_client
from tests.support.node import HANDLERS, daemon, eventually, insist, running_node
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    reply_payload,
    request,
    status,
    vote,
    vote_agreed,
)

ONE_WORKER = {"count": 1, "slow_count": 1}


def test_batch_of_nothing_but_bad_bodies() -> None:
    """More bytes than a worker opens at once, all refused by their body check: it goes on."""
    bad = bytearray(request(MIRROR, bytes(65517)))
    bad[32] ^= 0xFF  # the challenge no longer fits its CRC
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for _ in range(5):
            clients = [tcp_connect(node.endpoint) for _ in range(10)]
            for client in clients:
                client.sendall(bad[:-1])
            for client in clients:
                client.sendall(bad[-1:])
            for client in clients:
                assert status(read_to_close(client)) == 37
                client.close()
        assert status(udp_ask(node.endpoint, request(VERSION_COMMAND))) == 250


def test_pipelining_far_ahead_starves_nobody() -> None:
    """A connection whose handler does not return buffers little of what its peer sends further."""
    ahead = request(MIRROR, bytes(1000)) * 200
    buffers = 64
    with running_node(tcp={"persistent": True, "buffers": buffers}, handlers=HANDLERS) as node:
        clients = [tcp_connect(node.endpoint) for _ in range(buffers // 4)]
        try:
            with gate.closed():
                for client in clients:
                    client.sendall(request(HOLD))
                node.wait_for_counts(tcp_in_flight=len(clients))
                for client in clients:
                    client.setblocking(False)
                    client.send(ahead)
                for _ in range(20):
                    assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND), half_close=True))
        finally:
            for client in clients:
                client.close()


def test_two_nodes_do_not_answer_each_other() -> None:
    """One datagram with a forged source must not set up an exchange of refusals without end."""
    with running_node() as one, running_node() as two, raw_udp() as raw:
        data = b"\xff" * 60
        header = struct.pack(">HHHH", two.endpoint[1], one.endpoint[1], 8 + len(data), 0)
        raw.sendto(header + data, (one.endpoint[0], 0))
        own = struct.pack(">HHHH", one.endpoint[1], one.endpoint[1], 8 + len(data), 0)
        raw.sendto(own + data, (one.endpoint[0], 0))
        eventually(lambda: one.counters()["udp_received"] >= 3, what=one.counters)
        eventually(lambda: two.counters()["udp_received"] >= 1, what=two.counters)
        for node in (one, two):  # its answer queues behind whatever the other still sends
            for _ in range(10):
                assert udp_ask(node.endpoint, vote()) == vote_agreed()
        one.wait_for_counts(udp_received=13)
        two.wait_for_counts(udp_received=11)
        assert one.counters()["udp_dropped_reply"] + two.counters()["udp_dropped_reply"] == 2


@pytest.mark.parametrize("command", [RAISE_UNNAMED, WRONG_TYPE])
def test_worker_outlives_any_handler(command: tuple[int, int]) -> None:
    """A handler that fails in unusual ways is answered 252; the only worker lives on."""
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for mistake in range(10):
            assert status(udp_ask(node.endpoint, request(command, bytes([mistake])))) == 252
            assert status(udp_ask(node.endpoint, request(VERSION_COMMAND))) == 250


def test_the_log_names_the_command_of_a_wrong_reply(caplog: pytest.LogCaptureFixture) -> None:
    """Of a batch, the one that is wrong, and what is wrong with it."""
    with (
        running_node(workers=ONE_WORKER, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            client.sendto(request(HOLD), node.endpoint)  # behind it, a batch gathers
            eventually(lambda: gate.inside == 1)
            client.sendto(request(MIRROR), node.endpoint)
            client.sendto(request(WRONG_TYPE, b"\x05"), node.endpoint)
            client.sendto(request(MIRROR), node.endpoint)
        assert sorted(status(client.recv(2048)) for _ in range(4)) == [250, 250, 250, 252]
    said = [
        record.getMessage() for record in caplog.records if "invalid reply" in record.getMessage()
    ]
    assert said == [
        "command 5/204 gave an invalid reply, answered 252: payload is of type str: must be bytes"
    ]


def test_wrong_reply_stays_with_its_request() -> None:
    """In a batch, a payload longer than its stated size does not shift the others."""
    with (
        running_node(workers=ONE_WORKER, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            client.sendto(request(HOLD), node.endpoint)  # behind it, a batch gathers
            eventually(lambda: gate.inside == 1)
            client.sendto(request(WRONG_TYPE, b"\x07", echo=0xBAD0), node.endpoint)
            for index in range(20):
                data = request(MIRROR, bytes([index]) * 40, echo=index)
                client.sendto(data, node.endpoint)
        for _ in range(22):
            reply = client.recv(2048)
            echo = int.from_bytes(reply[6:8])
            if echo == 0xBAD0:
                assert status(reply) == 252
            elif echo < 20:
                assert reply_payload(reply) == bytes([echo]) * 40


def test_pitfall_6_6_forced_stop_closes_every_descriptor() -> None:
    """Including connections that are closed last."""
    before = set(os.listdir("/proc/self/fd"))
    clients: list[socket.socket] = []
    with running_node() as node:
        clients += [tcp_connect(node.endpoint) for _ in range(20)]
        node.wait_for_counts(connections_open=20)
        node.server.stop(drain_timeout_ms=0)
        for client in clients:
            assert read_to_close(client) == b""
            client.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_counters_outlive_the_engine() -> None:
    """A late caller on any thread gets the last counters and no crash."""
    with running_node() as node:
        server = node.server
        assert udp_ask(node.endpoint, vote()) == vote_agreed()
        seen: list[dict[str, int]] = []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                seen.append(server.counters())

        watcher = threading.Thread(target=watch)
        watcher.start()
        server.stop()
        done.set()
        watcher.join()
        server.begin_drain(0)
        assert server.counters()["udp_votes"] == seen[-1]["udp_votes"] == 1
        with pytest.raises(StartError, match="starts once"):
            server.start()


def test_engine_after_its_end() -> None:
    with running_node() as node:
        engine = node.server._engine
        assert engine is not None
        node.server.stop()
        with pytest.raises(EngineError, match="using the engine"):
            engine.counters()


def test_signals_after_the_second_change_nothing(tmp_path: Path) -> None:
    """The exit status stays that of a clean end."""
    entered = tmp_path / "entered"
    with (
        daemon(tmp_path, workers=ONE_WORKER, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as client,
    ):
        client.sendto(request(HANG, str(entered).encode()), node.endpoint)
        eventually(entered.exists)
        node.signal(signal.SIGTERM)
        eventually(lambda: "stopping: " in node.stderr(), what=node.stderr)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            insist(partial(node.signal, number), lambda: "stopping at once" in node.stderr())
        assert node.process.wait(20 * PATIENCE) == 0, node.stderr()


def test_a_stop_that_is_said_twice_at_once_drops_nothing(tmp_path: Path) -> None:
    """timeout(1), for example, signals its child and then its group."""
    with (
        daemon(tmp_path, handlers=HANDLERS) as node,
        socket.create_connection(node.endpoint, 20 * PATIENCE) as client,
    ):
        client.sendall(request(DOZE, b"after a second"))
        node.signal(signal.SIGSTOP)  # so that both are there when it looks, however busy we are
        node.signal(signal.SIGTERM)
        node.signal(signal.SIGINT)
        node.signal(signal.SIGCONT)
        assert status(read_to_close(client)) == 250
        assert node.process.wait(20 * PATIENCE) == 0
        assert "at once" not in node.stderr()


def test_wildcard_replies_follow_the_routing_table(tmp_path: Path, backend: str) -> None:
    """Asked over one link while the way back leads over another: the reply takes the latter."""
    if os.geteuid() != 0:
        pytest.skip("no network namespace: unshare(CLONE_NEWNET) needs CAP_SYS_ADMIN")
    require("ip")
    script = Path(__file__).with_name("asymmetric_routes.sh")
    output_of("unshare", "--net", "bash", script, sys.executable, tmp_path, backend)
