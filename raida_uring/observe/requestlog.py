"""A line for each request and connection, within a limit, and the busiest peers.

Workers note requests through a tap (workers/tap.py); the data plane notes connections as they end.
Everything else (names, words, writing) is done by this module's own thread. Requests that the I/O
thread answers alone (votes, plain echoes, refused headers) are counted, not noted.
"""

import struct
import threading
import time
from typing import Final

from raida_uring.errors import EngineError
from raida_uring.ffi import native, native_worker
from raida_uring.handlers.message import unpack_peer
from raida_uring.log import events
from raida_uring.observe.sketch import SpaceSaving
from raida_uring.protocol import status_name
from raida_uring.threads import Vital
from raida_uring.workers.tap import SAMPLES_PER_ROUND, Noted, Tap

ROUND_S: Final = 0.25  # longest delay of a line
IDLE_S: Final = 1.0  # between looks at connections that ended while no request came
PEERS_MAX: Final = 256  # addresses held; any with more than a 256th of the requests is among them
WINDOW_S: Final = 60.0

_NOTE: Final = struct.Struct(native_worker.NOTE_FORMAT)
_TRANSPORTS: Final = ("udp", "tcp")


class RequestLog:
    """The thread that writes, and the peers of the last minutes. Any thread unless it says."""

    def __init__(self, engine: native.Engine, lines_per_s: int) -> None:
        """lines_per_s: about requests and connections together; 0: none."""
        self._engine = engine
        self.lines_per_s = lines_per_s
        self._awake = threading.Event()
        self._stopping = False
        self._taps: list[Tap] = []
        self._lock = threading.Lock()  # the sketches
        self._sketches: tuple[SpaceSaving[bytes], SpaceSaving[bytes]] = (
            SpaceSaving(PEERS_MAX),
            SpaceSaving(PEERS_MAX),
        )
        self._window_at = time.monotonic()
        self._previous_at = self._window_at
        self._seen = 0  # requests of taps, up to the last round
        self._second = 0
        self._written = 0  # lines of this second
        self._held_back = 0  # requests and connections without a line, this second
        self._closed_missed = 0  # ... that the data plane had no room to note, since start
        self._thread = Vital(target=self._run, name="requests", daemon=True)

    def tap(self) -> Tap:
        """For one worker. Before start()."""
        tap = Tap(self._awake)
        tap.lines_left = self._room()
        self._taps.append(tap)
        return tap

    def start(self) -> None:
        """From now on lines are written."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was noted, and end. Once no worker notes any more; before the engine goes."""
        self._stopping = True
        self._awake.set()
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
            busy = self._awake.wait(ROUND_S if self._held_back else IDLE_S)
            if busy and not self._stopping:
                time.sleep(ROUND_S)  # gather a round's worth
            self._awake.clear()
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
        self._take_samples()
        for tap in self._taps:
            while tap.lines:
                self._write_request(tap.lines.popleft())
        self._take_closed()
        for tap in self._taps:
            tap.lines_left = self._room()
            tap.samples_left = SAMPLES_PER_ROUND

    def _room(self) -> int:
        if not self.lines_per_s or not events.REQUEST.is_enabled():
            return 0
        return max(0, self.lines_per_s - self._written)

    def _take_samples(self) -> None:
        now = time.monotonic()
        seen = sum(tap.requests for tap in self._taps)
        self._held_back += seen - self._seen
        new, self._seen = seen - self._seen, seen
        samples = []
        for tap in self._taps:
            while tap.samples:
                samples.append(_without_port(tap.samples.popleft()))
        with self._lock:
            if now - self._window_at >= WINDOW_S:
                self._sketches = (SpaceSaving(PEERS_MAX), self._sketches[0])
                self._previous_at, self._window_at = self._window_at, now
            for peer in samples:
                self._sketches[0].add(peer, new / len(samples))

    def _write_request(self, noted: Noted) -> None:
        if self._room() == 0:  # several workers counted on the same room
            return
        self._written += 1
        self._held_back -= 1
        _, command, _, transport, size, reply_size, reply_us, status = _NOTE.unpack(noted.note)
        host, port = unpack_peer(noted.peer)
        group, code = command >> 8, command & 0xFF
        events.REQUEST.log(
            group=group,
            command=code,
            peer=host,
            port=port,
            transport=_TRANSPORTS[transport],
            status=status,
            status_name=status_name(status),
            request_bytes=size,
            reply_bytes=reply_size,
            duration_ms=reply_us / 1000,
            duration_us=reply_us,
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
        held_back, self._held_back, self._written = self._held_back, 0, 0
        if held_back > 0 and self.lines_per_s:
            events.REQUESTS_HELD_BACK.log(count=held_back, limit=self.lines_per_s)


def _without_port(peer: bytes) -> bytes:
    """The address alone: a client that uses a port per request is one peer."""
    return peer[:2] + bytes(2) + peer[4:]
