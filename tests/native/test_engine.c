/* test_engine.c: a whole engine on the real kernel: its loop and its workers each on a thread, its
 * clients on real sockets.
 *
 * Each case runs on every backend that this kernel has, see backend_rig.h. Whatever happens: once
 * the engine has ended, its sums balance, every context is free, every block is free or lent to a
 * worker, and destroying it leaves no descriptor behind.
 */
#include "backend_rig.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>

#include "engine/engine.h"
#include "engine/invariants.h"
#include "memory/trees.h"

#define DRAIN_MS 10000
#define PAYLOAD_MAX 60000
#define REQUEST_MAX (RU_HEADER_SMALL + RU_CHALLENGE_SIZE + PAYLOAD_MAX + RU_TERMINATOR_SIZE)

static enum ru_backend_choice chosen; /* the backend under test */

/* ---- a node ---- */

struct host {
    struct ru_engine *engine;
    struct sockaddr_in udp_address, tcp_address;
    struct ru_listener_config listener;
    pthread_t loop;
    pthread_t workers[RU_WORKERS_MAX];
    uint32_t workers_count; /* threads that work */
    uint32_t descriptors;   /* of this process before the engine was made */
};

static uint32_t descriptors_count(void)
{
    uint32_t count = 0;
    DIR *listing = opendir("/proc/self/fd");
    if (!listing)
        abort();
    while (readdir(listing))
        count++;
    (void)closedir(listing);
    return count;
}

static struct ru_config host_config(const struct host *host)
{
    struct ru_config config = native_config();
    config.backend = chosen;
    config.listeners_count = 1;
    config.listeners[0] = host->listener;
    config.udp_contexts = 32;
    config.udp_reserve = 8;
    config.connections_max = 16;
    config.small_blocks = config.large_blocks = 16;
    config.slow_queue_max = 4;
    config.tcp_buffers = 16;
    config.events_per_lap = 64;
    config.wait_max_ms = 1000;
    config.io_cpu = -1;
    return config;
}

static void *host_loop(void *self)
{
    struct host *host = self;
    (void)ru_engine_run(host->engine);
    return NULL;
}

/* 0, or the -errno that the engine ended with. */
static int host_try(struct host *host)
{
    *host = (struct host){0};
    host->listener.udp_fd = bound(SOCK_DGRAM, &host->udp_address);
    host->listener.tcp_fd = bound(SOCK_STREAM, &host->tcp_address);
    if (listen(host->listener.tcp_fd, 16) != 0)
        abort();
    const struct ru_config config = host_config(host);
    host->descriptors = descriptors_count();
    if (ru_engine_create(&config, &host->engine, NULL) != 0 ||
        ru_engine_set_class(host->engine, NATIVE_ECHO >> 8, NATIVE_ECHO & 0xFF, RU_CLASS_ECHO) ||
        ru_engine_set_class(host->engine, NATIVE_WORKER >> 8, NATIVE_WORKER & 0xFF,
                            RU_CLASS_ORDINARY) ||
        ru_engine_set_class(host->engine, NATIVE_SLOW >> 8, NATIVE_SLOW & 0xFF, RU_CLASS_SLOW) ||
        pthread_create(&host->loop, NULL, host_loop, host) != 0)
        abort();
    return ru_engine_wait_ready(host->engine, PATIENCE_MS);
}

/* Nothing is left of an engine that has ended and whose workers have, too. */
static void host_check(const struct host *host)
{
    const struct ru_engine *engine = host->engine;
    const struct ru_counters *counters = &engine->counters;
    EXPECT_EQUAL(counters->udp_in_flight + counters->tcp_in_flight, 0);
    EXPECT_EQUAL(counters->connections_open, 0);
    EXPECT_EQUAL(engine->operations, 0);
    EXPECT_EQUAL(engine->udp.counts[RU_UDP_FREE], engine->udp.capacity);
    EXPECT_EQUAL(engine->conns.used_count, 0);
    for (uint32_t block = 0; block < engine->blocks.count[0] + engine->blocks.count[1]; block++)
        EXPECT(engine->blocks.owners[block] >= ru_block_worker(0)); /* RU_NONE: free */
}

static void host_end(struct host *host)
{
    EXPECT_EQUAL(pthread_join(host->loop, NULL), 0);
    for (uint32_t i = 0; i < host->workers_count; i++)
        EXPECT_EQUAL(pthread_join(host->workers[i], NULL), 0);
}

static void host_destroy(struct host *host)
{
    ru_engine_destroy(host->engine);
    EXPECT_EQUAL(descriptors_count(), host->descriptors);
    (void)close(host->listener.udp_fd);
    (void)close(host->listener.tcp_fd);
}

static void host_stop(struct host *host)
{
    ru_engine_drain(host->engine, DRAIN_MS);
    host_end(host);
    EXPECT_EQUAL(host->engine->result, 0);
    host_check(host);
    host_destroy(host);
}

static void host_start(struct host *host)
{
    if (host_try(host) != 0)
        abort();
}

/* ---- workers ---- */

/* Answers each request with its payload. */
static void *work(void *self)
{
    struct host *host = self;
    struct ru_worker *worker;
    uint32_t index = 0;
    while (ru_worker_open(host->engine, index, &worker) == -EBUSY) /* the next one that is free */
        index++;
    int count;
    while ((count = ru_worker_take(worker, PATIENCE_MS)) >= 0)
        for (int i = 0; i < count; i++) {
            const struct ru_record *record = &ru_worker_records(worker)[i];
            const uint8_t status = RU_STATUS_SUCCESS;
            if (ru_worker_reply(worker, 1, &status, &record->payload_size,
                                ru_worker_data(worker) + record->payload_at) != 0)
                abort();
        }
    EXPECT_EQUAL(count, -ESHUTDOWN);
    ru_worker_close(worker);
    return NULL;
}

static void host_employ(struct host *host)
{
    host->workers_count = ru_config_workers(&host->engine->config);
    for (uint32_t i = 0; i < host->workers_count; i++)
        if (pthread_create(&host->workers[i], NULL, work, host) != 0)
            abort();
}

/* ---- clients ---- */

static uint32_t request_of(uint8_t *out, enum native_command command, uint32_t payload_size,
                           struct ru_random *random)
{
    uint32_t body_size = RU_CHALLENGE_SIZE + payload_size + RU_TERMINATOR_SIZE;
    uint32_t header_size =
        native_header(out, 0, command, (uint16_t)body_size, (uint8_t)native_random(random));
    native_body(out + header_size, body_size, random);
    return header_size + body_size;
}

static void expect_echo(const uint8_t *request, const uint8_t *reply, uint32_t payload_size)
{
    const uint8_t *size = reply + RU_REPLY_BODY_SIZE_AT;
    EXPECT_EQUAL(reply[RU_REPLY_STATUS_AT], RU_STATUS_SUCCESS);
    EXPECT_BYTES(reply + RU_REPLY_SMALL_ECHO_AT, request + RU_REQUEST_SMALL_ECHO_AT, RU_ECHO_SIZE);
    EXPECT_EQUAL((uint32_t)size[0] << 16 | (uint32_t)size[1] << 8 | size[2],
                 payload_size + RU_TERMINATOR_SIZE);
    EXPECT_BYTES(reply + RU_HEADER_SMALL, request + RU_HEADER_SMALL + RU_CHALLENGE_SIZE,
                 payload_size);
}

static void ask_stream(int fd, enum native_command command, uint32_t payload_size,
                       struct ru_random *random)
{
    static uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
    uint32_t size = request_of(request, command, payload_size, random);
    uint32_t reply_size = RU_HEADER_SMALL + payload_size + RU_TERMINATOR_SIZE;
    EXPECT_EQUAL(send(fd, request, size, MSG_NOSIGNAL), size);
    EXPECT_EQUAL(recv(fd, reply, reply_size, MSG_WAITALL), reply_size);
    expect_echo(request, reply, payload_size);
}

static void ask_datagram(int fd, enum native_command command, uint32_t payload_size,
                         struct ru_random *random)
{
    static uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
    uint32_t size = request_of(request, command, payload_size, random);
    EXPECT_EQUAL(send(fd, request, size, 0), size);
    EXPECT_EQUAL(recv(fd, reply, sizeof(reply), 0),
                 RU_HEADER_SMALL + payload_size + RU_TERMINATOR_SIZE);
    expect_echo(request, reply, payload_size);
}

/* ---- other threads ---- */

/* Reads all that any thread may read, and publishes roots, until there is no more to see. */
static void *watch(void *self)
{
    const struct host *host = self;
    static uint8_t roots[RU_ROOTS_SIZE];
    uint64_t gauges[64], tallies[256], sum_ns, missed, version = 0;
    struct ru_counters counters = {0};
    struct ru_limited limited;
    struct ru_closed closed[RU_CLOSED_KEPT];
    EXPECT(ru_gauges_count() <= 64);
    while (__atomic_load_n(&host->engine->stage, __ATOMIC_ACQUIRE) != RU_STAGE_ENDED) {
        ru_engine_counters(host->engine, (uint64_t *)(void *)&counters);
        EXPECT(counters.udp_answered <= counters.udp_received);
        EXPECT(counters.tcp_answered <= counters.tcp_requests);
        ru_engine_gauges(host->engine, gauges);
        (void)ru_engine_tally(host->engine, NATIVE_WORKER, tallies);
        (void)ru_engine_histogram(host->engine, RU_HISTOGRAM_TCP, tallies, 256, &sum_ns);
        (void)ru_engine_limited(host->engine, &limited, 1);
        (void)ru_engine_closed(host->engine, closed, &missed);
        ru_engine_publish_roots(host->engine, roots);
        EXPECT_EQUAL(ru_trees_version(ru_engine_roots(host->engine)), ++version);
        ru_engine_wake(host->engine);
    }
    return NULL;
}

/* What the log has taken. */
struct log {
    struct host *host;
    bool ending;
    uint64_t counted, noted, noted_tcp, sampled;
};

static void log_note(struct log *log, const struct ru_note *note)
{
    struct sockaddr_in peer;
    memcpy(&peer, note->peer, sizeof(peer));
    EXPECT(peer.sin_family == AF_INET && peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    EXPECT(note->command == NATIVE_WORKER || note->command == NATIVE_SLOW);
    EXPECT_EQUAL(note->reply_status, RU_STATUS_SUCCESS);
    /* The reply repeats the payload without the challenge; the headers are equally long. */
    EXPECT_EQUAL(note->request_size, note->reply_size + RU_CHALLENGE_SIZE);
    log->noted++;
    log->noted_tcp += note->transport == RU_TCP;
}

static void *keep_log(void *self)
{
    struct log *log = self;
    struct ru_engine *engine = log->host->engine;
    struct ru_note notes[16];
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    bool ending;
    do {
        ending = __atomic_load_n(&log->ending, __ATOMIC_ACQUIRE);
        log->counted = 0;
        for (uint32_t tap = 0; tap < ru_engine_taps(engine); tap++) {
            uint32_t count;
            log->counted += ru_engine_tap_requests(engine, tap);
            while ((count = ru_engine_tap_notes(engine, tap, notes, 16)) > 0)
                for (uint32_t i = 0; i < count; i++)
                    log_note(log, &notes[i]);
            log->sampled += ru_engine_tap_samples(engine, tap, samples, RU_TAP_SAMPLES_KEPT);
        }
        ru_engine_tap_begin(engine, 1000);
    } while (!ending && ru_engine_tap_wait(engine, PATIENCE_MS, 1));
    EXPECT(ending);
    return NULL;
}

/* ---- cases ---- */

static void test_requests_are_answered(void)
{
    static const uint32_t sizes[] = {1, 100, 256, 1300, 2100, PAYLOAD_MAX};
    struct ru_random random = {native_seed()};
    struct host host;
    struct log log = {.host = &host};
    pthread_t watcher, logger;
    host_start(&host);
    ru_engine_tap_begin(host.engine, 1000);
    host_employ(&host);
    EXPECT_EQUAL(pthread_create(&watcher, NULL, watch, &host), 0);
    EXPECT_EQUAL(pthread_create(&logger, NULL, keep_log, &log), 0);
    int datagrams = client_of(SOCK_DGRAM, &host.udp_address);
    int streams[3];
    for (uint32_t i = 0; i < 3; i++)
        streams[i] = client_of(SOCK_STREAM, &host.tcp_address);
    for (uint32_t turn = 0; turn < 60; turn++) {
        uint32_t size = sizes[turn % 6];
        enum native_command command = turn % 7 == 0 ? NATIVE_SLOW : NATIVE_WORKER;
        ask_stream(streams[turn % 3], command, size, &random);
        if (size <= 1300)
            ask_datagram(datagrams, command, size, &random);
    }
    (void)close(datagrams);
    for (uint32_t i = 0; i < 3; i++)
        (void)close(streams[i]);
    ru_engine_drain(host.engine, DRAIN_MS);
    host_end(&host);
    EXPECT_EQUAL(pthread_join(watcher, NULL), 0);
    __atomic_store_n(&log.ending, true, __ATOMIC_RELEASE);
    ru_engine_tap_end(host.engine);
    EXPECT_EQUAL(pthread_join(logger, NULL), 0);
    EXPECT_EQUAL(log.counted, 100);
    EXPECT_EQUAL(log.noted, 100);
    EXPECT_EQUAL(log.noted_tcp, 60);
    EXPECT(log.sampled > 0 && log.sampled <= 100);
    struct ru_counters counters;
    ru_engine_counters(host.engine, (uint64_t *)(void *)&counters);
    EXPECT_EQUAL(counters.udp_received, 40);
    EXPECT_EQUAL(counters.udp_answered, 40);
    EXPECT_EQUAL(counters.tcp_requests, 60);
    EXPECT_EQUAL(counters.tcp_answered, 60);
    EXPECT_EQUAL(counters.connections_accepted, 3);
    host_check(&host);
    host_destroy(&host);
}

/* A token that the loop has given to worker 0, which is none of ours. */
static uint64_t token_of(struct host *host)
{
    struct ru_ring *in = &ru_page_mailbox(&host->engine->arena, 0)->in;
    uint64_t token = 0, end_ns = ru_now_ns() + PATIENCE_MS * RU_MILLISECOND_NS;
    while (!ru_ring_pop(in, host->engine->arena.base, &token) && ru_now_ns() < end_ns)
        (void)sched_yield();
    EXPECT(token != 0);
    return token;
}

static void return_token(struct host *host, uint64_t token, uint32_t block, uint32_t size)
{
    struct ru_context *context = ru_arena_context(&host->engine->arena, ru_token_index(token));
    context->limited = 0;
    context->reply_block = block;
    context->reply_size = size;
    ru_ring_push(&ru_page_mailbox(&host->engine->arena, 0)->out, host->engine->arena.base, token);
    ru_engine_wake(host->engine);
}

static uint64_t lent_block(struct host *host)
{
    struct ru_mailbox *mailbox = ru_page_mailbox(&host->engine->arena, 0);
    uint64_t block = RU_NONE;
    EXPECT(ru_ring_pop(&mailbox->lent[RU_BLOCK_SMALL], host->engine->arena.base, &block));
    return block;
}

/* A block without a reply: the client gets 252, and the block comes back. */
static void test_a_block_returned_empty_is_no_reply(void)
{
    struct ru_random random = {native_seed()};
    uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
    struct host host;
    host_start(&host);
    int clients[2] = {client_of(SOCK_DGRAM, &host.udp_address),
                      client_of(SOCK_STREAM, &host.tcp_address)};
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t size = request_of(request, NATIVE_WORKER, 10, &random);
        EXPECT_EQUAL(send(clients[i], request, size, 0), size);
        return_token(&host, token_of(&host), (uint32_t)lent_block(&host), 0);
        EXPECT_EQUAL(recv(clients[i], reply, sizeof(reply), 0), RU_HEADER_SMALL);
        EXPECT_EQUAL(reply[RU_REPLY_STATUS_AT], RU_STATUS_INTERNAL);
        (void)close(clients[i]);
    }
    host_stop(&host);
}

/* The loop measures by the worker's clock, which a worker that is at fault may set back. */
static void test_a_clock_that_runs_back_is_survived(void)
{
    struct ru_random random = {native_seed()};
    uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
    struct host host;
    host_start(&host);
    int client = client_of(SOCK_DGRAM, &host.udp_address);
    uint64_t *busy_ns = &ru_page_mailbox(&host.engine->arena, 0)->busy_ns;
    for (uint32_t i = 0; i < 20; i++) { /* from the second one on each batch may be measured */
        uint32_t size = request_of(request, NATIVE_WORKER, 10, &random);
        EXPECT_EQUAL(send(client, request, size, 0), size);
        uint64_t token = token_of(&host);
        __atomic_store_n(busy_ns, *busy_ns - 1, __ATOMIC_RELAXED);
        return_token(&host, token, RU_NONE, RU_HEADER_SMALL);
        EXPECT_EQUAL(recv(client, reply, sizeof(reply), 0), RU_HEADER_SMALL);
    }
    (void)close(client);
    host_stop(&host);
}

/* Idle connections leave through the channel, and their clients do not notice. */
static void test_connections_are_handed_over(void)
{
    struct ru_random random = {native_seed()};
    struct host host;
    int channel[2];
    EXPECT_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
    host_start(&host);
    host.descriptors += 2; /* of which one comes through the channel */
    host_employ(&host);
    int client = client_of(SOCK_STREAM, &host.tcp_address);
    ask_stream(client, NATIVE_WORKER, 10, &random);
    ru_engine_hand_over(host.engine, DRAIN_MS, channel[0]);
    host_end(&host);
    EXPECT_EQUAL(host.engine->result, 0);
    host_check(&host);
    uint8_t listener = 255, byte = 0;
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = &listener, .iov_len = 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    int passed = -1;
    EXPECT_EQUAL(recvmsg(channel[1], &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC), 1);
    memcpy(&passed, CMSG_DATA(&control.align), sizeof(passed));
    EXPECT_EQUAL(listener, 0);
    EXPECT_EQUAL(send(passed, "x", 1, MSG_NOSIGNAL), 1);
    EXPECT(recv(client, &byte, 1, 0) == 1 && byte == 'x');
    host_destroy(&host);
    (void)close(passed);
    (void)close(client);
    (void)close(channel[0]);
    (void)close(channel[1]);
}

/* The other process ends before it serves: the engine goes on as if nothing had been. */
static void test_a_hand_over_is_taken_back(void)
{
    struct ru_random random = {native_seed()};
    struct host host;
    int channel[2];
    EXPECT_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
    (void)close(channel[1]);
    host_start(&host);
    host_employ(&host);
    int stream = client_of(SOCK_STREAM, &host.tcp_address);
    int datagrams = client_of(SOCK_DGRAM, &host.udp_address);
    for (uint32_t turn = 0; turn < 10; turn++) {
        ask_stream(stream, NATIVE_WORKER, 10, &random);
        ru_engine_hand_over(host.engine, DRAIN_MS, channel[0]);
        EXPECT_EQUAL(ru_engine_take_back(host.engine), 0);
        EXPECT_EQUAL(ru_engine_take_back(host.engine), -EINVAL);
        EXPECT_EQUAL(ru_engine_own(host.engine, turn % 2), 0);
        ask_datagram(datagrams, NATIVE_WORKER, 10, &random);
        (void)close(client_of(SOCK_STREAM, &host.tcp_address)); /* accepts again */
    }
    EXPECT_EQUAL(ru_engine_own(host.engine, 0), 0);
    (void)close(stream);
    (void)close(datagrams);
    host_stop(&host);
    (void)close(channel[0]);
}

/* What another process passes on to an engine that has ended is closed with it. */
static void test_connections_that_come_too_late_are_closed(void)
{
    struct host host;
    int pair[2];
    char byte;
    EXPECT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    host_start(&host);
    ru_engine_drain(host.engine, DRAIN_MS);
    host_end(&host);
    EXPECT_EQUAL(ru_engine_adopt(host.engine, 0, pair[0]), 0);
    host.descriptors--;
    host_destroy(&host);
    EXPECT_EQUAL(recv(pair[1], &byte, 1, MSG_DONTWAIT), 0);
    (void)close(pair[1]);
}

/* Other threads see connections and change limits while the loop serves. */
static void test_limits_change_and_connections_are_listed(void)
{
    struct ru_random random = {native_seed()};
    struct host host;
    host_start(&host);
    host_employ(&host);
    struct ru_config live = host_config(&host);
    struct ru_connection listed[RU_CONNECTIONS_LISTED];
    int client = client_of(SOCK_STREAM, &host.tcp_address);
    ask_stream(client, NATIVE_WORKER, 10, &random);
    uint32_t first = 0;
    EXPECT_EQUAL(ru_engine_connections(host.engine, &first, listed), 1);
    EXPECT_EQUAL(listed[0].requests, 1);
    EXPECT_EQUAL(ru_engine_connections(host.engine, &first, listed), 0);
    live.connections_max = 1;
    EXPECT_EQUAL(ru_engine_set_live(host.engine, &live), 0);
    int refused = client_of(SOCK_STREAM, &host.tcp_address);
    char byte;
    EXPECT(recv(refused, &byte, 1, 0) < 0 && errno == ECONNRESET);
    ask_stream(client, NATIVE_WORKER, 10, &random); /* served on */
    live.connections_max = 17;                      /* more than there is room for */
    EXPECT_EQUAL(ru_engine_set_live(host.engine, &live), -EINVAL);
    (void)close(refused);
    (void)close(client);
    host_stop(&host);
}

/* A worker may keep or drop what a handler changed by whether its reply will be sent. */
static void test_a_batch_keeps_the_limit_it_was_taken_with(void)
{
    struct ru_random random = {native_seed()};
    static uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
    const uint8_t status = RU_STATUS_SUCCESS, payload[1000] = {0};
    const uint32_t payload_size = sizeof(payload);
    struct ru_worker *worker;
    struct host host;
    host_start(&host);
    struct ru_config live = host_config(&host);
    int client = client_of(SOCK_DGRAM, &host.udp_address);
    EXPECT_EQUAL(ru_worker_open(host.engine, 0, &worker), 0);
    for (uint32_t factor = 0; factor < 2; factor++) {
        uint32_t size = request_of(request, NATIVE_WORKER, 10, &random);
        EXPECT_EQUAL(send(client, request, size, 0), size);
        EXPECT_EQUAL(ru_worker_take(worker, PATIENCE_MS), 1);
        live.udp_reply_factor_max = 1 - factor;
        EXPECT_EQUAL(ru_engine_set_live(host.engine, &live), 0);
        EXPECT_EQUAL(ru_worker_reply_factor(worker), factor);
        EXPECT_EQUAL(ru_worker_reply(worker, 1, &status, &payload_size, payload), 0);
        EXPECT_EQUAL(recv(client, reply, sizeof(reply), 0),
                     RU_HEADER_SMALL + (factor == 0 ? payload_size + RU_TERMINATOR_SIZE : 0));
        EXPECT_EQUAL(reply[RU_REPLY_STATUS_AT],
                     factor == 0 ? RU_STATUS_SUCCESS : RU_STATUS_NOT_IMPLEMENTED);
    }
    ru_worker_close(worker);
    (void)close(client);
    host_stop(&host);
}

static void run_cases(void)
{
    RUN(test_requests_are_answered);
    RUN(test_a_block_returned_empty_is_no_reply);
    RUN(test_a_clock_that_runs_back_is_survived);
    RUN(test_connections_are_handed_over);
    RUN(test_a_hand_over_is_taken_back);
    RUN(test_connections_that_come_too_late_are_closed);
    RUN(test_limits_change_and_connections_are_listed);
    RUN(test_a_batch_keeps_the_limit_it_was_taken_with);
}

int main(void)
{
    static const enum ru_backend_choice choices[] = {RU_BACKEND_URING, RU_BACKEND_EPOLL};
    for (uint32_t i = 0; i < 2; i++) {
        struct host host;
        chosen = choices[i];
        int result = host_try(&host);
        printf("%s: %s\n", chosen == RU_BACKEND_EPOLL ? "epoll" : "io_uring",
               result == 0 ? host.engine->tier : ru_engine_fault(host.engine));
        ru_engine_drain(host.engine, DRAIN_MS);
        host_end(&host);
        host_destroy(&host);
        if (result == 0)
            run_cases();
    }
    return native_finish();
}
