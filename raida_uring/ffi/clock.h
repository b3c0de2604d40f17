/* clock.h: the clock that every time in the data plane is read from. */
#ifndef RU_CLOCK_H
#define RU_CLOCK_H

#include <stdint.h>
#include <time.h>

#define RU_SECOND_NS 1000000000ULL
#define RU_MILLISECOND_NS 1000000ULL

static inline uint64_t ru_clock_ms_to_ns(uint32_t ms)
{
    return ms * RU_MILLISECOND_NS;
}

static inline uint64_t ru_clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * RU_SECOND_NS + (uint64_t)now.tv_nsec;
}

static inline uint64_t ru_now_ns(void)
{
    return ru_clock_ns(CLOCK_MONOTONIC);
}

/* From `since_ns` to `now_ns`; 0 if that is earlier. The clocks of two processors agree only so far,
 * and any thread may move from one to the other. */
static inline uint64_t ru_clock_between(uint64_t since_ns, uint64_t now_ns)
{
    return now_ns > since_ns ? now_ns - since_ns : 0;
}

#endif
