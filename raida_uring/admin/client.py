"""Where a node's admin socket is, and how to ask the node. For the command line and programs.

One JSON object per line each way. A request names its `command`; an answer is any number of lines
with `progress` and a last one with `result` or `error`. Needs neither the C module nor the server.
"""

import contextlib
import json
import os
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
IDENTIFY_TIMEOUT_S: Final = 2.0  # for each socket that is unlikely to be the right one
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON: in /proc/net/unix the flag of a listening socket
_FOR_WHOM: Final = "Permission denied: only root and the node's own user are answered"
_ANSWER_BYTES_MAX: Final = 64 << 20
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group


class NotRunningError(RaidaError):
    """No node listens at the path."""


class NodeError(RaidaError):
    """The node refused or failed; the text is the node's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The node that a configuration describes. file: the configuration's, None for the default."""

    raida_id: int
    port: int  # 0: any
    file: Path | None

    def is_met_by(self, told: dict[str, Any]) -> bool:
        """Whether `told` is the status of that node. A port given on the command line, or changed
        in the file since, does not make it a different node."""
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
    """The node whose status that is, in words."""
    ports = " and ".join(dict.fromkeys(str(port) for port in _ports_of(told)))
    return f"RAIDA {told.get('raida_id')} on port {ports or '?'}"


# --- Places -----------------------------------------------------------------------------------


def default_path(port: int) -> Path:
    """Where a node listens unless `[admin] socket` names a path.

    $RUNTIME_DIRECTORY/admin.sock if a service manager has set it, otherwise a path made of the user
    and the port, in a directory that nobody else may enter.
    """
    given = os.environ.get("RUNTIME_DIRECTORY")
    if given:
        return Path(given.split(":")[0]) / "admin.sock"
    return _user_directory() / f"{port}.sock"


def _user_directory() -> Path:
    of_session = os.environ.get("XDG_RUNTIME_DIR")
    user = os.geteuid()
    if user == 0 and os.access("/run", os.W_OK):  # nobody else can create files there
        return Path("/run/raida-uring-0")
    with contextlib.suppress(OSError):
        if of_session and os.path.isdir(of_session) and os.stat(of_session).st_uid == user:
            return Path(of_session) / "raida-uring"
    return Path(f"/tmp/raida-uring-{user}")  # noqa: S108  for this user alone, and checked


def _places(port: int) -> Iterator[Path]:
    """Where a node on `port` may listen, whatever environment it was started in; the likeliest
    first. For root, the places of every user."""
    user, name = os.geteuid(), f"{port}.sock"
    yield default_path(port)
    yield SERVICE_PATH
    if user == 0:
        yield Path("/run/raida-uring-0") / name
    whose = "*" if user == 0 else str(user)
    for pattern in (f"run/user/{whose}/raida-uring/{name}", f"tmp/raida-uring-{whose}/{name}"):
        with contextlib.suppress(OSError):
            yield from sorted(Path("/").glob(pattern))
    if _is_served(port):  # otherwise there is no such node, and others are not asked
        yield from _listening({name, "admin.sock"})


def _is_served(port: int) -> bool:
    """Whether anybody listens on that port, or that cannot be known."""
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
    """Listening sockets of one of these names, from the kernel: the directory of a unit or a
    session may be anywhere."""
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

    Without a file: the node at the default path, or the service, whatever its number and port.
    Raises NotRunningError, which names the nodes that answer instead; RaidaError if one that may be
    it does not answer.
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
        except RaidaError as error:  # not reported for sockets that are unlikely to be it
            denied = denied or (error if place in likely else None)
            continue
        if wanted.is_met_by(told) or (wanted.file is None and place in likely):
            if place in likely or user in (0, os.geteuid()):
                return place
            found.append(place)
        elif place in likely or place.name != likely[1].name:  # not every service of the machine
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
    """The status of the node that listens at `path`, and its user.

    trusted: only root and this user can have created the socket. Raises as ask(), and RaidaError if
    another user may have created it.
    """
    owner = None if trusted else _owner_of(path)
    with _connected(path, TIMEOUT_S if trusted else IDENTIFY_TIMEOUT_S) as channel:
        _, user = peer_of(channel)
        if owner is not None and user not in (0, owner):
            raise RaidaError(f"{path}: user {user} listens there, whose it is not")
        return _last(_exchange(channel, path, "status")), user


def _owner_of(path: Path) -> int:
    """The owner of a socket that nobody else can replace. Raises RaidaError."""
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

    wanted: the node that must be there, checked before the command is sent. Raises NotRunningError
    if no node or another one listens there, NodeError if the node refuses, RaidaError if it cannot
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
    """Raises as ask(), also for failures in the body."""
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
        pass  # refused before the request was sent: the reason can be read
    yield from _answers(channel, path)


def peer_of(channel: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a connected Unix socket."""
    raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    return process, user


def _check_server(channel: socket.socket, path: Path) -> None:
    """A node answers root and its own user, so it must be run by one of them: others may be able to
    create files at a default path, too. root may ask any node. Raises RaidaError."""
    own, (_, user) = os.geteuid(), peer_of(channel)
    if own != 0 and user not in (0, own):
        raise RaidaError(f"{path}: user {user} listens there, not a node of yours")


def _answers(channel: socket.socket, path: Path) -> Iterator[dict[str, Any]]:
    with channel.makefile("rb") as stream:
        while line := stream.readline(_ANSWER_BYTES_MAX):
            try:
                answer = _printable(json.loads(line))
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


def _printable(answer: Any) -> Any:
    """The answer without control characters: root may ask a program that anybody runs."""
    match answer:
        case str():
            return harmless(answer)
        case list():
            return [_printable(one) for one in answer]
        case dict():
            return {_printable(name): _printable(value) for name, value in answer.items()}
    return answer


_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "?")


def harmless(text: str) -> str:
    """The text with `?` for each control character, which a terminal might obey."""
    return text.translate(_CONTROLS)


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
