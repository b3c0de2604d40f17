"""What commands must answer, over a dictionary of coins: the oracle that the C is compared with.

Written for clarity, from the wire specification, sections 6.1 to 6.4 and 27: no coin is looked up
twice for speed, nothing is shared with the product but numbers of its wire.
Thread: one.
"""

import functools
import hashlib
import operator
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from raida_uring.protocol import Status
from tests.support.coin_requests import HASH_BYTES, default_an
from tests.support.store import Coin

RECORDS_PER_PAGE = 1024
SERIALS = 1000 * RECORDS_PER_PAGE
TICKET_S = 300

Record = tuple[bytes, int]  # AN, month


class Effect(NamedTuple):
    """What an answer leaves to do besides being sent."""

    kind: str = "none"  # "echo", "powned", "issue", "claim"
    coins: int = 0
    value: int = 0
    names: bytes = b""
    ticket: int = 0
    raida: int = 0


class Answer(NamedTuple):
    """A reply. A ticket that is to be issued is not in the payload yet."""

    status: int
    payload: bytes = b""
    effect: Effect = Effect()


@dataclass
class Request:
    """What a handler is told of a request. room: bytes that the reply's payload may have."""

    payload: bytes
    now_s: int
    shard: int = 0
    room: int = 65_535


@dataclass
class Ticket:
    """A ticket's coins, 5 bytes each, and the RAIDA that have claimed them."""

    names: bytes
    until_s: int
    claimed: set[int] = field(default_factory=set)


@dataclass
class Model:
    """A node: its coins, tickets and facts. Coins that are not in `coins` have default records."""

    coins: dict[Coin, Record] = field(default_factory=dict)
    unreadable: frozenset[tuple[int, int]] = frozenset()  # denomination, page
    tickets: dict[int, Ticket] = field(default_factory=dict)
    version: bytes = b""
    admin_key: bytes | None = None
    statistics: tuple[int, ...] = (0, 0, 0, 0)
    trees: list[list[list[bytes]]] | None = None  # of each denomination its levels, leaves first
    changes: list[tuple[Coin, Record | None]] = field(default_factory=list)  # what was before

    def record(self, coin: Coin) -> Record | None:
        """A coin's AN and month; None if it cannot be read."""
        denomination, serial = coin
        if not -8 <= denomination <= 6 or serial >= SERIALS:
            return None
        if (denomination, serial // RECORDS_PER_PAGE) in self.unreadable:
            return None
        return self.coins.get(coin) or (default_an(coin), 0)

    def an(self, coin: Coin) -> bytes | None:
        """A coin's AN; None if it cannot be read."""
        record = self.record(coin)
        return None if record is None else record[0]

    def set(self, coin: Coin, record: Record) -> None:
        """Change a coin."""
        self.changes.append((coin, self.coins.get(coin)))
        self.coins[coin] = record

    def undo(self, mark: int = 0) -> None:
        """Take back all but the first `mark` of `changes`."""
        while len(self.changes) > mark:
            coin, record = self.changes.pop()
            if record is None:
                del self.coins[coin]
            else:
                self.coins[coin] = record

    def answer(self, number: int, request: Request) -> Answer:
        """Answer command `number`, group << 8 | code, and change the coins as it does."""
        return COMMANDS[number](self, request)

    def settle(self, answer: Answer, request: Request, issued: int) -> Answer:
        """The answer once its ticket was issued, with number `issued`, or claimed."""
        effect = answer.effect
        if effect.kind == "issue":
            if len(answer.payload) + 4 > request.room:
                return Answer(Status.NOT_IMPLEMENTED)
            self.tickets[issued] = Ticket(effect.names, request.now_s + TICKET_S)
            return Answer(answer.status, answer.payload + issued.to_bytes(4))
        if effect.kind == "claim":
            ticket = self.tickets.get(effect.ticket)
            if ticket is None or ticket.until_s <= request.now_s:
                return Answer(Status.NO_TICKET_FOUND)
            if effect.raida in ticket.claimed:
                return Answer(Status.TICKET_CLAIMED_ALREADY)
            if len(ticket.names) > request.room:
                return Answer(Status.NOT_IMPLEMENTED)
            ticket.claimed.add(effect.raida)
            return Answer(Status.SUCCESS, ticket.names)
        return answer


# -- parts of payloads ---------------------------------------------------------------------------


def coin_of(name: bytes) -> Coin:
    """The coin that 5 bytes name."""
    denomination, serial = struct.unpack(">bI", name)
    return denomination, serial


def month_of(now_s: int) -> int:
    """Months since February 2023, UTC, modulo 256."""
    now = time.gmtime(now_s)
    return ((now.tm_year - 2023) * 12 + now.tm_mon - 2) % 256


def value_of(coin: Coin) -> int:
    """In units of 10^-8 coin."""
    return int(10 ** (coin[0] + 8))


def parts(payload: bytes, size: int) -> list[bytes]:
    """The payload cut into parts of `size` bytes."""
    return [payload[at : at + size] for at in range(0, len(payload), size)]


def length_fault(payload: bytes, size: int, rest: int = 0) -> Answer | None:
    """The refusal of a payload that is not one or more parts of `size` bytes and `rest` bytes."""
    if len(payload) < size + rest:
        return Answer(Status.INVALID_PACKET_LENGTH)
    if (len(payload) - rest) % size != 0:
        return Answer(Status.COINS_NOT_DIV)
    return None


def bits(passed: list[bool]) -> bytes:
    """A bit for each, the first one lowest."""
    out = bytearray((len(passed) + 7) // 8)
    for index, one in enumerate(passed):
        if one:
            out[index // 8] |= 1 << index % 8
    return bytes(out)


def verdict(passed: list[bool]) -> Answer:
    """All, none, or some with a bit for each."""
    if all(passed):
        return Answer(Status.ALL_PASS)
    if not any(passed):
        return Answer(Status.ALL_FAIL)
    return Answer(Status.MIXED, bits(passed))


# -- group 0 -------------------------------------------------------------------------------------


def echo(_model: Model, _request: Request) -> Answer:
    """0/0."""
    return Answer(Status.SUCCESS, effect=Effect("echo"))


def version(model: Model, _request: Request) -> Answer:
    """0/1."""
    return Answer(Status.SUCCESS, model.version)


def show_stats(model: Model, request: Request) -> Answer:
    """0/2."""
    if model.admin_key is None or request.payload[:16] != model.admin_key:
        return Answer(Status.ADMIN_AUTH)
    return Answer(Status.SUCCESS, struct.pack("<4Q", *model.statistics))


# -- group 1 -------------------------------------------------------------------------------------


def detect(model: Model, request: Request) -> Answer:
    """1/10."""
    fault = length_fault(request.payload, 21)
    if fault is not None:
        return fault
    if request.shard in (1, 2):
        return Answer(Status.LEGACY_DB)
    return verdict([part[5:] == model.an(coin_of(part[:5])) for part in parts(request.payload, 21)])


def pown(model: Model, request: Request) -> Answer:
    """1/20."""
    fault = length_fault(request.payload, 37)
    if fault is not None:
        return fault
    passed = []
    value = 0
    for part in parts(request.payload, 37):
        coin = coin_of(part[:5])
        passed.append(part[5:21] == model.an(coin))
        if passed[-1]:
            model.set(coin, (part[21:], month_of(request.now_s)))
            value += value_of(coin)
    answer = verdict(passed)
    return answer._replace(effect=Effect("powned", sum(passed), value)) if value else answer


def _sum_fault(model: Model, coins: list[Coin], given: bytes) -> Answer | None:
    """The refusal of a sum that does not prove that the client knows the coins' ANs."""
    ans = [an for an in map(model.an, coins) if an is not None]
    if len(set(coins)) < len(coins) or len(ans) < len(coins):
        return Answer(Status.INVALID_SN_OR_DENOMINATION)
    total = functools.reduce(operator.xor, map(int.from_bytes, ans))
    if len(set(ans)) < len(ans) or total != int.from_bytes(given):
        return Answer(Status.ALL_FAIL)
    return None


def detect_sum(model: Model, request: Request) -> Answer:
    """1/11."""
    payload = request.payload
    fault = length_fault(payload, 5, 16)
    if fault is not None:
        return fault
    coins = [coin_of(part) for part in parts(payload[:-16], 5)]
    return _sum_fault(model, coins, payload[-16:]) or Answer(Status.ALL_PASS)


def pown_sum(model: Model, request: Request) -> Answer:
    """1/21."""
    payload = request.payload
    fault = length_fault(payload, 5, 32)
    if fault is not None:
        return fault
    coins = [coin_of(part) for part in parts(payload[:-32], 5)]
    fault = _sum_fault(model, coins, payload[-32:-16])
    if fault is not None:
        return fault
    for coin in coins:
        an = model.an(coin)
        assert an is not None
        changed = bytes(map(operator.xor, an, payload[-16:]))
        model.set(coin, (changed, month_of(request.now_s)))
    return Answer(Status.ALL_PASS, effect=Effect("powned", len(coins), sum(map(value_of, coins))))


# -- group 2 -------------------------------------------------------------------------------------


def get_ticket(model: Model, request: Request) -> Answer:
    """2/40."""
    fault = length_fault(request.payload, 21)
    if fault is not None:
        return fault
    listed = parts(request.payload, 21)
    ans = [model.an(coin_of(part[:5])) for part in listed]
    if None in ans:
        return Answer(Status.INVALID_SN_OR_DENOMINATION)
    passed = [part[5:] == an for part, an in zip(listed, ans, strict=True)]
    if not any(passed):
        return Answer(Status.ALL_FAIL)
    names = b"".join(part[:5] for part, right in zip(listed, passed, strict=True) if right)
    return verdict(passed)._replace(effect=Effect("issue", sum(passed), names=names))


def validate_ticket(_model: Model, request: Request) -> Answer:
    """2/50."""
    if len(request.payload) != 5:
        return Answer(Status.INVALID_PACKET_LENGTH)
    raida, ticket = struct.unpack(">BI", request.payload)
    if raida >= 25:
        return Answer(Status.WRONG_RAIDA)
    return Answer(Status.SUCCESS, effect=Effect("claim", ticket=ticket, raida=raida))


def find(model: Model, request: Request) -> Answer:
    """2/60."""
    fault = length_fault(request.payload, 37)
    if fault is not None:
        return fault
    found = []
    for part in parts(request.payload, 37):
        an = model.an(coin_of(part[:5]))
        if an is None:
            return Answer(Status.INVALID_SN_OR_DENOMINATION)
        found.append(1 if an == part[5:21] else 2 if an == part[21:] else 0)
    alike = {0: Status.FIND_NEITHER, 1: Status.FIND_ALL_AN, 2: Status.FIND_ALL_PAN}
    if len(set(found)) == 1:
        return Answer(alike[found[0]])
    return Answer(Status.FIND_MIXED, bytes(found))


# -- group 14 ------------------------------------------------------------------------------------


def levels_of(leaves: list[bytes]) -> list[list[bytes]]:
    """All levels of the tree over these leaves; a node without a sibling pairs with itself."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1] + levels[-1][-1:] * (len(levels[-1]) % 2)
        levels.append(
            [hashlib.sha256(a + b).digest() for a, b in zip(below[::2], below[1::2], strict=True)]
        )
    return levels


def get_merkle_branch(model: Model, request: Request) -> Answer:
    """14/2."""
    if len(request.payload) != 9:
        return Answer(Status.INVALID_PACKET_LENGTH)
    denomination, level, position = struct.unpack(">bII", request.payload)
    if model.trees is None or not -8 <= denomination <= 6:
        return Answer(Status.FILE_NOT_EXIST)
    levels = model.trees[denomination + 8]
    if level >= len(levels) or position >= len(levels[level]):
        return Answer(Status.FILE_NOT_EXIST)
    return Answer(Status.SUCCESS, levels[level][position])


def get_all_roots(model: Model, request: Request) -> Answer:
    """14/5."""
    if len(request.payload) != 15 * HASH_BYTES:
        return Answer(Status.INVALID_PACKET_LENGTH)
    if model.trees is None:
        return Answer(Status.SUCCESS, bytes(15 * HASH_BYTES))
    return Answer(Status.SUCCESS, b"".join(levels[-1][0] for levels in model.trees))


COMMANDS: Mapping[int, Callable[[Model, Request], Answer]] = {
    0x0000: echo,
    0x0001: version,
    0x0002: show_stats,
    0x010A: detect,
    0x010B: detect_sum,
    0x0114: pown,
    0x0115: pown_sum,
    0x0228: get_ticket,
    0x0232: validate_ticket,
    0x023C: find,
    0x0E02: get_merkle_branch,
    0x0E05: get_all_roots,
}
