/* tickets.h: tickets in slots of the shared memory, taken by compare-and-swap.
 *
 * A ticket is a number that stands for coins during RU_TICKET_LIFETIME_S; each RAIDA may claim them
 * once. Any thread of any process that has the memory issues and claims tickets, and may be killed
 * in the middle of it: there is no lock. Tickets live on in a successor, and end with the memory.
 *
 * A slot is one word, the ticket's number and its expiry, so that one look says whether the slot is
 * free, and all slots are searched in 4 KB. Its coins stand elsewhere, in a list that occupies
 * memory from its first use on. A thread that has taken a slot writes its list, then publishes it.
 * One that reads a list looks at the slot's word again afterwards: if it has not changed, neither
 * has the list.
 *
 * A slot whose writer died is free once its ticket would have expired. A writer that was only
 * stopped for that long may still write to the list, which is another ticket's by then. Therefore
 * each word of a list repeats the end of its ticket's number; a list with a word of another one is
 * unknown.
 *
 * Thread: any, of any process. `now_s`: seconds since 1970; may step back.
 */
#ifndef RU_TICKETS_H
#define RU_TICKETS_H

#include <stdbool.h>
#include <stdint.h>

#include "coins/memory.h"
#include "limits.h"

/* cdef: begin */
/* Results of a claim, except RU_TICKET_FULL: of an issue. */
enum ru_ticket_fault {
    RU_TICKET_UNKNOWN = -26999, /* no such ticket, or it has expired */
    RU_TICKET_CLAIMED = -26998, /* by this RAIDA */
    RU_TICKET_LARGE = -26997,   /* more coins than there is room for: not claimed */
    RU_TICKET_FULL = -26996,    /* RU_TICKETS_MAX are alive */
};
/* cdef: end */

/* In the shared memory; every field atomic. */
struct ru_ticket_slots {
    uint64_t words[RU_TICKETS_MAX]; /* 0: neither this slot nor a later one was ever used */
    uint64_t full;                  /* until when there is no free slot, and `freed` at that time */
    uint32_t freed;                 /* slots that became free before their tickets expired */
    uint16_t backed[RU_TICKETS_MAX]; /* bytes of the list for which memory was set aside */
};

/* A ticket's coins, in the shared memory; every word atomic. */
struct ru_ticket_list {
    uint64_t claims; /* a bit for each RAIDA that has claimed them; how many there are; number */
    uint64_t coins[RU_TICKET_COINS_MAX]; /* name; number */
} __attribute__((aligned(4096)));

/* Issue a ticket for 1 to RU_TICKET_COINS_MAX coins, its number drawn at random. When none is
 * free, the oldest tickets with the same first coin end until RU_TICKETS_OF_COIN_MAX of them are
 * left. Returns 0, RU_TICKET_FULL, or -errno. */
int ru_tickets_issue(const struct ru_memory *memory, struct ru_coin_list coins, uint64_t now_s,
                     uint32_t *number);
/* The same with a number of the caller's choice. -EEXIST: it is zero or a living ticket's, or
 * the caller has been stopped for a ticket's lifetime. */
int ru_tickets_put(const struct ru_memory *memory, uint32_t number, struct ru_coin_list coins,
                   uint64_t now_s);
/* Claim a ticket's coins for a RAIDA, once: their names, RU_COIN_NAME_SIZE bytes each, to
 * `names`, which has room for `bytes_max` bytes. Returns how many bytes they have, or a fault. */
int ru_tickets_claim(const struct ru_memory *memory, uint32_t number, uint32_t raida,
                     uint64_t now_s, uint8_t *names, uint32_t bytes_max);
/* Whether such a ticket is alive, claimed or not. */
bool ru_tickets_known(const struct ru_memory *memory, uint32_t number, uint64_t now_s);
/* How many tickets have not expired. */
uint32_t ru_tickets_alive(const struct ru_memory *memory, uint64_t now_s);

#endif
