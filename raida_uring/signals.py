"""Signals that a node takes, and what they must not do before and after its life. Thread: main."""

import atexit
import os
import signal
import threading
from typing import Final

STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT})
RELOAD: Final = signal.SIGHUP
UPGRADE: Final = signal.SIGUSR2
# Their default is to end the process. They do arrive: logrotate sends SIGUSR1, a power supply or
# LXC SIGPWR, a timer that a library has left behind SIGALRM.
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
TAKEN: Final = UNUSED | STOP | {RELOAD, UPGRADE}
"""What a node's inbox takes; blocked in all its threads."""


def protect_start_and_end() -> None:
    """Of what TAKEN has: block it until there is an inbox, but for STOP, which may end a start; at
    the very end ignore STOP.

    As process 1, of a container, STOP is blocked, too: the kernel would throw it away.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN if os.getpid() == 1 else TAKEN - STOP)
    atexit.register(ignore_stops)  # first, so that it is called last


def ignore_stops() -> None:
    """The process ends: one more request to stop must not make a failure of that. Does nothing
    while a thread of a handler keeps the process: then a signal is what ends it."""
    main = threading.main_thread()
    if all(thread.daemon for thread in threading.enumerate() if thread is not main):
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)
