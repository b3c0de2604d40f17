"""Two processes on one store: its coins in shared memory, its journal, its base.

What must hold: nothing that either has acknowledged is lost or undone, and what a read has seen
stays, whichever of them is killed at whatever moment; a predecessor that cannot be followed goes on
unchanged, able to write; what is passed on is not kept by those that have gone.
"""

import contextlib
import fcntl
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from raida_uring.client import Client as Client_
from raida_uring.client import Coin, calls
from raida_uring.errors import RaidaError, StoreError
from raida_uring.node.upgrade import ENVIRONMENT
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import default_an
from tests.support.command_line import environment, execute
from tests.support.net import PATIENCE
from tests.support.node import SERVE, Daemon, config_text, eventually, free_port, told
from tests.support.store import MAP_BYTES, make_store, table_of, tables_over
from tests.support.upgrade import (
    ANSWER_TIMEOUT_S,
    UPGRADES,
    answers,
    gone,
    roots_are_true,
    serves_admin,
    serving_process,
    start_again,
    successor_of,
    upgradable,
    upgrade,
)
from tests.support.wire import RAIDA_ID

LOST_TIMEOUT_S = 2.0 * PATIENCE  # a request that died with its process is never answered


def memory_of(process: int) -> tuple[int, int]:
    """Device and inode of the coins in memory that a process has open."""
    found = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if "raida-coins" in os.readlink(link):
                stat = link.stat()
                found.add((stat.st_dev, stat.st_ino))
    (one,) = found
    return one


def users_of(memory: tuple[int, int]) -> set[int]:
    """Processes that have these coins open or mapped."""
    users = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if (link.stat().st_dev, link.stat().st_ino) == memory:
                        users.add(process.pid)
            if f" {memory[1]} " in Path(f"/proc/{process.pid}/maps").read_text():
                users.add(process.pid)
    return users


def descriptors_of(process: int) -> list[str]:
    """What a process has open, without numbers that differ each time."""
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link).partition(":[")[0])
    return sorted(found)


def test_nothing_piles_up(tmp_path: Path) -> None:
    """Each successor has as many descriptors as the first one; the coins are the same memory, which
    goes with the last process."""
    with upgradable(tmp_path, **tables_over(make_store(tmp_path / "store"))) as node:
        upgrade(node)
        settled = descriptors_of(serving_process(node))
        memory = memory_of(serving_process(node))
        for _ in range(UPGRADES):
            upgrade(node)
            process = serving_process(node)
            eventually(
                lambda: descriptors_of(process) == settled,  # noqa: B023  called at once
                ANSWER_TIMEOUT_S,
                what=lambda: f"{descriptors_of(process)}, not {settled}",  # noqa: B023
            )
            assert memory_of(process) == memory
            eventually(lambda: users_of(memory) == {process}, ANSWER_TIMEOUT_S)  # noqa: B023
    eventually(lambda: users_of(memory) == set(), ANSWER_TIMEOUT_S)


# -- killed at any moment -------------------------------------------------------------------------


class Chain(threading.Thread):
    """Gives one coin one AN after the other. A request without an answer is sent again, as
    wallets do."""

    def __init__(self, node: Client_, den: int, sn: int) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.den = den
        self.sn = sn
        self.ans = [default_an((den, sn))]
        self.done = 0  # index of the AN that is acknowledged
        self.seen = 0  # of the newest that a read has seen
        self.unanswered = 0
        self.fault: str | None = None
        self.stopping = False

    def _is(self, step: int) -> bool:
        """Whether the coin has that AN. Raises OSError, RaidaError without an answer."""
        coin = Coin(self.den, self.sn, self.ans[step])
        answer = self.node.ask(calls.detect([coin]))
        if answer.status not in (Status.ALL_PASS, Status.ALL_FAIL):
            raise AssertionError(f"a read is answered {answer.status}")
        return answer.status == Status.ALL_PASS

    def run(self) -> None:
        try:
            while not self.stopping:
                self._step()
        except AssertionError as error:
            self.fault = f"coin {self.den}/{self.sn}: {error}"

    def _pown(self) -> int:
        """Ask for the next AN; the status. Raises OSError, RaidaError without an answer."""
        coin = Coin(self.den, self.sn, self.ans[self.done])
        return self.node.ask(calls.pown([(coin, self.ans[self.done + 1])])).status

    def _step(self) -> None:
        self.ans.append(secrets.token_bytes(16))
        try:
            answered = self._pown()
            assert answered == Status.ALL_PASS, f"step {self.done + 1} is answered {answered}"
        except (OSError, RaidaError):
            self.unanswered += 1
            self._ask_again()
        self.done += 1

    def _ask_again(self) -> None:
        """Until there is an answer: the request may have been done, or be done late, since it waits
        in the socket while nobody serves."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            seen = self.seen
            try:
                answered = self._pown()
                if answered == Status.ALL_PASS:
                    assert seen <= self.done, f"step {seen} was seen, {self.done} came back"
                else:
                    assert answered == Status.ALL_FAIL, f"answered {answered}"
                    assert self._is(self.done + 1), f"neither step {self.done} nor the next"
                return
            except (OSError, RaidaError):
                assert time.monotonic() < deadline, "no answer"

    def look(self) -> None:
        """Of another thread: note what a read sees."""
        step = len(self.ans) - 1
        with contextlib.suppress(OSError, RaidaError, IndexError):
            if self._is(step):
                self.seen = max(self.seen, step)

    def finish(self) -> None:
        self.stopping = True
        self.join(3 * ANSWER_TIMEOUT_S)
        assert not self.is_alive()
        assert self.fault is None, self.fault
        assert self.done >= self.seen


class Watcher(threading.Thread):
    """Reads the coins of all chains."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        super().__init__(daemon=True)
        self.chains = chains
        self.fault: str | None = None
        self.stopping = False

    def run(self) -> None:
        try:
            while not self.stopping:
                for one in self.chains:
                    one.look()
        except AssertionError as error:
            self.fault = str(error)


def noted(node: Daemon) -> int:
    """How often a node has gone on after all."""
    return len(re.findall("this node goes on|this node serves again", node.stderr()))


def kill_one(node: Daemon, admin: Path, before: int, draw: random.Random) -> int:
    """Have the process `before` replaced, and kill one of the two at a random moment; the process
    that serves alone then. 0: none, since a successor was killed when its predecessor had answered
    everything; a service manager starts the node again."""
    told(node.notify)  # or its queue would be full after ten lines
    stages = ("serving on", "upgrade: process", "stopping: up to", "took over")
    counts = {stage: node.stderr().count(stage) for stage in stages}
    notes = noted(node)
    os.kill(before, signal.SIGUSR2)
    child = successor_of(node, before)
    if draw.random() < 0.75:  # most of the time goes by before the first of them
        stage = draw.choice(stages)
        eventually(
            lambda: node.stderr().count(stage) > counts[stage], 30 * PATIENCE, what=node.stderr
        )
        time.sleep(draw.uniform(0, 0.02))  # the random moment
    else:
        time.sleep(draw.uniform(0, 1.0))
    victim = draw.choice((before, child))
    if victim == before or not gone(before):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    left: list[int] = []

    def over() -> bool:
        left[:] = [process for process in (before, child) if not gone(process)]
        if left == [before] and noted(node) == notes:
            return False  # it has not seen that yet
        return not left or (len(left) == 1 and serves_admin(admin) == left[0])

    eventually(over, 60 * PATIENCE, what=node.stderr)
    return left[0] if left else 0


def replace(node: Daemon, admin: Path, before: int) -> int:
    """Without a kill."""
    told(node.notify)
    os.kill(before, signal.SIGUSR2)
    eventually(lambda: gone(before), 60 * PATIENCE, what=node.stderr)
    eventually(lambda: serves_admin(admin) not in (0, before), ANSWER_TIMEOUT_S)
    return serves_admin(admin)


@pytest.mark.hang_timeout_s(120 * PATIENCE + 30 * UPGRADES)
@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_either_is_killed_at_any_moment(tmp_path: Path, durability: str) -> None:
    seed = int(os.environ.get("SEED", "4"))
    draw = random.Random(seed)
    store = make_store(tmp_path / "store")
    admin = tmp_path / "admin.sock"
    tables = tables_over(store, durability=durability) | {"log": {"requests_per_s": 0}}
    with upgradable(tmp_path, **tables) as node:
        host, port = node.endpoint
        asked = Client_(host, port, raida_id=RAIDA_ID, timeout_s=LOST_TIMEOUT_S)
        chains = [Chain(asked, den, 1024 * den) for den in (1, 2, 3)]
        watcher = Watcher(chains)
        for one in (*chains, watcher):
            one.start()
        again: list[subprocess.Popen[bytes]] = []
        # The first process is the one that the test waits for: it ends as it should.
        process = replace(node, admin, node.process.pid)
        try:
            for _ in range(2 * UPGRADES):
                process = kill_one(node, admin, process, draw)
                if not process:
                    again.append(start_again(node, tmp_path))
                    process = again[-1].pid
                done = [one.done for one in chains]
                eventually(
                    lambda: all(
                        one.fault or one.done > before
                        for one, before in zip(chains, done, strict=True)  # noqa: B023  called at once
                    ),
                    ANSWER_TIMEOUT_S,
                    what=node.stderr,
                )
            watcher.stopping = True
            watcher.join(ANSWER_TIMEOUT_S)
            assert watcher.fault is None
            for one in chains:
                one.finish()
            steps = [one.done for one in chains]
            print(f"seed {seed}: {steps} steps, {[one.unanswered for one in chains]} unanswered")
            assert answers(node)
            eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)
            assert "Traceback" not in node.stderr()
        finally:
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
                eventually(lambda: gone(process), ANSWER_TIMEOUT_S)
            for ended in again:
                ended.wait(ANSWER_TIMEOUT_S)
    with contextlib.closing(Store(store, map_bytes=MAP_BYTES, read_only=True)) as opened:
        for one in chains:
            assert opened.an(one.den, one.sn) == one.ans[one.done]


# -- a predecessor that cannot be followed --------------------------------------------------------


@pytest.mark.parametrize(
    ("memory_bytes", "why"),
    [
        (None, "the running node has its coins on disk only"),
        (4096, "the memory of the coins is another version's"),
        (0, "the memory of the coins is another version's"),
        (-1, "the writer's lock file in the journal was removed or replaced"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    tmp_path: Path, memory_bytes: int | None, why: str
) -> None:
    """A predecessor of version 0.2, and one whose coins lie otherwise in memory (of another size
    or, with 0, with another beginning); with -1, one that locks another file than the successor
    would while it writes, so that both could at once: one line, and it goes on."""
    path = make_store(tmp_path / "store")
    tables: dict[str, dict[str, object]] = {
        "server": {"port": free_port()},
        "store": table_of(path),
    }
    (tmp_path / "node.toml").write_text(config_text(tables))
    with (
        contextlib.closing(Store(path, map_bytes=MAP_BYTES)) as store,
        contextlib.ExitStack() as left,
    ):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        left.enter_context(ours)
        left.enter_context(theirs)
        words = {"sockets": [], "owner": store.owner, "shared": False, "channel": theirs.fileno()}
        passed = [store.owner, theirs.fileno()]
        if memory_bytes == -1:
            (path / "journal" / "writer").unlink()
            words["memory"] = store.memory
            passed.append(store.memory)
        elif memory_bytes is not None:
            size = memory_bytes or os.fstat(store.memory).st_size
            memory = os.memfd_create("other", os.MFD_ALLOW_SEALING)
            left.callback(os.close, memory)
            os.truncate(memory, size)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            words["memory"] = memory
            passed.append(memory)
        refused = execute(
            *SERVE,
            "--config",
            "node.toml",
            cwd=tmp_path,
            env=environment(**{ENVIRONMENT: json.dumps(words)}),
            pass_fds=passed,
        )
        assert refused.returncode == 2, refused.stderr
        assert sum(why in line for line in refused.stderr.splitlines()) == 1
        assert why in ours.recv(65536).decode()
        assert "Traceback" not in refused.stderr
        if memory_bytes == -1:  # it has noticed by itself
            with pytest.raises(StoreError, match="journal/writer was removed"), store.write():
                pass
            return
        with store.write() as coins:
            coins.set(bytes((1, 0, 0, 0, 7)) + bytes(16), 1, 21, 5)
        assert store.an(1, 7) == bytes(16)
