"""`raida-uring` as a process: its output and its exit status."""

import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0
ROOT = Path(__file__).parent.parent.parent


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raida_uring", *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        check=False,
    )


def run_script(script: str, *args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *args], text=True, timeout=TIMEOUT_S, check=False, **how
    )
