"""The counters of the data plane, the laws they obey, and the metric that shows each of them.

Pure. Name, kind and meaning of a counter stand in its row of ffi/count/stats.h; everything here,
the tables in docs/ and the tests follow from those rows. Counters whose names begin alike, as
_REASONS lists, are one metric with the label `reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raida_uring.ffi import native

COUNTERS: Final = {counter.name: counter for counter in native.COUNTERS}
"""Every counter by its name, in the order of ffi/count/stats.h."""

_REASONS: Final = {
    "udp_dropped_": "datagrams that were not answered, by reason",
    "tcp_dropped_": "TCP requests that were not answered, by reason",
    "connections_closed_": "closed connections, by reason",
}


@dataclass(frozen=True, slots=True)
class Law:
    """At every moment the counter `begun` equals the sum of those in `ended` and of `open_now`."""

    name: str
    begun: str
    ended: tuple[str, ...]
    open_now: str


def _law(name: str) -> Law:
    def of(role: str) -> list[str]:
        kind = f"{name}_{role}"
        return [counter.name for counter in native.COUNTERS if counter.kind == kind]

    (begun,), (open_now,) = of("begun"), of("open")
    return Law(name, begun, tuple(of("ended")), open_now)


LAWS: Final = tuple(_law(name) for name in ("udp", "tcp", "connections"))


def violations(counters: Mapping[str, int]) -> list[str]:
    """The laws that `counters` breaks, in words; empty when all hold."""
    broken = []
    for law in LAWS:
        parts = {name: counters[name] for name in (*law.ended, law.open_now)}
        if counters[law.begun] != sum(parts.values()):
            terms = " + ".join(f"{name} {value}" for name, value in parts.items() if value)
            broken.append(f"{law.begun} {counters[law.begun]} is not {terms or 0}")
    return broken


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. kind: of Prometheus. labels: the names of its labels."""

    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


def metric_of(counter: str) -> tuple[str, str | None]:
    """The metric that shows a counter of the data plane, and its `reason` where it has one."""
    for prefix in _REASONS:
        if counter.startswith(prefix):
            return f"raida_{prefix}total", counter.removeprefix(prefix)
    if counter in (law.open_now for law in LAWS):
        return f"raida_{counter}", None
    if counter.endswith("_ns"):
        return f"raida_{counter.removesuffix('_ns')}_seconds_total", None
    return f"raida_{counter}_total", None


def _families() -> dict[str, Family]:
    families = {}
    for counter in native.COUNTERS:
        name, reason = metric_of(counter.name)
        if reason is not None:
            meaning = _REASONS[counter.name.removesuffix(reason)]
            families[name] = Family("counter", meaning, ("reason",))
        else:
            kind = "counter" if name.endswith("_total") else "gauge"
            families[name] = Family(kind, counter.meaning)
    return families


COUNTER_FAMILIES: Final[Mapping[str, Family]] = _families()
"""The metrics that show counters, in the order of ffi/count/stats.h."""
