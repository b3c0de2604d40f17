"""CONTRIBUTING.md's recipe for a log event: with its two edits, a node logs the line, and the
document has its row."""

import json
from pathlib import Path

import pytest

from tests.support.node import daemon
from tests.support.recipes import Copy

pytestmark = pytest.mark.any_backend


def test_a_log_event(tmp_path: Path) -> None:
    tree = Copy(tmp_path, compiled=True)
    tree.follow("A log event")
    document = (tree.directory / "docs/reference.md").read_text(encoding="utf-8")
    assert "\n| `config_read` | info | `configuration from …` | the file that was read" in document

    program = str(tree.directory / ".venv" / "bin" / "raida-uring")
    with daemon(tmp_path, command=[program, "serve"], log={"format": "json"}) as node:
        lines = [json.loads(line) for line in node.stderr().splitlines()]
    (line,) = (line for line in lines if line["event"] == "config_read")
    path = str(tmp_path / "node.toml")
    del line["time"]
    assert line == {
        "level": "info",
        "event": "config_read",
        "message": f"configuration from {path}",
        "path": path,
    }


def test_a_call_that_does_not_fit_its_row_is_found(tmp_path: Path) -> None:
    tree = Copy(tmp_path, compiled=True)
    serve = tree.directory / "raida_uring/cli/serve.py"
    text = serve.read_text(encoding="utf-8")
    assert text.count("CLOCK_ABSURD.log(year=year)") == 1
    serve.write_text(text.replace("CLOCK_ABSURD.log(year=year)", "CLOCK_ABSURD.log(yaer=year)"))
    with pytest.raises(AssertionError, match=r"cli/serve\.py:"):
        tree.run(".venv/bin/python -m pytest -q tests/unit/test_log_events.py")
