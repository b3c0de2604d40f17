/* block.c: fixed blocks for bodies and replies too large for their slot or area. */
#include "memory/block.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "memory/token.h"

int ru_blocks_init(struct ru_blocks *blocks, uint32_t small_count, uint32_t large_count)
{
    uint32_t counts[2] = {small_count, large_count};
    *blocks = (struct ru_blocks){.owners = calloc((size_t)small_count + large_count, 4)};
    for (uint32_t size_class = 0, block = 0; size_class < 2; size_class++) {
        blocks->first[size_class] = block;
        blocks->count[size_class] = counts[size_class];
        blocks->free[size_class] = calloc(counts[size_class] ? counts[size_class] : 1, 4);
        if (!blocks->owners || !blocks->free[size_class]) {
            ru_blocks_destroy(blocks);
            return -ENOMEM;
        }
        for (uint32_t i = 0; i < counts[size_class]; i++, block++)
            blocks->owners[block] = RU_NONE;
        for (uint32_t i = counts[size_class]; i > 0; i--) /* lowest number on top */
            blocks->free[size_class][blocks->free_count[size_class]++] =
                blocks->first[size_class] + i - 1;
    }
    return 0;
}

void ru_blocks_check(const struct ru_blocks *blocks)
{
    uint32_t free_count[2] = {0, 0};
    for (uint32_t block = 0; block < blocks->count[0] + blocks->count[1]; block++)
        free_count[ru_block_class(blocks, block)] += blocks->owners[block] == RU_NONE;
    for (uint32_t size_class = 0; size_class < 2; size_class++) {
        RU_CHECK(free_count[size_class] == blocks->free_count[size_class]);
        for (uint32_t i = 0; i < free_count[size_class]; i++) {
            uint32_t block = blocks->free[size_class][i];
            RU_CHECK(ru_block_class(blocks, block) == size_class);
            RU_CHECK(blocks->owners[block] == RU_NONE);
        }
    }
}

void ru_blocks_destroy(struct ru_blocks *blocks)
{
    free(blocks->owners);
    free(blocks->free[0]);
    free(blocks->free[1]);
    *blocks = (struct ru_blocks){0};
}

enum ru_block_class ru_block_class(const struct ru_blocks *blocks, uint32_t block)
{
    RU_CHECK(block < blocks->count[0] + blocks->count[1]);
    return block < blocks->first[RU_BLOCK_LARGE] ? RU_BLOCK_SMALL : RU_BLOCK_LARGE;
}

uint32_t ru_block_acquire(struct ru_blocks *blocks, enum ru_block_class size_class, uint32_t owner)
{
    RU_CHECK(owner != RU_NONE);
    if (blocks->free_count[size_class] == 0)
        return RU_NONE;
    uint32_t block = blocks->free[size_class][--blocks->free_count[size_class]];
    RU_CHECK(blocks->owners[block] == RU_NONE);
    blocks->owners[block] = owner;
    return block;
}

void ru_block_release(struct ru_blocks *blocks, uint32_t block)
{
    enum ru_block_class size_class = ru_block_class(blocks, block);
    RU_CHECK(blocks->owners[block] != RU_NONE); /* released twice */
    RU_CHECK(blocks->free_count[size_class] < blocks->count[size_class]);
    blocks->owners[block] = RU_NONE;
    blocks->free[size_class][blocks->free_count[size_class]++] = block;
}

bool ru_block_move(struct ru_blocks *blocks, uint32_t block, uint32_t from, uint32_t to)
{
    RU_CHECK(from != RU_NONE && to != RU_NONE);
    if (block >= blocks->count[0] + blocks->count[1] || blocks->owners[block] != from)
        return false;
    blocks->owners[block] = to;
    return true;
}
