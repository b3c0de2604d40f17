"""A store from its making to its first start: the base alone, then base and journal.

What must hold: a store that no node has served has no journal and needs none; a process that is
killed at any step of making a store, or of the first start, leaves what the next try completes, and
nothing acknowledged is lost; changes of another store are neither applied nor removed.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.store import Store, page_of
from raida_uring.store.layout import IDENTITY_KEY, NO_JOURNAL
from raida_uring.store.meta import Meta
from raida_uring.store.verify import stat, verify
from tests.support.command_line import environment, execute, run
from tests.support.needs import require
from tests.support.node import assert_refuses_to_start, started_daemon
from tests.support.old_store import write_old_store
from tests.support.page_files import page_bytes, tree
from tests.support.store import (
    MAP_BYTES,
    SEED,
    coin_bytes,
    make_store,
    put_entry,
    put_files,
    table_of,
)
from tests.support.store_tools import done, refused, store

pytestmark = pytest.mark.any_backend

PAGE = page_of(6, 999)
COIN = (0, 1024)
OTHER_COIN = (1, 1024)
AN = b"n" * 16


def filled_store(path: Path) -> Path:
    """A store with a page that no node has served."""
    Store.create(path, seed=SEED, map_bytes=MAP_BYTES)
    put_files(path, {PAGE: page_bytes(PAGE)})
    return path


def identity_of(path: Path) -> bytes | None:
    base = native_base.Base(str(path), MAP_BYTES, native_base.BASE_READ_ONLY)
    with contextlib.closing(base):
        return Meta.of(path, base).identity


def assert_no_journal(path: Path) -> None:
    assert identity_of(path) is None
    assert {one.name for one in path.iterdir()} <= {
        "data.mdb",
        "lock.mdb",
        "owner",
        "data.mdb.format-1",
    }


# -- no journal ------------------------------------------------------------------------------------


def by_init(path: Path, _data: Path) -> None:
    done("init", "--store", path)


def by_import(path: Path, data: Path) -> None:
    done("import", data, "--store", path)


def by_import_into_a_served_one(path: Path, data: Path) -> None:
    done("init", "--store", path)
    Store(path).close()
    assert (path / "journal").is_dir()
    done("import", data, "--store", path)


def by_backup(path: Path, _data: Path) -> None:
    served = make_store(path.parent / "served", {COIN: (AN, 7)})
    done("backup", path, "--store", served)


def by_convert(path: Path, _data: Path) -> None:
    write_old_store(path, {"meta": {b"format": b"1", b"seed": SEED.encode()}})
    done("convert", "--store", path)


MADE = [by_init, by_import, by_import_into_a_served_one, by_backup, by_convert]


@pytest.mark.parametrize("make", MADE)
def test_the_first_start_makes_the_journal(
    make: Callable[[Path, Path], None], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    make(path, data)
    assert_no_journal(path)
    for command in (["stat"], ["verify"], ["export", tmp_path / "out"]):
        done(*command, "--store", path)
    done("backup", tmp_path / "copy", "--store", path)
    assert_no_journal(path)
    assert stat(path).journal_entries == stat(path).journal_bytes == 0
    with started_daemon(tmp_path, store=table_of(path, 2048)) as node:
        node.await_ready()
        assert identity_of(path) is not None
        done("verify", "--store", path)
        assert node.terminate() == 0, node.stderr()
    assert (path / "journal").stat().st_mode & 0o777 == 0o700
    shutil.rmtree(path / "journal")
    words = "journal: is missing: it has the newest changes"
    assert_refuses_to_start(tmp_path, words, store={"path": str(path)})
    refused(store("stat", "--store", path), words)


def test_a_base_that_says_neither_is_damaged(tmp_path: Path) -> None:
    path = filled_store(tmp_path / "store")
    put_entry(path, native_base.TABLE_META, IDENTITY_KEY, NO_JOURNAL + b"?")
    with pytest.raises(StoreError, match="damaged: the store's identity is gone"):
        Store(path)


# -- a journal beside a base without one -----------------------------------------------------------


def test_another_store_s_changes_are_refused(data: Path, tmp_path: Path) -> None:
    """Also those of a store that was made from the same base."""
    path = filled_store(tmp_path / "store")
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    with contextlib.closing(Store(copy, map_bytes=MAP_BYTES)) as served, served.write() as coins:
        coins.set(coin_bytes(COIN) + AN, 1, 21, 7)
    shutil.move(copy / "journal", path / "journal")
    before = tree(path / "journal")
    words = f"{path / 'journal'}: holds changes of another data.mdb than the one beside it: put"
    for command in (["stat"], ["export", tmp_path / "out"], ["backup", tmp_path / "out"]):
        refused(store(*command, "--store", path), words)
    ended = store("verify", "--store", path)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert words in ended.stdout
    assert_refuses_to_start(tmp_path, words, store={"path": str(path)})
    refused(run("config", "check", "--deep", tmp_path / "node.toml"), words)
    assert tree(path / "journal") == before
    assert identity_of(path) is None
    Store.create(tmp_path / "empty")
    shutil.copytree(path / "journal", tmp_path / "empty" / "journal")
    refused(
        store("import", data, "--store", tmp_path / "empty"),
        "empty/journal: holds changes of another data.mdb",
    )
    # The remedies that the line names.
    shutil.move(path / "journal", copy / "journal")
    with contextlib.closing(Store(copy, map_bytes=MAP_BYTES)) as served:
        assert served.an(*COIN) == AN
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as served:
        assert served.an(*COIN) != AN
    # Each has drawn its own identity.
    shutil.rmtree(path / "journal")
    shutil.copytree(copy / "journal", path / "journal")
    with pytest.raises(StoreError, match="the journal belongs to another store"):
        Store(path, map_bytes=MAP_BYTES)


@pytest.mark.parametrize("begun", [True, False])
def test_an_empty_journal_is_accepted(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "store"
    path.mkdir()
    if begun:
        shutil.copytree(make_store(tmp_path / "other") / "journal", path / "journal")
    else:
        (path / "journal").mkdir(mode=0o700)
    filled_store(path)
    assert verify(path) == []
    assert stat(path).journal_entries == 0
    for _ in range(2):
        with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened:
            assert opened.native.page(PAGE)[0] == page_bytes(PAGE)
    assert verify(path) == []


def test_changes_without_their_base_are_not_covered_by_a_new_store(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {COIN: (AN, 7)})
    (path / "data.mdb").unlink()
    refused(store("init", "--store", path), r"journal: holds changes of a store whose data\.mdb")


# -- killed ----------------------------------------------------------------------------------------

# Calls that change files; another architecture lacks some.
CALLS = (
    *("?mkdir", "mkdirat", "?rmdir", "?unlink", "unlinkat", "?rename", "?renameat", "renameat2"),
    *("?link", "linkat", "fsync", "fdatasync", "pwrite64", "pwritev", "ftruncate", "fallocate"),
    *("?chown", "fchown", "fchownat"),
)
MAKE = """
import sys
from raida_uring.store import Store
Store.create(sys.argv[1], seed=sys.argv[2], map_bytes=64 << 20)
"""
START = """
import sys
from raida_uring.store import Store
store = Store(sys.argv[1], map_bytes=64 << 20)
print("started", flush=True)
with store.write() as coins:
    coins.set(bytes((0, 0, 0, 4, 0)) + b"n" * 16, 1, 21, 7)
print("changed", flush=True)
store.checkpoint()
store.close()
"""

LOSE = """
import sys
from raida_uring.errors import StoreError
from raida_uring.store import Store
store = Store(sys.argv[1], map_bytes=64 << 20, durability="interval")
with store.write() as coins:
    coins.set(bytes((1, 0, 0, 4, 0)) + b"n" * 16, 1, 21, 7)
try:
    store.sync()
except StoreError:
    print(store.rescue(enough=lambda: False))
"""

SUCCEED = """
import sys
from raida_uring.errors import StoreError
from raida_uring.store import Store
path, owner, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = Store(path, map_bytes=64 << 20, durability="interval", owner=owner, memory=memory)
with store.write() as coins:
    coins.set(bytes((1, 0, 0, 4, 0)) + b"n" * 16, 1, 21, 7)
try:
    store.sync()
except StoreError:
    print(store.rescue(enough=lambda: False))
"""


def traced(script: str, path: Path, *options: str) -> tuple[int, str]:
    """Run a script under strace: its exit status and what it printed."""
    quiet = ("-f", "-qq", "-o", str(path.parent / "trace"))
    command = ("strace", *quiet, *options, sys.executable, "-c", script, path, SEED)
    ended = execute(*command)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode, ended.stdout


def killing_points(script: str, path: Path) -> list[tuple[str, int]]:
    """Every call of CALLS that the script's main thread makes: its name, and which of that name it
    is. strace counts the calls of each thread for itself."""
    require("strace")
    if (refusal := execute("strace", "-f", "-o", "/dev/null", "true")).returncode != 0:
        pytest.skip(f"strace: {refusal.stderr.strip()}")
    assert traced(script, path, "-e", f"trace={','.join(CALLS)}")[0] == 0
    lines = re.findall(r"^(\d+) +(\w+)\(", (path.parent / "trace").read_text(), re.MULTILINE)
    made = Counter(name for thread, name in lines if thread == lines[0][0])
    return [(name, number) for name, count in made.items() for number in range(1, count + 1)]


def kill_at(point: tuple[str, int], script: str, path: Path) -> tuple[int, str]:
    name, number = point
    rule = f"inject={name}:signal=KILL:when={number}"
    return traced(script, path, "-e", f"trace={name}", "-e", rule)


def test_a_making_killed_at_any_step_is_completed_by_the_next(tmp_path: Path) -> None:
    points = killing_points(MAKE, tmp_path / "store")
    assert len(points) > 10
    whole = 0
    for at, point in enumerate(points):
        path = tmp_path / f"store {at}"
        status, _ = kill_at(point, MAKE, path)
        assert status == -signal.SIGKILL, point
        if (path / "data.mdb").exists():  # whole from the first moment
            whole += 1
            assert verify(path) == []
        else:
            Store.create(path, seed=SEED, map_bytes=MAP_BYTES)
            assert_no_journal(path)
        Store(path, map_bytes=MAP_BYTES).close()
        assert verify(path) == []
        shutil.rmtree(path)
    assert 0 < whole < len(points)


def abandoned_store(path: Path) -> Path:
    """A store whose journal could not be flushed. The last flush of a run in which all succeed is
    the one that fails."""
    make_store(path)
    whole = Path(shutil.copytree(path, path.parent / "whole"))
    number = max(of for name, of in killing_points(LOSE, whole) if name == "fdatasync")
    rule = f"inject=fdatasync:error=EIO:when={number}"
    assert traced(LOSE, path, "-e", "trace=fdatasync", "-e", rule) == (0, "1\n")
    return path


def test_a_start_after_a_flush_that_failed_killed_at_any_step_is_completed_by_the_next(
    tmp_path: Path,
) -> None:
    made = abandoned_store(tmp_path / "made")
    assert identity_of(made) is None
    points = killing_points(START, Path(shutil.copytree(made, tmp_path / "store")))
    assert len(points) > 15
    seen = set()
    for at, point in enumerate(points):
        path = Path(shutil.copytree(made, tmp_path / f"store {at}"))
        status, printed = kill_at(point, START, path)
        assert status == -signal.SIGKILL, point
        seen.add((identity_of(path) is None, len([*path.glob("journal/*.journal")]), printed))
        assert verify(path) == [], point
        with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened:
            assert opened.an(*OTHER_COIN) == AN, point
            if "changed" in printed:
                assert opened.an(*COIN) == AN, point
        assert verify(path) == []
        assert identity_of(path) is not None
        shutil.rmtree(path)
    # With the old one or a new one that the base does not name yet; with none; and named.
    assert {(True, 1, ""), (True, 0, ""), (False, 1, "")} <= seen


def test_a_checkpoint_takes_nothing_back_that_the_other_process_has_rescued(tmp_path: Path) -> None:
    require("strace")
    path = make_store(tmp_path / "store")
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES, durability="interval")) as opened:
        with opened.write() as coins:
            coins.set(bytes((0, 0, 0, 4, 0)) + AN, 1, 21, 7)

        def succeed() -> dict[bytes, bytes]:
            """While a checkpoint has written its pages, and not yet that they are all."""
            passed = (os.dup(opened.owner), os.dup(opened.memory))
            rule = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1")
            command = ("strace", "-f", "-qq", "-o", tmp_path / "trace", *rule, sys.executable)
            try:
                ended = execute(*command, "-c", SUCCEED, path, *passed, pass_fds=passed)
            finally:
                for descriptor in passed:
                    os.close(descriptor)
            assert (ended.returncode, ended.stdout) == (0, "2\n"), ended.stderr
            return {}

        opened.leaves = succeed
        with pytest.raises(StoreError, match="Input/output error"):
            opened.checkpoint()
        assert opened.rescue(enough=lambda: True) == 0  # this node has nothing left to save
    assert identity_of(path) is None
    assert verify(path) == []
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as again:
        assert again.an(*COIN) == again.an(*OTHER_COIN) == AN


def test_another_store_s_changes_are_not_taken_for_the_abandoned_ones(tmp_path: Path) -> None:
    path = abandoned_store(tmp_path / "store")
    other = make_store(tmp_path / "other", {COIN: (AN, 7)})
    shutil.rmtree(path / "journal")
    shutil.copytree(other / "journal", path / "journal")
    before = tree(path / "journal")
    with pytest.raises(StoreError, match=r"holds changes of another data\.mdb"):
        Store(path, map_bytes=MAP_BYTES)
    assert tree(path / "journal") == before
    shutil.rmtree(path / "journal")
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened:
        assert opened.an(*OTHER_COIN) == AN


def test_a_first_start_killed_at_any_step_is_completed_by_the_next(tmp_path: Path) -> None:
    made = filled_store(tmp_path / "made")
    points = killing_points(START, Path(shutil.copytree(made, tmp_path / "store")))
    assert len(points) > 15
    seen = set()
    for at, point in enumerate(points):
        path = Path(shutil.copytree(made, tmp_path / f"store {at}"))
        status, printed = kill_at(point, START, path)
        assert status == -signal.SIGKILL, point
        seen.add((identity_of(path) is None, (path / "journal").exists(), printed))
        assert verify(path) == [], point
        with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened:
            assert opened.native.page(PAGE)[0] == page_bytes(PAGE)
            if "changed" in printed:
                assert opened.an(*COIN) == AN, point
        assert verify(path) == []
        shutil.rmtree(path)
    assert {(True, False, ""), (True, True, ""), (False, True, "")} <= seen
    assert (False, True, "started\nchanged\n") in seen


def test_an_import_killed_while_it_takes_the_journal_away(data: Path, tmp_path: Path) -> None:
    """Into a store that was served, but of which no coin was changed."""
    made = make_store(tmp_path / "made")
    script = (
        "import sys; from pathlib import Path\n"
        "from raida_uring.store.transfer import import_files\n"
        f"import_files(Path({str(data)!r}), Path(sys.argv[1]))"
    )
    points = killing_points(script, Path(shutil.copytree(made, tmp_path / "store")))
    for at, point in enumerate(points):
        if point[0] == "pwrite64" and point[1] % 20:  # of thousands, most among the pages
            continue
        path = Path(shutil.copytree(made, tmp_path / f"store {at}"))
        assert kill_at(point, script, path)[0] == -signal.SIGKILL
        done("import", data, "--store", path)
        assert_no_journal(path)
        assert verify(path) == []
        shutil.rmtree(path)


READ = """
import pathlib, sys
from raida_uring.store.verify import stat, verify
path, rounds = pathlib.Path(sys.argv[1]), 0
while not (path.parent / "stop").exists():
    assert verify(path) == []
    assert stat(path).pages_written in (1, 2)
    rounds += 1
    print("read", flush=True)
"""


def test_readers_beside_the_first_start(tmp_path: Path) -> None:
    """They see the store before it or after it, also if a checkpoint comes in between."""
    for tries in range(5):
        path = filled_store(tmp_path / str(tries) / "store")
        with subprocess.Popen(
            [sys.executable, "-c", READ, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "read\n"
            with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as served:
                for number in range(5):
                    with served.write() as coins:
                        coins.set(coin_bytes(COIN) + b"%016d" % number, 1, 21, 7)
                    served.checkpoint()
                (path.parent / "stop").touch()
                assert reader.communicate()[1] == ""
        assert reader.returncode == 0
