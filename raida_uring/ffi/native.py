"""The data plane as Python sees it: `Engine`, typed and raising.

`_native` is imported here and in the other native_*.py alone. Each method names the thread it is
for, as ru.h does; cffi drops the interpreter lock on every call.
"""

import errno
import functools
import ipaddress
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

from raida_uring.errors import EngineError
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.ffi.native_store import Store
from raida_uring.ffi.native_tap import Taps
from raida_uring.ffi.native_trees import Shown
from raida_uring.ffi.native_worker import Worker, checked


class _Lib(Protocol):
    """The functions of ru.h that this module calls."""

    RU_ROOTS_SIZE: int
    RU_INLINE_BYTES: int
    RU_FAMILY_COIN: int
    RU_FAMILY_LOCKER: int
    RU_FAMILY_IPV4: int
    RU_CONFIG_LISTENERS: int
    RU_CLOSED_KEPT: int
    RU_CONNECTIONS_LISTED: int
    RU_LIMITED_LISTED: int
    RU_CLASS_ORDINARY: int
    RU_CLASS_SLOW: int
    RU_CLASS_ECHO: int
    RU_CLASS_WRITE: int

    def ru_config_check(self, config: Any, fault: Any) -> int: ...
    def ru_config_range(self, field: bytes, least: Any, most: Any) -> int: ...
    def ru_config_is_live(self, field: bytes) -> int: ...
    def ru_engine_create(self, config: Any, engine: Any, fault: Any) -> int: ...
    def ru_engine_destroy(self, engine: Any) -> None: ...
    def ru_engine_run(self, engine: Any) -> int: ...
    def ru_engine_wait_ready(self, engine: Any, timeout_ms: int) -> int: ...
    def ru_engine_fault(self, engine: Any) -> Any: ...
    def ru_engine_tier(self, engine: Any) -> Any: ...
    def ru_engine_refusal(self, engine: Any, error: Any) -> Any: ...
    def ru_engine_hand_over(self, engine: Any, deadline_ms: int, channel: int) -> None: ...
    def ru_engine_take_back(self, engine: Any) -> int: ...
    def ru_engine_own(self, engine: Any, shared: int) -> int: ...
    def ru_engine_adopt(self, engine: Any, listener: int, fd: int) -> int: ...
    def ru_engine_close_workers(self, engine: Any) -> None: ...
    def ru_engine_drain(self, engine: Any, deadline_ms: int) -> None: ...
    def ru_engine_set_class(self, engine: Any, group: int, command: int, lane: int) -> int: ...
    def ru_engine_set_native(self, engine: Any, store: Any, keys: Any, facts: Any) -> None: ...
    def ru_engine_set_native_command(self, engine: Any, group: int, command: int) -> int: ...
    def ru_engine_set_raida(self, engine: Any, addresses: bytes, count: int) -> None: ...
    def ru_engine_raida_missed(self, engine: Any) -> int: ...
    def ru_engine_add_statistic(self, engine: Any, index: int, by: int) -> None: ...
    def ru_engine_statistics(self, engine: Any, values: Any) -> None: ...
    def ru_engine_guard(self, engine: Any, group: int, command: int) -> int: ...
    def ru_engine_set_public(self, engine: Any, group: int, command: int) -> int: ...
    def ru_engine_limited(self, engine: Any, limited: Any, count: int) -> int: ...
    def ru_engine_publish_roots(self, engine: Any, roots: bytes) -> None: ...
    def ru_engine_roots(self, engine: Any) -> Any: ...
    def ru_engine_trees(self, engine: Any) -> Any: ...
    def ru_engine_tally(self, engine: Any, command: int, answered: Any) -> int: ...
    def ru_engine_counters(self, engine: Any, values: Any) -> None: ...
    def ru_counters_count(self) -> int: ...
    def ru_counters_row(self, index: int) -> Any: ...
    def ru_engine_gauges(self, engine: Any, values: Any) -> None: ...
    def ru_gauges_count(self) -> int: ...
    def ru_gauges_name(self, index: int) -> Any: ...
    def ru_engine_wake(self, engine: Any) -> None: ...
    def ru_engine_histogram(
        self, engine: Any, kind: int, buckets: Any, count: int, sum_ns: Any
    ) -> int: ...
    def ru_hist_floor_ns(self, bucket: int) -> int: ...
    def ru_engine_set_live(self, engine: Any, config: Any) -> int: ...
    def ru_engine_connections(self, engine: Any, first: Any, connections: Any) -> int: ...
    def ru_engine_closed(self, engine: Any, closed: Any, missed: Any) -> int: ...
    def ru_closed_reason_name(self, reason: int) -> Any: ...
    def ru_connection_state_name(self, state: int) -> Any: ...
    def ru_engine_arena_size(self, engine: Any) -> int: ...
    def ru_worker_open(self, engine: Any, index: int, worker: Any) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

ROOTS_SIZE: Final = _lib.RU_ROOTS_SIZE
LISTENERS_MAX: Final = _lib.RU_CONFIG_LISTENERS
INLINE_SIZE: Final = _lib.RU_INLINE_BYTES  # a TCP reply of so many leaves at once


def _text(words: Any) -> str:
    return str(_ffi.string(words).decode())


def _enum(name: str, prefix: str) -> dict[str, int]:
    """The values of an enum of ru.h, ascending, by their names in lower case and less `prefix`."""
    values: dict[int, str] = _ffi.typeof(f"enum {name}").elements
    return {word.removeprefix(prefix).lower(): number for number, word in sorted(values.items())}


class Counter(NamedTuple):
    """A row of ffi/count/stats.h. kind: of enum ru_counter_kind: "event", "udp_begun", ..."""

    name: str
    kind: str
    meaning: str


_COUNTER_KINDS: Final = {
    number: kind for kind, number in _enum("ru_counter_kind", "RU_COUNTER_").items()
}
COUNTERS: Final = tuple(
    Counter(_text(row.name), _COUNTER_KINDS[row.kind], _text(row.meaning))
    for row in map(_lib.ru_counters_row, range(_lib.ru_counters_count()))
)
COUNTER_NAMES: Final = tuple(counter.name for counter in COUNTERS)
_COUNTER_PLACES: Final = {name: place for place, name in enumerate(COUNTER_NAMES)}
GAUGE_NAMES: Final = tuple(
    _text(_lib.ru_gauges_name(index)) for index in range(_lib.ru_gauges_count())
)
_HISTOGRAM_NUMBERS: Final = _enum("ru_histogram_kind", "RU_HISTOGRAM_")
HISTOGRAM_KINDS: Final = tuple(kind for kind in _HISTOGRAM_NUMBERS if kind != "count")
BACKENDS: Final = _enum("ru_backend_choice", "RU_BACKEND_")
"""As `[network] backend` names them."""

STATISTICS: Final = 4  # RU_STATISTICS
CLASS_ORDINARY: Final = _lib.RU_CLASS_ORDINARY
CLASS_SLOW: Final = _lib.RU_CLASS_SLOW
CLASS_ECHO: Final = _lib.RU_CLASS_ECHO
CLASS_WRITE: Final = _lib.RU_CLASS_WRITE


@dataclass(frozen=True, slots=True)
class Connection:
    """One open TCP connection.

    peer: a sockaddr of 28 bytes, see message.unpack_peer(); all zero when it was reset. state: in
    words. requests: begun on it.
    """

    peer: bytes
    state: str
    age_s: float
    state_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class ClosedConnection:
    """One that ended. peer: as of Connection. reason: in words."""

    peer: bytes
    reason: str
    age_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class Limited:
    """A source or a coin with so many failed checks of a secret that none is made for it now.

    who: an address or network, "coin DEN:SN", or "lockers", those whose keys begin alike.
    transport: "udp" or "tcp", empty for a coin or locker. rest_s: until it may ask again.
    """

    who: str
    transport: str
    rest_s: float


def _limited(one: Any) -> Limited:
    name, transport = bytes(_ffi.buffer(one.name)), ""
    if one.family == _lib.RU_FAMILY_COIN:
        who = f"coin {int.from_bytes(name[:1], signed=True)}:{int.from_bytes(name[1:5])}"
    elif one.family == _lib.RU_FAMILY_LOCKER:
        who = "lockers"  # the bytes are of their keys
    else:
        is_ipv4 = one.family == _lib.RU_FAMILY_IPV4
        address = ipaddress.ip_address(name[:4] if is_ipv4 else name + bytes(8))
        who = str(address) if one.bits == 32 else f"{address}/{one.bits}"
        transport = ("udp", "tcp")[one.transport]
    return Limited(who, transport, one.rest_ns / 1e9)


class Listener(NamedTuple):
    """One bound address: a struct ru_listener_config. The descriptors stay open until the engine is
    destroyed."""

    udp_fd: int
    tcp_fd: int
    wildcard: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies in nanoseconds: `counts[i]` values of at least `floors_ns[i]`."""

    floors_ns: tuple[int, ...]
    counts: tuple[int, ...]
    sum_ns: int

    def buckets(self) -> Iterator[tuple[int, int]]:
        """Floor and count of each."""
        return zip(self.floors_ns, self.counts, strict=True)


@functools.cache
def _floors_ns(count: int) -> tuple[int, ...]:
    return tuple(_lib.ru_hist_floor_ns(bucket) for bucket in range(count))


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """A field of `struct ru_config` that cannot be, and what it may be beside the others."""

    field: str
    value: int
    least: int
    most: int


def _fault_of(fault: Any) -> ConfigFault:
    return ConfigFault(_text(fault.field), fault.value, fault.least, fault.most)


def config_range(field: str) -> tuple[int, int]:
    """Thread: any. The least and the most that a field of `struct ru_config` can be.

    Raises EngineError (EINVAL) when there is no such limit.
    """
    least, most = _ffi.new("uint32_t *"), _ffi.new("uint32_t *")
    checked(_lib.ru_config_range(field.encode(), least, most), f"limits of {field}")
    return least[0], most[0]


def config_is_live(field: str) -> bool:
    """Thread: any. Whether Engine.set_live() changes a field of `struct ru_config`."""
    return bool(_lib.ru_config_is_live(field.encode()))


def check_config(settings: Mapping[str, object]) -> ConfigFault | None:
    """Thread: any. What an engine would refuse of `settings`, as Engine takes them, if anything."""
    fault = _ffi.new("struct ru_config_fault *")
    settings_c = _ffi.new("struct ru_config *", {**settings, "listeners_count": 1})
    if _lib.ru_config_check(settings_c, fault) == 0:
        return None
    return _fault_of(fault)


class _Snapshot(Mapping[str, int]):
    """Counters that become numbers of Python's when they are looked at."""

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        self._values = values

    def __getitem__(self, name: str) -> int:
        number: int = self._values[_COUNTER_PLACES[name]]
        return number

    def __iter__(self) -> Iterator[str]:
        return iter(COUNTER_NAMES)

    def __len__(self) -> int:
        return len(COUNTER_NAMES)


class Engine:
    """One data plane. Created by the control thread; see ru.h for the thread of each call."""

    def __init__(self, listeners: Sequence[Listener], settings: Mapping[str, object]) -> None:
        """Map and reserve all memory.

        settings: the remaining fields of `struct ru_config`, by name.
        Raises EngineError: ENOMEM, ENOSPC, EFBIG when the memory cannot be had, EINVAL when a
        setting is out of range, which the text names.
        """
        settings_c = _ffi.new(
            "struct ru_config *",
            {**settings, "listeners": list(listeners), "listeners_count": len(listeners)},
        )
        out = _ffi.new("struct ru_engine **")
        fault = _ffi.new("struct ru_config_fault *")
        result = _lib.ru_engine_create(settings_c, out, fault)
        doing = "reserving the node's memory"
        if (found := _fault_of(fault)).field:
            doing = (
                f"{found.field} = {found.value}, which must be from {found.least} to {found.most}"
            )
        checked(result, doing)
        self._made = out[0]
        self._closed = _ffi.new("struct ru_closed[]", _lib.RU_CLOSED_KEPT)
        self._call_lock = threading.Lock()  # one call of the loop at a time

    def destroy(self) -> None:
        """Thread: control, once run() and every worker have returned."""
        engine, self._made = self._made, _ffi.NULL
        if engine != _ffi.NULL:
            _lib.ru_engine_destroy(engine)

    @property
    def _engine(self) -> Any:
        """Raises EngineError (ESHUTDOWN) once destroyed."""
        if self._made == _ffi.NULL:
            raise EngineError(errno.ESHUTDOWN, "using the engine")
        return self._made

    def run(self) -> None:
        """Thread: loop. Serve until drained. Raises EngineError."""
        checked(_lib.ru_engine_run(self._engine), self.fault)

    def wait_ready(self, timeout_ms: int) -> None:
        """Thread: any. Return once serving. Raises EngineError with what failed."""
        result = _lib.ru_engine_wait_ready(self._engine, timeout_ms)
        checked(result, self.fault or "starting the I/O thread")

    @property
    def fault(self) -> str:
        """Thread: any. What failed, in words; empty when nothing did."""
        return _text(_lib.ru_engine_fault(self._engine))

    @property
    def tier(self) -> str:
        """Thread: any. Backend and tier; empty until ready, and when no backend could be opened."""
        return _text(_lib.ru_engine_tier(self._engine))

    @property
    def refusal(self) -> EngineError | None:
        """Thread: any. Why epoll serves although io_uring was tried first; valid once ready."""
        number = _ffi.new("int *")
        doing = _text(_lib.ru_engine_refusal(self._engine, number))
        return EngineError(number[0], doing) if number[0] else None

    def set_live(self, settings: Mapping[str, object]) -> None:
        """Thread: any. Let the loop take over what may change while it serves.

        settings: as for __init__(); those that are not config_is_live() are ignored. Raises
        EngineError: EINVAL when one is out of range, ESHUTDOWN when the loop does not run,
        ETIMEDOUT when it stands still.
        """
        settings_c = _ffi.new("struct ru_config *", dict(settings))
        with self._call_lock:
            checked(_lib.ru_engine_set_live(self._engine, settings_c), "changing limits")

    def connections(self, first: int = 0) -> tuple[list[Connection], int]:
        """Thread: any. Some of the open connections from number `first` on, none at the end, and
        where to go on. Raises EngineError: ESHUTDOWN, ETIMEDOUT."""
        at = _ffi.new("uint32_t *", first)
        found = _ffi.new("struct ru_connection[]", _lib.RU_CONNECTIONS_LISTED)
        with self._call_lock:
            count = checked(
                _lib.ru_engine_connections(self._engine, at, found), "listing connections"
            )
        listed = [
            Connection(
                peer=bytes(_ffi.buffer(one.peer)),
                state=_text(_lib.ru_connection_state_name(one.state)),
                age_s=one.age_ns / 1e9,
                state_s=one.state_ns / 1e9,
                requests=one.requests,
            )
            for one in found[0:count]
        ]
        return listed, at[0]

    def closed_connections(self) -> tuple[list[ClosedConnection], int]:
        """Thread: any, one at a time. Take the connections that ended, but for those that ended
        well after one request, and how many more there was no room for since the start."""
        missed = _ffi.new("uint64_t *")
        count = _lib.ru_engine_closed(self._engine, self._closed, missed)
        taken = [
            ClosedConnection(
                peer=bytes(_ffi.buffer(one.peer)),
                reason=_text(_lib.ru_closed_reason_name(one.reason)),
                age_s=one.age_ns / 1e9,
                requests=one.requests,
            )
            for one in self._closed[0:count]
        ]
        return taken, missed[0]

    def taps(self) -> Taps:
        """What is noted of the requests that were answered."""
        return Taps(lambda: self._engine)

    @property
    def arena_size(self) -> int:
        """Thread: any. Bytes of memory shared by the loop and the workers."""
        return _lib.ru_engine_arena_size(self._engine)

    def close_workers(self) -> None:
        """Thread: control, when run() was never called. Workers leave take()."""
        _lib.ru_engine_close_workers(self._engine)

    def drain(self, deadline_ms: int) -> None:
        """Thread: any. Stop: answer what was received, give up after `deadline_ms`."""
        _lib.ru_engine_drain(self._engine, deadline_ms)

    def hand_over(self, deadline_ms: int, channel: int) -> None:
        """Thread: any. Stop like drain(), but leave what arrives to another process that serves the
        same sockets, and send it idle connections through `channel` (a descriptor, which stays
        open until run() has returned)."""
        _lib.ru_engine_hand_over(self._engine, deadline_ms, channel)

    def take_back(self) -> None:
        """Thread: any. After hand_over(), when the other process has ended first: serve again.

        Raises EngineError: EINVAL when nothing was handed over, ESHUTDOWN when the loop has ended.
        """
        with self._call_lock:
            checked(_lib.ru_engine_take_back(self._engine), "taking the sockets back")

    def own(self, *, shared: bool) -> None:
        """Thread: any. The process that served the same sockets is gone.

        shared: the service manager has them still, so that drain() leaves them as they are. Raises
        EngineError: ESHUTDOWN, ETIMEDOUT.
        """
        with self._call_lock:
            checked(_lib.ru_engine_own(self._engine, int(shared)), "taking the sockets over")

    def adopt(self, listener: int, fd: int) -> None:
        """Thread: one at a time. Serve a connection of another process: fd is the engine's then.

        Raises EngineError: EAGAIN when too many wait, EINVAL for an unknown listener.
        """
        checked(_lib.ru_engine_adopt(self._engine, listener, fd), "taking a connection over")

    def set_class(self, group: int, command: int, lane: int) -> None:
        """Thread: control. Publish who answers a command: one of CLASS_*."""
        checked(
            _lib.ru_engine_set_class(self._engine, group, command, lane), "publishing a command"
        )

    def set_native(self, store: Store | None, keys: Store | None, facts: Any) -> None:
        """Thread: control, before a worker is opened. What native commands are executed on.

        store, keys: stay open as long as the engine; keys: has the coins that requests are sealed
        with, in place of the store. facts: of native_command.facts().
        """
        _lib.ru_engine_set_native(
            self._engine,
            _ffi.NULL if store is None else store.handle,
            _ffi.NULL if keys is None else keys.handle,
            facts,
        )

    def set_native_command(self, group: int, command: int) -> None:
        """Thread: control. The command is answered without a handler of Python."""
        checked(
            _lib.ru_engine_set_native_command(self._engine, group, command), "publishing a command"
        )

    def set_raida(self, addresses: bytes) -> None:
        """Thread: one at a time. The addresses of the other RAIDA, 16 bytes each, IPv4 mapped into
        IPv6: wrong tickets that they ask for over TCP do not count as failed checks."""
        _lib.ru_engine_set_raida(self._engine, addresses, len(addresses) // 16)

    def raida_missed(self) -> bool:
        """Thread: any. Whether another address has asked so since the last call."""
        return bool(_lib.ru_engine_raida_missed(self._engine))

    def add_statistic(self, index: int, by: int) -> None:
        """Thread: any. Add to what show_stats tells; index: in statistics()."""
        _lib.ru_engine_add_statistic(self._engine, index, by % (1 << 64))

    def statistics(self) -> tuple[int, ...]:
        """Thread: any. Echoes, coins powned, value powned, datagrams, each modulo 2^64."""
        values = _ffi.new("uint64_t[]", STATISTICS)
        _lib.ru_engine_statistics(self._engine, values)
        return tuple(values)

    def guard(self, group: int, command: int) -> None:
        """Thread: control. The command checks a secret of its own, see Worker.may_check()."""
        checked(_lib.ru_engine_guard(self._engine, group, command), "guarding a command")

    def set_public(self, group: int, command: int) -> None:
        """Thread: control. Strangers can know what the command replies: types 1 and 2 get 36."""
        checked(_lib.ru_engine_set_public(self._engine, group, command), "publishing a command")

    def limited(self) -> tuple[list[Limited], int]:
        """Thread: any. Some of those that have failed too many checks, and how many there are."""
        found = _ffi.new("struct ru_limited[]", _lib.RU_LIMITED_LISTED)
        count = _lib.ru_engine_limited(self._engine, found, len(found))
        return [_limited(one) for one in found[0 : min(count, len(found))]], count

    def publish_roots(self, roots: bytes) -> None:
        """Thread: one publisher at a time. roots: ROOTS_SIZE bytes."""
        if len(roots) != ROOTS_SIZE:
            raise ValueError(f"roots must be {ROOTS_SIZE} bytes, not {len(roots)}")
        _lib.ru_engine_publish_roots(self._engine, roots)

    def shown(self) -> Shown:
        """Thread: any. What votes and get_merkle_branch are answered with."""
        engine = self._engine
        return Shown(_lib.ru_engine_trees(engine), _lib.ru_engine_roots(engine), self)

    def counters(self) -> dict[str, int]:
        """Thread: any. One consistent set of all counters."""
        values = _ffi.new("uint64_t[]", len(COUNTER_NAMES))
        _lib.ru_engine_counters(self._engine, values)
        return dict(zip(COUNTER_NAMES, values, strict=True))

    def snapshot(self) -> Mapping[str, int]:
        """Thread: any. As counters(), for whoever needs a few of them: none is read before that."""
        values = _ffi.new("uint64_t[]", len(COUNTER_NAMES))
        _lib.ru_engine_counters(self._engine, values)
        return _Snapshot(values)

    def gauges(self) -> dict[str, int]:
        """Thread: any. How things stood at the end of the newest lap, see ffi/count/stats.h."""
        values = _ffi.new("uint64_t[]", len(GAUGE_NAMES))
        _lib.ru_engine_gauges(self._engine, values)
        return dict(zip(GAUGE_NAMES, values, strict=True))

    def answered(self, group: int, code: int) -> tuple[dict[int, int], int]:
        """Thread: any. Replies of workers to a command by status, and the nanoseconds from receipt
        to reply of all of them together. Plain echoes and votes are no workers' business."""
        counts = _ffi.new("uint64_t[256]")
        spent_ns = _lib.ru_engine_tally(self._engine, group << 8 | code, counts)
        return {status: count for status, count in enumerate(counts) if count}, spent_ns

    def wake(self) -> None:
        """Thread: any. Have the loop turn once more: if it lives, `laps` grows soon."""
        _lib.ru_engine_wake(self._engine)

    def histogram(self, kind: str) -> Histogram:
        """Thread: any. kind: one of HISTOGRAM_KINDS."""
        number = _HISTOGRAM_NUMBERS[kind]
        size = _lib.ru_engine_histogram(self._engine, number, _ffi.NULL, 0, _ffi.NULL)
        buckets = _ffi.new("uint64_t[]", size)
        sum_ns = _ffi.new("uint64_t *")
        _lib.ru_engine_histogram(self._engine, number, buckets, size, sum_ns)
        return Histogram(_floors_ns(size), tuple(buckets), sum_ns[0])

    def open_worker(self, index: int) -> Worker:
        """Thread: the worker's. Raises EngineError: EINVAL past the last, EBUSY while open."""
        out = _ffi.new("struct ru_worker **")
        checked(_lib.ru_worker_open(self._engine, index, out), f"opening worker {index}")
        return Worker(out[0])
