/* engine.c: an engine's life, and what other threads may ask of it at any time.
 *
 * What these functions share with the loop is atomic, published in the arena, or set before the
 * loop runs. What has to be asked of the loop itself goes through control.c.
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "engine/dispatch.h"
#include "engine/ground.h"

/* ---- life ---- */

static void *engine_array(size_t count, size_t size, bool *missing)
{
    void *array = calloc(count, size);
    *missing |= array == NULL;
    return array;
}

static int engine_allocate(struct ru_engine *engine)
{
    const struct ru_config *config = &engine->config;
    const size_t slots = engine->arena.slots, contexts = engine->arena.contexts;
    const size_t buffers_count = config->tcp_buffers, conns = config->connections_max;
    const size_t tallies = (size_t)ru_config_mailboxes(config) * RU_COMMANDS_COUNT;
    bool missing = false;
    engine->tallies =
        (struct ru_tally **)engine_array(tallies, sizeof(struct ru_tally *), &missing);
    engine->events = engine_array(RU_EVENTS_BATCH, sizeof(*engine->events), &missing);
    engine->waiting.contexts = engine->arena.contexts;
    engine->waiting.links = engine_array(contexts, sizeof(*engine->waiting.links), &missing);
    engine->waiting.since_ns = engine_array(contexts, sizeof(*engine->waiting.since_ns), &missing);
    engine->sending = engine_array(slots, sizeof(*engine->sending), &missing);
    engine->unread = engine_array(buffers_count, sizeof(*engine->unread), &missing);
    engine->unread_links = engine_array(buffers_count, sizeof(*engine->unread_links), &missing);
    engine->memory_links = engine_array(conns, sizeof(*engine->memory_links), &missing);
    engine->timer_nodes = engine_array(conns, sizeof(*engine->timer_nodes), &missing);
    engine->timer_links = engine_array(conns, sizeof(*engine->timer_links), &missing);
    if (missing)
        return -ENOMEM;
    void *buffers = mmap(NULL, (size_t)config->tcp_buffers * RU_TCP_BUFFER, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (buffers == MAP_FAILED)
        return -errno;
    engine->tcp_buffers = buffers;
    int result = ru_taps_init(&engine->taps, ru_config_mailboxes(config));
    if (result == 0)
        result = ru_udp_init(&engine->udp, engine->arena.slots, config->udp_contexts);
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
    int result = ru_page_create(&engine->arena, config);
    if (result != 0)
        return result;
    result = engine_allocate(engine);
    if (result != 0)
        return result;
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    engine->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (engine->wake_fd < 0 || engine->reserve_fd < 0)
        return -errno;
    struct ru_page *page = ru_page_of(&engine->arena);
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
    engine->seals = ru_seal_library_create();
    engine->trees = calloc(1, sizeof(*engine->trees));
    if (!engine->seals || !engine->trees)
        return -ENOMEM;
    if (getrandom(&engine->front.random, sizeof(engine->front.random), 0) < 0)
        return -errno;
    for (uint32_t shortage = 0; shortage < RU_SHORTAGES; shortage++)
        engine->memory_queues[shortage] = RU_LIST_EMPTY;
    ru_timer_init(&engine->timers, engine->timer_nodes, engine->timer_links,
                  config->connections_max, ru_now_ns());
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
    for (struct ru_adoptions *left = &engine->adoptions; left->taken != left->added; left->taken++)
        engine_close_fd((int)(uint32_t)left->items[left->taken % RU_ADOPT_MAX]);
    free(engine->trees);
    ru_seal_library_destroy(engine->seals);
    ru_guard_destroy(&engine->guard);
    ru_conns_destroy(&engine->conns);
    ru_blocks_destroy(&engine->blocks);
    ru_udp_destroy(&engine->udp);
    if (engine->tcp_buffers)
        (void)munmap(engine->tcp_buffers, (size_t)engine->config.tcp_buffers * RU_TCP_BUFFER);
    ru_tally_free(engine->tallies, ru_config_mailboxes(&engine->config) * RU_COMMANDS_COUNT);
    ru_taps_destroy(&engine->taps);
    free(engine->timer_links);
    free(engine->timer_nodes);
    free(engine->memory_links);
    free(engine->unread_links);
    free(engine->unread);
    free(engine->sending);
    free(engine->waiting.since_ns);
    free(engine->waiting.links);
    free(engine->events);
    engine_close_fd(engine->reserve_fd);
    engine_close_fd(engine->wake_fd);
    ru_arena_destroy(&engine->arena);
    free(engine);
}

/* ---- any thread ---- */

int ru_engine_wait_ready(struct ru_engine *engine, uint32_t timeout_ms)
{
    uint64_t end_ns = ru_now_ns() + ru_clock_ms_to_ns(timeout_ms);
    for (;;) {
        ru_sleeper_announce(&engine->stage_sleeper);
        uint32_t stage = __atomic_load_n(&engine->stage, __ATOMIC_ACQUIRE);
        uint64_t now_ns = ru_now_ns();
        if (stage != RU_STAGE_STARTING || now_ns >= end_ns)
            ru_sleeper_cancel(&engine->stage_sleeper);
        if (stage == RU_STAGE_RUNNING)
            return 0;
        if (stage == RU_STAGE_ENDED)
            return engine->result;
        if (now_ns >= end_ns)
            return -ETIMEDOUT;
        ru_sleeper_wait(&engine->stage_sleeper,
                        (uint32_t)((end_ns - now_ns) / RU_MILLISECOND_NS) + 1);
    }
}

const char *ru_engine_fault(struct ru_engine *engine)
{
    return engine->fault;
}

const char *ru_engine_tier(struct ru_engine *engine)
{
    return __atomic_load_n(&engine->stage, __ATOMIC_ACQUIRE) == RU_STAGE_STARTING ? ""
                                                                                  : engine->tier;
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
    ru_engine_wake(engine);
    return 0;
}

void ru_engine_drain(struct ru_engine *engine, uint32_t deadline_ms)
{
    uint64_t deadline_ns = ru_now_ns() + ru_clock_ms_to_ns(deadline_ms);
    uint64_t current_ns = __atomic_load_n(&engine->drain_at_ns, __ATOMIC_ACQUIRE);
    while ((current_ns == 0 || deadline_ns < current_ns) &&
           !__atomic_compare_exchange_n(&engine->drain_at_ns, &current_ns, deadline_ns, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    ru_engine_wake(engine);
}

void ru_engine_wake(struct ru_engine *engine)
{
    ru_engine_ring(engine);
}

int ru_engine_set_class(struct ru_engine *engine, uint32_t group, uint32_t command,
                        uint32_t lane_class)
{
    if (group > 15 || command > 255 || lane_class > RU_CLASS_WRITE)
        return -EINVAL;
    uint8_t *classes = ru_page_of(&engine->arena)->classes;
    __atomic_store_n(&classes[group << 8 | command], (uint8_t)lane_class, __ATOMIC_RELAXED);
    return 0;
}

void ru_engine_set_native(struct ru_engine *engine, struct ru_store *store, struct ru_store *keys,
                          const struct ru_facts *facts)
{
    engine->store = store;
    engine->keys = keys;
    engine->facts = *facts;
    engine->facts.roots = &ru_page_of(&engine->arena)->roots;
    engine->facts.trees = engine->trees;
}

void ru_engine_set_raida(struct ru_engine *engine, const uint8_t *addresses, uint32_t count)
{
    ru_raida_publish(&engine->raida, addresses, count);
}

int ru_engine_raida_missed(struct ru_engine *engine)
{
    return ru_raida_missed(&engine->raida);
}

void ru_engine_add_statistic(struct ru_engine *engine, uint32_t index, uint64_t by)
{
    RU_CHECK(index < RU_STATISTICS);
    __atomic_fetch_add(&engine->carried[index], by, __ATOMIC_RELAXED);
}

int ru_engine_set_native_command(struct ru_engine *engine, uint32_t group, uint32_t command)
{
    const struct ru_command *row =
        group > 15 || command > 255 ? NULL : ru_command_find(group << 8 | command);
    if (!row || engine->config.native_workers == 0 ||
        (row->writes && engine->store && engine->config.native_writers == 0))
        return -EINVAL;
    engine->natives[row->number] = row;
    return 0;
}

void ru_engine_statistics(struct ru_engine *engine, uint64_t *values)
{
    ru_ground_statistics(engine, values);
}

int ru_engine_guard(struct ru_engine *engine, uint32_t group, uint32_t command)
{
    if (group > 15 || command > 255)
        return -EINVAL;
    ru_guard_add_command(&engine->guard, (uint16_t)(group << 8 | command));
    return 0;
}

int ru_engine_set_public(struct ru_engine *engine, uint32_t group, uint32_t command)
{
    if (group > 15 || command > 255)
        return -EINVAL;
    const uint32_t number = group << 8 | command;
    engine->public_commands[number / 8] |= (uint8_t)(1U << number % 8);
    return 0;
}

uint32_t ru_engine_limited(struct ru_engine *engine, struct ru_limited *limited, uint32_t count)
{
    return ru_guard_list(&engine->guard, limited, count, ru_now_ns());
}

void ru_engine_publish_roots(struct ru_engine *engine, const uint8_t *roots)
{
    ru_roots_publish(&ru_page_of(&engine->arena)->roots, roots);
}

struct ru_roots *ru_engine_roots(struct ru_engine *engine)
{
    return &ru_page_of(&engine->arena)->roots;
}

struct ru_trees *ru_engine_trees(struct ru_engine *engine)
{
    return engine->trees;
}

void ru_engine_counters(struct ru_engine *engine, uint64_t *values)
{
    struct ru_counters *counters = (struct ru_counters *)(void *)values;
    ru_page_count(&engine->arena, ru_config_mailboxes(&engine->config), counters);
}

uint64_t ru_engine_tally(struct ru_engine *engine, uint32_t command, uint64_t *answered)
{
    struct ru_tally sum = {0};
    const uint32_t mailboxes = ru_config_mailboxes(&engine->config);
    for (uint32_t i = 0; command < RU_COMMANDS_COUNT && i < mailboxes; i++)
        (void)ru_tally_add(engine->tallies + (size_t)i * RU_COMMANDS_COUNT, (uint16_t)command,
                           &sum);
    memcpy(answered, sum.answered, sizeof(sum.answered));
    return sum.spent_ns;
}

void ru_engine_gauges(struct ru_engine *engine, uint64_t *values)
{
    ru_gauges_read(&ru_page_of(&engine->arena)->gauges, values);
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
    const struct ru_hist *hist = &ru_page_of(&engine->arena)->histograms[kind];
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

uint32_t ru_engine_taps(const struct ru_engine *engine)
{
    return engine->taps.count;
}

int ru_engine_tap_wait(struct ru_engine *engine, uint32_t timeout_ms, uint32_t gather_ms)
{
    return ru_taps_wait(&engine->taps, timeout_ms, gather_ms);
}

void ru_engine_tap_begin(struct ru_engine *engine, uint32_t notes)
{
    ru_taps_begin(&engine->taps, notes);
}

void ru_engine_tap_end(struct ru_engine *engine)
{
    ru_taps_end(&engine->taps);
}

uint64_t ru_engine_tap_requests(const struct ru_engine *engine, uint32_t tap)
{
    RU_CHECK(tap < engine->taps.count);
    return ru_tap_requests(&engine->taps.each[tap]);
}

uint32_t ru_engine_tap_notes(struct ru_engine *engine, uint32_t tap, struct ru_note *notes,
                             uint32_t count)
{
    RU_CHECK(tap < engine->taps.count);
    return ru_tap_take_notes(&engine->taps.each[tap], notes, count);
}

uint32_t ru_engine_tap_samples(struct ru_engine *engine, uint32_t tap, struct ru_sample *samples,
                               uint32_t count)
{
    RU_CHECK(tap < engine->taps.count);
    return ru_tap_take_samples(&engine->taps.each[tap], samples, count);
}

uint64_t ru_engine_arena_size(struct ru_engine *engine)
{
    return engine->arena.size;
}
