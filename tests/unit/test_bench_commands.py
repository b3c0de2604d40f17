"""The benchmark's commands on coins: every case is answered right, and requests name the coins that
they are said to name.

Nothing here asserts a speed.
"""

import dataclasses
import os
from collections.abc import Iterator

import pytest

from raida_uring.bench import cases, coins, commands, groups, runner
from raida_uring.bench.load import Exchange, Load, LoadError, run_load
from raida_uring.bench.meter import Settings

GROUP = commands.GROUPS[0]
DETECT = next(case for case in GROUP.cases if case.name == "detect-25")


@pytest.fixture(scope="module")
def stores() -> Iterator[groups.Stores]:
    with groups.Stores() as made:
        yield made


@pytest.mark.parametrize("group", commands.GROUPS, ids=lambda group: group.name)
def test_each_command_is_answered_right(group: commands.Group, stores: groups.Stores) -> None:
    """Short runs of every case. Changes leave the store as they found it, for the next case and the
    next group, also where a run ends between a change and its return."""
    cpu = min(os.sched_getaffinity(0))
    settings = Settings(100, 1, cpu, cpu, group.name, frozenset({cpu}))
    found = groups.measure(group, stores, settings)
    assert [one.case.name for one in found.reports] == [case.name for case in group.cases]
    for one in found.reports:
        for pair in one.pairs:
            for side in filter(None, (pair.base, pair.own, pair.beside)):
                assert side.answered > 0, one.case.name
                assert (side.wrong, side.stray, side.lost) == (0, 0, 0), one.case.name


def named(exchange: Exchange, item: int, requests: slice) -> list[bytes]:
    """The coins that some of the requests name, `item` bytes each."""
    size = len(exchange.request)
    whole = (exchange.variants[at : at + size] for at in range(0, len(exchange.variants), size))
    body = slice(48, size - 2)
    payloads = [request[body] for request in list(whole)[requests]]
    return [one[at : at + 5] for one in payloads for at in range(0, len(one), item)]


def page(coin: bytes) -> tuple[int, int]:
    return coin[0], int.from_bytes(coin[1:]) // 1024


def case_of(name: str) -> commands.CommandCase:
    return next(case for case in GROUP.cases if case.name == name)


def test_requests_outstanding_share_no_coins_and_changes_no_pages() -> None:
    changes = case_of("pown-25").exchange(0)
    assert (changes.turns, changes.round) == (2 * commands.CHANGE_TURNS, 2)
    turn = named(changes, 37, slice(0, commands.WINDOW))
    assert turn == named(changes, 37, slice(commands.WINDOW, 2 * commands.WINDOW)), "changed back"
    assert len({page(coin) for coin in turn}) == len(turn) == commands.WINDOW * commands.FEW


def test_reads_name_as_many_coins_as_they_say() -> None:
    """Few coins asked again and again would be in the processor's nearest cache."""
    of_set = named(DETECT.exchange(0), 21, slice(None))
    assert len(set(of_set)) == len(of_set) == coins.WORKING_SET
    anywhere = named(case_of("detect-1").exchange(0), 21, slice(None))
    assert len(set(anywhere)) > 0.99 * len(anywhere) > 60_000
    assert len({page(coin) for coin in anywhere}) > 0.9 * 15_000


def test_reads_name_no_coin_that_changes_name() -> None:
    changed = set(named(case_of("pown-25").exchange(0), 37, slice(None)))
    assert changed.isdisjoint(named(DETECT.exchange(0), 21, slice(None)))


def test_variants_are_as_many_as_the_load_sends() -> None:
    exchange = case_of("detect-1").exchange(0)
    load = Load(port=50000, duration_ms=100, window=32)
    for wrong in (
        dataclasses.replace(exchange, variants=exchange.variants[1:]),
        dataclasses.replace(exchange, replies=b"short"),
        exchange,
    ):
        with pytest.raises(LoadError):
            run_load(load, wrong)


def test_the_estimate_counts_every_case() -> None:
    """9 rounds of 3 handlers, to two nodes, 1.2 s each; 9 rounds of 20 commands, each after an
    echo, 1.25 s, and 1.5 s more for each of four that change coins."""
    settings = Settings(1000, 9, 0, 1, cases.WORKERS_CASE)
    assert runner._estimate(settings) == "a minute"
    assert len(GROUP.cases) == 20
    assert runner._estimate(dataclasses.replace(settings, only=GROUP.name)) == "5 minutes"
