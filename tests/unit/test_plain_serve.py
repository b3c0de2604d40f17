"""`serve` as service managers call it does without typer's parser, and is understood alike."""

from pathlib import Path

import pytest

from raida_uring.cli.serve import plain_options
from tests.support.command_line import run_script

PLAIN = [
    ([], {}),
    (["--config", "/etc/node.toml"], {"config_path": Path("/etc/node.toml")}),
    (
        ["--host", "::1", "--port", "50014", "--backend", "epoll"],
        {"host": "::1", "port": 50014, "backend": "epoll"},
    ),
]
FOR_TYPER = [
    ["--help"],
    ["--config"],
    ["--config", "a", "--config", "b"],
    ["--config=a"],
    ["--port", "-1"],
    ["--port", "many"],
    ["--conf", "a"],
    ["stray"],
    ["--config", "--port"],
    ["--port", "\u0661"],
]


@pytest.mark.parametrize(("given", "understood"), PLAIN)
def test_plain_options(given: list[str], understood: dict[str, object]) -> None:
    assert plain_options(["serve", *given]) == understood


@pytest.mark.parametrize("given", FOR_TYPER)
def test_the_rest_is_typer_s(given: list[str]) -> None:
    assert plain_options(["serve", *given]) is None


@pytest.mark.parametrize("argv", [[], ["ping", "--port", "1"], ["config", "check"]])
def test_other_commands_are_typer_s(argv: list[str]) -> None:
    assert plain_options(argv) is None


def test_what_a_start_does_not_load() -> None:
    program = (
        "import sys; from raida_uring.cli import main as cli; status = cli.main(sys.argv[1:]); "
        "print(status, 'pydantic' in sys.modules)"
    )
    ended = run_script(program, "serve", "--port", "65536")
    assert ended.stdout == "2 False\n"
    assert "--port 65536: must be an integer from 0 to 65535" in ended.stderr
