"""Power cuts: a file system on a disk that is recorded, and what any cut leaves of it.

The file system is in a loop device over a file that support/power_disk.py serves and records. All
of it stands in a mount namespace, with a tmpfs for images and logs: nothing is left once the
processes in there have ended, which die with the one that started them. From one recording follow
any number of cuts. Of the writes since the last flush before a cut a disk may have done some, each
block by itself, or none.
"""

import bisect
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.support.command_line import environment, output_of
from tests.support.needs import DIES_WITH_US, namespace, require
from tests.support.node import STOP_TIMEOUT_S, eventually
from tests.support.power_log import Event, Kind, read_log

FILE_SYSTEM: Final = os.environ.get("FILE_SYSTEM", "ext4")
_MAKE: Final = {
    "ext4": (
        *("mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-J", "size=8"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"),
    ),
    "xfs": ("mkfs.xfs", "-q", "-K"),
}
DISK_MIB: Final = 512  # a base, three large segments of a journal, what the file system needs
_MACHINE_MIB: Final = 5 * DISK_MIB + 512  # sparse images, and a log
_BLOCK: Final = 4096  # what survives a cut, or does not, by itself
_SECTOR: Final = 512  # what a disk writes at once, at the least

# As root, and where loop devices work.
_SETUP: Final = """
for device in /dev/fuse /dev/loop-control; do
    [ -c $device ] || { echo "no $device" >&2; exit 1; }
done
mount -t tmpfs -o size="$1"m,mode=0700 tmpfs "$0" && cd "$0" && mkdir fuse disk cut &&
truncate -s 1M trial && mkfs.ext4 -q -O ^has_journal trial &&
mount -o loop trial cut && umount cut && rm trial"""

Loss = Literal["all", "none", "some", "torn"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where disks are recorded and cut. inside: its directory as processes in the namespace see it;
    outside: as all others do; enter: what to put in front of a command."""

    inside: Path
    outside: Path
    enter: tuple[str, ...]
    namespace: int = 0  # its inode

    def run(self, *command: object) -> str:
        """Standard output of a program in the namespace, which succeeds."""
        return output_of(*self.enter, *command)

    @contextmanager
    def mounted(self, image: Path, directory: str) -> Iterator[Path]:
        """Mount the file system in `image`, a path inside, for a `with` block; its path outside."""
        self.run("mount", "-o", "loop,noatime", image, self.inside / directory)
        try:
            yield self.outside / directory
        finally:
            self.run("umount", self.inside / directory)


@contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """Skips the calling test, by name, where it cannot be had."""
    for program in ("fusermount3", "mkfs.ext4"):
        require(program)
    directory.mkdir()
    with namespace("mount", _SETUP, directory, _MACHINE_MIB) as pid:
        outside = Path(f"/proc/{pid}/root{directory}")
        enter = (*DIES_WITH_US, "nsenter", f"--target={pid}", "--mount", f"--wd={directory}")
        yield Machine(directory, outside, enter, Path(f"/proc/{pid}/ns/mnt").stat().st_ino)


def make_disk(made: Machine, name: str, content: Path) -> None:
    """Make an image, whose file system has what is in a directory."""
    image = made.outside / name
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    output_of(*_MAKE[FILE_SYSTEM], image)
    with made.mounted(made.inside / name, "cut"):
        # Zeros stay zeros: a hole would be filled by the first write.
        made.run("cp", "-a", "--sparse=never", f"{content}/.", made.inside / "cut")


# -- record ---------------------------------------------------------------------------------------


class Recorder:
    """A disk that is being recorded. mounted: where, inside. Thread: any."""

    def __init__(self, mounted: Path, notes: int) -> None:
        self.mounted = mounted
        self._notes = notes

    def note(self, text: str) -> None:
        """Returns once it stands in the log, behind all that the disk has been told so far."""
        os.pwrite(self._notes, text.encode(), 0)


@dataclass(frozen=True, slots=True)
class Recording:
    """image: the disk before its first event, outside; log: where the events' bytes are."""

    image: Path
    log: Path
    events: Sequence[Event]


def recording(made: Machine, name: str) -> Recording:
    """What was recorded under this name."""
    log = made.outside / f"{name}.log"
    return Recording(made.outside / f"{name}.before", log, read_log(log))


@contextmanager
def recorded(made: Machine, image: str, name: str) -> Iterator[Recorder]:
    """Mount an image as a recorded disk for a `with` block; recording() has the rest."""
    work, log = made.outside / f"{name}.now", made.inside / f"{name}.log"
    copy(made.outside / image, made.outside / f"{name}.before")
    copy(made.outside / image, work)
    fuse = made.inside / "fuse"
    program = (sys.executable, "-m", "tests.support.power_disk")
    with ExitStack() as stack:
        # In a namespace of its own. If it were the last process in one with the mounted disk, its
        # end would unmount that, and wait for writes that it no longer serves.
        server = stack.enter_context(
            subprocess.Popen(
                [*made.enter, "unshare", "--mount"]
                + [str(one) for one in (*program, fuse, made.inside / work.name, log)],
                env=environment(),
            )
        )
        served = Path(f"/proc/{server.pid}/root{fuse}")
        stack.callback(_end, server, fuse)
        notes = served / "notes"
        eventually(lambda: notes.exists() or server.poll() is not None)
        assert server.poll() is None, "the recorded disk did not start"
        stack.enter_context(made.mounted(served / "disk", "disk"))
        descriptor = os.open(notes, os.O_WRONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        yield Recorder(made.inside / "disk", descriptor)
    work.unlink()


def _end(server: subprocess.Popen[bytes], fuse: Path) -> None:
    if server.poll() is None:
        output_of("nsenter", f"--target={server.pid}", "--mount", "umount", fuse)
        try:
            server.wait(STOP_TIMEOUT_S)
        finally:
            server.kill()


def copy(source: Path, target: Path) -> None:
    """A copy with the same holes."""
    with source.open("rb") as read, target.open("wb") as written:
        size = os.fstat(read.fileno()).st_size
        written.truncate(size)
        for start, end in _filled(read.fileno(), 0, size):
            written.seek(start)
            at = start
            while at < end:
                at += os.sendfile(written.fileno(), read.fileno(), at, end - at)


def _filled(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    while start < end:
        try:
            first = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # there is no more
            return
        if first >= end:
            return
        start = min(end, os.lseek(descriptor, first, os.SEEK_HOLE))
        yield first, start


# -- cut ------------------------------------------------------------------------------------------


class Player:
    """Makes the images that cuts leave, in rising order. Thread: one.

    keeps: the disk does every `keeps`th flush and only says that it did the others.
    """

    def __init__(self, made: Machine, source: Recording, *, keeps: int = 1) -> None:
        self._events = source.events
        flushes = [at for at, event in enumerate(source.events) if event.kind is Kind.FLUSH]
        self._flushes = flushes[keeps - 1 :: keeps]
        self._durable = made.outside / "durable"
        copy(source.image, self._durable)
        self._applied = 0  # events before this one are in there
        self._log = source.log
        self._made = made

    def cut(self, before: int, loss: Loss, draw: random.Random) -> Path:
        """The power fails before event number `before`: the disk's image, inside."""
        flushed = 1 + max((at for at in self._flushes if at < before), default=-1)
        assert flushed >= self._applied
        with self._durable.open("r+b", buffering=0) as image, self._log.open("rb") as log:
            for event in self._events[self._applied : flushed]:
                _write(image.fileno(), event, log.fileno(), [(0, event.size)])
        self._applied = flushed
        left = self._made.outside / "left"
        copy(self._durable, left)
        chance = {"all": 1.0, "none": 0.0}.get(loss) or draw.choice((0.1, 0.5, 0.9))
        with left.open("r+b", buffering=0) as image, self._log.open("rb") as log:
            for event in self._events[flushed:before] if loss != "none" else ():
                parts = _surviving(event.size, chance, draw, torn=loss == "torn")
                _write(image.fileno(), event, log.fileno(), parts)
        return self._made.inside / "left"


def _surviving(
    size: int, chance: float, draw: random.Random, *, torn: bool
) -> Iterator[tuple[int, int]]:
    """Parts of a write that a disk did: from, to. torn: also of a block only some sectors."""
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        if draw.random() >= chance:
            continue
        if not torn or draw.random() < 0.5:
            yield start, end
        else:
            for sector in range(start, end, _SECTOR):
                if draw.random() < chance:
                    yield sector, min(sector + _SECTOR, end)


def _write(
    image: int, event: Event, log: int, parts: Iterator[tuple[int, int]] | list[tuple[int, int]]
) -> None:
    """Do these parts of a write."""
    if event.kind is Kind.WRITE:
        for start, end in parts:
            os.pwrite(image, os.pread(log, end - start, event.at + start), event.offset + start)
    elif event.kind is Kind.ZEROS:
        for start, end in parts:
            at = event.offset
            for first, last in list(_filled(image, at + start, at + end)):  # holes are zeros
                os.pwrite(image, bytes(last - first), first)


# -- where to cut ---------------------------------------------------------------------------------

# Moments of cuts: right after a client has noted an answer; before a flush; before one of those
# that most was written before; right after one that ends a transaction of the base; before the
# first note; after the last.
MOMENTS: Final = ("anywhere", "told", "flush", "full", "base", "start", "end")

_LMDB_MAGIC: Final = (0xBEEFC0DE).to_bytes(4, "little")
_LMDB_MAGIC_AT: Final = 16  # of a page that says which transaction was the last


def moments(events: Sequence[Event], moment: str) -> Sequence[int]:
    """The events before which the power may fail; none if there is no such moment."""
    notes = [at for at, event in enumerate(events) if event.kind is Kind.NOTE]
    flushes = [at for at, event in enumerate(events) if event.kind is Kind.FLUSH]
    if moment == "told":
        return [at + 1 for at in notes if events[at].note.split()[1] in ("done", "seen")]
    if moment == "flush":
        return flushes
    if moment == "full":
        told = {
            flush: sum(event.size for event in events[start:flush] if event.kind is not Kind.NOTE)
            for start, flush in itertools.pairwise([0, *flushes])
        }
        return sorted(sorted(flushes, key=told.__getitem__)[-max(1, len(flushes) // 20) :])
    if moment == "base":
        ends = {bisect.bisect(flushes, at) for at in _transactions(events)}
        return [flushes[end] + 1 for end in sorted(ends) if end < len(flushes)]
    if moment == "start":
        return range(1, notes[0] + 1)
    if moment == "end":
        return range(notes[-1] + 1, len(events) + 1)
    return range(1, len(events) + 1)


def _transactions(events: Sequence[Event]) -> Iterator[int]:
    """The writes that end LMDB's."""
    for at, event in enumerate(events):
        if event.head[_LMDB_MAGIC_AT:].startswith(_LMDB_MAGIC):
            yield at
