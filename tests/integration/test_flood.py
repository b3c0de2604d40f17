"""More at once than one submission holds, part of it bound to fail."""

import signal
import socket
import struct
from pathlib import Path

from tests.integration.test_faults import raw_udp
from tests.support.net import tcp_connect
from tests.support.node import daemon
from tests.support.wire import ECHO_COMMAND, request

DATAGRAMS = 100
CONNECTIONS = 1500  # accepted in one go: their receives alone exceed the submission queue
SOURCE_PORT = 0  # nothing can be sent there: every reply fails while it is submitted


def test_failures_reported_within_the_lap_that_sent(tmp_path: Path) -> None:
    """A reply may be submitted, and its failure read, before its lap has ended."""
    with daemon(tmp_path) as node, raw_udp() as raw:
        # While it stands still, everything below waits in its sockets for one long lap.
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
