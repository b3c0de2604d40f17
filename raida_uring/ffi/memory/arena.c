/* arena.c: one sealed memfd mapping, laid out from the configuration.
 *
 * fallocate() reserves every page, so that a lack of memory is an error at start and never a SIGBUS
 * later; the seals keep a process that gets the descriptor from resizing the mapping.
 */
#include "memory/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t arena_append(struct ru_arena *arena, uint64_t count, uint64_t size)
{
    uint64_t at = arena->size;
    arena->size += (count * size + RU_CACHE_LINE - 1) / RU_CACHE_LINE * RU_CACHE_LINE;
    return (uint32_t)at; /* arena_layout() refuses a size of more than 32 bits */
}

static int arena_layout(struct ru_arena *arena, const struct ru_config *config, size_t page_size)
{
    uint32_t mailboxes = ru_config_mailboxes(config);
    bool wildcard = false;
    for (uint32_t i = 0; i < config->listeners_count; i++)
        wildcard |= config->listeners[i].wildcard != 0;
    arena->slots = config->udp_contexts + config->udp_reserve;
    arena->contexts = arena->slots + config->connections_max;
    arena->control_size = wildcard ? RU_CONTROL_SIZE : 0;
    arena->payload_at = RU_SLOT_HEAD + RU_PEER_SIZE + arena->control_size;
    arena->payload_size = config->udp_payload_size;
    uint32_t used = arena->payload_at + arena->payload_size;
    arena->slot_size = (used + RU_CACHE_LINE - 1) / RU_CACHE_LINE * RU_CACHE_LINE;
    arena->small_blocks = config->small_blocks;
    arena->large_blocks = config->large_blocks;

    /* A token ring has room for every UDP context and for a worker's largest batch. */
    arena->ring_capacity =
        ru_number_power_of_two(arena->slots > RU_BATCH_MAX ? arena->slots : RU_BATCH_MAX);
    uint64_t ring_entries = arena->ring_capacity + RU_LENT_RING;
    arena->page_at = arena_append(arena, 1, page_size);
    arena->contexts_at = arena_append(arena, arena->contexts, sizeof(struct ru_context));
    arena->rings_at = arena_append(arena, 2ULL * mailboxes * ring_entries, sizeof(uint64_t));
    arena->slots_at = arena_append(arena, arena->slots, arena->slot_size);
    arena->areas_at = arena_append(arena, config->connections_max, RU_TCP_AREA);
    arena->small_at = arena_append(arena, arena->small_blocks, RU_SMALL_BLOCK);
    arena->large_at = arena_append(arena, arena->large_blocks, RU_LARGE_BLOCK);
    return arena->size > UINT32_MAX ? -EINVAL : 0;
}

int ru_arena_reserve(int fd, uint64_t size)
{
    uint64_t at = 0;
    uint32_t interruptions = 0;
    while (at < size) {
        uint64_t step = size - at < RU_RESERVE_STEP ? size - at : RU_RESERVE_STEP;
        int error = posix_fallocate(fd, (off_t)at, (off_t)step);
        if (error == 0)
            at += step;
        else if (error != EINTR || interruptions++ == RU_RESERVE_INTERRUPTIONS_MAX)
            return -error;
    }
    return 0;
}

static int arena_map(struct ru_arena *arena)
{
    arena->fd = memfd_create("raida-uring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (arena->fd < 0)
        return -errno;
    if (ftruncate(arena->fd, (off_t)arena->size) != 0)
        return -errno;
    int result = ru_arena_reserve(arena->fd, arena->size);
    if (result != 0)
        return result;
    if (fcntl(arena->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return -errno;
    void *base = mmap(NULL, arena->size, PROT_READ | PROT_WRITE, MAP_SHARED, arena->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    (void)madvise(base, arena->size, MADV_DONTDUMP); /* keeps the requests' ANs out of core files */
    arena->base = base;
    return 0;
}

int ru_arena_create(struct ru_arena *arena, const struct ru_config *config, size_t page_size)
{
    memset(arena, 0, sizeof(*arena));
    arena->fd = -1;
    int result = arena_layout(arena, config, page_size);
    if (result == 0)
        result = arena_map(arena);
    if (result != 0)
        ru_arena_destroy(arena);
    return result;
}

void ru_arena_destroy(struct ru_arena *arena)
{
    if (arena->base)
        (void)munmap(arena->base, arena->size);
    if (arena->fd >= 0)
        (void)close(arena->fd);
    arena->base = NULL;
    arena->fd = -1;
}
