/* test_base.c: checkpoints into a base whose every write and flush fails, one after the other.
 *
 * What must hold: a commit that succeeded is found by every later start, whole; of one that failed,
 * all pages or none are found; the next commit succeeds, but for one case: where the write that
 * completes a commit has failed, LMDB refuses everything until the base is opened again.
 */
#include <fcntl.h>
#include <sys/uio.h>

#include "coins/base.h"
#include "native.h"

#define PAGES 16U
#define MAP_BYTES (64ULL << 20)
#define COMMITS 3U

static struct {
    bool watching;
    uint64_t calls;
    uint64_t fail_at; /* 0: never */
    int fail_errno;   /* 0: a write ends early */
} disk;

ssize_t __real_pwrite(int fd, const void *bytes, size_t size, off_t at);
ssize_t __real_pwritev(int fd, const struct iovec *parts, int count, off_t at);
ssize_t __real_writev(int fd, const struct iovec *parts, int count);
int __real_fdatasync(int fd);

static bool disk_fails(void)
{
    if (!disk.watching || ++disk.calls != disk.fail_at)
        return false;
    errno = disk.fail_errno;
    return true;
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    bool fails = disk_fails();
    if (fails && disk.fail_errno)
        return -1;
    return __real_pwrite(fd, bytes, fails ? size / 2 : size, at);
}

ssize_t __wrap_pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    bool fails = disk_fails();
    if (fails && disk.fail_errno)
        return -1;
    return __real_pwritev(fd, parts, fails ? (count + 1) / 2 : count, at);
}

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count)
{
    bool fails = disk_fails();
    if (fails && disk.fail_errno)
        return -1;
    return __real_writev(fd, parts, fails ? (count + 1) / 2 : count);
}

int __wrap_fdatasync(int fd)
{
    return disk_fails() && disk.fail_errno ? -1 : __real_fdatasync(fd);
}

/* ---- a base ---- */

struct place {
    struct native_directory own;
    struct ru_base *base;
};

static struct place place_new(void)
{
    struct place place = {.own = native_directory_new()};
    EXPECT_EQUAL(ru_base_open(place.own.path, MAP_BYTES, RU_BASE_CREATE, &place.base), 0);
    return place;
}

static void place_remove(struct place *place)
{
    static const char *const names[] = {"data.mdb", "lock.mdb"};
    ru_base_close(place->base);
    for (uint32_t i = 0; i < 2; i++)
        (void)unlinkat(place->own.fd, names[i], 0);
    native_directory_remove(&place->own);
}

/* A checkpoint: every page gets `number`, in it and beside it. */
static int save(struct ru_base *base, uint64_t number)
{
    uint8_t bytes[RU_PAGE_SIZE];
    uint8_t sha[RU_BASE_SHA_SIZE];
    struct ru_txn *txn;
    int rc = ru_txn_begin(base, 1, &txn);
    if (rc != 0)
        return rc;
    memset(bytes, (int)number, sizeof(bytes));
    memset(sha, (int)number, sizeof(sha));
    for (uint32_t page = 0; page < PAGES && rc == 0; page++)
        rc = ru_txn_put_page(txn, page, bytes, number, sha);
    if (rc == 0)
        return ru_txn_commit(txn);
    ru_txn_end(txn);
    return rc;
}

/* The number of all pages; each is what was saved with it. */
static uint64_t saved(struct ru_base *base)
{
    struct ru_txn *txn;
    uint64_t all = 0;
    int begun = ru_txn_begin(base, 0, &txn);
    EXPECT_EQUAL(begun, 0);
    if (begun != 0)
        return 0;
    for (uint32_t page = 0; page < PAGES; page++) {
        struct ru_bytes bytes;
        uint64_t number = 0;
        int rc = ru_txn_page(txn, page, &bytes, &number, NULL);
        EXPECT(rc == 0 || (rc == -ENOENT && number == 0));
        if (page == 0)
            all = number;
        EXPECT_EQUAL(number, all);
        if (rc == 0)
            EXPECT(bytes.size == RU_PAGE_SIZE && bytes.at[page] == (uint8_t)number);
    }
    ru_txn_end(txn);
    return all;
}

static void reopen_refused(struct place *place)
{
    struct ru_txn *txn;
    int rc = ru_txn_begin(place->base, 0, &txn);
    ru_txn_end(txn);
    EXPECT(rc == 0 || rc == MDB_PANIC);
    if (rc == 0)
        return;
    ru_base_close(place->base);
    EXPECT_EQUAL(ru_base_open(place->own.path, MAP_BYTES, 0, &place->base), 0);
}

/* ---- tests ---- */

static uint64_t run(uint64_t call, int error)
{
    struct place place = place_new();
    uint64_t acknowledged = 0;
    uint64_t newest = 0;
    disk.calls = 0;
    disk.fail_at = call;
    disk.fail_errno = error;
    for (uint64_t number = 1; number <= COMMITS; number++) {
        disk.watching = true;
        int rc = save(place.base, number);
        disk.watching = false;
        if (rc == 0)
            acknowledged = number;
        else
            reopen_refused(&place);
        newest = saved(place.base);
        EXPECT(newest == acknowledged || (rc != 0 && newest == number));
    }
    uint64_t calls = disk.calls;
    ru_base_close(place.base);
    EXPECT_EQUAL(ru_base_open(place.own.path, MAP_BYTES, 0, &place.base), 0);
    newest = saved(place.base);
    EXPECT(newest >= acknowledged && newest <= COMMITS);
    EXPECT_EQUAL(save(place.base, COMMITS + 1), 0);
    EXPECT_EQUAL(saved(place.base), COMMITS + 1);
    place_remove(&place);
    return calls;
}

static void test_every_call(void)
{
    static const int errors[] = {EIO, ENOSPC, EINTR, 0};
    const uint64_t calls = run(0, 0);
    EXPECT(calls >= 3 * COMMITS); /* pages, their flush, the first page */
    for (uint64_t call = 1; call <= calls; call++)
        for (uint32_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
            unsigned before = native.here;
            (void)run(call, errors[i]);
            if (native.here != before)
                (void)fprintf(stderr, "... with call %llu of %llu failing: %s\n",
                              (unsigned long long)call, (unsigned long long)calls,
                              errors[i] ? strerror(errors[i]) : "short");
        }
}

int main(void)
{
    RUN(test_every_call);
    return native_finish();
}
