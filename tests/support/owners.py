"""Clients that change coins until their node is gone, others that look meanwhile, and what both may
say afterwards.

What must hold: a change that was acknowledged is there after every restart; of one that was not,
the coins of its request have all moved or none, and are seen so at every moment; what a read has
found is there after the restart, and no later read finds less.
"""

import random
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from raida_uring.protocol import Status
from tests.support.coin_requests import (
    DETECT,
    DETECT_SUM,
    FIND,
    POWN,
    POWN_SUM,
    an_of,
    coins_ans,
    default_an,
    page_of_coin,
    pown_payload,
    stored_ans,
    stored_roots,
    sum_payload,
    xor,
)
from tests.support.history import History, Read, Write
from tests.support.net import PATIENCE, Endpoint, family_of, read_exactly, tcp_connect
from tests.support.store import Coin
from tests.support.wire import request

OWNERS = 8
LOOKERS = 2
PAGES = 1000  # of each denomination
LOST_TIMEOUT_S = 1.0 * PATIENCE  # a datagram that died with the daemon is never answered
LOOK_S = 0.02  # between looks whether the node is gone
LOOKS = (DETECT, DETECT_SUM, FIND)
UNKNOWN = (Status.FILESYSTEM,)  # it may have been done, and then a restart finds it


@dataclass
class Owner:
    """A client that gives its coins new ANs, all in one request, step by step, and keeps count.

    name: in its faults. command: POWN or, for an odd number of coins, POWN_SUM.
    """

    name: int
    transport: str
    coins: list[Coin]
    command: tuple[int, int] = POWN
    acknowledged: int = 0  # steps that the node has said were done
    asked: int = 0  # steps that it was asked for
    faults: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)  # since the last settle()

    def ans(self, step: int) -> dict[Coin, bytes]:
        """What the coins have after `step` steps."""
        if step == 0:
            return {coin: default_an(coin) for coin in self.coins}
        if self.command == POWN_SUM:
            return {
                coin: xor((default_an(coin), an_of(self.name, step), an_of(self.name, 0)))
                for coin in self.coins
            }
        return {coin: an_of(self.name, step, coin) for coin in self.coins}

    def change(self, step: int) -> bytes:
        """The request from `step` to the next one."""
        old, new = self.ans(step), self.ans(step + 1)
        if self.command == POWN:
            payload = pown_payload((coin, old[coin], new[coin]) for coin in self.coins)
        else:
            one = self.coins[0]  # the difference is the same for each
            difference = xor((old[one], new[one]))
            payload = sum_payload(self.coins, xor(old.values()), difference)
        return request(self.command, payload)

    def pown(self, endpoint: Endpoint, gone: threading.Event) -> None:
        """Until the node is gone, or does not change coins any more."""
        try:
            while not self.faults and not gone.is_set():
                if self.step(endpoint, gone) != Status.ALL_PASS:
                    return
        except (OSError, AssertionError):
            return  # no answer, or half of one

    def step(self, endpoint: Endpoint, gone: threading.Event) -> int:
        """Ask for the next step; the status. Raises OSError or AssertionError without an answer."""
        step = self.acknowledged + 1
        asking = self.change(self.acknowledged)
        write = Write(step, time.monotonic_ns())
        self.history.writes.append(write)
        self.asked = step
        answered = exchange(endpoint, asking, self.transport, gone)
        if answered == Status.ALL_PASS:
            write.done_ns = time.monotonic_ns()
            self.acknowledged = step
        elif answered not in UNKNOWN:
            self.faults.append(f"owner {self.name} step {step}: {answered}")
        return answered

    def look(self, endpoint: Endpoint, command: tuple[int, int], gone: threading.Event) -> None:
        """Ask whether the coins have the newest ANs that they may have by now, or, with FIND, those
        before. Raises OSError or AssertionError when there is no answer."""
        step = self.asked
        ans = self.ans(step)
        before = self.ans(max(0, step - 1))
        payload, meanings = {
            DETECT: (coins_ans(ans), {Status.ALL_PASS: step, Status.ALL_FAIL: None}),
            DETECT_SUM: (
                sum_payload(ans, xor(ans.values())),
                {Status.ALL_PASS: step, Status.ALL_FAIL: None},
            ),
            FIND: (
                pown_payload((coin, ans[coin], before[coin]) for coin in ans),
                {
                    Status.FIND_ALL_AN: step,
                    Status.FIND_ALL_PAN: step - 1,
                    Status.FIND_NEITHER: None,
                },
            ),
        }[command]
        begun_ns = time.monotonic_ns()
        answered = exchange(endpoint, request(command, payload), "udp", gone)
        done_ns = time.monotonic_ns()
        if answered in meanings:
            steps = (step - 1, step) if command == FIND else (step,)
            self.history.reads.append(Read(steps, begun_ns, done_ns, meanings[Status(answered)]))
        elif answered not in UNKNOWN:
            self.faults.append(f"owner {self.name} looks at step {step}: {answered}")

    def settle(self, found: dict[Coin, bytes | None]) -> None:
        """Find out which step the coins are at: the last acknowledged, or the one in flight. Raises
        AssertionError: neither, or it does not fit what was answered."""
        for step in {self.acknowledged, self.asked}:
            if all(found[coin] == an for coin, an in self.ans(step).items()):
                faults = [*self.faults, *self.history.faults(step)]
                assert not faults, f"owner {self.name}: {faults[:5]}"
                self.acknowledged = self.asked = step
                self.history = History(step)
                return
        raise AssertionError(
            f"owner {self.name}: neither step {self.acknowledged} nor {self.asked}"
        )


def exchange(endpoint: Endpoint, data: bytes, transport: str, gone: threading.Event) -> int:
    """The status of the reply. Raises OSError or AssertionError when there is none."""
    if transport == "tcp":
        with tcp_connect(endpoint) as client:
            client.sendall(data)
            return read_exactly(client, 32)[2]
    with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as client:
        client.settimeout(LOOK_S)
        client.connect(endpoint)
        client.send(data)
        end_s = time.monotonic() + LOST_TIMEOUT_S
        while True:
            over = gone.is_set() or time.monotonic() > end_s  # an answer may have come before
            try:
                return client.recv(2048)[2]
            except TimeoutError:
                if over:
                    raise


def watch(endpoint: Endpoint, clients: Sequence[Owner], gone: threading.Event) -> None:
    """Look at all coins again and again, in all ways, until the node is gone."""
    draw = random.Random(threading.get_native_id())
    with suppress(OSError, AssertionError):
        while not gone.is_set():
            draw.choice(clients).look(endpoint, draw.choice(LOOKS), gone)


def owners() -> list[Owner]:
    """Of one coin, of several on one page or on many, and of 25 on pages of their own, by pown and
    by pown_sum; pages shared with others."""
    shared = [(0, serial) for serial in range(3000, 3000 + 2 * OWNERS)]
    made = []
    for number in range(OWNERS):
        far = number >= OWNERS - 2
        own = range(1, 24 if far else 4 * (number % 3))
        coins = [
            shared[2 * number],
            *([shared[2 * number + 1]] if own else []),
            *((page % 15 - 8, 1024 * ((7 + 31 * page) % PAGES) + number) for page in own),
        ]
        transport, command = ("udp", "tcp")[number // 2 % 2], (POWN_SUM, POWN)[number % 2]
        made.append(Owner(number, transport, coins, command))
    return made


def load(
    endpoint: Endpoint, clients: Sequence[Owner], gone: threading.Event
) -> list[threading.Thread]:
    """Have all of them pown while others look, in threads that end once the node is gone."""
    threads = [threading.Thread(target=one.pown, args=(endpoint, gone)) for one in clients]
    threads += [
        threading.Thread(target=watch, args=(endpoint, clients, gone)) for _ in range(LOOKERS)
    ]
    for thread in threads:
        thread.start()
    return threads


def check_store(store: Path, clients: Sequence[Owner]) -> bytes:
    """Compare the store on disk, which no node serves, with the owners' counts; returns its
    roots."""
    found = stored_ans(store, (coin for one in clients for coin in one.coins))
    for one in clients:
        one.settle(found)
    return stored_roots(store, pages_of(found))


def pages_of(coins: Iterable[Coin]) -> list[int]:
    """The store's numbers of the pages that they are on."""
    return [page_of_coin(coin) for coin in coins]
