/* test_trees.c: nodes are of the trees whose roots are published.
 *
 * Also run under the thread sanitizer. What must hold: a node that a reader gets, and the roots that
 * it gets, are of one publication each, not older than the one before the read; every tree is of the
 * newest publication that changed it.
 */
#include <pthread.h>
#include <sched.h>

#include "memory/trees.h"
#include "native.h"

#define READERS 2
#define VERSIONS 1000U
#define NODE_MARK 8 /* bytes of a node that say what it is of */

static struct ru_roots roots;
static struct ru_trees trees;
static uint32_t finished;

/* The nodes of a tree: each repeats the publication and the tree's number. */
static void tree_fill(uint8_t *nodes, uint32_t version, uint32_t tree)
{
    for (uint32_t at = 0; at < RU_TREE_SIZE; at += NODE_MARK) {
        memcpy(nodes + at, &version, sizeof(version));
        memcpy(nodes + at + 4, &tree, sizeof(tree));
    }
}

static uint32_t version_in(const uint8_t *node, uint32_t tree)
{
    uint32_t version;
    memcpy(&version, node, sizeof(version));
    for (uint32_t at = 0; at < RU_ROOT_SIZE; at += NODE_MARK) {
        EXPECT_BYTES(node + at, (const uint8_t *)&version, 4);
        EXPECT_BYTES(node + at + 4, (const uint8_t *)&tree, 4);
    }
    return version;
}

static void publish(uint32_t version, uint32_t changed)
{
    static uint8_t nodes[RU_DENOMINATIONS_COUNT][RU_TREE_SIZE];
    memset(nodes, 0xee, sizeof(nodes)); /* what nobody should see */
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        if (changed >> tree & 1)
            tree_fill(nodes[tree], version, tree);
    }
    ru_trees_publish(&trees, &roots, changed, nodes[0]);
}

static void all_reset(void)
{
    memset(&roots, 0, sizeof(roots));
    memset(&trees, 0, sizeof(trees));
}

/* All nodes copied are as `versions` says, and the version is that of the roots. */
static void expect_copy(const uint32_t *versions)
{
    static uint8_t nodes[RU_DENOMINATIONS_COUNT][RU_TREE_SIZE];
    EXPECT_EQUAL(ru_trees_copy(&trees, &roots, nodes[0]), ru_trees_version(&roots));
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        for (uint32_t at = 0; at < RU_TREE_SIZE; at += RU_ROOT_SIZE)
            EXPECT_EQUAL(version_in(nodes[tree] + at, tree), versions[tree]);
    }
}

/* A node of every level, and the root, of every tree. */
static void expect_versions(const uint32_t *versions)
{
    uint8_t values[RU_ROOTS_SIZE];
    uint8_t node[RU_ROOT_SIZE];
    ru_roots_read(&roots, values);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        for (uint32_t level = 0; level <= 10; level++) {
            struct ru_tree_place place = {(int32_t)tree, level, 0};
            EXPECT(ru_trees_node(&trees, &roots, &place, node));
            EXPECT_EQUAL(version_in(node, tree), versions[tree]);
        }
        EXPECT_EQUAL(version_in(values + (size_t)tree * RU_ROOT_SIZE, tree), versions[tree]);
    }
}

/* Any trees in any order; now and then roots alone, after which there are no nodes. */
static void test_each_tree_is_its_newest(void)
{
    static const uint8_t alone[RU_ROOTS_SIZE] = {1};
    static uint8_t copy[RU_TREES_SIZE];
    struct ru_random random = {native_seed()};
    uint32_t versions[RU_DENOMINATIONS_COUNT];
    all_reset();
    for (uint32_t version = 1; version <= 300; version++) {
        uint32_t changed = (uint32_t)native_random(&random) & RU_TREES_ALL;
        if (version % 3 == 0)
            changed &= (uint32_t)native_random(&random) & (uint32_t)native_random(&random);
        changed = version == 1 ? RU_TREES_ALL : changed;
        publish(version, changed);
        for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++)
            versions[tree] = changed >> tree & 1 ? version : versions[tree];
        expect_versions(versions);
        if (version % 32 == 0)
            expect_copy(versions);
        for (uint32_t i = native_below(&random, 12); i >= 9; i--) {
            uint8_t node[RU_ROOT_SIZE];
            struct ru_tree_place place = {0};
            ru_roots_publish(&roots, alone);
            EXPECT(!ru_trees_node(&trees, &roots, &place, node));
            EXPECT_EQUAL(ru_trees_copy(&trees, &roots, copy), 0);
        }
    }
}

static void test_places(void)
{
    static const uint32_t counts[] = {1000, 500, 250, 125, 63, 32, 16, 8, 4, 2, 1};
    static uint8_t nodes[RU_TREES_SIZE];
    const uint32_t number = 3;
    uint8_t node[RU_ROOT_SIZE];
    uint32_t index = 0;
    struct ru_tree_place place = {.tree = (int32_t)number};
    all_reset();
    EXPECT(!ru_trees_node(&trees, &roots, &place, node)); /* nothing is published */
    for (uint32_t i = 0; i < RU_TREE_NODES; i++)
        memcpy(nodes + (size_t)number * RU_TREE_SIZE + (size_t)i * RU_ROOT_SIZE, &i, sizeof(i));
    ru_trees_publish(&trees, &roots, 1U << number, nodes);
    for (place.level = 0; place.level < 11; place.level++) {
        for (place.position = 0; place.position < counts[place.level]; place.position++, index++) {
            EXPECT(ru_trees_node(&trees, &roots, &place, node));
            EXPECT_BYTES(node, (const uint8_t *)&index, sizeof(index));
        }
        EXPECT(!ru_trees_node(&trees, &roots, &place, node));
        place.position = UINT32_MAX;
        EXPECT(!ru_trees_node(&trees, &roots, &place, node));
    }
    EXPECT_EQUAL(index, RU_TREE_NODES);
    place.position = 0;
    for (; place.level < 40; place.level++)
        EXPECT(!ru_trees_node(&trees, &roots, &place, node));
    place.level = UINT32_MAX;
    EXPECT(!ru_trees_node(&trees, &roots, &place, node));
    place = (struct ru_tree_place){.tree = -1};
    EXPECT(!ru_trees_node(&trees, &roots, &place, node));
    place.tree = RU_DENOMINATIONS_COUNT;
    EXPECT(!ru_trees_node(&trees, &roots, &place, node));
    EXPECT_ABORT(ru_trees_publish(&trees, &roots, 1U << RU_DENOMINATIONS_COUNT, nodes));
}

/* All nodes that a reader copies at once are of one publication. */
static void *copy_nodes(void *argument)
{
    static uint8_t nodes[RU_DENOMINATIONS_COUNT][RU_TREE_SIZE];
    uint64_t before = 0;
    (void)argument;
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        const uint64_t version = ru_trees_copy(&trees, &roots, nodes[0]);
        EXPECT(version >= before);
        before = version;
        EXPECT_EQUAL(version_in(nodes[0], 0), version); /* always changed */
        for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
            const uint32_t newest = version_in(nodes[tree], tree);
            EXPECT(newest <= version);
            for (uint32_t at = 0; at < RU_TREE_SIZE; at += RU_ROOT_SIZE)
                EXPECT_EQUAL(version_in(nodes[tree] + at, tree), newest);
        }
    }
    return NULL;
}

/* Versions a reader gets never go back, and are as new as the roots were before. */
static void *read_nodes(void *argument)
{
    struct ru_random random = {*(const uint64_t *)argument};
    uint32_t before = 0;
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        uint8_t values[RU_ROOTS_SIZE];
        uint8_t node[RU_ROOT_SIZE];
        struct ru_tree_place place = {0, native_below(&random, 11), 0}; /* always changed */
        ru_roots_read(&roots, values);
        uint32_t shown = version_in(values, 0);
        EXPECT(shown >= before);
        EXPECT(ru_trees_node(&trees, &roots, &place, node));
        before = version_in(node, 0);
        EXPECT(before >= shown);
        place.tree = 1 + (int32_t)native_below(&random, RU_DENOMINATIONS_COUNT - 1);
        EXPECT(ru_trees_node(&trees, &roots, &place, node));
        (void)version_in(node, (uint32_t)place.tree);
    }
    return NULL;
}

static void test_readers_while_a_publisher_changes_trees(void)
{
    pthread_t readers[READERS];
    pthread_t copier;
    uint64_t seeds[READERS];
    struct ru_random random = {native_seed()};
    all_reset();
    publish(1, RU_TREES_ALL);
    EXPECT_EQUAL(pthread_create(&copier, NULL, copy_nodes, NULL), 0);
    for (uint32_t i = 0; i < READERS; i++) {
        seeds[i] = native_random(&random);
        EXPECT_EQUAL(pthread_create(&readers[i], NULL, read_nodes, &seeds[i]), 0);
    }
    for (uint32_t version = 2; version <= VERSIONS; version++) {
        publish(version, 1U | 1U << native_below(&random, RU_DENOMINATIONS_COUNT));
        if (version % 8 == 0)
            (void)sched_yield();
    }
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < READERS; i++)
        EXPECT_EQUAL(pthread_join(readers[i], NULL), 0);
    EXPECT_EQUAL(pthread_join(copier, NULL), 0);
}

int main(void)
{
    RUN(test_places);
    RUN(test_each_tree_is_its_newest);
    RUN(test_readers_while_a_publisher_changes_trees);
    return native_finish();
}
