"""What operators reach a node by: the admin socket and the port of HTTP.

Neither may end a node that serves: one that cannot be opened is logged and tried again. Thread:
control.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Final

from raida_uring.admin.node import Node
from raida_uring.admin.server import Admin, path_of
from raida_uring.config import HttpTable
from raida_uring.errors import StartError
from raida_uring.log import events
from raida_uring.node import startup
from raida_uring.observe.snapshot import Snapshot
from raida_uring.observe.web import Web

RETRY_S: Final = 0.1  # between tries to open what a predecessor is about to give up
QUIET_S: Final = 5.0  # without a log line: a killed predecessor gives things up one by one
RETRY_LATER_S: Final = 2.0  # between tries after that
# Either may fail with these, also for want of a descriptor, a thread or memory.
UNAVAILABLE: Final = (StartError, OSError, RuntimeError, MemoryError)


class Website:
    """HTTP: status page, metrics and health. Opened and closed any number of times."""

    def __init__(self, observe: Callable[[], Snapshot], beat: Callable[[], int]) -> None:
        """As Web has them."""
        self._observe = observe
        self._beat = beat
        self.web: Web | None = None
        self.url: str | None = None  # of the status page; any thread
        self.fault: str | None = None  # why there is none, although it is wanted

    def open(self, config: HttpTable) -> bool:
        """Serve, if that is wanted and not done; whether it was done now. Raises one of
        UNAVAILABLE, whose text `fault` has then."""
        if not config.enabled or self.web is not None:
            return False
        try:
            web = Web(config, self._observe, self._beat)
            try:
                web.start()
            except BaseException:
                web.stop()
                raise
        except UNAVAILABLE as error:
            self.fault = str(error) or type(error).__name__
            raise
        self.web, self.url, self.fault = web, web.url, None
        return True

    def close(self) -> None:
        """Leave the port to others."""
        self.url = None
        if self.web is not None:
            self.web.stop()
            self.web = None

    def log(self) -> None:
        """Say where it is, once it is there."""
        if self.web is not None:
            events.HTTP.log(urls=", ".join(self.web.urls))
            startup.log_lack_of_ipv4("[http] listen", self.web.sockets)


class Operators:
    """Opens both, and tries again what could not be opened."""

    def __init__(self, node: Node, website: Website) -> None:
        self._node = node
        self._website = website
        self._admin: Admin | None = None
        self._admin_fault: str | None = None  # why there is none
        self._retry_at = 0.0  # time.monotonic(); 0: everything is open, or not to be opened
        self._quiet_until = 0.0
        self._told: set[str] = set()  # what is missing and was logged

    def open_soon(self) -> None:
        """As open(); a predecessor is about to give up what is still missing."""
        self._quiet_until = time.monotonic() + QUIET_S
        self.open()

    def open(self) -> None:
        """Open the admin socket and the port of HTTP, unless they are open."""
        self._retry_at, website, server = 0.0, self._website, self._node.server
        if server.phase != "serving":
            return
        opened = False
        with contextlib.suppress(*UNAVAILABLE):
            opened = website.open(server.config.http)
        if self._admin is None:
            try:
                self._admin, self._admin_fault = Admin(self._node, path_of(server)), None
            except UNAVAILABLE as error:
                self._admin_fault = str(error) or type(error).__name__
        faults = {"http": website.fault, "admin": self._admin_fault}
        now, missing = time.monotonic(), {name for name, fault in faults.items() if fault}
        quiet = now < self._quiet_until
        if missing:
            self._retry_at = now + (RETRY_S if quiet else RETRY_LATER_S)
        if not quiet:
            if "http" in missing - self._told:
                events.HTTP_FAILED.log(retry_s=RETRY_LATER_S, fault=website.fault)
            if "admin" in missing - self._told:
                events.ADMIN_SOCKET_FAILED.log(retry_s=RETRY_LATER_S, fault=self._admin_fault)
            self._told = missing
        if opened:
            website.log()

    @property
    def missing(self) -> bool:
        """Whether something is to be tried again."""
        return bool(self._retry_at)

    def tend(self) -> None:
        """Try again what is missing, when it is time."""
        if self._retry_at and time.monotonic() >= self._retry_at:
            self.open()

    def close_admin(self) -> None:
        """Once it returns nobody can ask the node for anything."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def give_up(self) -> None:
        """Leave HTTP, and what is still missing, to the successor."""
        self._retry_at = 0.0
        self._website.close()
