"""The text of /metrics: a snapshot in the format of Prometheus.

Names, types and meanings stand in FAMILIES; the table in docs/ is made from it. No metric is
labelled by client: the number of metrics is bounded whatever arrives. Any thread.
"""

import math
import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import raida_uring
from raida_uring.ffi.native import Histogram
from raida_uring.observe import process
from raida_uring.observe.counters import COUNTER_FAMILIES, Family, metric_of
from raida_uring.observe.latency import thin
from raida_uring.observe.readiness import overloads, unready
from raida_uring.observe.snapshot import Snapshot

FAMILIES: Final[Mapping[str, Family]] = {
    **COUNTER_FAMILIES,
    "raida_request_seconds": Family(
        "histogram",
        "commands, from receipt to the reply queued; plain echoes and votes aside",
        ("transport",),
    ),
    "raida_command_replies_total": Family(
        "counter",
        "replies to commands (group/code) by status; plain echoes and votes are in "
        "raida_echoes_total and raida_udp_votes_total",
        ("command", "name", "status"),
    ),
    "raida_command_seconds_total": Family(
        "counter",
        "time from full receipt to reply, summed over these replies; by their number, the mean",
        ("command", "name"),
    ),
    "raida_queue_seconds": Family("histogram", "wait for a worker, of every request handed to one"),
    "raida_lap_seconds": Family("histogram", "one lap of the I/O thread without its sleep"),
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
        "gauge", "of the used blocks, those that workers hold for replies to come", ("pool",)
    ),
    "raida_pool_size": Family("gauge", "what those pools hold at most", ("pool",)),
    "raida_udp_kernel_drops_total": Family(
        "counter",
        "datagrams that the kernel dropped at a UDP socket of the node (SO_MEMINFO), mostly for "
        "want of receive buffer; udp_received does not include them",
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
    "raida_store_bytes": Family("gauge", "in use by the store's base"),
    "raida_store_size_bytes": Family("gauge", "what it may grow to ([store] size_mib)"),
    "raida_store_pages": Family("gauge", "pages of coins that were written, of 15,000"),
    "raida_store_tickets": Family("gauge", "tickets that have not expired"),
    "raida_journal_bytes": Family(
        "gauge",
        "size of the journal's files that hold changes, without those that are ready for more",
    ),
    "raida_journal_size_bytes": Family(
        "gauge", "what all of them may grow to ([store] journal_mib)"
    ),
    "raida_journal_entries": Family(
        "gauge", "batches of changes that the base lacks: a start would apply them"
    ),
    "raida_journal_unsynced": Family(
        "gauge", "batches that a power loss would take (durability interval)"
    ),
    "raida_checkpoint_age_seconds": Family(
        "gauge", "since the last checkpoint, or since the start if there was none"
    ),
    "raida_checkpoint_failed": Family(
        "gauge", "1 while checkpoints fail: changes go on until the journal is full; otherwise 0"
    ),
    "raida_store_disk_free_bytes": Family(
        "gauge", "free on the store's file system, for a user without privileges"
    ),
    "raida_store_writable": Family("gauge", "1; 0 from a commit that failed until one succeeds"),
    "raida_commit_failures_total": Family(
        "counter", "batches of changes that failed: each of their requests was answered 194"
    ),
    "raida_coins": Family("gauge", "coins in circulation", ("denomination",)),
    "raida_roots_published_total": Family("counter", "times that roots were shown to voters"),
    "raida_roots_lag_seconds": Family(
        "gauge", "age of the oldest commit that the roots do not show yet; 0: none"
    ),
    "raida_roots_lag_max_seconds": Family("gauge", "longest wait of a commit since start"),
    "raida_ready": Family(
        "gauge", "1 while /readyz says ready, its check of the I/O thread aside; else 0"
    ),
    "raida_draining": Family("gauge", "1 once the node has been told to stop"),
    "raida_overloaded": Family("gauge", "1 while requests cannot be handled in time"),
    "raida_start_time_seconds": Family("gauge", "when the node started, seconds since 1970"),
    "raida_arena_bytes": Family("gauge", "memory shared by the I/O thread and the workers"),
    "raida_log_dropped_total": Family(
        "counter",
        "log lines that were dropped because nobody read the log or it could not be written",
    ),
    "raida_build_info": Family(
        "gauge", "1; the version of the node and of its Python", ("version", "python")
    ),
    "raida_node_info": Family(
        "gauge",
        "1; identity, backend and tier of the node, and why io_uring was refused",
        ("raida_id", "coin_id", "backend", "tier", "refusal"),
    ),
}
"""Every metric of the node, in the order of /metrics. Those of the process come on top."""

PROCESS_METRICS: Final = {
    "process_cpu_seconds_total": "Total user and system CPU time spent in seconds.",
    "process_resident_memory_bytes": "Resident memory size in bytes.",
    "process_virtual_memory_bytes": "Virtual memory size in bytes.",
    "process_start_time_seconds": "Start time of the process since unix epoch in seconds.",
    "process_open_fds": "Number of open file descriptors.",
    "process_max_fds": "Maximum number of open file descriptors.",
}
"""Metrics of the process and their meanings, as Prometheus's own clients have them."""


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative buckets. Prometheus counts a value on an edge in the bucket below, the engine in
    the one above: a value exactly on an edge, to the nanosecond, counts one bucket too high."""
    return [(repr(edge / 1e9) if edge else "+Inf", count) for edge, count in thin(histogram, 2)]


class _NodeCollector(Collector):
    """The metrics of one observation."""

    def __init__(self, seen: Snapshot) -> None:
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


def _samples(seen: Snapshot) -> dict[str, _Samples]:
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
    for name, lane in seen.lanes.items():
        samples["raida_queued"].append(([name], lane.queued))
        samples["raida_queue_oldest_seconds"].append(([name], lane.oldest_s))
        samples["raida_workers"].append(([name], lane.workers))
        samples["raida_workers_busy"].append(([name], lane.busy))
    for name, pool in seen.pools.items():
        samples["raida_pool_used"].append(([name], pool.used))
        samples["raida_pool_size"].append(([name], pool.size))
        samples["raida_pool_lent"].append(([name], pool.lent))
    for address, count in seen.kernel_drops.items():
        samples["raida_udp_kernel_drops_total"].append(([address], count))
    for family, count in seen.host_errors.items():
        samples["raida_host_udp_buffer_errors_total"].append(([family], count))
    for threads, (cpu_s, wait_s) in seen.thread_times.items():
        samples["raida_thread_cpu_seconds_total"].append(([threads], cpu_s))
        samples["raida_thread_runqueue_seconds_total"].append(([threads], wait_s))
    if (roots := seen.roots) is not None:
        samples["raida_coins"] = [
            ([str(denomination)], count)
            for denomination, count in enumerate(roots.circulating, start=-8)
        ]
    server, backend = seen.config.server, seen.tier.partition(",")[0]
    who = [str(server.raida_id), str(server.coin_id), backend, seen.tier, seen.refusal]
    samples["raida_build_info"] = [([raida_uring.__version__, platform.python_version()], 1)]
    samples["raida_node_info"] = [(who, 1)]
    for name, number in _single(seen).items():
        if number is not None:
            samples[f"raida_{name}"] = [([], number)]
    return samples


def _single(seen: Snapshot) -> dict[str, float | None]:
    """The metrics without labels, counters aside. A node without a store has fewer."""
    numbers: dict[str, float | None] = {
        "ready": not unready(seen),
        "draining": seen.serving.draining,
        "overloaded": bool(overloads(seen)),
        "start_time_seconds": seen.serving.started_at,
        "arena_bytes": seen.arena_size,
        "log_dropped_total": seen.log_dropped,
    }
    if (sizes := seen.store) is not None:
        numbers["store_bytes"] = sizes.used_bytes
        numbers["store_size_bytes"] = sizes.map_bytes
        numbers["store_pages"] = sizes.written_pages
        numbers["store_tickets"] = sizes.tickets
        numbers["journal_bytes"] = sizes.journal_bytes
        numbers["journal_size_bytes"] = sizes.journal_max_bytes
        numbers["journal_entries"] = sizes.journal_entries
        numbers["journal_unsynced"] = sizes.journal_unsynced
        numbers["checkpoint_age_seconds"] = sizes.checkpoint_age_s
        numbers["checkpoint_failed"] = sizes.checkpoint_fault is not None
    if (writing := seen.writing) is not None:
        numbers["store_writable"] = writing.fault is None
        numbers["commit_failures_total"] = writing.failed_commits
        numbers["store_disk_free_bytes"] = writing.disk_free_bytes
    if (roots := seen.roots) is not None:
        numbers["roots_published_total"] = roots.published
        numbers["roots_lag_seconds"] = roots.lag_s
        numbers["roots_lag_max_seconds"] = roots.lag_max_s
    return numbers


class _ProcessCollector(Collector):
    """The metrics of prometheus_client's own collector, which has none at all where /proc/stat is
    hidden (ProcSubset=pid). Here only those that cannot be read are missing."""

    def collect(self) -> Iterator[Metric]:
        used, limit = process.resources(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        values = (
            used.cpu_s,
            used.resident_bytes,
            used.virtual_bytes,
            process.STARTED_AT,
            used.descriptors,
            math.inf if limit == resource.RLIM_INFINITY else limit,
        )
        for (name, meaning), value in zip(PROCESS_METRICS.items(), values, strict=True):
            if value is not None:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                yield kind(name, meaning, value=value)


def exposition(seen: Snapshot) -> bytes:
    """The text of /metrics, format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_NodeCollector(seen))
    registry.register(_ProcessCollector())
    return generate_latest(registry)
