/* test_writer.c: batches that threads execute and commit in turns, on files that fail.
 *
 * Also run under the thread sanitizer. What must hold: each batch is executed on the changes of all
 * before it; readers and a restart see whole batches, in order; a batch that fails, and every batch
 * executed on its changes, leaves nothing.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include "coins/segment.h"
#include "coins/writer.h"
#include "native.h"

#define WRITERS 2U
#define BATCHES 300U /* of each writer */
#define COIN_A 7U
#define COIN_B (900U * RU_PAGE_RECORDS_COUNT + 3) /* on another page */

static const struct ru_journal_settings settings = {.store = "a writer's store",
                                                    .first_bytes = 1U << 20,
                                                    .segment_bytes = 1U << 20,
                                                    .segments_max = RU_SEGMENTS_MAX};

struct house {
    struct native_directory own;
    int directory;
    struct ru_memory memory;
    struct ru_journal journal;
    struct ru_writer writer;
};

static void house_open(struct house *house, enum ru_durability durability)
{
    struct ru_defaults defaults;
    ru_defaults_init(&defaults, (const uint8_t *)"seed", 4);
    *house = (struct house){.own = native_directory_new()};
    house->directory = house->own.fd;
    EXPECT_EQUAL(ru_memory_create(&house->memory, &defaults), 0);
    EXPECT_EQUAL(ru_journal_create(house->directory, &settings, 1), 0);
    EXPECT_EQUAL(ru_journal_open(&house->journal, house->directory, &settings, 1,
                                 &house->memory.head->position),
                 0);
    ru_writer_init(&house->writer, &house->memory, &house->journal, -1, durability);
}

static void house_close(struct house *house)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    ru_writer_destroy(&house->writer);
    ru_journal_close(&house->journal);
    ru_memory_detach(&house->memory);
    int count = ru_segment_list(house->directory, segments);
    for (int i = 0; i < count; i++)
        EXPECT_EQUAL(ru_segment_remove(house->directory, segments[i].index), 0);
    native_directory_remove(&house->own);
}

static void begin(struct ru_writer *writer, struct ru_batch *batch)
{
    EXPECT_EQUAL(ru_writer_begin(writer, batch), 0);
}

static uint64_t seen(const struct ru_batch *batch, uint32_t coin)
{
    uint8_t record[RU_PAGE_RECORD_SIZE];
    uint64_t value;
    (void)ru_writer_record(batch, coin, record);
    memcpy(&value, record, sizeof(value));
    return record[RU_AN_SIZE] == 0 ? 0 : value;
}

static void set(struct ru_batch *batch, uint32_t coin, uint64_t value)
{
    struct ru_change change = {.coin = coin, .month = 1};
    memcpy(change.an, &value, sizeof(value));
    EXPECT_EQUAL(ru_writer_change(batch, &change), 0);
}

/* What is visible, outside a batch. */
static uint64_t visible(const struct house *house, uint32_t coin)
{
    uint8_t record[RU_PAGE_RECORD_SIZE];
    uint64_t value;
    (void)ru_memory_record(&house->memory, coin, record);
    memcpy(&value, record, sizeof(value));
    return record[RU_AN_SIZE] == 0 ? 0 : value;
}

static void test_own_changes(void)
{
    struct house house;
    struct ru_batch batch;
    house_open(&house, RU_DURABLE_COMMIT);
    begin(&house.writer, &batch);
    set(&batch, COIN_A, 1);
    uint32_t mark = batch.pending->count;
    set(&batch, COIN_A, 2);
    set(&batch, COIN_B, 2);
    EXPECT_EQUAL(seen(&batch, COIN_A), 2);
    ru_pending_undo(batch.pending, mark);
    EXPECT_EQUAL(seen(&batch, COIN_A), 1);
    EXPECT_EQUAL(seen(&batch, COIN_B), 0);
    EXPECT_EQUAL(visible(&house, COIN_A), 0);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    EXPECT_EQUAL(visible(&house, COIN_A), 1);
    begin(&house.writer, &batch);
    set(&batch, COIN_A, 3);
    ru_writer_end(&batch);
    begin(&house.writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 1);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0); /* without changes: nothing is written */
    EXPECT_EQUAL(house.journal.position->last, 1);
    house_close(&house);
}

/* ---- in turns ---- */

static void *turns_run(void *argument)
{
    struct house *house = argument;
    for (uint32_t i = 0; i < BATCHES; i++) {
        struct ru_batch batch;
        begin(&house->writer, &batch);
        uint64_t value = seen(&batch, COIN_A);
        EXPECT_EQUAL(seen(&batch, COIN_B), value);
        set(&batch, COIN_A, value + 1);
        set(&batch, COIN_B, value + 1);
        if (i % 7 == 0)
            ru_writer_end(&batch); /* given up */
        else
            EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    }
    return NULL;
}

static void run_in_turns(enum ru_durability durability)
{
    struct house house;
    pthread_t threads[WRITERS];
    uint64_t given_up = (BATCHES + 6) / 7;
    uint64_t whole = (uint64_t)WRITERS * (BATCHES - given_up);
    house_open(&house, durability);
    for (uint32_t i = 0; i < WRITERS; i++)
        EXPECT_EQUAL(pthread_create(&threads[i], NULL, turns_run, &house), 0);
    for (uint32_t i = 0; i < WRITERS; i++)
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
    EXPECT_EQUAL(visible(&house, COIN_A), whole);
    EXPECT_EQUAL(visible(&house, COIN_B), whole);
    EXPECT_EQUAL(ru_writer_sync(&house.writer), 0);
    EXPECT_EQUAL(house.journal.position->durable, whole);
    /* The journal has each batch, in order. */
    struct ru_reader reader;
    struct ru_entry entry;
    uint64_t count = 0;
    EXPECT_EQUAL(ru_reader_open(&reader, house.directory, &settings, 1), 0);
    while (ru_reader_next(&reader, &entry) > 0) {
        struct ru_change change = ru_entry_change(&entry, 1);
        uint64_t value;
        memcpy(&value, change.an, sizeof(value));
        EXPECT_EQUAL(value, ++count);
    }
    EXPECT_EQUAL(count, whole);
    ru_reader_close(&reader);
    house_close(&house);
}

static void test_in_turns(void)
{
    run_in_turns(RU_DURABLE_COMMIT);
    run_in_turns(RU_DURABLE_INTERVAL);
}

/* ---- two processes, one of which is killed ---- */

#define KILLS 40U

/* In the child: change both coins until the parent kills it; `acknowledged` is in shared memory. */
static void child_run(const struct house *parent, uint64_t *acknowledged)
{
    struct house house = {.directory = parent->directory};
    struct ru_batch batch;
    int rc = ru_memory_attach(&house.memory, dup(parent->memory.fd));
    int file = openat(house.directory, RU_WRITER_LOCK, O_RDWR);
    ru_journal_join(&house.journal, house.directory, &settings, &house.memory.head->position);
    ru_writer_init(&house.writer, &house.memory, &house.journal, file, RU_DURABLE_COMMIT);
    while (rc == 0 && file >= 0) {
        rc = ru_writer_begin(&house.writer, &batch);
        if (rc != 0)
            break;
        uint64_t value = seen(&batch, COIN_A);
        if (seen(&batch, COIN_B) != value)
            break;
        set(&batch, COIN_A, value + 1);
        set(&batch, COIN_B, value + 1);
        rc = ru_writer_commit(&batch, 0);
        if (rc == 0)
            __atomic_fetch_add(acknowledged, 1, __ATOMIC_RELAXED);
    }
    _exit(1);
}

static void test_killed_beside(void)
{
    struct house house;
    struct ru_random random = {native_seed()};
    uint64_t *acknowledged = mmap(NULL, sizeof(*acknowledged), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    house_open(&house, RU_DURABLE_COMMIT);
    int file = openat(house.directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600);
    house.writer.lock = file;
    for (uint32_t kill_number = 0; kill_number < KILLS; kill_number++) {
        uint64_t before = __atomic_load_n(acknowledged, __ATOMIC_RELAXED);
        (void)fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            child_run(&house, acknowledged);
        uint64_t own = 0;
        /* At least one batch of each, so that the lock has changed hands. */
        while (own < 1 || __atomic_load_n(acknowledged, __ATOMIC_RELAXED) == before) {
            struct ru_batch batch;
            begin(&house.writer, &batch);
            uint64_t value = seen(&batch, COIN_A);
            EXPECT_EQUAL(seen(&batch, COIN_B), value);
            set(&batch, COIN_A, value + 1);
            set(&batch, COIN_B, value + 1);
            /* Where no flush takes time, the journal would be full before the last kill. */
            EXPECT(ru_journal_release(&house.journal, house.journal.position->last) >= 0);
            EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
            own++;
            __atomic_fetch_add(acknowledged, 1, __ATOMIC_RELAXED);
            before++;
        }
        (void)usleep(native_below(&random, 3000));
        (void)kill(child, SIGKILL);
        int status;
        EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    }
    struct ru_batch batch;
    begin(&house.writer, &batch);
    uint64_t value = seen(&batch, COIN_A);
    EXPECT_EQUAL(seen(&batch, COIN_B), value);
    ru_writer_end(&batch);
    /* A batch whose process died before it could say so may be there as well. */
    EXPECT(value >= *acknowledged && value <= *acknowledged + KILLS);
    EXPECT_EQUAL(house.journal.position->last, value);
    EXPECT_EQUAL(visible(&house, COIN_A), value);
    (void)close(file);
    (void)unlinkat(house.directory, RU_WRITER_LOCK, 0);
    EXPECT_EQUAL(ru_segment_clean(house.directory), 0);
    (void)munmap(acknowledged, sizeof(*acknowledged));
    house_close(&house);
}

/* ---- two processes, seen from one ---- */

/* Another process's mapping, journal, writer and descriptor of the lock. */
static void house_join(struct house *house, const struct house *first)
{
    *house = (struct house){.directory = first->directory};
    EXPECT_EQUAL(ru_memory_attach(&house->memory, dup(first->memory.fd)), 0);
    ru_journal_join(&house->journal, house->directory, &settings, &house->memory.head->position);
    ru_writer_init(&house->writer, &house->memory, &house->journal,
                   openat(first->directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600),
                   first->writer.durability);
}

static void house_leave(struct house *house)
{
    (void)close(house->writer.lock);
    ru_writer_destroy(&house->writer);
    ru_journal_close(&house->journal);
    ru_memory_detach(&house->memory);
}

static void commit(struct house *house, uint32_t coin, uint64_t value)
{
    struct ru_batch batch;
    begin(&house->writer, &batch);
    set(&batch, coin, value);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
}

/* While this process's flush holds the lock, a batch begins: it must not see what this process wrote
 * before the other one did. */
static void test_flush_beside(void)
{
    struct house one;
    struct house other;
    struct ru_batch batch;
    house_open(&one, RU_DURABLE_INTERVAL);
    one.writer.lock = openat(one.directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600);
    house_join(&other, &one);
    commit(&one, COIN_A, 1);
    commit(&other, COIN_A, 2);
    /* What ru_writer_sync() does until the disk is waited for: take the lock. */
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    EXPECT_EQUAL(fcntl(one.writer.lock, F_OFD_SETLK, &whole), 0);
    one.writer.holders = 1;
    one.writer.takes++;
    begin(&one.writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 2);
    ru_writer_end(&batch);
    one.writer.holders = 0;
    (void)close(one.writer.lock);
    house_leave(&other);
    (void)unlinkat(one.directory, RU_WRITER_LOCK, 0);
    house_close(&one);
}

/* The other process has begun a segment, and the one that this process has open is gone. */
static void test_check_beside(void)
{
    struct house one;
    struct house other;
    house_open(&one, RU_DURABLE_COMMIT);
    one.writer.lock = openat(one.directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600);
    house_join(&other, &one);
    commit(&one, COIN_A, 1);
    for (uint64_t value = 2; other.journal.open < 3; value++)
        commit(&other, COIN_A, value);
    EXPECT(ru_journal_release(&other.journal, other.journal.position->last) > 0);
    uint64_t whole_from = 0;
    EXPECT_EQUAL(ru_writer_check(&one.writer, &whole_from), 0);
    EXPECT_EQUAL(whole_from, one.journal.segments[0].first);
    /* It dies with an entry written: this process has it, also without a batch of its own. */
    struct ru_change change = {.coin = COIN_B, .an = {9}, .month = 1};
    one.memory.head->position.dirty = 1;
    EXPECT_EQUAL(ru_journal_append(&other.journal, 0, &change, 1), 0);
    one.memory.head->position.last--; /* it had not got that far */
    EXPECT_EQUAL(ru_writer_mend(&one.writer), 0);
    EXPECT_EQUAL(visible(&one, COIN_B), 9);
    /* It dies after a flush that failed: nothing is written any more. */
    one.memory.head->position.failed = -EIO;
    one.memory.head->position.dirty = 1;
    struct ru_batch batch;
    begin(&one.writer, &batch);
    set(&batch, COIN_A, 1);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), -EIO);
    (void)close(one.writer.lock);
    house_leave(&other);
    (void)unlinkat(one.directory, RU_WRITER_LOCK, 0);
    house_close(&one);
}

/* The lock's name is gone: whoever holds the old file neither writes nor mends beside another process
 * that may have a new one. */
static void test_lock_lost(void)
{
    struct house one;
    struct house other;
    struct ru_batch batch;
    uint64_t whole_from;
    house_open(&one, RU_DURABLE_COMMIT);
    one.writer.lock = openat(one.directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600);
    commit(&one, COIN_A, 1);
    begin(&one.writer, &batch); /* it has the lock already */
    set(&batch, COIN_A, 2);
    EXPECT_EQUAL(unlinkat(one.directory, RU_WRITER_LOCK, 0), 0);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), RU_JOURNAL_LONE);
    house_join(&other, &one); /* with a file of its own, which both could lock */
    EXPECT_EQUAL(ru_writer_begin(&one.writer, &batch), RU_JOURNAL_LONE);
    EXPECT_EQUAL(ru_writer_sync(&one.writer), RU_JOURNAL_LONE);
    EXPECT_EQUAL(ru_writer_check(&one.writer, &whole_from), RU_JOURNAL_LONE);
    one.journal.position->dirty = 1; /* the other one is in the middle of a batch */
    EXPECT_EQUAL(ru_writer_mend(&one.writer), 0);
    EXPECT_EQUAL(one.journal.position->dirty, 1);
    one.journal.position->dirty = 0;
    commit(&other, COIN_A, 3);
    EXPECT_EQUAL(visible(&one, COIN_A), 3);
    EXPECT_EQUAL(one.journal.position->last, 2);
    house_leave(&other);
    (void)close(one.writer.lock);
    (void)unlinkat(one.directory, RU_WRITER_LOCK, 0);
    house_close(&one);
}

/* In the child: die with one of two pages marked and changed, the batch being in the journal. */
static void child_dies_applying(const struct house *parent)
{
    struct house house = {.directory = parent->directory};
    struct ru_batch batch;
    int file = openat(house.directory, RU_WRITER_LOCK, O_RDWR);
    int rc = ru_memory_attach(&house.memory, dup(parent->memory.fd));
    if (rc == 0)
        ru_journal_join(&house.journal, house.directory, &settings, &house.memory.head->position);
    ru_writer_init(&house.writer, &house.memory, &house.journal, file, RU_DURABLE_COMMIT);
    if (rc != 0 || file < 0 || ru_writer_begin(&house.writer, &batch) != 0)
        _exit(1);
    set(&batch, COIN_A, 5);
    set(&batch, COIN_B, 5);
    house.journal.position->dirty = 1;
    rc = ru_memory_reserve(&house.memory, batch.pending->changes, 2);
    if (rc == 0)
        rc = ru_journal_append(&house.journal, 0, batch.pending->changes, 2);
    house.memory.head->started = house.journal.position->last;
    house.memory.numbers[COIN_A / RU_PAGE_RECORDS_COUNT] = house.journal.position->last;
    _exit(rc == 0 ? 0 : 1);
}

/* In the child: wait for the lock until the parent kills it. */
static void child_waits(const struct house *parent)
{
    struct house house = *parent;
    struct ru_batch batch;
    house.writer.lock = openat(house.directory, RU_WRITER_LOCK, O_RDWR);
    house.writer.holders = 0;
    house.writer.turn = 0;
    ru_turns_init(&house.writer.executing);
    (void)pthread_mutex_init(&house.writer.committing, NULL);
    (void)pthread_mutex_init(&house.writer.holding, NULL);
    (void)ru_writer_begin(&house.writer, &batch);
    _exit(1);
}

/* Pages of a batch that a dead process left half applied can be read at once, though nobody writes. */
static void test_killed_while_applying(void)
{
    struct house house;
    struct ru_batch batch;
    uint8_t page[RU_PAGE_SIZE];
    uint64_t number;
    int status;
    house_open(&house, RU_DURABLE_COMMIT);
    house.writer.lock = openat(house.directory, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600);
    EXPECT_EQUAL(ru_writer_mend(&house.writer), 0);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        child_dies_applying(&house);
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT_EQUAL(ru_memory_page(&house.memory, COIN_A / RU_PAGE_RECORDS_COUNT, page, &number),
                 -EAGAIN);
    EXPECT_EQUAL(ru_writer_mend(&house.writer), 0);
    EXPECT_EQUAL(ru_memory_page(&house.memory, COIN_A / RU_PAGE_RECORDS_COUNT, page, &number),
                 RU_PAGE_WRITTEN);
    EXPECT_EQUAL(number, 1);
    EXPECT_EQUAL(visible(&house, COIN_A), 5);
    EXPECT_EQUAL(visible(&house, COIN_B), 5);
    begin(&house.writer, &batch); /* who has the lock mends nothing of its own */
    house.journal.position->dirty = 1;
    EXPECT_EQUAL(ru_writer_mend(&house.writer), 0);
    EXPECT_EQUAL(house.journal.position->dirty, 1);
    house.journal.position->dirty = 0;
    child = fork();
    if (child == 0)
        child_waits(&house);
    while (__atomic_load_n(&house.journal.position->wanted, __ATOMIC_RELAXED) == 0)
        (void)usleep(100);
    (void)kill(child, SIGKILL);
    EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    ru_writer_end(&batch);
    EXPECT_EQUAL(house.journal.position->wanted, 1);
    ru_writer_alone(&house.writer);
    EXPECT_EQUAL(house.journal.position->wanted, 0);
    begin(&house.writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 5);
    ru_writer_end(&batch);
    (void)close(house.writer.lock);
    (void)unlinkat(house.directory, RU_WRITER_LOCK, 0);
    house_close(&house);
}

/* ---- failures ---- */

struct second {
    struct house *house;
    pthread_barrier_t begun; /* it executes on the changes of the first */
    int result;
};

static void *second_run(void *argument)
{
    struct second *second = argument;
    struct ru_batch batch;
    begin(&second->house->writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 2);
    set(&batch, COIN_B, 3);
    (void)pthread_barrier_wait(&second->begun);
    second->result = ru_writer_commit(&batch, 0);
    return NULL;
}

/* The first batch fails while the second one has been executed on it: `committing` is held here in
 * place of the first one's slow disk. */
static void test_failed_before(void)
{
    struct house house;
    struct ru_batch batch;
    struct second second = {.house = &house};
    pthread_t thread;
    house_open(&house, RU_DURABLE_COMMIT);
    begin(&house.writer, &batch);
    set(&batch, COIN_A, 1);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    begin(&house.writer, &batch);
    set(&batch, COIN_A, 2);
    /* What ru_writer_commit() does until the disk is waited for. */
    EXPECT_EQUAL(pthread_mutex_lock(&house.writer.committing), 0);
    house.writer.handed++;
    house.writer.handed_take = batch.take;
    house.writer.turn = 1 - house.writer.turn;
    ru_pending_undo(&house.writer.batches[house.writer.turn], 0);
    ru_turns_end(&house.writer.executing);
    EXPECT_EQUAL(pthread_barrier_init(&second.begun, NULL, 2), 0);
    EXPECT_EQUAL(pthread_create(&thread, NULL, second_run, &second), 0);
    (void)pthread_barrier_wait(&second.begun);
    house.writer.failed = house.writer.handed;
    EXPECT_EQUAL(pthread_mutex_unlock(&house.writer.committing), 0);
    EXPECT_EQUAL(pthread_join(thread, NULL), 0);
    EXPECT_EQUAL(second.result, -ECANCELED);
    EXPECT_EQUAL(visible(&house, COIN_A), 1);
    EXPECT_EQUAL(visible(&house, COIN_B), 0);
    /* The next batch sees nothing of either, and succeeds. */
    begin(&house.writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 1);
    EXPECT_EQUAL(seen(&batch, COIN_B), 0);
    set(&batch, COIN_B, 4);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    EXPECT_EQUAL(visible(&house, COIN_B), 4);
    (void)pthread_barrier_destroy(&second.begun);
    house_close(&house);
}

static void test_disk_fails(void)
{
    struct house house;
    struct ru_batch batch;
    int ends[2];
    house_open(&house, RU_DURABLE_COMMIT);
    int saved = dup(house.journal.fd);
    int unwritable = ru_segment_open(house.directory, 1, O_RDONLY);
    EXPECT_EQUAL(pipe(ends), 0);
    EXPECT(dup2(unwritable, house.journal.fd) >= 0);
    begin(&house.writer, &batch);
    set(&batch, COIN_A, 1);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), -EBADF);
    EXPECT_EQUAL(visible(&house, COIN_A), 0);
    EXPECT(dup2(saved, house.journal.fd) >= 0);
    begin(&house.writer, &batch);
    EXPECT_EQUAL(seen(&batch, COIN_A), 0);
    set(&batch, COIN_A, 2);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    EXPECT_EQUAL(visible(&house, COIN_A), 2);
    house.journal.position->failed = -EIO; /* as after a flush that failed */
    for (uint32_t i = 0; i < 3; i++) {
        begin(&house.writer, &batch);
        set(&batch, COIN_A, 3);
        EXPECT_EQUAL(ru_writer_commit(&batch, 0), -EIO);
        EXPECT_EQUAL(visible(&house, COIN_A), 2);
    }
    (void)close(saved);
    (void)close(unwritable);
    (void)close(ends[0]);
    (void)close(ends[1]);
    house_close(&house);
}

int main(void)
{
    RUN(test_own_changes);
    RUN(test_in_turns);
    RUN(test_killed_beside);
    RUN(test_flush_beside);
    RUN(test_check_beside);
    RUN(test_lock_lost);
    RUN(test_killed_while_applying);
    RUN(test_failed_before);
    RUN(test_disk_fails);
    return native_finish();
}
