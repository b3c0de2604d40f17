"""Votes beside floods: every flood is answered right and is what its name says.

Nothing here asserts a speed.
"""

import dataclasses
import os
from collections.abc import Iterator

import pytest

from raida_uring.bench import cases, contenders, floods, groups, report, runner, votes
from raida_uring.bench.commands import WINDOW
from raida_uring.bench.floods import FLOODS, Flood
from raida_uring.bench.load import Load, run_load
from raida_uring.bench.meter import Settings
from raida_uring.bench.results import (
    FLOOD_WAITED_MAX,
    SPIN_SLICES_MIN,
    FloodRun,
    Report,
    flood_verdict,
)
from raida_uring.protocol import layout
from tests.unit.test_bench_report import measurement

COMMANDS = {
    *("version", "show_stats", "detect", "detect_sum", "pown", "pown_sum", "get_ticket"),
    *("validate_ticket", "find", "get_merkle_branch", "get_all_roots"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[contenders.Server]:
    cpu = min(os.sched_getaffinity(0))
    with groups.Stores() as stores:
        node = contenders.node(server=votes.TABLES, store={"path": str(stores.path("full"))})
        with contenders.running(node, {cpu}) as running:
            yield running


@pytest.mark.parametrize("flood", [floods.ECHO_FLOOD, *FLOODS], ids=lambda flood: flood.name)
def test_each_flood_is_answered_right(flood: Flood, server: contenders.Server) -> None:
    """Its parts one after the other; changes leave the store as they found it."""
    for exchange in flood.exchanges(server.port):
        load = Load(
            port=server.port,
            duration_ms=50,
            transport=flood.transport,
            window=flood.window,
            timeout_ms=5000,
            busy_poll=False,
        )
        found = run_load(load, exchange)
        assert found.answered > 0
        assert (found.wrong, found.lost, found.stray) == (0, 0, 0)


def test_votes_are_measured_beside_a_flood(
    server: contenders.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = min(os.sched_getaffinity(0))
    settings = Settings(100, 1, cpu, cpu, cases.VOTES_CASE, frozenset({cpu}))
    mixed = next(flood for flood in FLOODS if flood.name == "all sorts")
    alone, beside = votes.beside(server, [None, mixed], settings)
    assert (alone.flood, alone.flood_per_s) == (votes.ALONE, 0)
    assert beside.flood_per_s > 0
    assert (beside.flood_wrong, beside.flood_lost) == (0, 0)
    for run in (alone, beside):
        assert sum(one.answered for one in run.votes) > 0
        assert sum(one.wrong + one.stray for one in run.votes) == 0


def test_every_command_floods_plain_and_under_type_5() -> None:
    names = {flood.name for flood in FLOODS}
    assert len(names) == len(FLOODS)
    plain = {name.split("-")[0] for name in names if "," not in name}
    sealed = {name.split("-")[0].split(",")[0] for name in names if name.endswith("type 5")}
    assert plain >= COMMANDS
    assert sealed >= {*COMMANDS, "echo"}
    for flood in FLOODS:
        assert flood.window * len(flood.parts) == WINDOW


def test_parts_of_a_mix_change_different_coins() -> None:
    mixed = next(flood for flood in FLOODS if flood.name == "all sorts")
    pown = next(part for part in mixed.parts if "pown" in part.name)
    plain = dataclasses.replace(pown, kind=0)
    parts = list(Flood("powns", (plain,) * len(mixed.parts)).exchanges(0))
    size = len(parts[0].request)
    body = layout.HEADER_SMALL + layout.CHALLENGE_SIZE
    first_coins = [
        {one.variants[at + body : at + body + 5] for at in range(0, len(one.variants), size)}
        for one in parts
    ]
    assert len(set.union(*first_coins)) == sum(map(len, first_coins))


def run_of(
    p99_us: float, contender: str = "node", flood: str = "detect-32", io_waited: float = 0.0
) -> FloodRun:
    slices = (measurement(5000.0, p99_us=p99_us),) * SPIN_SLICES_MIN
    return FloodRun(contender, flood, slices, 1000.0, 0, 0, 0.9, io_waited)


def report_of(*runs: FloodRun) -> Report:
    return Report({}, (), (), {}, flood_runs=runs)


def test_the_worst_flood_is_judged_and_controls_are_not() -> None:
    good = report_of(run_of(100), run_of(900, flood="find-25"), run_of(9000, contender="uring"))
    assert (flood_verdict(good).measured, flood_verdict(good).met) == (900, True)
    assert "worst: find-25" in flood_verdict(good).text
    bad = report_of(run_of(100), run_of(1000, flood="find-25"))
    assert flood_verdict(bad).met is False


def test_without_its_core_the_io_thread_is_not_judged() -> None:
    taken = run_of(9000, flood="find-25", io_waited=2 * FLOOD_WAITED_MAX)
    assert flood_verdict(report_of(run_of(100), taken)).met is None
    assert (
        flood_verdict(report_of(run_of(100), taken, run_of(200, flood="find-25"))).measured == 200
    )


def test_the_report_has_a_line_for_each_flood() -> None:
    found = report_of(run_of(100), run_of(900, flood="find-25"), run_of(901, flood="find-25"))
    shown = "\n".join(report.sections(found))
    assert "node beside detect-32" in shown
    assert shown.count("node beside find-25") == 1
    assert f"{SPIN_SLICES_MIN * 2:4} of {SPIN_SLICES_MIN * 2:3}" in shown
    assert "vote p99 beside every flood" in report.markdown(found)
    listed = report.as_json(found)[cases.VOTES_CASE]
    assert isinstance(listed, dict)
    assert len(listed["runs"]) == 3


def test_wrong_answers_in_a_flood_count() -> None:
    wrong = dataclasses.replace(run_of(100), flood_wrong=2)
    assert report_of(wrong, run_of(100)).wrong_answers == 2
    assert report_of(dataclasses.replace(wrong, contender="uring")).wrong_answers == 0


def test_the_case_needs_two_cores() -> None:
    cpu = min(os.sched_getaffinity(0))
    settings = Settings(100, 1, cpu, cpu, cases.VOTES_CASE, frozenset({cpu}))
    last = list(runner.measure(settings, Report({}, (), (), {})))[-1]
    assert last.not_run[cases.VOTES_CASE] == "needs two cores"
    assert last.flood_runs == ()
