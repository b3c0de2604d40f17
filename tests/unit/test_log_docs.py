"""docs/reference.md lists every event that the package logs, and no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reference.md"
HEADING = "| event | level | line | meaning |"
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "log": "as held back",
}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a logger's method in the package, and where it stands."""
    for path in sorted((ROOT / "raida_uring").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in LEVELS:
                continue
            owner = ast.unparse(node.func.value)
            if owner == "logger" or owner.startswith("logging.getLogger("):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def event_of(call: ast.Call) -> str | None:
    """The name given by `extra=event("name", ...)`, alone or spread into a dict."""
    for keyword in call.keywords:
        if keyword.arg == "extra":
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("event", "log.event"):
                    name = node.args[0]
                    assert isinstance(name, ast.Constant)
                    return str(name.value)
    return None


def documented() -> dict[str, str]:
    """Level by event, as the table under the heading says."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADING) + 2
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, level, _line, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        assert meaning, f"{name} has no meaning"
        found[name.strip("`")] = level
    return found


def logged() -> dict[str, str]:
    """Level by event, as the code has it."""
    return {
        name: LEVELS[call.func.attr]
        for _, call in log_calls()
        if isinstance(call.func, ast.Attribute) and (name := event_of(call)) is not None
    }


def test_every_line_has_a_name() -> None:
    anonymous = [where for where, call in log_calls() if event_of(call) is None]
    assert not anonymous, 'log with extra=event("name", ...)'


def test_events_and_their_levels_are_those_documented() -> None:
    assert documented() == logged()
