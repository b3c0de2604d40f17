/* dispatch.c: requests to workers and back.
 *
 * Which worker: only an idle one is given work, and the first idle one before the others, so that a
 * quiet node runs on one warm thread. A batch is as much work as fits a small time budget at the
 * lane's measured pace: a hundred quick requests, or one that takes long.
 *
 * How many workers at once: Python threads share one interpreter lock, which each call of a handler
 * into C drops. Two handlers that run side by side take the lock from each other at every such call,
 * and together get a fraction done of what one alone does. So a further worker is woken only where
 * the running ones leave the interpreter idle, because their handlers wait in C for a disk or a peer.
 * That shows in a batch that runs alone: a thread that was on a processor for a tenth of the batch's
 * time leaves room for ten. A batch older than a few milliseconds, and one whose thread is seen to
 * wait, does not count as running.
 */
#include "engine/dispatch.h"

#include "engine/admission.h"
#include "engine/datagram.h"
#include "engine/engine.h"
#include "engine/native.h"
#include "engine/stream.h"

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
    lanes[RU_LANE_NATIVE_WRITE] = (struct ru_lane){.workers = config->native_writers,
                                                   .width = config->native_writers,
                                                   .grouped = true,
                                                   .spreads = true};
    lanes[RU_LANE_LIGHT] =
        (struct ru_lane){.workers = config->native_workers > 0, .width = 1, .grouped = true};
    uint32_t first_worker = 0;
    for (uint32_t lane = 0; lane < RU_LANES; lane++) {
        struct ru_sampling *sampling = &lanes[lane].sampling;
        lanes[lane].batch_max = config->batch_max;
        lanes[lane].queue_max = lanes[lane].workers > 0 ? RU_NONE : 0;
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
    lanes[RU_LANE_LIGHT].queue_max = ru_number_min32(RU_LIGHT_MAX, RU_BATCH_MAX);
    engine->lent_target[0] = dispatch_share(config->small_blocks, workers, RU_LENT_SMALL_MAX);
    engine->lent_target[1] = dispatch_share(config->large_blocks, workers, RU_LENT_LARGE_MAX);
    engine->lent_missing = workers * (engine->lent_target[0] + engine->lent_target[1]);
    dispatch_lend(engine);
    RU_CHECK(engine->lent_missing == 0); /* ru_config_check() leaves room for all */
}

/* ---- to workers ---- */

static uint32_t dispatch_batch(const struct ru_lane *lane)
{
    uint64_t batch;
    RU_CHECK(lane->count > 0 && lane->busy < lane->workers);
    if (lane->grouped)
        return lane->batch_max;
    if (lane->service_ns > 0) {
        batch = RU_DISPATCH_BUDGET_NS / lane->service_ns;
    } else { /* nothing measured yet: share alike */
        uint32_t idle = lane->workers - lane->busy;
        batch = (lane->count + idle - 1) / idle;
    }
    return batch > 0 ? (uint32_t)ru_number_min64(batch, lane->batch_max) : 1;
}

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
        ru_stream_limit(engine, index);
        return 0;
    }
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_PROCESSING && !conn->with_worker && !conn->queued);
    conn->with_worker = true;
    conn->worker = (uint8_t)worker;
    conn->token_generation = ru_token_advance(conn->token_generation);
    return ru_token_pack(0, context, conn->token_generation);
}

/* ---- how many at once ---- */

/* Processor time of a worker's thread so far; 0 when it cannot be told. */
static uint64_t dispatch_cpu_ns(const struct ru_engine *engine, uint32_t worker)
{
    clockid_t clock = __atomic_load_n(&engine->workers[worker].clock, __ATOMIC_RELAXED);
    struct timespec used;
    if (clock == 0 || clock_gettime(clock, &used) != 0) /* not open yet; ended */
        return 0;
    return (uint64_t)used.tv_sec * RU_SECOND_NS + (uint64_t)used.tv_nsec;
}

/* As many batches as keep the interpreter busy twice over, since too many cost little where
 * handlers wait; but one where a handler works for most of its time. */
static uint32_t dispatch_width(const struct ru_lane *lane, uint32_t share)
{
    if (share >= RU_DISPATCH_WORKING)
        return 1;
    return ru_number_min32(2 * 1000 / (share > 0 ? share : 1), lane->workers);
}

/* The watched batch took `spent_ns`. The largest of the latest shares counts, since a thread that
 * lost its processor for a while looks as if it had waited. */
static void dispatch_sampled(struct ru_engine *engine, struct ru_lane *lane, uint64_t spent_ns)
{
    struct ru_sampling *sampling = &lane->sampling;
    RU_CHECK(sampling->worker != RU_NONE && spent_ns > 0);
    uint64_t cpu_ns = dispatch_cpu_ns(engine, sampling->worker) - sampling->cpu_ns;
    bool told = sampling->cpu_ns != 0 && cpu_ns < spent_ns;
    uint32_t share = told ? (uint32_t)(cpu_ns * 1000 / spent_ns) : 1000;
    uint32_t largest = 0;
    RU_CHECK(share <= 1000);
    sampling->worker = RU_NONE;
    sampling->shares[sampling->next++ % RU_DISPATCH_SAMPLES] = (uint16_t)share;
    for (uint32_t i = 0; i < RU_DISPATCH_SAMPLES; i++)
        largest = sampling->shares[i] > largest ? sampling->shares[i] : largest;
    lane->width = dispatch_width(lane, largest);
    RU_CHECK(lane->width > 0 && lane->width <= lane->workers);
    /* Take the next sample at once while they disagree. */
    sampling->due_ns =
        dispatch_width(lane, share) == lane->width ? engine->now_ns + RU_DISPATCH_SAMPLE_NS : 0;
}

static void dispatch_sample(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker)
{
    struct ru_sampling *sampling = &lane->sampling;
    if (lane->spreads || lane->workers == 1 || lane->service_ns == 0 ||
        engine->now_ns < sampling->due_ns)
        return;
    RU_CHECK(sampling->worker == RU_NONE);
    sampling->worker = worker;
    sampling->cpu_ns = dispatch_cpu_ns(engine, worker);
}

/* While requests wait for running batches: find batches that wait themselves. The thread of such a
 * batch has hardly been on a processor between two looks. */
static void dispatch_look(struct ru_engine *engine, const struct ru_lane *lane)
{
    for (uint32_t i = 0; i < lane->workers && lane->busy > 0; i++) {
        struct ru_worker_state *state = &engine->workers[lane->first_worker + i];
        RU_CHECK(state->looked_ns <= engine->now_ns);
        uint64_t passed_ns = engine->now_ns - state->looked_ns;
        if (state->outstanding == 0 || state->waits || passed_ns < RU_DISPATCH_LOOK_NS)
            continue;
        uint64_t cpu_ns = dispatch_cpu_ns(engine, lane->first_worker + i);
        state->waits =
            state->cpu_ns != 0 && cpu_ns != 0 && (cpu_ns - state->cpu_ns) * 4 < passed_ns;
        state->looked_ns = engine->now_ns;
        state->cpu_ns = cpu_ns;
    }
}

/* Judge the watched batch before it has come back, if it blocks. */
static void dispatch_age(struct ru_engine *engine, struct ru_lane *lane)
{
    if (lane->sampling.worker == RU_NONE)
        return;
    const struct ru_worker_state *state = &engine->workers[lane->sampling.worker];
    RU_CHECK(state->outstanding > 0 && state->given_ns <= engine->now_ns);
    uint64_t age_ns = engine->now_ns - state->given_ns;
    if (age_ns >= RU_DISPATCH_SOON_NS || state->waits)
        dispatch_sampled(engine, lane, age_ns);
}

/* How many of the lane's batches are young and at work, and when the first of them should be looked
 * at again. */
static uint32_t dispatch_young(const struct ru_engine *engine, const struct ru_lane *lane,
                               uint64_t *until_ns)
{
    uint32_t young = 0;
    *until_ns = UINT64_MAX;
    for (uint32_t i = 0; i < lane->workers && lane->busy > 0; i++) {
        const struct ru_worker_state *state = &engine->workers[lane->first_worker + i];
        uint64_t end_ns = state->given_ns + RU_DISPATCH_SOON_NS;
        if (state->outstanding == 0 || state->waits || engine->now_ns >= end_ns)
            continue;
        young++;
        end_ns = ru_number_min64(end_ns, state->looked_ns + RU_DISPATCH_LOOK_NS);
        *until_ns = ru_number_min64(*until_ns, end_ns);
    }
    RU_CHECK(young <= lane->busy);
    return young;
}

/* Until when the lane's next batch has to wait for those that run; 0: it has not to wait. */
static uint64_t dispatch_wait_until_ns(const struct ru_engine *engine, const struct ru_lane *lane)
{
    uint64_t until_ns;
    uint32_t young = dispatch_young(engine, lane, &until_ns);
    bool alone = lane->sampling.worker != RU_NONE ||
                 (!lane->spreads && engine->now_ns >= lane->sampling.due_ns);
    if (young == 0 || lane->service_ns == 0) /* nothing measured yet: share alike */
        return 0;
    if (young >= (alone ? 1 : lane->width))
        return until_ns;
    /* A young batch may be back in a moment, and its worker can then take more requests at once. */
    uint64_t hold_ns = ru_lane_oldest_ns(lane, &engine->waiting) + RU_DISPATCH_HOLD_NS;
    if (lane->count >= dispatch_batch(lane) || engine->now_ns >= hold_ns)
        return 0;
    return ru_number_min64(hold_ns, until_ns);
}

/* ---- giving ---- */

static void dispatch_give(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker,
                          uint32_t batch)
{
    struct ru_worker_state *state = &engine->workers[worker];
    struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, worker);
    uint64_t until_ns;
    bool alone = dispatch_young(engine, lane, &until_ns) == 0;
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
        dispatch_sample(engine, lane, worker);
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
        if (lane->count == 0 || lane->busy == lane->workers)
            continue;
        uint64_t until_ns = dispatch_wait_until_ns(engine, lane);
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
        dispatch_sampled(engine, lane, spent_ns + 1);
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
        if (lane->count > 0)
            dispatch_look(engine, lane);
        dispatch_age(engine, lane);
        for (uint32_t i = 0; i < lane->workers && lane->count > 0; i++) {
            uint32_t worker = lane->first_worker + i;
            if (engine->workers[worker].outstanding > 0)
                continue;
            if (dispatch_wait_until_ns(engine, lane) != 0)
                break;
            dispatch_give(engine, lane, worker, dispatch_batch(lane));
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
