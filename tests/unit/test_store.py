"""The store without a node: default pages, changes and their taking back, who may open it.

What must hold: a page that was never written reads as its default page and takes no space until a
coin of it really changes.
"""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.store import DIFFERS, EQUAL, UNREADABLE, Store, month_now
from tests.support.coin_requests import default_an
from tests.support.command_line import run_script
from tests.support.store import MAP_BYTES, SEED, coin_bytes, make_store

COIN_AN, COIN_AN_PAN = 21, 37


def opened(path: Path) -> Store:
    return Store(make_store(path), map_bytes=MAP_BYTES)


def test_default_ans_are_the_reference_servers(tmp_path: Path) -> None:
    """The examples of the wire specification, 8.3."""
    store = opened(tmp_path / "store")
    with store.read() as coins:
        assert coins.an(0, 20) == bytes.fromhex("84eabc36563a8222b8aab566122a43bb")
        assert coins.an(-8, 1023998) == bytes.fromhex("3f1de9a8b4cfb6d728de9e74eb1ef273")
        assert coins.an(4, 777777) == bytes.fromhex("4980da99f5c36ad4a3cd4e89cd77035f")
        wrong: list[Any] = [("a", 8), (0, "8"), (0, None), (0.0, 8)]
        for denomination, serial_number in wrong:
            with pytest.raises(TypeError, match="a denomination and a serial number are integers"):
                coins.an(denomination, serial_number)
        assert coins.an(7, 0) is None
        assert coins.an(-9, 0) is None
        assert coins.an(0, 1_024_000) is None
        assert coins.an(0, 20 + (1 << 26)) is None
    store.close()


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    """What was freed is not read: that would end the process."""
    store = opened(tmp_path / "store")
    store.close()
    for call in (store.sizes, store.sync, store.look, store.coins):
        with pytest.raises(RuntimeError, match="the store is closed"):
            call()
    store.close()


def test_wrong_guesses_write_no_page(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    guesses = b"".join(coin_bytes((0, sn)) + bytes(32) for sn in range(0, 100 * 1024, 1024))
    with store.write() as coins:
        states = coins.exchange(guesses, 100, COIN_AN_PAN, 5, COIN_AN, month_now())
        assert states == bytes((DIFFERS,)) * 100
        assert not coins.changed
    assert store.sizes().written_pages == 0
    store.close()


def test_one_right_guess_writes_its_page_alone(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    right = coin_bytes((0, 1024)) + default_an((0, 1024)) + b"n" * 16
    wrong = coin_bytes((0, 2048)) + bytes(32)
    nowhere = coin_bytes((9, 1)) + bytes(32)
    with store.write() as coins:
        states = coins.exchange(wrong + right + nowhere, 3, COIN_AN_PAN, 5, COIN_AN, 45)
        assert states == bytes((DIFFERS, EQUAL, UNREADABLE))
    assert store.sizes().written_pages == 1
    with store.read() as coins:
        assert coins.an(0, 1024) == b"n" * 16
        assert coins.an(0, 1025) == default_an((0, 1025))
    store.close()


def test_undo_goes_back_to_what_was_kept(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    coin = coin_bytes((3, 5))
    with store.write() as coins:
        coins.set(coin + b"1" * 16, 1, COIN_AN, 1)
        coins.keep()
        coins.set(coin + b"2" * 16, 1, COIN_AN, 2)
        coins.undo()
        assert coins.an(3, 5) == b"1" * 16
    with store.read() as coins:
        assert coins.an(3, 5) == b"1" * 16
    store.close()


# Ends with 1 when process `sys.argv[2]` is a user of the store at `sys.argv[1]` for LMDB.
LOOK_FOR_USER = """
import fcntl, sys
with open(sys.argv[1] + "/lock.mdb", "r+b") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
"""


def is_known_to_lmdb(path: Path) -> bool:
    """Whether LMDB knows that this process has the store open. Another process asks, because
    closing `lock.mdb` gives up all locks that its process has on it."""
    return run_script(LOOK_FOR_USER, path, os.getpid()).returncode == 1


def test_a_store_is_one_process_s(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    with pytest.raises(StoreError, match=r"in use by process \d+"):
        Store(path, map_bytes=MAP_BYTES)
    store.close()
    Store(path, map_bytes=MAP_BYTES).close()


def test_a_process_opens_a_store_once(tmp_path: Path) -> None:
    """A second time it would lose the locks of the first when it closes."""
    path = make_store(tmp_path / "store")
    other_name = tmp_path / "link"
    other_name.symlink_to("store")
    for read_only in (False, True):
        store = Store(path, map_bytes=MAP_BYTES, read_only=read_only)
        assert is_known_to_lmdb(path)
        for name in (path, other_name):
            with pytest.raises(StoreError, match="this process has it open already"):
                Store(name, map_bytes=MAP_BYTES, read_only=True)
            with pytest.raises(StoreError, match=r"this process has it open already|in use by"):
                Store(name, map_bytes=MAP_BYTES)
        assert is_known_to_lmdb(path)
        with store.read() as coins:
            assert coins.an(0, 20) is not None
        store.close()
        assert not is_known_to_lmdb(path)


def test_a_change_to_what_is_there_writes_nothing(tmp_path: Path) -> None:
    """Otherwise an owner could cause useless writes, a page and its tree for each coin."""
    store = opened(tmp_path / "store")
    coin = coin_bytes((0, 1024))
    with store.write() as coins:
        coins.set(coin + b"n" * 16, 1, COIN_AN, 7)
    done: list[str] = []
    before = store.native.progress().applied
    view = store.coins(writing=True)
    for month, changes in ((7, False), (7 + 256, False), (8, True)):
        view.begin()
        states = view.exchange(coin + 2 * (b"n" * 16), 1, COIN_AN_PAN, 5, COIN_AN, month)
        assert states == bytes((EQUAL,))
        assert view.set(coin + b"n" * 16, 1, COIN_AN, month) == bytes((EQUAL,))
        view.after_commit(lambda: done.append("counted"))
        view.keep()
        assert view.changed == changes
        view.commit()
        assert (store.native.progress().applied > before) == changes
    view.close()
    assert len(done) == 3
    store.close()


def test_that_writes_fail_is_known_until_one_succeeds(tmp_path: Path) -> None:
    """The journal's file is gone, and put back."""
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    (segment,) = (path / "journal").glob("*.journal")

    def set_coin(an: bytes) -> None:
        with store.write() as coins:
            coins.set(coin_bytes((0, 1024)) + an, 1, COIN_AN, month_now())

    set_coin(b"n" * 16)
    assert (store.write_fault, store.failed_commits) == (None, 0)
    kept = tmp_path / "kept"
    kept.hardlink_to(segment)
    segment.unlink()
    kept.unlink()
    for failed in (1, 2):
        with pytest.raises(StoreError, match="the journal was removed or cut off") as gone:
            set_coin(b"m" * 16)
        reason = str(gone.value).partition(": ")[2]
        assert (store.write_fault, store.failed_commits) == (reason, failed)
        with store.read() as coins:
            assert coins.an(0, 1024) == b"n" * 16
    set_coin(b"n" * 16)  # is so already: nothing was written
    assert store.write_fault
    store.note_written()
    assert not store.write_fault
    assert store.failed_commits == 2
    store.close()


def test_writes_that_go_on_failing_are_not_well_because_the_journal_has_room(
    tmp_path: Path,
) -> None:
    """A disk that refuses writes to the segment in use may still make the next one."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    refused = StoreError("doing: Input/output error", -errno.EIO)

    def fault_after_a_look() -> str | None:
        store.look()
        return store.write_fault

    for _ in range(3):
        store.note_unwritten(refused)
        assert fault_after_a_look() == "Input/output error"
    assert fault_after_a_look() is None  # nobody has tried since
    store.note_unwritten(refused)
    view = store.native.view(writing=True)  # as native workers write: they only note failures
    view.begin()
    view.set(coin_bytes((0, 1)) + b"n" * 16, 1, COIN_AN, 5, month_now())
    view.commit()
    view.close()
    assert store.write_fault is not None
    assert fault_after_a_look() is None
    store.close()


def test_why_writes_fail_is_not_that_others_have_failed(tmp_path: Path) -> None:
    """Two writers take turns: the second one's batch fails because the first one's has."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    before = StoreError(f"doing: {native_base.describe(-errno.ECANCELED)}", -errno.ECANCELED)
    store.note_unwritten(StoreError("doing: No space left on device", -errno.ENOSPC))
    store.note_unwritten(before)
    assert (store.write_fault, store.failed_commits) == ("No space left on device", 2)
    store.note_written()
    store.note_unwritten(before)
    assert store.write_fault == "the changes before these could not be written"
    store.close()


def test_what_a_process_did_not_finish_is_removed_once_it_has_ended(tmp_path: Path) -> None:
    """The other process of an upgrade was killed while it made a segment, which no list has."""
    store = opened(tmp_path / "store")
    left = store.path / "journal" / "unfinished-0123456789abcdef"
    left.write_bytes(bytes(4096))
    store.prepare()
    assert left.exists()  # it may be under way
    store.alone()
    store.prepare()
    assert not left.exists()
    assert len(list((store.path / "journal").glob("*.journal"))) == 2
    store.close()


def test_a_checkpoint_that_is_cut_short_leaves_the_rest_to_the_journal(tmp_path: Path) -> None:
    """As at a stop, where a slow disk would outlast the service manager's patience."""
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    names = [coin_bytes((page // 1000, page % 1000 * 1024)) for page in range(1100)]
    with store.write() as coins:
        coins.set(b"".join(name + b"n" * 16 for name in names), len(names), COIN_AN, 9)
    asked: list[None] = []

    def after_one() -> bool:
        asked.append(None)
        return len(asked) > 1

    entries = store.sizes().journal_entries
    saved = store.checkpoint(pause_s=0, enough=after_one)
    assert 0 < saved < len(names)
    assert (store.sizes().journal_entries, store.sizes().checkpoint_fault) == (entries, None)
    store.close()
    again = Store(path, map_bytes=MAP_BYTES)
    assert again.sizes().journal_entries == entries
    assert all(again.an(page // 1000, page % 1000 * 1024) == b"n" * 16 for page in range(1100))
    assert again.checkpoint(pause_s=0) == len(names)
    again.close()


@pytest.mark.parametrize("note", [Store.note_checkpoint, Store.note_unwritten])
def test_a_base_that_refuses_everything_is_to_be_opened_again(
    note: Callable[[Store, StoreError], None], tmp_path: Path
) -> None:
    """LMDB's MDB_PANIC, after a failed write: a node ends for it, whoever meets it first, since no
    change succeeds meanwhile. Other faults are tried again."""
    store = opened(tmp_path / "store")
    faults = []
    for number in (-5, native_base.BASE_PANIC):
        note(store, StoreError("committing to the store: refused", number))
        faults.append(store.fault)
    assert [fault is None for fault in faults] == [True, False]
    store.close()


def test_what_is_no_store_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a store"):
        Store(tmp_path)
    make_store(tmp_path / "store")
    with pytest.raises(StoreError, match="holds a store already"):
        Store.create(tmp_path / "store", seed=SEED)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_a_table_of_readers_that_is_no_file_is_named(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    path = make_store(tmp_path / "store")
    (path / "lock.mdb").unlink(missing_ok=True)
    put(path / "lock.mdb")
    with pytest.raises(StoreError, match=r"not a store: lock\.mdb is not a file"):
        Store(path, map_bytes=MAP_BYTES)


def test_default_pages_hold_the_default_ans(tmp_path: Path) -> None:
    """Before one of their coins changes, and after that."""
    store = opened(tmp_path / "store")
    for page in (0, 999, 8000, 14_999):
        denomination, first = page // 1000 - 8, page % 1000 * 1024
        default = [default_an((denomination, first + at)) + b"\0" for at in range(1024)]
        changed = [*default[:7], b"n" * 16 + b"\5", *default[8:]]
        with store.write() as coins:
            assert coins.page(page) == b"".join(default)
            coins.set(coin_bytes((denomination, first + 7)) + b"n" * 16, 1, COIN_AN, 5)
            assert coins.page(page) == b"".join(changed)
        with store.read() as coins:
            assert coins.page(page) == b"".join(changed)
    assert store.sizes().written_pages == 4
    store.close()


def test_a_coin_may_change_many_times_in_a_request(tmp_path: Path) -> None:
    """Each time from the AN that the time before left, though its page was never written."""
    store = opened(tmp_path / "store")
    moved, wrong = (0, 5), (0, 6)
    ans = [default_an(moved), *(bytes((at,)) * 16 for at in range(100))]
    listed = b"".join(
        coin_bytes(moved) + old + new + coin_bytes(wrong) + new + new
        for old, new in itertools.pairwise(ans)
    )
    with store.write() as coins:
        states = coins.exchange(listed, 200, COIN_AN_PAN, 5, COIN_AN, 9)
        assert states == bytes((EQUAL, DIFFERS)) * 100
        assert coins.an(*moved) == ans[-1]
        assert coins.an(*wrong) == default_an(wrong)
        coins.undo()
        assert coins.an(*moved) == ans[0]
    store.close()


def test_setting_a_default_record_writes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    coin = (3, 77)
    with store.write() as coins:
        own = coin_bytes(coin) + default_an(coin)
        assert coins.set(own, 1, COIN_AN, 0) == bytes((EQUAL,))
        assert not coins.changed
    assert store.sizes().written_pages == 0
    store.close()
