/* store.c: an open store: filled from base and journal, maintained while it serves. */
#include "coins/store.h"
#include "coins/segment.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"
#include "clock.h"
#include "limits.h"

struct store_fault {
    int result;
    const char *text;
};

static const struct store_fault store_faults[] = {
    {RU_BASE_CUT,
     "data.mdb was cut off or written over while it was in use: restore it, and start again"},
    {RU_BASE_GONE,
     "data.mdb was removed or replaced while it was in use: put it back, or start again"},
    {RU_BASE_LONE, "lock.mdb was removed or replaced while it was in use: start again, or others "
                   "read what is being written over"},
    {RU_BASE_DAMAGED, "a page of data.mdb is damaged"},
    {RU_JOURNAL_DAMAGED,
     "the journal is damaged: acknowledged changes in the middle of it cannot be read"},
    {RU_JOURNAL_MISSING,
     "a part of the journal is missing: data.mdb and journal are not of one store and time"},
    {RU_JOURNAL_FOREIGN, "the journal belongs to another store"},
    {RU_JOURNAL_NEWER, "the journal was written by a later version of raida-uring"},
    {RU_JOURNAL_GONE,
     "the journal was removed or cut off while it was in use: put it back, or start again"},
    {RU_JOURNAL_LONE, "journal/writer was removed or replaced while it was in use: start again, or "
                      "two nodes write at once"},
    {RU_JOURNAL_HOLE, "an older file of the journal was removed or cut off before a checkpoint had "
                      "what is in it: put it back, or wait for the next checkpoint"},
    {RU_JOURNAL_FULL,
     "the journal is full: no checkpoint was possible for too long; see the log, or "
     "raise [store] journal_mib"},
    {RU_STORE_BUSY, "the coins were being changed for too long: the writing thread does not run"},
    {RU_STORE_SPLIT, "the writer's lock file in the journal was removed or replaced while the "
                     "running node had it open: restart the node"},
    {RU_STORE_UNOWNED, "owner was removed or replaced while it was in use: stop this node, and "
                       "start it again if no other serves the store"},
    {-ECANCELED, "the changes before these could not be written"},
    {-EPROTO, "the memory of the coins is another version's"},
    {RU_BASE_TWICE, "this process has it open already"},
    {-ELOOP, "lock.mdb is a symbolic link, which is not followed: remove it"},
    {MDB_MAP_FULL, "data.mdb is full: raise [store] size_mib"},
    {MDB_CORRUPTED, "the store is damaged"},
    {MDB_PAGE_NOTFOUND, "the store is damaged"},
    {MDB_BAD_TXN, "the store is damaged"}, /* a table's root cannot be read */
    {MDB_PANIC, "data.mdb must be opened again, after a write to it that failed"},
    {MDB_INVALID, "data.mdb is damaged, or no LMDB file"},
    {MDB_NOTFOUND, "data.mdb lacks a store's tables: its making was cut short, or it is another's"},
    {MDB_VERSION_MISMATCH, "data.mdb is of another version of LMDB"},
    {MDB_MAP_RESIZED, "the store has grown beyond what this process allows it"},
};

const char *ru_store_error(int result)
{
    for (size_t i = 0; i < sizeof(store_faults) / sizeof(store_faults[0]); i++)
        if (store_faults[i].result == result)
            return store_faults[i].text;
    bool own = result >= MDB_KEYEXIST && result <= MDB_LAST_ERRCODE;
    return mdb_strerror(own ? result : -result);
}

/* ---- open and close ---- */

static struct ru_store *store_make(void)
{
    struct ru_store *made = aligned_alloc(_Alignof(struct ru_store), sizeof(*made));
    if (made)
        memset(made, 0, sizeof(*made));
    return made;
}

int ru_store_create(const uint8_t *seed, uint64_t seed_bytes, struct ru_store **store)
{
    struct ru_defaults defaults;
    ru_defaults_init(&defaults, seed, seed_bytes);
    *store = NULL;
    struct ru_store *made = store_make();
    if (!made)
        return -ENOMEM;
    int rc = ru_memory_create(&made->memory, &defaults);
    if (rc == 0)
        *store = made;
    else
        free(made);
    return rc;
}

int ru_store_attach(int memory, struct ru_store **store)
{
    *store = NULL;
    struct ru_store *made = store_make();
    if (!made)
        return -ENOMEM;
    int rc = ru_memory_attach(&made->memory, memory);
    if (rc == 0)
        *store = made;
    else
        free(made);
    return rc;
}

void ru_store_close(struct ru_store *store)
{
    if (!store)
        return;
    if (store->serving) {
        ru_writer_destroy(&store->writer);
        ru_journal_close(&store->journal);
    }
    ru_needs_end(&store->needs);
    ru_memory_detach(&store->memory);
    free(store);
}

void ru_store_need_base(struct ru_store *store, struct ru_base *base)
{
    store->needs.base = base;
}

int ru_store_need(struct ru_store *store, const char *path, int fd, int fault)
{
    return ru_needs_add(&store->needs, path, fd, fault);
}

void ru_store_refuse(struct ru_store *store, int fault)
{
    ru_needs_refuse(&store->needs, fault);
}

int ru_store_require(struct ru_store *store)
{
    return ru_needs_check(&store->needs);
}

int ru_store_memory(struct ru_store *store)
{
    return store->memory.fd;
}

/* ---- fill ---- */

static struct ru_journal_settings settings_of(const uint8_t *id, uint32_t segments_max)
{
    struct ru_journal_settings settings = {
        .first_bytes = RU_SEGMENT_FIRST,
        .segment_bytes = RU_SEGMENT_SIZE,
        .segments_max = segments_max,
    };
    memcpy(settings.store, id, RU_STORE_ID_SIZE);
    return settings;
}

int ru_store_load(struct ru_store *store, struct ru_txn *txn, uint32_t first, uint32_t count,
                  uint64_t *number, uint32_t *faulty)
{
    return ru_txn_load(txn, &store->memory, first, count, number, faulty);
}

int ru_store_journal_holds(int directory)
{
    return ru_journal_holds(directory);
}

int ru_store_abandon_journal(int directory, const uint8_t *id)
{
    return ru_segment_abandon(directory, id);
}

int ru_store_start_journal(int directory, const uint8_t *id, uint64_t first)
{
    const struct ru_journal_settings settings = settings_of(id, RU_SEGMENTS_MAX);
    return ru_journal_create(directory, &settings, first);
}

static int entry_replay(struct ru_store *store, const struct ru_entry *entry)
{
    int rc = 0;
    for (uint32_t i = 0; i < entry->count && rc == 0; i++) {
        const struct ru_change change = ru_entry_change(entry, i);
        rc = ru_memory_replay(&store->memory, entry->number, &change, 1);
    }
    return rc;
}

/* A base that no node has served has no batch; one whose journal was abandoned has all before `from`. If
 * this one has more, its journal was begun meanwhile. */
static int replay_none(struct ru_store *store, uint64_t from, uint64_t at_least)
{
    if (from == 0 || at_least >= from)
        return RU_JOURNAL_MISSING;
    ru_memory_ready(&store->memory, from - 1);
    return 0;
}

int64_t ru_store_replay(struct ru_store *store, int directory, const uint8_t *id, uint64_t from,
                        uint64_t at_least)
{
    const struct ru_journal_settings settings = settings_of(id, RU_SEGMENTS_MAX);
    struct ru_reader reader;
    struct ru_entry entry;
    int64_t count = 0;
    if (directory < 0)
        return replay_none(store, from, at_least);
    int rc = ru_reader_open(&reader, directory, &settings, from);
    if (rc != 0)
        return rc;
    while ((rc = ru_reader_next(&reader, &entry)) > 0) {
        rc = entry_replay(store, &entry);
        if (rc != 0)
            break;
        count++;
    }
    if (rc == 0)
        rc = ru_reader_judge(&reader);
    const struct ru_position end = ru_reader_position(&reader);
    ru_reader_close(&reader);
    if (rc == 0 && end.last < at_least)
        rc = RU_JOURNAL_MISSING;
    if (rc != 0)
        return rc;
    store->memory.head->position = end;
    ru_memory_ready(&store->memory, end.last);
    return count;
}

/* Note which file is locked to write, or compare it with the one that the other process locks. */
static int store_share_lock(struct ru_memory_head *head, int lock, bool joins)
{
    struct stat found;
    if (lock < 0) /* there is no other process */
        return 0;
    if (fstat(lock, &found) != 0)
        return -errno;
    if (!joins) {
        head->lock_device = found.st_dev;
        head->lock_inode = found.st_ino;
    }
    return head->lock_device == found.st_dev && head->lock_inode == found.st_ino ? 0
                                                                                 : RU_STORE_SPLIT;
}

int ru_store_serve(struct ru_store *store, int directory, int lock, const uint8_t *id,
                   uint32_t joins, uint32_t interval, uint32_t segments_max)
{
    RU_CHECK(!store->serving && segments_max <= RU_SEGMENTS_MAX);
    const struct ru_journal_settings settings = settings_of(id, segments_max);
    struct ru_position *position = &store->memory.head->position;
    int rc = store_share_lock(store->memory.head, lock, joins != 0);
    if (rc != 0)
        return rc;
    ru_journal_join(&store->journal, directory, &settings, position);
    ru_writer_init(&store->writer, &store->memory, &store->journal, lock,
                   interval ? RU_DURABLE_INTERVAL : RU_DURABLE_COMMIT);
    uint64_t whole_from;
    rc = joins ? ru_writer_check(&store->writer, &whole_from) : ru_segment_clean(directory);
    if (rc == 0 && !joins) /* a killed process may have left what only this machine's memory has */
        rc = ru_journal_settle(&store->journal);
    store->serving = rc == 0;
    if (rc != 0) {
        ru_writer_destroy(&store->writer);
        ru_journal_close(&store->journal);
    }
    return rc;
}

/* ---- maintain ---- */

int ru_store_sync(struct ru_store *store)
{
    return store->serving ? ru_writer_sync(&store->writer) : 0;
}

void ru_store_alone(struct ru_store *store)
{
    if (!store->serving)
        return;
    ru_writer_alone(&store->writer);
    ru_journal_alone(&store->journal);
}

int ru_store_check(struct ru_store *store, uint64_t *whole_from)
{
    *whole_from = 0;
    if (!store->serving)
        return 0;
    int rc = ru_writer_mend(&store->writer);
    return rc == 0 ? ru_writer_check(&store->writer, whole_from) : rc;
}

/* A batch is applied in microseconds, unless its thread has lost the processor meanwhile, or its
 * process has died. */
bool ru_store_waits(struct ru_store *store, uint64_t *since_ns)
{
    uint64_t now_ns = ru_now_ns();
    if (*since_ns == 0)
        *since_ns = now_ns;
    (void)sched_yield();
    if (store->serving && ru_writer_mend(&store->writer) != 0)
        return false; /* a writer meets it, and tells */
    return now_ns - *since_ns < RU_VIEW_PATIENCE_NS;
}

int ru_store_tend(struct ru_store *store, uint64_t needed)
{
    if (!store->serving)
        return RU_STORE_MISUSED;
    int rc = ru_journal_release(&store->journal, needed);
    return rc < 0 ? rc : ru_journal_prepare(&store->journal);
}

void ru_store_progress(struct ru_store *store, struct ru_store_progress *progress)
{
    *progress = (struct ru_store_progress){0};
    if (store->serving) {
        progress->durable = ru_writer_durable(&store->writer, &progress->failed);
        progress->journal_bytes = ru_journal_bytes(&store->journal);
        progress->journal_segments = ru_journal_in_use(&store->journal);
    }
    progress->applied = ru_memory_applied(&store->memory); /* afterwards: never less than durable */
}

void ru_store_await(struct ru_store *store, uint64_t number, uint32_t timeout_ms)
{
    ru_sleeper_announce(&store->follower);
    if (ru_memory_applied(&store->memory) > number ||
        __atomic_load_n(&store->roused, __ATOMIC_ACQUIRE) != 0)
        ru_sleeper_cancel(&store->follower);
    else
        ru_sleeper_wait(&store->follower, timeout_ms);
    __atomic_store_n(&store->roused, 0, __ATOMIC_RELEASE);
}

void ru_store_rouse(struct ru_store *store)
{
    __atomic_store_n(&store->roused, 1, __ATOMIC_RELEASE);
    ru_sleeper_wake(&store->follower);
}

uint32_t ru_store_changed(struct ru_store *store, uint64_t number, uint16_t *pages,
                          uint64_t *numbers)
{
    uint32_t count = 0;
    for (uint32_t page = 0; page < RU_STORE_PAGES; page++) {
        uint64_t of_page = ru_memory_number(&store->memory, page);
        if (of_page <= number)
            continue;
        pages[count] = (uint16_t)page;
        numbers[count++] = of_page;
    }
    return count;
}

uint32_t ru_store_count(struct ru_store *store, uint32_t state)
{
    uint32_t count = 0;
    for (uint32_t page = 0; page < RU_STORE_PAGES; page++)
        count += ru_memory_state(&store->memory, page) == state;
    return count;
}

int ru_store_page(struct ru_store *store, uint32_t page, uint8_t *bytes, uint64_t *number)
{
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    uint64_t since_ns = 0;
    int rc;
    do {
        rc = ru_memory_page(&store->memory, page, bytes, number);
    } while (rc == -EAGAIN && ru_store_waits(store, &since_ns));
    return rc == -EAGAIN ? RU_STORE_BUSY : rc;
}

int ru_store_select(struct ru_store *store, uint32_t page, uint8_t *selected, uint32_t *circulating,
                    uint64_t *number)
{
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    uint64_t since_ns = 0;
    int rc;
    do {
        rc = ru_memory_select(&store->memory, page, selected, circulating, number);
    } while (rc == -EAGAIN && ru_store_waits(store, &since_ns));
    return rc == -EAGAIN ? RU_STORE_BUSY : rc;
}

/* ---- tickets ---- */

int ru_store_issue_ticket(struct ru_store *store, const uint8_t *names, uint32_t count,
                          uint64_t now_s, uint32_t *number)
{
    const struct ru_coin_list coins = {names, count, RU_COIN_NAME_SIZE};
    if (count == 0 || count > RU_TICKET_COINS_MAX)
        return -EINVAL;
    return ru_tickets_issue(&store->memory, coins, now_s, number);
}

int ru_store_claim_ticket(struct ru_store *store, uint32_t number, uint32_t raida, uint64_t now_s,
                          uint8_t *names, uint32_t bytes_max)
{
    if (raida >= RU_RAIDA_COUNT)
        return -EINVAL;
    return ru_tickets_claim(&store->memory, number, raida, now_s, names, bytes_max);
}

bool ru_store_knows_ticket(const struct ru_store *store, uint32_t number, uint64_t now_s)
{
    return ru_tickets_known(&store->memory, number, now_s);
}

uint32_t ru_store_tickets_alive(struct ru_store *store, uint64_t now_s)
{
    return ru_tickets_alive(&store->memory, now_s);
}
