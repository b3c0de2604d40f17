/* survey.c: reading every byte of a store in a separate process.
 *
 * Why: LMDB trusts its file. A page that is missing, or that the disk cannot read, is a SIGBUS; one
 * with wrong contents can fail an assertion. So a child process reads the file and may be killed.
 * Owner: the caller, for the length of the call. Thread: any.
 * Memory: none kept.
 */
#include "coins/survey.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coins/baselock.h"

#define SURVEY_FREE_LIST 0 /* LMDB's table of free pages */
#define SURVEY_LMDB 200    /* exit status of the child for LMDB's first code; below: an errno */
#define SURVEY_TRIES 64
#define SURVEY_TABLES_MAX 16 /* more than any store has */
#define SURVEY_STRIDE 4096   /* at least one byte of every page */

static const int survey_fatal[] = {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL};

static void survey_touch(const MDB_val *value)
{
    const volatile uint8_t *bytes = value->mv_data;
    for (size_t at = 0; at < value->mv_size; at += SURVEY_STRIDE)
        (void)bytes[at];
    if (value->mv_size > 0)
        (void)bytes[value->mv_size - 1];
}

/* tables: the entries are the names of tables, which are read as well. */
static int survey_table(MDB_txn *txn, MDB_dbi table, int tables)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, table, &cursor);
    if (rc != 0)
        return rc;
    MDB_val key;
    MDB_val value;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        survey_touch(&key);
        survey_touch(&value);
        char name[16] = {0};
        if (!tables || key.mv_size >= sizeof(name))
            continue;
        for (size_t i = 0; i < key.mv_size; i++)
            name[i] = ((const char *)key.mv_data)[i];
        MDB_dbi inner;
        rc = mdb_dbi_open(txn, name, 0, &inner);
        if (rc == 0)
            rc = survey_table(txn, inner, 0);
        if (rc != 0)
            break;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int survey_all(const char *path)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi names;
    unsigned int flags = MDB_RDONLY;
    bool number_taken;
    if (mdb_env_create(&env) != 0)
        return ENOMEM;
    int rc = mdb_env_set_maxdbs(env, SURVEY_TABLES_MAX);
    if (rc == 0)
        rc = ru_baselock_reserve(path, getpid(), &flags, &number_taken);
    if (rc == 0)
        rc = mdb_env_open(env, path, flags, 0);
    if (rc == 0)
        rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, NULL, 0, &names);
    if (rc == 0)
        rc = survey_table(txn, SURVEY_FREE_LIST, 0);
    if (rc == 0)
        rc = survey_table(txn, names, 1);
    mdb_env_close(env); /* frees the reader slot */
    return rc;
}

/* Runs in the child. The parent learns the result from how the child dies, so no handler may catch
 * the signal and no core is dumped. */
static void survey_run(const char *path)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < sizeof(survey_fatal) / sizeof(*survey_fatal); i++)
        (void)signal(survey_fatal[i], SIG_DFL);
    int silence = open("/dev/null", O_WRONLY);
    if (silence >= 0)
        (void)dup2(silence, STDERR_FILENO); /* LMDB prints its assertions */
    int rc = survey_all(path);
    _exit(rc < 0 ? SURVEY_LMDB + rc - MDB_KEYEXIST : rc);
}

static int survey_try(const char *path)
{
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0)
        survey_run(path);
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    if (!WIFEXITED(status))
        return MDB_CORRUPTED;
    int rc = WEXITSTATUS(status);
    return rc < SURVEY_LMDB ? -rc : MDB_KEYEXIST + rc - SURVEY_LMDB;
}

int ru_survey_store(const char *path)
{
    int rc = survey_try(path);
    /* A process of another PID namespace has the child's process id: try another child. */
    for (uint32_t tries = 1; rc == -EAGAIN && tries < SURVEY_TRIES; tries++)
        rc = survey_try(path);
    return rc;
}

int ru_survey_sync(const char *path)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -errno;
    int rc = syncfs(directory) == 0 ? 0 : -errno;
    close(directory);
    return rc;
}
