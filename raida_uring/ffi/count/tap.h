/* tap.h: what is noted of the requests that were answered, for the log and the busiest peers.
 *
 * Why: the threads that answer must neither word lines nor wait for whoever does. Each of them
 * notes in a tap of its own as many requests as may still be logged, and a few samples, spread over
 * all that it answers. The others it only counts.
 * Owner: the engine. A tap's thread notes, one other thread, the log's, takes. The latter works in
 * rounds: as each begins, it says how many requests a tap may note until the next one. Each word
 * has one writer.
 * Memory: mapped with the engine; pages that are never used cost nothing.
 */
#ifndef RU_TAP_H
#define RU_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/sleeper.h"
#include "ru.h"

struct ru_taps;

struct ru_tap {
    /* Written by the thread that notes. */
    _Alignas(RU_CACHE_LINE) uint64_t requests; /* the log reads it */
    uint64_t sample_at;     /* number of the request to sample next; UINT64_MAX: none this round */
    uint32_t begun;         /* the round whose limits are in force */
    uint32_t notes_left;    /* of this round */
    uint32_t samples_taken; /* in this round */
    uint32_t stride;        /* of this round, as below */
    uint32_t weight;        /* of the next sample */
    uint32_t random;
    uint32_t notes_tail;   /* the log reads it */
    uint32_t samples_tail; /* the log reads it */
    struct ru_taps *taps;  /* set once */

    /* Written by the log's thread, and read by the other one except for requests_begun. */
    _Alignas(RU_CACHE_LINE) uint32_t round; /* 0: none has begun, nothing is noted */
    uint32_t notes_allowed;
    uint32_t stride_wanted; /* requests from one sample to the next, on average */
    uint32_t notes_head;
    uint32_t samples_head;
    uint64_t requests_begun; /* requests at the beginning of the round */

    /* Slots from head to tail are the log's, the others belong to the thread that notes. */
    _Alignas(RU_CACHE_LINE) struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    struct ru_note notes[RU_TAP_NOTES_KEPT];
};

/* All taps of an engine. */
struct ru_taps {
    struct ru_sleeper idle;      /* the log, until a request is noted */
    struct ru_sleeper gathering; /* the log, until a tap is half full */
    uint32_t ended;              /* it is to wait no more */
    uint32_t count;
    struct ru_tap *each;
};

/* Thread: control. -ENOMEM; nothing has to be destroyed then. */
int ru_taps_init(struct ru_taps *taps, uint32_t count);
/* Thread: control, once nobody notes or takes any more. */
void ru_taps_destroy(struct ru_taps *taps);

/* Thread: the tap's. A request has been answered. peer: its sockaddr, RU_ADDRESS_BYTES. record:
 * what became of it. Makes a system call only to wake the log, about once a round. */
void ru_tap_note(struct ru_tap *tap, const uint8_t *peer, const struct ru_record *record);

/* Thread: the log's, unless it says any, as all that follow. Wait until a request is noted, and
 * then until a tap is half full, up to `gather_ms`. False if `timeout_ms` passed before. */
bool ru_taps_wait(struct ru_taps *taps, uint32_t timeout_ms, uint32_t gather_ms);
/* Thread: any. From now on ru_taps_wait() returns at once. */
void ru_taps_end(struct ru_taps *taps);
/* Begin a round, in which each tap may note `notes` requests. */
void ru_taps_begin(struct ru_taps *taps, uint32_t notes);
/* How many requests it has counted. What it noted of them can be taken from now on. */
uint64_t ru_tap_requests(const struct ru_tap *tap);
/* Take up to `count`, oldest first; returns how many. */
uint32_t ru_tap_take_notes(struct ru_tap *tap, struct ru_note *notes, uint32_t count);
uint32_t ru_tap_take_samples(struct ru_tap *tap, struct ru_sample *samples, uint32_t count);

#endif
