"""What a cut leaves of a recorded disk, and what clients then miss."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.net import PATIENCE
from tests.support.power import Machine, Player, Recording, moments
from tests.support.power_clients import FLUSHES, Known, Owner
from tests.support.power_log import Event, Kind, LogWriter, read_log
from tests.support.store import Coin

BLOCK = 4096
COINS: list[Coin] = [(0, 1), (0, 2)]
STEPS = [{coin: bytes([step, coin[1]]) * 8 for coin in COINS} for step in range(4)]


def written(byte: int, blocks: int = 1) -> bytes:
    return bytes([byte]) * BLOCK * blocks


@pytest.fixture
def source(tmp_path: Path) -> Recording:
    """Four blocks: two flushed, one again and one of zeros not; a note between."""
    image, log = tmp_path / "before", tmp_path / "log"
    image.write_bytes(written(9, 4))
    writer = LogWriter(log)
    writer.add(Kind.WRITE, 0, written(1, 2))
    writer.add(Kind.FLUSH)
    writer.add(Kind.NOTE, 0, b"0 done 1")
    writer.add(Kind.WRITE, BLOCK, written(2))
    writer.add(Kind.WRITE, 3 * BLOCK, bytes(BLOCK))
    writer.add(Kind.FLUSH)
    writer.close()
    return Recording(image, log, read_log(log))


def player(source: Recording, **how: int) -> Player:
    here = source.log.parent
    return Player(Machine(here, here, ()), source, **how)


def test_a_log_has_what_was_added(source: Recording) -> None:
    kinds = [event.kind for event in source.events]
    assert kinds == [Kind.WRITE, Kind.FLUSH, Kind.NOTE, Kind.WRITE, Kind.ZEROS, Kind.FLUSH]
    assert source.events[2].note == "0 done 1"
    assert source.log.read_bytes()[source.events[3].at :][:BLOCK] == written(2)


def test_a_cut_keeps_what_was_flushed(source: Recording) -> None:
    draw, cuts = random.Random(1), player(source)
    assert cuts.cut(1, "none", draw).read_bytes() == written(9, 4)
    assert cuts.cut(5, "none", draw).read_bytes() == written(1, 2) + written(9, 2)
    whole = written(1) + written(2) + written(9) + bytes(BLOCK)
    assert cuts.cut(5, "all", draw).read_bytes() == whole
    assert cuts.cut(6, "none", draw).read_bytes() == whole


def test_a_cut_may_take_any_block_that_was_not_flushed(source: Recording) -> None:
    draw = random.Random(1)
    left = {player(source).cut(5, "some", draw).read_bytes() for _ in range(60)}
    assert left == {
        written(1) + second + written(9) + fourth
        for second in (written(1), written(2))
        for fourth in (written(9), bytes(BLOCK))
    }
    torn = {player(source).cut(5, "torn", draw).read_bytes()[BLOCK : 2 * BLOCK] for _ in range(60)}
    assert any(len(set(block)) > 1 for block in torn)


def test_a_disk_that_forgets_flushes_loses_more(source: Recording) -> None:
    draw, cuts = random.Random(1), player(source, keeps=2)
    assert cuts.cut(5, "none", draw).read_bytes() == written(9, 4)
    assert cuts.cut(6, "none", draw).read_bytes()[:BLOCK] == written(1)


def test_moments(source: Recording) -> None:
    found = {name: list(moments(source.events, name)) for name in ("told", "flush", "start", "end")}
    assert found == {"told": [3], "flush": [1, 5], "start": [1, 2], "end": [3, 4, 5, 6]}


# -- what clients know ----------------------------------------------------------------------------


def known(*, waits: bool = True, flushes: int = 0) -> Known:
    """Notes a second apart, and flushes together with the last one."""
    texts = ("0 asked 1", "0 done 1", "0 asked 2", "0 seen 2", "0 asked 3")
    events = [
        Event(Kind.NOTE, 0, len(text), round(at * PATIENCE * 1e9), 0, text)
        for at, text in enumerate(texts)
    ]
    events += [Event(Kind.FLUSH, 0, 0, events[-1].time_ns, 0)] * flushes
    return Known([Owner(0, COINS, STEPS)], events, waits=waits, interval_s=PATIENCE / 2)


@pytest.mark.parametrize(
    ("before", "steps"), [(1, {0, 1}), (2, {1}), (3, {1, 2}), (4, {2}), (5, {2, 3})]
)
def test_what_was_acknowledged_or_seen_is_certain(before: int, steps: set[int]) -> None:
    for step, found in enumerate(STEPS):
        if step in steps:
            known().check(before, found)
        else:
            with pytest.raises(AssertionError, match=f"is certain.* there is step {step}"):
                known().check(before, found)


def test_without_waiting_it_is_certain_after_a_while_and_flushes() -> None:
    """The last note but one was a second ago, and half a second more is not over."""
    known(waits=False, flushes=FLUSHES).check(5 + FLUSHES - 1, STEPS[0])
    known(waits=False, flushes=FLUSHES).check(5 + FLUSHES, STEPS[1])
    with pytest.raises(AssertionError, match="step 1 is certain"):
        known(waits=False, flushes=FLUSHES).check(5 + FLUSHES, STEPS[0])


def test_a_mixture_is_found() -> None:
    half: Mapping[Coin, bytes] = {COINS[0]: STEPS[1][COINS[0]], COINS[1]: STEPS[2][COINS[1]]}
    with pytest.raises(AssertionError, match=r"a mixture, .*\{1: 1, 2: 1\}"):
        known().check(3, half)
