"""The data plane by itself: what it refuses, and that a faulty worker cannot harm it."""

import errno
import os
import resource
import signal
import socket
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raida_uring.errors import EngineError
from raida_uring.ffi import native, native_worker
from raida_uring.ffi.native_store import DENOMINATIONS
from raida_uring.ffi.native_trees import TREE_SIZE
from raida_uring.observe.counters import violations
from raida_uring.protocol import build_request
from tests.support.net import udp_client
from tests.support.node import DEFAULT_TABLES, eventually
from tests.support.wire import status, vote

COMMAND = (5, 1)
SETTINGS = {
    "raida_id": 14,
    "coin_id": 6,
    "workers": 1,
    "slow_workers": 1,
    "batch_max": 128,
    "slow_queue_max": 4,
    "udp_contexts": 8,
    "udp_reserve": 4,
    "udp_payload_size": 1440,
    "udp_reply_factor_max": 0,
    "connections_max": 64,
    "body_bytes_max": 65536,
    "small_blocks": 16,
    "large_blocks": 4,
    "tcp_buffers": 16,
    "tcp_persistent": 0,
    "progress_timeout_ms": 2000,
    "header_timeout_ms": 5000,
    "body_timeout_ms": 15000,
    "write_timeout_ms": 15000,
    "idle_timeout_ms": 60000,
    "events_per_lap": 10000,
    "wait_max_ms": 10000,
    "busy_poll_us": 0,
    "io_cpu": -1,
}
TOKEN_BYTES = 8  # at the front of each record


def return_token(worker: native_worker.Worker, token: int) -> None:
    """Hand a token back unchanged."""
    native_worker._lib.ru_worker_return(worker._worker, token)


@contextmanager
def bound_listener() -> Iterator[native.Listener]:
    """A UDP and a TCP socket on one free loopback port."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(tcp.getsockname())
        tcp.setblocking(False)
        udp.setblocking(False)
        yield native.Listener(udp.fileno(), tcp.fileno(), wildcard=False)


@contextmanager
def running_engine(**changes: object) -> Iterator[tuple[native.Engine, tuple[str, int]]]:
    """An engine that serves without any worker thread; the test is the worker."""
    with bound_listener() as listener:
        backend = native.BACKENDS[str(DEFAULT_TABLES["network"]["backend"])]
        engine = native.Engine([listener], SETTINGS | {"backend": backend} | changes)
        engine.set_class(*COMMAND, native.CLASS_ORDINARY)
        loop = threading.Thread(target=engine.run)
        loop.start()
        try:
            engine.wait_ready(10_000)
            with socket.socket(fileno=os.dup(listener.udp_fd)) as named:
                endpoint = named.getsockname()
            yield engine, endpoint
        finally:
            engine.drain(1000)
            loop.join()
            assert violations(engine.counters()) == []
            engine.destroy()


def ask(client: socket.socket, endpoint: tuple[str, int]) -> None:
    """Send one request that only a worker can answer."""
    client.sendto(build_request(*COMMAND, b"payload", raida_id=14), endpoint)


def take_one(worker: native_worker.Worker) -> int:
    """Take a batch of one request and return its token."""
    assert worker.take(5000) == 1
    records, _ = worker.batch(1)
    return int.from_bytes(bytes(records)[:TOKEN_BYTES], "little")


def reply_one(worker: native_worker.Worker, status_byte: int = 250) -> None:
    """Answer the next request of the batch without a payload."""
    worker.reply(bytes([status_byte]), array("I", [0]), b"")


def refused(engine: native.Engine) -> int:
    """Tokens that the loop did not accept."""
    return engine.counters()["tokens_refused"]


def test_double_return_is_refused_and_counted() -> None:
    """A token that comes back twice is answered once; the second time affects no request."""
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        worker = engine.open_worker(0)
        ask(client, endpoint)
        token = take_one(worker)
        reply_one(worker)
        assert status(client.recv(2048)) == 250
        ask(client, endpoint)  # takes the same context: the most recently freed one
        second = take_one(worker)
        return_token(worker, token)
        eventually(lambda: refused(engine) == 1, what=engine.counters)
        assert second != token
        reply_one(worker, 241)
        assert status(client.recv(2048)) == 241
        worker.close()


@pytest.mark.parametrize("token", [0, 2**64 - 1, 1 << 32 | 0xFFFFFF, 7 << 32 | 3, 1 << 32 | 9])
def test_invented_token_is_refused_and_counted(token: int) -> None:
    """A worker cannot name a context that it was not given."""
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        worker = engine.open_worker(0)
        ask(client, endpoint)
        take_one(worker)
        return_token(worker, token)
        eventually(lambda: refused(engine) == 1, what=engine.counters)
        reply_one(worker)
        assert status(client.recv(2048)) == 250
        worker.close()


def test_worker_handles() -> None:
    """One handle per index; what a closing worker leaves undone is answered 252."""
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        worker = engine.open_worker(0)
        with pytest.raises(EngineError, match="opening worker 0"):
            engine.open_worker(0)
        with pytest.raises(EngineError, match="opening worker 2"):
            engine.open_worker(2)
        ask(client, endpoint)
        take_one(worker)
        with pytest.raises(EngineError, match="more requests than were taken"):
            worker.reply(bytes(2), array("I", [0, 0]), b"")
        worker.close()
        assert status(client.recv(2048)) == 252
        engine.open_worker(0).close()


def test_a_closed_worker_refuses() -> None:
    """What was freed is not read: that would end the process."""
    with running_engine() as (engine, _):
        worker = engine.open_worker(0)
        worker.close()
        for call in (
            lambda: worker.take(0),
            lambda: worker.batch(1),
            lambda: worker.records(1),
            lambda: worker.may_check(0),
            lambda: worker.checked(0, failed=True),
            lambda: reply_one(worker),
        ):
            with pytest.raises(TypeError):
                call()
        worker.close()


def test_take_ends_with_the_engine() -> None:
    """A waiting worker returns when the engine ends; nothing else has to wake it."""
    with running_engine() as (engine, _):
        worker = engine.open_worker(0)
        assert worker.take(0) == 0
        engine.drain(1000)
        assert worker.take(10_000) is None
        worker.close()


def test_published_roots_decide_votes() -> None:
    """The last published roots are the ones that are compared, all 480 bytes of them."""
    roots = bytes(range(240)) * 2
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        for published, claimed, verdict in (
            (None, bytes(480), 1),
            (roots, roots, 1),
            (roots, roots[:-1] + b"\0", 0),
            (bytes(480), roots, 0),
        ):
            if published is not None:
                engine.publish_roots(published)
            request = b"\x07" + claimed + b"nonce of 16 byte"
            client.sendto(request, endpoint)
            assert client.recv(64) == bytes([verdict]) + b"nonce of 16 byte"
        with pytest.raises(ValueError, match="480"):
            engine.publish_roots(b"short")


def test_published_trees_decide_votes() -> None:
    """By the roots of all trees, of which some are new."""

    def tree(root: int) -> bytes:
        return bytes(TREE_SIZE - 32) + bytes((root,)) * 32

    shown = dict.fromkeys(range(DENOMINATIONS), 0)
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        for changed in (dict.fromkeys(shown, 9), {3: 1}, {14: 2, 0: 4}, {3: 5}, {}):
            shown |= changed
            engine.shown().publish({number: tree(root) for number, root in changed.items()})
            roots = b"".join(bytes((root,)) * 32 for root in shown.values())
            for claimed, verdict in ((roots, 1), (roots[:-1] + b"\0", 0)):
                client.sendto(b"\x07" + claimed + b"nonce of 16 byte", endpoint)
                assert client.recv(64) == bytes([verdict]) + b"nonce of 16 byte"
        assert engine.shown().version == 5
        for wrong in ({15: tree(0)}, {-1: tree(0)}, {3: bytes(32)}):
            with pytest.raises(ValueError, match="are not the nodes of tree"):
                engine.shown().publish(wrong)


def test_two_engines_in_one_process() -> None:
    """All state belongs to an engine: two do not affect each other."""
    with running_engine() as (one, here), running_engine() as (two, there):
        with udp_client(here) as client:
            for _ in range(3):
                client.sendto(vote(), here)
                client.recv(64)
            client.sendto(vote(), there)
            client.recv(64)
        eventually(lambda: one.counters()["udp_received"] == 3)
        eventually(lambda: two.counters()["udp_received"] == 1)


def test_histograms_count_what_workers_answered() -> None:
    with running_engine() as (engine, endpoint), udp_client(endpoint) as client:
        worker = engine.open_worker(0)
        for _ in range(5):
            ask(client, endpoint)
            take_one(worker)
            reply_one(worker)
            client.recv(2048)
        histogram = engine.histogram("udp")
        assert sum(histogram.counts) == 5
        assert list(histogram.floors_ns) == sorted(set(histogram.floors_ns))
        assert sum(engine.histogram("tcp").counts) == 0
        worker.close()


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "change",
    [
        {"workers": 0},
        {"slow_workers": 200},
        {"udp_reserve": 0},
        {"udp_contexts": 40_000},
        {"udp_payload_size": 100},
        {"tcp_buffers": 17},
        {"large_blocks": 3},
        {"connections_max": 0},
        {"backend": 3},
    ],
)
def test_sizes_out_of_range_are_refused(change: dict[str, int]) -> None:
    with bound_listener() as listener, pytest.raises(EngineError) as caught:
        native.Engine([listener], SETTINGS | change)
    assert caught.value.number == errno.EINVAL


@pytest.mark.any_backend
def test_failed_set_up_leaves_nothing_behind() -> None:
    """Memory that cannot be reserved is an error at the start; descriptors and mappings go back."""

    def holdings() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            arenas = sum("raida-uring" in line for line in maps)
        return len(os.listdir("/proc/self/fd")), arenas

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with bound_listener() as listener:
            before = holdings()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
            for _ in range(10):
                with pytest.raises(EngineError, match="reserving") as caught:
                    native.Engine([listener], SETTINGS)
                assert caught.value.number == errno.EFBIG
            assert holdings() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
