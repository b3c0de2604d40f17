"""The `raida-uring` command: its commands, and what each error becomes.

A fault of the caller or of the machine ends as one line on standard error and exit status 2. Each
command is in a file of this package; the server and the benchmark are imported when asked for.
"""

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

import raida_uring
from raida_uring import remedies
from raida_uring.admin.client import NotRunningError
from raida_uring.cli.console import (
    EXIT_FAILED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_NOT_RUNNING,
    complain,
    guide,
)
from raida_uring.errors import PASSING, EngineError, RaidaError

_NO_ROOM: Final = "failed to map segment"  # as the dynamic loader says that memory is short
# As CPython says that memory was too short for the MemoryError itself.
_NO_EXCEPTION: Final = ("without exception set", "without setting an exception")
_NOT_WHOLE: Final = "the program is not whole: {}: install it again"

try:  # these need the data plane, which may be missing or built for another Python
    from raida_uring.cli import bench, config, operate, ping, probe, serve, store
except ImportError as missing:
    if _NO_ROOM in str(missing):
        raise MemoryError(str(missing)) from None
    complain(_NOT_WHOLE.format(missing))
    sys.exit(EXIT_FAILED)  # as _run() does

_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # disk full, quota, limit
_SHELLS: Final = ("bash", "zsh", "fish", "powershell", "pwsh")  # that typer has completion for
_NO_THREAD: Final = "can't start new thread"  # as threading says it

app = typer.Typer(
    help="Network node of a RAIDA server, on io_uring or epoll.",
    epilog=f"Every setting is described in {guide('configure.md')}.",
    add_completion=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config.app, name="config")
app.add_typer(store.app, name="store")
app.command()(serve.serve)
app.command()(probe.probe)
app.command("commands")(config.list_commands)
app.command()(ping.ping)
app.command()(bench.bench)
app.command()(operate.status)
app.command("top")(operate.live_top)
app.command()(operate.connections)
app.command()(operate.peers)
app.command()(operate.drain)
app.command()(operate.log_level)
app.command()(operate.reload)
app.command()(operate.upgrade)


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
    """Take the options before a command; without a command print the help."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: the process's own) and return the exit status."""
    if argv is None:
        _open_standard_streams()
        _speak_utf8()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        _discard_unwritable_output()


def _run(argv: Sequence[str]) -> int:
    try:
        if set(argv[:1]) & {"--install-completion", "--show-completion"}:
            _check_shell()
        plain = serve.plain_options(argv)
        if plain is None:
            result = app(args=list(argv), prog_name="raida-uring", standalone_mode=False)
        else:
            result = serve.serve(**plain)
        if sys.stdout is not None:
            sys.stdout.flush()  # not only at exit: a full disk can still be reported
    except BrokenPipeError:
        return EXIT_FAILED  # the reader of our output has stopped reading
    except OSError as error:
        return _complain_of_machine(error)
    except MemoryError:
        return _complain_of_memory()
    except SystemError as error:
        if not str(error).endswith(_NO_EXCEPTION):
            raise
        return _complain_of_memory()
    except ImportError as error:
        if _NO_ROOM in str(error):
            return _complain_of_memory()
        return complain(_NOT_WHOLE.format(error), EXIT_FAILED)  # it may be being installed
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        return complain(f"{error}: {remedies.for_threads()}", EXIT_FAILED)
    except EngineError as error:
        return complain(str(error), EXIT_FAILED)
    except NotRunningError as error:
        return complain(str(error), EXIT_NOT_RUNNING)
    except RaidaError as error:
        return complain(str(error))
    except typer.TyperException as error:  # only wrong usage gets here
        fault = error.format_message().rstrip(".")
        end = "" if fault.endswith("?") else "."
        return complain(f"{fault}{end} See {_command_path(error, argv)} --help.")
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _check_shell() -> None:
    """Raise RaidaError if there is no completion for the shell that calls: typer would report that
    on standard output, as a fault that may pass."""
    import shellingham  # type: ignore[import-untyped]  # here, because only completion needs it

    try:
        shell = str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        shell = "a program that is no shell"
    if shell not in _SHELLS:
        known = ", ".join(_SHELLS)
        raise RaidaError(f"there is no completion for {shell}: run this command from {known}")


def _complain_of_memory() -> int:
    remedy = remedies.for_memory()
    return complain(f"out of memory: {remedy}" if remedy else "out of memory", EXIT_FAILED)


def _complain_of_machine(error: OSError) -> int:
    """Report an error that no caller has put into words: of a file, a directory, a descriptor."""
    reason = error.strerror or str(error)
    if error.errno in _UNWRITABLE and error.filename is None:
        return complain(f"cannot write: {reason}", EXIT_FAILED)
    if error.filename is not None:
        complain(f"{os.fsdecode(error.filename)}: {reason}")
    elif isinstance(error, FileNotFoundError) and not _has_directory():
        complain(f"the current directory is gone ({reason}): change to one that is there")
    else:
        complain(reason)
    return EXIT_FAILED if error.errno in PASSING else EXIT_FAULT


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _speak_utf8() -> None:
    """Read and write UTF-8 whatever the locale: configurations are UTF-8 text, and what they name
    must be the same file for an operator's shell and for the service.

    Python chooses the encoding of file names before any of our code runs: in another locale the
    program starts itself again, in UTF-8 mode.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8" and not sys.flags.utf8_mode:
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        with contextlib.suppress(OSError):  # no memory: go on in the locale's encoding
            os.execv(sys.executable, command)  # noqa: S606  this program, no shell
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _command_path(error: typer.TyperException, argv: Sequence[str]) -> str:
    """The command whose help explains the right usage, as it is typed.

    An error raised by a command's own code has no context: the arguments then name the command. No
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


def _open_standard_streams() -> None:
    """Open the null device as descriptors 0 to 2 where they are closed: otherwise a socket or the
    store could be given these numbers, and with them what is meant for standard error."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
        if getattr(sys, name) is None:
            stream = open(number, mode, closefd=False)  # noqa: SIM115  as long as the process
            setattr(sys, name, stream)


def _discard_unwritable_output() -> None:
    """Otherwise the interpreter flushes again at exit, fails, and exits with 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
