"""Status codes of replies.

Pure. The complete list of the reference server. docs/wire.md says which of them this node sends.
"""

from enum import IntEnum
from typing import Final


class Status(IntEnum):
    """Byte 2 of a reply. A vote's reply has none."""

    NO_ERROR = 0
    INVALID_CLOUD_ID = 1
    INVALID_SPLIT_ID = 2
    INVALID_RAIDA_ID = 3
    INVALID_SHARD_ID = 4
    INVALID_COMMAND_GROUP = 5
    INVALID_COMMAND = 6
    INVALID_COIN_ID = 7
    INVALID_UDP_FRAME_COUNT = 15
    INVALID_PACKET_LENGTH = 16
    UDP_FRAME_TIMEOUT = 17
    WRONG_RAIDA = 18
    SHARD_NOT_AVAILABLE = 20
    ENCRYPTION_COIN_NOT_FOUND = 25
    INVALID_ENCRYPTION_CODE = 27
    INVALID_EOF = 33
    INVALID_ENCRYPTION = 34
    EMPTY_REQUEST = 36
    INVALID_CRC = 37
    ADMIN_AUTH = 38
    COINS_NOT_DIV = 39
    INVALID_SN_OR_DENOMINATION = 40
    PAGE_IS_NOT_RESERVED = 41
    NO_TICKET_SLOT = 42
    NO_TICKET_FOUND = 43
    TICKET_CLAIMED_ALREADY = 44
    TOO_MANY_COINS = 45
    INVALID_SHARD = 46
    DELETE_COINS = 47
    LEGACY_DB = 48
    CROSSOVER_FULL = 49
    INVALID_TRADE_COIN = 50
    TRADE_LOCKER_NOT_FOUND = 51
    NO_PRIVATE_KEY = 52
    NOT_IMPLEMENTED = 89
    BAD_COINS = 90
    TRADE_LOCKER_EXISTS = 148
    NO_TRADE_LOCKER = 149
    WAITING = 150
    NO_BTC_IN_WALLET = 152
    FEW_COINS_IN_LOCKER = 153
    LOCKER_USED = 154
    REQUEST_RATE = 160
    TXN_PROCESSED = 177
    CRYPTO_CONNECT = 178
    LOCKER_EMPTY_OR_NOT_EXISTS = 179
    PROXY_CONNECT = 180
    PRICE = 181
    NO_COINS = 182
    TX_SEEN = 183
    NXRECORD = 184
    NXDOMAIN = 185
    UNKNOWN = 186
    PROXY = 187
    KEY_BUILD = 188
    EXTERNAL_BACKEND = 189
    TX_EMPTY = 190
    TX_NOT_EXIST = 191
    AMOUNT_MISMATCH = 192
    NO_ENTRY = 193
    FILESYSTEM = 194
    INVALID_KEY_START = 195
    INVALID_KEY_LENGTH = 196
    COIN_LOAD = 197
    INVALID_PARAMETER = 198
    INVALID_PAN = 199
    FILE_EXISTS = 201
    FILE_NOT_EXIST = 202
    INVALID_TRANSACTION = 203
    INVALID_HMAC = 204
    BLOCKCHAIN = 204  # an alias: the reference has two names for the number, too
    ASSEMBLE = 205
    FIND_NEITHER = 208
    FIND_ALL_AN = 209
    FIND_ALL_PAN = 210
    FIND_MIXED = 211
    ALL_PASS = 241
    ALL_FAIL = 242
    MIXED = 243
    SUCCESS = 250
    INTERNAL = 252
    NETWORK = 253
    MEMORY_ALLOC = 254
    INVALID_ROUTING = 255


UNLISTED: Final = "UNLISTED"


def status_name(code: int) -> str:
    """Return the name of status `code`, or UNLISTED for a number that has none."""
    try:
        return Status(code).name
    except ValueError:
        return UNLISTED
