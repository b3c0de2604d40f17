"""`store backup`, and coming back from one.

What must hold: a copy has one state of all coins, whatever changes beside it; it is a store that a
node serves; what was not copied to its end serves nobody; and no journal fits another store than
its own.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.protocol import Status
from raida_uring.store import Store
from raida_uring.store.backup import backup
from raida_uring.store.verify import verify
from tests.support.coin_requests import (
    DETECT,
    POWN,
    an_of,
    ask,
    coins_ans,
    default_an,
    pown_payload,
)
from tests.support.command_line import environment, run_script
from tests.support.node import Daemon, assert_refuses_to_start, started_daemon
from tests.support.page_files import tree
from tests.support.store import MAP_BYTES, Coin, coin_bytes, make_store, table_of
from tests.support.store_tools import done, refused, store

pytestmark = pytest.mark.any_backend

COIN_AN = 21
COINS: list[Coin] = [(den, 1024 * page + 7) for den in (-8, 0, 6) for page in (0, 500, 999)]


def pown(node: Daemon, coins: list[Coin]) -> None:
    changes = [(coin, default_an(coin), an_of(coin)) for coin in coins]
    assert ask(node.endpoint, POWN, pown_payload(changes))[0] == Status.ALL_PASS


def assert_detected(node: Daemon, coins: list[Coin]) -> None:
    ans = {coin: an_of(coin) for coin in coins}
    assert ask(node.endpoint, DETECT, coins_ans(ans))[0] == Status.ALL_PASS


def test_drill_of_operate_md(tmp_path: Path) -> None:
    """Back up while the node serves, lose the store, restore, serve: as "Backup" in docs/operate.md
    says."""
    path, saved = make_store(tmp_path / "store"), tmp_path / "backup" / "2026-01-31"
    with started_daemon(tmp_path, store=table_of(path)) as node:
        node.await_ready()
        pown(node, COINS[:5])
        done("backup", saved, "--config", tmp_path / "node.toml")
        pown(node, COINS[5:])  # what changes later is not in the backup
        assert node.terminate() == 0, node.stderr()
    done("verify", "--store", saved)
    shutil.rmtree(path)  # the disk is lost
    shutil.copytree(saved, path)
    with started_daemon(tmp_path, store=table_of(path)) as node:
        node.await_ready()
        assert_detected(node, COINS[:5])
        pown(node, COINS[5:])
        assert_detected(node, COINS)
        assert node.terminate() == 0, node.stderr()
    assert verify(path) == []


def test_a_backup_of_an_import_is_exported_as_the_original(
    data: Path, imported: Path, tmp_path: Path
) -> None:
    """Files that are short, missing or longer included."""
    done("backup", tmp_path / "copy", "--store", imported)
    done("verify", "--store", tmp_path / "copy")
    done("export", tmp_path / "out", "--store", tmp_path / "copy")
    assert tree(tmp_path / "out") == tree(data)


def test_what_a_copy_has_in_common_with_the_original(tmp_path: Path) -> None:
    path, copy = make_store(tmp_path / "store"), tmp_path / "copy"
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened:
        opened.serve_as(3)
        with opened.write() as coins:
            coins.set(coin_bytes((0, 5)) + b"n" * 16, 1, COIN_AN, 9)
    assert backup(path, copy) == 1
    found = json.loads(done("stat", "--json", "--store", copy))
    assert (found["raida_id"], found["journal_entries"], found["unfinished"]) == (3, 0, None)
    assert found["pages_written"] == 1  # pages never written stay so
    with contextlib.closing(Store(copy, map_bytes=MAP_BYTES)) as opened:
        assert opened.an(0, 5) == b"n" * 16
        assert opened.an(4, 20) == default_an((4, 20))
    assert os.stat(copy).st_mode & 0o777 == 0o700
    assert os.stat(copy / "data.mdb").st_mode & 0o777 == 0o600


def test_a_copy_s_journal_does_not_fit_the_original(tmp_path: Path) -> None:
    """Both count from the same number on: one's changes on the other's coins would look right."""
    path, copy = make_store(tmp_path / "store", {(0, 5): (b"o" * 16, 1)}), tmp_path / "copy"
    done("backup", copy, "--store", path)
    assert not (copy / "journal").exists()
    Path(shutil.copytree(path / "journal", copy / "journal"))
    refused(store("stat", "--store", copy), "journal: holds changes of another data.mdb")
    shutil.rmtree(copy / "journal")
    Store(copy, map_bytes=MAP_BYTES).close()  # which begins its own
    for here, there in ((path, copy), (copy, path)):
        mixed = tmp_path / f"{here.name} mixed"
        shutil.copytree(here, mixed)
        shutil.rmtree(mixed / "journal")
        shutil.copytree(there / "journal", mixed / "journal")
        refused(store("stat", "--store", mixed), "journal: the journal belongs to another store")


# Changes two coins on different pages to the same AN, again and again, and says when it has begun.
CHANGE_TOGETHER = """
import itertools, sys
from raida_uring.store import Store
from tests.support.store import coin_bytes
store = Store(sys.argv[1], map_bytes=1 << 26, durability="interval", journal_mib=128)
for number in itertools.count(1):
    an = b"%016d" % number
    with store.write() as coins:
        coins.set(coin_bytes((0, 5)) + an + coin_bytes((6, 5)) + an, 2, 21, 7)
    if number % 500 == 0:
        store.checkpoint(pause_s=0)
    if number == 1000:
        print("changing", flush=True)
"""


@contextlib.contextmanager
def running(script: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["backup", "export", "stat", "verify"])
def test_one_moment_beside_changes_and_checkpoints(how: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with running(CHANGE_TOGETHER, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "changing\n"
        for tries in range(3):
            target = tmp_path / f"copy {tries}"
            if how == "backup":
                backup(path, target)
                with contextlib.closing(Store(target, map_bytes=MAP_BYTES)) as opened:
                    first, second = opened.an(0, 5), opened.an(6, 5)
                assert first == second
                assert first is not None
                assert int(first) >= 1000
            elif how == "export" and tries == 0:
                done("export", target, "--store", path)
                pages = [
                    (target / name).read_bytes() for name in ("00/00/0000.bin", "06/00/0000.bin")
                ]
                assert pages[0][5 * 17 : 6 * 17] == pages[1][5 * 17 : 6 * 17]
            elif how == "verify":
                assert verify(path) == []
            elif how == "stat":
                done("stat", "--store", path)
        assert process.poll() is None


def test_a_killed_backup_serves_nobody(tmp_path: Path) -> None:
    path, copy = make_store(tmp_path / "store", {(0, 5): (b"o" * 16, 1)}), tmp_path / "copy"
    script = (
        "import os, pathlib, sys; from raida_uring.store.backup import backup\n"
        "stop = lambda done, total: done >= total // 2 and os.kill(os.getpid(), 9)\n"
        "backup(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), progress=stop)"
    )
    assert run_script(script, path, copy).returncode == -signal.SIGKILL
    words = "holds only a part of the coins: the backup of"
    assert_refuses_to_start(tmp_path, words, store={"path": str(copy)})
    refused(store("backup", tmp_path / "again", "--store", copy), words)
    refused(store("backup", copy, "--store", path), "copy: is not empty")
    shutil.rmtree(copy)
    done("backup", copy, "--store", path)
    assert verify(copy) == []


def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    (tmp_path / "file").touch()
    refused(store("backup", tmp_path, "--store", path), "is not empty")
    refused(store("backup", path, "--store", path), "is not empty")
    refused(store("backup", tmp_path / "file", "--store", path), "is not a directory")
    refused(store("backup", tmp_path / "out", "--store", tmp_path / "none"), "not a store")
    assert sorted(os.listdir(tmp_path)) == ["file", "store"]
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    done("backup", tmp_path / "volume", "--store", path)
    assert verify(tmp_path / "volume") == []


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {(0, 5): (b"o" * 16, 1)})

    def fail(done: int, _total: int) -> None:
        if done >= 5000:
            raise StoreError("the disk fails")

    with pytest.raises(StoreError, match="the disk fails"):
        backup(path, tmp_path / "copy", progress=fail)
    assert os.listdir(tmp_path) == ["store"]
