/* timer.c: a hashed timer wheel over preallocated nodes.
 *
 * Why a wheel and not a heap: connections move their deadline far more often than they reach it.
 * A deadline further away than one revolution of the wheel stays in its bucket and is examined once
 * per revolution: every 17 s with 1,024 buckets of 17 ms.
 */
#include "memory/timer.h"

#include "check.h"
#include "limits.h"

static uint64_t timer_tick(uint64_t ns)
{
    return ns / RU_TICK_NS;
}

void ru_timer_init(struct ru_timer *timer, struct ru_timer_node *nodes, struct ru_link *links,
                   uint32_t count, uint64_t now_ns)
{
    timer->nodes = nodes;
    timer->links = links;
    timer->count = count;
    timer->set_count = 0;
    timer->tick = timer_tick(now_ns);
    for (uint32_t i = 0; i < RU_TIMER_BUCKETS; i++)
        timer->buckets[i] = RU_LIST_EMPTY;
    for (uint32_t i = 0; i < RU_TIMER_BUCKETS / 64; i++)
        timer->occupied[i] = 0;
    for (uint32_t i = 0; i < count; i++)
        nodes[i] = (struct ru_timer_node){.bucket = RU_NONE};
}

void ru_timer_check(const struct ru_timer *timer)
{
    uint32_t listed = 0, set = 0;
    for (uint32_t bucket = 0; bucket < RU_TIMER_BUCKETS; bucket++) {
        const struct ru_list *list = &timer->buckets[bucket];
        bool occupied = timer->occupied[bucket / 64] & 1ULL << (bucket % 64);
        RU_CHECK(occupied == !ru_list_is_empty(list));
        listed += ru_list_check(list, timer->links, timer->count);
        for (uint32_t i = list->first; i != RU_NONE; i = timer->links[i].next)
            RU_CHECK(timer->nodes[i].bucket == bucket);
    }
    for (uint32_t i = 0; i < timer->count; i++)
        set += timer->nodes[i].bucket != RU_NONE;
    RU_CHECK(listed == set && set == timer->set_count);
}

void ru_timer_clear(struct ru_timer *timer, uint32_t index)
{
    RU_CHECK(index < timer->count);
    struct ru_timer_node *node = &timer->nodes[index];
    if (node->bucket == RU_NONE)
        return;
    RU_CHECK(timer->set_count > 0);
    ru_list_remove(&timer->buckets[node->bucket], timer->links, index);
    if (ru_list_is_empty(&timer->buckets[node->bucket]))
        timer->occupied[node->bucket / 64] &= ~(1ULL << (node->bucket % 64));
    node->bucket = RU_NONE;
    timer->set_count--;
}

void ru_timer_set(struct ru_timer *timer, uint32_t index, uint64_t deadline_ns)
{
    ru_timer_clear(timer, index);
    /* +1: a bucket is examined after its whole tick has passed, so no deadline expires early. */
    uint64_t tick = timer_tick(deadline_ns) + 1;
    if (tick < timer->tick)
        tick = timer->tick;
    uint32_t bucket = (uint32_t)(tick % RU_TIMER_BUCKETS);
    timer->nodes[index] = (struct ru_timer_node){.deadline_ns = deadline_ns, .bucket = bucket};
    ru_list_append(&timer->buckets[bucket], timer->links, index);
    timer->occupied[bucket / 64] |= 1ULL << (bucket % 64);
    timer->set_count++;
}

/* Looks at the buckets between the last look and now; those of a later turn of the wheel stay where
 * they are. The current tick's bucket is looked at again next time, since it may still get
 * nodes. */
uint32_t ru_timer_expire(struct ru_timer *timer, uint64_t now_ns)
{
    uint64_t now_tick = timer_tick(now_ns);
    if (timer->set_count == 0) {
        timer->tick = now_tick;
        return RU_NONE;
    }
    if (now_tick - timer->tick >= RU_TIMER_BUCKETS && now_tick > timer->tick)
        timer->tick = now_tick - RU_TIMER_BUCKETS + 1; /* one revolution covers every bucket */
    for (; timer->tick <= now_tick; timer->tick++) {
        uint32_t bucket = (uint32_t)(timer->tick % RU_TIMER_BUCKETS);
        if (!(timer->occupied[bucket / 64] & 1ULL << (bucket % 64)))
            continue;
        for (uint32_t i = timer->buckets[bucket].first; i != RU_NONE; i = timer->links[i].next) {
            if (timer->nodes[i].deadline_ns <= now_ns) {
                ru_timer_clear(timer, i);
                return i;
            }
        }
        if (timer->tick == now_tick)
            break;
    }
    return RU_NONE;
}

uint64_t ru_timer_wait_ns(const struct ru_timer *timer, uint64_t now_ns)
{
    if (timer->set_count == 0)
        return UINT64_MAX;
    for (uint32_t step = 0; step <= RU_TIMER_BUCKETS;) {
        uint64_t tick = timer->tick + step;
        uint32_t bucket = (uint32_t)(tick % RU_TIMER_BUCKETS);
        uint64_t rest = timer->occupied[bucket / 64] >> (bucket % 64);
        if (rest) {
            uint64_t due = (tick + (uint32_t)__builtin_ctzll(rest)) * RU_TICK_NS;
            if (due > now_ns)
                return due - now_ns;
            /* The current bucket has only far deadlines: look again at the next tick. */
            return RU_TICK_NS - now_ns % RU_TICK_NS;
        }
        step += 64 - bucket % 64;
    }
    return RU_TICK_NS;
}
