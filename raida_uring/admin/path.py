"""The path of the admin socket: where it is, who may write there, what may be in the way."""

import os
import socket
import stat
from pathlib import Path

from raida_uring.admin.client import default_path
from raida_uring.admin.node import Served
from raida_uring.errors import StartError


def path_of(server: Served) -> Path:
    """The path that the configuration names, otherwise the default one."""
    given = server.config.admin.socket
    return Path(given) if given else default_path(server.endpoints[0][1])


def listen(path: Path, backlog: int) -> socket.socket:
    """The listening socket, which does not block. Raises StartError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _prepare_directory(path.parent)
        _remove_stale(path)
        # Before bind(), so that others can connect at no moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise StartError(f"[admin] socket {path}: {reason}") from error
        raise
    return listener


def _prepare_directory(directory: Path) -> None:
    """Make it for this user alone. An existing one must belong to this user or root, and nobody
    else may write to it: they could replace the socket by their own. Raises OSError,
    StartError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise StartError(f"[admin] socket: {directory} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise StartError(f"[admin] socket: others may write to {directory}")


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises OSError, or StartError if somebody does."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartError(f"[admin] socket {path}: there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the listener may be stopped, or busy
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full
    raise StartError(f"[admin] socket {path}: another node listens there")
