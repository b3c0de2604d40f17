"""The benchmark's coin commands: their requests, plain and sealed, and the store they need.

Pure except for the functions that make a store. The bytes are built here, as in cases.py. Source:
docs/wire.md.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring.bench.cases import (
    CHALLENGE,
    SUCCESS,
    VERSION_TEXT,
    command_exchange,
)
from raida_uring.bench.load import Exchange
from raida_uring.protocol import layout
from raida_uring.store import Store, month_now

COINS_MAX = 400
WINDOW = 64
# 400 coins in one datagram; loopback's MTU allows it.
SERVER: dict[str, object] = {"udp_effective_payload": 9000}
BASE = "version"  # the command that rates are compared with
GOAL_CASE, GOAL_RATIO_MIN = "detect-25", 0.4
OWN_COINS = 25  # coins per request, if no two requests share coins

_ALL_PASS = 241
_SEED = "bench"
_STRIDE = 2 * 1024 + 1  # between serial numbers, so that each coin is on a different page


@dataclass(frozen=True, slots=True)
class CoinCase:
    """One exchange. coins: their number. fresh: uses a store that was never written."""

    name: str
    coins: int
    exchange: Exchange
    fresh: bool = False


def _coin(index: int) -> bytes:
    denomination, place = divmod(index, COINS_MAX)
    return layout.COIN_NAME.pack(denomination, place * _STRIDE)


def _an(index: int, kind: str = "") -> bytes:
    return hashlib.md5(kind.encode() + _coin(index), usedforsecurity=False).digest()


def _first_an(index: int) -> bytes:
    """Return the AN of a coin on a default page (wire specification, default pages)."""
    denomination, serial = layout.COIN_NAME.unpack(_coin(index))
    page, record = divmod(serial, 1024)
    text = b"%s%02x%04x%02x" % (_SEED.encode(), denomination, page, record)
    return hashlib.md5(text, usedforsecurity=False).digest()


def make_fresh_store(path: Path) -> None:
    """Make a store that was never written."""
    Store.create(path, seed=_SEED)


def make_store(path: Path) -> None:
    """Make a store in which the coins of every case have the ANs of the case."""
    Store.create(path)
    store = Store(path)
    with store.write() as coins:
        count = 1 + WINDOW * OWN_COINS
        listed = b"".join(_coin(index) + _an(index) for index in range(count))
        coins.set(listed, count, layout.COIN_AN_SIZE, month_now())
    store.close()


def _ctr(nonce: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(_an(0)), modes.CTR(nonce.ljust(layout.COUNTER_SIZE, b"\0")))
    return cipher.encryptor().update(data)


def _request(group: int, command: int, payload: bytes, tag: int, *, sealed: bool) -> bytes:
    """Return a request with its tag, which under encryption type 1 is part of the nonce."""
    request = bytearray(command_exchange(group, command, payload, SUCCESS).request)
    layout.U16.pack_into(request, layout.REQUEST_SMALL_ECHO_AT, tag)
    if not sealed:
        return bytes(request)
    header = request[: layout.HEADER_SMALL]
    header[layout.REQUEST_ENCRYPTION_AT] = 1
    coin_at = layout.REQUEST_SMALL_COIN_AT
    header[coin_at : coin_at + layout.COIN_NAME_SIZE] = _coin(0)
    nonce = bytes(header[layout.REQUEST_SMALL_NONCE_AT :])
    return bytes(header) + _ctr(nonce, CHALLENGE + payload) + layout.TERMINATOR


def _sealed_reply(plain: bytes) -> bytes:
    reply = bytearray(plain)
    proof = bytes(a ^ b for a, b in zip(CHALLENGE, _an(0), strict=True))
    reply[layout.REPLY_SMALL_CHALLENGE_AT : layout.HEADER_SMALL] = proof
    return bytes(reply)


def _sealed_exchange(group: int, command: int, payload: bytes, status: int) -> Exchange:
    """Return a type 1 exchange of a command that answers without a body."""
    plain = command_exchange(group, command, payload, status)
    variants = [_request(group, command, payload, tag, sealed=True) for tag in range(WINDOW)]
    return dataclasses.replace(
        plain,
        request=variants[0],
        variants=tuple(variants),
        reply=_sealed_reply(plain.reply),
    )


def _own_exchange(
    command: int, count: int, turns: Sequence[Callable[[int], bytes]], *, sealed: bool = False
) -> Exchange:
    """Return requests that share no coins, none of them the key's, each coin on a page of its own.

    turns: what a coin, by its index, gives to the body of each turn's request.
    """
    variants = []
    for given in turns:
        for tag in range(WINDOW):
            first = 1 + tag * count
            payload = b"".join(given(index) for index in range(first, first + count))
            variants.append(_request(1, command, payload, tag, sealed=sealed))
    plain = command_exchange(1, command, b"", _ALL_PASS)
    return dataclasses.replace(
        plain,
        request=variants[0],
        variants=tuple(variants),
        turns=len(turns),
        reply=_sealed_reply(plain.reply) if sealed else plain.reply,
    )


def _detect(count: int) -> tuple[int, int, bytes, int]:
    return 1, 10, b"".join(_coin(i) + _an(i) for i in range(count)), _ALL_PASS


def _pown(count: int, *, sealed: bool = False) -> Exchange:
    """Return powns that change every coin, and change it back in their second turn."""
    turns = (
        lambda index: _coin(index) + _an(index) + _an(index, "new"),
        lambda index: _coin(index) + _an(index, "new") + _an(index),
    )
    return _own_exchange(20, count, turns, sealed=sealed)


def cases() -> list[CoinCase]:
    """Return all cases: plain ones, then sealed ones, then those of `detect` on coins of their own.

    Version is not answered under encryption type 1.
    """
    echo = (0, 0, b"", SUCCESS)
    detects = [(f"detect-{count}", count, _detect(count)) for count in (1, 25, COINS_MAX)]
    own = _own_exchange(10, OWN_COINS, [lambda index: _coin(index) + _an(index)])
    first = _own_exchange(10, OWN_COINS, [lambda index: _coin(index) + _first_an(index)])
    return [
        CoinCase("echo", 0, command_exchange(*echo)),
        CoinCase(BASE, 0, command_exchange(0, 1, b"", SUCCESS, VERSION_TEXT)),
        *(CoinCase(name, count, command_exchange(*asked)) for name, count, asked in detects),
        *(CoinCase(f"pown-{count}", count, _pown(count)) for count in (1, OWN_COINS)),
        CoinCase("echo, type 1", 0, _sealed_exchange(*echo)),
        *(
            CoinCase(f"{name}, type 1", count, _sealed_exchange(*asked))
            for name, count, asked in detects
        ),
        *(
            CoinCase(f"pown-{count}, type 1", count, _pown(count, sealed=True))
            for count in (1, OWN_COINS)
        ),
        CoinCase(f"detect-{OWN_COINS}, own coins", OWN_COINS, own),
        CoinCase(f"detect-{OWN_COINS}, fresh store", OWN_COINS, first, fresh=True),
    ]
