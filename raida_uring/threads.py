"""Threads that a node cannot run without: if one dies, the node ends.

docs/architecture.md lists all threads.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

BEGIN_LOOKS: Final = 60  # many short ones, so that a stopped process does not use all of them up
BEGIN_LOOK_S: Final = 0.5

# Set by the process that runs the node; called on the dying thread, within its `except`.
on_death: Callable[[threading.Thread, BaseException], None] | None = None


class _Begun(threading.Event):
    """Set by a thread that has begun. start() waits for it without a timeout, but a thread that
    finds no memory for its first steps never sets it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Raises MemoryError."""
        if timeout is not None:
            return super().wait(timeout)
        if not any(super(_Begun, self).wait(BEGIN_LOOK_S) for _ in range(BEGIN_LOOKS)):
            raise MemoryError("a started thread does not begin to run")
        return True


class Vital(threading.Thread):
    """A thread that may end only by returning: any exception calls on_death."""

    def __init__(self, **how: Any) -> None:
        """how: arguments of threading.Thread."""
        super().__init__(**how)
        self._started = _Begun()  # replaces threading's event of this name, which all versions have

    def run(self) -> None:
        """Thread: itself."""
        try:
            super().run()
        except BaseException as error:
            if on_death is None:
                raise
            on_death(self, error)
