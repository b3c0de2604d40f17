"""Logging to standard error: plain for a person, JSON for a collector, fields for the journal.

The package logs through `logging.getLogger("raida_uring")`, a handler's module through a child of
it. Every line of the package is an event of events.py. A thread that logs never waits for a reader
of the log (writer.py). Not for the I/O thread, which counts instead.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from raida_uring.log import events
from raida_uring.log.writer import Destination, Journal, Stream, Text, Writer, divert

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import TracebackType

LEVELS: Final = ("debug", "info", "warning", "error")
JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")

# At most so many lines of one kind (one level and template) in so long; the rest are counted.
REPEATS_MAX: Final = 10
REPEATS_INTERVAL_S: Final = 10.0
_KINDS_MAX: Final = 256  # a handler may log any number of different templates

_JOURNAL_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def _event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", ""))


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


class _PlainFormatter(logging.Formatter):
    """`HH:MM:SS level message`, local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


class _PriorityFormatter(logging.Formatter):
    """`<priority>message`: the journal has its own clock and takes the priority off the line."""

    def format(self, record: logging.LogRecord) -> str:
        return _with_priority(record, super().format(record))


def _with_priority(record: logging.LogRecord, text: str) -> str:
    prefix = f"<{_JOURNAL_PRIORITIES.get(record.levelno, 6)}>"
    # Each line is an entry of its own there: a traceback's must not lose the priority.
    return "\n".join(prefix + line for line in text.splitlines())


class _JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, event, message, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": _event_of(record),
            "message": record.getMessage(),
        }
        for name, value in _fields_of(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Handler(logging.Handler):
    """Formats a line on the thread that logs it, and passes it to the writer."""

    def __init__(self, to: Destination, formatter: logging.Formatter, encoding: str) -> None:
        super().__init__()
        self._to = to
        self._encoding = encoding
        self.setFormatter(formatter)

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock that logging has for each handler, since the writer has its own."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Any thread."""
        try:
            text = self._text(record)
        except Exception:
            self.handleError(record)
            return
        of_requests = getattr(record, "unlimited", False)
        lesser = record.levelno < logging.WARNING
        _writer.put(self._to, text, lesser=lesser, patient=not of_requests)

    def _text(self, record: logging.LogRecord) -> Text:
        return Text(f"{self.format(record)}\n".encode(self._encoding, "backslashreplace"))


class _JournalHandler(_Handler):
    """Sends entries with fields of their own to journald, a datagram each."""

    def __init__(self, path: Path, stream: Stream, encoding: str) -> None:
        super().__init__(Journal(str(path), stream), logging.Formatter(), encoding)

    def _text(self, record: logging.LogRecord) -> Text:
        message = self.format(record)
        spare = f"{_with_priority(record, message)}\n"
        return Text(self._entry(record, message), spare.encode(self._encoding, "backslashreplace"))

    @staticmethod
    def _entry(record: logging.LogRecord, message: str) -> bytes:
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_JOURNAL_PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "raida-uring",
            "RAIDA_EVENT": _event_of(record),
            "THREAD_NAME": record.threadName or "",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
        }
        for name, value in _fields_of(record).items():
            fields[f"RAIDA_{name.upper()}"] = str(value)
        entry = bytearray()
        for name, text in fields.items():
            if not text:
                continue
            raw = text.encode(errors="replace")
            if b"\n" in raw:  # a value with a line feed must be sent with its length
                entry += name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
            else:
                entry += name.encode() + b"=" + raw + b"\n"
        return bytes(entry)


@dataclass
class _Kind:
    """Lines of one level and template, whatever their values."""

    since_s: float  # monotonic
    example: str  # the first line held back; the template until there is one
    written: int = 1
    held_back: int = 0


class _Repeats(logging.Filter):
    """Holds back lines of one kind beyond REPEATS_MAX in REPEATS_INTERVAL_S. Any thread.

    The requests' own lines have a limit of their own and pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[int, str], _Kind] = {}  # by level and template

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "unlimited", False):
            return True
        try:
            kind = (record.levelno, str(record.msg))
        except Exception:
            return True  # emit() handles it
        now = time.monotonic()
        held_back, first = 0, False
        with self._lock:
            state = self._kinds.get(kind)
            if state is None or now - state.since_s >= REPEATS_INTERVAL_S:
                held_back = state.held_back if state is not None else 0
                state = None
                self._kinds.pop(kind, None)
                if len(self._kinds) >= _KINDS_MAX:
                    self._kinds.pop(next(iter(self._kinds)))
                self._kinds[kind] = _Kind(now, kind[1])
            elif state.written < REPEATS_MAX:
                state.written += 1
                return True
            else:
                state.held_back += 1
                first = state.held_back == 1
        if state is not None:
            if first:
                state.example = _text(record)  # without the lock: formatting a value may log
            return False
        if held_back:
            record.msg = f"{_text(record)} ({held_back} such lines held back before)"
            record.args = None
        return True

    def sweep(self) -> list[tuple[int, str, int]]:
        """Forget the kinds whose interval has ended; return level, first line and count of those
        with lines held back."""
        now = time.monotonic()
        ended = []
        with self._lock:
            for kind, state in list(self._kinds.items()):
                if now - state.since_s >= REPEATS_INTERVAL_S:
                    del self._kinds[kind]
                    if state.held_back:
                        ended.append((kind[0], state.example, state.held_back))
        return ended


def _text(record: logging.LogRecord) -> str:
    """The message; the template if the arguments, which a handler may have given, do not fit."""
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


class _LastResort(logging.Handler):
    """For loggers outside the package: asyncio's, a handler's module's."""

    def handle(self, record: logging.LogRecord) -> bool:
        return any(one.handle(record) for one in logging.getLogger("raida_uring").handlers)


def _tell_dropped(count: int) -> None:
    """Thread: the writer's."""
    events.LINES_DROPPED.log(count=count)


_repeats = _Repeats()
_writer = Writer(_tell_dropped)


def configure(
    level: str,
    stream: TextIO | None = None,
    *,
    form: str = "auto",
    journal: Path = JOURNAL_SOCKET,
) -> None:
    """Send the package's log to `stream` (None: standard error) from `level` on.

    level: one of LEVELS. form: as `[log] format`; auto is journal where systemd connected `stream`
    to it, otherwise plain, which suits a person, a file and a container's log alike. A further
    call replaces the earlier one's effect.
    """
    global _repeats
    stream = sys.stderr if stream is None else stream
    if form == "auto":
        form = "journal" if _is_journal(stream) else "plain"
    to, encoding = Stream(stream.fileno()), stream.encoding or "utf-8"
    if form == "journal" and journal.exists():
        handler: _Handler = _JournalHandler(journal, to, encoding)
    else:
        formatters = {"journal": _PriorityFormatter, "json": _JsonFormatter}
        handler = _Handler(to, formatters.get(form, _PlainFormatter)(), encoding)
    _writer.start()
    _repeats = _Repeats()
    handler.addFilter(_repeats)
    logger = logging.getLogger("raida_uring")
    for former in logger.handlers:
        former.close()
    logger.handlers[:] = [handler]
    logger.propagate = False
    set_level(level)


def flush() -> bool:
    """Wait until everything that was logged is written; return whether it is. Gives up after one
    second without progress, or five in all. Runs by itself when the process ends. Any thread."""
    return _writer.flush()


def dropped() -> int:
    """How many lines were dropped since the start of the process. Any thread."""
    return _writer.dropped


def guard_process() -> None:
    """Send to the log, or through its queue, what would otherwise go to standard error directly:
    uncaught exceptions, warnings of loggers without a handler, and what other code prints. For
    good; after configure(). Thread: main."""
    divert(_writer)
    logging.lastResort = _LastResort(logging.WARNING)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: "TracebackType | None"
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)  # what a person expects to see
        return
    events.NODE_FAILED.log(error=error, exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    log_death(args.thread, args.exc_value)


def log_death(thread: threading.Thread | None, error: BaseException | None) -> None:
    """Log that `thread` has ended by `error`. Any thread."""
    events.THREAD_DIED.log(
        thread="?" if thread is None else thread.name, error=error, exc_info=error
    )


def _unraisable(args: "UnraisableHookArgs") -> None:
    error = args.exc_value
    events.UNRAISABLE.log(
        what=args.err_msg or "an exception that nobody can catch, in",
        place=args.object,
        error=error,
        exc_info=error,
    )


def set_level(level: str) -> None:
    """Write lines from `level`, one of LEVELS, on. Any thread."""
    logging.getLogger("raida_uring").setLevel(level.upper())


def current_level() -> str:
    """The least severity written. Any thread."""
    return logging.getLevelName(logging.getLogger("raida_uring").level).lower()


def sweep() -> None:
    """Log what was held back in intervals that have ended. Call about once a second. Any thread."""
    for level, message, count in _repeats.sweep():
        events.REPEATED.log(level=level, count=count, line=message)


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd connected `stream` to the journal: JOURNAL_STREAM names its device:inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
