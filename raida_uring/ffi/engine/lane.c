/* lane.c: the lanes, in which requests wait for a worker. See lane.h. */
#include "engine/lane.h"

void ru_lane_check(const struct ru_lane *lane)
{
    bool empty = ru_list_is_empty(&lane->fifos[RU_UDP]) && ru_list_is_empty(&lane->fifos[RU_TCP]);
    RU_CHECK(empty == (lane->count == 0));
    RU_CHECK(lane->busy <= lane->workers);
    RU_CHECK(lane->udp_count <= lane->count);
}

void ru_lane_check_all(const struct ru_lane *lane, const struct ru_waiting *waiting)
{
    ru_lane_check(lane);
    const uint32_t udp = ru_list_check(&lane->fifos[RU_UDP], waiting->links, waiting->contexts);
    RU_CHECK(lane->udp_count == udp);
    RU_CHECK(lane->count ==
             udp + ru_list_check(&lane->fifos[RU_TCP], waiting->links, waiting->contexts));
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
    lane->udp_count += transport == RU_UDP;
    ru_lane_check(lane);
    return true;
}

static uint32_t lane_remove_first(struct ru_lane *lane, struct ru_waiting *waiting,
                                  struct ru_list *fifo)
{
    uint32_t context = fifo->first;
    ru_list_remove(fifo, waiting->links, context);
    lane->count--;
    lane->udp_count -= fifo == &lane->fifos[RU_UDP];
    ru_lane_check(lane);
    return context;
}

uint32_t ru_lane_pop(struct ru_lane *lane, struct ru_waiting *waiting)
{
    RU_CHECK(lane->count > 0);
    struct ru_list *fifo = &lane->fifos[lane->tcp_next ? RU_TCP : RU_UDP];
    if (ru_list_is_empty(fifo))
        fifo = &lane->fifos[lane->tcp_next ? RU_UDP : RU_TCP];
    lane->tcp_next = !lane->tcp_next;
    return lane_remove_first(lane, waiting, fifo);
}

uint32_t ru_lane_pop_oldest(struct ru_lane *lane, struct ru_waiting *waiting)
{
    struct ru_list *udp = &lane->fifos[RU_UDP], *tcp = &lane->fifos[RU_TCP];
    RU_CHECK(lane->count > 0);
    bool first_is_tcp =
        ru_list_is_empty(udp) ||
        (!ru_list_is_empty(tcp) && waiting->since_ns[tcp->first] < waiting->since_ns[udp->first]);
    return lane_remove_first(lane, waiting, first_is_tcp ? tcp : udp);
}

bool ru_lane_shares_out(const struct ru_lane *lane)
{
    return lane->udp_count >= lane->udp_max;
}

uint64_t ru_lane_stale_ns(const struct ru_lane *lane, const struct ru_waiting *waiting)
{
    if (lane->count == 0 || lane->age_max_ns == UINT64_MAX)
        return UINT64_MAX;
    return ru_lane_oldest_ns(lane, waiting) + lane->age_max_ns;
}

uint64_t ru_lane_oldest_ns(const struct ru_lane *lane, const struct ru_waiting *waiting)
{
    uint64_t oldest_ns = UINT64_MAX;
    for (uint32_t transport = 0; transport < 2; transport++)
        if (!ru_list_is_empty(&lane->fifos[transport]))
            oldest_ns = ru_number_min64(oldest_ns, waiting->since_ns[lane->fifos[transport].first]);
    return oldest_ns == UINT64_MAX ? 0 : oldest_ns;
}
