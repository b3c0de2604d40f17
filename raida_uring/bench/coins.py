"""The benchmark's coin commands: their requests, plain and sealed, and the store they need.

Pure except for the functions that make a store. The bytes are built here, as in cases.py. Source:
docs/wire.md.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring.bench.cases import (
    CHALLENGE,
    SUCCESS,
    VERSION_TEXT,
    command_exchange,
    request_header,
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


def _an(index: int) -> bytes:
    return hashlib.md5(_coin(index), usedforsecurity=False).digest()


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
        count = WINDOW * OWN_COINS
        listed = b"".join(_coin(index) + _an(index) for index in range(count))
        coins.set(listed, count, layout.COIN_AN_SIZE, month_now())
    store.close()


def _ctr(nonce: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(_an(0)), modes.CTR(nonce.ljust(layout.COUNTER_SIZE, b"\0")))
    return cipher.encryptor().update(data)


def _own_exchange(command: int, given: Callable[[int], bytes]) -> Exchange:
    """Return requests that share no coins, one for each outstanding; each coin on another page."""
    made = [
        command_exchange(
            1,
            command,
            b"".join(given(tag * OWN_COINS + place) for place in range(OWN_COINS)),
            _ALL_PASS,
        )
        for tag in range(WINDOW)
    ]
    variants = []
    for tag, one in enumerate(made):
        request = bytearray(one.request)
        layout.U16.pack_into(request, layout.REQUEST_SMALL_ECHO_AT, tag)
        variants.append(bytes(request))
    return dataclasses.replace(made[0], request=variants[0], variants=tuple(variants))


def _sealed_exchange(group: int, command: int, payload: bytes, status: int) -> Exchange:
    """Return a type 1 exchange: the tag is part of the nonce, so each slot has its request."""
    plain = command_exchange(group, command, payload, status)
    header = request_header(group, command, len(payload) + layout.PLAIN_BODY_MIN)
    header[layout.REQUEST_ENCRYPTION_AT] = 1
    coin_at = layout.REQUEST_SMALL_COIN_AT
    header[coin_at : coin_at + layout.COIN_NAME_SIZE] = _coin(0)
    variants = []
    for tag in range(WINDOW):
        layout.U16.pack_into(header, layout.REQUEST_SMALL_ECHO_AT, tag)
        sealed = _ctr(bytes(header[layout.REQUEST_SMALL_NONCE_AT :]), CHALLENGE + payload)
        variants.append(bytes(header) + sealed + layout.TERMINATOR)
    reply = bytearray(plain.reply)
    proof = bytes(a ^ b for a, b in zip(CHALLENGE, _an(0), strict=True))
    reply[layout.REPLY_SMALL_CHALLENGE_AT : layout.HEADER_SMALL] = proof
    return dataclasses.replace(
        plain, request=variants[0], reply=bytes(reply), variants=tuple(variants)
    )


def _detect(count: int) -> tuple[int, int, bytes, int]:
    return 1, 10, b"".join(_coin(i) + _an(i) for i in range(count)), _ALL_PASS


def _pown(count: int) -> tuple[int, int, bytes, int]:
    """Each coin's new AN equals its old one, so that the same request always passes."""
    return 1, 20, b"".join(_coin(i) + _an(i) + _an(i) for i in range(count)), _ALL_PASS


def cases() -> list[CoinCase]:
    """Return all cases: plain ones, then sealed ones, then those whose requests share no coins."""
    base = CoinCase(BASE, 0, command_exchange(0, 1, answer=VERSION_TEXT))  # public: never sealed
    asked = [
        ("echo", 0, (0, 0, b"", SUCCESS)),
        *((f"detect-{count}", count, _detect(count)) for count in (1, 25, COINS_MAX)),
        *((f"pown-{count}", count, _pown(count)) for count in (1, 25)),
    ]
    plain = [CoinCase(name, count, command_exchange(*what)) for name, count, what in asked]
    sealed = [
        CoinCase(f"{name}, type 1", count, _sealed_exchange(*what)) for name, count, what in asked
    ]
    detect = _own_exchange(10, lambda index: _coin(index) + _an(index))
    pown = _own_exchange(20, lambda index: _coin(index) + _an(index) + _an(index))
    first = _own_exchange(10, lambda index: _coin(index) + _first_an(index))
    own = [
        CoinCase(f"detect-{OWN_COINS}, own coins", OWN_COINS, detect),
        CoinCase(f"pown-{OWN_COINS}, own coins", OWN_COINS, pown),
        CoinCase(f"detect-{OWN_COINS}, fresh store", OWN_COINS, first, fresh=True),
    ]
    return [base, *plain, *sealed, *own]
