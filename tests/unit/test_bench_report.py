"""The benchmark's results: medians, ratios, goals and their three forms."""

import dataclasses
from pathlib import Path

import pytest

from raida_uring.bench import cases, commands, disk, report
from raida_uring.bench.results import (
    CALM_RUNS_MIN,
    SPIN_SLICES_MIN,
    CaseReport,
    CommandReport,
    GroupReport,
    Measurement,
    Outcome,
    Pair,
    Report,
    SpinRun,
    WorkersReport,
    case_verdicts,
    ratio,
    spin_verdict,
)


def measurement(requests_per_cpu_s: float, p99_us: float = 100.0, wrong: int = 0) -> Measurement:
    return Measurement(
        requests_per_cpu_s=requests_per_cpu_s,
        requests_per_s=requests_per_cpu_s,
        p50_us=10.0,
        p90_us=20.0,
        p99_us=p99_us,
        p999_us=p99_us,
        max_us=p99_us,
        cpu_s=1.0,
        other_cpu=0.0,
        answered=1000,
        wrong=wrong,
        lost=0,
        stray=0,
    )


def example_report() -> Report:
    node = Outcome(tuple(measurement(value) for value in (90.0, 10.0, 95.0)), 0.05)
    uring = Outcome(tuple(measurement(value) for value in (100.0, 500.0, 90.0)))
    slow = measurement(5000.0, p99_us=1500.0)
    spin = SpinRun((measurement(5000.0),), (slow,) * SPIN_SLICES_MIN, 10, 0.99, 0.0)
    return Report(
        machine={"cores": 2},
        reports=(CaseReport(cases.CASES[0], {"node": node, "uring": uring}),),
        spin_runs=(spin,),
        not_run={"mmsg": "no compiler"},
    )


def shown(found: Report) -> str:
    return "\n\n".join(report.sections(found))


def test_ratios_are_of_medians() -> None:
    (case_report,) = example_report().reports
    assert ratio(case_report, "node", "uring") == pytest.approx(0.9)
    assert ratio(case_report, "node", "mmsg") is None


def test_ratios_leave_out_runs_in_which_a_core_was_stolen() -> None:
    """But only where enough others are left on both sides."""
    stolen = dataclasses.replace(measurement(10.0), stolen_ticks=3)
    calm = (measurement(90.0),) * CALM_RUNS_MIN
    peer = Outcome((measurement(100.0),) * CALM_RUNS_MIN)
    enough = CaseReport(cases.CASES[0], {"node": Outcome((*calm, *(stolen,) * 9)), "uring": peer})
    assert ratio(enough, "node", "uring") == pytest.approx(0.9)
    few = CaseReport(cases.CASES[0], {"node": Outcome((*calm[1:], *(stolen,) * 9)), "uring": peer})
    assert ratio(few, "node", "uring") == pytest.approx(0.1)


def test_verdicts_say_kept_broken_or_not_measured() -> None:
    found = example_report()
    assert [verdict.met for verdict in case_verdicts(found.reports[0])] == [
        True,
        None,
        None,
        True,
    ]
    assert spin_verdict(found.spin_runs).met is False


def test_slices_in_which_a_core_was_stolen_are_shown_and_not_judged() -> None:
    good = measurement(5000.0, p99_us=500.0)
    stolen = dataclasses.replace(measurement(5000.0, p99_us=9000.0), stolen_ticks=1)
    spin = SpinRun((good,), (good,) * SPIN_SLICES_MIN + (stolen,) * 30, 10, 0.99, 0.0)
    assert spin_verdict([spin]).met is True
    assert spin_verdict([spin]).measured == 500.0
    few = dataclasses.replace(spin, beside_spin=(good, *(stolen,) * 30))
    assert spin_verdict([few]).met is None
    found = dataclasses.replace(example_report(), spin_runs=(spin,))
    assert "core stolen   30 of  40" in shown(found)


def test_the_report_has_three_forms() -> None:
    found = example_report()
    assert "not run: mmsg: no compiler" in shown(found)
    assert "| udp-echo | 0.90 | - | - | 1.00 | - | - | - | 0.050 |" in report.markdown(found)
    one = report.as_json(found)["cases"][0]  # type: ignore[index]
    assert one["contenders"]["node"]["median"]["requests_per_cpu_s"] == 90.0
    assert len(one["contenders"]["node"]["runs"]) == 3


GROUP = commands.GROUPS[0]
DETECT = next(case for case in GROUP.cases if case.name == "detect-25")


def group_report(*pairs: Pair, **changes: object) -> GroupReport:
    """One command of one group."""
    case = dataclasses.replace(DETECT, **changes)  # type: ignore[arg-type]
    return GroupReport(GROUP, (CommandReport(case, pairs),))


def test_markdown_has_every_promise() -> None:
    found = group_report(Pair(measurement(100.0), measurement(72.0)))
    told = report.markdown(dataclasses.replace(example_report(), groups=(found,)))
    assert "| detect-25 | 0.72 | 1.00 |" in told
    assert "| commands: detect-25 / uring echo >= 0.70 | 0.72 | yes |" in told


def test_ratios_of_commands_are_medians_of_pairs() -> None:
    """Of one round each: a slow minute meets both sides of a pair. What the hypervisor disturbed is
    left out where enough is left."""
    pairs = [Pair(measurement(100.0 * n), measurement(80.0 * n)) for n in range(1, CALM_RUNS_MIN)]
    stolen = dataclasses.replace(measurement(1.0), stolen_ticks=1)
    disturbed = [Pair(measurement(100.0), stolen)] * 9
    few = group_report(*pairs, *disturbed).reports[0]
    assert few.ratio("rate") == pytest.approx(0.01)
    enough = group_report(*pairs, pairs[0], *disturbed).reports[0]
    assert enough.ratio("rate") == pytest.approx(0.8)
    assert enough.ratio("cost") == pytest.approx(1.25)
    assert enough.ratio("p50") == pytest.approx(1.0)


@pytest.mark.parametrize(("of", "limit", "met"), [
    ("rate", 0.8, True), ("rate", 0.81, False), ("cost", 1.25, True), ("cost", 1.24, False),
    ("p50", 1.0, True), ("p50", 0.99, False),
])  # fmt: skip
def test_goals_bound_from_their_side(of: str, limit: float, met: bool) -> None:
    goal = commands.Bound(of, limit)  # type: ignore[arg-type]
    found = group_report(Pair(measurement(100.0), measurement(80.0)), goals=(goal,))
    assert [verdict.met for verdict in found.verdicts] == [met]
    told = dataclasses.replace(example_report(), groups=(found,))
    kept = "yes" if met else "NO"
    assert f"{kept}  {found.verdicts[0].text}" in shown(told)
    one = report.as_json(told)["groups"][0]  # type: ignore[index]
    assert one["cases"]["detect-25"]["ratio"]["rate"] == pytest.approx(0.8)


def test_a_lone_change_is_compared_with_the_disk_of_its_round() -> None:
    """Allowed are 200 and 320 us: the measured 10 us are 0.05 and 0.03 of that."""
    pairs = [Pair(measurement(1.0), measurement(1.0), sync_us=sync) for sync in (100.0, 200.0)]
    found = group_report(*pairs, goals=(commands.Bound("sync", 0.04),))
    assert found.reports[0].ratio("sync") == pytest.approx((10 / 200 + 10 / 320) / 2)
    assert [verdict.met for verdict in found.verdicts] == [False]
    text = shown(dataclasses.replace(example_report(), groups=(found,)))
    assert "a block of 4 KiB and a flush take 150 us alone: detect-25 is at 0.04 of 260 us" in text
    assert "NO  commands: detect-25: p50 / (1.2 x sync + 80 us) <= 0.04" in text
    unknown = group_report(Pair(measurement(1.0), measurement(1.0))).reports[0]
    assert (unknown.ratio("sync"), unknown.sync_us) == (None, None)


def test_the_disk_is_measured_where_the_store_is(tmp_path: Path) -> None:
    assert disk.sync_us(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_reads_without_the_writes_beside_them_are_no_result() -> None:
    slow = measurement(0.5 * commands.WRITES_PER_S)
    found = group_report(Pair(measurement(100.0), measurement(80.0), slow)).reports[0]
    assert found.ratio("cost") is None
    full = dataclasses.replace(slow, requests_per_s=1.0 * commands.WRITES_PER_S)
    found = group_report(Pair(measurement(100.0), measurement(80.0), full)).reports[0]
    assert found.ratio("cost") == pytest.approx(1.25)


def test_wrong_answers_of_the_node_are_totalled() -> None:
    bad = CaseReport(cases.CASES[0], {"node": Outcome((measurement(1.0, wrong=2),))})
    assert Report({}, (bad,), (), {}).wrong_answers == 2


def test_without_peers_there_are_numbers_alone() -> None:
    """As from a wheel: without a peer to compare with, no promise counts as broken."""
    found = dataclasses.replace(example_report(), judged=False, not_run={})
    text = shown(found)
    assert "udp-echo: " in text
    assert "req/CPU-s" in text
    for word in ("NO ", "yes ", "not measured", "not run"):
        assert word not in text


def test_ratios_of_workers_are_medians_of_pairs() -> None:
    pairs = tuple(
        Pair(measurement(one), measurement(many))
        for one, many in ((100.0, 95.0), (10.0, 9.0), (1000.0, 970.0))
    )
    found = WorkersReport("version", 0.95, pairs)
    assert found.ratio == pytest.approx(0.95)
    assert found.verdict.met is True
    assert dataclasses.replace(found, ratio_min=0.96).verdict.met is False
    nothing = WorkersReport("version", 0.95, (Pair(measurement(0.0), measurement(1.0)),))
    assert nothing.verdict.met is None
    told = dataclasses.replace(example_report(), workers_reports=(found,))
    assert "version: 8 workers / 1 >= 0.95 (0.95)" in shown(told)
    assert "| node: version: 8 workers / 1 >= 0.95 | 0.95 | yes |" in report.markdown(told)
    assert report.as_json(told)["workers"]["cases"]["version"]["ratio"] == pytest.approx(0.95)  # type: ignore[index]
