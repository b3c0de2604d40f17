"""The node's HTTP side: metrics, health, readiness, status; and what strangers can do to it.

What must hold: one scrape balances to the last request whatever goes on; health tells of the I/O
thread, readiness of the node's ability to take more; no client of this server holds it up.
"""

import ctypes
import errno
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from raida_uring.errors import StartError
from raida_uring.observe import prometheus, snapshot
from raida_uring.observe.prometheus import FAMILIES, PROCESS_METRICS
from raida_uring.observe.readiness import OVERLOAD_WAIT_S, REFUSALS_GAP_S, unready
from raida_uring.observe.status import for_operators
from raida_uring.observe.web import (
    CONNECTIONS_MAX,
    EXCHANGE_TIMEOUT_S,
    HEAD_BYTES_MAX,
    SHARE_INTERVAL_S,
)
from tests.support.handlers import HOLD, MIRROR, NAP, RAISE, SLOW_HOLD, gate
from tests.support.http import ask, sample_value, samples_of, scrape, status_json, sum_of
from tests.support.net import (
    PATIENCE,
    Endpoint,
    ipv6_loopback_works,
    reset,
    tcp_ask,
    tcp_connect,
    turned_away,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import (
    HANDLERS,
    REPOSITORY,
    Node,
    config_text,
    daemon,
    eventually,
    running_node,
)
from tests.support.store import make_recorded_store
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, vote

HTTP = {"enabled": True}
PATHS = ("/", "/status.json", "/metrics", "/healthz", "/readyz")
PATHS_BESIDE_THE_PAGE = tuple(path[1:] for path in PATHS[1:])
SCRAPES = 60

PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WAIT_ALL = 0x40000000  # __WALL: threads of others too


def url_of(node: Node) -> str:
    assert node.server.url is not None
    return node.server.url


def place_of(url: str) -> Endpoint:
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return place.hostname, place.port


# --- Metrics ------------------------------------------------------------------------------------


@contextmanager
def mixed_load(node: Node) -> Iterator[None]:
    """Fast and slow requests, junk, resets and unfinished requests, over UDP and TCP."""
    stop = threading.Event()

    def udp(seed: int) -> None:
        draw = random.Random(seed)
        kinds = [vote(), request(ECHO_COMMAND), request(VERSION_COMMAND), request(NAP)]
        with udp_client(node.endpoint) as client:
            client.setblocking(False)
            while not stop.wait(0.001):
                for _ in range(8):
                    junk = draw.randbytes(draw.choice((0, 5, 31, 200)))
                    client.sendto(draw.choice([*kinds, junk]), node.endpoint)
                try:
                    while client.recv(65536):
                        pass
                except BlockingIOError:
                    pass

    def tcp(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.wait(0.002):
            what = draw.randrange(4)
            if what == 0:
                with tcp_connect(node.endpoint) as client:
                    client.sendall(request(MIRROR)[: draw.randrange(1, 40)])
            elif what == 1:
                client = tcp_connect(node.endpoint)
                client.sendall(request(NAP))
                reset(client)
            else:
                tcp_ask(node.endpoint, request(draw.choice((NAP, VERSION_COMMAND, ECHO_COMMAND))))

    threads = [
        threading.Thread(target=kind, args=(7 + n,)) for n, kind in enumerate((udp, tcp, tcp))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_every_scrape_balances_under_mixed_load(backend: str) -> None:
    laws = (
        ("raida_udp_received_total", "raida_udp_answered_total", "raida_udp_dropped_total", "udp"),
        ("raida_tcp_requests_total", "raida_tcp_answered_total", "raida_tcp_dropped_total", "tcp"),
    )
    busiest = {"udp": 0.0, "tcp": 0.0}
    with running_node(http=HTTP, handlers=HANDLERS) as node, mixed_load(node):
        before: dict[str, float] = {}
        for _ in range(SCRAPES):
            seen = scrape(url_of(node))
            for received, answered, dropped, transport in laws:
                in_flight = sample_value(seen, f"raida_{transport}_in_flight")
                busiest[transport] = max(busiest[transport], in_flight)
                ended = sample_value(seen, answered) + sum_of(seen, dropped)
                assert sample_value(seen, received) == ended + in_flight
            opened = sample_value(seen, "raida_connections_open")
            closed = sum_of(seen, "raida_connections_closed_total")
            assert sample_value(seen, "raida_connections_accepted_total") == closed + opened
            for name in ("raida_udp_received_total", "raida_tcp_requests_total"):
                assert sample_value(seen, name) >= before.get(name, 0.0)
                before[name] = sample_value(seen, name)
        assert before["raida_udp_received_total"] > SCRAPES
        assert before["raida_tcp_requests_total"] > SCRAPES
        assert sum_of(seen, "raida_udp_dropped_total") > 0
        assert sum_of(seen, "raida_tcp_dropped_total") > 0
        assert max(busiest.values()) > 0, "no scrape met a request in flight: no test of the law"


@pytest.mark.any_backend
def test_every_documented_metric_is_there_and_no_other(tmp_path: Path, backend: str) -> None:
    store = {"path": str(make_recorded_store(tmp_path / "store"))}
    server = {"synchronization_enabled": True}
    with running_node(http=HTTP, handlers=HANDLERS, store=store, server=server) as node:
        tcp_ask(node.endpoint, request(VERSION_COMMAND))  # else no command has been answered yet
        answer = ask(url_of(node), "/metrics")
        seen = samples_of(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
    expected = {
        name + suffix for name, family in FAMILIES.items() for suffix in suffixes[family.kind]
    }
    shown = {name for name, _ in seen if name.startswith("raida_")}
    assert shown == expected
    assert {name for name, _ in seen} - shown == set(PROCESS_METRICS)
    for name, labels in seen:
        family = FAMILIES.get(name) or FAMILIES.get(name.rpartition("_")[0])
        if family is not None:
            allowed = set(family.labels) | ({"le"} if family.kind == "histogram" else set())
            assert {label for label, _ in labels} == (
                allowed if name.endswith("_bucket") else allowed - {"le"}
            )
    for name, family in FAMILIES.items():
        assert f"# TYPE {name} {family.kind}\n" in answer.text
        assert f"# HELP {name} {family.meaning}\n" in answer.text
    assert sample_value(seen, "raida_coins", denomination="0") >= 0
    assert sample_value(seen, "raida_store_size_bytes") == 2048 << 20
    assert sample_value(seen, "raida_roots_published_total") >= 1


def test_histograms_count_every_request_of_workers(backend: str) -> None:
    with running_node(http=HTTP, handlers=HANDLERS) as node:
        with udp_client(node.endpoint) as client:
            for _ in range(50):
                udp_exchange(client, node.endpoint, request(NAP))
        for _ in range(20):
            tcp_ask(node.endpoint, request(VERSION_COMMAND))
        node.wait_for_counts(udp_answered=50, tcp_answered=20, udp_in_flight=0, tcp_in_flight=0)
        seen = scrape(url_of(node))
        for transport, count in (("udp", 50), ("tcp", 20)):
            name = "raida_request_seconds"
            assert sample_value(seen, f"{name}_count", transport=transport) == count
            buckets = [
                (float(dict(labels)["le"]), number)
                for (one, labels), number in seen.items()
                if one == f"{name}_bucket" and dict(labels)["transport"] == transport
            ]
            counts = [number for _, number in sorted(buckets)]
            assert counts == sorted(counts)
            assert counts[-1] == count
        naps = {
            float(dict(labels)["le"]): number
            for (one, labels), number in seen.items()
            if one == "raida_request_seconds_bucket" and dict(labels)["transport"] == "udp"
        }
        assert all(number == 0 for edge, number in naps.items() if edge < 0.002), "a nap is 2 ms"
        assert sample_value(seen, "raida_request_seconds_sum", transport="udp") >= 50 * 0.002
        assert sample_value(seen, "raida_worker_lock_wait_seconds_total") > 0


def test_replies_are_counted_by_command_and_status(backend: str) -> None:
    """Every request that reached a worker: those that a handler failed at, and bodies refused
    before one was asked, included."""
    damaged = bytearray(request(VERSION_COMMAND, b"x"))
    damaged[32] ^= 1  # the challenge
    with running_node(http=HTTP, handlers=HANDLERS) as node:
        for _ in range(3):
            udp_ask(node.endpoint, request(VERSION_COMMAND))
        tcp_ask(node.endpoint, request(VERSION_COMMAND))
        udp_ask(node.endpoint, bytes(damaged))
        udp_ask(node.endpoint, request(RAISE))
        for _ in range(5):
            udp_ask(node.endpoint, request(NAP))
        udp_ask(node.endpoint, request(ECHO_COMMAND))  # no worker's business
        seen = scrape(url_of(node))
        page = json.loads(ask(url_of(node), "/status.json").text)
    replies = {
        (dict(labels)["command"], dict(labels)["name"], dict(labels)["status"]): number
        for (name, labels), number in seen.items()
        if name == "raida_command_replies_total"
    }
    nap, failing = (f"{group}/{code}" for group, code in (NAP, RAISE))
    assert replies == {
        ("0/1", "version", "250"): 4,
        ("0/1", "version", "37"): 1,
        (nap, "nap", "250"): 5,
        (failing, "raise_error", "252"): 1,
    }
    spent = {
        dict(labels)["command"]: seconds
        for (name, labels), seconds in seen.items()
        if name == "raida_command_seconds_total"
    }
    assert set(spent) == {"0/1", nap, failing}
    assert spent[nap] >= 5 * 0.002
    assert sum(replies.values()) == sample_value(seen, "raida_dispatched_total")
    assert {one["command"]: one["statuses"] for one in page["commands"]} == {
        "0/1": {"250": 4, "37": 1},
        nap: {"250": 5},
        failing: {"252": 1},
    }


@pytest.mark.any_backend
def test_what_the_kernel_drops_is_told(backend: str) -> None:
    """More than the receive buffer holds arrives while the I/O thread cannot run."""
    udp = {"receive_buffer_bytes": 4096}
    with running_node(http=HTTP, udp=udp) as node, udp_client(node.endpoint) as client:
        address = "{}:{}".format(*node.endpoint)

        def drops() -> float:
            for _ in range(2000):
                client.sendto(request(ECHO_COMMAND), node.endpoint)
            seen = scrape(url_of(node))
            return sample_value(seen, "raida_udp_kernel_drops_total", address=address)

        eventually(lambda: drops() > 0, timeout_s=30.0 * PATIENCE)


def test_the_interpreter_lock_is_waited_for(backend: str) -> None:
    """Threads that compute hold the lock for a switch interval (5 ms) at a time."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(3)]
    with running_node(http=HTTP, handlers=HANDLERS) as node:
        for thread in threads:
            thread.start()
        try:

            def wait_s() -> float:
                """Of each of 20 batches of one request, on average."""
                before = node.counters()
                for _ in range(20):
                    tcp_ask(node.endpoint, request(VERSION_COMMAND))
                after = node.counters()
                waited_ns = after["worker_lock_wait_ns"] - before["worker_lock_wait_ns"]
                return waited_ns / 1e9 / (after["batches"] - before["batches"])

            # A core that is taken away spoils a round; without contention it is microseconds.
            eventually(lambda: wait_s() > 0.0005, timeout_s=30.0 * PATIENCE)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        counted_ns = node.counters()["worker_lock_wait_ns"]
        seen = scrape(url_of(node))
        assert sample_value(seen, "raida_worker_lock_wait_seconds_total") >= counted_ns / 1e9


# --- Health and readiness -----------------------------------------------------------------------


@pytest.mark.any_backend
def test_an_idle_node_is_healthy_and_ready(backend: str) -> None:
    with running_node(http=HTTP, network={"wait_max_ms": 600_000}) as node:
        for _ in range(20):  # the loop sleeps for minutes: only being woken shows that it lives
            assert ask(url_of(node), "/healthz").status == 200
            assert ask(url_of(node), "/readyz").status == 200


def test_not_ready_while_handlers_hold_every_context(backend: str) -> None:
    held = 4
    with (
        running_node(
            http=HTTP, handlers=HANDLERS, udp={"contexts": held}, workers={"count": 8}
        ) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            for _ in range(held):
                client.sendto(request(HOLD), node.endpoint)
            eventually(lambda: ask(url_of(node), "/readyz").status == 503)
            answer = ask(url_of(node), "/readyz")
            assert "handlers hold all 4 UDP contexts" in answer.text
            assert ask(url_of(node), "/healthz").status == 200
            assert sample_value(scrape(url_of(node)), "raida_overloaded") == 1
            assert sample_value(scrape(url_of(node)), "raida_ready") == 0
        for _ in range(held):
            client.recv(65536)
        eventually(lambda: ask(url_of(node), "/readyz").status == 200)
        assert sample_value(scrape(url_of(node)), "raida_overloaded") == 0


def test_not_ready_while_a_request_waits_too_long(backend: str) -> None:
    with (
        running_node(http=HTTP, handlers=HANDLERS, workers={"count": 1, "batch_max": 1}) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            client.sendto(request(HOLD), node.endpoint)
            eventually(lambda: gate.inside == 1)
            assert ask(url_of(node), "/readyz").status == 200, "working is not waiting"
            client.sendto(request(HOLD), node.endpoint)
            eventually(lambda: ask(url_of(node), "/readyz").status == 503)
            assert "has waited" in ask(url_of(node), "/readyz").text
            seen = scrape(url_of(node))
            assert sample_value(seen, "raida_queued", lane="ordinary") == 1
            assert sample_value(seen, "raida_workers_busy", lane="ordinary") == 1
            oldest = sample_value(seen, "raida_queue_oldest_seconds", lane="ordinary")
            assert oldest > OVERLOAD_WAIT_S
        for _ in range(2):
            client.recv(65536)
        eventually(lambda: ask(url_of(node), "/readyz").status == 200)


def test_a_full_slow_lane_leaves_the_node_ready(backend: str) -> None:
    """It refuses by itself, with 160; the other lanes go on."""
    with (
        running_node(
            http=HTTP,
            handlers=HANDLERS,
            workers={"slow_count": 1},
            limits={"slow_queue_max": 1},
        ) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            client.sendto(request(SLOW_HOLD), node.endpoint)
            eventually(lambda: gate.inside == 1)
            client.sendto(request(SLOW_HOLD), node.endpoint)

            def waited_s() -> float:
                seen = scrape(url_of(node))
                return sample_value(seen, "raida_queue_oldest_seconds", lane="slow")

            eventually(lambda: waited_s() > OVERLOAD_WAIT_S)
            assert ask(url_of(node), "/readyz").status == 200
        for _ in range(2):
            client.recv(65536)


def test_draining_is_healthy_and_not_ready(backend: str) -> None:
    with ExitStack() as stack:
        node = stack.enter_context(running_node(http=HTTP, handlers=HANDLERS))
        closed = stack.enter_context(gate.closed())
        assert closed is None
        client = stack.enter_context(tcp_connect(node.endpoint))
        client.sendall(request(HOLD))
        eventually(lambda: gate.inside == 1)
        node.server.begin_drain(60_000)
        answer = ask(url_of(node), "/readyz")
        assert (answer.status, answer.text) == (503, "draining\n")
        assert ask(url_of(node), "/healthz").status == 200
        seen = scrape(url_of(node))
        assert sample_value(seen, "raida_draining") == 1
        assert sample_value(seen, "raida_ready") == 0
        assert sample_value(seen, "raida_tcp_in_flight") == 1
        assert status_json(url_of(node))["node"]["unready"] == ["draining"]


def test_not_ready_while_connections_are_refused(backend: str) -> None:
    most = 3
    with (
        running_node(http=HTTP, limits={"connections_max": most}, tcp={"persistent": True}) as node,
        ExitStack() as stack,
    ):
        url = url_of(node)
        for _ in range(most):
            assert ask(url, "/readyz").status == 200
            stack.enter_context(tcp_connect(node.endpoint))
            node.wait_for(lambda now: now["connections_accepted"] == now["connections_open"])
        node.wait_for_counts(connections_open=most)
        full = f"all {most} of connections_max are open\n"
        answer = ask(url, "/readyz")
        assert (answer.status, answer.text) == (503, full)
        assert turned_away(node.endpoint)
        eventually(lambda: ask(url, "/readyz").text.startswith("connections have been refused"))
        answer = ask(url, "/readyz")
        assert (answer.status, answer.text) == (
            503,
            f"connections have been refused for 0 s: {full}",
        )
        assert sample_value(scrape(url), "raida_ready") == 0
        assert unready(node.server.observe()) == [answer.text.rstrip()]
        stack.close()
        node.wait_for_counts(connections_open=0)
        assert "refused" in ask(url, "/readyz").text, "a moment is no spell"
        eventually(
            lambda: ask(url, "/readyz").status == 200,
            timeout_s=REFUSALS_GAP_S + 5 * PATIENCE,
        )


LISTEN_WITHOUT = """
import os, resource
from raida_uring import log
from raida_uring.config import HttpTable
from raida_uring.errors import StartError
from raida_uring.observe.web import Web

log.configure("info")
log.guard_process()
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
config = HttpTable(port=0, listen=("127.0.0.1",))
Web(config, None, None).stop()  # what Python keeps from now on is open
before = os.listdir("/proc/self/fd")
for free in range(10):
    taken = [os.dup(0) for _ in range(free)]
    end = os.dup(0)
    for fd in [*taken, end]:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (end, most))
    try:
        Web(config, None, None).stop()
        print("served")
    except (StartError, OSError) as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert os.listdir("/proc/self/fd") == before, free
"""


@pytest.mark.any_backend
def test_too_few_descriptors_for_http_leave_nothing_behind() -> None:
    """A node tries again and again: neither descriptors nor tracebacks may add up."""
    ended = subprocess.run(
        [sys.executable, "-c", LISTEN_WITHOUT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    told = ended.stdout.splitlines()
    assert len(told) == 10
    assert told[-1] == "served"
    assert all("Too many open files" in line for line in told[: told.index("served")])


def test_not_ready_without_a_descriptor(tmp_path: Path, backend: str) -> None:
    """And says so, though it could not even take the connection that asks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tcp = {"header_timeout_ms": 500}
    with daemon(tmp_path, http={"enabled": True, "port": port}, tcp=tcp) as started:
        url = f"http://127.0.0.1:{port}/"
        eventually(lambda: _answers(url))
        process = psutil.Process(started.process.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)

        def exhausted() -> bool:
            """What an exchange before had may have been freed since it was looked at."""
            used = {int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")}
            free = min(set(range(len(used) + 1)) - used)
            process.rlimit(psutil.RLIMIT_NOFILE, (free, before[1]))
            return ask(url, "/readyz").status == 503

        eventually(exhausted)
        for _ in range(3):
            answer = ask(url, "/readyz")
            assert (answer.status, answer.text) == (
                503,
                "no descriptor is left, raise LimitNOFILE=\n",
            )
            assert ask(url, "/healthz").status == 200
            assert ask(url, "/metrics").status == 200
            assert status_json(url)["process"] is None

        def refused() -> bool:
            """The descriptor of the exchange before may serve a client first."""
            assert turned_away(started.endpoint)
            return "have been refused for" in ask(url, "/readyz").text

        if backend == "epoll":  # a ring accepts under the limit that was when it was told to
            eventually(refused, timeout_s=20 * PATIENCE)
        process.rlimit(psutil.RLIMIT_NOFILE, before)
        eventually(
            lambda: ask(url, "/readyz").status == 200,
            timeout_s=REFUSALS_GAP_S + 5 * PATIENCE,
        )


def _answers(url: str) -> bool:
    try:
        return ask(url, "/readyz").status == 200
    except OSError:
        return False


@pytest.mark.any_backend
def test_status_and_metrics_count_contexts_alike(backend: str) -> None:
    held = 3
    with (
        running_node(http=HTTP, handlers=HANDLERS, workers={"count": 1}) as node,
        udp_client(node.endpoint) as client,
    ):
        with gate.closed():
            for _ in range(held):
                client.sendto(request(HOLD), node.endpoint)
            node.wait_for(lambda now: now["udp_received"] == held)

            def used() -> tuple[object, ...]:
                memory: Any = for_operators(node.server.observe())["memory"]
                seen = scrape(url_of(node))
                return (
                    memory["udp_contexts"],
                    sample_value(seen, "raida_pool_used", pool="udp_contexts"),
                    sample_value(seen, "raida_pool_size", pool="udp_contexts"),
                )

            most = node.server.config.udp.contexts
            eventually(lambda: used() == ([held, most], held, most), what=used)
        for _ in range(held):
            client.recv(65536)
        pools = status_json(url_of(node))["pools"]
        assert 0 < pools["large_blocks"]["lent"] <= pools["large_blocks"]["used"]


def io_thread_of(pid: int) -> int:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text() == "raida-io\n":
            return int(task.name)
    raise AssertionError("no I/O thread")


@contextmanager
def stopped_thread(thread_id: int) -> Iterator[None]:
    """One thread stopped as a debugger does it; the rest of its process runs on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def trace(how: int) -> None:
        if libc.ptrace(how, thread_id, None, None) != 0:
            number = ctypes.get_errno()
            if number in (errno.EPERM, errno.ENOSYS):
                pytest.skip("ptrace is refused here")
            raise OSError(number, "ptrace")

    trace(PTRACE_SEIZE)
    trace(PTRACE_INTERRUPT)
    os.waitpid(thread_id, WAIT_ALL)
    try:
        yield
    finally:
        trace(PTRACE_DETACH)


@pytest.mark.any_backend
def test_a_standing_io_thread_is_unhealthy(tmp_path: Path, backend: str) -> None:
    port = 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with daemon(tmp_path, http={"enabled": True, "port": port}) as started:
        url = f"http://127.0.0.1:{port}/"
        eventually(lambda: f"status page, metrics and health on {url}" in started.stderr())
        assert ask(url, "/healthz").status == 200
        with stopped_thread(io_thread_of(started.process.pid)):
            answer = ask(url, "/healthz")
            assert (answer.status, answer.text) == (503, "the I/O thread has not turned for 1 s\n")
            answer = ask(url, "/readyz")
            assert (answer.status, answer.text) == (503, "the I/O thread does not turn\n")
            assert ask(url, "/metrics").status == 200
        eventually(lambda: ask(url, "/healthz").status == 200)
        assert ask(url, "/readyz").status == 200
        started.signal(signal.SIGTERM)
        assert started.process.wait(30) == 0


# --- The server itself ----------------------------------------------------------------------------


@pytest.mark.any_backend
def test_methods_and_paths(backend: str) -> None:
    with running_node(http=HTTP) as node:
        url = url_of(node)
        for path in PATHS:
            got, head = ask(url, path), ask(url, path, "HEAD")
            assert got.status == head.status == 200, path
            assert head.body == b""
            assert int(got.headers["content-length"]) == len(got.body) > 0
            assert got.headers["connection"] == "close"
            assert got.headers["cache-control"] == "no-store"
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                refused = ask(url, path, method)
                assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert ask(url, "/metrics?x=1").status == 200
        for path in ("/admin", "//", "/../etc/passwd", "/%2e%2e", "/metrics/"):
            assert ask(url, path).status == 404


@pytest.mark.any_backend
def test_the_page_needs_nobody_else(backend: str) -> None:
    with running_node(http=HTTP) as node:
        answer = ask(url_of(node), "/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        links = [part.split('"')[0] for part in answer.text.split('href="')[1:]]
        assert all(link in ("data:,", *PATHS_BESIDE_THE_PAGE) for link in links), links
        assert "src=" not in answer.text
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
        told = status_json(url_of(node))
        assert told["node"]["endpoints"] == ["{}:{}".format(*node.endpoint)]
        assert told["node"]["tier"] == node.server.tier
        assert told["store"] is None
        assert told["roots"] is None


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET / HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 "),
        (b"PRI * HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\xff\x00\x80 / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 431 "),
        (b"a" * (4 * HEAD_BYTES_MAX), b"HTTP/1.1 431 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000, b"HTTP/1.1 405 "),
    ],
    ids=range(10),
)
def test_whatever_is_sent_gets_an_answer(backend: str, sent: bytes, expected: bytes) -> None:
    with running_node(http=HTTP) as node, tcp_connect(place_of(url_of(node))) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        assert answer.startswith(expected)


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET http://127.0.0.1:1/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET HTTP://localhost/healthz?x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
        (b"GET http://[::1]:80/healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET http://127.0.0.1 HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET http://127.0.0.1?x HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"\r\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"\n\r\n\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET /healthz HTTP/1.0\n\n", 200),
        (b"GET /healthz HTTP/1.1\nHost: node\n\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: node\n\r\n", 200),
        (b"GET  /healthz\tHTTP/1.0\r\n\r\n", 200),
        (b"GET /%68ealthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n", 200),
        (b"GET /healthz\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: [x]\r\n\r\n", 400),
        (b"GET http:///healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://me@127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET ftp://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://evil.example/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 421),
    ],
    ids=range(25),
)
def test_every_form_of_a_request_is_answered_at_once(
    backend: str, sent: bytes, status: int
) -> None:
    """Though the client waits with its connection open."""
    with running_node(http=HTTP) as node, tcp_connect(place_of(url_of(node))) as client:
        started = time.monotonic()
        client.sendall(sent)
        assert client.recv(64).startswith(b"HTTP/1.1 %d " % status)
        assert time.monotonic() - started < EXCHANGE_TIMEOUT_S


@pytest.mark.any_backend
def test_whose_name_leads_here_is_told_nothing(backend: str) -> None:
    """A page of another site, in the browser of somebody who may ask: DNS rebinding."""
    with running_node(http={**HTTP, "hosts": ["Raida.Example.", "x.example"]}) as node:

        def status(host: str, path: str) -> int:
            with tcp_connect(place_of(url_of(node))) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return int(client.recv(64).split()[1])

        for path in PATHS:
            for own in ("127.0.0.1", "10.1.2.3:8080", "[::1]", "[fe80::1%25eth0]:1", "localhost"):
                assert status(own, path) == 200, own
            for own in ("LocalHost:1", "a.localhost", "raida", "RAIDA.example:80", "x.example."):
                assert status(own, path) == 200, own
            for other in (
                "evil.example",
                "x.example.evil",
                "127.0.0.1.evil.example",
                "y.x.example",
            ):
                assert status(other, path) == 421, other


@pytest.mark.any_backend
def test_several_scrapers_cost_no_more_than_one(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits at the same time shares an answer; nobody gets one made before they asked."""
    made: list[float] = []
    make = prometheus.exposition

    def counted(seen: snapshot.Snapshot) -> bytes:
        made.append(time.monotonic())
        return make(seen)

    monkeypatch.setattr(prometheus, "exposition", counted)
    answers: list[float] = []
    with running_node(http=HTTP) as node:
        until = time.monotonic() + 1.0

        def scrape_on() -> None:
            while time.monotonic() < until:
                asked = time.monotonic()
                assert ask(url_of(node), "/metrics").status == 200
                answers.append(asked)

        threads = [threading.Thread(target=scrape_on) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        udp_ask(node.endpoint, request(ECHO_COMMAND))
        node.wait_for_counts(udp_answered=1)
        assert sample_value(scrape(url_of(node)), "raida_udp_answered_total") == 1
    assert all(later - one >= SHARE_INTERVAL_S * 0.9 for one, later in pairwise(made))
    assert len(answers) > len(made)
    assert max(answers) < max(made)


@pytest.mark.any_backend
def test_several_addresses(backend: str) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", *(["::1"] if ipv6_loopback_works() else [])]
    with running_node(http={**HTTP, "listen": hosts}) as node:
        assert node.server.website.web is not None
        urls = node.server.website.web.urls
        assert [place_of(url)[0] for url in urls] == hosts
        assert len({place_of(url)[1] for url in urls}) == 1
        for url in urls:
            assert ask(url, "/readyz").status == 200
    for url in urls:
        with pytest.raises(OSError):  # noqa: PT011  refused; nobody listens
            tcp_connect(place_of(url))


@pytest.mark.any_backend
def test_what_a_process_may_see_of_itself_is_enough(tmp_path: Path, backend: str) -> None:
    """/proc as a unit with ProcSubset=pid has it."""
    (tmp_path / "node.toml").write_text(config_text({"http": HTTP}))
    code = (
        "import sys; from raida_uring import config; from raida_uring.observe import process\n"
        "from raida_uring.node import server\n"
        "from tests.support.http import scrape\n"
        "node = server.Server(config.load(sys.argv[1])); node.start()\n"
        "print(*(name for name, _ in scrape(node.url)), *process.host_errors()); node.stop()"
    )
    script = 'mount -t proc -o subset=pid proc /proc && test ! -e /proc/stat || exit 77; exec "$@"'
    ended = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"),
            *(sys.executable, "-c", code, str(tmp_path / "node.toml")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip(f"no namespaces with a /proc of their own: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    told = set(ended.stdout.split())
    assert set(PROCESS_METRICS) <= told
    assert {"raida_host_udp_buffer_errors_total", "ipv4"} <= told


@pytest.mark.any_backend
def test_metrics_of_the_process_are_those_of_this_process(backend: str) -> None:
    with running_node(http=HTTP) as node:
        seen, process = scrape(url_of(node)), psutil.Process()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert sample_value(seen, "process_max_fds") == limit
        assert abs(sample_value(seen, "process_start_time_seconds") - process.create_time()) < 2
        assert abs(sample_value(seen, "process_open_fds") - process.num_fds()) < 20
        memory = process.memory_info()
        assert sample_value(seen, "process_resident_memory_bytes") == pytest.approx(memory.rss, 0.2)
        assert sample_value(seen, "process_virtual_memory_bytes") == pytest.approx(memory.vms, 0.2)
        assert 0 < sample_value(seen, "process_cpu_seconds_total") <= sum(process.cpu_times()[:2])


@pytest.mark.any_backend
def test_idle_and_slow_clients_hold_nobody_up(backend: str) -> None:
    """As many as there may be, each silent or sending a byte now and then: who comes later is
    served all the same, the oldest make way, and none outlives its time."""
    with running_node(http=HTTP) as node, ExitStack() as stack:
        place = place_of(url_of(node))
        clients = [stack.enter_context(tcp_connect(place)) for _ in range(2 * CONNECTIONS_MAX)]
        started = time.monotonic()
        for _ in range(CONNECTIONS_MAX // 2):
            assert ask(url_of(node), "/healthz").status == 200
        assert time.monotonic() - started < EXCHANGE_TIMEOUT_S
        assert len(select.select(clients, [], [], 0)[0]) >= CONNECTIONS_MAX  # closed
        waiting = clients[-CONNECTIONS_MAX // 2 :]

        def ended() -> bool:
            for client in waiting[::2]:
                try:
                    client.send(b"G")
                except OSError:
                    pass  # its time is up
            return len(select.select(waiting, [], [], 0)[0]) == len(waiting)

        assert not ended(), "they were not held open"
        eventually(ended, timeout_s=4 * EXCHANGE_TIMEOUT_S)
        assert time.monotonic() - started > EXCHANGE_TIMEOUT_S / 2
        assert ask(url_of(node), "/healthz").status == 200


@pytest.mark.any_backend
def test_stopping_waits_for_no_http_client(backend: str) -> None:
    with ExitStack() as stack:
        with running_node(http=HTTP) as node:
            place = place_of(url_of(node))
            silent = stack.enter_context(tcp_connect(place))
            unread = stack.enter_context(tcp_connect(place))
            unread.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert unread.recv(1)
            started = time.monotonic()
        assert time.monotonic() - started < EXCHANGE_TIMEOUT_S
        with pytest.raises(OSError):  # noqa: PT011  refused; nobody listens
            tcp_connect(place)
        assert silent.recv(1) == b""


@pytest.mark.any_backend
def test_a_port_in_use_is_named(backend: str) -> None:
    """To who starts a server in his own process; of the daemon: test_start_waits.py."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = (
            rf"^\[http\] listen = 127.0.0.1, port = {port}: cannot listen there: "
            r"Address already in use; choose another, or \[http\] enabled = false$"
        )
        with (
            pytest.raises(StartError, match=words),
            running_node(http={"enabled": True, "port": port}),
        ):
            pass


@pytest.mark.any_backend
def test_off_means_off(backend: str) -> None:
    with running_node(http={"enabled": False}) as node:
        assert node.server.url is None
        assert "http" not in {thread.name for thread in threading.enumerate()}
