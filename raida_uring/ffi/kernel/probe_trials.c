/* probe_trials.c: one trial per kernel feature, which uses it once on a fresh ring and sockets.
 *
 * The sockets are Unix sockets: the result must not depend on a working network.
 * Owner: any thread.
 */
#include "ru.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/probe.h"
#include "memory/arena.h"

/* Constants of the kernel's interface that the oldest supported liburing lacks. */
#define PROBE_SETUP_NO_SQARRAY (1U << 16)
#define PROBE_FEAT_RECVSEND_BUNDLE (1U << 14)
#define PROBE_FEAT_MIN_TIMEOUT (1U << 15)
#define PROBE_FEAT_NO_IOWAIT (1U << 17)
#define PROBE_REGISTER_NAPI 27
#define PROBE_REGISTER_SEND_MSG_RING 31
#define PROBE_REGISTER_QUERY 35
#define PROBE_BUFFERS_INCREMENTAL 2

#define PROBE_ENTRIES 4
#define PROBE_BUFFER 512
#define PROBE_BUFFERS 2 /* of the ring that receives; one more than a datagram needs */
#define PROBE_GROUP 7
#define PROBE_WAIT_S 1 /* only reached on a kernel that never completes the operation */

struct probe_completion {
    int32_t result;
    uint32_t flags;
};

/* struct io_uring_buf_reg with the flags that newer kernels read. */
struct probe_buffer_ring {
    uint64_t ring_address;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
};

/* struct io_uring_napi */
struct probe_napi {
    uint32_t busy_poll_us;
    uint8_t prefer_busy_poll;
    uint8_t operation;
    uint8_t pad[2];
    uint32_t parameter;
    uint32_t reserved;
};

/* struct io_uring_query_hdr and the answer to query 0 */
struct probe_query {
    uint64_t next;
    uint64_t data;
    uint32_t operation;
    uint32_t size;
    int32_t result;
    uint32_t reserved[3];
};

struct probe_query_opcodes {
    uint32_t request_opcodes;
    uint32_t register_opcodes;
    uint64_t features, setup_flags, enter_flags, sqe_flags;
    uint32_t query_opcodes;
    uint32_t pad;
};

_Static_assert(sizeof(struct probe_buffer_ring) == sizeof(struct io_uring_buf_reg), "kernel's");
_Static_assert(sizeof(struct probe_napi) == 16 && sizeof(struct probe_query) == 40, "kernel's");

/* ---- rings ---- */

int ru_probe_trials_ring(struct probe *probe, unsigned flags)
{
    int result = io_uring_queue_init(PROBE_ENTRIES, &probe->ring, flags);
    probe->ring_open = result == 0;
    return result;
}

static int probe_call_register(const struct probe *probe, unsigned operation, const void *argument,
                               unsigned count)
{
    long result = syscall(__NR_io_uring_register, probe ? probe->ring.ring_fd : -1, operation,
                          argument, count);
    return result < 0 ? -errno : (int)result;
}

/* Submit what is queued and wait for a completion. */
static int probe_wait(struct probe *probe, struct probe_completion *completion)
{
    struct __kernel_timespec timeout = {.tv_sec = PROBE_WAIT_S};
    struct io_uring_cqe *cqe;
    int result;
    do
        result = io_uring_submit_and_wait_timeout(&probe->ring, &cqe, 1, &timeout, NULL);
    while (result == -EINTR);
    if (result < 0)
        return result;
    result = io_uring_peek_cqe(&probe->ring, &cqe);
    if (result != 0)
        return result;
    *completion = (struct probe_completion){.result = cqe->res, .flags = cqe->flags};
    io_uring_cqe_seen(&probe->ring, cqe);
    return 0;
}

/* The next completion must carry `result` and, for a multishot, promise more. */
static int probe_expect(struct probe *probe, int32_t wanted, bool more)
{
    struct probe_completion completion;
    int result = probe_wait(probe, &completion);
    if (result != 0)
        return result;
    if (completion.result < 0)
        return completion.result;
    if (completion.result != wanted || (more && !(completion.flags & IORING_CQE_F_MORE)))
        return -EOPNOTSUPP;
    return 0;
}

/* ---- sockets ---- */

/* Register `fd` to be closed after the trial. Returns the descriptor or -errno. */
static int probe_keep(struct probe *probe, int fd)
{
    if (fd < 0)
        return -errno;
    RU_CHECK(probe->sockets_count < PROBE_SOCKETS_MAX);
    probe->sockets[probe->sockets_count++] = fd;
    return fd;
}

static int probe_socket(struct probe *probe, int type)
{
    return probe_keep(probe, socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

int ru_probe_trials_bound(struct probe *probe, int type, struct probe_address *address)
{
    int fd = probe_socket(probe, type);
    if (fd < 0)
        return fd;
    *address = (struct probe_address){.name.sun_family = AF_UNIX, .size = sizeof(address->name)};
    if (bind(fd, (const struct sockaddr *)&address->name, sizeof(sa_family_t)) != 0 ||
        getsockname(fd, (struct sockaddr *)&address->name, &address->size) != 0)
        return -errno;
    return fd;
}

int ru_probe_trials_eventfd(struct probe *probe)
{
    return probe_keep(probe, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/* ---- trials: the three system calls, features reported by set-up ---- */

static int probe_setup(struct probe *probe, uint32_t flags)
{
    struct io_uring_params params = {.flags = flags};
    long result = syscall(__NR_io_uring_setup, PROBE_ENTRIES, &params);
    if (result < 0)
        return -errno;
    (void)close((int)result);
    probe->features |= params.features;
    if (flags & IORING_SETUP_DEFER_TASKRUN)
        probe->ring_flags = flags;
    return 0;
}

static int probe_feature(struct probe *probe, uint32_t bit)
{
    return probe->features & bit ? 0 : -EOPNOTSUPP;
}

static int probe_register(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct {
        struct io_uring_probe head;
        struct io_uring_probe_op ops[PROBE_OPCODES];
    } table;
    memset(&table, 0, sizeof(table));
    int result = probe_call_register(probe, IORING_REGISTER_PROBE, &table, PROBE_OPCODES);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < table.head.ops_len; i++)
        probe->opcodes[table.ops[i].op] = (table.ops[i].flags & IO_URING_OP_SUPPORTED) != 0;
    return 0;
}

static int probe_enter(struct probe *probe, uint32_t unused)
{
    (void)unused;
    io_uring_prep_nop(io_uring_get_sqe(&probe->ring));
    return probe_expect(probe, 0, false);
}

static int probe_opcode(struct probe *probe, uint32_t opcode)
{
    return probe->opcodes[opcode] ? 0 : -EOPNOTSUPP;
}

/* ---- trials: registrations ---- */

static int probe_files(struct probe *probe, uint32_t unused)
{
    (void)unused;
    int fd = ru_probe_trials_eventfd(probe);
    return fd < 0 ? fd : io_uring_register_files(&probe->ring, &fd, 1);
}

static int probe_ring_fd(struct probe *probe, uint32_t unused)
{
    (void)unused;
    int result = io_uring_register_ring_fd(&probe->ring);
    return result == 1 ? 0 : result;
}

static int probe_buffer_ring(struct probe *probe, uint32_t flags)
{
    const struct probe_buffer_ring registration = {.ring_address = (uintptr_t)probe->buffer_ring,
                                                   .entries = 1,
                                                   .group = PROBE_GROUP,
                                                   .flags = (uint16_t)flags};
    return probe_call_register(probe, IORING_REGISTER_PBUF_RING, &registration, 1);
}

/* The ring must refuse an operation outside its restrictions. */
static int probe_restrictions(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct io_uring_restriction rules[2];
    memset(rules, 0, sizeof(rules));
    rules[0].opcode = IORING_RESTRICTION_SQE_OP;
    rules[0].sqe_op = IORING_OP_CLOSE;
    rules[1].opcode = IORING_RESTRICTION_REGISTER_OP;
    rules[1].register_op = IORING_REGISTER_ENABLE_RINGS;
    int result = ru_probe_trials_ring(probe, probe->ring_flags | IORING_SETUP_R_DISABLED);
    if (result == 0)
        result = io_uring_register_restrictions(&probe->ring, rules, 2);
    if (result == 0)
        result = io_uring_enable_rings(&probe->ring);
    if (result != 0)
        return result;
    io_uring_prep_nop(io_uring_get_sqe(&probe->ring));
    result = probe_expect(probe, 0, false);
    if (result == -EACCES)
        return 0;
    return result == 0 ? -EOPNOTSUPP : result;
}

static int probe_napi(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct probe_napi napi = {.busy_poll_us = 1};
    return probe_call_register(probe, PROBE_REGISTER_NAPI, &napi, 1);
}

static int probe_query(struct probe *probe, uint32_t unused)
{
    (void)probe;
    (void)unused;
    struct probe_query_opcodes answer = {0};
    struct probe_query query = {.data = (uintptr_t)&answer, .size = sizeof(answer)};
    int result = probe_call_register(NULL, PROBE_REGISTER_QUERY, &query, 0);
    return result != 0 ? result : query.result;
}

/* Send a message to a ring without a ring of the sender. */
static int probe_message(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct io_uring_sqe message;
    memset(&message, 0, sizeof(message));
    message.opcode = IORING_OP_MSG_RING;
    message.fd = probe->ring.ring_fd;
    message.len = 1; /* the receiver's completion has it as its result */
    int result = probe_call_register(NULL, PROBE_REGISTER_SEND_MSG_RING, &message, 1);
    return result != 0 ? result : probe_expect(probe, 1, false);
}

/* ---- trials: operations ---- */

/* Provide buffers for a receive to choose from. */
static int probe_lend(struct probe *probe)
{
    struct io_uring_buf_ring *ring = (struct io_uring_buf_ring *)(void *)probe->buffer_ring;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)ring, .ring_entries = PROBE_BUFFERS, .bgid = PROBE_GROUP};
    memset(probe->buffer_ring, 0, PROBE_PAGE);
    int result = io_uring_register_buf_ring(&probe->ring, &registration, 0);
    if (result != 0)
        return result;
    for (uint16_t i = 0; i < PROBE_BUFFERS; i++)
        io_uring_buf_ring_add(ring, probe->buffers + (size_t)i * PROBE_BUFFER, PROBE_BUFFER, i,
                              PROBE_BUFFERS - 1, i);
    io_uring_buf_ring_advance(ring, PROBE_BUFFERS);
    return 0;
}

static int probe_accept(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct probe_address address;
    int listener = ru_probe_trials_bound(probe, SOCK_STREAM, &address);
    int client = probe_socket(probe, SOCK_STREAM);
    if (listener < 0 || client < 0)
        return listener < 0 ? listener : client;
    if (listen(listener, 1) != 0)
        return -errno;
    io_uring_prep_multishot_accept(io_uring_get_sqe(&probe->ring), listener, NULL, NULL,
                                   SOCK_CLOEXEC);
    if (connect(client, (const struct sockaddr *)&address.name, address.size) != 0)
        return -errno;
    struct probe_completion completion;
    int result = probe_wait(probe, &completion);
    if (result == 0)
        result = completion.result;
    if (result < 0)
        return result;
    (void)close(completion.result);
    return completion.flags & IORING_CQE_F_MORE ? 0 : -EOPNOTSUPP;
}

/* Multishot receive; size: most bytes per receive, 0: as much as fits a buffer. */
static int probe_receive(struct probe *probe, uint32_t size)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    (void)probe_keep(probe, ends[0]);
    (void)probe_keep(probe, ends[1]);
    int result = probe_lend(probe);
    if (result != 0)
        return result;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&probe->ring);
    io_uring_prep_recv_multishot(sqe, ends[0], NULL, size, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = PROBE_GROUP;
    if (send(ends[1], "x", 1, MSG_NOSIGNAL) != 1)
        return -errno;
    return probe_expect(probe, 1, true);
}

static int probe_receive_message(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct probe_address address;
    struct msghdr shape = {.msg_namelen = sizeof(struct sockaddr_un)};
    int receiver = ru_probe_trials_bound(probe, SOCK_DGRAM, &address);
    int sender = probe_socket(probe, SOCK_DGRAM);
    if (receiver < 0 || sender < 0)
        return receiver < 0 ? receiver : sender;
    int result = probe_lend(probe);
    if (result != 0)
        return result;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&probe->ring);
    io_uring_prep_recvmsg_multishot(sqe, receiver, &shape, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = PROBE_GROUP;
    if (sendto(sender, "x", 1, 0, (const struct sockaddr *)&address.name, address.size) != 1)
        return -errno;
    int32_t wanted = (int32_t)(sizeof(struct io_uring_recvmsg_out) + shape.msg_namelen + 1);
    return probe_expect(probe, wanted, true);
}

static int probe_send_address(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct probe_address address;
    char byte;
    int receiver = ru_probe_trials_bound(probe, SOCK_DGRAM, &address);
    int sender = probe_socket(probe, SOCK_DGRAM);
    if (receiver < 0 || sender < 0)
        return receiver < 0 ? receiver : sender;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&probe->ring);
    io_uring_prep_send(sqe, sender, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    io_uring_prep_send_set_addr(sqe, (const struct sockaddr *)&address.name,
                                (uint16_t)address.size);
    int result = probe_expect(probe, 1, false);
    if (result != 0)
        return result;
    return recv(receiver, &byte, 1, MSG_DONTWAIT) == 1 ? 0 : -EOPNOTSUPP;
}

/* Start two polls on one descriptor that never becomes ready. 0 or -errno. */
static int probe_arm_polls(struct probe *probe, int fd, uint8_t sqe_flags)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&probe->ring);
        io_uring_prep_poll_add(sqe, fd, POLLIN);
        sqe->flags |= sqe_flags;
    }
    int result = io_uring_submit(&probe->ring);
    return result < 0 ? result : 0;
}

/* One request must cancel both polls; its completion may come before, between or after theirs. */
static int probe_cancel(struct probe *probe, uint32_t flags)
{
    int fd = ru_probe_trials_eventfd(probe);
    if (fd < 0)
        return fd;
    int result = probe_arm_polls(probe, fd, 0);
    if (result != 0)
        return result;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&probe->ring);
    io_uring_prep_cancel64(sqe, 0, (int)flags);
    sqe->fd = fd;
    uint32_t ended = 0;
    for (uint32_t i = 0; i < 3; i++) {
        struct probe_completion completion;
        result = probe_wait(probe, &completion);
        if (result != 0)
            return result;
        if (completion.result < 0 && completion.result != -ECANCELED)
            return completion.result;
        ended += completion.result == -ECANCELED;
    }
    return ended == 2 ? 0 : -EOPNOTSUPP;
}

static int probe_cancel_flags(struct probe *probe, uint32_t unused)
{
    (void)unused;
    int result = probe_cancel(probe, IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL);
    return result != 0 ? result
                       : probe_cancel(probe, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
}

static int probe_sync_cancel(struct probe *probe, uint32_t unused)
{
    (void)unused;
    int fd = ru_probe_trials_eventfd(probe);
    int result = fd < 0 ? fd : io_uring_register_files(&probe->ring, &fd, 1);
    if (result == 0)
        result = probe_arm_polls(probe, 0, IOSQE_FIXED_FILE);
    if (result != 0)
        return result;
    struct io_uring_sync_cancel_reg request = {
        .flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_FD_FIXED | IORING_ASYNC_CANCEL_ALL,
        .timeout = {.tv_sec = PROBE_WAIT_S},
    };
    result = io_uring_register_sync_cancel(&probe->ring, &request);
    if (result < 0)
        return result;
    result = probe_expect(probe, 0, false);
    if (result == -ECANCELED)
        return 0;
    return result == 0 ? -EOPNOTSUPP : result;
}

/* ---- trials: features that a node needs without io_uring ---- */

static int probe_epoll(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct epoll_event event = {.events = EPOLLIN};
    const uint64_t one = 1;
    int epoll = probe_keep(probe, epoll_create1(EPOLL_CLOEXEC));
    int wake = ru_probe_trials_eventfd(probe);
    if (epoll < 0 || wake < 0)
        return epoll < 0 ? epoll : wake;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &event) != 0 ||
        write(wake, &one, sizeof(one)) != (ssize_t)sizeof(one))
        return -errno;
    int ready = epoll_wait(epoll, &event, 1, PROBE_WAIT_S * 1000);
    if (ready < 0)
        return -errno;
    return ready == 1 ? 0 : -ETIME;
}

static int probe_many_messages(struct probe *probe, uint32_t unused)
{
    (void)unused;
    struct probe_address address;
    char byte = 'x';
    struct iovec bytes = {.iov_base = &byte, .iov_len = 1};
    struct mmsghdr message = {
        .msg_hdr = {.msg_name = &address.name, .msg_iov = &bytes, .msg_iovlen = 1}};
    int receiver = ru_probe_trials_bound(probe, SOCK_DGRAM, &address);
    int sender = probe_socket(probe, SOCK_DGRAM);
    if (receiver < 0 || sender < 0)
        return receiver < 0 ? receiver : sender;
    message.msg_hdr.msg_namelen = address.size;
    if (sendmmsg(sender, &message, 1, MSG_DONTWAIT) != 1 ||
        recvmmsg(receiver, &message, 1, MSG_DONTWAIT, NULL) != 1)
        return -errno;
    return 0;
}

static int probe_arena(struct probe *probe, uint32_t unused)
{
    (void)unused;
    int fd = probe_keep(probe, memfd_create("raida-uring-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    return fd < 0 ? fd : ru_arena_reserve(fd, PROBE_PAGE);
}

/* ---- all of them ---- */

const struct probe_trial ru_probe_trials[] = {
    {"setup", probe_setup, 0, 0, HAVE_RING, false},
    {"register", probe_register, 0, HAVE_RING, HAVE_REGISTER, true},
    {"enter", probe_enter, 0, HAVE_RING, HAVE_ENTER, true},
    {"fast_poll", probe_feature, IORING_FEAT_FAST_POLL, HAVE_RING, 0, false},
    {"ext_arg", probe_feature, IORING_FEAT_EXT_ARG, HAVE_RING, 0, false},
    {"cqe_skip", probe_feature, IORING_FEAT_CQE_SKIP, HAVE_RING, 0, false},
    {"linked_file", probe_feature, IORING_FEAT_LINKED_FILE, HAVE_RING, 0, false},
    {"submit_all", probe_setup, IORING_SETUP_SUBMIT_ALL, HAVE_RING, 0, false},
    {"coop_taskrun", probe_setup, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, HAVE_RING,
     0, false},
    {"single_issuer", probe_setup, IORING_SETUP_SINGLE_ISSUER, HAVE_RING, 0, false},
    {"defer_taskrun", probe_setup, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
     HAVE_RING, 0, false},
    {"no_sqarray", probe_setup, PROBE_SETUP_NO_SQARRAY, HAVE_RING, 0, false},
    {"registered_files", probe_files, 0, HAVE_RING | HAVE_REGISTER, 0, true},
    {"registered_ring", probe_ring_fd, 0, HAVE_RING | HAVE_REGISTER, 0, true},
    {"buffer_ring", probe_buffer_ring, 0, HAVE_RING | HAVE_REGISTER, 0, true},
    {"incremental_buffers", probe_buffer_ring, PROBE_BUFFERS_INCREMENTAL, HAVE_RING | HAVE_REGISTER,
     0, true},
    {"restrictions", probe_restrictions, 0, HAVE_ALL, 0, false},
    {"napi", probe_napi, 0, HAVE_RING | HAVE_REGISTER, 0, true},
    {"query", probe_query, 0, HAVE_REGISTER, 0, false},
    {"multishot_accept", probe_accept, 0, HAVE_ALL, 0, true},
    {"multishot_recv", probe_receive, 0, HAVE_ALL, 0, true},
    {"multishot_recv_cap", probe_receive, PROBE_BUFFER, HAVE_ALL, 0, true},
    {"multishot_recvmsg", probe_receive_message, 0, HAVE_ALL, 0, true},
    {"send_address", probe_send_address, 0, HAVE_ALL, 0, true},
    {"cancel_flags", probe_cancel_flags, 0, HAVE_ALL, 0, true},
    {"sync_cancel", probe_sync_cancel, 0, HAVE_ALL, 0, true},
    {"send_zc", probe_opcode, IORING_OP_SEND_ZC, HAVE_REGISTER, 0, false},
    {"sendmsg_zc", probe_opcode, IORING_OP_SENDMSG_ZC, HAVE_REGISTER, 0, false},
    {"msg_ring", probe_opcode, IORING_OP_MSG_RING, HAVE_REGISTER, 0, false},
    {"send_msg_ring", probe_message, 0, HAVE_ALL, 0, true},
    {"bundles", probe_feature, PROBE_FEAT_RECVSEND_BUNDLE, HAVE_RING, 0, false},
    {"min_wait", probe_feature, PROBE_FEAT_MIN_TIMEOUT, HAVE_RING, 0, false},
    {"no_iowait", probe_feature, PROBE_FEAT_NO_IOWAIT, HAVE_RING, 0, false},
    {"epoll", probe_epoll, 0, 0, 0, false},
    {"mmsg", probe_many_messages, 0, 0, 0, false},
    {"memfd", probe_arena, 0, 0, 0, false},
};

const uint32_t ru_probe_trials_count = sizeof(ru_probe_trials) / sizeof(ru_probe_trials[0]);
