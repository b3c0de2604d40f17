/* ground.c: what the worker of a native lane executes commands on. See ground.h. */
#include "engine/ground.h"

#include <errno.h>
#include <sys/mman.h>

#include "engine/engine.h"

static bool ground_kind(const struct ru_engine *engine, uint32_t index, enum ru_ground_kind *kind)
{
    const struct ru_lane *lanes = engine->lanes;
    if (index < lanes[RU_LANE_NATIVE].first_worker)
        return false;
    *kind = RU_GROUND_READS;
    if (index >= lanes[RU_LANE_NATIVE_WRITE].first_worker)
        *kind = RU_GROUND_WRITES;
    if (index >= lanes[RU_LANE_LIGHT].first_worker)
        *kind = RU_GROUND_LIGHT;
    return true;
}

static int ground_open_views(struct ru_engine *engine, struct ru_ground *ground)
{
    static const enum ru_view_kind views[] = {
        [RU_GROUND_READS] = RU_VIEW_READS,
        [RU_GROUND_WRITES] = RU_VIEW_WRITES,
        [RU_GROUND_LIGHT] = RU_VIEW_GLANCES,
    };
    int result = 0;
    if (engine->store)
        result = ru_view_open(engine->store, views[ground->kind], &ground->view);
    ground->keys = ground->view;
    if (result == 0 && engine->keys)
        result = ru_view_open(engine->keys,
                              ground->kind == RU_GROUND_LIGHT ? RU_VIEW_GLANCES : RU_VIEW_READS,
                              &ground->keys);
    /* A reading view sees the newest state in each call, so it can begin once for all. */
    if (result == 0 && ground->keys && ground->keys != ground->view)
        result = ru_view_begin(ground->keys);
    if (result == 0 && ground->view && ground->kind != RU_GROUND_WRITES)
        result = ru_view_begin(ground->view);
    return result;
}

int ru_ground_open(struct ru_engine *engine, uint32_t index, struct ru_ground **ground)
{
    enum ru_ground_kind kind;
    *ground = NULL;
    if (!ground_kind(engine, index, &kind))
        return 0;
    const size_t size = sizeof(struct ru_ground) + RU_COMMAND_SCRATCH;
    struct ru_ground *made =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(made, size, MADV_DONTDUMP); /* keys and ANs: no core file has them */
    made->kind = kind;
    made->facts = engine->facts;
    made->scratch = (uint8_t *)(made + 1);
    int result = ground_open_views(engine, made);
    if (result != 0) {
        ru_ground_close(made);
        return result;
    }
    *ground = made;
    return 0;
}

void ru_ground_close(struct ru_ground *ground)
{
    if (!ground)
        return;
    if (ground->keys != ground->view)
        ru_view_close(ground->keys);
    ru_view_close(ground->view);
    (void)munmap(ground, sizeof(*ground) + RU_COMMAND_SCRATCH);
}

void ru_ground_statistics(struct ru_engine *engine, uint64_t *values)
{
    struct ru_counters counters;
    ru_page_count(&engine->arena, ru_config_mailboxes(&engine->config), &counters);
    values[RU_STATISTIC_ECHOES] = counters.echoes + counters.echoes_worked;
    values[RU_STATISTIC_COINS] = counters.coins_powned;
    values[RU_STATISTIC_VALUE] = counters.value_powned;
    values[RU_STATISTIC_DATAGRAMS] = counters.udp_received;
    for (uint32_t i = 0; i < RU_STATISTICS; i++)
        values[i] += __atomic_load_n(&engine->carried[i], __ATOMIC_RELAXED);
}
