"""CONTRIBUTING.md's recipe for a command: its test passes, and the node lists it."""

import re
from pathlib import Path

import pytest

from tests.support.recipes import Copy

pytestmark = pytest.mark.any_backend


def test_a_command(tmp_path: Path) -> None:
    printed = Copy(tmp_path, compiled=True).follow("A command")
    assert "1 passed" in printed
    assert re.search(r"^0/9 .*handlers\.greeting\.greet \(built in\)$", printed, re.MULTILINE)
