"""A node: what is started and stopped, in which order.

Start: descriptor limit, commands, sockets, HTTP, store, trees, engine, workers, I/O thread. Stop is
the reverse: the data plane drains (it answers what was received), the workers leave, the HTTP
thread ends, the store is closed, memory and sockets go last.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raida_uring import handlers, log, remedies
from raida_uring.addresses import Bound, format_endpoint
from raida_uring.config import (
    LIVE,
    LOWER,
    Config,
    Difference,
    differences,
    engine_settings,
    with_settings,
)
from raida_uring.descriptors import connections_room, raise_descriptor_limit
from raida_uring.errors import EngineError, StartError, StoreError, passing
from raida_uring.ffi import native
from raida_uring.handlers import ECHO_NUMBER, Command
from raida_uring.handlers.node import Node, Stats
from raida_uring.log import event
from raida_uring.node import sockets
from raida_uring.node.causes import LACK_OF_MEMORY, explain_refusal
from raida_uring.node.patience import Patience, retry
from raida_uring.node.sockets import Inherited
from raida_uring.node.upgrade import Successor, Takeover
from raida_uring.observe import metrics
from raida_uring.observe.requestlog import RequestLog
from raida_uring.observe.web import Web
from raida_uring.protocol.sealing import Keys
from raida_uring.store import Sizes, Store, Syncer, Watch
from raida_uring.store.trees import Integrity
from raida_uring.threads import Vital
from raida_uring.workers.tap import Tap
from raida_uring.workers.worker import Worker, join_all

READY_TIMEOUT_MS: Final = 30_000
# HTTP and the admin socket may fail with these, also for want of a descriptor or a thread. None of
# them may end a node that serves.
UNAVAILABLE: Final = (StartError, OSError, RuntimeError)
CLOCK_STEP_S: Final = 1.0  # by which the clock was set, at least: it is read a moment apart

logger = logging.getLogger("raida_uring")


class Server:
    """One node: sockets, data plane and workers. Thread: the one that created it."""

    def __init__(
        self,
        config: Config,
        *,
        keys: Keys | None = None,
        takeover: Takeover | None = None,
        received: Inherited | None = None,
        stored: bool = False,
        patience: Patience | None = None,
    ) -> None:
        """Nothing is opened before start().

        takeover: what the node that this one succeeds has passed on. received: sockets of the
        service manager, which keeps them open when this node ends. stored: whether it keeps those
        that this node binds, too.
        keys: of the coins that requests are sealed with, in place of those of the store.
        patience: to start with where something is in the way that passes by itself. HTTP does not
        keep such a server from starting, see http_fault: open_web() is to be called again.
        """
        self.config = config
        self._keys = keys
        self._takeover = takeover
        self._received = received
        # The service manager keeps them open whoever serves them.
        self._shared_sockets = (
            stored or received is not None or (takeover is not None and takeover.shared)
        )
        self._node: Node | None = None
        self._handing_over = False
        self._bound: list[Bound] = []
        self._engine: native.Engine | None = None
        self._workers: list[Worker] = []
        self._commands: Sequence[Command] = ()  # set before the engine, which others ask about them
        self._store: Store | None = None
        self._syncer: Syncer | None = None
        self._watch: Watch | None = None
        self._integrity: Integrity | None = None
        self._web: Web | None = None
        self._patience = patience
        self.http_fault: str | None = None  # why there is no HTTP, which is wanted
        self._requests: RequestLog | None = None
        self._connections_reserved = 0
        self._loop: threading.Thread | None = None
        self._fault: EngineError | None = None
        self._final_counters: dict[str, int] | None = None
        self._lock = threading.Lock()  # the engine may be destroyed while another thread asks it
        self._started = False
        self._started_s: float | None = None  # monotonic; None: it does not serve yet
        self._started_at = time.time()
        self._draining = False

    @property
    def started_at(self) -> float:
        """When it began to serve, in seconds since the epoch by the clock as it is set now: a board
        without a clock of its own starts in 1970. Before that, when it was made. Any thread."""
        if self._started_s is not None:
            told = time.time() - self.uptime_s
            if abs(told - self._started_at) > CLOCK_STEP_S:  # else the same at every look
                self._started_at = told
        return self._started_at

    @property
    def uptime_s(self) -> float:
        """For how long it has served, whatever became of the clock. Any thread."""
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

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
    def descriptors(self) -> list[int]:
        """Of the sockets it listens on; two for each address."""
        return [one.fileno() for bound in self._bound for one in (bound.udp, bound.tcp)]

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

    @property
    def fault(self) -> EngineError | None:
        """What the I/O thread has failed with; None while it has not."""
        return self._fault

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
        except RuntimeError as error:  # of threading
            remedy = remedies.for_threads()
            self._release()
            raise passing(StartError(f"{error}: {remedy}")) from error
        except BaseException:
            self._release()
            raise

    def _start(self) -> None:
        self._connections_reserved = connections_max = self._limit_connections()
        self._commands = commands = handlers.load(
            self.config.handlers.modules, store=self.config.store.path is not None
        )
        logger.info("%s", handlers.summary(commands), extra=event("commands", count=len(commands)))
        inherited = self._received if self._takeover is None else self._takeover.sockets
        self._bound = sockets.bind_all(self.config, inherited, self._patience)
        if self._takeover is None:  # else once the predecessor has left the port
            with contextlib.suppress(*UNAVAILABLE if self._patience is not None else ()):
                self.open_web()
        listeners = [
            native.Listener(bound.udp.fileno(), bound.tcp.fileno(), bound.wildcard)
            for bound in self._bound
        ]
        self._open_store()
        try:
            self._engine = native.Engine(
                listeners,
                engine_settings(self.config, connections_max)
                | {"shared_sockets": int(self._shared_sockets or self._takeover is not None)},
            )
        except EngineError as error:
            if error.number == errno.EINVAL:  # it says what must be otherwise
                raise StartError(str(error)) from error
            remedy = remedies.for_node_memory(error.number)
            refused = StartError(f"{error}; {remedy}" if remedy else str(error))
            raise passing(refused, error.number) from error
        self._publish(self._engine, commands)
        self._requests = RequestLog(self._engine, self.config.log.requests_per_s)
        self._start_integrity(self._engine)
        self._start_workers(self._engine, commands)
        if self._takeover is not None:
            self._takeover.tell_receiving()
        loop = Vital(target=self._run_loop, name="io", daemon=True)
        loop.start()
        self._loop = loop
        try:
            self._engine.wait_ready(READY_TIMEOUT_MS)
        except EngineError as error:
            raise passing(StartError(self._start_fault(error)), error.number) from error
        self._requests.start()
        self._started_at, self._started_s = time.time(), time.monotonic()
        logger.info(
            "serving on %s: %s",
            self._places(),
            self.tier,
            extra=event("serving", endpoints=self._places(), tier=self.tier),
        )
        self._log_what_is_missing()
        if LACK_OF_MEMORY in self._engine.tier:
            logger.warning(
                "smaller queues than asked for: %s",
                explain_refusal(errno.ENOMEM),
                extra=event("queues_small"),
            )
        self.log_web()

    def log_web(self) -> None:
        """Where HTTP is, once it is there."""
        if self._web is not None:
            urls = ", ".join(self._web.urls)
            logger.info("status page, metrics and health on %s", urls, extra=event("http"))
            _log_lack_of_ipv4("[http] listen", self._web.sockets)

    def _log_what_is_missing(self) -> None:
        """What somebody may take for granted, and look for in vain."""
        _log_lack_of_ipv4("[network] bind", [bound.tcp for bound in self._bound])
        if self.config.http.enabled and "ipv4" not in metrics.host_errors():
            logger.info(
                "no raida_host_udp_buffer_errors_total: /proc/self/net/snmp cannot be read",
                extra=event("host_errors_hidden"),
            )

    def _start_fault(self, error: EngineError) -> str:
        if self.config.network.backend != "uring" or "pinning" in error.doing:
            return str(error)
        return _explain_refusal(error)

    def _places(self) -> str:
        return ", ".join(format_endpoint(*endpoint) for endpoint in self.endpoints)

    def _limit_connections(self) -> int:
        limit = raise_descriptor_limit()
        wanted = self.config.limits.connections_max
        room = connections_room(limit)
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
            "read": native.CLASS_ORDINARY,
            "slow": native.CLASS_SLOW,
            "write": native.CLASS_WRITE,
        }
        for item in commands:
            lane = lanes[item.mode]
            if item.number == ECHO_NUMBER:
                lane = native.CLASS_ECHO
            engine.set_class(item.group, item.code, lane)
            if item.guesses:
                engine.guard(item.group, item.code)

    def _start_workers(self, engine: native.Engine, commands: Sequence[Command]) -> None:
        store, cpus = self._store, self.config.workers.cpus
        self._node = node = Node(self.config, self.counters, store, self._integrity, self._snapshot)
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
        owner = -1 if self._takeover is None else self._takeover.owner
        if settings.path is None:
            if owner >= 0:
                os.close(owner)
            return
        self._store = retry(
            self._patience,
            lambda: Store(
                Path(settings.path or ""),
                map_bytes=settings.size_mib << 20,
                durability="interval" if settings.durability == "interval" else "commit",
                owner=owner,
            ),
        )
        self._store.refuse_other(self.config.server.raida_id)
        if self._takeover is None:  # else a successor that fails would lock its predecessor out
            self._store.serve_as(self.config.server.raida_id)
        if settings.durability == "interval":
            self._syncer = Syncer(self._store, settings.sync_interval_ms / 1000)
        self._watch = Watch(self._store)
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
            alone = self._takeover is None or self._takeover.gone
            self._integrity.stop(save=alone and not self._handing_over)
            self._integrity = None
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._syncer is not None:
            self._syncer.stop()
            self._syncer = None
        with self._lock:  # an operator may be asking how full it is
            store, self._store = self._store, None
        if store is not None:
            store.close()

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

    def _snapshot(self) -> Mapping[str, int]:
        """counters(), for handlers that need a few of them."""
        with self._lock:
            if self._final_counters is not None:
                return self._final_counters
            return self._running_engine().snapshot()

    @property
    def url(self) -> str | None:
        """Where the status page is; None without one."""
        return None if self._web is None else self._web.url

    def observe(self) -> metrics.Observation:
        """Everything the node tells about itself. Any thread. Raises StartError unless it serves.

        Between start() and stop(), which ends the HTTP thread before what is observed goes.
        """
        engine, loop = self._engine, self._loop
        if engine is None or loop is None or self._started_s is None:
            raise StartError("the node is starting")
        return metrics.observe(
            metrics.Subject(
                config=self.config,
                engine=engine,
                commands=self._commands,
                connections_max=self.connections_max,
                bound=self._bound,
                store=self._store,
                integrity=self._integrity,
                io_thread=loop,
                workers=[worker.thread for worker in self._workers],
                started_at=self.started_at,
                uptime_s=self.uptime_s,
                draining=self._draining,
            )
        )

    def unready(self) -> list[str]:
        """Why no more requests should be sent here, in words; empty when they are welcome, and
        while the node does not serve. Any thread."""
        try:
            with self._lock:  # what is observed may be going
                return self.observe().unready()
        except StartError:
            return []

    def answered(self) -> list[metrics.Answered]:
        """What workers answered, by command. Any thread. Raises StartError unless it runs."""
        with self._lock:
            return metrics.answered(self._running_engine(), self._commands)

    def beat(self) -> int:
        """Have the I/O thread turn once more; how often it has turned so far. As observe()."""
        if self._engine is None or self._started_s is None:
            raise StartError("the node is starting")
        self._engine.wake()
        return self._engine.snapshot()["laps"]

    def begin_drain(self, drain_timeout_ms: int) -> None:
        """Stop taking requests; give up on unanswered ones after the time-out. Any thread.

        A further call can only shorten it.
        """
        self._draining = True
        with self._lock:
            if self._engine is not None:
                self._engine.drain(drain_timeout_ms)

    def begin_takeover(self, changed: Callable[[], None]) -> None:
        """Tell the predecessor that this node serves, and go on with what it passes on.

        changed: called on another thread when there is news of it, see Takeover.
        """
        if self._takeover is not None:
            self._takeover.begin(self._adopt, self._carry, changed)

    def _adopt(self, listener: int, fd: int) -> None:
        """listener: the predecessor's number. Raises EngineError, StartError once stopped."""
        hosts = [] if self._takeover is None else self._takeover.hosts
        host = hosts[listener] if listener < len(hosts) else ""
        numbers = {bound.host: number for number, bound in enumerate(self._bound)}
        with self._lock:  # an address that this node does not serve: any, for what is left of it
            self._running_engine().adopt(numbers.get(host, 0), fd)

    def _carry(self, carried: dict[str, int]) -> None:
        """Of another version's counters, those that this one has. Raises TypeError, ValueError."""
        names = [field.name for field in dataclasses.fields(Stats)]
        stats = Stats(**{name: int(carried.get(name, 0)) for name in names})
        if self._node is not None:
            self._node.carry(stats)

    def end_takeover(self) -> None:
        """The predecessor is gone: sockets and store are this node's alone."""
        with self._lock, contextlib.suppress(EngineError, StartError):  # it ends
            self._running_engine().own(shared=self._shared_sockets)
        if self._store is not None:
            self._store.claim()
            self._store.serve_as(self.config.server.raida_id)
        if self._integrity is not None:
            self._integrity.leave()

    def start_successor(self) -> Successor:
        """Start the node that is to take over. Raises StartError, StoreError."""
        if self._integrity is not None:
            self._integrity.follow()  # from its first commit on, should this node go on after all
        try:
            return Successor.start(
                [(one.host, one.port, one.udp.fileno(), one.tcp.fileno()) for one in self._bound],
                -1 if self._store is None else self._store.owner,
                shared=self._shared_sockets,
                timeout_s=self.config.upgrade.start_timeout_s,
            )
        except StartError:
            self.forget_successor()
            raise

    def forget_successor(self) -> None:
        """It has ended: what it changed in the store is all there is."""
        if self._integrity is not None:
            self._integrity.leave()

    def begin_hand_over(self, successor: Successor, drain_timeout_ms: int) -> None:
        """Leave the sockets to the successor and answer what has been received. Any thread."""
        self._handing_over = self._draining = True
        with self._lock:
            if self._engine is not None:
                self._engine.hand_over(drain_timeout_ms, successor.channel.fileno())

    def take_back(self) -> None:
        """The successor has ended before this node did: serve again. Raises EngineError or
        StartError when the data plane has ended, too."""
        with self._lock:
            self._running_engine().take_back()
            self._handing_over = self._draining = False
        self.forget_successor()

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

    def limited(self) -> tuple[list[native.Limited], int]:
        """Who has failed too many checks: some of them, and how many there are. Any thread.

        Raises StartError or EngineError when the node does not run.
        """
        with self._lock:
            return self._running_engine().limited()

    def store_sizes(self) -> Sizes | None:
        """How full the store is; None without one. Any thread. Raises StoreError."""
        with self._lock:
            return None if self._store is None else self._store.sizes()

    def reload(self, wanted: Config) -> "Reloaded":
        """Take over of `wanted` what may change while the node serves. Any thread, one at a time.

        All or nothing: raises EngineError, with nothing changed, when the data plane does not take
        it.
        """
        changes = differences(self.config, wanted)
        applied = [change for change in changes if self._is_live(change)]
        config = with_settings(self.config, applied)
        with self._lock:
            connections_max = min(config.limits.connections_max, self._connections_reserved)
            self._running_engine().set_live(engine_settings(config, connections_max))
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

    def _is_live(self, change: Difference) -> bool:
        if change.setting.reload == LOWER:
            return isinstance(change.new, int) and change.new <= self._connections_reserved
        return change.setting.reload == LIVE

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
        """Serve the status page and metrics, if that is wanted and not done. Raises one of
        UNAVAILABLE, which http_fault has in words then."""
        if not self.config.http.enabled or self._web is not None:
            return
        try:
            web = Web(self.config.http, self.observe, self.beat)
            try:
                web.start()
            except RuntimeError:
                web.stop()
                raise
        except UNAVAILABLE as error:
            self.http_fault = str(error)
            raise
        self._web, self.http_fault = web, None

    def close_web(self) -> None:
        """Leave the port to others."""
        if self._web is not None:
            self._web.stop()
            self._web = None

    def _join_workers(self) -> bool:
        """Whether every worker has left; one that is stuck in a handler keeps its memory."""
        if stuck := join_all(self._workers):
            logger.warning(
                "handlers did not return in time: %s",
                ", ".join(stuck),
                extra=event("handlers_stuck", workers=stuck),
            )
        return not stuck


def _log_lack_of_ipv4(place: str, listening: Sequence[socket.socket]) -> None:
    if _lacks_ipv4(listening):
        logger.info(
            '%s: "::" takes IPv6 alone, IPv4 is not listened to: add "0.0.0.0" to have it',
            place,
            extra=event("ipv6_only", place=place),
        )


def _lacks_ipv4(listening: Iterable[socket.socket]) -> bool:
    """Whether one stands for every IPv6 address and none for any IPv4 one."""
    everywhere = False
    for one in listening:
        if one.family == socket.AF_INET:
            return False
        if one.getsockname()[0] == "::":
            if not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                return False  # the service manager's
            everywhere = True
    return everywhere


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the configuration again.

    applied: in effect. restart: differ from what is in effect, and wait for the next start.
    """

    applied: list[Difference]
    restart: list[Difference]


def _explain_refusal(error: EngineError) -> str:
    return f"io_uring refused: {error}; {explain_refusal(error.number, error.doing)}"
