"""Tests run alike under a background job, a unit of systemd, make or a hook of git."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.command_line import environment, run_script
from tests.support.surroundings import temporary_directory

HOSTILE = {
    "NOTIFY_SOCKET": "/nowhere",
    "LISTEN_FDS": "2",
    "RUNTIME_DIRECTORY": "/nowhere",
    "PYTHONIOENCODING": "ascii",
    "MAKEFLAGS": "n",
    "GIT_DIR": "/nowhere",
    "LC_ALL": "C",
    "TZ": "Pacific/Auckland",
    "COLUMNS": "20",
    "BASH_ENV": "/nowhere",
}
SCRIPT = """
import json, locale, os, resource, signal, time
os.umask(0o077)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
from tests.support.surroundings import settle
settle()
print(json.dumps({
    "environment": dict(os.environ),
    "ignored": [signal.getsignal(one) is signal.SIG_IGN for one in (signal.SIGINT, signal.SIGTERM)],
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "umask": os.umask(0),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "zone": time.timezone,
    "encoding": locale.getencoding().lower(),
}))
"""


def test_nothing_of_the_caller_s_is_left() -> None:
    told = json.loads(run_script(SCRIPT, env=environment(**HOSTILE)).stdout)
    left = told.pop("environment")
    assert {name for name in HOSTILE if name in left} == {"TZ"}
    assert {"PATH", "PYTHONPATH"} <= left.keys()
    assert told == {
        "ignored": [False, False],
        "blocked": 0,
        "umask": 0o022,
        "core": 0,
        "zone": 0,
        "encoding": "utf-8",
    }


def test_temporary_files_are_where_sockets_and_other_users_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest's own directories are for one user alone."""
    for given, expected in (("/usr/../usr/share", "/usr/share"), (str(tmp_path), "/tmp")):  # noqa: S108
        monkeypatch.setattr(tempfile, "tempdir", given)
        assert temporary_directory() == expected
