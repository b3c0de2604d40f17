/* peer_mmsg.c: the smallest recvmmsg/sendmmsg + epoll responder; a yardstick for the node.
 *
 * UDP in batches of 64, TCP by accept4 until it would block, one request per connection. A
 * connection is tried at once after accept and meets epoll only when its request is incomplete.
 * One thread; ends on SIGTERM.
 */
#define _GNU_SOURCE
#include "peer.h"

#include <errno.h>
#include <sys/epoll.h>

enum {
    BATCH = 64,
    BATCHES_MAX = 16, /* of datagrams before TCP gets its turn */
    CONNECTIONS_MAX = 20000,
};

/* Request so far, by descriptor. Pages are touched only by requests that come in pieces. */
static struct {
    size_t bytes;
    uint8_t request[PEER_REQUEST_BYTES_MAX];
} partial[CONNECTIONS_MAX];

static struct peer peer;
static uint8_t requests[BATCH][PEER_REQUEST_BYTES_MAX];
static uint8_t replies[BATCH][PEER_REPLY_BYTES_MAX];
static struct sockaddr_in names[BATCH];
static struct iovec request_iov[BATCH], reply_iov[BATCH];
static struct mmsghdr incoming[BATCH], outgoing[BATCH];

static void udp_prepare(void)
{
    for (int i = 0; i < BATCH; i++) {
        request_iov[i] = (struct iovec){requests[i], sizeof requests[i]};
        incoming[i].msg_hdr = (struct msghdr){
            .msg_name = &names[i],
            .msg_namelen = sizeof names[i],
            .msg_iov = &request_iov[i],
            .msg_iovlen = 1,
        };
    }
}

static void udp_serve(int fd)
{
    /* Until none is left: asking epoll after each batch would cost a call per batch. */
    int count = 1;
    for (int batch = 0; count > 0 && batch < BATCHES_MAX; batch++) {
        count = recvmmsg(fd, incoming, BATCH, MSG_DONTWAIT, NULL);
        unsigned int answers = 0;
        for (int i = 0; i < count; i++) {
            size_t bytes =
                peer_answer_datagram(&peer, requests[i], incoming[i].msg_len, replies[i]);
            if (bytes == 0)
                continue;
            reply_iov[answers] = (struct iovec){replies[i], bytes};
            outgoing[answers].msg_hdr = (struct msghdr){
                .msg_name = &names[i],
                .msg_namelen = sizeof names[i],
                .msg_iov = &reply_iov[answers],
                .msg_iovlen = 1,
            };
            answers++;
        }
        for (unsigned int done = 0; done < answers;) {
            int sent = sendmmsg(fd, outgoing + done, answers - done, MSG_DONTWAIT);
            done += sent > 0 ? (unsigned int)sent : 1; /* one that cannot be sent is skipped */
        }
    }
}

/* Read, and answer and close when the request is whole. False: more is needed. */
static bool tcp_serve(int fd)
{
    uint8_t *request = partial[fd].request;
    ssize_t count =
        recv(fd, request + partial[fd].bytes, sizeof partial[fd].request - partial[fd].bytes, 0);
    if (count < 0 && errno == EAGAIN)
        return false;
    if (count > 0) {
        uint8_t reply[PEER_REPLY_BYTES_MAX];
        partial[fd].bytes += (size_t)count;
        size_t bytes = peer_answer_stream(&peer, request, partial[fd].bytes, reply);
        if (bytes == 0)
            return false;
        (void)send(fd, reply, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    close(fd);
    return true;
}

static void tcp_accept(int listener, int epoll_fd)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= CONNECTIONS_MAX) {
            close(fd);
            continue;
        }
        partial[fd].bytes = 0;
        if (tcp_serve(fd))
            continue;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv)
{
    uint16_t port = peer_arguments(argc, argv, &peer);
    int udp = peer_bind(SOCK_DGRAM, port);
    int listener = peer_bind(SOCK_STREAM, port);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = udp};
    peer_require(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, udp, &event) == 0, "epoll_ctl");
    event.data.fd = listener;
    peer_require(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) == 0, "epoll_ctl");
    udp_prepare();
    peer_ready();
    for (;;) {
        struct epoll_event events[BATCH];
        int count = epoll_wait(epoll_fd, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == udp)
                udp_serve(udp);
            else if (fd == listener)
                tcp_accept(listener, epoll_fd);
            else
                (void)tcp_serve(fd);
        }
    }
}
