"""The journal and the locks under a node: removed, replaced, moved or cut off.

What must hold: as for the base, in test_store_file.py.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.integration.test_store_file import (
    COIN,
    CUTS,
    LOSSES,
    move,
    pown,
    remove,
    replace,
    tables,
)
from tests.support.coin_requests import DETECT, an_of, ask, coins_ans, default_an
from tests.support.http import ask as http_ask
from tests.support.node import STOP_TIMEOUT_S, eventually, free_port, started_daemon
from tests.support.store import MAP_BYTES, Coin, coin_bytes, make_store

pytestmark = pytest.mark.any_backend


def segment_in_use(path: Path) -> Path:
    """The newest that has an entry, or will have the first; a prepared one begins with zeros."""
    segments = sorted((path / "journal").glob("*.journal"))
    return [one for one in segments if any(one.read_bytes()[:64])][-1]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_change_to_a_lost_journal_is_not_acknowledged(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """Also one whose file still takes changes under another name: no start would find them."""
    path, port = make_store(tmp_path / "store"), free_port()
    url = f"http://127.0.0.1:{port}/"
    settings = tables(path) | {"http": {"enabled": True, "port": port}}
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        lose(segment_in_use(path))
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        eventually(lambda: f"the store {path} cannot be changed: " in node.stderr())
        assert http_ask(url, "/readyz").status == 503
        assert node.terminate() == 0, node.stderr()


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_journal_is_reported_without_a_request(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    path, port = make_store(tmp_path / "store"), free_port()
    settings = tables(path) | {"http": {"enabled": True, "port": port}}
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        lose(segment_in_use(path))
        line = f"the store {path} cannot be changed: the journal was removed or cut off"
        eventually(lambda: line in node.stderr())
        assert http_ask(f"http://127.0.0.1:{port}/", "/readyz").status == 503


@pytest.mark.parametrize("lose", [remove, move, replace])
@pytest.mark.parametrize("lock", ["owner", "journal/writer"])
def test_a_lost_lock_ends_changes(lock: str, lose: Callable[[Path], None], tmp_path: Path) -> None:
    """The next process that opens the store makes a new one, and both would write."""
    path, port = make_store(tmp_path / "store"), free_port()
    settings = tables(path) | {"http": {"enabled": True, "port": port}}
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        lose(path / lock)
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        line = f"the store {path} cannot be changed: {lock} was removed or replaced"
        eventually(lambda: line in node.stderr())
        assert http_ask(f"http://127.0.0.1:{port}/", "/readyz").status == 503
        if lose is move:
            (path / lock).with_name("moved.mdb").rename(path / lock)
            assert pown(node, (2, 5000)) == Status.ALL_PASS
        assert node.terminate() == 0, node.stderr()


def test_two_nodes_that_a_lost_lock_let_start_do_not_write_over_each_other(tmp_path: Path) -> None:
    """The first one neither changes coins nor makes a checkpoint: its coins are those of before."""
    path = make_store(tmp_path / "store")
    changed = {(2, serial): an_of((2, serial)) for serial in (5, 5000)}
    (tmp_path / "second").mkdir()
    with started_daemon(tmp_path, **tables(path)) as first:
        first.await_ready()
        assert pown(first, (2, 5)) == Status.ALL_PASS
        remove(path / "owner")
        with started_daemon(tmp_path / "second", **tables(path)) as second:
            second.await_ready()
            assert pown(second, (2, 5000)) == Status.ALL_PASS
            assert pown(first, (2, 9000)) == Status.FILESYSTEM
            assert second.terminate() == 0, second.stderr()
        assert pown(first, (2, 9000)) == Status.FILESYSTEM
        assert first.terminate() == 0, first.stderr()
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store:
        assert {coin: store.an(*coin) for coin in changed} == changed
        assert store.an(2, 9000) == default_an((2, 9000))


@pytest.mark.parametrize("lose", [remove, move, *CUTS])
def test_an_older_segment_that_is_lost_is_done_without(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """What was in it is in memory: changes go on after a checkpoint, which a start then needs."""
    path = make_store(tmp_path / "store")
    coins: list[Coin] = []
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        while segment_in_use(path).name == "0000000000000001.journal":
            coins.append((2, 5 + len(coins)))
            assert pown(node, coins[-1]) == Status.ALL_PASS
        lose(path / "journal" / "0000000000000001.journal")
        line = f"the store {path} cannot be changed: an older file of the journal was removed"
        eventually(lambda: line in node.stderr())
        eventually(lambda: "can be changed again" in node.stderr())
        coins.append((2, 5000))
        assert pown(node, coins[-1]) == Status.ALL_PASS
        node.process.kill()
        node.process.wait(STOP_TIMEOUT_S)
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store:
        assert all(store.an(*coin) == an_of(coin) for coin in coins)


def test_no_change_while_an_older_segment_is_lost(tmp_path: Path) -> None:
    """Until it is put back, or a checkpoint has what was in it."""
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)

    def change(an: bytes) -> None:
        with store.write() as coins:
            coins.set(coin_bytes(COIN) + an, 1, 21, 1)

    while segment_in_use(path).name == "0000000000000001.journal":
        change(b"%016d" % store.native.progress().applied)
    oldest = path / "journal" / "0000000000000001.journal"
    for mend in (lambda: (oldest.parent / "moved.mdb").rename(oldest), store.checkpoint):
        move(oldest)
        store.look()
        assert store.needs_checkpoint()
        with pytest.raises(StoreError, match="an older file of the journal was removed"):
            change(b"1" * 16)
        mend()
        store.look()
        assert not store.needs_checkpoint()
        change(b"%016d" % store.native.progress().applied)
        assert store.write_fault is None
    store.close()
