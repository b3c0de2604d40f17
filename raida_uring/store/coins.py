"""One thread's view of the store: reads, changes and commits coins and entries.

A page that was never written is a default page: its ANs are computed from the store's secret seed
(ffi/coins/defaults.c), and its coins are not in circulation. Source: wire specification, section 8.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from raida_uring.errors import StoreError
from raida_uring.ffi import native_store
from raida_uring.ffi.native_store import EQUAL, PAGE_SIZE, UNREADABLE
from raida_uring.log import events
from raida_uring.store.layout import AN_BYTES, COIN, COIN_BYTES

_KEY_BYTES_MAX: Final = 511  # LMDB's


class Stored(Protocol):
    """What a view tells the store that it belongs to."""

    path: Path
    fault: StoreError | None
    on_commit: Callable[[Sequence[int]], None] | None

    def note_written(self, pages: int) -> None:
        """A commit of `pages` pages of coins succeeded."""

    def note_unwritten(self, error: StoreError, pages: int = 0, *, commits: int = 1) -> None:
        """`commits` commits failed, of up to `pages` pages of coins."""


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
    view sees its own changes. Raises StoreError when the store fails.
    """

    def __init__(self, store: Stored, view: native_store.View, *, writing: bool) -> None:
        self.store = store
        self.view = view
        self._kept: dict[tuple[int, bytes], bytes | None] = {}
        self._staged: dict[tuple[int, bytes], bytes | None] = {}
        self._after: list[Callable[[], None]] = []
        self._after_staged: list[Callable[[], None]] = []
        self._mark = 0
        self._wrote = False
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
        """See the newest state; a writing view waits until no other one is open."""
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
        if self._staged:
            self._kept |= self._staged
            self._staged.clear()
        if self._after_staged:
            self._after += self._after_staged
            self._after_staged.clear()

    def undo(self) -> None:
        """Revert the changes since the last keep() or undo()."""
        self._require_not_lent()
        self.view.undo(self._mark)
        self._staged.clear()
        self._after_staged.clear()

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._wrote or self._kept or self._staged or self.view.mark())

    def commit(self) -> None:
        """Commit every kept change, all or none, and end the transaction.

        Raises StoreError, with nothing changed: the disk is full or fails, the file was removed,
        the store is full.
        """
        self._commit(write=True)

    def finish(self) -> None:
        """commit(), but write nothing if nothing has changed."""
        self._commit(write=self.changed)

    def _commit(self, *, write: bool) -> None:
        self._require_not_lent()
        pages: list[int] = []
        changed = self.changed
        try:
            if write:
                pages = self.view.dirty()
                for (table, key), value in self._kept.items():
                    self.view.put(table, key, value)
                self.view.commit()
                if changed:  # a commit without changes does not show that the disk can be written
                    self.store.note_written(len(pages))
            after = self._after[:]
        except StoreError as error:
            self.store.note_unwritten(error, len(pages))
            raise
        finally:
            self.view.end()
            self._forget()
        if pages and self.store.on_commit is not None:
            self.store.on_commit(pages)
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
        self._wrote = False
        self._kept.clear()
        self._staged.clear()
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
        data, state = self.view.page(number)
        return None if state == UNREADABLE else data

    def remains(self, number: int) -> bytes | None:
        """How an imported file differs from a page: None if it does not, otherwise a letter and the
        file's bytes: `m` missing, `s` short, `t` the bytes after a whole page."""
        return self.view.get(native_store.TABLE_REMAINS, number.to_bytes(2))

    def put_file(self, number: int, content: bytes | None) -> None:
        """Store the content of a page file as a page; None: the file is missing.

        undo() does not revert this.
        """
        key = number.to_bytes(2)
        if content is not None and len(content) >= PAGE_SIZE:
            tail = content[PAGE_SIZE:]
            self.view.put(native_store.TABLE_REMAINS, key, b"t" + tail if tail else None)
            self.view.fill(number, content[:PAGE_SIZE])
            self._wrote = True
            return
        self.view.put(native_store.TABLE_REMAINS, key, b"m" if content is None else b"s" + content)
        self.view.put(native_store.TABLE_PAGES, key, b"")
        self.view.put(native_store.TABLE_CHANGED, key, b"")
        self._wrote = True

    # -- entries of the other tables ------------------------------------------------------------

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return an entry, including this view's changes, or None. table, key: as for put().

        Raises ValueError or TypeError for other arguments.
        """
        _require_entry(table, key)
        name = (table, key)
        if name in self._staged:
            return self._staged[name]
        if name in self._kept:
            return self._kept[name]
        return self.view.get(table, key)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Change an entry; None removes it. table: native_store.TABLE_*. key: 1 to 511 bytes.

        Raises ValueError or TypeError for other arguments, RuntimeError on a reading view.
        """
        # Checked here and not at commit, where it would fail the changes of other requests, too.
        self._require_writing()
        _require_entry(table, key)
        if not (value is None or type(value) is bytes):
            raise TypeError(f"a value is bytes or None, not {type(value).__name__}")
        self._staged[table, key] = value

    def entries(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield every entry of a table: the unchanged ones by key, then those this view changed."""
        changes = {
            key: value for (of, key), value in (self._kept | self._staged).items() if of == table
        }
        for key, value in self._stored_entries(table):
            if key not in changes:
                yield key, value
        for key, changed in changes.items():
            if changed is not None:
                yield key, changed

    def _stored_entries(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        key = b""
        while (found := self.view.seek(table, key)) is not None:
            yield found
            key = found[0] + b"\0"  # the next possible key


def _require_entry(table: int, key: bytes) -> None:
    """A handler's mistake must not look like a failure of the store."""
    if type(key) is not bytes:
        raise TypeError(f"a key is bytes, not {type(key).__name__}")
    if not 1 <= len(key) <= _KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {_KEY_BYTES_MAX} bytes, not {len(key)}")
    if type(table) is not int or not 0 <= table < native_store.TABLES:
        raise ValueError(f"there is no table {table!r}")
