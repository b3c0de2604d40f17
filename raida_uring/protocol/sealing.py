"""Encryption types 1, 2, 4 and 5: opening requests and sealing replies, for nodes and for clients.

Pure, except that a reply's nonce comes from the system's generator. Terminators are never
encrypted: the data plane writes that of a reply. Source: docs/wire.md, "Encryption" and "Decisions,
in order".

A node makes one `Opener` per worker thread. Clients call `seal_request()` and `open_reply()` from
any thread.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol import Coin, ParsedReply, Status, arguments, build_front, layout
from raida_uring.protocol.layout import (
    AN_SIZE,
    BODY_MAX,
    CHALLENGE_RANDOM_SIZE,
    CHALLENGE_SIZE,
    COIN_NAME,
    COIN_NAME_SIZE,
    COUNTER_SIZE,
    HEADER_SMALL,
    HMAC_SIZE,
    PLAIN_BODY_MIN,
    REQUEST_LARGE_SECOND_COIN_AT,
    REQUEST_SMALL_NONCE_AT,
    REQUEST_SMALL_NONCE_SIZE,
    SEALED_BODY_MIN,
    SMALL_TYPE_MAX,
    TERMINATOR,
)
from raida_uring.protocol.request import crc32_challenge

CONTEXTS_MAX: Final = 256  # key schedules kept per worker, about 1 KiB each

_SMALL_COUNTER_REST: Final = bytes(COUNTER_SIZE - REQUEST_SMALL_NONCE_SIZE)
# Where the counter block stands in a large header.
_REQUEST_COUNTER: Final = slice(
    layout.REQUEST_LARGE_NONCE_AT, layout.REQUEST_LARGE_NONCE_AT + COUNTER_SIZE
)
_REPLY_COUNTER: Final = slice(
    layout.REPLY_LARGE_NONCE_AT, layout.REPLY_LARGE_NONCE_AT + COUNTER_SIZE
)
_SECOND_COIN: Final = slice(
    REQUEST_LARGE_SECOND_COIN_AT, REQUEST_LARGE_SECOND_COIN_AT + COIN_NAME_SIZE
)


class Keys(Protocol):
    """The source of coins' keys for a node. Thread: any worker."""

    def an(self, den: int, sn: int) -> bytes | None:
        """Return the coin's 16-byte authenticity number, or None if its page cannot be read."""


# --- Ciphers ----------------------------------------------------------------------------------


class _Ciphers:
    """AES-CTR with the key schedules of recent keys. Thread: one.

    Creating a context costs ten times as much as using it on a small body, and a client sends many
    requests under one coin. Contexts are looked up by key, so a changed AN never uses the context
    of the old one.
    """

    def __init__(self) -> None:
        self._context = lru_cache(CONTEXTS_MAX)(lambda key: _context(key, bytes(COUNTER_SIZE)))

    def apply(self, key: bytes, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt `data`, starting at the 16-byte counter block `counter`."""
        context = self._context(key)
        context.reset_nonce(counter)
        return context.update(data)


def _context(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(counter)).encryptor()  # in CTR mode decrypting is the same


def _hmac(key: bytes, ciphertext: bytes) -> bytes:
    return hmac.digest(key, ciphertext, "sha256")


def _xor(first: bytes, second: bytes) -> bytes:
    return (int.from_bytes(first) ^ int.from_bytes(second)).to_bytes(len(first))


# --- Nodes ------------------------------------------------------------------------------------


Seal = Callable[[bytes], bytes]
"""Seals the payload of the reply to one request, on the thread of its opener. Returns a payload for
`ru_worker_reply`: the bytes for the header, then the sealed body. Without a payload there is no
body, and the bytes for the header may be empty, too."""


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
    ciphers: _Ciphers, key: bytes, counter: bytes, challenge: bytes, payload: bytes
) -> bytes:
    """Types 1 and 2: the reply uses the keystream of the request again.

    `challenge` is ciphertext XOR keystream XOR key: with 16 known bytes of a reply under the same
    nonce it reveals the key. So it is computed only for clients that have proved the key, and
    replies whose payload strangers can know are not sealed this way (`Opener.open`, `public`).
    """
    return challenge + (payload and ciphers.apply(key, counter, payload))


def _seal_long(ciphers: _Ciphers, key: bytes, second_coin: bytes, payload: bytes) -> bytes:
    """Types 4 and 5: a fresh nonce. second_coin: of type 5; the nonce begins with it, so that the
    header has the whole counter block and the client can decrypt the reply."""
    if not payload:
        return b""
    nonce = second_coin + os.urandom(layout.REPLY_NONCE_SIZE - len(second_coin))
    ciphertext = ciphers.apply(key, nonce[:COUNTER_SIZE], payload)
    return nonce + ciphertext + _hmac(key, ciphertext)


def _refuse_body(body: bytes, announced: int, least: int) -> Status | None:
    """Check a body as far as possible without its key; returns the refusal or None."""
    if len(body) < announced or announced < len(TERMINATOR):
        return Status.INVALID_PACKET_LENGTH
    if not body.endswith(TERMINATOR):
        return Status.INVALID_EOF
    return Status.INVALID_PACKET_LENGTH if announced < least else None


class Opener:
    """Opens requests. Thread: one."""

    def __init__(self, keys: Keys | None) -> None:
        """keys: None on a node without a store."""
        self._keys = keys
        self._ciphers = _Ciphers()

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
        plain = self._ciphers.apply(key, counter, body[: -len(TERMINATOR)])
        crc = crc32_challenge(plain[:CHALLENGE_RANDOM_SIZE])
        if not hmac.compare_digest(crc, plain[CHALLENGE_RANDOM_SIZE:CHALLENGE_SIZE]):
            return Opened(Status.INVALID_CRC)
        challenge = _xor(plain[:CHALLENGE_SIZE], key)
        seal = partial(_seal_short, self._ciphers, key, counter, challenge)
        return Opened(None, plain[CHALLENGE_SIZE:], seal)

    def _open_long(self, header: bytes, body: bytes, key: bytes) -> Opened:
        second_coin = header[_SECOND_COIN] if len(key) > AN_SIZE else b""
        key = hashlib.sha256(key).digest()
        ciphertext, seen = body[:-SEALED_BODY_MIN], body[-SEALED_BODY_MIN : -len(TERMINATOR)]
        if not hmac.compare_digest(_hmac(key, ciphertext), seen):
            return Opened(Status.INVALID_HMAC)
        plain = ciphertext and self._ciphers.apply(key, header[_REQUEST_COUNTER], ciphertext)
        return Opened(None, plain, partial(_seal_long, self._ciphers, key, second_coin))


# --- Clients ----------------------------------------------------------------------------------


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
