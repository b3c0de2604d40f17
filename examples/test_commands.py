"""The package's commands, found by their entry points and called without a node."""

from pathlib import Path

import pytest

from raida_uring.handlers import Reply
from raida_uring.protocol import Status
from raida_uring.store import Store
from raida_uring.testing import HandlerClient

COIN = bytes([0]) + (8).to_bytes(4)  # denomination 0, serial number 8
AN = b"A" * 16
MONTH = 40


def test_greet() -> None:
    assert HandlerClient().send(7, 200, b"world") == Reply(250, b"hello world")


def test_month_of_change(tmp_path: Path) -> None:
    Store.create(tmp_path / "coins")
    store = Store(tmp_path / "coins")
    with store.write() as coins:
        coins.set(COIN + AN, 1, 21, MONTH)
    handlers = HandlerClient(store=store)
    assert handlers.send(7, 201, COIN + AN) == Reply(250, bytes([MONTH]))
    assert handlers.send(7, 201, COIN + AN + COIN + bytes(16)) == Reply(250, bytes([MONTH, 0]))
    # Anybody could know a reply of zeros, and learn a key from it under types 1 and 2.
    assert handlers.send(7, 201, (COIN + bytes(16)) * 16) == Reply(Status.ALL_FAIL)
    store.close()


@pytest.mark.parametrize("payload", [b"", COIN, COIN + AN + b"x"])
def test_what_is_no_list_of_coins_is_refused(payload: bytes, tmp_path: Path) -> None:
    Store.create(tmp_path / "coins")
    store = Store(tmp_path / "coins")
    assert HandlerClient(store=store).send(7, 201, payload) == Reply(Status.COINS_NOT_DIV)
    store.close()
