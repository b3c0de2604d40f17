"""Threads that a node cannot do without."""

import dataclasses
import os
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from raida_uring import threads
from raida_uring.admin import server
from raida_uring.config import embedded_default
from raida_uring.errors import StartError
from raida_uring.node.daemon import Daemon
from raida_uring.node.operators import UNAVAILABLE, Website
from raida_uring.observe import web
from raida_uring.threads import Vital


class Breathless(Vital):
    """Like a thread for whose first steps Python finds no memory."""

    def _bootstrap(self) -> None:
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "BEGIN_LOOKS", 2)
    monkeypatch.setattr(threads, "BEGIN_LOOK_S", 0.01)


@pytest.mark.usefixtures("impatient")
def test_starting_a_thread_does_not_wait_for_ever() -> None:
    """A node whose start hung like that would obey no signal."""
    with pytest.raises(MemoryError):
        Breathless(target=int, daemon=True).start()


@pytest.mark.usefixtures("impatient")
def test_http_whose_thread_does_not_begin_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not end a node that serves, nor keep the port from the next try."""

    def nothing() -> NoReturn:
        raise AssertionError("nobody asks")

    monkeypatch.setattr(web, "Vital", Breathless)
    before = os.listdir("/proc/self/fd")
    website = Website(nothing, nothing)
    with pytest.raises(UNAVAILABLE):
        website.open(dataclasses.replace(embedded_default().http, enabled=True, port=0))
    assert website.fault == "a started thread does not begin to run"
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.usefixtures("impatient")
def test_an_admin_socket_whose_thread_does_not_begin_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = Daemon(embedded_default())
    monkeypatch.setattr(server, "Vital", Breathless)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartError, match="a started thread does not begin to run"):
        server.Admin(node, tmp_path / "admin.sock")
    assert os.listdir("/proc/self/fd") == before
    assert not (tmp_path / "admin.sock").exists()


def test_a_thread_that_cannot_be_had_is_an_error_of_the_start() -> None:
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Vital(target=int, daemon=True).start()
    finally:
        threading.stack_size(before)


def test_a_thread_that_begins_is_started() -> None:
    thread = Vital(target=int, daemon=True)
    thread.start()
    thread.join()
    assert not thread.is_alive()
