"""Programs as processes, foremost `raida-uring`: their output and their exit status."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.net import PATIENCE

TIMEOUT_S = 120.0 * PATIENCE
REPOSITORY = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "raida_uring")


def environment(*import_paths: Path, **variables: str) -> dict[str, str]:
    """This process's environment, with the tests' handler modules importable."""
    paths = os.pathsep.join(str(path) for path in (*import_paths, REPOSITORY))
    return {**os.environ, "PYTHONPATH": paths, **variables}


def execute(*command: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status, and keep what it prints. how: arguments
    of subprocess.run() that differ from that."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "check": False}
    given = {**usual, "env": environment(), "timeout": TIMEOUT_S, **how}
    return subprocess.run(list(map(str, command)), **given)


def output_of(*command: object, **how: Any) -> str:
    """Standard output of a program that succeeds."""
    ended = execute(*command, **how)
    assert ended.returncode == 0, f"status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def run(*args: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """`raida-uring` with these arguments."""
    return execute(*PROGRAM, *args, **how)


def run_script(script: str, *args: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Python with `script` as its program."""
    return execute(sys.executable, "-c", script, *args, **how)
