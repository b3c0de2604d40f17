"""docs/architecture.md is a true map: it lists every source file in its folder, and no other, and
each function that it names as an answer is in the file that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "raida_uring"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SUFFIXES = {".c", ".h", ".py"}
GENERATED = {"_native.c", "_loadgen.c"}
NAME = r"`([^`]+)`"
# A package's front that only says what the package is, or re-exports its modules.
FRONT = "__init__.py"


def listed() -> list[str]:
    """The files of the tables under headings that name a folder, below raida_uring/."""
    found = []
    for part in TEXT.split("\n### ")[1:]:
        folder = re.match(r"`([^`]*)`", part)
        assert folder is not None, part.splitlines()[0]
        prefix = "" if folder[1] == "raida_uring/" else folder[1]
        for row in re.findall(r"^\| (`.*?) \|", part.partition("\n## ")[0], re.MULTILINE):
            found += [prefix + name for name in re.findall(NAME, row)]
    return found


def present() -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in SUFFIXES and path.name not in GENERATED
    }


def answers() -> list[tuple[str, list[str], list[str]]]:
    """Question, functions and files of each row of "Where is what"."""
    section = TEXT.partition("\n## Where is what")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| W")]
    return [
        (question.strip(), re.findall(NAME, functions), re.findall(NAME, files))
        for question, functions, files in rows
    ]


def test_files_are_listed_once() -> None:
    names = listed()
    assert sorted(names) == sorted(set(names))


def test_every_file_is_listed_where_it_stands() -> None:
    missing = {name for name in present() - set(listed()) if not name.endswith(FRONT)}
    assert not missing, "add a row to docs/architecture.md"


def test_every_listed_file_exists() -> None:
    assert not set(listed()) - present(), "remove from docs/architecture.md"


def test_there_are_ten_answers() -> None:
    assert len(answers()) >= 10


@pytest.mark.parametrize(("question", "functions", "files"), answers(), ids=lambda one: str(one))
def test_an_answer_is_true(question: str, functions: list[str], files: list[str]) -> None:
    """Every file exists, and each name is defined in one of them."""
    texts = [(PACKAGE / name).read_text(encoding="utf-8") for name in files]
    for name in functions:
        if name in ("FREE",):
            continue
        *_, last = name.split(".")
        defined = re.compile(
            rf"^(?:class |#define |\s*def |(?:\w[\w \*]*[ \*]))?{re.escape(last)}\b", re.MULTILINE
        )
        assert any(defined.search(text) for text in texts), f"{question} {name} is not in {files}"
