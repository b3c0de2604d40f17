/* lane.c: the lanes, in which requests wait for a worker. See lane.h. */
#include "engine/lane.h"

void ru_lane_check(const struct ru_lane *lane)
{
    bool empty = ru_list_is_empty(&lane->fifos[RU_UDP]) && ru_list_is_empty(&lane->fifos[RU_TCP]);
    RU_CHECK(empty == (lane->count == 0));
    RU_CHECK(lane->busy <= lane->workers);
}

void ru_lane_check_all(const struct ru_lane *lane, const struct ru_waiting *waiting)
{
    ru_lane_check(lane);
    RU_CHECK(lane->count ==
             ru_list_check(&lane->fifos[RU_UDP], waiting->links, waiting->contexts) +
                 ru_list_check(&lane->fifos[RU_TCP], waiting->links, waiting->contexts));
}

bool ru_lane_push(struct ru_lane *lane, struct ru_waiting *waiting, enum ru_transport transport,
                  uint32_t context, uint64_t now_ns)
{
    RU_CHECK(context < waiting->contexts);
    if (lane->count >= lane->queue_max)
        return false;
    ru_list_append(&lane->fifos[transport], waiting->links, context);
    waiting->since_ns[context] = now_ns;
    lane->count++;
    ru_lane_check(lane);
    return true;
}

uint32_t ru_lane_pop(struct ru_lane *lane, struct ru_waiting *waiting)
{
    RU_CHECK(lane->count > 0);
    struct ru_list *fifo = &lane->fifos[lane->tcp_next ? RU_TCP : RU_UDP];
    if (ru_list_is_empty(fifo))
        fifo = &lane->fifos[lane->tcp_next ? RU_UDP : RU_TCP];
    lane->tcp_next = !lane->tcp_next;
    uint32_t context = fifo->first;
    ru_list_remove(fifo, waiting->links, context);
    lane->count--;
    ru_lane_check(lane);
    return context;
}

uint64_t ru_lane_oldest_ns(const struct ru_lane *lane, const struct ru_waiting *waiting)
{
    uint64_t oldest_ns = UINT64_MAX;
    for (uint32_t transport = 0; transport < 2; transport++)
        if (!ru_list_is_empty(&lane->fifos[transport]))
            oldest_ns = ru_number_min64(oldest_ns, waiting->since_ns[lane->fifos[transport].first]);
    return oldest_ns == UINT64_MAX ? 0 : oldest_ns;
}
