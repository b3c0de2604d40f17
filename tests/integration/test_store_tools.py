"""`raida-uring store`, as an operator uses it. What must hold: import and export lose and change no
byte; an incomplete store never serves; a fault is one line and exit status 2, and leaves existing
files unchanged."""

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from raida_uring.ffi import native_base
from raida_uring.ffi.native_store import DEN_PAGES
from raida_uring.store import PAGE_SIZE, STORE_PAGES, Store, page_of
from raida_uring.store.layout import file_name
from raida_uring.store.transfer import UNFINISHED_EXPORT
from raida_uring.store.trees import Integrity
from raida_uring.store.verify import stat, verify
from tests.support.command_line import TIMEOUT_S, environment, run, run_script
from tests.support.node import assert_refuses_to_start, daemon
from tests.support.page_files import page_bytes, tree
from tests.support.store import MAP_BYTES, coin_bytes, make_store, put_entry, put_files
from tests.support.store_tools import (
    SIZES,
    STORE,
    assert_import_succeeds,
    assert_incomplete,
    config_file,
    done,
    refused,
    store,
)

pytestmark = pytest.mark.any_backend


@pytest.fixture
def copied(imported: Path, tmp_path: Path) -> Path:
    """The imported store, to be spoilt."""
    return Path(shutil.copytree(imported, tmp_path / "store"))


# --- Round trip -------------------------------------------------------------------------------


def test_export_of_an_import_is_identical(data: Path, imported: Path, tmp_path: Path) -> None:
    done("export", tmp_path / "out", "--store", imported)
    assert tree(tmp_path / "out") == tree(data)
    assert done("verify", "--store", imported).endswith(": correct\n")
    found = json.loads(done("stat", "--json", "--store", imported))
    assert found["pages_written"] == sum(size >= PAGE_SIZE for size in SIZES.values())
    assert found["pages_unreadable"] == STORE_PAGES - found["pages_written"]
    assert found["circulating"]["6"] == sum(map(bool, page_bytes(page_of(6, 999))[16::17]))
    assert found["unfinished"] is None


def test_import_says_what_is_not_as_it_should_be(data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "Data"))
    strays = ("notes.txt", "f8/05/0500.bin", "f8/00/0100.bin", "f8/00/0000.bin~", "F9/00/0000.bin")
    for name in strays:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(b"stray")
    ended = store("import", other, "--store", tmp_path / "store")
    assert ended.returncode == 0
    for name in ("notes.txt", "f8/05", "f8/00/0100.bin", "f8/00/0000.bin~", "F9"):
        assert f"warning: {name} is no page file" in ended.stderr
    assert f"{STORE_PAGES - len(SIZES)} page files are missing and 3 too short" in ended.stderr
    done("export", tmp_path / "out", "--store", tmp_path / "store")
    assert tree(tmp_path / "out") == tree(data)


def test_changed_and_new_pages_are_exported(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {(0, 20): (b"\xa5" * 16, 7)})
    kept = (page_of(0, 0), page_of(-8, 999))
    put_files(path, {page: None for page in range(STORE_PAGES) if page not in kept})
    done("export", tmp_path / "out", "--store", path)
    files = tree(tmp_path / "out")
    assert sorted(files) == ["00/00/0000.bin", "f8/03/03e7.bin"]
    assert files["00/00/0000.bin"][20 * 17 : 21 * 17] == b"\xa5" * 16 + b"\x07"
    # Of the wire specification: the AN of denomination -8, serial number 1023998.
    expected = bytes.fromhex("3f1de9a8b4cfb6d728de9e74eb1ef27300")
    assert files["f8/03/03e7.bin"][1022 * 17 : 1023 * 17] == expected


def test_a_running_node_is_read_and_not_written(data: Path, copied: Path, tmp_path: Path) -> None:
    with daemon(tmp_path, store={"path": str(copied)}) as node:
        done("export", tmp_path / "out", "--store", copied)
        assert tree(tmp_path / "out") == tree(data)
        done("verify", "--store", copied)
        done("stat", "--config", tmp_path / "node.toml")
        refused(store("import", data, "--store", copied), f"in use by process {node.process.pid}")
        refused(store("init", "--store", copied), "holds a store already")
    done("verify", "--store", copied)  # with the leaves that the node saved


# --- Interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
def test_killed_import_is_incomplete(data: Path, tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "store"
    if existing:
        done("init", "--store", path)
    script = (
        "import os, pathlib, sys; from raida_uring.store.transfer import import_files\n"
        "stop = lambda done, total: done >= total // 2 and os.kill(os.getpid(), 9)\n"
        "import_files(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), progress=stop)"
    )
    assert run_script(script, data, path).returncode == -signal.SIGKILL
    assert_incomplete(path, tmp_path)
    assert_import_succeeds(data, path, tmp_path)


def test_import_stopped_at_the_terminal(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    ours, theirs = pty.openpty()
    command = [*STORE, "import", str(data), "--store", str(path)]
    with subprocess.Popen(command, stderr=theirs, env=environment()) as process:
        os.close(theirs)
        shown = b""
        while b"importing [" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while more := os.read(ours, 4096):
                shown += more
        assert process.wait(TIMEOUT_S) == 130
    os.close(ours)
    assert b"interrupted: holds only a part of the coins" in shown
    assert b"Traceback" not in shown
    assert_incomplete(path, tmp_path)


def put_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def put_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def put_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def put_too_long(file: Path) -> None:
    os.truncate(file, (1 << 20) + 1)


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (put_directory, "Is a directory"),
        (put_fifo, "is not a file"),
        (put_dangling_link, "No such file"),
        (put_too_long, "longer than 1 MiB"),
    ],
)
def test_file_that_cannot_be_read_is_not_missing(
    put: Callable[[Path], None], words: str, data: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(data, tmp_path / "Data"))
    put(other / file_name(page_of(6, 999)))
    refused(store("import", other, "--store", tmp_path / "store"), f"06/03/03e7.bin: .*{words}")
    assert not (tmp_path / "store").exists()
    done("init", "--store", tmp_path / "store")  # this one stays, and says what it holds
    refused(store("import", other, "--store", tmp_path / "store"), f"06/03/03e7.bin: .*{words}")
    assert_refuses_to_start(
        tmp_path, "holds only a part of the coins", store={"path": str(tmp_path / "store")}
    )


def test_a_store_is_of_the_raida_that_served_it(data: Path, tmp_path: Path) -> None:
    """With another's store a node would call every coin counterfeit."""
    path = tmp_path / "store"
    done("init", "--store", path)
    assert json.loads(done("stat", "--json", "--store", path))["raida_id"] is None
    with daemon(tmp_path, server={"raida_id": 3, "port": 0}, store={"path": str(path)}):
        pass
    assert json.loads(done("stat", "--json", "--store", path))["raida_id"] == 3
    assert re.search(r"^RAIDA +3$", done("stat", "--store", path), re.MULTILINE)
    other = {"raida_id": 5, "port": 0}
    words = "is the store of RAIDA 3, and .server. raida_id = 5"
    assert_refuses_to_start(tmp_path, words, server=other, store={"path": str(path)})
    refused(run("config", "check", "--deep", tmp_path / "node.toml"), words)
    with daemon(tmp_path, server={"raida_id": 3, "port": 0}, store={"path": str(path)}):
        pass  # it is as it was
    done("import", data, "--store", path)  # page files may be of any RAIDA
    assert json.loads(done("stat", "--json", "--store", path))["raida_id"] is None


def test_unfinished_export_is_not_imported(data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "Data"))
    (other / UNFINISHED_EXPORT).touch()
    refused(store("import", other, "--store", tmp_path / "store"), "export that did not come to")
    assert not (tmp_path / "store").exists()


# --- Refusals ---------------------------------------------------------------------------------


def test_init_keeps_its_secret_and_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "store"
    shown = done("init", "--config", config_file(tmp_path, path=str(path), size_mib=32))
    assert str(path) in shown
    assert "32 MiB" in shown
    with contextlib.closing(Store(path)) as opened:
        assert len(opened.seed) == 32
        assert opened.seed.decode() not in shown
    content = (path / "data.mdb").read_bytes()
    refused(store("init", "--store", path), "holds a store already")
    assert (path / "data.mdb").read_bytes() == content
    done("init", "--store", tmp_path / "b", "--seed", "4567")
    with contextlib.closing(Store(tmp_path / "b")) as opened:
        assert opened.an(0, 20) == bytes.fromhex("84eabc36563a8222b8aab566122a43bb")


def test_control_characters_of_a_path_do_not_reach_the_terminal(tmp_path: Path) -> None:
    shown = done("init", "--demo", "--store", tmp_path / "a\x1b[2J\nb")
    assert shown.startswith(f"# {tmp_path}/a?[2J?b: ")


def test_a_demonstration_for_a_configuration_that_can_be_read_once(tmp_path: Path) -> None:
    text = config_file(tmp_path, path=str(tmp_path / "store"), size_mib=32).read_text()
    ended = store("init", "--demo", "--config", "/dev/stdin", input=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "calls.pown" in ended.stdout


@pytest.mark.parametrize("command", [["verify"], ["stat"], ["export", "out"]])
def test_no_store(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    missing = "not a store: is its disk mounted?"
    for name, words in (("none", missing), (".", missing), ("file", "is not a directory")):
        refused(store(*command, "--store", tmp_path / name, cwd=tmp_path), words)
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_wrong_usage(data: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    which = "say which store: --config FILE or --store DIR"
    refused(store("stat"), which)
    refused(store("stat", "--store", tmp_path, "--config", config), f"{which}, not both")
    refused(store("stat", "--config", config), r"\[store\] path is not set")
    refused(store("init", "--store", tmp_path / "s", "--seed", "é"), "printable ASCII")
    refused(store("init", "--store", config), "is not a directory")
    refused(store("import", tmp_path / "none", "--store", tmp_path / "s"), "none: No such file")
    refused(store("import", config, "--store", tmp_path / "s"), "Not a directory")
    refused(store("import", tmp_path, "--store", tmp_path / "s"), "no page file in it")
    refused(store("import", data.parent, "--store", tmp_path / "s"), "such as .*/Data")
    assert not (tmp_path / "s").exists()


def test_import_into_a_used_store(data: Path, imported: Path) -> None:
    before = (imported / "data.mdb").read_bytes()
    refused(store("import", data, "--store", imported), "import into a new store")
    assert (imported / "data.mdb").read_bytes() == before


def test_export_into_a_used_directory(imported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(store("export", tmp_path, "--store", imported), "is not empty")
    refused(store("export", tmp_path / "file", "--store", imported), "is not a directory")
    assert os.listdir(tmp_path) == ["file"]


def test_map_too_small(data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "Data"))
    source = other / file_name(page_of(-8, 0))
    for page in range(1, 999):
        target = other / file_name(page_of(-8, page))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source)
    path = tmp_path / "store"
    small = config_file(tmp_path, path=str(path), size_mib=16)
    refused(store("import", other, "--config", small), r"full: raise \[store\] size_mib")
    assert not path.exists()
    done("import", other, "--store", path)
    refused(store("import", other, "--config", small), "MiB allowed: raise .store. size_mib")
    done("verify", "--config", small)  # reading needs no room


# --- Damage -----------------------------------------------------------------------------------


def overwrite(path: Path, at: int, what: bytes) -> None:
    with (path / "data.mdb").open("r+b") as file:
        file.seek(at)
        file.write(what)


def spoil_heads(path: Path) -> None:
    overwrite(path, 0, b"\xff" * 8192)


def spoil_version(path: Path) -> None:
    for page in (0, 4096):
        overwrite(path, page + 20, b"\x09")


def cut_off(path: Path) -> None:
    os.truncate(path / "data.mdb", 5 * 4096)


def cut_heads(path: Path) -> None:
    os.truncate(path / "data.mdb", 100)


def empty(path: Path) -> None:
    os.truncate(path / "data.mdb", 0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_heads, "damaged"),
        (spoil_version, "another version of LMDB"),
        (cut_off, "damaged"),
        (cut_heads, "damaged"),
        (empty, "damaged: it is empty"),
    ],
)
def test_damaged_store(spoil: Callable[[Path], None], words: str, copied: Path) -> None:
    spoil(copied)
    before = (copied / "data.mdb").read_bytes()
    refused(store("export", copied.parent / "out", "--store", copied), words)
    refused(store("stat", "--store", copied), words)
    assert_refuses_to_start(copied.parent, words, store={"path": str(copied)})
    ended = store("verify", "--store", copied)
    assert (ended.returncode, "Traceback" in ended.stderr) in ((1, False), (2, False))
    assert re.search(words, ended.stdout + ended.stderr)
    assert (copied / "data.mdb").read_bytes() == before


def test_verify_fails_with_what_it_found(copied: Path) -> None:
    put_entry(copied, native_base.TABLE_PAGES, b"\0", b"")
    ended = store("verify", "--store", copied)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout == "a page is named 00, which no page is\n"


def test_damage_in_the_middle_is_found_by_verify_alone(copied: Path) -> None:
    size = (copied / "data.mdb").stat().st_size
    overwrite(copied, 8192, os.urandom(size - 8192))
    ended = store("verify", "--store", copied)
    assert ended.returncode == 1, ended.stderr
    assert "damaged" in ended.stdout


def test_missing_free_pages_at_the_end_are_no_damage(copied: Path, data: Path) -> None:
    """LMDB may leave them unwritten."""
    file = copied / "data.mdb"
    full = file.stat().st_size
    for value in (bytes(1 << 20), None):
        put_entry(copied, native_base.TABLE_META, b"ballast", value)
    assert file.stat().st_size > full + (1 << 20)
    os.truncate(file, file.stat().st_size - (1 << 19))
    done("verify", "--store", copied)
    done("export", copied.parent / "out", "--store", copied)
    assert tree(copied.parent / "out") == tree(data)


def test_other_format(copied: Path) -> None:
    put_entry(copied, native_base.TABLE_META, b"format", b"7")
    refused(store("stat", "--store", copied), "store of format 7, this version reads 2")
    assert_refuses_to_start(copied.parent, "store of format 7", store={"path": str(copied)})


def test_interrupted_init(tmp_path: Path) -> None:
    """What is left when the tables were made and nothing was written yet."""
    (tmp_path / "store").mkdir()
    native_base.Base(str(tmp_path / "store"), MAP_BYTES, native_base.BASE_CREATE).close()
    refused(store("stat", "--store", tmp_path / "store"), "store of format none")


FAULTS = [
    (native_base.TABLE_PAGES, (3).to_bytes(2), bytes(100), "page f8/00/0003.bin is damaged"),
    (native_base.TABLE_PAGES, (0).to_bytes(2), bytes(PAGE_SIZE + 48), "0000.bin is damaged"),
    (native_base.TABLE_PAGES, (15000).to_bytes(2), b"", "a page is named 3a98"),
    (native_base.TABLE_PAGES, b"\0", b"", "a page is named 00,"),
    (native_base.TABLE_REMAINS, (0).to_bytes(2), b"m", "page f8/00/0000.bin contradicts"),
    (native_base.TABLE_REMAINS, (1).to_bytes(2), None, "page f8/00/0001.bin is empty"),
    (native_base.TABLE_REMAINS, (15000).to_bytes(2), b"m", "what remains of a file is named 3a98"),
    (native_base.TABLE_LEAVES, b"\x0f", b"", "leaves 0f are no denomination's"),
    (native_base.TABLE_LEAVES, b"\x00", bytes(42 * DEN_PAGES), "f8/00/0000.bin differs from the"),
    (native_base.TABLE_META, b"seed", None, "has no seed"),
]


def save_leaves(path: Path) -> None:
    """As a checkpoint of a node does."""
    with contextlib.closing(Store(path)) as opened:
        trees = Integrity(opened)
        trees.load()
        opened.leaves = trees.saved
        opened.checkpoint(pause_s=0)


@pytest.mark.parametrize(("table", "key", "value", "words"), FAULTS)
def test_verify_finds(
    table: int, key: bytes, value: bytes | None, words: str, copied: Path
) -> None:
    save_leaves(copied)  # so that leaves are compared
    assert verify(copied) == []
    put_entry(copied, table, key, value)
    assert any(words in fault for fault in verify(copied))


def test_verify_compares_pages_with_their_sha256(copied: Path) -> None:
    """A page with the right checksum, which a start looks at, may still not be what was written."""
    page = page_of(6, 999)
    base = native_base.Base(str(copied), MAP_BYTES, 0)
    with contextlib.closing(base), base.txn(writing=True) as txn:
        txn.put_page(page, page_bytes(page), 0, bytes(32))
    wrong = "its bytes do not have the SHA-256 that was written with them"
    assert verify(copied) == [f"page 06/03/03e7.bin is damaged: {wrong}"]


def test_an_identity_that_is_gone(copied: Path) -> None:
    put_entry(copied, native_base.TABLE_META, b"identity", None)
    for command in ("verify", "stat"):
        refused(store(command, "--store", copied), "damaged: the store's identity is gone")


# --- The journal ------------------------------------------------------------------------------


def change(path: Path, batches: int) -> None:
    """Change a coin in each of `batches` batches."""
    with contextlib.closing(Store(path)) as opened:
        for number in range(batches):
            with opened.write() as coins:
                coins.set(coin_bytes((0, 1024)) + b"%016d" % number, 1, 21, 7)


def spoil_entry(path: Path) -> None:
    """The second of three."""
    with (path / "journal" / "0000000000000001.journal").open("r+b") as file:
        file.seek(2 * 4096 + 70)  # in its change
        file.write(b"\xff")


def exchange_journal(path: Path) -> None:
    shutil.rmtree(path / "journal")
    shutil.copytree(make_store(path.parent / "other") / "journal", path / "journal")


def forget_changes(path: Path) -> None:
    """The journal as it was before the changes that the base has."""
    older = shutil.copytree(path / "journal", path.parent / "older")
    change(path, 1)
    with contextlib.closing(Store(path)) as opened:
        opened.checkpoint(pause_s=0)
    shutil.rmtree(path / "journal")
    shutil.move(older, path / "journal")


def remove_journal(path: Path) -> None:
    shutil.rmtree(path / "journal")


JOURNAL_FAULTS = [
    (spoil_entry, "journal: the journal is damaged: .* restore a backup"),
    (exchange_journal, "journal: the journal belongs to another store: restore it together"),
    (forget_changes, "journal: a part of the journal is missing: .* from one backup"),
    (remove_journal, "journal: is missing: it has the newest changes"),
]


@pytest.mark.parametrize(("spoil", "words"), JOURNAL_FAULTS)
def test_a_faulty_journal(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    change(path, 3)
    assert verify(path) == []
    spoil(path)
    for command in (["stat"], ["export", tmp_path / "out"], ["backup", tmp_path / "out"]):
        refused(store(*command, "--store", path), words)
    assert_refuses_to_start(tmp_path, words, store={"path": str(path)})
    ended = store("verify", "--store", path)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert re.search(words, ended.stdout)
    assert len(ended.stdout.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_pages_ahead_of_the_journal_are_found(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    change(path, 1)
    content = page_bytes(page_of(6, 999))
    base = native_base.Base(str(path), MAP_BYTES, 0)
    with contextlib.closing(base), base.txn(writing=True) as txn:
        txn.put_page(page_of(6, 999), content, 7, hashlib.sha256(content).digest())
    faults = verify(path)
    assert len(faults) == 1
    assert "1 pages have changes up to number 7, and the journal ends at 1" in faults[0]


def test_stat_shows_what_a_start_replays(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    change(path, 5)
    found = stat(path)
    assert (found.journal_entries, found.checkpoint_age_s, found.pages_written) == (5, None, 1)
    assert found.journal_bytes == 1 << 20
    assert "5 batches of changes since the last checkpoint (none yet)" in found.table()
    with contextlib.closing(Store(path)) as opened:
        opened.checkpoint(pause_s=0)
    found = stat(path)
    assert (found.journal_entries, found.pages_written) == (0, 1)
    assert found.checkpoint_age_s is not None
    assert found.checkpoint_age_s < 60


def test_reading_makes_no_file_and_changes_none(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    change(path, 2)
    (path / "owner").unlink()
    (path / "journal" / "writer").unlink()
    before = tree(path)
    done("stat", "--store", path)
    done("verify", "--store", path)
    done("backup", tmp_path / "copy", "--store", path)
    after = tree(path)
    for one in (before, after):
        del one["lock.mdb"]  # LMDB's, where readers are noted
    assert after == before
