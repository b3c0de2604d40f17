/* storefile.h: the file under a store, as the machine sees it: is it still there and whole, where it
 * is mapped, who of this process has it open, and what is said when reading it ends the process.
 *
 * Functions return 0, -errno or one of enum ru_store_fault. Thread: any, unless it says otherwise.
 */
#ifndef RU_STOREFILE_H
#define RU_STOREFILE_H

#include <stdbool.h>
#include <stdint.h>

struct ru_storefile;

/* Note that this process opens the store of directory `path`. RU_STORE_TWICE: it has it open. */
int ru_storefile_claim(const char *path, struct ru_storefile **file);
/* The store is open now, its data file as `descriptor`. From now on faults in its map are told, and
 * core files leave the map out. */
void ru_storefile_watch(struct ru_storefile *file, int descriptor);
/* Once it is closed, or could not be opened. */
void ru_storefile_release(struct ru_storefile *file);

/* Whether all of the file is still there. named: also whether it and lock.mdb still have their names,
 * without which who opens the store later knows nothing of us, nor we of him. A file that was
 * once cut off stays of no use: what it gets again in length are zeros. */
int ru_storefile_check(struct ru_storefile *file, bool named);

/* It is not what it was: from now on it is of no use. */
int ru_storefile_distrust(struct ru_storefile *file);

/* What to tell of an error in writing it. LMDB has EIO for a write that the disk took a part of, as
 * one that becomes full does: then ENOSPC. */
int ru_storefile_explain(const struct ru_storefile *file, int error);

/* Thread: the reader's. A fault on this thread is one of the store's from now on, until NULL. */
void ru_storefile_enter(const struct ru_storefile *file);

/* LMDB has found in its file what cannot be: say so and end the process. */
_Noreturn void ru_storefile_damaged(const struct ru_storefile *file, const char *what);

#endif
