"""Threads that a node cannot do without: when one dies, the node ends.

Which threads there are stands in docs/architecture.md.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

BEGIN_LOOKS: Final = 60  # so many, that a process which was stopped meanwhile does not give up
BEGIN_LOOK_S: Final = 0.5

# Set by whoever runs the node as a process; called on the thread that dies, within its `except`.
on_death: Callable[[threading.Thread, BaseException], None] | None = None


class _Begun(threading.Event):
    """Set by a thread that has begun. start() waits for it without end, and one that finds no
    memory for its first steps never sets it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Raises MemoryError."""
        if timeout is not None:
            return super().wait(timeout)
        if not any(super(_Begun, self).wait(BEGIN_LOOK_S) for _ in range(BEGIN_LOOKS)):
            raise MemoryError("a thread that was started does not begin")
        return True


class Vital(threading.Thread):
    """A thread that ends by returning; by an exception, whichever, it dies."""

    def __init__(self, **how: Any) -> None:
        """how: as threading.Thread."""
        super().__init__(**how)
        self._started = _Begun()  # of threading's own, in each Python that there is

    def run(self) -> None:
        """Thread: itself."""
        try:
            super().run()
        except BaseException as error:
            if on_death is None:
                raise
            on_death(self, error)
