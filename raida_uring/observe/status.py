"""A snapshot as JSON: for operators (the admin socket, `status`, `top`) and for the status page.

Two forms, since programs read both and neither may lose a key. Durations in seconds and sizes in
bytes unless a name says otherwise. Any thread.
"""

import dataclasses
import os
from typing import Final

import raida_uring
from raida_uring.addresses import format_endpoint
from raida_uring.observe import process, readiness
from raida_uring.observe.latency import percentiles_us, thin
from raida_uring.observe.snapshot import Answered, Snapshot
from raida_uring.protocol.status import UNLISTED, status_name

_MEMORY: Final = ("udp_contexts", "tcp_buffers", "small_blocks", "large_blocks")
_PAGE_BUCKETS_PER_OCTAVE: Final = 4


def for_operators(seen: Snapshot) -> dict[str, object]:
    """What the admin socket answers to `status`. lanes, memory and lent are None once the I/O
    thread has ended; resources that cannot be read are None."""
    counters, serving = seen.counters, seen.serving
    return {
        "raida_id": seen.config.server.raida_id,
        "version": raida_uring.__version__,
        "process": os.getpid(),
        "phase": serving.phase,
        "tier": serving.tier,
        "unready": readiness.unready(seen),
        "endpoints": [list(endpoint) for endpoint in seen.endpoints],
        "started_at": serving.started_at,
        "uptime_s": round(serving.uptime_s, 3),
        "counters": counters,
        "commands": [_command(one) for one in seen.commands],
        "in_flight": {"udp": counters["udp_in_flight"], "tcp": counters["tcp_in_flight"]},
        "drops": {name: count for name, count in counters.items() if "_dropped_" in name},
        "connections": {"open": counters["connections_open"], "max": serving.connections_max},
        "latency_us": {
            kind: percentiles_us(one.buckets()) for kind, one in seen.histograms.items()
        },
        "histograms": {
            kind: [[floor_ns, count] for floor_ns, count in one.buckets() if count]
            for kind, one in seen.histograms.items()
        },
        **_occupied(seen),
        "resources": _resources(),
        "store": seen.store and dataclasses.asdict(seen.store),
        "http": {"url": serving.url, "fault": serving.http_fault},
        "log": {
            "level": seen.log_level,
            "requests_per_s": seen.config.log.requests_per_s,
            "dropped": seen.log_dropped,
        },
    }


def _occupied(seen: Snapshot) -> dict[str, object]:
    if not seen.io_thread_alive:
        return {"lanes": None, "memory": None, "lent": None}
    pools = {name: seen.pools[name] for name in _MEMORY}
    return {
        "lanes": {
            name: {"queued": lane.queued, "busy": lane.busy, "workers": lane.workers}
            for name, lane in seen.lanes.items()
            if lane.workers
        },
        "memory": {name: [pool.used, pool.size] for name, pool in pools.items()},
        "lent": {name: pool.lent for name, pool in pools.items() if name.endswith("_blocks")},
    }


def _resources() -> dict[str, object]:
    used = process.resources()
    return {
        "cpu_s": used.cpu_s,
        "memory_bytes": used.resident_bytes,
        "descriptors": used.descriptors,
        "threads": used.threads,
    }


def _command(one: Answered) -> dict[str, object]:
    names = {str(status): status_name(status) for status in one.replies}
    return {
        "command": one.label,
        "name": one.name,
        "answered": one.count,
        "statuses": {str(status): count for status, count in one.replies.items()},
        "names": {status: name for status, name in names.items() if name != UNLISTED},
        "spent_s": one.spent_s,
    }


def for_page(seen: Snapshot) -> dict[str, object]:
    """What /status.json tells the status page."""
    return {
        "node": _node(seen),
        "now_s": seen.now_ns / 1e9,
        "counters": seen.counters,
        "commands": [_command(one) for one in seen.commands],
        "kernel_drops": seen.kernel_drops,
        "lanes": {name: dataclasses.asdict(lane) for name, lane in seen.lanes.items()},
        "pools": {name: dataclasses.asdict(pool) for name, pool in seen.pools.items()},
        "histograms": {
            kind: {
                "edges_s": [edge / 1e9 for edge, _ in below[:-1]],
                "below": [count for _, count in below],
            }
            for kind, one in seen.histograms.items()
            for below in [thin(one, _PAGE_BUCKETS_PER_OCTAVE)]
        },
        "process": _process(),
        "threads": {
            name: {"cpu_s": cpu_s, "runqueue_s": wait_s}
            for name, (cpu_s, wait_s) in seen.thread_times.items()
        },
        **_kept(seen),
    }


def _node(seen: Snapshot) -> dict[str, object]:
    return {
        "raida_id": seen.config.server.raida_id,
        "coin_id": seen.config.server.coin_id,
        "version": raida_uring.__version__,
        "endpoints": [format_endpoint(*endpoint) for endpoint in seen.endpoints],
        "tier": seen.tier,
        "refusal": seen.refusal,
        "started_at": seen.serving.started_at,
        "uptime_s": seen.serving.uptime_s,
        "unready": readiness.unready(seen),
    }


def _process() -> dict[str, object] | None:
    """None where it cannot be read, as without a descriptor that is left."""
    used = process.resources()
    if used.descriptors is None:
        return None
    return {
        "pid": os.getpid(),
        "cpu_s": used.cpu_s,
        "memory": used.resident_bytes,
        "descriptors": used.descriptors,
        "threads": used.threads,
    }


def _kept(seen: Snapshot) -> dict[str, object]:
    """Store and trees; None each on a node without a store."""
    sizes, roots = seen.store, seen.roots
    return {
        "store": sizes
        and {
            "used": sizes.used_bytes,
            "size": sizes.map_bytes,
            "pages": sizes.written_pages,
            "tickets": sizes.tickets,
            "journal": sizes.journal_bytes,
            "journal_size": sizes.journal_max_bytes,
            "journal_entries": sizes.journal_entries,
            "checkpoint_age_s": sizes.checkpoint_age_s,
            "checkpoint_fault": sizes.checkpoint_fault,
        },
        "writing": seen.writing and dataclasses.asdict(seen.writing),
        "roots": roots
        and {
            "published": roots.published,
            "lag_s": roots.lag_s,
            "lag_max_s": roots.lag_max_s,
            "coins": sum(roots.circulating),
        },
    }
