/* hasher.c: the trees over the coins, brought up to date while coins change. */
#include "coins/hasher.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* What has become of a page since its tree's nodes were made. */
enum leaf_state {
    LEAF_KEPT = 0,
    LEAF_TAKEN = 1, /* hashed */
    LEAF_OLD = 2,   /* hashed, and changed after that */
};

#define HASHER_NEVER UINT64_MAX /* in place of a batch's number: of no state of the page */

struct ru_hasher {
    struct ru_store *store;
    EVP_MD *sha256;
    EVP_MD_CTX *context;         /* kept: setting one up takes as long as hashing a node */
    uint32_t next;               /* page that a turn begins with */
    uint8_t empty[RU_ROOT_SIZE]; /* leaf of a page without a coin in circulation */
    uint8_t selected[RU_STORE_SELECTED];
    uint64_t reached; /* number of a batch: the leaves include it and all before it */
    uint64_t numbers[RU_STORE_PAGES]; /* of the batch that the page's leaf is of */
    uint64_t
        since_ns[RU_STORE_PAGES]; /* when a change of the page was found that the nodes lack; 0 */
    uint16_t counts[RU_STORE_PAGES]; /* coins in circulation */
    uint8_t states[RU_STORE_PAGES];  /* enum leaf_state */
    uint8_t raised[RU_DENOMINATIONS_COUNT]
                  [RU_TREE_NODES]; /* 1: the node is newer than its parent */
    uint8_t nodes[RU_DENOMINATIONS_COUNT][RU_TREE_SIZE];
};

_Static_assert((uint32_t)RU_STORE_DEN_PAGES == (uint32_t)RU_TREE_LEAVES, "a leaf a page");
_Static_assert(sizeof(((struct ru_hasher *)0)->nodes) == RU_TREES_SIZE, "as they are published");
_Static_assert(RU_PAGE_RECORDS_COUNT <= UINT16_MAX, "counts");

/* ---- open and close ---- */

static int hasher_digest(struct ru_hasher *hasher, const uint8_t *bytes, size_t size, uint8_t *hash)
{
    unsigned int written = 0;
    bool made = EVP_DigestInit_ex2(hasher->context, hasher->sha256, NULL) == 1 &&
                EVP_DigestUpdate(hasher->context, bytes, size) == 1 &&
                EVP_DigestFinal_ex(hasher->context, hash, &written) == 1;
    RU_CHECK(!made || written == RU_ROOT_SIZE);
    return made ? 0 : -ENOMEM; /* nothing else makes it fail */
}

int ru_hasher_open(struct ru_store *store, struct ru_hasher **hasher)
{
    *hasher = NULL;
    struct ru_hasher *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->store = store;
    made->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    made->context = EVP_MD_CTX_new();
    int rc = made->sha256 && made->context ? 0 : -ENOMEM;
    if (rc == 0)
        rc = hasher_digest(made, made->selected, sizeof(made->selected), made->empty);
    if (rc != 0) {
        ru_hasher_close(made);
        return rc;
    }
    for (uint32_t page = 0; page < RU_STORE_PAGES; page++)
        made->numbers[page] = HASHER_NEVER;
    memset(made->raised, 1, sizeof(made->raised)); /* no node is made yet */
    *hasher = made;
    return 0;
}

void ru_hasher_close(struct ru_hasher *hasher)
{
    if (!hasher)
        return;
    EVP_MD_CTX_free(hasher->context);
    EVP_MD_free(hasher->sha256);
    OPENSSL_cleanse(hasher->selected, sizeof(hasher->selected)); /* ANs */
    free(hasher);
}

/* ---- leaves ---- */

static uint8_t *leaf_of(struct ru_hasher *hasher, uint32_t page)
{
    return hasher->nodes[page / RU_TREE_LEAVES] + (size_t)(page % RU_TREE_LEAVES) * RU_ROOT_SIZE;
}

void ru_hasher_load(struct ru_hasher *hasher, uint32_t tree, const uint8_t *leaves,
                    const uint16_t *counts, const uint64_t *numbers)
{
    const uint32_t first = tree * RU_TREE_LEAVES;
    RU_CHECK(tree < RU_DENOMINATIONS_COUNT);
    memcpy(leaf_of(hasher, first), leaves, (size_t)RU_TREE_LEAVES * RU_ROOT_SIZE);
    memcpy(&hasher->counts[first], counts, RU_TREE_LEAVES * sizeof(*counts));
    memcpy(&hasher->numbers[first], numbers, RU_TREE_LEAVES * sizeof(*numbers));
    memset(hasher->raised[tree], 1, RU_TREE_LEAVES);
}

void ru_hasher_save(const struct ru_hasher *hasher, uint32_t tree, uint8_t *leaves,
                    uint16_t *counts, uint64_t *numbers)
{
    const uint32_t first = tree * RU_TREE_LEAVES;
    RU_CHECK(tree < RU_DENOMINATIONS_COUNT);
    memcpy(leaves, hasher->nodes[tree], (size_t)RU_TREE_LEAVES * RU_ROOT_SIZE);
    memcpy(counts, &hasher->counts[first], RU_TREE_LEAVES * sizeof(*counts));
    memcpy(numbers, &hasher->numbers[first], RU_TREE_LEAVES * sizeof(*numbers));
}

/* Hash the page as it is after the batch that `number` becomes. Returns as ru_hasher_page(). */
static int page_hash(struct ru_hasher *hasher, uint32_t page, uint8_t *leaf, uint64_t *number)
{
    uint32_t circulating;
    int rc = ru_store_select(hasher->store, page, hasher->selected, &circulating, number);
    if (rc < 0)
        return rc;
    if (rc == RU_PAGE_UNREADABLE) {
        memset(leaf, 0, RU_ROOT_SIZE);
    } else if (circulating == 0) { /* as on a page that was never written */
        memcpy(leaf, hasher->empty, RU_ROOT_SIZE);
    } else {
        rc = hasher_digest(hasher, hasher->selected, sizeof(hasher->selected), leaf);
    }
    return rc < 0 ? rc : (int)circulating;
}

int ru_hasher_page(struct ru_hasher *hasher, uint32_t page, uint8_t *leaf)
{
    uint64_t number;
    return page_hash(hasher, page, leaf, &number);
}

static int page_take(struct ru_hasher *hasher, uint32_t page)
{
    uint8_t leaf[RU_ROOT_SIZE];
    uint64_t number;
    int circulating = page_hash(hasher, page, leaf, &number);
    if (circulating < 0)
        return circulating;
    memcpy(leaf_of(hasher, page), leaf, sizeof(leaf));
    hasher->numbers[page] = number;
    hasher->counts[page] = (uint16_t)circulating;
    hasher->states[page] = LEAF_TAKEN;
    hasher->raised[page / RU_TREE_LEAVES][page % RU_TREE_LEAVES] = 1;
    return 0;
}

/* Look at every page once, and hash up to `pages_max` of those that changed. */
static int pages_pass(struct ru_hasher *hasher, uint32_t pages_max, uint64_t found_ns,
                      struct ru_hasher_turn *turn)
{
    const uint32_t first = hasher->next;
    RU_CHECK(first < RU_STORE_PAGES && turn->left == 0);
    for (uint32_t i = 0; i < RU_STORE_PAGES; i++) {
        const uint32_t page = (first + i) % RU_STORE_PAGES;
        if (ru_memory_number(&hasher->store->memory, page) == hasher->numbers[page])
            continue;
        if (hasher->since_ns[page] == 0)
            hasher->since_ns[page] = found_ns;
        if (turn->hashed >= pages_max) {
            if (hasher->states[page] == LEAF_TAKEN)
                hasher->states[page] = LEAF_OLD;
            if (turn->left++ == 0)
                hasher->next = page;
            continue;
        }
        int rc = page_take(hasher, page);
        if (rc != 0)
            return rc;
        turn->hashed++;
    }
    return 0;
}

/* ---- nodes ---- */

/* Make those nodes of a level anew whose children, on the level below, are newer. `below`, `count`: the
 * first node of that level, and how many it has. */
static int level_raise(struct ru_hasher *hasher, uint32_t tree, uint32_t below, uint32_t count)
{
    uint8_t *raised = hasher->raised[tree];
    uint8_t *nodes = hasher->nodes[tree];
    RU_CHECK(below + count < RU_TREE_NODES);
    for (uint32_t at = 0; at < count; at += 2) {
        const uint32_t last = at + 1 < count ? at + 1 : at;
        const uint8_t *children = nodes + (size_t)(below + at) * RU_ROOT_SIZE;
        uint8_t alone[2 * RU_ROOT_SIZE];
        if (!raised[below + at] && !raised[below + last])
            continue;
        if (last == at) { /* a node without a sibling pairs with itself */
            memcpy(alone, children, RU_ROOT_SIZE);
            memcpy(alone + RU_ROOT_SIZE, children, RU_ROOT_SIZE);
            children = alone;
        }
        const uint32_t parent = below + count + at / 2;
        int rc = hasher_digest(hasher, children, (size_t)2 * RU_ROOT_SIZE,
                               nodes + (size_t)parent * RU_ROOT_SIZE);
        if (rc != 0)
            return rc;
        raised[parent] = 1;
        raised[below + at] = raised[below + last] = 0;
    }
    return 0;
}

/* Bring the nodes above the leaves up to date. `changed`: the trees, a bit for each. */
static int nodes_raise(struct ru_hasher *hasher, uint32_t *changed)
{
    int rc = 0;
    *changed = 0;
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT && rc == 0; tree++) {
        uint32_t below = 0;
        for (uint32_t count = RU_TREE_LEAVES; count > 1 && rc == 0; count = (count + 1) / 2) {
            rc = level_raise(hasher, tree, below, count);
            below += count;
        }
        *changed |= (uint32_t)hasher->raised[tree][RU_TREE_NODES - 1] << tree;
    }
    return rc;
}

/* ---- turns ---- */

static void oldest_note(uint64_t *oldest_ns, uint64_t since_ns)
{
    if (*oldest_ns == 0 || since_ns < *oldest_ns)
        *oldest_ns = since_ns;
}

/* The nodes are made of all leaves: note what is no longer behind, and what still is. */
static void hasher_account(struct ru_hasher *hasher, uint64_t found_ns, struct ru_hasher_turn *turn)
{
    for (uint32_t page = 0; page < RU_STORE_PAGES; page++) {
        uint64_t *since_ns = &hasher->since_ns[page];
        turn->circulating[page / RU_STORE_DEN_PAGES] += hasher->counts[page];
        if (*since_ns == 0)
            continue;
        if (hasher->states[page] != LEAF_KEPT) {
            oldest_note(&turn->shown_since_ns, *since_ns);
            *since_ns = hasher->states[page] == LEAF_OLD ? found_ns : 0;
            hasher->states[page] = LEAF_KEPT;
        }
        if (*since_ns != 0)
            oldest_note(&turn->since_ns, *since_ns);
    }
}

static int turn_hash(struct ru_hasher *hasher, uint32_t pages_max, uint64_t found_ns,
                     struct ru_hasher_turn *turn)
{
    const struct ru_memory *memory = &hasher->store->memory;
    uint64_t applied = ru_memory_applied(memory);
    for (uint32_t passes = 0; passes < RU_HASHER_PASSES; passes++) {
        int rc = pages_pass(hasher, pages_max, found_ns, turn);
        if (rc != 0)
            return rc;
        if (turn->left > 0)
            break;
        hasher->reached = applied;
        applied = ru_memory_applied(memory);
        if (applied == hasher->reached) /* no batch came between: the leaves are of one moment */
            break;
    }
    return 0;
}

int ru_hasher_turn(struct ru_hasher *hasher, uint32_t pages_max, uint64_t found_ns,
                   struct ru_trees *trees, struct ru_roots *roots, struct ru_hasher_turn *turn)
{
    uint32_t changed;
    RU_CHECK(found_ns != 0 && pages_max > 0);
    *turn = (struct ru_hasher_turn){0};
    int rc = turn_hash(hasher, pages_max, found_ns, turn);
    if (rc == 0)
        rc = nodes_raise(hasher, &changed);
    if (rc != 0)
        return rc;
    if (trees && changed != 0)
        ru_trees_publish(trees, roots, changed, hasher->nodes[0]);
    for (uint32_t tree = 0; tree < RU_DENOMINATIONS_COUNT; tree++)
        hasher->raised[tree][RU_TREE_NODES - 1] = 0;
    hasher_account(hasher, found_ns, turn);
    turn->reached = hasher->reached;
    return 0;
}

void ru_hasher_publish(struct ru_hasher *hasher, struct ru_trees *trees, struct ru_roots *roots)
{
    ru_trees_publish(trees, roots, RU_TREES_ALL, hasher->nodes[0]);
}

const uint8_t *ru_hasher_nodes(const struct ru_hasher *hasher)
{
    return hasher->nodes[0];
}
