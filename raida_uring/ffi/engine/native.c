/* native.c: batches of requests that are answered without the interpreter. See native.h. */
#include "engine/native.h"

#include <errno.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/unseal.h"
#include "engine/worker.h"

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
        around += ru_seal_reply_size(entry->header, 1) - 1; /* none around an empty payload */
    return most > around ? (uint32_t)(most - around) : 0;
}

/* A secret in the request has been checked: whether its sender may be told, then and now. */
static bool native_told(struct ru_worker *worker, struct ru_worker_entry *entry,
                        const struct ru_record *record, uint8_t guess, bool failed)
{
    /* Anybody can make another RAIDA ask for a wrong ticket, by `fix`; but a datagram's sender may be
     * forged. */
    if (failed && guess == RU_STATUS_NO_TICKET_FOUND && record->transport == RU_TCP &&
        ru_raida_has(&worker->engine->raida, entry->header - RU_PEER_SIZE))
        return true;
    return ru_worker_told(worker, entry, failed);
}

/* Execute a command that the request fits, with its tickets. Returns 0, or the view's error. */
static int native_run(struct ru_worker *worker, struct ru_worker_entry *entry,
                      const struct ru_record *record, const struct ru_command *command,
                      struct ru_command_reply *reply)
{
    struct ru_ground *ground = worker->ground;
    const struct ru_command_ground on = {
        .view = ground->view, .facts = &ground->facts, .scratch = ground->scratch};
    const struct ru_command_request request = {
        .payload = worker->scratch + record->payload_at,
        .size = record->payload_size,
        .room = native_room(worker, entry, record),
        .shard = record->shard,
        .now_s = ru_clock_ns(CLOCK_REALTIME) / RU_SECOND_NS,
    };
    if (command->needs_statistics)
        ru_ground_statistics(worker->engine, ground->facts.statistics);
    int result = ru_command_execute(command, &on, &request, reply);
    RU_CHECK(result != 0 || reply->size == 0 || reply->payload != NULL);
    if (result == 0 && command->guess != 0) {
        struct ru_store *store = worker->engine->store;
        bool wrong = ru_command_guesses_wrong(command, store, &request, reply);
        if (!native_told(worker, entry, record, command->guess, wrong))
            return 0; /* the answer is replaced, and its ticket must stay unclaimed */
    }
    if (result == 0 && reply->effect.kind >= RU_EFFECT_ISSUE)
        result = ru_command_settle(worker->engine->store, &request, reply, ground->scratch);
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
    if (command->needs_store && !worker->ground->view) {
        reply->status = RU_STATUS_NOT_IMPLEMENTED;
        return 0;
    }
    if (command->guess != 0 && !ru_worker_ask_guard(worker, entry, ru_guard_peek))
        return 0; /* the answer is replaced */
    return native_run(worker, entry, record, command, reply);
}

/* Count what a request has done. */
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
    struct ru_ground *ground = worker->ground;
    while (worker->answered < worker->opened) {
        struct ru_worker_entry *entry = &worker->entries[worker->answered++];
        ru_seal_wipe(&entry->unsealed);
        ground->postponed[ground->postponed_count++] = entry->token;
    }
}

static const struct ru_command_reply native_failed = {.status = RU_STATUS_FILESYSTEM};

static int native_fail_rest(struct ru_worker *worker, int fault, uint32_t *failed)
{
    *failed += worker->opened - worker->answered;
    while (worker->answered < worker->opened)
        native_answer(worker, &native_failed);
    return fault;
}

/* Whether a failure is another request's, too: the next one would wait as long, or must not wait. */
static bool native_ends_batch(const struct ru_worker *worker, int fault)
{
    return fault == RU_STORE_BUSY || worker->ground->kind == RU_GROUND_LIGHT;
}

static int native_read_batch(struct ru_worker *worker, uint32_t *failed)
{
    struct ru_ground *ground = worker->ground;
    struct ru_command_reply reply;
    int fault = 0; /* of single requests */
    int result = worker->sealed > 0 ? ru_worker_unseal(worker, ground->keys) : 0;
    while (result >= 0 && worker->answered < worker->opened) {
        result = native_decide(worker, &worker->entries[worker->answered],
                               &worker->records[worker->answered], &reply);
        if (result < 0 && native_ends_batch(worker, result))
            break;
        if (result < 0) {
            reply = native_failed;
            fault = result;
            result = 0;
            ++*failed;
        }
        native_count(worker, &reply.effect); /* before its client can ask for it */
        native_answer(worker, &reply);
    }
    if (result >= 0)
        return fault;
    if (ground->kind != RU_GROUND_LIGHT)
        return native_fail_rest(worker, result, failed);
    native_postpone_rest(worker);
    return 0;
}

const uint64_t *ru_native_serve_light(struct ru_worker *worker, uint32_t *count)
{
    uint32_t failed = 0;
    RU_CHECK(worker->ground->kind == RU_GROUND_LIGHT);
    worker->ground->postponed_count = 0;
    while (ru_worker_fill(worker) > 0)
        (void)native_read_batch(worker, &failed);
    RU_CHECK(failed == 0 && worker->waiting == 0);
    ru_seal_forget(worker->seal); /* this worker never waits, where others forget their last key */
    *count = worker->ground->postponed_count;
    return worker->ground->postponed;
}

/* ---- a batch that changes coins ---- */

/* Keep a reply until the batch is durable. */
static void native_keep(struct ru_ground *ground, uint32_t i, const struct ru_command_reply *reply)
{
    struct ru_command_reply *kept = &ground->kept[i];
    RU_CHECK(reply->size <= RU_NATIVE_REPLY_MAX);
    *kept = *reply;
    kept->payload = ground->replies + (size_t)i * RU_NATIVE_REPLY_MAX;
    if (reply->size > 0)
        memcpy(ground->replies + (size_t)i * RU_NATIVE_REPLY_MAX, reply->payload, reply->size);
}

/* Execute one request of the batch. Its changes are taken back and not counted if it fails, or if its
 * client would not be told of them. Returns 0, or the view's error. */
static int native_execute(struct ru_worker *worker, uint32_t i)
{
    struct ru_ground *ground = worker->ground;
    struct ru_worker_entry *entry = &worker->entries[i];
    struct ru_record *record = &worker->records[i];
    struct ru_command_reply reply = native_failed;
    uint32_t mark = ru_view_mark(ground->view);
    int result = 0;
    if (record->kind == RU_REQUEST_SEALED)
        result = ru_unseal_entry(worker, i, ground->keys);
    if (result > 0)
        reply.status = (uint32_t)result;
    else if (result == 0)
        result = native_decide(worker, entry, record, &reply);
    if (result < 0)
        reply = native_failed;
    bool told = result == 0 && entry->limited == RU_GUARD_NONE &&
                reply.size <= native_room(worker, entry, record);
    if (reply.size > RU_NATIVE_REPLY_MAX) {
        reply = (struct ru_command_reply){.status = RU_STATUS_INTERNAL};
        told = false;
    }
    if (!told) {
        ru_view_undo(ground->view, mark);
        reply.effect = (struct ru_effect){.kind = RU_EFFECT_NONE};
    }
    native_keep(ground, i, &reply);
    return result < 0 ? result : 0;
}

static int native_write_batch(struct ru_worker *worker, uint32_t *failed)
{
    struct ru_ground *ground = worker->ground;
    int fault = 0;            /* of single requests */
    uint32_t failed_ones = 0; /* ... how many */
    int result = ru_view_begin(ground->view);
    for (uint32_t i = 0; result == 0 && i < worker->opened; i++) {
        const int of_one = native_execute(worker, i);
        fault = of_one != 0 ? of_one : fault;
        failed_ones += of_one != 0;
    }
    if (result == 0 && ru_view_mark(ground->view) > 0)
        result = ru_store_require(worker->engine->store);
    if (result == 0)
        result = ru_view_commit(ground->view);
    ru_view_end(ground->view); /* after a failure: drop the changes */
    if (result != 0)
        return native_fail_rest(worker, result, failed);
    *failed += failed_ones;
    while (worker->answered < worker->opened) {
        const struct ru_command_reply *reply = &ground->kept[worker->answered];
        native_count(worker, &reply->effect);
        native_answer(worker, reply);
    }
    return fault;
}

/* ---- the thread ---- */

int ru_native_serve_batch(struct ru_worker *worker, uint32_t *failed)
{
    RU_CHECK(worker->ground != NULL && worker->ground->kind != RU_GROUND_LIGHT);
    *failed = 0;
    const bool writes = worker->ground->kind == RU_GROUND_WRITES;
    int result = writes ? native_write_batch(worker, failed) : native_read_batch(worker, failed);
    ru_worker_wake_loop(worker);
    return result;
}

int ru_worker_serve(struct ru_worker *worker, uint32_t patience_ms, uint32_t *failed)
{
    const uint64_t end_ns = ru_now_ns() + ru_clock_ms_to_ns(patience_ms);
    *failed = 0;
    RU_CHECK(worker->ground != NULL);
    for (;;) {
        int count = ru_worker_take(worker, patience_ms);
        if (count == -ESHUTDOWN)
            return 0;
        if (count <= 0)
            return 1;
        int result = ru_native_serve_batch(worker, failed);
        if (result != 0)
            return result;
        if (ru_now_ns() >= end_ns)
            return 1;
    }
}
