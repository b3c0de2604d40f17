/* baseroom.c: blocks for the base to grow into, written and flushed before LMDB uses them.
 *
 * Why: when the first write to a new block of a file fails, ext4 may forget that the block is in use:
 * later writes and flushes of it succeed, and after a power cut it reads as zeros. LMDB would write
 * the next checkpoint to the same blocks, and the journal before it would be let go of. A failed write
 * to a block that was on the disk before has no such end (docs/adr/0020). So new blocks are written
 * here, as zeros, and those whose flush fails are given back to the file system.
 * Owner: whoever has the writing transaction.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check.h"
#include "coins/base.h"
#include "limits.h"
#include "number.h"

#define ROOM_OF_PAGE 6U       /* of LMDB's pages for one of ours: five, and tree above them */
#define ROOM_OTHER 512U       /* for leaves and lists of free pages */
#define ROOM_LISTED 256U      /* as many of its pages may need one more in a list of free ones */
#define ROOM_AHEAD (1U << 20) /* bytes more than needed, so that not every transaction waits */
#define ROOM_FRONT 2U         /* of LMDB's pages that it writes in turns, to complete a commit */
#define ROOM_ZEROS (1U << 20) /* written at once */

/* Give blocks back without changing the file's length, which readers check. Without this function of
 * the file system the blocks stay. */
static void room_return(int file, uint64_t from, uint64_t to)
{
    if (to > from)
        (void)fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                        (off_t)(to - from));
}

static int room_write(int file, uint64_t from, uint64_t to)
{
    uint8_t *zeros = calloc(1, ROOM_ZEROS);
    int rc = zeros ? 0 : -ENOMEM;
    while (rc == 0 && from < to) {
        ssize_t size = TEMP_FAILURE_RETRY(
            pwrite(file, zeros, ru_number_min64(to - from, ROOM_ZEROS), (off_t)from));
        if (size <= 0)
            rc = size < 0 ? -errno : -ENOSPC;
        else
            from += (uint64_t)size;
    }
    free(zeros);
    if (rc == 0 && TEMP_FAILURE_RETRY(fdatasync(file)) != 0)
        rc = -errno;
    return rc;
}

/* The journal's next segment comes first: it may need the space at any moment. */
static bool room_is_scarce(int file, uint64_t bytes)
{
    struct statvfs disk;
    return fstatvfs(file, &disk) == 0 &&
           (uint64_t)disk.f_bavail * disk.f_frsize < bytes + RU_SEGMENT_SIZE;
}

/* Whether there was no room: LMDB may find enough among its free pages. */
static bool room_is_none(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG;
}

/* Write the pages again that say where everything else is, so that the flush cannot find them clean. */
static int room_rewrite(int file, uint64_t bytes)
{
    uint8_t *front = malloc(bytes);
    int rc = front ? 0 : -ENOMEM;
    if (rc == 0 && TEMP_FAILURE_RETRY(pread(file, front, bytes, 0)) != (ssize_t)bytes)
        rc = -EIO;
    if (rc == 0 && TEMP_FAILURE_RETRY(pwrite(file, front, bytes, 0)) != (ssize_t)bytes)
        rc = -EIO;
    free(front);
    if (rc == 0 && TEMP_FAILURE_RETRY(fdatasync(file)) != 0)
        rc = -errno;
    return rc;
}

/* The first time in a process, whose predecessor may have failed to write anything. Where LMDB could
 * not write one of its first pages, this machine's memory has the one before it, but the disk may
 * have the one that failed, and that refers to pages that are free here. And blocks behind the end
 * may be such as are lost. */
static int room_settle(int file, uint64_t page_bytes, uint64_t used, uint64_t size)
{
    int rc = room_rewrite(file, ROOM_FRONT * page_bytes);
    if (rc == 0)
        room_return(file, used, size);
    return rc;
}

int ru_baseroom_make(struct ru_base *base, uint32_t pages)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_filehandle_t file;
    struct stat found;
    (void)mdb_env_info(base->env, &info);
    (void)mdb_env_stat(base->env, &stat);
    if (mdb_env_get_fd(base->env, &file) != 0 || fstat(file, &found) != 0)
        return -errno;
    const uint64_t used = (info.me_last_pgno + 1) * stat.ms_psize;
    const uint64_t count =
        (uint64_t)pages * ROOM_OF_PAGE + ROOM_OTHER + info.me_last_pgno / ROOM_LISTED;
    const uint64_t end = ru_number_min64(used + count * stat.ms_psize, info.me_mapsize);
    int rc =
        base->written == 0 ? room_settle(file, stat.ms_psize, used, (uint64_t)found.st_size) : 0;
    if (rc != 0)
        return rc;
    if (base->written < used)
        base->written = used;
    if (end <= base->written)
        return 0;
    const uint64_t ahead = ru_number_min64(end + ROOM_AHEAD, info.me_mapsize);
    if (room_is_scarce(file, ahead - base->written))
        return 0;
    RU_CHECK(base->written >= used);
    rc = room_write(file, base->written, ahead);
    if (rc == 0)
        base->written = ahead;
    else
        room_return(file, base->written, ahead);
    return room_is_none(rc) ? 0 : rc;
}
