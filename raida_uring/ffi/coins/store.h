/* store.h: coins on disk: an LMDB environment, and views of it for one thread each.
 *
 * build.py reads the marked region, as in ru.h. A view sees one state of the store from begin to
 * end; it belongs to the thread that opened it. Functions return 0 or a count, -errno, or one of
 * LMDB's (negative) codes; ru_store_error() describes all of them. store.c has the store, view.c
 * the views; a page is stored as the wire carries it (layout.h).
 */
#ifndef RU_STORE_H
#define RU_STORE_H

#include <lmdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "coins/coin.h"
#include "coins/defaults.h"
#include "layout.h"

/* cdef: begin */
enum ru_store_flag {
    RU_STORE_CREATE = 1,    /* without it the file must exist */
    RU_STORE_READ_ONLY = 2, /* no writing views */
    RU_STORE_LAZY = 4,      /* a commit does not wait for the disk; ru_store_sync() does */
};

/* Results that are neither an errno nor an LMDB code. */
enum ru_store_fault {
    /* The view does not allow the call: not begun, closed, or a change through a reading view. */
    RU_STORE_MISUSED = -29999,
    RU_STORE_CUT = -29998,   /* the file was shortened or overwritten while it was open */
    RU_STORE_GONE = -29997,  /* the file was removed or replaced under its name */
    RU_STORE_TWICE = -29996, /* this process has the store open already */
    RU_STORE_LONE = -29995,  /* lock.mdb was removed or replaced: locking is broken */
};

enum ru_store_table {
    RU_TABLE_META = 0,
    RU_TABLE_PAGES = 1,   /* page number, u16 -> its 17,408 bytes; empty: unreadable */
    RU_TABLE_REMAINS = 2, /* page number, u16 -> how an imported file differs from a page */
    RU_TABLE_LEAVES = 3,  /* the integrity trees' leaves as last saved */
    RU_TABLE_CHANGED =
        4, /* page number, u16 -> transaction, u64: changed since leaves were saved */
    RU_TABLE_TICKETS = 5, /* ticket, u32 -> expiry, claimants, coins */
    RU_TABLES = 6,
};

enum ru_coin_state {
    RU_COIN_DIFFERS = 0,
    RU_COIN_EQUAL = 1,
    RU_COIN_UNREADABLE = 2, /* no such denomination or number, or its page cannot be read */
    RU_COIN_DEFAULT = 3,    /* of a page: never written, so that its records are computed */
};

struct ru_store;
struct ru_view;

struct ru_bytes {
    const uint8_t *at; /* into the mapping: valid until the view ends or writes */
    uint64_t size;
};

/* Thread: any. path: an existing directory. map_bytes: most the store may grow to. */
int ru_store_open(const char *path, uint64_t map_bytes, uint32_t flags, struct ru_store **store);
/* Thread: control, before a view reads coins. Set what the records of pages that were never written
 * are computed from (defaults.h); until then the seed is empty. */
void ru_store_seed(struct ru_store *store, const uint8_t *seed, uint64_t seed_bytes);
/* Thread: any, once every view is closed. */
void ru_store_close(struct ru_store *store);
/* Thread: any. Check that the files exist, are complete and still have their names: 0, or
 * RU_STORE_CUT, RU_STORE_GONE, RU_STORE_LONE. */
int ru_store_check(struct ru_store *store);
/* Thread: any. Wait until every commit is on the disk. */
int ru_store_sync(struct ru_store *store);
/* Thread: any. Release pages still pinned by readers that were killed; returns how many there
 * were. */
int ru_store_forget_dead(struct ru_store *store);
/* Thread: any. Bytes in use, and the most there may be. */
void ru_store_sizes(struct ru_store *store, uint64_t *used_bytes, uint64_t *map_bytes);
/* A description of a negative result of any function here. */
const char *ru_store_error(int result);

/* Thread: the view's, for this function and all that follow. */
int ru_view_open(struct ru_store *store, uint32_t writing, struct ru_view **view);
void ru_view_close(struct ru_view *view);
/* See the newest committed state. A writing view waits for the other writer to end. */
int ru_view_begin(struct ru_view *view);
/* Number of the transaction whose state the view sees; of a writing view, its own. */
uint64_t ru_view_txn(struct ru_view *view);
/* End the view's transaction and drop its changes. Does nothing when not begun. */
void ru_view_end(struct ru_view *view);
/* Commit all changes together and end the transaction. On failure nothing has changed. */
int ru_view_commit(struct ru_view *view);
/* Number of pages with changes; `pages` has room for RU_STORE_PAGES, or is NULL. */
uint32_t ru_view_dirty(struct ru_view *view, uint16_t *pages);
/* A point to go back to: ru_view_undo() reverts every coin changed after it. */
uint32_t ru_view_mark(struct ru_view *view);
void ru_view_undo(struct ru_view *view, uint32_t mark);

/* Compare `count` coins, `stride` bytes apart in `coins`: RU_COIN_NAME_SIZE bytes each, with an AN
 * `an_at` bytes after the start. states[i] says whether that AN is the stored one. Returns
 * how many are. */
int ru_view_match(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                  uint32_t an_at, uint8_t *states);
/* Copy the records of coins, RU_PAGE_RECORD_SIZE bytes each; zeros unless states[i] is EQUAL. Returns
 * how many were read. */
int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states);
/* In order: if the AN at `an_at` is the stored one, replace it by the AN at `new_at` and `month`.
 * Returns how many were. */
int ru_view_exchange(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                     uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states);
/* Store the AN at `an_at` and `month` for every coin; states[i] is EQUAL where it was stored. */
int ru_view_set(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                uint32_t an_at, uint32_t month, uint8_t *states);

/* Copy the RU_PAGE_SIZE bytes of a page, none if `state` is UNREADABLE; otherwise it is EQUAL or
 * DEFAULT. */
int ru_view_page(struct ru_view *view, uint32_t page, uint8_t *bytes, uint8_t *state);
/* Copy the RU_STORE_SELECTED bytes that the page's leaf is the hash of, none unless `state` is
 * EQUAL. Returns the number of coins in circulation; `state` as in ru_view_page(). */
int ru_view_select(struct ru_view *view, uint32_t page, uint8_t *selected, uint8_t *state);
/* Replace all RU_PAGE_SIZE bytes of a page. Part of the next commit; cannot be undone. */
int ru_view_fill(struct ru_view *view, uint32_t page, const uint8_t *bytes);

/* Entries of the other tables. size 0 and -ENOENT if there is none. */
int ru_view_get(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                struct ru_bytes *value);
/* value NULL: delete the entry if it exists. */
int ru_view_put(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                const uint8_t *value, uint64_t size);
/* The first entry whose key is not below `key`; -ENOENT if there is none. */
int ru_view_seek(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                 struct ru_bytes *found, struct ru_bytes *value);
/* Number of entries. */
int64_t ru_view_count(struct ru_view *view, uint32_t table);
/* cdef: end */

struct ru_store {
    MDB_env *env;
    pid_t number; /* process id that LMDB knows this process by */
    int lock;     /* a descriptor of lock.mdb while `number` is not our process id; otherwise -1 */
    struct ru_storefile *file;
    MDB_dbi tables[RU_TABLES];
    uint64_t map_bytes;
    struct ru_defaults defaults; /* read by every view */
};

/* A result of LMDB, whose errnos are positive, as one of ours. */
static inline int ru_store_result(int rc)
{
    return rc > 0 ? -rc : rc;
}

/* Commit and free `txn`. A failed write returns its cause, such as ENOSPC, as a positive errno. */
int ru_store_commit(MDB_env *env, MDB_txn *txn);

#endif
