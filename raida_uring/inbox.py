"""What the main thread hears, one thing after the other: signals, and what other threads say."""

import contextlib
import queue
import signal
import threading
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue into which signals come, too. Entered by the main thread before any other starts.

    The signals are blocked, so that no call in a worker or in the data plane is ever interrupted,
    and taken by a thread that waits for nothing else. Not sigtimedwait(): CPython 3.11 takes it for
    a signal when a SIGCONT or a debugger interrupts the wait at the end of its time.
    """

    def __init__(self, signals: Mapping[int, T]) -> None:
        """signals: what each of them says."""
        self._signals = dict(signals)
        self._said: queue.SimpleQueue[T] = queue.SimpleQueue()

    def __enter__(self) -> "Inbox[T]":
        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._done = False
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        if self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, next(iter(self._signals)))  # ends its wait
        self._thread.join()
        while signal.sigtimedwait(self._signals, 0) is not None:
            pass  # asked for more than once: it has been done
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _run(self) -> None:
        while not self._done:
            self._said.put(self._signals[signal.sigwait(self._signals)])

    def put(self, said: T) -> None:
        """Any thread."""
        self._said.put(said)

    def take(self, timeout_s: float) -> T | None:
        """What was said next, None when nothing was in time."""
        with contextlib.suppress(queue.Empty):
            return self._said.get(timeout=timeout_s) if timeout_s else self._said.get_nowait()
        return None
