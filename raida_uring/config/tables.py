"""Every setting of the node, each declared once: one dataclass for each table of the TOML file.

A declaration gives type, allowed values, unit, default and meaning; for a setting of the data plane
also the field of `struct ru_config` that it fills, and whether a reload applies it. Parsing,
`config show`, docs/configure.md, the annotated sample and the engine's configuration all follow
from these declarations. Attribute names are the TOML names: `config.network.bind` is `bind` of
`[network]`.

`[server]` takes every key of the reference server's config.toml unchanged. Keys that the reference
server ignores, or that belong to parts this node does not have yet, are checked and not used.

Pure. Any thread.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from raida_uring import log
from raida_uring.config.kinds import (
    LIVE,
    LOWER,
    RESTART,
    Kind,
    Setting,
    choice,
    cpu_numbers,
    declare,
    flag,
    hex_key,
    host_names,
    host_ports,
    listening_addresses,
    mapped_networks,
    module_names,
    networks,
    path_within,
    settings_of,
    text_like,
    whole,
)
from raida_uring.ffi import native
from raida_uring.protocol.layout import RAIDA_COUNT

FIRST_PORT: Final = 50000  # of RAIDA 0
WORKERS_MAX: Final = native.config_range("workers")[1]
NATIVE_WORKERS_MAX: Final = native.config_range("native_workers")[1]
WORKERS_DEFAULT_MIN: Final = 8  # as the reference server: never fewer, on however few cores

_EXEMPT_MAX: Final = native.config_range("checks.exempt_count")[1]  # networks
_SLOTS_MAX: Final = native.config_range("udp_contexts")[1] + 1
_SECONDS_MAX: Final = 2**31 - 1


def _engine_setting(
    field: str,
    meaning: str,
    *,
    kind: Kind | None = None,
    least: int | None = None,
    power_of_two: bool = False,
    **declaration: Any,
) -> Any:
    """Declare a setting that fills `field` of `struct ru_config`; see config/engine.py.

    Its values are those that the table in ffi/engine/config.c allows, and a reload applies it if
    that says so. kind, least: take fewer; the reason stands beside the declaration.
    """
    if kind is None:
        lowest, most = native.config_range(field)
        kind = whole(lowest if least is None else least, most, power_of_two=power_of_two)
    declaration.setdefault("reload", LIVE if native.config_is_live(field) else RESTART)
    return declare(kind, meaning, c_field=field, **declaration)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTable:
    """[server]: the identity of the node. The reference server's keys, and `version`."""

    raida_id: int = _engine_setting(
        "raida_id", "this node's number among the RAIDA", kind=whole(0, RAIDA_COUNT - 1)
    )
    coin_id: int = _engine_setting(
        "coin_id", "coin id that requests must carry", default=6, kind=whole(0, 255)
    )
    port: int = declare(
        whole(0, 65535),
        "UDP and TCP port; 0 takes a free one",
        default_text=f"{FIRST_PORT} + raida_id",
    )
    admin_key: bytes | None = declare(
        hex_key(),
        "16-byte key of the admin commands; without it they are always refused",
        default=None,
        secret=True,
    )
    version: str = declare(
        text_like("[ -~]{8}", "a string of 8 printable ASCII characters"),
        "answer of the version command",
        default="20250323",
    )
    synchronization_enabled: bool = declare(
        flag(),
        "publish the roots of the integrity trees, by which RAIDA compare their stores; off, and "
        "without a store: all roots are zero",
        default=False,
    )
    udp_effective_payload: int = _engine_setting(
        "udp_payload_size",
        "longest request taken over UDP; a longer datagram is cut to this length",
        unit="bytes",
        default=1440,
    )
    threads: int = declare(
        whole(0, 255), "worker threads, unless [workers] count is set; 0: not given", default=0
    )
    raida_servers: tuple[str, ...] | None = declare(
        host_ports(RAIDA_COUNT),
        "addresses of the RAIDA in the order of their numbers, this one included; fix asks them",
        default=None,
    )
    backup_freq: int = declare(
        whole(1, _SECONDS_MAX),
        "longest time until a change is on the disk; not used yet",
        unit="s",
        default=300,
    )
    integrity_freq: int = declare(
        whole(1, _SECONDS_MAX),
        "time between comparisons of the store; not used yet",
        unit="s",
        default=3600,
    )
    proxy_key: bytes | None = declare(
        hex_key(), "16-byte key of the crossover proxy; not used yet", default=None, secret=True
    )
    proxy_addr: str = declare(
        text_like(r"\S+", "a host name or address"),
        "crossover proxy; not used yet",
        default="swap.cloudcoin.org",
    )
    proxy_port: int = declare(
        whole(1, 65535), "crossover proxy's port; not used yet", default=50000
    )
    btc_confirmations: int = declare(
        whole(0, 255), "confirmations a crossover waits for; not used yet", default=2
    )
    root_path: str | None = declare(
        text_like(r"[^\0]*", "a string"), "ignored, as the reference server does", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTable:
    """[network]: addresses and the I/O thread."""

    bind: tuple[str, ...] = declare(
        listening_addresses(native.LISTENERS_MAX),
        "addresses to listen on, UDP and TCP",
        default=("0.0.0.0", "::"),  # noqa: S104  a server
    )
    backend: str = _engine_setting(
        "backend",
        "how to talk to the kernel; auto takes io_uring, or epoll where that is refused",
        default="auto",
        kind=choice(*native.BACKENDS),
        c_value=native.BACKENDS.__getitem__,
    )
    busy_poll_us: int = _engine_setting(
        "busy_poll_us",
        "spin this long for the next completion before sleeping; costs a core, saves latency",
        default=0,
    )
    io_cpu: int = _engine_setting(
        "io_cpu",
        "CPU that the I/O thread is pinned to; -1: not pinned",
        default=-1,
        kind=whole(-1, 1023),
    )
    backlog: int = declare(
        whole(1, 65535),
        "TCP connections waiting to be accepted; the kernel caps it at net.core.somaxconn",
        unit="connections",
        default=4096,
    )
    events_per_lap: int = _engine_setting(
        "events_per_lap",
        "completions handled before replies are sent",
        unit="completions",
        default=10000,
    )
    wait_max_ms: int = _engine_setting(
        "wait_max_ms", "longest sleep of the I/O thread", default=10000
    )
    drain_timeout_ms: int = declare(
        whole(0, 600_000),
        "on stop, time for requests in flight to be answered",
        default=10000,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpTable:
    """[tcp]: connections and their deadlines."""

    persistent: bool = _engine_setting(
        "tcp_persistent",
        "keep a connection open for further requests; off: one request each",
        default=False,
        kind=flag(),
    )
    progress_timeout_ms: int = _engine_setting(
        "progress_timeout_ms",
        "time without progress after which a connection with a request or reply under way is "
        "closed",
        default=2000,
    )
    header_timeout_ms: int = _engine_setting(
        "header_timeout_ms", "time for a header to arrive completely", default=5000
    )
    body_timeout_ms: int = _engine_setting(
        "body_timeout_ms", "time for a body to arrive completely", default=15000
    )
    write_timeout_ms: int = _engine_setting(
        "write_timeout_ms", "time for the peer to take a reply", default=15000
    )
    idle_timeout_ms: int = _engine_setting(
        "idle_timeout_ms",
        "time without a request after which a persistent connection is closed",
        default=60000,
    )
    keepalive_idle_s: int = declare(
        whole(1, 32767), "silence before the first keepalive probe", default=60
    )
    keepalive_interval_s: int = declare(
        whole(1, 32767), "time between keepalive probes", default=10
    )
    keepalive_probes: int = declare(
        whole(1, 127),
        "unanswered probes after which a connection is closed",
        unit="probes",
        default=5,
    )
    buffers: int = _engine_setting(
        "tcp_buffers",
        "receive buffers of 2 KiB, shared by all connections",
        unit="buffers",
        default=4096,
        power_of_two=True,
        least=16,  # fewer: everybody waits
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpTable:
    """[udp]: request contexts and socket buffers."""

    contexts: int = _engine_setting(
        "udp_contexts",
        f"requests in flight; contexts + reserve is at most {_SLOTS_MAX}",
        unit="contexts",
        default=4096,
    )
    reserve: int = _engine_setting(
        "udp_reserve",
        "further contexts, for votes and echoes while handlers hold all others",
        unit="contexts",
        default=512,
    )
    receive_buffer_bytes: int = declare(
        whole(4096, 2**30),
        "the socket's receive buffer; the kernel caps it at net.core.rmem_max unless privileged",
        default=4 * 2**20,
    )
    send_buffer_bytes: int = declare(
        whole(4096, 2**30),
        "the socket's send buffer; the kernel caps it at net.core.wmem_max unless privileged",
        default=4 * 2**20,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersTable:
    """[workers]: threads that run handlers."""

    count: int = _engine_setting(
        "workers",
        f"threads for ordinary handlers; 0: [server] threads, else the cores, from "
        f"{WORKERS_DEFAULT_MIN} to {WORKERS_MAX}",
        unit="threads",
        default=0,
        least=0,
    )
    slow_count: int = _engine_setting(
        "slow_workers", "threads for slow handlers, which wait for peers", unit="threads", default=8
    )
    native_count: int = _engine_setting(
        "native_workers",
        "threads for built-in commands that change no coin, beside the I/O thread; 0: the cores",
        unit="threads",
        default=0,
        least=0,
    )
    batch_max: int = _engine_setting(
        "batch_max", "requests a worker takes at once", unit="requests", default=128
    )
    cpus: tuple[int, ...] = declare(
        cpu_numbers(), "CPUs that the workers may use; empty: every CPU of the process", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsTable:
    """[limits]: bounds on connections, memory, replies and failed checks."""

    connections_max: int = _engine_setting(
        "connections_max",
        "TCP connections at once; lowered to the descriptor limit",
        unit="connections",
        default=65535,
        reload=LOWER,
    )
    body_bytes_max: int = _engine_setting(
        "body_bytes_max",
        "longest request body; a longer one is answered 16",
        unit="bytes",
        default=65536,
        least=18,  # challenge and terminator
    )
    small_blocks: int = _engine_setting(
        "small_blocks",
        "memory blocks of 2 KiB for bodies and replies beyond a UDP slot; at least two for each "
        "worker, the one of the writing lane included",
        unit="blocks",
        default=4096,
    )
    large_blocks: int = _engine_setting(
        "large_blocks",
        "the same for bodies and replies beyond a small block, 64 KiB each",
        unit="blocks",
        default=256,
    )
    udp_reply_factor_max: int = _engine_setting(
        "udp_reply_factor_max",
        "how many times as long as its request a UDP reply may be; a longer one becomes 89; 0: "
        "no limit",
        unit="times",
        default=16,
    )
    slow_queue_max: int = _engine_setting(
        "slow_queue_max",
        "requests that wait for a slow worker; further ones are answered 160",
        unit="requests",
        default=64,
    )
    queue_age_max_ms: int = _engine_setting(
        "queue_age_max_ms",
        "how long a request may wait for a worker, but of the slow lane; after that a datagram is "
        "dropped, since its client has given up, and a connection answered 160; 0: no limit",
        unit="ms",
        default=500,
    )
    failed_checks_burst: int = _engine_setting(
        "checks.burst",
        "checks of a key or other secret that an address (IPv6: a /64) may fail at once; after "
        "that its requests that need a check are not answered over UDP, and answered 160 over "
        "TCP; 0: no limit",
        unit="checks",
        default=20,
    )
    failed_checks_per_min: int = _engine_setting(
        "checks.per_min",
        "checks that it may fail in the long run; its network (/24, /48) may fail 16 times as "
        "many, at once and in the long run",
        unit="checks/min",
        default=60,
        least=1,
    )
    failed_checks_per_coin_s: int = _engine_setting(
        "checks.coin_per_s",
        "checks that may fail under one key coin, from any address, before requests under it are "
        "not answered over UDP (encryption types 1 and 2); 0: no limit",
        unit="checks/s",
        default=10,
    )
    failed_checks_exempt: tuple[str, ...] = _engine_setting(
        "checks.exempt",
        "addresses and networks whose failed checks do not count",
        default=(),
        reload=LIVE,
        kind=networks(_EXEMPT_MAX),
        c_value=mapped_networks,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTable:
    """[log]: what is written to standard error or the journal."""

    level: str = declare(choice(*log.LEVELS), "least severity written", default="info", reload=LIVE)
    format: str = declare(
        choice("auto", *log.FORMS),
        "form of the lines; auto: fields for the journal under systemd, else plain text",
        default="auto",
        reload=LIVE,
    )
    requests_per_s: int = declare(
        whole(0, 100_000),
        "lines about requests and connections; further ones are only counted; 0: none",
        unit="lines/s",
        default=100,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminTable:
    """[admin]: the socket through which commands ask a running node."""

    socket: str | None = declare(
        path_within(107),
        "unix socket of the commands that ask a running node, such as status, drain and reload",
        default=None,
        default_text="see [operate](operate.md#the-admin-socket)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTable:
    """[http]: status page, metrics and health."""

    enabled: bool = declare(
        flag(), "serve the status page, /metrics, /healthz and /readyz", default=True
    )
    listen: tuple[str, ...] = declare(
        listening_addresses(native.LISTENERS_MAX, or_one=True),
        "addresses of the HTTP server, which asks for no password",
        default=("127.0.0.1",),
    )
    port: int = declare(
        whole(0, 65535),
        "TCP port of the HTTP server; 0 takes a free one",
        default_text="[server] port + 10000, - 10000 if past 65535; 0 if that is 0",
    )
    hosts: tuple[str, ...] = declare(
        host_names(),
        "host names that its clients may use, as through a reverse proxy; IP addresses and names "
        "without a dot are always accepted",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTable:
    """[store]: where coins are kept."""

    path: str | None = _engine_setting(
        "writers",
        "directory of the coin store; without one, commands on coins are answered 89",
        default=None,
        kind=text_like(r"[^\0]+", "a path"),
        c_value=lambda path: int(path is not None),
    )
    size_mib: int = declare(
        whole(16, 1 << 20),
        "size that the store's base (data.mdb) may grow to; full of coins it takes about 320",
        default=2048,
    )
    journal_mib: int = declare(
        whole(256, 4096),
        "size that the journal of changes may grow to; a checkpoint is made at half of it",
        default=1024,
    )
    checkpoint_interval_s: int = declare(
        whole(1, 86_400),
        "time between checkpoints, which write changed pages to the base; a start after a crash "
        "applies the journal since the last one",
        default=60,
    )
    durability: str = declare(
        choice("commit", "interval"),
        "when a change is acknowledged: once it is on the disk (commit), or before (interval); "
        "with interval a power loss may take the last changes",
        default="commit",
    )
    sync_interval_ms: int = declare(
        whole(10, 600_000),
        "longest time until a change is on the disk, with durability interval",
        default=1000,
    )
    pages_for: str = declare(
        choice("all", "peers", "none"),
        "who may read whole pages of coins (14/4), with every AN in them: anybody, as with the "
        "reference server, the addresses of raida_servers, or nobody; no RAIDA needs them",
        default="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeTable:
    """[upgrade]: replacing a running node by a newly started one."""

    start_timeout_s: int = declare(
        whole(1, 3600),
        "time for a successor to start serving; a large store has trees to build",
        default=60,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlersTable:
    """[handlers]: commands of other packages."""

    modules: tuple[str, ...] = declare(
        module_names(), "modules that are imported at start and register commands", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Effective configuration: every default that follows from another value is filled in.

    `server.port` is a number (0 = any free port) and `workers.count` is at least 1.
    """

    server: ServerTable
    network: NetworkTable = field(default_factory=NetworkTable)
    tcp: TcpTable = field(default_factory=TcpTable)
    udp: UdpTable = field(default_factory=UdpTable)
    workers: WorkersTable = field(default_factory=WorkersTable)
    limits: LimitsTable = field(default_factory=LimitsTable)
    log: LogTable = field(default_factory=LogTable)
    http: HttpTable
    admin: AdminTable = field(default_factory=AdminTable)
    store: StoreTable = field(default_factory=StoreTable)
    upgrade: UpgradeTable = field(default_factory=UpgradeTable)
    handlers: HandlersTable = field(default_factory=HandlersTable)


TABLE_TYPES: Final[Mapping[str, Any]] = {
    table.name: table.type for table in dataclasses.fields(Config)
}


SETTINGS: Final[Mapping[str, Mapping[str, Setting]]] = {
    table: settings_of(table, kind) for table, kind in TABLE_TYPES.items()
}
"""Every setting, by table and key, in the order of declaration."""

EVERY: Final = tuple(one for settings in SETTINGS.values() for one in settings.values())


def with_value(config: Config, setting: Setting, value: object) -> Config:
    """Return `config` with another value of `setting`."""
    table = dataclasses.replace(getattr(config, setting.table), **{setting.key: value})
    return dataclasses.replace(config, **{setting.table: table})
