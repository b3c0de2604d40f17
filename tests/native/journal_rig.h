/* journal_rig.h: a journal in a directory of its own, with entries that follow from their numbers.
 *
 * Segments are small, so that a few entries fill one. Thread: one.
 */
#ifndef RU_TESTS_JOURNAL_RIG_H
#define RU_TESTS_JOURNAL_RIG_H

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coins/journal.h"
#include "coins/segment.h"
#include "native.h"

#define SEGMENT (16 * RU_ENTRY_BLOCK)

static const struct ru_journal_settings usual = {.store = "this one's id..",
                                                 .first_bytes = SEGMENT,
                                                 .segment_bytes = 4 * SEGMENT,
                                                 .segments_max = RU_SEGMENTS_MAX};

static struct ru_position position; /* of the journal under test */

struct place {
    struct native_directory own;
    int directory;
};

static inline struct place place_new(void)
{
    struct place place = {.own = native_directory_new()};
    place.directory = place.own.fd;
    return place;
}

static inline void place_remove(const struct place *place)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(place->directory, segments);
    for (int i = 0; i < count; i++)
        EXPECT_EQUAL(ru_segment_remove(place->directory, segments[i].index), 0);
    native_directory_remove(&place->own); /* nothing else was left in it */
}

/* The changes of entry `number`: how many and which follows from it. */
static inline uint32_t changes_of(uint64_t number, struct ru_change *changes)
{
    struct ru_random random = {number};
    uint32_t count = native_below(&random, 12) == 0 ? native_below(&random, 900) : 1;
    for (uint32_t i = 0; i < count; i++) {
        changes[i] = (struct ru_change){
            .coin = native_below(&random, RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT),
            .month = (uint8_t)native_below(&random, 256),
        };
        ru_random_fill(&random, changes[i].an, RU_AN_SIZE);
    }
    return count;
}

static inline void append(struct ru_journal *journal, uint64_t number)
{
    static struct ru_change changes[1000];
    uint32_t count = changes_of(number, changes);
    EXPECT_EQUAL(journal->position->last + 1, number);
    EXPECT_EQUAL(ru_journal_append(journal, number * 10, changes, count), 0);
}

static inline void append_durably(struct ru_journal *journal, uint64_t first, uint64_t last)
{
    for (uint64_t number = first; number <= last; number++) {
        append(journal, number);
        EXPECT_EQUAL(ru_journal_sync(journal), 0);
    }
}

static inline void expect_entry(const struct ru_entry *entry, uint64_t number)
{
    static struct ru_change changes[1000];
    uint32_t count = changes_of(number, changes);
    EXPECT_EQUAL(entry->number, number);
    EXPECT_EQUAL(entry->time_ns, number * 10);
    EXPECT_EQUAL(entry->count, count);
    for (uint32_t i = 0; i < count && i < entry->count; i++) {
        struct ru_change found = ru_entry_change(entry, i);
        EXPECT(found.coin == changes[i].coin && found.month == changes[i].month);
        EXPECT_BYTES(found.an, changes[i].an, RU_AN_SIZE);
    }
}

/* All entries from `first` on; returns the last one's number, or how the reader failed. */
static inline int64_t read_all(const struct place *place, uint64_t first)
{
    struct ru_reader reader;
    struct ru_entry entry;
    uint64_t number = first;
    int rc = ru_reader_open(&reader, place->directory, &usual, first);
    if (rc != 0)
        return rc;
    while ((rc = ru_reader_next(&reader, &entry)) > 0)
        expect_entry(&entry, number++);
    if (rc == 0)
        rc = ru_reader_judge(&reader);
    ru_reader_close(&reader);
    return rc == 0 ? (int64_t)number - 1 : rc;
}

static inline struct ru_journal journal_new(const struct place *place)
{
    struct ru_journal journal;
    EXPECT_EQUAL(ru_journal_create(place->directory, &usual, 1), 0);
    EXPECT_EQUAL(ru_journal_open(&journal, place->directory, &usual, 1, &position), 0);
    return journal;
}

/* Where entry `number` starts: its segment's name and the offset. */
static inline uint64_t find(const struct place *place, uint64_t number, uint64_t *segment)
{
    struct ru_reader reader;
    struct ru_entry entry;
    EXPECT_EQUAL(ru_reader_open(&reader, place->directory, &usual, number), 0);
    EXPECT_EQUAL(ru_reader_next(&reader, &entry), 1);
    *segment = reader.segment.index;
    uint64_t at = reader.at - ru_entry_size(entry.count);
    ru_reader_close(&reader);
    return at;
}

static inline void spoil(const struct place *place, uint64_t segment, uint64_t at)
{
    uint8_t byte;
    int fd = ru_segment_open(place->directory, segment, O_RDWR);
    EXPECT_EQUAL(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    EXPECT_EQUAL(pwrite(fd, &byte, 1, (off_t)at), 1);
    (void)close(fd);
}

#endif
