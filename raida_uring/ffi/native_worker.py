"""A worker's end of the data plane: `Worker`, typed and raising. native.py has the engine."""

import errno
from typing import Any, Final, Protocol, cast

from raida_uring.errors import EngineError, StoreError
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.ffi.native_base import stored
from raida_uring.ffi.native_store import View


class _Lib(Protocol):
    """The functions of ru.h that this module calls."""

    RU_RECORD_SIZE: int
    RU_REQUEST_KINDS: int
    RU_REQUEST_BARE: int
    RU_REQUEST_SEALED: int

    def ru_worker_close(self, worker: Any) -> None: ...
    def ru_worker_take(self, worker: Any, timeout_ms: int) -> int: ...
    def ru_worker_records(self, worker: Any) -> Any: ...
    def ru_worker_data(self, worker: Any) -> Any: ...
    def ru_worker_reply_factor(self, worker: Any) -> int: ...
    def ru_worker_may_check(self, worker: Any, payload_at: int) -> int: ...
    def ru_worker_checked(self, worker: Any, payload_at: int, failed: int) -> int: ...
    def ru_worker_sealed(self, worker: Any) -> Any: ...
    def ru_worker_unseal(self, worker: Any, view: Any) -> int: ...
    def ru_worker_unseal_at(self, worker: Any, payload_at: int, view: Any, record: Any) -> int: ...
    def ru_worker_resumed(self, worker: Any) -> int: ...
    def ru_worker_reply(
        self, worker: Any, count: int, statuses: bytes, sizes: Any, payload: bytes
    ) -> int: ...
    def ru_worker_serve(self, worker: Any, patience_ms: int, failed: Any) -> int: ...
    def ru_worker_return(self, worker: Any, token: int) -> None: ...  # for tests of stale tokens


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

RECORD_SIZE: Final = _lib.RU_RECORD_SIZE
RECORD_FORMAT: Final = "<8xIIHBBBBH16x"  # struct ru_record: what handlers need of it
KINDS: Final = range(_lib.RU_REQUEST_KINDS)
KIND_BARE: Final = _lib.RU_REQUEST_BARE
KIND_SEALED: Final = _lib.RU_REQUEST_SEALED


def checked(result: int, doing: str) -> int:
    """`result` of a function of ru.h. Raises EngineError if it is negative."""
    if result < 0:
        raise EngineError(-result, doing)
    return result


class Worker:
    """A worker's end of its queues; once closed, its methods raise TypeError, since None is no
    pointer. Thread: the one that opened it."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._records = _lib.ru_worker_records(worker)
        self._data = _lib.ru_worker_data(worker)
        self._sealed = _lib.ru_worker_sealed(worker)
        self._record = _ffi.new("struct ru_record **")

    def close(self) -> None:
        """Requests of the batch that were not answered get status 252."""
        worker, self._worker = self._worker, None
        self._records = self._data = self._sealed = None
        if worker is not None:
            _lib.ru_worker_close(worker)

    def take(self, timeout_ms: int) -> int | None:
        """Wait for a batch: its number of requests, 0 on time-out, None when the engine ended."""
        count = _lib.ru_worker_take(self._worker, timeout_ms)
        if count == -errno.ESHUTDOWN:
            return None
        return checked(count, "taking requests")

    def records(self, count: int, first: int = 0) -> Any:
        """Records of the batch from number `first` on, RECORD_FORMAT each; valid until the next
        take."""
        return _ffi.buffer(self._records + first, count * RECORD_SIZE)

    def batch(self, count: int) -> tuple[Any, bytes]:
        """The batch's records and a copy of the bytes they refer to.

        Ends the measurement of how long a worker waits for the interpreter lock.
        """
        size = _lib.ru_worker_resumed(self._worker)
        return self.records(count), bytes(_ffi.buffer(self._data, size))

    @property
    def reply_factor(self) -> int:
        """`udp_reply_factor_max` for the replies to the batch, whatever a reload changes now."""
        return _lib.ru_worker_reply_factor(self._worker)

    @property
    def sealed(self) -> int:
        """How many of the batch's requests are still encrypted."""
        count: int = self._sealed[0]
        return count

    def unseal(self, view: View | None) -> int:
        """Open the encrypted requests of the batch, and answer those that are refused.

        view: has begun, and has the coins that keys belong to; None: there are none. Returns how
        many requests are left: the first of records(). Raises StoreError, with none opened.
        """
        left = _lib.ru_worker_unseal(self._worker, _ffi.NULL if view is None else view._view)
        return stored(left, "reading the keys of coins")

    def unseal_at(self, payload_at: int, view: View | None) -> tuple[int, bytes]:
        """Open one of them: 0 and its payload, or the status that it is to be answered with.

        As unseal(); a second call changes nothing.
        """
        out = self._record
        status = _lib.ru_worker_unseal_at(
            self._worker, payload_at, _ffi.NULL if view is None else view._view, out
        )
        record = out[0]
        if stored(status, "reading the keys of coins") or not record.payload_size:
            return status, b""
        return 0, bytes(_ffi.buffer(self._data + record.payload_at, record.payload_size))

    def may_check(self, payload_at: int) -> bool:
        """Whether a secret may be checked for the request of the batch with its payload there.

        If not, its sender, network or key coin has failed too often: as a datagram it gets no reply
        then, as a connection's request 160, whatever reply() is told.
        """
        return bool(_lib.ru_worker_may_check(self._worker, payload_at))

    def checked(self, payload_at: int, *, failed: bool) -> bool:
        """Such a check has been made: whether what came of it may be told. Else as may_check()."""
        return bool(_lib.ru_worker_checked(self._worker, payload_at, failed))

    def serve(self, patience_ms: int) -> tuple[int, StoreError | None] | None:
        """Answer requests without the interpreter, until the engine has ended: None; for
        `patience_ms`: 0 and None; or until the store has failed: how many requests were answered
        194 for it, and why. Call it again after the latter two.

        For a worker of a native lane.
        """
        failed = _ffi.new("uint32_t *")
        result = _lib.ru_worker_serve(self._worker, patience_ms, failed)
        if result == 0:
            return None
        try:
            stored(result, "answering requests")
        except StoreError as error:
            return failed[0], error
        return 0, None

    def reply(self, statuses: bytes, sizes: Any, payload: bytes) -> None:
        """Answer the next `len(statuses)` requests of the batch, in order.

        sizes: a buffer of that many u32, the sizes of the payloads that stand one behind the other
        in `payload`, in the clear. Raises EngineError (EINVAL) past the batch.
        """
        sizes_c = _ffi.from_buffer("uint32_t[]", sizes)
        checked(
            _lib.ru_worker_reply(self._worker, len(statuses), statuses, sizes_c, payload),
            "answering more requests than were taken",
        )
