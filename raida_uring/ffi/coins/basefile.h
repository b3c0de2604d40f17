/* basefile.h: the state of the files under a store: whether they are complete and where they
 * are mapped, whether this process has them open, and the message when reading them fails.
 *
 * Functions return 0, -errno or one of enum ru_store_fault. Thread: any, unless it says otherwise.
 */
#ifndef RU_BASEFILE_H
#define RU_BASEFILE_H

#include <stdbool.h>
#include <stdint.h>

struct ru_basefile;

/* Register that this process opens the store in directory `path`. RU_BASE_TWICE: already open. */
int ru_basefile_claim(const char *path, struct ru_basefile **file);
/* The store is open, its data file as `descriptor`. From now on a fault in its mapping prints a
 * message, and core files exclude the mapping. */
void ru_basefile_watch(struct ru_basefile *file, int descriptor);
/* Call once the store is closed or could not be opened. */
void ru_basefile_release(struct ru_basefile *file);

/* Check that the file has not been shortened. names: also that it and lock.mdb still have their
 * names; otherwise processes that open the store later and this one cannot see each other's locks.
 * A file that was once shortened stays unusable: if it grows again, the new part is zeros. */
int ru_basefile_check(struct ru_basefile *file, bool names);

/* Mark the file as unusable from now on. Returns RU_BASE_CUT. */
int ru_basefile_distrust(struct ru_basefile *file);

/* The cause to report for a failed write: ENOSPC for LMDB's EIO when the disk is nearly full, since
 * LMDB returns EIO for a short write. */
int ru_basefile_explain(const struct ru_basefile *file, int error);

/* Thread: the reader's. From now on a fault on this thread is attributed to this store; NULL: to
 * none. */
void ru_basefile_enter(const struct ru_basefile *file);

/* LMDB has found its file inconsistent: print a message and end the process. */
_Noreturn void ru_basefile_damaged(const struct ru_basefile *file, const char *what);

#endif
