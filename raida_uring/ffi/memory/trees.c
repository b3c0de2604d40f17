/* trees.c: every node of the coins' trees. */
#include "memory/trees.h"

#include "check.h"
#include "memory/words.h"
#include "number.h"

#define NODE_WORDS (RU_ROOT_SIZE / sizeof(uint64_t))

/* The node's index in its tree; RU_NONE: there is no such place. */
static uint32_t place_index(const struct ru_tree_place *place)
{
    uint32_t index = 0;
    uint32_t nodes = RU_TREE_LEAVES; /* of the level */
    if (place->tree < 0 || place->tree >= RU_DENOMINATIONS_COUNT)
        return RU_NONE;
    for (uint32_t level = 0; level < place->level; level++) {
        if (nodes == 1)
            return RU_NONE;
        index += nodes;
        nodes = (nodes + 1) / 2;
    }
    return place->position < nodes ? index + place->position : RU_NONE;
}

/* Bring a copy, but for the trees in `replaced`, to the state of the version before `version`. Returns
 * what the other copy will lack. Only the publisher writes, so it reads as it likes. */
static uint32_t copy_refresh(struct ru_trees *trees, uint64_t version, uint32_t replaced)
{
    const uint64_t copy = version & 1;
    uint32_t lacking = trees->changed;
    if (trees->versions[!copy] != version - 1) { /* roots alone were published between */
        if (trees->versions[copy] >= trees->versions[!copy])
            return RU_TREES_ALL;
        lacking = RU_TREES_ALL;
    }
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        const uint8_t *newer = (const uint8_t *)(const void *)trees->copies[!copy][tree];
        if ((lacking & ~replaced) >> tree & 1)
            ru_words_store(trees->copies[copy][tree], newer, RU_TREE_WORDS);
    }
    return replaced;
}

void ru_trees_publish(struct ru_trees *trees, struct ru_roots *roots, uint32_t changed,
                      const uint8_t *nodes)
{
    const uint64_t version = ru_roots_begin(roots);
    const uint64_t copy = version & 1;
    uint8_t values[RU_ROOTS_SIZE];
    RU_CHECK(changed <= RU_TREES_ALL);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        if (changed >> tree & 1)
            ru_words_store(trees->copies[copy][tree], nodes + (size_t)tree * RU_TREE_SIZE,
                           RU_TREE_WORDS);
    }
    trees->changed = copy_refresh(trees, version, changed);
    __atomic_store_n(&trees->versions[copy], version, __ATOMIC_RELAXED);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        const uint64_t *root = &trees->copies[copy][tree][RU_TREE_WORDS - NODE_WORDS];
        ru_words_load(values + (size_t)tree * RU_ROOT_SIZE, root, NODE_WORDS);
    }
    ru_roots_publish(roots, values);
}

uint64_t ru_trees_version(const struct ru_roots *roots)
{
    return ru_roots_version(roots);
}

/* Whether the roots of `version`, which are published, were published with trees. */
static bool trees_have(const struct ru_trees *trees, uint64_t version)
{
    return version != 0 &&
           __atomic_load_n(&trees->versions[version & 1], __ATOMIC_RELAXED) == version;
}

bool ru_trees_node(const struct ru_trees *trees, const struct ru_roots *roots,
                   const struct ru_tree_place *place, uint8_t *node)
{
    const uint32_t index = place_index(place);
    uint64_t version;
    bool published;
    if (index == RU_NONE)
        return false;
    do {
        version = ru_roots_version(roots);
        const uint64_t *at = &trees->copies[version & 1][place->tree][index * NODE_WORDS];
        published = trees_have(trees, version);
        ru_words_load(node, at, NODE_WORDS);
    } while (!ru_roots_held(roots, version));
    return published;
}

uint64_t ru_trees_copy(const struct ru_trees *trees, const struct ru_roots *roots, uint8_t *nodes)
{
    uint64_t version;
    bool published;
    do {
        version = ru_roots_version(roots);
        published = trees_have(trees, version);
        for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++)
            ru_words_load(nodes + (size_t)tree * RU_TREE_SIZE, trees->copies[version & 1][tree],
                          RU_TREE_WORDS);
    } while (!ru_roots_held(roots, version));
    return published ? version : 0;
}
