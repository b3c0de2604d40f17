"""What we raise on purpose, told apart by who has to act.

The command line prints any of these as one line and exits with a status that docs/reference.md
names; anything else is a bug of ours and keeps its traceback.
"""

import errno
import os
from typing import Final, TypeVar

# Of the machine, at this moment: no descriptor, thread, memory, room on the disk.
PASSING: Final = frozenset(
    (
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.EDQUOT,
    )
)


class RaidaError(Exception):
    """Root of every error this package raises on purpose. The text is one line, for a person.

    passes: it may be gone the next time, so a service manager should start the node again. busy: in
    a moment even, because somebody else is about to leave or to come.
    """

    passes = False
    busy = False


E = TypeVar("E", bound=RaidaError)


class ToldToStopError(RaidaError):
    """A start that was waiting for something has been told to stop. No fault."""


def passing(error: E, number: int | None = None, *, busy: bool = False) -> E:
    """`error`, marked as one that passes by itself. number: only if this errno (or its negative)
    does."""
    error.passes = number is None or abs(number) in PASSING
    error.busy = error.passes and busy
    return error


class ArgumentError(RaidaError, ValueError):
    """Our caller passed what does not fit: names the argument, its value and what is allowed."""


class ConfigError(RaidaError):
    """The configuration is wrong: its author has to change it."""


class StartError(RaidaError):
    """The machine or the operator's request stands in the way: port in use, io_uring refused."""


class EngineError(RaidaError):
    """The data plane refused or failed.

    number: the errno. doing: what was being done, in words.
    """

    def __init__(self, number: int, doing: str) -> None:
        super().__init__(f"{doing}: {os.strerror(number)}")
        self.number = number
        self.doing = doing


class StoreError(RaidaError):
    """The store cannot do what was asked of it.

    number: LMDB's code or the negative errno; 0 when neither had a part in it.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class ProtocolError(RaidaError):
    """A peer sent bytes that break the protocol.

    status: the wire status (0 to 255) that names the fault, as raida_uring.protocol.Status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(RaidaError):
    """A node refused what `Answer.require()` insists on.

    status: the wire status, 0 to 255.
    """

    def __init__(self, status: int, name: str, remark: str = "") -> None:
        super().__init__(f"refused with status {status} {name}" + (remark and f": {remark}"))
        self.status = status
