"""A node at one moment: the answers of the admin socket, of HTTP and of /metrics are made from it.

status.py makes JSON of it, prometheus.py the text of /metrics, readiness.py a verdict. Any thread.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raida_uring import log
from raida_uring.addresses import Bound, format_endpoint
from raida_uring.config import Config
from raida_uring.errors import StoreError
from raida_uring.ffi import native
from raida_uring.handlers import Command
from raida_uring.observe import process
from raida_uring.store import Sizes, Store
from raida_uring.store.trees import Integrity


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane and its workers. busy: workers that hold requests. queued: requests that wait for a
    worker. oldest_s: how long the first of them has waited; 0: none waits."""

    workers: int
    busy: int
    queued: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Pool:
    """A limited supply. lent: of what is used, the blocks that workers hold for replies to come,
    which idle ones do as well."""

    used: int
    size: int
    lent: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """What workers answered to one command: number of replies by status, and the time from receipt
    to reply of all of them together."""

    group: int
    code: int
    name: str
    replies: dict[int, int]
    spent_s: float

    @property
    def count(self) -> int:
        """Replies of any status."""
        return sum(self.replies.values())

    @property
    def label(self) -> str:
        """Group and code, as in docs/wire.md: "1/10"."""
        return f"{self.group}/{self.code}"


@dataclass(frozen=True, slots=True)
class Roots:
    """How the trees follow the store."""

    published: int
    lag_s: float
    lag_max_s: float
    circulating: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Writing:
    """Whether the store can be written. fault: why not, None when it can. failed_commits: since
    start. disk_free_bytes: None where the file system does not tell."""

    fault: str | None
    failed_commits: int
    disk_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Serving:
    """What the serving part of a node tells of itself.

    tier: backend and tier in use and, where it is not the best, why; for people. url: of the status
    page. http_fault: why there is none although it is wanted. started_at: seconds since 1970, by
    the clock as it is set now.
    """

    phase: str
    draining: bool
    tier: str
    url: str | None
    http_fault: str | None
    connections_max: int
    started_at: float
    uptime_s: float


@dataclass(frozen=True, slots=True)
class Subject:
    """What a snapshot is taken of. The engine, the store and the sockets stay open meanwhile."""

    config: Config
    serving: Serving
    engine: native.Engine
    commands: Sequence[Command]
    bound: Sequence[Bound]
    store: Store | None
    integrity: Integrity | None
    io_thread: threading.Thread
    workers: Sequence[threading.Thread]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A node at one moment; its counters are one consistent set.

    now_ns: CLOCK_MONOTONIC. io_thread_alive: False once it has ended. kernel_drops: datagrams by
    address. host_errors: by address family. thread_times: CPU and waiting for a core, seconds, by
    thread name. tier: as the engine names it. refusal: why io_uring is not used, empty where it is
    or was not asked for. store: None without one, or where it cannot be read now.
    """

    config: Config
    serving: Serving
    now_ns: int
    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, native.Histogram]
    commands: list[Answered]
    lanes: dict[str, Lane]
    pools: dict[str, Pool]
    endpoints: list[tuple[str, int]]
    kernel_drops: dict[str, int]
    host_errors: dict[str, int]
    io_thread_alive: bool
    thread_times: dict[str, tuple[float, float]]
    descriptor_left: bool
    store: Sizes | None
    writing: Writing | None
    roots: Roots | None
    tier: str
    refusal: str
    arena_size: int
    log_level: str
    log_dropped: int


def take(subject: Subject) -> Snapshot:
    """Look at a node that serves. Takes about a millisecond."""
    engine, trees = subject.engine, subject.integrity
    counters, gauges = engine.counters(), engine.gauges()
    now_ns = time.monotonic_ns()
    refusal = engine.refusal
    return Snapshot(
        config=subject.config,
        serving=subject.serving,
        now_ns=now_ns,
        counters=counters,
        gauges=gauges,
        histograms={kind: engine.histogram(kind) for kind in native.HISTOGRAM_KINDS},
        commands=_answered(engine, subject.commands),
        lanes=_lanes(subject, gauges, now_ns),
        pools=_pools(subject, counters, gauges),
        endpoints=[(bound.host, bound.port) for bound in subject.bound],
        kernel_drops={
            format_endpoint(bound.host, bound.port): process.kernel_drops(bound.udp)
            for bound in subject.bound
        },
        host_errors=process.host_errors(),
        io_thread_alive=subject.io_thread.is_alive(),
        thread_times={
            "io": process.thread_times([subject.io_thread]),
            "workers": process.thread_times(subject.workers),
        },
        descriptor_left=process.descriptor_left(),
        store=_sizes(subject.store),
        writing=_writing(subject.store),
        roots=None
        if trees is None
        else Roots(trees.published, trees.lag_s, trees.lag_max_s, trees.circulating),
        tier=engine.tier,
        refusal="" if refusal is None else str(refusal),
        arena_size=engine.arena_size,
        log_level=log.current_level(),
        log_dropped=log.dropped(),
    )


def _answered(engine: native.Engine, commands: Iterable[Command]) -> list[Answered]:
    """Commands that were asked for, by number."""
    found = []
    for item in sorted(commands, key=lambda item: item.number):
        replies, spent_ns = engine.answered(item.group, item.code)
        if replies:
            name = item.name.rpartition(".")[2]
            found.append(Answered(item.group, item.code, name, replies, spent_ns / 1e9))
    return found


def _lanes(subject: Subject, gauges: Mapping[str, int], now_ns: int) -> dict[str, Lane]:
    every = {
        "ordinary": subject.config.workers.count,
        "slow": subject.config.workers.slow_count,
        "write": int(subject.store is not None),
        "native": subject.config.workers.native_count,
        "native_write": int(subject.store is not None),
    }
    lanes = {}
    for name, workers in every.items():
        since_ns = gauges[f"oldest_{name}_ns"]
        lanes[name] = Lane(
            workers=workers,
            busy=gauges[f"busy_{name}"],
            queued=gauges[f"queued_{name}"],
            oldest_s=max(0, now_ns - since_ns) / 1e9 if since_ns else 0.0,
        )
    return lanes


def _pools(
    subject: Subject, counters: Mapping[str, int], gauges: Mapping[str, int]
) -> dict[str, Pool]:
    config = subject.config
    sizes = {"small_blocks": config.limits.small_blocks, "large_blocks": config.limits.large_blocks}
    return {
        "udp_contexts": Pool(gauges["udp_contexts_held"], config.udp.contexts),
        **{
            name: Pool(gauges[f"{name}_used"], size, gauges[f"{name}_lent"])
            for name, size in sizes.items()
        },
        "tcp_buffers": Pool(gauges["tcp_buffers_used"], config.tcp.buffers),
        "connections": Pool(counters["connections_open"], subject.serving.connections_max),
    }


def _sizes(store: Store | None) -> Sizes | None:
    if store is None:
        return None
    try:
        return store.sizes()
    except StoreError:
        return None  # the store logs its own errors; the rest of the snapshot is of use


def _writing(store: Store | None) -> Writing | None:
    if store is None:
        return None
    free: int | None = None
    with contextlib.suppress(OSError):
        found = os.statvfs(store.path)
        free = found.f_bavail * found.f_frsize
    return Writing(store.write_fault, store.failed_commits, free)
