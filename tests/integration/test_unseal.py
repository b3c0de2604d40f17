"""Batches of encrypted requests, taken, opened and answered by a test in place of a worker.

What must hold: what is refused is answered when the batch is opened, and nobody sees it as work; a
reply is sealed whoever has decided on it, if its request has shown its key, and is a bare status
otherwise; opening again changes nothing; nothing of one batch is left for the next.
"""

import itertools
import random
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from raida_uring import protocol
from raida_uring.ffi import native, native_worker
from raida_uring.protocol import Coin, Status, build_request, sealing
from raida_uring.protocol.sealing import Key
from raida_uring.store import Coins as View
from tests.integration.test_engine import COMMAND, running_engine
from tests.support.coins import Coins
from tests.support.net import Endpoint, read_to_close, tcp_connect, udp_client
from tests.support.node import eventually
from tests.support.wire import reply_payload, status

COINS = Coins()
RECORD = struct.Struct(native_worker.RECORD_FORMAT)
PUBLIC, ECHO = (5, 2), (0, 0)
CHALLENGE = b"challenge-12"
_nonces = itertools.count(1)


def key_of(encryption: int, *, right: bool = True) -> Key:
    names = [(0, 8), (2, 9)] if encryption == 5 else [(0, 8)]
    ans = [COINS.an(*name) or b"" if right else bytes(16) for name in names]
    coins = tuple(Coin(*name, an) for name, an in zip(names, ans, strict=True))
    return Key(encryption, coins)


class Asked:
    """One request and what reads its reply."""

    def __init__(
        self,
        encryption: int,
        payload: bytes = b"",
        *,
        command: tuple[int, int] = COMMAND,
        right: bool = True,
        body: bool = True,
    ) -> None:
        self.key = key_of(encryption, right=right)
        self.nonce = next(_nonces).to_bytes(self.key.nonce_bytes)
        self.data = sealing.seal_request(
            *command,
            payload,
            key=self.key,
            nonce=self.nonce,
            raida_id=14,
            challenge=CHALLENGE,
            body=body,
        )

    def read(self, reply: bytes) -> tuple[int, bytes, bool]:
        """Status, payload, and whether the reply shows that the key was."""
        parsed = protocol.parse_reply(reply, self.key.encryption)
        shown = False
        if self.key.encryption == 1:
            proof = sealing.prove_challenge(CHALLENGE, self.key)
            assert parsed.challenge in (proof, bytes(16))
            shown = parsed.challenge == proof
        return parsed.status, sealing.open_reply(parsed, key=self.key, nonce=self.nonce), shown


class Rig:
    """An engine, one of its workers and a client."""

    def __init__(
        self, engine: native.Engine, endpoint: Endpoint, client: socket.socket, index: int = 0
    ) -> None:
        self.engine, self.endpoint, self.client = engine, endpoint, client
        self.worker = engine.open_worker(index)
        self.coins: View = COINS.store.coins()

    def beside(self, index: int, stack: ExitStack) -> "Rig":
        """Another worker of the same engine."""
        other = Rig(self.engine, self.endpoint, self.client, index)
        stack.callback(other.close)
        return other

    def close(self) -> None:
        self.worker.close()
        self.coins.close()

    def send(self, *datagrams: bytes) -> int:
        """Send them together and take them as one batch: how many the worker has got."""
        before = self.engine.counters()["udp_received"]
        for data in datagrams:
            self.client.sendto(data, self.endpoint)
        eventually(lambda: self.engine.counters()["udp_received"] == before + len(datagrams))
        return self.worker.take(5000) or 0

    def unseal(self) -> int:
        """In a newly begun view."""
        self.coins.begin()
        try:
            return self.worker.unseal(self.coins.view)
        finally:
            self.coins.end()

    def records(self, count: int) -> list[tuple[int, ...]]:
        return list(RECORD.iter_unpack(self.worker.records(count)))

    def payloads(self, count: int) -> list[bytes]:
        """Of the first `count` records."""
        records, data = self.worker.batch(count)
        return [data[one[0] : one[0] + one[1]] for one in RECORD.iter_unpack(records)]

    def reply(self, *payloads: bytes, code: int = 250) -> None:
        sizes = array("I", map(len, payloads))
        self.worker.reply(bytes((code,)) * len(payloads), sizes, b"".join(payloads))


@contextmanager
def rig(**changes: object) -> Iterator[Rig]:
    """With an echo and a public command besides COMMAND."""
    with running_engine(**changes) as (engine, endpoint), udp_client(endpoint) as client:
        engine.set_class(*ECHO, native.CLASS_ECHO)
        engine.set_class(*PUBLIC, native.CLASS_ORDINARY)
        engine.set_public(*PUBLIC)
        made = Rig(engine, endpoint, client)
        try:
            yield made
        finally:
            made.close()


def test_mixed_batches() -> None:
    """Of any size that the data plane makes; some hold both what is refused and what is not."""
    good = [Asked(kind, b"payload %d" % kind) for kind in (1, 4, 5)]
    bad = [Asked(kind, b"payload", right=False) for kind in (1, 4, 5)]
    public, bare, echo = Asked(1, command=PUBLIC), Asked(4, body=False), Asked(5, command=ECHO)
    empty_echo = Asked(1, command=ECHO, body=False)
    answers = {one: (250, b"answer to payload %d" % one.key.encryption) for one in good}
    answers |= {one: (37 if one.key.encryption == 1 else 204, b"") for one in bad}
    answers |= {public: (36, b""), bare: (36, b"")}
    answers |= {echo: (250, b"answer to "), empty_echo: (250, b"")}
    rng, mixed = random.Random(5), 0
    plain = build_request(*COMMAND, b"plain", raida_id=14)
    with rig(udp_contexts=32) as node, ExitStack() as stack:
        clients = {one: stack.enter_context(udp_client(node.endpoint)) for one in (*answers, None)}
        for _ in range(200):
            asked = rng.sample(list(clients), len(clients))  # None: not encrypted
            for one in asked:
                clients[one].sendto(one.data if one else plain, node.endpoint)
            done = 0
            while done < len(asked):
                count = node.worker.take(5000)
                assert count
                left = node.unseal()
                assert node.worker.sealed == 0
                assert len({one[0] for one in node.records(count)}) == count >= left
                mixed += 0 < left < count
                node.reply(*(b"answer to " + payload for payload in node.payloads(left)))
                done += count
            assert reply_payload(clients[None].recv(2048)) == b"answer to plain"
            for one, (code, payload) in answers.items():
                proved = one in good and one.key.encryption == 1
                assert one.read(clients[one].recv(2048)) == (code, payload, proved)
        counters = node.engine.counters()
        assert counters["checks_failed"] == 600
        told, _ = node.engine.answered(*COMMAND)
        assert told == {250: 800, 37: 200, 204: 400, 36: 200}
    assert mixed > 0


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_opened_one_by_one_and_again(encryption: int) -> None:
    asked, wrong = Asked(encryption, b"payload"), Asked(encryption, b"payload", right=False)
    refusal = 37 if encryption == 1 else 204
    expected = {
        asked: ((0, b"payload"), (250, b"answer", encryption == 1)),
        wrong: ((refusal, b""), (250, b"", False)),  # a status, whatever was given
    }
    with rig() as node:
        for one, (opened, answered) in expected.items():
            assert node.send(one.data) == 1
            [(place, *_)] = node.records(1)
            node.coins.begin()
            for _ in range(2):
                assert node.worker.unseal_at(place, node.coins.view) == opened
            node.coins.end()
            assert node.worker.may_check(place)  # as a handler asks that was called before
            node.reply(b"answer")
            assert one.read(node.client.recv(2048)) == answered
        assert node.engine.counters()["checks_failed"] == 1


def test_decided_elsewhere() -> None:
    """A reply is sealed if the key was shown, otherwise a bare status, whoever decided on it."""
    with rig() as node:
        for opened, encryption in itertools.product((False, True), (1, 4, 5)):
            asked = Asked(encryption, b"payload")
            assert node.send(asked.data) == 1
            if opened:
                assert node.unseal() == 1
            node.reply(b"no handler's", code=252)
            told = (252, b"no handler's" if opened else b"", opened and encryption == 1)
            assert asked.read(node.client.recv(2048)) == told
        for opened in (False, True):  # left behind
            asked = Asked(1, b"payload")
            assert node.send(asked.data) == 1
            if opened:
                assert node.unseal() == 1
            assert node.worker.take(0) == 0
            assert asked.read(node.client.recv(2048)) == (252, b"", opened)


def test_nothing_is_left_for_the_next_batch() -> None:
    first, second = Asked(4, b"first"), Asked(4, b"second", right=False)
    with rig() as node:
        assert node.send(first.data) == 1
        assert node.unseal() == 1
        node.reply(b"answer")
        assert first.read(node.client.recv(2048)) == (250, b"answer", False)
        assert node.send(second.data) == 1
        node.reply(b"answer", code=25)
        assert second.read(node.client.recv(2048)) == (25, b"", False)
        assert node.send(second.data) == 1
        assert node.unseal() == 0
        assert status(node.client.recv(2048)) == Status.INVALID_HMAC


def test_without_a_store_no_coin_is_known() -> None:
    with rig() as node:
        for encryption, refusal in ((1, 34), (4, 25), (5, 25)):
            assert node.send(Asked(encryption, b"payload").data) == 1
            assert node.worker.unseal(None) == 0
            assert status(node.client.recv(2048)) == refusal


def test_limits_count_the_seal() -> None:
    """A reply that fits only without its seal does not leave."""
    with rig(udp_reply_factor_max=4) as node:
        for encryption, extra in ((1, 34), (4, 82), (5, 82)):
            asked = Asked(encryption, b"payload")
            most = 4 * len(asked.data) - extra
            for size, expected in ((most, 250), (most + 1, 89)):
                assert node.send(asked.data) == 1
                assert node.unseal() == 1
                node.reply(bytes(size))
                told = (expected, bytes(size) if expected == 250 else b"", encryption == 1)
                assert asked.read(node.client.recv(8192)) == told


CHECKS = {"burst": 2, "per_min": 1, "coin_per_s": 100}


@contextmanager
def taken_by_one_each(asked: Sequence[Asked]) -> Iterator[tuple[list[Rig], list[socket.socket]]]:
    """Every request with a worker of its own, which looks at it for the first time."""
    with rig(checks=CHECKS, workers=len(asked), large_blocks=16) as node, ExitStack() as stack:
        node.engine.guard(*COMMAND)
        idle = [node, *(node.beside(index, stack) for index in range(1, len(asked)))]
        busy, clients = [], []
        for one in asked:
            clients.append(stack.enter_context(tcp_connect(node.endpoint)))
            clients[-1].sendall(one.data)
            busy.append(next(rig for rig in itertools.cycle(idle) if rig.worker.take(1)))
            idle.remove(busy[-1])
        yield busy, clients


def test_past_its_bound_a_sender_is_shown_no_proof() -> None:
    """By whichever check the bound is exceeded: here a handler's own, after the opening."""
    asked = [Asked(1, b"payload") for _ in range(3)]
    with taken_by_one_each(asked) as (rigs, clients):
        assert [node.unseal() for node in rigs] == [1, 1, 1]
        for one, node, client, proved in zip(
            asked, rigs, clients, (True, True, False), strict=True
        ):
            [(place, *_)] = node.records(1)
            assert node.worker.checked(place, failed=True) == proved
            node.reply(b"secret")
            told = (250, b"secret", True) if proved else (160, b"", False)
            assert one.read(read_to_close(client)) == told


def test_past_its_bound_a_right_key_looks_like_a_wrong_one() -> None:
    asked = [Asked(1, b"payload", right=right) for right in (False, False, False, True)]
    with taken_by_one_each(asked) as (rigs, clients):
        assert [node.unseal() for node in rigs] == [0, 0, 0, 0]
        replies = [read_to_close(client) for client in clients]
        assert [status(reply) for reply in replies] == [37, 37, 160, 160]
        assert {reply[16:] for reply in replies} == {bytes(16)}
