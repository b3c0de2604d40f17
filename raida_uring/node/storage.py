"""The store of a node and what runs beside it: trees, the sync thread, the watch.

Thread: control, but where it says so.
"""

from pathlib import Path

from raida_uring.config import Config
from raida_uring.errors import StoreError
from raida_uring.log import events
from raida_uring.node.patience import Patience, retry
from raida_uring.node.upgrade import Takeover
from raida_uring.store import Store, Syncer, Watch
from raida_uring.store.trees import Integrity


class Storage:
    """An open store. A predecessor or successor may change it at the same time."""

    def __init__(
        self, config: Config, takeover: Takeover | None, patience: Patience | None
    ) -> None:
        """Open the store of `[store] path`, which is set. Raises StoreError."""
        settings, following = config.store, takeover is not None
        owner = -1 if takeover is None else takeover.owner
        interval = settings.durability == "interval"
        self._raida_id = config.server.raida_id
        self._syncer: Syncer | None = None
        self._watch: Watch | None = None
        self.store = retry(
            patience,
            lambda: Store(
                Path(settings.path or ""),
                map_bytes=settings.size_mib << 20,
                durability="interval" if interval else "commit",
                owner=owner,
            ),
        )
        self.integrity = Integrity(self.store)
        try:
            self.store.refuse_other(self._raida_id)
            if not following:  # otherwise a successor that fails would lock its predecessor out
                self.store.serve_as(self._raida_id)
            if interval:
                self._syncer = Syncer(self.store, settings.sync_interval_ms / 1000)
            self._watch = Watch(self.store)
            self.integrity.load(follow=following)
            if not following:
                self.integrity.save_if_possible()
        except BaseException:
            self.stop(save=takeover is None or takeover.gone)
            self.store.close()
            raise

    def tend(self) -> None:
        """Regular upkeep; call it once a minute or so. Any thread."""
        try:
            dead = self.store.forget_dead()
        except StoreError as error:
            events.STORE_READERS_UNKNOWN.log(error=error)
        else:
            if dead:
                events.STORE_READERS_DEAD.log(count=dead)

    def claim(self) -> None:
        """The predecessor is gone: this process alone changes the store."""
        self.store.claim()
        self.store.serve_as(self._raida_id)
        self.integrity.leave()

    def stop(self, *, save: bool) -> None:
        """Once no worker uses it any more: end its threads. save: nobody else goes on changing it,
        so the leaves of the trees are worth saving."""
        self.integrity.stop(save=save)
        if self._watch is not None:
            self._watch.stop()
        self.stop_syncing()

    def stop_syncing(self) -> None:
        """Bring everything to the disk, and end the thread that does so."""
        if self._syncer is not None:
            self._syncer.stop()
            self._syncer = None
