/* uring_sizes.h: lengths of a ring's queues, and the memory charged to the memlock limit. */
#ifndef RU_URING_SIZES_H
#define RU_URING_SIZES_H

#include "kernel/backend.h"

/* The smallest power of two that is at least `least`. */
uint32_t ru_uring_sizes_power(uint32_t least);
/* Entries of a completion queue that holds every completion that can be outstanding. */
uint32_t ru_uring_sizes_cq_entries(const struct ru_config *config);
/* Upper bound of the bytes the kernel charges for a ring with `slots` datagram slots. */
uint64_t ru_uring_sizes_locked_bytes(const struct ru_config *config, uint32_t slots);
/* True if RLIMIT_MEMLOCK is large enough for a ring with `cq_entries`. */
bool ru_uring_sizes_may_fit(const struct ru_backend_setup *setup, uint32_t cq_entries);

#endif
