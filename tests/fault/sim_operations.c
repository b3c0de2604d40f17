/* sim_operations.c: what the simulated kernel does with operations under way. */
#include "sim_kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

struct sim_operation *sim_look(uint8_t operation, uint32_t index, uint32_t generation, bool copied)
{
    for (uint32_t i = 0; i < sim.operations_count; i++) {
        struct sim_operation *found = &sim.operations[i];
        if (found->operation == operation && found->index == index &&
            found->generation == generation && found->copied == copied)
            return found;
    }
    return NULL;
}

struct sim_operation *sim_find(uint8_t operation, uint32_t index, uint32_t generation)
{
    return sim_look(operation, index, generation, false);
}

/* The loop has looked at all events that it took. */
void sim_forget(void)
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

void sim_post(const struct ru_event *event)
{
    uint32_t waiting = sim.events_tail - sim.events_head;
    SIM_CHECK(waiting < SIM_EVENTS_MAX, "no event left for the test itself", waiting);
    if (waiting == sim.visible && waiting < sim.mood.events_max)
        sim.visible++;
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

struct sim_datagram *sim_next_datagram(uint32_t number)
{
    struct sim_listening *listener = &sim.listening[number];
    if (listener->count == 0)
        return NULL;
    listener->count--;
    sim.totals.datagrams_received++;
    return &listener->datagrams[listener->first++ % SIM_QUEUE_MAX];
}

/* Fill a slot; the record of the address that was asked is the name again. */
void sim_fill_slot(uint32_t number, uint32_t slot, const struct sim_datagram *datagram,
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
bool sim_step(struct sim_operation *operation)
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
