"""The one thread that writes the log, so that no other thread waits for a reader of the log.

Standard error may be a pipe that nobody empties, a stopped terminal, or a disk that does not
answer; journald may hang. Lines therefore go through a queue of bounded size to a thread that may
block, since no other thread waits for it; lines that find no room are dropped and counted. The
thread does not use O_NONBLOCK, which would change the descriptor for every process that shares it.
"""

import atexit
import contextlib
import io
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from raida_uring.threads import Vital

QUEUE_BYTES_MAX: Final = 8 << 20
# For lines below a warning: after an hour without a reader there is still room for warnings.
LESSER_BYTES_MAX: Final = QUEUE_BYTES_MAX // 2
_ITEM_BYTES: Final = 128  # of an item in the queue beyond its text
# The most that is written at once: the kernel writes it whole, even if another process, such as a
# predecessor, writes to the same pipe.
CHUNK_BYTES_MAX: Final = select.PIPE_BUF
# A thread that logs while the writer is idle waits until the line is written, but not longer than
# this: so the last line of a process that is about to be killed is seen.
PATIENCE_S: Final = 0.02
STANDSTILL_S: Final = 1.0  # at the end, how long to wait for a reader that reads nothing ...
FLUSH_MAX_S: Final = 5.0  # ... and for one that is slow
TELL_INTERVAL_S: Final = 10.0  # how often dropped lines are reported to a slow reader
_PRINTED_BYTES_MAX: Final = 1 << 16  # longer texts are queued in pieces
_LOOK_MS: Final = 1000


class Text(NamedTuple):
    """data: for the destination. spare: for standard error, if the destination refuses `data`."""

    data: bytes
    spare: bytes = b""


class Destination(Protocol):
    """Where text goes. Thread: the writer's, which may block."""

    def write(self, texts: Sequence[Text]) -> int:
        """Write `texts`, and return how many of them are lost."""


class Stream:
    """A descriptor, which other streams and other processes may share."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._cut = False  # the last line that was written is not whole

    def write(self, texts: Sequence[Text]) -> int:
        """As Destination."""
        data = (b"\n" if self._cut else b"") + b"".join(text.data for text in texts)
        done = 0
        while done < len(data):
            try:
                done += os.write(self._fd, data[done:] if done else data)
            except BlockingIOError:  # another process has set O_NONBLOCK
                waiting = select.poll()
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll(_LOOK_MS)
            except OSError:  # a full disk, a closed pipe
                if done:
                    self._cut = data[done - 1 : done] != b"\n"
                return _unwritten(texts, len(data) - done)
        self._cut = False
        return 0


def _unwritten(texts: Sequence[Text], left: int) -> int:
    """How many of `texts` the last `left` bytes belong to."""
    count = 0
    for text in reversed(texts):
        if left <= 0:
            break
        left -= len(text.data)
        count += 1
    return count


class Journal:
    """journald's socket: a datagram for each entry."""

    def __init__(self, path: str, spare: Stream) -> None:
        self._path = path
        self._spare = spare
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def write(self, texts: Sequence[Text]) -> int:
        """As Destination. What journald does not take (a traceback longer than a datagram, a socket
        that is gone) goes to standard error, which the journal reads as well."""
        lost = 0
        for text in texts:
            try:
                self._socket.sendto(text.data, self._path)
            except OSError:
                lost += self._spare.write([Text(text.spare)])
        return lost

    def __del__(self) -> None:
        self._socket.close()  # its last text has been written


class Writer:
    """The queue and its thread. Any thread."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        """tell: logs how many texts were dropped, once the log can be written again; called on the
        writer's thread."""
        self._tell = tell
        # Reentrant: the garbage collector may run meanwhile and finalize an object that logs.
        self._lock = threading.RLock()
        # Released when a text comes while the thread is idle, which makes it not idle. A condition
        # would forget a text that a finalizer logs on that very thread as it begins to wait.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._moved = threading.Condition(self._lock)
        self._waiting = 0  # for _moved
        self._queue: deque[tuple[Destination, Text, int]] = deque()
        self._queued_bytes = 0  # bytes, including the texts that are being written
        self._accepted = self._ended = 0  # texts that were queued; that were written or lost
        self._idle = False
        self._unreported = 0
        self._reported_s = 0.0
        self._given_up = -1  # `_ended` when flush() last gave up
        self._dead = False
        self._thread: Vital | None = None
        self.dropped = 0  # since the start of the process

    def start(self) -> None:
        """Start the thread, at the first call. Raises RuntimeError if it cannot start."""
        if self._thread is not None:
            return
        thread = Vital(target=self._run, name="log", daemon=True)
        # The node has not yet blocked the signals that it takes from a thread of its own.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        self._thread = thread
        atexit.register(self.flush)

    def put(self, to: Destination, text: Text, *, lesser: bool, patient: bool = False) -> None:
        """Queue `text`, or drop it.

        lesser: drop it earlier than other texts. patient: wait until it is written, for PATIENCE_S
        at most.
        """
        size = len(text.data) + len(text.spare) + _ITEM_BYTES
        with self._lock:
            if self._dead:  # the last lines of a node that ends because this thread has died
                self.dropped += to.write([text])
                return
            if self._queued_bytes + size > (LESSER_BYTES_MAX if lesser else QUEUE_BYTES_MAX):
                if not self._unreported:
                    self._reported_s = time.monotonic()
                self.dropped += 1
                self._unreported += 1
                return
            self._queued_bytes += size
            self._queue.append((to, text, size))
            self._accepted += 1
            if not self._idle:
                return
            self._idle = False
            self._wake.release()
            if patient:
                self._await(self._accepted, PATIENCE_S)

    def flush(self) -> bool:
        """Wait until everything is written, for FLUSH_MAX_S at most, or STANDSTILL_S if nothing
        moves; return whether it is. Does not wait again for a reader that has not moved since.
        Runs by itself when the process ends."""
        deadline = time.monotonic() + FLUSH_MAX_S
        with self._lock:
            while self._works() and not self._idle:
                ended = self._ended
                if ended != self._given_up:
                    self._await(ended + 1, STANDSTILL_S)
                if self._ended == ended or time.monotonic() > deadline:
                    self._given_up = self._ended
                    return self._idle
        return True

    def _works(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and thread is not threading.current_thread()

    def _await(self, ended: int, timeout_s: float) -> None:
        """With the lock."""
        if not self._works():
            return
        self._waiting += 1
        try:
            self._moved.wait_for(lambda: self._ended >= ended or self._idle, timeout_s)
        finally:
            self._waiting -= 1

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write()
        except BaseException:
            self._dead = True
            raise

    def _write(self) -> None:
        while True:
            to, texts, size = self._next()
            began = time.monotonic()
            lost = to.write(texts)
            now = time.monotonic()
            if now - began >= STANDSTILL_S:
                self._reported_s = now  # a reader that has come back first gets what waited for it
            unreported = 0
            with self._lock:
                self._queued_bytes -= size
                self._ended += len(texts)
                self.dropped += lost
                self._unreported += lost
                if self._waiting:
                    self._moved.notify_all()
                overdue = now - self._reported_s >= TELL_INTERVAL_S
                if self._unreported and not lost and (overdue or not self._queue):
                    unreported, self._unreported = self._unreported, 0
                    self._reported_s = now
            if unreported:
                self._tell(unreported)

    def _next(self) -> tuple[Destination, list[Text], int]:
        """Take what can be written at once, when there is something."""
        while True:
            with self._lock:
                if self._queue:
                    return self._take()
                self._idle = True
                if self._waiting:
                    self._moved.notify_all()
            self._wake.acquire()

    def _take(self) -> tuple[Destination, list[Text], int]:
        """Take what can be written at once. With the lock; the queue is not empty."""
        to, text, size = self._queue.popleft()
        texts, length = [text], len(text.data)
        while self._queue and self._queue[0][0] is to:
            length += len(self._queue[0][1].data)
            if length > CHUNK_BYTES_MAX:
                break
            _, text, more = self._queue.popleft()
            texts.append(text)
            size += more
        return to, texts, size


class _Passage(io.RawIOBase):
    """A file whose text goes through the queue."""

    def __init__(self, writer: Writer, fd: int, *, lesser: bool) -> None:
        super().__init__()
        self._writer = writer
        self._to = Stream(fd)
        self._fd = fd
        self._lesser = lesser

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        printed = bytes(data)
        for at in range(0, len(printed), _PRINTED_BYTES_MAX):
            text = Text(printed[at : at + _PRINTED_BYTES_MAX])
            self._writer.put(self._to, text, lesser=self._lesser)
        return len(printed)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


def divert(writer: Writer) -> None:
    """Send through `writer` whatever this process prints: a handler's text, a warning, a traceback
    of the interpreter. For good. Thread: main."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError):
            stream.flush()
        diverted = io.TextIOWrapper(
            _Passage(writer, fd, lesser=name == "stdout"),  # type: ignore[type-var]
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, diverted)
