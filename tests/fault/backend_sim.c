/* backend_sim.c: a seeded fake kernel, for tests only.
 *
 * An operation is live from its start until the loop has reaped its end; in between the kernel may
 * do whatever a real one may, as late and in whatever order it likes. Lent memory is overwritten
 * when it is lent, and memory of operations in flight is compared when it is used, so that a node
 * that touches either too early gives itself away.
 */
#include "sim_kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

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

static void sim_get_on(void)
{
    if (sim.operations_count > 0)
        for (uint32_t tries = 1 + sim_below(2 * sim.operations_count); tries > 0; tries--)
            (void)sim_step(&sim.operations[sim_below(sim.operations_count)]);
}

/* What had overflowed the completion queue moves up, as far as there is room. */
static void sim_fetch(void)
{
    uint32_t waiting = sim.events_tail - sim.events_head;
    sim.visible = waiting < sim.mood.events_max ? waiting : sim.mood.events_max;
}

static void sim_queue(const struct sim_submission *submission)
{
    sim_elsewhere();
    if (sim.submissions_count == sim.mood.queue_max) { /* as a ring: submits, and fetches events */
        sim_submit(sim.submissions_count);
        sim_get_on();
        sim_fetch();
    }
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
        sim_get_on();
        if (timeout_ns == 0 || sim.events_head != sim.events_tail || sim.now_ns >= end_ns)
            break;
        uint64_t rest_ns = end_ns - sim.now_ns;
        uint64_t step_ns = 1000ULL << sim_below(17);
        sim_pass(step_ns > rest_ns || turns > 12 ? rest_ns : step_ns);
        sim_turn(true);
    }
    sim_pass(sim_below(20000));
    sim_fetch();
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
    for (; used < count && sim.visible > 0; sim.visible--) {
        events[used] = sim.events[sim.events_head++ % SIM_EVENTS_MAX];
        sim_reaped(&events[used++]);
    }
    return used;
}

static bool sim_overflowed(struct ru_backend *backend)
{
    (void)backend;
    return sim.events_tail - sim.events_head > sim.visible;
}

static bool sim_saw_all(const struct ru_backend *backend)
{
    (void)backend;
    return sim.events_tail - sim.events_head == sim.visible;
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
    .overflowed = sim_overflowed,
    .receive_now = sim_receive_now,
};
