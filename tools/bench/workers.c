/* workers.c: how much more two native workers get done than one.
 *
 * Feeds the rings of an engine's native lane without loop and network: one request after the other for
 * as many coins as a payment of thousands has, of encryption type 1, over a store in which every coin was
 * written. Each worker has a processor to itself as far as others leave it; this thread, which gives
 * out requests and looks at replies, takes what little it needs of both.
 *
 * Compared in turns: one worker; two; and, for what the machine itself gives, two of two engines that
 * share nothing. Prints completed requests per second of wall time, and per second that the workers
 * had a processor, which counts less of what other processes take; medians of the rounds, and of each
 * round's ratio. Exit status 0: two workers got 1.7 times as much done as one; 1: they did not; 2: other
 * processes took too much of the processors to say.
 * usage: bench_workers [ROUNDS [MILLISECONDS [COINS]]]
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "clock.h"
#include "engine/engine.h"
#include "tests/native/request_rig.h"
#include "tests/native/store_rig.h"

#define RATIO_LEAST 1.7
#define SHARE_LEAST 0.9 /* of its processor that a worker must have had */
#define ROUNDS_MAX 101U
#define REQUESTS 64U /* prepared, each of other coins */
#define DEPTH 16U    /* given to a worker at a time */
#define COMMAND 0x010AU
#define WARM_MS 100U
#define REPLY_AT 64U /* in a connection's area, behind the request's header */

enum contender {
    ONE,
    TWO,
    APART,
    CONTENDERS
};

static const char *const names[CONTENDERS] = {"one worker", "two workers", "two engines"};

/* An engine with two native workers, on a store of its own. */
struct side {
    struct ru_store *store;
    struct ru_engine *engine;
    uint32_t first_worker;
    pthread_t threads[2];
};

/* A worker that is given requests. */
struct seat {
    struct side *side;
    uint32_t worker;
    clockid_t clock;
    uint32_t outstanding;
    uint32_t next; /* request */
};

struct rate {
    double wall; /* requests per second */
    double cpu;  /* ... that the workers had a processor */
};

static struct side sides[2];

/* ---- set-up ---- */

static void store_fill(struct side *side, struct ru_random *random)
{
    static uint8_t page[RU_PAGE_SIZE];
    const uint8_t id[RU_STORE_ID_BYTES] = {0};
    if (ru_store_create((const uint8_t *)"bench", 5, &side->store) != 0)
        abort();
    for (uint32_t i = 0; i < RU_STORE_PAGES; i++) {
        ru_random_fill(random, page, sizeof(page));
        if (ru_memory_load(&side->store->memory, i, page, 0) != 0)
            abort();
    }
    if (ru_store_replay(side->store, -1, id, 1, 0) != 0)
        abort();
}

static void engine_make(struct side *side)
{
    const struct ru_facts facts = {0};
    struct ru_config config = native_config();
    config.listeners_count = 1; /* never used */
    config.workers = config.slow_workers = 1;
    config.native_workers = 2;
    config.batch_max = RU_BATCH_MAX;
    config.connections_max = REQUESTS;
    config.small_blocks = 64;
    config.large_blocks = REQUESTS + 64;
    config.slow_queue_max = 4;
    config.tcp_buffers = 16;
    config.events_per_lap = 64;
    config.wait_max_ms = 1000;
    config.io_cpu = -1;
    config.checks = (struct ru_checks){.burst = 100, .per_min = 10};
    if (ru_engine_create(&config, &side->engine, NULL) != 0)
        abort();
    ru_engine_set_native(side->engine, side->store, NULL, &facts);
    if (ru_engine_set_class(side->engine, COMMAND >> 8, COMMAND & 0xFF, RU_CLASS_ORDINARY) != 0 ||
        ru_engine_set_native_command(side->engine, COMMAND >> 8, COMMAND & 0xFF) != 0)
        abort();
    side->first_worker = side->engine->lanes[RU_LANE_NATIVE].first_worker;
}

static void coin_draw(struct ru_view *view, uint8_t *coin, struct ru_random *random)
{
    rig_name(coin, (int)native_below(random, RU_DENOMINATIONS_COUNT) + RU_DENOMINATION_MIN,
             native_below(random, RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT));
    rig_an(view, coin, coin + RU_COIN_AN_AT);
}

/* The context is a connection's whose request has been received. Its reply goes behind the header, so
 * that the same request can be given again and again. */
static void request_prepare(struct side *side, uint32_t index, uint32_t coins,
                            struct ru_random *random)
{
    static uint8_t payload[RU_BODY_MAX], request[RU_HEADER_SMALL + RU_BODY_MAX];
    const struct ru_arena *arena = &side->engine->arena;
    const uint32_t context = arena->slots + index, area_at = ru_arena_area_at(arena, index);
    const uint32_t size = rig_request_size(coins * RU_COIN_AN_SIZE);
    const uint32_t block = ru_block_acquire(&side->engine->blocks, RU_BLOCK_LARGE, context);
    struct ru_view *view = rig_view(&(struct rig){.store = side->store}, false);
    struct rig_key key;
    uint8_t coin[RU_COIN_AN_SIZE];
    coin_draw(view, coin, random);
    memcpy(key.name, coin, sizeof(key.name));
    memcpy(key.an, coin + RU_COIN_AN_AT, sizeof(key.an));
    for (uint32_t i = 0; i < coins; i++)
        coin_draw(view, payload + (size_t)i * RU_COIN_AN_SIZE, random);
    ru_view_close(view);
    rig_request(request, COMMAND, payload, coins * RU_COIN_AN_SIZE, &key, random);
    RU_CHECK(block != RU_NONE);
    memcpy(arena->base + area_at + RU_PEER_SIZE, request, RU_HEADER_SMALL);
    memcpy(arena->base + ru_arena_block_at(arena, block), request + RU_HEADER_SMALL,
           size - RU_HEADER_SMALL);
    *ru_arena_context(arena, context) = (struct ru_context){
        .arrival_ns = ru_now_ns(),
        .complete_ns = ru_now_ns(),
        .peer_at = area_at,
        .header_at = area_at + RU_PEER_SIZE,
        .body_at = ru_arena_block_at(arena, block),
        .request_size = size,
        .inline_at = area_at + RU_PEER_SIZE + REPLY_AT,
        .inline_size = RU_INLINE_SIZE - REPLY_AT,
        .body_block = RU_NONE, /* a reply must not go there */
        .body_size = (uint16_t)(size - RU_HEADER_SMALL),
        .body_present = (uint16_t)(size - RU_HEADER_SMALL),
        .transport = RU_TCP,
        .header_size = RU_HEADER_SMALL,
        .reply_block = RU_NONE,
    };
}

/* ---- workers ---- */

struct start {
    struct side *side;
    uint32_t index;
};

static void *work(void *self)
{
    const struct start start = *(struct start *)self;
    struct ru_worker *worker;
    uint32_t failed;
    cpu_set_t allowed, own;
    CPU_ZERO(&own);
    (void)sched_getaffinity(0, sizeof(allowed), &allowed);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && seen++ == (int)start.index)
            CPU_SET(cpu, &own);
    if (sched_setaffinity(0, sizeof(own), &own) != 0) {
        (void)fprintf(stderr, "bench_workers: needs two processors\n");
        exit(2);
    }
    if (ru_worker_open(start.side->engine, start.side->first_worker + start.index, &worker) != 0)
        abort();
    while (ru_worker_serve(worker, 1000, &failed) != 0)
        RU_CHECK(failed == 0);
    ru_worker_close(worker);
    return NULL;
}

static void side_open(struct side *side, uint32_t coins, struct ru_random *random)
{
    static struct start starts[2][2];
    store_fill(side, random);
    engine_make(side);
    for (uint32_t i = 0; i < REQUESTS; i++)
        request_prepare(side, i, coins, random);
    for (uint32_t i = 0; i < 2; i++) {
        struct start *start = &starts[side - sides][i];
        *start = (struct start){side, i};
        if (pthread_create(&side->threads[i], NULL, work, start) != 0)
            abort();
    }
}

static void side_close(struct side *side)
{
    ru_engine_close_workers(side->engine);
    for (uint32_t i = 0; i < 2; i++)
        (void)pthread_join(side->threads[i], NULL);
    ru_engine_destroy(side->engine);
    ru_store_close(side->store);
}

/* ---- the loop's part ---- */

/* Each seat has requests of its own: odd ones or even ones. */
static void seat_fill(struct seat *seat)
{
    struct ru_mailbox *mailbox = ru_page_mailbox(&seat->side->engine->arena, seat->worker);
    const struct ru_arena *arena = &seat->side->engine->arena;
    if (seat->outstanding > DEPTH / 2)
        return;
    while (seat->outstanding < DEPTH) {
        const uint32_t index = 2 * (seat->next++ % (REQUESTS / 2)) + (seat->worker & 1);
        ru_ring_push(&mailbox->in, arena->base, ru_token_pack(0, arena->slots + index, 1));
        seat->outstanding++;
    }
    ru_sleeper_wake(&mailbox->sleeper);
}

static uint32_t seat_collect(struct seat *seat)
{
    struct ru_arena *arena = &seat->side->engine->arena;
    struct ru_ring *out = &ru_page_mailbox(arena, seat->worker)->out;
    uint32_t count = 0;
    uint64_t token;
    for (; ru_ring_pop(out, arena->base, &token); count++) {
        const struct ru_context *context = ru_arena_context(arena, ru_token_index(token));
        RU_CHECK(context->reply_size == RU_HEADER_SMALL && context->reply_block == RU_NONE);
        RU_CHECK(arena->base[context->inline_at + RU_REPLY_STATUS_AT] == RU_STATUS_ALL_PASS);
        RU_CHECK(seat->outstanding > 0);
        seat->outstanding--;
    }
    return count;
}

static bool seats_have(const struct seat *seats, uint32_t count)
{
    bool found = false;
    for (uint32_t i = 0; i < count; i++)
        found |= ru_ring_count(
                     &ru_page_mailbox(&seats[i].side->engine->arena, seats[i].worker)->out) > 0;
    return found;
}

static void seats_await(const struct seat *seats, uint32_t count)
{
    struct pollfd wakes[2] = {{.events = POLLIN}, {.events = POLLIN}};
    uint64_t rung;
    for (uint32_t i = 0; i < count; i++) {
        wakes[i].fd = seats[i].side->engine->wake_fd;
        ru_sleeper_announce(&ru_page_of(&seats[i].side->engine->arena)->loop_sleeper);
    }
    if (!seats_have(seats, count))
        (void)poll(wakes, count, 1000);
    for (uint32_t i = 0; i < count; i++) {
        ru_sleeper_cancel(&ru_page_of(&seats[i].side->engine->arena)->loop_sleeper);
        (void)!read(wakes[i].fd, &rung, sizeof(rung));
    }
}

/* Have the seats' workers work for that long; how many requests they completed. */
static uint64_t seats_run(struct seat *seats, uint32_t count, uint64_t for_ns)
{
    const uint64_t end_ns = ru_now_ns() + for_ns;
    uint64_t completed = 0;
    do {
        uint64_t before = completed;
        for (uint32_t i = 0; i < count; i++) {
            completed += seat_collect(&seats[i]);
            seat_fill(&seats[i]);
        }
        if (completed == before)
            seats_await(seats, count);
    } while (ru_now_ns() < end_ns);
    return completed;
}

static void seats_empty(struct seat *seats, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        while (seats[i].outstanding > 0)
            if (seat_collect(&seats[i]) == 0)
                seats_await(&seats[i], 1);
}

static uint64_t seats_cpu_ns(const struct seat *seats, uint32_t count)
{
    uint64_t spent_ns = 0;
    for (uint32_t i = 0; i < count; i++)
        spent_ns += ru_clock_ns(seats[i].clock);
    return spent_ns;
}

static struct rate measure(enum contender contender, uint32_t ms)
{
    const uint32_t count = contender == ONE ? 1 : 2;
    struct seat seats[2] = {0};
    for (uint32_t i = 0; i < count; i++) {
        seats[i].side = &sides[contender == APART ? i : 0];
        seats[i].worker = seats[i].side->first_worker + i;
        if (pthread_getcpuclockid(seats[i].side->threads[i], &seats[i].clock) != 0)
            abort();
    }
    (void)seats_run(seats, count, WARM_MS * RU_MILLISECOND_NS);
    const uint64_t began_ns = ru_now_ns(), cpu_ns = seats_cpu_ns(seats, count);
    const double completed = (double)seats_run(seats, count, ms * RU_MILLISECOND_NS);
    const struct rate rate = {
        .wall = completed * RU_SECOND_NS / (double)(ru_now_ns() - began_ns),
        .cpu = completed * RU_SECOND_NS / (double)(seats_cpu_ns(seats, count) - cpu_ns),
    };
    seats_empty(seats, count);
    return rate;
}

/* ---- results ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, uint32_t count)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), compare);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

/* Returns which part of their processors the workers had. */
static double report(enum contender contender, const struct rate *rates, uint32_t rounds)
{
    double walls[ROUNDS_MAX], cpus[ROUNDS_MAX], shares[ROUNDS_MAX];
    for (uint32_t i = 0; i < rounds; i++) {
        walls[i] = rates[i].wall;
        cpus[i] = rates[i].cpu;
        shares[i] = rates[i].wall / rates[i].cpu / (contender == ONE ? 1 : 2);
    }
    printf("%-14s %10.0f /s %10.0f /CPU-s %6.0f %% of the processors\n", names[contender],
           median(walls, rounds), median(cpus, rounds), 100 * median(shares, rounds));
    return median(shares, rounds);
}

static double report_ratio(const char *name, const struct rate *more, const struct rate *one,
                           bool wall, uint32_t rounds)
{
    double ratios[ROUNDS_MAX];
    for (uint32_t i = 0; i < rounds; i++)
        ratios[i] = wall ? more[i].wall / one[i].wall : more[i].cpu / one[i].cpu;
    qsort(ratios, rounds, sizeof(*ratios), compare);
    printf("%-32s %.2f (%.2f to %.2f)\n", name, median(ratios, rounds), ratios[0],
           ratios[rounds - 1]);
    return median(ratios, rounds);
}

/* Print all of it; returns the exit status. */
static int judge(struct rate rates[CONTENDERS][ROUNDS_MAX], uint32_t rounds)
{
    double share = 1;
    for (uint32_t i = 0; i < CONTENDERS; i++) {
        const double own = report((enum contender)i, rates[i], rounds);
        share = own < share ? own : share;
    }
    (void)report_ratio("two engines / one worker", rates[APART], rates[ONE], true, rounds);
    (void)report_ratio("two workers / one, per CPU-s", rates[TWO], rates[ONE], false, rounds);
    const double ratio =
        report_ratio("two workers / one worker", rates[TWO], rates[ONE], true, rounds);
    const bool measured = share >= SHARE_LEAST, met = ratio >= RATIO_LEAST;
    printf("two workers get %.1f times as much done as one: %s\n", RATIO_LEAST,
           !measured ? "not measured, other processes have the processors"
           : met     ? "yes"
                     : "NO");
    return measured ? !met : 2;
}

static uint32_t argument(int argc, char **argv, int at, uint32_t otherwise, uint32_t most)
{
    unsigned long value = argc > at ? strtoul(argv[at], NULL, 10) : otherwise;
    if (value == 0 || value > most) {
        (void)fprintf(stderr, "usage: bench_workers [ROUNDS [MILLISECONDS [COINS]]]\n");
        exit(2);
    }
    return (uint32_t)value;
}

int main(int argc, char **argv)
{
    static struct rate rates[CONTENDERS][ROUNDS_MAX];
    const uint32_t rounds = argument(argc, argv, 1, 9, ROUNDS_MAX);
    const uint32_t ms = argument(argc, argv, 2, 500, 60000);
    const uint32_t coins = argument(argc, argv, 3, 2000, RU_BODY_MAX / RU_COIN_AN_SIZE);
    struct ru_random random = {native_seed()};
    for (uint32_t i = 0; i < 2; i++)
        side_open(&sides[i], coins, &random);
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t turn = 0; turn < CONTENDERS; turn++) {
            const uint32_t contender = (round + turn) % CONTENDERS;
            rates[contender][round] = measure((enum contender)contender, ms);
        }
    }
    for (uint32_t i = 0; i < 2; i++)
        side_close(&sides[i]);
    printf("detect of %u coins, type 1; medians of %u rounds\n", coins, rounds);
    return judge(rates, rounds);
}
