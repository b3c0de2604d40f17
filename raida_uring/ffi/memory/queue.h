/* queue.h: single-producer single-consumer rings of 64-bit words, and who wakes whom.
 *
 * The rings live in the arena, so that a worker may be a thread or a process. Each index has one
 * writer. Nothing here locks. Sleepers announce themselves, look once more, then sleep; whoever
 * pushes looks for the announcement after a full fence, so no wake-up is lost and none is wasted.
 */
#ifndef RU_QUEUE_H
#define RU_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

struct ru_ring {
    _Alignas(RU_CACHE_LINE) uint32_t tail; /* producer */
    _Alignas(RU_CACHE_LINE) uint32_t head; /* consumer */
    uint32_t mask;                         /* capacity - 1; set once */
    uint32_t entries_at;                   /* byte offset in the arena; set once */
};

/* An announcement of sleep that doubles as a futex word. */
struct ru_sleeper {
    _Alignas(RU_CACHE_LINE) uint32_t asleep;
};

uint32_t ru_ring_count(const struct ru_ring *ring);
/* Producer side. Aborts when full: capacity covers every entry that can exist. */
void ru_ring_push(struct ru_ring *ring, uint8_t *arena, uint64_t word);
/* Consumer side. False when empty. */
bool ru_ring_pop(struct ru_ring *ring, const uint8_t *arena, uint64_t *word);

/* Sleeper side: announce, then look at the rings once more, then wait or cancel. */
void ru_sleeper_announce(struct ru_sleeper *sleeper);
void ru_sleeper_cancel(struct ru_sleeper *sleeper);
/* Wait until woken or `timeout_ms` passed; clears the announcement. */
void ru_sleeper_wait(struct ru_sleeper *sleeper, uint32_t timeout_ms);
/* Waker side, after a push: true when the sleeper had announced itself (and now no longer has). */
bool ru_sleeper_claim(struct ru_sleeper *sleeper);
/* Claim, and wake a futex sleeper. */
void ru_sleeper_wake(struct ru_sleeper *sleeper);

#endif
