/* test_backend.c: what backend.h promises, case by case, of every backend on this kernel.
 *
 * Each case runs on the ring, on the ring as Linux 6.0 gives it (DEFER_TASKRUN refused where the
 * data plane links to liburing, see the Makefile) and on epoll; a ring that this kernel refuses is
 * named and left out. Sockets and the kernel are real. The simulated backend has its own driver:
 * its descriptors are not the kernel's.
 *
 * Whatever a case does, the rig counts: every operation that was started ends by exactly one event
 * marked `ended`, and no event comes that nothing was started for.
 */
#include "kernel/backend.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "clock.h"
#include "kernel/message.h"
#include "native.h"

enum {
    BUFFERS = 4,
    CONNECTIONS = 4,
    EVENTS_MAX = 256,
    LAP_MS = 50,
    PATIENCE_MS = 10000, /* for what has to come */
    QUIET_LAPS = 5,      /* of a millisecond each, for what must not */
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

static int bound(int type, struct sockaddr_in *address)
{
    socklen_t size = sizeof(*address);
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (const struct sockaddr *)address, size) != 0 ||
        getsockname(fd, (struct sockaddr *)address, &size) != 0)
        abort();
    return fd;
}

/* A blocking socket that gives up after a while. */
static int client_of(int type, const struct sockaddr_in *address)
{
    const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0)
        abort();
    return fd;
}

static int rig_try(struct rig *rig, char *fault)
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

static void rig_open(struct rig *rig)
{
    char fault[RU_FAULT_TEXT] = "";
    int result = rig_try(rig, fault);
    if (result != 0) {
        (void)fprintf(stderr, "%s: %s\n", fault, strerror(-result));
        abort();
    }
}

/* One lap: what happened goes behind what the case has not taken. */
static void rig_lap(struct rig *rig, uint64_t timeout_ms)
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
static struct ru_event rig_next(struct rig *rig, enum ru_operation operation)
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

static void rig_quiet(struct rig *rig)
{
    for (uint32_t i = 0; i < QUIET_LAPS; i++)
        rig_lap(rig, 1);
    EXPECT_EQUAL(rig->events_count, 0);
}

static void rig_cancel(struct rig *rig, enum ru_operation operation, uint32_t index)
{
    uint32_t generation =
        operation == RU_OP_RECEIVE || operation == RU_OP_SEND ? GENERATION + index : 0;
    ops->cancel(rig->backend, operation, index, generation);
}

/* Cancel it and take its end; what it gave before is dropped. */
static int32_t rig_end(struct rig *rig, enum ru_operation operation, uint32_t index)
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

static void rig_close(struct rig *rig)
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
static int rig_connect(struct rig *rig, int *fd)
{
    int peer = client_of(SOCK_STREAM, &rig->tcp_address);
    do
        *fd =
            accept4(rig->node.config.listeners[0].tcp_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (*fd < 0 && errno == EAGAIN);
    return peer;
}

static void reset(int peer)
{
    const struct linger at_once = {.l_onoff = 1};
    EXPECT_EQUAL(setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    (void)close(peer);
}

static void lend_buffers(struct rig *rig)
{
    for (uint32_t buffer = 0; buffer < BUFFERS; buffer++)
        ops->lend_buffer(rig->backend, buffer);
}

static void lend_slots(struct rig *rig)
{
    for (uint32_t slot = 0; slot < rig->node.arena.slots; slot++)
        ops->lend_slot(rig->backend, slot);
}

/* ---- starting, with the books kept ---- */

static void watch_wake(struct rig *rig)
{
    rig->open[RU_OP_WAKE][0]++;
    ops->watch_wake(rig->backend);
}

static void start_accept(struct rig *rig)
{
    rig->open[RU_OP_ACCEPT][0]++;
    ops->accept(rig->backend, 0);
}

static void start_datagrams(struct rig *rig)
{
    rig->open[RU_OP_DATAGRAMS][0]++;
    ops->receive_datagrams(rig->backend, 0);
}

static void start_receive(struct rig *rig, uint32_t conn, int fd, bool once)
{
    rig->open[RU_OP_RECEIVE][conn]++;
    ops->receive(rig->backend, conn, GENERATION + conn, fd, once);
}

static void start_receive_into(struct rig *rig, int fd, uint8_t *bytes, uint32_t size)
{
    rig->open[RU_OP_RECEIVE][0]++;
    ops->receive_into(rig->backend, 0, GENERATION, fd, bytes, size);
}

static void start_send(struct rig *rig, int fd, const uint8_t *bytes, uint32_t size, bool last)
{
    rig->open[RU_OP_SEND][0]++;
    if (last)
        ops->send_last(rig->backend, 0, GENERATION, fd, bytes, size);
    else
        ops->send(rig->backend, 0, GENERATION, fd, bytes, size);
}

/* ---- the eventfd, listeners ---- */

static void test_each_write_wakes(void)
{
    const uint64_t one = 1;
    struct rig rig;
    rig_open(&rig);
    watch_wake(&rig);
    rig_quiet(&rig);
    for (uint32_t i = 0; i < 3; i++) { /* never read: it stays readable */
        EXPECT_EQUAL(write(rig.wake_fd, &one, sizeof(one)), sizeof(one));
        EXPECT(!rig_next(&rig, RU_OP_WAKE).ended);
        rig_quiet(&rig);
    }
    EXPECT_EQUAL(rig_end(&rig, RU_OP_WAKE, 0), -ECANCELED);
    EXPECT_EQUAL(write(rig.wake_fd, &one, sizeof(one)), sizeof(one));
    rig_close(&rig);
}

static void test_accept_goes_on_until_cancelled(void)
{
    struct rig rig;
    int peers[3];
    rig_open(&rig);
    start_accept(&rig);
    rig_quiet(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        peers[i] = client_of(SOCK_STREAM, &rig.tcp_address);
        struct ru_event event = rig_next(&rig, RU_OP_ACCEPT);
        EXPECT(!event.ended && event.result >= 0 && event.index == 0);
        EXPECT_EQUAL(fcntl(event.result, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        EXPECT_EQUAL(fcntl(event.result, F_GETFD), FD_CLOEXEC);
        ops->close_descriptor(rig.backend, event.result);
    }
    EXPECT_EQUAL(rig_end(&rig, RU_OP_ACCEPT, 0), -ECANCELED);
    peers[2] = client_of(SOCK_STREAM, &rig.tcp_address); /* waits in the backlog */
    rig_quiet(&rig);
    start_accept(&rig);
    struct ru_event event = rig_next(&rig, RU_OP_ACCEPT);
    EXPECT(event.result >= 0);
    ops->close_descriptor(rig.backend, event.result);
    (void)rig_end(&rig, RU_OP_ACCEPT, 0);
    rig_close(&rig);
    for (uint32_t i = 0; i < 3; i++) {
        char byte;
        EXPECT_EQUAL(recv(peers[i], &byte, 1, 0), 0); /* close_descriptor() closed */
        (void)close(peers[i]);
    }
}

static void test_accept_without_descriptors_ends(void)
{
    struct rig rig;
    struct rlimit before;
    rig_open(&rig);
    int peer = client_of(SOCK_STREAM, &rig.tcp_address);
    int next = dup(peer); /* the lowest free number */
    (void)close(next);
    EXPECT_EQUAL(getrlimit(RLIMIT_NOFILE, &before), 0);
    const struct rlimit none = {(rlim_t)next, before.rlim_max};
    EXPECT_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    start_accept(&rig);
    struct ru_event event = rig_next(&rig, RU_OP_ACCEPT);
    EXPECT_EQUAL(setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, -EMFILE);
    (void)close(peer);
    rig_close(&rig);
}

/* ---- datagrams ---- */

static const uint8_t *slot_payload(const struct rig *rig, uint32_t slot)
{
    const struct ru_arena *arena = &rig->node.arena;
    return arena->base + ru_arena_slot_at(arena, slot) + arena->payload_at;
}

/* The next datagram. An empty one may end the operation: then it is started anew. */
static struct ru_event next_datagram(struct rig *rig)
{
    struct ru_event event = rig_next(rig, RU_OP_DATAGRAMS);
    EXPECT(event.result >= 0 && event.buffer < rig->node.arena.slots);
    RU_CHECK(event.buffer < rig->node.arena.slots);
    if (event.ended)
        start_datagrams(rig);
    return event;
}

static void test_datagrams_come_in_lent_slots(void)
{
    static const uint8_t long_bytes[RU_UDP_PAYLOAD_MAX];
    struct rig rig;
    rig_open(&rig);
    lend_slots(&rig);
    start_datagrams(&rig);
    const uint32_t sizes[] = {5, 0, rig.node.arena.payload_size, 1};
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t bytes[2048];
        memset(bytes, 'a' + (int)i, sizeof(bytes));
        EXPECT_EQUAL(send(rig.client, bytes, sizes[i], 0), sizes[i]);
        struct ru_event event = next_datagram(&rig);
        EXPECT_EQUAL(event.result, sizes[i]);
        EXPECT(!event.truncated);
        EXPECT_BYTES(slot_payload(&rig, event.buffer), bytes, sizes[i]);
        ops->lend_slot(rig.backend, event.buffer);
    }
    EXPECT_EQUAL(send(rig.client, long_bytes, rig.node.arena.payload_size + 1, 0),
                 rig.node.arena.payload_size + 1);
    struct ru_event event = next_datagram(&rig);
    EXPECT(event.truncated);
    EXPECT_EQUAL(event.result, rig.node.arena.payload_size);
    EXPECT_EQUAL(rig_end(&rig, RU_OP_DATAGRAMS, 0), -ECANCELED);
    rig_close(&rig);
}

static void test_datagrams_wait_while_no_slot_is_lent(void)
{
    struct rig rig;
    rig_open(&rig);
    EXPECT_EQUAL(send(rig.client, "abc", 3, 0), 3);
    start_datagrams(&rig);
    struct ru_event event = rig_next(&rig, RU_OP_DATAGRAMS);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, -ENOBUFS);
    EXPECT_EQUAL(event.buffer, RU_NONE);
    lend_slots(&rig);
    start_datagrams(&rig);
    event = next_datagram(&rig);
    EXPECT_EQUAL(event.result, 3);
    (void)rig_end(&rig, RU_OP_DATAGRAMS, 0);
    rig_close(&rig);
}

static void test_datagrams_are_taken_by_hand_after_the_end(void)
{
    struct rig rig;
    struct ru_event event;
    rig_open(&rig);
    lend_slots(&rig);
    start_datagrams(&rig);
    rig_quiet(&rig);
    (void)rig_end(&rig, RU_OP_DATAGRAMS, 0);
    EXPECT(!ops->receive_now(rig.backend, 0, 0, &event));
    EXPECT_EQUAL(send(rig.client, "abcd", 4, 0), 4);
    rig_quiet(&rig);
    EXPECT(ops->receive_now(rig.backend, 0, 0, &event));
    EXPECT_EQUAL(event.result, 4);
    EXPECT_EQUAL(event.buffer, 0);
    EXPECT_BYTES(slot_payload(&rig, 0), (const uint8_t *)"abcd", 4);
    EXPECT(!ops->receive_now(rig.backend, 0, 0, &event));
    rig_close(&rig);
}

static void test_reply_reaches_its_peer_without_an_event(void)
{
    struct rig rig;
    uint8_t bytes[4];
    rig_open(&rig);
    lend_slots(&rig);
    start_datagrams(&rig);
    EXPECT_EQUAL(send(rig.client, "abcd", 4, 0), 4);
    struct ru_event event = next_datagram(&rig);
    ops->send_datagram(rig.backend, 0, event.buffer, (const uint8_t *)"wxyz", 4, false);
    for (uint32_t i = 0; i < QUIET_LAPS && !ops->datagrams_sent(rig.backend); i++)
        rig_lap(&rig, 0);
    EXPECT(ops->datagrams_sent(rig.backend));
    EXPECT_EQUAL(recv(rig.client, bytes, sizeof(bytes), 0), 4);
    EXPECT_BYTES(bytes, (const uint8_t *)"wxyz", 4);
    rig_quiet(&rig);
    (void)rig_end(&rig, RU_OP_DATAGRAMS, 0);
    rig_close(&rig);
}

static void test_reply_that_cannot_be_sent_is_heard_of(void)
{
    struct rig rig;
    rig_open(&rig);
    lend_slots(&rig);
    start_datagrams(&rig);
    EXPECT_EQUAL(send(rig.client, "abcd", 4, 0), 4);
    struct ru_event event = next_datagram(&rig);
    const struct ru_arena *arena = &rig.node.arena;
    struct sockaddr_in *peer =
        (void *)(arena->base + ru_arena_slot_at(arena, event.buffer) + RU_SLOT_HEAD);
    EXPECT_EQUAL(peer->sin_family, AF_INET);
    peer->sin_port = 0;
    for (uint32_t i = 0; i < 3; i++)
        ops->send_datagram(rig.backend, 0, event.buffer, (const uint8_t *)"wxyz", 4, false);
    for (uint32_t i = 0; i < 3; i++) {
        event = rig_next(&rig, RU_OP_SEND_DATAGRAM);
        EXPECT(event.ended && event.index == 0);
        EXPECT_EQUAL(event.result, -EINVAL);
    }
    EXPECT(ops->datagrams_sent(rig.backend));
    (void)rig_end(&rig, RU_OP_DATAGRAMS, 0);
    rig_close(&rig);
}

/* ---- streams: receiving ---- */

static void expect_received(struct rig *rig, const struct ru_event *event, uint32_t conn,
                            const char *bytes)
{
    EXPECT_EQUAL(event->index, conn);
    EXPECT_EQUAL(event->generation, GENERATION + conn);
    EXPECT_EQUAL(event->result, strlen(bytes));
    EXPECT(event->buffer < BUFFERS);
    if (event->buffer < BUFFERS)
        EXPECT_BYTES(rig->tcp_buffers + (size_t)event->buffer * RU_TCP_BUFFER,
                     (const uint8_t *)bytes, strlen(bytes));
}

static void test_single_receive_ends_with_its_bytes(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    lend_buffers(&rig);
    start_receive(&rig, 2, fd, true);
    rig_quiet(&rig);
    EXPECT_EQUAL(send(peer, "hello", 5, 0), 5);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended);
    expect_received(&rig, &event, 2, "hello");
    EXPECT_EQUAL(send(peer, "more", 4, 0), 4); /* stays with the socket */
    rig_quiet(&rig);
    start_receive(&rig, 2, fd, true);
    event = rig_next(&rig, RU_OP_RECEIVE);
    expect_received(&rig, &event, 2, "more");
    (void)close(peer);
    start_receive(&rig, 2, fd, true);
    event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended && event.result == 0);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
}

static void test_receive_goes_on_to_the_end_of_the_stream(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    lend_buffers(&rig);
    start_receive(&rig, 1, fd, false);
    for (uint32_t i = 0; i < 2 * BUFFERS; i++) {
        EXPECT_EQUAL(send(peer, "hello", 5, 0), 5);
        struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
        EXPECT(!event.ended);
        expect_received(&rig, &event, 1, "hello");
        ops->lend_buffer(rig.backend, event.buffer);
    }
    EXPECT_EQUAL(shutdown(peer, SHUT_WR), 0);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, 0);
    EXPECT_EQUAL(event.buffer, RU_NONE);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void test_receive_without_buffers_ends(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    EXPECT_EQUAL(send(peer, "hello", 5, 0), 5);
    for (uint32_t i = 0; i < 2; i++) {
        start_receive(&rig, 0, fd, i == 0);
        struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
        EXPECT(event.ended);
        EXPECT_EQUAL(event.result, -ENOBUFS);
        EXPECT_EQUAL(event.buffer, RU_NONE);
    }
    lend_buffers(&rig);
    start_receive(&rig, 0, fd, true);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    expect_received(&rig, &event, 0, "hello");
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void test_receive_into_takes_no_buffer(void)
{
    struct rig rig;
    uint8_t bytes[8] = "........";
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    start_receive_into(&rig, fd, bytes, 6);
    rig_quiet(&rig);
    EXPECT_EQUAL(send(peer, "12345678", 8, 0), 8);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, 6);
    EXPECT_EQUAL(event.buffer, RU_NONE);
    EXPECT_BYTES(bytes, (const uint8_t *)"123456..", 8);
    start_receive_into(&rig, fd, bytes, 8);
    event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT_EQUAL(event.result, 2);
    reset(peer);
    start_receive_into(&rig, fd, bytes, 8);
    event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, -ECONNRESET);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
}

static void test_cancelled_receive_ends_once(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    lend_buffers(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        start_receive(&rig, 3, fd, i == 0);
        rig_quiet(&rig);
        rig_cancel(&rig, RU_OP_RECEIVE, 3); /* twice: once is enough */
        EXPECT_EQUAL(rig_end(&rig, RU_OP_RECEIVE, 3), -ECANCELED);
        rig_quiet(&rig);
    }
    EXPECT_EQUAL(send(peer, "hello", 5, 0), 5); /* no one receives */
    rig_quiet(&rig);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void test_only_the_generation_named_is_cancelled(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    lend_buffers(&rig);
    rig_cancel(&rig, RU_OP_RECEIVE, 0); /* nothing started yet */
    rig_cancel(&rig, RU_OP_SEND, 0);
    rig_quiet(&rig);
    start_receive(&rig, 0, fd, true);
    ops->cancel(rig.backend, RU_OP_RECEIVE, 0, GENERATION - 1);
    ops->cancel(rig.backend, RU_OP_RECEIVE, 1, GENERATION + 1);
    ops->cancel(rig.backend, RU_OP_SEND, 0, GENERATION);
    rig_quiet(&rig);
    EXPECT_EQUAL(send(peer, "hello", 5, 0), 5);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    expect_received(&rig, &event, 0, "hello");
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void test_operation_that_cannot_start_says_so_by_an_event(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    int udp = rig.node.config.listeners[0].udp_fd;
    uint8_t byte = 'x';
    (void)close(peer);
    (void)close(fd);
    start_receive_into(&rig, fd, &byte, 1);
    struct ru_event event = rig_next(&rig, RU_OP_RECEIVE);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, -EBADF);
    start_send(&rig, fd, &byte, 1, false);
    event = rig_next(&rig, RU_OP_SEND);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, -EBADF);
    EXPECT_EQUAL(fcntl(udp, F_GETFD), FD_CLOEXEC);
    rig_close(&rig);
}

/* ---- streams: sending ---- */

static void test_send_ends_with_what_was_sent(void)
{
    struct rig rig;
    uint8_t bytes[8];
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    lend_buffers(&rig);
    start_receive(&rig, 0, fd, true); /* one of each at a time */
    start_send(&rig, fd, (const uint8_t *)"hello", 5, false);
    struct ru_event event = rig_next(&rig, RU_OP_SEND);
    EXPECT(event.ended && event.index == 0 && event.generation == GENERATION);
    EXPECT_EQUAL(event.result, 5);
    EXPECT_EQUAL(recv(peer, bytes, sizeof(bytes), 0), 5);
    EXPECT_EQUAL(rig_end(&rig, RU_OP_RECEIVE, 0), -ECANCELED);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void drain(int peer, size_t size)
{
    static uint8_t bytes[1 << 20];
    while (size > 0) {
        ssize_t got = recv(peer, bytes, size < sizeof(bytes) ? size : sizeof(bytes), 0);
        EXPECT(got > 0);
        if (got <= 0)
            return;
        size -= (size_t)got;
    }
}

/* Short counts until the peer's buffers are full; then the send waits, and cancelling ends it. */
static void test_send_to_a_full_peer_waits_and_is_cancelled(void)
{
    static const uint8_t bytes[BIG];
    struct rig rig;
    size_t sent = 0;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    for (;;) {
        start_send(&rig, fd, bytes, BIG, false);
        for (uint32_t i = 0; i < QUIET_LAPS && rig.events_count == 0; i++)
            rig_lap(&rig, 20);
        if (rig.events_count == 0)
            break;
        struct ru_event event = rig_next(&rig, RU_OP_SEND);
        EXPECT(event.ended && event.result > 0);
        if (event.result <= 0)
            break;
        sent += (size_t)event.result;
    }
    EXPECT(sent > 0);
    EXPECT_EQUAL(rig_end(&rig, RU_OP_SEND, 0), -ECANCELED);
    start_send(&rig, fd, bytes, BIG, false); /* resumes when the peer reads */
    rig_lap(&rig, 1);
    drain(peer, sent);
    struct ru_event event = rig_next(&rig, RU_OP_SEND);
    EXPECT(event.ended && event.result > 0);
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
    (void)close(peer);
}

static void test_send_to_a_peer_that_reset_fails(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    reset(peer);
    for (uint32_t i = 0; i < 2; i++) { /* no SIGPIPE either */
        start_send(&rig, fd, (const uint8_t *)"hello", 5, false);
        struct ru_event event = rig_next(&rig, RU_OP_SEND);
        EXPECT(event.ended);
        EXPECT(event.result == -ECONNRESET || event.result == -EPIPE);
    }
    ops->close_descriptor(rig.backend, fd);
    rig_close(&rig);
}

static void expect_closed(struct rig *rig, int fd)
{
    for (uint32_t i = 0; i < QUIET_LAPS && fcntl(fd, F_GETFD) >= 0; i++)
        rig_lap(rig, LAP_MS);
    EXPECT(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
}

static void test_last_send_closes(void)
{
    struct rig rig;
    uint8_t bytes[8];
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    start_send(&rig, fd, (const uint8_t *)"goodbye", 7, true);
    struct ru_event event = rig_next(&rig, RU_OP_SEND);
    EXPECT(event.ended);
    EXPECT_EQUAL(event.result, 7);
    EXPECT_EQUAL(recv(peer, bytes, sizeof(bytes), MSG_WAITALL), 7);
    expect_closed(&rig, fd);
    (void)close(peer);
    rig_close(&rig);
}

static void test_last_send_closes_also_when_it_failed(void)
{
    struct rig rig;
    int fd;
    rig_open(&rig);
    int peer = rig_connect(&rig, &fd);
    reset(peer);
    start_send(&rig, fd, (const uint8_t *)"goodbye", 7, true);
    struct ru_event event = rig_next(&rig, RU_OP_SEND);
    EXPECT(event.ended);
    EXPECT(event.result == -ECONNRESET || event.result == -EPIPE);
    expect_closed(&rig, fd);
    rig_close(&rig);
}

/* ---- waiting ---- */

static void test_wait_lasts_no_longer_than_asked(void)
{
    struct rig rig;
    rig_open(&rig);
    watch_wake(&rig);
    rig_lap(&rig, 0);
    for (uint64_t spin_ns = 0; spin_ns <= 10000000; spin_ns += 10000000) {
        uint64_t before_ns = ru_now_ns();
        EXPECT_EQUAL(ops->wait(rig.backend, 20000000, spin_ns), 0);
        EXPECT(ru_now_ns() - before_ns >= 19000000);
        EXPECT_EQUAL(ops->reap(rig.backend, rig.events, EVENTS_MAX), 0);
    }
    EXPECT(!ops->overflowed(rig.backend));
    (void)rig_end(&rig, RU_OP_WAKE, 0);
    rig_close(&rig);
}

/* reap() gives what fits; the rest comes with the next ones, and nothing twice. */
static void test_reaping_one_at_a_time_loses_nothing(void)
{
    struct rig rig;
    bool seen[3] = {false};
    rig_open(&rig);
    lend_slots(&rig);
    start_datagrams(&rig);
    for (uint8_t i = 0; i < 3; i++)
        EXPECT_EQUAL(send(rig.client, &i, 1, 0), 1);
    uint64_t end_ns = ru_now_ns() + PATIENCE_MS * 1000000ULL;
    for (uint32_t count = 0; count < 3 && ru_now_ns() < end_ns;) {
        struct ru_event event;
        EXPECT_EQUAL(ops->wait(rig.backend, LAP_MS * 1000000ULL, 0), 0);
        if (ops->reap(rig.backend, &event, 1) == 0)
            continue;
        RU_CHECK(event.buffer != RU_NONE && event.result == 1 && !event.ended);
        uint8_t number = *slot_payload(&rig, event.buffer);
        RU_CHECK(number < 3);
        EXPECT(!seen[number]);
        seen[number] = true;
        count++;
    }
    EXPECT(seen[0] && seen[1] && seen[2]);
    (void)rig_end(&rig, RU_OP_DATAGRAMS, 0);
    rig_close(&rig);
}

static void run_all(void)
{
    RUN(test_each_write_wakes);
    RUN(test_accept_goes_on_until_cancelled);
    RUN(test_accept_without_descriptors_ends);
    RUN(test_datagrams_come_in_lent_slots);
    RUN(test_datagrams_wait_while_no_slot_is_lent);
    RUN(test_datagrams_are_taken_by_hand_after_the_end);
    RUN(test_reply_reaches_its_peer_without_an_event);
    RUN(test_reply_that_cannot_be_sent_is_heard_of);
    RUN(test_single_receive_ends_with_its_bytes);
    RUN(test_receive_goes_on_to_the_end_of_the_stream);
    RUN(test_receive_without_buffers_ends);
    RUN(test_receive_into_takes_no_buffer);
    RUN(test_cancelled_receive_ends_once);
    RUN(test_only_the_generation_named_is_cancelled);
    RUN(test_operation_that_cannot_start_says_so_by_an_event);
    RUN(test_send_ends_with_what_was_sent);
    RUN(test_send_to_a_full_peer_waits_and_is_cancelled);
    RUN(test_send_to_a_peer_that_reset_fails);
    RUN(test_last_send_closes);
    RUN(test_last_send_closes_also_when_it_failed);
    RUN(test_wait_lasts_no_longer_than_asked);
    RUN(test_reaping_one_at_a_time_loses_nothing);
}

/* All cases on one backend, if this kernel has it. */
static void run_on(const struct ru_backend_ops *chosen, bool without_defer, const char *tier)
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
        run_all();
}

int main(void)
{
    run_on(&ru_backend_uring, false, "io_uring, DEFER_TASKRUN");
    run_on(&ru_backend_uring, true, "io_uring, COOP_TASKRUN");
    run_on(&ru_backend_epoll, false, "epoll");
    return native_finish();
}
