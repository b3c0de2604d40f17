/* test_conn_flow.c: connections that wait for blocks, write, end, miss deadlines. See conn_host.h. */
#include "conn_host.h"

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

/* A connection that waits for a large block does not delay those that need a small one. */
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
    EXPECT(!ru_conn_take_block(&host.conns, second, host.now_ns));
    host_hang_up(&host, first);
    EXPECT_EQUAL(host.blocks.free_count[0], 1);
    EXPECT_EQUAL(host_announce(&host, third, 2048), RU_CONN_AWAIT_BLOCK); /* though one is free */
    EXPECT_EQUAL(host_announce(&host, fourth, 256), RU_CONN_NOTHING);     /* needs none */
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 2);
    EXPECT(ru_conn_take_block(&host.conns, second, host.now_ns));
    EXPECT(!ru_conn_take_block(&host.conns, third, host.now_ns));
    EXPECT_EQUAL(host_body(&host, second, 300), RU_CONN_QUEUE);
    host_hang_up(&host, second);
    EXPECT(ru_conn_take_block(&host.conns, third, host.now_ns));
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 0);
    EXPECT_EQUAL(host_body(&host, third, 2048), RU_CONN_QUEUE);
    host_hang_up(&host, third);
    host_hang_up(&host, fourth);
    host_close(&host);
}

/* A connection that stops waiting no longer delays new ones. */
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

/* ---- writing ---- */

/* Send a reply of `size` bytes in portions of `portion`; the action of the last. */
static enum ru_conn_action host_send(struct host *host, uint32_t index, uint32_t size,
                                     uint32_t portion)
{
    uint32_t left = size, unsent = 0;
    const uint8_t *start = ru_conn_unsent(&host->conns, index, &unsent);
    for (;;) {
        EXPECT(ru_conn_unsent(&host->conns, index, &unsent) == start + (size - left));
        EXPECT_EQUAL(unsent, left);
        uint32_t sent = portion < left ? portion : left;
        enum ru_conn_action action = ru_conn_sent(&host->conns, index, (int32_t)sent, host->now_ns);
        left -= sent;
        expect_laws(host);
        if (left == 0)
            return action;
        EXPECT_EQUAL(action, RU_CONN_SEND);
    }
}

static void test_pitfall_3_6_partial_sends_of_every_size(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    for (uint32_t portion = 1; portion <= RU_INLINE_SIZE; portion++) {
        EXPECT_EQUAL(host_announce(&host, index, 0), RU_CONN_QUEUE);
        EXPECT_EQUAL(ru_conn_replied(&host.conns, index, RU_NONE, RU_INLINE_SIZE, host.now_ns),
                     RU_CONN_SEND);
        EXPECT_EQUAL(host_send(&host, index, RU_INLINE_SIZE, portion), RU_CONN_NEXT);
    }
    EXPECT_EQUAL(host.counters.tcp_answered, RU_INLINE_SIZE);
    host_hang_up(&host, index);
    host_close(&host);
}

/* A reply in a block of its own, and one in the block of the body: each comes back once. */
static void test_replies_in_blocks(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    for (uint32_t own = 0; own <= 1; own++) {
        EXPECT_EQUAL(host_announce(&host, index, 60000), RU_CONN_NOTHING);
        EXPECT_EQUAL(host_body(&host, index, 60000), RU_CONN_QUEUE);
        uint32_t block = host_conn(&host, index)->body_block;
        if (own)
            block = ru_block_acquire(&host.blocks, RU_BLOCK_LARGE, host.node.arena.slots + index);
        EXPECT_EQUAL(ru_conn_replied(&host.conns, index, block, RU_REPLY_MAX, host.now_ns),
                     RU_CONN_SEND);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks - 1 - own);
        EXPECT_EQUAL(host_send(&host, index, RU_REPLY_MAX, 1777), RU_CONN_NEXT);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks);
    }
    host_hang_up(&host, index);
    host_close(&host);
}

static void test_a_send_that_fails(void)
{
    static const int32_t results[] = {0, -EPIPE, -ECONNRESET};
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t index = host_conn_in(&host, RU_CONN_WRITE);
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 10, host.now_ns), RU_CONN_SEND);
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, results[i], host.now_ns), RU_CONN_CLOSE);
        EXPECT_EQUAL(host_conn(&host, index)->reason, RU_CLOSED_RESET);
        host_release(&host, index);
    }
    EXPECT_EQUAL(host.counters.tcp_dropped_reset, 3);
    host_close(&host);
}

/* Refused by a full slow lane: answered, and the connection goes on. Refused by its header: the
 * body is never read, so the connection ends. */
static void test_what_ends_a_persistent_connection(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    host.node.front.identity.body_bytes_max = 100;
    uint32_t index = host_accept(&host), size;
    EXPECT_EQUAL(host_announce(&host, index, 0), RU_CONN_QUEUE);
    EXPECT_EQUAL(ru_conn_refuse(&host.conns, index, RU_STATUS_REQUEST_RATE, host.now_ns),
                 RU_CONN_SEND);
    EXPECT_EQUAL(ru_conn_unsent(&host.conns, index, &size)[2], 160);
    EXPECT_EQUAL(host_send(&host, index, size, 32), RU_CONN_NEXT);
    EXPECT_EQUAL(host_announce(&host, index, 101), RU_CONN_SEND);
    EXPECT_EQUAL(ru_conn_unsent(&host.conns, index, &size)[2], 16);
    EXPECT_EQUAL(host_send(&host, index, size, 32), RU_CONN_END);
    EXPECT_EQUAL(host_conn(&host, index)->state, RU_CONN_LINGER);
    ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
    host_release(&host, index);
    host_close(&host);
}

/* The last reply has been sent: the peer is heard out if the reply is long or if more is known to
 * come, unless it has ended already. */
static void test_what_follows_the_last_reply(void)
{
    static const struct {
        uint32_t size;
        bool more_expected, refused, eof, lingers;
    } cases[] = {
        {.size = 32},
        {.size = RU_INLINE_SIZE},
        {.size = 32, .more_expected = true, .lingers = true},
        {.size = 32, .refused = true, .lingers = true},
        {.size = RU_INLINE_SIZE + 1, .lingers = true},
        {.size = RU_REPLY_MAX, .more_expected = true, .eof = true},
    };
    struct ru_config config = native_config();
    config.tcp_persistent = 0;
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host host;
        host_open(&host, &config);
        uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
        struct ru_conn *conn = host_conn(&host, index);
        uint32_t block =
            ru_block_acquire(&host.blocks, RU_BLOCK_LARGE, host.node.arena.slots + index);
        (void)ru_conn_replied(&host.conns, index, block, cases[i].size, host.now_ns);
        conn->more_expected = cases[i].more_expected;
        conn->refused = cases[i].refused;
        conn->eof = cases[i].eof;
        bool lingers = cases[i].lingers;
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, (int32_t)cases[i].size, host.now_ns),
                     lingers ? RU_CONN_END : RU_CONN_CLOSE);
        EXPECT_EQUAL(conn->state, lingers ? RU_CONN_LINGER : RU_CONN_DONE);
        EXPECT_EQUAL(host.counters.tcp_answered, 1);
        EXPECT_EQUAL(host.counters.tcp_in_flight, 0);
        EXPECT_EQUAL(host.counters.connections_open, 1);
        if (lingers)
            ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
        host_release(&host, index);
        EXPECT_EQUAL(host.counters.connections_closed_done, 1);
        host_close(&host);
    }
}

/* ---- deadlines ---- */

#define EXPECT_DEADLINE(index, want_ns, want_reason)                                               \
    do {                                                                                           \
        enum ru_closed_reason reason = RU_CLOSED_REASONS;                                          \
        EXPECT_EQUAL(ru_conn_deadline_ns(&host.conns, index, &reason), want_ns);                   \
        EXPECT_EQUAL(reason, want_reason);                                                         \
    } while (0)

/* native_config(): progress 2 s; absolute header 5, body 15, write 14; idle 60. */
static void test_deadlines_of_a_slow_peer(void)
{
    struct ru_config config = native_config();
    struct host host;
    uint8_t bytes[RU_HEADER_LARGE];
    (void)native_header(bytes, 0, NATIVE_WORKER, 300, 0);
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    uint64_t start_ns = host.now_ns;
    EXPECT_DEADLINE(index, start_ns + 2000 * MS, RU_CLOSED_HEADER_TIMEOUT);
    for (uint32_t i = 0; i < 31; i++) { /* a byte every 150 ms: progress, but the end is fixed */
        host.now_ns += 150 * MS;
        EXPECT_EQUAL(host_feed(&host, index, bytes + i, 1), RU_CONN_NOTHING);
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 150 * MS + 5000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns,
                        RU_CLOSED_HEADER_TIMEOUT);
    }
    EXPECT_EQUAL(host_feed(&host, index, bytes + RU_HEADER_SMALL - 1, 1), RU_CONN_NOTHING);
    start_ns = host.now_ns;
    for (uint32_t i = 0; i < 299; i++) {
        host.now_ns += 50 * MS;
        EXPECT_EQUAL(host_body(&host, index, 1), RU_CONN_NOTHING);
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 15000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns, RU_CLOSED_BODY_TIMEOUT);
    }
    ru_conn_close(&host.conns, index, RU_CLOSED_BODY_TIMEOUT, host.now_ns);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS);
    host_release(&host, index);
    EXPECT_EQUAL(host.counters.tcp_dropped_timeout, 1);
    EXPECT_EQUAL(host.counters.connections_closed_body_timeout, 1);
    host_close(&host);
}

static void test_deadlines_of_the_other_states(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t holder = host_conn_in(&host, RU_CONN_READ_BODY), index = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, index, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_DEADLINE(index, host.now_ns + 15000 * MS, RU_CLOSED_BODY_TIMEOUT);
    host_hang_up(&host, holder);
    host.now_ns += 9000 * MS;
    EXPECT(ru_conn_take_block(&host.conns, index, host.now_ns));
    EXPECT_DEADLINE(index, host.now_ns + 2000 * MS, RU_CLOSED_BODY_TIMEOUT);
    EXPECT_EQUAL(host_body(&host, index, 300), RU_CONN_QUEUE);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS); /* a handler takes what it takes */

    host.now_ns += 99000 * MS;
    (void)ru_conn_replied(&host.conns, index, RU_NONE, 100, host.now_ns);
    uint64_t start_ns = host.now_ns;
    for (uint32_t i = 0; i < 90; i++) {
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 14000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns,
                        RU_CLOSED_WRITE_TIMEOUT);
        host.now_ns += 150 * MS;
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 1, host.now_ns), RU_CONN_SEND);
    }
    EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 10, host.now_ns), RU_CONN_NEXT);
    EXPECT_DEADLINE(index, host.now_ns + 60000 * MS, RU_CLOSED_IDLE_TIMEOUT);

    host.now_ns += 59000 * MS; /* the next request's header has its own time */
    EXPECT_EQUAL(host_feed(&host, index, (const uint8_t *)"\1", 1), RU_CONN_NOTHING);
    EXPECT_DEADLINE(index, host.now_ns + 2000 * MS, RU_CLOSED_HEADER_TIMEOUT);
    host_hang_up(&host, index);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS);

    index = host_conn_in(&host, RU_CONN_LINGER);
    EXPECT_DEADLINE(index, host.now_ns + RU_LINGER_NS, RU_CLOSED_DONE);
    ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
    host_release(&host, index);
    host_close(&host);
}

/* What each reason counts as, with a request open. */
static void test_every_reason_is_counted(void)
{
    struct ru_config config = native_config();
    for (enum ru_closed_reason reason = 0; reason < RU_CLOSED_REASONS; reason++) {
        struct host host;
        host_open(&host, &config);
        uint32_t index = host_conn_in(&host, RU_CONN_READ_BODY);
        ru_conn_close(&host.conns, index, reason, host.now_ns);
        host_release(&host, index);
        struct ru_counters *c = &host.counters;
        const uint64_t closed[RU_CLOSED_REASONS] = {
            c->connections_closed_done,         c->connections_closed_eof,
            c->connections_closed_reset,        c->connections_closed_header_timeout,
            c->connections_closed_body_timeout, c->connections_closed_write_timeout,
            c->connections_closed_idle_timeout, c->connections_closed_early,
            c->connections_closed_drain,        c->connections_closed_handed_over};
        EXPECT_EQUAL(closed[reason], 1);
        host_close(&host);
    }
}

int main(void)
{
    RUN(test_body_memory_by_size);
    RUN(test_waiting_is_by_class);
    RUN(test_waiting_for_blocks_is_fair);
    RUN(test_a_waiter_that_leaves);
    RUN(test_pitfall_3_6_partial_sends_of_every_size);
    RUN(test_replies_in_blocks);
    RUN(test_a_send_that_fails);
    RUN(test_what_ends_a_persistent_connection);
    RUN(test_what_follows_the_last_reply);
    RUN(test_deadlines_of_a_slow_peer);
    RUN(test_deadlines_of_the_other_states);
    RUN(test_every_reason_is_counted);
    return native_finish();
}
