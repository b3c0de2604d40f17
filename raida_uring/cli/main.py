"""The `raida-uring` command: parse, call, print.

Every fault that is the caller's or the machine's ends as one line on standard error and exit
status 2. The server and the benchmark are imported when asked for.
"""

import codecs
import contextlib
import errno
import functools
import io
import itertools
import json
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

import raida_uring
from raida_uring import client, log, protocol, remedies
from raida_uring.admin import client as adminsocket
from raida_uring.errors import PASSING, ConfigError, EngineError, ProtocolError, RaidaError
from raida_uring.node import inbox, upgrade

_NOT_WHOLE = "the program is not whole: {}: install it again"

try:  # these need the data plane: what is installed may lack it, or be of another Python
    from raida_uring import config
    from raida_uring.cli import operate
except ImportError as missing:
    upgrade.tell_failure(_NOT_WHOLE.format(missing))
    print(f"raida-uring: {_NOT_WHOLE.format(missing)}", file=sys.stderr)
    sys.exit(1)  # as _run() does

_EXIT_NO_ANSWER = 1
_EXIT_FAULT = 2  # the caller's or the machine's: starting again would not help
_EXIT_NOT_RUNNING = 3  # whoever was to be asked
_EXIT_FAILED = 1  # passes by itself, or while serving: a service manager should start it again
_EXIT_INTERRUPTED = 130

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # disk full, quota, limit

_NO_THREAD = "can't start new thread"  # as threading says it
# The months that a coin's record can hold begin in February 2023 and end 256 later.
_YEARS = range(2023, 2045)

_FROM_PORT = "from the port"
_ASSUMED = "assumed; --raida-id tells"
_FIRST_PORT = 50000  # of the default plan: port = 50000 + raida id

logger = logging.getLogger("raida_uring")


def _guide(name: str) -> str:
    """Where a guide of docs/ is: below the prefix of a wheel, or in the checkout."""
    for directory in (
        Path(sys.prefix, "share/doc/raida-uring"),
        Path(__file__).resolve().parents[2] / "docs",
    ):
        if (directory / name).is_file():
            return str(directory / name)
    return f"{name}, see `man raida-uring`"


app = typer.Typer(
    help="Network node of a RAIDA server, on io_uring or epoll.",
    epilog=f"Every setting is described in {_guide('configure.md')}.",
    add_completion=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check a configuration, or show what takes effect.")
app.add_typer(config_app, name="config")
store_app = typer.Typer(help="Make, fill, save, check or describe a coin store.")
app.add_typer(store_app, name="store")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: the process's own) and return the exit status."""
    if argv is None:
        _open_standard_streams()
        _speak_utf8()
    try:
        return _run(argv)
    finally:
        _let_go_of_what_cannot_be_written()


def _run(argv: Sequence[str] | None) -> int:
    try:
        plain = _plain_serve(sys.argv[1:] if argv is None else argv)
        if plain is None:
            result = app(
                args=None if argv is None else list(argv),
                prog_name="raida-uring",
                standalone_mode=False,
            )
        else:
            result = serve(**plain)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, and not when Python ends: a full disk can still be told
    except BrokenPipeError:
        return _EXIT_FAILED  # whoever read our output has seen enough
    except OSError as error:
        return _complain_of_machine(error)
    except MemoryError:
        _complain("out of memory")
        return _EXIT_FAILED
    except ImportError as error:
        _complain(_NOT_WHOLE.format(error))
        return _EXIT_FAILED  # it may be being installed
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        _complain(f"{error}: {remedies.for_threads()}")
        return _EXIT_FAILED
    except EngineError as error:
        _complain(str(error))
        return _EXIT_FAILED
    except adminsocket.NotRunningError as error:
        _complain(str(error))
        return _EXIT_NOT_RUNNING
    except RaidaError as error:
        return _complain(str(error))
    except typer.TyperException as error:  # of its kinds only wrong usage reaches us
        given = sys.argv[1:] if argv is None else argv
        fault = error.format_message().rstrip(".")
        end = "" if fault.endswith("?") else "."
        return _complain(f"{fault}{end} See {_command_path(error, given)} --help.")
    except typer.Abort:
        return _EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _complain_of_machine(error: OSError) -> int:
    """What nobody below has put into words: a file, a directory, a descriptor."""
    reason = error.strerror or str(error)
    if error.errno in _UNWRITABLE and error.filename is None:
        _complain(f"cannot write: {reason}")
        return _EXIT_FAILED
    if error.filename is not None:
        _complain(f"{os.fsdecode(error.filename)}: {reason}")
    elif isinstance(error, FileNotFoundError) and not _has_directory():
        _complain(f"the current directory is gone ({reason}): change to one that is there")
    else:
        _complain(reason)
    return _EXIT_FAILED if error.errno in PASSING else _EXIT_FAULT


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _speak_utf8() -> None:
    """Read and write UTF-8 whatever the locale: configurations are UTF-8 text, and what they name
    must be the same file for an operator's shell and for the service.

    Python settles how names of files are encoded before any code of ours runs: in another locale
    the program begins anew, in UTF-8 mode.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        with contextlib.suppress(OSError):  # no memory: as well as it goes, then
            os.execv(sys.executable, command)  # noqa: S606  this program, no shell
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _plain_serve(argv: Sequence[str]) -> dict[str, Any] | None:
    """The arguments of `serve`, where each is an option written out with its value; None: let typer
    see to it.

    A node starts in three quarters of the time: typer loads pydantic for the whole command line.
    """
    names = {"--config": "config_path", "--host": "host", "--port": "port", "--backend": "backend"}
    options, values = argv[1::2], argv[2::2]
    if argv[:1] != ["serve"] or len(options) != len(values) or not names.keys() >= set(options):
        return None
    if len(set(options)) != len(options) or any(value.startswith("-") for value in values):
        return None
    given: dict[str, Any] = {
        names[option]: value for option, value in zip(options, values, strict=True)
    }
    if "config_path" in given:
        given["config_path"] = Path(given["config_path"])
    if "port" in given:
        if re.fullmatch("[0-9]{1,5}", given["port"]) is None:
            return None
        given["port"] = int(given["port"])
    return given


def _open_standard_streams() -> None:
    """Give numbers 0 to 2 to the null device where they are closed: a socket or the store would get
    them else, and with them what is meant for standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  the same
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  the same


def _let_go_of_what_cannot_be_written() -> None:
    """Else Python tries again at its end, complains, and exits with 120 whatever has happened."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _command_path(error: typer.TyperException, argv: Sequence[str]) -> str:
    """The command whose help tells what was to be typed, as it is typed.

    Faults that a command's own code finds come without a context: the arguments name it then. No
    option of a group of commands takes a value.
    """
    context = getattr(error, "ctx", None)
    if context is not None:
        return str(context.command_path)
    path, command = "raida-uring", typer.main.get_command(app)
    for name in argv:
        commands = getattr(command, "commands", {})
        if name in commands:
            path, command = f"{path} {name}", commands[name]
        elif not name.startswith("-"):
            break
    return path


def _complain(message: str) -> int:
    """Print `message` as one line, whatever it holds."""
    line = " ".join(message.split())
    if upgrade.ENVIRONMENT in os.environ:
        upgrade.tell_failure(line)
    with contextlib.suppress(OSError):  # a full disk: the exit status is left to tell
        print(f"raida-uring: {line}", file=sys.stderr)
    return _EXIT_FAULT


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"raida-uring {raida_uring.__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback does it
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command; without one show what there is."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _complete_backend(incomplete: str) -> list[str]:
    return [name for name in ("auto", "uring", "epoll") if name.startswith(incomplete)]


_Backend = Annotated[
    str | None,
    typer.Option(
        metavar="auto|uring|epoll",
        autocompletion=_complete_backend,
        help="How to talk to the kernel, instead of what the file says. `auto` takes io_uring, or "
        "epoll where io_uring is refused; `uring` does not start there; `epoll` never touches "
        "io_uring.",
    ),
]


# --- serve ------------------------------------------------------------------------------------


@app.command()
def serve(
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="TOML file. Without it: RAIDA 0 on 127.0.0.1:50000 with a random admin key.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="IP address to listen on, instead of those in the file."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="UDP and TCP port, instead of the file's; 0 takes a free one."
        ),
    ] = None,
    backend: _Backend = None,
) -> int:
    """Run the node until SIGTERM or Ctrl-C.

    The first signal lets requests in flight finish; a second one does not wait for them.
    """
    inbox.hold_back((signal.SIGHUP, signal.SIGUSR2))

    def read(path: Path) -> config.Config:
        return config.with_overrides(config.load(path), host=host, port=port, backend=backend)

    if config_path is None:
        chosen = config.with_overrides(
            config.embedded_default(), host=host, port=port, backend=backend
        )
    else:
        chosen = read(config_path)
    log.configure(chosen.log.level, form=chosen.log.format)
    log.guard_process()
    _warn_of_clock()
    if config_path is None:
        logger.info(
            "no --config given: RAIDA 0 with a random admin key", extra=log.event("default_config")
        )
    else:  # last, so that a handler's module beside the file cannot stand in for another
        sys.path.append(str(config_path.resolve().parent))
        exposed = config.exposed_keys(config_path, chosen)
        if exposed is not None:
            logger.warning("%s", exposed, extra=log.event("config_exposed"))
    if os.geteuid() == 0:
        logger.info(
            "runs as root, whose rights it does not need: a user of its own is safer",
            extra=log.event("runs_as_root"),
        )
    from raida_uring.handlers import page_readers

    if page_readers.hands_pages_to_anybody(chosen):
        logger.warning(
            "anybody who asks is handed pages of coins with every AN (14/4), which no RAIDA needs: "
            '[store] pages_for = "none", the default, forbids it',
            extra=log.event("pages_for_all"),
        )
    elif page_readers.hands_pages_to_peers(chosen):
        logger.warning(
            "whoever has an address of raida_servers is handed pages of coins with every AN "
            '(14/4), which no RAIDA needs: [store] pages_for = "none", the default, forbids it',
            extra=log.event("pages_for_peers"),
        )

    # Here and not above: other commands do without.
    from raida_uring.node.daemon import serve as serve_until_stopped

    reread = None if config_path is None else functools.partial(read, config_path)
    try:
        serve_until_stopped(chosen, reread, config_path)
    except RaidaError as error:
        if not error.passes:
            raise
        _complain(str(error))
        return _EXIT_FAILED
    return 0


def _warn_of_clock() -> None:
    """The month of a change and the life of a ticket follow from it."""
    year = time.gmtime().tm_year
    if year not in _YEARS:
        logger.warning(
            "the clock is in the year %d: set it, or let NTP; coins that change meanwhile get a "
            "wrong month",
            year,
            extra=log.event("clock_absurd", year=year),
        )


# --- probe ------------------------------------------------------------------------------------


@app.command()
def probe(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", readable=False, help="TOML file whose needs are to be met."
        ),
    ] = None,
    backend: _Backend = None,
) -> int:
    """Tell what this machine grants the node.

    Says what it would run on. Tries each kernel feature, names the cause where io_uring is
    refused, and compares limits with what the node needs. Exits 0 if it would run on io_uring, 3 on
    epoll only, 1 on neither, 2 if nothing was tried.
    """
    chosen = config.embedded_default() if config_path is None else config.load(config_path)
    chosen = config.with_overrides(chosen, backend=backend)
    from raida_uring.node import probe as kernel

    found = kernel.probe(chosen)
    if as_json:
        print(json.dumps(kernel.as_dict(found), indent=2))
    else:
        print(kernel.table(found), end="")
    return found.verdict.exit_status


# --- config -----------------------------------------------------------------------------------


@config_app.command("check")
def config_check(
    path: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="TOML file.")],
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also import the handlers' modules, which runs their code, and look into the "
            "store, as this user; the node may be running.",
        ),
    ] = False,
) -> None:
    """Say whether a configuration would be accepted.

    Looks at the file alone, unless told to look deeper.
    """
    chosen = config.load(path)
    found = _check_deep(chosen, path) if deep else ""
    exposed = config.exposed_keys(path, chosen)
    if exposed is not None:
        raise ConfigError(exposed)
    print(f"{path}: correct{', with its modules and its store' if deep else ''}")
    if found:
        print(found)


def _check_deep(chosen: config.Config, path: Path) -> str:
    """What `serve` would find in modules and store: its commands, counted. Raises RaidaError."""
    sys.path.append(str(path.resolve().parent))
    from raida_uring import handlers, store

    commands = handlers.load(chosen.handlers.modules, store=chosen.store.path is not None)
    if chosen.store.path is not None:
        store.check(
            Path(chosen.store.path),
            map_bytes=chosen.store.size_mib << 20,
            raida_id=chosen.server.raida_id,
        )
    return handlers.summary(commands)


@app.command("commands")
def list_commands(
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="TOML file whose modules are imported, which runs their code. Without it: the "
            "built-in commands of a node without a store, and those of entry points.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the commands that a node answers.

    Number, name, lane, whether a body is needed, and whose handler it is; last, which numbers are
    left for commands of your own.
    """
    chosen = config.embedded_default() if config_path is None else config.load(config_path)
    if config_path is not None:
        sys.path.append(str(config_path.resolve().parent))
    from raida_uring import handlers

    found = handlers.load(chosen.handlers.modules, store=chosen.store.path is not None)
    print(json.dumps(handlers.as_dicts(found), indent=2) if as_json else handlers.table(found))


@config_app.command("show")
def config_show(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", readable=False, help="TOML file; without it the embedded default."
        ),
    ] = None,
    show_secrets: Annotated[bool, typer.Option("--secrets", help="Print keys too.")] = False,
) -> None:
    """Print every setting with the value that takes effect, as TOML."""
    chosen = config.embedded_default() if path is None else config.load(path)
    print(config.to_toml(chosen, show_secrets=show_secrets), end="")


# --- store ------------------------------------------------------------------------------------

_ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        readable=False,
        help="TOML file that says where the store is, and how large it may grow.",
    ),
]
_StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        readable=False,
        help="The store's directory. Either it or --config is needed.",
    ),
]
_SHOWN_MAX = 20  # lines of one kind; the rest is counted
_PROGRESS_INTERVAL_S = 0.1


def _choose_store(config_path: Path | None, path: Path | None) -> tuple[Path, int]:
    """The store's directory, and the most bytes that it may grow to."""
    if (config_path is None) == (path is None):
        both = "" if path is None else ", not both"
        raise typer.BadParameter(f"say which store: --config FILE or --store DIR{both}")
    if config_path is not None:
        chosen = config.load(config_path).store
        if chosen.path is None:
            raise ConfigError(f"{config_path}: [store] path is not set")
        return Path(chosen.path), chosen.size_mib << 20
    assert path is not None  # noqa: S101  for the type checker
    return path, config.StoreTable().size_mib << 20


class _Progress:
    """A line on standard error that is written over, if that is a terminal."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        if not self._shown or (time.monotonic() < self._next_s and done < total):
            return
        self._next_s = time.monotonic() + _PROGRESS_INTERVAL_S
        bar = "#" * (30 * done // total)
        line = f"{self._doing} [{bar:<30}] {100 * done // total:3} %"
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            print(f"\r{'':{self._width}}\r", end="", file=sys.stderr, flush=True)


@store_app.command("init")
def store_init(
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="For tests: what the ANs of new coins are made from, instead of a secret.",
        ),
    ] = None,
) -> None:
    """Make an empty store: no coin is in circulation.

    The ANs of all coins follow from a secret that is drawn now.
    """
    if seed is not None and not re.fullmatch("[!-~]{1,64}", seed):
        raise typer.BadParameter("--seed takes 1 to 64 printable ASCII characters")
    chosen, map_bytes = _choose_store(config_path, path)
    from raida_uring.store import Store

    Store.create(chosen, seed=seed, map_bytes=map_bytes)
    print(f"{_printable(chosen)}: empty store made, may grow to {map_bytes >> 20} MiB")
    if config_path is None:
        print(f"Serve it with `path` of [store], see {_guide('configure.md')}.")


@store_app.command("import")
def store_import(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_DIR", readable=False, help="`Data` of a reference server, stopped."
        ),
    ],
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
) -> int:
    """Fill a new store with the coins of a reference server.

    Makes the store unless it is there, empty. Files that are short, missing or longer than a page
    stay so. An import that was cut short leaves a store that does not serve: run it again.
    """
    chosen, map_bytes = _choose_store(config_path, path)
    from raida_uring.store import transfer as store_tools

    try:
        with _Progress("importing") as progress:
            found = store_tools.import_files(data, chosen, map_bytes=map_bytes, progress=progress)
    except KeyboardInterrupt:
        _complain(f"{chosen}: interrupted: holds only a part of the coins; import again")
        return _EXIT_INTERRUPTED
    for name in found.unknown[:_SHOWN_MAX]:
        _complain(f"warning: {name} is no page file, not imported")
    if found.unknown_count > _SHOWN_MAX:
        _complain(f"warning: {found.unknown_count - _SHOWN_MAX} further files are no page files")
    if found.missing or found.short:
        _complain(
            f"warning: {found.missing} page files are missing and {found.short} too short: "
            "their coins cannot be read"
        )
    print(
        f"{_printable(chosen)}: imported {found.whole + found.longer} pages, {found.short} short "
        f"files, {found.missing} missing ones; {found.longer} were longer than a page"
    )
    return 0


@store_app.command("export")
def store_export(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_DIR", readable=False, help="Directory that is empty, or not there."
        ),
    ],
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
) -> int:
    """Write a store as a reference server's `Data` directory.

    All files are of one moment; the node may be running. What was imported comes back byte for
    byte, but for coins that changed since.
    """
    chosen, _ = _choose_store(config_path, path)
    from raida_uring.store import transfer as store_tools

    try:
        with _Progress("exporting") as progress:
            written = store_tools.export_files(chosen, target, progress=progress)
    except KeyboardInterrupt:
        _complain(f"{target}: interrupted: not all files are there; remove it")
        return _EXIT_INTERRUPTED
    print(
        f"{_printable(target)}: {written.files} files written"
        + (f", {written.missing} missing as they were imported" if written.missing else "")
    )
    return 0


@store_app.command("verify")
def store_verify(config_path: _ConfigOption = None, path: _StoreOption = None) -> int:
    """Check a store; the node may be running.

    Reads every byte, and compares saved leaves of the integrity trees with the coins. Prints what
    is wrong and exits 1 then.
    """
    chosen, _ = _choose_store(config_path, path)
    from raida_uring.store import transfer as store_tools

    with _Progress("verifying") as progress:
        faults = store_tools.verify(chosen, progress=progress)
    for fault in faults[:_SHOWN_MAX]:
        print(fault)
    if len(faults) > _SHOWN_MAX:
        print(f"and {len(faults) - _SHOWN_MAX} more")
    if not faults:
        print(f"{_printable(chosen)}: correct")
    return _EXIT_FAILED if faults else 0


@store_app.command("stat")
def store_stat(
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Tell what a store holds; the node may be running.

    Sizes, pages, coins in circulation, tickets and the last change.
    """
    chosen, _ = _choose_store(config_path, path)
    from raida_uring.store import transfer as store_tools

    found = store_tools.stat(chosen)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.table().rstrip("\n"))


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# --- ping -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    """What became of the requests so far."""

    timeouts: int = 0
    errors: int = 0
    refused: int = 0  # answered, but not with an echo
    refusal: str = ""  # the last of them, in words
    round_trips_ms: list[float] = field(default_factory=list)

    def summary(self) -> str:
        answered = len(self.round_trips_ms)
        sent = answered + self.timeouts + self.errors
        lost_percent = 100 * (sent - answered) / sent if sent else 0
        refused = f" ({self.refused} refused)" if self.refused else ""
        errors = f", {self.errors} errors" if self.errors else ""
        line = (
            f"{sent} sent, {answered} answered{refused}, {self.timeouts} timeouts{errors}, "
            f"{lost_percent:.3g}% loss"
        )
        if not answered:
            return line
        ordered = sorted(self.round_trips_ms)
        figures = [ordered[0], *(_percentile(ordered, p) for p in (50, 95, 99)), ordered[-1]]
        values = "/".join(f"{value:.3f}" for value in figures)
        return f"{line}\nround trip min/p50/p95/p99/max = {values} ms"


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: always a value that occurred."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _parse_endpoint(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\s\[\]:]+))(?::([0-9]{1,5}))?", text)
    if match is not None and match[3] is not None and not 1 <= int(match[3]) <= 65535:
        raise typer.BadParameter(
            f"{text!r}: the port must be from 1 to 65535", param_hint="HOST:PORT"
        )
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not HOST:PORT; an IPv6 address goes in brackets, as in [::1]:50000",
            param_hint="HOST:PORT",
        )
    return match[1] or match[2], int(match[3] or default_port)


def _choose_raida_id(given: int | None, port: int) -> tuple[int, str]:
    """Return the id to ask for, and where it comes from."""
    if given is not None:
        return given, "as told"
    if 0 <= port - _FIRST_PORT < config.RAIDA_COUNT:
        return port - _FIRST_PORT, _FROM_PORT
    return 0, _ASSUMED


@app.command()
def ping(
    endpoint: Annotated[
        str, typer.Argument(metavar="HOST[:PORT]", help="Node to ask; IPv6 as [::1]:50000.")
    ],
    tcp: Annotated[
        bool,
        typer.Option(
            "--tcp/--udp", help="Transport; UDP by default. TCP connects for every request."
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-c", "--count", metavar="N", min=1, help="Stop after N requests."),
    ] = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "-i", "--interval", metavar="S", min=0, max=3600, help="Seconds between requests."
        ),
    ] = 1.0,
    timeout_s: Annotated[
        float,
        typer.Option(
            "-W",
            "--timeout",
            metavar="S",
            min=0.001,
            max=3600,
            help="Seconds to wait for an answer.",
        ),
    ] = 2.0,
    raida_id: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=255,
            help="RAIDA asked; by default port - 50000, or who the node says it is.",
        ),
    ] = None,
    coin_id: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Coin to name.")] = 6,
    any_answer: Annotated[
        bool, typer.Option("--any-answer", help="A refusal counts, too: for health checks.")
    ] = False,
) -> int:
    """Send echo requests, like ping(8).

    One line for each answer, a summary at the end or at Ctrl-C. The port is 50000 plus the number
    of the RAIDA unless given; of a name, the first address where somebody is. Exits 0 if any echo
    came back, 1 if none did: no answer, or refusals only, as by another RAIDA than the one asked.
    """
    known = raida_id is not None and raida_id < config.RAIDA_COUNT
    host, port = _parse_endpoint(endpoint, _FIRST_PORT + (raida_id or 0) * known)
    try:
        addresses = [text for _, text in client.resolve_all(host, port)]
    except OSError as error:
        raise RaidaError(f"{host}: {error.strerror or error}") from None
    asking = _Asking(
        addresses,
        port,
        "tcp" if tcp else "udp",
        timeout_s,
        coin_id,
        *_choose_raida_id(raida_id, port),
    )
    asking.introduce()
    tally = asking.tally
    next_s = time.monotonic()
    try:
        for sequence in itertools.count(1) if count is None else range(1, count + 1):
            # As ping(8): the interval is between sends, whatever an answer takes.
            time.sleep(max(0.0, next_s - time.monotonic()))
            next_s = time.monotonic() + interval_s
            print(asking.ask(sequence), flush=True)
    except KeyboardInterrupt:
        print()
    print(f"--- {asking.peer} ---\n{tally.summary()}", flush=True)
    if tally.refused:
        _complain(f"{asking.peer} {tally.refusal}")
    counted = len(tally.round_trips_ms) - (0 if any_answer else tally.refused)
    return 0 if counted > 0 else _EXIT_NO_ANSWER


@dataclass(slots=True)
class _Asking:
    """Whom ping asks, and what has come of it."""

    addresses: list[str]  # the first of them, until it is clear that nobody is there
    port: int
    transport: client.Transport
    timeout_s: float
    coin_id: int
    raida_id: int
    origin: str  # of the id, in words
    tally: _Tally = field(default_factory=_Tally)

    @property
    def peer(self) -> str:
        return client.format_endpoint(self.addresses[0], self.port)

    def introduce(self) -> None:
        over = self.transport.upper()
        print(f"PING {self.peer} over {over}, RAIDA {self.raida_id} ({self.origin})", flush=True)

    def ask(self, sequence: int) -> str:
        """Make one exchange, count it, and return its line.

        The first one finds out at which address of a name somebody is, and which RAIDA that is
        where nobody has told.
        """
        found = self._exchange(sequence)
        while self._is_nobody_there(found):
            print(f"{self.peer}: {_reason_of(found)}", flush=True)
            del self.addresses[0]
            self.introduce()
            found = self._exchange(sequence)
        if isinstance(found, client.Exchange) and self._is_another(found.reply):
            self.raida_id, self.origin = found.reply.raida_id, "as it says"
            self.introduce()
            found = self._exchange(sequence)
        return self._count(found, sequence)

    def _exchange(self, sequence: int) -> client.Exchange | Exception:
        data = protocol.build_request(
            protocol.Group.STATUS,
            0,
            raida_id=self.raida_id,
            coin_id=self.coin_id,
            echo=sequence & 0xFFFF,
            challenge=os.urandom(protocol.CHALLENGE_RANDOM_BYTES),
        )
        try:
            return client.request(
                self.addresses[0],
                self.port,
                data,
                transport=self.transport,
                timeout_s=self.timeout_s,
            )
        except (OSError, ProtocolError) as error:
            return error

    def _is_nobody_there(self, found: client.Exchange | Exception) -> bool:
        """At this address, while there are others and none has been heard of."""
        tally = self.tally
        heard = tally.round_trips_ms or tally.timeouts or tally.errors
        refused = isinstance(found, OSError) and not isinstance(found, TimeoutError)
        return refused and not heard and len(self.addresses) > 1

    def _is_another(self, reply: protocol.ParsedReply) -> bool:
        wrong = reply.status == protocol.Status.INVALID_RAIDA_ID
        return wrong and reply.raida_id != self.raida_id and self.origin in (_ASSUMED, _FROM_PORT)

    def _count(self, found: client.Exchange | Exception, sequence: int) -> str:
        tally = self.tally
        if isinstance(found, TimeoutError):
            tally.timeouts += 1
            return f"no answer from {self.peer}: seq={sequence} within {self.timeout_s:g} s"
        if isinstance(found, Exception):
            tally.errors += 1
            return f"no answer from {self.peer}: seq={sequence} {_reason_of(found)}"
        reply, round_trip_ms = found.reply, found.round_trip_s * 1000
        tally.round_trips_ms.append(round_trip_ms)
        if reply.status != protocol.Status.SUCCESS:
            tally.refused += 1
            tally.refusal = _explain_refusal(reply, asked=self.raida_id)
        return (
            f"{reply.status} {protocol.status_name(reply.status)} from {self.peer}: seq={sequence} "
            f"time={round_trip_ms:.3f} ms server={reply.server_time_us} us"
        )


def _reason_of(found: client.Exchange | Exception) -> str:
    return str((found.strerror if isinstance(found, OSError) else None) or found)


def _explain_refusal(reply: protocol.ParsedReply, *, asked: int) -> str:
    """What became of an echo request to RAIDA `asked`, instead of an echo; follows the address."""
    if reply.status == protocol.Status.INVALID_RAIDA_ID and reply.raida_id != asked:
        return f"is RAIDA {reply.raida_id}, not {asked}: ask with --raida-id {reply.raida_id}"
    status = f"{reply.status} {protocol.status_name(reply.status)}"
    if reply.status == protocol.Status.INVALID_COIN_ID:
        return f"does not serve that coin ({status}): see --coin-id"
    return f"refused the echo with status {status}"


# --- bench ------------------------------------------------------------------------------------


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="0.3 s and 3 rounds: shorter and less steady.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, max=600, help="Length of one run; by default 1."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=1000, help="Runs of each server; by default 9."),
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="CASE", help="Measure one case.")] = None,
    server_cpu: Annotated[
        int | None, typer.Option(metavar="CPU", min=0, help="Core of the servers.")
    ] = None,
    client_cpu: Annotated[
        int | None, typer.Option(metavar="CPU", min=0, help="Core of the load generator.")
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", readable=False, help="Write everything measured."),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print ratios as Markdown, at the end.")
    ] = False,
) -> int:
    """Measure speed beside other servers.

    In a source tree beside the smallest servers in C, asyncio and uvloop, and says which promises
    are kept; from a wheel the node alone. Prints each case as it ends. Exits 1 if the node answered
    wrongly.
    """
    from raida_uring.bench import runner

    if only is not None and only not in runner.case_names():
        names = ", ".join(runner.case_names())
        raise typer.BadParameter(f"{only!r} is none of {names}", param_hint="--only")
    settings = runner.settings_of(
        seconds=seconds if seconds is not None else 0.3 if quick else 1.0,
        rounds=rounds if rounds is not None else 3 if quick else 9,
        server_cpu=server_cpu,
        client_cpu=client_cpu,
        only=only,
    )
    return runner.run(settings, as_markdown=as_markdown, json_path=json_path)


operate.register(app)  # last, as in --help: they are of no use without a node
