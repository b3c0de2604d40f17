"""Threads of an open store: one checks whether it can be written, one flushes the journal, one
makes checkpoints."""

import contextlib
import threading
import time
from typing import Final

from raida_uring.errors import StoreError
from raida_uring.log import events
from raida_uring.store.store import Store
from raida_uring.threads import Vital

WATCH_INTERVAL_S: Final = 1.0
CHECKPOINT_LOOK_S: Final = 0.2  # between looks at the journal, which fills a segment in that time
# Until all pages must be ready to be written, after a flush that failed. Half of it is making room
# for them, which is as much to write: so all is over in the 30 s that service managers grant.
RESCUE_S: Final = 15.0


class Watch:
    """Checks an open store every WATCH_INTERVAL_S; logs when changes begin to fail and when they
    succeed again. Has a separate thread, because a disk may hang."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = Vital(target=self._run, name="store-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; the store is no longer used on return."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        store, told = self._store, False
        while not self._stopping.wait(WATCH_INTERVAL_S):
            store.look()
            fault = store.write_fault
            if fault is not None and not told:
                events.STORE_UNWRITABLE.log(path=store.path, fault=fault)
            elif told and fault is None:
                events.STORE_WRITES_AGAIN.log(path=store.path)
            told = fault is not None


class Syncer:
    """Flushes commits to the disk every `interval_s`, for a store whose commits do not wait.

    A flush that fails is the last one: what was acknowledged since the one before is then brought
    to the base."""

    def __init__(self, store: Store, interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = Vital(target=self._run, name="store-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after a last flush, or once it has tried what helps after one that has
        failed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stopping.wait(self._interval_s)
            try:
                self._store.sync()
            except StoreError as error:
                events.SYNC_FAILED.log(error=error)
                if self._store.native.progress().failed:
                    self._rescue()
                    return

    def _rescue(self) -> None:
        """Nothing more is acknowledged, and the node ends: it waits in stop()."""
        until = time.monotonic() + RESCUE_S
        try:
            pages = self._store.rescue(enough=lambda: time.monotonic() > until)
        except StoreError as error:
            events.CHANGES_IN_DOUBT.log(error=error)
        else:
            events.CHANGES_RESCUED.log(pages=pages)


class Checkpoints:
    """Makes a checkpoint every `interval_s`, and as soon as the journal is half full, or one of its
    files is gone: then only memory has what was in it."""

    def __init__(self, store: Store, interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = Vital(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a checkpoint under way ends with its present transaction."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        told = False
        with contextlib.suppress(StoreError):  # it is noted there
            self._store.sync()  # what a predecessor may have left, if its commits did not wait
        while not self._stopping.wait(CHECKPOINT_LOOK_S):
            if time.monotonic() < due and not self._store.needs_checkpoint():
                self._store.prepare()
                continue
            try:
                self._store.checkpoint(enough=self._stopping.is_set)
                self._store.note_checkpoint(None)
                told = False
            except StoreError as error:
                self._store.note_checkpoint(error)
                if not told:
                    events.CHECKPOINT_FAILED.log(error=error)
                told = True
            due = time.monotonic() + self._interval_s
