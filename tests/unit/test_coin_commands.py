"""What the commands on coins count, without a store."""

from hypothesis import given
from hypothesis import strategies as st

from raida_uring.handlers.coins import value_of
from raida_uring.protocol.layout import COIN_AN_SIZE, COIN_PAN_SIZE
from raida_uring.store import DIFFERS, EQUAL, UNREADABLE

COINS = st.lists(
    st.tuples(st.integers(-8, 6), st.sampled_from((EQUAL, DIFFERS, UNREADABLE))), max_size=40
)


@given(coins=COINS, stride=st.sampled_from((COIN_AN_SIZE, COIN_PAN_SIZE)))
def test_value_is_that_of_the_coins_that_passed(coins: list[tuple[int, int]], stride: int) -> None:
    listed = b"".join(den.to_bytes(1, signed=True) + bytes(stride - 1) for den, _ in coins)
    states = bytes(state for _, state in coins)
    expected = sum(10 ** (den + 8) for den, state in coins if state == EQUAL)
    assert value_of(listed, stride, states) == expected
