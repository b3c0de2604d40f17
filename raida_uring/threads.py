"""Threads that a node cannot do without: when one dies, the node ends.

Which threads there are stands in docs/architecture.md.
"""

import threading
from collections.abc import Callable

# Set by whoever runs the node as a process; called on the thread that dies, within its `except`.
on_death: Callable[[threading.Thread, BaseException], None] | None = None


class Vital(threading.Thread):
    """A thread that ends by returning; by an exception, whichever, it dies."""

    def run(self) -> None:
        """Thread: itself."""
        try:
            super().run()
        except BaseException as error:
            if on_death is None:
                raise
            on_death(self, error)
