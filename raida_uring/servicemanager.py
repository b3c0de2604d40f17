"""The service manager: what it hands over at the start, and what it is told.

Speaks systemd's protocol without its library. Does nothing where no manager asked for it. Thread:
control; notify() any. Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

import logging
import os
import socket
from typing import Final

from raida_uring.errors import StartError
from raida_uring.log import event
from raida_uring.upgrade import Inherited

SEND_TIMEOUT_S: Final = 1.0  # its queue may be full; it is not worth a node

_FIRST_DESCRIPTOR: Final = 3

logger = logging.getLogger("raida_uring")


def notify(state: str) -> None:
    """Tell the service manager, if there is one. Waits for it SEND_TIMEOUT_S at most."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(SEND_TIMEOUT_S)
            channel.sendto(state.encode(), address)
    except OSError as error:
        logger.warning("cannot notify the service manager: %s", error, extra=event("notify_failed"))


def watchdog_interval_s() -> float | None:
    """How often it wants to hear WATCHDOG=1, at half of its patience; None: not at all."""
    patience_us = os.environ.get("WATCHDOG_USEC", "")
    if not patience_us.isdigit() or int(patience_us) == 0:
        return None
    return int(patience_us) / 1e6 / 2


def activated_sockets() -> Inherited | None:
    """The sockets of a .socket unit: a UDP and a TCP one for each address, all on one port.

    None when there are none. Raises StartError when they are not such pairs.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    process = os.environ.pop("LISTEN_PID", "")
    if not count.isdigit() or int(count) == 0 or process != str(os.getpid()):
        return None
    found: dict[str, dict[int, int]] = {}
    ports = set()
    for fd in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        host, port, kind = _described(fd, names)
        ports.add(port)
        if found.setdefault(host, {}).setdefault(kind, fd) != fd:
            raise StartError(f"socket activation: two sockets of one kind on {host} port {port}")
    if len(ports) != 1 or any(len(pair) != 2 for pair in found.values()):
        raise StartError(
            "socket activation: ListenStream= and ListenDatagram= must name the same addresses, "
            "all with one port"
        )
    pairs = {
        host: (pair[socket.SOCK_DGRAM], pair[socket.SOCK_STREAM]) for host, pair in found.items()
    }
    return Inherited(ports.pop(), pairs)


def _described(fd: int, names: str) -> tuple[str, int, int]:
    """Host, port and SOCK_* of a descriptor. Raises StartError when it is no such socket."""
    try:
        duplicate = socket.socket(fileno=os.dup(fd))
        with duplicate:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6):
                host, port = duplicate.getsockname()[:2]
                return str(host), int(port), duplicate.type
    except OSError:
        pass
    raise StartError(
        f"socket activation: descriptor {fd} ({names or 'no name'}) is no UDP or TCP socket"
    )
