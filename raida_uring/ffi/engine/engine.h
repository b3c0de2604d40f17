/* engine.h: everything that one node's data plane owns.
 *
 * All state hangs off struct ru_engine, so that a process may have several. Fields belong to the
 * loop thread unless they say otherwise. Data alone: who may call what stands in the header of each
 * file. engine.c makes it and unmakes it, loop.c drives it.
 */
#ifndef RU_ENGINE_H
#define RU_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "commands/command.h"
#include "count/closed.h"
#include "count/tally.h"
#include "count/tap.h"
#include "engine/lane.h"
#include "engine/page.h"
#include "guard/guard.h"
#include "guard/raida.h"
#include "kernel/backend.h"
#include "memory/block.h"
#include "memory/list.h"
#include "memory/timer.h"
#include "memory/trees.h"
#include "ru.h"
#include "seal/seal.h"
#include "wire/conn.h"
#include "wire/fast.h"
#include "wire/udp.h"

struct ru_worker_state {
    uint32_t outstanding; /* tokens it holds */
    uint32_t batch;       /* tokens it was last given */
    uint64_t given_ns;    /* when that was */
    uint64_t busy_ns;     /* of its mailbox, when they had come back */
    clockid_t clock;      /* of its thread's processor time; the worker writes it when it opens */
    uint64_t looked_ns;   /* when the batch was last looked at: given, or that clock read */
    uint64_t cpu_ns;      /* what the clock said then; 0: not read */
    bool waits;           /* its handler waits in C: no other batch has to wait for it */
    uint32_t lent[2];     /* blocks it holds in advance, by class */
};

struct ru_listener_state {
    bool accepting;
    bool receiving;
    bool accept_paused; /* accepting failed: not again before accept_retry_ns */
    bool draining;      /* its UDP socket may still hold datagrams */
};

/* What a connection waits for. */
enum ru_shortage {
    RU_SHORT_OF_SMALL = RU_BLOCK_SMALL,
    RU_SHORT_OF_LARGE = RU_BLOCK_LARGE,
    RU_SHORT_OF_BUFFER, /* a TCP buffer to receive into */
    RU_SHORTAGES,
};

/* A reply handed to the backend; its slot and block are free once it has been submitted. */
struct ru_sending {
    uint32_t slot;
    uint32_t block;
};

/* The bytes of a TCP buffer that its connection has not consumed yet. */
struct ru_unread {
    uint16_t at;
    uint16_t size;
};

/* Of the loop. */
enum ru_phase {
    RU_SERVING,
    RU_DRAINING, /* nothing new; what was received is answered */
    RU_FORCED,   /* the drain's deadline has passed: connections are closed as they are */
    RU_ENDING    /* operations are cancelled and report back */
};

/* What other threads see of the loop's life. */
enum ru_stage {
    RU_STAGE_STARTING,
    RU_STAGE_RUNNING,
    RU_STAGE_ENDED
};

/* Connections that another process has passed on, on their way to the loop: listener << 32 |
 * descriptor. One thread adds them, the loop takes them. */
struct ru_adoptions {
    uint64_t items[RU_ADOPT_MAX];
    uint32_t added;
    uint32_t taken;
};

enum ru_call_kind {
    RU_CALL_LIVE,
    RU_CALL_CONNECTIONS,
    RU_CALL_TAKE_BACK,
    RU_CALL_OWN,
};

enum ru_call_state {
    RU_CALL_IDLE,    /* the caller's */
    RU_CALL_OFFERED, /* until the loop takes it or the caller withdraws it */
    RU_CALL_TAKEN,   /* the loop's */
    RU_CALL_DONE,    /* the caller's */
};

/* What another thread asks of the loop, see control.c. */
struct ru_call {
    uint32_t state;
    uint32_t kind; /* enum ru_call_kind */
    struct ru_sleeper sleeper;
    struct ru_config live;
    int result;      /* of RU_CALL_TAKE_BACK */
    uint32_t shared; /* for RU_CALL_OWN */
    uint32_t first;
    uint32_t count;
    struct ru_connection connections[RU_CONNECTIONS_LISTED];
};

struct ru_engine {
    struct ru_config config;
    struct ru_arena arena;
    struct ru_backend *backend; /* NULL unless the loop runs */
    struct ru_counters counters;

    /* loop.c */
    struct ru_event *events; /* RU_EVENTS_BATCH */
    enum ru_phase phase;
    uint64_t now_ns;     /* read once per lap */
    uint64_t judged_ns;  /* deadlines up to here are judged: see loop_judge() */
    uint64_t untaken;    /* events taken since a lap first left some to the next; 0: none left */
    uint64_t second_ns;  /* when the once-a-second work is due */
    uint32_t operations; /* begun with the backend, not ended */
    bool emptied;        /* this drain has taken what the sockets held when it began */

    /* Pools and states that others decide about: wire/, memory/, guard/ */
    struct ru_front front;
    struct ru_udp_pool udp;
    struct ru_conns conns;
    struct ru_blocks blocks;
    struct ru_guard guard;
    struct ru_timer timers; /* one node per connection */
    struct ru_timer_node *timer_nodes;
    struct ru_link *timer_links;

    /* dispatch.c */
    struct ru_lane lanes[RU_LANES];
    struct ru_waiting waiting; /* in the lanes */
    struct ru_worker_state workers[RU_WORKERS_MAX];
    struct ru_tally **tallies; /* per worker and command; each worker writes its own */
    uint32_t lent_target[2];   /* blocks that each worker should hold in advance, by class */
    uint32_t lent_count[2];    /* blocks that all workers hold */
    uint32_t lent_missing;     /* blocks that workers lack to their targets, of both classes */
    uint32_t light_cost;       /* of RU_LIGHT_BUDGET: what the next batch of the light lane takes */

    /* native.c: set before the loop runs, but for `carried` */
    struct ru_store *store;                              /* borrowed; NULL: none */
    struct ru_store *keys;                               /* likewise */
    const struct ru_command *natives[RU_COMMANDS_COUNT]; /* NULL: a handler answers it */
    struct ru_facts facts;
    struct ru_raida raida;           /* any thread */
    struct ru_worker *light;         /* the loop's own; NULL before it serves */
    uint64_t carried[RU_STATISTICS]; /* any thread; atomic: what others than C have counted */

    /* unseal.c: set before the loop runs */
    struct ru_seal_library *seals;                  /* any thread */
    struct ru_trees *trees;                         /* one publisher, any readers */
    uint8_t public_commands[RU_COMMANDS_COUNT / 8]; /* bits: see ru_engine_set_public() */

    /* datagram.c and accept.c */
    struct ru_listener_state listeners[RU_LISTENERS_MAX];
    uint32_t received_last;     /* listener of the latest datagram */
    struct ru_sending *sending; /* at most one per slot */
    uint32_t sending_count;
    int32_t unsettled; /* replies submitted less those that failed, not counted as answered yet */
    int reserve_fd;    /* closed for a moment when descriptors run out */
    uint64_t accept_retry_ns;  /* when paused listeners accept again */
    uint64_t stale_at_ns;      /* dispatch.c: when a request was last found too old; 0: never */
    uint64_t refused_since_ns; /* the newest spell of refused connections: its first ... */
    uint64_t refused_at_ns;    /* ... and its latest; 0: none was ever refused */

    /* stream.c */
    struct ru_list memory_queues[RU_SHORTAGES]; /* connections, oldest first */
    struct ru_link *memory_links;               /* per connection */
    uint8_t *tcp_buffers;
    uint32_t buffers_free;        /* lent to the kernel */
    struct ru_unread *unread;     /* per TCP buffer that is not */
    struct ru_link *unread_links; /* per TCP buffer: those of one connection */
    bool hand_over_stuck;         /* hand_over_fd took no more for now: try again */

    /* Any thread. */
    struct ru_call call;
    struct ru_closed_ring closed; /* stream.c puts in, one thread takes out */
    struct ru_taps taps;          /* each worker notes in its own, one thread takes out */
    int wake_fd;
    int hand_over_fd; /* the socket that descriptors leave through; -1: no hand-over */
    struct ru_adoptions adoptions;
    uint64_t drain_at_ns; /* the deadline of the drain; 0: no drain */
    uint32_t stage;       /* enum ru_stage; the loop writes it */
    struct ru_sleeper stage_sleeper;

    /* Any thread, once the stage says so. */
    int result; /* ENDED */
    char fault[RU_FAULT_TEXT];
    char tier[RU_TIER_TEXT];
    struct ru_backend_refusal refusal;
};

/* Thread: any. ru_engine_wake(), for files that engine.c uses. */
static inline void ru_engine_ring(const struct ru_engine *engine)
{
    const uint64_t one = 1;
    (void)!write(engine->wake_fd, &one, sizeof(one)); /* fails only when the loop is awake anyway */
}

static inline bool ru_engine_hands_over(const struct ru_engine *engine)
{
    return __atomic_load_n(&engine->hand_over_fd, __ATOMIC_RELAXED) >= 0;
}

/* At submission and at completion of each operation that the backend counts. */
static inline void ru_engine_begin_operation(struct ru_engine *engine)
{
    RU_CHECK(engine->operations < UINT32_MAX);
    engine->operations++;
}

static inline void ru_engine_end_operation(struct ru_engine *engine)
{
    RU_CHECK(engine->operations > 0);
    engine->operations--;
}

#endif
