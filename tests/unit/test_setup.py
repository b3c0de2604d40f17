"""What `make` does on a machine that has never built, as far as it can be tried on one that has.

`make test-fresh` tries the whole on bare ones.
"""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from tests.support import needs
from tests.support.net import PATIENCE

ROOT = Path(__file__).parents[2]


def dry_run(*goals: str) -> str:
    return subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *goals],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
    ).stdout


def test_plain_make_builds() -> None:
    assert dry_run() == dry_run("build")


def test_what_make_test_needs_is_what_make_run_needs() -> None:
    """A compiler for the fuzzer alone is not installed unasked."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^test: (.*?) ##", text, re.MULTILINE)
    assert found is not None
    assert "setup" in found[1].split()
    assert not {"setup-lint", "setup-fuzz", "test-fuzz"} & set(found[1].split())
    assert "$(BESIDE) test-native test-threads $$fuzz" in text


def test_every_program_that_tests_require_has_its_package() -> None:
    asked = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        asked |= set(re.findall(r'require\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert {"ip", "strace"} <= asked <= set(needs.PROGRAMS)


def test_without_an_index_of_packages_the_last_line_says_so(tmp_path: Path) -> None:
    for name in ("tools/setup.sh", "pyproject.toml", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        done = subprocess.run(
            ["tools/setup.sh"],
            cwd=tmp_path,
            env={
                **own,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_INDEX_URL": f"http://127.0.0.1:{unused.getsockname()[1]}/simple",
                "PIP_RETRIES": "0",
                "no_proxy": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("setup: pip cannot reach PyPI")
    assert "WARNING" not in done.stderr
