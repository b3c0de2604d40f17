/* view.c: one thread's view of the store: coins and entries, read and changed.
 *
 * Why in C: a request may name thousands of coins, each with one look-up and one comparison; in the
 * interpreter these would cost more than the rest of the request.
 * Owner: a view belongs to its thread.
 * Memory: a view allocates its table of page addresses when opened, a writing view also a copy of
 * each page it changes; commit writes the copies into the store.
 */
#include "coins/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "coins/storefile.h"
#include "number.h"

#define VIEW_LOOKS 1000
#define VIEW_LOT_COINS 32 /* looked up together: a multiple of what defaults.c computes at once */

/* Where a page was found; valid while `snapshot` equals the view's. */
struct view_place {
    const uint8_t *at;
    uint64_t snapshot;
    uint8_t state; /* EQUAL: `at` is valid */
};

struct view_undo {
    uint16_t page;
    uint16_t record;
    uint8_t old[RU_PAGE_RECORD_SIZE];
};

struct ru_view {
    struct ru_store *store;
    MDB_txn *txn;
    bool writing;
    bool begun;
    uint64_t snapshot; /* advances whenever page addresses may have changed */
    uint64_t txn_id;
    struct view_place places[RU_STORE_PAGES];
    /* Only in a writing view: */
    uint8_t **copies; /* by page; NULL: unchanged */
    uint16_t *dirty;  /* the pages that have a copy */
    uint32_t dirty_count;
    struct view_undo *undo;
    uint32_t undo_count;
    uint32_t undo_room;
};

/* ---- views ---- */

int ru_view_open(struct ru_store *store, uint32_t writing, struct ru_view **view)
{
    *view = NULL;
    struct ru_view *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->store = store;
    made->writing = writing != 0;
    if (made->writing) {
        made->copies = (uint8_t **)calloc(RU_STORE_PAGES, sizeof(*made->copies));
        made->dirty = calloc(RU_STORE_PAGES, sizeof(*made->dirty));
        if (!made->copies || !made->dirty) {
            ru_view_close(made);
            return -ENOMEM;
        }
    }
    *view = made;
    return 0;
}

static void view_forget(struct ru_view *view)
{
    for (uint32_t i = 0; i < view->dirty_count; i++) {
        free(view->copies[view->dirty[i]]);
        view->copies[view->dirty[i]] = NULL;
    }
    view->dirty_count = 0;
    view->undo_count = 0;
}

void ru_view_close(struct ru_view *view)
{
    if (!view)
        return;
    ru_view_end(view);
    if (view->txn)
        mdb_txn_abort(view->txn);
    free((void *)view->copies);
    free(view->dirty);
    free(view->undo);
    free(view);
}

/* True if the view does not allow the call. Anyone may write handlers: a mistake in one must fail
 * the request, not the node. */
static bool view_refuses(const struct ru_view *view, bool change)
{
    return !view || !view->begun || (change && !view->writing);
}

/* True if the file's newest transaction is not the one in lock.mdb: another file, such as an older
 * copy, was written over it. The two change at slightly different times, so look several times. */
static bool view_is_foreign(const struct ru_view *view)
{
    uint64_t seen = mdb_txn_id(view->txn);
    for (uint32_t looks = 0; looks < VIEW_LOOKS; looks++) {
        MDB_envinfo info;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        (void)mdb_env_info(view->store->env, &info);
        /* Others may commit while a reading view is open, but not while a writing one is. */
        if (view->writing ? info.me_last_txnid + 1 == seen : info.me_last_txnid >= seen)
            return false;
    }
    return true;
}

int ru_view_begin(struct ru_view *view)
{
    if (!view || view->begun)
        return RU_STORE_MISUSED;
    int rc = ru_storefile_check(view->store->file, view->writing);
    if (rc != 0)
        return rc;
    ru_storefile_enter(view->store->file);
    if (view->txn)
        rc = mdb_txn_renew(view->txn);
    else
        rc = mdb_txn_begin(view->store->env, NULL, view->writing ? 0 : MDB_RDONLY, &view->txn);
    if (rc != 0) {
        if (view->writing)
            view->txn = NULL;
        ru_storefile_enter(NULL);
        return ru_store_result(rc);
    }
    view->begun = true;
    if (view_is_foreign(view)) {
        ru_view_end(view);
        return ru_storefile_distrust(view->store->file);
    }
    uint64_t txn_id = mdb_txn_id(view->txn);
    /* Without a commit since, the page addresses found before are still valid. */
    if (view->writing || txn_id != view->txn_id)
        view->snapshot++;
    view->txn_id = txn_id;
    return 0;
}

uint64_t ru_view_txn(struct ru_view *view)
{
    return view_refuses(view, false) ? 0 : view->txn_id;
}

void ru_view_end(struct ru_view *view)
{
    if (view_refuses(view, false))
        return;
    view->begun = false;
    ru_storefile_enter(NULL);
    if (view->writing) {
        mdb_txn_abort(view->txn);
        view->txn = NULL;
        view_forget(view);
    } else {
        mdb_txn_reset(view->txn);
    }
}

static int view_write_page(struct ru_view *view, uint16_t page)
{
    const uint8_t name[2] = {(uint8_t)(page >> 8), (uint8_t)page};
    MDB_val key = {sizeof(name), (void *)(uintptr_t)name};
    MDB_val value = {RU_PAGE_SIZE, view->copies[page]};
    uint8_t txn[8];
    for (uint32_t i = 0; i < sizeof(txn); i++)
        txn[i] = (uint8_t)(view->txn_id >> (56 - 8 * i));
    MDB_val when = {sizeof(txn), txn};
    int rc = mdb_put(view->txn, view->store->tables[RU_TABLE_PAGES], &key, &value, 0);
    if (rc == 0)
        rc = mdb_put(view->txn, view->store->tables[RU_TABLE_CHANGED], &key, &when, 0);
    return rc;
}

int ru_view_commit(struct ru_view *view)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int rc = 0;
    for (uint32_t i = 0; i < view->dirty_count && rc == 0; i++)
        rc = view_write_page(view, view->dirty[i]);
    /* Changes to a removed file are lost with the process: the commit must fail. */
    if (rc == 0)
        rc = ru_storefile_check(view->store->file, true);
    if (rc == 0)
        rc = ru_store_commit(view->store->env, view->txn);
    else
        mdb_txn_abort(view->txn);
    view->txn = NULL;
    view->begun = false;
    ru_storefile_enter(NULL);
    view_forget(view);
    if (rc == MDB_MAP_FULL) {
        int dead; /* a killed reader keeps old pages from being reused */
        (void)mdb_reader_check(view->store->env, &dead);
    }
    return ru_store_result(ru_storefile_explain(view->store->file, rc));
}

uint32_t ru_view_dirty(struct ru_view *view, uint16_t *pages)
{
    if (view_refuses(view, true))
        return 0;
    if (pages)
        memcpy(pages, view->dirty, view->dirty_count * sizeof(*pages));
    return view->dirty_count;
}

/* ---- pages ---- */

static int view_find(struct ru_view *view, uint32_t page, struct view_place *place)
{
    const uint8_t name[2] = {(uint8_t)(page >> 8), (uint8_t)page};
    MDB_val key = {sizeof(name), (void *)(uintptr_t)name};
    MDB_val value;
    int rc = mdb_get(view->txn, view->store->tables[RU_TABLE_PAGES], &key, &value);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return rc;
    place->snapshot = view->snapshot;
    place->at = rc == 0 ? value.mv_data : NULL;
    if (rc == MDB_NOTFOUND)
        place->state = RU_COIN_DEFAULT;
    else
        place->state = value.mv_size == RU_PAGE_SIZE ? RU_COIN_EQUAL : RU_COIN_UNREADABLE;
    return 0;
}

/* The page's bytes, or NULL with the reason in `state`. */
static int view_page(struct ru_view *view, uint32_t page, const uint8_t **at, uint8_t *state)
{
    RU_CHECK(page < RU_STORE_PAGES);
    struct view_place *place = &view->places[page];
    *state = RU_COIN_EQUAL;
    if (view->dirty_count > 0 && view->copies[page]) {
        *at = view->copies[page];
        return 0;
    }
    if (place->snapshot != view->snapshot) {
        int rc = view_find(view, page, place);
        if (rc != 0)
            return ru_store_result(rc);
    }
    *state = place->state;
    *at = place->state == RU_COIN_EQUAL ? place->at : NULL;
    return 0;
}

/* Make room for the copy of a page that has none. */
static uint8_t *view_add_copy(struct ru_view *view, uint32_t page)
{
    RU_CHECK(view->writing && !view->copies[page]);
    uint8_t *copy = malloc(RU_PAGE_SIZE);
    if (!copy)
        return NULL;
    view->copies[page] = copy;
    view->dirty[view->dirty_count++] = (uint16_t)page;
    return copy;
}

/* The writable copy of a page that was found and is readable. Only for a coin that changes: a
 * default page costs a thousand hashes and 17 KB, which a wrong AN must not cause. */
static uint8_t *view_copy(struct ru_view *view, uint32_t page)
{
    const struct view_place *place = &view->places[page];
    uint8_t *copy = view->copies[page];
    if (copy)
        return copy;
    RU_CHECK(place->snapshot == view->snapshot && place->state != RU_COIN_UNREADABLE);
    copy = view_add_copy(view, page);
    if (copy && place->state == RU_COIN_DEFAULT)
        ru_defaults_page(&view->store->defaults, page, copy);
    else if (copy)
        memcpy(copy, place->at, RU_PAGE_SIZE);
    return copy;
}

static bool view_undo_room(struct ru_view *view)
{
    if (view->undo_count < view->undo_room)
        return true;
    uint32_t room = view->undo_room > 0 ? 2 * view->undo_room : 1024;
    struct view_undo *grown = realloc(view->undo, room * sizeof(*grown));
    if (!grown)
        return false;
    view->undo = grown;
    view->undo_room = room;
    return true;
}

uint32_t ru_view_mark(struct ru_view *view)
{
    return view ? view->undo_count : 0;
}

void ru_view_undo(struct ru_view *view, uint32_t mark)
{
    while (view && view->undo_count > mark) {
        const struct view_undo *undo = &view->undo[--view->undo_count];
        RU_CHECK(view->copies[undo->page]);
        memcpy(view->copies[undo->page] + (size_t)undo->record * RU_PAGE_RECORD_SIZE, undo->old,
               RU_PAGE_RECORD_SIZE);
    }
}

int ru_view_page(struct ru_view *view, uint32_t page, uint8_t *bytes, uint8_t *state)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    const uint8_t *found = NULL;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    int rc = view_page(view, page, &found, state);
    if (rc == 0 && found)
        memcpy(bytes, found, RU_PAGE_SIZE);
    else if (rc == 0 && *state == RU_COIN_DEFAULT)
        ru_defaults_page(&view->store->defaults, page, bytes);
    return rc;
}

int ru_view_select(struct ru_view *view, uint32_t page, uint8_t *selected, uint8_t *state)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    const uint8_t *bytes;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    int rc = view_page(view, page, &bytes, state);
    if (rc != 0 || !bytes)
        return rc;
    int circulating = 0;
    for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++, bytes += RU_PAGE_RECORD_SIZE) {
        uint8_t *out = selected + (size_t)i * RU_AN_SIZE;
        if (bytes[RU_AN_SIZE] != 0) {
            memcpy(out, bytes, RU_AN_SIZE);
            circulating++;
        } else {
            memset(out, 0, RU_AN_SIZE);
        }
    }
    return circulating;
}

int ru_view_fill(struct ru_view *view, uint32_t page, const uint8_t *bytes)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    uint8_t *copy = view->copies[page] ? view->copies[page] : view_add_copy(view, page);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, bytes, RU_PAGE_SIZE);
    return 0;
}

/* ---- coins ---- */

/* Where a coin's record is in its page. */
static size_t record_at(uint32_t number)
{
    return (size_t)(number % RU_PAGE_RECORDS_COUNT) * RU_PAGE_RECORD_SIZE;
}

/* Coins looked up together, so that default records are computed several at once. */
struct view_lot {
    uint32_t numbers[VIEW_LOT_COINS];
    const uint8_t *records[VIEW_LOT_COINS]; /* NULL: unreadable */
    uint8_t defaults[VIEW_LOT_COINS][RU_PAGE_RECORD_SIZE];
};

/* Look up the first VIEW_LOT_COINS of `count` coins. */
static int lot_find(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                    struct view_lot *lot)
{
    uint32_t computed[VIEW_LOT_COINS];
    uint32_t computed_count = 0;
    for (uint32_t i = 0; i < count && i < VIEW_LOT_COINS; i++, coins += stride) {
        const uint8_t *page = NULL;
        uint8_t state = RU_COIN_UNREADABLE;
        uint32_t number = ru_coin_number(coins);
        lot->numbers[i] = number;
        lot->records[i] = NULL;
        if (number == RU_NONE)
            continue;
        int rc = view_page(view, number / RU_PAGE_RECORDS_COUNT, &page, &state);
        if (rc != 0)
            return rc;
        if (page) {
            lot->records[i] = page + record_at(number);
        } else if (state == RU_COIN_DEFAULT) {
            lot->records[i] = lot->defaults[computed_count];
            computed[computed_count++] = number;
        }
    }
    ru_defaults_records(&view->store->defaults, computed, computed_count, lot->defaults[0]);
    return 0;
}

int ru_view_match(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                  uint32_t an_at, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    int equal = 0;
    struct view_lot lot;
    for (uint32_t i = 0; i < count; i++, coins += stride) {
        uint32_t at = i % VIEW_LOT_COINS;
        int rc = at == 0 ? lot_find(view, coins, count - i, stride, &lot) : 0;
        if (rc != 0)
            return rc;
        states[i] = RU_COIN_UNREADABLE;
        if (!lot.records[at])
            continue;
        bool same = ru_coin_an_equal(lot.records[at], coins + an_at);
        states[i] = same ? RU_COIN_EQUAL : RU_COIN_DIFFERS;
        equal += same;
    }
    return equal;
}

int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    int found = 0;
    struct view_lot lot;
    for (uint32_t i = 0; i < count; i++, coins += stride, records += RU_PAGE_RECORD_SIZE) {
        uint32_t at = i % VIEW_LOT_COINS;
        int rc = at == 0 ? lot_find(view, coins, count - i, stride, &lot) : 0;
        if (rc != 0)
            return rc;
        const uint8_t *record = lot.records[at];
        states[i] = record ? RU_COIN_EQUAL : RU_COIN_UNREADABLE;
        if (record)
            memcpy(records, record, RU_PAGE_RECORD_SIZE);
        else
            memset(records, 0, RU_PAGE_RECORD_SIZE);
        found += record != NULL;
    }
    return found;
}

/* Replace the AN of a coin whose record was found. */
static int coin_store(struct ru_view *view, uint32_t number, const uint8_t *record,
                      const uint8_t *an, uint32_t month)
{
    /* Unchanged: write nothing, or the owner of one coin could cause any number of disk writes. */
    if (record[RU_AN_SIZE] == (uint8_t)month && ru_coin_an_equal(record, an))
        return 0;
    uint32_t page = number / RU_PAGE_RECORDS_COUNT;
    uint8_t *copy = view_copy(view, page);
    if (!copy || !view_undo_room(view))
        return -ENOMEM;
    uint8_t *out = copy + record_at(number);
    struct view_undo *undo = &view->undo[view->undo_count++];
    undo->page = (uint16_t)page;
    undo->record = (uint16_t)(number % RU_PAGE_RECORDS_COUNT);
    memcpy(undo->old, out, RU_PAGE_RECORD_SIZE);
    memcpy(out, an, RU_AN_SIZE);
    out[RU_AN_SIZE] = (uint8_t)month;
    return 0;
}

/* In order: replace each coin's AN by the one at `new_at`. an_at: of the AN that must be the stored
 * one; RU_NONE: whatever is stored. Returns how many were replaced. */
static int view_change(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                       uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int changed = 0;
    struct view_lot lot;
    for (uint32_t i = 0; i < count; i++, coins += stride) {
        uint32_t at = i % VIEW_LOT_COINS;
        int rc = at == 0 ? lot_find(view, coins, count - i, stride, &lot) : 0;
        if (rc != 0)
            return rc;
        states[i] = RU_COIN_UNREADABLE;
        const uint8_t *record = lot.records[at];
        if (!record)
            continue;
        /* A coin before it may have made the page's copy after this one was looked up. */
        const uint8_t *copy = view->copies[lot.numbers[at] / RU_PAGE_RECORDS_COUNT];
        if (copy)
            record = copy + record_at(lot.numbers[at]);
        states[i] = RU_COIN_DIFFERS;
        if (an_at != RU_NONE && !ru_coin_an_equal(record, coins + an_at))
            continue;
        rc = coin_store(view, lot.numbers[at], record, coins + new_at, month);
        if (rc != 0)
            return rc;
        states[i] = RU_COIN_EQUAL;
        changed++;
    }
    return changed;
}

int ru_view_exchange(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                     uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states)
{
    RU_CHECK(an_at != RU_NONE);
    return view_change(view, coins, count, stride, an_at, new_at, month, states);
}

int ru_view_set(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                uint32_t an_at, uint32_t month, uint8_t *states)
{
    return view_change(view, coins, count, stride, RU_NONE, an_at, month, states);
}

/* ---- the other tables ---- */

static MDB_val view_key(const uint8_t *key, uint32_t size)
{
    return (MDB_val){size, (void *)(uintptr_t)key};
}

int ru_view_get(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                struct ru_bytes *value)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_val name = view_key(key, key_size);
    MDB_val found;
    *value = (struct ru_bytes){0};
    int rc = mdb_get(view->txn, view->store->tables[table], &name, &found);
    if (rc == 0)
        *value = (struct ru_bytes){found.mv_data, found.mv_size};
    return rc == MDB_NOTFOUND ? -ENOENT : ru_store_result(rc);
}

int ru_view_put(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                const uint8_t *value, uint64_t size)
{
    if (view_refuses(view, true) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_val name = view_key(key, key_size);
    MDB_val data = {size, (void *)(uintptr_t)value};
    view->snapshot++; /* page addresses found before may be stale */
    int rc = value ? mdb_put(view->txn, view->store->tables[table], &name, &data, 0)
                   : mdb_del(view->txn, view->store->tables[table], &name, NULL);
    return rc == MDB_NOTFOUND ? 0 : ru_store_result(rc);
}

int ru_view_seek(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                 struct ru_bytes *found, struct ru_bytes *value)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(view->txn, view->store->tables[table], &cursor);
    if (rc != 0)
        return ru_store_result(rc);
    MDB_val name = view_key(key, key_size);
    MDB_val data;
    rc = mdb_cursor_get(cursor, &name, &data, key_size > 0 ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0) {
        *found = (struct ru_bytes){name.mv_data, name.mv_size};
        *value = (struct ru_bytes){data.mv_data, data.mv_size};
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? -ENOENT : ru_store_result(rc);
}

int64_t ru_view_count(struct ru_view *view, uint32_t table)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_stat stat;
    int rc = mdb_stat(view->txn, view->store->tables[table], &stat);
    return rc == 0 ? (int64_t)stat.ms_entries : ru_store_result(rc);
}
