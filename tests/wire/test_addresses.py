"""The addresses a node listens on and answers from.

What must hold: IPv4 and IPv6, TCP and UDP, are served alike; a node bound to a wildcard answers a
datagram from the address that was asked, or the client would drop the reply.
"""

import ipaddress
import socket
from pathlib import Path

import pytest

from raida_uring.client import Client, Transport, calls, resolve
from raida_uring.errors import StartError
from tests.support.needs import require_ipv6
from tests.support.net import Endpoint, tcp_ask, udp_ask, udp_client, udp_exchange
from tests.support.node import Table, running_node
from tests.support.wire import (
    ECHO_COMMAND,
    RAIDA_ID,
    VERSION_COMMAND,
    reply_payload,
    request,
    status,
    vote,
    vote_agreed,
)


def assert_served(endpoint: Endpoint) -> None:
    """Answers of the I/O thread and of a worker, over UDP from the address asked, and TCP."""
    with udp_client(endpoint) as client:
        assert udp_exchange(client, endpoint, vote()) == vote_agreed()
        assert status(udp_exchange(client, endpoint, request(ECHO_COMMAND))) == 250
        version = udp_exchange(client, endpoint, request(VERSION_COMMAND))
        assert reply_payload(version) == b"20250323"
    assert status(tcp_ask(endpoint, request(ECHO_COMMAND))) == 250
    assert reply_payload(tcp_ask(endpoint, request(VERSION_COMMAND))) == b"20250323"


def test_ipv6_alone() -> None:
    require_ipv6()
    with running_node(network={"bind": ["::1"]}) as node:
        assert_served(node.endpoint)


def link_local_address() -> tuple[str, str] | None:
    """An IPv6 address of this machine that is valid on one interface only, and that interface."""
    try:
        rows = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for digits, *_, interface in (row.split() for row in rows):
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if address.is_link_local:
            return str(address), interface
    return None


def test_link_local_address() -> None:
    """Such an address needs its interface; requests to it never leave that interface."""
    found = link_local_address()
    if found is None:
        pytest.skip("no interface with an IPv6 link-local address")
    host = "%".join(found)
    http = {"enabled": True, "listen": host, "port": 0}
    with running_node(network={"bind": [host]}, http=http) as node:
        assert found[0] in (node.server.url or "")
        (_, port) = node.endpoint
        full = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
        with udp_client((host, port)) as client:
            client.connect(full)
            client.send(vote())
            assert client.recv(64) == vote_agreed()
        assert status(tcp_ask((host, port), request(ECHO_COMMAND))) == 250
        assert resolve(host, port) == (socket.AF_INET6, host)
        transport: Transport
        for transport in ("udp", "tcp"):
            asked = Client(host, port, raida_id=RAIDA_ID, transport=transport)
            assert asked.ask(calls.version()).value == "20250323"


@pytest.mark.parametrize(
    "tables",
    [
        {"network": {"bind": ["fe80::1%none0"]}},
        {"http": {"enabled": True, "listen": "fe80::1%none0", "port": 0}},
    ],
)
def test_interface_that_does_not_exist(tables: dict[str, Table]) -> None:
    with (
        pytest.raises(StartError, match="no interface of that name"),
        running_node(**tables),
    ):
        pass


def test_http_on_an_interface_s_own_address() -> None:
    """The form is right, but loopback has no such address."""
    require_ipv6()
    table = {"enabled": True, "listen": "fe80::1%lo", "port": 0}
    with (
        pytest.raises(StartError, match="listen there: Cannot assign requested address"),
        running_node(http=table),
    ):
        pass


@pytest.mark.parametrize("bind", [["0.0.0.0"], ["127.0.0.1", "127.0.0.2", "127.0.0.3"]])
def test_answers_from_the_address_asked(bind: list[str]) -> None:
    with running_node(network={"bind": bind}) as node:
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            assert_served((host, node.endpoint[1]))


def test_without_bind_every_address_of_both_families() -> None:
    require_ipv6()
    with running_node(network={"bind": None}) as node:
        port = node.endpoint[1]
        assert {port} == {bound for _, bound in node.server.endpoints}
        for host in ("127.0.0.1", "127.0.0.2", "::1"):
            assert_served((host, port))


@pytest.mark.parametrize(
    ("bind", "listen", "said"),
    [
        (["::"], ["127.0.0.1"], ["[network] bind"]),
        (["::1"], ["::"], ["[http] listen"]),
        (["0.0.0.0", "::"], ["::", "127.0.0.1"], []),
    ],
)
def test_a_socket_for_ipv6_alone_is_logged(
    bind: list[str], listen: list[str], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As a program elsewhere would take IPv4 on the same socket."""
    require_ipv6()
    caplog.set_level("INFO", "raida_uring")
    http = {"enabled": True, "listen": listen, "port": 0}
    with running_node(network={"bind": bind}, http=http) as node:
        told = [line for line in caplog.messages if "takes IPv6 only" in line]
        assert [line.partition(":")[0] for line in told] == said
        if bind == ["::"]:
            with pytest.raises(ConnectionRefusedError):
                tcp_ask(("127.0.0.1", node.endpoint[1]), request(ECHO_COMMAND))


def test_one_port_for_both_transports_and_all_addresses() -> None:
    """Port 0 chooses one port that every bound address and both transports share."""
    with running_node(network={"bind": ["127.0.0.1", "127.0.0.2"]}) as node:
        hosts = sorted(host for host, _ in node.server.endpoints)
        assert set(hosts) == {"127.0.0.1", "127.0.0.2"}
        assert len({port for _, port in node.server.endpoints}) == 1


def test_interleaved_addresses_are_not_mixed_up() -> None:
    """Replies in flight at once each go out from their own request's address."""
    with running_node(network={"bind": ["0.0.0.0"]}) as node:
        port = node.endpoint[1]
        hosts = [f"127.0.0.{last}" for last in range(1, 9)]
        with udp_client(("127.0.0.1", port)) as client:
            for index in range(400):
                sent = request(VERSION_COMMAND, echo=index)
                client.sendto(sent, (hosts[index % len(hosts)], port))
            for _ in range(400):
                reply, source = client.recvfrom(2048)
                index = int.from_bytes(reply[6:8])
                assert source == (hosts[index % len(hosts)], port)
        assert udp_ask((hosts[-1], port), vote()) == vote_agreed()
