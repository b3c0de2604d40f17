/* ring.c: single-producer single-consumer rings of 64-bit words. */
#include "memory/ring.h"

#include "check.h"

uint32_t ru_ring_count(const struct ru_ring *ring)
{
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    return tail - __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
}

void ru_ring_push(struct ru_ring *ring, uint8_t *arena, uint64_t word)
{
    uint64_t *entries = (uint64_t *)(void *)(arena + ring->entries_at);
    uint32_t tail = ring->tail;
    RU_CHECK(tail - __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) <= ring->mask);
    entries[tail & ring->mask] = word;
    __atomic_store_n(&ring->tail, tail + 1, __ATOMIC_RELEASE);
}

bool ru_ring_pop(struct ru_ring *ring, const uint8_t *arena, uint64_t *word)
{
    const uint64_t *entries = (const uint64_t *)(const void *)(arena + ring->entries_at);
    uint32_t head = ring->head;
    if (head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE))
        return false;
    *word = entries[head & ring->mask];
    __atomic_store_n(&ring->head, head + 1, __ATOMIC_RELEASE);
    return true;
}
