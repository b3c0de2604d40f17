/* page.h: the page at the front of the arena: what the loop publishes, and a mailbox per worker.
 *
 * A process that maps the arena finds the page at arena->page_at. Each field has one writer: the one
 * that its comment names, or the loop.
 */
#ifndef RU_PAGE_H
#define RU_PAGE_H

#include <stdint.h>

#include "count/hist.h"
#include "count/stats.h"
#include "memory/arena.h"
#include "memory/ring.h"
#include "memory/roots.h"
#include "memory/sleeper.h"
#include "ru.h"

/* Between the loop and one worker. */
struct ru_mailbox {
    struct ru_ring in;      /* tokens to the worker */
    struct ru_ring out;     /* tokens back */
    struct ru_ring lent[2]; /* blocks lent in advance: small, large */
    struct ru_sleeper sleeper;
    _Alignas(RU_CACHE_LINE) uint32_t closed; /* loop: no more tokens will come */
    uint32_t open;                           /* worker: a handle exists */
    uint64_t busy_ns;                        /* worker: spent on requests since it was opened */
    struct ru_worker_counters counters;      /* worker */
};

struct ru_page {
    struct ru_counters_page counters;
    struct ru_gauges_page gauges;
    struct ru_hist histograms[RU_HISTOGRAM_COUNT];
    struct ru_roots roots;
    uint8_t classes[RU_COMMANDS_COUNT];
    struct ru_sleeper loop_sleeper;
    struct ru_mailbox mailboxes[RU_WORKERS_MAX];
};

/* Map an arena with such a page at its front and the rings of its mailboxes behind it. 0 or -errno,
 * as ru_arena_create(). */
int ru_page_create(struct ru_arena *arena, const struct ru_config *config);
/* Thread: any. One consistent set of the loop's counters, and what each worker has counted so far. */
void ru_page_count(const struct ru_arena *arena, uint32_t mailboxes, struct ru_counters *counters);

static inline struct ru_page *ru_page_of(const struct ru_arena *arena)
{
    return (struct ru_page *)(void *)(arena->base + arena->page_at);
}

static inline struct ru_mailbox *ru_page_mailbox(const struct ru_arena *arena, uint32_t worker)
{
    RU_CHECK(worker < RU_WORKERS_MAX);
    return &ru_page_of(arena)->mailboxes[worker];
}

#endif
