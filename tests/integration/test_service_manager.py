"""What the service manager hands over and is told, spoken to the real daemon as systemd does.

What must hold: a node serves the sockets it is given and leaves them as they were, so that what
arrives between its end and the next start is answered then; it says that it lives for as long as
its I/O thread turns, and no longer.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from tests.support.net import PATIENCE, Endpoint, udp_client, udp_exchange
from tests.support.node import (
    SERVE,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Table,
    config_text,
    daemon,
    environment,
    eventually,
)
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, status

# As systemd starts a service: descriptors from 3 on, and who they are for.
ACTIVATED = (
    "import os, sys\n"
    "given = [os.dup(int(fd)) for fd in os.environ['GIVEN'].split()]\n"
    "for place, fd in enumerate(given):\n"
    "    os.dup2(fd, 3 + place); os.set_inheritable(3 + place, True)\n"
    "os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=str(os.getpid()))\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


@contextmanager
def listening() -> Iterator[tuple[socket.socket, socket.socket, Endpoint]]:
    """A UDP and a TCP socket on one port of loopback, as a .socket unit has them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.bind(("127.0.0.1", 0))
        endpoint: Endpoint = tcp.getsockname()
        udp.bind(endpoint)
        tcp.listen(100)
        yield udp, tcp, endpoint


@contextmanager
def activated(
    directory: Path, sockets: Sequence[socket.socket], port: int, **tables: Table
) -> Iterator["subprocess.Popen[bytes]"]:
    """The daemon, started with these sockets; stopped by SIGTERM at the end."""
    path = directory / "node.toml"
    path.write_text(config_text({**tables, "server": {"port": port}}))
    given = [one.fileno() for one in sockets]
    process = subprocess.Popen(
        [sys.executable, "-c", ACTIVATED, *SERVE[1:], "--config", str(path)],
        env=environment(GIVEN=" ".join(map(str, given))),
        pass_fds=given,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STOP_TIMEOUT_S)
        assert b"Traceback" not in said, said.decode()


def test_sockets_outlive_the_node(tmp_path: Path) -> None:
    """Clients that come while no node runs wait; nobody is refused, nothing is dropped."""
    with listening() as (udp, tcp, endpoint), udp_client(endpoint) as client:
        client.settimeout(START_TIMEOUT_S)  # the first datagram waits for the node's start
        with activated(tmp_path, [udp, tcp], endpoint[1]):
            reply = udp_exchange(client, endpoint, request(ECHO_COMMAND))
            assert status(reply) == Status.SUCCESS
        client.sendto(request(VERSION_COMMAND), endpoint)
        waiting = socket.create_connection(endpoint, 5)
        waiting.sendall(request(VERSION_COMMAND))
        with waiting, activated(tmp_path, [udp, tcp], endpoint[1]):
            assert status(client.recv(4096)) == Status.SUCCESS
            waiting.settimeout(START_TIMEOUT_S)
            assert status(waiting.recv(4096)) == Status.SUCCESS


@pytest.mark.any_backend
def test_sockets_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with listening() as (udp, _, endpoint), activated(tmp_path, [udp], endpoint[1]) as process:
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert b"ListenStream= and ListenDatagram= must name the same" in process.stderr.read()


def told(notify: socket.socket) -> list[str]:
    """What was told since the last look."""
    notify.setblocking(False)
    lines: list[str] = []
    try:
        while True:
            lines += notify.recv(4096).decode().splitlines()
    except BlockingIOError:
        return lines


def test_watchdog_is_fed_while_the_io_thread_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with daemon(tmp_path) as node:
        seen: list[str] = []

        def fed(times: int) -> bool:
            seen.extend(told(node.notify))
            return seen.count("WATCHDOG=1") >= times

        eventually(lambda: fed(3), 20 * PATIENCE)
        assert "STOPPING=1" not in seen
