/* native.c: batches of requests that are answered without the interpreter. See native.h. */
#include "engine/native.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "engine/worker.h"

/* ---- the engine's side ---- */

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

void ru_engine_statistics(struct ru_engine *engine, uint64_t *values)
{
    struct ru_counters counters;
    ru_engine_counters(engine, (uint64_t *)(void *)&counters);
    values[RU_STATISTIC_ECHOES] = counters.echoes + counters.echoes_worked;
    values[RU_STATISTIC_COINS] = counters.coins_powned;
    values[RU_STATISTIC_VALUE] = counters.value_powned;
    values[RU_STATISTIC_DATAGRAMS] = counters.udp_received;
    for (uint32_t i = 0; i < RU_STATISTICS; i++)
        values[i] += __atomic_load_n(&engine->carried[i], __ATOMIC_RELAXED);
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

enum ru_lane_number ru_native_choose(const struct ru_engine *engine, uint32_t context,
                                     enum ru_lane_number lane)
{
    const struct ru_context *described = ru_arena_context(&engine->arena, context);
    const uint8_t *header = engine->arena.base + described->header_at;
    const struct ru_command *row = engine->natives[ru_header_command(header)];
    if (!row)
        return lane;
    if (row->writes && engine->store)
        return RU_LANE_NATIVE_WRITE;
    const struct ru_lane *light = &engine->lanes[RU_LANE_LIGHT];
    bool is_light = row->light_max > 0 &&
                    described->body_size <= row->light_max + RU_SEALED_BODY_MIN &&
                    light->count < light->queue_max;
    return is_light ? RU_LANE_LIGHT : RU_LANE_NATIVE;
}

/* ---- life ---- */

static bool native_kind(const struct ru_engine *engine, uint32_t index, enum ru_native_kind *kind)
{
    const struct ru_lane *lanes = engine->lanes;
    if (index < lanes[RU_LANE_NATIVE].first_worker)
        return false;
    *kind = RU_NATIVE_READS;
    if (index >= lanes[RU_LANE_NATIVE_WRITE].first_worker)
        *kind = RU_NATIVE_WRITES;
    if (index >= lanes[RU_LANE_LIGHT].first_worker)
        *kind = RU_NATIVE_LIGHT;
    return true;
}

static int native_open_views(struct ru_engine *engine, struct ru_native *native)
{
    static const enum ru_view_kind views[] = {
        [RU_NATIVE_READS] = RU_VIEW_READS,
        [RU_NATIVE_WRITES] = RU_VIEW_WRITES,
        [RU_NATIVE_LIGHT] = RU_VIEW_GLANCES,
    };
    int result = 0;
    if (engine->store)
        result = ru_view_open(engine->store, views[native->kind], &native->view);
    native->keys = native->view;
    if (result == 0 && engine->keys)
        result = ru_view_open(engine->keys,
                              native->kind == RU_NATIVE_LIGHT ? RU_VIEW_GLANCES : RU_VIEW_READS,
                              &native->keys);
    /* A reading view sees the newest state in each call, so it can begin once for all. */
    if (result == 0 && native->keys && native->keys != native->view)
        result = ru_view_begin(native->keys);
    if (result == 0 && native->view && native->kind != RU_NATIVE_WRITES)
        result = ru_view_begin(native->view);
    return result;
}

int ru_native_open(struct ru_engine *engine, uint32_t index, struct ru_native **native)
{
    enum ru_native_kind kind;
    *native = NULL;
    if (!native_kind(engine, index, &kind))
        return 0;
    const size_t size = sizeof(struct ru_native) + RU_COMMAND_SCRATCH;
    struct ru_native *made =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(made, size, MADV_DONTDUMP); /* keys and ANs: no core file has them */
    made->kind = kind;
    made->facts = engine->facts;
    made->scratch = (uint8_t *)(made + 1);
    int result = native_open_views(engine, made);
    if (result != 0) {
        ru_native_close(made);
        return result;
    }
    *native = made;
    return 0;
}

void ru_native_close(struct ru_native *native)
{
    if (!native)
        return;
    if (native->keys != native->view)
        ru_view_close(native->keys);
    ru_view_close(native->view);
    (void)munmap(native, sizeof(*native) + RU_COMMAND_SCRATCH);
}

/* ---- one request ---- */

/* Bytes of payload that a reply may have, or ru_worker_answer() refuses it. */
static uint32_t native_room(const struct ru_worker *worker, const struct ru_worker_entry *entry,
                            const struct ru_record *record)
{
    uint64_t most = record->transport == RU_UDP ? RU_UDP_PAYLOAD_MAX : RU_REPLY_MAX;
    if (record->transport == RU_UDP && worker->reply_factor > 0)
        most = ru_number_min64(most, (uint64_t)worker->reply_factor * record->request_size);
    uint64_t around = ru_header_size(entry->header) + RU_TERMINATOR_SIZE;
    if (entry->encrypted)
        around += ru_seal_reply_size(entry->header, 0);
    return most > around ? (uint32_t)(most - around) : 0;
}

/* A secret in the request has been checked: its sender may be no longer told, then or now. */
static void native_checked(struct ru_worker *worker, struct ru_worker_entry *entry,
                           const struct ru_record *record, bool failed)
{
    /* A datagram's sender may be forged. */
    if (failed && record->transport == RU_TCP &&
        ru_raida_has(&worker->engine->raida, entry->header - RU_PEER_SIZE))
        return;
    (void)ru_worker_told(worker, entry, failed);
}

/* Execute a command that the request fits, with its tickets. Returns 0, or the view's error. */
static int native_run(struct ru_worker *worker, struct ru_worker_entry *entry,
                      const struct ru_record *record, const struct ru_command *command,
                      struct ru_command_reply *reply)
{
    struct ru_native *native = worker->native;
    const struct ru_command_ground ground = {
        .view = native->view, .facts = &native->facts, .scratch = native->scratch};
    const struct ru_command_request request = {
        .payload = worker->scratch + record->payload_at,
        .size = record->payload_size,
        .room = native_room(worker, entry, record),
        .shard = record->shard,
        .now_s = ru_clock_ns(CLOCK_REALTIME) / RU_SECOND_NS,
    };
    if (command->needs_statistics)
        ru_engine_statistics(worker->engine, native->facts.statistics);
    int result = ru_command_execute(command, &ground, &request, reply);
    RU_CHECK(result != 0 || reply->size == 0 || reply->payload != NULL);
    if (result == 0 && reply->effect.kind >= RU_EFFECT_ISSUE)
        result = ru_command_settle(worker->engine->store, &request, reply, native->scratch);
    return result;
}

/* Decide on a request and execute it. Returns 0 with its reply, or the view's error. */
static int native_decide(struct ru_worker *worker, struct ru_worker_entry *entry,
                         const struct ru_record *record, struct ru_command_reply *reply)
{
    const struct ru_command *command = worker->engine->natives[record->command];
    *reply = (struct ru_command_reply){.status = RU_STATUS_SUCCESS};
    RU_CHECK(command != NULL);
    if (record->kind == RU_REQUEST_BARE && command->needs_body) {
        reply->status = RU_STATUS_EMPTY_REQUEST;
        return 0;
    }
    if (command->needs_store && !worker->native->view) {
        reply->status = RU_STATUS_NOT_IMPLEMENTED;
        return 0;
    }
    if (command->guess == 0)
        return native_run(worker, entry, record, command, reply);
    if (!ru_worker_ask_guard(worker, entry, ru_guard_peek))
        return 0; /* the answer is replaced */
    int result = native_run(worker, entry, record, command, reply);
    if (result == 0)
        native_checked(worker, entry, record, reply->status == command->guess);
    return result;
}

/* Count what an answered request has done. */
static void native_count(struct ru_worker *worker, const struct ru_effect *effect)
{
    struct ru_worker_counters *counters = &worker->mailbox->counters;
    if (effect->kind == RU_EFFECT_ECHO)
        ru_worker_raise(&counters->echoes_worked, 1);
    if (effect->kind == RU_EFFECT_POWNED) {
        ru_worker_raise(&counters->coins_powned, effect->coins);
        ru_worker_raise(&counters->value_powned, effect->value);
    }
}

static void native_answer(struct ru_worker *worker, const struct ru_command_reply *reply)
{
    struct ru_record *record = &worker->records[worker->answered];
    struct ru_worker_entry *entry = &worker->entries[worker->answered++];
    const struct ru_worker_answer answer = {(uint8_t)reply->status, reply->payload, reply->size};
    RU_CHECK(worker->answered <= worker->opened);
    uint64_t now_ns = ru_now_ns();
    ru_worker_spent(worker, now_ns);
    ru_worker_answer(worker, entry, answer, now_ns, record);
}

/* ---- a batch that changes nothing ---- */

/* The rest of a light batch goes where it may wait. */
static void native_postpone_rest(struct ru_worker *worker)
{
    struct ru_native *native = worker->native;
    while (worker->answered < worker->opened) {
        struct ru_worker_entry *entry = &worker->entries[worker->answered++];
        ru_seal_wipe(&entry->unsealed);
        native->postponed[native->postponed_count++] = entry->token;
    }
}

static int native_fail(struct ru_worker *worker, int fault, uint32_t *failed)
{
    const struct ru_command_reply reply = {.status = RU_STATUS_FILESYSTEM};
    *failed += worker->opened - worker->answered;
    while (worker->answered < worker->opened)
        native_answer(worker, &reply);
    return fault;
}

static int native_read_batch(struct ru_worker *worker, uint32_t *failed)
{
    struct ru_native *native = worker->native;
    struct ru_command_reply reply;
    int result = worker->sealed > 0 ? ru_worker_unseal(worker, native->keys) : 0;
    while (result >= 0 && worker->answered < worker->opened) {
        result = native_decide(worker, &worker->entries[worker->answered],
                               &worker->records[worker->answered], &reply);
        if (result != 0)
            break;
        native_answer(worker, &reply);
        native_count(worker, &reply.effect);
    }
    if (result >= 0)
        return 0;
    if (native->kind != RU_NATIVE_LIGHT)
        return native_fail(worker, result, failed);
    native_postpone_rest(worker);
    return 0;
}

const uint64_t *ru_native_serve_light(struct ru_worker *worker, uint32_t *count)
{
    uint32_t failed = 0;
    RU_CHECK(worker->native->kind == RU_NATIVE_LIGHT);
    worker->native->postponed_count = 0;
    while (ru_worker_fill(worker) > 0)
        (void)native_read_batch(worker, &failed);
    RU_CHECK(failed == 0 && worker->waiting == 0);
    *count = worker->native->postponed_count;
    return worker->native->postponed;
}

/* ---- a batch that changes coins ---- */

/* Keep a reply until the batch is durable; false if it is longer than any such reply. */
static bool native_keep(struct ru_native *native, uint32_t i, const struct ru_command_reply *reply)
{
    struct ru_command_reply *kept = &native->kept[i];
    *kept = *reply;
    if (reply->size > RU_NATIVE_REPLY_MAX)
        return false;
    kept->payload = native->replies + (size_t)i * RU_NATIVE_REPLY_MAX;
    if (reply->size > 0)
        memcpy(native->replies + (size_t)i * RU_NATIVE_REPLY_MAX, reply->payload, reply->size);
    return true;
}

/* Execute one request of the batch. Its changes are taken back if it fails, or if its client would
 * not be told of them. */
static void native_execute(struct ru_worker *worker, uint32_t i)
{
    struct ru_native *native = worker->native;
    struct ru_worker_entry *entry = &worker->entries[i];
    struct ru_record *record = &worker->records[i];
    struct ru_command_reply reply = {.status = RU_STATUS_FILESYSTEM};
    uint32_t mark = ru_view_mark(native->view);
    int result = 0;
    if (record->kind == RU_REQUEST_SEALED)
        result = ru_worker_unseal_entry(worker, i, native->keys);
    if (result > 0)
        reply.status = (uint32_t)result;
    else if (result == 0)
        result = native_decide(worker, entry, record, &reply);
    if (result < 0)
        reply = (struct ru_command_reply){.status = RU_STATUS_FILESYSTEM};
    if (result != 0 || entry->limited != RU_GUARD_NONE ||
        reply.size > native_room(worker, entry, record))
        ru_view_undo(native->view, mark);
    if (!native_keep(native, i, &reply)) {
        ru_view_undo(native->view, mark);
        native->kept[i] = (struct ru_command_reply){.status = RU_STATUS_INTERNAL};
    }
}

static int native_write_batch(struct ru_worker *worker, uint32_t *failed)
{
    struct ru_native *native = worker->native;
    int result = ru_view_begin(native->view);
    for (uint32_t i = 0; result == 0 && i < worker->opened; i++)
        native_execute(worker, i);
    if (result == 0 && ru_view_mark(native->view) > 0)
        result = ru_store_require(worker->engine->store);
    if (result == 0)
        result = ru_view_commit(native->view);
    ru_view_end(native->view); /* after a failure: drop the changes */
    if (result != 0)
        return native_fail(worker, result, failed);
    while (worker->answered < worker->opened) {
        const struct ru_command_reply *reply = &native->kept[worker->answered];
        native_answer(worker, reply);
        native_count(worker, &reply->effect);
    }
    return 0;
}

/* ---- the thread ---- */

int ru_worker_serve(struct ru_worker *worker, uint32_t *failed)
{
    *failed = 0;
    RU_CHECK(worker->native != NULL);
    const bool writes = worker->native->kind == RU_NATIVE_WRITES;
    for (;;) {
        int count = ru_worker_take(worker, RU_NATIVE_PATIENCE_MS);
        if (count == -ESHUTDOWN)
            return 0;
        if (count <= 0)
            continue;
        int result =
            writes ? native_write_batch(worker, failed) : native_read_batch(worker, failed);
        ru_worker_wake_loop(worker);
        if (result != 0)
            return result;
    }
}
