"""The heavy keys of a stream, against an exact count."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raida_uring.observe.sketch import SpaceSaving

STREAMS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=300)


@given(STREAMS, st.integers(1, 12))
def test_bounds_hold_for_every_key(stream: list[tuple[int, int]], capacity: int) -> None:
    sketch: SpaceSaving[int] = SpaceSaving(capacity)
    exact: Counter[int] = Counter()
    for key, weight in stream:
        sketch.add(key, weight)
        exact[key] += weight
    held = sketch.top(capacity)
    assert len(held) == min(capacity, len(exact))
    assert [one.weight for one in held] == sorted((one.weight for one in held), reverse=True)
    for one in held:
        assert one.weight - one.excess <= exact[one.key] <= one.weight
    total = exact.total()
    heavy = {key for key, weight in exact.items() if weight > total / capacity}
    assert heavy <= {one.key for one in held}


def test_memory_is_bounded_whatever_comes() -> None:
    sketch: SpaceSaving[int] = SpaceSaving(16)
    for key in range(10_000):
        sketch.add(key, 1)
        sketch.add(-1, 1)
    assert len(sketch._held) == 16
    assert len(sketch._order) == 16
    assert sketch.top(1)[0].key == -1
