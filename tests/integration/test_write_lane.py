"""The writing lane: what requests of a batch share, and what not.

What must hold: a request that fails leaves no trace, and does not affect its neighbours; a commit
that fails changes nothing, and every request of the batch is told; acknowledged changes are stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.observe.readiness import unready
from raida_uring.protocol import Status
from raida_uring.store import Sizes, Store
from tests.support.coin_requests import (
    AUDIT,
    POWN,
    an_of,
    ask,
    default_an,
    detects,
    page_of_coin,
    pown_payload,
    stored_roots,
)
from tests.support.handlers import gate
from tests.support.net import udp_client
from tests.support.node import Node, eventually, running_node
from tests.support.store import (
    MAP_BYTES,
    Coin,
    coin_bytes,
    make_store,
    tables_over,
    without_journal,
)
from tests.support.wire import ADMIN_KEY, SHOW_STATS_COMMAND, request
from tests.support.write_handlers import (
    CHANGE_AND_BABBLE,
    CHANGE_AND_RAISE,
    FAIL_AFTER_COMMIT,
    HOLD_WRITE,
    LOOK_WRONGLY,
    MEDDLE,
    MISCOUNT,
    MODULES,
    NEST,
    SLOW_NEST,
    USE_CLOSED,
    WRITE_WHILE_READING,
)

SIZE_MIB = 64
NEW = an_of("new")
COINS: list[Coin] = [(1, 10), (1, 11), (1, 5000), (1, 12)]
Asked = tuple[tuple[int, int], bytes]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


@contextmanager
def serving(store: Path, size_mib: int = SIZE_MIB) -> Iterator[Node]:
    tables = tables_over(store, size_mib, checkpoint_interval_s=1)
    with running_node(**tables, handlers=MODULES) as node:
        yield node


def pown(coin: Coin, old: bytes | None = None, new: bytes = NEW) -> Asked:
    return POWN, pown_payload([(coin, default_an(coin) if old is None else old, new)])


def in_one_batch(node: Node, *asked: Asked) -> list[int]:
    """The statuses, in order, of requests that the writer takes together."""
    with udp_client(node.endpoint) as client:
        before = node.counters()["udp_received"]
        with gate.closed():
            client.sendto(request(HOLD_WRITE), node.endpoint)
            eventually(lambda: gate.inside == 1)
            for echo, (command, payload) in enumerate(asked, 1):
                client.sendto(request(command, payload, echo=echo), node.endpoint)
            wanted = before + 1 + len(asked)
            node.wait_for(lambda now: now["udp_received"] == wanted)
        replies = {
            reply[6:8]: reply for reply in (client.recv(2048) for _ in range(1 + len(asked)))
        }
        return [replies[echo.to_bytes(2)][2] for echo in range(1, len(asked) + 1)]


def powned(node: Node) -> int:
    """Coins that the node says it has powned."""
    return int.from_bytes(ask(node.endpoint, SHOW_STATS_COMMAND, ADMIN_KEY)[1][8:16], "little")


@pytest.mark.parametrize("fault", [CHANGE_AND_RAISE, CHANGE_AND_BABBLE])
def test_a_handler_that_fails_leaves_nothing_behind(store: Path, fault: tuple[int, int]) -> None:
    """On a page of its own, on its neighbours' page, and on a coin that a neighbour has moved."""
    theft = an_of("theft")
    with serving(store) as node:
        statuses = in_one_batch(
            node,
            pown(COINS[0]),
            (fault, coin_bytes(COINS[1]) + theft),
            (fault, coin_bytes(COINS[0]) + theft),
            (fault, coin_bytes(COINS[2]) + theft),
            pown(COINS[3]),
            pown(COINS[0], NEW, an_of("newer")),
        )
        assert statuses == [Status.ALL_PASS, *[Status.INTERNAL] * 3, *[Status.ALL_PASS] * 2]
        expected = {coin: default_an(coin) for coin in COINS}
        expected |= {COINS[0]: an_of("newer"), COINS[3]: NEW}
        assert detects(node.endpoint, expected)
        assert powned(node) == 3


def test_a_commit_that_fails_changes_nothing(store: Path) -> None:
    with serving(store) as node:
        with without_journal(store):
            statuses = in_one_batch(node, pown(COINS[0]), pown(COINS[3]))
        assert statuses == [Status.FILESYSTEM] * 2
        assert detects(node.endpoint, {coin: default_an(coin) for coin in COINS})
        assert powned(node) == 0
        assert ask(node.endpoint, *pown(COINS[0]))[0] == Status.ALL_PASS
        assert detects(node.endpoint, {COINS[0]: NEW})
        assert powned(node) == 1


@pytest.mark.parametrize("call", range(6), ids=["commit", "end", "begin", "close", "keep", "undo"])
def test_a_handler_that_meddles_with_the_transaction_fails_alone(store: Path, call: int) -> None:
    theft = coin_bytes(COINS[1]) + an_of("theft") + bytes((call,))
    with serving(store) as node:
        statuses = in_one_batch(node, pown(COINS[0]), (MEDDLE, theft), pown(COINS[3]))
        assert statuses == [Status.ALL_PASS, Status.INTERNAL, Status.ALL_PASS]
        expected = {coin: default_an(coin) for coin in COINS}
        assert detects(node.endpoint, expected | {COINS[0]: NEW, COINS[3]: NEW})


def test_a_view_used_wrongly_ends_a_request_and_not_the_node(store: Path) -> None:
    with serving(store) as node:
        change = coin_bytes(COINS[0]) + NEW
        assert ask(node.endpoint, WRITE_WHILE_READING, change)[0] == Status.INTERNAL
        assert ask(node.endpoint, USE_CLOSED, b"")[0] == Status.INTERNAL
        assert detects(node.endpoint, {COINS[0]: default_an(COINS[0])})


@pytest.mark.parametrize("page", [-1, native_store.STORE_PAGES])
def test_a_look_at_what_cannot_be_is_no_fault_of_the_store(store: Path, page: int) -> None:
    """Else whoever asks for such a page would make the node look as if no coin could change."""
    with serving(store) as node:
        assert ask(node.endpoint, LOOK_WRONGLY, page.to_bytes(4, signed=True))[0] == Status.INTERNAL
        seen = node.server.observe().writing
        assert seen is not None
        assert seen.fault is None


def test_what_fails_after_a_commit_takes_nothing_back(store: Path) -> None:
    """The coins have changed: clients and voters must learn that."""
    with serving(store) as node:
        action = coin_bytes(COINS[1]) + NEW
        statuses = in_one_batch(node, pown(COINS[0]), (FAIL_AFTER_COMMIT, action), pown(COINS[3]))
        assert statuses == [Status.ALL_PASS, Status.SUCCESS, Status.ALL_PASS]
        changed = dict.fromkeys((COINS[0], COINS[1], COINS[3]), NEW)
        assert detects(node.endpoint, changed)
        assert powned(node) == 2 + 1_000_000
        place = 5 * (1 + 8)  # of denomination 1
        counted = (1).to_bytes(1) + len(changed).to_bytes(4)
        eventually(lambda: ask(node.endpoint, AUDIT)[1][place : place + 5] == counted)


@pytest.mark.parametrize("call", range(7))
def test_a_wrong_count_of_coins_fails_alone(store: Path, call: int) -> None:
    """Memory behind the payload is neither compared nor overwritten."""
    lie = bytes((call,)) + coin_bytes(COINS[1]) + an_of("theft")
    with serving(store) as node:
        statuses = in_one_batch(node, pown(COINS[0]), (MISCOUNT, lie), pown(COINS[3]))
        assert statuses == [Status.ALL_PASS, Status.INTERNAL, Status.ALL_PASS]
        assert detects(node.endpoint, {COINS[1]: default_an(COINS[1])})


@pytest.mark.parametrize("nested", [NEST, SLOW_NEST])
def test_a_transaction_within_a_transaction_is_refused(
    store: Path, nested: tuple[int, int]
) -> None:
    """It would wait for itself for ever, and so would every later change."""
    with serving(store) as node:
        assert ask(node.endpoint, nested)[0] == Status.INTERNAL
        assert ask(node.endpoint, *pown(COINS[0]))[0] == Status.ALL_PASS


def test_requests_of_one_batch_see_each_other(store: Path) -> None:
    coin, ans = COINS[0], [an_of(step) for step in range(20)]
    steps = zip([default_an(coin), *ans], ans, strict=False)
    with serving(store) as node:
        chain = in_one_batch(node, *(pown(coin, old, new) for old, new in steps))
        assert chain == [Status.ALL_PASS] * 20
        assert in_one_batch(node, pown(coin, ans[0]), pown(coin, ans[-1]), pown(coin, ans[-1])) == [
            Status.ALL_FAIL,
            Status.ALL_PASS,
            Status.ALL_FAIL,
        ]
        assert detects(node.endpoint, {coin: NEW})


def test_a_full_base_keeps_its_journal_until_it_may_grow(store: Path) -> None:
    """Nothing that was acknowledged is lost; changes go on as long as the journal has room."""
    kept: dict[Coin, bytes] = {}
    with serving(store, 16) as node:
        for first in range(0, 3_000, 40):
            pages = range(first, first + 40)
            coins = [(page // 1000 - 8, page % 1000 * 1024) for page in pages]
            changes = [(coin, default_an(coin), an_of(coin)) for coin in coins]
            assert ask(node.endpoint, POWN, pown_payload(changes))[0] == Status.ALL_PASS
            kept |= {coin: an_of(coin) for coin in coins}
        checkpoints = node.server.observe
        eventually(lambda: (seen := checkpoints().store) is not None and _is_full(seen))
        assert unready(checkpoints()) == []
        assert detects(node.endpoint, kept)
    with serving(store, 16) as node:
        assert detects(node.endpoint, kept)
    with serving(store, 128) as node:
        assert detects(node.endpoint, kept)
        eventually(lambda: (seen := node.server.observe().store) is not None and _is_saved(seen))
    assert len(stored_roots(store, map(page_of_coin, kept))) == 480


def _is_full(sizes: Sizes) -> bool:
    return sizes.checkpoint_fault == "data.mdb is full: raise [store] size_mib"


def _is_saved(sizes: Sizes) -> bool:
    return sizes.checkpoint_fault is None and sizes.journal_entries == 0


@pytest.mark.parametrize("journal_mib", [128, 256, 320])
def test_a_checkpoint_is_due_before_a_new_journal_is_full(tmp_path: Path, journal_mib: int) -> None:
    """The first segments of a store are smaller than those that the bound is thought of in."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES, journal_mib=journal_mib)
    assert not store.needs_checkpoint()
    names = [
        coin_bytes((page // 1000, page % 1000 * 1024 + at))
        for page in range(100)
        for at in range(30)
    ]
    batches = 0
    while not store.needs_checkpoint():
        batches += 1
        with store.write() as coins:
            coins.set(b"".join(name + batches.to_bytes(16) for name in names), len(names), 21, 1)
    segments = len(list((store.path / "journal").glob("*.journal")))
    assert segments < journal_mib // 64 or journal_mib == 128
    store.checkpoint(pause_s=0)
    assert not store.needs_checkpoint()
    store.close()


def test_a_full_journal_refuses_and_goes_on(tmp_path: Path) -> None:
    """With a base that takes no checkpoint, until it may grow."""
    path = make_store(tmp_path / "store")
    full = Store(path, map_bytes=16 << 20, journal_mib=192)
    acknowledged = 0
    pages = [(page // 1000, page % 1000 * 1024) for page in range(1500)]
    names = [coin_bytes((den, first + at)) for den, first in pages for at in (0, 1)]

    def fill() -> None:
        nonlocal acknowledged
        while True:
            change = b"".join(name + acknowledged.to_bytes(16) for name in names)
            with full.write() as coins:
                coins.set(change, len(names), 21, 1)
            acknowledged += 1

    with pytest.raises(StoreError, match="the journal is full"):
        fill()

    def stays_told() -> bool:
        """The watch looks while the checkpoint runs that may or may not make room."""
        full.look()
        assert full.write_fault is not None
        return False

    with pytest.raises(StoreError, match=r"data\.mdb is full"):
        full.checkpoint(pause_s=0, enough=stays_told)
    full.look()
    assert full.write_fault is not None
    assert full.write_fault.startswith("the journal is full")
    assert full.an(0, 0) == (acknowledged - 1).to_bytes(16)
    full.close()
    grown = Store(path, map_bytes=128 << 20, journal_mib=192)
    assert grown.an(1, 0) == (acknowledged - 1).to_bytes(16)
    grown.checkpoint(pause_s=0)
    with grown.write() as coins:
        coins.set(coin_bytes((0, 0)) + NEW, 1, 21, 1)
    assert grown.an(0, 0) == NEW
    grown.close()
