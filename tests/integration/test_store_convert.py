"""`store convert`: a store of version 0.1 or 0.2 is taken over in place.

What must hold: every coin, the seed, the RAIDA and an unfinished import's mark are afterwards what
they were; the old file is kept as it was; and a conversion that is killed at any moment is
completed by the next one.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base
from raida_uring.protocol import Status
from raida_uring.store import PAGE_SIZE, Store, page_of
from raida_uring.store.convert import KEPT, convert
from raida_uring.store.verify import stat, verify
from tests.support.coin_requests import DETECT, ask, coins_ans, default_an
from tests.support.command_line import run, run_script
from tests.support.node import assert_refuses_to_start, started_daemon
from tests.support.old_store import write_old_store
from tests.support.page_files import page_bytes, tree
from tests.support.store import SEED, make_store, table_of
from tests.support.store_tools import SIZES, done, refused, store
from tests.support.wire import FIXTURE

pytestmark = pytest.mark.any_backend

RAIDA: int = FIXTURE["raida_id"]
COIN, AN = (0, 1024 * 1 + 5), b"n" * 16  # changed after the import
TICKET = (2**32).to_bytes(8) + bytes(4) + b"\0" + bytes(4)


def old_tables(**meta: bytes) -> dict[str, dict[bytes, bytes]]:
    """What 0.2 has after an import of SIZES, a change, and a stop."""
    tables: dict[str, dict[bytes, bytes]] = {
        "meta": {b"format": b"1", b"seed": SEED.encode(), b"raida": bytes((RAIDA,))}
        | {key.encode(): value for key, value in meta.items()},
        "pages": {},
        "remains": {},
        "leaves": {bytes((index,)): bytes(34 * 1000) for index in range(15)},
        "changed": {page_of(0, 1).to_bytes(2): b""},
        "tickets": {b"abcd": TICKET},
    }
    for number, size in SIZES.items():
        content, key = page_bytes(number, size), number.to_bytes(2)
        tables["pages"][key] = content[:PAGE_SIZE] if size >= PAGE_SIZE else b""
        if size < PAGE_SIZE:
            tables["remains"][key] = b"s" + content
        elif size > PAGE_SIZE:
            tables["remains"][key] = b"t" + content[PAGE_SIZE:]
    page = b"".join(default_an((0, 1024 + at)) + b"\0" for at in range(1024))
    tables["pages"][page_of(0, 1).to_bytes(2)] = page[: 5 * 17] + AN + b"\7" + page[6 * 17 :]
    for missing in (page_of(3, 3), page_of(3, 4)):
        tables["pages"][missing.to_bytes(2)] = b""
        tables["remains"][missing.to_bytes(2)] = b"m"
    return tables


def old_store(path: Path, **meta: bytes) -> Path:
    write_old_store(path, old_tables(**meta))
    (path / "owner").write_bytes(b"4711\n")
    return path


def assert_converted(path: Path) -> None:
    assert verify(path) == []
    with contextlib.closing(Store(path)) as opened:
        assert (opened.seed, opened.raida_id) == (SEED.encode(), RAIDA)
        assert opened.an(*COIN) == AN
        assert opened.an(5, 5) == default_an((5, 5))
        assert opened.an(3, 3 * 1024) is None
        for page, size in SIZES.items():
            content, _ = opened.native.page(page)
            whole = page_bytes(page, size)
            assert content == (whole[:PAGE_SIZE] if size >= PAGE_SIZE else None)
            rest = b"t" + whole[PAGE_SIZE:] if size > PAGE_SIZE else b"s" + whole
            assert opened.remains(page) == (None if size == PAGE_SIZE else rest)
        assert opened.remains(page_of(3, 4)) == b"m"
    assert {one.name for one in path.iterdir()} <= {
        "data.mdb",
        KEPT,
        "journal",
        "lock.mdb",
        "owner",
    }


def test_an_old_store_is_served_after_its_conversion(tmp_path: Path) -> None:
    path = old_store(tmp_path / "store")
    before = (path / "data.mdb").read_bytes()
    words = f"a store of version 0.1 or 0.2: `raida-uring store convert --store {path}`"
    settings: Any = {"store": table_of(path, 2048)}
    assert_refuses_to_start(tmp_path, words, **settings)
    refused(run("config", "check", "--deep", tmp_path / "node.toml"), words)
    for command in (
        ["stat"],
        ["verify"],
        ["export", tmp_path / "out"],
        ["backup", tmp_path / "out"],
    ):
        refused(store(*command, "--store", path), words)
    shown = done("convert", "--config", tmp_path / "node.toml")
    assert shown == f"{path}: {len(SIZES) + 3} pages converted, the old file is now {KEPT}\n"
    assert (path / KEPT).read_bytes() == before
    assert_converted(path)
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        assert ask(node.endpoint, DETECT, coins_ans({COIN: AN}))[0] == Status.ALL_PASS
        refused(store("convert", "--store", path), f"in use by process {node.process.pid}")
        assert node.terminate() == 0, node.stderr()
    refused(store("convert", "--store", path), "is of format 2 already")


def test_the_way_back(tmp_path: Path) -> None:
    """As docs/operate.md says: the kept file takes its old name, and the journal goes."""
    path = old_store(tmp_path / "store")
    before = (path / "data.mdb").read_bytes()
    convert(path)
    (path / KEPT).rename(path / "data.mdb")
    put_journal(path)
    refused(store("convert", "--store", path), "journal: belongs to another data.mdb")
    shutil.rmtree(path / "journal")
    assert (path / "data.mdb").read_bytes() == before
    convert(path)  # and there again
    assert_converted(path)


def test_an_export_after_the_conversion_is_what_0_2_imports(tmp_path: Path) -> None:
    path = old_store(tmp_path / "store")
    convert(path)
    done("export", tmp_path / "out", "--store", path)
    exported = tree(tmp_path / "out")
    for page, size in SIZES.items():
        name = f"{(page // 1000 - 8) & 0xFF:02x}/{page % 1000 // 256:02x}/{page % 1000:04x}.bin"
        assert exported[name] == page_bytes(page, size)
    assert exported["00/00/0001.bin"][5 * 17 : 6 * 17] == AN + b"\7"


def test_an_unfinished_import_stays_unfinished(data: Path, tmp_path: Path) -> None:
    path = old_store(tmp_path / "store", unfinished=b"the import of /srv/Data")
    convert(path)
    assert json.loads(done("stat", "--json", "--store", path))["unfinished"] == (
        "the import of /srv/Data"
    )
    done("import", data, "--store", path)
    assert json.loads(done("stat", "--json", "--store", path))["unfinished"] is None


def refusal(act: Callable[[Path], object], path: Path) -> str | None:
    """What a command says if it is refused."""
    try:
        act(path)
    except StoreError as error:
        return str(error)
    return None


# Kills itself at one of the calls that a conversion makes on the directory, counted from 0; prints
# the number of calls if there are fewer.
KILLED = """
import os, pathlib, sys
path, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])
made = 0
def counted(call):
    def wrapper(*args, **how):
        global made
        if made == left:
            os.kill(os.getpid(), 9)
        made += 1
        return call(*args, **how)
    return wrapper
for name in ("mkdir", "rmdir", "link", "rename", "replace", "unlink", "fsync", "chown"):
    setattr(os, name, counted(getattr(os, name)))
from raida_uring.store.convert import convert
convert(path)
print(made)
"""


def test_a_conversion_killed_at_any_step_is_completed_by_the_next(tmp_path: Path) -> None:
    made = old_store(tmp_path / "old")
    before = (made / "data.mdb").read_bytes()
    for step in range(1000):
        path = Path(shutil.copytree(made, tmp_path / f"store {step}"))
        ended = run_script(KILLED, path, step)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        looked = refusal(stat, path)
        if looked is not None:  # one is told what to do
            assert "raida-uring store convert" in looked
            assert refusal(convert, path) is None
        else:  # it is served as it is
            assert (refusal(convert, path) or "is of format 2 already").endswith(
                "is of format 2 already"
            )
        assert (path / KEPT).read_bytes() == before
        assert_converted(path)
        shutil.rmtree(path)
    assert step == int(ended.stdout) > 10


def test_a_conversion_killed_among_the_pages(tmp_path: Path) -> None:
    path = old_store(tmp_path / "store")
    script = (
        "import os, pathlib, sys; from raida_uring.store.convert import convert\n"
        "stop = lambda done, total: done >= total // 2 and os.kill(os.getpid(), 9)\n"
        "convert(pathlib.Path(sys.argv[1]), progress=stop)"
    )
    before = (path / "data.mdb").read_bytes()
    assert run_script(script, path).returncode == -signal.SIGKILL
    assert (path / "data.mdb").read_bytes() == before
    assert not (path / KEPT).exists()
    convert(path)
    assert_converted(path)


def spoil_page(path: Path) -> None:
    write_old_store(path, {"pages": {(3).to_bytes(2): bytes(100)}})


def add_stray(path: Path) -> None:
    write_old_store(path, {"pages": {b"\0": b""}})


def cut(path: Path) -> None:
    os.truncate(path / "data.mdb", 5 * 4096)


def keep_older(path: Path) -> None:
    (path / KEPT).write_bytes(b"older")


def put_journal(path: Path) -> None:
    """Of a store that was served, with a change in it."""
    other = make_store(path.parent / "other", {COIN: (AN, 7)})
    shutil.copytree(other / "journal", path / "journal")


def other_format(path: Path) -> None:
    write_old_store(path, {"meta": {b"format": b"7"}})


def lose_seed(path: Path) -> None:
    write_old_store(path, {"meta": {b"seed": b""}})


REFUSED = [
    (spoil_page, "page f8/00/0003.bin is damaged: it has 100 bytes"),
    (add_stray, "is damaged: 1 of its 13 pages are no pages"),
    (cut, "damaged"),
    (keep_older, f"{KEPT}: is there already, from an earlier conversion: move it away"),
    (put_journal, "journal: belongs to another data.mdb"),
    (other_format, "store of format 7: only format 1 is converted"),
    (lose_seed, "has no seed"),
]


@pytest.mark.parametrize(("spoil", "words"), REFUSED)
def test_what_is_not_converted(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = old_store(tmp_path / "store")
    spoil(path)
    before = tree(path)
    refused(store("convert", "--store", path), words)
    after = tree(path)
    for one in (before, after):  # notes of who has the store open
        one.pop("owner")
        one.pop("lock.mdb")
    assert after == before
    assert not (path / "converting").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to convert another user's store")
def test_root_converts_and_leaves_no_files_of_root(tmp_path: Path) -> None:
    path, nobody = old_store(tmp_path / "store"), 65534
    for one in (path, *path.iterdir()):
        os.chown(one, nobody, nobody)
    convert(path)
    assert {one.stat().st_uid for one in path.rglob("*")} == {nobody}


def test_a_node_of_today_is_not_converted(tmp_path: Path) -> None:
    done("init", "--store", tmp_path / "store")
    refused(store("convert", "--store", tmp_path / "store"), "is of format 2 already")
    refused(store("convert", "--store", tmp_path / "none"), "not a store")


def test_memory_of_an_old_store_is_not_damaged_by_looking(tmp_path: Path) -> None:
    """Its six tables are read by the survey, too."""
    path = old_store(tmp_path / "store")
    native_base.survey(str(path))
