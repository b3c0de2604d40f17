"""Makes the tests independent of what starts them: a shell, `make`, git, a service manager.

Called once by the process of the tests, on its main thread; what it starts inherits the result.
"""

import contextlib
import locale
import os
import re
import resource
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

# Variables that the node, Python or another program which tests start would obey.
_FOREIGN: Final = re.compile(
    r"NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|FDSTORE|JOURNAL_STREAM|SYSTEMD_.*|RUNTIME_DIRECTORY|XDG_.*"
    r"|PYTHON(?!PATH$|MALLOC$|DONTWRITEBYTECODE$).*|PYTEST_(ADDOPTS|PLUGINS)|MAKE.*|MFLAGS|GIT_.*"
    r"|LANG|LANGUAGE|LC_.*|TZ|TERM|TERMINFO.*|COLUMNS|LINES|FORCE_COLOR"
    r"|MAN(OPT|PAGER|PATH|ROFFOPT|WIDTH)|BASH_ENV|ENV|CDPATH"
)
# A socket's path ends at 107 bytes; the tests' own part of it has up to 73.
_DIRECTORY_LENGTH_MAX: Final = 34


def settle() -> None:
    """Set everything that a process inherits to what is usual."""
    for name in filter(_FOREIGN.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ |= {"LANG": "C.UTF-8", "TZ": "UTC"}
    time.tzset()
    with contextlib.suppress(locale.Error):  # not every system has it
        locale.setlocale(locale.LC_ALL, "")
    os.umask(0o022)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # some tests crash a process
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores those
        if signal.getsignal(number) is signal.SIG_IGN:  # as in a background job, or under nohup
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def temporary_directory() -> str:
    """TMPDIR, or /tmp where sockets' paths below TMPDIR would be too long, or where other users,
    whom some tests become, may not enter it."""
    given = Path(tempfile.gettempdir()).resolve()
    entered = all(one.stat().st_mode & stat.S_IXOTH for one in (given, *given.parents))
    return str(given) if entered and len(bytes(given)) <= _DIRECTORY_LENGTH_MAX else "/tmp"  # noqa: S108
