/* writer.c: batches of changes, executed, made durable, and made visible. */
#include "coins/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"

#define WAY_LOOKS 50U          /* until another process has taken the lock ... */
#define WAY_PAUSE_US 20U       /* ... with pauses, since it has to wake up */
#define WAY_AGAIN_NS 100000000 /* nobody has: whoever waited may be dead */

static void lock(pthread_mutex_t *mutex)
{
    int rc = pthread_mutex_lock(mutex);
    RU_CHECK(rc == 0);
}

static void unlock(pthread_mutex_t *mutex)
{
    int rc = pthread_mutex_unlock(mutex);
    RU_CHECK(rc == 0);
}

void ru_writer_init(struct ru_writer *writer, struct ru_memory *memory, struct ru_journal *journal,
                    int lock, enum ru_durability durability)
{
    *writer = (struct ru_writer){
        .memory = memory, .journal = journal, .lock = lock, .durability = durability};
    (void)pthread_mutex_init(&writer->holding, NULL);
    ru_turns_init(&writer->executing);
    (void)pthread_mutex_init(&writer->committing, NULL);
    for (uint32_t i = 0; i < 2; i++)
        ru_pending_init(&writer->batches[i]);
}

void ru_writer_destroy(struct ru_writer *writer)
{
    for (uint32_t i = 0; i < 2; i++)
        ru_pending_destroy(&writer->batches[i]);
    (void)pthread_mutex_destroy(&writer->holding);
    (void)pthread_mutex_destroy(&writer->committing);
    ru_turns_destroy(&writer->executing);
}

/* ---- one process at a time ---- */

static int file_lock(int fd, short type, int command)
{
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};
    int rc;
    do {
        rc = fcntl(fd, command, &whole);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static void file_unlock(int fd)
{
    (void)file_lock(fd, F_UNLCK, F_OFD_SETLK);
}

/* 0, or RU_JOURNAL_LONE: another process may hold another lock. */
static int writer_owns_name(const struct ru_writer *writer)
{
    struct stat named, open;
    if (writer->lock < 0)
        return 0;
    if (fstat(writer->lock, &open) != 0)
        return -errno;
    if (fstatat(writer->journal->directory, RU_WRITER_LOCK, &named, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? RU_JOURNAL_LONE : 0; /* other errors say nothing about the file */
    bool same = named.st_dev == open.st_dev && named.st_ino == open.st_ino;
    return same ? 0 : RU_JOURNAL_LONE;
}

static bool position_is_dirty(const struct ru_position *position)
{
    return __atomic_load_n(&position->dirty, __ATOMIC_ACQUIRE) != 0;
}

/* Not below 0, where ru_writer_alone() puts it while a process that ends still waits. */
static void position_unwant(struct ru_position *position)
{
    uint32_t wanted = __atomic_load_n(&position->wanted, __ATOMIC_RELAXED);
    while (wanted > 0 && !__atomic_compare_exchange_n(&position->wanted, &wanted, wanted - 1, true,
                                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

/* The process that wrote last has died in the middle of a batch, whose entry may be in the journal. It
 * has not been acknowledged, but another process's reader may have it: apply it. */
static int writer_recover(struct ru_writer *writer)
{
    struct ru_position *position = writer->journal->position;
    const uint64_t next = ru_memory_applied(writer->memory) + 1;
    if (position->failed != 0) /* nothing is written any more, and what is on the disk is unknown */
        return 0;
    int rc = ru_journal_recover(writer->journal, next);
    if (rc == 0)
        rc = ru_reader_apply(writer->journal, writer->memory, next);
    if (rc == 0)
        __atomic_store_n(&position->dirty, 0, __ATOMIC_RELEASE);
    return rc;
}

/* With `holding` held. */
static int writer_take(struct ru_writer *writer)
{
    struct ru_position *position = writer->journal->position;
    if (writer->lock < 0)
        return 0;
    __atomic_fetch_add(&position->wanted, 1, __ATOMIC_RELAXED);
    int rc = file_lock(writer->lock, F_WRLCK, F_OFD_SETLKW);
    position_unwant(position);
    if (rc != 0)
        return rc;
    __atomic_fetch_add(&position->taken, 1, __ATOMIC_RELAXED);
    rc = writer_owns_name(writer); /* else a writer that is dirty may be alive */
    if (rc == 0 && position_is_dirty(position))
        rc = writer_recover(writer);
    if (rc == 0)
        rc = ru_journal_follow(writer->journal);
    if (rc != 0)
        file_unlock(writer->lock);
    return rc;
}

int ru_writer_mend(struct ru_writer *writer)
{
    int rc = 0;
    if (writer->lock < 0 || !position_is_dirty(writer->journal->position))
        return 0;
    if (pthread_mutex_trylock(&writer->holding) != 0)
        return 0; /* whoever takes or releases the lock mends, too */
    if (writer->holders == 0 && file_lock(writer->lock, F_WRLCK, F_OFD_SETLK) == 0) {
        if (position_is_dirty(writer->journal->position) && writer_owns_name(writer) == 0)
            rc = writer_recover(writer);
        file_unlock(writer->lock);
    }
    unlock(&writer->holding);
    return rc;
}

void ru_writer_alone(struct ru_writer *writer)
{
    lock(&writer->holding); /* no thread of this process waits for the lock meanwhile */
    __atomic_store_n(&writer->journal->position->wanted, 0, __ATOMIC_RELAXED);
    unlock(&writer->holding);
}

/* For a batch that begins, or a flush. Sets `take`: as long as it is the same, no other process has
 * written. */
static int writer_hold(struct ru_writer *writer, uint64_t *take)
{
    lock(&writer->holding);
    int rc = writer->holders == 0 ? writer_take(writer) : 0;
    writer->takes += writer->holders == 0;
    writer->holders += rc == 0;
    *take = writer->takes;
    unlock(&writer->holding);
    return rc;
}

static void writer_let_go(struct ru_writer *writer)
{
    lock(&writer->holding);
    RU_CHECK(writer->holders > 0);
    if (--writer->holders == 0 && writer->lock >= 0)
        file_unlock(writer->lock);
    unlock(&writer->holding);
}

/* Another process waits: let the batch that is being committed end, so that the lock is released, and
 * let the other one have it. The kernel only wakes it up; this process would be faster every time. */
static void writer_make_way(struct ru_writer *writer)
{
    const struct ru_position *position = writer->journal->position;
    if (__atomic_load_n(&position->wanted, __ATOMIC_RELAXED) == 0 ||
        ru_now_ns() < writer->patient_ns)
        return;
    lock(&writer->committing);
    unlock(&writer->committing);
    const uint32_t taken = __atomic_load_n(&position->taken, __ATOMIC_RELAXED);
    for (uint32_t looks = 0; looks < WAY_LOOKS; looks++) {
        if (__atomic_load_n(&position->wanted, __ATOMIC_RELAXED) == 0 ||
            __atomic_load_n(&position->taken, __ATOMIC_RELAXED) != taken)
            return;
        (void)usleep(WAY_PAUSE_US);
    }
    writer->patient_ns = ru_now_ns() + WAY_AGAIN_NS;
}

/* ---- execute ---- */

int ru_writer_begin(struct ru_writer *writer, struct ru_batch *batch)
{
    ru_turns_begin(&writer->executing);
    uint64_t take;
    writer_make_way(writer);
    int rc = writer_hold(writer, &take);
    if (rc != 0) {
        ru_turns_end(&writer->executing);
        return rc;
    }
    *batch = (struct ru_batch){
        .writer = writer,
        .pending = &writer->batches[writer->turn],
        .before = &writer->batches[1 - writer->turn],
        .executed_on = writer->handed,
        .take = take,
    };
    RU_CHECK(batch->pending->count == 0);
    /* Nothing of the batch before must be seen if it has failed. If the lock was released since, it
     * is in memory, and another process may have changed the same coins. */
    if (take != writer->handed_take ||
        __atomic_load_n(&writer->failed, __ATOMIC_ACQUIRE) == writer->handed) {
        ru_pending_undo(&writer->batches[1 - writer->turn], 0);
        batch->executed_on = 0;
    }
    return 0;
}

enum ru_page_state ru_writer_record(const struct ru_batch *batch, uint32_t coin, uint8_t *record)
{
    const struct ru_change *change = ru_pending_find(batch->pending, coin);
    if (!change)
        change = ru_pending_find(batch->before, coin);
    if (!change)
        return ru_memory_record(batch->writer->memory, coin, record);
    memcpy(record, change->an, RU_AN_SIZE);
    record[RU_AN_SIZE] = change->month;
    return RU_PAGE_WRITTEN;
}

static void pending_overlay(const struct ru_pending *pending, uint32_t page, uint8_t *bytes)
{
    for (uint32_t i = 0; i < pending->count; i++) {
        const struct ru_change *change = &pending->changes[i];
        if (change->coin / RU_PAGE_RECORDS_COUNT != page)
            continue;
        uint8_t *record =
            bytes + (size_t)(change->coin % RU_PAGE_RECORDS_COUNT) * RU_PAGE_RECORD_SIZE;
        memcpy(record, change->an, RU_AN_SIZE);
        record[RU_AN_SIZE] = change->month;
    }
}

void ru_writer_overlay(const struct ru_batch *batch, uint32_t page, uint8_t *bytes)
{
    pending_overlay(batch->before, page, bytes);
    pending_overlay(batch->pending, page, bytes);
}

int ru_writer_change(struct ru_batch *batch, const struct ru_change *change)
{
    return ru_pending_add(batch->pending, change);
}

void ru_writer_end(struct ru_batch *batch)
{
    ru_pending_undo(batch->pending, 0);
    writer_let_go(batch->writer);
    ru_turns_end(&batch->writer->executing);
}

/* ---- commit ---- */

/* With `committing` held. */
static int batch_write(struct ru_batch *batch, uint64_t time_ns)
{
    struct ru_writer *writer = batch->writer;
    const struct ru_change *changes = batch->pending->changes;
    uint32_t count = batch->pending->count;
    struct ru_position *position = writer->journal->position;
    int rc = writer_owns_name(writer); /* it may have had the lock for many batches */
    if (rc != 0)
        return rc;
    rc = ru_memory_reserve(writer->memory, changes, count);
    __atomic_store_n(&position->dirty, 1, __ATOMIC_SEQ_CST);
    if (rc == 0)
        rc = ru_journal_append(writer->journal, time_ns, changes, count);
    if (rc == 0 && writer->durability == RU_DURABLE_COMMIT)
        rc = ru_journal_sync(writer->journal);
    if (rc == 0)
        ru_memory_apply(writer->memory, position->last, changes, count);
    __atomic_store_n(&position->dirty, 0, __ATOMIC_RELEASE);
    return rc;
}

/* Whether the batch was executed on changes that failed. With `committing` held. */
static bool batch_is_void(const struct ru_batch *batch)
{
    return batch->executed_on > 0 && batch->executed_on == batch->writer->failed;
}

int ru_writer_commit(struct ru_batch *batch, uint64_t time_ns)
{
    struct ru_writer *writer = batch->writer;
    lock(&writer->committing); /* the batch before is visible now, or has failed */
    int rc = batch_is_void(batch) ? -ECANCELED : 0;
    if (batch->pending->count == 0) {
        unlock(&writer->committing);
        ru_writer_end(batch);
        return rc;
    }
    uint64_t count = ++writer->handed;
    writer->handed_take = batch->take;
    writer->turn = 1 - writer->turn;
    ru_pending_undo(&writer->batches[writer->turn], 0);
    ru_turns_end(&writer->executing); /* the next one executes on this one's changes */
    if (rc == 0)
        rc = batch_write(batch, time_ns);
    if (rc != 0)
        __atomic_store_n(&writer->failed, count, __ATOMIC_RELEASE);
    writer_let_go(writer); /* before the next one commits, which may have to make way */
    unlock(&writer->committing);
    return rc;
}

int ru_writer_sync(struct ru_writer *writer)
{
    uint64_t take;
    lock(&writer->committing);
    int rc = writer_hold(writer, &take);
    if (rc == 0) {
        rc = ru_journal_sync(writer->journal);
        writer_let_go(writer);
    }
    unlock(&writer->committing);
    return rc;
}

int ru_writer_check(struct ru_writer *writer, uint64_t *whole_from)
{
    uint64_t take;
    lock(&writer->committing);
    int rc = writer_hold(writer, &take); /* the file that is open may be another process's past */
    if (rc == 0) {
        rc = writer->journal->position->failed; /* perhaps the other process's flush */
        if (rc == 0)
            rc = ru_journal_in_place(writer->journal);
        if (rc == 0)
            rc = writer_owns_name(writer);
        if (rc == 0)
            *whole_from = ru_journal_whole_from(writer->journal);
        writer_let_go(writer);
    }
    unlock(&writer->committing);
    return rc;
}

uint64_t ru_writer_durable(const struct ru_writer *writer, int *failed)
{
    const struct ru_position *position = writer->journal->position;
    *failed = __atomic_load_n(&position->failed, __ATOMIC_ACQUIRE);
    return __atomic_load_n(&position->durable, __ATOMIC_ACQUIRE);
}
