/* stats.h: every counter of the data plane, a row each, which Python, /metrics, the tables in docs/
 * and the tests follow.
 *
 * Owner: the loop thread counts in a private copy and publishes it once per lap under a sequence
 * number, so a reader's sums balance exactly (docs/reference.md, "Counters"):
 *   udp_received         = udp_answered  + udp_dropped_*        + udp_in_flight
 *   tcp_requests         = tcp_answered  + tcp_dropped_*        + tcp_in_flight
 *   connections_accepted = connections_closed_*                 + connections_open
 * A counter outside these sums counts events, not datagrams, requests or connections.
 */
#ifndef RU_STATS_H
#define RU_STATS_H

#include <stdint.h>

#include "ru.h"

/* X(name, kind, meaning): RU_COUNTER_<kind> says which law the counter is a term of. The meaning is
 * what docs/ and /metrics tell; a name ending in _ns counts nanoseconds. */
#define RU_LOOP_COUNTERS(X)                                                                        \
    X(udp_received, UDP_BEGUN, "datagrams taken from the sockets")                                 \
    X(udp_answered, UDP_ENDED, "datagrams whose reply the kernel accepted")                        \
    X(udp_dropped_empty, UDP_ENDED, "empty datagrams")                                             \
    X(udp_dropped_short, UDP_ENDED, "under 17 bytes, or shorter than its header")                  \
    X(udp_dropped_reply, UDP_ENDED,                                                                \
      "another server's refusal, received as if it were a request; answering it could "            \
      "go on for ever")                                                                            \
    X(udp_dropped_pool, UDP_ENDED, "handlers hold every ordinary context")                         \
    X(udp_dropped_limited, UDP_ENDED,                                                              \
      "asked for a check of a secret after too many had failed (`[limits] "                        \
      "failed_checks_*`)")                                                                         \
    X(udp_dropped_stale, UDP_ENDED,                                                                \
      "waited for a worker for longer than `[limits] queue_age_max_ms`")                           \
    X(udp_dropped_share, UDP_ENDED,                                                                \
      "would change coins, and half of `[udp] contexts` wait to do so already")                    \
    X(udp_dropped_send, UDP_ENDED,                                                                 \
      "the kernel refused the reply: full send buffer, firewall, no route, port 0")                \
    X(udp_dropped_no_block, UDP_ENDED, "no memory block for a reply that does not fit its slot")   \
    X(udp_dropped_drain, UDP_ENDED, "still with a handler when the drain ended")                   \
    X(udp_in_flight, UDP_OPEN, "between receipt and answer, now")                                  \
    X(udp_truncated, EVENT, "longer than `udp_effective_payload`; handled as its first bytes")     \
    X(udp_votes, EVENT, "integrity votes answered by the I/O thread")                              \
    X(udp_receive_ended, EVENT,                                                                    \
      "standing receives that ended, for whatever reason; each is armed again")                    \
    X(udp_no_buffers, EVENT,                                                                       \
      "standing receives that ended because no slot was left to receive into")                     \
    X(tcp_requests, TCP_BEGUN, "requests, from their first byte")                                  \
    X(tcp_answered, TCP_ENDED, "replies the kernel accepted in full")                              \
    X(tcp_dropped_eof, TCP_ENDED, "the peer closed before the request was complete")               \
    X(tcp_dropped_reset, TCP_ENDED, "the peer reset, or the reply could not be sent")              \
    X(tcp_dropped_timeout, TCP_ENDED, "a deadline of `[tcp]` passed")                              \
    X(tcp_dropped_peer_gone, TCP_ENDED,                                                            \
      "the connection ended while a handler ran; its late answer was discarded")                   \
    X(tcp_dropped_drain, TCP_ENDED, "still open when the drain ended")                             \
    X(tcp_in_flight, TCP_OPEN, "requests begun and not ended, now")                                \
    X(tcp_starved, EVENT,                                                                          \
      "receives that waited for a buffer (`[tcp] buffers`) or a block (`[limits]`)")               \
    X(connections_accepted, CONNECTIONS_BEGUN, "accepted, those closed at once included")          \
    X(connections_open, CONNECTIONS_OPEN, "open now")                                              \
    X(connections_closed_done, CONNECTIONS_ENDED,                                                  \
      "answered, or closed by the peer between requests")                                          \
    X(connections_closed_eof, CONNECTIONS_ENDED, "closed by the peer within a request")            \
    X(connections_closed_reset, CONNECTIONS_ENDED, "reset by the peer, or a send failed")          \
    X(connections_closed_header_timeout, CONNECTIONS_ENDED, "no complete header in time")          \
    X(connections_closed_body_timeout, CONNECTIONS_ENDED, "no complete body in time")              \
    X(connections_closed_write_timeout, CONNECTIONS_ENDED,                                         \
      "the peer did not take the reply in time")                                                   \
    X(connections_closed_idle_timeout, CONNECTIONS_ENDED,                                          \
      "persistent and silent for `idle_timeout_ms`")                                               \
    X(connections_closed_limit, CONNECTIONS_ENDED, "over `connections_max`: reset at once")        \
    X(connections_closed_descriptors, CONNECTIONS_ENDED, "no descriptor left: reset at once")      \
    X(connections_closed_early, CONNECTIONS_ENDED,                                                 \
      "reset before the peer's address could be read")                                             \
    X(connections_closed_drain, CONNECTIONS_ENDED,                                                 \
      "idle when the drain began, or open when it ended")                                          \
    X(connections_closed_handed_over, CONNECTIONS_ENDED,                                           \
      "idle at an upgrade: the successor serves it")                                               \
    X(accept_ended, EVENT, "standing accepts that ended; each is armed again")                     \
    X(echoes, EVENT, "plain echoes answered by the I/O thread, UDP and TCP")                       \
    X(refused_headers, EVENT, "error replies made by the I/O thread; over TCP those with 160 too") \
    X(refused_slow, EVENT, "answered 160: the slow lane's queue was full")                         \
    X(refused_stale, EVENT,                                                                        \
      "TCP: answered 160 and closed, after `[limits] queue_age_max_ms` without a worker")          \
    X(refused_limited, EVENT, "TCP: answered 160 and closed, because too many checks had failed")  \
    X(limited_source, EVENT,                                                                       \
      "requests not looked at because their sender had failed too many checks")                    \
    X(limited_network, EVENT,                                                                      \
      "requests not looked at because their network had failed too many checks")                   \
    X(limited_coin, EVENT,                                                                         \
      "requests not looked at because too many checks had failed under their key coin")            \
    X(tokens_refused, EVENT,                                                                       \
      "stale or malformed tokens and replies from workers: a bug, report it")                      \
    X(dispatched, EVENT, "requests handed to workers or, if light, executed by the I/O thread")    \
    X(batches, EVENT, "batches of such requests")                                                  \
    X(laps, EVENT, "laps of the I/O thread's loop")                                                \
    X(sleeps, EVENT, "laps that had to wait")                                                      \
    X(wakes, EVENT, "times that another thread woke the loop")                                     \
    X(completions_overflowed, EVENT,                                                               \
      "laps that found the completion queue overflowed; nothing is lost, but it is slow")          \
    X(loop_cpu_ns, EVENT, "CPU time of the I/O thread, refreshed about once a second")

/* Counted by each worker in its mailbox, and summed when they are read: events, terms of no law. */
#define RU_WORKER_COUNTERS(X)                                                                      \
    X(refused_bodies, EVENT, "unencrypted requests answered by the body check: 16, 33 or 37")      \
    X(refused_factors, EVENT, "answered 89: longer than `udp_reply_factor_max` allows")            \
    X(refused_sizes, EVENT, "answered 252: longer than the longest reply")                         \
    X(checks_failed, EVENT,                                                                        \
      "checks of a key or other secret that failed: 25, 34, 37, 38, 43, 204")                      \
    X(echoes_worked, EVENT, "echoes answered otherwise: encrypted ones, and those with a payload") \
    X(coins_powned, EVENT, "coins whose AN was changed by an owner")                               \
    X(value_powned, EVENT, "their value, in units of 10^-8 coin")                                  \
    X(worker_lock_wait_ns, EVENT, "time of workers from a batch taken to the interpreter lock held")

#define RU_COUNTERS(X) RU_LOOP_COUNTERS(X) RU_WORKER_COUNTERS(X)

struct ru_counters {
#define RU_COUNTER_FIELD(name, kind, meaning) uint64_t name;
    RU_COUNTERS(RU_COUNTER_FIELD)
#undef RU_COUNTER_FIELD
};

struct ru_worker_counters {
#define RU_COUNTER_FIELD(name, kind, meaning) uint64_t name;
    RU_WORKER_COUNTERS(RU_COUNTER_FIELD)
#undef RU_COUNTER_FIELD
};

enum {
    RU_COUNTERS_COUNT = sizeof(struct ru_counters) / sizeof(uint64_t)
};

/* The published copy; lives in the arena. */
struct ru_counters_page {
    uint64_t sequence; /* odd while being written */
    uint64_t values[RU_COUNTERS_COUNT];
};

/* Thread: loop. */
void ru_counters_publish(struct ru_counters_page *page, const struct ru_counters *counters);
/* Thread: any. Copies one consistent set of values. */
void ru_counters_read(const struct ru_counters_page *page, uint64_t *values);
/* Thread: any. Adds what a worker has counted so far. */
void ru_stats_add(struct ru_counters *counters, const struct ru_worker_counters *worker);

/* How things stand at the end of the newest lap. Each is a word by itself: unlike the counters they
 * are no sums of each other, and readers need no common moment. Lanes: ordinary, slow, write, native, native_write. */
#define RU_GAUGES(X)                                                                               \
    X(udp_contexts_held) /* queued and with workers, together; up to `[udp] contexts` */           \
    X(small_blocks_used) /* not free, those lent to workers included */                            \
    X(large_blocks_used)                                                                           \
    X(small_blocks_lent) /* held by workers in advance, for replies to come */                     \
    X(large_blocks_lent)                                                                           \
    X(tcp_buffers_used) /* not lent to the kernel */                                               \
    X(queued_ordinary)  /* requests that wait for a worker */                                      \
    X(queued_slow)                                                                                 \
    X(queued_write)                                                                                \
    X(queued_native)                                                                               \
    X(queued_native_write)                                                                         \
    X(oldest_ordinary_ns) /* CLOCK_MONOTONIC when the first of them was queued; 0: none waits */   \
    X(oldest_slow_ns)                                                                              \
    X(oldest_write_ns)                                                                             \
    X(oldest_native_ns)                                                                            \
    X(oldest_native_write_ns)                                                                      \
    X(busy_ordinary) /* workers that hold requests */                                              \
    X(busy_slow)                                                                                   \
    X(busy_write)                                                                                  \
    X(busy_native)                                                                                 \
    X(busy_native_write)                                                                           \
    X(stale_at_ns)      /* CLOCK_MONOTONIC when a request was last found too old; 0: never */      \
    X(refused_since_ns) /* CLOCK_MONOTONIC of the first connection refused in the newest spell */  \
    X(refused_at_ns)    /* and of the latest; 0: none was ever refused */

struct ru_gauges {
#define RU_GAUGE_FIELD(name) uint64_t name;
    RU_GAUGES(RU_GAUGE_FIELD)
#undef RU_GAUGE_FIELD
};

enum {
    RU_GAUGES_COUNT = sizeof(struct ru_gauges) / sizeof(uint64_t)
};

/* The published copy; lives in the arena. */
struct ru_gauges_page {
    uint64_t values[RU_GAUGES_COUNT];
};

/* Thread: loop. */
void ru_gauges_publish(struct ru_gauges_page *page, const struct ru_gauges *gauges);
/* Thread: any. */
void ru_gauges_read(const struct ru_gauges_page *page, uint64_t *values);

#endif
