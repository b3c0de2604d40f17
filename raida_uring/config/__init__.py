"""Configuration: a TOML file, or the embedded default, to a frozen `Config`, read and checked once.

tables.py declares each setting once; kinds.py has the kinds of values; load.py reads, with the
words of faults.py and the checks of together.py; show.py writes; engine.py maps settings to the
data plane's fields; differences.py compares.
"""

from raida_uring.config.differences import Difference, differences, with_settings
from raida_uring.config.engine import FIELDS, engine_settings
from raida_uring.config.kinds import LIVE, LOWER, RESTART
from raida_uring.config.load import (
    embedded_default,
    exposed_keys,
    load,
    parse,
    with_overrides,
)
from raida_uring.config.show import annotated, to_toml
from raida_uring.config.tables import (
    FIRST_PORT,
    SETTINGS,
    WORKERS_MAX,
    Config,
    HttpTable,
    ServerTable,
)
from raida_uring.config.together import peer_hosts

__all__ = [
    "FIELDS",
    "FIRST_PORT",
    "LIVE",
    "LOWER",
    "RESTART",
    "SETTINGS",
    "WORKERS_MAX",
    "Config",
    "Difference",
    "HttpTable",
    "ServerTable",
    "annotated",
    "differences",
    "embedded_default",
    "engine_settings",
    "exposed_keys",
    "load",
    "parse",
    "peer_hosts",
    "to_toml",
    "with_overrides",
    "with_settings",
]
