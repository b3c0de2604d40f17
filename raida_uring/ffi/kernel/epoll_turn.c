/* epoll_turn.c: one bounded turn of a ready socket: receive, accept, send.
 *
 * A turn ends with EAGAIN, which proves that the socket has no more, or at its bound, so that one
 * flooding peer cannot block the others. Owner: the loop thread.
 */
#include "kernel/epoll.h"

#include <unistd.h>

#include "kernel/message.h"

#define EPOLL_ACCEPTS 64 /* a listener's turn */
#define EPOLL_RECEIVES 8 /* a connection's turn, of RU_TCP_BUFFER bytes each */

/* The ended event of the receive; the result is 0, -errno, or the bytes of a single receive. */
static struct ru_event epoll_end(const struct epoll_backend *epoll, struct epoll_source *source,
                                 int32_t result)
{
    RU_CHECK(source->receiving);
    source->receiving = false;
    source->cancelled = false;
    struct ru_event event = epoll_event(epoll, source, epoll_operation(epoll, source), result);
    event.ended = true;
    return event;
}

void ru_epoll_turn_send(struct epoll_backend *epoll, struct epoll_source *source)
{
    ssize_t size = send(source->fd, source->bytes, source->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    int32_t result = size >= 0 ? (int32_t)size : -errno;
    if (result == -EAGAIN) {
        source->writable = false;
        result = epoll_watch(epoll, source, EPOLLIN | EPOLLOUT);
        if (result == 0)
            return;
    }
    source->sent = true;
    source->sent_result = result;
}

static void epoll_stage(struct epoll_backend *epoll, uint32_t place, uint32_t slot)
{
    epoll->incoming_slots[place] = slot;
    ru_message_to_receive(&epoll->incoming[place].msg_hdr, &epoll->vectors[place],
                          epoll->base.setup.arena, slot);
}

/* The kernel has filled the first `used` messages and not touched the rest. Stage free slots in
 * their positions; when no slot is lent any more, move messages from the end forward. */
static void epoll_restage(struct epoll_backend *epoll, uint32_t used)
{
    struct epoll_stack *slots = &epoll->slots;
    uint32_t place = 0;
    RU_CHECK(used <= epoll->staged);
    for (; place < used && slots->count > 0; place++)
        epoll_stage(epoll, place, slots->items[--slots->count]);
    for (; place < used && epoll->staged > used; place++)
        epoll_stage(epoll, place, epoll->incoming_slots[--epoll->staged]);
    if (place < used)
        epoll->staged = place;
}

/* One batch per turn: clients that wait for the replies to this batch send nothing before they get
 * them, so a second call would usually find the socket empty. */
static uint32_t epoll_datagrams_turn(struct epoll_backend *epoll, struct epoll_source *source,
                                     struct ru_event *events, uint32_t count)
{
    struct epoll_stack *slots = &epoll->slots;
    while (epoll->staged < EPOLL_BATCH && slots->count > 0)
        epoll_stage(epoll, epoll->staged++, slots->items[--slots->count]);
    if (epoll->staged == 0) {
        events[0] = epoll_end(epoll, source, -ENOBUFS);
        return 1;
    }
    int got = recvmmsg(source->fd, epoll->incoming, ru_number_min32(epoll->staged, count),
                       MSG_DONTWAIT, NULL);
    if (got < 0 && errno == EAGAIN) {
        source->readable = false;
        return 0;
    }
    if (got < 0) {
        events[0] = epoll_end(epoll, source, -errno);
        return 1;
    }
    uint32_t listener = (uint32_t)(source - epoll->sources) - epoll_first(epoll, RU_OP_DATAGRAMS);
    for (uint32_t i = 0; i < (uint32_t)got; i++)
        ru_message_received(epoll->base.setup.arena, listener, epoll->incoming_slots[i],
                            &epoll->incoming[i].msg_hdr, epoll->incoming[i].msg_len, &events[i]);
    epoll_restage(epoll, (uint32_t)got);
    if (epoll->staged == 0) { /* ends as in a ring: the loop picks which listener restarts first */
        source->receiving = false;
        events[got - 1].ended = true;
    }
    return (uint32_t)got;
}

static uint32_t epoll_accept_turn(struct epoll_backend *epoll, struct epoll_source *source,
                                  struct ru_event *events, uint32_t count)
{
    uint32_t most = ru_number_min32(count, EPOLL_ACCEPTS);
    uint32_t used = 0;
    while (used < most && source->receiving) {
        int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            events[used++] = epoll_event(epoll, source, RU_OP_ACCEPT, fd);
        } else if (errno == EAGAIN) {
            source->readable = false;
            break;
        } else {
            events[used++] = epoll_end(epoll, source, -errno);
        }
    }
    return used;
}

/* Call recv() once; returns whether it produced an event. */
static bool epoll_receive_some(struct epoll_backend *epoll, struct epoll_source *source,
                               struct ru_event *event)
{
    struct epoll_stack *buffers = &epoll->buffers;
    uint32_t buffer = RU_NONE;
    uint8_t *room = source->room;
    uint32_t room_size = source->room_size;
    if (!room) {
        if (buffers->count == 0) {
            *event = epoll_end(epoll, source, -ENOBUFS);
            return true;
        }
        buffer = buffers->items[buffers->count - 1];
        room = epoll->base.setup.tcp_buffers + (size_t)buffer * RU_TCP_BUFFER;
        room_size = RU_TCP_BUFFER;
    }
    ssize_t size = recv(source->fd, room, room_size, MSG_DONTWAIT);
    int32_t result = size >= 0 ? (int32_t)size : -errno;
    if (result == -EAGAIN) {
        source->readable = false;
        result = epoll_watch(epoll, source, EPOLLIN);
        if (result == 0)
            return false;
    }
    *event = result <= 0 || source->once ? epoll_end(epoll, source, result)
                                         : epoll_event(epoll, source, RU_OP_RECEIVE, result);
    if (result > 0 && buffer != RU_NONE) {
        buffers->count--;
        event->buffer = buffer;
    }
    return true;
}

static uint32_t epoll_receive_turn(struct epoll_backend *epoll, struct epoll_source *source,
                                   struct ru_event *events, uint32_t count)
{
    uint32_t most = ru_number_min32(count, EPOLL_RECEIVES);
    uint32_t used = 0;
    while (used < most && source->receiving && epoll_receive_some(epoll, source, &events[used]))
        used++;
    return used;
}

static uint32_t epoll_wake_turn(struct epoll_backend *epoll, struct epoll_source *source,
                                struct ru_event *events)
{
    source->readable = false;
    events[0] = epoll_event(epoll, source, RU_OP_WAKE, 0);
    return 1;
}

static uint32_t epoll_send_turn(struct epoll_backend *epoll, struct epoll_source *source,
                                struct ru_event *events)
{
    if (!source->sent && source->send_cancelled) {
        source->sent = true;
        source->sent_result = -ECANCELED;
    }
    if (!source->sent && source->writable)
        ru_epoll_turn_send(epoll, source);
    if (!source->sent)
        return 0;
    source->sending = false;
    if (source->send_last)
        (void)close(source->fd);
    events[0] = epoll_event(epoll, source, RU_OP_SEND, source->sent_result);
    events[0].ended = true;
    return 1;
}

uint32_t ru_epoll_turn_take(struct epoll_backend *epoll, struct epoll_source *source,
                            struct ru_event *events, uint32_t count)
{
    uint32_t used = 0;
    if (source->sending)
        used = epoll_send_turn(epoll, source, events);
    events += used;
    if (used == count || !source->receiving)
        return used;
    if (source->cancelled) {
        events[0] = epoll_end(epoll, source, -ECANCELED);
        return used + 1;
    }
    if (!source->readable)
        return used;
    switch (epoll_operation(epoll, source)) {
    case RU_OP_DATAGRAMS:
        return used + epoll_datagrams_turn(epoll, source, events, count - used);
    case RU_OP_ACCEPT:
        return used + epoll_accept_turn(epoll, source, events, count - used);
    case RU_OP_RECEIVE:
        return used + epoll_receive_turn(epoll, source, events, count - used);
    case RU_OP_WAKE:
        return used + epoll_wake_turn(epoll, source, events);
    case RU_OP_SEND:
    case RU_OP_SEND_DATAGRAM:
    case RU_OP_IGNORED:
        break;
    }
    RU_UNREACHABLE();
}
