"""The journal of a store, or that it has none yet.

`store init`, `import`, `backup` and `convert` make a base alone; the first start of a node makes
the journal. META says whether there is one: its IDENTITY_KEY is NO_JOURNAL, or the identity that
every segment of the journal carries. The identity is drawn with the journal, not with the base, so
the journals of two copies of a base that was never served do not fit each other's. The order:

  1. the directory is made, and a segment without entries in it, under an identity just drawn;
  2. both are flushed;
  3. META gets the identity, in one transaction.

A process that is killed before 3 leaves a journal without entries, which the next start replaces.
Entries beside a base that knows of no journal are another base's: they are never applied, and never
removed either.

After a flush of the journal that failed, nobody knows what the disk has of it. A node whose commits
do not wait for the disk then writes all that memory has to the base, and the same transaction
abandons the journal: IDENTITY_KEY is NO_JOURNAL again, and LEFT_KEY the identity that it had. The
base alone is the store from then on. The next start removes that journal, step 0, and makes a new
one, whose first batch continues the numbers.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_base, native_store
from raida_uring.store import files
from raida_uring.store.layout import IDENTITY_KEY, LEFT_KEY, NO_JOURNAL
from raida_uring.store.meta import Meta


class Journal:
    """The journal of an open base. Thread: control. descriptor, identity: of its directory, and its
    own, once find() has found that there is one; until then -1, which stands for an empty one."""

    def __init__(self, path: Path, base: native_base.Base) -> None:
        """Look at nothing yet."""
        self._path, self._base = path, base
        self.descriptor, self.identity = -1, b""

    def close(self) -> None:
        """Close the directory."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.identity = -1, b""

    def find(self) -> Meta:
        """Return what the base says now, and have its journal open, if there is one.

        Raises StoreError: the journal is missing, or there is one with changes and the base knows
        of none. A user who may not look into that one gets the base alone.
        """
        meta = Meta.of(self._path, self._base)
        if meta.identity is None and meta.left is None:
            try:
                refuse_changes(self._path)
            except StoreError as error:
                # A node may have begun it meanwhile.
                meta = Meta.of(self._path, self._base)
                if meta.identity is None and error.number != -errno.EACCES:
                    raise
        if meta.identity is None:
            self.close()
        elif self.descriptor < 0:
            self.descriptor = files.open_journal(self._path)
        self.identity = meta.identity or b""
        return meta

    def begin(self) -> None:
        """Make the journal if there is none yet. The caller alone has the store's lock. Raises
        StoreError."""
        path = self._path
        meta = Meta.of(path, self._base)
        if meta.identity is not None:
            return
        if meta.left is not None:
            _remove(path, meta.left)
        refuse_changes(path)
        identity = secrets.token_bytes(native_store.ID_BYTES)
        try:
            _make(path, identity, meta.since)
        except OSError as error:
            raise passing(StoreError(files.refusal(path, error)), error.errno or 0) from error
        with self._base.txn(writing=True) as txn:
            txn.put(native_base.TABLE_META, IDENTITY_KEY, identity)
            txn.put(native_base.TABLE_META, LEFT_KEY, None)

    def replay(self, coins: native_store.Store, since: int, at_least: int) -> int:
        """Apply what find() has found, from batch `since` on; returns how many batches. at_least:
        the base has this one, so the journal must reach it. Raises StoreError."""
        return coins.replay(self.descriptor, self.identity, since, at_least)


def refuse_changes(path: Path) -> None:
    """Raise StoreError if there is a journal with changes beside a base that knows of none."""
    if files.holds_changes(path):
        raise StoreError(
            f"{path / files.JOURNAL}: holds changes of another {files.FILE} than the one beside "
            "it: put that one back, or move the journal away",
            native_store.JOURNAL_FOREIGN,
        )


def abandon(txn: native_base.Txn) -> None:
    """Have the base, which gets all that memory has in the same transaction, do without the
    journal from now on."""
    txn.put(native_base.TABLE_META, LEFT_KEY, txn.get(native_base.TABLE_META, IDENTITY_KEY))
    txn.put(native_base.TABLE_META, IDENTITY_KEY, NO_JOURNAL)


def is_abandoned(txn: native_base.Txn) -> bool:
    """Whether the base, of which a node has made or found the journal, does without it now."""
    return txn.get(native_base.TABLE_META, IDENTITY_KEY) == NO_JOURNAL


def _remove(path: Path, identity: bytes) -> None:
    """Remove an abandoned journal, but none of another store. Raises StoreError."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path / files.JOURNAL, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            native_store.abandon_journal(descriptor, identity)
        except StoreError as error:
            if error.number != native_store.JOURNAL_FOREIGN:
                raise files.explained(path, error) from error
        finally:
            os.close(descriptor)


def _make(path: Path, identity: bytes, first: int) -> None:
    """Make the journal, whose first entry will be number `first`, in place of one without entries.
    Raises StoreError, OSError."""
    journal = path / files.JOURNAL
    with contextlib.suppress(FileExistsError):
        journal.mkdir(mode=0o700)
        files.give(journal, path / files.FILE)
    descriptor = files.open_journal(path)
    try:
        native_store.start_journal(descriptor, identity, first)
    finally:
        os.close(descriptor)
    files.sync_directory(path)
