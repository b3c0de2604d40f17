"""A line for each request and connection, within a limit, and the busiest peers.

Threads that answer requests note them in taps (ffi/count/tap.h); the I/O thread notes connections
as they end. Everything else (names, words, writing) is done by this module's own thread. Requests
that need no worker (votes, plain echoes, refused headers) are counted elsewhere, and not noted.
"""

import threading
import time
from typing import Final

from raida_uring.errors import EngineError
from raida_uring.ffi import native
from raida_uring.ffi.native_tap import Note
from raida_uring.handlers.message import unpack_peer
from raida_uring.log import events
from raida_uring.observe.sketch import SpaceSaving
from raida_uring.protocol import status_name
from raida_uring.threads import Vital

ROUND_S: Final = 0.25  # longest delay of a line
IDLE_S: Final = 1.0  # between looks at connections that ended while no request came
PEERS_MAX: Final = 256  # addresses held; any with more than a 256th of the requests is among them
WINDOW_S: Final = 60.0

_TRANSPORTS: Final = ("udp", "tcp")


class RequestLog:
    """The thread that writes, and the peers of the last minutes. Any thread unless it says."""

    def __init__(self, engine: native.Engine, lines_per_s: int) -> None:
        """lines_per_s: about requests and connections together; 0: none. Before any worker is
        open: from now on what it answers is noted."""
        self._engine = engine
        self._taps = engine.taps()
        self.lines_per_s = lines_per_s
        self._stopping = False
        self._lock = threading.Lock()  # the sketches
        self._sketches: tuple[SpaceSaving[bytes], SpaceSaving[bytes]] = (
            SpaceSaving(PEERS_MAX),
            SpaceSaving(PEERS_MAX),
        )
        self._window_at = time.monotonic()
        self._previous_at = self._window_at
        self._seen = [0] * self._taps.count  # requests of each tap, up to the last round
        self._unsampled = [0] * self._taps.count  # of these: since the tap's last sample
        self._second = 0
        self._written = 0  # lines of this second
        self._held_back = 0  # requests and connections counted less lines written, this second
        self._closed_missed = 0  # ... that the data plane had no room to note, since start
        self._thread = Vital(target=self._run, name="requests", daemon=True)
        self._taps.begin(self._room())

    def start(self) -> None:
        """From now on lines are written."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was noted, and end. Once no worker notes any more; before the engine goes."""
        self._stopping = True
        self._taps.end()
        if self._thread.ident is not None:
            self._thread.join()

    def peers(self, count: int) -> tuple[float, list[tuple[str, float]]]:
        """How many seconds are looked back on, and the `count` busiest addresses with their
        requests, estimated from samples."""
        with self._lock:
            weights: dict[bytes, float] = {}
            for sketch in self._sketches:
                for key, weight, _ in sketch.top(PEERS_MAX):
                    weights[key] = weights.get(key, 0.0) + weight
            since = self._previous_at
        ordered = sorted(weights.items(), key=lambda item: -item[1])[:count]
        named = [(unpack_peer(key)[0], weight) for key, weight in ordered]
        return time.monotonic() - since, named

    # -- its own thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._taps.wait(ROUND_S if self._held_back > 0 else IDLE_S, ROUND_S)
            try:
                self._round()
            except Exception:  # the log goes on
                events.REQUEST_LOG_FAILED.log(exc_info=True)
        self._round()
        self._end_second()

    def _round(self) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._end_second()
            self._second = second
        # First: whatever is counted here and has been noted is written before the second ends.
        self._count_requests()
        for tap in range(self._taps.count):
            for note in self._taps.notes(tap):
                self._write_request(note)
        self._take_closed()
        self._taps.begin(self._room())

    def _room(self) -> int:
        if not self.lines_per_s or not events.REQUEST.is_enabled():
            return 0
        return max(0, self.lines_per_s - self._written)

    def _count_requests(self) -> None:
        now = time.monotonic()
        shares: list[tuple[bytes, float]] = []
        for tap in range(self._taps.count):
            requests = self._taps.requests(tap)
            new, self._seen[tap] = requests - self._seen[tap], requests
            self._held_back += new
            self._unsampled[tap] += new
            if samples := self._taps.samples(tap):
                each = self._unsampled[tap] / sum(sample.weight for sample in samples)
                shares += [(_without_port(peer), each * weight) for peer, weight in samples]
                self._unsampled[tap] = 0
        with self._lock:
            if now - self._window_at >= WINDOW_S:
                self._sketches = (SpaceSaving(PEERS_MAX), self._sketches[0])
                self._previous_at, self._window_at = self._window_at, now
            for peer, share in shares:
                self._sketches[0].add(peer, share)

    def _write_request(self, note: Note) -> None:
        if self._room() == 0:  # several workers counted on the same room
            return
        self._written += 1
        self._held_back -= 1
        host, port = unpack_peer(note.peer)
        events.REQUEST.log(
            group=note.group,
            command=note.code,
            peer=host,
            port=port,
            transport=_TRANSPORTS[note.transport],
            status=note.status,
            status_name=status_name(note.status),
            request_bytes=note.request_bytes,
            reply_bytes=note.reply_bytes,
            duration_ms=note.reply_us / 1000,
            duration_us=note.reply_us,
        )

    def _take_closed(self) -> None:
        try:
            closed, missed = self._engine.closed_connections()
        except EngineError:  # the engine is destroyed
            return
        self._held_back += len(closed) + missed - self._closed_missed
        self._closed_missed = missed
        for one in closed:
            if self._room() == 0:
                return
            self._written += 1
            self._held_back -= 1
            host, port = unpack_peer(one.peer) if any(one.peer) else ("an unknown peer", 0)
            events.CONNECTION.log(
                peer=host,
                port=port,
                reason=one.reason,
                requests=one.requests,
                duration_s=one.age_s,
                duration_us=round(one.age_s * 1e6),
            )

    def _end_second(self) -> None:
        held_back, self._written = max(0, self._held_back), 0
        self._held_back -= held_back  # a line can be ahead of its count, by a round
        if held_back > 0 and self.lines_per_s:
            events.REQUESTS_HELD_BACK.log(count=held_back, limit=self.lines_per_s)


def _without_port(peer: bytes) -> bytes:
    """The address alone: a client that uses a port per request is one peer."""
    return peer[:2] + bytes(2) + peer[4:]
