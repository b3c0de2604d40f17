/* writer.h: batches of changes, executed, made durable, and made visible.
 *
 * A batch goes through two stages, each of which one thread is in at a time:
 *   execute  its requests, on the coins in memory and the changes of the batch before it;
 *   commit   append to the journal, wait for the disk, apply to memory.
 * The worker of Python handlers and the native one take turns, so that one batch executes while the one
 * before it is on its way to the disk. During an upgrade two processes write: a lock on a file, which the kernel releases when a
 * process dies, decides which of them does, and is held while one has a batch. Nobody else sees a
 * change before it is durable. A batch that was executed on changes which then failed fails as well.
 *
 * A process whose lock has lost its name writes nothing more (RU_JOURNAL_LONE): the next one to start
 * makes a new file, and both would write at once.
 *
 * Thread: one from ru_writer_begin() to ru_writer_commit() or ru_writer_end(), any for the others.
 */
#ifndef RU_WRITER_H
#define RU_WRITER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "coins/journal.h"
#include "coins/memory.h"
#include "coins/pending.h"
#include "coins/turns.h"

#define RU_WRITER_LOCK "writer" /* name of the locked file, beside the segments */

enum ru_durability {
    RU_DURABLE_COMMIT = 0,   /* a commit waits for the disk */
    RU_DURABLE_INTERVAL = 1, /* ru_writer_sync() does, from time to time */
};

struct ru_writer {
    struct ru_memory *memory;   /* borrowed */
    struct ru_journal *journal; /* borrowed */
    int lock; /* descriptor of RU_WRITER_LOCK; borrowed; -1: there is no other process */
    enum ru_durability durability;
    struct ru_turns executing; /* Python writers and native ones take turns */
    pthread_mutex_t committing;
    pthread_mutex_t holding;      /* for what follows: taken last */
    uint32_t holders;             /* batches for which this process has the lock */
    uint64_t takes;               /* how often it took it; under `holding` */
    struct ru_pending batches[2]; /* executing and committing take turns; under `executing` */
    uint32_t turn;                /* which of them executes; under both */
    uint64_t handed;              /* batches that went on to commit; under `executing` */
    uint64_t handed_take;         /* `takes` of the last of them; likewise */
    uint64_t patient_ns;          /* until then nobody takes the lock who waits; likewise */
    uint64_t failed;              /* the newest of those that failed; written under `committing` */
};

/* One batch. */
struct ru_batch {
    struct ru_writer *writer;
    struct ru_pending *pending;      /* its own changes */
    const struct ru_pending *before; /* those of the batch before it, perhaps in memory by now */
    uint64_t executed_on;            /* the count of the batch before it; 0: on what is visible */
    uint64_t take;                   /* the writer's `takes` while it lasts */
};

void ru_writer_init(struct ru_writer *writer, struct ru_memory *memory, struct ru_journal *journal,
                    int lock, enum ru_durability durability);
/* No batch may have begun. */
void ru_writer_destroy(struct ru_writer *writer);
/* Wait for one's turn to execute. Returns 0, or how reading the journal failed after another process
 * wrote to it. */
int ru_writer_begin(struct ru_writer *writer, struct ru_batch *batch);
/* The coin's record as the batch sees it; `record` is not set if its page is UNREADABLE. */
enum ru_page_state ru_writer_record(const struct ru_batch *batch, uint32_t coin, uint8_t *record);
/* Put the changes that the batch sees onto a copy of a page, RU_PAGE_SIZE bytes. */
void ru_writer_overlay(const struct ru_batch *batch, uint32_t page, uint8_t *bytes);
/* Change a coin whose page is readable. Returns 0 or -ENOMEM. */
int ru_writer_change(struct ru_batch *batch, const struct ru_change *change);
/* End the batch without its changes. */
void ru_writer_end(struct ru_batch *batch);
/* Make the batch's changes durable and visible, and end it. A batch without changes waits for the one
 * before it, whose changes it may have seen. time_ns: since 1970. Returns 0 or -errno, with nothing
 * visible; -ECANCELED: it was the batch before that failed. After a failed flush (journal->failed) no
 * batch succeeds. */
int ru_writer_commit(struct ru_batch *batch, uint64_t time_ns);
/* Wait until every visible change is on the disk. Returns 0 or -errno. */
int ru_writer_sync(struct ru_writer *writer);
/* If a process has died in the middle of a batch: apply what the journal has of it, since its pages
 * cannot be read until then. Never waits for another process. Returns 0, or how reading failed. */
int ru_writer_mend(struct ru_writer *writer);
/* The other process has ended, perhaps while it waited for the lock. */
void ru_writer_alone(struct ru_writer *writer);
/* Whether the journal can be written: 0, RU_JOURNAL_GONE if its file is not there, or not whole,
 * RU_JOURNAL_LONE, or -errno of a flush that failed. On success `whole_from` is set, as by
 * ru_journal_whole_from(). */
int ru_writer_check(struct ru_writer *writer, uint64_t *whole_from);
/* The newest batch that is certainly on the disk; failed: -errno of a flush that failed, or 0. Thread:
 * any; waits for nobody, so that a disk that hangs can be seen. */
uint64_t ru_writer_durable(const struct ru_writer *writer, int *failed);

#endif
