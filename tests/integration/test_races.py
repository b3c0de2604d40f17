"""Clients that race for a coin, and roots that are read while coins change.

What must hold: of two clients that change a coin's AN exactly one succeeds, and the coin has its
AN; votes, get_all_roots and get_merkle_branch only ever show states that the store was in, never go
back, and soon show an acknowledged change.
"""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.protocol import Status, build_vote
from tests.support.coin_requests import (
    EMPTY_LEAF,
    GET_MERKLE_BRANCH,
    POWN,
    POWN_SUM,
    all_roots,
    an_of,
    ask,
    branch_payload,
    default_an,
    detects,
    leaf_of,
    page_of_coin,
    pown_payload,
    root_of,
    sum_payload,
    xor,
)
from tests.support.net import read_to_close, tcp_connect, udp_client, udp_exchange
from tests.support.node import Node, running_node
from tests.support.store import Coin, make_store, tables_over
from tests.support.wire import request

WINDOW = 50  # coins raced for at once: a batch then holds several races
UDP_ROUNDS, TCP_ROUNDS = 30, 6
CHANGES = 150
LAG_S_MAX = 2.0  # far above the promise: the machine may be busy


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    store = make_store(tmp_path / "store")
    with running_node(**tables_over(store)) as started:
        yield started


def bids(coin: Coin, old: bytes, number: int) -> list[tuple[bytes, bytes]]:
    """Two requests that cannot both succeed, and the AN that each would give. Every third is a
    pown_sum, which says by how much to change the AN."""
    made = []
    for client in range(2):
        new = an_of("bid", client, number, coin)
        if (number + client) % 3 == 0:
            payload, command = sum_payload([coin], old, xor((old, new))), POWN_SUM
        else:
            payload, command = pown_payload([(coin, old, new)]), POWN
        made.append((request(command, payload, echo=coin[1]), new))
    return made


def settle(owned: dict[Coin, bytes], coin: Coin, statuses: list[int], news: list[bytes]) -> None:
    assert sorted(statuses) == [Status.ALL_PASS, Status.ALL_FAIL], (coin, statuses)
    owned[coin] = news[statuses.index(Status.ALL_PASS)]


def test_one_of_two_wins_over_udp(node: Node) -> None:
    owned = {coin: default_an(coin) for coin in ((0, serial) for serial in range(WINDOW))}
    with udp_client(node.endpoint) as one, udp_client(node.endpoint) as other:
        clients = (one, other)
        for number in range(UDP_ROUNDS):
            news = {}
            for coin, old in owned.items():
                made = bids(coin, old, number)
                news[coin] = [new for _, new in made]
                # Neither client is always the first.
                for client in (0, 1) if (number + coin[1]) % 2 else (1, 0):
                    clients[client].sendto(made[client][0], node.endpoint)
            told: list[dict[int, int]] = []
            for bidder in clients:
                replies = [bidder.recv(2048) for _ in owned]
                told.append({int.from_bytes(reply[6:8]): reply[2] for reply in replies})
            for coin in list(owned):
                settle(owned, coin, [found[coin[1]] for found in told], news[coin])
            assert detects(node.endpoint, owned)


def test_one_of_two_wins_over_tcp(node: Node) -> None:
    owned = {coin: default_an(coin) for coin in ((0, serial) for serial in range(WINDOW))}

    def run(client: int, mine: list[tuple[socket.socket, bytes]], found: list[int]) -> None:
        start.wait()
        for connection, data in mine if client else reversed(mine):
            connection.sendall(data)
        found += [read_to_close(connection)[2] for connection, _ in mine]

    for number in range(TCP_ROUNDS):
        start = threading.Barrier(2)
        made = {coin: bids(coin, old, number) for coin, old in owned.items()}
        told: tuple[list[int], list[int]] = ([], [])
        sockets = [
            [(tcp_connect(node.endpoint), pair[i][0]) for pair in made.values()] for i in (0, 1)
        ]
        threads = [threading.Thread(target=run, args=(i, sockets[i], told[i])) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for connection, _ in (*sockets[0], *sockets[1]):
            connection.close()
        for index, coin in enumerate(list(owned)):
            statuses = [told[0][index], told[1][index]]
            settle(owned, coin, statuses, [new for _, new in made[coin]])
        assert detects(node.endpoint, owned)


def test_two_who_list_the_same_coins_in_another_order(node: Node) -> None:
    """Each coin goes to one of them; since requests are carried out whole, all to the same."""
    coins: list[Coin] = [(den, 5 + 1024 * page) for den in (0, 1) for page in range(5)]
    owned = {coin: default_an(coin) for coin in coins}
    with udp_client(node.endpoint) as one, udp_client(node.endpoint) as other:
        for number in range(40):
            news = [{coin: an_of(number, client, coin) for coin in coins} for client in (0, 1)]
            for client, new, order in ((one, news[0], coins), (other, news[1], coins[::-1])):
                payload = pown_payload((coin, owned[coin], new[coin]) for coin in order)
                client.sendto(request(POWN, payload), node.endpoint)
            statuses = [client.recv(2048)[2] for client in (one, other)]
            assert sorted(statuses) == [Status.ALL_PASS, Status.ALL_FAIL]
            owned = news[statuses.index(Status.ALL_PASS)]
            assert detects(node.endpoint, owned)


# -- roots ----------------------------------------------------------------------------------------


class States:
    """The roots after each of a sequence of changes, one coin each, and which of them were seen."""

    def __init__(self) -> None:
        self.coins: list[Coin] = [(n % 3 - 1, n % 7 * 1024 + n % 5) for n in range(CHANGES)]
        self.changes: list[tuple[Coin, bytes, bytes]] = []
        pages: dict[int, bytearray] = {}
        ans: dict[Coin, bytes] = {}
        leaves = {den: [EMPTY_LEAF] * 1000 for den in (-1, 0, 1)}
        roots = [root_of([EMPTY_LEAF] * 1000)] * 15
        self.roots = [b"".join(roots)]
        for number, coin in enumerate(self.coins):
            old, new = ans.get(coin, default_an(coin)), an_of(number)
            self.changes.append((coin, old, new))
            ans[coin] = new
            page = pages.setdefault(page_of_coin(coin), bytearray(17408))
            at = coin[1] % 1024 * 17
            page[at : at + 17] = new + b"\1"  # the hash does not cover the month
            leaves[coin[0]][coin[1] // 1024] = leaf_of(bytes(page))
            roots[coin[0] + 8] = root_of(leaves[coin[0]])
            self.roots.append(b"".join(roots))
        self.index = {roots: number for number, roots in enumerate(self.roots)}
        self.least = 0

    def see(self, roots: bytes) -> int:
        """Which state these are the roots of: one that was, and none before one already seen."""
        assert roots in self.index, "roots of a state that never was"
        number = self.index[roots]
        assert number >= self.least, f"state {number} after {self.least}"
        self.least = number
        return number


def test_roots_are_those_of_a_moment(node: Node) -> None:
    states = States()
    acknowledged: list[float] = [time.monotonic()]
    lags: list[float] = []

    def change() -> None:
        for one in states.changes:
            assert ask(node.endpoint, POWN, pown_payload([one]), "udp")[0] == Status.ALL_PASS
            acknowledged.append(time.monotonic())

    changer = threading.Thread(target=change)
    changer.start()
    agreed = 0
    with udp_client(node.endpoint) as voter:
        while states.least < CHANGES:
            done = len(acknowledged) - 1
            before = time.monotonic()
            number = states.see(all_roots(node.endpoint))
            if number < done:
                lags.append(before - acknowledged[number + 1])
                assert lags[-1] < LAG_S_MAX
            # A vote agrees with the roots of now: with these, or later ones are to be seen.
            vote = build_vote(number.to_bytes(16), states.roots[number])
            if udp_exchange(voter, node.endpoint, vote)[0]:
                agreed += 1
            else:
                assert states.see(all_roots(node.endpoint)) > number
            for den in (-1, 0, 1):
                payload = branch_payload(den, 10, 0)
                root = ask(node.endpoint, GET_MERKLE_BRANCH, payload, "udp")[1]
                at = (den + 8) * 32
                possible = [
                    later
                    for later in range(states.least, CHANGES + 1)
                    if states.roots[later][at : at + 32] == root
                ]
                assert possible, "a root that was never shown, or no more"
                states.least = possible[0]
    changer.join()
    assert len(acknowledged) == CHANGES + 1
    assert agreed > 0
    print(f"seen late {len(lags)} times, by {max(lags, default=0) * 1000:.0f} ms at most")
    assert all_roots(node.endpoint) == states.roots[-1]
    for den, serial in {(coin[0], coin[1]) for coin in states.coins}:
        leaf = branch_payload(den, 0, serial // 1024)
        assert ask(node.endpoint, GET_MERKLE_BRANCH, leaf)[0] == Status.SUCCESS
