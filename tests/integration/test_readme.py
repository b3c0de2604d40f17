"""README.md's first five minutes, typed literally: a node, one coin detected and powned.

Only the Python and the port differ: the lines name .venv and port 50000.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raida_uring.store import Store
from tests.support.command_line import (
    PROGRAM,
    REPOSITORY,
    TIMEOUT_S,
    environment,
    execute,
    output_of,
)
from tests.support.node import eventually, free_port
from tests.support.store_tools import STORE, refused

pytestmark = pytest.mark.any_backend

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


DEMO = (*STORE, "init", "--demo", "--store", "coins")


def blocks(language: str) -> list[str]:
    """The contents of the fenced blocks of README.md in `language`, "" for those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == language]


def typed(line: str, port: int) -> str:
    """A line of README.md for this test's Python and port."""
    runs = {"raida-uring": shlex.join(PROGRAM), "python": shlex.quote(sys.executable)}
    line = re.sub(r"\.venv/bin/([\w-]+)", lambda found: runs[found[1]], line)
    return line.replace("50000", str(port))


def test_a_coin_is_detected_and_powned_as_readme_says(tmp_path: Path) -> None:
    port = free_port()
    prepare, ask = ([typed(one, port) for one in text.splitlines()] for text in blocks("sh"))
    *prepare, serve = prepare
    assert " serve " in serve
    for line in prepare:
        assert output_of("bash", "-c", line, cwd=tmp_path) == ""
    log = tmp_path / "log"
    with log.open("wb") as errors:
        node = subprocess.Popen(
            ["bash", "-c", f"exec {serve}"], cwd=tmp_path, env=environment(), stderr=errors
        )
    try:
        eventually(lambda: "serving on" in log.read_text(), TIMEOUT_S, log.read_text)
        *show, run = ask
        (shown,) = (output_of("bash", "-c", line, cwd=tmp_path) for line in show)
        said = output_of("bash", "-c", run, cwd=tmp_path)
        node.terminate()
        assert node.wait(TIMEOUT_S) == 0, log.read_text()
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()
    assert said in blocks("")
    code = [line for line in shown.splitlines() if line and not line.startswith("#")]
    assert len(code) <= 10


def test_a_demonstration_s_coin_alone_circulates(tmp_path: Path) -> None:
    """Without a configuration too; the program names the AN that the store has."""
    shown = output_of(*DEMO, cwd=tmp_path)
    assert 'Client("127.0.0.1", 50000, raida_id=0, coin_id=6)' in shown
    found = re.search(r"^# denomination 0, serial number 1, AN ([0-9a-f]{32})$", shown, re.M)
    assert found is not None
    store = Store(tmp_path / "coins")
    assert store.an(0, 1) == bytes.fromhex(found[1])
    store.close()
    stat = json.loads(output_of(*STORE, "stat", "--json", "--store", "coins", cwd=tmp_path))
    assert [den for den, count in stat["circulating"].items() if count] == ["0"]


def test_a_demonstration_replaces_no_store(tmp_path: Path) -> None:
    output_of(*DEMO, cwd=tmp_path)
    refused(execute(*DEMO, cwd=tmp_path), "holds a store")
