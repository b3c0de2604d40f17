"""The benchmark's coin commands: what is asked, plain and sealed, and of which store.

Pure but for `make_store`. As in cases.py the bytes are built here, not by `raida_uring.protocol`.
Source: RAIDA wire protocol, sections 2, 3 and 6.2.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring.bench.cases import COIN_ID, RAIDA_ID, VERSION_TEXT
from raida_uring.bench.load import Exchange
from raida_uring.store import Store, month_now

COINS_MAX = 400
WINDOW = 64
SLOT_BYTES = 9000  # 400 coins in one datagram; loopback's MTU allows it
BASE = "version"  # what rates refer to
GOAL_CASE, GOAL_RATIO_MIN = "detect-25", 0.4
OWN_COINS = 25  # coins of a request that has them for itself

_SUCCESS, _ALL_PASS = 250, 241
_TERMINATOR = b">>"
_CHALLENGE = bytes(range(12)) + zlib.crc32(bytes(range(12))).to_bytes(4, "big")
_SEED = "bench"
_STRIDE = 2 * 1024 + 1  # serial numbers apart: a page of its own for each coin


@dataclass(frozen=True, slots=True)
class CoinCase:
    """One exchange. coins: how many it is about. fresh: put to a store never written to."""

    name: str
    coins: int
    exchange: Exchange
    fresh: bool = False


def _coin(index: int) -> bytes:
    denomination, place = divmod(index, COINS_MAX)
    return bytes((denomination,)) + (place * _STRIDE).to_bytes(4, "big")


def _an(index: int) -> bytes:
    return hashlib.md5(_coin(index), usedforsecurity=False).digest()


def _first_an(index: int) -> bytes:
    """On a page that nobody has written; wire specification, default pages."""
    denomination, serial = _coin(index)[0], int.from_bytes(_coin(index)[1:], "big")
    page, record = divmod(serial, 1024)
    text = b"%s%02x%04x%02x" % (_SEED.encode(), denomination, page, record)
    return hashlib.md5(text, usedforsecurity=False).digest()


def make_fresh_store(path: Path) -> None:
    """A store that nobody has written to."""
    Store.create(path, seed=_SEED)


def make_store(path: Path) -> None:
    """A store in which the coins of every case have the ANs that the case says."""
    Store.create(path)
    store = Store(path)
    with store.write() as coins:
        count = WINDOW * OWN_COINS
        listed = b"".join(_coin(index) + _an(index) for index in range(count))
        coins.set(listed, count, 21, month_now())
    store.close()


def _header(group: int, command: int, body_bytes: int, sealed: bool) -> bytearray:
    header = bytearray(32)
    header[0] = 1
    header[2] = RAIDA_ID
    header[4:6] = bytes((group, command))
    header[6:8] = COIN_ID.to_bytes(2, "big")
    header[22:24] = body_bytes.to_bytes(2, "big")
    if sealed:
        header[16] = 1
        header[17:22] = _coin(0)
    return header


def _ctr(nonce: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(_an(0)), modes.CTR(nonce + bytes(8)))
    return cipher.encryptor().update(data)


def _exchange(group: int, command: int, payload: bytes, status: int, answer: bytes) -> Exchange:
    body = _CHALLENGE + payload + _TERMINATOR
    reply = bytearray(32)
    reply[0], reply[2], reply[3], reply[5] = RAIDA_ID, status, group, 1
    reply[16:32] = _CHALLENGE
    reply_body = answer + _TERMINATOR if answer else b""
    reply[9:12] = len(reply_body).to_bytes(3, "big")
    return Exchange(
        request=bytes(_header(group, command, len(body), sealed=False)) + body,
        request_tag_offset=30,
        reply=bytes(reply) + reply_body,
        reply_tag_offset=6,
        ignore=((12, 16),),
    )


def _own_exchange(command: int, given: Callable[[int], bytes]) -> Exchange:
    """Coins of its own for every request outstanding, each on a page of its own."""
    made = [
        _exchange(
            1,
            command,
            b"".join(given(tag * OWN_COINS + place) for place in range(OWN_COINS)),
            _ALL_PASS,
            b"",
        )
        for tag in range(WINDOW)
    ]
    variants = []
    for tag, one in enumerate(made):
        request = bytearray(one.request)
        request[30:32] = tag.to_bytes(2, "big")
        variants.append(bytes(request))
    return dataclasses.replace(made[0], request=variants[0], variants=tuple(variants))


def _sealed_exchange(
    group: int, command: int, payload: bytes, status: int, answer: bytes
) -> Exchange:
    """Type 1: the tag is the end of the nonce, so each slot has a request of its own."""
    plain = _exchange(group, command, payload, status, answer)
    header = _header(group, command, len(payload) + 18, sealed=True)
    variants = []
    for tag in range(WINDOW):
        header[30:32] = tag.to_bytes(2, "big")
        sealed = _ctr(bytes(header[24:32]), _CHALLENGE + payload)
        variants.append(bytes(header) + sealed + _TERMINATOR)
    reply = bytearray(plain.reply)
    reply[16:32] = bytes(a ^ b for a, b in zip(_CHALLENGE, _an(0), strict=True))
    body_end = len(reply) - len(_TERMINATOR) if answer else len(reply)
    return Exchange(
        request=variants[0],
        request_tag_offset=30,
        reply=bytes(reply),
        reply_tag_offset=6,
        ignore=((12, 16), (32, body_end)),  # the answer's cipher depends on the nonce
        variants=tuple(variants),
    )


def _detect(count: int) -> tuple[int, int, bytes, int, bytes]:
    return 1, 10, b"".join(_coin(i) + _an(i) for i in range(count)), _ALL_PASS, b""


def _pown(count: int) -> tuple[int, int, bytes, int, bytes]:
    """Each coin's new AN is the one it has, so that the same request always passes."""
    return 1, 20, b"".join(_coin(i) + _an(i) + _an(i) for i in range(count)), _ALL_PASS, b""


def cases() -> list[CoinCase]:
    """All of them, plain ones first, then sealed ones, then those with coins of their own."""
    asked = [
        ("echo", 0, (0, 0, b"", _SUCCESS, b"")),
        (BASE, 0, (0, 1, b"", _SUCCESS, VERSION_TEXT)),
        *((f"detect-{count}", count, _detect(count)) for count in (1, 25, COINS_MAX)),
        *((f"pown-{count}", count, _pown(count)) for count in (1, 25)),
    ]
    plain = [CoinCase(name, count, _exchange(*what)) for name, count, what in asked]
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
    return plain + sealed + own
