"""The node as handlers see it: configuration, statistics, coins, trees.

Any thread, but for `coins`, which belongs to the worker that runs the handler.
"""

import contextlib
import copy
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from raida_uring.config import Config
from raida_uring.errors import StoreError
from raida_uring.handlers.message import Reply
from raida_uring.handlers.page_readers import page_readers
from raida_uring.handlers.peers import Addresses
from raida_uring.protocol.calls import NodeStats
from raida_uring.store import Coins, Store

if TYPE_CHECKING:
    from raida_uring.store.trees import Integrity


class Node:
    """Passed to every handler as its second argument."""

    def __init__(
        self,
        config: Config,
        counters: Callable[[], dict[str, int]],
        store: Store | None = None,
        integrity: "Integrity | None" = None,
        snapshot: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """counters: a consistent set of the data plane's counters, by name. snapshot: the same
        at less cost, for a few of them."""
        self.config = config
        self.counters = counters
        self._snapshot = counters if snapshot is None else snapshot
        # Here, once: neither setting changes before the next start.
        self.page_readers = page_readers(config)
        self.version_reply = Reply(payload=config.server.version.encode("ascii"))
        self._addresses = Addresses(config.server.raida_servers)
        self._store = store
        self._integrity = integrity
        self._coins: Coins | None = None
        self._reply_factor: Callable[[], int] = lambda: config.limits.udp_reply_factor_max
        self._writing = False  # within write(); the worker's own, as `coins` is
        self._tally: Counter[str] = Counter()  # what handlers counted, by the names of NodeStats
        self._tally_lock = threading.Lock()

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
    def integrity(self) -> "Integrity":
        """The Merkle trees. Raises StoreError on a node without a store."""
        if self._integrity is None:
            raise StoreError("this node has no store")
        return self._integrity

    def is_raida(self, host: str) -> bool:
        """Whether another RAIDA of `[server] raida_servers` has this address. Any thread."""
        return self._addresses.has(host)

    def carry(self, stats: NodeStats) -> None:
        """Continue a predecessor's statistics."""
        self._count(**dataclasses.asdict(stats))

    def count_echo(self) -> None:
        """Count an echo that a handler answered."""
        self._count(echoes=1)

    def count_powned(self, coins: int, value: int) -> None:
        """Count coins that changed hands. value: in units of 10^-8 coin."""
        self._count(coins_powned=coins, value_powned=value)

    def _count(self, **counts: int) -> None:
        with self._tally_lock:
            for name, count in counts.items():
                self._tally[name] += count

    def stats(self) -> NodeStats:
        """The statistics since start."""
        counters, tally = self._snapshot(), self._tally
        return NodeStats(
            echoes=counters["echoes"] + tally["echoes"],
            coins_powned=tally["coins_powned"],
            value_powned=tally["value_powned"],
            datagrams=counters["udp_received"] + tally["datagrams"],
        )
