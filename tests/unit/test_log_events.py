"""Every line that the package logs is a row of raida_uring/log/events.py, and each row is used.

What mypy cannot see: that a call gives the values which its row shows.
"""

import ast
import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.log.event import Event
from tools.tables import EVENTS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "raida_uring").rglob("*.py"))
OPTIONS = {"exc_info", "level", "more"}


def values_of(template: str) -> set[str]:
    """The names of the values that `template` shows."""
    seen: defaultdict[str, int] = defaultdict(int)
    template % seen  # each name that is looked up is in it afterwards
    return set(seen)


def uses() -> Iterator[tuple[str, str, ast.AST]]:
    """Each `events.NAME.x` in the package: where, the name, and the enclosing node."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        around = {
            id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "events"
                and node.attr in EVENTS
            ):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield where, node.attr, around[id(around[id(node)])]


def calls() -> Iterator[tuple[str, Event, ast.Call]]:
    """Each `events.NAME.log(…)`."""
    for where, name, node in uses():
        assert isinstance(node, ast.Call), f"{where}: not a call"
        method = ast.unparse(node.func).rpartition(".")[2]
        assert method in ("log", "is_enabled"), f"{where}: {method}"
        if method == "log":
            yield where, EVENTS[name], node


def test_the_package_logs_through_the_table_alone() -> None:
    others = [path for path in SOURCES if path.parent.name != "log"]
    direct = [
        str(path.relative_to(ROOT))
        for path in others
        if "getLogger" in path.read_text(encoding="utf-8")
    ]
    assert direct == [], "log by a row of raida_uring/log/events.py"


def test_every_row_is_used() -> None:
    used = {id(row) for _, row, _ in calls()}
    assert [name for name, row in EVENTS.items() if id(row) not in used] == []


def test_a_call_gives_the_values_of_its_row() -> None:
    for where, row, call in calls():
        given = {keyword.arg for keyword in call.keywords}
        assert not call.args, f"{where}: name each value"
        wanted = values_of(row.template) | set(row.fields)
        assert given - OPTIONS == wanted, where
        assert ("level" in given) == (row.level == logging.NOTSET), where


@pytest.mark.parametrize("name", EVENTS)
def test_a_row_is_well_formed(name: str) -> None:
    row = EVENTS[name]
    assert row.name == row.name.lower()
    assert row.meaning
    assert "|" not in row.template + row.meaning + row.example
    assert len(set(row.fields)) == len(row.fields)
    assert not OPTIONS & (values_of(row.template) | set(row.fields))
    # Without values the text is not formatted.
    assert values_of(row.template) or row.fields or "%" not in row.template


def test_rows_of_one_name_differ_in_text_alone() -> None:
    """The constant is the name in capitals; further rows of a name follow the first."""
    for constant, row in EVENTS.items():
        first = EVENTS[row.name.upper()]
        assert (row.level, row.fields) == (first.level, first.fields), constant
