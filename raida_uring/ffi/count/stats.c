/* stats.c: publishing counters as one consistent set, and gauges one by one. */
#include "count/stats.h"

#include <string.h>

void ru_counters_publish(struct ru_counters_page *page, const struct ru_counters *counters)
{
    uint64_t values[RU_COUNTERS_COUNT];
    memcpy(values, counters, sizeof(values));
    uint64_t sequence = page->sequence;
    __atomic_store_n(&page->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
        __atomic_store_n(&page->values[i], values[i], __ATOMIC_RELAXED);
    __atomic_store_n(&page->sequence, sequence + 2, __ATOMIC_RELEASE);
}

void ru_counters_read(const struct ru_counters_page *page, uint64_t *values)
{
    for (;;) {
        uint64_t before = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE);
        for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
            values[i] = __atomic_load_n(&page->values[i], __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && before == __atomic_load_n(&page->sequence, __ATOMIC_RELAXED))
            return;
    }
}

void ru_stats_add(struct ru_counters *counters, const struct ru_worker_counters *worker)
{
#define RU_COUNTER_ADD(name, kind, meaning)                                                        \
    counters->name += __atomic_load_n(&worker->name, __ATOMIC_RELAXED);
    RU_WORKER_COUNTERS(RU_COUNTER_ADD)
#undef RU_COUNTER_ADD
}

void ru_gauges_publish(struct ru_gauges_page *page, const struct ru_gauges *gauges)
{
    uint64_t values[RU_GAUGES_COUNT];
    memcpy(values, gauges, sizeof(values));
    for (uint32_t i = 0; i < RU_GAUGES_COUNT; i++)
        __atomic_store_n(&page->values[i], values[i], __ATOMIC_RELAXED);
}

void ru_gauges_read(const struct ru_gauges_page *page, uint64_t *values)
{
    for (uint32_t i = 0; i < RU_GAUGES_COUNT; i++)
        values[i] = __atomic_load_n(&page->values[i], __ATOMIC_RELAXED);
}

const char *ru_gauges_name(uint32_t index)
{
    static const char *const names[] = {
#define RU_GAUGE_NAME(name) #name,
        RU_GAUGES(RU_GAUGE_NAME)
#undef RU_GAUGE_NAME
    };
    return index < RU_GAUGES_COUNT ? names[index] : NULL;
}

const struct ru_counter *ru_counters_row(uint32_t index)
{
    static const struct ru_counter rows[] = {
#define RU_COUNTER_ROW(name, kind, meaning) {#name, meaning, RU_COUNTER_##kind},
        RU_COUNTERS(RU_COUNTER_ROW)
#undef RU_COUNTER_ROW
    };
    return index < RU_COUNTERS_COUNT ? &rows[index] : NULL;
}
