/* page.c: the page at the front of the arena, with the rings of its mailboxes. */
#include "engine/page.h"

static void page_ring(struct ru_ring *ring, uint32_t capacity, uint32_t *at)
{
    RU_CHECK(ru_number_is_power_of_two(capacity));
    ring->mask = capacity - 1;
    ring->entries_at = *at;
    *at += capacity * (uint32_t)sizeof(uint64_t);
}

int ru_page_create(struct ru_arena *arena, const struct ru_config *config)
{
    int result = ru_arena_create(arena, config, sizeof(struct ru_page));
    if (result != 0)
        return result;
    uint32_t at = arena->rings_at;
    for (uint32_t i = 0; i < ru_config_mailboxes(config); i++) {
        struct ru_mailbox *mailbox = ru_page_mailbox(arena, i);
        page_ring(&mailbox->in, arena->ring_capacity, &at);
        page_ring(&mailbox->out, arena->ring_capacity, &at);
        page_ring(&mailbox->lent[0], RU_LENT_RING, &at);
        page_ring(&mailbox->lent[1], RU_LENT_RING, &at);
    }
    RU_CHECK(at <= arena->slots_at);
    return 0;
}

void ru_page_count(const struct ru_arena *arena, uint32_t mailboxes, struct ru_counters *counters)
{
    const struct ru_page *page = ru_page_of(arena);
    ru_counters_read(&page->counters, (uint64_t *)(void *)counters);
    for (uint32_t i = 0; i < mailboxes; i++)
        ru_stats_add(counters, &ru_page_mailbox(arena, i)->counters);
}
