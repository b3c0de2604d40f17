"""Checks of the arguments of the public interface.

Pure. Any thread. Each function returns the value or raises ArgumentError with the argument's name,
its value and what is allowed. Of bytes and keys, which may be secret, an error shows only size and
type.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final, NoReturn, TypeGuard, TypeVar

from raida_uring.errors import ArgumentError

T = TypeVar("T")

TIMEOUT_S_MAX: Final = 31_536_000  # a year; Python's sockets take no more than a few hundred years
_SHOWN_CHARS_MAX: Final = 80


def refuse(name: str, value: object, allowed: str, *, secret: bool = False) -> NoReturn:
    """Raise the error for a value that is not allowed. allowed: completes "must be ...". secret:
    show only the value's type."""
    shown = f"<{type(value).__name__}>" if secret else _shown(value)
    raise ArgumentError(f"{name} = {shown}: must be {allowed}")


def _shown(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return shorten(text)


def shorten(text: str) -> str:
    """Return `text`, or its beginning and an ellipsis, for an error message."""
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 3] + "..."


def is_whole(value: object, low: int, high: int) -> TypeGuard[int]:
    """Whether `value` is an integer from `low` to `high`, both included; not True or False."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def whole(name: str, value: object, low: int, high: int) -> int:
    """An integer from `low` to `high`, both included; not True or False."""
    if not is_whole(value, low, high):
        refuse(name, value, f"an integer from {low} to {high}")
    return value


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        refuse(name, value, "True or False")
    return value


def octets(name: str, value: object, size: int | None = None, *, most: int | None = None) -> bytes:
    """Bytes: `size` of them, or any number up to `most`."""
    allowed = "bytes" if size is None else f"{size} bytes"
    if size is None and most is not None:
        allowed = f"at most {most} bytes"
    if not isinstance(value, (bytes, bytearray, memoryview)):
        refuse(name, value, allowed, secret=True)
    data = bytes(value)
    if (size is not None and len(data) != size) or (most is not None and len(data) > most):
        refuse(name, data, allowed)
    return data


def choice(name: str, value: T, allowed: Collection[T]) -> T:
    """One of a few strings or numbers."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value not in allowed:
        shown = [f'"{one}"' if isinstance(one, str) else str(one) for one in allowed]
        refuse(name, value, " or ".join(shown))
    return value


def instance(name: str, value: object, kind: type[T], allowed: str) -> T:
    """An object of `kind`; the error for another object shows only its type."""
    if not isinstance(value, kind):
        refuse(name, value, allowed, secret=True)
    return value


def each(name: str, values: Iterable[Any], kind: type[T], allowed: str) -> tuple[T, ...]:
    """Objects of `kind`. allowed: describes one of them."""
    return tuple(
        instance(f"{name}[{index}]", one, kind, allowed)
        for index, one in enumerate(several(name, values, allowed))
    )


def several(name: str, values: Iterable[T], allowed: str) -> tuple[T, ...]:
    """The items of a sequence other than a string. allowed: describes one of them."""
    if isinstance(values, (str, bytes, bytearray, memoryview)) or not isinstance(values, Iterable):
        refuse(name, values, f"a sequence, each item {allowed}", secret=True)
    return tuple(values)


def host(name: str, value: object) -> str:
    """A host name or an address; only its characters are checked."""
    if not isinstance(value, str) or not value or any(one <= " " or one == "\x7f" for one in value):
        refuse(name, value, "a host name or an IP address")
    return value


def port(name: str, value: object) -> int:
    """A port that a request can be sent to."""
    return whole(name, value, 1, 65535)


def timeout(name: str, value: object) -> float:
    """Seconds, more than 0 and at most a year."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    if not 0 < number <= TIMEOUT_S_MAX:
        refuse(name, value, f"a number of seconds above 0, at most {TIMEOUT_S_MAX}")
    return number
