/* own.c: the contender that is a file of our own: two segments, zeroed once, appended to in turn.
 *
 * One pwrite() and one fdatasync() for a batch. Since the blocks were written before, neither the
 * file's length nor its map of blocks changes, so the sync has nothing but the batch to write.
 * A record of an earlier round that is still in the segment is told by its sequence number.
 */
#include "contender.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OWN_SEGMENTS 2U
#define OWN_SEGMENT_BYTES (64U << 20)
#define OWN_CHUNK_BYTES (1U << 20)
#define OWN_MAGIC 0x314C4E524A554152ULL
#define OWN_FAILED 1000 /* the code for: a sync failed before */

struct own_head { /* at the beginning of a segment */
    uint64_t magic;
    uint64_t first; /* sequence number of its first record */
    uint32_t crc;   /* of the record before that */
    uint32_t unused;
};

struct own {
    int files[OWN_SEGMENTS];
    uint32_t at;     /* segment */
    uint32_t offset; /* in it */
    bool relaxed;
    bool failed; /* a sync failed: what the disk has of this segment is unknown */
    uint32_t crc;
    uint64_t next;
    _Alignas(8) uint8_t room[sizeof(struct own_head) + JB_RECORD_MAX];
};

/* Give a segment its blocks. Allocating them would do for the length, but ext4 keeps such blocks as
 * unwritten until a write to them has succeeded, and is wrong about that after one that failed. */
static int own_zero(int file)
{
    static const uint8_t zeros[OWN_CHUNK_BYTES];
    if (getenv("ALLOCATE_ONLY"))
        return fallocate(file, 0, 0, OWN_SEGMENT_BYTES) ? -errno : 0;
    for (uint32_t at = 0; at < OWN_SEGMENT_BYTES; at += OWN_CHUNK_BYTES)
        if (pwrite(file, zeros, OWN_CHUNK_BYTES, at) != OWN_CHUNK_BYTES)
            return errno ? -errno : -ENOSPC;
    return fdatasync(file) ? -errno : 0;
}

static bool own_fits(const uint8_t *segment, uint32_t offset)
{
    struct jb_record head;
    if (OWN_SEGMENT_BYTES - offset < sizeof(head))
        return false;
    memcpy(&head, segment + offset, sizeof(head));
    return head.size >= sizeof(head) && head.size <= JB_RECORD_MAX && head.size % 8 == 0 &&
           head.size <= OWN_SEGMENT_BYTES - offset;
}

static bool own_follows(const struct jb_record *record, uint64_t sequence, uint32_t previous)
{
    return record->sequence == sequence && record->crc == jb_record_crc(record, previous);
}

/* Whether a record newer than `sequence` and its successor stand anywhere behind `offset`. */
static bool own_goes_on(const uint8_t *segment, uint32_t offset, uint64_t sequence)
{
    for (uint32_t at = offset; at < OWN_SEGMENT_BYTES; at += 8) {
        if (!own_fits(segment, at))
            continue;
        const struct jb_record *one = (const void *)(segment + at);
        if (one->sequence <= sequence || !own_fits(segment, at + one->size))
            continue;
        const struct jb_record *next = (const void *)(segment + at + one->size);
        if (own_follows(next, one->sequence + 1, one->crc))
            return true;
    }
    return false;
}

/* The records of one segment; the place where the next one belongs is left in `own`. */
static int own_scan_segment(struct own *own, uint32_t number, uint64_t from, jb_visit visit,
                            void *arg)
{
    uint8_t *segment = mmap(NULL, OWN_SEGMENT_BYTES, PROT_READ, MAP_SHARED, own->files[number], 0);
    if (segment == MAP_FAILED)
        return -errno;
    int result = 0;
    uint32_t offset = sizeof(struct own_head);
    while (result == 0 && own_fits(segment, offset)) {
        const struct jb_record *record = (const void *)(segment + offset);
        if (!own_follows(record, own->next, own->crc))
            break;
        if (record->sequence >= from)
            result = visit(arg, record);
        own->crc = record->crc;
        own->next++;
        offset += record->size;
    }
    own->at = number;
    own->offset = offset;
    if (result == 0 && own_goes_on(segment, offset, own->next))
        result = -EBADMSG;
    (void)munmap(segment, OWN_SEGMENT_BYTES);
    return result;
}

static int own_scan(void *journal, uint64_t from, jb_visit visit, void *arg)
{
    struct own *own = journal;
    struct own_head heads[OWN_SEGMENTS];
    for (uint32_t i = 0; i < OWN_SEGMENTS; i++)
        if (pread(own->files[i], &heads[i], sizeof(heads[i]), 0) != sizeof(heads[i]))
            return -EIO;
    if (heads[0].magic != OWN_MAGIC)
        return 0;
    uint32_t older = heads[1].magic == OWN_MAGIC && heads[1].first < heads[0].first;
    uint32_t newer = older ^ 1;
    own->next = heads[older].first;
    own->crc = heads[older].crc;
    int result = own_scan_segment(own, older, from, visit, arg);
    if (result || heads[newer].magic != OWN_MAGIC)
        return result;
    if (heads[newer].first != own->next || heads[newer].crc != own->crc)
        return -EBADMSG;
    return own_scan_segment(own, newer, from, visit, arg);
}

static int own_keep(void *arg, const struct jb_record *record)
{
    memcpy(arg, record, record->size);
    return 0;
}

/* Write the last record again and sync it. If its sync failed and the process was killed then, the
 * kernel may show the record and take it for written, so that no later sync would write it. */
static int own_secure_tail(struct own *own)
{
    struct jb_record *last = (void *)own->room;
    last->size = 0;
    int result = own_scan(own, 0, own_keep, last);
    if (result || last->size == 0 || getenv("TRUST_TAIL"))
        return result;
    if (pwrite(own->files[own->at], last, last->size, own->offset - last->size) !=
        (ssize_t)last->size)
        return -EIO;
    return fdatasync(own->files[own->at]) ? -errno : 0;
}

static int own_open_files(struct own *own, const char *directory, bool reader)
{
    for (uint32_t i = 0; i < OWN_SEGMENTS; i++) {
        char path[JB_PATH_MAX];
        (void)snprintf(path, sizeof(path), "%s/segment-%u", directory, i);
        own->files[i] = open(path, (reader ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC, 0600);
        if (own->files[i] < 0)
            return -errno;
        off_t length = lseek(own->files[i], 0, SEEK_END);
        int result = length == OWN_SEGMENT_BYTES ? 0 : reader ? -EINVAL : own_zero(own->files[i]);
        if (result)
            return result;
    }
    return 0;
}

static void *own_open(const struct jb_ops *ops, const char *directory, bool reader)
{
    struct own *own = calloc(1, sizeof(*own));
    own->at = 1; /* the first append takes the next one */
    own->offset = OWN_SEGMENT_BYTES;
    own->next = 1;
    int result = own_open_files(own, directory, reader);
    if (result == 0 && !reader)
        result = own_secure_tail(own);
    if (result == 0)
        return own;
    fprintf(stderr, "%s: %s\n", ops->name, strerror(-result));
    free(own);
    return NULL;
}

static void own_set_mode(void *journal, enum jb_mode mode)
{
    ((struct own *)journal)->relaxed = mode == JB_INTERVAL;
}

/* Cut off what was begun: a length of 0 ends the segment. What it needs is written already. */
static void own_cut(struct own *own)
{
    static const uint32_t none;
    if (pwrite(own->files[own->at], &none, sizeof(none), own->offset) != sizeof(none))
        own->failed = true;
}

static int own_append(void *journal, const struct jb_record *record, uint64_t trim_below)
{
    struct own *own = journal;
    (void)trim_below; /* a segment is recycled whole */
    if (own->failed)
        return OWN_FAILED;
    uint32_t at = own->at, offset = own->offset, head_bytes = 0;
    if (OWN_SEGMENT_BYTES - offset < record->size) { /* the other segment: head and record in one */
        at ^= 1;
        offset = 0;
        head_bytes = sizeof(struct own_head);
        struct own_head head = {.magic = OWN_MAGIC, .first = record->sequence, .crc = own->crc};
        memcpy(own->room, &head, sizeof(head));
        memcpy(own->room + head_bytes, record, record->size);
    }
    const void *bytes = head_bytes ? (const void *)own->room : (const void *)record;
    uint32_t size = head_bytes + record->size;
    ssize_t written = pwrite(own->files[at], bytes, size, offset);
    if (written != (ssize_t)size) {
        int code = written < 0 ? errno : ENOSPC;
        if (head_bytes == 0)
            own_cut(own);
        return code;
    }
    if (!own->relaxed && fdatasync(own->files[at])) {
        int code = errno;
        own->failed = true;
        return code;
    }
    own->at = at;
    own->offset = offset + size;
    own->crc = record->crc;
    own->next = record->sequence + 1;
    return 0;
}

static const char *own_why(void *journal, int code)
{
    (void)journal;
    return code == OWN_FAILED ? "refused after a failed sync" : strerror(code);
}

static int own_empty(void *journal)
{
    (void)journal;
    return 0;
}

static void own_settle(void *journal)
{
    (void)journal;
}

static void own_close(void *journal)
{
    struct own *own = journal;
    for (uint32_t i = 0; i < OWN_SEGMENTS; i++)
        (void)close(own->files[i]);
    free(own);
}

const struct jb_ops jb_own_ops[1] = {
    {"own", 0, false, own_open, own_set_mode, own_append, own_why, own_empty, own_settle, own_scan,
     own_close},
};
