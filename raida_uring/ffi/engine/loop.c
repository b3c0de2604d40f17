/* loop.c: the laps of the I/O thread, from its start to the end of its drain.
 *
 * A lap: hand everything to the kernel and wait; take its completions; take back what workers
 * returned; judge deadlines; arm what ended; publish the counters; give work to workers. Nothing
 * in a lap allocates, blocks or takes a lock.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "engine/accept.h"
#include "engine/control.h"
#include "engine/datagram.h"
#include "engine/dispatch.h"
#include "engine/engine.h"
#include "engine/invariants.h"
#include "engine/stream.h"

/* No event can have more ahead of it: some for each connection. */
#define LOOP_UNTAKEN_MAX (8ULL * RU_CONNECTIONS_MAX)
#define LOOP_BUDGET_NONE UINT32_MAX
#define LOOP_END_NS (5 * RU_SECOND_NS) /* for cancelled operations to report back */

/* ---- a lap ---- */

/* Time stands still where the clock has run back, as it may by a little when this thread moves to
 * another processor: all that is measured here relies on its order. */
static void loop_read_clock(struct ru_engine *engine)
{
    engine->now_ns += ru_clock_between(engine->now_ns, ru_now_ns());
}

static void loop_event(struct ru_engine *engine, const struct ru_event *event)
{
    RU_CHECK(event->operation >= RU_OP_WAKE && event->operation <= RU_OP_IGNORED);
    switch ((enum ru_operation)event->operation) {
    case RU_OP_WAKE:
        engine->counters.wakes++;
        if (event->ended)
            ru_engine_end_operation(engine);
        if (event->ended && engine->phase != RU_ENDING) {
            engine->backend->ops->watch_wake(engine->backend);
            ru_engine_begin_operation(engine);
        }
        break;
    case RU_OP_DATAGRAMS:
        ru_datagram_event(engine, event);
        break;
    case RU_OP_SEND_DATAGRAM:
        ru_datagram_failed(engine);
        break;
    case RU_OP_ACCEPT:
        ru_accept_event(engine, event);
        break;
    case RU_OP_RECEIVE:
        ru_stream_received(engine, event);
        break;
    case RU_OP_SEND:
        ru_stream_sent(engine, event);
        break;
    case RU_OP_IGNORED:
        break;
    }
}

/* Take up to `budget` completions; whether that was all there were, those that overflowed the
 * completion queue included. */
static bool loop_reap(struct ru_engine *engine, uint32_t budget)
{
    uint32_t left = budget;
    while (left > 0) {
        uint32_t want = ru_number_min32(left, RU_EVENTS_BATCH);
        uint32_t count = engine->backend->ops->reap(engine->backend, engine->events, want);
        RU_CHECK(count <= want);
        /* Asked before the events are looked at: what they start may fill the submission queue, and
         * the submission then fetches what had overflowed, which is not seen yet. */
        bool all = count < want && !engine->backend->ops->overflowed(engine->backend);
        for (uint32_t i = 0; i < count; i++)
            loop_event(engine, &engine->events[i]);
        left -= count;
        if (all) /* the failures of replies included */
            ru_datagram_count_answered(engine);
        if (count < want)
            return all;
    }
    return false;
}

/* Close what has missed its deadline. Deadlines are judged by the clock as it was read before the
 * sockets were looked at, so that bytes which arrived in time count, however long this process was
 * stopped meanwhile. When a lap cannot take all there is, its deadlines wait for a lap that can;
 * but not longer than LOOP_UNTAKEN_MAX events, since both backends keep the order of arrival. */
static void loop_judge(struct ru_engine *engine, uint64_t before_ns, bool took_all)
{
    RU_CHECK(before_ns <= engine->now_ns);
    if (engine->untaken == 0)
        engine->judged_ns = before_ns;
    took_all = took_all && engine->backend->ops->saw_all(engine->backend);
    engine->untaken = took_all ? 0 : engine->untaken + engine->config.events_per_lap;
    if (engine->untaken >= LOOP_UNTAKEN_MAX)
        engine->untaken = 0;
    RU_CHECK(engine->judged_ns <= before_ns);
    if (engine->untaken == 0)
        ru_stream_expire(engine);
}

static void loop_publish(struct ru_engine *engine)
{
    struct ru_counters *counters = &engine->counters;
    int64_t in_flight = (int64_t)ru_udp_in_flight(&engine->udp) + engine->unsettled;
    RU_CHECK(in_flight >= 0);
    counters->udp_in_flight = (uint64_t)in_flight;
    if (engine->now_ns >= engine->second_ns) {
        counters->loop_cpu_ns = ru_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        engine->second_ns = engine->now_ns + RU_SECOND_NS;
    }
    ru_counters_publish(&ru_page_of(&engine->arena)->counters, counters);
}

/* After work was handed out, so that what is queued waits for a worker. */
static void loop_publish_gauges(struct ru_engine *engine)
{
    const struct ru_lane *lanes = engine->lanes;
    const struct ru_blocks *blocks = &engine->blocks;
    struct ru_gauges gauges = {
        .udp_contexts_held = ru_udp_held(&engine->udp),
        .small_blocks_used = blocks->count[RU_BLOCK_SMALL] - blocks->free_count[RU_BLOCK_SMALL],
        .large_blocks_used = blocks->count[RU_BLOCK_LARGE] - blocks->free_count[RU_BLOCK_LARGE],
        .small_blocks_lent = engine->lent_count[RU_BLOCK_SMALL],
        .large_blocks_lent = engine->lent_count[RU_BLOCK_LARGE],
        .tcp_buffers_used = engine->config.tcp_buffers - engine->buffers_free,
        .queued_ordinary = lanes[RU_LANE_ORDINARY].count,
        .queued_slow = lanes[RU_LANE_SLOW].count,
        .queued_write = lanes[RU_LANE_WRITE].count,
        .queued_native = lanes[RU_LANE_NATIVE].count,
        .queued_native_write = lanes[RU_LANE_NATIVE_WRITE].count,
        .oldest_ordinary_ns = ru_lane_oldest_ns(&lanes[RU_LANE_ORDINARY], &engine->waiting),
        .oldest_slow_ns = ru_lane_oldest_ns(&lanes[RU_LANE_SLOW], &engine->waiting),
        .oldest_write_ns = ru_lane_oldest_ns(&lanes[RU_LANE_WRITE], &engine->waiting),
        .oldest_native_ns = ru_lane_oldest_ns(&lanes[RU_LANE_NATIVE], &engine->waiting),
        .oldest_native_write_ns = ru_lane_oldest_ns(&lanes[RU_LANE_NATIVE_WRITE], &engine->waiting),
        .busy_ordinary = lanes[RU_LANE_ORDINARY].busy,
        .busy_slow = lanes[RU_LANE_SLOW].busy,
        .busy_write = lanes[RU_LANE_WRITE].busy,
        .busy_native = lanes[RU_LANE_NATIVE].busy,
        .busy_native_write = lanes[RU_LANE_NATIVE_WRITE].busy,
        .stale_at_ns = engine->stale_at_ns,
        .refused_since_ns = engine->refused_since_ns,
        .refused_at_ns = engine->refused_at_ns,
    };
    ru_gauges_publish(&ru_page_of(&engine->arena)->gauges, &gauges);
}

/* Whether memory that connections wait for came free after this lap's look at them. */
static bool loop_can_serve_waiting(const struct ru_engine *engine)
{
    const uint32_t *free_blocks = engine->blocks.free_count;
    const struct ru_list *queues = engine->memory_queues;
    return (!ru_list_is_empty(&queues[RU_SHORT_OF_BUFFER]) && engine->buffers_free > 0) ||
           (!ru_list_is_empty(&queues[RU_SHORT_OF_SMALL]) && free_blocks[RU_BLOCK_SMALL] > 0) ||
           (!ru_list_is_empty(&queues[RU_SHORT_OF_LARGE]) && free_blocks[RU_BLOCK_LARGE] > 0);
}

static uint64_t loop_wait_ns(const struct ru_engine *engine)
{
    uint64_t wait_ns = ru_clock_ms_to_ns(engine->config.wait_max_ms);
    RU_CHECK(engine->phase <= RU_DRAINING);
    wait_ns = ru_number_min64(wait_ns, ru_timer_wait_ns(&engine->timers, engine->now_ns));
    wait_ns = ru_number_min64(wait_ns, ru_dispatch_wait_ns(engine));
    if (engine->phase != RU_SERVING)
        return ru_number_min64(wait_ns, RU_TICK_NS);
    if (engine->sending_count > 0) /* this wait sends replies, the next lap counts them */
        wait_ns = ru_number_min64(wait_ns, RU_SETTLE_NS);
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        if (!engine->listeners[i].receiving && engine->sending_count > 0)
            return 0; /* this submission frees slots, with which the receive is armed at once */
        if (!engine->listeners[i].accepting)
            wait_ns = ru_number_min64(wait_ns, RU_ACCEPT_RETRY_NS);
    }
    return loop_can_serve_waiting(engine) ? 0 : wait_ns;
}

/* Whether another thread has brought work, which it announces by a wake-up only to a loop that has
 * announced its sleep. */
static bool loop_has_work(const struct ru_engine *engine)
{
    if (ru_dispatch_has_returns(engine))
        return true;
    if (engine->adoptions.taken != __atomic_load_n(&engine->adoptions.added, __ATOMIC_RELAXED))
        return true;
    return engine->phase == RU_SERVING && __atomic_load_n(&engine->drain_at_ns, __ATOMIC_RELAXED);
}

static int loop_wait(struct ru_engine *engine)
{
    struct ru_sleeper *sleeper = &ru_page_of(&engine->arena)->loop_sleeper;
    uint64_t wait_ns = loop_wait_ns(engine);
    if (wait_ns > 0) {
        ru_sleeper_announce(sleeper);
        if (loop_has_work(engine))
            wait_ns = 0;
        engine->counters.sleeps += wait_ns > 0;
    }
    int result =
        engine->backend->ops->wait(engine->backend, wait_ns, engine->config.busy_poll_us * 1000ULL);
    ru_sleeper_cancel(sleeper);
    return result;
}

static void loop_give_work(struct ru_engine *engine)
{
    loop_publish(engine); /* before handlers run, which see their own request counted then */
    uint32_t used_count = engine->conns.used_count;
    uint64_t before = engine->counters.udp_dropped_limited + engine->counters.udp_dropped_stale;
    ru_dispatch_run(engine);
    bool dropped =
        before != engine->counters.udp_dropped_limited + engine->counters.udp_dropped_stale;
    if (dropped) /* slots are free again */
        ru_datagram_arm(engine);
    if (dropped || used_count != engine->conns.used_count) /* or a peer had left */
        loop_publish(engine);
}

static int loop_lap(struct ru_engine *engine)
{
    int result = loop_wait(engine);
    if (result != 0)
        return result;
    uint64_t before_ns = engine->now_ns;
    loop_read_clock(engine);
    ru_datagram_release(engine);
    bool took_all = loop_reap(engine, engine->config.events_per_lap);
    ru_dispatch_collect(engine);
    loop_judge(engine, before_ns, took_all);
    ru_accept_adopt(engine);
    ru_stream_serve_waiting(engine);
    ru_accept_arm(engine);
    ru_datagram_arm(engine);
    engine->counters.laps++;
    engine->counters.completions_overflowed += engine->backend->ops->overflowed(engine->backend);
    loop_give_work(engine);
    loop_publish_gauges(engine);
    struct ru_hist *hist = &ru_page_of(&engine->arena)->histograms[RU_HISTOGRAM_LAP];
    ru_hist_add(hist, ru_clock_between(engine->now_ns, ru_now_ns()), 1);
    ru_invariants_check_lap(engine);
    return 0;
}

/* ---- draining ---- */

/* Whether another process has the sockets, too: it serves what arrives from now on. */
static bool loop_leaves_sockets(const struct ru_engine *engine)
{
    return ru_engine_hands_over(engine) || engine->config.shared_sockets != 0;
}

/* No listener takes anything new; the ends of the operations come later. */
static void loop_cancel_listeners(struct ru_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        if (engine->listeners[i].accepting)
            engine->backend->ops->cancel(engine->backend, RU_OP_ACCEPT, i, 0);
        if (engine->listeners[i].receiving)
            engine->backend->ops->cancel(engine->backend, RU_OP_DATAGRAMS, i, 0);
    }
}

static void loop_begin_drain(struct ru_engine *engine)
{
    RU_CHECK(engine->phase == RU_SERVING);
    ru_invariants_check_all(engine);
    engine->phase = RU_DRAINING;
    engine->emptied = false;
    loop_cancel_listeners(engine);
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        engine->listeners[i].draining = !loop_leaves_sockets(engine);
    if (ru_engine_hands_over(engine)) {
        ru_stream_hand_over(engine);
        return;
    }
    if (!loop_leaves_sockets(engine))
        ru_datagram_refuse(engine);
    ru_stream_close_all(engine, true);
}

static bool loop_listening(const struct ru_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        if (engine->listeners[i].accepting || engine->listeners[i].receiving)
            return true;
    return false;
}

static bool loop_drained(const struct ru_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        if (engine->listeners[i].draining)
            return false;
    return engine->conns.used_count == 0 && engine->unsettled == 0 &&
           ru_udp_in_flight(&engine->udp) == 0;
}

/* Give up the requests that handlers still have, and count them as dropped. */
static void loop_abandon(struct ru_engine *engine)
{
    RU_CHECK(engine->phase == RU_ENDING);
    for (uint32_t slot = 0; slot < engine->udp.capacity; slot++) {
        uint8_t place = engine->udp.contexts[slot].place;
        if (place == RU_UDP_QUEUED || place == RU_UDP_WORKER) {
            ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
            engine->counters.udp_dropped_drain++;
        } else if (place == RU_UDP_LENT) {
            ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
        }
    }
    engine->counters.tcp_dropped_drain += engine->counters.tcp_in_flight;
    engine->counters.tcp_in_flight = 0;
    RU_CHECK(ru_udp_in_flight(&engine->udp) == engine->sending_count);
}

/* Once no operation takes from the sockets any more: take what they hold, but leave datagrams to
 * another process that has the sockets. The slots stay lent in that case, since the backend has
 * them and the hand-over may be taken back. */
static void loop_empty_sockets(struct ru_engine *engine)
{
    RU_CHECK(engine->phase == RU_DRAINING && !loop_listening(engine));
    bool leaves = loop_leaves_sockets(engine), first = !engine->emptied;
    engine->emptied = true;
    /* Connections even then: a connection wakes one of the rings that accept, and if that was ours,
     * cancelled before it accepted, the other process does not know of the connection. */
    if (first)
        ru_accept_drain(engine, !leaves);
    if (leaves) {
        if (engine->hand_over_stuck)
            ru_stream_hand_over(engine);
        return;
    }
    if (first)
        ru_datagram_reclaim(engine);
    ru_datagram_drain(engine);
}

static int loop_serve(struct ru_engine *engine)
{
    for (;;) {
        int result = loop_lap(engine);
        if (result != 0)
            return result;
        ru_control_serve(engine);
        uint64_t drain_at_ns = __atomic_load_n(&engine->drain_at_ns, __ATOMIC_ACQUIRE);
        if (drain_at_ns == 0)
            continue;
        if (engine->phase == RU_SERVING)
            loop_begin_drain(engine);
        if (!loop_listening(engine))
            loop_empty_sockets(engine);
        if (engine->emptied && loop_drained(engine))
            return 0;
        if (engine->now_ns >= drain_at_ns) {
            engine->phase = RU_FORCED;
            ru_stream_close_all(engine, false);
            return 0;
        }
    }
}

/* Cancel what is in flight and hear of it, since the kernel may write to its memory until then. */
static int loop_end(struct ru_engine *engine)
{
    RU_CHECK(engine->phase == RU_DRAINING || engine->phase == RU_FORCED);
    RU_CHECK(engine->phase == RU_FORCED || engine->counters.tcp_in_flight == 0);
    engine->phase = RU_ENDING;
    loop_cancel_listeners(engine);
    engine->backend->ops->cancel(engine->backend, RU_OP_WAKE, 0, 0);
    uint64_t before_ns, end_ns = ru_now_ns() + LOOP_END_NS;
    do {
        before_ns = ru_now_ns();
        if (engine->backend->ops->wait(engine->backend, RU_TICK_NS, 0) != 0)
            break;
        loop_read_clock(engine);
        ru_datagram_release(engine);
        (void)loop_reap(engine, engine->config.events_per_lap);
    } while (engine->operations > 0 && before_ns < end_ns);
    /* Submit what the last completions queued, such as closes of descriptors, and see what became
     * of the last replies; nothing else is in flight, and no further lap will come. */
    do {
        (void)engine->backend->ops->wait(engine->backend, 0, 0);
        ru_datagram_release(engine);
    } while (!loop_reap(engine, LOOP_BUDGET_NONE) && ru_now_ns() < end_ns);
    ru_accept_adopt(engine); /* to close them: those that came since the last lap */
    loop_abandon(engine);
    loop_publish(engine);
    loop_publish_gauges(engine);
    if (engine->operations == 0)
        return 0;
    (void)snprintf(engine->fault, sizeof(engine->fault), "%u operations did not end when cancelled",
                   engine->operations);
    return -ETIMEDOUT;
}

/* ---- entry ---- */

static void loop_set_stage(struct ru_engine *engine, enum ru_stage stage)
{
    RU_CHECK(engine->stage < stage);
    __atomic_store_n(&engine->stage, (uint32_t)stage, __ATOMIC_RELEASE);
    ru_sleeper_wake(&engine->stage_sleeper);
}

static int loop_pin(struct ru_engine *engine)
{
    cpu_set_t cpus;
    if (engine->config.io_cpu < 0)
        return 0;
    CPU_ZERO(&cpus);
    CPU_SET((unsigned)engine->config.io_cpu, &cpus);
    if (sched_setaffinity(0, sizeof(cpus), &cpus) == 0)
        return 0;
    (void)snprintf(engine->fault, sizeof(engine->fault), "pinning the I/O thread to CPU %d",
                   engine->config.io_cpu);
    return -errno;
}

/* The worker that this thread is itself, for light requests. */
static int loop_open_light(struct ru_engine *engine)
{
    if (engine->config.native_workers == 0)
        return 0;
    int result = ru_worker_open(engine, engine->lanes[RU_LANE_LIGHT].first_worker, &engine->light);
    if (result != 0)
        (void)snprintf(engine->fault, sizeof(engine->fault), "preparing for requests");
    return result;
}

static int loop_open(struct ru_engine *engine)
{
    const struct ru_backend_setup setup = {.config = &engine->config,
                                           .arena = &engine->arena,
                                           .tcp_buffers = engine->tcp_buffers,
                                           .wake_fd = engine->wake_fd,
                                           .fault = engine->fault};
    RU_CHECK(engine->backend == NULL && engine->phase == RU_SERVING && engine->operations == 0);
    int result = loop_pin(engine);
    if (result == 0)
        result = loop_open_light(engine);
    if (result == 0)
        result = ru_backend_open(&engine->backend, &setup, &engine->refusal);
    if (result != 0)
        return result;
    memcpy(engine->tier, engine->backend->tier, sizeof(engine->tier));
    for (uint32_t buffer = 0; buffer < engine->config.tcp_buffers; buffer++)
        engine->backend->ops->lend_buffer(engine->backend, buffer);
    engine->buffers_free = engine->config.tcp_buffers;
    engine->now_ns = ru_now_ns();
    engine->backend->ops->watch_wake(engine->backend);
    ru_engine_begin_operation(engine);
    ru_datagram_arm(engine);
    ru_accept_arm(engine);
    /* Submit what was armed before anyone is told that this engine serves. */
    result = engine->backend->ops->wait(engine->backend, 0, 0);
    if (result == 0) {
        ru_invariants_check_all(engine);
        return 0;
    }
    (void)snprintf(engine->fault, sizeof(engine->fault), "the first lap");
    engine->backend->ops->close(engine->backend);
    engine->backend = NULL;
    return result;
}

int ru_engine_run(struct ru_engine *engine)
{
    (void)pthread_setname_np(pthread_self(), "raida-io");
    int result = loop_open(engine);
    if (result == 0) {
        loop_publish(engine);
        loop_publish_gauges(engine);
        loop_set_stage(engine, RU_STAGE_RUNNING);
        result = loop_serve(engine);
        if (result == 0)
            result = loop_end(engine);
        else
            (void)snprintf(engine->fault, sizeof(engine->fault), "waiting for completions");
        engine->backend->ops->close(engine->backend);
        engine->backend = NULL;
    }
    engine->result = result;
    ru_worker_close(engine->light);
    engine->light = NULL;
    ru_engine_close_workers(engine);
    loop_set_stage(engine, RU_STAGE_ENDED);
    return result;
}
