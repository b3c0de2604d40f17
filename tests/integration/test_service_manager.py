"""What the service manager hands over and is told, spoken to the real daemon as systemd does.

What must hold: a node serves the sockets it is given and leaves them as they were, so that what
arrives between its end and the next start is answered then, also with sockets that it bound itself
and the manager stored; stored sockets that its configuration does not name are not in its way; it
says that it lives for as long as its I/O thread turns, and no longer.

The same under systemd itself: `make test-systemd`.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from raida_uring.admin.client import result_of
from raida_uring.client import Client
from raida_uring.node import servicemanager
from raida_uring.node.servicemanager import STOP_MARGIN_S, STORED_NAME
from raida_uring.protocol import Status
from raida_uring.protocol.calls import Call
from tests.support.command_line import environment
from tests.support.handlers import DESCRIBE, UNTIL
from tests.support.needs import require_ipv6
from tests.support.net import PATIENCE, Endpoint, udp_client, udp_exchange
from tests.support.node import (
    HANDLERS,
    SERVE,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Table,
    await_told,
    config_text,
    daemon,
    eventually,
    free_port,
    told,
)
from tests.support.upgrade import gone
from tests.support.wire import ECHO_COMMAND, RAIDA_ID, VERSION_COMMAND, request, status
from tests.wire.test_addresses import link_local_address

# As systemd starts a service: descriptors from 3 on, and who they are for.
ACTIVATED = (
    "import os, sys\n"
    "passed = [int(fd) for fd in os.environ['GIVEN'].split()]\n"
    "given = [os.dup(fd) for fd in passed]\n"
    "for fd in passed: os.set_inheritable(fd, False)\n"
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
    directory: Path,
    sockets: Sequence[socket.socket],
    port: int,
    manager: "Manager | None" = None,
    names: str = "",
    **tables: Table,
) -> Iterator["subprocess.Popen[bytes]"]:
    """The daemon, started with these sockets; stopped by SIGTERM at the end.

    names: what LISTEN_FDNAMES says, joined by colons.
    """
    path = directory / "node.toml"
    path.write_text(config_text({**tables, "server": {"port": port}}))
    given = [one.fileno() for one in sockets]
    told_where = {} if manager is None else manager.environment
    process = subprocess.Popen(
        [sys.executable, "-c", ACTIVATED, *SERVE[1:], "--config", str(path)],
        env=environment(GIVEN=" ".join(map(str, given)), LISTEN_FDNAMES=names, **told_where),
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
    """Clients wait while no node runs; no connection is refused, no datagram dropped."""
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


def test_peers_of_a_dual_stack_socket_have_their_own_addresses(tmp_path: Path) -> None:
    """Without BindIPv6Only= a unit's [::] takes IPv4, too: to a handler that is IPv4 as any."""
    require_ipv6()
    with (
        socket.socket(socket.AF_INET6) as tcp,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp,
    ):
        for one in (tcp, udp):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        tcp.bind(("::", 0))
        port = tcp.getsockname()[1]
        udp.bind(("::", port))
        tcp.listen(100)
        network = {"bind": ["::"]}
        with activated(tmp_path, [udp, tcp], port, network=network, handlers=HANDLERS):
            for host in ("127.0.0.1", "::1"):
                asked = Client(host, port, raida_id=RAIDA_ID, timeout_s=START_TIMEOUT_S)
                for kind in (asked, dataclasses.replace(asked, transport="tcp")):
                    answer = kind.ask(Call(*DESCRIBE, b"", frozenset((250,)), lambda _, data: data))
                    assert json.loads(answer.require())["peer"][0] == host


@pytest.mark.any_backend
def test_sockets_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with listening() as (udp, _, endpoint), activated(tmp_path, [udp], endpoint[1]) as process:
        assert process.wait(20 * PATIENCE) == 2
        assert process.stderr is not None
        assert b"ListenStream= and ListenDatagram= must name the same" in process.stderr.read()


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


def test_a_stop_has_the_time_of_its_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STOPPING=1 ends systemd's watchdog, and a further WATCHDOG=1 would restart it, for a loop
    that will soon end. TimeoutStopSec= may be less than the drain."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    held, path = tmp_path / "held", tmp_path / "admin.sock"
    with (
        daemon(
            tmp_path,
            handlers={**HANDLERS},
            admin={"socket": str(path)},
            network={"drain_timeout_ms": 77000},
        ) as node,
        socket.create_connection(node.endpoint, 10 * PATIENCE) as client,
    ):
        client.sendall(request(UNTIL, str(held).encode()))
        eventually(lambda: result_of(path, "status")["in_flight"]["tcp"] == 1)
        result_of(path, "stop")
        said = await_told(node.notify, "EXTEND_TIMEOUT_USEC=")
        at = said.index("STOPPING=1")
        patience_s = int(said[-1].removeprefix("EXTEND_TIMEOUT_USEC=")) / 1e6
        assert patience_s == 77 + STOP_MARGIN_S
        time.sleep(0.5)  # five times as long as between two words, had it any
        assert "WATCHDOG=1" not in said[at:] + told(node.notify)
        held.touch()
        assert node.process.wait(STOP_TIMEOUT_S) == 0


def test_a_reload_that_a_stop_overtakes_does_not_say_that_it_serves(tmp_path: Path) -> None:
    """After STOPPING=1, READY=1 would have systemd 252 watch a node again that is leaving."""
    held, path, config = tmp_path / "held", tmp_path / "admin.sock", tmp_path / "node.toml"
    with (
        daemon(tmp_path, handlers={**HANDLERS}, admin={"socket": str(path)}) as node,
        socket.create_connection(node.endpoint, 10 * PATIENCE) as client,
    ):
        client.sendall(request(UNTIL, str(held).encode()))
        eventually(lambda: result_of(path, "status")["in_flight"]["tcp"] == 1)
        text = config.read_text()
        config.unlink()
        os.mkfifo(config)  # a file that takes its time
        reloading = threading.Thread(target=result_of, args=(path, "reload"))
        reloading.start()
        said = await_told(node.notify, "RELOADING=1")
        node.signal(signal.SIGTERM)
        said += await_told(node.notify, "EXTEND_TIMEOUT_USEC=")
        config.write_text(text)
        reloading.join(10 * PATIENCE)
        assert not reloading.is_alive()
        held.touch()
        assert node.process.wait(STOP_TIMEOUT_S) == 0
        said.extend(told(node.notify))
        assert "READY=1" not in said[said.index("STOPPING=1") :]


class Manager:
    """The part of a service manager that listens, and stores descriptors, like systemd 252.

    It closes descriptors some time after it was told to forget them. Use as a context manager.
    """

    CLOSING_TAKES_S = 0.3

    def __init__(self, directory: Path, room: int = 32) -> None:
        path = directory / "notify"
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "FDSTORE": str(room)}
        self.stored: list[socket.socket] = []
        self.assignments: list[str] = []
        self.barriers: list[int] = []
        self.listens = True  # so that it lifts barriers
        self._thread = threading.Thread(target=self._run)

    def close_barriers(self) -> None:
        """Say that all is heard that was told before them."""
        while self.barriers:
            os.close(self.barriers.pop())

    def __enter__(self) -> "Manager":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"", self.environment["NOTIFY_SOCKET"])
        self._thread.join()
        self._channel.close()
        self.close_barriers()
        for one in self.stored:
            one.close()

    def _run(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 100)
            if not data:
                return
            lines = data.decode().split("\n")
            if lines == ["BARRIER=1"]:  # by its closing tells that it has heard all before
                self.assignments += lines
                self.barriers += descriptors
                if self.listens:
                    self.close_barriers()
                continue
            given = [socket.socket(fileno=fd) for fd in descriptors]
            if "FDSTOREREMOVE=1" in lines:
                assert f"FDNAME={STORED_NAME}" in lines
                forgotten, self.stored = self.stored, []
                if forgotten and not given:
                    time.sleep(self.CLOSING_TAKES_S)  # as systemd, which closes them later
                for one in forgotten:
                    one.close()
            if "FDSTORE=1" in lines:
                assert {f"FDNAME={STORED_NAME}", "FDPOLL=0"} <= set(lines)
                self.stored += given
            self.assignments += lines

    def was_told(self, assignment: str) -> None:
        """Wait until it was; an assignment's beginning is enough."""
        eventually(
            lambda: any(line.startswith(assignment) for line in self.assignments), START_TIMEOUT_S
        )

    def forget_what_was_told(self) -> None:
        """Before the next start."""
        self.assignments.clear()

    @property
    def places(self) -> set[tuple[str, int, int]]:
        """Host, port and kind of what it stores."""
        return {(*one.getsockname()[:2], one.type) for one in self.stored}


def stored_names(count: int) -> str:
    return ":".join([STORED_NAME] * count)


def both_kinds(port: int) -> set[tuple[str, int, int]]:
    return {("127.0.0.1", port, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)}


def test_stored_sockets_outlive_the_node(tmp_path: Path) -> None:
    """The node binds them, the manager keeps them: clients between two starts are answered
    later."""
    port = free_port("127.0.0.1")
    endpoint = ("127.0.0.1", port)
    with Manager(tmp_path) as manager, udp_client(endpoint) as client:
        client.settimeout(START_TIMEOUT_S)
        with activated(tmp_path, [], port, manager):
            manager.was_told("READY=1")
            assert manager.places == both_kinds(port)
            assert status(udp_exchange(client, endpoint, request(ECHO_COMMAND))) == Status.SUCCESS
        manager.was_told("STOPPING=1")
        manager.forget_what_was_told()
        client.sendto(request(VERSION_COMMAND), endpoint)
        waiting = socket.create_connection(endpoint, 5)
        waiting.sendall(request(VERSION_COMMAND))
        given = [one.dup() for one in manager.stored]
        with waiting, activated(tmp_path, given, port, manager, stored_names(2)):
            assert status(client.recv(4096)) == Status.SUCCESS
            waiting.settimeout(START_TIMEOUT_S)
            assert status(waiting.recv(4096)) == Status.SUCCESS
            manager.was_told("READY=1")
            assert manager.places == both_kinds(port)
        for one in given:
            one.close()


@pytest.mark.any_backend
def test_a_link_local_address_is_known_again(tmp_path: Path) -> None:
    """The configuration names its interface, getsockname() has a number for it."""
    found = link_local_address()
    if found is None:
        pytest.skip("no interface with an IPv6 link-local address")
    host = "%".join(found)
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp,
        Manager(tmp_path) as manager,
    ):
        tcp.bind(socket.getaddrinfo(host, 0)[0][4])
        udp.bind(tcp.getsockname())
        tcp.listen(1)
        bind = {"bind": [host]}
        with activated(
            tmp_path, [udp, tcp], tcp.getsockname()[1], manager, network=bind
        ) as process:
            manager.was_told("READY=1")  # the address is in use: by sockets that it has
            assert process.poll() is None


@pytest.mark.any_backend
def test_stored_sockets_of_another_port_are_released(tmp_path: Path) -> None:
    """No client must connect to a socket that no node serves."""
    former, port = free_port("127.0.0.1"), free_port("127.0.0.1")
    with Manager(tmp_path) as manager:
        with activated(tmp_path, [], former, manager):
            manager.was_told("READY=1")
        manager.forget_what_was_told()
        given = [one.dup() for one in manager.stored]
        with activated(tmp_path, given, port, manager, stored_names(2)) as process:
            for one in given:
                one.close()
            manager.was_told("READY=1")
            assert manager.places == both_kinds(port)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", former), 5)
            socket.create_connection(("127.0.0.1", port), 5).close()
            assert process.poll() is None


@pytest.mark.any_backend
def test_stored_sockets_that_are_in_the_way(tmp_path: Path) -> None:
    """The wildcard now: its port is free once the manager has closed the address it stored."""
    with listening() as (udp, tcp, endpoint), Manager(tmp_path) as manager:
        manager.stored = [udp.dup(), tcp.dup()]
        given = [udp.dup(), tcp.dup()]
        udp.close()
        tcp.close()
        wildcard = {"bind": ["0.0.0.0"]}
        with activated(
            tmp_path, given, endpoint[1], manager, stored_names(2), network=wildcard
        ) as process:
            for one in given:
                one.close()
            manager.was_told("READY=1")
            assert {host for host, _, _ in manager.places} == {"0.0.0.0"}
            socket.create_connection(endpoint, 5).close()
            assert process.poll() is None


@pytest.mark.any_backend
def test_stored_sockets_without_their_counterparts(tmp_path: Path) -> None:
    """A manager with too little room keeps some only: new ones are bound, with a line."""
    with listening() as (udp, tcp, endpoint), Manager(tmp_path) as manager:
        manager.stored = [udp.dup()]
        given = [udp.dup()]
        udp.close()
        tcp.close()
        with activated(tmp_path, given, endpoint[1], manager, stored_names(1)) as process:
            given[0].close()
            manager.was_told("READY=1")
            assert manager.places == both_kinds(endpoint[1])
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert b"stored sockets are not used: " in process.stderr.read()


@pytest.mark.any_backend
def test_sockets_of_a_socket_unit_go_before_stored_ones(tmp_path: Path) -> None:
    with (
        listening() as (udp, tcp, endpoint),
        listening() as (stored_udp, stored_tcp, _),
        Manager(tmp_path) as manager,
    ):
        given = [udp, tcp, stored_udp, stored_tcp]
        names = f"raida-uring.socket:raida-uring.socket:{stored_names(2)}"
        with activated(tmp_path, given, endpoint[1], manager, names):
            manager.was_told("READY=1")
            assert manager.places == both_kinds(endpoint[1])
            socket.create_connection(endpoint, 5).close()


@pytest.mark.any_backend
def test_sockets_of_a_socket_unit_that_are_not_served_are_named(tmp_path: Path) -> None:
    """They stay open: the kernel accepts connections there, and no reply ever comes."""
    port = free_port("127.0.0.1")
    with (
        listening() as (udp, tcp, endpoint),
        Manager(tmp_path) as manager,
        activated(tmp_path, [udp, tcp], port, manager) as process,
    ):
        manager.was_told("READY=1")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert f"sockets that the configuration does not name: 127.0.0.1 port {endpoint[1]};" in (
            process.stderr.read().decode()
        )


@pytest.mark.any_backend
def test_a_manager_without_room_is_reported(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with (
        Manager(tmp_path, room=1) as manager,
        activated(tmp_path, [], port, manager) as process,
    ):
        manager.was_told("READY=1")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert b"keeps 1 of 2 sockets: raise FileDescriptorStoreMax=" in process.stderr.read()


@pytest.mark.any_backend
def test_its_state_is_shown(tmp_path: Path) -> None:
    """STATUS: where it serves, what came of a reload, that it ends."""
    port = free_port("127.0.0.1")
    with Manager(tmp_path) as manager:
        with activated(tmp_path, [], port, manager) as process:
            manager.was_told(f"STATUS=serving on 127.0.0.1:{port}: ")
            (tmp_path / "node.toml").write_text("[server]\nraida_id = 77\n")
            manager.forget_what_was_told()
            process.send_signal(signal.SIGHUP)
            manager.was_told("STATUS=")
            (line,) = [text for text in manager.assignments if text.startswith("STATUS=")]
            assert line.startswith(f"STATUS=serving on 127.0.0.1:{port}: ")
            assert "; the last reload failed: " in line
            assert "raida_id = 77" in line
            assert manager.assignments[0] == "RELOADING=1"
            assert "READY=1" in manager.assignments
        assert "STATUS=answering what was received, then stopping" in manager.assignments


@pytest.mark.any_backend
def test_a_successor_is_silent_until_it_is_the_main_process(tmp_path: Path) -> None:
    """systemd listens to one process only, and refuses each earlier message of another with a
    line."""
    port = free_port("127.0.0.1")
    with Manager(tmp_path) as manager, activated(tmp_path, [], port, manager) as process:
        manager.was_told("READY=1")
        manager.forget_what_was_told()
        process.send_signal(signal.SIGUSR2)
        manager.was_told("READY=1")
        assert manager.assignments[0].startswith("MAINPID=")
        assert manager.places == both_kinds(port)
        process.wait(STOP_TIMEOUT_S)
        successor = int(manager.assignments[0].removeprefix("MAINPID="))
        assert "STOPPING=1" not in manager.assignments
        os.kill(successor, signal.SIGTERM)
        manager.was_told("STOPPING=1")


@pytest.mark.any_backend
def test_a_successor_is_named_again_once_it_is_the_manager_s_child(tmp_path: Path) -> None:
    """systemd looks whose child the main process is when another one is named, and kills at a stop
    one that is not its own, without waiting for its drain."""
    port = free_port("127.0.0.1")
    with Manager(tmp_path) as manager, activated(tmp_path, [], port, manager) as process:
        manager.was_told("READY=1")
        manager.forget_what_was_told()
        process.send_signal(signal.SIGUSR2)
        process.wait(STOP_TIMEOUT_S)
        manager.was_told("BARRIER=1")
        named = [line for line in manager.assignments if line.startswith("MAINPID=")]
        assert named[0] == named[2] != named[1]
        stand_in, successor = (int(line.removeprefix("MAINPID=")) for line in named[1:3])
        eventually(lambda: gone(stand_in))
        os.kill(successor, signal.SIGTERM)
        eventually(lambda: gone(successor), STOP_TIMEOUT_S)


@pytest.mark.any_backend
def test_a_manager_that_is_late_to_hear_whose_child_a_successor_is(tmp_path: Path) -> None:
    """The process that was named meanwhile stays until the manager has heard, and delays no
    stop."""
    port = free_port("127.0.0.1")
    with Manager(tmp_path) as manager, activated(tmp_path, [], port, manager) as process:
        manager.listens = False
        manager.was_told("READY=1")
        manager.forget_what_was_told()
        process.send_signal(signal.SIGUSR2)
        process.wait(STOP_TIMEOUT_S)
        manager.was_told("BARRIER=1")
        named = [line for line in manager.assignments if line.startswith("MAINPID=")]
        successor, stand_in = (int(line.removeprefix("MAINPID=")) for line in named[:2])
        assert not gone(stand_in)
        os.kill(successor, signal.SIGTERM)
        eventually(lambda: gone(stand_in) and gone(successor), STOP_TIMEOUT_S)


def test_a_manager_that_does_not_listen_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is full: the message is lost, and the node goes on."""
    path = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler,
    ):
        manager.bind(path)
        filler.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                filler.sendto(b"READY=1", path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        telling = threading.Thread(target=servicemanager.notify, args=("STOPPING=1",), daemon=True)
        telling.start()
        telling.join(servicemanager.NOTIFY_TIMEOUT_S + STOP_TIMEOUT_S)
        assert not telling.is_alive()
