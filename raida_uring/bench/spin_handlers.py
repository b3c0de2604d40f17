"""A handler that computes in Python for 10 ms: the worst case for concurrent votes.

Loaded by the benchmark's node through `[handlers] modules`. Thread: workers.
"""

import time

from raida_uring.bench.cases import SPIN_COMMAND, SPIN_GROUP
from raida_uring.handlers import Node, Reply, Request, command

SPIN_S = 0.01  # twice the interpreter's switch interval, so other threads must request the GIL


@command(group=SPIN_GROUP, code=SPIN_COMMAND)
def spin(_request: Request, _node: Node) -> Reply:
    """Hold the GIL as much as the interpreter allows for 10 ms, then answer 250."""
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        pass
    return Reply()
