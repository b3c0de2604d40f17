"""Where a node's admin socket is, and how to ask it. For the command line and for programs.

One JSON object per line each way. A request names its `command`; an answer is any number of lines
with `progress` and a last one with `result` or `error`. Needs neither the C module nor the server.
"""

import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from raida_uring.errors import RaidaError

SERVICE_PATH: Final = Path("/run/raida-uring/admin.sock")  # RuntimeDirectory= of the systemd unit
TIMEOUT_S: Final = 10.0
_FOR_WHOM: Final = "Permission denied: only root and the node's own user are answered"
_ANSWER_BYTES_MAX: Final = 64 << 20
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group


class NotRunningError(RaidaError):
    """No node listens there."""


class NodeError(RaidaError):
    """The node did not do it; the text is its own."""


def default_path(port: int) -> Path:
    """Where a node listens, and is looked for, unless `[admin] socket` says.

    $RUNTIME_DIRECTORY/admin.sock where a service manager set it, else a path that follows from the
    user and the port, in a directory that nobody else may enter.
    """
    given = os.environ.get("RUNTIME_DIRECTORY")
    if given:
        return Path(given.split(":")[0]) / "admin.sock"
    return _user_directory() / f"{port}.sock"


def _user_directory() -> Path:
    of_session = os.environ.get("XDG_RUNTIME_DIR")
    user = os.geteuid()
    if user == 0 and os.access("/run", os.W_OK):  # nobody else makes names there
        return Path("/run/raida-uring-0")
    if of_session and _is_own_directory(Path(of_session)):
        return Path(of_session) / "raida-uring"
    return Path(tempfile.gettempdir()) / f"raida-uring-{user}"


def _is_own_directory(path: Path) -> bool:
    try:
        return path.is_dir() and path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def find(port: int) -> Path:
    """The socket to ask of a node on `port` whose configuration names none: its default path, else
    that of the service."""
    own = default_path(port)
    return SERVICE_PATH if not is_there(own) and is_there(SERVICE_PATH) else own


def is_there(path: Path) -> bool:
    """Whether `path` exists, or may exist in a directory that this user may not look into."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def ask(path: Path, command: str, **arguments: object) -> Iterator[dict[str, Any]]:
    """Yield each `progress` and last the `result` of a command.

    Raises NotRunningError when nobody listens there, NodeError when the node says no, RaidaError
    when it cannot be asked.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(TIMEOUT_S)
            channel.connect(os.fspath(path))
            _check_server(channel, path)
            try:
                channel.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before we asked: the reason is there to be read
            yield from _answers(channel, path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunningError(f"no node listens on {path}") from None
    except PermissionError:
        raise RaidaError(f"{path}: {_FOR_WHOM}") from None
    except TimeoutError:
        raise RaidaError(f"{path}: no answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise RaidaError(f"{path}: {error.strerror or error}") from None


def _check_server(channel: socket.socket, path: Path) -> None:
    """A node answers root and its own user, so it is one of theirs; a default path may stand where
    others make names, too. root is told by any node. Raises RaidaError."""
    _, user, _ = _CREDENTIALS.unpack(
        channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    own = os.geteuid()
    if own != 0 and user not in (0, own):
        raise RaidaError(f"{path}: user {user} listens there, not a node of yours")


def _answers(channel: socket.socket, path: Path) -> Iterator[dict[str, Any]]:
    with channel.makefile("rb") as stream:
        while line := stream.readline(_ANSWER_BYTES_MAX):
            try:
                answer = json.loads(line)
            except ValueError:
                answer = None
            match answer:
                case {"error": error}:
                    raise NodeError(str(error))
                case {"progress": dict(progress)}:
                    yield progress
                case {"result": dict(result)}:
                    yield result
                    return
                case _:
                    raise RaidaError(f"{path}: not a node's admin socket")
    raise RaidaError(f"{path}: the node hung up")


def result_of(path: Path, command: str, **arguments: object) -> dict[str, Any]:
    """The `result` of a command. Raises what ask() raises."""
    last: dict[str, Any] = {}
    for answer in ask(path, command, **arguments):
        last = answer
    return last
