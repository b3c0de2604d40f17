"""How a successor reads its predecessor's messages, whichever version sent them."""

import json
import os
import socket
import threading

import pytest

from raida_uring.errors import StartError
from raida_uring.node.upgrade import ENVIRONMENT, Takeover, _carry, tell_failure

WHOLE = {"sockets": [["127.0.0.1", 50000, 7, 8]], "owner": -1, "shared": False}


@pytest.mark.parametrize(
    "changed",
    [
        None,
        {"sockets": [[1]]},
        {"sockets": [["127.0.0.1", "port", 7, 8]]},
        {"sockets": 5},
        {"owner": None},
        {"owner": "none"},
        {"owner": float("inf")},
    ],
)
def test_an_environment_that_no_predecessor_sets(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, object] | None
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        handed = {"channel": theirs.fileno()} | WHOLE | (changed or {})
        monkeypatch.setenv(ENVIRONMENT, "{" if changed is None else json.dumps(handed))
        with pytest.raises(StartError, match="not what a predecessor sets"):
            Takeover.from_environment()
        theirs.send(b"still open: by it the predecessor is told")


def test_an_environment_nested_too_deeply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "[" * 100_000)
    with pytest.raises(StartError, match="not what a predecessor sets"):
        Takeover.from_environment()
    tell_failure("nobody can be told")


@pytest.mark.parametrize("words", [b"{", b"[1]", b'{"a": {}}', b'{"a": Infinity}', b"\xff"])
def test_counters_of_another_version(words: bytes, caplog: pytest.LogCaptureFixture) -> None:
    def carry(carried: dict[str, int]) -> None:
        for value in carried.values():
            int(value)

    _carry(carry, words)
    assert "another version" in caplog.text


def test_a_successor_without_its_thread_does_not_say_that_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The predecessor would leave, and only then hear that nobody serves."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setenv(ENVIRONMENT, "by it the predecessor is told why")
        takeover = Takeover(theirs, [], -1, -1, shared=False)
        before = threading.stack_size(1 << 47)
        try:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                takeover.begin(lambda _listener, _fd: None, lambda _carried: None, lambda: None)
        finally:
            threading.stack_size(before)
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)
        assert ENVIRONMENT in os.environ
