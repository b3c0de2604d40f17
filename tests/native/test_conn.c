/* test_conn.c: the connection state machine: legal calls, a connection's life, blocks. */
#include "conn_host.h"

/* ---- legal and illegal calls ---- */

enum call {
    CALL_FEED,
    CALL_UNSTARVE,
    CALL_END_OF_STREAM,
    CALL_REPLIED,
    CALL_REFUSE,
    CALL_UNSENT,
    CALL_SENT,
    CALL_CLOSE,
    CALL_COUNT_CLOSED,
    CALL_RELEASE,
    CALLS,
};

#define IN(state) (1U << RU_CONN_##state)

/* The states in which each call is legal. */
static const uint32_t legal_in[CALLS] = {
    [CALL_FEED] = IN(READ_HEADER) | IN(READ_BODY),
    [CALL_UNSTARVE] = IN(WAIT_BLOCK),
    [CALL_END_OF_STREAM] = IN(READ_HEADER) | IN(WAIT_BLOCK) | IN(READ_BODY),
    [CALL_REPLIED] = IN(PROCESSING),
    [CALL_REFUSE] = IN(PROCESSING),
    [CALL_UNSENT] = IN(WRITE),
    [CALL_SENT] = IN(WRITE),
    [CALL_CLOSE] =
        IN(READ_HEADER) | IN(WAIT_BLOCK) | IN(READ_BODY) | IN(PROCESSING) | IN(WRITE) | IN(LINGER),
    [CALL_COUNT_CLOSED] = IN(DONE),
    [CALL_RELEASE] = IN(DONE),
};

static void do_call(struct host *host, uint32_t index, enum call call)
{
    struct ru_conns *conns = &host->conns;
    uint32_t size;
    switch (call) {
    case CALL_FEED:
        (void)ru_conn_feed(conns, index, (const uint8_t *)"", 1, host->now_ns, &size);
        break;
    case CALL_UNSTARVE:
        (void)ru_conn_retry_block(conns, index, host->now_ns);
        break;
    case CALL_END_OF_STREAM:
        (void)ru_conn_end_of_stream(conns, index, host->now_ns);
        break;
    case CALL_REPLIED:
        (void)ru_conn_replied(conns, index, RU_NONE, 32, host->now_ns);
        break;
    case CALL_REFUSE:
        (void)ru_conn_refuse(conns, index, RU_STATUS_REQUEST_RATE, host->now_ns);
        break;
    case CALL_UNSENT:
        (void)ru_conn_unsent(conns, index, &size);
        break;
    case CALL_SENT:
        (void)ru_conn_sent(conns, index, 1, host->now_ns);
        break;
    case CALL_CLOSE:
        ru_conn_close(conns, index, RU_CLOSED_RESET, host->now_ns);
        break;
    case CALL_COUNT_CLOSED:
        ru_conn_count_closed(conns, index);
        break;
    case CALL_RELEASE:
        host_conn(host, index)->fd = -1;
        ru_conn_release(conns, index);
        break;
    case CALLS:
        break;
    }
}

static void test_every_call_in_every_state(void)
{
    struct ru_config config = native_config();
    for (enum ru_conn_state state = RU_CONN_FREE; state < RU_CONN_STATES; state++) {
        for (enum call call = 0; call < CALLS; call++) {
            struct host host;
            host_open(&host, &config);
            uint32_t index = host_conn_in(&host, state);
            if (legal_in[call] & 1U << state) {
                if (call == CALL_RELEASE)
                    ru_conn_count_closed(&host.conns, index);
                do_call(&host, index, call);
            } else {
                EXPECT_ABORT(do_call(&host, index, call));
            }
            host_discard(&host, index);
            host_close(&host);
        }
    }
}

/* Operations in flight, a worker or a queue that still know a connection keep it from release. */
static void test_release_needs_everybody_gone(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_DONE);
    struct ru_conn *conn = host_conn(&host, index);
    bool *const flags[] = {&conn->queued, &conn->with_worker, &conn->receiving, &conn->sending,
                           &conn->awaits_memory};
    for (uint32_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        *flags[i] = true;
        EXPECT_ABORT(ru_conn_release(&host.conns, index));
        *flags[i] = false;
    }
    conn->unread.first = 0;
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    conn->unread = RU_LIST_EMPTY;
    conn->fd = 5;
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    conn->fd = -1;
    host_release(&host, index);
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    host_close(&host);
}

static void test_other_misuse(void)
{
    struct ru_config config = native_config();
    struct host host;
    uint32_t used;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
    struct ru_conn *conn = host_conn(&host, index);
    EXPECT_ABORT((void)ru_conn_at(&host.conns, host.conns.capacity));
    conn->with_worker = true;
    EXPECT_ABORT(do_call(&host, index, CALL_REPLIED)); /* before it came back */
    EXPECT_ABORT(do_call(&host, index, CALL_REFUSE));
    conn->with_worker = false;
    conn->queued = true;
    EXPECT_ABORT(do_call(&host, index, CALL_REPLIED));
    EXPECT_ABORT(do_call(&host, index, CALL_REFUSE));
    conn->queued = false;
    do_call(&host, index, CALL_REPLIED);
    EXPECT_ABORT((void)ru_conn_sent(&host.conns, index, 33, 0)); /* more than there is */
    host_hang_up(&host, index);
    index = host_accept(&host);
    EXPECT_ABORT((void)ru_conn_feed(&host.conns, index, NULL, 0, 0, &used));
    host_hang_up(&host, index);
    host_close(&host);
}

/* ---- life ---- */

static void test_nothing_of_the_last_connection_survives(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_READ_BODY);
    struct ru_conn *conn = host_conn(&host, index);
    conn->answered_before = conn->refused = conn->eof = conn->discards = true;
    conn->cancelling = conn->cancelling_send = true;
    uint32_t generation = conn->generation;
    host_hang_up(&host, index);
    EXPECT_EQUAL(host_accept(&host), index);
    EXPECT_EQUAL(conn->generation, generation + 1);
    EXPECT_EQUAL(conn->state, RU_CONN_READ_HEADER);
    EXPECT_EQUAL(conn->header_have + conn->body_have, 0);
    EXPECT(!conn->request_open && !conn->answered_before && !conn->refused);
    EXPECT(!conn->eof && !conn->discards && !conn->cancelling && !conn->cancelling_send);
    EXPECT(conn->body_block == RU_NONE && conn->reply_block == RU_NONE);
    EXPECT(conn->unread.first == RU_NONE && conn->unread.last == RU_NONE);
    EXPECT_EQUAL(conn->state_since_ns, host.now_ns);
    conn->generation = UINT32_MAX;
    host_hang_up(&host, index);
    EXPECT_EQUAL(conn->generation, 1);
    host_close(&host);
}

static void test_as_many_connections_as_configured(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < config.connections_max; i++)
        EXPECT(host_accept(&host) < config.connections_max);
    EXPECT_EQUAL(host_accept(&host), RU_NONE);
    for (uint32_t i = 0; i < config.connections_max; i++)
        host_hang_up(&host, i);
    host_close(&host);
}

/* A worker keeps the context of a peer that left until it returns it. */
static void test_an_orphan_is_the_workers(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
    struct ru_conn *conn = host_conn(&host, index);
    uint64_t token = ru_token_pack(0, host.node.arena.slots + index, conn->token_generation);
    EXPECT(!ru_conn_token_valid(&host.conns, token, 2)); /* still queued */
    conn->with_worker = true;
    conn->worker = 2;
    EXPECT(ru_conn_token_valid(&host.conns, token, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token, 1));
    EXPECT(!ru_conn_token_valid(&host.conns, token + 1, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token | 1 << 24, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token - (1ULL << 32), 2));
    EXPECT(!ru_conn_token_valid(&host.conns, ru_token_pack(0, 0, conn->generation), 2)); /* UDP */
    EXPECT(!ru_conn_token_valid(&host.conns, UINT64_MAX, 2));

    ru_conn_close(&host.conns, index, RU_CLOSED_RESET, host.now_ns);
    conn->fd = -1;
    ru_conn_count_closed(&host.conns, index);
    expect_laws(&host);
    EXPECT_EQUAL(host.counters.tcp_in_flight, 1);
    EXPECT(ru_conn_token_valid(&host.conns, token, 2));
    conn->with_worker = false; /* it has come back */
    ru_conn_release(&host.conns, index);
    EXPECT_EQUAL(host.counters.tcp_dropped_peer_gone, 1);
    EXPECT(!ru_conn_token_valid(&host.conns, token, 2));
    host_close(&host);
}

/* ---- blocks ---- */

/* Where a body of each size lies, and that its memory is taken after the header only. */
static void test_body_memory_by_size(void)
{
    static const struct {
        uint16_t body_size;
        uint32_t small, large; /* blocks */
    } cases[] = {{0, 0, 0},    {1, 0, 0},    {256, 0, 0},  {257, 1, 0},
                 {2048, 1, 0}, {2049, 0, 1}, {65535, 0, 1}};
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t header[RU_HEADER_LARGE];
        uint32_t index = host_accept(&host);
        (void)native_header(header, 0, NATIVE_WORKER, cases[i].body_size, 0);
        EXPECT_EQUAL(host_feed(&host, index, header, 31), RU_CONN_NOTHING);
        EXPECT_EQUAL(host.blocks.free_count[0], config.small_blocks);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks);
        (void)host_feed(&host, index, header + RU_HEADER_SMALL - 1, 1);
        EXPECT_EQUAL(host.blocks.free_count[0], config.small_blocks - cases[i].small);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks - cases[i].large);
        host_hang_up(&host, index);
    }
    host_close(&host);
}

/* Whoever waits for a large block does not hold up those that a small one serves. */
static void test_waiting_is_by_class(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.large_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), second = host_accept(&host), third = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 60000), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, second, 60000), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(host_announce(&host, third, 300), RU_CONN_NOTHING);
    host_hang_up(&host, first);
    host_hang_up(&host, second);
    host_hang_up(&host, third);
    host_close(&host);
}

/* One block, four requests: each waits its turn, a newcomer behind those who wait already. */
static void test_waiting_for_blocks_is_fair(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), second = host_accept(&host);
    uint32_t third = host_accept(&host), fourth = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 300), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, second, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, second, host.now_ns), RU_CONN_AWAIT_BLOCK);
    host_hang_up(&host, first);
    EXPECT_EQUAL(host.blocks.free_count[0], 1);
    EXPECT_EQUAL(host_announce(&host, third, 2048), RU_CONN_AWAIT_BLOCK); /* though one is free */
    EXPECT_EQUAL(host_announce(&host, fourth, 256), RU_CONN_NOTHING);     /* needs none */
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 2);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, second, host.now_ns), RU_CONN_NOTHING);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, third, host.now_ns), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(host_body(&host, second, 300), RU_CONN_QUEUE);
    host_hang_up(&host, second);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, third, host.now_ns), RU_CONN_NOTHING);
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 0);
    EXPECT_EQUAL(host_body(&host, third, 2048), RU_CONN_QUEUE);
    host_hang_up(&host, third);
    host_hang_up(&host, fourth);
    host_close(&host);
}

/* Whoever stops waiting no longer holds newcomers up. */
static void test_a_waiter_that_leaves(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), waiter = host_accept(&host), last = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 300), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, waiter, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(ru_conn_end_of_stream(&host.conns, waiter, host.now_ns), RU_CONN_CLOSE);
    EXPECT_EQUAL(host_conn(&host, waiter)->reason, RU_CLOSED_EOF);
    host_release(&host, waiter);
    host_hang_up(&host, first);
    EXPECT_EQUAL(host_announce(&host, last, 300), RU_CONN_NOTHING);
    host_hang_up(&host, last);
    host_close(&host);
}

int main(void)
{
    RUN(test_every_call_in_every_state);
    RUN(test_release_needs_everybody_gone);
    RUN(test_other_misuse);
    RUN(test_nothing_of_the_last_connection_survives);
    RUN(test_as_many_connections_as_configured);
    RUN(test_an_orphan_is_the_workers);
    RUN(test_body_memory_by_size);
    RUN(test_waiting_is_by_class);
    RUN(test_waiting_for_blocks_is_fair);
    RUN(test_a_waiter_that_leaves);
    return native_finish();
}
