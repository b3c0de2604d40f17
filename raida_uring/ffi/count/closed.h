/* closed.h: connections that ended, for the log.
 *
 * Why: only the loop knows that a connection ended and why, and it must neither format nor wait.
 * Owner: the loop puts in, one other thread takes out; each index has one writer.
 * Memory: a fixed ring in the engine. Entries that do not fit are counted and lost.
 */
#ifndef RU_CLOSED_H
#define RU_CLOSED_H

#include <stdbool.h>
#include <stdint.h>

#include "ru.h"

/* Why a connection ended. */
enum ru_closed_reason {
    RU_CLOSED_DONE,
    RU_CLOSED_EOF,
    RU_CLOSED_RESET,
    RU_CLOSED_HEADER_TIMEOUT,
    RU_CLOSED_BODY_TIMEOUT,
    RU_CLOSED_WRITE_TIMEOUT,
    RU_CLOSED_IDLE_TIMEOUT,
    RU_CLOSED_EARLY, /* before its peer's address could be read */
    RU_CLOSED_DRAIN,
    RU_CLOSED_HANDED_OVER, /* its descriptor is another process's now */
    RU_CLOSED_REASONS,
};

struct ru_closed_ring {
    _Alignas(RU_CACHE_LINE) uint32_t tail; /* loop */
    uint64_t missed;                       /* loop: found no room, since start */
    _Alignas(RU_CACHE_LINE) uint32_t head; /* reader */
    struct ru_closed entries[RU_CLOSED_KEPT];
};

/* Thread: loop. Where to write the next one, before ru_closed_put(). NULL when the ring is full:
 * the entry counts as missed. */
struct ru_closed *ru_closed_reserve(struct ru_closed_ring *ring);
/* Thread: loop. Give the reserved entry to the reader. */
void ru_closed_put(struct ru_closed_ring *ring);
/* Thread: the reader. Take up to `count`, oldest first. */
uint32_t ru_closed_take(struct ru_closed_ring *ring, struct ru_closed *entries, uint32_t count);

#endif
