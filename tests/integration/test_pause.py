"""A process that was paused (SIGSTOP, a debugger, a paused container) reads what arrived meanwhile
before it applies deadlines that passed meanwhile."""

import signal
import socket
import time
from contextlib import ExitStack
from itertools import cycle, islice, product
from pathlib import Path

from tests.support.net import PATIENCE, read_exactly, tcp_connect, udp_ask
from tests.support.node import Daemon, daemon
from tests.support.wire import ECHO_COMMAND, challenge_of, request, status, vote

TIMEOUT_S = 2.0 * PATIENCE
CONNECTIONS = 150  # more than a lap's events, see below
DEADLINES = {
    name: round(TIMEOUT_S * 1000)
    for name in (
        "progress_timeout_ms",
        "header_timeout_ms",
        "body_timeout_ms",
        "write_timeout_ms",
        "idle_timeout_ms",
    )
}


def pause(node: Daemon, sent: list[tuple[socket.socket, bytes]]) -> None:
    """Stop the node for longer than every deadline; `sent` is on its way well within them."""
    assert udp_ask(node.endpoint, vote())  # it has read what came before
    node.signal(signal.SIGSTOP)
    for client, rest in sent:
        client.sendall(rest)
    time.sleep(TIMEOUT_S * 1.5)  # the pause itself: every deadline passes in it
    node.signal(signal.SIGCONT)


def test_requests_completed_while_stopped_are_answered(tmp_path: Path) -> None:
    """Whether nothing, a part of the header or the whole header had arrived before.

    Also when a lap cannot take everything that is ready.
    """
    with (
        daemon(
            tmp_path,
            tcp=DEADLINES,
            network={"events_per_lap": 16},
            limits={"large_blocks": 2 * CONNECTIONS},
        ) as node,
        ExitStack() as stack,
    ):
        cases = islice(cycle(product((0, 10, 32), (0, 100, 20_000))), CONNECTIONS)
        wanted = [(at, request(ECHO_COMMAND, bytes(size))) for at, size in cases]
        clients = [stack.enter_context(tcp_connect(node.endpoint)) for _ in wanted]
        for client, (at, sent) in zip(clients, wanted, strict=True):
            client.sendall(sent[:at])
        pause(node, [(clients[i], sent[at:]) for i, (at, sent) in enumerate(wanted)])
        for client, (at, sent) in zip(clients, wanted, strict=True):
            assert read_exactly(client, 32)[16:] == challenge_of(sent), (at, len(sent))


def test_idle_connection_asked_while_stopped_is_answered(tmp_path: Path) -> None:
    """The deadline of a persistent connection between two requests."""
    with (
        daemon(tmp_path, tcp={**DEADLINES, "persistent": True}) as node,
        tcp_connect(node.endpoint) as client,
    ):
        first, second = request(ECHO_COMMAND), request(ECHO_COMMAND)
        client.sendall(first)
        assert status(read_exactly(client, 32)) == 250
        pause(node, [(client, second)])
        assert read_exactly(client, 32)[16:] == challenge_of(second)


def test_silence_is_still_judged(tmp_path: Path) -> None:
    """A client that sent nothing while the node was paused is disconnected."""
    with daemon(tmp_path, tcp=DEADLINES) as node, tcp_connect(node.endpoint) as client:
        client.sendall(request(ECHO_COMMAND)[:10])
        pause(node, [])
        assert client.recv(1) == b""
