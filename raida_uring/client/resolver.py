"""Resolving names with a timeout. Thread: any."""

import socket
import threading
from concurrent.futures import Future, wait
from typing import Any, Final

Place = tuple[socket.AddressFamily, tuple[Any, ...]]
"""An address, as connect() takes it, with its family."""

_lookups: Final[dict[tuple[str, int], "Future[list[Place]]"]] = {}  # in progress
_lookups_lock = threading.Lock()


def find(host: str, port: int, timeout_s: float | None) -> list[Place]:
    """Return the addresses of a name, in the order in which to try them. Raises OSError,
    TimeoutError."""
    found = start(host, port)
    if isinstance(found, list):
        return found
    wait({found}, timeout_s)  # not result(), whose TimeoutError may be the resolver's own
    if not found.done():
        raise TimeoutError("timed out: the addresses of the name were not found in time")
    return found.result()


def start(host: str, port: int) -> "list[Place] | Future[list[Place]]":
    """Return the addresses as find() does, or a look-up of them that has begun."""
    try:
        return _places(host, port, socket.AI_NUMERICHOST)
    except OSError:
        return _lookup(host, port)


def _places(host: str, port: int, flags: int = 0) -> list[Place]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:
        raise OSError(f"{host!r} cannot be a host name") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _lookup(host: str, port: int) -> "Future[list[Place]]":
    """Resolve a name on a daemon thread.

    getaddrinfo() has no timeout. asyncio would use its default threads, which the event loop joins
    at its end and of which there may be fewer than RAIDA. Each name has at most one look-up in
    progress, which all callers share, so threads cannot pile up.
    """
    key = host, port
    with _lookups_lock:
        under_way = _lookups.get(key)
        if under_way is not None:
            return under_way
        future: Future[list[Place]] = Future()
        future.set_running_or_notify_cancel()  # a cancelled waiter must not cancel it for others
        try:
            threading.Thread(
                target=_look_up, args=(key, future), name="resolver", daemon=True
            ).start()
        except RuntimeError as error:
            raise OSError(str(error)) from error
        _lookups[key] = future
        return future


def _look_up(key: tuple[str, int], future: "Future[list[Place]]") -> None:
    found: list[Place] = []
    fault: BaseException | None = None
    try:
        found = _places(*key)
    except BaseException as error:
        fault = error
    with _lookups_lock:
        _lookups.pop(key, None)
    if fault is None:
        future.set_result(found)
    else:
        future.set_exception(fault)
