/* reader.c: a journal, read entry by entry. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "check.h"
#include "coins/journal.h"
#include "coins/pending.h"
#include "coins/segment.h"
#include "number.h"

#define READ_CHUNK (256U << 10) /* while later entries are looked for */

static int reader_room(struct ru_reader *reader, uint64_t size)
{
    if (size <= reader->buffer_bytes)
        return 0;
    uint8_t *grown = realloc(reader->buffer, size);
    if (!grown)
        return -ENOMEM;
    reader->buffer = grown;
    reader->buffer_bytes = size;
    return 0;
}

/* ---- segments ---- */

/* Read on at the start of segment `index`, if it is in use. -ENODATA or -ENOENT: it is not. */
static int reader_enter(struct ru_reader *reader, uint64_t index, struct ru_segment_head *head)
{
    *head = (struct ru_segment_head){0};
    int fd = ru_segment_open(reader->directory, index, O_RDONLY);
    if (fd < 0)
        return fd;
    int rc = TEMP_FAILURE_RETRY(flock(fd, LOCK_SH)) == 0
                 ? ru_segment_read(fd, reader->settings.store, head)
                 : -errno;
    /* Used again between opening and locking: the name is another file's now. */
    if (rc == 0 && head->segment.index != index)
        rc = -ENODATA;
    if (rc != 0) {
        (void)close(fd);
        return rc;
    }
    if (reader->fd >= 0)
        (void)close(reader->fd);
    reader->fd = fd;
    reader->segment = head->segment;
    reader->at = reader->unsure_at = reader->flushed_at = RU_ENTRY_BLOCK;
    reader->flushed_before = head->segment.first;
    return 0;
}

/* Whether segment `index` starts with the entry that the reader wants. */
static int reader_goes_on(struct ru_reader *reader, uint64_t index)
{
    struct ru_segment_head head = {0};
    int fd = ru_segment_open(reader->directory, index, O_RDONLY);
    if (fd < 0)
        return fd;
    int rc = ru_segment_read(fd, reader->settings.store, &head);
    (void)close(fd);
    if (rc != 0)
        return rc;
    bool follows = head.segment.index == index && head.segment.first == reader->number &&
                   head.crc == reader->crc;
    return follows ? 0 : -ENODATA;
}

int ru_reader_open(struct ru_reader *reader, int directory,
                   const struct ru_journal_settings *settings, uint64_t from)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    *reader = (struct ru_reader){.settings = *settings, .directory = directory, .fd = -1};
    int count = ru_segment_list(directory, segments);
    if (count < 0)
        return count;
    /* The newest segment that can have the entry: newer ones start behind it. */
    int rc = RU_JOURNAL_MISSING;
    for (int i = count - 1; i >= 0; i--) {
        struct ru_segment_head head;
        int found = reader_enter(reader, segments[i].index, &head);
        if (found == -ENODATA || found == -ENOENT)
            continue;
        rc = found;
        if (found != 0)
            break;
        reader->number = head.segment.first;
        reader->durable = head.segment.first - 1;
        reader->crc = head.crc;
        if (head.segment.first <= from)
            break;
        rc = RU_JOURNAL_MISSING;
    }
    struct ru_entry entry;
    while (rc == 0 && reader->number < from) {
        int next = ru_reader_next(reader, &entry);
        if (next <= 0)
            rc = next < 0 ? next : RU_JOURNAL_MISSING;
    }
    if (rc != 0)
        ru_reader_close(reader);
    return rc;
}

void ru_reader_close(struct ru_reader *reader)
{
    if (reader->fd >= 0)
        (void)close(reader->fd);
    free(reader->buffer);
    *reader = (struct ru_reader){.fd = -1};
}

/* ---- entries ---- */

/* Read and parse what stands at `at` in `fd`. Returns an enum ru_entry_fault, or -errno. */
static int reader_parse(struct ru_reader *reader, int fd, uint64_t at, struct ru_entry *entry)
{
    uint64_t size = RU_ENTRY_BLOCK;
    for (;;) {
        int rc = reader_room(reader, size);
        if (rc != 0)
            return rc;
        int64_t have = ru_segment_bytes(fd, reader->buffer, size, at);
        if (have < 0)
            return (int)have;
        uint64_t whole = ru_entry_claims(reader->buffer, (uint64_t)have, reader->settings.store);
        if (whole <= size || (uint64_t)have < size)
            return (int)ru_entry_parse(reader->buffer, (uint64_t)have, reader->settings.store,
                                       entry);
        size = whole;
    }
}

/* Whether the entry that the reader wants stands where it is: 1, 0, or a fault. */
static int reader_look(struct ru_reader *reader, struct ru_entry *entry)
{
    *entry = (struct ru_entry){0};
    int fault = reader_parse(reader, reader->fd, reader->at, entry);
    if (fault < 0)
        return fault;
    bool follows = fault != RU_ENTRY_ABSENT && entry->number == reader->number &&
                   entry->previous == reader->crc;
    if (!follows)
        return 0;
    if (fault == RU_ENTRY_UNKNOWN)
        return RU_JOURNAL_NEWER;
    return ru_entry_size(entry->count) <= reader->segment.bytes - reader->at;
}

static void reader_advance(struct ru_reader *reader, const struct ru_entry *entry)
{
    RU_CHECK(entry->number == reader->number && reader->at < reader->segment.bytes);
    if (entry->durable + 1 >= reader->flushed_before) {
        reader->unsure_at = reader->flushed_at;
        reader->flushed_at = reader->at;
        reader->flushed_before = entry->number;
    }
    reader->at += ru_entry_size(entry->count);
    reader->number++;
    reader->crc = entry->crc;
    reader->durable = entry->durable;
}

int ru_reader_next(struct ru_reader *reader, struct ru_entry *entry)
{
    for (;;) {
        int found = reader_look(reader, entry);
        if (found > 0)
            reader_advance(reader, entry);
        if (found != 0)
            return found;
        struct ru_segment_head head;
        uint64_t next = reader->segment.index + 1;
        int rc = reader_goes_on(reader, next);
        if (rc == 0)
            rc = reader_enter(reader, next, &head);
        if (rc != 0)
            return rc == -ENODATA || rc == -ENOENT ? 0 : rc;
    }
}

/* ---- is the end the end? ---- */

/* The entry that the reader wants has been appended since it has looked for it. */
static bool reader_was_early(struct ru_reader *reader)
{
    struct ru_entry entry;
    return reader_look(reader, &entry) > 0 ||
           reader_goes_on(reader, reader->segment.index + 1) == 0;
}

/* Look for an acknowledged entry after the reader's position in one segment. */
static int segment_judge(struct ru_reader *reader, int fd, uint64_t at, uint8_t *chunk)
{
    for (;; at += READ_CHUNK) {
        int64_t have = ru_segment_bytes(fd, chunk, READ_CHUNK, at);
        if (have <= 0)
            return (int)have;
        for (uint64_t here = 0; here + RU_ENTRY_BLOCK <= (uint64_t)have; here += RU_ENTRY_BLOCK) {
            struct ru_entry entry;
            /* Read whole only what could be a proof: there may be many old, long entries. */
            if (ru_entry_claims(chunk + here, RU_ENTRY_BLOCK, reader->settings.store) == 0 ||
                ru_entry_durable(chunk + here) < reader->number)
                continue;
            int fault = reader_parse(reader, fd, at + here, &entry);
            if (fault < 0)
                return fault;
            if (fault != RU_ENTRY_ABSENT && entry.durable >= reader->number)
                return reader_was_early(reader) ? 0 : RU_JOURNAL_DAMAGED;
        }
    }
    return 0;
}

/* Whether a segment after the reader's has only entries from before it was prepared again: its first
 * entry is the first to be written over. 1, 0, or -errno. */
static int segment_is_old(struct ru_reader *reader, int fd)
{
    struct ru_entry entry;
    int fault = reader_parse(reader, fd, RU_ENTRY_BLOCK, &entry);
    if (fault < 0)
        return fault;
    return fault != RU_ENTRY_ABSENT && entry.number < reader->number;
}

int ru_reader_judge(struct ru_reader *reader)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(reader->directory, segments);
    if (count < 0)
        return count;
    uint8_t *chunk = malloc(READ_CHUNK);
    if (!chunk)
        return -ENOMEM;
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        if (segments[i].index < reader->segment.index)
            continue;
        int fd = ru_segment_open(reader->directory, segments[i].index, O_RDONLY);
        if (fd < 0) { /* let go of since: the reader's is gone as well */
            rc = fd == -ENOENT ? RU_JOURNAL_MISSING : fd;
            break;
        }
        bool here = segments[i].index == reader->segment.index;
        rc = here ? 0 : segment_is_old(reader, fd); /* there may be many: they are not read */
        if (rc == 0)
            rc = segment_judge(reader, fd, here ? reader->at : RU_ENTRY_BLOCK, chunk);
        else if (rc > 0)
            rc = 0;
        (void)close(fd);
    }
    free(chunk);
    return rc;
}

int ru_reader_apply(struct ru_journal *journal, struct ru_memory *memory, uint64_t from)
{
    struct ru_reader reader;
    struct ru_entry entry;
    struct ru_pending changes;
    int rc = ru_reader_open(&reader, journal->directory, &journal->settings, from);
    if (rc != 0)
        return rc;
    ru_pending_init(&changes);
    while ((rc = ru_reader_next(&reader, &entry)) > 0) {
        rc = 0;
        for (uint32_t i = 0; i < entry.count && rc == 0; i++) {
            const struct ru_change change = ru_entry_change(&entry, i);
            rc = ru_pending_add(&changes, &change);
        }
        if (rc == 0)
            rc = ru_memory_reserve(memory, changes.changes, changes.count);
        if (rc != 0)
            break;
        ru_memory_apply(memory, entry.number, changes.changes, changes.count);
        ru_pending_undo(&changes, 0);
    }
    ru_pending_destroy(&changes);
    ru_reader_close(&reader);
    return rc;
}

struct ru_position ru_reader_position(const struct ru_reader *reader)
{
    return (struct ru_position){
        .segment = reader->segment.index,
        .bytes = reader->segment.bytes,
        .at = reader->at,
        .last = reader->number - 1,
        .durable = reader->durable,
        .unsure = reader->unsure_at,
        .crc = reader->crc,
    };
}
