/* table_lmdb.c: the contender that is a table of LMDB: sequence number to record.
 *
 * What is in its favour: the table is the unnamed one (no second tree to update), its keys are
 * native integers, records are appended to the last leaf and copied straight into it, and old ones
 * go in the transaction of a new one. A commit still writes the leaf, each branch above it, the
 * list of free pages and, by a second flush, the meta page.
 */
#include "contender.h"

#include <errno.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LMDB_MAP_BYTES (2ULL << 30)
#define LMDB_EMPTY_STEP 16 /* entries: a longer list of free pages is copied by every commit */

struct table {
    MDB_env *env;
    MDB_dbi dbi;
};

static int table_begin(struct table *table, bool reader)
{
    MDB_txn *txn;
    int code = mdb_txn_begin(table->env, NULL, reader ? MDB_RDONLY : 0, &txn);
    if (code)
        return code;
    code = mdb_dbi_open(txn, NULL, reader ? 0 : MDB_INTEGERKEY, &table->dbi);
    if (code == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return code;
}

static void *table_open(const struct jb_ops *ops, const char *directory, bool reader)
{
    struct table *table = calloc(1, sizeof(*table));
    unsigned int flags = MDB_NOTLS | MDB_NOMEMINIT | (reader ? MDB_RDONLY : 0) |
                         (ops->variant && !reader ? MDB_WRITEMAP : 0);
    int code = mdb_env_create(&table->env);
    if (code == 0)
        code = mdb_env_set_mapsize(table->env, LMDB_MAP_BYTES);
    if (code == 0)
        code = mdb_env_open(table->env, directory, flags, 0600);
    if (code == 0)
        code = table_begin(table, reader);
    if (code == 0)
        return table;
    fprintf(stderr, "%s: %s\n", ops->name, mdb_strerror(code));
    mdb_env_close(table->env);
    free(table);
    return NULL;
}

static void table_set_mode(void *journal, enum jb_mode mode)
{
    struct table *table = journal;
    (void)mdb_env_sync(table->env, 1);
    (void)mdb_env_set_flags(table->env, MDB_NOSYNC, mode == JB_INTERVAL);
}

/* Remove entries below `below`, at most `most`. MDB_NOTFOUND: none was left. */
static int table_trim(struct table *table, MDB_txn *txn, uint64_t below, uint32_t most)
{
    MDB_cursor *cursor;
    int code = mdb_cursor_open(txn, table->dbi, &cursor);
    if (code)
        return code;
    for (uint32_t i = 0; i < most && code == 0; i++) {
        MDB_val key, value;
        uint64_t sequence;
        code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (code)
            break;
        memcpy(&sequence, key.mv_data, sizeof(sequence));
        if (sequence >= below)
            break;
        code = mdb_cursor_del(cursor, 0);
    }
    mdb_cursor_close(cursor);
    return code;
}

static int table_append(void *journal, const struct jb_record *record, uint64_t trim_below)
{
    struct table *table = journal;
    MDB_txn *txn;
    int code = mdb_txn_begin(table->env, NULL, 0, &txn);
    if (code)
        return code;
    uint64_t sequence = record->sequence;
    MDB_val key = {sizeof(sequence), &sequence}, value = {record->size, NULL};
    code = mdb_put(txn, table->dbi, &key, &value, MDB_APPEND | MDB_RESERVE);
    if (code == 0)
        memcpy(value.mv_data, record, record->size);
    if (code == 0 && trim_below)
        code = table_trim(table, txn, trim_below, UINT32_MAX);
    if (code == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return code;
}

static const char *table_why(void *journal, int code)
{
    (void)journal;
    return mdb_strerror(code);
}

static int table_empty(void *journal)
{
    struct table *table = journal;
    int code = mdb_env_set_flags(table->env, MDB_NOSYNC, 1);
    while (code == 0) {
        MDB_txn *txn;
        code = mdb_txn_begin(table->env, NULL, 0, &txn);
        if (code)
            break;
        code = table_trim(table, txn, UINT64_MAX, LMDB_EMPTY_STEP);
        if (code == 0)
            code = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    if (code == MDB_NOTFOUND)
        code = mdb_env_set_flags(table->env, MDB_NOSYNC, 0);
    return code ? code : mdb_env_sync(table->env, 1);
}

static void table_settle(void *journal)
{
    (void)journal;
}

static int table_scan(void *journal, uint64_t from, jb_visit visit, void *arg)
{
    struct table *table = journal;
    MDB_txn *txn;
    MDB_cursor *cursor;
    if (mdb_txn_begin(table->env, NULL, MDB_RDONLY, &txn))
        return -EIO;
    if (mdb_cursor_open(txn, table->dbi, &cursor)) {
        mdb_txn_abort(txn);
        return -EIO;
    }
    MDB_val key = {sizeof(from), &from}, value;
    int result = 0, code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (code == 0 && result == 0) {
        struct jb_record *record = malloc(value.mv_size); /* values are aligned to two bytes */
        memcpy(record, value.mv_data, value.mv_size);
        result = visit(arg, record);
        free(record);
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return result ? result : code == MDB_NOTFOUND ? 0 : -EIO;
}

static void table_close(void *journal)
{
    struct table *table = journal;
    mdb_env_close(table->env);
    free(table);
}

#define TABLE_OPS                                                                                  \
    table_open, table_set_mode, table_append, table_why, table_empty, table_settle, table_scan,    \
        table_close

const struct jb_ops jb_lmdb_ops[2] = {
    {"lmdb", 0, false, TABLE_OPS}, {"lmdb-map", 0, true, TABLE_OPS}, /* MDB_WRITEMAP */
};
