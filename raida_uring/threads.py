"""Threads that a node cannot run without: if one dies, the node ends.

docs/architecture.md lists all threads.
"""

import _thread
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final

BEGIN_LOOKS: Final = 60  # many short ones, so that a stopped process does not use all of them up
BEGIN_LOOK_S: Final = 0.5

# Set by the process that runs the node; called on the dying thread, within its `except`.
on_death: Callable[[threading.Thread, BaseException], None] | None = None


class Vital(threading.Thread):
    """A thread that may end only by returning: any exception calls on_death."""

    def start(self) -> None:
        """Return once it has begun. Raises RuntimeError if no further thread is permitted,
        MemoryError if it does not begin: one that finds no memory for its first steps never tells
        Thread.start(), which waits without end. Another thread does that waiting."""
        outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        _thread.start_new_thread(self._start, (outcome,))
        for _ in range(BEGIN_LOOKS):
            with contextlib.suppress(queue.Empty):
                if (error := outcome.get(timeout=BEGIN_LOOK_S)) is not None:
                    raise error
                return
        raise MemoryError("a started thread does not begin to run")

    def _start(self, outcome: "queue.SimpleQueue[Exception | None]") -> None:
        try:
            super().start()
        except Exception as error:
            outcome.put(error)
        else:
            outcome.put(None)

    def run(self) -> None:
        """Thread: itself."""
        try:
            super().run()
        except BaseException as error:
            if on_death is None:
                raise
            on_death(self, error)
