"""Encryption types 1, 2, 4 and 5 as a client needs them: requests sealed, replies opened.

Pure. Terminators are never encrypted. A node does its half in C: ffi/seal/seal.h. Source:
docs/wire.md, "Encryption". Thread: any.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol import Coin, ParsedReply, Status, arguments, build_front, layout
from raida_uring.protocol.layout import (
    AN_SIZE,
    BODY_MAX,
    CHALLENGE_RANDOM_SIZE,
    COIN_NAME_SIZE,
    COUNTER_SIZE,
    HMAC_SIZE,
    REQUEST_SMALL_NONCE_SIZE,
    SMALL_TYPE_MAX,
    TERMINATOR,
)
from raida_uring.protocol.request import crc32_challenge

_SMALL_COUNTER_REST: Final = bytes(COUNTER_SIZE - REQUEST_SMALL_NONCE_SIZE)
# Where the counter block stands in a large header.
_REPLY_COUNTER: Final = slice(
    layout.REPLY_LARGE_NONCE_AT, layout.REPLY_LARGE_NONCE_AT + COUNTER_SIZE
)


def _context(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(counter)).encryptor()  # in CTR mode decrypting is the same


def _hmac(key: bytes, ciphertext: bytes) -> bytes:
    return hmac.digest(key, ciphertext, "sha256")


def _xor(first: bytes, second: bytes) -> bytes:
    return (int.from_bytes(first) ^ int.from_bytes(second)).to_bytes(len(first))


@dataclass(frozen=True, slots=True)
class Key:
    """The key that a client seals requests with.

    encryption: 1 or 4 with one coin, 5 with two, 2 with a locker's key of 16 bytes. Use 4 or 5:
    types 1 and 2 encrypt request and reply with the same keystream and do not authenticate the
    payload, so assume that an observer of the traffic can learn the key. Under types 1 and 2 nodes
    also refuse public commands (36), such as the version.
    Raises ArgumentError if the parts do not fit the type.
    """

    encryption: int
    coins: tuple[Coin, ...] = ()
    locker: bytes = b""

    def __post_init__(self) -> None:
        coins = arguments.each("coins", self.coins, Coin, "a Coin")
        locker = arguments.octets("locker", self.locker)
        parts = (len(coins), len(locker))
        fitting = {1: (1, 0), 2: (0, AN_SIZE), 4: (1, 0), 5: (2, 0)}
        arguments.choice("encryption", self.encryption, fitting)
        if parts != fitting[self.encryption]:
            raise ArgumentError(
                f"encryption = {self.encryption} with {parts[0]} coins and a locker key of "
                f"{parts[1]} bytes: must be 1 or 4 with one coin, 5 with two, or 2 with a locker "
                f"key of {AN_SIZE} bytes"
            )
        object.__setattr__(self, "coins", coins)
        object.__setattr__(self, "locker", locker)

    def __repr__(self) -> str:
        return f"Key(encryption={self.encryption}, coins={self.coins})"

    @property
    def nonce_bytes(self) -> int:
        """Size of a request's nonce: 8 or 24 bytes."""
        if self.encryption <= SMALL_TYPE_MAX:
            return REQUEST_SMALL_NONCE_SIZE
        return layout.REQUEST_LARGE_NONCE_SIZE

    @property
    def cipher_key(self) -> bytes:
        """16 bytes (AES-128) for types 1 and 2, 32 (AES-256) for 4 and 5."""
        secret = self.locker + b"".join(coin.an for coin in self.coins)
        return secret if self.encryption <= SMALL_TYPE_MAX else hashlib.sha256(secret).digest()


def seal_request(
    group: int,
    command: int,
    payload: bytes = b"",
    *,
    key: Key,
    nonce: bytes,
    raida_id: int,
    coin_id: int = 6,
    shard: int = 0,
    challenge: bytes = bytes(CHALLENGE_RANDOM_SIZE),
    body: bool = True,
) -> bytes:
    """Return a request encrypted with `key`.

    nonce: `key.nonce_bytes`, never reused under a key; the reply repeats the last two as echo; type
    5 overwrites the first five with its second coin. challenge: 12 random bytes, for types 1 and 2.
    body: False omits the body; `payload` must then be empty. Raises ArgumentError if a value does
    not fit its field.
    """
    if len(nonce) != key.nonce_bytes or len(challenge) != CHALLENGE_RANDOM_SIZE:
        raise ArgumentError(f"nonce has {len(nonce)} bytes, challenge {len(challenge)}")
    if payload and not body:
        raise ArgumentError("a request without a body has no payload")
    front = build_front(group, command, raida_id=raida_id, coin_id=coin_id, shard=shard)
    kind = bytes((key.encryption,))
    content = b""
    if key.encryption <= SMALL_TYPE_MAX:
        if body:
            plain = challenge + crc32_challenge(challenge) + payload
            counter = nonce + _SMALL_COUNTER_REST
            content = _context(key.cipher_key, counter).update(plain) + TERMINATOR
        name = key.locker[: layout.LOCKER_PREFIX_SIZE] or key.coins[0].name.wire
        return front + kind + name + _length(content) + nonce + content
    if key.encryption == 5:
        nonce = key.coins[1].name.wire + nonce[COIN_NAME_SIZE:]
    if body:
        cipher_key = key.cipher_key
        ciphertext = _context(cipher_key, nonce[:COUNTER_SIZE]).update(payload)
        content = ciphertext + _hmac(cipher_key, ciphertext) + TERMINATOR
    return front + kind + _length(content) + key.coins[0].name.wire + nonce + content


def _length(content: bytes) -> bytes:
    if len(content) > BODY_MAX:
        raise ArgumentError(f"body has {len(content)} bytes, more than {BODY_MAX}")
    return len(content).to_bytes(2)


def prove_challenge(challenge: bytes, key: Key | None) -> bytes:
    """Return the 16 bytes that prove in a reply that the body with this challenge was read.

    challenge: 12 bytes. key: None for an unencrypted request. Long-header replies have no proof.
    """
    sent = challenge + crc32_challenge(challenge)
    return sent if key is None else _xor(sent, key.cipher_key)


def open_reply(reply: ParsedReply, *, key: Key, nonce: bytes) -> bytes:
    """Return the reply's payload in the clear; empty if it has no body.

    nonce: the request's, which types 1 and 2 use again; ignored for 4 and 5. Raises ProtocolError
    if a long-header reply is too short for its HMAC, or if the HMAC is wrong and the reply
    therefore forged. Types 1 and 2 have no HMAC: compare `prove_challenge()`.
    """
    if not reply.body:
        return b""
    cipher_key = key.cipher_key
    if key.encryption <= SMALL_TYPE_MAX:
        return _context(cipher_key, nonce + _SMALL_COUNTER_REST).update(reply.payload)
    sealed = reply.payload
    if len(sealed) < HMAC_SIZE:
        raise ProtocolError(
            f"sealed reply body has {len(reply.body)} bytes, too few for its HMAC",
            Status.INVALID_PACKET_LENGTH,
        )
    ciphertext = sealed[:-HMAC_SIZE]
    if not hmac.compare_digest(_hmac(cipher_key, ciphertext), sealed[-HMAC_SIZE:]):
        raise ProtocolError("reply's HMAC is wrong", Status.INVALID_HMAC)
    return _context(cipher_key, reply.header[_REPLY_COUNTER]).update(ciphertext)
