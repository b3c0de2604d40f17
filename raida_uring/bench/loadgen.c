/* loadgen.c: what the load generator's transports share.
 *
 * Why C: the generator must not be the bottleneck; with one core it has to outrun any server.
 * Owner: one thread per call; all state is in struct udp_run or struct tcp_run.
 * Memory: allocated when a run starts, freed when it ends; none in between.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loadgen_run.h"

bool lg_reply_matches(const struct lg_exchange *exchange, size_t number, const uint8_t *reply,
                      size_t bytes)
{
    const uint8_t *expected = exchange->reply;
    if (bytes != exchange->reply_bytes)
        return false;
    if (exchange->variants != NULL && exchange->replies != NULL)
        expected = exchange->replies + number * exchange->reply_bytes;
    uint8_t difference = 0;
    for (size_t i = 0; i < bytes; i++)
        difference |= (uint8_t)((reply[i] ^ expected[i]) & exchange->reply_mask[i]);
    return difference == 0;
}

int lg_exchange_copy(struct lg_exchange *copy, const struct lg_exchange *exchange)
{
    if (exchange->request_bytes > LG_REQUEST_BYTES_MAX ||
        exchange->reply_bytes > LG_REPLY_BYTES_MAX ||
        exchange->request_tag_offset + LG_TAG_BYTES > exchange->request_bytes ||
        exchange->reply_tag_offset + LG_TAG_BYTES > exchange->reply_bytes)
        return -EINVAL;
    if (exchange->variants != NULL &&
        (exchange->round == 0 || exchange->turns == 0 || exchange->turns % exchange->round != 0))
        return -EINVAL;
    *copy = *exchange;
    if (exchange->variants == NULL)
        copy->turns = copy->round = 1;
    memset(copy->reply_mask + copy->reply_tag_offset, 0, LG_TAG_BYTES);
    return 0;
}

int lg_load_address(const struct lg_load *load, struct sockaddr_in *address)
{
    if (memchr(load->host, 0, sizeof load->host) == NULL || load->duration_ms == 0 ||
        load->timeout_ms == 0 || load->port == 0)
        return -EINVAL;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(load->port)};
    return inet_pton(AF_INET, load->host, &address->sin_addr) == 1 ? 0 : -EINVAL;
}

/* -- system calls of another thread ------------------------------------------------------------ */

int lg_syscall_counter_open(int32_t tid, uint64_t tracepoint_id)
{
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_TRACEPOINT, .size = sizeof attributes, .config = tracepoint_id};
    long fd = syscall(SYS_perf_event_open, &attributes, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}
