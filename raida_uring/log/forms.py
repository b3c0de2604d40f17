"""The forms of a line: plain for a person, JSON for a collector, priorities and entries for the
journal. Pure. Any thread."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tab and line feed
_formatter: Final = logging.Formatter()  # the message, then the traceback


def _event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", ""))


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _plain(record: logging.LogRecord) -> str:
    """`HH:MM:SS level message`, local time."""
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    line = f"{clock} {record.levelname.lower()} {_formatter.format(record)}"
    return _CONTROLS.sub("?", line)  # a terminal might obey them


def _with_priority(record: logging.LogRecord) -> str:
    """`<priority>message`: the journal has its own clock and takes the priority off the line."""
    prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
    # Each line is an entry of its own there: a traceback's must not lose the priority.
    return "\n".join(prefix + line for line in _formatter.format(record).splitlines())


def _as_json(record: logging.LogRecord) -> str:
    """One object per line: time (UTC), level, event, message, then the event's fields."""
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
        line["traceback"] = _formatter.formatException(record.exc_info)
    return json.dumps(line, ensure_ascii=False, default=str)


FORMS: Final[Mapping[str, Callable[[logging.LogRecord], str]]] = {
    "plain": _plain,
    "json": _as_json,
    "journal": _with_priority,
}
"""The text of a line, without the line feed, by `[log] format`."""


def journal_entry(record: logging.LogRecord) -> bytes:
    """The datagram for journald, with fields of its own."""
    fields = {
        "MESSAGE": _formatter.format(record),
        "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
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
        raw = text.encode(errors="replace")
        if b"\n" in raw:  # a value with a line feed must be sent with its length
            entry += name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        elif raw:
            entry += name.encode() + b"=" + raw + b"\n"
    return bytes(entry)
