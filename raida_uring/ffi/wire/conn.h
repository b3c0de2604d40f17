/* conn.h: TCP framing and the connection state machine.
 *
 * Owner: the loop thread. Makes no system calls: its functions take bytes and results and return
 * the next action. It knows how long a request is and when it may be answered, not what it means.
 */
#ifndef RU_CONN_H
#define RU_CONN_H

#include <stdbool.h>
#include <stdint.h>

#include "count/closed.h"
#include "count/stats.h"
#include "memory/arena.h"
#include "memory/block.h"
#include "memory/list.h"
#include "wire/fast.h"

enum ru_conn_state {
    RU_CONN_FREE,
    RU_CONN_READ_HEADER,
    RU_CONN_WAIT_BLOCK, /* header valid, no block free for the body */
    RU_CONN_READ_BODY,
    RU_CONN_PROCESSING, /* queued, or with a worker, which has the context until it returns it */
    RU_CONN_WRITE,
    RU_CONN_LINGER, /* answered and ended; what the peer still sends is read and discarded */
    RU_CONN_DONE,   /* closing: waits for operations in flight and for the worker */
    RU_CONN_STATES,
};

enum ru_conn_action {
    RU_CONN_NOTHING,
    RU_CONN_SEND,        /* send ru_conn_unsent() */
    RU_CONN_QUEUE,       /* hand to the lane of its header */
    RU_CONN_AWAIT_BLOCK, /* no block is free: ru_conn_take_block() later */
    RU_CONN_NEXT,        /* answered; ready for a further request */
    RU_CONN_END,         /* answered, now in LINGER: shut down writing, wait for the peer's end */
    RU_CONN_CLOSE,       /* now in DONE */
};

struct ru_conn {
    /* Identity, for the kernel, for workers and for the free stack. */
    int fd;                    /* -1 once closed */
    uint32_t generation;       /* in operations; advances whenever the connection becomes free */
    uint32_t token_generation; /* in tokens; advances with every request that a worker gets */
    uint32_t next;             /* of the free stack, while FREE */

    /* State. */
    uint8_t state;        /* enum ru_conn_state */
    uint8_t reason;       /* enum ru_closed_reason, once DONE */
    uint8_t listener;     /* number of the listener that accepted it */
    uint8_t worker;       /* its index, while with_worker */
    bool queued;          /* its context waits in a lane: PROCESSING, or DONE if it has ended */
    bool with_worker;     /* a worker has its context: PROCESSING, or DONE if it has ended */
    bool request_open;    /* between a request's first byte and its end, however it ends */
    bool answered_before; /* persistent connections: a request on it has been answered */
    bool refused;         /* answered without its body: the connection ends with the reply */

    /* The request being read, and its reply. */
    uint8_t header_have;     /* bytes of the header in the area */
    struct ru_header header; /* filled once all of it has been received */
    uint32_t body_have;      /* bytes of the body */
    uint32_t body_block;     /* block with the body; RU_NONE: the body is in the area */
    uint32_t reply_at;       /* arena offset */
    uint32_t reply_block;    /* block with the reply; RU_NONE: the reply is in the area */
    uint32_t reply_size;
    uint32_t reply_sent;

    /* Times that deadlines count from. */
    uint64_t state_since_ns;
    uint64_t progress_ns;      /* the latest byte, or change of state */
    uint64_t request_since_ns; /* first byte of the open request */
    uint64_t opened_ns;
    uint64_t requests; /* begun on it */

    /* Used by stream.c alone: operations in flight, and bytes not yet consumed. */
    bool receiving;        /* a receive is in flight */
    bool cancelling;       /* ... and was asked to end */
    bool sending;          /* a send is in flight */
    bool cancelling_send;  /* ... and was asked to end */
    bool closes_itself;    /* that send closes the descriptor when it ends */
    bool eof;              /* the peer sent its last byte */
    bool peer_known;       /* the area has the peer's address */
    bool discards;         /* received bytes are thrown away from now on */
    bool more_expected;    /* the last receive filled its memory: there may be more */
    bool awaits_memory;    /* in a queue for a buffer or a block */
    uint8_t shortage;      /* ... and which queue: enum ru_shortage */
    struct ru_list unread; /* buffers with bytes not consumed yet, oldest first */
    uint32_t lingered;     /* bytes thrown away since the reply was sent */
};

struct ru_conn_timeouts {
    uint64_t progress_ns, header_ns, body_ns, write_ns, idle_ns;
};

struct ru_conns {
    struct ru_conn *conns;
    uint32_t capacity;
    uint32_t free_head;
    uint32_t used_count;        /* not FREE */
    uint32_t used_max;          /* limit of used_count, at most the capacity */
    uint32_t waiting_counts[2]; /* in WAIT_BLOCK, by class of block */
    bool persistent;            /* a connection serves one request after the other */
    struct ru_conn_timeouts timeouts;
    struct ru_front *front;
    const struct ru_arena *arena;
    struct ru_blocks *blocks;
    struct ru_counters *counters;
};

int ru_conns_init(struct ru_conns *conns, const struct ru_config *config, struct ru_front *front,
                  const struct ru_arena *arena, struct ru_blocks *blocks,
                  struct ru_counters *counters);
void ru_conns_destroy(struct ru_conns *conns);
/* Apply connections_max and the time-outs, which may change at run time. */
void ru_conns_set_limits(struct ru_conns *conns, const struct ru_config *config);
struct ru_conn *ru_conn_at(struct ru_conns *conns, uint32_t index);
/* A free connection in READ_HEADER, or RU_NONE. The caller writes its peer into the area. */
uint32_t ru_conn_open(struct ru_conns *conns, int fd, uint8_t listener, uint64_t now_ns);
/* Free a connection whose descriptor is closed and whose context no lane or worker has. */
void ru_conn_release(struct ru_conns *conns, uint32_t index);
/* Consume bytes while a request is being read; *used gets how many. */
enum ru_conn_action ru_conn_feed(struct ru_conns *conns, uint32_t index, const uint8_t *bytes,
                                 uint32_t size, uint64_t now_ns, uint32_t *used);
/* Where the next bytes of a body with a block may be received directly, and how many; NULL if the
 * next bytes have to be received into lent buffers. */
uint8_t *ru_conn_body_room(struct ru_conns *conns, uint32_t index, uint32_t *size);
/* `size` bytes were received into ru_conn_body_room(). */
enum ru_conn_action ru_conn_received(struct ru_conns *conns, uint32_t index, uint32_t size,
                                     uint64_t now_ns);
/* Take the block that the body waits for, and go on to READ_BODY; false if none is free. */
bool ru_conn_take_block(struct ru_conns *conns, uint32_t index, uint64_t now_ns);
/* The peer's last byte has been consumed, while reading. */
enum ru_conn_action ru_conn_end_of_stream(struct ru_conns *conns, uint32_t index, uint64_t now_ns);
/* A reply of `size` bytes is in the connection's area or in `block`, which now belongs to it. */
enum ru_conn_action ru_conn_replied(struct ru_conns *conns, uint32_t index, uint32_t block,
                                    uint32_t size, uint64_t now_ns);
/* Answer with a bare status instead of queueing for a worker. State PROCESSING. */
enum ru_conn_action ru_conn_refuse(struct ru_conns *conns, uint32_t index, enum ru_status status,
                                   uint64_t now_ns);
/* A send ended with `result`: bytes or -errno. After its last send a connection is in LINGER or
 * DONE, see ru_conn_lingers(). */
enum ru_conn_action ru_conn_sent(struct ru_conns *conns, uint32_t index, int32_t result,
                                 uint64_t now_ns);
/* Begin to close; DONE from any state but FREE and DONE. */
void ru_conn_close(struct ru_conns *conns, uint32_t index, enum ru_closed_reason reason,
                   uint64_t now_ns);
const uint8_t *ru_conn_unsent(const struct ru_conns *conns, uint32_t index, uint32_t *size);
/* When and why the connection is closed if nothing happens before; UINT64_MAX: never. */
uint64_t ru_conn_deadline_ns(const struct ru_conns *conns, uint32_t index,
                             enum ru_closed_reason *reason);
/* Count the end of the connection (its descriptor is closed). */
void ru_conn_count_closed(struct ru_conns *conns, uint32_t index);
/* True if `token` names a connection whose request is with `worker` now. */
bool ru_conn_token_valid(const struct ru_conns *conns, uint64_t token, uint32_t worker);

/* The class of block that the announced body needs. */
static inline enum ru_block_class ru_conn_block_class(const struct ru_conn *conn)
{
    return conn->header.body_size <= RU_SMALL_BLOCK ? RU_BLOCK_SMALL : RU_BLOCK_LARGE;
}

/* True if a connection that ends with the current reply must read until the peer's end first:
 * closing with unread bytes sends a reset, which can discard the reply. A small reply leaves in one
 * piece before any reset, so it needs no lingering unless more bytes are known to follow. */
static inline bool ru_conn_lingers(const struct ru_conn *conn)
{
    return !conn->eof &&
           (conn->reply_size > RU_INLINE_SIZE || conn->refused || conn->more_expected);
}

/* Between two requests, or before the first. */
static inline bool ru_conn_idle(const struct ru_conn *conn)
{
    return conn->state == RU_CONN_READ_HEADER && !conn->request_open &&
           ru_list_is_empty(&conn->unread) && !conn->eof;
}

static inline bool ru_conn_reading(const struct ru_conn *conn)
{
    return conn->state == RU_CONN_READ_HEADER || conn->state == RU_CONN_READ_BODY;
}

#endif
