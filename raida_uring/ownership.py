"""Whose a file is, in words for whoever may not use it. Thread: any."""

import os
import pwd
import stat
from pathlib import Path


def user_name(number: int) -> str:
    """A user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def describe(path: Path) -> str:
    """Owner and mode of what is at `path`, or of the directory above it that is closed to this
    user, and who that is."""
    for one in (*reversed(path.parents), path):
        if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True):
            return f"{one} {_of(one)}"
    return f"it {_of(path)}"


def _of(path: Path) -> str:
    found = path.stat()
    whose = f"belongs to {user_name(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o})"
    return f"{whose}, and this is user {user_name(os.geteuid())}"
