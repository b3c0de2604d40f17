"""Holds the main thread of a node at a stage of its life until a test lets go of it.

Imported by the nodes under test as a module of `[handlers]`, by the successor while it comes up; a
test names it alone. The rest of the node goes on: it is the real process at that stage, and stays
there for as long as the test wants. Steered by files in the node's working directory:

    before            process id of the predecessor; all others are successors
    hold-ROLE         STAGE and moment at which the process in that role waits, while this is so
    held-ROLE         its process id, once it does

Moments: `entered`, the stage is set and nothing that the table names was done yet; `settled`, all
of it was done.
"""

import os
import time
from pathlib import Path

from raida_uring.handlers import Reply, Request, command
from raida_uring.node.daemon import Daemon
from raida_uring.node.life import Action as Action
from raida_uring.node.life import Event, Life, Stage
from raida_uring.node.upgrade import ENVIRONMENT

ENTERED, SETTLED = "entered", "settled"

_happen, _next, _end = Life.happen, Daemon._next, Daemon._end


def _read(name: str) -> str:
    try:
        return Path(name).read_text()
    except FileNotFoundError:
        return ""


def wait(stage: Stage, moment: str) -> None:
    """As long as the test wants this process to."""
    role = "predecessor" if _read("before") == str(os.getpid()) else "successor"
    wanted = f"{stage.name} {moment}"
    if _read(f"hold-{role}") != wanted:
        return
    Path(f"held-{role}").write_text(str(os.getpid()))
    while _read(f"hold-{role}") == wanted:
        time.sleep(0.005)  # between looks


def _happen_slowly(self: Life, happened: Event) -> tuple[Action, ...]:
    before = self.stage
    actions = _happen(self, happened)
    if self.stage is not before:
        wait(self.stage, ENTERED)
    return actions


def _next_slowly(self: Daemon) -> Event | None:
    wait(self._life.stage, SETTLED)
    return _next(self)


def _end_slowly(self: Daemon) -> None:
    try:
        _end(self)
    finally:
        wait(self._life.stage, SETTLED)


Life.happen = _happen_slowly  # type: ignore[method-assign]
Daemon._next = _next_slowly  # type: ignore[method-assign]
Daemon._end = _end_slowly  # type: ignore[method-assign]
if ENVIRONMENT in os.environ:
    wait(Stage.FOLLOWING, ENTERED)


@command(group=6, code=201)
def nothing(request: Request, node: object) -> Reply:
    """A module of [handlers] has a command."""
    return Reply()
