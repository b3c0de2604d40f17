/* hist.c: log-linear latency histograms. */
#include "count/hist.h"

#include "check.h"

#define HIST_SUB (1U << RU_HIST_SUB_BITS)

uint32_t ru_hist_bucket(uint64_t value_ns)
{
    if (value_ns < HIST_SUB)
        return (uint32_t)value_ns;
    if (value_ns >> RU_HIST_TOP_BIT)
        return RU_HIST_BUCKETS - 1;
    uint32_t top = 63U - (uint32_t)__builtin_clzll(value_ns);
    uint32_t shift = top - RU_HIST_SUB_BITS;
    return ((shift + 1) << RU_HIST_SUB_BITS) + (uint32_t)(value_ns >> shift) - HIST_SUB;
}

uint64_t ru_hist_floor_ns(uint32_t bucket)
{
    RU_CHECK(bucket < RU_HIST_BUCKETS);
    if (bucket < HIST_SUB)
        return bucket;
    uint32_t shift = (bucket >> RU_HIST_SUB_BITS) - 1;
    return (uint64_t)(HIST_SUB + (bucket & (HIST_SUB - 1))) << shift;
}

void ru_hist_add(struct ru_hist *hist, uint64_t value_ns, uint64_t count)
{
    uint64_t *bucket = &hist->buckets[ru_hist_bucket(value_ns)];
    __atomic_store_n(bucket, *bucket + count, __ATOMIC_RELAXED);
    __atomic_store_n(&hist->sum_ns, hist->sum_ns + value_ns * count, __ATOMIC_RELAXED);
}
