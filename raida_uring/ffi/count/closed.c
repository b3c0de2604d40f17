/* closed.c: connections that ended, for the log. See closed.h. */
#include "count/closed.h"

#include <stddef.h>

#include "check.h"

_Static_assert((RU_CLOSED_KEPT & (RU_CLOSED_KEPT - 1)) == 0, "indexes are masked");

struct ru_closed *ru_closed_reserve(struct ru_closed_ring *ring)
{
    uint32_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
    if (ring->tail - head < RU_CLOSED_KEPT)
        return &ring->entries[ring->tail & (RU_CLOSED_KEPT - 1)];
    __atomic_store_n(&ring->missed, ring->missed + 1, __ATOMIC_RELAXED);
    return NULL;
}

void ru_closed_put(struct ru_closed_ring *ring)
{
    RU_CHECK(ring->tail - __atomic_load_n(&ring->head, __ATOMIC_RELAXED) < RU_CLOSED_KEPT);
    __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
}

uint32_t ru_closed_take(struct ru_closed_ring *ring, struct ru_closed *entries, uint32_t count)
{
    uint32_t taken = 0;
    uint32_t head = ring->head;
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    for (; taken < count && head != tail; taken++, head++)
        entries[taken] = ring->entries[head & (RU_CLOSED_KEPT - 1)];
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return taken;
}

const char *ru_closed_reason_name(uint32_t reason)
{
    static const char *const names[RU_CLOSED_REASONS] = {
#define RU_CLOSED_WORDS(reason, words, connection, request) words,
        RU_CLOSED(RU_CLOSED_WORDS)
#undef RU_CLOSED_WORDS
    };
    return reason < RU_CLOSED_REASONS ? names[reason] : NULL;
}
