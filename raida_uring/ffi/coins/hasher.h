/* hasher.h: the trees over the coins, brought up to date while coins change.
 *
 * A page's leaf is the hash of the ANs of its coins in circulation. The hasher keeps each page's leaf
 * with the number of the batch that it is of, so that looking at the pages' numbers (memory.h) tells
 * which leaves are old: nobody tells it what has changed. A turn hashes a bounded number of those pages
 * and the nodes above them, and publishes the trees that changed. Where a turn ends, the next one goes
 * on, so no page waits for more than a round, however often others change.
 *
 * build.py reads the marked region, as in ru.h.
 * Memory: 1.3 MB. Thread: one at a time; coins change and trees are read meanwhile.
 */
#ifndef RU_HASHER_H
#define RU_HASHER_H

#include <stdint.h>

#include "coins/store.h"
#include "memory/trees.h"

/* cdef: begin */
enum ru_hasher_limit {
    /* In a turn. Every change that one finds ahead of it is in its trees if no batch comes while the
     * last of them is made; if changes never pause, it stops here. */
    RU_HASHER_PASSES = 4,
};

struct ru_hasher;

/* What a turn has come to. */
struct ru_hasher_turn {
    uint64_t reached;  /* number of a batch: the nodes include it and all before it */
    uint64_t since_ns; /* `found_ns` of the turn that found the oldest change that the nodes lack;
                              * 0: there is none */
    uint64_t shown_since_ns;                      /* of the oldest change that they lacked before */
    uint32_t hashed;                              /* pages, each as often as it was */
    uint32_t left;                                /* pages known to have changed and not hashed */
    uint32_t circulating[RU_DENOMINATIONS_COUNT]; /* coins by denomination */
};

/* Open a hasher that knows no leaf yet. `store` is borrowed. Returns 0 or -errno. */
int ru_hasher_open(struct ru_store *store, struct ru_hasher **hasher);
/* NULL: nothing. */
void ru_hasher_close(struct ru_hasher *hasher);
/* Take the leaves of a tree's pages as ru_hasher_save() gave them: RU_TREE_LEAVES of RU_ROOT_SIZE bytes,
 * each with the number of coins in circulation and of the batch that it is of. */
void ru_hasher_load(struct ru_hasher *hasher, uint32_t tree, const uint8_t *leaves,
                    const uint16_t *counts, const uint64_t *numbers);
void ru_hasher_save(const struct ru_hasher *hasher, uint32_t tree, uint8_t *leaves,
                    uint16_t *counts, uint64_t *numbers);
/* Hash a page as it is, whatever its leaf. Returns how many of its coins circulate, or as
 * ru_store_select(). */
int ru_hasher_page(struct ru_hasher *hasher, uint32_t page, uint8_t *leaf);
/* Hash up to `pages_max` pages that have changed, and the nodes above them. Publish them, unless `trees`
 * is NULL or nothing has changed. found_ns: when changes may have come that this turn is the first to
 * find, not 0. Returns 0; or -ENOMEM or RU_STORE_BUSY: nothing was published, the next turn goes on. */
int ru_hasher_turn(struct ru_hasher *hasher, uint32_t pages_max, uint64_t found_ns,
                   struct ru_trees *trees, struct ru_roots *roots, struct ru_hasher_turn *turn);
/* Publish all trees as they are: the first time. */
void ru_hasher_publish(struct ru_hasher *hasher, struct ru_trees *trees, struct ru_roots *roots);
/* All nodes, RU_TREES_SIZE bytes, as of the last turn; of the hasher. */
const uint8_t *ru_hasher_nodes(const struct ru_hasher *hasher);
/* cdef: end */

#endif
