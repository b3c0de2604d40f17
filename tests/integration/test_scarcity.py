"""With almost no memory connections wait for buffers and blocks, and all get them."""

import random
import socket
import threading

import pytest

from tests.support.handlers import MIRROR
from tests.support.net import read_reply, reset, tcp_connect
from tests.support.node import HANDLERS, Node, Table, running_node
from tests.support.wire import reply_payload, request

# The least that the configuration allows: three workers, three blocks of each class beside theirs.
SCARCE: dict[str, Table] = {
    "workers": {"count": 1, "slow_count": 1, "native_count": 1},
    "limits": {"small_blocks": 6, "large_blocks": 6, "udp_reply_factor_max": 0},
    "handlers": HANDLERS,
}
CLIENTS = 24
REQUESTS_EACH = 25
SIZES = (0, 200, 300, 2000, 2100, 20_000, 65_000)


def exchange(node: Node, draw: random.Random, persistent: bool) -> None:
    """REQUESTS_EACH requests of any size, in pieces; now and then a reset instead of a reply."""
    client: socket.socket | None = None
    for _ in range(REQUESTS_EACH):
        if client is None:
            client = tcp_connect(node.endpoint)
        payload = draw.randbytes(draw.choice(SIZES))
        data = request(MIRROR, payload)
        at = draw.randrange(1, len(data))
        client.sendall(data[:at])
        client.sendall(data[at:])
        if draw.random() < 0.1:
            reset(client)
            client = None
            continue
        assert reply_payload(read_reply(client)) == payload
        if not persistent:
            assert client.recv(1) == b""
            client.close()
            client = None
    if client is not None:
        client.close()


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("buffers", [16, 4096])
def test_pitfall_3_3_everyone_is_served_in_the_end(persistent: bool, buffers: int) -> None:
    """Every waiting connection gets its block or buffer; resets in between lose none."""
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            exchange(node, random.Random(seed), persistent)
        except BaseException as error:
            failures.append(error)

    with running_node(**SCARCE, tcp={"persistent": persistent, "buffers": buffers}) as node:
        clients = [threading.Thread(target=run, args=(seed,)) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert failures == []
        node.wait_for_counts(tcp_in_flight=0, connections_open=0)
        assert node.counters()["tcp_starved"] > 0
