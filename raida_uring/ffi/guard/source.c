/* source.c: buckets of recent charges to addresses, networks and coins. */
#include "guard/source.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "check.h"

/* ---- create and destroy ---- */

int ru_sources_init(struct ru_sources *sources)
{
    *sources = (struct ru_sources){.lock = PTHREAD_MUTEX_INITIALIZER};
    const size_t size = RU_SOURCE_BUCKETS * sizeof(*sources->buckets);
    sources->buckets = aligned_alloc(RU_CACHE_LINE, size);
    sources->names = calloc(RU_SOURCE_BUCKETS, sizeof(*sources->names));
    if (!sources->buckets || !sources->names)
        return -ENOMEM;
    for (uint32_t i = 0; i < RU_SOURCE_BUCKETS; i++)
        sources->buckets[i] = (struct ru_bucket){0};
    if (getrandom(sources->key, sizeof(sources->key), 0) != (ssize_t)sizeof(sources->key))
        return -errno;
    return 0;
}

void ru_sources_destroy(struct ru_sources *sources)
{
    free(sources->names);
    free(sources->buckets);
    sources->names = NULL;
    sources->buckets = NULL;
}

/* ---- finding a bucket ---- */

static uint64_t source_rotate(uint64_t word, unsigned bits)
{
    return word << bits | word >> (64 - bits);
}

static void source_round(uint64_t *v)
{
    v[0] += v[1];
    v[1] = source_rotate(v[1], 13) ^ v[0];
    v[0] = source_rotate(v[0], 32);
    v[2] += v[3];
    v[3] = source_rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = source_rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = source_rotate(v[1], 17) ^ v[2];
    v[2] = source_rotate(v[2], 32);
}

/* SipHash-1-3 of the 16 bytes of a name. */
uint64_t ru_sources_id(const struct ru_sources *sources, struct ru_source_name name)
{
    const uint64_t words[3] = {name.what, name.kind, 16ULL << 56};
    uint64_t v[4] = {
        sources->key[0] ^ 0x736F6D6570736575ULL, sources->key[1] ^ 0x646F72616E646F6DULL,
        sources->key[0] ^ 0x6C7967656E657261ULL, sources->key[1] ^ 0x7465646279746573ULL};
    for (uint32_t i = 0; i < 3; i++) {
        v[3] ^= words[i];
        source_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xFF;
    for (uint32_t i = 0; i < 3; i++)
        source_round(v);
    uint64_t id = v[0] ^ v[1] ^ v[2] ^ v[3];
    return id != 0 ? id : 1;
}

/* The bucket of `id`, or RU_SOURCE_BUCKETS. */
static uint32_t source_find(const struct ru_sources *sources, uint64_t id)
{
    uint32_t line = ru_sources_line(id);
    for (uint32_t i = line; i < line + RU_SOURCE_WAYS; i++)
        if (__atomic_load_n(&sources->buckets[i].id, __ATOMIC_RELAXED) == id)
            return i;
    return RU_SOURCE_BUCKETS;
}

/* The bucket to replace: the one of the line that expires first; a free one has expired. */
static uint32_t source_victim(const struct ru_sources *sources, uint64_t id)
{
    uint32_t line = ru_sources_line(id), victim = line;
    for (uint32_t i = line + 1; i < line + RU_SOURCE_WAYS; i++)
        if (sources->buckets[i].until_ns < sources->buckets[victim].until_ns)
            victim = i;
    return victim;
}

/* ---- charges ---- */

void ru_sources_charge(struct ru_sources *sources, uint64_t id, struct ru_source_name name,
                       uint64_t interval_ns, uint64_t most_ns, uint64_t now_ns)
{
    uint32_t index = source_find(sources, id);
    RU_CHECK(id != 0 && interval_ns > 0);
    if (index == RU_SOURCE_BUCKETS) {
        index = source_victim(sources, id);
        /* The time first: a reader must not find the new id with the charges of the old one. */
        __atomic_store_n(&sources->buckets[index].until_ns, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&sources->buckets[index].id, id, __ATOMIC_RELEASE);
        sources->names[index] = name;
    }
    uint64_t until_ns = sources->buckets[index].until_ns;
    until_ns = (until_ns > now_ns ? until_ns : now_ns) + interval_ns;
    if (until_ns > most_ns)
        until_ns = most_ns;
    __atomic_store_n(&sources->buckets[index].until_ns, until_ns, __ATOMIC_RELAXED);
}

void ru_sources_cap(struct ru_sources *sources, uint32_t index, uint64_t most_ns)
{
    RU_CHECK(index < RU_SOURCE_BUCKETS);
    if (sources->buckets[index].until_ns > most_ns)
        __atomic_store_n(&sources->buckets[index].until_ns, most_ns, __ATOMIC_RELAXED);
}

uint64_t ru_sources_at(const struct ru_sources *sources, uint32_t index,
                       struct ru_source_name *name)
{
    RU_CHECK(index < RU_SOURCE_BUCKETS);
    *name = sources->names[index];
    return sources->buckets[index].until_ns;
}
