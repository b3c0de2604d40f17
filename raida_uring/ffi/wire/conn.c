/* conn.c: TCP framing and the connection state machine.
 *
 * Why without system calls: the same code runs on every backend, on a simulated kernel and in a
 * fuzzer. Memory for a body is allocated only once the header is valid, so a peer costs no more
 * than its connection until it has sent a well-formed header.
 */
#include "wire/conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define MOVE(to) (1U << RU_CONN_##to)

/* Legal moves, by the state that the connection leaves, and the cause of each. A deadline, a reset,
 * the end of the stream or the end of the node leads from every state but FREE to DONE. */
static const uint8_t conn_moves[RU_CONN_STATES] = {
    [RU_CONN_FREE] = MOVE(READ_HEADER),        /* accepted */
    [RU_CONN_READ_HEADER] = MOVE(WAIT_BLOCK)   /* header valid, but no block for the body */
                            | MOVE(READ_BODY)  /* header valid, a body follows */
                            | MOVE(PROCESSING) /* header valid, no body */
                            | MOVE(WRITE)      /* header refused, or an echo */
                            | MOVE(DONE),
    [RU_CONN_WAIT_BLOCK] = MOVE(READ_BODY) /* a block came free */
                           | MOVE(DONE),
    [RU_CONN_READ_BODY] = MOVE(PROCESSING) /* the body is complete */
                          | MOVE(WRITE)    /* ... and it was an echo */
                          | MOVE(DONE),
    [RU_CONN_PROCESSING] = MOVE(WRITE) /* the worker replied, or the lane refused */
                           | MOVE(DONE),
    [RU_CONN_WRITE] = MOVE(READ_HEADER) /* sent; persistent: the next request */
                      | MOVE(LINGER)    /* sent, but a close now could reset the reply */
                      | MOVE(DONE),     /* sent */
    [RU_CONN_LINGER] = MOVE(DONE),
    [RU_CONN_DONE] = MOVE(FREE), /* descriptor closed, in no lane and with no worker */
};

#define COUNTER(name) (offsetof(struct ru_counters, name) / sizeof(uint64_t))
#define REASON(reason, words, connection, request)                                                 \
    {COUNTER(connections_closed_##connection), COUNTER(tcp_dropped_##request)},
/* The counters of each reason: of the connection, and of the request it cut short, if any. */
static const struct {
    uint8_t connection, request;
} conn_reasons[RU_CLOSED_REASONS] = {RU_CLOSED(REASON)};
_Static_assert(RU_COUNTERS_COUNT < 256, "counter numbers fit a byte");

static void conn_count(struct ru_conns *conns, uint8_t counter)
{
    ((uint64_t *)(void *)conns->counters)[counter]++;
}

static void conn_check(const struct ru_conns *conns, const struct ru_conn *conn)
{
    RU_CHECK(conns->used_count <= conns->capacity);
    RU_CHECK(conn->header_have <= RU_HEADER_LARGE);
    RU_CHECK(conn->state == RU_CONN_PROCESSING || conn->state == RU_CONN_DONE ||
             !(conn->queued || conn->with_worker));
    RU_CHECK(!(conn->queued && conn->with_worker));
}

static void conn_set_state(struct ru_conns *conns, struct ru_conn *conn, enum ru_conn_state to,
                           uint64_t now_ns)
{
    RU_CHECK(conn_moves[conn->state] & 1U << to);
    conns->waiting_counts[ru_conn_block_class(conn)] -= conn->state == RU_CONN_WAIT_BLOCK;
    conns->waiting_counts[ru_conn_block_class(conn)] += to == RU_CONN_WAIT_BLOCK;
    conn->state = (uint8_t)to;
    conn->state_since_ns = now_ns;
    conn->progress_ns = now_ns;
    conn_check(conns, conn);
}

const char *ru_connection_state_name(uint32_t state)
{
    static const char *const names[RU_CONN_STATES] = {
        [RU_CONN_FREE] = "free",
        [RU_CONN_READ_HEADER] = "header",
        [RU_CONN_WAIT_BLOCK] = "waiting for memory",
        [RU_CONN_READ_BODY] = "body",
        [RU_CONN_PROCESSING] = "handler",
        [RU_CONN_WRITE] = "reply",
        [RU_CONN_LINGER] = "answered",
        [RU_CONN_DONE] = "closing",
    };
    return state < RU_CONN_STATES ? names[state] : NULL;
}

/* ---- open and close ---- */

void ru_conns_set_limits(struct ru_conns *conns, const struct ru_config *config)
{
    RU_CHECK(config->connections_max <= conns->capacity);
    conns->used_max = config->connections_max;
    conns->timeouts =
        (struct ru_conn_timeouts){.progress_ns = ru_clock_ms_to_ns(config->progress_timeout_ms),
                                  .header_ns = ru_clock_ms_to_ns(config->header_timeout_ms),
                                  .body_ns = ru_clock_ms_to_ns(config->body_timeout_ms),
                                  .write_ns = ru_clock_ms_to_ns(config->write_timeout_ms),
                                  .idle_ns = ru_clock_ms_to_ns(config->idle_timeout_ms)};
}

int ru_conns_init(struct ru_conns *conns, const struct ru_config *config, struct ru_front *front,
                  const struct ru_arena *arena, struct ru_blocks *blocks,
                  struct ru_counters *counters)
{
    *conns = (struct ru_conns){
        .capacity = config->connections_max,
        .free_head = RU_NONE,
        .persistent = config->tcp_persistent != 0,
        .front = front,
        .arena = arena,
        .blocks = blocks,
        .counters = counters,
    };
    ru_conns_set_limits(conns, config);
    conns->conns = calloc(conns->capacity, sizeof(*conns->conns));
    if (!conns->conns)
        return -ENOMEM;
    for (uint32_t i = conns->capacity; i > 0; i--) {
        conns->conns[i - 1] = (struct ru_conn){
            .fd = -1, .generation = 1, .next = conns->free_head, .unread = RU_LIST_EMPTY};
        conns->free_head = i - 1;
    }
    return 0;
}

void ru_conns_destroy(struct ru_conns *conns)
{
    free(conns->conns);
    conns->conns = NULL;
}

struct ru_conn *ru_conn_at(struct ru_conns *conns, uint32_t index)
{
    RU_CHECK(index < conns->capacity);
    return &conns->conns[index];
}

uint32_t ru_conn_open(struct ru_conns *conns, int fd, uint8_t listener, uint64_t now_ns)
{
    uint32_t index = conns->free_head;
    if (index == RU_NONE || conns->used_count >= conns->used_max)
        return RU_NONE;
    struct ru_conn *conn = &conns->conns[index];
    conns->free_head = conn->next;
    conns->used_count++;
    conns->counters->connections_open++;
    /* Sets every field, so that nothing remains of the previous connection. */
    *conn = (struct ru_conn){
        .fd = fd,
        .generation = conn->generation,
        .token_generation = conn->token_generation,
        .next = RU_NONE,
        .state = RU_CONN_FREE,
        .listener = listener,
        .body_block = RU_NONE,
        .reply_block = RU_NONE,
        .unread = RU_LIST_EMPTY,
        .opened_ns = now_ns,
    };
    conn_set_state(conns, conn, RU_CONN_READ_HEADER, now_ns);
    return index;
}

static void conn_release_blocks(struct ru_conns *conns, struct ru_conn *conn)
{
    if (conn->reply_block != RU_NONE && conn->reply_block != conn->body_block)
        ru_block_release(conns->blocks, conn->reply_block);
    if (conn->body_block != RU_NONE)
        ru_block_release(conns->blocks, conn->body_block);
    conn->reply_block = conn->body_block = RU_NONE;
}

static void conn_end_request(struct ru_conns *conns, struct ru_conn *conn, uint8_t counter)
{
    RU_CHECK(conn->request_open && conns->counters->tcp_in_flight > 0);
    conn->request_open = false;
    conns->counters->tcp_in_flight--;
    conn_count(conns, counter);
}

void ru_conn_release(struct ru_conns *conns, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->fd < 0 && !conn->queued && !conn->with_worker);
    RU_CHECK(!conn->receiving && !conn->sending && !conn->awaits_memory);
    RU_CHECK(ru_list_is_empty(&conn->unread) && conns->used_count > 0);
    if (conn->request_open) /* closed while a handler ran: the worker has returned it only now */
        conn_end_request(conns, conn,
                         conn->reason == RU_CLOSED_DRAIN ? COUNTER(tcp_dropped_drain)
                                                         : COUNTER(tcp_dropped_peer_gone));
    conn_release_blocks(conns, conn);
    conn_set_state(conns, conn, RU_CONN_FREE, 0);
    conn->generation = ru_token_advance(conn->generation);
    conn->next = conns->free_head;
    conns->free_head = index;
    conns->used_count--;
}

void ru_conn_close(struct ru_conns *conns, uint32_t index, enum ru_closed_reason reason,
                   uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    bool orphaned = conn->state == RU_CONN_PROCESSING;
    conn_set_state(conns, conn, RU_CONN_DONE, now_ns);
    conn->reason = (uint8_t)reason;
    /* An orphaned request stays in flight: a lane or a worker still has its context. */
    if (conn->request_open && !orphaned)
        conn_end_request(conns, conn, conn_reasons[reason].request);
}

void ru_conn_count_closed(struct ru_conns *conns, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->state == RU_CONN_DONE && conns->counters->connections_open > 0);
    conns->counters->connections_open--;
    conn_count(conns, conn_reasons[conn->reason].connection);
}

/* ---- reading ---- */

static uint8_t *conn_inline(const struct ru_conns *conns, uint32_t index)
{
    return conns->arena->base + ru_arena_area_at(conns->arena, index) + RU_PEER_SIZE;
}

/* Arena offset of the body: after the header in the connection's area, or in its block. */
static uint32_t conn_body_at(const struct ru_conns *conns, uint32_t index)
{
    const struct ru_conn *conn = &conns->conns[index];
    if (conn->body_block != RU_NONE)
        return ru_arena_block_at(conns->arena, conn->body_block);
    return ru_arena_area_at(conns->arena, index) + RU_PEER_SIZE + conn->header.size;
}

static enum ru_conn_action conn_write(struct ru_conns *conns, uint32_t index, uint32_t at,
                                      uint32_t size, uint64_t now_ns)
{
    struct ru_conn *conn = &conns->conns[index];
    conn->reply_at = at;
    conn->reply_size = size;
    conn->reply_sent = 0;
    conn_set_state(conns, conn, RU_CONN_WRITE, now_ns);
    return RU_CONN_SEND;
}

static enum ru_conn_action conn_write_inline(struct ru_conns *conns, uint32_t index, uint32_t size,
                                             uint64_t now_ns)
{
    uint32_t at = ru_arena_area_at(conns->arena, index) + RU_PEER_SIZE;
    return conn_write(conns, index, at, size, now_ns);
}

static enum ru_conn_action conn_refuse(struct ru_conns *conns, uint32_t index,
                                       enum ru_status status, enum ru_scope scope, uint64_t now_ns)
{
    uint8_t *bytes = conn_inline(conns, index);
    uint32_t size = ru_fast_refuse(conns->front, status, scope, bytes, bytes);
    return conn_write_inline(conns, index, size, now_ns);
}

static void conn_describe(struct ru_conns *conns, uint32_t index, uint64_t now_ns)
{
    const struct ru_conn *conn = &conns->conns[index];
    uint32_t area_at = ru_arena_area_at(conns->arena, index);
    *ru_arena_context(conns->arena, conns->arena->slots + index) = (struct ru_context){
        .arrival_ns = conn->request_since_ns,
        .complete_ns = now_ns,
        .peer_at = area_at,
        .header_at = area_at + RU_PEER_SIZE,
        .body_at = conn_body_at(conns, index),
        .request_size = conn->header.size + conn->header.body_size,
        .inline_at = area_at + RU_PEER_SIZE,
        .inline_size = RU_INLINE_SIZE,
        .body_block = conn->body_block,
        .body_size = conn->header.body_size,
        .body_present = conn->header.body_size,
        .transport = RU_TCP,
        .header_size = conn->header.size,
        .reply_block = RU_NONE,
    };
}

/* The whole request has been received. */
static enum ru_conn_action conn_complete(struct ru_conns *conns, uint32_t index, uint64_t now_ns)
{
    struct ru_conn *conn = &conns->conns[index];
    uint8_t *bytes = conn_inline(conns, index);
    const uint8_t *body = conns->arena->base + conn_body_at(conns, index);
    uint32_t size = ru_fast_echo(conns->front, &conn->header, bytes, body, bytes);
    if (size > 0) {
        conns->counters->echoes++;
        return conn_write_inline(conns, index, size, now_ns);
    }
    conn_describe(conns, index, now_ns);
    conn_set_state(conns, conn, RU_CONN_PROCESSING, now_ns);
    return RU_CONN_QUEUE;
}

static bool conn_acquire_block(struct ru_conns *conns, uint32_t index)
{
    struct ru_conn *conn = &conns->conns[index];
    conn->body_block =
        ru_block_acquire(conns->blocks, ru_conn_block_class(conn), conns->arena->slots + index);
    return conn->body_block != RU_NONE;
}

static enum ru_conn_action conn_header_complete(struct ru_conns *conns, uint32_t index,
                                                uint64_t now_ns)
{
    struct ru_conn *conn = &conns->conns[index];
    enum ru_status status =
        ru_header_decide(&conns->front->identity, conn_inline(conns, index), &conn->header);
    enum ru_scope scope = ru_reply_scope(status);
    if (status == RU_STATUS_OK && conn->header.body_size > conns->front->identity.body_bytes_max) {
        status = RU_STATUS_PACKET_LENGTH;
        scope = RU_SCOPE_ALL;
    }
    if (status != RU_STATUS_OK) {
        conn->refused = true; /* the body is not read, so nothing can follow */
        conns->counters->refused_headers++;
        return conn_refuse(conns, index, status, scope, now_ns);
    }
    conn->body_have = 0;
    if (conn->header.body_size == 0)
        return conn_complete(conns, index, now_ns);
    /* Connections that already wait for a block come first. */
    if (conn->header.body_size > RU_INLINE_BODY &&
        (conns->waiting_counts[ru_conn_block_class(conn)] > 0 ||
         !conn_acquire_block(conns, index))) {
        conn_set_state(conns, conn, RU_CONN_WAIT_BLOCK, now_ns);
        return RU_CONN_AWAIT_BLOCK;
    }
    conn_set_state(conns, conn, RU_CONN_READ_BODY, now_ns);
    return RU_CONN_NOTHING;
}

static uint32_t conn_copy(uint8_t *to, uint32_t have, uint32_t want, const uint8_t *bytes,
                          uint32_t size)
{
    uint32_t part = ru_number_min32(want - have, size);
    memcpy(to + have, bytes, part);
    return part;
}

static enum ru_conn_action conn_feed_header(struct ru_conns *conns, uint32_t index,
                                            const uint8_t *bytes, uint32_t size, uint64_t now_ns,
                                            uint32_t *used)
{
    struct ru_conn *conn = &conns->conns[index];
    uint8_t *header = conn_inline(conns, index);
    if (conn->header_have == 0) {
        RU_CHECK(!conn->request_open);
        conn->request_open = true;
        conn->request_since_ns = now_ns;
        conn->requests++;
        conns->counters->tcp_requests++;
        conns->counters->tcp_in_flight++;
    }
    uint32_t want = conn->header_have < RU_HEADER_PEEK ? RU_HEADER_PEEK : ru_header_size(header);
    *used = conn_copy(header, conn->header_have, want, bytes, size);
    conn->header_have = (uint8_t)(conn->header_have + *used);
    if (conn->header_have < RU_HEADER_PEEK || conn->header_have < ru_header_size(header))
        return RU_CONN_NOTHING;
    return conn_header_complete(conns, index, now_ns);
}

static enum ru_conn_action conn_feed_body(struct ru_conns *conns, uint32_t index,
                                          const uint8_t *bytes, uint32_t size, uint64_t now_ns,
                                          uint32_t *used)
{
    struct ru_conn *conn = &conns->conns[index];
    uint8_t *body = conns->arena->base + conn_body_at(conns, index);
    *used = conn_copy(body, conn->body_have, conn->header.body_size, bytes, size);
    conn->body_have += *used;
    if (conn->body_have < conn->header.body_size)
        return RU_CONN_NOTHING;
    return conn_complete(conns, index, now_ns);
}

enum ru_conn_action ru_conn_feed(struct ru_conns *conns, uint32_t index, const uint8_t *bytes,
                                 uint32_t size, uint64_t now_ns, uint32_t *used)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(size > 0);
    conn->progress_ns = now_ns;
    enum ru_conn_action action = RU_CONN_NOTHING;
    *used = 0;
    while (*used < size && action == RU_CONN_NOTHING) {
        uint32_t part = 0;
        if (conn->state == RU_CONN_READ_HEADER) {
            action = conn_feed_header(conns, index, bytes + *used, size - *used, now_ns, &part);
        } else {
            RU_CHECK(conn->state == RU_CONN_READ_BODY);
            action = conn_feed_body(conns, index, bytes + *used, size - *used, now_ns, &part);
        }
        RU_CHECK(part > 0 || action != RU_CONN_NOTHING);
        *used += part;
    }
    return action;
}

/* A body with a block never waits for a buffer, because all buffers may be in use by connections
 * that wait for a block: no deadlock. */
uint8_t *ru_conn_body_room(struct ru_conns *conns, uint32_t index, uint32_t *size)
{
    const struct ru_conn *conn = ru_conn_at(conns, index);
    if (conn->state != RU_CONN_READ_BODY || conn->body_block == RU_NONE)
        return NULL;
    RU_CHECK(conn->body_have < conn->header.body_size);
    *size = conn->header.body_size - conn->body_have;
    return conns->arena->base + conn_body_at(conns, index) + conn->body_have;
}

enum ru_conn_action ru_conn_received(struct ru_conns *conns, uint32_t index, uint32_t size,
                                     uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->state == RU_CONN_READ_BODY && conn->body_block != RU_NONE);
    RU_CHECK(size > 0 && size <= conn->header.body_size - conn->body_have);
    conn->progress_ns = now_ns;
    conn->body_have += size;
    if (conn->body_have < conn->header.body_size)
        return RU_CONN_NOTHING;
    return conn_complete(conns, index, now_ns);
}

bool ru_conn_take_block(struct ru_conns *conns, uint32_t index, uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->state == RU_CONN_WAIT_BLOCK);
    if (!conn_acquire_block(conns, index))
        return false;
    conn_set_state(conns, conn, RU_CONN_READ_BODY, now_ns);
    return true;
}

enum ru_conn_action ru_conn_end_of_stream(struct ru_conns *conns, uint32_t index, uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(ru_conn_reading(conn) || conn->state == RU_CONN_WAIT_BLOCK);
    ru_conn_close(conns, index, conn->request_open ? RU_CLOSED_EOF : RU_CLOSED_DONE, now_ns);
    return RU_CONN_CLOSE;
}

/* ---- writing ---- */

enum ru_conn_action ru_conn_replied(struct ru_conns *conns, uint32_t index, uint32_t block,
                                    uint32_t size, uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->state == RU_CONN_PROCESSING && !conn->with_worker && !conn->queued);
    conn->reply_block = block;
    RU_CHECK(block != RU_NONE || size <= RU_INLINE_SIZE);
    if (block == RU_NONE)
        return conn_write_inline(conns, index, size, now_ns);
    return conn_write(conns, index, ru_arena_block_at(conns->arena, block), size, now_ns);
}

enum ru_conn_action ru_conn_refuse(struct ru_conns *conns, uint32_t index, enum ru_status status,
                                   uint64_t now_ns)
{
    RU_CHECK(ru_conn_at(conns, index)->state == RU_CONN_PROCESSING);
    return conn_refuse(conns, index, status, RU_SCOPE_ALL, now_ns);
}

const uint8_t *ru_conn_unsent(const struct ru_conns *conns, uint32_t index, uint32_t *size)
{
    RU_CHECK(index < conns->capacity);
    const struct ru_conn *conn = &conns->conns[index];
    RU_CHECK(conn->state == RU_CONN_WRITE && conn->reply_sent < conn->reply_size);
    *size = conn->reply_size - conn->reply_sent;
    return conns->arena->base + conn->reply_at + conn->reply_sent;
}

enum ru_conn_action ru_conn_sent(struct ru_conns *conns, uint32_t index, int32_t result,
                                 uint64_t now_ns)
{
    struct ru_conn *conn = ru_conn_at(conns, index);
    RU_CHECK(conn->state == RU_CONN_WRITE);
    if (result <= 0) {
        ru_conn_close(conns, index, RU_CLOSED_RESET, now_ns);
        return RU_CONN_CLOSE;
    }
    RU_CHECK((uint32_t)result <= conn->reply_size - conn->reply_sent);
    conn->reply_sent += (uint32_t)result;
    conn->progress_ns = now_ns;
    if (conn->reply_sent < conn->reply_size)
        return RU_CONN_SEND;
    conn_end_request(conns, conn, COUNTER(tcp_answered));
    conn_release_blocks(conns, conn);
    if ((!conns->persistent || conn->refused) && ru_conn_lingers(conn)) {
        conn_set_state(conns, conn, RU_CONN_LINGER, now_ns);
        return RU_CONN_END;
    }
    if (!conns->persistent || conn->refused) {
        ru_conn_close(conns, index, RU_CLOSED_DONE, now_ns);
        return RU_CONN_CLOSE;
    }
    conn->header_have = 0;
    conn->body_have = 0;
    conn->answered_before = true;
    conn_set_state(conns, conn, RU_CONN_READ_HEADER, now_ns);
    return RU_CONN_NEXT;
}

/* ---- deadlines and tokens ---- */

uint64_t ru_conn_deadline_ns(const struct ru_conns *conns, uint32_t index,
                             enum ru_closed_reason *reason)
{
    const struct ru_conn *conn = &conns->conns[index];
    const struct ru_conn_timeouts *timeouts = &conns->timeouts;
    uint64_t progress_ns = conn->progress_ns + timeouts->progress_ns;
    switch ((enum ru_conn_state)conn->state) {
    case RU_CONN_READ_HEADER:
        if (conn->answered_before && !conn->request_open) {
            *reason = RU_CLOSED_IDLE_TIMEOUT;
            return conn->state_since_ns + timeouts->idle_ns;
        }
        *reason = RU_CLOSED_HEADER_TIMEOUT;
        return ru_number_min64(
            progress_ns, (conn->request_open ? conn->request_since_ns : conn->state_since_ns) +
                             timeouts->header_ns);
    case RU_CONN_WAIT_BLOCK: /* the delay is the node's, so only the absolute deadline applies */
        *reason = RU_CLOSED_BODY_TIMEOUT;
        return conn->state_since_ns + timeouts->body_ns;
    case RU_CONN_READ_BODY:
        *reason = RU_CLOSED_BODY_TIMEOUT;
        return ru_number_min64(progress_ns, conn->state_since_ns + timeouts->body_ns);
    case RU_CONN_WRITE:
        *reason = RU_CLOSED_WRITE_TIMEOUT;
        return ru_number_min64(progress_ns, conn->state_since_ns + timeouts->write_ns);
    case RU_CONN_LINGER:
        *reason = RU_CLOSED_DONE;
        return conn->state_since_ns + RU_LINGER_NS;
    case RU_CONN_FREE:
    case RU_CONN_PROCESSING:
    case RU_CONN_DONE:
    case RU_CONN_STATES:
        break;
    }
    return UINT64_MAX;
}

bool ru_conn_token_valid(const struct ru_conns *conns, uint64_t token, uint32_t worker)
{
    uint32_t index = ru_token_index(token) - conns->arena->slots;
    if (index >= conns->capacity || ru_token_operation(token) != 0)
        return false;
    const struct ru_conn *conn = &conns->conns[index];
    return conn->token_generation == ru_token_generation(token) && conn->with_worker &&
           conn->worker == worker;
}
