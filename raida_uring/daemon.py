"""A node as a process: signals, the service manager, the admin socket, reload, upgrade.

The main thread waits for signals and does what they ask; the node itself (server.py) runs on
threads of its own.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import psutil

from raida_uring import admin, log, sockets
from raida_uring.admin import Admin
from raida_uring.config import Config
from raida_uring.errors import ConfigError, EngineError, RaidaError, StartError
from raida_uring.log import event
from raida_uring.server import Reloaded, Server
from raida_uring.servicemanager import (
    notify,
    received_sockets,
    status,
    store_sockets,
    stores_sockets,
    watchdog_interval_s,
)
from raida_uring.upgrade import Successor, Takeover, how_ended

RESOURCE_INTERVAL_S: Final = 60.0
START_LOOK_S: Final = 0.02  # between two looks at a successor that starts
DRAIN_LOOK_S: Final = 0.05  # between two looks at everything else while it drains
OPEN_RETRY_S: Final = 0.1  # between two tries to open what a predecessor has left ...
OPEN_TIMEOUT_S: Final = 5.0  # ... and how long: one that was killed lets go of it piece by piece

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
UPGRADE_SIGNAL: Final = signal.SIGUSR2
SIGNALS: Final = STOP_SIGNALS | {signal.SIGHUP, UPGRADE_SIGNAL}

logger = logging.getLogger("raida_uring")


class _Signals:
    """The signals that a node heeds, taken by one thread that waits for nothing else.

    They are blocked before any thread starts, so that no call in a worker or in the data plane is
    ever interrupted. Not sigtimedwait(): CPython 3.11 takes it for a signal when a SIGCONT or a
    debugger interrupts the wait at the end of its time.
    """

    def __init__(self) -> None:
        self._taken: queue.SimpleQueue[int] = queue.SimpleQueue()

    def __enter__(self) -> "_Signals":
        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._done = False
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        if self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, signal.SIGTERM)  # ends its wait
        self._thread.join()
        while signal.sigtimedwait(SIGNALS, 0) is not None:
            pass  # asked for more than once: it has been done
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _run(self) -> None:
        while not self._done:
            self._taken.put(signal.sigwait(SIGNALS))

    def wake(self) -> None:
        """Let take() return, with a number that is no signal's. Any thread."""
        self._taken.put(0)

    def take(self, timeout_s: float) -> int | None:
        """The next signal, None when there was none in time."""
        try:
            return self._taken.get(timeout=timeout_s) if timeout_s else self._taken.get_nowait()
        except queue.Empty:
            return None


class Daemon:
    """A server in its own process: signals, admin socket, reload, upgrade.

    Thread: the main one, but for reload(), begin_drain() and begin_upgrade().
    """

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        """reread: reads the configuration again; None where there is no file to read."""
        self._takeover = Takeover.from_environment()
        self.server = Server(
            config,
            takeover=self._takeover,
            received=received_sockets(),
            stored=stores_sockets(),
        )
        self._announced = False  # to the service manager, as the one that serves
        self._status = ""  # what it shows while nothing special happens
        self._reread = reread
        self._reload_lock = threading.Lock()
        self._signals = _Signals()
        self._admin: Admin | None = None
        # A successor is `starting` until it serves; then this node leaves, or it was `abandoned`.
        self._starting: Successor | None = None
        self._successor: Successor | None = None
        self._abandoned: Successor | None = None
        self._upgrade_asked = False
        self._stops = 0  # signals that asked for it
        self._opened = False  # what the predecessor has left is, or is tried to be until:
        self._open_until = 0.0
        self._last_word: int | StartError | None = None  # for whoever asks for an upgrade too late
        self._watchdog_s = watchdog_interval_s()
        self._watchdog_at = 0.0
        self._laps = 0
        self._upgrades: queue.SimpleQueue[queue.SimpleQueue[int | StartError]] = queue.SimpleQueue()

    def begin_upgrade(self) -> "queue.SimpleQueue[int | StartError]":
        """Have a successor take over. Any thread.

        What comes of it is put into the queue: its process id once it serves, or why it did not
        come up; nothing has changed then. Who asks while a successor starts gets the same answer.
        """
        answer: queue.SimpleQueue[int | StartError] = queue.SimpleQueue()
        self._upgrades.put(answer)
        if self._last_word is not None:
            self._answer_upgrades(self._last_word)
        self._signals.wake()
        return answer

    def reload(self) -> Reloaded:
        """Read the configuration again and apply what can change. Any thread.

        Raises ConfigError or EngineError, with nothing changed.
        """
        with self._reload_lock:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            remark = ""
            try:
                reloaded = self._reload()
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
                notify(f"READY=1\n{status(self._status + remark)}")
        _log_reloaded(reloaded)
        return reloaded

    def _reload(self) -> Reloaded:
        if self._reread is None:
            raise ConfigError("started without a configuration file")
        return self.server.reload(self._reread())

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """As Server.begin_drain(), and end when it is over. Any thread.

        Raises StartError while a predecessor leaves: its connections come here.
        """
        if self._predecessor_leaves:
            raise StartError("the predecessor has not gone yet: ask again in a moment")
        self.server.begin_drain(drain_timeout_ms)
        self._signals.wake()

    def serve(self) -> None:
        """Serve until SIGTERM, SIGINT, a drain, or an upgrade that has come to its end.

        Raises StartError, ConfigError, StoreError, and EngineError also when the store fails for
        good meanwhile, or a successor at the very end.
        """
        with self._signals:
            self.server.start()
            places = ", ".join(sockets.format_endpoint(*one) for one in self.server.endpoints)
            self._status = f"serving on {places}: {self.server.tier}"
            try:
                if self._takeover is None:
                    self._admin = admin.open_for(self)
                logger.info(
                    "try it: raida-uring ping %s",
                    _reachable(self.server.endpoints[0]),
                    extra=event("hint"),
                )
                if self._takeover is None:
                    self._announce()
                self.server.begin_takeover(self._signals.wake)
                self._serve_until_stopped()
                while self._successor is not None and not self._hand_over(self._successor):
                    self._serve_until_stopped()
            finally:
                if self._successor is None:
                    notify(f"STOPPING=1\n{status('answering what was received, then stopping')}")
                try:
                    self._drain()
                finally:
                    if self._admin is not None:
                        self._admin.close()
                    self._await_abandoned()

    def _announce(self) -> None:
        """To the service manager, which listens to its main process only."""
        if self.server.phase != "serving":
            return
        store_sockets(self.server.descriptors)
        notify(f"READY=1\n{status(self._status)}")
        self._announced = True

    def _serve_until_stopped(self) -> None:
        """Return when it is time to drain, or to hand over to a successor that serves."""
        process = psutil.Process()
        process.cpu_percent()  # the first call only starts the measurement
        next_line = time.monotonic() + RESOURCE_INTERVAL_S
        while self.server.running and self.server.phase == "serving":
            taken = self._signals.take(self._patience_s())
            if taken in STOP_SIGNALS and self._stops_now():
                return
            self._tend_takeover()
            if self._stops and not self._predecessor_leaves:
                return
            self._upgrade_asked |= taken == UPGRADE_SIGNAL
            if self._tend_upgrade():
                return
            if taken == signal.SIGHUP:
                try:
                    self.reload()
                except RaidaError:
                    pass  # it has been logged
            if (fault := self.server.store_fault) is not None:
                logger.error("%s", fault, extra=event("store_lost"))
                # As a failure of the machine, not of the settings: the service manager starts it
                # again.
                raise EngineError(errno.EIO, "the store must be opened again, so the node ends")
            self._feed_watchdog()
            log.sweep()
            if time.monotonic() >= next_line:
                next_line += RESOURCE_INTERVAL_S
                _log_resources(self.server, process)

    def _patience_s(self) -> float:
        """How long the main thread may wait for a signal."""
        if self._stops and not self._predecessor_leaves:
            return 0.0
        if self._starting is not None or self._abandoned is not None:
            return START_LOOK_S
        if self._open_until:
            return OPEN_RETRY_S
        return min(1.0, self._watchdog_s or 1.0)

    # -- after a predecessor -----------------------------------------------------------------------

    @property
    def _predecessor_leaves(self) -> bool:
        """It takes nothing any more and is not gone yet."""
        takeover = self._takeover
        return takeover is not None and takeover.released and not takeover.gone

    def _stops_now(self) -> bool:
        """Whether a stop is heeded at once.

        While a predecessor leaves, its connections come here and the sockets are not ours alone: it
        has to be gone first. A second signal does not wait.
        """
        self._stops += 1
        if self._stops > 1 or not self._predecessor_leaves:
            if self._takeover is not None:
                self._takeover.withdraw()
            return True
        logger.info(
            "stopping once the predecessor is gone", extra=event("stopping_after_predecessor")
        )
        return False

    def _tend_takeover(self) -> None:
        """Act on what is new of the predecessor."""
        takeover = self._takeover
        if takeover is not None and not self._opened and (takeover.released or takeover.gone):
            self._begin_opening()
        elif self._open_until:
            self._open_to_operators()
        if takeover is None or not takeover.gone:
            return
        self._takeover = None
        self.server.end_takeover()
        logger.info(
            "took over: %d connections passed on, the predecessor is gone",
            takeover.taken,
            extra=event("took_over", connections=takeover.taken),
        )

    def _begin_opening(self) -> None:
        self._opened = True
        self._open_until = time.monotonic() + OPEN_TIMEOUT_S
        self._open_to_operators()
        self._announce()

    def _open_to_operators(self) -> None:
        """What only one process can have: the admin socket and the port of HTTP. The other one has
        left them, or was killed and is about to. What stays in the way must not end a node that
        serves."""
        http_fault: RaidaError | None = None
        admin_fault: RaidaError | None = None
        if self.server.url is None:
            try:
                self.server.open_web()
            except StartError as error:
                http_fault = error
        if self._admin is None:
            try:
                self._admin = Admin(self, admin.path_of(self.server))
            except StartError as error:
                admin_fault = error
        if (http_fault or admin_fault) and time.monotonic() < self._open_until:
            return
        self._open_until = 0.0
        if http_fault:
            logger.error("no HTTP: %s", http_fault, extra=event("http_failed"))
        if admin_fault:
            logger.warning("no admin socket: %s", admin_fault, extra=event("admin_socket_failed"))

    # -- before a successor ------------------------------------------------------------------------

    def _tend_upgrade(self) -> bool:
        """Start a successor where one is wanted, and look after it. True once it serves."""
        if self._abandoned is not None and self._abandoned.gone():
            self._abandoned = None
            self.server.forget_successor()
        if self._starting is None:
            self._start_successor()
            return False
        try:
            if not self._starting.serves():
                return False
        except StartError as error:
            self._give_up(error)
            return False
        successor, self._starting = self._starting, None
        self._successor = successor
        logger.info(
            "upgrade: process %d serves",
            successor.pid,
            extra=event("upgrade_done", pid=successor.pid),
        )
        notify(f"MAINPID={successor.pid}")
        return True

    def _start_successor(self) -> None:
        """If one was asked for, and the previous hand-over is over: a connection that is passed on
        must find somebody who keeps it."""
        self._upgrade_asked |= not self._upgrades.empty()
        if not self._upgrade_asked or self._takeover is not None or self._abandoned is not None:
            return
        self._upgrade_asked = False
        logger.info("upgrade: starting the successor", extra=event("upgrade_begun"))
        try:
            self._starting = self.server.start_successor()
        except RaidaError as error:
            self._give_up(StartError(str(error)))

    def _give_up(self, why: StartError) -> None:
        """There will be no upgrade: this node goes on, or stops."""
        successor, self._starting = self._starting, None
        if successor is not None:
            successor.abandon()
            self._abandoned = successor
        logger.error("no upgrade, this node goes on: %s", why, extra=event("upgrade_failed"))
        self._answer_upgrades(why)
        self._upgrade_asked = False

    def _answer_upgrades(self, outcome: int | StartError) -> None:
        """Any thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._upgrades.get_nowait().put(outcome)

    def _hand_over(self, successor: Successor) -> bool:
        """The successor serves: give it what only one of us can have, then what is under way.

        False when it has ended before this node was done: this one serves again then.
        """
        server = self.server
        self._last_word = successor.pid
        self._answer_upgrades(successor.pid)
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        if server.phase != "serving":  # told to stop by the admin socket, at the last moment
            self._successor, self._abandoned = None, successor
            successor.abandon()
            return True
        server.close_web()
        successor.release()
        timeout_ms = server.config.network.drain_timeout_ms
        self._log_stopping(timeout_ms)
        server.begin_hand_over(successor, timeout_ms)
        while not server.wait(DRAIN_LOOK_S):
            if self._signals.take(0) in STOP_SIGNALS:
                self._stops += 1
                if self._stops > 1:
                    self._stop_at_once()
                else:
                    logger.info("told to stop: leaving already", extra=event("leaving_already"))
            if successor.status is not None and self._take_back(successor):
                return False
        return True

    def _take_back(self, successor: Successor) -> bool:
        """The successor has ended: whether this node could take up again what it had left."""
        status = successor.status
        try:
            self.server.take_back()
        except RaidaError:
            return False  # too late: _finish() says so
        self._successor = self._last_word = None
        successor.channel.close()
        logger.error(
            "the successor %s: this node serves again",
            how_ended(status or 0),
            extra=event("successor_lost", status=status),
        )
        notify(f"MAINPID={os.getpid()}")
        if status == 0:  # it was told to stop: the service was, that is
            self._stops += 1
        else:
            self._begin_opening()
        return True

    def _finish(self, successor: Successor) -> None:
        """Raises EngineError when the successor has ended, and with it the service: a service
        manager is to start it again."""
        successor.finish(dataclasses.asdict(self.server.stats()))
        status = successor.status
        if not status or self._stops:
            return
        notify(f"MAINPID={os.getpid()}")
        raise EngineError(errno.ESRCH, f"the successor {how_ended(status)} and this node had left")

    def _await_abandoned(self) -> None:
        """It answers what it has taken; a further signal does not wait for that."""
        while self._abandoned is not None:
            hurry = self._signals.take(START_LOOK_S) in STOP_SIGNALS
            if self._abandoned.gone(hurry=hurry):
                self._abandoned = None

    # -- the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        server = self.server
        if self._starting is not None:
            self._give_up(StartError("this node was told to stop meanwhile"))
        if self._successor is None:
            self._last_word = StartError("the node is stopping")
            self._answer_upgrades(self._last_word)
            if server.running and server.phase == "serving":
                timeout_ms = 0 if self._stops > 1 else server.config.network.drain_timeout_ms
                self._log_stopping(timeout_ms)
                server.begin_drain(timeout_ms)
        while not server.wait(DRAIN_LOOK_S):
            self._feed_watchdog()
            if self._signals.take(0) in STOP_SIGNALS:
                self._stop_at_once()
        try:
            server.stop(0)
            if self._successor is not None:
                self._finish(self._successor)
        finally:
            logger.info(
                "final counters %s",
                json.dumps(server.counters()),
                extra=event("final_counters", **server.counters()),
            )

    @staticmethod
    def _log_stopping(timeout_ms: int) -> None:
        logger.info(
            "stopping: up to %.1f s for requests in flight",
            timeout_ms / 1000,
            extra=event("stopping", timeout_ms=timeout_ms),
        )

    def _stop_at_once(self) -> None:
        logger.warning(
            "stopping at once: requests in flight are dropped", extra=event("stopping_now")
        )
        self.server.begin_drain(0)

    def _feed_watchdog(self) -> None:
        """Tell the service manager that the I/O thread turns: it alone can say so, by its laps."""
        if self._watchdog_s is None or time.monotonic() < self._watchdog_at:
            return
        if not self._announced or self._successor is not None:
            return  # the other one's laps count
        try:
            laps = self.server.beat()
        except RaidaError:
            return  # not serving: nothing to be fed with
        if laps != self._laps:
            self._laps = laps
            self._watchdog_at = time.monotonic() + self._watchdog_s
            notify("WATCHDOG=1")


def serve(config: Config, reread: Callable[[], Config] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT; a second one ends it at once. See Daemon."""
    Daemon(config, reread).serve()


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
    return sockets.format_endpoint(loopback.get(host, host), port)


def _log_resources(server: Server, process: psutil.Process) -> None:
    server.tend_store()
    with process.oneshot():
        memory = process.memory_info().rss >> 20
        descriptors, threads = process.num_fds(), process.num_threads()
        cpu = process.cpu_percent()
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
