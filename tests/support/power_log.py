"""What a recorded disk was told, in one order: writes, flushes, and the notes of clients."""

import enum
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<BxxxIQQ")  # kind, bytes, offset on the disk, time in ns
_HEAD_BYTES: Final = 32


class Kind(enum.IntEnum):
    """What an event is."""

    WRITE = 1  # its bytes follow in the log
    ZEROS = 2  # a write of zeros: they do not
    FLUSH = 3  # whatever was written before it survives a power cut
    NOTE = 4  # by a client; its text follows


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a log. offset, size: on the disk, in bytes; at: of its bytes in the log;
    time_ns: of the monotonic clock; head: the first of its bytes."""

    kind: Kind
    offset: int
    size: int
    time_ns: int
    at: int
    note: str = ""
    head: bytes = b""


class LogWriter:
    """Thread: one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)

    def add(self, kind: Kind, offset: int = 0, data: bytes = b"") -> None:
        """Append an event that happens now."""
        if kind is Kind.WRITE and not data.strip(b"\0"):
            kind = Kind.ZEROS
        self._file.write(_HEAD.pack(kind, len(data), offset, time.monotonic_ns()))
        if kind in (Kind.WRITE, Kind.NOTE):
            self._file.write(data)

    def close(self) -> None:
        """Have all of it in the file."""
        self._file.close()


def read_log(path: Path) -> list[Event]:
    """Every event of a closed log."""
    events = []
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            number, size, offset, time_ns = _HEAD.unpack(head)
            kind, at, note, begun = Kind(number), file.tell(), "", b""
            if kind is Kind.NOTE:
                note = file.read(size).decode()
            elif kind is Kind.WRITE:
                begun = file.read(min(size, _HEAD_BYTES))
                file.seek(at + size)
            events.append(Event(kind, offset, size, time_ns, at, note, begun))
    return events
