"""Between two nodes that both serve.

What must hold: either may be told to stop, fail or be killed; the other one goes on, with
everything that only one can have.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import time
from pathlib import Path

import pytest

from raida_uring.admin.client import result_of
from raida_uring.admin.server import PROGRESS_INTERVAL_S
from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.errors import StoreError
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import POWN, default_an, pown_payload
from tests.support.coin_requests import ask as coins_ask
from tests.support.handlers import UNTIL
from tests.support.node import await_told, eventually, free_port, told
from tests.support.store import MAP_BYTES, make_store, table_of, tables_over
from tests.support.upgrade import (
    ANSWER_TIMEOUT_S,
    CAUSES,
    PersistentClient,
    answers,
    child_of,
    fail,
    gone,
    handing_over,
    held_request,
    read_reply,
    roots_are_true,
    says,
    serves_operators,
    serving_process,
    slow_to_start,
    states,
    stop_until,
    upgradable,
    upgrade,
)
from tests.support.wire import RAIDA_ID, VERSION_COMMAND, request, status


def test_a_connection_whose_handler_runs_is_passed_on(tmp_path: Path) -> None:
    """As soon as it is answered, and not at the drain's deadline."""
    held = tmp_path / "held"
    with (
        upgradable(tmp_path, network={"drain_timeout_ms": 60000}) as node,
        socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) as client,
    ):
        client.sendall(request(UNTIL, str(held).encode()))
        eventually(lambda: "handler" in states(node, tmp_path))
        node.signal(signal.SIGUSR2)
        says(node, "stopping: up to")
        held.touch()
        assert status(read_reply(client)) == Status.SUCCESS
        says(node, "took over: 1 connections passed on")
        client.sendall(request(VERSION_COMMAND))
        assert status(read_reply(client)) == Status.SUCCESS


def test_upgrades_wait_for_each_other(tmp_path: Path) -> None:
    """A connection is passed on to a process that keeps it."""
    with upgradable(tmp_path) as node:
        idle = PersistentClient(node.endpoint)
        assert status(idle.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            os.kill(serving_process(node), signal.SIGUSR2)
            os.kill(serving_process(node), signal.SIGHUP)
            says(node, "reloaded: ")  # heard, and the other before it
            assert node.stderr().count("upgrade: starting the successor") == 1
        says(node, "the predecessor is gone", 2)
        assert status(idle.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        idle.connection.close()


def test_a_successor_told_to_stop_waits_for_its_predecessor(tmp_path: Path) -> None:
    """And serves: the sockets are not its own yet, so that nothing may be put in their way. The
    service manager is told how long that may take."""
    with upgradable(tmp_path, network={"drain_timeout_ms": 77000}) as node:
        with handing_over(node, tmp_path) as successor:
            told(node.notify)
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            eventually(lambda: "EXTEND_TIMEOUT_USEC=107000000" in told(node.notify))
            assert answers(node)
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0
        eventually(lambda: gone(successor), ANSWER_TIMEOUT_S)
        assert node.stderr().count("final counters") == 2


def test_a_stop_of_all_processes_drops_nothing(tmp_path: Path) -> None:
    """As systemctl stop does in the middle of an upgrade: a first signal is no second one."""
    with upgradable(tmp_path) as node:
        with handing_over(node, tmp_path) as successor:
            node.signal(signal.SIGTERM)
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            eventually(lambda: re.search("leaving already|at once", node.stderr()) is not None)
        eventually(lambda: gone(successor), ANSWER_TIMEOUT_S)
        assert "at once" not in node.stderr()


def test_a_successor_that_dies_is_replaced_by_its_predecessor(tmp_path: Path) -> None:
    """Only the requests that it had taken are lost."""
    web = free_port()
    http_table: dict[str, object] = {"enabled": True, "port": web}
    with upgradable(tmp_path, http=http_table) as node:
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            told(node.notify)
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            assert answers(node)
            eventually(lambda: serves_operators(tmp_path, web) == node.process.pid)
            await_told(node.notify, f"MAINPID={node.process.pid}\n")
        assert "was killed by Killed (9)" in node.stderr()
        node.signal(signal.SIGUSR2)  # and it can still be replaced
        says(node, "the predecessor is gone")
        assert answers(node)


@pytest.mark.any_backend
def test_a_successor_that_fails_is_not_the_end_of_the_service(tmp_path: Path) -> None:
    """Otherwise the service manager would regard the service as stopping, and kill the node."""
    store = make_store(tmp_path / "store")
    tables = table_of(store)
    with upgradable(tmp_path, store=tables) as node:
        with handing_over(node, tmp_path):
            told(node.notify)
            fail(node, "loop")
            says(node, "the successor ended with status 1: this node serves again")
            said = await_told(node.notify, f"MAINPID={node.process.pid}\n")
            assert "STOPPING=1" not in said
        assert answers(node)
        changes = pown_payload([((1, 5), default_an((1, 5)), bytes(16))])
        assert coins_ask(node.endpoint, POWN, changes, "udp")[0] == Status.ALL_PASS


@pytest.mark.any_backend
def test_a_flush_that_failed_ends_both(tmp_path: Path) -> None:
    """What the disk has of the journal is not known then, whichever process asked for the flush:
    writing on could lose what is acknowledged, so the service manager starts the node again."""
    store = make_store(tmp_path / "store")
    with upgradable(tmp_path, store=table_of(store)) as node:
        with handing_over(node, tmp_path):
            fail(node, "store")
            says(node, "the successor ended with status 1: this node serves again")
        assert node.process.wait(ANSWER_TIMEOUT_S) == 1
        assert node.stderr().count(CAUSES["store"]) == 2


@pytest.mark.any_backend
def test_what_is_left_to_a_successor_is_not_opened_again(tmp_path: Path) -> None:
    """A node still tries to open the port of HTTP, in vain, when the next upgrade comes: the
    admin socket that it has just left must be its successor's."""
    web = free_port()
    with (
        upgradable(tmp_path, http={"enabled": True, "port": web}) as node,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        config = tmp_path / "node.toml"
        good = config.read_text()
        config.write_text(good.replace(f"port = {web}", f"port = {taken.getsockname()[1]}"))
        upgrade(node)
        config.write_text(good)
        with held_request(node, tmp_path):
            os.kill(serving_process(node), signal.SIGUSR2)
            says(node, "stopping: up to", 2)
            eventually(lambda: serves_operators(tmp_path, web) == serving_process(node))
        says(node, "the predecessor is gone", 2)


@pytest.mark.any_backend
def test_a_successor_that_ends_by_itself_ends_the_service(tmp_path: Path) -> None:
    """Told to stop twice it does not wait for its predecessor, which stops then, too; what waits
    in the sockets is answered."""
    with upgradable(tmp_path) as node:
        with handing_over(node, tmp_path) as successor:
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            stop_until(node, successor, "ended with status 0")
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0


def test_a_stop_of_both_is_one_stop_for_each(tmp_path: Path) -> None:
    """The successor's end on a stop does not make the predecessor's first signal a second one."""
    with upgradable(tmp_path) as node:
        with handing_over(node, tmp_path) as successor:
            node.signal(signal.SIGTERM)
            says(node, "leaving already")
            os.kill(successor, signal.SIGTERM)
            says(node, "stopping once the predecessor is gone")
            stop_until(node, successor, "ended with status 0")
            says(node, "stopping: up to 10.0 s", 2)
            node.signal(signal.SIGUSR2)
            says(node, "told to upgrade: leaving already")
        assert node.process.wait(ANSWER_TIMEOUT_S) == 0


@pytest.mark.any_backend
def test_a_node_that_serves_again_waits_to_be_asked(tmp_path: Path) -> None:
    """A signal that came while the successor started has had its upgrade."""
    with slow_to_start(tmp_path) as node:
        # One after the other: of two that wait the lesser number is heard first.
        node.signal(signal.SIGUSR2)
        says(node, "told to upgrade: a successor is starting already")
        node.signal(signal.SIGHUP)
        says(node, "reloaded: ")
        with held_request(node, tmp_path):
            (tmp_path / "hold").unlink()
            says(node, "stopping: up to")
            node.signal(signal.SIGUSR2)
            says(node, f"told to upgrade: process {serving_process(node)} serves already, ask that")
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            for times in (2, 3):
                node.signal(signal.SIGHUP)
                says(node, "reloaded: ", times)
        assert node.stderr().count("upgrade: starting the successor") == 1


def test_a_predecessor_that_is_killed_leaves_everything_to_its_successor(tmp_path: Path) -> None:
    web = free_port()
    store = make_store(tmp_path / "store")
    tables: dict[str, dict[str, object]] = {
        "http": {"enabled": True, "port": web},
        "store": table_of(store),
    }
    held = request(UNTIL, str(tmp_path / "never").encode())
    with upgradable(tmp_path, **tables) as node:
        with socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) as client:
            client.sendall(held)
            eventually(lambda: "handler" in states(node, tmp_path))
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            node.kill()
        says(node, "took over: ")
        assert answers(node)
        eventually(lambda: serves_operators(tmp_path, web) == serving_process(node))
        assert (store / "owner").read_text() == f"{serving_process(node)}\n"
        with pytest.raises(StoreError, match=f"in use by process {serving_process(node)}"):
            Store(store, map_bytes=MAP_BYTES)


def test_a_connection_that_woke_a_dead_predecessor_is_served(tmp_path: Path) -> None:
    """A connection wakes one of the accepting processes. If that one dies first, the other one must
    find the connection. Connections that it accepted just before its death are reset; none
    hangs."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        node.signal(signal.SIGSTOP)
        waiting = [socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S) for _ in range(8)]
        for client in waiting:
            client.sendall(request(VERSION_COMMAND))
        node.kill()
        for client in waiting:
            with client, contextlib.suppress(ConnectionError):
                assert status(read_reply(client)) == Status.SUCCESS
        says(node, "admin socket", 2)  # no message tells it that the first one is free
        told_by = result_of(tmp_path / "admin.sock", "status")
        assert told_by["process"] == successor.pid
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)


def test_the_sockets_of_a_dead_predecessor_come_first(tmp_path: Path) -> None:
    """They are taken over before a service manager that does not listen is told."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        node.signal(signal.SIGSTOP)  # it does not hand over
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler,
            contextlib.suppress(BlockingIOError),
        ):
            filler.setblocking(False)
            while True:
                filler.sendto(b"READY=1", node.notify.getsockname())
        node.kill()
        says(node, "cannot notify the service manager")
        said = node.stderr()
        assert 0 <= said.find("took over: ") < said.find("cannot notify the service manager")
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)


@pytest.mark.any_backend
def test_a_drain_while_the_predecessor_leaves_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with upgradable(tmp_path) as node:
        with (
            handing_over(node, tmp_path),
            socket.socket(socket.AF_UNIX) as client,
            client.makefile() as answers,
        ):
            client.connect(str(path))
            for command in ("drain", "log-level"):
                client.sendall(b'{"command": "%s"}\n' % command.encode())
                time.sleep(2 * PROGRESS_INTERVAL_S)  # in which no progress is told
            assert "ask again in a moment" in answers.readline()
            assert "level" in answers.readline()
        says(node, "the predecessor is gone")


@pytest.mark.any_backend
def test_what_a_dead_successor_changed_is_in_the_trees(tmp_path: Path) -> None:
    """The predecessor's trees follow its commits."""
    store = make_store(tmp_path / "store")
    with upgradable(tmp_path, **tables_over(store)) as node:
        asked = Client_(*node.endpoint, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        with held_request(node, tmp_path):
            node.signal(signal.SIGUSR2)
            says(node, "stopping: up to")
            new = secrets.token_bytes(16)
            coin = Coin(1, 5000, default_an((1, 5000)))
            assert asked.ask(calls.pown([(coin, new)])).status == Status.ALL_PASS
            os.kill(serving_process(node), signal.SIGKILL)
            says(node, "this node serves again")
            assert asked.ask(calls.detect([Coin(1, 5000, new)])).status == Status.ALL_PASS
            eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)
