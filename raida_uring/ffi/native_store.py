"""Typed access to the store in C: `Store` and `View`, with exceptions for errors.

native_base.py has the base on disk, native.py the data plane.
"""

import errno
import os
from typing import Any, Final, NamedTuple, Protocol, cast

from raida_uring import remedies
from raida_uring.errors import StoreError, passing
from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.ffi.native_base import Base, Txn, stored


class _Lib(Protocol):
    """The functions of coins/ that this module calls, and constants of theirs."""

    RU_AN_SIZE: int
    RU_BODY_MAX: int
    RU_COIN_NAME_SIZE: int
    RU_DENOMINATIONS_COUNT: int
    RU_PAGE_RECORDS_COUNT: int
    RU_PAGE_RECORD_SIZE: int
    RU_PAGE_SIZE: int
    RU_STORE_DEN_PAGES: int
    RU_STORE_ID_BYTES: int
    RU_STORE_PAGES: int
    RU_STORE_SELECTED: int
    RU_TICKETS_MAX: int
    RU_TICKETS_OF_COIN_MAX: int
    RU_TICKET_CLAIMED: int
    RU_TICKET_COINS_MAX: int
    RU_TICKET_FULL: int
    RU_TICKET_LARGE: int
    RU_TICKET_LIFETIME_S: int
    RU_TICKET_UNKNOWN: int

    def ru_store_create(self, seed: bytes, seed_bytes: int, store: Any) -> int: ...
    def ru_store_attach(self, memory: int, store: Any) -> int: ...
    def ru_store_close(self, store: Any) -> None: ...
    def ru_store_memory(self, store: Any) -> int: ...
    def ru_store_load(
        self, store: Any, txn: Any, first: int, count: int, number: Any, faulty: Any
    ) -> int: ...
    def ru_store_journal_holds(self, directory: int) -> int: ...
    def ru_store_abandon_journal(self, directory: int, identity: bytes) -> int: ...
    def ru_store_start_journal(self, directory: int, identity: bytes, first: int) -> int: ...
    def ru_store_replay(
        self, store: Any, directory: int, identity: bytes, since: int, at_least: int
    ) -> int: ...
    def ru_store_serve(
        self,
        store: Any,
        directory: int,
        lock: int,
        identity: bytes,
        joins: int,
        interval: int,
        segments_max: int,
    ) -> int: ...
    def ru_store_need_base(self, store: Any, base: Any) -> None: ...
    def ru_store_need(self, store: Any, path: bytes, fd: int, fault: int) -> int: ...
    def ru_store_refuse(self, store: Any, fault: int) -> None: ...
    def ru_store_require(self, store: Any) -> int: ...
    def ru_store_sync(self, store: Any) -> int: ...
    def ru_store_alone(self, store: Any) -> None: ...
    def ru_store_check(self, store: Any, whole_from: Any) -> int: ...
    def ru_store_tend(self, store: Any, needed: int) -> int: ...
    def ru_store_progress(self, store: Any, progress: Any) -> None: ...
    def ru_store_await(self, store: Any, number: int, timeout_ms: int) -> None: ...
    def ru_store_rouse(self, store: Any) -> None: ...
    def ru_store_changed(self, store: Any, number: int, pages: Any, numbers: Any) -> int: ...
    def ru_store_count(self, store: Any, state: int) -> int: ...
    def ru_store_page(self, store: Any, page: int, data: Any, number: Any) -> int: ...
    def ru_store_select(
        self, store: Any, page: int, selected: Any, circulating: Any, number: Any
    ) -> int: ...
    def ru_store_issue_ticket(
        self, store: Any, names: bytes, count: int, now_s: int, number: Any
    ) -> int: ...
    def ru_store_claim_ticket(
        self, store: Any, number: int, raida: int, now_s: int, names: Any, bytes_max: int
    ) -> int: ...
    def ru_store_tickets_alive(self, store: Any, now_s: int) -> int: ...
    def ru_view_open(self, store: Any, writing: int, view: Any) -> int: ...
    def ru_view_close(self, view: Any) -> None: ...
    def ru_view_begin(self, view: Any) -> int: ...
    def ru_view_end(self, view: Any) -> None: ...
    def ru_view_commit(self, view: Any) -> int: ...
    def ru_view_mark(self, view: Any) -> int: ...
    def ru_view_undo(self, view: Any, mark: int) -> None: ...
    def ru_view_match(
        self, view: Any, coins: bytes, count: int, stride: int, an_at: int, states: Any
    ) -> int: ...
    def ru_view_gather(
        self, view: Any, coins: bytes, count: int, stride: int, records: Any, states: Any
    ) -> int: ...
    def ru_view_exchange(
        self,
        view: Any,
        coins: bytes,
        count: int,
        stride: int,
        an_at: int,
        new_at: int,
        month: int,
        states: Any,
    ) -> int: ...
    def ru_view_set(
        self, view: Any, coins: bytes, count: int, stride: int, an_at: int, month: int, states: Any
    ) -> int: ...
    def ru_view_page(self, view: Any, page: int, data: Any, state: Any) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

DENOMINATIONS: Final = _lib.RU_DENOMINATIONS_COUNT
DEN_PAGES: Final = _lib.RU_STORE_DEN_PAGES
STORE_PAGES: Final = _lib.RU_STORE_PAGES
PAGE_RECORDS: Final = _lib.RU_PAGE_RECORDS_COUNT
PAGE_SIZE: Final = _lib.RU_PAGE_SIZE
AN_SIZE: Final = _lib.RU_AN_SIZE
_COIN_SIZE: Final = _lib.RU_COIN_NAME_SIZE
RECORD_BYTES: Final = _lib.RU_PAGE_RECORD_SIZE
SELECTED_SIZE: Final = _lib.RU_STORE_SELECTED
COINS_MAX: Final = _lib.RU_BODY_MAX // _COIN_SIZE  # in one request

DIFFERS, EQUAL, UNREADABLE = range(3)  # enum ru_coin_state
PAGE_BLANK, PAGE_WRITTEN, PAGE_UNREADABLE = range(3)  # enum ru_page_state
SEGMENT_BYTES: Final = 64 << 20  # RU_SEGMENT_SIZE
# enum ru_journal_fault
JOURNAL_DAMAGED, JOURNAL_MISSING, JOURNAL_FOREIGN, JOURNAL_NEWER = range(-28999, -28995)
JOURNAL_GONE: Final = -28995
JOURNAL_HOLE: Final = -28992
STORE_UNOWNED: Final = -27996  # enum ru_store_fault
JOURNAL_FAULTS: Final = frozenset(
    (JOURNAL_DAMAGED, JOURNAL_MISSING, JOURNAL_FOREIGN, JOURNAL_NEWER)
)
JOURNAL_MOVES: Final = frozenset((JOURNAL_DAMAGED, JOURNAL_MISSING))  # as beside a running node
ID_BYTES: Final = _lib.RU_STORE_ID_BYTES
TICKETS_MAX: Final = _lib.RU_TICKETS_MAX  # enum ru_ticket_limit
TICKETS_OF_COIN_MAX: Final = _lib.RU_TICKETS_OF_COIN_MAX
TICKET_LIFETIME_S: Final = _lib.RU_TICKET_LIFETIME_S
_TICKET_NAMES_BYTES: Final = _lib.RU_TICKET_COINS_MAX * _COIN_SIZE
TICKET_UNKNOWN: Final = _lib.RU_TICKET_UNKNOWN  # enum ru_ticket_fault
TICKET_CLAIMED: Final = _lib.RU_TICKET_CLAIMED
TICKET_LARGE: Final = _lib.RU_TICKET_LARGE
_TICKET_FAULTS: Final = frozenset((TICKET_UNKNOWN, TICKET_CLAIMED, TICKET_LARGE))


def _require_room(coins: bytes, count: int, stride: int, reach: int) -> None:
    """Check the arguments of a handler: a wrong count must fail the request, not crash the node.

    reach: bytes read from each coin's start on. Raises ValueError, TypeError.
    """
    if type(coins) is not bytes:
        raise TypeError(f"coins must be bytes, not {type(coins).__name__}")
    if count == 0:
        return
    if not 0 < count <= COINS_MAX or stride < 0 or (count - 1) * stride + reach > len(coins):
        raise ValueError(f"{len(coins)} bytes do not hold {count} coins, {stride} bytes apart")


def _an_reach(*ans_at: int) -> int:
    if min(ans_at) < 0:
        raise ValueError("the offset of an AN is negative")
    return max(_COIN_SIZE, max(ans_at) + AN_SIZE)


class Progress(NamedTuple):
    """How far the journal is: numbers of batches, and bytes."""

    applied: int  # visible
    durable: int  # certainly on the disk
    journal_bytes: int
    journal_segments: int  # in use or used
    failed: int  # -errno of a flush after which nothing is written; otherwise 0


_COINS_BYTES: Final = STORE_PAGES * (PAGE_SIZE + 256)  # with what is beside them
_NO_MEMORY: Final = frozenset((-errno.ENOMEM, -errno.ENOSPC, -errno.EFBIG))


def _no_memory(result: int, doing: str) -> StoreError:
    return StoreError(f"{doing}: {remedies.for_coins_memory(_COINS_BYTES, -result)}", result)


def _coins_mapped(result: int) -> None:
    if result in _NO_MEMORY:
        fault = _no_memory(result, "mapping the coins")
        raise fault if remedies.is_address_space_limited() else passing(fault)
    stored(result, "mapping the coins")


class Store:
    """The coins in memory, and the journal of their changes. Thread: any."""

    def __init__(self, *, seed: bytes = b"", memory: int = -1) -> None:
        """memory: descriptor of a predecessor's, which is taken over in place of a new one. Raises
        StoreError."""
        out = _ffi.new("struct ru_store **")
        if memory >= 0:
            result = _lib.ru_store_attach(memory, out)
        else:
            result = _lib.ru_store_create(seed, len(seed), out)
        _coins_mapped(result)
        self._made = out[0]

    def close(self) -> None:
        """Close it; every view must be closed before."""
        store, self._made = self._made, _ffi.NULL
        _lib.ru_store_close(store)

    @property
    def _store(self) -> Any:
        """Raises RuntimeError once closed."""
        if self._made == _ffi.NULL:
            raise RuntimeError("the store is closed")
        return self._made

    @property
    def handle(self) -> Any:
        """The store, for functions of the engine. Raises RuntimeError once closed."""
        return self._store

    @property
    def memory(self) -> int:
        """Descriptor of the memory, which the store keeps."""
        return _lib.ru_store_memory(self._store)

    def load(self, txn: Txn, first: int, count: int) -> int:
        """Load pages from the base; returns the highest number of a batch in them."""
        number = _ffi.new("uint64_t *")
        faulty = _ffi.new("uint32_t *")
        result = _lib.ru_store_load(self._store, txn.handle, first, count, number, faulty)
        if result in _NO_MEMORY:
            raise _no_memory(result, "loading pages")
        stored(result, f"loading page {faulty[0]}" if faulty[0] else "loading pages")
        return int(number[0])

    def replay(self, directory: int, identity: bytes, since: int, at_least: int) -> int:
        """Apply the journal from batch `since` on, which must reach `at_least`; returns how many
        batches it applied. directory: -1 if there is no journal yet, which is as good as empty."""
        return stored(
            _lib.ru_store_replay(self._store, directory, identity, since, at_least),
            "reading the journal",
        )

    def serve(
        self,
        directory: int,
        lock: int,
        identity: bytes,
        *,
        joins: bool,
        interval: bool,
        segments_max: int,
    ) -> None:
        """Open the journal for changes. joins: another process, whose memory this is, appends to
        it, too. directory, lock: stay open as long as the store."""
        stored(
            _lib.ru_store_serve(
                self._store, directory, lock, identity, joins, interval, segments_max
            ),
            "opening the journal",
        )

    def need_base(self, base: Base) -> None:
        """Every commit first looks whether the base is there. It stays open as long as the
        store."""
        _lib.ru_store_need_base(self._store, base.handle)

    def need(self, path: os.PathLike[str], descriptor: int, fault: int) -> None:
        """Every commit first looks whether `path` leads to this open file; if not, it fails with
        `fault`."""
        result = _lib.ru_store_need(self._store, os.fsencode(path), descriptor, fault)
        stored(result, "opening the store")

    def refuse(self, fault: int) -> None:
        """Have every commit of a native command fail with `fault`; 0: no more."""
        _lib.ru_store_refuse(self._store, fault)

    def require(self) -> None:
        """Raise StoreError if something that a start needs is missing."""
        stored(_lib.ru_store_require(self._store), "looking at the store")

    def sync(self) -> None:
        """Wait until every visible change is on the disk."""
        stored(_lib.ru_store_sync(self._store), "flushing the journal")

    def alone(self) -> None:
        """The other process of an upgrade has ended."""
        _lib.ru_store_alone(self._store)

    def check(self) -> int:
        """Return the first batch from which on the journal is whole. Raises StoreError if its file
        in use, or the file that its writer locks, was removed, replaced or cut off. Makes pages
        readable that a killed process has left in the middle of a batch."""
        whole_from = _ffi.new("uint64_t *")
        stored(_lib.ru_store_check(self._store, whole_from), "looking at the store")
        return int(whole_from[0])

    def tend(self, needed: int) -> None:
        """Prepare the journal's next segment, and let go of what is older than batch `needed`.
        Thread: one at a time."""
        stored(_lib.ru_store_tend(self._store, needed), "preparing the journal")

    def progress(self) -> Progress:
        """Return how far the journal is."""
        out = _ffi.new("struct ru_store_progress *")
        _lib.ru_store_progress(self._store, out)
        return Progress(
            out.applied, out.durable, out.journal_bytes, out.journal_segments, out.failed
        )

    def await_batch(self, number: int, timeout_s: float) -> None:
        """Wait until a batch of this process above `number` is visible, for rouse(), or for
        `timeout_s`. Thread: one at a time."""
        _lib.ru_store_await(self._store, number, round(1000 * timeout_s))

    def rouse(self) -> None:
        """End await_batch(), or the next one. Thread: any."""
        _lib.ru_store_rouse(self._store)

    def changed(self, number: int) -> list[int]:
        """Return the pages that a batch above `number` has changed."""
        pages = _ffi.new("uint16_t[]", STORE_PAGES)
        numbers = _ffi.new("uint64_t[]", STORE_PAGES)
        count = _lib.ru_store_changed(self._store, number, pages, numbers)
        return list(pages[0:count])

    def numbers(self) -> list[tuple[int, int]]:
        """Return each page that a batch has changed, with the number of the last one."""
        pages = _ffi.new("uint16_t[]", STORE_PAGES)
        numbers = _ffi.new("uint64_t[]", STORE_PAGES)
        count = _lib.ru_store_changed(self._store, 0, pages, numbers)
        return list(zip(pages[0:count], numbers[0:count], strict=True))

    def count(self, state: int) -> int:
        """Return how many pages are in that state, PAGE_*."""
        return _lib.ru_store_count(self._store, state)

    def page(self, page: int) -> tuple[bytes | None, int]:
        """Return a page's bytes, None if it cannot be read, and the number of the last batch in
        it."""
        data = _ffi.new("uint8_t[]", PAGE_SIZE)
        number = _ffi.new("uint64_t *")
        state = stored(_lib.ru_store_page(self._store, page, data, number), "reading a page")
        return None if state == PAGE_UNREADABLE else bytes(_ffi.buffer(data)), number[0]

    def select(self, page: int, selected: Any) -> tuple[int, int, int]:
        """Copy the bytes that a page's leaf is the hash of to `selected`, if it was written;
        returns its state, PAGE_*, how many of its coins circulate, and its number."""
        circulating = _ffi.new("uint32_t *")
        number = _ffi.new("uint64_t *")
        state = _lib.ru_store_select(
            self._store, page, _ffi.from_buffer(selected), circulating, number
        )
        return stored(state, "reading a page"), circulating[0], number[0]

    def tickets_issue(self, coin_names: bytes, now_s: int) -> int | None:
        """Issue a ticket for coins, 5 bytes each; returns its number, or None: too many are alive.
        now_s: since 1970. Raises StoreError: no memory."""
        count, rest = divmod(len(coin_names), _COIN_SIZE)
        if rest or not 0 < len(coin_names) <= _TICKET_NAMES_BYTES:
            raise ValueError(f"{len(coin_names)} bytes are not the names of a ticket's coins")
        number = _ffi.new("uint32_t *")
        result = _lib.ru_store_issue_ticket(self._store, coin_names, count, now_s, number)
        if result == _lib.RU_TICKET_FULL:
            return None
        stored(result, "issuing a ticket")
        return int(number[0])

    def tickets_claim(
        self, number: int, raida_id: int, bytes_max: int, now_s: int
    ) -> tuple[int, bytes]:
        """Claim a ticket's coins for a RAIDA; returns 0 and the coins, 5 bytes each, or TICKET_*:
        why not. bytes_max: of coins."""
        room = max(0, min(bytes_max, _TICKET_NAMES_BYTES))
        names = _ffi.new("uint8_t[]", room)
        result = _lib.ru_store_claim_ticket(self._store, number, raida_id, now_s, names, room)
        if result in _TICKET_FAULTS:
            return result, b""
        return 0, bytes(_ffi.buffer(names, stored(result, "claiming a ticket")))

    def tickets_alive(self, now_s: int) -> int:
        """Return the number of tickets that have not expired."""
        return _lib.ru_store_tickets_alive(self._store, now_s)

    def view(self, *, writing: bool) -> "View":
        """Raises StoreError (out of memory)."""
        out = _ffi.new("struct ru_view **")
        stored(_lib.ru_view_open(self._store, writing, out), "opening a view of the store")
        return View(out[0], self)


def journal_holds(directory: int) -> bool:
    """Whether the journal in a directory has batches of changes, of whichever store. Raises
    StoreError."""
    return stored(_lib.ru_store_journal_holds(directory), "looking into the journal") > 0


def abandon_journal(directory: int, identity: bytes) -> None:
    """Remove the journal with this identity, whose batches the base has. Raises StoreError:
    JOURNAL_FOREIGN if there are batches of another one."""
    stored(_lib.ru_store_abandon_journal(directory, identity), "removing the journal")


def start_journal(directory: int, identity: bytes, first: int) -> None:
    """Start an empty journal; its first batch will have number `first`. One without batches is
    replaced. Raises StoreError: JOURNAL_FOREIGN if it has some."""
    stored(_lib.ru_store_start_journal(directory, identity, first), "making the journal")


class View:
    """One thread's look at the coins, and its changes, from begin() to end() or commit().

    Coins are given as the wire has them: `stride` bytes apart, denomination and serial number in
    front. The states that come back are one byte a coin: DIFFERS, EQUAL, UNREADABLE. Coins that
    were never written have the AN that follows from the store's seed. Each call sees one state of
    all its coins. Everything raises StoreError when the store fails, RuntimeError on a view that
    has not begun or is not for that, and ValueError for more coins than COINS_MAX, or than there
    are bytes for.
    """

    def __init__(self, view: Any, store: Store) -> None:
        self._view = view
        self.store = store  # whose coins it looks at
        self._states = _ffi.new("uint8_t[]", COINS_MAX)
        self._state_bytes = _ffi.buffer(self._states)
        self._page = _ffi.new("uint8_t[]", PAGE_SIZE)
        self._record = _ffi.new("uint8_t[]", RECORD_BYTES)
        self._record_bytes = _ffi.buffer(self._record)

    def close(self) -> None:
        """End and close the view."""
        view, self._view = self._view, _ffi.NULL
        _lib.ru_view_close(view)

    def begin(self) -> None:
        """A writing view waits for its turn."""
        stored(_lib.ru_view_begin(self._view), "reading the store")

    def end(self) -> None:
        """Drop the changes and end. Does nothing when not begun."""
        _lib.ru_view_end(self._view)

    def commit(self) -> None:
        """Make the changes durable and visible, all or none, and end."""
        stored(_lib.ru_view_commit(self._view), "committing to the store")

    def mark(self) -> int:
        """Return a point that undo() can go back to; 0: nothing has changed."""
        return _lib.ru_view_mark(self._view)

    def undo(self, mark: int) -> None:
        """Revert every coin changed after `mark`."""
        _lib.ru_view_undo(self._view, mark)

    def match(self, coins: bytes, count: int, stride: int, an_at: int) -> bytes:
        """Compare the AN `an_at` bytes after each coin's start with the stored one."""
        _require_room(coins, count, stride, _an_reach(an_at))
        stored(
            _lib.ru_view_match(self._view, coins, count, stride, an_at, self._states),
            "reading coins",
        )
        return bytes(self._state_bytes[:count])

    def gather(self, coins: bytes, count: int, stride: int) -> tuple[bytes, bytes]:
        """Return the coins' records, RECORD_BYTES each, zeros unless EQUAL; and the states."""
        _require_room(coins, count, stride, _COIN_SIZE)
        records = _ffi.new("uint8_t[]", count * RECORD_BYTES)
        stored(
            _lib.ru_view_gather(self._view, coins, count, stride, records, self._states),
            "reading coins",
        )
        return bytes(_ffi.buffer(records)), bytes(self._state_bytes[:count])

    def record(self, coin: bytes) -> tuple[bytes, int]:
        """gather() for one coin of 5 bytes, unchecked: called for each encrypted request."""
        stored(
            _lib.ru_view_gather(self._view, coin, 1, len(coin), self._record, self._states),
            "reading a coin",
        )
        return self._record_bytes[:], self._states[0]

    def exchange(
        self, coins: bytes, count: int, stride: int, an_at: int, new_at: int, month: int
    ) -> bytes:
        """In order: if the AN at `an_at` is the stored one, replace it by the AN at `new_at`."""
        _require_room(coins, count, stride, _an_reach(an_at, new_at))
        stored(
            _lib.ru_view_exchange(
                self._view, coins, count, stride, an_at, new_at, month, self._states
            ),
            "changing coins",
        )
        return bytes(self._state_bytes[:count])

    def set(self, coins: bytes, count: int, stride: int, an_at: int, month: int) -> bytes:
        """Store the AN at `an_at` for each coin; EQUAL where it was stored."""
        _require_room(coins, count, stride, _an_reach(an_at))
        stored(
            _lib.ru_view_set(self._view, coins, count, stride, an_at, month, self._states),
            "changing coins",
        )
        return bytes(self._state_bytes[:count])

    def page(self, page: int) -> bytes | None:
        """Return a page's bytes, None if it cannot be read."""
        stored(_lib.ru_view_page(self._view, page, self._page, self._states), "reading a page")
        return None if self._states[0] == UNREADABLE else bytes(_ffi.buffer(self._page))
