/* fast.h: the replies of the I/O thread itself: votes, plain echoes, refusals.
 *
 * Pure except for the roots table, which one publisher writes while the loop reads it.
 */
#ifndef RU_FAST_H
#define RU_FAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "memory/roots.h"
#include "wire/body.h"
#include "wire/header.h"
#include "wire/reply.h"

/* A cheap generator for header bytes that only have to vary; never for keys or nonces. */
struct ru_random {
    uint64_t state;
};
void ru_random_fill(struct ru_random *random, uint8_t *out, size_t size);

struct ru_front {
    struct ru_identity identity;
    struct ru_roots *roots;
    struct ru_random random;
};

static inline bool ru_fast_is_vote(const uint8_t *bytes, size_t size)
{
    return size == RU_VOTE_SIZE && bytes[RU_VOTE_FIRST_AT] == RU_VOTE_FIRST_BYTE;
}

/* Write the answer to a vote into out[RU_VOTE_REPLY_SIZE]; out may be the vote itself. */
void ru_fast_vote(const struct ru_roots *roots, const uint8_t *vote, uint8_t *out);
/* Write an error reply with a status of the header decisions or of the length check. Returns its
 * size; out may be the request itself. */
uint32_t ru_fast_refuse(struct ru_front *front, enum ru_status status, enum ru_scope scope,
                        const uint8_t *request, uint8_t *out);
/* Write the answer to an echo of type 0 that passes every check. Returns its size, or 0 if a worker
 * must answer. body: all header->body_size bytes; out may be the request itself. */
uint32_t ru_fast_echo(const struct ru_front *front, const struct ru_header *header,
                      const uint8_t *request, const uint8_t *body, uint8_t *out);

#endif
