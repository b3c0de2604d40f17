/* test_defaults.c: default records against known ones, and each alone against the same in company.
 *
 * The known ones are hashlib's. tests/property/test_default_records.py draws others.
 */
#include "native.h"
#include "coins/coin.h"
#include "coins/defaults.h"

#define SEED_MAX 200
#define COUNT_MAX 40
#define OFFSETS 8

static void letters(uint8_t *seed, uint32_t seed_bytes)
{
    for (uint32_t i = 0; i < seed_bytes; i++)
        seed[i] = (uint8_t)('a' + i % 26);
}

static uint32_t number_of(int denomination, uint32_t page, uint32_t record)
{
    uint32_t den = (uint32_t)(denomination - RU_DENOMINATION_MIN);
    return (den * RU_STORE_DEN_PAGES + page) * RU_PAGE_RECORDS_COUNT + record;
}

static void hex_of(char *text, const uint8_t *an)
{
    for (uint32_t i = 0; i < RU_AN_SIZE; i++)
        (void)snprintf(text + (size_t)i * 2, 3, "%02x", an[i]);
}

static void expect_an(const struct ru_defaults *defaults, uint32_t number, const char *an)
{
    uint8_t record[RU_PAGE_RECORD_SIZE];
    char text[2 * RU_AN_SIZE + 1];
    memset(record, 0xff, sizeof(record));
    ru_defaults_records(defaults, &number, 1, record);
    hex_of(text, record);
    EXPECT_BYTES((const uint8_t *)text, (const uint8_t *)an, sizeof(text));
    EXPECT_EQUAL(record[RU_AN_SIZE], 0);
}

/* The examples of the wire specification, 8.3. */
static void test_the_reference_server_s_records(void)
{
    struct ru_defaults defaults;
    ru_defaults_init(&defaults, (const uint8_t *)"4567", 4);
    expect_an(&defaults, number_of(0, 0, 20), "84eabc36563a8222b8aab566122a43bb");
    expect_an(&defaults, number_of(-8, 999, 1022), "3f1de9a8b4cfb6d728de9e74eb1ef273");
    expect_an(&defaults, number_of(4, 759, 561), "4980da99f5c36ad4a3cd4e89cd77035f");
}

/* Texts that just fit into a block, that just do not, and with up to three blocks of seed. */
static void test_seeds_around_the_ends_of_blocks(void)
{
    static const struct {
        uint32_t seed_bytes;
        int denomination;
        uint32_t page;
        uint32_t record;
        const char *an;
    } known[] = {
        {0, -8, 0, 0, "4790e1e340521fa551e1382010f810f9"},
        {0, 6, 999, 1023, "283d4258e4568e08d8bf9a1cebd610c4"},
        {40, -1, 999, 256, "3e631216b5481becafa56a3d626ad064"},
        {41, -1, 999, 256, "5913d047e51c8878605f8b3c052ef27b"},
        {47, 0, 1, 255, "ffdf4c0b357fa033743faf2064a7b7a6"},
        {48, 0, 1, 255, "21fbcfe7ed8707abf2122164b0442141"},
        {55, 3, 500, 512, "44c59909295b1ec73c9bcd1ed56c76c5"},
        {63, -4, 77, 3, "b8dfce645bfd8785d9109695d5f2b032"},
        {64, 1, 0, 1023, "fe284f8b3a6588fee6e2a8471f48d5ab"},
        {65, -2, 10, 0, "2ef8d6ad054f87733b548a0dda34bb5a"},
        {111, 5, 1, 1, "aaf34083eed83d1e74f84face1ea0ce1"},
        {127, -8, 999, 1023, "82f2fa225a637b6f729dbf1e51b77322"},
        {128, 0, 0, 0, "b6b770f13c4f797b3d8cc0589dc0cdaa"},
        {200, 2, 345, 678, "46d6694c419a448cf75c19f6903741b4"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        struct ru_defaults defaults;
        uint8_t *seed = malloc(known[i].seed_bytes);
        letters(seed, known[i].seed_bytes);
        ru_defaults_init(&defaults, seed, known[i].seed_bytes);
        free(seed);
        expect_an(&defaults, number_of(known[i].denomination, known[i].page, known[i].record),
                  known[i].an);
    }
}

/* Coins of one call may need different numbers of blocks; none may see another's. The buffers end
 * where the sanitizer notices a byte too many. */
static void test_company_changes_nothing(void)
{
    struct ru_random random = {native_seed()};
    for (uint32_t step = 0; step < 2000; step++) {
        struct ru_defaults defaults;
        uint8_t seed[SEED_MAX];
        uint32_t numbers[COUNT_MAX];
        uint32_t seed_bytes = native_below(&random, SEED_MAX + 1);
        uint32_t count = native_below(&random, COUNT_MAX + 1);
        uint32_t offset = native_below(&random, OFFSETS);
        uint8_t *all = malloc(offset + (size_t)count * RU_PAGE_RECORD_SIZE);
        for (uint32_t i = 0; i < seed_bytes; i++)
            seed[i] = (uint8_t)native_below(&random, 256);
        for (uint32_t i = 0; i < count; i++)
            numbers[i] = native_below(&random, RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT);
        ru_defaults_init(&defaults, seed, seed_bytes);
        ru_defaults_records(&defaults, numbers, count, all + offset);
        for (uint32_t i = 0; i < count; i++) {
            uint8_t alone[RU_PAGE_RECORD_SIZE];
            ru_defaults_records(&defaults, &numbers[i], 1, alone);
            EXPECT_BYTES(all + offset + (size_t)i * RU_PAGE_RECORD_SIZE, alone, sizeof(alone));
        }
        free(all);
    }
}

static void test_a_page_is_its_records(void)
{
    static const uint32_t pages[] = {0, 7999, 8000, RU_STORE_PAGES - 1};
    struct ru_defaults defaults;
    uint8_t *page = malloc(RU_PAGE_SIZE);
    ru_defaults_init(&defaults, (const uint8_t *)"4567", 4);
    for (size_t i = 0; i < sizeof(pages) / sizeof(*pages); i++) {
        ru_defaults_page(&defaults, pages[i], page);
        for (uint32_t at = 0; at < RU_PAGE_RECORDS_COUNT; at++) {
            uint32_t number = pages[i] * RU_PAGE_RECORDS_COUNT + at;
            uint8_t record[RU_PAGE_RECORD_SIZE];
            ru_defaults_records(&defaults, &number, 1, record);
            EXPECT_BYTES(page + (size_t)at * RU_PAGE_RECORD_SIZE, record, sizeof(record));
        }
    }
    free(page);
}

static void expect_number(int denomination, uint32_t serial, uint32_t number)
{
    const uint8_t coin[] = {(uint8_t)denomination, (uint8_t)(serial >> 24), (uint8_t)(serial >> 16),
                            (uint8_t)(serial >> 8), (uint8_t)serial};
    EXPECT_EQUAL(ru_coin_number(coin), number);
}

static void test_numbers_of_coins(void)
{
    expect_number(-8, 0, 0);
    expect_number(-8, 1023999, 1023999);
    expect_number(-7, 0, 1024000);
    expect_number(6, 1023999, RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT - 1);
    expect_number(-9, 0, RU_NONE);
    expect_number(7, 0, RU_NONE);
    expect_number(0, 1024000, RU_NONE);
    expect_number(0, 1U << 26, RU_NONE);
    expect_number(0, UINT32_MAX, RU_NONE);
}

static void test_ans_differ_by_any_bit(void)
{
    uint8_t one[RU_AN_SIZE + 1] = {0};
    uint8_t other[RU_AN_SIZE + 1] = {0};
    EXPECT(ru_coin_an_equal(one + 1, other + 1));
    for (uint32_t bit = 0; bit < 8 * RU_AN_SIZE; bit++) {
        other[1 + bit / 8] ^= (uint8_t)(1U << bit % 8);
        EXPECT(!ru_coin_an_equal(one + 1, other + 1));
        other[1 + bit / 8] = 0;
    }
}

int main(void)
{
    RUN(test_the_reference_server_s_records);
    RUN(test_seeds_around_the_ends_of_blocks);
    RUN(test_company_changes_nothing);
    RUN(test_a_page_is_its_records);
    RUN(test_numbers_of_coins);
    RUN(test_ans_differ_by_any_bit);
    return native_finish();
}
