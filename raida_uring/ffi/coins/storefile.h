/* storefile.h: the state of the files under a store: whether they are complete and where they
 * are mapped, whether this process has them open, and the message when reading them fails.
 *
 * Functions return 0, -errno or one of enum ru_store_fault. Thread: any, unless it says otherwise.
 */
#ifndef RU_STOREFILE_H
#define RU_STOREFILE_H

#include <stdbool.h>
#include <stdint.h>

struct ru_storefile;

/* Register that this process opens the store in directory `path`. RU_STORE_TWICE: already open. */
int ru_storefile_claim(const char *path, struct ru_storefile **file);
/* The store is open, its data file as `descriptor`. From now on a fault in its mapping prints a
 * message, and core files exclude the mapping. */
void ru_storefile_watch(struct ru_storefile *file, int descriptor);
/* Call once the store is closed or could not be opened. */
void ru_storefile_release(struct ru_storefile *file);

/* Check that the file has not been shortened. names: also that it and lock.mdb still have their
 * names; otherwise processes that open the store later and this one cannot see each other's locks.
 * A file that was once shortened stays unusable: if it grows again, the new part is zeros. */
int ru_storefile_check(struct ru_storefile *file, bool names);

/* Mark the file as unusable from now on. Returns RU_STORE_CUT. */
int ru_storefile_distrust(struct ru_storefile *file);

/* The cause to report for a failed write: ENOSPC for LMDB's EIO when the disk is nearly full, since
 * LMDB returns EIO for a short write. */
int ru_storefile_explain(const struct ru_storefile *file, int error);

/* Thread: the reader's. From now on a fault on this thread is attributed to this store; NULL: to
 * none. */
void ru_storefile_enter(const struct ru_storefile *file);

/* LMDB has found its file inconsistent: print a message and end the process. */
_Noreturn void ru_storefile_damaged(const struct ru_storefile *file, const char *what);

#endif
