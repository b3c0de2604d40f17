"""Default records computed in C, several at once, against hashlib's MD5, one by one.

What must hold: whatever the seed, and whichever coins stand beside it, a coin on a page that was
never written has the AN of the rule and month 0.
Source: wire specification, section 8.3.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import (
    DIFFERS,
    EQUAL,
    PAGE_BLANK,
    SELECTED_SIZE,
    STORE_PAGES,
    UNREADABLE,
)
from tests.support.store import Coin, coin_bytes

SEED_BYTES_MAX = 200  # four blocks of MD5, the last one in part

# Records whose names are shortest and longest, and pages at both ends.
coins = st.tuples(
    st.integers(-8, 6),
    st.builds(
        lambda page, record: page * 1024 + record,
        st.one_of(st.sampled_from([0, 999]), st.integers(0, 999)),
        st.one_of(st.sampled_from([0, 255, 256, 1023]), st.integers(0, 1023)),
    ),
)
nowhere = st.sampled_from([(-9, 0), (7, 0), (0, 1_024_000), (0, 1 << 26)])
seeds = st.binary(max_size=SEED_BYTES_MAX)


@contextlib.contextmanager
def seeded(seed: bytes) -> Iterator[native_store.Store]:
    """A store without a written page."""
    store = native_store.Store(seed=seed)
    with contextlib.closing(store):
        yield store


@contextlib.contextmanager
def viewed(seed: bytes) -> Iterator[native_store.View]:
    with seeded(seed) as store, contextlib.closing(store.view(writing=False)) as view:
        view.begin()
        yield view


def record_of(seed: bytes, coin: Coin) -> bytes:
    """By the rule. A number of another denomination or page is in no store."""
    denomination, serial = coin
    if not (-8 <= denomination <= 6 and serial < 1_024_000):
        return bytes(17)
    name = f"{denomination & 0xFFFFFFFF:02x}{serial // 1024:04x}{serial % 1024:02x}"
    return hashlib.md5(seed + name.encode(), usedforsecurity=False).digest() + b"\0"


def spoilt(an: bytes, at: int) -> bytes:
    """The AN with another byte `at`."""
    return an[:at] + bytes((an[at] ^ 1,)) + an[at + 1 :]


def assert_records(view: native_store.View, seed: bytes, of: Sequence[Coin], stride: int) -> None:
    """gather() and match() agree with the rule; coins are `stride` bytes apart."""
    wanted = [record_of(seed, coin) for coin in of]
    listed = b"".join(coin_bytes(coin).ljust(stride, b"x") for coin in of)
    records, states = view.gather(listed, len(of), stride)
    assert records == b"".join(wanted)
    assert list(states) == [EQUAL if any(record) else UNREADABLE for record in wanted]
    asked, expected = b"", []
    for at, (coin, record) in enumerate(zip(of, wanted, strict=True)):
        right = at % 3 != 1
        an = record[:16] if right else spoilt(record[:16], at % 16)
        asked += coin_bytes(coin).ljust(stride, b"x") + an
        expected.append((EQUAL if right else DIFFERS) if any(record) else UNREADABLE)
    assert list(view.match(asked, len(of), stride + 16, stride)) == expected


@settings(max_examples=400)
@given(seeds, st.lists(st.one_of(coins, coins, nowhere), max_size=9), st.integers(5, 40))
def test_records_follow_the_rule(seed: bytes, of: list[Coin], stride: int) -> None:
    with viewed(seed) as view:
        assert_records(view, seed, of, stride)


@pytest.mark.parametrize("count", [31, 32, 33, 64, 100])
def test_records_of_long_lists_follow_the_rule(count: int) -> None:
    of = [(at % 17 - 9, at * 10_007 % 1_030_000) for at in range(count)]
    assert any(any(record_of(b"", coin)) for coin in of)
    with viewed(b"4567") as view:
        assert_records(view, b"4567", of, 21)


def test_seeds_of_every_length() -> None:
    """Names of 8 to 15 digits behind each: they end in a block or in the next one."""
    of = [(0, 0), (0, 256), (-8, 0), (-1, 1_023_999), (6, 1_023_999)]
    for size in range(SEED_BYTES_MAX + 1):
        seed = hashlib.shake_128(size.to_bytes(2)).digest(size)
        with viewed(seed) as view:
            assert_records(view, seed, of, 5)


@settings(max_examples=20)
@given(seeds, st.integers(0, STORE_PAGES - 1))
def test_pages_follow_the_rule(seed: bytes, page: int) -> None:
    first = page % 1000 * 1024
    whole = b"".join(record_of(seed, (page // 1000 - 8, first + at)) for at in range(1024))
    with viewed(seed) as view:
        assert view.page(page) == whole
        assert view.store.select(page, bytearray(SELECTED_SIZE)) == (PAGE_BLANK, 0, 0)
