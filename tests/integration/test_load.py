"""Many connections. What must hold: every one is accepted and answered rightly, with its own echo
and challenge, whether all send at the same moment or one after the other."""

from tests.support.load_client import run_load
from tests.support.needs import require_descriptors
from tests.support.net import VOLUME
from tests.support.node import Node, running_node

SPARE_DESCRIPTORS = 500
# The first of ten thousand says nothing until the last has connected, however slow the machine.
PATIENT = {"progress_timeout_ms": 60_000, "header_timeout_ms": 60_000}


def assert_all_answered(node: Node, count: int, concurrency: int) -> None:
    wanted = {"answered": count, "wrong": 0, "failed": 0, "stalled": 0}
    assert run_load(node.endpoint, count, concurrency) == wanted
    node.wait_for_counts(connections_open=0, connections_accepted=count, tcp_answered=count)


def test_ten_thousand_at_once() -> None:
    count = 10_000
    require_descriptors(count + SPARE_DESCRIPTORS)
    with running_node(tcp=PATIENT) as node:
        assert_all_answered(node, count, count)


def test_twenty_thousand_at_concurrency_64() -> None:
    count = round(20_000 * VOLUME)
    with running_node() as node:
        assert_all_answered(node, count, 64)
