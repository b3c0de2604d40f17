"""Guessers: a source that fails too many checks of a key or another secret gets no more checks.

What must hold: however fast one source guesses, its bound of checks is made and no more; past it a
right request is answered no better than a wrong one, so that the answer tells nothing; clients of
other sources, and the owner of the coin that is guessed at, notice nothing over TCP.
"""

import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raida_uring import config
from raida_uring.protocol import Coin, sealing
from raida_uring.protocol.sealing import Key
from tests.support.coin_requests import GET_TICKET, VALIDATE_TICKET, ask, default_an
from tests.support.coins import Coins
from tests.support.handlers import MIRROR
from tests.support.net import (
    ANSWER_TIMEOUT_S,
    DATAGRAM_BYTES_MAX,
    RECEIVE_BUFFER_BYTES,
    Endpoint,
    read_exactly,
    read_to_close,
    tcp_connect,
    udp_exchange,
)
from tests.support.node import HANDLERS, Node, Table, eventually, running_node
from tests.support.store import coin_bytes, make_store
from tests.support.wire import (
    ADMIN_KEY,
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    request,
    status,
)

GUESSER, GOOD, OTHER = "127.0.0.2", "127.0.1.3", "127.0.2.4"  # networks of their own
BURST = 20
LIMITS: Table = {"failed_checks_burst": None}  # None: the default, which other tests switch off
COINS = Coins()
GUESSES = 2000


def key_of(encryption: int, sn: int, *, right: bool) -> Key:
    numbers = [(0, sn), (2, sn + 1)] if encryption == 5 else [(0, sn)]
    ans = (COINS.an(den, number) or b"" for den, number in numbers)
    coins = [
        Coin(den, number, an if right else bytes(16))
        for (den, number), an in zip(numbers, ans, strict=True)
    ]
    return Key(encryption, tuple(coins))


def sealed(group: int, command: int, encryption: int, sn: int, *, right: bool) -> bytes:
    key = key_of(encryption, sn, right=right)
    nonce = bytes(key.nonce_bytes)
    return sealing.seal_request(
        group, command, key=key, nonce=nonce, raida_id=RAIDA_ID, coin_id=COIN_ID
    )


def sealed_echo(encryption: int, sn: int, *, right: bool) -> bytes:
    return sealed(*ECHO_COMMAND, encryption, sn, right=right)


def guesses(encryption: int, count: int = GUESSES) -> Iterator[bytes]:
    """Wrong keys, each for another coin, so that no coin's own bound is met."""
    return (sealed_echo(encryption, 10 + 2 * number, right=False) for number in range(count))


def udp_from(source: str) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    client.settimeout(ANSWER_TIMEOUT_S)
    client.bind((source, 0))
    return client


def flood(node: Node, source: str, requests: Iterable[bytes]) -> tuple[Counter[int], float]:
    """Send all as fast as it goes; statuses of what was answered, and how long it took in s.

    What is not answered was dropped: the node's own count tells when it has seen everything.
    """
    before = node.counters()["udp_received"]
    began = time.monotonic()
    with udp_from(source) as client:
        sent = 0
        for one in requests:
            client.sendto(one, node.endpoint)
            sent += 1
            if sent % 200 == 0:  # as fast as it takes them, so that no buffer drops any
                node.wait_for_counts(udp_received=before + sent)
        node.wait_for(
            lambda now: now["udp_received"] - before == sent and now["udp_in_flight"] == 0
        )
        took_s = time.monotonic() - began
        client.setblocking(False)
        statuses: Counter[int] = Counter()
        while True:
            try:
                statuses[status(client.recv(DATAGRAM_BYTES_MAX))] += 1
            except BlockingIOError:
                return statuses, took_s


def udp_ask_from(node: Node, source: str, data: bytes) -> int | None:
    """The status; None when the node has dropped it as limited."""
    before = node.counters()["udp_dropped_limited"]
    with udp_from(source) as client:
        client.sendto(data, node.endpoint)
        client.settimeout(0.02)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                return status(client.recv(DATAGRAM_BYTES_MAX))
            except TimeoutError:
                if node.counters()["udp_dropped_limited"] > before:
                    return None
    raise AssertionError("neither answered nor counted")


def tcp_ask_from(endpoint: Endpoint, source: str, data: bytes) -> int:
    with tcp_connect(endpoint, source) as client:
        client.sendall(data)
        return status(read_to_close(client))


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_a_guesser_over_udp_gets_its_burst_and_then_one_a_second(encryption: int) -> None:
    with running_node(COINS, limits=LIMITS) as node:
        statuses, took_s = flood(node, GUESSER, guesses(encryption))
        wrong = 37 if encryption == 1 else 204
        assert set(statuses) == {wrong}
        assert BURST <= statuses[wrong] <= BURST + took_s + 1
        right = sealed_echo(encryption, 8, right=True)
        assert udp_ask_from(node, GUESSER, right) is None
        assert udp_ask_from(node, GOOD, right) == 250
        assert tcp_ask_from(node.endpoint, GUESSER, right) == 250  # counted apart
        # What asks for no check is answered: plain echoes, votes, what everybody may ask.
        assert udp_ask_from(node, GUESSER, request(ECHO_COMMAND)) == 250
        assert udp_ask_from(node, GUESSER, request((0, 1))) == 250
        counters = node.counters()
        assert counters["checks_failed"] == statuses[wrong]
        assert counters["limited_source"] == counters["udp_dropped_limited"]
        assert counters["limited_network"] == counters["limited_coin"] == 0


def test_a_guesser_over_tcp_is_answered_160_and_closed() -> None:
    with running_node(COINS, limits=LIMITS, tcp={"persistent": True}) as node:
        began = time.monotonic()
        seen = Counter(
            tcp_last_status(node.endpoint, GUESSER, [one]) for one in guesses(4, 4 * BURST)
        )
        took_s = time.monotonic() - began
        assert set(seen) == {204, 160}
        assert BURST <= seen[204] <= BURST + took_s + 1
        right = sealed_echo(4, 8, right=True)
        assert tcp_last_status(node.endpoint, GUESSER, [right], closes=True) == 160
        assert tcp_last_status(node.endpoint, GOOD, [right, right]) == 250
        assert udp_ask_from(node, GUESSER, right) == 250
        counters = node.counters()
        assert counters["refused_limited"] == counters["limited_source"] == seen[160] + 1


def tcp_last_status(
    endpoint: Endpoint, source: str, requests: list[bytes], *, closes: bool = False
) -> int:
    """The last reply's status, each a header of 48 bytes; closes: the node ends the connection."""
    with tcp_connect(endpoint, source) as client:
        for one in requests:
            client.sendall(one)
            reply = read_exactly(client, 48)
        if closes:
            assert client.recv(1) == b""
        return status(reply)


@pytest.mark.parametrize("spent", [0, 9, 19])
def test_requests_under_way_at_once_are_no_failures(spent: int) -> None:
    """A client may have any number of right ones in flight, however many workers check them at
    once, and however near its bound it is."""
    tables: dict[str, Table] = {"workers": {"count": 64, "batch_max": 1}, "limits": LIMITS}
    with running_node(COINS, handlers=HANDLERS, **tables) as node:
        assert flood(node, GOOD, guesses(4, spent))[0].total() == spent
        right = [sealed(*MIRROR, kind, 8, right=True) for kind in (1, 4, 5)] * 200
        statuses, _ = flood(node, GOOD, right)
        assert statuses == {250: 600}
        node.wait_for_counts(checks_failed=spent)


def test_the_owner_of_a_coin_that_many_guess_at_has_tcp() -> None:
    with running_node(COINS, limits=LIMITS) as node, ExitStack() as stack:
        wrong, right = (sealed_echo(1, 8, right=right) for right in (False, True))
        answered = 0
        began = time.monotonic()
        clients = [stack.enter_context(udp_from(f"127.3.{net}.1")) for net in range(12)]
        for client in clients:  # 4 each, far from the bound of any source
            for _ in range(4):
                client.sendto(wrong, node.endpoint)
        node.wait_for(lambda now: now["udp_received"] == 48 and now["udp_in_flight"] == 0)
        took_s = time.monotonic() - began
        counters = node.counters()
        answered = counters["checks_failed"]
        assert 10 <= answered <= 10 + 10 * took_s + 1
        assert counters["limited_coin"] == 48 - answered
        assert tcp_ask_from(node.endpoint, GOOD, right) == 250
        assert udp_ask_from(node, GOOD, sealed_echo(4, 8, right=True)) == 250
        assert udp_ask_from(node, GOOD, sealed_echo(1, 9, right=True)) == 250


def test_a_network_has_a_bound_of_its_own() -> None:
    limits: Table = {"failed_checks_burst": 2, "failed_checks_per_min": 1}
    with running_node(COINS, limits=limits) as node:
        answered: Counter[int] = Counter()
        for host in range(2, 42):
            statuses, _ = flood(node, f"127.9.9.{host}", guesses(4, 5))
            answered += statuses
        assert answered == {204: 32}  # 16 times that of a source
        counters = node.counters()
        assert counters["limited_network"] > 0
        assert counters["limited_source"] + counters["limited_network"] == 40 * 5 - 32
        right = sealed_echo(4, 8, right=True)
        assert udp_ask_from(node, "127.9.9.99", right) is None
        assert udp_ask_from(node, GOOD, right) == 250
        assert tcp_ask_from(node.endpoint, "127.9.9.99", right) == 250


def test_wrong_admin_keys_count() -> None:
    with running_node(COINS, limits=LIMITS) as node:
        wrong = [request(SHOW_STATS_COMMAND, bytes(16))] * 200
        statuses, took_s = flood(node, GUESSER, wrong)
        assert set(statuses) == {38}
        assert BURST <= statuses[38] <= BURST + took_s + 1
        right = request(SHOW_STATS_COMMAND, ADMIN_KEY)
        assert udp_ask_from(node, GUESSER, right) is None
        assert udp_ask_from(node, GOOD, right) == 250
        assert udp_ask_from(node, GUESSER, sealed_echo(4, 8, right=True)) is None
        seen = Counter(tcp_ask_from(node.endpoint, GUESSER, one) for one in wrong[: 3 * BURST])
        assert set(seen) == {38, 160}
        assert tcp_ask_from(node.endpoint, GUESSER, right) == 160


def test_unknown_keys_count() -> None:
    """Type 2 names lockers, of which there are none; a coin of no page is none."""
    with running_node(COINS, limits=LIMITS) as node:
        key = Key(2, locker=b"locker-of-nobody")
        locker = sealing.seal_request(
            *ECHO_COMMAND, key=key, nonce=bytes(8), raida_id=RAIDA_ID, coin_id=COIN_ID
        )
        no_coin = bytearray(sealed_echo(4, 8, right=False))
        no_coin[19] = 9
        seen, _ = flood(node, GUESSER, [locker, bytes(no_coin)] * 50)
        assert seen[34] >= BURST // 4
        assert seen[25] >= BURST // 4
        assert seen.total() <= BURST + 2
        assert udp_ask_from(node, GUESSER, sealed_echo(4, 8, right=True)) is None


def test_a_raida_is_not_locked_out_by_tickets_that_strangers_make_up(tmp_path: Path) -> None:
    """Anybody can send `fix` and so make a node ask others for tickets that do not exist."""
    peers = [f"{GOOD}:1"] * 25
    store: Table = {"path": str(make_store(tmp_path / "store"))}
    with running_node(COINS, limits=LIMITS, store=store, server={"raida_servers": peers}) as node:
        made_up = [request(VALIDATE_TICKET, bytes((3,)) + bytes(3) + b"\1")] * 100
        # The addresses are looked up in the background, once somebody has failed.
        eventually(lambda: tcp_ask_from(node.endpoint, GOOD, made_up[0]) == 43 and looked_up(node))
        seen = Counter(tcp_ask_from(node.endpoint, GOOD, one) for one in made_up)
        assert seen == {43: 100}
        assert {tcp_ask_from(node.endpoint, OTHER, one) for one in made_up} == {43, 160}
        assert set(flood(node, GOOD, made_up)[0]) == {43}  # over UDP anybody may say that it is one
        assert udp_ask_from(node, GOOD, made_up[0]) is None
        assert tcp_ask_from(node.endpoint, GOOD, made_up[0]) == 43


def test_a_raida_guesses_nothing_but_tickets_without_limit(tmp_path: Path) -> None:
    """Nobody can make it send an admin key, or a secret of an operator's own command."""
    store: Table = {"path": str(make_store(tmp_path / "store"))}
    server: Table = {"raida_servers": [f"{GOOD}:1"] * 25}
    tables: dict[str, Table] = {"limits": LIMITS, "store": store, "server": server}
    with running_node(COINS, **tables, handlers=HANDLERS) as node:
        made_up = request(VALIDATE_TICKET, bytes((3,)) + bytes(3) + b"\1")
        eventually(lambda: tcp_ask_from(node.endpoint, GOOD, made_up) == 43 and looked_up(node))
        wrong_key = request(SHOW_STATS_COMMAND, bytes(16))
        seen = Counter(tcp_ask_from(node.endpoint, GOOD, wrong_key) for _ in range(2 * BURST))
        assert set(seen) == {38, 160}
        assert seen[38] <= BURST + 2


def looked_up(node: Node) -> bool:
    assert node.server._node is not None
    return node.server._node.is_raida(GOOD)


def test_what_must_not_be_told_has_changed_nothing(tmp_path: Path) -> None:
    """A right ticket past the bound is not redeemed, so that its RAIDA still can."""
    store: Table = {"path": str(make_store(tmp_path / "store"))}
    with running_node(COINS, limits=LIMITS, store=store) as node:
        coin = (1, 7)
        ticket = ask(node.endpoint, GET_TICKET, coin_bytes(coin) + default_an(coin))[1]
        right = request(VALIDATE_TICKET, bytes((5,)) + ticket)
        wrong = request(VALIDATE_TICKET, bytes((5,)) + bytes(3) + b"\1")
        flood(node, GUESSER, [*[wrong] * 60, *[right] * 5])
        assert udp_ask_from(node, GUESSER, right) is None
        assert udp_ask_from(node, GOOD, right) == 250
        assert udp_ask_from(node, GOOD, right) == 44


def test_settings_exempt_widen_and_switch_off() -> None:
    exempt: Table = {**LIMITS, "failed_checks_exempt": ["127.0.0.0/24"]}
    with running_node(COINS, limits=exempt) as node:
        assert flood(node, GUESSER, guesses(4, 100))[0] == {204: 100}
        assert flood(node, OTHER, guesses(4, 100))[0][204] < 100
        change(node, failed_checks_burst=1000)
        assert udp_ask_from(node, OTHER, sealed_echo(4, 8, right=True)) == 250
        change(node, failed_checks_burst=1, failed_checks_per_min=1, failed_checks_exempt=())
        assert flood(node, OTHER, guesses(4, 5))[0] == {}
        change(node, failed_checks_burst=0)
        assert flood(node, OTHER, guesses(4, 100))[0] == {204: 100}


def change(node: Node, **limits: object) -> None:
    """Reload with other [limits]."""
    old = node.server.config
    wanted = config.with_settings(
        old,
        [
            config.Difference(config.SETTINGS["limits"][key], None, value)
            for key, value in limits.items()
        ],
    )
    assert node.server.reload(wanted).restart == []


def test_limited_sources_are_listed() -> None:
    with running_node(COINS, limits=LIMITS) as node:
        flood(node, GUESSER, guesses(4, 100))
        with udp_from(OTHER) as client:
            for _ in range(12):
                udp_exchange(client, node.endpoint, request(ECHO_COMMAND))
        limited, count = node.server.limited()
        assert [(one.who, one.transport) for one in limited] == [(GUESSER, "udp")]
        assert count == 1
        assert 0 < limited[0].rest_s <= 1


@pytest.mark.any_backend
def test_settings_of_the_data_plane() -> None:
    text = (
        "[server]\nraida_id = 1\n[limits]\n"
        'failed_checks_exempt = ["192.0.2.0/24", "2001:db8::/32", "::1"]\n'
    )
    checks = config.engine_settings(config.parse(text, "test.toml"), 100)["checks"]
    assert checks["exempt_count"] == 3
    assert checks["exempt"] == [
        {"address": bytes(10) + b"\xff\xff\xc0\0\x02\0", "bits": 120},
        {"address": b"\x20\x01\x0d\xb8" + bytes(12), "bits": 32},
        {"address": bytes(15) + b"\x01", "bits": 128},
    ]


def test_a_limited_datagram_is_not_answered_at_all() -> None:
    """Neither the limited source nor a victim whose address it forged gets a reply."""
    with running_node(COINS, limits=LIMITS) as node:
        flood(node, GUESSER, guesses(1, 200))
        with udp_from(GUESSER) as client:
            before = node.counters()["udp_answered"]
            for kind in (1, 4, 5):
                client.sendto(sealed_echo(kind, 8, right=True), node.endpoint)
                client.sendto(sealed_echo(kind, 8, right=False), node.endpoint)
            node.wait_for_counts(udp_in_flight=0)
            node.wait_for(lambda now: now["udp_received"] >= 206)
            after = node.counters()
            # One check a second may have been forgiven meanwhile.
            assert after["udp_answered"] - before <= 1 + after["checks_failed"] - BURST
