/* stream.c: TCP connections between the state machine and the backend.
 *
 * conn.c says what to do; this file does it, and keeps what conn.c does not know: operations in
 * flight, buffers whose bytes are not consumed yet, and connections that wait for memory.
 *
 * Closing takes three steps: the connection takes no more work (ru_conn_close), its operations in
 * flight end (stream_cancel_operations), its descriptor is closed (stream_close_descriptor).
 * Whatever a step waits for ends in a call of ru_stream_continue_closing(). The connection is free
 * when no lane and no worker has its context any more.
 *
 * When a socket is closed with unread bytes, or more arrive later, the kernel resets the
 * connection, and the peer loses what it has not received of the reply. So after a reply that this
 * could hit, our half is ended first, and what the peer sends is thrown away until it ends its own:
 * for RU_LINGER_NS and RU_LINGER_MAX bytes at most.
 */
#include "engine/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/admission.h"
#include "engine/engine.h"
#include "engine/handover.h"

static void stream_apply(struct ru_engine *engine, uint32_t index, enum ru_conn_action action);

/* ---- buffers ---- */

static void stream_return_buffer(struct ru_engine *engine, uint32_t buffer)
{
    RU_CHECK(buffer < engine->config.tcp_buffers);
    RU_CHECK(engine->buffers_free < engine->config.tcp_buffers);
    engine->backend->ops->lend_buffer(engine->backend, buffer);
    engine->buffers_free++;
}

static void stream_keep(struct ru_engine *engine, struct ru_conn *conn, uint32_t buffer,
                        uint32_t size)
{
    RU_CHECK(size > 0 && size <= RU_TCP_BUFFER);
    engine->unread[buffer] = (struct ru_unread){.size = (uint16_t)size};
    ru_list_append(&conn->unread, engine->unread_links, buffer);
}

static void stream_drop_first(struct ru_engine *engine, struct ru_conn *conn)
{
    uint32_t buffer = conn->unread.first;
    RU_CHECK(buffer != RU_NONE);
    ru_list_remove(&conn->unread, engine->unread_links, buffer);
    stream_return_buffer(engine, buffer);
}

static void stream_drop_unread(struct ru_engine *engine, struct ru_conn *conn)
{
    while (!ru_list_is_empty(&conn->unread))
        stream_drop_first(engine, conn);
}

/* Take a connection out of its queue, wherever it stands: served, or closed meanwhile. */
static void stream_leave_queue(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (!conn->awaits_memory)
        return;
    conn->awaits_memory = false;
    ru_list_remove(&engine->memory_queues[conn->shortage], engine->memory_links, index);
}

static void stream_await_memory(struct ru_engine *engine, uint32_t index, enum ru_shortage shortage)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state != RU_CONN_FREE && conn->state != RU_CONN_DONE);
    if (conn->awaits_memory && conn->shortage == shortage)
        return;
    stream_leave_queue(engine, index);
    engine->counters.tcp_starved++;
    conn->awaits_memory = true;
    conn->shortage = (uint8_t)shortage;
    ru_list_append(&engine->memory_queues[shortage], engine->memory_links, index);
}

/* ---- operations ---- */

static void stream_receive(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->receiving && conn->fd >= 0 && !conn->closes_itself);
    RU_CHECK(ru_conn_reading(conn) || conn->state == RU_CONN_PROCESSING ||
             conn->state == RU_CONN_LINGER);
    uint32_t size;
    uint8_t *room = ru_conn_body_room(&engine->conns, index, &size);
    if (!room && engine->buffers_free == 0) {
        stream_await_memory(engine, index, RU_SHORT_OF_BUFFER);
        return;
    }
    stream_leave_queue(engine, index);
    conn->receiving = true;
    conn->more_expected = false; /* if there is more, this brings it */
    ru_engine_begin_operation(engine);
    if (room) {
        engine->backend->ops->receive_into(engine->backend, index, conn->generation, conn->fd, room,
                                           size);
        return;
    }
    /* A multishot receive may fill thirty buffers before it can be stopped, so it serves bytes that
     * leave their buffers within the lap: the rest of a small body, and what a peer sends behind
     * its only request, which is thrown away. Where bytes may wait for a block or a handler, a
     * single receive occupies one buffer at most. It also ends by itself, while a multishot one
     * must be cancelled before the descriptor may be closed. */
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
    RU_CHECK(conn->state == RU_CONN_WRITE && !conn->sending && conn->fd >= 0);
    uint32_t size;
    const uint8_t *bytes = ru_conn_unsent(&engine->conns, index, &size);
    RU_CHECK(size > 0);
    conn->sending = true;
    ru_engine_begin_operation(engine);
    /* A small reply fits any empty send buffer, so the close need not wait for the send's
     * result. */
    conn->closes_itself = !engine->conns.persistent && !conn->receiving && size <= RU_INLINE_SIZE &&
                          !ru_conn_lingers(conn);
    if (conn->closes_itself)
        engine->backend->ops->send_last(engine->backend, index, conn->generation, conn->fd, bytes,
                                        size);
    else
        engine->backend->ops->send(engine->backend, index, conn->generation, conn->fd, bytes, size);
}

/* Set the timer if the deadline is earlier than the timer's; when the timer of a deadline that has
 * moved away expires, ru_stream_expire() sets it anew. */
static void stream_watch(struct ru_engine *engine, uint32_t index)
{
    enum ru_closed_reason reason;
    uint64_t deadline_ns = ru_conn_deadline_ns(&engine->conns, index, &reason);
    const struct ru_timer_node *node = &engine->timer_nodes[index];
    RU_CHECK(deadline_ns == UINT64_MAX || ru_conn_at(&engine->conns, index)->fd >= 0);
    if (deadline_ns != UINT64_MAX && (node->bucket == RU_NONE || deadline_ns < node->deadline_ns))
        ru_timer_set(&engine->timers, index, deadline_ns);
}

void ru_stream_watch_all(struct ru_engine *engine)
{
    for (uint32_t index = 0; index < engine->conns.capacity; index++)
        if (ru_conn_at(&engine->conns, index)->fd >= 0)
            stream_watch(engine, index);
}

/* Read the peer's address into the connection's area, for the handler; false if the peer has reset.
 * Only now, not at the accept: what needs no handler is spared the system call. */
static bool stream_learn_peer(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    uint8_t *peer = engine->arena.base + ru_arena_area_at(&engine->arena, index);
    socklen_t size = RU_PEER_SIZE;
    if (conn->peer_known)
        return true;
    memset(peer, 0, RU_PEER_SIZE);
    conn->peer_known = getpeername(conn->fd, (struct sockaddr *)(void *)peer, &size) == 0;
    return conn->peer_known;
}

void ru_stream_peer(struct ru_engine *engine, uint32_t index, uint8_t *peer)
{
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->fd >= 0);
    memset(peer, 0, RU_ADDRESS_BYTES);
    /* When the descriptor closes itself, another socket may have it by now. */
    if (conn->peer_known || (!conn->closes_itself && stream_learn_peer(engine, index)))
        memcpy(peer, engine->arena.base + ru_arena_area_at(&engine->arena, index),
               RU_ADDRESS_BYTES);
}

/* Note the end for the log, while the descriptor can still tell the peer. A connection that ended
 * well after one request is left out, since that request has a line of its own. */
static void stream_note_closed(struct ru_engine *engine, uint32_t index)
{
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (conn->reason == RU_CLOSED_DONE && conn->requests == 1)
        return;
    struct ru_closed *closed = ru_closed_reserve(&engine->closed);
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

/* Step 2: ask what is in flight to end. True once nothing is. */
static bool stream_cancel_operations(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    stream_stop_receiving(engine, index);
    if (conn->sending && !conn->cancelling_send) {
        conn->cancelling_send = true;
        engine->backend->ops->cancel(engine->backend, RU_OP_SEND, index, conn->generation);
    }
    return !conn->receiving && !conn->sending;
}

/* Step 3: the connection is over for its peer, though a lane or a worker may still know it. */
static void stream_close_descriptor(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->receiving && !conn->sending && !conn->awaits_memory);
    stream_note_closed(engine, index);
    if (!conn->closes_itself)
        engine->backend->ops->close_descriptor(engine->backend, conn->fd);
    conn->fd = -1;
    engine->accept_retry_ns = 0; /* a descriptor is free again */
    ru_timer_clear(&engine->timers, index);
    ru_conn_count_closed(&engine->conns, index);
}

void ru_stream_continue_closing(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_DONE);
    stream_leave_queue(engine, index);
    if (!stream_cancel_operations(engine, index))
        return;
    stream_drop_unread(engine, conn);
    if (conn->fd >= 0)
        stream_close_descriptor(engine, index);
    if (!conn->queued && !conn->with_worker)
        ru_conn_release(&engine->conns, index);
}

/* Step 1, and as much of the others as can be done now. */
static void stream_close(struct ru_engine *engine, uint32_t index, enum ru_closed_reason reason)
{
    ru_conn_close(&engine->conns, index, reason, engine->now_ns);
    ru_stream_continue_closing(engine, index);
}

/* ---- to and from another process ---- */

/* During a hand-over, pass an idle connection on and close it here. False when there is no
 * hand-over or the connection cannot leave now; it is served here then. A receive in flight is
 * cancelled first, and the connection leaves when the receive has ended, unless that brought a
 * request. */
static bool stream_hand_over(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (!ru_engine_hands_over(engine) || engine->phase != RU_DRAINING || !ru_conn_idle(conn) ||
        conn->sending)
        return false;
    if (conn->receiving) {
        stream_stop_receiving(engine, index);
        return false;
    }
    int result = ru_handover_send(engine->hand_over_fd, conn->listener, conn->fd);
    if (result != 0) {
        /* Full, too many descriptors on their way, no memory: all but the end of the socket
         * passes. */
        engine->hand_over_stuck |= result != -EPIPE && result != -ECONNRESET;
        return false;
    }
    RU_CHECK(!conn->request_open && !conn->queued && !conn->with_worker);
    engine->backend->ops->forget_descriptor(engine->backend, conn->fd);
    stream_close(engine, index, RU_CLOSED_HANDED_OVER);
    return true;
}

void ru_stream_begin(struct ru_engine *engine, uint32_t index)
{
    RU_CHECK(ru_conn_idle(ru_conn_at(&engine->conns, index)));
    if (stream_hand_over(engine, index))
        return;
    stream_receive(engine, index);
    stream_watch(engine, index);
}

void ru_stream_hand_over(struct ru_engine *engine)
{
    engine->hand_over_stuck = false;
    for (uint32_t index = 0; index < engine->conns.capacity; index++)
        (void)stream_hand_over(engine, index);
}

/* ---- from bytes to actions ---- */

/* Feed what is unread; then the end of the stream; then listen for more. */
static void stream_advance(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    enum ru_conn_action action = RU_CONN_NOTHING;
    while (action == RU_CONN_NOTHING && ru_conn_reading(conn) && !ru_list_is_empty(&conn->unread)) {
        uint32_t buffer = conn->unread.first;
        struct ru_unread *unread = &engine->unread[buffer];
        const uint8_t *bytes = engine->tcp_buffers + (size_t)buffer * RU_TCP_BUFFER + unread->at;
        uint32_t used = 0;
        action = ru_conn_feed(&engine->conns, index, bytes, unread->size - unread->at,
                              engine->now_ns, &used);
        unread->at = (uint16_t)(unread->at + used);
        RU_CHECK(unread->at <= unread->size);
        if (unread->at == unread->size)
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

static void stream_refuse(struct ru_engine *engine, uint32_t index, uint64_t *counter)
{
    (*counter)++;
    stream_apply(engine, index,
                 ru_conn_refuse(&engine->conns, index, RU_STATUS_REQUEST_RATE, engine->now_ns));
}

void ru_stream_turn_away(struct ru_engine *engine, uint32_t index, uint64_t *counter)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(!conn->queued && !conn->with_worker); /* or its reply has two writers */
    conn->refused = true;
    stream_refuse(engine, index, counter);
}

static void stream_queue(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    uint32_t context = engine->arena.slots + index;
    struct ru_lane *lane =
        &engine->lanes[ru_admission_lane(engine, context, ru_header_lane(&conn->header))];
    if (!stream_learn_peer(engine, index)) {
        stream_close(engine, index, RU_CLOSED_EARLY);
        return;
    }
    if (ru_admission_refuses(engine, context)) {
        ru_stream_turn_away(engine, index, &engine->counters.refused_limited);
        return;
    }
    RU_CHECK(conn->state == RU_CONN_PROCESSING && !conn->queued && !conn->with_worker);
    if (ru_lane_push(lane, &engine->waiting, RU_TCP, context, engine->now_ns)) {
        conn->queued = true;
        /* Receive on, to learn of a reset while the handler runs; further bytes stop that. */
        if (!conn->receiving && !conn->eof && ru_list_is_empty(&conn->unread) &&
            !conn->awaits_memory)
            stream_receive(engine, index);
        return;
    }
    stream_refuse(engine, index, &engine->counters.refused_slow);
}

/* Bytes behind the request: kept for the next one on a persistent connection, or thrown away. */
static void stream_handle_surplus(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    if (ru_list_is_empty(&conn->unread) || ru_conn_reading(conn))
        return;
    stream_stop_receiving(engine, index);
    if (!engine->conns.persistent && conn->state != RU_CONN_WAIT_BLOCK) {
        conn->discards = true;
        stream_drop_unread(engine, conn);
    }
}

/* The last reply is sent: end our half, and read until the peer ends its own. */
static void stream_linger(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_LINGER && !conn->closes_itself && !conn->sending);
    conn->discards = true;
    stream_drop_unread(engine, conn);
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
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    switch (action) {
    case RU_CONN_NOTHING:
        break;
    case RU_CONN_SEND:
        stream_send(engine, index);
        break;
    case RU_CONN_QUEUE:
        stream_queue(engine, index);
        break;
    case RU_CONN_AWAIT_BLOCK:
        stream_stop_receiving(engine, index);
        stream_await_memory(engine, index, (enum ru_shortage)ru_conn_block_class(conn));
        break;
    case RU_CONN_NEXT:
        if (engine->phase != RU_SERVING && !ru_engine_hands_over(engine) &&
            ru_list_is_empty(&conn->unread)) {
            stream_close(engine, index, RU_CLOSED_DONE);
            return;
        }
        stream_watch(engine, index);
        stream_advance(engine, index);
        return;
    case RU_CONN_END:
        stream_linger(engine, index);
        return;
    case RU_CONN_CLOSE:
        ru_stream_continue_closing(engine, index);
        return;
    }
    stream_handle_surplus(engine, index);
    stream_watch(engine, index);
}

/* ---- events ---- */

/* Keep the buffer that a receive filled, give it back, or account for bytes that stand in a
 * block. */
static enum ru_conn_action stream_take(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    bool wanted = event->result > 0 && conn->state != RU_CONN_DONE && !conn->discards;
    if (event->buffer != RU_NONE) {
        RU_CHECK(engine->buffers_free > 0);
        conn->more_expected = event->result == RU_TCP_BUFFER;
        engine->buffers_free--;
        if (wanted)
            stream_keep(engine, conn, event->buffer, (uint32_t)event->result);
        else
            stream_return_buffer(engine, event->buffer);
    } else if (wanted) {
        conn->more_expected = true; /* all that was asked for; what follows is not known */
        return ru_conn_received(&engine->conns, event->index, (uint32_t)event->result,
                                engine->now_ns);
    }
    return RU_CONN_NOTHING;
}

/* A receive ended in LINGER: as a rule with the peer's end. */
static void stream_linger_on(struct ru_engine *engine, uint32_t index, int32_t result, bool failed)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->state == RU_CONN_LINGER && conn->discards);
    conn->lingered += result > 0 ? (uint32_t)result : 0;
    if (conn->eof || failed || conn->lingered > RU_LINGER_MAX)
        stream_close(engine, index, RU_CLOSED_DONE);
    else if (!conn->receiving)
        stream_receive(engine, index);
}

void ru_stream_received(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    RU_CHECK(conn->generation == event->generation && conn->receiving);
    RU_CHECK(event->result > 0 || event->ended);
    conn->cancelling = false; /* an event after the cancel: it missed this receive, send another */
    if (event->ended) {
        conn->receiving = false;
        ru_engine_end_operation(engine);
    }
    enum ru_conn_action action = stream_take(engine, event);
    if (event->result == 0)
        conn->eof = true;
    bool failed = event->result < 0 && event->result != -ENOBUFS && event->result != -ECANCELED;
    if (conn->state == RU_CONN_DONE)
        ru_stream_continue_closing(engine, event->index);
    else if (conn->state == RU_CONN_LINGER)
        stream_linger_on(engine, event->index, event->result, failed);
    else if (failed)
        stream_close(engine, event->index, RU_CLOSED_RESET);
    else if (action != RU_CONN_NOTHING)
        stream_apply(engine, event->index, action);
    else if (ru_conn_reading(conn))
        stream_advance(engine, event->index);
    else
        stream_handle_surplus(engine, event->index);
}

void ru_stream_sent(struct ru_engine *engine, const struct ru_event *event)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, event->index);
    RU_CHECK(conn->generation == event->generation && conn->sending && event->ended);
    conn->sending = false;
    ru_engine_end_operation(engine);
    bool cut_short =
        conn->closes_itself && event->result < (int32_t)(conn->reply_size - conn->reply_sent);
    if (conn->state == RU_CONN_DONE)
        ru_stream_continue_closing(engine, event->index);
    else if (cut_short)
        stream_close(engine, event->index, RU_CLOSED_RESET);
    else
        stream_apply(engine, event->index,
                     ru_conn_sent(&engine->conns, event->index, event->result, engine->now_ns));
}

void ru_stream_replied(struct ru_engine *engine, uint32_t index, uint32_t block, uint32_t size)
{
    RU_CHECK(size > 0 && !ru_conn_at(&engine->conns, index)->with_worker);
    stream_apply(engine, index,
                 ru_conn_replied(&engine->conns, index, block, size, engine->now_ns));
}

bool ru_stream_leave_lane(struct ru_engine *engine, uint32_t index)
{
    struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->queued);
    conn->queued = false;
    if (conn->state != RU_CONN_DONE)
        return true;
    ru_stream_continue_closing(engine, index);
    return false;
}

void ru_stream_expire(struct ru_engine *engine)
{
    uint32_t index;
    RU_CHECK(engine->judged_ns <= engine->now_ns);
    while ((index = ru_timer_expire(&engine->timers, engine->judged_ns)) != RU_NONE) {
        enum ru_closed_reason reason = RU_CLOSED_DONE;
        uint64_t deadline_ns = ru_conn_deadline_ns(&engine->conns, index, &reason);
        if (deadline_ns == UINT64_MAX)
            continue;
        if (deadline_ns > engine->judged_ns)
            ru_timer_set(&engine->timers, index, deadline_ns);
        else
            stream_close(engine, index, reason);
    }
}

/* ---- once a lap ---- */

static void stream_serve_buffers(struct ru_engine *engine)
{
    const struct ru_list *queue = &engine->memory_queues[RU_SHORT_OF_BUFFER];
    uint32_t budget = engine->buffers_free; /* one each: none is filled before the next lap */
    for (; !ru_list_is_empty(queue) && budget > 0; budget--) {
        uint32_t index = queue->first;
        struct ru_conn *conn = ru_conn_at(&engine->conns, index);
        RU_CHECK(conn->awaits_memory && conn->shortage == RU_SHORT_OF_BUFFER);
        stream_leave_queue(engine, index);
        if ((ru_conn_reading(conn) || conn->state == RU_CONN_LINGER) && !conn->receiving)
            stream_receive(engine, index);
    }
}

static void stream_serve_blocks(struct ru_engine *engine, enum ru_shortage shortage)
{
    const struct ru_list *queue = &engine->memory_queues[shortage];
    while (!ru_list_is_empty(queue)) {
        uint32_t index = queue->first;
        if (!ru_conn_take_block(&engine->conns, index, engine->now_ns))
            return;
        stream_leave_queue(engine, index);
        stream_advance(engine, index);
    }
}

void ru_stream_serve_waiting(struct ru_engine *engine)
{
    stream_serve_buffers(engine);
    stream_serve_blocks(engine, RU_SHORT_OF_SMALL);
    stream_serve_blocks(engine, RU_SHORT_OF_LARGE);
}

/* ---- draining ---- */

void ru_stream_close_all(struct ru_engine *engine, bool idle_only)
{
    RU_CHECK(engine->phase != RU_SERVING);
    for (uint32_t index = 0; index < engine->conns.capacity; index++) {
        struct ru_conn *conn = ru_conn_at(&engine->conns, index);
        if (conn->state == RU_CONN_FREE || conn->state == RU_CONN_DONE)
            continue;
        bool idle = conn->answered_before && !conn->request_open;
        if (idle || !idle_only)
            stream_close(engine, index, RU_CLOSED_DRAIN);
    }
}
