"""What the data plane notes of answered requests: `Taps`, typed. native.py has the engine."""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol, cast

from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs


class _Lib(Protocol):
    """The functions of ru.h that this module calls."""

    RU_TAP_SAMPLES_KEPT: int

    def ru_engine_taps(self, engine: Any) -> int: ...
    def ru_engine_tap_wait(self, engine: Any, timeout_ms: int, gather_ms: int) -> int: ...
    def ru_engine_tap_begin(self, engine: Any, notes: int) -> None: ...
    def ru_engine_tap_end(self, engine: Any) -> None: ...
    def ru_engine_tap_requests(self, engine: Any, tap: int) -> int: ...
    def ru_engine_tap_notes(self, engine: Any, tap: int, notes: Any, count: int) -> int: ...
    def ru_engine_tap_samples(self, engine: Any, tap: int, samples: Any, count: int) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

_NOTES_TAKEN: Final = 256  # in a call


class Note(NamedTuple):
    """A request that was answered: a struct ru_note.

    peer: a sockaddr of 28 bytes, see message.unpack_peer(). transport: 0 UDP, 1 TCP. reply_bytes: 0
    when the reply could not be sent. reply_us: since the datagram or the request's first byte.
    """

    peer: bytes
    group: int
    code: int
    transport: int
    status: int
    request_bytes: int
    reply_bytes: int
    reply_us: int


class Sample(NamedTuple):
    """One of the requests that were answered. peer: as of Note. weight: beside others of its tap
    that are taken at the same time."""

    peer: bytes
    weight: int


class Taps:
    """The taps of all threads that answer requests, numbered from 0: see ffi/count/tap.h.

    Thread: one, the log's, unless a method says any. Methods raise EngineError (ESHUTDOWN) once the
    engine is destroyed.
    """

    def __init__(self, engine: Callable[[], Any]) -> None:
        """engine: a struct ru_engine *."""
        self._engine = engine
        self.count: Final = _lib.ru_engine_taps(engine())
        self._notes = _ffi.new("struct ru_note[]", _NOTES_TAKEN)
        self._samples = _ffi.new("struct ru_sample[]", _lib.RU_TAP_SAMPLES_KEPT)

    def wait(self, timeout_s: float, gather_s: float) -> None:
        """Return when a request was noted and `gather_s` have passed since, or a tap is half full;
        after `timeout_s` if none was noted."""
        _lib.ru_engine_tap_wait(self._engine(), round(1000 * timeout_s), round(1000 * gather_s))

    def end(self) -> None:
        """Thread: any. From now on wait() returns at once."""
        _lib.ru_engine_tap_end(self._engine())

    def begin(self, notes: int) -> None:
        """Let each tap note up to `notes` requests and a few samples, until the next call. Nothing
        is noted before the first one."""
        _lib.ru_engine_tap_begin(self._engine(), notes)

    def requests(self, tap: int) -> int:
        """The requests counted since the start; those of them that were noted, notes() has."""
        return _lib.ru_engine_tap_requests(self._engine(), tap)

    def notes(self, tap: int) -> Iterator[Note]:
        """Take all notes of a tap, oldest first."""
        while count := _lib.ru_engine_tap_notes(self._engine(), tap, self._notes, _NOTES_TAKEN):
            for one in self._notes[0:count]:
                yield Note(
                    peer=bytes(_ffi.buffer(one.peer)),
                    group=one.command >> 8,
                    code=one.command & 0xFF,
                    transport=one.transport,
                    status=one.reply_status,
                    request_bytes=one.request_size,
                    reply_bytes=one.reply_size,
                    reply_us=one.reply_us,
                )

    def samples(self, tap: int) -> list[Sample]:
        """Take the samples of a tap, oldest first."""
        size = _lib.RU_TAP_SAMPLES_KEPT
        count = _lib.ru_engine_tap_samples(self._engine(), tap, self._samples, size)
        return [Sample(bytes(_ffi.buffer(one.peer)), one.weight) for one in self._samples[0:count]]
