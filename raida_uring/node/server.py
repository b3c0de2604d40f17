"""A node: what it tells about itself, what it can be asked to do, how it starts and stops.

Start: descriptor limit, commands, sockets, HTTP, store, trees, engine, workers, I/O thread. Stop is
the reverse: the data plane drains (it answers what was received), the workers leave, the HTTP
thread ends, the store is closed, memory and sockets go last.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from raida_uring import handlers, log, remedies
from raida_uring.addresses import Bound, format_endpoint
from raida_uring.admin.node import Reloaded
from raida_uring.config import (
    LIVE,
    LOWER,
    Config,
    Difference,
    differences,
    engine_settings,
    with_settings,
)
from raida_uring.errors import EngineError, StartError, StoreError, passing
from raida_uring.ffi import native
from raida_uring.handlers import Command, listing
from raida_uring.handlers.node import Node
from raida_uring.log import events
from raida_uring.node import sockets, startup
from raida_uring.node.operators import UNAVAILABLE, Website
from raida_uring.node.patience import Patience
from raida_uring.node.sockets import Inherited
from raida_uring.node.storage import Storage
from raida_uring.node.upgrade import Successor, Takeover
from raida_uring.observe import snapshot
from raida_uring.observe.requestlog import RequestLog
from raida_uring.protocol.calls import NodeStats
from raida_uring.store import Store
from raida_uring.store.trees import Integrity
from raida_uring.threads import Vital
from raida_uring.workers.thread import WorkerThread
from raida_uring.workers.worker import join_all

READY_TIMEOUT_MS: Final = 30_000
CLOCK_STEP_S: Final = 1.0  # by which the clock was set, at least: it is read a moment apart


class Observed:
    """What a running node tells about itself. Any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._bound: list[Bound] = []
        self._engine: native.Engine | None = None
        self._lock = threading.Lock()  # the engine may be destroyed while another thread asks it
        # The same for observe(), which may wait for a disk: a drain must not wait for that.
        self._observing = threading.Lock()
        self._workers: list[WorkerThread] = []
        self._commands: Sequence[Command] = ()  # set before the engine, which others ask about them
        self._storage: Storage | None = None
        self.website = Website(self._observe, self.beat)
        self._requests: RequestLog | None = None
        self._connections_reserved = 0
        self._loop: threading.Thread | None = None
        self.fault: EngineError | None = None  # what the I/O thread has failed with
        self._final_counters: dict[str, int] | None = None
        self._started_s: float | None = None  # monotonic; None: it does not serve yet
        self._started_at = time.time()
        self._draining = False

    @property
    def _store(self) -> Store | None:
        storage = self._storage  # read once: another thread may close it
        return None if storage is None else storage.store

    @property
    def _integrity(self) -> Integrity | None:
        storage = self._storage
        return None if storage is None else storage.integrity

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
        return startup.describe_tier(self._running_engine(), self.config)

    @property
    def running(self) -> bool:
        """Whether the I/O thread serves."""
        return self._loop is not None and self._loop.is_alive()

    @property
    def store_fault(self) -> StoreError | None:
        """Why the store is of no use until it is opened again; None while it is."""
        return None if self._store is None else self._store.fault

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
        return self.website.url

    def observe(self) -> snapshot.Snapshot:
        """Everything the node tells of itself. Any thread. Raises StartError unless it serves."""
        with self._observing:
            return self._observe()

    def _observe(self) -> snapshot.Snapshot:
        """observe(), for the HTTP thread, which ends before what is observed goes. Without the
        lock: a disk that does not answer would keep a stop waiting for every scrape."""
        engine, loop = self._started_engine(), self._loop
        if loop is None:
            raise StartError("it has stopped")
        serving = snapshot.Serving(
            phase=self.phase,
            draining=self._draining,
            tier=self.tier,
            url=self.url,
            http_fault=self.website.fault,
            connections_max=self.connections_max,
            started_at=self.started_at,
            uptime_s=self.uptime_s,
        )
        return snapshot.take(
            snapshot.Subject(
                config=self.config,
                serving=serving,
                engine=engine,
                commands=self._commands,
                bound=self._bound,
                store=self._store,
                integrity=self._integrity,
                io_thread=loop,
                workers=[worker.thread for worker in self._workers],
            )
        )

    def _started_engine(self) -> native.Engine:
        """The engine once it serves, and as long as it is there. Raises StartError."""
        engine = self._engine
        if engine is None or not engine.tier:
            raise StartError(
                "the node is starting" if self._final_counters is None else "it has stopped"
            )
        return engine

    def beat(self) -> int:
        """Have the I/O thread turn once more; how often it has turned so far. As _observe()."""
        engine = self._started_engine()
        engine.wake()
        return engine.snapshot()["laps"]

    def connections(self, first: int = 0) -> tuple[list[native.Connection], int]:
        """Some of the open connections from number `first` on, none at the end, and where to go
        on. Any thread. Raises StartError or EngineError when the node does not run."""
        with self._lock:
            return self._running_engine().connections(first)

    @property
    def connections_max(self) -> int:
        """How many connections it takes at once: what is configured, if there is room for it."""
        return min(self.config.limits.connections_max, self._connections_reserved)

    def peers(self, count: int) -> tuple[float, list[tuple[str, float]]]:
        """See RequestLog.peers(). Any thread."""
        return (0.0, []) if self._requests is None else self._requests.peers(count)

    def limited(self) -> tuple[list[native.Limited], int]:
        """Sources and coins with too many failed checks: some of them, and how many there are.

        Any thread. Raises StartError or EngineError when the node does not run.
        """
        with self._lock:
            return self._running_engine().limited()


class Serving(Observed):
    """What a running node can be asked to do. Thread: control, but where it says any."""

    def __init__(self, config: Config, takeover: Takeover | None, *, shared: bool) -> None:
        """takeover: what a predecessor has passed on. shared: the service manager keeps the sockets
        open whoever serves them."""
        super().__init__(config)
        self._takeover = takeover
        self._shared_sockets = shared or (takeover is not None and takeover.shared)
        self._node: Node | None = None
        self._final_stats: NodeStats | None = None
        self._handing_over = False

    def begin_drain(self, drain_timeout_ms: int | None = None) -> None:
        """Stop taking requests; give up on unanswered ones after the time-out (None: `[network]
        drain_timeout_ms`). A further call can only shorten it. Any thread."""
        if drain_timeout_ms is None:
            drain_timeout_ms = self.config.network.drain_timeout_ms
        self._draining = True
        with self._lock:
            if self._engine is not None:
                self._engine.drain(drain_timeout_ms)

    def begin_takeover(self, changed: Callable[[], None]) -> None:
        """Tell the predecessor that this node serves, and continue what it passes on.

        changed: called on another thread at news of the predecessor, see Takeover.begin().
        """
        if self._takeover is not None:
            self._takeover.begin(self._adopt, self._carry, changed)

    def _adopt(self, listener: int, fd: int) -> None:
        """listener: the predecessor's number. Raises EngineError, StartError once stopped."""
        hosts = [] if self._takeover is None else self._takeover.hosts
        host = hosts[listener] if listener < len(hosts) else ""
        numbers = {bound.host: number for number, bound in enumerate(self._bound)}
        with self._lock:  # any listener will do for an address that this node does not serve
            self._running_engine().adopt(numbers.get(host, 0), fd)

    def _carry(self, carried: dict[str, int]) -> None:
        """Continue the predecessor's counters, as far as this version has them. Raises TypeError,
        ValueError."""
        names = [field.name for field in dataclasses.fields(NodeStats)]
        stats = NodeStats(**{name: int(carried.get(name, 0)) for name in names})
        if self._node is not None:
            self._node.carry(stats)

    def end_takeover(self) -> None:
        """The predecessor is gone: sockets and store are this node's alone."""
        with self._lock, contextlib.suppress(EngineError, StartError):  # the node ends
            self._running_engine().own(shared=self._shared_sockets)
        if self._storage is not None:
            self._storage.claim()

    def start_successor(self) -> Successor:
        """Start the node that is to take over. Raises StartError."""
        if self._storage is not None:
            self._storage.share()
        try:
            return Successor.start(
                [(one.host, one.port, one.udp.fileno(), one.tcp.fileno()) for one in self._bound],
                -1 if self._store is None else self._store.owner,
                -1 if self._store is None else self._store.memory,
                shared=self._shared_sockets,
                timeout_s=self.config.upgrade.start_timeout_s,
            )
        except StartError:
            self.forget_successor()
            raise

    def forget_successor(self) -> None:
        """The successor has ended: it changes the store no more."""
        if self._storage is not None:
            self._storage.unshare()

    def begin_hand_over(self, successor: Successor, drain_timeout_ms: int) -> None:
        """Leave the sockets to the successor and answer what was received. Any thread."""
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

    def stats(self) -> NodeStats:
        """The statistics that a successor continues. Any thread, after start()."""
        with self._lock:
            if self._final_stats is not None:
                return self._final_stats
            if self._node is None:
                raise StartError("the server is not running")
            return self._node.stats()

    def reload(self, wanted: Config) -> Reloaded:
        """Apply what of `wanted` may change while the node serves. Any thread, one at a time.

        All or nothing: raises EngineError, with nothing changed, if the data plane refuses it.
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


class Server(Serving):
    """One node: sockets, data plane and workers. Thread: the one that created it."""

    def __init__(
        self,
        config: Config,
        *,
        keys: Store | None = None,
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
        patience: to wait for obstacles that go away. With it, a start succeeds without HTTP, see
        website.fault; website.open() tries again.
        """
        super().__init__(config, takeover, shared=stored or received is not None)
        self._keys = keys
        self._received = received
        self._patience = patience
        self._started = False

    def start(self) -> None:
        """Return once requests are answered.

        Raises StartError for a fault of the machine, ConfigError of a handler's module, StoreError
        of the store; nothing stays open then.
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
        config, takeover = self.config, self._takeover
        self._connections_reserved = startup.limit_connections(config)
        patience = self._patience
        with contextlib.nullcontext() if patience is None else patience.interruptible():
            stored = config.store.path is not None
            self._commands = handlers.load(config.handlers.modules, store=stored)
        events.COMMANDS.log(summary=listing.summary(self._commands), count=len(self._commands))
        inherited = self._received
        if takeover is not None:
            inherited = Inherited(takeover.port, takeover.descriptors)
        self._bound = sockets.bind_all(config, inherited, self._patience)
        if takeover is None:  # otherwise once the predecessor has left the port
            with contextlib.suppress(*UNAVAILABLE if self._patience is not None else ()):
                self.website.open(config.http)
        self._open_store()
        self._engine = engine = startup.make_engine(
            config,
            self._bound,
            self._connections_reserved,
            shared=self._shared_sockets or takeover is not None,
        )
        startup.set_native(engine, config, self._store, self._keys)
        startup.publish(engine, self._commands)
        self._requests = RequestLog(engine, config.log.requests_per_s)
        if self._integrity is not None:
            shown = config.server.synchronization_enabled
            self._integrity.start(engine.shown if shown else None)
        self._start_workers(engine)
        if takeover is not None:
            takeover.tell_receiving()
        self._start_loop(engine)
        self._requests.start()
        places = ", ".join(format_endpoint(*endpoint) for endpoint in self.endpoints)
        events.SERVING.log(endpoints=places, tier=self.tier)
        startup.log_missing(engine, config, self._bound)
        self.website.log()

    def _open_store(self) -> None:
        """Raises StoreError."""
        if self.config.store.path is not None:
            self._storage = Storage(self.config, self._takeover, self._patience)
        elif self._takeover is not None:
            for descriptor in (self._takeover.owner, self._takeover.memory):
                if descriptor >= 0:
                    os.close(descriptor)

    def _start_workers(self, engine: native.Engine) -> None:
        store = self._store
        self._node = Node(self.config, self.counters, store, self._integrity, engine)
        self._node.addresses.begin(engine.set_raida, engine.raida_missed)
        for worker in startup.make_workers(
            self.config, engine, self._commands, self._node, store, self._keys
        ):
            self._workers.append(worker)  # one by one: a failure discards those that are there
        for worker in self._workers:
            worker.start()

    def _start_loop(self, engine: native.Engine) -> None:
        self._loop = loop = Vital(target=self._run_loop, name="io", daemon=True)
        try:
            loop.start()
        except BaseException:
            self._loop = None
            raise
        try:
            engine.wait_ready(READY_TIMEOUT_MS)
        except EngineError as error:
            reason = startup.explain_failure(error, self.config)
            raise passing(StartError(reason), error.number) from error

    def _run_loop(self) -> None:
        """Thread: loop."""
        # Before the first lap: a client that has its answer finds the node started over HTTP, too.
        self._started_at, self._started_s = time.time(), time.monotonic()
        try:
            self._running_engine().run()
        except EngineError as error:
            self.fault = error

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the I/O thread has ended; whether it has."""
        if self._loop is not None:
            self._loop.join(timeout_s)
        return not self.running

    def stop(self, drain_timeout_ms: int | None = None) -> None:
        """Drain and release everything. Safe to call twice.

        drain_timeout_ms: as for begin_drain(). Raises EngineError if the data plane has failed.
        """
        self.begin_drain(drain_timeout_ms)
        self.wait()
        self._release()
        if self.fault is not None:
            raise self.fault

    def _release(self) -> None:
        self._draining = True
        engine = self._engine
        if engine is None:
            self.website.close()
            self._close_store()
        else:
            self._release_engine(engine)
        for bound in self._bound:
            bound.close()
        self._loop = None
        self._workers = []

    def _release_engine(self, engine: native.Engine) -> None:
        engine.drain(0)
        if self._loop is not None:
            self._loop.join()
        else:
            engine.close_workers()
        if self._node is not None:
            self._node.addresses.end()
        stuck = join_all(self._workers)  # in handlers, which go on using their memory
        if stuck:
            events.HANDLERS_STUCK.log(names=", ".join(stuck), workers=stuck)
        if self._requests is not None:
            self._requests.stop()
        self.website.close()
        if not stuck:
            self._close_store()
        elif self._storage is not None:
            self._storage.stop_writing()
            self._storage = None  # never to be closed, not even by a second stop
        with self._observing, self._lock:
            self._final_counters = engine.counters()
            self._final_stats = None if self._node is None else self._node.stats()
            self._engine = None
            if not stuck:
                engine.destroy()

    def _close_store(self) -> None:
        """Once no worker uses it any more."""
        if self._storage is None:
            return
        self._storage.stop(save=not self._handing_over)
        with self._observing:
            store, self._storage = self._storage.store, None
        store.close()
