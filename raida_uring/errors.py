"""The exceptions that this package raises on purpose, by who has to act.

The command line prints each of them as one line and exits with a status listed in
docs/reference.md; any other exception is a bug and keeps its traceback.
"""

import errno
import os
from typing import Final, TypeVar

# Temporary shortages of the machine: descriptors, threads, memory, disk space; and a disk that
# fails, since nothing of the settings is wrong: it may be back after a reset, or at another try.
PASSING: Final = frozenset(
    (
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
    )
)


class RaidaError(Exception):
    """Base class of all exceptions that this package raises on purpose. The text is one line.

    passes: temporary, so a service manager should start the node again. busy: resolved within
    moments, because another process is about to end or to start.
    """

    passes = False
    busy = False


E = TypeVar("E", bound=RaidaError)


class ToldToStopError(RaidaError):
    """A stop request has ended a start that was waiting. Not a fault."""


def passing(error: E, number: int | None = None, *, busy: bool = False) -> E:
    """Mark `error` as temporary and return it. number: an errno (or its negative); mark the error
    only if that is temporary."""
    error.passes = number is None or abs(number) in PASSING
    error.busy = error.passes and busy
    return error


class ArgumentError(RaidaError, ValueError):
    """The caller passed an unsuitable value: names the argument, its value and what is allowed."""


class ConfigError(RaidaError):
    """The configuration is wrong: its author has to change it."""


class StartError(RaidaError):
    """The machine or the operator's request prevents the start: port in use, io_uring refused."""


class EngineError(RaidaError):
    """The data plane refused or failed.

    number: the errno. doing: the operation that failed.
    """

    def __init__(self, number: int, doing: str) -> None:
        super().__init__(f"{doing}: {os.strerror(number)}")
        self.number = number
        self.doing = doing


class StoreError(RaidaError):
    """An operation on the store failed.

    number: LMDB's code or the negative errno; 0: neither.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class ProtocolError(RaidaError):
    """A peer sent bytes that violate the protocol.

    status: the wire status (0 to 255) for the fault, see raida_uring.protocol.Status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(RaidaError):
    """`Answer.require()` was called on a refusal.

    status: the wire status, 0 to 255.
    """

    def __init__(self, status: int, name: str, remark: str = "") -> None:
        super().__init__(f"refused with status {status} {name}" + (remark and f": {remark}"))
        self.status = status
