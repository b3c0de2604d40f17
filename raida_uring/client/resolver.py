"""Names to addresses within a time, and in an event loop a connection to the first that takes it.

Thread: any for find(), the event loop's for the rest.
"""

import asyncio
import socket
import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Final

Found = list[tuple[Any, Any, int, str, Any]]
"""(family, type, protocol, name, address), as getaddrinfo() has them."""

_lookups: Final[dict[tuple[str, int], "Future[Found]"]] = {}  # under way
_lookups_lock = threading.Lock()


async def addresses(host: str, port: int) -> Found:
    """Every address of a name, as for TCP. Raises OSError, ValueError."""
    found = _find(host, port)
    return found if isinstance(found, list) else await asyncio.wrap_future(found)


def find(host: str, port: int, timeout_s: float | None) -> Found:
    """As addresses(), for who waits. Raises TimeoutError, too."""
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
    """To the first address that takes it; none may use up the time of those behind it.

    Raises OSError: what the last one said.
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
    """Resolve a name, on a thread that nobody waits for.

    A resolver knows no deadline. asyncio's own threads for it are waited for at the end of the
    event loop, and there are fewer of them than RAIDA. Of one name there is one look-up at a time,
    whoever asks: they cannot pile up.
    """
    key = host, port
    with _lookups_lock:
        under_way = _lookups.get(key)
        if under_way is not None:
            return under_way
        future: Future[Found] = Future()
        future.set_running_or_notify_cancel()  # who gives up waiting does not end it for others
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
