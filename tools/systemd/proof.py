"""What the checks of raida-uring.service share: the registry, systemd, the journal, clients."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from raida_uring import protocol

UNIT = "raida-uring.service"
SOCKET_UNIT = "raida-uring.socket"
JOURNALD = "systemd-journald.service"
PROGRAM = "/opt/raida-uring/bin/raida-uring"
CONFIG = pathlib.Path("/etc/raida-uring/node.toml")
DROP_IN = pathlib.Path(f"/etc/systemd/system/{UNIT}.d/proof.conf")
MODULES = pathlib.Path("/opt/proof")
STATE = pathlib.Path("/var/lib/raida-uring")
PORT, HTTP_PORT = 50000, 60000
WATCHDOG_S = 10  # as the unit has it
STOP_TIMEOUT_S = 30  # that, too
MARGIN_S = 8  # for the restart after that, on a busy machine
# Handlers that take 2 s, 6 s (within a drain), and longer than WatchdogSec= and TimeoutStopSec=.
NAP, DRAWN_NAP, LONG_NAP = (5, 200), (5, 202), (5, 201)
NOTABLE_S = 5.0  # for a client to wait: printed, to be looked up in the journal
PROMPT_S = 10.0  # for what has nothing to wait for, on a busy machine
LATE_S = 3.0  # after which comes what a start finds missing
CLOSING_S = 60.0  # for which a closed connection keeps its port, and for which a start waits

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _WALL = 0x4206, 0x4207, 0x40000000

checks: list[Callable[[], str]] = []


class NotSoError(Exception):
    """What must hold does not."""


def check(function: Callable[[], str]) -> Callable[[], str]:
    """Register; its first docstring line is what must hold, its return value what was seen."""
    checks.append(function)
    return function


def must(condition: object, otherwise: str) -> None:
    """Raises NotSoError."""
    if not condition:
        raise NotSoError(otherwise)


def eventually(condition: Callable[[], object], timeout_s: float, otherwise: str) -> float:
    """Seconds until it held. Raises NotSoError."""
    began = time.monotonic()
    while not condition():
        must(time.monotonic() - began < timeout_s, f"{otherwise} within {timeout_s:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - began


# ---- systemd ----


def systemctl(*arguments: str, status: int | None = 0) -> str:
    """What it printed. Raises NotSoError on another exit status; None: any."""
    done = subprocess.run(
        ["systemctl", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    must(
        status is None or done.returncode == status,
        f"systemctl {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}",
    )
    return done.stdout.strip()


def shown(name: str, unit: str = UNIT) -> str:
    """A property of the unit."""
    return systemctl("show", "-p", name, "--value", unit)


def main_pid() -> int:
    """0 when there is none."""
    return int(shown("MainPID"))


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The node's program."""
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def told(*arguments: str) -> float:
    """Seconds that a command of the program took. Raises NotSoError unless it went well."""
    began = time.monotonic()
    done = run(*arguments, "--config", str(CONFIG))
    must(done.returncode == 0, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


def journal(since: str) -> list[dict[str, object]]:
    """Entries of the unit and about it, oldest first. since: a cursor."""
    # Chosen here: with a match, journalctl 252 skips the first entry after a cursor.
    done = subprocess.run(
        ["journalctl", "-o", "json", "--after-cursor", since],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [entry for entry in entries if UNIT in (entry.get("_SYSTEMD_UNIT"), entry.get("UNIT"))]


def cursor() -> str:
    """Of the journal's last entry."""
    subprocess.run(["journalctl", "--sync"], check=True, timeout=60)
    done = subprocess.run(
        ["journalctl", "-n", "1", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return str(json.loads(done.stdout)["__CURSOR"])


def logged(name: str, since: str, timeout_s: float = 2) -> dict[str, object]:
    """The last entry of that event. Raises NotSoError when there is none so long."""
    entries: list[dict[str, object]] = []

    def found() -> bool:
        entries[:] = [entry for entry in journal(since) if entry.get("RAIDA_EVENT") == name]
        return bool(entries)

    eventually(found, timeout_s, f"no {name} in the journal")
    return entries[-1]


@contextlib.contextmanager
def configured(text: str) -> Iterator[None]:
    """With another configuration file; the former one afterwards."""
    former = CONFIG.read_text()
    CONFIG.write_text(text)
    try:
        yield
    finally:
        CONFIG.write_text(former)


def stopped() -> None:
    """With counters of systemd at zero."""
    systemctl("stop", SOCKET_UNIT, UNIT, status=None)
    systemctl("reset-failed", UNIT, status=None)


def fresh_start() -> None:
    """Stopped and started, counters of systemd at zero."""
    stopped()
    systemctl("start", UNIT)


def extended(lines: str) -> None:
    """Lines more in [Service] of the unit, from its next start on. Empty: none any more."""
    if lines:
        DROP_IN.parent.mkdir(exist_ok=True)
        DROP_IN.write_text(f"[Service]\n{lines}\n")
    else:
        DROP_IN.unlink(missing_ok=True)
    systemctl("daemon-reload")


def must_be_active(restarts: int = 0) -> None:
    """After so many restarts. Raises NotSoError."""
    state, count = shown("ActiveState"), shown("NRestarts")
    must(state == "active" and count == str(restarts), f"{state}, NRestarts={count}")


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


# ---- clients ----


def build(command: tuple[int, int] = (0, 1)) -> bytes:
    """A request that raida 0 answers."""
    return protocol.build_request(
        *command, b"", raida_id=0, coin_id=6, echo=0x1122, challenge=os.urandom(12)
    )


def ask_tcp(
    command: tuple[int, int] = (0, 1), timeout_s: float = 20, host: str = "127.0.0.1"
) -> int:
    """The status of the reply. Raises OSError, EOFError when the node hangs up."""
    with socket.create_connection((host, PORT), timeout_s) as peer:
        peer.sendall(build(command))
        reply = peer.recv(4096)
        if not reply:
            raise EOFError("closed without an answer")
        return reply[protocol.layout.REPLY_STATUS_AT]


def ask_udp(
    command: tuple[int, int] = (0, 1), timeout_s: float = 5, host: str = "127.0.0.1"
) -> int:
    """The status of the reply. Raises OSError."""
    ((family, *_, place),) = socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.settimeout(timeout_s)
        peer.connect(place)
        peer.send(build(command))
        return peer.recv(4096)[2]


def answers(host: str = "127.0.0.1") -> bool:
    """Over both transports."""
    try:
        return ask_udp(timeout_s=1, host=host) == ask_tcp(timeout_s=1, host=host) == 250
    except (OSError, EOFError):
        return False


class Hammer:
    """Clients that connect and ask without a break."""

    def __init__(self, tcp: int = 6, udp: int = 2) -> None:
        self.answered = {"tcp": 0, "udp": 0}
        self.faults: list[str] = []
        self.slowest_s = 0.0
        self._stopping = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(transport,), daemon=True)
            for transport in ["tcp"] * tcp + ["udp"] * udp
        ]

    def __enter__(self) -> "Hammer":
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.5)
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def _run(self, transport: str) -> None:
        ask = ask_tcp if transport == "tcp" else ask_udp
        while not self._stopping:
            began = time.monotonic()
            try:
                status = ask()
                fault = "" if status == 250 else f"status {status}"
            except (OSError, EOFError) as error:
                fault = f"{type(error).__name__}: {error}"
            took_s = time.monotonic() - began
            if took_s > NOTABLE_S:
                print(f"     {transport}: {took_s:.2f} s from {began:.2f} on")
            with self._lock:
                self.slowest_s = max(self.slowest_s, took_s)
                if fault:
                    self.faults.append(f"{transport} {fault}")
                else:
                    self.answered[transport] += 1
            time.sleep(0.002)

    def summary(self) -> str:
        """Raises NotSoError unless every client was answered."""
        kinds = {fault: self.faults.count(fault) for fault in set(self.faults)}
        text = (
            f"{self.answered['tcp']} TCP connections and {self.answered['udp']} UDP requests "
            f"answered, slowest {self.slowest_s:.2f} s"
        )
        must(not kinds, f"{text}, but {kinds}")
        return text


class Asking:
    """A request that takes its time, under way: use as a context manager, which waits for it."""

    def __init__(self, command: tuple[int, int] = NAP) -> None:
        self._command = command
        self.got: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self.got.append(ask_tcp(self._command, timeout_s=6 * WATCHDOG_S))
        except (OSError, EOFError) as error:
            self.got.append(error)
