"""Either process of an upgrade is killed at each stage of the table LIFE.

What must hold: whoever is left serves everything, or a restart does; nothing acknowledged is lost,
no reply is wrong or a refusal, changes go on, tickets live as long as the memory they are in, and
the roots become those of the pages.

The process whose stage it is waits there (tests/support/upgrade_hold.py), with its data plane at
work. `make upgrades` kills when the stage has been entered as well, before what the table names was
done.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from raida_uring.client import Client, Coin, calls
from raida_uring.node.life import LIFE, Event, Stage
from raida_uring.protocol import Status
from raida_uring.store import Store
from tests.support.coin_requests import default_an
from tests.support.handlers import UNTIL
from tests.support.net import PATIENCE
from tests.support.node import HANDLERS, Daemon, eventually, told
from tests.support.store import MAP_BYTES, make_store, tables_over
from tests.support.upgrade import (
    ANSWER_TIMEOUT_S,
    UPGRADES,
    gone,
    read_reply,
    roots_are_true,
    serves_admin,
    start_again,
    states,
    successor_of,
    upgradable,
)
from tests.support.upgrade_wallets import Load, LoadThread
from tests.support.wire import RAIDA_ID, request, status

PREDECESSOR, SUCCESSOR, NOBODY = "predecessor", "successor", "nobody"
ENTERED, SETTLED = "entered", "settled"
PATIENCE_S = 30 * PATIENCE
LONG = UPGRADES >= 10
COIN: Final = Coin(-1, 7, default_an((-1, 7)))  # with tickets of the test's own


class Trial:
    """One kill: the predecessor, the successor once it runs, and where they are held."""

    def __init__(
        self, node: Daemon, directory: Path, predecessor: int, at: tuple[str, Stage, str]
    ) -> None:
        """at: role and stage of the process that is held, and the moment."""
        self.node = node
        self.directory = directory
        self.processes = {PREDECESSOR: predecessor}
        self.role, self.stage, self.moment = at
        self._held: socket.socket | None = None
        (directory / "before").write_text(str(predecessor))
        told(node.notify)  # or its queue would be full after ten lines
        self._serving = node.stderr().count("serving on")

    def hold(self, role: str, stage: Stage, moment: str) -> None:
        """Have the process in that role wait at a moment of a stage; it leaves where it is held."""
        (self.directory / f"held-{role}").unlink(missing_ok=True)
        plan = self.directory / "plan"
        plan.write_text(f"{stage.name} {moment}")
        plan.rename(self.directory / f"hold-{role}")  # the process looks at any time

    def aim(self) -> None:
        """Have the process whose stage it is wait there from now on."""
        self.hold(self.role, self.stage, self.moment)

    def await_held(self, role: str) -> None:
        """Until the process in that role is where hold() wants it."""
        held = self.directory / f"held-{role}"
        eventually(lambda: held.exists() and bool(held.read_text()), PATIENCE_S, self.node.stderr)
        self.processes[role] = int(held.read_text())

    def release(self, role: str) -> None:
        """Let go of a process that is held, or of none."""
        (self.directory / f"hold-{role}").unlink(missing_ok=True)
        (self.directory / f"held-{role}").unlink(missing_ok=True)

    def upgrade(self) -> None:
        """Tell the predecessor to."""
        os.kill(self.processes[PREDECESSOR], signal.SIGUSR2)

    def await_successor(self) -> None:
        """Until it serves, too."""
        self.processes[SUCCESSOR] = successor_of(self.node, self.processes[PREDECESSOR])
        eventually(
            lambda: self.node.stderr().count("serving on") > self._serving,
            PATIENCE_S,
            self.node.stderr,
        )

    def occupy(self) -> None:
        """Give the predecessor a request that it has until the end, so that it does not leave."""
        self._held = socket.create_connection(self.node.endpoint, ANSWER_TIMEOUT_S)
        self._held.sendall(request(UNTIL, str(self.directory / "enough").encode()))
        eventually(lambda: "handler" in states(self.node, self.directory), what=self.node.stderr)

    def kill(self, role: str) -> None:
        """Until its parent can hear of its end."""
        os.kill(self.processes[role], signal.SIGKILL)
        eventually(lambda: gone(self.processes[role]), PATIENCE_S)

    def await_survivor(self, role: str) -> int:
        """Until the process in that role serves alone, or nobody is left; its id, or 0."""
        wanted = self.processes.get(role, 0)
        admin = self.directory / "admin.sock"

        def over() -> bool:
            left = [one for one in self.processes.values() if not gone(one)]
            return left == [wanted] and serves_admin(admin) == wanted if wanted else not left

        eventually(over, 2 * PATIENCE_S, self.node.stderr)
        return wanted

    def end(self) -> None:
        """Let go of everything. A request that its process could answer has been answered."""
        for role in (PREDECESSOR, SUCCESSOR):
            self.release(role)
        if self._held is not None:
            (self.directory / "enough").touch()
            with self._held:
                if not gone(self.processes[PREDECESSOR]):
                    assert status(read_reply(self._held)) == Status.SUCCESS
            (self.directory / "enough").unlink()
            self._held = None


# -- how a process comes to a stage ---------------------------------------------------------------


def _upgraded(trial: Trial) -> None:
    trial.aim()
    trial.upgrade()


def _busy(trial: Trial) -> None:
    """The predecessor stays in HANDING_OVER."""
    trial.aim()
    trial.occupy()
    trial.upgrade()


def _idle_or_busy(trial: Trial) -> None:
    """The predecessor has nothing to do if it must not leave then either."""
    (_upgraded if trial.moment == ENTERED else _busy)(trial)


def _late(trial: Trial) -> None:
    """The successor does not come up: where `start_timeout_s` is short, it is given up, but not
    before it can hear of that."""
    trial.hold(PREDECESSOR, Stage.STARTING, SETTLED)
    trial.hold(SUCCESSOR, Stage.FOLLOWING, ENTERED)
    trial.upgrade()
    trial.await_held(PREDECESSOR)
    trial.await_held(SUCCESSOR)
    trial.aim()


def _stopped(trial: Trial) -> None:
    """The predecessor is told to stop while the successor comes up."""
    _late(trial)
    os.kill(trial.processes[PREDECESSOR], signal.SIGTERM)


def _withdrawn(trial: Trial) -> None:
    """The successor is told to stop when both serve, and nothing is handed over yet."""
    trial.aim()
    trial.hold(PREDECESSOR, Stage.STARTING, SETTLED)
    trial.upgrade()
    trial.await_held(PREDECESSOR)
    trial.await_successor()
    os.kill(trial.processes[SUCCESSOR], signal.SIGTERM)


def _left(trial: Trial) -> None:
    """The successor dies when it serves, and the predecessor serves again."""
    trial.occupy()
    trial.upgrade()
    trial.await_successor()
    eventually(
        lambda: serves_admin(trial.directory / "admin.sock") == trial.processes[SUCCESSOR],
        PATIENCE_S,
        trial.node.stderr,
    )
    trial.aim()  # not before: it was at that stage until the upgrade, too
    trial.kill(SUCCESSOR)


@dataclass(frozen=True)
class Case:
    """How a process comes to a stage, and who serves when a victim is killed at each moment.

    at: by moment, victim to survivor; who is not named does not run then.
    """

    come: Callable[[Trial], None]
    at: Mapping[str, Mapping[str, str]]


def _both(serves: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    return {ENTERED: serves, SETTLED: serves}


# The other process serves, unless it is about to end or was told to.
OTHER: Final = {PREDECESSOR: SUCCESSOR, SUCCESSOR: PREDECESSOR}
CASES: Final[Mapping[tuple[str, Stage], Case]] = {
    (PREDECESSOR, Stage.STARTING): Case(
        _upgraded, {ENTERED: {PREDECESSOR: NOBODY}, SETTLED: OTHER}
    ),
    (PREDECESSOR, Stage.HANDING_OVER): Case(_idle_or_busy, _both(OTHER)),
    (PREDECESSOR, Stage.DISMISSING): Case(
        _late,
        {ENTERED: OTHER, SETTLED: {PREDECESSOR: NOBODY, SUCCESSOR: PREDECESSOR}},
    ),
    (PREDECESSOR, Stage.LEAVING): Case(
        _stopped,
        {
            ENTERED: {PREDECESSOR: SUCCESSOR, SUCCESSOR: NOBODY},
            SETTLED: {PREDECESSOR: NOBODY, SUCCESSOR: NOBODY},
        },
    ),
    (PREDECESSOR, Stage.ENDED): Case(_upgraded, _both({PREDECESSOR: SUCCESSOR, SUCCESSOR: NOBODY})),
    (PREDECESSOR, Stage.ALONE): Case(_left, _both({PREDECESSOR: NOBODY})),
    (SUCCESSOR, Stage.FOLLOWING): Case(_busy, _both(OTHER)),
    (SUCCESSOR, Stage.INHERITING): Case(_busy, _both(OTHER)),
    (SUCCESSOR, Stage.ALONE): Case(_upgraded, _both({SUCCESSOR: NOBODY})),
    (SUCCESSOR, Stage.LEAVING): Case(
        _withdrawn, _both({PREDECESSOR: NOBODY, SUCCESSOR: PREDECESSOR})
    ),
    (SUCCESSOR, Stage.ENDED): Case(
        _withdrawn, _both({PREDECESSOR: NOBODY, SUCCESSOR: PREDECESSOR})
    ),
}


def reached(start: Stage) -> set[Stage]:
    """Stages of an upgrade from `start` on; ALONE ends it."""
    found: set[Stage] = set()
    wanted = {start}
    while wanted:
        stage = wanted.pop()
        found.add(stage)
        if stage is not Stage.ALONE:
            nexts = {step.to for step in LIFE[stage].values() if step.to is not None}
            wanted |= nexts - found
    return found


@pytest.mark.any_backend
def test_every_stage_of_an_upgrade_has_its_kills() -> None:
    first = LIFE[Stage.ALONE][Event.UPGRADE].to
    assert first is not None
    stages = {(PREDECESSOR, stage) for stage in reached(first)}
    stages |= {(SUCCESSOR, stage) for stage in reached(Stage.FOLLOWING)}
    assert set(CASES) == stages


# -- the kills ------------------------------------------------------------------------------------


class Tickets:
    """One that a RAIDA has claimed when its process is killed."""

    def __init__(self, asked: Client) -> None:
        self._asked = asked
        ticket = asked.ask(calls.get_ticket([COIN])).require()
        assert ticket.number is not None
        self._number = ticket.number
        assert self._claim(1) == (Status.SUCCESS, (COIN.name,))

    def _claim(self, raida: int) -> tuple[int, object]:
        answer = self._asked.ask(calls.validate_ticket(raida, self._number))
        return answer.status, answer.value

    def check(self, *, lives_on: bool) -> None:
        """After the kill. lives_on: their memory does."""
        if lives_on:
            assert self._claim(1) == (Status.TICKET_CLAIMED_ALREADY, None)
            assert self._claim(2) == (Status.SUCCESS, (COIN.name,))
        else:
            assert self._claim(2) == (Status.NO_TICKET_FOUND, None)


def _kill(trial: Trial, victim: str) -> int:
    """Kill `victim` when a process is at the trial's moment; the process that serves then, 0 if
    none is to."""
    case = CASES[trial.role, trial.stage]
    case.come(trial)
    trial.await_held(trial.role)
    for other in {PREDECESSOR, SUCCESSOR} - trial.processes.keys():
        if other in case.at[trial.moment]:
            trial.processes[other] = successor_of(trial.node, trial.processes[PREDECESSOR])
    trial.kill(victim)
    for one in (PREDECESSOR, SUCCESSOR):
        trial.release(one)
    return trial.await_survivor(case.at[trial.moment][victim])


def _try(directory: Path, role: str, stage: Stage, kills: Sequence[tuple[str, str]]) -> None:
    """kills: moments and victims, one after the other."""
    store = make_store(directory / "store")
    modules: list[object] = [*HANDLERS["modules"], "tests.support.upgrade_hold"]
    tables: dict[str, dict[str, object]] = {
        **tables_over(store),
        "handlers": {"modules": modules},
        "log": {"requests_per_s": 0},
    }
    if stage is Stage.DISMISSING:
        tables["upgrade"] = {"start_timeout_s": 1}
    again: list[subprocess.Popen[bytes]] = []
    with upgradable(directory, **tables) as node:
        asked = Client(*node.endpoint, raida_id=RAIDA_ID, timeout_s=ANSWER_TIMEOUT_S)
        load = LoadThread(Load(node.endpoint, again=True, pause_s=0.005, tickets_per_s=5))
        process = node.process.pid
        load.start()
        try:
            for moment, victim in kills:
                eventually(lambda: load.went_on(1), ANSWER_TIMEOUT_S, node.stderr)
                tickets = Tickets(asked)
                trial = Trial(node, directory, process, (role, stage, moment))
                process = _kill(trial, victim)
                lives_on = process != 0
                if not lives_on:
                    load.load.life += 1
                    again.append(start_again(node, directory))
                    process = again[-1].pid
                trial.end()
                load.note()
                tickets.check(lives_on=lives_on)
                eventually(load.went_on, ANSWER_TIMEOUT_S, node.stderr)
            load.finish()
            eventually(lambda: roots_are_true(asked, store), ANSWER_TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            eventually(lambda: gone(process), ANSWER_TIMEOUT_S)
            for one in again:
                one.wait(ANSWER_TIMEOUT_S)
    with contextlib.closing(Store(store, map_bytes=MAP_BYTES, read_only=True)) as opened:
        for wallet in load.load.wallets:
            assert [opened.an(*name) for name in wallet.names] == wallet.ans


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("role", "stage"),
    [pytest.param(*one, id=f"{one[1].name}-of-the-{one[0]}") for one in CASES],
)
def test_a_process_is_killed(tmp_path: Path, role: str, stage: Stage) -> None:
    at = CASES[role, stage].at
    moments = (ENTERED, SETTLED) if LONG else (SETTLED,)
    _try(tmp_path, role, stage, [(moment, victim) for moment in moments for victim in at[moment]])


@pytest.mark.any_backend
def test_nothing_is_handed_over_to_a_successor_that_has_died(tmp_path: Path) -> None:
    """The predecessor would leave at once, and nobody would serve."""
    _try(tmp_path, PREDECESSOR, Stage.HANDING_OVER, [(ENTERED, SUCCESSOR)])
