"""Drain, stop and reload through the admin socket, with the real daemon.

What must hold: a drain waits for running requests, up to its deadline; a reload applies every
setting that it may, or none.
"""

import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from raida_uring import config
from raida_uring.admin.client import NodeError, NotRunningError, ask, result_of
from tests.support.admin import change, node, run
from tests.support.command_line import environment
from tests.support.handlers import SLOW_UNTIL, UNTIL
from tests.support.net import PATIENCE, read_exactly, tcp_connect, turned_away, udp_ask, udp_client
from tests.support.node import HANDLERS, SERVE, Table, config_text, daemon, eventually
from tests.support.upgrade import serves_admin
from tests.support.wire import VERSION_COMMAND, request, status

pytestmark = pytest.mark.any_backend

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
        assert running.process.wait(20 * PATIENCE) == 0


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
    """The first signal during a drain shortens it to the time-out of a stop."""
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
        [*SERVE, "--port", "0"],
        env=environment(RUNTIME_DIRECTORY=str(place / "run")),
        stderr=subprocess.PIPE,
    )
    try:
        path = place / "run" / "admin.sock"
        eventually(lambda: serves_admin(path) != 0, timeout_s=20 * PATIENCE)
        with pytest.raises(NodeError, match="without a configuration file"):
            result_of(path, "reload")
    finally:
        process.terminate()
        process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 0
