/* test_lane.c: a lane against two arrays, one for each transport.
 *
 * Whatever happens: within a transport the first to come is the first to go, the transports take
 * turns while both wait, and the oldest is known.
 */
#include "engine/lane.h"

#include "native.h"

#define CONTEXTS 16
#define SLOTS 8 /* the first contexts are datagrams */
#define QUEUE_MAX 10

struct model {
    uint32_t waiting[2][CONTEXTS];
    uint32_t counts[2];
    bool queued[CONTEXTS];
};

struct bench {
    struct ru_lane lane;
    struct ru_link links[CONTEXTS];
    uint64_t since_ns[CONTEXTS];
    struct ru_waiting waiting;
    struct model model;
    uint64_t now_ns;
};

static void bench_open(struct bench *bench)
{
    *bench = (struct bench){.lane = {.workers = 1, .queue_max = QUEUE_MAX}, .now_ns = 1};
    bench->lane.fifos[RU_UDP] = bench->lane.fifos[RU_TCP] = RU_LIST_EMPTY;
    bench->waiting = (struct ru_waiting){bench->links, bench->since_ns, CONTEXTS};
}

static void bench_push(struct bench *bench, uint32_t context)
{
    struct model *model = &bench->model;
    enum ru_transport transport = context < SLOTS ? RU_UDP : RU_TCP;
    bool room = model->counts[0] + model->counts[1] < QUEUE_MAX;
    EXPECT_EQUAL(ru_lane_push(&bench->lane, &bench->waiting, transport, context, bench->now_ns),
                 room);
    if (room)
        model->waiting[transport][model->counts[transport]++] = context;
    model->queued[context] = room;
}

static void bench_pop(struct bench *bench)
{
    struct model *model = &bench->model;
    uint32_t first = bench->lane.tcp_next ? RU_TCP : RU_UDP;
    uint32_t from = model->counts[first] > 0 ? first : 1 - first;
    uint32_t context = ru_lane_pop(&bench->lane, &bench->waiting);
    EXPECT_EQUAL(context, model->waiting[from][0]);
    EXPECT_EQUAL(bench->lane.tcp_next, first == RU_UDP);
    model->queued[context] = false;
    model->counts[from]--;
    memmove(model->waiting[from], model->waiting[from] + 1, model->counts[from] * sizeof(uint32_t));
}

static uint64_t bench_oldest_ns(const struct bench *bench)
{
    uint64_t oldest_ns = 0;
    for (uint32_t i = 0; i < CONTEXTS; i++)
        if (bench->model.queued[i] && (oldest_ns == 0 || bench->since_ns[i] < oldest_ns))
            oldest_ns = bench->since_ns[i];
    return oldest_ns;
}

static void test_random_steps(void)
{
    struct ru_random random = {native_seed()};
    struct bench bench;
    bench_open(&bench);
    for (uint32_t step = 0; step < 50000; step++) {
        uint32_t context = native_below(&random, CONTEXTS);
        if (!bench.model.queued[context] && native_below(&random, 2) == 0)
            bench_push(&bench, context);
        else if (bench.lane.count > 0)
            bench_pop(&bench);
        bench.now_ns++;
        ru_lane_check_all(&bench.lane, &bench.waiting);
        EXPECT_EQUAL(bench.lane.count, bench.model.counts[0] + bench.model.counts[1]);
        EXPECT_EQUAL(ru_lane_oldest_ns(&bench.lane, &bench.waiting), bench_oldest_ns(&bench));
    }
}

static void test_misuse_aborts(void)
{
    struct bench bench;
    bench_open(&bench);
    EXPECT_ABORT((void)ru_lane_pop(&bench.lane, &bench.waiting));
    EXPECT_ABORT((void)ru_lane_push(&bench.lane, &bench.waiting, RU_UDP, CONTEXTS, 1));
    bench_push(&bench, 3);
    bench.lane.count = 2;
    EXPECT_ABORT(ru_lane_check_all(&bench.lane, &bench.waiting));
}

int main(void)
{
    RUN(test_random_steps);
    RUN(test_misuse_aborts);
    return native_finish();
}
