/* words.h: bytes in memory that one thread rewrites while others read: as words, each of them atomic.
 *
 * A reader may get words of two moments, and has to find that out by a version.
 */
#ifndef RU_WORDS_H
#define RU_WORDS_H

#include <stdint.h>
#include <string.h>

static inline void ru_words_store(uint64_t *words, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word;
        memcpy(&word, bytes + i * sizeof(word), sizeof(word));
        __atomic_store_n(&words[i], word, __ATOMIC_RELAXED);
    }
}

static inline void ru_words_load(uint8_t *bytes, const uint64_t *words, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = __atomic_load_n(&words[i], __ATOMIC_RELAXED);
        memcpy(bytes + i * sizeof(word), &word, sizeof(word));
    }
}

#endif
