/* loadgen_run.h: what the load generator's transports share, see loadgen.c.
 *
 * Thread: any; these functions keep no state.
 */
#ifndef RAIDA_URING_BENCH_LOADGEN_RUN_H
#define RAIDA_URING_BENCH_LOADGEN_RUN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "loadgen.h"

enum {
    BATCH = 64,                      /* messages per sendmmsg or recvmmsg, events per epoll_wait */
    SCAN_INTERVAL_NS = 10 * 1000000, /* between checks for time-outs; also the longest sleep */
};

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static inline uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static inline void tag_write(uint8_t *message, uint32_t offset, uint16_t tag)
{
    message[offset] = (uint8_t)(tag >> 8);
    message[offset + 1] = (uint8_t)tag;
}

static inline uint16_t tag_read(const uint8_t *message, uint32_t offset)
{
    return (uint16_t)(message[offset] << 8 | message[offset + 1]);
}

/* Compare everything but the tag, whose bytes the copy's mask leaves out. number: of the variant. */
bool lg_reply_matches(const struct lg_exchange *exchange, size_t number, const uint8_t *reply,
                      size_t bytes);
/* A private copy with the tag's bytes masked out, since they differ per request; without variants it
 * has one turn. 0 or -EINVAL. */
int lg_exchange_copy(struct lg_exchange *copy, const struct lg_exchange *exchange);
/* The server's address. 0 or -EINVAL. */
int lg_load_address(const struct lg_load *load, struct sockaddr_in *address);

#endif
