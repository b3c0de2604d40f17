/* config.c: the values that a configuration may hold, and which of them may change at run time.
 *
 * The one place that knows: the engine refuses a configuration by this table, and the configuration
 * file is read by it, so a file that passes its check can be served. Pure; any thread.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/config.h"
#include "memory/arena.h"

#define CONFIG_EVENTS_MAX 65536
#define CONFIG_WAIT_MS_MAX 600000
#define CONFIG_TIMEOUT_MS_MAX 3600000
#define CONFIG_BUSY_POLL_US_MAX 1000000
#define CONFIG_SLOW_QUEUE_MAX 65535
#define CONFIG_REPLY_FACTOR_MAX 65535
#define CONFIG_SMALL_BLOCKS_MAX 65536
#define CONFIG_LARGE_BLOCKS_MAX 65536
#define CONFIG_ADDRESS_BITS 128
#define CONFIG_BLOCKS_PER_WORKER 2 /* one to lend, one to come back */

struct config_range {
    const char *field;
    uint32_t at;
    uint32_t least, most;
    bool live; /* ru_engine_set_live() changes it */
};

/* clang-format off */
#define ROW(field, least, most, live) \
    {#field, offsetof(struct ru_config, field), least, most, live}
#define FIXED(field, least, most) ROW(field, least, most, false)
#define LIVE(field, least, most) ROW(field, least, most, true)
/* clang-format on */

/* The limits of each field, whatever the other fields are. */
static const struct config_range config_ranges[] = {
    FIXED(listeners_count, 1, RU_LISTENERS_MAX),
    FIXED(backend, RU_BACKEND_AUTO, RU_BACKEND_EPOLL),
    FIXED(raida_id, 0, 255),
    FIXED(coin_id, 0, 65535),
    FIXED(workers, 1, RU_LANE_WORKERS_MAX),
    FIXED(slow_workers, 1, RU_LANE_WORKERS_MAX),
    FIXED(writers, 0, RU_WRITERS_MAX),
    FIXED(native_workers, 0, RU_NATIVE_WORKERS_MAX),
    FIXED(native_writers, 0, RU_NATIVE_WRITERS_MAX),
    LIVE(batch_max, 1, RU_BATCH_MAX),
    LIVE(slow_queue_max, 1, CONFIG_SLOW_QUEUE_MAX),
    LIVE(queue_age_max_ms, 0, CONFIG_TIMEOUT_MS_MAX),
    FIXED(udp_contexts, 1, RU_SLOTS_MAX - 1),
    FIXED(udp_reserve, 1, RU_SLOTS_MAX - 1),
    FIXED(udp_payload_size, RU_UDP_PAYLOAD_MIN, RU_UDP_PAYLOAD_MAX),
    LIVE(udp_reply_factor_max, 0, CONFIG_REPLY_FACTOR_MAX),
    LIVE(connections_max, 1, RU_CONNECTIONS_MAX),
    LIVE(body_bytes_max, 0, RU_REPLY_MAX),
    FIXED(small_blocks, CONFIG_BLOCKS_PER_WORKER, CONFIG_SMALL_BLOCKS_MAX),
    FIXED(large_blocks, CONFIG_BLOCKS_PER_WORKER, CONFIG_LARGE_BLOCKS_MAX),
    FIXED(tcp_buffers, 1, RU_BUFFERS_MAX),
    FIXED(tcp_persistent, 0, 1),
    LIVE(progress_timeout_ms, 1, CONFIG_TIMEOUT_MS_MAX),
    LIVE(header_timeout_ms, 1, CONFIG_TIMEOUT_MS_MAX),
    LIVE(body_timeout_ms, 1, CONFIG_TIMEOUT_MS_MAX),
    LIVE(write_timeout_ms, 1, CONFIG_TIMEOUT_MS_MAX),
    LIVE(idle_timeout_ms, 1, CONFIG_TIMEOUT_MS_MAX),
    FIXED(events_per_lap, 1, CONFIG_EVENTS_MAX),
    LIVE(wait_max_ms, 1, CONFIG_WAIT_MS_MAX),
    LIVE(busy_poll_us, 0, CONFIG_BUSY_POLL_US_MAX),
    LIVE(checks.burst, 0, RU_CHECKS_MAX),
    LIVE(checks.per_min, 0, RU_CHECKS_MAX),
    LIVE(checks.coin_per_s, 0, RU_CHECKS_MAX),
    LIVE(checks.exempt_count, 0, RU_EXEMPT_MAX),
};
#define CONFIG_RANGES (sizeof(config_ranges) / sizeof(config_ranges[0]))

static const struct config_range *config_find(const char *field)
{
    for (size_t i = 0; i < CONFIG_RANGES; i++)
        if (strcmp(config_ranges[i].field, field) == 0)
            return &config_ranges[i];
    return NULL;
}

static uint32_t config_value(const struct ru_config *config, const struct config_range *range)
{
    uint32_t value;
    memcpy(&value, (const uint8_t *)config + range->at, sizeof(value));
    return value;
}

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
    for (size_t i = 0; i < CONFIG_RANGES; i++) {
        const struct config_range *range = &config_ranges[i];
        const uint32_t value = config_value(config, range);
        if (value < range->least || value > range->most)
            return config_refuse(fault, range->field, value, range->least, range->most);
    }
    return config_check_together(config, fault);
}

int ru_config_range(const char *field, uint32_t *least, uint32_t *most)
{
    const struct config_range *range = config_find(field);
    if (!range)
        return -EINVAL;
    *least = range->least;
    *most = range->most;
    return 0;
}

int ru_config_is_live(const char *field)
{
    const struct config_range *range = config_find(field);
    return range && range->live;
}

void ru_config_take_live(struct ru_config *config, const struct ru_config *changed)
{
    for (size_t i = 0; i < CONFIG_RANGES; i++) {
        const struct config_range *range = &config_ranges[i];
        uint32_t *field = (uint32_t *)(void *)((uint8_t *)config + range->at);
        if (range->live)
            __atomic_store_n(field, config_value(changed, range), __ATOMIC_RELAXED);
    }
    memcpy(config->checks.exempt, changed->checks.exempt, sizeof(config->checks.exempt));
}
