"""`raida-uring store` on full disks and with other users' files.

What must hold: a fault is one line, and leaves existing files unchanged.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.errors import StoreError
from raida_uring.store import PAGE_SIZE, Store, page_of
from raida_uring.store.backup import backup
from raida_uring.store.convert import convert
from raida_uring.store.transfer import UNFINISHED_EXPORT, export_files, import_files
from raida_uring.store.verify import stat, verify
from tests.support.command_line import environment, execute
from tests.support.old_store import write_old_store
from tests.support.page_files import page_bytes, write_page_files
from tests.support.store import make_store
from tests.support.store_tools import NOBODY, STORE, assert_import_succeeds, done, refused, store

pytestmark = pytest.mark.any_backend


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = execute("mount", "-t", "tmpfs", "-o", "size=24m", "none", place)
    if mounted.returncode != 0:
        why = mounted.stderr.strip().rpartition(": ")[2]  # without the directory of this run
        pytest.skip(f"no tmpfs may be mounted here (CAP_SYS_ADMIN): {why}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_full_disk(data: Path, small_disk: Path, tmp_path: Path) -> None:
    done("init", "--store", small_disk / "store")
    ballast = fill_up(small_disk)
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


def test_a_disk_that_fills_within_a_commit_is_reported(small_disk: Path, tmp_path: Path) -> None:
    """The kernel then writes a part of it, and LMDB reports a disk fault."""
    sizes = {page_of(2, page): 3 * PAGE_SIZE for page in range(600)}
    data = write_page_files(tmp_path / "Data", sizes)
    full = "No space left on device"
    refused(store("import", data, "--store", small_disk / "store"), full)
    importing = (*STORE, "import", data, "--store", tmp_path / "limited")
    refused(execute("prlimit", "--fsize=10000000", *importing), "File too large")


def test_export_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    sizes = {page_of(2, page): 3 * PAGE_SIZE for page in range(600)}
    data = write_page_files(tmp_path / "Data", sizes)
    done("import", data, "--store", tmp_path / "store")
    target = small_disk / "out"
    refused(store("export", target, "--store", tmp_path / "store"), "02/.*: No space left")
    assert (target / UNFINISHED_EXPORT).exists()
    refused(store("import", target, "--store", tmp_path / "new"), "did not come to its end")


def fill_up(disk: Path) -> Path:
    """A file that takes all that is left."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def test_backup_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    sizes = {page_of(2, page): PAGE_SIZE for page in range(1200)}
    data = write_page_files(tmp_path / "Data", sizes)
    done("import", data, "--store", tmp_path / "store")
    refused(store("backup", small_disk / "copy", "--store", tmp_path / "store"), "No space left")
    assert not any(small_disk.iterdir())


def test_conversion_on_a_full_disk(small_disk: Path) -> None:
    page = page_bytes(0)
    tables = {
        "meta": {b"format": b"1", b"seed": b"4567"},
        "pages": {number.to_bytes(2): page for number in range(700)},
    }
    path = write_old_store(small_disk / "store", tables)
    before = (path / "data.mdb").read_bytes()
    for prepare in (lambda: None, lambda: fill_up(small_disk)):
        prepare()  # first there is too little for a second file, then nothing
        refused(store("convert", "--store", path), "No space left")
        assert (path / "data.mdb").read_bytes() == before
        assert {one.name for one in path.iterdir()} <= {"data.mdb", "lock.mdb", "owner"}
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=48m", str(small_disk)], check=True)
    done("convert", "--store", path)
    assert verify(path) == []


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
            lambda: backup(path, tmp_path / "out"),
            lambda: convert(path),
            lambda: import_files(closed, tmp_path / "other"),
        ):
            with denied:
                attempt()
    finally:
        os.seteuid(0)


@pytest.fixture
def for_all(place: Path) -> Path:
    """A directory that every user may enter, which pytest's own are not."""
    place.chmod(0o755)
    return place


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to look at another user's store")
@pytest.mark.parametrize("command", ["verify", "stat", "export", "backup"])
def test_commands_that_only_read_leave_no_files_of_their_own(
    imported: Path, tmp_path: Path, command: str
) -> None:
    """A restored backup has no lock.mdb: root reads the store before the service starts."""
    path = Path(shutil.copytree(imported, tmp_path / "store"))
    (path / "lock.mdb").unlink(missing_ok=True)
    for one in (path, *path.iterdir()):
        os.chown(one, NOBODY, NOBODY)
    (path / "data.mdb").chmod(0o640)
    arguments = [tmp_path / "out"] if command in ("export", "backup") else []
    done(command, *arguments, "--store", path)
    lock = (path / "lock.mdb").stat()
    assert (lock.st_uid, lock.st_gid, lock.st_mode & 0o777) == (NOBODY, NOBODY, 0o640)
    assert {one.stat().st_uid for one in path.iterdir()} == {NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to open another user's store")
def test_root_serves_once_and_leaves_no_files_of_root(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {(0, 5): (b"o" * 16, 1)})
    (path / "data.mdb").chmod(0o640)
    for one in (path, *path.rglob("*")):
        os.chown(one, NOBODY, NOBODY)
    for lost in ("lock.mdb", "owner", "journal/writer"):
        (path / lost).unlink(missing_ok=True)  # as from a backup
    with contextlib.closing(Store(path)) as opened:
        opened.checkpoint(pause_s=0)  # which prepares a segment
    found = {one.name: (one.stat().st_uid, one.stat().st_mode & 0o777) for one in path.iterdir()}
    files = dict.fromkeys(("data.mdb", "lock.mdb", "owner"), (NOBODY, 0o640))
    assert found == files | {"journal": (NOBODY, 0o700)}
    assert {one.stat().st_uid for one in (path / "journal").iterdir()} == {NOBODY}
    (path / "owner").unlink()
    (tmp_path / "of root").write_text("kept")
    (path / "owner").symlink_to(tmp_path / "of root")
    with pytest.raises(StoreError, match="owner: is a symbolic link, which is not followed"):
        Store(path)
    (path / "data.mdb").unlink()
    with pytest.raises(StoreError, match=r"journal: holds changes .* data\.mdb is missing"):
        Store.create(path)
    shutil.rmtree(path / "journal")
    with pytest.raises(StoreError, match="owner: is a symbolic link, which is not followed"):
        Store.create(path)
    assert (tmp_path / "of root").read_text() == "kept"
    assert (tmp_path / "of root").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to fill another user's store")
def test_root_imports_and_leaves_no_files_of_root(data: Path, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    for one in (path, *path.rglob("*")):
        os.chown(one, NOBODY, NOBODY)
    done("import", data, "--store", path)
    assert {one.stat().st_uid for one in path.rglob("*")} == {NOBODY}


def test_a_link_in_place_of_lock_mdb_is_not_followed(tmp_path: Path) -> None:
    """The store's owner may have put the link there to mislead root."""
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
@pytest.mark.parametrize("served", [False, True])
def test_a_backup_is_looked_at_by_who_may_only_read_it(
    imported: Path, for_all: Path, served: bool
) -> None:
    """One that no node has served has no journal to be made readable."""
    path = Path(shutil.copytree(imported, for_all / "store"))
    if served:
        Store(path).close()
        for segment in (path / "journal").iterdir():
            segment.chmod(0o444)
        (path / "journal").chmod(0o555)
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
    assert sorted(one.name for one in path.iterdir()) == ["data.mdb", *["journal"] * served]
    (path / "lock.mdb").touch(mode=0o644)  # saved with the rest
    look()
    # Not while a user who may write has it open: the content would change meanwhile.
    script = (
        "import sys; from raida_uring.store import Store; "
        "store = Store(sys.argv[1], read_only=True); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
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
@pytest.mark.parametrize(
    "file", ["data.mdb", "lock.mdb", "owner", "journal", "journal/0000000000000001.journal", ""]
)
def test_the_file_that_may_not_be_used_is_named(imported: Path, for_all: Path, file: str) -> None:
    path = Path(shutil.copytree(imported, for_all / "store"))
    Store(path).close()  # which makes the journal
    for one in (path / "lock.mdb", path / "owner"):
        one.touch()
    for one in (path, *path.rglob("*")):
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
