/* block.h: fixed blocks for bodies and replies too large for their slot or area.
 *
 * Owner: the loop thread. Two classes, small and large. A block is free, owned by one context, or
 * lent to one worker in advance; only acquire, release and move change its owner.
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
/* Give a free block to a context or, with ru_block_worker(), to a worker. RU_NONE: none is free. */
uint32_t ru_block_acquire(struct ru_blocks *blocks, enum ru_block_class size_class, uint32_t owner);
void ru_block_release(struct ru_blocks *blocks, uint32_t block);
/* Move a block to another owner. Returns false and changes nothing unless `from` owns it. */
bool ru_block_move(struct ru_blocks *blocks, uint32_t block, uint32_t from, uint32_t to);
enum ru_block_class ru_block_class(const struct ru_blocks *blocks, uint32_t block);

/* Check the invariants; takes time proportional to the number of blocks. */
void ru_blocks_check(const struct ru_blocks *blocks);

static inline uint32_t ru_block_worker(uint32_t worker)
{
    return 0x80000000U | worker;
}

#endif
