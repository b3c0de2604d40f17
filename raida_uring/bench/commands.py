"""The commands that a node answers in C, on its coins: their requests, and the goals of each.

Pure, but for tickets, which a node has to issue before it can be asked about them. The bytes are
built here, as in cases.py. Source: docs/wire.md.

Every request outstanding names coins of its own, and a key of its own under encryption type 1.
Ratios are to the smallest C responder's echo in the same round, unless the group says otherwise.
"""

import dataclasses
import functools
import operator
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring.bench import coins
from raida_uring.bench.cases import CHALLENGE, ECHO, SUCCESS, VERSION, command_exchange
from raida_uring.bench.load import Exchange, Transport
from raida_uring.protocol import layout

WINDOW: Final = 64
FEW: Final = 25  # coins of a wallet's usual request
MANY: Final = 400  # whose datagram is cut into no fragments on loopback
SERVER: Final[dict[str, object]] = {"udp_effective_payload": 9000, "admin_key": "5a" * 16}

ALL_PASS: Final = 241
FIND_ALL_AN: Final = 209
TICKET_CLAIMED: Final = 44

ANYWHERE_TURNS: Final = 1024  # 65,536 requests, whose coins fit into no cache
CHANGE_TURNS: Final = 32
TICKET_COINS: Final = 32  # first coins: of more, 512 tickets could be alive, and none be issued
TICKET_TIMEOUT_S: Final = 2.0
SYNC_SHARE: Final = 1.2
SYNC_MORE_US: Final = 80
WRITES_PER_S: Final = 1000  # of FEW coins each, beside reads

Command = tuple[int, int]  # group and number
DETECT: Final = 1, 10
DETECT_SUM: Final = 1, 11
POWN: Final = 1, 20
POWN_SUM: Final = 1, 21
GET_TICKET: Final = 2, 40
VALIDATE_TICKET: Final = 2, 50
FIND: Final = 2, 60
GET_MERKLE_BRANCH: Final = 14, 2
GET_ALL_ROOTS: Final = 14, 5


@dataclass(frozen=True, slots=True)
class Bound:
    """What one case promises in comparison with its group's base.

    rate: at least so many times the base's requests per CPU-second. cost: at most so many times
    the base's CPU time per request. p50: at most so many times the base's median latency. sync: a
    median latency of at most so many times SYNC_SHARE of the disk's for one overwrite and flush,
    and SYNC_MORE_US.
    """

    of: Literal["rate", "cost", "p50", "sync"]
    limit: float


@dataclass(frozen=True, slots=True)
class CommandCase:
    """One exchange, built on demand: some are long. It gets the port of the running node.

    coins: of a request. changes: whether it changes them. of_node: the exchange holds for this node
    alone. beside: requests that run at the same time, WRITES_PER_S a second.
    """

    name: str
    coins: int
    exchange: Callable[[int], Exchange]
    goals: tuple[Bound, ...] = ()
    changes: bool = False
    of_node: bool = False
    beside: Callable[[], Exchange] | None = None

    @property
    def waits_for_disk(self) -> bool:
        """Whether its goal is about the disk, which is then measured, too."""
        return any(bound.of == "sync" for bound in self.goals)


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that are asked of one node, one after the other.

    base: what each is compared with. "peer": an echo of the smallest C responder, asked in the same
    way. "node": an echo of the same node. "alone": the same exchange with nothing beside it.
    tables: of the node's configuration. pinned: server and generator each have a core of their own;
    otherwise both have all of them, and the generator sleeps between answers.
    """

    name: str
    title: str
    cases: tuple[CommandCase, ...]
    base: Literal["peer", "node", "alone"] = "peer"
    store: Literal["full", "fresh"] = "full"
    tables: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)
    transport: Transport = "udp"
    window: int = WINDOW
    pinned: bool = True


# -- requests --------------------------------------------------------------------------------------


def _sealed(plain: bytes, key: int) -> bytes:
    """Return the type 0 request under encryption type 1 with this key coin."""
    header = bytearray(plain[: layout.HEADER_SMALL])
    header[layout.REQUEST_ENCRYPTION_AT] = 1
    coin_at = layout.REQUEST_SMALL_COIN_AT
    header[coin_at : coin_at + layout.COIN_NAME_SIZE] = coins.name(key)
    nonce = bytes(header[layout.REQUEST_SMALL_NONCE_AT :]).ljust(layout.COUNTER_SIZE, b"\0")
    cipher = Cipher(algorithms.AES(coins.an(key)), modes.CTR(nonce)).encryptor()
    body = plain[layout.HEADER_SMALL : -layout.TERMINATOR_SIZE]
    return bytes(header) + cipher.update(body) + layout.TERMINATOR


def _proof(reply: bytes, key: int) -> bytes:
    """Return the reply to a request under this key. Replies with a body would be encrypted, too."""
    proof = bytes(map(operator.xor, CHALLENGE, coins.an(key)))
    return reply[: layout.REPLY_SMALL_CHALLENGE_AT] + proof


def _requests(
    command: Command,
    payloads: Sequence[bytes],
    status: int,
    *,
    window: int = WINDOW,
    answer_bytes: int = 0,
    keys: Sequence[int] = (),
    turns_of_round: int = 1,
) -> Exchange:
    """Return an exchange that sends each payload in turn.

    answer_bytes: of the replies' payload, which may be anything. keys: key coins, one for each
    request, under encryption type 1.
    """
    if len(payloads) % window:
        raise ValueError(f"{len(payloads)} requests for a window of {window}")
    plain = command_exchange(*command, payloads[0], status, bytes(answer_bytes))
    front = bytearray(plain.request[: layout.HEADER_SMALL])
    variants, replies = [], []
    for number, payload in enumerate(payloads):
        layout.U16.pack_into(front, layout.REQUEST_SMALL_ECHO_AT, number % window)
        request = bytes(front) + CHALLENGE + payload + layout.TERMINATOR
        variants.append(_sealed(request, keys[number]) if keys else request)
        if keys:
            replies.append(_proof(plain.reply, keys[number]))
    answer = layout.HEADER_SMALL, layout.HEADER_SMALL + answer_bytes
    return dataclasses.replace(
        plain,
        request=variants[0],
        ignore=(*plain.ignore, answer) if answer_bytes else plain.ignore,
        variants=b"".join(variants),
        replies=b"".join(replies),
        turns=len(payloads) // window,
        round=turns_of_round,
    )


def _lists(chosen: Sequence[int], count: int) -> Iterable[Sequence[int]]:
    return (chosen[at : at + count] for at in range(0, len(chosen), count))


def _detects(chosen: Sequence[int], count: int, an: Callable[[int], bytes]) -> list[bytes]:
    return [
        b"".join([part for coin in some for part in (coins.name(coin), an(coin))])
        for some in _lists(chosen, count)
    ]


@functools.cache
def _set_payloads(count: int) -> list[bytes]:
    """Return detects of the working set, in whole turns of WINDOW requests."""
    chosen = coins.working_set()
    turn = count * WINDOW
    return _detects(chosen[: len(chosen) // turn * turn], count, coins.an)


@functools.cache
def _any_payloads(count: int) -> list[bytes]:
    return _detects(coins.anywhere(count * WINDOW * ANYWHERE_TURNS), count, coins.an)


def _keys(payloads: Sequence[bytes], *, anywhere: bool) -> Sequence[int]:
    """Return a key coin for each request, out of the same coins as the requests'."""
    if anywhere:
        return coins.anywhere(len(payloads))
    chosen = coins.working_set()
    return [chosen[number % len(chosen)] for number in range(len(payloads))]


def detect(
    count: int, *, anywhere: bool = False, sealed: bool = False, window: int = WINDOW
) -> Callable[[int], Exchange]:
    """Return what makes detects, from the working set or of coins anywhere in the store.

    sealed: under encryption type 1.
    """

    def exchange(_port: int) -> Exchange:
        payloads = (_any_payloads if anywhere else _set_payloads)(count)
        keys = _keys(payloads, anywhere=anywhere) if sealed else ()
        return _requests(DETECT, payloads, ALL_PASS, window=window, keys=keys)

    return exchange


def _fresh_detect(count: int) -> Callable[[int], Exchange]:
    def exchange(_port: int) -> Exchange:
        chosen = coins.anywhere(count * WINDOW * CHANGE_TURNS)
        return _requests(DETECT, _detects(chosen, count, coins.first_an), ALL_PASS)

    return exchange


def _sealed_echo(_port: int) -> Exchange:
    payloads = [b""] * (WINDOW * CHANGE_TURNS)
    return _requests((0, 0), payloads, SUCCESS, keys=_keys(payloads, anywhere=False))


def _changes(
    command: Command,
    count: int,
    payload: Callable[[Sequence[int], bool], bytes],
    *,
    window: int = WINDOW,
    sealed: bool = False,
) -> Callable[[int], Exchange]:
    """Return what makes requests that change coins in one turn and change them back in the next.

    payload: of some coins, and whether they are changed back.
    """

    def exchange(_port: int) -> Exchange:
        chosen = coins.own_pages(count * window * CHANGE_TURNS)
        payloads = []
        for turn in _lists(chosen, count * window):
            for back in (False, True):
                payloads += [payload(some, back) for some in _lists(turn, count)]
        keys = _keys(payloads, anywhere=False) if sealed else ()
        return _requests(command, payloads, ALL_PASS, window=window, keys=keys, turns_of_round=2)

    return exchange


def _pown_payload(some: Sequence[int], back: bool) -> bytes:
    ans = coins.an, coins.other_an
    old, new = reversed(ans) if back else ans
    return b"".join([coins.name(coin) + old(coin) + new(coin) for coin in some])


def _sum(some: Sequence[int]) -> bytes:
    total = 0
    for coin in some:
        total ^= int.from_bytes(coins.an(coin))
    return total.to_bytes(layout.AN_SIZE)


def _pown_sum_payload(some: Sequence[int], back: bool) -> bytes:
    """The difference is that of coins.other_an(): an odd number of them changes the sum, too."""
    names = b"".join(map(coins.name, some))
    difference = b"\xff" * layout.AN_SIZE
    total = _sum(some)
    if back and len(some) % 2:
        total = bytes(map(operator.xor, total, difference))
    return names + total + difference


def _pown(count: int, *, window: int = WINDOW, sealed: bool = False) -> Callable[[int], Exchange]:
    return _changes(POWN, count, _pown_payload, window=window, sealed=sealed)


@functools.cache
def _writes() -> Exchange:
    return _pown(FEW)(0)


def _detect_sum(_port: int) -> Exchange:
    lists = _lists(coins.own_pages(FEW * WINDOW * CHANGE_TURNS), FEW)
    payloads = [b"".join(map(coins.name, some)) + _sum(some) for some in lists]
    return _requests(DETECT_SUM, payloads, ALL_PASS)


def _find(_port: int) -> Exchange:
    lists = _lists(coins.working_set()[: FEW * WINDOW * CHANGE_TURNS], FEW)
    return _requests(FIND, [_pown_payload(some, back=False) for some in lists], FIND_ALL_AN)


def get_ticket(first_coins: int) -> Callable[[int], Exchange]:
    """Return what asks for tickets, of so few first coins that older tickets make room: the others
    live for minutes. first_coins: a divisor of WINDOW."""

    def exchange(_port: int) -> Exchange:
        chosen = coins.working_set()[:first_coins]
        payloads = [coins.name(coin) + coins.an(coin) for coin in chosen]
        turn = payloads * (WINDOW // first_coins)
        return _requests(GET_TICKET, turn, ALL_PASS, answer_bytes=layout.TICKET_SIZE)

    return exchange


def _validate_ticket(port: int) -> Exchange:
    """Ask for tickets, show each of them once, and return requests that show them again.

    A RAIDA can show a ticket once, so nothing else can be asked for longer than a moment. Raises
    OSError without an answer.
    """
    payloads = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.settimeout(TICKET_TIMEOUT_S)
        node.connect(("127.0.0.1", port))
        for coin in coins.working_set()[TICKET_COINS : TICKET_COINS + WINDOW]:
            asked = coins.name(coin) + coins.an(coin)
            node.send(command_exchange(*GET_TICKET, asked).request)
            at = layout.HEADER_SMALL
            payload = b"\x01" + node.recv(layout.UDP_PAYLOAD_MIN)[at : at + layout.TICKET_SIZE]
            node.send(command_exchange(*VALIDATE_TICKET, payload).request)
            node.recv(layout.UDP_PAYLOAD_MIN)
            payloads.append(payload)
    return _requests(VALIDATE_TICKET, payloads, TICKET_CLAIMED)


def _show_stats(_port: int) -> Exchange:
    key = bytes.fromhex(str(SERVER["admin_key"]))
    return _requests((0, 2), [key] * WINDOW, SUCCESS, answer_bytes=layout.STATS.size)


def _branches(_port: int) -> Exchange:
    """Return requests for leaves, of pages at random."""
    places = (divmod(coin // layout.PAGE_RECORDS_COUNT, 1000) for coin in coins.working_set())
    payloads = [
        layout.BRANCH_REQUEST.pack(layout.DENOMINATION_MIN + tree, 0, leaf) for tree, leaf in places
    ]
    count = WINDOW * CHANGE_TURNS
    return _requests(GET_MERKLE_BRANCH, payloads[:count], SUCCESS, answer_bytes=layout.ROOT_SIZE)


def _roots(_port: int) -> Exchange:
    payloads = [bytes(layout.ROOTS_SIZE)] * WINDOW
    return _requests(GET_ALL_ROOTS, payloads, SUCCESS, answer_bytes=layout.ROOTS_SIZE)


def _echo(_port: int) -> Exchange:
    return ECHO


def _version(_port: int) -> Exchange:
    return VERSION


# -- cases -----------------------------------------------------------------------------------------


def _at_least(limit: float) -> tuple[Bound, ...]:
    return (Bound("rate", limit),)


def _pown_case(count: int, limit: float | None = None) -> CommandCase:
    goals = () if limit is None else _at_least(limit)
    return CommandCase(f"pown-{count}", count, _pown(count), goals, changes=True)


_LONE: Final = Bound("p50", 1.15), Bound("cost", 1.3)
_few = f"detect-{FEW}"
_many = f"detect-{MANY}"
_DETECT_SET = CommandCase(_few, FEW, detect(FEW), _at_least(0.70))
_SEALED_SET = CommandCase(f"{_few}, type 1", FEW, detect(FEW, sealed=True), _at_least(0.62))
_SEALED_POWN = CommandCase(f"pown-{FEW}, type 1", FEW, _pown(FEW, sealed=True), changes=True)
_POWN_SUM = CommandCase(
    f"pown_sum-{FEW}", FEW, _changes(POWN_SUM, FEW, _pown_sum_payload), changes=True
)

GROUPS: Final = (
    Group(
        "commands",
        "commands on a full store, durable changes",
        (
            CommandCase("echo", 0, _echo),
            CommandCase("version", 0, _version, _at_least(0.80)),
            CommandCase("show_stats", 0, _show_stats),
            CommandCase("detect-1", 1, detect(1, anywhere=True), _at_least(0.80)),
            _DETECT_SET,
            CommandCase(f"{_few}, anywhere", FEW, detect(FEW, anywhere=True), _at_least(0.56)),
            CommandCase(_many, MANY, detect(MANY)),
            CommandCase(f"detect_sum-{FEW}", FEW, _detect_sum),
            CommandCase(f"find-{FEW}", FEW, _find),
            CommandCase("validate_ticket", 0, _validate_ticket, of_node=True),
            CommandCase("get_ticket-1", 1, get_ticket(TICKET_COINS), _at_least(0.60)),
            CommandCase("echo, type 1", 0, _sealed_echo, _at_least(0.70)),
            CommandCase("detect-1, type 1", 1, detect(1, sealed=True)),
            _SEALED_SET,
            CommandCase(
                f"{_few}, anywhere, type 1",
                FEW,
                detect(FEW, anywhere=True, sealed=True),
                _at_least(0.50),
            ),
            CommandCase(f"{_many}, type 1", MANY, detect(MANY, sealed=True)),
            _pown_case(1, 0.40),
            _pown_case(FEW, 0.20),
            _SEALED_POWN,
            _POWN_SUM,
        ),
    ),
    Group(
        "commands-interval",
        "changes on a full store, durable within an interval",
        (
            _pown_case(1, 0.55),
            _pown_case(FEW, 0.30),
            _SEALED_POWN,
        ),
        tables={"store": {"durability": "interval"}},
    ),
    Group(
        "commands-fresh",
        "a store never written to, whose ANs are computed",
        (
            CommandCase("detect-1", 1, _fresh_detect(1), _at_least(0.75)),
            CommandCase(_few, FEW, _fresh_detect(FEW), _at_least(0.50)),
        ),
        store="fresh",
    ),
    Group(
        "commands-trees",
        "a node that publishes the roots of its trees",
        (
            CommandCase("get_merkle_branch", 0, _branches),
            CommandCase("get_all_roots", 0, _roots),
            _pown_case(FEW),
        ),
        tables={"server": {"synchronization_enabled": True}},
    ),
    Group(
        "commands-tcp",
        "over TCP, one request per connection",
        (
            CommandCase("version", 0, _version),
            CommandCase(_few, FEW, detect(FEW)),
            CommandCase(f"{_few}, type 1", FEW, detect(FEW, sealed=True)),
            CommandCase(_many, MANY, detect(MANY)),
            _pown_case(FEW),
        ),
        transport="tcp",
    ),
    Group(
        "commands-lone",
        "one request at a time, beside the same node's echo",
        (
            CommandCase("version", 0, _version, _LONE),
            CommandCase("detect-1", 1, detect(1, window=1), _LONE),
            CommandCase(_few, FEW, detect(FEW, window=1), _LONE),
            CommandCase(f"{_few}, type 1", FEW, detect(FEW, sealed=True, window=1)),
            CommandCase("pown-1", 1, _pown(1, window=1), (Bound("sync", 1.0),), changes=True),
        ),
        base="node",
        window=1,
    ),
    Group(
        "commands-cores",
        "server and generator on all cores",
        (
            CommandCase("version", 0, _version),
            dataclasses.replace(_DETECT_SET, goals=()),
            dataclasses.replace(_SEALED_SET, goals=()),
            CommandCase(f"{_many}, type 1", MANY, detect(MANY, sealed=True)),
            _pown_case(FEW),
        ),
        pinned=False,
    ),
    Group(
        "reads-beside-writes",
        f"reads beside {WRITES_PER_S * FEW:,} durably changed coins a second, without the writers'"
        " own CPU time",
        (CommandCase(_few, FEW, detect(FEW), (Bound("cost", 1.2),), beside=_writes),),
        base="alone",
    ),
)
