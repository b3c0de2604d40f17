"""A full disk.

What must hold: changes are refused while the journal cannot grow, and only then; every way to watch
a node shows that; nothing acknowledged is lost, and nothing refused is done, also by a restart.
"""

import itertools
import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from raida_uring.admin.client import result_of
from raida_uring.cli import top
from raida_uring.protocol import Status
from tests.support.coin_requests import (
    DETECT,
    GET_TICKET,
    POWN,
    all_roots,
    an_of,
    ask,
    coins_ans,
    default_an,
    detects,
    page_of_coin,
    pown_payload,
    stored_roots,
)
from tests.support.http import ask as http_ask
from tests.support.http import sample_value, scrape, status_json
from tests.support.needs import namespace
from tests.support.node import (
    SERVE,
    STOP_TIMEOUT_S,
    Daemon,
    daemon,
    eventually,
    free_port,
    started_daemon,
)
from tests.support.store import Coin, make_store, tables_over


def many(serials: Iterator[int]) -> list[Coin]:
    """Further coins, as many as one request may change: an entry of the journal is then long."""
    return [(2, next(serials)) for _ in range(1500)]


@dataclass(frozen=True)
class Disk:
    """A small file system in a mount namespace of its own."""

    mounted: Path  # as processes in the namespace see it
    outside: Path  # as all others see it
    enter: tuple[str, ...]  # what to put in front of a command

    def fill(self) -> None:
        """Leave no byte."""
        with (self.outside / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def leave(self, size: int) -> None:
        """So many bytes, once it is full."""
        ballast = self.outside / "ballast"
        os.truncate(ballast, ballast.stat().st_size - size)

    def free(self) -> None:
        """Give it back."""
        (self.outside / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Of 48 MiB: room for the first three segments of a journal."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    script = 'mount -t tmpfs -o size=48m,mode=0777 tmpfs "$0"'
    with namespace("mount", script, mounted) as pid:
        yield Disk(
            mounted,
            Path(f"/proc/{pid}/root{mounted}"),
            ("nsenter", f"--target={pid}", "--mount", f"--wd={tmp_path}"),
        )


def test_failed_writes_are_seen_and_their_end_too(tmp_path: Path, disk: Disk) -> None:
    """Every way to watch a node shows them while they fail, though small ones succeed; and shows
    that they succeed again, though no client asks for one."""
    make_store(disk.outside / "store")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    socket_path = tmp_path / "admin.sock"
    settings = tables_over(disk.mounted / "store") | {
        "http": {"enabled": True, "port": port},
        "admin": {"socket": str(socket_path)},
    }
    serials = itertools.count()

    def pown() -> int:
        change = pown_payload((coin, default_an(coin), an_of(coin)) for coin in many(serials))
        return ask(node.endpoint, POWN, change)[0]

    refused = 0
    reason = "the store cannot be written: No space left on device"
    with started_daemon(tmp_path, command=[*disk.enter, *SERVE], **settings) as node:
        node.await_ready()
        assert http_ask(url, "/readyz").status == 200
        disk.fill()
        while (answered := pown()) == Status.ALL_PASS:
            pass
        assert answered == Status.FILESYSTEM
        refused += 1
        eventually(lambda: http_ask(url, "/readyz").status == 503)  # noted after the reply
        assert http_ask(url, "/readyz").text == f"{reason}\n"
        for _ in range(20):
            assert pown() == Status.FILESYSTEM
            refused += 1
            # A ticket is kept in memory.
            ticket, _ = ask(node.endpoint, GET_TICKET, coins_ans({(5, 1): default_an((5, 1))}))
            assert ticket == Status.ALL_PASS
            assert http_ask(url, "/readyz").text == f"{reason}\n"
        seen = scrape(url)
        assert sample_value(seen, "raida_store_writable") == 0
        assert sample_value(seen, "raida_commit_failures_total") >= 21
        assert sample_value(seen, "raida_store_disk_free_bytes") < 1 << 20
        assert sample_value(seen, "raida_ready") == 0
        assert status_json(url)["node"]["unready"] == [reason]
        told = result_of(socket_path, "status")
        assert told["unready"] == [reason]
        assert f"NOT READY: {reason}" in top.render(told, None, 200, 100)
        disk.free()
        eventually(lambda: http_ask(url, "/readyz").status == 200)
        seen = scrape(url)
        assert sample_value(seen, "raida_store_writable") == 1
        assert sample_value(seen, "raida_store_disk_free_bytes") > 1 << 20
        assert result_of(socket_path, "status")["unready"] == []
        assert pown() == Status.ALL_PASS
        node.signal(signal.SIGTERM)
        assert node.process.wait(STOP_TIMEOUT_S) == 0
        said = node.stderr()
    counted = re.findall(r"No space left on device: (\d+) requests? answered 194", said)
    assert sum(map(int, counted)) == refused
    assert len(counted) < refused
    assert said.count("can be changed again") == 1


def test_a_disk_that_takes_a_part_of_a_segment_is_full(tmp_path: Path, disk: Disk) -> None:
    """And gets that part back, so that others can go on."""
    make_store(disk.outside / "store")
    command = [*disk.enter, *SERVE]
    serials = itertools.count()

    def pown() -> int:
        change = pown_payload((coin, default_an(coin), an_of(coin)) for coin in many(serials))
        return ask(node.endpoint, POWN, change)[0]

    with started_daemon(tmp_path, command=command, **tables_over(disk.mounted / "store")) as node:
        node.await_ready()
        disk.fill()
        disk.leave(1 << 20)
        while (answered := pown()) == Status.ALL_PASS:
            pass
        assert answered == Status.FILESYSTEM
        eventually(lambda: "cannot be changed: No space left on device" in node.stderr())
        disk.free()
        assert pown() == Status.ALL_PASS
        journal = disk.outside / "store" / "journal"
        eventually(lambda: not list(journal.glob("unfinished-*")))  # the next one is being made
        node.signal(signal.SIGTERM)
        assert node.process.wait(STOP_TIMEOUT_S) == 0


def test_a_full_disk_refuses_changes_and_loses_none(tmp_path: Path, disk: Disk) -> None:
    make_store(disk.outside / "store")
    settings = tables_over(disk.mounted / "store")
    command = [*disk.enter, *SERVE]
    kept = {(0, 0): default_an((0, 0))}
    pages = {0}
    serials = itertools.count()

    def pown_until_refused(node: Daemon) -> list[Coin]:
        """Many coins at once, so that the journal must grow soon."""
        while True:
            coins: list[Coin] = [*many(serials), (3, 1024), (3, 1025)]
            new = {coin: an_of("new", coin, coins[0]) for coin in coins}
            changes = [(coin, kept.get(coin, default_an(coin)), new[coin]) for coin in coins]
            answered, _ = ask(node.endpoint, POWN, pown_payload(changes))
            if answered != Status.ALL_PASS:
                assert answered == Status.FILESYSTEM
                return coins[-3:]
            kept.update((coin, new[coin]) for coin in coins[-3:])
            pages.update(map(page_of_coin, coins))

    def is_as_before(node: Daemon, refused: Sequence[Coin]) -> None:
        assert detects(node.endpoint, kept)
        old = {coin: kept.get(coin, default_an(coin)) for coin in refused}
        assert detects(node.endpoint, old)

    with started_daemon(tmp_path, command=command, **settings) as node:
        node.await_ready()
        disk.fill()
        refused = pown_until_refused(node)
        is_as_before(node, refused)
        assert pown_until_refused(node)  # and again
        is_as_before(node, refused)
        disk.free()
        coin: Coin = (4, len(kept))
        change = pown_payload([(coin, default_an(coin), an_of(coin))])
        assert ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS
        kept[coin] = an_of(coin)
        is_as_before(node, refused)
        disk.fill()
        refused = pown_until_refused(node)
        node.kill()
    with started_daemon(tmp_path, command=command, **settings) as node:
        node.await_ready()
        is_as_before(node, refused)
        assert ask(node.endpoint, DETECT, coins_ans({(0, 0): bytes(16)}))[0] == Status.ALL_FAIL
        disk.free()
        coin = (4, 5000)
        change = pown_payload([(coin, default_an(coin), an_of(coin))])
        assert ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS
        kept[coin] = an_of(coin)
        assert all_roots(node.endpoint) != bytes(480)
    with daemon(tmp_path, command=command, **settings) as node:
        assert detects(node.endpoint, kept)
        said = all_roots(node.endpoint)
    assert said == stored_roots(disk.outside / "store", pages | set(map(page_of_coin, kept)))
