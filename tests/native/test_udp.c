/* test_udp.c: the pool of UDP contexts, and what becomes of each datagram.
 *
 * Whatever happens: every context is in exactly one place, and only the worker that has it can
 * hand it back, once.
 */
#include "native.h"
#include "wire/udp.h"

#define CAPACITY 6
#define HELD_MAX 4

static const bool legal[RU_UDP_PLACES][RU_UDP_PLACES] = {
    [RU_UDP_FREE] = {[RU_UDP_LENT] = true},
    [RU_UDP_LENT] = {[RU_UDP_LOOP] = true, [RU_UDP_FREE] = true},
    [RU_UDP_LOOP] = {[RU_UDP_FREE] = true, [RU_UDP_QUEUED] = true, [RU_UDP_SENDING] = true},
    [RU_UDP_QUEUED] = {[RU_UDP_WORKER] = true, [RU_UDP_SENDING] = true, [RU_UDP_FREE] = true},
    [RU_UDP_WORKER] = {[RU_UDP_SENDING] = true, [RU_UDP_FREE] = true, [RU_UDP_QUEUED] = true},
    [RU_UDP_SENDING] = {[RU_UDP_FREE] = true},
};

static void expect_counts(const struct ru_udp_pool *pool)
{
    uint32_t counts[RU_UDP_PLACES] = {0};
    uint32_t sum = 0;
    for (uint32_t i = 0; i < pool->capacity; i++)
        counts[pool->contexts[i].place]++;
    for (uint32_t place = 0; place < RU_UDP_PLACES; place++) {
        EXPECT_EQUAL(pool->counts[place], counts[place]);
        sum += pool->counts[place];
    }
    EXPECT_EQUAL(sum, pool->capacity);
    EXPECT_EQUAL(ru_udp_in_flight(pool),
                 pool->capacity - counts[RU_UDP_FREE] - counts[RU_UDP_LENT]);
}

/* A context on its way through every place up to `place`. */
static uint32_t context_in(struct ru_udp_pool *pool, enum ru_udp_place place)
{
    static const enum ru_udp_place way[] = {RU_UDP_LOOP, RU_UDP_QUEUED, RU_UDP_WORKER,
                                            RU_UDP_SENDING};
    if (place == RU_UDP_FREE)
        return pool->free_head;
    uint32_t index = ru_udp_lend(pool);
    for (uint32_t i = 0; pool->contexts[index].place != place; i++)
        ru_udp_move(pool, index, way[i]);
    return index;
}

static void test_every_move(void)
{
    for (enum ru_udp_place from = 0; from < RU_UDP_PLACES; from++) {
        for (enum ru_udp_place to = 0; to < RU_UDP_PLACES; to++) {
            struct ru_udp_pool pool;
            EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
            uint32_t index = context_in(&pool, from);
            if (legal[from][to] && from == RU_UDP_FREE)
                EXPECT_EQUAL(ru_udp_lend(&pool), index);
            else if (legal[from][to])
                ru_udp_move(&pool, index, to);
            else
                EXPECT_ABORT(ru_udp_move(&pool, index, to));
            EXPECT_EQUAL(pool.contexts[index].place, legal[from][to] ? to : from);
            expect_counts(&pool);
            ru_udp_destroy(&pool);
        }
    }
}

static void test_misuse_aborts(void)
{
    struct ru_udp_pool pool;
    EXPECT_ABORT((void)ru_udp_init(&pool, CAPACITY, CAPACITY)); /* no reserve */
    EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
    EXPECT_ABORT(ru_udp_move(&pool, CAPACITY, RU_UDP_LENT));
    uint32_t index = ru_udp_lend(&pool);
    ru_udp_move(&pool, index, RU_UDP_FREE);
    EXPECT_ABORT(ru_udp_move(&pool, index, RU_UDP_FREE)); /* released twice */
    pool.counts[RU_UDP_FREE]--;
    EXPECT_ABORT((void)ru_udp_in_flight(&pool)); /* one lost */
    pool.counts[RU_UDP_FREE]++;
    for (uint32_t i = 0; i <= HELD_MAX; i++)
        (void)context_in(&pool, RU_UDP_QUEUED);
    EXPECT_ABORT((void)ru_udp_in_flight(&pool)); /* into the reserve */
    ru_udp_destroy(&pool);
}

static void test_lending(void)
{
    struct ru_udp_pool pool;
    bool lent[CAPACITY] = {false};
    EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        uint32_t index = ru_udp_lend(&pool);
        EXPECT(index < CAPACITY && !lent[index]);
        lent[index] = true;
    }
    EXPECT_EQUAL(ru_udp_lend(&pool), RU_NONE);
    ru_udp_move(&pool, 3, RU_UDP_FREE);
    ru_udp_move(&pool, 1, RU_UDP_FREE);
    EXPECT_EQUAL(ru_udp_lend(&pool), 1); /* the last freed is still in cache */
    EXPECT_EQUAL(ru_udp_lend(&pool), 3);
    EXPECT_EQUAL(ru_udp_lend(&pool), RU_NONE);
    ru_udp_destroy(&pool);
}

static void test_random_walk(void)
{
    struct ru_random random = {native_seed()};
    struct ru_udp_pool pool;
    uint32_t generations[32];
    EXPECT_EQUAL(ru_udp_init(&pool, 32, 31), 0);
    for (uint32_t i = 0; i < 32; i++)
        generations[i] = pool.contexts[i].generation;
    for (uint32_t step = 0; step < 100000; step++) {
        uint32_t index = native_below(&random, 32);
        enum ru_udp_place from = pool.contexts[index].place;
        enum ru_udp_place to = native_below(&random, RU_UDP_PLACES);
        uint32_t held = pool.counts[RU_UDP_QUEUED] + pool.counts[RU_UDP_WORKER];
        if (from == RU_UDP_FREE) {
            index = ru_udp_lend(&pool);
            EXPECT(index < 32 && pool.contexts[index].place == RU_UDP_LENT);
        } else if (legal[from][to] && (to != RU_UDP_QUEUED || held < pool.held_max)) {
            ru_udp_move(&pool, index, to);
            generations[index] += to == RU_UDP_FREE;
        }
        EXPECT_EQUAL(pool.contexts[index].generation, generations[index]);
        expect_counts(&pool);
    }
    ru_udp_destroy(&pool);
}

/* ---- tokens ---- */

static void test_only_its_worker_may_return_a_context(void)
{
    struct ru_udp_pool pool;
    const uint32_t worker = 3;
    for (enum ru_udp_place place = 0; place < RU_UDP_PLACES; place++) {
        EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
        uint32_t index = context_in(&pool, place);
        uint32_t generation = pool.contexts[index].generation;
        pool.contexts[index].worker = (uint8_t)worker;
        uint64_t token = ru_token_pack(0, index, generation);
        EXPECT_EQUAL(ru_udp_token_valid(&pool, token, worker), place == RU_UDP_WORKER);
        EXPECT(!ru_udp_token_valid(&pool, token, worker + 1));
        EXPECT(!ru_udp_token_valid(&pool, ru_token_pack(1, index, generation), worker));
        EXPECT(!ru_udp_token_valid(&pool, ru_token_pack(0, index + 1, generation), worker));
        EXPECT(!ru_udp_token_valid(&pool, ru_token_pack(0, index, generation - 1), worker));
        EXPECT(!ru_udp_token_valid(&pool, ru_token_pack(0, index, generation + 1), worker));
        EXPECT(!ru_udp_token_valid(&pool, ru_token_pack(0, CAPACITY, generation), worker));
        EXPECT(!ru_udp_token_valid(&pool, UINT64_MAX, worker));
        EXPECT(!ru_udp_token_valid(&pool, 0, worker));
        ru_udp_destroy(&pool);
    }
}

static void test_a_token_dies_with_its_request(void)
{
    struct ru_udp_pool pool;
    EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
    uint32_t index = context_in(&pool, RU_UDP_WORKER);
    uint64_t stale = ru_token_pack(0, index, pool.contexts[index].generation);
    EXPECT(ru_udp_token_valid(&pool, stale, 0));
    ru_udp_move(&pool, index, RU_UDP_FREE);
    EXPECT(!ru_udp_token_valid(&pool, stale, 0));
    EXPECT_EQUAL(context_in(&pool, RU_UDP_WORKER), index); /* the same slot, a later request */
    EXPECT(!ru_udp_token_valid(&pool, stale, 0));
    EXPECT(ru_udp_token_valid(&pool, ru_token_pack(0, index, pool.contexts[index].generation), 0));
    ru_udp_destroy(&pool);
}

static void test_generation_wraps_past_zero(void)
{
    struct ru_udp_pool pool;
    EXPECT_EQUAL(ru_udp_init(&pool, CAPACITY, HELD_MAX), 0);
    uint32_t index = ru_udp_lend(&pool);
    pool.contexts[index].generation = UINT32_MAX;
    ru_udp_move(&pool, index, RU_UDP_FREE);
    EXPECT_EQUAL(pool.contexts[index].generation, 1);
    ru_udp_destroy(&pool);
}

/* ---- datagrams ---- */

struct bench {
    struct native_node node;
    struct ru_udp_pool pool;
    uint32_t reply_size;
};

static void bench_open(struct bench *bench)
{
    struct ru_config config = native_config();
    native_open(&bench->node, &config);
    EXPECT_EQUAL(ru_udp_init(&bench->pool, bench->node.arena.slots, config.udp_contexts), 0);
}

static void bench_close(struct bench *bench)
{
    ru_udp_destroy(&bench->pool);
    native_close(&bench->node);
}

static uint8_t *bench_payload(const struct bench *bench, uint32_t index)
{
    const struct ru_arena *arena = &bench->node.arena;
    return arena->base + ru_arena_slot_at(arena, index) + arena->payload_at;
}

/* Receive `size` bytes into a slot and a context full of somebody else's; the action. */
static enum ru_udp_action bench_receive(struct bench *bench, const uint8_t *bytes, uint32_t size,
                                        uint32_t *index)
{
    const struct ru_arena *arena = &bench->node.arena;
    *index = context_in(&bench->pool, RU_UDP_LOOP);
    memset(bench_payload(bench, *index), 0xDD, arena->payload_size);
    memset(ru_arena_context(arena, *index), 0xDD, sizeof(struct ru_context));
    memcpy(bench_payload(bench, *index), bytes, size);
    bench->reply_size = RU_NONE;
    return ru_udp_decide(&bench->pool, &bench->node.front, arena, *index, size, 77,
                         &bench->reply_size);
}

/* The same, and the context is free again. */
static enum ru_udp_action bench_decide(struct bench *bench, const uint8_t *bytes, uint32_t size)
{
    uint32_t index;
    enum ru_udp_action action = bench_receive(bench, bytes, size, &index);
    ru_udp_move(&bench->pool, index, RU_UDP_FREE);
    return action;
}

static void test_short_datagrams(void)
{
    struct bench bench;
    uint8_t bytes[RU_HEADER_LARGE];
    bench_open(&bench);
    for (uint8_t encryption = 0; encryption < 8; encryption++) {
        uint32_t whole = encryption <= 2 ? 32 : 48;
        (void)native_header(bytes, encryption, NATIVE_WORKER, 0, 0);
        bytes[0] = 9; /* whole ones are refused */
        for (uint32_t size = 0; size <= whole; size++) {
            enum ru_udp_action want = size == 0      ? RU_UDP_DROP_EMPTY
                                      : size < whole ? RU_UDP_DROP_SHORT
                                                     : RU_UDP_REPLY_REFUSED;
            EXPECT_EQUAL(bench_decide(&bench, bytes, size), want);
        }
    }
    EXPECT_ABORT((void)bench_decide(&bench, bytes, 0);
                 (void)ru_udp_decide(&bench.pool, &bench.node.front, &bench.node.arena, 0, 48, 0,
                                     &bench.reply_size)); /* not with the loop */
    bench_close(&bench);
}

static void test_votes(void)
{
    struct bench bench;
    uint8_t vote[RU_VOTE_SIZE + 1], roots[RU_ROOTS_SIZE], want[RU_VOTE_REPLY_SIZE];
    struct ru_random random = {native_seed()};
    uint32_t index;
    bench_open(&bench);
    ru_random_fill(&random, vote, sizeof(vote));
    ru_random_fill(&random, roots, sizeof(roots));
    vote[0] = 7;
    ru_roots_publish(bench.node.front.roots, roots);
    memcpy(want + 1, vote + 481, 16);
    for (uint8_t equal = 0; equal <= 1; equal++) {
        if (equal)
            memcpy(vote + 1, roots, sizeof(roots));
        EXPECT_EQUAL(bench_receive(&bench, vote, RU_VOTE_SIZE, &index), RU_UDP_REPLY_VOTE);
        EXPECT_EQUAL(bench.reply_size, RU_VOTE_REPLY_SIZE);
        want[0] = equal;
        EXPECT_BYTES(bench_payload(&bench, index), want, RU_VOTE_REPLY_SIZE);
        ru_udp_move(&bench.pool, index, RU_UDP_FREE);
    }
    EXPECT_EQUAL(bench_decide(&bench, vote, RU_VOTE_SIZE - 1), RU_UDP_REPLY_REFUSED);
    EXPECT_EQUAL(bench_decide(&bench, vote, RU_VOTE_SIZE + 1), RU_UDP_REPLY_REFUSED);
    vote[0] = 8;
    EXPECT_EQUAL(bench_decide(&bench, vote, RU_VOTE_SIZE), RU_UDP_REPLY_REFUSED);
    bench_close(&bench);
}

/* Of 100 bytes announced, `present` came, plus `extra` that belong to nobody. */
static void expect_described(struct bench *bench, uint8_t encryption, enum native_command command,
                             uint16_t present, uint16_t extra)
{
    uint8_t bytes[256] = {0};
    struct ru_random random = {native_seed()};
    uint32_t index;
    uint8_t size = native_header(bytes, encryption, command, 100, 0x55);
    native_body(bytes + size, 100, &random);
    uint32_t whole = (uint32_t)size + present + extra;
    EXPECT_EQUAL(bench_receive(bench, bytes, whole, &index), RU_UDP_QUEUE);
    EXPECT_EQUAL(bench->pool.contexts[index].lane,
                 command == NATIVE_SLOW ? RU_LANE_SLOW : RU_LANE_ORDINARY);
    const struct ru_arena *arena = &bench->node.arena;
    uint32_t payload_at = ru_arena_slot_at(arena, index) + arena->payload_at;
    struct ru_context want;
    memset(&want, 0, sizeof(want));
    want.arrival_ns = want.complete_ns = 77;
    want.peer_at = ru_arena_slot_at(arena, index) + RU_SLOT_HEAD;
    want.header_at = want.inline_at = payload_at;
    want.body_at = payload_at + size;
    want.request_size = (uint32_t)size + present; /* not what stands behind the body */
    want.inline_size = arena->payload_size;
    want.body_block = want.reply_block = RU_NONE;
    want.body_size = 100;
    want.body_present = present;
    want.transport = RU_UDP;
    want.header_size = size;
    EXPECT_BYTES((const uint8_t *)ru_arena_context(arena, index), (const uint8_t *)&want,
                 sizeof(want));
    EXPECT_BYTES(bench_payload(bench, index), bytes, whole);
    ru_udp_move(&bench->pool, index, RU_UDP_FREE);
}

static void test_every_field_of_a_request_is_written(void)
{
    struct bench bench;
    bench_open(&bench);
    for (uint8_t encryption = 0; encryption <= 5; encryption++) {
        if (encryption == 3)
            continue;
        expect_described(&bench, encryption, NATIVE_WORKER, 100, 0);
        expect_described(&bench, encryption, NATIVE_SLOW, 100, 7);
        if (encryption != 0) /* cut ones go to a worker: their key decides first */
            expect_described(&bench, encryption, NATIVE_WORKER, 40, 0);
    }
    expect_counts(&bench.pool);
    bench_close(&bench);
}

/* Nothing of the slot's earlier content reaches an error reply. */
static void test_refusals_in_a_dirty_slot(void)
{
    struct bench bench;
    uint8_t bytes[RU_HEADER_LARGE + 18];
    uint32_t index;
    bench_open(&bench);
    (void)native_header(bytes, 0, NATIVE_WORKER, 18, 0x99);

    const uint8_t cut[32] = {14, 0, 16, 3, 0, 1, 0x99, 0x99};
    EXPECT_EQUAL(bench_receive(&bench, bytes, 32, &index), RU_UDP_REPLY_REFUSED);
    EXPECT_EQUAL(bench.reply_size, 32);
    EXPECT_BYTES(bench_payload(&bench, index), cut, 32);
    ru_udp_move(&bench.pool, index, RU_UDP_FREE);

    const uint8_t routing[32] = {14, 0, 255, 0, 0, 1};
    bytes[0] = 2;
    EXPECT_EQUAL(bench_receive(&bench, bytes, 32, &index), RU_UDP_REPLY_REFUSED);
    EXPECT_EQUAL(bench.reply_size, 32);
    EXPECT_BYTES(bench_payload(&bench, index), routing, 32);
    ru_udp_move(&bench.pool, index, RU_UDP_FREE);

    const uint8_t unknown_type[24] = {14, 0, 27, 3, [16] = 9};
    (void)native_header(bytes, 9, NATIVE_WORKER, 18, 0x99);
    EXPECT_EQUAL(bench_receive(&bench, bytes, 48, &index), RU_UDP_REPLY_REFUSED);
    EXPECT_EQUAL(bench.reply_size, 48);
    EXPECT_BYTES(bench_payload(&bench, index), unknown_type, 24);
    EXPECT_BYTES(bench_payload(&bench, index) + 46, unknown_type + 17, 2);
    ru_udp_move(&bench.pool, index, RU_UDP_FREE);
    bench_close(&bench);
}

static void test_echoes(void)
{
    struct bench bench;
    uint8_t bytes[64], want[32] = {14, 0, 250, 0, 0, 1, 0x42, 0x42};
    struct ru_random random = {native_seed()};
    uint32_t index;
    bench_open(&bench);
    for (uint16_t body = 0; body <= 20; body += 20) {
        (void)native_header(bytes, 0, NATIVE_ECHO, body, 0x42);
        native_body(bytes + 32, body, &random);
        if (body > 0)
            memcpy(want + 16, bytes + 32, 16);
        EXPECT_EQUAL(bench_receive(&bench, bytes, 32U + body, &index), RU_UDP_REPLY_ECHO);
        EXPECT_EQUAL(bench.reply_size, 32);
        EXPECT_BYTES(bench_payload(&bench, index), want, 32);
        ru_udp_move(&bench.pool, index, RU_UDP_FREE);
    }
    bytes[32] ^= 1; /* a wrong CRC is a worker's to answer */
    EXPECT_EQUAL(bench_decide(&bench, bytes, 52), RU_UDP_QUEUE);
    (void)native_header(bytes, 1, NATIVE_ECHO, 20, 0x42);
    EXPECT_EQUAL(bench_decide(&bench, bytes, 52), RU_UDP_QUEUE);
    bench_close(&bench);
}

/* Handlers hold all they may: votes, echoes and refusals still pass, requests do not. */
static void test_the_reserve_is_for_our_own_answers(void)
{
    struct bench bench;
    uint8_t request[32], echo[32], vote[RU_VOTE_SIZE] = {7};
    uint32_t held[8] = {0};
    bench_open(&bench);
    (void)native_header(request, 0, NATIVE_WORKER, 0, 0);
    (void)native_header(echo, 0, NATIVE_ECHO, 0, 0);
    for (uint32_t i = 0; i < bench.pool.held_max; i++) {
        EXPECT_EQUAL(bench_receive(&bench, request, 32, &held[i]), RU_UDP_QUEUE);
        ru_udp_move(&bench.pool, held[i], RU_UDP_QUEUED);
        if (i % 2)
            ru_udp_move(&bench.pool, held[i], RU_UDP_WORKER);
    }
    for (uint32_t round = 0; round < 10; round++) {
        EXPECT_EQUAL(bench_decide(&bench, request, 32), RU_UDP_DROP_POOL);
        EXPECT_EQUAL(bench_decide(&bench, vote, sizeof(vote)), RU_UDP_REPLY_VOTE);
        EXPECT_EQUAL(bench_decide(&bench, echo, 32), RU_UDP_REPLY_ECHO);
        request[0] = 0;
        EXPECT_EQUAL(bench_decide(&bench, request, 32), RU_UDP_REPLY_REFUSED);
        request[0] = 1;
        expect_counts(&bench.pool);
    }
    ru_udp_move(&bench.pool, held[0], RU_UDP_FREE);
    EXPECT_EQUAL(bench_decide(&bench, request, 32), RU_UDP_QUEUE);
    bench_close(&bench);
}

int main(void)
{
    RUN(test_every_move);
    RUN(test_misuse_aborts);
    RUN(test_lending);
    RUN(test_random_walk);
    RUN(test_only_its_worker_may_return_a_context);
    RUN(test_a_token_dies_with_its_request);
    RUN(test_generation_wraps_past_zero);
    RUN(test_short_datagrams);
    RUN(test_votes);
    RUN(test_every_field_of_a_request_is_written);
    RUN(test_refusals_in_a_dirty_slot);
    RUN(test_echoes);
    RUN(test_the_reserve_is_for_our_own_answers);
    return native_finish();
}
