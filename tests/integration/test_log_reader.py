"""A reader of the log, or another listener of the node, stalls.

What must hold whichever it is (a pipe, a terminal, a full disk, journald, the service manager, an
operator): requests, operators, reload, watchdog, upgrade and stop go on; lines are dropped and
counted, and once somebody reads again a line says how many.
"""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from raida_uring.admin.client import ask, result_of
from raida_uring.log.writer import QUEUE_BYTES_MAX
from tests.support.command_line import environment
from tests.support.http import scrape
from tests.support.net import PATIENCE, Endpoint, udp_ask
from tests.support.node import (
    SERVE,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Table,
    config_text,
    eventually,
    free_port,
)
from tests.support.upgrade import gone
from tests.support.wire import VERSION_COMMAND, request, status

# Logs as much as it is told to, in lines that no limit on repeats holds back; prints; fails.
TALKER = """
import logging, sys
from raida_uring.handlers import Reply, command

logger = logging.getLogger("raida_uring.handlers")
said = 0

@command(group=5, code=230)
def talks(request, node):
    global said
    for _ in range(request.payload[0]):
        said += 1
        logger.warning(f"{said} " + "x" * 100_000)
    return Reply(250)

@command(group=5, code=231)
def prints(request, node):
    print("p" * 200_000, file=sys.stderr)
    print("p" * 200_000)
    return Reply(250)

@command(group=5, code=232)
def fails(request, node):
    raise ValueError("now and then")
"""
TALK, PRINT, FAIL = (5, 230), (5, 231), (5, 232)
LINE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """A node whose standard error the test provides."""

    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    http: str
    admin: Path
    notify: socket.socket

    def heard(self, word: str, timeout_s: float) -> bool:
        """Whether the service manager receives an assignment that begins so; discards those before
        it."""
        self.notify.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError):
            while True:
                if any(one.startswith(word) for one in self.notify.recv(4096).decode().split("\n")):
                    return True
        return False

    def dropped(self) -> int:
        told = int(result_of(self.admin, "status")["log"]["dropped"])
        assert scrape(self.http)["raida_log_dropped_total", ()] >= told
        return told

    def goes_on(self) -> None:
        """Check everything that must not wait."""
        for _ in range(3):
            assert status(udp_ask(self.endpoint, request(VERSION_COMMAND))) == 250
            assert status(udp_ask(self.endpoint, request(FAIL))) == 252
            assert status(udp_ask(self.endpoint, request(PRINT))) == 250
        result_of(self.admin, "reload")
        self.process.send_signal(signal.SIGHUP)
        assert self.heard("RELOADING=1", 20 * PATIENCE)
        assert self.heard("WATCHDOG=1", 20 * PATIENCE)
        assert self.heard("WATCHDOG=1", 20 * PATIENCE)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def spoken(
    directory: Path, stderr: int, *, await_ready: bool = True, **tables: Table
) -> Iterator[Spoken]:
    """A node, ready, that logs to `stderr`."""
    (directory / "talker.py").write_text(TALKER)
    port, http = free_port(), free_port()
    path = directory / "node.toml"
    admin = directory / "admin.sock"
    own: dict[str, Table] = {
        "server": {"port": port},
        "http": {"enabled": True, "port": http},
        "handlers": {"modules": ["talker"]},
        "admin": {"socket": str(admin)},
        "network": {"drain_timeout_ms": 1000, "bind": ["127.0.0.1"]},
    }
    path.write_text(config_text({**own, **tables}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"\0raida-{os.getpid()}-{port}")
        told = environment(
            NOTIFY_SOCKET=f"@raida-{os.getpid()}-{port}", WATCHDOG_USEC=str(4_000_000)
        )
        process = subprocess.Popen(
            [*SERVE, "--config", str(path)],
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
        node = Spoken(process, ("127.0.0.1", port), f"http://127.0.0.1:{http}", admin, notify)
        try:
            if await_ready:
                assert node.heard("READY=1", START_TIMEOUT_S)
            yield node
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def fill(descriptor: int) -> None:
    """Until nothing fits any more."""
    blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    for piece in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"z" * piece)
    os.set_blocking(descriptor, blocking)


def talk_until_dropped(node: Spoken) -> None:
    for _ in range(2 * QUEUE_BYTES_MAX // (50 * LINE_BYTES) + 1):
        assert status(udp_ask(node.endpoint, request(TALK, bytes((50,))))) == 250
    assert node.dropped() > 0


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for one in (reading, writing):
            with contextlib.suppress(OSError):
                os.close(one)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    reading, writing = os.openpty()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("form", ["plain", "json", "journal"])
def test_a_pipe_that_nobody_reads(tmp_path: Path, form: str) -> None:
    with pipe() as (_, writing), spoken(tmp_path, writing, log={"format": form}) as node:
        fill(writing)
        talk_until_dropped(node)
        node.goes_on()
        assert os.get_blocking(writing), "others share it"
        assert node.stop() == 0


@pytest.mark.any_backend
@pytest.mark.parametrize("place", [pipe, terminal])
def test_nobody_reads_from_the_very_start(tmp_path: Path, place: object) -> None:
    assert place in (pipe, terminal)
    opened = pipe() if place is pipe else terminal()
    with opened as (_, writing):
        fill(writing)
        with spoken(tmp_path, writing) as node:
            node.goes_on()
            talk_until_dropped(node)
            node.goes_on()
            assert node.stop() == 0


@pytest.mark.any_backend
def test_a_reader_that_comes_back_learns_how_many_were_dropped(tmp_path: Path) -> None:
    with pipe() as (reading, writing):
        with spoken(tmp_path, writing, log={"format": "json"}) as node:
            fill(writing)
            talk_until_dropped(node)
            os.close(writing)
            said = b""
            while b'"lines_dropped"' not in said:  # what waited, then how much did not
                assert select.select([reading], [], [], 20 * PATIENCE)[0]
                said += os.read(reading, 1 << 20)
            dropped = node.dropped()
            assert node.stop() == 0
        said += b"".join(iter(lambda: os.read(reading, 1 << 20), b""))
    said = re.sub(rb"z{1000,}", b"", said)
    lines = [json.loads(line) for line in said.splitlines() if line]
    (told,) = (line["count"] for line in lines if line["event"] == "lines_dropped")
    assert told == dropped
    numbers = [int(one["message"].split()[0]) for one in lines if "xxx" in one["message"]]
    assert numbers == list(range(1, len(numbers) + 1)), "whole, in order, none twice"
    assert lines[-1]["event"] == "final_counters"


@pytest.mark.any_backend
def test_a_full_disk(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with spoken(tmp_path, full) as node:
            node.goes_on()
            assert node.dropped() > 0
            assert node.stop() == 0
    finally:
        os.close(full)


@pytest.mark.any_backend
def test_standard_error_is_closed(tmp_path: Path) -> None:
    """Or its reader has gone, which is the same to the node."""
    with pipe() as (reading, writing):
        os.close(reading)
        with spoken(tmp_path, writing) as node:
            node.goes_on()
            assert node.dropped() > 0
            assert node.stop() == 0


def test_an_upgrade_and_a_drain_go_on(tmp_path: Path) -> None:
    """Both processes share one standard error."""
    with pipe() as (_, writing), spoken(tmp_path, writing) as node:
        fill(writing)
        talk_until_dropped(node)
        (*_, upgraded) = ask(node.admin, "upgrade")
        assert node.process.wait(STOP_TIMEOUT_S) == 0
        successor = psutil.Process(int(upgraded["process"]))
        try:
            eventually(lambda: result_of(node.admin, "status")["process"] != 0)
            assert status(udp_ask(node.endpoint, request(FAIL))) == 252
            (*_, last) = ask(node.admin, "drain", timeout_s=5)
            assert last["phase"] in ("draining", "stopped")
            eventually(lambda: gone(successor.pid), STOP_TIMEOUT_S)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                successor.kill()


@pytest.mark.any_backend
def test_a_fault_ends_the_process_though_nobody_hears_of_it(tmp_path: Path) -> None:
    """A fault that prevents the start: `raida-uring: …` is a line, too."""
    with pipe() as (_, writing), socket.socket() as taken:
        fill(writing)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        network = {"bind": ["127.0.0.1"]}
        server = {"port": taken.getsockname()[1]}
        with spoken(tmp_path, writing, await_ready=False, network=network, server=server) as node:
            assert node.process.wait(STOP_TIMEOUT_S) == 2


@pytest.mark.any_backend
def test_the_interpreter_s_own_output_waits_for_nobody(tmp_path: Path) -> None:
    """Output of a module while it is imported."""
    (tmp_path / "loud.py").write_text(
        "import sys, warnings\n"
        "from raida_uring.handlers import Reply, command\n"
        "command(group=5, code=240)(lambda request, node: Reply(250))\n"
        "for _ in range(300):\n"
        "    print('l' * 100_000, file=sys.stderr)\n"
        "warnings.warn('w' * 100_000)\n"
    )
    with pipe() as (_, writing):
        fill(writing)
        modules = {"modules": ["loud", "talker"]}
        with spoken(tmp_path, writing, handlers=modules) as node:
            assert node.dropped() > 0
            node.goes_on()
            assert node.stop() == 0


@pytest.mark.any_backend
def test_a_service_manager_that_stalls_is_told_later(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as stderr:
        with spoken(tmp_path, stderr.fileno()) as node:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
                filler.setblocking(False)
                place = node.notify.getsockname()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        filler.sendto(b"FILLED=1", place)
            began = time.monotonic()
            for _ in range(5):
                result_of(node.admin, "reload")
            assert time.monotonic() - began < 2.5 * PATIENCE, "each waited for it"
            node.process.send_signal(signal.SIGHUP)
            node.process.send_signal(signal.SIGTERM)
            said: list[str] = []
            node.notify.settimeout(20 * PATIENCE)
            while not said or not said[-1].startswith("EXTEND_TIMEOUT_USEC="):
                said += node.notify.recv(4096).decode().split("\n")
            assert node.process.wait(STOP_TIMEOUT_S) == 0
        words = [one for one in said if one in ("RELOADING=1", "READY=1", "STOPPING=1")]
        assert words[:10] == ["RELOADING=1", "READY=1"] * 5
        assert words[-1] == "STOPPING=1"


@pytest.mark.any_backend
def test_operators_that_take_no_answer_have_a_second_together(tmp_path: Path) -> None:
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        spoken(tmp_path, stderr.fileno()) as node,
        contextlib.ExitStack() as clients,
    ):
        drain = json.dumps({"command": "drain", "timeout_s": 60}).encode() + b"\n"
        ask = json.dumps({"command": "status"}).encode() + b"\n"
        for _ in range(12):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(node.admin))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(ask)
            client.setblocking(True)
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                client.sendall(drain)
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 6 * PATIENCE


@pytest.mark.any_backend
@pytest.mark.parametrize("signals", [[signal.SIGUSR1], [signal.SIGPWR, signal.SIGIO]])
def test_signals_that_ask_for_nothing(tmp_path: Path, signals: list[signal.Signals]) -> None:
    every = [*signals, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGSTKFLT]
    with (tmp_path / "stderr").open("wb") as stderr, spoken(tmp_path, stderr.fileno()) as node:
        for number in (*every, signal.SIGRTMIN, signal.SIGRTMIN + 3, signal.SIGRTMAX):
            node.process.send_signal(number)
        eventually(lambda: b"no use for that signal" in (tmp_path / "stderr").read_bytes())
        node.goes_on()
        assert node.stop() == 0
    assert b"SIGALRM (14)" in (tmp_path / "stderr").read_bytes()


@pytest.mark.any_backend
def test_the_end_of_a_log_is_out(tmp_path: Path) -> None:
    """A reader gets every line that is queued when the node ends."""
    with pipe() as (reading, writing), spoken(tmp_path, writing) as node:
        os.close(writing)
        for _ in range(3):
            assert status(udp_ask(node.endpoint, request(TALK, bytes((10,))))) == 250
        node.process.terminate()
        said = b"".join(iter(lambda: os.read(reading, 1 << 16), b""))
        assert node.process.wait(STOP_TIMEOUT_S) == 0
    assert said.count(b"x" * LINE_BYTES) == 30
    assert b"final counters" in said.splitlines()[-1]


@pytest.mark.any_backend
def test_a_descriptor_that_others_have_made_non_blocking_loses_nothing(tmp_path: Path) -> None:
    with pipe() as (reading, writing), spoken(tmp_path, writing) as node:
        os.set_blocking(writing, False)
        for _ in range(3):
            assert status(udp_ask(node.endpoint, request(TALK, bytes((10,))))) == 250
        os.close(writing)
        node.process.terminate()
        said = b"".join(iter(lambda: os.read(reading, 1 << 16), b""))
        assert node.process.wait(STOP_TIMEOUT_S) == 0
    assert said.count(b"x" * LINE_BYTES) == 30


@pytest.mark.any_backend
def test_signals_while_it_starts_wait(tmp_path: Path) -> None:
    """They arrive while the node reads its configuration."""
    with (tmp_path / "stderr").open("w+b") as stderr:
        with spoken(tmp_path, stderr.fileno()) as node:
            text = (tmp_path / "node.toml").read_text()
            assert node.stop() == 0
        path = tmp_path / "slow.toml"
        os.mkfifo(path)
        process = subprocess.Popen(
            [*SERVE, "--config", str(path)], env=environment(), stderr=stderr
        )
        try:
            with path.open("w") as config:  # once it has opened it
                for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN, signal.SIGHUP):
                    process.send_signal(number)
                (tmp_path / "file").write_text(text)
                (tmp_path / "file").rename(path)
                config.write(text)
            eventually(lambda: b"reloaded: nothing" in (tmp_path / "stderr").read_bytes(), 20)
            assert b"SIGALRM (14)" in (tmp_path / "stderr").read_bytes()
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.any_backend
def test_signals_at_the_end_change_nothing(tmp_path: Path) -> None:
    """They arrive in the second that the node grants a stalled reader."""
    with pipe() as (_, writing), spoken(tmp_path, writing) as node:
        fill(writing)
        assert status(udp_ask(node.endpoint, request(TALK, b"\1"))) == 250
        node.process.terminate()
        eventually(lambda: not node.admin.exists(), STOP_TIMEOUT_S)  # the last but the log
        node.process.terminate()
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(STOP_TIMEOUT_S) == 0


@pytest.mark.any_backend
def test_a_reader_that_is_too_slow_learns_of_drops_meanwhile(tmp_path: Path) -> None:
    """The queue never comes to its end."""
    with pipe() as (reading, writing), spoken(tmp_path, writing) as node:
        said, dropped = b"", False
        deadline = time.monotonic() + 60 * PATIENCE
        while b"lines of this log were dropped" not in said[-(1 << 20) :]:
            assert time.monotonic() < deadline
            if select.select([reading], [], [], 0.01)[0]:
                said += os.read(reading, 1 << 17)
            udp_ask(node.endpoint, request(TALK, b"\3"))
            dropped = dropped or node.dropped() > 0
        assert dropped
        assert status(udp_ask(node.endpoint, request(TALK, b"\1"))) == 250
