/* backend_sim.c: a seeded fake kernel, for tests only.
 *
 * An operation is live from its start until the loop has reaped its end; in between the kernel may
 * do whatever a real one may, as late and in whatever order it likes. Lent memory is overwritten
 * when it is lent, and memory of operations in flight is compared when it is used, so that a node
 * that touches either too early gives itself away.
 */
#include "backend_sim.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/futex.h>
#include <time.h>
#include <unistd.h>

#include "wire/fast.h"
#include "memory/token.h"

#define SIM_SLOTS_MAX 64
#define SIM_BUFFERS_MAX 64
#define SIM_OPERATIONS_MAX 256
#define SIM_EVENTS_MAX 4096
#define SIM_SUBMISSIONS_MAX 64
#define SIM_DESCRIPTORS_MAX 64
#define SIM_QUEUE_MAX 16 /* datagrams in a socket; connections in a backlog */
#define SIM_DATAGRAM_MAX 1600
#define SIM_STREAM_MAX 8192 /* bytes in a receive buffer */
#define SIM_SUM_BYTES 512   /* compared at either end of memory in flight */
#define SIM_WORDS_MAX 16

struct sim_datagram {
    uint32_t name;
    uint32_t size;
    uint8_t bytes[SIM_DATAGRAM_MAX];
};

struct sim_listening {
    uint32_t backlog[SIM_QUEUE_MAX];
    uint32_t backlog_count;
    bool shut;
    bool filtered;
    struct sim_datagram datagrams[SIM_QUEUE_MAX];
    uint32_t first, count;
};

struct sim_socket {
    bool used, accepted;
    bool elsewhere;   /* another process has it open, too */
    bool shut;        /* the node has ended its half */
    uint32_t holders; /* descriptors of any process */
    bool ended, reset;
    uint32_t name;
    uint32_t room; /* bytes that the peer would still take */
    uint32_t size;
    uint8_t bytes[SIM_STREAM_MAX];
};

enum sim_descriptor_kind {
    SIM_CLOSED,
    SIM_LISTENER,
    SIM_SOCKET,
    SIM_LEAVING, /* a socket that closes behind its last send */
    SIM_CLOSING, /* a socket whose close is queued */
    SIM_NULL_DEVICE,
};
struct sim_descriptor {
    uint8_t kind;
    bool lingers_not;
    bool forgotten; /* the backend has been told that it lives on elsewhere */
    uint32_t peer;
};

struct sim_operation {
    uint8_t operation;
    bool once, submitted, cancelled, told;
    bool last;   /* the descriptor closes behind it */
    bool copied; /* its end is among the events that the loop looks at now */
    uint32_t index, generation;
    int fd;
    uint32_t waiting; /* events not reaped */
    uint8_t *into;
    const uint8_t *from;
    uint32_t size, sum;
    uint32_t done; /* of a last send */
};

enum sim_submission_kind {
    SIM_SUBMIT_START,
    SIM_SUBMIT_CANCEL,
    SIM_SUBMIT_CLOSE,
    SIM_SUBMIT_DATAGRAM,
};
struct sim_submission {
    uint8_t kind, operation;
    bool controlled;
    uint32_t index, generation; /* or listener and slot */
    int fd;
    const uint8_t *bytes;
    uint32_t size, sum;
};

/* A provided-buffer ring: what was lent in the order of lending. */
struct sim_group {
    uint32_t ring[SIM_SLOTS_MAX];
    uint32_t count, visible;
    bool lent[SIM_SLOTS_MAX]; /* until the event has been reaped */
};
_Static_assert(SIM_BUFFERS_MAX <= SIM_SLOTS_MAX, "one kind of ring");

/* One kernel at a time, for the replaced system calls know of no object. */
static struct {
    struct sim_world world;
    struct sim_mood mood;
    struct ru_random random;
    uint64_t now_ns;
    struct ru_backend *backend;
    bool in_world;
    int wake_fd;
    bool wake;
    bool overflowed;
    bool received_now;
    struct sim_totals totals;
    int other; /* the channel to another process */
    bool other_ended;
    uint32_t other_room;
    uint32_t descriptors_used; /* against the limit */
    struct sim_descriptor descriptors[SIM_DESCRIPTORS_MAX];
    struct sim_socket sockets[SIM_PEERS_MAX];
    struct sim_listening listening[SIM_LISTENERS_MAX];
    struct sim_group slots, buffers;
    struct sim_operation operations[SIM_OPERATIONS_MAX];
    uint32_t operations_count;
    struct sim_submission submissions[SIM_SUBMISSIONS_MAX];
    uint32_t submissions_count;
    struct ru_event events[SIM_EVENTS_MAX];
    uint32_t events_head, events_tail;
    const uint32_t *woken[SIM_WORDS_MAX];
    uint32_t woken_count;
} sim;

/* ---- chance and time ---- */

_Noreturn void sim_fail(const char *what, uint64_t value)
{
    (void)fprintf(stderr, "sim: %s (%llu)\n", what, (unsigned long long)value);
    abort();
}

#define SIM_CHECK(condition, what, value)                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail(what, value);                                                                 \
    } while (0)

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

void sim_pass(uint64_t ns)
{
    sim.now_ns += ns;
}

static void sim_turn(bool sleeping)
{
    if (sim.in_world)
        return;
    sim.in_world = true;
    sim.world.turn(sim.world.self, sleeping);
    sim.in_world = false;
}

/* Other threads run at any time; every call of the loop is a place where they may have. */
static void sim_elsewhere(void)
{
    if (!sim.in_world && sim.backend && sim_chance(20))
        sim_turn(false);
}

static uint32_t sim_sum(const uint8_t *bytes, uint32_t size)
{
    uint32_t part = size < SIM_SUM_BYTES ? size : SIM_SUM_BYTES;
    uint32_t sum = size;
    for (uint32_t i = 0; i < part; i++)
        sum = (sum ^ bytes[i] ^ (uint32_t)bytes[size - 1 - i] << 8) * 0x01000193U;
    return sum;
}

/* ---- descriptors ---- */

static int sim_allocate(enum sim_descriptor_kind kind, uint32_t peer)
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

static struct sim_descriptor *sim_descriptor(int fd)
{
    SIM_CHECK(fd >= SIM_FD && fd < SIM_FD + SIM_DESCRIPTORS_MAX, "not a descriptor", (uint64_t)fd);
    return &sim.descriptors[fd - SIM_FD];
}

static struct sim_socket *sim_socket(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(descriptor->kind == SIM_SOCKET, "operation on a closed descriptor", (uint64_t)fd);
    return &sim.sockets[descriptor->peer];
}

static void sim_no_operation_on(int fd)
{
    for (uint32_t i = 0; i < sim.operations_count; i++)
        SIM_CHECK(sim.operations[i].fd != fd, "closed with an operation in flight",
                  sim.operations[i].operation);
}

static void sim_let_go(struct sim_socket *socket)
{
    socket->used = --socket->holders > 0;
}

static void sim_close_now(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(descriptor->kind != SIM_CLOSED && descriptor->kind != SIM_LISTENER, "closed twice",
              (uint64_t)fd);
    if (descriptor->kind != SIM_NULL_DEVICE)
        sim_let_go(&sim.sockets[descriptor->peer]);
    descriptor->kind = SIM_CLOSED;
    sim.descriptors_used--;
}

static void sim_closing(int fd)
{
    struct sim_descriptor *descriptor = sim_descriptor(fd);
    SIM_CHECK(!sim_socket(fd)->elsewhere || descriptor->forgotten,
              "closed and still watched, as another process has it open", (uint64_t)fd);
    sim_no_operation_on(fd);
    sim.world.closing(sim.world.self, descriptor->peer, fd, descriptor->lingers_not);
    descriptor->kind = SIM_CLOSING;
}

static int sim_accept_from(uint32_t number)
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

/* ---- operations ---- */

static struct sim_operation *sim_look(uint8_t operation, uint32_t index, uint32_t generation,
                                      bool copied)
{
    for (uint32_t i = 0; i < sim.operations_count; i++) {
        struct sim_operation *found = &sim.operations[i];
        if (found->operation == operation && found->index == index &&
            found->generation == generation && found->copied == copied)
            return found;
    }
    return NULL;
}

static struct sim_operation *sim_find(uint8_t operation, uint32_t index, uint32_t generation)
{
    return sim_look(operation, index, generation, false);
}

/* The loop has looked at all events that it took. */
static void sim_forget(void)
{
    for (uint32_t i = 0; i < sim.operations_count;)
        if (sim.operations[i].copied)
            sim.operations[i] = sim.operations[--sim.operations_count];
        else
            i++;
}

bool sim_operation_live(enum ru_operation operation, uint32_t index, uint32_t generation, int fd)
{
    const struct sim_operation *found = sim_find((uint8_t)operation, index, generation);
    return found && (fd < 0 || found->fd == fd);
}

uint32_t sim_operations(void)
{
    return sim.operations_count;
}

bool sim_wake_pending(void)
{
    for (uint32_t i = sim.events_head; i != sim.events_tail; i++)
        if (sim.events[i % SIM_EVENTS_MAX].operation == RU_OP_WAKE)
            return true;
    return sim.wake;
}

uint32_t sim_listener_left(uint32_t listener)
{
    return sim.listening[listener].count + sim.listening[listener].backlog_count;
}

const struct sim_totals *sim_totals(void)
{
    return &sim.totals;
}

static void sim_post(const struct ru_event *event)
{
    uint32_t waiting = sim.events_tail - sim.events_head;
    SIM_CHECK(waiting < SIM_EVENTS_MAX, "no event left for the test itself", waiting);
    sim.overflowed |= waiting >= sim.mood.events_max;
    sim.events[sim.events_tail++ % SIM_EVENTS_MAX] = *event;
}

static bool sim_tell(struct sim_operation *operation, int32_t result, bool ended, uint32_t buffer)
{
    /* A multishot operation ends, too, when its event finds no room in the queue. */
    ended |= operation->once || result < 0 ||
             sim.events_tail - sim.events_head >= sim.mood.events_max || sim_chance(sim.mood.ends);
    sim_post(&(struct ru_event){.operation = operation->operation,
                                .ended = ended,
                                .index = operation->index,
                                .generation = operation->generation,
                                .result = result,
                                .buffer = buffer});
    operation->waiting++;
    operation->told = ended;
    return true;
}

static uint32_t sim_take_lent(struct sim_group *group)
{
    if (group->visible == 0)
        return RU_NONE;
    uint32_t number = group->ring[0];
    group->count--;
    group->visible--;
    memmove(group->ring, group->ring + 1, group->count * sizeof(uint32_t));
    return number;
}

static bool sim_step_accept(struct sim_operation *operation)
{
    if (sim_chance(sim.mood.fails))
        return sim_tell(operation, sim_chance(128) ? -ECONNABORTED : -ENOBUFS, true, RU_NONE);
    int fd = sim_accept_from(operation->index);
    return fd != -EAGAIN && sim_tell(operation, fd, false, RU_NONE);
}

static struct sim_datagram *sim_next_datagram(uint32_t number)
{
    struct sim_listening *listener = &sim.listening[number];
    if (listener->count == 0)
        return NULL;
    listener->count--;
    sim.totals.datagrams_received++;
    return &listener->datagrams[listener->first++ % SIM_QUEUE_MAX];
}

/* Fill a slot; the record of the address that was asked is the name again. */
static void sim_fill_slot(uint32_t number, uint32_t slot, const struct sim_datagram *datagram,
                          struct ru_event *event)
{
    const struct ru_arena *arena = sim.backend->setup.arena;
    uint8_t *at = arena->base + ru_arena_slot_at(arena, slot);
    struct sockaddr_in peer = {.sin_family = AF_INET,
                               .sin_port = (in_port_t)datagram->name,
                               .sin_addr = {.s_addr = htonl(datagram->name)}};
    event->truncated = datagram->size > arena->payload_size;
    event->result = (int32_t)(event->truncated ? arena->payload_size : datagram->size);
    event->controlled = sim.backend->setup.config->listeners[number].wildcard != 0;
    event->buffer = slot;
    memcpy(at + RU_SLOT_HEAD, &peer, sizeof(peer));
    if (event->controlled)
        memcpy(at + RU_SLOT_HEAD + RU_PEER_SIZE, &datagram->name, sizeof(datagram->name));
    memcpy(at + arena->payload_at, datagram->bytes, (size_t)event->result);
}

static bool sim_step_datagrams(struct sim_operation *operation)
{
    if (sim.slots.visible == 0)
        return sim_tell(operation, -ENOBUFS, true, RU_NONE);
    if (sim_chance(sim.mood.fails)) /* with or without the buffer that was chosen for it */
        return sim_tell(operation, -ENOMEM, true,
                        sim_chance(128) ? sim_take_lent(&sim.slots) : RU_NONE);
    const struct sim_datagram *datagram = sim_next_datagram(operation->index);
    if (!datagram)
        return false;
    struct ru_event filled;
    sim_fill_slot(operation->index, sim_take_lent(&sim.slots), datagram, &filled);
    sim_tell(operation, filled.result, filled.result == 0, filled.buffer);
    struct ru_event *told = &sim.events[(sim.events_tail - 1) % SIM_EVENTS_MAX];
    told->truncated = filled.truncated;
    told->controlled = filled.controlled;
    return true;
}

static uint32_t sim_take_bytes(struct sim_socket *socket, uint8_t *to, uint32_t size)
{
    uint32_t part = socket->size < size ? socket->size : size;
    if (sim_chance(96))
        part = 1 + sim_below(part);
    memcpy(to, socket->bytes, part);
    socket->size -= part;
    memmove(socket->bytes, socket->bytes + part, socket->size);
    return part;
}

static bool sim_step_receive(struct sim_operation *operation)
{
    struct sim_socket *socket = sim_socket(operation->fd);
    bool lends = operation->into == NULL;
    if (lends && sim.buffers.visible == 0)
        return sim_tell(operation, -ENOBUFS, true, RU_NONE);
    if (socket->reset && (socket->size == 0 || sim_chance(128)))
        return sim_tell(operation, -ECONNRESET, true, RU_NONE);
    if (sim_chance(sim.mood.fails / 4U))
        return sim_tell(operation, -ETIMEDOUT, true, RU_NONE);
    if (socket->size == 0 && !socket->ended)
        return false;
    if (socket->size == 0)
        return sim_tell(operation, 0, true,
                        lends && sim_chance(128) ? sim_take_lent(&sim.buffers) : RU_NONE);
    uint32_t buffer = lends ? sim_take_lent(&sim.buffers) : RU_NONE;
    uint8_t *to =
        lends ? sim.backend->setup.tcp_buffers + (size_t)buffer * RU_TCP_BUFFER : operation->into;
    uint32_t size = sim_take_bytes(socket, to, lends ? RU_TCP_BUFFER : operation->size);
    return sim_tell(operation, (int32_t)size, !lends, buffer);
}

/* The end of a send; of the last one, also of its descriptor. */
static bool sim_end_send(struct sim_operation *operation, int32_t result)
{
    if (operation->last) {
        sim_close_now(operation->fd);
        if (operation->done > 0)
            result = (int32_t)operation->done;
        operation->fd = -1;
    }
    return sim_tell(operation, result, true, RU_NONE);
}

static bool sim_step_send(struct sim_operation *operation)
{
    uint32_t peer = sim_descriptor(operation->fd)->peer;
    struct sim_socket *socket = &sim.sockets[peer];
    SIM_CHECK(sim_sum(operation->from, operation->size) == operation->sum,
              "memory changed while it was sent", operation->index);
    SIM_CHECK(!socket->shut, "sent behind the end", operation->index);
    if (operation->cancelled && sim_chance(160))
        return sim_end_send(operation, -ECANCELED);
    if (socket->reset)
        return sim_end_send(operation, sim_chance(128) ? -EPIPE : -ECONNRESET);
    uint32_t rest = operation->size - operation->done;
    uint32_t part = rest < socket->room ? rest : socket->room;
    if (part == 0)
        return false;
    if (sim_chance(96))
        part = 1 + sim_below(part);
    socket->room -= part;
    sim.world.stream(sim.world.self, peer, operation->from + operation->done, part);
    if (!operation->last)
        return sim_end_send(operation, (int32_t)part);
    operation->done += part;
    return operation->done == operation->size && sim_end_send(operation, 0);
}

static bool sim_step_wake(struct sim_operation *operation)
{
    if (!sim.wake)
        return false;
    sim.wake = false;
    return sim_tell(operation, 1, false, RU_NONE);
}

/* Let one operation get on; true if it had something to tell. */
static bool sim_step(struct sim_operation *operation)
{
    if (!operation->submitted || operation->told || sim_chance(sim.mood.late))
        return false;
    if (operation->cancelled && operation->operation != RU_OP_SEND &&
        sim_chance(160)) /* else with a result first, if there is one */
        return sim_tell(operation, -ECANCELED, true, RU_NONE);
    switch ((enum ru_operation)operation->operation) {
    case RU_OP_WAKE:
        return sim_step_wake(operation);
    case RU_OP_ACCEPT:
        return sim_step_accept(operation);
    case RU_OP_DATAGRAMS:
        return sim_step_datagrams(operation);
    case RU_OP_RECEIVE:
        return sim_step_receive(operation);
    case RU_OP_SEND:
        return sim_step_send(operation);
    case RU_OP_SEND_DATAGRAM:
    case RU_OP_IGNORED:
        break;
    }
    sim_fail("no such operation", operation->operation);
}

/* ---- submission ---- */

static void sim_submit_cancel(const struct sim_submission *submission)
{
    struct sim_operation *operation =
        sim_find(submission->operation, submission->index, submission->generation);
    if (!operation || operation->told)
        return; /* it ended first */
    /* A receive that is just reporting is not found; the loop asks again when it hears of it. */
    bool missed = operation->operation == RU_OP_RECEIVE && operation->waiting > 0 && sim_chance(64);
    operation->cancelled |= !missed;
}

static void sim_submit_datagram(const struct sim_submission *submission)
{
    const struct ru_arena *arena = sim.backend->setup.arena;
    const uint8_t *at = arena->base + ru_arena_slot_at(arena, submission->generation);
    struct sockaddr_in peer;
    uint32_t asked;
    SIM_CHECK(sim_sum(submission->bytes, submission->size) == submission->sum,
              "datagram changed before it was sent", submission->generation);
    memcpy(&peer, at + RU_SLOT_HEAD, sizeof(peer));
    memcpy(&asked, at + RU_SLOT_HEAD + RU_PEER_SIZE, sizeof(asked));
    bool wildcard = sim.backend->setup.config->listeners[submission->index].wildcard != 0;
    SIM_CHECK(submission->controlled == wildcard, "sent from another address", submission->index);
    uint32_t name = ntohl(peer.sin_addr.s_addr);
    SIM_CHECK(!wildcard || asked == name, "asked at another address", asked);
    if (sim_chance(sim.mood.send_fails)) {
        sim.totals.datagrams_failed++;
        sim_post(&(struct ru_event){.operation = RU_OP_SEND_DATAGRAM,
                                    .ended = true,
                                    .index = submission->index,
                                    .result = sim_chance(128) ? -EAGAIN : -EPERM,
                                    .buffer = RU_NONE});
        return;
    }
    sim.totals.datagrams_sent++;
    sim.world.datagram(sim.world.self, name, submission->bytes, submission->size);
}

static void sim_submit(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct sim_submission *submission = &sim.submissions[i];
        switch ((enum sim_submission_kind)submission->kind) {
        case SIM_SUBMIT_START:
            sim_find(submission->operation, submission->index, submission->generation)->submitted =
                true;
            break;
        case SIM_SUBMIT_CANCEL:
            sim_submit_cancel(submission);
            break;
        case SIM_SUBMIT_CLOSE:
            sim_close_now(submission->fd);
            break;
        case SIM_SUBMIT_DATAGRAM:
            sim_submit_datagram(submission);
            break;
        }
    }
    sim.submissions_count -= count;
    memmove(sim.submissions, sim.submissions + count,
            sim.submissions_count * sizeof(*sim.submissions));
}

static void sim_queue(const struct sim_submission *submission)
{
    sim_elsewhere();
    if (sim.submissions_count == sim.mood.queue_max)
        sim_submit(sim.submissions_count);
    sim.submissions[sim.submissions_count++] = *submission;
}

static void sim_begin(const struct sim_operation *operation)
{
    SIM_CHECK(!sim_find(operation->operation, operation->index, operation->generation),
              "started while it is in flight", operation->operation);
    SIM_CHECK(sim.operations_count < SIM_OPERATIONS_MAX, "operations", sim.operations_count);
    sim.operations[sim.operations_count++] = *operation;
    sim_queue(&(struct sim_submission){.kind = SIM_SUBMIT_START,
                                       .operation = operation->operation,
                                       .index = operation->index,
                                       .generation = operation->generation});
}

/* ---- the table ---- */

static int sim_open(struct ru_backend **backend, const struct ru_backend_setup *setup)
{
    struct ru_backend *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    SIM_CHECK(setup->arena->slots <= SIM_SLOTS_MAX, "slots", setup->arena->slots);
    SIM_CHECK(setup->config->tcp_buffers <= SIM_BUFFERS_MAX, "buffers", setup->config->tcp_buffers);
    *made = (struct ru_backend){.ops = &ru_backend_sim, .setup = *setup, .tier = "simulated"};
    *backend = sim.backend = made;
    return 0;
}

static void sim_close(struct ru_backend *backend)
{
    SIM_CHECK(sim.operations_count == 0, "backend closed with operations in flight",
              sim.operations_count);
    SIM_CHECK(sim.submissions_count == 0, "backend closed with submissions queued",
              sim.submissions_count);
    sim.backend = NULL;
    free(backend);
}

static void sim_watch_wake(struct ru_backend *backend)
{
    (void)backend;
    sim_begin(&(struct sim_operation){.operation = RU_OP_WAKE, .fd = -1});
}

static void sim_accept(struct ru_backend *backend, uint32_t listener)
{
    (void)backend;
    sim_begin(&(struct sim_operation){.operation = RU_OP_ACCEPT, .index = listener, .fd = -1});
}

static void sim_receive_datagrams(struct ru_backend *backend, uint32_t listener)
{
    (void)backend;
    SIM_CHECK(!sim.received_now, "receives while it drains", listener);
    sim_begin(&(struct sim_operation){.operation = RU_OP_DATAGRAMS, .index = listener, .fd = -1});
}

static void sim_receive(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                        bool once)
{
    (void)backend;
    (void)sim_socket(fd);
    sim_begin(&(struct sim_operation){.operation = RU_OP_RECEIVE,
                                      .index = conn,
                                      .generation = generation,
                                      .fd = fd,
                                      .once = once});
}

static void sim_receive_into(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                             uint8_t *bytes, uint32_t size)
{
    (void)backend;
    (void)sim_socket(fd);
    SIM_CHECK(size > 0, "nothing to receive into", conn);
    sim_begin(&(struct sim_operation){.operation = RU_OP_RECEIVE,
                                      .index = conn,
                                      .generation = generation,
                                      .fd = fd,
                                      .once = true,
                                      .into = bytes,
                                      .size = size});
}

static void sim_send(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                     const uint8_t *bytes, uint32_t size)
{
    (void)backend;
    (void)sim_socket(fd);
    SIM_CHECK(size > 0, "nothing to send", conn);
    sim_begin(&(struct sim_operation){.operation = RU_OP_SEND,
                                      .index = conn,
                                      .generation = generation,
                                      .fd = fd,
                                      .once = true,
                                      .from = bytes,
                                      .size = size,
                                      .sum = sim_sum(bytes, size)});
}

static void sim_send_last(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                          const uint8_t *bytes, uint32_t size)
{
    sim_no_operation_on(fd);
    sim_send(backend, conn, generation, fd, bytes, size);
    sim_descriptor(fd)->kind = SIM_LEAVING;
    sim_find(RU_OP_SEND, conn, generation)->last = true;
}

static void sim_send_datagram(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                              const uint8_t *bytes, uint32_t size, bool controlled)
{
    (void)backend;
    SIM_CHECK(!sim.slots.lent[slot], "sends from a slot that is lent", slot);
    sim_queue(&(struct sim_submission){.kind = SIM_SUBMIT_DATAGRAM,
                                       .index = listener,
                                       .generation = slot,
                                       .controlled = controlled,
                                       .bytes = bytes,
                                       .size = size,
                                       .sum = sim_sum(bytes, size)});
}

static bool sim_datagrams_sent(struct ru_backend *backend)
{
    (void)backend;
    return sim.submissions_count == 0;
}

static void sim_cancel(struct ru_backend *backend, enum ru_operation operation, uint32_t index,
                       uint32_t generation)
{
    (void)backend;
    SIM_CHECK(sim_find((uint8_t)operation, index, generation) ||
                  sim_look((uint8_t)operation, index, generation, true),
              "cancels nothing", operation);
    sim_queue(&(struct sim_submission){.kind = SIM_SUBMIT_CANCEL,
                                       .operation = (uint8_t)operation,
                                       .index = index,
                                       .generation = generation});
}

static void sim_forget_descriptor(struct ru_backend *backend, int fd)
{
    (void)backend;
    sim_descriptor(fd)->forgotten = true;
}

static void sim_close_descriptor(struct ru_backend *backend, int fd)
{
    (void)backend;
    sim_closing(fd);
    sim_queue(&(struct sim_submission){.kind = SIM_SUBMIT_CLOSE, .fd = fd});
}

static void sim_lend(struct sim_group *group, uint32_t number, uint8_t *bytes, size_t size)
{
    SIM_CHECK(!group->lent[number], "lent twice", number);
    group->lent[number] = true;
    group->ring[group->count++] = number;
    memset(bytes, 0xA5, size); /* the kernel may write there from now on */
    sim_elsewhere();
}

static void sim_lend_slot(struct ru_backend *backend, uint32_t slot)
{
    const struct ru_arena *arena = backend->setup.arena;
    sim_lend(&sim.slots, slot, arena->base + ru_arena_slot_at(arena, slot),
             arena->payload_at + arena->payload_size);
}

static void sim_lend_buffer(struct ru_backend *backend, uint32_t buffer)
{
    uint8_t *buffers = backend->setup.tcp_buffers;
    sim_lend(&sim.buffers, buffer, buffers + (size_t)buffer * RU_TCP_BUFFER, RU_TCP_BUFFER);
}

bool sim_slot_lent(uint32_t slot)
{
    return sim.slots.lent[slot];
}

bool sim_buffer_lent(uint32_t buffer)
{
    return sim.buffers.lent[buffer];
}

static uint32_t sim_get_on(void)
{
    uint32_t told = 0;
    if (sim.operations_count > 0)
        for (uint32_t tries = 1 + sim_below(2 * sim.operations_count); tries > 0; tries--)
            told += sim_step(&sim.operations[sim_below(sim.operations_count)]);
    return told;
}

static int sim_wait(struct ru_backend *backend, uint64_t timeout_ns, uint64_t spin_ns)
{
    (void)backend;
    (void)spin_ns;
    uint64_t end_ns = sim.now_ns + timeout_ns;
    sim_forget();
    sim.slots.visible = sim.slots.count;
    sim.buffers.visible = sim.buffers.count;
    sim.in_world = true;
    sim.world.lap(sim.world.self, timeout_ns > 0);
    sim.in_world = false;
    sim_submit(timeout_ns > 0 && sim_chance(sim.mood.split) ? sim_below(sim.submissions_count + 1)
                                                            : sim.submissions_count);
    for (uint32_t turns = 0;; turns++) {
        (void)sim_get_on();
        if (timeout_ns == 0 || sim.events_head != sim.events_tail || sim.now_ns >= end_ns)
            break;
        uint64_t rest_ns = end_ns - sim.now_ns;
        uint64_t step_ns = 1000ULL << sim_below(17);
        sim_pass(step_ns > rest_ns || turns > 12 ? rest_ns : step_ns);
        sim_turn(true);
    }
    sim_pass(sim_below(20000));
    return 0;
}

static void sim_reaped(const struct ru_event *event)
{
    if (event->operation == RU_OP_SEND_DATAGRAM)
        return;
    struct sim_operation *operation = sim_find(event->operation, event->index, event->generation);
    SIM_CHECK(operation && operation->waiting > 0, "event of no operation", event->operation);
    operation->waiting--;
    if (event->buffer != RU_NONE)
        (event->operation == RU_OP_DATAGRAMS ? &sim.slots : &sim.buffers)->lent[event->buffer] =
            false;
    if (event->ended) {
        operation->copied = true;
        operation->fd = -1;
    }
}

static uint32_t sim_reap(struct ru_backend *backend, struct ru_event *events, uint32_t count)
{
    uint32_t used = 0;
    (void)backend;
    sim_forget();
    sim_elsewhere();
    while (used < count && sim.events_head != sim.events_tail) {
        events[used] = sim.events[sim.events_head++ % SIM_EVENTS_MAX];
        sim_reaped(&events[used++]);
    }
    return used;
}

static bool sim_saw_all(const struct ru_backend *backend)
{
    (void)backend; /* it is late as it likes anyway */
    return true;
}

static bool sim_was_overflowed(struct ru_backend *backend)
{
    (void)backend;
    bool overflowed = sim.overflowed;
    sim.overflowed = false;
    return overflowed;
}

static bool sim_receive_now(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                            struct ru_event *event)
{
    (void)backend;
    SIM_CHECK(!sim_find(RU_OP_DATAGRAMS, listener, 0), "drains while it receives", listener);
    sim.received_now = true;
    sim.slots.lent[slot] = false; /* the ring's last word on slots was when its receive ended */
    const struct sim_datagram *datagram = sim_next_datagram(listener);
    if (!datagram)
        return false;
    *event = (struct ru_event){.operation = RU_OP_DATAGRAMS, .index = listener};
    sim_fill_slot(listener, slot, datagram, event);
    return true;
}

const struct ru_backend_ops ru_backend_sim = {
    .open = sim_open,
    .close = sim_close,
    .watch_wake = sim_watch_wake,
    .accept = sim_accept,
    .receive_datagrams = sim_receive_datagrams,
    .receive = sim_receive,
    .receive_into = sim_receive_into,
    .send = sim_send,
    .send_last = sim_send_last,
    .send_datagram = sim_send_datagram,
    .datagrams_sent = sim_datagrams_sent,
    .cancel = sim_cancel,
    .close_descriptor = sim_close_descriptor,
    .forget_descriptor = sim_forget_descriptor,
    .lend_slot = sim_lend_slot,
    .lend_buffer = sim_lend_buffer,
    .wait = sim_wait,
    .reap = sim_reap,
    .saw_all = sim_saw_all,
    .overflowed = sim_was_overflowed,
    .receive_now = sim_receive_now,
};

/* ---- the system calls that the data plane makes besides ---- */

int __real_close(int fd);
int __real_open(const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *bytes, size_t size);
int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *size, int flags);
int __wrap_close(int fd);
int __wrap_open(const char *path, int flags, ...);
int __wrap_getpeername(int fd, struct sockaddr *peer, socklen_t *size);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_shutdown(int fd, int how);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);
long __wrap_syscall(long number, ...);

static int sim_errno(int result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *size, int flags)
{
    (void)peer;
    (void)size;
    (void)flags;
    return sim_errno(sim_accept_from(sim_descriptor(fd)->peer));
}

int __wrap_close(int fd)
{
    if (fd < SIM_FD)
        return __real_close(fd);
    if (sim_descriptor(fd)->kind == SIM_SOCKET)
        sim_closing(fd);
    sim_close_now(fd);
    return 0;
}

int __wrap_open(const char *path, int flags, ...)
{
    if (strcmp(path, "/dev/null") != 0)
        return __real_open(path, flags);
    return sim_errno(sim_allocate(SIM_NULL_DEVICE, 0));
}

int __wrap_getpeername(int fd, struct sockaddr *peer, socklen_t *size)
{
    const struct sim_socket *socket = sim_socket(fd);
    const struct sockaddr_in name = {.sin_family = AF_INET,
                                     .sin_port = (in_port_t)socket->name,
                                     .sin_addr = {.s_addr = htonl(socket->name)}};
    if (socket->reset)
        return sim_errno(-ENOTCONN);
    memcpy(peer, &name, sizeof(name));
    *size = sizeof(name);
    return 0;
}

/* A descriptor for another process; the byte that goes with it is the listener. */
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int passed;
    (void)flags;
    SIM_CHECK(fd == sim.other && head, "no descriptor, or not the channel", (uint64_t)fd);
    memcpy(&passed, CMSG_DATA(head), sizeof(passed));
    if (sim.other_ended)
        return sim_errno(-EPIPE);
    if (sim.other_room == 0)
        return sim_errno(-EAGAIN);
    if (sim_chance(sim.mood.fails))
        return sim_errno(-ETOOMANYREFS);
    struct sim_socket *socket = sim_socket(passed);
    sim_no_operation_on(passed);
    sim.world.passing(sim.world.self, sim_descriptor(passed)->peer);
    sim.other_room--;
    socket->elsewhere = true;
    socket->holders++;
    return (ssize_t)message->msg_iov->iov_len;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)level;
    (void)value;
    (void)size;
    if (name == SO_LINGER)
        sim_descriptor(fd)->lingers_not = true;
    else if (name == SO_ATTACH_FILTER)
        sim.listening[sim_descriptor(fd)->peer].filtered = true;
    return 0;
}

int __wrap_shutdown(int fd, int how)
{
    if (how == SHUT_WR) {
        struct sim_socket *socket = sim_socket(fd);
        SIM_CHECK(!socket->shut, "ended twice", (uint64_t)fd);
        socket->shut = true;
        return socket->reset ? sim_errno(-ENOTCONN) : 0;
    }
    struct sim_listening *listener = &sim.listening[sim_descriptor(fd)->peer];
    listener->shut = true;
    for (uint32_t i = 0; i < listener->backlog_count; i++)
        sim.sockets[listener->backlog[i]].used = false;
    listener->backlog_count = 0;
    return 0;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t size)
{
    if (fd != sim.wake_fd)
        return __real_write(fd, bytes, size);
    sim.wake = true;
    return (ssize_t)size;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    (void)clock;
    sim_elsewhere();
    *now = (struct timespec){.tv_sec = (time_t)(sim.now_ns / 1000000000ULL),
                             .tv_nsec = (long)(sim.now_ns % 1000000000ULL)};
    return 0;
}

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    ru_random_fill(&sim.random, bytes, size);
    return (ssize_t)size;
}

/* Only futexes: a worker that waits lets time pass; who is woken may run at once. */
long __wrap_syscall(long number, ...)
{
    va_list arguments;
    va_start(arguments, number);
    const uint32_t *word = va_arg(arguments, const uint32_t *);
    int operation = va_arg(arguments, int);
    va_end(arguments);
    SIM_CHECK(number == SYS_futex, "system call", (uint64_t)number);
    if (operation == FUTEX_WAIT) {
        sim_pass(1000000ULL * (1 + sim_below(20)));
        return 0;
    }
    for (uint32_t i = 0; i < sim.woken_count; i++)
        if (sim.woken[i] == word)
            return 0;
    SIM_CHECK(sim.woken_count < SIM_WORDS_MAX, "futex words", sim.woken_count);
    sim.woken[sim.woken_count++] = word;
    if (sim_chance(128))
        sim_turn(false);
    return 0;
}

bool sim_futex_woken(const uint32_t *word)
{
    for (uint32_t i = 0; i < sim.woken_count; i++) {
        if (sim.woken[i] != word)
            continue;
        sim.woken[i] = sim.woken[--sim.woken_count];
        return true;
    }
    return false;
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
