/* epoll.h: the epoll backend's state of each socket, and its FIFO of sockets with something to do.
 *
 * For backend_epoll.c, which starts operations, and epoll_turn.c, which continues them. Owner: the
 * loop thread.
 */
#ifndef RU_EPOLL_H
#define RU_EPOLL_H

#include "kernel/backend.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define EPOLL_BATCH 64 /* datagrams per system call; also a UDP socket's turn */

/* The wake eventfd, a listener's UDP or TCP socket, or a connection, and the operations on it. */
struct epoll_source {
    uint32_t next;       /* in the FIFO */
    uint32_t generation; /* of the connection; 0 for the others */
    int fd;
    uint32_t watched; /* EPOLL* bits; 0: not in the set */
    uint8_t *room;    /* memory to receive into; NULL: use lent buffers */
    uint32_t room_size;
    uint32_t size;
    const uint8_t *bytes; /* to send */
    int32_t sent_result;
    bool listed;   /* in the FIFO */
    bool readable; /* no EAGAIN since the last edge, so it may have data */
    bool writable;
    bool receiving; /* receives, accepts, or watches the eventfd */
    bool once;
    bool cancelled;
    bool sending;
    bool sent; /* sent_result is known and not reported yet */
    bool send_cancelled;
    bool send_last; /* close the descriptor when the send has ended */
};

/* Replies queued until the next wait() or a full batch. */
struct epoll_outgoing {
    uint32_t count;
    uint32_t failed; /* not reported yet */
    int32_t error;   /* of the last one */
    struct mmsghdr messages[EPOLL_BATCH];
    struct iovec vectors[EPOLL_BATCH];
};

/* Slots or buffers that the loop has lent; a stack, because the latest is still in the cache. */
struct epoll_stack {
    uint32_t *items;
    uint32_t count;
    uint32_t capacity;
};

struct epoll_backend {
    struct ru_backend base;
    int fd;
    bool waits_in_ns; /* epoll_pwait2, 5.11 */
    struct epoll_event *found;
    uint32_t found_max;

    struct epoll_source *sources;
    uint32_t sources_count;
    uint32_t ready_first;
    uint32_t ready_last;
    uint32_t ready_count;
    uint32_t turns;    /* left in this lap */
    uint32_t unpolled; /* events since the last epoll_wait() */
    bool saw_all;      /* the last wait called epoll_wait(), which returned all there was */

    struct epoll_stack slots;
    struct epoll_stack buffers;
    struct mmsghdr incoming[EPOLL_BATCH]; /* the first `staged` are set up, each with its slot */
    struct iovec vectors[EPOLL_BATCH];
    uint32_t incoming_slots[EPOLL_BATCH];
    uint32_t staged;
    struct epoll_outgoing *outgoing; /* per listener */
    uint32_t failed;                 /* of all listeners */
};

/* Run one turn of `source`: writes up to `count` events and returns their number. */
uint32_t ru_epoll_turn_take(struct epoll_backend *epoll, struct epoll_source *source,
                            struct ru_event *events, uint32_t count);
/* Try the pending send; the result is stored in the source. */
void ru_epoll_turn_send(struct epoll_backend *epoll, struct epoll_source *source);

/* ---- sources ---- */

/* Number of an operation's first source: the eventfd, UDP sockets, TCP listeners, connections. */
static inline uint32_t epoll_first(const struct epoll_backend *epoll, enum ru_operation operation)
{
    uint32_t listeners = epoll->base.setup.config->listeners_count;
    switch (operation) {
    case RU_OP_DATAGRAMS:
    case RU_OP_SEND_DATAGRAM:
        return 1;
    case RU_OP_ACCEPT:
        return 1 + listeners;
    case RU_OP_RECEIVE:
    case RU_OP_SEND:
        return 1 + 2 * listeners;
    case RU_OP_WAKE:
    case RU_OP_IGNORED:
        break;
    }
    return 0;
}

static inline struct epoll_source *epoll_source(struct epoll_backend *epoll,
                                                enum ru_operation operation, uint32_t index)
{
    uint32_t number = epoll_first(epoll, operation) + index;
    RU_CHECK(number < epoll->sources_count);
    return &epoll->sources[number];
}

/* The operation that `source` receives with. */
static inline enum ru_operation epoll_operation(const struct epoll_backend *epoll,
                                                const struct epoll_source *source)
{
    uint32_t number = (uint32_t)(source - epoll->sources);
    if (number >= epoll_first(epoll, RU_OP_RECEIVE))
        return RU_OP_RECEIVE;
    if (number >= epoll_first(epoll, RU_OP_ACCEPT))
        return RU_OP_ACCEPT;
    return number >= epoll_first(epoll, RU_OP_DATAGRAMS) ? RU_OP_DATAGRAMS : RU_OP_WAKE;
}

static inline struct ru_event epoll_event(const struct epoll_backend *epoll,
                                          const struct epoll_source *source,
                                          enum ru_operation operation, int32_t result)
{
    uint32_t number = (uint32_t)(source - epoll->sources);
    return (struct ru_event){
        .operation = (uint8_t)operation,
        .index = number - epoll_first(epoll, operation),
        .generation = source->generation,
        .result = result,
        .buffer = RU_NONE,
    };
}

/* True if a turn of `source` would make progress. */
static inline bool epoll_due(const struct epoll_source *source)
{
    return (source->receiving && (source->readable || source->cancelled)) ||
           (source->sending && (source->writable || source->sent || source->send_cancelled));
}

static inline void epoll_list(struct epoll_backend *epoll, struct epoll_source *source)
{
    uint32_t number = (uint32_t)(source - epoll->sources);
    if (source->listed || !epoll_due(source))
        return;
    source->listed = true;
    source->next = RU_NONE;
    if (epoll->ready_count > 0)
        epoll->sources[epoll->ready_last].next = number;
    else
        epoll->ready_first = number;
    epoll->ready_last = number;
    epoll->ready_count++;
}

static inline struct epoll_source *epoll_unlist_first(struct epoll_backend *epoll)
{
    RU_CHECK(epoll->ready_count > 0);
    struct epoll_source *source = &epoll->sources[epoll->ready_first];
    RU_CHECK(source->listed);
    source->listed = false;
    epoll->ready_first = source->next;
    epoll->ready_count--;
    return source;
}

/* Add `events` to those that `source` is watched for. 0 or -errno. */
static inline int epoll_watch(struct epoll_backend *epoll, struct epoll_source *source,
                              uint32_t events)
{
    if ((source->watched & events) == events)
        return 0;
    uint32_t number = (uint32_t)(source - epoll->sources);
    struct epoll_event event = {.events = source->watched | events | EPOLLET,
                                .data.u64 = ru_token_pack(0, number, source->generation)};
    int change = source->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll->fd, change, source->fd, &event) != 0)
        return -errno;
    source->watched |= events;
    return 0;
}

#endif
