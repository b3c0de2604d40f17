"""A node is replaced by its successor under load.

What must hold: one of the two answers every request; no connection is refused; connections between
two requests stay open; the successor's changed settings apply.
"""

import contextlib
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from raida_uring import __version__
from raida_uring.admin.client import result_of
from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.errors import StoreError
from raida_uring.node.upgrade import Takeover
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import default_an
from tests.support.command_line import PROGRAM, output_of
from tests.support.needs import require_descriptors, require_ipv6, require_pid_namespace
from tests.support.net import PATIENCE
from tests.support.node import SERVE, daemon, eventually
from tests.support.store import MAP_BYTES, make_store, table_of, tables_over
from tests.support.upgrade import (
    ANSWER_TIMEOUT_S,
    UPGRADES,
    Client,
    NappingClient,
    PersistentClient,
    PownClient,
    TcpClient,
    UdpClient,
    answers,
    child_of,
    read_reply,
    roots_are_true,
    says,
    serving_process,
    upgradable,
    upgrade,
)
from tests.support.wire import (
    ADMIN_KEY,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    request,
    status,
)


def test_nothing_is_lost(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        clients: list[Client] = [
            *(UdpClient(node.endpoint) for _ in range(3)),
            *(TcpClient(node.endpoint) for _ in range(3)),
            *(PersistentClient(node.endpoint) for _ in range(3)),
            *(PersistentClient(node.endpoint, 0.02) for _ in range(3)),
            NappingClient(node.endpoint),
        ]
        for client in clients:
            client.start()
        for _ in range(UPGRADES):
            answers = [client.answers for client in clients]
            upgrade(node)
            eventually(
                lambda: all(
                    client.answers > before or client.fault
                    for client, before in zip(clients, answers, strict=True)  # noqa: B023  called at once
                ),
                ANSWER_TIMEOUT_S,
            )
        for client in clients:
            client.finish()


def test_ipv6_sockets_pass_on_too(tmp_path: Path) -> None:
    """What may be set before the bind only must not be set again."""
    require_ipv6()
    with upgradable(tmp_path, network={"bind": ["127.0.0.1", "::1"]}) as node:
        upgrade(node)
        with socket.create_connection(("::1", node.endpoint[1]), ANSWER_TIMEOUT_S) as client:
            client.sendall(request(VERSION_COMMAND))
            assert status(read_reply(client)) == Status.SUCCESS


def test_a_node_with_many_connections_is_replaced(tmp_path: Path) -> None:
    """The channel's descriptor is then above 1023, the limit of select()."""
    require_descriptors(1600)
    with upgradable(tmp_path) as node, contextlib.ExitStack() as opened:
        clients = [
            opened.enter_context(socket.create_connection(node.endpoint, ANSWER_TIMEOUT_S))
            for _ in range(1100)
        ]
        for _ in range(2):
            for client in clients:
                client.sendall(request(VERSION_COMMAND))
            assert all(status(read_reply(client)) == Status.SUCCESS for client in clients)
            upgrade(node)
        assert "took over: 1100 connections passed on" in node.stderr()


def test_counters_go_on(tmp_path: Path) -> None:
    """show_stats counts from the first node's start."""
    with upgradable(tmp_path) as node:
        client = UdpClient(node.endpoint)
        client.requests = [request(ECHO_COMMAND)]
        client.start()
        eventually(lambda: client.answers >= 50)
        client.finish()
        upgrade(node)
        asked = UdpClient(node.endpoint)
        reply = asked.ask(request(SHOW_STATS_COMMAND, ADMIN_KEY))
        assert int.from_bytes(reply[32:40], "little") == client.answers


@pytest.mark.any_backend
def test_the_command_says_who_serves(tmp_path: Path) -> None:
    """`raida-uring upgrade` says so, and the successor answers operators next."""
    with upgradable(tmp_path) as node:
        for _ in range(2):
            before = serving_process(node)
            assert output_of(*PROGRAM, "upgrade", "--config", "node.toml", cwd=tmp_path) == (
                f"{__version__} \u2192 {__version__}: "
                f"process {serving_process(node)} serves, {before} leaves\n"
            )
            eventually(
                lambda: (
                    Path(f"/proc/{serving_process(node)}").exists()
                    and node.stderr().count("admin socket") == node.stderr().count("serving on")
                ),
                30 * PATIENCE,
                what=node.stderr,
            )


@pytest.mark.any_backend
def test_the_store_names_who_serves(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with upgradable(tmp_path, store=table_of(store)) as node:
        upgrade(node)
        eventually(lambda: (store / "owner").read_text() == f"{serving_process(node)}\n")


def raida_of(path: Path) -> int | None:
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES, read_only=True)) as store:
        return store.raida_id


@pytest.mark.any_backend
def test_another_store_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """The predecessor's lock does not help, and is released."""
    first, second = (make_store(tmp_path / name) for name in ("first", "second"))
    with upgradable(tmp_path, store=table_of(first)) as node:
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace(str(first), str(second)))
        upgrade(node)
        with pytest.raises(StoreError, match="in use by process"):
            Store(second, map_bytes=MAP_BYTES)
        Store(first, map_bytes=MAP_BYTES).close()
        eventually(lambda: raida_of(second) == raida_of(first) == RAIDA_ID)


def test_connections_find_their_address_again(tmp_path: Path) -> None:
    """Listeners get new numbers when the addresses change."""
    require_ipv6()
    with upgradable(tmp_path, network={"bind": ["127.0.0.1", "::1"]}) as node:
        clients = [PersistentClient((host, node.endpoint[1])) for host in ("::1", "127.0.0.1")]
        for client in clients:
            assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace('["127.0.0.1", "::1"]', '["::1"]'))
        upgrade(node)
        for client in clients:
            assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
            client.connection.close()


@pytest.mark.any_backend
def test_a_new_address_gets_the_port_that_was_free(tmp_path: Path) -> None:
    """Port 0: one number for all addresses, also for one that comes first and later."""
    require_ipv6()
    with upgradable(tmp_path, server={"port": 0}, network={"bind": ["127.0.0.1"]}) as node:
        config = tmp_path / "node.toml"
        config.write_text(config.read_text().replace('["127.0.0.1"]', '["::1", "127.0.0.1"]'))
        upgrade(node)
        path = tmp_path / "admin.sock"
        endpoints = result_of(path, "status")["endpoints"]
        assert [host for host, _ in endpoints] == ["::1", "127.0.0.1"]
        assert len({port for _, port in endpoints}) == 1


def test_a_successor_without_an_admin_socket_takes_connections(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        client = PersistentClient(node.endpoint)
        assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        path = tmp_path / "admin.sock"
        path.unlink()
        path.write_text("something else")
        upgrade(node)
        assert status(client.ask(request(VERSION_COMMAND))) == Status.SUCCESS
        says(node, "no admin socket")
        assert answers(node)
        client.connection.close()


@pytest.mark.any_backend
def test_a_predecessor_of_another_version_is_understood_as_far_as_it_goes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopted: list[int] = []
    carried: list[dict[str, int]] = []

    def carry(counters: dict[str, int]) -> None:
        carried.append(counters)
        if "unheard_of" in counters:
            raise TypeError("unheard_of")

    takeover = Takeover(theirs, [("127.0.0.1", 1, -1, -1)], -1, -1, shared=False)
    takeover.begin(lambda _listener, fd: adopted.append(fd), carry, lambda: None)
    for said in (b"a word of a later version", b'{"unheard_of": 1}', b"[1]"):
        ours.send(said)
    with socket.socket() as passed:
        socket.send_fds(ours, [b"\0"], [passed.fileno()])
    ours.send(b'{"echoes": 7}')
    ours.close()
    eventually(lambda: takeover.gone)
    assert len(adopted) == takeover.adopted == 1
    assert carried[-1] == {"echoes": 7}
    os.close(adopted[0])


@pytest.mark.any_backend
def test_a_connection_without_a_free_descriptor_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel closes it then; what comes after it is heard."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopted: list[int] = []
    carried: list[dict[str, int]] = []
    takeover = Takeover(theirs, [("127.0.0.1", 1, -1, -1)], -1, -1, shared=False)
    takeover.begin(lambda _listener, fd: adopted.append(fd), carried.append, lambda: None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as passed:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            socket.send_fds(ours, [b"\0"], [passed.fileno()])
            eventually(lambda: "no descriptor is left for a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    ours.send(b'{"echoes": 7}')
    ours.close()
    eventually(lambda: takeover.gone)
    assert (adopted, takeover.adopted, carried) == ([], 0, [{"echoes": 7}])
    assert "another version" not in caplog.text


@pytest.mark.any_backend
def test_process_1_of_a_container_says_why_not(tmp_path: Path) -> None:
    """When process 1 ends, all others in its container end, too."""
    require_pid_namespace()
    unshare = ("unshare", "--pid", "--fork", "--kill-child")
    with daemon(tmp_path, command=[*unshare, *SERVE]) as node:
        inside = child_of(node)
        inside.send_signal(signal.SIGUSR2)
        says(node, "this node is process 1 of its container")
        assert answers(node)
        inside.terminate()
        node.process.wait(ANSWER_TIMEOUT_S)


def test_coins_change_across_upgrades(tmp_path: Path) -> None:
    """Both processes write to one store for a moment: no acknowledged change may be missing, and
    the successor's trees must include its predecessor's last change."""
    store = make_store(tmp_path / "store")
    with upgradable(tmp_path, **tables_over(store)) as node:
        host, port = node.endpoint
        asked = Client_(host, port, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        clients = [PownClient(asked, denomination) for denomination in (1, 2, 3)]
        for client in clients:
            client.start()
        for _ in range(UPGRADES):
            before = [len(client.acknowledged) for client in clients]
            upgrade(node)
            eventually(
                lambda: all(
                    client.fault or len(client.acknowledged) > count
                    for client, count in zip(clients, before, strict=True)  # noqa: B023  called at once
                ),
                ANSWER_TIMEOUT_S,
            )
        for client in clients:
            client.stopping = True
            client.join(ANSWER_TIMEOUT_S)
            assert client.fault is None
        changed = [
            Coin(client.denomination, sn, an)
            for client in clients
            for sn, an in client.acknowledged.items()
        ]
        for start in range(0, len(changed), 50):
            coins = changed[start : start + 50]
            assert asked.ask(calls.detect(coins)).status == Status.ALL_PASS

        eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)


def test_tickets_live_on(tmp_path: Path) -> None:
    """A ticket that the predecessor has given a RAIDA is not given to it again."""
    with upgradable(tmp_path, **tables_over(make_store(tmp_path / "store"))) as node:
        host, port = node.endpoint
        asked = Client_(host, port, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        coin = Coin(5, 7, default_an((5, 7)))
        ticket = asked.ask(calls.get_ticket([coin])).value
        assert ticket is not None
        assert ticket.number is not None
        for raida in range(UPGRADES):
            redeem = calls.validate_ticket(raida, ticket.number)
            assert asked.ask(redeem).value == (coin.name,)
            upgrade(node)
            assert asked.ask(redeem).status == Status.TICKET_CLAIMED_ALREADY
