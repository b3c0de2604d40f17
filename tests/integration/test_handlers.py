"""Commands that others write. What must hold: a handler gets the true facts of its request, its
reply arrives whole or is refused with a status, and no mistake of a handler ends the worker."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raida_uring.errors import RaidaError
from tests.support.handlers import (
    BLOB,
    DESCRIBE,
    KEEP,
    MIRROR,
    RAISE,
    STATUS,
    WRONG_TYPE,
    WRONG_TYPE_COUNT,
    blob_bytes,
    kept,
)
from tests.support.needs import require_ipv6
from tests.support.net import (
    PATIENCE,
    Endpoint,
    read_to_close,
    tcp_ask,
    tcp_connect,
    udp_ask,
    udp_client,
    udp_exchange,
)
from tests.support.node import HANDLERS, assert_refuses_to_start, daemon, eventually, running_node
from tests.support.wire import (
    VERSION_COMMAND,
    challenge_of,
    reply_payload,
    request,
    status,
)

Ask = Callable[[Endpoint, bytes], bytes]
both_transports = pytest.mark.parametrize("ask", [udp_ask, tcp_ask])

ONE_WORKER = {"count": 1}  # what kills it would show at once
REPLY_BYTES_MAX = 65536


@both_transports
def test_exception_is_252_and_the_worker_lives_on(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for _ in range(300):  # more than a batch
            sent = request(RAISE)
            reply = ask(node.endpoint, sent)
            assert (status(reply), reply_payload(reply)) == (252, b"")
            assert reply[16:32] == challenge_of(sent)
        assert reply_payload(ask(node.endpoint, request(VERSION_COMMAND))) == b"20250323"
    assert "raises on purpose" in caplog.text


def test_every_failure_is_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Including the last ones, when no failure follows."""
    failures = 20

    def counted() -> int:
        found = re.findall(
            r"(?m)answered 252(?: \((\d+) times since the last such line\))?$"
            r"|failed (\d+) more times since the last such line: \w+$",
            "\n".join(caplog.messages),
        )
        return sum(int(several or more or 1) for several, more in found)

    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for _ in range(failures):
            tcp_ask(node.endpoint, request(RAISE))
        eventually(lambda: counted() == failures, what=counted)


@both_transports
@pytest.mark.parametrize("mistake", range(WRONG_TYPE_COUNT))
def test_wrong_return_value_is_252(ask: Ask, mistake: int) -> None:
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        assert status(ask(node.endpoint, request(WRONG_TYPE, bytes((mistake,))))) == 252
        assert reply_payload(ask(node.endpoint, request(MIRROR, b"alive"))) == b"alive"


@both_transports
@pytest.mark.parametrize("size", [0, 1, 1300, 1406, 1500, 2048, 20000, 65000])
def test_reply_of_any_size(ask: Ask, size: int) -> None:
    """Within the slot of the request, larger than it, larger than a small block."""
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for _ in range(3):  # the block comes back
            reply = ask(node.endpoint, request(BLOB, size.to_bytes(4)))
            assert status(reply) == 250
            assert reply_payload(reply) == blob_bytes(size)


@both_transports
@pytest.mark.parametrize("size", [REPLY_BYTES_MAX + 1, 10_000_000])
def test_reply_past_the_limit_is_252(ask: Ask, size: int, caplog: pytest.LogCaptureFixture) -> None:
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        reply = ask(node.endpoint, request(BLOB, size.to_bytes(4)))
        assert (status(reply), reply_payload(reply)) == (252, b"")
        assert reply_payload(ask(node.endpoint, request(MIRROR, b"alive"))) == b"alive"
        node.wait_for_counts(refused_sizes=1)
    most = "65473 go over UDP" if ask is udp_ask else "65502 go over TCP"
    assert (
        f"command 5/200 gave an invalid reply, answered 252: payload has {size} bytes: "
        f"at most {most}"
    ) in caplog.text


@both_transports
def test_every_status_travels(ask: Ask) -> None:
    with running_node(workers=ONE_WORKER, handlers=HANDLERS) as node:
        for code in range(256):
            assert status(ask(node.endpoint, request(STATUS, bytes((code,))))) == code


@both_transports
def test_request_tells_the_truth(ask: Ask) -> None:
    payload = bytes(range(256))
    sent = request(DESCRIBE, payload)
    sent = sent[:3] + b"\x02" + sent[4:]  # shard 2
    with running_node(handlers=HANDLERS) as node:
        seen = json.loads(reply_payload(ask(node.endpoint, sent)))
        host, port = seen.pop("peer")
    assert (host, port > 0) == ("127.0.0.1", True)
    assert seen == {
        "group": DESCRIBE[0],
        "command": DESCRIBE[1],
        "payload": payload.hex(),
        "payload_type": "bytes",
        "encryption": 0,
        "shard": 2,
        "transport": "udp" if ask is udp_ask else "tcp",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_peer_is_the_one_that_asked(host: str) -> None:
    if host == "::1":
        require_ipv6()
    with running_node(network={"bind": None}, handlers=HANDLERS) as node:
        port = node.endpoint[1]
        with tcp_connect((host, port)) as client:
            own = client.getsockname()[:2]
            client.sendall(request(DESCRIBE))
            seen = json.loads(reply_payload(client.recv(4096)))
            assert tuple(seen["peer"]) == own
        with udp_client((host, port)) as client:
            client.bind((host, 0))
            reply = udp_exchange(client, (host, port), request(DESCRIBE))
            assert tuple(json.loads(reply_payload(reply))["peer"]) == client.getsockname()[:2]


def test_kept_payload_never_changes() -> None:
    """A payload that a handler keeps is a copy: later requests do not change it."""
    kept.clear()
    tiny = {"contexts": 2, "reserve": 2}
    with running_node(udp=tiny, workers=ONE_WORKER, handlers=HANDLERS) as node:
        expected = [bytes((index,)) * (index * 4) for index in range(200)]
        for payload in expected:
            assert status(udp_ask(node.endpoint, request(KEEP, payload))) == 250
        for _ in range(8):
            assert udp_ask(node.endpoint, request(MIRROR, b"\xff" * 1300))
    assert kept == expected
    assert {type(payload) for payload in kept} == {bytes}


@both_transports
def test_no_body_is_an_empty_payload(ask: Ask) -> None:
    with running_node(handlers=HANDLERS) as node:
        reply = ask(node.endpoint, request(DESCRIBE, body=False))
        assert json.loads(reply_payload(reply))["payload"] == ""


PLUGIN = """\
from raida_uring.handlers import Reply, command


@command(group={group}, code={code})
def answer(request, node):
    return Reply(payload=b"from " + __name__.encode())
"""


def write_module(directory: Path, name: str, *commands: tuple[int, int]) -> None:
    """A module that registers each of `commands`."""
    text = "".join(PLUGIN.format(group=group, code=code) for group, code in commands)
    directory.joinpath(f"{name}.py").write_text(text)


@pytest.mark.any_backend
def test_module_from_the_configuration(tmp_path: Path) -> None:
    """Any free group and command: both ends of the ranges, and the reserved groups."""
    commands = [(0, 255), (5, 0), (6, 77), (15, 255)]
    write_module(tmp_path, "commands_of_mine", *commands)
    modules = {"modules": ["commands_of_mine"]}
    with daemon(tmp_path, import_paths=[tmp_path], handlers=modules) as node:
        for command in commands:
            for ask in (udp_ask, tcp_ask):
                reply = ask(node.endpoint, request(command))
                assert reply_payload(reply) == b"from commands_of_mine"


@pytest.mark.any_backend
def test_entry_point(tmp_path: Path) -> None:
    """An installed distribution adds commands without any configuration."""
    write_module(tmp_path, "installed_commands", (5, 1))
    metadata = tmp_path / "installed_commands-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: installed-commands\nVersion: 1.0\n"
    )
    metadata.joinpath("entry_points.txt").write_text(
        "[raida_uring.commands]\nmine = installed_commands\n"
    )
    with daemon(tmp_path, import_paths=[tmp_path]) as node:
        reply = udp_ask(node.endpoint, request((5, 1)))
        assert reply_payload(reply) == b"from installed_commands"
        told = "16 commands: 15 built in, 1 entry point mine = installed_commands"
        assert told in node.stderr()
    # Both documented ways at once: the same function twice is no clash.
    modules = {"modules": ["installed_commands"]}
    with daemon(tmp_path, import_paths=[tmp_path], handlers=modules) as node:
        reply = udp_ask(node.endpoint, request((5, 1)))
        assert reply_payload(reply) == b"from installed_commands"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        pytest.param([(0, 3)], r"0.*3", id="audit"),
        pytest.param([(2, 80)], r"2.*80", id="needs-a-store"),
        pytest.param([(5, 9), (5, 9)], r"5.*9", id="twice"),
        pytest.param([(16, 0)], r"16", id="no-such-group"),
        pytest.param([(5, 256)], r"256", id="no-such-command"),
    ],
)
def test_refused_registration(
    tmp_path: Path, commands: list[tuple[int, int]], expected: str
) -> None:
    """A command that is taken or impossible: one clear line at the start, never a surprise."""
    write_module(tmp_path, "refused_commands", *commands)
    assert_refuses_to_start(
        tmp_path,
        expected,
        import_paths=[tmp_path],
        handlers={"modules": ["refused_commands"]},
    )


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, "broken_commands", id="missing"),
        pytest.param("def oops(:\n", "broken_commands", id="syntax-error"),
        pytest.param("raise OSError('no luck')\n", "no luck", id="fails-to-import"),
    ],
)
def test_module_that_cannot_be_imported(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        tmp_path.joinpath("broken_commands.py").write_text(text)
    assert_refuses_to_start(
        tmp_path, expected, import_paths=[tmp_path], handlers={"modules": ["broken_commands"]}
    )


@pytest.mark.any_backend
def test_refused_in_process_too() -> None:
    handlers = {"modules": ["no_such_module"]}
    with pytest.raises(RaidaError, match="no_such_module"), running_node(handlers=handlers):
        pass


def test_time_of_a_command_is_not_that_of_a_slow_sender() -> None:
    """Over TCP a client may take seconds to send a request: they do not count as the command's."""
    sent = request(MIRROR, bytes(200))
    with running_node(handlers=HANDLERS) as node, tcp_connect(node.endpoint) as client:
        client.sendall(sent[:60])
        node.wait_for_counts(tcp_requests=1)
        time.sleep(PATIENCE)  # what is not to be measured
        client.sendall(sent[60:])
        assert status(read_to_close(client)) == 250
        (told,) = node.server.observe().commands
    assert (told.label, told.replies) == (f"{MIRROR[0]}/{MIRROR[1]}", {250: 1})
    assert told.spent_s < 0.9 * PATIENCE
