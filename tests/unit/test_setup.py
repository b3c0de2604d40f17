"""What `make` does on a machine without a build, as far as a machine with one can test it.

`make test-fresh` tests the whole on bare machines.
"""

import os
import re
import shutil
import socket
from pathlib import Path

from tests.support import needs
from tests.support.command_line import REPOSITORY, execute, output_of


def dry_run(*goals: str) -> str:
    return output_of("make", "--dry-run", "--no-print-directory", *goals, cwd=REPOSITORY)


def test_plain_make_builds() -> None:
    assert dry_run() == dry_run("build")


def test_what_make_test_needs_is_what_make_run_needs() -> None:
    """A compiler for the fuzzer alone is not installed unasked."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^test: (.*?) ##", text, re.MULTILINE)
    assert found is not None
    assert "setup" in found[1].split()
    assert not {"setup-lint", "setup-fuzz", "test-fuzz"} & set(found[1].split())
    assert "$(BESIDE) test-native test-threads $$fuzz" in text


def test_every_program_that_tests_require_has_its_package() -> None:
    asked = set()
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        asked |= set(re.findall(r'require\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert {"ip", "strace"} <= asked <= set(needs.PROGRAMS)


def test_without_an_index_of_packages_the_last_line_says_so(tmp_path: Path) -> None:
    for name in ("tools/setup.sh", "pyproject.toml", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        done = execute(
            "tools/setup.sh",
            cwd=tmp_path,
            env={
                **own,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_INDEX_URL": f"http://127.0.0.1:{unused.getsockname()[1]}/simple",
                "PIP_RETRIES": "0",
                "no_proxy": "127.0.0.1",
            },
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("setup: pip cannot reach PyPI")
    assert "WARNING" not in done.stderr
