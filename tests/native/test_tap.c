/* test_tap.c: what answering threads note for the log, and the log's thread that takes it.
 *
 * Also run under the thread sanitizer. What must hold: every request is counted; of those that are
 * noted each comes out whole, once, in order, and no later than its count; a round has no more
 * notes and samples than allowed; samples stand for all requests of a round alike; the log sleeps
 * while nothing is noted, and is woken then.
 */
#include "count/tap.h"

#include <pthread.h>
#include <sched.h>

#include "clock.h"
#include "native.h"

#define LONG_MS 60000U /* nobody waits for it to pass */
#define SOON_MS 30000U /* ... nor for this long, however busy the machine */
#define KEPT RU_TAP_NOTES_KEPT
#define ROUND RU_TAP_ROUND_SAMPLES

static struct ru_taps taps;

/* Request `number` of peer `peer`: each field follows from these. */
static void note_one(struct ru_tap *tap, uint32_t peer, uint32_t number)
{
    uint8_t address[RU_ADDRESS_BYTES];
    memset(address, (int)(number * 7), sizeof(address));
    memcpy(address, &peer, sizeof(peer));
    const struct ru_record record = {.command = (uint16_t)(number + 1),
                                     .transport = number % 2,
                                     .request_size = number,
                                     .reply_size = number + 2,
                                     .reply_us = number * 3,
                                     .reply_status = (uint8_t)(number + 4)};
    ru_tap_note(tap, address, &record);
}

static uint32_t peer_of(const uint8_t *address)
{
    uint32_t peer;
    memcpy(&peer, address, sizeof(peer));
    return peer;
}

static void expect_note(const struct ru_note *note, uint32_t peer, uint32_t number)
{
    EXPECT_EQUAL(peer_of(note->peer), peer);
    EXPECT_EQUAL(note->request_size, number);
    for (uint32_t i = sizeof(peer); i < RU_ADDRESS_BYTES; i++)
        EXPECT_EQUAL(note->peer[i], (uint8_t)(number * 7));
    EXPECT_EQUAL(note->command, (uint16_t)(number + 1));
    EXPECT_EQUAL(note->transport, number % 2);
    EXPECT_EQUAL(note->reply_size, number + 2);
    EXPECT_EQUAL(note->reply_us, number * 3);
    EXPECT_EQUAL(note->reply_status, (uint8_t)(number + 4));
}

static uint64_t ms_since(uint64_t began_ns)
{
    return (ru_now_ns() - began_ns) / RU_MILLISECOND_NS;
}

/* ---- one thread ---- */

static void test_nothing_is_noted_before_the_first_round(void)
{
    struct ru_note note;
    struct ru_sample sample;
    EXPECT_EQUAL(ru_taps_init(&taps, 2), 0);
    for (uint32_t i = 0; i < 1000; i++)
        note_one(&taps.each[1], 5, i);
    EXPECT_EQUAL(ru_tap_requests(&taps.each[0]), 0);
    EXPECT_EQUAL(ru_tap_requests(&taps.each[1]), 1000);
    EXPECT_EQUAL(ru_tap_take_notes(&taps.each[1], &note, 1), 0);
    EXPECT_EQUAL(ru_tap_take_samples(&taps.each[1], &sample, 1), 0);
    EXPECT(!ru_taps_wait(&taps, 1, LONG_MS));
    ru_taps_destroy(&taps);
    ru_taps_destroy(&taps); /* an engine that got no memory for them */
}

static void test_a_round_has_the_notes_allowed(void)
{
    struct ru_note notes[8];
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    for (uint32_t round = 0; round < 3; round++) {
        ru_taps_begin(&taps, 5);
        for (uint32_t i = 0; i < 9; i++)
            note_one(taps.each, round, i);
        EXPECT_EQUAL(ru_tap_take_notes(taps.each, notes, 2), 2);
        EXPECT_EQUAL(ru_tap_take_notes(taps.each, notes + 2, 6), 3);
        for (uint32_t i = 0; i < 5; i++)
            expect_note(&notes[i], round, i);
        EXPECT_EQUAL(ru_tap_requests(taps.each), 9 * (round + 1));
    }
    ru_taps_begin(&taps, 0); /* less than the round before */
    note_one(taps.each, 0, 0);
    EXPECT_EQUAL(ru_tap_take_notes(taps.each, notes, 8), 0);
    ru_taps_destroy(&taps);
}

static void test_notes_without_room_are_counted(void)
{
    static struct ru_note notes[KEPT + 1];
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    ru_taps_begin(&taps, UINT32_MAX);
    for (uint32_t i = 0; i < KEPT + 9; i++)
        note_one(taps.each, 1, i);
    EXPECT_EQUAL(ru_tap_requests(taps.each), KEPT + 9);
    EXPECT_EQUAL(ru_tap_take_notes(taps.each, notes, 1), 1);
    note_one(taps.each, 2, 77);
    EXPECT_EQUAL(ru_tap_take_notes(taps.each, notes + 1, KEPT + 1), KEPT);
    for (uint32_t i = 0; i < KEPT; i++)
        expect_note(&notes[i], 1, i);
    expect_note(&notes[KEPT], 2, 77);
    ru_taps_destroy(&taps);
}

/* ---- samples ---- */

static void test_a_few_requests_are_all_sampled(void)
{
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    for (uint32_t round = 0; round < 4; round++) {
        ru_taps_begin(&taps, 0);
        for (uint32_t i = 0; i < RU_TAP_ROUND_FIRST; i++)
            note_one(taps.each, i, i);
        EXPECT_EQUAL(ru_tap_take_samples(taps.each, samples, RU_TAP_SAMPLES_KEPT),
                     RU_TAP_ROUND_FIRST);
        for (uint32_t i = 0; i < RU_TAP_ROUND_FIRST; i++) {
            EXPECT_EQUAL(peer_of(samples[i].peer), i);
            EXPECT_EQUAL(samples[i].weight, 1);
        }
    }
    ru_taps_destroy(&taps);
}

/* Which of four peers asks for request `number` of a round of `requests`. */
typedef uint32_t peer_order(uint32_t number, uint32_t requests);

static uint32_t peers_in_turn(uint32_t number, uint32_t requests)
{
    static uint32_t asked; /* a round may begin with any of them */
    (void)number, (void)requests;
    return asked++ % 4;
}

static uint32_t peers_one_after_the_other(uint32_t number, uint32_t requests)
{
    return (uint32_t)((uint64_t)number * 4 / requests);
}

/* Answer so many requests in a round; returns the share of `peer` by the samples, in thousandths.
 * */
static uint64_t share_of(uint32_t peer, uint32_t requests, peer_order *order)
{
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    uint64_t of_peer = 0, of_all = 0;
    ru_taps_begin(&taps, 0);
    for (uint32_t i = 0; i < requests; i++)
        note_one(taps.each, order(i, requests), i);
    uint32_t count = ru_tap_take_samples(taps.each, samples, RU_TAP_SAMPLES_KEPT);
    EXPECT(count > 0 && count <= ROUND);
    for (uint32_t i = 0; i < count; i++) {
        of_all += samples[i].weight;
        of_peer += peer_of(samples[i].peer) == peer ? samples[i].weight : 0;
    }
    return of_all > 0 ? of_peer * 1000 / of_all : 0;
}

/* A quarter is each peer's, however they follow each other, and whatever the load. */
static void test_samples_stand_for_the_whole_round(void)
{
    static const uint32_t loads[] = {30, 101, 999, 20001};
    enum {
        ROUNDS = 400
    };
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    for (uint32_t i = 0; i < 4 * 4; i++) {
        uint64_t in_turn = 0, in_a_row = 0;
        uint32_t load = loads[i / 4], peer = i % 4;
        (void)share_of(peer, load, peers_in_turn); /* the load is not known before */
        for (uint32_t round = 0; round < ROUNDS; round++) {
            in_turn += share_of(peer, load, peers_in_turn);
            in_a_row += share_of(peer, load, peers_one_after_the_other);
        }
        EXPECT(in_turn / ROUNDS > 225 && in_turn / ROUNDS < 275);
        EXPECT(in_a_row / ROUNDS > 150 && in_a_row / ROUNDS < 325);
    }
    ru_taps_destroy(&taps);
}

/* After silence, a burst's later half counts, too; after a high load, every request of a low one.
 * */
static void test_a_change_of_load_is_followed(void)
{
    uint64_t share = 0;
    enum {
        ROUNDS = 200
    };
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        ru_taps_begin(&taps, 0);
        share += share_of(3, 500, peers_one_after_the_other);
    }
    EXPECT(share / ROUNDS > 150 && share / ROUNDS < 350);

    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    (void)share_of(0, 1000000, peers_in_turn);
    ru_taps_begin(&taps, 0);
    note_one(taps.each, 9, 0);
    EXPECT_EQUAL(ru_tap_take_samples(taps.each, samples, RU_TAP_SAMPLES_KEPT), 1);
    EXPECT_EQUAL(peer_of(samples[0].peer), 9);
    ru_taps_begin(&taps, 0);
    for (uint32_t i = 0; i < 3; i++)
        note_one(taps.each, i, i);
    EXPECT_EQUAL(ru_tap_take_samples(taps.each, samples, RU_TAP_SAMPLES_KEPT), 3);
    ru_taps_destroy(&taps);
}

static void test_samples_without_room_are_left_out(void)
{
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT + 1];
    EXPECT_EQUAL(ru_taps_init(&taps, 1), 0);
    for (uint32_t round = 0; round < 10; round++) { /* the log takes nothing */
        ru_taps_begin(&taps, 0);
        for (uint32_t i = 0; i < RU_TAP_ROUND_FIRST; i++)
            note_one(taps.each, round, i);
    }
    EXPECT_EQUAL(ru_tap_take_samples(taps.each, samples, RU_TAP_SAMPLES_KEPT + 1),
                 RU_TAP_SAMPLES_KEPT);
    EXPECT_EQUAL(peer_of(samples[0].peer), 0);
    ru_taps_destroy(&taps);
}

/* ---- sleeping ---- */

static void *wait_long(void *woken)
{
    *(bool *)woken = ru_taps_wait(&taps, LONG_MS, 0);
    return NULL;
}

/* Return once the log has announced that it sleeps. */
static void until_asleep(struct ru_sleeper *sleeper)
{
    while (!__atomic_load_n(&sleeper->asleep, __ATOMIC_ACQUIRE))
        (void)sched_yield();
}

/* Begin a round that has no samples left, and no notes to take. */
static void begin_without_samples(void)
{
    static struct ru_note notes[KEPT];
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    ru_taps_begin(&taps, UINT32_MAX);
    for (uint32_t i = 0; i < KEPT; i++)
        note_one(&taps.each[1], 1, i);
    EXPECT_EQUAL(ru_tap_take_notes(&taps.each[1], notes, KEPT), KEPT);
    EXPECT_EQUAL(ru_tap_take_samples(&taps.each[1], samples, RU_TAP_SAMPLES_KEPT), ROUND);
}

static void test_a_note_or_a_sample_wakes_the_log(void)
{
    enum {
        SAMPLE,
        NOTE,
        END,
        WAKERS
    };
    for (uint32_t waker = SAMPLE; waker < WAKERS; waker++) {
        pthread_t log;
        bool woken = false;
        uint64_t began_ns = ru_now_ns();
        EXPECT_EQUAL(ru_taps_init(&taps, 3), 0);
        if (waker == SAMPLE)
            ru_taps_begin(&taps, 0);
        else if (waker == NOTE)
            begin_without_samples();
        EXPECT_EQUAL(pthread_create(&log, NULL, wait_long, &woken), 0);
        until_asleep(&taps.idle);
        if (waker == END)
            ru_taps_end(&taps);
        else
            note_one(&taps.each[1], 1, 1);
        EXPECT_EQUAL(pthread_join(log, NULL), 0);
        EXPECT(woken && ms_since(began_ns) < SOON_MS);
        ru_taps_destroy(&taps);
    }
}

static void *gather_long(void *woken)
{
    *(bool *)woken = ru_taps_wait(&taps, LONG_MS, LONG_MS);
    return NULL;
}

static void test_a_tap_that_fills_up_ends_the_gathering(void)
{
    for (uint32_t turn = 0; turn < 2; turn++) {
        pthread_t log;
        bool woken = false;
        uint64_t began_ns = ru_now_ns();
        EXPECT_EQUAL(ru_taps_init(&taps, 2), 0);
        ru_taps_begin(&taps, KEPT);
        EXPECT_EQUAL(pthread_create(&log, NULL, gather_long, &woken), 0);
        for (uint32_t i = 0; i < KEPT / 2 - 1; i++)
            note_one(&taps.each[1], 1, i);
        until_asleep(&taps.gathering);
        if (turn == 0)
            note_one(&taps.each[1], 1, KEPT / 2);
        else
            ru_taps_end(&taps);
        EXPECT_EQUAL(pthread_join(log, NULL), 0);
        EXPECT(woken && ms_since(began_ns) < SOON_MS);
        ru_taps_destroy(&taps);
    }
}

/* ---- threads ---- */

enum {
    WRITERS = 3,
    REQUESTS = 60000
};

static void *note_many(void *self)
{
    struct ru_tap *tap = self;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        note_one(tap, (uint32_t)(tap - taps.each), i);
        if (i % 1000 == 0)
            (void)sched_yield();
    }
    return NULL;
}

static uint64_t taken_notes[WRITERS], next_number[WRITERS];

/* What a round of the log does. Returns how many requests have been counted in all. */
static uint64_t take_round(void)
{
    struct ru_note notes[100];
    struct ru_sample samples[RU_TAP_SAMPLES_KEPT];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < WRITERS; i++) {
        struct ru_tap *tap = &taps.each[i];
        uint64_t counted = ru_tap_requests(tap);
        uint32_t count;
        sum += counted;
        while ((count = ru_tap_take_notes(tap, notes, 100)) > 0) {
            for (uint32_t n = 0; n < count; n++) {
                EXPECT(notes[n].request_size >= next_number[i]);
                expect_note(&notes[n], i, notes[n].request_size);
                next_number[i] = notes[n].request_size + 1;
            }
            taken_notes[i] += count;
        }
        /* Whatever was counted has been noted by now, or never is. */
        if (next_number[i] < counted)
            next_number[i] = counted;
        count = ru_tap_take_samples(tap, samples, RU_TAP_SAMPLES_KEPT);
        EXPECT(count <= 2 * ROUND);
        for (uint32_t n = 0; n < count; n++)
            EXPECT(peer_of(samples[n].peer) == i && samples[n].weight > 0);
    }
    return sum;
}

static void test_threads_note_while_the_log_takes(void)
{
    static const uint32_t allowed[] = {0, 10, 1000, KEPT, UINT32_MAX};
    pthread_t writers[WRITERS];
    EXPECT_EQUAL(ru_taps_init(&taps, WRITERS), 0);
    ru_taps_begin(&taps, UINT32_MAX);
    for (uint32_t i = 0; i < WRITERS; i++)
        EXPECT_EQUAL(pthread_create(&writers[i], NULL, note_many, &taps.each[i]), 0);
    uint64_t end_ns = ru_now_ns() + SOON_MS * RU_MILLISECOND_NS;
    for (uint32_t round = 0; take_round() < (uint64_t)WRITERS * REQUESTS; round++) {
        ru_taps_begin(&taps, allowed[round % 5]);
        (void)ru_taps_wait(&taps, 5, 1);
        EXPECT(ru_now_ns() < end_ns);
    }
    uint64_t taken = 0; /* a thread may run while a round allows no note at all */
    for (uint32_t i = 0; i < WRITERS; i++) {
        EXPECT_EQUAL(pthread_join(writers[i], NULL), 0);
        EXPECT_EQUAL(ru_tap_requests(&taps.each[i]), REQUESTS);
        EXPECT(taken_notes[i] <= REQUESTS);
        taken += taken_notes[i];
    }
    EXPECT(taken > 0);
    ru_taps_destroy(&taps);
}

int main(void)
{
    RUN(test_nothing_is_noted_before_the_first_round);
    RUN(test_a_round_has_the_notes_allowed);
    RUN(test_notes_without_room_are_counted);
    RUN(test_a_few_requests_are_all_sampled);
    RUN(test_samples_stand_for_the_whole_round);
    RUN(test_a_change_of_load_is_followed);
    RUN(test_samples_without_room_are_left_out);
    RUN(test_a_note_or_a_sample_wakes_the_log);
    RUN(test_a_tap_that_fills_up_ends_the_gathering);
    RUN(test_threads_note_while_the_log_takes);
    return native_finish();
}
