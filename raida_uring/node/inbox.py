"""The main thread's queue: signals, and what other threads report."""

import contextlib
import queue
import signal
from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

from raida_uring.log import events
from raida_uring.threads import Vital

T = TypeVar("T")

# Their default is to end the process at once, and they do arrive: logrotate sends SIGUSR1, a power
# supply or LXC SIGPWR, a timer that a library has left behind SIGALRM.
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


def hold_back(signals: Iterable[int]) -> None:
    """Block `signals`, and those in UNUSED, until the process has an inbox. Main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, UNUSED.union(signals))


class Inbox(Generic[T]):
    """A queue that also receives signals. The main thread enters it before any other thread starts.

    The signals are blocked, so that they interrupt no call in a worker or in the data plane; one
    thread waits for them and nothing else. Those in UNUSED are logged and ignored. The thread does
    not use sigtimedwait(): in CPython 3.11 a SIGCONT or a debugger that interrupts the wait at its
    end is mistaken for a signal.
    """

    def __init__(self, signals: Mapping[int, T]) -> None:
        """signals: what each of them puts into the queue."""
        self._signals = dict(signals)
        self._taken = UNUSED.union(signals)
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()

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
            pass  # a repeated request: it has been done
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _run(self) -> None:
        while not self._done:
            number = signal.sigwait(self._taken)
            if number in self._signals:
                self._queue.put(self._signals[number])
            else:
                events.SIGNAL_UNUSED.log(name=_name_of(number), signal=int(number))

    def put(self, item: T) -> None:
        """Any thread."""
        self._queue.put(item)

    def take(self, timeout_s: float) -> T | None:
        """The next item, None if there is none in time."""
        with contextlib.suppress(queue.Empty):
            return self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        return None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
