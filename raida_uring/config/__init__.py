"""Configuration: a TOML file, or the embedded default, to a frozen `Config`, read and checked once.

tables.py declares each setting once; kinds.py has the kinds of values; load.py reads, with the
words of faults.py and the checks of together.py; show.py writes; engine.py maps settings to the
data plane's fields; differences.py compares.
"""

from raida_uring.config.differences import Difference, differences, with_settings
from raida_uring.config.engine import FIELDS, engine_settings
from raida_uring.config.kinds import LIVE, LOWER, RESTART, Kind, Setting
from raida_uring.config.load import (
    HTTP_PORT_OFFSET,
    embedded_default,
    exposed_keys,
    load,
    parse,
    with_overrides,
)
from raida_uring.config.show import annotated, documented, to_toml
from raida_uring.config.tables import (
    FIRST_PORT,
    LISTENERS_MAX,
    RAIDA_COUNT,
    SETTINGS,
    WORKERS_DEFAULT_MIN,
    WORKERS_MAX,
    AdminTable,
    Config,
    HandlersTable,
    HttpTable,
    LimitsTable,
    LogTable,
    NetworkTable,
    ServerTable,
    StoreTable,
    TcpTable,
    UdpTable,
    UpgradeTable,
    WorkersTable,
)
from raida_uring.config.together import peer_hosts

__all__ = [
    "FIELDS",
    "FIRST_PORT",
    "HTTP_PORT_OFFSET",
    "LISTENERS_MAX",
    "LIVE",
    "LOWER",
    "RAIDA_COUNT",
    "RESTART",
    "SETTINGS",
    "WORKERS_DEFAULT_MIN",
    "WORKERS_MAX",
    "AdminTable",
    "Config",
    "Difference",
    "HandlersTable",
    "HttpTable",
    "Kind",
    "LimitsTable",
    "LogTable",
    "NetworkTable",
    "ServerTable",
    "Setting",
    "StoreTable",
    "TcpTable",
    "UdpTable",
    "UpgradeTable",
    "WorkersTable",
    "annotated",
    "differences",
    "documented",
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
