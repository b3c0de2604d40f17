"""What the node tells about itself: its counters' meanings and laws, one observation of everything,
and the same as Prometheus metrics, as JSON, and as a verdict on readiness.

Names, types and meanings stand in the two tables below; docs/reference.md repeats them and a test
compares. No metric is labelled by client: their number is bounded whatever arrives.
Source: architecture, "The conservation law"; the counters themselves stand in ffi/count/stats.h.
"""

import contextlib
import dataclasses
import errno
import math
import os
import platform
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import raida_uring
from raida_uring import log
from raida_uring.addresses import Bound, format_endpoint
from raida_uring.errors import StoreError
from raida_uring.observe.counters import COUNTER_FAMILIES, Family, metric_of
from raida_uring.protocol.status import UNLISTED, status_name

if TYPE_CHECKING:
    from raida_uring.config import Config
    from raida_uring.ffi.native import Engine, Histogram
    from raida_uring.handlers import Command
    from raida_uring.store import Sizes, Store
    from raida_uring.store.trees import Integrity

# --- Names ------------------------------------------------------------------------------------

FAMILIES: Final[Mapping[str, Family]] = {
    **COUNTER_FAMILIES,
    "raida_request_seconds": Family(
        "histogram", "requests of workers, from receipt to the reply queued", ("transport",)
    ),
    "raida_command_replies_total": Family(
        "counter",
        "replies of workers by command (group/code) and status; plain echoes and votes, which need "
        "none, are in raida_echoes_total and raida_udp_votes_total",
        ("command", "name", "status"),
    ),
    "raida_command_seconds_total": Family(
        "counter",
        "time from receipt, in full, to reply of all these together: by their number, the mean",
        ("command", "name"),
    ),
    "raida_queue_seconds": Family("histogram", "waiting for a worker, of every request handed out"),
    "raida_lap_seconds": Family("histogram", "one turn of the I/O thread without its sleep"),
    "raida_queued": Family("gauge", "requests that wait for a worker", ("lane",)),
    "raida_queue_oldest_seconds": Family(
        "gauge", "how long the first of them has waited; 0: none waits", ("lane",)
    ),
    "raida_workers": Family("gauge", "workers", ("lane",)),
    "raida_workers_busy": Family("gauge", "workers that hold requests", ("lane",)),
    "raida_pool_used": Family(
        "gauge",
        "of the pools udp_contexts (with handlers or queued for them), small_blocks and "
        "large_blocks (those lent to workers included), tcp_buffers, connections",
        ("pool",),
    ),
    "raida_pool_lent": Family(
        "gauge", "of what is used, the blocks that workers hold for replies to come", ("pool",)
    ),
    "raida_pool_size": Family("gauge", "what those pools hold at most", ("pool",)),
    "raida_udp_kernel_drops_total": Family(
        "counter",
        "datagrams that the kernel dropped at a UDP socket of the node (SO_MEMINFO), mostly for "
        "want of receive buffer; they are no part of udp_received",
        ("address",),
    ),
    "raida_host_udp_buffer_errors_total": Family(
        "counter",
        "RcvbufErrors of the whole network namespace (/proc/self/net/snmp and snmp6)",
        ("family",),
    ),
    "raida_thread_cpu_seconds_total": Family(
        "counter", "CPU time of the threads io and workers (schedstat)", ("threads",)
    ),
    "raida_thread_runqueue_seconds_total": Family(
        "counter", "time that these threads could run and had no core (schedstat)", ("threads",)
    ),
    "raida_store_bytes": Family("gauge", "in use by the store"),
    "raida_store_size_bytes": Family("gauge", "what it may grow to ([store] size_mib)"),
    "raida_store_pages": Family("gauge", "pages of coins that were written, of 15,000"),
    "raida_store_tickets": Family("gauge", "tickets in the store, expired ones included"),
    "raida_store_disk_free_bytes": Family(
        "gauge", "free on the store's file system, for a user without privileges"
    ),
    "raida_store_writable": Family(
        "gauge", "1; 0 from a commit that failed until one that writes as much succeeds"
    ),
    "raida_commit_failures_total": Family(
        "counter",
        "commits to the store that failed; while it cannot be written that is tried once a second, "
        "which counts, too",
    ),
    "raida_coins": Family("gauge", "coins in circulation", ("denomination",)),
    "raida_roots_published_total": Family("counter", "times that roots were shown to voters"),
    "raida_roots_lag_seconds": Family(
        "gauge", "age of the oldest commit that the roots do not show yet; 0: none"
    ),
    "raida_roots_lag_max_seconds": Family("gauge", "longest that a commit waited, since start"),
    "raida_ready": Family("gauge", "1 while /readyz says ready, but for the I/O thread, else 0"),
    "raida_draining": Family("gauge", "1 once the node has been told to stop"),
    "raida_overloaded": Family("gauge", "1 while requests cannot be handled in time"),
    "raida_start_time_seconds": Family("gauge", "when the node started, seconds since 1970"),
    "raida_arena_bytes": Family("gauge", "memory shared by the I/O thread and the workers"),
    "raida_log_dropped_total": Family(
        "counter", "lines of the log that were dropped: nobody read it, or it could not be written"
    ),
    "raida_build_info": Family("gauge", "1; of which build this is", ("version", "python")),
    "raida_node_info": Family(
        "gauge",
        "1; who this node is, its backend and tier, and why not a better one",
        ("raida_id", "coin_id", "backend", "tier", "refusal"),
    ),
}
"""Every metric of the node, in the order of /metrics. Those of the process come on top."""

PROCESS_METRICS: Final = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
)
"""What is told of the process, under the names that Prometheus's own clients use."""

# --- Observation ------------------------------------------------------------------------------

LANES: Final = ("ordinary", "slow", "write")
OVERLOAD_WAIT_S: Final = 1.0  # of a request for a worker of the lanes that do not refuse, below
REFUSALS_GAP_S: Final = 5.0  # after the latest refusal of a connection they are taken again
_REFUSING_LANE: Final = "slow"  # its queue has a bound of its own, past which it answers 160

_NET: Final = Path("/proc/self/net")  # /proc/net is hidden under ProcSubset=pid

_SO_MEMINFO: Final = 55  # not in Python's socket module; Linux's number
_MEMINFO_WORDS: Final = 9
_MEMINFO_DROPS: Final = 8  # SK_MEMINFO_DROPS


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
        """Group and code, as in docs/protocol.md: "1/10"."""
        return f"{self.group}/{self.code}"


def answered(engine: "Engine", commands: Iterable["Command"]) -> list[Answered]:
    """Commands that were asked for, by number. Any thread."""
    found = []
    for item in sorted(commands, key=lambda item: item.number):
        replies, spent_ns = engine.answered(item.group, item.code)
        if replies:
            name = item.name.rpartition(".")[2]
            found.append(Answered(item.group, item.code, name, replies, spent_ns / 1e9))
    return found


def answered_json(commands: Iterable[Answered]) -> list[dict[str, object]]:
    """The same for JSON."""
    return [
        {
            "command": one.label,
            "name": one.name,
            "answered": one.count,
            "statuses": {str(status): count for status, count in one.replies.items()},
            "names": {
                str(status): name
                for status in one.replies
                if (name := status_name(status)) != UNLISTED
            },
            "spent_s": one.spent_s,
        }
        for one in commands
    ]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is observed. The engine, the store and the sockets stay open meanwhile."""

    config: "Config"
    engine: "Engine"
    commands: Sequence["Command"]
    connections_max: int
    bound: Sequence[Bound]
    store: "Store | None"
    integrity: "Integrity | None"
    io_thread: threading.Thread
    workers: Sequence[threading.Thread]
    started_at: float  # seconds since 1970, by the clock as it is set now
    uptime_s: float
    draining: bool


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
class Observation:
    """A node at one moment; its counters are one consistent set.

    ages_s: of the oldest request that waits, by lane. pools: used and size. lent: of the used ones,
    those that workers hold in advance. kernel_drops: by address. host_errors: by address family.
    thread_times: CPU and waiting for a core, seconds, by thread name. refused_s: since when
    connections are refused and how long ago the latest was, None while they are taken. refusal: why
    io_uring is not used, empty where it is or was not asked for.
    """

    config: "Config"
    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, "Histogram"]
    commands: list[Answered]
    ages_s: dict[str, float]
    workers: dict[str, int]
    pools: dict[str, tuple[int, int]]
    lent: dict[str, int]
    endpoints: tuple[tuple[str, int], ...]
    kernel_drops: dict[str, int]
    host_errors: dict[str, int]
    thread_times: dict[str, tuple[float, float]]
    refused_s: tuple[float, float] | None
    descriptor_left: bool
    store: "Sizes | None"
    writing: Writing | None
    roots: Roots | None
    started_at: float
    uptime_s: float
    draining: bool
    backend: str
    tier: str
    refusal: str
    arena_size: int
    log_dropped: int
    python: str = field(default_factory=platform.python_version)

    def overloads(self) -> list[str]:
        """Why requests cannot be handled in time, in words; empty when they can."""
        reasons = []
        used, size = self.pools["udp_contexts"]
        if used >= size:
            reasons.append(f"overloaded: handlers hold all {size} UDP contexts")
        for lane, age_s in self.ages_s.items():
            if lane != _REFUSING_LANE and age_s > OVERLOAD_WAIT_S:
                reasons.append(f"overloaded: a request has waited {age_s:.1f} s for a worker")
        return reasons

    def faults(self) -> list[str]:
        """What requests fail for however few there are, in words; empty when nothing is wrong."""
        reasons = []
        if self.writing is not None and self.writing.fault is not None:
            reasons.append(f"the store cannot be written: {self.writing.fault}")
        if (refusals := self._refusals()) is not None:
            reasons.append(refusals)
        return reasons

    def _refusals(self) -> str | None:
        used, size = self.pools["connections"]
        cause = None
        if used >= size:
            cause = f"all {size} of connections_max are open"
        elif not self.descriptor_left:
            cause = "no descriptor is left, raise LimitNOFILE="
        if self.refused_s is None:
            return cause
        since_s, latest_s = self.refused_s
        cause = cause or f"the latest {latest_s:.0f} s ago"
        return f"connections have been refused for {since_s:.0f} s: {cause}"

    def unready(self) -> list[str]:
        """Why no more requests should be sent here, in words; empty when they are welcome."""
        return ["draining"] if self.draining else [*self.faults(), *self.overloads()]


def observe(subject: Subject) -> Observation:
    """Look at a node that serves. Any thread. Takes about a millisecond."""
    config, engine = subject.config, subject.engine
    counters, gauges = engine.counters(), engine.gauges()
    now_ns = time.monotonic_ns()
    refusal = engine.refusal
    roots = None
    if (trees := subject.integrity) is not None:
        roots = Roots(trees.published, trees.lag_s, trees.lag_max_s, trees.circulating)
    oldest = {lane: gauges[f"oldest_{lane}_ns"] for lane in LANES}
    return Observation(
        config=config,
        counters=counters,
        gauges=gauges,
        histograms={kind: engine.histogram(kind) for kind in ("udp", "tcp", "queue", "lap")},
        commands=answered(engine, subject.commands),
        ages_s={
            lane: max(0, now_ns - since_ns) / 1e9 if since_ns else 0.0
            for lane, since_ns in oldest.items()
        },
        workers={
            "ordinary": config.workers.count,
            "slow": config.workers.slow_count,
            "write": int(subject.store is not None),
        },
        pools={
            "udp_contexts": (gauges["udp_contexts_held"], config.udp.contexts),
            "small_blocks": (gauges["small_blocks_used"], config.limits.small_blocks),
            "large_blocks": (gauges["large_blocks_used"], config.limits.large_blocks),
            "tcp_buffers": (gauges["tcp_buffers_used"], config.tcp.buffers),
            "connections": (counters["connections_open"], subject.connections_max),
        },
        lent={name: gauges[f"{name}_lent"] for name in ("small_blocks", "large_blocks")},
        endpoints=tuple((bound.host, bound.port) for bound in subject.bound),
        kernel_drops={
            format_endpoint(bound.host, bound.port): _drops(bound.udp) for bound in subject.bound
        },
        host_errors=host_errors(),
        thread_times={
            "io": _thread_times([subject.io_thread]),
            "workers": _thread_times(subject.workers),
        },
        refused_s=_refused_s(gauges, now_ns),
        descriptor_left=_descriptor_left(),
        store=_sizes(subject.store),
        writing=_writing(subject.store),
        roots=roots,
        started_at=subject.started_at,
        uptime_s=subject.uptime_s,
        log_dropped=log.dropped(),
        draining=subject.draining,
        backend=engine.tier.partition(",")[0],
        tier=engine.tier,
        refusal="" if refusal is None else str(refusal),
        arena_size=engine.arena_size,
    )


def _drops(udp: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket, modulo 2^32; 0 where it does not tell."""
    try:
        told = udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
    except OSError:
        return 0
    words = struct.unpack(f"={len(told) // 4}I", told)
    return words[_MEMINFO_DROPS] if len(words) > _MEMINFO_DROPS else 0


def _refused_s(gauges: Mapping[str, int], now_ns: int) -> tuple[float, float] | None:
    latest_s = (now_ns - gauges["refused_at_ns"]) / 1e9
    if not gauges["refused_at_ns"] or latest_s > REFUSALS_GAP_S:
        return None
    return max(0.0, now_ns - gauges["refused_since_ns"]) / 1e9, max(0.0, latest_s)


def _descriptor_left() -> bool:
    """Whether this process may open one more."""
    try:
        os.close(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2))
    except OSError as error:
        return error.errno != errno.EMFILE
    return True


def host_errors() -> dict[str, int]:
    """Datagrams that found no room in a socket of this network namespace, by address family; a
    family that the machine has not, or that is hidden, is missing."""
    errors = {}
    try:  # two lines, names and values
        lines = [
            line.split()[1:]
            for line in (_NET / "snmp").read_text(encoding="ascii").splitlines()
            if line.startswith("Udp:")
        ]
        errors["ipv4"] = int(dict(zip(*lines, strict=True))["RcvbufErrors"])
    except (OSError, KeyError, TypeError, ValueError):
        pass  # hidden: a start says so
    try:  # a line each
        for line in (_NET / "snmp6").read_text(encoding="ascii").splitlines():
            if line.startswith("Udp6RcvbufErrors"):
                errors["ipv6"] = int(line.split()[1])
    except (OSError, ValueError):
        pass  # a machine without IPv6
    return errors


def _thread_times(threads: Sequence[threading.Thread]) -> tuple[float, float]:
    """CPU time and time spent waiting for a core, in seconds, of all of them together."""
    cpu_ns = wait_ns = 0
    for thread in threads:
        try:
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            told = path.read_text(encoding="ascii").split()
            cpu_ns, wait_ns = cpu_ns + int(told[0]), wait_ns + int(told[1])
        except (OSError, ValueError, IndexError):
            pass  # it has ended, or a kernel without SCHED_INFO
    return cpu_ns / 1e9, wait_ns / 1e9


def _sizes(store: "Store | None") -> "Sizes | None":
    if store is None:
        return None
    try:
        return store.sizes()
    except StoreError:
        return None  # its own errors are in the log; the rest is worth telling


def _writing(store: "Store | None") -> Writing | None:
    if store is None:
        return None
    free: int | None = None
    with contextlib.suppress(OSError):
        found = os.statvfs(store.path)
        free = found.f_bavail * found.f_frsize
    return Writing(store.write_fault, store.failed_commits, free)


# --- Prometheus -------------------------------------------------------------------------------

_EDGE_LOW: Final = 12  # 2^12 ns: 4 us
_EDGE_HIGH: Final = 34  # 2^34 ns: 17 s


def thin(histogram: "Histogram", per_octave: int) -> list[tuple[int, int]]:
    """Fewer buckets: (upper edge in ns, number of values below it), and all in the last one.

    per_octave: buckets for each power of two, a power of two up to the engine's 16. The edges are
    edges of the engine's, so that no value is estimated; the last one's is 0, for infinity.
    """
    edges = [
        (1 << power) * (per_octave + step) // per_octave
        for power in range(_EDGE_LOW, _EDGE_HIGH)
        for step in range(per_octave)
    ]
    edges.append(1 << _EDGE_HIGH)
    below, total, bucket = [], 0, 0
    for edge in edges:
        while bucket < len(histogram.counts) and histogram.floors_ns[bucket] < edge:
            total += histogram.counts[bucket]
            bucket += 1
        below.append((edge, total))
    return [*below, (0, sum(histogram.counts))]


def _buckets(histogram: "Histogram") -> list[tuple[str, float]]:
    """As Prometheus wants them. Its edges belong to the bucket below, ours to the one above: a
    value exactly on an edge, to the nanosecond, counts one bucket too high."""
    return [(repr(edge / 1e9) if edge else "+Inf", count) for edge, count in thin(histogram, 2)]


class _NodeCollector(Collector):
    """The metrics of one observation."""

    def __init__(self, seen: Observation) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        samples = _samples(self._seen)
        for name, family in FAMILIES.items():
            made: Any
            if family.kind == "histogram":
                made = HistogramMetricFamily(name, family.meaning, labels=family.labels)
                for labels, histogram in samples[name]:
                    made.add_metric(labels, _buckets(histogram), sum_value=histogram.sum_ns / 1e9)
            else:
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                made = kind(name, family.meaning, labels=family.labels)
                for labels, value in samples[name]:
                    made.add_metric(labels, value)
            yield made


_Samples = list[tuple[Sequence[str], Any]]


def _samples(seen: Observation) -> dict[str, _Samples]:
    """Label values and value of every sample, by metric."""
    samples: dict[str, _Samples] = {name: [] for name in FAMILIES}
    for counter, value in seen.counters.items():
        name, reason = metric_of(counter)
        scaled = value / 1e9 if counter.endswith("_ns") else value
        samples[name].append(([] if reason is None else [reason], scaled))
    samples["raida_request_seconds"] = [
        ([transport], seen.histograms[transport]) for transport in ("udp", "tcp")
    ]
    for one in seen.commands:
        who_asks = [one.label, one.name]
        samples["raida_command_seconds_total"].append((who_asks, one.spent_s))
        samples["raida_command_replies_total"] += [
            ([*who_asks, str(status)], count) for status, count in one.replies.items()
        ]
    for kind in ("queue", "lap"):
        samples[f"raida_{kind}_seconds"] = [([], seen.histograms[kind])]
    for lane in LANES:
        samples["raida_queued"].append(([lane], seen.gauges[f"queued_{lane}"]))
        samples["raida_queue_oldest_seconds"].append(([lane], seen.ages_s[lane]))
        samples["raida_workers"].append(([lane], seen.workers[lane]))
        samples["raida_workers_busy"].append(([lane], seen.gauges[f"busy_{lane}"]))
    for pool, (used, size) in seen.pools.items():
        samples["raida_pool_used"].append(([pool], used))
        samples["raida_pool_size"].append(([pool], size))
        samples["raida_pool_lent"].append(([pool], seen.lent.get(pool, 0)))
    for address, count in seen.kernel_drops.items():
        samples["raida_udp_kernel_drops_total"].append(([address], count))
    for family, count in seen.host_errors.items():
        samples["raida_host_udp_buffer_errors_total"].append(([family], count))
    for threads, (cpu_s, wait_s) in seen.thread_times.items():
        samples["raida_thread_cpu_seconds_total"].append(([threads], cpu_s))
        samples["raida_thread_runqueue_seconds_total"].append(([threads], wait_s))
    _add_store(samples, seen)
    for name, number in (
        ("ready", not seen.unready()),
        ("draining", seen.draining),
        ("overloaded", bool(seen.overloads())),
        ("start_time_seconds", seen.started_at),
        ("arena_bytes", seen.arena_size),
        ("log_dropped_total", seen.log_dropped),
    ):
        samples[f"raida_{name}"] = [([], number)]
    server = seen.config.server
    who = [str(server.raida_id), str(server.coin_id), seen.backend, seen.tier, seen.refusal]
    samples["raida_build_info"] = [([raida_uring.__version__, seen.python], 1)]
    samples["raida_node_info"] = [(who, 1)]
    return samples


def _add_store(samples: dict[str, _Samples], seen: Observation) -> None:
    """A node without a store has no such samples."""
    if (sizes := seen.store) is not None:
        samples["raida_store_bytes"] = [([], sizes.used_bytes)]
        samples["raida_store_size_bytes"] = [([], sizes.map_bytes)]
        samples["raida_store_pages"] = [([], sizes.written_pages)]
        samples["raida_store_tickets"] = [([], sizes.tickets)]
    if (writing := seen.writing) is not None:
        samples["raida_store_writable"] = [([], writing.fault is None)]
        samples["raida_commit_failures_total"] = [([], writing.failed_commits)]
        if writing.disk_free_bytes is not None:
            samples["raida_store_disk_free_bytes"] = [([], writing.disk_free_bytes)]
    if (roots := seen.roots) is not None:
        samples["raida_roots_published_total"] = [([], roots.published)]
        samples["raida_roots_lag_seconds"] = [([], roots.lag_s)]
        samples["raida_roots_lag_max_seconds"] = [([], roots.lag_max_s)]
        samples["raida_coins"] = [
            ([str(denomination)], count)
            for denomination, count in enumerate(roots.circulating, start=-8)
        ]


def _started_at() -> float:
    """When this process began, in seconds since 1970."""
    now = time.time()
    try:
        # Behind the name, which may hold anything: the 20th value is the start, in ticks.
        told = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(told[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    return now - age_s


_STARTED_AT: Final = _started_at()  # once: it must not follow the steps of the clock


class _ProcessCollector(Collector):
    """As prometheus_client's own, which tells nothing at all where /proc/stat is hidden
    (ProcSubset=pid): nothing of this needs more than /proc/self, and the most not even that."""

    def collect(self) -> Iterator[Metric]:
        times, limit = os.times(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield CounterMetricFamily(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            value=times.user + times.system,
        )
        known = {
            "start_time_seconds": (
                "Start time of the process since unix epoch in seconds.",
                _STARTED_AT,
            ),
            "max_fds": (
                "Maximum number of open file descriptors.",
                math.inf if limit == resource.RLIM_INFINITY else limit,
            ),
        }
        with contextlib.suppress(OSError):
            pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
            size, resident = (int(count) * resource.getpagesize() for count in pages[:2])
            known["virtual_memory_bytes"] = "Virtual memory size in bytes.", size
            known["resident_memory_bytes"] = "Resident memory size in bytes.", resident
        with contextlib.suppress(OSError):  # no descriptor is left to count them with
            count = len(os.listdir("/proc/self/fd"))
            known["open_fds"] = "Number of open file descriptors.", count
        for name, (meaning, value) in known.items():
            yield GaugeMetricFamily(f"process_{name}", meaning, value=value)


def exposition(seen: Observation) -> bytes:
    """The text of /metrics, format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_NodeCollector(seen))
    registry.register(_ProcessCollector())
    return generate_latest(registry)


# --- JSON -------------------------------------------------------------------------------------


def _process() -> dict[str, object] | None:
    """None where it cannot be asked, as without a descriptor that is left."""
    try:
        process = psutil.Process()
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            return {
                "pid": process.pid,
                "cpu_s": times.user + times.system,
                "memory": memory.rss,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
    except (OSError, psutil.Error):
        return None


def status(seen: Observation) -> dict[str, object]:
    """What the status page shows, ready for JSON. Durations in seconds, sizes in bytes."""
    server = seen.config.server
    return {
        "node": {
            "raida_id": server.raida_id,
            "coin_id": server.coin_id,
            "version": raida_uring.__version__,
            "endpoints": [format_endpoint(*endpoint) for endpoint in seen.endpoints],
            "tier": seen.tier,
            "refusal": seen.refusal,
            "started_at": seen.started_at,
            "uptime_s": seen.uptime_s,
            "unready": seen.unready(),
        },
        "now_s": time.monotonic(),
        "counters": seen.counters,
        "commands": answered_json(seen.commands),
        "kernel_drops": seen.kernel_drops,
        "lanes": {
            lane: {
                "workers": seen.workers[lane],
                "busy": seen.gauges[f"busy_{lane}"],
                "queued": seen.gauges[f"queued_{lane}"],
                "oldest_s": seen.ages_s[lane],
            }
            for lane in LANES
        },
        "pools": {
            name: {"used": used, "lent": seen.lent.get(name, 0), "size": size}
            for name, (used, size) in seen.pools.items()
        },
        "histograms": {
            kind: {
                "edges_s": [edge / 1e9 for edge, _ in thin(one, 4)[:-1]],
                "below": [count for _, count in thin(one, 4)],
            }
            for kind, one in seen.histograms.items()
        },
        "process": _process(),
        "threads": {
            name: {"cpu_s": cpu_s, "runqueue_s": wait_s}
            for name, (cpu_s, wait_s) in seen.thread_times.items()
        },
        "store": None
        if (sizes := seen.store) is None
        else {
            "used": sizes.used_bytes,
            "size": sizes.map_bytes,
            "pages": sizes.written_pages,
            "tickets": sizes.tickets,
        },
        "writing": None if seen.writing is None else dataclasses.asdict(seen.writing),
        "roots": None
        if (roots := seen.roots) is None
        else {
            "published": roots.published,
            "lag_s": roots.lag_s,
            "lag_max_s": roots.lag_max_s,
            "coins": sum(roots.circulating),
        },
    }
