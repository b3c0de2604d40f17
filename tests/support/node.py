"""Real nodes for the tests: in this process, or as the daemon that operators run.

At the end of every test with a node its conservation laws are checked: they must hold before the
stop and after it, and after it nothing may be left in flight.
"""

import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

from raida_uring import config
from raida_uring.errors import StartError
from raida_uring.node.server import Server
from raida_uring.observe.counters import COUNTERS, violations
from raida_uring.store import Store
from tests.support.command_line import PROGRAM, environment, execute
from tests.support.net import PATIENCE, Endpoint
from tests.support.wire import FIXTURE

BACKENDS: tuple[str, ...] = ("uring", "epoll")  # support/refused.py has another
HANDLERS = {"modules": ["tests.support.handlers"]}  # the [handlers] table most tests want

START_TIMEOUT_S = 20.0 * PATIENCE
STOP_TIMEOUT_S = 30.0 * PATIENCE
WAIT_TIMEOUT_S = 20.0 * PATIENCE
# Below the loop's longest wait: counters must not be stale until it ends.
COUNTED_TIMEOUT_S = 5.0 * PATIENCE
POLL_INTERVAL_S = 0.005

Table = Mapping[str, object]
Counters = Mapping[str, int]

# The recordings' settings; the vectors need large replies over UDP and a node without trees.
DEFAULT_TABLES: dict[str, Table] = {
    "server": {
        "raida_id": FIXTURE["raida_id"],
        "coin_id": FIXTURE["coin_id"],
        "port": 0,
        "admin_key": FIXTURE["admin_key"],
        "version": FIXTURE["version"],
        "udp_effective_payload": FIXTURE["udp_effective_payload"],
        "synchronization_enabled": False,
    },
    "network": {"bind": ["127.0.0.1"]},
    "workers": {"count": 8},  # as on a small machine: the default follows the number of cores
    # Most tests do not look at it, and many nodes run side by side.
    "http": {"enabled": False, "port": 0},
    # All clients share one address, and many send what nobody may open: tests/wire/test_guesses.py
    # has the limit.
    # On a busy machine requests wait for long: tests/integration/test_queue_age.py has that limit.
    "limits": {"udp_reply_factor_max": 0, "failed_checks_burst": 0, "queue_age_max_ms": 0},
}
# Clients that are slow for the processor's sake must not meet the deadlines that guard against
# others; what a test sets for itself stays.
if PATIENCE != 1.0:
    _deadlines = config.embedded_default().tcp
    DEFAULT_TABLES["tcp"] = {
        "progress_timeout_ms": round(_deadlines.progress_timeout_ms * PATIENCE),
        "header_timeout_ms": round(_deadlines.header_timeout_ms * PATIENCE),
        "body_timeout_ms": round(_deadlines.body_timeout_ms * PATIENCE),
        "write_timeout_ms": round(_deadlines.write_timeout_ms * PATIENCE),
    }


@contextmanager
def using_backend(name: str) -> Iterator[None]:
    """Nodes started in the body run on `name` unless their tables say otherwise."""
    before = DEFAULT_TABLES["network"]
    DEFAULT_TABLES["network"] = {**before, "backend": name}
    try:
        yield
    finally:
        DEFAULT_TABLES["network"] = before


@cache
def backend_refusal(name: str) -> str | None:
    """Why this machine cannot run a node on `name`; None when it can."""
    try:
        with using_backend(name), running_node():
            return None
    except StartError as error:
        return str(error)


def eventually(
    predicate: Callable[[], bool],
    timeout_s: float = WAIT_TIMEOUT_S,
    what: Callable[[], object] | None = None,
) -> None:
    """Return as soon as `predicate` holds; fail after `timeout_s`, showing `what()`."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            shown = "" if what is None else f": {what()}"
            raise AssertionError(f"not true within {timeout_s} s{shown}")
        time.sleep(POLL_INTERVAL_S)  # between looks at a real condition, never instead of one


def insist(
    tell: Callable[[], object], heard: Callable[[], bool], timeout_s: float = WAIT_TIMEOUT_S
) -> None:
    """Repeat `tell` until `heard`: two stop signals within 50 ms count as one."""

    def told() -> bool:
        tell()
        return heard()

    eventually(told, timeout_s)


def total(counters: Counters, prefix: str) -> int:
    """Sum of the counters whose names start with `prefix`."""
    return sum(value for name, value in counters.items() if name.startswith(prefix))


def assert_lawful(counters: Counters) -> None:
    """Every conservation law holds."""
    broken = violations(dict(counters))
    assert not broken, f"{broken}\n{dict(counters)}"


def assert_at_rest(counters: Counters) -> None:
    """The laws hold and nothing is in flight or open."""
    assert_lawful(counters)
    for name in ("udp_in_flight", "tcp_in_flight", "connections_open"):
        assert counters[name] == 0, f"{name} = {counters[name]} at the end\n{dict(counters)}"


def config_text(tables: Mapping[str, Table]) -> str:
    """DEFAULT_TABLES, overridden key by key with `tables`, as TOML; None leaves a key out."""
    lines: list[str] = []
    for name in dict.fromkeys((*DEFAULT_TABLES, *tables)):
        lines.append(f"[{name}]")
        settings = {**DEFAULT_TABLES.get(name, {}), **tables.get(name, {})}
        # JSON's numbers, strings, booleans and lists of them are also TOML's.
        lines += [
            f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None
        ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Node:
    """A running node in this process."""

    server: Server

    @property
    def endpoint(self) -> Endpoint:
        """The first bound address; TCP and UDP share it."""
        return self.server.endpoints[0]

    def counters(self) -> dict[str, int]:
        """One consistent snapshot."""
        return self.server.counters()

    def wait_for(
        self, condition: Callable[[Counters], bool], timeout_s: float = COUNTED_TIMEOUT_S
    ) -> None:
        """Until a snapshot satisfies `condition`."""
        eventually(lambda: condition(self.counters()), timeout_s, what=self.counters)

    def wait_for_counts(self, **expected: int) -> None:
        """Until a snapshot has all these values at once."""
        self.wait_for(lambda now: all(now[name] == count for name, count in expected.items()))


class HasStore(Protocol):
    """Coins that a node can open requests with."""

    @property
    def store(self) -> Store:
        """A store that has them."""


@contextmanager
def running_node(keys: HasStore | None = None, /, **tables: Table) -> Iterator[Node]:
    """Serve in this process with real sockets; `tables` override configuration tables.

    keys: of the coins that requests may be sealed with.

    On leaving: checks the laws, drains, checks the laws again and that nothing is left. A failing
    body is not followed by these checks: its own failure is the news.
    """
    store = None if keys is None else keys.store
    server = Server(config.parse(config_text(tables), "test.toml"), keys=store)
    server.start()
    try:
        yield Node(server)
        assert_lawful(server.counters())
    except BaseException:
        server.stop(drain_timeout_ms=0)
        raise
    server.stop()
    assert_at_rest(server.counters())


_system_random = random.SystemRandom()  # Hypothesis seeds the common one


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free for TCP and UDP on `host` now. No socket bound to port 0 takes it later:
    it is below those that the kernel chooses from by default."""
    while True:
        port = _system_random.randrange(24000, 32000)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind((host, port))
                udp.bind((host, port))
            except OSError:
                continue
            return port


SERVE: tuple[str, ...] = (*PROGRAM, "serve")


def confined(how: str) -> Sequence[str]:
    """`raida-uring serve` in a process that has executed `how`, a call of support/confine.py."""
    arguments = ", ".join(map(repr, SERVE))
    return [
        sys.executable,
        "-c",
        f"import os, sys; from tests.support.confine import *; {how}; "
        f"os.execv(sys.executable, [{arguments}, *sys.argv[1:]])",
    ]


@dataclass(frozen=True, slots=True)
class Daemon:
    """The node as its own process."""

    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    stderr_path: Path
    notify: socket.socket  # what it tells the service manager

    def await_ready(self) -> None:
        """Wait for READY=1; fails with the daemon's log if it ends or stays silent instead."""
        _await_ready(self.notify, self)

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon alone."""
        self.process.send_signal(number)

    def ended_within(self, timeout_s: float) -> bool:
        """Whether the daemon has ended by then."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, then the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def stderr(self) -> str:
        """What the daemon has logged so far."""
        return self.stderr_path.read_text()

    def final_counters(self) -> dict[str, int]:
        """All counters, as logged at the end without those that are 0; the daemon must have
        ended."""
        last = self.stderr().splitlines()[-1]
        text = json.loads(last)["message"] if last.startswith("{") else self.stderr()
        found = re.search(r"final counters (\{.*\})", text)
        assert found, f"no final counters in:\n{self.stderr()}"
        counters: dict[str, int] = json.loads(found[1])
        return dict.fromkeys(COUNTERS, 0) | counters


def take_free_descriptors(process: psutil.Process) -> tuple[int, int]:
    """By a limit at the first that is free now; returns the limits before."""
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")}
    process.rlimit(psutil.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), before[1]))
    return before


@contextmanager
def daemon(
    directory: Path,
    *,
    command: Sequence[str] = SERVE,
    args: Sequence[str] = (),
    import_paths: Sequence[Path] = (),
    **tables: Table,
) -> Iterator[Daemon]:
    """Start `raida-uring serve` and yield it when it reports READY=1.

    On leaving it is stopped by SIGTERM unless it has ended; then its final counters are checked.
    """
    with started_daemon(
        directory, command=command, args=args, import_paths=import_paths, **tables
    ) as started:
        started.await_ready()
        yield started
        if started.process.poll() is None:
            assert started.terminate() == 0, started.stderr()
    assert "Traceback" not in started.stderr(), started.stderr()
    assert_lawful(started.final_counters())


@contextmanager
def started_daemon(
    directory: Path,
    *,
    command: Sequence[str] = SERVE,
    args: Sequence[str] = (),
    import_paths: Sequence[Path] = (),
    **tables: Table,
) -> Iterator[Daemon]:
    """Start `raida-uring serve` and yield it at once; killed at the end unless it has ended."""
    host = "127.0.0.1"
    port = free_port(host)
    config_path = directory / "node.toml"
    stderr_path = directory / "stderr"
    served = {**tables, "server": {"port": port, **tables.get("server", {})}}
    config_path.write_text(config_text(served))
    with _notify_socket() as (notify, notify_path), stderr_path.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--config", str(config_path), *args],
            cwd=directory,
            env=environment(*import_paths, NOTIFY_SOCKET=notify_path),
            stderr=stderr,
        )
        started = Daemon(process, (host, port), stderr_path, notify)
        try:
            yield started
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def _notify_socket() -> Iterator[tuple[socket.socket, str]]:
    directory = tempfile.mkdtemp(prefix="raida-")  # short: a socket path ends at 107 bytes
    path = f"{directory}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        os.chmod(directory, 0o755)  # noqa: S103  a daemon may run as another user
        os.chmod(path, 0o666)  # noqa: S103  likewise
        try:
            yield notify, path
        finally:
            shutil.rmtree(directory)


def told(notify: socket.socket) -> list[str]:
    """Lines that have arrived since the last call."""
    notify.setblocking(False)
    lines: list[str] = []
    try:
        while True:
            lines += notify.recv(4096).decode().splitlines()
    except BlockingIOError:
        return lines


def await_told(notify: socket.socket, *beginnings: str) -> list[str]:
    """Lines that have arrived since the last call, once one with each of `beginnings` is there.

    One that ends in a newline is a whole line.
    """
    lines: list[str] = []

    def complete() -> bool:
        lines.extend(told(notify))
        return all(any(f"{line}\n".startswith(one) for line in lines) for one in beginnings)

    eventually(complete, what=lambda: lines)
    return lines


def _await_ready(notify: socket.socket, started: Daemon) -> None:
    """Wait for READY=1; an early exit or a long silence fails with the daemon's log."""
    process_fd = os.pidfd_open(started.process.pid)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([notify.fileno(), process_fd], [], [], left_s)
            if notify.fileno() in readable:
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
            elif process_fd in readable:
                break
    finally:
        os.close(process_fd)
    raise AssertionError(f"the daemon did not become ready:\n{started.stderr()}")


def assert_refuses_to_start(
    directory: Path,
    expected: str,
    *,
    command: Sequence[str] = SERVE,
    config_path: Path | None = None,
    import_paths: Sequence[Path] = (),
    **tables: Table,
) -> None:
    """`raida-uring serve` ends with status 2 and exactly one line of error matching `expected`."""
    if config_path is None:
        config_path = directory / "node.toml"
        config_path.write_text(config_text(tables))
    ended = execute(
        *command,
        *("--config", config_path),
        cwd=directory,
        env=environment(*import_paths),
        timeout=START_TIMEOUT_S,
    )
    assert ended.returncode == 2, f"status {ended.returncode}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("raida-uring: ")]
    assert len(errors) == 1, ended.stderr
    assert ended.stderr.splitlines()[-1] == errors[0], ended.stderr
    assert re.search(expected, errors[0]), errors[0]
