"""Measuring groups of commands: each case beside what it is compared with, round for round.

The node and the smallest C responder run at the same time, and only one of them is asked: both then
meet the same minute of the machine. A node is started for each round, on a store that the whole
benchmark shares. Thread: the runner's, and one more for what runs beside a case.
"""

import dataclasses
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from raida_uring.bench import coins, commands, contenders, disk
from raida_uring.bench.cases import ECHO
from raida_uring.bench.commands import WRITES_PER_S, CommandCase, Group
from raida_uring.bench.contenders import ContenderError, Server
from raida_uring.bench.load import Exchange, Load, Result, run_load
from raida_uring.bench.meter import (
    WARM_UP_MS,
    Meter,
    Settings,
    find_io_thread,
    load_on,
    measured,
    progress,
    real_time,
)
from raida_uring.bench.results import YARDSTICK, CommandReport, GroupReport, Pair

SHORTEST_MS: Final = 50
BASE_WARM_UP_MS: Final = 50  # an echo needs little
# Of a run's length: there are many cases, and a base for each. Changes take the whole, after as
# long a warm-up: what comes once for thousands of them, as the journal's next file and the hashes
# of all changed pages do, must not be all or nothing.
SHARE: Final = 0.5
WRITES_LEAD_MS: Final = 100  # writes begin so long before the reads beside them, and end after
WRITER_SHARE: Final = 0.02  # of the CPU time of writes alone, from which a thread is one of theirs
LOSS_TIMEOUT_MS: Final = 5000  # a change may wait for a slow disk


class Stores:
    """The stores of a benchmark, made when they are first asked for and removed at the end."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="raida-bench-")

    def __enter__(self) -> "Stores":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._directory.cleanup()

    def path(self, kind: str) -> Path:
        """Return the store of this kind, "full" or "fresh". Raises StoreError."""
        path = Path(self._directory.name) / kind
        if not path.exists():
            progress(f"making the {kind} store")
            make = {"full": coins.make_full_store, "fresh": coins.make_fresh_store}[kind]
            make(path)
        return path


def round_s(group: Group, settings: Settings) -> float:
    """Return about how long a round takes, without starting the node, in seconds."""
    run_s = SHARE * settings.duration_ms / 1000
    more_s = sum(case.changes for case in group.cases) * (settings.duration_ms / 1000 + run_s)
    warm_up_s = (WARM_UP_MS + BASE_WARM_UP_MS) / 1000
    return len(group.cases) * (warm_up_s + 2 * run_s) + more_s


def measure(group: Group, stores: Stores, settings: Settings) -> GroupReport:
    """Measure all cases of the group in turn. Raises RaidaError if the node cannot run."""
    peer = None
    if group.base == "peer":
        try:
            peer = contenders.peer(YARDSTICK)
        except ContenderError:
            group = dataclasses.replace(group, base="node")  # numbers alone
    store = stores.path(group.store)
    node = contenders.node("node", **_tables(group, store))
    cpus = {settings.server_cpu} if group.pinned else settings.cpus
    pairs: dict[str, list[Pair]] = {case.name: [] for case in group.cases}
    exchanges: dict[str, Exchange] = {}
    for number in range(settings.rounds):
        with ExitStack() as stack:
            if not group.pinned:
                stack.enter_context(contenders.pinned(cpus))
            server = stack.enter_context(contenders.running(node, cpus))
            base = server if peer is None else stack.enter_context(contenders.running(peer, cpus))
            for case in _shuffled(group.cases, number):
                progress(f"{group.name}: round {number + 1} of {settings.rounds}: {case.name}")
                if case.of_node or case.name not in exchanges:
                    exchanges[case.name] = case.exchange(server.port)
                asked = _Asked(group, case, exchanges[case.name], server, settings, store)
                pair = asked.after(base) if case.beside is None else asked.beside(case.beside())
                pairs[case.name].append(pair)
    return GroupReport(
        group, tuple(CommandReport(case, tuple(pairs[case.name])) for case in group.cases)
    )


def _shuffled(listed: Sequence[CommandCase], number: int) -> list[CommandCase]:
    """Return the cases in the order of this round: what a node does a second or three after its
    start, as hashing what has changed, must not meet the same case each time. Reads come first:
    they would pay for it, too."""
    drawn = random.Random(number).sample(listed, len(listed))
    return sorted(drawn, key=lambda case: case.changes)


def _tables(group: Group, store: Path) -> dict[str, dict[str, object]]:
    own: dict[str, dict[str, object]] = {"server": commands.SERVER, "store": {"path": str(store)}}
    names = own.keys() | group.tables.keys()
    return {name: own.get(name, {}) | group.tables.get(name, {}) for name in names}


@dataclass(frozen=True, slots=True)
class _Asked:
    """One case in one round."""

    group: Group
    case: CommandCase
    exchange: Exchange
    server: Server
    settings: Settings
    store: Path

    def after(self, base: Server) -> Pair:
        """Measure an echo of `base`, then the case."""
        before = measured(self._load(base), ECHO, base, self.settings, BASE_WARM_UP_MS)
        load = self._load(self.server)
        if self.case.changes:
            load = dataclasses.replace(load, duration_ms=self.settings.duration_ms)
            run_load(load, self.exchange)
        if not self.case.waits_for_disk:
            return Pair(before, measured(load, self.exchange, self.server, self.settings))
        sync_us = disk.sync_us(self.store)
        own = measured(load, self.exchange, self.server, self.settings)
        # Other work makes the disk look slow, and the promise easy to keep: the lesser counts.
        return Pair(before, own, sync_us=min(sync_us, disk.sync_us(self.store)))

    def beside(self, writes: Exchange) -> Pair:
        """Measure the case alone, then beside `writes`.

        These are sent at their rate by another thread of the generator, which sleeps in between and
        goes first if it may: the other one never leaves the core.
        The CPU time of threads that do nothing but write is left out: the question is what a read
        costs that goes on beside.
        """
        load = self._load(self.server)
        alone = measured(load, self.exchange, self.server, self.settings)
        paced = dataclasses.replace(load, rate_per_s=WRITES_PER_S, busy_poll=False)
        meter = Meter(self.server, self.settings.server_cpu)
        run_load(dataclasses.replace(paced, duration_ms=WARM_UP_MS), writes)
        used_s = meter.used_s()
        least_s = WRITER_SHARE * sum(used_s.values())
        writers = {thread for thread, used in used_s.items() if used > least_s}
        writers.discard(find_io_thread(self.server))
        paced = dataclasses.replace(paced, duration_ms=load.duration_ms + 2 * WRITES_LEAD_MS)
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(_run_paced, paced, writes)
            time.sleep(WRITES_LEAD_MS / 1000)  # warm-up, not synchronisation
            meter = Meter(self.server, self.settings.server_cpu)
            own = meter.measurement(run_load(load, self.exchange), without=writers)
            return Pair(alone, own, meter.measurement(written.result()))

    def _load(self, server: Server) -> Load:
        return load_on(
            server,
            self.settings,
            duration_ms=max(SHORTEST_MS, round(SHARE * self.settings.duration_ms)),
            transport=self.group.transport,
            window=self.group.window,
            timeout_ms=LOSS_TIMEOUT_MS,
            busy_poll=self.settings.busy_poll and self.group.pinned,
        )


def _run_paced(load: Load, exchange: Exchange) -> Result:
    with real_time():
        return run_load(load, exchange)
