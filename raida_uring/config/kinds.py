"""How a setting is declared, the kinds of values, and how a value is written as TOML.

tables.py declares the settings. Pure. Any thread.
"""

import dataclasses
import ipaddress
import json
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, Final, cast

from raida_uring.protocol.arguments import is_whole

_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_INTERFACE: Final = r"[^\s/:\0]{1,15}"  # what the kernel takes for a name, IFNAMSIZ
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")  # a network's own is not known here

# --- Kinds of values --------------------------------------------------------------------------


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """Which values a setting takes.

    allowed: completes "must be ...".
    parse: the value as TOML gives it to the value we keep. Raises ValueError when it is not
    allowed, with a reason where "must be `allowed`" would not tell what is wrong.
    """

    allowed: str
    parse: Callable[[object], object]


def _kind(
    allowed: str, accepts: Callable[[Any], object], keep: Callable[[Any], object] = _as_it_is
) -> Kind:
    """accepts: whether a value is allowed. keep: what is kept of one that is."""

    def parse(raw: object) -> object:
        if not accepts(raw):
            raise ValueError
        return keep(raw)

    return Kind(allowed, parse)


def whole(low: int, high: int, *, power_of_two: bool = False) -> Kind:
    """Take an integer from `low` to `high`, both included."""
    what = "a power of two" if power_of_two else "an integer"
    return _kind(
        f"{what} from {low} to {high}",
        lambda raw: is_whole(raw, low, high) and not (power_of_two and raw & (raw - 1)),
    )


def flag() -> Kind:
    """Take a boolean."""
    return _kind("true or false", lambda raw: isinstance(raw, bool))


def choice(*names: str) -> Kind:
    """Take one of the strings `names`."""
    allowed = "one of " + ", ".join(f'"{name}"' for name in names)
    return _kind(allowed, lambda raw: isinstance(raw, str) and raw in names)


def text_like(pattern: str, allowed: str, keep: Callable[[str], object] = _as_it_is) -> Kind:
    """Take a string that the regular expression `pattern` matches from end to end."""
    return _kind(
        allowed, lambda raw: isinstance(raw, str) and re.fullmatch(pattern, raw, re.ASCII), keep
    )


def path_within(bytes_max: int) -> Kind:
    """Take a path of at most `bytes_max` bytes in the encoding of file names."""
    return _kind(
        f"a path of up to {bytes_max} bytes",
        lambda raw: (
            isinstance(raw, str) and "\0" not in raw and 1 <= len(os.fsencode(raw)) <= bytes_max
        ),
    )


def hex_key() -> Kind:
    """Take 32 hex digits, kept as 16 bytes."""
    return text_like("[0-9a-fA-F]{32}", "a string of 32 hex digits", bytes.fromhex)


def listening_addresses(count_max: int, *, or_one: bool = False) -> Kind:
    """Take a list of IPv4 and IPv6 addresses to bind side by side, kept in their shortest form.

    or_one: a single one may stand without the list.
    """
    allowed = f"a list of 1 to {count_max} IP addresses, none twice"
    if or_one:
        allowed = f"an IP address or {allowed}"
    addresses = _list_of(_parse_address, allowed, at_least=1, at_most=count_max)

    def parse(raw: object) -> object:
        listed = [raw] if or_one and isinstance(raw, str) else raw
        given = cast("tuple[str, ...]", addresses.parse(listed))
        for wildcard, mark in (("0.0.0.0", "."), ("::", ":")):  # noqa: S104  compared, not bound
            others = [host for host in given if mark in host and host != wildcard]
            if wildcard in given and others:
                raise ValueError(f"{wildcard} includes {others[0]}")
        return given

    return Kind(allowed, parse)


def _parse_address(raw: object) -> str:
    try:
        address = ipaddress.ip_address(raw) if isinstance(raw, str) else None
    except ValueError:
        address = None
    if address is None:
        raise ValueError(f"{toml_value(raw)} is not an IP address")
    if address.is_multicast:
        raise ValueError(f"{address} is a multicast address")
    if address == _BROADCAST:
        raise ValueError(f"{address} is the broadcast address")
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            raise ValueError(f"{raw} is IPv4: write {address.ipv4_mapped}")
        if address.is_link_local and address.scope_id is None:
            raise ValueError(f"{address} needs its interface, as in {address}%eth0")
        if address.scope_id is not None and not re.fullmatch(_INTERFACE, address.scope_id):
            raise ValueError(f"{toml_value(address.scope_id)} cannot be an interface")
    return str(address)


def host_ports(count: int) -> Kind:
    """Take a list of exactly `count` strings "host:port". Names are not resolved."""

    def parse(raw: object) -> str:
        if isinstance(raw, str):
            match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s\[\]:]+):([0-9]{1,5})", raw)
            if match is not None and 1 <= int(match[2]) <= 65535:
                return raw
        raise ValueError(f'{toml_value(raw)} is not "host:port"')

    allowed = f'a list of exactly {count} "host:port" strings'
    return _list_of(parse, allowed, at_least=count, at_most=count, distinct=False)


def host_names() -> Kind:
    """Take a list of names of hosts, kept in lower case and without a final dot."""

    def parse(raw: object) -> str:
        if isinstance(raw, str):
            name = raw.lower().removesuffix(".")
            if re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name, re.ASCII):
                return name
        raise ValueError(f"{toml_value(raw)} is not a host name, without a port")

    return _list_of(parse, "a list of host names, none twice")


def module_names() -> Kind:
    """Take a list of names that `import` understands."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or not all(part.isidentifier() for part in raw.split(".")):
            raise ValueError(f"{toml_value(raw)} is not the name of a Python module")
        return raw

    return _list_of(parse, "a list of Python module names, none twice")


def cpu_numbers() -> Kind:
    """Take a list of CPU numbers. The machine may not have them."""
    return _list_of(whole(0, 1023).parse, "a list of CPU numbers from 0 to 1023, none twice")


def networks(count_max: int) -> Kind:
    """Take a list of IPv4 and IPv6 addresses and networks, kept as networks."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError(f"{toml_value(raw)} is not a network")
        try:
            return str(ipaddress.ip_network(raw))
        except ValueError as error:
            raise ValueError(f"{toml_value(raw)} is not a network: {error}") from None

    allowed = f'a list of at most {count_max} networks such as "192.0.2.0/24", none twice'
    return _list_of(parse, allowed, at_most=count_max)


def _list_of(
    parse_item: Callable[[object], object],
    allowed: str,
    *,
    at_least: int = 0,
    at_most: int | None = None,
    distinct: bool = True,
) -> Kind:
    def parse(raw: object) -> tuple[object, ...]:
        if not isinstance(raw, list) or len(raw) < at_least:
            raise ValueError
        if at_most is not None and len(raw) > at_most:
            raise ValueError
        values = tuple(parse_item(item) for item in raw)
        if distinct:
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise ValueError(f"names {value} twice")
        return values

    return Kind(allowed, parse)


def mapped_networks(given: tuple[str, ...]) -> list[dict[str, object]]:
    """Networks as `struct ru_network`: IPv6, with IPv4 mapped into it."""
    mapped: list[dict[str, object]] = []
    for network in map(ipaddress.ip_network, given):
        packed, bits = network.network_address.packed, network.prefixlen
        if network.version == 4:
            packed, bits = _IPV4_MAPPED + packed, 8 * len(_IPV4_MAPPED) + bits
        mapped.append({"address": packed, "bits": bits})
    return mapped


# --- Declarations -----------------------------------------------------------------------------


RESTART: Final = "restart"  # a change takes effect at the next start
LIVE: Final = "live"  # ... at a reload
LOWER: Final = "live, up to its value at start"  # memory was reserved for that value
_UNITS: Final = {"bytes": "bytes", "mib": "MiB", "ms": "ms", "s": "s", "us": "us"}  # of keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of one table.

    default: MISSING when the file must give the key (`mandatory`) or when it follows from others.
    default_text: how the default reads where its value does not tell.
    unit: of the number, empty where there is none; a key that ends in it need not give it.
    secret: never printed unless asked for, not even in an error.
    reload: RESTART, LIVE or LOWER: when a changed value takes effect after a reload.
    c_field: the field of `struct ru_config` that the setting fills; None: the data plane does not
    need it. c_value: converts the value to the field's; a list also fills the field's `_count`.
    """

    table: str
    key: str
    kind: Kind
    meaning: str
    default: object
    default_text: str | None = None
    unit: str
    secret: bool
    reload: str = RESTART
    c_field: str | None = None
    c_value: Callable[[Any], object] = _as_it_is

    @property
    def mandatory(self) -> bool:
        """Whether the file must give the key."""
        return self.default is MISSING and self.default_text is None

    @property
    def shown_default(self) -> str:
        """The default as documents show it."""
        if self.mandatory:
            return "mandatory"
        return self.default_text or ("none" if self.default is None else toml_value(self.default))

    def of(self, config: object) -> Any:
        """The setting's value in `config`, a `Config`."""
        return getattr(getattr(config, self.table), self.key)

    def __str__(self) -> str:
        return f"[{self.table}] {self.key}"


def declare(
    kind: Kind, meaning: str, *, default: object = MISSING, secret: bool = False, **further: Any
) -> Any:
    """Return a dataclass field that is a setting. further: as Setting has it."""
    known = {"kind": kind, "meaning": meaning, "default": default, "secret": secret}
    return field(default=default, metadata=known | further, repr=not secret)


def settings_of(table: str, declaring: Any) -> dict[str, Setting]:
    """Return the settings that the dataclass `declaring` declares for `table`, by key."""
    settings = {}
    for declared in dataclasses.fields(declaring):
        key = declared.name
        known: dict[str, Any] = {"unit": _UNITS.get(key.rpartition("_")[2], "")}
        settings[key] = Setting(table=table, key=key, **known | declared.metadata)
    return settings


# --- Writing ----------------------------------------------------------------------------------


def toml_value(value: object) -> str:
    """`value` as TOML text; anything that no setting takes (a date, a table) as Python shows it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return hex(value)  # however long: str() refuses at some length
        case str():
            # JSON's escapes are TOML's too, except that TOML wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bytes():
            return f'"{value.hex()}"'
        case list() | tuple():
            return "[" + ", ".join(toml_value(entry) for entry in value) + "]"
        case _:
            return str(value)
