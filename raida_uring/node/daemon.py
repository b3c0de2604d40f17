"""A node as a process: signals, reload, upgrade, from the start to the end.

The node itself (server.py) runs on threads of its own. The main thread hears of events, one after
another, and does the actions that the table of life.py names for the current stage.
"""

import errno
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from raida_uring import log, threads
from raida_uring.addresses import format_endpoint
from raida_uring.admin.node import Reloaded
from raida_uring.config import Config
from raida_uring.errors import EngineError, RaidaError, StartError, ToldToStopError
from raida_uring.log import events
from raida_uring.node import hint, operators, servicemanager
from raida_uring.node.inbox import Inbox
from raida_uring.node.life import POLLED, Action, Event, Life, Stage
from raida_uring.node.operators import Operators
from raida_uring.node.patience import Patience
from raida_uring.node.reload import Reload
from raida_uring.node.resources import Resources
from raida_uring.node.server import Server
from raida_uring.node.servicemanager import Service
from raida_uring.node.succession import Outcome, Succession
from raida_uring.node.upgrade import Takeover

IDLE_S: Final = 1.0  # between looks for what nobody reports ...
LOOK_S: Final = 0.02  # ... and while something is under way
DUPLICATE_S: Final = 0.05  # timeout(1) signals a process, and then its process group


class Daemon:
    """A server in its own process: signals, admin socket, reload, upgrade.

    Thread: the main one, but for reload(), begin_drain() and begin_upgrade().
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None = None,
        file: Path | None = None,
    ) -> None:
        """reread: reads the configuration again; None where there is no file to read. file: that
        file, which tells the node from others of the machine."""
        self.file = file
        self._takeover = Takeover.from_environment()
        following = self._takeover is not None
        self._life = Life(Stage.FOLLOWING if following else Stage.ALONE)
        self._inbox = Inbox()
        self._service = Service(following=following)
        patience = Patience(self._inbox, self._service.waits, self._life.post)
        self.server = Server(
            config,
            takeover=self._takeover,
            received=servicemanager.received_sockets(),
            stored=servicemanager.stores_sockets(),
            patience=None if following else patience,  # a predecessor's wait has its own end
        )
        self._stop_asked_at = 0.0  # first, by time.monotonic(); 0: not yet
        self._drain_ms: int | None = None  # that the admin socket has asked for
        self._last_was_told = False  # the last event came from the inbox
        self._fault: RaidaError | None = None  # to end with
        self._dead: str | None = None  # a thread that the node cannot do without
        self._reload = Reload(self.server, self._service, reread)
        self._operators = Operators(self, self.server.website)
        self._succession = Succession(self.server, self._life.post)
        self._actions = self._implemented()

    def _implemented(self) -> Mapping[Action, Callable[[], object]]:
        return {
            Action.WITHDRAW: lambda: self._withdraw("it was told to stop"),
            Action.WITHDRAW_FAILED: lambda: self._withdraw("it has failed, see the log"),
            Action.GIVE_BACK: self._service.give_back,
            Action.STOP_LATER: self._stop_later,
            Action.OPEN: self._open,
            Action.END_TAKEOVER: self._end_takeover,
            Action.START_SUCCESSOR: self._succession.start,
            Action.GIVE_UP: self._succession.give_up,
            Action.CALL_OFF: lambda: self._succession.call_off(self._fault or self.server.fault),
            Action.HAND_OVER: self._hand_over,
            Action.RELOAD_SUCCESSOR: self._succession.reload,
            Action.TAKE_BACK: self._succession.take_back,
            Action.SERVE_AGAIN: self._serve_again,
            Action.NOTE_UPGRADE: lambda: self._succession.note_upgrade(self._life.stage),
            Action.RELOAD: self._reload.run_quietly,
            Action.NOTE_FAULT: self._note_fault,
            Action.LEAVE: self._leave,
            Action.NOTE_LEAVING: lambda: events.LEAVING_ALREADY.log(),
            Action.STOP_SOONER: self.server.begin_drain,  # the admin socket may have asked for more
            Action.STOP_AT_ONCE: self._stop_at_once,
            Action.KILL_DISMISSED: lambda: self._succession.dismissed(kill=True),
        }

    # -- for other threads -------------------------------------------------------------------------

    def begin_upgrade(self) -> "queue.SimpleQueue[Outcome]":
        """Have a successor take over. Any thread.

        The queue gets its process id once it serves, or why it did not come up; nothing has changed
        then. A caller that asks while a successor starts gets the same answer.
        """
        answer = self._succession.ask()
        self._inbox.put(Event.UPGRADE)
        return answer

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """As Server.begin_drain(), and end when it is over. Any thread.

        Raises StartError while a predecessor leaves: its connections come here.
        """
        if self._takeover is not None:
            raise StartError("the predecessor has not gone yet: ask again in a moment")
        self._drain_ms = drain_timeout_ms
        self.server.begin_drain(drain_timeout_ms)
        self._inbox.put(Event.DRAIN)

    def reload(self) -> Reloaded:
        """Read the configuration again and apply what can change. Any thread.

        Raises ConfigError, EngineError or StartError, with nothing changed.
        """
        reloaded = self._reload.run()
        if self._life.stage in (Stage.STARTING, Stage.HANDING_OVER):
            self._inbox.put(Event.RELOAD)  # for the successor, which may have read it before
        return reloaded

    # -- from the start to the end -----------------------------------------------------------------

    def serve(self) -> None:
        """Serve until SIGTERM, SIGINT, a drain, or an upgrade that has come to its end.

        Raises StartError, ConfigError, StoreError, and EngineError also when the store fails for
        good meanwhile, or a successor at the very end.
        """
        threads.on_death = self._thread_died
        servicemanager.prepare()
        with self._inbox:
            try:
                self.server.start()
            except ToldToStopError:
                events.STOPPED_EARLY.log()
                return
            try:
                self._live()
            finally:
                try:
                    self._end()
                finally:  # here, where a further signal does not make a failure of a clean end
                    servicemanager.flush()
                    log.flush()
        if self._fault is not None:
            raise self._fault

    def _live(self) -> None:
        self._begin()
        resources = Resources(self.server)
        while self._life.stage is not Stage.ENDED:
            happened = self._next()
            for action in () if happened is None else self._life.happen(happened):
                self._actions[action]()
            self._service.tend(self.server.beat, leaving=self._life.stage is Stage.LEAVING)
            log.sweep()
            self._operators.tend()
            resources.tend()

    def _thread_died(self, thread: threading.Thread, error: BaseException) -> None:
        """Thread: the one that dies."""
        self._dead = thread.name
        self._inbox.put(Event.FAULT)
        log.log_death(thread, error)

    def _begin(self) -> None:
        endpoints = self.server.endpoints
        places = ", ".join(format_endpoint(*one) for one in endpoints)
        self._service.status = f"serving on {places}: {self.server.tier}"
        if self._takeover is None:
            self._operators.open()
        told = hint.ping_command(self.server.config.server, endpoints[0])
        events.HINT.log(command=told)
        if self._takeover is None:
            self._service.announce(self.server.descriptors)
        self.server.begin_takeover(self._hear_of_predecessor)

    def _next(self) -> Event | None:
        """What has happened, after waiting a moment for it.

        A second stop request means: stop at once. Not a second request are a stop that was
        deferred, or posted here, and the duplicate that arrives when somebody signals the process
        and then its process group.
        """
        if (happened := self._life.posted()) is not None:
            return happened
        seen = self._look() if self._last_was_told else None  # endless signals must hide nothing
        happened = seen or self._inbox.take(self._wait_s())
        self._last_was_told = seen is None and happened is not None
        if happened is None:
            return self._look()
        if happened is not Event.STOP:
            return happened
        now = time.monotonic()
        if self._stop_asked_at:
            return Event.STOP_NOW if now - self._stop_asked_at >= DUPLICATE_S else None
        self._stop_asked_at = now
        return happened

    def _wait_s(self) -> float:
        """How long the main thread may wait for the inbox."""
        if self._life.stage in POLLED or self._service.busy:
            return LOOK_S
        if self._operators.missing:
            return operators.RETRY_S
        watchdog_s = self._service.watchdog_in_s()
        return IDLE_S if watchdog_s is None else min(IDLE_S, max(LOOK_S, watchdog_s))

    def _look(self) -> Event | None:
        """What nobody reports: of the data plane, the store, and the successor."""
        stage, running = self._life.stage, self.server.running
        if stage is Stage.LEAVING:
            return Event.OVER if self._succession.dismissed() and not running else None
        if not running:
            return Event.OVER
        if stage is Stage.HANDING_OVER:
            return Event.LOST if self._succession.lost else None
        if self.server.store_fault is not None or self._dead is not None:
            return Event.FAULT
        if stage is Stage.DISMISSING:
            return Event.DISMISSED if self._succession.dismissed() else None
        return self._succession.look() if stage is Stage.STARTING else None

    def _end(self) -> None:
        try:
            self.server.stop()
            if self._life.stage is Stage.ENDED:
                lost = self._succession.finish()
                if lost is not None and not self._stop_asked_at:
                    self._service.claim()
                    raise lost
        finally:
            counters = self.server.counters()
            events.FINAL_COUNTERS.log(
                nonzero=json.dumps({name: count for name, count in counters.items() if count}),
                more=counters,
            )
            self._operators.close_admin()
            self._service.end()
            if self._life.stage in POLLED and self._life.stage is not Stage.HANDING_OVER:
                self._succession.dismissed(kill=True)  # our own fault: nobody waits for it

    # -- actions: after a predecessor --------------------------------------------------------------

    def _hear_of_predecessor(self) -> None:
        """Thread: takeover."""
        gone = self._takeover is None or self._takeover.gone
        self._inbox.put(Event.GONE if gone else Event.RELEASED)

    def _withdraw(self, why: str) -> None:
        if self._takeover is not None:
            self._takeover.withdraw(why)

    def _end_takeover(self) -> None:
        self.server.end_takeover()
        if self._takeover is not None:
            self._takeover.end()
        self._takeover = None  # now it can be told to drain

    def _open(self) -> None:
        """Take what only one process can have, and be the service."""
        self._operators.open_soon()
        self._service.announce(self.server.descriptors)

    # -- actions: before a successor ---------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give the successor what only one process can have, then what is under way."""
        if self._succession.died():
            return
        pid = self._succession.announce()
        if self.server.phase == "serving":
            self._operators.close_admin()  # its thread has ended then: nobody can ask for a drain
        if self.server.phase != "serving":  # somebody has, at the last moment
            self._life.post(Event.DRAIN)
            return
        self._service.hand_over(pid)
        self._operators.give_up()
        timeout_ms = self._drain_timeout_ms
        events.STOPPING.log(timeout_s=timeout_ms / 1000, timeout_ms=timeout_ms)
        self._succession.hand_over(timeout_ms)

    def _serve_again(self) -> None:
        ended = self._succession.forget_lost()
        self._service.take_back()
        if ended == 0:  # it was asked to stop: that is, the service was
            self._life.post(Event.STOP)
        else:
            self._open()

    # -- actions: the end --------------------------------------------------------------------------

    def _note_fault(self) -> None:
        """A failure of the machine, not of the settings: the service manager starts it again."""
        if (fault := self.server.store_fault) is not None:
            events.STORE_LOST.log(fault=fault)
            doing = "the store must be opened again, so the node ends"
            self._fault = EngineError(errno.EIO, doing)
        else:
            doing = f"thread {self._dead} has died, so the node ends"
            self._fault = EngineError(errno.EOWNERDEAD, doing)

    @property
    def _drain_timeout_ms(self) -> int:
        asked = self._drain_ms
        return self.server.config.network.drain_timeout_ms if asked is None else asked

    def _stop_later(self) -> None:
        """The predecessor's connections come here, and the sockets are not ours alone."""
        events.STOPPING_AFTER_PREDECESSOR.log()
        self._service.ask_for_time(self._drain_timeout_ms)  # as long as the predecessor's

    def _leave(self) -> None:
        """Drain, unless that is under way, and tell the service manager."""
        self._succession.refuse_from_now_on(StartError("the node is stopping"))
        timeout_ms = self._drain_timeout_ms
        if self.server.running and self.server.phase == "serving":
            events.STOPPING.log(timeout_s=timeout_ms / 1000, timeout_ms=timeout_ms)
            self.server.begin_drain(timeout_ms)
        self._service.stops(timeout_ms)

    def _stop_at_once(self) -> None:
        events.STOPPING_NOW.log()
        self.server.begin_drain(0)


def serve(
    config: Config, reread: Callable[[], Config] | None = None, file: Path | None = None
) -> None:
    """Run a node until SIGTERM or SIGINT; a second one ends it at once. See Daemon."""
    Daemon(config, reread, file).serve()
