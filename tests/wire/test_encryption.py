"""Encrypted requests on a running node whose coins are those of the recordings.

What must hold: recorded exchanges match over their transports; every type carries any payload both
ways; limits count bytes on the wire; and whatever happens to a request, others of its batch keep
their own keys.
"""

import itertools
import os
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from raida_uring import protocol
from raida_uring.protocol import Coin, sealing
from raida_uring.protocol.sealing import Key
from raida_uring.store import Store
from tests.support.coins import Coins
from tests.support.handlers import (
    BARE,
    BLOB,
    DESCRIBE,
    MIRROR,
    RAISE,
    STATUS,
    WRONG_TYPE,
    WRONG_TYPE_COUNT,
    blob_bytes,
)
from tests.support.net import Endpoint, tcp_ask, udp_ask, udp_client
from tests.support.node import HANDLERS, running_node
from tests.support.store import MAP_BYTES, make_recorded_store
from tests.support.wire import (
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    load_vectors,
    request,
    status,
)
from tests.wire.test_vectors import replay

Ask = Callable[[Endpoint, bytes], bytes]
both_transports = pytest.mark.parametrize("ask", [udp_ask, tcp_ask])
every_type = pytest.mark.parametrize("encryption", [1, 4, 5])

NEED_COMMANDS = ("t1_detect_pass", "t1_page_data", "t1_den0_sn_pown")  # of the store
RECORDED = [
    vector
    for vector in load_vectors()
    if vector.category.startswith("encryption") and vector.name not in NEED_COMMANDS
]

COINS = Coins()
CHALLENGE = b"challenge-12"
_nonces = itertools.count(1)


def key_of(encryption: int, sn: int = 8) -> Key:
    names = [(0, sn), (2, sn + 1)] if encryption == 5 else [(0, sn)]
    coins = [Coin(den, number, COINS.an(den, number) or b"") for den, number in names]
    return Key(encryption, tuple(coins))


class Sealed:
    """One request and what reads its reply."""

    def __init__(
        self, encryption: int, command: tuple[int, int], payload: bytes = b"", *, body: bool = True
    ) -> None:
        serial = next(_nonces)
        self.key = key_of(encryption, sn=serial % 4000)
        self.nonce = serial.to_bytes(self.key.nonce_bytes)
        self.has_challenge = body and encryption == 1
        group, code = command
        self.request = sealing.seal_request(
            group,
            code,
            payload,
            key=self.key,
            nonce=self.nonce,
            raida_id=RAIDA_ID,
            coin_id=COIN_ID,
            challenge=CHALLENGE,
            body=body,
        )

    def read(self, reply: bytes) -> tuple[int, bytes]:
        """Status and payload, after everything else in the header has been checked."""
        parsed = protocol.parse_reply(reply, self.key.encryption)
        header = protocol.parse_request_header(self.request)
        assert (parsed.raida_id, parsed.group) == (RAIDA_ID, header.group)
        assert parsed.echo == header.echo
        if self.key.encryption == 1:
            proof = sealing.prove_challenge(CHALLENGE, self.key)
            assert parsed.challenge == (proof if self.has_challenge else bytes(16))
        else:
            assert (
                parsed.header[16:22] == bytes((self.key.encryption,)) + self.key.coins[0].name.wire
            )
            if self.key.encryption == 5:
                assert parsed.header[24:29] == self.key.coins[1].name.wire
        return parsed.status, sealing.open_reply(parsed, key=self.key, nonce=self.nonce)


def test_recorded_exchanges() -> None:
    assert len(RECORDED) == 27
    with running_node(COINS) as node:
        assert replay(node.endpoint, RECORDED) == []
        shuffled = random.Random(7).sample(RECORDED, len(RECORDED))
        assert replay(node.endpoint, shuffled) == []


@both_transports
@every_type
def test_payloads_of_many_sizes(ask: Ask, encryption: int) -> None:
    with running_node(COINS, handlers=HANDLERS) as node:
        for size in [*range(70), 255, 256, 257, 1000, 1300]:
            sealed = Sealed(encryption, MIRROR, blob_bytes(size))
            assert sealed.read(ask(node.endpoint, sealed.request)) == (250, blob_bytes(size))


@both_transports
@every_type
def test_without_a_body(ask: Ask, encryption: int) -> None:
    with running_node(COINS, handlers=HANDLERS) as node:
        echoed = Sealed(encryption, ECHO_COMMAND, body=False)
        assert echoed.read(ask(node.endpoint, echoed.request)) == (250, b"")
        for command in (VERSION_COMMAND, SHOW_STATS_COMMAND, MIRROR, (0, 3), (1, 10), (14, 5)):
            empty = Sealed(encryption, command, body=False)
            assert empty.read(ask(node.endpoint, empty.request)) == (36, b"")


@both_transports
@every_type
def test_echo_with_a_body(ask: Ask, encryption: int) -> None:
    with running_node(COINS) as node:
        echoed = Sealed(encryption, ECHO_COMMAND, b"any")
        assert echoed.read(ask(node.endpoint, echoed.request)) == (250, b"")


@both_transports
def test_public_commands_are_for_types_4_and_5(ask: Ask) -> None:
    """36 and no proof under type 1, before the body is looked at and after the key coin."""
    commands = {VERSION_COMMAND: 250, BARE: 250}
    commands |= dict.fromkeys([(0, 3), (2, 50), (14, 2), (14, 4), (14, 5)], 89)
    with running_node(COINS, handlers=HANDLERS) as node:
        for command, answered in commands.items():
            for encryption in (4, 5):
                sealed = Sealed(encryption, command, b"payload")
                assert sealed.read(ask(node.endpoint, sealed.request))[0] == answered
            whole = Sealed(1, command, b"payload").request
            for body in (whole[32:], b"", b"\xff", b"\xff\xff", bytes(16) + b">>"):
                data = whole[:22] + len(body).to_bytes(2) + whole[24:32] + body
                reply = ask(node.endpoint, data)
                assert (len(reply), status(reply), reply[16:]) == (32, 36, bytes(16))
                unreadable = data[:17] + b"\x7f" + data[18:]
                assert status(ask(node.endpoint, unreadable)) == 34
        cut = Sealed(1, VERSION_COMMAND, b"payload").request[:-1]
        assert status(udp_ask(node.endpoint, cut)) == 36


@every_type
def test_handlers_do_not_notice(encryption: int) -> None:
    sealed = Sealed(encryption, DESCRIBE, b"payload")
    with running_node(COINS, handlers=HANDLERS) as node:
        code, told = sealed.read(udp_ask(node.endpoint, sealed.request))
    assert code == 250
    assert f'"encryption": {encryption}'.encode() in told
    assert b'"payload": "%s"' % b"payload".hex().encode() in told


@both_transports
@every_type
def test_failing_handlers_answer_under_the_key(ask: Ask, encryption: int) -> None:
    """252 with the challenge field set, as every status of a command."""
    with running_node(COINS, handlers=HANDLERS) as node:
        for command, payloads in [
            (RAISE, [b""]),
            (WRONG_TYPE, [bytes((number,)) for number in range(WRONG_TYPE_COUNT)]),
        ]:
            for payload in payloads:
                sealed = Sealed(encryption, command, payload)
                assert sealed.read(ask(node.endpoint, sealed.request)) == (252, b"")


@every_type
def test_limits_count_bytes_on_the_wire(encryption: int) -> None:
    """The longest reply has 65,536 bytes over TCP; over UDP 16 times the request."""
    extra = 34 if encryption == 1 else 82  # header, HMAC, terminator
    with running_node(COINS, handlers=HANDLERS, limits={"udp_reply_factor_max": 16}) as node:
        for size, expected in [(65536 - extra, 250), (65536 - extra + 1, 252)]:
            sealed = Sealed(encryption, BLOB, size.to_bytes(4))
            code, payload = sealed.read(tcp_ask(node.endpoint, sealed.request))
            assert (code, payload) == (expected, blob_bytes(size) if expected == 250 else b"")
        most = 16 * len(sealed.request) - extra
        for size, expected in [(most, 250), (most + 1, 89)]:
            sealed = Sealed(encryption, BLOB, size.to_bytes(4))
            code, payload = sealed.read(udp_ask(node.endpoint, sealed.request))
            assert (code, payload) == (expected, blob_bytes(size) if expected == 250 else b"")


def test_cut_datagram() -> None:
    """Shorter than its body: 16 with a known key, the key's status with an unknown one."""
    with running_node(COINS) as node:
        for encryption, unknown in [(1, 34), (4, 25), (5, 25)]:
            data = Sealed(encryption, SHOW_STATS_COMMAND).request
            assert status(udp_ask(node.endpoint, data[:-1])) == 16
            den_at = 17 if encryption == 1 else 19
            data = data[:den_at] + b"\x7f" + data[den_at + 1 : -1]
            assert status(udp_ask(node.endpoint, data)) == unknown


def test_keys_are_found_without_the_base(tmp_path: Path) -> None:
    """Its file is cut off under the node: the coins are in memory."""
    path = make_recorded_store(tmp_path / "store")
    with closing(Store(path, map_bytes=MAP_BYTES, read_only=True)) as store:

        class Own:
            def __init__(self) -> None:
                self.store = store

        with running_node(Own(), handlers=HANDLERS) as node:
            file = path / "data.mdb"
            os.truncate(file, file.stat().st_size - 4096)
            for encryption in (1, 4, 5):
                sealed = Sealed(encryption, ECHO_COMMAND)
                assert sealed.read(tcp_ask(node.endpoint, sealed.request)) == (250, b"")
            assert status(tcp_ask(node.endpoint, request(MIRROR, b"payload"))) == 250


def test_a_batch_of_everything() -> None:
    """Requests of all types, good and bad, in flight at once: each gets its own answer."""
    rng = random.Random(3)
    expected: dict[bytes, tuple[Sealed | None, int, bytes]] = {}
    datagrams = []
    for serial in range(1, 400):
        payload = rng.randbytes(rng.randrange(200))
        kind = rng.choice(["plain", 1, 4, 5, "raise", "crc", "unknown", "status"])
        if kind == "plain":
            data = request(MIRROR, payload, echo=40000 + serial)
            expected[data[30:32]] = (None, 250, payload)
        else:
            encryption = kind if isinstance(kind, int) else 1
            command = {"raise": RAISE, "status": STATUS}.get(str(kind), MIRROR)
            payload = b"\x99" if kind == "status" else payload
            sealed = Sealed(encryption, command, payload)
            damaged = bytearray(sealed.request)
            answer = {"raise": 252, "crc": 37, "unknown": 34, "status": 0x99}.get(str(kind), 250)
            if kind == "crc":
                damaged[40] ^= 1
            if kind == "unknown":
                damaged[17] = 0x7F
            data = bytes(damaged)
            readable = None if kind in ("crc", "unknown") else sealed
            size = protocol.header_bytes(encryption)
            echo = data[size - 2 : size]
            expected[echo] = (readable, answer, payload if answer == 250 else b"")
        datagrams.append(data)
    assert len(expected) == len(datagrams), "echoes must tell the requests apart"
    # Only the socket tells the header's length, and so the place of the echo.
    with (
        running_node(COINS, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as short,
        udp_client(node.endpoint) as long,
    ):
        clients = [long if protocol.header_bytes(data[16]) == 48 else short for data in datagrams]
        for client, data in zip(clients, datagrams, strict=True):
            client.sendto(data, node.endpoint)
        for client in clients:
            reply = client.recv(65536)
            echo = reply[46:48] if client is long else reply[6:8]
            readable, code, payload = expected.pop(echo)
            if readable is not None:
                assert readable.read(reply) == (code, payload)
            else:
                assert status(reply) == code
    assert not expected
