"""The check of histories that the tests of killed nodes rest on: it finds what it is for."""

from dataclasses import replace

import pytest

from tests.support.history import History, Read, Write

# Step 1 is acknowledged; step 2 has no answer, as if its node was killed at 100.
WRITES = [Write(1, 10, 20), Write(2, 30)]


def history(*reads: Read) -> History:
    return History(0, [replace(one) for one in WRITES], list(reads))


@pytest.mark.parametrize(
    ("reads", "last"),
    [
        ((), 1),
        ((), 2),
        ((Read((0,), 5, 9, 0), Read((1,), 5, 9, None)), 1),
        ((Read((1,), 12, 15, 1), Read((0,), 13, 19, None)), 1),  # seen before the acknowledgement
        ((Read((1,), 12, 19, None), Read((0,), 12, 19, 0)), 1),
        ((Read((2,), 40, 50, 2), Read((1, 2), 51, 60, 2)), 2),  # seen, not acknowledged, there
        ((Read((2,), 40, 60, 2), Read((1,), 50, 55, 1)), 2),  # in the other order
        ((Read((2,), 40, 50, None), Read((1, 2), 51, 60, 1)), 2),
        ((Read((2,), 20, 30, 2), Read((0,), 20, 21, 0)), 2),  # at the same moment: in any order
    ],
)
def test_what_can_happen_is_no_fault(reads: tuple[Read, ...], last: int) -> None:
    assert not list(history(*reads).faults(last))


@pytest.mark.parametrize(
    ("reads", "last", "fault"),
    [
        ((), 0, "step 1 was acknowledged, and 0 is there at the end"),
        ((), 3, "step 3 is there at the end, not one of 0..2"),
        ((Read((2,), 40, 50, 2),), 1, "step 2 was read, and 1 is there at the end"),
        ((Read((0, 1), 21, 25, 0),), 1, "step 0 was found after step 1 was there"),
        (
            (Read((2,), 31, 40, 2), Read((1, 2), 41, 45, 1)),
            2,
            "step 1 was found after step 2 was there",
        ),
        ((Read((2,), 21, 25, 2),), 2, "step 2 was found, and 1 was the newest asked for"),
        ((Read((1,), 21, 25, None),), 1, "none of (1,) was found, but it had to be in 1..1"),
        ((Read((1, 2), 40, 50, None),), 1, "none of (1, 2) was found, but it had to be in 1..2"),
    ],
)
def test_what_cannot_happen_is_found(reads: tuple[Read, ...], last: int, fault: str) -> None:
    assert fault in list(history(*reads).faults(last))
