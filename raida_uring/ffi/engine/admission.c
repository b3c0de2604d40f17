/* admission.c: which requests may ask for a check of a secret. */
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
