"""Waiting at the start for obstacles that go away: a port that a closing connection still has, an
interface that is about to come up, a store that its last user has not closed yet. Thread: control.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from raida_uring.errors import RaidaError
from raida_uring.log import events

TIMEOUT_S: Final = 60.0  # as long as a connection that was closed keeps its port (TIME-WAIT)
RETRY_S: Final = 0.25

T = TypeVar("T")


class Patience:
    """The time that a start may spend on waiting, in total."""

    def __init__(self, rest: Callable[[float, str], None]) -> None:
        """rest: waits so many seconds, for the given reason; its exceptions end the start."""
        self._rest = rest
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
            self._rest(RETRY_S, reason)


def retry(patience: Patience | None, action: Callable[[], T]) -> T:
    """As Patience.retry(); without patience, one try."""
    return action() if patience is None else patience.retry(action)
