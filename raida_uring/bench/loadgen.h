/* loadgen.h: interface of the benchmark's load generator for Python.
 *
 * build.py also passes the text between the cdef marks to cffi. The prefix is lg_ because this is a
 * client, which shares no code with the node that it measures.
 * Thread: every function may be called from any thread; calls share no state, so two loads can run
 * at the same time. Pointers belong to the caller and are not kept after the call.
 * Failures are -errno; wrong and missing replies are counted in the result instead.
 */
#ifndef RAIDA_URING_BENCH_LOADGEN_H
#define RAIDA_URING_BENCH_LOADGEN_H

#include <stdint.h>

/* cdef: begin */
enum {
    LG_WINDOW_MAX = 4096,       /* UDP requests outstanding: 12 slot bits leave 4 of the tag */
    LG_CONNECTIONS_MAX = 10000, /* TCP connections open at once */
    LG_REQUEST_BYTES_MAX = 16384,
    LG_REPLY_BYTES_MAX = 2048,   /* longest expected reply */
    LG_TAG_BYTES = 2,            /* identifies a request: the echo field */
    LG_HISTOGRAM_BUCKETS = 2048, /* 64 linear steps per power of two, up to 2^37 ns (137 s) */
};

/* Log-linear: a bucket is at most 1/64 of its value wide. All in nanoseconds. */
struct lg_histogram {
    uint64_t buckets[LG_HISTOGRAM_BUCKETS];
    uint64_t count;
    uint64_t max;
};

/* A request and its expected reply. The tag is written into each request at its offset and expected
 * at that of the reply; reply bits whose mask is 0 (execution time) are not compared. */
struct lg_exchange {
    uint32_t request_bytes;
    uint32_t request_tag_offset;
    uint32_t reply_bytes;
    uint32_t reply_tag_offset;
    uint8_t request[LG_REQUEST_BYTES_MAX];
    uint8_t reply[LG_REPLY_BYTES_MAX];
    uint8_t reply_mask[LG_REPLY_BYTES_MAX];
    /* Where requests differ by more than the tag: `turns` times `window` whole requests, which are
     * sent as they are; else NULL. Slot i (UDP) or connection i (TCP) sends number i, with tag i, in
     * its first turn, number window + i in its second, and after its last the first again; also after
     * a request that was not answered right. Borrowed during the run, like replies. */
    const uint8_t *variants;
    const uint8_t *replies; /* as many expected replies; NULL: all are like `reply` */
    /* Without variants the rest is not used. */
    uint32_t turns;
    uint32_t
        round; /* turns that belong together: what one changes the next changes back. A slot ends
                     * after a whole round. Divides turns */
};

struct lg_load {
    char host[16]; /* dotted IPv4 */
    uint16_t port;
    uint32_t window;      /* UDP: requests outstanding, a power of two. TCP: connections, each of
                           * one request */
    uint32_t rate_per_s;  /* UDP: 0 = closed loop, n = open loop, n requests intended a second */
    uint32_t duration_ms; /* requests are started for this long; then answers are awaited */
    uint32_t timeout_ms;  /* a request without an answer for this long is lost */
    uint32_t busy_poll;   /* 1 = never sleep (a core of its own), 0 = sleep until there is work */
};

/* sent = answered + wrong + lost. Latency: closed loop from the send (TCP: from connect to end of
 * stream), open loop from the intended send time. */
struct lg_result {
    uint64_t sent;
    uint64_t answered;
    uint64_t wrong;      /* the reply differs from the expected one */
    uint64_t lost;       /* timed out, or its connection ended early */
    uint64_t stray;      /* belongs to no outstanding request: late, or a broken tag */
    uint64_t elapsed_ns; /* from the first send to the last answer */
    struct lg_histogram latency_ns;
};

/* Run a load to its end: duration_ms plus at most twice timeout_ms. result is overwritten.
 * 0; -EINVAL (a field out of range), -ENOMEM, -ECONNREFUSED (nobody listens), other -errno of
 * socket calls. */
int lg_udp_run(const struct lg_load *load, const struct lg_exchange *exchange,
               struct lg_result *result);
int lg_tcp_run(const struct lg_load *load, const struct lg_exchange *exchange,
               struct lg_result *result);

void lg_histogram_record(struct lg_histogram *histogram, uint64_t value);

/* Value that permille_x10 of the samples do not exceed (9990 = p99.9), rounded up to its bucket's
 * edge, never above the true maximum; 0 when empty. permille_x10: 0..10000. */
uint64_t lg_histogram_percentile(const struct lg_histogram *histogram, uint32_t permille_x10);

/* Counter of the system calls that thread tid makes from now on: a descriptor from which 8 bytes
 * (u64, native order) can be read at any time; the caller closes it. tracepoint_id is the number
 * in tracefs events/raw_syscalls/sys_enter/id. -EACCES without CAP_PERFMON, -ESRCH, -ENOENT. */
int lg_syscall_counter_open(int32_t tid, uint64_t tracepoint_id);
/* cdef: end */

_Static_assert(LG_WINDOW_MAX <= 1 << (8 * LG_TAG_BYTES - 4), "4 generation bits for late answers");

#endif
