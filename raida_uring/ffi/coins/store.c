/* store.c: coins on disk, through LMDB.
 *
 * Why in C: a request may name thousands of coins, each with one look-up and one comparison; in the
 * interpreter these would cost more than the rest of the request.
 * Owner: a view belongs to its thread; LMDB synchronises access to the environment.
 * Memory: a view allocates its table of page addresses when opened, a writing view also a copy of
 * each page it changes; commit writes the copies into the store.
 */
#include "coins/store.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "coins/storefile.h"
#include "coins/survey.h"

#define STORE_READERS 256
#define STORE_MODE 0600
#define STORE_BLOCK 4096       /* smallest allocation unit of a file system */
#define STORE_LOCK_BYTES 20480 /* size of lock.mdb with STORE_READERS readers, rounded up */
#define STORE_NUMBERS_TRIED 64 /* process ids tried to find one unused in other PID namespaces */
#define STORE_CHILD_STACK 65536
#define STORE_LOOKS 1000

struct ru_store {
    MDB_env *env;
    pid_t number; /* process id that LMDB knows this process by */
    int lock;     /* a descriptor of lock.mdb while `number` is not our process id; otherwise -1 */
    struct ru_storefile *file;
    MDB_dbi tables[RU_TABLES];
    uint64_t map_bytes;
};

/* Where a page was found; valid while `snapshot` equals the view's. */
struct store_place {
    const uint8_t *at;
    uint64_t snapshot;
    uint8_t state; /* EQUAL: `at` is valid */
};

struct store_undo {
    uint16_t page;
    uint16_t record;
    uint8_t old[RU_STORE_RECORD];
};

struct ru_view {
    struct ru_store *store;
    MDB_txn *txn;
    bool writing;
    bool begun;
    uint64_t snapshot; /* advances whenever page addresses may have changed */
    uint64_t txn_id;
    struct store_place places[RU_STORE_PAGES];
    /* Only in a writing view: */
    uint8_t **copies; /* by page; NULL: unchanged */
    uint16_t *dirty;  /* the pages that have a copy */
    uint32_t dirty_count;
    struct store_undo *undo;
    uint32_t undo_count;
    uint32_t undo_room;
};

static int store_result(int rc)
{
    return rc > 0 ? -rc : rc;
}

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
               "what "
               "is being written over";
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
static int store_commit(MDB_env *env, MDB_txn *txn)
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
        return store_commit(store->env, txn);
    mdb_txn_abort(txn);
    return rc;
}

/* Open lock.mdb, creating it if needed with the owner and mode of data.mdb: otherwise a first use
 * by root would lock the store's owner out. No link is followed: the store's owner could have made
 * one that lets root write elsewhere. */
static int store_open_lock(int directory)
{
    struct stat data;
    int lock = openat(directory, "lock.mdb", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, STORE_MODE);
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
static bool store_is_unused(int directory)
{
    int lock = openat(directory, "lock.mdb", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (lock < 0)
        return errno == ENOENT;
    struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool unused = fcntl(lock, F_GETLK, &held) == 0 && held.l_type == F_UNLCK;
    close(lock);
    return unused;
}

static bool store_number_taken(int lock, pid_t number)
{
    struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = number, .l_len = 1};
    return fcntl(lock, F_GETLK, &held) == 0 && held.l_type != F_UNLCK;
}

/* Allocate lock.mdb's blocks: LMDB writes it through a mapping, which on a full disk would be a
 * SIGBUS. number_taken: LMDB knows a process of another PID namespace by our process id. */
static int store_reserve_lock(const char *path, pid_t number, unsigned int *flags,
                              bool *number_taken)
{
    *number_taken = false;
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno;
    int lock = store_open_lock(directory);
    int rc = 0;
    if (lock < 0) { /* mdb_env_open() reports the error if it needs the file */
        bool denied = errno == EACCES || errno == EPERM;
        rc = errno == ELOOP ? ELOOP : 0;
        if (denied && *flags & MDB_RDONLY && store_is_unused(directory))
            *flags |= MDB_NOLOCK;
    } else {
        rc = fallocate(lock, 0, 0, STORE_LOCK_BYTES) == 0 ? 0 : errno;
        *number_taken = store_number_taken(lock, number);
        close(lock); /* drops all locks of this process on the file: it has none yet */
    }
    close(directory);
    return rc == ENOSPC || rc == EDQUOT || rc == ELOOP ? rc : 0;
}

int ru_store_reserve_lock(const char *path, unsigned int *flags)
{
    bool taken;
    return store_reserve_lock(path, getpid(), flags, &taken);
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
    if (store_number_taken(store->lock, getpid()))
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
    int rc = store_reserve_lock(path, creation.number, flags, &taken);
    if (rc == 0)
        rc = mdb_env_create(&creation.env);
    for (uint32_t tries = 0; rc == 0 && taken && tries < STORE_NUMBERS_TRIED; tries++) {
        mdb_env_close(creation.env);
        creation.env = NULL;
        rc = store_call_as_other(store_create_env, &creation);
        if (rc == 0)
            rc = creation.rc;
        if (rc == 0)
            rc = store_reserve_lock(path, creation.number, flags, &taken);
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
    return store_result(rc);
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
    return store_result(mdb_env_sync(store->env, 1));
}

int ru_store_forget_dead(struct ru_store *store)
{
    int dead = 0;
    int rc = mdb_reader_check(store->env, &dead);
    return rc == 0 ? dead : store_result(rc);
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

/* ---- views ---- */

int ru_view_open(struct ru_store *store, uint32_t writing, struct ru_view **view)
{
    *view = NULL;
    struct ru_view *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->store = store;
    made->writing = writing != 0;
    if (made->writing) {
        made->copies = (uint8_t **)calloc(RU_STORE_PAGES, sizeof(*made->copies));
        made->dirty = calloc(RU_STORE_PAGES, sizeof(*made->dirty));
        if (!made->copies || !made->dirty) {
            ru_view_close(made);
            return -ENOMEM;
        }
    }
    *view = made;
    return 0;
}

static void view_forget(struct ru_view *view)
{
    for (uint32_t i = 0; i < view->dirty_count; i++) {
        free(view->copies[view->dirty[i]]);
        view->copies[view->dirty[i]] = NULL;
    }
    view->dirty_count = 0;
    view->undo_count = 0;
}

void ru_view_close(struct ru_view *view)
{
    if (!view)
        return;
    ru_view_end(view);
    if (view->txn)
        mdb_txn_abort(view->txn);
    free((void *)view->copies);
    free(view->dirty);
    free(view->undo);
    free(view);
}

/* True if the view does not allow the call. Anyone may write handlers: a mistake in one must fail
 * the request, not the node. */
static bool view_refuses(const struct ru_view *view, bool change)
{
    return !view || !view->begun || (change && !view->writing);
}

/* True if the file's newest transaction is not the one in lock.mdb: another file, such as an older
 * copy, was written over it. The two change at slightly different times, so look several times. */
static bool view_is_foreign(const struct ru_view *view)
{
    uint64_t seen = mdb_txn_id(view->txn);
    for (uint32_t looks = 0; looks < STORE_LOOKS; looks++) {
        MDB_envinfo info;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        (void)mdb_env_info(view->store->env, &info);
        /* Others may commit while a reading view is open, but not while a writing one is. */
        if (view->writing ? info.me_last_txnid + 1 == seen : info.me_last_txnid >= seen)
            return false;
    }
    return true;
}

int ru_view_begin(struct ru_view *view)
{
    if (!view || view->begun)
        return RU_STORE_MISUSED;
    int rc = ru_storefile_check(view->store->file, view->writing);
    if (rc != 0)
        return rc;
    ru_storefile_enter(view->store->file);
    if (view->txn)
        rc = mdb_txn_renew(view->txn);
    else
        rc = mdb_txn_begin(view->store->env, NULL, view->writing ? 0 : MDB_RDONLY, &view->txn);
    if (rc != 0) {
        if (view->writing)
            view->txn = NULL;
        ru_storefile_enter(NULL);
        return store_result(rc);
    }
    view->begun = true;
    if (view_is_foreign(view)) {
        ru_view_end(view);
        return ru_storefile_distrust(view->store->file);
    }
    uint64_t txn_id = mdb_txn_id(view->txn);
    /* Without a commit since, the page addresses found before are still valid. */
    if (view->writing || txn_id != view->txn_id)
        view->snapshot++;
    view->txn_id = txn_id;
    return 0;
}

uint64_t ru_view_txn(struct ru_view *view)
{
    return view_refuses(view, false) ? 0 : view->txn_id;
}

void ru_view_end(struct ru_view *view)
{
    if (view_refuses(view, false))
        return;
    view->begun = false;
    ru_storefile_enter(NULL);
    if (view->writing) {
        mdb_txn_abort(view->txn);
        view->txn = NULL;
        view_forget(view);
    } else {
        mdb_txn_reset(view->txn);
    }
}

static int view_write_page(struct ru_view *view, uint16_t page)
{
    const uint8_t name[2] = {(uint8_t)(page >> 8), (uint8_t)page};
    MDB_val key = {sizeof(name), (void *)(uintptr_t)name};
    MDB_val value = {RU_STORE_PAGE, view->copies[page]};
    uint8_t txn[8];
    for (uint32_t i = 0; i < sizeof(txn); i++)
        txn[i] = (uint8_t)(view->txn_id >> (56 - 8 * i));
    MDB_val when = {sizeof(txn), txn};
    int rc = mdb_put(view->txn, view->store->tables[RU_TABLE_PAGES], &key, &value, 0);
    if (rc == 0)
        rc = mdb_put(view->txn, view->store->tables[RU_TABLE_CHANGED], &key, &when, 0);
    return rc;
}

int ru_view_commit(struct ru_view *view)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int rc = 0;
    for (uint32_t i = 0; i < view->dirty_count && rc == 0; i++)
        rc = view_write_page(view, view->dirty[i]);
    /* Changes to a removed file are lost with the process: the commit must fail. */
    if (rc == 0)
        rc = ru_storefile_check(view->store->file, true);
    if (rc == 0)
        rc = store_commit(view->store->env, view->txn);
    else
        mdb_txn_abort(view->txn);
    view->txn = NULL;
    view->begun = false;
    ru_storefile_enter(NULL);
    view_forget(view);
    if (rc == MDB_MAP_FULL) {
        int dead; /* a killed reader keeps old pages from being reused */
        (void)mdb_reader_check(view->store->env, &dead);
    }
    return store_result(ru_storefile_explain(view->store->file, rc));
}

uint32_t ru_view_dirty(struct ru_view *view, uint16_t *pages)
{
    if (view_refuses(view, true))
        return 0;
    if (pages)
        memcpy(pages, view->dirty, view->dirty_count * sizeof(*pages));
    return view->dirty_count;
}

/* ---- pages ---- */

static int view_find(struct ru_view *view, uint32_t page, struct store_place *place)
{
    const uint8_t name[2] = {(uint8_t)(page >> 8), (uint8_t)page};
    MDB_val key = {sizeof(name), (void *)(uintptr_t)name};
    MDB_val value;
    int rc = mdb_get(view->txn, view->store->tables[RU_TABLE_PAGES], &key, &value);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return rc;
    place->snapshot = view->snapshot;
    place->at = rc == 0 ? value.mv_data : NULL;
    if (rc == MDB_NOTFOUND)
        place->state = RU_COIN_DEFAULT;
    else
        place->state = value.mv_size == RU_STORE_PAGE ? RU_COIN_EQUAL : RU_COIN_UNREADABLE;
    return 0;
}

/* The page's bytes, or NULL with the reason in `state`. */
static int view_page(struct ru_view *view, uint32_t page, const uint8_t **at, uint8_t *state)
{
    RU_CHECK(page < RU_STORE_PAGES);
    struct store_place *place = &view->places[page];
    *state = RU_COIN_EQUAL;
    if (view->dirty_count > 0 && view->copies[page]) {
        *at = view->copies[page];
        return 0;
    }
    if (place->snapshot != view->snapshot) {
        int rc = view_find(view, page, place);
        if (rc != 0)
            return store_result(rc);
    }
    *state = place->state;
    *at = place->state == RU_COIN_EQUAL ? place->at : NULL;
    return 0;
}

/* The writable copy of a page, which must be readable. */
static uint8_t *view_copy(struct ru_view *view, uint32_t page, const uint8_t *bytes)
{
    RU_CHECK(view->writing);
    if (!view->copies[page]) {
        uint8_t *copy = malloc(RU_STORE_PAGE);
        if (!copy)
            return NULL;
        memcpy(copy, bytes, RU_STORE_PAGE);
        view->copies[page] = copy;
        view->dirty[view->dirty_count++] = (uint16_t)page;
    }
    return view->copies[page];
}

static bool view_undo_room(struct ru_view *view)
{
    if (view->undo_count < view->undo_room)
        return true;
    uint32_t room = view->undo_room > 0 ? 2 * view->undo_room : 1024;
    struct store_undo *grown = realloc(view->undo, room * sizeof(*grown));
    if (!grown)
        return false;
    view->undo = grown;
    view->undo_room = room;
    return true;
}

uint32_t ru_view_mark(struct ru_view *view)
{
    return view ? view->undo_count : 0;
}

void ru_view_undo(struct ru_view *view, uint32_t mark)
{
    while (view && view->undo_count > mark) {
        const struct store_undo *undo = &view->undo[--view->undo_count];
        RU_CHECK(view->copies[undo->page]);
        memcpy(view->copies[undo->page] + (size_t)undo->record * RU_STORE_RECORD, undo->old,
               RU_STORE_RECORD);
    }
}

int ru_view_page(struct ru_view *view, uint32_t page, struct ru_bytes *bytes, uint8_t *state)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    *bytes = (struct ru_bytes){0};
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    int rc = view_page(view, page, &bytes->at, state);
    bytes->size = bytes->at ? RU_STORE_PAGE : 0;
    return rc;
}

int ru_view_select(struct ru_view *view, uint32_t page, uint8_t *selected, uint8_t *state)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    const uint8_t *bytes;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    int rc = view_page(view, page, &bytes, state);
    if (rc != 0 || !bytes)
        return rc;
    int circulating = 0;
    for (uint32_t i = 0; i < RU_STORE_RECORDS; i++, bytes += RU_STORE_RECORD) {
        uint8_t *out = selected + (size_t)i * RU_STORE_AN;
        if (bytes[RU_STORE_AN] != 0) {
            memcpy(out, bytes, RU_STORE_AN);
            circulating++;
        } else {
            memset(out, 0, RU_STORE_AN);
        }
    }
    return circulating;
}

int ru_view_fill(struct ru_view *view, uint32_t page, const uint8_t *bytes)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    if (page >= RU_STORE_PAGES)
        return -EINVAL;
    uint8_t *copy = view_copy(view, page, bytes);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, bytes, RU_STORE_PAGE);
    return 0;
}

/* ---- coins ---- */

struct store_coin {
    uint32_t page;
    uint32_t record;
};

/* False for a coin that no store can have. */
static bool coin_locate(const uint8_t *coin, struct store_coin *place)
{
    int den = coin[0] < 128 ? coin[0] : coin[0] - 256; /* two's complement */
    uint32_t sn =
        (uint32_t)coin[1] << 24 | (uint32_t)coin[2] << 16 | (uint32_t)coin[3] << 8 | coin[4];
    if (den < -8 || den > 6 || sn >= RU_STORE_DEN_PAGES * RU_STORE_RECORDS)
        return false;
    place->page = (uint32_t)(den + 8) * RU_STORE_DEN_PAGES + sn / RU_STORE_RECORDS;
    place->record = sn % RU_STORE_RECORDS;
    return true;
}

/* The coin's record, or NULL with the reason in `state`. */
static int coin_find(struct ru_view *view, const uint8_t *coin, struct store_coin *place,
                     const uint8_t **record, uint8_t *state)
{
    *record = NULL;
    *state = RU_COIN_UNREADABLE;
    if (!coin_locate(coin, place))
        return 0;
    const uint8_t *page = NULL;
    int rc = view_page(view, place->page, &page, state);
    if (rc == 0 && page)
        *record = page + (size_t)place->record * RU_STORE_RECORD;
    return rc;
}

/* Constant time, whatever differs. */
static bool an_equal(const uint8_t *one, const uint8_t *other)
{
    uint64_t a[2];
    uint64_t b[2];
    memcpy(a, one, sizeof(a));
    memcpy(b, other, sizeof(b));
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
}

int ru_view_match(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                  uint32_t an_at, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    int equal = 0;
    for (uint32_t i = 0; i < count; i++, coins += stride) {
        struct store_coin place;
        const uint8_t *record;
        int rc = coin_find(view, coins, &place, &record, &states[i]);
        if (rc != 0)
            return rc;
        if (!record)
            continue;
        states[i] = an_equal(record, coins + an_at) ? RU_COIN_EQUAL : RU_COIN_DIFFERS;
        equal += states[i] == RU_COIN_EQUAL;
    }
    return equal;
}

int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states)
{
    if (view_refuses(view, false))
        return RU_STORE_MISUSED;
    int found = 0;
    for (uint32_t i = 0; i < count; i++, coins += stride, records += RU_STORE_RECORD) {
        struct store_coin place;
        const uint8_t *record;
        int rc = coin_find(view, coins, &place, &record, &states[i]);
        if (rc != 0)
            return rc;
        if (record)
            memcpy(records, record, RU_STORE_RECORD);
        else
            memset(records, 0, RU_STORE_RECORD);
        found += record != NULL;
    }
    return found;
}

/* Replace the AN of a coin whose record was found. */
static int coin_store(struct ru_view *view, const struct store_coin *place, const uint8_t *record,
                      const uint8_t *an, uint32_t month)
{
    /* Unchanged: write nothing, or the owner of one coin could cause any number of disk writes. */
    if (record[RU_STORE_AN] == (uint8_t)month && an_equal(record, an))
        return 0;
    uint8_t *page = view_copy(view, place->page, record - (size_t)place->record * RU_STORE_RECORD);
    if (!page || !view_undo_room(view))
        return -ENOMEM;
    uint8_t *out = page + (size_t)place->record * RU_STORE_RECORD;
    struct store_undo *undo = &view->undo[view->undo_count++];
    undo->page = (uint16_t)place->page;
    undo->record = (uint16_t)place->record;
    memcpy(undo->old, out, RU_STORE_RECORD);
    memcpy(out, an, RU_STORE_AN);
    out[RU_STORE_AN] = (uint8_t)month;
    return 0;
}

int ru_view_exchange(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                     uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int equal = 0;
    for (uint32_t i = 0; i < count; i++, coins += stride) {
        struct store_coin place;
        const uint8_t *record;
        int rc = coin_find(view, coins, &place, &record, &states[i]);
        if (rc == 0 && record) {
            states[i] = an_equal(record, coins + an_at) ? RU_COIN_EQUAL : RU_COIN_DIFFERS;
            if (states[i] == RU_COIN_EQUAL)
                rc = coin_store(view, &place, record, coins + new_at, month);
            equal += states[i] == RU_COIN_EQUAL;
        }
        if (rc != 0)
            return rc;
    }
    return equal;
}

int ru_view_set(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                uint32_t an_at, uint32_t month, uint8_t *states)
{
    if (view_refuses(view, true))
        return RU_STORE_MISUSED;
    int stored = 0;
    for (uint32_t i = 0; i < count; i++, coins += stride) {
        struct store_coin place;
        const uint8_t *record;
        int rc = coin_find(view, coins, &place, &record, &states[i]);
        if (rc == 0 && record) {
            rc = coin_store(view, &place, record, coins + an_at, month);
            stored++;
        }
        if (rc != 0)
            return rc;
    }
    return stored;
}

/* ---- the other tables ---- */

static MDB_val view_key(const uint8_t *key, uint32_t size)
{
    return (MDB_val){size, (void *)(uintptr_t)key};
}

int ru_view_get(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                struct ru_bytes *value)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_val name = view_key(key, key_size);
    MDB_val found;
    *value = (struct ru_bytes){0};
    int rc = mdb_get(view->txn, view->store->tables[table], &name, &found);
    if (rc == 0)
        *value = (struct ru_bytes){found.mv_data, found.mv_size};
    return rc == MDB_NOTFOUND ? -ENOENT : store_result(rc);
}

int ru_view_put(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                const uint8_t *value, uint64_t size)
{
    if (view_refuses(view, true) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_val name = view_key(key, key_size);
    MDB_val data = {size, (void *)(uintptr_t)value};
    view->snapshot++; /* page addresses found before may be stale */
    int rc = value ? mdb_put(view->txn, view->store->tables[table], &name, &data, 0)
                   : mdb_del(view->txn, view->store->tables[table], &name, NULL);
    return rc == MDB_NOTFOUND ? 0 : store_result(rc);
}

int ru_view_seek(struct ru_view *view, uint32_t table, const uint8_t *key, uint32_t key_size,
                 struct ru_bytes *found, struct ru_bytes *value)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(view->txn, view->store->tables[table], &cursor);
    if (rc != 0)
        return store_result(rc);
    MDB_val name = view_key(key, key_size);
    MDB_val data;
    rc = mdb_cursor_get(cursor, &name, &data, key_size > 0 ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0) {
        *found = (struct ru_bytes){name.mv_data, name.mv_size};
        *value = (struct ru_bytes){data.mv_data, data.mv_size};
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? -ENOENT : store_result(rc);
}

int64_t ru_view_count(struct ru_view *view, uint32_t table)
{
    if (view_refuses(view, false) || table >= RU_TABLES)
        return RU_STORE_MISUSED;
    MDB_stat stat;
    int rc = mdb_stat(view->txn, view->store->tables[table], &stat);
    return rc == 0 ? (int64_t)stat.ms_entries : store_result(rc);
}
