"""Threads that answer native commands: they wait and work in C, without the interpreter lock.

Python starts them, so that they end with the process, and their faults are logged like those of all
other threads. They come back to it when the store has failed, and once a minute.
"""

import time
from collections.abc import Sequence
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native
from raida_uring.ffi.native_worker import Worker as NativeEnd
from raida_uring.log import events
from raida_uring.store import Store
from raida_uring.workers.thread import FAULT_INTERVAL_S, WorkerThread

PATIENCE_MS: Final = 60_000  # nothing depends on it: the data plane wakes the thread


class NativeWorker(WorkerThread):
    """One thread of a native lane."""

    def __init__(
        self, engine: native.Engine, index: int, cpus: Sequence[int], store: Store | None
    ) -> None:
        """store: what it changes, and is told of failed changes; None: it changes nothing."""
        super().__init__(engine, index, cpus)
        self._store = store
        self._failed = 0  # requests that no line of the log tells of yet
        self._reason = ""
        self._told_at = -FAULT_INTERVAL_S

    def _take_requests(self, worker: NativeEnd) -> None:
        while (failed := worker.serve(self._patience_ms())) is not None:
            requests, error = failed
            if error is not None:
                self._note(requests, error)
            if time.monotonic() - self._told_at >= FAULT_INTERVAL_S:
                self._tell()
        self._tell()

    def _patience_ms(self) -> int:
        return round(1000 * FAULT_INTERVAL_S) if self._failed else PATIENCE_MS

    def _note(self, requests: int, error: StoreError) -> None:
        if self._store is not None:
            self._store.note_unwritten(error)
        self._failed += requests
        self._reason = str(error)

    def _tell(self) -> None:
        if not self._failed:
            return
        noun = "request" if self._failed == 1 else "requests"
        events.STORE_FAILED.log(fault=self._reason, requests=self._failed, noun=noun)
        self._failed, self._told_at = 0, time.monotonic()
