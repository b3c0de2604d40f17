"""The admin socket and the commands that use it, with the real daemon.

What must hold: only root and the node's own user are answered, nothing that a client sends or does
not take disturbs the node, a reload changes everything it may or nothing at all.
"""

import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from raida_uring.admin import server
from raida_uring.admin.client import default_path, result_of
from raida_uring.admin.server import Admin
from raida_uring.cli import top
from raida_uring.errors import RaidaError
from raida_uring.observe.status import for_operators
from tests.support.admin import node, run
from tests.support.command_line import environment, run_script
from tests.support.handlers import UNTIL
from tests.support.net import (
    ANSWER_TIMEOUT_S,
    PATIENCE,
    read_exactly,
    tcp_ask,
    tcp_connect,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import (
    HANDLERS,
    daemon,
    eventually,
    running_node,
    take_free_descriptors,
)
from tests.support.store import make_store, table_of
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, status

pytestmark = pytest.mark.any_backend

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

    with node(place) as (running, path):
        assert "Permission denied" in run_script(asking, path).stdout
        for opened in (place, path.parent):
            opened.chmod(0o711)
        path.chmod(0o666)
        assert "only root and the node's own user" in run_script(asking, path).stdout
        eventually(lambda: "of user 65534 refused" in running.stderr())
        assert result_of(path, "status")["process"] == running.process.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two other users")
def test_what_another_user_listens_with_is_no_node(place: Path) -> None:
    """In /tmp anybody can be the first to bind a path: no reply from there is believed or shown."""
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
        forged.settimeout(ANSWER_TIMEOUT_S)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as asking:
            client, _ = forged.accept()
            with client, suppress(ConnectionError):
                client.sendall(b'{"result": {"phase": "drained"}}\n')
            told = asking.communicate(timeout=ANSWER_TIMEOUT_S)[0]
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
    """A node that is stopped or busy: a check for one must not wait for it."""
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


def test_status_answers_when_the_store_cannot_be_read(place: Path) -> None:
    """Its file was cut off."""
    path = make_store(place / "store")
    with running_node(store=table_of(path)) as node:
        os.truncate(path / "data.mdb", 4096)
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


def test_status_answers_without_a_free_descriptor(place: Path) -> None:
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
    """It uses the descriptor in reserve. Other clients wait in the backlog, and the node does not
    spin."""
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


def test_an_idle_client_gives_up_the_descriptor_in_reserve(place: Path) -> None:
    with node(place) as (running, path), ExitStack() as stack:
        # Several: what the node had open for a moment at its start may be free again.
        *idle, asking = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]
        take_free_descriptors(psutil.Process(running.process.pid))
        for client in (*idle, asking):
            client.connect(str(path))
        asking.settimeout(ANSWER_TIMEOUT_S)
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
    """A new client replaces the one that has been silent longest."""
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


def test_an_idle_client_is_disconnected_in_the_end(
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


def test_a_client_that_does_not_read_delays_nobody(place: Path) -> None:
    with node(place) as (_, path), socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        deaf.setblocking(False)
        try:
            while True:
                deaf.send(b'{"command": "status"}\n')
        except BlockingIOError:
            pass  # its requests are not taken any more
        assert result_of(path, "status")["phase"] == "serving"
