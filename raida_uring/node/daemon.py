"""A node as a process: signals, the service manager, the admin socket, reload, upgrade.

The node itself (server.py) runs on threads of its own. The main thread hears of events, one after
the other, and does what the table at the end of this file says for the stage that it has come to.
"""

import contextlib
import dataclasses
import enum
import errno
import json
import logging
import os
import queue
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from raida_uring import log, threads
from raida_uring.addresses import format_endpoint
from raida_uring.admin.server import Admin, path_of
from raida_uring.config import Config
from raida_uring.errors import ConfigError, EngineError, RaidaError, StartError, ToldToStopError
from raida_uring.log import event
from raida_uring.node import servicemanager
from raida_uring.node.inbox import Inbox
from raida_uring.node.patience import Patience
from raida_uring.node.server import NOT_TO_BE_HAD, Reloaded, Server
from raida_uring.node.servicemanager import (
    WATCHDOG,
    Adoption,
    notify,
    received_sockets,
    status,
    store_sockets,
    stores_sockets,
    watchdog_interval_s,
)
from raida_uring.node.upgrade import Successor, Takeover, how_ended

RESOURCE_INTERVAL_S: Final = 60.0
IDLE_S: Final = 1.0  # between two looks at what nobody tells ...
LOOK_S: Final = 0.02  # ... and while something is under way
OPEN_RETRY_S: Final = 0.1  # between two tries to open what a predecessor has left ...
OPEN_QUIET_S: Final = 5.0  # ... before it is told: who was killed lets go of it piece by piece
OPEN_RETRY_LATER_S: Final = 2.0  # and after
EXTEND_S: Final = 30.0  # what a start that waits asks of the service manager, again and again
SAID_TWICE_S: Final = 0.05  # timeout(1) signals a process, and then its whole group
PORT_OF_FIRST: Final = 50000  # what `ping` takes a port for, and which coin it names
COIN_ID: Final = 6
STOP_MARGIN_S: Final = 30.0  # what a stop may take beyond its drain: workers, the store

logger = logging.getLogger("raida_uring")


class Stage(enum.Enum):
    """How far a node has come on the way from its predecessor to its successor."""

    FOLLOWING = "serves beside its predecessor, which serves and has the admin socket and HTTP"
    INHERITING = "serves; the predecessor answers what it has taken and passes connections on"
    ALONE = "serves"
    STARTING = "serves while its successor comes up"
    DISMISSING = "serves while a successor that is not wanted ends"
    HANDING_OVER = "answers what it has taken; the successor serves"
    LEAVING = "answers what it has taken; nobody takes over"
    ENDED = "has answered everything"


# Something will come to its end that nobody tells of.
UNDER_WAY: Final = frozenset({Stage.STARTING, Stage.DISMISSING, Stage.HANDING_OVER, Stage.LEAVING})


class Event(enum.Enum):
    """What happens to a node: to OVER what may at any stage, then what is looked for at some."""

    STOP = "told to stop: SIGTERM, SIGINT"
    HURRY = "told so again"
    DRAIN = "told to stop by the admin socket, and how fast"
    RELOAD = "told to reload: SIGHUP"
    UPGRADE = "told to upgrade: SIGUSR2, the admin socket"
    OVER = "the I/O thread has ended; in LEAVING also a successor that was dismissed"
    FAULT = "the store must be opened again, or a thread has died"
    RELEASED = "the predecessor has left the admin socket and the port of HTTP"
    GONE = "the predecessor has ended"
    READY = "the successor serves"
    FAILED = "the successor does not come up"
    DISMISSED = "the successor that is not wanted has ended"
    LOST = "the successor has ended before this node has"
    BACK = "this node serves again"


SIGNALS: Final[Mapping[int, Event]] = {
    signal.SIGTERM: Event.STOP,
    signal.SIGINT: Event.STOP,
    signal.SIGHUP: Event.RELOAD,
    signal.SIGUSR2: Event.UPGRADE,
}


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
        self.server = Server(
            config,
            takeover=self._takeover,
            received=received_sockets(),
            stored=stores_sockets(),
            # Who waits for a successor to start has a time-out for it.
            patience=None if self._takeover is not None else Patience(self._rest),
        )
        self._stage = Stage.ALONE if self._takeover is None else Stage.FOLLOWING
        self._inbox: Inbox[Event] = Inbox(SIGNALS)
        self._posted: deque[Event] = deque()  # goes before what the inbox has
        self._deferred: list[Event] = []  # until the next stage
        self._told_at = 0.0  # to stop, first; 0: not
        self._has_heard = False  # what came last was told, not seen
        self._successor: Successor | None = None  # starting, dismissed or in charge: see the stage
        self._why = StartError("")  # there is no successor
        self._fault: RaidaError | None = None  # to end with
        self._dead: str | None = None  # a thread that the node cannot do without
        self._speaks = False  # for the service: its manager takes the word of any process in it
        self._gives_back = False  # the service to the predecessor: its watchdog goes on
        self._status = ""  # what the manager shows while nothing special happens
        self._reread = reread
        self._reload_lock = threading.Lock()
        self._drain_timeout_ms: int | None = None  # that the admin socket has asked for
        self._admin: Admin | None = None
        self._admin_fault: str | None = None  # why there is none
        self._open_at = 0.0  # when HTTP and the admin socket are tried to be opened; 0: not
        self._open_quiet_until = 0.0  # until when it is not told that they are not to be had
        self._open_told: set[str] = set()
        self._extend_at = 0.0  # when the service manager is to hear that the start still waits
        self._last_word: int | StartError | None = None  # for whoever asks for an upgrade too late
        self._upgrades: queue.SimpleQueue[queue.SimpleQueue[int | StartError]] = queue.SimpleQueue()
        self._adoption: Adoption | None = None  # by the service manager, that is under way
        if self._takeover is not None and "NOTIFY_SOCKET" in os.environ:
            self._adoption = Adoption(os.getppid())
        self._watchdog_s = watchdog_interval_s()
        self._watchdog_at = 0.0
        self._laps = 0
        self._cpu_s = 0.0  # of the processor, used when its resources were last told
        self._resources_at = 0.0  # when they are told next

    # -- for other threads -------------------------------------------------------------------------

    def begin_upgrade(self) -> "queue.SimpleQueue[int | StartError]":
        """Have a successor take over. Any thread.

        What comes of it is put into the queue: its process id once it serves, or why it did not
        come up; nothing has changed then. Who asks while a successor starts gets the same answer.
        """
        answer: queue.SimpleQueue[int | StartError] = queue.SimpleQueue()
        self._upgrades.put(answer)
        if self._last_word is not None:
            self._answer_upgrades(self._last_word)
        self._inbox.put(Event.UPGRADE)
        return answer

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """As Server.begin_drain(), and end when it is over. Any thread.

        Raises StartError while a predecessor leaves: its connections come here.
        """
        if self._takeover is not None:
            raise StartError("the predecessor has not gone yet: ask again in a moment")
        self._drain_timeout_ms = drain_timeout_ms
        self.server.begin_drain(drain_timeout_ms)
        self._inbox.put(Event.DRAIN)

    def reload(self) -> Reloaded:
        """Read the configuration again and apply what can change. Any thread.

        Raises ConfigError, EngineError or StartError, with nothing changed.
        """
        reloaded = self._reload()
        if self._stage in (Stage.STARTING, Stage.HANDING_OVER):
            self._inbox.put(Event.RELOAD)  # for the successor, which may have read it before
        return reloaded

    def _reload(self) -> Reloaded:
        with self._reload_lock:
            if self.server.phase != "serving":
                raise StartError("the node is stopping")
            self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            remark = ""
            try:
                reloaded = self._reread_and_apply()
            except (ConfigError, StartError, EngineError) as error:
                remark = f"; the last reload failed: {error}"
                logger.error(
                    "not reloaded, nothing changed: %s", error, extra=event("reload_failed")
                )
                raise
            except Exception as error:  # whatever it is, the node has something to go on with
                logger.exception("not reloaded: %r", error, extra=event("reload_failed"))
                raise StartError(f"a fault of the node, see its log: {error!r}") from error
            finally:
                if self.server.phase == "serving":  # else STOPPING=1 stands
                    self._say(f"READY=1\n{status(self._status + remark)}")
        _log_reloaded(reloaded)
        return reloaded

    def _reread_and_apply(self) -> Reloaded:
        if self._reread is None:
            raise ConfigError("started without a configuration file")
        return self.server.reload(self._reread())

    # -- from the start to the end -----------------------------------------------------------------

    def serve(self) -> None:
        """Serve until SIGTERM, SIGINT, a drain, or an upgrade that has come to its end.

        Raises StartError, ConfigError, StoreError, and EngineError also when the store fails for
        good meanwhile, or a successor at the very end.
        """
        threads.on_death = self._thread_died
        with self._inbox:
            try:
                self.server.start()
            except ToldToStopError:
                logger.info("told to stop before it served", extra=event("stopped_early"))
                return
            try:
                self._begin()
                while self._stage is not Stage.ENDED:
                    happened = self._next()
                    if happened is not None:
                        self._take(happened)
                    self._tend()
            finally:
                try:
                    self._end()
                finally:  # here, where a further signal does not make a failure of a clean end
                    servicemanager.flush()
                    log.flush()
        if self._fault is not None:
            raise self._fault

    def _thread_died(self, thread: threading.Thread, error: BaseException) -> None:
        """Thread: the one that dies."""
        self._dead = thread.name
        self._inbox.put(Event.FAULT)
        log.log_death(thread, error)

    def _begin(self) -> None:
        places = ", ".join(format_endpoint(*one) for one in self.server.endpoints)
        self._status = f"serving on {places}: {self.server.tier}"
        if self._takeover is None:
            self._open_to_operators()
        logger.info("try it: %s", self._hint(), extra=event("hint"))
        if self._takeover is None:
            self._announce()
        self.server.begin_takeover(self._hear_of_predecessor)
        self._cpu_s = _cpu_s()
        self._resources_at = time.monotonic() + RESOURCE_INTERVAL_S

    def _rest(self, seconds: float, reason: str) -> None:
        """Wait while the start waits for something. Raises ToldToStopError."""
        now = time.monotonic()
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_S / 3
            notify(f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}\n{status(f'waiting: {reason}')}")
        until = now + seconds
        while (left_s := until - time.monotonic()) > 0:
            happened = self._inbox.take(left_s)
            if happened is Event.STOP:
                raise ToldToStopError("told to stop before it served")
            if happened is not None:
                self._posted.append(happened)

    def _hint(self) -> str:
        """A command that gets an answer, as it is to be typed."""
        asked, (host, port) = self.server.config.server, self.server.endpoints[0]
        hint = f"{_program()} ping {_reachable((host, port))}"
        if port != PORT_OF_FIRST + asked.raida_id:
            hint += f" --raida-id {asked.raida_id}"
        return hint if asked.coin_id == COIN_ID else f"{hint} --coin-id {asked.coin_id}"

    def _next(self) -> Event | None:
        """What has happened, after waiting a moment for it.

        Who is told to stop again is in a hurry; a stop that comes back, because it was put off or a
        successor had been told, is not one more, nor is what one who signals a process and then its
        group says twice.
        """
        if self._posted:
            return self._posted.popleft()
        seen = self._look() if self._has_heard else None  # signals without end hide nothing
        happened = seen or self._inbox.take(self._patience_s())
        self._has_heard = seen is None and happened is not None
        if happened is None:
            return self._look()
        if happened is not Event.STOP:
            return happened
        now = time.monotonic()
        if self._told_at:
            return Event.HURRY if now - self._told_at >= SAID_TWICE_S else None
        self._told_at = now
        return happened

    def _patience_s(self) -> float:
        """How long the main thread may wait to be told something."""
        if self._stage in UNDER_WAY or self._adoption is not None:
            return LOOK_S
        if self._open_at:
            return OPEN_RETRY_S
        if self._watchdog_s is None:
            return IDLE_S
        return min(IDLE_S, max(LOOK_S, self._watchdog_at - time.monotonic()))

    def _look(self) -> Event | None:
        """What nobody tells: of the data plane, the store, and the successor."""
        stage, running = self._stage, self.server.running
        if stage is Stage.LEAVING:
            return Event.OVER if self._dismissed() and not running else None
        if not running:
            return Event.OVER
        if stage is Stage.HANDING_OVER:
            lost = self._successor is not None and self._successor.status is not None
            return Event.LOST if lost else None
        if self.server.store_fault is not None or self._dead is not None:
            return Event.FAULT
        if stage is Stage.DISMISSING:
            return Event.DISMISSED if self._dismissed() else None
        if stage is Stage.STARTING and self._successor is not None:
            try:
                return Event.READY if self._successor.serves() else None
            except StartError as error:
                self._why = error
                return Event.FAILED
        return None

    def _take(self, happened: Event) -> None:
        """Do what the table says; a pair that is not in it asks for nothing.

        The new stage is set first, so that no other thread finds the old one while the actions run;
        what was put off comes before what they post.
        """
        step = LIFE[self._stage].get(happened)
        if step is None:
            return
        if step.deferred:
            self._deferred.append(happened)
        if step.to is not None:
            self._stage = step.to
            self._posted.extend(self._deferred)
            self._deferred.clear()
        for action in step.actions:
            action(self)

    def _tend(self) -> None:
        """What has to be done now and then, whatever happens."""
        self._feed_watchdog()
        if self._adoption is not None and self._speaks and self._adoption.tend():
            self._end_adoption()
        log.sweep()
        if self._open_at and time.monotonic() >= self._open_at:
            self._open_to_operators()
        if time.monotonic() >= self._resources_at and self.server.phase == "serving":
            before_s, self._cpu_s = self._cpu_s, _cpu_s()
            late_s = time.monotonic() - self._resources_at
            used = (self._cpu_s - before_s) / (RESOURCE_INTERVAL_S + late_s)
            self._resources_at = time.monotonic() + RESOURCE_INTERVAL_S
            _log_resources(self.server, 100 * used)

    def _end(self) -> None:
        try:
            self.server.stop()
            if self._stage is Stage.ENDED and self._successor is not None:
                self._finish(self._successor)
        finally:
            counters = self.server.counters()
            logger.info(
                "final counters %s",
                json.dumps({name: count for name, count in counters.items() if count}),
                extra=event("final_counters", **counters),
            )
            if self._admin is not None:
                self._admin.close()
            self._end_adoption()
            if self._stage in UNDER_WAY and self._stage is not Stage.HANDING_OVER:
                self._dismissed(hurry=True)  # a fault of ours: nobody looks after it any more

    # -- after a predecessor -----------------------------------------------------------------------

    def _hear_of_predecessor(self) -> None:
        """Thread: takeover."""
        gone = self._takeover is None or self._takeover.gone
        self._inbox.put(Event.GONE if gone else Event.RELEASED)

    def _withdraw(self) -> None:
        if self._takeover is not None:
            self._takeover.withdraw("it was told to stop")

    def _fail(self) -> None:
        if self._takeover is not None:
            self._takeover.withdraw("it has failed, see the log")

    def _give_back(self) -> None:
        """The predecessor serves again, if it can, and is the service then: not said to stop.
        Until then nobody else feeds the watchdog, which no STOPPING=1 has ended."""
        self._speaks, self._gives_back = False, True

    def _stop_later(self) -> None:
        """The predecessor's connections come here, and the sockets are not ours alone."""
        logger.info(
            "stopping once the predecessor is gone", extra=event("stopping_after_predecessor")
        )
        self._ask_for_time(self.server.config.network.drain_timeout_ms)  # the predecessor's

    def _end_takeover(self) -> None:
        self.server.end_takeover()
        connections = 0
        if self._takeover is not None:
            self._takeover.join()
            connections = self._takeover.taken
        self._takeover = None  # now it can be told to drain
        logger.info(
            "took over: %d connections passed on, the predecessor is gone",
            connections,
            extra=event("took_over", connections=connections),
        )

    def _open(self) -> None:
        """Have what only one process can, and be the service."""
        self._open_quiet_until = time.monotonic() + OPEN_QUIET_S
        self._open_to_operators()
        self._announce()

    def _open_to_operators(self) -> None:
        """The admin socket and the port of HTTP, unless they are open. What stays in the way must
        not end a node that serves: it is told once, and tried again."""
        if self.server.phase != "serving":
            self._open_at = 0.0
            return
        http_before, server = self.server.url, self.server
        with contextlib.suppress(*NOT_TO_BE_HAD):
            server.open_web()
        if self._admin is None:
            try:
                self._admin = Admin(self, path_of(server))
                self._admin_fault = None
            except NOT_TO_BE_HAD as error:
                self._admin_fault = str(error)
        faults = {"http": server.http_fault, "admin": self._admin_fault}
        now, missing = time.monotonic(), {name for name, fault in faults.items() if fault}
        quiet = now < self._open_quiet_until
        self._open_at = 0.0
        if missing:
            self._open_at = now + (OPEN_RETRY_S if quiet else OPEN_RETRY_LATER_S)
        if not quiet:
            self._tell_missing(missing - self._open_told)
            self._open_told = missing
        if server.url is not None and http_before is None:
            server.log_web()

    def _tell_missing(self, missing: set[str]) -> None:
        if "http" in missing:
            logger.error(
                "no HTTP, tried again every %.0f s: %s",
                OPEN_RETRY_LATER_S,
                self.server.http_fault,
                extra=event("http_failed"),
            )
        if "admin" in missing:
            logger.warning(
                "no admin socket, tried again every %.0f s: %s",
                OPEN_RETRY_LATER_S,
                self._admin_fault,
                extra=event("admin_socket_failed"),
            )

    # -- before a successor ------------------------------------------------------------------------

    def _start_successor(self) -> None:
        logger.info("upgrade: starting the successor", extra=event("upgrade_begun"))
        try:
            self._successor = self.server.start_successor()
        except RaidaError as error:
            self._why = StartError(str(error))
            self._posted.append(Event.FAILED)

    def _give_up(self) -> None:
        """There will be no upgrade."""
        logger.error("no upgrade, this node goes on: %s", self._why, extra=event("upgrade_failed"))
        self._dismiss()

    def _call_off(self) -> None:
        """There will be no upgrade, nor will this node go on."""
        cause = self._fault or self.server.fault
        self._why = StartError(
            "this node was told to stop meanwhile"
            if cause is None
            else f"this node has failed meanwhile: {cause}"
        )
        logger.error("no upgrade: %s", self._why, extra=event("upgrade_failed"))
        self._dismiss()

    def _dismiss(self) -> None:
        if self._successor is not None:
            self._successor.abandon(self.server.config.network.drain_timeout_ms / 1000)
        self._answer_upgrades(self._why)

    def _dismissed(self, *, hurry: bool = False) -> bool:
        """Whether no successor is left that was dismissed."""
        if self._successor is not None:
            if not self._successor.gone(hurry=hurry):
                return False
            self._successor = None
            self.server.forget_successor()
        return True

    def _answer_upgrades(self, outcome: int | StartError) -> None:
        """Any thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._upgrades.get_nowait().put(outcome)

    def _hand_over(self) -> None:
        """Give the successor what only one of us can have, then what is under way."""
        server, successor = self.server, self._successor
        if successor is None:
            return
        logger.info(
            "upgrade: process %d serves",
            successor.pid,
            extra=event("upgrade_done", pid=successor.pid),
        )
        if server.phase == "serving":
            self._last_word = successor.pid
            self._answer_upgrades(successor.pid)
            if self._admin is not None:
                self._admin.close()  # its thread has ended then: nobody can ask for a drain
                self._admin = None
        if server.phase != "serving":  # somebody has, at the last moment
            self._posted.append(Event.DRAIN)
            return
        self._end_adoption()
        self._say(f"MAINPID={successor.pid}")
        self._speaks = False
        self._open_at = 0.0  # from now on it is the successor's to open
        server.close_web()
        successor.release()
        timeout_ms = server.config.network.drain_timeout_ms
        self._log_stopping(timeout_ms)
        server.begin_hand_over(successor, timeout_ms)

    def _note_upgrade(self) -> None:
        """Whoever asked by a signal hears of it nowhere else."""
        why = "leaving already"
        if self._stage is Stage.STARTING:
            why = "a successor is starting already"
        elif self._stage is Stage.HANDING_OVER and self._successor is not None:
            why = f"process {self._successor.pid} serves already, ask that"
        logger.info("told to upgrade: %s", why, extra=event("upgrade_under_way"))

    def _pass_on_reload(self) -> None:
        if self._successor is not None and self._successor.status is None:
            os.kill(self._successor.pid, signal.SIGHUP)

    def _note_leaving(self) -> None:
        logger.info("told to stop: leaving already", extra=event("leaving_already"))

    def _take_back(self) -> None:
        """Go on, if the data plane can still take up again what it had left."""
        try:
            self.server.take_back()
        except RaidaError:
            return  # too late: _finish() says so
        self._posted.append(Event.BACK)

    def _serve_again(self) -> None:
        successor, self._successor = self._successor, None
        ended = None if successor is None else successor.status
        if successor is not None:
            successor.channel.close()
        self._last_word = None
        logger.error(
            "the successor %s: this node serves again",
            how_ended(ended or 0),
            extra=event("successor_lost", status=ended),
        )
        self._speaks = True
        self._say(f"MAINPID={os.getpid()}")
        if ended == 0:  # it was told to stop: the service was, that is
            self._posted.append(Event.STOP)
        else:
            self._open()

    def _finish(self, successor: Successor) -> None:
        """This node has answered everything. Raises EngineError when the successor has ended, and
        with it the service: a service manager is to start it again."""
        successor.finish(dataclasses.asdict(self.server.stats()))
        ended = successor.status
        if not ended or self._told_at:
            return
        notify(f"MAINPID={os.getpid()}")
        raise EngineError(errno.ESRCH, f"the successor {how_ended(ended)} and this node had left")

    # -- the end -----------------------------------------------------------------------------------

    def _note_fault(self) -> None:
        """As a failure of the machine, not of the settings: the service manager starts it again."""
        if (fault := self.server.store_fault) is not None:
            logger.error("%s", fault, extra=event("store_lost"))
            doing = "the store must be opened again, so the node ends"
            self._fault = EngineError(errno.EIO, doing)
        else:
            doing = f"thread {self._dead} has died, so the node ends"
            self._fault = EngineError(errno.EOWNERDEAD, doing)

    def _leave(self) -> None:
        self._last_word = StartError("the node is stopping")
        self._answer_upgrades(self._last_word)
        drain_ms = self._drain_timeout_ms
        if drain_ms is None:
            drain_ms = self.server.config.network.drain_timeout_ms
        if self.server.running and self.server.phase == "serving":
            self._log_stopping(drain_ms)
            self.server.begin_drain(drain_ms)
        # Last: a reload that is under way says nothing any more once the node drains.
        self._say(f"STOPPING=1\n{status('answering what was received, then stopping')}")
        self._ask_for_time(drain_ms)

    def _ask_for_time(self, drain_ms: int) -> None:
        """A stop may take longer than TimeoutStopSec=."""
        self._say(f"EXTEND_TIMEOUT_USEC={round((drain_ms / 1000 + STOP_MARGIN_S) * 1e6)}")

    @staticmethod
    def _log_stopping(timeout_ms: int) -> None:
        logger.info(
            "stopping: up to %.1f s for requests in flight",
            timeout_ms / 1000,
            extra=event("stopping", timeout_ms=timeout_ms),
        )

    def _stop_sooner(self) -> None:
        """The admin socket may have asked for a drain that is longer than a signal's."""
        self.server.begin_drain(self.server.config.network.drain_timeout_ms)

    def _stop_at_once(self) -> None:
        logger.warning(
            "stopping at once: requests in flight are dropped", extra=event("stopping_now")
        )
        self.server.begin_drain(0)

    def _hurry_dismissed(self) -> None:
        self._dismissed(hurry=True)

    # -- the service manager -----------------------------------------------------------------------

    def _say(self, state: str) -> None:
        """To the service manager, if this process speaks for the service. Any thread."""
        if self._speaks:
            notify(state)

    def _announce(self) -> None:
        """This process is the service: also when it was told to stop at once, since one that ends
        before it was ready has failed."""
        self._speaks = True
        store_sockets(self.server.descriptors)
        self._say(f"READY=1\n{status(self._status)}")

    def _end_adoption(self) -> None:
        if self._adoption is not None:
            self._adoption.end()
            self._adoption = None

    def _feed_watchdog(self) -> None:
        """Tell the service manager that the I/O thread turns: it alone can say so, by its laps.

        Not once it leaves: STOPPING=1 ends the watchdog, and a word would begin it anew.
        """
        if self._watchdog_s is None or time.monotonic() < self._watchdog_at:
            return
        if not self._gives_back and (not self._speaks or self._stage is Stage.LEAVING):
            return
        try:
            laps = self.server.beat()
        except RaidaError:
            return  # not serving: nothing to be fed with
        if laps != self._laps:
            self._laps = laps
            self._watchdog_at = time.monotonic() + self._watchdog_s
            notify(WATCHDOG)

    def _reload_quietly(self) -> None:
        with contextlib.suppress(RaidaError):  # it has been logged
            self._reload()


# --- What a node does when something happens, by stage -------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """actions: done in this order. to: the stage then; None: the same. deferred: the event comes
    again at the next stage."""

    actions: tuple[Callable[[Daemon], None], ...]
    to: Stage | None = None
    deferred: bool = False


def _go(to: Stage, *actions: Callable[[Daemon], None]) -> Step:
    return Step(actions, to)


def _stay(*actions: Callable[[Daemon], None]) -> Step:
    return Step(actions)


def _later(*actions: Callable[[Daemon], None]) -> Step:
    return Step(actions, deferred=True)


def _leaving(*first: Callable[[Daemon], None]) -> Step:
    return Step((*first, Daemon._leave), Stage.LEAVING)


def _leaving_at_once(*first: Callable[[Daemon], None]) -> Step:
    return Step((*first, Daemon._leave, Daemon._stop_at_once), Stage.LEAVING)


_D = Daemon
LIFE: Final[Mapping[Stage, Mapping[Event, Step]]] = {
    Stage.FOLLOWING: {
        Event.STOP: _leaving(_D._withdraw),
        Event.HURRY: _leaving_at_once(_D._withdraw),
        Event.DRAIN: _leaving(_D._withdraw),
        Event.RELOAD: _stay(_D._reload_quietly),
        Event.UPGRADE: _later(),
        Event.OVER: _leaving(_D._fail),
        Event.FAULT: _leaving(_D._note_fault, _D._fail),
        Event.RELEASED: _go(Stage.INHERITING, _D._open),
        Event.GONE: _go(Stage.ALONE, _D._end_takeover, _D._open),
    },
    Stage.INHERITING: {
        Event.STOP: _later(_D._stop_later),
        Event.HURRY: _leaving_at_once(),
        Event.DRAIN: _leaving(),
        Event.RELOAD: _stay(_D._reload_quietly),
        Event.UPGRADE: _later(),
        Event.OVER: _leaving(_D._give_back),
        Event.FAULT: _leaving(_D._note_fault, _D._give_back),
        Event.GONE: _go(Stage.ALONE, _D._end_takeover),
    },
    Stage.ALONE: {
        Event.STOP: _leaving(),
        Event.HURRY: _leaving_at_once(),
        Event.DRAIN: _leaving(),
        Event.RELOAD: _stay(_D._reload_quietly),
        Event.UPGRADE: _go(Stage.STARTING, _D._start_successor),
        Event.OVER: _leaving(),
        Event.FAULT: _leaving(_D._note_fault),
    },
    Stage.STARTING: {
        Event.STOP: _leaving(_D._call_off),
        Event.HURRY: _leaving_at_once(_D._call_off),
        Event.DRAIN: _leaving(_D._call_off),
        Event.RELOAD: _later(_D._reload_quietly),  # the successor may have read it before
        # Who asks gets the answer to the one that is under way.
        Event.UPGRADE: _stay(_D._note_upgrade),
        Event.OVER: _leaving(_D._call_off),
        Event.FAULT: _leaving(_D._note_fault, _D._call_off),
        Event.READY: _go(Stage.HANDING_OVER, _D._hand_over),
        Event.FAILED: _go(Stage.DISMISSING, _D._give_up),
    },
    Stage.DISMISSING: {
        Event.STOP: _leaving(),
        Event.HURRY: _leaving_at_once(),
        Event.DRAIN: _leaving(),
        Event.RELOAD: _stay(_D._reload_quietly),
        Event.UPGRADE: _later(),
        Event.OVER: _leaving(),
        Event.FAULT: _leaving(_D._note_fault),
        Event.DISMISSED: _go(Stage.ALONE),
    },
    Stage.HANDING_OVER: {
        Event.STOP: _later(_D._note_leaving),
        Event.HURRY: _stay(_D._stop_at_once),
        Event.DRAIN: _leaving(_D._call_off),
        Event.RELOAD: _later(_D._pass_on_reload),
        Event.UPGRADE: _stay(_D._note_upgrade),  # who asks has the answer
        Event.OVER: _go(Stage.ENDED),
        Event.LOST: _stay(_D._take_back),
        Event.BACK: _go(Stage.ALONE, _D._serve_again),
    },
    Stage.LEAVING: {
        Event.STOP: _stay(_D._note_leaving, _D._stop_sooner),
        Event.HURRY: _stay(_D._stop_at_once, _D._hurry_dismissed),
        Event.DRAIN: _stay(),  # a shorter time-out is in effect
        Event.RELOAD: _stay(),
        Event.UPGRADE: _stay(_D._note_upgrade),  # who asks has the answer
        Event.OVER: _go(Stage.ENDED),
    },
    Stage.ENDED: {},
}


def serve(
    config: Config, reread: Callable[[], Config] | None = None, file: Path | None = None
) -> None:
    """Run a node until SIGTERM or SIGINT; a second one ends it at once. See Daemon."""
    Daemon(config, reread, file).serve()


def _log_reloaded(reloaded: Reloaded) -> None:
    logger.info(
        "reloaded: %s",
        ", ".join(map(str, reloaded.applied)) or "nothing to apply",
        extra=event("reloaded", applied=list(map(str, reloaded.applied))),
    )
    if reloaded.restart:
        names = ", ".join(map(str, reloaded.restart))
        logger.warning(
            "need a restart: %s",
            names,
            extra=event("restart_needed", settings=list(map(str, reloaded.restart))),
        )


def _reachable(endpoint: tuple[str, int]) -> str:
    """The endpoint as a client on this machine may name it."""
    host, port = endpoint
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
    return format_endpoint(loopback.get(host, host), port)


def _program() -> str:
    """How this program was started: it need not be where a shell looks for programs."""
    started = sys.argv[0]
    if os.path.basename(started) == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m raida_uring"
    found = shutil.which("raida-uring")
    if started in ("", "-c") or (found is not None and _is_same_file(found, started)):
        return "raida-uring"
    return shlex.quote(started)


def _is_same_file(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False


def _cpu_s() -> float:
    """What this process has used of the processor. Needs no descriptor, unlike psutil."""
    return sum(os.times()[:2])


def _log_resources(server: Server, cpu: float) -> None:
    """cpu: in percent of one processor."""
    server.tend_store()
    try:
        process = psutil.Process()
        with process.oneshot():
            memory = process.memory_info().rss >> 20
            descriptors, threads = process.num_fds(), process.num_threads()
    except (OSError, psutil.Error) as error:  # no descriptor left to look with
        logger.warning("resources are not known: %s", error, extra=event("resources_unknown"))
        return
    counters = server.counters()
    requests = counters["udp_received"] + counters["tcp_requests"]
    logger.info(
        "resources: cpu %.0f %%, memory %d MiB, descriptors %d, threads %d, connections %d, "
        "requests %d",
        cpu,
        memory,
        descriptors,
        threads,
        counters["connections_open"],
        requests,
        extra=event(
            "resources",
            cpu_percent=round(cpu),
            memory_mib=memory,
            descriptors=descriptors,
            threads=threads,
            connections=counters["connections_open"],
            requests=requests,
        ),
    )
