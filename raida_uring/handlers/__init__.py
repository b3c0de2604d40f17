"""Command handlers: what a request looks like, how a handler is written, which ones there are.

A handler is a function of the request and the node that returns a `Reply`:

    @command(group=5, code=200)
    def greet(request: Request, node: Node) -> Reply:
        return Reply(payload=b"hello")

The node finds it in a module of `[handlers] modules` or behind an entry point of the group
`raida_uring.commands`. Handlers run on worker threads, several at a time; one that raises is
answered 252 and logged.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import itertools
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

from raida_uring import protocol
from raida_uring.errors import ConfigError
from raida_uring.handlers.message import Reply, Request
from raida_uring.handlers.node import Node
from raida_uring.log import events

__all__ = ["Command", "Handler", "Mode", "Node", "Reply", "Request", "command", "load"]

ENTRY_POINT_GROUP: Final = "raida_uring.commands"
GROUPS: Final = range(16)
CODES: Final = range(256)
COMMANDS_COUNT: Final = 16 * 256
ECHO_NUMBER: Final = 0  # of 0/0, which several places answer specially
# Groups in which the protocol has no command, and codes that this node will never take there.
OTHERS_GROUPS: Final = (5, 6, 7)
OTHERS_CODES: Final = range(128, 256)


_REQUIRED: Final[Any] = object()

Mode = Literal["read", "write", "slow"]

Handler = Callable[[Request, Node], Reply]


@dataclass(frozen=True, slots=True)
class Command:
    """A registered handler. source: where it comes from, in words."""

    group: int
    code: int
    mode: Mode
    needs_body: bool
    public: bool
    guesses: frozenset[int]
    handler: Handler
    source: str = "built in"

    @property
    def number(self) -> int:
        """Its place in a table of all commands."""
        return self.group << 8 | self.code

    @property
    def name(self) -> str:
        """Module and function, for logs."""
        return name_of(self.handler)


def name_of(handler: Handler) -> str:
    """Module and name of a handler, which may be any callable."""
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', '?')}.{name}"


def command(
    *bare: object,
    group: int = _REQUIRED,
    code: int = _REQUIRED,
    mode: Mode = "read",
    needs_body: bool = False,
    public: bool | None = None,
    guesses: Iterable[int] = (),
) -> Callable[[Handler], Handler]:
    """Declare the decorated function as the handler of (group, code).

    group: 0 to 15. code: 0 to 255. mode: "read" answers at once, in the ordinary lane; "write"
    changes `node.coins`, in the writing lane, one handler at a time: its changes are kept only if
    it returns, and are durable before its reply is sent; "slow" waits for something outside, in the
    slow lane, whose queue is bounded (status 160 when full).
    needs_body: a request without a body is answered 36 and never reaches the handler.
    public: anybody can know the payload of its reply, so a request under encryption type 1 or 2 is
    answered 36: the known bytes would reveal the keystream, and with it the key. None: public
    unless needs_body.
    guesses: the statuses that say that a secret in the request (a password, a ticket) was wrong.
    They count as failed checks: requests of a sender with too many of them no longer reach the
    handler, right or wrong ([limits] failed_checks_burst).
    Raises ValueError when a value is out of range, TypeError when what it decorates is no function,
    or when it is used without a group and a code.
    """
    if bare or group is _REQUIRED or code is _REQUIRED:
        raise TypeError("write @command(group=..., code=...), as in @command(group=5, code=200)")
    for what, number, range_ in (("group", group, GROUPS), ("code", code, CODES)):
        if type(number) is not int or number not in range_:
            raise ValueError(f"{what} = {number!r}: must be an integer from 0 to {range_[-1]}")
    if mode not in ("read", "write", "slow"):
        raise ValueError(f'command {group}/{code}: mode is "read", "write" or "slow", not {mode!r}')
    if type(needs_body) is not bool:
        raise ValueError(f"command {group}/{code}: needs_body is True or False, not {needs_body!r}")
    if public is not None and type(public) is not bool:
        raise ValueError(f"command {group}/{code}: public is True, False or None, not {public!r}")
    known = not needs_body if public is None else public
    wrong = frozenset(guesses)
    for status in wrong:
        if not isinstance(status, int) or not 0 <= status <= 255:
            raise ValueError(
                f"command {group}/{code}: guesses are statuses from 0 to 255, not {status!r}"
            )

    def declare(handler: Handler) -> Handler:
        if not callable(handler):
            raise TypeError(
                f"command {group}/{code}: a handler is a function, not {type(handler).__name__}"
            )
        _declared.setdefault(handler.__module__, []).append(
            Command(group, code, mode, needs_body, known, wrong, handler)
        )
        return handler

    return declare


# By module. Declarations count, not the module's names: two functions of one name are two commands,
# and a handler imported from elsewhere is none.
_declared: dict[str, list[Command]] = {}


def _commands_of(thing: object) -> list[Command]:
    """The commands declared in a module, or those whose handler is this function."""
    if isinstance(thing, ModuleType):
        return _declared.get(thing.__name__, [])
    of_module = _declared.get(getattr(thing, "__module__", ""), [])
    return [item for item in of_module if item.handler is thing]


def _builtin(*, store: bool) -> Iterator[tuple[str, object]]:
    for name in ("status", "coins", "healing", "integrity") if store else ("status", "pending"):
        yield "built in", importlib.import_module(f"raida_uring.handlers.{name}")


def _entry_points() -> Iterator[tuple[str, object]]:
    for point in _declared_entry_points():
        source = f"entry point {point.name} = {point.value}"
        try:
            yield source, point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{source}: cannot be loaded: {_reason(error)}") from error


def _declared_entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    """Of every installed package, each package once.

    importlib.metadata.entry_points() would fail for all of them if one package had unreadable
    metadata, or a tool had left an empty directory.
    """
    seen: set[str] = set()
    for package in importlib.metadata.distributions():
        try:
            name = re.sub("[-_.]+", "-", package.metadata["Name"]).lower()
            points = list(package.entry_points)
        except Exception as error:
            place = getattr(package, "_path", "?")
            events.PACKAGE_UNREADABLE.log(path=place, error=_reason(error))
            continue
        if name not in seen:  # the first on the path is the one that is imported
            seen.add(name)
            yield from (one for one in points if one.group == ENTRY_POINT_GROUP)


def _configured(modules: Iterable[str]) -> Iterator[tuple[str, object]]:
    for name in modules:
        source = f"[handlers] modules: {name}"
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit: a script without its `if __name__`
            hint = "; without .py" if name.endswith(".py") else ""
            raise ConfigError(f"{source}: cannot be imported: {_reason(error)}{hint}") from error
        yield source, module


def _place(thing: object) -> str:
    """Where a module was found: another one of that name may come first on the path."""
    path = getattr(thing, "__file__", None)
    return f" ({path})" if isinstance(thing, ModuleType) and path else ""


def _reason(error: BaseException) -> str:
    """What was raised, and by which line of the module or of what it imports."""
    try:
        text = str(error)
    except Exception as fault:  # of a class of the module's own
        text = f"it cannot say why: {type(fault).__name__} in its __str__"
    ours = (__file__, os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(ours):
            where = f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
            return f"{type(error).__name__}: {text}{where}"
    return f"{type(error).__name__}: {text}"


def load(modules: Iterable[str], *, store: bool = False) -> list[Command]:
    """All commands of this node: built in, from entry points, from `modules`.

    store: whether the node has one. Raises ConfigError when one cannot be loaded, declares none, is
    no plain function of two arguments, takes a command that is already there, or writes without
    a store.
    """
    table: dict[int, Command] = {}
    for sources in (_builtin(store=store), _entry_points(), _configured(modules)):
        for source, thing in sources:
            found = _commands_of(thing)
            if not found:
                raise ConfigError(f"{source}: declares no command{_place(thing)}")
            for item in found:
                _check_signature(source, item)
                if item.mode == "write" and not store:
                    raise ConfigError(f"{source}: {item.name} changes the store: set [store] path")
                there = table.get(item.number)
                if there is None:
                    table[item.number] = dataclasses.replace(item, source=source)
                elif there != dataclasses.replace(item, source=there.source):  # not named twice
                    raise ConfigError(
                        f"{source}: command {item.group}/{item.code} is already taken by "
                        f"{there.name} ({there.source})"
                    )
    return list(table.values())


def summary(commands: Sequence[Command]) -> str:
    """How many there are, and from where."""
    counts: dict[str, int] = {}
    for item in commands:
        counts[item.source] = counts.get(item.source, 0) + 1
    parts = ", ".join(f"{count} {source}" for source, count in counts.items())
    return f"{len(commands)} commands: {parts}"


def table(commands: Sequence[Command]) -> str:
    """All commands for people, a line each, and which numbers are left for others."""
    lines = [f"{'COMMAND':<9}{'NAME':<30}{'MODE':<7}{'BODY':<8}HANDLER"]
    for item in sorted(commands, key=lambda item: item.number):
        body = "needed" if item.needs_body else "-"
        number = f"{item.group}/{item.code}"
        name = protocol.command_name(item.group, item.code)
        lines.append(
            f"{number:<9}{'-' if name == number else name:<30}{item.mode:<7}{body:<8}"
            f"{item.name} ({item.source})"
        )
    taken = {item.number for item in commands}
    free = ", ".join(
        f"{group}/{part}"
        for group in OTHERS_GROUPS
        for part in _ranges(code for code in OTHERS_CODES if group << 8 | code not in taken)
    )
    lines.append(f"free for commands of your own: {free}")
    return "\n".join(lines)


def as_dicts(commands: Sequence[Command]) -> list[dict[str, object]]:
    """The same for programs."""
    return [
        {
            "group": item.group,
            "code": item.code,
            "name": protocol.command_name(item.group, item.code),
            "mode": item.mode,
            "needs_body": item.needs_body,
            "handler": item.name,
            "source": item.source,
        }
        for item in sorted(commands, key=lambda item: item.number)
    ]


def _ranges(numbers: Iterable[int]) -> Iterator[str]:
    """`1-3`, `7` for 1, 2, 3, 7."""
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0])


def _check_signature(source: str, item: Command) -> None:
    handler = item.handler
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigError(f"{source}: {item.name} must be a plain function, not `async def`")
    if inspect.isgeneratorfunction(handler):
        raise ConfigError(f"{source}: {item.name} must return its Reply, not `yield` it")
    try:
        signature: Any = inspect.signature(item.handler)
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"{source}: {item.name} must take (request, node), not {signature}"
        ) from error
