/* test_timer.c: the wheel against a list that is searched from end to end.
 *
 * Whatever happens: no deadline is met early, a poll leaves none behind that is a whole tick old,
 * and who sleeps as long as the wheel says is never more than a tick late.
 */
#include "native.h"
#include "memory/timer.h"

#define COUNT 60
#define UNSET UINT64_MAX
#define TURN_NS (RU_TIMER_BUCKETS * RU_TICK_NS)

struct wheel {
    struct ru_timer timer;
    struct ru_timer_node nodes[COUNT];
    struct ru_link links[COUNT];
    uint64_t deadlines[COUNT]; /* the model; one set in the past is due when it is set */
    uint64_t now_ns;
    struct ru_random random;
};

static void wheel_init(struct wheel *wheel, uint64_t seed)
{
    wheel->random.state = seed;
    wheel->now_ns = native_random(&wheel->random) >> 20;
    for (uint32_t i = 0; i < COUNT; i++)
        wheel->deadlines[i] = UNSET;
    ru_timer_init(&wheel->timer, wheel->nodes, wheel->links, COUNT, wheel->now_ns);
}

static uint64_t wheel_earliest(const struct wheel *wheel)
{
    uint64_t earliest = UNSET;
    for (uint32_t i = 0; i < COUNT; i++)
        earliest = wheel->deadlines[i] < earliest ? wheel->deadlines[i] : earliest;
    return earliest;
}

static uint32_t wheel_set_count(const struct wheel *wheel)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < COUNT; i++)
        count += wheel->deadlines[i] != UNSET;
    return count;
}

static void wheel_set(struct wheel *wheel, uint32_t index, uint64_t deadline_ns)
{
    ru_timer_set(&wheel->timer, index, deadline_ns);
    wheel->deadlines[index] = deadline_ns > wheel->now_ns ? deadline_ns : wheel->now_ns;
}

/* Within a tick, within a turn, several turns away; sometimes already past. */
static uint64_t wheel_delay(struct wheel *wheel)
{
    static const uint64_t spans_ns[] = {RU_TICK_NS / 3, 5 * RU_TICK_NS, TURN_NS, 5 * TURN_NS};
    return native_random(&wheel->random) % spans_ns[native_below(&wheel->random, 4)];
}

/* Expire all that is due; nothing early, nothing twice, nothing a whole tick old left. */
static void wheel_poll(struct wheel *wheel)
{
    uint32_t index;
    while ((index = ru_timer_expire(&wheel->timer, wheel->now_ns)) != RU_NONE) {
        EXPECT(index < COUNT && wheel->deadlines[index] <= wheel->now_ns);
        wheel->deadlines[index] = UNSET;
    }
    uint64_t earliest = wheel_earliest(wheel);
    EXPECT(earliest == UNSET || earliest + RU_TICK_NS > wheel->now_ns);
    EXPECT_EQUAL(wheel->timer.set_count, wheel_set_count(wheel));
    ru_timer_check(&wheel->timer);
}

static void wheel_check_wait(const struct wheel *wheel)
{
    uint64_t earliest = wheel_earliest(wheel);
    uint64_t wait_ns = ru_timer_wait_ns(&wheel->timer, wheel->now_ns);
    if (earliest == UNSET) {
        EXPECT_EQUAL(wait_ns, UINT64_MAX);
        return;
    }
    uint64_t latest = (earliest > wheel->now_ns ? earliest : wheel->now_ns) + RU_TICK_NS;
    EXPECT(wait_ns > 0 && wheel->now_ns + wait_ns <= latest);
}

static void wheel_change(struct wheel *wheel)
{
    uint32_t index = native_below(&wheel->random, COUNT);
    switch (native_below(&wheel->random, 4)) {
    case 0:
        ru_timer_clear(&wheel->timer, index);
        wheel->deadlines[index] = UNSET;
        break;
    case 1:
        wheel_set(wheel, index, wheel->now_ns - wheel_delay(wheel) % wheel->now_ns);
        break;
    default:
        wheel_set(wheel, index, wheel->now_ns + wheel_delay(wheel));
    }
}

static void test_random_steps(void)
{
    static struct wheel wheel;
    for (uint64_t round = 0; round < 20; round++) {
        wheel_init(&wheel, native_seed() + round);
        for (uint32_t step = 0; step < 5000; step++) {
            for (uint32_t changes = native_below(&wheel.random, 4); changes > 0; changes--)
                wheel_change(&wheel);
            wheel_check_wait(&wheel);
            wheel.now_ns += wheel_delay(&wheel);
            wheel_poll(&wheel);
            wheel_check_wait(&wheel);
        }
    }
}

/* A loop that sleeps as long as it is told, or wakes earlier, is late by at most one tick. */
static void test_sleeping_as_told(void)
{
    static struct wheel wheel;
    for (uint64_t round = 0; round < 20; round++) {
        wheel_init(&wheel, native_seed() + round);
        for (uint32_t step = 0; step < 20000; step++) {
            if (wheel.timer.set_count < COUNT / 2)
                wheel_set(&wheel, native_below(&wheel.random, COUNT),
                          wheel.now_ns + wheel_delay(&wheel));
            uint64_t wait_ns = ru_timer_wait_ns(&wheel.timer, wheel.now_ns);
            if (native_below(&wheel.random, 2) == 0)
                wait_ns = native_random(&wheel.random) % wait_ns;
            wheel.now_ns += wait_ns;
            EXPECT(wheel.now_ns <= wheel_earliest(&wheel) + RU_TICK_NS);
            wheel_poll(&wheel);
        }
    }
}

/* A deadline turns away shares its bucket with nearer ones; neither must hide the other. */
static void test_far_and_near_in_one_bucket(void)
{
    static struct wheel wheel;
    wheel_init(&wheel, 1);
    const uint64_t near_ns = wheel.now_ns + 3 * RU_TICK_NS;
    wheel_set(&wheel, 0, near_ns + 3 * TURN_NS);
    wheel_set(&wheel, 1, near_ns);
    wheel_set(&wheel, 2, near_ns + TURN_NS);
    static const uint32_t left[] = {2, 1, 1, 0};
    for (uint32_t turn = 0; turn < 4; turn++) {
        wheel.now_ns = near_ns + turn * TURN_NS + RU_TICK_NS;
        wheel_poll(&wheel);
        EXPECT_EQUAL(wheel.timer.set_count, left[turn]);
    }
}

/* A far deadline in the bucket of this very tick must not put off what the next tick holds. */
static void test_far_deadline_in_the_current_bucket(void)
{
    static struct wheel wheel;
    wheel_init(&wheel, 1);
    const uint64_t tick_ns = (wheel.now_ns / RU_TICK_NS + 2) * RU_TICK_NS;
    wheel_set(&wheel, 0, tick_ns - RU_TICK_NS + TURN_NS);
    wheel_set(&wheel, 1, tick_ns + RU_TICK_NS / 10);
    wheel.now_ns = tick_ns + RU_TICK_NS / 10 * 9; /* woken by something else */
    wheel_poll(&wheel);
    wheel_check_wait(&wheel);
    wheel.now_ns += ru_timer_wait_ns(&wheel.timer, wheel.now_ns);
    EXPECT(wheel.now_ns <= wheel.deadlines[1] + RU_TICK_NS);
    wheel_poll(&wheel);
    EXPECT_EQUAL(wheel.deadlines[1], UNSET);
}

static void test_clearing_twice_is_harmless(void)
{
    static struct wheel wheel;
    wheel_init(&wheel, 1);
    wheel_set(&wheel, 5, wheel.now_ns + 1);
    ru_timer_clear(&wheel.timer, 5);
    ru_timer_clear(&wheel.timer, 5);
    EXPECT_EQUAL(wheel.timer.set_count, 0);
    EXPECT_EQUAL(ru_timer_expire(&wheel.timer, wheel.now_ns + 10 * TURN_NS), RU_NONE);
    EXPECT_ABORT(ru_timer_clear(&wheel.timer, COUNT));
    EXPECT_ABORT(ru_timer_set(&wheel.timer, COUNT, 1));
}

int main(void)
{
    RUN(test_random_steps);
    RUN(test_sleeping_as_told);
    RUN(test_far_and_near_in_one_bucket);
    RUN(test_far_deadline_in_the_current_bucket);
    RUN(test_clearing_twice_is_harmless);
    return native_finish();
}
