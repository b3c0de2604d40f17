/* reply.h: reply headers.
 *
 * Pure. Source: docs/wire.md, "Reply".
 */
#ifndef RU_REPLY_H
#define RU_REPLY_H

#include "wire/header.h"

/* How much of the request an error reply may repeat: docs/wire.md, "Reply". */
enum ru_scope {
    RU_SCOPE_NOTHING, /* 32-byte reply, all zero */
    RU_SCOPE_GROUP,   /* 32-byte reply, group only */
    RU_SCOPE_TYPE,    /* 48-byte reply, group and encryption type */
    RU_SCOPE_ALL,     /* size by type; group, echo, key coins */
};

struct ru_reply {
    uint8_t raida_id;
    uint8_t status;
    uint8_t scope; /* enum ru_scope */
    uint32_t execution_us;
    uint32_t body_size;       /* payload and trailer; 0 = header only */
    const uint8_t *request;   /* the request's header */
    const uint8_t *challenge; /* 16 bytes for the challenge field, or NULL for zeros */
    const uint8_t *nonce;     /* RU_REPLY_NONCE_SIZE random bytes; for 48-byte replies only */
};

/* How much an error reply with this header-decision status may repeat. */
enum ru_scope ru_reply_scope(enum ru_status status);
/* Size of the reply header `reply` asks for: 32 or 48 bytes. */
uint8_t ru_reply_header_size(const struct ru_reply *reply);
/* Write it. `out` must not overlap `request`. Returns the bytes written. */
uint8_t ru_reply_header_write(const struct ru_reply *reply, uint8_t *out);

#endif
