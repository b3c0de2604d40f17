"""A handler that burns Python: the worst neighbour a vote can have.

Loaded by the benchmark's node through `[handlers] modules`. Thread: workers.
"""

import time

from raida_uring.bench.cases import SPIN_COMMAND, SPIN_GROUP
from raida_uring.handlers import Node, Reply, Request, command

SPIN_S = 0.01  # twice the interpreter's switch interval: the GIL is taken, not offered


@command(group=SPIN_GROUP, code=SPIN_COMMAND)
def spin(_request: Request, _node: Node) -> Reply:
    """Hold the GIL as much as the interpreter allows for 10 ms, then answer 250."""
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        pass
    return Reply()
