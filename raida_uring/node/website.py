"""HTTP of a node: status page, metrics and health, opened when the port is to be had.

Thread: control.
"""

from collections.abc import Callable
from typing import Final

from raida_uring.config import HttpTable
from raida_uring.errors import StartError
from raida_uring.log import events
from raida_uring.node import startup
from raida_uring.observe.snapshot import Snapshot
from raida_uring.observe.web import Web

# HTTP and the admin socket may fail with these, also for want of a descriptor or a thread. None of
# them may end a node that serves.
UNAVAILABLE: Final = (StartError, OSError, RuntimeError)


class Website:
    """Opened and closed any number of times."""

    def __init__(self, observe: Callable[[], Snapshot], beat: Callable[[], int]) -> None:
        """As Web has them."""
        self._observe = observe
        self._beat = beat
        self.web: Web | None = None
        self.fault: str | None = None  # why there is none, although it is wanted

    def open(self, config: HttpTable) -> None:
        """Serve, if that is wanted and not done. Raises one of UNAVAILABLE, whose text `fault` has
        then."""
        if not config.enabled or self.web is not None:
            return
        try:
            web = Web(config, self._observe, self._beat)
            try:
                web.start()
            except RuntimeError:
                web.stop()
                raise
        except UNAVAILABLE as error:
            self.fault = str(error)
            raise
        self.web, self.fault = web, None

    def close(self) -> None:
        """Leave the port to others."""
        if self.web is not None:
            self.web.stop()
            self.web = None

    def log(self) -> None:
        """Say where it is, once it is there."""
        if self.web is not None:
            urls = ", ".join(self.web.urls)
            events.HTTP.log(urls=urls)
            startup.log_lack_of_ipv4("[http] listen", self.web.sockets)
