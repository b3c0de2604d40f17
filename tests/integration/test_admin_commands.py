"""The commands that use the admin socket, as an operator types them.

What must hold: a command asks the node of its configuration and no other, and a fault is one line.
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
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raida_uring.admin.client import NotRunningError, Wanted, find, result_of
from raida_uring.admin.server import Admin
from raida_uring.descriptors import Reserve
from raida_uring.errors import StartError
from tests.support.admin import change, node, run
from tests.support.command_line import PROGRAM, environment
from tests.support.confine import default_directory
from tests.support.net import PATIENCE, udp_ask
from tests.support.node import daemon, eventually, running_node
from tests.support.wire import VERSION_COMMAND, request

pytestmark = pytest.mark.any_backend

# --- The commands ---------------------------------------------------------------------------------


def test_every_command_works_from_a_shell(place: Path) -> None:
    with node(place) as (running, path):
        where = ("--config", str(place / "node.toml"))
        assert re.fullmatch(r"no command was answered in the last .* s\n", run("peers", *where))
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
        # Not the C library's environment: readline has put its LINES and COLUMNS there.
        os.execve(  # noqa: S606  no shell
            sys.executable, [*PROGRAM, *arguments], environment(TERM=term)
        )
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    try:
        yield process, ours
    finally:
        os.close(ours)


def read_screen(ours: int, wanted: bytes, timeout_s: float = 20.0) -> str:
    """Everything drawn up to `wanted`."""
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


def test_a_client_that_has_left_does_not_cost_the_reserve() -> None:
    """The kernel takes a descriptor before it checks whether a client is still there."""
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
    """It needs four. With fewer a start fails with one line; a successor serves without the
    socket."""
    path = tmp_path / "admin.sock"
    with running_node() as node:
        daemon_of = cast(Any, SimpleNamespace(server=node.server))
        with descriptors_left(free), pytest.raises(StartError, match="Too many open files"):
            Admin(daemon_of, path)
        assert not path.exists()
        Admin(daemon_of, path).close()


# --- Which node is asked --------------------------------------------------------------------------


def run_in(given: dict[str, str], *arguments: str) -> str:
    """As run(), in an environment that names no directories but those `given`."""
    named = ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR")
    clean = {name: value for name, value in environment().items() if name not in named}
    return run(*arguments, env={**clean, **given})


@pytest.mark.parametrize("command", ["status", "drain", "reload", "upgrade", "log-level"])
def test_a_command_never_speaks_to_another_node(place: Path, command: str) -> None:
    """Two files name one socket, for example a file and its copy: the command checks the node
    first."""
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
    """The command line gave it another, or the file was edited and not read again yet."""
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
    """A unit, a session, cron and su each have their own."""
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
    """A socket of another user than its directory: anybody who may write there can have made it."""
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with (
        socket.create_server(
            ("127.0.0.1", 0)
        ) as served,  # without it no socket would be looked for
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
