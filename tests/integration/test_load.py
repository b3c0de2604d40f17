"""Many connections. What must hold: every one is accepted and answered rightly, with its own echo
and challenge, whether all send at the same moment or one after the other."""

import resource

import pytest

from tests.support.load_client import run_load
from tests.support.net import VOLUME
from tests.support.node import running_node

SPARE_DESCRIPTORS = 500
# The first of ten thousand says nothing until the last has connected, however slow the machine.
PATIENT = {"progress_timeout_ms": 60_000, "header_timeout_ms": 60_000}


def test_ten_thousand_at_once() -> None:
    count = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + SPARE_DESCRIPTORS:
        pytest.skip(f"the hard RLIMIT_NOFILE is below {count + SPARE_DESCRIPTORS}")
    with running_node(tcp=PATIENT) as node:
        assert run_load(node.endpoint, count, count) == {
            "answered": count,
            "wrong": 0,
            "failed": 0,
            "stalled": 0,
        }
        node.wait_for_counts(connections_open=0)
        counters = node.counters()
        assert counters["connections_accepted"] == count
        assert counters["tcp_answered"] == count


def test_twenty_thousand_at_concurrency_64() -> None:
    count = round(20_000 * VOLUME)
    with running_node() as node:
        assert run_load(node.endpoint, count, 64) == {
            "answered": count,
            "wrong": 0,
            "failed": 0,
            "stalled": 0,
        }
        node.wait_for_counts(connections_open=0)
        counters = node.counters()
        assert counters["connections_accepted"] == count
        assert counters["tcp_answered"] == count
