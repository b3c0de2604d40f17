/* trees.h: every node of the coins' trees, of the moment whose roots are published.
 *
 * As in roots.h there are two copies, and the version is that of the roots: one store shows new roots
 * and new nodes to everybody. A tree has 11 levels, leaves first; a node without a sibling pairs with
 * itself.
 * Memory: 2 MB, of which pages are occupied once trees are published. Thread: one publisher, any
 * readers. Every word that both touch is atomic.
 */
#ifndef RU_TREES_H
#define RU_TREES_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/roots.h"

/* cdef: begin */
enum ru_trees_constant {
    RU_TREE_LEAVES = 1000,
    RU_TREE_NODES = 2001, /* 1000, 500, 250, 125, 63, 32, 16, 8, 4, 2, 1 */
    RU_TREE_SIZE = 64032,
    RU_TREE_WORDS = 8004,
    RU_TREES_SIZE = 960480, /* the nodes of all trees, one after the other, denomination -8 first */
};

struct ru_trees {
    uint64_t versions[2]; /* of the copies; 0: none */
    uint32_t changed;     /* at the last version, a bit for each tree: the other copy lacks these */
    uint64_t copies[2][RU_DENOMINATIONS_COUNT][RU_TREE_WORDS];
};

/* A place in the trees, which may not exist. */
struct ru_tree_place {
    int32_t tree; /* denomination + 8 */
    uint32_t level;
    uint32_t position;
};

/* Thread: one publisher at a time, also for `roots`. Publish the trees in `changed`, a bit for each, and
 * the roots of all. nodes: RU_TREES_SIZE bytes, of which other trees are not read. `trees` and `roots`
 * begin as zeros; the first time, all trees are changed. */
void ru_trees_publish(struct ru_trees *trees, struct ru_roots *roots, uint32_t changed,
                      const uint8_t *nodes);
/* Thread: any. How often roots have been published. */
uint64_t ru_trees_version(const struct ru_roots *roots);
/* Thread: any. Copy a node, RU_ROOT_SIZE bytes, of the trees whose roots are published. False: there is
 * no such place, or these roots were published without trees. */
bool ru_trees_node(const struct ru_trees *trees, const struct ru_roots *roots,
                   const struct ru_tree_place *place, uint8_t *node);
/* Thread: any. Copy all nodes, RU_TREES_SIZE bytes, of the trees whose roots are published. Returns their
 * version; 0: these roots, if any, were published without trees. */
uint64_t ru_trees_copy(const struct ru_trees *trees, const struct ru_roots *roots, uint8_t *nodes);
/* cdef: end */

#define RU_TREES_ALL ((1U << RU_DENOMINATIONS_COUNT) - 1) /* a bit for each */

_Static_assert(RU_TREE_NODES *RU_ROOT_SIZE == RU_TREE_SIZE, "size");
_Static_assert(RU_TREE_WORDS * sizeof(uint64_t) == RU_TREE_SIZE, "words");
_Static_assert(RU_TREES_SIZE == RU_DENOMINATIONS_COUNT * RU_TREE_SIZE, "all");

#endif
