/* baselock.h: lock.mdb, LMDB's file beside the data, as it must be before LMDB opens it.
 *
 * Thread: any. Results are 0 or a positive errno, as LMDB's are.
 */
#ifndef RU_BASELOCK_H
#define RU_BASELOCK_H

#include <stdbool.h>
#include <sys/types.h>

/* Create lock.mdb in directory `path` if needed, owned by the store's owner, and allocate its blocks:
 * LMDB writes it through a mapping, which on a full disk would be a SIGBUS. flags: mdb_env_open()'s; if
 * this user may only read the store and no process has it open, it is read without lock.mdb, and
 * flags gets MDB_NOLOCK. number_taken: LMDB knows a process of another PID namespace by the process id
 * `number`. */
int ru_baselock_reserve(const char *path, pid_t number, unsigned int *flags, bool *number_taken);
/* Whether a process known to LMDB by `number` holds its lock on lock.mdb, whose descriptor is given. */
bool ru_baselock_taken(int lock, pid_t number);

#endif
