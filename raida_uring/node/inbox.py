"""What the main thread hears, one thing after the other: signals, and what other threads say."""

import contextlib
import logging
import queue
import signal
from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

from raida_uring.log import event
from raida_uring.threads import Vital

T = TypeVar("T")

# By default they would end the process at once. People and their programs send them: logrotate
# SIGUSR1, power supplies and LXC SIGPWR, a timer that a library has left SIGALRM.
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

logger = logging.getLogger("raida_uring")


def hold_back(signals: Iterable[int]) -> None:
    """Let `signals`, and those of no use, wait until the process has an inbox. Main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, UNUSED.union(signals))


class Inbox(Generic[T]):
    """A queue into which signals come, too. Entered by the main thread before any other starts.

    The signals are blocked, so that no call in a worker or in the data plane is ever interrupted,
    and taken by a thread that waits for nothing else. Those in UNUSED cost a line of the log. Not
    sigtimedwait(): CPython 3.11 takes it for a signal when a SIGCONT or a debugger interrupts the
    wait at the end of its time.
    """

    def __init__(self, signals: Mapping[int, T]) -> None:
        """signals: what each of them says."""
        self._signals = dict(signals)
        self._taken = UNUSED.union(signals)
        self._said: queue.SimpleQueue[T] = queue.SimpleQueue()

    def __enter__(self) -> "Inbox[T]":
        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)
        self._done = False
        self._thread = Vital(target=self._run, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, next(iter(self._signals)))  # ends its wait
        self._thread.join()
        while signal.sigtimedwait(self._taken, 0) is not None:
            pass  # asked for more than once: it has been done
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _run(self) -> None:
        while not self._done:
            number = signal.sigwait(self._taken)
            if number in self._signals:
                self._said.put(self._signals[number])
            else:
                logger.info(
                    "a signal that asks for nothing here: %s (%d)",
                    _name_of(number),
                    number,
                    extra=event("signal_unused", signal=int(number)),
                )

    def put(self, said: T) -> None:
        """Any thread."""
        self._said.put(said)

    def take(self, timeout_s: float) -> T | None:
        """What was said next, None when nothing was in time."""
        with contextlib.suppress(queue.Empty):
            return self._said.get(timeout=timeout_s) if timeout_s else self._said.get_nowait()
        return None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
