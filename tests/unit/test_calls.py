"""Calls of the client library against the recorded exchanges, and against malformed replies.

What must hold: a call made from the values of a recorded request has its very payload, and reads
from the recorded reply what the recording's store says.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raida_uring import protocol
from raida_uring.errors import ProtocolError
from raida_uring.protocol import Coin, CoinName, calls
from raida_uring.protocol.calls import Call, Found
from tests.support.coins import Coins
from tests.support.wire import ADMIN_KEY, STORE, Vector, load_vectors

COINS = Coins()


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    assert len(data) % size == 0
    for start in range(0, len(data), size):
        yield data[start : start + size]


def name_of(data: bytes) -> CoinName:
    return CoinName(int.from_bytes(data[:1], signed=True), int.from_bytes(data[1:5]))


def coin_of(data: bytes) -> Coin:
    """Also one of a denomination that does not exist: recorded requests name such coins."""
    name = name_of(data)
    coin = Coin(0, name.sn, data[5:21])
    object.__setattr__(coin, "den", name.den)
    return coin


def coins_of(payload: bytes) -> list[Coin]:
    return [coin_of(part) for part in chunks(payload, 21)]


def pairs_of(payload: bytes) -> list[tuple[Coin, bytes]]:
    return [(coin_of(part[:21]), part[21:]) for part in chunks(payload, 37)]


def fix_of(payload: bytes) -> Call[Any]:
    names = [name_of(part) for part in chunks(payload[:-116], 5)]
    tickets = [int.from_bytes(part) for part in chunks(payload[-100:], 4)]
    return calls.fix(names, payload[-116:-100], tickets)


def den_of(payload: bytes) -> int:
    return int.from_bytes(payload[:1], signed=True)


REBUILD: dict[tuple[int, int], Callable[[bytes], Call[Any]]] = {
    (0, 0): calls.echo,
    (0, 1): lambda _payload: calls.version(),
    (0, 2): lambda payload: calls.show_stats(payload[:16]),
    (1, 10): lambda payload: calls.detect(coins_of(payload)),
    (1, 20): lambda payload: calls.pown(pairs_of(payload)),
    (2, 40): lambda payload: calls.get_ticket(coins_of(payload)),
    (2, 50): lambda payload: calls.validate_ticket(payload[0], int.from_bytes(payload[1:])),
    (2, 60): lambda payload: calls.find(pairs_of(payload)),
    (2, 80): fix_of,
    (14, 2): lambda payload: calls.get_merkle_branch(
        den_of(payload), int.from_bytes(payload[1:5]), int.from_bytes(payload[5:])
    ),
    (14, 4): lambda payload: calls.get_page_data(den_of(payload), int.from_bytes(payload[1:])),
    (14, 5): calls.get_all_roots,
}
MALFORMED = {16, 37, 39}  # requests that no call would make
CATEGORIES_OF_HEADERS = {"framing", "header", "body"}


def command_of(vector: Vector) -> tuple[int, int]:
    return vector.request[4], vector.request[5]


RECORDED = [
    vector
    for vector in load_vectors()
    if vector.response is not None
    and len(vector.request) > 32
    and vector.request[0] == 1
    and vector.request[16] == 0
    and vector.category not in CATEGORIES_OF_HEADERS
    and command_of(vector) in REBUILD
    and vector.response[2] not in MALFORMED
]


def payload_of(vector: Vector) -> bytes:
    length = int.from_bytes(vector.request[22:24])
    return vector.request[48 : 32 + length - 2]


def test_every_command_is_there() -> None:
    assert len(RECORDED) == 53
    assert {command_of(vector) for vector in RECORDED} == set(REBUILD)


@pytest.mark.parametrize("vector", RECORDED, ids=lambda vector: vector.name)
def test_recorded_exchanges(vector: Vector) -> None:
    assert vector.response is not None
    payload = payload_of(vector)
    group, command = command_of(vector)
    call = REBUILD[group, command](payload)
    if command_of(vector) not in ((0, 1), (0, 2)):  # which ignore what follows
        assert call.payload == payload
    assert (call.group, call.command) == (group, command)
    reply = protocol.parse_reply(vector.response)
    if reply.status not in call.statuses:
        assert reply.status in (38, 40, 43, 44, 202, 194)
        assert reply.body == b""
        return
    value = call.parse(reply.status, reply.payload)
    if vector.category == "detect":
        expected = [COINS.an(coin.den, coin.sn) == coin.an for coin in coins_of(payload)]
        assert value == calls.Verdicts(tuple(expected))
        assert value.all_passed == (reply.status == 241)
    if isinstance(value, calls.Ticket):
        assert (value.number is None) == (reply.status == 242)
    if group == 14:
        joined = b"".join(value) if isinstance(value, tuple) else value
        assert joined == reply.payload


def test_sums_as_recorded() -> None:
    """detect_sum and pown_sum take coins with their numbers, the recordings only the sum."""
    coins = [Coin(0, sn, COINS.an(0, sn) or b"") for sn in (5, 6, 7)]
    assert calls.detect_sum(coins).payload[:15] == bytes.fromhex("000000000500000000060000000007")
    total = bytes(a ^ b ^ c for a, b, c in zip(*(coin.an for coin in coins), strict=True))
    assert calls.detect_sum(coins).payload[15:] == total
    assert calls.pown_sum(coins, b"d" * 16).payload[15:] == total + b"d" * 16
    assert calls.detect_sum(coins).parse(241, b"") is True
    assert calls.pown_sum(coins, bytes(16)).parse(242, b"") is False
    for vector in load_vectors():
        if vector.request[4:6] == b"\x01\x0b" and vector.response and vector.response[2] == 241:
            payload = payload_of(vector)
            names = [name_of(part) for part in chunks(payload[:-16], 5)]
            known = [Coin(*name, COINS.an(*name) or b"") for name in names]
            assert calls.detect_sum(known).payload == payload


def test_bit_fields_are_least_significant_first() -> None:
    coins = [Coin(0, sn, bytes(16)) for sn in range(10)]
    value = calls.detect(coins).parse(243, b"\x01\x02")
    assert value.passed == (True, *[False] * 8, True)
    ticket = calls.get_ticket(coins).parse(243, b"\x80\x00\x01\x02\x03\x04")
    assert ticket.passed == (*[False] * 7, True, False, False)
    assert ticket.number == 0x01020304


def test_find_and_audit() -> None:
    pair = (Coin(0, 1, bytes(16)), bytes(16))
    mixed = calls.find([pair] * 3).parse(211, b"\x02\x00\x01")
    assert mixed == (Found.PAN, Found.NEITHER, Found.AN)
    assert calls.find([pair] * 2).parse(208, b"") == (Found.NEITHER,) * 2
    record = b"".join(den.to_bytes(1, signed=True) + b"\0\0\1\0" for den in STORE["denominations"])
    assert calls.audit().parse(250, record).counts == dict.fromkeys(range(-8, 7), 256)


ONE = [Coin(0, 1, bytes(16))]
PAIR = [(ONE[0], bytes(16))]


@pytest.mark.parametrize(
    ("call", "status", "payload"),
    [
        pytest.param(calls.show_stats(ADMIN_KEY), 250, bytes(31), id="stats"),
        pytest.param(calls.audit(), 250, bytes(74), id="audit-short"),
        pytest.param(calls.audit(), 250, bytes(75), id="audit-denominations"),
        pytest.param(calls.detect(ONE), 241, b"\1", id="all-with-flags"),
        pytest.param(calls.detect(ONE), 243, b"", id="mixed-without-flags"),
        pytest.param(calls.detect(ONE * 9), 243, b"\1", id="too-few-flags"),
        pytest.param(calls.detect_sum(ONE), 241, b"\1", id="sum-with-payload"),
        pytest.param(calls.get_ticket(ONE), 241, b"\1\2\3", id="ticket-short"),
        pytest.param(calls.get_ticket(ONE), 243, b"\1\2\3\4", id="ticket-without-flags"),
        pytest.param(calls.validate_ticket(1, 1), 250, bytes(6), id="names"),
        pytest.param(calls.find(PAIR), 211, b"\3", id="found-3"),
        pytest.param(calls.find(PAIR), 209, b"\1", id="found-all-with-payload"),
        pytest.param(calls.get_merkle_branch(0, 0, 0), 250, bytes(31), id="branch"),
        pytest.param(calls.get_page_data(0, 0), 250, bytes(17407), id="page"),
        pytest.param(calls.get_all_roots(), 250, bytes(479), id="roots"),
    ],
)
def test_malformed_replies(call: Call[Any], status: int, payload: bytes) -> None:
    assert status in call.statuses
    with pytest.raises(ProtocolError):
        call.parse(status, payload)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Coin(0, 1, bytes(15)),
        lambda: Coin(128, 1, bytes(16)),
        lambda: Coin(0, 2**32, bytes(16)),
        lambda: calls.show_stats(bytes(15)),
        lambda: calls.pown([(ONE[0], bytes(17))]),
        lambda: calls.pown_sum(ONE, b""),
        lambda: calls.detect_sum(ONE * 2),
        lambda: calls.validate_ticket(256, 1),
        lambda: calls.validate_ticket(1, 2**32),
        lambda: calls.fix([ONE[0].name], bytes(16), [0] * 24),
        lambda: calls.fix([CoinName(0, -1)], bytes(16), [0] * 25),
        lambda: calls.get_merkle_branch(0, -1, 0),
        lambda: calls.get_page_data(200, 0),
        lambda: calls.get_all_roots(bytes(479)),
    ],
)
def test_arguments_that_do_not_fit(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


def test_numbers_are_not_printed() -> None:
    assert "secret" not in repr(Coin(0, 1, b"secret-an-16byte"))
