/* table_sqlite.c: the contender that is a table of SQLite in WAL mode: sequence number to record.
 *
 * What is in its favour: one prepared INSERT is the whole transaction, no mutexes, no statistics of
 * memory, a WAL that keeps its blocks, old rows go in the transaction of a new one, and a second
 * connection moves the WAL into the file in the background. What that leaves is moved between two
 * commits, because a WAL begins anew only once all of it is moved.
 */
#include "contender.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAL_FRAMES_MAX 1000U /* then it is moved into the file: SQLite's default */
#define STATEMENTS 4

enum table_state {
    TABLE_IDLE,     /* the WAL is short */
    TABLE_WANTED,   /* the other thread is to move it */
    TABLE_FINISHED, /* it has; the writer moves the rest */
    TABLE_CLOSING,
};

struct table {
    sqlite3 *db, *mover_db;
    sqlite3_stmt *insert, *begin, *remove, *commit;
    const struct jb_ops *ops;
    enum jb_mode mode;
    uint32_t frames; /* in the WAL */
    pthread_t mover;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum table_state state; /* under the lock */
};

static int table_run(sqlite3 *db, const char *text)
{
    int code = sqlite3_exec(db, text, NULL, NULL, NULL);
    if (code)
        fprintf(stderr, "%s: %s\n", text, sqlite3_errmsg(db));
    return code;
}

static int table_hook(void *arg, sqlite3 *db, const char *name, int frames)
{
    struct table *table = arg;
    (void)db, (void)name;
    table->frames = (uint32_t)frames;
    return SQLITE_OK;
}

static int table_connect(sqlite3 **db, const char *path, const struct jb_ops *ops, bool reader)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
                (reader ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    int keep = 1;
    char text[512];
    int code = sqlite3_open_v2(path, db, flags, NULL);
    (void)sqlite3_busy_timeout(*db, 10000);
    if (code || reader)
        return code;
    (void)snprintf(text, sizeof(text),
                   "PRAGMA page_size=%u; PRAGMA locking_mode=%s; PRAGMA journal_mode=WAL;"
                   "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA secure_delete=OFF;"
                   "PRAGMA cache_size=-65536; PRAGMA cache_spill=OFF; PRAGMA temp_store=MEMORY;",
                   ops->page_bytes, ops->variant ? "EXCLUSIVE" : "NORMAL");
    code = table_run(*db, text);
    if (code == 0)
        code = sqlite3_file_control(*db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
    (void)sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return code;
}

static int table_prepare(struct table *table)
{
    const char *texts[STATEMENTS] = {"INSERT INTO journal VALUES (?, ?)", "BEGIN IMMEDIATE",
                                     "DELETE FROM journal WHERE sequence < ?", "COMMIT"};
    sqlite3_stmt **statements[STATEMENTS] = {&table->insert, &table->begin, &table->remove,
                                             &table->commit};
    for (int i = 0; i < STATEMENTS; i++) {
        int code = sqlite3_prepare_v3(table->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                      statements[i], NULL);
        if (code)
            return code;
    }
    return 0;
}

/* The other thread: moves the WAL while the writer goes on. */
static void *table_move(void *arg)
{
    struct table *table = arg;
    pthread_mutex_lock(&table->lock);
    while (table->state != TABLE_CLOSING) {
        if (table->state != TABLE_WANTED) {
            pthread_cond_wait(&table->changed, &table->lock);
            continue;
        }
        pthread_mutex_unlock(&table->lock);
        (void)sqlite3_wal_checkpoint_v2(table->mover_db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL,
                                        NULL);
        pthread_mutex_lock(&table->lock);
        if (table->state == TABLE_WANTED)
            table->state = TABLE_FINISHED;
        pthread_cond_broadcast(&table->changed);
    }
    pthread_mutex_unlock(&table->lock);
    return NULL;
}

static void *table_open(const struct jb_ops *ops, const char *directory, bool reader)
{
    struct table *table = calloc(1, sizeof(*table));
    char path[JB_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/journal.db", directory);
    (void)sqlite3_config(SQLITE_CONFIG_MULTITHREAD); /* refused once a connection is open */
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    table->ops = ops;
    pthread_mutex_init(&table->lock, NULL);
    pthread_cond_init(&table->changed, NULL);
    int code = table_connect(&table->db, path, ops, reader);
    if (code == 0 && reader)
        return table;
    if (code == 0)
        code = table_run(table->db, "CREATE TABLE IF NOT EXISTS journal"
                                    "(sequence INTEGER PRIMARY KEY, record BLOB NOT NULL)");
    /* If a sync failed before, a WAL that is read from the page cache may not be on the disk. */
    if (code == 0 && !getenv("TRUST_TAIL"))
        code = sqlite3_wal_checkpoint_v2(table->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (code == 0)
        code = table_prepare(table);
    if (code == 0 && !ops->variant)
        code = table_connect(&table->mover_db, path, ops, false);
    if (code == 0 && !ops->variant)
        code = pthread_create(&table->mover, NULL, table_move, table);
    if (code == 0) {
        (void)sqlite3_wal_hook(table->db, table_hook, table);
        return table;
    }
    fprintf(stderr, "%s: %s\n", ops->name, sqlite3_errmsg(table->db));
    return NULL;
}

static void table_set_mode(void *journal, enum jb_mode mode)
{
    struct table *table = journal;
    table->mode = mode;
    (void)table_run(table->db,
                    mode == JB_INTERVAL ? "PRAGMA synchronous=NORMAL" : "PRAGMA synchronous=FULL");
}

static int table_step(sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    if (code != SQLITE_DONE)
        code = sqlite3_extended_errcode(sqlite3_db_handle(statement));
    (void)sqlite3_reset(statement);
    return code == SQLITE_DONE ? 0 : code;
}

static int table_insert(struct table *table, const struct jb_record *record)
{
    sqlite3_bind_int64(table->insert, 1, (sqlite3_int64)record->sequence);
    sqlite3_bind_blob(table->insert, 2, record, (int)record->size, SQLITE_STATIC);
    return table_step(table->insert);
}

static int table_insert_and_trim(struct table *table, const struct jb_record *record,
                                 uint64_t below)
{
    int code = table_step(table->begin);
    if (code)
        return code;
    code = table_insert(table, record);
    sqlite3_bind_int64(table->remove, 1, (sqlite3_int64)below);
    if (code == 0)
        code = table_step(table->remove);
    if (code == 0)
        code = table_step(table->commit);
    if (code && !sqlite3_get_autocommit(table->db))
        (void)sqlite3_exec(table->db, "ROLLBACK", NULL, NULL, NULL);
    return code;
}

/* Have a long WAL moved: by the other thread first, the rest here. */
static void table_shorten(struct table *table)
{
    bool here = table->ops->variant && table->frames >= WAL_FRAMES_MAX;
    if (!table->ops->variant) {
        pthread_mutex_lock(&table->lock);
        if (table->state == TABLE_FINISHED) {
            here = true;
            table->state = TABLE_IDLE;
            table->frames = 0;
        } else if (table->state == TABLE_IDLE && table->frames >= WAL_FRAMES_MAX) {
            table->state = TABLE_WANTED;
            pthread_cond_broadcast(&table->changed);
        }
        pthread_mutex_unlock(&table->lock);
    }
    if (here)
        (void)sqlite3_wal_checkpoint_v2(table->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

static int table_append(void *journal, const struct jb_record *record, uint64_t trim_below)
{
    struct table *table = journal;
    if (table->mode == JB_UPKEEP || table->mode == JB_WHOLE)
        table_shorten(table);
    return trim_below ? table_insert_and_trim(table, record, trim_below)
                      : table_insert(table, record);
}

static const char *table_why(void *journal, int code)
{
    static char text[256];
    struct table *table = journal;
    (void)snprintf(text, sizeof(text), "%s (%d)", sqlite3_errmsg(table->db), code);
    return text;
}

static int table_empty(void *journal)
{
    struct table *table = journal;
    int code = table_run(table->db, "DELETE FROM journal");
    return code ? code
                : sqlite3_wal_checkpoint_v2(table->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL, NULL);
}

static void table_settle(void *journal)
{
    struct table *table = journal;
    pthread_mutex_lock(&table->lock);
    while (table->state == TABLE_WANTED)
        pthread_cond_wait(&table->changed, &table->lock);
    pthread_mutex_unlock(&table->lock);
}

static int table_scan(void *journal, uint64_t from, jb_visit visit, void *arg)
{
    struct table *table = journal;
    sqlite3_stmt *select;
    if (sqlite3_prepare_v2(table->db,
                           "SELECT record FROM journal WHERE sequence >= ? ORDER BY sequence", -1,
                           &select, NULL)) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(table->db));
        return -EIO;
    }
    sqlite3_bind_int64(select, 1, (sqlite3_int64)from);
    int result = 0, code = 0;
    while (result == 0 && (code = sqlite3_step(select)) == SQLITE_ROW)
        result = visit(arg, sqlite3_column_blob(select, 0));
    if (result == 0 && code != SQLITE_DONE) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(table->db));
        result = -EIO;
    }
    sqlite3_finalize(select);
    return result;
}

static void table_close(void *journal)
{
    struct table *table = journal;
    if (table->mover_db) {
        pthread_mutex_lock(&table->lock);
        table->state = TABLE_CLOSING;
        pthread_cond_broadcast(&table->changed);
        pthread_mutex_unlock(&table->lock);
        pthread_join(table->mover, NULL);
        sqlite3_close(table->mover_db);
    }
    sqlite3_stmt *statements[STATEMENTS] = {table->insert, table->begin, table->remove,
                                            table->commit};
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(statements[i]);
    sqlite3_close(table->db);
    free(table);
}

#define TABLE_OPS                                                                                  \
    table_open, table_set_mode, table_append, table_why, table_empty, table_settle, table_scan,    \
        table_close

const struct jb_ops jb_sqlite_ops[5] = {
    {"sqlite-1k", 1024, false, TABLE_OPS},   {"sqlite-4k", 4096, false, TABLE_OPS},
    {"sqlite-16k", 16384, false, TABLE_OPS}, {"sqlite-64k", 65536, false, TABLE_OPS},
    {"sqlite-own", 4096, true, TABLE_OPS}, /* locking_mode=EXCLUSIVE: nobody reads beside it */
};
