/* survey.h: reading every byte of a store in a process of its own.
 *
 * The marked region is read by build.py like that of ru.h. Functions return 0, -errno or one of
 * LMDB's own codes.
 */
#ifndef RU_SURVEY_H
#define RU_SURVEY_H

/* cdef: begin */
/* Thread: any. Whether all of the store at `path` can be read. MDB_CORRUPTED also when the process
 * that tried has died of it. The store may be open, here or elsewhere. */
int ru_survey_store(const char *path);
/* Thread: any. Return when all that was written to the file system of `path` is on the disk. */
int ru_survey_sync(const char *path);
/* cdef: end */

#endif
