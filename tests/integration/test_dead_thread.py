"""A thread that the node cannot do without dies: the log says so in its own form, the process ends.

The exception comes from a handler, which has CPython raise it in the other thread; the thread then
is woken by what wakes it anyway.
"""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.coin_requests import POWN, default_an, pown_payload
from tests.support.net import Endpoint, udp_ask
from tests.support.node import SERVE, STOP_TIMEOUT_S, Table, eventually, free_port, started_daemon
from tests.support.store import make_store, table_of
from tests.support.wire import VERSION_COMMAND, request, status

MODULE = """
import ctypes, logging, threading
from raida_uring.handlers import Reply, command

@command(group=5, code=233, mode="slow")
def kills(request, node):
    name = request.payload.decode()
    (thread,) = [one for one in threading.enumerate() if one.name == name]
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert raised(ctypes.c_ulong(thread.ident), ctypes.py_object(ZeroDivisionError)) == 1
    return Reply(250)

@command(group=5, code=234)
def begins(request, node):
    threading.Thread(target=lambda: 1 / 0, name="of-a-handler").start()
    logging.getLogger("somebody.else").warning("a word of %s", "somebody's")
    return Reply(250)

class Falls:
    def __del__(self):
        raise KeyError("while cleaned up")

@command(group=5, code=235)
def drops(request, node):
    Falls()
    return Reply(250)

@command(group=5, code=236)
def runs(request, node):
    return Reply(250)
"""
KILL, BEGIN, DROP, RUN = (5, 233), (5, 234), (5, 235), (5, 236)


def endings(
    directory: Path, victim: str, *, store: bool = False
) -> tuple[int, list[dict[str, object]]]:
    """Exit status and log of a node whose thread `victim` dies."""
    (directory / "killer.py").write_text(MODULE)
    http_port = free_port()
    tables: dict[str, Table] = {
        "handlers": {"modules": ["killer"]},
        "log": {"format": "json"},
        "http": {"enabled": True, "port": http_port},
        "admin": {"socket": str(directory / "admin.sock")},
        "network": {"bind": ["127.0.0.1"], "drain_timeout_ms": 500},
    }
    if store:
        make_store(directory / "store")
        tables["store"] = table_of(directory / "store")
    with started_daemon(directory, command=SERVE, args=(), import_paths=(), **tables) as node:
        node.await_ready()
        assert status(udp_ask(node.endpoint, request(KILL, victim.encode()))) == 250
        wakers: dict[str, Callable[[], object]] = {
            "admin": lambda: connect(directory / "admin.sock"),
            "http": lambda: connect_to(http_port),
            "signals": lambda: node.signal(signal.SIGHUP),
            "integrity": lambda: change(node.endpoint),
            "log": lambda: udp_ask(node.endpoint, request(VERSION_COMMAND)),
            "MainThread": lambda: node.signal(signal.SIGHUP),
        }
        wake = wakers.get(victim, lambda: udp_ask(node.endpoint, request(RUN)))
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while node.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                wake()
            node.ended_within(0.1)
        assert node.process.poll() is not None, node.stderr()
        said = node.stderr()
    lines = [json.loads(one) for one in said.splitlines() if one.startswith("{")]
    return node.process.returncode, lines


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def connect_to(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 1).close()


def change(endpoint: Endpoint) -> None:
    """Change a coin: work for the integrity thread."""
    coin = (0, 7)
    udp_ask(endpoint, request(POWN, pown_payload([(coin, default_an(coin), bytes(16))])))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "victim",
    ["requests", "admin", "http", "worker-0", "signals", "integrity"],
)
def test_a_thread_that_dies_ends_the_node(tmp_path: Path, victim: str) -> None:
    ended, lines = endings(tmp_path, victim, store=victim == "integrity")
    assert ended == 1
    (died,) = (line for line in lines if line["event"] == "thread_died")
    assert died["thread"] == victim
    assert "ZeroDivisionError" in str(died["traceback"])
    assert [line["event"] for line in lines if line["event"] == "stopping"]
    assert lines[-1]["event"] == "final_counters"


def test_the_writer_of_the_log_dies(tmp_path: Path) -> None:
    """Other threads write its last lines."""
    ended, lines = endings(tmp_path, "log")
    assert ended == 1
    assert "final_counters" in [line["event"] for line in lines]


def test_the_main_thread_s_fault_is_a_line(tmp_path: Path) -> None:
    ended, lines = endings(tmp_path, "MainThread")
    assert ended == 1
    (failed,) = (line for line in lines if line["event"] == "node_failed")
    assert "ZeroDivisionError" in str(failed["traceback"])


def test_a_handler_s_own_thread_and_object_harm_nobody(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(MODULE)
    handlers = {"modules": ["killer"]}
    with started_daemon(tmp_path, handlers=handlers, log={"format": "json"}) as node:
        node.await_ready()
        for command in (BEGIN, DROP):
            assert status(udp_ask(node.endpoint, request(command))) == 250
        eventually(lambda: '"unraisable"' in node.stderr() and '"thread_died"' in node.stderr())
        assert status(udp_ask(node.endpoint, request(VERSION_COMMAND))) == 250
        assert node.terminate() == 0
        lines = [json.loads(one) for one in node.stderr().splitlines()]
    assert [one["level"] for one in lines if one["message"] == "a word of somebody's"] == [
        "warning"
    ]
    died = {line["event"]: line["traceback"] for line in lines if "traceback" in line}
    assert "ZeroDivisionError" in died["thread_died"]
    assert "while cleaned up" in died["unraisable"]
