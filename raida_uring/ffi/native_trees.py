"""Typed access to the trees over the coins: `Hasher`, which keeps them, and `Shown`, where votes
and get_merkle_branch find them.

native_store.py has the coins, native.py the data plane.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, cast

from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.ffi.native_base import stored
from raida_uring.ffi.native_store import DEN_PAGES, DENOMINATIONS, Store


class _Lib(Protocol):
    """The functions of coins/hasher.h and memory/trees.h, and constants of theirs."""

    RU_ROOT_SIZE: int
    RU_TREES_SIZE: int
    RU_TREE_SIZE: int

    def ru_hasher_open(self, store: Any, hasher: Any) -> int: ...
    def ru_hasher_close(self, hasher: Any) -> None: ...
    def ru_hasher_load(
        self, hasher: Any, tree: int, leaves: bytes, counts: Any, numbers: Any
    ) -> None: ...
    def ru_hasher_save(
        self, hasher: Any, tree: int, leaves: Any, counts: Any, numbers: Any
    ) -> None: ...
    def ru_hasher_page(self, hasher: Any, page: int, leaf: Any) -> int: ...
    def ru_hasher_turn(
        self, hasher: Any, pages_max: int, found_ns: int, trees: Any, roots: Any, turn: Any
    ) -> int: ...
    def ru_hasher_publish(self, hasher: Any, trees: Any, roots: Any) -> None: ...
    def ru_hasher_nodes(self, hasher: Any) -> Any: ...
    def ru_trees_publish(self, trees: Any, roots: Any, changed: int, nodes: Any) -> None: ...
    def ru_trees_version(self, roots: Any) -> int: ...
    def ru_trees_copy(self, trees: Any, roots: Any, nodes: Any) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

HASH_SIZE: Final = _lib.RU_ROOT_SIZE
TREE_SIZE: Final = _lib.RU_TREE_SIZE  # bytes of all nodes of a tree, leaves first
_TREES_SIZE: Final = _lib.RU_TREES_SIZE


def _split(nodes: Any) -> tuple[bytes, ...]:
    """The trees in the bytes of all nodes."""
    starts = range(0, _TREES_SIZE, TREE_SIZE)
    return tuple(bytes(_ffi.buffer(nodes + start, TREE_SIZE)) for start in starts)


class Shown:
    """Trees and their roots, published together. Thread: one publisher, any readers."""

    def __init__(self, trees: Any = None, roots: Any = None, owner: object = None) -> None:
        """trees, roots: where they are, in the memory of `owner`; None: make some."""
        self.trees = _ffi.new("struct ru_trees *") if trees is None else trees
        self.roots = _ffi.new("struct ru_roots *") if roots is None else roots
        self._owner = owner

    @property
    def version(self) -> int:
        """How often roots have been published."""
        return _lib.ru_trees_version(self.roots)

    def publish(self, changed: Mapping[int, bytes]) -> None:
        """Publish trees and with them the roots of all.

        changed: denomination + 8 -> TREE_SIZE bytes of nodes, leaves first; the first time of all.
        Raises ValueError for a number that is no tree's, and nodes that are no tree.
        """
        packed = _ffi.new("uint8_t[]", _TREES_SIZE)
        for number, nodes in changed.items():
            if not 0 <= number < DENOMINATIONS or len(nodes) != TREE_SIZE:
                raise ValueError(f"{len(nodes)} bytes are not the nodes of tree {number}")
            _ffi.memmove(packed + number * TREE_SIZE, nodes, TREE_SIZE)
        mask = sum(1 << number for number in changed)
        _lib.ru_trees_publish(self.trees, self.roots, mask, packed)

    def copy(self) -> tuple[int, tuple[bytes, ...]]:
        """Return the version of the published trees, and TREE_SIZE bytes of nodes of each. Version
        0: there are none."""
        nodes = _ffi.new("uint8_t[]", _TREES_SIZE)
        version = _lib.ru_trees_copy(self.trees, self.roots, nodes)
        return version, _split(nodes)


class Turn(NamedTuple):
    """What a turn has come to. struct ru_hasher_turn has the fields' meaning; times in
    nanoseconds of the monotonic clock."""

    reached: int
    since_ns: int
    shown_since_ns: int
    hashed: int
    left: int
    circulating: tuple[int, ...]


class Hasher:
    """The trees over a store's coins. Thread: one at a time, also while coins change."""

    def __init__(self, store: Store) -> None:
        """store: stays open as long as this. Raises StoreError (out of memory)."""
        out = _ffi.new("struct ru_hasher **")
        stored(_lib.ru_hasher_open(store.handle, out), "making the trees")
        self._store = store
        self._made = _ffi.gc(out[0], _lib.ru_hasher_close)
        self._turn = _ffi.new("struct ru_hasher_turn *")

    @property
    def _hasher(self) -> Any:
        """Raises RuntimeError once the store is closed."""
        _ = self._store.handle
        return self._made

    def load(self, tree: int, leaves: bytes, counts: Any, numbers: Any) -> None:
        """Take a tree's leaves, HASH_SIZE bytes each, with how many coins of the page circulate,
        16 bits, and the number of the batch that the leaf is of, 64 bits: arrays or bytes."""
        if len(leaves) != DEN_PAGES * HASH_SIZE:
            raise ValueError(f"{len(leaves)} bytes are not the leaves of a tree")
        counts_c = _ffi.from_buffer(f"uint16_t[{DEN_PAGES}]", counts)
        numbers_c = _ffi.from_buffer(f"uint64_t[{DEN_PAGES}]", numbers)
        _lib.ru_hasher_load(self._hasher, tree, leaves, counts_c, numbers_c)

    def save(self, tree: int) -> tuple[bytes, bytes, bytes]:
        """What load() takes, numbers in this machine's order of bytes."""
        leaves = _ffi.new("uint8_t[]", DEN_PAGES * HASH_SIZE)
        counts = _ffi.new("uint16_t[]", DEN_PAGES)
        numbers = _ffi.new("uint64_t[]", DEN_PAGES)
        _lib.ru_hasher_save(self._hasher, tree, leaves, counts, numbers)
        return bytes(_ffi.buffer(leaves)), bytes(_ffi.buffer(counts)), bytes(_ffi.buffer(numbers))

    def page(self, page: int) -> tuple[bytes, int]:
        """Hash a page as it is; returns its leaf, and how many of its coins circulate. Raises
        StoreError."""
        leaf = _ffi.new("uint8_t[]", HASH_SIZE)
        count = stored(_lib.ru_hasher_page(self._hasher, page, leaf), "reading a page")
        return bytes(_ffi.buffer(leaf)), count

    def turn(self, pages_max: int, found_ns: int, shown: Shown | None) -> Turn:
        """Hash up to `pages_max` pages that have changed, and the nodes above them; publish what
        has changed. found_ns: when changes may have come that were not found before. Raises
        StoreError: nothing was published, and the next turn goes on."""
        turn = self._turn
        trees, roots = (_ffi.NULL, _ffi.NULL) if shown is None else (shown.trees, shown.roots)
        result = _lib.ru_hasher_turn(self._hasher, pages_max, found_ns, trees, roots, turn)
        stored(result, "reading a page")
        return Turn(
            turn.reached,
            turn.since_ns,
            turn.shown_since_ns,
            turn.hashed,
            turn.left,
            tuple(turn.circulating),
        )

    def publish(self, shown: Shown) -> None:
        """Publish all trees as they are."""
        _lib.ru_hasher_publish(self._hasher, shown.trees, shown.roots)

    def nodes(self) -> tuple[bytes, ...]:
        """TREE_SIZE bytes of nodes of each tree, as of the last turn."""
        return _split(_lib.ru_hasher_nodes(self._hasher))
