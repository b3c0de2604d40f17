"""Wallets: clients of the commands that a node answers in C, while a test replaces or kills it.

A wallet has coins of its own and asks one thing after the other, so the right answer to each
request is known: status, verdicts, names. Beside each wallet a watcher reads the same coins while
they change: it must never see some of them changed and others not, nor a change that is taken back.
Each request is sent once or, with `again`, until there is an answer: what a killed node had
received is lost, and each of those requests may have been done, or be done late, since it waits in
the socket while nobody serves.

Thread: of one event loop, but where it says any.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from raida_uring.client import AsyncClient, Coin, CoinName, Key, calls
from raida_uring.errors import RaidaError
from raida_uring.protocol import Status
from raida_uring.protocol.calls import Call
from tests.support.coin_requests import default_an
from tests.support.net import PATIENCE, Endpoint
from tests.support.upgrade_outcome import Outcome
from tests.support.wire import COIN_ID, RAIDA_ID

LOST_S: Final = 15.0 * PATIENCE  # without an answer for so long, a request is lost
AGAIN_AFTER_S: Final = 0.5 * PATIENCE  # with `again`, when it is sent once more
AGAIN_PAUSE_S: Final = 0.01  # after a refused connection
PAGE: Final = 300 * 1024  # the first serial number of a page that the recordings do not touch
KEY_COINS: Final = tuple(Coin(0, PAGE + n, default_an((0, PAGE + n))) for n in (0, 1))
KEYS: Final = {0: None, 1: Key(1, KEY_COINS[:1]), 5: Key(5, KEY_COINS)}
PUBLIC: Final = ("get_all_roots", "validate_ticket")  # refused under type 1
# Transport, encryption, coins. An even number of coins has a sum that pown_sum does not change.
WALLETS: Final = (
    ("udp", 0, 1),
    ("tcp", 0, 25),
    ("udp", 1, 25),
    ("tcp", 1, 1),
    ("udp", 5, 1),
    ("tcp", 5, 25),
)


class WrongAnswerError(Exception):
    """An answer that must not be. Its text says which."""


class Asked(NamedTuple):
    """An answer. repeated: whether the request was sent more than once for it. seen: Wallet.seen
    when it was sent last."""

    status: int
    value: object
    repeated: bool = False
    seen: list[bytes] | None = None


class Ticket(NamedTuple):
    """life: of the memory that keeps it, see Load.life."""

    number: int
    names: tuple[CoinName, ...]
    life: int


class Load:
    """Wallets with what they count, by transport and command. outcomes: for any thread."""

    def __init__(
        self, endpoint: Endpoint, *, again: bool, pause_s: float, tickets_per_s: float
    ) -> None:
        """pause_s: of a wallet between two requests. tickets_per_s: of all together; a node keeps
        512 for five minutes."""
        self.endpoint = endpoint
        self.again = again
        self.pause_s = pause_s
        self.outcomes: dict[str, Outcome] = {}
        self.life = 0  # how often the coins' memory, and with it the tickets, was lost
        self.wallets = [
            Wallet(self, transport, encryption, [CoinName(den, PAGE + n) for n in range(count)])
            for den, (transport, encryption, count) in enumerate(WALLETS, 1)
        ]
        self._ticket_every_s = 1 / tickets_per_s
        self._ticket_due_s = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask until told to stop; each wallet ends at the end of a round.

        Raises an ExceptionGroup of WrongAnswerError.
        """
        async with asyncio.TaskGroup() as tasks:
            for one in self.wallets:
                tasks.create_task(one.spend(stopping))
                tasks.create_task(one.watch(stopping))

    def ticket_due(self) -> bool:
        """Whether the wallet that asks may have a ticket issued now."""
        now_s = time.monotonic()
        if now_s < self._ticket_due_s:
            return False
        self._ticket_due_s = now_s + self._ticket_every_s
        return True


class Wallet:
    """rounds, ans, seen: read by any thread."""

    def __init__(
        self, load: Load, transport: Any, encryption: int, names: Sequence[CoinName]
    ) -> None:
        """names: an odd number of coins, nobody else's, with default ANs."""
        self._load = load
        self.names = tuple(names)
        self.ans = [default_an((one.den, one.sn)) for one in names]  # acknowledged
        self.seen: list[bytes] | None = None  # of a change not yet acknowledged
        self.rounds = 0
        self._before = [bytes(16)] * len(names)  # no coin has it
        self._next: list[bytes] | None = None  # what is asked for now
        self._tickets: deque[Ticket] = deque()
        self._transport = transport
        host, port = load.endpoint
        self._timeout_s = AGAIN_AFTER_S if load.again else LOST_S
        self._client, self._plain = (
            AsyncClient(
                host,
                port,
                raida_id=RAIDA_ID,
                coin_id=COIN_ID,
                transport=transport,
                key=key,
                timeout_s=self._timeout_s,
            )
            for key in (KEYS[encryption], None)
        )

    # -- one request -------------------------------------------------------------------------------

    def _coins(self, ans: Iterable[bytes]) -> list[Coin]:
        return [Coin(*name, an) for name, an in zip(self.names, ans, strict=True)]

    def _pairs(self, ans: Iterable[bytes], others: Iterable[bytes]) -> list[tuple[Coin, bytes]]:
        return list(zip(self._coins(ans), others, strict=True))

    def _outcome(self, command: str) -> Outcome:
        kind = f"{self._transport} {command}"
        return self._load.outcomes.setdefault(kind, Outcome())

    async def _ask_once(self, command: str, call: Call[Any]) -> Asked:
        """Raises OSError, RaidaError without an answer."""
        outcome, sent_s = self._outcome(command), time.monotonic()
        outcome.sent += 1
        client = self._plain if command in PUBLIC else self._client
        try:
            answer = await client.ask(call)
        except (OSError, RaidaError, asyncio.CancelledError) as error:
            outcome.lose(f"{type(error).__name__} {error}")
            raise
        outcome.statuses[answer.status] += 1
        outcome.settle(sent_s, None)
        return Asked(answer.status, answer.value)

    async def _ask(self, command: str, call: Call[Any]) -> Asked:
        """Raises WrongAnswerError without an answer."""
        await asyncio.sleep(self._load.pause_s)
        until_s, repeated = time.monotonic() + LOST_S, False
        while True:
            seen = self.seen
            try:
                answer = await self._ask_once(command, call)
                return answer._replace(repeated=repeated, seen=seen)
            except (OSError, RaidaError) as error:
                if not self._load.again or time.monotonic() > until_s:
                    raise WrongAnswerError(
                        f"{self._transport} {command}: no answer: {error}"
                    ) from None
            repeated = True
            await asyncio.sleep(AGAIN_PAUSE_S)

    def _wrong(self, command: str, asked: Asked, wanted: object) -> WrongAnswerError:
        outcome = self._outcome(command)
        outcome.answered -= 1
        outcome.wrong += 1
        what = f"status {asked.status}, {asked.value}, not {wanted}"
        outcome.faults[what] += 1
        return WrongAnswerError(f"{self._transport} {command}, round {self.rounds}: {what}")

    async def _expect(self, command: str, call: Call[Any], status: int) -> object:
        """The answer's value. Raises WrongAnswerError for any other answer."""
        asked = await self._ask(command, call)
        if asked.status != status:
            raise self._wrong(command, asked, status)
        return asked.value

    # -- what a wallet does ------------------------------------------------------------------------

    async def spend(self, stopping: asyncio.Event) -> None:
        """Rounds of all commands. Raises WrongAnswerError."""
        size = len(self.names)
        while not stopping.is_set():
            new = [secrets.token_bytes(16) for _ in self.names]
            await self._change(f"pown of {size}", calls.pown(self._pairs(self.ans, new)), new)
            await self._read(size)
            delta = secrets.token_bytes(16)
            new = [xored(an, delta) for an in self.ans]
            await self._change(
                f"pown_sum of {size}", calls.pown_sum(self._coins(self.ans), delta), new
            )
            await self._read_sums(size)
            if self._load.ticket_due():
                await self._use_tickets(size)
            roots = await self._expect("get_all_roots", calls.get_all_roots(), Status.SUCCESS)
            if not isinstance(roots, tuple) or not all(map(any, roots)):
                raise WrongAnswerError(f"get_all_roots: {roots}")
            self.rounds += 1

    async def _change(self, command: str, call: Call[Any], new: list[bytes]) -> None:
        self._next = new
        asked = await self._ask(command, call)
        if asked.status == Status.ALL_PASS:
            if asked.seen is new:
                raise WrongAnswerError(f"{command}: a read saw what was not there later")
        elif asked.status == Status.ALL_FAIL and asked.repeated:  # an earlier one was done
            await self._expect("detect", calls.detect(self._coins(new)), Status.ALL_PASS)
        else:
            raise self._wrong(command, asked, Status.ALL_PASS)
        self._before, self.ans, self._next, self.seen = self.ans, new, None, None

    async def _read(self, size: int) -> None:
        new, old = self.ans, self._before
        detect, find = f"detect of {size}", f"find of {size}"
        await self._expect(detect, calls.detect(self._coins(new)), Status.ALL_PASS)
        await self._expect(detect, calls.detect(self._coins(old)), Status.ALL_FAIL)
        await self._expect(find, calls.find(self._pairs(new, old)), Status.FIND_ALL_AN)
        await self._expect(find, calls.find(self._pairs(old, new)), Status.FIND_ALL_PAN)

    async def _read_sums(self, size: int) -> None:
        command = f"detect_sum of {size}"
        for ans, wanted in ((self.ans, Status.ALL_PASS), (self._before, Status.ALL_FAIL)):
            await self._expect(command, calls.detect_sum(self._coins(ans)), wanted)

    async def _use_tickets(self, size: int) -> None:
        """Claim the last ticket, which another process may have issued, and have one issued."""
        while self._tickets:
            await self._claim(1, self._tickets.popleft())
        life = self._load.life
        issued: Any = await self._expect(
            f"get_ticket of {size}", calls.get_ticket(self._coins(self.ans)), Status.ALL_PASS
        )
        ticket = Ticket(issued.number, self.names, life)
        await self._claim(0, ticket)
        await self._claim(0, ticket, again=True)
        self._tickets.append(ticket)

    async def _claim(self, raida: int, ticket: Ticket, *, again: bool = False) -> None:
        """again: this RAIDA has claimed it."""
        asked = await self._ask("validate_ticket", calls.validate_ticket(raida, ticket.number))
        wanted = {Status.TICKET_CLAIMED_ALREADY} if again else {Status.SUCCESS}
        if asked.repeated:
            wanted.add(Status.TICKET_CLAIMED_ALREADY)
        if ticket.life != self._load.life:
            wanted.add(Status.NO_TICKET_FOUND)
        if asked.status not in wanted:
            raise self._wrong("validate_ticket", asked, wanted)
        if asked.status == Status.SUCCESS and asked.value != ticket.names:
            raise self._wrong("validate_ticket", asked, ticket.names)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Read the coins while they change. Raises WrongAnswerError."""
        command = f"find of {len(self.names)}"
        while not stopping.is_set():
            await asyncio.sleep(self._load.pause_s)
            old, new, seen = self.ans, self._next, self.seen
            if new is None:
                continue
            try:
                asked = await self._ask_once(command, calls.find(self._pairs(old, new)))
            except (OSError, RaidaError) as error:
                if not self._load.again:
                    raise WrongAnswerError(f"{command}: no answer: {error}") from None
                continue
            here = self._next is new  # or was acknowledged meanwhile, and perhaps followed
            newest = self.ans is new and self._next is None
            if asked.status == Status.FIND_ALL_PAN:
                self.seen = new if here else self.seen
            elif asked.status == Status.FIND_ALL_AN:
                if seen is new:
                    raise self._wrong(command, asked, "a change that was seen")
            elif asked.status != Status.FIND_NEITHER or here or newest:
                raise self._wrong(command, asked, "all alike")


def xored(an: bytes, delta: bytes) -> bytes:
    """Both together, as pown_sum does."""
    return (int.from_bytes(an) ^ int.from_bytes(delta)).to_bytes(16)


class LoadThread(threading.Thread):
    """A load in the test's own process. Methods: of the test's thread."""

    def __init__(self, load: Load) -> None:
        super().__init__(daemon=True)
        self.load = load
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self.fault: str | None = None

    def run(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self.load.run(self._stopping))
            except* WrongAnswerError as wrong:
                self.fault = "; ".join(str(one) for one in wrong.exceptions)

    def went_on(self, rounds: int = 2) -> bool:
        """Whether each wallet has been through so many rounds since the last call that was True;
        asserts that nothing is wrong."""
        assert self.fault is None, self.fault
        assert self.is_alive()
        counts = [one.rounds for one in self.load.wallets]
        before = getattr(self, "_counts", [0] * len(counts))
        if any(now < then + rounds for now, then in zip(counts, before, strict=True)):
            return False
        self._counts = counts
        return True

    def note(self) -> None:
        """Count rounds from now on."""
        self._counts = [one.rounds for one in self.load.wallets]

    def finish(self) -> None:
        """Stop at the end of a round, and assert that nothing was wrong."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: `fault` says why
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(2 * LOST_S)
        assert not self.is_alive()
        assert self.fault is None, self.fault
