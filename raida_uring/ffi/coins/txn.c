/* txn.c: reading and writing the base: pages, and entries of the other tables.
 *
 * Owner: a transaction belongs to the thread that began it.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "coins/base.h"
#include "coins/basefile.h"
#include "coins/crc32c.h"
#include "number.h"

#define TXN_LOOKS 1000

struct ru_txn {
    struct ru_base *base;
    MDB_txn *txn;
    bool writing;
};

/* ---- begin and end ---- */

/* True if the file's newest transaction is not the one in lock.mdb: another file, such as an older
 * copy, was written over it. The two change at slightly different times, so look several times. */
static bool txn_is_foreign(const struct ru_txn *txn)
{
    uint64_t seen = mdb_txn_id(txn->txn);
    for (uint32_t looks = 0; looks < TXN_LOOKS; looks++) {
        MDB_envinfo info;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        (void)mdb_env_info(txn->base->env, &info);
        /* Others may commit while a reading one is open, but not while a writing one is. */
        if (txn->writing ? info.me_last_txnid + 1 == seen : info.me_last_txnid >= seen)
            return false;
    }
    return true;
}

int ru_txn_begin(struct ru_base *base, uint32_t writing, struct ru_txn **txn)
{
    *txn = NULL;
    struct ru_txn *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->base = base;
    made->writing = writing != 0;
    int dead; /* a killed reader, such as an export, keeps old pages from being reused */
    if (made->writing)
        (void)mdb_reader_check(base->env, &dead);
    int rc = ru_basefile_check(base->file, made->writing);
    if (rc == 0) {
        ru_basefile_enter(base->file);
        rc = ru_base_result(mdb_txn_begin(base->env, NULL, writing ? 0 : MDB_RDONLY, &made->txn));
    }
    if (rc == 0 && txn_is_foreign(made))
        rc = ru_basefile_distrust(base->file);
    if (rc != 0)
        ru_txn_end(made);
    else
        *txn = made;
    return rc;
}

int ru_txn_make_room(struct ru_txn *txn, uint32_t pages)
{
    if (!txn || !txn->writing)
        return RU_BASE_MISUSED;
    RU_CHECK(txn->txn != NULL && pages <= RU_STORE_PAGES);
    return ru_baseroom_make(txn->base, pages);
}

void ru_txn_end(struct ru_txn *txn)
{
    if (!txn)
        return;
    if (txn->txn)
        mdb_txn_abort(txn->txn);
    ru_basefile_enter(NULL);
    free(txn);
}

int ru_txn_commit(struct ru_txn *txn)
{
    if (!txn || !txn->writing)
        return RU_BASE_MISUSED;
    struct ru_base *base = txn->base;
    /* Changes to a removed file are lost with the process: the commit must fail. */
    int rc = ru_basefile_check(base->file, true);
    if (rc == 0) {
        rc = ru_base_commit(base->env, txn->txn);
        txn->txn = NULL;
    }
    ru_txn_end(txn);
    return ru_base_result(ru_basefile_explain(base->file, rc));
}

/* ---- entries ---- */

static bool txn_refuses(const struct ru_txn *txn, uint32_t table, bool change)
{
    return !txn || !txn->txn || table >= RU_TABLES || (change && !txn->writing);
}

static MDB_val entry_key(const uint8_t *key, uint32_t size)
{
    return (MDB_val){size, (void *)(uintptr_t)key};
}

int ru_txn_get(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
               struct ru_bytes *value)
{
    if (txn_refuses(txn, table, false))
        return RU_BASE_MISUSED;
    MDB_val name = entry_key(key, key_size);
    MDB_val found;
    *value = (struct ru_bytes){0};
    int rc = mdb_get(txn->txn, txn->base->tables[table], &name, &found);
    if (rc == 0)
        *value = (struct ru_bytes){found.mv_data, found.mv_size};
    return rc == MDB_NOTFOUND ? -ENOENT : ru_base_result(rc);
}

int ru_txn_put(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
               const uint8_t *value, uint64_t size)
{
    if (txn_refuses(txn, table, true))
        return RU_BASE_MISUSED;
    MDB_val name = entry_key(key, key_size);
    MDB_val data = {size, (void *)(uintptr_t)value};
    if (value) /* whose MDB_NOTFOUND means that the table itself is gone */
        return ru_base_result(mdb_put(txn->txn, txn->base->tables[table], &name, &data, 0));
    int rc = mdb_del(txn->txn, txn->base->tables[table], &name, NULL);
    return rc == MDB_NOTFOUND ? 0 : ru_base_result(rc);
}

int ru_txn_seek(struct ru_txn *txn, uint32_t table, const uint8_t *key, uint32_t key_size,
                struct ru_bytes *found, struct ru_bytes *value)
{
    if (txn_refuses(txn, table, false))
        return RU_BASE_MISUSED;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn->txn, txn->base->tables[table], &cursor);
    if (rc != 0)
        return ru_base_result(rc);
    MDB_val name = entry_key(key, key_size);
    MDB_val data;
    rc = mdb_cursor_get(cursor, &name, &data, key_size > 0 ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0) {
        *found = (struct ru_bytes){name.mv_data, name.mv_size};
        *value = (struct ru_bytes){data.mv_data, data.mv_size};
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? -ENOENT : ru_base_result(rc);
}

int64_t ru_txn_count(struct ru_txn *txn, uint32_t table)
{
    if (txn_refuses(txn, table, false))
        return RU_BASE_MISUSED;
    MDB_stat stat;
    int rc = mdb_stat(txn->txn, txn->base->tables[table], &stat);
    return rc == 0 ? (int64_t)stat.ms_entries : ru_base_result(rc);
}

/* ---- pages ---- */

struct page_name {
    uint8_t bytes[2];
};

static struct page_name page_name(uint32_t page)
{
    RU_CHECK(page < RU_STORE_PAGES);
    return (struct page_name){{(uint8_t)(page >> 8), (uint8_t)page}};
}

/* Of the page's bytes, if any, and the number behind them. */
static uint32_t page_crc(const uint8_t *value, uint64_t size)
{
    return ru_crc32c_add(0, value, size + RU_BASE_CRC_AT);
}

int ru_txn_put_page(struct ru_txn *txn, uint32_t page, const uint8_t *bytes, uint64_t number,
                    const uint8_t *sha)
{
    if (txn_refuses(txn, RU_TABLE_PAGES, true))
        return RU_BASE_MISUSED;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    const struct page_name name = page_name(page);
    const uint64_t size = bytes ? RU_PAGE_SIZE : 0;
    MDB_val key = entry_key(name.bytes, sizeof(name.bytes));
    MDB_val value = {size + RU_BASE_SEAL_SIZE, NULL};
    int rc = mdb_put(txn->txn, txn->base->tables[RU_TABLE_PAGES], &key, &value, MDB_RESERVE);
    if (rc != 0)
        return ru_base_result(rc);
    uint8_t *out = value.mv_data;
    if (bytes)
        memcpy(out, bytes, size);
    uint8_t *seal = out + size;
    memset(seal, 0, RU_BASE_SEAL_SIZE);
    number = htole64(number);
    memcpy(seal + RU_BASE_NUMBER_AT, &number, sizeof(number));
    if (bytes)
        memcpy(seal + RU_BASE_SHA_AT, sha, RU_BASE_SHA_SIZE);
    uint32_t crc = htole32(page_crc(out, size));
    memcpy(seal + RU_BASE_CRC_AT, &crc, sizeof(crc));
    return 0;
}

static int page_open(const MDB_val *value, struct ru_bytes *bytes, uint64_t *number, uint8_t *sha)
{
    if (value->mv_size != RU_BASE_SEAL_SIZE && value->mv_size != RU_PAGE_SIZE + RU_BASE_SEAL_SIZE)
        return RU_BASE_DAMAGED;
    const uint64_t size = value->mv_size - RU_BASE_SEAL_SIZE;
    const uint8_t *seal = (const uint8_t *)value->mv_data + size;
    uint32_t crc;
    memcpy(&crc, seal + RU_BASE_CRC_AT, sizeof(crc));
    memcpy(number, seal + RU_BASE_NUMBER_AT, sizeof(*number));
    *number = le64toh(*number);
    *bytes = (struct ru_bytes){value->mv_data, size};
    if (sha)
        memcpy(sha, seal + RU_BASE_SHA_AT, RU_BASE_SHA_SIZE);
    return le32toh(crc) == page_crc(value->mv_data, size) ? 0 : RU_BASE_DAMAGED;
}

int ru_txn_page(struct ru_txn *txn, uint32_t page, struct ru_bytes *bytes, uint64_t *number,
                uint8_t *sha)
{
    if (txn_refuses(txn, RU_TABLE_PAGES, false))
        return RU_BASE_MISUSED;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    const struct page_name name = page_name(page);
    MDB_val key = entry_key(name.bytes, sizeof(name.bytes));
    MDB_val value;
    int rc = mdb_get(txn->txn, txn->base->tables[RU_TABLE_PAGES], &key, &value);
    if (rc == MDB_NOTFOUND)
        return -ENOENT;
    return rc == 0 ? page_open(&value, bytes, number, sha) : ru_base_result(rc);
}

int ru_txn_load(struct ru_txn *txn, struct ru_memory *memory, uint32_t first, uint32_t count,
                uint64_t *number, uint32_t *faulty)
{
    RU_CHECK(first <= RU_STORE_PAGES && count <= RU_STORE_PAGES - first);
    int rc = 0;
    for (uint32_t page = first; page < first + count && rc == 0; page++) {
        struct ru_bytes bytes = {0};
        uint64_t of_page = 0;
        rc = ru_txn_page(txn, page, &bytes, &of_page, NULL);
        if (rc == RU_BASE_DAMAGED)
            *faulty = page;
        if (rc == 0) {
            rc = ru_memory_load(memory, page, bytes.size > 0 ? bytes.at : NULL, of_page);
            *number = of_page > *number ? of_page : *number;
        }
        if (rc == -ENOENT)
            rc = 0;
    }
    return rc;
}
