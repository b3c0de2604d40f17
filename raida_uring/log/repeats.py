"""The limit on lines of one kind: a fault that repeats must not fill the log. Any thread."""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

# At most so many lines of one kind (one level and template) in so long; the rest are counted.
REPEATS_MAX: Final = 10
REPEATS_INTERVAL_S: Final = 10.0
_KINDS_MAX: Final = 256  # a handler may log any number of different templates


@dataclass
class _Kind:
    """Lines of one level and template, whatever their values."""

    since_s: float  # monotonic
    example: str  # the first line held back; the template until there is one
    count: int = 0

    @property
    def held_back(self) -> int:
        return max(0, self.count - REPEATS_MAX)


class Repeats(logging.Filter):
    """Holds back lines of one kind beyond REPEATS_MAX in REPEATS_INTERVAL_S.

    The requests' own lines have a limit of their own and pass.
    """

    def __init__(self) -> None:
        super().__init__()
        # Reentrant: the garbage collector may run meanwhile and finalize an object that logs.
        self._lock = threading.RLock()
        self._kinds: OrderedDict[tuple[int, str], _Kind] = OrderedDict()  # by level and template

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "unlimited", False):
            return True
        try:
            kind = (record.levelno, str(record.msg))
        except Exception:
            return True  # emit() handles it
        now, held_before = time.monotonic(), 0
        with self._lock:
            state = self._kinds.get(kind)
            if state is None or now - state.since_s >= REPEATS_INTERVAL_S:
                held_before = 0 if state is None else state.held_back
                self._kinds.pop(kind, None)  # the oldest stand first
                if len(self._kinds) >= _KINDS_MAX:
                    # In one step: between two of them a finalizer may log, and do the same.
                    self._kinds.popitem(last=False)
                state = self._kinds[kind] = _Kind(now, kind[1])
            state.count += 1
            held_back = state.held_back
        if held_back == 1:
            state.example = _text(record)  # without the lock: formatting a value may log
        if held_before:
            record.msg = f"{_text(record)} ({held_before} such lines held back before)"
            record.args = None
        return not held_back

    def sweep(self) -> list[tuple[int, str, int]]:
        """Forget the kinds whose interval has ended; return level, first line and count of those
        with lines held back."""
        now = time.monotonic()
        with self._lock:
            ended = [
                (kind, state)
                for kind, state in list(self._kinds.items())
                if now - state.since_s >= REPEATS_INTERVAL_S
            ]
            for kind, _ in ended:
                self._kinds.pop(kind, None)
        return [(kind[0], one.example, one.held_back) for kind, one in ended if one.held_back]


def _text(record: logging.LogRecord) -> str:
    """The message; the template if the arguments, which a handler may have given, do not fit."""
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)
