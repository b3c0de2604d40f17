/* test_room.c: the base on a file system that forgets blocks whose first write failed.
 *
 * What must hold: a checkpoint that succeeded is found after a power cut, whole, also if writes and
 * flushes before it have failed, and whether the same process goes on with the base or another one.
 * The disk is a model: blocks are on it once they were written and flushed; a new block whose first
 * flush fails reads as zeros for ever, as ext4 may have it, unless the file gives it back. A write of
 * LMDB's first pages that fails may have reached the disk all the same, and a flush that is cut may
 * have written everything but these.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "coins/base.h"
#include "native.h"

#define PAGES 16U
#define MAP_BYTES (8ULL << 20)
#define BLOCK 4096U
#define BLOCKS (MAP_BYTES / BLOCK)
#define METAS 2U /* blocks at the front, whose newest one says where everything else is */
#define COMMITS 4U
#define SECONDS 6U /* how much later a second call fails, at most */

enum block {
    BLOCK_NONE, /* a hole */
    BLOCK_NEW,  /* written, and not flushed yet */
    BLOCK_ON_DISK,
    BLOCK_DIRTY, /* on the disk, and written again */
    BLOCK_LOST,
};

static struct {
    bool watching;
    uint64_t calls;
    uint64_t fail_at;  /* 0: never */
    uint64_t fail_too; /* likewise */
    bool kills;        /* the call that fails is the process's last ... */
    bool killed;       /* ... and no block is given back any more */
    uint64_t saved;    /* number of the newest checkpoint that succeeded */
    int file;          /* another descriptor of data.mdb */
    uint8_t blocks[BLOCKS];
    uint8_t image[BLOCKS][BLOCK]; /* what the disk has */
} disk;

ssize_t __real_pwrite(int fd, const void *bytes, size_t size, off_t at);
ssize_t __real_pwritev(int fd, const struct iovec *parts, int count, off_t at);
ssize_t __real_writev(int fd, const struct iovec *parts, int count);
int __real_fdatasync(int fd);
int __real_fallocate(int fd, int mode, off_t at, off_t size);

/* ---- the disk ---- */

static void disk_take(uint32_t block)
{
    if (pread(disk.file, disk.image[block], BLOCK, (off_t)block * BLOCK) < 0)
        abort();
}

static void expect_saved_after_cut(void);

static void disk_note(int fd, off_t at, ssize_t size)
{
    const bool flushed = fcntl(fd, F_GETFL) & O_DSYNC;
    for (off_t block = at / BLOCK; size > 0 && block * BLOCK < at + size; block++) {
        uint8_t *state = &disk.blocks[block];
        if (flushed)
            disk_take((uint32_t)block);
        else if (*state == BLOCK_NONE)
            *state = BLOCK_NEW;
        else if (*state == BLOCK_ON_DISK)
            *state = BLOCK_DIRTY;
    }
}

static void disk_flush_part(uint32_t first, uint32_t end, bool fails)
{
    for (uint32_t block = first; block < end; block++) {
        uint8_t *state = &disk.blocks[block];
        if (*state != BLOCK_NEW && *state != BLOCK_DIRTY)
            continue;
        if (!fails)
            disk_take(block);
        *state = fails && *state == BLOCK_NEW ? BLOCK_LOST : BLOCK_ON_DISK;
    }
}

static void disk_flush(bool fails)
{
    disk_flush_part(METAS, BLOCKS, fails);
    disk.watching = false;
    expect_saved_after_cut();
    disk.watching = true;
    disk_flush_part(0, METAS, fails);
}

static bool disk_fails(void)
{
    if (!disk.watching || (++disk.calls != disk.fail_at && disk.calls != disk.fail_too))
        return false;
    disk.killed = disk.kills;
    errno = EIO;
    return true;
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    if (disk_fails()) {
        if (at < METAS * BLOCK && size < BLOCK)
            memcpy(disk.image[0] + at, bytes, size);
        return -1;
    }
    ssize_t written = __real_pwrite(fd, bytes, size, at);
    if (disk.watching)
        disk_note(fd, at, written);
    return written;
}

ssize_t __wrap_pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    if (disk_fails())
        return -1;
    ssize_t written = __real_pwritev(fd, parts, count, at);
    if (disk.watching)
        disk_note(fd, at, written);
    return written;
}

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count)
{
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (disk_fails())
        return -1;
    ssize_t written = __real_writev(fd, parts, count);
    if (disk.watching)
        disk_note(fd, at, written);
    return written;
}

int __wrap_fdatasync(int fd)
{
    if (!disk.watching)
        return __real_fdatasync(fd);
    bool fails = disk_fails();
    disk_flush(fails);
    return fails ? -1 : 0;
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t size)
{
    if (disk.killed)
        return 0;
    int rc = __real_fallocate(fd, mode, at, size);
    if (rc != 0 || !disk.watching || !(mode & FALLOC_FL_PUNCH_HOLE))
        return rc;
    EXPECT_EQUAL(at % BLOCK, 0);
    for (off_t block = at / BLOCK; block * BLOCK < at + size; block++) {
        disk.blocks[block] = BLOCK_NONE;
        memset(disk.image[block], 0, BLOCK);
    }
    return 0;
}

/* ---- a base ---- */

struct place {
    struct native_directory own;
    struct ru_base *base;
};

static struct place place_new(void)
{
    return (struct place){.own = native_directory_new()};
}

static int file_of(const struct place *place, int flags)
{
    char path[NATIVE_PATH_SIZE + 16];
    (void)snprintf(path, sizeof(path), "%s/data.mdb", place->own.path);
    int fd = open(path, flags, 0600);
    if (fd < 0)
        abort();
    return fd;
}

static void place_remove(struct place *place)
{
    static const char *const names[] = {"data.mdb", "lock.mdb"};
    char path[NATIVE_PATH_SIZE + 16];
    ru_base_close(place->base);
    for (uint32_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", place->own.path, names[i]);
        (void)unlink(path);
    }
    native_directory_remove(&place->own);
}

static void place_reopen(struct place *place)
{
    ru_base_close(place->base);
    EXPECT_EQUAL(ru_base_open(place->own.path, MAP_BYTES, 0, &place->base), 0);
}

/* A new base, all of which is on the disk. */
static struct place disk_open(void)
{
    struct stat found;
    struct place place = place_new();
    EXPECT_EQUAL(ru_base_open(place.own.path, MAP_BYTES, RU_BASE_CREATE, &place.base), 0);
    disk.file = file_of(&place, O_RDONLY);
    memset(disk.blocks, 0, sizeof(disk.blocks));
    memset(disk.image, 0, sizeof(disk.image));
    if (fstat(disk.file, &found) != 0)
        abort();
    for (uint32_t block = 0; (off_t)block * BLOCK < found.st_size; block++) {
        disk.blocks[block] = BLOCK_ON_DISK;
        disk_take(block);
    }
    return place;
}

/* A base of what the disk has after a power cut. */
static struct place disk_cut(void)
{
    struct stat found;
    struct place place = place_new();
    int fd = file_of(&place, O_RDWR | O_CREAT | O_EXCL);
    if (fstat(disk.file, &found) != 0 ||
        __real_pwrite(fd, disk.image, (size_t)found.st_size, 0) != found.st_size)
        abort();
    (void)close(fd);
    EXPECT_EQUAL(ru_base_open(place.own.path, MAP_BYTES, 0, &place.base), 0);
    return place;
}

/* A checkpoint: every page gets `number`, in it and beside it. */
static int save(struct ru_base *base, uint64_t number)
{
    uint8_t bytes[RU_PAGE_SIZE];
    uint8_t sha[RU_BASE_SHA_SIZE] = {0};
    struct ru_txn *txn;
    int rc = ru_txn_begin(base, 1, &txn);
    if (rc != 0)
        return rc;
    memset(bytes, (int)number, sizeof(bytes));
    rc = ru_txn_make_room(txn, PAGES);
    for (uint32_t page = 0; page < PAGES && rc == 0; page++)
        rc = ru_txn_put_page(txn, page, bytes, number, sha);
    if (rc == 0)
        return ru_txn_commit(txn);
    ru_txn_end(txn);
    return rc;
}

/* Now: the newest checkpoint that succeeded is there, or a later one, which is whole. */
static void expect_saved_after_cut(void)
{
    struct place after = disk_cut();
    struct ru_txn *txn;
    uint64_t all = 0;
    if (!after.base)
        return; /* an expectation has failed */
    EXPECT_EQUAL(ru_txn_begin(after.base, 0, &txn), 0);
    for (uint32_t page = 0; page < PAGES; page++) {
        struct ru_bytes bytes;
        uint64_t found = 0;
        int rc = ru_txn_page(txn, page, &bytes, &found, NULL);
        EXPECT(rc == 0 || (rc == -ENOENT && disk.saved == 0));
        if (page == 0)
            all = found;
        EXPECT_EQUAL(found, all);
    }
    EXPECT(all >= disk.saved);
    ru_txn_end(txn);
    place_remove(&after);
}

/* ---- tests ---- */

/* What goes on with the base after a failure. */
enum successor {
    THE_SAME,
    ANOTHER,
    ANOTHER_AFTER_A_KILL,
    SUCCESSORS,
};

/* Checkpoints with call number `call` failing. Returns how many calls there were. */
static uint64_t run(uint64_t call, uint64_t other, enum successor successor)
{
    struct place place = disk_open();
    uint64_t number = 0;
    disk.calls = 0;
    disk.fail_at = call;
    disk.fail_too = other;
    disk.saved = 0;
    disk.kills = successor == ANOTHER_AFTER_A_KILL;
    for (uint32_t commits = 0; commits < COMMITS;) {
        disk.watching = true;
        int rc = save(place.base, ++number);
        commits += rc == 0;
        disk.watching = false;
        EXPECT(rc == 0 || rc == -EIO || rc == MDB_PANIC);
        if (rc == 0) {
            disk.saved = number;
            expect_saved_after_cut();
        } else if (successor != THE_SAME || rc == MDB_PANIC) {
            place_reopen(&place);
            disk.killed = false;
        }
        if (number > 2 * COMMITS)
            abort();
    }
    uint64_t calls = disk.calls;
    (void)close(disk.file);
    place_remove(&place);
    return calls;
}

static void test_every_call(void)
{
    const uint64_t calls = run(0, 0, THE_SAME);
    EXPECT(calls >= 3 * COMMITS);
    for (uint64_t call = 1; call <= calls; call++)
        for (uint64_t more = 0; more < SECONDS; more++)
            for (enum successor successor = 0; successor < SUCCESSORS; successor++) {
                unsigned before = native.here;
                (void)run(call, call + more, successor);
                if (native.here != before)
                    (void)fprintf(stderr, "... with calls %llu and + %llu failing, successor %u\n",
                                  (unsigned long long)call, (unsigned long long)more,
                                  (unsigned)successor);
            }
}

/* No transaction uses blocks beyond those that it was given. */
static void test_room_is_enough(void)
{
    struct place place = place_new();
    struct ru_random random = {1};
    uint8_t bytes[RU_PAGE_SIZE] = {0};
    uint8_t sha[RU_BASE_SHA_SIZE] = {0};
    uint8_t leaves[42000] = {0};
    EXPECT_EQUAL(ru_base_open(place.own.path, 1ULL << 30, RU_BASE_CREATE, &place.base), 0);
    for (uint32_t turn = 1; turn <= 200; turn++) {
        const uint32_t pages = turn % 8 == 0 ? 512 : 16;
        struct ru_txn *txn;
        uint64_t used;
        uint64_t most;
        EXPECT_EQUAL(ru_txn_begin(place.base, 1, &txn), 0);
        EXPECT_EQUAL(ru_txn_make_room(txn, pages), 0);
        for (uint32_t i = 0; i < pages; i++) {
            uint32_t page = native_below(&random, RU_STORE_PAGES);
            EXPECT_EQUAL(ru_txn_put_page(txn, page, bytes, turn, sha), 0);
        }
        for (uint8_t key = 0; key < RU_DENOMINATIONS_COUNT; key++)
            EXPECT_EQUAL(ru_txn_put(txn, RU_TABLE_LEAVES, &key, 1, leaves, sizeof(leaves)), 0);
        EXPECT_EQUAL(ru_txn_commit(txn), 0);
        ru_base_sizes(place.base, &used, &most);
        EXPECT(used <= place.base->written);
    }
    place_remove(&place);
}

int main(void)
{
    RUN(test_every_call);
    RUN(test_room_is_enough);
    return native_finish();
}
