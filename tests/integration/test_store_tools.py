"""`raida-uring store`, as an operator uses it. What must hold: import and export lose and change no
byte; a store that does not hold everything never serves; whatever stands in the way is one line and
exit status 2, and leaves what was there as it was."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.store import PAGE_SIZE, STORE_PAGES, Store, page_of
from raida_uring.store.layout import file_name
from raida_uring.store.transfer import UNFINISHED_EXPORT, export_files, import_files
from raida_uring.store.trees import Integrity
from raida_uring.store.verify import stat, verify
from tests.support.net import PATIENCE
from tests.support.node import (
    REPOSITORY,
    assert_refuses_to_start,
    config_text,
    daemon,
    environment,
)
from tests.support.page_files import page_bytes, tree, write_page_files
from tests.support.store import MAP_BYTES, coin_bytes, make_store

pytestmark = pytest.mark.any_backend

TIMEOUT_S = 120.0 * PATIENCE
NOBODY = 65534

# Whole, short, empty and longer files; every other one is missing.
SIZES = {
    page_of(-8, 0): PAGE_SIZE,
    page_of(-8, 999): PAGE_SIZE,
    page_of(-1, 255): PAGE_SIZE - 1,
    page_of(0, 0): PAGE_SIZE,
    page_of(0, 256): PAGE_SIZE + 1,
    page_of(0, 257): 0,
    page_of(1, 511): 5 * PAGE_SIZE,
    page_of(6, 17): 17,
    page_of(6, 999): PAGE_SIZE,
}


def store(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`raida-uring store ...`"""
    return subprocess.run(
        [sys.executable, "-m", "raida_uring", "store", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment(),
        cwd=cwd,
    )


def done(*args: object) -> str:
    """Standard output of a command that succeeds."""
    ended = store(*args)
    assert ended.returncode == 0, ended.stderr
    return str(ended.stdout)


def refused(ended: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert ended.returncode == 2, f"{ended.returncode} {ended.stdout}{ended.stderr}"
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert re.search(pattern, ended.stderr), ended.stderr
    assert not ended.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page_files(tmp_path_factory.mktemp("reference") / "Data", SIZES)


@pytest.fixture(scope="module")
def imported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imported") / "store"
    done("import", data, "--store", path)
    return path


@pytest.fixture
def copied(imported: Path, tmp_path: Path) -> Path:
    """The imported store, to be spoilt."""
    return Path(shutil.copytree(imported, tmp_path / "store"))


def unsafely(path: Path) -> contextlib.closing[Store]:
    """The store, to be changed without waiting for the disk."""
    return contextlib.closing(Store(path, durability="interval"))


def config_file(directory: Path, **settings: object) -> Path:
    path = directory / "store.toml"
    path.write_text(config_text({"store": settings}))
    return path


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
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as opened, opened.write() as coins:
        for page in range(STORE_PAGES):  # but for two: default pages take long to make
            if page not in (page_of(0, 0), page_of(-8, 999)):
                coins.put_file(page, None)
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


def assert_incomplete(path: Path, directory: Path) -> None:
    assert_refuses_to_start(
        directory, "holds only a part of the coins: the import of", store={"path": str(path)}
    )
    refused(store("export", directory / "none", "--store", path), "only a part of the coins")
    assert not (directory / "none").exists()
    ended = store("verify", "--store", path)
    assert ended.returncode == 1
    assert "only a part of the coins" in ended.stdout
    assert "the import of" in json.loads(done("stat", "--json", "--store", path))["unfinished"]


def assert_import_succeeds(data: Path, path: Path, directory: Path) -> None:
    done("import", data, "--store", path)
    done("export", directory / "out", "--store", path)
    assert tree(directory / "out") == tree(data)


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
    ended = subprocess.run(
        [sys.executable, "-c", script, data, path],
        cwd=REPOSITORY,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert_incomplete(path, tmp_path)
    assert_import_succeeds(data, path, tmp_path)


def test_import_stopped_at_the_terminal(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "raida_uring", "store", "import", str(data)]
    command += ["--store", str(path)]
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
    checked = subprocess.run(
        [sys.executable, "-m", "raida_uring", "config", "check", "--deep", tmp_path / "node.toml"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment(),
    )
    refused(checked, words)
    with daemon(tmp_path, server={"raida_id": 3, "port": 0}, store={"path": str(path)}):
        pass  # it is as it was
    done("import", data, "--store", path)  # which may be anybody's
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
        assert opened.default_an(0, 20).hex() == "84eabc36563a8222b8aab566122a43bb"


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
    with unsafely(copied) as opened, opened.write() as coins:
        coins.put(native_store.TABLE_PAGES, b"\0", b"")
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
    with contextlib.closing(Store(copied)) as opened:
        for value in (bytes(1 << 20), None):
            with opened.write() as coins:
                coins.put(native_store.TABLE_META, b"ballast", value)
    assert file.stat().st_size > full + (1 << 20)
    os.truncate(file, file.stat().st_size - (1 << 19))
    done("verify", "--store", copied)
    done("export", copied.parent / "out", "--store", copied)
    assert tree(copied.parent / "out") == tree(data)


def test_other_format(copied: Path) -> None:
    with unsafely(copied) as opened, opened.write() as coins:
        coins.put(native_store.TABLE_META, b"format", b"7")
    refused(store("stat", "--store", copied), "store of format 7, this version reads 1")
    assert_refuses_to_start(copied.parent, "store of format 7", store={"path": str(copied)})


def test_interrupted_init(tmp_path: Path) -> None:
    """What is left when the tables were made and nothing was written yet."""
    (tmp_path / "store").mkdir()
    native_store.Store(str(tmp_path / "store"), MAP_BYTES, native_store.STORE_CREATE).close()
    refused(store("stat", "--store", tmp_path / "store"), "store of format none")


BIG_TICKET = (2**32).to_bytes(8) + bytes(4) + coin_bytes((0, 1_024_000))

FAULTS = [
    (native_store.TABLE_PAGES, (3).to_bytes(2), bytes(100), "page f8/00/0003.bin has 100 bytes"),
    (native_store.TABLE_PAGES, (15000).to_bytes(2), b"", "a page is named 3a98"),
    (native_store.TABLE_PAGES, b"\0", b"", "a page is named 00,"),
    (native_store.TABLE_REMAINS, (0).to_bytes(2), b"m", "page f8/00/0000.bin contradicts"),
    (native_store.TABLE_REMAINS, (1).to_bytes(2), None, "page f8/00/0001.bin is empty"),
    (native_store.TABLE_REMAINS, (15000).to_bytes(2), b"m", "what remains of a file is named 3a98"),
    (native_store.TABLE_TICKETS, b"\1\2\3\4", b"short", "ticket 01020304 has 5 bytes"),
    (native_store.TABLE_TICKETS, b"\1\2\3\4", BIG_TICKET, "a coin that does not exist: 00000fa000"),
    (native_store.TABLE_TICKETS, b"\1\2", BIG_TICKET, "ticket 0102 is no ticket number"),
    (native_store.TABLE_CHANGED, (15000).to_bytes(2), b"", "a changed page is named 3a98"),
    (native_store.TABLE_LEAVES, b"\x0f", b"", "leaves 0f are no denomination's"),
    (native_store.TABLE_LEAVES, b"\x00", bytes(34000), "f8/00/0000.bin differs from the leaf"),
    (native_store.TABLE_META, b"seed", None, "has no seed"),
]


@pytest.mark.parametrize(("table", "key", "value", "words"), FAULTS)
def test_verify_finds(
    table: int, key: bytes, value: bytes | None, words: str, copied: Path
) -> None:
    with unsafely(copied) as opened:
        trees = Integrity(opened)
        trees.load()
        trees.save()  # so that leaves are compared
    assert verify(copied) == []
    with unsafely(copied) as opened, opened.write() as coins:
        coins.put(table, key, value)
    assert any(words in fault for fault in verify(copied))


# --- The machine in the way -------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        why = mounted.stderr.strip().rpartition(": ")[2]  # without the directory of this run
        pytest.skip(f"no tmpfs may be mounted here (CAP_SYS_ADMIN): {why}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_full_disk(data: Path, small_disk: Path, tmp_path: Path) -> None:
    done("init", "--store", small_disk / "store")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    full = "No space left on device"
    refused(store("import", data, "--store", small_disk / "store"), full)
    assert json.loads(done("stat", "--json", "--store", small_disk / "store"))["unfinished"] is None
    for place in (small_disk / "other", small_disk / "one" / "in" / "another"):
        refused(store("init", "--store", place), full)
        refused(store("import", data, "--store", place), full)
    kept = small_disk / "kept"
    with contextlib.suppress(OSError):
        kept.mkdir()
        refused(store("init", "--store", kept), full)
        assert not list(kept.iterdir())
    assert {one.name for one in small_disk.iterdir()} <= {"store", "ballast", "kept"}
    ballast.unlink()
    assert_import_succeeds(data, small_disk / "store", tmp_path)
    done("init", "--store", small_disk / "other")


def test_a_disk_that_fills_within_a_commit_is_told(small_disk: Path, tmp_path: Path) -> None:
    """The kernel writes a part of it then, which LMDB takes for a fault of the disk."""
    sizes = {page_of(2, page): 3 * PAGE_SIZE for page in range(600)}
    data = write_page_files(tmp_path / "Data", sizes)
    full = "No space left on device"
    refused(store("import", data, "--store", small_disk / "store"), full)
    program = (sys.executable, "-m", "raida_uring", "store", "import", data)
    limited = subprocess.run(
        ["prlimit", "--fsize=10000000", *program, "--store", tmp_path / "limited"],
        capture_output=True,
        text=True,
        check=False,
    )
    refused(limited, "File too large")


def test_export_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    sizes = {page_of(2, page): 3 * PAGE_SIZE for page in range(600)}
    data = write_page_files(tmp_path / "Data", sizes)
    done("import", data, "--store", tmp_path / "store")
    target = small_disk / "out"
    refused(store("export", target, "--store", tmp_path / "store"), "02/.*: No space left")
    assert (target / UNFINISHED_EXPORT).exists()
    refused(store("import", target, "--store", tmp_path / "new"), "did not come to its end")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_without_permission(imported: Path, data: Path, tmp_path: Path) -> None:
    """In this process, which has loaded everything that another user may not read."""
    path = Path(shutil.copytree(imported, tmp_path / "store"))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    denied = pytest.raises(StoreError, match="Permission denied")
    os.chmod(path, 0o700)
    os.seteuid(NOBODY)
    try:
        for attempt in (
            lambda: Store(path),
            lambda: Store.create(closed / "store"),
            lambda: stat(path),
            lambda: verify(path),
            lambda: export_files(path, tmp_path / "out"),
            lambda: import_files(closed, tmp_path / "other"),
        ):
            with denied:
                attempt()
    finally:
        os.seteuid(0)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A directory that every user may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="raida-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to look at another user's store")
@pytest.mark.parametrize("command", ["verify", "stat", "export"])
def test_who_only_looks_leaves_nothing_of_its_own(
    imported: Path, tmp_path: Path, command: str
) -> None:
    """As after a backup was restored, which needs no lock.mdb: the service starts after root."""
    path = Path(shutil.copytree(imported, tmp_path / "store"))
    (path / "lock.mdb").unlink(missing_ok=True)
    for one in (path, *path.iterdir()):
        os.chown(one, NOBODY, NOBODY)
    (path / "data.mdb").chmod(0o640)
    arguments = [tmp_path / "out"] if command == "export" else []
    done(command, *arguments, "--store", path)
    lock = (path / "lock.mdb").stat()
    assert (lock.st_uid, lock.st_gid, lock.st_mode & 0o777) == (NOBODY, NOBODY, 0o640)
    assert {one.stat().st_uid for one in path.iterdir()} == {NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to open another user's store")
def test_who_serves_as_root_once_leaves_nothing_of_root_s(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    (path / "data.mdb").chmod(0o640)
    for one in (path, *path.iterdir()):
        os.chown(one, NOBODY, NOBODY)
    for lost in ("lock.mdb", "owner"):
        (path / lost).unlink(missing_ok=True)  # as from a backup
    Store(path).close()
    found = {one.name: (one.stat().st_uid, one.stat().st_mode & 0o777) for one in path.iterdir()}
    assert found == dict.fromkeys(("data.mdb", "lock.mdb", "owner"), (NOBODY, 0o640))
    (path / "owner").unlink()
    (tmp_path / "of root").write_text("kept")
    (path / "owner").symlink_to(tmp_path / "of root")
    with pytest.raises(StoreError, match="owner: is a symbolic link, which is not followed"):
        Store(path)
    assert (tmp_path / "of root").read_text() == "kept"
    assert (tmp_path / "of root").stat().st_uid == 0


def test_a_link_in_place_of_lock_mdb_is_not_followed(tmp_path: Path) -> None:
    """The store's owner may have put it there for root."""
    path = make_store(tmp_path / "store")
    other = tmp_path / "other"
    other.write_text("kept")
    for led_to in (other, tmp_path / "made"):
        (path / "lock.mdb").unlink()
        (path / "lock.mdb").symlink_to(led_to)
        for asked in ("stat", "verify", "export"):
            where = ["--store", path, *([tmp_path / "files"] if asked == "export" else [])]
            refused(store(asked, *where), "lock.mdb is a symbolic link, which is not followed")
        with pytest.raises(StoreError, match=r"lock\.mdb is a symbolic link"):
            Store(path)
    assert other.read_text() == "kept"
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_backup_is_looked_at_by_who_may_only_read_it(imported: Path, for_all: Path) -> None:

    path = Path(shutil.copytree(imported, for_all / "store"))
    (path / "owner").unlink(missing_ok=True)
    (path / "lock.mdb").unlink(missing_ok=True)
    (path / "data.mdb").chmod(0o444)
    path.chmod(0o555)

    def look() -> None:
        os.seteuid(NOBODY)
        try:
            assert verify(path) == []
            assert stat(path).pages_written > 0
        finally:
            os.seteuid(0)

    look()
    assert sorted(one.name for one in path.iterdir()) == ["data.mdb"]
    (path / "lock.mdb").touch(mode=0o644)  # saved with the rest
    look()
    # Not while somebody has it open, who may write: what is read would change meanwhile.
    script = (
        "import sys; from raida_uring.store import Store; "
        "store = Store(sys.argv[1], read_only=True); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match=r"lock\.mdb: Permission denied|Permission denied"):
            look()
        user.communicate()


def test_export_into_the_root_of_a_file_system(imported: Path, tmp_path: Path) -> None:
    target = tmp_path / "volume"
    (target / "lost+found").mkdir(parents=True)
    done("export", target, "--store", imported)
    assert "no page file" not in store("import", target, "--store", tmp_path / "new").stderr
    (target / "lost+found").rmdir()
    other = tmp_path / "other"
    (other / "lost+found").mkdir(parents=True)
    (other / "letter").touch()
    refused(store("export", other, "--store", imported), "is not empty")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("file", ["data.mdb", "lock.mdb", "owner", ""])
def test_the_file_that_may_not_be_used_is_named(imported: Path, for_all: Path, file: str) -> None:
    path = Path(shutil.copytree(imported, for_all / "store"))
    for one in (path / "lock.mdb", path / "owner"):
        one.touch()
    for one in (path, *path.iterdir()):
        os.chown(one, NOBODY, NOBODY)
    os.chown(path / file, 0, 0)
    (path / file).chmod(0o700)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(
            StoreError, match=f"^{path / file}: Permission denied: it belongs to root .*chown -R"
        ):
            Store(path)
    finally:
        os.seteuid(0)
