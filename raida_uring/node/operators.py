"""What operators reach a node by: the admin socket and the port of HTTP.

Neither may end a node that serves: one that cannot be opened is logged and tried again. Thread:
main.
"""

import contextlib
import time
from typing import Final

from raida_uring.admin.node import Node
from raida_uring.admin.path import path_of
from raida_uring.admin.server import Admin
from raida_uring.log import events
from raida_uring.node.server import Server
from raida_uring.node.website import UNAVAILABLE

RETRY_S: Final = 0.1  # between tries to open what a predecessor is about to give up
QUIET_S: Final = 5.0  # without a log line: a killed predecessor gives things up one by one
RETRY_LATER_S: Final = 2.0  # between tries after that


class Operators:
    """Opens both, and tries again what could not be opened."""

    def __init__(self, node: Node, server: Server) -> None:
        self._node = node
        self._server = server
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
        self._retry_at = 0.0
        if self._server.phase != "serving":
            return
        url_before = self._server.url
        with contextlib.suppress(*UNAVAILABLE):
            self._server.website.open(self._server.config.http)
        self._open_admin()
        faults = {"http": self._server.http_fault, "admin": self._admin_fault}
        now, missing = time.monotonic(), {name for name, fault in faults.items() if fault}
        quiet = now < self._quiet_until
        if missing:
            self._retry_at = now + (RETRY_S if quiet else RETRY_LATER_S)
        if not quiet:
            self._log_missing(missing - self._told)
            self._told = missing
        if self._server.url is not None and url_before is None:
            self._server.website.log()

    def _open_admin(self) -> None:
        if self._admin is not None:
            return
        try:
            self._admin = Admin(self._node, path_of(self._server))
            self._admin_fault = None
        except UNAVAILABLE as error:
            self._admin_fault = str(error)

    def _log_missing(self, missing: set[str]) -> None:
        if "http" in missing:
            events.HTTP_FAILED.log(retry_s=RETRY_LATER_S, fault=self._server.http_fault)
        if "admin" in missing:
            events.ADMIN_SOCKET_FAILED.log(retry_s=RETRY_LATER_S, fault=self._admin_fault)

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
        self._server.website.close()
