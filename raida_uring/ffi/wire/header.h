/* header.h: request headers and the header decisions.
 *
 * Pure: no I/O, no clock, no memory but the caller's. Source: docs/wire.md, "Header decisions".
 */
#ifndef RU_HEADER_H
#define RU_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "ru.h"

enum ru_status {
    RU_STATUS_OK = 0, /* no failure; never sent */
    RU_STATUS_SPLIT_ID = 2,
    RU_STATUS_RAIDA_ID = 3,
    RU_STATUS_SHARD_ID = 4,
    RU_STATUS_COMMAND_GROUP = 5,
    RU_STATUS_COMMAND = 6,
    RU_STATUS_COIN_ID = 7,
    RU_STATUS_PACKET_LENGTH = 16,
    RU_STATUS_WRONG_RAIDA = 18,
    RU_STATUS_KEY_COIN_NOT_FOUND = 25,
    RU_STATUS_ENCRYPTION_CODE = 27,
    RU_STATUS_EOF = 33,
    RU_STATUS_ENCRYPTION = 34,
    RU_STATUS_EMPTY_REQUEST = 36,
    RU_STATUS_CRC = 37,
    RU_STATUS_ADMIN_AUTH = 38,
    RU_STATUS_COINS_NOT_DIV = 39,
    RU_STATUS_NO_SUCH_COIN = 40,
    RU_STATUS_NO_TICKET_SLOT = 42,
    RU_STATUS_NO_TICKET_FOUND = 43,
    RU_STATUS_TICKET_CLAIMED = 44,
    RU_STATUS_LEGACY_DB = 48,
    RU_STATUS_NOT_IMPLEMENTED = 89,
    RU_STATUS_REQUEST_RATE = 160,
    RU_STATUS_FILESYSTEM = 194,
    RU_STATUS_FILE_NOT_EXIST = 202,
    RU_STATUS_HMAC = 204,
    RU_STATUS_FIND_NEITHER = 208,
    RU_STATUS_FIND_ALL_AN = 209,
    RU_STATUS_FIND_ALL_PAN = 210,
    RU_STATUS_FIND_MIXED = 211,
    RU_STATUS_ALL_PASS = 241,
    RU_STATUS_ALL_FAIL = 242,
    RU_STATUS_MIXED = 243,
    RU_STATUS_SUCCESS = 250,
    RU_STATUS_INTERNAL = 252,
    RU_STATUS_MEMORY = 254,
    RU_STATUS_ROUTING = 255,
};

struct ru_identity {
    uint8_t raida_id;
    uint16_t coin_id;
    uint32_t body_bytes_max;
    const uint8_t *classes; /* RU_COMMANDS_COUNT bytes, indexed group << 8 | command */
};

struct ru_header {
    uint8_t size; /* bytes: 32 or 48 */
    uint8_t encryption;
    uint8_t lane;       /* enum ru_lane_class */
    uint16_t body_size; /* BL: bytes of body announced */
};

/* Size of the header, by its encryption byte. */
static inline uint8_t ru_header_size(const uint8_t *bytes)
{
    return bytes[RU_REQUEST_ENCRYPTION_AT] <= RU_SMALL_TYPE_MAX ? RU_HEADER_SMALL : RU_HEADER_LARGE;
}

static inline uint16_t ru_get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

/* The command of a request: group << 8 | command. */
static inline uint16_t ru_header_command(const uint8_t *header)
{
    return (uint16_t)(header[RU_REQUEST_GROUP_AT] << 8 | header[RU_REQUEST_COMMAND_AT]);
}

/* Apply header decisions 1 to 8. `bytes` holds a whole header. Returns RU_STATUS_OK or the first
 * failure; `header` is filled in either case. */
enum ru_status ru_header_decide(const struct ru_identity *identity, const uint8_t *bytes,
                                struct ru_header *header);

/* The lane of a request that a worker answers. */
static inline enum ru_lane_number ru_header_lane(const struct ru_header *header)
{
    switch ((enum ru_lane_class)header->lane) {
    case RU_CLASS_SLOW:
        return RU_LANE_SLOW;
    case RU_CLASS_WRITE:
        return RU_LANE_WRITE;
    case RU_CLASS_NONE: /* already refused by ru_header_decide() */
    case RU_CLASS_ORDINARY:
    case RU_CLASS_ECHO:
        break;
    }
    return RU_LANE_ORDINARY;
}

#endif
