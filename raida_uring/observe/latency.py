"""Percentiles of the data plane's histograms. Pure."""

from collections.abc import Iterable
from typing import Final

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


def percentiles_us(buckets: Iterable[tuple[int, int]]) -> dict[str, float | None]:
    """Count of the values and their percentiles in microseconds; None where there are no values.

    buckets: floor in nanoseconds and count, floors ascending. A percentile is the floor of the
    bucket it falls into: too low by a sixteenth at most.
    """
    counted = [(floor, count) for floor, count in buckets if count]
    total = sum(count for _, count in counted)
    found: dict[str, float | None] = {"count": total}
    for name, share in PERCENTILES.items():
        found[name] = None
        seen = 0
        for floor, count in counted:
            seen += count
            if seen >= total * share:
                found[name] = floor / 1000
                break
    return found
