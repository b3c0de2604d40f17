"""Command handlers: what a request looks like, how a handler is written, which ones there are.

A handler is a function of the request and the node that returns a `Reply`:

    @command(group=5, code=200)
    def greet(request: Request, node: Node) -> Reply:
        return Reply(payload=b"hello")

The node finds it in a module of `[handlers] modules` or behind an entry point of the group
`raida_uring.commands`. Handlers run on worker threads, several at a time; one that raises is
answered 252 and logged.
"""

import importlib
import importlib.metadata
import inspect
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple

from raida_uring.errors import ConfigError
from raida_uring.node import Node

__all__ = ["Command", "Handler", "Mode", "Node", "Reply", "Request", "command", "load"]

ENTRY_POINT_GROUP: Final = "raida_uring.commands"
GROUPS: Final = range(16)
CODES: Final = range(256)
COMMANDS_COUNT: Final = 16 * 256

Mode = Literal["read", "slow"]

# Where a record (struct ru_record) holds what, and what stands before a body in the batch's data.
_AT, _COMMAND, _KIND, _ENCRYPTION, _SHARD, _TRANSPORT, _BODY_SIZE = 0, 2, 3, 4, 5, 6, 7
_PEER_OFFSET, _HEADER_OFFSET = -80, -48
_CHALLENGE_SIZE: Final = 16


class Reply(NamedTuple):
    """What a handler answers.

    status: 0 to 255, see `raida_uring.protocol.Status`. payload: up to 65,502 bytes over TCP; over
    UDP as many as `[limits] udp_reply_factor_max` allows.
    """

    status: int = 250
    payload: bytes = b""


class Request:
    """A request whose header, length and body check have passed.

    `payload` is a copy of its own: it may be kept. The other properties are decoded when asked for.
    """

    __slots__ = ("_data", "_record", "payload")

    def __init__(self, payload: bytes, record: tuple[int, ...], data: bytes) -> None:
        self.payload = payload
        self._record = record
        self._data = data

    @property
    def group(self) -> int:
        """Command group, 0 to 15."""
        return self._record[_COMMAND] >> 8

    @property
    def command(self) -> int:
        """Command within the group, 0 to 255."""
        return self._record[_COMMAND] & 0xFF

    @property
    def encryption(self) -> int:
        """Encryption type of request and reply: 0, 1, 2, 4 or 5."""
        return self._record[_ENCRYPTION]

    @property
    def shard(self) -> int:
        """Shard id, 0 to 3."""
        return self._record[_SHARD]

    @property
    def has_body(self) -> bool:
        """Whether there was a body at all; without one the payload is empty too."""
        return self._record[_BODY_SIZE] > 0

    @property
    def transport(self) -> str:
        """`udp` or `tcp`."""
        return "tcp" if self._record[_TRANSPORT] else "udp"

    @property
    def header(self) -> bytes:
        """The request's header as sent: 32 bytes, or 48 for encryption types 4 and 5."""
        start = self._front() + _HEADER_OFFSET
        return self._data[start : start + (32 if self.encryption <= 2 else 48)]

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the sender."""
        start = self._front() + _PEER_OFFSET
        raw = self._data[start : start + 28]
        family = int.from_bytes(raw[:2], sys.byteorder)
        port = int.from_bytes(raw[2:4])
        if family == socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port

    def _front(self) -> int:
        """Where the body starts in the batch's data; a plain one has its challenge first."""
        return self._record[_AT] - (_CHALLENGE_SIZE if self._record[_KIND] == 0 else 0)

    def __repr__(self) -> str:
        host, port = self.peer
        return (
            f"<Request {self.group}/{self.command} {len(self.payload)} bytes "
            f"over {self.transport} from {host} port {port}>"
        )


Handler = Callable[[Request, Node], Reply]


@dataclass(frozen=True, slots=True)
class Command:
    """A registered handler."""

    group: int
    code: int
    mode: Mode
    needs_body: bool
    handler: Handler

    @property
    def number(self) -> int:
        """Its place in a table of all commands."""
        return self.group << 8 | self.code

    @property
    def name(self) -> str:
        """Module and function, for logs."""
        return f"{self.handler.__module__}.{self.handler.__qualname__}"


def command(
    *, group: int, code: int, mode: Mode = "read", needs_body: bool = False
) -> Callable[[Handler], Handler]:
    """Declare the decorated function as the handler of (group, code).

    group: 0 to 15. code: 0 to 255. mode: "read" answers at once; "slow" waits for something outside
    and runs in a small pool of its own, whose queue is bounded (status 160 when full).
    needs_body: a request without a body is answered 36 and never reaches the handler.
    Raises ValueError when a value is out of range.
    """
    if group not in GROUPS or code not in CODES:
        raise ValueError(f"command {group}/{code}: group is 0 to 15 and code 0 to 255")
    if mode not in ("read", "slow"):
        raise ValueError(f'command {group}/{code}: mode is "read" or "slow", not {mode!r}')

    def declare(handler: Handler) -> Handler:
        _declared.setdefault(handler.__module__, []).append(
            Command(group, code, mode, needs_body, handler)
        )
        return handler

    return declare


# By module. The list, not the module's names, is what counts: two functions of one name are two
# commands, and a handler imported from elsewhere is none.
_declared: dict[str, list[Command]] = {}


def _commands_of(thing: object) -> list[Command]:
    """The commands declared in a module, or those whose handler is this function."""
    if isinstance(thing, ModuleType):
        return _declared.get(thing.__name__, [])
    of_module = _declared.get(getattr(thing, "__module__", ""), [])
    return [item for item in of_module if item.handler is thing]


def _builtin() -> Iterator[tuple[str, object]]:
    for name in ("status", "pending"):
        yield "built in", importlib.import_module(f"raida_uring.handlers.{name}")


def _entry_points() -> Iterator[tuple[str, object]]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        source = f"entry point {point.name} = {point.value}"
        try:
            yield source, point.load()
        except Exception as error:
            raise ConfigError(f"{source}: cannot be loaded: {_reason(error)}") from error


def _configured(modules: Iterable[str]) -> Iterator[tuple[str, object]]:
    for name in modules:
        source = f"[handlers] modules: {name}"
        try:
            yield source, importlib.import_module(name)
        except Exception as error:
            raise ConfigError(f"{source}: cannot be imported: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def load(modules: Iterable[str]) -> list[Command]:
    """All commands of this node: built in, of entry points, of `modules`.

    Raises ConfigError when one cannot be loaded, declares none, is no function of two arguments, or
    takes a command that is already there.
    """
    table: dict[int, tuple[str, Command]] = {}
    for sources in (_builtin(), _entry_points(), _configured(modules)):
        for source, thing in sources:
            found = _commands_of(thing)
            if not found:
                raise ConfigError(f"{source}: declares no command")
            for item in found:
                _check_signature(source, item)
                if item.number in table:
                    raise ConfigError(
                        f"{source}: command {item.group}/{item.code} is already taken by "
                        f"{table[item.number][1].name} ({table[item.number][0]})"
                    )
                table[item.number] = (source, item)
    return [item for _, item in table.values()]


def _check_signature(source: str, item: Command) -> None:
    try:
        signature: Any = inspect.signature(item.handler)
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"{source}: {item.name} must take (request, node), not {signature}"
        ) from error
