/* node_rig.h: a node without Python: a whole engine on a whole store, and its clients.
 *
 * Its I/O thread, its reading workers and its writers are threads of this process, which execute native
 * commands; clients have sockets on loopback. There is no command of a handler.
 */
#ifndef RU_TESTS_NODE_RIG_H
#define RU_TESTS_NODE_RIG_H

#include <pthread.h>

#include "engine/engine.h"
#include "request_rig.h"
#include "sockets.h"
#include "store_rig.h"

#define DRAIN_MS 10000
#define READERS 2U
#define PAYLOAD_MAX 4096U
#define DATAGRAM_MAX 1200U

static enum ru_backend_choice chosen; /* the backend under test */

/* ---- a node ---- */

struct node {
    struct native_directory directory;
    struct ru_store *store;
    struct ru_engine *engine;
    struct ru_listener_config listener;
    struct sockaddr_in udp_address, tcp_address;
    pthread_t loop;
    pthread_t workers[RU_WORKERS_MAX];
    uint32_t opened; /* workers that have an index; atomic */
    uint64_t failed; /* requests whose changes could not be written; atomic */
};

static inline struct ru_config node_config(const struct node *node)
{
    struct ru_config config = native_config();
    config.backend = chosen;
    config.listeners_count = 1;
    config.listeners[0] = node->listener;
    config.workers = config.slow_workers = 1; /* of handlers: there are none */
    config.native_workers = READERS;
    config.native_writers = RU_NATIVE_WRITERS_MAX;
    config.batch_max = 4; /* so that batches follow each other */
    config.udp_contexts = 32;
    config.connections_max = 16;
    config.small_blocks = config.large_blocks = 32;
    config.slow_queue_max = 4;
    config.tcp_buffers = 16;
    config.events_per_lap = 64;
    config.wait_max_ms = 1000;
    config.io_cpu = -1;
    return config;
}

static inline void *node_loop(void *self)
{
    struct node *node = self;
    (void)ru_engine_run(node->engine);
    return NULL;
}

/* What workers/native.py does. */
static inline void *node_work(void *self)
{
    struct node *node = self;
    struct ru_worker *worker;
    const uint32_t first = node->engine->lanes[RU_LANE_NATIVE].first_worker;
    uint32_t failed;
    int result;
    if (ru_worker_open(node->engine, first + __atomic_fetch_add(&node->opened, 1, __ATOMIC_RELAXED),
                       &worker) != 0)
        abort();
    while ((result = ru_worker_serve(worker, PATIENCE_MS, &failed)) != 0) {
        EXPECT(result == 1 || result == -EIO);
        (void)__atomic_fetch_add(&node->failed, failed, __ATOMIC_RELAXED);
    }
    ru_worker_close(worker);
    return NULL;
}

static inline void node_publish(struct node *node)
{
    const struct ru_facts facts = {.version = "20250323", .version_size = 8};
    ru_engine_set_native(node->engine, node->store, NULL, &facts);
    const struct ru_command *row;
    for (uint32_t i = 0; (row = ru_command_row(i)); i++) {
        const uint32_t group = row->number >> 8, code = row->number & 0xFF;
        if (ru_engine_set_class(node->engine, group, code,
                                row->writes ? RU_CLASS_WRITE : RU_CLASS_ORDINARY) != 0 ||
            ru_engine_set_native_command(node->engine, group, code) != 0)
            abort();
    }
}

/* 0, or the -errno that the engine ended with: then the kernel lacks the backend. */
static inline int node_start(struct node *node)
{
    *node = (struct node){.directory = native_directory_new()};
    node->store = rig_serve(node->directory.fd, true, false);
    node->listener.udp_fd = bound(SOCK_DGRAM, &node->udp_address);
    node->listener.tcp_fd = bound(SOCK_STREAM, &node->tcp_address);
    const struct ru_config config = node_config(node);
    if (listen(node->listener.tcp_fd, 16) != 0 ||
        ru_engine_create(&config, &node->engine, NULL) != 0)
        abort();
    node_publish(node);
    if (pthread_create(&node->loop, NULL, node_loop, node) != 0)
        abort();
    for (uint32_t i = 0; i < READERS + RU_NATIVE_WRITERS_MAX; i++) {
        if (pthread_create(&node->workers[i], NULL, node_work, node) != 0)
            abort();
    }
    return ru_engine_wait_ready(node->engine, PATIENCE_MS);
}

/* The engine ends, and what it has counted is left in `counters`. */
static inline void node_stop(struct node *node, struct ru_counters *counters)
{
    ru_engine_drain(node->engine, DRAIN_MS);
    EXPECT_EQUAL(pthread_join(node->loop, NULL), 0);
    for (uint32_t i = 0; i < READERS + RU_NATIVE_WRITERS_MAX; i++)
        EXPECT_EQUAL(pthread_join(node->workers[i], NULL), 0);
    ru_engine_counters(node->engine, (uint64_t *)(void *)counters);
    EXPECT_EQUAL(counters->udp_answered, counters->udp_received);
    EXPECT_EQUAL(counters->tcp_answered, counters->tcp_requests);
    EXPECT_EQUAL(counters->refused_bodies + counters->tokens_refused, 0);
    ru_engine_destroy(node->engine);
    ru_store_close(node->store);
    (void)close(node->listener.udp_fd);
    (void)close(node->listener.tcp_fd);
}

static inline void node_remove(struct node *node)
{
    rig_remove_journal(node->directory.fd);
    native_directory_remove(&node->directory);
}

/* ---- clients ---- */

struct client {
    struct node *node;
    uint32_t index;
    struct ru_random random;
    int datagrams, stream;
    struct rig_key key;
    uint8_t request[RU_HEADER_SMALL + RU_PLAIN_BODY_MIN + PAYLOAD_MAX];
    uint8_t reply[RU_HEADER_SMALL + RU_PLAIN_BODY_MIN + PAYLOAD_MAX];
    uint32_t reply_size; /* of the payload, which is at reply + RU_HEADER_SMALL */
    uint64_t asked;
    pthread_t thread;
};

static inline void client_open(struct client *client, struct node *node, uint32_t index)
{
    *client = (struct client){.node = node, .index = index, .random = {native_seed() + index}};
    client->datagrams = client_of(SOCK_DGRAM, &node->udp_address);
    client->stream = client_of(SOCK_STREAM, &node->tcp_address);
    struct ru_view *view = rig_view(&(struct rig){.store = node->store}, false);
    rig_name(client->key.name, 3, index); /* no case changes these coins */
    rig_an(view, client->key.name, client->key.an);
    ru_view_close(view);
}

static inline void client_close(const struct client *client)
{
    (void)close(client->datagrams);
    (void)close(client->stream);
}

/* Run `run` for `count` clients, each on a thread, until all have returned. */
static inline void clients_run(struct client *clients, uint32_t count, void *(*run)(void *))
{
    for (uint32_t i = 0; i < count; i++)
        if (pthread_create(&clients[i].thread, NULL, run, &clients[i]) != 0)
            abort();
    for (uint32_t i = 0; i < count; i++)
        EXPECT_EQUAL(pthread_join(clients[i].thread, NULL), 0);
}

static inline bool client_receive(struct client *client, int fd, bool datagram)
{
    uint8_t *reply = client->reply;
    if (datagram)
        return recv(fd, reply, sizeof(client->reply), 0) >= RU_HEADER_SMALL;
    if (recv(fd, reply, RU_HEADER_SMALL, MSG_WAITALL) != RU_HEADER_SMALL)
        return false;
    const uint32_t rest = rig_reply_rest(reply);
    return rest == 0 || /* recv() waits for nothing, too */
           (rest <= sizeof(client->reply) - RU_HEADER_SMALL &&
            recv(fd, reply + RU_HEADER_SMALL, rest, MSG_WAITALL) == rest);
}

/* The status of the reply to a command; by which transport, and encrypted or not, is drawn by lot. */
static inline uint32_t client_ask(struct client *client, uint32_t number, const uint8_t *payload,
                                  uint32_t size)
{
    const uint64_t lot = native_random(&client->random);
    const struct rig_key *key = lot & 1 ? &client->key : NULL;
    const bool datagram = size <= DATAGRAM_MAX && lot & 2;
    const int fd = datagram ? client->datagrams : client->stream;
    const uint32_t whole = rig_request_size(size);
    if (size > PAYLOAD_MAX)
        abort();
    rig_request(client->request, number, payload, size, key, &client->random);
    client->asked++;
    if (send(fd, client->request, whole, MSG_NOSIGNAL) != whole ||
        !client_receive(client, fd, datagram)) {
        EXPECT(!"a request is answered");
        abort();
    }
    uint8_t *reply = client->reply;
    const uint32_t rest = rig_reply_rest(reply);
    EXPECT_BYTES(reply + RU_REPLY_SMALL_ECHO_AT, client->request + RU_REQUEST_SMALL_ECHO_AT,
                 RU_ECHO_SIZE);
    client->reply_size = rest > 0 ? rest - RU_TERMINATOR_SIZE : 0;
    if (key)
        rig_crypt(key, client->request, reply + RU_HEADER_SMALL, client->reply_size);
    return reply[RU_REPLY_STATUS_AT];
}

#endif
