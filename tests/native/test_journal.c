/* test_journal.c: what was acknowledged is read again, whatever happened to the files since. */
#include <pthread.h>

#include "coins/crc32c.h"
#include "journal_rig.h"

#define ENTRIES 2000U

/* ---- tests ---- */

static void test_crc(void)
{
    /* RFC 3720, appendix B.4. */
    uint8_t bytes[32] = {0};
    EXPECT_EQUAL(ru_crc32c_add(0, bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    EXPECT_EQUAL(ru_crc32c_add(0, bytes, sizeof(bytes)), 0x62a8ab43);
    for (uint8_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = i;
    EXPECT_EQUAL(ru_crc32c_add(0, bytes, sizeof(bytes)), 0x46dd794e);
    const size_t half = sizeof(bytes) / 2;
    EXPECT_EQUAL(ru_crc32c_add(ru_crc32c_add(0, bytes, half), bytes + half, half), 0x46dd794e);
}

/* Segments before the one in use that are cut, removed, or let go of. */
static void test_whole_from(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    for (uint64_t number = 1; journal.open < 4; number++)
        append_durably(&journal, number, number);
    const struct ru_segment *segments = journal.segments;
    EXPECT_EQUAL(ru_journal_whole_from(&journal), 1);
    int fd = ru_segment_open(place.directory, segments[1].index, O_RDWR);
    EXPECT_EQUAL(ftruncate(fd, (off_t)segments[1].bytes - 1), 0);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), segments[2].first);
    EXPECT_EQUAL(ftruncate(fd, (off_t)segments[1].bytes), 0);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), 1);
    (void)close(fd);
    EXPECT_EQUAL(ru_segment_remove(place.directory, segments[0].index), 0);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), segments[1].first);
    EXPECT_EQUAL(ru_segment_remove(place.directory, segments[2].index), 0);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), segments[3].first);
    EXPECT_EQUAL(ru_journal_in_place(&journal), 0);
    /* Nothing of what is missing is needed after a checkpoint. */
    const uint64_t last = segments[3].first;
    EXPECT_EQUAL(ru_journal_release(&journal, segments[1].first), 1);
    journal.open = 0; /* what is left is read again, and has a gap: 2 and 4 */
    EXPECT_EQUAL(ru_journal_follow(&journal), 0);
    EXPECT_EQUAL(journal.segment_count, 2);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), last);
    EXPECT_EQUAL(ru_journal_release(&journal, last), 1);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), last);
    ru_journal_close(&journal);
    place_remove(&place);
}

/* Written, closed, opened and released at random moments; readers find every entry again. */
static void test_read_again(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    struct ru_random random = {native_seed()};
    uint64_t needed = 1;
    for (uint64_t number = 1; number <= ENTRIES; number++) {
        append_durably(&journal, number, number);
        if (native_below(&random, 5) == 0) {
            EXPECT_EQUAL(read_all(&place, needed), number);
            needed += native_below(&random, (uint32_t)(number - needed + 1));
            EXPECT(ru_journal_release(&journal, needed) >= 0);
        }
        if (native_below(&random, 20) == 0)
            EXPECT_EQUAL(ru_journal_prepare(&journal), 0);
        if (native_below(&random, 30) == 0) {
            ru_journal_close(&journal);
            EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, needed, &position), 0);
        }
    }
    EXPECT_EQUAL(read_all(&place, ENTRIES), ENTRIES);
    EXPECT_EQUAL(read_all(&place, ENTRIES + 1), ENTRIES);
    EXPECT_EQUAL(read_all(&place, ENTRIES + 2), RU_JOURNAL_MISSING);
    EXPECT_EQUAL(read_all(&place, 1), RU_JOURNAL_MISSING);
    ru_journal_close(&journal);
    place_remove(&place);
}

/* Any byte of any entry but the last: found. Of the last: it may not have been acknowledged. */
static void test_damage(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    struct ru_random random = {native_seed()};
    append_durably(&journal, 1, 60);
    ru_journal_close(&journal);
    for (uint64_t number = 1; number <= 60; number++) {
        static struct ru_change changes[1000];
        uint64_t segment;
        uint64_t at = find(&place, number, &segment);
        uint32_t used = RU_ENTRY_HEAD_SIZE + changes_of(number, changes) * RU_ENTRY_CHANGE_SIZE;
        at += native_below(&random, used);
        spoil(&place, segment, at);
        EXPECT_EQUAL(read_all(&place, 1), number == 60 ? 59 : RU_JOURNAL_DAMAGED);
        EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, 1, &position),
                     number == 60 ? 0 : RU_JOURNAL_DAMAGED);
        if (number == 60) { /* cut: its number is used again */
            append_durably(&journal, 60, 61);
            ru_journal_close(&journal);
            EXPECT_EQUAL(read_all(&place, 1), 61);
        } else {
            spoil(&place, segment, at); /* the same bit again */
            EXPECT_EQUAL(read_all(&place, 1), 60);
        }
    }
    place_remove(&place);
}

static void test_segments(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    append_durably(&journal, 1, 400);
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(place.directory, segments);
    EXPECT(count > 3);
    EXPECT_EQUAL(ru_journal_bytes(&journal), SEGMENT + ((uint64_t)count - 1) * 4 * SEGMENT);
    ru_journal_close(&journal);
    spoil(&place, segments[2].index, 40); /* its first block */
    EXPECT_EQUAL(read_all(&place, 1), RU_JOURNAL_DAMAGED);
    spoil(&place, segments[2].index, 40);
    EXPECT_EQUAL(read_all(&place, 1), 400);
    EXPECT_EQUAL(ru_segment_remove(place.directory, segments[2].index), 0);
    EXPECT_EQUAL(read_all(&place, 1), RU_JOURNAL_DAMAGED);
    EXPECT_EQUAL(ru_segment_remove(place.directory, segments[0].index), 0);
    EXPECT_EQUAL(read_all(&place, 1), RU_JOURNAL_MISSING);
    place_remove(&place);
}

static void test_strangers(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    struct ru_journal_settings other = usual;
    append_durably(&journal, 1, 3);
    ru_journal_close(&journal);
    other.store[0]++;
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &other, 1, &position),
                 RU_JOURNAL_FOREIGN);
    /* A later version's first block. */
    int fd = ru_segment_open(place.directory, 1, O_RDWR);
    EXPECT_EQUAL(pwrite(fd, "\2", 1, 8), 1);
    (void)close(fd);
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, 1, &position),
                 RU_JOURNAL_NEWER);
    place_remove(&place);
}

/* Without flushes a power cut may keep a later entry and lose an earlier one: not damage, since
 * nothing after the last flush was acknowledged as durable. */
static void test_lost_between_flushes(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    append_durably(&journal, 1, 5);
    for (uint64_t number = 6; number <= 9; number++)
        append(&journal, number);
    ru_journal_close(&journal);
    uint64_t segment;
    uint64_t at = find(&place, 7, &segment);
    spoil(&place, segment, at);
    EXPECT_EQUAL(read_all(&place, 1), 6);
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, 1, &position), 0);
    EXPECT_EQUAL(journal.position->last, 6);
    append_durably(&journal, 7, 7); /* entries 8 and 9 still stand behind it */
    ru_journal_close(&journal);
    EXPECT_EQUAL(read_all(&place, 1), 7);
    place_remove(&place);
}

static void test_failures(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    static struct ru_change many[15000];
    append_durably(&journal, 1, 3);
    EXPECT_EQUAL(ru_journal_append(&journal, 0, many, 15000), -E2BIG);
    /* A write that fails: the next one takes its place. */
    int saved = dup(journal.fd);
    int unwritable = ru_segment_open(place.directory, 1, O_RDONLY);
    EXPECT(dup2(unwritable, journal.fd) >= 0);
    EXPECT_EQUAL(ru_journal_append(&journal, 40, many, 1), -EBADF);
    EXPECT(dup2(saved, journal.fd) >= 0);
    append_durably(&journal, 4, 5);
    /* Too many segments: refused, and possible again once some are released. */
    journal.settings.segments_max = journal.segment_count;
    uint64_t number = 6;
    while (ru_journal_append(&journal, 10 * number, many, changes_of(number, many)) == 0)
        number++;
    EXPECT_EQUAL(ru_journal_append(&journal, 0, many, 11000), RU_JOURNAL_FULL);
    journal.settings.segments_max++;
    append_durably(&journal, number, number);
    /* A flush that fails: nothing more is written. */
    int ends[2];
    EXPECT_EQUAL(pipe(ends), 0);
    EXPECT(dup2(ends[1], journal.fd) >= 0);
    EXPECT_EQUAL(ru_journal_sync(&journal), -EINVAL);
    EXPECT(dup2(saved, journal.fd) >= 0);
    EXPECT_EQUAL(ru_journal_sync(&journal), -EINVAL);
    EXPECT_EQUAL(ru_journal_append(&journal, 0, many, 1), -EINVAL);
    for (uint32_t i = 0; i < 2; i++)
        (void)close(ends[i]);
    (void)close(saved);
    (void)close(unwritable);
    ru_journal_close(&journal);
    EXPECT_EQUAL(read_all(&place, 1), number);
    place_remove(&place);
}

/* ---- a reader that follows a writer, which lets go of what it has read ---- */

struct pair {
    struct place place;
    struct ru_journal journal;
    uint64_t read; /* newest entry that the reader has */
};

static void *pair_follow(void *argument)
{
    struct pair *pair = argument;
    struct ru_reader reader;
    struct ru_entry entry;
    uint64_t number = 1;
    EXPECT_EQUAL(ru_reader_open(&reader, pair->place.directory, &usual, 1), 0);
    while (number <= ENTRIES) {
        int rc = ru_reader_next(&reader, &entry);
        EXPECT(rc >= 0);
        if (rc < 0)
            break;
        if (rc > 0) {
            expect_entry(&entry, number);
            __atomic_store_n(&pair->read, number++, __ATOMIC_RELEASE);
        }
    }
    ru_reader_close(&reader);
    return NULL;
}

static void *pair_maintain(void *argument)
{
    struct pair *pair = argument;
    uint64_t read;
    while ((read = __atomic_load_n(&pair->read, __ATOMIC_ACQUIRE)) < ENTRIES) {
        EXPECT_EQUAL(ru_journal_prepare(&pair->journal), 0);
        EXPECT(ru_journal_release(&pair->journal, read) >= 0);
    }
    return NULL;
}

static void test_follow(void)
{
    static struct pair pair;
    pthread_t threads[2];
    pair = (struct pair){.place = place_new()};
    pair.journal = journal_new(&pair.place);
    EXPECT_EQUAL(pthread_create(&threads[0], NULL, pair_follow, &pair), 0);
    EXPECT_EQUAL(pthread_create(&threads[1], NULL, pair_maintain, &pair), 0);
    for (uint64_t number = 1; number <= ENTRIES; number++) {
        /* So that the segments of a slow reader are not too many. */
        while (number > __atomic_load_n(&pair.read, __ATOMIC_ACQUIRE) + 300)
            (void)usleep(100);
        append(&pair.journal, number);
        if (number % 50 == 0)
            EXPECT_EQUAL(ru_journal_sync(&pair.journal), 0);
    }
    for (uint32_t i = 0; i < 2; i++)
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
    ru_journal_close(&pair.journal);
    place_remove(&pair.place);
}

/* ---- what others leave in the directory ---- */

/* What is left of an older entry looks like one of another store: clients choose ANs, and may know
 * everything but the store's id. */
static void test_look_alike(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    static uint8_t block[RU_ENTRY_BLOCK];
    const struct ru_change change = {.coin = 5, .month = 1};
    struct ru_entry entry = {
        .number = 4, .durable = 3, .previous = 1, .kind = RU_ENTRY_CHANGES, .count = 1};
    append_durably(&journal, 1, 3);
    ru_entry_pack(&entry, (const uint8_t *)"another store's.", &change, block);
    EXPECT_EQUAL(ru_segment_write(journal.fd, block, sizeof(block), position.at), 0);
    EXPECT_EQUAL(read_all(&place, 1), 3);
    /* Longer than an entry may be: nobody reads as much. */
    const uint8_t huge[4] = {0xff, 0xff, 0xff, 0xff};
    ru_entry_pack(&entry, usual.store, &change, block);
    memcpy(block + RU_ENTRY_BYTES_AT, huge, sizeof(huge));
    EXPECT_EQUAL(ru_entry_claims(block, sizeof(block), usual.store), 0);
    ru_journal_close(&journal);
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, 1, &position), 0);
    append_durably(&journal, 4, 4);
    ru_journal_close(&journal);
    place_remove(&place);
}

static void test_stray_file(void)
{
    static const char name[] = "ffffffffffffffffffffffff"; /* as long as a segment's */
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    append_durably(&journal, 1, 3);
    (void)close(openat(place.directory, name, O_CREAT | O_WRONLY, 0600));
    EXPECT_EQUAL(read_all(&place, 1), 3);
    (void)unlinkat(place.directory, name, 0);
    ru_journal_close(&journal);
    place_remove(&place);
}

/* The entry that a reader missed is there by the time it asks whether it was lost. */
static void test_judged_late(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    struct ru_reader reader;
    struct ru_entry entry;
    append_durably(&journal, 1, 3);
    EXPECT_EQUAL(ru_reader_open(&reader, place.directory, &usual, 1), 0);
    while (ru_reader_next(&reader, &entry) > 0)
        continue;
    append_durably(&journal, 4, 6);
    EXPECT_EQUAL(ru_reader_judge(&reader), 0);
    EXPECT_EQUAL(ru_reader_next(&reader, &entry), 1);
    EXPECT_EQUAL(entry.number, 4);
    ru_reader_close(&reader);
    ru_journal_close(&journal);
    place_remove(&place);
}

/* ---- two processes ---- */

/* Another process's look at the journal: its own descriptors and lists, the same position. */
static struct ru_journal journal_beside(const struct place *place)
{
    struct ru_journal journal;
    ru_journal_join(&journal, place->directory, &usual, &position);
    EXPECT_EQUAL(ru_journal_follow(&journal), 0);
    return journal;
}

/* Fill the segment in use, so that the next entry needs another one. */
static void fill(struct ru_journal *journal, uint64_t *number)
{
    for (uint64_t segment = position.segment; segment == position.segment;) {
        if (position.bytes - position.at < 2 * RU_ENTRY_BLOCK)
            break;
        append_durably(journal, *number, *number);
        (*number)++;
    }
}

static void test_beside(void)
{
    static struct ru_change many[15000];
    struct place place = place_new();
    struct ru_journal one = journal_new(&place);
    struct ru_journal other = journal_beside(&place);
    struct ru_segment segments[RU_SEGMENTS_MAX];
    uint64_t number = 1;
    /* It prepares a segment that is too small for the next entry of this one. */
    one.settings.segment_bytes = 32 * SEGMENT;
    other.settings.segment_bytes = 4 * SEGMENT;
    EXPECT_EQUAL(ru_journal_prepare(&other), 0);
    EXPECT_EQUAL(ru_journal_append(&one, 0, many, 15000), 0);
    EXPECT_EQUAL(ru_journal_sync(&one), 0);
    number++;
    EXPECT(position.at <= position.bytes);
    /* The prepared segment vanishes: its process was killed as it replaced it. */
    EXPECT_EQUAL(ru_journal_prepare(&one), 0);
    EXPECT_EQUAL(ru_segment_remove(place.directory, position.segment + 1), 0);
    fill(&one, &number);
    EXPECT_EQUAL(ru_journal_append(&one, 0, many, 3000), 0);
    EXPECT_EQUAL(ru_journal_sync(&one), 0);
    number++;
    /* It joins with what was true before two more segments were begun: all of them remain. */
    struct ru_position stale = position;
    struct ru_journal late;
    for (uint32_t i = 0; i < 2; i++) {
        fill(&one, &number);
        EXPECT_EQUAL(ru_journal_append(&one, 0, many, 3000), 0);
        number++;
    }
    EXPECT_EQUAL(ru_journal_sync(&one), 0);
    int before = ru_segment_list(place.directory, segments);
    ru_journal_join(&late, place.directory, &usual, &stale);
    EXPECT_EQUAL(ru_journal_follow(&late), 0);
    EXPECT_EQUAL(ru_segment_list(place.directory, segments), before);
    ru_journal_close(&late);
    /* It lets go of old segments, of which this one knows nothing. */
    EXPECT_EQUAL(ru_journal_follow(&other), 0);
    EXPECT(ru_journal_release(&other, number) > 0);
    one.settings.segments_max = one.segment_count;
    fill(&one, &number);
    EXPECT_EQUAL(ru_journal_append(&one, 0, many, 3000), 0);
    ru_journal_close(&one);
    ru_journal_close(&other);
    place_remove(&place);
}

/* This process maintains while both append in turns. */
struct both {
    struct ru_journal *journal;
    int finished;
};

static void *both_maintain(void *argument)
{
    struct both *both = argument;
    while (!__atomic_load_n(&both->finished, __ATOMIC_ACQUIRE)) {
        EXPECT_EQUAL(ru_journal_prepare(both->journal), 0);
        EXPECT(ru_journal_release(both->journal, 1) >= 0);
    }
    return NULL;
}

static void test_maintained_beside(void)
{
    struct place place = place_new();
    struct ru_journal one = journal_new(&place);
    struct ru_journal other = journal_beside(&place);
    struct both both = {.journal = &one};
    pthread_t thread;
    EXPECT_EQUAL(pthread_create(&thread, NULL, both_maintain, &both), 0);
    for (uint64_t number = 1; number <= 600; number++) {
        struct ru_journal *journal = number / 40 % 2 ? &one : &other;
        EXPECT_EQUAL(ru_journal_follow(journal), 0);
        append(journal, number);
    }
    __atomic_store_n(&both.finished, 1, __ATOMIC_RELEASE);
    EXPECT_EQUAL(pthread_join(thread, NULL), 0);
    EXPECT_EQUAL(read_all(&place, 1), 600);
    ru_journal_close(&one);
    ru_journal_close(&other);
    place_remove(&place);
}

int main(void)
{
    RUN(test_crc);
    RUN(test_whole_from);
    RUN(test_read_again);
    RUN(test_damage);
    RUN(test_segments);
    RUN(test_strangers);
    RUN(test_lost_between_flushes);
    RUN(test_failures);
    RUN(test_follow);
    RUN(test_look_alike);
    RUN(test_stray_file);
    RUN(test_judged_late);
    RUN(test_beside);
    RUN(test_maintained_beside);
    return native_finish();
}
