/* arena.h: the memory that workers share with the loop.
 *
 * Everything is addressed by index and byte offset, never by pointer, so that a worker process
 * could map it at another address. Contexts 0 to slots-1 are UDP; TCP connections follow.
 */
#ifndef RU_ARENA_H
#define RU_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "memory/token.h"
#include "ru.h"

/* Threads of all lanes, in the order of their indexes: ordinary, slow, writing, native, native
 * writing. */
static inline uint32_t ru_config_workers(const struct ru_config *config)
{
    return config->workers + config->slow_workers + config->writers + config->native_workers +
           config->native_writers;
}

/* Those that have a mailbox: the last one is the I/O thread's own, for light requests. */
static inline uint32_t ru_config_mailboxes(const struct ru_config *config)
{
    return ru_config_workers(config) + (config->native_workers > 0);
}

enum ru_transport {
    RU_UDP = 0,
    RU_TCP = 1
};

/* One request, as the loop hands it to a worker and gets it back; a cache line. The loop writes all
 * fields except those marked "worker". A worker could overwrite any of them, so the loop keeps a
 * private copy of each field that it must trust. */
struct ru_context {
    uint64_t arrival_ns; /* of its first byte */
    uint32_t peer_at;
    uint32_t header_at;
    uint32_t body_at;
    uint32_t request_size; /* header and body as received, without bytes after them */
    uint32_t inline_at;    /* where a reply of up to inline_size bytes goes */
    uint32_t inline_size;
    uint32_t body_block;   /* the block that holds the body, or RU_NONE */
    uint16_t body_size;    /* BL */
    uint16_t body_present; /* bytes of it that arrived; less than BL only on UDP */
    uint8_t transport;     /* enum ru_transport */
    uint8_t header_size;
    uint8_t limited; /* worker: enum ru_guard_bound that kept the request from being checked */
    uint8_t spare[5];
    uint64_t complete_ns; /* when its last byte was received */
    uint32_t reply_block; /* worker: block with the reply, RU_NONE for inline */
    uint32_t reply_size;  /* worker */
};
_Static_assert(sizeof(struct ru_context) == RU_CACHE_LINE, "one line per context");

/* Front of each UDP slot; same layout as struct io_uring_recvmsg_out, which a ring writes there. */
struct ru_slot_head {
    uint32_t peer_size;
    uint32_t control_size; /* of the destination address's control record; 0: none */
    uint32_t payload_size;
    uint32_t flags;
};
_Static_assert(sizeof(struct ru_slot_head) == RU_SLOT_HEAD, "slot head");

struct ru_arena {
    uint8_t *base;
    uint64_t size;
    int fd;
    uint32_t slots;      /* UDP contexts and their slots */
    uint32_t contexts;   /* all */
    uint32_t payload_at; /* of the datagram within a slot */
    uint32_t payload_size;
    uint32_t control_size;
    uint32_t slot_size;
    uint32_t small_blocks;
    uint32_t large_blocks;
    uint32_t ring_capacity; /* of a token ring; each worker has two, and two of RU_LENT_RING */
    uint32_t page_at, contexts_at, slots_at, areas_at, small_at, large_at, rings_at;
};

/* Reserve the first `size` bytes of a memfd. Older kernels interrupt fallocate() on a signal; 6.1
 * also without one, for work that a closing ring has queued to its thread. An interrupted call
 * undoes what it had reserved, so this function reserves in steps. 0 or -errno. */
int ru_arena_reserve(int fd, uint64_t size);
/* Map, reserve and seal. page_size: bytes at page_at, for the caller. 0, or -errno with everything
 * undone. */
int ru_arena_create(struct ru_arena *arena, const struct ru_config *config, size_t page_size);
void ru_arena_destroy(struct ru_arena *arena);

static inline struct ru_context *ru_arena_context(const struct ru_arena *arena, uint32_t index)
{
    RU_CHECK(index < arena->contexts);
    return (struct ru_context *)(void *)(arena->base + arena->contexts_at) + index;
}

static inline uint32_t ru_arena_slot_at(const struct ru_arena *arena, uint32_t slot)
{
    RU_CHECK(slot < arena->slots);
    return arena->slots_at + slot * arena->slot_size;
}

static inline struct ru_slot_head *ru_arena_slot_head(const struct ru_arena *arena, uint32_t slot)
{
    return (struct ru_slot_head *)(void *)(arena->base + ru_arena_slot_at(arena, slot));
}

/* Offset of connection `conn`'s area: its peer, then RU_INLINE_SIZE bytes. */
static inline uint32_t ru_arena_area_at(const struct ru_arena *arena, uint32_t conn)
{
    RU_CHECK(conn < arena->contexts - arena->slots);
    return arena->areas_at + conn * RU_TCP_AREA;
}

/* Blocks are numbered small first, then large. */
static inline uint32_t ru_arena_block_at(const struct ru_arena *arena, uint32_t block)
{
    RU_CHECK(block < arena->small_blocks + arena->large_blocks);
    if (block < arena->small_blocks)
        return arena->small_at + block * RU_SMALL_BLOCK;
    return arena->large_at + (block - arena->small_blocks) * RU_LARGE_BLOCK;
}

static inline uint32_t ru_arena_block_size(const struct ru_arena *arena, uint32_t block)
{
    return block < arena->small_blocks ? RU_SMALL_BLOCK : RU_LARGE_BLOCK;
}

#endif
