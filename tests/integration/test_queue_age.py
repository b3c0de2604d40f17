"""Requests that wait for a worker, beyond what is of use.

What must hold: a request that has waited for longer than clients do is given up, counted and never
handed to a handler; that the node is overloaded is told; waiting changes leave contexts to reads;
and the slow lane, whose clients wait for others anyway, has no such limit.
"""

from pathlib import Path

import pytest

from raida_uring.observe.readiness import overloads
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.handlers import HOLD, MIRROR, SLOW_HOLD, gate
from tests.support.net import read_to_close, tcp_ask, tcp_connect, udp_client, udp_exchange
from tests.support.node import HANDLERS, eventually, running_node
from tests.support.wire import VERSION_COMMAND, request, status
from tests.support.write_handlers import HOLD_WRITE, MODULES

AGE_MS = 200


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_request_that_waits_for_too_long_is_given_up(transport: str) -> None:
    limits = {"queue_age_max_ms": AGE_MS}
    with (
        running_node(handlers=HANDLERS, workers={"count": 1}, limits=limits) as node,
        udp_client(node.endpoint) as holder,
    ):
        with gate.closed(), udp_client(node.endpoint) as waiting:
            holder.sendto(request(HOLD), node.endpoint)
            eventually(lambda: gate.inside == 1)
            if transport == "udp":
                waiting.sendto(request(MIRROR, b"late"), node.endpoint)
                node.wait_for(lambda now: now["udp_dropped_stale"] == 1)
            else:
                with tcp_connect(node.endpoint) as peer:
                    peer.sendall(request(MIRROR, b"late"))
                    assert status(read_to_close(peer)) == Status.REQUEST_RATE
                node.wait_for_counts(refused_stale=1)
            assert any("queue_age_max_ms" in one for one in overloads(node.server.observe()))
        assert status(holder.recv(2048)) == Status.SUCCESS
        assert status(tcp_ask(node.endpoint, request(MIRROR, b"in time"))) == Status.SUCCESS


def test_the_slow_lane_waits() -> None:
    limits = {"queue_age_max_ms": 1}
    workers = {"count": 1, "slow_count": 1}
    with (
        running_node(handlers=HANDLERS, workers=workers, limits=limits) as node,
        udp_client(node.endpoint) as first,
        udp_client(node.endpoint) as second,
    ):
        with gate.closed():
            first.sendto(request(SLOW_HOLD), node.endpoint)
            eventually(lambda: gate.inside == 1)
            second.sendto(request(SLOW_HOLD), node.endpoint)
            eventually(lambda: node.server.observe().lanes["slow"].oldest_s > 0.01)
            assert status(udp_exchange(second, node.endpoint, request(VERSION_COMMAND))) == 250
        assert status(first.recv(2048)) == status(second.recv(2048)) == Status.SUCCESS
        assert node.counters()["udp_dropped_stale"] == 0


def test_waiting_changes_leave_contexts_to_reads(tmp_path: Path) -> None:
    store = tmp_path / "coins"
    Store.create(store)
    contexts, sent = 8, 20
    kept = contexts // 2 + 1  # that wait
    with (
        running_node(
            handlers=MODULES, store={"path": str(store)}, udp={"contexts": contexts}
        ) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed(), udp_client(node.endpoint) as reader:
            client.sendto(request(HOLD_WRITE), node.endpoint)
            eventually(lambda: gate.inside == 1)
            for _ in range(sent):
                client.sendto(request(HOLD_WRITE), node.endpoint)
            node.wait_for(lambda now: now["udp_dropped_share"] == sent - kept)
            assert status(udp_exchange(reader, node.endpoint, request(VERSION_COMMAND))) == 250
        assert {status(client.recv(2048)) for _ in range(1 + kept)} == {Status.SUCCESS}
