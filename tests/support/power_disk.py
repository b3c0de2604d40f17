"""A block device's file over FUSE that records what it is told: a program.

    python -m tests.support.power_disk MOUNTPOINT IMAGE LOG

MOUNTPOINT has two files then. `disk` is IMAGE, to be used through a loop device; `notes` takes what
clients write to it, one note a call. LOG gets writes, flushes and notes in the order in which they
arrived: a call returns once it is recorded, so what a client notes after an answer stands behind
everything that the disk was told before it. Ends when MOUNTPOINT is unmounted; LOG is whole then.

One thread. Needs libfuse 3 (Debian package fuse3), and root.
"""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

import mfusepy

from tests.support.power_log import Kind, LogWriter

DISK, NOTES = "/disk", "/notes"
NOTE_BYTES_MAX = 4096


class RecordedDisk(mfusepy.Operations):  # type: ignore[misc]  # mfusepy has no types
    """The two files."""

    use_ns = True  # of times in attributes

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._log = LogWriter(log)
        self._sizes = {DISK: os.fstat(self._image).st_size, NOTES: NOTE_BYTES_MAX}

    def destroy(self, path: str) -> None:
        """At the unmount."""
        self._log.close()
        os.close(self._image)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """What stat(2) says."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path not in self._sizes:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._sizes[path]}

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names."""
        return [".", "..", *(name[1:] for name in self._sizes)]

    def open(self, path: str, flags: int) -> int:
        """Nothing to keep."""
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """From the image, which has every write."""
        return os.pread(self._image, size, offset) if path == DISK else bytes(size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Do and record it."""
        if path == NOTES:
            self._log.add(Kind.NOTE, offset, data)
        else:
            os.pwrite(self._image, data, offset)
            self._log.add(Kind.WRITE, offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """A flush of the device."""
        if path == DISK:
            self._log.add(Kind.FLUSH)
        return 0


def main() -> None:
    """Serve until the unmount."""
    mountpoint, image, log = sys.argv[1:]
    disk = RecordedDisk(Path(image), Path(log))
    mfusepy.FUSE(disk, mountpoint, foreground=True, nothreads=True, fsname="power_disk")


if __name__ == "__main__":
    main()
