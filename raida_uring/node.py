"""The node as handlers see it: its configuration and its statistics.

Any thread.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from raida_uring.config import Config
from raida_uring.message import Reply


@dataclass(frozen=True, slots=True)
class Stats:
    """What show_stats tells. `value_powned` is in units of 10^-8 coin."""

    echoes: int
    coins_powned: int
    value_powned: int
    datagrams: int


class Node:
    """Passed to every handler as its second argument."""

    def __init__(self, config: Config, counters: Callable[[], dict[str, int]]) -> None:
        """counters: a consistent set of the data plane's counters, by name."""
        self.config = config
        self.counters = counters
        self.version_reply = Reply(payload=config.server.version.encode("ascii"))
        self._lock = threading.Lock()
        self._echoes = 0

    def count_echo(self) -> None:
        """Count an echo that a handler answered."""
        with self._lock:
            self._echoes += 1

    def stats(self) -> Stats:
        """The statistics since start."""
        counters = self.counters()
        return Stats(
            echoes=counters["echoes"] + self._echoes,
            coins_powned=0,
            value_powned=0,
            datagrams=counters["udp_received"],
        )
