"""CONTRIBUTING.md's recipes, followed word by word in a copy of the tree.

A recipe is the section `### TITLE` below `## Recipes`. Its fenced blocks are applied in order:

- `diff`: an edit of the file that was named last before the block. Each line begins with `+`, `-`
  or a blank; the old lines occur in the file once, and line numbers do not matter.
- `sh`: commands, each of which must succeed. `.venv/bin/` and `make` work as in a checkout, and
  build the copy.
- any other language: a new file, named last before the block.
"""

import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.command_line import REPOSITORY, environment, output_of

# In place of setup.sh, which installs: the build alone.
_BUILD: Final = ".venv/bin/python setup.py -q build_ext --inplace"
_NOT_COPIED: Final = shutil.ignore_patterns(
    ".*", "build", "dist", "*.so", "*.o", "__pycache__", "_native.c", "_loadgen.c", "*.egg-info"
)
_BLOCK: Final = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PATH: Final = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a recipe. path: the file that was named last before it."""

    language: str
    text: str
    path: str


def titles() -> list[str]:
    """Of every recipe."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    return re.findall(r"^### (.*)$", recipes, re.MULTILINE)


def blocks_of(title: str) -> Iterator[Block]:
    """The blocks of the recipe `title`, in order."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipe = re.split(r"^##", text.partition(f"\n### {title}\n")[2], maxsplit=1, flags=re.M)[0]
    assert recipe, f"CONTRIBUTING.md has no recipe {title!r}"
    path, end = "", 0
    for block in _BLOCK.finditer(recipe):
        path = (_PATH.findall(recipe[end : block.start()]) or [path])[-1]
        end = block.end()
        yield Block(block[1], textwrap.dedent(block[2]), path)


class Copy:
    """A copy of the tree, to follow recipes in."""

    def __init__(self, directory: Path, *, compiled: bool = False) -> None:
        """compiled: with the checkout's C modules, for a recipe that changes no C; `make` then
        builds nothing."""
        self.directory = directory / "tree"
        shutil.copytree(REPOSITORY, self.directory, ignore=_NOT_COPIED)
        self._setup = "true" if compiled else _BUILD
        for path in REPOSITORY.glob("raida_uring/*/*.so") if compiled else ():
            shutil.copy2(path, self.directory / path.relative_to(REPOSITORY))
        bin_directory = self.directory / ".venv" / "bin"
        bin_directory.mkdir(parents=True)
        # Modules that were built under a sanitizer need its runtime.
        preloaded = os.environ.get("LD_PRELOAD", "") if compiled else ""
        for name, arguments in (("python", ""), ("raida-uring", "-P -m raida_uring")):
            self._add_program(bin_directory / name, arguments, preloaded)

    def _add_program(self, path: Path, arguments: str, preloaded: str) -> None:
        """The test's own Python, which finds the copy's modules before those of the checkout."""
        variables = shlex.join([f"PYTHONPATH={self.directory}", f"LD_PRELOAD={preloaded}"])
        run = f'exec env {variables} {shlex.quote(sys.executable)} {arguments} "$@"\n'
        path.write_text(f"#!/bin/sh\n{run}", encoding="utf-8")
        path.chmod(0o755)

    def follow(self, title: str) -> str:
        """Do what the recipe says; returns what its commands printed."""
        printed = ""
        for block in blocks_of(title):
            path = self.directory / block.path
            if block.language == "sh":
                printed += "".join(map(self.run, block.text.splitlines()))
            elif block.language == "diff":
                self._edit(path, block.text)
            else:
                assert not path.exists(), f"{block.path} is there already"
                path.write_text(block.text, encoding="utf-8")
        return printed

    def _edit(self, path: Path, diff: str) -> None:
        lines = [line for line in diff.splitlines() if not line.startswith("@@")]
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"the recipe's edit does not fit {path.name}:\n{diff}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, command: str) -> str:
        """What a line of shell prints in the copy; it has to succeed."""
        command = re.sub(r"^make\b", f"make --no-print-directory 'SETUP={self._setup}'", command)
        # Not with a sanitizer's runtime, which finds faults in compilers: Python alone has it.
        own = environment(self.directory, LD_PRELOAD="")
        return output_of("sh", "-c", command, cwd=self.directory, env=own)
