"""Tries raida-uring.service under the systemd that runs here. Root, in a machine of its own.

Each check says what must hold and prints one line, PASS or FAIL, with what was seen; the last line
is END. Run by tools/systemd/guest.sh after the node is installed; names in /mnt/out/checks choose
some of them.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
import urllib.request
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


# ---- checks ----


@check
def ready() -> str:
    """active only once it answers (Type=notify); STATUS text"""
    extended(f"Environment=PYTHONPATH={MODULES}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["slow_import"]\n'):
        systemctl("start", "--no-block", UNIT)
        began = time.monotonic()
        waited_s = 0.0
        while (state := shown("ActiveState")) != "active":
            must(state in ("inactive", "activating"), f"{state} before it was active")
            if state == "activating" and main_pid():
                waited_s = time.monotonic() - began
            must(time.monotonic() - began < 60, "not active within 60 s")
        must(answers(), "active, and does not answer")
        must(waited_s > 2.5, f"activating for {waited_s:.1f} s only: a handler takes 3 s to load")
    extended("")
    text = shown("StatusText")
    must(text.startswith("serving on 0.0.0.0:50000, [::]:50000: "), f"STATUS is {text!r}")
    return f"activating for {waited_s:.1f} s; {text}"


@check
def ping() -> str:
    """`raida-uring ping` is answered over UDP and TCP"""
    fresh_start()
    for transport in ("--udp", "--tcp"):
        done = run("ping", transport, "-c", "1", f"127.0.0.1:{PORT}")
        must(done.returncode == 0, done.stdout + done.stderr)
    return "both"


@check
def sandbox() -> str:
    """user of its own, no capability but CAP_NET_BIND_SERVICE, a seccomp filter"""
    fresh_start()
    text = pathlib.Path(f"/proc/{main_pid()}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    uid = int(status["Uid"].split()[0])
    must(uid != 0, "runs as root")
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        must(int(status[name], 16) == 1 << 10, f"{name} {status[name]}")
    must(status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2", text)
    return f"uid {uid}"


@check
def sigkill() -> str:
    """killed by SIGKILL: restarted, and answers"""
    fresh_start()
    former = main_pid()
    systemctl("kill", "-s", "SIGKILL", UNIT)
    took_s = eventually(lambda: main_pid() not in (0, former) and answers(), 15, "no answer")
    must(shown("NRestarts") == "1", f"NRestarts={shown('NRestarts')}")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    return f"answers after {took_s:.1f} s"


@check
def watchdog() -> str:
    """I/O thread stopped by a debugger: killed by the watchdog, restarted; not before"""
    fresh_start()
    since, former = cursor(), main_pid()
    time.sleep(2.5 * WATCHDOG_S)
    must(main_pid() == former and shown("NRestarts") == "0", "killed while it was well")
    must(shown("WatchdogUSec") == f"{WATCHDOG_S}s", shown("WatchdogUSec"))
    (thread,) = [
        int(task.name)
        for task in pathlib.Path(f"/proc/{former}/task").iterdir()
        if (task / "comm").read_text().strip() == "raida-io"
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        done = libc.ptrace(request, thread, None, None)
        must(done == 0, f"ptrace: {os.strerror(ctypes.get_errno())}")
    began = time.monotonic()
    os.waitpid(thread, _WALL)
    must(not answers(), "answers with its I/O thread stopped")
    threads = len(list(pathlib.Path(f"/proc/{former}/task").iterdir()))

    def ended() -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(thread, _WALL | os.WNOHANG)  # a debugger takes its end
        return main_pid() != former

    eventually(ended, WATCHDOG_S + MARGIN_S, "not killed")
    killed_s = time.monotonic() - began
    eventually(lambda: main_pid() and answers(), MARGIN_S, "no answer")
    took_s = time.monotonic() - began
    must(shown("NRestarts") == "1", f"NRestarts={shown('NRestarts')}")
    entries = [str(entry.get("MESSAGE")) for entry in journal(since)]
    must(any("Watchdog timeout" in line for line in entries), "the journal knows no watchdog")
    return (
        f"one of {threads} threads stopped; killed after {killed_s:.1f} s, answers after "
        f"{took_s:.1f} s"
    )


@check
def reload() -> str:
    """`systemctl reload` applies a live key and logs it; with a wrong file it fails"""
    fresh_start()
    since, former = cursor(), main_pid()
    right = CONFIG.read_text()
    with configured(right.replace('level = "info"', 'level = "debug"')):
        systemctl("reload", UNIT)
        text = str(logged("reloaded", since)["MESSAGE"])
        must('[log] level "info" -> "debug"' in text, text)
        must(run("log-level", "--config", str(CONFIG)).stdout.strip() == "debug", "log level")
        since = cursor()
        CONFIG.write_text(right.replace('level = "info"', 'level = "verbose"'))
        systemctl("reload", UNIT, status=1)
        said = [str(entry["MESSAGE"]) for entry in journal(since)]
        must(any("[log] level" in line for line in said), f"the journal names no key: {said}")
        must(shown("ActiveState") == "active", shown("ActiveState"))
        systemctl("kill", "-s", "SIGHUP", UNIT)
        must("[log] level" in str(logged("reload_failed", since)["MESSAGE"]), "no reload_failed")
        must("last reload failed" in shown("StatusText"), shown("StatusText"))
        must(shown("ActiveState") == "active", shown("ActiveState"))
        must(run("log-level", "--config", str(CONFIG)).stdout.strip() != "verbose", "applied")
    must(main_pid() == former and answers(), "the node is not as it was")
    systemctl("reload", UNIT)
    must("failed" not in shown("StatusText"), shown("StatusText"))
    return text


@check
def stop_drains() -> str:
    """`systemctl stop` answers what is under way, and ends well"""
    extended(f"Environment=PYTHONPATH={MODULES}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        since = cursor()
        with Asking() as asking:
            began = time.monotonic()
            systemctl("stop", "--no-block", UNIT)
            eventually(lambda: shown("ActiveState") == "deactivating", 2, "not deactivating")
            text = shown("StatusText")
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
        took_s = time.monotonic() - began
    extended("")
    must(asking.got == [250], f"a request under way got {asking.got}")
    must(text.startswith("answering"), f"STATUS is {text!r}")
    must(shown("Result") == "success" and shown("ExecMainStatus") == "0", shown("Result"))
    final = logged("final_counters", since)
    must(final["RAIDA_TCP_ANSWERED"] == "1", "the counters know it not")
    return f"answered after 2 s of work, stopped after {took_s:.1f} s"


@check
def drain_outlasts_the_manager() -> str:
    """a drain longer than WatchdogSec= and TimeoutStopSec= answers what is under way"""
    extended(f"Environment=PYTHONPATH={MODULES}\nTimeoutStopSec={2 * WATCHDOG_S}s")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        with Asking(LONG_NAP) as asking:
            began = time.monotonic()
            done = run("drain", "--timeout", str(6 * WATCHDOG_S), "--config", str(CONFIG))
            took_s = time.monotonic() - began
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
    extended("")
    must(asking.got == [250], f"a request under way got {asking.got}, drain said {done.stderr}")
    must(done.returncode == 0, f"drain: {done.returncode}: {done.stdout}{done.stderr}")
    must(shown("Result") == "success" and shown("ExecMainStatus") == "0", shown("Result"))
    return f"drained for {took_s:.1f} s"


@check
def journal_fields() -> str:
    """the journal has the events with their fields"""
    since = cursor()
    fresh_start()
    ask_tcp()
    serving, request = logged("serving", since), logged("request", since)
    must(serving["RAIDA_TIER"], "no RAIDA_TIER")
    wanted = {
        "_SYSTEMD_UNIT": UNIT,
        "SYSLOG_IDENTIFIER": "raida-uring",
        "PRIORITY": "6",
        "RAIDA_TRANSPORT": "tcp",
        "RAIDA_STATUS": "250",
    }
    for name, value in wanted.items():
        must(request.get(name) == value, f"{name} is {request.get(name)!r}: {request}")
    must("127.0.0.1" in str(request.get("RAIDA_PEER")), str(request))
    return ", ".join(sorted(name for name in request if name.startswith("RAIDA_")))


@check
def upgrade() -> str:
    """`raida-uring upgrade`: another main process, always active, no restart, nobody unanswered"""
    fresh_start()
    since, pids = cursor(), [main_pid()]
    entered = shown("ActiveEnterTimestampMonotonic")
    with Hammer() as hammer:
        for _ in range(3):
            done = run("upgrade", "--config", str(CONFIG))
            must(done.returncode == 0, done.stdout + done.stderr)
            eventually(lambda: main_pid() not in (0, *pids), 5, "MAINPID as before")
            pids.append(main_pid())
            must(shown("ActiveState") == "active", shown("ActiveState"))
            former = pathlib.Path(f"/proc/{pids[-2]}")
            eventually(lambda former=former: not former.exists(), 20, "the old one is there")  # type: ignore[misc]
            eventually(
                lambda: run("status", "--config", str(CONFIG)).returncode == 0, 5, "no status"
            )
    must(shown("NRestarts") == "0", f"NRestarts={shown('NRestarts')}")
    must(shown("ActiveEnterTimestampMonotonic") == entered, "was not active all the time")
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    refused = [
        entry for entry in journal(since) if "reception only permitted" in str(entry["MESSAGE"])
    ]
    must(not refused, f"{len(refused)} notifications refused: {refused[:1]}")
    eventually(lambda: "serving" in shown("StatusText"), 2, "STATUS")
    time.sleep(1.5 * WATCHDOG_S)  # the successor feeds it
    must(main_pid() == pids[-1] and shown("NRestarts") == "0", "killed by the watchdog")
    former_pid = main_pid()
    systemctl("kill", "-s", "SIGKILL", UNIT)
    eventually(lambda: main_pid() not in (0, former_pid) and answers(), 15, "no restart after it")
    return f"main process {' -> '.join(map(str, pids))}; {hammer.summary()}"


def stop_beside_upgrade(access: str, *, during: bool) -> str:
    """A stop after an upgrade, or while the old process still answers, under NotifyAccess=."""
    extended(f"Environment=PYTHONPATH={MODULES}\nNotifyAccess={access}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        since, former = cursor(), main_pid()
        gone = pathlib.Path(f"/proc/{former}")
        with Asking(DRAWN_NAP) if during else contextlib.nullcontext() as of_the_old:
            told("upgrade")
            if not during:
                eventually(lambda: not gone.exists(), 20, "the old one is there")
                time.sleep(1.5 * WATCHDOG_S)  # the successor is heard
            successor = main_pid()
            must(successor not in (0, former), f"main process {former} -> {successor}")
            must_be_active()
            must(gone.exists() == during, "the old process should be there, or should not")
            with Asking() as of_the_new:
                took_s = timed(lambda: systemctl("stop", UNIT))
    extended("")
    got = of_the_new.got + ([] if of_the_old is None else of_the_old.got)
    must(set(got) == {250}, f"requests under way got {got}, stopped after {took_s:.1f} s")
    must(shown("Result") == "success", shown("Result"))
    logged("final_counters", since)
    refused = [
        entry for entry in journal(since) if "reception only permitted" in str(entry["MESSAGE"])
    ]
    must(not refused, f"{len(refused)} notifications refused: {refused[:1]}")
    return f"stopped after {took_s:.1f} s under NotifyAccess={access}"


@check
def stop_after_upgrade() -> str:
    """after an upgrade, too, `systemctl stop` answers what is under way, and ends well"""
    return ", ".join(stop_beside_upgrade(access, during=False) for access in ("all", "main"))


@check
def stop_during_upgrade() -> str:
    """a stop while the old process still answers: both answer what they have, and end well"""
    return stop_beside_upgrade("all", during=True)


@check
def upgrade_fails() -> str:
    """`raida-uring upgrade` with a wrong file: exit 2, the old process goes on"""
    fresh_start()
    former = main_pid()
    with configured("[server]\nraida_id = 77\n"):
        done = run("upgrade", "--socket", "/run/raida-uring/admin.sock")
    must(done.returncode == 2, f"status {done.returncode}: {done.stdout}{done.stderr}")
    must(main_pid() == former and answers(), "not as it was")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    return done.stderr.strip()


@check
def restart_refuses_nobody() -> str:
    """`systemctl restart` with the descriptor store: clients wait, none is refused"""
    fresh_start()
    since, pids = cursor(), {main_pid()}
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    with Hammer() as hammer:
        for _ in range(5):
            systemctl("reset-failed", UNIT)  # five starts in ten seconds are systemd's limit
            systemctl("restart", UNIT)
            pids.add(main_pid())
    must(len(pids) == 6, "not restarted")
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    failures = [entry for entry in journal(since) if str(entry["PRIORITY"]) <= "4"]
    must(not failures, str(failures))
    return f"5 restarts; {hammer.summary()}"


@check
def crash_refuses_nobody() -> str:
    """after SIGKILL new connections wait for the next start; those that were open are lost"""
    fresh_start()
    with Hammer(udp=0) as hammer:
        former = main_pid()
        systemctl("kill", "-s", "SIGKILL", UNIT)
        eventually(lambda: main_pid() not in (0, former) and answers(), 15, "no answer")
    refused = [fault for fault in hammer.faults if "Refused" in fault]
    must(not refused, f"{len(refused)} refused")
    must(len(hammer.faults) <= 6, f"more than one per client: {hammer.faults}")
    return f"{hammer.answered['tcp']} answered, {len(hammer.faults)} lost with the process"


def listening(transport: str) -> set[str]:
    """Local addresses, but for HTTP's."""
    done = subprocess.run(
        ["ss", "-Hln", f"--{transport}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    places = {line.split()[3] for line in done.stdout.splitlines()}
    return {place for place in places if ":500" in place}


@check
def store_follows_the_configuration() -> str:
    """stored sockets that the configuration does not name are closed, new ones bound and stored"""
    fresh_start()
    right = CONFIG.read_text()
    variants = [
        (right.replace("50000", "50001"), {"0.0.0.0:50001", "[::]:50001"}, "4"),
        (right.replace('"0.0.0.0", "::"', '"127.0.0.1"'), {"127.0.0.1:50000"}, "2"),
        (right.replace('"0.0.0.0", "::"', '"0.0.0.0"'), {"0.0.0.0:50000"}, "2"),
        (right, {"0.0.0.0:50000", "[::]:50000"}, "4"),
    ]
    for text, places, count in variants:
        with configured(text):
            systemctl("restart", UNIT)
            for transport in ("tcp", "udp"):
                eventually(
                    lambda transport=transport, places=places: listening(transport) == places,  # type: ignore[misc]
                    5,
                    f"{transport}: {listening(transport)} in place of {places}",
                )
            must(shown("NFileDescriptorStore") == count, shown("NFileDescriptorStore"))
            must(shown("NRestarts") == "0", "it took more than one start")
    systemctl("stop", UNIT)
    eventually(lambda: not listening("tcp") | listening("udp"), 5, "sockets open after a stop")
    return "port, address to another, wildcard back, one more; nothing left after a stop"


@check
def socket_activation() -> str:
    """raida-uring.socket: the first client starts the node; restarts and a stop refuse nobody"""
    systemctl("stop", UNIT, status=None)
    systemctl("reset-failed", UNIT, status=None)
    systemctl("start", SOCKET_UNIT)
    must(shown("ActiveState") == "inactive", shown("ActiveState"))
    must(ask_udp(timeout_s=20) == 250, "the datagram that started it is not answered")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    must(answers(), "no answer")
    with Hammer() as hammer:
        systemctl("restart", UNIT)
        systemctl("stop", UNIT)  # the next client starts it again
        eventually(answers, 20, "no answer after a stop")
        done = run("upgrade", "--config", str(CONFIG))
        must(done.returncode == 0, done.stdout + done.stderr)
    systemctl("stop", SOCKET_UNIT, UNIT)
    eventually(lambda: not listening("tcp") | listening("udp"), 5, "sockets open after a stop")
    return hammer.summary()


@check
def wrong_configuration() -> str:
    """a wrong configuration ends the start with status 2 and is not tried again"""
    stopped()
    since = cursor()
    with configured(CONFIG.read_text().replace("raida_id = 0", "raida_id = 77")):
        systemctl("start", UNIT, status=1)
        time.sleep(2.5)  # RestartSec is 1 s
        must(shown("ActiveState") == "failed" and shown("NRestarts") == "0", "tried again")
    must(shown("ExecMainStatus") == "2", shown("ExecMainStatus"))
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    (line,) = [text for text in said if text.startswith("raida-uring: ")]
    must(not any("Traceback" in text for text in said), str(said))
    return line


# ---- a log that nobody reads ----


@contextlib.contextmanager
def journald_stopped() -> Iterator[None]:
    """By SIGSTOP. Its own watchdog gives it three minutes, and cursor() waits for it."""
    journald = int(shown("MainPID", JOURNALD))
    os.kill(journald, signal.SIGSTOP)
    try:
        stat = pathlib.Path(f"/proc/{journald}/stat")
        eventually(lambda: stat.read_text().rpartition(") ")[2][0] == "T", 2, "not stopped")
        yield
        must(int(shown("MainPID", JOURNALD)) == journald, "journald was killed meanwhile")
    finally:
        os.kill(journald, signal.SIGCONT)


def with_lines(per_s: int) -> str:
    """The configuration with another [log] requests_per_s."""
    text = CONFIG.read_text()
    must("[log]\n" in text, "no [log]")
    return text.replace("[log]\n", f"[log]\nrequests_per_s = {per_s}\n")


def lines_dropped() -> int:
    """As `raida-uring status` has it; 0 also when it does not answer."""
    done = run("status", "--json", "--config", str(CONFIG))
    return int(json.loads(done.stdout)["log"]["dropped"]) if done.returncode == 0 else 0


def told(*arguments: str) -> float:
    """Seconds that a command of the program took. Raises NotSoError unless it went well."""
    began = time.monotonic()
    done = run(*arguments, "--config", str(CONFIG))
    must(done.returncode == 0, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


@check
def wrong_configuration_of_the_socket_unit() -> str:
    """clients of raida-uring.socket do not start a node with a wrong configuration for ever"""
    stopped()
    with configured(CONFIG.read_text().replace("raida_id = 0", "raida_id = 77")):
        systemctl("start", SOCKET_UNIT)
        since = cursor()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(build(), ("127.0.0.1", PORT))
            took_s = eventually(
                lambda: shown("ActiveState", SOCKET_UNIT) == "failed", 30, "still tried"
            )
        why = shown("Result", SOCKET_UNIT)
        must(why == "service-start-limit-hit", why)
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    ended = [text for text in said if "status=2/INVALIDARGUMENT" in text]
    stopped()
    systemctl("start", SOCKET_UNIT)
    must(ask_udp(timeout_s=20) == 250, "no answer once it is right")
    stopped()
    return f"{len(ended)} tries, {took_s:.1f} s"


@check
def journald_stands() -> str:
    """journald stopped: the node serves and is told things; what was dropped is logged later"""
    fresh_start()
    since, former = cursor(), main_pid()
    took: dict[str, float] = {}
    with Hammer() as hammer:
        with journald_stopped():
            before = sum(hammer.answered.values())
            time.sleep(2.5 * WATCHDOG_S)
            per_s = (sum(hammer.answered.values()) - before) / (2.5 * WATCHDOG_S)
            must(per_s > 100, f"{per_s:.0f} requests/s are not a line each for 100 lines/s")
            must(main_pid() == former, "another process")
            must_be_active()
            took["status"] = told("status")
            took["raida-uring reload"] = told("reload")
            with configured(with_lines(1000)):  # drops sooner
                took["systemctl reload"] = timed(lambda: systemctl("reload", UNIT))
                took["upgrade"] = told("upgrade")
                eventually(lambda: main_pid() not in (0, former), 5, "MAINPID as before")
                must_be_active()
                old, former = former, main_pid()
                gone = pathlib.Path(f"/proc/{old}")
                eventually(lambda: not gone.exists(), 20, "the old one is there")
                took["restart"] = timed(lambda: systemctl("restart", UNIT))
                must(main_pid() not in (0, former) and answers(), "no answer after a restart")
                took["drop"] = eventually(lambda: lines_dropped() > 0, 60, "nothing dropped")
                must_be_active()
        entry = logged("lines_dropped", since, 60)
        must(entry.get("_PID") == str(main_pid()), f"another process: {entry}")
        must(entry["PRIORITY"] == "3", f"priority {entry['PRIORITY']}")
    slowest = max(took, key=lambda name: 0 if name == "drop" else took[name])
    must(took[slowest] < STOP_TIMEOUT_S / 2, f"{slowest}: {took[slowest]:.1f} s")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    return f"{times}; {entry['MESSAGE']}; {hammer.summary()}"


@check
def journald_stands_at_the_stop() -> str:
    """journald stopped: `systemctl stop` ends the node well and within its time-out"""
    seen = []
    for per_s, full in ((100, "journald's socket"), (1000, "the node's queue as well")):
        with configured(with_lines(per_s)):
            fresh_start()
            since = cursor()
            with journald_stopped():
                with Hammer():
                    if per_s == 100:
                        time.sleep(WATCHDOG_S)  # twice what the socket takes
                    else:
                        eventually(lambda: lines_dropped() > 0, 60, "nothing dropped")
                took_s = timed(lambda: systemctl("stop", UNIT))
                must(shown("Result") == "success", f"{shown('Result')} after {took_s:.1f} s")
            must(took_s < STOP_TIMEOUT_S / 2, f"{took_s:.1f} s with {full} full")
            cursor()  # journald has caught up
            said = [str(entry["MESSAGE"]) for entry in journal(since)]
            ended = any("Deactivated successfully" in text for text in said)
            must(ended, f"the journal knows no good end: {said[-5:]}")
            killed = [text for text in said if "SIGKILL" in text or "timed out" in text]
            must(not killed, str(killed))
            seen.append(f"{took_s:.1f} s with {full} full")
    return ", ".join(seen)


# ---- starts that find something in their way ----


def ip(*arguments: str) -> str:
    """What iproute2 printed."""
    done = subprocess.run(
        ["ip", *arguments], check=True, timeout=30, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@contextlib.contextmanager
def interface(name: str = "proof") -> Iterator[None]:
    """A virtual one that has a carrier, and no address but its link-local one."""
    ip("link", "add", "name", name, "type", "veth", "peer", "name", "proof-peer")
    try:
        ip("link", "set", "proof-peer", "up")
        ip("link", "set", name, "up")
        yield
    finally:
        ip("link", "delete", name)


def bound_to(address: str) -> str:
    """The configuration with one address."""
    return CONFIG.read_text().replace('"0.0.0.0", "::"', f'"{address}"')


def begin_start() -> None:
    """Without waiting for what comes of it."""
    stopped()
    systemctl("start", "--no-block", UNIT)


def must_wait(seconds: float) -> str:
    """For what it waits, as `systemctl status` shows it. Raises NotSoError unless it does."""
    eventually(
        lambda: shown("StatusText").startswith("waiting: "), PROMPT_S, "no STATUS that it waits"
    )
    time.sleep(seconds)
    must(shown("ActiveState") == "activating", shown("ActiveState"))
    must(shown("NRestarts") == "0", f"NRestarts={shown('NRestarts')}")
    return shown("StatusText")


def active_within(timeout_s: float, restarts: int = 0) -> float:
    """Seconds until the unit is. Raises NotSoError, also for another number of restarts."""
    took_s = eventually(lambda: shown("ActiveState") == "active", timeout_s, "not active")
    must_be_active(restarts)
    return took_s


@check
def late_address() -> str:
    """an address of [network] bind comes after the start: active at once, answers there then"""
    seen = []
    for address, length in (("192.0.2.14", 24), ("2001:db8::14", 64)):
        with interface(), configured(bound_to(address)):
            since = cursor()
            begin_start()
            active_s = active_within(PROMPT_S)
            logged("address_missing", since)
            time.sleep(LATE_S)
            must(not answers(address), "answers on an address that is not there")
            ip("address", "add", f"{address}/{length}", "dev", "proof")
            took_s = eventually(functools.partial(answers, address), PROMPT_S, "no answer")
            must_be_active()
            systemctl("stop", UNIT)
            seen.append(f"{address}: active after {active_s:.1f} s, answers after {took_s:.1f} s")
    return "; ".join(seen)


@check
def late_address_of_the_socket_unit() -> str:
    """raida-uring.socket has an address before an interface has: the node serves it then"""
    address, drop_in = "192.0.2.16", pathlib.Path(f"/etc/systemd/system/{SOCKET_UNIT}.d/proof.conf")
    drop_in.parent.mkdir(exist_ok=True)
    place = f"{address}:{PORT}"  # in place of all others
    drop_in.write_text(f"[Socket]\nListenStream=\nListenStream={place}\nListenDatagram={place}\n")
    try:
        with interface(), configured(bound_to(address)):
            stopped()
            systemctl("daemon-reload")
            systemctl("start", SOCKET_UNIT)
            ip("address", "add", f"{address}/24", "dev", "proof")
            must(ask_udp(timeout_s=20, host=address) == 250, "another status")
            must(answers(address), "no answer")
            must_be_active()
            stopped()
    finally:
        drop_in.unlink()
        systemctl("daemon-reload")
    return f"{address}: answers the datagram that started it"


@check
def tentative_address() -> str:
    """duplicate address detection at the start: active at once, answers once the address is good"""
    address = "2001:db8::15"
    with interface(), configured(bound_to(address)):
        probes = pathlib.Path("/proc/sys/net/ipv6/conf/proof/dad_transmits")
        probes.write_text("6")  # one a second
        since = cursor()
        stopped()
        ip("address", "add", f"{address}/64", "dev", "proof")
        systemctl("start", "--no-block", UNIT)
        active_s = active_within(PROMPT_S)
        tentative = "tentative" in ip("address", "show", "dev", "proof", "to", address)
        must(tentative, f"the case was not met: active after {active_s:.1f} s")
        logged("address_missing", since)
        took_s = eventually(lambda: answers(address), 20, "no answer")
        must_be_active()
        systemctl("stop", UNIT)
    return f"active after {active_s:.1f} s, answers {took_s:.1f} s later"


@check
def late_interface() -> str:
    """an interface of [network] bind comes after the start, which waits: active then"""
    address = "fe80::14%late"
    with configured(bound_to(address)):
        begin_start()
        text = must_wait(LATE_S)
        with interface("late"):
            ip("address", "add", "fe80::14/64", "dev", "late", "nodad")
            took_s = active_within(PROMPT_S)
            eventually(lambda: answers(address), PROMPT_S, "no answer")
            must_be_active()
            systemctl("stop", UNIT)
    return f"{text}; active {took_s:.1f} s after it"


@contextlib.contextmanager
def outgoing(port: int, host: str = "127.0.0.7") -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from `port` of this machine: its client's and its server's end.

    host: not where clients asked before, whose connections are in TIME-WAIT.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
        with socket.create_connection(where, 5, (host, port)) as asking:
            accepted, _ = server.accept()
            with accepted:
                yield asking, accepted


def reset(one: socket.socket) -> None:
    """Close it so that nothing waits for late segments."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@check
def port_of_a_connection() -> str:
    """the port is an outgoing connection's at the start, which waits: active once it is free"""
    stopped()
    with outgoing(PORT) as (asking, _):
        begin_start()
        text = must_wait(LATE_S)
        reset(asking)
        took_s = active_within(PROMPT_S)
        must(answers(), "no answer")
    return f"{text}; active {took_s:.1f} s after it"


@check
def port_in_time_wait() -> str:
    """the port is held longer than a start waits: it ends with 1, the next one serves"""
    extended(f"TimeoutStartSec={WATCHDOG_S}s")  # which the node asks to be longer
    stopped()
    since = cursor()
    with outgoing(PORT) as (asking, accepted):
        began = time.monotonic()
        begin_start()
        must_wait(LATE_S)
        asking.close()
        accepted.close()
        active_within(CLOSING_S + 3 * PROMPT_S, restarts=1)
        took_s = time.monotonic() - began
    must(answers(), "no answer")
    extended("")
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    must(any("status=1/FAILURE" in text for text in said), f"no exit status 1: {said}")
    return f"active after {took_s:.0f} s, 1 restart"


@check
def exit_status_1() -> str:
    """what ends a start with 1 is tried again as often as it takes"""
    stopped()
    since = cursor()
    extended("LimitNPROC=1")
    systemctl("start", "--no-block", UNIT)
    tries = 11  # within more than the ten seconds of StartLimitIntervalSec=
    eventually(lambda: int(shown("NRestarts")) >= tries, 60, f"{shown('NRestarts')} restarts")
    must(shown("ActiveState") == "activating", shown("ActiveState"))
    extended("")
    eventually(lambda: shown("ActiveState") == "active", PROMPT_S, "not active")
    must(answers(), "no answer")
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    ended = [text for text in said if "Main process exited" in text]
    must(all("status=1/FAILURE" in text for text in ended), str(ended))
    line = next((text for text in said if text.startswith("raida-uring: ")), "")
    must(line, f"no reason: {said}")
    must(not any("Traceback" in text for text in said), str(said))
    return f"{len(ended)} tries; {line}"


def http_answers() -> bool:
    """Whether the node says by HTTP that it is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def taken_by_servers(admin: pathlib.Path) -> Iterator[None]:
    """Both places."""
    with (
        socket.create_server(("127.0.0.1", HTTP_PORT)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        other.bind(str(admin))
        other.listen()
        yield
        admin.unlink()


@contextlib.contextmanager
def taken_otherwise(admin: pathlib.Path) -> Iterator[None]:
    """The port by a client, the path by a directory."""
    admin.mkdir()
    try:
        with outgoing(HTTP_PORT, "127.0.0.1") as (asking, _):
            yield
            reset(asking)
    finally:
        admin.rmdir()


@check
def places_of_operators_taken() -> str:
    """metrics port and admin path are taken: active all the same, and there once they are free"""
    admin = STATE / "proof.sock"
    text = f'{CONFIG.read_text()}\n[admin]\nsocket = "{admin}"\n'
    seen = []
    for taken in (taken_otherwise, taken_by_servers):  # by a client while HTTP had none
        with configured(text):
            stopped()
            with taken(admin):
                since = cursor()
                begin_start()
                active_s = active_within(PROMPT_S)
                must(answers(), "no answer")
                logged("http_failed", since)
                logged("admin_socket_failed", since)
                time.sleep(LATE_S)  # longer than it waits between two tries
                must(answers(), "no answer any more")
                must_be_active()
            took_s = eventually(http_answers, PROMPT_S, "no HTTP")
            eventually(
                lambda: run("status", "--config", str(CONFIG)).returncode == 0,
                PROMPT_S,
                "no admin socket",
            )
            must_be_active()
            systemctl("stop", UNIT)
        seen.append(f"active after {active_s:.1f} s, there {took_s:.1f} s after it was free")
    return "; ".join(seen)


@check
def analyze() -> str:
    """`systemd-analyze verify` has nothing to say; exposure at most 2.0"""
    for unit in (UNIT, SOCKET_UNIT):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        must(done.returncode == 0 and not done.stderr.strip(), done.stderr)
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    must(done.returncode == 0, last)
    return last.removeprefix("→ ")


def prepare() -> None:
    """Handlers that the checks need."""
    MODULES.mkdir(exist_ok=True)
    naps = (
        "import time\n\nfrom raida_uring.handlers import Node, Reply, Request, command\n\n\n"
        f'@command(group={NAP[0]}, code={NAP[1]}, mode="slow")\n'
        "def nap(request: Request, node: Node) -> Reply:\n    time.sleep(2)\n    return Reply()\n\n"
        f'@command(group={DRAWN_NAP[0]}, code={DRAWN_NAP[1]}, mode="slow")\n'
        "def drawn_nap(request: Request, node: Node) -> Reply:\n"
        "    time.sleep(6)\n    return Reply()\n\n"
        f'@command(group={LONG_NAP[0]}, code={LONG_NAP[1]}, mode="slow")\n'
        "def long_nap(request: Request, node: Node) -> Reply:\n"
        f"    time.sleep({3 * WATCHDOG_S})\n    return Reply()\n"
    )
    (MODULES / "naps.py").write_text(naps)
    (MODULES / "slow_import.py").write_text(naps + "\n\ntime.sleep(3)\n")


def main() -> None:
    """Run the chosen checks one after the other."""
    signal.alarm(1700)
    chosen = pathlib.Path("/mnt/out/checks").read_text().split()
    prepare()
    version = systemctl("--version").splitlines()[0]
    print(f"systemd: {version}; kernel {os.uname().release}")
    right = CONFIG.read_text()
    for one in checks:
        if chosen and one.__name__ not in chosen:
            continue
        title = (one.__doc__ or "").splitlines()[0]
        began = time.monotonic()
        try:
            seen = one()
        except NotSoError as error:
            print(f"FAIL {one.__name__}: {title}: {error}")
        except Exception:
            print(f"FAIL {one.__name__}: {title}:\n{traceback.format_exc()}")
        else:
            print(f"PASS {one.__name__}: {title}: {seen} [{time.monotonic() - began:.0f} s]")
        CONFIG.write_text(right)
        extended("")
    print("END")


if __name__ == "__main__":
    main()
