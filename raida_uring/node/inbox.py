"""The main thread's queue: signals, and what other threads report."""

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Final

from raida_uring import signals
from raida_uring.log import events
from raida_uring.node.life import SIGNALS, Event
from raida_uring.threads import Vital

# From the thread of signals to the main thread alone; ignored where nobody has a handler for it.
_INTERRUPT: Final = signal.SIGURG


class Inbox:
    """A queue that also receives signals. The main thread enters it before any other thread starts.

    The signals are blocked, so that they interrupt no call in a worker or in the data plane; one
    thread waits for them and nothing else. Unused ones are logged and ignored. The thread does
    not use sigtimedwait(): in CPython 3.11 a SIGCONT or a debugger that interrupts the wait at its
    end is mistaken for a signal.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._heard: set[Event] = set()  # by signals
        self._interrupting: Event | None = None

    def __enter__(self) -> "Inbox":
        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals.TAKEN)
        self._done = False
        self._thread = Vital(target=self._run, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, next(iter(SIGNALS)))  # ends its wait
        self._thread.join()
        while signal.sigtimedwait(signals.TAKEN, 0) is not None:
            pass  # a repeated request: it has been done
        signals.ignore_stops()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _run(self) -> None:
        main = threading.main_thread().ident or 0
        while not self._done:
            number = signal.sigwait(signals.TAKEN)
            happened = SIGNALS.get(number)
            if happened is None:
                events.SIGNAL_UNUSED.log(name=_name_of(number), signal=int(number))
                continue
            self._queue.put(happened)
            self._heard.add(happened)
            if happened is self._interrupting:
                self._interrupting = None  # once: a duplicate must not interrupt the cleaning up
                signal.pthread_kill(main, _INTERRUPT)

    @contextlib.contextmanager
    def interrupted_by(self, wanted: Event) -> Iterator[None]:
        """In the body, a signal that means `wanted` raises KeyboardInterrupt in the main thread,
        one that came before at once: for code of others, which may never return."""
        previous = signal.signal(_INTERRUPT, signal.default_int_handler)
        self._interrupting = wanted
        try:
            if wanted in self._heard:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupting = None
            signal.signal(_INTERRUPT, previous)

    def put(self, happened: Event) -> None:
        """Any thread."""
        self._queue.put(happened)

    def take(self, timeout_s: float) -> Event | None:
        """What has happened next, None if there is nothing in time."""
        with contextlib.suppress(queue.Empty):
            return self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        return None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
