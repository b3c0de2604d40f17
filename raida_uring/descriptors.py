"""Descriptors of this process: their limit, and one in reserve.

Thread: any, except for Reserve.
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
    """Return the limit of descriptors once the soft limit is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY else DESCRIPTORS_MAX


def connections_room(limit: int) -> int:
    """Return how many connections `limit` descriptors leave room for; may be negative.

    Counts the descriptors already open, which may be many. Raises StartError if they cannot be
    counted.
    """
    try:
        return limit - DESCRIPTORS_RESERVED - psutil.Process().num_fds()
    except psutil.Error:
        raise StartError("/proc does not show this process: mount it, a node needs it") from None


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return descriptor_limit()


class Reserve:
    """A descriptor in reserve, so that a node without any left can still accept a connection and
    report that. Thread: the one that accepts."""

    def __init__(self) -> None:
        """Open the reserve; stays empty if no descriptor is free."""
        self._spare: int | None = None
        self.fill()

    def fill(self) -> None:
        """Open the reserve again if a descriptor is free. Call when a connection has ended."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self, listening: socket.socket) -> socket.socket:
        """Accept the next connection, with the reserve if no other descriptor is free. `listening`
        must be nonblocking. Raises OSError."""
        try:
            channel, _ = listening.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare is None:
                raise
            self.close()
            try:
                channel, _ = listening.accept()
            except OSError:  # none waits: the kernel allocates a descriptor before it looks
                self.fill()
                raise
        return channel

    def close(self) -> None:
        """Close the reserve."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
