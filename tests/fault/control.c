/* control.c: what the node's control thread and another process of it do in a simulated life.
 *
 * Calls are offered to the loop as ru_control_* do it, but nobody waits: the thread that would is the
 * loop's own. A hand-over ends well, at its deadline, or with the other process, whereupon the
 * sockets are taken back.
 */
#include "life.h"

#include <errno.h>
#include <unistd.h>

/* ---- calls ---- */

/* Of udp_reply_factor_max: most replies are longer than their requests, or few. */
uint32_t life_draw_factor(void)
{
    static const uint32_t factors[] = {0, 0, 1, 16};
    return factors[sim_below(4)];
}

static struct ru_config control_live(const struct life *life)
{
    struct ru_config live = life->config;
    live.batch_max = 1 + sim_below(LIFE_BATCH_MAX);
    live.slow_queue_max = 1 + sim_below(4);
    live.udp_reply_factor_max = life_draw_factor();
    live.connections_max = 1 + sim_below(life->config.connections_max);
    live.body_bytes_max = sim_chance(200) ? 65536 : 1000;
    live.progress_timeout_ms = 10 + sim_below(3000);
    live.header_timeout_ms = 10 + sim_below(5000);
    live.body_timeout_ms = 10 + sim_below(15000);
    live.write_timeout_ms = 10 + sim_below(15000);
    live.idle_timeout_ms = 10 + sim_below(30000);
    live.wait_max_ms = 1 + sim_below(10000);
    return live;
}

static void control_offer(struct life *life, enum ru_call_kind kind)
{
    struct ru_call *call = &life->engine->call;
    const uint64_t one = 1;
    call->kind = (uint32_t)kind;
    call->live = control_live(life);
    call->first = 0;
    call->shared = sim_chance(128);
    call->state = RU_CALL_OFFERED;
    ru_sleeper_announce(&call->sleeper);
    (void)!write(life->engine->wake_fd, &one, sizeof(one));
}

/* What any thread reads meanwhile: a lap old at most, but never more than there is. */
static void control_check_gauges(const struct life *life)
{
    const struct ru_config *config = &life->config;
    struct ru_gauges gauges;
    ru_engine_gauges(life->engine, (uint64_t *)&gauges);
    check(gauges.busy_ordinary <= config->workers && gauges.busy_slow <= config->slow_workers &&
              gauges.busy_write <= config->writers &&
              gauges.busy_native <= config->native_workers &&
              gauges.busy_native_write <= config->native_writers,
          "busy workers", gauges.busy_ordinary);
    check(gauges.udp_contexts_held <= config->udp_contexts &&
              gauges.tcp_buffers_used <= config->tcp_buffers &&
              gauges.small_blocks_used <= config->small_blocks &&
              gauges.large_blocks_used <= config->large_blocks &&
              gauges.small_blocks_lent <= gauges.small_blocks_used &&
              gauges.large_blocks_lent <= gauges.large_blocks_used,
          "more in use than there is", gauges.udp_contexts_held);
}

static void control_check_list(const struct ru_call *call)
{
    check(call->count <= RU_CONNECTIONS_LISTED, "connections listed", call->count);
    for (uint32_t i = 0; i < call->count; i++)
        check(call->connections[i].state != RU_CONN_FREE &&
                  call->connections[i].state_ns <= call->connections[i].age_ns,
              "a connection listed", i);
}

/* The other process is gone: whatever the loop was at, it serves as it did before. */
static void control_taken_back(struct life *life, int result)
{
    check(result == 0 || result == -EINVAL, "sockets are not taken back", (uint64_t)-result);
    if (result != 0)
        return;
    life->draining = life->handing_over = false;
    life->laps_max = life->laps + 1 + sim_below(200);
    if (sim_chance(128)) /* told to stop meanwhile */
        life_end_soon(life);
}

static void control_answered(struct life *life)
{
    struct ru_call *call = &life->engine->call;
    (void)sim_futex_woken(&call->sleeper.asleep);
    ru_sleeper_cancel(&call->sleeper);
    call->state = RU_CALL_IDLE;
    switch ((enum ru_call_kind)call->kind) {
    case RU_CALL_CONNECTIONS:
        control_check_list(call);
        break;
    case RU_CALL_TAKE_BACK:
        control_taken_back(life, call->result);
        break;
    case RU_CALL_LIVE:
        life->moved_ns = sim_now_ns();
        break;
    case RU_CALL_OWN:
        break;
    }
}

/* ---- another process ---- */

static void control_successor(struct life *life)
{
    if (sim_chance(64))
        sim_other_room(1 + sim_below(4));
    if (sim_chance(16))
        sim_other_close(sim_below(SIM_PEERS_MAX));
    if (life->other_dies && life->engine->call.state == RU_CALL_IDLE && sim_chance(16)) {
        sim_other_end();
        control_offer(life, RU_CALL_TAKE_BACK);
    }
}

/* What was idle was idle: all that was read of it has been answered. */
void life_take_pass(void *self, uint32_t peer)
{
    struct life *life = self;
    const struct life_client *client = &life->clients[peer];
    uint32_t answered = 0;
    for (uint32_t i = 0; i < client->answered; i++)
        answered += client->requests[i].size;
    check(client->reply.have == 0, "passed on with half a reply", client->name);
    check(client->sent == answered + sim_stream_unread(peer), "passed on with half a request",
          client->name);
}

void life_end_soon(struct life *life)
{
    life->draining = true;
    life->handing_over = sim_chance(128);
    life->other_dies = sim_chance(128);
    if (life->handing_over)
        ru_engine_hand_over(life->engine, life->drain_ms, sim_other_begin());
    else
        ru_engine_drain(life->engine, life->drain_ms);
}

void life_control_act(struct life *life)
{
    static const enum ru_call_kind kinds[] = {RU_CALL_LIVE, RU_CALL_CONNECTIONS,
                                              RU_CALL_OWN}; /* the last one not in a drain */
    uint32_t state = life->engine->call.state;
    control_check_gauges(life);
    if (state == RU_CALL_DONE)
        control_answered(life);
    else if (state == RU_CALL_IDLE && sim_chance(4))
        control_offer(life, kinds[sim_below(life->draining ? 2 : 3)]);
    if (life->handing_over)
        control_successor(life);
}

void life_control_end(struct life *life)
{
    const struct ru_adoptions *adoptions = &life->engine->adoptions;
    check(adoptions->taken == adoptions->added, "connections passed on that nobody took",
          adoptions->added - adoptions->taken);
    sim_other_end();
}
