/* source.h: buckets of what addresses, networks and coins have lately been charged with.
 *
 * A bucket is one time: when all that it was charged with will be forgiven. A charge moves it on by
 * the interval that one charge takes to be forgiven, so a bucket whose time has passed is as good as
 * none and its place may be taken. Which times are too late, the caller decides (guard.h).
 *
 * Memory: fixed, allocated in ru_sources_init(). A full line gives up the bucket that is forgiven
 * first. Places follow from a keyed hash (SipHash-1-3, as hash tables use it against aimed
 * collisions), so that nobody can choose addresses that push his own, or somebody else's, out. The
 * members of a group have ids that follow from the group's by a multiplication, which is five times
 * as quick; who has a whole group to choose from is held by the group's own bucket.
 * Thread: ru_sources_id() and ru_sources_until() any, without a lock; all else by who has locked. A
 * reader beside a writer may meet the time of a bucket that is being replaced, once.
 */
#ifndef RU_SOURCE_H
#define RU_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

/* What a bucket is of; the bytes mean what the caller says, and no two kinds are alike. */
struct ru_source_name {
    uint64_t what;
    uint64_t kind;
};

struct ru_bucket {
    uint64_t id;       /* hash of its name; 0: none */
    uint64_t until_ns; /* CLOCK_MONOTONIC */
};

struct ru_sources {
    struct ru_bucket *buckets;    /* RU_SOURCE_LINES lines of RU_SOURCE_WAYS */
    struct ru_source_name *names; /* of each bucket, for ru_sources_at() */
    uint64_t key[2];
    pthread_mutex_t lock;
};

/* 0 or -errno. */
int ru_sources_init(struct ru_sources *sources);
void ru_sources_destroy(struct ru_sources *sources);
uint64_t ru_sources_id(const struct ru_sources *sources, struct ru_source_name name);
/* Charge a bucket with `interval_ns`, but have all of it forgiven by `most_ns`. id: of that name. */
void ru_sources_charge(struct ru_sources *sources, uint64_t id, struct ru_source_name name,
                       uint64_t interval_ns, uint64_t most_ns, uint64_t now_ns);
/* Have all of bucket `index` forgiven by `most_ns`. */
void ru_sources_cap(struct ru_sources *sources, uint32_t index, uint64_t most_ns);
/* Bucket `index` of RU_SOURCE_BUCKETS: its time, and its name. */
uint64_t ru_sources_at(const struct ru_sources *sources, uint32_t index,
                       struct ru_source_name *name);

/* ---- per datagram, and therefore here ---- */

/* The id of member number `member` of the group with the id `group`. */
static inline uint64_t ru_sources_member_id(const struct ru_sources *sources, uint64_t group,
                                            uint64_t member)
{
    uint64_t id = group + (member + 1) * (sources->key[0] | 1);
    return id != 0 ? id : 1;
}

/* The first bucket of the line: the upper bits, which a multiplication mixes best. */
static inline uint32_t ru_sources_line(uint64_t id)
{
    return (uint32_t)(id / (UINT64_MAX / RU_SOURCE_LINES + 1)) * RU_SOURCE_WAYS;
}

/* The bucket of `id` will be asked for soon. */
static inline void ru_sources_expect(const struct ru_sources *sources, uint64_t id)
{
    __builtin_prefetch(&sources->buckets[ru_sources_line(id)]);
}

/* When the bucket is forgiven; 0 when there is none. Without a branch on where it stands: a flood would
 * have each of them mispredicted. */
static inline uint64_t ru_sources_until(const struct ru_sources *sources, uint64_t id)
{
    const struct ru_bucket *line = &sources->buckets[ru_sources_line(id)];
    uint64_t until_ns = 0;
    for (uint32_t i = 0; i < RU_SOURCE_WAYS; i++) {
        uint64_t here_ns = __atomic_load_n(&line[i].until_ns, __ATOMIC_RELAXED);
        uint64_t mask = -(uint64_t)(__atomic_load_n(&line[i].id, __ATOMIC_RELAXED) == id);
        until_ns |= here_ns & mask;
    }
    return until_ns;
}

#endif
