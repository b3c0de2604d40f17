/* contenders.c: a journal of our own beside a table of LMDB and of SQLite: figures and failures.
 *
 * usage: contenders measure DIRECTORY [ROUNDS [COMMITS]]
 *        contenders append NAME DIRECTORY BATCHES CHANGES   tells of appends that fail, and runs
 *                                                           $ON_FAILURE in a shell at the first
 *                                                           of them; with TRUST_TAIL, what is read
 *                                                           at the start counts as on the disk;
 *                                                           with ALLOCATE_ONLY, own's segments are
 *                                                           allocated instead of zeroed
 *        contenders read NAME DIRECTORY [FROM]              tells what is in it and if it holds
 *        contenders list
 */
#include "contender.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define POOL_CHANGES (1U << 20)
#define OPS_COUNT 8U
#define FAILURES_TOLD_MAX 4U

struct reading {
    uint64_t first, count, gaps;
    struct jb_chain chain;
    bool broken;
};

const struct jb_ops *jb_contender(uint32_t number)
{
    const struct jb_ops *all[OPS_COUNT] = {
        &jb_own_ops[0],    &jb_lmdb_ops[0],   &jb_lmdb_ops[1],   &jb_sqlite_ops[0],
        &jb_sqlite_ops[1], &jb_sqlite_ops[2], &jb_sqlite_ops[3], &jb_sqlite_ops[4],
    };
    return number < OPS_COUNT ? all[number] : NULL;
}

const struct jb_ops *jb_find(const char *name)
{
    for (uint32_t i = 0; jb_contender(i); i++)
        if (strcmp(jb_contender(i)->name, name) == 0)
            return jb_contender(i);
    fprintf(stderr, "no contender is called %s\n", name);
    return NULL;
}

static uint64_t draw(void)
{
    static uint64_t state = 0x9E3779B97F4A7C15ULL;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Changes made beforehand, so that drawing them is no part of what is measured. */
static const struct jb_change *draw_changes(uint32_t count)
{
    static struct jb_change pool[POOL_CHANGES];
    static uint32_t at = POOL_CHANGES;
    if (at == POOL_CHANGES && pool[0].month == 0)
        for (uint32_t i = 0; i < POOL_CHANGES; i++) {
            uint64_t an[2] = {draw(), draw()};
            pool[i].page = (uint16_t)(draw() % JB_PAGES);
            pool[i].index = (uint16_t)(draw() % JB_PAGE_COINS);
            pool[i].month = 60;
            memcpy(pool[i].an, an, sizeof(an));
        }
    if (POOL_CHANGES - at < count)
        at = 0;
    at += count;
    return pool + at - count;
}

const struct jb_record *jb_record_next(const struct jb_chain *chain, uint32_t changes)
{
    static union {
        uint8_t bytes[JB_RECORD_MAX];
        struct jb_record record;
    } room;
    struct jb_record *record = &room.record;
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    record->size = (uint32_t)(sizeof(*record) + changes * sizeof(struct jb_change));
    record->sequence = chain->next;
    record->time_ns = (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
    memcpy(record->changes, draw_changes(changes), changes * sizeof(struct jb_change));
    record->crc = jb_record_crc(record, chain->crc);
    return record;
}

void *jb_open(const struct jb_ops *ops, const char *directory, bool reader)
{
    char path[JB_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, ops->name);
    if (!reader && mkdir(path, 0700) && errno != EEXIST) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return NULL;
    }
    return ops->open(ops, path, reader);
}

static int look(void *arg, const struct jb_record *record)
{
    struct reading *reading = arg;
    if (reading->count == 0)
        reading->first = record->sequence;
    else if (record->sequence != reading->chain.next)
        reading->gaps++;
    else if (record->crc != jb_record_crc(record, reading->chain.crc))
        reading->broken = true;
    reading->count++;
    reading->chain = (struct jb_chain){record->sequence + 1, record->crc};
    return 0;
}

static void say_reading(const struct jb_ops *ops, const struct reading *reading, int result)
{
    printf("%s: %llu records", ops->name, (unsigned long long)reading->count);
    if (reading->count)
        printf(", %llu to %llu", (unsigned long long)reading->first,
               (unsigned long long)reading->chain.next - 1);
    if (reading->gaps)
        printf(", records missing between them");
    if (reading->broken)
        printf(", the chain is broken");
    if (result == -EBADMSG)
        printf(", damaged: records go on behind it");
    else if (result)
        printf(", unreadable: %s", strerror(-result));
    printf("\n");
}

static int run_read(const struct jb_ops *ops, const char *directory, uint64_t from)
{
    struct reading reading = {.chain.next = 1};
    void *journal = jb_open(ops, directory, true);
    if (!journal)
        return 1;
    int result = ops->scan(journal, from, look, &reading);
    say_reading(ops, &reading, result);
    ops->close(journal);
    return result != 0 || reading.gaps || reading.broken;
}

static int run_append(const struct jb_ops *ops, const char *directory, uint32_t batches,
                      uint32_t changes)
{
    struct reading reading = {.chain.next = 1};
    void *journal = jb_open(ops, directory, false);
    if (!journal)
        return 1;
    int result = ops->scan(journal, 0, look, &reading);
    say_reading(ops, &reading, result);
    ops->set_mode(journal, JB_COMMIT);
    struct jb_chain chain = reading.chain;
    uint32_t failed = 0;
    for (uint32_t i = 0; i < batches; i++) {
        const struct jb_record *record = jb_record_next(&chain, changes);
        int code = ops->append(journal, record, 0);
        if (code == 0) {
            chain = (struct jb_chain){record->sequence + 1, record->crc};
        } else if (failed++ < FAILURES_TOLD_MAX) {
            printf("%s: %llu not appended: %s\n", ops->name, (unsigned long long)record->sequence,
                   ops->why(journal, code));
            (void)fflush(stdout);
            if (failed == 1 && getenv("ON_FAILURE") && system(getenv("ON_FAILURE")))
                return 1;
        }
    }
    printf("%s: %u appended, %u failed, last acknowledged %llu\n", ops->name, batches - failed,
           failed, (unsigned long long)chain.next - 1);
    (void)fflush(stdout);
    ops->close(journal);
    return 0;
}

static uint32_t number(char **arguments, int count, int at, uint32_t otherwise)
{
    return at < count ? (uint32_t)strtoul(arguments[at], NULL, 10) : otherwise;
}

int main(int count, char **arguments)
{
    const char *verb = count > 1 ? arguments[1] : "";
    if (strcmp(verb, "measure") == 0 && count > 2)
        return jb_measure(arguments[2], number(arguments, count, 3, 11),
                          number(arguments, count, 4, 1024));
    if (strcmp(verb, "list") == 0) {
        for (uint32_t i = 0; jb_contender(i); i++)
            printf("%s\n", jb_contender(i)->name);
        return 0;
    }
    const struct jb_ops *ops = count > 3 ? jb_find(arguments[2]) : NULL;
    if (ops && strcmp(verb, "read") == 0)
        return run_read(ops, arguments[3], number(arguments, count, 4, 0));
    if (ops && strcmp(verb, "append") == 0)
        return run_append(ops, arguments[3], number(arguments, count, 4, 1000),
                          number(arguments, count, 5, 1));
    fprintf(stderr,
            "usage: contenders measure DIRECTORY [ROUNDS [COMMITS]] | append NAME DIRECTORY "
            "BATCHES CHANGES | read NAME DIRECTORY [FROM] | list\n");
    return 2;
}
