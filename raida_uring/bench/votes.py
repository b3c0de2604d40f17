"""Votes beside floods of other requests: what a vote waits while the node is kept busy.

The node's I/O thread has a core to itself; its other threads, the floods and the votes share
another one. Votes are an open loop, slice by slice, so that slices disturbed by the hypervisor can
be left out, and latency counts from the intended time. Thread: the runner's, and one for each part
of a flood.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from raida_uring.bench import cases, commands, contenders, floods, groups
from raida_uring.bench.contenders import ContenderError, Server
from raida_uring.bench.floods import Flood
from raida_uring.bench.load import Exchange, Load, Result, run_load
from raida_uring.bench.meter import Meter, Settings, find_io_thread, load_on, progress, real_time
from raida_uring.bench.results import YARDSTICK, FloodRun, Measurement
from raida_uring.protocol import layout

SLICE_MS: Final = 100  # short, so that some slices fall between two thefts of a core
SHARE: Final = 0.5  # of a run's length: there are many floods
LEAD_MS: Final = 200  # a flood begins so long before the votes, and ends after
TIMEOUT_MS: Final = 5000  # a change may wait for a slow disk
ALONE: Final = "nothing"  # the flood's name where there is none

# Of a node with roots of its own, which the votes' zeros are not: the verdict is not compared.
_VOTE: Final = dataclasses.replace(
    cases.VOTE, ignore=((layout.VOTE_REPLY_VERDICT_AT, layout.VOTE_REPLY_NONCE_AT),)
)
TABLES: Final[dict[str, object]] = commands.SERVER | {"synchronization_enabled": True}


def round_s(settings: Settings) -> float:
    """Return about how long a round takes, in seconds."""
    run_s = (SHARE * settings.duration_ms + 2 * LEAD_MS) / 1000
    return (len(floods.FLOODS) + 4) * run_s


def measure(stores: groups.Stores, settings: Settings) -> Iterator[FloodRun]:
    """Measure one round: the C responder, then the node, each alone, beside echoes, and the node
    beside every flood. Raises RaidaError if the node cannot run."""
    try:
        peer = contenders.peer(YARDSTICK)
    except ContenderError:
        peer = None
    if peer is not None:
        with contenders.running(peer, {settings.server_cpu}) as server:
            yield from beside(server, [None, floods.ECHO_FLOOD], settings)
    node = contenders.node(
        server=TABLES,
        store={"path": str(stores.path("full"))},
        network={"io_cpu": settings.server_cpu},
        workers={"cpus": [settings.client_cpu]},
    )
    with contenders.running(node, {settings.server_cpu, settings.client_cpu}) as server:
        _leave_core(server, settings)
        listed = [None, floods.ECHO_FLOOD, *floods.FLOODS]
        yield from beside(server, listed, settings)


def _leave_core(server: Server, settings: Settings) -> None:
    """Have all but the I/O thread leave its core."""
    io_thread = find_io_thread(server)
    for thread in server.cpu_s().keys() - {io_thread}:
        os.sched_setaffinity(thread, {settings.client_cpu})


def slices(
    server: Server, settings: Settings, core_threads: set[int] | None, vote: Exchange = cases.VOTE
) -> tuple[Measurement, ...]:
    """Send votes at their rate, for the settings' duration. core_threads: as Meter has it."""
    load = load_on(
        server,
        settings,
        duration_ms=min(SLICE_MS, settings.duration_ms),
        window=4096,
        rate_per_s=cases.SPIN_VOTES_PER_S,
        busy_poll=False,
    )

    def one() -> Measurement:
        meter = Meter(server, settings.server_cpu, core_threads)
        return meter.measurement(run_load(load, vote))

    return tuple(one() for _ in range(max(1, settings.duration_ms // SLICE_MS)))


def beside(
    server: Server, listed: Sequence[Flood | None], settings: Settings
) -> Iterator[FloodRun]:
    settings = dataclasses.replace(settings, duration_ms=max(1, int(SHARE * settings.duration_ms)))
    io_thread = find_io_thread(server)
    for flood in listed:
        name = ALONE if flood is None else flood.name
        progress(f"{cases.VOTES_CASE}: {server.name} beside {name}")
        with _running(server, flood, settings) as running, real_time():
            waited_s = server.waited_s(io_thread)
            started_s = time.monotonic()
            used_s = server.cpu_s()[io_thread]
            votes = slices(server, settings, {io_thread}, _VOTE)
            duration_s = time.monotonic() - started_s
            used_s = server.cpu_s()[io_thread] - used_s
            waited_s = server.waited_s(io_thread) - waited_s
        results = [one.result() for one in running]
        yield FloodRun(
            contender=server.name,
            flood=name,
            votes=votes,
            flood_per_s=sum(one.per_second for one in results),
            flood_lost=sum(one.lost for one in results),
            flood_wrong=sum(one.wrong + one.stray for one in results),
            io_cpu=used_s / duration_s,
            io_waited=waited_s / duration_s,
        )


@contextlib.contextmanager
def _running(
    server: Server, flood: Flood | None, settings: Settings
) -> Iterator[list[Future[Result]]]:
    """Run a flood from LEAD_MS before the block; it ends about as long after the votes."""
    if flood is None:
        yield []
        return
    load = Load(
        port=server.port,
        duration_ms=settings.duration_ms + 2 * LEAD_MS,
        transport=flood.transport,
        window=flood.window,
        timeout_ms=TIMEOUT_MS,
        busy_poll=False,
    )
    exchanges = list(flood.exchanges(server.port))
    with ThreadPoolExecutor(len(exchanges)) as pool:
        futures = [pool.submit(run_load, load, exchange) for exchange in exchanges]
        time.sleep(LEAD_MS / 1000)  # warm-up, not synchronisation
        yield futures
