"""The store of a node and what runs beside it: trees, checkpoints, flushes, the watch.

Thread: control, but where it says so.
"""

import os
import time
from pathlib import Path
from typing import Final

from raida_uring.config import Config
from raida_uring.errors import StoreError
from raida_uring.log import events
from raida_uring.node.patience import Patience, retry
from raida_uring.node.upgrade import Takeover
from raida_uring.store import Checkpoints, Store, Syncer, Watch, files
from raida_uring.store.trees import Integrity

LAST_CHECKPOINT_S: Final = 4.0  # what is left takes the next start less time


class Storage:
    """An open store. A predecessor or successor may change its coins at the same time.

    follows: a predecessor changes them until claim() is called.
    """

    def __init__(
        self, config: Config, takeover: Takeover | None, patience: Patience | None
    ) -> None:
        """Open the store of `[store] path`, which is set. Raises StoreError."""
        self._settings = settings = config.store
        self._raida_id = config.server.raida_id
        self._syncer: Syncer | None = None
        self._watch: Watch | None = None
        self._checkpoints: Checkpoints | None = None
        path = Path(settings.path or "")
        interval = settings.durability == "interval"
        owner, memory = (-1, -1) if takeover is None else _handed(takeover, path)
        self.follows = following = owner >= 0
        self.store = retry(
            patience,
            lambda: Store(
                path,
                map_bytes=settings.size_mib << 20,
                journal_mib=settings.journal_mib,
                durability="interval" if interval else "commit",
                owner=owner,
                memory=memory,
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
                self._begin_checkpoints()
        except BaseException:
            self.stop(save=False)
            self.store.close()
            raise

    def _begin_checkpoints(self) -> None:
        self._checkpoints = Checkpoints(self.store, self._settings.checkpoint_interval_s)

    def claim(self) -> None:
        """The predecessor is gone: this process alone changes the store."""
        if not self.follows:  # its store was another one
            return
        self.follows = False
        self.store.claim()
        self.store.serve_as(self._raida_id)
        self.integrity.leave()
        self._begin_checkpoints()

    def share(self) -> None:
        """A successor starts, which may change the coins."""
        self.integrity.follow()

    def unshare(self) -> None:
        """The successor has ended, and this process goes on."""
        self.store.alone()
        self.integrity.leave()

    def stop(self, *, save: bool) -> None:
        """Once no worker uses it any more: end its threads. save: no successor goes on changing it,
        so a last checkpoint spares the next start the journal."""
        self.integrity.stop()
        self._stop_checkpoints()
        if save and not self.follows and self.store.fault is None:
            try:
                enough_s = time.monotonic() + LAST_CHECKPOINT_S
                self.store.checkpoint(pause_s=0, enough=lambda: time.monotonic() > enough_s)
            except StoreError as error:  # the journal has everything
                events.CHECKPOINT_FAILED.log(error=error)
        if self._watch is not None:
            self._watch.stop()
        self.stop_writing()

    def _stop_checkpoints(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.stop()
            self._checkpoints = None

    def stop_writing(self) -> None:
        """Bring everything to the disk, and end the threads that do so: a successor makes
        checkpoints as soon as it hears that this node is gone."""
        self._stop_checkpoints()
        if self._syncer is not None:
            self._syncer.stop()
            self._syncer = None


def _handed(takeover: Takeover, path: Path) -> tuple[int, int]:
    """Descriptors of the lock on the store at `path` and of its coins in memory; -1 if the
    predecessor has none, or serves another store. Raises StoreError."""
    if takeover.owner >= 0 and takeover.memory < 0:
        os.close(takeover.owner)
        raise StoreError(
            "the running node has its coins on disk only, as versions up to 0.2 do: an upgrade in "
            "place is not possible; stop it, run `raida-uring store convert`, and start this "
            "version"
        )
    if takeover.owner < 0:
        return -1, -1
    if not files.is_lock_of(path, takeover.owner):
        os.close(takeover.owner)
        os.close(takeover.memory)
        return -1, -1
    os.set_inheritable(takeover.memory, False)
    return takeover.owner, takeover.memory
