"""The kernel as the data plane finds it: features by trial, and the backend that it would choose.

Beside native.py, which has the data plane; see there. Needs no engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from raida_uring.errors import EngineError
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs


class _Lib(Protocol):
    """The functions of ru.h that this module calls."""

    RU_PROBE_UNTRIED: int

    def ru_probe_run(self, results: Any) -> int: ...
    def ru_probe_count(self) -> int: ...
    def ru_probe_name(self, index: int) -> Any: ...
    def ru_probe_backend(self, config: Any, report: Any) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

PROBE_NAMES: Final = tuple(
    _ffi.string(_lib.ru_probe_name(index)).decode() for index in range(_lib.ru_probe_count())
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of asking for the node's backend as its I/O thread does.

    tier: as in the start-up line, empty when nothing serves. is_ring: io_uring serves. fault: why
    nothing serves. refusal: what io_uring failed at, None where it works or was not asked for.
    locked_bytes_max: what the kernel charges at most to the limit of locked memory, where it does.
    """

    tier: str
    is_ring: bool
    fault: EngineError | None
    refusal: EngineError | None
    locked_bytes_max: int


def probe_features() -> dict[str, int | None]:
    """Thread: any. Try every feature of PROBE_NAMES: 0 (works), None (untried) or the errno.

    Raises EngineError (ENOMEM).
    """
    results = _ffi.new("int32_t[]", len(PROBE_NAMES))
    if (result := _lib.ru_probe_run(results)) < 0:
        raise EngineError(-result, "probing the kernel")
    return {
        name: None if result == _lib.RU_PROBE_UNTRIED else -result
        for name, result in zip(PROBE_NAMES, results, strict=True)
    }


def probe_backend(settings: Mapping[str, object]) -> Opened:
    """Thread: any. Open the backend that `settings` (fields of `struct ru_config`) ask for, and
    close it again. Takes seconds where locked memory is short."""
    report = _ffi.new("struct ru_probe_backend *")
    number = -_lib.ru_probe_backend(_ffi.new("struct ru_config *", dict(settings)), report)
    tier, fault, refusal = (
        _ffi.string(text).decode() for text in (report.tier, report.fault, report.refusal)
    )
    return Opened(
        tier=tier,
        is_ring=bool(report.is_ring),
        fault=EngineError(number, fault) if number else None,
        refusal=EngineError(report.refusal_error, refusal) if report.refusal_error else None,
        locked_bytes_max=report.locked_bytes_max,
    )
