"""Upgrades, seen by the node that is replaced: start a successor, hand over, or go on without.

Thread: main, but for ask(). upgrade.py has what the two processes say to each other.
"""

import contextlib
import dataclasses
import errno
import os
import queue
import signal
from collections.abc import Callable

from raida_uring.errors import EngineError, RaidaError, StartError
from raida_uring.log import events
from raida_uring.node.life import Event, Stage
from raida_uring.node.server import Server
from raida_uring.node.upgrade import Successor, how_ended

Outcome = int | StartError
"""Of an upgrade: the successor's process id, or why there is none."""


class Succession:
    """At most one successor, and whoever waits for the outcome."""

    def __init__(self, server: Server, post: Callable[[Event], None]) -> None:
        """post: takes an event that happens next."""
        self._server = server
        self._post = post
        self._successor: Successor | None = None  # starting, dismissed or in charge: see the stage
        self._reason = StartError("")  # why the successor is dismissed
        self._last_word: Outcome | None = None  # for whoever asks too late
        self._asked: queue.SimpleQueue[queue.SimpleQueue[Outcome]] = queue.SimpleQueue()

    def ask(self) -> "queue.SimpleQueue[Outcome]":
        """A queue that gets the outcome of the upgrade under way or about to begin. Any thread."""
        answer: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._asked.put(answer)
        if self._last_word is not None:
            self._answer(self._last_word)
        return answer

    def _answer(self, outcome: Outcome) -> None:
        """Any thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait().put(outcome)

    def refuse_from_now_on(self, reason: StartError) -> None:
        """Answer whoever asks, now and later."""
        self._last_word = reason
        self._answer(reason)

    # -- a successor that starts -------------------------------------------------------------------

    def start(self) -> None:
        """Start the successor."""
        events.UPGRADE_BEGUN.log()
        try:
            self._successor = self._server.start_successor()
        except RaidaError as error:
            self._reason = StartError(str(error))
            self._post(Event.FAILED)

    def look(self) -> Event | None:
        """In STARTING: READY or FAILED once that is certain."""
        if self._successor is None:
            return None
        try:
            return Event.READY if self._successor.serves() else None
        except StartError as error:
            self._reason = error
            return Event.FAILED

    def note_upgrade(self, stage: Stage) -> None:
        """Log why no further upgrade begins: whoever asked by a signal hears of it only there."""
        why = "leaving already"
        if stage is Stage.STARTING:
            why = "a successor is starting already"
        elif stage is Stage.HANDING_OVER and self._successor is not None:
            why = f"process {self._successor.pid} serves already, ask that"
        events.UPGRADE_UNDER_WAY.log(why=why)

    # -- a successor that is not wanted ------------------------------------------------------------

    def give_up(self) -> None:
        """Dismiss the successor; this node goes on."""
        events.UPGRADE_FAILED.log(reason=self._reason)
        self._dismiss()

    def call_off(self, cause: RaidaError | None) -> None:
        """Dismiss the successor; this node ends too. cause: None if it was asked to."""
        self._reason = StartError(
            "this node was told to stop meanwhile"
            if cause is None
            else f"this node has failed meanwhile: {cause}"
        )
        events.UPGRADE_CANCELLED.log(reason=self._reason)
        self._dismiss()

    def _dismiss(self) -> None:
        if self._successor is not None:
            self._successor.abandon(self._server.config.network.drain_timeout_ms / 1000)
        self._answer(self._reason)

    def dismissed(self, *, kill: bool = False) -> bool:
        """Whether a dismissed successor has ended, or there is none. kill: do not wait for it."""
        if self._successor is not None:
            if not self._successor.gone(kill=kill):
                return False
            self._successor = None
            self._server.forget_successor()
        return True

    # -- a successor that serves -------------------------------------------------------------------

    def died(self) -> bool:
        """Whether it has ended since it said that it serves; posts FAILED then. A node that has
        nothing in hand would leave for it in a moment."""
        status = self._serving.status
        if status is None:
            return False
        self._reason = StartError(f"the successor {how_ended(status)} before anything was its own")
        self._post(Event.FAILED)
        return True

    def announce(self) -> int:
        """Tell whoever asked that the successor serves; its process id."""
        pid = self._serving.pid
        events.UPGRADE_DONE.log(pid=pid)
        if self._server.phase == "serving":
            self._last_word = pid
            self._answer(pid)
        return pid

    def hand_over(self, timeout_ms: int) -> None:
        """Leave the sockets to the successor and answer what was received, for so long at most."""
        self._serving.release()
        self._server.begin_hand_over(self._serving, timeout_ms)

    @property
    def _serving(self) -> Successor:
        assert self._successor is not None  # noqa: S101  for the type checker: READY tells of one
        return self._successor

    @property
    def lost(self) -> bool:
        """Whether the successor that this node hands over to has ended."""
        return self._successor is not None and self._successor.status is not None

    def reload(self) -> None:
        """Have the successor reload."""
        if self._successor is not None and self._successor.status is None:
            os.kill(self._successor.pid, signal.SIGHUP)

    def take_back(self) -> None:
        """Serve again, if the data plane can still take up what it had left."""
        try:
            self._server.take_back()
        except RaidaError:
            return  # too late: finish() says so
        self._post(Event.BACK)

    def forget_lost(self) -> int | None:
        """This node serves again; how the successor ended, as Successor.status."""
        successor, self._successor = self._successor, None
        ended = None if successor is None else successor.status
        if successor is not None:
            successor.channel.close()
        self._last_word = None
        events.SUCCESSOR_LOST.log(how=how_ended(ended or 0), status=ended)
        return ended

    def finish(self) -> EngineError | None:
        """This node has answered everything: pass on its counters. What has failed if the successor
        has ended meanwhile, and with it the service: a service manager is to start it again."""
        if self._successor is None:
            return None
        self._successor.finish(dataclasses.asdict(self._server.stats()))
        ended = self._successor.status
        if not ended:
            return None
        return EngineError(errno.ESRCH, f"the successor {how_ended(ended)} and this node had left")
