"""The live view: rates of an interval, and what fits a terminal of 80 by 24."""

from collections.abc import Callable
from typing import Any

import pytest

from raida_uring.cli import operate, top
from raida_uring.errors import RaidaError

COUNTERS = {
    "udp_received": 0,
    "udp_answered": 0,
    "tcp_requests": 0,
    "tcp_answered": 0,
    "dispatched": 0,
    "udp_votes": 0,
    "echoes": 0,
    "connections_accepted": 0,
    "laps": 0,
    "loop_cpu_ns": 0,
    "udp_dropped_pool": 0,
    "tcp_dropped_timeout": 0,
}


def asked(answered: int, spent_s: float) -> list[dict[str, Any]]:
    """A node's tally of one command."""
    statuses = {"250": answered}
    return [
        {
            "command": "15/255",
            "name": "a_name_that_is_longer_than_others",
            "answered": answered,
            "statuses": statuses,
            "spent_s": spent_s,
        }
    ]


def look(uptime_s: float, buckets: list[list[int]], **counters: int) -> dict[str, Any]:
    """A node's status, busy enough that every number is as long as it gets."""
    counted = {**COUNTERS, **counters}
    return {
        "raida_id": 14,
        "version": "0.1.0",
        "process": 4194303,
        "phase": "serving",
        "tier": "io_uring, DEFER_TASKRUN",
        "endpoints": [["0.0.0.0", 50014], ["::", 50014]],
        "uptime_s": uptime_s,
        "counters": counted,
        "commands": asked(10**10, 10.0**6),
        "drops": {name: count for name, count in counted.items() if "_dropped_" in name},
        "histograms": dict.fromkeys(("udp", "tcp", "queue", "lap"), buckets),
        "in_flight": {"udp": 32767, "tcp": 65535},
        "lanes": {
            name: {"queued": 98302, "busy": 64, "workers": 64}
            for name in ("ordinary", "slow", "write", "native", "native_write")
        },
        "memory": {
            "udp_contexts": [32768, 32768],
            "tcp_buffers": [32768, 32768],
            "small_blocks": [65536, 65536],
            "large_blocks": [65536, 65536],
        },
        "connections": {"open": 65535, "max": 65535},
        "resources": {
            "cpu_s": uptime_s,
            "memory_bytes": 2**33,
            "descriptors": 65793,
            "threads": 140,
        },
        "store": {
            "used_bytes": 2**31,
            "map_bytes": 2**31,
            "journal_bytes": 2**32,
            "journal_max_bytes": 2**32,
            "checkpoint_age_s": 86_399.0,
        },
    }


def test_rates_and_percentiles_are_of_the_interval() -> None:
    before = look(10.0, [[1000, 900]], udp_received=1000)
    now = look(12.0, [[1000, 900], [2000, 99], [80_000, 1]], udp_received=1500)
    seen = top.summary(now, before)
    assert seen["rates"]["udp_received"] == 250
    assert seen["latency_us"]["udp"] == {
        "count": 100,
        "p50": 2.0,
        "p90": 2.0,
        "p99": 2.0,
        "p999": 80.0,
    }
    assert seen["resources"]["cpu_percent"] == 100


def test_commands_are_rated_by_what_they_answered_meanwhile() -> None:
    before = {**look(10.0, []), "commands": asked(100, 50.0)}
    now = {**look(12.0, []), "commands": asked(110, 50.001)}
    (shown,) = top.summary(now, before)["commands"]
    assert shown["per_s"] == 5
    assert round(shown["mean_us"]) == 100
    (still,) = top.summary({**now, "uptime_s": 13.0}, now)["commands"]
    assert still["per_s"] == 0
    assert round(still["mean_us"]) == round(50.001 / 110 * 1e6)  # none meanwhile: since start
    (new,) = top.summary(now, {**look(10.0, []), "commands": []})["commands"]
    assert new["per_s"] == 55


def test_what_is_wrong_stands_below_the_heading_and_statuses_have_names() -> None:
    now = look(10.0, [])
    assert "NOT READY" not in "".join(top.render(now, None, 80, 24))
    now["unready"] = ["the store cannot be written: No space left on device"]
    now["commands"] = [{**asked(9, 1.0)[0], "statuses": {"242": 6205, "7": 1, "123": 2}}]
    lines = top.render(now, None, 200, 24)
    assert lines[2] == "NOT READY: the store cannot be written: No space left on device"
    assert lines[-1].endswith("   242 ALL_FAIL: 6205, 123: 2, 7 INVALID_COIN_ID: 1")


def test_restarted_node_is_looked_at_afresh() -> None:
    before = {**look(1000.0, [], udp_received=10**6), "process": 1}
    assert top.summary(look(2.0, [], udp_received=10), before)["rates"]["udp_received"] == 5


def test_view_fits_80_by_24() -> None:
    busy = dict.fromkeys(COUNTERS, 10**12)
    lines = top.render(look(10**7, [[10**9, 10**9]], **busy), look(0.0, []), 200, 200)
    too_wide = [line for line in lines if len(line) > 79]
    assert not too_wide
    shown = top.render(look(10**7, [[10**9, 10**9]], **busy), look(0.0, []), 79, 23)
    assert len(shown) <= 23
    assert any("udp pool" in line for line in shown)  # drops are not pushed out


def test_blank_lines_go_before_any_other() -> None:
    whole = top.render(look(10**7, []), look(0.0, []), 200, 200)
    told = [line for line in whole if line]
    assert "" in whole
    assert top.render(look(10**7, []), look(0.0, []), 200, len(told)) == told
    one_less = top.render(look(10**7, []), look(0.0, []), 200, len(whole) - 1)
    assert one_less.index("") == whole.index("")  # the lowest went
    assert [line for line in one_less if line] == told


def test_commands_that_do_not_fit_are_counted() -> None:
    """A terminal shows the busiest; text without a height, and JSON, have them all."""
    now = look(10**7, [])
    now["commands"] = [
        {**asked(1000 - code, 1.0)[0], "command": f"5/{code}", "name": f"number_{code}"}
        for code in range(12)
    ]
    whole = top.render(now, None, 79, 1000)
    assert sum("number_" in line for line in whole) == 12
    assert len(top.summary(now, None)["commands"]) == 12
    shown = top.render(now, None, 79, 23)
    assert len(shown) == 23
    seen = [line for line in shown if "number_" in line]
    assert 0 < len(seen) < 12
    assert seen == [line for line in whole if "number_" in line][: len(seen)]
    assert shown[-1] == f"+ {12 - len(seen)} more commands"
    fits = len([line for line in whole if line])
    assert "more" not in top.render(now, None, 79, fits)[-1]
    assert top.render(now, None, 79, 5)[-1] == f"+ {fits - 4} more lines"
    assert top.render(now, None, 79, 0) == []


def test_reasons_of_drops_beyond_the_first_are_counted() -> None:
    now = look(10**7, [])
    now["drops"] = {f"udp_dropped_reason_{number}": number for number in range(1, 12)}
    now["counters"] = {**now["counters"], **now["drops"]}
    assert "+ 3 more reasons" in top.render(now, None, 79, 1000)
    assert len(top.summary(now, None)["drops"]) == 11


@pytest.mark.parametrize("gone", ["commands", "resources", "tier", "drops"])
def test_a_node_of_another_version_is_named(gone: str) -> None:
    """After the program was replaced, before the node is: a message, no traceback."""
    told = {key: value for key, value in look(10.0, []).items() if key != gone}
    looks: list[Callable[[], object]] = [
        lambda: top.render(told, None, 80, 24),
        lambda: top.summary(told, told),
    ]
    for make in looks:
        with pytest.raises(RaidaError, match=f"the node's is 0.1.0: .*'{gone}'.*status --json"):
            make()


def test_the_heading_says_which_time_the_rates_cover() -> None:
    now, before = look(12.0, []), look(10.0, [])
    assert any(line.endswith("rates since start") for line in top.render(now, None, 79, 100))
    assert any(line.endswith("rates now") for line in top.render(now, before, 79, 100))


def test_statuses_have_names() -> None:
    now = look(12.0, [])
    now["commands"][0]["statuses"] = {"250": 7, "242": 6}
    assert top.render(now, None, 200, 100)[-1].endswith("250: 7, 242 ALL_FAIL: 6")


@pytest.mark.parametrize("key", ["counters", "drops", "memory", "histograms"])
def test_a_node_that_tells_a_list_in_place_of_a_table_is_named(key: str) -> None:
    with pytest.raises(RaidaError, match=r"the node's is 0\.1\.0: .*status --json"):
        top.render(look(10.0, []) | {key: [1]}, None, 80, 24)


def test_blocks_that_workers_hold_in_advance_are_not_in_use() -> None:
    now = look(12.0, [])
    now["memory"] = {**now["memory"], "small_blocks": [544, 4096]}
    assert any("2K 544/4096" in line for line in top.render(now, None, 200, 100))
    now["lent"] = {"small_blocks": 540, "large_blocks": 68}
    assert any("2K 4/4096" in line for line in top.render(now, None, 200, 100))


def test_limited_sources_are_shown_without_busy_peers() -> None:
    """A source that stays limited longer than peers are remembered reaches no handler."""
    found = {
        "window_s": 61.5,
        "peers": [],
        "limited_count": 2,
        "limited": [{"who": "192.0.2.7", "transport": "udp", "rest_s": 12.25}],
    }
    lines = list(operate.peers_lines(found))
    assert lines[0] == "no command was answered in the last 61.5 s"
    assert [" ".join(line.split()) for line in lines[-2:]] == ["192.0.2.7 udp 12.2", "and 1 more"]
    assert list(operate.peers_lines({**found, "limited_count": 0})) == lines[:1]
