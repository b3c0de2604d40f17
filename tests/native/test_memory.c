/* test_memory.c: coins in memory and pending changes, against plain arrays; one state for readers.
 *
 * Also run under the thread sanitizer. What must hold: whoever reads sees the state after one batch,
 * of all pages together; reading allocates nothing; a batch that a dead writer left half applied is
 * seen by nobody, and applying it again mends it.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "coins/memory.h"
#include "coins/pending.h"
#include "native.h"

#define READERS 3U
#define PAGES 25U /* that a batch changes, and that a reader compares */
#define SOUP 7U   /* pages that the model knows */

static struct ru_memory memory_new(void)
{
    static const uint8_t seed[] = "a seed";
    struct ru_defaults defaults;
    struct ru_memory memory;
    ru_defaults_init(&defaults, seed, sizeof(seed) - 1);
    EXPECT_EQUAL(ru_memory_create(&memory, &defaults), 0);
    return memory;
}

static uint32_t number_of(uint32_t page, uint32_t record)
{
    return page * RU_PAGE_RECORDS_COUNT + record;
}

static void coin_name(uint8_t *coin, uint32_t number)
{
    uint32_t of_denomination = RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT;
    uint32_t sn = number % of_denomination;
    coin[RU_COIN_DENOMINATION_AT] =
        (uint8_t)((int)(number / of_denomination) + RU_DENOMINATION_MIN);
    for (uint32_t i = 0; i < 4; i++)
        coin[RU_COIN_SERIAL_AT + i] = (uint8_t)(sn >> (24 - 8 * i));
    EXPECT_EQUAL(ru_coin_number(coin), number);
}

static struct ru_change change_of(uint32_t page, uint32_t record, uint64_t value, uint8_t month)
{
    struct ru_change change = {.coin = number_of(page, record), .month = month};
    memcpy(change.an, &value, sizeof(value));
    return change;
}

static uint64_t value_of(const uint8_t *record)
{
    uint64_t value;
    memcpy(&value, record, sizeof(value));
    return value;
}

static uint64_t blocks_of(const struct ru_memory *memory)
{
    struct stat stat;
    if (fstat(memory->fd, &stat) != 0)
        abort();
    return (uint64_t)stat.st_blocks;
}

/* Reading blank coins allocates nothing, writing one record its page only. */
static void test_blank(void)
{
    static uint8_t bytes[RU_PAGE_SIZE];
    struct ru_memory memory = memory_new();
    uint64_t before = blocks_of(&memory);
    uint8_t coins[PAGES][RU_COIN_AN_SIZE];
    uint8_t records[PAGES][RU_PAGE_RECORD_SIZE];
    uint8_t states[PAGES];
    uint64_t number;
    for (uint32_t i = 0; i < PAGES; i++)
        coin_name(coins[i], number_of(i * 600U, i * 40U));
    struct ru_coin_list list = {coins[0], PAGES, RU_COIN_AN_SIZE};
    EXPECT_EQUAL(ru_memory_gather(&memory, list, records[0], states), PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        EXPECT_EQUAL(ru_memory_page(&memory, i * 600, bytes, &number), RU_PAGE_BLANK);
        EXPECT_BYTES(records[i], bytes + (size_t)i * 40 * RU_PAGE_RECORD_SIZE, RU_PAGE_RECORD_SIZE);
        memcpy(coins[i] + RU_COIN_AN_AT, records[i], RU_AN_SIZE);
    }
    EXPECT_EQUAL(ru_memory_match(&memory, list, RU_COIN_AN_AT, states), PAGES);
    coins[3][RU_COIN_AN_AT + 15] ^= 1;
    EXPECT_EQUAL(ru_memory_match(&memory, list, RU_COIN_AN_AT, states), PAGES - 1);
    EXPECT_EQUAL(states[3], RU_COIN_DIFFERS);
    EXPECT_EQUAL(blocks_of(&memory), before);
    struct ru_change change = change_of(600, 40, 1, 1);
    EXPECT_EQUAL(ru_memory_reserve(&memory, &change, 1), 0);
    EXPECT_EQUAL((blocks_of(&memory) - before) * 512, RU_PAGE_RECORDS_COUNT * RU_AN_SIZE + 4096);
    ru_memory_detach(&memory);
}

static void test_attach(void)
{
    struct ru_memory memory = memory_new();
    struct ru_memory other;
    EXPECT_EQUAL(ru_memory_attach(&other, dup(memory.fd)), 0);
    struct ru_change change = change_of(9, 8, 7, 6);
    EXPECT_EQUAL(ru_memory_reserve(&memory, &change, 1), 0);
    ru_memory_apply(&memory, 3, &change, 1);
    uint8_t record[RU_PAGE_RECORD_SIZE];
    EXPECT_EQUAL(ru_memory_record(&other, change.coin, record), RU_PAGE_WRITTEN);
    EXPECT_EQUAL(value_of(record), 7);
    EXPECT_EQUAL(record[RU_AN_SIZE], 6);
    EXPECT_EQUAL(other.head->applied, 3);
    int another = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT_EQUAL(ru_memory_attach(&other, another), -EPROTO);
    (void)close(another);
    memory.head->version++;
    another = dup(memory.fd);
    struct ru_memory refused = {.fd = -1};
    EXPECT_EQUAL(ru_memory_attach(&refused, another), -EPROTO);
    memory.head->version--;
    (void)close(another);
    EXPECT(ftruncate(memory.fd, 0) != 0); /* nobody can cut it */
    ru_memory_detach(&other);
    ru_memory_detach(&memory);
    ru_memory_detach(&memory);
}

/* A batch's own order: numbers rise, its pages are reserved. */
static void test_misuse(void)
{
    struct ru_memory memory = memory_new();
    struct ru_change change = change_of(1, 2, 3, 4);
    EXPECT_ABORT(ru_memory_apply(&memory, 1, &change, 1));
    memory.head->started = 0; /* the child's call reached shared memory */
    EXPECT_EQUAL(ru_memory_reserve(&memory, &change, 1), 0);
    ru_memory_apply(&memory, 5, &change, 1);
    EXPECT_ABORT(ru_memory_apply(&memory, 5, &change, 1));
    EXPECT_EQUAL(ru_memory_load(&memory, 1, NULL, 6), 0);
    EXPECT_ABORT(ru_memory_apply(&memory, 7, &change, 1));
    ru_memory_detach(&memory);
}

/* Random batches, loads and look-ups; the model is an array. */
static void test_model(void)
{
    static struct ru_change model[SOUP][RU_PAGE_RECORDS_COUNT];
    static uint8_t bytes[RU_PAGE_SIZE];
    static uint8_t selected[RU_STORE_SELECTED];
    static bool known[SOUP][RU_PAGE_RECORDS_COUNT];
    struct ru_memory memory = memory_new();
    struct ru_random random = {native_seed()};
    uint64_t last[SOUP] = {0};

    for (uint64_t number = 1; number <= 3000; number++) {
        struct ru_change changes[40];
        uint32_t count = native_below(&random, 40) + 1;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t page = native_below(&random, SOUP);
            uint32_t record = native_below(&random, RU_PAGE_RECORDS_COUNT);
            changes[i] =
                change_of(page, record, native_random(&random), (uint8_t)native_below(&random, 3));
            model[page][record] = changes[i];
            known[page][record] = true;
            last[page] = number;
        }
        EXPECT_EQUAL(ru_memory_reserve(&memory, changes, count), 0);
        ru_memory_apply(&memory, number, changes, count);
    }
    for (uint32_t page = 0; page < SOUP; page++) {
        uint64_t number;
        uint32_t circulating;
        uint32_t want = 0;
        EXPECT_EQUAL(ru_memory_page(&memory, page, bytes, &number), RU_PAGE_WRITTEN);
        EXPECT_EQUAL(number, last[page]);
        EXPECT_EQUAL(ru_memory_select(&memory, page, selected, &circulating, &number),
                     RU_PAGE_WRITTEN);
        for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++) {
            const uint8_t *record = bytes + (size_t)i * RU_PAGE_RECORD_SIZE;
            const uint8_t *leaf = selected + (size_t)i * RU_AN_SIZE;
            static const uint8_t zeros[RU_AN_SIZE];
            if (known[page][i]) {
                EXPECT_BYTES(record, model[page][i].an, RU_AN_SIZE);
                EXPECT_EQUAL(record[RU_AN_SIZE], model[page][i].month);
            }
            bool circulates = known[page][i] && model[page][i].month != 0;
            EXPECT_BYTES(leaf, circulates ? model[page][i].an : zeros, RU_AN_SIZE);
            want += circulates;
        }
        EXPECT_EQUAL(circulating, want);
        /* Loaded into another memory, the page is the same. */
        static uint8_t again[RU_PAGE_SIZE];
        struct ru_memory other = memory_new();
        EXPECT_EQUAL(ru_memory_load(&other, page, bytes, number), 0);
        ru_memory_ready(&other, number);
        EXPECT_EQUAL(ru_memory_page(&other, page, again, &number), RU_PAGE_WRITTEN);
        EXPECT_BYTES(again, bytes, RU_PAGE_SIZE);
        EXPECT_EQUAL(number, last[page]);
        ru_memory_detach(&other);
    }
    ru_memory_detach(&memory);
}

/* One record after the other, from the last one on: those that were never written are as before. */
static void test_a_page_fills(void)
{
    static uint8_t bytes[RU_PAGE_SIZE];
    static uint8_t want[RU_PAGE_SIZE];
    struct ru_memory memory = memory_new();
    uint64_t number;
    EXPECT_EQUAL(ru_memory_page(&memory, 3, want, &number), RU_PAGE_BLANK);
    for (uint32_t record = RU_PAGE_RECORDS_COUNT; record-- > 0;) {
        struct ru_change change = change_of(3, record, record + 1, 2);
        uint8_t *at = want + (size_t)record * RU_PAGE_RECORD_SIZE;
        EXPECT_EQUAL(ru_memory_reserve(&memory, &change, 1), 0);
        ru_memory_apply(&memory, RU_PAGE_RECORDS_COUNT - record, &change, 1);
        memcpy(at, change.an, RU_AN_SIZE);
        at[RU_AN_SIZE] = change.month;
        if (record % 64 > 1) /* around each word of bits */
            continue;
        EXPECT_EQUAL(ru_memory_page(&memory, 3, bytes, &number), RU_PAGE_WRITTEN);
        EXPECT_BYTES(bytes, want, RU_PAGE_SIZE);
    }
    ru_memory_detach(&memory);
}

static void test_unreadable(void)
{
    struct ru_memory memory = memory_new();
    static const uint8_t bytes[RU_PAGE_SIZE];
    uint8_t coin[RU_COIN_AN_SIZE] = {0};
    uint8_t record[RU_PAGE_RECORD_SIZE];
    uint8_t state;
    uint64_t number;
    struct ru_coin_list list = {coin, 1, RU_COIN_AN_SIZE};
    coin_name(coin, number_of(4, 4));
    EXPECT_EQUAL(ru_memory_load(&memory, 4, bytes, 0), 0);
    EXPECT_EQUAL(ru_memory_match(&memory, list, RU_COIN_AN_AT, &state), 1);
    EXPECT_EQUAL(ru_memory_load(&memory, 4, NULL, 0), 0);
    EXPECT_EQUAL(ru_memory_match(&memory, list, RU_COIN_AN_AT, &state), 0);
    EXPECT_EQUAL(state, RU_COIN_UNREADABLE);
    EXPECT_EQUAL(ru_memory_gather(&memory, list, record, &state), 0);
    EXPECT_EQUAL(ru_memory_record(&memory, number_of(4, 4), record), RU_PAGE_UNREADABLE);
    EXPECT_EQUAL(ru_memory_page(&memory, 4, record, &number), RU_PAGE_UNREADABLE);
    coin[0] = 99; /* no denomination */
    EXPECT_EQUAL(ru_memory_match(&memory, list, RU_COIN_AN_AT, &state), 0);
    EXPECT_EQUAL(state, RU_COIN_UNREADABLE);
    ru_memory_detach(&memory);
}

/* ---- a writer that died ---- */

static void test_half_applied(void)
{
    struct ru_memory memory = memory_new();
    struct ru_change old[2] = {change_of(1, 1, 10, 1), change_of(2, 2, 10, 1)};
    struct ru_change new[2] = {change_of(1, 1, 20, 1), change_of(2, 2, 20, 1)};
    uint8_t coins[3][RU_COIN_AN_SIZE] = {0};
    uint8_t records[3][RU_PAGE_RECORD_SIZE];
    uint8_t states[3];
    coin_name(coins[0], old[0].coin);
    coin_name(coins[1], old[1].coin);
    coin_name(coins[2], number_of(3, 3));
    EXPECT_EQUAL(ru_memory_reserve(&memory, old, 2), 0);
    ru_memory_apply(&memory, 1, old, 2);
    /* As if it had died after the first of the two. */
    memory.head->started = 2;
    memory.numbers[1] = memory.numbers[2] = 2;
    memcpy(&memory.ans[(1 * RU_PAGE_RECORDS_COUNT + 1) * 2], new[0].an, RU_AN_SIZE);
    struct ru_coin_list both = {coins[0], 2, RU_COIN_AN_SIZE};
    struct ru_coin_list third = {coins[2], 1, RU_COIN_AN_SIZE};
    uint8_t page[RU_PAGE_SIZE];
    uint64_t number;
    EXPECT_EQUAL(ru_memory_gather(&memory, both, records[0], states), -EAGAIN);
    EXPECT_EQUAL(ru_memory_match(&memory, both, RU_COIN_AN_AT, states), -EAGAIN);
    EXPECT_EQUAL(ru_memory_page(&memory, 2, page, &number), -EAGAIN);
    EXPECT_EQUAL(ru_memory_gather(&memory, third, records[0], states), 1);
    ru_memory_apply(&memory, 2, new, 2);
    EXPECT_EQUAL(ru_memory_gather(&memory, both, records[0], states), 2);
    EXPECT(value_of(records[0]) == 20 && value_of(records[1]) == 20);
    ru_memory_detach(&memory);
}

/* ---- readers beside a writer ---- */

struct crowd {
    struct ru_memory memory;
    uint64_t batches;
    int finished;
    uint64_t mixed, read;
};

/* All coins of a batch get its number: whoever reads two different numbers has seen two states. */
static void *crowd_read(void *argument)
{
    struct crowd *crowd = argument;
    uint8_t coins[PAGES][RU_COIN_AN_SIZE] = {0};
    uint8_t records[PAGES][RU_PAGE_RECORD_SIZE];
    uint8_t states[PAGES];
    uint64_t mixed = 0;
    uint64_t read = 0;
    for (uint32_t i = 0; i < PAGES; i++)
        coin_name(coins[i], number_of(i * 600U, i));
    struct ru_coin_list list = {coins[0], PAGES, RU_COIN_AN_SIZE};
    while (!__atomic_load_n(&crowd->finished, __ATOMIC_ACQUIRE)) {
        if (ru_memory_gather(&crowd->memory, list, records[0], states) < 0)
            continue;
        read++;
        for (uint32_t i = 1; i < PAGES; i++)
            mixed += value_of(records[i]) != value_of(records[0]);
    }
    __atomic_fetch_add(&crowd->mixed, mixed, __ATOMIC_RELAXED);
    __atomic_fetch_add(&crowd->read, read, __ATOMIC_RELAXED);
    return NULL;
}

static void crowd_write(struct crowd *crowd, uint64_t number)
{
    struct ru_change changes[PAGES];
    for (uint32_t i = 0; i < PAGES; i++)
        changes[i] = change_of(i * 600U, i, number, 1);
    EXPECT_EQUAL(ru_memory_reserve(&crowd->memory, changes, PAGES), 0);
    ru_memory_apply(&crowd->memory, number, changes, PAGES);
}

static void test_one_state(void)
{
    static struct crowd crowd;
    pthread_t readers[READERS];
    crowd = (struct crowd){.memory = memory_new(), .batches = 20000};
    crowd_write(&crowd, 1);
    for (uint32_t i = 0; i < READERS; i++)
        EXPECT_EQUAL(pthread_create(&readers[i], NULL, crowd_read, &crowd), 0);
    for (uint64_t number = 2; number <= crowd.batches; number++)
        crowd_write(&crowd, number);
    __atomic_store_n(&crowd.finished, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < READERS; i++)
        EXPECT_EQUAL(pthread_join(readers[i], NULL), 0);
    EXPECT_EQUAL(crowd.mixed, 0);
    ru_memory_detach(&crowd.memory);
}

/* ---- pending changes ---- */

static void test_pending(void)
{
    struct ru_pending pending;
    struct ru_random random = {native_seed()};
    ru_pending_init(&pending);

    EXPECT(!ru_pending_find(&pending, 0));
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t kept = native_below(&random, 700);
        uint32_t undone = native_below(&random, 700);
        uint64_t newest[8] = {0};
        for (uint32_t i = 1; i <= kept + undone; i++) {
            uint32_t which = native_below(&random, 8);
            struct ru_change change = change_of(which * 1000, 5, i, 1);
            EXPECT_EQUAL(ru_pending_add(&pending, &change), 0);
            if (i <= kept)
                newest[which] = i;
        }
        ru_pending_undo(&pending, kept);
        EXPECT_EQUAL(pending.count, kept);
        for (uint32_t which = 0; which < 8; which++) {
            const struct ru_change *found = ru_pending_find(&pending, number_of(which * 1000, 5));
            EXPECT_EQUAL(found ? value_of(found->an) : 0, newest[which]);
        }
        ru_pending_undo(&pending, 0);
    }
    struct ru_change wrong = change_of(RU_STORE_PAGES, 0, 0, 0);
    EXPECT_ABORT(ru_pending_add(&pending, &wrong));
    EXPECT_ABORT(ru_pending_undo(&pending, 1));
    ru_pending_destroy(&pending);
}

int main(void)
{
    RUN(test_blank);
    RUN(test_attach);
    RUN(test_misuse);
    RUN(test_model);
    RUN(test_a_page_fills);
    RUN(test_unreadable);
    RUN(test_half_applied);
    RUN(test_one_state);
    RUN(test_pending);
    return native_finish();
}
