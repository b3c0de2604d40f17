"""The benchmark's results: what was measured, medians, ratios, and which goals are met.

Pure: no I/O, no clock. report.py shows them.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from raida_uring.bench import cases
from raida_uring.bench.cases import Case, Goal
from raida_uring.bench.commands import (
    SYNC_MORE_US,
    SYNC_SHARE,
    WRITES_PER_S,
    Bound,
    CommandCase,
    Group,
)

YARDSTICK = "uring"  # the contender that ratios refer to
SPIN_SLICES_MIN = 10  # fewer undisturbed slices are no result
CALM_RUNS_MIN = 5  # with fewer undisturbed runs, all runs count
FLOOD_WAITED_MAX = 0.02  # of a run: the I/O thread did not have its core if it waited longer for it
WRITES_KEPT = 0.9  # of the intended rate of what runs beside a case: with less it is no result


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one contender. Latencies in microseconds, CPU time in seconds.

    other_cpu: share of the server's core used by other processes or the hypervisor during the run;
    above some 0.05 the run was disturbed.
    stolen_ticks: clock ticks that the hypervisor took from any core during the run.
    """

    requests_per_cpu_s: float
    requests_per_s: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cpu_s: float
    other_cpu: float
    answered: int
    wrong: int
    lost: int
    stray: int
    stolen_ticks: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All runs of one contender in one case.

    io_syscalls_per_request: system calls of the thread that serves the sockets, from a separate
    run; None if not measured.
    """

    runs: tuple[Measurement, ...]
    io_syscalls_per_request: float | None = None

    @property
    def calm(self) -> "Outcome":
        """The runs in which the hypervisor took no time from any core."""
        return Outcome(tuple(run for run in self.runs if not run.stolen_ticks))

    def median(self, field: str) -> float:
        return float(statistics.median(getattr(run, field) for run in self.runs))

    def total(self, field: str) -> int:
        return int(sum(getattr(run, field) for run in self.runs))


@dataclass(frozen=True, slots=True)
class CaseReport:
    case: Case
    outcomes: dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class SpinRun:
    """Votes at a fixed rate, first with idle workers, then while all workers spin.

    worker_cpu: CPU time of the node without its I/O thread, per second of wall time: 1.0 means
    that spinning Python filled the workers' core.
    io_waited: time per second that the I/O thread was runnable and waited for its core: above some
    0.001 the core was shared, and the latencies say little about the node.
    control: the same votes to the smallest C io_uring responder, alone on its core: the latency
    that machine and generator add. Empty if the peers are not available.

    Each consists of short slices, so that slices disturbed by the hypervisor can be left out.
    """

    idle: tuple[Measurement, ...]
    beside_spin: tuple[Measurement, ...]
    spins_answered: int
    worker_cpu: float
    io_waited: float
    control: tuple[Measurement, ...] = ()


def sync_allowed_us(sync_us: float) -> float:
    """Return how long a lone change may take on a disk that takes `sync_us` for its part."""
    return SYNC_SHARE * sync_us + SYNC_MORE_US


@dataclass(frozen=True, slots=True)
class FloodRun:
    """Votes at a fixed rate beside one flood, in one round.

    votes: short slices, as those of SpinRun. flood: its name. flood_per_s: its answers. flood_lost,
    flood_wrong: its requests without an answer, and answers that differ from the expected ones.
    io_cpu, io_waited: time per second that the I/O thread used its core, and waited for it.
    """

    contender: str
    flood: str
    votes: tuple[Measurement, ...]
    flood_per_s: float
    flood_lost: int
    flood_wrong: int
    io_cpu: float
    io_waited: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One round: what a case is compared with, then the case itself.

    beside: what ran at the same time as the case. sync_us: median of the disk's overwrites and
    flushes right before it, or after it if they were faster, for a case that waits for them.
    """

    base: Measurement
    own: Measurement
    beside: Measurement | None = None
    sync_us: float | None = None

    def ratio(self, of: Literal["rate", "cost", "p50", "throughput", "sync"]) -> float | None:
        """Return the case's over the base's; None without replies. rate: of requests per
        CPU-second; cost: of CPU time per request; throughput: of requests per second; sync: of the
        median latency over what the disk lets it be."""
        own, base = self.own, self.base
        above, below = {
            "rate": (own.requests_per_cpu_s, base.requests_per_cpu_s),
            "cost": (base.requests_per_cpu_s, own.requests_per_cpu_s),
            "p50": (own.p50_us, base.p50_us),
            "throughput": (own.requests_per_s, base.requests_per_s),
            "sync": (own.p50_us, 0.0 if self.sync_us is None else sync_allowed_us(self.sync_us)),
        }[of]
        return above / below if below else None

    @property
    def is_calm(self) -> bool:
        """Whether the hypervisor took no time from any core."""
        return not self.own.stolen_ticks + self.base.stolen_ticks

    @property
    def had_company(self) -> bool:
        """Whether what was to run beside the case did."""
        return self.beside is None or self.beside.requests_per_s >= WRITES_KEPT * WRITES_PER_S


def _median_ratio(
    pairs: Sequence[Pair], of: Literal["rate", "cost", "p50", "throughput", "sync"]
) -> float | None:
    """Median of the rounds' ratios: both sides of a round ran under the same conditions. Of the
    calm rounds, if there are CALM_RUNS_MIN of them."""
    pairs = [pair for pair in pairs if pair.had_company]
    calm = [pair for pair in pairs if pair.is_calm]
    chosen = calm if len(calm) >= CALM_RUNS_MIN else pairs
    found = [ratio for pair in chosen if (ratio := pair.ratio(of)) is not None]
    return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True)
class CommandReport:
    """One command on a node with a store."""

    case: CommandCase
    pairs: tuple[Pair, ...]

    def ratio(self, of: Literal["rate", "cost", "p50", "sync"]) -> float | None:
        return _median_ratio(self.pairs, of)

    @property
    def sync_us(self) -> float | None:
        """Median of the rounds' medians; None if the disk was not measured."""
        found = [pair.sync_us for pair in self.pairs if pair.sync_us is not None]
        return statistics.median(found) if found else None

    @property
    def own(self) -> Outcome:
        return Outcome(tuple(pair.own for pair in self.pairs))

    @property
    def base(self) -> Outcome:
        return Outcome(tuple(pair.base for pair in self.pairs))

    @property
    def beside(self) -> Outcome:
        return Outcome(tuple(pair.beside for pair in self.pairs if pair.beside is not None))


@dataclass(frozen=True, slots=True)
class GroupReport:
    group: Group
    reports: tuple[CommandReport, ...]

    @property
    def verdicts(self) -> list["Verdict"]:
        return [
            _bound_verdict(self.group, one, bound)
            for one in self.reports
            for bound in one.case.goals
        ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and the measured value. met: None if it could not be measured."""

    text: str
    measured: float | None
    met: bool | None


def _judge(text: str, measured: float | None, is_met: Callable[[float], bool]) -> Verdict:
    return Verdict(text, measured, None if measured is None else is_met(measured))


@dataclass(frozen=True, slots=True)
class WorkersReport:
    """One handler on all cores, with one worker and with many. ratio_min: lowest accepted
    throughput of many workers over one."""

    name: str
    ratio_min: float
    pairs: tuple[Pair, ...]

    @property
    def ratio(self) -> float | None:
        return _median_ratio(self.pairs, "throughput")

    @property
    def verdict(self) -> Verdict:
        text = f"node: {self.name}: {cases.WORKERS_MANY} workers / 1 >= {self.ratio_min:.2f}"
        return _judge(text, self.ratio, lambda found: found >= self.ratio_min)


@dataclass(frozen=True, slots=True)
class Report:
    """machine: facts of the measurement, for the reader; not_run: contender or case -> reason.

    judged: whether promises are compared with what was measured. An installed package has no peers
    to compare with, and its machine need not be one that promises were made for: numbers alone.
    """

    machine: dict[str, str | int | float]
    reports: tuple[CaseReport, ...]
    spin_runs: tuple[SpinRun, ...]
    not_run: dict[str, str]
    groups: tuple[GroupReport, ...] = ()
    judged: bool = True
    workers_reports: tuple[WorkersReport, ...] = ()
    flood_runs: tuple[FloodRun, ...] = ()

    @property
    def floods(self) -> dict[tuple[str, str], list[FloodRun]]:
        """The rounds of each contender and flood, in the order in which they are measured."""
        found: dict[tuple[str, str], list[FloodRun]] = {}
        for run in self.flood_runs:
            found.setdefault((run.contender, run.flood), []).append(run)
        return found

    @property
    def wrong_answers(self) -> int:
        """Number of the node's replies, in all cases, that were not as expected."""
        nodes = [
            outcome
            for one in self.reports
            for name, outcome in one.outcomes.items()
            if name in cases.NODES
        ]
        for one in (report for group in self.groups for report in group.reports):
            nodes += [one.own, one.beside]
        nodes += [
            Outcome(tuple(side for pair in one.pairs for side in (pair.base, pair.own)))
            for one in self.workers_reports
        ]
        node_floods = [run for run in self.flood_runs if run.contender in cases.NODES]
        nodes += [Outcome(run.votes) for run in node_floods]
        nodes += [Outcome((*run.idle, *run.beside_spin)) for run in self.spin_runs]
        return sum(outcome.total("wrong") + outcome.total("stray") for outcome in nodes) + sum(
            run.flood_wrong for run in node_floods
        )


def ratio(report: CaseReport, contender: str, peer: str) -> float | None:
    """Median requests per CPU-second of `contender` over those of `peer`.

    Of the runs in which no core was stolen, if both have CALM_RUNS_MIN of them: CPU time on a
    virtual machine counts what the hypervisor takes. Else of all runs.
    """
    if contender not in report.outcomes or peer not in report.outcomes:
        return None
    ours, theirs = report.outcomes[contender], report.outcomes[peer]
    if min(len(ours.calm.runs), len(theirs.calm.runs)) >= CALM_RUNS_MIN:
        ours, theirs = ours.calm, theirs.calm
    base = theirs.median("requests_per_cpu_s")
    return ours.median("requests_per_cpu_s") / base if base else None


def case_verdicts(report: CaseReport) -> list[Verdict]:
    verdicts = [_goal_verdict(report, goal) for goal in report.case.goals]
    limit = report.case.syscalls_max
    if limit is not None and "node" in report.outcomes:
        text = f"node: syscalls of the I/O thread per request <= {limit:.2f}"
        measured = report.outcomes["node"].io_syscalls_per_request
        verdicts.append(_judge(text, measured, lambda found: found <= limit))
    return verdicts


def _goal_verdict(report: CaseReport, goal: Goal) -> Verdict:
    text = f"{report.case.name}: {goal.contender} / {goal.peer} >= {goal.ratio_min:.2f}"
    measured = ratio(report, goal.contender, goal.peer)
    return _judge(text, measured, lambda found: found >= goal.ratio_min)


def spin_verdict(runs: Sequence[SpinRun]) -> Verdict:
    """Uses only undisturbed slices; not measured if there are too few of them."""
    calm = Outcome(tuple(one for run in runs for one in run.beside_spin)).calm
    return _judge(
        f"node: vote p99 beside {cases.SPIN_WORKERS} spinning workers < {cases.SPIN_P99_US_MAX} us",
        calm.median("p99_us") if len(calm.runs) >= SPIN_SLICES_MIN else None,
        lambda found: found < cases.SPIN_P99_US_MAX,
    )


def flood_verdict(report: Report) -> Verdict:
    """The worst of the node's floods, by the median of its undisturbed slices in rounds in which
    the I/O thread had its core; not measured if one of them has too few of these."""
    worst, name, measured = 0.0, "none", True
    for (contender, flood), runs in report.floods.items():
        if contender not in cases.NODES:
            continue
        owned = [run for run in runs if run.io_waited <= FLOOD_WAITED_MAX]
        calm = Outcome(tuple(one for run in owned for one in run.votes)).calm
        measured = measured and len(calm.runs) >= SPIN_SLICES_MIN
        if calm.runs and calm.median("p99_us") > worst:
            worst, name = calm.median("p99_us"), flood
    return _judge(
        f"node: vote p99 beside every flood < {cases.SPIN_P99_US_MAX} us; worst: {name}",
        worst if measured and worst > 0 else None,
        lambda found: found < cases.SPIN_P99_US_MAX,
    )


BASE_NAMES = {"peer": f"{YARDSTICK} echo", "node": "node echo", "alone": "alone"}
_BOUND_TEXT = {
    "rate": "{name} / {base} >= {limit:.2f}",
    "cost": "{name}: CPU time / {base} <= {limit:.2f}",
    "p50": "{name}: p50 / {base} <= {limit:.2f}",
    "sync": f"{{name}}: p50 / ({SYNC_SHARE} x sync + {SYNC_MORE_US} us) <= {{limit:.2f}}",
}


def _bound_verdict(group: Group, one: CommandReport, bound: Bound) -> Verdict:
    text = _BOUND_TEXT[bound.of].format(
        name=f"{group.name}: {one.case.name}", base=BASE_NAMES[group.base], limit=bound.limit
    )
    return _judge(
        text,
        one.ratio(bound.of),
        lambda found: found >= bound.limit if bound.of == "rate" else found <= bound.limit,
    )
