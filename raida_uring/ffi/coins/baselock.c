/* baselock.c: lock.mdb, LMDB's file beside the data, as it must be before LMDB opens it. */
#include "coins/baselock.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_BYTES 20480 /* with all readers that a store may have, rounded up */
#define LOCK_MODE 0600

/* Open lock.mdb, creating it if needed with the owner and mode of data.mdb: otherwise a first use
 * by root would lock the store's owner out. No link is followed: the store's owner could have made
 * one that lets root write elsewhere. */
static int lock_open(int directory)
{
    struct stat data;
    int lock = openat(directory, "lock.mdb", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, LOCK_MODE);
    if (lock < 0)
        return errno == EEXIST ? openat(directory, "lock.mdb", O_RDWR | O_NOFOLLOW | O_CLOEXEC)
                               : -1;
    if (fstatat(directory, "data.mdb", &data, 0) == 0) {
        (void)!fchown(lock, data.st_uid, data.st_gid); /* fails unless root, which alone needs it */
        (void)fchmod(lock, data.st_mode & 0666);
    }
    return lock;
}

/* True if no process has the store open: each one that has it open holds a lock on lock.mdb.
 * Querying a lock needs no write permission. */
static bool lock_is_unused(int directory)
{
    int lock = openat(directory, "lock.mdb", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (lock < 0)
        return errno == ENOENT;
    struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool unused = fcntl(lock, F_GETLK, &held) == 0 && held.l_type == F_UNLCK;
    close(lock);
    return unused;
}

bool ru_baselock_taken(int lock, pid_t number)
{
    struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = number, .l_len = 1};
    return fcntl(lock, F_GETLK, &held) == 0 && held.l_type != F_UNLCK;
}

int ru_baselock_reserve(const char *path, pid_t number, unsigned int *flags, bool *number_taken)
{
    *number_taken = false;
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno;
    int lock = lock_open(directory);
    int rc = 0;
    if (lock < 0) { /* mdb_env_open() reports the error if it needs the file */
        bool denied = errno == EACCES || errno == EPERM;
        rc = errno == ELOOP ? ELOOP : 0;
        if (denied && *flags & MDB_RDONLY && lock_is_unused(directory))
            *flags |= MDB_NOLOCK;
    } else {
        rc = fallocate(lock, 0, 0, LOCK_BYTES) == 0 ? 0 : errno;
        *number_taken = ru_baselock_taken(lock, number);
        close(lock); /* drops all locks of this process on the file: it has none yet */
    }
    close(directory);
    return rc == ENOSPC || rc == EDQUOT || rc == ELOOP ? rc : 0;
}
