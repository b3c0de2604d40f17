"""Signals that a node must survive although their default is to end the process. Thread: main."""

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


def hold_back() -> None:
    """Block those in UNUSED, and what asks a node to reload or upgrade, until it has an inbox."""
    signal.pthread_sigmask(signal.SIG_BLOCK, UNUSED | {signal.SIGHUP, signal.SIGUSR2})
