/* test_admission.c: how much of a lap's requests the I/O thread executes itself.
 *
 * Whichever mix arrives: what is admitted to one lap costs no more than its budget, what is not waits
 * for a native worker, and neither a request that comes alone nor the usual ones, as many as a lap
 * admits, are handed over.
 */
#include "engine/admission.h"

#include "engine/engine.h"
#include "native.h"

static const uint8_t types[] = {0, 1, 2, 4, 5};

/* An engine of which there is only what admission looks at, with one request to decide about. */
static struct {
    struct ru_engine engine;
    union {
        struct ru_context context;
        uint8_t bytes[sizeof(struct ru_context) + RU_HEADER_LARGE];
    } memory;
} bench;

static void bench_open(void)
{
    memset(&bench, 0, sizeof(bench));
    bench.engine.arena.base = bench.memory.bytes;
    bench.engine.arena.contexts = 1;
    bench.engine.lanes[RU_LANE_LIGHT].queue_max = RU_LIGHT_MAX;
    const struct ru_command *row;
    for (uint32_t i = 0; (row = ru_command_row(i)); i++)
        bench.engine.natives[row->number] = row;
}

/* As dispatch.c begins a batch of the light lane. */
static void bench_lap(void)
{
    bench.engine.light_cost = 0;
    bench.engine.lanes[RU_LANE_LIGHT].count = 0;
}

static enum ru_lane_number bench_admit(const struct ru_command *row, uint8_t type,
                                       uint32_t body_size)
{
    uint8_t *header = bench.memory.bytes + sizeof(struct ru_context);
    header[RU_REQUEST_ENCRYPTION_AT] = type;
    header[RU_REQUEST_GROUP_AT] = (uint8_t)(row->number >> 8);
    header[RU_REQUEST_COMMAND_AT] = (uint8_t)row->number;
    bench.memory.context = (struct ru_context){.header_at = sizeof(struct ru_context),
                                               .body_size = (uint16_t)body_size};
    enum ru_lane_number lane = ru_admission_lane(&bench.engine, 0, RU_LANE_ORDINARY);
    bench.engine.lanes[RU_LANE_LIGHT].count += lane == RU_LANE_LIGHT;
    return lane;
}

static uint32_t rows_count(void)
{
    uint32_t count = 0;
    while (ru_command_row(count))
        count++;
    return count;
}

static void test_no_lap_is_over_its_budget(void)
{
    struct ru_random random = {native_seed()};
    const uint32_t rows = rows_count();
    uint32_t full = 0;
    uint32_t costly = 0;
    bench_open();
    for (uint32_t lap = 0; lap < 20000; lap++) {
        uint64_t taken = 0;
        const uint32_t arrived = native_below(&random, 256);
        const uint32_t only = native_below(&random, 2 * rows); /* above: a mix */
        for (uint32_t i = 0; i < arrived; i++) {
            const uint32_t number = only < rows ? only : native_below(&random, rows);
            const struct ru_command *row = ru_command_row(number);
            const uint8_t type = types[native_below(&random, sizeof(types))];
            static const uint32_t sizes[] = {40, 300, 1500, RU_BODY_MAX + 1};
            const uint32_t body_size = native_below(&random, sizes[(lap + i * (lap % 2)) % 4]);
            const uint32_t cost = ru_admission_cost(row, type, body_size);
            const uint32_t waiting = bench.engine.lanes[RU_LANE_LIGHT].count;
            const enum ru_lane_number lane = bench_admit(row, type, body_size);
            EXPECT(lane == RU_LANE_LIGHT || lane == RU_LANE_NATIVE);
            if (lane == RU_LANE_LIGHT)
                taken += cost;
            else if (row->light_max > 0 && body_size <= row->light_max + RU_SEALED_BODY_MIN)
                *(waiting < RU_LIGHT_MAX ? &costly : &full) += 1;
        }
        EXPECT(taken <= RU_LIGHT_BUDGET);
        EXPECT_EQUAL(taken, bench.engine.light_cost);
        EXPECT(bench.engine.lanes[RU_LANE_LIGHT].count <= RU_LIGHT_MAX);
        bench_lap();
    }
    EXPECT(full > 0 && costly > 0); /* both bounds were met */
}

static void test_every_light_request_fits_a_lap_alone(void)
{
    const struct ru_command *row;
    bench_open();
    for (uint32_t i = 0; (row = ru_command_row(i)); i++) {
        for (uint32_t type = 0; type < sizeof(types) && row->light_max > 0; type++) {
            EXPECT(row->cost > 0);
            EXPECT_EQUAL(bench_admit(row, types[type], row->light_max + RU_SEALED_BODY_MIN),
                         RU_LANE_LIGHT);
            EXPECT_EQUAL(bench_admit(row, types[type], row->light_max + RU_SEALED_BODY_MIN + 1),
                         RU_LANE_NATIVE);
            bench_lap();
        }
    }
}

/* What wallets send most: a hand-over would cost more than it does. */
static void test_a_lap_takes_as_many_usual_requests_as_it_has_room_for(void)
{
    static const uint16_t usual[] = {0x0000, 0x0001, 0x010A};
    const uint32_t body_size = 25 * RU_COIN_AN_SIZE + RU_CHALLENGE_SIZE + RU_TERMINATOR_SIZE;
    bench_open();
    for (uint32_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        const struct ru_command *row = ru_command_find(usual[i]);
        for (uint8_t type = 0; type <= 1; type++) {
            for (uint32_t request = 0; request < RU_LIGHT_MAX; request++)
                EXPECT_EQUAL(bench_admit(row, type, row->coin_size ? body_size : 0), RU_LANE_LIGHT);
            EXPECT_EQUAL(bench_admit(row, type, 0), RU_LANE_NATIVE);
            bench_lap();
        }
    }
    const uint32_t sealed_size = 32 * RU_COIN_AN_SIZE + RU_SEALED_BODY_MIN;
    uint32_t light = 0;
    while (bench_admit(ru_command_find(0x010A), 5, sealed_size) == RU_LANE_LIGHT)
        light++;
    EXPECT(light > 0 && light < RU_LIGHT_MAX); /* of dear ones, part is handed over */
}

static void test_encryption_and_coins_cost(void)
{
    const struct ru_command *detect = ru_command_find(0x010A);
    const uint32_t least = ru_admission_cost(detect, 0, 0);
    EXPECT_EQUAL(least, detect->cost);
    EXPECT_EQUAL(ru_admission_cost(detect, 0, 10 * RU_COIN_AN_SIZE),
                 least + 10 * detect->coin_cost);
    EXPECT(ru_admission_cost(detect, 1, 100) > ru_admission_cost(detect, 0, 100));
    EXPECT(ru_admission_cost(detect, 4, 100) > ru_admission_cost(detect, 1, 100));
    EXPECT_EQUAL(ru_admission_cost(detect, 5, 100), ru_admission_cost(detect, 4, 100));
    EXPECT(ru_admission_cost(detect, 5, RU_BODY_MAX) > ru_admission_cost(detect, 5, 100));
    EXPECT_ABORT((void)ru_admission_cost(detect, 0, RU_BODY_MAX + 1));
}

static void test_a_budget_overdrawn_is_noticed(void)
{
    bench_open();
    bench.engine.light_cost = RU_LIGHT_BUDGET + 1;
    EXPECT_ABORT((void)bench_admit(ru_command_find(0x0001), 0, 0));
}

int main(void)
{
    RUN(test_no_lap_is_over_its_budget);
    RUN(test_every_light_request_fits_a_lap_alone);
    RUN(test_a_lap_takes_as_many_usual_requests_as_it_has_room_for);
    RUN(test_encryption_and_coins_cost);
    RUN(test_a_budget_overdrawn_is_noticed);
    return native_finish();
}
