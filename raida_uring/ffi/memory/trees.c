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
    const uint32_t all = (1U << RU_DENOMINATIONS_COUNT) - 1;
    const uint64_t copy = version & 1;
    uint32_t lacking = trees->changed;
    if (trees->versions[!copy] != version - 1) { /* roots alone were published between */
        if (trees->versions[copy] >= trees->versions[!copy])
            return all;
        lacking = all;
    }
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        const uint8_t *newer = (const uint8_t *)(const void *)trees->copies[!copy][tree];
        if ((lacking & ~replaced) >> tree & 1)
            ru_words_store(trees->copies[copy][tree], newer, RU_TREE_WORDS);
    }
    return replaced;
}

void ru_trees_publish(struct ru_trees *trees, struct ru_roots *roots, const uint8_t *changed,
                      uint32_t count, const uint8_t *nodes)
{
    const uint64_t version = ru_roots_begin(roots);
    const uint64_t copy = version & 1;
    uint8_t values[RU_ROOTS_SIZE];
    uint32_t replaced = 0;
    for (uint32_t i = 0; i < count; i++) {
        RU_CHECK(changed[i] < RU_DENOMINATIONS_COUNT);
        replaced |= 1U << changed[i];
        ru_words_store(trees->copies[copy][changed[i]], nodes + (size_t)i * RU_TREE_SIZE,
                       RU_TREE_WORDS);
    }
    trees->changed = copy_refresh(trees, version, replaced);
    __atomic_store_n(&trees->versions[copy], version, __ATOMIC_RELAXED);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++) {
        const uint64_t *root = &trees->copies[copy][tree][RU_TREE_WORDS - NODE_WORDS];
        ru_words_load(values + (size_t)tree * RU_ROOT_SIZE, root, NODE_WORDS);
    }
    ru_roots_publish(roots, values);
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
        published = version != 0 &&
                    __atomic_load_n(&trees->versions[version & 1], __ATOMIC_RELAXED) == version;
        ru_words_load(node, at, NODE_WORDS);
    } while (!ru_roots_held(roots, version));
    return published;
}
