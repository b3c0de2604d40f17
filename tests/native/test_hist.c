/* test_hist.c: every duration lands in a bucket that knows it to 1/16. */
#include "count/hist.h"
#include "native.h"

static void test_floors_are_the_first_of_their_bucket(void)
{
    for (uint32_t bucket = 0; bucket < RU_HIST_BUCKETS; bucket++) {
        uint64_t floor_ns = ru_hist_floor_ns(bucket);
        EXPECT_EQUAL(ru_hist_bucket(floor_ns), bucket);
        if (bucket > 0)
            EXPECT_EQUAL(ru_hist_bucket(floor_ns - 1), bucket - 1);
    }
    EXPECT_ABORT((void)ru_hist_floor_ns(RU_HIST_BUCKETS));
}

static void test_small_values_are_exact(void)
{
    for (uint64_t ns = 0; ns < 32; ns++)
        EXPECT_EQUAL(ru_hist_floor_ns(ru_hist_bucket(ns)), ns);
}

static void test_relative_error(void)
{
    struct ru_random random = {native_seed()};
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t ns = native_random(&random) >> (64 - 1 - native_below(&random, RU_HIST_TOP_BIT));
        uint64_t floor_ns = ru_hist_floor_ns(ru_hist_bucket(ns));
        EXPECT(floor_ns <= ns && (ns - floor_ns) * 16 <= floor_ns);
    }
}

static void test_long_values_share_the_last_bucket(void)
{
    const uint64_t top_ns = 1ULL << RU_HIST_TOP_BIT;
    EXPECT_EQUAL(ru_hist_bucket(top_ns - 1), RU_HIST_BUCKETS - 1);
    EXPECT_EQUAL(ru_hist_bucket(top_ns), RU_HIST_BUCKETS - 1);
    EXPECT_EQUAL(ru_hist_bucket(UINT64_MAX), RU_HIST_BUCKETS - 1);
}

static void test_add_counts_and_sums(void)
{
    static struct ru_hist hist;
    ru_hist_add(&hist, 5, 1);
    ru_hist_add(&hist, 5, 3);
    ru_hist_add(&hist, 1000, 2);
    EXPECT_EQUAL(hist.buckets[5], 4);
    EXPECT_EQUAL(hist.buckets[ru_hist_bucket(1000)], 2);
    EXPECT_EQUAL(hist.sum_ns, 4 * 5 + 2 * 1000);
    uint64_t total = 0;
    for (uint32_t i = 0; i < RU_HIST_BUCKETS; i++)
        total += hist.buckets[i];
    EXPECT_EQUAL(total, 6);
}

int main(void)
{
    RUN(test_floors_are_the_first_of_their_bucket);
    RUN(test_small_values_are_exact);
    RUN(test_relative_error);
    RUN(test_long_values_share_the_last_bucket);
    RUN(test_add_counts_and_sums);
    return native_finish();
}
