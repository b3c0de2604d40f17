/* layout.h: every offset and size of the wire; docs/wire.md draws what they name.
 *
 * Offsets end in _AT and count bytes from the start of the header, datagram or record they belong
 * to; sizes are bytes. Numbers of several bytes are big-endian. protocol/layout.py has the same
 * names without RU_, and a test compares the two, so nothing here depends on this implementation:
 * limits.h has what does.
 */
#ifndef RU_LAYOUT_H
#define RU_LAYOUT_H

/* cdef: begin */
enum ru_layout {
    /* Headers. The encryption type in a request's byte 16 chooses the size. */
    RU_HEADER_PEEK = 17,  /* bytes that show the encryption type, and with it the header's size */
    RU_HEADER_SMALL = 32, /* encryption types 0, 1, 2 */
    RU_HEADER_LARGE = 48, /* every other type */
    RU_SMALL_TYPE_MAX = 2,
    RU_ECHO_SIZE = 2,

    /* Request header: what both sizes share. */
    RU_REQUEST_VERSION_AT = 0,
    RU_REQUEST_SPLIT_AT = 1,
    RU_REQUEST_RAIDA_AT = 2,
    RU_REQUEST_SHARD_AT = 3,
    RU_REQUEST_GROUP_AT = 4,
    RU_REQUEST_COMMAND_AT = 5,
    RU_REQUEST_COIN_ID_AT = 6,
    RU_REQUEST_IGNORED_AT = 8,
    RU_REQUEST_IGNORED_SIZE = 8,
    RU_REQUEST_ENCRYPTION_AT = 16,
    RU_REQUEST_VERSION = 1, /* the only one */
    RU_GROUPS_COUNT = 16,
    RU_SHARDS_COUNT = 4,

    /* Request header of 32 bytes. */
    RU_REQUEST_SMALL_COIN_AT = 17,   /* type 1 */
    RU_REQUEST_SMALL_LOCKER_AT = 17, /* type 2: the first bytes of the locker's key */
    RU_REQUEST_SMALL_BODY_SIZE_AT = 22,
    RU_REQUEST_SMALL_NONCE_AT = 24, /* types 1, 2 */
    RU_REQUEST_SMALL_ECHO_AT = 30,  /* under types 1, 2 the nonce's end as well */
    RU_REQUEST_SMALL_NONCE_SIZE = 8,
    RU_LOCKER_PREFIX_SIZE = 5,

    /* Request header of 48 bytes. */
    RU_REQUEST_LARGE_BODY_SIZE_AT = 17,
    RU_REQUEST_LARGE_COIN_AT = 19,
    RU_REQUEST_LARGE_NONCE_AT = 24,
    RU_REQUEST_LARGE_SECOND_COIN_AT = 24, /* type 5: the nonce's first bytes */
    RU_REQUEST_LARGE_ECHO_AT = 46,        /* the nonce's end */
    RU_REQUEST_LARGE_NONCE_SIZE = 24,

    /* Reply header: what both sizes share. */
    RU_REPLY_RAIDA_AT = 0,
    RU_REPLY_ZERO_AT = 1,
    RU_REPLY_STATUS_AT = 2,
    RU_REPLY_GROUP_AT = 3,
    RU_REPLY_RESERVED_AT = 8,
    RU_REPLY_BODY_SIZE_AT = 9, /* three bytes */
    RU_REPLY_TIME_SIZE = 4,    /* microseconds */
    RU_REPLY_PREFIX_SIZE = 12, /* bytes that show the reply's whole size */

    /* Reply header of 32 bytes. */
    RU_REPLY_SMALL_FRAMES_AT = 4, /* always 1 */
    RU_REPLY_SMALL_ECHO_AT = 6,
    RU_REPLY_SMALL_TIME_AT = 12,
    RU_REPLY_SMALL_CHALLENGE_AT = 16,

    /* Reply header of 48 bytes. */
    RU_REPLY_LARGE_TIME_AT = 4,
    RU_REPLY_LARGE_ENCRYPTION_AT = 16,
    RU_REPLY_LARGE_COIN_AT = 17,
    RU_REPLY_LARGE_NONCE_AT = 24,
    RU_REPLY_LARGE_SECOND_COIN_AT = 24, /* type 5: the nonce's first bytes */
    RU_REPLY_LARGE_ECHO_AT = 46,
    RU_REPLY_NONCE_SIZE = 22,

    /* Body: challenge, payload, terminator; or ciphertext, HMAC, terminator. */
    RU_CHALLENGE_CRC_AT = 12,
    RU_CHALLENGE_RANDOM_SIZE = 12,
    RU_CHALLENGE_SIZE = 16,    /* the random bytes and their CRC */
    RU_TERMINATOR_BYTE = 0x3E, /* twice */
    RU_TERMINATOR_SIZE = 2,
    RU_HMAC_SIZE = 32,
    RU_COUNTER_SIZE = 16,    /* AES-CTR's first block */
    RU_PLAIN_BODY_MIN = 18,  /* types 0, 1, 2: challenge and terminator */
    RU_SEALED_BODY_MIN = 34, /* types 4, 5: HMAC and terminator */
    RU_BODY_MAX = 65535,     /* the header's length field says no more */

    /* Whole messages. */
    RU_REPLY_MAX = 65536,       /* header, payload and terminator of the longest reply */
    RU_UDP_PAYLOAD_MIN = 512,   /* a node takes datagrams at least as long: a vote fits */
    RU_UDP_PAYLOAD_MAX = 65507, /* IPv4 carries no more */

    /* Vote: a datagram without a header, and its reply. */
    RU_VOTE_FIRST_AT = 0,
    RU_VOTE_ROOTS_AT = 1,
    RU_VOTE_NONCE_AT = 481,
    RU_VOTE_FIRST_BYTE = 7,
    RU_VOTE_NONCE_SIZE = 16,
    RU_VOTE_SIZE = 497,
    RU_VOTE_REPLY_VERDICT_AT = 0,
    RU_VOTE_REPLY_NONCE_AT = 1,
    RU_VOTE_REPLY_SIZE = 17,
    RU_ROOT_SIZE = 32,
    RU_ROOTS_SIZE = 480, /* one of each denomination */

    /* Coins: how payloads list them, and a page of them. */
    RU_COIN_DENOMINATION_AT = 0, /* signed */
    RU_COIN_SERIAL_AT = 1,
    RU_COIN_AN_AT = 5,
    RU_COIN_PAN_AT = 21,
    RU_COIN_NAME_SIZE = 5,
    RU_COIN_AN_SIZE = 21,  /* with its AN */
    RU_COIN_PAN_SIZE = 37, /* with its AN and the new one */
    RU_AN_SIZE = 16,
    RU_TICKET_SIZE = 4,
    RU_ADMIN_KEY_SIZE = 16,
    RU_PAGE_RECORD_SIZE = 17, /* AN and month */
    RU_PAGE_SIZE = 17408,

    /* How many there are. */
    RU_RAIDA_COUNT = 25,
    RU_DENOMINATION_MIN = -8,
    RU_DENOMINATIONS_COUNT = 15, /* -8 to 6 */
    RU_PAGE_RECORDS_COUNT = 1024,
    RU_COMMANDS_COUNT = 4096, /* 16 groups of 256 */
};
/* cdef: end */

_Static_assert(RU_REQUEST_SMALL_ECHO_AT + RU_ECHO_SIZE == RU_HEADER_SMALL, "small request header");
_Static_assert(RU_REQUEST_LARGE_ECHO_AT + RU_ECHO_SIZE == RU_HEADER_LARGE, "large request header");
_Static_assert(RU_REPLY_SMALL_CHALLENGE_AT + RU_CHALLENGE_SIZE == RU_HEADER_SMALL, "small reply");
_Static_assert(RU_REPLY_LARGE_NONCE_AT + RU_REPLY_NONCE_SIZE == RU_REPLY_LARGE_ECHO_AT, "nonce");
_Static_assert(RU_PLAIN_BODY_MIN == RU_CHALLENGE_SIZE + RU_TERMINATOR_SIZE, "plain body");
_Static_assert(RU_SEALED_BODY_MIN == RU_HMAC_SIZE + RU_TERMINATOR_SIZE, "sealed body");
_Static_assert(RU_VOTE_SIZE == RU_VOTE_NONCE_AT + RU_VOTE_NONCE_SIZE, "vote");
_Static_assert(RU_VOTE_REPLY_SIZE == RU_VOTE_REPLY_NONCE_AT + RU_VOTE_NONCE_SIZE, "vote's reply");
_Static_assert(RU_ROOTS_SIZE == RU_DENOMINATIONS_COUNT * RU_ROOT_SIZE, "roots");
_Static_assert(RU_PAGE_SIZE == RU_PAGE_RECORDS_COUNT * RU_PAGE_RECORD_SIZE, "page");
_Static_assert(RU_COMMANDS_COUNT == RU_GROUPS_COUNT << 8, "commands");

#endif
