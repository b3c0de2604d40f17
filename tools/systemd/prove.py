"""Tries raida-uring.service under the systemd that runs here. Root, in a machine of its own.

Each check says what must hold and prints one line, PASS or FAIL, with what was seen; the last line
is END. Run by tools/systemd/guest.sh after the node is installed; names in /mnt/out/checks choose
some of them.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from raida_uring import protocol

UNIT = "raida-uring.service"
SOCKET_UNIT = "raida-uring.socket"
PROGRAM = "/opt/raida-uring/bin/raida-uring"
CONFIG = pathlib.Path("/etc/raida-uring/node.toml")
DROP_IN = pathlib.Path(f"/etc/systemd/system/{UNIT}.d/proof.conf")
MODULES = pathlib.Path("/opt/proof")
PORT = 50000
WATCHDOG_S = 10  # as the unit has it
MARGIN_S = 8  # for the restart after that, on a busy machine
NAP, LONG_NAP = (5, 200), (5, 201)
NOTABLE_S = 5.0  # for a client to wait: printed, to be looked up in the journal

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


def logged(name: str, since: str) -> dict[str, object]:
    """The last entry of that event. Raises NotSoError when there is none within a second."""
    entries: list[dict[str, object]] = []

    def found() -> bool:
        entries[:] = [entry for entry in journal(since) if entry.get("RAIDA_EVENT") == name]
        return bool(entries)

    eventually(found, 2, f"no {name} in the journal")
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


def fresh_start() -> None:
    """Stopped and started, counters of systemd at zero."""
    systemctl("stop", SOCKET_UNIT, UNIT, status=None)
    systemctl("reset-failed", UNIT, status=None)
    systemctl("start", UNIT)


# ---- clients ----


def build(command: tuple[int, int] = (0, 1)) -> bytes:
    """A request that raida 0 answers."""
    return protocol.build_request(
        *command, b"", raida_id=0, coin_id=6, echo=0x1122, challenge=os.urandom(12)
    )


def ask_tcp(command: tuple[int, int] = (0, 1), port: int = PORT, timeout_s: float = 20) -> int:
    """The status of the reply. Raises OSError, EOFError when the node hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as peer:
        peer.sendall(build(command))
        reply = peer.recv(4096)
        if not reply:
            raise EOFError("closed without an answer")
        return reply[2]


def ask_udp(command: tuple[int, int] = (0, 1), port: int = PORT, timeout_s: float = 5) -> int:
    """The status of the reply. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(timeout_s)
        peer.connect(("127.0.0.1", port))
        peer.send(build(command))
        return peer.recv(4096)[2]


def answers(port: int = PORT) -> bool:
    """Over both transports."""
    try:
        return ask_udp(port=port, timeout_s=1) == ask_tcp(port=port, timeout_s=1) == 250
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


# ---- checks ----


@check
def ready() -> str:
    """active only once it answers (Type=notify); STATUS text"""
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(f"[Service]\nEnvironment=PYTHONPATH={MODULES}\n")
    systemctl("daemon-reload")
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
    DROP_IN.unlink()
    systemctl("daemon-reload")
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
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(f"[Service]\nEnvironment=PYTHONPATH={MODULES}\n")
    systemctl("daemon-reload")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        since = cursor()
        statuses: list[object] = []

        def ask() -> None:
            try:
                statuses.append(ask_tcp(NAP))
            except (OSError, EOFError) as error:
                statuses.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.5)
        began = time.monotonic()
        systemctl("stop", "--no-block", UNIT)
        eventually(lambda: shown("ActiveState") == "deactivating", 2, "not deactivating")
        text = shown("StatusText")
        asking.join()
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
        took_s = time.monotonic() - began
    DROP_IN.unlink()
    systemctl("daemon-reload")
    must(statuses == [250], f"a request under way got {statuses}")
    must(text.startswith("answering"), f"STATUS is {text!r}")
    must(shown("Result") == "success" and shown("ExecMainStatus") == "0", shown("Result"))
    final = logged("final_counters", since)
    must(final["RAIDA_TCP_ANSWERED"] == "1", "the counters know it not")
    return f"answered after 2 s of work, stopped after {took_s:.1f} s"


@check
def drain_outlasts_the_manager() -> str:
    """a drain longer than WatchdogSec= and TimeoutStopSec= answers what is under way"""
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(
        f"[Service]\nEnvironment=PYTHONPATH={MODULES}\nTimeoutStopSec={2 * WATCHDOG_S}s\n"
    )
    systemctl("daemon-reload")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        statuses: list[object] = []

        def ask() -> None:
            try:
                statuses.append(ask_tcp(LONG_NAP, timeout_s=6 * WATCHDOG_S))
            except (OSError, EOFError) as error:
                statuses.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.5)
        began = time.monotonic()
        done = run("drain", "--timeout", str(6 * WATCHDOG_S), "--config", str(CONFIG))
        took_s = time.monotonic() - began
        asking.join()
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
    DROP_IN.unlink()
    systemctl("daemon-reload")
    must(statuses == [250], f"a request under way got {statuses}, drain said {done.stderr}")
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
    systemctl("stop", SOCKET_UNIT, UNIT, status=None)
    systemctl("reset-failed", UNIT, status=None)
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
        f'@command(group={LONG_NAP[0]}, code={LONG_NAP[1]}, mode="slow")\n'
        "def long_nap(request: Request, node: Node) -> Reply:\n"
        f"    time.sleep({3 * WATCHDOG_S})\n    return Reply()\n"
    )
    (MODULES / "naps.py").write_text(naps)
    (MODULES / "slow_import.py").write_text(naps + "\n\ntime.sleep(3)\n")


def main() -> None:
    """Run the chosen checks one after the other."""
    signal.alarm(900)
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
        DROP_IN.unlink(missing_ok=True)
    print("END")


if __name__ == "__main__":
    main()
