/* loadgen_udp.c: load over UDP.
 *
 * One connected socket (the kernel caches its route), sendmmsg and recvmmsg in batches. A tag is slot
 * index | generation: it finds the request of an answer without a search, and an answer after its
 * time-out is recognised as stray.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loadgen_run.h"

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
    int rc = lg_load_address(load, &address);
    if (rc < 0)
        return rc;
    uint32_t window = load->window;
    if (window == 0 || window > LG_WINDOW_MAX || (window & (window - 1)) != 0)
        return -EINVAL;
    struct udp_run *run = calloc(1, sizeof *run);
    if (run == NULL)
        return -ENOMEM;
    run->load = load;
    run->fd = -1;
    run->generation_step = exchange->variants ? 0 : (uint16_t)window;
    rc = lg_exchange_copy(&run->exchange, exchange);
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

static size_t udp_variant(const struct udp_run *run, uint16_t index)
{
    return (size_t)run->slots[index].turn * run->load->window + index;
}

/* When the next request that may leave now was intended; 0: none may. `now` in a closed loop. */
static uint64_t udp_since_ns(const struct udp_run *run, uint64_t now, uint64_t stop_ns)
{
    if (run->load->rate_per_s == 0)
        return now < stop_ns ? now : 0;
    uint64_t due = udp_due_ns(run);
    bool late = now >= stop_ns + run->load->timeout_ms * NS_PER_MS;
    return due > now || due >= stop_ns || late ? 0 : due;
}

/* Fill one batch with requests that may leave now. Returns their number. */
static uint32_t udp_fill(struct udp_run *run, uint64_t now, uint64_t stop_ns)
{
    uint32_t count = 0;
    while (count < BATCH && run->free_count > 0) {
        uint64_t since = udp_since_ns(run, now, stop_ns);
        if (since == 0 && now < stop_ns)
            break;
        uint16_t index = run->free_slots[--run->free_count];
        struct udp_slot *slot = &run->slots[index];
        if (since == 0 && slot->turn % run->exchange.round == 0) {
            run->ended++;
            continue;
        }
        if (since == 0)
            since = now; /* the rest of a round */
        else if (run->load->rate_per_s > 0)
            run->scheduled++;
        slot->tag = (uint16_t)(slot->tag + run->generation_step);
        slot->since_ns = since;
        slot->deadline_ns = now + run->load->timeout_ms * NS_PER_MS;
        slot->in_flight = true;
        if (run->exchange.variants != NULL) /* has its tag; sendmmsg() only reads it */
            run->request_iov[index].iov_base =
                (void *)(uintptr_t)(run->exchange.variants +
                                    udp_variant(run, index) * run->exchange.request_bytes);
        else
            tag_write(run->request_iov[index].iov_base, run->exchange.request_tag_offset,
                      slot->tag);
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
    if (!lg_reply_matches(exchange, udp_variant(run, index), reply, bytes)) {
        run->result->wrong++;
        udp_release(run, index, 0);
        return;
    }
    run->result->answered++;
    run->last_answer_ns = now;
    lg_histogram_record(&run->result->latency_ns, now - slot->since_ns);
    udp_release(run, index, (slot->turn + 1) % exchange->turns);
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
