/* test_tickets.c: tickets in shared memory: issued, claimed, expired, by many threads and
 * processes.
 *
 * Also run under the thread sanitizer. What must hold: a claim returns the coins that its number
 * was issued for, or none; each RAIDA gets them at most once; no two living tickets have one
 * number; whoever dies in the middle holds up nobody beyond a ticket's lifetime.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include "coins/tickets.h"
#include "native.h"

#define START_S 1800000000ULL
#define LIFETIME_S ((uint64_t)RU_TICKET_LIFETIME_S)
#define NAMES_MAX ((uint32_t)RU_TICKET_COINS_MAX * RU_COIN_NAME_SIZE)

static struct ru_memory memory_new(void)
{
    struct ru_defaults defaults;
    struct ru_memory memory;
    ru_defaults_init(&defaults, (const uint8_t *)"a seed", 6);
    EXPECT_EQUAL(ru_memory_create(&memory, &defaults), 0);
    return memory;
}

static uint64_t bytes_of(const struct ru_memory *memory)
{
    struct stat stat;
    if (fstat(memory->fd, &stat) != 0)
        abort();
    return (uint64_t)stat.st_blocks * 512;
}

static void name_write(uint8_t *name, uint32_t value)
{
    name[0] = (uint8_t)value;
    memcpy(name + 1, &value, sizeof(value));
}

static int put(const struct ru_memory *memory, uint32_t number, uint32_t coin, uint64_t now_s)
{
    uint8_t name[RU_COIN_NAME_SIZE];
    name_write(name, coin);
    return ru_tickets_put(memory, number, (struct ru_coin_list){name, 1, sizeof(name)}, now_s);
}

static uint32_t issue(const struct ru_memory *memory, uint32_t coin, uint64_t now_s)
{
    uint8_t name[RU_COIN_NAME_SIZE];
    uint32_t number = 0;
    name_write(name, coin);
    struct ru_coin_list coins = {name, 1, sizeof(name)};
    EXPECT_EQUAL(ru_tickets_issue(memory, coins, now_s, &number), 0);
    EXPECT(number != 0);
    return number;
}

static int claim(const struct ru_memory *memory, uint32_t number, uint32_t raida, uint64_t now_s)
{
    uint8_t name[RU_COIN_NAME_SIZE];
    return ru_tickets_claim(memory, number, raida, now_s, name, sizeof(name));
}

/* ---- one at a time ---- */

static void test_claims(void)
{
    static uint8_t payload[RU_TICKET_COINS_MAX * RU_COIN_AN_SIZE];
    static uint8_t names[NAMES_MAX];
    static uint8_t found[NAMES_MAX];
    struct ru_memory memory = memory_new();
    for (uint32_t i = 0; i < RU_TICKET_COINS_MAX; i++) {
        name_write(names + (size_t)i * RU_COIN_NAME_SIZE, i * 77777);
        name_write(payload + (size_t)i * RU_COIN_AN_SIZE, i * 77777);
    }
    for (uint32_t count = 1; count <= RU_TICKET_COINS_MAX; count += 3119) {
        struct ru_coin_list coins = {payload, count, RU_COIN_AN_SIZE};
        uint32_t bytes = count * RU_COIN_NAME_SIZE;
        uint32_t number;
        EXPECT_EQUAL(ru_tickets_issue(&memory, coins, START_S, &number), 0);
        for (uint32_t raida = 0; raida < RU_RAIDA_COUNT; raida++) {
            memset(found, 0, sizeof(found));
            EXPECT_EQUAL(ru_tickets_claim(&memory, number, raida, START_S, found, bytes - 1),
                         RU_TICKET_LARGE);
            EXPECT_EQUAL(ru_tickets_claim(&memory, number, raida, START_S, found, bytes), bytes);
            EXPECT_BYTES(found, names, bytes);
            EXPECT_EQUAL(ru_tickets_claim(&memory, number, raida, START_S, found, 0),
                         RU_TICKET_CLAIMED);
        }
        EXPECT_EQUAL(claim(&memory, number + 1, 0, START_S), RU_TICKET_UNKNOWN);
        EXPECT_EQUAL(claim(&memory, 0, 0, START_S), RU_TICKET_UNKNOWN);
    }
    EXPECT_EQUAL(ru_tickets_alive(&memory, START_S), 2);
    EXPECT_ABORT(claim(&memory, 1, RU_RAIDA_COUNT, START_S));
    ru_memory_detach(&memory);
}

static void test_numbers(void)
{
    struct ru_memory memory = memory_new();
    EXPECT_EQUAL(put(&memory, 0, 1, START_S), -EEXIST);
    EXPECT_EQUAL(put(&memory, 9, 1, START_S), 0);
    EXPECT_EQUAL(put(&memory, 8, 2, START_S), 0);
    EXPECT_EQUAL(put(&memory, 9, 3, START_S + LIFETIME_S - 1), -EEXIST);
    EXPECT_EQUAL(ru_tickets_alive(&memory, START_S), 2);
    EXPECT_EQUAL(claim(&memory, 9, 7, START_S), RU_COIN_NAME_SIZE);
    EXPECT_EQUAL(put(&memory, 9, 3, START_S + LIFETIME_S), 0); /* another ticket */
    EXPECT_EQUAL(claim(&memory, 9, 7, START_S + LIFETIME_S), RU_COIN_NAME_SIZE);
    ru_memory_detach(&memory);
}

static int put_next(const struct ru_memory *memory, uint64_t now_s)
{
    static uint32_t next = 1 << 20;
    next++;
    return put(memory, next, next, now_s);
}

static void test_expiry(void)
{
    struct ru_memory memory = memory_new();
    uint64_t now_s = START_S;
    uint32_t first = issue(&memory, 0, now_s);
    for (uint32_t i = 1; i < RU_TICKETS_MAX; i++)
        (void)issue(&memory, i, now_s);
    for (uint32_t i = 0; i < 3; i++)
        EXPECT_EQUAL(put_next(&memory, now_s), RU_TICKET_FULL);
    now_s += LIFETIME_S - 1;
    EXPECT_EQUAL(put_next(&memory, now_s), RU_TICKET_FULL);
    EXPECT_EQUAL(ru_tickets_alive(&memory, now_s), RU_TICKETS_MAX);
    EXPECT_EQUAL(claim(&memory, first, 1, now_s), RU_COIN_NAME_SIZE);
    now_s += 1;
    EXPECT_EQUAL(claim(&memory, first, 2, now_s), RU_TICKET_UNKNOWN);
    EXPECT_EQUAL(ru_tickets_alive(&memory, now_s), 0);
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++)
        EXPECT_EQUAL(put_next(&memory, now_s), 0);
    EXPECT_EQUAL(put_next(&memory, now_s), RU_TICKET_FULL);
    ru_memory_detach(&memory);
}

/* What was issued while the clock was ahead takes nobody's room once it has been set right. */
static void test_clock_steps(void)
{
    struct ru_memory memory = memory_new();
    uint64_t now_s = START_S;
    uint32_t first = issue(&memory, 0, now_s);
    for (uint32_t i = 1; i < RU_TICKETS_MAX; i++)
        (void)issue(&memory, i, now_s);
    EXPECT_EQUAL(put_next(&memory, now_s), RU_TICKET_FULL);
    now_s -= 10; /* a small step: they live */
    EXPECT_EQUAL(put_next(&memory, now_s), RU_TICKET_FULL);
    EXPECT_EQUAL(claim(&memory, first, 1, now_s), RU_COIN_NAME_SIZE);
    now_s = START_S - LIFETIME_S;
    EXPECT_EQUAL(claim(&memory, first, 2, now_s), RU_COIN_NAME_SIZE);
    now_s -= 1;
    EXPECT_EQUAL(claim(&memory, first, 3, now_s), RU_TICKET_UNKNOWN);
    EXPECT_EQUAL(put_next(&memory, now_s), 0);
    now_s = START_S - 365ULL * 86400;
    EXPECT_EQUAL(ru_tickets_alive(&memory, now_s), 0);
    EXPECT_EQUAL(put_next(&memory, now_s), 0);
    for (uint64_t year = 1; year < 200; year++) { /* expiries are kept in 31 bits */
        now_s = START_S + year * 365 * 86400;
        EXPECT_EQUAL(ru_tickets_alive(&memory, now_s), 0);
        first = issue(&memory, 5, now_s);
        EXPECT_EQUAL(claim(&memory, first, 0, now_s + LIFETIME_S - 1), RU_COIN_NAME_SIZE);
        EXPECT_EQUAL(claim(&memory, first, 1, now_s + LIFETIME_S), RU_TICKET_UNKNOWN);
    }
    ru_memory_detach(&memory);
}

static void test_one_coin_does_not_take_all(void)
{
    struct ru_memory memory = memory_new();
    uint32_t others[10];
    uint32_t greedy[RU_TICKETS_MAX + 1];
    uint32_t left = 0;
    for (uint32_t i = 0; i < 10; i++)
        others[i] = issue(&memory, 100 + i, START_S);
    for (uint32_t i = 0; i < RU_TICKETS_MAX + 1; i++)
        greedy[i] = issue(&memory, 7, START_S + i / 10);
    const uint64_t now_s = START_S + 60;
    for (uint32_t i = 0; i < RU_TICKETS_MAX / 2; i++)
        EXPECT_EQUAL(put_next(&memory, now_s), 0);
    for (uint32_t i = 0; i < 10; i++)
        EXPECT_EQUAL(claim(&memory, others[i], 3, now_s), RU_COIN_NAME_SIZE);
    /* The last ones found room that those before them had made; of those the newest are left. */
    uint32_t before = RU_TICKETS_MAX - 10;
    for (uint32_t i = 0; i < RU_TICKETS_MAX + 1; i++) {
        bool lives = claim(&memory, greedy[i], 3, now_s) > 0;
        EXPECT(lives || i < before);
        EXPECT(!lives || i >= before - 18); /* of one second, any may end */
        left += lives;
    }
    EXPECT_EQUAL(left, RU_TICKETS_OF_COIN_MAX + 11);
    ru_memory_detach(&memory);
}

/* ---- memory ---- */

static void test_memory(void)
{
    static uint8_t names[NAMES_MAX];
    struct ru_memory memory = memory_new();
    uint64_t before = bytes_of(&memory);
    EXPECT_EQUAL(claim(&memory, 1, 1, START_S), RU_TICKET_UNKNOWN);
    EXPECT_EQUAL(bytes_of(&memory), before);
    EXPECT_EQUAL(put(&memory, 1, 1, START_S), 0);
    EXPECT_EQUAL(bytes_of(&memory) - before, 4096);
    struct ru_coin_list all = {names, RU_TICKET_COINS_MAX, RU_COIN_NAME_SIZE};
    for (uint32_t i = 0; i < 2; i++) /* in the same slot */
        EXPECT_EQUAL(ru_tickets_put(&memory, 2, all, START_S + (i + 1) * LIFETIME_S), 0);
    EXPECT_EQUAL(bytes_of(&memory) - before, sizeof(struct ru_ticket_list));
    ru_memory_detach(&memory);
}

/* Without memory for its list a ticket is refused, and takes no slot. */
static void test_no_memory(void)
{
    struct ru_memory memory = memory_new();
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", memory.fd);
    int whole = memory.fd;
    memory.fd = open(path, O_RDONLY | O_CLOEXEC);
    EXPECT(memory.fd >= 0);
    for (uint32_t i = 0; i < RU_TICKETS_MAX + 1; i++)
        EXPECT_EQUAL(put(&memory, 5, 1, START_S), -EBADF);
    EXPECT_EQUAL(ru_tickets_alive(&memory, START_S), 0);
    (void)close(memory.fd);
    memory.fd = whole;
    EXPECT_EQUAL(put(&memory, 5, 1, START_S), 0);
    ru_memory_detach(&memory);
}

/* ---- those that died or stood still ---- */

static void test_dead_writer(void)
{
    struct ru_memory memory = memory_new();
    uint64_t *word = &memory.tickets->words[0];
    *word = 6ULL << 32 | 0x80000000ULL | (START_S + LIFETIME_S); /* as it leaves it */
    EXPECT_EQUAL(ru_tickets_alive(&memory, START_S), 0);
    EXPECT_EQUAL(claim(&memory, 6, 1, START_S), RU_TICKET_UNKNOWN);
    EXPECT_EQUAL(put(&memory, 6, 1, START_S), -EEXIST); /* it might only be slow */
    for (uint32_t i = 1; i < RU_TICKETS_MAX; i++)
        EXPECT_EQUAL(put_next(&memory, START_S + 1), 0);
    EXPECT_EQUAL(put_next(&memory, START_S + 1), RU_TICKET_FULL);
    EXPECT_EQUAL(put_next(&memory, START_S + LIFETIME_S - 1), RU_TICKET_FULL);
    EXPECT_EQUAL(put_next(&memory, START_S + LIFETIME_S), 0);
    EXPECT_EQUAL(put_next(&memory, START_S + LIFETIME_S), RU_TICKET_FULL);
    ru_memory_detach(&memory);
}

/* That there is no room is noted, and holds only until a slot becomes free before its time. */
static void test_room_after_all(void)
{
    struct ru_memory memory = memory_new();
    memory.tickets->words[0] = 6ULL << 32 | 0x80000000ULL | (START_S + LIFETIME_S);
    for (uint32_t i = 1; i < RU_TICKETS_MAX; i++)
        EXPECT_EQUAL(put_next(&memory, START_S), 0);
    EXPECT_EQUAL(put_next(&memory, START_S), RU_TICKET_FULL);
    EXPECT(memory.tickets->full != 0);
    memory.tickets->words[0] = 1; /* as a writer leaves it that has got no memory */
    EXPECT_EQUAL(put_next(&memory, START_S), RU_TICKET_FULL);
    memory.tickets->freed++;
    EXPECT_EQUAL(put_next(&memory, START_S), 0);
    EXPECT_EQUAL(put_next(&memory, START_S), RU_TICKET_FULL);
    ru_memory_detach(&memory);
}

/* A writer that was stopped for a lifetime writes to a list that is another ticket's by then. */
static void test_stopped_writer(void)
{
    struct ru_memory memory = memory_new();
    static uint8_t name[2 * RU_COIN_NAME_SIZE];
    static uint8_t names[2 * RU_COIN_NAME_SIZE];
    struct ru_coin_list coins = {name, 2, RU_COIN_NAME_SIZE};
    struct ru_ticket_list *list = &memory.ticket_lists[0];
    EXPECT_EQUAL(ru_tickets_put(&memory, 1, coins, START_S), 0);
    const struct ru_ticket_list old = *list;
    for (uint32_t which = 1; which < 8; which++) { /* a bit for each of the list's words */
        uint64_t now_s = START_S + which * LIFETIME_S;
        EXPECT_EQUAL(ru_tickets_put(&memory, 1 + which, coins, now_s), 0);
        if (which & 1)
            list->claims = old.claims;
        for (uint32_t i = 0; i < 2; i++)
            if (which >> (i + 1) & 1)
                list->coins[i] = old.coins[i];
        EXPECT_EQUAL(ru_tickets_claim(&memory, 1 + which, 0, now_s, names, sizeof(names)),
                     RU_TICKET_UNKNOWN);
    }
    ru_memory_detach(&memory);
}

/* Processes that are killed at any moment leave every slot to be used again. */
static void test_killed_processes(void)
{
    struct ru_memory memory = memory_new();
    uint64_t now_s = START_S;
    for (uint32_t round = 0; round < 20; round++, now_s += LIFETIME_S) {
        int output;
        pid_t pid = native_fork(&output);
        if (pid == 0) {
            struct ru_random random = {round + 1};
            for (;;) {
                uint32_t number = (uint32_t)native_random(&random);
                (void)put(&memory, number, native_below(&random, 99), now_s);
                (void)claim(&memory, number, native_below(&random, RU_RAIDA_COUNT), now_s);
            }
        }
        (void)usleep(1000 + 500 * round);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        (void)close(output);
    }
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++)
        EXPECT_EQUAL(put_next(&memory, now_s), 0);
    EXPECT_EQUAL(ru_tickets_alive(&memory, now_s), RU_TICKETS_MAX);
    ru_memory_detach(&memory);
}

/* ---- many at a time ---- */

#define THREADS 4U
#define TICKETS 6000U /* that each thread issues */
#define CLAIMS 6U     /* tried after each */
#define RECENT 700U   /* of which tickets */
#define GREEDY_COINS 4U

struct crowd {
    struct ru_memory memory;
    uint64_t now_s;
    uint32_t told_count;
    struct {
        uint32_t number;  /* 0: not yet */
        uint32_t claimed; /* a bit for each RAIDA */
    } told[THREADS * TICKETS];
    uint32_t twice, foreign, claimed, full;
    uint32_t next;
};

/* The first coin, which few or many tickets have in common, and the others, which none have. */
static uint32_t crowd_coin(uint32_t number, uint32_t i)
{
    return i == 0 && number % 3 > 0 ? number % GREEDY_COINS : number + i;
}

static uint32_t crowd_count(uint32_t number)
{
    return 1 + number % 40;
}

static void crowd_issue(struct crowd *crowd, uint32_t number, uint64_t now_s)
{
    uint8_t names[40 * RU_COIN_NAME_SIZE];
    for (uint32_t i = 0; i < crowd_count(number); i++)
        name_write(names + (size_t)i * RU_COIN_NAME_SIZE, crowd_coin(number, i));
    struct ru_coin_list coins = {names, crowd_count(number), RU_COIN_NAME_SIZE};
    int rc = ru_tickets_put(&crowd->memory, number, coins, now_s);
    if (rc == RU_TICKET_FULL) {
        __atomic_fetch_add(&crowd->full, 1, __ATOMIC_RELAXED);
        return;
    }
    if (rc == -EEXIST) /* the clock went on by a lifetime meanwhile */
        return;
    EXPECT_EQUAL(rc, 0);
    uint32_t place = __atomic_fetch_add(&crowd->told_count, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&crowd->told[place].number, number, __ATOMIC_RELEASE);
}

static void crowd_claim(struct crowd *crowd, struct ru_random *random, uint64_t now_s)
{
    uint8_t names[40 * RU_COIN_NAME_SIZE];
    uint8_t name[RU_COIN_NAME_SIZE];
    uint32_t count = __atomic_load_n(&crowd->told_count, __ATOMIC_RELAXED);
    if (count == 0)
        return;
    uint32_t place = count - 1 - native_below(random, count < RECENT ? count : RECENT);
    uint32_t number = __atomic_load_n(&crowd->told[place].number, __ATOMIC_ACQUIRE);
    uint32_t raida = native_below(random, RU_RAIDA_COUNT);
    int bytes = number == 0
                    ? 0
                    : ru_tickets_claim(&crowd->memory, number, raida, now_s, names, sizeof(names));
    if (bytes <= 0)
        return;
    bool same = (uint32_t)bytes == crowd_count(number) * RU_COIN_NAME_SIZE;
    for (uint32_t i = 0; same && i < crowd_count(number); i++) {
        name_write(name, crowd_coin(number, i));
        same = memcmp(name, names + (size_t)i * RU_COIN_NAME_SIZE, sizeof(name)) == 0;
    }
    uint32_t bit = 1U << raida;
    uint32_t before = __atomic_fetch_or(&crowd->told[place].claimed, bit, __ATOMIC_RELAXED);
    __atomic_fetch_add(&crowd->foreign, !same, __ATOMIC_RELAXED);
    __atomic_fetch_add(&crowd->twice, (before & bit) != 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&crowd->claimed, 1, __ATOMIC_RELAXED);
}

static void *crowd_run(void *argument)
{
    struct crowd *crowd = argument;
    struct ru_random random = {native_seed() +
                               __atomic_fetch_add(&crowd->next, 1, __ATOMIC_RELAXED)};
    for (uint32_t i = 0; i < TICKETS; i++) {
        /* Slow and fast clocks by turns: tickets end because there is no room, or they expire. */
        uint32_t number = __atomic_add_fetch(&crowd->next, 1, __ATOMIC_RELAXED);
        uint64_t step_s = number / 1000 % 2 == 0 ? number % 8 == 0 : 20;
        uint64_t now_s = __atomic_fetch_add(&crowd->now_s, step_s, __ATOMIC_RELAXED);
        crowd_issue(crowd, number * 2654435761U, now_s); /* odd: no number comes twice */
        for (uint32_t j = 0; j < CLAIMS; j++)
            crowd_claim(crowd, &random, now_s);
    }
    return NULL;
}

static void test_crowd(void)
{
    static struct crowd crowd;
    pthread_t threads[THREADS];
    crowd = (struct crowd){.memory = memory_new(), .now_s = START_S};
    for (uint32_t i = 0; i < THREADS; i++)
        EXPECT_EQUAL(pthread_create(&threads[i], NULL, crowd_run, &crowd), 0);
    for (uint32_t i = 0; i < THREADS; i++)
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
    EXPECT_EQUAL(crowd.twice, 0);
    EXPECT_EQUAL(crowd.foreign, 0);
    EXPECT(crowd.claimed > TICKETS);
    EXPECT(crowd.told_count > TICKETS);
    EXPECT(ru_tickets_alive(&crowd.memory, crowd.now_s) <= RU_TICKETS_MAX);
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++)
        EXPECT_EQUAL(put_next(&crowd.memory, crowd.now_s + LIFETIME_S), 0);
    ru_memory_detach(&crowd.memory);
}

/* Two threads choose one number at the same time: at most one of them has it. */
struct rivals {
    struct ru_memory memory;
    uint32_t ready[2]; /* the round that each has come to */
    int result[2][4000];
    uint32_t next;
};

static void *rival_run(void *argument)
{
    struct rivals *rivals = argument;
    uint32_t me = __atomic_fetch_add(&rivals->next, 1, __ATOMIC_RELAXED);
    for (uint32_t round = 1; round <= 4000; round++) {
        __atomic_store_n(&rivals->ready[me], round, __ATOMIC_RELEASE);
        while (__atomic_load_n(&rivals->ready[1 - me], __ATOMIC_ACQUIRE) < round)
            ;
        rivals->result[me][round - 1] =
            put(&rivals->memory, round, me, START_S + round * (LIFETIME_S / 4));
    }
    return NULL;
}

static void test_rivals(void)
{
    static struct rivals rivals;
    pthread_t threads[2];
    rivals = (struct rivals){.memory = memory_new()};
    for (uint32_t i = 0; i < 2; i++)
        EXPECT_EQUAL(pthread_create(&threads[i], NULL, rival_run, &rivals), 0);
    for (uint32_t i = 0; i < 2; i++)
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
    for (uint32_t round = 0; round < 4000; round++) {
        int one = rivals.result[0][round];
        int other = rivals.result[1][round];
        EXPECT((one == 0 && other == -EEXIST) || (one == -EEXIST && other == 0) ||
               (one == -EEXIST && other == -EEXIST));
    }
    ru_memory_detach(&rivals.memory);
}

int main(void)
{
    RUN(test_claims);
    RUN(test_numbers);
    RUN(test_expiry);
    RUN(test_clock_steps);
    RUN(test_one_coin_does_not_take_all);
    RUN(test_memory);
    RUN(test_no_memory);
    RUN(test_dead_writer);
    RUN(test_room_after_all);
    RUN(test_stopped_writer);
    RUN(test_killed_processes);
    RUN(test_crowd);
    RUN(test_rivals);
    return native_finish();
}
