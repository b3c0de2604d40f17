/* base.h: pages of coins on disk, as of the last checkpoint: an LMDB environment.
 *
 * build.py reads the marked region, as in ru.h. Each page has the number of the last batch that is in
 * it, and two checksums. base.c opens and closes the environment, txn.c reads and writes it.
 * Functions return 0 or a count, -errno, one of LMDB's (negative) codes or an enum ru_base_fault;
 * ru_store_error() describes all of them.
 */
#ifndef RU_BASE_H
#define RU_BASE_H

#include <lmdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "coins/coin.h"
#include "coins/memory.h"

/* cdef: begin */
enum ru_base_flag {
    RU_BASE_CREATE = 1,    /* without it the file must exist */
    RU_BASE_READ_ONLY = 2, /* no writing transactions */
};

/* Results that are neither an errno nor an LMDB code. */
enum ru_base_fault {
    RU_BASE_MISUSED = -29999, /* the transaction is closed, or not for changes */
    RU_BASE_CUT = -29998,     /* the file was shortened or overwritten while it was open */
    RU_BASE_GONE = -29997,    /* the file was removed or replaced under its name */
    RU_BASE_TWICE = -29996,   /* this process has the base open already */
    RU_BASE_LONE = -29995,    /* lock.mdb was removed or replaced: locking is broken */
    RU_BASE_DAMAGED = -29994, /* a page is not what was written */
};

enum ru_base_table {
    RU_TABLE_META = 0,
    RU_TABLE_PAGES = 1, /* page number, u16 -> its bytes, if readable, and RU_BASE_SEAL_SIZE more */
    RU_TABLE_REMAINS = 2, /* page number, u16 -> how an imported file differs from a page */
    RU_TABLE_LEAVES = 3,  /* the integrity trees' leaves, as of the last checkpoint */
    RU_TABLES = 4,
};

/* What stands behind a page's bytes; offsets from their end. Numbers are little-endian. */
enum ru_base_seal {
    RU_BASE_NUMBER_AT = 0, /* 8: the last batch that is in the page */
    RU_BASE_CRC_AT = 8,    /* 4: CRC-32C of the page and the number, looked at by every start */
    RU_BASE_ZERO_AT = 12,  /* 4 */
    RU_BASE_SHA_AT = 16,   /* 32: SHA-256 of the page's bytes, for a proof of damage */
    RU_BASE_SHA_SIZE = 32,
    RU_BASE_SEAL_SIZE = 48,
};

struct ru_base;
struct ru_txn;

struct ru_bytes {
    const uint8_t *at; /* into the mapping: valid until the transaction ends or writes */
    uint64_t size;
};

/* Thread: any. path: an existing directory. map_bytes: most the base may grow to. */
int ru_base_open(const char *path, uint64_t map_bytes, uint32_t flags, struct ru_base **base);
/* Thread: any, once every transaction has ended. */
void ru_base_close(struct ru_base *base);
/* Thread: any. Check that the files exist, are complete and still have their names: 0, or
 * RU_BASE_CUT, RU_BASE_GONE, RU_BASE_LONE. */
int ru_base_check(struct ru_base *base);
/* Thread: any. Bytes in use, and the most there may be. */
void ru_base_sizes(struct ru_base *base, uint64_t *used_bytes, uint64_t *map_bytes);
/* A description of a negative result of any function of the store. */
const char *ru_store_error(int result);

/* See the newest committed state. A writing transaction waits for the other writer to end. Thread:
 * the caller's, for this and all functions that get the transaction. */
int ru_txn_begin(struct ru_base *base, uint32_t writing, struct ru_txn **txn);
/* Have blocks on the disk for a writing transaction that will store up to `pages` pages, and entries
 * of other tables, before its first change: after a write or flush that fails, the base can be used
 * on. With hardly any space left on the disk it does nothing. Returns 0 or -errno. */
int ru_txn_make_room(struct ru_txn *txn, uint32_t pages);
/* End the transaction and drop its changes. NULL: nothing. */
void ru_txn_end(struct ru_txn *txn);
/* Make all changes durable together, and end the transaction, whatever the result. */
int ru_txn_commit(struct ru_txn *txn);
/* An entry. -ENOENT if there is none. */
int ru_txn_get(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
               struct ru_bytes *value);
/* value NULL: delete the entry if it exists. */
int ru_txn_put(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
               const uint8_t *value, uint64_t size);
/* The first entry whose key is not below `key`; -ENOENT if there is none. */
int ru_txn_seek(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
                struct ru_bytes *found, struct ru_bytes *value);
/* Number of entries. */
int64_t ru_txn_count(struct ru_txn *txn, uint32_t table);
/* Store a page: RU_PAGE_SIZE bytes, or NULL for a page that cannot be read, with the number of the
 * last batch in it. sha: of the bytes, RU_BASE_SHA_SIZE; not read if there are none. */
int ru_txn_put_page(struct ru_txn *txn, uint32_t page, const uint8_t *bytes, uint64_t number,
                    const uint8_t *sha);
/* A page's bytes, of size 0 if it cannot be read; its number, its SHA-256. -ENOENT: it was never
 * written; RU_BASE_DAMAGED: its checksum does not match. */
int ru_txn_page(struct ru_txn *txn, uint32_t page, struct ru_bytes *bytes, uint64_t *number,
                uint8_t *sha);
/* cdef: end */

struct ru_base {
    MDB_env *env;
    pid_t number; /* process id that LMDB knows this process by */
    int lock;     /* a descriptor of lock.mdb while `number` is not our process id; otherwise -1 */
    struct ru_basefile *file;
    MDB_dbi tables[RU_TABLES];
    uint64_t map_bytes;
    uint64_t written; /* up to here the file's blocks have been on the disk; 0: not known yet */
};

/* A result of LMDB, whose errnos are positive, as one of ours. */
static inline int ru_base_result(int rc)
{
    return rc > 0 ? -rc : rc;
}

/* Load `count` pages from page `first` on into a memory that nobody reads yet. `number` becomes the
 * highest number of them, if that is higher. `faulty`: the page, on RU_BASE_DAMAGED. */
int ru_txn_load(struct ru_txn *txn, struct ru_memory *memory, uint32_t first, uint32_t count,
                uint64_t *number, uint32_t *faulty);
/* As ru_txn_make_room(). Thread: whichever has the writing transaction. */
int ru_baseroom_make(struct ru_base *base, uint32_t pages);
/* Commit and free `txn`. A failed write returns its cause, such as ENOSPC, as a positive errno. */
int ru_base_commit(MDB_env *env, MDB_txn *txn);

#endif
