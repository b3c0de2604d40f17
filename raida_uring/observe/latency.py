"""Percentiles of the data plane's histograms, and histograms with fewer buckets. Pure."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the command line imports this before the data plane is known to load
    from raida_uring.ffi.native import Histogram

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

_EDGE_LOW: Final = 12  # 2^12 ns: 4 us
_EDGE_HIGH: Final = 34  # 2^34 ns: 17 s


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


def thin(histogram: "Histogram", per_octave: int) -> list[tuple[int, int]]:
    """Fewer buckets: (upper edge in ns, number of values below it), and all in the last one.

    per_octave: buckets for each power of two, a power of two up to the engine's 16. The edges are
    edges of the engine's, so that no value is estimated; the last one's is 0, for infinity.
    """
    edges = [
        (1 << power) * (per_octave + step) // per_octave
        for power in range(_EDGE_LOW, _EDGE_HIGH)
        for step in range(per_octave)
    ]
    edges.append(1 << _EDGE_HIGH)
    below, total, bucket = [], 0, 0
    for edge in edges:
        while bucket < len(histogram.counts) and histogram.floors_ns[bucket] < edge:
            total += histogram.counts[bucket]
            bucket += 1
        below.append((edge, total))
    return [*below, (0, sum(histogram.counts))]
