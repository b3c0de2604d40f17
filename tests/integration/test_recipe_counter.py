"""CONTRIBUTING.md's recipe for a counter: with its two edits, `status`, /metrics and the tables of
the documents have the counter, and it counts."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import output_of
from tests.support.http import ask, sample_value, samples_of
from tests.support.net import udp_ask
from tests.support.node import daemon
from tests.support.recipes import Copy
from tests.support.wire import ECHO_COMMAND, request, status

REPLIES = 3

pytestmark = [pytest.mark.any_backend, pytest.mark.hang_timeout_s(300)]


def test_a_counter(tmp_path: Path) -> None:
    tree = Copy(tmp_path)
    tree.follow("A counter")
    documents = "".join(
        path.read_text(encoding="utf-8") for path in (tree.directory / "docs").glob("*.md")
    )
    meaning = "replies given to the kernel, those that it refused included"
    assert f"| `udp_replies` | – | `raida_udp_replies_total` | {meaning} |\n" in documents

    program = tree.directory / ".venv" / "bin" / "raida-uring"
    socket = tmp_path / "own" / "admin.sock"
    http = {"enabled": True, "port": 0}
    admin = {"socket": str(socket)}
    with daemon(tmp_path, command=[str(program), "serve"], http=http, admin=admin) as node:
        for _ in range(REPLIES):
            assert status(udp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        now = json.loads(output_of(program, "status", "--json", "--socket", socket))
        assert now["counters"]["udp_replies"] == REPLIES
        seen = samples_of(ask(now["http"]["url"], "/metrics").text)
        assert sample_value(seen, "raida_udp_replies_total") == REPLIES
