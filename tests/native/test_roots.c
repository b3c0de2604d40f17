/* test_roots.c: votes are compared with one published set of roots, whole and current.
 *
 * Each set stands for two versions in a row, so that both copies of the table are rewritten all the
 * time; a set that is half one and half the other was never published.
 */
#include <pthread.h>
#include <sched.h>

#include "wire/fast.h"
#include "native.h"

#define VERSIONS 400000ULL

static struct ru_roots roots;
static uint32_t finished;

static uint8_t set_of_version(uint64_t version)
{
    return version >> 1 & 1;
}

/* Sets differ in every byte. */
static void roots_fill(uint8_t *values, uint8_t set)
{
    memset(values, set ? 0xB7 : 0xA5, RU_ROOTS_SIZE);
}

static void *publish(void *argument)
{
    uint8_t values[2][RU_ROOTS_SIZE];
    (void)argument;
    roots_fill(values[0], 0);
    roots_fill(values[1], 1);
    for (uint64_t version = roots.done + 1; version <= VERSIONS; version++) {
        ru_roots_publish(&roots, values[set_of_version(version)]);
        if (version % 8 == 0)
            (void)sched_yield();
    }
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

static uint8_t vote_answer(const uint8_t *vote)
{
    uint8_t out[RU_VOTE_REPLY_SIZE];
    ru_fast_vote(&roots, vote, out);
    EXPECT_BYTES(out + 1, vote + 1 + RU_ROOTS_SIZE, RU_VOTE_REPLY_SIZE - 1);
    EXPECT(out[0] <= 1);
    return out[0];
}

/* A vote for either set; true when no publication came between the two, so the answer is known. */
static bool vote_for_both(const uint8_t votes[2][RU_VOTE_SIZE])
{
    uint64_t before = __atomic_load_n(&roots.done, __ATOMIC_ACQUIRE);
    uint8_t answers[2] = {vote_answer(votes[0]), vote_answer(votes[1])};
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&roots.done, __ATOMIC_RELAXED) != before)
        return false;
    EXPECT_EQUAL(answers[0], set_of_version(before) == 0);
    EXPECT_EQUAL(answers[1], set_of_version(before) == 1);
    return true;
}

static void test_votes_while_a_publisher_flips(void)
{
    struct ru_random random = {native_seed()};
    uint8_t votes[2][RU_VOTE_SIZE], torn[RU_VOTE_SIZE], values[RU_ROOTS_SIZE];
    for (uint8_t set = 0; set < 2; set++) {
        ru_random_fill(&random, votes[set], RU_VOTE_SIZE);
        roots_fill(votes[set] + 1, set);
    }
    roots_fill(values, set_of_version(1));
    ru_roots_publish(&roots, values);

    pthread_t publisher;
    uint64_t settled = 0;
    EXPECT_EQUAL(pthread_create(&publisher, NULL, publish, NULL), 0);
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        settled += vote_for_both((const uint8_t(*)[RU_VOTE_SIZE])votes);
        uint32_t seam = 1 + native_below(&random, RU_ROOTS_SIZE - 1);
        uint8_t first = (uint8_t)native_below(&random, 2);
        memcpy(torn, votes[first], RU_VOTE_SIZE);
        memcpy(torn + 1 + seam, votes[!first] + 1 + seam, RU_ROOTS_SIZE - seam);
        EXPECT_EQUAL(vote_answer(torn), 0);
    }
    EXPECT_EQUAL(pthread_join(publisher, NULL), 0);
    EXPECT(vote_for_both((const uint8_t(*)[RU_VOTE_SIZE])votes));
    EXPECT(settled > 0);
}

/* A publisher preempted halfway has begun a version that it cannot finish: votes do not wait. */
static void test_a_halted_publisher_delays_nobody(void)
{
    struct ru_random random = {native_seed()};
    uint8_t vote[RU_VOTE_SIZE];
    ru_random_fill(&random, vote, sizeof(vote));
    ru_roots_publish(&roots, vote + 1);
    roots.begun = roots.done + 1;
    memset(roots.copies[roots.begun & 1], 0xEE, RU_ROOTS_SIZE / 2);
    EXPECT_EQUAL(vote_answer(vote), 1);
    vote[RU_ROOTS_SIZE] ^= 1; /* the last byte of the last root */
    EXPECT_EQUAL(vote_answer(vote), 0);
    vote[RU_ROOTS_SIZE] ^= 1;
    vote[1] ^= 0x80;
    EXPECT_EQUAL(vote_answer(vote), 0);
}

/* Before anything is published, roots count as zero. */
static void test_unpublished_roots_are_zero(void)
{
    uint8_t vote[RU_VOTE_SIZE] = {7}, out[RU_VOTE_REPLY_SIZE];
    const struct ru_roots fresh = {0};
    ru_fast_vote(&fresh, vote, out);
    EXPECT_EQUAL(out[0], 1);
    vote[200] = 1;
    ru_fast_vote(&fresh, vote, vote); /* in place */
    EXPECT_EQUAL(vote[0], 0);
}

int main(void)
{
    RUN(test_unpublished_roots_are_zero);
    RUN(test_votes_while_a_publisher_flips);
    RUN(test_a_halted_publisher_delays_nobody);
    return native_finish();
}
