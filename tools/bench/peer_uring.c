/* peer_uring.c: the smallest io_uring responder; the yardstick the node is held to.
 *
 * One submit-and-wait per lap. UDP: multishot recvmsg into provided buffers; the reply is built
 * in a table beside them, so a slot goes back before the next submit, and leaves by SEND with
 * address, MSG_DONTWAIT and no completion on success. TCP: multishot accept, one recv with a
 * provided buffer, send hard-linked to close, neither with a completion on success.
 * One thread; ends on SIGTERM. Built against liburing 2.3.
 */
#define _GNU_SOURCE
#include "peer.h"

#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>

enum {
    SQ_ENTRIES = 512,
    CQ_ENTRIES = 8192,
    UDP_SLOTS = 512, /* few enough to stay in the second-level cache */
    TCP_SLOTS = 512,
    SLOT_BYTES = 2048,
    UDP_GROUP = 0,
    TCP_GROUP = 1,
    UDP_FILE = 0, /* index in the registered file table */
    LISTENER_FILE = 1,
    REPLIES = 1024, /* more than one lap can send: SQ_ENTRIES are submitted when full */
    CONNECTIONS_MAX = 20000,
};

/* user_data: kind above, descriptor below. */
enum kind {
    KIND_UDP,
    KIND_ACCEPT,
    KIND_RECV,
    KIND_SEND
};

struct buffers {
    struct io_uring_buf_ring *ring;
    uint8_t *slots;
    int count;
    int returned; /* added since the ring's tail was last published */
};

static struct {
    size_t bytes; /* of a request that comes in pieces */
    uint8_t reply[PEER_REPLY_BYTES_MAX];
    uint8_t request[PEER_REQUEST_BYTES_MAX];
} conns[CONNECTIONS_MAX];

static struct peer peer;
static struct io_uring ring;
static struct buffers udp_buffers, tcp_buffers;
static struct msghdr udp_header = {.msg_namelen = sizeof(struct sockaddr_in)};
static struct {
    struct sockaddr_in name;
    uint8_t bytes[PEER_REPLY_BYTES_MAX];
} replies[REPLIES];
static unsigned int reply_index;

static struct io_uring_sqe *sqe_get(enum kind kind, int fd)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    while (sqe == NULL) {
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
    }
    io_uring_sqe_set_data64(sqe, (uint64_t)kind << 32 | (uint32_t)fd);
    return sqe;
}

/* -- buffers --------------------------------------------------------------------------------- */

static void buffers_return(struct buffers *buffers, int slot)
{
    io_uring_buf_ring_add(buffers->ring, buffers->slots + (size_t)slot * SLOT_BYTES, SLOT_BYTES,
                          (unsigned short)slot, io_uring_buf_ring_mask((uint32_t)buffers->count),
                          buffers->returned++);
}

static void buffers_publish(struct buffers *buffers)
{
    io_uring_buf_ring_advance(buffers->ring, buffers->returned);
    buffers->returned = 0;
}

static void buffers_open(struct buffers *buffers, int group, int count)
{
    size_t ring_bytes = (size_t)count * sizeof(struct io_uring_buf);
    size_t bytes = ring_bytes + (size_t)count * SLOT_BYTES;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    peer_require(memory != MAP_FAILED, "mmap");
    *buffers = (struct buffers){memory, (uint8_t *)memory + ring_bytes, count, 0};
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)memory,
        .ring_entries = (uint32_t)count,
        .bgid = (uint16_t)group,
    };
    errno = -io_uring_register_buf_ring(&ring, &registration, 0);
    peer_require(errno == 0, "io_uring_register_buf_ring");
    io_uring_buf_ring_init(buffers->ring);
    for (int slot = 0; slot < count; slot++)
        buffers_return(buffers, slot);
    buffers_publish(buffers);
}

/* -- UDP ------------------------------------------------------------------------------------- */

static void udp_arm(void)
{
    struct io_uring_sqe *sqe = sqe_get(KIND_UDP, 0);
    io_uring_prep_recvmsg_multishot(sqe, UDP_FILE, &udp_header, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = UDP_GROUP;
}

static void udp_received(const struct io_uring_cqe *cqe)
{
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        int slot = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        uint8_t *buffer = udp_buffers.slots + (size_t)slot * SLOT_BYTES;
        struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer, cqe->res, &udp_header);
        if (out != NULL) {
            uint8_t *request = io_uring_recvmsg_payload(out, &udp_header);
            size_t received = io_uring_recvmsg_payload_length(out, cqe->res, &udp_header);
            unsigned int i = reply_index;
            size_t bytes = peer_answer_datagram(&peer, request, received, replies[i].bytes);
            if (bytes > 0) {
                memcpy(&replies[i].name, io_uring_recvmsg_name(out), sizeof replies[i].name);
                struct io_uring_sqe *sqe = sqe_get(KIND_SEND, 0);
                io_uring_prep_send(sqe, UDP_FILE, replies[i].bytes, bytes, MSG_DONTWAIT);
                io_uring_prep_send_set_addr(sqe, (struct sockaddr *)&replies[i].name,
                                            sizeof replies[i].name);
                sqe->flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
                reply_index = (i + 1) % REPLIES;
            }
        }
        buffers_return(&udp_buffers, slot);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        buffers_publish(&udp_buffers);
        udp_arm();
    }
}

/* -- TCP ------------------------------------------------------------------------------------- */

static void tcp_accept_arm(void)
{
    struct io_uring_sqe *sqe = sqe_get(KIND_ACCEPT, 0);
    io_uring_prep_multishot_accept(sqe, LISTENER_FILE, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    sqe->flags |= IOSQE_FIXED_FILE;
}

static void tcp_receive(int fd)
{
    struct io_uring_sqe *sqe = sqe_get(KIND_RECV, fd);
    io_uring_prep_recv(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = TCP_GROUP;
}

static void tcp_close(int fd)
{
    struct io_uring_sqe *sqe = sqe_get(KIND_SEND, fd);
    io_uring_prep_close(sqe, fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void tcp_answer(int fd, size_t bytes)
{
    if (io_uring_sq_space_left(&ring) < 2) /* a link must not straddle two submits */
        io_uring_submit(&ring);
    struct io_uring_sqe *sqe = sqe_get(KIND_SEND, fd);
    io_uring_prep_send(sqe, fd, conns[fd].reply, bytes, MSG_NOSIGNAL | MSG_WAITALL);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_HARDLINK;
    tcp_close(fd);
}

static void tcp_accepted(const struct io_uring_cqe *cqe)
{
    if (cqe->res >= CONNECTIONS_MAX) {
        close(cqe->res);
    } else if (cqe->res >= 0) {
        conns[cqe->res].bytes = 0;
        tcp_receive(cqe->res);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE))
        tcp_accept_arm();
}

static void tcp_received(const struct io_uring_cqe *cqe, int fd)
{
    size_t answer_bytes = 0;
    bool more = cqe->res == -ENOBUFS;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        int slot = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        const uint8_t *request = tcp_buffers.slots + (size_t)slot * SLOT_BYTES;
        size_t bytes = cqe->res > 0 ? (size_t)cqe->res : 0;
        size_t before = conns[fd].bytes;
        if (before > 0 && bytes > 0) {
            if (bytes > PEER_REQUEST_BYTES_MAX - before)
                bytes = PEER_REQUEST_BYTES_MAX - before;
            memcpy(conns[fd].request + before, request, bytes);
            request = conns[fd].request;
        }
        answer_bytes = peer_answer_stream(&peer, request, before + bytes, conns[fd].reply);
        more = answer_bytes == 0 && bytes > 0 && before + bytes < PEER_REQUEST_BYTES_MAX;
        if (more && before == 0)
            memcpy(conns[fd].request, request, bytes);
        conns[fd].bytes = before + bytes;
        buffers_return(&tcp_buffers, slot);
    }
    if (answer_bytes > 0) {
        tcp_answer(fd, answer_bytes);
    } else if (more) {
        buffers_publish(&tcp_buffers);
        tcp_receive(fd);
    } else {
        tcp_close(fd);
    }
}

/* -- the loop -------------------------------------------------------------------------------- */

static void ring_open(int udp, int listener)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                 IORING_SETUP_DEFER_TASKRUN,
        .cq_entries = CQ_ENTRIES,
    };
    errno = -io_uring_queue_init_params(SQ_ENTRIES, &ring, &params);
    peer_require(errno == 0, "io_uring_queue_init_params");
    peer_require(io_uring_register_ring_fd(&ring) == 1, "io_uring_register_ring_fd");
    const int files[] = {udp, listener};
    errno = -io_uring_register_files(&ring, files, 2);
    peer_require(errno == 0, "io_uring_register_files");
    buffers_open(&udp_buffers, UDP_GROUP, UDP_SLOTS);
    buffers_open(&tcp_buffers, TCP_GROUP, TCP_SLOTS);
}

static void lap(void)
{
    struct io_uring_cqe *cqe;
    unsigned int head, seen = 0;
    io_uring_for_each_cqe(&ring, head, cqe) {
        switch ((enum kind)(cqe->user_data >> 32)) {
        case KIND_UDP:
            udp_received(cqe);
            break;
        case KIND_ACCEPT:
            tcp_accepted(cqe);
            break;
        case KIND_RECV:
            tcp_received(cqe, (int)(uint32_t)cqe->user_data);
            break;
        case KIND_SEND: /* only failures come here; the peer's loss */
            break;
        }
        seen++;
    }
    io_uring_cq_advance(&ring, seen);
    buffers_publish(&udp_buffers);
    buffers_publish(&tcp_buffers);
}

int main(int argc, char **argv)
{
    uint16_t port = peer_arguments(argc, argv, &peer);
    ring_open(peer_bind(SOCK_DGRAM, port), peer_bind(SOCK_STREAM, port));
    udp_arm();
    tcp_accept_arm();
    peer_ready();
    for (;;) {
        int rc = io_uring_submit_and_wait(&ring, 1);
        if (rc < 0 && rc != -EINTR && rc != -EBUSY) {
            errno = -rc;
            peer_require(false, "io_uring_submit_and_wait");
        }
        lap();
    }
}
