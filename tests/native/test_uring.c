/* test_uring.c: what io_uring does that surprises, and that its backend has an answer to each.
 *
 * The tests are named after the pitfalls of docs/pitfalls.md. They drive the backend's own table over
 * the real kernel with a completion queue of eight entries; its source is included, so that a test
 * can also submit what the backend never would.
 */
#include "limits.h"
/* So small that every burst overflows it. */
#undef RU_SQ_ENTRIES
#define RU_SQ_ENTRIES 4
#undef RU_CQ_ENTRIES_MAX
#define RU_CQ_ENTRIES_MAX 8
#define ru_backend_uring uring_under_test
#define ru_backend_uring_locked_bytes small_locked_bytes
#include "kernel/backend_uring.c"

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "native.h"

#define SLOTS 48
#define TRIES 1000 /* waits of a millisecond for something that comes at once */
#define MS_NS 1000000ULL

/* A backend on its own sockets, and a client. */
struct bench {
    struct native_node node;
    struct ru_backend *backend;
    char fault[RU_FAULT_TEXT];
    uint8_t *buffers;
    struct sockaddr_in address; /* of the UDP socket; the TCP socket has the same port */
    int client;
};

/* Both sockets of a listener on one port, below those that the kernel gives to connections: nobody
 * takes it while a test lets go of it. */
static void bench_listen(struct bench *bench, struct ru_listener_config *listener)
{
    static uint16_t next;
    const struct sockaddr *address = (const struct sockaddr *)&bench->address;
    for (uint32_t tries = 0; tries < 10000; tries++) {
        bench->address = (struct sockaddr_in){
            .sin_family = AF_INET,
            .sin_port = htons((uint16_t)(20000 + (getpid() * 31 + next++) % 10000)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        listener->udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        listener->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (bind(listener->udp_fd, address, sizeof(bench->address)) == 0 &&
            bind(listener->tcp_fd, address, sizeof(bench->address)) == 0 &&
            listen(listener->tcp_fd, 64) == 0)
            return;
        (void)close(listener->udp_fd);
        (void)close(listener->tcp_fd);
    }
    abort();
}

/* False where this kernel or its administrator lets nobody have a ring. */
static bool bench_try(struct bench *bench)
{
    struct ru_config config = native_config();
    *bench = (struct bench){0};
    config.udp_contexts = SLOTS - 1;
    config.udp_reserve = 1;
    config.tcp_buffers = 16;
    config.listeners_count = 1;
    bench_listen(bench, &config.listeners[0]);
    native_open(&bench->node, &config);
    bench->buffers = calloc(config.tcp_buffers, RU_TCP_BUFFER);
    bench->client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const struct ru_backend_setup setup = {.config = &bench->node.config,
                                           .arena = &bench->node.arena,
                                           .tcp_buffers = bench->buffers,
                                           .wake_fd = eventfd(0, EFD_CLOEXEC),
                                           .fault = bench->fault};
    return uring_under_test.open(&bench->backend, &setup) == 0;
}

static void bench_open(struct bench *bench)
{
    if (!bench_try(bench)) {
        (void)fprintf(stderr, "no backend: %s\n", bench->fault);
        abort();
    }
}

static void bench_shut(struct bench *bench)
{
    const struct ru_config *config = &bench->node.config;
    (void)close(config->listeners[0].udp_fd);
    (void)close(config->listeners[0].tcp_fd);
    (void)close(bench->client);
    free(bench->buffers);
    native_close(&bench->node);
}

static void bench_close(struct bench *bench)
{
    int wake_fd = bench->backend->setup.wake_fd;
    uring_under_test.close(bench->backend);
    (void)close(wake_fd);
    bench_shut(bench);
}

static struct io_uring *bench_ring(struct bench *bench)
{
    return &uring_of(bench->backend)->ring;
}

static void bench_lend(struct bench *bench, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        uring_under_test.lend_slot(bench->backend, i);
}

static void bench_datagram(struct bench *bench, const void *bytes, size_t size)
{
    if (sendto(bench->client, bytes, size, 0, (struct sockaddr *)&bench->address,
               sizeof(bench->address)) != (ssize_t)size)
        abort();
}

/* The next event; false if none has come after all tries. */
static bool bench_next(struct bench *bench, struct ru_event *event)
{
    for (uint32_t i = 0; i < TRIES; i++) {
        if (uring_under_test.reap(bench->backend, event, 1) == 1)
            return true;
        (void)uring_under_test.wait(bench->backend, MS_NS, 0);
    }
    return false;
}

static struct ru_event bench_event(struct bench *bench)
{
    struct ru_event event = {0};
    EXPECT(bench_next(bench, &event));
    return event;
}

static uint8_t *bench_slot(const struct bench *bench, const struct ru_event *event)
{
    const struct ru_arena *arena = &bench->node.arena;
    return arena->base + ru_arena_slot_at(arena, event->buffer) + arena->payload_at;
}

static bool descriptor_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* ---- receiving ---- */

static void test_pitfall_3_1_an_empty_datagram_ends_the_receive(void)
{
    struct bench bench;
    bench_open(&bench);
    bench_lend(&bench, 4);
    uring_under_test.receive_datagrams(bench.backend, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    bench_datagram(&bench, "", 0);
    bench_datagram(&bench, "vote", 4);
    struct ru_event event = bench_event(&bench);
    EXPECT(event.ended && event.result == 0 && event.buffer != RU_NONE);
    uring_under_test.receive_datagrams(bench.backend, 0); /* what `ended` asks for */
    event = bench_event(&bench);
    EXPECT(!event.ended && event.result == 4);
    EXPECT_BYTES(bench_slot(&bench, &event), (const uint8_t *)"vote", 4);
    bench_close(&bench);
}

/* Forty datagrams, eight entries: a receive ends with a datagram in its hands, and none is lost. */
static void test_pitfall_3_2_a_receive_ends_with_a_result(void)
{
    struct bench bench;
    bool ended_with_result = false;
    bool seen[SLOTS] = {false};
    uint32_t count = 0;
    bench_open(&bench);
    bench_lend(&bench, SLOTS);
    uring_under_test.receive_datagrams(bench.backend, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    for (uint8_t i = 0; i < 40; i++)
        bench_datagram(&bench, &i, 1);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0); /* late: nothing was reaped in between */
    for (struct ru_event event; count < 40 && bench_next(&bench, &event);) {
        if (event.result == 1) {
            uint8_t number = bench_slot(&bench, &event)[0];
            EXPECT(number < 40 && !seen[number]);
            seen[number % SLOTS] = true;
            count++;
        }
        if (!event.ended)
            continue;
        ended_with_result |= event.result > 0;
        uring_under_test.receive_datagrams(bench.backend, 0);
    }
    EXPECT_EQUAL(count, 40);
    EXPECT(ended_with_result);
    bench_close(&bench);
}

static void test_pitfall_3_4_an_overflowed_queue_loses_nothing(void)
{
    struct bench bench;
    bench_open(&bench);
    EXPECT(!uring_under_test.overflowed(bench.backend));
    struct io_uring *ring = bench_ring(&bench);
    for (uint32_t i = 0; i < 20; i++) { /* cancels nothing: twenty completions at once */
        struct io_uring_sqe *sqe = uring_sqe(bench.backend);
        io_uring_prep_cancel64(sqe, 12345, 0);
        io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_SEND_DATAGRAM, i, 0));
    }
    (void)io_uring_submit(ring);
    EXPECT(io_uring_cq_ready(ring) <= 8);
    EXPECT(uring_under_test.overflowed(bench.backend)); /* the alarm */
    for (uint32_t i = 0; i < 20; i++) {
        struct ru_event event = bench_event(&bench);
        EXPECT_EQUAL(event.index, i);
        EXPECT_EQUAL(event.result, -ENOENT);
    }
    EXPECT(!uring_under_test.overflowed(bench.backend));
    bench_close(&bench);
}

static void test_pitfall_3_3_without_a_buffer_a_receive_fails_at_once(void)
{
    struct bench bench;
    bench_open(&bench);
    uring_under_test.receive_datagrams(bench.backend, 0); /* with nothing to read, too */
    struct ru_event event = bench_event(&bench);
    EXPECT(event.ended && event.result == -ENOBUFS && event.buffer == RU_NONE);
    bench_datagram(&bench, "waits", 5);
    bench_lend(&bench, 1);
    uring_under_test.receive_datagrams(bench.backend, 0);
    event = bench_event(&bench);
    EXPECT_EQUAL(event.result, 5);
    bench_close(&bench);
}

static void test_pitfall_3_11_truncation_shows_only_in_the_flags(void)
{
    static const uint8_t bytes[2000] = {1, 2, 3};
    struct bench bench;
    bench_open(&bench);
    uint32_t room = bench.node.arena.payload_size;
    bench_lend(&bench, 4);
    uring_under_test.receive_datagrams(bench.backend, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    for (uint32_t size = room - 1; size <= room + 1; size++) {
        bench_datagram(&bench, bytes, size);
        struct ru_event event = bench_event(&bench);
        EXPECT_EQUAL(event.result, size < room ? size : room);
        EXPECT_EQUAL(event.truncated, size > room);
        EXPECT_BYTES(bench_slot(&bench, &event), bytes, room - 1);
        EXPECT_EQUAL(ru_arena_slot_head(&bench.node.arena, event.buffer)->peer_size,
                     sizeof(struct sockaddr_in));
    }
    bench_close(&bench);
}

/* ---- sending ---- */

static void test_pitfall_3_6_a_failed_last_send_still_closes(void)
{
    struct bench bench;
    int ends[2];
    bench_open(&bench);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0)
        abort();
    (void)close(ends[1]);
    uring_under_test.send_last(bench.backend, 3, 7, ends[0], bench.buffers, 32);
    struct ru_event event = bench_event(&bench);
    EXPECT(event.operation == RU_OP_SEND && event.ended && event.index == 3);
    EXPECT_EQUAL(event.result, -EPIPE); /* and no SIGPIPE, which would have ended this program */
    for (uint32_t i = 0; i < TRIES && descriptor_open(ends[0]); i++)
        (void)uring_under_test.wait(bench.backend, MS_NS, 0);
    EXPECT(!descriptor_open(ends[0]));
    bench_close(&bench);
}

static void test_pitfall_3_6_a_short_send_is_a_success(void)
{
    static const uint8_t bytes[1 << 20];
    struct bench bench;
    int ends[2];
    bench_open(&bench);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0)
        abort();
    uring_under_test.send(bench.backend, 0, 1, ends[0], bytes, sizeof(bytes));
    struct ru_event event = bench_event(&bench);
    EXPECT(event.ended && event.result > 0 && event.result < (int32_t)sizeof(bytes));
    (void)close(ends[0]);
    (void)close(ends[1]);
    bench_close(&bench);
}

/* Sent while it is submitted, without a completion; a failure has one. */
static void test_pitfall_3_6_datagrams_leave_during_the_submission(void)
{
    struct bench bench;
    struct sockaddr_in nobody = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint8_t bytes[8] = {0};
    struct ru_event event;
    bench_open(&bench);
    bench_lend(&bench, 2);
    uring_under_test.receive_datagrams(bench.backend, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    bench_datagram(&bench, "question", 8);
    event = bench_event(&bench);
    uint32_t slot = event.buffer;
    uring_under_test.send_datagram(bench.backend, 0, slot, (const uint8_t *)"answer", 6, false);
    EXPECT(!uring_under_test.datagrams_sent(bench.backend));
    (void)uring_under_test.wait(bench.backend, 0, 0);
    EXPECT(uring_under_test.datagrams_sent(bench.backend));
    EXPECT_EQUAL(recv(bench.client, bytes, sizeof(bytes), MSG_DONTWAIT), 6);
    EXPECT_EQUAL(uring_under_test.reap(bench.backend, &event, 1), 0);

    uint8_t *peer = (uint8_t *)ru_arena_slot_head(&bench.node.arena, slot) + RU_SLOT_HEAD;
    memcpy(peer, &nobody, sizeof(nobody)); /* port 0 */
    uring_under_test.send_datagram(bench.backend, 0, slot, (const uint8_t *)"answer", 6, false);
    event = bench_event(&bench);
    EXPECT(event.operation == RU_OP_SEND_DATAGRAM && event.result == -EINVAL);
    bench_close(&bench);
}

/* ---- closing ---- */

static bool connects(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
    (void)close(fd);
    return connected;
}

static void test_pitfall_3_5_a_listener_closes_after_its_last_event(void)
{
    struct bench bench;
    bench_open(&bench);
    uring_under_test.accept(bench.backend, 0);
    EXPECT(connects(&bench.address));
    struct ru_event event = bench_event(&bench);
    EXPECT(!event.ended && event.result >= 0);
    (void)close(event.result);
    uring_under_test.cancel(bench.backend, RU_OP_ACCEPT, 0, 0);
    event = bench_event(&bench);
    EXPECT(event.operation == RU_OP_ACCEPT && event.ended && event.result == -ECANCELED);
    (void)close(bench.node.config.listeners[0].tcp_fd);
    EXPECT(!connects(&bench.address));
    bench_close(&bench); /* closes the number again, in vain */
}

/* What a token names is in every completion: a late one cannot be taken for its successor's. */
static void test_pitfall_3_5_completions_carry_their_generation(void)
{
    struct bench bench;
    int ends[2];
    bench_open(&bench);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0)
        abort();
    uring_under_test.receive(bench.backend, 2, 41, ends[0], true);
    uring_under_test.cancel(bench.backend, RU_OP_RECEIVE, 2, 40); /* another's: nothing happens */
    (void)uring_under_test.wait(bench.backend, 0, 0);
    uring_under_test.cancel(bench.backend, RU_OP_RECEIVE, 2, 41);
    struct ru_event event = bench_event(&bench);
    EXPECT(event.index == 2 && event.generation == 41 && event.ended);
    (void)close(ends[0]);
    (void)close(ends[1]);
    bench_close(&bench);
}

/* Everything cancelled and reaped, then the ring closed: the ports are free at once. */
static void test_pitfall_6_6_ports_are_free_once_all_has_ended(void)
{
    for (uint32_t round = 0; round < 20; round++) {
        struct bench bench;
        bench_open(&bench);
        bench_lend(&bench, 4);
        uring_under_test.accept(bench.backend, 0);
        uring_under_test.receive_datagrams(bench.backend, 0);
        (void)uring_under_test.wait(bench.backend, 0, 0);
        uring_under_test.cancel(bench.backend, RU_OP_ACCEPT, 0, 0);
        uring_under_test.cancel(bench.backend, RU_OP_DATAGRAMS, 0, 0);
        for (uint32_t ended = 0; ended < 2;)
            ended += bench_event(&bench).ended;
        struct sockaddr_in address = bench.address;
        bench_close(&bench);
        int udp = socket(AF_INET, SOCK_DGRAM, 0);
        int tcp = socket(AF_INET, SOCK_STREAM, 0);
        EXPECT_EQUAL(bind(udp, (struct sockaddr *)&address, sizeof(address)), 0);
        EXPECT_EQUAL(bind(tcp, (struct sockaddr *)&address, sizeof(address)), 0);
        (void)close(udp);
        (void)close(tcp);
    }
}

/* ---- the ring ---- */

/* Completions run only when we ask; a loop that spins sees the bit that says so. */
static void test_pitfall_3_7_a_spinning_loop_sees_what_is_ready(void)
{
    struct bench bench;
    bench_open(&bench);
    bench_lend(&bench, 4);
    uring_under_test.receive_datagrams(bench.backend, 0);
    (void)uring_under_test.wait(bench.backend, 0, 0);
    EXPECT(!uring_something_ready(uring_of(bench.backend)));
    bench_datagram(&bench, "vote", 4);
    for (uint32_t i = 0; i < TRIES && !uring_something_ready(uring_of(bench.backend)); i++)
        (void)usleep(1000);
    EXPECT(uring_something_ready(uring_of(bench.backend)));
    struct ru_event event = {0};
    (void)uring_under_test.wait(bench.backend, 0, 0); /* a visit, not a wait */
    EXPECT_EQUAL(uring_under_test.reap(bench.backend, &event, 1), 1);
    EXPECT_EQUAL(event.result, 4);
    bench_close(&bench);
}

static int enter_elsewhere_result;

static void *enter_elsewhere(void *ring)
{
    enter_elsewhere_result = io_uring_get_events(ring);
    return NULL;
}

/* The ring is its thread's alone; nobody else's mistake, or exploit, can submit. */
static void test_pitfall_3_10_neither_thread_nor_child_may_enter(void)
{
    struct bench bench;
    pthread_t thread;
    bench_open(&bench);
    /* The registered number is this thread's; others have to use the descriptor. */
    struct io_uring ring = *bench_ring(&bench);
    ring.enter_ring_fd = ring.ring_fd;
    ring.int_flags = 0;
    EXPECT_EQUAL(pthread_create(&thread, NULL, enter_elsewhere, &ring), 0);
    (void)pthread_join(thread, NULL);
    EXPECT_EQUAL(enter_elsewhere_result, -EEXIST);
    int output;
    pid_t child = native_fork(&output);
    if (child == 0)
        _exit(io_uring_get_events(&ring) == -EEXIST ? 0 : 1);
    int status = -1;
    (void)close(output);
    EXPECT_EQUAL(waitpid(child, &status, 0), child);
    EXPECT_EQUAL(status, 0);
    bench_close(&bench);
}

static bool operation_allowed(uint8_t operation)
{
    for (uint32_t i = 0; i < COUNT(uring_sqe_ops); i++)
        if (uring_sqe_ops[i] == operation)
            return true;
    return false;
}

/* The restricted ring refuses every other operation, and the rest of its batch goes on. */
static void test_pitfall_3_12_other_operations_are_refused(void)
{
    struct bench bench;
    bench_open(&bench);
    for (uint32_t operation = 0; operation < IORING_OP_LAST; operation++) {
        if (operation_allowed((uint8_t)operation))
            continue;
        struct io_uring_sqe *sqe = uring_sqe(bench.backend);
        io_uring_prep_nop(sqe);
        sqe->opcode = (uint8_t)operation;
        io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_SEND_DATAGRAM, operation, 0));
        uring_under_test.cancel(bench.backend, RU_OP_SEND, 9, 9); /* found nothing: -ENOENT */
        struct ru_event event = bench_event(&bench);
        EXPECT_EQUAL(event.index, operation);
        EXPECT_EQUAL(event.result, -EACCES);
    }
    struct io_uring_probe *probe = io_uring_get_probe_ring(bench_ring(&bench));
    EXPECT(probe == NULL); /* nor may anything else be registered */
    bench_close(&bench);
}

/* 3.6: a shutdown would start a kernel thread, a zero-copy send pin memory until the peer's ACK. */
static void test_pitfall_3_6_no_shutdown_and_no_zero_copy(void)
{
    EXPECT(!operation_allowed(IORING_OP_SHUTDOWN));
    EXPECT(!operation_allowed(IORING_OP_SEND_ZC));
    EXPECT(!operation_allowed(IORING_OP_OPENAT));
}

int main(void)
{
    struct bench bench;
    bool usable = bench_try(&bench);
    if (!usable) {
        printf("skipped: no io_uring here: %s\n", bench.fault);
        bench_shut(&bench);
        return 0;
    }
    bench_close(&bench);
    RUN(test_pitfall_3_1_an_empty_datagram_ends_the_receive);
    RUN(test_pitfall_3_2_a_receive_ends_with_a_result);
    RUN(test_pitfall_3_3_without_a_buffer_a_receive_fails_at_once);
    RUN(test_pitfall_3_4_an_overflowed_queue_loses_nothing);
    RUN(test_pitfall_3_5_a_listener_closes_after_its_last_event);
    RUN(test_pitfall_3_5_completions_carry_their_generation);
    RUN(test_pitfall_3_6_a_failed_last_send_still_closes);
    RUN(test_pitfall_3_6_a_short_send_is_a_success);
    RUN(test_pitfall_3_6_datagrams_leave_during_the_submission);
    RUN(test_pitfall_3_6_no_shutdown_and_no_zero_copy);
    RUN(test_pitfall_3_7_a_spinning_loop_sees_what_is_ready);
    RUN(test_pitfall_3_10_neither_thread_nor_child_may_enter);
    RUN(test_pitfall_3_11_truncation_shows_only_in_the_flags);
    RUN(test_pitfall_3_12_other_operations_are_refused);
    RUN(test_pitfall_6_6_ports_are_free_once_all_has_ended);
    return native_finish();
}
