"""The tables of docs/ that follow from the code are those that the code makes now; rows of counters
are of the kind that their names say, on which metrics and laws rely."""

import re

import pytest

from raida_uring.observe.counters import COUNTERS, LAWS, violations
from raida_uring.observe.prometheus import FAMILIES
from tools import tables

NAMES_OF_KINDS = {
    r"udp_(answered|dropped_\w+)": "udp_ended",
    r"tcp_(answered|dropped_\w+)": "tcp_ended",
    r"connections_closed_\w+": "connections_ended",
    r"\w+_in_flight|connections_open": "open",
    r"udp_received|tcp_requests|connections_accepted": "begun",
}


def test_every_table_and_the_sample_are_as_the_code_makes_them() -> None:
    assert not list(tables.stale()), "run `make docs`"


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_stands_in_one_document(name: str) -> None:
    marker = f"<!-- generated table: {name} -->\n"
    assert sum(text.count(marker) for text in tables.documents().values()) == 1


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = "before\n<!-- generated table: counters -->\nold\n<!-- end of table -->\nafter | old\n"
    made = tables.updated(text)
    head, rest = made.split("| counter | law | metric | meaning |\n")
    assert head == "before\n<!-- generated table: counters -->\n"
    assert rest.endswith("|\n<!-- end of table -->\nafter | old\n")
    assert rest.count("\n") == len(COUNTERS) + 3
    with pytest.raises(KeyError):
        tables.updated(text.replace("counters", "nothing"))


def test_every_metric_is_in_a_table() -> None:
    text = "\n".join((*tables.counters(), *tables.metrics()))
    assert set(re.findall(r"\| `(raida_\w+)(?:\{[^}]*\})?` \|", text)) == set(FAMILIES)


def test_names_say_the_kind() -> None:
    for counter in COUNTERS.values():
        expected = next(
            (kind for names, kind in NAMES_OF_KINDS.items() if re.fullmatch(names, counter.name)),
            "event",
        )
        assert counter.kind.endswith(expected), counter


def test_a_broken_law_is_reported() -> None:
    counters = dict.fromkeys(COUNTERS, 0)
    assert violations(counters) == []
    for law in LAWS:
        for name in (*law.ended, law.open_now):
            assert violations(counters | {law.begun: 1, name: 1}) == []
        assert violations(counters | {law.begun: 1}) == [f"{law.begun} 1 is not 0"]
