"""Waiting, at the start, for what passes by itself: a port that a closing connection holds, an
interface that is about to come, a store that its last user has not left yet. Thread: control.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from raida_uring.errors import RaidaError
from raida_uring.log import event

TIMEOUT_S: Final = 60.0  # as long as a connection that was closed keeps its port (TIME-WAIT)
RETRY_S: Final = 0.25

T = TypeVar("T")

logger = logging.getLogger("raida_uring")


class Patience:
    """What a node that starts may spend on waiting, all in all."""

    def __init__(self, rest: Callable[[float, str], None]) -> None:
        """rest: waits so many seconds, told what for; what it raises ends the start."""
        self._rest = rest
        self._deadline = 0.0  # 0: nothing was waited for yet

    def retry(self, action: Callable[[], T]) -> T:
        """What `action` returns, once it does not raise an error that is `busy` any more.

        Raises what it raises else, or still raises at the end.
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
                logger.warning(
                    "%s; waiting up to %.0f s",
                    reason,
                    self._deadline - now,
                    extra=event("start_waits", reason=reason),
                )
            self._rest(RETRY_S, reason)


def retry(patience: Patience | None, action: Callable[[], T]) -> T:
    """As Patience.retry(), or only once where there is none."""
    return action() if patience is None else patience.retry(action)
