"""What became of the requests that a load sent to a node while a test replaced it.

Thread: one for each object.
"""

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """What became of the requests of one kind. Times are of CLOCK_MONOTONIC, in seconds."""

    sent: int = 0
    answered: int = 0
    wrong: int = 0
    lost: int = 0
    due_s: "array[float]" = field(default_factory=lambda: array("d"))  # of those answered
    latency_s: "array[float]" = field(default_factory=lambda: array("d"))
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)  # of the answers, where they differ

    def settle(self, due_s: float, fault: str | None) -> None:
        """Count an answer (`fault` None) or a wrong one."""
        if fault is None:
            self.answered += 1
            self.due_s.append(due_s)
            self.latency_s.append(time.monotonic() - due_s)
        else:
            self.wrong += 1
            self.faults[fault] += 1

    def lose(self, why: str, count: int = 1) -> None:
        """Count requests without an answer."""
        self.lost += count
        if count:
            self.faults[why] += count
