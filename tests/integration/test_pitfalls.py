"""Pitfalls of io_uring that show in a whole node only; docs/pitfalls.md lists them all.

Each test opens with what must hold. Those about the backend by itself are in native/test_uring.c,
the others beside what they belong to; all are named after their pitfall.
"""

import ctypes
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.test_faults import every_descriptor_taken
from tests.support.command_line import output_of
from tests.support.handlers import HOLD, gate
from tests.support.net import (
    PATIENCE,
    Endpoint,
    read_to_close,
    reset,
    tcp_ask,
    tcp_connect,
    turned_away,
    udp_client,
)
from tests.support.node import HANDLERS, Daemon, daemon, eventually, running_node
from tests.support.wire import ECHO_COMMAND, request, status, vote, vote_agreed

CLIENTS = 50
GIL_HELD_S = 0.6
LAP_MAX_S = 0.3  # far below what a blocked lap would take, far above a preempted one


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def kernel_workers() -> list[str]:
    """Threads that io_uring started for operations that it could not do otherwise."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if name.startswith("iou-wrk")]


@contextmanager
def counting_sigpipe() -> Iterator[list[int]]:
    """The interpreter ignores SIGPIPE; here each one is counted."""
    seen: list[int] = []
    previous = signal.signal(signal.SIGPIPE, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGPIPE, previous)


@pytest.mark.parametrize("persistent", [False, True])
def test_pitfall_3_6_peers_gone_before_their_reply(persistent: bool) -> None:
    """A reply to a peer that has gone raises no signal, and its descriptor is closed whether or not
    it could be sent, with the close linked behind the send and without."""
    with running_node(tcp={"persistent": persistent}, handlers=HANDLERS) as node:
        before = descriptors()
        with counting_sigpipe() as pipes:
            for index in range(CLIENTS):
                client = tcp_connect(node.endpoint)
                client.sendall(request(ECHO_COMMAND, echo=index))
                reset(client)
            node.wait_for_counts(connections_accepted=CLIENTS, connections_open=0)
            with gate.closed():
                for index in range(CLIENTS):
                    client = tcp_connect(node.endpoint)
                    client.sendall(request(HOLD, echo=index))
                    node.wait_for_counts(tcp_in_flight=index + 1)
                    reset(client)
            node.wait_for_counts(
                connections_accepted=2 * CLIENTS, connections_open=0, tcp_in_flight=0
            )
        assert pipes == []
        eventually(lambda: descriptors() <= before, what=lambda: descriptors() - before)


def test_pitfall_3_6_no_kernel_worker_thread() -> None:
    """Nothing that the node does makes io_uring start a thread of its own: neither serving nor
    closing nor ending."""
    with running_node(handlers=HANDLERS) as node, ExitStack() as stack:
        waiting = [stack.enter_context(tcp_connect(node.endpoint)) for _ in range(CLIENTS)]
        for client in waiting[::2]:
            client.sendall(request(ECHO_COMMAND))
            assert status(read_to_close(client)) == 250
        with udp_client(node.endpoint) as client:
            client.sendto(vote(), node.endpoint)
            assert client.recv(64) == vote_agreed()
        assert kernel_workers() == []
        node.server.stop(drain_timeout_ms=100)
        assert kernel_workers() == []


def test_pitfall_3_7_the_loop_waits_for_no_interpreter() -> None:
    """While one thread keeps the interpreter's lock, votes are answered; no lap is long."""
    with running_node() as node, udp_client(node.endpoint) as client:
        engine = node.server._engine
        assert engine is not None
        nonces = [number.to_bytes(16) for number in range(CLIENTS)]
        for nonce in nonces:
            client.sendto(vote(nonce=nonce), node.endpoint)
        ctypes.PyDLL(None).usleep(int(GIL_HELD_S * 1e6))  # PyDLL does not let go of the lock
        client.setblocking(False)
        replies = {client.recv(64) for _ in nonces}  # all here: nothing waited for the lock
        assert replies == {vote_agreed(nonce) for nonce in nonces}
        laps = engine.histogram("lap")
        long = [
            (floor, count)
            for floor, count in zip(laps.floors_ns, laps.counts, strict=True)
            if count > 0 and floor > LAP_MAX_S * 1e9
        ]
        assert long == []


def test_pitfall_3_8_accepts_again_when_the_limit_is_raised() -> None:
    """The kernel keeps the descriptor limit of the moment in which an accept was armed: a higher
    one helps only if it is armed again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running_node() as node:
        client = socket.socket()
        lowered = max(map(int, descriptors())) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
        try:
            with every_descriptor_taken():
                assert turned_away(node.endpoint, client)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                # Accepting pauses for a moment after a failure; who comes while the node still
                # turns others away may be one of them.
                eventually(lambda: is_answered(node.endpoint))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_answered(endpoint: Endpoint) -> bool:
    try:
        reply = tcp_ask(endpoint, request(ECHO_COMMAND))
    except ConnectionResetError:
        return False
    return reply != b"" and status(reply) == 250


def test_pitfall_3_12_no_ring_where_none_is_wanted(backend: str) -> None:
    """With the switch that forbids io_uring, not even an unused ring is made."""
    before = rings()
    with running_node() as node:
        assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        assert (rings() > before) == (backend == "uring")


def rings() -> int:
    """Rings that this process has open."""
    count = 0
    for name in descriptors():
        try:
            count += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]"
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return count


def stop_with(node: Daemon, waiting: Callable[[], None]) -> int:
    """Halt the daemon, let `waiting` give it work, ask it to end, let it go on; the exit status."""
    node.signal(signal.SIGSTOP)
    eventually(lambda: "T (stopped)" in Path(f"/proc/{node.process.pid}/status").read_text())
    waiting()
    node.signal(signal.SIGTERM)
    node.signal(signal.SIGCONT)
    return node.process.wait(20 * PATIENCE)


def test_pitfall_6_1_the_manager_hears_of_the_stop_first(tmp_path: Path) -> None:
    """STOPPING=1 is sent while the node still serves what it has, including a request that has
    arrived in part."""
    asked = request(ECHO_COMMAND)
    with daemon(tmp_path, handlers=HANDLERS) as node, tcp_connect(node.endpoint) as client:
        client.sendall(asked[:20])
        node.notify.settimeout(10 * PATIENCE)
        node.signal(signal.SIGTERM)
        assert node.notify.recv(4096).startswith(b"STOPPING=1\n")
        client.sendall(asked[20:])
        assert status(read_to_close(client)) == 250
        assert node.process.wait(20 * PATIENCE) == 0


def test_pitfall_6_2_connections_that_came_before_the_stop_are_served(tmp_path: Path) -> None:
    """Clients in the backlog when accepting is cancelled get an answer."""
    with daemon(tmp_path) as node, ExitStack() as stack:
        clients: list[socket.socket] = []

        def connect() -> None:
            for index in range(CLIENTS):
                clients.append(stack.enter_context(tcp_connect(node.endpoint)))
                clients[-1].sendall(request(ECHO_COMMAND, echo=index))

        assert stop_with(node, connect) == 0
        for index, client in enumerate(clients):
            reply = read_to_close(client)
            assert (status(reply), reply[6:8]) == (250, index.to_bytes(2))


def test_pitfall_6_3_datagrams_that_came_before_the_stop_are_answered(tmp_path: Path) -> None:
    """What the socket holds when receiving is cancelled is read and answered before it closes."""
    nonces = [number.to_bytes(16) for number in range(4 * CLIENTS)]
    with daemon(tmp_path) as node, udp_client(node.endpoint) as client:

        def send() -> None:
            for nonce in nonces:
                client.sendto(vote(nonce=nonce), node.endpoint)

        assert stop_with(node, send) == 0
        client.setblocking(False)
        assert {client.recv(64) for _ in nonces} == {vote_agreed(nonce) for nonce in nonces}


# Runs as another user; everything is imported and used once before, for that user may not read it.
ORDINARY = """
import sys
from tests.support.confine import become_ordinary
from tests.support.net import Endpoint, udp_ask
from tests.support.node import running_node
from tests.support.wire import vote, vote_agreed

def serve():
    with running_node() as node:
        assert udp_ask(node.endpoint, vote()) == vote_agreed()
        return node.server.tier

serve()
become_ordinary(memlock_bytes=int(sys.argv[1]) or None)
print(serve())
"""


@pytest.mark.any_backend
@pytest.mark.parametrize("memlock_bytes", [64 << 10, 1 << 20, 0])
def test_pitfall_3_9_a_node_of_an_ordinary_user_serves(memlock_bytes: int) -> None:
    """With little locked memory: on a smaller completion queue, or on epoll, and says which.
    memlock_bytes: 0 leaves the limit."""
    tier = output_of(sys.executable, "-c", ORDINARY, memlock_bytes).splitlines()[-1]
    assert re.match(
        r"io_uring, \w+_TASKRUN(, \d+ completions for lack of locked memory)?$"
        r"|epoll \(io_uring refused: .*memlock",
        tier,
    ), tier
