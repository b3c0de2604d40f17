"""Typed access to the load generator (loadgen.c), with exceptions. Sole importer of `_loadgen`.

Thread: any; a run releases the GIL, so several loads can run in threads at the same time.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from raida_uring.bench import _loadgen  # type: ignore[attr-defined]
from raida_uring.errors import RaidaError

Transport = Literal["udp", "tcp"]

_TRACEPOINT_ID_PATHS = (
    Path("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id"),
    Path("/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id"),
)


class LoadError(RaidaError):
    """The generator could not run: connection refused, no descriptors left, value out of range."""


class _Lib(Protocol):
    LG_REQUEST_BYTES_MAX: int
    LG_REPLY_BYTES_MAX: int

    def lg_udp_run(self, load: object, exchange: object, result: object) -> int: ...
    def lg_tcp_run(self, load: object, exchange: object, result: object) -> int: ...
    def lg_histogram_record(self, histogram: object, value: int) -> None: ...
    def lg_histogram_percentile(self, histogram: object, permille_x10: int) -> int: ...
    def lg_syscall_counter_open(self, tid: int, tracepoint_id: int) -> int: ...


_lib = cast(_Lib, _loadgen.lib)
_ffi: Any = _loadgen.ffi


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the expected reply.

    The generator writes a 2-byte tag into the request at `request_tag_offset` and expects it in
    the reply at `reply_tag_offset`. Reply bytes in `ignore`, half-open (start, end) ranges, are
    not compared; every other byte and the length are. variants, replies, turns, round: for
    requests, and perhaps replies, that differ by more than the tag, one after the other; struct
    lg_exchange in loadgen.h says in which order they are sent.
    """

    request: bytes
    request_tag_offset: int
    reply: bytes
    reply_tag_offset: int
    ignore: tuple[tuple[int, int], ...] = ()
    variants: bytes = b""
    replies: bytes = b""
    turns: int = 1
    round: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """The load; struct lg_load in loadgen.h explains the fields."""

    port: int
    duration_ms: int
    transport: Transport = "udp"
    host: str = "127.0.0.1"
    window: int = 64
    rate_per_s: int = 0
    timeout_ms: int = 1000
    busy_poll: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a load: sent = answered + wrong + lost. Latencies in microseconds."""

    sent: int
    answered: int
    wrong: int
    lost: int
    stray: int
    elapsed_s: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @property
    def per_second(self) -> float:
        return self.answered / self.elapsed_s if self.elapsed_s > 0 else 0.0


def run_load(load: Load, exchange: Exchange) -> Result:
    """Run `load` to its end: duration_ms, the rest of its rounds, and at most twice timeout_ms.

    Raises LoadError if it cannot run; wrong and missing replies are only counted.
    """
    fields = dataclasses.asdict(load) | {"host": load.host.encode()}
    del fields["transport"]
    c_load = _ffi.new("struct lg_load *", fields)
    c_result = _ffi.new("struct lg_result *")
    c_exchange = _exchange(exchange)
    number = load.window * exchange.turns
    if exchange.variants:
        if len(exchange.variants) != number * len(exchange.request):
            raise LoadError("variants: as many for each turn as the window")
        variants = _ffi.from_buffer("uint8_t[]", exchange.variants)
        c_exchange.variants = variants
        c_exchange.turns, c_exchange.round = exchange.turns, exchange.round
    if exchange.replies:
        if len(exchange.replies) != number * len(exchange.reply) or not exchange.variants:
            raise LoadError("replies: one for each variant")
        replies = _ffi.from_buffer("uint8_t[]", exchange.replies)
        c_exchange.replies = replies
    start = _lib.lg_udp_run if load.transport == "udp" else _lib.lg_tcp_run
    rc = start(c_load, c_exchange, c_result)
    if rc < 0:
        raise LoadError(f"load on {load.host}:{load.port}/{load.transport}: {os.strerror(-rc)}")
    return _result(c_result)


def open_syscall_counter(tid: int) -> int:
    """Return a descriptor that counts the system calls of thread `tid` from now on.

    Read it with `read_syscall_counter`, close it with `os.close`.
    Raises OSError: no tracefs, no CAP_PERFMON, no such thread.
    """
    for path in _TRACEPOINT_ID_PATHS:
        try:
            tracepoint_id = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            continue
        rc = _lib.lg_syscall_counter_open(tid, tracepoint_id)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        return rc
    raise FileNotFoundError("tracefs has no raw_syscalls:sys_enter")


def read_syscall_counter(fd: int) -> int:
    """Return the number of system calls since `open_syscall_counter`."""
    return int.from_bytes(os.read(fd, 8), "little")


def _exchange(exchange: Exchange) -> Any:
    for size, most in (
        (len(exchange.request), _lib.LG_REQUEST_BYTES_MAX),
        (len(exchange.reply), _lib.LG_REPLY_BYTES_MAX),
    ):
        if size > most:
            raise LoadError(f"message of {size} bytes, at most {most}")
    mask = bytearray(b"\xff" * len(exchange.reply))
    for start, end in exchange.ignore:
        mask[start:end] = bytes(end - start)
    return _ffi.new(
        "struct lg_exchange *",
        {
            "request_bytes": len(exchange.request),
            "request_tag_offset": exchange.request_tag_offset,
            "reply_bytes": len(exchange.reply),
            "reply_tag_offset": exchange.reply_tag_offset,
            "request": exchange.request,
            "reply": exchange.reply,
            "reply_mask": bytes(mask),
        },
    )


def _result(c_result: Any) -> Result:
    histogram = _ffi.addressof(c_result.latency_ns)

    def percentile_us(permille_x10: int) -> float:
        return _lib.lg_histogram_percentile(histogram, permille_x10) / 1000

    return Result(
        sent=c_result.sent,
        answered=c_result.answered,
        wrong=c_result.wrong,
        lost=c_result.lost,
        stray=c_result.stray,
        elapsed_s=c_result.elapsed_ns / 1e9,
        p50_us=percentile_us(5000),
        p90_us=percentile_us(9000),
        p99_us=percentile_us(9900),
        p999_us=percentile_us(9990),
        max_us=histogram.max / 1000,
    )
