/* uring_sizes.h: how long a ring's queues are, and what the kernel charges to the memlock limit. */
#ifndef RU_URING_SIZES_H
#define RU_URING_SIZES_H

#include "kernel/backend.h"

/* The power of two that is at least `least`. */
uint32_t ru_uring_sizes_power(uint32_t least);
/* A completion queue that holds whatever can be outstanding. */
uint32_t ru_uring_sizes_cq_entries(const struct ru_config *config);
/* What the kernel charges at most for a ring with `slots` datagram slots. */
uint64_t ru_uring_sizes_locked_bytes(const struct ru_config *config, uint32_t slots);
/* Whether the limit alone leaves room for such a ring. */
bool ru_uring_sizes_may_fit(const struct ru_backend_setup *setup, uint32_t cq_entries);

#endif
