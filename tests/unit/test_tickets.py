"""Tickets without a node: who sees them, how often they are claimed, what is refused.

tests/native/test_tickets.c has the slots themselves.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.errors import RaidaError
from raida_uring.ffi import native_store
from raida_uring.store import Store
from tests.support.store import MAP_BYTES, coin_bytes, make_store

NAMES = coin_bytes((0, 5)) + coin_bytes((-8, 1_023_999)) + coin_bytes((6, 0))
NOW_S = 1_800_000_000
ROOM = 65_502


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)) as opened:
        yield opened


def test_a_ticket_is_claimed_once_for_each_raida(store: Store) -> None:
    own, now_s = store.native, int(time.time())
    ticket = own.tickets_issue(NAMES, now_s)
    assert ticket is not None
    for raida in range(25):
        large = native_store.TICKET_LARGE, b""
        assert own.tickets_claim(ticket, raida, len(NAMES) - 1, now_s) == large
        assert own.tickets_claim(ticket, raida, len(NAMES), now_s) == (0, NAMES)
        claimed = native_store.TICKET_CLAIMED, b""
        assert own.tickets_claim(ticket, raida, 0, now_s) == claimed
    for unknown in (0, ticket ^ 1 << 24):
        missing = native_store.TICKET_UNKNOWN, b""
        assert own.tickets_claim(unknown, 3, ROOM, now_s) == missing
    assert store.sizes().tickets == 1


def test_every_process_with_the_memory_has_the_tickets(store: Store) -> None:
    """Such as a successor, while its predecessor still answers."""
    own = store.native
    other = native_store.Store(memory=os.dup(own.memory))
    number = own.tickets_issue(NAMES, NOW_S)
    assert number is not None
    assert other.tickets_claim(number, 7, ROOM, NOW_S + 299) == (0, NAMES)
    assert own.tickets_claim(number, 7, ROOM, NOW_S) == (native_store.TICKET_CLAIMED, b"")
    assert own.tickets_claim(number, 8, ROOM, NOW_S + 300) == (native_store.TICKET_UNKNOWN, b"")
    late = other.tickets_issue(NAMES, NOW_S + 1)
    assert late not in (None, number)
    assert [own.tickets_alive(NOW_S + at) for at in (0, 299, 300, 301)] == [2, 2, 1, 0]
    other.close()
    assert own.tickets_claim(late or 0, 8, ROOM, NOW_S) == (0, NAMES)


@pytest.mark.parametrize("names", [b"", bytes(4), bytes(6), bytes(5 * 3121)])
def test_what_names_no_coins_gets_no_ticket(store: Store, names: bytes) -> None:
    with pytest.raises(ValueError, match="not the names of a ticket's coins"):
        store.native.tickets_issue(names, NOW_S)
    assert store.sizes().tickets == 0


def test_as_many_coins_as_a_request_names(store: Store) -> None:
    names = os.urandom(5 * 3120)
    ticket = store.native.tickets_issue(names, NOW_S)
    assert ticket is not None
    assert store.native.tickets_claim(ticket, 24, ROOM, NOW_S) == (0, names)


def test_a_raida_that_does_not_exist(store: Store) -> None:
    number = store.native.tickets_issue(NAMES, NOW_S)
    assert number is not None
    with pytest.raises(RaidaError, match="claiming a ticket"):
        store.native.tickets_claim(number, 25, ROOM, NOW_S)


def test_a_closed_store_has_no_tickets(store: Store) -> None:
    native = store.native
    store.close()
    with pytest.raises(RuntimeError, match="the store is closed"):
        native.tickets_issue(NAMES, NOW_S)
    with pytest.raises(RuntimeError, match="the store is closed"):
        native.tickets_claim(1, 1, ROOM, NOW_S)
