/* journal.h: batches of changes, appended to files and read again.
 *
 * The journal is a directory of segments, files whose names are rising numbers. The first one is
 * small, each new one four times as large as the one before it, up to `segment_bytes`. A
 * segment's first block describes it; entries follow, each on blocks of its own. A new segment is
 * filled with zeros before it is used, so that a commit is one write and one flush, changes no
 * metadata and cannot meet a full disk. One that is no longer needed is used again as it is, under the
 * next free number: no zeros are written while as many become free as are filled.
 *
 * So old entries, valid ones of this store, stand behind the newest. None is taken for the next
 * entry: its number is too low, since numbers only rise; or, if a power cut took the entries before
 * it and their numbers were used again, it does not continue the checksum of the one before it. None
 * is taken for a proof that the next entry is damaged: that is an entry which says that the missing
 * number was durable when it was written, and the number of a durable entry is never used again.
 *
 * Owner: `struct ru_journal` belongs to the thread that commits, except for ru_journal_prepare() and
 * ru_journal_release(), which one other thread may call at the same time. A reader needs no journal:
 * it works on the directory, also from another process while a node appends.
 * Results are 0 or a count, -errno, or an enum ru_journal_fault.
 */
#ifndef RU_JOURNAL_H
#define RU_JOURNAL_H

#include <pthread.h>
#include <stdint.h>

#include "coins/entry.h"

/* What a reader meets that is neither an entry nor the end. */
enum ru_journal_fault {
    /* Bytes of an acknowledged entry are not what was written, or it is gone, while later entries
     * are there. */
    RU_JOURNAL_DAMAGED = -28999,
    RU_JOURNAL_MISSING = -28998, /* the segment with the wanted entry is gone */
    RU_JOURNAL_FOREIGN = -28997, /* it belongs to another store */
    RU_JOURNAL_NEWER = -28996,   /* it was written by a later version of this program */
    RU_JOURNAL_GONE = -28995,    /* its file was removed or cut while it was in use */
    RU_JOURNAL_FULL = -28994,    /* it has as many segments as it may */
    RU_JOURNAL_LONE = -28993,    /* the writer's lock was removed or replaced: locking is broken */
    RU_JOURNAL_HOLE = -28992,    /* an older segment, which a start needs, was removed or cut */
};

/* A segment that exists. */
struct ru_segment {
    uint64_t index; /* its name */
    uint64_t first; /* number of the first entry that it has or will have; 0: not in use yet */
    uint64_t bytes;
};

struct ru_journal_settings {
    uint8_t store[RU_STORE_ID_SIZE];
    uint64_t first_bytes;   /* of the first segment, likewise a multiple */
    uint64_t segment_bytes; /* of a large one: a multiple of RU_ENTRY_BLOCK */
    uint32_t segments_max;  /* at most RU_SEGMENTS_MAX; more are refused */
};

struct ru_journal {
    struct ru_journal_settings settings;
    int directory;                /* borrowed from the caller, who keeps it open */
    int fd;                       /* the segment that entries go to */
    uint64_t open;                /* its index */
    struct ru_position *position; /* borrowed: shared with other processes, or the caller's own */
    uint8_t *buffer;
    uint64_t buffer_bytes;
    pthread_mutex_t preparing; /* one segment at a time is created or let go */
    bool unfinished;      /* there may be segments that another process has not finished; atomic */
    pthread_mutex_t lock; /* for what follows */
    struct ru_segment segments[RU_SEGMENTS_MAX];
    uint32_t segment_count; /* oldest first; after the one in use those that are prepared */
};

struct ru_reader {
    struct ru_journal_settings settings;
    int directory; /* borrowed */
    int fd;        /* of the segment being read; -1: none yet */
    struct ru_segment segment;
    uint64_t at;     /* where the next entry would start */
    uint64_t number; /* of that entry */
    uint32_t crc;    /* of the entry before it */
    /* What is certain to be on the disk, from what entries say of those before them. */
    uint64_t durable;        /* the newest such entry */
    uint64_t unsure_at;      /* in the segment: entries before it are */
    uint64_t flushed_before; /* once entries before this number are, those before flushed_at are */
    uint64_t flushed_at;
    uint8_t *buffer;
    uint64_t buffer_bytes;
};

/* ---- append: the committing thread ---- */

/* Whether a directory has segments with entries of any store in them: 1, 0, or -errno. */
int ru_journal_holds(int directory);
/* Start an empty journal; its first entry will be number `first`. One without entries, as a killed
 * process leaves, is replaced; RU_JOURNAL_FOREIGN: the directory has one with entries. */
int ru_journal_create(int directory, const struct ru_journal_settings *settings, uint64_t first);
/* Go on where the journal ends, and note it in `position`; all of it is on the disk afterwards.
 * `from`: an entry that must still be there, or be the next one. On failure nothing needs to be
 * closed. No other process may append. */
int ru_journal_open(struct ru_journal *journal, int directory,
                    const struct ru_journal_settings *settings, uint64_t from,
                    struct ru_position *position);
/* Go on where `position` says, which other processes keep as well. Opens nothing: that is for
 * ru_journal_follow() or ru_journal_settle(). */
void ru_journal_join(struct ru_journal *journal, int directory,
                     const struct ru_journal_settings *settings, struct ru_position *position);
/* Other processes may have appended since: follow them to their segment. While they do not append. */
int ru_journal_follow(struct ru_journal *journal);
/* Open the segment at `position`, which a reader has found, and have on the disk what is in it. What
 * a killed process has written may be in this machine's memory alone, or, after a flush that failed,
 * in it for good unless it is written again. No other process may use the journal. */
int ru_journal_settle(struct ru_journal *journal);
/* Another process has died while it appended: find out where the journal ends, have it on the disk,
 * and follow. `from`: as for ru_journal_open(). While no other process appends. */
int ru_journal_recover(struct ru_journal *journal, uint64_t from);
void ru_journal_close(struct ru_journal *journal);
/* Write the changes as the next entry, which is not durable yet. On failure it does not count: the
 * next one takes its number and place. RU_JOURNAL_FULL: no segment is left; -E2BIG: more changes than
 * RU_ENTRY_CHANGES_MAX or a segment can have. */
int ru_journal_append(struct ru_journal *journal, uint64_t time_ns, const struct ru_change *changes,
                      uint32_t count);
/* Whether the file in use is still there, and whole: 0 or RU_JOURNAL_GONE. */
int ru_journal_in_place(const struct ru_journal *journal);
/* The first entry from which on no segment is gone, or shorter than it was. Entries before it may have
 * been let go of, also by another process; only the base can tell. Thread: any. */
uint64_t ru_journal_whole_from(struct ru_journal *journal);
/* Wait until every entry is on the disk. After a failure each later append and sync fails too. */
int ru_journal_sync(struct ru_journal *journal);

/* ---- maintenance: the committing thread or one other ---- */

/* Prepare the segment after the one in use, if there is none. Takes as long as writing segment_bytes
 * to the disk. Returns 0 or -errno. */
int ru_journal_prepare(struct ru_journal *journal);
/* Records before number `from` are no longer needed: let go of segments that have only such. They are
 * prepared again, up to as many as were let go of now, unless somebody reads them. Returns how many,
 * or -errno. */
int ru_journal_release(struct ru_journal *journal, uint64_t from);
/* The other process has ended, perhaps while it created a segment: the next ru_journal_prepare()
 * removes that. Thread: any; waits for nobody. */
void ru_journal_alone(struct ru_journal *journal);
/* Bytes of the segments that are in use or were: prepared ones are room, however many a checkpoint has
 * freed. Thread: any. */
uint64_t ru_journal_bytes(struct ru_journal *journal);
/* How many segments are in use or were, of at most segments_max with prepared ones. Thread: any. */
uint32_t ru_journal_in_use(struct ru_journal *journal);

/* ---- read: thread any, one at a time ---- */

/* Read on from entry `from`. RU_JOURNAL_MISSING if it can no longer be read. */
int ru_reader_open(struct ru_reader *reader, int directory,
                   const struct ru_journal_settings *settings, uint64_t from);
void ru_reader_close(struct ru_reader *reader);
/* 1: the next entry, valid until the next call; 0: the end, for now; or a fault, which remains. */
int ru_reader_next(struct ru_reader *reader, struct ru_entry *entry);
/* Where the next entry would be appended: at the end. */
struct ru_position ru_reader_position(const struct ru_reader *reader);
/* Apply every entry from number `from` on to memory, which readers may be reading. Thread: the one
 * that commits. */
int ru_reader_apply(struct ru_journal *journal, struct ru_memory *memory, uint64_t from);
/* At the end: 0 if nothing acknowledged can be missing, RU_JOURNAL_DAMAGED if a later entry shows
 * that the one wanted here was on the disk. Reads all that is left of the segments. */
int ru_reader_judge(struct ru_reader *reader);

#endif
