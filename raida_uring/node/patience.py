"""Waiting at the start for obstacles that go away: a port that a closing connection still has, an
interface that is about to come up, a store that its last user has not closed yet. Thread: control.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from raida_uring.errors import RaidaError, ToldToStopError
from raida_uring.log import events
from raida_uring.node.inbox import Inbox
from raida_uring.node.life import Event

TIMEOUT_S: Final = 60.0  # as long as a connection that was closed keeps its port (TIME-WAIT)
RETRY_S: Final = 0.25

T = TypeVar("T")


class Patience:
    """The time that a start may spend on waiting, in total. A stop request ends it at once, by
    ToldToStopError."""

    def __init__(
        self, inbox: Inbox, waits: Callable[[str], object], post: Callable[[Event], object]
    ) -> None:
        """waits: is told the reason, again and again. post: takes all events but a stop."""
        self._inbox = inbox
        self._waits = waits
        self._post = post
        self._deadline = 0.0  # 0: no wait has begun

    def retry(self, action: Callable[[], T]) -> T:
        """What `action` returns, tried again while it raises an error that is `busy`.

        Raises any other error at once, and the `busy` one when the time is over.
        """
        told = ""
        while True:
            try:
                return action()
            except RaidaError as error:
                now = time.monotonic()
                self._deadline = self._deadline or now + TIMEOUT_S
                if not error.busy or now >= self._deadline:
                    raise
                reason = str(error)
            if reason != told:
                told = reason
                events.START_WAITS.log(reason=reason, wait_s=self._deadline - now)
            self._waits(reason)
            self._rest(time.monotonic() + RETRY_S)

    def _rest(self, until: float) -> None:
        while (left_s := until - time.monotonic()) > 0:
            happened = self._inbox.take(left_s)
            if happened is Event.STOP:
                raise ToldToStopError("told to stop before it served")
            if happened is not None:
                self._post(happened)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stop request ends the body, which is code of others and may never return."""
        try:
            with self._inbox.interrupted_by(Event.STOP):
                yield
        except KeyboardInterrupt:
            raise ToldToStopError("told to stop before it served") from None


def retry(patience: Patience | None, action: Callable[[], T]) -> T:
    """As Patience.retry(); without patience, one try."""
    return action() if patience is None else patience.retry(action)
