/* invariants.c: what holds whenever the loop is about to wait, beside the engine's own invariants.
 *
 * The sums balance; the node's books agree with the kernel's and the workers'; whoever has to be
 * served next is known to somebody who will.
 */
#include "life.h"

#include <string.h>

#include "engine/invariants.h"

#define SPIN_LAPS_MAX 100

/* ---- sums ---- */

static uint64_t sum_of(const struct ru_counters *counters, const char *prefix)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < RU_COUNTERS_COUNT; i++)
        if (strncmp(ru_counters_row(i)->name, prefix, strlen(prefix)) == 0)
            sum += ((const uint64_t *)(const void *)counters)[i];
    return sum;
}

/* What native commands have done is counted once their changes are durable. */
static void check_native(const struct life *life, const struct ru_counters *counters)
{
    const struct life_native *native = &life->native;
    check(counters->echoes_worked == native->echoes, "echoes", counters->echoes_worked);
    check(counters->coins_powned == native->coins, "coins changed", counters->coins_powned);
    check(counters->value_powned == native->value, "their value", counters->value_powned);
    check(counters->checks_failed >= native->told_wrong + native->slow_wrong,
          "wrong guesses that do not count", counters->checks_failed);
}

static void check_laws(const struct life *life)
{
    struct ru_counters counters;
    ru_engine_counters(life->engine, (uint64_t *)(void *)&counters);
    check(counters.udp_received ==
              counters.udp_answered + sum_of(&counters, "udp_dropped_") + counters.udp_in_flight,
          "datagrams do not add up", counters.udp_received);
    check(counters.udp_answered <= sim_totals()->datagrams_sent, "answered without a reply",
          counters.udp_answered);
    check(counters.tcp_requests ==
              counters.tcp_answered + sum_of(&counters, "tcp_dropped_") + counters.tcp_in_flight,
          "requests do not add up", counters.tcp_requests);
    check(counters.connections_accepted ==
              sum_of(&counters, "connections_closed_") + counters.connections_open,
          "connections do not add up", counters.connections_accepted);
    check_native(life, &counters);
}

/* ---- contexts ---- */

/* Times that each context was met: on the free stack, in a FIFO, among the replies being sent. */
struct places {
    uint8_t free[SIM_PEERS_MAX * 4], queued[SIM_PEERS_MAX * 4], sending[SIM_PEERS_MAX * 4];
};

static void find_places(const struct ru_engine *engine, struct places *places)
{
    const struct ru_udp_pool *pool = &engine->udp;
    memset(places, 0, sizeof(*places));
    for (uint32_t i = pool->free_head; i != RU_NONE; i = pool->contexts[i].next)
        check(++places->free[i] == 1, "context free twice", i);
    for (uint32_t number = 0; number < RU_LANES; number++)
        for (uint32_t transport = 0; transport < 2; transport++) {
            uint32_t i = engine->lanes[number].fifos[transport].first;
            for (; i != RU_NONE; i = engine->waiting.links[i].next)
                check(++places->queued[i] == 1, "context queued twice", i);
        }
    for (uint32_t i = 0; i < engine->sending_count; i++)
        check(++places->sending[engine->sending[i].slot] == 1, "context sent twice", i);
}

static bool receiving_datagrams(const struct ru_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.listeners_count; i++)
        if (sim_operation_live(RU_OP_DATAGRAMS, i, 0, -1))
            return true;
    return false;
}

static void check_datagrams(const struct ru_engine *engine, const struct places *places)
{
    uint32_t counts[RU_UDP_PLACES] = {0};
    bool lending = engine->phase == RU_SERVING || receiving_datagrams(engine);
    for (uint32_t i = 0; i < engine->udp.capacity; i++) {
        uint8_t place = engine->udp.contexts[i].place;
        counts[place]++;
        check(places->free[i] == (place == RU_UDP_FREE), "free context", i);
        check(places->queued[i] == (place == RU_UDP_QUEUED), "queued context", i);
        check(places->sending[i] == (place == RU_UDP_SENDING), "context being sent", i);
        check(!lending || sim_slot_lent(i) == (place == RU_UDP_LENT), "lent context", i);
        check(place != RU_UDP_LOOP, "context left in the loop", i);
    }
    check(memcmp(counts, engine->udp.counts, sizeof(counts)) == 0, "counts of contexts", 0);
}

/* ---- workers ---- */

static void check_worker(const struct life *life, uint32_t number)
{
    const struct ru_engine *engine = life->engine;
    const struct life_worker *worker = &life->workers[number];
    const struct ru_record *records = ru_worker_records(worker->handle);
    uint32_t held = worker->count - worker->answered;
    const struct ru_mailbox *mailbox = ru_page_mailbox(&engine->arena, number);
    const struct ru_worker_state *state = &engine->workers[number];
    check(held + ru_ring_count(&mailbox->in) <= state->outstanding, "tokens of a worker", number);
    for (uint32_t size_class = 0; size_class < 2; size_class++)
        check(ru_ring_count(&mailbox->lent[size_class]) <= state->lent[size_class],
              "blocks in a mailbox", number);
    for (uint32_t i = worker->answered; i < worker->count; i++) {
        uint64_t token = records[i].token;
        check(ru_udp_token_valid(&engine->udp, token, number) ||
                  ru_conn_token_valid(&engine->conns, token, number),
              "context taken from its worker", ru_token_index(token));
    }
}

static void check_worker_woken(struct life *life, uint32_t number)
{
    struct life_worker *worker = &life->workers[number];
    struct ru_mailbox *mailbox = &ru_page_of(&life->engine->arena)->mailboxes[number];
    if (worker->asleep && sim_futex_woken(&mailbox->sleeper.asleep))
        worker->asleep = false;
    check(!worker->asleep || ru_ring_count(&mailbox->in) == 0, "a worker sleeps on its work",
          number);
}

/* ---- connections ---- */

static void check_memory_queues(const struct ru_engine *engine)
{
    const struct ru_list *queues = engine->memory_queues;
    check(engine->buffers_free == 0 || ru_list_is_empty(&queues[RU_SHORT_OF_BUFFER]),
          "sleeps on free buffers", engine->buffers_free);
    for (uint32_t size_class = 0; size_class < 2; size_class++)
        check(engine->blocks.free_count[size_class] == 0 || ru_list_is_empty(&queues[size_class]),
              "sleeps on free blocks", size_class);
}

static void check_conn_operations(const struct ru_engine *engine, uint32_t index)
{
    const struct ru_conn *conn = &engine->conns.conns[index];
    check(sim_operation_live(RU_OP_RECEIVE, index, conn->generation, conn->fd) == conn->receiving,
          "receive", index);
    check(sim_operation_live(RU_OP_SEND, index, conn->generation,
                             conn->closes_itself ? -1 : conn->fd) == conn->sending,
          "send", index);
    check((conn->state == RU_CONN_WRITE) <= conn->sending, "reply that nobody sends", index);
    if (conn->state == RU_CONN_WAIT_BLOCK)
        check(conn->awaits_memory && conn->shortage != RU_SHORT_OF_BUFFER,
              "body that nobody awaits", index);
    if (ru_conn_reading(conn) || conn->state == RU_CONN_LINGER)
        check(conn->receiving || (conn->awaits_memory && conn->shortage == RU_SHORT_OF_BUFFER),
              "connection that nobody listens to", index);
    if (conn->state == RU_CONN_PROCESSING)
        check(conn->queued != conn->with_worker, "request that nobody handles", index);
    if (conn->state == RU_CONN_DONE)
        check(conn->fd < 0 ? conn->queued || conn->with_worker : conn->receiving || conn->sending,
              "closed connection that nobody awaits", index);
}

/* What a new time-out puts into the past is noticed as late as what has just come up. */
static bool deadline_met(const struct life *life, uint64_t deadline_ns)
{
    const struct ru_call *call = &life->engine->call;
    if (call->state == RU_CALL_DONE && call->kind == RU_CALL_LIVE)
        return true;
    if (deadline_ns < life->moved_ns)
        deadline_ns = life->moved_ns;
    /* Those of a lap that could not take all that it found are judged later. */
    return life->engine->untaken > 0 || deadline_ns + 2 * RU_TICK_NS > life->engine->judged_ns;
}

static void check_conn(const struct life *life, uint32_t index, const struct places *places)
{
    const struct ru_engine *engine = life->engine;
    const struct ru_conn *conn = &engine->conns.conns[index];
    enum ru_closed_reason reason;
    uint64_t deadline_ns = ru_conn_deadline_ns(&engine->conns, index, &reason);
    check(places->queued[engine->arena.slots + index] == conn->queued, "queued connection", index);
    if (conn->state == RU_CONN_FREE)
        return;
    check_conn_operations(engine, index);
    if (deadline_ns == UINT64_MAX || engine->phase >= RU_FORCED)
        return;
    check(engine->timer_nodes[index].bucket != RU_NONE &&
              engine->timer_nodes[index].deadline_ns <= deadline_ns,
          "deadline that nobody watches", index);
    if (life->handing_over && !sim_other_ended() && engine->phase == RU_DRAINING &&
        ru_conn_idle(conn) && !conn->sending)
        check(conn->cancelling || engine->hand_over_stuck, "idle connection that nobody passes on",
              index);
    check(deadline_met(life, deadline_ns), "deadline missed", index);
}

/* ---- memory ---- */

static void own(uint32_t *owners, uint32_t block, uint32_t owner)
{
    if (block == RU_NONE)
        return;
    check(owners[block] == RU_NONE || owners[block] == owner, "block of two", block);
    owners[block] = owner;
}

static void check_blocks(const struct ru_engine *engine)
{
    const struct ru_blocks *blocks = &engine->blocks;
    uint32_t owners[256];
    uint32_t count = blocks->count[0] + blocks->count[1];
    memset(owners, 0xFF, sizeof(owners));
    for (uint32_t i = 0; i < engine->conns.capacity; i++) {
        const struct ru_conn *conn = &engine->conns.conns[i];
        if (conn->state == RU_CONN_FREE)
            continue;
        own(owners, conn->body_block, engine->arena.slots + i);
        own(owners, conn->reply_block, engine->arena.slots + i);
    }
    for (uint32_t i = 0; i < engine->sending_count; i++)
        own(owners, engine->sending[i].block, engine->sending[i].slot);
    for (uint32_t block = 0; block < count; block++) {
        uint32_t owner = blocks->owners[block];
        bool workers = owner != RU_NONE && (owner & ru_block_worker(0));
        check(owners[block] == (workers ? RU_NONE : owner), "owner of a block", block);
    }
}

static void check_buffers(const struct ru_engine *engine)
{
    uint8_t held[256] = {0};
    uint32_t lent = 0;
    for (uint32_t i = 0; i < engine->conns.capacity; i++) {
        const struct ru_conn *conn = &engine->conns.conns[i];
        if (conn->state == RU_CONN_FREE)
            continue;
        for (uint32_t buffer = conn->unread.first; buffer != RU_NONE;
             buffer = engine->unread_links[buffer].next)
            check(++held[buffer] == 1, "buffer of two", buffer);
    }
    for (uint32_t buffer = 0; buffer < engine->config.tcp_buffers; buffer++) {
        check(sim_buffer_lent(buffer) != (held[buffer] > 0),
              "buffer neither lent nor held, or both", buffer);
        lent += sim_buffer_lent(buffer);
    }
    check(lent == engine->buffers_free, "free buffers", lent);
}

/* ---- the loop itself ---- */

static void check_listeners(const struct ru_engine *engine)
{
    if (engine->phase != RU_SERVING)
        return;
    for (uint32_t i = 0; i < engine->config.listeners_count; i++) {
        check(sim_operation_live(RU_OP_ACCEPT, i, 0, -1) || engine->listeners[i].accept_paused,
              "nobody accepts", i);
        check(sim_operation_live(RU_OP_DATAGRAMS, i, 0, -1) || engine->udp.counts[RU_UDP_LENT] == 0,
              "nobody receives datagrams", i);
    }
    check(sim_operation_live(RU_OP_WAKE, 0, 0, -1), "nobody watches the eventfd", 0);
    check(engine->udp.counts[RU_UDP_FREE] == 0, "free contexts that are not lent",
          engine->udp.counts[RU_UDP_FREE]);
}

/* A loop that neither sleeps nor finds anything burns a core. */
static void check_spin(struct life *life, bool sleeping)
{
    const struct ru_counters *counters = &life->engine->counters;
    uint64_t events = counters->udp_received + counters->tcp_requests + counters->dispatched +
                      counters->connections_accepted + counters->connections_open;
    bool idle = !sleeping && events == life->last_events;
    life->last_events = events;
    life->idle_laps = idle ? life->idle_laps + 1 : 0;
    check(life->idle_laps < SPIN_LAPS_MAX, "the loop spins", life->idle_laps);
}

void life_check_awake(const struct life *life, bool sleeping)
{
    check(!sleeping || life->engine->phase >= RU_FORCED || !ru_dispatch_has_returns(life->engine) ||
              sim_wake_pending(),
          "the loop sleeps on returned work", 0);
}

void life_check(struct life *life, bool sleeping)
{
    const struct ru_engine *engine = life->engine;
    struct places places;
    ru_invariants_check_all(engine);
    check_laws(life);
    check(engine->counters.completions_overflowed - life->overflowed <= 1, "a lap counted twice",
          engine->counters.completions_overflowed);
    life->overflowed = engine->counters.completions_overflowed;
    find_places(engine, &places);
    check_datagrams(engine, &places);
    for (uint32_t i = 0; i < engine->conns.capacity; i++)
        check_conn(life, i, &places);
    if (sleeping && engine->phase == RU_SERVING)
        check_memory_queues(engine);
    check_blocks(engine);
    check_buffers(engine);
    check_listeners(engine);
    for (uint32_t i = 0; i < life->workers_count; i++) {
        check_worker(life, i);
        check_worker_woken(life, i);
    }
    check(!sleeping || engine->phase >= RU_FORCED || engine->lanes[RU_LANE_LIGHT].count == 0,
          "sleeps on light requests", engine->lanes[RU_LANE_LIGHT].count);
    check(engine->operations == sim_operations(), "operations", engine->operations);
    life_check_awake(life, sleeping);
    check_spin(life, sleeping);
}

/* What the kernel saw and what the node counted. */
static void check_totals(const struct life *life)
{
    const struct ru_counters *counters = &life->engine->counters;
    const struct sim_totals *totals = sim_totals();
    check(counters->connections_accepted == totals->accepted + life->adopted,
          "connections accepted", totals->accepted);
    check(counters->udp_received == totals->datagrams_received, "datagrams received",
          totals->datagrams_received);
    check(counters->udp_answered == totals->datagrams_sent, "datagrams answered",
          totals->datagrams_sent);
    check(counters->udp_dropped_send == totals->datagrams_failed, "datagrams refused",
          totals->datagrams_failed);
}

/* After the run: nothing is left behind. */
void life_check_end(struct life *life)
{
    const struct ru_engine *engine = life->engine;
    const struct ru_counters *counters = &engine->counters;
    check_laws(life);
    check(engine->operations == 0 && sim_operations() == 0, "operations left", engine->operations);
    check(counters->tcp_in_flight == 0, "requests left", counters->tcp_in_flight);
    check(counters->udp_in_flight == 0, "datagrams left", counters->udp_in_flight);
    check(counters->connections_open == 0, "connections left", counters->connections_open);
    check(engine->udp.counts[RU_UDP_FREE] == engine->udp.capacity, "contexts left",
          engine->udp.counts[RU_UDP_FREE]);
    check_totals(life);
    for (uint32_t i = 0; life->orderly && !life->handing_over && !engine->config.shared_sockets &&
                         i < engine->config.listeners_count;
         i++)
        check(sim_listener_left(i) == 0, "ends on what its sockets hold", i);
    check_blocks(engine);
    check_buffers(engine);
    for (uint32_t i = 0; i < engine->conns.capacity; i++) {
        const struct ru_conn *conn = &engine->conns.conns[i];
        check(conn->state == RU_CONN_FREE || conn->with_worker || conn->queued, "connection left",
              i);
    }
}
