"""CONTRIBUTING.md's recipe for a command, followed step by step in a copy of the package."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.net import PATIENCE
from tests.support.node import REPOSITORY

pytestmark = pytest.mark.any_backend

TIMEOUT_S = 60.0 * PATIENCE


def steps() -> tuple[dict[str, str], str, list[str]]:
    """Files to write by path, the diff's text, and the lines to run."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipe = text.partition("\n### A command\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"^   ```(\w+)\n(.*?)^   ```$", recipe, re.MULTILINE | re.DOTALL)
    blocks = [(language, textwrap.dedent(block)) for language, block in blocks]
    paths = re.findall(r"`([\w/]+\.py)`:$", recipe, re.MULTILINE)
    sources = [block for language, block in blocks if language == "python"]
    (diff,) = (block for language, block in blocks if language == "diff")
    (commands,) = (block for language, block in blocks if language == "sh")
    return dict(zip(paths, sources, strict=True)), diff, commands.splitlines()


def apply(diff: str, path: Path) -> None:
    """Replace the diff's old lines by its new ones; they must stand there once."""
    lines = diff.splitlines()
    old = "\n".join(line[1:] for line in lines if line[0] != "+")
    new = "\n".join(line[1:] for line in lines if line[0] != "-")
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"the recipe's diff does not fit {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_recipe_works_the_first_time(tmp_path: Path) -> None:
    sources, diff, commands = steps()
    ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
    shutil.copytree(REPOSITORY / "raida_uring", tmp_path / "raida_uring", ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for path, source in sources.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source, encoding="utf-8")
    apply(diff, tmp_path / "raida_uring/handlers/loading.py")
    runs = {"raida-uring": f"{sys.executable} -m raida_uring", "python": sys.executable}
    told = []
    for command in commands:
        line = re.sub(r"\.venv/bin/([\w-]+)", lambda found: runs[found[1]], command)
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        told.append(ended.stdout)
    tested, listed = told
    assert "1 passed" in tested
    assert re.search(r"^0/9 .*handlers\.greeting\.greet \(built in\)$", listed, re.MULTILINE)
