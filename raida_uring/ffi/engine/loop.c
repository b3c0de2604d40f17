/* loop.c: the engine's life and the laps of its loop.
 *
 * A lap: hand everything to the kernel and wait; take its completions; take back what workers
 * returned; judge deadlines; arm what ended; publish the counters; give work to workers. Nothing
 * in a lap allocates, blocks or takes a lock.
 */
#include "engine/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* As many events can be ahead of one: a turn of every connection's. */
#define LOOP_UNTAKEN_MAX (8ULL * RU_CONNECTIONS_MAX)
#define LOOP_END_NS (5 * RU_SECOND_NS) /* for cancelled operations to report back */

/* ---- life ---- */

static int engine_allocate(struct ru_engine *engine)
{
    const struct ru_config *config = &engine->config;
    uint32_t slots = engine->arena.slots;
    size_t tallies = (size_t)ru_config_workers(config) * RU_COMMANDS_COUNT;
    engine->tallies = (struct ru_tally **)calloc(tallies, sizeof(struct ru_tally *));
    engine->events = calloc(RU_EVENTS_BATCH, sizeof(*engine->events));
    engine->queue = calloc(engine->arena.contexts, sizeof(*engine->queue));
    engine->sending = calloc(slots, sizeof(*engine->sending));
    engine->held = calloc(config->tcp_buffers, sizeof(*engine->held));
    engine->timer_nodes = calloc(config->connections_max, sizeof(*engine->timer_nodes));
    if (!engine->tallies || !engine->events || !engine->queue || !engine->sending ||
        !engine->held || !engine->timer_nodes)
        return -ENOMEM;
    void *buffers = mmap(NULL, (size_t)config->tcp_buffers * RU_TCP_BUFFER, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (buffers == MAP_FAILED)
        return -errno;
    engine->tcp_buffers = buffers;
    int result = ru_udp_init(&engine->udp, slots, config->udp_contexts);
    if (result == 0)
        result = ru_blocks_init(&engine->blocks, config->small_blocks, config->large_blocks);
    if (result == 0)
        result = ru_conns_init(&engine->conns, config, &engine->front, &engine->arena,
                               &engine->blocks, &engine->counters);
    return result;
}

static int engine_set_up(struct ru_engine *engine)
{
    const struct ru_config *config = &engine->config;
    int result = ru_arena_create(&engine->arena, config);
    if (result != 0)
        return result;
    result = engine_allocate(engine);
    if (result != 0)
        return result;
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    engine->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (engine->wake_fd < 0 || engine->reserve_fd < 0)
        return -errno;
    struct ru_arena_page *page = ru_arena_page(&engine->arena);
    engine->front = (struct ru_front){
        .identity = {.raida_id = (uint8_t)config->raida_id,
                     .coin_id = (uint16_t)config->coin_id,
                     .body_bytes_max = config->body_bytes_max,
                     .classes = page->classes},
        .roots = &page->roots,
    };
    result = ru_guard_init(&engine->guard, &config->checks);
    if (result != 0)
        return result;
    if (getrandom(&engine->front.random, sizeof(engine->front.random), 0) < 0)
        return -errno;
    for (uint32_t what = 0; what < RU_STARVED_QUEUES; what++)
        engine->starved[what] = (struct ru_starved){RU_NONE, RU_NONE};
    ru_timer_init(&engine->timers, engine->timer_nodes, config->connections_max, ru_now_ns());
    ru_dispatch_init(engine);
    return 0;
}

int ru_engine_create(const struct ru_config *config, struct ru_engine **engine,
                     struct ru_config_fault *fault)
{
    *engine = NULL;
    if (ru_config_check(config, fault) != 0)
        return -EINVAL;
    struct ru_engine *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->config = *config;
    made->arena.fd = made->wake_fd = made->reserve_fd = made->hand_over_fd = -1;
    int result = engine_set_up(made);
    if (result != 0) {
        ru_engine_destroy(made);
        return result;
    }
    *engine = made;
    return 0;
}

static void engine_close_fd(int fd)
{
    if (fd >= 0)
        (void)close(fd);
}

void ru_engine_destroy(struct ru_engine *engine)
{
    if (!engine)
        return;
    RU_CHECK(engine->backend == NULL); /* destroyed while it runs */
    ru_guard_destroy(&engine->guard);
    ru_conns_destroy(&engine->conns);
    ru_blocks_destroy(&engine->blocks);
    ru_udp_destroy(&engine->udp);
    if (engine->tcp_buffers)
        (void)munmap(engine->tcp_buffers, (size_t)engine->config.tcp_buffers * RU_TCP_BUFFER);
    ru_tally_free(engine->tallies, ru_config_workers(&engine->config) * RU_COMMANDS_COUNT);
    free(engine->timer_nodes);
    free(engine->held);
    free(engine->sending);
    free(engine->queue);
    free(engine->events);
    engine_close_fd(engine->reserve_fd);
    engine_close_fd(engine->wake_fd);
    ru_arena_destroy(&engine->arena);
    free(engine);
}

/* ---- a lap ---- */

static void loop_event(struct ru_engine *engine, const struct ru_event *event)
{
    switch ((enum ru_operation)event->operation) {
    case RU_OP_WAKE:
        engine->counters.wakes++;
        if (event->ended)
            engine->operations--;
        if (event->ended && engine->phase != RU_ENDING) {
            engine->backend->ops->watch_wake(engine->backend);
            engine->operations++;
        }
        break;
    case RU_OP_DATAGRAMS:
        ru_datagram_event(engine, event);
        break;
    case RU_OP_SEND_DATAGRAM:
        ru_datagram_failed(engine);
        break;
    case RU_OP_ACCEPT:
    case RU_OP_RECEIVE:
    case RU_OP_SEND:
        ru_stream_event(engine, event);
        break;
    case RU_OP_IGNORED:
        break;
    }
}

/* Take completions, at most events_per_lap; whether that was all there were. */
static bool loop_reap(struct ru_engine *engine)
{
    uint32_t left = engine->config.events_per_lap;
    while (left > 0) {
        uint32_t want = left < RU_EVENTS_BATCH ? left : RU_EVENTS_BATCH;
        uint32_t count = engine->backend->ops->reap(engine->backend, engine->events, want);
        for (uint32_t i = 0; i < count; i++)
            loop_event(engine, &engine->events[i]);
        left -= count;
        if (count < want) {
            ru_datagram_settle(engine);
            return true;
        }
    }
    return false;
}

/* A deadline is judged by a clock that was read before the sockets were looked at: whoever was in
 * time is heard first, however long this process stood still meanwhile. When a lap could not take
 * all there was, its deadlines wait for one that can; but not for ever, since both backends keep the
 * order in which things came. */
static void loop_judge(struct ru_engine *engine, uint64_t before_ns, bool took_all)
{
    if (engine->untaken == 0)
        engine->judged_ns = before_ns;
    took_all = took_all && engine->backend->ops->saw_all(engine->backend);
    engine->untaken = took_all ? 0 : engine->untaken + engine->config.events_per_lap;
    if (engine->untaken >= LOOP_UNTAKEN_MAX)
        engine->untaken = 0;
    if (engine->untaken == 0)
        ru_stream_expire(engine);
}

static void loop_publish(struct ru_engine *engine)
{
    struct ru_counters *counters = &engine->counters;
    counters->udp_in_flight =
        (uint64_t)((int64_t)ru_udp_in_flight(&engine->udp) + engine->unsettled);
    counters->completions_overflowed += engine->backend->ops->overflowed(engine->backend);
    if (engine->now_ns >= engine->second_ns) {
        counters->loop_cpu_ns = ru_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        engine->second_ns = engine->now_ns + RU_SECOND_NS;
    }
    ru_counters_publish(&ru_arena_page(&engine->arena)->counters, counters);
}

/* After work was handed out: what stays queued then waits for a worker. */
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
        .oldest_ordinary_ns = ru_dispatch_oldest_ns(engine, RU_LANE_ORDINARY),
        .oldest_slow_ns = ru_dispatch_oldest_ns(engine, RU_LANE_SLOW),
        .oldest_write_ns = ru_dispatch_oldest_ns(engine, RU_LANE_WRITE),
        .busy_ordinary = lanes[RU_LANE_ORDINARY].busy,
        .busy_slow = lanes[RU_LANE_SLOW].busy,
        .busy_write = lanes[RU_LANE_WRITE].busy,
        .refused_since_ns = engine->refused_since_ns,
        .refused_at_ns = engine->refused_at_ns,
    };
    ru_gauges_publish(&ru_arena_page(&engine->arena)->gauges, &gauges);
}

static uint64_t loop_earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t loop_wait_ns(const struct ru_engine *engine)
{
    uint64_t wait_ns = engine->config.wait_max_ms * 1000000ULL;
    wait_ns = loop_earlier(wait_ns, ru_timer_wait_ns(&engine->timers, engine->now_ns));
    wait_ns = loop_earlier(wait_ns, ru_dispatch_wait_ns(engine));
    if (engine->phase != RU_SERVING)
        return loop_earlier(wait_ns, RU_TICK_NS);
    if (engine->sending_count > 0) /* sent by this wait, and known to be sent after it */
        wait_ns = loop_earlier(wait_ns, RU_SETTLE_NS);
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        if (!engine->listeners[i].receiving && engine->sending_count > 0)
            return 0; /* slots come free with this submission; arm right after */
        if (!engine->listeners[i].accepting)
            wait_ns = loop_earlier(wait_ns, RU_ACCEPT_RETRY_NS);
    }
    if (engine->starved[RU_STARVED_OF_BUFFER].first != RU_NONE && engine->buffers_free > 0)
        return 0;
    for (uint32_t what = 0; what < 2; what++) /* a block came free after this lap's look at them */
        if (engine->starved[what].first != RU_NONE && engine->blocks.free_count[what] > 0)
            return 0;
    return wait_ns;
}

static int loop_wait(struct ru_engine *engine)
{
    struct ru_sleeper *sleeper = &ru_arena_page(&engine->arena)->loop_sleeper;
    uint64_t wait_ns = loop_wait_ns(engine);
    if (wait_ns > 0) {
        ru_sleeper_announce(sleeper);
        if (ru_dispatch_pending(engine) ||
            engine->adoptions.taken !=
                __atomic_load_n(&engine->adoptions.added, __ATOMIC_RELAXED) ||
            (engine->phase == RU_SERVING &&
             __atomic_load_n(&engine->drain_at_ns, __ATOMIC_RELAXED)))
            wait_ns = 0;
        engine->counters.sleeps += wait_ns > 0;
    }
    int result =
        engine->backend->ops->wait(engine->backend, wait_ns, engine->config.busy_poll_us * 1000ULL);
    ru_sleeper_cancel(sleeper);
    return result;
}

static int loop_lap(struct ru_engine *engine)
{
    int result = loop_wait(engine);
    if (result != 0)
        return result;
    uint64_t before_ns = engine->now_ns;
    engine->now_ns = ru_now_ns();
    ru_datagram_release(engine);
    bool took_all = loop_reap(engine);
    ru_dispatch_collect(engine);
    loop_judge(engine, before_ns, took_all);
    ru_stream_adopt(engine);
    ru_stream_arm(engine);
    ru_datagram_arm(engine);
    engine->counters.laps++;
    loop_publish(engine); /* before work is handed out: handlers see their own request counted */
    uint32_t used_count = engine->conns.used_count;
    uint64_t limited = engine->counters.udp_dropped_limited;
    ru_dispatch_run(engine);
    bool dropped = limited != engine->counters.udp_dropped_limited;
    if (dropped)
        ru_datagram_arm(engine);
    if (dropped || used_count != engine->conns.used_count) /* or whose peers had left */
        loop_publish(engine);
    loop_publish_gauges(engine);
    struct ru_hist *hist = &ru_arena_page(&engine->arena)->histograms[RU_HISTOGRAM_LAP];
    ru_hist_add(hist, ru_now_ns() - engine->now_ns, 1);
    return 0;
}

/* ---- draining ---- */

/* Whether the sockets live on when this engine ends: what arrives is left to whoever has them. */
static bool loop_leaves_sockets(const struct ru_engine *engine)
{
    return engine->hand_over_fd >= 0 || engine->config.shared_sockets != 0;
}

static void loop_begin_drain(struct ru_engine *engine)
{
    engine->phase = RU_DRAINING;
    engine->emptied = false;
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        if (engine->listeners[i].accepting)
            engine->backend->ops->cancel(engine->backend, RU_OP_ACCEPT, i, 0);
        if (engine->listeners[i].receiving)
            engine->backend->ops->cancel(engine->backend, RU_OP_DATAGRAMS, i, 0);
        engine->listeners[i].draining = !loop_leaves_sockets(engine);
    }
    if (engine->hand_over_fd >= 0) {
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

/* What handlers still hold is lost: count it, so that the sums balance. */
static void loop_abandon(struct ru_engine *engine)
{
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
}

/* No operation takes from the sockets any more: answer what they hold, but leave datagrams to
 * another process that serves them. Slots stay lent then, since the backend still has them and a
 * hand-over may be taken back. */
static void loop_empty_sockets(struct ru_engine *engine)
{
    bool leaves = loop_leaves_sockets(engine), first = !engine->emptied;
    engine->emptied = true;
    /* Even if they are another's: a connection wakes one of the rings that accept, and if that was
     * ours, and cancelled before it could accept, nobody else knows of the connection. */
    if (first)
        ru_stream_drain(engine, !leaves);
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

/* Every operation has to report back before the ring and the memory it points at may go. */
static int loop_end(struct ru_engine *engine)
{
    engine->phase = RU_ENDING;
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        if (engine->listeners[i].accepting)
            engine->backend->ops->cancel(engine->backend, RU_OP_ACCEPT, i, 0);
        if (engine->listeners[i].receiving)
            engine->backend->ops->cancel(engine->backend, RU_OP_DATAGRAMS, i, 0);
    }
    engine->backend->ops->cancel(engine->backend, RU_OP_WAKE, 0, 0);
    uint64_t before_ns, end_ns = ru_now_ns() + LOOP_END_NS;
    do {
        before_ns = ru_now_ns();
        if (engine->backend->ops->wait(engine->backend, RU_TICK_NS, 0) != 0)
            break;
        engine->now_ns = ru_now_ns();
        ru_datagram_release(engine);
        (void)loop_reap(engine);
    } while (engine->operations > 0 && before_ns < end_ns);
    /* What the last completions queued, closing descriptors among it, is not submitted yet. */
    (void)engine->backend->ops->wait(engine->backend, 0, 0);
    ru_datagram_release(engine);
    engine->config.events_per_lap = UINT32_MAX;
    (void)loop_reap(engine); /* what became of the last replies; nothing else is in flight */
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

static void loop_state(struct ru_engine *engine, uint32_t ready)
{
    __atomic_store_n(&engine->ready, ready, __ATOMIC_RELEASE);
    ru_sleeper_wake(&engine->ready_sleeper);
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

static int loop_open_backend(struct ru_engine *engine)
{
    const struct ru_backend_setup setup = {.config = &engine->config,
                                           .arena = &engine->arena,
                                           .tcp_buffers = engine->tcp_buffers,
                                           .wake_fd = engine->wake_fd,
                                           .fault = engine->fault};
    return ru_backend_open(&engine->backend, &setup, &engine->refusal);
}

static int loop_open(struct ru_engine *engine)
{
    int result = loop_pin(engine);
    if (result == 0)
        result = loop_open_backend(engine);
    if (result != 0)
        return result;
    memcpy(engine->tier, engine->backend->tier, sizeof(engine->tier));
    for (uint32_t buffer = 0; buffer < engine->config.tcp_buffers; buffer++)
        engine->backend->ops->lend_buffer(engine->backend, buffer);
    engine->buffers_free = engine->config.tcp_buffers;
    engine->now_ns = ru_now_ns();
    engine->backend->ops->watch_wake(engine->backend);
    engine->operations++;
    ru_datagram_arm(engine);
    ru_stream_arm(engine);
    /* What was armed is the kernel's before anyone is told that we serve. */
    result = engine->backend->ops->wait(engine->backend, 0, 0);
    if (result == 0)
        return 0;
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
        loop_state(engine, 1);
        result = loop_serve(engine);
        if (result == 0)
            result = loop_end(engine);
        else
            (void)snprintf(engine->fault, sizeof(engine->fault), "waiting for completions");
        engine->backend->ops->close(engine->backend);
        engine->backend = NULL;
    }
    engine->result = result;
    ru_dispatch_close(engine);
    loop_state(engine, 2);
    return result;
}

/* ---- any thread ---- */

int ru_engine_wait_ready(struct ru_engine *engine, uint32_t timeout_ms)
{
    uint64_t end_ns = ru_now_ns() + timeout_ms * 1000000ULL;
    for (;;) {
        ru_sleeper_announce(&engine->ready_sleeper);
        uint32_t ready = __atomic_load_n(&engine->ready, __ATOMIC_ACQUIRE);
        uint64_t now_ns = ru_now_ns();
        if (ready != 0 || now_ns >= end_ns) {
            ru_sleeper_cancel(&engine->ready_sleeper);
            return ready == 0 ? -ETIMEDOUT : ready == 1 ? 0 : engine->result;
        }
        ru_sleeper_wait(&engine->ready_sleeper, (uint32_t)((end_ns - now_ns) / 1000000ULL) + 1);
    }
}

const char *ru_engine_fault(struct ru_engine *engine)
{
    return engine->fault;
}

const char *ru_engine_tier(struct ru_engine *engine)
{
    return engine->tier;
}

const char *ru_engine_refusal(struct ru_engine *engine, int *error)
{
    *error = engine->refusal.error;
    return engine->refusal.fault;
}

void ru_engine_hand_over(struct ru_engine *engine, uint32_t deadline_ms, int channel)
{
    __atomic_store_n(&engine->hand_over_fd, channel, __ATOMIC_RELEASE); /* before the deadline */
    ru_engine_drain(engine, deadline_ms);
}

int ru_engine_adopt(struct ru_engine *engine, uint32_t listener, int fd)
{
    struct ru_adoptions *adoptions = &engine->adoptions;
    uint32_t added = adoptions->added;
    if (listener >= engine->config.listeners_count || fd < 0)
        return -EINVAL;
    if (added - __atomic_load_n(&adoptions->taken, __ATOMIC_ACQUIRE) >= RU_ADOPT_MAX)
        return -EAGAIN;
    adoptions->items[added % RU_ADOPT_MAX] = (uint64_t)listener << 32 | (uint32_t)fd;
    __atomic_store_n(&adoptions->added, added + 1, __ATOMIC_RELEASE);
    const uint64_t one = 1;
    (void)!write(engine->wake_fd, &one, sizeof(one));
    return 0;
}

void ru_engine_drain(struct ru_engine *engine, uint32_t deadline_ms)
{
    uint64_t deadline_ns = ru_now_ns() + deadline_ms * 1000000ULL;
    uint64_t current_ns = __atomic_load_n(&engine->drain_at_ns, __ATOMIC_ACQUIRE);
    while ((current_ns == 0 || deadline_ns < current_ns) &&
           !__atomic_compare_exchange_n(&engine->drain_at_ns, &current_ns, deadline_ns, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    ru_engine_wake(engine);
}

void ru_engine_wake(struct ru_engine *engine)
{
    const uint64_t one = 1;
    (void)!write(engine->wake_fd, &one, sizeof(one)); /* fails only when the loop is awake anyway */
}

void ru_engine_close_workers(struct ru_engine *engine)
{
    ru_dispatch_close(engine);
}

int ru_engine_set_class(struct ru_engine *engine, uint32_t group, uint32_t command, uint32_t lane)
{
    if (group > 15 || command > 255 || lane > RU_CLASS_WRITE)
        return -EINVAL;
    uint8_t *classes = ru_arena_page(&engine->arena)->classes;
    __atomic_store_n(&classes[group << 8 | command], (uint8_t)lane, __ATOMIC_RELAXED);
    return 0;
}

int ru_engine_guard(struct ru_engine *engine, uint32_t group, uint32_t command)
{
    if (group > 15 || command > 255)
        return -EINVAL;
    ru_guard_add_command(&engine->guard, (uint16_t)(group << 8 | command));
    return 0;
}

uint32_t ru_engine_limited(struct ru_engine *engine, struct ru_limited *limited, uint32_t count)
{
    return ru_guard_list(&engine->guard, limited, count, ru_now_ns());
}

void ru_engine_publish_roots(struct ru_engine *engine, const uint8_t *roots)
{
    ru_roots_publish(&ru_arena_page(&engine->arena)->roots, roots);
}

uint64_t ru_engine_roots_version(struct ru_engine *engine)
{
    return __atomic_load_n(&ru_arena_page(&engine->arena)->roots.done, __ATOMIC_ACQUIRE);
}

void ru_engine_counters(struct ru_engine *engine, uint64_t *values)
{
    struct ru_arena_page *page = ru_arena_page(&engine->arena);
    struct ru_counters *counters = (struct ru_counters *)(void *)values;
    ru_counters_read(&page->counters, values);
    for (uint32_t i = 0; i < ru_config_workers(&engine->config); i++) {
        const struct ru_worker_counters *worker = &page->mailboxes[i].counters;
        counters->refused_bodies += __atomic_load_n(&worker->refused_bodies, __ATOMIC_RELAXED);
        counters->refused_factors += __atomic_load_n(&worker->refused_factors, __ATOMIC_RELAXED);
        counters->refused_sizes += __atomic_load_n(&worker->refused_sizes, __ATOMIC_RELAXED);
        counters->checks_failed += __atomic_load_n(&worker->checks_failed, __ATOMIC_RELAXED);
        counters->worker_lock_wait_ns += __atomic_load_n(&worker->lock_wait_ns, __ATOMIC_RELAXED);
    }
}

uint64_t ru_engine_tally(struct ru_engine *engine, uint32_t command, uint64_t *answered)
{
    struct ru_tally sum = {0};
    for (uint32_t i = 0; command < RU_COMMANDS_COUNT && i < ru_config_workers(&engine->config); i++)
        (void)ru_tally_add(engine->tallies + (size_t)i * RU_COMMANDS_COUNT, (uint16_t)command,
                           &sum);
    memcpy(answered, sum.answered, sizeof(sum.answered));
    return sum.spent_ns;
}

void ru_engine_gauges(struct ru_engine *engine, uint64_t *values)
{
    ru_gauges_read(&ru_arena_page(&engine->arena)->gauges, values);
}

uint32_t ru_gauges_count(void)
{
    return RU_GAUGES_COUNT;
}

uint32_t ru_counters_count(void)
{
    return RU_COUNTERS_COUNT;
}

uint32_t ru_engine_histogram(struct ru_engine *engine, uint32_t kind, uint64_t *buckets,
                             uint32_t count, uint64_t *sum_ns)
{
    if (kind >= RU_HISTOGRAM_COUNT)
        return 0;
    const struct ru_hist *hist = &ru_arena_page(&engine->arena)->histograms[kind];
    for (uint32_t i = 0; i < count && i < RU_HIST_BUCKETS; i++)
        buckets[i] = __atomic_load_n(&hist->buckets[i], __ATOMIC_RELAXED);
    if (sum_ns)
        *sum_ns = __atomic_load_n(&hist->sum_ns, __ATOMIC_RELAXED);
    return RU_HIST_BUCKETS;
}

uint32_t ru_engine_closed(struct ru_engine *engine, struct ru_closed *closed, uint64_t *missed)
{
    *missed = __atomic_load_n(&engine->closed.missed, __ATOMIC_RELAXED);
    return ru_closed_take(&engine->closed, closed, RU_CLOSED_KEPT);
}

uint64_t ru_engine_arena_size(struct ru_engine *engine)
{
    return engine->arena.size;
}
