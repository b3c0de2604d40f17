"""The command line as a user meets it: a process, its output and its exit status.

A fault in what was typed or configured is one line on standard error, with exit status 2.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raida_uring import __version__
from tests.support.command_line import (
    PROGRAM,
    REPOSITORY,
    TIMEOUT_S,
    environment,
    execute,
    output_of,
    run,
    run_script,
)
from tests.support.confine import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, give_up
from tests.support.sanitized import LIMITS_MEMORY
from tests.support.store import make_store

CLONE3 = 435  # on every architecture


# --- Faults -----------------------------------------------------------------------------------

# Nobody can make a file in /proc.
WRONG_USAGE = [
    ("bogus",),
    ("--bogus",),
    ("config",),
    ("config", "check"),
    ("config", "show", "/proc/nonexistent.toml"),
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
    ("serve", "--config", "/proc/nonexistent.toml"),
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
    ("bench", "--json", "/proc/nonexistent/out"),
    ("probe", "extra"),
    ("probe", "--config", "/proc/nonexistent.toml"),
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
    """Faults that the parser finds, and those that a command itself finds."""
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
        ('pages_for = "all"', "anybody can fetch pages of coins"),
        ('pages_for = "peers"', "every address in raida_servers can fetch pages of coins"),
    ],
)
def test_serve_warns_when_it_hands_out_pages_of_coins(
    setting: str, warning: str | None, tmp_path: Path
) -> None:
    """The start fails because no machine has the address."""
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


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("args", ["--version", "--help", "config show"])
def test_output_to_a_full_disk_is_one_line_and_status_1(args: str, buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*args.split(), stdout=full, env=environment(PYTHONUNBUFFERED=buffered))
    said = "raida-uring: cannot write: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_output_that_nobody_reads_ends_silently() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = run("config", "show", stdout=nobody)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_unwritable_message_does_not_change_the_exit_status(buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        given = environment(PYTHONUNBUFFERED=buffered)
        done = run("config", "check", "/proc/nonexistent.toml", stderr=full, env=given)
    assert done.returncode == 2


CLOSED = """
import os, sys
report = os.open(sys.argv[1], os.O_WRONLY)
from raida_uring.cli import main as cli
sys.argv[1:] = ["config", "check", "/proc/nonexistent.toml"]
status = cli.main()
leads_to = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
os.write(report, f"{status} {leads_to}".encode())
"""


def test_closed_standard_streams_lead_nowhere(tmp_path: Path) -> None:
    """Otherwise the node's store or a socket could get their numbers."""
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
def test_ctrl_c_while_the_program_loads_ends_it_silently(tmp_path: Path, command: str) -> None:
    (tmp_path / "typer.py").write_text(SLOW)
    early = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2) if "serve" in command else ()
    ended = interrupted_while_loading(command.split(), *early, env=environment(tmp_path))
    assert ended == (-signal.SIGINT, "")


def test_ctrl_c_while_a_module_of_handlers_loads_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_handlers.py").write_text(SLOW)
    file = tmp_path / "node.toml"
    file.write_text('[server]\nraida_id = 1\n[handlers]\nmodules = ["slow_handlers"]\n')
    for command in (["commands", "--config"], ["config", "check", "--deep"]):
        status, text = interrupted_while_loading([*command, str(file)])
        assert status == 130
        assert "Traceback" not in text


def interrupted_while_loading(
    command: list[str], *early: int, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """The exit status, and standard error after the line of the module that loads slowly."""
    started = subprocess.Popen([*PROGRAM, *command], stderr=subprocess.PIPE, text=True, env=env)
    with started:
        assert started.stderr is not None
        for line in started.stderr:
            if line == "loading\n":
                break
        for number in (*early, signal.SIGINT):  # early: what must not end the process
            started.send_signal(number)
        return started.wait(TIMEOUT_S), started.stderr.read()


def test_a_thread_that_cannot_start_is_one_line_and_status_1() -> None:
    """The same error as at a limit on processes, which does not apply to root."""
    script = (
        "import sys, threading; threading.stack_size(1 << 47); "
        "from raida_uring.cli.main import main; sys.exit(main(['serve', '--port', '0']))"
    )
    done = run_script(script)
    assert done.returncode == 1  # may pass: a service manager is to try again
    last = done.stderr.splitlines()[-1]
    assert last == "raida-uring: can't start new thread: raise TasksMax= (ulimit -u)"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (f"refuse_system_call({CLONE3}, errno.EPERM)", "seccomp filter"),
        pytest.param("limit(resource.RLIMIT_AS, 600 << 20)", "ulimit -v", marks=LIMITS_MEMORY),
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
    done = run_script(script)
    last = done.stderr.splitlines()[-1]
    # Want of a thread may pass: a service manager is to try again.
    assert done.returncode == (1 if "new thread" in last else 2), done.stderr
    assert expected in last
    assert "TasksMax" not in last
    assert ("lower [udp]" in last) == ("ulimit -v" in last and "reserving" in last)


@LIMITS_MEMORY
def test_a_program_without_room_for_itself_is_one_line_and_status_1() -> None:
    """However much is missing: while it loads, and when it begins to work."""
    script = (
        "import os, resource, sys; most = int(sys.argv[1]) << 20; "
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'raida_uring', 'config', 'show'])"
    )
    tried = 0
    for mib in range(16, 1024, 4):
        done = run_script(script, mib)
        if done.returncode == 0:
            break
        if (
            "raida-uring: " not in done.stderr
            and str(REPOSITORY / "raida_uring") not in done.stderr
        ):
            continue  # Python itself has none
        tried += 1
        # What a module of Python's own logs about it, as hashlib does, may stand before.
        *_, last = done.stderr.splitlines()
        assert (done.returncode, last.partition(" ")[0]) == (1, "raida-uring:"), done.stderr
        assert "install it again" not in done.stderr
    assert tried


@LIMITS_MEMORY
def test_lack_of_memory_under_a_limit_on_address_space_names_the_remedy() -> None:
    script = (
        "import errno\n"
        "from raida_uring import remedies\n"
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
        "print(remedies.for_memory())"
    )
    assert run_script(script).stdout == "raise LimitAS= (ulimit -v)\n"


@LIMITS_MEMORY
def test_a_store_without_room_for_its_mapping_says_so(tmp_path: Path) -> None:
    make_store(tmp_path / "coins")
    script = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'raida_uring', *sys.argv[1:]])"
    )
    done = run_script(script, "store", "stat", "--store", tmp_path / "coins")
    assert (done.returncode, done.stderr) == (
        2,
        f"raida-uring: opening the store {tmp_path}/coins: a store of up to 2048 MiB needs as much "
        "address space: raise LimitAS= (ulimit -v), or lower [store] size_mib\n",
    )


def test_a_wrapper_that_keeps_the_sockets_for_itself_is_named() -> None:
    """The sockets of a .socket unit: they would block the node's port, and nobody would serve
    them."""
    script = 'LISTEN_FDS=2 LISTEN_PID=$$ "$@"; exit $?'
    for wrapper in (
        ["sh", "-c", script, "sh"],
        ["sh", "-c", script, "sh", "sh", "-c", '"$@"', "x"],
    ):
        done = execute(*wrapper, *PROGRAM, "serve", "--port", "0")
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
    return run_script(script, *args, cwd=gone)


@pytest.mark.parametrize(
    "args",
    [
        "store stat --store coins",
        "store verify --store coins",
        "store init --store coins",
        "store export --store coins files",
        "store import --store coins files",
        "store backup --store coins files",
        "store convert --store coins",
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
    """Its admin socket belongs there: the node logs that and tries again."""
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
        env=environment(),
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
    given = environment(PYTHONIOENCODING=encoding)
    shown, checked = (
        run("config", command, path, env=given, encoding="utf-8") for command in ("show", "check")
    )
    assert (shown.returncode, checked.returncode) == (0, 0)
    assert 'path = "/data/存"' in shown.stdout
    assert checked.stderr == ""


def test_a_file_name_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.toml"
    Path(os.fsdecode(path)).write_text("[server]\nraida_id = 0\n")
    done = run("config", "check", os.fsdecode(path), errors="surrogateescape")
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf" in done.stdout


@pytest.fixture(scope="module")
def latin_locale(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell whose locale is German in ISO-8859-1."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef (Debian package libc-bin)")
    directory = tmp_path_factory.mktemp("locales")
    done = execute("localedef", "-i", "de_DE", "-f", "ISO-8859-1", directory / "de_DE")
    if not (directory / "de_DE").exists():
        pytest.skip(f"no sources of locales (Debian package locales): {done.stderr}")
    return environment(LC_ALL="de_DE", LOCPATH=str(directory))


def test_paths_of_a_configuration_name_the_same_directory_in_every_locale(
    tmp_path: Path, latin_locale: dict[str, str]
) -> None:
    path = tmp_path / "node.toml"
    store = str(tmp_path / "grün")
    path.write_text(f'[server]\nraida_id = 0\n[store]\npath = "{store}"\n', encoding="utf-8")
    shown = output_of(
        *PROGRAM, "store", "init", "--config", path, env=latin_locale, encoding="utf-8"
    )
    assert (Path(store) / "data.mdb").exists()
    assert shown.startswith(store)


@pytest.mark.parametrize("metadata", [None, b"", b"[raida_uring.commands]\n\xff = \xfe\n"])
def test_metadata_of_other_packages_keep_no_node_from_starting(
    tmp_path: Path, metadata: bytes | None
) -> None:
    """Leftovers of tools: an empty directory, and text that is not UTF-8."""
    directory = tmp_path / "site" / ("x-1.dist-info" if metadata else ".dist-info")
    directory.mkdir(parents=True)
    if metadata is not None:
        (directory / "entry_points.txt").write_bytes(metadata)
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 0\n")
    given = environment(tmp_path / "site")
    done = run("config", "check", "--deep", "node.toml", cwd=tmp_path, env=given)
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
        tmp_path / "service" / "admin.sock",
        *args,
        env=environment(RUNTIME_DIRECTORY=str(tmp_path)),
        preexec_fn=lambda: give_up(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
    )


def test_another_users_service_is_distinguished_from_none(tmp_path: Path) -> None:
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
    """Compared without blanks: a long path is broken."""
    shown = "".join(run("--help").stdout.split())
    places = (REPOSITORY / "docs", Path(sys.prefix, "share/doc/raida-uring"))
    guides = (one / "configure.md" for one in places)
    found = [one for one in guides if f"describedin{''.join(str(one).split())}." in shown]
    assert [one.is_file() for one in found] == [True]


def test_version() -> None:
    assert run("--version").stdout == f"raida-uring {__version__}\n"
