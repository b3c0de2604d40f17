"""A node is replaced again and again under a steady load that comes from other processes.

What must hold: no request is lost, no connection refused or ended early, no answer wrong, whatever
the load does: datagrams, connections for one request, persistent ones, encrypted requests, requests
whose handlers take a second in either lane, wallets that change coins, read them and use tickets.
`make upgrades UPGRADES=100` is the long form and
prints the latencies during hand-overs (from the request for the upgrade until the predecessor has
ended) and outside them.
"""

import json
import os
import re
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from raida_uring.admin.client import NotRunningError, result_of
from raida_uring.observe.counters import COUNTERS
from tests.support.net import PATIENCE
from tests.support.node import HANDLERS, STOP_TIMEOUT_S, Daemon, daemon, eventually, told
from tests.support.store import make_recorded_store, tables_over
from tests.support.upgrade import gone
from tests.support.upgrade_load import LoadProcess

UPGRADES = int(os.environ.get("UPGRADES", "2"))
BETWEEN_S = 0.5  # outside hand-overs, to compare with
UPGRADE_TIMEOUT_S = 60.0 * PATIENCE
RATES_MIN = {"udp": 2000 / PATIENCE, "tcp connect": 200 / PATIENCE}  # requests a second
# A client on a loaded machine may come to its first byte late, which is not what is tested.
DEADLINES = {"progress_timeout_ms": 60000, "header_timeout_ms": 60000}

LOADS = ("udp", "tcp", "wallets")

Interval = tuple[float, float]


def await_end(process_fd: int) -> None:
    """Until the process has ended, whoever's child it is."""
    readable, _, _ = select.select([process_fd], [], [], UPGRADE_TIMEOUT_S)
    os.close(process_fd)
    assert readable, "the predecessor has not ended"


def upgrade(node: Daemon, path: Path, pid: int) -> tuple[int, Interval]:
    """Replace process `pid`; its successor, and from when to when the hand-over lasted."""
    predecessor = os.pidfd_open(pid)
    began = time.monotonic()
    successor = int(result_of(path, "upgrade")["process"])
    await_end(predecessor)
    ended = time.monotonic()
    told(node.notify)  # or its queue would be full after ten lines

    def answers() -> bool:
        try:
            return bool(result_of(path, "status")["process"] == successor)
        except NotRunningError:
            return False

    eventually(answers, UPGRADE_TIMEOUT_S, what=node.stderr)
    return successor, (began, ended)


def percentiles(values: Sequence[float]) -> str:
    """p50, p99 and the greatest, in milliseconds."""
    if not values:
        return f"{'none':>36}"
    ordered = sorted(values)
    shown = (ordered[len(ordered) * share // 1000] for share in (500, 990))
    return "".join(f"{value:12.2f}" for value in (*shown, ordered[-1]))


def by_status(counts: object) -> str:
    """How many replies had which status; nothing of a load that does not tell."""
    assert isinstance(counts, dict)
    return ", ".join(f"{counts[status]} × {status}" for status in sorted(counts))


def report(outcomes: dict[str, dict[str, object]], intervals: Sequence[Interval]) -> str:
    """A table: by kind, what became of the requests and their latencies inside and outside."""
    lasted = sorted(end - begin for begin, end in intervals)
    lines = [
        f"{len(intervals)} hand-overs of {lasted[0]:.1f} to {lasted[-1]:.1f} s, median "
        f"{lasted[len(lasted) // 2]:.1f} s; latencies in ms: p50, p99, max",
        f"{'':24}{'sent':>9}{'lost':>6}{'wrong':>6}{'during hand-overs':>36}{'outside':>36}"
        "   replies by status",
    ]
    for kind, one in outcomes.items():
        inside: list[float] = []
        outside: list[float] = []
        at = 0
        pairs = zip(one["due_s"], one["latency_ms"], strict=True)  # type: ignore[call-overload]
        for due_s, latency_ms in sorted(pairs):
            while at < len(intervals) and intervals[at][1] < due_s:
                at += 1
            during = at < len(intervals) and intervals[at][0] <= due_s
            (inside if during else outside).append(latency_ms)
        lines.append(
            f"{kind:24}{one['sent']:>9}{one['lost']:>6}{one['wrong']:>6}"
            f"{percentiles(inside)}{percentiles(outside)}   {by_status(one['statuses'])}"
        )
    return "\n".join(lines)


@pytest.mark.hang_timeout_s(150 * PATIENCE + 20 * UPGRADES)
def test_nothing_is_lost_under_load(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    tables: dict[str, dict[str, object]] = {
        "admin": {"socket": str(path)},
        **tables_over(make_recorded_store(tmp_path / "store")),
        "tcp": {"persistent": True, **({} if os.environ.get("DEADLINES") else DEADLINES)},
        "log": {"requests_per_s": 0},
    }
    with daemon(tmp_path, handlers=HANDLERS, **tables) as node:  # type: ignore[arg-type]
        pid = node.process.pid
        loads: list[LoadProcess] = []
        try:
            loads += [LoadProcess(transport, node.endpoint) for transport in LOADS]
            intervals: list[Interval] = []
            time.sleep(4 * BETWEEN_S)  # the load comes up; and what follows is measured over time
            for _ in range(UPGRADES):
                pid, interval = upgrade(node, path, pid)
                intervals.append(interval)
                time.sleep(BETWEEN_S)  # the load without an upgrade is measured, too
            outcomes = {kind: one for load in loads for kind, one in load.finish().items()}
        finally:
            for load in loads:
                load.kill()
            if pid != node.process.pid:
                os.kill(pid, signal.SIGTERM)
                eventually(lambda: gone(pid), STOP_TIMEOUT_S)
    counted = [json.loads(one) for one in re.findall(r"final counters (\{.*\})", node.stderr())]
    closed = {
        name: total
        for name in COUNTERS
        if name.startswith("connections_closed")
        and (total := sum(one.get(name, 0) for one in counted))
    }
    print(f"\n{report(outcomes, intervals)}\n{closed}")
    for kind, one in outcomes.items():
        assert (one["lost"], one["wrong"]) == (0, 0), f"{kind}: {one['faults']}"
        assert not one["faults"], f"{kind}: {one['faults']}"
    for kind, least in RATES_MIN.items():
        due_s: list[float] = outcomes[kind]["due_s"]  # type: ignore[assignment]
        assert len(due_s) / (max(due_s) - min(due_s)) >= least, kind
    # Every process of the chain has answered what it received, and together all there was.
    assert len(counted) == UPGRADES + 1
    by_udp = [one for kind, one in outcomes.items() if kind == "encrypted" or "udp" in kind]
    asked = sum(int(str(one["sent"])) for one in by_udp)
    assert sum(one["udp_answered"] for one in counted) == asked
    assert all(one["udp_received"] == one["udp_answered"] for one in counted)
    assert all(one["tcp_requests"] == one["tcp_answered"] for one in counted)
