"""Resolving names with a timeout, and connecting to the first address that accepts.

Thread: any for find(), the event loop's for the others.
"""

import asyncio
import socket
import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Final

Found = list[tuple[Any, Any, int, str, Any]]
"""(family, type, protocol, name, address), as getaddrinfo() returns them."""

_lookups: Final[dict[tuple[str, int], "Future[Found]"]] = {}  # in progress
_lookups_lock = threading.Lock()


async def addresses(host: str, port: int) -> Found:
    """Return every address of a name, for TCP. Raises OSError, ValueError."""
    found = _find(host, port)
    return found if isinstance(found, list) else await asyncio.wrap_future(found)


def find(host: str, port: int, timeout_s: float | None) -> Found:
    """As addresses(), but synchronous. Also raises TimeoutError."""
    found = _find(host, port)
    if isinstance(found, list):
        return found
    wait({found}, timeout_s)  # not result(), whose TimeoutError may be the resolver's own
    if not found.done():
        raise TimeoutError("timed out: the addresses of the name were not found in time")
    return found.result()


def _find(host: str, port: int) -> "Found | Future[Found]":
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return _lookup(host, port)


async def connect(found: Found, timeout_s: float) -> socket.socket:
    """Connect to the first address that accepts. Each address gets an equal share of the time left.

    Raises OSError, that of the last address.
    """
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + timeout_s
    fault: OSError = OSError("no address")
    for index, (family, kind, number, _, address) in enumerate(found):
        connecting = socket.socket(family, kind, number)
        try:
            connecting.setblocking(False)
            left_s = max(0.0, deadline - time.monotonic())
            async with asyncio.timeout(left_s / (len(found) - index)):
                await loop.sock_connect(connecting, address)
        except OSError as error:
            connecting.close()
            fault = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise fault


def _lookup(host: str, port: int) -> "Future[Found]":
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
        future: Future[Found] = Future()
        future.set_running_or_notify_cancel()  # a cancelled waiter must not cancel it for others
        try:
            threading.Thread(
                target=_look_up, args=(key, future), name="resolver", daemon=True
            ).start()
        except RuntimeError as error:
            raise OSError(str(error)) from error
        _lookups[key] = future
        return future


def _look_up(key: tuple[str, int], future: "Future[Found]") -> None:
    try:
        found: Found = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
    except BaseException as error:
        with _lookups_lock:
            _lookups.pop(key, None)
        future.set_exception(error)
    else:
        with _lookups_lock:
            _lookups.pop(key, None)
        future.set_result(found)
