/* segment.h: the files of a journal.
 *
 * A segment's first block says whose it is and which entry is its first; it is written when the
 * segment is taken into use, so a prepared segment has zeros there, or, after a power cut, what
 * it said under another number. Numbers are little-endian.
 * Thread: any, one at a time for a file. Results as in journal.h.
 */
#ifndef RU_SEGMENT_H
#define RU_SEGMENT_H

#include "coins/journal.h"

/* What a segment's first block says. */
struct ru_segment_head {
    struct ru_segment segment;
    uint32_t crc; /* of the entry before the first */
};

/* The segments in `directory`, oldest first, by their names alone: the rest is 0. Returns how
 * many; -E2BIG: more than RU_SEGMENTS_MAX. */
int ru_segment_list(int directory, struct ru_segment *segments);
/* Open a segment. flags: as for open(2). Returns a descriptor. */
int ru_segment_open(int directory, uint64_t index, int flags);
/* Read up to `size` bytes of a file. Returns how many there were, or -errno. */
int64_t ru_segment_bytes(int fd, uint8_t *out, uint64_t size, uint64_t at);
/* Write all of them. */
int ru_segment_write(int fd, const uint8_t *bytes, uint64_t size, uint64_t at);
/* Have the names of segments on the disk. A process that was killed, or whose flush failed, may have
 * left names that only this machine's memory has. */
int ru_segment_sync_names(int directory);
/* Whether `fd` is the file that segment `index` has in `directory`. */
bool ru_segment_is_open(int directory, uint64_t index, int fd);
/* Whether segment `index` is gone, or shorter than `bytes`. */
bool ru_segment_is_lost(int directory, uint64_t index, uint64_t bytes);
/* Remove what killed processes left of segments that they were creating. Nobody else may be. */
int ru_segment_clean(int directory);
/* Create segment `index`, `bytes` of zeros, which are on the disk afterwards. -EEXIST: there
 * is one, which another process may have taken into use. */
int ru_segment_create(int directory, uint64_t index, uint64_t bytes);
/* Make segment `old`, which nobody needs, segment `index`, not in use. It keeps its old entries; what
 * tells them from new ones stands in journal.h. -EBUSY: somebody reads it. */
int ru_segment_reuse(int directory, uint64_t old, uint64_t index);
int ru_segment_remove(int directory, uint64_t index);
/* Take a prepared segment into use. Not flushed: its first entry's flush covers it. */
int ru_segment_describe(int fd, const uint8_t *store, const struct ru_segment_head *head);
/* Read a segment's first block. -ENODATA: it is not in use, or its first block makes no sense;
 * RU_JOURNAL_FOREIGN, RU_JOURNAL_NEWER. */
int ru_segment_read(int fd, const uint8_t *store, struct ru_segment_head *head);
/* Remove the segments of `store`, whatever is in them, and those without entries; they are gone from
 * the disk afterwards. RU_JOURNAL_FOREIGN: one with another's entries remains. */
int ru_segment_abandon(int directory, const uint8_t *store);
/* Whether an entry of any store, or a part of one, is or was in a segment: 1, 0, or -errno. */
int ru_segment_holds(int fd);

#endif
