/* config.c: what a configuration may hold.
 *
 * The only place that knows: the engine and the reader of the configuration file both check by it,
 * so a file that passes its check starts. Pure; any thread.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "memory/arena.h"
#include "ru.h"

#define CONFIG_EVENTS_MAX 65536
#define CONFIG_WAIT_MS_MAX 600000
#define CONFIG_SMALL_BLOCKS_MAX 65536
#define CONFIG_LARGE_BLOCKS_MAX 65536
#define CONFIG_ADDRESS_BITS 128
#define CONFIG_BLOCKS_PER_WORKER 2 /* one to lend, one to come back */

struct config_range {
    const char *field;
    uint32_t at;
    uint32_t least, most;
};

#define RANGE(field, least, most)                                                                  \
    {                                                                                              \
#field, offsetof(struct ru_config, field), least, most                                     \
    }

/* The limits of single fields. */
static const struct config_range config_ranges[] = {
    RANGE(listeners_count, 1, RU_LISTENERS_MAX),
    RANGE(backend, RU_BACKEND_AUTO, RU_BACKEND_EPOLL),
    RANGE(raida_id, 0, 255),
    RANGE(coin_id, 0, 65535),
    RANGE(workers, 1, RU_LANE_WORKERS_MAX),
    RANGE(slow_workers, 1, RU_LANE_WORKERS_MAX),
    RANGE(writers, 0, RU_WRITERS_MAX),
    RANGE(batch_max, 1, RU_BATCH_MAX),
    RANGE(slow_queue_max, 1, UINT32_MAX),
    RANGE(udp_contexts, 1, RU_SLOTS_MAX - 1),
    RANGE(udp_reserve, 1, RU_SLOTS_MAX - 1),
    RANGE(udp_payload_size, RU_UDP_PAYLOAD_MIN, RU_UDP_PAYLOAD_MAX),
    RANGE(connections_max, 1, RU_CONNECTIONS_MAX),
    RANGE(body_bytes_max, 0, RU_REPLY_MAX),
    RANGE(small_blocks, CONFIG_BLOCKS_PER_WORKER, CONFIG_SMALL_BLOCKS_MAX),
    RANGE(large_blocks, CONFIG_BLOCKS_PER_WORKER, CONFIG_LARGE_BLOCKS_MAX),
    RANGE(tcp_buffers, 1, RU_BUFFERS_MAX),
    RANGE(events_per_lap, 1, CONFIG_EVENTS_MAX),
    RANGE(wait_max_ms, 1, CONFIG_WAIT_MS_MAX),
    RANGE(checks.burst, 0, RU_CHECKS_MAX),
    RANGE(checks.per_min, 0, RU_CHECKS_MAX),
    RANGE(checks.coin_per_s, 0, RU_CHECKS_MAX),
    RANGE(checks.exempt_count, 0, RU_EXEMPT_MAX),
};

static int config_refuse(struct ru_config_fault *fault, const char *field, uint32_t value,
                         uint32_t least, uint32_t most)
{
    if (fault) {
        *fault = (struct ru_config_fault){.value = value, .least = least, .most = most};
        (void)snprintf(fault->field, sizeof(fault->field), "%s", field);
    }
    return -EINVAL;
}

static int config_check_checks(const struct ru_checks *checks, struct ru_config_fault *fault)
{
    if (checks->burst > 0 && checks->per_min == 0)
        return config_refuse(fault, "checks.per_min", 0, 1, RU_CHECKS_MAX);
    for (uint32_t i = 0; i < checks->exempt_count; i++)
        if (checks->exempt[i].bits > CONFIG_ADDRESS_BITS)
            return config_refuse(fault, "checks.exempt", checks->exempt[i].bits, 0,
                                 CONFIG_ADDRESS_BITS);
    return 0;
}

/* The limits that depend on other fields. */
static int config_check_together(const struct ru_config *config, struct ru_config_fault *fault)
{
    uint32_t blocks_min = CONFIG_BLOCKS_PER_WORKER * ru_config_workers(config);
    if (config->udp_reserve > RU_SLOTS_MAX - config->udp_contexts)
        return config_refuse(fault, "udp_reserve", config->udp_reserve, 1,
                             RU_SLOTS_MAX - config->udp_contexts);
    if (config->small_blocks < blocks_min)
        return config_refuse(fault, "small_blocks", config->small_blocks, blocks_min,
                             CONFIG_SMALL_BLOCKS_MAX);
    if (config->large_blocks < blocks_min)
        return config_refuse(fault, "large_blocks", config->large_blocks, blocks_min,
                             CONFIG_LARGE_BLOCKS_MAX);
    if (!ru_number_is_power_of_two(config->tcp_buffers))
        return config_refuse(fault, "tcp_buffers", config->tcp_buffers, 1, RU_BUFFERS_MAX);
    return config_check_checks(&config->checks, fault);
}

int ru_config_check(const struct ru_config *config, struct ru_config_fault *fault)
{
    for (size_t i = 0; i < sizeof(config_ranges) / sizeof(config_ranges[0]); i++) {
        const struct config_range *range = &config_ranges[i];
        uint32_t value;
        memcpy(&value, (const uint8_t *)config + range->at, sizeof(value));
        if (value < range->least || value > range->most)
            return config_refuse(fault, range->field, value, range->least, range->most);
    }
    return config_check_together(config, fault);
}

int ru_config_range(const char *field, uint32_t *least, uint32_t *most)
{
    for (size_t i = 0; i < sizeof(config_ranges) / sizeof(config_ranges[0]); i++) {
        if (strcmp(config_ranges[i].field, field) != 0)
            continue;
        *least = config_ranges[i].least;
        *most = config_ranges[i].most;
        return 0;
    }
    return -EINVAL;
}
