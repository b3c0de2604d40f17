/* admission.c: which requests may ask for a check of a secret, and where requests wait. */
#include "engine/admission.h"

#include "engine/engine.h"

void ru_admission_count(struct ru_engine *engine, enum ru_guard_bound bound)
{
    engine->counters.limited_source += bound == RU_GUARD_SOURCE;
    engine->counters.limited_network += bound == RU_GUARD_NETWORK;
    engine->counters.limited_coin += bound == RU_GUARD_COIN;
}

bool ru_admission_refuses(struct ru_engine *engine, uint32_t context)
{
    const struct ru_context *described = ru_arena_context(&engine->arena, context);
    const uint8_t *header = engine->arena.base + described->header_at;
    if (!ru_guard_asks(&engine->guard, header))
        return false;
    enum ru_guard_bound bound =
        ru_guard_look(&engine->guard, engine->arena.base + described->peer_at, header,
                      described->transport, engine->now_ns);
    ru_admission_count(engine, bound);
    return bound != RU_GUARD_NONE;
}

/* What opening a request and sealing its reply takes. */
struct seal_cost {
    uint32_t request;
    uint32_t bytes_1024; /* of each byte of the body */
};

static struct seal_cost admission_seal_cost(uint8_t encryption)
{
    if (encryption == 0)
        return (struct seal_cost){0, 0};
    if (encryption <= RU_SMALL_TYPE_MAX)
        return (struct seal_cost){RU_LIGHT_SHORT_SEAL, RU_LIGHT_SHORT_SEAL_1024};
    return (struct seal_cost){RU_LIGHT_LONG_SEAL, RU_LIGHT_LONG_SEAL_1024};
}

uint32_t ru_admission_cost(const struct ru_command *command, uint8_t encryption, uint32_t body_size)
{
    const struct seal_cost seal = admission_seal_cost(encryption);
    RU_CHECK(body_size <= RU_BODY_MAX);
    const uint32_t coins = command->coin_size > 0 ? body_size / command->coin_size : 0;
    return command->cost + coins * command->coin_cost + seal.request +
           body_size * seal.bytes_1024 / 1024;
}

/* Whether the I/O thread executes this request in this lap; if so, its share of the lap is taken. */
static bool admission_takes(struct ru_engine *engine, const struct ru_command *row,
                            const struct ru_context *described)
{
    const struct ru_lane *light = &engine->lanes[RU_LANE_LIGHT];
    const uint8_t *header = engine->arena.base + described->header_at;
    if (row->light_max == 0 || described->body_size > row->light_max + RU_SEALED_BODY_MIN ||
        light->count >= light->queue_max)
        return false;
    const uint32_t cost =
        ru_admission_cost(row, header[RU_REQUEST_ENCRYPTION_AT], described->body_size);
    RU_CHECK(engine->light_cost <= RU_LIGHT_BUDGET);
    if (cost > RU_LIGHT_BUDGET - engine->light_cost)
        return false;
    engine->light_cost += cost;
    return true;
}

enum ru_lane_number ru_admission_lane(struct ru_engine *engine, uint32_t context,
                                      enum ru_lane_number lane)
{
    const struct ru_context *described = ru_arena_context(&engine->arena, context);
    const uint8_t *header = engine->arena.base + described->header_at;
    const struct ru_command *row = engine->natives[ru_header_command(header)];
    if (!row)
        return lane;
    if (row->writes && engine->store)
        return RU_LANE_NATIVE_WRITE;
    return admission_takes(engine, row, described) ? RU_LANE_LIGHT : RU_LANE_NATIVE;
}
