/* store.c: opening and closing a store: its LMDB environment and lock.mdb.
 *
 * Why more than mdb_env_open(): LMDB distinguishes processes by their process ids, which are not
 * unique across PID namespaces, trusts the length of its file, and hides why a write failed.
 * Thread: any; LMDB synchronises access to the environment.
 */
#include "coins/store.h"

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

#include "coins/storefile.h"
#include "coins/storelock.h"
#include "coins/survey.h"

#define STORE_READERS 256
#define STORE_MODE 0600
#define STORE_BLOCK 4096       /* smallest allocation unit of a file system */
#define STORE_NUMBERS_TRIED 64 /* process ids tried to find one unused in other PID namespaces */
#define STORE_CHILD_STACK 65536

const char *ru_store_error(int result)
{
    switch (result) {
    case RU_STORE_CUT:
        return "data.mdb was cut off or written over while it was in use: restore it, and start "
               "again";
    case RU_STORE_GONE:
        return "data.mdb was removed or replaced while it was in use: put it back, or start again";
    case RU_STORE_LONE:
        return "lock.mdb was removed or replaced while it was in use: start again, or others read "
               "what is being written over";
    case RU_STORE_TWICE:
        return "this process has it open already";
    case -ELOOP:
        return "lock.mdb is a symbolic link, which is not followed: remove it";
    case MDB_MAP_FULL:
        return "the store is full: raise [store] size_mib";
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
        return "the store is damaged";
    case MDB_INVALID:
        return "data.mdb is damaged, or no LMDB file";
    case MDB_NOTFOUND:
        return "data.mdb lacks a store's tables: its making was cut short, or it is another's";
    case MDB_VERSION_MISMATCH:
        return "data.mdb is of another version of LMDB";
    case MDB_MAP_RESIZED:
        return "the store has grown beyond what this process allows it";
    default:
        break;
    }
    bool own = result >= MDB_KEYEXIST && result <= MDB_LAST_ERRCODE;
    return mdb_strerror(own ? result : -result);
}

/* ---- the environment ---- */

/* LMDB returns EIO for a short write, which hides its cause: a full disk, a quota, a limit of the
 * process. The operator needs the cause, so find it by another attempt. */
int ru_store_commit(MDB_env *env, MDB_txn *txn)
{
    mdb_filehandle_t data;
    struct stat found;
    struct rlimit limit;
    int rc = mdb_txn_commit(txn); /* frees txn even on failure */
    if (rc != EIO || mdb_env_get_fd(env, &data) != 0 || fstat(data, &found) != 0)
        return rc;
    off_t end = (found.st_size + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && (rlim_t)end + STORE_BLOCK > limit.rlim_cur)
        return EFBIG;
    if (fallocate(data, FALLOC_FL_KEEP_SIZE, end, STORE_BLOCK) == 0)
        return rc; /* the next commit can use this block */
    return errno == ENOSPC || errno == EDQUOT ? errno : rc;
}

static int store_open_tables(struct ru_store *store, bool create)
{
    static const char *const names[RU_TABLES] = {"meta",   "pages",   "remains",
                                                 "leaves", "changed", "tickets"};
    MDB_txn *txn;
    int rc = mdb_txn_begin(store->env, NULL, create ? 0 : MDB_RDONLY, &txn);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < RU_TABLES && rc == 0; i++)
        rc = mdb_dbi_open(txn, names[i], create ? MDB_CREATE : 0, &store->tables[i]);
    if (rc == 0)
        return ru_store_commit(store->env, txn);
    mdb_txn_abort(txn);
    return rc;
}

/* Call `work` under another process id. As in posix_spawn(), a child runs in our memory and with
 * our descriptors while this thread waits; only its process id is needed. */
static int store_call_as_other(int (*work)(void *), void *argument)
{
    sigset_t all;
    sigset_t before;
    uint8_t *stack = mmap(NULL, STORE_CHILD_STACK, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return errno;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    /* No exit signal: no other code must wait for this child. */
    pid_t child =
        clone(work, stack + STORE_CHILD_STACK, CLONE_VM | CLONE_FILES | CLONE_VFORK, argument);
    int rc = child < 0 ? errno : 0;
    while (child > 0 && waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)munmap(stack, STORE_CHILD_STACK);
    return rc;
}

struct store_creation {
    MDB_env *env;
    pid_t number;
    int rc;
};

/* LMDB reads the process id here, and again when it closes the environment. */
static int store_create_env(void *argument)
{
    struct store_creation *creation = argument;
    creation->number = getpid();
    creation->rc = mdb_env_create(&creation->env);
    return 0;
}

/* Close the environment if no other process has our current process id. */
static int store_close_unshared(void *argument)
{
    struct ru_store *store = argument;
    if (ru_storelock_taken(store->lock, getpid()))
        return 0;
    mdb_env_close(store->env);
    store->env = NULL;
    return 0;
}

/* LMDB frees every reader slot with the id of the closing process, also those of a process with
 * the same id in another PID namespace. So close under an unused id, or leave it open. */
static void store_close_env(struct ru_store *store)
{
    for (uint32_t i = 0; i < STORE_NUMBERS_TRIED && store->lock >= 0 && store->env; i++)
        (void)store_call_as_other(store_close_unshared, store);
    if (store->lock >= 0)
        close(store->lock);
    else if (store->env)
        mdb_env_close(store->env);
    store->lock = -1;
    store->env = NULL;
}

/* Open lock.mdb for store_close_env(). Closing this descriptor drops LMDB's locks, so it must stay
 * open as long as the environment. */
static int store_keep_lock(struct ru_store *store, const char *path)
{
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno;
    store->lock = openat(directory, "lock.mdb", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int rc = store->lock < 0 ? errno : 0;
    close(directory);
    return rc;
}

/* LMDB distinguishes the processes that have a store open by their process ids, with a lock each. A
 * process of another PID namespace, such as a second container's, may have our id. */
static int store_make_env(struct ru_store *store, const char *path, unsigned int *flags)
{
    bool taken;
    struct store_creation creation = {.number = getpid()};
    int rc = ru_storelock_reserve(path, creation.number, flags, &taken);
    if (rc == 0)
        rc = mdb_env_create(&creation.env);
    for (uint32_t tries = 0; rc == 0 && taken && tries < STORE_NUMBERS_TRIED; tries++) {
        mdb_env_close(creation.env);
        creation.env = NULL;
        rc = store_call_as_other(store_create_env, &creation);
        if (rc == 0)
            rc = creation.rc;
        if (rc == 0)
            rc = ru_storelock_reserve(path, creation.number, flags, &taken);
    }
    store->env = creation.env;
    store->number = creation.number;
    if (rc == 0 && creation.number != getpid())
        rc = store_keep_lock(store, path);
    return rc;
}

/* Detect a shortened file before reading it causes a SIGBUS. The last pages may also be missing
 * because LMDB allocated and freed them in one transaction: only reading all the others tells. */
static int store_check_length(MDB_env *env, const char *path)
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

static void store_assert(MDB_env *env, const char *what)
{
    ru_storefile_damaged(mdb_env_get_userctx(env), what);
}

struct store_readers {
    pid_t number;
    bool found;
};

/* For each line of LMDB's list of readers: a header, or one that begins with a process id. */
static int store_read_reader(const char *line, void *argument)
{
    struct store_readers *readers = argument;
    readers->found |= strtol(line, NULL, 10) == readers->number;
    return 0;
}

/* True if a killed process with our process id has left a reader in the table. LMDB would take that
 * reader for ours and pin its pages until this process ends. Call before opening a view. */
static bool store_inherits_readers(const struct ru_store *store)
{
    struct store_readers readers = {.number = store->number};
    (void)mdb_reader_list(store->env, store_read_reader, &readers);
    return readers.found;
}

static int store_open_env(struct ru_store *store, const char *path, uint32_t flags)
{
    unsigned int env_flags = MDB_NOTLS; /* reader slots belong to views, not to threads */
    env_flags |= flags & RU_STORE_READ_ONLY ? MDB_RDONLY : 0;
    env_flags |= flags & RU_STORE_LAZY ? MDB_NOSYNC : 0;
    mdb_filehandle_t descriptor = -1;
    int rc = store_make_env(store, path, &env_flags);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(store->env, RU_TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(store->env, STORE_READERS);
    if (rc == 0)
        rc = mdb_env_set_mapsize(store->env, store->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_userctx(store->env, store->file);
    if (rc == 0)
        rc = mdb_env_set_assert(store->env, store_assert);
    if (rc == 0)
        rc = mdb_env_open(store->env, path, env_flags, STORE_MODE);
    bool inherits = rc == 0 && store_inherits_readers(store);
    if (rc == 0)
        rc = mdb_env_get_fd(store->env, &descriptor);
    if (rc == 0)
        ru_storefile_watch(store->file, descriptor);
    if (rc == 0 && !(flags & RU_STORE_CREATE))
        rc = store_check_length(store->env, path);
    if (rc == 0)
        rc = store_open_tables(store, flags & RU_STORE_CREATE);
    /* Closing after a read frees the inherited readers, or the next try uses another id. */
    if (rc == 0 && inherits && !(flags & RU_STORE_CREATE))
        rc = EAGAIN;
    if (rc != 0)
        store_close_env(store);
    return rc;
}

int ru_store_open(const char *path, uint64_t map_bytes, uint32_t flags, struct ru_store **store)
{
    *store = NULL;
    struct ru_store *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->map_bytes = map_bytes;
    made->lock = -1;
    ru_store_seed(made, NULL, 0);
    int rc = ru_storefile_claim(path, &made->file);
    if (rc == 0) {
        rc = store_open_env(made, path, flags);
        /* EAGAIN: a process of another PID namespace has, or had, our process id. */
        for (uint32_t tries = 0; rc == EAGAIN && tries < STORE_NUMBERS_TRIED; tries++)
            rc = store_open_env(made, path, flags);
    }
    if (rc == 0) {
        int dead;
        (void)mdb_reader_check(made->env, &dead); /* free the slots of killed processes */
        *store = made;
        return 0;
    }
    ru_store_close(made);
    return ru_store_result(rc);
}

void ru_store_seed(struct ru_store *store, const uint8_t *seed, uint64_t seed_bytes)
{
    ru_defaults_init(&store->defaults, seed, seed_bytes);
}

void ru_store_close(struct ru_store *store)
{
    if (!store)
        return;
    store_close_env(store);
    ru_storefile_release(store->file);
    free(store);
}

int ru_store_check(struct ru_store *store)
{
    return ru_storefile_check(store->file, true);
}

int ru_store_sync(struct ru_store *store)
{
    return ru_store_result(mdb_env_sync(store->env, 1));
}

int ru_store_forget_dead(struct ru_store *store)
{
    int dead = 0;
    int rc = mdb_reader_check(store->env, &dead);
    return rc == 0 ? dead : ru_store_result(rc);
}

void ru_store_sizes(struct ru_store *store, uint64_t *used_bytes, uint64_t *map_bytes)
{
    MDB_envinfo info;
    MDB_stat stat;
    (void)mdb_env_info(store->env, &info);
    (void)mdb_env_stat(store->env, &stat);
    *used_bytes = (info.me_last_pgno + 1) * stat.ms_psize;
    *map_bytes = info.me_mapsize;
}
