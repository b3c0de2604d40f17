"""A node is replaced by its successor under load.

What must hold whatever happens: every request is answered, by one of the two; no connection is
refused; connections between two requests live on; if the successor does not come up, the old node
has noticed nothing.
"""

import contextlib
import hashlib
import http.client
import itertools
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from raida_uring import adminsocket
from raida_uring.admin import PROGRESS_INTERVAL_S
from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.errors import RaidaError, StoreError
from raida_uring.integrity import Integrity
from raida_uring.protocol import Status
from raida_uring.store import Store
from raida_uring.upgrade import Takeover
from tests.support.coin_requests import POWN, ask, default_an, pown_payload
from tests.support.handlers import LOSE_LOOP, LOSE_META, NAP, UNTIL
from tests.support.net import PATIENCE, Endpoint, udp_client
from tests.support.node import (
    HANDLERS,
    SERVE,
    Daemon,
    daemon,
    environment,
    eventually,
    free_port,
    told,
)
from tests.support.store import MAP_BYTES, SEED, make_store
from tests.support.wire import (
    ADMIN_KEY,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    request,
    status,
)

UPGRADES = int(os.environ.get("UPGRADES", "3"))
PERSISTENT = {"persistent": True}
ANSWER_TIMEOUT_S = 20.0 * PATIENCE
# Under emulation clients that never rest leave no processor for the successor's start.
PACE_S = 0.01 * (PATIENCE - 1)


class Client(threading.Thread):
    """Asks until told to stop; an answer that does not come or is wrong ends it with a fault."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(daemon=True)
        self.endpoint = endpoint
        self.answers = 0
        self.slowest_s = 0.0
        self.fault: str | None = None
        self.stopping = False
        self.requests = [request(VERSION_COMMAND), request(ECHO_COMMAND)]

    def ask(self, data: bytes) -> bytes:
        raise NotImplementedError

    def run(self) -> None:
        try:
            while not self.stopping:
                time.sleep(PACE_S)
                started = time.monotonic()
                reply = self.ask(self.requests[self.answers % len(self.requests)])
                if status(reply) != Status.SUCCESS:
                    self.fault = f"status {status(reply)} after {self.answers} answers"
                    return
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.answers += 1
        except (OSError, IndexError) as error:
            self.fault = f"{type(error).__name__} {error} after {self.answers} answers"

    def finish(self) -> None:
        self.stopping = True
        self.join(ANSWER_TIMEOUT_S)
        assert not self.is_alive()
        assert self.fault is None, f"{type(self).__name__}: {self.fault}"


class UdpClient(Client):
    """Loopback loses no datagram unless a socket buffer overflows: one outstanding cannot."""

    def ask(self, data: bytes) -> bytes:
        with udp_client(self.endpoint) as client:
            client.settimeout(ANSWER_TIMEOUT_S)
            client.sendto(data, self.endpoint)
            return client.recv(65536)


class NappingClient(UdpClient):
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.requests = [request(NAP)]


class TcpClient(Client):
    """A connection for each request; a refusal is a fault."""

    def ask(self, data: bytes) -> bytes:
        with socket.create_connection(self.endpoint, ANSWER_TIMEOUT_S) as client:
            client.sendall(data)
            return read_reply(client)


class PersistentClient(Client):
    """One connection for all: its end is a fault."""

    def __init__(self, endpoint: Endpoint, pause_s: float = 0.0) -> None:
        super().__init__(endpoint)
        self.pause_s = pause_s
        self.connection = socket.create_connection(endpoint, ANSWER_TIMEOUT_S)

    def ask(self, data: bytes) -> bytes:
        if self.pause_s:
            time.sleep(self.pause_s)  # a client that is idle most of the time
        self.connection.sendall(data)
        return read_reply(self.connection)

    def finish(self) -> None:
        super().finish()
        self.connection.close()


def read_reply(client: socket.socket) -> bytes:
    """One reply with a 32-byte header; short if the connection ends before."""
    data = b""
    while len(data) < 32 or len(data) < 32 + int.from_bytes(data[9:12]):
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError(f"connection ended after {len(data)} bytes")
        data += piece
    return data


def serving_process(node: Daemon) -> int:
    """The process that serves now: the last successor that the log names."""
    found = re.findall(r"upgrade: process (\d+) serves", node.stderr())
    return int(found[-1]) if found else node.process.pid


def says(node: Daemon, text: str, times: int = 1) -> None:
    """Until the log has it."""
    eventually(lambda: node.stderr().count(text) >= times, 30 * PATIENCE, what=node.stderr)


@contextmanager
def held_request(node: Daemon, directory: Path) -> Iterator[socket.socket]:
    """A connection whose request is with its handler until the end of the body; its answer must
    come then."""
    held = directory / "held"
    with socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) as client:
        client.sendall(request(UNTIL, str(held).encode()))
        eventually(lambda: "handler" in states(node, directory), what=node.stderr)
        try:
            yield client
        finally:
            held.touch()
        assert status(read_reply(client)) == Status.SUCCESS
        held.unlink()


def states(node: Daemon, directory: Path) -> set[str]:
    """Of the node's connections, as the admin socket tells."""
    listed = adminsocket.result_of(directory / "admin.sock", "connections")["connections"]
    return {one["state"] for one in listed}


def answers(node: Daemon, host: str = "127.0.0.1") -> bool:
    """Over UDP and over TCP; a request that is not answered is a failure."""
    endpoint = host, node.endpoint[1]
    asked = (UdpClient(endpoint), TcpClient(endpoint))
    return all(status(one.ask(request(VERSION_COMMAND))) == Status.SUCCESS for one in asked)


def child_of(node: Daemon) -> psutil.Process:
    """The process that it has started, or is about to."""
    running = psutil.Process(node.process.pid)
    eventually(lambda: len(running.children()) == 1, ANSWER_TIMEOUT_S, what=node.stderr)
    (child,) = running.children()
    return child


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def upgradable(directory: Path, **tables: dict[str, object]) -> Iterator[Daemon]:
    """A daemon whose successors are ended, too."""
    own: dict[str, dict[str, object]] = {
        "admin": {"socket": str(directory / "admin.sock")},
        "handlers": {**HANDLERS},
        "tcp": {**PERSISTENT},
    }
    tables = {**own, **tables}
    with daemon(directory, **tables) as node:  # type: ignore[arg-type]
        try:
            yield node
        finally:
            pid = serving_process(node)
            if pid != node.process.pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    process.send_signal(signal.SIGTERM)
                    process.wait(ANSWER_TIMEOUT_S)
                    node.process.wait(ANSWER_TIMEOUT_S)


def upgrade(node: Daemon) -> None:
    """Return when the successor serves alone."""
    told(node.notify)  # or its queue would be full after ten lines
    before = serving_process(node)
    ended = len(re.findall("the predecessor is gone", node.stderr()))
    os.kill(before, signal.SIGUSR2)
    eventually(lambda: serving_process(node) != before, 30 * PATIENCE, what=node.stderr)
    eventually(
        lambda: len(re.findall("the predecessor is gone", node.stderr())) > ended,
        30,
        what=node.stderr,
    )


def test_nothing_is_lost(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        clients: list[Client] = [
            *(UdpClient(node.endpoint) for _ in range(3)),
            *(TcpClient(node.endpoint) for _ in range(3)),
            *(PersistentClient(node.endpoint) for _ in range(3)),
            *(PersistentClient(node.endpoint, 0.02) for _ in range(3)),
            NappingClient(node.endpoint),
        ]
        for client in clients:
            client.start()
        for _ in range(UPGRADES):
            answers = [client.answers for client in clients]
            upgrade(node)
            eventually(
                lambda: all(
                    client.answers > before or client.fault
                    for client, before in zip(clients, answers, strict=True)  # noqa: B023
                ),
                ANSWER_TIMEOUT_S,
            )
        for client in clients:
            client.finish()


def test_ipv6_sockets_pass_on_too(tmp_path: Path) -> None:
    """What may be set before the bind only must not be set again."""
    with upgradable(tmp_path, network={"bind": ["127.0.0.1", "::1"]}) as node:
        upgrade(node)
        with socket.create_connection(("::1", node.endpoint[1]), ANSWER_TIMEOUT_S) as client:
            client.sendall(request(VERSION_COMMAND))
            assert status(read_reply(client)) == Status.SUCCESS


def test_a_node_with_many_connections_is_replaced(tmp_path: Path) -> None:
    """The channel's descriptor is beyond 1023 then, where select() ends."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        with upgradable(tmp_path) as node, contextlib.ExitStack() as opened:
            clients = [
                opened.enter_context(socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S))
                for _ in range(1100)
            ]
            for _ in range(2):
                for client in clients:
                    client.sendall(request(VERSION_COMMAND))
                assert all(status(read_reply(client)) == Status.SUCCESS for client in clients)
                upgrade(node)
            assert "took over: 1100 connections passed on" in node.stderr()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.any_backend
def test_a_node_without_descriptors_goes_on(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        process = psutil.Process(node.process.pid)
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        used = {int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")}
        lowest_free = min(set(range(len(used) + 1)) - used)
        process.rlimit(psutil.RLIMIT_NOFILE, (lowest_free, limits[1]))
        node.signal(signal.SIGUSR2)
        says(node, "no upgrade, this node goes on: cannot start the successor: Too many open files")
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
        assert answers(node)
        upgrade(node)


@pytest.mark.any_backend
def test_a_successor_that_fails_changes_nothing(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        client = PersistentClient(node.endpoint)
        client.start()
        config = tmp_path / "node.toml"
        good = config.read_text()
        config.write_text("[server]\nraida_id = 99\n")
        node.signal(signal.SIGUSR2)
        eventually(
            lambda: "no upgrade, this node goes on" in node.stderr(),
            30 * PATIENCE,
            what=node.stderr,
        )
        config.write_text(good)
        answers = client.answers
        eventually(lambda: client.answers > answers)
        assert node.process.poll() is None
        client.finish()


def test_counters_go_on(tmp_path: Path) -> None:
    """show_stats counts from the first node's start."""
    with upgradable(tmp_path) as node:
        client = UdpClient(node.endpoint)
        client.requests = [request(ECHO_COMMAND)]
        client.start()
        eventually(lambda: client.answers >= 50)
        client.finish()
        upgrade(node)
        asked = UdpClient(node.endpoint)
        reply = asked.ask(request(SHOW_STATS_COMMAND, ADMIN_KEY))
        assert int.from_bytes(reply[32:40], "little") == client.answers


@pytest.mark.any_backend
def test_the_command_says_who_serves(tmp_path: Path) -> None:
    """`raida-uring upgrade`, and that the successor answers operators in its turn."""
    with upgradable(tmp_path) as node:
        asked = [sys.executable, "-m", "raida_uring", "upgrade", "--config", "node.toml"]
        for _ in range(2):
            done = subprocess.run(
                asked,
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60 * PATIENCE,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"process {serving_process(node)} serves\n"
            eventually(
                lambda: (
                    Path(f"/proc/{serving_process(node)}").exists()
                    and node.stderr().count("admin socket") == node.stderr().count("serving on")
                ),
                30,
                what=node.stderr,
            )


@pytest.mark.any_backend
def test_the_command_says_why_not(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        config = tmp_path / "node.toml"
        good = config.read_text()
        asked = [sys.executable, "-m", "raida_uring", "upgrade", "--config", "good.toml"]
        (tmp_path / "good.toml").write_text(good)
        config.write_text("[server]\nraida_id = 99\n")
        done = subprocess.run(
            asked,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
        )
        assert done.returncode == 2
        assert re.search(
            r"the successor ended with status 2 before it served: .*raida_id = 99: must be",
            done.stderr,
        )
        assert node.process.poll() is None


def command(directory: Path) -> "subprocess.Popen[str]":
    """`raida-uring upgrade`, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "raida_uring", "upgrade", "--socket", str(directory / "admin.sock")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.any_backend
def test_asked_twice_at_once(tmp_path: Path) -> None:
    """One upgrade answers both."""
    with upgradable(tmp_path) as node:
        both = [command(tmp_path), command(tmp_path)]
        said = {one.communicate(timeout=60 * PATIENCE) for one in both}
        assert [one.returncode for one in both] == [0, 0]
        assert said == {(f"process {serving_process(node)} serves\n", "")}
        says(node, "the predecessor is gone")
        assert node.stderr().count("upgrade: starting the successor") == 1
        assert answers(node)


# --- before the successor serves --------------------------------------------------------------

HELD_START = """
import pathlib, time
from raida_uring.handlers import Reply, command

here = pathlib.Path(__file__).parent
while (here / "hold").exists():
    (here / "waits").touch()
    time.sleep(0.01)

@command(group=6, code=200)
def nothing(request, node):
    return Reply()
"""


@contextmanager
def slow_to_start(directory: Path, **tables: dict[str, object]) -> Iterator[Daemon]:
    """As upgradable(), with a successor on its way that does not come up while `hold` exists."""
    (directory / "held_start.py").write_text(HELD_START)
    modules: list[object] = [*HANDLERS["modules"], "held_start"]
    with upgradable(directory, handlers={"modules": modules}, **tables) as node:
        (directory / "hold").touch()
        node.signal(signal.SIGUSR2)
        says(node, "upgrade: starting the successor")
        yield node


@pytest.mark.any_backend
def test_reload_and_watchdog_while_the_successor_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with slow_to_start(tmp_path) as node:
        told(node.notify)
        node.signal(signal.SIGHUP)
        says(node, "reloaded: ")
        seen: list[str] = []

        def fed() -> bool:
            seen.extend(told(node.notify))
            return seen.count("WATCHDOG=1") >= 3

        eventually(fed, 20 * PATIENCE)
        assert adminsocket.result_of(tmp_path / "admin.sock", "status")["phase"] == "serving"
        assert serving_process(node) == node.process.pid
        (tmp_path / "hold").unlink()

        def gone_by_now() -> bool:
            told(node.notify)  # or it fills, and the node waits for it
            return "the predecessor is gone" in node.stderr()

        eventually(gone_by_now, 30 * PATIENCE, what=node.stderr)


@pytest.mark.any_backend
def test_a_reload_while_the_successor_starts_reaches_both(tmp_path: Path) -> None:
    """It has read the file before: what an operator changed since must not be lost."""
    path = tmp_path / "node.toml"
    with slow_to_start(tmp_path) as node:
        eventually((tmp_path / "waits").exists, 30 * PATIENCE)
        text = path.read_text()
        path.write_text(text.replace("[network]\n", "[network]\nwait_max_ms = 777\n"))
        node.signal(signal.SIGHUP)
        says(node, "reloaded: [network] wait_max_ms")
        (tmp_path / "hold").unlink()
        says(node, "reloaded: [network] wait_max_ms", 2)
        says(node, "the predecessor is gone")


@pytest.mark.any_backend
def test_a_stop_is_heeded_while_the_successor_starts(tmp_path: Path) -> None:
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        asked = adminsocket.ask(tmp_path / "admin.sock", "upgrade")
        assert "phase" in next(asked)  # it waits for the same successor
        assert node.terminate(8 * PATIENCE) == 0
        assert gone(successor.pid)
        with pytest.raises(adminsocket.NodeError, match="this node was told to stop meanwhile"):
            list(asked)
        assert "no upgrade" in node.stderr()


@pytest.mark.any_backend
def test_a_drain_is_heeded_while_the_successor_starts(tmp_path: Path) -> None:
    """Whatever it has taken meanwhile, it answers."""
    with slow_to_start(tmp_path) as node:
        adminsocket.result_of(tmp_path / "admin.sock", "drain")
        assert node.process.wait(8 * PATIENCE) == 0
        assert "no upgrade" in node.stderr()


@pytest.mark.any_backend
def test_a_successor_that_is_late_is_given_up(tmp_path: Path) -> None:
    with slow_to_start(tmp_path, upgrade={"start_timeout_s": 1}) as node:
        says(node, "the successor does not serve after 1 s ([upgrade] start_timeout_s)")
        assert answers(node)


def test_a_successor_that_stops_at_once_leaves_the_sockets_alone(tmp_path: Path) -> None:
    """They are its predecessor's: no filter may stay on them."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        node.signal(signal.SIGSTOP)  # it must not hear of it before the stop
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)
        node.signal(signal.SIGCONT)
        says(node, "ended with status 0 before it served: it was told to stop")
        assert answers(node)
        assert "STOPPING=1" not in told(node.notify)  # the service does not


def fail(node: Daemon, what: str) -> None:
    """Whoever serves UDP now must end by itself: for its `store` or for its `loop`."""
    if what == "loop":
        with udp_client(node.endpoint) as client:
            client.sendto(request(LOSE_LOOP), node.endpoint)
        return
    assert ask(node.endpoint, LOSE_META, transport="udp")[0] == Status.SUCCESS
    changes = pown_payload([((1, 5), default_an((1, 5)), bytes(16))])
    assert ask(node.endpoint, POWN, changes, "udp")[0] == Status.FILESYSTEM


CAUSES = {
    "store": "the store must be opened again, so the node ends",
    "loop": "Input/output error",
}


@pytest.mark.any_backend
def test_a_successor_that_fails_before_its_turn_says_so(tmp_path: Path) -> None:
    """Its predecessor does not hand over to one that is about to end."""
    store = make_store(tmp_path / "store")
    tables = {"path": str(store), "size_mib": MAP_BYTES >> 20}
    with slow_to_start(tmp_path, store=tables) as node:
        for times, what in enumerate(CAUSES, 1):
            successor = child_of(node)
            node.signal(signal.SIGSTOP)  # it must not hear that the other one serves
            (tmp_path / "hold").unlink(missing_ok=True)
            says(node, "serving on", 1 + times)
            fail(node, what)
            eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)  # noqa: B023
            node.signal(signal.SIGCONT)
            says(node, "ended with status 1 before it served: it has failed, see the log", times)
            assert CAUSES[what] in node.stderr()
            if times < len(CAUSES):
                node.signal(signal.SIGUSR2)
        assert "upgrade: process" not in node.stderr()
        assert answers(node)


@pytest.mark.any_backend
@pytest.mark.parametrize(("what", "cause"), CAUSES.items())
def test_who_waits_for_an_upgrade_hears_what_has_failed(
    tmp_path: Path, what: str, cause: str
) -> None:
    store = make_store(tmp_path / "store")
    tables = {"path": str(store), "size_mib": MAP_BYTES >> 20}
    with slow_to_start(tmp_path, store=tables) as node:
        if what == "loop" and "io_uring" not in node.stderr():
            pytest.skip("no io_uring: the admin socket waits with the call that is to fail")
        asked = adminsocket.ask(tmp_path / "admin.sock", "upgrade")
        assert "phase" in next(asked)
        fail(node, what)
        with pytest.raises(adminsocket.NodeError, match=f"node has failed meanwhile: .*{cause}"):
            list(asked)
        assert node.process.wait(ANSWER_TIMEOUT_S) == 1


# --- between the two --------------------------------------------------------------------------


def test_a_connection_whose_handler_runs_is_passed_on(tmp_path: Path) -> None:
    """As soon as it is answered, and not at the drain's deadline."""
    held = tmp_path / "held"
    with (
        upgradable(tmp_path, network={"drain_timeout_ms": 60000}) as node,
        socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) as client,
    ):
        client.sendall(request(UNTIL, str(held).encode()))
        eventually(lambda: "handler" in states(node, tmp_path))
        node.signal(signal.SIGUSR2)
        says(node, "stopping: up to")
        held.touch()
        assert status(read_reply(client)) == Status.SUCCESS
        says(node, "took over: 1 connections passed on")
        client.sendall(request(VERSION_COMMAND))
        assert status(read_reply(client)) == Status.SUCCESS


def test_upgrades_wait_for_each_other(tmp_path: Path) -> None:
    """A connection is passed on to somebody who keeps it."""
    with upgradable(tmp_path) as node:
        idle = PersistentClient(node.endpoint)
        assert status(idle.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            os.kill(serving_process(node), signal.SIGUSR2)
            os.kill(serving_process(node), signal.SIGHUP)
            says(node, "reloaded: ")  # heard, and the other before it
            assert node.stderr().count("upgrade: starting the successor") == 1
        says(node, "the predecessor is gone", 2)
        assert status(idle.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        idle.connection.close()


def test_a_successor_told_to_stop_waits_for_its_predecessor(tmp_path: Path) -> None:
    """And serves: the sockets are not its own yet, so that nothing may be put in their way. The
    service manager is told how long that may take."""
    with upgradable(tmp_path, network={"drain_timeout_ms": 77000}) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            successor = serving_process(node)
            eventually(lambda: (tmp_path / "admin.sock").exists())
            told(node.notify)
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            eventually(lambda: "EXTEND_TIMEOUT_USEC=107000000" in told(node.notify))
            assert answers(node)
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0
        eventually(lambda: gone(successor), ANSWER_TIMEOUT_S)
        assert node.stderr().count("final counters") == 2


def test_a_stop_of_all_processes_drops_nothing(tmp_path: Path) -> None:
    """As systemctl stop does in the middle of an upgrade: a first signal is no second one."""
    with upgradable(tmp_path) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            successor = serving_process(node)
            eventually(lambda: (tmp_path / "admin.sock").exists())
            node.signal(signal.SIGTERM)
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            eventually(lambda: re.search("leaving already|at once", node.stderr()) is not None)
        eventually(lambda: gone(successor), ANSWER_TIMEOUT_S)
        assert "at once" not in node.stderr()


def test_a_successor_that_dies_is_replaced_by_its_predecessor(tmp_path: Path) -> None:
    """What it had taken is lost, and nothing else."""
    web = free_port()
    http_table: dict[str, object] = {"enabled": True, "port": web}
    with upgradable(tmp_path, http=http_table) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            told(node.notify)
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            assert answers(node)
            eventually(lambda: serves_operators(tmp_path, web) == node.process.pid)
            assert f"MAINPID={node.process.pid}" in told(node.notify)
        assert "was killed by Killed (9)" in node.stderr()
        node.signal(signal.SIGUSR2)  # and it can still be replaced
        says(node, "the predecessor is gone")
        assert answers(node)


@pytest.mark.any_backend
def test_a_successor_that_fails_is_not_the_end_of_the_service(tmp_path: Path) -> None:
    """The service manager would hold the service for stopping, and kill in the end who serves."""
    store = make_store(tmp_path / "store")
    tables = {"path": str(store), "size_mib": MAP_BYTES >> 20}
    with upgradable(tmp_path, store=tables) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            eventually(lambda: serves_admin(tmp_path / "admin.sock") == serving_process(node))
            told(node.notify)
            fail(node, "store")
            says(node, "the successor ended with status 1: this node serves again")
            said = told(node.notify)
            assert f"MAINPID={node.process.pid}" in said
            assert "STOPPING=1" not in said
        assert answers(node)


def serves_admin(path: Path) -> int:
    """The process that has the admin socket; 0 if it is not open."""
    try:
        return int(adminsocket.result_of(path, "status")["process"])
    except (OSError, RaidaError):
        return 0


def serves_operators(directory: Path, web: int) -> int:
    """The process that has the admin socket and the HTTP port; 0 if they are not both open."""
    try:
        process = adminsocket.result_of(directory / "admin.sock", "status")["process"]
        connection = http.client.HTTPConnection("127.0.0.1", web, timeout=ANSWER_TIMEOUT_S)
        connection.request("GET", "/healthz")
        with contextlib.closing(connection):
            return int(process) if connection.getresponse().status == 200 else 0
    except (OSError, RaidaError):
        return 0


@pytest.mark.any_backend
def test_what_is_left_to_a_successor_is_not_opened_again(tmp_path: Path) -> None:
    """A node still tries to open the port of HTTP, in vain, when the next upgrade comes: the
    admin socket that it has just left must be its successor's."""
    web = free_port()
    with (
        upgradable(tmp_path, http={"enabled": True, "port": web}) as node,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        config = tmp_path / "node.toml"
        good = config.read_text()
        config.write_text(good.replace(f"port = {web}", f"port = {taken.getsockname()[1]}"))
        upgrade(node)
        config.write_text(good)
        with held_request(node, tmp_path):
            os.kill(serving_process(node), signal.SIGUSR2)
            says(node, "stopping: up to", 2)
            eventually(lambda: serves_operators(tmp_path, web) == serving_process(node))
        says(node, "the predecessor is gone", 2)


@pytest.mark.any_backend
def test_a_successor_that_ends_by_itself_ends_the_service(tmp_path: Path) -> None:
    """Told to stop twice it does not wait for its predecessor, which stops then, too; what waits
    in the sockets is answered."""
    with upgradable(tmp_path) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            successor = serving_process(node)
            eventually(lambda: (tmp_path / "admin.sock").exists())
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            os.kill(successor, signal.SIGTERM)
            says(node, "ended with status 0")
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0


def test_a_stop_of_both_is_one_stop_for_each(tmp_path: Path) -> None:
    """The successor's end on a stop does not make the predecessor's first signal a second one."""
    with upgradable(tmp_path) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            successor = serving_process(node)
            eventually(lambda: (tmp_path / "admin.sock").exists())
            node.signal(signal.SIGTERM)
            says(node, "leaving already")
            for said in ("stopping once the predecessor is gone", "ended with status 0"):
                os.kill(successor, signal.SIGTERM)
                says(node, said)
            says(node, "stopping: up to 10.0 s", 2)
            node.signal(signal.SIGUSR2)
            says(node, "told to upgrade: leaving already")
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0


@pytest.mark.any_backend
def test_a_node_that_serves_again_waits_to_be_asked(tmp_path: Path) -> None:
    """A signal that came while the successor started has had its upgrade."""
    with slow_to_start(tmp_path) as node:
        for number in (signal.SIGUSR2, signal.SIGHUP):
            node.signal(number)
        says(node, "reloaded: ")  # heard, and the other before it
        assert "told to upgrade: a successor is starting already" in node.stderr()
        with held_request(node, tmp_path):
            (tmp_path / "hold").unlink()
            says(node, "stopping: up to")
            node.signal(signal.SIGUSR2)
            says(node, f"told to upgrade: process {serving_process(node)} serves already, ask that")
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            for times in (2, 3):
                node.signal(signal.SIGHUP)
                says(node, "reloaded: ", times)
        assert node.stderr().count("upgrade: starting the successor") == 1


def test_a_predecessor_that_is_killed_leaves_everything_to_its_successor(tmp_path: Path) -> None:
    web = free_port()
    store = make_store(tmp_path / "store")
    tables: dict[str, dict[str, object]] = {
        "http": {"enabled": True, "port": web},
        "store": {"path": str(store), "size_mib": MAP_BYTES >> 20},
    }
    held = request(UNTIL, str(tmp_path / "never").encode())
    with upgradable(tmp_path, **tables) as node:
        with socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) as client:
            client.sendall(held)
            eventually(lambda: "handler" in states(node, tmp_path))
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            node.kill()
        says(node, "took over: ")
        assert answers(node)
        eventually(lambda: serves_operators(tmp_path, web) == serving_process(node))
        assert (store / "owner").read_text() == f"{serving_process(node)}\n"
        with pytest.raises(StoreError, match=f"in use by process {serving_process(node)}"):
            Store(store, map_bytes=MAP_BYTES)


def test_a_connection_that_woke_a_dead_predecessor_is_served(tmp_path: Path) -> None:
    """A connection wakes one of the processes that accept. If that one does not live to do it, the
    other one must look for itself. What it accepted in its last moment is reset; none hangs."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        node.signal(signal.SIGSTOP)
        waiting = [socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) for _ in range(8)]
        for client in waiting:
            client.sendall(request(VERSION_COMMAND))
        node.kill()
        for client in waiting:
            with client, contextlib.suppress(ConnectionError):
                assert status(read_reply(client)) == Status.SUCCESS
        says(node, "admin socket", 2)  # nobody has told it that the first one is free
        told_by = adminsocket.result_of(tmp_path / "admin.sock", "status")
        assert told_by["process"] == successor.pid
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)


def test_the_sockets_of_a_dead_predecessor_come_first(tmp_path: Path) -> None:
    """A service manager that does not listen takes its second, and connections wait meanwhile."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        node.signal(signal.SIGSTOP)  # it does not hand over
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler,
            contextlib.suppress(BlockingIOError),
        ):
            filler.setblocking(False)
            while True:
                filler.sendto(b"READY=1", node.notify.getsockname())
        node.kill()
        says(node, "cannot notify the service manager")
        said = node.stderr()
        assert 0 <= said.find("took over: ") < said.find("cannot notify the service manager")
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)


@pytest.mark.any_backend
def test_a_drain_while_the_predecessor_leaves_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with upgradable(tmp_path) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            eventually(lambda: serves_admin(path) == serving_process(node))
            with socket.socket(socket.AF_UNIX) as client, client.makefile() as answers:
                client.connect(str(path))
                for command in ("drain", "log-level"):
                    client.sendall(b'{"command": "%s"}\n' % command.encode())
                    time.sleep(2 * PROGRESS_INTERVAL_S)  # in which no progress is told
                assert "ask again in a moment" in answers.readline()
                assert "level" in answers.readline()
        says(node, "the predecessor is gone")


# --- what has changed with it -----------------------------------------------------------------


@pytest.mark.any_backend
def test_the_store_names_who_serves(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with upgradable(tmp_path, store={"path": str(store), "size_mib": MAP_BYTES >> 20}) as node:
        upgrade(node)
        eventually(lambda: (store / "owner").read_text() == f"{serving_process(node)}\n")


@pytest.mark.any_backend
def test_another_store_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """The predecessor's is of no use for it, and is let go."""
    first, second = (make_store(tmp_path / name) for name in ("first", "second"))
    with upgradable(tmp_path, store={"path": str(first), "size_mib": MAP_BYTES >> 20}) as node:
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace(str(first), str(second)))
        upgrade(node)
        with pytest.raises(StoreError, match="in use by process"):
            Store(second, map_bytes=MAP_BYTES)
        Store(first, map_bytes=MAP_BYTES).close()


def test_connections_find_their_address_again(tmp_path: Path) -> None:
    """Listeners are numbered anew when the addresses change."""
    with upgradable(tmp_path, network={"bind": ["127.0.0.1", "::1"]}) as node:
        clients = [PersistentClient((host, node.endpoint[1])) for host in ("::1", "127.0.0.1")]
        for client in clients:
            assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace('["127.0.0.1", "::1"]', '["::1"]'))
        upgrade(node)
        for client in clients:
            assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
            client.connection.close()


@pytest.mark.any_backend
def test_a_new_address_gets_the_port_that_was_free(tmp_path: Path) -> None:
    """Port 0: one number for all addresses, also for one that comes first and later."""
    with upgradable(tmp_path, server={"port": 0}, network={"bind": ["127.0.0.1"]}) as node:
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace('["127.0.0.1"]', '["::1", "127.0.0.1"]'))
        upgrade(node)
        path = tmp_path / "admin.sock"
        endpoints = adminsocket.result_of(path, "status")["endpoints"]
        assert [host for host, _ in endpoints] == ["::1", "127.0.0.1"]
        assert len({port for _, port in endpoints}) == 1


def test_a_successor_without_an_admin_socket_takes_connections(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        client = PersistentClient(node.endpoint)
        assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        path = tmp_path / "admin.sock"
        path.unlink()
        path.write_text("something else")
        upgrade(node)
        assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        says(node, "no admin socket")
        assert answers(node)
        client.connection.close()


@pytest.mark.any_backend
def test_a_predecessor_of_another_version_is_understood_as_far_as_it_goes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopted: list[int] = []
    carried: list[dict[str, int]] = []

    def carry(counters: dict[str, int]) -> None:
        carried.append(counters)
        if "unheard_of" in counters:
            raise TypeError("unheard_of")

    takeover = Takeover(theirs, [["127.0.0.1", 1, -1, -1]], -1, shared=False)
    takeover.begin(lambda _listener, fd: adopted.append(fd), carry, lambda: None)
    for said in (b"a word of a later version", b'{"unheard_of": 1}', b"[1]"):
        ours.send(said)
    with socket.socket() as passed:
        socket.send_fds(ours, [b"\0"], [passed.fileno()])
    ours.send(b'{"echoes": 7}')
    ours.close()
    eventually(lambda: takeover.gone)
    assert len(adopted) == takeover.taken == 1
    assert carried[-1] == {"echoes": 7}
    os.close(adopted[0])


@pytest.mark.any_backend
def test_a_connection_that_there_is_no_descriptor_for_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel closes it then; what comes after it is heard."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopted: list[int] = []
    carried: list[dict[str, int]] = []
    takeover = Takeover(theirs, [["127.0.0.1", 1, -1, -1]], -1, shared=False)
    takeover.begin(lambda _listener, fd: adopted.append(fd), carried.append, lambda: None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as passed:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            socket.send_fds(ours, [b"\0"], [passed.fileno()])
            eventually(lambda: "no descriptor is left for a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    ours.send(b'{"echoes": 7}')
    ours.close()
    eventually(lambda: takeover.gone)
    assert (adopted, takeover.taken, carried) == ([], 0, [{"echoes": 7}])
    assert "another version" not in caplog.text


@pytest.mark.any_backend
def test_process_1_of_a_container_says_why_not(tmp_path: Path) -> None:
    """Its end would be that of all others in there."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces for this user")
    with daemon(tmp_path, command=[*unshare, *SERVE]) as node:
        inside = child_of(node)
        inside.send_signal(signal.SIGUSR2)
        says(node, "this node is process 1 of its container")
        assert answers(node)
        inside.terminate()
        node.process.wait(ANSWER_TIMEOUT_S)


class PownClient(threading.Thread):
    """Gives coins of its own new ANs, one after the other, and keeps what was acknowledged."""

    def __init__(self, node: Client_, first: int) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.first = first
        self.acknowledged: dict[int, bytes] = {}
        self.fault: str | None = None
        self.stopping = False

    def run(self) -> None:
        for sn in itertools.count(self.first):
            if self.stopping:
                return
            time.sleep(PACE_S)
            new = secrets.token_bytes(16)
            try:
                answer = self.node.ask(calls.pown([(Coin(1, sn, self.old(sn)), new)]))
            except (OSError, RaidaError) as error:
                self.fault = f"coin {sn}: {error}"
                return
            if answer.status != Status.ALL_PASS:
                self.fault = f"coin {sn}: status {answer.status}"
                return
            self.acknowledged[sn] = new

    @staticmethod
    def old(sn: int) -> bytes:
        page, record = divmod(sn, 1024)
        text = f"{SEED}01{page:04x}{record:02x}".encode()
        return hashlib.md5(text, usedforsecurity=False).digest()


def test_coins_change_across_upgrades(tmp_path: Path) -> None:
    """Both processes write to one store for a moment: no acknowledged change may be missing, and
    the successor's trees must know what its predecessor changed last."""
    store = make_store(tmp_path / "store")
    tables: dict[str, dict[str, object]] = {
        "store": {"path": str(store), "size_mib": MAP_BYTES >> 20},
        "server": {"synchronization_enabled": True},
    }
    with upgradable(tmp_path, **tables) as node:
        host, port = node.endpoint
        asked = Client_(host, port, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        clients = [PownClient(asked, 1 + 3000 * number) for number in range(3)]
        for client in clients:
            client.start()
        for _ in range(UPGRADES):
            before = [len(client.acknowledged) for client in clients]
            upgrade(node)
            eventually(
                lambda: all(
                    client.fault or len(client.acknowledged) > count
                    for client, count in zip(clients, before, strict=True)  # noqa: B023
                ),
                ANSWER_TIMEOUT_S,
            )
        for client in clients:
            client.stopping = True
            client.join(ANSWER_TIMEOUT_S)
            assert client.fault is None
        changed = {sn: an for client in clients for sn, an in client.acknowledged.items()}
        for start in range(0, len(changed), 50):
            coins = [Coin(1, sn, an) for sn, an in list(changed.items())[start : start + 50]]
            assert asked.ask(calls.detect(coins)).status == Status.ALL_PASS

        eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)


def roots_are_true(asked: Client_, path: Path) -> bool:
    """Whether the node votes with the roots of what is in its store."""
    told_roots = asked.ask(calls.get_all_roots()).require()
    opened = Store(path, map_bytes=MAP_BYTES, read_only=True)
    try:
        rebuilt = Integrity(opened)
        rebuilt.load()
        return b"".join(told_roots) == rebuilt.newest.roots
    finally:
        opened.close()


@pytest.mark.any_backend
def test_what_a_dead_successor_changed_is_in_the_trees(tmp_path: Path) -> None:
    """Its commits are its predecessor's to follow."""
    store = make_store(tmp_path / "store")
    tables: dict[str, dict[str, object]] = {
        "store": {"path": str(store), "size_mib": MAP_BYTES >> 20},
        "server": {"synchronization_enabled": True},
    }
    with upgradable(tmp_path, **tables) as node:
        asked = Client_(*node.endpoint, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            new = secrets.token_bytes(16)
            coin = Coin(1, 5000, PownClient.old(5000))
            assert asked.ask(calls.pown([(coin, new)])).status == Status.ALL_PASS
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            assert asked.ask(calls.detect([Coin(1, 5000, new)])).status == Status.ALL_PASS
            eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)
