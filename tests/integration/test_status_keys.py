"""Programs read both JSON forms of a node's status: neither may lose a key.

A new key is entered here as soon as it is to stay.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.ffi import native
from raida_uring.observe.status import for_operators, for_page
from tests.support.node import running_node
from tests.support.store import make_store, table_of

LANES = "lanes.{ordinary,slow,write}"
POOLS = "pools.{udp_contexts,small_blocks,large_blocks,tcp_buffers,connections}"
HISTOGRAMS = "{udp,tcp,queue,lap}"

OPERATORS = f"""
raida_id version process phase tier unready endpoints started_at uptime_s commands counters drops
in_flight.{{udp,tcp}} connections.{{open,max}} latency_us.{HISTOGRAMS}.{{count,p50,p90,p99,p999}}
histograms.{HISTOGRAMS} {LANES}.{{queued,busy,workers}}
memory.{{udp_contexts,tcp_buffers,small_blocks,large_blocks}} lent.{{small_blocks,large_blocks}}
resources.{{cpu_s,memory_bytes,descriptors,threads}}
store.{{used_bytes,map_bytes,written_pages,tickets,journal_bytes,journal_max_bytes}}
store.{{journal_entries,journal_unsynced,checkpoint_age_s}} http.{{url,fault}}
log.{{level,requests_per_s,dropped}}
"""
PAGE = f"""
node.{{raida_id,coin_id,version,endpoints,tier,refusal,started_at,uptime_s,unready}} now_s counters
commands kernel_drops {LANES}.{{workers,busy,queued,oldest_s}} {POOLS}.{{used,lent,size}}
histograms.{HISTOGRAMS}.{{edges_s,below}} process.{{pid,cpu_s,memory,descriptors,threads}}
threads.{{io,workers}}.{{cpu_s,runqueue_s}} store.{{used,size,pages,tickets}}
store.{{journal,journal_size,journal_entries,checkpoint_age_s}}
writing.{{fault,failed_commits,disk_free_bytes}} roots.{{published,lag_s,lag_max_s,coins}}
"""


def paths(pattern: str) -> Iterator[list[str]]:
    """`a.{b,c}` is a.b and a.c."""
    first, _, rest = pattern.partition(".")
    for name in first.strip("{}").split(","):
        for below in paths(rest) if rest else [[]]:
            yield [name, *below]


@pytest.mark.any_backend
def test_no_key_is_lost(tmp_path: Path, backend: str) -> None:
    store = table_of(make_store(tmp_path / "store"))
    with running_node(store=store) as node:
        seen = node.server.observe()
    for told, patterns in ((for_operators(seen), OPERATORS), (for_page(seen), PAGE)):
        for pattern in patterns.split():
            for path in paths(pattern):
                found: object = told
                for name in path:
                    assert isinstance(found, dict), path
                    assert name in found, path
                    found = found[name]
        assert told["counters"] == seen.counters
    assert list(seen.counters) == list(native.COUNTER_NAMES)
