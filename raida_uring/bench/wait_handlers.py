"""Handlers of one millisecond: one computes in Python, one waits in C.

Loaded by the benchmark's node through `[handlers] modules`. Thread: workers.
"""

import time

from raida_uring.bench.cases import NAP_COMMAND, SPIN_GROUP, WORK_COMMAND
from raida_uring.handlers import Node, Reply, Request, command

TAKES_S = 0.001


@command(group=SPIN_GROUP, code=WORK_COMMAND)
def work(_request: Request, _node: Node) -> Reply:
    """Hold the interpreter lock for 1 ms of processor time, then answer 250."""
    until = time.thread_time() + TAKES_S
    while time.thread_time() < until:
        pass
    return Reply()


@command(group=SPIN_GROUP, code=NAP_COMMAND)
def nap(_request: Request, _node: Node) -> Reply:
    """Sleep for 1 ms, as one that waits for a disk or a peer, then answer 250."""
    time.sleep(TAKES_S)
    return Reply()
