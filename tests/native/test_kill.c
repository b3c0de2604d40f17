/* test_kill.c: a process that commits a batch is killed at any instruction of it.
 *
 * Its tracer counts system calls and single steps, so that it dies between any two calls, and at
 * instructions spread over all of ru_memory_apply(). What must hold, for another process that has the
 * same memory, as the successor of an upgrade does, and for one that starts with the journal alone: a
 * batch is there whole or not at all; it is there if it was acknowledged, and if a reader has seen it
 * before the other process came; the next batch succeeds.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "coins/segment.h"
#include "coins/writer.h"
#include "native.h"

#define COINS 6U
#define SEGMENT (3U * RU_ENTRY_BLOCK) /* two batches */
#define STEPS_MAX 20000U              /* to apply a batch */
#define STEPS_BETWEEN 600U            /* of two system calls, or of more */
#define KILLS_BETWEEN 3U
#define KILLS_APPLYING 40U
#define KILLS_IN_A_ROW 64U
#define NO_PTRACE 77

static const struct ru_journal_settings settings = {.store = "a killed process",
                                                    .first_bytes = SEGMENT,
                                                    .segment_bytes = SEGMENT,
                                                    .segments_max = 16};

/* Numbers of batches, in memory that the killed processes share with the test. */
struct told {
    uint64_t tried;
    uint64_t acknowledged;
};

/* What the killed ones, their successors and the test share. */
struct world {
    struct native_directory own;
    enum ru_durability durability;
    struct ru_memory memory; /* of the test, which reads */
    uint64_t since;          /* first batch that the base lacks */
    bool turning;            /* batches are killed that need a new segment */
    struct told *told;
    uint64_t seen; /* the newest that a reader has found */
};

/* One process's half. */
struct node {
    struct ru_memory memory;
    struct ru_journal journal;
    struct ru_writer writer;
    int lock;
};

/* ---- batches ---- */

/* Batch `number` gives its coins the AN `number`: five that are always the same, two of them on one
 * page, and one on a page of its own, which may be new. */
static void changes_of(uint64_t number, struct ru_change changes[COINS])
{
    const uint32_t pages[COINS] = {1, 1, 500, 7777, 14999, 1000 + (uint32_t)(number % 3000)};
    for (uint32_t i = 0; i < COINS; i++) {
        changes[i] =
            (struct ru_change){.coin = pages[i] * RU_PAGE_RECORDS_COUNT + 17 * i, .month = 1};
        memcpy(changes[i].an, &number, sizeof(number));
    }
}

static uint64_t value_of(const uint8_t *record)
{
    uint64_t value;
    memcpy(&value, record, sizeof(value));
    return record[RU_AN_SIZE] == 0 ? 0 : value;
}

static void name_of(uint32_t coin, uint8_t *name)
{
    const uint32_t per_denomination = RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT;
    const uint32_t serial = coin % per_denomination;
    name[0] = (uint8_t)(RU_DENOMINATION_MIN + (int)(coin / per_denomination));
    for (uint32_t i = 0; i < 4; i++)
        name[1 + i] = (uint8_t)(serial >> (24 - 8 * i));
}

/* Returns the newest batch that a reader finds, all of it; -EAGAIN: none can be read now. */
static int64_t look(const struct ru_memory *memory)
{
    struct ru_change changes[COINS];
    uint8_t names[COINS * RU_COIN_NAME_SIZE];
    uint8_t records[COINS * RU_PAGE_RECORD_SIZE];
    uint8_t states[COINS];
    changes_of(0, changes);
    for (uint32_t i = 0; i < COINS; i++)
        name_of(changes[i].coin, names + (size_t)i * RU_COIN_NAME_SIZE);
    int found = ru_memory_gather(memory, (struct ru_coin_list){names, COINS - 1, RU_COIN_NAME_SIZE},
                                 records, states);
    if (found < 0)
        return found;
    const uint64_t value = value_of(records);
    for (uint32_t i = 0; i + 1 < COINS; i++)
        EXPECT_EQUAL(value_of(records + (size_t)i * RU_PAGE_RECORD_SIZE), value);
    changes_of(value, changes);
    if (value > 0) {
        (void)ru_memory_record(memory, changes[COINS - 1].coin, records);
        EXPECT_EQUAL(value_of(records), value);
    }
    return (int64_t)value;
}

/* ---- processes ---- */

/* Another process's mapping, journal, writer and descriptor of the lock. */
static void node_join(struct node *node, const struct world *world)
{
    *node = (struct node){.lock = openat(world->own.fd, RU_WRITER_LOCK, O_RDWR | O_CREAT, 0600)};
    if (node->lock < 0 || ru_memory_attach(&node->memory, dup(world->memory.fd)) != 0)
        abort();
    ru_journal_join(&node->journal, world->own.fd, &settings, &node->memory.head->position);
    ru_writer_init(&node->writer, &node->memory, &node->journal, node->lock, world->durability);
}

static void node_leave(struct node *node)
{
    ru_writer_destroy(&node->writer);
    ru_journal_close(&node->journal);
    ru_memory_detach(&node->memory);
    (void)close(node->lock);
}

/* Returns the batch that has begun, with all its changes. */
static uint64_t begin(struct node *node, struct told *told, struct ru_batch *batch)
{
    struct ru_change changes[COINS];
    uint8_t record[RU_PAGE_RECORD_SIZE];
    if (ru_writer_begin(&node->writer, batch) != 0)
        abort();
    changes_of(0, changes);
    (void)ru_writer_record(batch, changes[0].coin, record);
    const uint64_t number = value_of(record) + 1;
    changes_of(number, changes);
    for (uint32_t i = 0; i < COINS; i++)
        if (ru_writer_change(batch, &changes[i]) != 0)
            abort();
    if (number > told->tried)
        told->tried = number;
    return number;
}

/* What the base has is needed no more. */
static void release(struct ru_journal *journal, const struct world *world)
{
    if (world->turning) /* none is used again: a new one must be created */
        journal->settings.segment_bytes = 0;
    EXPECT(ru_journal_release(journal, world->since) >= 0);
}

/* And a checkpoint, so that the journal is not full before the last kill. */
static void commit(struct node *node, struct world *world)
{
    struct ru_batch batch;
    uint64_t number = begin(node, world->told, &batch);
    EXPECT_EQUAL(ru_writer_commit(&batch, 0), 0);
    world->told->acknowledged = number;
    world->since = number + 1;
    release(&node->journal, world);
}

/* In memory of its own what the base has; then the journal. */
static void world_fill(struct world *world)
{
    struct ru_defaults defaults;
    struct ru_change changes[COINS];
    struct ru_journal journal;
    ru_defaults_init(&defaults, (const uint8_t *)"seed", 4);
    EXPECT_EQUAL(ru_memory_create(&world->memory, &defaults), 0);
    changes_of(world->since - 1, changes);
    EXPECT_EQUAL(ru_memory_reserve(&world->memory, changes, COINS), 0);
    if (world->since > 1)
        ru_memory_apply(&world->memory, world->since - 1, changes, COINS);
    EXPECT_EQUAL(ru_segment_clean(world->own.fd), 0);
    int rc = ru_journal_open(&journal, world->own.fd, &settings, world->since,
                             &world->memory.head->position);
    EXPECT_EQUAL(rc, 0);
    if (rc != 0)
        abort(); /* nothing that follows would make sense */
    EXPECT_EQUAL(ru_reader_apply(&journal, &world->memory, world->since), 0);
    const uint64_t applied = ru_memory_applied(&world->memory);
    EXPECT_EQUAL(journal.position->last, applied);
    EXPECT_EQUAL(look(&world->memory), applied);
    world->since = applied + 1; /* a checkpoint */
    release(&journal, world);
    ru_journal_close(&journal);
}

static void world_open(struct world *world, enum ru_durability durability, bool turning)
{
    *world = (struct world){
        .own = native_directory_new(), .durability = durability, .since = 1, .turning = turning};
    world->told =
        mmap(NULL, sizeof(*world->told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (world->told == MAP_FAILED)
        abort();
    EXPECT_EQUAL(ru_journal_create(world->own.fd, &settings, 1), 0);
    world_fill(world);
}

static void world_close(struct world *world)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    ru_memory_detach(&world->memory);
    for (int i = ru_segment_list(world->own.fd, segments); i-- > 0;)
        EXPECT_EQUAL(ru_segment_remove(world->own.fd, segments[i].index), 0);
    EXPECT_EQUAL(ru_segment_clean(world->own.fd), 0);
    (void)unlinkat(world->own.fd, RU_WRITER_LOCK, 0);
    (void)munmap(world->told, sizeof(*world->told));
    native_directory_remove(&world->own);
}

/* ---- what must hold ---- */

/* What is found now is all that was acknowledged or seen; it is seen from now on. */
static void expect_kept(struct world *world, int64_t found)
{
    EXPECT(found >= (int64_t)world->told->acknowledged && found >= (int64_t)world->seen);
    EXPECT(found <= (int64_t)world->told->tried);
    if (found > 0)
        world->seen = (uint64_t)found;
}

/* What a reader finds while the batch stands where it was killed. */
static void expect_read(struct world *world)
{
    const struct ru_memory_head *head = world->memory.head;
    int64_t found = look(&world->memory);
    if (found == -EAGAIN)
        EXPECT(head->started > head->applied);
    else
        expect_kept(world, found);
}

/* Another process goes on with the memory. */
static void take_over(struct world *world)
{
    struct node node;
    node_join(&node, world);
    EXPECT_EQUAL(ru_writer_mend(&node.writer), 0);
    EXPECT_EQUAL(node.memory.head->position.dirty, 0);
    expect_kept(world, look(&node.memory));
    EXPECT_EQUAL(ru_memory_applied(&node.memory), world->seen);
    commit(&node, world);
    expect_kept(world, look(&world->memory));
    node_leave(&node);
}

/* The memory is gone, too. */
static void start_again(struct world *world)
{
    struct node node;
    ru_memory_detach(&world->memory);
    world_fill(world);
    expect_kept(world, look(&world->memory));
    node_join(&node, world);
    commit(&node, world);
    expect_kept(world, look(&world->memory));
    node_leave(&node);
}

/* ---- the killed one ---- */

/* Where it is traced from on. */
enum from {
    FROM_BEGIN,  /* with what a predecessor has left */
    FROM_COMMIT, /* on its own */
};

static void traced_stop(void)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(NO_PTRACE);
    (void)raise(SIGSTOP);
}

_Noreturn static void traced_run(const struct world *world, enum from from)
{
    struct node node;
    struct ru_batch batch;
    node_join(&node, world);
    if (from == FROM_BEGIN)
        traced_stop();
    uint64_t number = begin(&node, world->told, &batch);
    if (from == FROM_COMMIT)
        traced_stop();
    if (ru_writer_commit(&batch, 0) != 0)
        abort();
    world->told->acknowledged = number; /* the reply */
    _exit(0);
}

/* Returns a process that stands where it is traced from; 0: nobody may trace here. */
static pid_t traced_start(const struct world *world, enum from from)
{
    int status;
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        traced_run(world, from);
    if (child < 0 || waitpid(child, &status, 0) != child)
        abort();
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_PTRACE)
        return 0;
    EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0)
        abort();
    return child;
}

/* Let it go on to its next stop. Returns false if it has ended. */
static bool traced_go(pid_t child, enum __ptrace_request how)
{
    int status = 0;
    if (ptrace(how, child, NULL, NULL) != 0 || waitpid(child, &status, 0) != child)
        abort();
    EXPECT(WIFSTOPPED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return WIFSTOPPED(status);
}

/* Where it is killed: behind so many entries into system calls and returns from them, then behind
 * the next return from call `number`, unless that is 0, then after so many instructions. */
struct stop {
    uint32_t calls;
    uint64_t number;
    uint32_t steps;
};

/* Until it has returned from the call. Returns false if it has ended before. */
static bool traced_return(pid_t child, uint64_t number)
{
    struct __ptrace_syscall_info info = {0};
    do {
        if (!traced_go(child, PTRACE_SYSCALL))
            return false;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) <= 0)
            abort();
    } while (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != number);
    return traced_go(child, PTRACE_SYSCALL);
}

/* Returns false if it has ended before. */
static bool traced_kill(pid_t child, const struct stop *stop)
{
    int status;
    for (uint32_t i = 0; i < stop->calls; i++)
        if (!traced_go(child, PTRACE_SYSCALL))
            return false;
    if (stop->number != 0 && !traced_return(child, stop->number))
        return false;
    for (uint32_t i = 0; i < stop->steps; i++)
        if (!traced_go(child, PTRACE_SINGLESTEP))
            return false;
    (void)kill(child, SIGKILL);
    EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    return true;
}

/* ---- tests ---- */

/* Before a batch that goes on in the segment, or that begins the next one. */
static void come_to_batch(struct world *world)
{
    struct node node;
    const struct ru_position *position = &world->memory.head->position;
    while ((position->at + RU_ENTRY_BLOCK > position->bytes) != world->turning) {
        node_join(&node, world);
        commit(&node, world);
        node_leave(&node);
        expect_kept(world, look(&world->memory));
    }
}

static bool is_applying(const struct world *world)
{
    return world->memory.head->started > world->memory.head->applied;
}

/* Returns whether it was killed before it ended; `inside`: while its batch was being applied. */
static bool kill_once(struct world *world, const struct stop *stop, bool *inside)
{
    unsigned before = native.here;
    come_to_batch(world);
    pid_t child = traced_start(world, FROM_COMMIT);
    bool killed = child > 0 && traced_kill(child, stop);
    *inside = is_applying(world);
    expect_read(world);
    if (stop->steps % 2 == 0)
        take_over(world);
    start_again(world);
    if (native.here != before)
        (void)fprintf(stderr, "... killed behind %u calls, call %llu, %u instructions%s\n",
                      stop->calls, (unsigned long long)stop->number, stop->steps,
                      *inside ? ", inside apply" : "");
    return killed;
}

/* Between any two system calls. */
static void kill_between(enum ru_durability durability, bool turning, uint32_t calls_min)
{
    struct world world;
    struct stop stop = {0};
    struct ru_random random = {native_seed()};
    bool inside;
    world_open(&world, durability, turning);
    while (kill_once(&world, &stop, &inside) && native.here < NATIVE_SHOWN_MAX) {
        for (uint32_t i = 1; i < KILLS_BETWEEN; i++) {
            stop.steps = native_below(&random, STEPS_BETWEEN);
            (void)kill_once(&world, &stop, &inside);
        }
        stop = (struct stop){.calls = stop.calls + 1};
    }
    EXPECT(stop.calls >= calls_min);
    world_close(&world);
}

static void test_between_calls(void)
{
    kill_between(RU_DURABLE_COMMIT, false, 10);
    kill_between(RU_DURABLE_INTERVAL, false, 10);
}

/* With a new segment. */
static void test_between_calls_turning(void)
{
    kill_between(RU_DURABLE_COMMIT, true, 40);
}

/* Instructions from the return of call `number` until the batch is being applied, and until it is
 * visible. */
static void applying_measure(struct world *world, uint64_t number, uint32_t *from, uint32_t *until)
{
    come_to_batch(world);
    pid_t child = traced_start(world, FROM_COMMIT);
    bool goes = traced_return(child, number);
    *from = *until = 0;
    for (uint32_t steps = 1; goes && steps < STEPS_MAX; steps++) {
        goes = traced_go(child, PTRACE_SINGLESTEP);
        if (is_applying(world))
            *until = steps;
        else if (*until > 0)
            break;
        else
            *from = steps + 1;
    }
    EXPECT(goes && *until > *from);
    (void)traced_kill(child, &(struct stop){0});
    take_over(world);
}

static void kill_applying(enum ru_durability durability, uint64_t number)
{
    struct world world;
    uint32_t from, until;
    uint32_t inside_count = 0;
    world_open(&world, durability, false);
    applying_measure(&world, number, &from, &until);
    for (uint32_t i = 0; i < KILLS_APPLYING && native.here < NATIVE_SHOWN_MAX; i++) {
        const struct stop stop = {.number = number,
                                  .steps = from + (until - from) * i / KILLS_APPLYING};
        bool inside;
        EXPECT(kill_once(&world, &stop, &inside));
        inside_count += inside;
    }
    EXPECT(inside_count > KILLS_APPLYING / 2);
    world_close(&world);
}

static void test_inside_apply(void)
{
    kill_applying(RU_DURABLE_COMMIT, SYS_fdatasync);
    kill_applying(RU_DURABLE_INTERVAL, SYS_pwrite64);
}

/* Each one is killed, also while it finishes what the one before has left. */
static void test_in_a_row(void)
{
    struct world world;
    struct ru_random random = {native_seed()};
    uint32_t kills = 0;
    world_open(&world, RU_DURABLE_COMMIT, false);
    for (uint32_t i = 0; i < KILLS_IN_A_ROW && native.here < NATIVE_SHOWN_MAX; i++) {
        const struct stop stop = {.calls = native_below(&random, 60),
                                  .steps = native_below(&random, STEPS_BETWEEN)};
        kills += traced_kill(traced_start(&world, FROM_BEGIN), &stop);
        expect_read(&world);
        if (i % 16 == 15)
            take_over(&world);
        if (i % 16 == 7)
            start_again(&world);
    }
    start_again(&world);
    EXPECT(kills > KILLS_IN_A_ROW / 2);
    world_close(&world);
}

/* A tracer of the test's own, such as strace, keeps others away. */
static bool may_trace(void)
{
    struct world world;
    world_open(&world, RU_DURABLE_COMMIT, false);
    pid_t child = traced_start(&world, FROM_COMMIT);
    if (child > 0)
        (void)traced_kill(child, &(struct stop){0});
    world_close(&world);
    return child > 0;
}

int main(void)
{
    if (!may_trace()) {
        puts("SKIPPED test_kill: no ptrace(PTRACE_TRACEME)");
        return 0;
    }
    RUN(test_between_calls);
    RUN(test_between_calls_turning);
    RUN(test_inside_apply);
    RUN(test_in_a_row);
    return native_finish();
}
