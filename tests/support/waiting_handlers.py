"""Handlers that wait in C and handlers that work, and how many of each ran side by side."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from raida_uring.handlers import Reply, Request, command

GROUP = 15
NAP = (GROUP, 100)
SPIN = (GROUP, 101)
TAKES_S = 0.001


class Company:
    """Counts requests by how many others of the kind ran when they began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.seen: Counter[int] = Counter()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            self.seen[self._running] += 1
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


napping = Company()
spinning = Company()


@command(group=GROUP, code=NAP[1])
def nap(request: Request, node: object) -> Reply:
    """Sleeps, without the interpreter lock."""
    with napping.one():
        time.sleep(TAKES_S)  # the work itself
    return Reply()


@command(group=GROUP, code=SPIN[1])
def spin(request: Request, node: object) -> Reply:
    """As long, on a processor and with the lock."""
    with spinning.one():
        end = time.thread_time() + TAKES_S
        while time.thread_time() < end:
            pass
    return Reply()
