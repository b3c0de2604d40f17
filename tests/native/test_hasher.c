/* test_hasher.c: trees that follow the coins.
 *
 * Also run under the thread sanitizer. What must hold: after any changes the nodes are those of the
 * pages, by another computation; a turn hashes no more pages than it may, and several turns miss none,
 * also while pages change all the time; what is told to be behind is behind.
 */
#include <openssl/sha.h>
#include <pthread.h>

#include "clock.h"
#include "coins/hasher.h"
#include "coins/segment.h"
#include "native.h"

#define SHORT_PAGE 7007U /* cannot be read; page_of() gives others */
#define SOME_PAGES 64U   /* that changes touch, some of each tree */

static struct ru_trees trees;
static struct ru_roots roots;

struct house {
    struct native_directory directory;
    struct ru_store *store;
    struct ru_hasher *hasher;
};

static uint32_t page_of(uint32_t index)
{
    return index * 9973U % RU_STORE_PAGES; /* a prime: spread over all trees */
}

static void change(struct ru_store *store, struct ru_random *random, uint32_t page)
{
    uint8_t coin[RU_COIN_AN_SIZE];
    uint8_t state;
    struct ru_view *view;
    const uint32_t record = native_below(random, RU_PAGE_RECORDS_COUNT);
    const uint32_t month = native_below(random, 4); /* 0: not in circulation */
    const uint32_t serial = page % RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT + record;
    coin[RU_COIN_DENOMINATION_AT] =
        (uint8_t)((int)(page / RU_STORE_DEN_PAGES) + RU_DENOMINATION_MIN);
    for (uint32_t i = 0; i < 4; i++)
        coin[RU_COIN_SERIAL_AT + i] = (uint8_t)(serial >> (24 - 8 * i));
    ru_random_fill(random, coin + RU_COIN_AN_AT, RU_AN_SIZE);
    if (ru_view_open(store, RU_VIEW_WRITES, &view) != 0 || ru_view_begin(view) != 0)
        abort();
    EXPECT_EQUAL(ru_view_set(view, coin, 1, RU_COIN_AN_SIZE, RU_COIN_AN_AT, month, &state), 1);
    EXPECT_EQUAL(ru_view_commit(view), 0);
    ru_view_close(view);
}

/* The leaf of a page of the wire's form, written down once more. */
static uint32_t leaf_expected(struct ru_store *store, uint32_t page, uint8_t *leaf)
{
    uint8_t bytes[RU_PAGE_SIZE];
    uint8_t ans[RU_PAGE_RECORDS_COUNT][RU_AN_SIZE] = {0};
    uint32_t circulating = 0;
    uint64_t number;
    if (ru_memory_state(&store->memory, page) == RU_PAGE_BLANK) { /* for speed; most are */
        memcpy(leaf, SHA256(ans[0], sizeof(ans), NULL), RU_ROOT_SIZE);
        return 0;
    }
    if (ru_store_page(store, page, bytes, &number) == RU_PAGE_UNREADABLE) {
        memset(leaf, 0, RU_ROOT_SIZE);
        return 0;
    }
    for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++) {
        const uint8_t *record = bytes + (size_t)i * RU_PAGE_RECORD_SIZE;
        if (record[RU_AN_SIZE] == 0)
            continue;
        memcpy(ans[i], record, RU_AN_SIZE);
        circulating++;
    }
    SHA256(ans[0], sizeof(ans), leaf);
    return circulating;
}

/* A node of a tree by recursion, `height` levels above the leaves. */
static void node_expected(const uint8_t *leaves, uint32_t height, uint32_t position, uint8_t *node)
{
    uint8_t pair[2][RU_ROOT_SIZE];
    if (height == 0) {
        memcpy(node, leaves + (size_t)position * RU_ROOT_SIZE, RU_ROOT_SIZE);
        return;
    }
    const uint32_t below = (RU_TREE_LEAVES + (1U << (height - 1)) - 1) >> (height - 1);
    node_expected(leaves, height - 1, 2 * position, pair[0]);
    if (2 * position + 1 < below)
        node_expected(leaves, height - 1, 2 * position + 1, pair[1]);
    else
        memcpy(pair[1], pair[0], RU_ROOT_SIZE);
    SHA256(pair[0], sizeof(pair), node);
}

/* Every leaf and every node of the trees, and what is published, are those of the pages. */
static void expect_true(const struct house *house, const struct ru_hasher_turn *turn)
{
    static uint8_t leaves[RU_TREE_LEAVES][RU_ROOT_SIZE];
    static uint8_t shown[RU_TREES_SIZE];
    const uint8_t *nodes = ru_hasher_nodes(house->hasher);
    uint8_t node[RU_ROOT_SIZE];
    (void)ru_trees_copy(&trees, &roots, shown);
    EXPECT(memcmp(shown, nodes, sizeof(shown)) == 0);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++, nodes += RU_TREE_SIZE) {
        uint32_t circulating = 0;
        for (uint32_t i = 0; i < RU_TREE_LEAVES; i++)
            circulating += leaf_expected(house->store, tree * RU_STORE_DEN_PAGES + i, leaves[i]);
        EXPECT_EQUAL(circulating, turn->circulating[tree]);
        EXPECT(memcmp(nodes, leaves, sizeof(leaves)) == 0);
        node_expected(leaves[0], 10, 0, node);
        EXPECT_BYTES(nodes + (RU_TREE_NODES - 1) * RU_ROOT_SIZE, node, RU_ROOT_SIZE);
        node_expected(leaves[0], 3, 124,
                      node); /* the last of its level, of leaves without siblings */
        EXPECT_BYTES(nodes + (1000 + 500 + 250 + 124) * RU_ROOT_SIZE, node, RU_ROOT_SIZE);
    }
}

static void turn_take(const struct house *house, uint32_t pages_max, uint64_t found_ns,
                      struct ru_hasher_turn *turn)
{
    EXPECT_EQUAL(ru_hasher_turn(house->hasher, pages_max, found_ns, &trees, &roots, turn), 0);
    EXPECT(turn->hashed <= pages_max);
    EXPECT_EQUAL(turn->left > 0, turn->since_ns > 0);
}

static struct house house_open(struct ru_hasher_turn *turn)
{
    static const uint8_t id[RU_STORE_ID_BYTES] = "a store of trees";
    struct house house = {.directory = native_directory_new()};
    memset(&trees, 0, sizeof(trees));
    memset(&roots, 0, sizeof(roots));
    if (ru_store_create((const uint8_t *)"4567", 4, &house.store) != 0 ||
        ru_memory_load(&house.store->memory, SHORT_PAGE, NULL, 0) != 0 ||
        ru_store_start_journal(house.directory.fd, id, 1) != 0 ||
        ru_store_replay(house.store, house.directory.fd, id, 1, 0) != 0 ||
        ru_store_serve(house.store, house.directory.fd, -1, id, 0, 1, RU_SEGMENTS_MAX) != 0)
        abort();
    EXPECT_EQUAL(ru_hasher_open(house.store, &house.hasher), 0);
    turn_take(&house, RU_STORE_PAGES, 1, turn);
    EXPECT_EQUAL(turn->hashed, RU_STORE_PAGES);
    EXPECT_EQUAL(turn->left, 0);
    return house;
}

static void house_close(const struct house *house)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    ru_hasher_close(house->hasher);
    ru_store_close(house->store);
    for (int i = ru_segment_list(house->directory.fd, segments); i-- > 0;)
        EXPECT_EQUAL(ru_segment_remove(house->directory.fd, segments[i].index), 0);
    native_directory_remove(&house->directory);
}

static void test_nodes_are_those_of_the_pages(void)
{
    struct ru_random random = {native_seed()};
    struct ru_hasher_turn turn;
    struct house house = house_open(&turn);
    expect_true(&house, &turn);
    for (uint32_t round = 0; round < 5; round++) {
        const uint32_t changes = native_below(&random, 2 * SOME_PAGES);
        for (uint32_t i = 0; i < changes; i++)
            change(house.store, &random, page_of(native_below(&random, SOME_PAGES)));
        if (round == 1) /* the first and the last of each tree */
            for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
                change(house.store, &random, tree * RU_STORE_DEN_PAGES);
                change(house.store, &random, (tree + 1) * RU_STORE_DEN_PAGES - 1);
            }
        do {
            turn_take(&house, 1 + native_below(&random, SOME_PAGES), 1, &turn);
        } while (turn.left > 0);
        EXPECT_EQUAL(turn.reached, ru_memory_applied(&house.store->memory));
        expect_true(&house, &turn);
    }
    house_close(&house);
}

/* One page a turn, in a round in which each has its turn, however often the first changes meanwhile. */
static void test_a_turn_hashes_what_it_may_and_starves_no_page(void)
{
    struct ru_random random = {native_seed()};
    struct ru_hasher_turn turn;
    struct house house = house_open(&turn);
    const uint64_t version = ru_trees_version(&roots);
    const uint64_t reached = turn.reached;
    for (uint32_t i = 0; i < SOME_PAGES; i++)
        change(house.store, &random, page_of(i));
    for (uint32_t i = 1; i <= SOME_PAGES + 1; i++) {
        const uint32_t others = i <= SOME_PAGES ? SOME_PAGES - i : 0; /* not hashed at all yet */
        const bool again = i > 1 && i <= SOME_PAGES;                  /* page 0 waits once more */
        turn_take(&house, 1, 100 + i, &turn);
        EXPECT_EQUAL(turn.hashed, 1);
        EXPECT_EQUAL(turn.left, others + again);
        EXPECT_EQUAL(turn.shown_since_ns, i <= SOME_PAGES ? 101 : 102);
        EXPECT_EQUAL(turn.since_ns, others > 0 ? 101 : again ? 102 : 0);
        EXPECT_EQUAL(ru_trees_version(&roots), version + i);
        if (i < SOME_PAGES)
            change(house.store, &random, page_of(0)); /* the first page */
        if (turn.left > 0)
            EXPECT_EQUAL(turn.reached, reached);
    }
    EXPECT_EQUAL(turn.reached, ru_memory_applied(&house.store->memory));
    expect_true(&house, &turn);
    turn_take(&house, 1, 1, &turn);
    EXPECT_EQUAL(turn.hashed, 0);
    EXPECT_EQUAL(turn.shown_since_ns, 0);
    EXPECT_EQUAL(ru_trees_version(&roots), version + SOME_PAGES + 1); /* nothing changed */
    house_close(&house);
}

/* As if its process had died while it applied a batch, and nobody had mended it. */
static void test_a_page_that_cannot_be_read_is_published_later(void)
{
    struct ru_random random = {native_seed()};
    struct ru_hasher_turn turn;
    struct house house = house_open(&turn);
    const uint64_t version = ru_trees_version(&roots);
    for (uint32_t i = 0; i < SOME_PAGES; i++)
        change(house.store, &random, page_of(i));
    uint64_t *number = &house.store->memory.numbers[page_of(SOME_PAGES / 2)];
    const uint64_t before = *number;
    *number = before + SOME_PAGES;
    EXPECT_EQUAL(ru_hasher_turn(house.hasher, RU_STORE_PAGES, 100, &trees, &roots, &turn),
                 RU_STORE_BUSY);
    EXPECT_EQUAL(ru_trees_version(&roots), version);
    *number = before;
    turn_take(&house, RU_STORE_PAGES, 200, &turn);
    EXPECT_EQUAL(turn.left, 0);
    EXPECT_EQUAL(turn.shown_since_ns, 100);
    expect_true(&house, &turn);
    house_close(&house);
}

static void test_saved_leaves_spare_hashing(void)
{
    static uint8_t leaves[RU_TREE_LEAVES * RU_ROOT_SIZE];
    static uint16_t counts[RU_TREE_LEAVES];
    static uint64_t numbers[RU_TREE_LEAVES];
    struct ru_random random = {native_seed()};
    struct ru_hasher_turn turn;
    struct house house = house_open(&turn);
    struct ru_hasher *first = house.hasher;
    for (uint32_t i = 0; i < SOME_PAGES; i++)
        change(house.store, &random, page_of(i));
    turn_take(&house, RU_STORE_PAGES, 1, &turn);
    EXPECT_EQUAL(ru_hasher_open(house.store, &house.hasher), 0);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        ru_hasher_save(first, tree, leaves, counts, numbers);
        ru_hasher_load(house.hasher, tree, leaves, counts, numbers);
    }
    ru_hasher_close(first);
    change(house.store, &random, page_of(3));
    change(house.store, &random, page_of(SOME_PAGES));
    memset(&trees, 0, sizeof(trees));
    memset(&roots, 0, sizeof(roots));
    turn_take(&house, RU_STORE_PAGES, 1, &turn);
    EXPECT_EQUAL(turn.hashed, 2);
    EXPECT_EQUAL(ru_trees_version(&roots), 1);
    expect_true(&house, &turn);
    ru_hasher_publish(house.hasher, &trees, &roots); /* all of them, as at a start */
    EXPECT_EQUAL(ru_trees_version(&roots), 2);
    expect_true(&house, &turn);
    EXPECT_ABORT(ru_hasher_load(house.hasher, RU_DENOMINATIONS_COUNT, leaves, counts, numbers));
    EXPECT_ABORT((void)ru_hasher_turn(house.hasher, RU_STORE_PAGES, 0, &trees, &roots, &turn));
    house_close(&house);
}

/* ---- a writer beside it ---- */

#define CHANGES 2000U

static uint32_t finished;

static void *change_pages(void *argument)
{
    const struct house *house = argument;
    struct ru_random random = {native_seed() + 1};
    for (uint32_t i = 0; i < CHANGES; i++)
        change(house->store, &random, page_of(native_below(&random, SOME_PAGES)));
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void *read_trees(void *argument)
{
    uint64_t before = 0;
    uint8_t *nodes = argument;
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        const uint64_t version = ru_trees_copy(&trees, &roots, nodes);
        EXPECT(version >= before);
        before = version;
    }
    return NULL;
}

static void test_pages_that_change_all_the_time(void)
{
    static uint8_t nodes[RU_TREES_SIZE];
    struct ru_random random = {native_seed()};
    struct ru_hasher_turn turn;
    struct house house = house_open(&turn);
    pthread_t writer;
    pthread_t reader;
    uint64_t reached = 0;
    EXPECT_EQUAL(pthread_create(&writer, NULL, change_pages, &house), 0);
    EXPECT_EQUAL(pthread_create(&reader, NULL, read_trees, nodes), 0);
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        turn_take(&house, 1 + native_below(&random, 2 * SOME_PAGES), ru_now_ns(), &turn);
        EXPECT(turn.reached >= reached);
        reached = turn.reached;
    }
    EXPECT_EQUAL(pthread_join(writer, NULL), 0);
    EXPECT_EQUAL(pthread_join(reader, NULL), 0);
    do {
        turn_take(&house, SOME_PAGES, ru_now_ns(), &turn);
    } while (turn.left > 0);
    EXPECT_EQUAL(turn.reached, ru_memory_applied(&house.store->memory));
    expect_true(&house, &turn);
    house_close(&house);
}

int main(void)
{
    RUN(test_nodes_are_those_of_the_pages);
    RUN(test_a_turn_hashes_what_it_may_and_starves_no_page);
    RUN(test_a_page_that_cannot_be_read_is_published_later);
    RUN(test_saved_leaves_spare_hashing);
    RUN(test_pages_that_change_all_the_time);
    return native_finish();
}
