"""Reading: a TOML file, or the embedded default, becomes a frozen `Config`, checked once.

Pure but for reading the file and asking which CPUs this process may use. Any thread.
"""

import errno
import os
import secrets
import select
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from raida_uring import remedies
from raida_uring.config.faults import nearest_key, syntax_fault, unknown_top_level
from raida_uring.config.kinds import Setting, toml_value
from raida_uring.config.tables import (
    EVERY,
    FIRST_PORT,
    NATIVE_WORKERS_MAX,
    SETTINGS,
    TABLE_TYPES,
    WORKERS_DEFAULT_MIN,
    WORKERS_MAX,
    Config,
    with_value,
)
from raida_uring.config.together import check_http, check_together
from raida_uring.errors import ConfigError
from raida_uring.protocol.arguments import shorten

_HTTP_PORT_OFFSET: Final = 10000
_PIPE_TIMEOUT_S: Final = 5  # without a byte; less than a watchdog allows
_FILE_BYTES_MAX: Final = 256 << 10


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
    """Read a file or a pipe. A pipe that nobody writes to is given up, so that no reload waits."""

    def opened(name: str, flags: int) -> int:
        # Non-blocking, because opening a FIFO also waits for a writer. A file does not care.
        return os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)

    raw = b""
    with open(path, "rb", buffering=0, opener=opened) as file:
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
    """The fault that every user may read the keys in the file of `config`; None: they may not, or
    there are no keys."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None  # the file was read a moment ago: this is not the place to report its absence
    keys = [str(one) for one in EVERY if one.secret and one.of(config) is not None]
    if not keys or not mode & stat.S_IROTH:
        return None
    source = os.fspath(path)
    return (
        f"{source}: holds {' and '.join(keys)}, and everybody may read it (mode "
        f"{stat.S_IMODE(mode):04o}): `chmod 640 {source}`"
    )


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
        raise ConfigError(f"{source}: {syntax_fault(str(error), text)}") from None
    except (ValueError, RecursionError) as error:  # tomllib's for thousands of digits or brackets
        what = "a number" if isinstance(error, ValueError) else "a value"
        raise ConfigError(f"{source}: {what} in it is too long") from None

    for name, value in document.items():
        if name not in SETTINGS:
            raise ConfigError(f"{source}: {unknown_top_level(name, value)}")
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {name}: must be a table, written [{name}]")
    tables = {table: _read_table(table, document.get(table, {}), source) for table in SETTINGS}

    server = tables["server"]
    server.setdefault("port", FIRST_PORT + server["raida_id"])
    tables["http"].setdefault("port", _http_port(server["port"]))
    config = Config(**{table: TABLE_TYPES[table](**keys) for table, keys in tables.items()})
    config = with_value(config, SETTINGS["workers"]["count"], _worker_count(config))
    native_count = config.workers.native_count or min(_cores(), NATIVE_WORKERS_MAX)
    config = with_value(config, SETTINGS["workers"]["native_count"], native_count)
    check_together(config, source)
    return config


def with_overrides(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    backend: str | None = None,
) -> Config:
    """Return `config` with the command line's values in place of the file's.

    host: the one IP address to listen on. port: 0 to 65535. backend: as [network] backend.
    Raises ConfigError that names the option.
    """
    follows = config.http.port == _http_port(config.server.port)
    for option, given, setting in (
        ("--host", host, SETTINGS["network"]["bind"]),
        ("--port", port, SETTINGS["server"]["port"]),
        ("--backend", backend, SETTINGS["network"]["backend"]),
    ):
        if given is None:
            continue
        try:
            value = setting.kind.parse([given] if option == "--host" else given)
        except ValueError as error:
            reason = str(error) or f"must be {setting.kind.allowed}"
            raise ConfigError(f"{option} {given}: {reason}") from None
        config = with_value(config, setting, value)
    if follows:
        config = with_value(config, SETTINGS["http"]["port"], _http_port(config.server.port))
    check_http(config, "command line")
    return config


def _http_port(port: int) -> int:
    """The default of [http] port for a node on `port`."""
    if port == 0:
        return 0
    return (
        port + _HTTP_PORT_OFFSET if port + _HTTP_PORT_OFFSET <= 65535 else port - _HTTP_PORT_OFFSET
    )


def _read_table(table: str, given: dict[str, object], source: str) -> dict[str, Any]:
    """Return the checked values of the keys in `given`. The dataclass fills in the defaults."""
    settings = SETTINGS[table]
    for key in given:
        if key not in settings:
            hint = nearest_key(key, table)
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
    place = f"{source}: {setting}"
    if setting.secret:
        raise ConfigError(f"{place}: {reason}")
    raise ConfigError(f"{place} = {shorten(toml_value(raw))}: {reason}")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _worker_count(config: Config) -> int:
    """[workers] count overrides the reference server's `threads`, which overrides the cores."""
    wanted = config.workers.count or config.server.threads or max(WORKERS_DEFAULT_MIN, _cores())
    return min(wanted, WORKERS_MAX)
