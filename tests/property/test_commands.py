"""Commands in C against a model over a dictionary.

What must hold: for any request, a command answers what the model answers, leaves the same effect,
and the coins are afterwards those of the model; in a view for reading as in one for changes, of
which some are taken back, and in as little memory as a light request is given.
COMMAND_REQUESTS=1000000 in the environment runs so many, SEED=n others.
Source: wire specification, sections 6 and 27.
"""

import calendar
import contextlib
import itertools
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raida_uring import handlers
from raida_uring.ffi import native_command
from raida_uring.ffi.native_command import ROWS, Facts
from raida_uring.ffi.native_store import View
from raida_uring.protocol import COMMANDS, Status, layout
from raida_uring.store import Store, month_now
from raida_uring.store.trees import Integrity
from tests.support import model as oracle
from tests.support.coin_requests import an_of, xor
from tests.support.model import Effect, Model, Request
from tests.support.store import (
    MAP_BYTES,
    Coin,
    coin_bytes,
    make_recorded_store,
    make_store,
    put_files,
)
from tests.support.wire import ADMIN_KEY, COIN_ID, RAIDA_ID, load_vectors

REQUESTS = int(os.environ.get("COMMAND_REQUESTS", "6000"))
SEED = int(os.environ.get("SEED", "4"))
OF_A_VIEW = 60  # requests
CHANGES = 2000  # beside readers
START_S = calendar.timegm((2026, 11, 30, 0, 0, 0))

SHORT_PAGES = frozenset(((-1, 7), (6, 999)))
# Both ends of denominations, serial numbers and pages; pages that cannot be read; no coins at all.
NAMED: list[Coin] = [
    *((0, serial) for serial in (0, 1, 2, 3, 1023, 1024, 1025)),
    *((-8, serial) for serial in (0, 1, 1_022_975, 1_023_998, 1_023_999)),
    *((6, serial) for serial in (0, 500_000, 1_022_975)),
    *((denomination, 77 * denomination + 700) for denomination in range(-8, 7)),
]
UNREADABLE: list[Coin] = [
    (-1, 7 * 1024),
    (-1, 8 * 1024 - 1),
    (6, 1_023_999),
    *((denomination, 0) for denomination in (7, -9, 127, -128)),
    *((0, serial) for serial in (1_024_000, 1 << 24, (1 << 24) + 1, (1 << 32) - 1)),
]
NEW_ANS = [an_of("new", n) for n in range(3)] + [bytes(16), b"\xff" * 16]
KINDS = {
    native_command.EFFECT_NONE: "none",
    native_command.EFFECT_ECHO: "echo",
    native_command.EFFECT_POWNED: "powned",
    native_command.EFFECT_ISSUE: "issue",
    native_command.EFFECT_CLAIM: "claim",
}
ECHO, VERSION, SHOW_STATS, DETECT, DETECT_SUM, POWN, POWN_SUM = (
    *(0x0000, 0x0001, 0x0002),
    *(0x010A, 0x010B, 0x0114, 0x0115),
)
GET_TICKET, VALIDATE_TICKET, FIND, BRANCH, ROOTS = 0x0228, 0x0232, 0x023C, 0x0E02, 0x0E05
LENGTH_FAULTS = (Status.INVALID_PACKET_LENGTH, Status.COINS_NOT_DIV)
VERDICTS = (Status.ALL_PASS, Status.ALL_FAIL, Status.MIXED)
SUM_VERDICTS = (Status.ALL_PASS, Status.ALL_FAIL, Status.INVALID_SN_OR_DENOMINATION)
# What random requests reach: everything but NO_TICKET_SLOT.
STATUSES: dict[int, tuple[int, ...]] = {
    ECHO: (Status.SUCCESS,),
    VERSION: (Status.SUCCESS,),
    SHOW_STATS: (Status.SUCCESS, Status.ADMIN_AUTH),
    DETECT: (*LENGTH_FAULTS, *VERDICTS, Status.LEGACY_DB),
    DETECT_SUM: (*LENGTH_FAULTS, *SUM_VERDICTS),
    POWN: (*LENGTH_FAULTS, *VERDICTS),
    POWN_SUM: (*LENGTH_FAULTS, *SUM_VERDICTS),
    GET_TICKET: (
        *(*LENGTH_FAULTS, *VERDICTS),
        *(Status.INVALID_SN_OR_DENOMINATION, Status.NOT_IMPLEMENTED),
    ),
    VALIDATE_TICKET: (
        *(Status.SUCCESS, Status.INVALID_PACKET_LENGTH, Status.WRONG_RAIDA),
        *(Status.NO_TICKET_FOUND, Status.TICKET_CLAIMED_ALREADY, Status.NOT_IMPLEMENTED),
    ),
    FIND: (
        *(*LENGTH_FAULTS, Status.INVALID_SN_OR_DENOMINATION),
        *(Status.FIND_NEITHER, Status.FIND_ALL_AN, Status.FIND_ALL_PAN, Status.FIND_MIXED),
    ),
    BRANCH: (Status.SUCCESS, Status.INVALID_PACKET_LENGTH, Status.FILE_NOT_EXIST),
    ROOTS: (Status.SUCCESS, Status.INVALID_PACKET_LENGTH),
}


def an_effect(of: native_command.Effect) -> Effect:
    return Effect(KINDS[of.kind], *of[1:])


@dataclass
class Node:
    """A store and its model, and the requests made up for both."""

    store: Store
    rng: random.Random
    model: Model
    facts: Facts
    now_s: int = START_S
    issued: list[int] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)  # commands and the statuses answered

    # -- requests ----------------------------------------------------------------------------------

    def count(self) -> int:
        """How many coins: most requests have few, some as many as fit."""
        kind = self.rng.random()
        if kind < 0.80:
            return self.rng.randint(1, 6)
        if kind < 0.97:
            return self.rng.randint(0, 70)
        return self.rng.randint(71, 700) if kind < 0.999 else self.rng.randint(701, 13_200)

    def coins(self, *, sound: bool) -> list[Coin]:
        """Coins of a request. sound: that can be read, none of them twice."""
        count = self.count()
        if count > len(NAMED) // 2:
            start = self.rng.choice((0, 5000, 1_023_999 - count))
            some = [(self.rng.randint(-8, 6) if not sound else -3, start + i) for i in range(count)]
            self.rng.shuffle(some)
        elif sound:
            some = self.rng.sample(NAMED, count)
        else:
            some = self.rng.choices(NAMED, k=count)
        if not sound and some and self.rng.random() < 0.3:
            some[self.rng.randrange(len(some))] = self.rng.choice(UNREADABLE)
        if not sound and some and self.rng.random() < 0.3:
            some[self.rng.randrange(len(some))] = self.rng.choice(some)
        return some

    def an(self, coin: Coin, wrong: float) -> bytes:
        """An AN that is the coin's, but for the share `wrong`."""
        right = self.model.an(coin)
        if right is None or self.rng.random() < wrong:
            kind = self.rng.randrange(3)
            if right is not None and kind == 0:  # a bit differs
                bit = 1 << self.rng.randrange(128)
                return (int.from_bytes(right) ^ bit).to_bytes(16)
            return self.rng.choice(NEW_ANS) if kind == 1 else self.rng.randbytes(16)
        return right

    def new_an(self) -> bytes:
        return self.rng.choice(NEW_ANS) if self.rng.random() < 0.3 else self.rng.randbytes(16)

    def listed(self, pans: int) -> bytes:
        """Coins, each with its AN and so many more."""
        coins = self.coins(sound=self.rng.random() < 0.6)
        wrong = self.rng.choice((0.0, 0.0, 0.3, 1.0))
        out = []
        last: dict[Coin, bytes] = {}
        for coin in coins:
            an = last.get(coin, b"") or self.an(coin, wrong)
            ans = [an, *(self.new_an() for _ in range(pans))]
            if pans and self.rng.random() < 0.2:
                ans.reverse()
            if self.rng.random() < 0.5:
                last[coin] = ans[-1]  # as a later record of the same request would have it
            out.append(coin_bytes(coin) + b"".join(ans))
        return b"".join(out)

    def summed(self, sums: int) -> bytes:
        """Coins, then the XOR of their ANs, mostly, and so many more."""
        coins = self.coins(sound=self.rng.random() < 0.7)
        ans = [an for an in map(self.model.an, coins) if an is not None]
        right = xor(ans) if self.rng.random() < 0.7 else self.new_an()
        return (
            b"".join(map(coin_bytes, coins))
            + right
            + b"".join(bytes(16) if self.rng.random() < 0.1 else self.new_an() for _ in range(sums))
        )

    def claiming(self) -> bytes:
        known = self.issued and self.rng.random() < 0.9
        number = self.rng.choice(self.issued[-40:]) if known else self.rng.getrandbits(32)
        raida: int = self.rng.choice((*range(8), 24, 25, 255))
        return raida.to_bytes(1) + number.to_bytes(4)

    def place(self) -> bytes:
        rng = self.rng
        level: int = rng.choice((*range(13), 255, 1 << 31, (1 << 32) - 1))
        nodes = -(-1000 >> level) if level < 11 else 1
        position: int = rng.choice(
            (0, nodes - 1, nodes, rng.randrange(max(1, nodes)), (1 << 32) - 1)
        )
        denomination: int = rng.choice((*range(-9, 8), -128, 127))
        return denomination.to_bytes(1, signed=True) + level.to_bytes(4) + position.to_bytes(4)

    def payload(self, number: int) -> bytes:
        makers: dict[int, Callable[[], bytes]] = {
            SHOW_STATS: lambda: self.rng.choice((self.model.admin_key or b"", bytes(16))),
            DETECT: lambda: self.listed(0),
            GET_TICKET: lambda: self.listed(0),
            POWN: lambda: self.listed(1),
            FIND: lambda: self.listed(1),
            DETECT_SUM: lambda: self.summed(0),
            POWN_SUM: lambda: self.summed(1),
            VALIDATE_TICKET: self.claiming,
            BRANCH: self.place,
            ROOTS: lambda: self.rng.randbytes(layout.ROOTS_SIZE),
        }
        made = makers[number]() if number in makers else b""
        kind = self.rng.random()
        if kind < 0.05:
            made = self.rng.randbytes(self.rng.randrange(120))
        elif kind < 0.10:
            made = made[: self.rng.randrange(len(made) + 1)]
        elif kind < 0.15:
            made += self.rng.randbytes(self.rng.randrange(1, 40))
        return made[: layout.BODY_MAX - layout.PLAIN_BODY_MIN]

    # -- comparing ---------------------------------------------------------------------------------

    def ask(self, view: View, number: int) -> None:
        """Ask both."""
        row = ROWS[number]
        rng = self.rng
        self.now_s += rng.choice((0, 1, 1, 2))
        room = (
            rng.choice((65_502, 65_502, 100, 6, 0))
            if number in (GET_TICKET, VALIDATE_TICKET)
            else 65_502
        )
        request = Request(self.payload(number), self.now_s, rng.randrange(4), room)
        expected = self.model.answer(number, request)
        shard = request.shard
        light = len(request.payload) <= row.light_max and rng.random() < 0.5
        got = native_command.run(
            view,
            self.facts,
            number,
            request.payload,
            now_s=self.now_s,
            room=room,
            shard=shard,
            light=light,
        )
        note = f"{row.name} {request}"
        assert an_effect(got.effect) == expected.effect, note
        ticket = int.from_bytes(got.payload[-4:]) if expected.effect.kind == "issue" else 0
        settled = self.model.settle(expected, request, ticket)
        if settled.status != got.status or settled.payload != got.payload:
            assert (settled.status, settled.payload) == (got.status, got.payload), note
        self.seen.add((number, got.status))
        if expected.effect.kind == "issue" and ticket in self.model.tickets:
            self.issued.append(ticket)

    def check(self, view: View, coins: list[Coin]) -> None:
        """The coins are those of the model."""
        for coin in coins:
            record, state = view.record(coin_bytes(coin))
            expected = self.model.record(coin)
            if expected is None:
                assert state == 2
            else:
                assert (record[:16], record[16]) == expected, coin

    def change(self) -> None:
        """A view for changes: some requests are taken back, or all of them."""
        self.model.changes.clear()
        with contextlib.closing(self.store.native.view(writing=True)) as view:
            view.begin()
            for _ in range(OF_A_VIEW):
                mark, kept = view.mark(), len(self.model.changes)
                number = self.rng.choice((POWN, POWN_SUM, POWN, POWN_SUM, *ROWS))
                self.ask(view, number)
                if self.rng.random() < 0.1:  # its reply had no room, for example
                    view.undo(mark)
                    self.model.undo(kept)
            self.check(view, NAMED)
            if self.rng.random() < 0.1:
                self.model.undo()
            else:
                view.commit()

    def look(self) -> None:
        """A view for reading."""
        readers = [number for number, row in ROWS.items() if not row.writes]
        with contextlib.closing(self.store.native.view(writing=False)) as view:
            view.begin()
            for _ in range(OF_A_VIEW):
                self.ask(view, self.rng.choice(readers))
            changed = list(self.model.coins)
            some = self.rng.sample(changed, min(50, len(changed)))
            self.check(view, NAMED + UNREADABLE + some)


def facts_of(model: Model) -> Facts:
    facts = Facts(version=model.version, admin_key=model.admin_key)
    facts.count(model.statistics)
    if model.trees is not None:
        facts.publish({n: nodes_of(levels) for n, levels in enumerate(model.trees)})
    return facts


def nodes_of(levels: list[list[bytes]]) -> bytes:
    return b"".join(b"".join(level) for level in levels)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="raida-") as name:
        path = make_store(Path(name) / "store")
        pages = {(d + 8) * 1000 + page: bytes(100) for d, page in SHORT_PAGES}
        put_files(path, dict(pages))
        opened = Store(path, map_bytes=MAP_BYTES, durability="interval")
        yield opened
        opened.close()


def trees_of(rng: random.Random) -> list[list[list[bytes]]]:
    return [oracle.levels_of([rng.randbytes(32) for _ in range(1000)]) for _ in range(15)]


@pytest.mark.hang_timeout_s(max(150, REQUESTS // 500))
def test_commands_answer_as_the_model(store: Store) -> None:
    rng = random.Random(SEED)
    model = Model(unreadable=SHORT_PAGES)
    shown = trees_of(rng)
    seen: set[tuple[int, int]] = set()
    for turn in range(max(1, REQUESTS // (2 * OF_A_VIEW * 10))):
        model.version = rng.choice((b"", b"1", b"20250323"))
        model.admin_key = rng.choice((None, bytes(16), rng.randbytes(16)))
        model.statistics = tuple(rng.getrandbits(64) for _ in range(4))
        model.trees = shown if turn % 3 else None
        node = Node(store, rng, model, facts_of(model), START_S + turn * 86400 * 9)
        for _ in range(10):
            node.change()
            node.look()
        seen |= node.seen
    assert seen == {(number, status) for number in ROWS for status in STATUSES[number]}


# Statuses that are decided before a command is executed.
NOT_BY_COMMANDS = frozenset(
    (
        *(Status.INVALID_SPLIT_ID, Status.INVALID_RAIDA_ID, Status.INVALID_SHARD_ID),
        *(Status.INVALID_COIN_ID, Status.INVALID_EOF, Status.EMPTY_REQUEST, Status.INVALID_CRC),
    )
)


def reaches(data: bytes) -> bool:
    """Whether this is a request in the clear for a command in C, as far as its header says."""
    if len(data) < layout.HEADER_SMALL or data[layout.REQUEST_ENCRYPTION_AT] != 0:
        return False
    front, split, raida, _shard, group, code, coin_id = layout.REQUEST_FRONT.unpack_from(data)
    size = layout.U16.unpack_from(data, layout.REQUEST_SMALL_BODY_SIZE_AT)[0]
    return (
        (front, split, raida, coin_id) == (layout.REQUEST_VERSION, 0, RAIDA_ID, COIN_ID)
        and group << 8 | code in ROWS
        and len(data) == layout.HEADER_SMALL + size
        and (size == 0 or size >= layout.PLAIN_BODY_MIN)
    )


# -- what random requests do not reach -----------------------------------------------------------


def test_months_are_those_of_the_calendar(store: Store) -> None:
    """Both sides of every month's beginning, from 1970 to 2500."""
    coin = coin_bytes((3, 3))
    facts = Facts()
    with contextlib.closing(store.native.view(writing=True)) as view:
        view.begin()
        an = view.record(coin)[0][:16]
        for month in range(12 * 530):
            begins_s = calendar.timegm((1970 + month // 12, month % 12 + 1, 1, 0, 0, 0))
            for now_s in (begins_s, begins_s - 1) if begins_s else (begins_s,):
                native_command.run(view, facts, POWN, coin + an + an, now_s=now_s)
                assert view.record(coin)[0][16] == month_now(now_s) == oracle.month_of(now_s)


def test_readers_beside_a_sum_see_whole_changes(store: Store) -> None:
    """An even number of coins on as many pages, whose ANs are changed together, to and fro: their
    sum stays what it is, and find sees all before or all after."""
    coins: list[Coin] = [(5, page * 1024 + page) for page in range(24)]
    difference = an_of("difference")
    facts = Facts()
    running = threading.Event()
    whole: set[int] = {Status.FIND_ALL_AN, Status.FIND_ALL_PAN, Status.ALL_PASS}
    seen: set[int] = set()
    with contextlib.closing(store.native.view(writing=False)) as view:
        view.begin()
        ans = [view.record(coin_bytes(coin))[0][:16] for coin in coins]
    both = zip(coins, ans, strict=True)
    found = b"".join(coin_bytes(coin) + an + xor((an, difference)) for coin, an in both)
    summed = b"".join(map(coin_bytes, coins)) + xor(ans)

    def change() -> None:
        with contextlib.closing(store.native.view(writing=True)) as view:
            for done in itertools.count():
                if done >= CHANGES and seen >= whole:
                    break
                view.begin()
                native_command.run(view, facts, POWN_SUM, summed + difference, now_s=START_S)
                view.commit()
        running.clear()

    running.set()
    changer = threading.Thread(target=change)
    changer.start()
    with contextlib.closing(store.native.view(writing=False)) as view:
        view.begin()
        while running.is_set():
            seen.add(native_command.run(view, facts, FIND, found, now_s=START_S).status)
            seen.add(native_command.run(view, facts, DETECT_SUM, summed, now_s=START_S).status)
    changer.join()
    assert seen == whole


def test_rows_are_as_the_handlers_in_python_are_declared() -> None:
    declared = {one.number: one for one in handlers.load((), store=True)}
    assert list(ROWS) == sorted(oracle.COMMANDS)
    for number, row in ROWS.items():
        handler = declared[number]
        assert handler.name.rpartition(".")[2] == row.name
        assert (handler.mode == "write") == row.writes
        assert handler.needs_body == row.needs_body
        assert handler.public == row.public
        assert handler.guesses == ({row.guess} if row.guess else set())
        assert COMMANDS[divmod(number, 256)].needs_store == row.needs_store
        assert row.light_max == 0 or not row.writes


def test_recorded_answers(tmp_path: Path) -> None:
    """Of every recorded request in the clear that reaches one of the commands."""
    answered: dict[str, bool] = {}
    model = Model(version=b"20250323", admin_key=ADMIN_KEY)
    facts = facts_of(model)
    opened = Store(make_recorded_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    trees = Integrity(opened)
    trees.load()
    facts.publish(dict(enumerate(trees.newest.nodes)))
    kept: dict[str, bytes] = {}
    with contextlib.closing(opened):
        for vector in load_vectors():
            data = vector.patched(kept) if all(one in kept for one, _ in vector.patches) else b""
            response = vector.response
            if response is None or not reaches(data) or vector.when == "roots_absent":
                continue
            if response[layout.REPLY_STATUS_AT] in NOT_BY_COMMANDS:
                continue
            number = layout.U16.unpack_from(data, layout.REQUEST_GROUP_AT)[0]
            payload = data[layout.HEADER_SMALL + layout.CHALLENGE_SIZE : -layout.TERMINATOR_SIZE]
            row = ROWS[number]
            with contextlib.closing(opened.native.view(writing=row.writes)) as view:
                view.begin()
                got = native_command.run(
                    view, facts, number, payload, now_s=START_S, shard=data[layout.REQUEST_SHARD_AT]
                )
                if row.writes:
                    view.commit()
            answer = (
                response[: layout.REPLY_STATUS_AT]
                + got.status.to_bytes(1)
                + response[layout.REPLY_STATUS_AT + 1 : layout.HEADER_SMALL]
                + got.payload
                + (layout.TERMINATOR if got.payload else b"")
            )
            if vector.capture is not None:
                name, at, size = vector.capture
                kept[name] = answer[at : at + size]
            answered[vector.name] = vector.accepts(answer)
    assert answered
    assert not [name for name, right in answered.items() if not right]
