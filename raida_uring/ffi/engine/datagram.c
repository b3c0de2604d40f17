/* datagram.c: datagrams between the UDP contexts and the backend.
 *
 * udp.c decides about a datagram; this file does it, lends free slots to the kernel, and counts what
 * became of replies. A reply is known to have left only when the lap's failures have been seen.
 */
#include "engine/datagram.h"

#include <errno.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include "engine/admission.h"
#include "engine/engine.h"

static uint8_t *datagram_payload(const struct ru_engine *engine, uint32_t slot)
{
    return engine->arena.base + ru_arena_slot_at(&engine->arena, slot) + engine->arena.payload_at;
}

static void datagram_refuse_slow(struct ru_engine *engine, uint32_t slot)
{
    uint8_t *bytes = datagram_payload(engine, slot);
    engine->counters.refused_slow++;
    uint32_t size =
        ru_fast_refuse(&engine->front, RU_STATUS_REQUEST_RATE, RU_SCOPE_ALL, bytes, bytes);
    ru_datagram_reply(engine, slot, RU_NONE, size);
}

void ru_datagram_limit(struct ru_engine *engine, uint32_t slot)
{
    engine->counters.udp_dropped_limited++;
    ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
}

static void datagram_drop_share(struct ru_engine *engine, uint32_t slot)
{
    engine->counters.udp_dropped_share++;
    ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
}

static void datagram_queue(struct ru_engine *engine, uint32_t slot)
{
    RU_CHECK(engine->udp.contexts[slot].lane < RU_LANES);
    const enum ru_lane_number asked = (enum ru_lane_number)engine->udp.contexts[slot].lane;
    struct ru_lane *lane = &engine->lanes[ru_admission_lane(engine, slot, asked)];
    if (ru_lane_shares_out(lane))
        datagram_drop_share(engine, slot);
    else if (ru_admission_refuses(engine, slot))
        ru_datagram_limit(engine, slot);
    else if (ru_lane_push(lane, &engine->waiting, RU_UDP, slot, engine->now_ns))
        ru_udp_move(&engine->udp, slot, RU_UDP_QUEUED);
    else
        datagram_refuse_slow(engine, slot);
}

/* What counts that a datagram was dropped, or answered without a worker. */
static uint64_t *datagram_counter(struct ru_counters *counters, enum ru_udp_action action)
{
    switch (action) {
    case RU_UDP_DROP_EMPTY:
        return &counters->udp_dropped_empty;
    case RU_UDP_DROP_SHORT:
        return &counters->udp_dropped_short;
    case RU_UDP_DROP_POOL:
        return &counters->udp_dropped_pool;
    case RU_UDP_DROP_REPLY:
        return &counters->udp_dropped_reply;
    case RU_UDP_REPLY_VOTE:
        return &counters->udp_votes;
    case RU_UDP_REPLY_ECHO:
        return &counters->echoes;
    case RU_UDP_REPLY_REFUSED:
        return &counters->refused_headers;
    case RU_UDP_QUEUE:
        break;
    }
    RU_UNREACHABLE();
}

static void datagram_decide(struct ru_engine *engine, uint32_t slot, uint32_t size)
{
    uint32_t reply_size = 0; /* 0: it is dropped */
    enum ru_udp_action action = ru_udp_decide(&engine->udp, &engine->front, &engine->arena, slot,
                                              size, engine->now_ns, &reply_size);
    if (action == RU_UDP_QUEUE) {
        datagram_queue(engine, slot);
        return;
    }
    (*datagram_counter(&engine->counters, action))++;
    if (reply_size > 0)
        ru_datagram_reply(engine, slot, RU_NONE, reply_size);
    else
        ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
}

void ru_datagram_event(struct ru_engine *engine, const struct ru_event *event)
{
    RU_CHECK(event->index < engine->config.listeners_count);
    struct ru_listener_state *listener = &engine->listeners[event->index];
    if (event->ended) {
        RU_CHECK(listener->receiving);
        listener->receiving = false;
        ru_engine_end_operation(engine);
        engine->counters.udp_receive_ended++;
        if (event->result == -ENOBUFS)
            engine->counters.udp_no_buffers++;
    }
    if (event->buffer == RU_NONE) {
        RU_CHECK(event->result <= 0);
        return;
    }
    RU_CHECK(event->result <= (int32_t)engine->arena.payload_size);
    ru_udp_move(&engine->udp, event->buffer, RU_UDP_LOOP); /* filled, or given back */
    if (event->result < 0) {
        ru_udp_move(&engine->udp, event->buffer, RU_UDP_FREE);
        return;
    }
    struct ru_udp_context *context = &engine->udp.contexts[event->buffer];
    context->listener = (uint8_t)event->index;
    engine->received_last = event->index;
    context->controlled = event->controlled;
    engine->counters.udp_received++;
    engine->counters.udp_truncated += event->truncated;
    datagram_decide(engine, event->buffer, (uint32_t)event->result);
}

void ru_datagram_reply(struct ru_engine *engine, uint32_t slot, uint32_t block, uint32_t size)
{
    const struct ru_udp_context *context = &engine->udp.contexts[slot];
    RU_CHECK(size > 0 && engine->sending_count < engine->udp.capacity);
    RU_CHECK(size <= (block == RU_NONE ? engine->arena.payload_size
                                       : ru_arena_block_size(&engine->arena, block)));
    const uint8_t *bytes = block == RU_NONE
                               ? datagram_payload(engine, slot)
                               : engine->arena.base + ru_arena_block_at(&engine->arena, block);
    ru_udp_move(&engine->udp, slot, RU_UDP_SENDING);
    engine->backend->ops->send_datagram(engine->backend, context->listener, slot, bytes, size,
                                        context->controlled);
    engine->sending[engine->sending_count++] = (struct ru_sending){slot, block};
}

void ru_datagram_failed(struct ru_engine *engine)
{
    /* The failure is reported by the submission that took the reply. A lap that overfills the
     * submission queue submits in between, and learns of it before the release: the count is below
     * 0 then. */
    engine->unsettled--;
    engine->counters.udp_dropped_send++;
    RU_CHECK(engine->unsettled + (int32_t)engine->sending_count >= 0); /* none was counted twice */
}

void ru_datagram_release(struct ru_engine *engine)
{
    if (engine->sending_count == 0 || !engine->backend->ops->datagrams_sent(engine->backend))
        return;
    for (uint32_t i = 0; i < engine->sending_count; i++) {
        ru_udp_move(&engine->udp, engine->sending[i].slot, RU_UDP_FREE);
        if (engine->sending[i].block != RU_NONE)
            ru_block_release(&engine->blocks, engine->sending[i].block);
    }
    RU_CHECK(engine->udp.counts[RU_UDP_SENDING] == 0);
    engine->unsettled += (int32_t)engine->sending_count;
    engine->sending_count = 0;
}

void ru_datagram_count_answered(struct ru_engine *engine)
{
    if (engine->unsettled <= 0)
        return;
    engine->counters.udp_answered += (uint32_t)engine->unsettled;
    engine->unsettled = 0;
}

void ru_datagram_arm(struct ru_engine *engine)
{
    uint32_t slot;
    if (engine->phase != RU_SERVING)
        return;
    while (engine->udp.counts[RU_UDP_LENT] < RU_SLOTS_LENT_MAX &&
           (slot = ru_udp_lend(&engine->udp)) != RU_NONE)
        engine->backend->ops->lend_slot(engine->backend, slot);
    RU_CHECK(engine->udp.counts[RU_UDP_LENT] <= RU_SLOTS_LENT_MAX);
    /* A receive that is armed without a slot fails at once. */
    if (engine->udp.counts[RU_UDP_LENT] == 0)
        return;
    /* The first one may take all slots, so the listener that received last comes last. */
    uint32_t count = engine->config.listeners_count;
    for (uint32_t i = 1; i <= count; i++) {
        uint32_t listener = (engine->received_last + i) % count;
        if (engine->listeners[listener].receiving)
            continue;
        engine->backend->ops->receive_datagrams(engine->backend, listener);
        engine->listeners[listener].receiving = true;
        ru_engine_begin_operation(engine);
    }
}

void ru_datagram_refuse(struct ru_engine *engine)
{
    struct sock_filter none = BPF_STMT(BPF_RET | BPF_K, 0);
    const struct sock_fprog program = {.len = 1, .filter = &none};
    RU_CHECK(engine->phase == RU_DRAINING);
    /* If it fails, the drain takes longer. */
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        (void)setsockopt(engine->config.listeners[i].udp_fd, SOL_SOCKET, SO_ATTACH_FILTER, &program,
                         sizeof(program));
}

void ru_datagram_reclaim(struct ru_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        RU_CHECK(!engine->listeners[i].receiving);
    for (uint32_t slot = 0; slot < engine->udp.capacity; slot++)
        if (engine->udp.contexts[slot].place == RU_UDP_LENT)
            ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
    RU_CHECK(engine->udp.counts[RU_UDP_LENT] == 0);
}

/* One datagram that is still queued in a socket; false when there is none. */
static bool datagram_receive_now(struct ru_engine *engine, uint32_t listener)
{
    RU_CHECK(!engine->listeners[listener].receiving);
    uint32_t slot = ru_udp_lend(&engine->udp);
    if (slot == RU_NONE)
        return false;
    struct ru_event event;
    if (engine->backend->ops->receive_now(engine->backend, listener, slot, &event)) {
        RU_CHECK(event.buffer == slot && !event.ended);
        ru_datagram_event(engine, &event);
        return true;
    }
    ru_udp_move(&engine->udp, slot, RU_UDP_FREE);
    return false;
}

void ru_datagram_drain(struct ru_engine *engine)
{
    RU_CHECK(engine->phase == RU_DRAINING);
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        uint32_t budget = RU_EVENTS_BATCH; /* of a lap: replies have to leave in between */
        if (!engine->listeners[i].receiving)
            while (budget > 0 && datagram_receive_now(engine, i))
                budget--;
        engine->listeners[i].draining = !engine->listeners[i].receiving && budget == 0;
    }
}
