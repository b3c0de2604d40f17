"""What clients asked of one register, when, and what they were told: is that possible?

A register here is what one client changes, from step n to n + 1, and others read: an owner's coins,
all of which get new ANs in one request. It behaves as a single copy if each read finds a step
between two bounds: the newest one that was certainly there when the read began, since a write of it
was acknowledged or another read had found it, and the newest that was asked for when it ended.

Pure. Moments are of CLOCK_MONOTONIC, in nanoseconds.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(slots=True)
class Write:
    """A request for `step`. done_ns: when it was acknowledged; None: its outcome is unknown."""

    step: int
    begun_ns: int
    done_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A request that can tell `steps` from all others. found: the one that was there; None: none of
    them."""

    steps: tuple[int, ...]
    begun_ns: int
    done_ns: int
    found: int | None


class Newest:
    """The highest of those steps that have a moment before a given one."""

    def __init__(self, first: int, moments: Iterable[tuple[int, int]]) -> None:
        """moments: each with a step. first: the step that was there before all of them."""
        ordered = sorted(moments)
        self._moments = [moment for moment, _ in ordered]
        self._highest = list(accumulate((step for _, step in ordered), max, initial=first))

    def before(self, moment: int) -> int:
        """Without those of this very moment."""
        return self._highest[bisect_left(self._moments, moment)]

    def until(self, moment: int) -> int:
        """With them."""
        return self._highest[bisect_right(self._moments, moment)]


@dataclass(slots=True)
class History:
    """All that was asked of a register since it was at step `first`. Thread: any may append."""

    first: int = 0
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def faults(self, last: int) -> Iterator[str]:
        """What cannot have happened to a register that is at step `last` once all is over."""
        proven = Newest(
            self.first,
            [(one.done_ns, one.step) for one in self.writes if one.done_ns is not None]
            + [(one.done_ns, one.found) for one in self.reads if one.found is not None],
        )
        asked = Newest(self.first, [(one.begun_ns, one.step) for one in self.writes])
        for read in self.reads:
            least, most = proven.before(read.begun_ns), asked.until(read.done_ns)
            if read.found is None:
                if set(range(least, most + 1)) <= set(read.steps):
                    yield f"none of {read.steps} was found, but it had to be in {least}..{most}"
            elif read.found < least:
                yield f"step {read.found} was found after step {least} was there"
            elif read.found > most:
                yield f"step {read.found} was found, and {most} was the newest asked for"
        acknowledged = [one.step for one in self.writes if one.done_ns is not None]
        if acknowledged and last < max(acknowledged):
            yield f"step {max(acknowledged)} was acknowledged, and {last} is there at the end"
        found = [read.found for read in self.reads if read.found is not None]
        if found and last < max(found):
            yield f"step {max(found)} was read, and {last} is there at the end"
        requested = max((one.step for one in self.writes), default=self.first)
        if not self.first <= last <= max(self.first, requested):
            yield f"step {last} is there at the end, not one of {self.first}..{requested}"
