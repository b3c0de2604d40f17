"""A node is replaced by its successor under load.

What must hold whatever happens: every request is answered, by one of the two; no connection is
refused; connections between two requests live on; if the successor does not come up, the old node
has noticed nothing.
"""

import hashlib
import itertools
import os
import re
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

from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.integrity import Integrity
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.handlers import NAP
from tests.support.net import PATIENCE, Endpoint, udp_client
from tests.support.node import HANDLERS, Daemon, daemon, environment, eventually
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


@contextmanager
def upgradable(directory: Path, **tables: dict[str, object]) -> Iterator[Daemon]:
    """A daemon whose successors are ended, too."""
    with daemon(directory, handlers=HANDLERS, tcp=PERSISTENT, **tables) as node:  # type: ignore[arg-type]
        try:
            yield node
        finally:
            pid = serving_process(node)
            if pid != node.process.pid:
                process = psutil.Process(pid)
                process.send_signal(signal.SIGTERM)
                process.wait(ANSWER_TIMEOUT_S)
                node.process.wait(ANSWER_TIMEOUT_S)


def upgrade(node: Daemon) -> None:
    """Return when the successor serves alone."""
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
        assert done.returncode != 0
        assert "the successor ended with status 2 before it served" in done.stderr
        assert node.process.poll() is None


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
            new = secrets.token_bytes(16)
            answer = self.node.ask(calls.pown([(Coin(1, sn, self.old(sn)), new)]))
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

        def roots_are_true() -> bool:
            told = asked.ask(calls.get_all_roots()).require()
            opened = Store(store, map_bytes=MAP_BYTES, read_only=True)
            try:
                rebuilt = Integrity(opened)
                rebuilt.load()
                return b"".join(told) == rebuilt.newest.roots
            finally:
                opened.close()

        eventually(roots_are_true, ANSWER_TIMEOUT_S)
