/* stream.c: TCP connections between the state machine and the backend.
 *
 * conn.c says what to do; this file does it, and keeps what only the loop knows: operations in
 * flight, lent buffers whose bytes are not consumed yet, and receives that wait for memory.
 * Closing is three steps: stop accepting work (ru_conn_close), wait for operations in flight, then
 * close the descriptor and release the connection (stream_settle).
 *
 * A kernel that closes a socket with unread bytes, or gets some for it later, resets the connection,
 * and what the peer has not received of the reply is lost. So after a reply that may suffer from it
 * our half is ended first, and what comes is thrown away until the peer ends its own, for
 * RU_LINGER_NS and RU_LINGER_MAX bytes at most.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/loop.h"

#define STREAM_SHED_MAX 64

static void stream_apply(struct ru_engine *engine, uint32_t index, enum ru_conn_action action);

/* ---- buffers ---- */

static void stream_return_buffer(struct ru_engine *engine, uint32_t buffer)
{
    RU_CHECK(buffer < engine->config.tcp_buffers);
    engine->backend->ops->lend_buffer(engine->backend, buffer);
    engine->buffers_free++;
}

static void stream_hold(struct ru_engine *engine, struct ru_conn *conn, uint32_t buffer,
                        uint32_t size)
{
    engine->held[buffer] = (struct ru_held){.next = RU_NONE, .size = (uint16_t)size};
    if (conn->held_last != RU_NONE)
        engine->held[conn->held_last].next = buffer;
    else
        conn->held_first = buffer;
    conn->held_last = buffer;
}

static void stream_drop_first(struct ru_engine *engine, struct ru_conn *conn)
{
    uint32_t buffer = conn->held_first;
    conn->held_first = engine->held[buffer].next;
    if (conn->held_first == RU_NONE)
        conn->held_last = RU_NONE;
    stream_return_buffer(engine, buffer);
}

static void stream_drop_held(struct ru_engine *engine, struct ru_conn *conn)
{
    while (conn->held_first != RU_NONE)
        stream_drop_first(engine, conn);
}

/* Take a connection out of its queue, wherever it stands: served, or closed meanwhile. */
static void stream_unstarve(struct ru_engine *engine, struct ru_conn *conn)
{
    struct ru_starved *starved = &engine->starved[conn->starved_of];
    if (!conn->starved)
        return;
    conn->starved = false;
    if (conn->starved_previous != RU_NONE)
        ru_conn_at(&engine->conns, conn->starved_previous)->starved_next = conn->starved_next;
    else
        starved->first = conn->starved_next;
    if (conn->starved_next != RU_NONE)
        ru_conn_at(&engine->conns, conn->starved_next)->starved_previous = conn->starved_previous;
    else
        starved->last = conn->starved_previous;
}

static void stream_starve(struct ru_engine *engine, uint32_t index, enum ru_starved_of what)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    struct ru_starved *starved = &engine->starved[what];
    if (conn->starved && conn->starved_of == what)
        return;
    stream_unstarve(engine, conn);
    engine->counters.tcp_starved++;
    conn->starved = true;
    conn->starved_of = (uint8_t)what;
    conn->starved_next = RU_NONE;
    conn->starved_previous = starved->last;
    if (starved->last != RU_NONE)
        ru_conn_at(&engine->conns, starved->last)->starved_next = index;
    else
        starved->first = index;
    starved->last = index;
}

/* ---- operations ---- */

static void stream_receive(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->receiving && conn->fd >= 0);
    uint32_t size;
    uint8_t *room = ru_conn_body_room(&engine->conns, index, &size);
    if (!room && engine->buffers_free == 0) {
        stream_starve(engine, index, RU_STARVED_OF_BUFFER);
        return;
    }
    stream_unstarve(engine, conn);
    conn->receiving = true;
    conn->crowded = false; /* if there is more, this brings it */
    engine->operations++;
    if (room) {
        engine->backend->ops->receive_into(engine->backend, index, conn->generation, conn->fd, room,
                                           size);
        return;
    }
    /* A multishot receive fills some thirty buffers before it can be stopped, so it is for bytes that
     * leave their buffers within the lap: the rest of a small body, and what a peer sends behind its
     * only request, which is thrown away. Where bytes may have to wait for a block or for a handler,
     * a single receive holds one buffer at most; it also ends by itself, where the other has to be
     * cancelled before the descriptor may be closed. */
    bool once = engine->conns.persistent || conn->state == RU_CONN_READ_HEADER;
    engine->backend->ops->receive(engine->backend, index, conn->generation, conn->fd, once);
}

static void stream_stop_receiving(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (!conn->receiving || conn->cancelling)
        return;
    conn->cancelling = true;
    engine->backend->ops->cancel(engine->backend, RU_OP_RECEIVE, index, conn->generation);
}

static void stream_send(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->sending && conn->fd >= 0);
    uint32_t size;
    const uint8_t *bytes = ru_conn_unsent(&engine->conns, index, &size);
    conn->sending = true;
    engine->operations++;
    /* A small reply always fits an empty send buffer: nothing is learnt by waiting to close. */
    conn->closes_itself = !engine->conns.persistent && !conn->receiving && size <= RU_INLINE_SIZE &&
                          !ru_conn_lingers(conn);
    if (conn->closes_itself)
        engine->backend->ops->send_last(engine->backend, index, conn->generation, conn->fd, bytes,
                                        size);
    else
        engine->backend->ops->send(engine->backend, index, conn->generation, conn->fd, bytes, size);
}

/* Bring the wheel forward if the deadline is earlier than it knows; a later one is noticed when
 * the old one comes up. */
static void stream_watch(struct ru_engine *engine, uint32_t index)
{
    enum ru_conn_reason reason;
    uint64_t deadline_ns = ru_conn_deadline_ns(&engine->conns, index, &reason);
    const struct ru_timer_node *node = &engine->timer_nodes[index];
    if (deadline_ns != UINT64_MAX && (node->bucket == RU_NONE || deadline_ns < node->deadline_ns))
        ru_timer_set(&engine->timers, index, deadline_ns);
}

void ru_stream_watch_all(struct ru_engine *engine)
{
    for (uint32_t index = 0; index < engine->conns.capacity; index++)
        if (ru_conn_at(&engine->conns, index)->fd >= 0)
            stream_watch(engine, index);
}

void ru_stream_peer(struct ru_engine *engine, uint32_t index, uint8_t *peer)
{
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof(name);
    if (conn->named)
        memcpy(&name, engine->arena.base + ru_arena_area_at(&engine->arena, index), RU_PEER_SIZE);
    else if (!conn->closes_itself) /* or the descriptor might be somebody else's by now */
        (void)getpeername(conn->fd, (struct sockaddr *)&name, &size); /* reset: stays zero */
    memcpy(peer, &name, RU_ADDRESS_BYTES);
}

/* For the log, before the descriptor goes. What ended well after one request is left out, since
 * that request has a line of its own. */
static void stream_note_closed(struct ru_engine *engine, uint32_t index)
{
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (conn->reason == RU_CLOSED_DONE && conn->requests == 1)
        return;
    struct ru_closed *closed = ru_closed_room(&engine->closed);
    if (!closed)
        return;
    *closed = (struct ru_closed){
        .reason = conn->reason,
        .age_ns = engine->now_ns - conn->opened_ns,
        .requests = conn->requests,
    };
    ru_stream_peer(engine, index, closed->peer);
    ru_closed_put(&engine->closed);
}

void ru_stream_settle(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_DONE);
    stream_unstarve(engine, conn);
    stream_stop_receiving(engine, index);
    if (conn->sending && !conn->cancelling_send) {
        conn->cancelling_send = true;
        engine->backend->ops->cancel(engine->backend, RU_OP_SEND, index, conn->generation);
    }
    if (conn->receiving || conn->sending)
        return;
    stream_drop_held(engine, conn);
    if (conn->fd >= 0) {
        stream_note_closed(engine, index);
        if (!conn->closes_itself)
            engine->backend->ops->close_descriptor(engine->backend, conn->fd);
        conn->fd = -1;
        engine->accept_retry_ns = 0; /* a descriptor is free again */
        ru_timer_clear(&engine->timers, index);
        ru_conn_count_closed(&engine->conns, index);
    }
    if (!conn->queued && !conn->with_worker)
        ru_conn_release(&engine->conns, index);
}

static void stream_close(struct ru_engine *engine, uint32_t index, enum ru_conn_reason reason)
{
    ru_conn_close(&engine->conns, index, reason, engine->now_ns);
    ru_stream_settle(engine, index);
}

/* ---- to and from another process ---- */

static bool stream_pass(int channel, uint8_t listener, int fd)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = &listener, .iov_len = sizeof(listener)};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof(fd));
    return sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(listener);
}

/* During a hand-over, part with an idle connection. False when there is none, or it cannot be parted
 * with: it is served on then. One that is being received from, as while its handler ran, follows
 * when that has been cancelled, unless a request came first. */
static bool stream_hand_over(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (engine->hand_over_fd < 0 || engine->phase != RU_DRAINING || !ru_conn_idle(conn) ||
        conn->sending)
        return false;
    if (conn->receiving) {
        stream_stop_receiving(engine, index);
        return false;
    }
    if (!stream_pass(engine->hand_over_fd, conn->listener, conn->fd)) {
        /* Full, too many on their way, no memory: all but its end is for a moment only. */
        engine->hand_over_stuck |= errno != EPIPE && errno != ECONNRESET;
        return false;
    }
    engine->backend->ops->forget_descriptor(engine->backend, conn->fd);
    stream_close(engine, index, RU_CLOSED_HANDED_OVER);
    return true;
}

void ru_stream_hand_over(struct ru_engine *engine)
{
    engine->hand_over_stuck = false;
    for (uint32_t index = 0; index < engine->conns.capacity; index++) {
        struct ru_conn *conn = ru_conn_at(&engine->conns, index);
        if (ru_conn_idle(conn))
            (void)stream_hand_over(engine, index);
    }
}

/* ---- from bytes to actions ---- */

/* Feed what is held; then the end of the stream; then listen for more. */
static void stream_pump(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    enum ru_conn_action action = RU_CONN_NOTHING;
    while (action == RU_CONN_NOTHING && ru_conn_reading(conn) && conn->held_first != RU_NONE) {
        struct ru_held *held = &engine->held[conn->held_first];
        const uint8_t *bytes =
            engine->tcp_buffers + (size_t)conn->held_first * RU_TCP_BUFFER + held->at;
        uint32_t used = 0;
        action = ru_conn_feed(&engine->conns, index, bytes, held->size - held->at, engine->now_ns,
                              &used);
        held->at = (uint16_t)(held->at + used);
        if (held->at == held->size)
            stream_drop_first(engine, conn);
    }
    if (action == RU_CONN_NOTHING && ru_conn_reading(conn)) {
        if (conn->eof)
            action = ru_conn_end_of_stream(&engine->conns, index, engine->now_ns);
        else if (stream_hand_over(engine, index))
            return;
        else if (!conn->receiving)
            stream_receive(engine, index);
    }
    stream_apply(engine, index, action);
}

/* Read the peer's name into the connection's area, for its handler; false if it has reset already.
 * Not at the accept: one system call less for everything that needs no handler. */
static bool stream_name_peer(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    uint8_t *peer = engine->arena.base + ru_arena_area_at(&engine->arena, index);
    socklen_t size = RU_PEER_SIZE;
    if (conn->named)
        return true;
    memset(peer, 0, RU_PEER_SIZE);
    conn->named = getpeername(conn->fd, (struct sockaddr *)(void *)peer, &size) == 0;
    return conn->named;
}

void ru_stream_limit(struct ru_engine *engine, uint32_t index)
{
    engine->counters.refused_limited++;
    ru_conn_at(&engine->conns, index)->refused = true;
    stream_apply(engine, index,
                 ru_conn_refuse(&engine->conns, index, RU_STATUS_REQUEST_RATE, engine->now_ns));
}

static void stream_queue(struct ru_engine *engine, uint32_t index, enum ru_lane_number lane)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (!stream_name_peer(engine, index)) {
        stream_close(engine, index, RU_CLOSED_EARLY);
        return;
    }
    if (ru_dispatch_limited(engine, engine->arena.slots + index)) {
        ru_stream_limit(engine, index);
        return;
    }
    if (ru_dispatch_queue(engine, lane, engine->arena.slots + index)) {
        conn->queued = true;
        /* Listen on, to learn of a reset while the handler runs; further bytes end it. */
        if (!conn->receiving && !conn->eof && conn->held_first == RU_NONE && !conn->starved)
            stream_receive(engine, index);
        return;
    }
    engine->counters.refused_slow++;
    stream_apply(engine, index,
                 ru_conn_refuse(&engine->conns, index, RU_STATUS_REQUEST_RATE, engine->now_ns));
}

/* Bytes behind the request: kept for the next one, or of no use. */
static void stream_spare(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (conn->held_first == RU_NONE || ru_conn_reading(conn))
        return;
    stream_stop_receiving(engine, index);
    if (!engine->conns.persistent && conn->state != RU_CONN_WAIT_BLOCK) {
        conn->deaf = true;
        stream_drop_held(engine, conn);
    }
}

/* Answered for good: end our half, and listen for the end of the other. */
static void stream_linger(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->closes_itself);
    conn->deaf = true;
    stream_drop_held(engine, conn);
    if (shutdown(conn->fd, SHUT_WR) != 0) { /* it was reset */
        stream_close(engine, index, RU_CLOSED_DONE);
        return;
    }
    if (!conn->receiving)
        stream_receive(engine, index);
    stream_watch(engine, index);
}

static void stream_apply(struct ru_engine *engine, uint32_t index, enum ru_conn_action action)
{
    switch (action) {
    case RU_CONN_NOTHING:
        break;
    case RU_CONN_SEND:
        stream_send(engine, index);
        break;
    case RU_CONN_QUEUE:
        stream_queue(engine, index, RU_LANE_ORDINARY);
        break;
    case RU_CONN_QUEUE_SLOW:
        stream_queue(engine, index, RU_LANE_SLOW);
        break;
    case RU_CONN_QUEUE_WRITE:
        stream_queue(engine, index, RU_LANE_WRITE);
        break;
    case RU_CONN_STARVE:
        stream_stop_receiving(engine, index);
        stream_starve(engine, index,
                      (enum ru_starved_of)ru_conn_block_class(ru_conn_at(&engine->conns, index)));
        break;
    case RU_CONN_NEXT:
        if (engine->phase != RU_SERVING && engine->hand_over_fd < 0 &&
            ru_conn_at(&engine->conns, index)->held_first == RU_NONE) {
            stream_close(engine, index, RU_CLOSED_DONE);
            return;
        }
        stream_watch(engine, index);
        stream_pump(engine, index);
        return;
    case RU_CONN_END:
        stream_linger(engine, index);
        return;
    case RU_CONN_CLOSE:
        ru_stream_settle(engine, index);
        return;
    }
    stream_spare(engine, index);
    stream_watch(engine, index);
}

/* ---- events ---- */

/* Keep, give back or account for what a receive brought. */
static enum ru_conn_action stream_take(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    bool wanted = event->result > 0 && conn->state != RU_CONN_DONE && !conn->deaf;
    if (event->buffer != RU_NONE) {
        RU_CHECK(engine->buffers_free > 0);
        conn->crowded = event->result == RU_TCP_BUFFER;
        engine->buffers_free--;
        if (wanted)
            stream_hold(engine, conn, event->buffer, (uint32_t)event->result);
        else
            stream_return_buffer(engine, event->buffer);
    } else if (wanted) {
        conn->crowded = true; /* the body has all it asked for; what follows it is not known */
        return ru_conn_received(&engine->conns, event->index, (uint32_t)event->result,
                                engine->now_ns);
    }
    return RU_CONN_NOTHING;
}

/* Something came behind the reply: the peer's end, as a rule. */
static void stream_heard_out(struct ru_engine *engine, uint32_t index, int32_t result)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    bool failed = result < 0 && result != -ENOBUFS && result != -ECANCELED;
    conn->lingered += result > 0 ? (uint32_t)result : 0;
    if (conn->eof || failed || conn->lingered > RU_LINGER_MAX)
        stream_close(engine, index, RU_CLOSED_DONE);
    else if (!conn->receiving)
        stream_receive(engine, index);
}

static void stream_received(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    RU_CHECK(conn->generation == event->generation && conn->receiving);
    conn->cancelling = false; /* heard of after it was cancelled: the cancellation came too early */
    if (event->ended) {
        conn->receiving = false;
        engine->operations--;
    }
    enum ru_conn_action action = stream_take(engine, event);
    if (event->result == 0)
        conn->eof = true;
    bool failed = event->result < 0 && event->result != -ENOBUFS && event->result != -ECANCELED;
    if (conn->state == RU_CONN_DONE)
        ru_stream_settle(engine, event->index);
    else if (conn->state == RU_CONN_LINGER)
        stream_heard_out(engine, event->index, event->result);
    else if (failed)
        stream_close(engine, event->index, RU_CLOSED_RESET);
    else if (action != RU_CONN_NOTHING)
        stream_apply(engine, event->index, action);
    else if (ru_conn_reading(conn))
        stream_pump(engine, event->index);
    else
        stream_spare(engine, event->index);
}

static void stream_sent(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    RU_CHECK(conn->generation == event->generation && conn->sending && event->ended);
    conn->sending = false;
    engine->operations--;
    bool cut_short =
        conn->closes_itself && event->result < (int32_t)(conn->reply_size - conn->reply_sent);
    if (conn->state == RU_CONN_DONE)
        ru_stream_settle(engine, event->index);
    else if (cut_short)
        stream_close(engine, event->index, RU_CLOSED_RESET);
    else
        stream_apply(engine, event->index,
                     ru_conn_sent(&engine->conns, event->index, event->result, engine->now_ns));
}

void ru_stream_replied(struct ru_engine *engine, uint32_t index, uint32_t block, uint32_t size)
{
    stream_apply(engine, index,
                 ru_conn_replied(&engine->conns, index, block, size, engine->now_ns));
}

bool ru_stream_dequeued(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->queued);
    conn->queued = false;
    if (conn->state != RU_CONN_DONE)
        return true;
    ru_stream_settle(engine, index);
    return false;
}

void ru_stream_expire(struct ru_engine *engine)
{
    uint32_t index;
    while ((index = ru_timer_expire(&engine->timers, engine->judged_ns)) != RU_NONE) {
        enum ru_conn_reason reason = RU_CLOSED_DONE;
        uint64_t deadline_ns = ru_conn_deadline_ns(&engine->conns, index, &reason);
        if (deadline_ns == UINT64_MAX)
            continue;
        if (deadline_ns > engine->judged_ns)
            ru_timer_set(&engine->timers, index, deadline_ns);
        else
            stream_close(engine, index, reason);
    }
}

/* ---- accepting ---- */

/* Close at once and let the peer know by a reset. */
static void stream_reject(int fd)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    (void)close(fd);
}

/* A client was refused, or waits for want of a descriptor. Refusals that are RU_REFUSALS_GAP_NS
 * apart at most are one spell, so that whoever asks is told since when, not how often. */
static void stream_note_refusal(struct ru_engine *engine)
{
    if (engine->refused_at_ns == 0 || engine->now_ns - engine->refused_at_ns > RU_REFUSALS_GAP_NS)
        engine->refused_since_ns = engine->now_ns;
    engine->refused_at_ns = engine->now_ns;
}

/* adopted: another process has served it; it may have been answered before. */
static void stream_open(struct ru_engine *engine, uint32_t listener, int fd, bool adopted)
{
    struct ru_counters *counters = &engine->counters;
    counters->connections_accepted++;
    if (engine->phase >= RU_FORCED) { /* nobody would serve it, nor end its operations */
        counters->connections_closed_drain++;
        stream_reject(fd);
        return;
    }
    uint32_t index = ru_conn_open(&engine->conns, fd, (uint8_t)listener, engine->now_ns);
    if (index == RU_NONE) {
        counters->connections_closed_limit++;
        stream_note_refusal(engine);
        stream_reject(fd);
        return;
    }
    ru_conn_at(&engine->conns, index)->answered_before = adopted && engine->conns.persistent;
    if (stream_hand_over(engine, index))
        return;
    stream_receive(engine, index);
    stream_watch(engine, index);
}

void ru_stream_adopt(struct ru_engine *engine)
{
    struct ru_adoptions *adoptions = &engine->adoptions;
    uint32_t added = __atomic_load_n(&adoptions->added, __ATOMIC_ACQUIRE);
    while (adoptions->taken != added) {
        uint64_t item = adoptions->items[adoptions->taken % RU_ADOPT_MAX];
        stream_open(engine, (uint32_t)(item >> 32), (int)(uint32_t)item, true);
        __atomic_store_n(&adoptions->taken, adoptions->taken + 1, __ATOMIC_RELEASE);
    }
}

/* Do not accept for a moment: what failed would fail again at once. */
static void stream_pause(struct ru_engine *engine, uint32_t listener)
{
    stream_note_refusal(engine);
    engine->listeners[listener].accept_paused = true;
    engine->accept_retry_ns = engine->now_ns + RU_ACCEPT_RETRY_NS;
}

/* Out of descriptors: give up the reserve for a moment to accept and close, so that clients see a
 * closed connection and not a hanging one. */
static void stream_shed(struct ru_engine *engine, uint32_t listener)
{
    for (uint32_t i = 0; i < STREAM_SHED_MAX && engine->reserve_fd >= 0; i++) {
        (void)close(engine->reserve_fd);
        int fd = accept4(engine->config.listeners[listener].tcp_fd, NULL, NULL,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            engine->counters.connections_accepted++;
            engine->counters.connections_closed_descriptors++;
            stream_reject(fd);
        }
        engine->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            break;
    }
    stream_pause(engine, listener);
}

static void stream_accepted(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_listener_state *listener = &engine->listeners[event->index];
    if (event->ended) {
        RU_CHECK(listener->accepting && engine->operations > 0);
        listener->accepting = false;
        engine->operations--;
        engine->counters.accept_ended++;
    }
    if (event->result >= 0)
        stream_open(engine, event->index, event->result, false);
    else if (event->result == -EMFILE || event->result == -ENFILE)
        stream_shed(engine, event->index);
    else if (event->result != -ECONNABORTED && event->result != -ECANCELED)
        stream_pause(engine, event->index);
}

void ru_stream_event(struct ru_engine *engine, const struct ru_event *event)
{
    if (event->operation == RU_OP_ACCEPT)
        stream_accepted(engine, event);
    else if (event->operation == RU_OP_RECEIVE)
        stream_received(engine, event);
    else
        stream_sent(engine, event);
}

/* ---- once a lap ---- */

static void stream_feed_buffers(struct ru_engine *engine)
{
    struct ru_starved *starved = &engine->starved[RU_STARVED_OF_BUFFER];
    uint32_t budget = engine->buffers_free; /* one each; what they receive comes a lap later */
    for (; starved->first != RU_NONE && budget > 0; budget--) {
        uint32_t index = starved->first;
        struct ru_conn *conn = ru_conn_at(&engine->conns, index);
        stream_unstarve(engine, conn);
        if ((ru_conn_reading(conn) || conn->state == RU_CONN_LINGER) && !conn->receiving)
            stream_receive(engine, index);
    }
}

static void stream_feed_blocks(struct ru_engine *engine, enum ru_starved_of what)
{
    struct ru_starved *starved = &engine->starved[what];
    while (starved->first != RU_NONE) {
        uint32_t index = starved->first;
        if (ru_conn_unstarve(&engine->conns, index, engine->now_ns) == RU_CONN_STARVE)
            return;
        stream_unstarve(engine, ru_conn_at(&engine->conns, index));
        stream_pump(engine, index);
    }
}

void ru_stream_arm(struct ru_engine *engine)
{
    stream_feed_buffers(engine);
    stream_feed_blocks(engine, RU_STARVED_OF_SMALL);
    stream_feed_blocks(engine, RU_STARVED_OF_LARGE);
    if (engine->phase != RU_SERVING)
        return;
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        struct ru_listener_state *listener = &engine->listeners[i];
        if (listener->accepting ||
            (listener->accept_paused && engine->now_ns < engine->accept_retry_ns))
            continue;
        if (engine->reserve_fd < 0)
            engine->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        listener->accept_paused = false;
        listener->accepting = true;
        engine->operations++;
        engine->backend->ops->accept(engine->backend, i);
    }
}

/* ---- draining ---- */

void ru_stream_close_all(struct ru_engine *engine, bool idle_only)
{
    for (uint32_t index = 0; index < engine->conns.capacity; index++) {
        struct ru_conn *conn = ru_conn_at(&engine->conns, index);
        if (conn->state == RU_CONN_FREE || conn->state == RU_CONN_DONE)
            continue;
        bool idle = conn->answered_before && !conn->request_open;
        if (idle || !idle_only)
            stream_close(engine, index, RU_CLOSED_DRAIN);
    }
}

void ru_stream_drain(struct ru_engine *engine, bool refuse)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        int listener = engine->config.listeners[i].tcp_fd;
        for (uint32_t budget = RU_CONNECTIONS_MAX; budget > 0; budget--) { /* not for ever */
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0)
                break;
            stream_open(engine, i, fd, false);
        }
        if (refuse)
            (void)shutdown(listener, SHUT_RD); /* ends listening: further clients are refused */
    }
}
