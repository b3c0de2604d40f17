/* number.h: the arithmetic on whole numbers that more than one file needs. Pure. */
#ifndef RU_NUMBER_H
#define RU_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Stands for "no index" wherever an index is expected. */
#define RU_NONE UINT32_MAX

static inline uint32_t ru_number_min32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint64_t ru_number_min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline bool ru_number_is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* The smallest power of two that is at least `value`; value: at most 2^31. */
static inline uint32_t ru_number_power_of_two(uint32_t value)
{
    uint32_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

#endif
