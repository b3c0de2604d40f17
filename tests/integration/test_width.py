"""How many workers of the ordinary lane run at once: as many as wait, one that works (ADR 0004)."""

from collections.abc import Iterator

import pytest

from tests.support import waiting_handlers
from tests.support.net import udp_ask_all
from tests.support.node import Node, running_node
from tests.support.waiting_handlers import NAP, SPIN, napping, spinning
from tests.support.wire import request, status

WORKERS = 8
WINDOW = 32
REQUESTS = 600


@pytest.fixture
def node() -> Iterator[Node]:
    with running_node(
        handlers={"modules": [waiting_handlers.__name__]}, workers={"count": WORKERS}
    ) as running:
        yield running


def ask(node: Node, command: tuple[int, int], count: int = REQUESTS) -> None:
    replies = udp_ask_all(node.endpoint, (request(command) for _ in range(count)), WINDOW)
    assert all(status(reply) == 250 for reply in replies)


def alone(seen: dict[int, int]) -> float:
    """Share of the requests that began while no other ran."""
    return seen.get(0, 0) / sum(seen.values())


def test_handlers_that_work_run_one_after_the_other(node: Node) -> None:
    spinning.seen.clear()
    ask(node, SPIN)
    assert alone(spinning.seen) > 0.5, spinning.seen


def test_handlers_that_wait_run_side_by_side(node: Node) -> None:
    napping.seen.clear()
    ask(node, NAP)
    assert max(napping.seen) == WORKERS - 1, napping.seen
    assert alone(napping.seen) < 0.5, napping.seen


def test_a_lane_changes_its_mind(node: Node) -> None:
    """In both directions, however long it was in the other state."""
    for _ in range(2):
        napping.seen.clear()
        ask(node, NAP)
        assert max(napping.seen) == WORKERS - 1, napping.seen
        ask(node, SPIN)
        spinning.seen.clear()
        ask(node, SPIN)
        assert alone(spinning.seen) > 0.5, spinning.seen
