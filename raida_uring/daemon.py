"""A node as a process: signals, the service manager, the admin socket, reload, upgrade.

The main thread waits for signals and does what they ask; the node itself (server.py) runs on
threads of its own.
"""

import dataclasses
import errno
import json
import logging
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
from raida_uring.servicemanager import activated_sockets, notify, watchdog_interval_s
from raida_uring.upgrade import Successor, Takeover

RESOURCE_INTERVAL_S: Final = 60.0

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
    """A server in its own process: signals, admin socket, reload. Thread: the main one, but for
    reload() and begin_drain()."""

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        """reread: reads the configuration again; None where there is no file to read."""
        self._takeover = Takeover.from_environment()
        self.server = Server(config, takeover=self._takeover, activated=activated_sockets())
        self._reread = reread
        self._reload_lock = threading.Lock()
        self._signals = _Signals()
        self._admin: Admin | None = None
        self._successor: Successor | None = None
        self._stop_asked = False
        self._watchdog_s = watchdog_interval_s()
        self._watchdog_at = 0.0
        self._laps = 0
        self._upgrades: queue.SimpleQueue[queue.SimpleQueue[int | StartError]] = queue.SimpleQueue()

    def begin_upgrade(self) -> "queue.SimpleQueue[int | StartError]":
        """Have a successor take over. Any thread.

        What comes of it is put into the queue: its process id once it serves, or why it did not
        come up; nothing has changed then.
        """
        answer: queue.SimpleQueue[int | StartError] = queue.SimpleQueue()
        self._upgrades.put(answer)
        self._signals.wake()
        return answer

    def reload(self) -> Reloaded:
        """Read the configuration again and apply what can change. Any thread.

        Raises ConfigError or EngineError, with nothing changed.
        """
        with self._reload_lock:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                reloaded = self._reload()
            except (ConfigError, StartError, EngineError) as error:
                logger.error(
                    "not reloaded, nothing changed: %s", error, extra=event("reload_failed")
                )
                raise
            except Exception as error:  # whatever it is, the node has something to go on with
                logger.exception("not reloaded: %r", error, extra=event("reload_failed"))
                raise StartError(f"a fault of the node, see its log: {error!r}") from error
            finally:
                notify("READY=1")
        _log_reloaded(reloaded)
        return reloaded

    def _reload(self) -> Reloaded:
        if self._reread is None:
            raise ConfigError("started without a configuration file")
        return self.server.reload(self._reread())

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """As Server.begin_drain(), and end when it is over. Any thread."""
        self.server.begin_drain(drain_timeout_ms)
        self._signals.wake()

    def serve(self) -> None:
        """Serve until SIGTERM, SIGINT or a drain.

        Raises StartError, ConfigError, StoreError, and EngineError also when the store fails for
        good meanwhile.
        """
        with self._signals:
            self.server.start()
            try:
                if self._takeover is None:
                    self._admin = admin.open_for(self)
                logger.info(
                    "try it: raida-uring ping %s",
                    _reachable(self.server.endpoints[0]),
                    extra=event("hint"),
                )
                notify("READY=1")
                self.server.begin_takeover(self._open_to_operators)
                self._serve_until_stopped()
            finally:
                if self._successor is None:
                    notify("STOPPING=1")
                try:
                    self._drain()
                finally:
                    if self._admin is not None:
                        self._admin.close()

    def _open_to_operators(self) -> None:
        """What only one process can have: the admin socket and the port of HTTP. The predecessor
        has left them; what is still in the way must not end a node that serves."""
        try:
            self.server.open_web()
        except StartError as error:
            logger.error("no HTTP: %s", error, extra=event("http_failed"))
        try:
            self._admin = admin.open_for(self)
        except RaidaError as error:
            logger.warning("no admin socket: %s", error, extra=event("admin_socket_failed"))

    def _start_successor(self) -> bool:
        """Whether it serves; else this node goes on. Answers whoever asked for it."""
        logger.info("upgrade: starting the successor", extra=event("upgrade_begun"))
        outcome: int | StartError
        try:
            self._successor = self.server.start_successor(self._while_it_starts)
        except StartError as error:
            logger.error("no upgrade, this node goes on: %s", error, extra=event("upgrade_failed"))
            outcome = error
        else:
            outcome = self._successor.pid
            logger.info(
                "upgrade: process %d serves", outcome, extra=event("upgrade_done", pid=outcome)
            )
            notify(f"MAINPID={outcome}")
        while not self._upgrades.empty():
            self._upgrades.get_nowait().put(outcome)
        return self._successor is not None

    def _while_it_starts(self) -> None:
        """The service manager must hear of us, and a stop must not wait. Raises StartError."""
        self._feed_watchdog()
        if self._signals.take(0) in STOP_SIGNALS:
            self._stop_asked = True
            raise StartError("this node was told to stop meanwhile")

    def _serve_until_stopped(self) -> None:
        process = psutil.Process()
        process.cpu_percent()  # the first call only starts the measurement
        next_line = time.monotonic() + RESOURCE_INTERVAL_S
        while self.server.running and self.server.phase == "serving":
            taken = self._signals.take(min(1.0, self._watchdog_s or 1.0))
            if taken in STOP_SIGNALS:
                return
            upgrading = taken == UPGRADE_SIGNAL or not self._upgrades.empty()
            if upgrading and (self._start_successor() or self._stop_asked):
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

    def _drain(self) -> None:
        server = self.server
        if server.running and server.phase == "serving":
            timeout_ms = server.config.network.drain_timeout_ms
            logger.info(
                "stopping: up to %.1f s for requests in flight",
                timeout_ms / 1000,
                extra=event("stopping", timeout_ms=timeout_ms),
            )
            if self._successor is None:
                server.begin_drain(timeout_ms)
            else:
                self._hand_over(self._successor, timeout_ms)
        while not server.wait(0.05):
            self._feed_watchdog()
            if self._signals.take(0) in STOP_SIGNALS:
                logger.warning(
                    "stopping at once: requests in flight are dropped", extra=event("stopping_now")
                )
                server.begin_drain(0)
        try:
            server.stop(0)
            if self._successor is not None:
                self._successor.finish(dataclasses.asdict(server.stats()))
        finally:
            logger.info(
                "final counters %s",
                json.dumps(server.counters()),
                extra=event("final_counters", **server.counters()),
            )

    def _feed_watchdog(self) -> None:
        """Tell the service manager that the I/O thread turns: it alone can say so, by its laps."""
        if self._watchdog_s is None or time.monotonic() < self._watchdog_at:
            return
        try:
            laps = self.server.beat()
        except RaidaError:
            return  # not serving: nothing to be fed with
        if laps != self._laps:
            self._laps = laps
            self._watchdog_at = time.monotonic() + self._watchdog_s
            notify("WATCHDOG=1")

    def _hand_over(self, successor: Successor, timeout_ms: int) -> None:
        """The successor serves: give it what only one of us can have, then what is under way."""
        self.server.close_web()
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        successor.release()
        self.server.begin_hand_over(successor, timeout_ms)


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
