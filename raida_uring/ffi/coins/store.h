/* store.h: an open store: the coins in memory, the journal of their changes, and views of them.
 *
 * build.py reads the marked region, as in ru.h. store.c fills the memory from base and journal and
 * maintains the journal; view.c reads and changes coins. Functions return 0 or a count, -errno, or a
 * fault of base.h or journal.h; ru_store_error() describes all of them.
 */
#ifndef RU_STORE_H
#define RU_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "coins/base.h"
#include "coins/journal.h"
#include "coins/memory.h"
#include "coins/needs.h"
#include "coins/tickets.h"
#include "coins/writer.h"
#include "memory/sleeper.h"

/* cdef: begin */
enum ru_store_fault {
    RU_STORE_MISUSED = -27999, /* the view is closed, has not begun, or is not for changes */
    RU_STORE_BUSY = -27998,    /* changes came between for too long */
    RU_STORE_SPLIT = -27997,   /* the other process locks another file: both would write at once */
    RU_STORE_UNOWNED = -27996, /* the lock on the store was removed or replaced */
};

enum ru_store_limit {
    RU_STORE_ID_BYTES = 16,
};

struct ru_store;
struct ru_view;

/* How far the journal is. Numbers of batches. */
struct ru_store_progress {
    uint64_t applied; /* visible */
    uint64_t durable; /* certainly on the disk */
    uint64_t journal_bytes;
    uint32_t journal_segments; /* with entries in them, or about to have */
    int32_t failed; /* -errno of a flush that failed, after which nothing is written; otherwise 0 */
};

/* Thread: control. A store without coins, in a memory of its own. seed: what the records of pages
 * that were never written are computed from. */
int ru_store_create(const uint8_t *seed, uint64_t seed_bytes, struct ru_store **store);
/* Thread: control. The coins of the process that has passed on the descriptor of its memory, which is
 * taken over. -EPROTO: it is of another version. */
int ru_store_attach(int memory, struct ru_store **store);
/* Thread: control, once every view is closed. */
void ru_store_close(struct ru_store *store);
/* Descriptor of the memory, which the store keeps. */
int ru_store_memory(struct ru_store *store);

/* Thread: any, one for each range of pages. Load `count` pages from page `first` on out of the base.
 * `number`: raised to the highest number of them. `faulty`: the page, on RU_BASE_DAMAGED. */
int ru_store_load(struct ru_store *store, struct ru_txn *txn, uint32_t first, uint32_t count,
                  uint64_t *number, uint32_t *faulty);
/* Thread: any. Whether the journal in `directory`, a descriptor, has batches in it, of whichever store:
 * 1 or 0. */
int ru_store_journal_holds(int directory);
/* Thread: control. Remove the batches of the journal with this id in `directory`, a descriptor: the base
 * has all of them. RU_JOURNAL_FOREIGN: there are another's. */
int ru_store_abandon_journal(int directory, const uint8_t *id);
/* Thread: control. Start an empty journal in `directory`, a descriptor; its first batch will have number
 * `first`. id: RU_STORE_ID_BYTES, the journal's own. One without batches is replaced;
 * RU_JOURNAL_FOREIGN: it has batches. */
int ru_store_start_journal(int directory, const uint8_t *id, uint64_t first);
/* Thread: control. Apply the journal in `directory` from batch `from` on; then the coins can be read.
 * directory: -1 if the store has no journal, which is as good as one that is empty from there on.
 * at_least: a number that the journal must reach, since the base has it. Returns how many batches it
 * applied. */
int64_t ru_store_replay(struct ru_store *store, int directory, const uint8_t *id, uint64_t from,
                        uint64_t at_least);
/* Thread: control, after ru_store_replay() or ru_store_attach(). Open the journal for changes. joins:
 * another process appends to it, too. directory, lock: descriptors that stay open as long as the store;
 * lock: of a file that each process opens for itself, and locks while it writes. interval: a commit
 * does not wait for the disk, ru_store_sync() does. */
int ru_store_serve(struct ru_store *store, int directory, int lock, const uint8_t *id,
                   uint32_t joins, uint32_t interval, uint32_t segments_max);

/* Thread: control, before a view changes coins. What a start needs, see needs.h: the base, which is
 * borrowed; and that `path` leads to the file open as `fd`, else `fault` (up to RU_NEEDS_NAMES_MAX). */
void ru_store_need_base(struct ru_store *store, struct ru_base *base);
int ru_store_need(struct ru_store *store, const char *path, int fd, int fault);
/* Thread: any. Have commits of native commands fail with `fault`; 0: no more. */
void ru_store_refuse(struct ru_store *store, int fault);
/* Thread: any. 0, or what is missing: before a commit. */
int ru_store_require(struct ru_store *store);
/* Thread: any. Wait until every visible change is on the disk. */
int ru_store_sync(struct ru_store *store);
/* Thread: any. The other process of an upgrade has ended. */
void ru_store_alone(struct ru_store *store);
/* Thread: any. As ru_writer_check(); `whole_from` 0 if the store does not serve. Makes pages readable
 * that a killed process has left in the middle of a batch. */
int ru_store_check(struct ru_store *store, uint64_t *whole_from);
/* Thread: one at a time, beside all others. Prepare the journal's next segment; let go of those that
 * have only batches before `needed`. */
int ru_store_tend(struct ru_store *store, uint64_t needed);
/* Thread: any. Only the first value if the store is not open for changes. */
void ru_store_progress(struct ru_store *store, struct ru_store_progress *progress);
/* Thread: one at a time. Wait until a batch of this process above `number` is visible, for
 * ru_store_rouse(), or for `timeout_ms`. */
void ru_store_await(struct ru_store *store, uint64_t number, uint32_t timeout_ms);
/* Thread: any. End the wait, or the next one, whatever has changed. */
void ru_store_rouse(struct ru_store *store);
/* Thread: any. Pages whose number is above `number`: `pages` and `numbers` have room for
 * RU_STORE_PAGES. Returns how many. */
uint32_t ru_store_changed(struct ru_store *store, uint64_t number, uint16_t *pages,
                          uint64_t *numbers);
/* Thread: any. How many pages are in that state, an enum ru_page_state. */
uint32_t ru_store_count(struct ru_store *store, uint32_t state);
/* Thread: any. Copy a page, RU_PAGE_SIZE bytes unless it is UNREADABLE; `number` of the last batch in
 * it. Returns an enum ru_page_state, or RU_STORE_BUSY. */
int ru_store_page(struct ru_store *store, uint32_t page, uint8_t *bytes, uint64_t *number);
/* Thread: any. Copy what the page's leaf is the hash of, RU_STORE_SELECTED bytes if it was written;
 * `circulating`: how many of its coins are. Returns as ru_store_page(). */
int ru_store_select(struct ru_store *store, uint32_t page, uint8_t *selected, uint32_t *circulating,
                    uint64_t *number);

/* Thread: any, for all about tickets (tickets.h). Issue one for `count` coins, RU_COIN_NAME_SIZE bytes
 * each. Returns 0, RU_TICKET_FULL, or -errno. */
int ru_store_issue_ticket(struct ru_store *store, const uint8_t *names, uint32_t count,
                          uint64_t now_s, uint32_t *number);
/* Claim a ticket's coins for a RAIDA, copied to `names`. Returns how many bytes they have, or an enum
 * ru_ticket_fault. */
int ru_store_claim_ticket(struct ru_store *store, uint32_t number, uint32_t raida, uint64_t now_s,
                          uint8_t *names, uint32_t bytes_max);
uint32_t ru_store_tickets_alive(struct ru_store *store, uint64_t now_s);

enum ru_view_kind {
    RU_VIEW_READS = 0,
    RU_VIEW_WRITES = 1, /* needs a store that serves */
    RU_VIEW_GLANCES =
        2, /* reads, but does not wait for a batch that is being applied: RU_STORE_BUSY */
};

/* Thread: the view's, for this function and all that follow. kind: enum ru_view_kind. */
int ru_view_open(struct ru_store *store, uint32_t kind, struct ru_view **view);
void ru_view_close(struct ru_view *view);
/* A writing view waits for its turn. */
int ru_view_begin(struct ru_view *view);
/* End and drop the changes. Does nothing when not begun. */
void ru_view_end(struct ru_view *view);
/* Make all changes durable and visible together, and end. On failure nothing has changed.
 * -ECANCELED: what it was executed on has failed. */
int ru_view_commit(struct ru_view *view);
/* A point to go back to: ru_view_undo() reverts every coin changed after it. 0: no change. */
uint32_t ru_view_mark(struct ru_view *view);
void ru_view_undo(struct ru_view *view, uint32_t mark);

/* Compare `count` coins, `stride` bytes apart in `coins`: RU_COIN_NAME_SIZE bytes each, with an AN
 * `an_at` bytes after the start. states[i] says whether that AN is the coin's. Returns how many
 * are. Each call sees one state of all its coins. */
int ru_view_match(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                  uint32_t an_at, uint8_t *states);
/* Copy the records of coins, RU_PAGE_RECORD_SIZE bytes each; zeros unless states[i] is EQUAL. Returns
 * how many were read. */
int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states);
/* Copy the RU_PAGE_SIZE bytes of a page; `state` is EQUAL, or UNREADABLE and nothing was copied. */
int ru_view_page(struct ru_view *view, uint32_t page, uint8_t *bytes, uint8_t *state);
/* In order: if the AN at `an_at` is the coin's, replace it by the AN at `new_at` and `month`. Returns
 * how many were. */
int ru_view_exchange(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                     uint32_t an_at, uint32_t new_at, uint32_t month, uint8_t *states);
/* Store the AN at `an_at` and `month` for every coin; states[i] is EQUAL where it was stored. */
int ru_view_set(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                uint32_t an_at, uint32_t month, uint8_t *states);
/* cdef: end */

_Static_assert(RU_STORE_ID_BYTES == RU_STORE_ID_SIZE, "id");

struct ru_store {
    struct ru_memory memory;
    struct ru_journal journal;
    struct ru_writer writer;
    struct ru_needs needs;
    bool serving;               /* journal and writer are open */
    uint32_t roused;            /* atomic: see ru_store_rouse() */
    struct ru_sleeper follower; /* whoever waits for changes; a commit wakes it */
};

/* Thread: any. Whether such a ticket is alive, claimed or not. */
bool ru_store_knows_ticket(const struct ru_store *store, uint32_t number, uint64_t now_s);
/* Thread: any. After -EAGAIN of a reader (memory.h): wait a moment, and return whether to try again.
 * since_ns: 0 before the first call. */
bool ru_store_waits(struct ru_store *store, uint64_t *since_ns);

#endif
