"""What every command shares: exit statuses, the line that reports a fault, and where docs/ is."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from raida_uring.admin.client import harmless
from raida_uring.node import upgrade

EXIT_FAILED: Final = 1  # may pass by itself: a service manager should start the node again
EXIT_NO_ANSWER: Final = 1  # ping: no echo came back
EXIT_DROPPED: Final = 1  # drain: requests were given up
EXIT_FAULT: Final = 2  # the caller's or the machine's: starting again would not help
EXIT_NOT_RUNNING: Final = 3  # the node that was to be asked
EXIT_INTERRUPTED: Final = 130


def complain(message: str, status: int = EXIT_FAULT) -> int:
    """Print `message` as one line on standard error and return `status`.

    A node that was started by an upgrade also reports it to its predecessor.
    """
    line = harmless(" ".join(message.split()))
    if upgrade.ENVIRONMENT in os.environ:
        upgrade.tell_failure(line)
    with contextlib.suppress(OSError):  # a full disk: the exit status still tells
        print(f"raida-uring: {line}", file=sys.stderr)
    return status


def guide(name: str) -> str:
    """Where a file of docs/ is: below the prefix of a wheel, or in the checkout."""
    for directory in (
        Path(sys.prefix, "share/doc/raida-uring"),
        Path(__file__).resolve().parents[2] / "docs",
    ):
        if (directory / name).is_file():
            return str(directory / name)
    return f"{name}, see `man raida-uring`"
