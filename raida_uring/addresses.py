"""Addresses that the node answers on: as people read them, as bind() takes them, and bound.

Thread: any.
"""

import socket
from dataclasses import dataclass


def format_endpoint(host: str, port: int) -> str:
    """`host:port`, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_address(host: str, port: int) -> tuple[object, ...]:
    """What bind() takes: a link-local address needs its interface's number, not only its name."""
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
        """Whether it stands for several addresses, so that replies must say which was asked."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104  compared, not bound

    def close(self) -> None:
        """Close both sockets."""
        self.udp.close()
        self.tcp.close()
