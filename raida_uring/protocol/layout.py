"""Every offset and size of the wire; docs/wire.md draws what they name.

Pure. Offsets end in _AT and count bytes from the start of the header, datagram or record they
belong to; sizes are bytes. Numbers of several bytes are big-endian unless they say otherwise.
ffi/layout.h has the same names with RU_ in front, and a test compares the two.
"""

from struct import Struct
from typing import Final

# Headers. The encryption type in a request's byte 16 chooses the size.
HEADER_PEEK: Final = 17  # bytes that show the encryption type, and with it the header's size
HEADER_SMALL: Final = 32  # encryption types 0, 1, 2
HEADER_LARGE: Final = 48  # every other type
SMALL_TYPE_MAX: Final = 2
ECHO_SIZE: Final = 2

# Request header: what both sizes share.
REQUEST_VERSION_AT: Final = 0
REQUEST_SPLIT_AT: Final = 1
REQUEST_RAIDA_AT: Final = 2
REQUEST_SHARD_AT: Final = 3
REQUEST_GROUP_AT: Final = 4
REQUEST_COMMAND_AT: Final = 5
REQUEST_COIN_ID_AT: Final = 6
REQUEST_IGNORED_AT: Final = 8
REQUEST_IGNORED_SIZE: Final = 8
REQUEST_ENCRYPTION_AT: Final = 16
REQUEST_VERSION: Final = 1  # the only one
GROUPS_COUNT: Final = 16
SHARDS_COUNT: Final = 4

# Request header of 32 bytes.
REQUEST_SMALL_COIN_AT: Final = 17  # type 1
REQUEST_SMALL_LOCKER_AT: Final = 17  # type 2: the first bytes of the locker's key
REQUEST_SMALL_BODY_SIZE_AT: Final = 22
REQUEST_SMALL_NONCE_AT: Final = 24  # types 1, 2
REQUEST_SMALL_ECHO_AT: Final = 30  # under types 1, 2 the nonce's end as well
REQUEST_SMALL_NONCE_SIZE: Final = 8
LOCKER_PREFIX_SIZE: Final = 5

# Request header of 48 bytes.
REQUEST_LARGE_BODY_SIZE_AT: Final = 17
REQUEST_LARGE_COIN_AT: Final = 19
REQUEST_LARGE_NONCE_AT: Final = 24
REQUEST_LARGE_SECOND_COIN_AT: Final = 24  # type 5: the nonce's first bytes
REQUEST_LARGE_ECHO_AT: Final = 46  # the nonce's end
REQUEST_LARGE_NONCE_SIZE: Final = 24

# Reply header: what both sizes share.
REPLY_RAIDA_AT: Final = 0
REPLY_ZERO_AT: Final = 1
REPLY_STATUS_AT: Final = 2
REPLY_GROUP_AT: Final = 3
REPLY_RESERVED_AT: Final = 8
REPLY_BODY_SIZE_AT: Final = 9  # three bytes
REPLY_TIME_SIZE: Final = 4  # microseconds
REPLY_PREFIX_SIZE: Final = 12  # bytes that show the reply's whole size

# Reply header of 32 bytes.
REPLY_SMALL_FRAMES_AT: Final = 4  # always 1
REPLY_SMALL_ECHO_AT: Final = 6
REPLY_SMALL_TIME_AT: Final = 12
REPLY_SMALL_CHALLENGE_AT: Final = 16

# Reply header of 48 bytes.
REPLY_LARGE_TIME_AT: Final = 4
REPLY_LARGE_ENCRYPTION_AT: Final = 16
REPLY_LARGE_COIN_AT: Final = 17
REPLY_LARGE_NONCE_AT: Final = 24
REPLY_LARGE_SECOND_COIN_AT: Final = 24  # type 5: the nonce's first bytes
REPLY_LARGE_ECHO_AT: Final = 46
REPLY_NONCE_SIZE: Final = 22

# Body: challenge, payload, terminator; or ciphertext, HMAC, terminator.
CHALLENGE_CRC_AT: Final = 12
CHALLENGE_RANDOM_SIZE: Final = 12
CHALLENGE_SIZE: Final = 16  # the random bytes and their CRC
TERMINATOR_BYTE: Final = 0x3E  # twice
TERMINATOR_SIZE: Final = 2
HMAC_SIZE: Final = 32
COUNTER_SIZE: Final = 16  # AES-CTR's first block
PLAIN_BODY_MIN: Final = 18  # types 0, 1, 2: challenge and terminator
SEALED_BODY_MIN: Final = 34  # types 4, 5: HMAC and terminator
BODY_MAX: Final = 65535  # the header's length field says no more

# Whole messages.
REPLY_MAX: Final = 65536  # header, payload and terminator of the longest reply
UDP_PAYLOAD_MIN: Final = 512  # a node takes datagrams at least as long: a vote fits
UDP_PAYLOAD_MAX: Final = 65507  # IPv4 carries no more

# Vote: a datagram without a header, and its reply.
VOTE_FIRST_AT: Final = 0
VOTE_ROOTS_AT: Final = 1
VOTE_NONCE_AT: Final = 481
VOTE_FIRST_BYTE: Final = 7
VOTE_NONCE_SIZE: Final = 16
VOTE_SIZE: Final = 497
VOTE_REPLY_VERDICT_AT: Final = 0
VOTE_REPLY_NONCE_AT: Final = 1
VOTE_REPLY_SIZE: Final = 17
ROOT_SIZE: Final = 32
ROOTS_SIZE: Final = 480  # one of each denomination

# Coins: how payloads list them, and a page of them.
COIN_DENOMINATION_AT: Final = 0  # signed
COIN_SERIAL_AT: Final = 1
COIN_AN_AT: Final = 5
COIN_PAN_AT: Final = 21
COIN_NAME_SIZE: Final = 5
COIN_AN_SIZE: Final = 21  # with its AN
COIN_PAN_SIZE: Final = 37  # with its AN and the new one
AN_SIZE: Final = 16
TICKET_SIZE: Final = 4
ADMIN_KEY_SIZE: Final = 16
PAGE_RECORD_SIZE: Final = 17  # AN and month
PAGE_SIZE: Final = 17408

# How many there are.
RAIDA_COUNT: Final = 25
DENOMINATION_MIN: Final = -8
DENOMINATIONS_COUNT: Final = 15  # -8 to 6
PAGE_RECORDS_COUNT: Final = 1024
COMMANDS_COUNT: Final = 4096  # 16 groups of 256

SMALL_TYPES: Final = frozenset(range(SMALL_TYPE_MAX + 1))  # encryption types
TERMINATOR: Final = bytes((TERMINATOR_BYTE,)) * TERMINATOR_SIZE
DENOMINATIONS: Final = range(DENOMINATION_MIN, DENOMINATION_MIN + DENOMINATIONS_COUNT)

# What headers and payloads consist of.
U16: Final = Struct(">H")
REQUEST_FRONT: Final = Struct(">6BH")  # a request header up to REQUEST_IGNORED_AT
REQUEST_PLAIN_REST: Final = Struct(">6xH6xH")  # from REQUEST_ENCRYPTION_AT: type 0, BL, echo
COIN_NAME: Final = Struct(">bI")  # denomination, serial number
AUDIT_RECORD: Final = Struct(">bI")  # denomination, coins in circulation
PAGE_REQUEST: Final = Struct(">bI")  # denomination, page
BRANCH_REQUEST: Final = Struct(">bII")  # denomination, level, index
STATS: Final = Struct("<4Q")  # little-endian, unlike everything else on this wire
