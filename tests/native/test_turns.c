/* test_turns.c: a lock that is had in the order in which it was asked for. */
#include "coins/turns.h"

#include <sched.h>
#include <string.h>

#include "native.h"

static struct {
    struct ru_turns turns;
    char order[3];
    uint32_t had;
} bench;

static void *turns_wait(void *unused)
{
    ru_turns_begin(&bench.turns);
    bench.order[bench.had++] = 'w';
    ru_turns_end(&bench.turns);
    return unused;
}

static uint64_t turns_asked(void)
{
    (void)pthread_mutex_lock(&bench.turns.mutex);
    uint64_t asked = bench.turns.asked;
    (void)pthread_mutex_unlock(&bench.turns.mutex);
    return asked;
}

static void test_who_asks_again_comes_after_who_waits(void)
{
    pthread_t waiting;
    ru_turns_init(&bench.turns);
    ru_turns_begin(&bench.turns);
    EXPECT_EQUAL(pthread_create(&waiting, NULL, turns_wait, NULL), 0);
    while (turns_asked() < 2)
        (void)sched_yield();
    ru_turns_end(&bench.turns);
    ru_turns_begin(&bench.turns);
    bench.order[bench.had++] = 'a';
    ru_turns_end(&bench.turns);
    EXPECT_EQUAL(pthread_join(waiting, NULL), 0);
    EXPECT_EQUAL(strcmp(bench.order, "wa"), 0);
    ru_turns_destroy(&bench.turns);
}

int main(void)
{
    RUN(test_who_asks_again_comes_after_who_waits);
    return native_finish();
}
