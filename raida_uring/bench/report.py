"""The benchmark's results: values, medians, goals, and their three forms.

Pure: no I/O, no clock. Tables are for a terminal, JSON for tools, Markdown for docs/bench.md (only
ratios, since absolute numbers are valid for one machine).
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from raida_uring.bench import cases, coins
from raida_uring.bench.cases import Case, Goal
from raida_uring.bench.coins import CoinCase

YARDSTICK = "uring"  # the contender that ratios refer to
SPIN_SLICES_MIN = 10  # fewer undisturbed slices are no result
CALM_RUNS_MIN = 5  # with fewer undisturbed runs, all runs count


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


@dataclass(frozen=True, slots=True)
class CoinReport:
    """One command on a node with a store."""

    case: CoinCase
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WorkersRun:
    """One round: the same load to a node with one worker, then to one with many."""

    one: Measurement
    many: Measurement

    @property
    def ratio(self) -> float | None:
        """Requests per second with many workers over those with one; None without replies."""
        base = self.one.requests_per_s
        return self.many.requests_per_s / base if base else None


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
    """One command on all cores. ratio_min: lowest accepted throughput of many workers over one."""

    name: str
    ratio_min: float
    runs: tuple[WorkersRun, ...]

    @property
    def ratio(self) -> float | None:
        """Median of the rounds' ratios: both sides of a round ran under the same conditions."""
        found = [run.ratio for run in self.runs if run.ratio is not None]
        return statistics.median(found) if found else None

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
    coin_reports: tuple[CoinReport, ...] = ()
    judged: bool = True
    workers_reports: tuple[WorkersReport, ...] = ()

    @property
    def wrong_answers(self) -> int:
        """Number of the node's replies, in all cases, that were not as expected."""
        nodes = [
            outcome
            for one in self.reports
            for name, outcome in one.outcomes.items()
            if name in cases.NODES
        ]
        nodes += [one.outcome for one in self.coin_reports]
        nodes += [
            Outcome(tuple(side for run in one.runs for side in (run.one, run.many)))
            for one in self.workers_reports
        ]
        return sum(outcome.total("wrong") + outcome.total("stray") for outcome in nodes) + sum(
            one.wrong + one.stray for run in self.spin_runs for one in (*run.idle, *run.beside_spin)
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


def coin_ratio(reports: Sequence[CoinReport], name: str) -> float | None:
    """Median requests per CPU-second of a command over those of the version command."""
    rates = {one.case.name: one.outcome.median("requests_per_cpu_s") for one in reports}
    base = rates.get(coins.BASE)
    return rates[name] / base if base and name in rates else None


def coin_verdict(reports: Sequence[CoinReport]) -> Verdict:
    return _judge(
        f"node: {coins.GOAL_CASE} / {coins.BASE} >= {coins.GOAL_RATIO_MIN:.2f}",
        coin_ratio(reports, coins.GOAL_CASE),
        lambda found: found >= coins.GOAL_RATIO_MIN,
    )


def _parts(report: Report) -> list[tuple[list[str], list[Verdict]]]:
    """Lines and verdicts of each case, in the order in which they are measured."""
    parts = [(_case_lines(one), case_verdicts(one)) for one in report.reports]
    if report.spin_runs:
        parts.append((_spin_lines(report.spin_runs), [spin_verdict(report.spin_runs)]))
    if report.coin_reports:
        parts.append((_coin_lines(report.coin_reports), [coin_verdict(report.coin_reports)]))
    if report.workers_reports:
        verdicts = [one.verdict for one in report.workers_reports]
        parts.append((_workers_lines(report.workers_reports), verdicts))
    return parts


def sections(report: Report) -> list[str]:
    """The report for a terminal, in the order in which it is measured."""
    found = ["  ".join(f"{key} {value}" for key, value in report.machine.items())]
    if report.not_run:
        found.append("\n".join(f"not run: {name}: {why}" for name, why in report.not_run.items()))
    for lines, verdicts in _parts(report):
        goals = [
            f"  {_kept(one):>12}  {one.text} ({_number(one.measured, '.2f')})" for one in verdicts
        ]
        found.append("\n".join(lines + (goals if report.judged else [])))
    return found


def _case_lines(report: CaseReport) -> list[str]:
    lines = [
        f"{report.case.name}: {report.case.title}",
        f"  {'':10}{'req/CPU-s':>10}{'/' + YARDSTICK:>8}{'calm':>6}{'req/s':>10}{'p50 us':>9}"
        f"{'p99 us':>9}{'lost':>6}{'wrong':>6}{'syscalls/req':>14}{'others':>8}",
    ]
    for name, outcome in report.outcomes.items():
        lines.append(
            f"  {name:10}{outcome.median('requests_per_cpu_s'):10.0f}"
            f"{_number(ratio(report, name, YARDSTICK), '.2f'):>8}{len(outcome.calm.runs):6}"
            f"{outcome.median('requests_per_s'):10.0f}"
            f"{outcome.median('p50_us'):9.0f}{outcome.median('p99_us'):9.0f}"
            f"{_failures(outcome)}"
            f"{_number(outcome.io_syscalls_per_request, '.3f'):>14}"
            f"{outcome.median('other_cpu'):8.2f}"
        )
    return lines


def _failures(outcome: Outcome) -> str:
    return f"{outcome.total('lost'):6}{outcome.total('wrong') + outcome.total('stray'):6}"


def _spin_lines(runs: Sequence[SpinRun]) -> list[str]:
    def rows(name: str, field: str) -> Iterator[str]:
        slices = [one for run in runs for one in getattr(run, field)]
        disturbed = Outcome(tuple(one for one in slices if one.stolen_ticks))
        columns = ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")
        for label, outcome in ((name, Outcome(tuple(slices)).calm), ("  core stolen", disturbed)):
            line = f"  {label:14}{len(outcome.runs):4} of {len(slices):3}"
            if outcome.runs:
                line += "".join(f"{outcome.median(column):9.0f}" for column in columns)
                line += f"{outcome.total('lost'):6}{outcome.median('other_cpu'):8.2f}"
            if outcome.runs or label == name:
                yield line

    busy = statistics.median(run.worker_cpu for run in runs)
    waited = statistics.median(run.io_waited for run in runs)
    return [
        f"{cases.SPIN_CASE}: {cases.SPIN_VOTES_PER_S} votes a second to the node (open loop),"
        f" I/O thread on a core of its own",
        f"  {'workers':14}{'slices':>11}{'p50 us':>9}{'p90 us':>9}{'p99 us':>9}{'p99.9 us':>9}"
        f"{'max us':>9}{'lost':>6}{'others':>8}",
        *(rows("(C responder)", "control") if any(run.control for run in runs) else ()),
        *rows("idle", "idle"),
        *rows(f"{cases.SPIN_WORKERS} spinning", "beside_spin"),
        f"  while spinning the workers used {busy:.2f} of their core;"
        f" the I/O thread waited {waited * 1000:.1f} ms a second for its own",
    ]


def _coin_lines(reports: Sequence[CoinReport]) -> list[str]:
    lines = [
        "coins: commands on a node with a store, over UDP",
        f"  {'':18}{'req/CPU-s':>10}{'/' + coins.BASE:>10}{'coins/CPU-s':>13}{'req/s':>10}"
        f"{'p50 us':>9}{'lost':>6}{'wrong':>6}{'others':>8}",
    ]
    for one in reports:
        outcome = one.outcome
        rate = outcome.median("requests_per_cpu_s")
        lines.append(
            f"  {one.case.name:18}{rate:10.0f}"
            f"{_number(coin_ratio(reports, one.case.name), '.2f'):>10}{rate * one.case.coins:13.0f}"
            f"{outcome.median('requests_per_s'):10.0f}{outcome.median('p50_us'):9.0f}"
            f"{_failures(outcome)}"
            f"{outcome.median('other_cpu'):8.2f}"
        )
    return lines


def _workers_lines(reports: Sequence[WorkersReport]) -> list[str]:
    lines = [
        f"workers: {cases.WORKERS_MANY} beside 1, on all cores, over UDP",
        f"  {'':22}{'req/s, 1':>10}{'many':>10}{'ratio':>8}{'p99 us, 1':>11}{'many':>9}"
        f"{'lost':>6}{'wrong':>6}",
    ]
    for one in reports:
        alone = Outcome(tuple(run.one for run in one.runs))
        many = Outcome(tuple(run.many for run in one.runs))
        both = Outcome(alone.runs + many.runs)
        lines.append(
            f"  {one.name:22}{alone.median('requests_per_s'):10.0f}"
            f"{many.median('requests_per_s'):10.0f}{_number(one.ratio, '.2f'):>8}"
            f"{alone.median('p99_us'):11.0f}{many.median('p99_us'):9.0f}"
            f"{_failures(both)}"
        )
    return lines


def _kept(verdict: Verdict) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[verdict.met]


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def as_json(report: Report) -> dict[str, object]:
    """The report as values for json.dumps(): medians, every run, every verdict."""
    return {
        "format": 1,
        "machine": report.machine,
        "cases": [
            {
                "name": one.case.name,
                "title": one.case.title,
                "transport": one.case.transport,
                "window": one.case.window,
                "contenders": {
                    name: {
                        "median": {
                            field.name: outcome.median(field.name)
                            for field in dataclasses.fields(Measurement)
                        },
                        "ratio": {peer: ratio(one, name, peer) for peer in one.outcomes},
                        "io_syscalls_per_request": outcome.io_syscalls_per_request,
                        "runs": _dicts(outcome.runs),
                    }
                    for name, outcome in one.outcomes.items()
                },
                "goals": _dicts(case_verdicts(one)),
            }
            for one in report.reports
        ],
        cases.SPIN_CASE: {
            "votes_per_s": cases.SPIN_VOTES_PER_S,
            "workers": cases.SPIN_WORKERS,
            "runs": _dicts(report.spin_runs),
            "goals": _dicts([spin_verdict(report.spin_runs)]),
        }
        if report.spin_runs
        else None,
        "coins": {
            "cases": {
                one.case.name: {
                    "coins": one.case.coins,
                    "ratio": coin_ratio(report.coin_reports, one.case.name),
                    "runs": _dicts(one.outcome.runs),
                }
                for one in report.coin_reports
            },
            "goals": _dicts([coin_verdict(report.coin_reports)]),
        }
        if report.coin_reports
        else None,
        cases.WORKERS_CASE: {
            "many": cases.WORKERS_MANY,
            "cases": {
                one.name: {"ratio": one.ratio, "runs": _dicts(one.runs)}
                for one in report.workers_reports
            },
            "goals": _dicts([one.verdict for one in report.workers_reports]),
        }
        if report.workers_reports
        else None,
        "not_run": report.not_run,
    }


def _dicts(
    values: Iterable[Measurement | SpinRun | WorkersRun | Verdict],
) -> list[dict[str, object]]:
    return [dataclasses.asdict(one) for one in values]


def markdown(report: Report) -> str:
    """Ratios to the smallest C io_uring responder, for docs/bench.md."""
    names = ("node", "node-1w", "node-epoll", "uring", "mmsg", "asyncio", "uvloop")
    lines = [
        "| case | " + " | ".join(names) + " | syscalls per request (node) |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for one in report.reports:
        node = one.outcomes.get("node")
        syscalls = _number(node.io_syscalls_per_request if node else None, ".3f")
        ratios = (_number(ratio(one, name, YARDSTICK), ".2f") for name in names)
        lines.append(f"| {one.case.name} | {' | '.join(ratios)} | {syscalls} |")
    lines += ["", "| promise | measured | kept |", "|---|---|---|"]
    lines += [
        f"| {verdict.text.replace('<', '&lt;')} | {_number(verdict.measured, '.2f')} "
        f"| {_kept(verdict)} |"
        for _, verdicts in _parts(report)
        for verdict in verdicts
    ]
    return "\n".join(lines)
