"""Lines about requests and connections, as the real daemon writes them.

What must hold: every request that a handler answered is either a line or counted as held back, and
a line says what went over the wire.
"""

import json
import re
import socket
from pathlib import Path

import pytest

from raida_uring.admin.client import result_of
from raida_uring.protocol import Status
from tests.support.admin import change, node
from tests.support.handlers import BLOB
from tests.support.net import (
    read_exactly,
    tcp_ask,
    tcp_connect,
    udp_ask,
    udp_ask_all,
    udp_client,
    udp_exchange,
)
from tests.support.net import reset as reset_connection
from tests.support.node import HANDLERS, Daemon, daemon, eventually
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    encrypted_request,
    request,
    status,
)

pytestmark = pytest.mark.any_backend


def requests_of(running: Daemon) -> list[dict[str, object]]:
    """The fields of every request's line of a daemon that logs JSON."""
    lines = [json.loads(line) for line in running.stderr().splitlines()]
    return [line for line in lines if line["event"] == "request"]


def plain_lines(running: Daemon, word: str) -> list[str]:
    return [line for line in running.stderr().splitlines() if f" info {word} " in line]


def test_line_says_who_asked_what_and_what_came_back(tmp_path: Path) -> None:
    with daemon(tmp_path, handlers=HANDLERS) as running:
        with udp_client(running.endpoint) as client:
            client.bind(("127.0.0.7", 0))
            port = client.getsockname()[1]
            client.sendto(request(VERSION_COMMAND), running.endpoint)
            assert len(client.recv(2048)) == 42
        asked = request(BLOB, (3000).to_bytes(4))
        answered = tcp_ask(running.endpoint, asked)
        eventually(lambda: len(plain_lines(running, "request")) == 2)
        # The order is that of each thread that answers, not of all.
        second, first = sorted(plain_lines(running, "request"), key=lambda line: "over udp" in line)
    assert re.search(
        rf"request 0/1 from 127\.0\.0\.7 port {port} over udp: 250 SUCCESS, 50 bytes, 42 back, "
        r"\d+\.\d{3} ms$",
        first,
    )
    assert f"over tcp: 250 SUCCESS, {len(asked)} bytes, {len(answered)} back" in second


def test_status_is_what_left_the_node(tmp_path: Path) -> None:
    """The handler returned 250, but its reply was too long for UDP."""
    with daemon(tmp_path, handlers=HANDLERS, limits={"udp_reply_factor_max": 2}) as running:
        assert status(udp_ask(running.endpoint, request(BLOB, (1000).to_bytes(4)))) == 89
        eventually(lambda: len(plain_lines(running, "request")) == 1)
    assert ": 89 " in plain_lines(running, "request")[0]
    assert ", 54 bytes, 32 back" in plain_lines(running, "request")[0]


def test_beyond_the_limit_requests_are_counted(tmp_path: Path) -> None:
    with daemon(tmp_path, log={"requests_per_s": 5}) as running:
        replies = udp_ask_all(running.endpoint, (request(VERSION_COMMAND) for _ in range(300)), 16)
        assert len(replies) == 300
    lines = plain_lines(running, "request")
    held_back = [int(n) for n in re.findall(r"(\d+) requests and connections", running.stderr())]
    assert 0 < len(lines) < 300
    assert len(lines) + sum(held_back) == 300


def test_nothing_is_written_at_zero(tmp_path: Path) -> None:
    with daemon(tmp_path, log={"requests_per_s": 0}) as running:
        udp_ask(running.endpoint, request(VERSION_COMMAND))
    assert not plain_lines(running, "request")
    assert "requests and connections" not in running.stderr()


def test_echoes_and_votes_are_not_logged(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        udp_ask(running.endpoint, request(ECHO_COMMAND))
        assert status(udp_ask(running.endpoint, request(VERSION_COMMAND))) == 250
    assert len(plain_lines(running, "request")) == 1


def test_connection_that_ends_badly_has_a_line(tmp_path: Path) -> None:
    with daemon(tmp_path, tcp={"persistent": True}) as running:
        with tcp_connect(running.endpoint) as client:
            for _ in range(3):
                client.sendall(request(VERSION_COMMAND))
                read_exactly(client, 42)
            host, port = client.getsockname()
        with tcp_connect(running.endpoint) as client:
            client.sendall(request(VERSION_COMMAND)[:20])
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        with tcp_connect(running.endpoint) as client:
            client.sendall(request(VERSION_COMMAND)[:20])
            reset_connection(client)
        eventually(lambda: len(plain_lines(running, "connection")) == 3)
    lines = sorted(plain_lines(running, "connection"), key=lambda line: line.split("closed: ")[1])
    assert f"from {host} port {port} closed: done, 3 requests" in lines[0]
    assert "closed: end of stream within a request, 1 requests" in lines[1]
    assert "closed: reset, 1 requests" in lines[2]


def test_json_has_the_same_as_fields(tmp_path: Path) -> None:
    with daemon(tmp_path, log={"format": "json"}) as running:
        with udp_client(running.endpoint) as client:
            client.sendto(request(VERSION_COMMAND), running.endpoint)
            client.recv(2048)
            port = client.getsockname()[1]
        eventually(lambda: len(requests_of(running)) == 1)
        found = requests_of(running)[0]
    assert found["port"] == port
    assert (found["group"], found["command"], found["status"]) == (0, 1, 250)
    assert (found["transport"], found["request_bytes"], found["reply_bytes"]) == ("udp", 50, 42)


def test_more_requests_than_a_tap_keeps_have_lines(tmp_path: Path) -> None:
    """Half full, it does not wait for the end of the round."""
    count = 5000
    with daemon(tmp_path, log={"requests_per_s": 100_000}, workers={"count": 1}) as running:
        asked = (request(VERSION_COMMAND) for _ in range(count))
        assert len(udp_ask_all(running.endpoint, asked, 64)) == count
    lines = plain_lines(running, "request")
    held_back = [int(n) for n in re.findall(r"(\d+) requests and connections", running.stderr())]
    assert len(lines) + sum(held_back) == count
    assert len(lines) > 2048


def test_request_that_is_refused_before_its_handler_has_a_line(tmp_path: Path) -> None:
    """The key coin that it names cannot be one."""
    asked = encrypted_request(1, VERSION_COMMAND, bytes(32))
    with daemon(tmp_path) as running:
        answered = udp_ask(running.endpoint, asked)
        eventually(lambda: len(plain_lines(running, "request")) == 1)
    assert status(answered) == Status.INVALID_ENCRYPTION
    assert f"udp: {status(answered)} " in plain_lines(running, "request")[0]
    assert f", {len(asked)} bytes, {len(answered)} back" in plain_lines(running, "request")[0]


def test_limit_is_changed_by_a_reload(place: Path) -> None:
    with node(place, log={"requests_per_s": 0}) as (running, path):
        udp_ask(running.endpoint, request(VERSION_COMMAND))
        eventually(lambda: bool(result_of(path, "peers")["peers"]))  # it has been looked at
        change(place, "requests_per_s = 0", "requests_per_s = 100")
        assert result_of(path, "reload")["applied"] == ["[log] requests_per_s 0 -> 100"]

        def has_a_line() -> bool:  # from the next round on
            udp_ask(running.endpoint, request(VERSION_COMMAND))
            return bool(plain_lines(running, "request"))

        eventually(has_a_line)


def test_peers_have_their_share_of_a_load_that_is_sampled(place: Path) -> None:
    """One asks three times as often; together they have asked as often as they did."""
    turns, bursts = 80, 10  # of four requests: more than a round has samples
    hosts = ("127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2")
    with node(place, log={"requests_per_s": 0}) as (running, path):

        def found() -> dict[str, int]:
            peers = result_of(path, "peers")["peers"]
            return {peer["address"]: peer["requests"] for peer in peers}

        with udp_client(running.endpoint) as often, udp_client(running.endpoint) as seldom:
            often.bind(("127.0.0.2", 0))
            seldom.bind(("127.0.0.3", 0))
            for burst in range(1, bursts + 1):
                for turn in range(4 * turns):
                    client = often if hosts[turn % 4] == "127.0.0.2" else seldom
                    udp_exchange(client, running.endpoint, request(VERSION_COMMAND))
                asked = 4 * turns * burst
                eventually(lambda asked=asked: abs(sum(found().values()) - asked) <= 1)  # type: ignore[misc]
        assert 2 * turns * bursts < found()["127.0.0.2"] < 3.7 * turns * bursts
