"""Whether requests are welcome at a node, and why not, in words. Pure."""

from typing import Final

from raida_uring.observe.snapshot import Snapshot

OVERLOAD_WAIT_S: Final = 1.0  # of a request for a worker of the lanes that do not refuse, below
STALE_GAP_S: Final = 5.0  # after the latest request that has waited for too long all is well
REFUSALS_GAP_S: Final = 5.0  # after the latest refusal of a connection they are taken again
_REFUSING_LANE: Final = "slow"  # its queue has a bound of its own, past which it answers 160


def unready(seen: Snapshot) -> list[str]:
    """Why no more requests should be sent here; empty when they are welcome."""
    return ["draining"] if seen.serving.draining else [*_faults(seen), *overloads(seen)]


def overloads(seen: Snapshot) -> list[str]:
    """Why requests cannot be handled in time; empty when they can."""
    reasons = []
    contexts = seen.pools["udp_contexts"]
    if contexts.used >= contexts.size:
        reasons.append(f"overloaded: handlers hold all {contexts.size} UDP contexts")
    reasons += [
        f"overloaded: a request has waited {lane.oldest_s:.1f} s for a worker"
        for name, lane in seen.lanes.items()
        if name != _REFUSING_LANE and lane.oldest_s > OVERLOAD_WAIT_S
    ]
    stale_ns = seen.gauges["stale_at_ns"]
    stale_s = max(0.0, seen.now_ns - stale_ns) / 1e9
    if stale_ns and stale_s <= STALE_GAP_S:
        reasons.append(
            f"overloaded: requests wait for a worker for longer than queue_age_max_ms, the latest "
            f"{stale_s:.0f} s ago"
        )
    return reasons


def _faults(seen: Snapshot) -> list[str]:
    """What requests fail for however few there are; empty when nothing is wrong."""
    reasons = []
    if seen.writing is not None and seen.writing.fault is not None:
        reasons.append(f"the store cannot be written: {seen.writing.fault}")
    if (refusals := _refusals(seen)) is not None:
        reasons.append(refusals)
    return reasons


def _refusals(seen: Snapshot) -> str | None:
    connections = seen.pools["connections"]
    cause = None
    if connections.used >= connections.size:
        cause = f"all {connections.size} of connections_max are open"
    elif not seen.descriptor_left:
        cause = "no descriptor is left, raise LimitNOFILE="
    since_ns, latest_ns = seen.gauges["refused_since_ns"], seen.gauges["refused_at_ns"]
    latest_s = max(0.0, seen.now_ns - latest_ns) / 1e9
    if not latest_ns or latest_s > REFUSALS_GAP_S:
        return cause
    since_s = max(0.0, seen.now_ns - since_ns) / 1e9
    cause = cause or f"the latest {latest_s:.0f} s ago"
    return f"connections have been refused for {since_s:.0f} s: {cause}"
