"""Starting and stopping. What must hold: a stop answers what was received and gives everything
back; a start that cannot succeed says why in one line."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from raida_uring import config
from raida_uring.errors import StartError, StoreError
from raida_uring.node.server import Server
from raida_uring.protocol import Status
from raida_uring.store import Sizes, Store
from tests.support.command_line import environment
from tests.support.confine import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_NET_BIND_SERVICE,
    IO_URING_CALLS,
)
from tests.support.handlers import HANG, HOLD, NAP, gate
from tests.support.needs import require_pid_namespace
from tests.support.net import (
    ANSWER_TIMEOUT_S,
    DATAGRAM_BYTES_MAX,
    PATIENCE,
    RECEIVE_BUFFER_BYTES,
    VOLUME,
    Endpoint,
    read_exactly,
    read_to_close,
    tcp_ask,
    tcp_connect,
    turned_away,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import (
    HANDLERS,
    SERVE,
    STOP_TIMEOUT_S,
    Node,
    Table,
    assert_at_rest,
    assert_refuses_to_start,
    config_text,
    confined,
    daemon,
    eventually,
    free_port,
    insist,
    running_node,
    told,
    total,
)
from tests.support.store import MAP_BYTES, make_store, table_of
from tests.support.wire import (
    ECHO_COMMAND,
    RAIDA_ID,
    VERSION_COMMAND,
    challenge_of,
    request,
    status,
    vote,
    vote_agreed,
)

STARTS = int(os.environ.get("STARTS") or round(40 * VOLUME))

# Takes every descriptor in the node's last line before it says that it is ready: on the thread that
# says so, and therefore before.
TAKE_DESCRIPTORS = """
import logging, os, resource
from raida_uring.handlers import Reply, command

@command(group=15, code=1)
def nothing(request, node):
    return Reply()

def take(record):
    if getattr(record, "event", "") == "hint":
        free = os.dup(0)
        os.close(free)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
    return True

logging.getLogger("raida_uring").addFilter(take)
"""


def resources() -> Counter[str]:
    """What a node takes from this process: descriptors by kind, threads, shared mappings.

    Anonymous mappings are left out: the C library keeps those of ended threads for the next.
    """
    counted: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        counted[f"descriptor {target.split('[')[0]}"] += 1
    counted["threads"] = len(os.listdir("/proc/self/task"))
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line[73:].strip()
        if path.startswith(("/memfd:", "/dev/", "anon_inode:")):
            counted[f"mapping {path}"] += 1
    return counted


def await_given_back(before: Counter[str]) -> None:
    """Fewer is fine: leftovers of an earlier test may end meanwhile."""
    eventually(
        lambda: resources() <= before,
        what=lambda: {"more": resources() - before, "less": before - resources()},
    )


def test_pitfall_6_7_many_starts_on_one_port() -> None:
    """No descriptor, thread or mapping is left behind, and the port is free at once. The long form
    is `make starts`."""
    server = {"port": free_port()}

    def serve_once() -> None:
        with running_node(server=server) as node:
            assert udp_ask(node.endpoint, vote()) == vote_agreed()
            assert status(udp_ask(node.endpoint, request(VERSION_COMMAND))) == 250
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
            with tcp_connect(node.endpoint):  # open at the stop
                node.wait_for_counts(connections_accepted=2)

    serve_once()  # modules are imported and caches filled once
    before = resources()
    anonymous_before = mapping_count()
    for _ in range(STARTS):
        serve_once()
    # A thread's kernel side may outlive its join by a moment.
    await_given_back(before)
    # The C library may keep a few thread stacks and heaps, not one more with every start.
    assert mapping_count() < anonymous_before + max(20, STARTS // 2)


def mapping_count() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_two_engines_in_one_process() -> None:
    """Neither answers for the other, nor stops with it."""
    with running_node() as first:
        with running_node(server={"raida_id": RAIDA_ID - 1}) as second:
            for node, codes in ((first, (250, 3)), (second, (3, 250))):
                own = request(ECHO_COMMAND)
                other = own[:2] + bytes((RAIDA_ID - 1,)) + own[3:]
                for ask in (udp_ask, tcp_ask):
                    answers = tuple(status(ask(node.endpoint, sent)) for sent in (own, other))
                    assert answers == codes
            assert first.counters()["udp_received"] == second.counters()["udp_received"] == 2
        assert udp_ask(first.endpoint, vote()) == vote_agreed()


class UdpLoad(threading.Thread):
    """Keeps `window` requests outstanding until stopped, then drains; counts whole answers."""

    def __init__(self, endpoint: Endpoint, requests: Sequence[bytes], window: int) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._requests = requests
        self._window = window
        self._stopping = threading.Event()
        self.answers = 0

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            client.settimeout(0.05)
            sent = 0
            while not self._stopping.is_set():
                while sent - self.answers < self._window:
                    client.sendto(self._requests[sent % len(self._requests)], self._endpoint)
                    sent += 1
                self._receive(client)
            while self._receive(client):  # the node has ended: what is here is all there will be
                pass

    def _receive(self, client: socket.socket) -> bool:
        try:
            client.recv(DATAGRAM_BYTES_MAX)
        except TimeoutError:
            return False
        self.answers += 1
        return True

    def finish(self) -> None:
        """To be called when the node has ended."""
        self._stopping.set()
        self.join()


class TcpLoad(threading.Thread):
    """One connection after the other until one fails; counts whole answers."""

    def __init__(self, endpoint: Endpoint, requests: Sequence[bytes]) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._requests = requests
        self.answers = 0

    def run(self) -> None:
        while True:
            try:
                reply = tcp_ask(self._endpoint, self._requests[self.answers % len(self._requests)])
            except (ConnectionError, TimeoutError):
                return
            if not reply:
                return
            self.answers += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pitfall_6_3_signal_under_load_answers_everything_received(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The clients hold as many answers as the node counted, and it counted all it received."""
    with daemon(tmp_path, handlers=HANDLERS) as node:
        datagrams = [vote(), request(ECHO_COMMAND), request(VERSION_COMMAND), request(NAP)]
        streams = [request(VERSION_COMMAND), request(NAP)]
        udp_loads = [UdpLoad(node.endpoint, datagrams, 128) for _ in range(2)]
        tcp_loads = [TcpLoad(node.endpoint, streams) for _ in range(8)]
        for load in (*udp_loads, *tcp_loads):
            load.start()
        try:
            eventually(lambda: sum(load.answers for load in udp_loads) > 2000)
            eventually(lambda: sum(load.answers for load in tcp_loads) > 100)
            node.signal(number)
            assert node.process.wait(ANSWER_TIMEOUT_S) == 0
        finally:
            node.process.kill()
            for udp_load in udp_loads:
                udp_load.finish()
            for tcp_load in tcp_loads:
                tcp_load.join()
        counters = node.final_counters()
    assert_at_rest(counters)
    assert total(counters, "udp_dropped_") == 0
    assert sum(load.answers for load in udp_loads) == counters["udp_answered"]
    assert sum(load.answers for load in tcp_loads) == counters["tcp_answered"]


def test_pitfall_6_5_stop_waits_for_handlers() -> None:
    """A drain ends when the last handler has, and its answer still reaches the client."""
    # For clients that come in between and say nothing; enough for the one that does.
    tcp = {"progress_timeout_ms": round(200 * PATIENCE)}
    with running_node(tcp=tcp, handlers=HANDLERS) as node, ExitStack() as stack:
        stopper = threading.Thread(target=node.server.stop)
        datagrams = stack.enter_context(udp_client(node.endpoint))
        stream = stack.enter_context(tcp_connect(node.endpoint))
        with gate.closed():
            datagrams.sendto(request(HOLD), node.endpoint)
            stream.sendall(request(HOLD))
            node.wait_for_counts(udp_in_flight=1, tcp_in_flight=1)
            stopper.start()
            eventually(lambda: turned_away(node.endpoint))
            assert stopper.is_alive()
        assert status(datagrams.recv(2048)) == 250
        assert status(stream.recv(2048)) == 250
        stopper.join()


def occupy_a_worker(endpoint: Endpoint, sign: Path) -> None:
    """Returns when a handler of the daemon hangs."""
    with udp_client(endpoint) as client:
        client.sendto(request(HANG, str(sign).encode()), endpoint)
    eventually(sign.exists)


def test_pitfall_6_4_drain_timeout_ends_the_wait(tmp_path: Path) -> None:
    """A handler that never returns delays the end by the drain timeout, not for ever."""
    with daemon(tmp_path, handlers=HANDLERS, network={"drain_timeout_ms": 500}) as node:
        occupy_a_worker(node.endpoint, tmp_path / "hanging")
        node.terminate(timeout_s=ANSWER_TIMEOUT_S)


def test_pitfall_6_4_idle_connections_end_at_once() -> None:
    """A client that has its answer and asks for nothing more is not waited for; one whose request
    is with a handler still gets its answer."""
    with running_node(tcp={"persistent": True}, handlers=HANDLERS) as node, ExitStack() as stack:
        stopper = threading.Thread(target=node.server.stop)
        idle, busy = (stack.enter_context(tcp_connect(node.endpoint)) for _ in range(2))
        sent = request(ECHO_COMMAND)
        idle.sendall(sent)
        assert read_exactly(idle, 32)[16:] == challenge_of(sent)
        with gate.closed():
            busy.sendall(request(HOLD))
            node.wait_for_counts(tcp_in_flight=1)
            stopper.start()
            assert read_to_close(idle) == b""
            assert stopper.is_alive()
        assert status(read_to_close(busy)) == 250
        stopper.join()
        node.wait_for_counts(connections_closed_drain=1)


def test_second_signal_forces(tmp_path: Path) -> None:
    with daemon(tmp_path, handlers=HANDLERS, network={"drain_timeout_ms": 60000}) as node:
        occupy_a_worker(node.endpoint, tmp_path / "hanging")
        node.signal(signal.SIGTERM)
        eventually(lambda: turned_away(node.endpoint))
        assert node.process.poll() is None, "the first signal waits for the handler"
        insist(
            lambda: node.signal(signal.SIGTERM),
            lambda: node.process.poll() is not None,
            ANSWER_TIMEOUT_S,
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_until_the_end_do_not_make_a_failure_of_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The interpreter takes a moment to leave after the node has."""
    with daemon(tmp_path) as node:
        insist(
            lambda: node.signal(number), lambda: node.ended_within(0.06), STOP_TIMEOUT_S
        )  # 60 ms: two within 50 ms count as one
        assert node.process.returncode == 0, node.stderr()


PARTING = """import atexit, os, threading, time
from raida_uring.handlers import Reply, command
command(group=5, code=200)(lambda request, node: Reply())
atexit.register(os.kill, os.getpid(), {number})
threading.Thread(target=time.sleep, args=({stays_s},)).start()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_just_after_the_node_does_not_make_a_failure_of_its_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Here what another package has the interpreter do at the end stops the node again."""
    (tmp_path / "parting.py").write_text(PARTING.format(number=int(number), stays_s=0))
    with daemon(tmp_path, handlers={"modules": ["parting"]}) as node:
        assert node.terminate() == 0, node.stderr()


def test_a_thread_of_a_handler_is_ended_by_a_signal(tmp_path: Path) -> None:
    """It keeps the process when the node has ended, as the interpreter waits for it."""
    (tmp_path / "parting.py").write_text(PARTING.format(number=0, stays_s=1000))
    with daemon(tmp_path, handlers={"modules": ["parting"]}) as node:
        insist(lambda: node.signal(signal.SIGTERM), lambda: node.ended_within(0.1), STOP_TIMEOUT_S)
        assert node.process.returncode == -signal.SIGTERM


def test_process_1_is_told_to_stop_before_it_serves(tmp_path: Path) -> None:
    """As by `podman stop` right after `podman run`: the kernel throws away a signal for process 1
    that would end another process. Here it waits for its configuration."""
    require_pid_namespace()
    file = tmp_path / "node.toml"
    os.mkfifo(file)
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *SERVE, "--config", file],
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as started:
        assert started.stderr is not None
        with file.open("w") as config_file:  # once it reads
            (node,) = psutil.Process(started.pid).children()
            node.send_signal(signal.SIGTERM)
            config_file.write(config_text({}))
        try:
            assert started.wait(STOP_TIMEOUT_S) == 0, started.stderr.read()
        finally:
            started.kill()


@pytest.mark.any_backend
class TestRefusedStarts:
    """Each cause ends the start with one line that names it, status 2, and no traceback."""

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_port_in_use(self, tmp_path: Path, kind: socket.SocketKind) -> None:
        with socket.socket(socket.AF_INET, kind) as holder:
            holder.bind(("127.0.0.1", free_port()))
            if kind is socket.SOCK_STREAM:
                holder.listen()
            port = holder.getsockname()[1]
            assert_refuses_to_start(
                tmp_path, rf"127\.0\.0\.1.*{port}.*in use", server={"port": port}
            )

    def test_port_in_use_in_process(self) -> None:
        """The engine that could not start gives everything back."""
        with running_node() as node:
            before = resources()
            server = {"port": node.endpoint[1]}
            for _ in range(10):
                with pytest.raises(StartError, match="in use"), running_node(server=server):
                    pass
            await_given_back(before)
            assert udp_ask(node.endpoint, vote()) == vote_agreed()

    def test_privileged_port(self, tmp_path: Path) -> None:
        port = 79
        first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
        if first <= port:
            pytest.skip(f"net.ipv4.ip_unprivileged_port_start = {first} lets anyone bind")
        assert_refuses_to_start(
            tmp_path,
            rf"{port}.*not permitted.*CAP_NET_BIND_SERVICE",
            command=confined(f"give_up({CAP_NET_BIND_SERVICE})"),
            server={"port": port},
        )

    def test_configuration_missing(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.toml"
        assert_refuses_to_start(tmp_path, r"missing\.toml", config_path=missing)

    def test_configuration_is_a_directory(self, tmp_path: Path) -> None:
        assert_refuses_to_start(tmp_path, r"directory", config_path=tmp_path)

    def test_configuration_unreadable(self, tmp_path: Path) -> None:
        hidden = tmp_path / "hidden.toml"
        hidden.touch(mode=0)
        assert_refuses_to_start(
            tmp_path,
            r"hidden\.toml.*(not readable|[Pp]ermission)",
            command=confined(f"give_up({CAP_DAC_OVERRIDE}, {CAP_DAC_READ_SEARCH})"),
            config_path=hidden,
        )

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("[server\n", r"wrong\.toml.*line 1", id="syntax"),
            pytest.param("", r"raida_id", id="empty"),
            pytest.param("[server]\nraida_id = 25\n", r"raida_id.*25", id="value"),
            pytest.param("[server]\nraida_id = 'x'\n", r"raida_id.*x", id="type"),
            pytest.param("[server]\nraida_id = 1\nprot = 1\n", r"prot.*port", id="key"),
            pytest.param("[sever]\nraida_id = 1\n", r"sever.*server", id="table"),
            pytest.param("\0", r"wrong\.toml", id="not-text"),
            pytest.param(b"\xff\xfe", r"wrong\.toml", id="not-utf-8"),
        ],
    )
    def test_configuration_wrong(self, tmp_path: Path, text: str | bytes, expected: str) -> None:
        path = tmp_path / "wrong.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert_refuses_to_start(tmp_path, expected, config_path=path)

    @pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter", "io_uring_register"])
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            pytest.param(errno.EPERM, r"seccomp.*kernel\.io_uring_disabled.*allow", id="EPERM"),
            pytest.param(errno.ENOSYS, r"seccomp.*kernel\.io_uring_disabled.*allow", id="ENOSYS"),
        ],
    )
    def test_io_uring_refused(self, tmp_path: Path, call: str, code: int, expected: str) -> None:
        """Where nothing else will do: cause, sysctl and remedy in one line, whichever of the three
        calls is refused."""
        assert_refuses_to_start(
            tmp_path,
            rf"io_uring refused.*{expected}",
            command=confined(f"refuse_system_call({IO_URING_CALLS[call]}, {code})"),
            network={"backend": "uring"},
        )


def test_being_stopped_and_continued_is_no_request_to_end(tmp_path: Path) -> None:
    """A debugger or job control interrupts every wait of a thread."""
    with daemon(tmp_path) as node:
        node.signal(signal.SIGSTOP)
        time.sleep(1.2)  # longer than the main thread waits at a time: what is interrupted is over
        node.signal(signal.SIGCONT)
        with udp_client(node.endpoint) as client:
            for _ in range(3):
                reply = udp_exchange(client, node.endpoint, request(ECHO_COMMAND))
                assert status(reply) == Status.SUCCESS
        assert not node.ended_within(0.5), node.stderr()


def test_a_second_stop_leaves_the_store_to_a_handler_that_is_stuck(tmp_path: Path) -> None:
    """It reads from memory that closing the store would take away."""
    path = make_store(tmp_path / "store")
    store = table_of(path)
    tables: dict[str, Table] = {"store": store, "handlers": HANDLERS}
    server = Server(config.parse(config_text(tables), "test.toml"))
    server.start()
    with udp_client(server.endpoints[0]) as client, gate.closed():
        client.sendto(request(HOLD), server.endpoints[0])
        eventually(lambda: gate.inside == 1)
        server.stop(0)
        server.stop(0)
        with pytest.raises(StoreError, match="in use by process"):
            Store(path, map_bytes=MAP_BYTES)
    eventually(lambda: "worker-0" not in {thread.name for thread in threading.enumerate()})


def test_the_store_is_asked_until_it_is_closed(tmp_path: Path) -> None:
    """By an operator who watches a stop: an answer, or an error that the node has stopped; no
    crash."""
    store = table_of(make_store(tmp_path / "store"))
    for _ in range(5):
        with running_node(store=store) as node:
            told: list[object] = []

            def watch(node: Node = node, told: list[object] = told) -> None:
                with suppress(StartError):
                    while True:
                        told[:] = [node.server.observe().store]

            watching = [threading.Thread(target=watch) for _ in range(3)]
            for thread in watching:
                thread.start()
            eventually(lambda told=told: bool(told))  # type: ignore[misc]
        for thread in watching:
            thread.join()


def test_a_drain_begins_while_an_operator_s_look_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer, as of a lost file server, is one that this test has."""
    looking, answers = threading.Event(), threading.Event()
    sizes = Store.sizes

    def hangs(store: Store) -> Sizes:
        looking.set()
        answers.wait()
        return sizes(store)

    store = table_of(make_store(tmp_path / "store"))
    monkeypatch.setattr(Store, "sizes", hangs)
    with running_node(store=store) as node:
        operator = threading.Thread(target=node.server.observe)
        operator.start()
        looking.wait()
        draining = threading.Thread(target=node.server.begin_drain, daemon=True)
        draining.start()
        try:
            assert node.server.wait(STOP_TIMEOUT_S)
        finally:
            answers.set()
        operator.join()
        draining.join()


def test_resources_that_cannot_be_looked_at_end_no_node(tmp_path: Path) -> None:
    """A handler has leaked all descriptors, so that none is left to read the resources with."""
    looks_often = "import raida_uring.node.resources as it; it.INTERVAL_S = 0.1; "
    run = "import sys; from raida_uring.cli.main import main; sys.exit(main())"
    with daemon(tmp_path, command=[sys.executable, "-c", looks_often + run, "serve"]) as node:
        eventually(lambda: "resources: cpu" in node.stderr())
        process = psutil.Process(node.process.pid)
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        eventually(lambda: "the resources could not be read: " in node.stderr())
        process.rlimit(psutil.RLIMIT_NOFILE, limits)


def test_a_node_without_a_descriptor_once_it_is_ready_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps feeding the service manager's watchdog."""
    (tmp_path / "scarce.py").write_text(TAKE_DESCRIPTORS)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    scarce = {"modules": ["scarce"]}
    with daemon(tmp_path, import_paths=[tmp_path], handlers=scarce) as node:
        free = psutil.Process(node.process.pid).rlimit(psutil.RLIMIT_NOFILE)[0]
        assert sorted(map(int, os.listdir(f"/proc/{node.process.pid}/fd")))[:free] == [*range(free)]
        seen: list[str] = []

        def lives() -> bool:
            seen.extend(told(node.notify))
            return seen.count("WATCHDOG=1") >= 2

        eventually(lives, timeout_s=20 * PATIENCE)
        assert status(udp_ask(node.endpoint, request(ECHO_COMMAND))) == Status.SUCCESS
