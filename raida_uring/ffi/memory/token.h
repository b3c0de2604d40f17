/* token.h: one 64-bit name for a context or an operation.
 *
 * generation (32) | operation (8) | index (24). A token is valid while the generation matches, so
 * a late reply or completion cannot reach a slot that was reused. Workers see operation 0; the
 * kernel's user_data uses the others. Pack and unpack are the only code that knows the layout.
 */
#ifndef RU_TOKEN_H
#define RU_TOKEN_H

#include <stdint.h>

#include "check.h"
#include "limits.h"
#include "number.h"

#define RU_TOKEN_INDEX_MAX 0xFFFFFFU

_Static_assert(RU_SLOTS_MAX + RU_CONNECTIONS_MAX < RU_TOKEN_INDEX_MAX, "indexes fit a token");

static inline uint64_t ru_token_pack(uint8_t operation, uint32_t index, uint32_t generation)
{
    RU_CHECK(index <= RU_TOKEN_INDEX_MAX);
    return (uint64_t)generation << 32 | (uint64_t)operation << 24 | index;
}

static inline uint8_t ru_token_operation(uint64_t token)
{
    return (uint8_t)(token >> 24);
}

static inline uint32_t ru_token_index(uint64_t token)
{
    return (uint32_t)token & RU_TOKEN_INDEX_MAX;
}

static inline uint32_t ru_token_generation(uint64_t token)
{
    return (uint32_t)(token >> 32);
}

/* Generations skip 0, so that no token is ever 0. */
static inline uint32_t ru_token_advance(uint32_t generation)
{
    return generation + 1 == 0 ? 1 : generation + 1;
}

#endif
