/* test_backend.c: what backend.h promises of listeners, datagrams and waiting, of every backend on this kernel. */
#include "backend_rig.h"

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
    RUN(test_wait_lasts_no_longer_than_asked);
    RUN(test_reaping_one_at_a_time_loses_nothing);
}

int main(void)
{
    return rig_run(run_all);
}
