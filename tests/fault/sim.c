/* sim.c: whole lives of a node over the simulated kernel, one per seed.
 *
 * Whatever happens: the sums balance, everything is in one place, nobody is answered in another's
 * stead, nothing waits for nobody, and in the end nothing is left. A life is configuration, mood of
 * the kernel, peers and handlers, all drawn from its seed; a step is one turn of the loop.
 * usage: sim SEED [LIVES [STEPS]]       seeds SEED to SEED + LIVES - 1, STEPS each, then a drain
 */
#include "life.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coins/store.h"
#include "engine/native.h"

#define BEHIND_NS 1500 /* clocks of processors, between which threads move, agree only so far */
#define SIM_STEPS 1000
#define SIM_LIVES_ENOUGH 500 /* for every counter to have been moved */

static struct {
    uint64_t seed;
    const struct life *life;
    uint64_t steps;
    struct ru_counters seen; /* over all lives, like the next one */
    struct life_native native;
} running;

/* ---- workers ---- */

static bool worker_rooms(const struct life *life, uint32_t number, uint32_t size)
{
    const struct ru_mailbox *mailbox = &ru_page_of(&life->engine->arena)->mailboxes[number];
    return ru_ring_count(&mailbox->lent[RU_BLOCK_LARGE]) > 0 ||
           (size < RU_SMALL_BLOCK && ru_ring_count(&mailbox->lent[RU_BLOCK_SMALL]) > 0);
}

/* The peer that the record stands behind, and what it asked for. */
static void worker_read(const struct life_worker *worker, const struct ru_record *record,
                        uint32_t *name, uint16_t *serial)
{
    const uint8_t *payload = ru_worker_data(worker->handle) + record->payload_at;
    const uint8_t *body = payload - (record->kind == RU_REQUEST_PLAIN ? RU_CHALLENGE_SIZE : 0);
    const uint8_t *header = body - RU_HEADER_LARGE;
    const uint8_t *echo = header + (record->encryption <= 2 ? 30 : 46);
    memcpy(name, header - RU_PEER_SIZE + 4, sizeof(*name)); /* sin_addr */
    *name = ntohl(*name); /* names that follow each other are of one network */
    *serial = (uint16_t)(echo[0] << 8 | echo[1]);
}

static uint32_t worker_reply_size(const struct life *life, uint32_t number,
                                  const struct ru_record *record)
{
    static const uint32_t sizes[] = {0, 6, 100, 260, 1400, 2000, 9000, 65000, 65500};
    uint32_t size = sizes[sim_below(sim_chance(96) ? 9 : 4)];
    /* Without a block at hand the worker waits for one, and everybody with it: seldom. */
    bool waits = sim_chance(record->transport == RU_UDP ? 240 : 4);
    return size <= 260 || worker_rooms(life, number, size + 64) || waits ? size : 0;
}

/* Open a request that the batch's opening has left. The status it is to be answered with. */
static uint8_t worker_open_one(struct life *life, struct life_worker *worker, uint32_t payload_at)
{
    const struct ru_record *record;
    int status = ru_worker_unseal_at(worker->handle, payload_at, life->view, &record);
    check(status <= 0 ||
              ru_worker_unseal_at(worker->handle, payload_at, life->view, &record) == status,
          "another refusal", payload_at);
    if (status == 0)
        return RU_STATUS_SUCCESS;
    return status > 0 ? (uint8_t)status : RU_STATUS_INTERNAL;
}

static void worker_check_secret(struct life *life, struct life_worker *worker, uint32_t at)
{
    bool failed = sim_chance(200);
    bool told = ru_worker_checked(worker->handle, at, failed);
    life->native.slow_wrong += failed && told;
}

static void worker_answer(struct life *life, uint32_t number)
{
    static uint8_t payload[RU_REPLY_MAX];
    struct life_worker *worker = &life->workers[number];
    const struct ru_record *record = &ru_worker_records(worker->handle)[worker->answered];
    uint32_t name, size = worker_reply_size(life, number, record), at = record->payload_at;
    uint16_t serial;
    uint8_t status = RU_STATUS_SUCCESS;
    if (record->kind == RU_REQUEST_SEALED)
        status = sim_chance(64) ? RU_STATUS_INTERNAL : worker_open_one(life, worker, at);
    if (record->command == LIFE_SLOW && ru_worker_may_check(worker->handle, at))
        worker_check_secret(life, worker, at);
    worker_read(worker, record, &name, &serial);
    for (uint32_t i = 0; i < size; i++)
        payload[i] = life_reply_byte(name, serial, i, size + RU_TERMINATOR_SIZE);
    worker->stale[worker->stale_count++ % LIFE_STALE_MAX] = record->token;
    worker->answered++;
    if (ru_worker_reply(worker->handle, 1, &status, &size, payload) != 0)
        sim_fail("a reply is refused", number);
    if (worker->answered == worker->count)
        worker->count = worker->answered = 0;
}

/* Open a batch at once or leave it to be opened one by one. What is left to answer. */
static uint32_t worker_open(struct life *life, struct life_worker *worker, uint32_t count)
{
    if (*ru_worker_sealed(worker->handle) == 0 || sim_chance(64))
        return count;
    int left = ru_worker_unseal(worker->handle, sim_chance(4) ? NULL : life->view);
    check(left < 0 || (uint32_t)left <= count, "opened", (uint64_t)left);
    check(left < 0 || *ru_worker_sealed(worker->handle) == 0, "not opened", count);
    return left < 0 ? count : (uint32_t)left;
}

static void worker_take(struct life *life, uint32_t number)
{
    struct life_worker *worker = &life->workers[number];
    struct ru_mailbox *mailbox = &ru_page_of(&life->engine->arena)->mailboxes[number];
    if (worker->asleep && !sim_futex_woken(&mailbox->sleeper.asleep) && !sim_chance(2))
        return;
    worker->asleep = false;
    int count = ru_worker_take(worker->handle, 0);
    if (count > 0)
        worker->count =
            worker->native ? (uint32_t)count : worker_open(life, worker, (uint32_t)count);
    if (count != 0)
        return;
    (void)sim_futex_woken(&mailbox->sleeper.asleep);
    ru_sleeper_announce(&mailbox->sleeper); /* as ru_worker_take() does when it has time */
    worker->asleep = ru_ring_count(&mailbox->in) == 0;
    if (!worker->asleep)
        ru_sleeper_cancel(&mailbox->sleeper);
}

/* As ru_worker_serve(), which waits for the next batch. */
static void worker_serve(struct life *life, struct life_worker *worker)
{
    const struct life_native before = life->native;
    const struct ru_record *records = ru_worker_records(worker->handle);
    uint32_t failed = 0;
    uint32_t told = 0;
    int result = ru_native_serve_batch(worker->handle, &failed);
    check((result == 0) == (failed == 0) && failed <= worker->count, "requests failed", failed);
    for (uint32_t i = 0; i < worker->count; i++)
        told += records[i].reply_status == RU_STATUS_FILESYSTEM;
    check(told == failed, "answered 194 and not told of, or not answered", told);
    check(life->native.failed_all > before.failed_all ||
              failed == life->native.failed_one - before.failed_one,
          "failed with another request", failed);
    worker->count = worker->answered = 0;
}

static void worker_act(struct life *life, uint32_t number)
{
    struct life_worker *worker = &life->workers[number];
    if (worker->count == 0)
        worker_take(life, number);
    else if (worker->dead || (worker->stuck && !life->draining))
        return;
    else if (worker->native)
        worker_serve(life, worker);
    else
        worker_answer(life, number);
    /* A mistake now and then; the loop does not look at those of a worker without work. */
    const struct ru_ring *out = &ru_page_of(&life->engine->arena)->mailboxes[number].out;
    if (worker->stale_count > 0 && ru_ring_count(out) < LIFE_STALE_MAX && sim_chance(8)) {
        uint32_t known =
            worker->stale_count < LIFE_STALE_MAX ? worker->stale_count : LIFE_STALE_MAX;
        ru_worker_return(worker->handle, worker->stale[sim_below(known)]);
    }
}

/* ---- the world ---- */

static void life_lap(void *self, bool sleeping)
{
    struct life *life = self;
    (void)sim_behind(sim_below(3) * BEHIND_NS);
    life_check(life, sleeping);
    if (life->engine->phase == RU_ENDING && !life->ending) {
        life->ending = true;
        life->orderly = life->engine->now_ns < life->engine->drain_at_ns;
    }
    if (++life->laps >= life->laps_max && !life->draining)
        life_end_soon(life);
    life_control_act(life);
    life_peers_act(life);
}

static void life_turn(void *self, bool sleeping)
{
    struct life *life = self;
    for (uint32_t i = 0; i < life->workers_count; i++)
        if (sim_chance(100)) {
            uint64_t before_ns = sim_behind(sim_below(3) * BEHIND_NS);
            worker_act(life, i);
            (void)sim_behind(before_ns);
        }
    if (life->engine->call.state == RU_CALL_DONE && sim_chance(128))
        life_control_act(life);
    if (!sleeping)
        return;
    life_check_awake(life, true);
    life_peers_act(life);
}

/* ---- one life ---- */

static uint32_t draw(uint32_t least, uint32_t most)
{
    return least + sim_below(most - least + 1);
}

static uint8_t seldom(void)
{
    return (uint8_t)(sim_chance(128) ? 0 : sim_below(40));
}

static struct sim_mood draw_mood(void)
{
    return (struct sim_mood){.late = (uint8_t)(seldom() * 4),
                             .ends = seldom(),
                             .fails = (uint8_t)(seldom() / 4),
                             .send_fails = seldom(),
                             .split = seldom(),
                             .queue_max = draw(1, sim_chance(64) ? 4 : 32),
                             .events_max = draw(1, sim_chance(64) ? 4 : 64),
                             .descriptors = draw(2, 24)};
}

/* So few that a life meets each of them. */
static struct ru_checks draw_checks(void)
{
    return (struct ru_checks){.burst = sim_chance(128) ? 0 : draw(1, 2),
                              .per_min = draw(1, 60),
                              .coin_per_s = draw(0, 2)};
}

static struct ru_config draw_config(void)
{
    struct ru_config config = {.backend = RU_BACKEND_URING,
                               .raida_id = 14,
                               .coin_id = 6,
                               .listeners_count = draw(1, SIM_LISTENERS_MAX),
                               .workers = draw(1, 3),
                               .slow_workers = draw(1, 2),
                               .writers = draw(0, 1),
                               .native_workers = draw(0, 2),
                               .native_writers = draw(0, 1),
                               .batch_max = draw(1, LIFE_BATCH_MAX),
                               .slow_queue_max = draw(1, 4),
                               .queue_age_max_ms = sim_chance(128) ? draw(1, 1000) : 0,
                               .shared_sockets = sim_chance(64),
                               .udp_contexts = draw(1, 8),
                               .udp_reserve = draw(1, 4),
                               .udp_payload_size = sim_chance(128) ? 512 : 1440,
                               .udp_reply_factor_max = life_draw_factor(),
                               .connections_max = draw(1, 12),
                               .body_bytes_max = sim_chance(200) ? 65536 : 1000,
                               .tcp_buffers = 1U << draw(0, 4),
                               .tcp_persistent = sim_chance(128),
                               .progress_timeout_ms = draw(10, 3000),
                               .header_timeout_ms = draw(10, 5000),
                               .body_timeout_ms = draw(10, 15000),
                               .write_timeout_ms = draw(10, 15000),
                               .idle_timeout_ms = draw(10, 30000),
                               .events_per_lap = draw(1, 40),
                               .wait_max_ms = draw(1, 10000),
                               .checks = draw_checks(),
                               .io_cpu = -1};
    uint32_t blocks_min = 2 * ru_config_workers(&config);
    config.small_blocks = blocks_min + sim_below(8);
    config.large_blocks = blocks_min + sim_below(4);
    for (uint32_t i = 0; i < config.listeners_count; i++)
        config.listeners[i] = sim_listener(i, sim_chance(128));
    return config;
}

static void life_begin(struct life *life, uint32_t steps)
{
    static const uint16_t natives[] = {LIFE_READ, LIFE_PUT, LIFE_GUESS};
    if (ru_engine_create(&life->config, &life->engine, NULL) != 0)
        sim_fail("the engine cannot be made", 0);
    sim_wake_descriptor(life->engine->wake_fd);
    (void)ru_engine_set_class(life->engine, LIFE_ECHO >> 8, LIFE_ECHO & 0xFF, RU_CLASS_ECHO);
    (void)ru_engine_set_class(life->engine, LIFE_WORKER >> 8, LIFE_WORKER & 0xFF,
                              RU_CLASS_ORDINARY);
    (void)ru_engine_set_class(life->engine, LIFE_WRITE >> 8, LIFE_WRITE & 0xFF,
                              life->config.writers > 0 ? RU_CLASS_WRITE : RU_CLASS_ORDINARY);
    (void)ru_engine_set_class(life->engine, LIFE_SLOW >> 8, LIFE_SLOW & 0xFF, RU_CLASS_SLOW);
    (void)ru_engine_guard(life->engine, LIFE_SLOW >> 8, LIFE_SLOW & 0xFF);
    for (uint32_t i = 0; i < 3; i++) /* a handler answers those that are not native */
        (void)ru_engine_set_class(life->engine, natives[i] >> 8, natives[i] & 0xFF,
                                  RU_CLASS_ORDINARY);
    life_commands_begin(life);
    if (ru_view_open(life_store(life), RU_VIEW_READS, &life->view) != 0 ||
        ru_view_begin(life->view) != 0)
        sim_fail("no view", 0);
    life_peers_begin(life);
    life->laps_max = steps;
    life->appetite = draw(8, 250);
    life->drain_ms = sim_chance(64) ? 0 : draw(1, 3000);
    life->workers_count = ru_config_workers(&life->config);
    for (uint32_t i = 0; i < life->workers_count; i++) {
        life->workers[i].stuck = sim_chance(32);
        life->workers[i].dead = sim_chance(16);
        life->workers[i].native = i >= life->engine->lanes[RU_LANE_NATIVE].first_worker;
        if (ru_worker_open(life->engine, i, &life->workers[i].handle) != 0)
            sim_fail("a worker cannot be opened", i);
    }
}

static void life_end(struct life *life)
{
    life_control_end(life);
    life_check_end(life);
    for (uint32_t i = 0; i < life->workers_count; i++)
        ru_worker_close(life->workers[i].handle);
    ru_view_close(life->view);
    ru_seal_destroy(life->seal);
    ru_engine_destroy(life->engine);
    life_peers_end(life);
    sim_finish();
}

static void live(uint64_t seed, uint32_t steps)
{
    struct life *life = calloc(1, sizeof(*life));
    if (!life)
        abort();
    running.seed = seed;
    running.life = life;
    sim_start(seed, &(struct sim_world){.lap = life_lap,
                                        .turn = life_turn,
                                        .datagram = life_take_datagram,
                                        .stream = life_take_stream,
                                        .closing = life_take_close,
                                        .passing = life_take_pass,
                                        .self = life});
    const struct sim_mood mood = draw_mood();
    sim_set_mood(&mood);
    life->config = draw_config();
    life_begin(life, steps);
    if (ru_engine_run(life->engine) != 0)
        sim_fail(ru_engine_fault(life->engine), life->laps);
    struct ru_counters counters;
    ru_engine_counters(life->engine, (uint64_t *)(void *)&counters);
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
        ((uint64_t *)(void *)&running.seen)[i] += ((const uint64_t *)(const void *)&counters)[i];
    const uint64_t *native = (const uint64_t *)(const void *)&life->native;
    for (uint32_t i = 0; i < sizeof(life->native) / sizeof(*native); i++)
        ((uint64_t *)(void *)&running.native)[i] += native[i];
    life_end(life);
    running.steps += life->laps;
    free(life);
}

/* On the way down: how to see it again. */
static void tell_seed(int signal_number)
{
    (void)signal_number;
    (void)dprintf(STDERR_FILENO, "sim: seed %llu, step %u; again: make fault SEED=%llu STEPS=%u\n",
                  (unsigned long long)running.seed, running.life->laps,
                  (unsigned long long)running.seed, running.life->laps_max);
}

/* A counter that no life has moved names a case that the simulation does not reach: how many. */
static int tell_unseen(void)
{
    int unseen = 0;
    running.seen.udp_in_flight = running.seen.tcp_in_flight = running.seen.connections_open = 1;
    running.seen.worker_lock_wait_ns = 1; /* simulated workers know no interpreter */
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
        if (((const uint64_t *)(const void *)&running.seen)[i] == 0) {
            printf("not seen: %s\n", ru_counters_row(i)->name);
            unseen++;
        }
    const uint64_t *native = (const uint64_t *)(const void *)&running.native;
    for (uint32_t i = 0; i < sizeof(running.native) / sizeof(*native); i++)
        if (native[i] == 0) {
            printf("not seen: number %u of struct life_native\n", i);
            unseen++;
        }
    return unseen;
}

static uint64_t argument(int count, char **arguments, int number, uint64_t otherwise)
{
    return count > number ? strtoull(arguments[number], NULL, 10) : otherwise;
}

int main(int count, char **arguments)
{
    uint64_t seed = argument(count, arguments, 1, 1);
    uint64_t lives = argument(count, arguments, 2, 1);
    uint32_t steps = (uint32_t)argument(count, arguments, 3, SIM_STEPS);
    struct sigaction once = {.sa_handler = tell_seed, .sa_flags = SA_RESETHAND};
    (void)sigaction(SIGABRT, &once, NULL);
    for (uint64_t i = 0; i < lives; i++)
        live(seed + i, steps);
    printf("seeds %llu to %llu: %llu steps, %llu datagrams, %llu connections, %llu requests\n",
           (unsigned long long)seed, (unsigned long long)(seed + lives - 1),
           (unsigned long long)running.steps, (unsigned long long)running.seen.udp_received,
           (unsigned long long)running.seen.connections_accepted,
           (unsigned long long)running.seen.tcp_requests);
    int unseen = tell_unseen();
    return lives >= SIM_LIVES_ENOUGH && unseen > 0;
}

/* A finding of the sanitizers is told with its seed, too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "abort_on_error=1";
}
