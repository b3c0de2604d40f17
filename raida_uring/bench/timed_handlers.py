"""Handlers in Python: one answers at once, two compute for a known time, one waits in C.

The first replaces the built-in version command, so that it is compared with servers that know no
other. Loaded by the benchmark's node through `[handlers] modules`. Thread: workers.
"""

import time

from raida_uring.bench.cases import (
    NAP_COMMAND,
    SPIN_COMMAND,
    SPIN_GROUP,
    VERSION_TEXT,
    WORK_COMMAND,
)
from raida_uring.handlers import Node, Reply, Request, command

SPIN_S = 0.01  # twice the interpreter's switch interval, so other threads must request the GIL
TAKES_S = 0.001


@command(group=0, code=1)
def version(_request: Request, _node: Node) -> Reply:
    """Answer as the built-in command does."""
    return Reply(payload=VERSION_TEXT)


@command(group=SPIN_GROUP, code=SPIN_COMMAND)
def spin(_request: Request, _node: Node) -> Reply:
    """Hold the GIL as much as the interpreter allows for 10 ms, then answer 250."""
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        pass
    return Reply()


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
