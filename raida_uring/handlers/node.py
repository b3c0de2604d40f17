"""The node as handlers see it: configuration, statistics, coins, trees.

Any thread, but for `coins`, which belongs to the worker that runs the handler.
"""

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from raida_uring.config import Config
from raida_uring.errors import StoreError
from raida_uring.handlers.page_readers import page_readers
from raida_uring.handlers.peers import Addresses
from raida_uring.protocol.calls import NodeStats
from raida_uring.store import Coins, Store

if TYPE_CHECKING:
    from raida_uring.store.trees import Integrity, Trees


_ECHOES, _COINS_POWNED, _VALUE_POWNED = range(3)  # in the order of NodeStats


class Statistics(Protocol):
    """What show_stats tells: native.Engine. Thread: any."""

    def add_statistic(self, index: int, by: int) -> None:
        """Add to one of them."""

    def statistics(self) -> tuple[int, ...]:
        """All of them, in the order of NodeStats."""


class _OwnStatistics:
    """Of a node without a data plane, as tests of handlers have it."""

    def __init__(self, counters: Callable[[], dict[str, int]]) -> None:
        self._counters = counters
        self._values = [0] * len(dataclasses.fields(NodeStats))
        self._lock = threading.Lock()

    def add_statistic(self, index: int, by: int) -> None:
        with self._lock:
            self._values[index] = (self._values[index] + by) % (1 << 64)

    def statistics(self) -> tuple[int, ...]:
        counted = self._counters()
        with self._lock:
            echoes, coins, value, datagrams = self._values
        return (
            echoes + counted.get("echoes", 0),
            coins,
            value,
            datagrams + counted.get("udp_received", 0),
        )


class Node:
    """Passed to every handler as its second argument."""

    def __init__(
        self,
        config: Config,
        counters: Callable[[], dict[str, int]],
        store: Store | None = None,
        integrity: "Integrity | None" = None,
        statistics: "Statistics | None" = None,
    ) -> None:
        """counters: a consistent set of the data plane's counters, by name. statistics: what
        show_stats tells; None: of this object alone."""
        self.config = config
        self.counters = counters
        self._statistics = statistics or _OwnStatistics(counters)
        # Here, once: neither setting changes before the next start.
        self.page_readers = page_readers(config)
        self.addresses = Addresses(config.server.raida_servers)
        self._store = store
        self._integrity = integrity
        self._coins: Coins | None = None
        self._reply_factor: Callable[[], int] = lambda: config.limits.udp_reply_factor_max
        self._writing = False  # within write(); the worker's own, as `coins` is

    def for_worker(
        self, coins: Coins | None, reply_factor: Callable[[], int] | None = None
    ) -> "Node":
        """This node with the worker's own view of the store. reply_factor: `[limits]
        udp_reply_factor_max`, as the replies to the worker's batch are held to it."""
        node = copy.copy(self)
        node._coins = coins
        if reply_factor is not None:
            node._reply_factor = reply_factor
        return node

    @property
    def reply_factor(self) -> int:
        """`[limits] udp_reply_factor_max` for the reply to this request: a reload changes it."""
        return self._reply_factor()

    @property
    def coins(self) -> Coins:
        """The store as this request sees it; changes are for handlers of mode "write".

        Raises StoreError on a node without a store, and in handlers of mode "slow": those open a
        view of their own with read() or write(), for no longer than they need it.
        """
        if self._coins is None:
            self._opened()
            raise StoreError(
                'a handler of mode "slow" has no node.coins: use node.read() or write()'
            )
        return self._coins

    def read(self) -> AbstractContextManager[Coins]:
        """The newest state of the store, for handlers of mode "slow"."""
        return self._opened().read()

    @contextlib.contextmanager
    def write(self) -> Iterator[Coins]:
        """Change the store, for handlers of mode "slow"; durable when the `with` has ended.

        Raises RuntimeError in other handlers and within another write(), which would wait for each
        other forever, and block every other change.
        """
        store = self._opened()
        if self._coins is not None or self._writing:
            raise RuntimeError("a transaction within a transaction")
        self._writing = True
        try:
            with store.write() as coins:
                yield coins
        finally:
            self._writing = False

    def _opened(self) -> Store:
        if self._store is None:
            raise StoreError("this node has no store")
        return self._store

    @property
    def has_store(self) -> bool:
        """Whether the node has coins."""
        return self._store is not None

    @property
    def trees(self) -> "Trees | None":
        """The Merkle trees whose roots this node shows; None: it shows none."""
        return None if self._integrity is None else self._integrity.trees()

    @property
    def integrity(self) -> "Integrity":
        """The Merkle trees. Raises StoreError on a node without a store."""
        if self._integrity is None:
            raise StoreError("this node has no store")
        return self._integrity

    def is_raida(self, host: str) -> bool:
        """Whether another RAIDA of `[server] raida_servers` has this address. Any thread."""
        return self.addresses.has(host)

    def carry(self, stats: NodeStats) -> None:
        """Continue a predecessor's statistics."""
        for index, count in enumerate(dataclasses.astuple(stats)):
            self._statistics.add_statistic(index, count)

    def count_echo(self) -> None:
        """Count an echo that a handler answered."""
        self._statistics.add_statistic(_ECHOES, 1)

    def count_powned(self, coins: int, value: int) -> None:
        """Count coins that changed hands. value: in units of 10^-8 coin."""
        self._statistics.add_statistic(_COINS_POWNED, coins)
        self._statistics.add_statistic(_VALUE_POWNED, value)

    def stats(self) -> NodeStats:
        """The statistics since start, each modulo 2^64."""
        return NodeStats(*self._statistics.statistics())
