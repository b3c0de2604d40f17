/* worker.c: a worker's half: take a batch, open it, answer it.
 *
 * Runs on the worker's own thread without the interpreter lock. Requests are copied out of their
 * contexts before they are looked at, so neither a late datagram nor a handler that keeps its
 * payload can see another request's bytes. What does not need a handler is answered here.
 */
#include "engine/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void worker_check(const struct ru_worker *worker)
{
    RU_CHECK(worker->answered <= worker->opened && worker->opened <= RU_BATCH_MAX);
    RU_CHECK(worker->used <= RU_SCRATCH_SIZE);
    RU_CHECK(worker->sealed <= worker->opened && worker->keys_count <= RU_WORKER_KEYS_MAX);
}

/* ---- life ---- */

/* Name this thread, and have the loop read its clock. */
static void worker_name(struct ru_engine *engine, uint32_t index)
{
    char name[24]; /* the kernel takes 15 characters */
    (void)snprintf(name, sizeof(name), "raida-work-%u", index);
    (void)pthread_setname_np(pthread_self(), name);
    clockid_t clock;
    if (pthread_getcpuclockid(pthread_self(), &clock) == 0)
        __atomic_store_n(&engine->workers[index].clock, clock, __ATOMIC_RELAXED);
}

int ru_worker_open(struct ru_engine *engine, uint32_t index, struct ru_worker **worker)
{
    *worker = NULL;
    if (index >= ru_config_mailboxes(&engine->config))
        return -EINVAL;
    struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, index);
    if (__atomic_exchange_n(&mailbox->open, 1, __ATOMIC_ACQ_REL))
        return -EBUSY;
    RU_CHECK(mailbox->in.mask >= RU_BATCH_MAX - 1);
    struct ru_ground *ground = NULL;
    int result = ru_ground_open(engine, index, &ground);
    struct ru_seal *seal = ru_seal_create(engine->seals);
    struct ru_worker *made =
        mmap(NULL, sizeof(*made), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (result != 0 || !seal || made == MAP_FAILED) {
        ru_ground_close(ground);
        ru_seal_destroy(seal);
        if (made != MAP_FAILED)
            (void)munmap(made, sizeof(*made));
        __atomic_store_n(&mailbox->open, 0, __ATOMIC_RELEASE);
        return result != 0 ? result : -ENOMEM;
    }
    (void)madvise(made, sizeof(*made), MADV_DONTDUMP); /* opened requests: no core file has them */
    if (!ground || ground->kind != RU_GROUND_LIGHT)
        worker_name(engine, index);
    made->engine = engine;
    made->mailbox = mailbox;
    made->ground = ground;
    made->tallies = engine->tallies + (size_t)index * RU_COMMANDS_COUNT;
    made->tap = &engine->taps.each[index];
    made->seal = seal;
    *worker = made;
    return 0;
}

void ru_worker_raise(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

/* ---- replies ---- */

void ru_worker_wake_loop(struct ru_worker *worker)
{
    if (ru_sleeper_claim(&ru_page_of(&worker->engine->arena)->loop_sleeper))
        ru_engine_ring(worker->engine);
}

static uint32_t worker_pop_block(struct ru_worker *worker, enum ru_block_class size_class)
{
    const struct ru_arena *arena = &worker->engine->arena;
    uint64_t block;
    if (!ru_ring_pop(&worker->mailbox->lent[size_class], arena->base, &block))
        return RU_NONE;
    RU_CHECK((block < arena->small_blocks) == (size_class == RU_BLOCK_SMALL));
    return (uint32_t)block;
}

static bool worker_block_at_hand(const struct ru_worker *worker, uint32_t size)
{
    const struct ru_mailbox *mailbox = worker->mailbox;
    return ru_ring_count(&mailbox->lent[RU_BLOCK_LARGE]) > 0 ||
           (size <= RU_SMALL_BLOCK && ru_ring_count(&mailbox->lent[RU_BLOCK_SMALL]) > 0);
}

static bool worker_must_not_wait(const struct ru_worker *worker)
{
    return worker->ground && worker->ground->kind == RU_GROUND_LIGHT;
}

/* A block for `size` bytes, of those that the loop lent in advance. If none is left, wait a little:
 * the loop replaces the ones just used. Wait less for a datagram, whose sender does not wait long.
 * RU_NONE: in vain, and the rest of the batch waits, too. */
static uint32_t worker_acquire_block(struct ru_worker *worker, uint32_t size, bool datagram)
{
    uint64_t end_ns = ru_now_ns() + (datagram ? RU_LEND_UDP_NS : RU_LEND_TCP_NS);
    for (;;) {
        uint32_t block =
            size <= RU_SMALL_BLOCK ? worker_pop_block(worker, RU_BLOCK_SMALL) : RU_NONE;
        if (block == RU_NONE)
            block = worker_pop_block(worker, RU_BLOCK_LARGE);
        if (block != RU_NONE || worker_must_not_wait(worker) || ru_now_ns() >= end_ns ||
            __atomic_load_n(&worker->mailbox->closed, __ATOMIC_ACQUIRE))
            return block;
        ru_worker_wake_loop(worker);
        ru_sleeper_announce(&worker->mailbox->sleeper);
        if (worker_block_at_hand(worker, size))
            ru_sleeper_cancel(&worker->mailbox->sleeper);
        else
            ru_sleeper_wait(&worker->mailbox->sleeper, RU_LEND_WAIT_MS);
    }
}

/* Where a reply of `size` bytes goes; NULL when there is no room for it. */
static uint8_t *worker_place_reply(struct ru_worker *worker, const struct ru_context *context,
                                   uint32_t size, uint32_t *block)
{
    const struct ru_arena *arena = &worker->engine->arena;
    RU_CHECK(size >= RU_HEADER_SMALL && size <= RU_REPLY_MAX);
    *block = RU_NONE;
    if (size <= context->inline_size)
        return arena->base + context->inline_at;
    *block = context->body_block;
    if (*block == RU_NONE || size > ru_arena_block_size(arena, *block))
        *block = worker_acquire_block(worker, size, context->transport == RU_UDP);
    RU_CHECK(*block == RU_NONE || size <= ru_arena_block_size(arena, *block));
    return *block == RU_NONE ? NULL : arena->base + ru_arena_block_at(arena, *block);
}

/* Apply the limits on replies: may turn `answer` into a bare status. Returns the whole reply's
 * size. */
static uint32_t worker_limit(struct ru_worker *worker, const struct ru_worker_entry *entry,
                             const struct ru_context *context, struct ru_worker_answer *answer)
{
    uint32_t header_size = ru_header_size(entry->header);
    uint32_t factor = worker->reply_factor;
    uint32_t most = context->transport == RU_UDP ? RU_UDP_PAYLOAD_MAX : RU_REPLY_MAX;
    uint64_t body = answer->size; /* a caller's: not a size that ru_seal_reply_size() knows yet */
    if (entry->encrypted && body <= most)
        body = ru_seal_reply_size(entry->header, answer->size);
    uint64_t size = header_size + (body > 0 ? body + RU_TERMINATOR_SIZE : 0);
    uint8_t refusal = 0;
    if (size > most) {
        refusal = RU_STATUS_INTERNAL;
        ru_worker_raise(&worker->mailbox->counters.refused_sizes, 1);
    } else if (context->transport == RU_UDP && factor > 0 && body > 0 &&
               size > (uint64_t)factor * context->request_size) {
        refusal = RU_STATUS_NOT_IMPLEMENTED; /* ask again over TCP */
        ru_worker_raise(&worker->mailbox->counters.refused_factors, 1);
    }
    if (refusal == 0)
        return (uint32_t)size;
    *answer = (struct ru_worker_answer){.status = refusal};
    return header_size;
}

/* Write payload and terminator of a reply; returns their size. 0, and a status in place of the
 * answer, if the payload cannot be sealed. */
static uint32_t worker_write_body(struct ru_worker *worker, const struct ru_worker_entry *entry,
                                  struct ru_worker_answer *answer, const uint8_t *nonce,
                                  uint8_t *out)
{
    uint32_t size = answer->size;
    if (size == 0)
        return 0;
    memcpy(out, answer->payload, size);
    if (entry->encrypted) {
        if (ru_seal_reply(worker->seal, entry->header, &entry->unsealed, nonce, out, size) != 0) {
            *answer = (struct ru_worker_answer){.status = RU_STATUS_INTERNAL};
            return 0;
        }
        size = ru_seal_reply_size(entry->header, size);
    }
    memset(out + size, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
    return size + RU_TERMINATOR_SIZE;
}

/* Write a reply; returns its size. */
static uint32_t worker_write(struct ru_worker *worker, const struct ru_worker_entry *entry,
                             struct ru_worker_answer *answer, uint32_t execution_us, uint8_t *out)
{
    uint8_t nonce[RU_REPLY_NONCE_SIZE] = {0};
    uint32_t header_size = ru_header_size(entry->header);
    if (header_size == RU_HEADER_LARGE)
        ru_seal_draw_nonce(worker->seal, entry->header, nonce);
    uint32_t body_size = worker_write_body(worker, entry, answer, nonce, out + header_size);
    const struct ru_reply reply = {
        .raida_id = (uint8_t)worker->engine->config.raida_id,
        .status = answer->status,
        .scope = RU_SCOPE_ALL,
        .execution_us = execution_us,
        .body_size = body_size,
        .request = entry->header,
        .challenge = entry->unsealed.proved ? entry->unsealed.challenge : entry->challenge,
        .nonce = nonce,
    };
    RU_CHECK(ru_reply_header_write(&reply, out) == header_size);
    return header_size + body_size;
}

/* What an entry may be told at most. */
static struct ru_worker_answer worker_allow(struct ru_worker_entry *entry,
                                            struct ru_worker_answer answer)
{
    if (entry->limited != RU_GUARD_NONE) {
        ru_seal_wipe(&entry->unsealed); /* its challenge field would reveal a check's result */
        return (struct ru_worker_answer){.status = RU_STATUS_REQUEST_RATE};
    }
    if (entry->encrypted && !entry->unsealed.proved)
        answer.size = 0; /* a bare status, whoever has decided on it */
    return answer;
}

void ru_worker_answer(struct ru_worker *worker, struct ru_worker_entry *entry,
                      struct ru_worker_answer answer, uint64_t now_ns, struct ru_record *record)
{
    const struct ru_arena *arena = &worker->engine->arena;
    struct ru_context *context = ru_arena_context(arena, ru_token_index(entry->token));
    answer = worker_allow(entry, answer);
    uint32_t size = worker_limit(worker, entry, context, &answer);
    uint32_t block;
    uint8_t *out = worker_place_reply(worker, context, size, &block);
    if (!out && context->transport == RU_TCP) { /* a bare status always fits */
        answer = (struct ru_worker_answer){.status = RU_STATUS_MEMORY};
        size = ru_header_size(entry->header);
        out = worker_place_reply(worker, context, size, &block);
    }
    if (entry->limited != RU_GUARD_NONE && context->transport == RU_UDP)
        out = NULL; /* no reply: the sender's address may be forged */
    RU_CHECK(context->arrival_ns <= context->complete_ns);
    if (now_ns < context->complete_ns) /* the loop's processor is a little ahead */
        now_ns = context->complete_ns;
    uint32_t execution_us = (uint32_t)((now_ns - context->arrival_ns) / 1000);
    if (out) {
        uint32_t written = worker_write(worker, entry, &answer, execution_us, out);
        RU_CHECK(written <= size);
        size = written;
        /* Not from the first byte: how slowly a client sends is no property of the command. */
        ru_tally_count(worker->tallies, ru_header_command(entry->header), answer.status,
                       now_ns - context->complete_ns);
    }
    if (entry->encrypted)
        ru_seal_wipe(&entry->unsealed);
    context->limited = entry->limited;
    context->reply_block = block;
    context->reply_size = out ? size : 0;
    if (record) { /* the context is the loop's once it has gone back */
        record->reply_size = context->reply_size;
        record->reply_us = execution_us;
        record->reply_status = answer.status;
        ru_tap_note(worker->tap, entry->header - RU_PEER_SIZE, record);
    }
    ru_ring_push(&worker->mailbox->out, arena->base, entry->token);
}

void ru_worker_spent(struct ru_worker *worker, uint64_t now_ns)
{
    RU_CHECK(worker->since_ns != 0);
    uint64_t *busy_ns = &worker->mailbox->busy_ns;
    uint64_t spent_ns = ru_clock_between(worker->since_ns, now_ns);
    __atomic_store_n(busy_ns, *busy_ns + spent_ns, __ATOMIC_RELAXED);
    worker->since_ns = now_ns;
}

int ru_worker_reply(struct ru_worker *worker, uint32_t count, const uint8_t *statuses,
                    const uint32_t *sizes, const uint8_t *payload)
{
    worker_check(worker);
    if (count > worker->opened - worker->answered)
        return -EINVAL;
    uint64_t now_ns = ru_now_ns();
    ru_worker_spent(worker, now_ns);
    for (uint32_t i = 0; i < count; i++) {
        struct ru_record *record = &worker->records[worker->answered];
        struct ru_worker_entry *entry = &worker->entries[worker->answered++];
        const struct ru_worker_answer answer = {statuses[i], payload, sizes[i]};
        ru_worker_answer(worker, entry, answer, now_ns, record);
        payload += sizes[i];
    }
    ru_worker_wake_loop(worker);
    return 0;
}

/* ---- checks of secrets ---- */

/* The search starts at the latest one found, since requests are checked in order. A payload may
 * begin with its body or behind the challenge. */
struct ru_worker_entry *ru_worker_entry_at(struct ru_worker *worker, uint32_t payload_at)
{
    for (uint32_t left = worker->opened; left > 0; left--) {
        if (worker->looked >= worker->opened)
            worker->looked = 0;
        struct ru_worker_entry *entry = &worker->entries[worker->looked];
        uint32_t body_at = (uint32_t)(entry->header + RU_HEADER_LARGE - worker->scratch);
        if (payload_at >= body_at && payload_at - body_at <= RU_CHALLENGE_SIZE)
            return entry;
        worker->looked++;
    }
    return NULL;
}

bool ru_worker_ask_guard(struct ru_worker *worker, struct ru_worker_entry *entry,
                         ru_worker_ask *ask)
{
    const struct ru_context *context =
        ru_arena_context(&worker->engine->arena, ru_token_index(entry->token));
    if (ask == ru_guard_peek && worker_must_not_wait(worker))
        ask = ru_guard_look; /* the loop's own, without the lock */
    if (entry->limited == RU_GUARD_NONE)
        entry->limited = (uint8_t)ask(&worker->engine->guard, entry->header - RU_PEER_SIZE,
                                      entry->header, context->transport, ru_now_ns());
    return entry->limited == RU_GUARD_NONE;
}

bool ru_worker_told(struct ru_worker *worker, struct ru_worker_entry *entry, bool failed)
{
    bool told = ru_worker_ask_guard(worker, entry, failed ? ru_guard_fail : ru_guard_peek);
    if (told && failed)
        ru_worker_raise(&worker->mailbox->counters.checks_failed, 1);
    return told;
}

int ru_worker_may_check(struct ru_worker *worker, uint32_t payload_at)
{
    struct ru_worker_entry *entry = ru_worker_entry_at(worker, payload_at);
    RU_CHECK(entry != NULL);
    return ru_worker_ask_guard(worker, entry, ru_guard_peek);
}

int ru_worker_checked(struct ru_worker *worker, uint32_t payload_at, uint32_t failed)
{
    struct ru_worker_entry *entry = ru_worker_entry_at(worker, payload_at);
    RU_CHECK(entry != NULL);
    return ru_worker_told(worker, entry, failed != 0);
}

void ru_worker_return(struct ru_worker *worker, uint64_t token)
{
    ru_ring_push(&worker->mailbox->out, worker->engine->arena.base, token);
    ru_worker_wake_loop(worker);
}

/* ---- requests ---- */

/* Note which key coins an encrypted request names: they are looked up for the whole batch. */
static void worker_add_keys(struct ru_worker *worker, struct ru_worker_entry *entry)
{
    const uint8_t *names[RU_SEAL_COINS_MAX];
    entry->key_at = (uint16_t)worker->keys_count;
    entry->keys_count = (uint8_t)ru_seal_coins(entry->header, names);
    RU_CHECK(worker->keys_count + entry->keys_count <= RU_WORKER_KEYS_MAX);
    for (uint32_t i = 0; i < entry->keys_count; i++, worker->keys_count++)
        memcpy(worker->key_names + (size_t)worker->keys_count * RU_COIN_NAME_SIZE, names[i],
               RU_COIN_NAME_SIZE);
}

static void worker_record(struct ru_worker *worker, struct ru_worker_entry *entry,
                          const struct ru_context *context, const uint8_t *body)
{
    RU_CHECK(worker->opened < RU_BATCH_MAX && context->body_present <= context->body_size);
    struct ru_record *record = &worker->records[worker->opened];
    uint32_t payload_at = (uint32_t)(body - worker->scratch);
    uint32_t payload_size = context->body_present;
    enum ru_request_kind kind = RU_REQUEST_SEALED;
    if (!entry->encrypted)
        kind = context->body_size > 0 ? RU_REQUEST_PLAIN : RU_REQUEST_BARE;
    if (kind == RU_REQUEST_PLAIN) { /* its body has been checked */
        RU_CHECK(payload_size >= RU_PLAIN_BODY_MIN);
        payload_at += RU_CHALLENGE_SIZE;
        payload_size -= RU_PLAIN_BODY_MIN;
    }
    if (kind == RU_REQUEST_SEALED) {
        worker_add_keys(worker, entry);
        worker->sealed++;
    }
    *record = (struct ru_record){
        .token = entry->token,
        .payload_at = payload_at,
        .payload_size = payload_size,
        .command = ru_header_command(entry->header),
        .kind = kind,
        .encryption = entry->header[RU_REQUEST_ENCRYPTION_AT],
        .shard = entry->header[RU_REQUEST_SHARD_AT],
        .transport = context->transport,
        .body_size = context->body_size,
        .request_size = context->request_size,
    };
    worker->entries[worker->opened++] = *entry;
}

/* Copy a request out of its context, check a plain body, and add it to the batch; or answer it. */
static void worker_open_request(struct ru_worker *worker, uint64_t token)
{
    const struct ru_arena *arena = &worker->engine->arena;
    const struct ru_context *context = ru_arena_context(arena, ru_token_index(token));
    RU_CHECK(context->header_size <= RU_HEADER_LARGE);
    RU_CHECK(worker->used + RU_REQUEST_PREFIX + context->body_present + 8U <= RU_SCRATCH_SIZE);
    uint8_t *peer = worker->scratch + worker->used;
    uint8_t *header = peer + RU_PEER_SIZE;
    uint8_t *body = header + RU_HEADER_LARGE;
    memcpy(peer, arena->base + context->peer_at, RU_PEER_SIZE);
    memcpy(header, arena->base + context->header_at, context->header_size);
    memcpy(body, arena->base + context->body_at, context->body_present);
    worker->used += (uint32_t)(RU_REQUEST_PREFIX + (context->body_present + 7U) / 8U * 8U);

    struct ru_worker_entry entry = {
        .token = token, .header = header, .encrypted = header[RU_REQUEST_ENCRYPTION_AT] != 0};
    enum ru_status status = RU_STATUS_OK;
    if (!entry.encrypted && context->body_size > 0)
        status = ru_body_check_plain(body, context->body_size, &entry.challenge);
    if (status == RU_STATUS_OK) {
        worker_record(worker, &entry, context, body);
        return;
    }
    ru_worker_raise(&worker->mailbox->counters.refused_bodies, 1);
    uint64_t now_ns = ru_now_ns();
    ru_worker_spent(worker, now_ns);
    ru_worker_answer(worker, &entry, (struct ru_worker_answer){.status = (uint8_t)status}, now_ns,
                     NULL);
    ru_worker_wake_loop(worker);
}

static bool worker_next(struct ru_worker *worker, uint64_t *token)
{
    *token = worker->waiting;
    worker->waiting = 0;
    return *token != 0 || ru_ring_pop(&worker->mailbox->in, worker->engine->arena.base, token);
}

static bool worker_has_work(const struct ru_worker *worker)
{
    return worker->waiting != 0 || ru_ring_count(&worker->mailbox->in) > 0;
}

uint32_t ru_worker_fill(struct ru_worker *worker)
{
    worker->opened = worker->answered = worker->looked = worker->sealed = worker->keys_count = 0;
    worker->reply_factor =
        __atomic_load_n(&worker->engine->config.udp_reply_factor_max, __ATOMIC_RELAXED);
    worker->since_ns = ru_now_ns();
    while (worker->opened == 0 && worker_has_work(worker)) {
        uint64_t token;
        worker->used = 0;
        while (worker->opened < RU_BATCH_MAX && worker_next(worker, &token)) {
            const struct ru_context *context =
                ru_arena_context(&worker->engine->arena, ru_token_index(token));
            if (worker->used + RU_REQUEST_PREFIX + context->body_present + 8U > RU_SCRATCH_SIZE) {
                RU_CHECK(worker->used > 0); /* an empty one has room for any request */
                worker->waiting = token;
                break;
            }
            worker_open_request(worker, token);
        }
    }
    worker_check(worker);
    return worker->opened;
}

static void worker_answer_rest(struct ru_worker *worker)
{
    while (worker->answered < worker->opened) {
        struct ru_worker_entry *entry = &worker->entries[worker->answered++];
        const struct ru_worker_answer answer = {.status = RU_STATUS_INTERNAL};
        ru_worker_answer(worker, entry, answer, ru_now_ns(), NULL);
    }
    ru_worker_wake_loop(worker);
}

int ru_worker_take(struct ru_worker *worker, uint32_t timeout_ms)
{
    struct ru_mailbox *mailbox = worker->mailbox;
    worker_check(worker);
    uint64_t end_ns = ru_now_ns() + ru_clock_ms_to_ns(timeout_ms);
    if (worker->answered < worker->opened)
        worker_answer_rest(worker);
    for (;;) {
        uint32_t count = ru_worker_fill(worker);
        if (count > 0) {
            worker->taken_ns = ru_now_ns();
            return (int)count;
        }
        if (__atomic_load_n(&mailbox->closed, __ATOMIC_ACQUIRE))
            return -ESHUTDOWN;
        ru_seal_forget(worker->seal);
        ru_sleeper_announce(&mailbox->sleeper);
        uint64_t now_ns = ru_now_ns();
        if (worker_has_work(worker) || __atomic_load_n(&mailbox->closed, __ATOMIC_ACQUIRE) ||
            now_ns >= end_ns)
            ru_sleeper_cancel(&mailbox->sleeper);
        else
            ru_sleeper_wait(&mailbox->sleeper,
                            (uint32_t)((end_ns - now_ns) / RU_MILLISECOND_NS) + 1);
        if (ru_now_ns() >= end_ns && !worker_has_work(worker))
            return 0;
    }
}

void ru_worker_close(struct ru_worker *worker)
{
    if (!worker)
        return;
    struct ru_mailbox *mailbox = worker->mailbox;
    RU_CHECK(__atomic_load_n(&mailbox->open, __ATOMIC_RELAXED));
    do
        worker_answer_rest(worker);
    while (ru_worker_fill(worker) > 0);
    RU_CHECK(worker->waiting == 0);
    ru_ground_close(worker->ground);
    ru_seal_destroy(worker->seal);
    (void)munmap(worker, sizeof(*worker));
    __atomic_store_n(&mailbox->open, 0, __ATOMIC_RELEASE);
}

const struct ru_record *ru_worker_records(struct ru_worker *worker)
{
    return worker->records;
}

const uint8_t *ru_worker_data(struct ru_worker *worker)
{
    return worker->scratch;
}

uint32_t ru_worker_reply_factor(const struct ru_worker *worker)
{
    return worker->reply_factor;
}

const uint32_t *ru_worker_sealed(struct ru_worker *worker)
{
    return &worker->sealed;
}

uint32_t ru_worker_resumed(struct ru_worker *worker)
{
    if (worker->taken_ns != 0) {
        uint64_t *wait_ns = &worker->mailbox->counters.worker_lock_wait_ns;
        uint64_t spent_ns = ru_clock_between(worker->taken_ns, ru_now_ns());
        __atomic_store_n(wait_ns, *wait_ns + spent_ns, __ATOMIC_RELAXED);
        worker->taken_ns = 0;
    }
    return worker->used;
}
