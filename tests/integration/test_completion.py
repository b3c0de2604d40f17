"""Completion in real shells: a person types part of a command on a terminal, and Tab.

What must hold: commands, options and their values complete from the program, file names from the
directory, and the line so made runs. The shells read no start-up files but what is tested.
"""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import REPOSITORY, environment, execute
from tests.support.needs import require
from tests.support.net import PATIENCE

FILES = REPOSITORY / "docs" / "completion"
TIMEOUT_S = 60.0 * PATIENCE
READY = "set up"
SAY_READY = "echo set' 'up"  # so that the echo of what is typed is not taken for it

SHELLS = {
    "bash": ("--norc", "--noprofile", "-i"),
    "zsh": ("-f", "-i"),
    "fish": ("--no-config", "-i"),
}
SOURCES = {
    "bash": f"source '{FILES}/raida-uring'",
    "zsh": f"fpath=('{FILES}' $fpath); autoload -Uz compinit; compinit -u -D",
    "fish": f"source '{FILES}/raida-uring.fish'",
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def expect(self, text: str) -> None:
        """Read until `text` has come; what came with it is forgotten."""
        seen = ""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in seen:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, left_s))
            assert ready, f"no {text!r} in {seen!r}"
            seen += os.read(self._descriptor, 4096).decode(errors="replace")


@contextmanager
def terminal(shell: str, home: Path) -> Iterator[Terminal]:
    """A shell in `home`, with this Python's programs first on its path."""
    if shell != "bash":
        require(shell)
    programs = Path(sys.executable).parent
    variables = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", shell, *SHELLS[shell]],  # job control wants the terminal as its own
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home,
        env=variables,
    )
    os.close(theirs)
    try:
        yield Terminal(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 3\n")
    return tmp_path


def complete_a_line(shell: Terminal) -> None:
    for typed, completed in (
        ("raida-uring conf\t", "config "),
        ("ch\t", "check "),
        ("no\t", "node.toml "),
        ("\r", "node.toml: correct"),
    ):
        shell.type(typed)
        shell.expect(completed)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", SHELLS)
def test_commands_options_values_and_files(name: str, home: Path) -> None:
    with terminal(name, home) as shell:
        shell.type(f"{SOURCES[name]}; {SAY_READY}\r")
        shell.expect(READY)
        complete_a_line(shell)
        for typed, completed in (
            ("raida-uring serve --conf\t", "--config "),
            ("nod\t", "node.toml "),
            ("--back\t", "--backend "),
            ("ep\t", "epoll "),
        ):
            shell.type(typed)
            shell.expect(completed)


@pytest.mark.any_backend
def test_install_completion(home: Path) -> None:
    with terminal("bash", home) as shell:
        shell.type("raida-uring --install-completion\r")
        shell.expect("completion installed in")
        shell.type(f"source .bashrc; {SAY_READY}\r")
        shell.expect(READY)
        complete_a_line(shell)


@pytest.mark.any_backend
def test_completion_that_cannot_be_installed_is_one_line() -> None:
    """Completion is for the shell that calls, whatever shell these tests run under."""
    script = '"$0" -m raida_uring --install-completion; exit $?'
    done = execute("bash", "-c", script, sys.executable, env=environment(HOME="/proc/1"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("raida-uring: ")
    assert "Traceback" not in done.stderr


@pytest.mark.any_backend
@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_shell_without_completion_is_told_those_that_have_it(option: str) -> None:
    done = execute("sh", "-c", f'"$0" -m raida_uring {option}; exit $?', sys.executable)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "raida-uring: there is no completion for sh: run this command from bash, zsh, fish, "
        "powershell, pwsh\n"
    )
