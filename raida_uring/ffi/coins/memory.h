/* memory.h: every coin's AN and month in shared memory, read without a lock.
 *
 * A batch of changes has a number, that of its record in the journal, and becomes visible as a
 * whole. A reader notes the number of the newest batch, copies what it needs, and then looks whether
 * a later batch has touched one of the pages it read; if so, it reads again. So it always sees the
 * state after one batch, whatever the number of pages, and never waits for the writer.
 *
 * The number of the last batch that changed a page stands beside the page. Followers of the coins
 * (checkpoint, integrity trees) compare these numbers with the one they have reached and need no list
 * of changed pages.
 *
 * A page's ANs and its months are stored apart: an AN never crosses a cache line, and comparing ANs
 * reads no month. A record that was never written has no bit and is computed from the seed; the bit
 * is read before the record, because reading memory that was never written would allocate it.
 *
 * Memory: a memfd that is passed on at an upgrade, with the tickets behind the coins; pages without
 * a written record occupy none of it. Thread: readers any, one writer. Every word that both touch is
 * atomic.
 */
#ifndef RU_MEMORY_H
#define RU_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "coins/coin.h"
#include "coins/defaults.h"
#include "limits.h"

/* What a page is. A new memory has BLANK pages only. */
enum ru_page_state {
    RU_PAGE_BLANK = 0,      /* no record of it was ever written */
    RU_PAGE_WRITTEN = 1,    /* some were; the others are default records */
    RU_PAGE_UNREADABLE = 2, /* its file was imported incomplete: its coins cannot be checked */
};

/* One changed record. */
struct ru_change {
    uint32_t coin; /* its number (coin.h) */
    uint8_t an[RU_AN_SIZE];
    uint8_t month;
};

/* Coins as a payload lists them: `count` of them, `stride` bytes apart, each starting with its
 * denomination and serial number. */
struct ru_coin_list {
    const uint8_t *at;
    uint32_t count;
    uint32_t stride;
};

/* Where the journal stands, for the process that appends next. Under the writer's lock. */
struct ru_position {
    uint64_t segment; /* its index */
    uint64_t bytes;   /* of that segment */
    uint64_t at;      /* where the next entry goes */
    uint64_t last;    /* number of the newest entry */
    uint64_t durable; /* of the newest that is certainly on the disk */
    uint64_t unsure;  /* where a start found entries that may not be: from here on in the segment */
    uint32_t crc;     /* of entry `last` */
    int32_t failed; /* -errno of a flush: what is on the disk is unknown, nothing more is written */
    uint32_t dirty; /* a batch is being committed: if its process has died, read the journal */
    uint32_t wanted; /* processes that wait for the writer's lock, or died doing so; atomic */
    uint32_t taken;  /* how often it was taken; atomic */
};

/* The first page of the memfd: what every process that attaches to it must agree with. */
struct ru_memory_head {
    uint64_t magic;
    uint32_t version; /* of this layout */
    uint32_t head_bytes;
    uint64_t size_bytes;
    uint64_t started;     /* number of the newest batch that is or was being applied */
    uint64_t applied;     /* number of the newest batch that is visible */
    uint64_t reserved;    /* bytes of pages for which the kernel has set memory aside */
    uint64_t lock_device; /* of the file that processes lock while they write */
    uint64_t lock_inode;
    struct ru_position position;
    struct ru_defaults seed;
};

struct ru_ticket_list; /* tickets.h */
struct ru_ticket_slots;

/* One process's mapping. */
struct ru_memory {
    int fd;
    struct ru_memory_head *head;
    uint64_t *numbers; /* of the last batch that changed the page */
    uint8_t *states;   /* enum ru_page_state, and RU_PAGE_RESERVED */
    uint64_t *written; /* one bit a record */
    uint8_t *months;
    uint64_t *ans; /* two words a record */
    struct ru_ticket_slots *tickets;
    struct ru_ticket_list *ticket_lists; /* RU_TICKETS_MAX */
};

/* ---- create, attach, detach: thread any ---- */

/* A new memory without a written record. Returns 0 or -errno. */
int ru_memory_create(struct ru_memory *memory, const struct ru_defaults *seed);
/* Map the memory behind `fd`, which another process created; on success `memory` owns the
 * descriptor. Returns 0; -EPROTO: of another layout, or no memory of coins; or another -errno. */
int ru_memory_attach(struct ru_memory *memory, int fd);
/* Unmap and close; the coins live on in other processes that have attached. */
void ru_memory_detach(struct ru_memory *memory);
/* Have the kernel set memory aside for `bytes` bytes of the mapping, from `at` on: on a full machine
 * a write to them would otherwise be a SIGBUS. Returns 0 or -errno. */
int ru_memory_set_aside(const struct ru_memory *memory, const void *at, uint64_t bytes);

/* ---- read: thread any ---- */

/* Compare the AN `an_at` bytes after each coin's start with the one in memory, in constant time:
 * states[i] is EQUAL, DIFFERS or UNREADABLE. Returns how many are equal, all in the state after one
 * batch, or -EAGAIN if changes came between in each of RU_MEMORY_TRIES attempts. */
int ru_memory_match(const struct ru_memory *memory, struct ru_coin_list coins, uint32_t an_at,
                    uint8_t *states);
/* Copy the records, RU_PAGE_RECORD_SIZE bytes each, zeros if UNREADABLE. Returns how many were
 * readable, or -EAGAIN as above. */
int ru_memory_gather(const struct ru_memory *memory, struct ru_coin_list coins, uint8_t *records,
                     uint8_t *states);
/* Copy a page as the wire has it, RU_PAGE_SIZE bytes, unless UNREADABLE. `number`: of the batch that
 * changed it last. Returns its state, or -EAGAIN as above. */
int ru_memory_page(const struct ru_memory *memory, uint32_t page, uint8_t *bytes, uint64_t *number);
/* Copy what the page's leaf is the hash of, RU_STORE_SELECTED bytes: the ANs of coins in
 * circulation, zeros for the others. `circulating`: how many there are. Returns as above. */
int ru_memory_select(const struct ru_memory *memory, uint32_t page, uint8_t *selected,
                     uint32_t *circulating, uint64_t *number);

/* Number of the newest batch that is visible. */
static inline uint64_t ru_memory_applied(const struct ru_memory *memory)
{
    return __atomic_load_n(&memory->head->applied, __ATOMIC_ACQUIRE);
}

/* Number of the last batch that changed the page, or is changing it. */
static inline uint64_t ru_memory_number(const struct ru_memory *memory, uint32_t page)
{
    return __atomic_load_n(&memory->numbers[page], __ATOMIC_ACQUIRE);
}

enum ru_page_state ru_memory_state(const struct ru_memory *memory, uint32_t page);

/* ---- write: one thread ---- */

/* The record of the coin with number `coin`, without the check for later batches: only the writer may
 * use it. Returns its page's state; `record` is not set if UNREADABLE. */
enum ru_page_state ru_memory_record(const struct ru_memory *memory, uint32_t coin, uint8_t *record);
/* Have the kernel set memory aside for every page that `changes` touch for the first time, so that
 * ru_memory_apply() cannot fail. Returns 0 or -errno, such as -ENOSPC or -ENOMEM. */
int ru_memory_reserve(struct ru_memory *memory, const struct ru_change *changes, uint32_t count);
/* Make batch `number` visible: it is higher than every earlier one, and its pages are reserved and
 * readable. A coin may occur more than once; the last change remains. */
void ru_memory_apply(struct ru_memory *memory, uint64_t number, const struct ru_change *changes,
                     uint32_t count);

/* ---- fill, before anybody reads: one thread for a page ---- */

/* Replace a whole page by `bytes` of the wire's form or, if NULL, by UNREADABLE. number: of the last
 * batch in it. Returns 0 or -errno. */
int ru_memory_load(struct ru_memory *memory, uint32_t page, const uint8_t *bytes, uint64_t number);
/* Apply batch `number` of the journal to those pages that do not have it yet. Returns 0 or -errno. */
int ru_memory_replay(struct ru_memory *memory, uint64_t number, const struct ru_change *changes,
                     uint32_t count);
/* Everything up to batch `number` is there: from now on it may be read. */
void ru_memory_ready(struct ru_memory *memory, uint64_t number);

#endif
