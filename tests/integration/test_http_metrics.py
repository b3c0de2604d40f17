"""The node's metrics.

What must hold: every scrape balances to the last request, under any load; every metric is
documented.
"""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from raida_uring.observe.prometheus import FAMILIES, PROCESS_METRICS
from tests.support.handlers import MIRROR, NAP, RAISE
from tests.support.http import HTTP, ask, sample_value, samples_of, scrape, sum_of, url_of
from tests.support.net import (
    PATIENCE,
    reset,
    tcp_ask,
    tcp_connect,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import HANDLERS, Node, eventually, running_node
from tests.support.peers import in_background
from tests.support.store import make_recorded_store
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, request, vote

SCRAPES = 60


@contextmanager
def mixed_load(node: Node) -> Iterator[None]:
    """Fast and slow requests, junk, resets and unfinished requests, over UDP and TCP."""

    def udp(stop: threading.Event) -> None:
        draw = random.Random(7)
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

    def tcp(stop: threading.Event, seed: int) -> None:
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

    with in_background(udp, partial(tcp, seed=8), partial(tcp, seed=9)):
        yield


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
        tcp_ask(
            node.endpoint, request(VERSION_COMMAND)
        )  # otherwise no command has been answered yet
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
def test_what_the_kernel_drops_is_counted(backend: str) -> None:
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

    def compute(stop: threading.Event) -> None:
        while not stop.is_set():
            sum(range(1000))

    with running_node(http=HTTP, handlers=HANDLERS) as node:

        def wait_s() -> float:
            """Of each of 20 batches of one request, on average."""
            before = node.counters()
            for _ in range(20):
                tcp_ask(node.endpoint, request(MIRROR))
            after = node.counters()
            waited_ns = after["worker_lock_wait_ns"] - before["worker_lock_wait_ns"]
            return waited_ns / 1e9 / (after["batches"] - before["batches"])

        with in_background(*[compute] * 3):
            # A core that is taken away spoils a round; without contention it is microseconds.
            eventually(lambda: wait_s() > 0.0005, timeout_s=30.0 * PATIENCE)
        counted_ns = node.counters()["worker_lock_wait_ns"]
        seen = scrape(url_of(node))
        assert sample_value(seen, "raida_worker_lock_wait_seconds_total") >= counted_ns / 1e9
