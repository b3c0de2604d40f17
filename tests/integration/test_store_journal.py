"""The journal under a node: removed, replaced, moved or cut off.

What must hold: as for the base, in test_store_file.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from tests.integration.test_store_file import COIN, LOSSES, pown, tables
from tests.support.coin_requests import DETECT, an_of, ask, coins_ans
from tests.support.http import ask as http_ask
from tests.support.node import eventually, free_port, started_daemon
from tests.support.store import make_store

pytestmark = pytest.mark.any_backend


def segment_in_use(path: Path) -> Path:
    """The newest that has an entry, or will have the first; a prepared one begins with zeros."""
    segments = sorted((path / "journal").glob("*.journal"))
    return [one for one in segments if any(one.read_bytes()[:64])][-1]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_change_to_a_lost_journal_is_not_acknowledged(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """Also one whose file still takes changes under another name: no start would find them."""
    path, port = make_store(tmp_path / "store"), free_port()
    url = f"http://127.0.0.1:{port}/"
    settings = tables(path) | {"http": {"enabled": True, "port": port}}
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        assert pown(node) == Status.ALL_PASS
        lose(segment_in_use(path))
        assert pown(node, (2, 5000)) == Status.FILESYSTEM
        assert ask(node.endpoint, DETECT, coins_ans({COIN: an_of(COIN)}))[0] == Status.ALL_PASS
        eventually(lambda: f"the store {path} cannot be changed: " in node.stderr())
        assert http_ask(url, "/readyz").status == 503
        assert node.terminate() == 0, node.stderr()


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_journal_is_reported_without_a_request(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    path, port = make_store(tmp_path / "store"), free_port()
    settings = tables(path) | {"http": {"enabled": True, "port": port}}
    with started_daemon(tmp_path, **settings) as node:
        node.await_ready()
        lose(segment_in_use(path))
        line = f"the store {path} cannot be changed: the journal was removed or cut off"
        eventually(lambda: line in node.stderr())
        assert http_ask(f"http://127.0.0.1:{port}/", "/readyz").status == 503
