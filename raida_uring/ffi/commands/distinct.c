/* distinct.c: whether keys differ from each other.
 *
 * Sorted by radix, from the last byte on, since no choice of keys makes that slow: a hash table can be
 * flooded, and glibc's qsort() may allocate. A few keys are compared pair by pair, which is faster
 * than to count 256 values of each byte.
 */
#include "commands/distinct.h"

#include <string.h>

#include "check.h"

#define DISTINCT_PAIRS_MAX 32 /* keys up to which pairs are compared */
#define DISTINCT_VALUES 256   /* of a byte */

static const uint8_t *key_at(const struct ru_keys *keys, uint32_t index)
{
    return keys->at + (size_t)index * keys->stride;
}

static bool pairs_differ(const struct ru_keys *keys)
{
    uint64_t fronts[DISTINCT_PAIRS_MAX] = {0};
    const size_t front = keys->size < sizeof(*fronts) ? keys->size : sizeof(*fronts);
    for (uint32_t i = 0; i < keys->count; i++) {
        memcpy(&fronts[i], key_at(keys, i), front);
        for (uint32_t j = 0; j < i; j++) {
            if (fronts[j] == fronts[i] && memcmp(key_at(keys, j), key_at(keys, i), keys->size) == 0)
                return false;
        }
    }
    return true;
}

/* Write the indexes `from` to `to`, ordered by one byte of their keys, otherwise as before. False: all
 * have the same byte, and nothing was written. */
static bool order_by(const struct ru_keys *keys, uint32_t byte, const uint16_t *from, uint16_t *to)
{
    uint32_t starts[DISTINCT_VALUES] = {0};
    uint32_t start = 0;
    for (uint32_t i = 0; i < keys->count; i++)
        starts[key_at(keys, i)[byte]]++;
    if (starts[key_at(keys, 0)[byte]] == keys->count)
        return false;
    for (uint32_t value = 0; value < DISTINCT_VALUES; value++) {
        uint32_t count = starts[value];
        starts[value] = start;
        start += count;
    }
    for (uint32_t i = 0; i < keys->count; i++)
        to[starts[key_at(keys, from[i])[byte]]++] = from[i];
    return true;
}

bool ru_distinct_keys(const struct ru_keys *keys, uint16_t *room)
{
    RU_CHECK(keys->count <= UINT16_MAX);
    if (keys->count <= DISTINCT_PAIRS_MAX)
        return pairs_differ(keys);
    uint16_t *order = room;
    uint16_t *spare = room + keys->count;
    for (uint32_t i = 0; i < keys->count; i++)
        order[i] = (uint16_t)i;
    for (uint32_t byte = keys->size; byte-- > 0;) {
        if (!order_by(keys, byte, order, spare))
            continue;
        uint16_t *ordered = spare;
        spare = order;
        order = ordered;
    }
    for (uint32_t i = 1; i < keys->count; i++) {
        if (memcmp(key_at(keys, order[i - 1]), key_at(keys, order[i]), keys->size) == 0)
            return false;
    }
    return true;
}
