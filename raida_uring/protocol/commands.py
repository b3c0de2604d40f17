"""Command groups and commands by number: those that this node answers, and the other known ones.

Pure. docs/wire.md describes them. Handlers may register commands with other numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Group(IntEnum):
    """Byte 4 of a request. Groups 5, 6, 7 and 15 have no command."""

    STATUS = 0
    AUTHENTICATION = 1
    HEALING = 2
    EXECUTIVE = 3
    KEY_EXCHANGE = 4
    BANKING = 5
    CHAT = 6
    BLOCKCHAIN = 7
    LOCKER = 8
    CHANGE = 9
    SHARD = 10
    CROSSOVER = 11
    RPC = 12
    FILE_SYSTEM = 13
    INTEGRITY = 14
    RKE = 15


@dataclass(frozen=True, slots=True)
class CommandName:
    """A command that the protocol names.

    specified: this node answers it; all others are answered INVALID_COMMAND, as by an older server.
    needs_store: without a store it is answered NOT_IMPLEMENTED. public: strangers can know its
    reply, so it is refused under encryption types 1 and 2.
    """

    group: Group
    code: int
    name: str
    specified: bool
    needs_store: bool
    public: bool


_SPECIFIED: Final = {
    Group.STATUS: {0: "echo", 1: "version", 2: "show_stats", 3: "audit"},
    Group.AUTHENTICATION: {10: "detect", 11: "detect_sum", 20: "pown", 21: "pown_sum"},
    Group.HEALING: {40: "get_ticket", 50: "validate_ticket", 60: "find", 80: "fix"},
    Group.INTEGRITY: {2: "get_merkle_branch", 4: "get_page_data", 5: "get_all_roots"},
}

_WITHOUT_STORE: Final = frozenset(("echo", "version", "show_stats"))
_PUBLIC: Final = frozenset(
    ("version", "audit", "validate_ticket", "get_merkle_branch", "get_page_data", "get_all_roots")
)

_NAMED: Final = {
    Group.EXECUTIVE: {
        120: "get_available_sns",
        130: "create_coins",
        140: "delete_coins",
        150: "free_coins",
        160: "get_all_sns",
    },
    Group.KEY_EXCHANGE: {
        41: "post_key",
        42: "key_alert",
        43: "get_key",
        44: "encrypt_key_part",
        45: "decrypt_key_parts",
    },
    Group.LOCKER: {
        81: "peek_trade_locker",
        82: "store_sum",
        83: "peek",
        84: "remove",
        85: "put_for_sale",
        86: "list_for_sale",
        87: "buy",
        88: "store_many_sum",
        89: "remove_trade_locker",
    },
    Group.CHANGE: {91: "get_available_sns", 92: "break", 93: "join"},
    Group.SHARD: {
        170: "switch_shard_sum",
        171: "pickup_coins",
        172: "get_sns",
        173: "rollback",
        174: "switch_shard_sum_with_sns",
    },
    Group.CROSSOVER: {
        110: "reserve_locker",
        111: "check_depository",
        112: "withdraw",
        114: "get_rate",
    },
    Group.RPC: {120: "name_lookup"},
    Group.FILE_SYSTEM: {134: "put_object", 135: "get_object", 136: "remove_object"},
}

COMMANDS: Final[Mapping[tuple[int, int], CommandName]] = MappingProxyType(
    {
        (group, code): CommandName(
            group,
            code,
            name,
            specified,
            needs_store=specified and name not in _WITHOUT_STORE,
            public=specified and name in _PUBLIC,
        )
        for table, specified in ((_SPECIFIED, True), (_NAMED, False))
        for group, codes in table.items()
        for code, name in codes.items()
    }
)
"""Every named command by (group, command)."""


def command_name(group: int, code: int) -> str:
    """Return `group/name`, such as `status/echo`, or the numbers where there is no name."""
    named = COMMANDS.get((group, code))
    if named is None:
        return f"{group}/{code}"
    return f"{named.group.name.lower()}/{named.name}"
