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

enum ru_lane_number ru_admission_lane(const struct ru_engine *engine, uint32_t context,
                                      enum ru_lane_number lane)
{
    const struct ru_context *described = ru_arena_context(&engine->arena, context);
    const uint8_t *header = engine->arena.base + described->header_at;
    const struct ru_command *row = engine->natives[ru_header_command(header)];
    if (!row)
        return lane;
    if (row->writes && engine->store)
        return RU_LANE_NATIVE_WRITE;
    const struct ru_lane *light = &engine->lanes[RU_LANE_LIGHT];
    bool is_light = row->light_max > 0 &&
                    described->body_size <= row->light_max + RU_SEALED_BODY_MIN &&
                    light->count < light->queue_max;
    return is_light ? RU_LANE_LIGHT : RU_LANE_NATIVE;
}
