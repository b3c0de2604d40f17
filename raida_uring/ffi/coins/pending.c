/* pending.c: changes of coins that are not in memory yet. */
#include "coins/pending.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "number.h"

#define PENDING_ROOM_MIN 256U

void ru_pending_init(struct ru_pending *pending)
{
    *pending = (struct ru_pending){0};
}

void ru_pending_destroy(struct ru_pending *pending)
{
    free(pending->changes);
    free(pending->newest);
    free(pending->older);
    ru_pending_init(pending);
}

/* Fibonacci hashing: neighbouring coins, as a wallet has them, spread over the buckets. */
static uint32_t pending_bucket(const struct ru_pending *pending, uint32_t coin)
{
    return (uint32_t)(coin * 0x9e3779b97f4a7c15ULL >> 32) & (pending->buckets - 1);
}

const struct ru_change *ru_pending_find(const struct ru_pending *pending, uint32_t coin)
{
    if (pending->count == 0)
        return NULL;
    uint32_t at = pending->newest[pending_bucket(pending, coin)];
    while (at != RU_NONE && pending->changes[at].coin != coin) {
        RU_CHECK(at < pending->count && (pending->older[at] == RU_NONE || pending->older[at] < at));
        at = pending->older[at];
    }
    return at == RU_NONE ? NULL : &pending->changes[at];
}

static void pending_link(struct ru_pending *pending, uint32_t at)
{
    uint32_t *newest = &pending->newest[pending_bucket(pending, pending->changes[at].coin)];
    pending->older[at] = *newest;
    *newest = at;
}

/* On failure what was there is unchanged, though some of it may have more room. */
static int pending_grow(struct ru_pending *pending)
{
    uint32_t room = pending->room > 0 ? 2 * pending->room : PENDING_ROOM_MIN;
    struct ru_change *changes = realloc(pending->changes, room * sizeof(*changes));
    if (changes)
        pending->changes = changes;
    uint32_t *older = realloc(pending->older, room * sizeof(*older));
    if (older)
        pending->older = older;
    uint32_t *newest = malloc(room * sizeof(*newest));
    if (!changes || !older || !newest) {
        free(newest);
        return -ENOMEM;
    }
    free(pending->newest);
    pending->newest = newest;
    pending->buckets = pending->room = room;
    memset(newest, 0xff, room * sizeof(*newest)); /* RU_NONE */
    for (uint32_t at = 0; at < pending->count; at++)
        pending_link(pending, at);
    return 0;
}

int ru_pending_add(struct ru_pending *pending, const struct ru_change *change)
{
    RU_CHECK(change->coin < RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT);
    if (pending->count == pending->room && pending_grow(pending) != 0)
        return -ENOMEM;
    pending->changes[pending->count] = *change;
    pending_link(pending, pending->count++);
    return 0;
}

void ru_pending_undo(struct ru_pending *pending, uint32_t count)
{
    RU_CHECK(count <= pending->count);
    while (pending->count > count) {
        uint32_t at = --pending->count;
        uint32_t *newest = &pending->newest[pending_bucket(pending, pending->changes[at].coin)];
        RU_CHECK(*newest == at);
        *newest = pending->older[at];
    }
}
