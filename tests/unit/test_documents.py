"""Documents: links lead somewhere, lines fit, long guides begin with their contents, and what is to
be typed is what the program understands."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from raida_uring.cli.main import app

ROOT = Path(__file__).parents[2]
COLUMNS_MAX = 120
DOCUMENTS = sorted(
    path
    for directory in (ROOT, ROOT / "docs", ROOT / "docs/adr", ROOT / "examples")
    for path in directory.glob("*.md")
)
GUIDES = ("install", "operate", "reference", "troubleshooting", "moving", "architecture")

name_of = {path: path.relative_to(ROOT).as_posix() for path in DOCUMENTS}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside of fenced code, with their numbers."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def slug(heading: str) -> str:
    """A heading as GitHub's links spell it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """What links into a document may name: its headings."""
    found: set[str] = set()
    for _, line in prose(path.read_text(encoding="utf-8")):
        if line.startswith("#"):
            name = slug(line.lstrip("#"))
            found.add(name if name not in found else f"{name}-1")
    return found


def links(path: Path) -> Iterator[str]:
    for _, line in prose(path.read_text(encoding="utf-8")):
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"[a-z]+:", target):
                yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of.get)
def test_links_lead_somewhere(path: Path) -> None:
    dead = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        aim = (path.parent / name).resolve() if name else path
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of.get)
def test_prose_lines_fit(path: Path) -> None:
    """Tables and lines that are one link cannot be broken."""
    lines = prose(path.read_text(encoding="utf-8"))
    long = [
        number
        for number, line in lines
        if len(line) > COLUMNS_MAX and not line.startswith("|") and " " in line.strip("- ")
    ]
    assert not long


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_begin_with_their_contents(guide: str) -> None:
    """Every section is named above the first one."""
    text = (ROOT / f"docs/{guide}.md").read_text(encoding="utf-8")
    contents, _, _ = text.partition("\n## ")
    sections = {line[3:] for _, line in prose(text) if line.startswith("## ")}
    targets = set(re.findall(r"\]\(#([^)]*)\)", contents))
    assert {section for section in sections if slug(section) not in targets} == set()


def typed(path: Path) -> Iterator[list[str]]:
    """The words of each line to be typed that calls `raida-uring`, from the program on."""
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    for block in (block for language, block in fenced if language in ("", "sh")):
        for line in block.splitlines():
            if re.match(r" *(\S*/|\$ )?raida-uring |\$node ", line):
                words = shlex.split(line, comments=True)
                yield list(itertools.takewhile(lambda word: word not in ("&&", ">", "|"), words))


LINES = {" ".join(words): words[1:] for path in DOCUMENTS for words in typed(path)}


@pytest.mark.parametrize("line", LINES)
def test_a_line_to_be_typed_is_understood(line: str) -> None:
    """Pasted as it stands: no brackets around what may be left out, no option that is not there."""
    name, arguments = "raida-uring", LINES[line]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, list(arguments))


def test_lines_to_be_typed_are_found() -> None:
    assert len(LINES) > 20
