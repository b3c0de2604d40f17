"""Logging to standard error: for a person on a terminal, or for the journal.

The package logs through `logging.getLogger("raida_uring")` and its children. Not for the I/O
thread, which counts instead.
"""

import logging
import os
import sys
from typing import Final, TextIO

_JOURNAL_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _TerminalFormatter(logging.Formatter):
    """`HH:MM:SS level message`, local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


class _JournalFormatter(logging.Formatter):
    """`<priority>message`: the journal has its own clock and takes the priority off the line."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_JOURNAL_PRIORITIES.get(record.levelno, 6)}>"
        # Each line is an entry of its own there: a traceback's must not lose the priority.
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send the package's log to `stream` (None: standard error) from `level` on.

    level: debug, info, warning or error. A further call replaces the earlier one's effect.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JournalFormatter() if _is_journal(stream) else _TerminalFormatter())
    logger = logging.getLogger("raida_uring")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd connected `stream` to the journal: JOURNAL_STREAM names its device:inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
