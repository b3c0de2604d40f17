"""A node that is replaced by its successor, for the tests: clients that ask meanwhile, successors
that come up slowly or fail, and who serves what."""

import contextlib
import http.client
import itertools
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from raida_uring.admin.client import result_of
from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.errors import RaidaError
from raida_uring.protocol import Status, layout, reply_bytes
from raida_uring.store import Store
from raida_uring.store.trees import Integrity
from tests.support.coin_requests import POWN, ask, default_an, pown_payload
from tests.support.command_line import environment
from tests.support.handlers import LOSE_LOOP, LOSE_SYNC, NAP, UNTIL
from tests.support.net import PATIENCE, Endpoint, udp_client
from tests.support.node import HANDLERS, SERVE, Daemon, daemon, eventually, insist, told
from tests.support.store import MAP_BYTES
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, status

UPGRADES = int(os.environ.get("UPGRADES", "3"))
PERSISTENT = {"persistent": True}
ANSWER_TIMEOUT_S = 20.0 * PATIENCE
# Under emulation clients that never rest leave no processor for the successor's start.
PACE_S = 0.01 * (PATIENCE - 1)


class Client(threading.Thread):
    """Asks until told to stop; a missing or wrong answer ends it with a fault."""

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
                time.sleep(PACE_S)  # between two requests
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
    while len(data) < layout.HEADER_SMALL or len(data) < reply_bytes(data):
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
    """Wait until the log has it."""
    eventually(lambda: node.stderr().count(text) >= times, 30 * PATIENCE, what=node.stderr)


def stop_until(node: Daemon, process: int, text: str) -> None:
    """Tell `process` to stop until the log says so."""

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)

    insist(stop, lambda: text in node.stderr(), 30 * PATIENCE)


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


@contextmanager
def handing_over(node: Daemon, directory: Path) -> Iterator[int]:
    """The successor serves and has the admin socket, while the node has a request in hand: the
    successor's process."""
    with held_request(node, directory):
        node.signal(signal.SIGUSR2)
        says(node, "stopping: up to")
        successor = serving_process(node)
        eventually(lambda: serves_admin(directory / "admin.sock") == successor, what=node.stderr)
        yield successor


def states(node: Daemon, directory: Path) -> set[str]:
    """Of the node's connections, as the admin socket tells."""
    listed = result_of(directory / "admin.sock", "connections")["connections"]
    return {one["state"] for one in listed}


def answers(node: Daemon, host: str = "127.0.0.1") -> bool:
    """Over UDP and over TCP; a request that is not answered is a failure."""
    endpoint = host, node.endpoint[1]
    asked = (UdpClient(endpoint), TcpClient(endpoint))
    return all(status(one.ask(request(VERSION_COMMAND))) == Status.SUCCESS for one in asked)


def child_of(node: Daemon) -> psutil.Process:
    """The process that the node has started, or is about to start."""
    running = psutil.Process(node.process.pid)
    eventually(lambda: len(running.children()) == 1, ANSWER_TIMEOUT_S, what=node.stderr)
    (child,) = running.children()
    return child


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, once its last thread has left: until then it
    has its sockets, and its parent does not hear of its end."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def successor_of(node: Daemon, process: int) -> int:
    """The process that takes over from `process`, once it runs: not the one that stands in for it
    before the service manager, nor one that has ended and was not waited for yet."""
    found: list[int] = []

    def runs() -> bool:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process).children()
            found[:] = [one.pid for one in children if "serve" in one.cmdline()]
            found[:] = [one for one in found if not gone(one)]
        return len(found) == 1

    eventually(runs, 30 * PATIENCE, what=node.stderr)
    return found[0]


def start_again(node: Daemon, directory: Path) -> "subprocess.Popen[bytes]":
    """As a service manager does; once it serves."""
    with (directory / "stderr").open("ab") as log:
        started = subprocess.Popen(
            [*SERVE, "--config", "node.toml"], cwd=directory, env=environment(), stderr=log
        )
    eventually(
        lambda: serves_admin(directory / "admin.sock") == started.pid,
        10 * PATIENCE,
        what=node.stderr,
    )
    return started


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
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                    # Not until it has been reaped: process 1 may never do that.
                    eventually(lambda: gone(pid), ANSWER_TIMEOUT_S)
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
        30 * PATIENCE,
        what=node.stderr,
    )


HELD_START = """
import pathlib, time
from raida_uring.handlers import Reply, command

here = pathlib.Path(__file__).parent
while (here / "hold").exists():
    (here / "waits").touch()
    time.sleep(0.01)  # between looks

@command(group=6, code=200)
def nothing(request, node):
    return Reply()
"""


@contextmanager
def slow_to_start(directory: Path, **tables: dict[str, object]) -> Iterator[Daemon]:
    """As upgradable(), with a successor that does not get past its start while `hold` exists."""
    (directory / "held_start.py").write_text(HELD_START)
    modules: list[object] = [*HANDLERS["modules"], "held_start"]
    with upgradable(directory, handlers={"modules": modules}, **tables) as node:
        (directory / "hold").touch()
        node.signal(signal.SIGUSR2)
        says(node, "upgrade: starting the successor")
        yield node


def serves_admin(path: Path) -> int:
    """The process that has the admin socket; 0 if it is not open."""
    try:
        return int(result_of(path, "status")["process"])
    except (OSError, RaidaError):
        return 0


def serves_operators(directory: Path, web: int) -> int:
    """The process that has the admin socket and the HTTP port; 0 if they are not both open."""
    try:
        process = result_of(directory / "admin.sock", "status")["process"]
        connection = http.client.HTTPConnection("127.0.0.1", web, timeout=ANSWER_TIMEOUT_S)
        connection.request("GET", "/healthz")
        with contextlib.closing(connection):
            return int(process) if connection.getresponse().status == 200 else 0
    except (OSError, RaidaError):
        return 0


class PownClient(threading.Thread):
    """Gives coins of its own new ANs, one after the other, and keeps what was acknowledged."""

    def __init__(self, node: Client_, denomination: int) -> None:
        """denomination: 1 to 6, a different one for each client, so that they share no coins."""
        super().__init__(daemon=True)
        self.node = node
        self.denomination = denomination
        self.acknowledged: dict[int, bytes] = {}
        self.fault: str | None = None
        self.stopping = False

    def run(self) -> None:
        for sn in itertools.count(1):
            if self.stopping:
                return
            time.sleep(PACE_S)  # between two requests
            new = secrets.token_bytes(16)
            try:
                coin = Coin(self.denomination, sn, default_an((self.denomination, sn)))
                answer = self.node.ask(calls.pown([(coin, new)]))
            except (OSError, RaidaError) as error:
                self.fault = f"coin {sn}: {error}"
                return
            if answer.status != Status.ALL_PASS:
                self.fault = f"coin {sn}: status {answer.status}"
                return
            self.acknowledged[sn] = new


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


def fail(node: Daemon, what: str) -> None:
    """Make the process that serves UDP now fail: because of its `store` or its `loop`."""
    if what == "loop":
        with udp_client(node.endpoint) as client:
            client.sendto(request(LOSE_LOOP), node.endpoint)
        return
    assert ask(node.endpoint, LOSE_SYNC, transport="udp")[0] == Status.SUCCESS
    changes = pown_payload([((1, 5), default_an((1, 5)), bytes(16))])
    assert ask(node.endpoint, POWN, changes, "udp")[0] == Status.FILESYSTEM


# In this order, since the journal is no longer written by anybody after the second one.
CAUSES = {
    "loop": "Input/output error",
    "store": "the store must be opened again, so the node ends",
}
