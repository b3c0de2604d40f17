"""More at once than one submission holds, part of it bound to fail."""

import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from tests.integration.test_faults import raw_udp
from tests.support.needs import require_descriptors
from tests.support.net import tcp_connect, udp_client
from tests.support.node import Daemon, daemon
from tests.support.wire import ECHO_COMMAND, request, vote, vote_agreed

DATAGRAMS = 100
SPARE_DESCRIPTORS = 500
CONNECTIONS = 1500  # accepted in one go: their receives alone exceed the submission queue
FLOOD = 200  # votes that wait when another one arrives elsewhere
SOURCE_PORT = 0  # nothing can be sent there: every reply fails while it is submitted


def test_failures_reported_within_the_lap_that_sent(tmp_path: Path) -> None:
    """A reply may be submitted, and its failure read, before its lap has ended."""
    require_descriptors(CONNECTIONS + SPARE_DESCRIPTORS)
    with daemon(tmp_path) as node, raw_udp() as raw:
        # While it is stopped, everything below waits in its sockets for one long lap.
        node.signal(signal.SIGSTOP)
        data = request(ECHO_COMMAND)
        header = struct.pack(">HHHH", SOURCE_PORT, node.endpoint[1], 8 + len(data), 0)
        for _ in range(DATAGRAMS):
            raw.sendto(header + data, (node.endpoint[0], 0))
        clients: list[socket.socket] = []
        try:
            for _ in range(CONNECTIONS):
                clients.append(tcp_connect(node.endpoint))
                clients[-1].sendall(request(ECHO_COMMAND))
            node.signal(signal.SIGCONT)
            for client in clients:
                assert client.recv(2048)
        finally:
            for client in clients:
                client.close()
        assert node.terminate() == 0, node.stderr()
        counters = node.final_counters()
        assert counters["udp_dropped_send"] == DATAGRAMS
        assert counters["tcp_answered"] == CONNECTIONS


def stand_still(node: Daemon) -> None:
    """Stop the daemon, every thread of it, until SIGCONT."""
    node.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, node.process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize(("contexts", "reserve"), [(1, 1), (20, 10)])
def test_flooded_address_takes_no_slot_from_another(
    tmp_path: Path, contexts: int, reserve: int
) -> None:
    """Although one socket can fill all slots, the other one gets its turn."""
    hosts = ["127.0.0.1", "127.0.0.2"]
    pool = {"contexts": contexts, "reserve": reserve}
    late = b"late vote, alone"
    with daemon(tmp_path, network={"bind": hosts}, udp=pool) as node:
        port = node.endpoint[1]
        with udp_client(node.endpoint) as client:
            stand_still(node)
            for number in range(FLOOD):
                client.sendto(vote(nonce=number.to_bytes(16)), (hosts[0], port))
            client.sendto(vote(nonce=late), (hosts[1], port))
            node.signal(signal.SIGCONT)
            replies = [client.recv(64) for _ in range(FLOOD + 1)]
    assert replies.index(vote_agreed(late)) < FLOOD // 2
