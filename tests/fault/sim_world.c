/* sim_world.c: the simulated kernel's chance and time, descriptors, peers and the other process. */
#include "sim_kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim sim;

/* ---- chance and time ---- */

_Noreturn void sim_fail(const char *what, uint64_t value)
{
    (void)fprintf(stderr, "sim: %s (%llu)\n", what, (unsigned long long)value);
    abort();
}

static uint32_t sim_random(void)
{
    uint64_t z = sim.random.state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
    return (uint32_t)((z ^ z >> 27) >> 32);
}

uint32_t sim_below(uint32_t count)
{
    return (uint32_t)((uint64_t)sim_random() * count >> 32);
}

bool sim_chance(uint32_t of_256)
{
    return sim_below(256) < of_256;
}

uint64_t sim_now_ns(void)
{
    return sim.now_ns;
}

uint64_t sim_behind(uint64_t ns)
{
    uint64_t before_ns = sim.behind_ns;
    sim.behind_ns = ns;
    return before_ns;
}

void sim_pass(uint64_t ns)
{
    sim.now_ns += ns;
}

void sim_turn(bool sleeping)
{
    if (sim.in_world)
        return;
    sim.in_world = true;
    sim.world.turn(sim.world.self, sleeping);
    sim.in_world = false;
}

/* Other threads run at any time; every call of the loop is a place where they may have. */
void sim_elsewhere(void)
{
    if (!sim.in_world && sim.backend && sim_chance(20))
        sim_turn(false);
}

uint32_t sim_sum(const uint8_t *bytes, uint32_t size)
{
    uint32_t part = size < SIM_SUM_BYTES ? size : SIM_SUM_BYTES;
    uint32_t sum = size;
    for (uint32_t i = 0; i < part; i++)
        sum = (sum ^ bytes[i] ^ (uint32_t)bytes[size - 1 - i] << 8) * 0x01000193U;
    return sum;
}

/* ---- descriptors ---- */

int sim_allocate(enum sim_descriptor_kind kind, uint32_t peer)
{
    if (kind != SIM_LISTENER && sim.descriptors_used >= sim.mood.descriptors)
        return -EMFILE;
    for (uint32_t i = 0; i < SIM_DESCRIPTORS_MAX; i++) {
        if (sim.descriptors[i].kind != SIM_CLOSED)
            continue;
        sim.descriptors[i] = (struct sim_descriptor){.kind = (uint8_t)kind, .peer = peer};
        sim.descriptors_used += kind != SIM_LISTENER;
        return SIM_FD + (int)i;
    }
    sim_fail("no descriptor left for the test itself", 0);
}

struct sim_descriptor *sim_descriptor(int fd)
{
    SIM_CHECK(fd >= SIM_FD && fd < SIM_FD + SIM_DESCRIPTORS_MAX, "not a descriptor", (uint64_t)fd);
    return &sim.descriptors[fd - SIM_FD];
}

struct sim_socket *sim_socket(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(descriptor->kind == SIM_SOCKET, "operation on a closed descriptor", (uint64_t)fd);
    return &sim.sockets[descriptor->peer];
}

void sim_no_operation_on(int fd)
{
    for (uint32_t i = 0; i < sim.operations_count; i++)
        SIM_CHECK(sim.operations[i].fd != fd, "closed with an operation in flight",
                  sim.operations[i].operation);
}

static void sim_let_go(struct sim_socket *socket)
{
    socket->used = --socket->holders > 0;
}

void sim_close_now(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(descriptor->kind != SIM_CLOSED && descriptor->kind != SIM_LISTENER, "closed twice",
              (uint64_t)fd);
    if (descriptor->kind != SIM_NULL_DEVICE)
        sim_let_go(&sim.sockets[descriptor->peer]);
    descriptor->kind = SIM_CLOSED;
    sim.descriptors_used--;
}

void sim_closing(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(!sim_socket(fd)->elsewhere || descriptor->forgotten,
              "closed and still watched, as another process has it open", (uint64_t)fd);
    sim_no_operation_on(fd);
    sim.world.closing(sim.world.self, descriptor->peer, fd, descriptor->lingers_not);
    descriptor->kind = SIM_CLOSING;
}

int sim_accept_from(uint32_t number)
{
    struct sim_listening *listener = &sim.listening[number];
    if (listener->shut)
        return -EINVAL;
    if (listener->backlog_count == 0)
        return -EAGAIN;
    uint32_t peer = listener->backlog[0];
    int fd = sim_allocate(SIM_SOCKET, peer);
    if (fd < 0)
        return fd;
    listener->backlog_count--;
    memmove(listener->backlog, listener->backlog + 1, listener->backlog_count * sizeof(uint32_t));
    sim.sockets[peer].accepted = true;
    sim.sockets[peer].holders = 1;
    sim.totals.accepted++;
    return fd;
}

/* ---- peers ---- */

struct ru_listener_config sim_listener(uint32_t listener, bool wildcard)
{
    return (struct ru_listener_config){.udp_fd = sim_allocate(SIM_LISTENER, listener),
                                       .tcp_fd = sim_allocate(SIM_LISTENER, listener),
                                       .wildcard = wildcard};
}

void sim_wake_descriptor(int fd)
{
    sim.wake_fd = fd;
}

bool sim_datagram_send(uint32_t number, uint32_t name, const uint8_t *bytes, uint32_t size)
{
    struct sim_listening *listener = &sim.listening[number];
    if (listener->filtered || listener->count == SIM_QUEUE_MAX)
        return false;
    struct sim_datagram *datagram =
        &listener->datagrams[(listener->first + listener->count++) % SIM_QUEUE_MAX];
    datagram->name = name;
    datagram->size = size;
    memcpy(datagram->bytes, bytes, size);
    return true;
}

static void sim_connected(uint32_t peer, uint32_t name)
{
    struct sim_socket *socket = &sim.sockets[peer];
    socket->used = true;
    socket->accepted = socket->ended = socket->reset = socket->elsewhere = socket->shut = false;
    socket->name = name;
    socket->room = socket->size = 0;
}

bool sim_connect(uint32_t number, uint32_t peer, uint32_t name)
{
    struct sim_listening *listener = &sim.listening[number];
    if (listener->shut || listener->backlog_count == SIM_QUEUE_MAX || sim.sockets[peer].used)
        return false;
    sim_connected(peer, name);
    listener->backlog[listener->backlog_count++] = peer;
    return true;
}

uint32_t sim_stream_send(uint32_t peer, const uint8_t *bytes, uint32_t size)
{
    struct sim_socket *socket = &sim.sockets[peer];
    if (!socket->used || socket->ended || socket->reset)
        return 0;
    uint32_t room = SIM_STREAM_MAX - socket->size;
    uint32_t part = size < room ? size : room;
    memcpy(socket->bytes + socket->size, bytes, part);
    socket->size += part;
    return part;
}

void sim_stream_end(uint32_t peer)
{
    sim.sockets[peer].ended = true;
}

void sim_stream_reset(uint32_t peer)
{
    sim.sockets[peer].reset = true;
}

void sim_stream_room(uint32_t peer, uint32_t size)
{
    sim.sockets[peer].room += size;
}

bool sim_peer_gone(uint32_t peer)
{
    return !sim.sockets[peer].used;
}

uint32_t sim_stream_unread(uint32_t peer)
{
    return sim.sockets[peer].size;
}

/* ---- another process ---- */

int sim_other_begin(void)
{
    if (sim.other == 0)
        sim.other = sim_allocate(SIM_LISTENER, 0); /* the control thread's: not against the limit */
    sim.other_ended = false;
    sim.other_room = 0;
    return sim.other;
}

void sim_other_room(uint32_t count)
{
    sim.other_room += count;
}

void sim_other_close(uint32_t peer)
{
    struct sim_socket *socket = &sim.sockets[peer];
    if (!socket->used || !socket->elsewhere)
        return;
    socket->elsewhere = false;
    sim_let_go(socket);
}

void sim_other_end(void)
{
    sim.other_ended = true;
    for (uint32_t peer = 0; peer < SIM_PEERS_MAX; peer++)
        sim_other_close(peer);
}

bool sim_other_ended(void)
{
    return sim.other_ended;
}

int sim_other_passes(uint32_t peer, uint32_t name)
{
    int fd = sim_allocate(SIM_SOCKET, peer);
    if (fd < 0)
        return -1;
    sim_connected(peer, name);
    sim.sockets[peer].accepted = true;
    sim.sockets[peer].holders = 1;
    return fd;
}

/* ---- life ---- */

void sim_start(uint64_t seed, const struct sim_world *world)
{
    memset(&sim, 0, sizeof(sim));
    sim.world = *world;
    sim.random.state = seed * 0xD1342543DE82EF95ULL;
    sim.now_ns = 1000000000ULL;
    sim.wake_fd = -1;
}

void sim_set_mood(const struct sim_mood *mood)
{
    SIM_CHECK(mood->queue_max > 0 && mood->queue_max <= SIM_SUBMISSIONS_MAX, "queue",
              mood->queue_max);
    sim.mood = *mood;
}

void sim_finish(void)
{
    for (uint32_t i = 0; i < SIM_DESCRIPTORS_MAX; i++)
        SIM_CHECK(sim.descriptors[i].kind == SIM_CLOSED || sim.descriptors[i].kind == SIM_LISTENER,
                  "descriptor leaked", sim.descriptors[i].kind);
}
