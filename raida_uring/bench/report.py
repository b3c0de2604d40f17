"""The benchmark's results in three forms.

Pure: no I/O, no clock. Tables are for a terminal, JSON for tools, Markdown for docs/bench.md (only
ratios, since absolute numbers are valid for one machine).
"""

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence

from raida_uring.bench import cases
from raida_uring.bench.commands import WINDOW
from raida_uring.bench.results import (
    BASE_NAMES,
    YARDSTICK,
    CaseReport,
    CommandReport,
    FloodRun,
    GroupReport,
    Measurement,
    Outcome,
    Pair,
    Report,
    SpinRun,
    Verdict,
    WorkersReport,
    case_verdicts,
    flood_verdict,
    ratio,
    spin_verdict,
    sync_allowed_us,
)


def _parts(report: Report) -> list[tuple[list[str], list[Verdict]]]:
    """Lines and verdicts of each case, in the order in which they are measured."""
    parts = [(_case_lines(one), case_verdicts(one)) for one in report.reports]
    if report.spin_runs:
        parts.append((_spin_lines(report.spin_runs), [spin_verdict(report.spin_runs)]))
    parts += [(_group_lines(one), one.verdicts) for one in report.groups]
    if report.flood_runs:
        parts.append((_flood_lines(report), [flood_verdict(report)]))
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


def _group_lines(report: GroupReport) -> list[str]:
    """A line for each case; the first is what they are compared with, over all of their rounds."""
    group = report.group
    lines = [
        f"{group.name}: {group.title}",
        f"  {'':28}{'req/CPU-s':>10}{'/base':>7}{'coins/CPU-s':>13}{'req/s':>9}{'p50 us':>8}"
        f"{'/base':>7}{'p99 us':>9}{'calm':>6}{'lost':>6}{'wrong':>6}{'others':>8}",
    ]
    bases = Outcome(tuple(run for one in report.reports for run in one.base.runs))
    lines.append(_group_line(f"({BASE_NAMES[group.base]})", bases, None, None))
    for one in report.reports:
        lines.append(_group_line(one.case.name, one.own, one, one.case.coins))
        if beside := one.beside.runs:
            writes = Outcome(beside)
            lines.append(
                f"  beside it {writes.median('requests_per_s'):.0f} writes a second, p50"
                f" {writes.median('p50_us'):.0f} us; the longest read took"
                f" {one.own.median('max_us'):.0f} us"
            )
        if (sync_us := one.sync_us) is not None:
            lines.append(
                f"  a block of 4 KiB and a flush take {sync_us:.0f} us alone: {one.case.name} is at"
                f" {_number(one.ratio('sync'), '.2f')} of {sync_allowed_us(sync_us):.0f} us"
            )
    return lines


def _group_line(
    name: str, outcome: Outcome, compared: CommandReport | None, coins: int | None
) -> str:
    rate = outcome.median("requests_per_cpu_s")
    ratios = [None if compared is None else compared.ratio(of) for of in ("rate", "p50")]
    shown = [_number(ratio, ".2f") for ratio in ratios]
    return (
        f"  {name:28}{rate:10.0f}{shown[0]:>7}{_number(rate * coins if coins else None, '.0f'):>13}"
        f"{outcome.median('requests_per_s'):9.0f}{outcome.median('p50_us'):8.0f}{shown[1]:>7}"
        f"{outcome.median('p99_us'):9.0f}{len(outcome.calm.runs):6}{_failures(outcome)}"
        f"{outcome.median('other_cpu'):8.2f}"
    )


def _flood_lines(report: Report) -> list[str]:
    """A line for each contender and flood: of the votes, medians of the undisturbed slices."""
    lines = [
        f"{cases.VOTES_CASE}: {cases.SPIN_VOTES_PER_S} votes a second (open loop) beside floods of"
        f" {WINDOW} outstanding requests, I/O thread on a core of its own",
        f"  {'':36}{'slices':>11}{'p50 us':>8}{'p99 us':>8}{'worst':>8}{'max us':>8}{'lost':>6}"
        f"{'wrong':>6}{'flood/s':>9}{'lost':>6}{'wrong':>6}{'I/O CPU':>8}{'waited':>8}",
    ]
    for (contender, flood), runs in report.floods.items():
        votes = Outcome(tuple(one for run in runs for one in run.votes))
        calm = votes.calm
        line = f"  {contender + ' beside ' + flood:36}{len(calm.runs):4} of {len(votes.runs):3}"
        shown = [calm.median(of) for of in ("p50_us", "p99_us") if calm.runs]
        shown += [
            max(getattr(one, of) for one in calm.runs) for of in ("p99_us", "max_us") if calm.runs
        ]
        line += "".join(f"{value:8.0f}" for value in shown) or f"{'-':>8}" * 4
        line += f"{votes.total('lost'):6}{votes.total('wrong') + votes.total('stray'):6}"
        line += f"{statistics.median(run.flood_per_s for run in runs):9.0f}"
        line += "".join(
            f"{sum(getattr(run, of) for run in runs):6}" for of in ("flood_lost", "flood_wrong")
        )
        line += "".join(
            f"{statistics.median(getattr(run, of) for run in runs):8.3f}"
            for of in ("io_cpu", "io_waited")
        )
        lines.append(line)
    return lines


def _workers_lines(reports: Sequence[WorkersReport]) -> list[str]:
    lines = [
        f"workers: {cases.WORKERS_MANY} beside 1, on all cores, over UDP",
        f"  {'':22}{'req/s, 1':>10}{'many':>10}{'ratio':>8}{'p99 us, 1':>11}{'many':>9}"
        f"{'lost':>6}{'wrong':>6}",
    ]
    for one in reports:
        alone = Outcome(tuple(pair.base for pair in one.pairs))
        many = Outcome(tuple(pair.own for pair in one.pairs))
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
        "format": 2,
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
        "groups": [
            {
                "name": group.group.name,
                "title": group.group.title,
                "base": group.group.base,
                "transport": group.group.transport,
                "window": group.group.window,
                "cases": {
                    one.case.name: {
                        "coins": one.case.coins,
                        "ratio": {of: one.ratio(of) for of in ("rate", "cost", "p50", "sync")},
                        "rounds": _dicts(one.pairs),
                    }
                    for one in group.reports
                },
                "goals": _dicts(group.verdicts),
            }
            for group in report.groups
        ],
        cases.VOTES_CASE: {
            "votes_per_s": cases.SPIN_VOTES_PER_S,
            "window": WINDOW,
            "runs": _dicts(report.flood_runs),
            "goals": _dicts([flood_verdict(report)]),
        }
        if report.flood_runs
        else None,
        cases.WORKERS_CASE: {
            "many": cases.WORKERS_MANY,
            "cases": {
                one.name: {"ratio": one.ratio, "rounds": _dicts(one.pairs)}
                for one in report.workers_reports
            },
            "goals": _dicts([one.verdict for one in report.workers_reports]),
        }
        if report.workers_reports
        else None,
        "not_run": report.not_run,
    }


def _dicts(
    values: Iterable[Measurement | SpinRun | FloodRun | Pair | Verdict],
) -> list[dict[str, object]]:
    return [dataclasses.asdict(one) for one in values]


def markdown(report: Report) -> str:
    """Ratios to the smallest C io_uring responder, for docs/bench.md."""
    names = ("node", "node-python", "node-epoll", "uring", "mmsg", "asyncio", "uvloop")
    lines = [
        "| case | " + " | ".join(names) + " | syscalls per request (node) |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for one in report.reports:
        node = one.outcomes.get("node")
        syscalls = _number(node.io_syscalls_per_request if node else None, ".3f")
        ratios = (_number(ratio(one, name, YARDSTICK), ".2f") for name in names)
        lines.append(f"| {one.case.name} | {' | '.join(ratios)} | {syscalls} |")
    for group in report.groups:
        lines += ["", f"| {group.group.name} | rate | p50 |", "|---|---|---|"]
        lines += [
            f"| {one.case.name} | {_number(one.ratio('rate'), '.2f')}"
            f" | {_number(one.ratio('p50'), '.2f')} |"
            for one in group.reports
        ]
    lines += ["", "| promise | measured | kept |", "|---|---|---|"]
    lines += [
        f"| {verdict.text.replace('<', '&lt;')} | {_number(verdict.measured, '.2f')} "
        f"| {_kept(verdict)} |"
        for _, verdicts in _parts(report)
        for verdict in verdicts
    ]
    return "\n".join(lines)
