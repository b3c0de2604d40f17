"""CONTRIBUTING.md's recipes work the first time: what each one adds is there and has an effect.

A test for another recipe calls `tree.follow("TITLE")` and then checks what it has added.
"""

import shlex
from pathlib import Path

import pytest

from tests.support.command_line import REPOSITORY, output_of
from tests.support.recipes import Copy, titles

HERE = Path(__file__).parent
pytestmark = [pytest.mark.any_backend, pytest.mark.hang_timeout_s(300)]

# The version command, whose reply is 42 bytes long, asked before and after two reloads.
ASK_AND_RELOAD = """
from raida_uring import config
from raida_uring.client import Client, calls
from raida_uring.node.server import Server

def wanted(limit):
    return config.parse(
        "[server]\\nraida_id = 0\\nport = 0\\n[network]\\nbind = [\\"127.0.0.1\\"]\\n"
        "[http]\\nenabled = false\\n"
        f"[limits]\\nconnections_max = 100\\nreply_bytes_max = {limit}\\n", "node.toml"
    )

server = Server(wanted(41))
server.start()
host, port = server.endpoints[0]
client = Client(host, port, raida_id=0)
for limit in (41, 42, 0):
    reloaded = server.reload(wanted(limit))
    assert not reloaded.restart
    print(limit, client.ask(calls.version()).status)
server.stop()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_setting_of_the_data_plane(tree: Copy) -> None:
    printed = tree.follow("A setting of the data plane")
    assert "reply_bytes_max = 0\n" in printed
    row = "| `[limits]` | `reply_bytes_max` | bytes | an integer from 0 to 65536 | `0` | live |"
    assert row in (tree.directory / "docs/configure.md").read_text(encoding="utf-8")
    told = tree.run(f".venv/bin/python -c {shlex.quote(ASK_AND_RELOAD)}")
    assert told.splitlines() == ["41 252", "42 250", "0 250"]


def test_a_copy_runs_its_own_modules(tmp_path: Path) -> None:
    """Also where those of the checkout are in the working directory."""
    tree = Copy(tmp_path, compiled=True)
    package = tree.directory / "raida_uring" / "__init__.py"
    package.write_text('__version__ = "of the copy"\n', encoding="utf-8")
    program = tree.directory / ".venv" / "bin" / "raida-uring"
    assert output_of(program, "--version", cwd=REPOSITORY) == "raida-uring of the copy\n"


def test_every_recipe_is_followed() -> None:
    tests = "".join(one.read_text(encoding="utf-8") for one in HERE.glob("test_recipe*.py"))
    assert [title for title in titles() if title not in tests] == []
