/* conn_host.h: connections without a socket, and the laws of their counters.
 *
 * Whatever happens: requests begun = answered + dropped + in flight, connections accepted = open +
 * closed, and every block comes back.
 */
#ifndef RU_TESTS_CONN_HOST_H
#define RU_TESTS_CONN_HOST_H

#include "wire/conn.h"

#include "native.h"

#define MS 1000000ULL

struct host {
    struct native_node node;
    struct ru_blocks blocks;
    struct ru_counters counters;
    struct ru_conns conns;
    uint64_t now_ns;
    uint64_t accepted;
};

static inline void host_open(struct host *host, const struct ru_config *config)
{
    *host = (struct host){.now_ns = 1000 * MS};
    native_open(&host->node, config);
    EXPECT_EQUAL(ru_blocks_init(&host->blocks, config->small_blocks, config->large_blocks), 0);
    EXPECT_EQUAL(ru_conns_init(&host->conns, config, &host->node.front, &host->node.arena,
                               &host->blocks, &host->counters),
                 0);
}

static inline void expect_laws(const struct host *host)
{
    const struct ru_counters *c = &host->counters;
    EXPECT_EQUAL(c->tcp_requests, c->tcp_answered + c->tcp_dropped_eof + c->tcp_dropped_reset +
                                      c->tcp_dropped_timeout + c->tcp_dropped_peer_gone +
                                      c->tcp_dropped_drain + c->tcp_in_flight);
    EXPECT_EQUAL(host->accepted,
                 c->connections_open + c->connections_closed_done + c->connections_closed_eof +
                     c->connections_closed_reset + c->connections_closed_header_timeout +
                     c->connections_closed_body_timeout + c->connections_closed_write_timeout +
                     c->connections_closed_idle_timeout + c->connections_closed_early +
                     c->connections_closed_drain + c->connections_closed_handed_over);
}

/* Closed with nothing left behind. */
static inline void host_close(struct host *host)
{
    expect_laws(host);
    EXPECT_EQUAL(host->conns.used_count, 0);
    EXPECT_EQUAL(host->conns.waiting_counts[RU_BLOCK_SMALL], 0);
    EXPECT_EQUAL(host->counters.tcp_in_flight, 0);
    EXPECT_EQUAL(host->counters.connections_open, 0);
    EXPECT_EQUAL(host->blocks.free_count[0], host->node.config.small_blocks);
    EXPECT_EQUAL(host->blocks.free_count[1], host->node.config.large_blocks);
    ru_conns_destroy(&host->conns);
    ru_blocks_destroy(&host->blocks);
    native_close(&host->node);
}

static inline struct ru_conn *host_conn(struct host *host, uint32_t index)
{
    return ru_conn_at(&host->conns, index);
}

static inline uint32_t host_accept(struct host *host)
{
    uint32_t index = ru_conn_open(&host->conns, 1000, 0, host->now_ns);
    host->accepted += index != RU_NONE;
    return index;
}

/* What the loop does once nothing is in flight on a connection that is DONE. */
static inline void host_release(struct host *host, uint32_t index)
{
    host_conn(host, index)->fd = -1;
    ru_conn_count_closed(&host->conns, index);
    ru_conn_release(&host->conns, index);
    expect_laws(host);
}

/* Close from any state and release. */
static inline void host_hang_up(struct host *host, uint32_t index)
{
    if (host_conn(host, index)->state != RU_CONN_DONE)
        ru_conn_close(&host->conns, index, RU_CLOSED_RESET, host->now_ns);
    host_release(host, index);
}

/* Feed all the bytes; the action of the last one. They must not go past it. */
static inline enum ru_conn_action host_feed(struct host *host, uint32_t index, const uint8_t *bytes,
                                            uint32_t size)
{
    uint32_t used = 0;
    enum ru_conn_action action =
        ru_conn_feed(&host->conns, index, bytes, size, host->now_ns, &used);
    EXPECT_EQUAL(used, size);
    expect_laws(host);
    return action;
}

/* Feed the header of a plain worker's request with a body of `body_size` bytes. */
static inline enum ru_conn_action host_announce(struct host *host, uint32_t index,
                                                uint16_t body_size)
{
    uint8_t header[RU_HEADER_LARGE];
    uint8_t size = native_header(header, 0, NATIVE_WORKER, body_size, 0);
    return host_feed(host, index, header, size);
}

static inline enum ru_conn_action host_body(struct host *host, uint32_t index, uint32_t size)
{
    static const uint8_t zeros[65535];
    return host_feed(host, index, zeros, size);
}

/* Bring a new connection into a state; small blocks are all taken when it is WAIT_BLOCK. */
static inline uint32_t host_conn_in(struct host *host, enum ru_conn_state state)
{
    uint32_t index = host_accept(host);
    switch (state) {
    case RU_CONN_FREE:
        host_hang_up(host, index);
        break;
    case RU_CONN_WAIT_BLOCK:
        while (ru_block_acquire(&host->blocks, RU_BLOCK_SMALL, ru_block_worker(0)) != RU_NONE)
            ;
        EXPECT_EQUAL(host_announce(host, index, 300), RU_CONN_AWAIT_BLOCK);
        break;
    case RU_CONN_READ_BODY:
        EXPECT_EQUAL(host_announce(host, index, 300), RU_CONN_NOTHING);
        break;
    case RU_CONN_PROCESSING:
    case RU_CONN_WRITE:
    case RU_CONN_LINGER:
        EXPECT_EQUAL(host_announce(host, index, 0), RU_CONN_QUEUE);
        if (state != RU_CONN_PROCESSING)
            EXPECT_EQUAL(ru_conn_replied(&host->conns, index, RU_NONE, 32, host->now_ns),
                         RU_CONN_SEND);
        if (state != RU_CONN_LINGER)
            break;
        host_conn(host, index)->refused = true;
        EXPECT_EQUAL(ru_conn_sent(&host->conns, index, 32, host->now_ns), RU_CONN_END);
        break;
    case RU_CONN_DONE:
        ru_conn_close(&host->conns, index, RU_CLOSED_DRAIN, host->now_ns);
        host_conn(host, index)->fd = -1;
        break;
    case RU_CONN_READ_HEADER:
    case RU_CONN_STATES:
        break;
    }
    EXPECT_EQUAL(host_conn(host, index)->state, state);
    return index;
}

/* Give every block back that host_conn_in() took and end the connection. */
static inline void host_discard(struct host *host, uint32_t index)
{
    struct ru_conn *conn = host_conn(host, index);
    for (uint32_t block = 0; block < host->node.config.small_blocks; block++) {
        if (host->blocks.owners[block] == ru_block_worker(0))
            ru_block_release(&host->blocks, block);
    }
    if (conn->state != RU_CONN_FREE && conn->state != RU_CONN_DONE)
        ru_conn_close(&host->conns, index, RU_CLOSED_DRAIN, host->now_ns);
    if (conn->state == RU_CONN_DONE && host->counters.connections_open > 0)
        ru_conn_count_closed(&host->conns, index);
    conn->fd = -1;
    if (conn->state == RU_CONN_DONE)
        ru_conn_release(&host->conns, index);
}

#endif
