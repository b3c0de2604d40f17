/* survey.h: reading every byte of a store in a separate process.
 *
 * build.py reads the marked region, as in ru.h. Functions return 0, -errno or an LMDB code.
 */
#ifndef RU_SURVEY_H
#define RU_SURVEY_H

/* cdef: begin */
/* Thread: any. Check that all of the store at `path` can be read. MDB_CORRUPTED also if a signal
 * killed the reading process. The store may be open, here or elsewhere. */
int ru_survey_store(const char *path);
/* Thread: any. Flush the file system of `path` to the disk. */
int ru_survey_sync(const char *path);
/* cdef: end */

#endif
