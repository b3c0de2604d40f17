"""The status page in a real browser: `make test-browser`.

What must hold: the page shows what the node is and does, on a wide screen and on a telephone, also
in dark mode, for an idle node and after a long time; no script fails; only the node gets requests.
"""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from raida_uring.observe.status import for_page
from tests.support.browser import Page, browser, find
from tests.support.command_line import REPOSITORY
from tests.support.handlers import NAP
from tests.support.http import HTTP, ask, url_of
from tests.support.net import tcp_ask, udp_client, udp_exchange
from tests.support.node import HANDLERS, Node, running_node
from tests.support.peers import in_background
from tests.support.store import make_recorded_store
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, vote

PAGE = REPOSITORY / "raida_uring" / "observe" / "status.html"

WIDE = (1280, 1640)
NARROW = (390, 2900)
HISTORY = 301  # samples that the page keeps


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with browser(program) as made:
        yield made


@contextmanager
def load(node: Node) -> Iterator[None]:
    """Requests of all kinds for as long as the body runs."""

    def udp(stop: threading.Event) -> None:
        with udp_client(node.endpoint) as client:
            while not stop.wait(0.005):
                for each in (vote(), request(ECHO_COMMAND), request(VERSION_COMMAND)):
                    udp_exchange(client, node.endpoint, each)
                client.sendto(b"junk", node.endpoint)

    def tcp(stop: threading.Event) -> None:
        while not stop.wait(0.02):
            tcp_ask(node.endpoint, request(NAP))

    with in_background(udp, tcp):
        yield


def cell(row: str) -> str:
    """JavaScript for the last cell of the row that starts with `row`."""
    return (
        "[...document.querySelectorAll('tr')].filter(line => line.firstChild && "
        f"line.firstChild.textContent === {json.dumps(row)}).map(line => "
        "line.lastChild.textContent)[0]"
    )


FITS = "document.documentElement.scrollWidth <= window.innerWidth"


def test_a_busy_node_with_a_store(page: Page, tmp_path: Path) -> None:
    store = {"path": str(make_recorded_store(tmp_path / "store"))}
    server = {"synchronization_enabled": True}
    with running_node(http=HTTP, handlers=HANDLERS, store=store, server=server) as node, load(node):
        width, height = WIDE
        page.show(url_of(node), width=width, height=height)
        seconds = int(os.environ.get("SCREENSHOT_AFTER", "4"))
        page.wait_for(f"typeof samples !== 'undefined' && samples.length > {seconds}", 400)
        page.wait_for("document.querySelectorAll('svg path').length >= 9")  # lines are drawn
        assert page.run("document.title") == f"RAIDA {node.server.config.server.raida_id}"
        assert page.run("document.getElementById('state').textContent") == "ready"
        facts = page.run("document.getElementById('facts').textContent")
        assert f"{node.endpoint[0]}:{node.endpoint[1]}" in facts
        assert node.server.tier in facts
        assert int(page.run(cell("udp short")).replace(",", "")) > 0
        assert int(page.run(cell("coins in circulation")).replace(",", "")) > 0
        assert page.run(cell("UDP request")).split("\u00a0")[-1] in ("µs", "ms", "s")
        assert page.run(FITS)
        picture = page.screenshot()
        if place := os.environ.get("SCREENSHOT"):
            Path(place).write_bytes(picture)
        requested = page.run("performance.getEntriesByType('resource').map(one => one.name)")
        assert requested
        assert all(name.startswith(url_of(node)) for name in requested)
    page.wait_for("document.getElementById('state').textContent === 'no answer'")
    assert page.run("getComputedStyle(document.querySelector('main')).filter") == "grayscale(1)"
    ends = page.run("[...document.querySelectorAll('.newest')].map(one => one.textContent)")
    assert set(ends) == {"last answer"}
    if place := os.environ.get("SCREENSHOT_GONE"):
        Path(place).write_bytes(page.screenshot())
    assert not [fault for fault in page.faults if "ERR_CONNECTION" not in fault]


@contextmanager
def below_a_path(node: Node) -> Iterator[str]:
    """A reverse proxy that shows the node at /raida/7/ and nothing at its own root."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/raida/7")
            if path == self.path:
                self.send_error(404)
                return
            answer = ask(url_of(node), path)
            self.send_response(answer.status)
            for name in ("content-type", "content-length", "content-security-policy"):
                self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Proxy) as url:
        yield f"{url}raida/7/"


def test_below_a_path_of_a_proxy(page: Page) -> None:
    page.faults.clear()
    with running_node(http=HTTP, handlers=HANDLERS) as node, below_a_path(node) as url:
        tcp_ask(node.endpoint, request(VERSION_COMMAND))
        page.show(url, width=WIDE[0], height=WIDE[1])
        page.wait_for("typeof samples !== 'undefined' && samples.length > 2")
        assert page.run("document.getElementById('state').textContent") == "ready"
        assert page.run(cell("0/1 version")) == "250\u00a0SUCCESS:\u00a01"
        links = page.run("[...document.querySelectorAll('footer a')].map(one => one.href)")
        assert links == [url + path for path in ("metrics", "status.json", "healthz", "readyz")]
        for link in links:
            assert ask(link, urlsplit(link).path).status == 200
    assert not [fault for fault in page.faults if "ERR_CONNECTION" not in fault]


def test_faults_are_shown_in_red(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"path": str(make_recorded_store(tmp_path / "store"))}
    with running_node(http=HTTP, store=store) as node:
        page.show(url_of(node), width=WIDE[0], height=WIDE[1])
        page.wait_for("typeof samples !== 'undefined' && samples.length > 1")
        assert page.run(cell("can be written")) == "yes"
        lent = int(page.run(cell("large blocks")))
        assert lent > 0
        row = "line => line.firstChild.textContent === 'large blocks'"
        used = page.run(
            f"[...document.querySelectorAll('#pools tr')].find({row}).children[1].textContent"
        )
        assert used == "0", "blocks that workers hold in advance look like a leak"
        opened = node.server._store
        assert opened is not None
        monkeypatch.setattr(opened, "probe", lambda: None)  # it would find that all is well
        opened.write_fault = "No space left on device"
        reason = "the store cannot be written: No space left on device"
        page.wait_for(f"document.getElementById('reasons').textContent === '{reason}'")
        assert page.run("document.getElementById('state').textContent") == "not ready"
        assert page.run("getComputedStyle(document.getElementById('reasons')).color") == (
            "rgb(179, 38, 30)"
        )
        assert page.run(cell("can be written")) == "no: No space left on device"


def test_an_empty_node_on_a_telephone_in_the_dark(page: Page) -> None:
    page.faults.clear()
    with running_node(http=HTTP) as node:
        width, height = NARROW
        page.show(url_of(node), width=width, height=height, dark=True)
        page.wait_for("typeof samples !== 'undefined' && samples.length > 2")
        text = page.run("document.body.innerText")
        assert "nothing has been dropped" in text
        assert "this node has no store" in text
        assert not re.search("NaN|undefined|Infinity|null", text)
        assert page.run(FITS)
        red, green, blue = re.findall(
            r"\d+", page.run("getComputedStyle(document.body).backgroundColor")
        )
        assert max(int(red), int(green), int(blue)) < 64
        if place := os.environ.get("SCREENSHOT_NARROW"):
            Path(place).write_bytes(page.screenshot())
    assert not [fault for fault in page.faults if "ERR_CONNECTION" not in fault]


@contextmanager
def hurried(node: Node, step_s: float) -> Iterator[str]:
    """The same page from another server, where each sample is `step_s` later than the one before
    and counters are those of a node that has run for years."""
    text = PAGE.read_text().replace("PERIOD_MS = 1000", "PERIOD_MS = 1")
    asked = [0]

    class Hurried(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._tell(text.encode(), "text/html; charset=utf-8")
                return
            asked[0] += 1
            status = json.loads(json.dumps(for_page(node.server.observe())))
            status["now_s"] = asked[0] * step_s
            status["node"]["uptime_s"] = 5e8
            for name, value in status["counters"].items():
                status["counters"][name] = value + 10**15 + asked[0] * 1000
            self._tell(json.dumps(status).encode(), "application/json")

        def _tell(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Hurried) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of its own; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_hours_later_it_holds_no_more_than_at_first(page: Page) -> None:
    page.faults.clear()
    with running_node() as node, hurried(node, 60.0) as url:
        page.show(url, width=WIDE[0], height=WIDE[1])
        page.wait_for(f"typeof samples !== 'undefined' && samples.length === {HISTORY}", 120)
        elements = page.run("document.getElementsByTagName('*').length")
        before_s = page.run("samples[0].now_s")
        page.wait_for(f"samples[0].now_s > {before_s + 60 * 60}", 120)
        assert page.run("samples.length") == HISTORY
        assert page.run("document.getElementsByTagName('*').length") <= elements + 20
        text = page.run("document.body.innerText")
        assert "5787 d" in text
        assert not re.search("NaN|undefined|Infinity|null", text)
        assert page.run(FITS)
    assert not [fault for fault in page.faults if "ERR_CONNECTION" not in fault]
