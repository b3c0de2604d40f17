"""The node's half of encryption once more, in Python: what ffi/seal/ must agree with.

Written from docs/wire.md, "Encryption" and "Decisions, in order"; was the node's own until it was
written in C. Thread: one per Opener.
"""

import hashlib
import hmac
import os
from functools import partial
from typing import Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from raida_uring.protocol import Status, crc32_challenge, layout
from raida_uring.protocol.layout import (
    AN_SIZE,
    CHALLENGE_RANDOM_SIZE,
    CHALLENGE_SIZE,
    COIN_NAME,
    COIN_NAME_SIZE,
    COUNTER_SIZE,
    HEADER_SMALL,
    PLAIN_BODY_MIN,
    REQUEST_LARGE_SECOND_COIN_AT,
    REQUEST_SMALL_NONCE_AT,
    REQUEST_SMALL_NONCE_SIZE,
    SEALED_BODY_MIN,
    SMALL_TYPE_MAX,
    TERMINATOR,
)

_SMALL_COUNTER_REST: Final = bytes(COUNTER_SIZE - REQUEST_SMALL_NONCE_SIZE)
# Where the counter block stands in a large header.
_REQUEST_COUNTER: Final = slice(
    layout.REQUEST_LARGE_NONCE_AT, layout.REQUEST_LARGE_NONCE_AT + COUNTER_SIZE
)
_SECOND_COIN: Final = slice(
    REQUEST_LARGE_SECOND_COIN_AT, REQUEST_LARGE_SECOND_COIN_AT + COIN_NAME_SIZE
)


class Keys(Protocol):
    """The source of coins' keys."""

    def an(self, den: int, sn: int) -> bytes | None:
        """Return the coin's 16-byte authenticity number, or None if its page cannot be read."""


def _ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt `data`, which is the same, from the 16-byte block `counter` on."""
    return Cipher(AES(key), CTR(counter)).encryptor().update(data)


def _hmac(key: bytes, ciphertext: bytes) -> bytes:
    return hmac.digest(key, ciphertext, "sha256")


def _xor(first: bytes, second: bytes) -> bytes:
    return (int.from_bytes(first) ^ int.from_bytes(second)).to_bytes(len(first))


class Seal(Protocol):
    """Seals the payload of the reply to one request."""

    def __call__(self, payload: bytes, nonce: bytes = b"") -> bytes:
        """The bytes for its header, 16 of the challenge field or 22 of the nonce, and the sealed
        body behind them, without its terminator. nonce: instead of a fresh one."""


class Opened(NamedTuple):
    """An encrypted request after its checks.

    refusal: the status to answer with; None if the request is valid. payload: in the clear; empty
    if the request is refused or has no body. seal: seals the reply; None if the request has not
    proved its key, so only a status may be sent.
    """

    refusal: Status | None = None
    payload: bytes = b""
    seal: Seal | None = None


def _seal_short(
    key: bytes, counter: bytes, challenge: bytes, payload: bytes, nonce: bytes = b""
) -> bytes:
    """Types 1 and 2: the reply uses the keystream of the request again.

    `challenge` is ciphertext XOR keystream XOR key: with 16 known bytes of a reply under the same
    nonce it reveals the key. So it is computed only for clients that have proved the key, and
    replies whose payload strangers can know are not sealed this way (`Opener.open`, `public`).
    """
    return challenge + _ctr(key, counter, payload)


def _seal_long(key: bytes, second_coin: bytes, payload: bytes, nonce: bytes = b"") -> bytes:
    """Types 4 and 5: a fresh nonce. second_coin: of type 5; the nonce begins with it, so that the
    header has the whole counter block and the client can decrypt the reply."""
    nonce = nonce or second_coin + os.urandom(layout.REPLY_NONCE_SIZE - len(second_coin))
    if not payload:
        return nonce
    ciphertext = _ctr(key, nonce[:COUNTER_SIZE], payload)
    return nonce + ciphertext + _hmac(key, ciphertext)


def _refuse_body(body: bytes, announced: int, least: int) -> Status | None:
    """Check a body as far as possible without its key; returns the refusal or None."""
    if len(body) < announced or announced < len(TERMINATOR):
        return Status.INVALID_PACKET_LENGTH
    if not body.endswith(TERMINATOR):
        return Status.INVALID_EOF
    return Status.INVALID_PACKET_LENGTH if announced < least else None


class Opener:
    """Opens requests. Thread: any."""

    def __init__(self, keys: Keys | None) -> None:
        """keys: None on a node without a store."""
        self._keys = keys

    def open(self, header: bytes, body: bytes, *, public: bool = False) -> Opened:
        """Decide on an encrypted request, in the order of docs/wire.md.

        header: 32 or 48 bytes that have passed header decisions 1 to 8. body: the part that
        arrived. public: strangers can know the reply's payload; types 1 and 2 are then refused,
        because the payload would reveal the keystream. Raises the exceptions of `Keys.an`.
        """
        encryption = header[layout.REQUEST_ENCRYPTION_AT]
        if encryption <= SMALL_TYPE_MAX:
            # Type 2 uses a locker's key; lockers are not implemented yet.
            key = self._an(header, layout.REQUEST_SMALL_COIN_AT) if encryption == 1 else None
            if key is None:
                return Opened(Status.INVALID_ENCRYPTION)
            if public:
                return Opened(Status.EMPTY_REQUEST)
            (announced,) = layout.U16.unpack_from(header, layout.REQUEST_SMALL_BODY_SIZE_AT)
            least, open_body = PLAIN_BODY_MIN, self._open_short
        else:
            key = self._an(header, layout.REQUEST_LARGE_COIN_AT)
            if encryption == 5 and key is not None:
                second = self._an(header, REQUEST_LARGE_SECOND_COIN_AT)
                key = None if second is None else key + second
            if key is None:
                return Opened(Status.ENCRYPTION_COIN_NOT_FOUND)
            (announced,) = layout.U16.unpack_from(header, layout.REQUEST_LARGE_BODY_SIZE_AT)
            least, open_body = SEALED_BODY_MIN, self._open_long
        if announced == 0:
            return Opened()
        refusal = _refuse_body(body, announced, least)
        return open_body(header, body, key) if refusal is None else Opened(refusal)

    def _an(self, header: bytes, offset: int) -> bytes | None:
        return None if self._keys is None else self._keys.an(*COIN_NAME.unpack_from(header, offset))

    def _open_short(self, header: bytes, body: bytes, key: bytes) -> Opened:
        counter = header[REQUEST_SMALL_NONCE_AT:HEADER_SMALL] + _SMALL_COUNTER_REST
        plain = _ctr(key, counter, body[: -len(TERMINATOR)])
        crc = crc32_challenge(plain[:CHALLENGE_RANDOM_SIZE])
        if not hmac.compare_digest(crc, plain[CHALLENGE_RANDOM_SIZE:CHALLENGE_SIZE]):
            return Opened(Status.INVALID_CRC)
        challenge = _xor(plain[:CHALLENGE_SIZE], key)
        seal = partial(_seal_short, key, counter, challenge)
        return Opened(None, plain[CHALLENGE_SIZE:], seal)

    def _open_long(self, header: bytes, body: bytes, key: bytes) -> Opened:
        second_coin = header[_SECOND_COIN] if len(key) > AN_SIZE else b""
        key = hashlib.sha256(key).digest()
        ciphertext, seen = body[:-SEALED_BODY_MIN], body[-SEALED_BODY_MIN : -len(TERMINATOR)]
        if not hmac.compare_digest(_hmac(key, ciphertext), seen):
            return Opened(Status.INVALID_HMAC)
        plain = _ctr(key, header[_REQUEST_COUNTER], ciphertext)
        return Opened(None, plain, partial(_seal_long, key, second_coin))
