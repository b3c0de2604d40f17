/* loadgen_tcp.c: load over TCP, one request per connection.
 *
 * The client side of a connection costs more than the server's, so a descriptor is reused:
 * connect(AF_UNSPEC) drops the finished connection with a reset (which also spares both ends
 * TIME_WAIT) and the next connect() is a new connection from a new port. Only the hang-up is watched
 * (edge-triggered): four system calls per request.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loadgen_run.h"

struct tcp_conn {
    int fd;
    uint16_t tag;
    bool connected; /* a request is under way */
    bool wants_out; /* EPOLLOUT is subscribed */
    uint32_t request_done;
    uint32_t reply_bytes;
    uint32_t turn;
    uint64_t since_ns;
    const uint8_t *request;
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
    uint8_t *requests; /* a copy for each connection: only the tag is rewritten; variants: unused */
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

static size_t tcp_variant(const struct tcp_run *run, const struct tcp_conn *conn)
{
    return (size_t)conn->turn * run->load->window + (size_t)(conn - run->conns);
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
    int rc = lg_load_address(run->load, &run->address);
    if (rc == 0)
        rc = lg_exchange_copy(&run->exchange, exchange);
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
        conn->tag = (uint16_t)run->conns_count;
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
    uint32_t next_turn = 0;
    if (!ended || conn->reply_bytes == 0) {
        run->result->lost++;
    } else if (!lg_reply_matches(&run->exchange, tcp_variant(run, conn), conn->reply,
                                 conn->reply_bytes) ||
               tag_read(conn->reply, run->exchange.reply_tag_offset) != conn->tag) {
        run->result->wrong++;
    } else {
        run->result->answered++;
        run->last_answer_ns = now;
        lg_histogram_record(&run->result->latency_ns, now - conn->since_ns);
        next_turn = (conn->turn + 1) % run->exchange.turns;
    }
    conn->turn = next_turn;
    (void)connect(conn->fd, &unspecified, sizeof unspecified);
    conn->connected = false;
    run->open_count--;
}

static void tcp_take_request(struct tcp_run *run, struct tcp_conn *conn)
{
    size_t bytes = run->exchange.request_bytes;
    if (run->exchange.variants != NULL) { /* they have their tag */
        conn->request = run->exchange.variants + tcp_variant(run, conn) * bytes;
        return;
    }
    uint8_t *request = run->requests + (size_t)(conn - run->conns) * bytes;
    memcpy(request, run->exchange.request, bytes);
    tag_write(request, run->exchange.request_tag_offset, ++conn->tag);
    conn->request = request;
}

static bool tcp_goes_on(const struct tcp_run *run, const struct tcp_conn *conn, uint64_t now)
{
    return now < run->stop_ns || conn->turn % run->exchange.round != 0;
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
    tcp_take_request(run, conn);
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
    return tcp_goes_on(run, conn, now) ? tcp_connect(run, conn, now) : 0;
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
        int rc = !conn->connected && tcp_goes_on(run, conn, now) ? tcp_connect(run, conn, now) : 0;
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
