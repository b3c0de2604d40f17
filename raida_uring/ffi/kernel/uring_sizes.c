/* uring_sizes.c: lengths of a ring's queues, and the memory charged to the memlock limit. Pure
 * except for reading that limit; any thread. */
#include "kernel/uring_sizes.h"

#include <liburing.h>
#include <sys/resource.h>

#define URING_CQ_SLACK 4096
#define URING_LOCKED_SLACK 16384 /* heads of the rings, and rounding to pages */

uint32_t ru_uring_sizes_power(uint32_t least)
{
    uint32_t power = 1;
    while (power < least)
        power *= 2;
    return power;
}

uint32_t ru_uring_sizes_cq_entries(const struct ru_config *config)
{
    uint64_t need = (uint64_t)config->udp_contexts + config->udp_reserve + config->tcp_buffers +
                    2ULL * config->connections_max + URING_CQ_SLACK;
    uint32_t entries = RU_SQ_ENTRIES;
    while (entries < need && entries < RU_CQ_ENTRIES_MAX)
        entries *= 2;
    return entries;
}

/* Bytes the kernel charges for a ring whose completion queue has `cq_entries`. */
static uint64_t uring_locked_bytes(const struct ru_config *config, uint32_t slots,
                                   uint32_t cq_entries)
{
    return RU_SQ_ENTRIES * (sizeof(struct io_uring_sqe) + sizeof(uint32_t)) +
           cq_entries * sizeof(struct io_uring_cqe) +
           ((uint64_t)ru_uring_sizes_power(slots) + ru_uring_sizes_power(config->tcp_buffers)) *
               sizeof(struct io_uring_buf) +
           URING_LOCKED_SLACK;
}

uint64_t ru_uring_sizes_locked_bytes(const struct ru_config *config, uint32_t slots)
{
    return uring_locked_bytes(config, slots, ru_uring_sizes_cq_entries(config));
}

/* Ignores what other rings are charged for: only the limit itself counts. */
bool ru_uring_sizes_may_fit(const struct ru_backend_setup *setup, uint32_t cq_entries)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return true;
    return limit.rlim_cur >= uring_locked_bytes(setup->config, setup->arena->slots, cq_entries);
}
