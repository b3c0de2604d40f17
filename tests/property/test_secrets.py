"""What strangers and eavesdroppers learn about keys: nothing but statuses.

What must hold: two nodes whose stores differ in one coin's AN answer alike whatever a stranger
sends; what an eavesdropper makes of a recorded request of type 1, 2, 4 or 5 gets no reply from
which its key follows; nothing that goes wrong later shows more. Execution times and fresh nonces
aside.
Source: wire specification, section 27.

The algebra of types 1 and 2: K0 is the keystream's first block, C0 the request's. A challenge
field F is C0 ^ K0 ^ key, and a reply's payload is encrypted from K0 on: so 16 known bytes of a
reply and F under one nonce are the key.
"""

import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from raida_uring import protocol
from raida_uring.protocol import Coin as KeyCoin
from raida_uring.protocol import Status, sealing
from raida_uring.protocol.sealing import Key
from tests.support.coin_requests import (
    AUDIT,
    DETECT,
    DETECT_SUM,
    FIND,
    FIX,
    GET_ALL_ROOTS,
    GET_MERKLE_BRANCH,
    GET_PAGE_DATA,
    GET_TICKET,
    POWN,
    POWN_SUM,
    VALIDATE_TICKET,
    all_roots,
    an_of,
    branch_payload,
    default_an,
    detects,
    sum_payload,
)
from tests.support.handlers import BARE, GROUP, gate
from tests.support.net import DATAGRAM_BYTES_MAX, Endpoint, tcp_ask, udp_ask, udp_client
from tests.support.node import Node, Table, eventually, running_node
from tests.support.store import (
    MAP_BYTES,
    Coin,
    coin_bytes,
    make_store,
    tables_over,
    without_journal,
)
from tests.support.wire import (
    ADMIN_KEY,
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    masked,
    reply_payload,
    request,
    status,
)
from tests.support.write_handlers import HOLD_WRITE, MODULES

Ask = Callable[[Endpoint, bytes], bytes]

TYPES = (0, 1, 2, 4, 5)
VICTIM: Coin = (0, 20)
COINS: list[Coin] = [VICTIM, (0, 21), (2, 100), (-8, 1_023_999), (7, 0), (0, 1_024_000)]
PUBLIC = [VERSION_COMMAND, AUDIT, GET_MERKLE_BRANCH, GET_PAGE_DATA, GET_ALL_ROOTS, BARE]
PUBLIC.append(VALIDATE_TICKET)  # to whom the ticket is
OTHERS = [DETECT, DETECT_SUM, POWN, POWN_SUM, GET_TICKET, FIND, FIX]
COMMANDS = [ECHO_COMMAND, SHOW_STATS_COMMAND, *PUBLIC, *OTHERS]
SIZE_MIB = MAP_BYTES >> 20


def xor(*parts: bytes) -> bytes:
    """Of the length of the shortest."""
    size = min(map(len, parts))
    total = 0
    for part in parts:
        total ^= int.from_bytes(part[:size])
    return total.to_bytes(size)


def keystream(key: bytes, counter: bytes, size: int = 16) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(size))


@pytest.fixture(autouse=True)
def every_backend(backend: str) -> None:
    """Choose the backend for tests that do not name it."""


@contextmanager
def serving(store: Path, handlers: Table = MODULES) -> Iterator[Node]:
    """With trees, so that public commands have something to tell."""
    with running_node(**tables_over(store, SIZE_MIB), handlers=handlers) as node:
        eventually(lambda: any(all_roots(node.endpoint)))
        yield node


def raw(
    encryption: int,
    command: tuple[int, int],
    body: bytes,
    *,
    coins: Sequence[bytes],
    nonce: bytes,
    announced: int | None = None,
) -> bytes:
    """A request with `body` unchanged. coins: names of one and of a second key coin. nonce: 8 or
    24 bytes; type 5 puts its second coin over the first five."""
    front = protocol.build_front(*command, raida_id=RAIDA_ID, coin_id=COIN_ID, shard=0)
    length = (len(body) if announced is None else announced).to_bytes(2)
    kind = bytes((encryption,))
    if encryption <= 2:
        return front + kind + coins[0] + length + nonce[:8].ljust(8, b"\0") + body
    nonce = nonce.ljust(24, b"\0")
    if encryption == 5:
        nonce = coins[1] + nonce[5:]
    return front + kind + length + coins[0] + nonce + body


# --- The stranger -------------------------------------------------------------------------------


def alike(reply: bytes) -> bytes:
    """A reply without its execution time and its fresh nonce. No sealed one has a body here, so the
    length tells the header."""
    if len(reply) == 48 and reply[16] in (4, 5):
        return masked(reply, ((4, 4), (24, 22) if reply[16] == 4 else (29, 17)))
    return masked(reply, ((12, 4),))


class Twins:
    """Two nodes that are asked the same."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    def told_apart(self, datagrams: Sequence[bytes]) -> list[bytes]:
        """Replies that only one of them gave; sent together, as their order tells nothing."""
        answers: list[list[bytes]] = []
        for endpoint in self._endpoints:
            with udp_client(endpoint) as client:
                for data in datagrams:
                    client.sendto(data, endpoint)
                replies = [client.recv(DATAGRAM_BYTES_MAX) for _ in datagrams]
            answers.append(sorted(map(alike, replies)))
        first, second = answers
        return [one for one, other in zip(first, second, strict=True) if one != other]

    def told_apart_over_tcp(self, data: bytes) -> bool:
        """The same for a request on a connection of its own, which may lack the end of its body."""
        first, second = (tcp_ask(one, data, half_close=True) for one in self._endpoints)
        return alike(first) != alike(second)


@contextmanager
def twins(directory: Path) -> Iterator[Twins]:
    """They differ in the victim's AN, which circulates on neither: roots tell where it does."""
    stores = [
        make_store(directory / name, {VICTIM: (an_of(name), 0)}) for name in ("first", "second")
    ]
    with serving(stores[0], {}) as first, serving(stores[1], {}) as second:
        yield Twins((first.endpoint, second.endpoint))


def test_a_stranger_over_every_command(tmp_path: Path) -> None:
    """All 16 x 256 commands, under the victim as key, without a body and with one of zeros."""
    commands = list(itertools.product(range(16), range(256)))
    coins = [coin_bytes(VICTIM), coin_bytes(COINS[1])]
    with twins(tmp_path) as nodes:
        for encryption in TYPES:
            for body in (b"", bytes(70) + b">>"):
                whole = [
                    raw(encryption, command, body, coins=coins, nonce=bytes(24))
                    for command in commands
                ]
                for at in range(0, len(whole), 128):
                    assert nodes.told_apart(whole[at : at + 128]) == []


def coin_lists() -> st.SearchStrategy[bytes]:
    """Coins with wrong ANs."""
    coin = st.sampled_from(COINS).map(coin_bytes)
    guess = st.sampled_from([bytes(16), b"\xff" * 16, an_of("guess")])
    return st.one_of(
        st.lists(st.tuples(coin, guess).map(b"".join), min_size=1, max_size=3).map(b"".join),
        st.lists(st.tuples(coin, guess, guess).map(b"".join), min_size=1, max_size=3).map(b"".join),
        st.tuples(coin, coin, guess).map(b"".join),
        st.tuples(coin, guess, guess).map(b"".join),
        st.tuples(coin, guess, st.just(bytes(100))).map(b"".join),
    )


@st.composite
def strange_requests(draw: st.DrawFn) -> bytes:
    """Requests without knowledge of a secret, whole and broken."""
    encryption = draw(st.sampled_from(TYPES))
    command = draw(st.sampled_from(COMMANDS))
    coins = [coin_bytes(draw(st.sampled_from(COINS))) for _ in range(2)]
    payload = draw(
        st.one_of(
            coin_lists(),
            st.binary(max_size=80),
            st.integers(0, 500).map(bytes),
            st.sampled_from([branch_payload(0, 10, 0), bytes(480), bytes(16), bytes(5)]),
        )
    )
    challenge = draw(st.sampled_from([bytes(12), b"challenge-12"]))
    lead = challenge + zlib.crc32(challenge).to_bytes(4) if encryption <= 2 else b""
    trail = b"" if encryption <= 2 else draw(st.sampled_from([bytes(32), b"\xff" * 32]))
    end = draw(st.sampled_from([b">>", b">>", b">>", b">?", b""]))
    body = draw(st.sampled_from([lead + payload + trail + end, b"", payload[:20] + end]))
    return raw(
        encryption,
        command,
        body,
        coins=coins,
        nonce=draw(st.sampled_from([bytes(24), bytes(range(24))])),
        announced=max(0, len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, -2]))),
    )


def test_a_stranger_learns_nothing_of_an_an(tmp_path: Path) -> None:
    with twins(tmp_path) as nodes:

        @settings(max_examples=30)
        @given(st.lists(strange_requests(), min_size=20, max_size=60))
        def over_udp(requests: list[bytes]) -> None:
            assert nodes.told_apart(requests) == []

        @settings(max_examples=30)
        @given(strange_requests())
        def over_tcp(data: bytes) -> None:
            assert not nodes.told_apart_over_tcp(data)

        over_udp()
        over_tcp()


# --- The eavesdropper ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One request of an owner and its reply, as they went over the wire. `payload` is what the
    eavesdropper knows or guesses of it in the clear; `key` is for the test to check with."""

    key: Key
    nonce: bytes
    payload: bytes
    request: bytes
    reply: bytes

    @property
    def coins(self) -> list[bytes]:
        """Names of the key coins; of type 2, the front of the locker's key."""
        return [coin.name.wire for coin in self.key.coins] or [self.key.locker[:5]]

    @property
    def body(self) -> bytes:
        """Of the request."""
        return self.request[protocol.header_bytes(self.key.encryption) :]

    def resent(self, command: tuple[int, int], wanted: bytes, first: bytes = bytes(16)) -> bytes:
        """Types 1 and 2: with `wanted` for its payload, as far as the known one reaches; behind
        that it is noise. first: what is flipped in the block that stands before it."""
        size = min(len(wanted), len(self.payload))
        stream = xor(self.body[16 : 16 + size], self.payload)
        body = xor(self.body[:16], first) + xor(stream, wanted) + wanted[size:] + b">>"
        return self.under(command, body)

    def under(self, command: tuple[int, int], body: bytes) -> bytes:
        """Another body and another command, under the same key coins and nonce."""
        return raw(self.key.encryption, command, body, coins=[*self.coins, b""], nonce=self.nonce)


def recorded(
    node: Node, key: Key, command: tuple[int, int], payload: bytes, known: bytes | None = None
) -> Recording:
    nonce = os.urandom(key.nonce_bytes)
    if key.encryption == 5:
        nonce = key.coins[1].name.wire + nonce[5:]
    data = sealing.seal_request(
        *command,
        payload,
        key=key,
        nonce=nonce,
        raida_id=RAIDA_ID,
        coin_id=COIN_ID,
        challenge=os.urandom(12),
    )
    reply = udp_ask(node.endpoint, data)
    assert (status(reply) == Status.INVALID_ENCRYPTION) == (key.encryption == 2)  # no lockers
    return Recording(key, nonce, payload if known is None else known, data, reply)


def fields(reply: bytes) -> tuple[bytes, bytes]:
    """Challenge field and sealed payload of a 32-byte reply."""
    return reply[16:32], reply[32:-2]


def keys_found(
    recording: Recording, replies: Sequence[bytes], known: Sequence[bytes]
) -> set[bytes]:
    """What the algebra gives for every pair of replies, checked as an eavesdropper would: the key
    whose keystream is the one that it was computed with."""
    counter = recording.nonce + bytes(8)
    block = recording.body[:16]
    shown = {fields(reply)[0] for reply in replies} - {bytes(16)}
    sealed = {fields(reply)[1][:16] for reply in replies if len(fields(reply)[1]) >= 16}
    found = set()
    for challenge, cipher, plain in itertools.product(shown, sealed, known):
        stream = xor(cipher, plain)
        key = xor(challenge, block, stream)
        if keystream(key, counter) == stream:
            found.add(key)
    return found


OWNER: Coin = (0, 8)
SECOND: Coin = (2, 9)


def owner_coin(coin: Coin) -> KeyCoin:
    return KeyCoin(*coin, default_an(coin))


@contextmanager
def spied_on(directory: Path) -> Iterator[tuple[Node, list[Recording]]]:
    """A node, and requests of owners that an eavesdropper has recorded."""
    first, second = owner_coin(OWNER), owner_coin(SECOND)
    keys = [Key(1, (first,)), Key(4, (first,)), Key(5, (first, second))]
    keys.append(Key(2, locker=an_of("locker")[:12] + b"\xff" * 4))
    own = coin_bytes(OWNER) + first.an
    with serving(make_store(directory / "store", {SECOND: (second.an, 3)})) as node:
        seen = []
        for key in keys:
            seen += [
                recorded(node, key, ECHO_COMMAND, bytes(1000)),
                recorded(node, key, DETECT, own * 3, coin_bytes(OWNER)),
                recorded(node, key, POWN, own + first.an, coin_bytes(OWNER)),
                recorded(node, key, FIND, own + bytes(16), coin_bytes(OWNER)),
                recorded(node, key, SHOW_STATS_COMMAND, ADMIN_KEY, b""),
            ]
        yield node, seen


WANTED = [
    *(b"", bytes(4), bytes(5), branch_payload(0, 10, 0), bytes(9), ADMIN_KEY[:15] + b"?"),
    *(bytes(16), bytes(17), bytes(21), bytes(37), bytes(480), bytes(139)),
    coin_bytes(OWNER) + bytes(16),
    sum_payload([OWNER], bytes(16)),
    sum_payload([OWNER, OWNER], bytes(32)),
    coin_bytes(OWNER) + bytes(32),
]


def public_replies(node: Node) -> list[bytes]:
    """Replies to plain requests of a stranger that are as long as a block, and a block of zeros."""
    replies = [
        reply_payload(udp_ask(node.endpoint, request(command, wanted)))
        for command in COMMANDS
        for wanted in WANTED
    ]
    return [bytes(16), *{reply for reply in replies if len(reply) >= 16}]


@st.composite
def resendings(draw: st.DrawFn) -> tuple[tuple[int, int], bytes, bytes, bool]:
    """Command, payload wanted, what is flipped in the first block, and whether there is a body."""
    command = draw(
        st.one_of(
            st.sampled_from(COMMANDS),
            st.sampled_from(PUBLIC),
            st.tuples(st.integers(0, 15), st.integers(0, 255)).filter(
                lambda command: command[0] != GROUP  # some of the tests' handlers wait
            ),
        )
    )
    wanted = draw(st.one_of(st.sampled_from(WANTED), st.binary(max_size=100)))
    flipped = draw(st.sampled_from([bytes(16), bytes(16), bytes(16), bytes(15) + b"\1"]))
    return command, wanted, flipped, draw(st.integers(0, 5)) > 0


def test_an_eavesdropper_of_types_1_and_2_learns_statuses(tmp_path: Path) -> None:
    """The recorded first block under every command, length and payload: the challenge field, which
    is right, never comes with a reply that anybody could have asked for."""
    with spied_on(tmp_path) as (node, seen):
        known = public_replies(node)
        assert len(known) > 3
        short = [recording for recording in seen if recording.key.encryption <= 2]

        @settings(max_examples=40)
        @given(st.sampled_from(range(len(short))), st.lists(resendings(), min_size=30, max_size=60))
        def resend(index: int, asked: list[tuple[tuple[int, int], bytes, bytes, bool]]) -> None:
            recording = short[index]
            replies = [recording.reply]
            with udp_client(node.endpoint) as client:
                for command, wanted, flipped, with_body in asked:
                    data = recording.under(command, b"")
                    if with_body:
                        data = recording.resent(command, wanted, flipped)
                    client.sendto(data, node.endpoint)
                    replies.append(client.recv(DATAGRAM_BYTES_MAX))
                    challenge, sealed = fields(replies[-1])
                    if any(flipped) or not with_body or command in PUBLIC:
                        assert (challenge, sealed) == (bytes(16), b""), (command, wanted)
            assert keys_found(recording, replies, known) == set()
            if recording.key.encryption == 2:
                assert {len(reply) for reply in replies} == {32}
                return
            stream = keystream(recording.key.cipher_key, recording.nonce + bytes(8), 512)
            for reply in replies:
                plain = xor(fields(reply)[1], stream)
                assert not any(len(one) >= 16 and plain[:16] == one[:16] for one in known)

        resend()


def test_an_eavesdropper_of_types_4_and_5_meets_no_keystream_twice(tmp_path: Path) -> None:
    """A recorded body passes under other commands, and what it gets is sealed with a nonce of its
    own; any other body gets a bare status."""
    with spied_on(tmp_path) as (node, seen):
        long = [recording for recording in seen if recording.key.encryption >= 4]
        counters = {bytes(recording.request[24:40]) for recording in long}
        used = len(counters)
        assert used == len(long)
        with udp_client(node.endpoint) as client:
            for recording, command in itertools.product(long, COMMANDS):
                body = recording.body
                damaged = bytes((body[0] ^ 1,)) + body[1:]
                for sent in (body, damaged, body[:-34] + bytes(32) + b">>", body[1:], b""):
                    client.sendto(recording.under(command, sent), node.endpoint)
                    reply = client.recv(DATAGRAM_BYTES_MAX)
                    assert sent == body or len(reply) == 48
                    if len(reply) > 48:
                        counters.add(bytes(reply[24:40]))
                        used += 1
        assert len(counters) == used > len(long)


@pytest.mark.any_backend
def test_the_algebra_finds_a_key_where_there_is_one() -> None:
    """What the reference server tells: the check above is no blind one."""
    an, nonce, version = an_of("an"), os.urandom(8), b"20250323 and more"
    key = Key(1, (KeyCoin(0, 8, an),))
    data = sealing.seal_request(0, 0, key=key, nonce=nonce, raida_id=RAIDA_ID, coin_id=COIN_ID)
    stream = keystream(an, nonce + bytes(8), len(version))
    proof = xor(data[32:48], stream, an)
    recording = Recording(key, nonce, b"", data, bytes(16) + proof)
    told = bytes(32) + xor(version, stream) + b">>"
    assert keys_found(recording, [recording.reply, told], [bytes(16), version]) == {an}
    assert keys_found(recording, [recording.reply], [version]) == set()


# --- Three attacks ------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [udp_ask, tcp_ask])
def test_no_an_from_nothing(tmp_path: Path, ask: Ask) -> None:
    """A keystream from a reply without a body in the request, F from a wrong CRC."""
    with serving(make_store(tmp_path / "store")) as node:
        audit = reply_payload(ask(node.endpoint, request(AUDIT)))
        for coin in (VICTIM, (2, 100), (-8, 1_023_998)):
            name, nonce = [coin_bytes(coin)], os.urandom(8)
            sealed = ask(node.endpoint, raw(1, AUDIT, b"", coins=name, nonce=nonce))
            assert (len(sealed), status(sealed), sealed[16:]) == (32, 36, bytes(16))
            for command in COMMANDS:
                refused = ask(
                    node.endpoint, raw(1, command, bytes(16) + b">>", coins=name, nonce=nonce)
                )
                expected = Status.EMPTY_REQUEST if command in PUBLIC else Status.INVALID_CRC
                assert (len(refused), status(refused), refused[16:]) == (32, expected, bytes(16))
        assert len(audit) == 75


@pytest.mark.parametrize("ask", [udp_ask, tcp_ask])
def test_no_an_from_one_request_that_somebody_saw(tmp_path: Path, ask: Ask) -> None:
    """Its first block and nonce, resent as what everybody may ask for."""
    with serving(make_store(tmp_path / "store")) as node:
        key = Key(1, (owner_coin(OWNER),))
        seen = recorded(node, key, ECHO_COMMAND, b"")
        assert status(seen.reply) == Status.SUCCESS
        assert any(fields(seen.reply)[0])
        for command in PUBLIC:
            for size in (0, 5, 9, 480):
                resent = seen.under(command, seen.body[:16] + os.urandom(size) + b">>")
                reply = ask(node.endpoint, resent)
                assert (len(reply), status(reply), reply[16:]) == (32, 36, bytes(16))


@pytest.mark.parametrize("ask", [udp_ask, tcp_ask])
def test_no_an_by_a_ticket_of_the_eavesdropper_s_own(tmp_path: Path, ask: Ask) -> None:
    """The eavesdropper knows what it names, and can place it over known bytes of the payload."""
    with serving(make_store(tmp_path / "store")) as node:
        own = b"".join(coin_bytes((1, sn)) + default_an((1, sn)) for sn in range(4))
        ticket = reply_payload(ask(node.endpoint, request(GET_TICKET, own)))
        first = owner_coin(OWNER)
        whole = coin_bytes(OWNER) + first.an
        seen = recorded(node, Key(1, (first,)), DETECT, whole * 2, coin_bytes(OWNER))
        reply = ask(node.endpoint, seen.resent(VALIDATE_TICKET, bytes((7,)) + ticket))
        assert (len(reply), status(reply), reply[16:]) == (32, 36, bytes(16))
        plain = ask(node.endpoint, request(VALIDATE_TICKET, bytes((7,)) + ticket))
        assert len(reply_payload(plain)) == 20


# --- What fails later ---------------------------------------------------------------------------


def test_a_failed_commit_shows_no_more_than_the_request_had_earned(tmp_path: Path) -> None:
    """The whole batch is 194: with a proof where the CRC was right, without where it was not."""
    key = Key(1, (owner_coin(OWNER),))
    own = coin_bytes(OWNER) + default_an(OWNER)
    name = [coin_bytes(OWNER)]
    writing = [POWN, POWN_SUM]
    wrong = [
        raw(
            1,
            command,
            os.urandom(16) + own + b">>",
            coins=name,
            nonce=bytes((0, 0, 0, 0, 0, 0, 1, n)),
        )
        for n, command in enumerate(writing)
    ]
    challenge = os.urandom(12)
    right = sealing.seal_request(
        *POWN,
        own + default_an(OWNER),
        key=key,
        nonce=bytes(6) + b"\2\0",
        raida_id=RAIDA_ID,
        coin_id=COIN_ID,
        challenge=challenge,
    )
    with serving(make_store(tmp_path / "store")) as node, udp_client(node.endpoint) as client:
        before = node.counters()["udp_received"]
        with without_journal(tmp_path / "store"):
            with gate.closed():
                client.sendto(request(HOLD_WRITE, echo=0x0300), node.endpoint)
                eventually(lambda: gate.inside == 1)
                # A batch of its own, which waits for its turn: what follows is the next one.
                client.sendto(request(POWN, own + default_an(OWNER), echo=0x0400), node.endpoint)
                eventually(lambda: node.server.observe().lanes["native_write"].busy == 1)
                for data in (*wrong, right):
                    client.sendto(data, node.endpoint)
                node.wait_for(lambda now: now["udp_received"] == before + len(wrong) + 3)
            replies = {
                reply[6:8]: reply for reply in (client.recv(2048) for _ in range(len(wrong) + 3))
            }
        assert status(replies.pop(b"\3\0")) == Status.SUCCESS
        assert status(replies.pop(b"\4\0")) == Status.FILESYSTEM
        assert {status(reply) for reply in replies.values()} == {Status.FILESYSTEM}
        for data in wrong:
            assert replies[data[30:32]][16:] == bytes(16)
        assert replies[right[30:32]][16:] == sealing.prove_challenge(challenge, key)
        assert detects(node.endpoint, {OWNER: default_an(OWNER)})
