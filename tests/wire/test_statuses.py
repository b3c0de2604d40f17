"""Statuses that the recordings do not hold, because they need no store or a setting of our own.

Source: wire specification 2.4, 3.5, 4.3, 5.2 and 6, for a node without a store. What must hold:
status and every other byte of the reply are as listed there, over both transports.
"""

from collections.abc import Callable

import pytest

from tests.support.handlers import BLOB, blob_bytes
from tests.support.net import (
    Endpoint,
    read_to_close,
    tcp_ask,
    tcp_connect,
    udp_ask,
)
from tests.support.node import HANDLERS, running_node, total
from tests.support.wire import (
    ADMIN_KEY,
    COIN_ID,
    ECHO_COMMAND,
    KEY_COIN,
    RAIDA_ID,
    SECOND_COIN,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    challenge_of,
    encrypted_request,
    masked,
    reply_payload,
    request,
    status,
)

Ask = Callable[[Endpoint, bytes], bytes]
both_transports = pytest.mark.parametrize("ask", [udp_ask, tcp_ask])

# Printed bold in wire specification 5.2, without the three this node answers itself.
AUDIT_COMMAND = (0, 3)  # answers without a body, the others do not
LATER_COMMANDS = [(1, 10), (1, 11), (1, 20), (1, 21), (2, 40), (2, 50), (2, 60), (2, 80)]
LATER_COMMANDS += [(14, 2), (14, 4), (14, 5)]


def short_reply(code: int, command: tuple[int, int], challenge: bytes = bytes(16)) -> bytes:
    """The bare 32-byte reply header with echo 1122 and time 0."""
    return (
        bytes((RAIDA_ID, 0, code, command[0], 0, 1, 0x11, 0x22)) + bytes(8) + challenge
    )  # size and time are zero


def without_time(reply: bytes) -> bytes:
    return masked(reply, ((12, 4),))


@both_transports
@pytest.mark.parametrize("encryption", [1, 2])
def test_no_key_for_32_byte_types(ask: Ask, encryption: int) -> None:
    """34: group and echo are set, the challenge field is zero."""
    sent = encrypted_request(encryption, (1, 10), b"\xff" * 37 + b"\x3e\x3e")
    expected = bytearray(short_reply(34, (1, 10)))
    expected[6:8] = b"\x7a\x7b"
    with running_node() as node:
        assert without_time(ask(node.endpoint, sent)) == bytes(expected)


@both_transports
@pytest.mark.parametrize("encryption", [4, 5])
def test_no_key_for_48_byte_types(ask: Ask, encryption: int) -> None:
    """25: 48 bytes, the key coin at 17, type 5's second coin at 24, the echo at 46."""
    sent = encrypted_request(encryption, (1, 10), b"\xff" * 60 + b"\x3e\x3e")
    with running_node() as node:
        first, second = ask(node.endpoint, sent), ask(node.endpoint, sent)
    nonce = ((4, 4), (24, 22)) if encryption == 4 else ((4, 4), (29, 17))
    seconds_coin = bytes(5) if encryption == 4 else SECOND_COIN
    head = bytes((RAIDA_ID, 0, 25, 1)) + bytes(12)
    expected = head + bytes((encryption,)) + KEY_COIN + bytes(2) + seconds_coin + bytes(17)
    assert masked(first, nonce) == expected + b"\x7a\x7b"
    assert first[29:46] != second[29:46], "the response nonce must be fresh"


@both_transports
@pytest.mark.parametrize("encryption", [1, 2, 4, 5])
def test_no_key_without_a_body(ask: Ask, encryption: int) -> None:
    """Decision 9 comes before the body: BL = 0 does not escape it."""
    sent = encrypted_request(encryption, ECHO_COMMAND, b"")
    with running_node() as node:
        assert status(ask(node.endpoint, sent)) == (34 if encryption < 4 else 25)


@both_transports
def test_commands_of_later_issues(ask: Ask) -> None:
    """Known, so not 6: 36 without a body, else 89 with the challenge returned."""
    with running_node() as node:
        for command in LATER_COMMANDS:
            empty = request(command, body=False)
            assert without_time(ask(node.endpoint, empty)) == short_reply(36, command)
        for command in [AUDIT_COMMAND, *LATER_COMMANDS]:
            full = request(command, bytes(37))
            expected = short_reply(89, command, challenge_of(full))
            assert without_time(ask(node.endpoint, full)) == expected


@both_transports
def test_unlisted_commands_are_unknown(ask: Ask) -> None:
    """6 with all else zero, for groups with and without commands."""
    with running_node() as node:
        for command in [(0, 4), (1, 0), (3, 120), (6, 0), (8, 82), (14, 0), (15, 255)]:
            expected = bytes((RAIDA_ID, 0, 6, 0, 0, 1)) + bytes(26)
            assert without_time(ask(node.endpoint, request(command))) == expected, command


@both_transports
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(b"", 38, id="empty"),
        pytest.param(ADMIN_KEY[:15], 38, id="15-of-16-bytes"),
        pytest.param(bytes((ADMIN_KEY[0] ^ 1,)) + ADMIN_KEY[1:], 38, id="first-byte-wrong"),
        pytest.param(ADMIN_KEY[:15] + bytes((ADMIN_KEY[15] ^ 1,)), 38, id="last-byte-wrong"),
        pytest.param(ADMIN_KEY, 250, id="right"),
        pytest.param(ADMIN_KEY + b"more", 250, id="right-and-more"),
    ],
)
def test_show_stats_key(ask: Ask, payload: bytes, expected: int) -> None:
    """Fault B18: a payload shorter than the key is 38, never a read past its end."""
    with running_node() as node:
        reply = ask(node.endpoint, request(SHOW_STATS_COMMAND, payload))
    assert status(reply) == expected
    assert len(reply_payload(reply)) == (32 if expected == 250 else 0)


@both_transports
def test_show_stats_without_admin_key(ask: Ask) -> None:
    """A node without an admin key refuses every key, the empty and the zero one too."""
    with running_node(server={"admin_key": None}) as node:
        for payload in (b"", bytes(16), ADMIN_KEY):
            assert status(ask(node.endpoint, request(SHOW_STATS_COMMAND, payload))) == 38
        assert status(ask(node.endpoint, request(SHOW_STATS_COMMAND, body=False))) == 36


def test_show_stats_counts() -> None:
    """Echoes of both transports; datagrams received, junk included, never TCP requests."""
    with running_node() as node:
        for ask in (udp_ask, tcp_ask):
            assert status(ask(node.endpoint, request(ECHO_COMMAND))) == 250
        assert status(udp_ask(node.endpoint, request((9, 9)))) == 6
        reply = udp_ask(node.endpoint, request(SHOW_STATS_COMMAND, ADMIN_KEY))
    values = reply_payload(reply)
    echo_count, pown_count, pown_value, datagrams = (
        int.from_bytes(values[start : start + 8], "little") for start in range(0, 32, 8)
    )
    assert (echo_count, pown_count, pown_value, datagrams) == (2, 0, 0, 3)


@both_transports
def test_coin_id_is_the_configured_one(ask: Ask) -> None:
    """7 for the id that others use, an answer for our own."""
    foreign = request(ECHO_COMMAND)
    own = foreign[:6] + (200).to_bytes(2) + foreign[8:]
    with running_node(server={"coin_id": 200}) as node:
        assert status(ask(node.endpoint, foreign)) == 7
        assert status(ask(node.endpoint, own)) == 250
    assert foreign[6:8] == COIN_ID.to_bytes(2)


@both_transports
def test_version_is_the_configured_one(ask: Ask) -> None:
    with running_node(server={"version": "19991231"}) as node:
        assert reply_payload(ask(node.endpoint, request(VERSION_COMMAND))) == b"19991231"


def test_body_over_the_maximum() -> None:
    """16 on TCP as soon as the header shows it: the body is never asked for. At it: answered."""
    with running_node(limits={"body_bytes_max": 1000}) as node:
        over = request(ECHO_COMMAND, bytes(1001 - 18))
        with tcp_connect(node.endpoint) as client:
            client.sendall(over[:32])
            assert without_time(read_to_close(client)) == short_reply(16, ECHO_COMMAND)
        assert status(tcp_ask(node.endpoint, over)) == 16
        assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND, bytes(1000 - 18)))) == 250


def test_largest_body() -> None:
    """BL = 65535, the most its field can say, arrives whole."""
    sent = request(VERSION_COMMAND, blob_bytes(65535 - 18))
    with running_node() as node:
        reply = tcp_ask(node.endpoint, sent)
    assert (status(reply), reply[16:32]) == (250, challenge_of(sent))


def test_pitfall_3_11_truncated_datagram_is_its_first_bytes() -> None:
    """A datagram past the slot is cut and counted: what fits decides. Surplus after a complete
    request is ignored; a body that was cut off is 16."""
    slot_bytes = 1440
    complete = request(VERSION_COMMAND)
    cut_body = request(VERSION_COMMAND, bytes(slot_bytes))
    exactly = request(VERSION_COMMAND, bytes(slot_bytes - 50))
    assert len(exactly) == slot_bytes
    with running_node(server={"udp_effective_payload": slot_bytes}) as node:
        assert status(udp_ask(node.endpoint, exactly)) == 250
        assert total(node.counters(), "udp_truncated") == 0
        for size in (slot_bytes + 1, 9000, 65507):
            assert status(udp_ask(node.endpoint, complete.ljust(size, b"\xff"))) == 250
        assert status(udp_ask(node.endpoint, cut_body)) == 16
        assert total(node.counters(), "udp_truncated") == 4


def test_reply_factor_limits_udp_only() -> None:
    """Up to factor times the request is answered, one byte more is 89; TCP proved its address."""
    factor = 16
    smallest = len(request(BLOB, bytes(4)))
    largest_payload = factor * smallest - 32 - 2
    with running_node(limits={"udp_reply_factor_max": factor}, handlers=HANDLERS) as node:
        allowed = request(BLOB, largest_payload.to_bytes(4))
        assert reply_payload(udp_ask(node.endpoint, allowed)) == blob_bytes(largest_payload)
        refused = request(BLOB, (largest_payload + 1).to_bytes(4))
        expected = short_reply(89, BLOB, challenge_of(refused))
        assert without_time(udp_ask(node.endpoint, refused)) == expected
        assert reply_payload(tcp_ask(node.endpoint, refused)) == blob_bytes(largest_payload + 1)
