"""How a handler is declared as a command: the decorator `command`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

from raida_uring.handlers.message import Reply, Request
from raida_uring.handlers.node import Node

ECHO_NUMBER: Final = 0  # of 0/0, which several places answer specially

_REQUIRED: Final[Any] = object()

Mode = Literal["read", "write", "slow"]
Handler = Callable[[Request, Node], Reply]


class AnsweredInC:
    """Base class of handlers that stand for a command of the data plane, which does not call them.

    A type and not an attribute: a function may have any attribute, and one that means something
    else to its author must not keep it from being called.
    """


@dataclass(frozen=True, slots=True)
class Command:
    """A registered handler. source: its origin, in words."""

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
    def native(self) -> bool:
        """Whether the data plane answers it without the handler."""
        return isinstance(self.handler, AnsweredInC)

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
    answered 36: the known bytes would reveal the keystream, and with it the key. That holds for the
    reply to random bytes, too: let it have no payload. None: public unless needs_body.
    guesses: the statuses that say that a secret in the request (a password, a ticket) was wrong.
    They count as failed checks: requests of a sender with too many of them no longer reach the
    handler, right or wrong ([limits] failed_checks_burst).
    Raises ValueError when a value is out of range, TypeError when what it decorates is no function,
    or when it is used without a group and a code.
    """
    if bare or group is _REQUIRED or code is _REQUIRED:
        raise TypeError("write @command(group=..., code=...), as in @command(group=5, code=200)")
    for what, number, range_ in (("group", group, range(16)), ("code", code, range(256))):
        if type(number) is not int or number not in range_:
            raise ValueError(f"{what} = {number!r}: must be an integer from 0 to {range_[-1]}")
    name = f"command {group}/{code}"
    if mode not in ("read", "write", "slow"):
        raise ValueError(f'{name}: mode is "read", "write" or "slow", not {mode!r}')
    if type(needs_body) is not bool:
        raise ValueError(f"{name}: needs_body is True or False, not {needs_body!r}")
    if public is not None and type(public) is not bool:
        raise ValueError(f"{name}: public is True, False or None, not {public!r}")
    known = not needs_body if public is None else public
    wrong = frozenset(guesses)
    for status in wrong:
        if not isinstance(status, int) or not 0 <= status <= 255:
            raise ValueError(f"{name}: guesses are statuses from 0 to 255, not {status!r}")

    def declare(handler: Handler) -> Handler:
        if not callable(handler):
            raise TypeError(f"{name}: a handler is a function, not {type(handler).__name__}")
        _declared.setdefault(handler.__module__, []).append(
            Command(group, code, mode, needs_body, known, wrong, handler)
        )
        return handler

    return declare


# By module. Declarations count, not the module's names: two functions of one name are two commands,
# and a handler imported from elsewhere is none.
_declared: dict[str, list[Command]] = {}


def commands_of(thing: object) -> list[Command]:
    """The commands declared in a module, or those whose handler is this function."""
    if isinstance(thing, ModuleType):
        return _declared.get(thing.__name__, [])
    of_module = _declared.get(getattr(thing, "__module__", ""), [])
    return [item for item in of_module if item.handler is thing]
