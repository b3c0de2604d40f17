/* journal.c: batches of changes, appended to the segments of a journal. */
#include "coins/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "coins/segment.h"
#include "number.h"

#define JOURNAL_GROWTH 4U          /* of a segment over the one before it */
#define JOURNAL_CHUNK (256U << 10) /* while entries are written again */

static void journal_check(const struct ru_journal *journal)
{
    const struct ru_position *position = journal->position;
    RU_CHECK(position->durable <= position->last);
    RU_CHECK(position->at >= RU_ENTRY_BLOCK && position->at % RU_ENTRY_BLOCK == 0);
    RU_CHECK(position->at <= position->bytes);
    RU_CHECK(position->segment == journal->open);
}

/* How many segments are in use or were: the one in use is the newest that has a first entry. */
static uint32_t segments_used(const struct ru_journal *journal)
{
    uint32_t count = journal->segment_count;
    while (count > 0 && journal->segments[count - 1].first == 0)
        count--;
    return count;
}

static struct ru_segment *segment_in_use(struct ru_journal *journal)
{
    uint32_t count = segments_used(journal);
    RU_CHECK(count > 0);
    return &journal->segments[count - 1];
}

static uint32_t segments_prepared(const struct ru_journal *journal)
{
    return journal->segment_count - segments_used(journal);
}

/* Bytes of a new segment, after one of `before` bytes. */
static uint64_t segment_size(const struct ru_journal_settings *settings, uint64_t before)
{
    uint64_t most = settings->segment_bytes;
    return before >= most / JOURNAL_GROWTH ? most : before * JOURNAL_GROWTH;
}

/* ---- create, open, close ---- */

int ru_journal_holds(int directory)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(directory, segments);
    if (count < 0)
        return count == -E2BIG ? 1 : count; /* more than are ever made in advance */
    int held = 0;
    for (int i = 0; i < count && held == 0; i++) {
        int fd = ru_segment_open(directory, segments[i].index, O_RDONLY);
        if (fd == -ENOENT) /* replaced by a node that starts */
            continue;
        held = fd < 0 ? fd : ru_segment_holds(fd);
        if (fd >= 0)
            (void)close(fd);
    }
    return held;
}

/* Remove what a process left that was killed while it made a journal. */
static int journal_clear(int directory)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int held = ru_journal_holds(directory);
    if (held != 0)
        return held < 0 ? held : RU_JOURNAL_FOREIGN;
    int rc = ru_segment_clean(directory);
    int count = rc == 0 ? ru_segment_list(directory, segments) : rc;
    for (int i = 0; i < count && rc == 0; i++)
        rc = ru_segment_remove(directory, segments[i].index);
    return count < 0 ? count : rc;
}

int ru_journal_create(int directory, const struct ru_journal_settings *settings, uint64_t first)
{
    const struct ru_segment_head head = {
        .segment = {.index = 1, .first = first, .bytes = settings->first_bytes},
    };
    int rc = journal_clear(directory);
    if (rc == 0)
        rc = ru_segment_create(directory, head.segment.index, head.segment.bytes);
    if (rc != 0)
        return rc;
    int fd = ru_segment_open(directory, head.segment.index, O_RDWR);
    if (fd < 0)
        return fd;
    rc = ru_segment_describe(fd, settings->store, &head);
    if (rc == 0 && TEMP_FAILURE_RETRY(fdatasync(fd)) != 0)
        rc = -errno;
    (void)close(fd);
    return rc;
}

/* What is known of one segment; none after segment `in_use` is in use. -ENOENT: it is gone. */
static int segment_look(const struct ru_journal *journal, uint64_t in_use,
                        struct ru_segment *segment)
{
    struct ru_segment_head head;
    int fd = ru_segment_open(journal->directory, segment->index, O_RDONLY);
    if (fd < 0)
        return fd;
    int rc = ru_segment_read(fd, journal->settings.store, &head);
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        rc = -errno;
    (void)close(fd);
    if (rc == 0 && segment->index <= in_use)
        *segment = head.segment;
    else
        *segment = (struct ru_segment){.index = segment->index, .bytes = (uint64_t)end};
    return rc == -ENODATA ? 0 : rc;
}

/* Note every segment, and which entry each one starts with. With both locks. */
static int journal_list(struct ru_journal *journal, uint64_t in_use)
{
    struct ru_segment found[RU_SEGMENTS_MAX];
    uint32_t kept = 0;
    int count = ru_segment_list(journal->directory, found);
    for (int i = 0; i < count; i++) {
        int rc = segment_look(journal, in_use, &found[i]);
        if (rc == 0)
            found[kept++] = found[i];
        else if (rc != -ENOENT) /* the other process of an upgrade has let go of it */
            return rc;
    }
    if (count < 0)
        return count;
    memcpy(journal->segments, found, sizeof(found));
    journal->segment_count = kept;
    return 0;
}

static int journal_enter(struct ru_journal *journal)
{
    const uint64_t segment = journal->position->segment;
    (void)pthread_mutex_lock(&journal->preparing);
    (void)pthread_mutex_lock(&journal->lock);
    int fd = ru_segment_open(journal->directory, segment, O_RDWR);
    int rc = fd < 0 ? fd : journal_list(journal, segment);
    if (rc == 0) {
        if (journal->fd >= 0)
            (void)close(journal->fd);
        journal->fd = fd;
        journal->open = segment;
    } else if (fd >= 0) {
        (void)close(fd);
    }
    (void)pthread_mutex_unlock(&journal->lock);
    (void)pthread_mutex_unlock(&journal->preparing);
    return rc;
}

/* Prepared segments that are not the next one: the one before them was lost by a power cut. */
static int journal_drop_unused(struct ru_journal *journal)
{
    while (journal->segment_count > 0) {
        struct ru_segment *last = &journal->segments[journal->segment_count - 1];
        if (last->index <= journal->position->segment + 1)
            break;
        int rc = ru_segment_remove(journal->directory, last->index);
        if (rc != 0)
            return rc;
        journal->segment_count--;
    }
    return 0;
}

static struct ru_journal journal_closed(int directory, const struct ru_journal_settings *settings,
                                        struct ru_position *position)
{
    struct ru_journal journal = {
        .settings = *settings, .directory = directory, .fd = -1, .position = position};
    (void)pthread_mutex_init(&journal.lock, NULL);
    (void)pthread_mutex_init(&journal.preparing, NULL);
    return journal;
}

/* Where the journal ends, if nothing acknowledged can be missing there. */
static int journal_end(int directory, const struct ru_journal_settings *settings, uint64_t from,
                       struct ru_position *end)
{
    struct ru_reader reader;
    struct ru_entry entry;
    int rc = ru_reader_open(&reader, directory, settings, from);
    if (rc != 0)
        return rc;
    while ((rc = ru_reader_next(&reader, &entry)) > 0)
        continue;
    if (rc == 0)
        rc = ru_reader_judge(&reader);
    *end = ru_reader_position(&reader);
    ru_reader_close(&reader);
    return rc;
}

/* Write again what a reader has read, so that a flush cannot find it clean: a flush that fails leaves
 * pages that are not on the disk, and says so once. */
static int journal_rewrite(const struct ru_journal *journal, uint64_t from, uint64_t to)
{
    uint8_t *chunk = malloc(JOURNAL_CHUNK);
    int rc = chunk ? 0 : -ENOMEM;
    while (rc == 0 && from < to) {
        uint64_t size = ru_number_min64(to - from, JOURNAL_CHUNK);
        int64_t have = ru_segment_bytes(journal->fd, chunk, size, from);
        rc = have < 0 ? (int)have : ru_segment_write(journal->fd, chunk, (uint64_t)have, from);
        if (rc == 0 && (uint64_t)have < size)
            rc = RU_JOURNAL_GONE;
        from += size;
    }
    free(chunk);
    return rc;
}

/* With the position's segment open. Every earlier one was flushed before the one after it was used. */
static int journal_secure(struct ru_journal *journal)
{
    const struct ru_position *position = journal->position;
    int rc = ru_segment_sync_names(journal->directory);
    if (rc == 0)
        rc = journal_rewrite(journal, 0, RU_ENTRY_BLOCK);
    if (rc == 0)
        rc = journal_rewrite(journal, position->unsure, position->at);
    return rc == 0 ? ru_journal_sync(journal) : rc;
}

int ru_journal_settle(struct ru_journal *journal)
{
    int rc = journal_enter(journal);
    if (rc == 0)
        rc = journal_drop_unused(journal);
    return rc == 0 ? journal_secure(journal) : rc;
}

int ru_journal_open(struct ru_journal *journal, int directory,
                    const struct ru_journal_settings *settings, uint64_t from,
                    struct ru_position *position)
{
    *journal = journal_closed(directory, settings, position);
    int rc = journal_end(directory, settings, from, position);
    if (rc == 0)
        rc = ru_journal_settle(journal);
    if (rc == 0)
        journal_check(journal);
    else
        ru_journal_close(journal);
    return rc;
}

void ru_journal_join(struct ru_journal *journal, int directory,
                     const struct ru_journal_settings *settings, struct ru_position *position)
{
    *journal = journal_closed(directory, settings, position);
}

int ru_journal_follow(struct ru_journal *journal)
{
    return journal->fd >= 0 && journal->position->segment == journal->open ? 0
                                                                           : journal_enter(journal);
}

int ru_journal_recover(struct ru_journal *journal, uint64_t from)
{
    struct ru_position *position = journal->position;
    struct ru_position end;
    int rc = journal_end(journal->directory, &journal->settings, from, &end);
    if (rc != 0)
        return rc;
    /* The other members are not the journal's. */
    position->segment = end.segment;
    position->bytes = end.bytes;
    position->at = end.at;
    position->last = end.last;
    position->durable = end.durable;
    position->unsure = end.unsure;
    position->crc = end.crc;
    rc = journal_enter(journal); /* whatever it had prepared may be gone */
    return rc == 0 ? journal_secure(journal) : rc;
}

void ru_journal_close(struct ru_journal *journal)
{
    if (journal->fd >= 0)
        (void)close(journal->fd);
    free(journal->buffer);
    (void)pthread_mutex_destroy(&journal->preparing);
    (void)pthread_mutex_destroy(&journal->lock);
    *journal = (struct ru_journal){.fd = -1};
}

/* ---- append ---- */

static int journal_room(struct ru_journal *journal, uint64_t size)
{
    if (size <= journal->buffer_bytes)
        return 0;
    uint8_t *grown = realloc(journal->buffer, size);
    if (!grown)
        return -ENOMEM;
    journal->buffer = grown;
    journal->buffer_bytes = size;
    return 0;
}

static int segment_bytes(const struct ru_journal *journal, struct ru_segment *segment)
{
    int fd = ru_segment_open(journal->directory, segment->index, O_RDONLY);
    if (fd < 0)
        return fd;
    off_t end = lseek(fd, 0, SEEK_END);
    int rc = end < 0 ? -errno : 0;
    segment->bytes = (uint64_t)end;
    (void)close(fd);
    return rc;
}

/* Create the segment after `newest`, of at least `least` bytes, or find that the other process of an
 * upgrade has. With `preparing`. */
static int journal_add(struct ru_journal *journal, struct ru_segment newest, uint64_t least)
{
    struct ru_segment next = {
        .index = newest.index + 1,
        .bytes = segment_size(&journal->settings, newest.bytes),
    };
    if (next.bytes < least)
        next.bytes = journal->settings.segment_bytes;
    if (journal->segment_count >= journal->settings.segments_max)
        return RU_JOURNAL_FULL;
    int rc = segment_bytes(journal, &next);
    if (rc == -ENOENT) {
        rc = ru_segment_create(journal->directory, next.index, next.bytes);
        if (rc == -EEXIST)
            rc = segment_bytes(journal, &next);
    }
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&journal->lock);
    RU_CHECK(journal->segment_count < RU_SEGMENTS_MAX);
    journal->segments[journal->segment_count++] = next;
    (void)pthread_mutex_unlock(&journal->lock);
    return 0;
}

/* The last prepared one is gone, or goes. With `preparing`. */
static int journal_drop_prepared(struct ru_journal *journal)
{
    (void)pthread_mutex_lock(&journal->lock);
    RU_CHECK(segments_prepared(journal) > 0);
    uint64_t index = journal->segments[journal->segment_count - 1].index;
    int rc = ru_segment_remove(journal->directory, index);
    rc = rc == -ENOENT ? 0 : rc;
    journal->segment_count -= rc == 0;
    (void)pthread_mutex_unlock(&journal->lock);
    return rc;
}

/* Have a prepared segment of at least `least` bytes. */
static int journal_prepare(struct ru_journal *journal, uint64_t least)
{
    (void)pthread_mutex_lock(&journal->preparing);
    if (__atomic_exchange_n(&journal->unfinished, false, __ATOMIC_ACQ_REL))
        (void)ru_segment_clean(journal->directory);
    for (int rc = 0; rc == 0;) {
        (void)pthread_mutex_lock(&journal->lock);
        const uint32_t used = segments_used(journal);
        struct ru_segment newest = journal->segments[journal->segment_count - 1];
        struct ru_segment next = used < journal->segment_count ? journal->segments[used] : newest;
        (void)pthread_mutex_unlock(&journal->lock);
        if (next.first == 0 && next.bytes >= least)
            break;
        rc = next.first == 0 ? journal_drop_prepared(journal) : journal_add(journal, newest, least);
        if (rc != 0) {
            (void)pthread_mutex_unlock(&journal->preparing);
            return rc;
        }
    }
    (void)pthread_mutex_unlock(&journal->preparing);
    return 0;
}

/* Take the prepared segment into use, for the next entry. Returns its descriptor. */
static int journal_take(struct ru_journal *journal, struct ru_segment_head *head)
{
    (void)pthread_mutex_lock(&journal->lock);
    struct ru_segment *next = segment_in_use(journal) + 1;
    *head = (struct ru_segment_head){
        .segment = {.index = next->index,
                    .first = journal->position->last + 1,
                    .bytes = next->bytes},
        .crc = journal->position->crc,
    };
    int fd = ru_segment_open(journal->directory, next->index, O_RDWR);
    int rc = fd < 0 ? fd : ru_segment_describe(fd, journal->settings.store, head);
    if (rc == 0)
        next->first = head->segment.first;
    else if (fd >= 0)
        (void)close(fd);
    (void)pthread_mutex_unlock(&journal->lock);
    return rc == 0 ? fd : rc;
}

/* Go on in the prepared segment, whose first entry will be the next one, of `size` bytes. */
static int journal_turn(struct ru_journal *journal, uint64_t size)
{
    struct ru_segment_head head;
    int fd = -ENOENT;
    int rc = 0;
    /* Twice: the other process of an upgrade may have removed the prepared one, or old ones. */
    for (int tries = 0; fd < 0 && rc == 0; tries++) {
        rc = journal_prepare(journal, size + RU_ENTRY_BLOCK);
        if (rc == 0 && journal->position->durable < journal->position->last)
            rc = ru_journal_sync(journal); /* the next flush is another file's */
        if (rc == 0)
            rc = ru_segment_sync_names(journal->directory);
        if (rc == 0)
            fd = journal_take(journal, &head);
        if (rc == 0 && fd < 0)
            rc = fd;
        if ((rc == -ENOENT || rc == RU_JOURNAL_FULL) && tries == 0)
            rc = journal_enter(journal);
    }
    if (rc != 0)
        return rc;
    (void)close(journal->fd);
    journal->fd = fd;
    journal->open = head.segment.index;
    journal->position->segment = head.segment.index;
    journal->position->bytes = head.segment.bytes;
    journal->position->at = RU_ENTRY_BLOCK;
    return 0;
}

/* Changes written to a removed file would be acknowledged and lost. */
int ru_journal_in_place(const struct ru_journal *journal)
{
    struct stat found;
    if (fstat(journal->fd, &found) != 0)
        return -errno;
    bool whole = (uint64_t)found.st_size >= journal->position->bytes &&
                 ru_segment_is_open(journal->directory, journal->open, journal->fd);
    return whole ? 0 : RU_JOURNAL_GONE;
}

uint64_t ru_journal_whole_from(struct ru_journal *journal)
{
    (void)pthread_mutex_lock(
        &journal->lock); /* what is let go of leaves directory and list at once */
    const struct ru_segment *first = segment_in_use(journal);
    while (first > journal->segments) {
        const struct ru_segment *before = first - 1;
        if (before->first == 0 || before->index + 1 != first->index ||
            ru_segment_is_lost(journal->directory, before->index, before->bytes))
            break;
        first = before;
    }
    uint64_t number = first->first;
    (void)pthread_mutex_unlock(&journal->lock);
    return number;
}

int ru_journal_append(struct ru_journal *journal, uint64_t time_ns, const struct ru_change *changes,
                      uint32_t count)
{
    journal_check(journal);
    const uint64_t size = ru_entry_size(count);
    if (journal->position->failed != 0)
        return journal->position->failed;
    if (count > RU_ENTRY_CHANGES_MAX || size > journal->settings.segment_bytes - RU_ENTRY_BLOCK)
        return -E2BIG;
    int rc = ru_journal_in_place(journal);
    if (rc == 0)
        rc = journal_room(journal, size);
    if (rc == 0 && journal->position->at + size > journal->position->bytes)
        rc = journal_turn(journal, size);
    if (rc != 0)
        return rc;
    struct ru_entry entry = {
        .number = journal->position->last + 1,
        .durable = journal->position->durable,
        .time_ns = time_ns,
        .previous = journal->position->crc,
        .kind = RU_ENTRY_CHANGES,
        .count = count,
    };
    ru_entry_pack(&entry, journal->settings.store, changes, journal->buffer);
    rc = ru_segment_write(journal->fd, journal->buffer, size, journal->position->at);
    if (rc != 0)
        return rc;
    journal->position->at += size;
    journal->position->last++;
    journal->position->crc = entry.crc;
    journal_check(journal);
    return 0;
}

int ru_journal_sync(struct ru_journal *journal)
{
    if (journal->position->failed != 0)
        return journal->position->failed;
    /* Once it has failed the kernel may have dropped what it could not write, and a second flush
     * would succeed: what is on the disk can no longer be known. */
    int rc = TEMP_FAILURE_RETRY(fdatasync(journal->fd)) == 0 ? 0 : -errno;
    if (rc == 0)
        __atomic_store_n(&journal->position->durable, journal->position->last, __ATOMIC_RELEASE);
    else
        __atomic_store_n(&journal->position->failed, rc, __ATOMIC_RELEASE);
    return rc;
}

/* ---- maintenance ---- */

int ru_journal_prepare(struct ru_journal *journal)
{
    return journal_prepare(journal, 0);
}

/* How many of the oldest segments have only entries before number `from`. */
static uint32_t segments_over(const struct ru_journal *journal, uint64_t from)
{
    uint32_t over = 0;
    while (over + 1 < journal->segment_count && journal->segments[over + 1].first != 0 &&
           journal->segments[over + 1].first <= from)
        over++;
    return over;
}

/* Let go of the oldest segment: prepare it again, if fewer than `wanted` are, or remove it. */
static int journal_release_oldest(struct ru_journal *journal, uint32_t wanted)
{
    struct ru_segment oldest = journal->segments[0];
    uint64_t next = journal->segments[journal->segment_count - 1].index + 1;
    RU_CHECK(segments_used(journal) > 1);
    bool reused = segments_prepared(journal) < wanted &&
                  oldest.bytes == journal->settings.segment_bytes &&
                  ru_segment_reuse(journal->directory, oldest.index, next) == 0;
    /* A reader keeps what it has opened. */
    int rc = reused ? 0 : ru_segment_remove(journal->directory, oldest.index);
    if (rc != 0 && rc != -ENOENT)
        return rc;
    journal->segment_count--;
    memmove(journal->segments, journal->segments + 1,
            journal->segment_count * sizeof(*journal->segments));
    if (reused)
        journal->segments[journal->segment_count++] =
            (struct ru_segment){.index = next, .bytes = oldest.bytes};
    return 0;
}

int ru_journal_release(struct ru_journal *journal, uint64_t from)
{
    int rc = 0;
    (void)pthread_mutex_lock(&journal->preparing);
    (void)pthread_mutex_lock(&journal->lock);
    /* As many as were filled since the last time will be filled until the next. */
    const uint32_t over = segments_over(journal, from);
    uint32_t released = 0;
    while (released < over && (rc = journal_release_oldest(journal, over)) == 0)
        released++;
    (void)pthread_mutex_unlock(&journal->lock);
    (void)pthread_mutex_unlock(&journal->preparing);
    return rc == 0 ? (int)released : rc;
}

void ru_journal_alone(struct ru_journal *journal)
{
    __atomic_store_n(&journal->unfinished, true, __ATOMIC_RELEASE);
}

uint64_t ru_journal_bytes(struct ru_journal *journal)
{
    (void)pthread_mutex_lock(&journal->lock);
    uint64_t bytes = 0;
    for (uint32_t used = segments_used(journal); used > 0; used--)
        bytes += journal->segments[used - 1].bytes;
    (void)pthread_mutex_unlock(&journal->lock);
    return bytes;
}

uint32_t ru_journal_in_use(struct ru_journal *journal)
{
    (void)pthread_mutex_lock(&journal->lock);
    uint32_t count = segments_used(journal);
    (void)pthread_mutex_unlock(&journal->lock);
    return count;
}
