"""What a node costs before and beside its work: starts, memory, and changes beside a checkpoint.

Usage: footprint.py [STARTS]. Prints the medians of STARTS (7) starts without a store, with a fresh
and with a full one, from fork to the first answered echo, and the memory that is the node's own
(RssAnon and RssShmem) after them. Then, on the full store with a change on every page: how much
memory grows while a checkpoint writes them all, and the p99 of lone powns meanwhile beside that of
before. The stores need 600 MB in the directory for temporary files.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raida_uring.bench import coins, contenders
from raida_uring.bench.cases import RAIDA_ID
from raida_uring.client import Client, Coin, calls
from raida_uring.protocol import layout
from raida_uring.store import STORE_PAGES
from raida_uring.store.files import FILE

CHECKPOINT_S: Final = 15  # the changes and the measurement before it fit into it
SLICE_S: Final = 0.25
BATCH: Final = 25


def coin(index: int) -> Coin:
    den, sn = layout.COIN_NAME.unpack(coins.name(index))
    return Coin(den=den, sn=sn, an=coins.an(index))


def node(store: Path | None, **settings: object) -> contenders.Contender:
    if store is None:
        return contenders.node()
    return contenders.node(store={"path": str(store), **settings})


def own_memory_mb(pid: int) -> float:
    """RssAnon and RssShmem, in units of 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return sum(int(found[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024 / 1e6


def first_answer(store: Path | None) -> tuple[float, float]:
    """Seconds from a start to the first answer, and memory afterwards."""
    started = time.monotonic()
    with contenders.running(node(store), range(2)) as server:
        asked = Client("127.0.0.1", server.port, raida_id=RAIDA_ID)
        asked.ask(calls.echo()).require()
        took_s = time.monotonic() - started
        return took_s, own_memory_mb(server.pid)


def base_written_ns(store: Path) -> int:
    """When a checkpoint last wrote to the base."""
    return (store / FILE).stat().st_mtime_ns


def change_all_pages(asked: Client) -> None:
    pages = [page * layout.PAGE_RECORDS_COUNT for page in range(STORE_PAGES)]
    for first in range(0, STORE_PAGES, BATCH):
        named = pages[first : first + BATCH]
        changes = [(coin(index), coins.other_an(index)) for index in named]
        asked.ask(calls.pown(changes)).require()


def lone_powns(asked: Client) -> Iterator[float]:
    """Seconds that each took; one coin there and back again."""
    index = 1
    ans = [coins.an(index), coins.other_an(index)]
    while True:
        den, sn = layout.COIN_NAME.unpack(coins.name(index))
        started = time.monotonic()
        asked.ask(calls.pown([(Coin(den=den, sn=sn, an=ans[0]), ans[1])])).require()
        yield time.monotonic() - started
        ans.reverse()


def p99_us(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1] * 1e6


def beside_a_checkpoint(store: Path) -> None:
    with contenders.running(node(store, checkpoint_interval_s=CHECKPOINT_S), range(2)) as server:
        asked = Client("127.0.0.1", server.port, raida_id=RAIDA_ID)
        change_all_pages(asked)
        powns, alone, beside = lone_powns(asked), list[float](), list[float]()
        before_mb = most_mb = own_memory_mb(server.pid)
        deadline = time.monotonic() + 4 * CHECKPOINT_S
        while time.monotonic() < deadline:
            written_ns, end_s, times = base_written_ns(store), time.monotonic() + SLICE_S, []
            while time.monotonic() < end_s:
                times.append(next(powns))
            if base_written_ns(store) != written_ns:
                beside += times
                most_mb = max(most_mb, own_memory_mb(server.pid))
            elif beside:
                break
            else:
                alone += times
        grown = f"{most_mb - before_mb:.1f} MB to {most_mb:.0f} MB"
        print(f"checkpoint of all pages: memory grows by {grown}")
        print(
            f"lone pown: p99 alone {p99_us(alone):.0f} us ({len(alone)}), beside the checkpoint "
            f"{p99_us(beside):.0f} us ({len(beside)}): {p99_us(beside) / p99_us(alone):.2f}"
        )


def main() -> None:
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory(prefix="raida-footprint-") as name:
        fresh, full = Path(name, "fresh"), Path(name, "full")
        coins.make_fresh_store(fresh)
        coins.make_full_store(full)
        for title, store in (("none", None), ("fresh", fresh), ("full", full)):
            found = [first_answer(store) for _ in range(1 + starts)][1:]  # the first one warms
            took_s, memory_mb = (statistics.median(column) for column in zip(*found, strict=True))
            print(
                f"store {title}: first answer after {took_s:.3f} s, {memory_mb:.0f} MB of its own"
            )
        beside_a_checkpoint(full)


if __name__ == "__main__":
    main()
