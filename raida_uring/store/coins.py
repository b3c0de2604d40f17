"""One thread's view of the store: reads, changes and commits coins.

A page that was never written is a default page: its ANs are computed from the store's secret seed
(ffi/coins/defaults.c), and its coins are not in circulation. Source: wire specification, section 8.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import EQUAL
from raida_uring.log import events
from raida_uring.store.layout import AN_BYTES, COIN, COIN_BYTES


class Stored(Protocol):
    """What a view asks and tells the store that it belongs to."""

    path: Path
    fault: StoreError | None

    def require_files(self) -> None:
        """Raise StoreError if files were removed, replaced or cut off."""

    def note_written(self) -> None:
        """A batch of changes succeeded."""

    def note_unwritten(self, error: StoreError, *, batches: int = 1) -> None:
        """`batches` batches failed."""

    def remains(self, page: int) -> bytes | None:
        """How an imported file differs from a page."""


class _Lent:
    """Context manager of Coins.lent(). A class, because contextmanager() would cost as much as the
    change of a coin."""

    __slots__ = ("_coins",)

    def __init__(self, coins: "Coins") -> None:
        self._coins = coins

    def __enter__(self) -> "Coins":
        self._coins._lent = True
        return self._coins

    def __exit__(self, *_: object) -> None:
        self._coins._lent = False


class Coins:
    """One thread's view of the store, from begin() to end() or commit().

    Coins are passed as on the wire: `stride` bytes apart, each beginning with denomination (1 byte)
    and serial number (4). Results have one byte per coin: EQUAL, DIFFERS or UNREADABLE. A writing
    view sees its own changes, and no others from begin() on; each call of a reading one sees one
    state of all its coins. Raises StoreError when the store fails.
    """

    def __init__(self, store: Stored, view: native_store.View, *, writing: bool) -> None:
        self.store = store
        self.view = view
        self._after: list[Callable[[], None]] = []
        self._after_staged: list[Callable[[], None]] = []
        self._mark = 0
        self._lent = False
        self._writing = writing

    # -- transactions ------------------------------------------------------------------------------

    def lent(self) -> "_Lent":
        """A `with` block in which a handler may use the view, but not begin, end or commit it."""
        return _Lent(self)

    def _require_not_lent(self) -> None:
        if self._lent:
            raise RuntimeError("a handler must not begin, end or commit its view: the worker does")

    def _require_writing(self) -> None:
        if not self._writing:
            raise RuntimeError(
                'this view is read-only: only handlers of mode "write" may change it'
            )

    def begin(self) -> None:
        """Begin; a writing view waits for its turn."""
        self._require_not_lent()
        try:
            self.view.begin()
        except StoreError as error:
            if self._writing:
                self.store.note_unwritten(error)
            raise

    def end(self) -> None:
        """End the transaction and drop every change."""
        self._require_not_lent()
        self.view.end()
        self._forget()

    def close(self) -> None:
        """End and close the view."""
        self._require_not_lent()
        self.view.close()
        self._forget()

    def keep(self) -> None:
        """Keep the changes since the last keep() or undo(): undo() no longer reverts them."""
        self._require_not_lent()
        self._mark = self.view.mark()
        if self._after_staged:
            self._after += self._after_staged
            self._after_staged.clear()

    def undo(self) -> None:
        """Revert the changes since the last keep() or undo()."""
        self._require_not_lent()
        self.view.undo(self._mark)
        self._after_staged.clear()

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.view.mark())

    def commit(self) -> None:
        """Make every change durable, all or none, and end; then call what after_commit() was given.

        A view without changes writes nothing, but waits for the changes that it has seen. Raises
        StoreError, with nothing changed: the disk is full or fails, files were removed.
        """
        self._require_not_lent()
        changed = self.changed
        try:
            if changed:  # else it would be acknowledged, and the next start would not know of it
                self.store.require_files()
            self.view.commit()
            if changed:  # a commit without changes does not show that the disk can be written
                self.store.note_written()
            after = self._after[:]
        except StoreError as error:
            self.store.note_unwritten(error)
            raise
        finally:
            self.view.end()
            self._forget()
        for action in after:
            try:
                action()
            except BaseException as error:
                # The changes of all requests are committed: raising would report them as failed.
                events.AFTER_COMMIT_FAILED.log(error=error, exc_info=error)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` once the current request's changes are committed. An exception in it is
        logged; the changes remain."""
        self._require_writing()
        self._after_staged.append(action)

    def _forget(self) -> None:
        self._mark = 0
        self._after.clear()
        self._after_staged.clear()

    # -- coins -------------------------------------------------------------------------------------

    def an(self, denomination: int, serial_number: int) -> bytes | None:
        """Return a coin's AN, 16 bytes, or None if its page cannot be read. Raises TypeError."""
        try:
            coin = COIN.pack(denomination, serial_number)
        except struct.error:
            if isinstance(denomination, int) and isinstance(serial_number, int):
                return None
            raise TypeError(
                "a denomination and a serial number are integers, not "
                f"{type(denomination).__name__} and {type(serial_number).__name__}"
            ) from None
        record, state = self.view.record(coin)
        return record[:AN_BYTES] if state == EQUAL else None

    def match(self, coins: bytes, count: int, stride: int, an_at: int = COIN_BYTES) -> bytes:
        """Compare the AN `an_at` bytes after each coin's start with the stored one."""
        return self.view.match(coins, count, stride, an_at)

    def gather(self, coins: bytes, count: int, stride: int = COIN_BYTES) -> tuple[bytes, bytes]:
        """Return the coins' records, 17 bytes each (zeros if unreadable), and the states."""
        return self.view.gather(coins, count, stride)

    def exchange(
        self, coins: bytes, count: int, stride: int, an_at: int, new_at: int, month: int
    ) -> bytes:
        """In order: if the AN at `an_at` is the stored one, replace it by the AN at `new_at`."""
        return self.view.exchange(coins, count, stride, an_at, new_at, month)

    def set(
        self, coins: bytes, count: int, stride: int, month: int, an_at: int = COIN_BYTES
    ) -> bytes:
        """Store the AN at `an_at` for each coin; EQUAL where it was stored."""
        return self.view.set(coins, count, stride, an_at, month)

    def page(self, number: int) -> bytes | None:
        """Return the 17,408 bytes of a page, or None if it cannot be read. Raises ValueError."""
        if not 0 <= number < native_store.STORE_PAGES:
            raise ValueError(f"there is no page {number}")
        return self.view.page(number)

    def remains(self, number: int) -> bytes | None:
        """How an imported file differs from a page: None if it does not, otherwise a letter and the
        file's bytes: `m` missing, `s` short, `t` the bytes after a whole page."""
        return self.store.remains(number)
