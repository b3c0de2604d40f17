"""What we raise on purpose, told apart by who has to act.

The command line prints any of these as one line and exits 2; anything else is a bug of ours and
keeps its traceback.
"""

import os


class RaidaError(Exception):
    """Root of every error this package raises on purpose. The text is one line, for a person."""


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
