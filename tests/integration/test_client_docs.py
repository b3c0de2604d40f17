"""The examples of docs/client.md, run as they stand against a node on another port."""

import re
import runpy
from pathlib import Path

import pytest

from tests.support.coins import Coins
from tests.support.node import REPOSITORY, running_node

pytestmark = pytest.mark.any_backend

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$",
    (REPOSITORY / "docs" / "client.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def run(example: str, tmp_path: Path) -> None:
    assert "50009" in example
    with running_node(Coins(), server={"raida_id": 9}) as node:
        script = tmp_path / "example.py"
        script.write_text(example.replace("50009", str(node.endpoint[1])))
        runpy.run_path(str(script))


def test_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version, detect (refused until there is a store, or its verdict), a sealed request."""
    run(EXAMPLES[0], tmp_path)
    first, detected, sealed = capsys.readouterr().out.splitlines()
    assert (first, sealed) == ("20250323", "250")
    assert detected.startswith(("refused with status 89", "True ", "False "))


def test_the_asyncio_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(EXAMPLES[1], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["250"] * 10


def test_there_are_no_others() -> None:
    assert len(EXAMPLES) == 2
