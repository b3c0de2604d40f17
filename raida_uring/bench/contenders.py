"""The servers that the benchmark measures: the node and its peers, one process each.

Every server is started on a free port of 127.0.0.1, pinned with all its threads, and stopped by
SIGTERM. Thread: the runner's.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from raida_uring.bench.cases import RAIDA_ID
from raida_uring.errors import RaidaError
from raida_uring.observe.counters import COUNTERS, violations

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

ROOT = Path(__file__).resolve().parents[2]
PEER_SOURCES = ROOT / "tools" / "bench"
PEER_BUILD = ROOT / "build" / "bench"
PEERS = ("uring", "mmsg", "asyncio", "uvloop")


class ContenderError(RaidaError):
    """A server could not be built, did not start, or failed when it ended."""


@dataclass(frozen=True, slots=True)
class Contender:
    """How to start a server: `command(port, directory)` gives its argument list.

    is_node: it logs that it serves; a peer prints a line `ready`.
    """

    name: str
    command: Callable[[int, Path], list[str]]
    is_node: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A running contender."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> dict[int, float]:
        """CPU time of every running thread so far, by thread id, in seconds.

        Read from schedstat, which counts nanoseconds; stat counts ticks of 10 ms. Includes the
        softirq work that a send on loopback causes.
        """
        found = {}
        for thread in sorted(int(path.name) for path in Path(f"/proc/{self.pid}/task").iterdir()):
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                found[thread] = self._schedstat(thread)[0]
        return found

    def thread_name(self, thread_id: int) -> str:
        """Return the thread's name, at most 15 characters."""
        path = Path(f"/proc/{self.pid}/task/{thread_id}/comm")
        return path.read_text(encoding="utf-8").rstrip("\n")

    def waited_s(self, thread_id: int) -> float:
        """Time so far that the thread was runnable and waited for its core, in seconds."""
        return self._schedstat(thread_id)[1]

    def _schedstat(self, thread_id: int) -> tuple[float, float]:
        path = Path(f"/proc/{self.pid}/task/{thread_id}/schedstat")
        used_ns, waited_ns, _ = path.read_text(encoding="ascii").split()
        return int(used_ns) / 1e9, int(waited_ns) / 1e9


def node(name: str = "node", **tables: dict[str, object]) -> Contender:
    """The node as an operator would start it, from a configuration file with these tables."""

    def command(port: int, directory: Path) -> list[str]:
        own: dict[str, dict[str, object]] = {
            "server": {"raida_id": RAIDA_ID, "port": port},
            "network": {"bind": [HOST]},
            "http": {"enabled": False},
        }
        lines = []
        for table in own | tables:
            lines.append(f"[{table}]")  # JSON writes numbers, strings and lists as TOML does
            settings = own.get(table, {}) | tables.get(table, {})
            lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        path = directory / "config.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [sys.executable, "-m", "raida_uring", "serve", "--config", str(path)]

    return Contender(name, command, is_node=True)


def has_peers() -> bool:
    """Whether this is a source tree: an installed package measures the node alone."""
    return PEER_SOURCES.is_dir()


def peer(name: str) -> Contender:
    """Return a peer of `PEERS`, compiled first if it is C. Raises ContenderError if unavailable."""
    if not has_peers():
        raise ContenderError("the peers are in tools/bench of the source tree, not in the package")
    if name in ("asyncio", "uvloop"):
        if importlib.util.find_spec(name) is None:
            raise ContenderError(f"{name} is not installed")
        source = str(PEER_SOURCES / "peer_asyncio.py")
        options = ["--uvloop"] if name == "uvloop" else []
        return Contender(
            name, lambda port, _: [sys.executable, source, str(port), str(RAIDA_ID), *options]
        )
    program = str(compile_peer(name))
    return Contender(name, lambda port, _: [program, str(port), str(RAIDA_ID)])


def compile_peer(name: str, build_directory: Path = PEER_BUILD) -> Path:
    """Compile tools/bench/peer_<name>.c and return the program. Raises ContenderError."""
    source = PEER_SOURCES / f"peer_{name}.c"
    program = build_directory / source.stem
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    warnings = ["-Wall", "-Wextra", "-Wswitch-enum", "-Wshadow", "-Werror"]
    build_directory.mkdir(parents=True, exist_ok=True)
    command = [*compiler.split(), "-O2", "-std=gnu11", *warnings, str(source), "-o", str(program)]
    if name == "uring":
        command.append("-l:liburing.a")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ContenderError(f"{compiler}: {error.strerror}") from error
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise ContenderError(f"{source.name} does not compile: {first.strip()}")
    return program


@contextlib.contextmanager
def pinned(cpus: Collection[int]) -> Iterator[None]:
    """Pin this thread to `cpus` for a `with` block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(contender: Contender, cpus: Collection[int]) -> Iterator[Server]:
    """Start the contender on `cpus`, yield it when it is ready, stop it at the end.

    Raises ContenderError if it does not start, ends early, or fails when it ends.
    """
    with tempfile.TemporaryDirectory(prefix="raida-bench-") as name:
        directory, port = Path(name), _free_port()
        process = _spawn(contender, port, directory, cpus)
        try:
            _wait_ready(contender, process, directory)
            try:
                yield Server(contender.name, port, process.pid)
            except RaidaError as error:
                if process.poll() is not None:  # the server's end is the cause of a failed load
                    raise _ended(contender, process, directory) from error
                raise
            if process.poll() is not None:
                raise _ended(contender, process, directory)
            _stop(contender, process, directory)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def core_busy_s(cpu: int) -> float:
    """Time so far that core `cpu` was busy or taken by the hypervisor, in seconds."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        fields = next(line.split() for line in stat if line.startswith(f"cpu{cpu} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def stolen_ticks() -> int:
    """Clock ticks so far that the hypervisor took from any core with work to do (steal)."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        return int(stat.readline().split()[8])


def _spawn(
    contender: Contender, port: int, directory: Path, cpus: Collection[int]
) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if (ROOT / "pyproject.toml").exists():  # an uninstalled source tree works, too
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), inherited)))
    command = contender.command(port, directory)
    with (
        pinned(cpus),  # the child and all its threads inherit it
        (directory / "stdout").open("wb") as out,
        (directory / "stderr").open("wb") as err,
    ):
        try:
            return subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        except OSError as error:
            raise ContenderError(f"{contender.name}: {error}") from error


def _wait_ready(contender: Contender, process: subprocess.Popen[bytes], directory: Path) -> None:
    output, line = ("stderr", b"serving on ") if contender.is_node else ("stdout", b"ready\n")
    deadline = time.monotonic() + START_TIMEOUT_S
    while line not in (directory / output).read_bytes():
        if process.poll() is not None:
            raise _ended(contender, process, directory)
        if time.monotonic() > deadline:
            raise ContenderError(f"{contender.name}: not ready in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.005)  # between looks


def _stop(contender: Contender, process: subprocess.Popen[bytes], directory: Path) -> None:
    process.terminate()
    try:
        status = process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ContenderError(f"{contender.name}: still runs after SIGTERM") from error
    if not contender.is_node:
        return  # the signal ends a C peer by design
    stderr = (directory / "stderr").read_text(errors="replace")
    if status != 0:
        raise _ended(contender, process, directory)
    found = re.search(r"final counters (\{.*\})", stderr)  # without those that are 0
    if found is not None:
        broken = violations(dict.fromkeys(COUNTERS, 0) | json.loads(found[1]))
        if broken:
            raise ContenderError(f"node: conservation broken: {'; '.join(broken)}")


def _ended(
    contender: Contender, process: subprocess.Popen[bytes], directory: Path
) -> ContenderError:
    lines = (directory / "stderr").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no message"
    return ContenderError(f"{contender.name} ended with {process.returncode}: {last}")


def _free_port() -> int:
    """Return a port that is free for TCP and UDP at this moment."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind((HOST, 0))
            port = int(stream.getsockname()[1])
            with contextlib.suppress(OSError):
                datagram.bind((HOST, port))
                return port
