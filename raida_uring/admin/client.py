"""Where a node's admin socket is, and how to ask it. For the command line and for programs.

One JSON object per line each way. A request names its `command`; an answer is any number of lines
with `progress` and a last one with `result` or `error`. Needs neither the C module nor the server.
"""

import contextlib
import json
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raida_uring.errors import RaidaError

SERVICE_PATH: Final = Path("/run/raida-uring/admin.sock")  # RuntimeDirectory= of the systemd unit
TIMEOUT_S: Final = 10.0
IDENTIFY_TIMEOUT_S: Final = 2.0  # for each of those that are hardly it
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON: in /proc/net/unix the flag of a listening socket
_FOR_WHOM: Final = "Permission denied: only root and the node's own user are answered"
_ANSWER_BYTES_MAX: Final = 64 << 20
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group


class NotRunningError(RaidaError):
    """No node listens there."""


class NodeError(RaidaError):
    """The node did not do it; the text is its own."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The node that a configuration describes. file: the configuration's, None for the default."""

    raida_id: int
    port: int  # 0: any
    file: Path | None

    def is_met_by(self, told: dict[str, Any]) -> bool:
        """Whether the node that has told this status is the one. A port that was given on the
        command line, or that the file has got since, does not make another node of it."""
        if told.get("raida_id") != self.raida_id:
            return False
        if self.port == 0 or self.port in _ports_of(told):
            return True
        return self.file is not None and told.get("config") == os.path.realpath(self.file)

    def __str__(self) -> str:
        return f"RAIDA {self.raida_id}" + (f" on port {self.port}" if self.port else "")


def _ports_of(told: dict[str, Any]) -> list[int]:
    endpoints = told.get("endpoints")
    pairs = endpoints if isinstance(endpoints, list) else []
    return [one[1] for one in pairs if isinstance(one, list) and len(one) == 2]


def _name_of(told: dict[str, Any]) -> str:
    """Who has told this status, in words."""
    ports = " and ".join(dict.fromkeys(str(port) for port in _ports_of(told)))
    return f"RAIDA {told.get('raida_id')} on port {ports or '?'}"


# --- Places -----------------------------------------------------------------------------------


def default_path(port: int) -> Path:
    """Where a node listens unless `[admin] socket` says.

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
    return Path(f"/tmp/raida-uring-{user}")  # noqa: S108  made for us alone, and looked at


def _is_own_directory(path: Path) -> bool:
    try:
        return path.is_dir() and path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _places(port: int) -> Iterator[Path]:
    """Where a node on `port` may listen, whatever environment it was started in; the likeliest
    first. root finds those of every user."""
    user, name = os.geteuid(), f"{port}.sock"
    yield default_path(port)
    yield SERVICE_PATH
    if user == 0:
        yield Path("/run/raida-uring-0") / name
    whose = "*" if user == 0 else str(user)
    for pattern in (f"run/user/{whose}/raida-uring/{name}", f"tmp/raida-uring-{whose}/{name}"):
        with contextlib.suppress(OSError):
            yield from sorted(Path("/").glob(pattern))
    if _is_served(port):  # else there is none, and others' nodes are left in peace
        yield from _listening({name, "admin.sock"})


def _is_served(port: int) -> bool:
    """Whether anybody listens on that port, or whether that is not known."""
    local = b":%04X" % port
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            lines = Path("/proc/net", table).read_bytes().splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6
        except OSError:
            return True
        states = (b"0A",) if table.startswith("tcp") else (b"07",)  # LISTEN, and not connected
        if any(one[1].endswith(local) and one[3] in states for one in map(bytes.split, lines)):
            return True
    return False


def _listening(names: set[str]) -> Iterator[Path]:
    """Where a socket of one of these names listens, as the kernel tells: a unit has a directory of
    its own, and a session may have one anywhere."""
    try:
        table = Path("/proc/net/unix").read_bytes()
    except OSError:
        return
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS and fields[7].startswith(b"/"):
            path = Path(os.fsdecode(fields[7]))
            if path.name in names:
                yield path


def find(wanted: Wanted) -> Path:
    """The socket of that node, wherever it was started.

    Without a file, who listens at the default path is taken, or the service, whatever its number
    and port. Raises NotRunningError, which names who answers instead; RaidaError where somebody
    listens who may be it and does not answer.
    """
    likely = (default_path(wanted.port), SERVICE_PATH)
    others: dict[Path, str] = {}
    found: list[Path] = []
    denied: RaidaError | None = None
    for place in dict.fromkeys(_places(wanted.port)):
        try:
            told, user = _look_at(place, trusted=place in likely)
        except NotRunningError:
            continue
        except RaidaError as error:  # of others' sockets that are no node's there is nothing to say
            denied = denied or (error if place in likely else None)
            continue
        if wanted.is_met_by(told) or (wanted.file is None and place in likely):
            if place in likely or user in (0, os.geteuid()):
                return place
            found.append(place)
        elif place in likely or place.name != likely[1].name:  # not every node of the machine
            others[place] = _name_of(told)
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(map(str, found))
        raise RaidaError(f"{wanted}: other users have several such nodes: --socket takes {places}")
    if denied is not None:
        raise denied
    nobody = f"no node listens on {likely[0]}"
    if others:
        raise NotRunningError(f"{nobody}; {_not_wanted(others, wanted)}")
    elsewhere = (
        "--config FILE or --socket PATH names another node's"
        if wanted.file is None
        else "a node of another user or port is asked by --socket PATH"
    )
    raise NotRunningError(f"{nobody}; {elsewhere}")


def _not_wanted(others: dict[Path, str], wanted: Wanted) -> str:
    told = ", ".join(f"{who} answers on {place}" for place, who in others.items())
    of = "" if wanted.file is None else f" of {wanted.file}"
    return f"{told}, not {wanted}{of}; --socket PATH asks it all the same"


def _look_at(path: Path, *, trusted: bool) -> tuple[dict[str, Any], int]:
    """The status of who listens at `path`, and which user that is.

    trusted: nobody but root and this user can have made it there. Raises as ask(), and RaidaError
    where a stranger may have.
    """
    owner = None if trusted else _owner_of(path)
    with _connected(path, TIMEOUT_S if trusted else IDENTIFY_TIMEOUT_S) as channel:
        user = _user_of(channel)
        if owner is not None and user not in (0, owner):
            raise RaidaError(f"{path}: user {user} listens there, whose it is not")
        return _last(_exchange(channel, path, "status")), user


def _owner_of(path: Path) -> int:
    """Whose socket that is, where nobody else can put another one. Raises RaidaError."""
    try:
        found, directory = path.lstat(), path.parent.stat()
    except OSError as error:
        raise NotRunningError(f"{path}: {error.strerror}") from None
    shared = directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (
        directory.st_mode & stat.S_ISVTX
    )
    if not stat.S_ISSOCK(found.st_mode) or directory.st_uid not in (0, found.st_uid) or shared:
        raise RaidaError(f"{path}: others can change what is there")
    return found.st_uid


# --- Questions --------------------------------------------------------------------------------


def ask(
    path: Path, command: str, *, wanted: Wanted | None = None, **arguments: object
) -> Iterator[dict[str, Any]]:
    """Yield each `progress` and last the `result` of a command.

    wanted: who has to be there, looked at before anything is asked. Raises NotRunningError when
    nobody listens there or another node, NodeError when the node says no, RaidaError when it cannot
    be asked.
    """
    with _connected(path, TIMEOUT_S) as channel:
        if wanted is not None:
            told = _last(_exchange(channel, path, "status"))
            if not wanted.is_met_by(told):
                raise NotRunningError(_not_wanted({path: _name_of(told)}, wanted))
            if command == "status":
                yield told
                return
        yield from _exchange(channel, path, command, **arguments)


@contextlib.contextmanager
def _connected(path: Path, timeout_s: float) -> Iterator[socket.socket]:
    """Raises as ask(), also for what fails in the body."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout_s)
            channel.connect(os.fspath(path))
            _check_server(channel, path)
            yield channel
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunningError(f"no node listens on {path}") from None
    except PermissionError:
        raise RaidaError(f"{path}: {_FOR_WHOM}") from None
    except TimeoutError:
        raise RaidaError(f"{path}: no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise RaidaError(f"{path}: {error.strerror or error}") from None


def _exchange(
    channel: socket.socket, path: Path, command: str, **arguments: object
) -> Iterator[dict[str, Any]]:
    try:
        channel.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before we asked: the reason is there to be read
    yield from _answers(channel, path)


def _user_of(channel: socket.socket) -> int:
    _, user, _ = _CREDENTIALS.unpack(
        channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(user)


def _check_server(channel: socket.socket, path: Path) -> None:
    """A node answers root and its own user, so it is one of theirs; a default path may stand where
    others make names, too. root is told by any node. Raises RaidaError."""
    own, user = os.geteuid(), _user_of(channel)
    if own != 0 and user not in (0, own):
        raise RaidaError(f"{path}: user {user} listens there, not a node of yours")


def _answers(channel: socket.socket, path: Path) -> Iterator[dict[str, Any]]:
    with channel.makefile("rb") as stream:
        while line := stream.readline(_ANSWER_BYTES_MAX):
            try:
                answer = _harmless(json.loads(line))
            except (ValueError, RecursionError):
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


def _harmless(answer: Any) -> Any:
    """Text without what a terminal would obey: root may ask what anybody runs."""
    match answer:
        case str():
            return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", answer)
        case list():
            return [_harmless(one) for one in answer]
        case dict():
            return {_harmless(name): _harmless(value) for name, value in answer.items()}
    return answer


def result_of(
    path: Path, command: str, *, wanted: Wanted | None = None, **arguments: object
) -> dict[str, Any]:
    """The `result` of a command. Raises what ask() raises."""
    return _last(ask(path, command, wanted=wanted, **arguments))


def _last(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for answer in answers:
        last = answer
    return last
