"""Listening sockets: one UDP and one TCP socket per address, bound and with their options set.

Thread: control. Accepted connections inherit their options from the listener.
"""

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from raida_uring.addresses import Bound, bind_address, format_endpoint
from raida_uring.config import Config
from raida_uring.errors import StartError, passing
from raida_uring.log import events
from raida_uring.node.patience import Patience, retry

PORT_TRIES: Final = 16  # to find a number that is free for both UDP and TCP
RELEASE_TIMEOUT_S: Final = 5.0  # for the service manager to close sockets that are not served now
RELEASE_RETRY_S: Final = 0.01

# Names that Python's socket module lacks; values of Linux.
_SO_RCVBUFFORCE: Final = 33
_SO_SNDBUFFORCE: Final = 32
_IP_PKTINFO: Final = 8
_SOL_IP: Final = 0
_IP_FREEBIND: Final = 15
_SOL_IPV6: Final = 41
_IPV6_FREEBIND: Final = 78

# States of sockets in /proc/net/tcp and udp; for UDP: bound, without a peer.
_LISTENS: Final = "0A"
_UNCONNECTED: Final = "07"
_INODE: Final = 5  # the fields behind the state, up to it

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Inherited:
    """Listening sockets that this process was started with. Thread: control."""

    def __init__(self, port: int, sockets: dict[str, tuple[int, int]]) -> None:
        """sockets: descriptors of the UDP and TCP socket by host; all on `port`."""
        self.port = port
        self._sockets = sockets
        # Has the service manager close its copies too, soon after the call; None if it keeps none.
        self.forget: Callable[[], None] | None = None
        self.of_unit = False  # of a .socket unit, which keeps them open whoever serves them
        self.releasing = False  # some addresses are still in use, but free in a moment

    def take(self, host: str) -> tuple[socket.socket, socket.socket] | None:
        """The UDP and TCP socket of an address, None when there is none of it."""
        descriptors = self._sockets.pop(host, None)
        if descriptors is None:
            return None
        udp, tcp = (socket.socket(fileno=fd) for fd in descriptors)
        for one in (udp, tcp):
            one.set_inheritable(False)
            one.setblocking(False)
        return udp, tcp

    def close_all_but(self, port: int, hosts: Collection[str]) -> None:
        """Close the sockets of addresses that are not served. port: 0 is any."""
        unserved = [host for host in self._sockets if port not in (0, self.port)]
        unserved = unserved or [host for host in self._sockets if host not in hosts]
        for host in unserved:
            for fd in self._sockets.pop(host):
                os.close(fd)
        if unserved and self.forget is not None:
            self.forget()
            self.releasing = True
        if unserved and self.of_unit:
            events.SOCKETS_UNSERVED.log(places=", ".join(unserved), port=self.port, hosts=unserved)


def bind_all(
    config: Config, inherited: Inherited | None = None, patience: Patience | None = None
) -> list[Bound]:
    """Bind every address of `[network] bind`; port 0 means one free number for all of them.

    inherited: sockets to use for the addresses that they have, if the port is the same. patience:
    for a port or an interface that is about to be free or up. An address that no interface has yet
    is bound too, with a log line.

    An IPv6 wildcard that came by default is left out, with a log line, where the machine has no
    IPv6. Raises StartError that names address, port and remedy.
    """
    port = config.server.port
    if inherited is not None:
        inherited.close_all_but(port, config.network.bind)
        port = port or inherited.port  # the number that was free at the first start
    for _ in range(PORT_TRIES - 1 if port == 0 else 0):
        with contextlib.suppress(_PortTakenError):
            return _bind_once(config, port, inherited, patience)
    return _bind_once(config, port, inherited, patience)


class _PortTakenError(StartError):
    """Worth another try if the kernel chose the number."""


def _bind_once(
    config: Config, port: int, inherited: Inherited | None, patience: Patience | None
) -> list[Bound]:
    done: list[Bound] = []
    releasing = inherited is not None and inherited.releasing
    with contextlib.ExitStack() as undone:
        for host in config.network.bind:
            bound = _inherited(config, host, inherited)
            if bound is None and releasing:
                bound = _bind_released(config, host, port)
            elif bound is None:
                bound = retry(patience, partial(_bind_address, config, host, port))
            if bound is not None:
                undone.callback(bound.close)
                port = bound.port
                done.append(bound)
        if not done:
            raise StartError("[network] bind: no address could be bound")
        undone.pop_all()
    return done


def _inherited(config: Config, host: str, inherited: Inherited | None) -> Bound | None:
    taken = None if inherited is None else inherited.take(host)
    if taken is None:
        return None
    udp, tcp = taken
    _set_tcp_options(tcp, config)
    tcp.listen(config.network.backlog)
    _set_udp_options(udp, host, config)
    return Bound(host, tcp.getsockname()[1], udp, tcp)


def _bind_released(config: Config, host: str, port: int) -> Bound | None:
    """As _bind_address(), waiting for sockets that another process is about to close."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while True:
        try:
            return _bind_address(config, host, port)
        except _PortTakenError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(RELEASE_RETRY_S)


def _bind_address(config: Config, host: str, port: int) -> Bound | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as undone:
        try:
            tcp, udp = (
                undone.enter_context(socket.socket(family, kind | socket.SOCK_NONBLOCK))
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            )
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and host == "::":
                events.NO_IPV6.log()
                return None
            refused = StartError(f"cannot make a socket for {host}: {error.strerror}")
            raise passing(refused, error.errno or 0) from error
        _set_tcp_options(tcp, config)
        with _explained("TCP", host, port):
            missing = _bind(tcp, host, port)
        port = tcp.getsockname()[1]
        _set_udp_options(udp, host, config)
        with _explained("UDP", host, port):
            _bind(udp, host, port)
        with _explained("TCP", host, port):
            tcp.listen(config.network.backlog)
        undone.pop_all()
    if missing:
        events.ADDRESS_MISSING.log(address=host)
    return Bound(host, port, udp, tcp)


def _bind(one: socket.socket, host: str, port: int) -> bool:
    """Bind; return whether no interface has the address yet. DHCP, duplicate address detection and
    failover bring it later, so the socket is bound all the same. Raises OSError."""
    place = bind_address(host, port)
    try:
        one.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        if one.family == socket.AF_INET6:
            one.setsockopt(_SOL_IPV6, _IPV6_FREEBIND, 1)
        else:
            one.setsockopt(_SOL_IP, _IP_FREEBIND, 1)
        one.bind(place)
        return True
    return False


@contextlib.contextmanager
def _explained(transport: str, host: str, port: int) -> Iterator[None]:
    """Turn errors of binding into a StartError that says what to do; _PortTakenError if the port is
    in use."""
    place = f"{transport} {format_endpoint(host, port)}"
    try:
        yield
    except PermissionError as error:
        first = _kernel_setting("ip_unprivileged_port_start", "1024")
        raise StartError(
            f"cannot bind {place}: not permitted; ports below {first} need "
            "CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        ) from error
    except socket.gaierror as error:
        raise passing(
            StartError(f"cannot bind {place}: no interface of that name"), busy=True
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _port_taken(place, transport, host, port) from error
        raise passing(
            StartError(f"cannot bind {place}: {error.strerror}"), error.errno or 0
        ) from error


def _port_taken(place: str, transport: str, host: str, port: int) -> _PortTakenError:
    if not _is_served(transport, host, port):
        return passing(
            _PortTakenError(
                f"cannot bind {place}: already in use by an outgoing connection, or one that is "
                f"closing (ss -tuan 'sport = :{port}'); keep the port free for the node: add it "
                "to sysctl net.ipv4.ip_local_reserved_ports"
            ),
            busy=True,
        )
    return _PortTakenError(
        f"cannot bind {place}: already in use; another server holds it "
        f"(ss -lnp 'sport = :{port}' shows which)"
    )


def _is_served(transport: str, host: str, port: int) -> bool:
    """Whether a server has the port, and not a client for a moment.

    A UDP socket without a peer does not show which it is. If it is bound to no particular address,
    and to a port of the range for clients, it counts as a client's, unless a TCP server has the
    same port.
    """
    if any(state == _LISTENS for state, _ in _sockets_at("tcp", host, port)):
        return True
    if transport == "TCP":
        return False
    return any(
        state == _UNCONNECTED and not (address.is_unspecified and _is_for_clients(port))
        for state, address in _sockets_at("udp", host, port)
    )


def _sockets_at(kind: str, host: str, port: int) -> Iterator[tuple[str, IPAddress]]:
    """State and local address of other processes' sockets that may conflict with `host` and `port`.
    kind: "tcp" or "udp"."""
    wanted = ipaddress.ip_address(host.partition("%")[0])
    own = _own_inodes()
    for name in (kind, f"{kind}6"):
        try:
            lines = Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for _, local, _, state, *more in map(str.split, lines):
            digits, _, number = local.partition(":")
            if int(number, 16) != port or more[_INODE] in own:
                continue
            address = _kernel_address(digits)
            if address.is_unspecified or wanted.is_unspecified or address == wanted:
                yield state, address


def _own_inodes() -> set[str]:
    """Inode numbers of this process's sockets, which do not conflict with each other: they are of
    different families."""
    own = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since
            own.add(str(os.fstat(int(name)).st_ino))
    return own


def _kernel_address(digits: str) -> IPAddress:
    """digits: hex, words of 32 bits in the byte order of the machine."""
    raw = bytes.fromhex(digits)
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    address = ipaddress.ip_address(struct.pack(f">{len(words)}I", *words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_ephemeral(port: int) -> bool:
    """Whether the kernel may give `port` to an outgoing connection, which can make a start fail."""
    reserved = _kernel_setting("ip_local_reserved_ports", "").split(",")
    ranges = [part.partition("-") for part in reserved if part]
    return _is_for_clients(port) and not any(
        int(low) <= port <= int(high or low) for low, _, high in ranges
    )


def _is_for_clients(port: int) -> bool:
    """Whether the kernel takes it for outgoing connections, unless it is reserved."""
    first, last = map(int, _kernel_setting("ip_local_port_range", "32768 60999").split())
    return first <= port <= last


def _kernel_setting(name: str, default: str) -> str:
    """default: in place of one that is empty, or that cannot be read."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/ipv4", name).read_text().strip() or default
    return default


def _set_tcp_options(tcp: socket.socket, config: Config) -> None:
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _take_one_family(tcp)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, config.tcp.keepalive_idle_s)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, config.tcp.keepalive_interval_s)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, config.tcp.keepalive_probes)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _take_one_family(one: socket.socket) -> None:
    """Leave IPv4 to a separate socket. Only before binding: an inherited socket refuses it."""
    if one.family == socket.AF_INET6 and one.getsockname()[1] == 0:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _set_udp_options(udp: socket.socket, host: str, config: Config) -> None:
    _take_one_family(udp)
    if udp.family == socket.AF_INET6:
        if host == "::":
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif host == "0.0.0.0":  # noqa: S104  compared, not bound
        udp.setsockopt(_SOL_IP, _IP_PKTINFO, 1)
    for name, wanted, granted in size_buffers(udp, config):
        if granted < wanted:
            events.BUFFER_SMALL.log(
                buffer=name,
                granted=granted,
                wanted=wanted,
                direction="r" if name == "receive" else "w",
            )


def size_buffers(udp: socket.socket, config: Config) -> list[tuple[str, int, int]]:
    """Size both buffers of a UDP socket as `[udp]` asks: name, bytes wanted and bytes granted."""
    receive, send = config.udp.receive_buffer_bytes, config.udp.send_buffer_bytes
    return [
        ("receive", receive, _size_buffer(udp, socket.SO_RCVBUF, _SO_RCVBUFFORCE, receive)),
        ("send", send, _size_buffer(udp, socket.SO_SNDBUF, _SO_SNDBUFFORCE, send)),
    ]


def _size_buffer(udp: socket.socket, option: int, force: int, wanted: int) -> int:
    """The size granted. Without privilege the kernel lowers it silently, so it is read back."""
    try:
        udp.setsockopt(socket.SOL_SOCKET, force, wanted)
    except OSError:
        udp.setsockopt(socket.SOL_SOCKET, option, wanted)
    return udp.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel counts its overhead too
