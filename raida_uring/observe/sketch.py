"""The most frequent of very many keys, in bounded memory.

Pure. One thread at a time. Source: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent
and Top-k Elements in Data Streams" (2005), the Space-Saving algorithm.
"""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Frequent(NamedTuple, Generic[K]):
    """A key, its weight, and by how much that may be too high; it is never too low."""

    key: K
    weight: float
    excess: float


class SpaceSaving(Generic[K]):
    """Counts weights of up to `capacity` keys; a further key takes the place of the lightest.

    Every key heavier than a `capacity`-th of all weight added is among those held.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity: Final = capacity
        self._held: dict[K, list[float]] = {}  # weight, excess
        # Lightest first, as of when they were pushed: a weight that grew since is seen on the way.
        self._order: list[tuple[float, int, K]] = []
        self._pushed = 0

    def add(self, key: K, weight: float) -> None:
        """O(log capacity), amortised."""
        found = self._held.get(key)
        if found is not None:
            found[0] += weight
            return
        excess = 0.0
        if len(self._held) >= self._capacity:
            excess = self._drop_lightest()
        self._held[key] = [weight + excess, excess]
        self._push(weight + excess, key)

    def top(self, count: int) -> list[Frequent[K]]:
        """The `count` heaviest, heaviest first."""
        everything = (Frequent(key, *state) for key, state in self._held.items())
        return heapq.nlargest(count, everything, key=lambda one: one.weight)

    def _push(self, weight: float, key: K) -> None:
        self._pushed += 1  # keys need not be comparable
        heapq.heappush(self._order, (weight, self._pushed, key))

    def _drop_lightest(self) -> float:
        while True:
            weight, _, key = heapq.heappop(self._order)
            current = self._held[key][0]
            if current == weight:
                del self._held[key]
                return weight
            self._push(current, key)
