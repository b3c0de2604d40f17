"""Signals that a node must survive although their default is to end the process. Thread: main."""

import atexit
import os
import signal
from typing import Final

# They do arrive: logrotate sends SIGUSR1, a power supply or LXC SIGPWR, a timer that a library has
# left behind SIGALRM.
UNUSED: Final = frozenset(
    {
        signal.SIGUSR1,
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGIO,
        signal.SIGPWR,
        signal.SIGSTKFLT,
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)


_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def hold_back() -> None:
    """Block those in UNUSED, and what asks a node to reload or upgrade, until it has an inbox.

    As process 1, of a container, also what asks it to stop: the kernel would throw that away.
    """
    first = _STOPS if os.getpid() == 1 else frozenset()
    signal.pthread_sigmask(signal.SIG_BLOCK, UNUSED | first | {signal.SIGHUP, signal.SIGUSR2})
    atexit.register(_ignore_stops)  # first, so that it is called last


def _ignore_stops() -> None:
    """The process ends: one more request to stop must not make a failure of that. Not earlier:
    until here a handler's thread may keep it, and then a signal is what ends it."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
