/* loop.h: the engine: everything one node's data plane owns, and the thread that turns it.
 *
 * All state hangs off struct ru_engine, so that a process may have several. Fields belong to the
 * loop thread unless they say otherwise.
 */
#ifndef RU_LOOP_H
#define RU_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "memory/arena.h"
#include "kernel/backend.h"
#include "memory/block.h"
#include "clock.h"
#include "count/closed.h"
#include "wire/conn.h"
#include "wire/fast.h"
#include "guard/guard.h"
#include "memory/queue.h"
#include "ru.h"
#include "count/stats.h"
#include "count/tally.h"
#include "memory/timer.h"
#include "wire/udp.h"

enum ru_lane_number {
    RU_LANE_ORDINARY = 0,
    RU_LANE_SLOW = 1,
    RU_LANE_WRITE = 2,
    RU_LANES = 3
};

/* Contexts that wait for a worker, linked through ru_engine.queue. */
struct ru_fifo {
    uint32_t first;
    uint32_t last;
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
    uint32_t queue_max; /* RU_NONE: as many as there are contexts */
    bool grouped;       /* what a batch costs, it costs once: give all there is */
    bool spreads;       /* its handlers wait by profession: all may run at once */
    uint32_t count;
    uint32_t busy;       /* workers that hold tokens */
    uint64_t service_ns; /* moving average per request; 0: not known yet */
    uint32_t width;      /* batches that may run at once while they are young */
    struct ru_sampling sampling;
    bool tcp_next;           /* the two FIFOs take turns */
    struct ru_fifo fifos[2]; /* by transport */
};

struct ru_worker_state {
    uint32_t outstanding; /* tokens it holds */
    uint32_t batch;       /* tokens it was last given */
    uint64_t given_ns;    /* when that was */
    uint64_t busy_ns;     /* what its mailbox said when they had come back */
    clockid_t clock;      /* of its thread's processor time; written when it opens */
    uint64_t looked_ns;   /* at that clock, while others wait for this batch; 0: not yet */
    uint64_t cpu_ns;      /* what it said */
    bool waits;           /* its handler waits: nobody is held up for it */
    uint32_t lent[2];     /* blocks it holds in advance */
};

struct ru_queue_entry {
    uint32_t next;
    uint64_t since_ns;
};

struct ru_listener_state {
    bool accepting;
    bool receiving;
    bool accept_paused; /* no descriptor to accept with */
    bool draining;      /* its UDP socket may still hold datagrams */
};

/* Connections that wait for a TCP buffer to receive into, or for a block, oldest first. */
enum ru_starved_of {
    RU_STARVED_OF_SMALL = RU_BLOCK_SMALL,
    RU_STARVED_OF_LARGE = RU_BLOCK_LARGE,
    RU_STARVED_OF_BUFFER,
    RU_STARVED_QUEUES,
};
struct ru_starved {
    uint32_t first;
    uint32_t last;
};

/* A reply handed to the backend; its slot and block are free once it has been submitted. */
struct ru_sending {
    uint32_t slot;
    uint32_t block;
};

/* One lent TCP buffer while the loop keeps its bytes. */
struct ru_held {
    uint32_t next;
    uint16_t at;
    uint16_t size;
};

enum ru_phase {
    RU_SERVING,
    RU_DRAINING,
    RU_FORCED,
    RU_ENDING
};

/* Connections of another process on their way to the loop: listener << 32 | descriptor. One thread
 * adds, the loop takes. */
struct ru_adoptions {
    uint64_t items[RU_ADOPT_MAX];
    uint32_t added;
    uint32_t taken;
};

enum ru_call_kind {
    RU_CALL_LIVE,
    RU_CALL_CONNECTIONS,
    RU_CALL_LOAD,
    RU_CALL_TAKE_BACK,
    RU_CALL_OWN,
};

enum ru_call_state {
    RU_CALL_IDLE,    /* the caller's */
    RU_CALL_OFFERED, /* whoever comes first: the loop takes it, or the caller withdraws it */
    RU_CALL_TAKEN,   /* the loop's */
    RU_CALL_DONE,    /* the caller's */
};

/* What another thread asks of the loop, see control.c. */
struct ru_call {
    uint32_t state;
    uint32_t kind; /* enum ru_call_kind */
    struct ru_sleeper sleeper;
    struct ru_config live;
    struct ru_load load;
    int result;      /* of RU_CALL_TAKE_BACK */
    uint32_t shared; /* for RU_CALL_OWN */
    uint32_t first;
    uint32_t count;
    struct ru_connection connections[RU_CONNECTIONS_LISTED];
};

struct ru_engine {
    struct ru_config config;
    struct ru_arena arena;
    struct ru_front front;
    struct ru_udp_pool udp;
    struct ru_conns conns;
    struct ru_blocks blocks;
    struct ru_timer timers; /* one node per connection */
    struct ru_timer_node *timer_nodes;
    struct ru_counters counters;
    struct ru_guard guard;
    struct ru_backend *backend;
    struct ru_event *events; /* RU_EVENTS_BATCH */

    struct ru_lane lanes[RU_LANES];
    struct ru_worker_state workers[RU_WORKERS_MAX];
    struct ru_tally **tallies;    /* per worker and command */
    struct ru_queue_entry *queue; /* per context */
    uint32_t lent_target[2];      /* of each worker */
    uint32_t lent_count[2];       /* of all workers together */
    uint32_t lent_missing;        /* blocks that workers should have and do not */

    struct ru_listener_state listeners[RU_LISTENERS_MAX];
    uint32_t received_last; /* listener of the latest datagram */
    uint64_t accept_retry_ns;
    uint64_t refused_since_ns; /* the newest spell of refused connections: its first ... */
    uint64_t refused_at_ns;    /* ... and its latest; 0: none was ever refused */
    struct ru_starved starved[RU_STARVED_QUEUES]; /* enum ru_starved_of */
    struct ru_sending *sending;                   /* at most one per slot */
    uint32_t sending_count;
    int32_t unsettled;    /* submitted less failed, and not counted yet */
    struct ru_held *held; /* per TCP buffer */
    uint8_t *tcp_buffers;
    uint32_t buffers_free; /* lent to the kernel */
    uint32_t operations;   /* started, not ended */
    int reserve_fd;        /* given up for a moment when descriptors run out */
    uint64_t now_ns;       /* read once per lap */
    uint64_t judged_ns;    /* deadlines up to here are judged; not after the last look */
    uint64_t untaken;      /* events taken since one was first left for a later lap; 0: none was */
    uint64_t second_ns;    /* next once-a-second work */
    enum ru_phase phase;
    bool emptied; /* what the sockets held when this drain began has been taken */

    /* Hand-over to another process: -1, or the socket that descriptors leave through. */
    int hand_over_fd;
    bool hand_over_stuck; /* that socket took no more for now: try again */

    /* Any thread. */
    struct ru_call call;
    struct ru_closed_ring closed; /* what stream.c notes */
    int wake_fd;
    struct ru_adoptions adoptions;
    uint64_t drain_at_ns; /* 0: serve; else the deadline of the drain */
    uint32_t ready;       /* 0 starting, 1 serving, 2 ended */
    int result;           /* once ended */
    struct ru_sleeper ready_sleeper;
    char fault[RU_FAULT_TEXT];
    char tier[96];
    struct ru_backend_refusal refusal;
};

/* dispatch.c: between the loop and the workers. */
void ru_dispatch_init(struct ru_engine *engine);
/* Whether a described context asks for a check of a secret that must not be made: counted then. */
bool ru_dispatch_limited(struct ru_engine *engine, uint32_t context);
/* Queue a context; false when the lane is full and it must be refused. */
bool ru_dispatch_queue(struct ru_engine *engine, enum ru_lane_number lane, uint32_t context);
/* Take back what workers returned, and replace the blocks they used. */
void ru_dispatch_collect(struct ru_engine *engine);
/* Hand queued contexts to idle workers. */
void ru_dispatch_run(struct ru_engine *engine);
/* True if a worker has returned something that was not collected yet. */
bool ru_dispatch_pending(const struct ru_engine *engine);
/* How long queued work may wait for a running batch; UINT64_MAX when nothing waits. */
uint64_t ru_dispatch_wait_ns(const struct ru_engine *engine);
/* CLOCK_MONOTONIC when the first request that waits in a lane was queued; 0 when none waits. */
uint64_t ru_dispatch_oldest_ns(const struct ru_engine *engine, enum ru_lane_number lane);
/* No more tokens will come: workers leave ru_worker_take(). */
void ru_dispatch_close(struct ru_engine *engine);

/* datagram.c: between the UDP contexts and the backend. */
void ru_datagram_event(struct ru_engine *engine, const struct ru_event *event);
void ru_datagram_reply(struct ru_engine *engine, uint32_t slot, uint32_t block, uint32_t size);
void ru_datagram_failed(struct ru_engine *engine);
/* After a submission: slots whose replies have gone are free. */
void ru_datagram_release(struct ru_engine *engine);
/* After all completions of a lap: replies not reported as failed were answered. */
void ru_datagram_settle(struct ru_engine *engine);
/* Lend free slots and arm receives that ended. */
void ru_datagram_arm(struct ru_engine *engine);
/* Let the kernel drop what arrives from now on, so that draining comes to an end. */
void ru_datagram_refuse(struct ru_engine *engine);
/* Drop a datagram that must not be looked at, from any place that is ours. */
void ru_datagram_limit(struct ru_engine *engine, uint32_t slot);
/* Once every receive has ended: lent slots are ours again. */
void ru_datagram_reclaim(struct ru_engine *engine);
/* Answer what the sockets still hold. */
void ru_datagram_drain(struct ru_engine *engine);

/* stream.c: between the TCP connections and the backend. */
void ru_stream_event(struct ru_engine *engine, const struct ru_event *event);
void ru_stream_replied(struct ru_engine *engine, uint32_t index, uint32_t block, uint32_t size);
/* The lane popped this queued connection: false if it was closed meanwhile. */
bool ru_stream_dequeued(struct ru_engine *engine, uint32_t index);
/* Answer 160 to a request that must not be looked at, and close. State PROCESSING, nobody's. */
void ru_stream_limit(struct ru_engine *engine, uint32_t index);
/* A worker returned a connection that was closed meanwhile. */
void ru_stream_settle(struct ru_engine *engine, uint32_t index);
void ru_stream_expire(struct ru_engine *engine);
/* Serve receives that waited for buffers or blocks, and accepts that ended. */
void ru_stream_arm(struct ru_engine *engine);
/* Take connections of another process. */
void ru_stream_adopt(struct ru_engine *engine);
/* Hand idle connections over; those that are not yet idle follow when they are. */
void ru_stream_hand_over(struct ru_engine *engine);
/* Close connections: idle ones, or all of them. */
void ru_stream_close_all(struct ru_engine *engine, bool idle_only);
/* The peer of an open connection, RU_ADDRESS_BYTES of a sockaddr; all zero when it cannot be had. */
void ru_stream_peer(struct ru_engine *engine, uint32_t index, uint8_t *peer);
/* Deadlines may have become earlier. */
void ru_stream_watch_all(struct ru_engine *engine);
/* Accept what the listeners' backlogs still hold, then, if so wanted, refuse further connections. */
void ru_stream_drain(struct ru_engine *engine, bool refuse);

/* control.c: what other threads ask. Between laps. */
void ru_control_serve(struct ru_engine *engine);

#endif
