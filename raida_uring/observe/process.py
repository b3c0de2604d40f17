"""What the kernel tells of this process, its threads and sockets, and its host.

Any thread. Nothing needs more of /proc than /proc/self, so that it is told under ProcSubset=pid as
well; what cannot be read, also for want of a descriptor, is None or missing.
"""

import errno
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NET: Final = Path("/proc/self/net")  # /proc/net is hidden under ProcSubset=pid

_SO_MEMINFO: Final = 55  # not in Python's socket module; Linux's number
_MEMINFO_WORDS: Final = 9
_MEMINFO_DROPS: Final = 8  # SK_MEMINFO_DROPS

# Of /proc/self/stat, counted from behind the name of the process.
_STAT_THREADS, _STAT_START, _STAT_VIRTUAL, _STAT_RESIDENT = 17, 19, 20, 21


def _stat() -> list[bytes]:
    """Raises OSError."""
    # The name may hold anything, parentheses too.
    return Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()


@dataclass(frozen=True, slots=True)
class Resources:
    """What this process uses. All but the CPU time is None where it cannot be read."""

    cpu_s: float
    resident_bytes: int | None
    virtual_bytes: int | None
    threads: int | None
    descriptors: int | None


def resources() -> Resources:
    """The time this takes grows with the number of descriptors."""
    times = os.times()
    resident = virtual = threads = descriptors = None
    try:
        told = _stat()
        threads, virtual = int(told[_STAT_THREADS]), int(told[_STAT_VIRTUAL])
        resident = int(told[_STAT_RESIDENT]) * resource.getpagesize()
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        pass  # as without a descriptor that is left to look with
    return Resources(times.user + times.system, resident, virtual, threads, descriptors)


def _started_at() -> float:
    now = time.time()
    try:
        ticks = int(_stat()[_STAT_START])
    except OSError:
        return now
    return now - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


STARTED_AT: Final = _started_at()  # read once: it must not follow the steps of the clock
"""When this process began, in seconds since 1970."""


def descriptor_left() -> bool:
    """Whether this process may open one more."""
    try:
        os.close(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2))
    except OSError as error:
        return error.errno != errno.EMFILE
    return True


def thread_times(threads: Sequence[threading.Thread]) -> tuple[float, float]:
    """CPU time and time spent waiting for a core, in seconds, of all of them together."""
    cpu_ns = wait_ns = 0
    for thread in threads:
        try:
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            told = path.read_text(encoding="ascii").split()
            cpu_ns, wait_ns = cpu_ns + int(told[0]), wait_ns + int(told[1])
        except (OSError, ValueError, IndexError):
            pass  # it has ended, or a kernel without SCHED_INFO
    return cpu_ns / 1e9, wait_ns / 1e9


def kernel_drops(udp: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket, modulo 2^32; 0 where it does not tell."""
    try:
        told = udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
    except OSError:
        return 0
    words = struct.unpack(f"={len(told) // 4}I", told)
    return words[_MEMINFO_DROPS] if len(words) > _MEMINFO_DROPS else 0


def host_errors() -> dict[str, int]:
    """Datagrams that found no room in a socket of this network namespace, by address family; a
    family that the machine does not have, or that is hidden, is missing."""
    errors = {}
    try:  # two lines, names and values
        lines = [
            line.split()[1:]
            for line in (_NET / "snmp").read_text(encoding="ascii").splitlines()
            if line.startswith("Udp:")
        ]
        errors["ipv4"] = int(dict(zip(*lines, strict=True))["RcvbufErrors"])
    except (OSError, KeyError, TypeError, ValueError):
        pass  # hidden: a line at start says so
    try:  # a line each
        for line in (_NET / "snmp6").read_text(encoding="ascii").splitlines():
            if line.startswith("Udp6RcvbufErrors"):
                errors["ipv6"] = int(line.split()[1])
    except (OSError, ValueError):
        pass  # a machine without IPv6
    return errors
