/* closed.h: connections that ended, for the log.
 *
 * Why: only the loop knows that a connection ended and why, and it must neither format nor wait.
 * Owner: the loop puts in, one other thread takes out; each index has one writer.
 * Memory: a fixed ring in the engine. Entries that do not fit are counted and lost.
 */
#ifndef RU_CLOSED_H
#define RU_CLOSED_H

#include <stdbool.h>
#include <stdint.h>

#include "ru.h"

/* Why a connection ended. X(reason, words, connection, request): connections_closed_<connection>
 * counts it, tcp_dropped_<request> the request that it cut short, if any. */
#define RU_CLOSED(X)                                                                               \
    X(DONE, "done", done, eof)                                                                     \
    X(EOF, "end of stream within a request", eof, eof)                                             \
    X(RESET, "reset", reset, reset)                                                                \
    X(HEADER_TIMEOUT, "header timeout", header_timeout, timeout)                                   \
    X(BODY_TIMEOUT, "body timeout", body_timeout, timeout)                                         \
    X(WRITE_TIMEOUT, "write timeout", write_timeout, timeout)                                      \
    X(IDLE_TIMEOUT, "idle timeout", idle_timeout, timeout)                                         \
    X(EARLY, "reset before its name was read", early, reset) /* its peer's address */              \
    X(DRAIN, "drain", drain, drain)                                                                \
    X(HANDED_OVER, "handed over", handed_over, drain) /* its descriptor is another process's */

enum ru_closed_reason {
#define RU_CLOSED_REASON(reason, words, connection, request) RU_CLOSED_##reason,
    RU_CLOSED(RU_CLOSED_REASON)
#undef RU_CLOSED_REASON
    RU_CLOSED_REASONS,
};

struct ru_closed_ring {
    _Alignas(RU_CACHE_LINE) uint32_t tail; /* loop */
    uint64_t missed;                       /* loop: found no room, since start */
    _Alignas(RU_CACHE_LINE) uint32_t head; /* reader */
    struct ru_closed entries[RU_CLOSED_KEPT];
};

/* Thread: loop. Where to write the next one, before ru_closed_put(). NULL when the ring is full:
 * the entry counts as missed. */
struct ru_closed *ru_closed_reserve(struct ru_closed_ring *ring);
/* Thread: loop. Give the reserved entry to the reader. */
void ru_closed_put(struct ru_closed_ring *ring);
/* Thread: the reader. Take up to `count`, oldest first. */
uint32_t ru_closed_take(struct ru_closed_ring *ring, struct ru_closed *entries, uint32_t count);

#endif
