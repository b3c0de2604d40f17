"""What the counters of the data plane must always add up to.

Source: architecture, "The conservation law"; the counters themselves stand in ffi/stats.h.
"""

from collections.abc import Mapping
from typing import Final

# (received, ended well, prefix of the counters of other ends, still under way)
LAWS: Final = (
    ("udp_received", "udp_answered", "udp_dropped_", "udp_in_flight"),
    ("tcp_requests", "tcp_answered", "tcp_dropped_", "tcp_in_flight"),
    ("connections_accepted", None, "connections_closed_", "connections_open"),
)


def violations(counters: Mapping[str, int]) -> list[str]:
    """The laws that `counters` breaks, in words; empty when all hold."""
    broken = []
    for received, answered, dropped, open_now in LAWS:
        parts = {name: value for name, value in counters.items() if name.startswith(dropped)}
        parts[open_now] = counters[open_now]
        if answered is not None:
            parts[answered] = counters[answered]
        if counters[received] != sum(parts.values()):
            terms = " + ".join(f"{name} {value}" for name, value in parts.items() if value)
            broken.append(f"{received} {counters[received]} is not {terms or 0}")
    return broken
