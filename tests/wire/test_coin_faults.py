"""Faults of the reference server that touch coins, and that this node has none of them.

The names B1 to B22 are those of the wire specification, section 10.1. What must hold besides: the
node lives on, and every answer has the status named here.
"""

import dataclasses
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.ffi import native_store
from raida_uring.protocol import Status, build_vote
from raida_uring.store import Store
from tests.support import coin_requests as support
from tests.support.coin_requests import (
    AUDIT,
    DETECT,
    DETECT_SUM,
    FIND,
    FIX,
    GET_MERKLE_BRANCH,
    GET_PAGE_DATA,
    GET_TICKET,
    POWN,
    POWN_SUM,
    VALIDATE_TICKET,
    all_roots,
    an_of,
    ask,
    branch_payload,
    coins_ans,
    default_an,
    detects,
    pown_payload,
    sum_payload,
    xor,
)
from tests.support.net import Endpoint, reset, tcp_connect, udp_client, udp_exchange
from tests.support.node import Node, Table, daemon, eventually, running_node
from tests.support.store import MAP_BYTES, Coin, coin_bytes, make_store, tables_over
from tests.support.wire import request

COINS = [(0, 5), (0, 6), (3, 2047), (-8, 1_023_999), (6, 0)]
ANS = {coin: an_of("own", coin) for coin in COINS}


def tables(store: Path, **others: Table) -> dict[str, Table]:
    """A node with trees over this store."""
    return {**tables_over(store, pages_for="all"), **others}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which COINS circulate."""
    return make_store(tmp_path / "store", {coin: (an, 7) for coin, an in ANS.items()})


@pytest.fixture
def node(store: Path) -> Iterator[Node]:
    """A node with it."""
    with running_node(**tables(store)) as started:
        yield started


# -- B1: a coin listed twice vanishes from an XOR sum ---------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_b1_a_repeated_coin_is_refused(node: Node, transport: str) -> None:
    twice = [COINS[0], COINS[0]]
    nothing = bytes(16)
    for payload, command in (
        (sum_payload(twice, nothing), DETECT_SUM),
        (sum_payload(twice, nothing, an_of("theft")), POWN_SUM),
        (sum_payload([*twice, COINS[1]], ANS[COINS[1]], an_of("theft")), POWN_SUM),
    ):
        answered, body = ask(node.endpoint, command, payload, transport)
        assert (answered, body) == (Status.INVALID_SN_OR_DENOMINATION, b"")
    assert detects(node.endpoint, ANS)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_b41_a_sum_over_equal_ans_proves_nothing(tmp_path: Path, transport: str) -> None:
    """A locker has coins with one AN, two of which XOR to zero. A coin that cannot be read or is
    listed twice is reported first; each coin alone can be changed by its owner."""
    locker, others = an_of("locker"), {(2, 7): an_of("one"), (2, 8): an_of("two")}
    coins: list[Coin] = [(1, 5), (1, 6), (-8, 1_023_999)]
    store = make_store(
        tmp_path / "store",
        {**dict.fromkeys(coins, (locker, 7)), **{coin: (an, 7) for coin, an in others.items()}},
    )
    theft = an_of("theft")
    with running_node(**tables(store)) as node:

        def asked(listed: list[Coin], total: bytes) -> list[int]:
            return [
                ask(node.endpoint, DETECT_SUM, sum_payload(listed, total), transport)[0],
                ask(node.endpoint, POWN_SUM, sum_payload(listed, total, theft), transport)[0],
            ]

        two, three = coins[:2], coins
        for listed in (two, two[::-1], [coins[2], *others, coins[0]], three, [*three, *others]):
            ans = {**dict.fromkeys(coins, locker), **others}
            right = xor(ans[coin] for coin in listed)
            for total in (right, bytes(16), an_of("wrong")):
                assert asked(listed, total) == [Status.ALL_FAIL] * 2
        for listed in ([*two, (7, 0)], [*two, coins[0]], [*two, (1, 1_024_000)]):
            assert asked(listed, bytes(16)) == [Status.INVALID_SN_OR_DENOMINATION] * 2
        assert detects(node.endpoint, {**dict.fromkeys(coins, locker), **others})
        assert asked([coins[0], *others], xor([locker, *others.values()])) == [Status.ALL_PASS] * 2
        assert detects(node.endpoint, {coins[0]: xor([locker, theft]), coins[1]: locker})


def test_a_sum_changes_every_coin_or_none(node: Node) -> None:
    difference = an_of("difference")
    wrong = sum_payload(COINS, xor([*ANS.values(), b"\0" * 15 + b"\1"]), difference)
    assert ask(node.endpoint, POWN_SUM, wrong)[0] == Status.ALL_FAIL
    unreadable = sum_payload([*COINS, (7, 0)], xor(ANS.values()), difference)
    assert ask(node.endpoint, POWN_SUM, unreadable)[0] == Status.INVALID_SN_OR_DENOMINATION
    assert detects(node.endpoint, ANS)
    right = sum_payload(COINS, xor(ANS.values()), difference)
    assert ask(node.endpoint, POWN_SUM, right)[0] == Status.ALL_PASS
    assert detects(node.endpoint, {coin: xor((an, difference)) for coin, an in ANS.items()})


def test_a_difference_cancels_out_of_an_even_sum(node: Node) -> None:
    """Documented in docs/wire.md, at pown_sum: a former owner knows such sums, but no AN and no sum
    of an odd number, and nothing after a pown."""
    taken, left = COINS[:2], COINS[2:]
    old_sum = xor(ANS[coin] for coin in taken)
    secret = an_of("secret of the new owner")
    whole = sum_payload(COINS, xor(ANS.values()), secret)
    assert ask(node.endpoint, POWN_SUM, whole)[0] == Status.ALL_PASS
    assert ask(node.endpoint, DETECT_SUM, sum_payload(taken, old_sum))[0] == Status.ALL_PASS
    old_odd = sum_payload(left, xor(ANS[coin] for coin in left))
    assert ask(node.endpoint, DETECT_SUM, old_odd)[0] == Status.ALL_FAIL
    owned = pown_payload((coin, xor((ANS[coin], secret)), an_of("new", coin)) for coin in taken)
    assert ask(node.endpoint, POWN, owned)[0] == Status.ALL_PASS
    assert ask(node.endpoint, DETECT_SUM, sum_payload(taken, old_sum))[0] == Status.ALL_FAIL


# -- B5: what is not in the tree ------------------------------------------------------------------

BEYOND = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1 << 16)


def test_b5_branches_out_of_range(node: Node) -> None:
    wrong = [branch_payload(0, level, 0) for level in (11, 12, *BEYOND)]
    wrong += [branch_payload(0, 0, index) for index in (1000, 1001, *BEYOND)]
    wrong += [branch_payload(0, 10, 1), branch_payload(0, 4, 63), branch_payload(0, 3, 125)]
    wrong += [branch_payload(den, 0, 0) for den in (7, 127, -128, -9, 15)]
    wrong += [branch_payload(den, level, level) for den in (0, -9) for level in BEYOND]
    for payload in wrong:
        for transport in ("udp", "tcp"):
            answered = ask(node.endpoint, GET_MERKLE_BRANCH, payload, transport)
            assert answered == (Status.FILE_NOT_EXIST, b""), payload.hex()
    sizes = (1000, 500, 250, 125, 63, 32, 16, 8, 4, 2, 1)
    for level, count in enumerate(sizes):
        last = branch_payload(6, level, count - 1)
        found, hashed = ask(node.endpoint, GET_MERKLE_BRANCH, last)
        assert (found, len(hashed)) == (Status.SUCCESS, 32)
    assert hashed == all_roots(node.endpoint)[-32:]


def test_b5_pages_out_of_range(node: Node) -> None:
    for denomination in (7, 127, -128, -9):
        payload = (denomination & 0xFF).to_bytes(1) + bytes(4)
        assert ask(node.endpoint, GET_PAGE_DATA, payload)[0] == Status.FILE_NOT_EXIST
    for page in (1000, 1024, *BEYOND):
        payload = b"\0" + page.to_bytes(4)
        assert ask(node.endpoint, GET_PAGE_DATA, payload)[0] == Status.FILE_NOT_EXIST
    assert len(ask(node.endpoint, GET_PAGE_DATA, b"\6" + (999).to_bytes(4))[1]) == 17408


# -- B7: tickets ----------------------------------------------------------------------------------


def take_ticket(endpoint: Endpoint) -> tuple[int, bytes]:
    return ask(endpoint, GET_TICKET, coins_ans({COINS[0]: ANS[COINS[0]]}), "udp")


def redeem(endpoint: Endpoint, ticket: bytes, raida: int = 3) -> tuple[int, bytes]:
    return ask(endpoint, VALIDATE_TICKET, raida.to_bytes(1) + ticket, "udp")


def take_from(endpoint: Endpoint, coin: Coin) -> tuple[int, bytes]:
    """A ticket for another coin than take_ticket()'s."""
    return ask(endpoint, GET_TICKET, coins_ans({coin: default_an(coin)}), "udp")


def different(count: int) -> list[Coin]:
    """Coins that the recorded store has left alone."""
    return [(5, 7000 + number) for number in range(count)]


def issued(node: Node, coin: Coin, ago_s: int) -> bytes:
    """A ticket issued so many seconds ago by the clock as it is set now."""
    opened = node.server._store
    assert opened is not None
    number = opened.native.tickets_issue(coin_bytes(coin), int(time.time()) - ago_s)
    assert number is not None
    return number.to_bytes(4)


def test_b7_there_is_no_room_for_more_tickets(node: Node) -> None:
    first = [take_from(node.endpoint, coin) for coin in different(native_store.TICKETS_MAX)]
    assert {answered for answered, _ in first} == {Status.ALL_PASS}
    assert len({ticket for _, ticket in first} - {bytes(4)}) == native_store.TICKETS_MAX
    for _ in range(3):
        assert take_ticket(node.endpoint) == (Status.NO_TICKET_SLOT, b"")
    assert redeem(node.endpoint, first[0][1]) == (Status.SUCCESS, coin_bytes(different(1)[0]))


def test_b7_tickets_expire(node: Node) -> None:
    coins = different(native_store.TICKETS_MAX)
    expired = [issued(node, coin, native_store.TICKET_LIFETIME_S) for coin in coins[1:]]
    alive = issued(node, coins[0], 1)
    assert redeem(node.endpoint, expired[0])[0] == Status.NO_TICKET_FOUND
    assert redeem(node.endpoint, alive) == (Status.SUCCESS, coin_bytes(coins[0]))
    answered, ticket = take_ticket(node.endpoint)
    assert answered == Status.ALL_PASS
    assert redeem(node.endpoint, ticket) == (Status.SUCCESS, coin_bytes(COINS[0]))


def test_b7_one_coin_does_not_take_all_tickets(node: Node) -> None:
    """The tickets of others stay valid, and so do some of its own."""
    others = [take_from(node.endpoint, coin)[1] for coin in different(10)]
    greedy = [take_ticket(node.endpoint)[1] for _ in range(native_store.TICKETS_MAX)]
    assert len(set(greedy)) == native_store.TICKETS_MAX
    for coin in different(native_store.TICKETS_MAX // 2)[10:]:
        assert take_from(node.endpoint, coin)[0] == Status.ALL_PASS
    for coin, ticket in zip(different(10), others, strict=True):
        assert redeem(node.endpoint, ticket) == (Status.SUCCESS, coin_bytes(coin))
    # The last ten found room that those before them had to make.
    left = [redeem(node.endpoint, ticket)[0] for ticket in greedy].count(Status.SUCCESS)
    assert left == native_store.TICKETS_OF_COIN_MAX + 10


@pytest.mark.parametrize(("ahead_s", "lives"), [(10, True), (365 * 86400, False)])
def test_b7_a_clock_that_was_ahead_leaves_no_tickets(
    node: Node, ahead_s: int, *, lives: bool
) -> None:
    """A small step back leaves them alive."""
    ahead = [issued(node, coin, -ahead_s) for coin in different(native_store.TICKETS_MAX)]
    assert (take_ticket(node.endpoint)[0] == Status.NO_TICKET_SLOT) == lives
    found = Status.SUCCESS if lives else Status.NO_TICKET_FOUND
    assert redeem(node.endpoint, ahead[1])[0] == found


def test_b7_one_claim_for_each_raida(node: Node) -> None:
    asked = {COINS[0]: ANS[COINS[0]], COINS[1]: bytes(16), COINS[2]: ANS[COINS[2]]}
    answered, payload = ask(node.endpoint, GET_TICKET, coins_ans(asked))
    assert (answered, payload[:-4]) == (Status.MIXED, b"\x05")
    named = coin_bytes(COINS[0]) + coin_bytes(COINS[2])
    for raida in range(25):
        assert redeem(node.endpoint, payload[-4:], raida) == (Status.SUCCESS, named)
        assert redeem(node.endpoint, payload[-4:], raida)[0] == Status.TICKET_CLAIMED_ALREADY
    for raida in (25, 26, 255):
        assert redeem(node.endpoint, payload[-4:], raida)[0] == Status.WRONG_RAIDA
    assert redeem(node.endpoint, bytes(4))[0] == Status.NO_TICKET_FOUND


def test_a_ticket_too_long_for_udp_is_kept_for_tcp(store: Path) -> None:
    """89 says to ask over TCP: the first question must not have used the ticket up."""
    coin = coin_bytes(COINS[0])
    with running_node(**tables(store, limits={"udp_reply_factor_max": 16})) as node:
        _, ticket = ask(node.endpoint, GET_TICKET, (coin + ANS[COINS[0]]) * 200)
        asked = node.endpoint, VALIDATE_TICKET, b"\7" + ticket
        assert ask(*asked, "udp")[0] == Status.NOT_IMPLEMENTED
        assert ask(*asked) == (Status.SUCCESS, coin * 200)
        assert ask(*asked)[0] == Status.TICKET_CLAIMED_ALREADY


@pytest.mark.parametrize(("before", "now"), [(0, 16), (16, 0)])
def test_a_reload_changes_which_ticket_is_too_long_for_udp(
    store: Path, before: int, now: int
) -> None:
    coin = coin_bytes(COINS[0])
    with running_node(**tables(store, limits={"udp_reply_factor_max": before})) as node:
        _, ticket = ask(node.endpoint, GET_TICKET, (coin + ANS[COINS[0]]) * 200)
        limits = dataclasses.replace(node.server.config.limits, udp_reply_factor_max=now)
        node.server.reload(dataclasses.replace(node.server.config, limits=limits))
        asked = node.endpoint, VALIDATE_TICKET, b"\7" + ticket
        if now == 16:
            assert ask(*asked, "udp")[0] == Status.NOT_IMPLEMENTED
            assert ask(*asked) == (Status.SUCCESS, coin * 200)
        else:
            assert ask(*asked, "udp") == (Status.SUCCESS, coin * 200)


def test_b7_a_restart_ends_tickets(tmp_path: Path, store: Path) -> None:
    settings = tables(store)
    with daemon(tmp_path, server=settings["server"], store=settings["store"]) as started:
        answered, ticket = take_ticket(started.endpoint)
        assert answered == Status.ALL_PASS
        assert redeem(started.endpoint, ticket, 1)[0] == Status.SUCCESS
    with daemon(tmp_path, server=settings["server"], store=settings["store"]) as started:
        assert redeem(started.endpoint, ticket, 2)[0] == Status.NO_TICKET_FOUND
        assert take_ticket(started.endpoint)[0] == Status.ALL_PASS


def test_a_ticket_that_is_refused_takes_no_slot(node: Node) -> None:
    for _ in range(native_store.TICKETS_MAX + 8):
        wrong = coins_ans({COINS[0]: bytes(16)})
        assert ask(node.endpoint, GET_TICKET, wrong, "udp")[0] == Status.ALL_FAIL
    assert take_ticket(node.endpoint)[0] == Status.ALL_PASS


# -- B8: serial numbers that no page holds --------------------------------------------------------


@pytest.mark.parametrize(
    "serial", [1_024_000, 5 + (1 << 26), 5 + (1 << 31), 0xFFFFFFFF, 5 + (1 << 20)]
)
def test_b8_there_is_no_such_coin(node: Node, serial: int) -> None:
    coin, an = (0, serial), ANS[0, 5]
    endpoint = node.endpoint
    alone = {coin: an}
    assert ask(endpoint, DETECT, coins_ans(alone))[0] == Status.ALL_FAIL
    assert ask(endpoint, DETECT, coins_ans({**alone, (0, 5): an})) == (Status.MIXED, b"\2")
    pown = pown_payload([(coin, an, an_of("theft"))])
    assert ask(endpoint, POWN, pown)[0] == Status.ALL_FAIL
    refused = Status.INVALID_SN_OR_DENOMINATION
    assert ask(endpoint, DETECT_SUM, sum_payload([coin], an))[0] == refused
    assert ask(endpoint, POWN_SUM, sum_payload([coin], an, an_of("theft")))[0] == refused
    assert ask(endpoint, POWN_SUM, sum_payload([coin, (0, 5)], bytes(16), an))[0] == refused
    assert ask(endpoint, GET_TICKET, coins_ans(alone))[0] == refused
    assert ask(endpoint, FIND, pown)[0] == refused
    assert ask(endpoint, FIX, sum_payload([coin], bytes(16 + 100)))[0] == refused
    assert detects(endpoint, ANS)


# -- B10: audit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_b10_audit_counts_every_denomination(node: Node, transport: str) -> None:
    def counts() -> dict[int, int]:
        answered, body = ask(node.endpoint, AUDIT, b"", transport)
        assert (answered, len(body)) == (Status.SUCCESS, 75)  # reply_payload() checked 77
        dens = [int.from_bytes(body[at : at + 1], signed=True) for at in range(0, 75, 5)]
        assert dens == list(range(-8, 7))
        return {den: int.from_bytes(body[i * 5 + 1 : i * 5 + 5]) for i, den in enumerate(dens)}

    expected = {den: sum(coin[0] == den for coin in COINS) for den in range(-8, 7)}
    for _ in range(20):
        assert counts() == expected
    fresh: list[Coin] = [(0, 7), (1, 3000), (1, 3001), (-3, 0)]
    moved = pown_payload((coin, default_an(coin), an_of(coin)) for coin in [*fresh, (0, 7)])
    assert ask(node.endpoint, POWN, moved) == (Status.MIXED, b"\x0f")
    for coin in fresh:
        expected[coin[0]] += 1
    eventually(lambda: counts() == expected)
    # A coin that circulates already counts once, however often it changes hands.
    again = pown_payload([((0, 7), an_of((0, 7)), an_of("again"))])
    assert ask(node.endpoint, POWN, again)[0] == Status.ALL_PASS
    changed = all_roots(node.endpoint)
    eventually(lambda: all_roots(node.endpoint) != changed or counts() == expected)
    assert counts() == expected


# -- B15: a client that has gone ------------------------------------------------------------------


def test_b15_a_reset_before_the_reply_leaves_all_or_nothing(node: Node) -> None:
    draw = random.Random(15)
    ans = dict(ANS)
    done = 0
    for attempt in range(150):
        new = {coin: an_of(attempt, coin) for coin in COINS}
        payload = pown_payload((coin, ans[coin], new[coin]) for coin in COINS)
        data = request(POWN, payload)
        client = tcp_connect(node.endpoint)
        # Whole, or less than whole: the latter must never be carried out.
        whole = draw.random() < 0.7
        client.sendall(data if whole else data[: draw.randrange(40, len(data))])
        reset(client)
        node.wait_for_counts(tcp_in_flight=0, connections_open=0)
        states = [ask(node.endpoint, DETECT, coins_ans(which))[0] for which in (ans, new)]
        if states == [Status.ALL_FAIL, Status.ALL_PASS]:
            assert whole
            ans, done = new, done + 1
        else:
            assert states == [Status.ALL_PASS, Status.ALL_FAIL]
    assert done > 0


# -- B19: two requests for a page that nobody has read yet ----------------------------------------


def test_b19_no_update_of_a_page_is_lost(node: Node) -> None:
    pages = range(40, 60)
    coins = [(2, page * 1024 + record) for record in range(25) for page in pages]
    with udp_client(node.endpoint) as client:
        for coin in coins:
            payload = pown_payload([(coin, default_an(coin), an_of("new", coin))])
            client.sendto(request(POWN, payload), node.endpoint)
        replies = [client.recv(2048)[2] for _ in coins]
    assert set(replies) == {Status.ALL_PASS}
    assert detects(node.endpoint, {coin: an_of("new", coin) for coin in coins})


# -- B21, B22: one truth, and votes that do not wait for it ---------------------------------------


def test_b21_a_page_is_served_as_it_is_now(node: Node) -> None:
    coin = (0, 5)
    an = ANS[coin]
    for attempt in range(30):
        new = an_of(attempt)
        assert ask(node.endpoint, POWN, pown_payload([(coin, an, new)]))[0] == Status.ALL_PASS
        an = new
        page = ask(node.endpoint, GET_PAGE_DATA, bytes(5))[1]
        assert page[5 * 17 : 5 * 17 + 16] == an


def test_b22_votes_are_answered_while_coins_and_trees_change(node: Node) -> None:
    """A backlog of commits, each of many pages, does not delay a vote."""
    coins = [(den, page * 1024) for den in range(-8, 7) for page in range(100, 160)]
    requests = [
        request(POWN, pown_payload([(coin, default_an(coin), an_of("b22", coin))]))
        for coin in coins
    ]
    with udp_client(node.endpoint) as client, udp_client(node.endpoint) as voter:
        overtook = 0
        for data in requests:
            client.sendto(data, node.endpoint)
        left = len(requests)
        client.settimeout(0)
        while left:
            nonce = left.to_bytes(16)
            assert udp_exchange(voter, node.endpoint, build_vote(nonce))[1:] == nonce
            try:
                while left:
                    assert client.recv(2048)[2] == Status.ALL_PASS
                    left -= 1
            except BlockingIOError:
                overtook += 1  # the vote is answered, some that were sent before it are not
        assert overtook >= 1


# -- deviations without a number ------------------------------------------------------------------


def test_one_pown_may_change_a_coin_twice(node: Node) -> None:
    coin, one, two = (0, 900), an_of(1), an_of(2)
    chain = [(coin, default_an(coin), one), (coin, one, two), (coin, one, bytes(16))]
    assert ask(node.endpoint, POWN, pown_payload(chain)) == (Status.MIXED, b"\x03")
    assert detects(node.endpoint, {coin: two})


def test_wrong_ans_write_no_page(store: Path) -> None:
    """A page costs a thousand hashes: a stranger must not have them made."""
    coins = [(1, page * 1024) for page in range(600)] + [(0, 5)]
    with running_node(**tables(store)) as node:
        changes = [(coin, an_of("wrong"), bytes(16)) for coin in coins]
        assert ask(node.endpoint, POWN, pown_payload(changes))[0] == Status.ALL_FAIL
        # A right coin among them does not open the door for the others.
        changes += [((0, 6), ANS[0, 6], an_of("new")), ((2, 0), default_an((2, 0)), an_of("new"))]
        answered, bits = ask(node.endpoint, POWN, pown_payload(changes))
        assert answered == Status.MIXED
        assert int.from_bytes(bits, "little") == 3 << len(coins)
    opened = Store(store, map_bytes=MAP_BYTES)
    assert opened.sizes().written_pages == len({support.page_of_coin(coin) for coin in COINS}) + 1
    opened.close()


@pytest.mark.parametrize(
    ("readers", "servers", "expected"),
    [
        (None, ["127.0.0.1:50001"], Status.NOT_IMPLEMENTED),
        ("all", None, Status.SUCCESS),
        ("peers", ["192.0.2.1:50000", "127.0.0.1:50001"], Status.SUCCESS),
        ("peers", ["192.0.2.1:50000"], Status.NOT_IMPLEMENTED),
        ("none", ["127.0.0.1:50001"], Status.NOT_IMPLEMENTED),
    ],
)
def test_pages_are_for_whom_the_operator_says(
    store: Path, readers: str | None, servers: list[str] | None, expected: Status
) -> None:
    """A page shows every AN on it."""
    server: dict[str, object] = {"synchronization_enabled": True}
    if servers is not None:
        server["raida_servers"] = servers + ["192.0.2.9:1"] * (25 - len(servers))
    served = tables(store, server=server)
    served["store"] = {**served["store"], "pages_for": readers}  # None: the default
    with running_node(**served) as node:
        answered, page = ask(node.endpoint, GET_PAGE_DATA, bytes(5))
        assert answered == expected
        assert len(page) == (17408 if expected == Status.SUCCESS else 0)
        assert len(all_roots(node.endpoint)) == 480  # no secret
