"""Where the log goes, from which level on, and what else goes there. Any thread unless it says."""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from raida_uring.log import events
from raida_uring.log.forms import FORMS, journal_entry
from raida_uring.log.repeats import Repeats
from raida_uring.log.writer import Destination, Journal, Stream, Text, Writer, divert

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import TracebackType

LEVELS: Final = ("debug", "info", "warning", "error")
JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")

_logger: Final = logging.getLogger("raida_uring")
_repeats = Repeats()
_writer: Final = Writer(lambda count: events.LINES_DROPPED.log(count=count))

flush: Final = _writer.flush


class _Handler(logging.Handler):
    """Forms a line on the thread that logs it, and passes it to the writer."""

    def __init__(self, to: Destination, form: str, encoding: str) -> None:
        super().__init__()
        self._to = to
        self._form = FORMS[form]
        self._encoding = encoding

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock that logging has for each handler, since the writer has its own."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self._form(record)}\n".encode(self._encoding, "backslashreplace")
            to_journal = isinstance(self._to, Journal)
            text = Text(journal_entry(record), line) if to_journal else Text(line)
        except Exception:
            self.handleError(record)
            return
        of_requests = getattr(record, "unlimited", False)
        lesser = record.levelno < logging.WARNING
        _writer.put(self._to, text, lesser=lesser, patient=not of_requests)


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
    standard = Stream(stream.fileno())
    entries = form == "journal" and journal.exists()
    to: Destination = Journal(str(journal), standard) if entries else standard
    _writer.start()
    _repeats = Repeats()
    handler = _Handler(to, form, stream.encoding or "utf-8")
    handler.addFilter(_repeats)
    for former in _logger.handlers:
        former.close()
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    set_level(level)


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd connected `stream` to the journal: JOURNAL_STREAM names its device:inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_level(level: str) -> None:
    """Write lines from `level`, one of LEVELS, on."""
    _logger.setLevel(level.upper())


def current_level() -> str:
    """The least severity written."""
    return logging.getLevelName(_logger.level).lower()


def sweep() -> None:
    """Log what was held back in intervals that have ended. Call about once a second."""
    for level, message, count in _repeats.sweep():
        events.REPEATED.log(level=level, count=count, line=message)


def dropped() -> int:
    """How many lines were dropped since the start of the process."""
    return _writer.dropped


# --- What would go to standard error directly -------------------------------------------------


def guard_process() -> None:
    """Send to the log, or through its queue, what would otherwise go to standard error directly:
    uncaught exceptions, warnings of loggers without a handler, and what other code prints. For
    good; after configure(). Thread: main."""
    divert(_writer)
    logging.lastResort = _LastResort(logging.WARNING)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


class _LastResort(logging.Handler):
    """For loggers outside the package: asyncio's, a handler's module's."""

    def handle(self, record: logging.LogRecord) -> bool:
        return any(one.handle(record) for one in _logger.handlers)


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: "TracebackType | None"
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)  # what a person expects to see
        return
    events.NODE_FAILED.log(error=error, exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        log_death(args.thread, args.exc_value)


def log_death(thread: threading.Thread | None, error: BaseException | None) -> None:
    """Log that `thread` has ended by `error`."""
    name = "?" if thread is None else thread.name
    events.THREAD_DIED.log(thread=name, error=error, exc_info=error)


def _unraisable(args: "UnraisableHookArgs") -> None:
    events.UNRAISABLE.log(
        what=args.err_msg or "an exception that nobody can catch, in",
        place=args.object,
        error=args.exc_value,
        exc_info=args.exc_value,
    )
