/* queue.c: token rings, futex and sleeping flags. */
#include "memory/queue.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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

void ru_sleeper_announce(struct ru_sleeper *sleeper)
{
    __atomic_store_n(&sleeper->asleep, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void ru_sleeper_cancel(struct ru_sleeper *sleeper)
{
    __atomic_store_n(&sleeper->asleep, 0, __ATOMIC_RELAXED);
}

void ru_sleeper_wait(struct ru_sleeper *sleeper, uint32_t timeout_ms)
{
    struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                               .tv_nsec = (long)(timeout_ms % 1000) * 1000000L};
    /* Not FUTEX_PRIVATE: the waiter may be another process over the same arena. */
    (void)syscall(SYS_futex, &sleeper->asleep, FUTEX_WAIT, 1, &timeout, NULL, 0);
    ru_sleeper_cancel(sleeper);
}

bool ru_sleeper_claim(struct ru_sleeper *sleeper)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&sleeper->asleep, __ATOMIC_RELAXED))
        return false;
    return __atomic_exchange_n(&sleeper->asleep, 0, __ATOMIC_ACQ_REL) == 1;
}

void ru_sleeper_wake(struct ru_sleeper *sleeper)
{
    if (ru_sleeper_claim(sleeper))
        (void)syscall(SYS_futex, &sleeper->asleep, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
