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
/* Of member number `member` of the group with the id `group`. */
uint64_t ru_sources_member_id(const struct ru_sources *sources, uint64_t group, uint64_t member);
/* Its bucket will be asked for soon. */
void ru_sources_expect(const struct ru_sources *sources, uint64_t id);
/* When the bucket is forgiven; 0 when there is none. */
uint64_t ru_sources_until(const struct ru_sources *sources, uint64_t id);
/* Charge a bucket with `interval_ns`, but have all of it forgiven by `most_ns`. id: of that name. */
void ru_sources_charge(struct ru_sources *sources, uint64_t id, struct ru_source_name name,
                       uint64_t interval_ns, uint64_t most_ns, uint64_t now_ns);
/* Have all of bucket `index` forgiven by `most_ns`. */
void ru_sources_cap(struct ru_sources *sources, uint32_t index, uint64_t most_ns);
/* Bucket `index` of RU_SOURCE_BUCKETS: its time, and its name. */
uint64_t ru_sources_at(const struct ru_sources *sources, uint32_t index,
                       struct ru_source_name *name);

#endif
