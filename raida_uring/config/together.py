"""What no setting can check alone: settings that must fit each other, and this process's CPUs.

Pure but for asking which CPUs the process may use. Any thread.
"""

import ipaddress
import os
import socket

from raida_uring.config.engine import engine_fault
from raida_uring.config.tables import Config, ServerTable
from raida_uring.errors import ConfigError


def check_together(config: Config, source: str) -> None:
    """Check what no setting can check alone. Raises ConfigError."""
    fault = engine_fault(config)
    if fault is not None:
        raise ConfigError(f"{source}: {fault}")

    if config.store.pages_for == "peers" and not peer_hosts(config.server):
        raise ConfigError(
            f'{source}: [store] pages_for = "peers": needs IP addresses in [server] raida_servers, '
            "no names"
        )

    check_http(config, source)
    _check_cpus(config, source)


def _check_cpus(config: Config, source: str) -> None:
    allowed = os.sched_getaffinity(0)
    wanted = {"[workers] cpus": config.workers.cpus}
    if config.network.io_cpu >= 0:
        wanted["[network] io_cpu"] = (config.network.io_cpu,)
    for place, cpus in wanted.items():
        for cpu in cpus:
            if cpu not in allowed:
                usable = ", ".join(str(number) for number in sorted(allowed))
                raise ConfigError(
                    f"{source}: {place}: CPU {cpu} is not one that this process may use ({usable})"
                )


def check_http(config: Config, source: str) -> None:
    """HTTP cannot listen where the node does. Raises ConfigError."""
    http = config.http
    if not http.enabled or http.port == 0 or http.port != config.server.port:
        return
    for listen in http.listen:
        wildcard = "::" if ":" in listen else "0.0.0.0"  # noqa: S104  compared, not bound
        served = [host for host in config.network.bind if (":" in host) == (":" in listen)]
        if served and (listen == wildcard or {listen, wildcard} & set(served)):
            raise ConfigError(
                f"{source}: [http] port = {http.port}: must differ from [server] port, since "
                f"[http] listen = {listen} meets [network] bind"
            )


def peer_hosts(server: ServerTable) -> frozenset[str]:
    """The IP addresses of `raida_servers`, as `Request.peer` has them; empty when one is a name."""
    hosts = (address.rpartition(":")[0].strip("[]") for address in server.raida_servers or ())
    try:
        return frozenset(_as_peer(ipaddress.ip_address(host)) for host in hosts)
    except ValueError:
        return frozenset()


def _as_peer(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """ipaddress writes some addresses otherwise than the system's library."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return socket.inet_ntop(socket.AF_INET6, address.packed)
        address = address.ipv4_mapped
    return str(address)
