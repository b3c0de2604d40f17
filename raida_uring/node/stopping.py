"""How a node leaves: drain, for how long, sooner, at once. Thread: main, but for ask()."""

from raida_uring.log import events
from raida_uring.node.server import Server
from raida_uring.node.service import Service


class Stopping:
    """The actions of a node that is asked to stop."""

    def __init__(self, server: Server, service: Service) -> None:
        self._server = server
        self._service = service
        self._asked_ms: int | None = None  # by the admin socket

    @property
    def default_ms(self) -> int:
        """The time-out of a stop that names none."""
        return self._server.config.network.drain_timeout_ms

    def ask(self, drain_timeout_ms: int) -> None:
        """Drain for so long at most. Any thread."""
        self._asked_ms = drain_timeout_ms
        self._server.begin_drain(drain_timeout_ms)

    def later(self) -> None:
        """The predecessor's connections come here, and the sockets are not ours alone."""
        events.STOPPING_AFTER_PREDECESSOR.log()
        self._service.ask_for_time(self.default_ms)  # the predecessor's

    def leave(self) -> None:
        """Drain, unless that is under way, and tell the service manager."""
        drain_ms = self.default_ms if self._asked_ms is None else self._asked_ms
        if self._server.running and self._server.phase == "serving":
            self.log_begin(drain_ms)
            self._server.begin_drain(drain_ms)
        self._service.stops(drain_ms)

    def sooner(self) -> None:
        """The admin socket may have asked for a longer drain than a signal does."""
        self._server.begin_drain(self.default_ms)

    def at_once(self) -> None:
        """Drop the requests in flight."""
        events.STOPPING_NOW.log()
        self._server.begin_drain(0)

    @staticmethod
    def log_begin(timeout_ms: int) -> None:
        """A drain begins."""
        events.STOPPING.log(timeout_s=timeout_ms / 1000, timeout_ms=timeout_ms)

    @staticmethod
    def note_leaving() -> None:
        """Asked to stop while a drain is under way."""
        events.LEAVING_ALREADY.log()
