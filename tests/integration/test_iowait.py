"""A sleeping node must not count as waiting for a disk."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from raida_uring.ffi import native_probe
from tests.support.node import running_node

NODES = 6
LOOKS = 40


def tasks_in_iowait() -> int:
    """Of the whole machine."""
    lines = Path("/proc/stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("procs_blocked ")).split()[1])


def test_sleeping_node_is_not_counted_as_waiting_for_a_disk(backend: str) -> None:
    """Other programs may wait for a disk, but hardly six of them at every look."""
    if backend == "uring" and native_probe.probe_features()["no_iowait"] != 0:
        pytest.skip("IORING_FEAT_NO_IOWAIT (Linux 6.15) is missing")
    with ExitStack() as stack:
        for _ in range(NODES):
            stack.enter_context(running_node())
        seen = []
        for _ in range(LOOKS):
            seen.append(tasks_in_iowait())
            time.sleep(0.02)  # the looks are to be apart
        assert min(seen) < NODES, seen
