/* dispatch.c: requests to workers and back.
 *
 * Which worker: only an idle one is given work, and the first idle one before the others, so that a
 * quiet node runs on one warm thread. A batch is as much work as fits a small time budget at the
 * lane's measured pace: a hundred quick requests, or one that takes long.
 */
#include "engine/dispatch.h"

#include "engine/admission.h"
#include "engine/datagram.h"
#include "engine/engine.h"
#include "engine/native.h"
#include "engine/stream.h"
#include "engine/width.h"

/* ---- blocks that workers hold in advance ---- */

static void dispatch_lend(struct ru_engine *engine)
{
    uint32_t workers = ru_config_workers(&engine->config);
    for (uint32_t worker = 0; worker < workers && engine->lent_missing > 0; worker++) {
        struct ru_worker_state *state = &engine->workers[worker];
        struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, worker);
        bool lent = false;
        for (uint32_t size_class = 0; size_class < 2; size_class++) {
            while (state->lent[size_class] < engine->lent_target[size_class]) {
                uint32_t block = ru_block_acquire(&engine->blocks, (enum ru_block_class)size_class,
                                                  ru_block_worker(worker));
                if (block == RU_NONE)
                    break;
                ru_ring_push(&mailbox->lent[size_class], engine->arena.base, block);
                state->lent[size_class]++;
                engine->lent_count[size_class]++;
                RU_CHECK(engine->lent_missing > 0);
                engine->lent_missing--;
                lent = true;
            }
        }
        if (lent)
            ru_sleeper_wake(&mailbox->sleeper);
    }
}

static uint32_t dispatch_share(uint32_t blocks, uint32_t workers, uint32_t most)
{
    return ru_number_min32(blocks / (2 * workers), most);
}

void ru_dispatch_init(struct ru_engine *engine)
{
    const struct ru_config *config = &engine->config;
    uint32_t workers = ru_config_workers(config);
    struct ru_lane *lanes = engine->lanes;
    lanes[RU_LANE_ORDINARY] = (struct ru_lane){.workers = config->workers, .width = 1};
    lanes[RU_LANE_SLOW] = (struct ru_lane){
        .workers = config->slow_workers, .width = config->slow_workers, .spreads = true};
    /* A commit waits for the disk: the more requests share one, the better. */
    lanes[RU_LANE_WRITE] =
        (struct ru_lane){.workers = config->writers, .width = 1, .grouped = true};
    lanes[RU_LANE_NATIVE] = (struct ru_lane){
        .workers = config->native_workers, .width = config->native_workers, .spreads = true};
    lanes[RU_LANE_NATIVE_WRITE] =
        (struct ru_lane){.workers = config->native_writers, .width = 1, .grouped = true};
    lanes[RU_LANE_LIGHT] =
        (struct ru_lane){.workers = config->native_workers > 0, .width = 1, .grouped = true};
    uint32_t first_worker = 0;
    for (uint32_t lane = 0; lane < RU_LANES; lane++) {
        struct ru_sampling *sampling = &lanes[lane].sampling;
        lanes[lane].batch_max = config->batch_max;
        lanes[lane].queue_max = lanes[lane].workers > 0 ? RU_NONE : 0;
        lanes[lane].udp_max = RU_NONE;
        lanes[lane].first_worker = first_worker;
        first_worker += lanes[lane].workers;
        sampling->worker = RU_NONE;
        for (uint32_t i = 0; i < RU_DISPATCH_SAMPLES; i++)
            sampling->shares[i] = 1000;
        for (uint32_t transport = 0; transport < 2; transport++)
            engine->lanes[lane].fifos[transport] = RU_LIST_EMPTY;
    }
    RU_CHECK(first_worker == ru_config_mailboxes(config));
    lanes[RU_LANE_SLOW].batch_max = 1;
    lanes[RU_LANE_SLOW].queue_max = config->slow_queue_max;
    /* A disk that hangs must leave contexts to those who only read. */
    lanes[RU_LANE_WRITE].udp_max = lanes[RU_LANE_NATIVE_WRITE].udp_max =
        config->udp_contexts / 2 + 1;
    ru_dispatch_set_age(engine, config->queue_age_max_ms);
    lanes[RU_LANE_LIGHT].queue_max = ru_number_min32(RU_LIGHT_MAX, RU_BATCH_MAX);
    engine->lent_target[0] = dispatch_share(config->small_blocks, workers, RU_LENT_SMALL_MAX);
    engine->lent_target[1] = dispatch_share(config->large_blocks, workers, RU_LENT_LARGE_MAX);
    engine->lent_missing = workers * (engine->lent_target[0] + engine->lent_target[1]);
    dispatch_lend(engine);
    RU_CHECK(engine->lent_missing == 0); /* ru_config_check() leaves room for all */
}

void ru_dispatch_set_age(struct ru_engine *engine, uint32_t age_max_ms)
{
    for (uint32_t number = 0; number < RU_LANES; number++) {
        bool bounded = age_max_ms > 0 && number != RU_LANE_SLOW && number != RU_LANE_LIGHT;
        engine->lanes[number].age_max_ns = bounded ? ru_clock_ms_to_ns(age_max_ms) : UINT64_MAX;
    }
}

/* ---- to workers ---- */

/* Add the time since the context was queued. */
static void dispatch_record(struct ru_engine *engine, enum ru_histogram_kind kind, uint32_t context)
{
    uint64_t since_ns = engine->waiting.since_ns[context];
    RU_CHECK(since_ns > 0 && since_ns <= engine->now_ns);
    ru_hist_add(&ru_page_of(&engine->arena)->histograms[kind], engine->now_ns - since_ns, 1);
}

/* Take a context out of the lane for `worker`; its token, or 0 if its peer has left or it must not
 * be looked at. */
static uint64_t dispatch_take(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker)
{
    uint32_t context = ru_lane_pop(lane, &engine->waiting);
    dispatch_record(engine, RU_HISTOGRAM_QUEUE, context);
    if (context < engine->arena.slots) {
        if (ru_admission_refuses(engine, context)) { /* since it was queued */
            ru_datagram_limit(engine, context);
            return 0;
        }
        ru_udp_move(&engine->udp, context, RU_UDP_WORKER);
        engine->udp.contexts[context].worker = (uint8_t)worker;
        return ru_token_pack(0, context, engine->udp.contexts[context].generation);
    }
    uint32_t index = context - engine->arena.slots;
    if (!ru_stream_leave_lane(engine, index))
        return 0;
    if (ru_admission_refuses(engine, context)) {
        ru_stream_turn_away(engine, index, &engine->counters.refused_limited);
        return 0;
    }
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_PROCESSING && !conn->with_worker && !conn->queued);
    conn->with_worker = true;
    conn->worker = (uint8_t)worker;
    conn->token_generation = ru_token_advance(conn->token_generation);
    return ru_token_pack(0, context, conn->token_generation);
}

/* Give up the requests that have waited for longer than their clients do. Not while all workers are
 * idle: then this process itself has stood still, and they are served at once. */
static void dispatch_expire(struct ru_engine *engine, struct ru_lane *lane)
{
    while (lane->busy > 0 && ru_lane_stale_ns(lane, &engine->waiting) <= engine->now_ns) {
        uint32_t context = ru_lane_pop_oldest(lane, &engine->waiting);
        dispatch_record(engine, RU_HISTOGRAM_QUEUE, context);
        engine->stale_at_ns = engine->now_ns;
        if (context < engine->arena.slots) {
            engine->counters.udp_dropped_stale++;
            ru_udp_move(&engine->udp, context, RU_UDP_FREE);
        } else if (ru_stream_leave_lane(engine, context - engine->arena.slots)) {
            ru_stream_turn_away(engine, context - engine->arena.slots,
                                &engine->counters.refused_stale);
        }
    }
}

/* ---- giving ---- */

static void dispatch_give(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker,
                          uint32_t batch)
{
    struct ru_worker_state *state = &engine->workers[worker];
    struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, worker);
    bool alone = ru_width_is_alone(engine, lane);
    RU_CHECK(state->outstanding == 0 && batch <= RU_BATCH_MAX);
    while (state->outstanding < batch && lane->count > 0) {
        uint64_t token = dispatch_take(engine, lane, worker);
        if (token == 0)
            continue;
        ru_ring_push(&mailbox->in, engine->arena.base, token);
        state->outstanding++;
    }
    if (state->outstanding == 0)
        return;
    state->batch = state->outstanding;
    state->given_ns = engine->now_ns;
    state->looked_ns = engine->now_ns;
    state->cpu_ns = 0;
    state->waits = false;
    lane->busy++;
    ru_lane_check(lane);
    if (alone)
        ru_width_sample(engine, lane, worker);
    engine->counters.dispatched += state->outstanding;
    engine->counters.batches++;
    ru_sleeper_wake(&mailbox->sleeper);
}

uint64_t ru_dispatch_wait_ns(const struct ru_engine *engine)
{
    uint64_t wait_ns = UINT64_MAX;
    if (engine->lanes[RU_LANE_LIGHT].count > 0) /* queued after this lap's were executed */
        return 0;
    for (uint32_t number = 0; number < RU_LANE_LIGHT; number++) {
        const struct ru_lane *lane = &engine->lanes[number];
        uint64_t until_ns = lane->busy > 0 ? ru_lane_stale_ns(lane, &engine->waiting) : UINT64_MAX;
        if (lane->count > 0 && lane->busy < lane->workers)
            until_ns = ru_number_min64(until_ns, ru_width_wait_until_ns(engine, lane));
        if (until_ns == UINT64_MAX)
            continue;
        uint64_t rest_ns = until_ns > engine->now_ns ? until_ns - engine->now_ns : 1;
        wait_ns = ru_number_min64(wait_ns, rest_ns);
    }
    return wait_ns;
}

/* ---- back from workers ---- */

/* What the worker wrote about its reply into the arena, checked: a worker may become a process of
 * its own, and what its bugs can write must not lead the loop astray. */
struct dispatch_reply {
    uint32_t block;
    uint32_t size;
};

static bool dispatch_check_reply(struct ru_engine *engine, uint32_t context, uint32_t worker,
                                 uint32_t own_block, struct dispatch_reply *reply)
{
    const struct ru_context *shared = ru_arena_context(&engine->arena, context);
    uint32_t block = __atomic_load_n(&shared->reply_block, __ATOMIC_RELAXED);
    uint32_t size = __atomic_load_n(&shared->reply_size, __ATOMIC_RELAXED);
    uint32_t room = context < engine->arena.slots ? engine->arena.payload_size : RU_INLINE_SIZE;
    if (block != RU_NONE) {
        bool own = block == own_block;
        if (!own && !ru_block_move(&engine->blocks, block, ru_block_worker(worker), context))
            return false;
        if (!own) {
            uint32_t size_class = ru_block_class(&engine->blocks, block);
            RU_CHECK(engine->workers[worker].lent[size_class] > 0);
            RU_CHECK(engine->lent_count[size_class] > 0);
            engine->workers[worker].lent[size_class]--;
            engine->lent_count[size_class]--;
            engine->lent_missing++;
        }
        room = ru_arena_block_size(&engine->arena, block);
        if (size == 0 || size > room || size > RU_REPLY_MAX) {
            if (!own)
                ru_block_release(&engine->blocks, block);
            return false;
        }
    }
    *reply = (struct dispatch_reply){block, size};
    return size <= room;
}

/* A reply that cannot be used is answered 252 from the request's header. */
static uint32_t dispatch_internal(struct ru_engine *engine, uint32_t context)
{
    engine->counters.tokens_refused++;
    uint32_t at =
        context < engine->arena.slots
            ? ru_arena_slot_at(&engine->arena, context) + engine->arena.payload_at
            : ru_arena_area_at(&engine->arena, context - engine->arena.slots) + RU_PEER_SIZE;
    uint8_t *bytes = engine->arena.base + at;
    return ru_fast_refuse(&engine->front, RU_STATUS_INTERNAL, RU_SCOPE_ALL, bytes, bytes);
}

/* Whether the worker did not look at the request, because too many checks had failed. */
static bool dispatch_worker_limited(struct ru_engine *engine, uint32_t context)
{
    const struct ru_context *shared = ru_arena_context(&engine->arena, context);
    uint8_t bound = __atomic_load_n(&shared->limited, __ATOMIC_RELAXED);
    ru_admission_count(engine, (enum ru_guard_bound)bound);
    return bound != RU_GUARD_NONE;
}

static void dispatch_return_datagram(struct ru_engine *engine, uint32_t slot, uint32_t worker)
{
    struct dispatch_reply reply = {.block = RU_NONE};
    if (!dispatch_check_reply(engine, slot, worker, RU_NONE, &reply)) {
        reply = (struct dispatch_reply){RU_NONE, dispatch_internal(engine, slot)};
    } else if (reply.size == 0 && dispatch_worker_limited(engine, slot)) {
        ru_datagram_limit(engine, slot);
        return;
    } else if (reply.size == 0) { /* the worker found no block for it */
        engine->counters.udp_dropped_no_block++;
        ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
        return;
    }
    dispatch_record(engine, RU_HISTOGRAM_UDP, slot);
    ru_datagram_reply(engine, slot, reply.block, reply.size);
}

static void dispatch_return_conn(struct ru_engine *engine, uint32_t index, uint32_t worker)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    uint32_t context = engine->arena.slots + index;
    struct dispatch_reply reply = {.block = RU_NONE};
    bool usable = dispatch_check_reply(engine, context, worker, conn->body_block, &reply);
    RU_CHECK(conn->with_worker && !conn->queued);
    RU_CHECK(conn->state == RU_CONN_PROCESSING || conn->state == RU_CONN_DONE);
    conn->with_worker = false;
    if (conn->state == RU_CONN_DONE) { /* the peer left meanwhile */
        conn->reply_block = usable ? reply.block : RU_NONE;
        ru_stream_continue_closing(engine, index);
        return;
    }
    if (!usable || reply.size == 0)
        reply = (struct dispatch_reply){RU_NONE, dispatch_internal(engine, context)};
    if (dispatch_worker_limited(engine, context)) {
        engine->counters.refused_limited++;
        conn->refused = true;
    }
    dispatch_record(engine, RU_HISTOGRAM_TCP, context);
    ru_stream_replied(engine, index, reply.block, reply.size);
}

static void dispatch_return(struct ru_engine *engine, uint32_t worker, uint64_t token)
{
    struct ru_worker_state *state = &engine->workers[worker];
    bool datagram = ru_udp_token_valid(&engine->udp, token, worker);
    if (state->outstanding == 0 ||
        (!datagram && !ru_conn_token_valid(&engine->conns, token, worker))) {
        engine->counters.tokens_refused++;
        return;
    }
    state->outstanding--;
    if (datagram)
        dispatch_return_datagram(engine, ru_token_index(token), worker);
    else
        dispatch_return_conn(engine, ru_token_index(token) - engine->arena.slots, worker);
}

/* A batch has come back: measure how long one request of it took, by the worker's own clock, so
 * that its waking does not count. Lower samples weigh more: waiting for the interpreter lock
 * inflates a sample, and smaller batches would only add to that waiting. */
static void dispatch_measure(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker)
{
    const struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, worker);
    struct ru_worker_state *state = &engine->workers[worker];
    RU_CHECK(state->outstanding == 0 && state->batch > 0 && lane->busy > 0);
    uint64_t busy_ns = __atomic_load_n(&mailbox->busy_ns, __ATOMIC_RELAXED);
    /* Bounded: a worker can write any number. */
    uint64_t spent_ns = ru_number_min64(busy_ns - state->busy_ns, state->batch * RU_SERVICE_MAX_NS);
    uint64_t sample_ns = spent_ns / state->batch + 1;
    if (lane->sampling.worker == worker)
        ru_width_sampled(engine, lane, spent_ns + 1);
    state->busy_ns = busy_ns;
    if (lane->service_ns == 0 || sample_ns < lane->service_ns)
        lane->service_ns = (lane->service_ns + sample_ns) / 2 + 1;
    else
        lane->service_ns += (sample_ns - lane->service_ns) / 32;
    lane->busy--;
}

/* Take back what a worker has returned of its batch. */
static void dispatch_collect_from(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker)
{
    struct ru_ring *out = &ru_page_mailbox(&engine->arena, worker)->out;
    uint64_t token;
    RU_CHECK(engine->workers[worker].outstanding > 0);
    while (ru_ring_pop(out, engine->arena.base, &token))
        dispatch_return(engine, worker, token);
    if (engine->workers[worker].outstanding == 0)
        dispatch_measure(engine, lane, worker);
}

void ru_dispatch_collect(struct ru_engine *engine)
{
    for (uint32_t number = 0; number < RU_LANE_LIGHT; number++) {
        struct ru_lane *lane = &engine->lanes[number];
        for (uint32_t i = 0; i < lane->workers && lane->busy > 0; i++) {
            if (engine->workers[lane->first_worker + i].outstanding > 0)
                dispatch_collect_from(engine, lane, lane->first_worker + i);
        }
    }
    if (engine->lent_missing > 0)
        dispatch_lend(engine);
}

/* ---- a lap ---- */

/* A light request would have to wait: have a native worker execute it. */
static void dispatch_postpone(struct ru_engine *engine, uint64_t token)
{
    const uint32_t context = ru_token_index(token);
    struct ru_lane *lane = &engine->lanes[RU_LANE_NATIVE];
    enum ru_transport transport = context < engine->arena.slots ? RU_UDP : RU_TCP;
    if (transport == RU_UDP) {
        ru_udp_move(&engine->udp, context, RU_UDP_QUEUED);
    } else {
        struct ru_conn *conn = ru_conn_at(&engine->conns, context - engine->arena.slots);
        RU_CHECK(conn->with_worker && !conn->queued && conn->state == RU_CONN_PROCESSING);
        conn->with_worker = false;
        conn->queued = true;
    }
    bool queued = ru_lane_push(lane, &engine->waiting, transport, context, engine->now_ns);
    RU_CHECK(queued);
}

/* The I/O thread executes the light requests of this lap itself. */
static void dispatch_light(struct ru_engine *engine)
{
    struct ru_lane *lane = &engine->lanes[RU_LANE_LIGHT];
    const uint32_t worker = lane->first_worker;
    struct ru_worker_state *state = &engine->workers[worker];
    RU_CHECK(lane->busy == 0 && lane->count <= RU_LIGHT_MAX);
    RU_CHECK(engine->light_cost <= RU_LIGHT_BUDGET);
    engine->light_cost = 0; /* from here on, the next lap's */
    if (lane->count == 0)
        return;
    dispatch_give(engine, lane, worker, lane->count);
    if (state->outstanding == 0)
        return;
    uint32_t postponed;
    const uint64_t *tokens = ru_native_serve_light(engine->light, &postponed);
    RU_CHECK(postponed <= state->outstanding);
    for (uint32_t i = 0; i < postponed; i++)
        dispatch_postpone(engine, tokens[i]);
    state->outstanding -= postponed;
    if (state->outstanding > 0)
        dispatch_collect_from(engine, lane, worker);
    else
        lane->busy--;
    RU_CHECK(lane->busy == 0 && state->outstanding == 0);
}

void ru_dispatch_run(struct ru_engine *engine)
{
    dispatch_light(engine);
    for (uint32_t number = 0; number < RU_LANE_LIGHT; number++) {
        struct ru_lane *lane = &engine->lanes[number];
        dispatch_expire(engine, lane);
        if (lane->count > 0)
            ru_width_look(engine, lane);
        ru_width_age(engine, lane);
        for (uint32_t i = 0; i < lane->workers && lane->count > 0; i++) {
            uint32_t worker = lane->first_worker + i;
            if (engine->workers[worker].outstanding > 0)
                continue;
            if (ru_width_wait_until_ns(engine, lane) != 0)
                break;
            dispatch_give(engine, lane, worker, ru_width_batch(lane));
        }
    }
}

bool ru_dispatch_has_returns(const struct ru_engine *engine)
{
    uint32_t workers = ru_config_workers(&engine->config);
    for (uint32_t worker = 0; worker < workers; worker++)
        if (engine->workers[worker].outstanding > 0 &&
            ru_ring_count(&ru_page_mailbox(&engine->arena, worker)->out) > 0)
            return true;
    return false;
}

void ru_engine_close_workers(struct ru_engine *engine)
{
    uint32_t workers = ru_config_workers(&engine->config);
    for (uint32_t worker = 0; worker < workers; worker++) {
        struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, worker);
        __atomic_store_n(&mailbox->closed, 1, __ATOMIC_RELEASE);
        ru_sleeper_wake(&mailbox->sleeper);
    }
}
