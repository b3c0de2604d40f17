/* segment.c: the files of a journal. */
#include "coins/segment.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "coins/crc32c.h"
#include "number.h"

#define SEGMENT_MAGIC 0x6c616e72756f6a72ULL /* "rjournal" */
#define SEGMENT_VERSION 1U
#define SEGMENT_SUFFIX ".journal"
#define SEGMENT_DIGITS 16
#define SEGMENT_UNFINISHED "unfinished-" /* and a random number */
#define SEGMENT_ZEROS (1U << 20)
#define SEGMENT_NUMBERS (1ULL << 62) /* indices and entries are below: none overflows */

/* The first block: host order is converted field by field. */
struct segment_block {
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of all that follows */
    uint8_t store[RU_STORE_ID_SIZE];
    uint64_t index;
    uint64_t first;
    uint64_t bytes;
    uint32_t previous;
    uint32_t zero;
};

_Static_assert(sizeof(struct segment_block) == 64, "no holes: it goes to the disk");

struct segment_name {
    char text[SEGMENT_DIGITS + sizeof(SEGMENT_SUFFIX)];
};

static struct segment_name segment_name(uint64_t index)
{
    struct segment_name name;
    int size = snprintf(name.text, sizeof(name.text), "%016" PRIx64 SEGMENT_SUFFIX, index);
    RU_CHECK(size == (int)sizeof(name.text) - 1);
    return name;
}

static int result(int rc)
{
    return rc < 0 ? -errno : rc;
}

/* ---- the directory ---- */

/* The number in a segment's name; false: another file. */
static bool name_parse(const char *text, uint64_t *index)
{
    if (strlen(text) != SEGMENT_DIGITS + sizeof(SEGMENT_SUFFIX) - 1)
        return false;
    char *end;
    *index = strtoull(text, &end, 16);
    return *index > 0 && *index < SEGMENT_NUMBERS && strcmp(text, segment_name(*index).text) == 0;
}

static int segment_order(const void *one, const void *other)
{
    uint64_t a = ((const struct ru_segment *)one)->index;
    uint64_t b = ((const struct ru_segment *)other)->index;
    return (a > b) - (a < b);
}

static int directory_open(int directory, DIR **entries)
{
    int fd = TEMP_FAILURE_RETRY(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0)
        return -errno;
    *entries = fdopendir(fd);
    if (*entries)
        return 0;
    int rc = -errno;
    (void)close(fd);
    return rc;
}

int ru_segment_list(int directory, struct ru_segment *segments)
{
    DIR *entries = NULL;
    int count = directory_open(directory, &entries);
    if (!entries)
        return count;
    const struct dirent *entry;
    /* Only readdir() may leave an errno: parsing another file's name sets it, too. */
    while (count >= 0 && (errno = 0, entry = readdir(entries)) != NULL) {
        uint64_t index;
        if (!name_parse(entry->d_name, &index))
            continue;
        if (count < RU_SEGMENTS_MAX)
            segments[count++] = (struct ru_segment){.index = index};
        else
            count = -E2BIG;
    }
    if (count >= 0 && errno != 0)
        count = -errno;
    (void)closedir(entries);
    if (count > 0)
        qsort(segments, (size_t)count, sizeof(*segments), segment_order);
    return count;
}

int ru_segment_clean(int directory)
{
    DIR *entries = NULL;
    int rc = directory_open(directory, &entries);
    if (!entries)
        return rc;
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, SEGMENT_UNFINISHED, sizeof(SEGMENT_UNFINISHED) - 1) == 0)
            (void)unlinkat(directory, entry->d_name, 0);
    (void)closedir(entries);
    return 0;
}

int ru_segment_open(int directory, uint64_t index, int flags)
{
    return result(TEMP_FAILURE_RETRY(
        openat(directory, segment_name(index).text, flags | O_CLOEXEC | O_NOFOLLOW)));
}

int ru_segment_sync_names(int directory)
{
    return result(TEMP_FAILURE_RETRY(fsync(directory)));
}

bool ru_segment_is_open(int directory, uint64_t index, int fd)
{
    struct stat named, open;
    return fstatat(directory, segment_name(index).text, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstat(fd, &open) == 0 && named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

bool ru_segment_is_lost(int directory, uint64_t index, uint64_t bytes)
{
    struct stat found;
    if (fstatat(directory, segment_name(index).text, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT; /* other errors say nothing about the file */
    return (uint64_t)found.st_size < bytes;
}

/* Never over a segment that another process has made meanwhile. */
static int segment_rename(int directory, const char *from, uint64_t index)
{
    return result(TEMP_FAILURE_RETRY(
        renameat2(directory, from, directory, segment_name(index).text, RENAME_NOREPLACE)));
}

/* ---- bytes ---- */

int64_t ru_segment_bytes(int fd, uint8_t *out, uint64_t size, uint64_t at)
{
    uint64_t have = 0;
    while (have < size) {
        ssize_t got = TEMP_FAILURE_RETRY(pread(fd, out + have, size - have, (off_t)(at + have)));
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        have += (uint64_t)got;
    }
    return (int64_t)have;
}

int ru_segment_write(int fd, const uint8_t *bytes, uint64_t size, uint64_t at)
{
    while (size > 0) {
        ssize_t written = TEMP_FAILURE_RETRY(pwrite(fd, bytes, size, (off_t)at));
        if (written <= 0)
            return written < 0 ? -errno : -ENOSPC;
        bytes += written;
        size -= (uint64_t)written;
        at += (uint64_t)written;
    }
    return 0;
}

/* ---- creating and removing ---- */

/* Written, not only allocated: the first write to an allocated block changes the file's metadata, and
 * a flush then costs half as much again. */
static int write_zeros(int fd, uint64_t bytes)
{
    uint8_t *zeros = calloc(1, SEGMENT_ZEROS);
    if (!zeros)
        return -ENOMEM;
    int rc = 0;
    for (uint64_t at = 0; at < bytes && rc == 0; at += SEGMENT_ZEROS)
        rc = ru_segment_write(fd, zeros, ru_number_min64(bytes - at, SEGMENT_ZEROS), at);
    free(zeros);
    return rc == 0 ? result(TEMP_FAILURE_RETRY(fsync(fd))) : rc;
}

/* What root creates belongs to the store's owner, who could not write it later otherwise. */
static void segment_give(int directory, int fd)
{
    struct stat owner;
    if (fstat(directory, &owner) == 0 && owner.st_uid != geteuid())
        (void)!fchown(fd, owner.st_uid, owner.st_gid); /* fails unless root, which alone needs it */
}

int ru_segment_create(int directory, uint64_t index, uint64_t bytes)
{
    uint64_t random;
    char name[sizeof(SEGMENT_UNFINISHED) + SEGMENT_DIGITS];
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return -errno;
    (void)snprintf(name, sizeof(name), SEGMENT_UNFINISHED "%016" PRIx64, random);
    int fd =
        TEMP_FAILURE_RETRY(openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (fd < 0)
        return -errno;
    segment_give(directory, fd);
    int rc = write_zeros(fd, bytes);
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0)
        rc = segment_rename(directory, name, index);
    if (rc == 0)
        return ru_segment_sync_names(directory);
    (void)unlinkat(directory, name, 0); /* give the space back */
    return rc;
}

int ru_segment_reuse(int directory, uint64_t old, uint64_t index)
{
    static const uint8_t zeros[RU_ENTRY_BLOCK];
    int fd = ru_segment_open(directory, old, O_RDWR);
    if (fd < 0)
        return fd;
    /* A reader holds a shared lock; what it reads must not change under it. */
    int rc = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno == EWOULDBLOCK ? -EBUSY : -errno;
    /* No flush: names are flushed before a segment is taken into use, and its first block with its
     * first entry. Until then either name will do, since an old first block says another number. */
    if (rc == 0)
        rc = ru_segment_write(fd, zeros, sizeof(zeros), 0);
    if (rc == 0)
        rc = segment_rename(directory, segment_name(old).text, index);
    (void)close(fd);
    return rc;
}

int ru_segment_remove(int directory, uint64_t index)
{
    return result(TEMP_FAILURE_RETRY(unlinkat(directory, segment_name(index).text, 0)));
}

/* ---- the first block ---- */

static uint32_t block_crc(const struct segment_block *block)
{
    return ru_crc32c_add(0, block->store, sizeof(*block) - offsetof(struct segment_block, store));
}

int ru_segment_describe(int fd, const uint8_t *store, const struct ru_segment_head *head)
{
    struct segment_block block = {
        .magic = htole64(SEGMENT_MAGIC),
        .version = htole32(SEGMENT_VERSION),
        .index = htole64(head->segment.index),
        .first = htole64(head->segment.first),
        .bytes = htole64(head->segment.bytes),
        .previous = htole32(head->crc),
    };
    RU_CHECK(head->segment.first > 0);
    memcpy(block.store, store, RU_STORE_ID_SIZE);
    block.crc = htole32(block_crc(&block));
    return ru_segment_write(fd, (const uint8_t *)&block, sizeof(block), 0);
}

/* Read a segment's first block, whosever it is. -ENODATA, RU_JOURNAL_NEWER. */
static int block_read(int fd, struct segment_block *block)
{
    int64_t size = ru_segment_bytes(fd, (uint8_t *)block, sizeof(*block), 0);
    if (size < 0)
        return (int)size;
    if (size != (int64_t)sizeof(*block) || le64toh(block->magic) != SEGMENT_MAGIC)
        return -ENODATA;
    if (le32toh(block->version) > SEGMENT_VERSION)
        return RU_JOURNAL_NEWER;
    return le32toh(block->crc) == block_crc(block) ? 0 : -ENODATA;
}

/* Whether any byte behind the first block is not 0: 1, 0, or -errno. */
static int segment_has_bytes(int fd)
{
    uint8_t *chunk = malloc(SEGMENT_ZEROS);
    if (!chunk)
        return -ENOMEM;
    int64_t size;
    bool found = false;
    uint64_t at = RU_ENTRY_BLOCK;
    while ((size = ru_segment_bytes(fd, chunk, SEGMENT_ZEROS, at)) > 0 && !found) {
        found = chunk[0] != 0 || memcmp(chunk, chunk + 1, (size_t)size - 1) != 0;
        at += (uint64_t)size;
    }
    free(chunk);
    return size < 0 ? (int)size : found;
}

int ru_segment_holds(int fd)
{
    struct segment_block block;
    int rc = block_read(fd, &block);
    if (rc == RU_JOURNAL_NEWER || (rc == 0 && le64toh(block.index) > 1)) /* entries came before */
        return 1;
    return rc == 0 || rc == -ENODATA ? segment_has_bytes(fd) : rc;
}

int ru_segment_read(int fd, const uint8_t *store, struct ru_segment_head *head)
{
    struct segment_block block;
    int rc = block_read(fd, &block);
    if (rc != 0)
        return rc;
    if (memcmp(block.store, store, RU_STORE_ID_SIZE) != 0)
        return RU_JOURNAL_FOREIGN;
    *head = (struct ru_segment_head){
        .segment = {.index = le64toh(block.index),
                    .first = le64toh(block.first),
                    .bytes = le64toh(block.bytes)},
        .crc = le32toh(block.previous),
    };
    const struct ru_segment *segment = &head->segment;
    bool sane = segment->index > 0 && segment->index < SEGMENT_NUMBERS && segment->first > 0 &&
                segment->first < SEGMENT_NUMBERS && segment->bytes >= RU_ENTRY_BLOCK &&
                segment->bytes % RU_ENTRY_BLOCK == 0 && segment->bytes < SEGMENT_NUMBERS;
    return sane ? 0 : -ENODATA;
}

int ru_segment_abandon(int directory, const uint8_t *store)
{
    struct ru_segment segments[RU_SEGMENTS_MAX] = {0};
    int count = ru_segment_list(directory, segments);
    int rc = count < 0 ? count : 0;
    for (int i = 0; i < count && rc == 0; i++) {
        struct ru_segment_head head;
        int fd = ru_segment_open(directory, segments[i].index, O_RDONLY);
        if (fd < 0)
            return fd;
        rc = ru_segment_read(fd, store, &head);
        if (rc == RU_JOURNAL_FOREIGN && ru_segment_holds(fd) == 0)
            rc = 0;
        (void)close(fd);
        if (rc == 0 || rc == -ENODATA)
            rc = ru_segment_remove(directory, segments[i].index);
    }
    return rc == 0 ? ru_segment_sync_names(directory) : rc;
}
