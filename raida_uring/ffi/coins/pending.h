/* pending.h: changes of coins that are not in memory yet.
 *
 * A writing batch executes its requests in order, each on the coins in memory with the changes of
 * the requests before it. The changes stay here until they are in the journal; those of a request
 * that fails are taken back. The array of changes is what the journal stores and what is applied to
 * memory, so that nothing is converted in between.
 *
 * Memory: grows with the batch and is kept for the next one. Thread: one at a time.
 */
#ifndef RU_PENDING_H
#define RU_PENDING_H

#include <stdbool.h>
#include <stdint.h>

#include "coins/memory.h"

struct ru_pending {
    struct ru_change *changes; /* oldest first */
    uint32_t count;
    uint32_t room;
    /* A chain for each bucket of coins, newest change first. */
    uint32_t *newest; /* by bucket: index of a change, or RU_NONE */
    uint32_t *older;  /* by change: index of the next one in its chain, or RU_NONE */
    uint32_t buckets; /* a power of two, at least `room` */
};

/* Nothing pending, and no memory yet. */
void ru_pending_init(struct ru_pending *pending);
void ru_pending_destroy(struct ru_pending *pending);
/* The newest change of the coin with number `coin`, or NULL. Valid until the next ru_pending_add(). */
const struct ru_change *ru_pending_find(const struct ru_pending *pending, uint32_t coin);
/* Returns 0, or -ENOMEM with nothing added. */
int ru_pending_add(struct ru_pending *pending, const struct ru_change *change);
/* Take back every change after the first `count`. */
void ru_pending_undo(struct ru_pending *pending, uint32_t count);

#endif
