"""What a worker notes of the requests it has answered, for the request log and the busiest peers.

A few of each batch: as many as may still be written this second, and a handful picked evenly for
the peers. The cost is bounded per batch and per round, whatever the load.
"""

import struct
import threading
from collections import deque
from typing import Any, Final, NamedTuple

from raida_uring.ffi import native_worker

SAMPLES_PER_ROUND: Final = 24  # requests that a worker notes for the peers
SAMPLES_PER_BATCH: Final = 4
ADDRESS_BYTES: Final = 28

_PREFIX: Final = native_worker.REQUEST_PREFIX_SIZE
_PLAIN_PREFIX: Final = _PREFIX + 16  # the challenge
_PLACE: Final = struct.Struct("<8xI6xB").unpack_from  # payload_at and kind, of struct ru_record


class Noted(NamedTuple):
    """One request, as a worker noted it."""

    peer: bytes
    note: bytes


class Tap:
    """A worker's end. Thread: the worker's; the log's thread sets what may be noted per round.

    Neither waits for the other: a number that both write at once is off by a batch at most.
    """

    __slots__ = ("_awake", "lines", "lines_left", "requests", "samples", "samples_left")

    def __init__(self, awake: threading.Event) -> None:
        self._awake = awake
        self.requests = 0
        self.lines: deque[Noted] = deque()
        self.lines_left = 0
        self.samples: deque[bytes] = deque()
        self.samples_left = SAMPLES_PER_ROUND

    def note(self, worker: native_worker.Worker, count: int) -> None:
        """Take note of a batch whose `count` requests have been answered, before the next take."""
        self.requests += count
        if self.lines_left <= 0 and self.samples_left <= 0:
            return
        records, scratch = worker.records(count), worker.scratch
        lines = min(count, self.lines_left)
        if lines > 0:
            self.lines_left -= lines
            for index in range(lines):
                at = index * native_worker.RECORD_SIZE
                note = bytes(records[at : at + native_worker.RECORD_SIZE])
                self.lines.append(Noted(_peer(records, at, scratch), note))
        if self.samples_left > 0:
            step = (count + SAMPLES_PER_BATCH - 1) // SAMPLES_PER_BATCH
            # Not always the first of a batch: whoever wakes a worker is not a fair sample.
            for index in range(self.requests % step, count, step):
                self.samples_left -= 1
                self.samples.append(_peer(records, index * native_worker.RECORD_SIZE, scratch))
        if not self._awake.is_set():
            self._awake.set()


def _peer(records: Any, at: int, scratch: Any) -> bytes:
    """The sockaddr in front of the body of the request whose record is at `at`."""
    payload_at, kind = _PLACE(records, at)
    start = payload_at - (_PLAIN_PREFIX if kind == native_worker.KIND_PLAIN else _PREFIX)
    return bytes(scratch[start : start + ADDRESS_BYTES])
