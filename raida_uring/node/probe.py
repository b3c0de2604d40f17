"""What this kernel grants the node: every feature, tried by using it, and the limits.

`probe()` looks and judges; `table()` and `as_dict()` show. Nothing is decided by version: kernel
versions stand in the table for people only. causes.py names the cause of a refusal.

Thread: any. Opens rings and sockets, and closes them again.
"""

import errno
import itertools
import os
import resource
import socket
import struct
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import raida_uring
from raida_uring.config import Config, engine_settings
from raida_uring.descriptors import connections_room, descriptor_limit
from raida_uring.errors import EngineError
from raida_uring.ffi import native_probe
from raida_uring.node.causes import (
    CALLS,
    LACK_OF_MEMORY,
    Circumstances,
    Refusal,
    call_of,
    circumstances,
    diagnose,
    in_units,
)
from raida_uring.node.sockets import is_ephemeral, size_buffers
from raida_uring.remedies import user_name

SCHEMA: Final = 1  # of as_dict(); raised when a key is removed or changes its meaning
TABLE_COLUMNS: Final = 100

_TCP_INFO_BACKLOG: Final = 28  # offset of tcpi_sacked: on a listener, the backlog granted

Use = Literal["needed", "optional", "unused", "base"]


# --- Results ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that was tried.

    key: stable name. since: first Linux version, for people. use: "needed" by a ring, "optional",
    "unused" by this node, or "base" for what every backend needs. works: None when it was not
    tried because what it stands on was refused. error: the errno's name, if any. without: what the
    node does where it is missing.
    """

    key: str
    title: str
    since: str
    use: Use
    works: bool | None
    error: str | None
    without: str


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit beside what this node needs.

    setting: what raises it. has: None where there is no limit. enough: what counts is what was
    granted, where that can be asked. too_low: what the node does where it is not.
    """

    key: str
    title: str
    setting: str
    unit: str
    has: int | None
    needs: int
    enough: bool
    too_low: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The backend that the node would use, and why. exit_status: 0 ring, 3 epoll, 1 neither."""

    backend: Literal["uring", "epoll", "none"]
    tier: str
    reason: str
    exit_status: int


@dataclass(frozen=True, slots=True)
class Probe:
    """The results."""

    version: str
    kernel: str
    machine: str
    user: str
    configured: str  # [network] backend
    features: tuple[Feature, ...]
    limits: tuple[Limit, ...]
    circumstances: Circumstances
    refusal: Refusal | None
    verdict: Verdict


# --- Features ---------------------------------------------------------------------------------

# key of probe.c -> title, since, use, without
_FEATURES: Final[dict[str, tuple[str, str, Use, str]]] = {
    "setup": ("io_uring_setup", "5.1", "needed", "epoll"),
    "register": ("io_uring_register", "5.1", "needed", "epoll"),
    "enter": ("io_uring_enter", "5.1", "needed", "epoll"),
    "fast_poll": ("FAST_POLL", "5.7", "needed", "epoll"),
    "ext_arg": ("EXT_ARG", "5.11", "needed", "epoll"),
    "cqe_skip": ("CQE_SKIP", "5.17", "needed", "epoll"),
    "linked_file": ("LINKED_FILE", "5.17", "needed", "epoll"),
    "submit_all": ("SUBMIT_ALL", "5.18", "needed", "epoll"),
    "single_issuer": ("SINGLE_ISSUER", "6.0", "needed", "epoll"),
    "restrictions": ("restricted ring", "5.10", "needed", "epoll"),
    "registered_files": ("registered files", "5.1", "needed", "epoll"),
    "buffer_ring": ("provided-buffer ring", "5.19", "needed", "epoll"),
    "multishot_accept": ("multishot accept", "5.19", "needed", "epoll"),
    "multishot_recv": ("multishot recv", "6.0", "needed", "epoll"),
    "multishot_recvmsg": ("multishot recvmsg", "6.0", "needed", "epoll"),
    "defer_taskrun": ("DEFER_TASKRUN", "6.1", "optional", "COOP_TASKRUN"),
    "coop_taskrun": (
        "COOP_TASKRUN, TASKRUN_FLAG",
        "5.19",
        "optional",
        "epoll, unless DEFER_TASKRUN",
    ),
    "send_address": ("SEND with an address", "6.1", "optional", "SENDMSG"),
    "registered_ring": ("registered ring descriptor", "5.18", "optional", "a look-up per lap"),
    "no_iowait": ("NO_IOWAIT", "6.15", "optional", "a sleeping node counts as iowait"),
    "cancel_flags": ("cancel ALL, FD, ANY", "5.19", "unused", "each is cancelled by its token"),
    "sync_cancel": ("SYNC_CANCEL, FD_FIXED", "6.0", "unused", "each is cancelled by its token"),
    "multishot_recv_cap": ("byte cap of multishot recv", "6.17", "unused", "many small buffers"),
    "napi": ("NAPI busy poll", "6.9", "unused", "busy_poll_us spins on completions"),
    "min_wait": ("minimum-wait batching", "6.12", "unused", "plain wait: votes come first"),
    "msg_ring": ("MSG_RING", "5.18", "unused", "eventfd"),
    "send_msg_ring": ("SEND_MSG_RING without a ring", "6.13", "unused", "eventfd"),
    "send_zc": ("SEND_ZC", "6.0", "unused", "copies: quicker below 8 KiB"),
    "sendmsg_zc": ("SENDMSG_ZC", "6.1", "unused", "copies: quicker below 8 KiB"),
    "bundles": ("send and recv bundles", "6.10", "unused", "one buffer a completion"),
    "incremental_buffers": ("incremental buffers", "6.12", "unused", "one datagram a buffer"),
    "no_sqarray": ("NO_SQARRAY", "6.6", "unused", "liburing writes the array"),
    "query": ("capability query", "6.18", "unused", "these trials"),
    "epoll": ("epoll, eventfd", "2.6.27", "base", "nothing where there is no ring"),
    "mmsg": ("recvmmsg, sendmmsg", "3.0", "base", "nothing where there is no ring"),
    "memfd": ("sealed memfd", "3.17", "base", "no node at all"),
}

_GROUPS: Final[dict[Use, str]] = {
    "needed": "io_uring: needed",
    "optional": "io_uring: better with",
    "unused": "io_uring: known, not used",
    "base": "beside io_uring",
}


def probe(config: Config) -> Probe:
    """Try every feature, and open the backend that `config` asks for as a node does.

    The verdict is what came of the latter; features, limits and circumstances say why. Raises
    EngineError when there is no memory for it.
    """
    room = connections_room(descriptor_limit())
    opened = native_probe.probe_backend(
        engine_settings(config, max(1, min(config.limits.connections_max, room)))
    )
    results = native_probe.probe_features()
    features = tuple(_feature(key, results[key]) for key in _FEATURES)
    around = circumstances()
    refusal = None
    if opened.refusal is not None:
        refusal = _explain(features, results, opened.refusal, around)
    system = os.uname()
    return Probe(
        version=raida_uring.__version__,
        kernel=system.release,
        machine=system.machine,
        user=user_name(os.geteuid()),
        configured=config.network.backend,
        features=features,
        limits=_limits(config, opened, around),
        circumstances=around,
        refusal=refusal,
        verdict=_judge(config, features, room, opened, refusal),
    )


def _feature(key: str, number: int | None) -> Feature:
    title, since, use, without = _FEATURES[key]
    error = errno.errorcode.get(number, str(number)) if number else None
    return Feature(key, title, since, use, None if number is None else number == 0, error, without)


# --- Limits -----------------------------------------------------------------------------------


# key -> title, setting, unit, too_low
_LIMITS: Final[dict[str, tuple[str, str, str, str]]] = {
    "descriptors": ("descriptors", "LimitNOFILE", "descriptors", "connections_max is lowered"),
    "memlock": ("locked memory", "LimitMEMLOCK", "bytes", "smaller queues, or epoll"),
    "receive_buffer": ("UDP receive buffer", "net.core.rmem_max", "bytes", "bursts are lost"),
    "send_buffer": ("UDP send buffer", "net.core.wmem_max", "bytes", "bursts are lost"),
    "backlog": ("backlog", "net.core.somaxconn", "connections", "bursts wait"),
    "ports": ("ports", "ip_local_reserved_ports", "ports", "starts may wait"),
}


def _limits(
    config: Config, opened: native_probe.Opened, around: Circumstances
) -> tuple[Limit, ...]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        buffers = size_buffers(udp, config)
    return (
        _descriptors(config),
        _memlock(opened, around),
        *(_limit(f"{name}_buffer", granted, wanted) for name, wanted, granted in buffers),
        _limit("backlog", _backlog_granted(config.network.backlog), config.network.backlog),
        _ports(config),
    )


def _limit(key: str, has: int | None, needs: int, *, enough: bool = True) -> Limit:
    """enough: False if something else than the numbers says that it is not."""
    title, setting, unit, too_low = _LIMITS[key]
    enough = enough and (has is None or has >= needs)
    return Limit(key, title, setting, unit, has, needs, enough, too_low)


def _descriptors(config: Config) -> Limit:
    """The hard limit, to which the soft one is raised at start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = descriptor_limit()
    needs = config.limits.connections_max + limit - connections_room(limit)
    return _limit("descriptors", None if hard == resource.RLIM_INFINITY else hard, needs)


def _memlock(opened: native_probe.Opened, around: Circumstances) -> Limit:
    """Only some kernels charge rings to it, so the number does not count if a ring was opened."""
    has, needs = around.memlock_bytes, opened.locked_bytes_max
    if opened.is_ring:
        return replace(_limit("memlock", has, needs), enough=LACK_OF_MEMORY not in opened.tier)
    short = opened.refusal is not None and opened.refusal.number == errno.ENOMEM
    return _limit("memlock", has, needs, enough=not short)


def _backlog_granted(wanted: int) -> int:
    """As a listening socket shows it: the kernel lowers it silently."""
    with socket.create_server(("127.0.0.1", 0), backlog=wanted) as listener:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BACKLOG + 4)
    return int(struct.unpack_from("=I", info, _TCP_INFO_BACKLOG)[0])


def _ports(config: Config) -> Limit:
    """A port that outgoing connections may get can be in use when the node starts."""
    wanted = {config.server.port} | ({config.http.port} if config.http.enabled else set())
    fixed = wanted - {0}
    return _limit("ports", sum(not is_ephemeral(port) for port in fixed), len(fixed))


# --- Judgement --------------------------------------------------------------------------------


def _explain(
    features: Iterable[Feature],
    results: Mapping[str, int | None],
    refused: EngineError,
    around: Circumstances,
) -> Refusal:
    """Why the node got no ring: the first needed feature that was refused when tried alone."""
    for feature in features:
        if feature.use == "needed" and feature.works is False:
            call = feature.key if feature.key in CALLS else None
            found = diagnose(results[feature.key] or 0, call, around)
            what = f"{feature.title} fails with {feature.error}: {found.what}"
            return replace(found, what=what)
    found = diagnose(refused.number, call_of(refused.doing), around)
    return replace(found, what=f"{refused}; {found.what}")


def _judge(
    config: Config,
    features: Iterable[Feature],
    room: int,
    opened: native_probe.Opened,
    refusal: Refusal | None,
) -> Verdict:
    missing = {feature.key: feature for feature in features if not feature.works}
    if room < 1:
        return _broken(f"a limit of {descriptor_limit()} descriptors leaves none for connections")
    if "memfd" in missing:
        return _broken(f"no memory to share with workers: {missing['memfd'].error}")
    if opened.fault is not None and config.network.backend == "uring":
        return _broken(f'[network] backend = "uring" refuses to fall back: {refusal}')
    if opened.is_ring:
        return Verdict("uring", opened.tier, _why_tier(missing), 0)
    why = '[network] backend = "epoll" asks for it' if refusal is None else str(refusal)
    for key in ("epoll", "mmsg"):
        if key in missing:
            return _broken(f"{missing[key].title}: {missing[key].error}; {why}")
    if opened.fault is not None:
        return _broken(f"{opened.fault}; {why}")
    return Verdict("epoll", opened.tier, why, 3)


def _broken(reason: str) -> Verdict:
    return Verdict("none", "none", reason, 1)


def _why_tier(missing: Mapping[str, Feature]) -> str:
    if "defer_taskrun" in missing:
        return f"DEFER_TASKRUN fails with {missing['defer_taskrun'].error}; the rest works"
    if lacking := [feature for feature in missing.values() if feature.use == "needed"]:
        return f"the ring works, although {lacking[0].title} fails with {lacking[0].error}"
    return "every feature that it needs works"


# --- Showing ----------------------------------------------------------------------------------


def as_dict(result: Probe) -> dict[str, object]:
    """`result` for JSON: its fields by name, under the number of their schema."""
    return {"schema": SCHEMA, **asdict(result)}


def table(result: Probe) -> str:
    """`result` for people, at most TABLE_COLUMNS wide; ends with the verdict."""
    return "\n".join(
        (
            f"raida-uring {result.version} on Linux {result.kernel} ({result.machine}), "
            f"user {result.user}",
            *_feature_lines(result.features),
            *_limit_lines(result.limits),
            *_circumstance_lines(result.circumstances),
            *_verdict_lines(result.configured, result.verdict),
            "",
        )
    )


def _feature_lines(features: Iterable[Feature]) -> Iterator[str]:
    for use, features_of_use in itertools.groupby(features, lambda feature: feature.use):
        yield f"\n{_GROUPS[use]:<42}{'result':<15}{'Linux':<8}without it"
        for feature in features_of_use:
            yield (
                f"  {feature.title:<40}{_outcome(feature):<15}{feature.since:<8}{feature.without}"
            )


def _outcome(feature: Feature) -> str:
    if feature.works is None:
        return "not tried"
    return "yes" if feature.works else f"no {feature.error}"


def _limit_lines(limits: Iterable[Limit]) -> Iterator[str]:
    yield f"\n{'limits':<42}{'granted':<15}needed"
    for limit in limits:
        has = "no limit" if limit.has is None else in_units(limit.has, limit.unit)
        needs = in_units(limit.needs, limit.unit)
        told = "enough" if limit.enough else limit.too_low
        name = f"{limit.title} ({limit.setting})"
        yield f"  {name:<40}{has:<15}{needs:<15}{told}"


def _circumstance_lines(around: Circumstances) -> Iterator[str]:
    yield "\nwhat can stand in the way"
    for name, value in (
        ("kernel.io_uring_disabled", around.disabled),
        ("kernel.io_uring_group", around.group),
        ("seccomp filter", "yes" if around.seccomp else "no"),
        ("security modules", around.lsms or "unknown"),
    ):
        yield f"  {name:<40}{'absent' if value is None else value}"


def _verdict_lines(configured: str, verdict: Verdict) -> Iterator[str]:
    yield f"\n{'asked for ([network] backend)':<42}{configured}"
    for name, text in (("the node would run on", verdict.tier), ("because", verdict.reason)):
        yield from textwrap.wrap(
            text, TABLE_COLUMNS, initial_indent=f"{name:<42}", subsequent_indent=" " * 42
        )
