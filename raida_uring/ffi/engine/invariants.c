/* invariants.c: what holds between two laps, whatever has happened.
 *
 * Every context, block and buffer is in exactly one place, and each count is the sum of what it
 * counts. What the kernel and the workers hold is seen here by the engine's own books alone.
 */
#include "engine/invariants.h"

#include "engine/engine.h"

/* ---- cheap ---- */

static void invariants_check_memory(const struct ru_engine *engine)
{
    const struct ru_blocks *blocks = &engine->blocks;
    uint32_t lent = 0, target = 0;
    for (uint32_t size_class = 0; size_class < 2; size_class++) {
        RU_CHECK(blocks->free_count[size_class] + engine->lent_count[size_class] <=
                 blocks->count[size_class]);
        lent += engine->lent_count[size_class];
        target += engine->lent_target[size_class];
    }
    RU_CHECK(lent + engine->lent_missing == ru_config_workers(&engine->config) * target);
    RU_CHECK(engine->buffers_free <= engine->config.tcp_buffers);
}

void ru_invariants_check_lap(const struct ru_engine *engine)
{
    const struct ru_counters *counters = &engine->counters;
    const struct ru_udp_pool *udp = &engine->udp;
    const struct ru_conns *conns = &engine->conns;
    uint32_t queued = 0;
    for (uint32_t number = 0; number < RU_LANES; number++) {
        ru_lane_check(&engine->lanes[number]);
        queued += engine->lanes[number].count;
    }
    RU_CHECK(queued <= udp->counts[RU_UDP_QUEUED] + conns->used_count);
    RU_CHECK(queued >= udp->counts[RU_UDP_QUEUED]);
    RU_CHECK(udp->counts[RU_UDP_LOOP] == 0);
    RU_CHECK(udp->counts[RU_UDP_SENDING] == engine->sending_count);
    RU_CHECK(conns->used_count <= conns->capacity);
    RU_CHECK(counters->connections_open <= conns->used_count);
    RU_CHECK(counters->tcp_in_flight <= conns->used_count);
    RU_CHECK(engine->timers.set_count <= conns->used_count);
    RU_CHECK(!engine->hand_over_stuck || ru_engine_hands_over(engine));
    invariants_check_memory(engine);
}

/* ---- whole ---- */

/* What all connections have of it, together. */
struct invariants_conns {
    uint32_t used, queued, with_worker, operations, unread, waiting, waiting_blocks[2], blocks;
};

static void invariants_check_conn(const struct ru_engine *engine, uint32_t index,
                                  struct invariants_conns *sums)
{
    const struct ru_conn *conn = &engine->conns.conns[index];
    const struct ru_blocks *blocks = &engine->blocks;
    if (conn->state == RU_CONN_FREE) {
        RU_CHECK(conn->fd < 0 && !conn->awaits_memory && ru_list_is_empty(&conn->unread));
        return;
    }
    sums->used++;
    sums->queued += conn->queued;
    sums->with_worker += conn->with_worker;
    sums->operations += conn->receiving;
    sums->operations += conn->sending;
    sums->unread += ru_list_check(&conn->unread, engine->unread_links, engine->config.tcp_buffers);
    sums->waiting += conn->awaits_memory;
    sums->waiting_blocks[ru_conn_block_class(conn)] += conn->state == RU_CONN_WAIT_BLOCK;
    sums->blocks += conn->body_block != RU_NONE;
    sums->blocks += conn->reply_block != RU_NONE && conn->reply_block != conn->body_block;
    RU_CHECK(conn->body_block == RU_NONE ||
             blocks->owners[conn->body_block] == engine->arena.slots + index);
    RU_CHECK(conn->reply_block == RU_NONE ||
             blocks->owners[conn->reply_block] == engine->arena.slots + index);
    RU_CHECK(conn->fd >= 0 || conn->state == RU_CONN_DONE);
    RU_CHECK(!conn->cancelling || conn->receiving);
}

static struct invariants_conns invariants_check_conns(const struct ru_engine *engine)
{
    const struct ru_conns *conns = &engine->conns;
    struct invariants_conns sums = {0};
    uint32_t free_count = 0, waiting = 0;
    for (uint32_t index = 0; index < conns->capacity; index++)
        invariants_check_conn(engine, index, &sums);
    for (uint32_t i = conns->free_head; i != RU_NONE; i = conns->conns[i].next, free_count++)
        RU_CHECK(conns->conns[i].state == RU_CONN_FREE && free_count < conns->capacity);
    RU_CHECK(sums.used == conns->used_count && sums.used + free_count == conns->capacity);
    RU_CHECK(sums.waiting_blocks[RU_BLOCK_SMALL] == conns->waiting_counts[RU_BLOCK_SMALL] &&
             sums.waiting_blocks[RU_BLOCK_LARGE] == conns->waiting_counts[RU_BLOCK_LARGE]);
    for (uint32_t shortage = 0; shortage < RU_SHORTAGES; shortage++) {
        const struct ru_list *queue = &engine->memory_queues[shortage];
        waiting += ru_list_check(queue, engine->memory_links, conns->capacity);
        for (uint32_t i = queue->first; i != RU_NONE; i = engine->memory_links[i].next)
            RU_CHECK(conns->conns[i].awaits_memory && conns->conns[i].shortage == shortage);
    }
    RU_CHECK(sums.waiting == waiting);
    RU_CHECK(sums.unread + engine->buffers_free == engine->config.tcp_buffers);
    return sums;
}

/* By the owner of each block, not by the mailboxes: workers write there, too, and are not trusted.
 * Returns how many blocks are contexts'. */
static uint32_t invariants_check_blocks(const struct ru_engine *engine)
{
    const struct ru_blocks *blocks = &engine->blocks;
    const uint32_t workers = ru_config_workers(&engine->config);
    uint32_t lent[RU_WORKERS_MAX][2] = {0}, contexts = 0;
    ru_blocks_check(blocks);
    for (uint32_t block = 0; block < blocks->count[0] + blocks->count[1]; block++) {
        uint32_t owner = blocks->owners[block];
        contexts += owner < engine->arena.contexts;
        if (owner == RU_NONE || owner < engine->arena.contexts)
            continue;
        RU_CHECK(owner - ru_block_worker(0) < workers);
        lent[owner - ru_block_worker(0)][ru_block_class(blocks, block)]++;
    }
    for (uint32_t worker = 0; worker < workers; worker++)
        for (uint32_t size_class = 0; size_class < 2; size_class++) {
            RU_CHECK(engine->workers[worker].lent[size_class] == lent[worker][size_class]);
            RU_CHECK(lent[worker][size_class] <= engine->lent_target[size_class]);
        }
    return contexts;
}

/* The tokens that workers hold, together. */
static uint32_t invariants_check_lanes(const struct ru_engine *engine)
{
    uint32_t outstanding = 0, lent[2] = {0};
    for (uint32_t number = 0; number < RU_LANES; number++) {
        const struct ru_lane *lane = &engine->lanes[number];
        uint32_t busy = 0;
        ru_lane_check_all(lane, &engine->waiting);
        for (uint32_t i = 0; i < lane->workers; i++) {
            const struct ru_worker_state *state = &engine->workers[lane->first_worker + i];
            RU_CHECK(state->outstanding <= state->batch && state->batch <= RU_BATCH_MAX);
            busy += state->outstanding > 0;
            outstanding += state->outstanding;
            lent[RU_BLOCK_SMALL] += state->lent[RU_BLOCK_SMALL];
            lent[RU_BLOCK_LARGE] += state->lent[RU_BLOCK_LARGE];
        }
        RU_CHECK(busy == lane->busy);
    }
    RU_CHECK(lent[RU_BLOCK_SMALL] == engine->lent_count[RU_BLOCK_SMALL] &&
             lent[RU_BLOCK_LARGE] == engine->lent_count[RU_BLOCK_LARGE]);
    return outstanding;
}

void ru_invariants_check_all(const struct ru_engine *engine)
{
    ru_invariants_check_lap(engine);
    ru_timer_check(&engine->timers);
    struct invariants_conns sums = invariants_check_conns(engine);
    uint32_t outstanding = invariants_check_lanes(engine), queued = 0, operations = 0;
    uint32_t blocks = sums.blocks;
    for (uint32_t number = 0; number < RU_LANES; number++)
        queued += engine->lanes[number].count;
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        operations += engine->listeners[i].accepting;
        operations += engine->listeners[i].receiving;
    }
    RU_CHECK(queued == engine->udp.counts[RU_UDP_QUEUED] + sums.queued);
    RU_CHECK(outstanding == engine->udp.counts[RU_UDP_WORKER] + sums.with_worker);
    if (engine->phase != RU_ENDING) /* one more: the eventfd is watched */
        RU_CHECK(engine->operations == operations + sums.operations + 1);
    for (uint32_t i = 0; i < engine->sending_count; i++) {
        blocks += engine->sending[i].block != RU_NONE;
        RU_CHECK(engine->sending[i].block == RU_NONE ||
                 engine->blocks.owners[engine->sending[i].block] == engine->sending[i].slot);
    }
    RU_CHECK(blocks == invariants_check_blocks(engine)); /* none is a context's that forgot it */
}
