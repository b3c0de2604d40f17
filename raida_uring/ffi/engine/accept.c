/* accept.c: connections that are new to the engine: accepted, or taken over from another process.
 *
 * When descriptors run out, clients are shed: a descriptor held in reserve is given up for a moment
 * to accept and close, so that they see a closed connection and not a hanging one.
 */
#include "engine/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/stream.h"

#define ACCEPT_SHED_MAX 64

static int accept_now(int listener)
{
    return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* Close at once and let the peer know by a reset. */
static void accept_reject(int fd)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    (void)close(fd);
}

/* A client was refused, or waits because no descriptor is left. Refusals at most RU_REFUSALS_GAP_NS
 * apart are one spell: an operator asks since when, not how often. */
static void accept_note_refusal(struct ru_engine *engine)
{
    RU_CHECK(engine->refused_since_ns <= engine->refused_at_ns);
    RU_CHECK(engine->refused_at_ns <= engine->now_ns);
    if (engine->refused_at_ns == 0 || engine->now_ns - engine->refused_at_ns > RU_REFUSALS_GAP_NS)
        engine->refused_since_ns = engine->now_ns;
    engine->refused_at_ns = engine->now_ns;
}

/* adopted: another process has served the connection, and may have answered requests on it. */
static void accept_open(struct ru_engine *engine, uint32_t listener, int fd, bool adopted)
{
    struct ru_counters *counters = &engine->counters;
    RU_CHECK(fd >= 0 && listener < engine->config.listeners_count);
    counters->connections_accepted++;
    if (engine->phase >= RU_FORCED) { /* no further lap would serve it */
        counters->connections_closed_drain++;
        accept_reject(fd);
        return;
    }
    uint32_t index = ru_conn_open(&engine->conns, fd, (uint8_t)listener, engine->now_ns);
    if (index == RU_NONE) {
        counters->connections_closed_limit++;
        accept_note_refusal(engine);
        accept_reject(fd);
        return;
    }
    ru_conn_at(&engine->conns, index)->answered_before = adopted && engine->conns.persistent;
    ru_stream_begin(engine, index);
}

void ru_accept_adopt(struct ru_engine *engine)
{
    struct ru_adoptions *adoptions = &engine->adoptions;
    uint32_t added = __atomic_load_n(&adoptions->added, __ATOMIC_ACQUIRE);
    RU_CHECK(added - adoptions->taken <= RU_ADOPT_MAX);
    while (adoptions->taken != added) {
        uint64_t item = adoptions->items[adoptions->taken % RU_ADOPT_MAX];
        accept_open(engine, (uint32_t)(item >> 32), (int)(uint32_t)item, true);
        __atomic_store_n(&adoptions->taken, adoptions->taken + 1, __ATOMIC_RELEASE);
    }
}

/* Do not accept for a moment, since it would fail again at once. */
static void accept_pause(struct ru_engine *engine, uint32_t listener)
{
    RU_CHECK(!engine->listeners[listener].accepting); /* or the pause has no effect */
    accept_note_refusal(engine);
    engine->listeners[listener].accept_paused = true;
    engine->accept_retry_ns = engine->now_ns + RU_ACCEPT_RETRY_NS;
}

/* Out of descriptors: see the head of this file. */
static void accept_shed(struct ru_engine *engine, uint32_t listener)
{
    for (uint32_t i = 0; i < ACCEPT_SHED_MAX && engine->reserve_fd >= 0; i++) {
        (void)close(engine->reserve_fd);
        int fd = accept_now(engine->config.listeners[listener].tcp_fd);
        if (fd >= 0) {
            engine->counters.connections_accepted++;
            engine->counters.connections_closed_descriptors++;
            accept_reject(fd);
        }
        engine->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            break;
    }
    accept_pause(engine, listener);
}

void ru_accept_event(struct ru_engine *engine, const struct ru_event *event)
{
    RU_CHECK(event->index < engine->config.listeners_count);
    RU_CHECK(event->result >= 0 || event->ended);
    struct ru_listener_state *listener = &engine->listeners[event->index];
    if (event->ended) {
        RU_CHECK(listener->accepting);
        listener->accepting = false;
        ru_engine_end_operation(engine);
        engine->counters.accept_ended++;
    }
    if (event->result >= 0)
        accept_open(engine, event->index, event->result, false);
    else if (event->result == -EMFILE || event->result == -ENFILE)
        accept_shed(engine, event->index);
    else if (event->result != -ECONNABORTED && event->result != -ECANCELED)
        accept_pause(engine, event->index);
}

void ru_accept_arm(struct ru_engine *engine)
{
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
        ru_engine_begin_operation(engine);
        engine->backend->ops->accept(engine->backend, i);
    }
}

void ru_accept_drain(struct ru_engine *engine, bool refuse)
{
    RU_CHECK(engine->phase == RU_DRAINING);
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        int fd, listener = engine->config.listeners[i].tcp_fd;
        RU_CHECK(!engine->listeners[i].accepting); /* or both take from the backlog */
        for (uint32_t budget = RU_CONNECTIONS_MAX; /* an end, whatever clients do */
             budget > 0 && (fd = accept_now(listener)) >= 0; budget--)
            accept_open(engine, i, fd, false);
        if (refuse)
            (void)shutdown(listener, SHUT_RD); /* ends listening: further clients are refused */
    }
}
