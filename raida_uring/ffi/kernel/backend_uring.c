/* backend_uring.c: the io_uring backend.
 *
 * One ring, created and used by the loop thread alone (SINGLE_ISSUER). It is created disabled,
 * restricted to the operations below, then enabled: even a bug or an exploit that can write SQEs
 * cannot open a file. One system call per lap submits and waits.
 */
#include "kernel/backend.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "clock.h"
#include "kernel/message.h"

#define URING_GROUP_SLOTS 0
#define URING_GROUP_BUFFERS 1
#define URING_CQ_SLACK 4096
#define URING_LOCKED_SLACK 16384 /* heads of the rings, and rounding to pages */

/* Linux 6.15; not in the headers of liburing 2.3. */
#define URING_FEAT_NO_IOWAIT (1U << 17)
#define URING_ENTER_NO_IOWAIT (1U << 7)

/* The kernel writes its header where the loop reads struct ru_slot_head. */
_Static_assert(sizeof(struct ru_slot_head) == sizeof(struct io_uring_recvmsg_out) &&
                   offsetof(struct ru_slot_head, control_size) ==
                       offsetof(struct io_uring_recvmsg_out, controllen) &&
                   offsetof(struct ru_slot_head, payload_size) ==
                       offsetof(struct io_uring_recvmsg_out, payloadlen) &&
                   offsetof(struct ru_slot_head, flags) ==
                       offsetof(struct io_uring_recvmsg_out, flags),
               "slot head");

/* The message header of a datagram being sent; needed to set its source address. */
struct uring_message {
    struct msghdr header;
    struct iovec bytes;
};

struct uring_group {
    struct io_uring_buf_ring *ring;
    size_t ring_size;
    uint32_t mask;
    uint32_t pending; /* added, not yet visible */
};

struct uring_backend {
    struct ru_backend base;
    struct io_uring ring;
    bool ring_made;
    struct uring_group slots;
    struct uring_group buffers;
    struct msghdr receive_shape;    /* only its lengths are read */
    struct uring_message *messages; /* per slot; NULL when SEND with an address suffices */
    bool send_takes_address;
    int enter_fd; /* of the ring; registered if sleep_flags say so */
    unsigned sleep_flags;
};

/* The tiers, best first, and the reason for each flag:
 * SUBMIT_ALL      one bad SQE must not hold up the others of its lap
 * CQSIZE          the queue holds every completion that can be outstanding
 * SINGLE_ISSUER   only the loop thread may use the ring; other threads get EEXIST
 * DEFER_TASKRUN   completions run when the loop asks for them, in batches
 * COOP_TASKRUN    second best: no interrupt when completions become ready
 * TASKRUN_FLAG    shows a spinning loop that completions are waiting to run */
static const struct uring_tier {
    const char *name;
    unsigned flags;
    bool send_takes_address; /* 6.1 brought both */
} uring_tiers[] = {
    {"io_uring, DEFER_TASKRUN",
     IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
         IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
     true},
    {"io_uring, COOP_TASKRUN",
     IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
         IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
     false},
};

static const uint8_t uring_sqe_ops[] = {
    IORING_OP_ACCEPT,  IORING_OP_RECV,     IORING_OP_RECVMSG,      IORING_OP_SEND,
    IORING_OP_SENDMSG, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL, IORING_OP_CLOSE,
};

static const uint8_t uring_register_ops[] = {
    IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_RING_FDS, IORING_UNREGISTER_RING_FDS,
    IORING_UNREGISTER_PBUF_RING,  IORING_UNREGISTER_FILES,
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct uring_backend *uring_of(struct ru_backend *backend)
{
    return (struct uring_backend *)(void *)backend;
}

/* ---- open and close ---- */

/* Entries of a completion queue that holds every completion that can be outstanding. */
static uint32_t uring_cq_entries(const struct ru_config *config)
{
    uint64_t need = (uint64_t)config->udp_contexts + config->udp_reserve + config->tcp_buffers +
                    2ULL * config->connections_max + URING_CQ_SLACK;
    uint32_t entries = RU_SQ_ENTRIES;
    while (entries < need && entries < RU_CQ_ENTRIES_MAX)
        entries *= 2;
    return entries;
}

static uint64_t uring_locked_bytes(const struct ru_config *config, uint32_t slots,
                                   uint32_t cq_entries)
{
    uint64_t buffers =
        (uint64_t)ru_number_power_of_two(slots) + ru_number_power_of_two(config->tcp_buffers);
    return RU_SQ_ENTRIES * (sizeof(struct io_uring_sqe) + sizeof(uint32_t)) +
           cq_entries * sizeof(struct io_uring_cqe) + buffers * sizeof(struct io_uring_buf) +
           URING_LOCKED_SLACK;
}

uint64_t ru_backend_uring_locked_bytes(const struct ru_config *config, uint32_t slots)
{
    return uring_locked_bytes(config, slots, uring_cq_entries(config));
}

/* True if RLIMIT_MEMLOCK is large enough, whatever other rings are charged. */
static bool uring_may_fit(const struct ru_backend_setup *setup, uint32_t cq_entries)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
           limit.rlim_cur >= uring_locked_bytes(setup->config, setup->arena->slots, cq_entries);
}

static int uring_make_tier(struct uring_backend *uring, const struct uring_tier *tier,
                           uint32_t cq_entries)
{
    struct io_uring_params params = {.flags = tier->flags | IORING_SETUP_R_DISABLED,
                                     .cq_entries = cq_entries};
    int result = io_uring_queue_init_params(RU_SQ_ENTRIES, &uring->ring, &params);
    if (result != 0)
        return result;
    uring->ring_made = true;
    uring->send_takes_address = tier->send_takes_address;
    int used = snprintf(uring->base.tier, RU_TIER_TEXT, "%s", tier->name);
    if (cq_entries < uring_cq_entries(uring->base.setup.config))
        (void)snprintf(uring->base.tier + used, RU_TIER_TEXT - (size_t)used,
                       ", %u completions for lack of locked memory", cq_entries);
    uring->sleep_flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    if (params.features & URING_FEAT_NO_IOWAIT)
        uring->sleep_flags |= URING_ENTER_NO_IOWAIT;
    return params.features & IORING_FEAT_EXT_ARG ? 0 : -EINVAL;
}

static int uring_make(struct uring_backend *uring, uint32_t cq_entries)
{
    int result = -EINVAL;
    for (uint32_t i = 0; i < COUNT(uring_tiers) && result == -EINVAL && !uring->ring_made; i++)
        result = uring_make_tier(uring, &uring_tiers[i], cq_entries);
    return ru_backend_step(&uring->base.setup, "io_uring_setup", result);
}

static int uring_group_make(struct uring_backend *uring, struct uring_group *group, uint16_t id,
                            uint32_t least)
{
    uint32_t entries = ru_number_power_of_two(least);
    group->ring_size = entries * sizeof(struct io_uring_buf);
    group->mask = entries - 1;
    void *memory = mmap(NULL, group->ring_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        return ru_backend_step(&uring->base.setup, "mapping a buffer ring", -errno);
    group->ring = memory;
    io_uring_buf_ring_init(group->ring);
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)memory, .ring_entries = entries, .bgid = id};
    return ru_backend_step(&uring->base.setup, "registering a provided-buffer ring",
                           io_uring_register_buf_ring(&uring->ring, &registration, 0));
}

static int uring_restrict(struct uring_backend *uring)
{
    struct io_uring_restriction rules[COUNT(uring_sqe_ops) + COUNT(uring_register_ops) + 1] = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < COUNT(uring_sqe_ops); i++, count++) {
        rules[count].opcode = IORING_RESTRICTION_SQE_OP;
        rules[count].sqe_op = uring_sqe_ops[i];
    }
    for (uint32_t i = 0; i < COUNT(uring_register_ops); i++, count++) {
        rules[count].opcode = IORING_RESTRICTION_REGISTER_OP;
        rules[count].register_op = uring_register_ops[i];
    }
    rules[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rules[count++].sqe_flags =
        IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_HARDLINK;
    return ru_backend_step(&uring->base.setup, "restricting the ring",
                           io_uring_register_restrictions(&uring->ring, rules, count));
}

static int uring_register(struct uring_backend *uring)
{
    const struct ru_backend_setup *setup = &uring->base.setup;
    const struct ru_config *config = setup->config;
    int files[RU_LISTENERS_MAX];
    for (uint32_t i = 0; i < config->listeners_count; i++)
        files[i] = config->listeners[i].udp_fd;
    int result =
        ru_backend_step(setup, "registering the UDP sockets",
                        io_uring_register_files(&uring->ring, files, config->listeners_count));
    if (result == 0)
        result = uring_group_make(uring, &uring->slots, URING_GROUP_SLOTS, setup->arena->slots);
    if (result == 0)
        result = uring_group_make(uring, &uring->buffers, URING_GROUP_BUFFERS, config->tcp_buffers);
    if (result == 0)
        result = uring_restrict(uring);
    if (result == 0)
        result = ru_backend_step(setup, "enabling the ring", io_uring_enable_rings(&uring->ring));
    if (result != 0)
        return result;
    /* Saves a descriptor look-up per lap; if it fails, the plain descriptor works as well. */
    uring->enter_fd = uring->ring.ring_fd;
    if (io_uring_register_ring_fd(&uring->ring) == 1) {
        uring->enter_fd = uring->ring.enter_ring_fd;
        uring->sleep_flags |= IORING_ENTER_REGISTERED_RING;
    }
    /* Try the third system call before anything depends on it: a filter may deny only this one. */
    return ru_backend_step(setup, "io_uring_enter", io_uring_get_events(&uring->ring));
}

static void uring_close(struct ru_backend *backend)
{
    struct uring_backend *uring = uring_of(backend);
    if (uring->ring_made) {
        /* The kernel frees the ring later; the sockets must be released now. */
        (void)io_uring_unregister_files(&uring->ring);
        io_uring_queue_exit(&uring->ring);
    }
    if (uring->slots.ring)
        (void)munmap(uring->slots.ring, uring->slots.ring_size);
    if (uring->buffers.ring)
        (void)munmap(uring->buffers.ring, uring->buffers.ring_size);
    free(uring->messages);
    free(uring);
}

static int uring_open_sized(struct ru_backend **backend, const struct ru_backend_setup *setup,
                            uint32_t cq_entries)
{
    struct uring_backend *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return ru_backend_step(setup, "allocating the backend", -ENOMEM);
    uring->base.ops = &ru_backend_uring;
    uring->base.setup = *setup;
    uring->receive_shape.msg_namelen = RU_PEER_SIZE;
    uring->receive_shape.msg_controllen = setup->arena->control_size;
    int result = uring_make(uring, cq_entries);
    if (result == 0 && (setup->arena->control_size > 0 || !uring->send_takes_address)) {
        uring->messages = calloc(setup->arena->slots, sizeof(*uring->messages));
        result =
            ru_backend_step(setup, "allocating message headers", uring->messages ? 0 : -ENOMEM);
    }
    if (result == 0)
        result = uring_register(uring);
    if (result != 0) {
        uring_close(&uring->base);
        return result;
    }
    *backend = &uring->base;
    return 0;
}

/* Some kernels (6.18) charge rings to the user's limit of locked memory and return it only tens or
 * hundreds of milliseconds after a ring is closed. A node that restarts under a tight limit may
 * find memory still charged to its predecessor or to its own previous try. If the limit has room
 * for the size, wait for it; if not, try it once, since not every kernel charges. A smaller
 * completion queue is better than none: the node survives an overflow and counts it. */
static int uring_open(struct ru_backend **backend, const struct ru_backend_setup *setup)
{
    const struct timespec pause = {.tv_nsec = RU_RING_RETRY_NS};
    uint32_t cq_entries = uring_cq_entries(setup->config);
    uint64_t end_ns = ru_now_ns() + RU_RING_WAIT_NS;
    int result;
    while ((result = uring_open_sized(backend, setup, cq_entries)) == -ENOMEM) {
        if (uring_may_fit(setup, cq_entries) && ru_now_ns() < end_ns)
            (void)nanosleep(&pause, NULL);
        else if (cq_entries > RU_SQ_ENTRIES)
            cq_entries /= 2;
        else
            break;
    }
    return result;
}

/* ---- operations ---- */

static struct io_uring_sqe *uring_sqe(struct ru_backend *backend)
{
    struct io_uring *ring = &uring_of(backend)->ring;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    for (uint32_t tries = 0; !sqe && tries < 1000; tries++) {
        (void)io_uring_submit_and_get_events(ring); /* queue full: submit what it has */
        sqe = io_uring_get_sqe(ring);
    }
    RU_CHECK(sqe != NULL);
    return sqe;
}

static void uring_watch_wake(struct ru_backend *backend)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    /* A multishot poll is edge-triggered: each write is one event; the eventfd need not be read. */
    io_uring_prep_poll_multishot(sqe, backend->setup.wake_fd, POLLIN);
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_WAKE, 0, 0));
}

static void uring_accept(struct ru_backend *backend, uint32_t listener)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_multishot_accept(sqe, backend->setup.config->listeners[listener].tcp_fd, NULL,
                                   NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_ACCEPT, listener, 0));
}

static void uring_receive_datagrams(struct ru_backend *backend, uint32_t listener)
{
    struct uring_backend *uring = uring_of(backend);
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_recvmsg_multishot(sqe, (int)listener, &uring->receive_shape, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = URING_GROUP_SLOTS;
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_DATAGRAMS, listener, 0));
}

static void uring_receive(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                          bool once)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    if (once)
        io_uring_prep_recv(sqe, fd, NULL, RU_TCP_BUFFER, 0);
    else
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = URING_GROUP_BUFFERS;
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_RECEIVE, conn, generation));
}

static void uring_receive_into(struct ru_backend *backend, uint32_t conn, uint32_t generation,
                               int fd, uint8_t *bytes, uint32_t size)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_recv(sqe, fd, bytes, size, 0);
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_RECEIVE, conn, generation));
}

static void uring_send(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                       const uint8_t *bytes, uint32_t size)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    /* No MSG_WAITALL: a short count is progress, which resets the progress timeout. */
    io_uring_prep_send(sqe, fd, bytes, size, MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_SEND, conn, generation));
}

/* A ring watches only descriptors with operations in flight, so there is nothing to do. */
static void uring_forget_descriptor(struct ru_backend *backend, int fd)
{
    (void)backend;
    (void)fd;
}

static void uring_close_descriptor(struct ru_backend *backend, int fd)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_close(sqe, fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_IGNORED, 0, 0));
}

static void uring_send_last(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                            const uint8_t *bytes, uint32_t size)
{
    struct uring_backend *uring = uring_of(backend);
    if (io_uring_sq_space_left(&uring->ring) < 2) /* a link must not straddle two submissions */
        (void)io_uring_submit_and_get_events(&uring->ring);
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_send(sqe, fd, bytes, size, MSG_NOSIGNAL | MSG_WAITALL);
    sqe->flags |= IOSQE_IO_HARDLINK; /* a plain link would leak the descriptor of a failed send */
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_SEND, conn, generation));
    uring_close_descriptor(backend, fd);
}

static void uring_send_datagram(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                                const uint8_t *bytes, uint32_t size, bool controlled)
{
    struct uring_backend *uring = uring_of(backend);
    struct io_uring_sqe *sqe = uring_sqe(backend);
    const struct ru_arena *arena = backend->setup.arena;
    /* MSG_DONTWAIT: the kernel sends during submission, so the slot is free right after it. */
    if (controlled || !uring->send_takes_address) {
        struct uring_message *message = &uring->messages[slot];
        ru_message_to_reply(&message->header, &message->bytes, arena, slot, bytes, size,
                            controlled);
        io_uring_prep_sendmsg(sqe, (int)listener, &message->header, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        socklen_t peer_size;
        const struct sockaddr *peer = ru_message_peer(arena, slot, &peer_size);
        io_uring_prep_send(sqe, (int)listener, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        io_uring_prep_send_set_addr(sqe, peer, (uint16_t)peer_size);
    }
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_SEND_DATAGRAM, listener, 0));
}

static bool uring_datagrams_sent(struct ru_backend *backend)
{
    return io_uring_sq_ready(&uring_of(backend)->ring) == 0;
}

static void uring_cancel(struct ru_backend *backend, enum ru_operation operation, uint32_t index,
                         uint32_t generation)
{
    struct io_uring_sqe *sqe = uring_sqe(backend);
    io_uring_prep_cancel64(sqe, ru_token_pack((uint8_t)operation, index, generation), 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, ru_token_pack(RU_OP_IGNORED, 0, 0));
}

/* ---- buffers ---- */

static void uring_group_add(struct uring_group *group, uint8_t *bytes, uint32_t size, uint32_t id)
{
    io_uring_buf_ring_add(group->ring, bytes, size, (uint16_t)id, (int)group->mask,
                          (int)group->pending++);
}

static void uring_group_publish(struct uring_group *group)
{
    if (group->pending > 0)
        io_uring_buf_ring_advance(group->ring, (int)group->pending);
    group->pending = 0;
}

static void uring_lend_slot(struct ru_backend *backend, uint32_t slot)
{
    const struct ru_arena *arena = backend->setup.arena;
    uring_group_add(&uring_of(backend)->slots, arena->base + ru_arena_slot_at(arena, slot),
                    arena->payload_at + arena->payload_size, slot);
}

static void uring_lend_buffer(struct ru_backend *backend, uint32_t buffer)
{
    RU_CHECK(buffer < backend->setup.config->tcp_buffers);
    uring_group_add(&uring_of(backend)->buffers,
                    backend->setup.tcp_buffers + (size_t)buffer * RU_TCP_BUFFER, RU_TCP_BUFFER,
                    buffer);
}

/* ---- events ---- */

static bool uring_something_ready(const struct uring_backend *uring)
{
    return io_uring_cq_ready(&uring->ring) > 0 ||
           (__atomic_load_n(uring->ring.sq.kflags, __ATOMIC_RELAXED) &
            (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static void uring_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Publish the queued SQEs as liburing does; returns how many the kernel has to submit. */
static unsigned uring_flush(struct uring_backend *uring)
{
    struct io_uring_sq *queue = &uring->ring.sq;
    queue->sqe_head = queue->sqe_tail;
    __atomic_store_n(queue->ktail, queue->sqe_tail, __ATOMIC_RELEASE);
    return queue->sqe_tail - __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);
}

/* Submit and sleep. Calls io_uring_enter directly because liburing 2.3 passes no flags: without
 * NO_IOWAIT the kernel counts a sleeping node as waiting for a disk. */
static int uring_sleep(struct uring_backend *uring, uint64_t timeout_ns)
{
    struct __kernel_timespec timeout = {.tv_sec = (int64_t)(timeout_ns / RU_SECOND_NS),
                                        .tv_nsec = (long long)(timeout_ns % RU_SECOND_NS)};
    struct io_uring_getevents_arg argument = {.ts = (uintptr_t)&timeout};
    void *argument_at = &argument; /* the parameter is a sigset_t * in liburing 2.3, void * later */
    return io_uring_enter2((unsigned)uring->enter_fd, uring_flush(uring), 1, uring->sleep_flags,
                           argument_at, sizeof(argument));
}

static int uring_wait(struct ru_backend *backend, uint64_t timeout_ns, uint64_t spin_ns)
{
    struct uring_backend *uring = uring_of(backend);
    uring_group_publish(&uring->slots);
    uring_group_publish(&uring->buffers);
    if (timeout_ns > 0 && spin_ns > 0) {
        (void)io_uring_submit(&uring->ring);
        uint64_t end_ns = ru_now_ns() + (spin_ns < timeout_ns ? spin_ns : timeout_ns);
        while (!uring_something_ready(uring) && ru_now_ns() < end_ns)
            uring_relax();
    }
    int result = timeout_ns > 0 ? uring_sleep(uring, timeout_ns) : -EINTR;
    if (result == -EINTR) /* not waited, or cut short by a signal: fetch what is there */
        result = io_uring_submit_and_get_events(&uring->ring);
    if (result >= 0 || result == -ETIME || result == -EINTR || result == -EBUSY ||
        result == -EAGAIN)
        return 0;
    return result;
}

static void uring_read_datagram(const struct uring_backend *uring, struct ru_event *event)
{
    const struct ru_arena *arena = uring->base.setup.arena;
    const struct ru_slot_head *head = ru_arena_slot_head(arena, event->buffer);
    uint32_t received = (uint32_t)event->result;
    uint32_t size = received > arena->payload_at ? received - arena->payload_at : 0;
    size = ru_number_min32(size, head->payload_size);
    RU_CHECK(size <= arena->payload_size);
    event->result = (int32_t)size;
    event->truncated = (head->flags & MSG_TRUNC) != 0;
    event->controlled = head->control_size > 0 && !(head->flags & MSG_CTRUNC);
}

static uint32_t uring_reap(struct ru_backend *backend, struct ru_event *events, uint32_t count)
{
    struct uring_backend *uring = uring_of(backend);
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;
    uint32_t used = 0;
    io_uring_for_each_cqe(&uring->ring, head, cqe) {
        if (used == count)
            break;
        seen++;
        uint8_t operation = ru_token_operation(cqe->user_data);
        if (operation == RU_OP_IGNORED)
            continue;
        struct ru_event *event = &events[used++];
        *event = (struct ru_event){
            .operation = operation,
            .ended = !(cqe->flags & IORING_CQE_F_MORE),
            .index = ru_token_index(cqe->user_data),
            .generation = ru_token_generation(cqe->user_data),
            .result = cqe->res,
            .buffer =
                cqe->flags & IORING_CQE_F_BUFFER ? cqe->flags >> IORING_CQE_BUFFER_SHIFT : RU_NONE,
        };
        if (operation == RU_OP_DATAGRAMS && event->result >= 0 && event->buffer != RU_NONE)
            uring_read_datagram(uring, event);
    }
    io_uring_cq_advance(&uring->ring, seen);
    return used;
}

static bool uring_overflowed(struct ru_backend *backend)
{
    return io_uring_cq_has_overflow(&uring_of(backend)->ring);
}

/* Every wait fetches completions at its start or end; only those that overflowed are missing. */
static bool uring_saw_all(const struct ru_backend *backend)
{
    return !io_uring_cq_has_overflow(&((const struct uring_backend *)(const void *)backend)->ring);
}

const struct ru_backend_ops ru_backend_uring = {
    .open = uring_open,
    .close = uring_close,
    .watch_wake = uring_watch_wake,
    .accept = uring_accept,
    .receive_datagrams = uring_receive_datagrams,
    .receive = uring_receive,
    .receive_into = uring_receive_into,
    .send = uring_send,
    .send_last = uring_send_last,
    .send_datagram = uring_send_datagram,
    .datagrams_sent = uring_datagrams_sent,
    .cancel = uring_cancel,
    .close_descriptor = uring_close_descriptor,
    .forget_descriptor = uring_forget_descriptor,
    .lend_slot = uring_lend_slot,
    .lend_buffer = uring_lend_buffer,
    .wait = uring_wait,
    .reap = uring_reap,
    .saw_all = uring_saw_all,
    .overflowed = uring_overflowed,
    .receive_now = ru_message_receive_now,
};
