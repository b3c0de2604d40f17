/* hist.h: log-linear latency histograms.
 *
 * 16 linear sub-buckets per power of two: a value is known to 1/16, from 1 ns to 68 s. Written by
 * the loop thread, read by any (each bucket is one relaxed 64-bit word).
 */
#ifndef RU_HIST_H
#define RU_HIST_H

#include <stdint.h>

#define RU_HIST_SUB_BITS 4
#define RU_HIST_TOP_BIT 36 /* 2^36 ns = 68.7 s; longer counts in the last bucket */
#define RU_HIST_BUCKETS ((RU_HIST_TOP_BIT - RU_HIST_SUB_BITS + 1) << RU_HIST_SUB_BITS)

struct ru_hist {
    uint64_t sum_ns;
    uint64_t buckets[RU_HIST_BUCKETS];
};

uint32_t ru_hist_bucket(uint64_t value_ns);
/* The smallest value, in nanoseconds, that counts in `bucket`. */
uint64_t ru_hist_floor_ns(uint32_t bucket);
void ru_hist_add(struct ru_hist *hist, uint64_t value_ns, uint64_t count);

#endif
