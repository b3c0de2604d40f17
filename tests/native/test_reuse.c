/* test_reuse.c: segments that are used again: what they had before is never read again, nor taken for
 * damage, and does not change under a reader. */
#include "journal_rig.h"

static ino_t file_of(const struct place *place, uint64_t segment)
{
    struct stat found = {0};
    int fd = ru_segment_open(place->directory, segment, O_RDONLY);
    EXPECT_EQUAL(fstat(fd, &found), 0);
    (void)close(fd);
    return found.st_ino;
}

/* The first entry of a segment that is in use. */
static uint64_t segment_first(const struct ru_journal *journal, uint64_t segment)
{
    for (uint32_t i = 0; i < journal->segment_count; i++)
        if (journal->segments[i].index == segment)
            return journal->segments[i].first;
    return 0;
}

/* Append until segment `index` is in use and has a few entries; returns the last one's number. */
static uint64_t append_into(struct ru_journal *journal, uint64_t index)
{
    uint64_t number = journal->position->last;
    for (; journal->open < index; number++)
        append_durably(journal, number + 1, number + 1);
    append_durably(journal, number + 1, number + 4);
    return number + 4;
}

/* Old entries stand behind the newest everywhere, and are neither read nor taken for a proof of
 * damage; what is damaged before the end is damage nevertheless. */
static void expect_told_apart(const struct place *place, uint64_t from, uint64_t last)
{
    uint64_t segment;
    EXPECT_EQUAL(read_all(place, from), last);
    uint64_t at = find(place, last, &segment);
    spoil(place, segment, at + RU_ENTRY_NUMBER_AT);
    EXPECT_EQUAL(read_all(place, from), last - 1);
    spoil(place, segment, at + RU_ENTRY_NUMBER_AT);
    at = find(place, last - 2, &segment);
    spoil(place, segment, at + RU_ENTRY_HEAD_SIZE);
    EXPECT_EQUAL(read_all(place, from), RU_JOURNAL_DAMAGED);
    spoil(place, segment, at + RU_ENTRY_HEAD_SIZE);
    spoil(place, segment, 40); /* its first block */
    EXPECT_EQUAL(read_all(place, from), RU_JOURNAL_DAMAGED);
    spoil(place, segment, 40);
}

/* As many as a release lets go of are prepared again, in order: no file is made as long as as many are
 * filled in between. The first one is too small. */
static void test_used_again(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    ino_t files[8];
    uint64_t first = 2, last = 7;
    append_into(&journal, last);
    for (uint64_t i = first; i <= last; i++)
        files[i] = file_of(&place, i);
    for (uint32_t round = 0; round < 4; round++) {
        const uint64_t from = segment_first(&journal, last);
        EXPECT_EQUAL(ru_journal_release(&journal, from), round == 0 ? 6 : 5);
        EXPECT_EQUAL(ru_journal_in_use(&journal), 1);
        EXPECT_EQUAL(ru_journal_prepare(&journal), 0);
        EXPECT_EQUAL(journal.segment_count, 6);
        EXPECT_EQUAL(ru_journal_bytes(&journal), 4 * SEGMENT); /* the others are room */
        for (uint64_t index = last + 1; index <= last + 5; index++) {
            EXPECT_EQUAL(file_of(&place, index), files[first + (index - first) % 6]);
            expect_told_apart(&place, from, append_into(&journal, index));
        }
        last += 5;
    }
    /* A start keeps only the next one. */
    const uint64_t from = segment_first(&journal, last);
    EXPECT_EQUAL(ru_journal_release(&journal, from), 5);
    ru_journal_close(&journal);
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, from, &position), 0);
    EXPECT_EQUAL(journal.segment_count, 2);
    expect_told_apart(&place, from, append_into(&journal, last + 1));
    ru_journal_close(&journal);
    place_remove(&place);
}

/* What somebody reads is removed and not used again: it does not change under the reader. */
static void test_not_used_again(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    struct ru_reader reader;
    struct ru_entry entry;
    append_into(&journal, 6);
    const uint64_t begins = segment_first(&journal, 3);
    const uint64_t ends = segment_first(&journal, 4);
    EXPECT_EQUAL(ru_reader_open(&reader, place.directory, &usual, begins), 0);
    EXPECT_EQUAL(ru_journal_release(&journal, segment_first(&journal, 6)), 5);
    EXPECT_EQUAL(journal.segment_count, 4); /* the small one was removed, too */
    append_into(&journal, 9);
    for (uint64_t number = begins; number < ends; number++) {
        EXPECT_EQUAL(ru_reader_next(&reader, &entry), 1);
        expect_entry(&entry, number);
    }
    EXPECT_EQUAL(ru_reader_next(&reader, &entry), 0);
    EXPECT_EQUAL(ru_reader_judge(&reader), RU_JOURNAL_DAMAGED); /* for a reader that is too slow */
    ru_reader_close(&reader);
    ru_journal_close(&journal);
    place_remove(&place);
}

/* A power cut may leave any of it: the name without the emptied first block, or the block without the
 * name. */
static void test_used_again_in_part(void)
{
    struct place place = place_new();
    struct ru_journal journal = journal_new(&place);
    static uint8_t block[RU_ENTRY_BLOCK];
    const uint64_t last = append_into(&journal, 5);
    const uint64_t from = segment_first(&journal, 4);
    int fd = ru_segment_open(place.directory, 2, O_RDONLY);
    EXPECT_EQUAL(ru_segment_bytes(fd, block, sizeof(block), 0), RU_ENTRY_BLOCK);
    (void)close(fd);
    EXPECT_EQUAL(ru_segment_reuse(place.directory, 2, 6), 0);
    fd = ru_segment_open(place.directory, 6, O_RDWR);
    EXPECT_EQUAL(ru_segment_write(fd, block, sizeof(block), 0), 0);
    (void)close(fd);
    memset(block, 0, sizeof(block));
    fd = ru_segment_open(place.directory, 1, O_RDWR);
    EXPECT_EQUAL(ru_segment_write(fd, block, sizeof(block), 0), 0);
    (void)close(fd);
    ru_journal_close(&journal);
    EXPECT_EQUAL(read_all(&place, from), last);
    EXPECT_EQUAL(ru_journal_open(&journal, place.directory, &usual, from, &position), 0);
    EXPECT_EQUAL(ru_journal_whole_from(&journal), segment_first(&journal, 3));
    EXPECT_EQUAL(ru_journal_release(&journal, from), 2);
    expect_told_apart(&place, from, append_into(&journal, 7));
    ru_journal_close(&journal);
    place_remove(&place);
}

int main(void)
{
    RUN(test_used_again);
    RUN(test_not_used_again);
    RUN(test_used_again_in_part);
    return native_finish();
}
