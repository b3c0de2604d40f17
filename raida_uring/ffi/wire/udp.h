/* udp.h: fixed pool of UDP request contexts, and the decision on each datagram.
 *
 * Owner: the loop thread. A context belongs to a slot of the provided-buffer ring and is always in
 * exactly one place. Makes no system calls.
 */
#ifndef RU_UDP_H
#define RU_UDP_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/arena.h"
#include "wire/fast.h"

enum ru_udp_place {
    RU_UDP_FREE,    /* on the free stack */
    RU_UDP_LENT,    /* the kernel may receive into it */
    RU_UDP_LOOP,    /* the loop is deciding on it, within one lap */
    RU_UDP_QUEUED,  /* waits for a worker */
    RU_UDP_WORKER,  /* with a worker until the worker returns it */
    RU_UDP_SENDING, /* its reply waits for the lap's submission */
    RU_UDP_PLACES,
};

struct ru_udp_context {
    uint32_t generation; /* advances whenever the context becomes free */
    uint32_t next;       /* free stack */
    uint8_t place;
    uint8_t listener;
    uint8_t worker;
    uint8_t lane;    /* enum ru_lane_number, once it is to be queued */
    bool controlled; /* the slot holds the control record of the destination address */
};

struct ru_udp_pool {
    struct ru_udp_context *contexts;
    uint32_t capacity;
    uint32_t held_max; /* most contexts queued and with workers; the rest is the reserve */
    uint32_t free_head;
    uint32_t counts[RU_UDP_PLACES];
};

enum ru_udp_action {
    RU_UDP_DROP_EMPTY,
    RU_UDP_DROP_SHORT,
    RU_UDP_DROP_POOL,
    RU_UDP_DROP_REPLY,
    RU_UDP_REPLY_VOTE, /* the slot's payload starts with a reply of reply_size bytes */
    RU_UDP_REPLY_ECHO,
    RU_UDP_REPLY_REFUSED,
    RU_UDP_QUEUE, /* hand to the lane that the context names */
};

int ru_udp_init(struct ru_udp_pool *pool, uint32_t capacity, uint32_t held_max);
void ru_udp_destroy(struct ru_udp_pool *pool);
/* Move the most recently freed context from FREE to LENT, for the kernel to fill; or RU_NONE. */
uint32_t ru_udp_lend(struct ru_udp_pool *pool);
/* Move a context; aborts unless the move is in the table of legal moves. */
void ru_udp_move(struct ru_udp_pool *pool, uint32_t index, enum ru_udp_place to);
/* True if `token` names a context that is with `worker` now. */
bool ru_udp_token_valid(const struct ru_udp_pool *pool, uint64_t token, uint32_t worker);
/* Contexts between receipt and answer. */
uint32_t ru_udp_in_flight(const struct ru_udp_pool *pool);
/* Contexts queued or with workers: at most `[udp] contexts`, which excludes the reserve. */
uint32_t ru_udp_held(const struct ru_udp_pool *pool);

/* Decide on the datagram of `size` bytes in slot `index` (place LOOP). RU_UDP_QUEUE: its arena
 * context has been filled. RU_UDP_REPLY_*: the reply has been written over its payload. */
enum ru_udp_action ru_udp_decide(struct ru_udp_pool *pool, struct ru_front *front,
                                 const struct ru_arena *arena, uint32_t index, uint32_t size,
                                 uint64_t now_ns, uint32_t *reply_size);

#endif
