/* backend_rig.h: a backend on real sockets, for the cases of what backend.h promises.
 *
 * Each case runs on the ring, on the ring as Linux 6.0 gives it (DEFER_TASKRUN refused where the
 * data plane links to liburing, see the Makefile) and on epoll; a ring that this kernel refuses is
 * named and left out. Sockets and the kernel are real. The simulated backend has its own driver:
 * its descriptors are not the kernel's.
 *
 * Whatever a case does, the rig counts: every operation that was started ends by exactly one event
 * marked `ended`, and no event comes that nothing was started for.
 */
#ifndef BACKEND_RIG_H
#define BACKEND_RIG_H

#include "kernel/backend.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>

#include "clock.h"
#include "kernel/message.h"
#include "native.h"
#include "sockets.h"

enum {
    BUFFERS = 4,
    CONNECTIONS = 4,
    EVENTS_MAX = 256,
    LAP_MS = 50,
    QUIET_LAPS = 5, /* of a millisecond each, for what must not */
    GENERATION = 7,
    BIG = 8 << 20, /* more than two socket buffers hold */
};

struct rig {
    struct native_node node;
    struct ru_backend *backend;
    uint8_t *tcp_buffers;
    int wake_fd;
    int client; /* UDP, connected to the node */
    struct sockaddr_in udp_address, tcp_address;
    int32_t open[RU_OP_IGNORED + 1][CONNECTIONS]; /* started and not ended */
    struct ru_event events[EVENTS_MAX];           /* not taken by the case yet */
    uint32_t events_count;
};

static const struct ru_backend_ops *ops; /* of the backend under test */
static bool defer_refused;

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);

int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params)
{
    if (defer_refused && (params->flags & IORING_SETUP_DEFER_TASKRUN))
        return -EINVAL;
    return __real_io_uring_queue_init_params(entries, ring, params);
}

/* ---- rig ---- */

static inline int rig_try(struct rig *rig, char *fault)
{
    struct ru_config config = native_config();
    memset(rig, 0, sizeof(*rig));
    config.tcp_buffers = BUFFERS;
    config.connections_max = CONNECTIONS;
    config.events_per_lap = 64;
    config.listeners_count = 1;
    config.listeners[0].udp_fd = bound(SOCK_DGRAM, &rig->udp_address);
    config.listeners[0].tcp_fd = bound(SOCK_STREAM, &rig->tcp_address);
    if (listen(config.listeners[0].tcp_fd, 16) != 0)
        abort();
    native_open(&rig->node, &config);
    rig->tcp_buffers = aligned_alloc(4096, (size_t)2 * 4096);
    rig->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rig->client = client_of(SOCK_DGRAM, &rig->udp_address);
    if (!rig->tcp_buffers || rig->wake_fd < 0)
        abort();
    const struct ru_backend_setup setup = {.config = &rig->node.config,
                                           .arena = &rig->node.arena,
                                           .tcp_buffers = rig->tcp_buffers,
                                           .wake_fd = rig->wake_fd,
                                           .fault = fault};
    return ops->open(&rig->backend, &setup);
}

static inline void rig_open(struct rig *rig)
{
    char fault[RU_FAULT_TEXT] = "";
    int result = rig_try(rig, fault);
    if (result != 0) {
        (void)fprintf(stderr, "%s: %s\n", fault, strerror(-result));
        abort();
    }
}

/* One lap: what happened goes behind what the case has not taken. */
static inline void rig_lap(struct rig *rig, uint64_t timeout_ms)
{
    EXPECT_EQUAL(ops->wait(rig->backend, timeout_ms * 1000000, 0), 0);
    uint32_t count =
        ops->reap(rig->backend, rig->events + rig->events_count, EVENTS_MAX - rig->events_count);
    for (uint32_t i = rig->events_count; i < rig->events_count + count; i++) {
        const struct ru_event *event = &rig->events[i];
        RU_CHECK(event->operation > 0 && event->operation < RU_OP_IGNORED);
        RU_CHECK(event->index < CONNECTIONS);
        if (event->operation == RU_OP_SEND_DATAGRAM)
            continue; /* heard of only when it failed */
        EXPECT_EQUAL(rig->open[event->operation][event->index], 1);
        if (event->ended)
            rig->open[event->operation][event->index]--;
    }
    rig->events_count += count;
}

/* The next event, which must be of `operation`. */
static inline struct ru_event rig_next(struct rig *rig, enum ru_operation operation)
{
    struct ru_event event = {.result = INT32_MIN, .buffer = RU_NONE};
    uint64_t end_ns = ru_now_ns() + PATIENCE_MS * 1000000ULL;
    while (rig->events_count == 0 && ru_now_ns() < end_ns)
        rig_lap(rig, LAP_MS);
    EXPECT(rig->events_count > 0);
    if (rig->events_count == 0)
        return event;
    event = rig->events[0];
    memmove(rig->events, rig->events + 1, --rig->events_count * sizeof(event));
    EXPECT_EQUAL(event.operation, operation);
    return event;
}

static inline void rig_quiet(struct rig *rig)
{
    for (uint32_t i = 0; i < QUIET_LAPS; i++)
        rig_lap(rig, 1);
    EXPECT_EQUAL(rig->events_count, 0);
}

static inline void rig_cancel(struct rig *rig, enum ru_operation operation, uint32_t index)
{
    uint32_t generation =
        operation == RU_OP_RECEIVE || operation == RU_OP_SEND ? GENERATION + index : 0;
    ops->cancel(rig->backend, operation, index, generation);
}

/* Cancel it and take its end; what it gave before is dropped. */
static inline int32_t rig_end(struct rig *rig, enum ru_operation operation, uint32_t index)
{
    struct ru_event event;
    rig_cancel(rig, operation, index);
    do
        event = rig_next(rig, operation);
    while (!event.ended && event.result != INT32_MIN);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.index, index);
    return event.result;
}

static inline void rig_close(struct rig *rig)
{
    rig_quiet(rig);
    for (uint32_t operation = 0; operation <= RU_OP_IGNORED; operation++)
        for (uint32_t index = 0; index < CONNECTIONS; index++)
            EXPECT_EQUAL(rig->open[operation][index], 0);
    ops->close(rig->backend);
    (void)close(rig->node.config.listeners[0].udp_fd);
    (void)close(rig->node.config.listeners[0].tcp_fd);
    (void)close(rig->wake_fd);
    (void)close(rig->client);
    free(rig->tcp_buffers);
    native_close(&rig->node);
}

/* A connection: the peer's end, and the node's in *fd. */
static inline int rig_connect(struct rig *rig, int *fd)
{
    int peer = client_of(SOCK_STREAM, &rig->tcp_address);
    do
        *fd =
            accept4(rig->node.config.listeners[0].tcp_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (*fd < 0 && errno == EAGAIN);
    return peer;
}

static inline void reset(int peer)
{
    const struct linger at_once = {.l_onoff = 1};
    EXPECT_EQUAL(setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    (void)close(peer);
}

static inline void lend_buffers(struct rig *rig)
{
    for (uint32_t buffer = 0; buffer < BUFFERS; buffer++)
        ops->lend_buffer(rig->backend, buffer);
}

static inline void lend_slots(struct rig *rig)
{
    for (uint32_t slot = 0; slot < rig->node.arena.slots; slot++)
        ops->lend_slot(rig->backend, slot);
}

/* ---- starting, with the books kept ---- */

static inline void watch_wake(struct rig *rig)
{
    rig->open[RU_OP_WAKE][0]++;
    ops->watch_wake(rig->backend);
}

static inline void start_accept(struct rig *rig)
{
    rig->open[RU_OP_ACCEPT][0]++;
    ops->accept(rig->backend, 0);
}

static inline void start_datagrams(struct rig *rig)
{
    rig->open[RU_OP_DATAGRAMS][0]++;
    ops->receive_datagrams(rig->backend, 0);
}

static inline void start_receive(struct rig *rig, uint32_t conn, int fd, bool once)
{
    rig->open[RU_OP_RECEIVE][conn]++;
    ops->receive(rig->backend, conn, GENERATION + conn, fd, once);
}

static inline void start_receive_into(struct rig *rig, int fd, uint8_t *bytes, uint32_t size)
{
    rig->open[RU_OP_RECEIVE][0]++;
    ops->receive_into(rig->backend, 0, GENERATION, fd, bytes, size);
}

static inline void start_send(struct rig *rig, int fd, const uint8_t *bytes, uint32_t size,
                              bool last)
{
    rig->open[RU_OP_SEND][0]++;
    if (last)
        ops->send_last(rig->backend, 0, GENERATION, fd, bytes, size);
    else
        ops->send(rig->backend, 0, GENERATION, fd, bytes, size);
}

/* ---- every backend ---- */

/* All cases on one backend, if this kernel has it. */
static inline void run_on(const struct ru_backend_ops *chosen, bool without_defer, const char *tier,
                          void (*run_cases)(void))
{
    struct rig rig;
    char fault[RU_FAULT_TEXT] = "";
    ops = chosen;
    defer_refused = without_defer;
    int result = rig_try(&rig, fault);
    if (result != 0) {
        printf("not on %s: %s: %s\n", tier, fault, strerror(-result));
        return;
    }
    printf("on %s\n", rig.backend->tier);
    bool same = strcmp(rig.backend->tier, tier) == 0;
    rig_close(&rig);
    if (same)
        run_cases();
}

/* The cases on each backend that this kernel has; the exit status. */
static inline int run_on_all(void (*run_cases)(void))
{
    run_on(&ru_backend_uring, false, "io_uring, DEFER_TASKRUN", run_cases);
    run_on(&ru_backend_uring, true, "io_uring, COOP_TASKRUN", run_cases);
    run_on(&ru_backend_epoll, false, "epoll", run_cases);
    return native_finish();
}

#endif
