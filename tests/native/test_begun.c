/* test_begun.c: a journal is made over what a killed process left of one, and never over entries. */
#include <fcntl.h>
#include <sys/stat.h>

#include "coins/journal.h"
#include "coins/segment.h"
#include "native.h"

#define SEGMENT (16 * RU_ENTRY_BLOCK)

static const struct ru_journal_settings usual = {.store = "this one's id..",
                                                 .first_bytes = SEGMENT,
                                                 .segment_bytes = SEGMENT,
                                                 .segments_max = RU_SEGMENTS_MAX};

struct place {
    struct native_directory own;
    int directory;
};

static struct place place_new(void)
{
    const struct native_directory own = native_directory_new();
    return (struct place){.own = own, .directory = own.fd};
}

static void place_remove(const struct place *place)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(place->directory, segments);
    for (int i = 0; i < count; i++)
        EXPECT_EQUAL(ru_segment_remove(place->directory, segments[i].index), 0);
    native_directory_remove(&place->own); /* nothing else was left in it */
}

static void append_one(const struct place *place)
{
    struct ru_journal journal;
    struct ru_position position;
    const struct ru_change change = {.coin = 7, .month = 3};
    EXPECT_EQUAL(ru_journal_open(&journal, place->directory, &usual, 1, &position), 0);
    EXPECT_EQUAL(ru_journal_append(&journal, 10, &change, 1), 0);
    EXPECT_EQUAL(ru_journal_sync(&journal), 0);
    ru_journal_close(&journal);
}

static int entries(const struct place *place)
{
    struct ru_reader reader;
    struct ru_entry entry;
    int count = 0;
    EXPECT_EQUAL(ru_reader_open(&reader, place->directory, &usual, 1), 0);
    while (ru_reader_next(&reader, &entry) > 0)
        count++;
    ru_reader_close(&reader);
    return count;
}

static void write_at(const struct place *place, uint64_t segment, const void *bytes, size_t size,
                     off_t at)
{
    int fd = ru_segment_open(place->directory, segment, O_RDWR);
    EXPECT_EQUAL(pwrite(fd, bytes, size, at), (int64_t)size);
    (void)close(fd);
}

/* What a process killed while it made a journal leaves is made again; entries never are, whosever. */
static void test_made_again(void)
{
    struct place place = place_new();
    struct ru_journal_settings other = usual;
    other.store[0]++;
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    EXPECT_EQUAL(ru_segment_create(place.directory, 1, SEGMENT), 0); /* not described yet */
    EXPECT_EQUAL(ru_segment_create(place.directory, 2, SEGMENT), 0);
    (void)close(openat(place.directory, "unfinished-1", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQUAL(ru_journal_create(place.directory, &other, 1), 0);
    write_at(&place, 1, "torn", 4, 16);
    EXPECT_EQUAL(ru_journal_create(place.directory, &other, 1), 0);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    /* In place of the other store's. */
    EXPECT_EQUAL(ru_journal_create(place.directory, &usual, 1), 0);
    append_one(&place);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 1);
    EXPECT_EQUAL(ru_journal_create(place.directory, &other, 1), RU_JOURNAL_FOREIGN);
    EXPECT_EQUAL(ru_journal_create(place.directory, &usual, 1), RU_JOURNAL_FOREIGN);
    EXPECT_EQUAL(entries(&place), 1);
    place_remove(&place);
}

static void test_holds(void)
{
    struct place place = place_new();
    struct ru_segment_head head = {.segment = {.index = 1, .first = 1, .bytes = SEGMENT}};
    EXPECT_EQUAL(ru_segment_create(place.directory, 1, SEGMENT), 0);
    write_at(&place, 1, "x", 1, SEGMENT - 1); /* as old entries in a segment that is used again */
    EXPECT_EQUAL(ru_journal_holds(place.directory), 1);
    write_at(&place, 1, "", 1, SEGMENT - 1);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    int fd = ru_segment_open(place.directory, 1, O_RDWR);
    EXPECT_EQUAL(ru_segment_describe(fd, usual.store, &head), 0);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    head.segment.first = 2; /* entry 1 was in a journal that was abandoned */
    EXPECT_EQUAL(ru_segment_describe(fd, usual.store, &head), 0);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    head.segment.index = 2; /* another had entry 1 */
    EXPECT_EQUAL(ru_segment_describe(fd, usual.store, &head), 0);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 1);
    head.segment = (struct ru_segment){.index = 1, .first = 1, .bytes = SEGMENT};
    EXPECT_EQUAL(ru_segment_describe(fd, usual.store, &head), 0);
    write_at(&place, 1, "\2", 1, 8); /* of a later version */
    EXPECT_EQUAL(ru_journal_holds(place.directory), 1);
    EXPECT_EQUAL(ftruncate(fd, 10), 0);
    EXPECT_EQUAL(ru_journal_holds(place.directory), 0);
    (void)close(fd);
    place_remove(&place);
}

/* All of a journal goes, whatever a power cut has left of it, and what a killed process had made in its
 * place; another's entries never do. */
static void test_abandoned(void)
{
    struct place place = place_new();
    struct ru_journal_settings other = usual;
    other.store[0]++;
    EXPECT_EQUAL(ru_journal_create(place.directory, &usual, 1), 0);
    append_one(&place);
    EXPECT_EQUAL(ru_segment_create(place.directory, 2, SEGMENT), 0);
    write_at(&place, 2, "old entries", 11, RU_ENTRY_BLOCK);
    EXPECT_EQUAL(ru_segment_abandon(place.directory, other.store), RU_JOURNAL_FOREIGN);
    EXPECT_EQUAL(entries(&place), 1);
    EXPECT_EQUAL(ru_segment_abandon(place.directory, usual.store), 0);
    struct ru_segment segments[RU_SEGMENTS_MAX];
    EXPECT_EQUAL(ru_segment_list(place.directory, segments), 0);
    EXPECT_EQUAL(ru_segment_abandon(place.directory, usual.store), 0);
    EXPECT_EQUAL(ru_journal_create(place.directory, &other, 2), 0);
    EXPECT_EQUAL(ru_segment_abandon(place.directory, usual.store), 0);
    EXPECT_EQUAL(ru_segment_list(place.directory, segments), 0);
    place_remove(&place);
}

int main(void)
{
    RUN(test_made_again);
    RUN(test_holds);
    RUN(test_abandoned);
    return native_finish();
}
