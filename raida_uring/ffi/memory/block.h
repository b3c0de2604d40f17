/* block.h: fixed blocks for bodies and replies that do not fit their context.
 *
 * Owner: the loop thread. Two classes, small and large. A block is free, a context's, or lent to
 * a worker in advance; it changes hands only through the three functions below.
 */
#ifndef RU_BLOCK_H
#define RU_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum ru_block_class {
    RU_BLOCK_SMALL = 0,
    RU_BLOCK_LARGE = 1
};

struct ru_blocks {
    uint32_t first[2]; /* number of the first block of each class */
    uint32_t count[2];
    uint32_t free_count[2];
    uint32_t *free[2]; /* stacks of free block numbers */
    uint32_t *owners;  /* per block */
};

int ru_blocks_init(struct ru_blocks *blocks, uint32_t small_count, uint32_t large_count);
void ru_blocks_destroy(struct ru_blocks *blocks);
/* Take a free block for a context or, with ru_block_worker(), for a worker. RU_NONE if none. */
uint32_t ru_block_acquire(struct ru_blocks *blocks, enum ru_block_class size_class, uint32_t owner);
void ru_block_release(struct ru_blocks *blocks, uint32_t block);
/* Move a block from one owner to another; false, and nothing happens, unless `from` owns it. */
bool ru_block_move(struct ru_blocks *blocks, uint32_t block, uint32_t from, uint32_t to);
enum ru_block_class ru_block_class(const struct ru_blocks *blocks, uint32_t block);

/* Invariants, in time that grows with the number of blocks. */
void ru_blocks_check(const struct ru_blocks *blocks);

static inline uint32_t ru_block_worker(uint32_t worker)
{
    return 0x80000000U | worker;
}

#endif
