"""Health and readiness.

What must hold: health tells of the I/O thread, readiness of the node's ability to take more.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from raida_uring import config
from raida_uring.ffi import native
from raida_uring.node.server import Server
from raida_uring.observe.readiness import OVERLOAD_WAIT_S, REFUSALS_GAP_S, unready
from raida_uring.observe.status import for_operators
from raida_uring.observe.web import Web
from tests.support.command_line import run_script
from tests.support.handlers import HOLD, SLOW_HOLD, gate
from tests.support.http import HTTP, ask, sample_value, scrape, status_json, url_of
from tests.support.net import PATIENCE, tcp_connect, turned_away, udp_ask, udp_client
from tests.support.node import (
    HANDLERS,
    config_text,
    daemon,
    eventually,
    free_port,
    running_node,
    take_free_descriptors,
)
from tests.support.wire import ECHO_COMMAND, request

PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WAIT_ALL = 0x40000000  # __WALL: threads of others too


@pytest.mark.any_backend
def test_healthy_from_the_first_answer_on(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the control thread learns that the I/O thread serves."""
    told: list[tuple[int, int]] = []
    wait_ready = native.Engine.wait_ready

    def hears_late(engine: native.Engine, timeout_ms: int) -> None:
        wait_ready(engine, timeout_ms)
        assert server.url is not None
        assert udp_ask(server.endpoints[0], request(ECHO_COMMAND))
        told.append((ask(server.url, "/healthz").status, ask(server.url, "/readyz").status))

    monkeypatch.setattr(native.Engine, "wait_ready", hears_late)
    server = Server(config.parse(config_text({"http": HTTP}), "test.toml"))
    server.start()
    server.stop()
    assert told == [(200, 200)]


@pytest.mark.any_backend
def test_starting_until_the_io_thread_serves(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to open its backend, of which there is nothing to tell yet."""
    told: dict[str, tuple[int, str]] = {}
    run = native.Engine.run

    def serves_late(engine: native.Engine) -> None:
        assert server.url is not None
        for path in ("/healthz", "/readyz", "/status.json", "/metrics"):
            answer = ask(server.url, path)
            told[path] = (answer.status, answer.text.strip())
        run(engine)

    monkeypatch.setattr(native.Engine, "run", serves_late)
    server = Server(config.parse(config_text({"http": HTTP}), "test.toml"))
    server.start()
    server.stop()
    assert set(told.values()) == {(503, "the node is starting")}


def test_an_operator_may_look_while_http_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at an upgrade, when the port is left to the successor."""
    told: list[str | None] = []
    stop = Web.stop

    def look(web: Web) -> None:
        stop(web)
        told.append(node.server.observe().serving.url)

    with running_node(http=HTTP) as node:
        assert node.server.observe().serving.url
        monkeypatch.setattr(Web, "stop", look)
        node.server.website.close()
        monkeypatch.undo()
    assert told == [None]


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
    """The lane refuses with 160; the other lanes go on."""
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
    ended = run_script(LISTEN_WITHOUT)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = ended.stdout.splitlines()
    assert len(told) == 10
    assert told[-1] == "served"
    assert all("Too many open files" in line for line in told[: told.index("served")])


def test_not_ready_without_a_descriptor(tmp_path: Path, backend: str) -> None:
    """And reports that, though no descriptor is left for the connection that asks."""
    port = free_port()
    tcp = {"header_timeout_ms": 500}
    with daemon(tmp_path, http={"enabled": True, "port": port}, tcp=tcp) as started:
        url = f"http://127.0.0.1:{port}/"
        eventually(lambda: _answers(url))
        process = psutil.Process(started.process.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)

        def exhausted() -> bool:
            """What an exchange before had may have been freed since it was looked at."""
            take_free_descriptors(process)
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
                pytest.skip("ptrace is refused: Yama, or a seccomp filter")
            raise OSError(number, "ptrace")

    trace(PTRACE_SEIZE)
    trace(PTRACE_INTERRUPT)
    os.waitpid(thread_id, WAIT_ALL)
    try:
        yield
    finally:
        trace(PTRACE_DETACH)


@pytest.mark.any_backend
def test_a_stalled_io_thread_is_unhealthy(tmp_path: Path, backend: str) -> None:
    port = free_port()
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
        assert started.process.wait(30 * PATIENCE) == 0
