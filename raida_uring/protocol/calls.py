"""What a client may ask: the payload of each command, and what its reply means.

Pure; shared by every client. A function per command returns a `Call`, which any client sends. All
raise ArgumentError, a ValueError, when an argument does not fit the wire; `Call.parse()` raises
ProtocolError when a reply's payload does not fit its status. Source: docs/wire.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from typing import Final, Generic, TypeVar

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol import arguments, layout
from raida_uring.protocol.coin import Coin, CoinName, parse_coin_names
from raida_uring.protocol.commands import Group
from raida_uring.protocol.layout import AN_SIZE, RAIDA_COUNT, ROOT_SIZE, ROOTS_SIZE, TICKET_SIZE
from raida_uring.protocol.status import Status

T = TypeVar("T")

PAYLOAD_BYTES_MAX: Final = layout.BODY_MAX - layout.PLAIN_BODY_MIN

_PASSED: Final = frozenset((Status.ALL_PASS, Status.ALL_FAIL, Status.MIXED))


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to a node.

    body: False sends no body, and `payload` is empty. statuses: those that answer the request; any
    other is a refusal. read: turns one of them and the reply's payload into the value.
    """

    group: int
    command: int
    payload: bytes
    statuses: frozenset[int]
    read: Callable[[int, bytes], T]
    body: bool = True

    def __post_init__(self) -> None:
        arguments.whole("group", self.group, 0, layout.GROUPS_COUNT - 1)
        arguments.whole("command", self.command, 0, 255)
        arguments.octets("payload", self.payload, most=PAYLOAD_BYTES_MAX)
        for status in arguments.several("statuses", self.statuses, "an integer from 0 to 255"):
            arguments.whole("statuses", status, 0, 255)
        if not callable(self.read):
            arguments.refuse("read", self.read, "a function of status and payload")
        if not arguments.flag("body", self.body) and self.payload:
            arguments.refuse("payload", self.payload, "empty without a body")

    def parse(self, status: int, payload: bytes) -> T:
        """Return what the reply says; `status` is one of `statuses`. Raises ProtocolError."""
        return self.read(status, payload)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Whether each coin of the request passed (detect) or was changed (pown, fix), in order."""

    passed: tuple[bool, ...]

    @property
    def all_passed(self) -> bool:
        """Whether every coin passed or was changed."""
        return all(self.passed)


@dataclass(frozen=True, slots=True)
class Ticket:
    """passed: as `Verdicts`. number: the ticket for the coins that passed; None if none did."""

    passed: tuple[bool, ...]
    number: int | None


class Found(IntEnum):
    """Which of two numbers a coin has; the first wins when they are the same."""

    NEITHER = 0
    AN = 1
    PAN = 2


@dataclass(frozen=True, slots=True)
class NodeStats:
    """value_powned: in units of 10^-8 coin. datagrams: received by UDP, of any kind."""

    echoes: int
    coins_powned: int
    value_powned: int
    datagrams: int


@dataclass(frozen=True, slots=True)
class Audit:
    """counts: coins in circulation, by denomination -8 to 6."""

    counts: dict[int, int]


# --- Status -----------------------------------------------------------------------------------


def echo(payload: bytes = b"") -> Call[None]:
    """Ask whether the node answers. The reply has no payload."""
    payload = arguments.octets("payload", payload, most=PAYLOAD_BYTES_MAX)
    return _call(Group.STATUS, 0, payload, lambda _status, _payload: None)


def version() -> Call[str]:
    """The node's version text."""
    return _call(Group.STATUS, 1, b"", lambda _status, payload: payload.decode("ascii", "replace"))


def show_stats(admin_key: bytes) -> Call[NodeStats]:
    """Counters since start. admin_key: 16 bytes."""
    key = arguments.octets("admin_key", admin_key, layout.ADMIN_KEY_SIZE)

    def read(_status: int, payload: bytes) -> NodeStats:
        return NodeStats(*layout.STATS.unpack(_sized(payload, layout.STATS.size)))

    return _call(Group.STATUS, 2, key, read)


def audit() -> Call[Audit]:
    """Coins in circulation."""

    def read(_status: int, payload: bytes) -> Audit:
        _sized(payload, layout.AUDIT_RECORD.size * layout.DENOMINATIONS_COUNT)
        counts = dict(layout.AUDIT_RECORD.iter_unpack(payload))
        if list(counts) != list(layout.DENOMINATIONS):
            raise _malformed(f"audit lists denominations {list(counts)}")
        return Audit(counts)

    return _call(Group.STATUS, 3, b"", read)


# --- Authentication ---------------------------------------------------------------------------


def detect(coins: Sequence[Coin]) -> Call[Verdicts]:
    """Check each coin's AN."""
    given = _coins(coins)
    return _judged(Group.AUTHENTICATION, 10, _with_ans(given), len(given))


def detect_sum(coins: Sequence[Coin]) -> Call[bool]:
    """Check the ANs of all coins at once, by their XOR."""
    return _judged_together(11, coins)


def pown(coins: Sequence[tuple[Coin, bytes]]) -> Call[Verdicts]:
    """Give each coin whose AN is right the new AN beside it, 16 bytes."""
    pairs = _pairs(coins)
    return _judged(Group.AUTHENTICATION, 20, _with_pans(pairs), len(pairs))


def pown_sum(coins: Sequence[Coin], delta: bytes) -> Call[bool]:
    """XOR `delta` (16 bytes) into the AN of every coin, if the XOR of all ANs is right."""
    return _judged_together(21, coins, arguments.octets("delta", delta, AN_SIZE))


# --- Healing ----------------------------------------------------------------------------------


def get_ticket(coins: Sequence[Coin]) -> Call[Ticket]:
    """Check each coin's AN, and get a ticket by which other nodes learn which coins passed."""
    given = _coins(coins)
    count = len(given)

    def read(status: int, payload: bytes) -> Ticket:
        if status == Status.ALL_FAIL:
            return Ticket(_verdicts(status, payload, count), None)
        flags, number = payload[:-TICKET_SIZE], payload[-TICKET_SIZE:]
        if len(number) != TICKET_SIZE:
            raise _malformed(f"ticket of {len(number)} bytes")
        return Ticket(_verdicts(status, flags, count), int.from_bytes(number))

    return _call(Group.HEALING, 40, _with_ans(given), read, _PASSED)


def validate_ticket(raida_id: int, ticket: int) -> Call[tuple[CoinName, ...]]:
    """The coins that passed when `ticket` was issued; once for each asking node `raida_id`."""
    payload = arguments.whole("raida_id", raida_id, 0, 255).to_bytes() + _u32("ticket", ticket)
    return _call(Group.HEALING, 50, payload, lambda _status, names: parse_coin_names(names))


def find(coins: Sequence[tuple[Coin, bytes]]) -> Call[tuple[Found, ...]]:
    """Tell for each coin whether it has its AN, the 16 bytes beside it, or neither."""
    pairs = _pairs(coins)
    count = len(pairs)
    same = {
        Status.FIND_ALL_AN: Found.AN,
        Status.FIND_ALL_PAN: Found.PAN,
        Status.FIND_NEITHER: Found.NEITHER,
    }

    def read(status: int, payload: bytes) -> tuple[Found, ...]:
        if status != Status.FIND_MIXED:
            _sized(payload, 0)
            return (same[Status(status)],) * count
        try:
            return tuple(Found(byte) for byte in _sized(payload, count))
        except ValueError as error:
            raise _malformed(str(error)) from None

    return _call(Group.HEALING, 60, _with_pans(pairs), read, frozenset((*same, Status.FIND_MIXED)))


def fix(coins: Sequence[CoinName], number_seed: bytes, tickets: Sequence[int]) -> Call[Verdicts]:
    """Have the node give new ANs to coins that enough other nodes vouch for.

    number_seed: 16 bytes that the new ANs are made from. tickets: one of each node by its id,
    25 of them, 0 for none.
    """
    names = arguments.each("coins", coins, CoinName, "a CoinName")
    votes = arguments.several("tickets", tickets, "a ticket")
    if len(votes) != RAIDA_COUNT:
        raise ArgumentError(f"tickets has {len(votes)} items: must be {RAIDA_COUNT}")
    seed = arguments.octets("number_seed", number_seed, AN_SIZE)
    numbers = (_u32(f"tickets[{raida}]", ticket) for raida, ticket in enumerate(votes))
    payload = _names(_some(names)) + seed + b"".join(numbers)
    return _judged(Group.HEALING, 80, payload, len(names))


# --- Integrity --------------------------------------------------------------------------------


def get_merkle_branch(den: int, level: int, index: int) -> Call[bytes]:
    """The 32-byte hash of one node of a denomination's tree; level 0: leaves, 10: root."""
    payload = _denomination(den) + _u32("level", level) + _u32("index", index)
    return _call(Group.INTEGRITY, 2, payload, lambda _status, data: _sized(data, ROOT_SIZE))


def get_page_data(den: int, page: int) -> Call[bytes]:
    """A page's 17,408 bytes; ask over TCP."""
    payload = _denomination(den) + _u32("page", page)
    return _call(Group.INTEGRITY, 4, payload, lambda _status, data: _sized(data, layout.PAGE_SIZE))


def get_all_roots(own: bytes = bytes(ROOTS_SIZE)) -> Call[tuple[bytes, ...]]:
    """15 roots of 32 bytes, denominations -8 to 6; zeros: no tree. own: the asker's, 480 bytes."""

    def read(_status: int, payload: bytes) -> tuple[bytes, ...]:
        _sized(payload, ROOTS_SIZE)
        starts = range(0, ROOTS_SIZE, ROOT_SIZE)
        return tuple(payload[start : start + ROOT_SIZE] for start in starts)

    return _call(Group.INTEGRITY, 5, arguments.octets("own", own, ROOTS_SIZE), read)


# --- Parts ------------------------------------------------------------------------------------


def _call(
    group: int,
    command: int,
    payload: bytes,
    read: Callable[[int, bytes], T],
    statuses: frozenset[int] = frozenset((Status.SUCCESS,)),
) -> Call[T]:
    return Call(group, command, payload, statuses, read)


def _judged(group: int, command: int, payload: bytes, count: int) -> Call[Verdicts]:
    """A call answered with one verdict per coin."""

    def read(status: int, flags: bytes) -> Verdicts:
        return Verdicts(_verdicts(status, flags, count))

    return _call(group, command, payload, read, _PASSED)


def _judged_together(command: int, coins: Sequence[Coin], rest: bytes = b"") -> Call[bool]:
    """A call that shows the XOR of the coins' ANs, with `rest` after it."""
    given = _coins(coins)
    if len({coin.name for coin in given}) != len(given):
        raise ArgumentError("coins names one twice: its number would cancel out of the sum")
    total = reduce(lambda total, coin: total ^ int.from_bytes(coin.an), given, 0)

    def read(status: int, payload: bytes) -> bool:
        _sized(payload, 0)
        return status == Status.ALL_PASS

    payload = _names(coin.name for coin in given) + total.to_bytes(AN_SIZE) + rest
    statuses = frozenset((Status.ALL_PASS, Status.ALL_FAIL))
    return _call(Group.AUTHENTICATION, command, payload, read, statuses)


def _verdicts(status: int, flags: bytes, count: int) -> tuple[bool, ...]:
    """Bit i of byte i/8, least significant first; no bytes when all are alike."""
    if status != Status.MIXED:
        _sized(flags, 0)
        return (status == Status.ALL_PASS,) * count
    _sized(flags, (count + 7) // 8)
    return tuple(bool(flags[index // 8] >> index % 8 & 1) for index in range(count))


def _names(names: Iterable[CoinName]) -> bytes:
    return b"".join(name.wire for name in names)


def _with_ans(coins: Iterable[Coin]) -> bytes:
    return b"".join(coin.name.wire + coin.an for coin in coins)


def _with_pans(coins: Iterable[tuple[Coin, bytes]]) -> bytes:
    return b"".join(coin.name.wire + coin.an + pan for coin, pan in coins)


def _coins(coins: Sequence[Coin]) -> tuple[Coin, ...]:
    return _some(arguments.each("coins", coins, Coin, "a Coin"))


def _pairs(coins: Sequence[tuple[Coin, bytes]]) -> tuple[tuple[Coin, bytes], ...]:
    """Coins, each with a number beside it."""
    allowed = "a Coin and 16 bytes"
    pairs = []
    for index, pair in enumerate(arguments.several("coins", coins, allowed)):
        parts = arguments.several(f"coins[{index}]", pair, allowed)
        if len(parts) != 2:
            raise ArgumentError(f"coins[{index}] has {len(parts)} items: must be {allowed}")
        coin = arguments.instance(f"coins[{index}][0]", parts[0], Coin, "a Coin")
        pairs.append((coin, arguments.octets(f"coins[{index}][1]", parts[1], AN_SIZE)))
    return _some(tuple(pairs))


def _some(coins: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse an empty list: a node refuses a request without coins."""
    if not coins:
        raise ArgumentError("coins has 0 items: must be at least one")
    return coins


def _denomination(den: int) -> bytes:
    """Any signed byte: the node decides which denominations exist."""
    return arguments.whole("den", den, -128, 127).to_bytes(signed=True)


def _u32(name: str, value: int) -> bytes:
    return arguments.whole(name, value, 0, 0xFFFFFFFF).to_bytes(4)


def _sized(payload: bytes, count: int) -> bytes:
    if len(payload) != count:
        raise _malformed(f"reply has {len(payload)} bytes of payload, not {count}")
    return payload


def _malformed(message: str) -> ProtocolError:
    return ProtocolError(message, Status.INVALID_PACKET_LENGTH)
