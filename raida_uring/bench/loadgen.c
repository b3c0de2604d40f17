/* loadgen.c: load generator of the benchmark.
 *
 * Why C: the generator must not be the bottleneck; with one core it has to outrun any server.
 * Owner: one thread per call; all state is in struct udp_run or struct tcp_run.
 * Memory: allocated when a run starts, freed when it ends; none in between.
 *
 * UDP. One connected socket (the kernel caches its route), sendmmsg and recvmmsg in batches. A tag
 * is slot index | generation: it finds the request of an answer without a search, and an answer
 * after its time-out is recognised as stray.
 *
 * TCP, one request per connection. The client side of a connection costs more than the server's,
 * so a descriptor is reused: connect(AF_UNSPEC) drops the finished connection with a reset (which
 * also spares both ends TIME_WAIT) and the next connect() is a new connection from a new port.
 * Only the hang-up is watched (edge-triggered): four system calls per request.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 64,                      /* messages per sendmmsg or recvmmsg, events per epoll_wait */
    SCAN_INTERVAL_NS = 10 * 1000000, /* between checks for time-outs; also the longest sleep */
};

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* -- shared by both transports ----------------------------------------------------------------- */

static void tag_write(uint8_t *message, uint32_t offset, uint16_t tag)
{
    message[offset] = (uint8_t)(tag >> 8);
    message[offset + 1] = (uint8_t)tag;
}

static uint16_t tag_read(const uint8_t *message, uint32_t offset)
{
    return (uint16_t)(message[offset] << 8 | message[offset + 1]);
}

/* Compares everything but the tag, whose bytes the caller's template masks out. */
static bool reply_matches(const struct lg_exchange *exchange, const uint8_t *reply, size_t bytes)
{
    if (bytes != exchange->reply_bytes)
        return false;
    uint8_t difference = 0;
    for (size_t i = 0; i < bytes; i++)
        difference |= (uint8_t)((reply[i] ^ exchange->reply[i]) & exchange->reply_mask[i]);
    return difference == 0;
}

/* A private copy with the tag's bytes masked out, since they differ per request. */
static int exchange_copy(struct lg_exchange *copy, const struct lg_exchange *exchange)
{
    if (exchange->request_bytes > LG_REQUEST_BYTES_MAX ||
        exchange->reply_bytes > LG_REPLY_BYTES_MAX ||
        exchange->request_tag_offset + LG_TAG_BYTES > exchange->request_bytes ||
        exchange->reply_tag_offset + LG_TAG_BYTES > exchange->reply_bytes)
        return -EINVAL;
    *copy = *exchange;
    memset(copy->reply_mask + copy->reply_tag_offset, 0, LG_TAG_BYTES);
    return 0;
}

static int load_address(const struct lg_load *load, struct sockaddr_in *address)
{
    if (memchr(load->host, 0, sizeof load->host) == NULL || load->duration_ms == 0 ||
        load->timeout_ms == 0 || load->port == 0)
        return -EINVAL;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(load->port)};
    return inet_pton(AF_INET, load->host, &address->sin_addr) == 1 ? 0 : -EINVAL;
}

/* -- UDP -------------------------------------------------------------------------------------- */

struct udp_slot {
    uint64_t since_ns; /* start of its latency */
    uint64_t deadline_ns;
    uint32_t turn;
    uint16_t tag;
    bool in_flight;
};

struct udp_run {
    const struct lg_load *load;
    struct lg_exchange exchange;
    struct lg_result *result;
    int fd;
    uint16_t generation_step; /* window: the tag's low bits are the slot */
    uint64_t start_ns;
    uint64_t last_answer_ns;
    uint64_t next_scan_ns;
    uint64_t scheduled; /* open loop: requests whose intended time has been used */

    struct udp_slot *slots;
    uint8_t *requests; /* window copies of the request, one per slot: only the tag is rewritten */
    struct iovec *request_iov;
    uint16_t *free_slots;
    uint32_t free_count;
    uint32_t ended; /* closed loop: slots that send nothing more */

    uint8_t replies[BATCH][LG_REPLY_BYTES_MAX];
    struct iovec reply_iov[BATCH];
    struct mmsghdr incoming[BATCH];
    struct mmsghdr outgoing[BATCH];
};

static void udp_close(struct udp_run *run)
{
    if (run->fd >= 0)
        close(run->fd);
    free(run->slots);
    free(run->requests);
    free(run->request_iov);
    free(run->free_slots);
    free(run);
}

static int udp_socket(struct udp_run *run, const struct sockaddr_in *address)
{
    run->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (run->fd < 0)
        return -errno;
    int bytes =
        4 << 20; /* the kernel caps it; a full buffer here would count as a loss of the server */
    (void)setsockopt(run->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (connect(run->fd, (const struct sockaddr *)address, sizeof *address) < 0)
        return -errno;
    return 0;
}

static int udp_open(const struct lg_load *load, const struct lg_exchange *exchange,
                    struct udp_run **opened)
{
    struct sockaddr_in address;
    int rc = load_address(load, &address);
    if (rc < 0)
        return rc;
    uint32_t window = load->window;
    if (window == 0 || window > LG_WINDOW_MAX || (window & (window - 1)) != 0)
        return -EINVAL;
    if (exchange->variants && (exchange->turns == 0 || load->rate_per_s > 0))
        return -EINVAL;
    struct udp_run *run = calloc(1, sizeof *run);
    if (run == NULL)
        return -ENOMEM;
    run->load = load;
    run->fd = -1;
    run->generation_step = exchange->variants ? 0 : (uint16_t)window;
    rc = exchange_copy(&run->exchange, exchange);
    if (rc == 0)
        rc = udp_socket(run, &address);
    run->slots = calloc(window, sizeof *run->slots);
    run->requests = calloc(window, run->exchange.request_bytes + 1);
    run->request_iov = calloc(window, sizeof *run->request_iov);
    run->free_slots = calloc(window, sizeof *run->free_slots);
    if (rc == 0 && (run->slots == NULL || run->requests == NULL || run->request_iov == NULL ||
                    run->free_slots == NULL))
        rc = -ENOMEM;
    if (rc < 0) {
        udp_close(run);
        return rc;
    }
    size_t request_bytes = run->exchange.request_bytes;
    for (uint32_t i = 0; i < window; i++) {
        uint8_t *request = run->requests + i * request_bytes;
        memcpy(request, run->exchange.request, request_bytes);
        run->request_iov[i] = (struct iovec){.iov_base = request, .iov_len = request_bytes};
        run->slots[i].tag = (uint16_t)i;
        run->free_slots[i] = (uint16_t)(window - 1 - i);
    }
    run->free_count = window;
    for (uint32_t i = 0; i < BATCH; i++) {
        run->reply_iov[i] = (struct iovec){run->replies[i], LG_REPLY_BYTES_MAX};
        run->incoming[i].msg_hdr = (struct msghdr){.msg_iov = &run->reply_iov[i], .msg_iovlen = 1};
    }
    *opened = run;
    return 0;
}

/* Time at which request number `scheduled` should leave; open loop only. */
static uint64_t udp_due_ns(const struct udp_run *run)
{
    return run->start_ns + run->scheduled * NS_PER_S / run->load->rate_per_s;
}

static void udp_take_variant(struct udp_run *run, uint16_t index)
{
    size_t number = (size_t)run->slots[index].turn * run->load->window + index;
    size_t bytes = run->exchange.request_bytes;
    memcpy(run->requests + index * bytes, run->exchange.variants + number * bytes, bytes);
}

/* Fill one batch with requests that may leave now. Returns their number. */
static uint32_t udp_fill(struct udp_run *run, uint64_t now, uint64_t stop_ns)
{
    uint32_t count = 0;
    while (count < BATCH && run->free_count > 0) {
        uint64_t since = now;
        if (run->load->rate_per_s > 0) {
            since = udp_due_ns(run);
            if (since > now || since >= stop_ns ||
                now >= stop_ns + run->load->timeout_ms * NS_PER_MS)
                break;
            run->scheduled++;
        }
        uint16_t index = run->free_slots[--run->free_count];
        struct udp_slot *slot = &run->slots[index];
        if (run->load->rate_per_s == 0 && now >= stop_ns && slot->turn == 0) {
            run->ended++;
            continue;
        }
        slot->tag = (uint16_t)(slot->tag + run->generation_step);
        slot->since_ns = since;
        slot->deadline_ns = now + run->load->timeout_ms * NS_PER_MS;
        slot->in_flight = true;
        if (run->exchange.variants != NULL)
            udp_take_variant(run, index);
        tag_write(run->request_iov[index].iov_base, run->exchange.request_tag_offset, slot->tag);
        run->outgoing[count].msg_hdr =
            (struct msghdr){.msg_iov = &run->request_iov[index], .msg_iovlen = 1};
        count++;
    }
    return count;
}

static int udp_send(struct udp_run *run, uint32_t count)
{
    uint32_t done = 0;
    while (done < count) {
        int sent = sendmmsg(run->fd, run->outgoing + done, count - done, 0);
        if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
            struct pollfd writable = {.fd = run->fd, .events = POLLOUT};
            (void)poll(&writable, 1, 1);
            continue;
        }
        if (sent < 0)
            return -errno;
        done += (uint32_t)sent;
    }
    run->result->sent += count;
    return 0;
}

static void udp_release(struct udp_run *run, uint16_t index, uint32_t next_turn)
{
    run->slots[index].in_flight = false;
    run->slots[index].turn = next_turn;
    run->free_slots[run->free_count++] = index;
}

static void udp_reply(struct udp_run *run, const uint8_t *reply, size_t bytes, uint64_t now)
{
    const struct lg_exchange *exchange = &run->exchange;
    if (bytes < exchange->reply_tag_offset + LG_TAG_BYTES) {
        run->result->stray++;
        return;
    }
    uint16_t tag = tag_read(reply, exchange->reply_tag_offset);
    uint16_t index = tag & (uint16_t)(run->load->window - 1);
    struct udp_slot *slot = &run->slots[index];
    if (!slot->in_flight || slot->tag != tag) {
        run->result->stray++;
        return;
    }
    if (!reply_matches(exchange, reply, bytes)) {
        run->result->wrong++;
        udp_release(run, index, 0);
        return;
    }
    run->result->answered++;
    run->last_answer_ns = now;
    lg_histogram_record(&run->result->latency_ns, now - slot->since_ns);
    udp_release(run, index, exchange->variants ? (slot->turn + 1) % exchange->turns : 0);
}

/* Receive at most one batch. Returns the number of datagrams or -errno. */
static int udp_receive(struct udp_run *run)
{
    int count = recvmmsg(run->fd, run->incoming, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++)
        udp_reply(run, run->replies[i], run->incoming[i].msg_len, now);
    return count;
}

static void udp_expire(struct udp_run *run, uint64_t now)
{
    if (now < run->next_scan_ns)
        return;
    run->next_scan_ns = now + SCAN_INTERVAL_NS;
    for (uint32_t i = 0; i < run->load->window; i++) {
        if (!run->slots[i].in_flight || now < run->slots[i].deadline_ns)
            continue;
        run->result->lost++;
        udp_release(run, (uint16_t)i, 0);
    }
}

/* Sleep until a datagram arrives, the next intended send, or the next check for time-outs. */
static void udp_sleep(const struct udp_run *run, uint64_t now, uint64_t stop_ns)
{
    uint64_t until = now + SCAN_INTERVAL_NS;
    if (now < stop_ns && run->load->rate_per_s > 0 && run->free_count > 0 &&
        udp_due_ns(run) < until)
        until = udp_due_ns(run);
    if (until <= now)
        return;
    struct timespec wait = {.tv_nsec = (long)(until - now)};
    struct pollfd readable = {.fd = run->fd, .events = POLLIN};
    (void)ppoll(&readable, 1, &wait, NULL);
}

static int udp_loop(struct udp_run *run)
{
    run->start_ns = run->last_answer_ns = now_ns();
    uint64_t stop_ns = run->start_ns + run->load->duration_ms * NS_PER_MS;
    for (;;) {
        uint64_t now = now_ns();
        uint32_t filled = udp_fill(run, now, stop_ns);
        int rc = udp_send(run, filled);
        if (rc < 0)
            return rc;
        if (now >= stop_ns && run->free_count + run->ended == run->load->window)
            break;
        if (filled == 0 && !run->load->busy_poll)
            udp_sleep(run, now, stop_ns);
        rc = udp_receive(run);
        if (rc < 0)
            return rc;
        udp_expire(run, now);
    }
    /* Open loop: requests that never found a free slot count as lost. */
    for (; run->load->rate_per_s > 0 && udp_due_ns(run) < stop_ns; run->scheduled++) {
        run->result->sent++;
        run->result->lost++;
    }
    run->result->elapsed_ns = run->last_answer_ns - run->start_ns;
    return 0;
}

int lg_udp_run(const struct lg_load *load, const struct lg_exchange *exchange,
               struct lg_result *result)
{
    struct udp_run *run;
    int rc = udp_open(load, exchange, &run);
    if (rc < 0)
        return rc;
    memset(result, 0, sizeof *result);
    run->result = result;
    rc = udp_loop(run);
    udp_close(run);
    return rc;
}

/* -- TCP -------------------------------------------------------------------------------------- */

struct tcp_conn {
    int fd;
    uint16_t tag;
    bool connected; /* a request is under way */
    bool wants_out; /* EPOLLOUT is subscribed */
    uint32_t request_done;
    uint32_t reply_bytes;
    uint64_t since_ns;
    uint8_t *request;
    uint8_t reply[LG_REPLY_BYTES_MAX + 1]; /* one more shows that a reply is too long */
};

struct tcp_run {
    const struct lg_load *load;
    struct lg_exchange exchange;
    struct lg_result *result;
    struct sockaddr_in address;
    int epoll_fd;
    uint64_t start_ns, stop_ns, last_answer_ns, next_scan_ns;
    uint32_t open_count; /* connections with a request */
    uint32_t conns_count;
    struct tcp_conn *conns;
    uint8_t *requests; /* a copy for each connection: only the tag is rewritten */
};

static void tcp_close(struct tcp_run *run)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0}; /* close without TIME_WAIT */
    for (uint32_t i = 0; i < run->conns_count; i++) {
        (void)setsockopt(run->conns[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        (void)close(run->conns[i].fd); /* -1 if the last one could not be opened */
    }
    if (run->epoll_fd >= 0)
        close(run->epoll_fd);
    free(run->conns);
    free(run->requests);
    free(run);
}

/* The reply is read only once, when the connection has ended. */
static int tcp_subscribe(struct tcp_run *run, struct tcp_conn *conn, int operation, bool out)
{
    struct epoll_event event = {
        .events = EPOLLET | EPOLLRDHUP | (out ? EPOLLOUT : 0u),
        .data.u32 = (uint32_t)(conn - run->conns),
    };
    conn->wants_out = out;
    return epoll_ctl(run->epoll_fd, operation, conn->fd, &event) < 0 ? -errno : 0;
}

static int tcp_open(struct tcp_run *run, const struct lg_exchange *exchange)
{
    const int on = 1;
    uint32_t window = run->load->window;
    if (window == 0 || window > LG_CONNECTIONS_MAX || run->load->rate_per_s != 0)
        return -EINVAL;
    int rc = load_address(run->load, &run->address);
    if (rc == 0)
        rc = exchange_copy(&run->exchange, exchange);
    if (rc < 0)
        return rc;
    if ((run->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return -errno;
    run->conns = calloc(window, sizeof *run->conns);
    run->requests = calloc(window, exchange->request_bytes);
    if (run->conns == NULL || run->requests == NULL)
        return -ENOMEM;
    for (; rc == 0 && run->conns_count < window; run->conns_count++) {
        struct tcp_conn *conn = &run->conns[run->conns_count];
        conn->request = run->requests + (size_t)run->conns_count * exchange->request_bytes;
        memcpy(conn->request, exchange->request, exchange->request_bytes);
        conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        rc = conn->fd < 0 ? -errno : tcp_subscribe(run, conn, EPOLL_CTL_ADD, false);
        (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return rc;
}

/* Send the rest of the request. 0, also if the kernel accepts no more now; -errno: connection ended. */
static int tcp_flush(struct tcp_run *run, struct tcp_conn *conn)
{
    while (conn->request_done < run->exchange.request_bytes) {
        ssize_t sent = send(conn->fd, conn->request + conn->request_done,
                            run->exchange.request_bytes - conn->request_done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return conn->wants_out ? 0 : tcp_subscribe(run, conn, EPOLL_CTL_MOD, true);
        if (sent < 0)
            return -errno;
        conn->request_done += (uint32_t)sent;
    }
    return 0;
}

/* Count the request, and drop its connection. ended: by the server, so what has come is the reply. */
static void tcp_finish(struct tcp_run *run, struct tcp_conn *conn, bool ended, uint64_t now)
{
    const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    if (!ended || conn->reply_bytes == 0) {
        run->result->lost++;
    } else if (!reply_matches(&run->exchange, conn->reply, conn->reply_bytes) ||
               tag_read(conn->reply, run->exchange.reply_tag_offset) != conn->tag) {
        run->result->wrong++;
    } else {
        run->result->answered++;
        run->last_answer_ns = now;
        lg_histogram_record(&run->result->latency_ns, now - conn->since_ns);
    }
    (void)connect(conn->fd, &unspecified, sizeof unspecified);
    conn->connected = false;
    run->open_count--;
}

/* Start a new connection on the idle descriptor, with its request. Fatal errors only. */
static int tcp_connect(struct tcp_run *run, struct tcp_conn *conn, uint64_t now)
{
    int rc = conn->wants_out ? tcp_subscribe(run, conn, EPOLL_CTL_MOD, false) : 0;
    if (rc < 0)
        return rc;
    if (connect(conn->fd, (const struct sockaddr *)&run->address, sizeof run->address) < 0 &&
        errno != EINPROGRESS)
        return -errno;
    tag_write(conn->request, run->exchange.request_tag_offset, ++conn->tag);
    conn->request_done = conn->reply_bytes = 0;
    conn->since_ns = now;
    conn->connected = true;
    run->open_count++;
    run->result->sent++;
    rc = tcp_flush(run, conn);
    if (rc == -ECONNREFUSED)
        return rc; /* on loopback a refusal is known before the first send */
    if (rc < 0)
        tcp_finish(run, conn, false, now);
    return 0;
}

static int tcp_event(struct tcp_run *run, const struct epoll_event *event, uint64_t now)
{
    struct tcp_conn *conn = &run->conns[event->data.u32];
    if (!conn->connected)
        return 0;
    bool ended = event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (ended) {
        ssize_t count = recv(conn->fd, conn->reply, sizeof conn->reply, 0);
        conn->reply_bytes = count > 0 ? (uint32_t)count : 0;
    } else if (tcp_flush(run, conn) == 0) {
        return 0;
    }
    tcp_finish(run, conn, ended, now);
    return now < run->stop_ns ? tcp_connect(run, conn, now) : 0;
}

static int tcp_expire(struct tcp_run *run, uint64_t now)
{
    if (now < run->next_scan_ns)
        return 0;
    run->next_scan_ns = now + SCAN_INTERVAL_NS;
    for (uint32_t i = 0; i < run->load->window; i++) {
        struct tcp_conn *conn = &run->conns[i];
        if (conn->connected && now >= conn->since_ns + run->load->timeout_ms * NS_PER_MS)
            tcp_finish(run, conn, false, now);
        int rc = !conn->connected && now < run->stop_ns ? tcp_connect(run, conn, now) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int tcp_loop(struct tcp_run *run)
{
    run->start_ns = run->last_answer_ns = now_ns();
    run->stop_ns = run->start_ns + run->load->duration_ms * NS_PER_MS;
    for (uint64_t now = run->start_ns; now < run->stop_ns || run->open_count > 0; now = now_ns()) {
        int rc = tcp_expire(run, now); /* its first call opens every connection */
        if (rc < 0)
            return rc;
        struct epoll_event events[BATCH];
        int wait_ms = run->load->busy_poll ? 0 : SCAN_INTERVAL_NS / (int)NS_PER_MS;
        int count = epoll_wait(run->epoll_fd, events, BATCH, wait_ms);
        if (count < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < count; i++) {
            rc = tcp_event(run, &events[i], now_ns());
            if (rc < 0)
                return rc;
        }
    }
    run->result->elapsed_ns = run->last_answer_ns - run->start_ns;
    return 0;
}

int lg_tcp_run(const struct lg_load *load, const struct lg_exchange *exchange,
               struct lg_result *result)
{
    struct tcp_run *run = calloc(1, sizeof *run);
    if (run == NULL)
        return -ENOMEM;
    memset(result, 0, sizeof *result);
    run->load = load;
    run->result = result;
    run->epoll_fd = -1;
    int rc = tcp_open(run, exchange);
    if (rc == 0)
        rc = tcp_loop(run);
    tcp_close(run);
    return rc;
}

/* -- system calls of another thread ------------------------------------------------------------ */

int lg_syscall_counter_open(int32_t tid, uint64_t tracepoint_id)
{
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_TRACEPOINT, .size = sizeof attributes, .config = tracepoint_id};
    long fd = syscall(SYS_perf_event_open, &attributes, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}
