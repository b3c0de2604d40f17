/* udp.c: fixed pool of UDP request contexts, and the decision on each datagram.
 *
 * Why: a context must stay valid until the reply to its datagram has been handed to the kernel.
 * Memory: allocated once in ru_udp_init(). Free contexts form a stack, so that the few slots in
 * use stay in the processor's cache.
 */
#include "wire/udp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MOVE(to) (1U << (to))

/* Legal moves, by the place that the context leaves. */
static const uint8_t udp_moves[RU_UDP_PLACES] = {
    [RU_UDP_FREE] = MOVE(RU_UDP_LENT),
    [RU_UDP_LENT] = MOVE(RU_UDP_LOOP) | MOVE(RU_UDP_FREE), /* FREE: the ring is gone */
    [RU_UDP_LOOP] = MOVE(RU_UDP_FREE) | MOVE(RU_UDP_QUEUED) | MOVE(RU_UDP_SENDING),
    [RU_UDP_QUEUED] = MOVE(RU_UDP_WORKER) | MOVE(RU_UDP_SENDING) | MOVE(RU_UDP_FREE),
    /* QUEUED: a light request that would have to wait */
    [RU_UDP_WORKER] = MOVE(RU_UDP_SENDING) | MOVE(RU_UDP_FREE) | MOVE(RU_UDP_QUEUED),
    [RU_UDP_SENDING] = MOVE(RU_UDP_FREE),
};

static void udp_check(const struct ru_udp_pool *pool)
{
    uint32_t sum = 0;
    for (uint32_t place = 0; place < RU_UDP_PLACES; place++)
        sum += pool->counts[place];
    RU_CHECK(sum == pool->capacity);
    RU_CHECK(ru_udp_held(pool) <= pool->held_max);
}

int ru_udp_init(struct ru_udp_pool *pool, uint32_t capacity, uint32_t held_max)
{
    RU_CHECK(held_max < capacity); /* without a reserve, busy handlers would stop the votes */
    *pool = (struct ru_udp_pool){.capacity = capacity, .held_max = held_max, .free_head = RU_NONE};
    pool->contexts = calloc(capacity, sizeof(*pool->contexts));
    if (!pool->contexts)
        return -ENOMEM;
    for (uint32_t i = capacity; i > 0; i--) {
        pool->contexts[i - 1] = (struct ru_udp_context){.generation = 1, .next = pool->free_head};
        pool->free_head = i - 1;
    }
    pool->counts[RU_UDP_FREE] = capacity;
    udp_check(pool);
    return 0;
}

void ru_udp_destroy(struct ru_udp_pool *pool)
{
    free(pool->contexts);
    pool->contexts = NULL;
}

void ru_udp_move(struct ru_udp_pool *pool, uint32_t index, enum ru_udp_place to)
{
    RU_CHECK(index < pool->capacity);
    struct ru_udp_context *context = &pool->contexts[index];
    RU_CHECK(udp_moves[context->place] & MOVE(to)); /* aborts on a double release */
    RU_CHECK(pool->counts[context->place] > 0);
    pool->counts[context->place]--;
    pool->counts[to]++;
    context->place = (uint8_t)to;
    if (to == RU_UDP_FREE) {
        context->generation = ru_token_advance(context->generation);
        context->next = pool->free_head;
        pool->free_head = index;
    }
}

uint32_t ru_udp_lend(struct ru_udp_pool *pool)
{
    uint32_t index = pool->free_head;
    if (index == RU_NONE)
        return RU_NONE;
    pool->free_head = pool->contexts[index].next;
    ru_udp_move(pool, index, RU_UDP_LENT);
    return index;
}

bool ru_udp_token_valid(const struct ru_udp_pool *pool, uint64_t token, uint32_t worker)
{
    uint32_t index = ru_token_index(token);
    if (index >= pool->capacity || ru_token_operation(token) != 0)
        return false;
    const struct ru_udp_context *context = &pool->contexts[index];
    return context->generation == ru_token_generation(token) && context->place == RU_UDP_WORKER &&
           context->worker == worker;
}

uint32_t ru_udp_in_flight(const struct ru_udp_pool *pool)
{
    udp_check(pool);
    return pool->capacity - pool->counts[RU_UDP_FREE] - pool->counts[RU_UDP_LENT];
}

uint32_t ru_udp_held(const struct ru_udp_pool *pool)
{
    return pool->counts[RU_UDP_QUEUED] + pool->counts[RU_UDP_WORKER];
}

/* Writes every field, so that nothing remains of the slot's previous request. */
static void udp_describe(const struct ru_arena *arena, uint32_t index, uint32_t size,
                         const struct ru_header *header, uint64_t now_ns)
{
    struct ru_context *context = ru_arena_context(arena, index);
    uint32_t slot_at = ru_arena_slot_at(arena, index);
    uint32_t rest = size - header->size;
    uint16_t body_present = (uint16_t)(rest < header->body_size ? rest : header->body_size);
    *context = (struct ru_context){
        .arrival_ns = now_ns,
        .complete_ns = now_ns,
        .peer_at = slot_at + RU_SLOT_HEAD,
        .header_at = slot_at + arena->payload_at,
        .body_at = slot_at + arena->payload_at + header->size,
        .request_size = header->size + body_present,
        .inline_at = slot_at + arena->payload_at,
        .inline_size = arena->payload_size,
        .body_block = RU_NONE,
        .body_size = header->body_size,
        .body_present = body_present,
        .transport = RU_UDP,
        .header_size = header->size,
        .reply_block = RU_NONE,
    };
}

/* True if a datagram is a small reply header without a body. Without this check one datagram with
 * the forged source address of another server would make the two servers answer each other's
 * refusals for ever. Fields that a reply copies from its request are not compared. */
static bool udp_looks_like_reply(const uint8_t *bytes, uint32_t size)
{
    static const uint8_t no_body[RU_REPLY_PREFIX_SIZE - RU_REPLY_RESERVED_AT] = {0};
    return size == RU_HEADER_SMALL && bytes[RU_REPLY_RAIDA_AT] < RU_RAIDA_COUNT &&
           bytes[RU_REPLY_ZERO_AT] == 0 && ru_get_u16(bytes + RU_REPLY_SMALL_FRAMES_AT) == 1 &&
           memcmp(bytes + RU_REPLY_RESERVED_AT, no_body, sizeof(no_body)) == 0;
}

enum ru_udp_action ru_udp_decide(struct ru_udp_pool *pool, struct ru_front *front,
                                 const struct ru_arena *arena, uint32_t index, uint32_t size,
                                 uint64_t now_ns, uint32_t *reply_size)
{
    RU_CHECK(index < pool->capacity && pool->contexts[index].place == RU_UDP_LOOP &&
             size <= arena->payload_size);
    uint8_t *bytes = arena->base + ru_arena_slot_at(arena, index) + arena->payload_at;
    if (size == 0)
        return RU_UDP_DROP_EMPTY;
    if (ru_fast_is_vote(bytes, size)) {
        ru_fast_vote(front->roots, bytes, bytes);
        *reply_size = RU_VOTE_REPLY_SIZE;
        return RU_UDP_REPLY_VOTE;
    }
    if (size < RU_HEADER_PEEK || size < ru_header_size(bytes))
        return RU_UDP_DROP_SHORT;

    struct ru_header header;
    enum ru_status status = ru_header_decide(&front->identity, bytes, &header);
    enum ru_scope scope = ru_reply_scope(status);
    if (status == RU_STATUS_OK && header.encryption == 0 &&
        size < (uint32_t)header.size + header.body_size) {
        status = RU_STATUS_PACKET_LENGTH; /* of an encrypted request, a worker checks the length */
        scope = RU_SCOPE_ALL;
    }
    if (status != RU_STATUS_OK && udp_looks_like_reply(bytes, size))
        return RU_UDP_DROP_REPLY;
    if (status != RU_STATUS_OK) {
        *reply_size = ru_fast_refuse(front, status, scope, bytes, bytes);
        return RU_UDP_REPLY_REFUSED;
    }
    *reply_size = ru_fast_echo(front, &header, bytes, bytes + header.size, bytes);
    if (*reply_size > 0)
        return RU_UDP_REPLY_ECHO;
    if (ru_udp_held(pool) >= pool->held_max)
        return RU_UDP_DROP_POOL;
    udp_describe(arena, index, size, &header, now_ns);
    pool->contexts[index].lane = (uint8_t)ru_header_lane(&header);
    return RU_UDP_QUEUE;
}
