/* test_stats.c: readers see one publication or another, never parts of two. */
#include <pthread.h>
#include <sched.h>

#include "native.h"
#include "count/stats.h"

#define PUBLICATIONS 200000U

/* Publication n: counter i is n * (i + 1). */
static void counters_fill(struct ru_counters *counters, uint64_t n)
{
    uint64_t values[RU_COUNTERS_COUNT];
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
        values[i] = n * (i + 1);
    memcpy(counters, values, sizeof(values));
}

static struct ru_counters_page page;
static uint32_t finished;

static void *publish(void *argument)
{
    struct ru_counters counters;
    (void)argument;
    for (uint64_t n = 1; n <= PUBLICATIONS; n++) {
        counters_fill(&counters, n);
        ru_counters_publish(&page, &counters);
        if (n % 16 == 0)
            (void)sched_yield();
    }
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void test_snapshots_are_whole_and_only_advance(void)
{
    uint64_t values[RU_COUNTERS_COUNT];
    uint64_t last = 0, distinct = 0;
    pthread_t publisher;
    EXPECT_EQUAL(pthread_create(&publisher, NULL, publish, NULL), 0);
    for (bool ended = false; !ended;) {
        ended = __atomic_load_n(&finished, __ATOMIC_ACQUIRE);
        ru_counters_read(&page, values);
        for (uint32_t i = 1; i < RU_COUNTERS_COUNT; i++)
            EXPECT_EQUAL(values[i], values[0] * (i + 1));
        EXPECT(values[0] >= last);
        distinct += values[0] != last;
        last = values[0];
    }
    EXPECT_EQUAL(pthread_join(publisher, NULL), 0);
    EXPECT_EQUAL(last, PUBLICATIONS);
    EXPECT(distinct > 1); /* the threads did meet */
}

static void test_every_counter_has_one_name(void)
{
    struct ru_counters counters;
    memset(&counters, 0, sizeof(counters));
    counters.tcp_requests = 42;
    ru_counters_publish(&page, &counters);
    uint64_t values[RU_COUNTERS_COUNT];
    ru_counters_read(&page, values);
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++) {
        const char *name = ru_counters_row(i)->name;
        EXPECT_EQUAL(values[i], strcmp(name, "tcp_requests") == 0 ? 42 : 0);
        for (uint32_t j = 0; j < i; j++)
            EXPECT(strcmp(name, ru_counters_row(j)->name) != 0);
    }
    EXPECT(ru_counters_row(RU_COUNTERS_COUNT) == NULL);
    EXPECT(ru_counters_row(UINT32_MAX) == NULL);
}

static void test_every_gauge_has_one_name(void)
{
    static struct ru_gauges_page gauges_page;
    struct ru_gauges gauges;
    memset(&gauges, 0, sizeof(gauges));
    gauges.queued_slow = 42;
    ru_gauges_publish(&gauges_page, &gauges);
    uint64_t values[RU_GAUGES_COUNT];
    ru_gauges_read(&gauges_page, values);
    for (uint32_t i = 0; i < RU_GAUGES_COUNT; i++) {
        const char *name = ru_gauges_name(i);
        EXPECT_EQUAL(values[i], strcmp(name, "queued_slow") == 0 ? 42 : 0);
        for (uint32_t j = 0; j < i; j++)
            EXPECT(strcmp(name, ru_gauges_name(j)) != 0);
    }
    EXPECT(ru_gauges_name(RU_GAUGES_COUNT) == NULL);
}

int main(void)
{
    RUN(test_snapshots_are_whole_and_only_advance);
    RUN(test_every_counter_has_one_name);
    RUN(test_every_gauge_has_one_name);
    return native_finish();
}
