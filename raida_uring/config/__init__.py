"""Configuration: a TOML file, or the embedded default, to a frozen `Config`, read and checked once.

Each setting is declared once, as a field of a table's dataclass below: type, allowed values, unit,
default and meaning. Parsing, validation, `config show` and docs/configure.md all follow from it.
Attribute names are the TOML names: `config.network.bind` is `bind` of `[network]`.

`[server]` takes every key of the reference server's config.toml unchanged. What the reference
ignores or reads for parts that we do not have yet is checked here and used nowhere else.

Pure but for reading the file and asking which CPUs this process may use. Any thread.
"""

import dataclasses
import difflib
import errno
import ipaddress
import os
import re
import secrets
import select
import socket
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from raida_uring import remedies
from raida_uring.config.kinds import (
    LIVE,
    LOWER,
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
    module_names,
    networks,
    path_within,
    settings_of,
    text_like,
    toml_value,
    whole,
)
from raida_uring.errors import ConfigError
from raida_uring.ffi import native

RAIDA_COUNT: Final = 25
LISTENERS_MAX: Final = native.LISTENERS_MAX
HTTP_PORT_OFFSET: Final = 10000
WORKERS_MAX: Final = native.config_range("workers")[1]
EXEMPT_MAX: Final = native.config_range("checks.exempt_count")[1]  # networks
CHECKS_MAX: Final = native.config_range("checks.burst")[1]  # of each bound on failed checks
WORKERS_DEFAULT_MIN: Final = 8  # as the reference server: never fewer, on however few cores

_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_SECONDS_MAX: Final = 2**31 - 1
_TIMEOUT_MS_MAX: Final = 3_600_000
_SHOWN_CHARS_MAX: Final = 80
_PIPE_TIMEOUT_S: Final = 5  # without a byte; less than a watchdog's patience
_FILE_BYTES_MAX: Final = 256 << 10


# --- Settings ---------------------------------------------------------------------------------


# The data plane enforces its ranges and tells them. Where one is narrower here than in
# ffi/engine/config.c, the reason stands beside it.
def _enforced(field: str, *, power_of_two: bool = False, least: int | None = None) -> Kind:
    """What the data plane takes for a field of `struct ru_config`; least: ours, if it is higher."""
    lowest, most = native.config_range(field)
    return whole(lowest if least is None else least, most, power_of_two=power_of_two)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """[server]: who this node is. The reference server's keys, and `version`."""

    raida_id: int = declare(whole(0, RAIDA_COUNT - 1), "own number among the RAIDA")
    coin_id: int = declare(whole(0, 255), "coin that requests must name", default=6)
    port: int = declare(
        whole(0, 65535),
        "UDP and TCP port; 0 takes a free one",
        default_text="50000 + raida_id",
    )
    admin_key: bytes | None = declare(
        hex_key(),
        "16-byte key of the admin commands; without it they always refuse",
        default=None,
        secret=True,
    )
    version: str = declare(
        text_like("[ -~]{8}", "a string of 8 printable ASCII characters"),
        "text that the version command answers",
        default="20250323",
    )
    synchronization_enabled: bool = declare(
        flag(),
        "compare the store with other RAIDA; off, and without a store: roots count as zero",
        default=False,
    )
    udp_effective_payload: int = declare(
        _enforced("udp_payload_size"),
        "longest request taken over UDP; what a longer datagram has beyond is cut off",
        unit="bytes",
        default=1440,
    )
    threads: int = declare(
        whole(0, 255), "worker threads, unless [workers] count says; 0: not given", default=0
    )
    raida_servers: tuple[str, ...] | None = declare(
        host_ports(RAIDA_COUNT),
        "the RAIDA in order of their numbers, this one included: whom fix asks",
        default=None,
    )
    backup_freq: int = declare(
        whole(1, _SECONDS_MAX),
        "longest time a change waits for the disk; not used yet",
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
class Network:
    """[network]: addresses and the I/O thread."""

    bind: tuple[str, ...] = declare(
        listening_addresses(LISTENERS_MAX),
        "addresses to listen on, UDP and TCP",
        default=("0.0.0.0", "::"),  # noqa: S104  a server
    )
    backend: str = declare(
        choice("auto", "uring", "epoll"),
        "how to talk to the kernel; auto takes io_uring, or epoll where that is refused",
        default="auto",
    )
    busy_poll_us: int = declare(
        whole(0, 1_000_000),
        "spin this long for the next completion before sleeping; costs a core, saves latency",
        unit="us",
        default=0,
        reload=LIVE,
    )
    io_cpu: int = declare(
        whole(-1, 1023), "CPU that the I/O thread is pinned to; -1: not pinned", default=-1
    )
    backlog: int = declare(
        whole(1, 65535),
        "TCP connections waiting to be accepted; the kernel caps it at net.core.somaxconn",
        unit="connections",
        default=4096,
    )
    events_per_lap: int = declare(
        _enforced("events_per_lap"),
        "completions handled before replies are sent",
        unit="completions",
        default=10000,
    )
    wait_max_ms: int = declare(
        _enforced("wait_max_ms"),
        "longest sleep of the I/O thread",
        unit="ms",
        default=10000,
        reload=LIVE,
    )
    drain_timeout_ms: int = declare(
        whole(0, 600_000),
        "on stop, time for requests in flight to be answered",
        unit="ms",
        default=10000,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    """[tcp]: connections and their deadlines."""

    persistent: bool = declare(
        flag(), "keep a connection for further requests; off: one each", default=False
    )
    progress_timeout_ms: int = declare(
        whole(1, _TIMEOUT_MS_MAX),
        "a request or reply under way that does not advance is closed",
        unit="ms",
        default=2000,
        reload=LIVE,
    )
    header_timeout_ms: int = declare(
        whole(1, _TIMEOUT_MS_MAX),
        "a header must be complete within",
        unit="ms",
        default=5000,
        reload=LIVE,
    )
    body_timeout_ms: int = declare(
        whole(1, _TIMEOUT_MS_MAX),
        "a body must be complete within",
        unit="ms",
        default=15000,
        reload=LIVE,
    )
    write_timeout_ms: int = declare(
        whole(1, _TIMEOUT_MS_MAX),
        "a reply must be taken within",
        unit="ms",
        default=15000,
        reload=LIVE,
    )
    idle_timeout_ms: int = declare(
        whole(1, _TIMEOUT_MS_MAX),
        "a persistent connection between requests is closed after",
        unit="ms",
        default=60000,
        reload=LIVE,
    )
    keepalive_idle_s: int = declare(
        whole(1, 32767), "silence before the first keepalive probe", unit="s", default=60
    )
    keepalive_interval_s: int = declare(
        whole(1, 32767), "time between keepalive probes", unit="s", default=10
    )
    keepalive_probes: int = declare(
        whole(1, 127), "unanswered probes that end a connection", unit="probes", default=5
    )
    buffers: int = declare(
        _enforced("tcp_buffers", power_of_two=True, least=16),  # fewer: everybody waits
        "receive buffers of 2 KiB that all connections share",
        unit="buffers",
        default=4096,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """[udp]: request contexts and socket buffers."""

    contexts: int = declare(
        _enforced("udp_contexts"),
        "requests in flight; contexts + reserve is at most "
        f"{native.config_range('udp_contexts')[1] + 1}",
        unit="contexts",
        default=4096,
    )
    reserve: int = declare(
        _enforced("udp_reserve"),
        "further contexts that keep votes served when handlers hold all others",
        unit="contexts",
        default=512,
    )
    receive_buffer_bytes: int = declare(
        whole(4096, 2**30),
        "the socket's receive buffer; the kernel caps it at net.core.rmem_max unless privileged",
        unit="bytes",
        default=4 * 2**20,
    )
    send_buffer_bytes: int = declare(
        whole(4096, 2**30),
        "the socket's send buffer; the kernel caps it at net.core.wmem_max unless privileged",
        unit="bytes",
        default=4 * 2**20,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """[workers]: threads that run handlers."""

    count: int = declare(
        _enforced("workers", least=0),
        f"threads for ordinary handlers; 0: [server] threads, else the cores, from "
        f"{WORKERS_DEFAULT_MIN} to {WORKERS_MAX}",
        unit="threads",
        default=0,
    )
    slow_count: int = declare(
        _enforced("slow_workers"),
        "threads for slow handlers, which wait for peers",
        unit="threads",
        default=8,
    )
    batch_max: int = declare(
        _enforced("batch_max"),
        "requests a worker takes at once",
        unit="requests",
        default=128,
        reload=LIVE,
    )
    cpus: tuple[int, ...] = declare(
        cpu_numbers(), "CPUs that the workers may use; empty: all of the process", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """[limits]: what the node holds at most."""

    connections_max: int = declare(
        _enforced("connections_max"),
        "TCP connections at once; lowered to the descriptor limit",
        unit="connections",
        default=65535,
        reload=LOWER,
    )
    body_bytes_max: int = declare(
        _enforced("body_bytes_max", least=18),  # challenge and terminator
        "longest request body; a longer one gets 16",
        unit="bytes",
        default=65536,
        reload=LIVE,
    )
    small_blocks: int = declare(
        _enforced("small_blocks"),
        "memory blocks for bodies and replies beyond a UDP slot; at least two for each worker, the "
        "writing one of a store included",
        unit="blocks",
        default=4096,
    )
    large_blocks: int = declare(
        _enforced("large_blocks"),
        "the same for the largest, 64 KiB each",
        unit="blocks",
        default=256,
    )
    udp_reply_factor_max: int = declare(
        whole(0, 65535),
        "a UDP reply may be this many times as long as its request, else 89; 0: no limit",
        unit="times",
        default=16,
        reload=LIVE,
    )
    slow_queue_max: int = declare(
        whole(1, 65535),
        "requests waiting for a slow worker; further ones get 160",
        unit="requests",
        default=64,
        reload=LIVE,
    )
    failed_checks_burst: int = declare(
        whole(0, CHECKS_MAX),
        "checks of a key or other secret that an address (IPv6: a /64) may fail at once; past that "
        "it gets no answer over UDP, 160 over TCP, to whatever asks for a check; 0: no limit",
        unit="checks",
        default=20,
        reload=LIVE,
    )
    failed_checks_per_min: int = declare(
        whole(1, CHECKS_MAX),
        "... and in the long run; its network (/24, /48) has 16 times as many of both",
        unit="checks/min",
        default=60,
        reload=LIVE,
    )
    failed_checks_per_coin_s: int = declare(
        whole(0, CHECKS_MAX),
        "checks that may fail under one key coin, whoever asks, before requests under it go "
        "unanswered over UDP (encryption types 1 and 2); 0: no limit",
        unit="checks/s",
        default=10,
        reload=LIVE,
    )
    failed_checks_exempt: tuple[str, ...] = declare(
        networks(EXEMPT_MAX),
        "addresses and networks whose failed checks do not count",
        default=(),
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]: what is written to standard error or the journal."""

    level: str = declare(
        choice("debug", "info", "warning", "error"),
        "least severity written",
        default="info",
        reload=LIVE,
    )
    format: str = declare(
        choice("auto", "plain", "json", "journal"),
        "shape of the lines; auto: fields for the journal under systemd, else plain text",
        default="auto",
        reload=LIVE,
    )
    requests_per_s: int = declare(
        whole(0, 100_000),
        "lines about requests and connections, beyond which they are only counted; 0: none",
        unit="lines/s",
        default=100,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """[admin]: how the node is asked and told while it runs."""

    socket: str | None = declare(
        path_within(107),
        "unix socket of status, drain, reload and the like",
        default=None,
        default_text="see [operate](operate.md#the-admin-socket)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """[http]: status page, metrics and health."""

    enabled: bool = declare(
        flag(), "serve the status page, /metrics, /healthz and /readyz", default=True
    )
    listen: tuple[str, ...] = declare(
        listening_addresses(LISTENERS_MAX, or_one=True),
        "addresses of that server, which asks nobody for a password",
        default=("127.0.0.1",),
    )
    port: int = declare(
        whole(0, 65535),
        "its TCP port; 0 takes a free one",
        default_text="[server] port + 10000, - 10000 if past 65535; 0 if that is 0",
    )
    hosts: tuple[str, ...] = declare(
        host_names(),
        "names that it may be asked by, as a reverse proxy's; IP addresses and names without a "
        "dot always may",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """[store]: where coins live."""

    path: str | None = declare(
        text_like(r"[^\0]+", "a path"),
        "directory of the coin store; without one, commands on coins are answered 89",
        default=None,
    )
    size_mib: int = declare(
        whole(16, 1 << 20),
        "most that the store may grow to; a store full of coins takes about 320",
        unit="MiB",
        default=2048,
    )
    durability: str = declare(
        choice("commit", "interval"),
        "when a change is acknowledged: once it is on the disk, or before; with interval a power "
        "loss takes the last changes with it and may damage the store",
        default="commit",
    )
    sync_interval_ms: int = declare(
        whole(10, 600_000),
        "longest time until a change is on the disk, with durability interval",
        unit="ms",
        default=1000,
    )
    pages_for: str = declare(
        choice("all", "peers", "none"),
        "who may read whole pages (14/4), and with them every AN that stands there: anybody, as "
        "with the reference server, the addresses of raida_servers, or nobody; no RAIDA needs them",
        default="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """[upgrade]: the node's replacement by its successor."""

    start_timeout_s: int = declare(
        whole(1, 3600),
        "at an upgrade, time for the successor to serve; a large store has trees to build",
        unit="s",
        default=60,
        reload=LIVE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """[handlers]: commands of third parties."""

    modules: tuple[str, ...] = declare(
        module_names(), "modules imported at start, which register commands", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Effective configuration: every default that follows from another value is filled in.

    `server.port` is a number (0 = any free port) and `workers.count` is at least 1.
    """

    server: Server
    network: Network = field(default_factory=Network)
    tcp: Tcp = field(default_factory=Tcp)
    udp: Udp = field(default_factory=Udp)
    workers: Workers = field(default_factory=Workers)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    http: Http
    admin: Admin = field(default_factory=Admin)
    store: Store = field(default_factory=Store)
    upgrade: Upgrade = field(default_factory=Upgrade)
    handlers: Handlers = field(default_factory=Handlers)


_TABLE_TYPES: Final[Mapping[str, Any]] = {
    table.name: table.type for table in dataclasses.fields(Config)
}


SETTINGS: Final[Mapping[str, Mapping[str, Setting]]] = {
    table: settings_of(table, kind) for table, kind in _TABLE_TYPES.items()
}
"""Every setting, by table and key, in the order of declaration."""


# --- Writing TOML -----------------------------------------------------------------------------


def to_toml(config: Config, *, show_secrets: bool = False) -> str:
    """Return `config` as TOML that loads to the same values again.

    Settings without a value, and secrets unless `show_secrets`, stand in comments.
    """
    lines: list[str] = []
    for table, settings in SETTINGS.items():
        lines.append(f"[{table}]")
        for setting in settings.values():
            value = getattr(getattr(config, table), setting.key)
            if value is None:
                lines.append(f"# {setting.key} is not set")
            elif setting.secret and not show_secrets:
                lines.append(f"# {setting.key} is set, not shown")
            else:
                lines.append(f"{setting.key} = {toml_value(value)}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


# --- Reading ----------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check the TOML file at `path`. Raises ConfigError, one line that names the place."""
    source = os.fspath(path)
    try:
        raw = _read(path, _FILE_BYTES_MAX + 1)
        if len(raw) > _FILE_BYTES_MAX:
            raise ConfigError(f"{source}: is longer than {_FILE_BYTES_MAX >> 10} KiB")
        text = raw.decode()
    except PermissionError as error:
        whose = remedies.describe_owner(Path(path))
        raise ConfigError(f"{source}: cannot be read: {error.strerror}: {whose}") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: line {line}: is not UTF-8 text") from None
    return parse(text, source)


def _read(path: str | os.PathLike[str], bytes_max: int) -> bytes:
    """What is in a file, or comes through a pipe: a reload must not wait for who never writes."""
    # Non-blocking: to open a FIFO waits for a writer, too. It changes nothing for a file.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    raw = b""
    with open(os.open(path, flags), "rb", buffering=0) as file:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len(raw) < bytes_max:
            if not poll.poll(_PIPE_TIMEOUT_S * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"nothing came within {_PIPE_TIMEOUT_S} s")
            part = file.read(bytes_max - len(raw))
            if part == b"":
                break
            raw += part or b""  # None: another reader of the pipe was faster
    return raw


def exposed_keys(path: str | os.PathLike[str], config: Config) -> str | None:
    """What is wrong when other users may read the file of `config`, which holds keys; None when
    they may not, or it holds none."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None  # it has just been read: whatever came between is not this
    keys = [
        f"[{setting.table}] {setting.key}"
        for table, settings in SETTINGS.items()
        for setting in settings.values()
        if setting.secret and getattr(getattr(config, table), setting.key) is not None
    ]
    if not keys or not mode & stat.S_IROTH:
        return None
    source = os.fspath(path)
    return (
        f"{source}: holds {' and '.join(keys)}, and everybody may read it (mode "
        f"{stat.S_IMODE(mode):04o}): `chmod 640 {source}`"
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two configurations disagree on. Values as TOML; secrets are not shown."""

    setting: Setting
    old: object
    new: object

    def __str__(self) -> str:
        place = f"[{self.setting.table}] {self.setting.key}"
        if self.setting.secret:
            return place
        old, new = (
            "not set" if value is None else _shorten(toml_value(value))
            for value in (self.old, self.new)
        )
        return f"{place} {old} -> {new}"


def differences(old: Config, new: Config) -> list[Difference]:
    """Every setting whose value differs, in the order of declaration."""
    return [
        Difference(setting, before, after)
        for table, settings in SETTINGS.items()
        for setting in settings.values()
        if (before := getattr(getattr(old, table), setting.key))
        != (after := getattr(getattr(new, table), setting.key))
    ]


def with_settings(config: Config, changes: list[Difference]) -> Config:
    """Return `config` with the new values of `changes`."""
    for change in changes:
        table = change.setting.table
        changed = dataclasses.replace(getattr(config, table), **{change.setting.key: change.new})
        config = dataclasses.replace(config, **{table: changed})
    return config


def embedded_default() -> Config:
    """Return what `serve` without a file uses: RAIDA 0 on loopback with a random admin key."""
    return parse(
        f"""
        [server]
        raida_id = 0
        admin_key = "{secrets.token_hex(16)}"
        [network]
        bind = ["127.0.0.1"]
        """,
        "embedded default",
    )


def parse(text: str, source: str) -> Config:
    """Return the configuration in the TOML `text`; `source` is what errors call it.

    Raises ConfigError for the first fault found.
    """
    if text.startswith("\ufeff"):
        raise ConfigError(f"{source}: line 1: starts with a byte order mark; save it without")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {_syntax_fault(str(error), text)}") from None
    except (ValueError, RecursionError) as error:  # tomllib's for thousands of digits or brackets
        what = "a number" if isinstance(error, ValueError) else "a value"
        raise ConfigError(f"{source}: {what} in it is too long") from None

    for name, value in document.items():
        if name not in SETTINGS:
            raise ConfigError(f"{source}: {_unknown_top_level(name, value)}")
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {name}: must be a table, written [{name}]")
    tables = {table: _read_table(table, document.get(table, {}), source) for table in SETTINGS}

    server = tables["server"]
    server.setdefault("port", 50000 + server["raida_id"])
    tables["http"].setdefault("port", _http_port(server["port"]))
    config = Config(**{table: _TABLE_TYPES[table](**keys) for table, keys in tables.items()})
    workers = dataclasses.replace(config.workers, count=_worker_count(config))
    config = dataclasses.replace(config, workers=workers)
    _check_together(config, source)
    return config


def with_overrides(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    backend: str | None = None,
) -> Config:
    """Return `config` with what the command line gave in place of the file's values.

    host: the one IP address to listen on. port: 0 to 65535. backend: as [network] backend.
    Raises ConfigError that names the option.
    """
    given: list[tuple[str, str, str, object]] = []
    if host is not None:
        given.append(("--host", "network", "bind", [host]))
    if port is not None:
        given.append(("--port", "server", "port", port))
    if backend is not None:
        given.append(("--backend", "network", "backend", backend))
    follows = config.http.port == _http_port(config.server.port)
    for option, table, key, raw in given:
        try:
            value = SETTINGS[table][key].kind.parse(raw)
        except ValueError as error:
            reason = str(error) or f"must be {SETTINGS[table][key].kind.allowed}"
            shown = raw[0] if isinstance(raw, list) else raw
            raise ConfigError(f"{option} {shown}: {reason}") from None
        changed = dataclasses.replace(getattr(config, table), **{key: value})
        config = dataclasses.replace(config, **{table: changed})
    if follows:
        http = dataclasses.replace(config.http, port=_http_port(config.server.port))
        config = dataclasses.replace(config, http=http)
    _check_http(config, "command line")
    return config


def _http_port(port: int) -> int:
    """The default of [http] port beside the node's own."""
    if port == 0:
        return 0
    return port + HTTP_PORT_OFFSET if port + HTTP_PORT_OFFSET <= 65535 else port - HTTP_PORT_OFFSET


def _read_table(table: str, given: dict[str, object], source: str) -> dict[str, Any]:
    """Return the checked values of the keys in `given`. Defaults are the dataclass's affair."""
    settings = SETTINGS[table]
    for key in given:
        if key not in settings:
            hint = _nearest_key(key, table)
            raise ConfigError(f"{source}: [{table}] {key}: unknown key{hint}")
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        if key in given:
            values[key] = _read_value(setting, given[key], source)
        elif setting.mandatory:
            raise ConfigError(f"{source}: [{table}] {key}: missing; must be {setting.kind.allowed}")
    return values


def _read_value(setting: Setting, raw: object, source: str) -> object:
    try:
        return setting.kind.parse(raw)
    except ValueError as error:
        reason = str(error) or f"must be {setting.kind.allowed}"
    place = f"{source}: [{setting.table}] {setting.key}"
    if setting.secret:
        raise ConfigError(f"{place}: {reason}")
    raise ConfigError(f"{place} = {_shorten(toml_value(raw))}: {reason}")


def _worker_count(config: Config) -> int:
    """[workers] count wins over the reference's `threads`, which wins over the cores."""
    cores = len(os.sched_getaffinity(0))
    wanted = config.workers.count or config.server.threads or max(WORKERS_DEFAULT_MIN, cores)
    return min(wanted, WORKERS_MAX)


def peer_hosts(server: Server) -> frozenset[str]:
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


def _check_together(config: Config, source: str) -> None:
    """Check what no setting can check alone. Raises ConfigError."""
    fault = native.check_config(engine_settings(config, config.limits.connections_max))
    if fault is not None:
        raise ConfigError(f"{source}: {_explain(fault, config)}")

    if config.store.pages_for == "peers" and not peer_hosts(config.server):
        raise ConfigError(
            f'{source}: [store] pages_for = "peers": needs IP addresses in [server] raida_servers, '
            "no names"
        )

    _check_http(config, source)

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


# Where the fields of `struct ru_config` come from; see engine_settings() for the rest.
_ENGINE_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "raida_id": ("server", "raida_id"),
    "coin_id": ("server", "coin_id"),
    "workers": ("workers", "count"),
    "slow_workers": ("workers", "slow_count"),
    "batch_max": ("workers", "batch_max"),
    "slow_queue_max": ("limits", "slow_queue_max"),
    "udp_contexts": ("udp", "contexts"),
    "udp_reserve": ("udp", "reserve"),
    "udp_payload_size": ("server", "udp_effective_payload"),
    "udp_reply_factor_max": ("limits", "udp_reply_factor_max"),
    "connections_max": ("limits", "connections_max"),
    "body_bytes_max": ("limits", "body_bytes_max"),
    "small_blocks": ("limits", "small_blocks"),
    "large_blocks": ("limits", "large_blocks"),
    "tcp_buffers": ("tcp", "buffers"),
    "tcp_persistent": ("tcp", "persistent"),
    "progress_timeout_ms": ("tcp", "progress_timeout_ms"),
    "header_timeout_ms": ("tcp", "header_timeout_ms"),
    "body_timeout_ms": ("tcp", "body_timeout_ms"),
    "write_timeout_ms": ("tcp", "write_timeout_ms"),
    "idle_timeout_ms": ("tcp", "idle_timeout_ms"),
    "events_per_lap": ("network", "events_per_lap"),
    "wait_max_ms": ("network", "wait_max_ms"),
    "busy_poll_us": ("network", "busy_poll_us"),
    "io_cpu": ("network", "io_cpu"),
}


def check_settings(config: Config) -> dict[str, object]:
    """The fields of `struct ru_checks`."""
    limits = config.limits
    exempt = [ipaddress.ip_network(network) for network in limits.failed_checks_exempt]
    return {
        "burst": limits.failed_checks_burst,
        "per_min": limits.failed_checks_per_min,
        "coin_per_s": limits.failed_checks_per_coin_s,
        "exempt_count": len(exempt),
        "exempt": [_mapped(network) for network in exempt],
    }


def _mapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> dict[str, object]:
    """A `struct ru_network`."""
    packed, bits = network.network_address.packed, network.prefixlen
    if network.version == 4:
        packed, bits = _IPV4_MAPPED + packed, 8 * len(_IPV4_MAPPED) + bits
    return {"address": packed, "bits": bits}


def engine_settings(config: Config, connections_max: int) -> dict[str, object]:
    """The fields of `struct ru_config`, listeners aside.

    connections_max: as the descriptor limit allows.
    """
    settings = {
        field: getattr(getattr(config, table), key)
        for field, (table, key) in _ENGINE_FIELDS.items()
    }
    return settings | {
        "backend": native.BACKENDS[config.network.backend],
        "writers": int(config.store.path is not None),
        "connections_max": connections_max,
        "checks": check_settings(config),
    }


def _explain(fault: native.ConfigFault, config: Config) -> str:
    """Key, value and what is allowed, of what the data plane refuses."""
    if fault.field == "udp_reserve":
        contexts = config.udp.contexts
        slots, most = contexts + fault.value, contexts + fault.most
        return f"[udp] contexts + reserve = {slots}: must be at most {most}"
    table, key = _ENGINE_FIELDS[fault.field]
    if fault.value > fault.most:
        return f"[{table}] {key} = {fault.value}: must be at most {fault.most}"
    text = f"[{table}] {key} = {fault.value}: must be at least {fault.least}"
    if not key.endswith("_blocks"):
        return text
    workers = config.workers.count + config.workers.slow_count
    if config.store.path is None:
        return f"{text}, two for each of the {workers} workers"
    return f"{text}, two for each of the {workers} workers and for the one that writes"


def _check_http(config: Config, source: str) -> None:
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


# --- Words for faults -------------------------------------------------------------------------


def _syntax_fault(message: str, text: str) -> str:
    """Turn tomllib's message into `line L, column C: what`."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.S)
    if match is None:
        return message
    fault, line, column = match.groups()
    twice = re.fullmatch(r"Cannot declare \((.*)\) twice", fault)
    if twice is not None:
        names = ".".join(re.findall(r"['\"](.*?)['\"]", twice[1]))
        fault = f"table [{names}] is there twice: put its keys into one"
    elif fault == "Cannot overwrite a value" and line is not None:
        name = text.split("\n")[int(line) - 1].partition("=")[0].strip()
        known = re.fullmatch(r"[A-Za-z_.]+|\[[A-Za-z_.]+\]", name)  # else a part of a value
        fault = f"{name if known else 'a key'} is there twice"
    if line is None:
        line = str(text.count("\n") + 1)
        column = str(len(text) - (text.rfind("\n") + 1) + 1)
    return f"line {line}, column {column}: {fault}"


def _unknown_top_level(name: str, value: object) -> str:
    if not isinstance(value, dict):
        return f"{name}: stands outside any table{_nearest_key(name, None)}"
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    known = ", ".join(f"[{table}]" for table in SETTINGS)
    hint = f"did you mean [{near[0]}]?" if near else f"tables are {known}"
    return f"[{name}]: unknown table; {hint}"


def _nearest_key(key: str, table: str | None) -> str:
    """Return `; did you mean ...?`, looking for the key elsewhere before looking for a like one."""
    for other, settings in SETTINGS.items():
        if key in settings:
            return f"; did you mean [{other}] {key}?"
    if table is not None:
        near = difflib.get_close_matches(key, SETTINGS[table], n=1)
        if near:
            return f"; did you mean {near[0]}?"
    everywhere = {name: other for other, settings in SETTINGS.items() for name in settings}
    near = difflib.get_close_matches(key, everywhere, n=1)
    return f"; did you mean [{everywhere[near[0]]}] {near[0]}?" if near else ""


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 3] + "..."
