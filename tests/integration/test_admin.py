"""The admin socket and the commands that use it, with the real daemon.

What must hold: only root and the node's own user are answered, nothing that a client sends or does
not take disturbs the node, a reload changes everything it may or nothing at all.
"""

import fcntl
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from raida_uring import config
from raida_uring.admin import server
from raida_uring.admin.client import (
    NodeError,
    NotRunningError,
    Wanted,
    ask,
    default_path,
    find,
    result_of,
)
from raida_uring.admin.server import Admin
from raida_uring.cli import top
from raida_uring.descriptors import Reserve
from raida_uring.errors import RaidaError, StartError, StoreError
from raida_uring.observe.status import for_operators
from tests.support.confine import default_directory
from tests.support.handlers import SLOW_UNTIL, UNTIL
from tests.support.net import (
    PATIENCE,
    read_exactly,
    tcp_ask,
    tcp_connect,
    turned_away,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import (
    HANDLERS,
    Daemon,
    Table,
    config_text,
    daemon,
    environment,
    eventually,
    running_node,
)
from tests.support.store import MAP_BYTES, make_store
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, status

pytestmark = pytest.mark.any_backend

COMMAND_TIMEOUT_S = 30.0 * PATIENCE


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: a socket's path ends at 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="raida-"))
    yield directory
    shutil.rmtree(directory)


@contextmanager
def node(place: Path, **tables: Table) -> Iterator[tuple[Daemon, Path]]:
    """A daemon and its admin socket."""
    path = place / "own" / "admin.sock"
    given: dict[str, Any] = {**tables, "admin": {"socket": str(path)}}
    with daemon(place, **given) as running:
        yield running, path


def run(*arguments: str, status: int = 0) -> str:
    """What `raida-uring` prints on standard output."""
    ended = subprocess.run(
        [sys.executable, "-m", "raida_uring", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == status, (ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended.stdout if status == 0 else ended.stderr


def change(place: Path, old: str, new: str) -> None:
    """Edit the daemon's configuration file."""
    path = place / "node.toml"
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


# --- Who may ask --------------------------------------------------------------------------------


def test_socket_is_for_its_owner_alone(place: Path) -> None:
    with node(place) as (_, path):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert found.st_uid == os.geteuid()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_other_users_are_refused_even_where_the_path_lets_them(place: Path) -> None:
    asking = (
        "import os, sys; from pathlib import Path\n"
        "from raida_uring.admin import client\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: print(client.result_of(Path(sys.argv[1]), 'status')['process'])\n"
        "except Exception as error: print(error)\n"
    )

    def ask_as_nobody() -> str:
        command = [sys.executable, "-c", asking, str(path)]
        return subprocess.run(
            command,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30 * PATIENCE,
            check=True,
        ).stdout

    with node(place) as (running, path):
        assert "Permission denied" in ask_as_nobody()
        for opened in (place, path.parent):
            opened.chmod(0o711)
        path.chmod(0o666)
        assert "only root and the node's own user" in ask_as_nobody()
        eventually(lambda: "of user 65534 refused" in running.stderr())
        assert result_of(path, "status")["process"] == running.process.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two other users")
def test_what_another_user_listens_with_is_no_node(place: Path) -> None:
    """As in /tmp, where anybody can be first: nothing it says is believed or shown."""
    path = place / "forged.sock"
    place.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as forged:
        forged.bind(str(path))
        path.chmod(0o666)
        os.seteuid(65533)  # whose socket it is, is settled when it starts to listen
        try:
            forged.listen()
        finally:
            os.seteuid(0)
        code = (
            "import os, sys; from pathlib import Path\n"
            "from raida_uring.admin import client\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: print(client.result_of(Path(sys.argv[1]), 'status'))\n"
            "except Exception as error: print(error)"
        )
        forged.settimeout(COMMAND_TIMEOUT_S)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as asking:
            client, _ = forged.accept()
            with client, suppress(ConnectionError):
                client.sendall(b'{"result": {"phase": "drained"}}\n')
            told = asking.communicate(timeout=COMMAND_TIMEOUT_S)[0]
    assert told == f"{path}: user 65533 listens there, not a node of yours\n"


def assert_serves_without(directory: Path, why: str, path: Path) -> None:
    """A node that is to have its admin socket at `path` warns why it has none, and serves."""
    with daemon(directory, admin={"socket": str(path)}) as running:
        assert status(udp_ask(running.endpoint, request(VERSION_COMMAND))) == 250
        eventually(lambda: "no admin socket" in running.stderr())
        told = next(line for line in running.stderr().splitlines() if "no admin socket" in line)
        assert why in told


def test_stale_socket_is_replaced_and_a_live_one_is_not(place: Path) -> None:
    path = place / "own" / "admin.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with node(place) as (running, _):
        assert result_of(path, "status")["process"] == running.process.pid
        other = place / "other"
        other.mkdir()
        assert_serves_without(other, "another node listens there", path)
        assert result_of(path, "status")["process"] == running.process.pid


def test_a_node_that_does_not_accept_is_one_that_listens(place: Path) -> None:
    """Stopped, or busy: whoever looks whether it is there must not wait for it."""
    path = place / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        assert_serves_without(place, "another node listens there", path)


def test_what_is_no_socket_stays(place: Path) -> None:
    path = place / "file"
    path.write_text("kept")
    assert_serves_without(place, "not a socket", path)
    assert path.read_text() == "kept"


def test_directory_that_others_may_write_to_is_refused(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert_serves_without(place, "others may write to", shared / "admin.sock")


def test_default_path_follows_from_the_port(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(place / "run"))
    with daemon(place) as running:
        path = default_path(running.endpoint[1])
        assert path == place / "run" / "admin.sock"
        assert result_of(path, "status")["process"] == running.process.pid


# --- What is asked ------------------------------------------------------------------------------


def test_status_tells_what_the_node_is_and_did(place: Path) -> None:
    with node(place) as (running, path):
        for _ in range(3):
            assert status(udp_ask(running.endpoint, request(VERSION_COMMAND))) == 250
        assert status(tcp_ask(running.endpoint, request(VERSION_COMMAND))) == 250
        with udp_client(running.endpoint) as client:
            client.sendto(b"junk", running.endpoint)
        eventually(lambda: result_of(path, "status")["drops"]["udp_dropped_short"] == 1)
        now = result_of(path, "status")
    assert now["phase"] == "serving"
    assert now["endpoints"] == [list(running.endpoint)]
    assert now["counters"]["udp_received"] == 4
    assert now["latency_us"]["udp"]["count"] == 3
    (version,) = now["commands"]
    assert version["command"] == "0/1"
    assert version["name"] == "version"
    assert version["statuses"] == {"250": 4}
    assert 0 < version["spent_s"] < now["uptime_s"]
    assert now["latency_us"]["tcp"]["count"] == 1
    assert now["latency_us"]["udp"]["p50"] <= now["latency_us"]["udp"]["p99"]
    assert now["in_flight"] == {"udp": 0, "tcp": 0}
    assert now["lanes"]["ordinary"]["workers"] > 0
    assert now["resources"]["threads"] > now["lanes"]["ordinary"]["workers"]
    assert now["store"] is None


def test_an_idle_node_uses_no_blocks_but_those_of_its_workers(place: Path) -> None:
    with node(place) as (running, path):
        udp_ask(running.endpoint, request(VERSION_COMMAND))

        def is_idle() -> bool:
            told = result_of(path, "status")
            return all(told["memory"][name][0] == lent > 0 for name, lent in told["lent"].items())

        eventually(is_idle, what=lambda: result_of(path, "status"))
        assert "2K 0/4096  64K 0/256" in run("status", "--socket", str(path))


def test_status_is_told_when_the_store_cannot_be_read(place: Path) -> None:
    """Here its table of readers is full, as too many processes that look at it would fill it."""
    settings = {"path": str(make_store(place / "store")), "size_mib": MAP_BYTES >> 20}
    with running_node(store=settings) as node, ExitStack() as stack:
        store = node.server._store
        assert store is not None

        def look() -> None:
            while True:
                stack.enter_context(store.read())

        with pytest.raises(StoreError, match="MDB_READERS_FULL"):
            look()
        told = for_operators(node.server.observe())
        assert (told["store"], told["phase"]) == (None, "serving")


def test_queues_and_busy_workers_are_seen(place: Path) -> None:
    go = place / "go"
    limits = {"slow_count": 1, "count": 1}
    with node(place, handlers=HANDLERS, workers=limits) as (running, path), ExitStack() as stack:
        clients = [stack.enter_context(udp_client(running.endpoint)) for _ in range(3)]
        for client in clients:
            client.sendto(request(UNTIL, bytes(go)), running.endpoint)
        # One worker holds one request; those that came after it wait.
        eventually(lambda: sum(_occupied(path)) == 3 and _occupied(path)[0] == 1)
        go.touch()
        for client in clients:
            assert status(client.recv(2048)) == 250
        eventually(lambda: _occupied(path) == (0, 0))


def _occupied(path: Path) -> tuple[int, int]:
    """Busy workers, and requests in flight that none of them was given yet (batches of one)."""
    now = result_of(path, "status")
    lane = now["lanes"]["ordinary"]
    return lane["busy"], now["in_flight"]["udp"] - lane["busy"]


def test_connections_are_listed_with_address_state_and_age(place: Path) -> None:
    with node(place, tcp={"persistent": True}) as (running, path), ExitStack() as stack:
        clients = [stack.enter_context(tcp_connect(running.endpoint)) for _ in range(300)]
        names = {client.getsockname() for client in clients}
        clients[0].sendall(request(ECHO_COMMAND))
        read_exactly(clients[0], 32)
        eventually(lambda: result_of(path, "connections")["open"] == 300)
        found = result_of(path, "connections")["connections"]
        assert {(one["address"], one["port"]) for one in found} == names
        asked = [one for one in found if one["port"] == clients[0].getsockname()[1]]
        assert [one["requests"] for one in asked] == [1]
        assert all(one["state"] == "header" and 0 <= one["age_s"] < 60 for one in found)
        assert len(result_of(path, "connections", limit=7)["connections"]) == 7


def test_busiest_peers_come_first(place: Path) -> None:
    with node(place) as (running, path):
        for host, count in (("127.0.0.2", 3), ("127.0.0.3", 12), ("127.0.0.4", 1)):
            with udp_client(running.endpoint) as client:
                client.bind((host, 0))
                for _ in range(count):
                    assert (
                        status(udp_exchange(client, running.endpoint, request(VERSION_COMMAND)))
                        == 250
                    )
        expected = [
            {"address": "127.0.0.3", "requests": 12},
            {"address": "127.0.0.2", "requests": 3},
            {"address": "127.0.0.4", "requests": 1},
        ]
        eventually(lambda: result_of(path, "peers")["peers"] == expected)


def test_log_level_is_set_until_a_reload(place: Path) -> None:
    with node(place) as (running, path):
        assert result_of(path, "log-level") == {"level": "info"}
        assert result_of(path, "log-level", level="error") == {"level": "error"}
        udp_ask(running.endpoint, request(VERSION_COMMAND))
        eventually(lambda: bool(result_of(path, "peers")["peers"]))  # it has been looked at
        assert result_of(path, "reload")["applied"] == ['[log] level "error" -> "info"']
        assert result_of(path, "log-level") == {"level": "info"}
    assert "request 0/1" not in running.stderr()


BAD_REQUESTS = (
    (b"status\n", "one JSON object per line"),
    (b"[]\n", "one JSON object per line"),
    (b"[" * 4000 + b"\n", "one JSON object per line"),
    (b'{"command": "reboot"}\n', "commands are status, connections, peers"),
    (b'{"command": "peers", "count": 0}\n', "count is an integer from 1 to 256"),
    (b'{"command": "connections", "limit": true}\n', "limit is an integer"),
    (b'{"command": "log-level", "level": 7}\n', "level is one of debug, info"),
    (b'{"command": "drain", "timeout_s": -1}\n', "timeout_s is a number"),
    (b"x" * 9000, "at most 4096 bytes"),
)


def test_bad_requests_get_a_reason(place: Path) -> None:
    with node(place) as (_, path):
        for line, answer in BAD_REQUESTS:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.settimeout(10 * PATIENCE)
                client.sendall(line)
                assert answer in json.loads(client.makefile().readline())["error"]
                assert result_of(path, "status")["phase"] == "serving"


def test_requests_in_pieces_and_in_one_go(place: Path) -> None:
    with node(place) as (_, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(10 * PATIENCE)
        asked = b'{"command": "log-level"}\n'
        client.sendall(asked[:5])
        client.sendall(asked[5:] + asked + asked)
        stream = client.makefile()
        for _ in range(3):
            assert json.loads(stream.readline()) == {"result": {"level": "info"}}


def test_requests_whose_answers_wait_for_room_are_all_answered(place: Path) -> None:
    """The answers of a few together are longer than what the socket holds."""
    with node(place) as (_, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(10 * PATIENCE)
        client.sendall(150 * b'{"command":"status"}\n')
        assert select.select([client], [], [], 10 * PATIENCE)[0]
        result_of(path, "log-level")  # its turn comes when there is no more room for the others
        stream = client.makefile()
        for _ in range(150):
            assert "result" in json.loads(stream.readline())


def take_free_descriptors(process: psutil.Process) -> tuple[int, int]:
    """By a limit at the first that is free now; the limits before."""
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")}
    process.rlimit(psutil.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), before[1]))
    return before


def test_status_is_told_without_a_descriptor_to_look_with(place: Path) -> None:
    """Just then it is asked for."""
    with node(place) as (running, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(10 * PATIENCE)
        answers = client.makefile()
        client.sendall(b'{"command": "log-level"}\n')
        assert "level" in answers.readline()
        process = psutil.Process(running.process.pid)
        limits = take_free_descriptors(process)
        for _ in range(10):  # what the node had open for a moment at its start may be free again
            client.sendall(b'{"command": "status"}\n')
            told = json.loads(answers.readline())["result"]
            if told["resources"]["memory_bytes"] is None:
                break
            take_free_descriptors(process)
        assert told["resources"]["memory_bytes"] is None
        assert told["resources"]["cpu_s"] > 0
        shown = "\n".join(top.render(told, told, 200, 100))
        assert " memory, descriptors, threads not known, pid " in shown
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
        client.sendall(b'{"command": "status"}\n')
        assert json.loads(answers.readline())["result"]["resources"]["descriptors"] > 0


def test_a_node_without_descriptors_answers_one_after_the_other(place: Path) -> None:
    """By the one that it has in reserve. Who comes meanwhile waits in the backlog, and the node
    does not turn in circles."""
    with node(place) as (running, path), ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(6)]
        process = psutil.Process(running.process.pid)
        take_free_descriptors(process)
        for client in clients:
            client.settimeout(10 * PATIENCE)
            client.connect(str(path))
            client.sendall(b'{"command": "log-level"}\n')
        before_s = sum(process.cpu_times()[:2])
        time.sleep(1.0)  # in which it may use a processor
        assert sum(process.cpu_times()[:2]) - before_s < 0.05 * PATIENCE
        for client in clients:
            assert "level" in client.makefile().readline()
            client.shutdown(socket.SHUT_RDWR)


def test_who_asks_nothing_gives_up_the_descriptor_in_reserve(place: Path) -> None:
    with node(place) as (running, path), ExitStack() as stack:
        # Several: what the node had open for a moment at its start may be free again.
        *idle, asking = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]
        take_free_descriptors(psutil.Process(running.process.pid))
        for client in (*idle, asking):
            client.connect(str(path))
        asking.settimeout(COMMAND_TIMEOUT_S)
        asking.sendall(b'{"command": "log-level"}\n')
        assert b"level" in asking.recv(1000)
        told, _, _ = select.select(idle, [], [], 0)
        assert b"too long" in told[0].recv(1000)


def test_clients_are_bounded_and_idle_ones_harm_nobody(place: Path) -> None:
    with node(place) as (_, path), ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(17)]
        for client in clients:
            client.connect(str(path))
        assert len(clients) == server.CLIENTS_MAX + 1
        refused = clients[-1]
        refused.settimeout(10 * PATIENCE)
        assert "too many" in refused.makefile().readline()
        clients[0].close()
        eventually(lambda: _can_ask(path))


def test_idle_clients_lock_nobody_out(place: Path) -> None:
    """Whoever has been silent longest makes way for who comes."""
    with node(place) as (_, path), ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(17)]
        for client in clients:
            client.settimeout(10 * PATIENCE)
            client.connect(str(path))
        eventually(lambda: _can_ask(path))
        silent = clients[0].makefile()
        assert "nothing was asked" in silent.readline()
        assert silent.readline() == ""
        clients[15].sendall(b'{"command": "log-level"}\n')
        assert "level" in clients[15].makefile().readline()


def test_who_asks_nothing_is_let_go_in_the_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.5)
    path = place / "own" / "admin.sock"
    thread = Admin(cast(Any, SimpleNamespace(server=None)), path)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10 * PATIENCE)
            client.connect(str(path))
            told = client.makefile()
            client.sendall(b'{"command": "log-level"}\n')
            assert "level" in told.readline()
            assert "nothing was asked" in told.readline()
            assert told.readline() == ""
    finally:
        thread.close()


def _can_ask(path: Path) -> bool:
    try:
        return bool(result_of(path, "status"))
    except RaidaError:  # the node's, or its backlog is full for a moment
        return False


def test_client_that_does_not_read_holds_nobody_up(place: Path) -> None:
    with node(place) as (_, path), socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        deaf.setblocking(False)
        try:
            while True:
                deaf.send(b'{"command": "status"}\n')
        except BlockingIOError:
            pass  # its requests are not taken any more
        assert result_of(path, "status")["phase"] == "serving"


# --- Drain and stop -------------------------------------------------------------------------------


def test_drain_waits_for_a_handler_and_tells_progress(place: Path) -> None:
    go = place / "go"
    with node(place, handlers=HANDLERS) as (running, path):
        with udp_client(running.endpoint) as client, tcp_connect(running.endpoint) as stream:
            client.sendto(request(UNTIL, bytes(go)), running.endpoint)
            stream.sendall(request(UNTIL, bytes(go)))
            eventually(lambda: result_of(path, "status")["in_flight"] == {"udp": 1, "tcp": 1})
            answers = ask(path, "drain", timeout_s=20 * PATIENCE)
            first = next(answers)
            assert (first["phase"], first["in_flight"]) == ("draining", 2)
            assert result_of(path, "status")["phase"] == "draining"
            go.touch()
            assert status(client.recv(2048)) == 250
            assert status(read_exactly(stream, 32)) == 250
            last = list(answers)[-1]
        assert (last["phase"], last["in_flight"], last["dropped"]) == ("stopped", 0, 0)
        assert last["counters"]["udp_answered"] == 1
        assert running.process.wait(10) == 0


def test_drain_gives_up_at_its_deadline(place: Path) -> None:
    with node(place, handlers=HANDLERS) as (running, path):
        with udp_client(running.endpoint) as client:
            client.sendto(request(UNTIL, bytes(place / "never")), running.endpoint)
            eventually(lambda: result_of(path, "status")["in_flight"]["udp"] == 1)
            shown = run("drain", "--timeout", "0.3", "--socket", str(path), status=1)
        assert running.process.wait(20 * PATIENCE) == 0
        assert shown == ""
    assert running.final_counters()["udp_dropped_drain"] == 1


def test_a_stop_does_not_wait_for_a_longer_drain(place: Path) -> None:
    """The first signal during it has the time-out of any other stop."""
    network = {"drain_timeout_ms": 300}
    with (
        node(place, handlers=HANDLERS, network=network) as (running, path),
        udp_client(running.endpoint) as client,
    ):
        client.sendto(request(UNTIL, bytes(place / "never")), running.endpoint)
        eventually(lambda: result_of(path, "status")["in_flight"]["udp"] == 1)
        assert next(ask(path, "drain", timeout_s=3600))["phase"] == "draining"
        assert running.terminate() == 0
        assert "told to stop: leaving already" in running.stderr()
        assert "at once" not in running.stderr()


def test_stop_is_a_drain_that_nobody_waits_for(place: Path) -> None:
    with node(place) as (running, path):
        assert result_of(path, "stop")["phase"] == "draining"
        assert running.process.wait(20 * PATIENCE) == 0
    with pytest.raises(NotRunningError):
        result_of(path, "status")


# --- Reload ---------------------------------------------------------------------------------------


def test_reload_applies_what_is_live_and_names_the_rest(place: Path) -> None:
    with node(place, limits={"udp_reply_factor_max": 16, "slow_queue_max": 64}) as (running, path):
        change(place, "slow_queue_max = 64", "slow_queue_max = 3\nsmall_blocks = 100")
        assert result_of(path, "reload") == {
            "applied": ["[limits] slow_queue_max 64 -> 3"],
            "restart": ["[limits] small_blocks 4096 -> 100"],
        }
        assert result_of(path, "reload") == {
            "applied": [],
            "restart": ["[limits] small_blocks 4096 -> 100"],
        }
    assert "need a restart: [limits] small_blocks 4096 -> 100" in running.stderr()


def test_sighup_reloads(place: Path) -> None:
    with node(place, log={"level": "info"}) as (running, path):
        change(place, 'level = "info"', 'level = "debug"')
        running.signal(signal.SIGHUP)
        eventually(lambda: result_of(path, "log-level")["level"] == "debug")
    assert 'reloaded: [log] level "info" -> "debug"' in running.stderr()


def test_wrong_file_changes_nothing(place: Path) -> None:
    with node(place, log={"level": "info"}) as (running, path):
        change(place, 'level = "info"', 'level = "debug"')
        file = place / "node.toml"
        good = file.read_text()
        for table, fault in (
            ("[limits]\nslow_queue_max = 0\n", r"\[limits\] slow_queue_max = 0: must be"),
            ("[limits]\nslow_queue = 5\n", r"\[limits\] slow_queue: unknown key"),
            ("[limits\n", r"line \d+"),
            ("[limits]\nslow_queue_max = " + "[" * 20_000, "a value in it is too long"),
        ):
            file.write_text(good.replace("[limits]\n", table))
            with pytest.raises(NodeError, match=fault):
                result_of(path, "reload")
        running.signal(signal.SIGHUP)
        eventually(lambda: running.stderr().count("not reloaded, nothing changed") == 5)
        assert result_of(path, "log-level")["level"] == "info"
        file.unlink()
        with pytest.raises(NodeError, match="cannot be read"):
            result_of(path, "reload")
        assert status(udp_ask(running.endpoint, request(VERSION_COMMAND))) == 250


def test_command_line_goes_before_the_file_in_a_reload_too(place: Path) -> None:
    path = place / "admin.sock"
    with daemon(place, args=("--host", "127.0.0.2"), admin={"socket": str(path)}):
        assert result_of(path, "reload") == {"applied": [], "restart": []}


def test_limit_of_slow_requests_changes_at_once(place: Path) -> None:
    go = place / "go"
    tables: dict[str, Table] = {"workers": {"slow_count": 1}, "limits": {"slow_queue_max": 1}}
    with node(place, handlers=HANDLERS, **tables) as (running, path), ExitStack() as stack:

        def ask_slowly() -> socket.socket:
            client = stack.enter_context(udp_client(running.endpoint))
            client.sendto(request(SLOW_UNTIL, bytes(go)), running.endpoint)
            return client

        waiting = [ask_slowly()]
        eventually(lambda: result_of(path, "status")["lanes"]["slow"]["busy"] == 1)
        waiting.append(ask_slowly())
        eventually(lambda: result_of(path, "status")["lanes"]["slow"]["queued"] == 1)
        assert status(ask_slowly().recv(2048)) == 160
        change(place, "slow_queue_max = 1", "slow_queue_max = 3")
        assert result_of(path, "reload")["applied"] == ["[limits] slow_queue_max 1 -> 3"]
        waiting += [ask_slowly(), ask_slowly()]
        eventually(lambda: result_of(path, "status")["lanes"]["slow"]["queued"] == 3)
        assert status(ask_slowly().recv(2048)) == 160
        go.touch()
        assert [status(client.recv(2048)) for client in waiting] == [250] * 4


def test_reply_factor_changes_at_once(place: Path) -> None:
    asked = request(VERSION_COMMAND)
    with node(place, limits={"udp_reply_factor_max": 1}) as (running, path):
        assert len(udp_ask(running.endpoint, asked)) == 42  # under one times 50 bytes
        bare = request(VERSION_COMMAND, body=False)
        assert status(udp_ask(running.endpoint, bare)) == 89  # 42 bytes for 32
        change(place, "udp_reply_factor_max = 1", "udp_reply_factor_max = 2")
        result_of(path, "reload")
        assert status(udp_ask(running.endpoint, bare)) == 250


def test_connections_max_changes_within_what_was_reserved(place: Path) -> None:
    with node(place, limits={"connections_max": 4}) as (running, path), ExitStack() as stack:
        held = [stack.enter_context(tcp_connect(running.endpoint)) for _ in range(3)]
        eventually(lambda: result_of(path, "status")["connections"]["open"] == 3)
        change(place, "connections_max = 4", "connections_max = 2")
        assert result_of(path, "reload")["applied"] == ["[limits] connections_max 4 -> 2"]
        assert turned_away(running.endpoint)
        assert result_of(path, "status")["connections"] == {"open": 3, "max": 2}
        change(place, "connections_max = 2", "connections_max = 5")
        assert result_of(path, "reload")["restart"] == ["[limits] connections_max 2 -> 5"]
        change(place, "connections_max = 5", "connections_max = 4")
        result_of(path, "reload")
        held.append(stack.enter_context(tcp_connect(running.endpoint)))
        held[-1].sendall(request(VERSION_COMMAND))
        assert status(read_exactly(held[-1], 42)) == 250


def _closed(client: socket.socket) -> bool:
    client.settimeout(10 * PATIENCE)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_shorter_deadline_holds_for_connections_that_already_wait(place: Path) -> None:
    timeouts = {"header_timeout_ms": 3_600_000, "progress_timeout_ms": 3_600_000}
    with node(place, tcp=timeouts) as (running, path), tcp_connect(running.endpoint) as client:
        eventually(lambda: result_of(path, "status")["connections"]["open"] == 1)
        change(place, "header_timeout_ms = 3600000", "header_timeout_ms = 10")
        result_of(path, "reload")
        assert _closed(client)
        eventually(
            lambda: result_of(path, "status")["counters"]["connections_closed_header_timeout"] == 1
        )
        eventually(lambda: "closed: header timeout, 0 requests" in running.stderr())


def test_reload_without_a_file_says_so(place: Path) -> None:
    tables = {"server": {"port": 0}}
    assert config.parse(config_text(tables), "x")  # what a node without a file does not read
    process = subprocess.Popen(
        [sys.executable, "-m", "raida_uring", "serve", "--port", "0"],
        env=environment(RUNTIME_DIRECTORY=str(place / "run")),
        stderr=subprocess.PIPE,
    )
    try:
        path = place / "run" / "admin.sock"
        eventually(path.exists, timeout_s=20 * PATIENCE)
        with pytest.raises(NodeError, match="without a configuration file"):
            result_of(path, "reload")
    finally:
        process.terminate()
        process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 0


# --- The commands ---------------------------------------------------------------------------------


def test_every_command_works_from_a_shell(place: Path) -> None:
    with node(place) as (running, path):
        where = ("--config", str(place / "node.toml"))
        assert re.fullmatch(
            r"no request reached a handler in the last .* s\n", run("peers", *where)
        )
        udp_ask(running.endpoint, request(VERSION_COMMAND))
        assert "serving" in run("status", *where)
        assert json.loads(run("status", "--json", *where))["process"] == running.process.pid
        assert "0 of 0 open connections" in run("connections", *where)
        assert json.loads(run("connections", "--json", *where))["connections"] == []
        eventually(lambda: bool(result_of(path, "peers")["peers"]))
        assert "127.0.0.1" in run("peers", *where)
        assert run("log-level", *where) == "info\n"
        assert run("log-level", "debug", *where) == "debug\n"
        assert "applied: [log] level" in run("reload", *where)
        assert "nothing has changed" in run("reload", *where)
        change(place, "[limits]", "[limites]")
        for found_by in (("--socket", str(path)), where):  # the node; the command itself
            fault = run("reload", *found_by, status=2)
            assert fault.startswith("raida-uring: not reloaded, nothing changed: ")
            assert "[limites]: unknown table" in fault
        change(place, "[limites]", "[limits]")
        fault = run("log-level", "loud", *where, status=2)
        assert fault == "raida-uring: level is one of debug, info, warning, error\n"
        assert "stopped; 0 requests given up" in run("drain", *where)
        assert running.process.wait(20 * PATIENCE) == 0


@pytest.mark.parametrize(
    "command", ["status", "top", "connections", "peers", "drain", "log-level", "reload"]
)
def test_node_that_does_not_run_is_one_line_and_status_3(place: Path, command: str) -> None:
    path = place / "admin.sock"
    options = ("--once",) if command == "top" else ()
    said = run(command, *options, "--socket", str(path), status=3)
    assert said == f"raida-uring: no node listens on {path}\n"


def test_top_once_as_json_has_rates_of_the_interval(place: Path) -> None:
    with node(place) as (running, path):
        for _ in range(5):
            udp_ask(running.endpoint, request(VERSION_COMMAND))
        looked = json.loads(
            run("top", "--once", "--json", "--interval", "0.3", "--socket", str(path))
        )
    assert 0.3 <= looked["interval_s"] < 20
    assert looked["rates"]["udp_received"] == 0  # they came before
    assert looked["latency_us"]["udp"]["count"] == 0
    assert looked["latency_us"]["udp"]["p99"] is None
    assert looked["lanes"]["ordinary"]["queued"] == 0
    assert looked["process"] == running.process.pid


@contextmanager
def terminal(
    rows: int, columns: int, *arguments: str, term: str = "xterm"
) -> Iterator[tuple[int, int]]:
    """`raida-uring` on a terminal of its own: its process, and our end of the terminal."""
    process, ours = pty.fork()
    if process == 0:
        command = [sys.executable, "-m", "raida_uring", *arguments]
        # Not the C library's environment: readline has put its LINES and COLUMNS there.
        os.execve(sys.executable, command, environment(TERM=term))  # noqa: S606  no shell
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    try:
        yield process, ours
    finally:
        os.close(ours)


def read_screen(ours: int, wanted: bytes, timeout_s: float = 20.0) -> str:
    """What was drawn until `wanted` was."""
    drawn = bytearray()
    deadline = time.monotonic() + timeout_s
    while wanted not in drawn:
        readable, _, _ = select.select([ours], [], [], deadline - time.monotonic())
        assert readable, bytes(drawn)
        drawn += os.read(ours, 65536)
    return drawn.decode(errors="replace")


def test_top_draws_within_the_terminal_follows_its_size_and_quits(place: Path) -> None:
    with (
        node(place) as (_, path),
        terminal(24, 80, "top", "-d", "0.2", "--socket", str(path)) as (process, ours),
    ):
        drawn = read_screen(ours, b"q quits")
        for expected in ("RAIDA", "per second", "latency", "queued", "drops", "memory"):
            assert expected in drawn
        rows = [int(row) for row in re.findall(r"\x1b\[(\d+);\d+H", drawn)]
        rows += [int(row) for row in re.findall(r"\x1b\[(\d+)d", drawn)]
        assert max(rows) <= 24
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 10, 60, 0, 0))
        os.kill(process, signal.SIGWINCH)
        assert "\x1b[10" in read_screen(ours, b"q quits")  # on the last line again
        os.write(ours, b"q")
        while True:  # a terminal whose other end is closed ends with an error
            try:
                os.read(ours, 65536)
            except OSError:
                break
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("term", ["", "no-such-terminal"])
def test_top_on_a_terminal_that_nobody_knows_is_one_line(place: Path, term: str) -> None:
    with (
        node(place) as (_, path),
        terminal(24, 200, "top", "--socket", str(path), term=term) as (process, ours),
    ):
        said = read_screen(ours, b"\n").strip()
        assert said.startswith(f"raida-uring: the terminal (TERM is {term or 'not set'!r}) cannot")
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """To this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_who_left_meanwhile_does_not_cost_the_reserve() -> None:
    """The kernel wants a descriptor before it looks whether anybody is there."""
    with socket.create_server(("127.0.0.1", 0)) as listening, descriptors_left(1):
        listening.setblocking(False)
        reserve = Reserve()
        with pytest.raises(BlockingIOError):
            reserve.accept(listening)
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)  # it is another's then
        reserve.close()
        os.close(os.dup(0))


@pytest.mark.any_backend
@pytest.mark.parametrize("free", range(4))
def test_too_few_descriptors_for_the_socket_leave_nothing_behind(tmp_path: Path, free: int) -> None:
    """It takes four. The start fails then in one line, a successor serves without."""
    path = tmp_path / "admin.sock"
    with running_node() as node:
        daemon_of = cast(Any, SimpleNamespace(server=node.server))
        with descriptors_left(free), pytest.raises(StartError, match="Too many open files"):
            Admin(daemon_of, path)
        assert not path.exists()
        Admin(daemon_of, path).close()


# --- Which node is asked --------------------------------------------------------------------------


def run_in(given: dict[str, str], *arguments: str, status: int = 0) -> str:
    """As run(), in an environment that says nothing of places but what is `given`."""
    places = ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR")
    clean = {name: value for name, value in environment().items() if name not in places}
    ended = subprocess.run(
        [sys.executable, "-m", "raida_uring", *arguments],
        env={**clean, **given},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == status, (ended.returncode, ended.stdout, ended.stderr)
    return ended.stdout if status == 0 else ended.stderr


@pytest.mark.parametrize("command", ["status", "drain", "reload", "upgrade", "log-level"])
def test_a_command_never_speaks_to_another_node(place: Path, command: str) -> None:
    """Two files name one socket, as a copied one does: the node is looked at first."""
    other = place / "other.toml"
    with node(place) as (running, path):
        other.write_text(
            f'[server]\nraida_id = 7\nport = 50007\n[admin]\nsocket = "{path}"\n[network]\n'
        )
        said = run(command, "--config", str(other), status=3)
        port = running.endpoint[1]
        assert said == (
            f"raida-uring: RAIDA 14 on port {port} answers on {path}, not RAIDA 7 on port 50007 "
            f"of {other}; --socket PATH asks it all the same\n"
        )
        assert result_of(path, "status")["phase"] == "serving"


def test_a_node_keeps_its_file_when_the_port_is_another(place: Path) -> None:
    """By the command line, or because the file was edited and not read again yet."""
    with node(place) as (running, _):
        change(place, f"port = {running.endpoint[1]}", "port = 50014")
        assert "needs a restart: [server] port" in run(
            "reload", "--config", str(place / "node.toml")
        )


@pytest.mark.parametrize("started_in", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", ""])
@pytest.mark.parametrize("asked_in", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", ""])
def test_the_asker_s_environment_does_not_matter(
    place: Path, monkeypatch: pytest.MonkeyPatch, started_in: str, asked_in: str
) -> None:
    """A unit, a session, cron and su have one each."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    if started_in:
        monkeypatch.setenv(started_in, str(place))
    (place / "asker").mkdir(mode=0o700)
    with daemon(place) as running:
        given = {asked_in: str(place / "asker")} if asked_in else {}
        told = run_in(given, "status", "--json", "--config", str(place / "node.toml"))
        assert json.loads(told)["process"] == running.process.pid


# A node beforehand imports what is needed: that user may be unable to read the interpreter's files.
AS_ANOTHER_USER = """
import encodings.ascii
import sys
from raida_uring.cli import main as cli
from raida_uring.node import daemon
from tests.support.confine import become_ordinary
from tests.support.node import running_node
cli.main(["config", "show"])
with running_node():
    become_ordinary(memlock_bytes=None)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a node as somebody else")
def test_root_finds_the_node_of_another_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    place.chmod(0o755)
    as_another = (sys.executable, "-c", AS_ANOTHER_USER, "serve")
    with daemon(place, command=as_another) as running:
        told = run_in({}, "status", "--json", "--config", str(place / "node.toml"))
        assert json.loads(told)["process"] == running.process.pid
        directory = default_directory(running.process.pid)
        assert (directory / f"{running.endpoint[1]}.sock").exists()
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_root_believes_no_socket_where_others_make_names(place: Path) -> None:
    """In a directory of one user, the socket of another: whoever may write there made it."""
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with (
        socket.create_server(("127.0.0.1", 0)) as served,  # else nobody would be looked for
        socket.socket(socket.AF_UNIX) as forged,
    ):
        port = served.getsockname()[1]
        forged.bind(str(shared / f"{port}.sock"))
        forged.listen()
        forged.settimeout(0.2)
        with pytest.raises(NotRunningError, match="no node listens on"):
            find(Wanted(7, port, place / "node.toml"))
        with pytest.raises(TimeoutError):
            forged.accept()


def test_what_a_node_tells_cannot_steer_a_terminal(place: Path) -> None:
    path = place / "forged.sock"
    with socket.socket(socket.AF_UNIX) as forged:
        forged.bind(str(path))
        forged.listen()

        def answer() -> None:
            with forged.accept()[0] as client:
                client.sendall(b'{"result": {"level": "\\u001b[2Jx"}}\n')
                client.recv(1000)

        answering = threading.Thread(target=answer)
        answering.start()
        assert run("log-level", "--socket", str(path)) == "?[2Jx\n"
        answering.join()
