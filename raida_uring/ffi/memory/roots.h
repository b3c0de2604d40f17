/* roots.h: the roots of the coins' trees. One publisher writes, any thread reads. */
#ifndef RU_ROOTS_H
#define RU_ROOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"
#include "memory/words.h"

/* cdef: begin */
enum ru_roots_constant {
    RU_ROOTS_WORDS = 60, /* of RU_ROOTS_SIZE bytes */
};

/* Two copies, so that a publisher that is preempted halfway never makes a vote wait: readers use
 * the copy of the last finished version and look again only if a second version was begun. */
struct ru_roots {
    uint64_t begun;
    uint64_t done;
    uint64_t copies[2][RU_ROOTS_WORDS];
};
/* cdef: end */

_Static_assert(RU_ROOTS_WORDS * sizeof(uint64_t) == RU_ROOTS_SIZE, "words");

/* Begin the next version: from now on its copy is not read. Returns its number. */
static inline uint64_t ru_roots_begin(struct ru_roots *roots)
{
    uint64_t version = roots->done + 1;
    __atomic_store_n(&roots->begun, version, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return version;
}

static inline void ru_roots_publish(struct ru_roots *roots, const uint8_t *values)
{
    uint64_t version = ru_roots_begin(roots);
    ru_words_store(roots->copies[version & 1], values, RU_ROOTS_WORDS);
    __atomic_store_n(&roots->done, version, __ATOMIC_RELEASE);
}

/* The version whose copies may be read. */
static inline uint64_t ru_roots_version(const struct ru_roots *roots)
{
    return __atomic_load_n(&roots->done, __ATOMIC_ACQUIRE);
}

/* Whether what has been read of `version` is whole. */
static inline bool ru_roots_held(const struct ru_roots *roots, uint64_t version)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&roots->begun, __ATOMIC_RELAXED) <= version + 1;
}

static inline void ru_roots_read(const struct ru_roots *roots, uint8_t *values)
{
    uint64_t version;
    do {
        version = ru_roots_version(roots);
        ru_words_load(values, roots->copies[version & 1], RU_ROOTS_WORDS);
    } while (!ru_roots_held(roots, version));
}

#endif
