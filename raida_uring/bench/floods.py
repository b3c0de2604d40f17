"""The floods that votes are measured beside: every command that is answered in C, alone and mixed.

Pure, but for tickets, as commands.py, whose requests these are. Here they are cut into parts for
mixes and sealed under encryption types 4 and 5. Source: docs/wire.md.
"""

import dataclasses
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring.bench import coins, commands
from raida_uring.bench.cases import CHALLENGE
from raida_uring.bench.commands import WINDOW
from raida_uring.bench.load import Exchange, Transport
from raida_uring.protocol import layout

LIGHT: Final = 32  # most coins of a request that the I/O thread executes
# First coins of tickets: so few that each has many to give up once 512 are alive. Of more, several
# workers may use the few places that one request has freed before it does, and it is answered 42.
TICKET_COINS: Final = 8
TURNS_MAX: Final = 32  # of sealed requests, which are made one by one

Kind = Literal[0, 1, 4, 5]  # encryption type


@dataclass(frozen=True, slots=True)
class Part:
    """One command of a flood. kind: the encryption type its requests get here; 1: they have it."""

    name: str
    exchange: Callable[[int], Exchange]
    kind: Kind = 0


@dataclass(frozen=True, slots=True)
class Flood:
    """Requests of which WINDOW are outstanding at any time, evenly of all parts."""

    name: str
    parts: tuple[Part, ...]
    transport: Transport = "udp"

    @property
    def window(self) -> int:
        """Requests outstanding of one part."""
        return WINDOW // len(self.parts)

    def exchanges(self, port: int) -> Iterator[Exchange]:
        """Build the parts' requests for the node at `port`. Parts name different coins where they
        change them. Raises OSError if the node does not issue tickets."""
        for number, part in enumerate(self.parts):
            exchange = _slots(part.exchange(port), number * self.window, self.window)
            yield _sealed(exchange, part.kind, self.window) if part.kind > 1 else exchange


# -- requests --------------------------------------------------------------------------------------


def _pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _slots(exchange: Exchange, first: int, count: int) -> Exchange:
    """Return the part of an exchange that some of the window's slots send, from number `first` on.

    Not of type 1, where the tag is part of the nonce: of these only the whole.
    """
    if count == WINDOW:
        return exchange
    requests = _pieces(exchange.variants, len(exchange.request)) or [exchange.request] * WINDOW
    chosen = bytearray()
    for at in range(first, len(requests), WINDOW):
        for slot, request in enumerate(requests[at : at + count]):
            tagged = bytearray(request)
            layout.U16.pack_into(tagged, exchange.request_tag_offset, slot)
            chosen += tagged
    return dataclasses.replace(
        exchange, request=bytes(chosen[: len(exchange.request)]), variants=bytes(chosen)
    )


def _header(plain: bytes, kind: int, key: int, second: int, body_bytes: int) -> bytearray:
    """Return the large header for a type 0 request."""
    header = bytearray(plain[: layout.REQUEST_ENCRYPTION_AT]).ljust(layout.HEADER_LARGE, b"\0")
    header[layout.REQUEST_ENCRYPTION_AT] = kind
    layout.U16.pack_into(header, layout.REQUEST_LARGE_BODY_SIZE_AT, body_bytes)
    coin_at = layout.REQUEST_LARGE_COIN_AT
    header[coin_at : coin_at + layout.COIN_NAME_SIZE] = coins.name(key)
    if kind == 5:
        coin_at = layout.REQUEST_LARGE_SECOND_COIN_AT
        header[coin_at : coin_at + layout.COIN_NAME_SIZE] = coins.name(second)
    echo = plain[layout.REQUEST_SMALL_ECHO_AT : layout.HEADER_SMALL]
    header[layout.REQUEST_LARGE_ECHO_AT :] = echo
    return header


def _request(plain: bytes, kind: int, key: int, second: int) -> bytes:
    """Return a type 0 request under type 4 or 5."""
    payload = plain[layout.HEADER_SMALL + len(CHALLENGE) : -layout.TERMINATOR_SIZE]
    size = len(payload) + layout.SEALED_BODY_MIN
    header = _header(plain, kind, key, second, size)
    ans = coins.an(key) + (coins.an(second) if kind == 5 else b"")
    secret = hashlib.sha256(ans).digest()
    counter = header[layout.REQUEST_LARGE_NONCE_AT :][: layout.COUNTER_SIZE]
    cipher = Cipher(algorithms.AES(secret), modes.CTR(bytes(counter))).encryptor()
    hidden = cipher.update(payload)
    mac = hmac.digest(secret, hidden, "sha256")
    return bytes(header) + hidden + mac + layout.TERMINATOR


def _reply(plain: bytes, request: bytes) -> bytes:
    """Return the reply to a sealed request. What is encrypted in it is not compared."""
    sealed = bytearray(layout.HEADER_LARGE)
    sealed[: layout.REPLY_LARGE_TIME_AT] = plain[: layout.REPLY_LARGE_TIME_AT]
    payload = len(plain) - layout.HEADER_SMALL - layout.TERMINATOR_SIZE
    body = payload + layout.SEALED_BODY_MIN if payload > 0 else 0
    sizes = slice(layout.REPLY_BODY_SIZE_AT, layout.REPLY_PREFIX_SIZE)
    sealed[sizes] = body.to_bytes(3, "big")
    front = layout.REPLY_LARGE_ENCRYPTION_AT
    sealed[front] = request[layout.REQUEST_ENCRYPTION_AT]
    coin_at = layout.REQUEST_LARGE_COIN_AT
    sealed[front + 1 : front + 1 + layout.COIN_NAME_SIZE] = request[
        coin_at : coin_at + layout.COIN_NAME_SIZE
    ]
    return bytes(sealed) + bytes(body)


def _sealed(exchange: Exchange, kind: int, window: int) -> Exchange:
    """Return a type 0 exchange under type 4 or 5, each request with key coins of its own."""
    requests = _pieces(exchange.variants, len(exchange.request))
    if not requests:
        requests = _tagged(exchange, window)
    kept = window * min(TURNS_MAX, max(1, len(requests) // window))
    keys = coins.working_set()
    variants = [
        _request(plain, kind, keys[2 * number], keys[2 * number + 1])
        for number, plain in enumerate(requests[:kept])
    ]
    replies = [_reply(exchange.reply, request) for request in variants]
    nonce = layout.REPLY_LARGE_NONCE_AT, layout.REPLY_LARGE_ECHO_AT
    time = layout.REPLY_LARGE_TIME_AT, layout.REPLY_LARGE_TIME_AT + layout.REPLY_TIME_SIZE
    hidden = layout.HEADER_LARGE, len(replies[0])
    return dataclasses.replace(
        exchange,
        request=variants[0],
        request_tag_offset=layout.REQUEST_LARGE_ECHO_AT,
        reply=replies[0],
        reply_tag_offset=layout.REPLY_LARGE_ECHO_AT,
        ignore=(nonce, time, hidden),
        variants=b"".join(variants),
        replies=b"".join(replies),
        turns=len(variants) // window,
    )


def _tagged(exchange: Exchange, window: int) -> list[bytes]:
    """Return a turn of an exchange that has one request for all."""
    requests = []
    for slot in range(window):
        tagged = bytearray(exchange.request)
        layout.U16.pack_into(tagged, exchange.request_tag_offset, slot)
        requests.append(bytes(tagged))
    return requests


# -- floods ----------------------------------------------------------------------------------------


def _case(group: str, name: str) -> Part:
    cases = next(one.cases for one in commands.GROUPS if one.name == group)
    return Part(name, next(one.exchange for one in cases if one.name == name))


def _of(part: Part, kind: Kind) -> Part:
    return Part(f"{part.name}, type {kind}", part.exchange, kind)


def _alone(part: Part, transport: Transport = "udp") -> Flood:
    suffix = ", TCP" if transport == "tcp" else ""
    return Flood(part.name + suffix, (part,), transport)


_echo, _version, _stats, _detect, _many, _sum, _find, _validate, _pown, _pown_sum = (
    _case("commands", name)
    for name in (
        "echo",
        "version",
        "show_stats",
        f"detect-{commands.FEW}",
        f"detect-{commands.MANY}",
        f"detect_sum-{commands.FEW}",
        f"find-{commands.FEW}",
        "validate_ticket",
        f"pown-{commands.FEW}",
        f"pown_sum-{commands.FEW}",
    )
)
_branch, _roots = (_case("commands-trees", name) for name in ("get_merkle_branch", "get_all_roots"))
_get = Part("get_ticket-1", commands.get_ticket(TICKET_COINS))
_light = Part(f"detect-{LIGHT}", commands.detect(LIGHT))

ECHO_FLOOD: Final = _alone(_echo)
_EACH: Final[Sequence[Part]] = (
    _version,
    _stats,
    _light,
    _many,
    _sum,
    _find,
    _get,
    _validate,
    _pown,
    _pown_sum,
    _branch,
    _roots,
)

FLOODS: Final[tuple[Flood, ...]] = (
    *(_alone(part) for part in _EACH),
    _alone(_of(_echo, 5)),
    *(_alone(_of(part, 5)) for part in _EACH),
    _alone(_of(_light, 4)),
    _alone(Part(f"{_detect.name}, type 1", commands.detect(commands.FEW, sealed=True), 1)),
    _alone(_detect, "tcp"),
    Flood(
        "light ones, type 5",
        tuple(
            _of(part, 5) for part in (_light, _light, _find, _find, _sum, _branch, _stats, _version)
        ),
    ),
    Flood(
        "heavy ones, type 5",
        tuple(_of(part, 5) for part in (_many, _many, _many, _get, _get, _pown, _pown_sum, _roots)),
    ),
    Flood(
        "all sorts",
        (
            _of(_light, 5),
            _of(_find, 4),
            _sum,
            _version,
            _of(_many, 5),
            _get,
            _of(_pown, 5),
            _of(_roots, 4),
        ),
    ),
)
