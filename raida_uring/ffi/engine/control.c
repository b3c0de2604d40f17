/* control.c: what other threads ask of the loop, served between two laps.
 *
 * Why: the loop reads limits and connections all over a lap, without locks or atomics. A thread
 * that wants to change or see them offers a call and waits; the loop serves the call between two
 * laps, where nothing is half done.
 * Owner: the caller before the call is offered and after it is done, the loop in between. An offer
 * that is not taken in time is withdrawn, so that no caller hangs on a loop that is stuck.
 * Memory: the call and its results stand in the engine; none is allocated.
 */
#include "engine/control.h"

#include <errno.h>
#include <string.h>

#include "engine/accept.h"
#include "engine/config.h"
#include "engine/datagram.h"
#include "engine/dispatch.h"
#include "engine/engine.h"
#include "engine/stream.h"

#define CONTROL_WAIT_MS 5000
#define CONTROL_LOOK_MS 100 /* the loop may end without serving the call */

/* Move an offered call on: to TAKEN by the loop, to IDLE by its caller. False if the other came
 * first. */
static bool control_claim(struct ru_call *call, enum ru_call_state to)
{
    uint32_t offered = RU_CALL_OFFERED;
    return __atomic_compare_exchange_n(&call->state, &offered, (uint32_t)to, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* ---- loop ---- */

static void control_apply(struct ru_engine *engine, const struct ru_config *live)
{
    ru_config_take_live(&engine->config, live);
    for (uint32_t lane = 0; lane < RU_LANES; lane++)
        if (lane != RU_LANE_SLOW)
            engine->lanes[lane].batch_max = live->batch_max;
    engine->lanes[RU_LANE_SLOW].queue_max = live->slow_queue_max;
    ru_dispatch_set_age(engine, live->queue_age_max_ms);
    engine->front.identity.body_bytes_max = live->body_bytes_max;
    RU_CHECK(live->batch_max > 0 && live->batch_max <= RU_BATCH_MAX);
    ru_conns_set_limits(&engine->conns, live);
    ru_guard_set(&engine->guard, &live->checks, engine->now_ns);
    ru_stream_watch_all(engine);
}

static void control_describe(struct ru_engine *engine, uint32_t index, struct ru_connection *into)
{
    const struct ru_conn *conn = ru_conn_at(&engine->conns, index);
    RU_CHECK(conn->opened_ns <= conn->state_since_ns && conn->state_since_ns <= engine->now_ns);
    *into = (struct ru_connection){
        .age_ns = engine->now_ns - conn->opened_ns,
        .state_ns = engine->now_ns - conn->state_since_ns,
        .requests = conn->requests,
        .state = conn->state,
    };
    ru_stream_peer(engine, index, into->peer);
}

static void control_list(struct ru_engine *engine, struct ru_call *call)
{
    uint32_t index = call->first;
    call->count = 0;
    for (; index < engine->conns.capacity && call->count < RU_CONNECTIONS_LISTED; index++)
        if (ru_conn_at(&engine->conns, index)->fd >= 0)
            control_describe(engine, index, &call->connections[call->count++]);
    call->first = index;
}

/* Serve again. Operations that were cancelled and have ended are armed at once, or the loop could
 * sleep without listening; the others are armed when they end. */
static int control_take_back(struct ru_engine *engine)
{
    if (!ru_engine_hands_over(engine))
        return -EINVAL;
    engine->phase = RU_SERVING;
    engine->hand_over_stuck = false;
    __atomic_store_n(&engine->hand_over_fd, -1, __ATOMIC_RELAXED);
    __atomic_store_n(&engine->drain_at_ns, 0, __ATOMIC_RELEASE);
    ru_accept_arm(engine);
    ru_datagram_arm(engine);
    return 0;
}

/* Accept anew. A connection wakes one of the rings that accept: the other process, which is gone,
 * may have been woken for connections that it did not accept any more. */
static void control_own(struct ru_engine *engine, uint32_t shared)
{
    engine->config.shared_sockets = shared;
    for (uint32_t i = 0; i < engine->config.listeners_count && engine->phase == RU_SERVING; i++)
        if (engine->listeners[i].accepting)
            engine->backend->ops->cancel(engine->backend, RU_OP_ACCEPT, i, 0);
}

void ru_control_serve(struct ru_engine *engine)
{
    struct ru_call *call = &engine->call;
    if (__atomic_load_n(&call->state, __ATOMIC_RELAXED) != RU_CALL_OFFERED ||
        !control_claim(call, RU_CALL_TAKEN))
        return;
    RU_CHECK(engine->phase <= RU_DRAINING);
    switch ((enum ru_call_kind)call->kind) {
    case RU_CALL_LIVE:
        control_apply(engine, &call->live);
        break;
    case RU_CALL_CONNECTIONS:
        control_list(engine, call);
        break;
    case RU_CALL_TAKE_BACK:
        call->result = control_take_back(engine);
        break;
    case RU_CALL_OWN:
        control_own(engine, call->shared);
        break;
    }
    __atomic_store_n(&call->state, RU_CALL_DONE, __ATOMIC_RELEASE);
    ru_sleeper_wake(&call->sleeper);
}

/* ---- any thread, one at a time ---- */

static int control_call(struct ru_engine *engine, enum ru_call_kind kind)
{
    struct ru_call *call = &engine->call;
    uint64_t end_ns = ru_now_ns() + ru_clock_ms_to_ns(CONTROL_WAIT_MS);
    RU_CHECK(__atomic_load_n(&call->state, __ATOMIC_RELAXED) == RU_CALL_IDLE);
    call->kind = (uint32_t)kind;
    __atomic_store_n(&call->state, RU_CALL_OFFERED, __ATOMIC_RELEASE);
    ru_engine_wake(engine);
    for (;;) {
        ru_sleeper_announce(&call->sleeper);
        if (__atomic_load_n(&call->state, __ATOMIC_ACQUIRE) == RU_CALL_DONE)
            break;
        int error = ru_now_ns() >= end_ns ? -ETIMEDOUT : 0;
        if (__atomic_load_n(&engine->stage, __ATOMIC_ACQUIRE) != RU_STAGE_RUNNING)
            error = -ESHUTDOWN;
        if (error != 0 && control_claim(call, RU_CALL_IDLE)) { /* otherwise the loop has it */
            ru_sleeper_cancel(&call->sleeper);
            return error;
        }
        ru_sleeper_wait(&call->sleeper, CONTROL_LOOK_MS);
    }
    ru_sleeper_cancel(&call->sleeper);
    __atomic_store_n(&call->state, RU_CALL_IDLE, __ATOMIC_RELAXED);
    return 0;
}

int ru_engine_set_live(struct ru_engine *engine, const struct ru_config *config)
{
    struct ru_config changed = engine->config;
    ru_config_take_live(&changed, config);
    if (ru_config_check(&changed, NULL) != 0 || changed.connections_max > engine->conns.capacity)
        return -EINVAL;
    engine->call.live = changed;
    return control_call(engine, RU_CALL_LIVE);
}

int ru_engine_connections(struct ru_engine *engine, uint32_t *first,
                          struct ru_connection *connections)
{
    engine->call.first = *first;
    int result = control_call(engine, RU_CALL_CONNECTIONS);
    if (result != 0)
        return result;
    RU_CHECK(engine->call.count <= RU_CONNECTIONS_LISTED);
    *first = engine->call.first;
    memcpy(connections, engine->call.connections, engine->call.count * sizeof(*connections));
    return (int)engine->call.count;
}

int ru_engine_take_back(struct ru_engine *engine)
{
    int result = control_call(engine, RU_CALL_TAKE_BACK);
    return result != 0 ? result : engine->call.result;
}

int ru_engine_own(struct ru_engine *engine, uint32_t shared)
{
    engine->call.shared = shared;
    return control_call(engine, RU_CALL_OWN);
}
