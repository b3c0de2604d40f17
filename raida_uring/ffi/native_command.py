"""Commands that C answers: the rows of their table, and `run()`, by which tests call one.

A node's workers and its I/O thread call them in C. native.py has the data plane.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.ffi.native_base import stored
from raida_uring.ffi.native_store import View
from raida_uring.ffi.native_trees import Shown


class _Lib(Protocol):
    """The functions of commands/ that this module calls, and constants."""

    RU_ADMIN_KEY_SIZE: int
    RU_BODY_MAX: int
    RU_COIN_NAME_SIZE: int
    RU_COMMAND_LIGHT_COINS: int
    RU_COMMAND_LIGHT_SCRATCH: int
    RU_COMMAND_SCRATCH: int
    RU_EFFECT_CLAIM: int
    RU_EFFECT_ECHO: int
    RU_EFFECT_ISSUE: int
    RU_EFFECT_NONE: int
    RU_EFFECT_POWNED: int

    def ru_command_row(self, index: int) -> Any: ...
    def ru_command_find(self, number: int) -> Any: ...
    def ru_command_execute(self, command: Any, ground: Any, request: Any, reply: Any) -> int: ...
    def ru_command_settle(self, store: Any, request: Any, reply: Any, scratch: Any) -> int: ...


_lib = cast(_Lib, _native.lib)
_ffi: Any = _native.ffi

LIGHT_COINS: Final = _lib.RU_COMMAND_LIGHT_COINS
PAYLOAD_MAX: Final = _lib.RU_BODY_MAX

EFFECT_NONE: Final = _lib.RU_EFFECT_NONE  # enum ru_effect_kind
EFFECT_ECHO: Final = _lib.RU_EFFECT_ECHO
EFFECT_POWNED: Final = _lib.RU_EFFECT_POWNED
EFFECT_ISSUE: Final = _lib.RU_EFFECT_ISSUE
EFFECT_CLAIM: Final = _lib.RU_EFFECT_CLAIM


class Row(NamedTuple):
    """What a command is declared as. struct ru_command has the fields' meaning."""

    name: str
    number: int  # group << 8 | code
    writes: bool
    needs_body: bool
    needs_store: bool
    public: bool
    guess: int  # a status; 0: none
    light_max: int  # bytes of payload


def _rows() -> list[Row]:
    rows: list[Row] = []
    while (row := _lib.ru_command_row(len(rows))) != _ffi.NULL:
        rows.append(
            Row(
                _ffi.string(row.name).decode(),
                row.number,
                bool(row.writes),
                bool(row.needs_body),
                bool(row.needs_store),
                bool(row.is_public),
                row.guess,
                row.light_max,
            )
        )
    return rows


ROWS: Final = {row.number: row for row in _rows()}
"""By number, ascending."""


class Effect(NamedTuple):
    """What an answer leaves to do. struct ru_effect has the fields' meaning."""

    kind: int = EFFECT_NONE
    coins: int = 0
    value: int = 0
    names: bytes = b""
    ticket: int = 0
    raida: int = 0


class Answer(NamedTuple):
    """A reply's status and payload."""

    status: int
    payload: bytes
    effect: Effect


class Facts:
    """What commands tell of a node. Thread: one at a time."""

    def __init__(
        self, *, version: bytes = b"", admin_key: bytes | None = None, raida_id: int = 0
    ) -> None:
        """version: at most 8 bytes. admin_key: 16 bytes. Raises ValueError."""
        facts = _ffi.new("struct ru_facts *")
        if len(version) > len(facts.version):
            raise ValueError(f"a version has at most {len(facts.version)} bytes")
        if admin_key is not None and len(admin_key) != _lib.RU_ADMIN_KEY_SIZE:
            raise ValueError(f"an admin key has {_lib.RU_ADMIN_KEY_SIZE} bytes")
        _ffi.memmove(facts.version, version, len(version))
        facts.version_size = len(version)
        facts.raida_id = raida_id
        facts.has_admin_key = admin_key is not None
        _ffi.memmove(facts.admin_key, admin_key or b"", len(admin_key or b""))
        self._facts = facts
        self._shown: Shown | None = None

    @property
    def handle(self) -> Any:
        """The structure, for the engine, which copies it."""
        return self._facts

    def count(self, statistics: Sequence[int]) -> None:
        """Set what show_stats tells: echoes, coins powned, value powned, datagrams; 64 bits."""
        self._facts.statistics = list(statistics)

    def publish(self, changed: Mapping[int, bytes]) -> None:
        """As Shown.publish(), of roots and trees of its own."""
        if self._shown is None:
            self._shown = shown = Shown()
            self._facts.roots, self._facts.trees = shown.roots, shown.trees
        self._shown.publish(changed)


class _Ground(threading.local):
    """A thread's scratch, and the structures of a call."""

    def __init__(self) -> None:
        self.scratch = _ffi.new("uint8_t[]", _lib.RU_COMMAND_SCRATCH)
        self.light_scratch = _ffi.new("uint8_t[]", _lib.RU_COMMAND_LIGHT_SCRATCH)
        self.ground = _ffi.new("struct ru_command_ground *")
        self.request = _ffi.new("struct ru_command_request *")
        self.reply = _ffi.new("struct ru_command_reply *")


_grounds: Final = _Ground()


def run(
    view: View | None,
    facts: Facts,
    number: int,
    payload: bytes,
    *,
    now_s: int,
    room: int = PAYLOAD_MAX,
    shard: int = 0,
    light: bool = False,
    settle: bool = True,
) -> Answer:
    """Execute the command with this number, group << 8 | code.

    view: has begun, and is for changes if the row writes; None: the command needs no store. now_s:
    since 1970. room: bytes that the reply's payload may have. light: with the scratch of a light
    request. settle: issue or claim the ticket that the answer calls for.
    Raises KeyError: C does not answer that command; ValueError: a payload that no request has, or
    that is not light; StoreError: the store failed, and the caller has to take changes back.
    """
    row = ROWS[number]
    if len(payload) > (row.light_max if light else PAYLOAD_MAX):
        raise ValueError(f"{row.name}: a payload of {len(payload)} bytes")
    if row.needs_store and view is None:
        raise ValueError(f"{row.name}: needs a store")
    with_ = _grounds
    scratch = with_.light_scratch if light else with_.scratch
    ground, request, reply = with_.ground, with_.request, with_.reply
    ground.view = _ffi.NULL if view is None else view._view
    ground.facts = facts._facts
    ground.scratch = scratch
    kept = _ffi.from_buffer("uint8_t[]", payload)
    request.payload = kept
    request.size = len(payload)
    request.room, request.shard, request.now_s = room, shard, now_s
    command = _lib.ru_command_find(number)
    stored(_lib.ru_command_execute(command, ground, request, reply), row.name)
    effect = _effect(reply.effect)
    if settle and view is not None:
        store = view.store._store
        stored(_lib.ru_command_settle(store, request, reply, scratch), row.name)
    return Answer(reply.status, bytes(_ffi.buffer(reply.payload, reply.size)), effect)


def _effect(effect: Any) -> Effect:
    names = b""
    if effect.kind == EFFECT_ISSUE:
        names = bytes(_ffi.buffer(effect.names, effect.coins * _lib.RU_COIN_NAME_SIZE))
    return Effect(effect.kind, effect.coins, effect.value, names, effect.ticket, effect.raida)
