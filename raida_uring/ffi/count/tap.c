/* tap.c: notes and samples of answered requests, on their way to the log. See tap.h.
 *
 * Samples. A burst after silence is told from a steady load only later. So a round begins with
 * every request, and samples ever fewer of them if there are many; under a load that is known, it
 * samples one in `stride` from the start. Distances are random: peers that take turns must not fall
 * in step with them. A sample's weight is the mean of the distance before it, so that all parts of
 * a round count alike.
 */
#include "count/tap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "clock.h"

_Static_assert((RU_TAP_NOTES_KEPT & (RU_TAP_NOTES_KEPT - 1)) == 0, "indexes are masked");
_Static_assert((RU_TAP_SAMPLES_KEPT & (RU_TAP_SAMPLES_KEPT - 1)) == 0, "indexes are masked");
_Static_assert(RU_TAP_SAMPLES_KEPT >= 2 * RU_TAP_ROUND_SAMPLES, "a round's, and the next one's");
_Static_assert(RU_TAP_ROUND_SAMPLES - RU_TAP_ROUND_FIRST < 16, "distances are doubled");

/* ---- life ---- */

int ru_taps_init(struct ru_taps *taps, uint32_t count)
{
    RU_CHECK(count > 0);
    void *each = mmap(NULL, count * sizeof(struct ru_tap), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (each == MAP_FAILED)
        return -ENOMEM;
    *taps = (struct ru_taps){.count = count, .each = each};
    for (uint32_t i = 0; i < count; i++) {
        struct ru_tap *tap = &taps->each[i];
        tap->taps = taps;
        tap->sample_at = UINT64_MAX;
        tap->random = 0x9E3779B9U * (i + 1); /* not 0, which xorshift never leaves */
    }
    return 0;
}

void ru_taps_destroy(struct ru_taps *taps)
{
    if (taps->each)
        (void)munmap(taps->each, taps->count * sizeof(*taps->each));
    *taps = (struct ru_taps){0};
}

/* ---- the thread that notes ---- */

/* The mean distance from one sample of a round to the next. */
static uint32_t tap_distance(const struct ru_tap *tap)
{
    uint32_t taken = tap->samples_taken;
    uint32_t grown = taken < RU_TAP_ROUND_FIRST ? 1 : 2U << (taken - RU_TAP_ROUND_FIRST);
    return grown > tap->stride ? grown : tap->stride;
}

/* Take over the limits of a new round. `number` is the request being noted, its first. */
static void tap_begin(struct ru_tap *tap, uint32_t round, uint64_t number)
{
    tap->begun = round;
    tap->notes_left = __atomic_load_n(&tap->notes_allowed, __ATOMIC_RELAXED);
    tap->stride = __atomic_load_n(&tap->stride_wanted, __ATOMIC_RELAXED);
    tap->samples_taken = 0;
    tap->sample_at = number;
    tap->weight = tap->stride;
    RU_CHECK(tap->stride > 0);
}

static void tap_add_note(struct ru_tap *tap, const uint8_t *peer, const struct ru_record *record)
{
    uint32_t tail = tap->notes_tail;
    uint32_t kept = tail - __atomic_load_n(&tap->notes_head, __ATOMIC_ACQUIRE);
    RU_CHECK(kept <= RU_TAP_NOTES_KEPT);
    if (kept == RU_TAP_NOTES_KEPT)
        return; /* counted all the same */
    struct ru_note *note = &tap->notes[tail & (RU_TAP_NOTES_KEPT - 1)];
    memcpy(note->peer, peer, sizeof(note->peer));
    note->request_size = record->request_size;
    note->reply_size = record->reply_size;
    note->reply_us = record->reply_us;
    note->command = record->command;
    note->transport = record->transport;
    note->reply_status = record->reply_status;
    tap->notes_left--;
    __atomic_store_n(&tap->notes_tail, tail + 1, __ATOMIC_RELEASE);
    ru_sleeper_wake(&tap->taps->idle);
    if (kept + 1 >= RU_TAP_NOTES_KEPT / 2)
        ru_sleeper_wake(&tap->taps->gathering);
}

static uint32_t tap_draw(struct ru_tap *tap, uint32_t below)
{
    tap->random ^= tap->random << 13;
    tap->random ^= tap->random >> 17;
    tap->random ^= tap->random << 5;
    return (uint32_t)((uint64_t)tap->random * below >> 32);
}

static void tap_add_sample(struct ru_tap *tap, const uint8_t *peer)
{
    uint32_t tail = tap->samples_tail;
    uint32_t kept = tail - __atomic_load_n(&tap->samples_head, __ATOMIC_ACQUIRE);
    RU_CHECK(kept <= RU_TAP_SAMPLES_KEPT && tap->samples_taken < RU_TAP_ROUND_SAMPLES);
    if (kept < RU_TAP_SAMPLES_KEPT) {
        struct ru_sample *sample = &tap->samples[tail & (RU_TAP_SAMPLES_KEPT - 1)];
        memcpy(sample->peer, peer, sizeof(sample->peer));
        sample->weight = tap->weight;
        __atomic_store_n(&tap->samples_tail, tail + 1, __ATOMIC_RELEASE);
        ru_sleeper_wake(&tap->taps->idle);
    }
    if (++tap->samples_taken == RU_TAP_ROUND_SAMPLES) {
        tap->sample_at = UINT64_MAX;
        return;
    }
    tap->weight = tap_distance(tap);
    tap->sample_at += 1 + (uint64_t)tap_draw(tap, 2 * tap->weight - 1);
}

void ru_tap_note(struct ru_tap *tap, const uint8_t *peer, const struct ru_record *record)
{
    uint64_t number = tap->requests + 1;
    uint32_t round = __atomic_load_n(&tap->round, __ATOMIC_ACQUIRE);
    if (round != tap->begun)
        tap_begin(tap, round, number);
    if (tap->notes_left > 0)
        tap_add_note(tap, peer, record);
    if (number >= tap->sample_at)
        tap_add_sample(tap, peer);
    /* Last, so that the log finds the note of each request that it finds counted. */
    __atomic_store_n(&tap->requests, number, __ATOMIC_RELEASE);
}

/* ---- the log's thread ---- */

/* Whether it has something to do: a tap with so many notes, or, if `samples`, with any sample. */
static bool taps_due(const struct ru_taps *taps, uint32_t notes, bool samples)
{
    if (__atomic_load_n(&taps->ended, __ATOMIC_ACQUIRE))
        return true;
    for (uint32_t i = 0; i < taps->count; i++) {
        const struct ru_tap *tap = &taps->each[i];
        if (__atomic_load_n(&tap->notes_tail, __ATOMIC_ACQUIRE) - tap->notes_head >= notes)
            return true;
        if (samples && __atomic_load_n(&tap->samples_tail, __ATOMIC_ACQUIRE) != tap->samples_head)
            return true;
    }
    return false;
}

static bool taps_sleep(const struct ru_taps *taps, struct ru_sleeper *sleeper, uint32_t notes,
                       bool samples, uint32_t timeout_ms)
{
    uint64_t end_ns = ru_now_ns() + ru_clock_ms_to_ns(timeout_ms);
    for (;;) {
        ru_sleeper_announce(sleeper);
        bool due = taps_due(taps, notes, samples);
        uint64_t now_ns = ru_now_ns();
        if (due || now_ns >= end_ns) {
            ru_sleeper_cancel(sleeper);
            return due;
        }
        ru_sleeper_wait(sleeper, (uint32_t)((end_ns - now_ns) / RU_MILLISECOND_NS) + 1);
    }
}

bool ru_taps_wait(struct ru_taps *taps, uint32_t timeout_ms, uint32_t gather_ms)
{
    if (!taps_sleep(taps, &taps->idle, 1, true, timeout_ms))
        return false;
    (void)taps_sleep(taps, &taps->gathering, RU_TAP_NOTES_KEPT / 2, false, gather_ms);
    return true;
}

void ru_taps_end(struct ru_taps *taps)
{
    __atomic_store_n(&taps->ended, 1, __ATOMIC_RELEASE);
    ru_sleeper_wake(&taps->idle);
    ru_sleeper_wake(&taps->gathering);
}

void ru_taps_begin(struct ru_taps *taps, uint32_t notes)
{
    for (uint32_t i = 0; i < taps->count; i++) {
        struct ru_tap *tap = &taps->each[i];
        uint64_t requests = __atomic_load_n(&tap->requests, __ATOMIC_RELAXED);
        uint64_t stride = (requests - tap->requests_begun) / RU_TAP_ROUND_FIRST;
        if (stride > RU_TAP_STRIDE_MAX)
            stride = RU_TAP_STRIDE_MAX;
        tap->requests_begun = requests;
        __atomic_store_n(&tap->stride_wanted, stride > 0 ? (uint32_t)stride : 1, __ATOMIC_RELAXED);
        __atomic_store_n(&tap->notes_allowed, notes, __ATOMIC_RELAXED);
        uint32_t round = tap->round + 1;
        __atomic_store_n(&tap->round, round > 0 ? round : 1, __ATOMIC_RELEASE);
    }
}

uint64_t ru_tap_requests(const struct ru_tap *tap)
{
    return __atomic_load_n(&tap->requests, __ATOMIC_ACQUIRE);
}

uint32_t ru_tap_take_notes(struct ru_tap *tap, struct ru_note *notes, uint32_t count)
{
    uint32_t taken = 0;
    uint32_t head = tap->notes_head;
    uint32_t tail = __atomic_load_n(&tap->notes_tail, __ATOMIC_ACQUIRE);
    for (; taken < count && head != tail; taken++, head++)
        notes[taken] = tap->notes[head & (RU_TAP_NOTES_KEPT - 1)];
    __atomic_store_n(&tap->notes_head, head, __ATOMIC_RELEASE);
    return taken;
}

uint32_t ru_tap_take_samples(struct ru_tap *tap, struct ru_sample *samples, uint32_t count)
{
    uint32_t taken = 0;
    uint32_t head = tap->samples_head;
    uint32_t tail = __atomic_load_n(&tap->samples_tail, __ATOMIC_ACQUIRE);
    for (; taken < count && head != tail; taken++, head++)
        samples[taken] = tap->samples[head & (RU_TAP_SAMPLES_KEPT - 1)];
    __atomic_store_n(&tap->samples_head, head, __ATOMIC_RELEASE);
    return taken;
}
