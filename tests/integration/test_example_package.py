"""examples/: a package of commands, installed as a third party's is, tested by its own tests, and
answered by a node."""

import shutil
import sys
from pathlib import Path

import pytest

from raida_uring.client import Client, calls
from tests.support.command_line import REPOSITORY, environment, output_of
from tests.support.node import daemon

pytestmark = pytest.mark.any_backend


def run(*command: object, paths: tuple[Path, ...] = (), cwd: Path | None = None) -> str:
    return output_of(sys.executable, "-m", *command, env=environment(*paths), cwd=cwd)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package in it, as pip puts it there."""
    directory = tmp_path_factory.mktemp("examples")
    source = shutil.copytree(REPOSITORY / "examples", directory / "source")
    site = directory / "site"
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run("pip", "install", "-q", *options, "--target", site, source)
    return site


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    """Outside of this repository's tests: their options and fixtures are not the package's."""
    test = shutil.copy(REPOSITORY / "examples" / "test_commands.py", tmp_path)
    told = run("pytest", "-q", test, paths=(installed,), cwd=tmp_path)
    assert "5 passed" in told


def test_a_node_answers_them(installed: Path, tmp_path: Path) -> None:
    with daemon(tmp_path, import_paths=(installed,), server={"raida_id": 9}) as node:
        client = Client(*node.endpoint, raida_id=9)
        greet = calls.Call(7, 200, b"world", frozenset((250,)), lambda _, payload: payload)
        assert client.ask(greet).require() == b"hello world"


def test_they_are_listed(installed: Path) -> None:
    listed = run("raida_uring", "commands", paths=(installed,))
    for line in ("7/200", "7/201"):
        assert line in listed
