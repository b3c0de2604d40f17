/* view.c: one thread's look at the coins, and its changes of them.
 *
 * Why in C: a request may name thousands of coins, each with one look-up and one comparison; in the
 * interpreter these would cost more than the rest of the request.
 * Owner: a view belongs to its thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "coins/store.h"
#include "number.h"

struct ru_view {
    struct ru_store *store;
    bool writing;
    bool patient;
    bool begun;
    struct ru_batch batch; /* of a writing view that has begun */
};

int ru_view_open(struct ru_store *store, uint32_t kind, struct ru_view **view)
{
    *view = NULL;
    RU_CHECK(kind <= RU_VIEW_GLANCES);
    if (kind == RU_VIEW_WRITES && !store->serving)
        return RU_STORE_MISUSED;
    struct ru_view *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->store = store;
    made->writing = kind == RU_VIEW_WRITES;
    made->patient = kind != RU_VIEW_GLANCES;
    *view = made;
    return 0;
}

void ru_view_close(struct ru_view *view)
{
    if (!view)
        return;
    ru_view_end(view);
    free(view);
}

/* True if the view does not allow the call. Anyone may write handlers: a mistake in one must fail
 * the request, not the node. */
static bool view_refuses(const struct ru_view *view, bool change)
{
    return !view || !view->begun || (change && !view->writing);
}

int ru_view_begin(struct ru_view *view)
{
    if (!view || view->begun)
        return RU_STORE_MISUSED;
    int rc = view->writing ? ru_writer_begin(&view->store->writer, &view->batch) : 0;
    view->begun = rc == 0;
    return rc;
}

void ru_view_end(struct ru_view *view)
{
    if (view_refuses(view, false))
        return;
    view->begun = false;
    if (view->writing)
        ru_writer_end(&view->batch);
}

int ru_view_commit(struct ru_view *view)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    view->begun = false;
    const bool changes = view->batch.pending->count > 0;
    int rc = ru_writer_commit(&view->batch, ru_clock_ns(CLOCK_REALTIME));
    if (rc == 0 && changes)
        ru_sleeper_wake(&view->store->follower);
    return rc;
}

uint32_t ru_view_mark(struct ru_view *view)
{
    return view_refuses(view, true) ? 0 : view->batch.pending->count;
}

void ru_view_undo(struct ru_view *view, uint32_t mark)
{
    if (!view_refuses(view, true) && mark < view->batch.pending->count)
        ru_pending_undo(view->batch.pending, mark);
}

/* ---- reading ---- */

/* The state and, unless UNREADABLE, the record of a coin as a writing view sees it. */
static uint8_t view_record(const struct ru_view *view, const uint8_t *coin, uint8_t *record)
{
    uint32_t number = ru_coin_number(coin);
    if (number == RU_NONE)
        return RU_COIN_UNREADABLE;
    enum ru_page_state state = ru_writer_record(&view->batch, number, record);
    return state == RU_PAGE_UNREADABLE ? RU_COIN_UNREADABLE : RU_COIN_EQUAL;
}

static int match_own(const struct ru_view *view, struct ru_coin_list coins, uint32_t an_at,
                     uint8_t *states)
{
    int equal = 0;
    for (uint32_t i = 0; i < coins.count; i++) {
        const uint8_t *coin = coins.at + (size_t)i * coins.stride;
        uint8_t record[RU_PAGE_RECORD_SIZE];
        states[i] = view_record(view, coin, record);
        if (states[i] == RU_COIN_EQUAL && !ru_coin_an_equal(record, coin + an_at))
            states[i] = RU_COIN_DIFFERS;
        equal += states[i] == RU_COIN_EQUAL;
    }
    return equal;
}

int ru_view_match(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                  uint32_t an_at, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    const struct ru_coin_list list = {coins, count, stride};
    if (view->writing)
        return match_own(view, list, an_at, states);
    uint64_t since_ns = 0;
    int rc;
    do {
        rc = ru_memory_match(&view->store->memory, list, an_at, states);
    } while (rc == -EAGAIN && view->patient && ru_store_waits(view->store, &since_ns));
    return rc == -EAGAIN ? RU_STORE_BUSY : rc;
}

static int gather_own(const struct ru_view *view, struct ru_coin_list coins, uint8_t *records,
                      uint8_t *states)
{
    int found = 0;
    for (uint32_t i = 0; i < coins.count; i++, records += RU_PAGE_RECORD_SIZE) {
        memset(records, 0, RU_PAGE_RECORD_SIZE);
        states[i] = view_record(view, coins.at + (size_t)i * coins.stride, records);
        found += states[i] == RU_COIN_EQUAL;
    }
    return found;
}

int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    const struct ru_coin_list list = {coins, count, stride};
    if (view->writing)
        return gather_own(view, list, records, states);
    uint64_t since_ns = 0;
    int rc;
    do {
        rc = ru_memory_gather(&view->store->memory, list, records, states);
    } while (rc == -EAGAIN && view->patient && ru_store_waits(view->store, &since_ns));
    return rc == -EAGAIN ? RU_STORE_BUSY : rc;
}

int ru_view_page(struct ru_view *view, uint32_t page, uint8_t *bytes, uint8_t *state)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    uint64_t number;
    int rc = ru_store_page(view->store, page, bytes, &number);
    if (rc < 0)
        return rc;
    *state = rc == RU_PAGE_UNREADABLE ? RU_COIN_UNREADABLE : RU_COIN_EQUAL;
    if (view->writing && *state == RU_COIN_EQUAL)
        ru_writer_overlay(&view->batch, page, bytes);
    return 0;
}

/* ---- changing ---- */

/* Replace the record of a coin, which was read as `record`. */
static int coin_change(struct ru_view *view, const uint8_t *coin, const uint8_t *record,
                       const uint8_t *an, uint32_t month)
{
    struct ru_change change = {.coin = ru_coin_number(coin), .month = (uint8_t)month};
    /* Unchanged: write nothing, or the owner of one coin could cause any number of disk writes. */
    if (record[RU_AN_SIZE] == change.month && ru_coin_an_equal(record, an))
        return 0;
    memcpy(change.an, an, RU_AN_SIZE);
    return ru_writer_change(&view->batch, &change);
}

/* In order: replace each coin's AN by the one at `new_at`. an_at: of the AN that must be the coin's;
 * RU_NONE: whatever it is. Returns how many were replaced. */
static int view_change(struct ru_view *view, struct ru_coin_list coins, uint32_t an_at,
                       uint32_t new_at, uint32_t month, uint8_t *states)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int changed = 0;
    for (uint32_t i = 0; i < coins.count; i++) {
        const uint8_t *coin = coins.at + (size_t)i * coins.stride;
        uint8_t record[RU_PAGE_RECORD_SIZE];
        states[i] = view_record(view, coin, record);
        if (states[i] != RU_COIN_EQUAL)
            continue;
        if (an_at != RU_NONE && !ru_coin_an_equal(record, coin + an_at)) {
            states[i] = RU_COIN_DIFFERS;
            continue;
        }
        int rc = coin_change(view, coin, record, coin + new_at, month);
        if (rc != 0)
            return rc;
        changed++;
    }
    return changed;
}

int ru_view_exchange(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                     uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states)
{
    RU_CHECK(an_at != RU_NONE);
    return view_change(view, (struct ru_coin_list){coins, count, stride}, an_at, new_at, month,
                       states);
}

int ru_view_set(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                uint32_t an_at, uint32_t month, uint8_t *states)
{
    return view_change(view, (struct ru_coin_list){coins, count, stride}, RU_NONE, an_at, month,
                       states);
}
