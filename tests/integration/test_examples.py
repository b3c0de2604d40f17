"""The examples of the documents, run unchanged except for the port."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

from tests.support.command_line import REPOSITORY
from tests.support.node import Table, running_node

pytestmark = pytest.mark.any_backend

PORT = "50009"  # of the examples


def examples(document: str, language: str = "python") -> list[str]:
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in fenced if named == language]


CLIENT = examples("client.md")
EXTEND = examples("extend.md")


def run(example: str, directory: Path, **tables: Table) -> None:
    assert PORT in example
    with running_node(server={"raida_id": 9}, **tables) as node:
        script = directory / "example.py"
        script.write_text(example.replace(PORT, str(node.endpoint[1])))
        runpy.run_path(str(script))


def test_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version, detect, a sealed request, and what a node without a store says."""
    run(CLIENT[0], tmp_path)
    assert [capsys.readouterr().out] == examples("client.md", "")


def test_client_with_asyncio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(CLIENT[1], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["250"] * 10


def test_a_command_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, ask, test, _ = EXTEND
    (tmp_path / "greetings.py").write_text(handler)
    monkeypatch.syspath_prepend(tmp_path)
    run(ask, tmp_path, handlers={"modules": ["greetings"]})
    assert "status=250" in (out := capsys.readouterr().out)
    assert "value=b'hello world'" in out
    (tmp_path / "test_greetings.py").write_text(test)
    runpy.run_path(str(tmp_path / "test_greetings.py"))["test_greet"]()


def test_a_command_on_coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_stamping.py").write_text(EXTEND[3])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("test_stamping").test_stamp(tmp_path)


def test_there_are_no_others() -> None:
    assert (len(CLIENT), len(EXTEND)) == (2, 4)
