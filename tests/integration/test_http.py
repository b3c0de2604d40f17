"""The node's HTTP server, and what strangers can do to it.

What must hold: no client delays the others or the node.
"""

import resource
import select
import socket
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from raida_uring.errors import StartError
from raida_uring.observe import prometheus, snapshot
from raida_uring.observe.prometheus import PROCESS_METRICS
from raida_uring.observe.web import (
    CONNECTIONS_MAX,
    EXCHANGE_TIMEOUT_S,
    HEAD_BYTES_MAX,
    SHARE_INTERVAL_S,
)
from tests.support.command_line import execute
from tests.support.http import HTTP, ask, place_of, sample_value, scrape, status_json, url_of
from tests.support.needs import ipv6_refusal
from tests.support.net import tcp_connect, udp_ask
from tests.support.node import config_text, eventually, running_node
from tests.support.wire import ECHO_COMMAND, request

PATHS = ("/", "/status.json", "/metrics", "/healthz", "/readyz")
PATHS_BESIDE_THE_PAGE = tuple(path[1:] for path in PATHS[1:])


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
def test_a_foreign_host_name_is_refused(backend: str) -> None:
    """DNS rebinding: a page of another site, in the browser of somebody who may ask."""
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
    """Clients that wait at the same time share an answer; none is older than the request for it."""
    made: list[float] = []
    make = prometheus.exposition

    def counted(seen: snapshot.Snapshot) -> bytes:
        made.append(time.monotonic())
        return make(seen)

    monkeypatch.setattr(prometheus, "exposition", counted)
    answers: list[float] = []
    with running_node(http=HTTP) as node:
        begun = time.monotonic()
        until = begun + 1.0

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
    # Single gaps say nothing: how late the first of two begins is the machine's affair.
    assert len(made) <= (made[-1] - begun) / SHARE_INTERVAL_S + 2
    assert len(answers) > len(made)
    assert max(answers) < max(made)


@pytest.mark.any_backend
def test_several_addresses(backend: str) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", *(["::1"] if ipv6_refusal() is None else [])]
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
    ended = execute(
        *("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"),
        *(sys.executable, "-c", code, tmp_path / "node.toml"),
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
def test_idle_and_slow_clients_delay_nobody(backend: str) -> None:
    """All possible connections are silent or send a byte now and then: later clients are served,
    the oldest are closed, and none outlives its time."""
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
    """In an exception, for a server in this process; the daemon is tested in
    test_start_waits.py."""
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
