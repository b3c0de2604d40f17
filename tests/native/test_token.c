/* test_token.c: tokens keep what is packed into them, and none is ever 0. */
#include "native.h"

static void test_layout(void)
{
    uint64_t token = ru_token_pack(0xAB, 0x123456, 0x89ABCDEF);
    EXPECT_EQUAL(token, 0x89ABCDEFAB123456ULL);
    EXPECT_EQUAL(ru_token_operation(token), 0xAB);
    EXPECT_EQUAL(ru_token_index(token), 0x123456);
    EXPECT_EQUAL(ru_token_generation(token), 0x89ABCDEF);
}

static void test_round_trip(void)
{
    struct ru_random random = {native_seed()};
    for (uint32_t i = 0; i < 100000; i++) {
        uint8_t operation = (uint8_t)native_random(&random);
        uint32_t index = native_below(&random, RU_TOKEN_INDEX_MAX + 1);
        uint32_t generation = (uint32_t)native_random(&random);
        uint64_t token = ru_token_pack(operation, index, generation);
        EXPECT_EQUAL(ru_token_operation(token), operation);
        EXPECT_EQUAL(ru_token_index(token), index);
        EXPECT_EQUAL(ru_token_generation(token), generation);
    }
}

static void test_extremes(void)
{
    uint64_t token = ru_token_pack(UINT8_MAX, RU_TOKEN_INDEX_MAX, UINT32_MAX);
    EXPECT_EQUAL(token, UINT64_MAX);
    EXPECT_EQUAL(ru_token_pack(0, 0, 1), 1ULL << 32);
    EXPECT_ABORT((void)ru_token_pack(0, RU_TOKEN_INDEX_MAX + 1, 1));
    EXPECT_ABORT((void)ru_token_pack(0, RU_NONE, 1));
}

static void test_generations_skip_zero(void)
{
    EXPECT_EQUAL(ru_token_advance(1), 2);
    EXPECT_EQUAL(ru_token_advance(UINT32_MAX - 1), UINT32_MAX);
    EXPECT_EQUAL(ru_token_advance(UINT32_MAX), 1);
}

int main(void)
{
    RUN(test_layout);
    RUN(test_round_trip);
    RUN(test_extremes);
    RUN(test_generations_skip_zero);
    return native_finish();
}
