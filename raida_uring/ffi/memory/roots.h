/* roots.h: the roots of the coins' trees. One publisher writes while the loop reads. */
#ifndef RU_ROOTS_H
#define RU_ROOTS_H

#include <stdint.h>
#include <string.h>

#include "limits.h"

/* Two copies, so that a publisher that is preempted halfway never makes a vote wait: readers use
 * the copy of the last finished version and look again only if a second version was begun. */
struct ru_roots {
    uint64_t begun;
    uint64_t done;
    uint8_t copies[2][RU_ROOTS_SIZE];
};

static inline void ru_roots_publish(struct ru_roots *roots, const uint8_t *values)
{
    uint64_t version = roots->done + 1;
    __atomic_store_n(&roots->begun, version, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memcpy(roots->copies[version & 1], values, RU_ROOTS_SIZE);
    __atomic_store_n(&roots->done, version, __ATOMIC_RELEASE);
}

#endif
