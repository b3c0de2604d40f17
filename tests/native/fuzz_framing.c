/* fuzz_framing.c: libFuzzer target: whatever a peer sends, and however it arrives.
 *
 * Invariant, for all bytes and settings:
 * - The same stream at once, byte by byte, and in pieces that the input draws (straight into a block
 *   where there is one, blocks missing for a while, replies sent in parts) brings the same events:
 *   the same requests handed over with the same bytes, the same replies, the same end.
 * - Those events are what a model says that sees the whole stream: requests end where byte 16 and the
 *   size field put them, the first refusal is the last reply, nothing is read behind it.
 * - A datagram is decided by its own bytes: what its slot held before shows nowhere, its reply is
 *   never longer than itself, and where TCP would answer, both answer the same.
 * - Only legal moves are made (RU_CHECK), the counters balance, every block and context comes back.
 * - No byte is touched but the piece's, the connection's, its blocks' and the slot's: everything else
 *   of the arena is poisoned for the address sanitizer.
 *
 * Input: SETTINGS bytes (struct script says what they mean), then what the peer sends.
 * Replay: build/fuzz/framing FILE. Memory: one node, made at the first input and used for all.
 */
#include <sanitizer/asan_interface.h>

#include "wire/conn.h"
#include "native.h"
#include "wire/udp.h"

#define SETTINGS 4
#define INPUT_MAX 8192
#define FILL_MAX 65535
#define EVENTS_MAX (INPUT_MAX / RU_HEADER_SMALL + 2)
#define NOW_NS 1000000000ULL

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            framing_fail(__LINE__, #condition);                                                    \
    } while (0)

_Noreturn static void framing_fail(int line, const char *what)
{
    (void)fprintf(stderr, "fuzz_framing.c:%d: not true: %s\n", line, what);
    abort();
}

/* ---- the input ---- */

/* What an input means. */
struct script {
    bool persistent;
    bool slow_full;     /* slow commands are refused with 160 */
    bool pool_full;     /* handlers hold every UDP context */
    bool block_replies; /* handlers' replies do not fit their connection */
    uint32_t body_bytes_max;
    uint64_t draws; /* seed of the pieces */
    uint32_t typed; /* bytes that the input holds; behind them all are the same */
    uint32_t size;
    const uint8_t *bytes;
};

/* One thing that the node did. */
struct event {
    char kind;      /* E echo, R refused, Q queued, S queued as slow, A answered by a handler */
    uint8_t status; /* E, R */
    uint32_t at;    /* bytes of the stream consumed so far */
    uint32_t size;
    uint8_t reply[RU_HEADER_LARGE]; /* E, R */
};

struct log {
    uint32_t count;
    uint32_t consumed;
    enum ru_closed_reason reason;
    struct event events[EVENTS_MAX];
};

static struct event *log_add(struct log *log, char kind, uint32_t at, uint32_t size)
{
    MUST(log->count < EVENTS_MAX);
    struct event *event = &log->events[log->count++];
    *event = (struct event){.kind = kind, .at = at, .size = size};
    return event;
}

/* Bodies of up to 65,535 bytes, of which the fuzzer need not invent each. */
static uint32_t fill_size(uint8_t code)
{
    static const uint32_t sizes[] = {0,   0,   0,   0,    1,    17,   18,    255,
                                     256, 257, 304, 2047, 2048, 2049, 65534, 65535};
    return code < sizeof(sizes) / sizeof(sizes[0]) ? sizes[code] : 0; /* few: long ones are slow */
}

static struct script script_read(const uint8_t *input, size_t size)
{
    static const uint32_t maxima[4] = {65536, 2048, 300, 18};
    static uint8_t bytes[INPUT_MAX + FILL_MAX];
    struct script script = {.persistent = input[0] & 1,
                            .slow_full = input[0] & 2,
                            .pool_full = input[0] & 4,
                            .block_replies = input[0] & 8,
                            .body_bytes_max = maxima[input[0] >> 4 & 3],
                            .draws = input[1],
                            .typed = (uint32_t)size - SETTINGS,
                            .size = (uint32_t)size - SETTINGS + fill_size(input[2]),
                            .bytes = bytes};
    memcpy(bytes, input + SETTINGS, size - SETTINGS);
    memset(bytes + script.typed, input[3], script.size - script.typed);
    return script;
}

/* ---- the node ---- */

static struct {
    struct native_node node;
    struct ru_blocks blocks;
    struct ru_counters counters;
    struct ru_conns conns;
    struct ru_udp_pool pool;
    uint32_t index;      /* the connection, always the same */
    uint32_t slot;       /* the same of datagrams */
    bool blocks_missing; /* somebody else has them all */
    uint64_t accepted;
} host;

static void poison_but(uint32_t from, uint32_t count, uint32_t stride, uint32_t spared)
{
    for (uint32_t i = 0; i < count; i++)
        if (i != spared)
            ASAN_POISON_MEMORY_REGION(host.node.arena.base + from + (size_t)i * stride, stride);
}

/* All that no connection but host.index and no datagram but that in host.slot may touch. */
static void host_poison(void)
{
    const struct ru_arena *arena = &host.node.arena;
    poison_but(arena->areas_at, host.node.config.connections_max, RU_TCP_AREA, host.index);
    poison_but(arena->slots_at, arena->slots, arena->slot_size, host.slot);
    poison_but(arena->small_at, arena->small_blocks, RU_SMALL_BLOCK, 0);
    poison_but(arena->large_at, arena->large_blocks, RU_LARGE_BLOCK, 0);
    for (uint32_t i = 0; i < arena->contexts; i++)
        if (i != host.slot && i != arena->slots + host.index)
            ASAN_POISON_MEMORY_REGION(ru_arena_context(arena, i), sizeof(struct ru_context));
}

static void host_open(void)
{
    struct ru_config config = native_config();
    native_open(&host.node, &config);
    uint8_t *classes = ru_page_of(&host.node.arena)->classes;
    classes[0] = RU_CLASS_ECHO; /* as a node has it, for recorded requests */
    classes[1] = RU_CLASS_ORDINARY;
    classes[2] = RU_CLASS_SLOW;
    MUST(ru_blocks_init(&host.blocks, config.small_blocks, config.large_blocks) == 0);
    MUST(ru_conns_init(&host.conns, &config, &host.node.front, &host.node.arena, &host.blocks,
                       &host.counters) == 0);
    MUST(ru_udp_init(&host.pool, host.node.arena.slots, config.udp_contexts) == 0);
    host.index = host.conns.free_head;
    host.slot = host.pool.free_head;
    host_poison();
}

/* Nothing is open and nothing is missing. */
static void host_check(void)
{
    const struct ru_counters *c = &host.counters;
    MUST(c->tcp_requests == c->tcp_answered + c->tcp_dropped_eof);
    MUST(host.accepted == c->connections_closed_done + c->connections_closed_eof);
    MUST(c->tcp_in_flight == 0 && c->connections_open == 0 && host.conns.used_count == 0);
    for (uint32_t i = 0; i < 2; i++) {
        MUST(host.conns.waiting_counts[i] == 0);
        MUST(host.blocks.free_count[i] == host.blocks.count[i]);
    }
    MUST(ru_udp_in_flight(&host.pool) == 0 && host.pool.counts[RU_UDP_LENT] == 0);
}

/* Another's: ru_block_worker(0). */
static void host_take_blocks(void)
{
    for (enum ru_block_class class = RU_BLOCK_SMALL; class <= RU_BLOCK_LARGE; class ++)
        while (ru_block_acquire(&host.blocks, class, ru_block_worker(0)) != RU_NONE)
            host.blocks_missing = true;
}

/* The lowest number on top, as at the start: that block alone is not poisoned. */
static void host_sort_blocks(uint32_t *free_blocks, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t j = i; j > 0 && free_blocks[j - 1] < free_blocks[j]; j--) {
            uint32_t lower = free_blocks[j - 1];
            free_blocks[j - 1] = free_blocks[j];
            free_blocks[j] = lower;
        }
}

static void host_return_blocks(void)
{
    for (uint32_t i = 0; i < host.blocks.count[0] + host.blocks.count[1]; i++)
        if (host.blocks.owners[i] == ru_block_worker(0))
            ru_block_release(&host.blocks, i);
    for (uint32_t i = 0; i < 2; i++)
        host_sort_blocks(host.blocks.free[i], host.blocks.free_count[i]);
    host.blocks_missing = false;
}

/* ---- the model ---- */

static bool plain_valid(const uint8_t *body, uint32_t size)
{
    const uint8_t *challenge;
    return size == 0 || ru_body_check_plain(body, size, &challenge) == RU_STATUS_OK;
}

/* The reply to the request `bytes` from its header and this status alone, as the specification has
 * it (section 4), but for the random bytes of a nonce. */
static void foresee_reply(struct event *event, enum ru_status status, const uint8_t *bytes,
                          uint32_t body_size)
{
    bool all = status == RU_STATUS_SUCCESS || status == RU_STATUS_PACKET_LENGTH ||
               status == RU_STATUS_REQUEST_RATE;
    uint8_t *reply = event->reply;
    event->status = (uint8_t)status;
    event->size = bytes[16] > 2 && (all || status == RU_STATUS_ENCRYPTION_CODE) ? RU_HEADER_LARGE
                                                                                : RU_HEADER_SMALL;
    reply[0] = NATIVE_RAIDA_ID;
    reply[2] = (uint8_t)status;
    if (all || status == RU_STATUS_COIN_ID || status == RU_STATUS_ENCRYPTION_CODE)
        reply[3] = bytes[4];
    if (event->size == RU_HEADER_SMALL) {
        reply[5] = 1;
        if (all)
            memcpy(reply + 6, bytes + 30, 2);
        if (status == RU_STATUS_SUCCESS && body_size > 0)
            memcpy(reply + 16, bytes + RU_HEADER_SMALL, RU_CHALLENGE_SIZE);
        return;
    }
    reply[16] = bytes[16];
    if (!all)
        return;
    memcpy(reply + 17, bytes + 19, 5); /* the key's coin */
    if (bytes[16] == 5)
        memcpy(reply + 24, bytes + 24, 5);
    memcpy(reply + 46, bytes + 46, 2);
}

/* What becomes of the request at `at`, whose whole header is there. True if more may follow. */
static bool foresee_one(const struct script *script, uint32_t at, struct log *log)
{
    const uint8_t *bytes = script->bytes + at;
    uint32_t header_size = bytes[16] > 2 ? RU_HEADER_LARGE : RU_HEADER_SMALL;
    const uint8_t *size_at = bytes + (bytes[16] > 2 ? 17 : 22);
    uint32_t body_size = (uint32_t)size_at[0] << 8 | size_at[1];
    struct ru_header header;
    enum ru_status status = ru_header_decide(&host.node.front.identity, bytes, &header);
    if (status == RU_STATUS_OK && body_size > script->body_bytes_max)
        status = RU_STATUS_PACKET_LENGTH;
    if (status != RU_STATUS_OK) {
        log->consumed = at + header_size;
        foresee_reply(log_add(log, 'R', log->consumed, 0), status, bytes, 0);
        return false;
    }
    if (script->size - at - header_size < body_size) {
        log->consumed = script->size;
        log->reason = RU_CLOSED_EOF;
        return false;
    }
    at = log->consumed = at + header_size + body_size;
    if (header.lane == RU_CLASS_ECHO && bytes[16] == 0 &&
        plain_valid(bytes + header_size, body_size)) {
        foresee_reply(log_add(log, 'E', at, 0), RU_STATUS_SUCCESS, bytes, body_size);
        return script->persistent;
    }
    bool slow = header.lane == RU_CLASS_SLOW;
    log_add(log, slow ? 'S' : 'Q', at, header_size + body_size);
    if (slow && script->slow_full)
        foresee_reply(log_add(log, 'R', at, 0), RU_STATUS_REQUEST_RATE, bytes, 0);
    else
        log_add(log, 'A', at, 0);
    return script->persistent;
}

static void foresee(const struct script *script, struct log *log)
{
    log->count = log->consumed = 0;
    log->reason = RU_CLOSED_DONE;
    for (bool more = true; more && log->consumed < script->size;) {
        uint32_t left = script->size - log->consumed;
        const uint8_t *bytes = script->bytes + log->consumed;
        if (left <= 16 || left < (bytes[16] > 2 ? RU_HEADER_LARGE : RU_HEADER_SMALL)) {
            log->consumed = script->size;
            log->reason = RU_CLOSED_EOF;
            return;
        }
        more = foresee_one(script, log->consumed, log);
    }
}

/* ---- playing a stream ---- */

enum manner {
    WHOLE,
    BYTEWISE,
    PIECES,
    MANNERS,
};

struct player {
    const struct script *script;
    enum manner manner;
    struct ru_random random;
    struct log *log;
    uint32_t at;     /* of the stream: consumed */
    bool sending;    /* a reply is on its way and in the log */
    bool by_handler; /* ... and was a handler's */
};

static struct ru_conn *player_conn(void)
{
    return ru_conn_at(&host.conns, host.index);
}

/* From 1 to `most`. */
static uint32_t player_part(struct player *player, uint32_t most)
{
    uint32_t part = most;
    if (player->manner == BYTEWISE) /* of a fill only the ends: all others are alike */
        part = player->at + 64 < player->script->typed || most <= 64 ? 1 : most - 64;
    else if (player->manner == PIECES)
        part = 1 + native_below(&player->random, 1U << native_below(&player->random, 13));
    return part < most ? part : most;
}

/* A handler looks at its request. */
static enum ru_conn_action player_serve(struct player *player, char kind)
{
    const struct script *script = player->script;
    const struct ru_arena *arena = &host.node.arena;
    const struct ru_context *context = ru_arena_context(arena, arena->slots + host.index);
    const uint8_t *sent = script->bytes + player->at - context->request_size;
    uint32_t size = script->block_replies ? RU_INLINE_SIZE + 1 : RU_INLINE_SIZE;
    log_add(player->log, kind, player->at, context->request_size);
    MUST(context->request_size == context->header_size + (uint32_t)context->body_size);
    MUST(context->body_present == context->body_size && context->transport == RU_TCP);
    MUST(memcmp(arena->base + context->header_at, sent, context->header_size) == 0);
    MUST(memcmp(arena->base + context->body_at, sent + context->header_size, context->body_size) ==
         0);
    if (sent[16] == 0) /* what a worker does first */
        MUST(plain_valid(arena->base + context->body_at, context->body_size) ==
             plain_valid(sent + context->header_size, context->body_size));
    if (kind == 'S' && script->slow_full)
        return ru_conn_refuse(&host.conns, host.index, RU_STATUS_REQUEST_RATE, NOW_NS);
    uint32_t block = RU_NONE;
    player->by_handler = true;
    if (script->block_replies) {
        host_return_blocks();
        block = ru_block_acquire(&host.blocks, RU_BLOCK_LARGE, arena->slots + host.index);
    }
    return ru_conn_replied(&host.conns, host.index, block, size, NOW_NS);
}

static enum ru_conn_action player_send(struct player *player)
{
    uint32_t size;
    const uint8_t *bytes = ru_conn_unsent(&host.conns, host.index, &size);
    if (!player->sending && player->by_handler) {
        (void)log_add(player->log, 'A', player->at, 0);
    } else if (!player->sending) {
        MUST(size == RU_HEADER_SMALL || size == RU_HEADER_LARGE);
        char kind = bytes[2] == RU_STATUS_SUCCESS ? 'E' : 'R';
        struct event *event = log_add(player->log, kind, player->at, size);
        event->status = bytes[2];
        memcpy(event->reply, bytes, size);
    }
    uint32_t part = player_part(player, size);
    player->sending = part < size;
    player->by_handler = player->by_handler && player->sending;
    return ru_conn_sent(&host.conns, host.index, (int32_t)part, NOW_NS);
}

/* Answered for good, or closed. */
static bool player_ended(void)
{
    uint8_t state = player_conn()->state;
    return state == RU_CONN_LINGER || state == RU_CONN_DONE;
}

/* Do what the state machine asks until it wants bytes again or is done. */
static void player_react(struct player *player, enum ru_conn_action action)
{
    while (action != RU_CONN_NOTHING && action != RU_CONN_NEXT && action != RU_CONN_CLOSE &&
           action != RU_CONN_END) {
        if (action == RU_CONN_SEND) {
            action = player_send(player);
        } else if (action == RU_CONN_AWAIT_BLOCK) {
            MUST(host.blocks_missing);
            MUST(!ru_conn_take_block(&host.conns, host.index, NOW_NS));
            host_return_blocks();
            MUST(ru_conn_take_block(&host.conns, host.index, NOW_NS));
            action = RU_CONN_NOTHING;
        } else {
            MUST(action == RU_CONN_QUEUE);
            const struct ru_header *header = &ru_conn_at(&host.conns, host.index)->header;
            action = player_serve(player, ru_header_lane(header) == RU_LANE_SLOW ? 'S' : 'Q');
        }
    }
}

/* The next bytes, as they would come out of a lent buffer or straight into the body's block. */
static void player_step(struct player *player)
{
    static _Alignas(8) uint8_t buffer[INPUT_MAX + FILL_MAX + 8]; /* then a poisoned edge */
    const struct script *script = player->script;
    uint8_t *edge = buffer + (INPUT_MAX + FILL_MAX) / 8 * 8;
    uint32_t part = player_part(player, script->size - player->at);
    uint32_t size;
    uint8_t *room = player->manner == PIECES && native_below(&player->random, 2)
                        ? ru_conn_body_room(&host.conns, host.index, &size)
                        : NULL;
    if (room) {
        part = part < size ? part : size;
        memcpy(room, script->bytes + player->at, part);
        player->at += part;
        player_react(player, ru_conn_received(&host.conns, host.index, part, NOW_NS));
        return;
    }
    if (player->manner == PIECES && native_below(&player->random, 4) == 0)
        host_take_blocks();
    ASAN_POISON_MEMORY_REGION(edge, 8);
    memcpy(edge - part, script->bytes + player->at, part);
    while (part > 0 && !player_ended()) {
        uint32_t used = 0;
        enum ru_conn_action action =
            ru_conn_feed(&host.conns, host.index, edge - part, part, NOW_NS, &used);
        MUST(used > 0 && used <= part);
        part -= used;
        player->at += used;
        player_react(player, action);
    }
}

static void play(const struct script *script, enum manner manner, struct log *log)
{
    const struct ru_arena *arena = &host.node.arena;
    struct player player = {
        .script = script, .manner = manner, .random = {script->draws}, .log = log};
    log->count = 0;
    host.conns.persistent = script->persistent;
    host.node.front.random.state = 5; /* the same nonces in every manner */
    /* Somebody else's, and different each time: none of it may show. */
    memset(arena->base + ru_arena_area_at(arena, host.index), 0x55 + 0x40 * (int)manner,
           RU_TCP_AREA);
    memset(ru_arena_context(arena, arena->slots + host.index), 0x55 + 0x40 * (int)manner,
           sizeof(struct ru_context));
    MUST(ru_conn_open(&host.conns, 1000, 0, NOW_NS) == host.index);
    host.accepted++;
    while (player.at < script->size && !player_ended())
        player_step(&player);
    if (player_conn()->state == RU_CONN_LINGER)
        ru_conn_close(&host.conns, host.index, RU_CLOSED_DONE, NOW_NS);
    else if (player_conn()->state != RU_CONN_DONE)
        MUST(ru_conn_end_of_stream(&host.conns, host.index, NOW_NS) == RU_CONN_CLOSE);
    log->consumed = player.at;
    log->reason = player_conn()->reason;
    host_return_blocks();
    player_conn()->fd = -1;
    ru_conn_count_closed(&host.conns, host.index);
    ru_conn_release(&host.conns, host.index);
    host_check();
}

/* `nonces`: their random bytes must be the same, too. */
static void compare(const struct log *played, const struct log *want, bool nonces)
{
    MUST(played->count == want->count);
    MUST(played->consumed == want->consumed);
    MUST(played->reason == want->reason);
    for (uint32_t i = 0; i < want->count; i++) {
        const struct event *got = &played->events[i], *model = &want->events[i];
        uint32_t nonce_at = model->reply[16] == 5 ? 29 : 24;
        MUST(got->kind == model->kind && got->status == model->status);
        MUST(got->at == model->at && got->size == model->size);
        if (nonces || model->size == RU_HEADER_SMALL) {
            MUST(memcmp(got->reply, model->reply, sizeof(got->reply)) == 0);
        } else {
            MUST(memcmp(got->reply, model->reply, nonce_at) == 0);
            MUST(memcmp(got->reply + 46, model->reply + 46, 2) == 0);
        }
    }
}

/* ---- the same bytes as a datagram ---- */

/* Where TCP answered or handed over, a datagram that holds it all must have fared alike. */
static void compare_transports(const struct log *stream, enum ru_udp_action action,
                               const uint8_t *reply, uint32_t reply_size,
                               const struct script *script)
{
    if (stream->count == 0 || action == RU_UDP_REPLY_VOTE || action == RU_UDP_DROP_REPLY)
        return;
    const struct event *event = &stream->events[0];
    if (event->status == RU_STATUS_PACKET_LENGTH)
        return; /* TCP has a limit on bodies, UDP has its datagram's end */
    switch (event->kind) {
    case 'E':
    case 'R':
        MUST(action == (event->kind == 'E' ? RU_UDP_REPLY_ECHO : RU_UDP_REPLY_REFUSED));
        MUST(reply_size == event->size && memcmp(reply, event->reply, reply_size) == 0);
        break;
    default:
        MUST(event->kind == 'Q' || event->kind == 'S');
        MUST(action == (script->pool_full ? RU_UDP_DROP_POOL : RU_UDP_QUEUE));
        MUST(script->pool_full || host.pool.contexts[host.slot].lane ==
                                      (event->kind == 'S' ? RU_LANE_SLOW : RU_LANE_ORDINARY));
    }
}

static void check_queued(const struct script *script, uint32_t size)
{
    const struct ru_arena *arena = &host.node.arena;
    const struct ru_context *context = ru_arena_context(arena, host.slot);
    const uint8_t *bytes = script->bytes;
    uint32_t rest = size - context->header_size;
    MUST(context->header_size == (bytes[16] > 2 ? RU_HEADER_LARGE : RU_HEADER_SMALL));
    MUST(context->transport == RU_UDP);
    MUST(context->request_size == context->header_size + (uint32_t)context->body_present);
    MUST(context->body_at == context->header_at + context->header_size);
    MUST(context->body_present == (rest < context->body_size ? rest : context->body_size));
    MUST(context->body_present == context->body_size || bytes[16] != 0);
    MUST(memcmp(arena->base + context->header_at, bytes, size) == 0);
}

static void play_datagram(const struct script *script, uint8_t dirt, const struct log *stream)
{
    const struct ru_arena *arena = &host.node.arena;
    uint8_t *payload = arena->base + ru_arena_slot_at(arena, host.slot) + arena->payload_at;
    uint32_t held_max = host.pool.held_max;
    uint32_t size = script->size < arena->payload_size ? script->size : arena->payload_size;
    uint32_t reply_size = 0;
    memset(payload, dirt, arena->payload_size);
    memset(ru_arena_context(arena, host.slot), dirt, sizeof(struct ru_context));
    memcpy(payload, script->bytes, size);
    ASAN_POISON_MEMORY_REGION(payload + size, arena->payload_size - size);
    host.node.front.random.state = 5;
    host.pool.held_max = script->pool_full ? 0 : held_max;
    MUST(ru_udp_lend(&host.pool) == host.slot);
    ru_udp_move(&host.pool, host.slot, RU_UDP_LOOP);
    enum ru_udp_action action =
        ru_udp_decide(&host.pool, &host.node.front, arena, host.slot, size, NOW_NS, &reply_size);
    if (action == RU_UDP_QUEUE)
        check_queued(script, size);
    if (action == RU_UDP_REPLY_VOTE)
        MUST(reply_size == RU_VOTE_REPLY_SIZE && payload[0] <= 1 &&
             memcmp(payload + 1, script->bytes + 1 + RU_ROOTS_SIZE, RU_VOTE_REPLY_SIZE - 1) == 0);
    MUST(reply_size <= size); /* what the loop answers amplifies nothing */
    if (size == script->size)
        compare_transports(stream, action, payload, reply_size, script);
    ru_udp_move(&host.pool, host.slot, RU_UDP_FREE);
    host.pool.held_max = held_max;
    ASAN_UNPOISON_MEMORY_REGION(payload, arena->payload_size);
    host_check();
}

/* ---- */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static struct log model, logs[MANNERS];
    if (host.node.arena.base == NULL)
        host_open();
    if (size < SETTINGS || size > INPUT_MAX)
        return 0;
    const struct script script = script_read(input, size);
    host.node.front.identity.body_bytes_max = script.body_bytes_max;
    foresee(&script, &model);
    for (enum manner manner = WHOLE; manner < MANNERS; manner++) {
        play(&script, manner, &logs[manner]);
        compare(&logs[manner], &model, false);
        compare(&logs[manner], &logs[WHOLE], true);
    }
    play_datagram(&script, 0x00, &logs[WHOLE]);
    play_datagram(&script, 0xFF, &logs[WHOLE]);
    return 0;
}
