"""The command line as a user meets it: a process, its output and its exit status.

Whatever is wrong with what was typed or configured: one line on standard error, exit status 2.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raida_uring import __version__, protocol
from raida_uring.store import Store
from tests.support.confine import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, give_up
from tests.support.needs import require_ipv6
from tests.support.net import PATIENCE
from tests.support.store import MAP_BYTES, make_store

TIMEOUT_S = 30.0
ROOT = Path(__file__).parent.parent.parent
CLONE3 = 435  # on every architecture


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raida_uring", *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        check=False,
    )


def answer_to(request: bytes) -> bytes:
    """A successful echo reply, 5 us of work."""
    return (
        bytes((request[2], 0, 250, 0, 0, 1))
        + request[30:32]
        + bytes(4)
        + (5).to_bytes(4)
        + request[32:48]
    )


@contextmanager
def udp_responder(*, silent_to: frozenset[int] = frozenset()) -> Iterator[int]:
    """Answer echo requests on a loopback port, except those whose number is in `silent_to`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                request, peer = server.recvfrom(2048)
                if not request:
                    return
                if int.from_bytes(request[30:32]) not in silent_to:
                    server.sendto(answer_to(request), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"", server.getsockname())
            thread.join()


@contextmanager
def tcp_responder(answers: list[bytes]) -> Iterator[int]:
    """Accept as many connections as there are `answers`, reply with each, a byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    request = connection.recv(2048)
                    for byte in answer or answer_to(request):
                        connection.sendall(bytes((byte,)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


# --- Faults -----------------------------------------------------------------------------------

WRONG_USAGE = [
    ("bogus",),
    ("--bogus",),
    ("config",),
    ("config", "check"),
    ("config", "show", "/nonexistent.toml"),
    ("ping",),
    ("ping", "localhost:"),
    ("ping", "::1:50000"),
    ("ping", "127.0.0.1:0"),
    ("ping", "127.0.0.1:65536"),
    ("ping", "-c", "0", "127.0.0.1:50000"),
    ("ping", "-i", "nan", "127.0.0.1:50000"),
    ("ping", "-W", "inf", "127.0.0.1:50000"),
    ("ping", "a..b:50000"),
    ("serve", "extra"),
    ("serve", "--config", "/nonexistent.toml"),
    ("serve", "--config", "/"),
    ("serve", "--port", "x"),
    ("serve", "--port", "65536"),
    ("serve", "--host", "localhost"),
    ("serve", "--backend", "poll"),
    ("bench", "extra"),
    ("bench", "--rounds", "0"),
    ("bench", "--rounds", "1001"),
    ("bench", "--seconds", "0"),
    ("bench", "--only", "none"),
    ("bench", "--server-cpu", "5000"),
    ("bench", "--json", "/nonexistent/out"),
    ("probe", "extra"),
    ("probe", "--config", "/nonexistent.toml"),
]


@pytest.mark.parametrize("args", WRONG_USAGE, ids=[" ".join(args) for args in WRONG_USAGE])
def test_wrong_usage_is_one_line_and_status_2(args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("raida-uring: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "command"),
    [
        ("bogus", ""),
        ("--bogus serve", ""),
        ("serve --port x", "serve"),
        ("ping localhost:", "ping"),
        ("ping -c 1 ::1", "ping"),
        ("top --json", "top"),
        ("log-level info extra", "log-level"),
        ("config", "config"),
        ("config chekc", "config"),
        ("config check", "config check"),
        ("config show --bogus", "config show"),
        ("store", "store"),
        ("store stat", "store stat"),
        ("store export --store a --config b to", "store export"),
        ("store init --store a --seed ö", "store init"),
    ],
)
def test_wrong_usage_names_the_help_of_the_command(args: str, command: str) -> None:
    """Faults that the parser finds and those that a command finds by itself."""
    done = run(*args.split())
    assert done.returncode == 2
    assert done.stderr.endswith(f" See {' '.join(['raida-uring', command]).strip()} --help.\n")
    assert done.stderr.count("--help") == 1


def test_wrong_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 31\n")
    expected = "raida-uring: node.toml: [server] raida_id = 31: must be an integer from 0 to 24\n"
    for command in (("serve", "--config"), ("config", "check"), ("config", "show")):
        done = run(*command, "node.toml", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize(
    ("setting", "warning"),
    [
        ("", None),
        ('pages_for = "none"', None),
        ('pages_for = "all"', "anybody who asks is handed pages of coins"),
        ('pages_for = "peers"', "whoever has an address of raida_servers is handed pages of coins"),
    ],
)
def test_serve_warns_when_it_hands_out_pages_of_coins(
    setting: str, warning: str | None, tmp_path: Path
) -> None:
    """The address, which no machine has, ends the start."""
    servers = ", ".join(['"192.0.2.9:50000"'] * 25)
    (tmp_path / "node.toml").write_text(
        f'[server]\nraida_id = 1\nraida_servers = [{servers}]\n[network]\nbind = ["192.0.2.1"]\n'
        f'[store]\npath = "none"\n{setting}\n'
    )
    done = run("serve", "--config", "node.toml", cwd=tmp_path)
    assert done.returncode == 2
    if warning is None:
        assert "pages" not in done.stderr
    else:
        assert f"warning {warning}" in done.stderr


# --- Where nothing can be written, or asked -----------------------------------------------------


def run_script(script: str, *args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *args], text=True, timeout=TIMEOUT_S, check=False, **how
    )


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("args", ["--version", "--help", "config show"])
def test_output_to_a_full_disk_is_one_line_and_status_1(args: str, buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raida_uring", *args.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            timeout=TIMEOUT_S,
            check=False,
        )
    said = "raida-uring: cannot write: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_output_that_nobody_reads_ends_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "raida_uring", "config", "show"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_words_that_cannot_be_written_do_not_change_the_exit_status(buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raida_uring", "config", "check", "/nonexistent.toml"],
            stderr=full,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 2


CLOSED = """
import os, sys
report = os.open(sys.argv[1], os.O_WRONLY)
from raida_uring.cli import main as cli
sys.argv[1:] = ["config", "check", "/nonexistent.toml"]
status = cli.main()
leads_to = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
os.write(report, f"{status} {leads_to}".encode())
"""


def test_closed_standard_streams_lead_nowhere(tmp_path: Path) -> None:
    """A node started without them must not get its store or a socket under their numbers."""
    (tmp_path / "report").touch()
    script = ["sh", "-c", 'exec "$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, CLOSED]
    subprocess.run([*script, str(tmp_path / "report")], timeout=TIMEOUT_S, check=True)
    # The report is open before our program begins, under the least number that is free.
    assert (tmp_path / "report").read_text() == (
        f"2 {[str(tmp_path / 'report'), '/dev/null', '/dev/null']}"
    )


SLOW = "import sys, time\nprint('loading', file=sys.stderr, flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    "command", ["serve --port 0", "config show", "status", "ping 127.0.0.1", "--help"]
)
def test_ctrl_c_while_the_program_loads_ends_it_without_a_word(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "typer.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert interrupted_while_loading(command.split(), env=environment) == (-signal.SIGINT, "")


def test_ctrl_c_while_a_module_of_handlers_loads_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_handlers.py").write_text(SLOW)
    file = tmp_path / "node.toml"
    file.write_text('[server]\nraida_id = 1\n[handlers]\nmodules = ["slow_handlers"]\n')
    for command in (["commands", "--config"], ["config", "check", "--deep"]):
        status, text = interrupted_while_loading([*command, str(file)])
        assert status == 130
        assert "Traceback" not in text


def interrupted_while_loading(
    command: list[str], env: dict[str, str] | None = None
) -> tuple[int, str]:
    """The exit status, and what is on standard error behind the line of what loads slowly."""
    started = subprocess.Popen(
        [sys.executable, "-m", "raida_uring", *command], stderr=subprocess.PIPE, text=True, env=env
    )
    with started:
        assert started.stderr is not None
        for line in started.stderr:
            if line == "loading\n":
                break
        started.send_signal(signal.SIGINT)
        return started.wait(TIMEOUT_S), started.stderr.read()


def test_threads_that_cannot_be_had_are_one_line_and_status_1() -> None:
    """By the same error as where a limit on processes is reached, which binds root nowhere."""
    script = (
        "import sys, threading; threading.stack_size(1 << 47); "
        "from raida_uring.cli.main import main; sys.exit(main(['serve', '--port', '0']))"
    )
    done = run_script(script, capture_output=True)
    assert done.returncode == 1  # may pass: a service manager is to try again
    last = done.stderr.splitlines()[-1]
    assert last == "raida-uring: can't start new thread: raise TasksMax= (ulimit -u)"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (f"refuse_system_call({CLONE3}, errno.EPERM)", "seccomp filter"),
        ("limit(resource.RLIMIT_AS, 600 << 20)", "ulimit -v"),
        (
            "refuse_system_call(MEMFD_CREATE, errno.EPERM)",
            "memfd_create() and fallocate() are needed: a seccomp filter",
        ),
        ("refuse_system_call(MEMFD_CREATE, errno.ENOSYS)", "memfd_create() and fallocate()"),
        ("refuse_system_call(FALLOCATE, errno.ENOSYS)", "memfd_create() and fallocate()"),
        ("limit(resource.RLIMIT_FSIZE, 1 << 20)", "ulimit -f"),
    ],
)
def test_the_remedy_fits_the_cause(how: str, expected: str) -> None:
    script = (
        "import errno, os, platform, resource, sys\n"
        "from tests.support.confine import refuse_system_call\n"
        "MEMFD_CREATE = {'x86_64': 319, 'aarch64': 279}[platform.machine()]\n"
        "FALLOCATE = {'x86_64': 285, 'aarch64': 47}[platform.machine()]\n"
        "limit = lambda which, most: resource.setrlimit(which, (most, most))\n"
        f"{how}\n"
        "os.execv(sys.executable, "
        "[sys.executable, '-m', 'raida_uring', 'serve', '--port', '0', '--host', '127.0.0.1'])"
    )
    done = run_script(script, capture_output=True)
    last = done.stderr.splitlines()[-1]
    # Want of a thread may pass: a service manager is to try again.
    assert done.returncode == (1 if "new thread" in last else 2), done.stderr
    assert expected in last
    assert "TasksMax" not in last
    assert ("lower [udp]" in last) == ("ulimit -v" in last and "reserving" in last)


def test_a_program_without_room_for_itself_is_one_line_and_status_1() -> None:
    """However much it lacks: while it loads, and when it begins to work."""
    script = (
        "import os, resource, sys; most = int(sys.argv[1]) << 20; "
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'raida_uring', 'config', 'show'])"
    )
    tried = 0
    for mib in range(16, 1024, 4):
        done = run_script(script, str(mib), capture_output=True)
        if done.returncode == 0:
            break
        if "raida-uring: " not in done.stderr and "/raida_uring/" not in done.stderr:
            continue  # Python itself has none
        tried += 1
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "install it again" not in done.stderr
    assert tried


def test_want_of_memory_under_a_limit_on_address_space_says_what_helps() -> None:
    script = (
        "import errno\n"
        "from raida_uring import remedies\n"
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
        "print(remedies.for_memory())"
    )
    assert run_script(script, capture_output=True).stdout == "raise LimitAS= (ulimit -v)\n"


def test_a_store_without_room_for_its_mapping_says_so(tmp_path: Path) -> None:
    make_store(tmp_path / "coins")
    script = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'raida_uring', *sys.argv[1:]])"
    )
    done = run_script(
        script, "store", "stat", "--store", str(tmp_path / "coins"), capture_output=True
    )
    assert (done.returncode, done.stderr) == (
        2,
        f"raida-uring: opening the store {tmp_path}/coins: a store of up to 2048 MiB needs as much "
        "address space: raise LimitAS= (ulimit -v), or lower [store] size_mib\n",
    )


def test_a_wrapper_that_keeps_the_sockets_for_itself_is_named() -> None:
    """Of a .socket unit: the node would find its port taken by sockets that nobody serves."""
    script = 'LISTEN_FDS=2 LISTEN_PID=$$ "$@"; exit $?'
    for wrapper in (
        ["sh", "-c", script, "sh"],
        ["sh", "-c", script, "sh", "sh", "-c", '"$@"', "x"],
    ):
        done = subprocess.run(
            [*wrapper, sys.executable, "-m", "raida_uring", "serve", "--port", "0"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith("raida-uring: socket activation: the sockets are for process ")
        assert last.endswith("let it start the node by `exec`")


# --- Faults of the machine ----------------------------------------------------------------------


def run_without_directory(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`raida-uring` in a directory that is removed before it starts."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        "import os, sys; os.rmdir(os.getcwd()); "
        "from raida_uring.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    return run_script(
        script, *args, cwd=gone, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )


@pytest.mark.parametrize(
    "args",
    [
        "store stat --store coins",
        "store verify --store coins",
        "store init --store coins",
        "store export --store coins files",
        "store import --store coins files",
        "config check node.toml",
        "probe --config node.toml",
        "status --socket admin.sock",
        "bench --only none --json out",
    ],
)
def test_a_directory_that_is_gone_is_one_line(tmp_path: Path, args: str) -> None:
    (tmp_path / "node.toml").write_text(
        '[server]\nraida_id = 0\nport = 0\n[network]\nbind = ["127.0.0.1"]\n'
        '[admin]\nsocket = "a"\n[http]\nenabled = false\n'
    )
    done = run_without_directory(tmp_path, *args.format(tmp_path / "node.toml").split())
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("raida-uring: ")


def test_a_node_serves_though_its_directory_is_gone(tmp_path: Path) -> None:
    """Its admin socket was to be there: a line, and it is tried again."""
    gone, path = tmp_path / "gone", tmp_path / "node.toml"
    gone.mkdir()
    path.write_text(
        '[server]\nraida_id = 0\nport = 0\n[network]\nbind = ["127.0.0.1"]\n'
        '[admin]\nsocket = "a"\n[http]\nenabled = false\n'
    )
    script = "import os, sys; os.rmdir(os.getcwd()); from raida_uring.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "serve", "--config", str(path)],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert any("no admin socket, tried again" in line for line in process.stderr)
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in rest


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_output_is_utf8_whatever_the_locale(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[server]\nraida_id = 0\n[store]\npath = "/data/存"\n', encoding="utf-8")
    for command in (["config", "show"], ["config", "check"]):
        done = subprocess.run(
            [sys.executable, "-m", "raida_uring", *command, str(path)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    shown = subprocess.run(
        [sys.executable, "-m", "raida_uring", "config", "show", str(path)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout
    assert 'path = "/data/存"' in shown.decode("utf-8")
    assert done.stderr == b""


def test_a_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.toml"
    Path(os.fsdecode(path)).write_text("[server]\nraida_id = 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "raida_uring", "config", "check", path],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf" in done.stdout


@pytest.fixture(scope="module")
def latin_locale(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell whose locale is German in ISO-8859-1."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef (Debian package libc-bin)")
    directory = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(directory / "de_DE")]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    if not (directory / "de_DE").exists():
        pytest.skip(f"no sources of locales (Debian package locales): {done.stderr.decode()}")
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**given, "LC_ALL": "de_DE", "LOCPATH": str(directory), "PYTHONPATH": str(ROOT)}


def test_paths_of_a_configuration_name_the_same_directory_in_every_locale(
    tmp_path: Path, latin_locale: dict[str, str]
) -> None:
    path = tmp_path / "node.toml"
    store = str(tmp_path / "grün")
    path.write_text(f'[server]\nraida_id = 0\n[store]\npath = "{store}"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "raida_uring", "store", "init", "--config", str(path)],
        env=latin_locale,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (Path(store) / "data.mdb").exists()
    assert done.stdout.decode("utf-8").startswith(store)


def test_completion_that_cannot_be_installed_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raida_uring", "--install-completion", "bash"],
        env={**os.environ, "HOME": "/proc/1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("raida-uring: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("metadata", [None, b"", b"[raida_uring.commands]\n\xff = \xfe\n"])
def test_metadata_of_other_packages_keep_no_node_from_starting(
    tmp_path: Path, metadata: bytes | None
) -> None:
    """An empty directory that a tool has left, and text that is not UTF-8."""
    directory = tmp_path / "site" / ("x-1.dist-info" if metadata else ".dist-info")
    directory.mkdir(parents=True)
    if metadata is not None:
        (directory / "entry_points.txt").write_bytes(metadata)
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "raida_uring", "config", "check", "--deep", "node.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def ask_service(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`raida-uring` where the service has its socket in `tmp_path`/service, and root no rights."""
    script = (
        "import pathlib, sys; from raida_uring.admin import client; "
        "from raida_uring.cli import main as cli; "
        "client.SERVICE_PATH = pathlib.Path(sys.argv.pop(1)); sys.exit(cli.main())"
    )
    return run_script(
        script,
        str(tmp_path / "service" / "admin.sock"),
        *args,
        env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)},
        preexec_fn=lambda: give_up(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
        capture_output=True,
    )


def test_another_users_service_is_told_from_none(tmp_path: Path) -> None:
    """Its directory is closed to others, as RuntimeDirectoryMode= of the unit has it."""
    service = tmp_path / "service"
    service.mkdir()
    done = ask_service(tmp_path, "status")
    assert done.returncode == 3
    assert done.stderr == (
        f"raida-uring: no node listens on {tmp_path}/admin.sock; --config FILE or --socket PATH "
        "names another node's\n"
    )
    service.chmod(0)
    try:
        done = ask_service(tmp_path, "status")
    finally:
        service.chmod(0o700)
    assert done.returncode == 2
    assert done.stderr == (
        f"raida-uring: {service}/admin.sock: Permission denied: only root and the node's own user "
        "are answered\n"
    )


def test_a_node_whose_file_has_changed_is_asked_by_its_socket(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 1\n")
    done = ask_service(tmp_path, "reload", "--config", str(tmp_path / "node.toml"))
    assert done.returncode == 3
    assert done.stderr.endswith("; a node of another user or port is asked by --socket PATH\n")


# --- Help, version, config --------------------------------------------------------------------


def test_help_names_every_command_in_whole_sentences() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "probe", "ping", "bench", "config"):
        assert f"  {command} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_without_a_command_the_help_is_shown() -> None:
    shown, asked = run(), run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == asked.stdout


def test_help_says_where_the_guide_is() -> None:
    words = " ".join(run("--help").stdout.split())
    place = words.partition("Every setting is described in ")[2].rstrip(".")
    assert Path(place).is_file(), place


def test_version() -> None:
    assert run("--version").stdout == f"raida-uring {__version__}\n"


def test_config_check_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 1\n")
    done = run("config", "check", "node.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "node.toml: correct\n")


KEY = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize("key", ["admin_key", "proxy_key"])
def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        f'[server]\nraida_id = 1\n{key} = "{KEY}"\n[handlers]\nmodules = ["no_such_module"]\n'
    )
    path.chmod(0o644)
    said = (
        f"{path}: holds [server] {key}, and everybody may read it (mode 0644): `chmod 640 {path}`"
    )
    done = run("config", "check", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"raida-uring: {said}\n")
    done = run("serve", "--config", str(path))  # the module, which does not exist, ends it
    assert f"warning {said}" in done.stderr
    assert KEY not in done.stderr
    path.chmod(0o640)
    assert run("config", "check", str(path)).returncode == 0
    assert "may read it" not in run("serve", "--config", str(path)).stderr
    path.write_text("[server]\nraida_id = 1\n")
    path.chmod(0o644)
    assert run("config", "check", str(path)).returncode == 0


@pytest.mark.parametrize("closed", ["file", "directory"])
def test_a_configuration_that_may_not_be_read_names_the_owner(tmp_path: Path, closed: str) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "node.toml"
    path.write_text("[server]\nraida_id = 1\n")
    (path if closed == "file" else directory).chmod(0)
    script = "import sys; from raida_uring.cli.main import main; sys.exit(main())"
    try:
        for args in (["serve", "--config"], ["config", "check"], ["status", "--config"]):
            done = run_script(
                script,
                *args,
                str(path),
                preexec_fn=lambda: give_up(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
                capture_output=True,
            )
            place = "it" if closed == "file" else directory
            assert done.returncode == 2
            assert done.stderr.startswith(
                f"raida-uring: {path}: cannot be read: Permission denied: {place} belongs to "
            )
    finally:
        directory.chmod(0o700)


HANDLER = (
    "from raida_uring.handlers import Reply, command\n"
    "@command(group=5, code=200)\n"
    "def greet(request, node):\n    return Reply()\n"
)


def test_config_check_deep_imports_modules(tmp_path: Path) -> None:
    """Beside the file, as serve does; what a module does when it is imported is done."""
    (tmp_path / "node.toml").write_text(
        '[server]\nraida_id = 1\n[handlers]\nmodules = ["shallow_or_deep"]\n'
    )
    module = tmp_path / "shallow_or_deep.py"
    for text, fault in (
        (None, "cannot be imported: ModuleNotFoundError: No module named 'shallow_or_deep'"),
        (
            "import sys\nsys.exit(0)",
            "cannot be imported: SystemExit: 0 (shallow_or_deep.py, line 2)",
        ),
        (
            "class Odd(BaseException): pass\nraise Odd('so')",
            "cannot be imported: Odd: so (shallow_or_deep.py, line 2)",
        ),
        (
            "class Mute(Exception):\n    def __str__(self): return 1\nraise Mute",
            "cannot be imported: Mute: it cannot say why: TypeError in its __str__"
            " (shallow_or_deep.py, line 3)",
        ),
        ("x = 1", f"declares no command ({module})"),
        (
            HANDLER.replace("def", "async def"),
            "shallow_or_deep.greet must be a plain function, not `async def`",
        ),
        (
            HANDLER.replace("return", "yield"),
            "shallow_or_deep.greet must return its Reply, not `yield` it",
        ),
        (
            HANDLER.replace("200", '"200"'),
            "cannot be imported: ValueError: code = '200': must be an integer from 0 to 255"
            " (shallow_or_deep.py, line 2)",
        ),
        (
            HANDLER.replace("200", "200, needs_body=1"),
            "cannot be imported: ValueError: command 5/200: needs_body is True or False, not 1"
            " (shallow_or_deep.py, line 2)",
        ),
    ):
        if text is not None:
            module.write_text(text)
        done = run("config", "check", "node.toml", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "node.toml: correct\n")
        done = run("config", "check", "--deep", "node.toml", cwd=tmp_path)
        expected = f"raida-uring: [handlers] modules: shallow_or_deep: {fault}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    module.write_text(HANDLER)
    done = run("config", "check", "--deep", "node.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "node.toml: correct, with its modules and its store\n"
        "16 commands: 15 built in, 1 [handlers] modules: shallow_or_deep\n",
    )


def state_of(directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Of each file: number, size, time of its last change, a hash of its content.

    Another process reads them: by closing lock.mdb, one that has the store open would give up the
    locks that LMDB holds on it.
    """
    names = sorted(one.name for one in directory.iterdir())
    hashed = subprocess.run(
        ["sha256sum", "--", *names],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
        check=True,
    ).stdout.splitlines()
    found = [(directory / name).stat() for name in names]
    return {
        name: (one.st_ino, one.st_size, one.st_mtime_ns, line)
        for name, one, line in zip(names, found, hashed, strict=True)
    }


def test_commands_are_listed_with_who_answers_them(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(
        '[server]\nraida_id = 1\n[handlers]\nmodules = ["listed"]\n'
    )
    (tmp_path / "listed.py").write_text(HANDLER.replace("code=200", 'code=200, mode="slow"'))
    lines = run("commands", "--config", "node.toml", cwd=tmp_path).stdout.splitlines()
    found = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines[1:-1]}
    assert found["5/200"] == ["-", "slow", "-", "listed.greet ([handlers] modules: listed)"]
    assert found["0/0"][:2] == ["status/echo", "read"]
    assert found["0/0"][3].endswith(" (built in)")
    assert lines[-1] == "free for commands of your own: 5/128-199, 5/201-255, 6/128-255, 7/128-255"
    told = json.loads(run("commands", "--json", "--config", "node.toml", cwd=tmp_path).stdout)
    assert [one["code"] for one in told if one["group"] == 5] == [200]
    assert len(told) == len(found)


def test_config_check_deep_looks_into_the_store(tmp_path: Path) -> None:
    """What serve would not accept is told; nothing is changed, and the node may be running."""
    (tmp_path / "node.toml").write_text('[server]\nraida_id = 1\n[store]\npath = "store"\n')
    check = ("config", "check", "--deep", "node.toml")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/store: not a store: is its disk mounted?" in done.stderr
    assert not (tmp_path / "store").exists()

    place = make_store(tmp_path / "store")
    open_by_a_node = Store(place, map_bytes=MAP_BYTES)
    before = state_of(place)
    assert run(*check, cwd=tmp_path).returncode == 0
    now = state_of(place)
    assert {name: now[name] for name in ("data.mdb", "owner")} == {
        name: before[name] for name in ("data.mdb", "owner")
    }
    assert list(now) == list(before)
    open_by_a_node.mark_unfinished("the import of a test")
    open_by_a_node.close()
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the import of a test did not come to its end" in done.stderr

    (place / "lock.mdb").unlink()  # a copy: nobody has opened it, and this must not be the first
    before = state_of(place)
    assert run(*check, cwd=tmp_path).returncode == 0
    assert state_of(place) == before

    (place / "data.mdb").write_bytes(b"")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, "data.mdb is damaged: it is empty" in done.stderr) == (2, True)
    os.truncate(place / "data.mdb", 3 << 30)
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, "has 3072 MiB, more than the 2048 MiB" in done.stderr) == (2, True)


def test_config_show_hides_keys_until_asked(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    (tmp_path / "node.toml").write_text(f'[server]\nraida_id = 1\nadmin_key = "{key}"\n')
    assert key not in run("config", "show", "node.toml", cwd=tmp_path).stdout
    shown = run("config", "show", "node.toml", "--secrets", cwd=tmp_path).stdout
    assert f'admin_key = "{key}"' in shown
    (tmp_path / "again.toml").write_text(shown)
    assert run("config", "show", "again.toml", "--secrets", cwd=tmp_path).stdout == shown


# --- Ping -------------------------------------------------------------------------------------


def test_ping_prints_a_line_for_each_answer_and_a_summary() -> None:
    with udp_responder() as port:
        done = run("ping", f"127.0.0.1:{port}", "-c", "3", "-i", "0", "--raida-id", "7")
    assert (done.returncode, done.stderr) == (0, "")
    first, *answers, rule, sums, times = done.stdout.splitlines()
    assert first == f"PING 127.0.0.1:{port} over UDP, RAIDA 7 (as told)"
    assert len(answers) == 3
    for sequence, line in enumerate(answers, 1):
        assert line.startswith(f"250 SUCCESS from 127.0.0.1:{port}: seq={sequence} time=")
        assert line.endswith(" ms server=5 us")
    assert rule == f"--- 127.0.0.1:{port} ---"
    assert sums == "3 sent, 3 answered, 0 timeouts, 0% loss"
    assert times.startswith("round trip min/p50/p95/p99/max = ")


def test_ping_by_a_wrong_number_says_whose_it_is_and_exits_1() -> None:
    refusal = bytes((9, 0, 3)) + bytes(29)
    with tcp_responder([refusal, refusal]) as port:
        args = ("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0", "--raida-id", "7")
        done = run(*args)
    assert done.returncode == 1
    assert "3 INVALID_RAIDA_ID from" in done.stdout
    assert "2 sent, 2 answered (2 refused), 0 timeouts, 0% loss" in done.stdout
    assert done.stderr == (
        f"raida-uring: 127.0.0.1:{port} is RAIDA 9, not 7: ask with --raida-id 9\n"
    )


def test_ping_for_a_health_check_takes_any_answer() -> None:
    """A container's HEALTHCHECK does not know which RAIDA it is."""
    with tcp_responder([bytes((9, 0, 3)) + bytes(29)]) as port:
        args = ("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1", "--raida-id", "7")
        assert run(*args, "--any-answer").returncode == 0
        assert run(*args, "--any-answer").returncode == 1  # nobody is there any more


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (7, "does not serve that coin (7 INVALID_COIN_ID): see --coin-id"),
        (160, "refused the echo with status 160 REQUEST_RATE"),
    ],
)
def test_ping_that_is_refused_is_no_success(status: int, told: str) -> None:
    with tcp_responder([bytes((0, 0, status)) + bytes(29)]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1")
    assert (done.returncode, done.stderr) == (1, f"raida-uring: 127.0.0.1:{port} {told}\n")


def test_ping_refused_once_is_a_success() -> None:
    with tcp_responder([bytes((0, 0, 160)) + bytes(29), b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert done.returncode == 0
    assert "2 sent, 2 answered (1 refused)" in done.stdout


def test_ping_counts_timeouts() -> None:
    with udp_responder(silent_to=frozenset({2})) as port:
        done = run("ping", f"127.0.0.1:{port}", "-c", "4", "-i", "0", "-W", "0.2")
    assert done.returncode == 0
    assert f"no answer from 127.0.0.1:{port}: seq=2 within 0.2 s" in done.stdout
    assert "4 sent, 3 answered, 1 timeouts, 25% loss" in done.stdout


def test_ping_without_any_answer_exits_1() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = run("ping", f"127.0.0.1:{port}", "-c", "1", "-W", "0.1")
    assert done.returncode == 1
    assert "1 sent, 0 answered, 1 timeouts, 100% loss" in done.stdout
    assert "round trip" not in done.stdout


def test_ping_over_tcp_reads_replies_in_pieces() -> None:
    with tcp_responder([b"", b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert done.returncode == 0
    assert "2 sent, 2 answered" in done.stdout


def test_ping_tells_a_cut_reply_from_an_answer() -> None:
    cut = answer_to(bytes(50))[:-1]
    with tcp_responder([cut]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1")
    assert done.returncode == 1
    assert "seq=1 reply has 31 bytes, its header says 32" in done.stdout
    assert "1 sent, 0 answered, 0 timeouts, 1 errors, 100% loss" in done.stdout


def test_ping_reports_a_closed_port() -> None:
    require_ipv6()
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as unused:
        unused.bind(("::1", 0))  # bound, not listening: connections are refused
        port = unused.getsockname()[1]
        done = run("ping", "--tcp", f"[::1]:{port}", "-c", "1")
    assert done.returncode == 1
    assert f"no answer from [::1]:{port}: seq=1 Connection refused" in done.stdout


def test_interrupted_ping_still_sums_up() -> None:
    with udp_responder() as port:
        process = subprocess.Popen(
            [sys.executable, "-m", "raida_uring", "ping", f"127.0.0.1:{port}", "-i", "3600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Background jobs of a shell have SIGINT ignored, and so would this child of theirs.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            assert "seq=1" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    assert "1 sent, 1 answered, 0 timeouts, 0% loss" in output


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (50000, "RAIDA 0 (from the port)"),
        (50024, "RAIDA 24 (from the port)"),
        (50025, "RAIDA 0 (assumed; --raida-id tells)"),
    ],
)
def test_ping_takes_the_raida_id_from_the_port(port: int, expected: str) -> None:
    # Whether anything answers there does not matter.
    done = run("ping", f"127.0.0.1:{port}", "-c", "1", "-W", "0.1")
    assert done.stdout.splitlines()[0].endswith(expected)


@pytest.mark.parametrize(
    ("args", "peer"),
    [
        ("127.0.0.1", "127.0.0.1:50000 over UDP, RAIDA 0 (from the port)"),
        ("[::1]", "[::1]:50000 over UDP, RAIDA 0 (from the port)"),
        ("127.0.0.1 --raida-id 7", "127.0.0.1:50007 over UDP, RAIDA 7 (as told)"),
        ("127.0.0.1 --raida-id 200", "127.0.0.1:50000 over UDP, RAIDA 200 (as told)"),
    ],
)
def test_ping_needs_no_port(args: str, peer: str) -> None:
    # Whether anything answers there does not matter.
    done = run("ping", *args.split(), "-c", "1", "-W", "0.1")
    assert done.stdout.splitlines()[0] == f"PING {peer}"


def test_ping_learns_whose_port_it_is() -> None:
    """Only where nobody has told: who names a number wants to know that it is another's."""
    refusal = bytes((9, 0, 3)) + bytes(29)
    with tcp_responder([refusal, b"", b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == f"PING 127.0.0.1:{port} over TCP, RAIDA 9 (as it says)"
    assert "2 sent, 2 answered, 0 timeouts, 0% loss" in done.stdout


@pytest.fixture
def two_addresses(tmp_path: Path) -> list[str]:
    """What runs a command where the name `both.test` is ::1, and then 127.0.0.1."""
    require_ipv6()
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 both.test\n127.0.0.1 both.test\n")
    mounting = ["unshare", "--mount", "sh", "-c"]
    mounting.append('mount --bind "$0" /etc/hosts && exec "$@"')
    tried = subprocess.run(
        [*mounting, str(hosts), "getent", "ahosts", "both.test"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if "::1" not in tried.stdout or "127.0.0.1" not in tried.stdout:
        pytest.skip(f"no mount namespace, or no IPv6: {tried.stderr}")
    return [*mounting, str(hosts), sys.executable]


def test_ping_tries_every_address_of_a_name(two_addresses: list[str]) -> None:
    with udp_responder() as port:
        done = subprocess.run(
            [*two_addresses, "-m", "raida_uring", "ping", f"both.test:{port}", "-c", "1"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"[::1]:{port}: Connection refused" in done.stdout
    assert f"250 SUCCESS from 127.0.0.1:{port}: seq=1" in done.stdout
    assert "1 sent, 1 answered, 0 timeouts, 0% loss" in done.stdout


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_clients_try_every_address_of_a_name(
    two_addresses: list[str], transport: str, kind: str
) -> None:
    script = (
        "import asyncio, inspect, sys\n"
        "from raida_uring.client import AsyncClient, Client, calls\n"
        "async def ask(kind, port, transport):\n"
        "    node = kind('both.test', port, raida_id=0, transport=transport)\n"
        "    answer = node.ask(calls.Call(0, 0, b'', frozenset((250,)), lambda *_: 0))\n"
        "    return (await answer if inspect.isawaitable(answer) else answer).status\n"
        f"print(asyncio.run(ask({kind}, int(sys.argv[1]), {transport!r})))"
    )
    with udp_responder() if transport == "udp" else tcp_responder([b""]) as port:
        done = subprocess.run(
            [*two_addresses, "-c", script, str(port)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=ROOT,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("250\n", "")


def test_a_resolver_that_is_silent_holds_no_client_up(tmp_path: Path) -> None:
    """In namespaces of its own, where the name server takes questions and answers none."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    script = (
        "import asyncio, socket, sys, time\n"
        "from raida_uring.client import AsyncClient, Client, calls, request\n"
        "from raida_uring.cli.main import main\n"
        "dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); dns.bind(('127.0.0.53', 53))\n"
        "async def ask():\n"
        "    for transport in ('udp', 'tcp'):\n"
        "        node = AsyncClient('raida7.test', 50007, raida_id=7, timeout_s=0.3,\n"
        "                           transport=transport)\n"
        "        try: await node.ask(calls.echo())\n"
        "        except TimeoutError: print('late')\n"
        "def wait(transport):\n"
        "    node = Client('raida7.test', 50007, raida_id=7, timeout_s=0.3, transport=transport)\n"
        "    for ask in (lambda: node.ask(calls.echo()), node.vote, lambda: request(\n"
        "            'raida7.test', 50007, bytes(50), timeout_s=0.3, transport=transport)):\n"
        "        try: ask()\n"
        "        except TimeoutError: print('late')\n"
        "begin = time.monotonic(); asyncio.run(ask()); wait('udp'); wait('tcp')\n"
        "print(main(['ping', 'raida7.test', '-W', '0.3', '-c', '1']))\n"
        "print(time.monotonic() - begin < 8)"  # one look-up that waits for its end takes 10 s
    )
    mounting = (
        'ip link set lo up && mount --bind "$0/resolv.conf" /etc/resolv.conf && '
        'mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@"'
    )
    unshare = ["unshare", "--mount", "--net", "sh", "-c"]
    done = subprocess.run(
        [*unshare, mounting, str(tmp_path), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        check=False,
    )
    if done.returncode in (1, 127) and "Traceback" not in done.stderr:
        pytest.skip(f"no namespaces, or no ip (Debian package iproute2): {done.stderr}")
    assert done.stdout == "late\n" * 8 + "2\nTrue\n", done.stderr
    assert "raida7.test: timed out: the addresses of the name" in done.stderr


def test_answer_is_what_the_protocol_says() -> None:
    """The responder above is only as good as its bytes."""
    request = protocol.build_request(0, 0, raida_id=3, echo=9, challenge=b"twelve bytes")
    reply = protocol.parse_reply(answer_to(request))
    assert (reply.raida_id, reply.status, reply.server_time_us) == (3, 250, 5)
    assert reply.echo == b"\0\x09"
    assert reply.challenge == request[32:48]
