"""A reply that is not sent as its handler gave it takes back what the handler has changed.

What must hold, whoever wrote the command: a client that is told to ask over TCP (89), or that the
node failed (252), finds its coins as they were; any other finds them changed.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from raida_uring.protocol.layout import HEADER_SMALL, HMAC_SIZE, TERMINATOR_SIZE, UDP_PAYLOAD_MAX
from tests.support.coin_requests import (
    GET_TICKET,
    VALIDATE_TICKET,
    an_of,
    ask,
    detects,
)
from tests.support.coins import Coins
from tests.support.handlers import blob_bytes, gate
from tests.support.net import tcp_ask, udp_ask, udp_client
from tests.support.node import Node, eventually, running_node
from tests.support.store import Coin, coin_bytes, make_recorded_store, tables_over
from tests.support.wire import reply_payload, request, status
from tests.support.write_handlers import CHANGE_AND_ANSWER, MODULES
from tests.wire.test_encryption import Sealed

FACTOR = 16
COIN: Coin = (1, 10)
OLD, NEW = Coins().an(*COIN) or b"", an_of("new")
FRAME = HEADER_SMALL + TERMINATOR_SIZE


def wants(size: int) -> bytes:
    """The payload of a request to change COIN and to answer with so many bytes."""
    return coin_bytes(COIN) + NEW + size.to_bytes(4)


def room(asked: bytes) -> int:
    """The most that a plain request is answered with over UDP."""
    return FACTOR * len(asked) - FRAME


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """That of the recordings, in which Sealed finds its keys."""
    return make_recorded_store(tmp_path / "store")


def serving(store: Path, factor: int) -> AbstractContextManager[Node]:
    limits = {"udp_reply_factor_max": factor}
    return running_node(**tables_over(store), handlers=MODULES, limits=limits)


@pytest.fixture
def node(store: Path) -> Iterator[Node]:
    with serving(store, FACTOR) as started:
        yield started


def set_factor(node: Node, factor: int) -> None:
    """As a reload of the configuration does; returns once the data plane goes by it."""
    limits = dataclasses.replace(node.server.config.limits, udp_reply_factor_max=factor)
    node.server.reload(dataclasses.replace(node.server.config, limits=limits))


def is_changed(node: Node) -> bool:
    """Whether COIN has its new AN; it must have one of both."""
    changed = detects(node.endpoint, {COIN: NEW})
    assert changed or detects(node.endpoint, {COIN: OLD})
    return changed


def test_one_byte_too_many_over_udp_changes_nothing(node: Node) -> None:
    most = room(request(CHANGE_AND_ANSWER, wants(0)))
    refused = request(CHANGE_AND_ANSWER, wants(most + 1))
    assert status(udp_ask(node.endpoint, refused)) == Status.NOT_IMPLEMENTED
    assert not is_changed(node)
    node.wait_for_counts(refused_factors=1)
    assert reply_payload(udp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(most)))) == (
        blob_bytes(most)
    )
    assert is_changed(node)


def test_what_goes_with_a_change_is_taken_back_as_well(store: Path) -> None:
    """What was to be done after the commit."""
    with serving(store, FACTOR) as node:
        assert status(udp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(9000)))) == 89
        assert node.server.stats().coins_powned == 0


def test_tcp_has_proven_its_address(node: Node) -> None:
    assert reply_payload(tcp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(9000)))) == (
        blob_bytes(9000)
    )
    assert is_changed(node)


def test_a_reply_without_payload_always_fits(store: Path) -> None:
    with serving(store, 1) as node:
        assert status(udp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(0)))) == 250
        assert is_changed(node)


def test_what_no_datagram_holds_changes_nothing(node: Node) -> None:
    set_factor(node, 0)
    most = UDP_PAYLOAD_MAX - FRAME
    assert status(udp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(most + 1)))) == 252
    assert not is_changed(node)
    assert status(udp_ask(node.endpoint, request(CHANGE_AND_ANSWER, wants(most)))) == 250
    assert is_changed(node)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_an_encrypted_reply_counts_with_its_seal(node: Node, encryption: int) -> None:
    extra = FRAME if encryption == 1 else FRAME + 16 + HMAC_SIZE
    most = FACTOR * len(Sealed(encryption, CHANGE_AND_ANSWER, wants(0)).request) - extra
    for size, expected in ((most + 1, Status.NOT_IMPLEMENTED), (most, Status.SUCCESS)):
        sealed = Sealed(encryption, CHANGE_AND_ANSWER, wants(size))
        answered, payload = sealed.read(udp_ask(node.endpoint, sealed.request))
        assert (answered, len(payload)) == (expected, size if size == most else 0)
        assert is_changed(node) == (size == most)


@pytest.mark.parametrize(("before", "now"), [(0, FACTOR), (FACTOR, 0)])
def test_a_reload_counts_for_requests_that_are_not_yet_begun(
    node: Node, before: int, now: int
) -> None:
    """The handler that runs meanwhile is answered as its changes are kept."""
    set_factor(node, before)
    asked = request(CHANGE_AND_ANSWER, wants(9000))
    with udp_client(node.endpoint) as client:
        with gate.closed():
            client.sendto(asked, node.endpoint)
            eventually(lambda: gate.inside == 1)
            set_factor(node, now)
        assert (status(client.recv(65536)) == 250) == (before == 0)
    assert is_changed(node) == (before == 0)
    assert (status(udp_ask(node.endpoint, asked)) == 250) == (now == 0)
    assert is_changed(node)


@pytest.mark.parametrize("now", [0, FACTOR])
def test_a_ticket_too_long_for_udp_is_there_for_tcp(node: Node, now: int) -> None:
    """By the limit that a reload has set."""
    set_factor(node, FACTOR - now)
    coin = coin_bytes(COIN)
    _, ticket = ask(node.endpoint, GET_TICKET, (coin + OLD) * 200)
    set_factor(node, now)
    asked = node.endpoint, VALIDATE_TICKET, b"\7" + ticket
    if now == FACTOR:
        assert ask(*asked, "udp")[0] == Status.NOT_IMPLEMENTED
        assert ask(*asked) == (Status.SUCCESS, coin * 200)
    else:
        assert ask(*asked, "udp") == (Status.SUCCESS, coin * 200)
    assert ask(*asked)[0] == Status.TICKET_CLAIMED_ALREADY
