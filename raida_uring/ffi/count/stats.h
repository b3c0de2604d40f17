/* stats.h: every counter of the data plane, in one list.
 *
 * Owner: the loop thread counts in a private copy and publishes it once per lap under a sequence
 * number, so a reader's sums balance exactly (architecture, "The conservation law"):
 *   udp_received         = udp_answered  + udp_dropped_*        + udp_in_flight
 *   tcp_requests         = tcp_answered  + tcp_dropped_*        + tcp_in_flight
 *   connections_accepted = connections_closed_*                 + connections_open
 * A counter outside these sums counts events, not datagrams, requests or connections.
 */
#ifndef RU_STATS_H
#define RU_STATS_H

#include <stdint.h>

#define RU_COUNTERS(X)                                                                             \
    X(udp_received)          /* datagrams taken from the sockets */                                \
    X(udp_answered)          /* datagrams whose reply the kernel accepted */                       \
    X(udp_dropped_empty)     /* no byte at all */                                                  \
    X(udp_dropped_short)     /* under 17 bytes, or shorter than its header */                      \
    X(udp_dropped_reply)     /* another server's refusal, not a request */                         \
    X(udp_dropped_pool)      /* handlers hold every ordinary context */                            \
    X(udp_dropped_limited)   /* asked for a check after too many had failed */                     \
    X(udp_dropped_send)      /* the kernel refused the reply */                                    \
    X(udp_dropped_no_block)  /* no block for a reply that does not fit its context */              \
    X(udp_dropped_drain)     /* still with a handler when the drain ended */                       \
    X(udp_in_flight)         /* contexts between receipt and answer, now */                        \
    X(udp_truncated)         /* longer than a slot; handled as its first bytes */                  \
    X(udp_votes)             /* integrity votes answered by the I/O thread */                      \
    X(udp_receive_ended)     /* standing receives that ended and were armed again */               \
    X(udp_no_buffers)        /* ... because every slot was lent out */                             \
    X(tcp_requests)          /* requests, from their first byte */                                 \
    X(tcp_answered)          /* replies the kernel accepted in full */                             \
    X(tcp_dropped_eof)       /* the peer closed before the request was complete */                 \
    X(tcp_dropped_reset)     /* the peer reset, or the reply could not be sent */                  \
    X(tcp_dropped_timeout)   /* a deadline passed */                                               \
    X(tcp_dropped_peer_gone) /* the peer left while a handler ran */                               \
    X(tcp_dropped_drain)     /* still open when the drain ended */                                 \
    X(tcp_in_flight)         /* requests begun and not ended, now */                               \
    X(tcp_starved)           /* receives that waited for a buffer or a block */                    \
    X(connections_accepted)                                                                        \
    X(connections_open)                                                                            \
    X(connections_closed_done) /* answered, or idle and closed by the peer */                      \
    X(connections_closed_eof)  /* closed by the peer within a request */                           \
    X(connections_closed_reset)                                                                    \
    X(connections_closed_header_timeout)                                                           \
    X(connections_closed_body_timeout)                                                             \
    X(connections_closed_write_timeout)                                                            \
    X(connections_closed_idle_timeout)                                                             \
    X(connections_closed_limit)       /* over connections_max */                                   \
    X(connections_closed_descriptors) /* EMFILE or ENFILE */                                       \
    X(connections_closed_early)       /* reset before its peer's name could be read */             \
    X(connections_closed_drain)                                                                    \
    X(connections_closed_handed_over) /* another process serves it now */                          \
    X(accept_ended)                   /* standing accepts that ended and were armed again */       \
    X(echoes)                         /* plain echoes answered by the I/O thread */                \
    X(refused_headers)                /* error replies made by the I/O thread */                   \
    X(refused_slow)                   /* answered 160: the slow lane's queue is full */            \
    X(refused_limited)                /* TCP: answered 160 after too many failed checks */         \
    X(limited_source)                 /* requests not looked at: their sender's bound */           \
    X(limited_network)                /* ... its network's */                                      \
    X(limited_coin)                   /* ... their key coin's, UDP alone */                        \
    X(checks_failed)                  /* workers: checks of a secret that failed */                \
    X(tokens_refused)                 /* stale, foreign or malformed tokens from workers */        \
    X(dispatched)                     /* requests handed to workers */                             \
    X(batches)                        /* batches handed to workers */                              \
    X(laps)                           /* turns of the loop */                                      \
    X(sleeps)                         /* laps that had to wait */                                  \
    X(wakes)                          /* completions of the wake eventfd */                        \
    X(completions_overflowed) /* laps that found the completion queue overflowed: an alarm */      \
    X(loop_cpu_ns)            /* CPU time of the I/O thread, refreshed about once a second */      \
    X(refused_bodies)         /* workers: plain bodies answered 16, 33 or 37 */                    \
    X(refused_factors)        /* workers: answered 89, over udp_reply_factor_max */                \
    X(refused_sizes)          /* workers: answered 252, over the longest reply */                  \
    X(worker_lock_wait_ns)    /* workers: from a batch taken to the interpreter lock held */

struct ru_counters {
#define RU_COUNTER_FIELD(name) uint64_t name;
    RU_COUNTERS(RU_COUNTER_FIELD)
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
/* The name of counter `index`, or NULL past the last. */
const char *ru_counters_name(uint32_t index);

/* How things stand at the end of the newest lap. Each is a word by itself: unlike the counters they
 * are no sums of each other, and readers need no common moment. Lanes: ordinary, slow, write. */
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
    X(oldest_ordinary_ns) /* CLOCK_MONOTONIC when the first of them was queued; 0: none waits */   \
    X(oldest_slow_ns)                                                                              \
    X(oldest_write_ns)                                                                             \
    X(busy_ordinary) /* workers that hold requests */                                              \
    X(busy_slow)                                                                                   \
    X(busy_write)                                                                                  \
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
/* The name of gauge `index`, or NULL past the last. */
const char *ru_gauges_name(uint32_t index);

#endif
