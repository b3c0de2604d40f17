/* basefile.c: the state of the files under a store.
 *
 * Why: LMDB maps its file and trusts it. A removed file goes on accepting changes, which are lost
 * with the process; reading a shortened file is a SIGBUS without a message; and when one process
 * opens a store twice, the first close drops the locks of both.
 * Owner: the process; a list of its open stores, which the signal handler reads without a lock.
 * Memory: one entry for each open store.
 */
#include "coins/basefile.h"

#include <errno.h>
#include <linux/limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "coins/base.h"

#define STOREFILE_NAME "/data.mdb"
#define STOREFILE_LOCK_NAME "/lock.mdb"
#define STOREFILE_LINE (PATH_MAX + 128) /* of /proc/self/maps */
#define STOREFILE_NEARLY_FULL (1 << 20)
#define STOREFILE_FAILED 1 /* exit status after which a service manager starts the node again */

struct storefile_map {
    uintptr_t at;
    uintptr_t end;
};

struct ru_basefile {
    struct ru_basefile *next;
    uint64_t size; /* largest size seen: LMDB never shortens its file */
    uint32_t cut;
    bool identified; /* device and inode are known */
    int descriptor;  /* LMDB's; -1: not open yet */
    dev_t device;
    ino_t inode;
    struct storefile_map maps[2]; /* of data.mdb and of lock.mdb */
    dev_t lock_device;            /* once its map is known */
    ino_t lock_inode;
    char path[]; /* of data.mdb */
};

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER; /* held to change the list */
static struct ru_basefile *files;

/* initial-exec: the first access must not allocate memory, since a signal handler may make it. */
static __thread const struct ru_basefile *in_use __attribute__((tls_model("initial-exec")));

static const int fault_signals[] = {SIGBUS, SIGSEGV};
static struct sigaction fault_before[sizeof(fault_signals) / sizeof(*fault_signals)];

/* ---- open stores ---- */

int ru_basefile_claim(const char *path, struct ru_basefile **file)
{
    size_t length = strlen(path);
    struct ru_basefile *made = calloc(1, sizeof(*made) + length + sizeof(STOREFILE_NAME));
    if (!made)
        return -ENOMEM;
    memcpy(made->path, path, length);
    memcpy(made->path + length, STOREFILE_NAME, sizeof(STOREFILE_NAME));
    made->descriptor = -1;
    struct stat found;
    if (stat(made->path, &found) == 0) {
        made->identified = true;
        made->device = found.st_dev;
        made->inode = found.st_ino;
    }
    pthread_mutex_lock(&files_lock);
    bool twice = false;
    for (const struct ru_basefile *one = files; one; one = one->next) {
        twice |= strcmp(one->path, made->path) == 0;
        twice |= one->identified && made->identified && one->device == made->device &&
                 one->inode == made->inode;
    }
    if (!twice) {
        made->next = files;
        __atomic_store_n(&files, made, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&files_lock);
    if (twice) {
        free(made);
        return RU_BASE_TWICE;
    }
    *file = made;
    return 0;
}

void ru_basefile_release(struct ru_basefile *file)
{
    if (!file)
        return;
    pthread_mutex_lock(&files_lock);
    struct ru_basefile **link = &files;
    while (*link && *link != file)
        link = &(*link)->next;
    if (*link)
        __atomic_store_n(link, file->next, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&files_lock);
    free(file);
}

/* ---- checks ---- */

static bool storefile_moved(const char *path, dev_t device, ino_t inode)
{
    struct stat found;
    if (stat(path, &found) != 0)
        return errno == ENOENT || errno == ENOTDIR; /* other errors say nothing about the file */
    return found.st_dev != device || found.st_ino != inode;
}

static void storefile_lock_path(const struct ru_basefile *file, char *path)
{
    (void)snprintf(path, PATH_MAX, "%.*s%s", (int)(strlen(file->path) - strlen(STOREFILE_NAME)),
                   file->path, STOREFILE_LOCK_NAME);
}

static bool storefile_lock_moved(const struct ru_basefile *file)
{
    char path[PATH_MAX];
    if (!file->maps[1].at)
        return false;
    storefile_lock_path(file, path);
    return storefile_moved(path, file->lock_device, file->lock_inode);
}

int ru_basefile_distrust(struct ru_basefile *file)
{
    __atomic_store_n(&file->cut, 1, __ATOMIC_RELAXED);
    return RU_BASE_CUT;
}

int ru_basefile_check(struct ru_basefile *file, bool names)
{
    struct stat found;
    if (__atomic_load_n(&file->cut, __ATOMIC_RELAXED))
        return RU_BASE_CUT;
    if (file->descriptor < 0 || fstat(file->descriptor, &found) != 0)
        return 0;
    uint64_t size = (uint64_t)found.st_size;
    uint64_t known = __atomic_load_n(&file->size, __ATOMIC_RELAXED);
    if (size < known)
        return ru_basefile_distrust(file);
    /* A concurrent thread may store an older size last; the next check corrects that. */
    if (size > known)
        __atomic_store_n(&file->size, size, __ATOMIC_RELAXED);
    if (!names)
        return 0;
    if (found.st_nlink == 0 || storefile_moved(file->path, file->device, file->inode))
        return RU_BASE_GONE;
    return storefile_lock_moved(file) ? RU_BASE_LONE : 0;
}

int ru_basefile_explain(const struct ru_basefile *file, int error)
{
    struct statvfs disk;
    if (error != EIO || file->descriptor < 0 || fstatvfs(file->descriptor, &disk) != 0)
        return error;
    return (uint64_t)disk.f_bavail * disk.f_frsize < STOREFILE_NEARLY_FULL ? ENOSPC : error;
}

/* ---- mappings ---- */

/* Parse a line of /proc/self/maps. */
static bool storefile_parse(const char *line, struct storefile_map *map, uint64_t *inode)
{
    char *at;
    map->at = strtoul(line, &at, 16);
    if (*at != '-')
        return false;
    map->end = strtoul(at + 1, &at, 16);
    for (uint32_t i = 0; i < 3; i++) { /* permissions, offset, device */
        at += strspn(at, " ");
        at += strcspn(at, " ");
    }
    *inode = strtoull(at, NULL, 10);
    return true;
}

/* LMDB does not report the address of its mapping, so look it up in /proc; without /proc it stays
 * unknown. */
static void storefile_find_maps(struct ru_basefile *file)
{
    static const char *const names[] = {STOREFILE_NAME, STOREFILE_LOCK_NAME};
    char line[STOREFILE_LINE];
    char lock[PATH_MAX];
    ino_t inodes[] = {file->inode, 0};
    struct stat found;
    storefile_lock_path(file, lock);
    if (stat(lock, &found) == 0) {
        inodes[1] = found.st_ino;
        file->lock_device = found.st_dev;
        file->lock_inode = found.st_ino;
    }
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return;
    while (fgets(line, sizeof(line), maps)) {
        struct storefile_map map;
        uint64_t inode;
        bool known = storefile_parse(line, &map, &inode);
        for (uint32_t i = 0; i < 2 && known; i++)
            if (inode == inodes[i] && strstr(line, names[i]))
                file->maps[i] = map;
        while (!strchr(line, '\n') && fgets(line, sizeof(line), maps))
            continue; /* skip the rest of a long line */
    }
    (void)fclose(maps);
}

/* ---- faults ---- */

/* Write a line to standard error: async-signal-safe, and dropped rather than wait for a reader. */
static void fault_say(const char *const *words)
{
    struct pollfd error = {.fd = STDERR_FILENO, .events = POLLOUT};
    char line[PATH_MAX + 512];
    size_t used = 0;
    for (; *words; words++)
        for (const char *at = *words; *at && used < sizeof(line) - 1; at++)
            line[used++] = *at;
    line[used++] = '\n';
    if (poll(&error, 1, 0) == 1 && error.revents & POLLOUT)
        (void)!write(STDERR_FILENO, line, used);
}

static const struct ru_basefile *fault_in(uintptr_t at, uint32_t map)
{
    for (const struct ru_basefile *one = __atomic_load_n(&files, __ATOMIC_ACQUIRE); one;
         one = one->next)
        if (at >= one->maps[map].at && at < one->maps[map].end)
            return one;
    return NULL;
}

static void fault_caught(int number, siginfo_t *info, void *context)
{
    (void)context;
    bool sent = info->si_code <= 0; /* sent by kill(), not a fault */
    const struct ru_basefile *data = sent ? NULL : fault_in((uintptr_t)info->si_addr, 0);
    const struct ru_basefile *lock = sent ? NULL : fault_in((uintptr_t)info->si_addr, 1);
    const struct ru_basefile *file = data ? data : lock;
    if (file && number == SIGBUS) {
        fault_say((const char *[]){"raida-uring: the store ", file->path,
                                   data ? ": a part of it cannot be read (SIGBUS): it was cut off, "
                                          "or its disk fails; restore it from a backup"
                                        : ": lock.mdb beside it was cut off (SIGBUS), no coin is "
                                          "in there: start again, which makes it new",
                                   NULL});
        _exit(STOREFILE_FAILED);
    }
    if (!file && !sent)
        file = in_use;
    if (file)
        fault_say((const char *[]){"raida-uring: the store ", file->path,
                                   ": reading it ended the process (",
                                   number == SIGBUS ? "SIGBUS" : "SIGSEGV",
                                   "): it may be damaged: run `raida-uring store verify`", NULL});
    /* Restore the previous handler; it runs when the faulting instruction is tried again. */
    (void)sigaction(number, &fault_before[number == fault_signals[1]], NULL);
    if (sent)
        (void)raise(number);
}

static void fault_prepare(void)
{
    struct sigaction action = {.sa_sigaction = fault_caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(fault_signals) / sizeof(*fault_signals); i++)
        (void)sigaction(fault_signals[i], &action, &fault_before[i]);
}

void ru_basefile_watch(struct ru_basefile *file, int descriptor)
{
    static pthread_once_t prepared = PTHREAD_ONCE_INIT;
    struct stat found;
    if (fstat(descriptor, &found) != 0)
        return;
    if (!file->identified) {
        file->device = found.st_dev;
        file->inode = found.st_ino;
        file->identified = true;
    }
    file->size = (uint64_t)found.st_size;
    file->descriptor = descriptor;
    storefile_find_maps(file);
    const struct storefile_map *data = &file->maps[0];
    if (data->at) /* core files must not contain ANs */
        (void)madvise((void *)data->at, data->end - data->at, MADV_DONTDUMP);
    (void)pthread_once(&prepared, fault_prepare);
}

void ru_basefile_enter(const struct ru_basefile *file)
{
    in_use = file;
}

void ru_basefile_damaged(const struct ru_basefile *file, const char *what)
{
    fault_say((const char *[]){"raida-uring: the store ", file ? file->path : "", ": is damaged (",
                               what, "): restore it from a backup", NULL});
    _exit(STOREFILE_FAILED);
}
