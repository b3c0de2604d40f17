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


def hands_pages_to_anybody(config: Config) -> bool:
    """Whether whole pages of coins leave this machine for whoever asks."""
    return config.store.pages_for == "all" and _serves_coins_abroad(config)


def hands_pages_to_peers(config: Config) -> bool:
    """Whether whole pages of coins leave this machine for the addresses of the other RAIDA."""
    return config.store.pages_for == "peers" and _serves_coins_abroad(config)


def _serves_coins_abroad(config: Config) -> bool:
    return config.store.path is not None and not all(
        ipaddress.ip_address(address).is_loopback for address in config.network.bind
    )
