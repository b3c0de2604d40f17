"""The daemon: what is started and stopped, in which order.

Start: descriptor limit, commands, sockets, HTTP, store, trees, engine, workers, I/O thread. Stop is
the reverse: the data plane drains (it answers what was received), the workers leave, the HTTP
thread ends, the store is closed, memory and sockets go last.
"""

import dataclasses
import errno
import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from raida_uring import admin, handlers, kernel, log, metrics, sockets
from raida_uring import config as configuration
from raida_uring.admin import Admin
from raida_uring.config import Config
from raida_uring.errors import ConfigError, EngineError, RaidaError, StartError, StoreError
from raida_uring.ffi import native
from raida_uring.handlers import Command
from raida_uring.integrity import Integrity
from raida_uring.log import event
from raida_uring.node import Node, Stats
from raida_uring.requestlog import RequestLog, Tap
from raida_uring.sealing import Keys
from raida_uring.servicemanager import activated_sockets, notify, watchdog_interval_s
from raida_uring.settings import LIVE, LOWER
from raida_uring.store import Sizes, Store, Syncer
from raida_uring.upgrade import START_TIMEOUT_S, Inherited, Successor, Takeover
from raida_uring.web import Web
from raida_uring.worker import Worker

READY_TIMEOUT_MS: Final = 30_000
JOIN_TIMEOUT_S: Final = 1.0  # for workers to leave, beyond the drain; only a stuck one needs it
RESOURCE_INTERVAL_S: Final = 60.0

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
UPGRADE_SIGNAL: Final = signal.SIGUSR2
SIGNALS: Final = STOP_SIGNALS | {signal.SIGHUP, UPGRADE_SIGNAL}

logger = logging.getLogger("raida_uring")


class Server:
    """One node: sockets, data plane and workers. Thread: the one that created it."""

    def __init__(
        self,
        config: Config,
        *,
        keys: Keys | None = None,
        takeover: Takeover | None = None,
        activated: Inherited | None = None,
    ) -> None:
        """Nothing is opened before start().

        takeover: what the node that this one succeeds has passed on. activated: sockets of the
        service manager, which keeps them open when this node ends.
        keys: of the coins that requests are sealed with, in place of those of the store.
        """
        self.config = config
        self._keys = keys
        self._takeover = takeover
        self._activated = activated
        # The service manager keeps them open whoever serves them.
        self._shared_sockets = activated is not None or (takeover is not None and takeover.shared)
        self._node: Node | None = None
        self._handing_over = False
        self._bound: list[sockets.Bound] = []
        self._engine: native.Engine | None = None
        self._workers: list[Worker] = []
        self._store: Store | None = None
        self._syncer: Syncer | None = None
        self._integrity: Integrity | None = None
        self._web: Web | None = None
        self._started_at = 0.0  # seconds since 1970; 0: not yet
        self._requests: RequestLog | None = None
        self._connections_reserved = 0
        self._loop: threading.Thread | None = None
        self._fault: EngineError | None = None
        self._final_counters: dict[str, int] | None = None
        self._lock = threading.Lock()  # the engine may be destroyed while another thread asks it
        self._started = False
        self._started_at = time.time()
        self._draining = False

    @property
    def started_at(self) -> float:
        """When it was made, in seconds since the epoch."""
        return self._started_at

    @property
    def phase(self) -> str:
        """`starting`, `serving`, `draining` or `stopped`."""
        if self._final_counters is not None:
            return "stopped"
        if self._draining:
            return "draining"
        return "serving" if self.running else "starting"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """Host and port of every address it answers on."""
        return [(bound.host, bound.port) for bound in self._bound]

    @property
    def tier(self) -> str:
        """Backend and tier in use and, where it is not the best, why; for people."""
        engine = self._running_engine()
        if (refusal := engine.refusal) is not None:
            return f"{engine.tier} ({_explain_refusal(refusal)})"
        if self.config.network.backend == "epoll":
            return f"{engine.tier} (as configured)"
        return engine.tier

    @property
    def running(self) -> bool:
        """Whether the I/O thread serves."""
        return self._loop is not None and self._loop.is_alive()

    def start(self) -> None:
        """Return once requests are answered.

        Raises StartError when the machine stands in the way, ConfigError when a handler's module
        does, StoreError when the store does; nothing stays open then.
        """
        if self._started:
            raise StartError("a server starts once: make another one")
        self._started = True
        try:
            self._start()
        except RuntimeError as error:  # of threading: a limit on tasks
            self._release()
            raise StartError(f"{error}: raise TasksMax= (ulimit -u)") from error
        except BaseException:
            self._release()
            raise

    def _start(self) -> None:
        self._connections_reserved = connections_max = self._limit_connections()
        commands = handlers.load(
            self.config.handlers.modules, store=self.config.store.path is not None
        )
        inherited = self._activated if self._takeover is None else self._takeover.sockets
        self._bound = sockets.bind_all(self.config, inherited)
        if self._takeover is None:  # else once the predecessor has left the port
            self.open_web()
        listeners = [
            native.Listener(bound.udp.fileno(), bound.tcp.fileno(), bound.wildcard)
            for bound in self._bound
        ]
        self._open_store()
        try:
            self._engine = native.Engine(
                listeners,
                kernel.engine_settings(self.config, connections_max)
                | {"shared_sockets": int(self._shared_sockets)},
            )
        except EngineError as error:
            raise StartError(f"{error}; lower [udp], [limits] or [tcp] sizes") from error
        self._publish(self._engine, commands)
        self._requests = RequestLog(self._engine, self.config.log.requests_per_s)
        self._start_integrity(self._engine)
        self._start_workers(self._engine, commands)
        loop = threading.Thread(target=self._run_loop, name="io", daemon=True)
        loop.start()
        self._loop = loop
        try:
            self._engine.wait_ready(READY_TIMEOUT_MS)
        except EngineError as error:
            raise StartError(self._start_fault(error)) from error
        self._requests.start()
        self._started_at = time.time()
        logger.info(
            "serving on %s: %s",
            self._places(),
            self.tier,
            extra=event("serving", endpoints=self._places(), tier=self.tier),
        )
        if kernel.LACK_OF_MEMORY in self._engine.tier:
            logger.warning(
                "smaller queues than asked for: %s",
                kernel.explain_refusal(errno.ENOMEM),
                extra=event("queues_small"),
            )
        if self._web is not None:
            logger.info("status page, metrics and health on %s", self._web.url, extra=event("http"))

    def _start_fault(self, error: EngineError) -> str:
        if self.config.network.backend != "uring" or "pinning" in error.doing:
            return str(error)
        return _explain_refusal(error)

    def _places(self) -> str:
        return ", ".join(sockets.format_endpoint(*endpoint) for endpoint in self.endpoints)

    def _limit_connections(self) -> int:
        limit = sockets.raise_descriptor_limit()
        wanted = self.config.limits.connections_max
        room = sockets.connections_room(limit)
        if room < 1:
            raise StartError(
                f"a descriptor limit of {limit} leaves no room for connections: raise LimitNOFILE="
            )
        if wanted > room:
            logger.info(
                "connections_max lowered from %d to %d: the descriptor limit is %d",
                wanted,
                room,
                limit,
                extra=event("connections_lowered", wanted=wanted, granted=room),
            )
        return min(wanted, room)

    @staticmethod
    def _publish(engine: native.Engine, commands: Iterable[Command]) -> None:
        lanes = {
            "read": native.CLASS_WORKER,
            "slow": native.CLASS_SLOW,
            "write": native.CLASS_WRITE,
        }
        for item in commands:
            lane = lanes[item.mode]
            if (item.group, item.code) == (0, 0):
                lane = native.CLASS_ECHO
            engine.set_class(item.group, item.code, lane)

    def _start_workers(self, engine: native.Engine, commands: Sequence[Command]) -> None:
        store, cpus = self._store, self.config.workers.cpus
        self._node = node = Node(self.config, self.counters, store, self._integrity)
        ordinary, slow = self.config.workers.count, self.config.workers.slow_count
        for index in range(ordinary + slow):
            coins = store.coins() if store is not None and index < ordinary else None
            # A slow handler must not hold a state of the store: keys are looked up one by one.
            keys = store if index >= ordinary and self._keys is None else self._keys
            self._workers.append(
                Worker(engine, index, commands, node, cpus, coins, keys, tap=self._tap())
            )
        if store is not None:
            coins = store.coins(writing=True)
            self._workers.append(
                Worker(
                    engine,
                    ordinary + slow,
                    commands,
                    node,
                    cpus,
                    coins,
                    self._keys,
                    tap=self._tap(),
                    writing=True,
                )
            )
        for worker in self._workers:
            worker.start()

    def _tap(self) -> Tap | None:
        return None if self._requests is None else self._requests.tap()

    def _open_store(self) -> None:
        """Raises StoreError."""
        settings = self.config.store
        if settings.path is None:
            return
        self._store = Store(
            Path(settings.path),
            map_bytes=settings.size_mib << 20,
            durability="interval" if settings.durability == "interval" else "commit",
            owner=-1 if self._takeover is None else self._takeover.owner,
        )
        if settings.durability == "interval":
            self._syncer = Syncer(self._store, settings.sync_interval_ms / 1000)
        self._integrity = Integrity(self._store)
        self._integrity.load(follow=self._takeover is not None)
        if self._takeover is None:
            self._integrity.save_if_possible()

    def _start_integrity(self, engine: native.Engine) -> None:
        if self._integrity is not None:
            shown = self.config.server.synchronization_enabled
            self._integrity.start(engine.publish_roots if shown else None, engine.roots_version)

    def tend_store(self) -> None:
        """Now and then: what the store needs done that no request brings about. Any thread."""
        if self._store is None:
            return
        try:
            dead = self._store.forget_dead()
        except StoreError as error:
            logger.warning("%s", error, extra=event("store_readers_unknown"))
        else:
            if dead:
                logger.info(
                    "%d readers of the store had been killed",
                    dead,
                    extra=event("store_readers_dead", count=dead),
                )

    def _close_store(self) -> None:
        """Once no worker uses it any more."""
        if self._integrity is not None:
            self._integrity.stop(save=not self._handing_over)
            self._integrity = None
        if self._syncer is not None:
            self._syncer.stop()
            self._syncer = None
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def store_fault(self) -> StoreError | None:
        """Why the store is of no use until it is opened again; None while it is."""
        return None if self._store is None else self._store.fault

    def _run_loop(self) -> None:
        """Thread: loop."""
        try:
            self._running_engine().run()
        except EngineError as error:
            self._fault = error

    def _running_engine(self) -> native.Engine:
        if self._engine is None:
            raise StartError("the server is not running")
        return self._engine

    def counters(self) -> dict[str, int]:
        """One consistent set of counters; after stop() the last one. Any thread."""
        with self._lock:
            if self._final_counters is not None:
                return dict(self._final_counters)
            return self._running_engine().counters()

    @property
    def url(self) -> str | None:
        """Where the status page is; None without one."""
        return None if self._web is None else self._web.url

    def observe(self) -> metrics.Observation:
        """Everything the node tells about itself. Any thread. Raises StartError unless it serves.

        Between start() and stop(), which ends the HTTP thread before what is observed goes.
        """
        engine, loop = self._engine, self._loop
        if engine is None or loop is None or not self._started_at:
            raise StartError("the node is starting")
        return metrics.observe(
            metrics.Subject(
                config=self.config,
                engine=engine,
                connections_max=self._connections_reserved,
                bound=self._bound,
                store=self._store,
                integrity=self._integrity,
                io_thread=loop,
                workers=[worker.thread for worker in self._workers],
                started_at=self._started_at,
                draining=self._draining,
            )
        )

    def beat(self) -> int:
        """Have the I/O thread turn once more; how often it has turned so far. As observe()."""
        if self._engine is None or not self._started_at:
            raise StartError("the node is starting")
        self._engine.wake()
        return self._engine.counters()["laps"]

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """Stop taking requests; give up on unanswered ones after the time-out. Any thread.

        A further call can only shorten it.
        """
        self._draining = True
        with self._lock:
            if self._engine is not None:
                self._draining = True
                self._engine.drain(drain_timeout_ms)

    def begin_takeover(self, released: Callable[[], None]) -> None:
        """Tell the predecessor that this node serves, and go on with what it passes on.

        released: called once admin socket and HTTP port are free, on another thread.
        """
        takeover, node, integrity = self._takeover, self._node, self._integrity
        if takeover is None or node is None:
            return
        takeover.begin(
            self._running_engine().adopt,
            lambda carried: node.carry(Stats(**carried)),
            released,
            (lambda: None) if integrity is None else integrity.leave,
        )

    def start_successor(
        self, meanwhile: Callable[[], None], timeout_s: float = START_TIMEOUT_S
    ) -> Successor:
        """Start the node that is to take over and return once it serves. Raises StartError.

        meanwhile: called often while it starts; may raise StartError to give it up.
        """
        return Successor.start(
            [(one.host, one.port, one.udp.fileno(), one.tcp.fileno()) for one in self._bound],
            -1 if self._store is None else self._store.owner,
            shared=self._shared_sockets,
            timeout_s=timeout_s,
            meanwhile=meanwhile,
        )

    def begin_hand_over(self, successor: Successor, drain_timeout_ms: int) -> None:
        """Leave the sockets to the successor and answer what has been received. Any thread."""
        self._handing_over = self._draining = True
        with self._lock:
            if self._engine is not None:
                self._engine.hand_over(drain_timeout_ms, successor.channel.fileno())

    def stats(self) -> Stats:
        """What a successor goes on counting from. Any thread, after start()."""
        if self._node is None:
            raise StartError("the server is not running")
        return self._node.stats()

    def load(self) -> native.EngineLoad:
        """Queues, workers and memory in use at one moment. Any thread.

        Raises StartError or EngineError when the node does not run.
        """
        with self._lock:
            return self._running_engine().load()

    def connections(self, first: int = 0) -> tuple[list[native.Connection], int]:
        """Some of the open connections from number `first` on, none at the end, and where to go
        on. Any thread. Raises StartError or EngineError when the node does not run."""
        with self._lock:
            return self._running_engine().connections(first)

    def histogram(self, kind: str) -> native.Histogram:
        """One of native.HISTOGRAM_KINDS. Any thread. Raises StartError once stopped."""
        with self._lock:
            return self._running_engine().histogram(kind)

    @property
    def connections_max(self) -> int:
        """How many connections it takes at once: what is configured, if there is room for it."""
        return min(self.config.limits.connections_max, self._connections_reserved)

    def peers(self, count: int) -> tuple[float, list[tuple[str, float]]]:
        """See RequestLog.peers(). Any thread."""
        return (0.0, []) if self._requests is None else self._requests.peers(count)

    def store_sizes(self) -> Sizes | None:
        """How full the store is; None without one. Any thread. Raises StoreError."""
        with self._lock:
            return None if self._store is None else self._store.sizes()

    def reload(self, wanted: Config) -> "Reloaded":
        """Take over of `wanted` what may change while the node serves. Any thread, one at a time.

        All or nothing: raises EngineError, with nothing changed, when the data plane does not take
        it.
        """
        changes = configuration.differences(self.config, wanted)
        applied = [change for change in changes if self._is_live(change)]
        config = configuration.with_settings(self.config, applied)
        with self._lock:
            self._running_engine().set_live(self._live_settings(config))
        self.config = config
        if self._requests is not None:
            self._requests.lines_per_s = config.log.requests_per_s
        if any(change.setting.table == "log" for change in applied):
            log.configure(config.log.level, form=config.log.format)
        return Reloaded(applied, [change for change in changes if change not in applied])

    def set_log_level(self, level: str) -> None:
        """Until the next start or reload. level: one of log.LEVELS. Any thread."""
        changed = dataclasses.replace(self.config.log, level=level)
        self.config = dataclasses.replace(self.config, log=changed)
        log.set_level(level)

    def _is_live(self, change: configuration.Difference) -> bool:
        if change.setting.reload == LOWER:
            return isinstance(change.new, int) and change.new <= self._connections_reserved
        return change.setting.reload == LIVE

    def _live_settings(self, config: Config) -> dict[str, int]:
        """The fields of struct ru_live."""
        return {
            "batch_max": config.workers.batch_max,
            "slow_queue_max": config.limits.slow_queue_max,
            "udp_reply_factor_max": config.limits.udp_reply_factor_max,
            "connections_max": min(config.limits.connections_max, self._connections_reserved),
            "body_bytes_max": config.limits.body_bytes_max,
            "progress_timeout_ms": config.tcp.progress_timeout_ms,
            "header_timeout_ms": config.tcp.header_timeout_ms,
            "body_timeout_ms": config.tcp.body_timeout_ms,
            "write_timeout_ms": config.tcp.write_timeout_ms,
            "idle_timeout_ms": config.tcp.idle_timeout_ms,
            "wait_max_ms": config.network.wait_max_ms,
            "busy_poll_us": config.network.busy_poll_us,
        }

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the I/O thread has ended; whether it has."""
        if self._loop is not None:
            self._loop.join(timeout_s)
        return not self.running

    def stop(self, drain_timeout_ms: int | None = None) -> None:
        """Drain and release everything. Safe to call twice.

        drain_timeout_ms: None takes `[network] drain_timeout_ms`. Raises EngineError when the data
        plane had failed meanwhile.
        """
        if drain_timeout_ms is None:
            drain_timeout_ms = self.config.network.drain_timeout_ms
        self.begin_drain(drain_timeout_ms)
        self.wait()
        self._release()
        if self._fault is not None:
            raise self._fault

    def _release(self) -> None:
        self._draining = True
        engine = self._engine
        if engine is not None:
            engine.drain(0)
            if self._loop is not None:
                self._loop.join()
            else:
                engine.close_workers()
            left = self._join_workers()
            if self._requests is not None:
                self._requests.stop()
            self.close_web()
            if left:
                self._close_store()
            elif self._syncer is not None:
                self._syncer.stop()
                self._syncer = None
            with self._lock:
                self._final_counters = engine.counters()
                self._engine = None
                if left:
                    engine.destroy()
        else:
            self.close_web()
            self._close_store()
        for bound in self._bound:
            bound.close()
        self._loop = None
        self._workers = []

    def open_web(self) -> None:
        """Serve the status page and metrics, if that is wanted. Raises StartError."""
        if self.config.http.enabled:
            self._web = Web(self.config.http, self.observe, self.beat)
            self._web.start()

    def close_web(self) -> None:
        """Leave the port to others."""
        if self._web is not None:
            self._web.stop()
            self._web = None

    def _join_workers(self) -> bool:
        """Whether every worker has left; one that is stuck in a handler keeps its memory."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for worker in self._workers:
            if worker.thread.ident is None:
                worker.discard()
            else:
                worker.thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [worker.thread.name for worker in self._workers if worker.thread.is_alive()]
        if stuck:
            logger.warning(
                "handlers did not return in time: %s",
                ", ".join(stuck),
                extra=event("handlers_stuck", workers=stuck),
            )
        return not stuck


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the configuration again.

    applied: in effect. restart: differ from what is in effect, and wait for the next start.
    """

    applied: list[configuration.Difference]
    restart: list[configuration.Difference]


def _explain_refusal(error: EngineError) -> str:
    return f"io_uring refused: {error}; {kernel.explain_refusal(error.number, error.doing)}"


# --- The daemon's main thread ------------------------------------------------------------------


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
