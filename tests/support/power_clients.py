"""Clients of a node on a recorded disk: what they change, what they note, what must follow.

A client notes `NAME asked STEP` before it asks for a change of all its coins, `NAME done STEP` once
the node has acknowledged it, and a reader `NAME seen STEP` once it has seen it.
"""

import bisect
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import (
    DETECT,
    POWN,
    POWN_SUM,
    an_of,
    ask,
    coins_ans,
    default_an,
    pown_payload,
    sum_payload,
    xor,
)
from tests.support.net import PATIENCE, Endpoint
from tests.support.power_log import Event, Kind
from tests.support.store import Coin

OWNERS: Final = 6
_MANY: Final = 1200  # coins of one request: its entry in the journal has a dozen blocks
_DATAGRAM_COINS: Final = 20
RECORD_BYTES: Final = 21  # a coin and its AN
MONTH: Final = 1
FLUSHES: Final = 10

Note = Callable[[str], None]


@dataclass
class Owner:
    """A client that gives its coins new ANs, all in one request. steps: their ANs at each step, 0
    as it began."""

    name: int
    coins: list[Coin]
    steps: list[dict[Coin, bytes]] = field(default_factory=list)
    done: int = 0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.steps:
            self.steps.append({coin: default_an(coin) for coin in self.coins})

    @property
    def transport(self) -> str:
        """What it asks over."""
        return "udp" if self.name % 2 and len(self.coins) <= _DATAGRAM_COINS else "tcp"

    def change(self, endpoint: Endpoint, note: Note) -> None:
        """Ask once, and note it. Every third time by a sum. Raises OSError, AssertionError: no
        answer."""
        step, old, drawn = self.done + 1, self.steps[self.done], os.urandom(16)
        if step % 3:
            new = {coin: an_of(drawn, coin) for coin in self.coins}
            payload = pown_payload((coin, old[coin], new[coin]) for coin in self.coins)
            command = POWN
        else:
            new = {coin: xor((an, drawn)) for coin, an in old.items()}
            payload, command = sum_payload(self.coins, xor(old.values()), drawn), POWN_SUM
        self.steps.append(new)
        note(f"{self.name} asked {step}")
        answered, _ = ask(endpoint, command, payload, self.transport)
        if answered != Status.ALL_PASS:
            self.faults.append(f"owner {self.name} step {step}: {answered}")
            return
        note(f"{self.name} done {step}")
        self.done = step

    def commit(self, store: Store, note: Note) -> None:
        """The same without a node: in a store that this process has open."""
        step = self.done + 1
        drawn = os.urandom(16)
        self.steps.append({coin: an_of(drawn, coin) for coin in self.coins})
        note(f"{self.name} asked {step}")
        with store.write() as coins:
            coins.set(coins_ans(self.steps[step]), len(self.coins), RECORD_BYTES, MONTH)
        note(f"{self.name} done {step}")
        self.done = step

    def look(self, endpoint: Endpoint, note: Note) -> None:
        """Ask whether the coins have the newest ANs that they may have; note it if they do."""
        step = len(self.steps) - 1
        answered, _ = ask(endpoint, DETECT, coins_ans(self.steps[step]), self.transport)
        if answered == Status.ALL_PASS:
            note(f"{self.name} seen {step}")
        elif answered != Status.ALL_FAIL:
            self.faults.append(f"owner {self.name} looks at step {step}: {answered}")

    def settled(self, found: Mapping[Coin, bytes | None]) -> "Owner":
        """An owner who begins with what was found."""
        ans = {coin: an for coin in self.coins if (an := found[coin]) is not None}
        assert len(ans) == len(self.coins)
        return Owner(self.name, self.coins, [ans])


def owners() -> list[Owner]:
    """One coin, several of one page or of many, hundreds; pages shared with others."""
    shared = [(0, serial) for serial in range(3000, 3000 + 2 * OWNERS)]
    return [
        Owner(
            number,
            [
                *shared[2 * number : 2 * number + 1 + number % 2],
                *((den, 1024 * (7 + number)) for den in range(-8, -8 + 4 * (number % 3))),
                *(((2, serial) for serial in range(_MANY)) if number == OWNERS - 1 else ()),
            ],
        )
        for number in range(OWNERS)
    ]


def drive(
    endpoint: Endpoint, clients: Sequence[Owner], note: Note, *, changes: int, seconds: float
) -> None:
    """Let all of them change their coins while a reader looks, so often and so long at least."""
    began = time.monotonic()
    over = threading.Event()

    def is_over() -> bool:
        many = sum(one.done for one in clients) >= changes and all(one.done for one in clients)
        if any(one.faults for one in clients) or (many and time.monotonic() >= began + seconds):
            over.set()
        return over.is_set()

    def watched(act: Callable[[], None]) -> None:
        try:
            while not is_over():
                act()
        except (OSError, AssertionError) as error:
            clients[0].faults.append(repr(error))
            over.set()

    def own(one: Owner) -> Callable[[], None]:
        return lambda: watched(lambda: one.change(endpoint, note))

    def read() -> None:
        for one in clients:
            one.look(endpoint, note)

    threads = [threading.Thread(target=own(one)) for one in clients]
    threads.append(threading.Thread(target=watched, args=(read,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(one.faults for one in clients), [one.faults for one in clients]


# -- after a cut ----------------------------------------------------------------------------------


class Known:
    """What clients knew when the power failed.

    waits: whether a change is acknowledged once it is on the disk. Otherwise what clients know is
    certain after `interval_s` and a second, and after the disk has done FLUSHES: a flush of the
    journal may have to wait for others that write much.
    """

    def __init__(
        self, clients: Sequence[Owner], events: Sequence[Event], *, waits: bool, interval_s: float
    ) -> None:
        self._clients = clients
        self._events = events
        self._waits = waits
        self._late_ns = round((interval_s + PATIENCE) * 1e9)
        self._flushes = [at for at, event in enumerate(events) if event.kind is Kind.FLUSH]

    def check(self, before: int, found: Mapping[Coin, bytes | None]) -> None:
        """Compare what a store has after a cut before event number `before`. Fails with what was
        lost or half done."""
        least, most = self._steps(before)
        for one in self._clients:
            name, first, last = one.name, least[one.name], most[one.name]
            if any(_has(one.steps[step], found) for step in range(first, last + 1)):
                continue
            at = [step for step, ans in enumerate(one.steps) if _has(ans, found)]
            told = f"owner {name}: step {first} is certain and step {last} was asked for; there is "
            raise AssertionError(told + (f"step {at[-1]}" if at else _mixture(one, found)))

    def _steps(self, before: int) -> tuple[dict[int, int], dict[int, int]]:
        """Of each owner the last step that must be there, and the last one that may be."""
        least = dict.fromkeys((one.name for one in self._clients), 0)
        most = dict(least)
        certain = self._certain(before)
        for at, event in enumerate(self._events[:before]):
            if event.kind is Kind.NOTE:
                name, what, step = event.note.split()
                if what == "asked":
                    most[int(name)] = int(step)
                elif at < certain:
                    least[int(name)] = max(least[int(name)], int(step))
        return least, most

    def _certain(self, before: int) -> int:
        """What is noted before this event is certain."""
        if self._waits:
            return before
        flushes = bisect.bisect_left(self._flushes, before) - FLUSHES
        late_ns = self._events[before - 1].time_ns - self._late_ns
        late = bisect.bisect(self._events, late_ns, 0, before, key=lambda event: event.time_ns)
        return min(late, self._flushes[flushes]) if flushes >= 0 else 0


def _has(ans: Mapping[Coin, bytes], found: Mapping[Coin, bytes | None]) -> bool:
    return all(found[coin] == an for coin, an in ans.items())


def _mixture(one: Owner, found: Mapping[Coin, bytes | None]) -> str:
    """How many coins are at which step."""
    where = [
        next((step for step, ans in enumerate(one.steps) if ans[coin] == found[coin]), None)
        for coin in one.coins
    ]
    return "a mixture, step -> coins: " + str({step: where.count(step) for step in set(where)})
