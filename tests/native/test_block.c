/* test_block.c: a block has one owner at a time and comes back once. */
#include "memory/block.h"
#include "native.h"

enum {
    SMALL_COUNT = 5,
    LARGE_COUNT = 3,
    COUNT = SMALL_COUNT + LARGE_COUNT,
};

static void test_classes_are_numbered_small_first(void)
{
    struct ru_blocks blocks;
    EXPECT_EQUAL(ru_blocks_init(&blocks, SMALL_COUNT, LARGE_COUNT), 0);
    for (uint32_t block = 0; block < COUNT; block++)
        EXPECT_EQUAL(ru_block_class(&blocks, block), block < SMALL_COUNT ? 0 : 1);
    EXPECT_ABORT((void)ru_block_class(&blocks, COUNT));
    EXPECT_ABORT((void)ru_block_class(&blocks, RU_NONE));
    ru_blocks_destroy(&blocks);
}

static void test_each_block_is_given_once(void)
{
    struct ru_blocks blocks;
    bool given[COUNT] = {false};
    EXPECT_EQUAL(ru_blocks_init(&blocks, SMALL_COUNT, LARGE_COUNT), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        enum ru_block_class size_class = i < SMALL_COUNT ? RU_BLOCK_SMALL : RU_BLOCK_LARGE;
        uint32_t block = ru_block_acquire(&blocks, size_class, i);
        EXPECT(block < COUNT && !given[block]);
        EXPECT_EQUAL(ru_block_class(&blocks, block), size_class);
        given[block] = true;
    }
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_SMALL, 1), RU_NONE);
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_LARGE, 1), RU_NONE);
    ru_block_release(&blocks, 2);
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_LARGE, 1), RU_NONE);
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_SMALL, 1), 2);
    ru_blocks_destroy(&blocks);
}

static void test_misuse_aborts(void)
{
    struct ru_blocks blocks;
    EXPECT_EQUAL(ru_blocks_init(&blocks, SMALL_COUNT, LARGE_COUNT), 0);
    uint32_t block = ru_block_acquire(&blocks, RU_BLOCK_SMALL, 1);
    EXPECT_ABORT((void)ru_block_acquire(&blocks, RU_BLOCK_SMALL, RU_NONE));
    EXPECT_ABORT(ru_block_release(&blocks, COUNT));
    EXPECT_ABORT(ru_block_release(&blocks, RU_NONE));
    EXPECT_ABORT(ru_block_release(&blocks, block + 1)); /* never taken */
    ru_block_release(&blocks, block);
    EXPECT_ABORT(ru_block_release(&blocks, block)); /* twice */
    EXPECT_ABORT((void)ru_block_move(&blocks, block, RU_NONE, 1));
    EXPECT_ABORT((void)ru_block_move(&blocks, block, 1, RU_NONE));
    ru_blocks_destroy(&blocks);
}

static void test_only_the_owner_moves_a_block(void)
{
    struct ru_blocks blocks;
    const uint32_t context = 7, worker = ru_block_worker(7), other = ru_block_worker(8);
    EXPECT(worker != context && worker != other);
    EXPECT_EQUAL(ru_blocks_init(&blocks, SMALL_COUNT, LARGE_COUNT), 0);
    uint32_t block = ru_block_acquire(&blocks, RU_BLOCK_LARGE, worker);
    EXPECT(!ru_block_move(&blocks, block, other, context));
    EXPECT(!ru_block_move(&blocks, block, context, worker));
    EXPECT(ru_block_move(&blocks, block, worker, context));
    EXPECT(!ru_block_move(&blocks, block, worker, context)); /* no longer its own */
    EXPECT(ru_block_move(&blocks, block, context, other));
    EXPECT(!ru_block_move(&blocks, COUNT, context, other));
    EXPECT(!ru_block_move(&blocks, RU_NONE, context, other));
    EXPECT(!ru_block_move(&blocks, block - 1, other, context)); /* free */
    ru_block_release(&blocks, block);
    EXPECT(!ru_block_move(&blocks, block, other, context));
    ru_blocks_destroy(&blocks);
}

static void test_a_class_may_be_empty(void)
{
    struct ru_blocks blocks;
    EXPECT_EQUAL(ru_blocks_init(&blocks, 0, 1), 0);
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_SMALL, 1), RU_NONE);
    EXPECT_EQUAL(ru_block_acquire(&blocks, RU_BLOCK_LARGE, 1), 0);
    ru_blocks_destroy(&blocks);
}

/* Random takes, moves and releases against an array of owners. */
static void test_against_a_model(void)
{
    struct ru_random random = {native_seed()};
    struct ru_blocks blocks;
    uint32_t owners[COUNT];
    memset(owners, 0xFF, sizeof(owners));
    EXPECT_EQUAL(ru_blocks_init(&blocks, SMALL_COUNT, LARGE_COUNT), 0);
    for (uint32_t step = 0; step < 100000; step++) {
        uint32_t block = native_below(&random, COUNT);
        uint32_t from = native_below(&random, 3), to = native_below(&random, 3);
        enum ru_block_class size_class = ru_block_class(&blocks, block);
        switch (native_below(&random, 3)) {
        case 0:
            block = ru_block_acquire(&blocks, size_class, to);
            if (block != RU_NONE) {
                EXPECT(owners[block] == RU_NONE && ru_block_class(&blocks, block) == size_class);
                owners[block] = to;
            }
            break;
        case 1:
            EXPECT_EQUAL(ru_block_move(&blocks, block, from, to), owners[block] == from);
            if (owners[block] == from)
                owners[block] = to;
            break;
        default:
            if (owners[block] != RU_NONE)
                ru_block_release(&blocks, block);
            owners[block] = RU_NONE;
        }
        ru_blocks_check(&blocks);
        uint32_t free_count[2] = {0, 0};
        for (uint32_t i = 0; i < COUNT; i++)
            free_count[ru_block_class(&blocks, i)] += owners[i] == RU_NONE;
        EXPECT_EQUAL(blocks.free_count[0], free_count[0]);
        EXPECT_EQUAL(blocks.free_count[1], free_count[1]);
    }
    ru_blocks_destroy(&blocks);
}

int main(void)
{
    RUN(test_classes_are_numbered_small_first);
    RUN(test_each_block_is_given_once);
    RUN(test_misuse_aborts);
    RUN(test_only_the_owner_moves_a_block);
    RUN(test_a_class_may_be_empty);
    RUN(test_against_a_model);
    return native_finish();
}
