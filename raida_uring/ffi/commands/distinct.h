/* distinct.h: whether keys differ from each other, for keys that an attacker has chosen. Pure. */
#ifndef RU_DISTINCT_H
#define RU_DISTINCT_H

#include <stdbool.h>
#include <stdint.h>

/* Keys of `size` bytes, `stride` bytes apart. */
struct ru_keys {
    const uint8_t *at;
    uint32_t count; /* at most UINT16_MAX */
    uint32_t stride;
    uint32_t size;
};

/* Whether no two keys are equal, in time that is linear in their bytes whatever they are. room: two
 * indexes for each key. */
bool ru_distinct_keys(const struct ru_keys *keys, uint16_t *room);

#endif
