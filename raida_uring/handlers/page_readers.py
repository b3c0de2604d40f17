"""Permission to read whole pages of coins (14/4), and with them every AN that stands there.

Pure. Any thread.
"""

import ipaddress

from raida_uring.config import Config, peer_hosts


def page_readers(config: Config) -> frozenset[str] | None:
    """Addresses that may read whole pages, as `Request.peer` has them; None: every one."""
    if config.store.pages_for == "peers":
        return peer_hosts(config.server)
    return None if config.store.pages_for == "all" else frozenset()


def handed_to(config: Config) -> str:
    """For whom whole pages of coins leave this machine: "all", "peers" (other RAIDA) or "none"."""
    bound = (ipaddress.ip_address(address) for address in config.network.bind)
    if config.store.path is None or all(address.is_loopback for address in bound):
        return "none"
    return config.store.pages_for
