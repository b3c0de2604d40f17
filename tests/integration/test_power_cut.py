"""Power cuts: from recordings of everything that a node's file system told its disk.

What must hold after a cut at any moment, whatever a disk has kept of the writes since its last
flush: the store is correct and a node starts on it; of a change, the coins have all moved or none;
what was acknowledged, or seen by a reader, is there. With durability "interval" that is certain
only after a while. Where the disk or the node forgets flushes, the same checks fail.
CUTS in the environment says how many there are; the seed is in the tests' output.
"""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raida_uring.errors import StoreError
from raida_uring.store import Store
from raida_uring.store.verify import verify
from tests.support.coin_requests import (
    all_roots,
    detects,
    page_of_coin,
    stored_ans,
    stored_roots,
)
from tests.support.command_line import run_script
from tests.support.node import SERVE, Daemon, confined, daemon, eventually
from tests.support.power import (
    MOMENTS,
    Loss,
    Machine,
    Player,
    Recording,
    copy,
    machine,
    make_disk,
    moments,
    recorded,
    recording,
)
from tests.support.power_clients import MONTH, RECORD_BYTES, Known, Owner, drive, owners
from tests.support.store import MAP_BYTES, Coin, coin_bytes, make_store, tables_over

CUTS = int(os.environ.get("CUTS", "16"))
SEED = int(os.environ.get("SEED", "5"))
CONTROL_CUTS = max(10, CUTS // 8)
CUTS_OF_LIFE_MAX = 30
NODES = 10  # one cut in so many has a node start on what is left
CHANGES = 400  # of a recording, at least
SERVING_S = 2.5  # likewise: two checkpoints, and what is certain with "interval"
CHECKPOINT_S = 1
SYNC_MS = 200
LOSSES: tuple[Loss, ...] = ("all", "none", "some", "some", "torn", "torn")


@dataclass
class Cuts:
    """Cuts of one recording, and what became of them."""

    made: Machine
    source: Recording
    clients: Sequence[Owner]
    directory: Path
    waits: bool = True  # what is acknowledged is certain at once
    others: Sequence[Coin] = ()  # changed coins, one of a page at least, that no client has
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    nodes: int = 0
    seconds: float = 0.0

    def coins(self) -> list[Coin]:
        """Of all clients."""
        return [coin for one in self.clients for coin in one.coins]

    def play(
        self,
        count: int,
        draw: random.Random,
        *,
        at: Sequence[str] = MOMENTS,
        losses: Sequence[Loss] = LOSSES,
        keeps: int = 1,
    ) -> None:
        """Cut so often, and note what is found wrong."""
        player = Player(self.made, self.source, keeps=keeps)
        known = Known(self.clients, self.source.events, waits=self.waits, interval_s=SYNC_MS / 1000)
        found = ((moment, moments(self.source.events, moment)) for moment in at)
        possible = {moment: events for moment, events in found if events}
        chosen = [moment for moment, _ in zip(itertools.cycle(possible), range(count))]
        began = time.monotonic()
        for before, moment in sorted((draw.choice(possible[moment]), moment) for moment in chosen):
            loss = draw.choice(losses)
            image = player.cut(before, loss, draw)
            self.kinds[moment] += 1
            self.kinds[loss] += 1
            number = sum(self.kinds[one] for one in at)
            try:
                self.examine(image, known, before, starts=keeps == 1 and number % NODES == 0)
            except (AssertionError, StoreError) as fault:
                self.faults.append(f"{moment}, {loss}, before event {before}: {fault}")
        self.seconds += time.monotonic() - began

    def examine(self, image: Path, known: Known, before: int, *, starts: bool) -> None:
        """Check what a cut has left."""
        with self.made.mounted(image, "cut") as mounted:
            store = mounted / "store"
            assert verify(store) == []
            found = stored_ans(store, self.coins())
            known.check(before, found)
            with closing(Store(store, map_bytes=MAP_BYTES)) as opened, opened.read() as view:
                assert {coin: view.an(*coin) for coin in found} == found
            if starts:
                self.nodes += 1
                self.start(store, found)

    def start(self, store: Path, found: dict[Coin, bytes | None]) -> None:
        """Have a node start on it, and compare what it says."""
        roots = stored_roots(store, map(page_of_coin, (*found, *self.others)))
        with node(self.made, self.directory, "cut") as served:
            assert all_roots(served.endpoint) == roots
            for one in self.clients:
                assert detects(served.endpoint, {coin: found[coin] or b"" for coin in one.coins})
        assert verify(store) == []
        assert stored_ans(store, found) == found

    def next_life(self, draw: random.Random) -> list[Owner]:
        """Leave `next`, an image after a cut; returns the clients as they are then."""
        before = draw.randrange(1, len(self.source.events) + 1)
        image = Player(self.made, self.source).cut(before, "some", draw)
        copy(self.made.outside / image.name, self.made.outside / "next")
        with self.made.mounted(image, "cut") as mounted:
            found = stored_ans(mounted / "store", self.coins())
        return [one.settled(found) for one in self.clients]

    def tell(self, what: str) -> None:
        """Print what was done; fails with every fault."""
        count = sum(self.kinds[moment] for moment in MOMENTS)
        kinds = ", ".join(f"{name} {self.kinds[name]}" for name in (*MOMENTS, *sorted(set(LOSSES))))
        print(
            f"{what}, seed {SEED}: {count} cuts of {len(self.source.events)} events ({kinds}), "
            f"{self.nodes} nodes started, {len(self.faults)} faults, {self.seconds / count:.2f} s "
            "each"
        )
        assert not self.faults, "\n".join(self.faults)


def node(
    made: Machine, directory: Path, disk: str, command: Sequence[str] = SERVE, **more: object
) -> AbstractContextManager[Daemon]:
    """A daemon on the store of a mounted disk. more: keys of [store]."""
    settings: dict[str, Any] = {"checkpoint_interval_s": CHECKPOINT_S} | more
    tables = tables_over(made.inside / disk / "store", **settings)
    return daemon(directory, command=[*made.enter, *command], **tables)


def record(
    made: Machine,
    directory: Path,
    image: str,
    clients: Sequence[Owner],
    command: Sequence[str] = SERVE,
    **more: object,
) -> Recording:
    """A node's life on the disk `image`."""
    name = f"{image}-recorded"
    with (
        recorded(made, image, name) as disk,
        node(made, directory, "disk", command, **more) as served,
    ):
        drive(served.endpoint, clients, disk.note, changes=CHANGES, seconds=SERVING_S)
    return recording(made, name)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Machine]:
    """Where disks are recorded and cut."""
    with machine(tmp_path / "machine") as new:
        yield new


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """What is on a new disk: a store that was never served."""
    path = tmp_path / "content"
    path.mkdir()
    make_store(path / "store")
    return path


def assert_caught(cuts: Cuts, what: str, *, keeps: int = 1) -> None:
    """The checks find most cuts of a control wrong."""
    cuts.play(
        CONTROL_CUTS,
        random.Random(SEED),
        at=("told",),
        losses=("none",),
        keeps=keeps,
    )
    lost = sum("is certain" in fault for fault in cuts.faults)
    print(
        f"control, {what}: {len(cuts.faults)} of {CONTROL_CUTS} cuts caught, {lost} of them by "
        "what clients knew"
    )
    assert len(cuts.faults) > CONTROL_CUTS // 2


@pytest.mark.hang_timeout_s(120 + 4 * CUTS)
@pytest.mark.any_backend
@pytest.mark.parametrize(("durability", "share"), [("commit", 0.6), ("interval", 0.25)])
def test_what_is_certain_survives_power_cuts(
    tmp_path: Path, made: Machine, content: Path, durability: str, share: float
) -> None:
    """Each life after the first begins with what a cut has left of the one before. As controls the
    first one is judged as if its disk did each 16th flush alone, or, with "interval", as if what is
    acknowledged were certain."""
    draw, left = random.Random(SEED), round(CUTS * share)
    make_disk(made, "first", content)
    image, clients = "first", owners()
    while left > 0:
        source = record(
            made, tmp_path, image, clients, durability=durability, sync_interval_ms=SYNC_MS
        )
        cuts = Cuts(made, source, clients, tmp_path, waits=durability == "commit")
        count = min(left, CUTS_OF_LIFE_MAX)
        cuts.play(count, draw)
        cuts.tell(f"durability {durability}")
        left -= count
        if image == "first" and durability == "commit":
            control = Cuts(made, source, clients, tmp_path)
            assert_caught(control, "a disk that forgets flushes", keeps=16)
        elif image == "first":
            control = Cuts(made, source, clients, tmp_path)
            assert_caught(control, "a node that acknowledges before its flush")
        if left > 0:
            clients, image = cuts.next_life(draw), "next"


@pytest.mark.any_backend
def test_a_node_that_forgets_flushes_is_caught(
    tmp_path: Path, made: Machine, content: Path
) -> None:
    """Those of journal and base; the file system does its own."""
    make_disk(made, "first", content)
    clients = owners()
    source = record(made, tmp_path, "first", clients, confined("refuse_flushes(0)"))
    assert_caught(Cuts(made, source, clients, tmp_path), "a node that forgets flushes")


# -- what is left behind --------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.power import machine, make_disk, recorded

directory = Path(sys.argv[1])
with machine(directory / "machine") as made:
    make_disk(made, "first", directory / "content")
    with recorded(made, "first", "killed") as disk:
        print(made.namespace, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def users_of(namespace: int) -> list[str]:
    """The processes in a mount namespace, by its inode."""
    found = []
    for one in Path("/proc").glob("[0-9]*/ns/mnt"):
        with suppress(OSError):  # it has ended
            if one.stat().st_ino == namespace:
                found.append(one.parts[2])
    return found


@pytest.mark.any_backend
def test_a_killed_run_leaves_nothing(tmp_path: Path, made: Machine, content: Path) -> None:
    """The mounts go with the processes that can see them."""
    (tmp_path / "killed").mkdir()
    content.rename(tmp_path / "killed" / "content")
    ended = run_script(KILLED, tmp_path / "killed")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    eventually(lambda: not users_of(int(ended.stdout)))


# -- segments that are used again ------------------------------------------------------------------

# In one entry of 2 MB; none is a client's. Ten requests: one has at most 13,107 coins.
FILLING = [[(den, 500_000 + serial) for serial in range(10_000)] for den in range(-8, 2)]


def turn(store: Store, change: Callable[[], None]) -> int:
    """Change coins until the journal goes on in another segment; how often."""
    used = store.native.progress().journal_segments
    for count in range(10_000):
        if store.native.progress().journal_segments > used:
            return count
        change()
    raise AssertionError("the journal stays in its segment")


def segments(store: Store) -> list[int]:
    """The files of the journal, oldest first, by their inodes."""
    return [one.stat().st_ino for one in sorted((store.path / "journal").glob("*.journal"))]


def fill_journal(path: Path) -> None:
    """Have the journal near the end of a segment, and one behind it that was used before. A
    checkpoint right after a turn uses the oldest again: none is prepared yet."""
    # In turn, since what is equal is not written again.
    filling = itertools.cycle(
        [b"".join(coin_bytes(coin) + an for coin in part) for part in FILLING]
        for an in (bytes(16), bytes([1]) * 16)
    )
    with closing(Store(path, map_bytes=MAP_BYTES)) as store:

        def change() -> None:
            with store.write() as view:
                for part in next(filling):
                    view.set(part, len(part) // RECORD_BYTES, RECORD_BYTES, MONTH)

        for _ in range(4):  # the first ones are small
            entries = turn(store, change)
            store.checkpoint(pause_s=0)
        for _ in range(entries - 3):
            change()


@pytest.mark.hang_timeout_s(120 + 4 * CUTS)
@pytest.mark.any_backend
def test_segments_used_again_survive_power_cuts(
    tmp_path: Path, made: Machine, content: Path
) -> None:
    """Without a node, which seldom does so: what the segment had must not be taken for new."""
    fill_journal(content / "store")
    make_disk(made, "first", content)
    clients = owners()
    with (
        recorded(made, "first", "reuse") as disk,
        closing(Store(made.outside / "disk" / "store", map_bytes=MAP_BYTES)) as store,
    ):
        turning = itertools.cycle(clients)
        turn(store, lambda: next(turning).commit(store, disk.note))
        for _ in range(CHANGES // 4):
            next(turning).commit(store, disk.note)
        oldest = segments(store)[0]
        store.checkpoint(pause_s=0)
        assert segments(store)[-1] == oldest, "it was not used again"
        for _ in range(CHANGES // 4):
            next(turning).commit(store, disk.note)
    others = list(itertools.chain(*FILLING))
    cuts = Cuts(made, recording(made, "reuse"), clients, tmp_path, others=others)
    cuts.play(round(CUTS * 0.15), random.Random(SEED))
    cuts.tell("segments used again")
