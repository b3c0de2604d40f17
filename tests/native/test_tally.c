/* test_tally.c: counts by command and status, one writer each, while another thread adds them up.
 *
 * Also run under the thread sanitizer. What must hold: a reader sees no torn or falling number, and
 * once the writers are done every reply is counted once.
 */
#include "count/tally.h"

#include <pthread.h>

#include "limits.h"
#include "native.h"

#define WRITERS 3U
#define ROUNDS 20000U
#define COMMAND 0x0114U
#define SPENT_NS 7U

static struct ru_tally **tally_sets;
static uint32_t tally_done; /* writers that have ended */

static void *count_replies(void *set)
{
    for (uint32_t i = 0; i < ROUNDS; i++)
        ru_tally_count(set, COMMAND, (uint8_t)i, SPENT_NS);
    __atomic_fetch_add(&tally_done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static struct ru_tally sum_up(uint32_t command)
{
    struct ru_tally sum = {0};
    for (uint32_t i = 0; i < WRITERS; i++)
        (void)ru_tally_add(tally_sets + (size_t)i * RU_COMMANDS_COUNT, (uint16_t)command, &sum);
    return sum;
}

static void test_readers_see_no_number_fall(void)
{
    pthread_t writers[WRITERS];
    struct ru_tally before = {0};
    tally_done = 0;
    tally_sets = calloc((size_t)WRITERS * RU_COMMANDS_COUNT, sizeof(*tally_sets));
    EXPECT(tally_sets != NULL);
    for (uint32_t i = 0; i < WRITERS; i++)
        EXPECT_EQUAL(pthread_create(&writers[i], NULL, count_replies,
                                    tally_sets + (size_t)i * RU_COMMANDS_COUNT),
                     0);
    while (__atomic_load_n(&tally_done, __ATOMIC_ACQUIRE) < WRITERS) {
        struct ru_tally now = sum_up(COMMAND);
        EXPECT(now.spent_ns >= before.spent_ns && now.spent_ns % SPENT_NS == 0);
        for (uint32_t status = 0; status < RU_TALLY_STATUSES; status++)
            EXPECT(now.answered[status] >= before.answered[status]);
        before = now;
    }
    for (uint32_t i = 0; i < WRITERS; i++)
        EXPECT_EQUAL(pthread_join(writers[i], NULL), 0);

    struct ru_tally sum = sum_up(COMMAND);
    EXPECT_EQUAL(sum.spent_ns, (uint64_t)WRITERS * ROUNDS * SPENT_NS);
    for (uint32_t status = 0; status < RU_TALLY_STATUSES; status++)
        EXPECT_EQUAL(sum.answered[status], WRITERS * ((ROUNDS - status + 255U) / 256U));
    ru_tally_free(tally_sets, WRITERS * RU_COMMANDS_COUNT);
}

static void test_commands_do_not_mix(void)
{
    struct ru_tally sum = {0};
    struct ru_tally **set = calloc(RU_COMMANDS_COUNT, sizeof(*set));
    EXPECT(set != NULL);
    ru_tally_count(set, 0, 250, 1);
    ru_tally_count(set, RU_COMMANDS_COUNT - 1, 6, 2);
    EXPECT(!ru_tally_add(set, 1, &sum));
    EXPECT(ru_tally_add(set, RU_COMMANDS_COUNT - 1, &sum));
    EXPECT_EQUAL(sum.answered[6], 1);
    EXPECT_EQUAL(sum.answered[250], 0);
    EXPECT_EQUAL(sum.spent_ns, 2);
    EXPECT_ABORT(ru_tally_count(set, RU_COMMANDS_COUNT, 250, 1));
    ru_tally_free(set, RU_COMMANDS_COUNT);
    ru_tally_free(NULL, 0); /* an engine that got no memory for them */
}

int main(void)
{
    RUN(test_readers_see_no_number_fall);
    RUN(test_commands_do_not_mix);
    return native_finish();
}
