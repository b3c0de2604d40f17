"""docs/architecture.md lists every thread that the package starts, and which end the node."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
HEADING = "| thread | count | runs | interpreter lock |"
# Rows whose words stand for a name: the main thread starts with the process.
WORDS = {"I/O (`io`)": "io", "worker": "worker-"}


def started() -> Iterator[tuple[str, str]]:
    """Class and name of each thread, of a name that is made up its constant beginning."""
    for path in sorted((ROOT / "raida_uring").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            kind = ast.unparse(node.func).removeprefix("threading.")
            if kind not in ("Thread", "Vital"):
                continue
            (name,) = (one.value for one in node.keywords if one.arg == "name")
            if isinstance(name, ast.JoinedStr):
                name = name.values[0]
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}"
            yield kind, str(name.value)


def documented() -> set[str]:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    found = set()
    for line in lines[lines.index(HEADING) + 2 :]:
        if not line.startswith("|"):
            break
        cell = line.split("|")[1].strip().partition(",")[0]
        found.add(WORDS.get(cell, cell.strip("`")))
    return found - {"main"}


def test_every_thread_is_listed() -> None:
    assert documented() == {name for _, name in started()}


def test_the_document_says_which_threads_end_the_node() -> None:
    (sentence,) = re.findall(
        r"^All but (.*) are `Vital`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    spared = {name for kind, name in started() if kind == "Thread"}
    assert set(re.findall(r"`([^`]+)`", sentence)) == spared
