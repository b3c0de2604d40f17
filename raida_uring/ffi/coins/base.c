/* base.c: opening and closing the base: its LMDB environment and lock.mdb.
 *
 * Why more than mdb_env_open(): LMDB distinguishes processes by their process ids, which are not
 * unique across PID namespaces, trusts the length of its file, and hides why a write failed.
 * Thread: any; LMDB synchronises access to the environment.
 */
#include "coins/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coins/basefile.h"
#include "coins/baselock.h"
#include "coins/survey.h"

#define BASE_READERS 256
#define BASE_MODE 0600
#define BASE_BLOCK 4096       /* smallest allocation unit of a file system */
#define BASE_NUMBERS_TRIED 64 /* process ids tried to find one unused in other PID namespaces */
#define BASE_CHILD_STACK 65536

/* ---- the environment ---- */

/* LMDB returns EIO for a short write, which hides its cause: a full disk, a quota, a limit of the
 * process. The operator needs the cause, so find it by another attempt. */
int ru_base_commit(MDB_env *env, MDB_txn *txn)
{
    mdb_filehandle_t data;
    struct stat found;
    struct rlimit limit;
    int rc = mdb_txn_commit(txn); /* frees txn even on failure */
    if (rc != EIO || mdb_env_get_fd(env, &data) != 0 || fstat(data, &found) != 0)
        return rc;
    off_t end = (found.st_size + BASE_BLOCK - 1) / BASE_BLOCK * BASE_BLOCK;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && (rlim_t)end + BASE_BLOCK > limit.rlim_cur)
        return EFBIG;
    if (fallocate(data, FALLOC_FL_KEEP_SIZE, end, BASE_BLOCK) == 0)
        return rc; /* the next commit can use this block */
    return errno == ENOSPC || errno == EDQUOT ? errno : rc;
}

static int base_open_tables(struct ru_base *base, bool create)
{
    static const char *const names[RU_TABLES] = {"meta", "pages", "remains", "leaves"};
    MDB_txn *txn;
    int rc = mdb_txn_begin(base->env, NULL, create ? 0 : MDB_RDONLY, &txn);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < RU_TABLES && rc == 0; i++)
        rc = mdb_dbi_open(txn, names[i], create ? MDB_CREATE : 0, &base->tables[i]);
    if (rc == 0)
        return ru_base_commit(base->env, txn);
    mdb_txn_abort(txn);
    return rc;
}

/* Call `work` under another process id. As in posix_spawn(), a child runs in our memory and with
 * our descriptors while this thread waits; only its process id is needed. */
static int base_call_as_other(int (*work)(void *), void *argument)
{
    sigset_t all;
    sigset_t before;
    uint8_t *stack = mmap(NULL, BASE_CHILD_STACK, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return errno;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    /* No exit signal: no other code must wait for this child. */
    pid_t child =
        clone(work, stack + BASE_CHILD_STACK, CLONE_VM | CLONE_FILES | CLONE_VFORK, argument);
    int rc = child < 0 ? errno : 0;
    while (child > 0 && waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)munmap(stack, BASE_CHILD_STACK);
    return rc;
}

struct base_creation {
    MDB_env *env;
    pid_t number;
    int rc;
};

/* LMDB reads the process id here, and again when it closes the environment. */
static int base_create_env(void *argument)
{
    struct base_creation *creation = argument;
    creation->number = getpid();
    creation->rc = mdb_env_create(&creation->env);
    return 0;
}

/* Close the environment if no other process has our current process id. */
static int base_close_unshared(void *argument)
{
    struct ru_base *base = argument;
    if (ru_baselock_taken(base->lock, getpid()))
        return 0;
    mdb_env_close(base->env);
    base->env = NULL;
    return 0;
}

/* LMDB frees every reader slot with the id of the closing process, also those of a process with
 * the same id in another PID namespace. So close under an unused id, or leave it open. */
static void base_close_env(struct ru_base *base)
{
    for (uint32_t i = 0; i < BASE_NUMBERS_TRIED && base->lock >= 0 && base->env; i++)
        (void)base_call_as_other(base_close_unshared, base);
    if (base->lock >= 0)
        close(base->lock);
    else if (base->env)
        mdb_env_close(base->env);
    base->lock = -1;
    base->env = NULL;
}

/* Open lock.mdb for base_close_env(). Closing this descriptor drops LMDB's locks, so it must stay
 * open as long as the environment. */
static int base_keep_lock(struct ru_base *base, const char *path)
{
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno;
    base->lock = openat(directory, "lock.mdb", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int rc = base->lock < 0 ? errno : 0;
    close(directory);
    return rc;
}

/* LMDB distinguishes the processes that have a store open by their process ids, with a lock each. A
 * process of another PID namespace, such as a second container's, may have our id. */
static int base_make_env(struct ru_base *base, const char *path, unsigned int *flags)
{
    bool taken;
    struct base_creation creation = {.number = getpid()};
    int rc = ru_baselock_reserve(path, creation.number, flags, &taken);
    if (rc == 0)
        rc = mdb_env_create(&creation.env);
    for (uint32_t tries = 0; rc == 0 && taken && tries < BASE_NUMBERS_TRIED; tries++) {
        mdb_env_close(creation.env);
        creation.env = NULL;
        rc = base_call_as_other(base_create_env, &creation);
        if (rc == 0)
            rc = creation.rc;
        if (rc == 0)
            rc = ru_baselock_reserve(path, creation.number, flags, &taken);
    }
    base->env = creation.env;
    base->number = creation.number;
    if (rc == 0 && creation.number != getpid())
        rc = base_keep_lock(base, path);
    return rc;
}

/* Detect a shortened file before reading it causes a SIGBUS. The last pages may also be missing
 * because LMDB allocated and freed them in one transaction: only reading all the others tells. */
static int base_check_length(MDB_env *env, const char *path)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat file;
    mdb_filehandle_t descriptor;
    int rc = mdb_env_info(env, &info);
    if (rc == 0)
        rc = mdb_env_stat(env, &stat);
    if (rc == 0)
        rc = mdb_env_get_fd(env, &descriptor);
    if (rc != 0)
        return rc;
    if (fstat(descriptor, &file) != 0)
        return errno;
    if ((uint64_t)file.st_size / stat.ms_psize > info.me_last_pgno)
        return 0;
    rc = ru_survey_store(path);
    return rc < 0 && rc > MDB_LAST_ERRCODE ? -rc : rc; /* positive errno, as LMDB returns it */
}

static void base_assert(MDB_env *env, const char *what)
{
    ru_basefile_damaged(mdb_env_get_userctx(env), what);
}

struct base_readers {
    pid_t number;
    bool found;
};

/* For each line of LMDB's list of readers: a header, or one that begins with a process id. */
static int base_read_reader(const char *line, void *argument)
{
    struct base_readers *readers = argument;
    readers->found |= strtol(line, NULL, 10) == readers->number;
    return 0;
}

/* True if a killed process with our process id has left a reader in the table. LMDB would take that
 * reader for ours and pin its pages until this process ends. Call before opening a view. */
static bool base_inherits_readers(const struct ru_base *base)
{
    struct base_readers readers = {.number = base->number};
    (void)mdb_reader_list(base->env, base_read_reader, &readers);
    return readers.found;
}

static int base_open_env(struct ru_base *base, const char *path, uint32_t flags)
{
    unsigned int env_flags = MDB_NOTLS; /* reader slots belong to views, not to threads */
    env_flags |= flags & RU_BASE_READ_ONLY ? MDB_RDONLY : 0;
    mdb_filehandle_t descriptor = -1;
    int rc = base_make_env(base, path, &env_flags);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(base->env, RU_TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(base->env, BASE_READERS);
    if (rc == 0)
        rc = mdb_env_set_mapsize(base->env, base->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_userctx(base->env, base->file);
    if (rc == 0)
        rc = mdb_env_set_assert(base->env, base_assert);
    if (rc == 0)
        rc = mdb_env_open(base->env, path, env_flags, BASE_MODE);
    bool inherits = rc == 0 && base_inherits_readers(base);
    if (rc == 0)
        rc = mdb_env_get_fd(base->env, &descriptor);
    if (rc == 0)
        ru_basefile_watch(base->file, descriptor);
    if (rc == 0 && !(flags & RU_BASE_CREATE))
        rc = base_check_length(base->env, path);
    if (rc == 0)
        rc = base_open_tables(base, flags & RU_BASE_CREATE);
    /* Closing after a read frees the inherited readers, or the next try uses another id. */
    if (rc == 0 && inherits && !(flags & RU_BASE_CREATE))
        rc = EAGAIN;
    if (rc != 0)
        base_close_env(base);
    return rc;
}

int ru_base_open(const char *path, uint64_t map_bytes, uint32_t flags, struct ru_base **base)
{
    *base = NULL;
    struct ru_base *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->map_bytes = map_bytes;
    made->lock = -1;
    int rc = ru_basefile_claim(path, &made->file);
    if (rc == 0) {
        rc = base_open_env(made, path, flags);
        /* EAGAIN: a process of another PID namespace has, or had, our process id. */
        for (uint32_t tries = 0; rc == EAGAIN && tries < BASE_NUMBERS_TRIED; tries++)
            rc = base_open_env(made, path, flags);
    }
    if (rc == 0) {
        int dead;
        (void)mdb_reader_check(made->env, &dead); /* free the slots of killed processes */
        *base = made;
        return 0;
    }
    ru_base_close(made);
    return ru_base_result(rc);
}

void ru_base_close(struct ru_base *base)
{
    if (!base)
        return;
    base_close_env(base);
    ru_basefile_release(base->file);
    free(base);
}

int ru_base_check(struct ru_base *base)
{
    return ru_basefile_check(base->file, true);
}

void ru_base_sizes(struct ru_base *base, uint64_t *used_bytes, uint64_t *map_bytes)
{
    MDB_envinfo info;
    MDB_stat stat;
    (void)mdb_env_info(base->env, &info);
    (void)mdb_env_stat(base->env, &stat);
    *used_bytes = (info.me_last_pgno + 1) * stat.ms_psize;
    *map_bytes = info.me_mapsize;
}
