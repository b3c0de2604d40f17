/* test_backend_streams.c: what backend.h promises of connections, of every backend on this kernel. */
#include "backend_rig.h"

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

static void run_all(void)
{
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
}

int main(void)
{
    return rig_run(run_all);
}
