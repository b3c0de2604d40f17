"""The file under a store that is in use: removed, replaced, moved, cut off, or in a core file.

What must hold: a change is not acknowledged once its file is gone; whoever runs the node is told
so at once, by a line that names the store; no signal ends a process without such a line.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raida_uring.admin.client import result_of
from raida_uring.errors import StoreError
from raida_uring.protocol import Status
from raida_uring.store import Store, month_now
from tests.support.coin_requests import (
    DETECT,
    POWN,
    an_of,
    ask,
    coins_ans,
    default_an,
    pown_payload,
)
from tests.support.command_line import environment, output_of, run_script
from tests.support.http import ask as http_ask
from tests.support.http import scrape, status_json
from tests.support.needs import require_pid_namespace
from tests.support.node import (
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    eventually,
    free_port,
    running_node,
    started_daemon,
)
from tests.support.sanitized import LIMITS_MEMORY
from tests.support.store import MAP_BYTES, Coin, coin_bytes, make_store, table_of
from tests.support.store_tools import STORE
from tests.support.wire import ECHO_COMMAND
from tests.support.write_handlers import MODULES, SLOW_CHANGE

pytestmark = pytest.mark.any_backend

COIN_AN = 21
COIN: Coin = (2, 5)
DATA_HEADS_BYTES = 8192  # LMDB's two, which tell where the newest state begins


def tables(path: Path) -> Any:
    return {"store": table_of(path)}


def pown(node: Daemon, coin: Coin = COIN) -> int:
    """Pown a coin that was never changed, on a page that was never written."""
    answered, _ = ask(node.endpoint, POWN, pown_payload([(coin, default_an(coin), an_of(coin))]))
    return answered


def fault_of(store: Store) -> str | None:
    return store.write_fault


def remove(file: Path) -> None:
    file.unlink()


def move(file: Path) -> None:
    file.rename(file.with_name("moved.mdb"))


def replace(file: Path) -> None:
    shutil.copy(file, file.with_name("restored.mdb"))
    file.with_name("restored.mdb").rename(file)


def move_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))


def cut(file: Path) -> None:
    os.truncate(file, 8192)


def empty(file: Path) -> None:
    os.truncate(file, 0)


CUTS = (cut, empty)
LOSSES = (remove, move, replace, move_directory, *CUTS)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_change_to_a_lost_file_is_not_acknowledged(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    path = make_store(tmp_path / "store", {(3, 1): (b"a" * 16, 1), (4, 1): (b"b" * 16, 1)})
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        lose(path / "data.mdb")
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        # What is in memory is still true.
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        eventually(lambda: f"the store {path} cannot be changed: " in node.stderr())
        assert pown(node, (2, 9000)) == Status.FILESYSTEM
        assert node.terminate() == 0, node.stderr()


@pytest.mark.parametrize("lose", [remove, move, replace, move_directory])
def test_a_lost_lock_file_ends_changes(lose: Callable[[Path], None], tmp_path: Path) -> None:
    """The next process that opens the store makes a new lock file. The node does not know of that
    reader and overwrites pages that it reads; a successor would write at the same time."""
    path = make_store(tmp_path / "store", {(3, 1): (b"a" * 16, 1)})
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        lose(path / "lock.mdb")
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        eventually(lambda: f"the store {path} cannot be changed: " in node.stderr())
        assert node.terminate() == 0, node.stderr()


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_file_is_reported_without_a_request(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    path = make_store(tmp_path / "store", {(3, 1): (b"a" * 16, 1)})
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        lose(path / "data.mdb")
        eventually(lambda: f"the store {path} cannot be changed: " in node.stderr())


@pytest.mark.parametrize("lose", LOSSES)
def test_status_requests_do_not_end_a_node_without_its_file(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    path = make_store(tmp_path / "store", {(3, 1): (b"a" * 16, 1)})
    port, socket_path = free_port(), tmp_path / "admin.sock"
    settings = tables(path) | {
        "http": {"enabled": True, "port": port},
        "admin": {"socket": str(socket_path)},
    }
    url = f"http://127.0.0.1:{port}/"
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        assert http_ask(url, "/readyz").status == 200
        lose(path / "data.mdb")
        for _ in range(2):
            assert scrape(url)
            assert status_json(url)
            assert result_of(socket_path, "status")
            eventually(lambda: http_ask(url, "/readyz").status == 503)
            assert ask(node.endpoint, ECHO_COMMAND)[0] == Status.SUCCESS
        assert node.terminate() == 0, node.stderr()


@pytest.mark.parametrize("command", [POWN, SLOW_CHANGE])
def test_a_node_whose_changes_meet_damage_is_not_ready(
    tmp_path: Path, command: tuple[int, int]
) -> None:
    """The next checkpoint finds it: from then on no start could find what has changed."""
    path, port = make_store(tmp_path / "store", {(3, 1): (b"a" * 16, 1)}), free_port()
    url = f"http://127.0.0.1:{port}/"
    settings: Any = {
        "store": table_of(path, checkpoint_interval_s=1),
        "http": {"enabled": True, "port": port},
        "handlers": MODULES,
    }
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        with (path / "data.mdb").open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(DATA_HEADS_BYTES)
            file.write(bytes(size - DATA_HEADS_BYTES))
        changes = pown_payload([(COIN, default_an(COIN), an_of(COIN))])
        eventually(lambda: "no checkpoint: " in node.stderr())
        assert ask(node.endpoint, command, changes)[0] == Status.FILESYSTEM
        assert http_ask(url, "/readyz").status == 503
        for _ in range(5):  # nor after the node has looked by itself
            time.sleep(0.3)
            assert http_ask(url, "/readyz").status == 503
        assert node.terminate() == 0, node.stderr()


def test_a_file_that_comes_back_is_written_again(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)

    def change(an: bytes) -> None:
        with store.write() as coins:
            coins.set(coin_bytes(COIN) + an, 1, COIN_AN, month_now())

    change(b"1" * 16)
    move(path / "data.mdb")
    store.look()
    assert fault_of(store) is not None
    assert store.failed_commits == 0
    with pytest.raises(StoreError, match=r"data\.mdb was removed or replaced"):
        change(b"2" * 16)
    assert store.failed_commits == 1
    (path / "moved.mdb").rename(path / "data.mdb")
    change(b"3" * 16)
    assert fault_of(store) is None
    assert store.an(*COIN) == b"3" * 16
    store.close()


def test_a_removed_file_is_copied_from_the_node_and_served_by_the_next(tmp_path: Path) -> None:
    """As docs/troubleshooting.md says: the copy is another file, which the node does not take."""
    path = make_store(tmp_path / "store")
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        remove(path / "data.mdb")
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        open_files = Path(f"/proc/{node.process.pid}/fd").iterdir()
        file = path / "data.mdb"
        removed = next(one for one in open_files if os.readlink(one) == f"{file} (deleted)")
        shutil.copy(removed, file)
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        assert node.terminate() == 0, node.stderr()
    with started_daemon(tmp_path, **tables(path)) as node:
        node.await_ready()
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        assert pown(node, (2, 5000)) == Status.ALL_PASS


def test_what_has_passed_is_found_out_without_a_change(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    move(path / "data.mdb")
    store.look()
    (path / "moved.mdb").rename(path / "data.mdb")
    store.look()
    assert fault_of(store) is None
    store.close()


def test_a_cut_file_is_not_believed_once_it_is_as_long_again(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store(path, map_bytes=MAP_BYTES)
    size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", 4096)
    for length in (4096, size):
        os.truncate(path / "data.mdb", length)
        with pytest.raises(StoreError, match=r"data\.mdb was cut off"):
            store.remains(0)
    store.close()


@pytest.mark.parametrize("read_first", [False, True])
def test_an_older_copy_over_the_file_is_not_believed(read_first: bool, tmp_path: Path) -> None:
    """It has the length and the name of the file that it replaces: only its count of changes
    differs. The first look finds that, at the latest the watch's a second later."""
    path = make_store(tmp_path / "store", {COIN: (b"1" * 16, 1)})
    old = (path / "data.mdb").read_bytes()
    store = Store(path, map_bytes=MAP_BYTES)

    def change(an: bytes) -> None:
        with store.write() as coins:
            coins.set(coin_bytes(COIN) + an, 1, COIN_AN, month_now())

    for number in range(10):
        change(b"%016d" % number)
        store.checkpoint()
    (path / "data.mdb").write_bytes(old.ljust((path / "data.mdb").stat().st_size, b"\0"))
    if read_first:
        with pytest.raises(StoreError, match=r"data\.mdb was cut off or written over"):
            store.remains(0)
    else:
        store.look()
    with pytest.raises(StoreError, match=r"data\.mdb was cut off or written over"):
        change(b"2" * 16)
    assert store.write_fault is not None
    store.close()


READ_WHAT_IS_CUT = """
import os, pathlib, sys
from raida_uring.ffi.native_base import Base, BASE_READ_ONLY
path = pathlib.Path(sys.argv[1])
base = Base(str(path), 1 << 26, BASE_READ_ONLY)
if sys.argv[2] == "lock.mdb":
    os.truncate(path / "lock.mdb", 0)
with base.txn() as txn:
    if sys.argv[2] == "data.mdb":
        os.truncate(path / "data.mdb", 8192)
    for page in range(15000):
        txn.page(page)
print("read all of it")
"""


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store of some hundred pages in data.mdb."""
    ans = {(den, page * 1024): (bytes([den + 1]) * 16, 1) for den in range(5) for page in range(50)}
    path = make_store(tmp_path / "store", ans)
    with contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store:
        store.checkpoint(pause_s=0)
    return path


def run_with_signals(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """As run_script(); a sanitizer must not take the signals for itself."""
    own = os.environ.get("ASAN_OPTIONS", "")
    options = f"{own}:handle_segv=0:handle_sigbus=0"
    return run_script(script, *arguments, env=environment(ASAN_OPTIONS=options))


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_reading_what_was_cut_off_ends_with_a_line(name: str, filled: Path) -> None:
    """The file can be cut between the check of its length and the read."""
    ended = run_with_signals(READ_WHAT_IS_CUT, filled, name)
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    what = {"data.mdb": "a part of it cannot", "lock.mdb": "lock.mdb beside it was cut off"}[name]
    assert ended.stderr.startswith(f"raida-uring: the store {filled}/data.mdb: {what}")
    assert len(ended.stderr.splitlines()) == 1


SEGV_WHILE_READING = """
import ctypes, faulthandler, os, signal, sys
from raida_uring.ffi.native_base import Base, BASE_READ_ONLY
how, path = sys.argv[1:]
if "handler" in how:
    faulthandler.enable()
base = Base(path, 1 << 26, BASE_READ_ONLY)
if "inside" in how:
    reading = base.txn()
    reading.__enter__()
if "sent" in how:
    os.kill(os.getpid(), signal.SIGSEGV)
ctypes.string_at(8)
"""


@pytest.mark.parametrize("how", ["inside", "inside handler", "outside", "outside sent", "handler"])
def test_a_wild_read_keeps_its_signal_and_names_the_store(how: str, filled: Path) -> None:
    """Core file and faulthandler keep their output, too."""
    ended = run_with_signals(SEGV_WHILE_READING, how, filled)
    assert ended.returncode == -11, ended
    line = f"raida-uring: the store {filled}/data.mdb: reading it ended the process (SIGSEGV)"
    assert (line in ended.stderr) == ("inside" in how)
    assert ("Fatal Python error" in ended.stderr) == ("handler" in how)


def test_a_full_standard_error_does_not_delay_the_end(filled: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        command = [sys.executable, "-c", READ_WHAT_IS_CUT, str(filled), "data.mdb"]
        with subprocess.Popen(command, stderr=writing) as process:
            assert process.wait(STOP_TIMEOUT_S) == 1
    finally:
        os.close(reading)
        os.close(writing)


def test_an_owner_cannot_have_the_disk_written_for_nothing(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with running_node(**tables(path)) as node:
        new = an_of(COIN)
        first = pown_payload([(COIN, default_an(COIN), new)])
        assert ask(node.endpoint, POWN, first)[0] == Status.ALL_PASS
        written = (path / "data.mdb").stat().st_mtime_ns
        counted = node.server.stats()
        again = pown_payload([(COIN, new, new)])
        for _ in range(10):
            assert ask(node.endpoint, POWN, again)[0] == Status.ALL_PASS
        assert (path / "data.mdb").stat().st_mtime_ns == written
        assert node.server.stats().coins_powned - counted.coins_powned == 10


# Has the store open, and reads data.mdb, until its input ends.
HOLD_OPEN = """
import os, sys
from raida_uring.store import Store
how, path = sys.argv[1:]
store = Store(path, map_bytes=1 << 26, read_only=how == "read")
with store._base.txn():
    print(os.getpid(), store.an(2, 5).hex(), flush=True)
    sys.stdin.read()
if how == "write":
    with store.write() as coins:
        coins.set(bytes.fromhex("02000000056e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e"), 1, 21, 7)
store.close()
"""


@contextlib.contextmanager
def first_process(script: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Of a PID namespace of its own, as in a container. Told to end by the end of its input."""
    inner = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *inner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_equal_process_ids_do_not_exclude_each_other(tmp_path: Path) -> None:
    """LMDB tells its users apart by process id; every container has a process 1."""
    require_pid_namespace()
    path = make_store(tmp_path / "store", {COIN: (b"o" * 16, 1)})
    with contextlib.ExitStack() as stack:
        hows = ("read", "write", "read", "read")
        users = [stack.enter_context(first_process(HOLD_OPEN, how, path)) for how in hows]
        for user in users:
            assert user.stdout is not None
            assert user.stderr is not None
            line = user.stdout.readline()
            assert line == f"1 {(b'o' * 16).hex()}\n", user.stderr.read()
        output_of("unshare", "--pid", "--fork", *STORE, "verify", "--store", path)
        for user in users:
            _, complaint = user.communicate(timeout=STOP_TIMEOUT_S)
            assert (user.returncode, complaint) == (0, "")
    store = Store(path, map_bytes=MAP_BYTES)
    assert store.an(*COIN) == b"n" * 16
    store.close()


READERS_AT, READER_BYTES = 128, 64  # in lock.mdb


def reader_numbers(path: Path) -> list[int]:
    """The process ids in LMDB's table of readers."""
    table = (path / "lock.mdb").read_bytes()[READERS_AT:]
    numbers = (
        int.from_bytes(table[at + 8 : at + 12], sys.byteorder)
        for at in range(0, len(table) - READER_BYTES + 1, READER_BYTES)
    )
    return [number for number in numbers if number]


@pytest.mark.parametrize("hows", [("write", "read", "read"), ("read", "write", "read")])
def test_closing_leaves_others_of_the_same_process_id_alone(
    hows: tuple[str, ...], tmp_path: Path
) -> None:
    """A reader whose place in the table was cleared would read overwritten pages."""
    require_pid_namespace()
    path = make_store(tmp_path / "store", {COIN: (b"o" * 16, 1)})
    with contextlib.ExitStack() as stack:
        users: list[tuple[subprocess.Popen[str], set[int]]] = []
        known: set[int] = set()
        for how in hows:
            user = stack.enter_context(first_process(HOLD_OPEN, how, path))
            assert user.stdout is not None
            assert user.stdout.readline()
            users.append((user, set(reader_numbers(path)) - known))
            known |= users[-1][1]
        assert len(known) == len(users)
        for user, own in reversed(users):
            _, complaint = user.communicate(timeout=STOP_TIMEOUT_S)
            assert (user.returncode, complaint) == (0, "")
            known -= own
            assert set(reader_numbers(path)) == known


@pytest.mark.parametrize("how", ["read", "write"])
def test_what_a_killed_reader_left_is_given_up_by_the_next_of_its_process_id(
    how: str, tmp_path: Path
) -> None:
    """Another process has the store open, so that the table of readers is not recreated."""
    require_pid_namespace()
    path = make_store(tmp_path / "store", {COIN: (b"o" * 16, 1)})
    with contextlib.ExitStack() as stack:

        def user(how: str) -> "subprocess.Popen[str]":
            started = stack.enter_context(first_process(HOLD_OPEN, how, path))
            assert started.stdout is not None
            assert started.stdout.readline()
            return started

        first = user(how)
        user("read")
        first.kill()
        first.wait()
        assert sorted(reader_numbers(path))[0] == 1
        eventually(lambda: number_is_free(path, 1))
        user(how)
        assert len(reader_numbers(path)) == len(set(reader_numbers(path))) == 2


def number_is_free(path: Path, number: int) -> bool:
    """Whether no user has that number for LMDB; a killed process ends a moment later."""
    with (path / "lock.mdb").open("r+b") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True


@pytest.mark.parametrize("command", ["stat", "verify"])
def test_a_node_reads_on_after_a_look_from_another_container(command: str, tmp_path: Path) -> None:
    require_pid_namespace()
    path = make_store(tmp_path / "store", {COIN: (b"o" * 16, 1)})
    in_namespace = ("unshare", "--pid", "--fork", "--kill-child")
    with started_daemon(tmp_path, command=[*in_namespace, *SERVE], **tables(path)) as node:
        node.await_ready()
        for _ in range(2):
            output_of(*in_namespace, *STORE, command, "--store", path)
            for _ in range(10):
                assert ask(node.endpoint, DETECT, coins_ans({COIN: b"o" * 16}))[0] == (
                    Status.ALL_PASS
                )
        assert pown(node, (2, 9000)) == Status.ALL_PASS


@LIMITS_MEMORY
@pytest.mark.parametrize("mib", [150, 250, 300])
def test_no_address_space_for_the_coins_is_a_line_with_its_remedy(mib: int, tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    opened = run_script(OPEN_WITHIN, path, mib)
    assert (opened.returncode, opened.stdout) == (1, ""), opened
    assert opened.stderr.strip() == (
        "mapping the coins: the coins need up to 252 MiB of shared memory, and as much address "
        "space: raise LimitAS= (ulimit -v)"
    )


OPEN_WITHIN = """
import resource, sys
from raida_uring.errors import StoreError
from raida_uring.store import Store
size = int(sys.argv[2]) << 20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    Store(sys.argv[1], map_bytes=64 << 20)
except StoreError as error:
    sys.exit(str(error))
"""


def mappings() -> Iterator[tuple[str, int, set[str]]]:
    """This process's: the name of the file, empty if none, its bytes and VmFlags."""
    name, size = "", 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("VmFlags:"):
            yield name, size, set(line.split()[1:])
        elif "-" in (place := line.split(" ", 1)[0]):
            start, end = place.split("-")
            name, size = line[73:], int(end, 16) - int(start, 16)


def left_out(name: str) -> int:
    """Bytes that are mapped under `name` and that no core file has."""
    return sum(size for file, size, flags in mappings() if file == name and "dd" in flags)


def test_core_files_leave_secrets_out(tmp_path: Path) -> None:
    """Requests and coins hold ANs; a core file may go anywhere."""
    path = make_store(tmp_path / "store")
    before = left_out("")
    with running_node(**tables(path)):
        for file in ("/memfd:raida-uring (deleted)", f"{path}/data.mdb"):
            mapped = sum(size for name, size, _ in mappings() if name == file)
            assert 0 < mapped == left_out(file), file
        assert left_out("") > before  # what a worker opens
