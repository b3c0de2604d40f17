/* test_disk.c: journal and writer on a disk that fails at every call, and that loses power at any.
 *
 * What must hold whatever happens: a batch that was acknowledged is in memory, and found by every
 * later start; one that failed is whole or absent, and stays as the start found it; after a failed
 * flush nothing is acknowledged until the next start. Memory and files are a node's, but for their
 * sizes; the base is a copy of the coins.
 */
#include "coins/segment.h"
#include "coins/writer.h"
#include "disk_rig.h"

#define COINS 8U
#define SERIALS 4096U
#define MANY 700U /* changes of a long batch: 15 KB */

static const struct ru_journal_settings settings = {.store = "a failing disk's",
                                                    .first_bytes = 8 * RU_ENTRY_BLOCK,
                                                    .segment_bytes = 32 * RU_ENTRY_BLOCK,
                                                    .segments_max = 16};

/* What became of the batch with a serial number. */
enum fate {
    NEVER,
    UNKNOWN,
    FAILED,
    WRITTEN,
    DURABLE
};

/* Batch `serial` sets its coins to `serial`: coin 0 always, so that its value names the newest one. */
struct attempt {
    enum fate fate;
    bool changes[COINS];
};

struct node {
    struct native_directory own;
    int directory;
    enum ru_durability durability;
    struct ru_memory memory;
    struct ru_journal journal;
    struct ru_writer writer;
    bool open;
    uint64_t serial; /* of the newest attempt */
    uint64_t since;  /* entry that the base lacks first */
    uint64_t base[COINS];
    struct attempt attempts[SERIALS];
};

static uint32_t coin_of(uint32_t which)
{
    return which * 500U * RU_PAGE_RECORDS_COUNT + which;
}

static uint64_t value_of(const uint8_t *record)
{
    uint64_t value;
    memcpy(&value, record, sizeof(value));
    return record[RU_AN_SIZE] == 0 ? 0 : value;
}

static uint64_t visible(const struct node *node, uint32_t which)
{
    uint8_t record[RU_PAGE_RECORD_SIZE];
    (void)ru_memory_record(&node->memory, coin_of(which), record);
    return value_of(record);
}

static struct ru_change change_of(uint32_t coin, uint64_t value)
{
    struct ru_change change = {.coin = coin, .month = 1};
    memcpy(change.an, &value, sizeof(value));
    return change;
}

/* ---- start and stop ---- */

static void directory_new(struct node *node)
{
    node->own = native_directory_new();
    node->directory = node->own.fd;
}

static void directory_remove(const struct node *node)
{
    struct disk_name names[DISK_NAMES];
    disk.directory = node->directory;
    uint32_t count = disk_list(names);
    for (uint32_t i = 0; i < count; i++)
        (void)__real_unlinkat(node->directory, names[i].text, 0);
    native_directory_remove(&node->own);
}

/* As new; a new one for every start would take most of the time. */
static void memory_blank(struct ru_memory *memory)
{
    memory->head->started = memory->head->applied = 0;
    memory->head->position = (struct ru_position){0};
    for (uint32_t page = 0; page < RU_STORE_PAGES; page++) {
        const uint32_t words = RU_PAGE_RECORDS_COUNT / 64;
        if (memory->states[page] != 0)
            memset(memory->written + (size_t)page * words, 0, words * sizeof(uint64_t));
        memory->states[page] = 0;
        memory->numbers[page] = 0;
    }
}

static void memory_fill(struct node *node)
{
    struct ru_defaults defaults;
    struct ru_change changes[COINS];
    uint32_t count = 0;
    disk.watching = false; /* a node that cannot have memory does not start */
    ru_defaults_init(&defaults, (const uint8_t *)"seed", 4);
    if (!node->memory.head)
        EXPECT_EQUAL(ru_memory_create(&node->memory, &defaults), 0);
    memory_blank(&node->memory);
    for (uint32_t which = 0; which < COINS; which++)
        if (node->base[which] != 0)
            changes[count++] = change_of(coin_of(which), node->base[which]);
    EXPECT_EQUAL(ru_memory_reserve(&node->memory, changes, count), 0);
    if (node->since > 1)
        ru_memory_apply(&node->memory, node->since - 1, changes, count);
    disk.watching = true;
}

static int node_start(struct node *node)
{
    memory_fill(node);
    int rc = ru_segment_clean(node->directory);
    if (rc == 0)
        rc = ru_journal_open(&node->journal, node->directory, &settings, node->since,
                             &node->memory.head->position);
    if (rc != 0)
        return rc;
    rc = ru_reader_apply(&node->journal, &node->memory, node->since);
    ru_writer_init(&node->writer, &node->memory, &node->journal, -1, node->durability);
    node->open = true;
    return rc;
}

/* As kill -9 does it: without a flush. */
static void node_kill(struct node *node)
{
    if (!node->open)
        return;
    node->open = false;
    ru_writer_destroy(&node->writer);
    ru_journal_close(&node->journal);
}

static struct node *node_new(enum ru_durability durability)
{
    struct node *node = calloc(1, sizeof(*node));
    node->durability = durability;
    node->since = 1;
    directory_new(node);
    disk_open(node->directory);
    EXPECT_EQUAL(ru_journal_create(node->directory, &settings, 1), 0);
    EXPECT_EQUAL(node_start(node), 0);
    return node;
}

static void node_free(struct node *node)
{
    node_kill(node);
    ru_memory_detach(&node->memory);
    directory_remove(node);
    disk_close();
    free(node);
}

/* ---- what must hold ---- */

/* The coins are those after batch visible(0); of failed ones only that one may be in. */
static void expect_prefix(const struct node *node)
{
    uint64_t newest = visible(node, 0);
    EXPECT(newest <= node->serial);
    for (uint32_t which = 0; which < COINS && newest <= node->serial; which++) {
        uint64_t want = 0;
        for (uint64_t serial = 1; serial <= newest; serial++)
            if (node->attempts[serial].changes[which] &&
                (serial == newest || node->attempts[serial].fate >= WRITTEN))
                want = serial;
        EXPECT_EQUAL(visible(node, which), want);
    }
}

/* After a start: nothing of fate `kept` or better is missing. What is found is so for good. */
static void expect_found(struct node *node, enum fate kept)
{
    uint64_t newest = visible(node, 0);
    uint64_t needed = 0;
    for (uint64_t serial = 1; serial <= node->serial; serial++)
        if (node->attempts[serial].fate >= kept)
            needed = serial;
    EXPECT(newest >= needed);
    if (newest < needed)
        (void)fprintf(stderr, "batch %llu was acknowledged, %llu was found\n",
                      (unsigned long long)needed, (unsigned long long)newest);
    EXPECT(newest == 0 || newest > node->serial || node->attempts[newest].fate != FAILED);
    expect_prefix(node);
    for (uint64_t serial = 1; serial <= node->serial && newest <= node->serial; serial++) {
        struct attempt *attempt = &node->attempts[serial];
        if (serial > newest)
            attempt->fate = FAILED;
        else if (serial == newest || attempt->fate >= WRITTEN)
            attempt->fate = DURABLE;
        else
            attempt->fate = FAILED;
    }
}

static void restart(struct node *node)
{
    node_kill(node);
    int rc = node_start(node);
    if (rc != 0 && disk.failed &&
        disk.fail_errno != EINTR) /* the call that fails was one of these */
        rc = node_start(node);
    EXPECT_EQUAL(rc, 0);
    if (node->open)
        expect_found(node, WRITTEN);
}

static void lose_power(struct node *node, struct ru_random *random)
{
    struct node old = *node;
    node_kill(node);
    disk.watching = false;
    directory_new(node);
    disk_cut(node->directory, random);
    directory_remove(&old);
    disk_open(node->directory);
    EXPECT_EQUAL(node_start(node), 0);
    if (node->open)
        expect_found(node, DURABLE);
}

/* ---- what a node does ---- */

static int commit(struct node *node, uint32_t draw)
{
    struct ru_batch batch;
    struct attempt *attempt = &node->attempts[++node->serial];
    uint64_t before = visible(node, 0);
    EXPECT(node->serial < SERIALS);
    EXPECT_EQUAL(ru_writer_begin(&node->writer, &batch), 0);
    int rc = 0;
    for (uint32_t which = 0; which < COINS && rc == 0; which++) {
        attempt->changes[which] = which == 0 || draw >> which & 1;
        const struct ru_change change = change_of(coin_of(which), node->serial);
        if (attempt->changes[which])
            rc = ru_writer_change(&batch, &change);
    }
    for (uint32_t i = 0; draw % 5 == 0 && i < MANY && rc == 0; i++) {
        const struct ru_change change = change_of(7 * RU_PAGE_RECORDS_COUNT + i, node->serial);
        rc = ru_writer_change(&batch, &change);
    }
    EXPECT_EQUAL(rc, 0);
    int failed_before = node->memory.head->position.failed;
    rc = ru_writer_commit(&batch, node->serial);
    EXPECT(failed_before == 0 || rc == failed_before);
    attempt->fate = rc != 0 ? UNKNOWN : node->durability == RU_DURABLE_COMMIT ? DURABLE : WRITTEN;
    /* Without a failed flush the next batch takes its place. */
    if (rc != 0 && node->memory.head->position.failed == 0)
        attempt->fate = FAILED;
    EXPECT_EQUAL(visible(node, 0), rc == 0 ? node->serial : before);
    expect_prefix(node);
    return rc;
}

static int flush(struct node *node)
{
    int rc = ru_writer_sync(&node->writer);
    for (uint64_t serial = 1; rc == 0 && serial <= node->serial; serial++)
        if (node->attempts[serial].fate == WRITTEN)
            node->attempts[serial].fate = DURABLE;
    return rc;
}

/* A checkpoint, whose base never fails here. */
static int release(struct node *node)
{
    int rc = flush(node);
    if (rc != 0)
        return rc;
    for (uint32_t which = 0; which < COINS; which++)
        node->base[which] = visible(node, which);
    node->since = ru_memory_applied(&node->memory) + 1;
    rc = ru_journal_release(&node->journal, node->since);
    return rc < 0 ? rc : 0;
}

static int step(struct node *node, uint32_t draw)
{
    switch (draw % 16) {
    case 0:
        return ru_journal_prepare(&node->journal);
    case 1:
        return release(node);
    case 2:
        return flush(node);
    case 3:
        restart(node);
        return 0;
    default:
        return commit(node, draw >> 4);
    }
}

/* ---- every call fails once ---- */

#define STEPS 80U

/* Returns how many calls there were. */
static uint64_t run_failing(enum ru_durability durability, uint64_t call, int error)
{
    struct node *node = node_new(durability);
    struct ru_random random = {5};
    uint32_t failures = 0;
    disk_fail_at(call, error);
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t draw = native_below(&random, UINT32_MAX);
        if (node->open)
            failures += step(node, draw) != 0;
    }
    uint64_t calls = disk.calls;
    if (error == EINTR || error == 0) /* tried again, or continued */
        EXPECT_EQUAL(failures, 0);
    disk_fail_at(0, 0);
    restart(node);
    EXPECT_EQUAL(commit(node, 6), 0);
    struct ru_random cut = {call};
    lose_power(node, &cut);
    EXPECT_EQUAL(commit(node, 6), 0);
    node_free(node);
    return calls;
}

static void every_call(enum ru_durability durability)
{
    static const int others[] = {ENOSPC, EINTR, 0};
    const uint64_t calls = run_failing(durability, UINT64_MAX, 0);
    EXPECT(calls > 200);
    for (uint64_t call = 1; call <= calls && native.here < NATIVE_SHOWN_MAX; call++)
        for (uint32_t i = 0; i < 2; i++) {
            unsigned before = native.here;
            int error = i == 0 ? EIO : others[call % 3];
            (void)run_failing(durability, call, error);
            if (native.here != before)
                (void)fprintf(stderr, "... with call %llu of %llu failing: %s\n",
                              (unsigned long long)call, (unsigned long long)calls,
                              error ? strerror(error) : "short");
        }
}

static void test_every_call_commit(void)
{
    every_call(RU_DURABLE_COMMIT);
}

static void test_every_call_interval(void)
{
    every_call(RU_DURABLE_INTERVAL);
}

/* ---- power cuts ---- */

/* Preparing a segment fails at each of its calls; then it is there, or made, and used. */
static void test_half_prepared(void)
{
    for (uint64_t run = 0; run < 32; run++) {
        struct node *node = node_new(RU_DURABLE_COMMIT);
        struct ru_random random = {run};
        EXPECT_EQUAL(commit(node, 6), 0);
        disk_fail_at(1 + run / 4, EIO);
        (void)ru_journal_prepare(&node->journal);
        disk_fail_at(0, 0);
        while (node->open && node->journal.open == 1)
            EXPECT_EQUAL(commit(node, 6), 0);
        lose_power(node, &random);
        node_free(node);
    }
}

static void run_cuts(uint64_t seed)
{
    struct ru_random random = {seed};
    struct node *node = node_new(seed % 2 ? RU_DURABLE_COMMIT : RU_DURABLE_INTERVAL);
    unsigned before = native.here;
    for (uint32_t lives = 0; lives < 6 && native.here == before; lives++) {
        uint32_t steps = 1 + native_below(&random, 40);
        if (native_below(&random, 2) == 0)
            disk_fail_at(1 + native_below(&random, 60), native_below(&random, 2) ? EIO : ENOSPC);
        for (uint32_t i = 0; i < steps && node->open; i++)
            (void)step(node, native_below(&random, UINT32_MAX));
        disk_fail_at(0, 0);
        if (native_below(&random, 3) == 0)
            restart(node);
        lose_power(node, &random);
        if (!node->open)
            break;
    }
    if (native.here != before)
        (void)fprintf(stderr, "... with seed %llu\n", (unsigned long long)seed);
    node_free(node);
}

static void test_power_cuts(void)
{
    uint64_t first = native_seed();
    for (uint64_t seed = first; seed < first + 200 && native.here < NATIVE_SHOWN_MAX; seed++)
        run_cuts(seed);
}

int main(void)
{
    RUN(test_every_call_commit);
    RUN(test_every_call_interval);
    RUN(test_half_prepared);
    RUN(test_power_cuts);
    return native_finish();
}
