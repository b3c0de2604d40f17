"""A line of the log a minute: what the process uses of the machine. Thread: main."""

import os
import time
from typing import Final

import psutil

from raida_uring.log import events
from raida_uring.node.server import Server

INTERVAL_S: Final = 60.0


class Resources:
    """Writes the line when it is due."""

    def __init__(self, server: Server) -> None:
        """The first line comes after one interval."""
        self._server = server
        self._looked_at = time.monotonic()
        self._cpu_s = _cpu_s()

    def tend(self) -> None:
        """Write the line if it is time."""
        now = time.monotonic()
        if now < self._looked_at + INTERVAL_S or self._server.phase != "serving":
            return
        used_s = _cpu_s() - self._cpu_s
        self._log(100 * used_s / (now - self._looked_at))
        self._looked_at, self._cpu_s = now, self._cpu_s + used_s

    def _log(self, cpu_percent: float) -> None:
        """cpu_percent: of one processor."""
        try:
            process = psutil.Process()
            with process.oneshot():
                memory = process.memory_info().rss >> 20
                descriptors, threads = process.num_fds(), process.num_threads()
        except (OSError, psutil.Error) as error:  # no descriptor left to look with
            events.RESOURCES_UNKNOWN.log(error=error)
            return
        counters = self._server.counters()
        requests = counters["udp_received"] + counters["tcp_requests"]
        events.RESOURCES.log(
            cpu_percent=round(cpu_percent),
            memory_mib=memory,
            descriptors=descriptors,
            threads=threads,
            connections=counters["connections_open"],
            requests=requests,
        )


def _cpu_s() -> float:
    """Processor time of this process so far. Needs no descriptor, unlike psutil."""
    return sum(os.times()[:2])
