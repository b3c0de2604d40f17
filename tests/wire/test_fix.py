"""fix, with the other RAIDA played by sockets of this test.

What must hold: a coin gets its new AN when at least 13 others name it, never before; nothing that
a peer answers, and no peer that does not answer, has any other effect.
Source: wire specification, section 6.3.
"""

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raida_uring.handlers import peers
from raida_uring.protocol import Status
from tests.support.coin_requests import FIX, an_of, ask, default_an, detects
from tests.support.handlers import SLOW_HOLD, gate
from tests.support.net import ANSWER_TIMEOUT_S, udp_client, udp_exchange
from tests.support.node import HANDLERS, Node, running_node
from tests.support.store import Coin, coin_bytes, make_store, table_of
from tests.support.wire import COIN_ID, RAIDA_ID, VERSION_COMMAND, reply_payload, request, status

Answer = Callable[[socket.socket, bytes], None]
GROUP = an_of("PG")
COIN: Coin = (-2, 70_000)
OTHER: Coin = (6, 3)
OTHERS = [raida for raida in range(25) if raida != RAIDA_ID]


def reply_to(data: bytes, named: bytes, **changed: int) -> bytes:
    """The reply of the peer that was asked; `changed` replaces parts of it."""
    body = named + b"\x3e\x3e" if named else b""
    return (
        struct.pack(
            ">BBBBHH",
            changed.get("raida", data[2]),
            0,
            changed.get("status", 250),
            changed.get("group", 2),
            1,
            changed.get("echo", int.from_bytes(data[30:32])),
        )
        + bytes(1)
        + changed.get("size", len(body)).to_bytes(3)
        + bytes(4)
        + (data[32:48] if changed.get("proof", 1) else bytes(16))
        + body
    )


def naming(*coins: Coin) -> Answer:
    """A peer that redeems the ticket."""
    named = b"".join(map(coin_bytes, coins))
    return lambda client, data: client.sendall(reply_to(data, named))


class Peers:
    """25 listening sockets; `answers` says what each does with a request."""

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.asked: dict[int, list[bytes]] = {raida: [] for raida in range(25)}
        self.stopping = threading.Event()
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(25)]
        self.addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in self._listeners]
        self._threads = [threading.Thread(target=self._run, args=(raida,)) for raida in range(25)]

    def __enter__(self) -> "Peers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()

    def _run(self, raida: int) -> None:
        while True:
            try:
                client, _ = self._listeners[raida].accept()
            except OSError:
                return
            with client, contextlib.suppress(ConnectionError):
                client.settimeout(ANSWER_TIMEOUT_S)
                data = client.recv(4096)
                self.asked[raida].append(data)
                if raida in self.answers:
                    self.answers[raida](client, data)


@pytest.fixture
def others() -> Iterator[Peers]:
    """All RAIDA but this one."""
    with Peers() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path, others: Peers) -> Iterator[Node]:
    """A node that knows them."""
    store = make_store(tmp_path / "store")
    with running_node(
        server={"raida_servers": others.addresses},
        store=table_of(store),
        workers={"slow_count": 2},
        limits={"slow_queue_max": 2},
        handlers=HANDLERS,
    ) as started:
        yield started


def tickets_for(raidas: list[int]) -> bytes:
    """The 25 tickets of a request; zero for those that are not to be asked."""
    return b"".join(
        (0xABCD0000 + raida if raida in raidas else 0).to_bytes(4) for raida in range(25)
    )


def fix(node: Node, coins: list[Coin], raidas: list[int]) -> tuple[int, bytes]:
    """Ask for it."""
    payload = b"".join(map(coin_bytes, coins)) + GROUP + tickets_for(raidas)
    return ask(node.endpoint, FIX, payload)


def fixed_an(coin: Coin) -> bytes:
    """Section 6.3."""
    return hashlib.md5(
        bytes((RAIDA_ID,)) + coin_bytes(coin) + GROUP, usedforsecurity=False
    ).digest()


def test_twelve_others_are_not_enough(node: Node, others: Peers) -> None:
    others.answers = dict.fromkeys(OTHERS[:12], naming(COIN))
    assert fix(node, [COIN], OTHERS) == (Status.ALL_FAIL, b"")
    assert detects(node.endpoint, {COIN: default_an(COIN)})
    assert all(len(asked) <= (raida != RAIDA_ID) for raida, asked in others.asked.items())


def test_thirteen_are(node: Node, others: Peers) -> None:
    others.answers = dict.fromkeys(OTHERS[-13:], naming(OTHER, COIN, COIN))
    assert fix(node, [COIN], OTHERS[-13:]) == (Status.ALL_PASS, b"")
    assert detects(node.endpoint, {COIN: fixed_an(COIN), OTHER: default_an(OTHER)})
    for raida, asked in others.asked.items():
        if raida not in OTHERS[-13:]:  # a ticket of zero is no ticket
            assert asked == []
            continue
        (data,) = asked
        assert data[:16] == bytes((1, 0, raida, 0, 2, 50)) + COIN_ID.to_bytes(2) + data[8:16]
        assert len(data) == 55
        assert data[16:24] == bytes(6) + (23).to_bytes(2)
        assert data[48:] == bytes((RAIDA_ID,)) + (0xABCD0000 + raida).to_bytes(4) + b"\x3e\x3e"


def test_each_coin_has_its_own_votes(node: Node, others: Peers) -> None:
    third: Coin = (0, 1)
    others.answers = dict.fromkeys(OTHERS[:12], naming(COIN, third))
    others.answers |= dict.fromkeys(OTHERS[12:13], naming(third))
    others.answers |= dict.fromkeys(OTHERS[13:], naming(OTHER))
    assert fix(node, [COIN, third, OTHER], OTHERS) == (Status.MIXED, b"\x02")
    assert detects(
        node.endpoint,
        {COIN: default_an(COIN), third: fixed_an(third), OTHER: default_an(OTHER)},
    )


def stray(client: socket.socket, data: bytes) -> None:
    """Bytes that are no reply."""
    client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 3)


def endless(client: socket.socket, data: bytes) -> None:
    """A reply whose size field says 16 MiB, and as much as is taken of it."""
    client.sendall(reply_to(data, b"", size=0xFFFFFF))
    for _ in range(1024):
        client.sendall(coin_bytes(COIN) * 4000)


WRONG: dict[str, Answer] = {
    "garbage": stray,
    "nothing": lambda client, _data: client.shutdown(socket.SHUT_WR),
    "half a header": lambda client, data: client.sendall(reply_to(data, b"")[:20]),
    "half a body": lambda client, data: client.sendall(reply_to(data, coin_bytes(COIN))[:-1]),
    "a long header": lambda client, data: client.sendall(
        reply_to(data, b"")[:32] + bytes(16) + coin_bytes(COIN) + b"\x3e\x3e"
    ),
    "a long header that counts": lambda client, data: client.sendall(
        reply_to(data, b"", size=7) + bytes(16) + coin_bytes(COIN) + b"\x3e\x3e"
    ),
    "another echo": lambda client, data: client.sendall(
        reply_to(data, coin_bytes(COIN), echo=int.from_bytes(data[30:32]) ^ 1)
    ),
    "another RAIDA": lambda client, data: client.sendall(
        reply_to(data, coin_bytes(COIN), raida=RAIDA_ID)
    ),
    "another group": lambda client, data: client.sendall(reply_to(data, coin_bytes(COIN), group=1)),
    "no proof that the request was read": lambda client, data: client.sendall(
        reply_to(data, coin_bytes(COIN), proof=0)
    ),
    "a refusal": lambda client, data: client.sendall(reply_to(data, coin_bytes(COIN), status=43)),
    "a coin cut short": lambda client, data: client.sendall(
        reply_to(data, coin_bytes(COIN) + b"\0")
    ),
    "no coins": lambda client, data: client.sendall(reply_to(data, b"")),
    "endless": endless,
}


@pytest.mark.parametrize("how", WRONG)
def test_a_peer_that_answers_wrongly_has_no_vote(node: Node, others: Peers, how: str) -> None:
    others.answers = dict.fromkeys(OTHERS[:12], naming(COIN))
    others.answers |= dict.fromkeys(OTHERS[12:], WRONG[how])
    assert fix(node, [COIN], OTHERS) == (Status.ALL_FAIL, b"")
    others.answers[OTHERS[12]] = naming(COIN)
    assert fix(node, [COIN], OTHERS) == (Status.ALL_PASS, b"")
    assert detects(node.endpoint, {COIN: fixed_an(COIN)})


def test_silent_peers_delay_nobody(
    node: Node, others: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the other peers beyond the time limit, nor any other command."""
    limit_s = 1.0
    monkeypatch.setattr(peers, "TIMEOUT_S", limit_s)
    entered = threading.Semaphore(0)

    def hold(_client: socket.socket, _data: bytes) -> None:
        entered.release()
        others.stopping.wait(ANSWER_TIMEOUT_S)

    others.answers = dict.fromkeys(OTHERS[:12], naming(COIN))
    others.answers |= dict.fromkeys(OTHERS[12:], hold)
    found: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: found.append(fix(node, [COIN], OTHERS)))
    started = time.monotonic()
    asking.start()
    for _ in OTHERS[12:]:
        assert entered.acquire(timeout=ANSWER_TIMEOUT_S)
    with udp_client(node.endpoint) as client:
        for command in (VERSION_COMMAND, (1, 10), (2, 40)):
            udp_exchange(client, node.endpoint, request(command, bytes(21)))
    asking.join()
    assert found == [(Status.ALL_FAIL, b"")]
    assert limit_s <= time.monotonic() - started < ANSWER_TIMEOUT_S
    assert detects(node.endpoint, {COIN: default_an(COIN)})


def test_what_silent_peers_cannot_change_is_answered_at_once(node: Node, others: Peers) -> None:
    """Long before the time-out."""
    started = time.monotonic()

    def hold(_client: socket.socket, _data: bytes) -> None:
        others.stopping.wait()

    others.answers = dict.fromkeys(OTHERS[:11], naming(OTHER, COIN))
    others.answers |= dict.fromkeys(OTHERS[11:23], naming(COIN))
    others.answers |= dict.fromkeys(OTHERS[23:], hold)
    assert fix(node, [COIN, OTHER], OTHERS) == (Status.MIXED, b"\x01")
    assert detects(node.endpoint, {COIN: fixed_an(COIN), OTHER: default_an(OTHER)})
    others.answers = dict.fromkeys(OTHERS[:13], naming(OTHER))
    others.answers |= dict.fromkeys(OTHERS[13:], hold)
    assert fix(node, [OTHER], OTHERS) == (Status.ALL_PASS, b"")
    assert time.monotonic() - started < peers.TIMEOUT_S  # of both together
    assert detects(node.endpoint, {OTHER: fixed_an(OTHER)})


def test_a_resolver_that_hangs_delays_nobody(
    tmp_path: Path, others: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an impossible host name costs only its vote."""
    resolve = socket.getaddrinfo

    def hang(host: str, *given: Any, **further: Any) -> object:
        if host == "silent.invalid" and not further.get("flags", 0) & socket.AI_NUMERICHOST:
            others.stopping.wait()  # as while a name server does not answer
        return resolve(host, *given, **further)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(peers, "TIMEOUT_S", 1.0)
    for raida in OTHERS[14:]:
        others.addresses[raida] = f"silent.invalid:{raida}"
    others.addresses[OTHERS[13]] = "no..name:1"
    others.answers = dict.fromkeys(OTHERS[:12], naming(COIN))
    with running_node(
        server={"raida_servers": others.addresses},
        store=table_of(make_store(tmp_path / "store")),
    ) as node:
        assert fix(node, [COIN], OTHERS[:12] + OTHERS[13:]) == (Status.ALL_FAIL, b"")
        others.answers[OTHERS[12]] = naming(COIN)
        assert fix(node, [COIN], OTHERS) == (Status.ALL_PASS, b"")
        others.stopping.set()


def test_a_full_slow_pool_refuses(node: Node, others: Peers) -> None:
    """Two run, two wait: the fifth is told so at once, and the rest are answered later."""
    payload = coin_bytes(COIN) + GROUP + tickets_for([])
    with udp_client(node.endpoint) as client:
        with gate.closed():
            for sent in range(1, 5):
                client.sendto(request(SLOW_HOLD), node.endpoint)
                node.wait_for(lambda now, sent=sent: now["udp_received"] == sent)  # type: ignore[misc]
            refused = udp_exchange(client, node.endpoint, request(FIX, payload))
            assert status(refused) == Status.REQUEST_RATE
            version = udp_exchange(client, node.endpoint, request(VERSION_COMMAND))
            assert len(reply_payload(version)) == 8
        for _ in range(4):
            assert status(client.recv(2048)) == Status.SUCCESS
    assert fix(node, [COIN], [])[0] == Status.ALL_FAIL
