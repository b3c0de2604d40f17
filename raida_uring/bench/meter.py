"""One measurement: a load on a running server, and what it cost. Thread: the runner's."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from raida_uring.bench import cases, contenders
from raida_uring.bench.contenders import Server
from raida_uring.bench.load import (
    Exchange,
    Load,
    Result,
    open_syscall_counter,
    read_syscall_counter,
    run_load,
)
from raida_uring.bench.results import Measurement

WARM_UP_MS = 200
SYSCALL_RUN_MS = 300
IO_THREAD = "raida-io"


@dataclass(frozen=True, slots=True)
class Settings:
    duration_ms: int
    rounds: int
    server_cpu: int
    client_cpu: int
    only: str | None
    cpus: frozenset[int] = frozenset({0})  # all that the process may use

    @property
    def busy_poll(self) -> bool:
        """On a separate core the generator never sleeps: waking it would cost the server time."""
        return self.server_cpu != self.client_cpu

    def wants(self, case: str) -> bool:
        return self.only in (None, case)


def load_on(server: Server, settings: Settings, **changes: Any) -> Load:
    """Return the load of a case, with some of its fields changed."""
    load = Load(port=server.port, duration_ms=settings.duration_ms, busy_poll=settings.busy_poll)
    return dataclasses.replace(load, **changes)


def measured(
    load: Load,
    exchange: Exchange,
    server: Server,
    settings: Settings,
    warm_up_ms: int = WARM_UP_MS,
) -> Measurement:
    """Run `load` once the server is warm."""
    duration_ms = min(warm_up_ms, load.duration_ms)
    run_load(dataclasses.replace(load, duration_ms=duration_ms), exchange)
    meter = Meter(server, settings.server_cpu)
    return meter.measurement(run_load(load, exchange))


class Meter:
    """CPU time of a server and of its core, from construction to `measurement`.

    core_threads: the server's threads on that core; absent: all of them.
    """

    def __init__(self, server: Server, cpu: int, core_threads: set[int] | None = None) -> None:
        self._server = server
        self._cpu = cpu
        self._core_threads = core_threads
        self._used_s = server.cpu_s()
        self._core_s = contenders.core_busy_s(cpu)
        self._stolen_ticks = contenders.stolen_ticks()
        self._started_s = time.monotonic()

    def used_s(self) -> dict[int, float]:
        """CPU time by thread."""
        before = self._used_s
        return {thread: s - before.get(thread, 0.0) for thread, s in self._server.cpu_s().items()}

    def measurement(self, result: Result, without: Collection[int] = ()) -> Measurement:
        """Return what the load has cost. without: threads whose CPU time is not its own."""
        used_s = self.used_s()
        cpu_s = sum(used for thread, used in used_s.items() if thread not in without)
        here = used_s.keys() if self._core_threads is None else self._core_threads
        other_s = contenders.core_busy_s(self._cpu) - self._core_s - sum(used_s[t] for t in here)
        return Measurement(
            requests_per_cpu_s=result.answered / cpu_s if cpu_s > 0 else 0.0,
            requests_per_s=result.per_second,
            p50_us=result.p50_us,
            p90_us=result.p90_us,
            p99_us=result.p99_us,
            p999_us=result.p999_us,
            max_us=result.max_us,
            cpu_s=cpu_s,
            other_cpu=max(0.0, other_s) / (time.monotonic() - self._started_s),
            answered=result.answered,
            wrong=result.wrong,
            lost=result.lost,
            stray=result.stray,
            stolen_ticks=contenders.stolen_ticks() - self._stolen_ticks,
        )


def syscalls_per_request(load: Load, exchange: Exchange, server: Server) -> float | None:
    """Return the system calls per request of the server's I/O thread; None: cannot be counted.

    Needs a separate run, because the tracepoint slows every system call of the thread.
    """
    try:
        counter = open_syscall_counter(find_io_thread(server))
    except OSError:
        return None  # no tracefs or no CAP_PERFMON
    try:
        result = run_load(dataclasses.replace(load, duration_ms=SYSCALL_RUN_MS), exchange)
        return read_syscall_counter(counter) / result.answered if result.answered else None
    finally:
        os.close(counter)


def find_io_thread(server: Server) -> int:
    """Find the thread that serves the sockets: in the node by its name, in a peer as the one that
    uses most CPU time for votes."""
    for thread in server.cpu_s():
        if server.thread_name(thread) == IO_THREAD:
            return thread
    before = server.cpu_s()
    run_load(Load(port=server.port, duration_ms=100), cases.VOTE)
    after = server.cpu_s()
    return max(before, key=lambda thread: after[thread] - before[thread])


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Run this thread at real-time priority, if permitted."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def progress(line: str) -> None:
    """Print a line that the next one overwrites; nothing unless stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
