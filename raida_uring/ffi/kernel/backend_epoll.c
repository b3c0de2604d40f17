/* backend_epoll.c: the epoll backend: completion events built from socket readiness.
 *
 * What the kernel does:
 * - Edge-triggered, a socket is reported once per arrival of something new. Adding a socket, or
 *   changing the events it is watched for, reports what is already there.
 * - A short count does not prove that a socket is empty: recv() stops at an urgent mark, recvmmsg()
 *   keeps an error for its next call, and the end of a stream is not counted. EAGAIN proves it:
 *   whatever arrives later is a new edge.
 * - Every write to an eventfd is an edge; it need not be read.
 * - close() takes a socket out of the set, unless a child between fork and exec still holds it.
 *
 * Consequences. Everything is watched edge-triggered, and a source counts as readable, or writable,
 * from its edge until a call on it returns EAGAIN: no edge is lost and nothing has to be re-armed.
 * An operation tries its call at once and registers with epoll only if that returns EAGAIN, so a
 * connection usually costs one epoll_ctl() or none. Level-triggered mode would need a call whenever
 * an operation begins or ends, or would report a socket without an operation in every lap.
 *
 * Sources with something to do wait in a FIFO. Each gets one bounded turn per lap, even when one
 * peer floods. While sources are ready, the kernel is asked for others only after every
 * EPOLL_UNPOLLED_MAX events. A late edge of a replaced connection is recognised by its generation.
 *
 * Costs: one system call per receive and send on TCP where the ring has one per lap; on UDP one per
 * batch of up to EPOLL_BATCH each way. Nothing is allocated after open().
 */
#include "kernel/epoll.h"

#include <errno.h>
#include <linux/time_types.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "kernel/message.h"

#define EPOLL_UNPOLLED_MAX 256 /* events between epoll_wait() calls while the FIFO is not empty */

static struct epoll_backend *epoll_of(struct ru_backend *backend)
{
    return (struct epoll_backend *)(void *)backend;
}

/* ---- open and close ---- */

static bool epoll_stack_make(struct epoll_stack *stack, uint32_t capacity)
{
    stack->items = calloc(capacity, sizeof(*stack->items));
    stack->capacity = capacity;
    return stack->items != NULL;
}

static bool epoll_allocate(struct epoll_backend *epoll)
{
    const struct ru_config *config = epoll->base.setup.config;
    epoll->found_max = config->events_per_lap;
    epoll->sources_count = epoll_first(epoll, RU_OP_RECEIVE) + config->connections_max;
    epoll->found = calloc(epoll->found_max, sizeof(*epoll->found));
    epoll->sources = calloc(epoll->sources_count, sizeof(*epoll->sources));
    epoll->outgoing = calloc(config->listeners_count, sizeof(*epoll->outgoing));
    return epoll->found && epoll->sources && epoll->outgoing &&
           epoll_stack_make(&epoll->slots, epoll->base.setup.arena->slots) &&
           epoll_stack_make(&epoll->buffers, config->tcp_buffers);
}

/* Sleep until a source is ready. Returns the number of events found, or -1 with errno. */
static int epoll_sleep(struct epoll_backend *epoll, uint64_t timeout_ns)
{
#ifdef SYS_epoll_pwait2
    if (epoll->waits_in_ns) {
        struct __kernel_timespec timeout = {.tv_sec = (int64_t)(timeout_ns / RU_SECOND_NS),
                                            .tv_nsec = (long long)(timeout_ns % RU_SECOND_NS)};
        return (int)syscall(SYS_epoll_pwait2, epoll->fd, epoll->found, (int)epoll->found_max,
                            &timeout, NULL, (size_t)0);
    }
#endif
    return epoll_wait(epoll->fd, epoll->found, (int)epoll->found_max,
                      (int)((timeout_ns + 999999) / 1000000));
}

static int epoll_watch_first(struct epoll_backend *epoll, enum ru_operation operation,
                             uint32_t index, int fd)
{
    struct epoll_source *source = epoll_source(epoll, operation, index);
    source->fd = fd;
    source->readable = operation != RU_OP_WAKE;
    return epoll_watch(epoll, source, EPOLLIN);
}

static int epoll_make(struct epoll_backend *epoll)
{
    const struct ru_backend_setup *setup = &epoll->base.setup;
    epoll->fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll->fd < 0)
        return ru_backend_step(setup, "epoll_create1", -errno);
    /* Old kernels answer ENOSYS, old sandboxes EPERM. */
    epoll->waits_in_ns = true;
    epoll->waits_in_ns = epoll_sleep(epoll, 0) >= 0;
    int result = epoll_watch_first(epoll, RU_OP_WAKE, 0, setup->wake_fd);
    for (uint32_t i = 0; i < setup->config->listeners_count && result == 0; i++) {
        const struct ru_listener_config *listener = &setup->config->listeners[i];
        result = epoll_watch_first(epoll, RU_OP_DATAGRAMS, i, listener->udp_fd);
        if (result == 0)
            result = epoll_watch_first(epoll, RU_OP_ACCEPT, i, listener->tcp_fd);
    }
    return ru_backend_step(setup, "epoll_ctl", result);
}

static void epoll_close(struct ru_backend *backend)
{
    struct epoll_backend *epoll = epoll_of(backend);
    if (epoll->fd >= 0)
        (void)close(epoll->fd);
    free(epoll->slots.items);
    free(epoll->buffers.items);
    free(epoll->outgoing);
    free(epoll->sources);
    free(epoll->found);
    free(epoll);
}

static int epoll_open(struct ru_backend **backend, const struct ru_backend_setup *setup)
{
    struct epoll_backend *epoll = calloc(1, sizeof(*epoll));
    if (!epoll)
        return ru_backend_step(setup, "allocating the backend", -ENOMEM);
    epoll->base.ops = &ru_backend_epoll;
    epoll->base.setup = *setup;
    epoll->fd = -1;
    int result =
        ru_backend_step(setup, "allocating the backend", epoll_allocate(epoll) ? 0 : -ENOMEM);
    if (result == 0)
        result = epoll_make(epoll);
    if (result != 0) {
        epoll_close(&epoll->base);
        return result;
    }
    (void)snprintf(epoll->base.tier, sizeof(epoll->base.tier), "epoll%s",
                   epoll->waits_in_ns ? "" : ", waiting in whole milliseconds");
    *backend = &epoll->base;
    return 0;
}

/* ---- operations ---- */

static void epoll_start(struct epoll_backend *epoll, struct epoll_source *source)
{
    RU_CHECK(!source->receiving);
    source->receiving = true;
    source->cancelled = false;
    epoll_list(epoll, source);
}

static void epoll_watch_wake(struct ru_backend *backend)
{
    struct epoll_backend *epoll = epoll_of(backend);
    epoll_start(epoll, epoll_source(epoll, RU_OP_WAKE, 0));
}

static void epoll_accept(struct ru_backend *backend, uint32_t listener)
{
    struct epoll_backend *epoll = epoll_of(backend);
    epoll_start(epoll, epoll_source(epoll, RU_OP_ACCEPT, listener));
}

static void epoll_receive_datagrams(struct ru_backend *backend, uint32_t listener)
{
    struct epoll_backend *epoll = epoll_of(backend);
    epoll_start(epoll, epoll_source(epoll, RU_OP_DATAGRAMS, listener));
}

/* The source of a connection; a new generation starts from a cleared source. */
static struct epoll_source *epoll_connection(struct epoll_backend *epoll, uint32_t conn,
                                             uint32_t generation, int fd)
{
    struct epoll_source *source = epoll_source(epoll, RU_OP_RECEIVE, conn);
    if (source->generation == generation) {
        RU_CHECK(source->fd == fd);
        return source;
    }
    RU_CHECK(!source->receiving && !source->sending);
    *source = (struct epoll_source){
        .next = source->next,
        .generation = generation,
        .fd = fd,
        .listed = source->listed,
        .readable = true,
        .writable = true,
    };
    return source;
}

static void epoll_receive(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                          bool once)
{
    struct epoll_backend *epoll = epoll_of(backend);
    struct epoll_source *source = epoll_connection(epoll, conn, generation, fd);
    source->once = once;
    source->room = NULL;
    epoll_start(epoll, source);
}

static void epoll_receive_into(struct ru_backend *backend, uint32_t conn, uint32_t generation,
                               int fd, uint8_t *bytes, uint32_t size)
{
    struct epoll_backend *epoll = epoll_of(backend);
    struct epoll_source *source = epoll_connection(epoll, conn, generation, fd);
    RU_CHECK(size > 0);
    source->once = true;
    source->room = bytes;
    source->room_size = size;
    epoll_start(epoll, source);
}

static void epoll_send(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                       const uint8_t *bytes, uint32_t size)
{
    struct epoll_backend *epoll = epoll_of(backend);
    struct epoll_source *source = epoll_connection(epoll, conn, generation, fd);
    RU_CHECK(!source->sending && size > 0);
    source->sending = true;
    source->sent = false;
    source->send_cancelled = false;
    source->send_last = false;
    source->bytes = bytes;
    source->size = size;
    if (source->writable)
        ru_epoll_turn_send(epoll, source);
    epoll_list(epoll, source);
}

static void epoll_send_last(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                            const uint8_t *bytes, uint32_t size)
{
    struct epoll_source *source = epoll_source(epoll_of(backend), RU_OP_SEND, conn);
    RU_CHECK(!source->receiving);
    epoll_send(backend, conn, generation, fd, bytes, size);
    source->send_last = true; /* for the turn that reports the send */
}

static void epoll_flush(struct epoll_backend *epoll, uint32_t listener)
{
    struct epoll_outgoing *outgoing = &epoll->outgoing[listener];
    int fd = epoll->base.setup.config->listeners[listener].udp_fd;
    uint32_t done = 0;
    while (done < outgoing->count) {
        int sent = sendmmsg(fd, outgoing->messages + done, outgoing->count - done,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            done += (uint32_t)sent;
            continue;
        }
        /* The error belongs to the first message left: skip it. */
        outgoing->error = -errno;
        outgoing->failed++;
        epoll->failed++;
        done++;
    }
    outgoing->count = 0;
}

static void epoll_send_datagram(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                                const uint8_t *bytes, uint32_t size, bool controlled)
{
    struct epoll_backend *epoll = epoll_of(backend);
    struct epoll_outgoing *outgoing = &epoll->outgoing[listener];
    uint32_t i = outgoing->count++;
    ru_message_to_reply(&outgoing->messages[i].msg_hdr, &outgoing->vectors[i], backend->setup.arena,
                        slot, bytes, size, controlled);
    if (outgoing->count == EPOLL_BATCH)
        epoll_flush(epoll, listener);
}

static bool epoll_datagrams_sent(struct ru_backend *backend)
{
    const struct epoll_backend *epoll = epoll_of(backend);
    for (uint32_t i = 0; i < backend->setup.config->listeners_count; i++)
        if (epoll->outgoing[i].count > 0)
            return false;
    return true;
}

static void epoll_cancel(struct ru_backend *backend, enum ru_operation operation, uint32_t index,
                         uint32_t generation)
{
    struct epoll_backend *epoll = epoll_of(backend);
    struct epoll_source *source = epoll_source(epoll, operation, index);
    if (source->generation != generation)
        return; /* this generation never started an operation */
    if (operation == RU_OP_SEND)
        source->send_cancelled = source->sending;
    else
        source->cancelled = source->receiving;
    epoll_list(epoll, source);
}

static void epoll_close_descriptor(struct ru_backend *backend, int fd)
{
    (void)backend;
    (void)close(fd);
}

/* close() alone does not end the watch while another process has the socket open. */
static void epoll_forget_descriptor(struct ru_backend *backend, int fd)
{
    (void)epoll_ctl(epoll_of(backend)->fd, EPOLL_CTL_DEL, fd, NULL);
}

static void epoll_lend(struct epoll_stack *stack, uint32_t item)
{
    RU_CHECK(item < stack->capacity && stack->count < stack->capacity);
    stack->items[stack->count++] = item;
}

static void epoll_lend_slot(struct ru_backend *backend, uint32_t slot)
{
    epoll_lend(&epoll_of(backend)->slots, slot);
}

static void epoll_lend_buffer(struct ru_backend *backend, uint32_t buffer)
{
    epoll_lend(&epoll_of(backend)->buffers, buffer);
}

/* ---- events ---- */

static void epoll_note(struct epoll_backend *epoll, const struct epoll_event *event)
{
    uint32_t number = ru_token_index(event->data.u64);
    RU_CHECK(number < epoll->sources_count);
    struct epoll_source *source = &epoll->sources[number];
    if (source->generation != ru_token_generation(event->data.u64))
        return; /* closed here, but a child still has it open */
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        source->readable = true;
    if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        source->writable = true;
    epoll_list(epoll, source);
}

static int epoll_look(struct epoll_backend *epoll, uint64_t timeout_ns, uint64_t spin_ns)
{
    int count = 0;
    if (timeout_ns > 0 && spin_ns > 0) {
        uint64_t end_ns = ru_now_ns() + (spin_ns < timeout_ns ? spin_ns : timeout_ns);
        do
            count = epoll_sleep(epoll, 0);
        while (count == 0 && ru_now_ns() < end_ns);
    }
    if (count == 0)
        count = epoll_sleep(epoll, timeout_ns);
    if (count < 0 && errno == EINTR) /* a signal cut the wait short: poll once without waiting */
        count = epoll_sleep(epoll, 0);
    epoll->unpolled = 0;
    if (count < 0)
        return -errno;
    epoll->saw_all = (uint32_t)count < epoll->found_max;
    for (int i = 0; i < count; i++)
        epoll_note(epoll, &epoll->found[i]);
    return 0;
}

static int epoll_wait_events(struct ru_backend *backend, uint64_t timeout_ns, uint64_t spin_ns)
{
    struct epoll_backend *epoll = epoll_of(backend);
    for (uint32_t i = 0; i < backend->setup.config->listeners_count; i++)
        epoll_flush(epoll, i);
    int result = 0;
    epoll->saw_all = false;
    bool ready = epoll->ready_count > 0 || epoll->failed > 0;
    if (!ready)
        result = epoll_look(epoll, timeout_ns, spin_ns);
    else if (epoll->unpolled >= EPOLL_UNPOLLED_MAX)
        result = epoll_look(epoll, 0, 0);
    epoll->turns = epoll->ready_count;
    return result;
}

/* Report every datagram that could not be sent, before the lap's other events: at the end of the
 * lap the loop counts the remaining ones as answered. */
static uint32_t epoll_report_failed(struct epoll_backend *epoll, struct ru_event *events,
                                    uint32_t count)
{
    uint32_t used = 0;
    for (uint32_t i = 0; epoll->failed > 0 && used < count; i++) {
        struct epoll_outgoing *outgoing = &epoll->outgoing[i];
        for (; outgoing->failed > 0 && used < count; outgoing->failed--, epoll->failed--) {
            const struct epoll_source *source = epoll_source(epoll, RU_OP_SEND_DATAGRAM, i);
            events[used] = epoll_event(epoll, source, RU_OP_SEND_DATAGRAM, outgoing->error);
            events[used++].ended = true;
        }
    }
    return used;
}

static uint32_t epoll_reap(struct ru_backend *backend, struct ru_event *events, uint32_t count)
{
    struct epoll_backend *epoll = epoll_of(backend);
    uint32_t used = epoll_report_failed(epoll, events, count);
    for (; used < count && epoll->turns > 0; epoll->turns--) {
        struct epoll_source *source = epoll_unlist_first(epoll);
        used += ru_epoll_turn_take(epoll, source, events + used, count - used);
        epoll_list(epoll, source);
    }
    epoll->unpolled += used;
    return used;
}

static bool epoll_saw_all(const struct ru_backend *backend)
{
    return ((const struct epoll_backend *)(const void *)backend)->saw_all;
}

static bool epoll_overflowed(struct ru_backend *backend)
{
    (void)backend; /* there is no queue: pending data stays in its socket */
    return false;
}

const struct ru_backend_ops ru_backend_epoll = {
    .open = epoll_open,
    .close = epoll_close,
    .watch_wake = epoll_watch_wake,
    .accept = epoll_accept,
    .receive_datagrams = epoll_receive_datagrams,
    .receive = epoll_receive,
    .receive_into = epoll_receive_into,
    .send = epoll_send,
    .send_last = epoll_send_last,
    .send_datagram = epoll_send_datagram,
    .datagrams_sent = epoll_datagrams_sent,
    .cancel = epoll_cancel,
    .close_descriptor = epoll_close_descriptor,
    .forget_descriptor = epoll_forget_descriptor,
    .lend_slot = epoll_lend_slot,
    .lend_buffer = epoll_lend_buffer,
    .wait = epoll_wait_events,
    .reap = epoll_reap,
    .saw_all = epoll_saw_all,
    .overflowed = epoll_overflowed,
    .receive_now = ru_message_receive_now,
};
