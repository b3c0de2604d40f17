/* source.h: buckets of recent charges to addresses, networks and coins.
 *
 * A bucket stores one time: when all its charges will have expired. A charge moves that time on by
 * the interval in which one charge expires, so a bucket whose time has passed is empty and may be
 * replaced. The caller decides which times are too late (guard.h).
 *
 * Memory: fixed, allocated in ru_sources_init(). In a full line the bucket that expires first is
 * replaced. A keyed hash (SipHash-1-3, which hash tables use against chosen collisions) decides the
 * line, so nobody can choose addresses whose charges replace a certain bucket. The ids of a group's
 * members are computed from the group's id by a multiplication, which is five times as fast; a
 * sender that can choose among all members of a group is limited by the group's bucket.
 * Thread: ru_sources_id() and ru_sources_until() any, without a lock; all others with `lock` held.
 * A reader concurrent with a writer may once see the time of a bucket that is being replaced.
 */
#ifndef RU_SOURCE_H
#define RU_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

/* What a bucket belongs to; the caller defines the words. Different kinds never collide. */
struct ru_source_name {
    uint64_t what;
    uint64_t kind;
};

struct ru_bucket {
    uint64_t id;       /* hash of its name; 0: free */
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
/* Charge a bucket with `interval_ns`, up to a time of `most_ns`. id: hash of name. */
void ru_sources_charge(struct ru_sources *sources, uint64_t id, struct ru_source_name name,
                       uint64_t interval_ns, uint64_t most_ns, uint64_t now_ns);
/* Lower the time of bucket `index` to at most `most_ns`. */
void ru_sources_cap(struct ru_sources *sources, uint32_t index, uint64_t most_ns);
/* Bucket `index` of RU_SOURCE_BUCKETS: its time, and its name. */
uint64_t ru_sources_at(const struct ru_sources *sources, uint32_t index,
                       struct ru_source_name *name);

/* ---- inline, because they run once per datagram ---- */

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

/* Prefetch the bucket of `id`, which will be read soon. */
static inline void ru_sources_expect(const struct ru_sources *sources, uint64_t id)
{
    __builtin_prefetch(&sources->buckets[ru_sources_line(id)]);
}

/* When the bucket of `id` expires; 0 if there is none. Does not branch on the bucket's position:
 * in a flood each such branch would be mispredicted. */
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
