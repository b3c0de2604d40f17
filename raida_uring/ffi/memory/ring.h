/* ring.h: single-producer single-consumer rings of 64-bit words.
 *
 * The rings stand in the arena, so that a worker may be a thread or a process. Each index has one
 * writer; nothing locks. A reader that waits for a push sleeps on a struct ru_sleeper.
 */
#ifndef RU_RING_H
#define RU_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

struct ru_ring {
    _Alignas(RU_CACHE_LINE) uint32_t tail; /* producer */
    _Alignas(RU_CACHE_LINE) uint32_t head; /* consumer */
    uint32_t mask;                         /* capacity - 1; set once */
    uint32_t entries_at;                   /* byte offset in the arena; set once */
};

uint32_t ru_ring_count(const struct ru_ring *ring);
/* Producer side. Aborts when full: capacity covers every entry that can exist. */
void ru_ring_push(struct ru_ring *ring, uint8_t *arena, uint64_t word);
/* Consumer side. False when empty. */
bool ru_ring_pop(struct ru_ring *ring, const uint8_t *arena, uint64_t *word);

#endif
