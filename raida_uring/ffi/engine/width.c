/* width.c: how many batches of a lane run at once, and how large they are.
 *
 * Python threads share one interpreter lock, which each call of a handler
 * into C drops. Two handlers that run side by side take the lock from each other at every such call,
 * and together get a fraction done of what one alone does. So a further worker is woken only where
 * the running ones leave the interpreter idle, because their handlers wait in C for a disk or a peer.
 * That shows in a batch that runs alone: a thread that was on a processor for a tenth of the batch's
 * time leaves room for ten. A batch older than a few milliseconds, and one whose thread is seen to
 * wait, does not count as running.
 */
#include "engine/width.h"

#include "engine/engine.h"

uint32_t ru_width_batch(const struct ru_lane *lane)
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

/* Processor time of a worker's thread so far; 0 when it cannot be told. */
static uint64_t width_cpu_ns(const struct ru_engine *engine, uint32_t worker)
{
    clockid_t clock = __atomic_load_n(&engine->workers[worker].clock, __ATOMIC_RELAXED);
    struct timespec used;
    if (clock == 0 || clock_gettime(clock, &used) != 0) /* not open yet; ended */
        return 0;
    return (uint64_t)used.tv_sec * RU_SECOND_NS + (uint64_t)used.tv_nsec;
}

/* As many batches as keep the interpreter busy twice over, since too many cost little where
 * handlers wait; but one where a handler works for most of its time. */
static uint32_t width_of(const struct ru_lane *lane, uint32_t share)
{
    if (share >= RU_DISPATCH_WORKING)
        return 1;
    return ru_number_min32(2 * 1000 / (share > 0 ? share : 1), lane->workers);
}

/* The watched batch took `spent_ns`. The largest of the latest shares counts, since a thread that
 * lost its processor for a while looks as if it had waited. */
void ru_width_sampled(struct ru_engine *engine, struct ru_lane *lane, uint64_t spent_ns)
{
    struct ru_sampling *sampling = &lane->sampling;
    RU_CHECK(sampling->worker != RU_NONE && spent_ns > 0);
    uint64_t cpu_ns = width_cpu_ns(engine, sampling->worker) - sampling->cpu_ns;
    bool told = sampling->cpu_ns != 0 && cpu_ns < spent_ns;
    uint32_t share = told ? (uint32_t)(cpu_ns * 1000 / spent_ns) : 1000;
    uint32_t largest = 0;
    RU_CHECK(share <= 1000);
    sampling->worker = RU_NONE;
    sampling->shares[sampling->next++ % RU_DISPATCH_SAMPLES] = (uint16_t)share;
    for (uint32_t i = 0; i < RU_DISPATCH_SAMPLES; i++)
        largest = sampling->shares[i] > largest ? sampling->shares[i] : largest;
    lane->width = width_of(lane, largest);
    RU_CHECK(lane->width > 0 && lane->width <= lane->workers);
    /* Take the next sample at once while they disagree. */
    sampling->due_ns =
        width_of(lane, share) == lane->width ? engine->now_ns + RU_DISPATCH_SAMPLE_NS : 0;
}

void ru_width_sample(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker)
{
    struct ru_sampling *sampling = &lane->sampling;
    if (lane->spreads || lane->workers == 1 || lane->service_ns == 0 ||
        engine->now_ns < sampling->due_ns)
        return;
    RU_CHECK(sampling->worker == RU_NONE);
    sampling->worker = worker;
    sampling->cpu_ns = width_cpu_ns(engine, worker);
}

/* While requests wait for running batches: find batches that wait themselves. The thread of such a
 * batch has hardly been on a processor between two looks. */
void ru_width_look(struct ru_engine *engine, const struct ru_lane *lane)
{
    for (uint32_t i = 0; i < lane->workers && lane->busy > 0; i++) {
        struct ru_worker_state *state = &engine->workers[lane->first_worker + i];
        RU_CHECK(state->looked_ns <= engine->now_ns);
        uint64_t passed_ns = engine->now_ns - state->looked_ns;
        if (state->outstanding == 0 || state->waits || passed_ns < RU_DISPATCH_LOOK_NS)
            continue;
        uint64_t cpu_ns = width_cpu_ns(engine, lane->first_worker + i);
        state->waits =
            state->cpu_ns != 0 && cpu_ns != 0 && (cpu_ns - state->cpu_ns) * 4 < passed_ns;
        state->looked_ns = engine->now_ns;
        state->cpu_ns = cpu_ns;
    }
}

/* Judge the watched batch before it has come back, if it blocks. */
void ru_width_age(struct ru_engine *engine, struct ru_lane *lane)
{
    if (lane->sampling.worker == RU_NONE)
        return;
    const struct ru_worker_state *state = &engine->workers[lane->sampling.worker];
    RU_CHECK(state->outstanding > 0 && state->given_ns <= engine->now_ns);
    uint64_t age_ns = engine->now_ns - state->given_ns;
    if (age_ns >= RU_DISPATCH_SOON_NS || state->waits)
        ru_width_sampled(engine, lane, age_ns);
}

/* How many of the lane's batches are young and at work, and when the first of them should be looked
 * at again. */
static uint32_t width_young(const struct ru_engine *engine, const struct ru_lane *lane,
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
uint64_t ru_width_wait_until_ns(const struct ru_engine *engine, const struct ru_lane *lane)
{
    uint64_t until_ns;
    uint32_t young = width_young(engine, lane, &until_ns);
    bool alone = lane->sampling.worker != RU_NONE ||
                 (!lane->spreads && engine->now_ns >= lane->sampling.due_ns);
    if (young == 0 || lane->service_ns == 0) /* nothing measured yet: share alike */
        return 0;
    if (young >= (alone ? 1 : lane->width))
        return until_ns;
    /* A young batch may be back in a moment, and its worker can then take more requests at once. */
    uint64_t hold_ns = ru_lane_oldest_ns(lane, &engine->waiting) + RU_DISPATCH_HOLD_NS;
    if (lane->count >= ru_width_batch(lane) || engine->now_ns >= hold_ns)
        return 0;
    return ru_number_min64(hold_ns, until_ns);
}

bool ru_width_is_alone(const struct ru_engine *engine, const struct ru_lane *lane)
{
    uint64_t until_ns;
    return width_young(engine, lane, &until_ns) == 0;
}
