"""Encryption in C beside encryption in Python, over random requests.

What must hold: both openers decide alike on any request, valid, damaged or noise, of every type and
length; both see the same payload; the replies that they seal are the same bytes. SEALED_REQUESTS=n
tries another number of them.
"""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raida_uring import protocol
from raida_uring.protocol import Coin, CoinName, sealing
from raida_uring.protocol.layout import COIN_NAME
from raida_uring.protocol.sealing import Key
from tests.support.native_seal import NativeOpener
from tests.support.opener import Opened, Opener

REQUESTS = int(os.environ.get("SEALED_REQUESTS", "20000"))
TYPES = (1, 2, 4, 5)
NAMES = [(0, 8), (2, 100), (-8, 1_023_999), (6, 0)]
UNKNOWN = (5, 1)


class Few:
    """A few coins; equal ANs among them, and names that nobody can have."""

    ANS = (b"\1" * 16, bytes(range(16)), b"\1" * 16, b"\xff" * 16)

    def an(self, den: int, sn: int) -> bytes | None:
        return dict(zip(NAMES, self.ANS, strict=True)).get((den, sn))


FEW = Few()


def key_for(rng: random.Random, encryption: int) -> Key:
    """Of a coin that is there, that is not, or with another AN."""
    if encryption == 2:
        return Key(2, locker=rng.randbytes(16))
    coins = []
    for _ in range(2 if encryption == 5 else 1):
        name = rng.choice([*NAMES, *NAMES, UNKNOWN])
        an = FEW.an(*name) if rng.random() < 0.9 else rng.randbytes(16)
        coins.append(Coin(*name, an or bytes(16)))
    return Key(encryption, tuple(coins))


def request_of(rng: random.Random) -> bytes:
    """A request, whole or damaged in one of the ways that decisions tell apart."""
    key = key_for(rng, rng.choice(TYPES))
    size = rng.choice([0, 1, 15, 16, 17, rng.randrange(100), rng.randrange(3000)])
    body = rng.random() < 0.95
    data = bytearray(
        sealing.seal_request(
            rng.randrange(16),
            rng.randrange(256),
            rng.randbytes(size) if body else b"",
            key=key,
            nonce=rng.choice([rng.randbytes(24), b"\xff" * 24])[: key.nonce_bytes],
            raida_id=14,
            challenge=rng.randbytes(12),
            body=body,
        )
    )
    front = protocol.header_bytes(key.encryption)
    length_at = 22 if front == 32 else 17
    damage = rng.randrange(12)
    if damage == 0 and len(data) > front:  # one byte
        data[rng.randrange(front, len(data))] ^= 1 << rng.randrange(8)
    elif damage == 1:  # the end is missing
        del data[rng.randrange(front, len(data) + 1) :]
    elif damage == 2:  # another body of another length
        noise = rng.randbytes(rng.randrange(60)) + rng.choice([b"", b">>", b">", b">?"])
        data[front:] = noise
        data[length_at : length_at + 2] = len(noise).to_bytes(2)
    elif damage == 3:  # another length
        announced = rng.choice([0, 1, 2, 17, 18, 33, 34, len(data) - front + rng.randrange(3)])
        data[length_at : length_at + 2] = announced.to_bytes(2)
        del data[front + announced :]
    elif damage == 4:  # another header, as far as header decisions do not look
        data[24:front] = rng.randbytes(front - 24)
    elif damage == 5:  # another coin
        place = 17 if front == 32 else 19
        data[place : place + 5] = COIN_NAME.pack(
            *rng.choice([*NAMES, UNKNOWN, (7, 1), (0, 1_024_000)])
        )
    return bytes(data)


def decided(opener: NativeOpener | Opener, data: bytes, *, public: bool) -> Opened:
    size = protocol.header_bytes(data[16])
    return opener.open(data[:size], data[size:], public=public)


def test_any_request_is_decided_alike() -> None:
    rng = random.Random(16)
    native, other, seen = NativeOpener(FEW), Opener(FEW), set()
    for _ in range(REQUESTS):
        data, public = request_of(rng), rng.random() < 0.1
        ours, theirs = (decided(opener, data, public=public) for opener in (native, other))
        assert ours[:2] == theirs[:2], data.hex()
        assert (ours.seal is None) == (theirs.seal is None), data.hex()
        seen.add((data[16], ours.refusal))
        if ours.seal is not None and theirs.seal is not None:
            answer = rng.randbytes(rng.choice([0, 1, 16, rng.randrange(2000)]))
            sealed = ours.seal(answer)
            assert theirs.seal(answer, nonce=sealed[:22]) == sealed, data.hex()
        if rng.random() < 0.1:
            native.forget()
    assert {kind: sorted(code or 0 for of, code in seen if of == kind) for kind in TYPES} == {
        1: [0, 16, 33, 34, 36, 37],
        2: [34],
        4: [0, 16, 25, 33, 204],
        5: [0, 16, 25, 33, 204],
    }


@given(
    encryption=st.sampled_from(TYPES),
    name=st.sampled_from([*NAMES, (7, 0)]),
    second=st.sampled_from([*NAMES, (7, 0)]),
    rest=st.binary(min_size=24, max_size=24),
    body=st.binary(max_size=100),
    announced=st.integers(-2, 2),
    public=st.booleans(),
)
def test_noise_is_decided_alike(
    encryption: int,
    name: tuple[int, int],
    second: tuple[int, int],
    rest: bytes,
    body: bytes,
    announced: int,
    *,
    public: bool,
) -> None:
    """Bodies by Hypothesis, which makes smaller what fails."""
    front = protocol.build_front(1, 10, raida_id=14, coin_id=6, shard=0) + bytes((encryption,))
    length = max(len(body) + announced, 0).to_bytes(2)
    coin = CoinName(*name).wire
    if encryption <= 2:
        header = front + coin + length + rest[:8]
    else:
        nonce = rest if encryption == 4 else CoinName(*second).wire + rest[5:]
        header = front + length + coin + nonce
    body = body[: int.from_bytes(length)]
    ours, theirs = (
        opener.open(header, body, public=public) for opener in (NativeOpener(FEW), Opener(FEW))
    )
    assert ours == theirs == (ours.refusal, b"", None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_longest_replies(encryption: int) -> None:
    keys = tuple(Coin(*name, FEW.an(*name) or b"") for name in NAMES[: 2 if encryption == 5 else 1])
    key = Key(encryption, keys)
    nonce = bytes(key.nonce_bytes)
    data = sealing.seal_request(1, 10, b"any", key=key, nonce=nonce, raida_id=14)
    ours, theirs = (decided(opener(FEW), data, public=False) for opener in (NativeOpener, Opener))
    assert ours.seal is not None
    assert theirs.seal is not None
    for size in (65_454, 65_502):
        sealed = ours.seal(bytes(size))
        assert theirs.seal(bytes(size), nonce=sealed[:22]) == sealed
