/* timer.h: a hashed timer wheel over preallocated nodes.
 *
 * Owner: the loop thread. Deadlines are CLOCK_MONOTONIC nanoseconds; a node expires at most one
 * tick (RU_TICK_NS) late, never early. Setting, clearing and expiring are O(1) per node.
 */
#ifndef RU_TIMER_H
#define RU_TIMER_H

#include <stdint.h>

#include "memory/list.h"

#define RU_TIMER_BUCKETS 1024

struct ru_timer_node {
    uint64_t deadline_ns;
    uint32_t bucket; /* RU_NONE: not set */
};

struct ru_timer {
    struct ru_timer_node *nodes; /* nodes and links belong to the caller of init */
    struct ru_link *links;
    uint32_t count;
    uint32_t set_count;
    uint64_t tick; /* every bucket before this tick has been examined */
    struct ru_list buckets[RU_TIMER_BUCKETS];
    uint64_t occupied[RU_TIMER_BUCKETS / 64];
};

/* nodes, links: `count` of each. */
void ru_timer_init(struct ru_timer *timer, struct ru_timer_node *nodes, struct ru_link *links,
                   uint32_t count, uint64_t now_ns);
/* Set or move node `index` to `deadline_ns`. */
void ru_timer_set(struct ru_timer *timer, uint32_t index, uint64_t deadline_ns);
void ru_timer_clear(struct ru_timer *timer, uint32_t index);
/* Clear and return one node whose deadline has passed, or RU_NONE. Call until RU_NONE. */
uint32_t ru_timer_expire(struct ru_timer *timer, uint64_t now_ns);
/* Nanoseconds until ru_timer_expire() has to be called; UINT64_MAX when no node is set. */
uint64_t ru_timer_wait_ns(const struct ru_timer *timer, uint64_t now_ns);
/* Check the invariants; takes time proportional to the number of nodes. */
void ru_timer_check(const struct ru_timer *timer);

#endif
