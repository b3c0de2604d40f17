"""Starts that find in their way what passes by itself: addresses that come late, ports of outgoing
connections, a store that is still in use, HTTP and the admin socket.

What must hold: the node serves as soon as it can, by itself or because the service manager starts
it again (exit status 1); a stop is obeyed meanwhile; only what a person must change ends with 2.
"""

import contextlib
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from raida_uring import client
from raida_uring.admin.client import result_of
from raida_uring.errors import StartError
from raida_uring.handlers import peers
from raida_uring.handlers.peers import Addresses
from raida_uring.store import Store
from tests.support.command_line import PROGRAM, execute, output_of, run
from tests.support.http import ask as ask_http
from tests.support.needs import ipv6_refusal, namespace, require, require_ipv6
from tests.support.net import PATIENCE, Endpoint, reset
from tests.support.node import (
    SERVE,
    STOP_TIMEOUT_S,
    WAIT_TIMEOUT_S,
    await_told,
    config_text,
    eventually,
    free_port,
    running_node,
    started_daemon,
)
from tests.support.sanitized import HIDES_PROC, LIMITS_MEMORY
from tests.support.store import MAP_BYTES, make_store, table_of
from tests.support.wire import request

pytestmark = pytest.mark.any_backend

VERSION_COMMAND = 0, 1
_CLONE_NEWNET = 0x40000000

# `raida-uring serve` with little patience.
IMPATIENT = (
    sys.executable,
    "-c",
    "import sys; from raida_uring.cli import main as cli; "
    "from raida_uring.node import patience; patience.TIMEOUT_S = 0.4; "
    "sys.exit(cli.main(sys.argv[1:]))",
    "serve",
)

T = TypeVar("T")


# --- Addresses that come late -------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network namespace with two interfaces that lead to each other."""

    process: int

    @property
    def enter(self) -> Sequence[str]:
        """What to put in front of a command."""
        return ("nsenter", f"--target={self.process}", "--net")

    def ip(self, *arguments: str) -> str:
        return output_of(*self.enter, "ip", *arguments)

    def inside(self, action: Callable[[], T]) -> T:
        """What `action` returns on a thread that has moved there."""
        results: list[T] = []

        def run() -> None:
            with open(f"/proc/{self.process}/ns/net") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(action())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        (result,) = results
        return result

    def require_ipv6(self) -> None:
        """Skips the calling test where the kernel has no IPv6."""
        if (refusal := self.inside(ipv6_refusal)) is not None:
            pytest.skip(refusal)


@pytest.fixture
def network() -> Iterator[Network]:
    require("ip")
    with namespace("net") as pid:
        made = Network(pid)
        made.ip("link", "set", "lo", "up")
        made.ip("link", "add", "name", "one", "type", "veth", "peer", "name", "other")
        made.ip("link", "set", "other", "up")
        made.ip("link", "set", "one", "up")
        yield made


def answers(endpoint: Endpoint) -> bool:
    """Whether a version is told over UDP and TCP. What comes before the address is usable is lost:
    who asks waits a moment only."""
    try:
        replies = [
            client.request(*endpoint, request(VERSION_COMMAND), transport=one, timeout_s=PATIENCE)
            for one in ("udp", "tcp")
        ]
    except OSError:
        return False
    return [one.reply.status for one in replies] == [250, 250]


@pytest.mark.parametrize("address", ["192.0.2.14", "2001:db8::14"])
def test_an_address_that_comes_after_the_node(
    address: str, network: Network, tmp_path: Path
) -> None:
    if ":" in address:
        network.require_ipv6()
    command = [*network.enter, *SERVE]
    bind = {"bind": ["127.0.0.1", address]}
    with started_daemon(tmp_path, command=command, network=bind) as node:
        node.await_ready()
        port = node.endpoint[1]
        assert network.inside(lambda: answers(("127.0.0.1", port)))
        assert f"{address}: no interface has that address" in node.stderr()
        assert not network.inside(lambda: answers((address, port)))
        length = "64" if ":" in address else "24"
        network.ip("address", "add", f"{address}/{length}", "dev", "one")
        eventually(lambda: network.inside(lambda: answers((address, port))))
        assert node.terminate() == 0


def test_an_address_during_duplicate_address_detection(network: Network, tmp_path: Path) -> None:
    network.require_ipv6()
    address = "2001:db8::15"
    network.ip("address", "add", f"{address}/64", "dev", "one")
    tentative = "tentative" in network.ip("address", "show", "dev", "one")
    command, bind = [*network.enter, *SERVE], {"bind": [address]}
    with started_daemon(tmp_path, command=command, network=bind) as node:
        node.await_ready()
        port = node.endpoint[1]
        eventually(lambda: network.inside(lambda: answers((address, port))))
        assert tentative, "the case was not met"


def test_an_interface_that_comes_late(network: Network, tmp_path: Path) -> None:
    network.require_ipv6()
    command, bind = [*network.enter, *SERVE], {"bind": ["fe80::14%late"]}
    with started_daemon(tmp_path, command=command, network=bind) as node:
        eventually(lambda: "no interface of that name; waiting up to" in node.stderr())
        network.ip("link", "add", "name", "late", "type", "veth", "peer", "name", "far")
        node.await_ready()
        assert node.terminate() == 0


# --- Ports ------------------------------------------------------------------------------------


@contextlib.contextmanager
def outgoing(
    kind: socket.SocketKind, *, closing: bool = False, host: str = "127.0.0.1"
) -> Iterator[tuple[int, Callable[[], None]]]:
    """A client's socket: its port, and how it gives that back. closing: it waits in TIME-WAIT."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as server, contextlib.ExitStack() as stack:
        server.bind((host, 0))
        if kind is socket.SOCK_STREAM:
            server.listen()
        asking = stack.enter_context(socket.socket(family, kind))
        asking.bind((host, free_port()))
        asking.connect(server.getsockname())
        port = asking.getsockname()[1]
        give_back = asking.close
        if kind is socket.SOCK_STREAM:
            accepted, _ = server.accept()
            stack.enter_context(accepted)

            def give_back() -> None:
                reset(asking)

        if closing:
            asking.close()
            accepted.close()
        yield port, give_back


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_of_an_outgoing_connection_is_waited_for(
    kind: socket.SocketKind, tmp_path: Path
) -> None:
    with (
        outgoing(kind) as (port, give_back),
        started_daemon(tmp_path, server={"port": port}) as node,
    ):
        eventually(lambda: "by an outgoing connection" in node.stderr())
        line = next(line for line in node.stderr().splitlines() if "waiting up to 60 s" in line)
        assert "ip_local_reserved_ports" in line
        said = await_told(node.notify, "EXTEND_TIMEOUT_USEC=", "STATUS=waiting: cannot bind")
        assert "READY=1" not in said
        node.notify.setblocking(True)
        give_back()
        node.await_ready()
        assert answers(("127.0.0.1", port))
        assert node.terminate() == 0
        assert node.stderr().count("waiting up to") == 1


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "::"), ("::1", "0.0.0.0")])
def test_a_node_does_not_take_its_own_sockets_for_another_s(
    kind: socket.SocketKind, host: str, other: str, tmp_path: Path
) -> None:
    """It has bound one family already, and the port of the other is in use for a moment."""
    require_ipv6()
    bind = [other, "::" if ":" in host else "0.0.0.0"]
    with (
        outgoing(kind, host=host) as (port, give_back),
        started_daemon(tmp_path, network={"bind": bind}, server={"port": port}) as node,
    ):
        eventually(lambda: "by an outgoing connection" in node.stderr())
        give_back()
        node.await_ready()
        assert node.terminate() == 0


def test_a_client_s_socket_without_a_peer_is_waited_for(tmp_path: Path) -> None:
    """A resolver's socket, for example: it has no address, and no server has the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"", ("127.0.0.1", 9))
        port = asking.getsockname()[1]
        with started_daemon(tmp_path, server={"port": port}) as node:
            eventually(lambda: "by an outgoing connection" in node.stderr())
            asking.close()
            node.await_ready()
            assert node.terminate() == 0


def test_a_port_in_time_wait_ends_with_1(tmp_path: Path) -> None:
    with (
        outgoing(socket.SOCK_STREAM, closing=True) as (port, _),
        started_daemon(tmp_path, command=IMPATIENT, server={"port": port}) as node,
    ):
        assert node.process.wait(STOP_TIMEOUT_S) == 1
        last = node.stderr().splitlines()[-1]
        assert last.startswith(f"raida-uring: cannot bind TCP 127.0.0.1:{port}: already in use by")


@pytest.mark.parametrize("number", [15, 2])
def test_a_stop_is_obeyed_while_the_start_waits(number: int, tmp_path: Path) -> None:
    with (
        outgoing(socket.SOCK_STREAM, closing=True) as (port, _),
        started_daemon(tmp_path, server={"port": port}) as node,
    ):
        eventually(lambda: "waiting up to" in node.stderr())
        node.process.send_signal(number)
        assert node.process.wait(WAIT_TIMEOUT_S) == 0
        assert "Traceback" not in node.stderr()


@pytest.mark.parametrize("number", [15, 2])
def test_a_stop_is_obeyed_while_a_module_of_handlers_hangs(number: int, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        "import pathlib, time\npathlib.Path('hangs').touch()\n"
        "while True:\n    try:\n        time.sleep(60)\n    except Exception:\n        pass\n"
    )
    with started_daemon(tmp_path, handlers={"modules": ["hanging"]}) as node:
        eventually((tmp_path / "hangs").exists)
        node.process.send_signal(number)
        assert node.process.wait(WAIT_TIMEOUT_S) == 0
        assert "told to stop before the node served" in node.stderr()
        assert "Traceback" not in node.stderr()


# --- The store --------------------------------------------------------------------------------


def tables(path: Path) -> Any:
    return {"store": table_of(path)}


def test_a_store_that_is_still_in_use_is_waited_for(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    try:
        with started_daemon(tmp_path, **tables(path)) as node:
            eventually(lambda: f"in use by process {os.getpid()}; waiting" in node.stderr())
            store.close()
            node.await_ready()
            assert node.terminate() == 0
    finally:
        store.close()


def test_a_store_that_stays_in_use_ends_with_1(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with (
        contextlib.closing(Store(path, map_bytes=MAP_BYTES)),
        started_daemon(tmp_path, command=IMPATIENT, **tables(path)) as node,
    ):
        assert node.process.wait(STOP_TIMEOUT_S) == 1
        assert node.stderr().splitlines()[-1].endswith(f"in use by process {os.getpid()}")


# --- HTTP and the admin socket ------------------------------------------------------------------


def test_http_does_not_keep_the_node_from_serving(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        http = {"enabled": True, "port": port, "listen": ["127.0.0.1", "127.0.0.2"]}
        with started_daemon(tmp_path, http=http, admin={"socket": str(path)}) as node:
            node.await_ready()
            assert answers(node.endpoint)
            line = f"[http] listen = 127.0.0.1, port = {port}: cannot listen there: Address already"
            assert line in node.stderr()
            assert line in result_of(path, "status")["http"]["fault"]
            taken.close()
            eventually(lambda: result_of(path, "status")["http"]["url"] is not None)
            assert result_of(path, "status")["http"]["fault"] is None
            assert ask_http(f"http://127.0.0.1:{port}", "/healthz").status == 200
            assert node.terminate() == 0
            assert node.stderr().count("no HTTP") == 1
            urls = ", ".join(f"http://127.0.0.{host}:{port}/" for host in (1, 2))
            assert f"status page, metrics and health on {urls}\n" in node.stderr()


def test_the_admin_socket_does_not_keep_the_node_from_serving(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("kept")
    with started_daemon(tmp_path, admin={"socket": str(path)}) as node:
        node.await_ready()
        assert answers(node.endpoint)
        eventually(lambda: "no admin socket" in node.stderr())
        assert path.read_text() == "kept"
        path.unlink()
        eventually(path.exists)
        assert result_of(path, "status")["process"] == node.process.pid
        assert node.terminate() == 0
        assert node.stderr().count("no admin socket") == 1


# --- Want of something, for a moment ------------------------------------------------------------


def test_a_thread_that_cannot_start_is_left_to_the_next_start() -> None:
    """The same error as at a limit on processes, which does not apply to root."""
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(StartError, match="can't start new thread") as refused, running_node():
            pass
    finally:
        threading.stack_size(before)
    assert refused.value.passes


def test_a_name_is_asked_for_though_no_thread_looks_it_up() -> None:
    """The handler of the request has an answer without the name."""
    addresses = Addresses(["localhost:50000"])
    before = threading.stack_size(1 << 47)
    try:
        assert not addresses.has("192.0.2.1")
    finally:
        threading.stack_size(before)
    eventually(lambda: addresses.has("127.0.0.1"))  # the next request looks it up


def test_an_address_stays_known_while_no_resolver_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another RAIDA would be limited for the wrong tickets that anybody makes it show."""
    monkeypatch.setattr(peers, "LOOK_UP_INTERVAL_S", 0.0)
    addresses = Addresses(["localhost:50000"])
    eventually(lambda: addresses.has("127.0.0.1"))
    asked = threading.Event()

    def fail(*_: object, **__: object) -> object:
        asked.set()
        raise socket.gaierror(socket.EAI_AGAIN, "no resolver")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert not addresses.has("192.0.2.1")  # which asks again
    assert asked.wait(10 * PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "raida-names":
            thread.join()
    assert addresses.has("127.0.0.1")


@LIMITS_MEMORY
def test_an_address_space_that_is_too_small_needs_a_person(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    command = ["prlimit", f"--as={1 << 30}", *SERVE]
    store = table_of(path, 4096)
    with started_daemon(tmp_path, command=command, store=store) as node:
        assert node.process.wait(STOP_TIMEOUT_S) == 2
        assert "raise LimitAS= (ulimit -v)" in node.stderr().splitlines()[-1]


@LIMITS_MEMORY
def test_a_limit_on_data_is_named_where_it_keeps_threads_away(tmp_path: Path) -> None:
    command = ["prlimit", f"--data={100 << 20}", *SERVE]
    with started_daemon(tmp_path, command=command) as node:
        assert node.process.wait(STOP_TIMEOUT_S) == 1
        assert "raise LimitDATA= (ulimit -d)" in node.stderr().splitlines()[-1]


# --- What a person must change ------------------------------------------------------------------


def test_what_does_not_pass_ends_with_2_at_once(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(config_text({"store": {"path": str(tmp_path / "none")}}))
    ended = run("serve", "--config", tmp_path / "node.toml")
    assert (ended.returncode, "not a store" in ended.stderr) == (2, True)


@HIDES_PROC
@pytest.mark.parametrize("command", ["serve", "probe"])
def test_a_root_without_proc_is_named(command: str) -> None:
    script = 'mount -t tmpfs none /proc && echo made && exec "$@"'
    ended = execute("unshare", "--mount", "sh", "-c", script, "sh", *PROGRAM, command)
    if "made" not in ended.stdout:
        pytest.skip("no mount namespace: unshare(CLONE_NEWNS) or mount() is not permitted")
    assert ended.returncode == 2
    words = "raida-uring: /proc does not show this process: mount it, a node needs it"
    assert ended.stderr.splitlines()[-1] == words
    assert "Traceback" not in ended.stderr
