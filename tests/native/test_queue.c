/* test_queue.c: a ring loses nothing and keeps its order; a sleeper is woken, and only then.
 *
 * The threaded test is also worth a run under -fsanitize=thread: each index has one writer.
 */
#include <pthread.h>
#include <time.h>

#include "native.h"
#include "memory/ring.h"
#include "memory/sleeper.h"

#define CAPACITY 64
#define ENTRIES_AT 128 /* not at the start: the offset must count */
#define WORDS 1000000ULL
#define PATIENCE_MS 10000 /* a wait this long means that a wake-up was lost */

struct memory {
    _Alignas(RU_CACHE_LINE) uint8_t arena[ENTRIES_AT + CAPACITY * 8 + ENTRIES_AT];
    struct ru_ring ring;
    struct ru_sleeper consumer, producer;
    uint32_t lost; /* waits that nobody ended, though there was a reason to */
};

static void memory_init(struct memory *memory)
{
    memset(memory, 0, sizeof(*memory));
    memory->ring.mask = CAPACITY - 1;
    memory->ring.entries_at = ENTRIES_AT;
}

static void test_one_after_the_other(void)
{
    static struct memory memory;
    uint64_t word = 0;
    memory_init(&memory);
    EXPECT(!ru_ring_pop(&memory.ring, memory.arena, &word));
    for (uint64_t i = 0; i < 10 * CAPACITY; i++) {
        ru_ring_push(&memory.ring, memory.arena, ~i);
        EXPECT_EQUAL(ru_ring_count(&memory.ring), 1);
        EXPECT(ru_ring_pop(&memory.ring, memory.arena, &word));
        EXPECT_EQUAL(word, ~i);
        EXPECT_EQUAL(ru_ring_count(&memory.ring), 0);
    }
    EXPECT(!ru_ring_pop(&memory.ring, memory.arena, &word));
}

/* Full, at the start and where the indices wrap around. */
static void test_full(void)
{
    static struct memory memory;
    static const uint32_t starts[] = {0, 1, UINT32_MAX - CAPACITY / 2, UINT32_MAX};
    for (uint32_t s = 0; s < 4; s++) {
        uint64_t word = 0;
        memory_init(&memory);
        memory.ring.head = memory.ring.tail = starts[s];
        for (uint64_t i = 0; i < CAPACITY; i++)
            ru_ring_push(&memory.ring, memory.arena, i + 1);
        EXPECT_EQUAL(ru_ring_count(&memory.ring), CAPACITY);
        EXPECT_ABORT(ru_ring_push(&memory.ring, memory.arena, 1));
        for (uint64_t i = 0; i < CAPACITY; i++) {
            EXPECT(ru_ring_pop(&memory.ring, memory.arena, &word));
            EXPECT_EQUAL(word, i + 1);
        }
        EXPECT(!ru_ring_pop(&memory.ring, memory.arena, &word));
    }
    const uint8_t zeros[ENTRIES_AT] = {0};
    EXPECT_BYTES(memory.arena, zeros, ENTRIES_AT);
    EXPECT_BYTES(memory.arena + ENTRIES_AT + sizeof(uint64_t) * CAPACITY, zeros, ENTRIES_AT);
}

static void test_only_an_announced_sleeper_is_claimed_and_once(void)
{
    struct ru_sleeper sleeper = {0};
    EXPECT(!ru_sleeper_claim(&sleeper));
    ru_sleeper_announce(&sleeper);
    EXPECT(ru_sleeper_claim(&sleeper));
    EXPECT(!ru_sleeper_claim(&sleeper));
    ru_sleeper_announce(&sleeper);
    ru_sleeper_cancel(&sleeper);
    EXPECT(!ru_sleeper_claim(&sleeper));
    ru_sleeper_wait(&sleeper, PATIENCE_MS); /* not announced: does not sleep */
    ru_sleeper_announce(&sleeper);
    ru_sleeper_wait(&sleeper, 1); /* nobody comes */
    EXPECT(!ru_sleeper_claim(&sleeper));
}

/* ---- two threads ---- */

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Sleep until the ring is as wished: announce, look once more, wait. */
static void sleep_unless(struct memory *memory, struct ru_sleeper *sleeper, bool ready)
{
    if (ready) {
        ru_sleeper_cancel(sleeper);
        return;
    }
    uint64_t since_ms = now_ms();
    ru_sleeper_wait(sleeper, PATIENCE_MS);
    if (now_ms() - since_ms >= PATIENCE_MS)
        __atomic_fetch_add(&memory->lost, 1, __ATOMIC_RELAXED);
}

static bool lost(struct memory *memory)
{
    return __atomic_load_n(&memory->lost, __ATOMIC_RELAXED) > 0;
}

static void *produce(void *argument)
{
    struct memory *memory = argument;
    struct ru_random random = {native_seed()};
    for (uint64_t word = 1; word <= WORDS && !lost(memory);) {
        if (ru_ring_count(&memory->ring) == CAPACITY) {
            ru_sleeper_announce(&memory->producer);
            sleep_unless(memory, &memory->producer, ru_ring_count(&memory->ring) < CAPACITY);
            continue;
        }
        uint32_t burst = 1 + native_below(&random, CAPACITY - ru_ring_count(&memory->ring));
        for (; burst > 0 && word <= WORDS; burst--)
            ru_ring_push(&memory->ring, memory->arena, word++);
        ru_sleeper_wake(&memory->consumer);
    }
    return NULL;
}

static void test_a_million_words_between_threads(void)
{
    static struct memory memory;
    pthread_t producer;
    uint64_t want = 1;
    memory_init(&memory);
    EXPECT_EQUAL(pthread_create(&producer, NULL, produce, &memory), 0);
    while (want <= WORDS && !lost(&memory)) {
        uint64_t word;
        while (ru_ring_pop(&memory.ring, memory.arena, &word))
            EXPECT_EQUAL(word, want++);
        ru_sleeper_wake(&memory.producer);
        ru_sleeper_announce(&memory.consumer);
        sleep_unless(&memory, &memory.consumer, ru_ring_count(&memory.ring) > 0 || want > WORDS);
    }
    EXPECT_EQUAL(want, WORDS + 1);
    EXPECT_EQUAL(pthread_join(producer, NULL), 0);
    EXPECT_EQUAL(ru_ring_count(&memory.ring), 0);
    EXPECT(!lost(&memory));
}

/* One word to and fro: the other side is always about to sleep, and every wake-up lost shows. */

#define ROUNDS 100000ULL

static struct memory to, fro;

static void ping(struct memory *memory, uint64_t word)
{
    ru_ring_push(&memory->ring, memory->arena, word);
    ru_sleeper_wake(&memory->consumer);
}

/* The next word; looks for it for a random moment before it sleeps. */
static uint64_t pong(struct memory *memory, struct ru_random *random)
{
    uint64_t word = 0;
    for (uint32_t looks = native_below(random, 200); looks > 0; looks--) {
        if (ru_ring_pop(&memory->ring, memory->arena, &word))
            return word;
    }
    while (!ru_ring_pop(&memory->ring, memory->arena, &word) && !lost(memory)) {
        ru_sleeper_announce(&memory->consumer);
        sleep_unless(memory, &memory->consumer, ru_ring_count(&memory->ring) > 0);
    }
    return word;
}

static void *answer(void *argument)
{
    struct ru_random random = {native_seed() + 1};
    (void)argument;
    for (uint64_t round = 1; round <= ROUNDS && !lost(&fro) && !lost(&to); round++)
        ping(&fro, ~pong(&to, &random));
    return NULL;
}

static void test_no_wake_up_is_lost(void)
{
    struct ru_random random = {native_seed()};
    pthread_t answerer;
    memory_init(&to);
    memory_init(&fro);
    EXPECT_EQUAL(pthread_create(&answerer, NULL, answer, NULL), 0);
    for (uint64_t round = 1; round <= ROUNDS && !lost(&fro) && !lost(&to); round++) {
        ping(&to, round);
        EXPECT_EQUAL(pong(&fro, &random), ~round);
    }
    EXPECT_EQUAL(pthread_join(answerer, NULL), 0);
    EXPECT(!lost(&to) && !lost(&fro));
}

int main(void)
{
    RUN(test_one_after_the_other);
    RUN(test_full);
    RUN(test_only_an_announced_sleeper_is_claimed_and_once);
    RUN(test_a_million_words_between_threads);
    RUN(test_no_wake_up_is_lost);
    return native_finish();
}
