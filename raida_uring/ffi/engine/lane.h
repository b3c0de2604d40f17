/* lane.h: the lanes, in which requests wait for a worker.
 *
 * Owner: the loop thread. A lane has two FIFOs, of datagrams and of connections, which take turns.
 * A context waits in one lane at most. How a lane's workers are used is dispatch.c's.
 */
#ifndef RU_LANE_H
#define RU_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/arena.h"
#include "memory/list.h"

/* What waits, per context, in whichever lane. */
struct ru_waiting {
    struct ru_link *links;
    uint64_t *since_ns; /* stays until the context waits again */
    uint32_t contexts;
};

/* How much of a batch's time its worker spent on a processor, from batches that ran alone. */
struct ru_sampling {
    uint32_t worker;                      /* whose batch is being watched; RU_NONE: nobody's */
    uint32_t next;                        /* place in shares */
    uint64_t cpu_ns;                      /* its processor time when the batch was given */
    uint64_t due_ns;                      /* no other sample before */
    uint16_t shares[RU_DISPATCH_SAMPLES]; /* of 1000 */
};

struct ru_lane {
    uint32_t first_worker;
    uint32_t workers;
    uint32_t batch_max;
    uint32_t queue_max;  /* RU_NONE: as many as there are contexts; beyond it they are refused */
    uint32_t udp_max;    /* datagrams; beyond it they are dropped */
    uint64_t age_max_ns; /* how long a request may wait; UINT64_MAX: as long as it takes */
    bool grouped;        /* what a batch costs, it costs once: give all there is */
    bool spreads;        /* its handlers wait by profession: all may run at once */
    uint32_t count;      /* requests that wait */
    uint32_t udp_count;  /* datagrams among them */
    uint32_t busy;       /* workers that hold tokens */
    uint64_t service_ns; /* moving average per request; 0: not known yet */
    uint32_t width;      /* batches that may run at once while they are young */
    struct ru_sampling sampling;
    bool tcp_next;           /* whose turn it is */
    struct ru_list fifos[2]; /* by enum ru_transport */
};

/* Append a context. False when the lane is full and the request must be refused. */
bool ru_lane_push(struct ru_lane *lane, struct ru_waiting *waiting, enum ru_transport transport,
                  uint32_t context, uint64_t now_ns);
/* Take the next context of a lane that is not empty. */
uint32_t ru_lane_pop(struct ru_lane *lane, struct ru_waiting *waiting);
/* Take the context that was queued first, of either transport, of a lane that is not empty. */
uint32_t ru_lane_pop_oldest(struct ru_lane *lane, struct ru_waiting *waiting);
/* When the first request that waits was queued; 0 when none waits. */
uint64_t ru_lane_oldest_ns(const struct ru_lane *lane, const struct ru_waiting *waiting);
/* Whether a datagram would be one too many. */
bool ru_lane_shares_out(const struct ru_lane *lane);
/* When the first request that waits has waited for too long; UINT64_MAX: never. */
uint64_t ru_lane_stale_ns(const struct ru_lane *lane, const struct ru_waiting *waiting);
/* Invariants that cost nothing. */
void ru_lane_check(const struct ru_lane *lane);
/* Invariants that walk the queues. */
void ru_lane_check_all(const struct ru_lane *lane, const struct ru_waiting *waiting);

#endif
