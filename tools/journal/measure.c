/* measure.c: latency, CPU and writes of all contenders, in turns, as medians of many rounds.
 *
 * In every round each contender appends the same number of batches, and the one that begins changes
 * from round to round. Ratios are medians of each round's own, so a slow minute of the machine
 * counts for all. CPU is that of the appending thread, and that of the process with its background.
 */
#include "contender.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define CONTENDERS_MAX 8U
#define ROUNDS_MAX 101U
#define LOADS 3U
#define MODES 4U
#define COIN_BYTES 17U
#define TRIM_EVERY 64U
#define KEPT 1024U
#define US(ns) ((double)(ns) / 1000.0)

enum figure {
    P50,
    P99,
    THREAD,
    PROCESS,
    BYTES,   /* handed to write calls */
    CALLS,   /* of them */
    DEVICE,  /* bytes written to the device, everybody's */
    FLUSHES, /* of the device */
    FIGURES,
};

struct load {
    const char *name;
    uint32_t requests, changes; /* in a batch */
};

static const struct load loads[LOADS] = {
    {"one pown of 1", 1, 1}, {"64 powns of 1", 64, 64}, {"64 powns of 25", 64, 1600}};
static const char *const modes[MODES] = {"durable", "durable, old entries removed",
                                         "durable, old entries removed, coins compared and changed",
                                         "written, not synced"};

struct bench {
    const struct jb_ops *ops[CONTENDERS_MAX];
    void *journals[CONTENDERS_MAX];
    struct jb_chain chains[CONTENDERS_MAX];
    uint32_t count, rounds, commits;
    char device[64]; /* its statistics under /sys */
    double *latencies;
    uint8_t *coins;
    double figures[MODES][LOADS][CONTENDERS_MAX][FIGURES][ROUNDS_MAX];
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *values, uint32_t count, double share)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), compare);
    return sorted[(uint32_t)(share * (count - 1) + 0.5)];
}

/* What is counted outside of this program, as sums since ever. */
static void read_counters(const struct bench *bench, double sums[FIGURES])
{
    unsigned long long one[16] = {0};
    FILE *file = fopen("/proc/self/io", "r");
    if (file && fscanf(file, "rchar: %llu wchar: %llu syscr: %llu syscw: %llu", &one[0], &one[1],
                       &one[2], &one[3]) == 4) {
        sums[BYTES] = (double)one[1];
        sums[CALLS] = (double)one[3];
    }
    if (file)
        (void)fclose(file);
    memset(one, 0, sizeof(one));
    file = fopen(bench->device, "r");
    for (int i = 0; file && i < 16; i++)
        if (fscanf(file, "%llu", &one[i]) != 1)
            break;
    sums[DEVICE] = (double)one[6] * 512;
    sums[FLUSHES] = (double)one[15];
    if (file)
        (void)fclose(file);
}

static uint8_t *coin_of(const struct bench *bench, const struct jb_change *change)
{
    return bench->coins + ((size_t)change->page * JB_PAGE_COINS + change->index) * COIN_BYTES;
}

/* What a batch does with the coins in memory: look at them all, or change them. */
static void use_coins(const struct bench *bench, const struct jb_record *record, bool change)
{
    static volatile uint32_t equal;
    uint32_t changes = (record->size - (uint32_t)sizeof(*record)) / sizeof(struct jb_change);
    for (uint32_t i = 0; i < changes && !change; i++)
        __builtin_prefetch(coin_of(bench, &record->changes[i]));
    for (uint32_t i = 0; i < changes; i++) {
        const struct jb_change *one = &record->changes[i];
        uint8_t *coin = coin_of(bench, one);
        if (change) {
            memcpy(coin, one->an, sizeof(one->an));
            coin[COIN_BYTES - 1] = (uint8_t)one->month;
        } else {
            equal += memcmp(coin, one->an, sizeof(one->an)) == 0;
        }
    }
}

static bool append_all(struct bench *bench, uint32_t who, enum jb_mode mode, uint32_t changes)
{
    struct jb_chain *chain = &bench->chains[who];
    for (uint32_t i = 0; i < bench->commits; i++) {
        bool trims =
            (mode == JB_UPKEEP || mode == JB_WHOLE) && i % TRIM_EVERY == 0 && chain->next > KEPT;
        uint64_t since_ns = clock_ns(CLOCK_MONOTONIC);
        const struct jb_record *record = jb_record_next(chain, changes);
        if (mode == JB_WHOLE)
            use_coins(bench, record, false);
        int code =
            bench->ops[who]->append(bench->journals[who], record, trims ? chain->next - KEPT : 0);
        if (mode == JB_WHOLE && code == 0)
            use_coins(bench, record, true);
        bench->latencies[i] = (double)(clock_ns(CLOCK_MONOTONIC) - since_ns);
        if (code) {
            fprintf(stderr, "%s: %s\n", bench->ops[who]->name,
                    bench->ops[who]->why(bench->journals[who], code));
            return false;
        }
        *chain = (struct jb_chain){record->sequence + 1, record->crc};
    }
    return true;
}

static bool measure_one(struct bench *bench, uint32_t who, uint32_t mode, uint32_t load,
                        uint32_t round)
{
    const struct jb_ops *ops = bench->ops[who];
    double before[FIGURES], after[FIGURES], commits = bench->commits;
    ops->set_mode(bench->journals[who], (enum jb_mode)mode);
    if (mode != JB_UPKEEP && mode != JB_WHOLE && ops->empty(bench->journals[who])) {
        fprintf(stderr, "%s: cannot be emptied\n", ops->name);
        return false;
    }
    if (mode == JB_INTERVAL) /* emptying has synced; what was there before must not count */
        ops->set_mode(bench->journals[who], JB_INTERVAL);
    read_counters(bench, before);
    uint64_t thread_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t process_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (!append_all(bench, who, (enum jb_mode)mode, loads[load].changes))
        return false;
    thread_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - thread_ns;
    ops->settle(bench->journals[who]);
    process_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - process_ns;
    read_counters(bench, after);
    qsort(bench->latencies, bench->commits, sizeof(double), compare);
    double values[FIGURES] = {
        [P50] = US(bench->latencies[bench->commits / 2]),
        [P99] = US(bench->latencies[bench->commits - 1 - bench->commits / 100]),
        [THREAD] = US(thread_ns) / commits,
        [PROCESS] = US(process_ns) / commits,
    };
    for (uint32_t i = BYTES; i < FIGURES; i++)
        values[i] = (after[i] - before[i]) / commits;
    for (uint32_t i = 0; i < FIGURES; i++)
        bench->figures[mode][load][who][i][round] = values[i];
    return true;
}

static double median(const struct bench *bench, uint32_t mode, uint32_t load, uint32_t who,
                     enum figure figure)
{
    return quantile(bench->figures[mode][load][who][figure], bench->rounds, 0.5);
}

/* The median of each round's ratio to the contender of our own. */
static double ratio(const struct bench *bench, uint32_t mode, uint32_t load, uint32_t who,
                    enum figure figure)
{
    double ratios[ROUNDS_MAX];
    for (uint32_t i = 0; i < bench->rounds; i++)
        ratios[i] =
            bench->figures[mode][load][who][figure][i] / bench->figures[mode][load][0][figure][i];
    return quantile(ratios, bench->rounds, 0.5);
}

static void print_case(const struct bench *bench, uint32_t mode, uint32_t load)
{
    printf("\n%s: %s in a batch\n", modes[mode], loads[load].name);
    printf("%-11s %8s %8s %8s %8s %8s %9s %6s %8s %6s | %5s %5s %6s %6s\n", "", "p50 us", "p99 us",
           "CPU", "CPU all", "a request", "written", "calls", "device", "flush", "p50", "p99",
           "CPU", "all");
    for (uint32_t who = 0; who < bench->count; who++) {
        double values[FIGURES];
        for (uint32_t i = 0; i < FIGURES; i++)
            values[i] = median(bench, mode, load, who, (enum figure)i);
        printf("%-11s %8.1f %8.1f %8.2f %8.2f %9.2f %9.0f %6.1f %8.0f %6.2f | %5.2f %5.2f %6.2f "
               "%6.2f\n",
               bench->ops[who]->name, values[P50], values[P99], values[THREAD], values[PROCESS],
               values[PROCESS] / loads[load].requests, values[BYTES], values[CALLS], values[DEVICE],
               values[FLUSHES], ratio(bench, mode, load, who, P50),
               ratio(bench, mode, load, who, P99), ratio(bench, mode, load, who, THREAD),
               ratio(bench, mode, load, who, PROCESS));
    }
    const double *p50 = bench->figures[mode][load][0][P50];
    const double *cpu = bench->figures[mode][load][0][PROCESS];
    printf("spread of own's rounds, quarter to quarter: p50 %.1f to %.1f us, CPU %.2f to %.2f us\n",
           quantile(p50, bench->rounds, 0.25), quantile(p50, bench->rounds, 0.75),
           quantile(cpu, bench->rounds, 0.25), quantile(cpu, bench->rounds, 0.75));
}

/* Load, and the share of time since `then` that the hypervisor and the others had. */
static void print_noise(double then[2])
{
    unsigned long long ticks[8] = {0};
    double loads_1min = 0;
    FILE *file = fopen("/proc/stat", "r");
    for (int i = 0; file && i < 8; i++)
        if (fscanf(file, i ? "%llu" : "cpu %llu", &ticks[i]) != 1)
            break;
    if (file)
        (void)fclose(file);
    file = fopen("/proc/loadavg", "r");
    if (file && fscanf(file, "%lf", &loads_1min) != 1)
        loads_1min = -1;
    if (file)
        (void)fclose(file);
    double all = 0;
    for (int i = 0; i < 8; i++)
        all += (double)ticks[i];
    double busy = all - (double)ticks[3] - (double)ticks[4];
    if (then[1] > 0)
        printf("processors busy %.0f %%, ours included; ",
               100 * (busy - then[0]) / (all - then[1]));
    printf("load %.1f\n", loads_1min);
    then[0] = busy;
    then[1] = all;
}

static bool prepare(struct bench *bench, const char *directory)
{
    struct stat where;
    if (stat(directory, &where)) {
        perror(directory);
        return false;
    }
    (void)snprintf(bench->device, sizeof(bench->device), "/sys/dev/block/%u:%u/stat",
                   major(where.st_dev), minor(where.st_dev));
    if (access(bench->device, R_OK))
        printf("no block device below %s: its syncs may cost nothing, device figures are 0\n",
               directory);
    for (bench->count = 0; jb_contender(bench->count); bench->count++) {
        uint32_t who = bench->count;
        bench->ops[who] = jb_contender(who);
        bench->journals[who] = jb_open(bench->ops[who], directory, false);
        bench->chains[who].next = 1;
        if (!bench->journals[who])
            return false;
    }
    return true;
}

/* A round that does not count: files reach their lengths, and what a case before left is moved. */
static bool warm_up(struct bench *bench, uint32_t mode, uint32_t load)
{
    for (uint32_t who = 0; who < bench->count; who++)
        if (!measure_one(bench, who, mode, load, 0))
            return false;
    return true;
}

static bool measure_case(struct bench *bench, uint32_t mode, uint32_t load)
{
    for (uint32_t round = 0; round < bench->rounds; round++)
        for (uint32_t i = 0; i < bench->count; i++)
            if (!measure_one(bench, (round + i) % bench->count, mode, load, round))
                return false;
    return true;
}

int jb_measure(const char *directory, uint32_t rounds, uint32_t commits)
{
    static struct bench bench;
    double then[2] = {0, 0};
    bench.rounds = rounds < 1 ? 1 : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    bench.commits = commits < 100 ? 100 : commits;
    bench.latencies = calloc(bench.commits, sizeof(double));
    bench.coins = mmap(NULL, (size_t)JB_PAGES * JB_PAGE_COINS * COIN_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (!bench.latencies || bench.coins == MAP_FAILED || !prepare(&bench, directory) ||
        !warm_up(&bench, JB_COMMIT, LOADS - 1))
        return 1;
    printf(
        "%u rounds of %u commits; CPU in us a commit; the four right columns are ratios to own\n",
        bench.rounds, bench.commits);
    print_noise(then);
    for (uint32_t mode = 0; mode < MODES; mode++)
        for (uint32_t load = 0; load < LOADS; load++) {
            if (!warm_up(&bench, mode, load) || !measure_case(&bench, mode, load))
                return 1;
            print_case(&bench, mode, load);
            print_noise(then);
            (void)fflush(stdout);
        }
    for (uint32_t who = 0; who < bench.count; who++)
        bench.ops[who]->close(bench.journals[who]);
    free(bench.latencies);
    return 0;
}
