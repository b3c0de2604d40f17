"""Addresses that the node answers on: their text, the argument of bind(), and their sockets.

Thread: any.
"""

import socket
from dataclasses import dataclass


def format_endpoint(host: str, port: int) -> str:
    """Return `host:port`, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_address(host: str, port: int) -> tuple[object, ...]:
    """Return the argument for bind(): a link-local address needs its interface's number."""
    if "%" not in host:
        return (host, port)
    return socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)[0][4]


@dataclass(frozen=True, slots=True)
class Bound:
    """One address that the node answers on."""

    host: str
    port: int
    udp: socket.socket
    tcp: socket.socket

    @property
    def wildcard(self) -> bool:
        """Whether it stands for all addresses, so that replies must set their source address."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104  compared, not bound

    def close(self) -> None:
        """Close both sockets."""
        self.udp.close()
        self.tcp.close()
