"""Descriptors of this process: how many there may be, and one in reserve.

Thread: any, but for Reserve.
"""

import contextlib
import errno
import os
import resource
import socket
from typing import Final

import psutil

from raida_uring.errors import StartError

DESCRIPTORS_MAX: Final = 1 << 20  # stands for "no limit"
DESCRIPTORS_RESERVED: Final = 256  # for everything but connections


def descriptor_limit() -> int:
    """How many descriptors this process may have once the soft limit is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY else DESCRIPTORS_MAX


def connections_room(limit: int) -> int:
    """How many connections `limit` descriptors leave room for; not positive if for none.

    Other descriptors of this process may already be many: they are counted, not guessed. Raises
    StartError where they cannot be.
    """
    try:
        return limit - DESCRIPTORS_RESERVED - psutil.Process().num_fds()
    except psutil.Error:
        raise StartError("/proc does not show this process: mount it, a node needs it") from None


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return descriptor_limit()


class Reserve:
    """A descriptor in reserve: a node that has none left must be able to say so to whoever asks.
    Thread: the one that accepts."""

    def __init__(self) -> None:
        """Empty where there is none to be had now."""
        self._spare: int | None = None
        self.fill()

    def fill(self) -> None:
        """Have one again, if there is one. Call when a connection has ended."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self, listening: socket.socket) -> socket.socket:
        """The next connection, by the one in reserve if it must be; `listening` does not block.
        Raises OSError."""
        try:
            channel, _ = listening.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare is None:
                raise
            self.close()
            try:
                channel, _ = listening.accept()
            except OSError:  # nobody is there: the kernel looks for a descriptor first
                self.fill()
                raise
        return channel

    def close(self) -> None:
        """Give it up."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
