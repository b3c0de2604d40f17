"""A node with its admin socket, and the commands that ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import command_line
from tests.support.node import Daemon, Table, daemon


@contextmanager
def node(place: Path, **tables: Table) -> Iterator[tuple[Daemon, Path]]:
    """A daemon and its admin socket."""
    path = place / "own" / "admin.sock"
    given: dict[str, Any] = {**tables, "admin": {"socket": str(path)}}
    with daemon(place, **given) as running:
        yield running, path


def run(*arguments: str, status: int = 0, **how: Any) -> str:
    """What `raida-uring` prints: on standard output if it succeeds, otherwise on standard error."""
    ended = command_line.run(*arguments, **how)
    assert ended.returncode == status, (ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended.stdout if status == 0 else ended.stderr


def change(place: Path, old: str, new: str) -> None:
    """Edit the daemon's configuration file."""
    path = place / "node.toml"
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))
