/* defaults.c: MD5 of many short texts, eight at once.
 *
 * Why at once: each step of MD5 needs the result of the step before, so a single hash leaves most
 * of the processor idle. With SSE2 a word of eight texts is two registers, and the eight take as
 * long as three in turn: 30 ns each instead of 75, and 130 with OpenSSL's EVP. With sixteen, 25
 * coins would cost a fifth less and a coin alone a third more.
 * Memory: none but the stack.
 */
#include "coins/defaults.h"

#include <endian.h>
#include <string.h>

#include "check.h"
#include "coins/coin.h"
#include "layout.h"
#include "number.h"

#define DEFAULTS_LANES 8       /* texts hashed at once */
#define DEFAULTS_STEPS 64      /* of MD5 */
#define DEFAULTS_WORDS 16      /* in a block */
#define DEFAULTS_NAME_MAX 15   /* denomination, page and record: 8, 4 and 3 digits */
#define DEFAULTS_PADDING_MIN 9 /* bytes that MD5 appends at least: a mark and the length */
#define DEFAULTS_MARK 0x80

/* One word of each lane. The compiler maps it to whatever vectors the processor has. */
typedef uint32_t defaults_lanes __attribute__((vector_size(4 * DEFAULTS_LANES)));

/* A block of every lane, word by word. */
union defaults_block {
    uint32_t words[DEFAULTS_WORDS][DEFAULTS_LANES];
    defaults_lanes lanes[DEFAULTS_WORDS];
};

/* What follows the seed's whole blocks: the rest of the seed, a coin's name, the padding. */
struct defaults_text {
    uint8_t bytes[2 * RU_DEFAULTS_BLOCK];
    uint32_t blocks_count;
};

_Static_assert(RU_DEFAULTS_BLOCK - 1 + DEFAULTS_NAME_MAX + DEFAULTS_PADDING_MIN <=
                   2 * RU_DEFAULTS_BLOCK,
               "text");

/* RFC 1321: the integer part of 2^32 * |sin(i + 1)|. */
static const uint32_t defaults_sines[DEFAULTS_STEPS] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

/* RFC 1321: bits that a step rotates by, for each round. */
static const uint8_t defaults_turns[4][4] = {
    {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static const uint32_t defaults_start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};

/* Hash one block of every lane. The loop must be unrolled: then all but the lanes is constant. */
static void defaults_hash(defaults_lanes state[4], const defaults_lanes words[DEFAULTS_WORDS])
{
    defaults_lanes a = state[0];
    defaults_lanes b = state[1];
    defaults_lanes c = state[2];
    defaults_lanes d = state[3];
#pragma GCC unroll 64
    for (uint32_t i = 0; i < DEFAULTS_STEPS; i++) {
        defaults_lanes mixed;
        uint32_t word;
        switch (i / 16) {
        case 0:
            mixed = d ^ (b & (c ^ d));
            word = i;
            break;
        case 1:
            mixed = (d & b) + (c & ~d);
            word = 5 * i + 1;
            break;
        case 2:
            mixed = (c ^ d) ^ b;
            word = 3 * i + 5;
            break;
        default:
            mixed = c ^ (b | ~d);
            word = 7 * i;
            break;
        }
        uint32_t turn = defaults_turns[i / 16][i % 4];
        mixed += a + words[word % DEFAULTS_WORDS] + defaults_sines[i];
        a = d;
        d = c;
        c = b;
        b += mixed << turn | mixed >> (32 - turn);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

/* Make lane `lane` of `block` the RU_DEFAULTS_BLOCK bytes given. */
static void defaults_load(union defaults_block *block, uint32_t lane, const uint8_t *bytes)
{
    for (uint32_t i = 0; i < DEFAULTS_WORDS; i++) {
        uint32_t word;
        memcpy(&word, bytes + i * sizeof(word), sizeof(word));
        block->words[i][lane] = le32toh(word);
    }
}

static void defaults_spread(defaults_lanes state[4], const uint32_t words[4])
{
    for (uint32_t i = 0; i < 4; i++)
        state[i] = (defaults_lanes){0} + words[i];
}

void ru_defaults_init(struct ru_defaults *defaults, const uint8_t *seed, uint64_t seed_bytes)
{
    uint64_t left = seed_bytes;
    defaults_lanes state[4];
    *defaults = (struct ru_defaults){.seed_bytes = seed_bytes};
    defaults_spread(state, defaults_start);
    for (; left >= RU_DEFAULTS_BLOCK; left -= RU_DEFAULTS_BLOCK, seed += RU_DEFAULTS_BLOCK) {
        union defaults_block block = {0};
        defaults_load(&block, 0, seed);
        defaults_hash(state, block.lanes);
    }
    for (uint32_t i = 0; i < 4; i++)
        defaults->state[i] = state[i][0];
    if (left > 0)
        memcpy(defaults->tail, seed, left);
}

static uint8_t *defaults_digits(uint8_t *out, uint32_t value, uint32_t count)
{
    static const uint8_t digits[] = "0123456789abcdef";
    for (uint32_t i = count; i > 0; i--, value /= 16)
        out[i - 1] = digits[value % 16];
    return out + count;
}

/* Write a coin's name, and return the byte after it. */
static uint8_t *defaults_name(uint8_t *out, uint32_t number)
{
    uint32_t page = number / RU_PAGE_RECORDS_COUNT;
    uint32_t record = number % RU_PAGE_RECORDS_COUNT;
    RU_CHECK(page < RU_STORE_PAGES);
    uint32_t denomination = page / RU_STORE_DEN_PAGES + (uint32_t)RU_DENOMINATION_MIN;
    out = defaults_digits(out, denomination, denomination > 0xff ? 8 : 2);
    out = defaults_digits(out, page % RU_STORE_DEN_PAGES, 4);
    return defaults_digits(out, record, record > 0xff ? 3 : 2);
}

static void defaults_write(const struct ru_defaults *defaults, uint32_t number,
                           struct defaults_text *text)
{
    uint64_t tail_bytes = defaults->seed_bytes % RU_DEFAULTS_BLOCK;
    memcpy(text->bytes, defaults->tail, RU_DEFAULTS_BLOCK);
    memset(text->bytes + RU_DEFAULTS_BLOCK, 0, RU_DEFAULTS_BLOCK);
    uint8_t *end = defaults_name(text->bytes + tail_bytes, number);
    uint64_t bytes = (uint64_t)(end - text->bytes);
    uint64_t bits = htole64(8 * (defaults->seed_bytes - tail_bytes + bytes));
    *end = DEFAULTS_MARK;
    text->blocks_count = bytes + DEFAULTS_PADDING_MIN > RU_DEFAULTS_BLOCK ? 2 : 1;
    memcpy(text->bytes + (size_t)text->blocks_count * RU_DEFAULTS_BLOCK - sizeof(bits), &bits,
           sizeof(bits));
}

/* The records of as many coins as there are lanes, or fewer. */
static void defaults_lot(const struct ru_defaults *defaults, const uint32_t *numbers,
                         uint32_t count, uint8_t *records)
{
    struct defaults_text texts[DEFAULTS_LANES];
    union defaults_block block = {0};
    defaults_lanes state[4];
    uint32_t blocks_max = 0;
    RU_CHECK(count <= DEFAULTS_LANES);
    for (uint32_t i = 0; i < count; i++) {
        defaults_write(defaults, numbers[i], &texts[i]);
        if (blocks_max < texts[i].blocks_count)
            blocks_max = texts[i].blocks_count;
    }
    defaults_spread(state, defaults->state);
    for (uint32_t done = 1; done <= blocks_max; done++) {
        for (uint32_t i = 0; i < count; i++)
            defaults_load(&block, i, texts[i].bytes + (size_t)(done - 1) * RU_DEFAULTS_BLOCK);
        defaults_hash(state, block.lanes);
        for (uint32_t i = 0; i < count; i++) {
            if (texts[i].blocks_count != done)
                continue;
            uint8_t *record = records + (size_t)i * RU_PAGE_RECORD_SIZE;
            const uint32_t an[4] = {htole32(state[0][i]), htole32(state[1][i]),
                                    htole32(state[2][i]), htole32(state[3][i])};
            memcpy(record, an, RU_AN_SIZE);
            record[RU_AN_SIZE] = 0;
        }
    }
}

void ru_defaults_records(const struct ru_defaults *defaults, const uint32_t *numbers,
                         uint32_t count, uint8_t *records)
{
    for (uint32_t at = 0; at < count; at += DEFAULTS_LANES)
        defaults_lot(defaults, numbers + at, ru_number_min32(count - at, DEFAULTS_LANES),
                     records + (size_t)at * RU_PAGE_RECORD_SIZE);
}

void ru_defaults_page(const struct ru_defaults *defaults, uint32_t page, uint8_t *bytes)
{
    uint32_t numbers[RU_PAGE_RECORDS_COUNT];
    RU_CHECK(page < RU_STORE_PAGES);
    for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++)
        numbers[i] = page * RU_PAGE_RECORDS_COUNT + i;
    ru_defaults_records(defaults, numbers, RU_PAGE_RECORDS_COUNT, bytes);
}
