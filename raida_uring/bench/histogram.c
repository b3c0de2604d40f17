/* histogram.c: latencies of a run, in buckets of at most 1/64 of their value. */
#include "loadgen.h"

enum {
    HISTOGRAM_LINEAR_BITS = 6
};

static uint32_t histogram_index(uint64_t value)
{
    const uint64_t linear = 1ull << HISTOGRAM_LINEAR_BITS;
    if (value < linear)
        return (uint32_t)value;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll(value) - HISTOGRAM_LINEAR_BITS;
    uint64_t index = (octave + 1) * linear + ((value >> octave) - linear);
    return index < LG_HISTOGRAM_BUCKETS ? (uint32_t)index : LG_HISTOGRAM_BUCKETS - 1;
}

/* Largest value of the bucket. */
static uint64_t histogram_edge(uint32_t index)
{
    const uint32_t linear = 1u << HISTOGRAM_LINEAR_BITS;
    if (index < linear)
        return index;
    uint32_t octave = index / linear - 1;
    return (((uint64_t)(index % linear) + linear + 1) << octave) - 1;
}

void lg_histogram_record(struct lg_histogram *histogram, uint64_t value)
{
    histogram->buckets[histogram_index(value)]++;
    histogram->count++;
    if (value > histogram->max)
        histogram->max = value;
}

uint64_t lg_histogram_percentile(const struct lg_histogram *histogram, uint32_t permille_x10)
{
    if (histogram->count == 0)
        return 0;
    if (permille_x10 > 10000)
        permille_x10 = 10000;
    uint64_t rank = (histogram->count * permille_x10 + 9999) / 10000;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < LG_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > 0 && seen >= rank) {
            /* The last bucket is open-ended: only the maximum is known there. */
            uint64_t edge = i + 1 < LG_HISTOGRAM_BUCKETS ? histogram_edge(i) : histogram->max;
            return edge < histogram->max ? edge : histogram->max;
        }
    }
    return histogram->max;
}
