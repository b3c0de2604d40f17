/* disk_rig.h: files under test on a disk that fails, and that loses power.
 *
 * The linker replaces the system calls below by these (Makefile, DISK_LINK); the files are real ones.
 * disk_fail_at() lets one call fail. Beside each file stands what the disk has of it: blocks that were
 * written and then flushed; a flush that fails leaves blocks that are neither dirty nor on the disk,
 * as Linux does. Names are on the disk once their directory was flushed. disk_cut() makes a directory
 * of what a power cut leaves: all that was flushed, and any part of the rest.
 */
#ifndef RU_TESTS_DISK_RIG_H
#define RU_TESTS_DISK_RIG_H

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "native.h"

#define DISK_BLOCK 4096U
#define DISK_BLOCKS 64U /* of a file */
#define DISK_FILES 256U /* between two calls of disk_open() */
#define DISK_NAMES 64U

struct disk_file {
    ino_t number;  /* 0: it has no name any more */
    uint64_t size; /* on the disk */
    bool dirty[DISK_BLOCKS];
    uint8_t blocks[DISK_BLOCKS][DISK_BLOCK]; /* on the disk */
};

struct disk_name {
    char text[64];
    uint32_t file;
};

static struct {
    bool watching; /* calls are those of the code under test, in `directory` */
    int directory;
    uint64_t calls; /* since disk_fail_at() */
    uint64_t fail_at;
    int fail_errno;         /* 0: a write ends early */
    bool failed;            /* it has happened */
    void (*flushing)(void); /* called before each flush of a file */
    struct disk_file *files;
    uint32_t file_count;
    struct disk_name names[DISK_NAMES]; /* on the disk */
    uint32_t name_count;
} disk;

/* The rig itself has failed. */
_Noreturn static void disk_broken(int line)
{
    (void)fprintf(stderr, "disk_rig.h:%d: errno %d\n", line, errno);
    abort();
}

int __real_openat(int directory, const char *path, int flags, ...);
ssize_t __real_pwrite(int fd, const void *bytes, size_t size, off_t at);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags);
int __real_unlinkat(int directory, const char *path, int flags);
int __real_fallocate(int fd, int mode, off_t at, off_t size);

/* ---- what the disk has ---- */

static struct disk_file *disk_file(ino_t number)
{
    for (uint32_t i = 0; i < disk.file_count; i++)
        if (disk.files[i].number == number)
            return &disk.files[i];
    if (disk.file_count == DISK_FILES)
        disk_broken(__LINE__);
    struct disk_file *file = &disk.files[disk.file_count++];
    memset(file, 0, sizeof(*file));
    file->number = number;
    return file;
}

static struct disk_file *disk_file_of(int fd)
{
    struct stat found;
    if (fstat(fd, &found) != 0)
        disk_broken(__LINE__);
    return disk_file(found.st_ino);
}

static bool disk_is_directory(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISDIR(found.st_mode);
}

static void disk_flush(int fd)
{
    struct disk_file *file = disk_file_of(fd);
    struct stat found;
    if (fstat(fd, &found) != 0 || found.st_size > DISK_BLOCKS * DISK_BLOCK)
        disk_broken(__LINE__);
    char path[32]; /* `fd` may be for writing only */
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int readable = __real_openat(AT_FDCWD, path, O_RDONLY);
    for (uint32_t i = 0; i < DISK_BLOCKS; i++) {
        if (file->dirty[i] &&
            pread(readable, file->blocks[i], DISK_BLOCK, (off_t)i * DISK_BLOCK) < 0)
            disk_broken(__LINE__);
        file->dirty[i] = false;
    }
    (void)close(readable);
    file->size = (uint64_t)found.st_size;
}

/* The names that the directory has now. */
static uint32_t disk_list(struct disk_name *names)
{
    uint32_t count = 0;
    int fd = __real_openat(disk.directory, ".", O_RDONLY | O_DIRECTORY);
    DIR *entries = fdopendir(fd);
    const struct dirent *entry;
    if (!entries)
        disk_broken(__LINE__);
    while ((entry = readdir(entries)) != NULL) {
        struct stat found;
        if (entry->d_name[0] == '.' ||
            fstatat(disk.directory, entry->d_name, &found, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (count == DISK_NAMES)
            disk_broken(__LINE__);
        (void)snprintf(names[count].text, sizeof(names[count].text), "%.63s", entry->d_name);
        names[count++].file = (uint32_t)(disk_file(found.st_ino) - disk.files);
    }
    (void)closedir(entries);
    return count;
}

/* Everything in the directory is on the disk, and no call fails. */
static void disk_open(int directory)
{
    if (!disk.files)
        disk.files = calloc(DISK_FILES, sizeof(*disk.files));
    disk.file_count = 0;
    disk.directory = directory;
    disk.fail_at = 0;
    disk.flushing = NULL;
    disk.watching = true;
    disk.name_count = disk_list(disk.names);
    for (uint32_t i = 0; i < disk.name_count; i++) {
        int fd = __real_openat(directory, disk.names[i].text, O_RDONLY);
        memset(disk_file_of(fd)->dirty, true, DISK_BLOCKS);
        disk_flush(fd);
        (void)close(fd);
    }
}

static void disk_close(void)
{
    disk.watching = false; /* the table is kept for the next one */
}

/* Let call number `call` from now on fail, once; 0: none. error 0: end a write early. */
static void disk_fail_at(uint64_t call, int error)
{
    disk.calls = 0;
    disk.fail_at = call;
    disk.fail_errno = error;
    disk.failed = false;
}

/* In `target`, an empty directory: what the disk has after a power cut now. */
static void disk_cut(int target, struct ru_random *random)
{
    struct disk_name now[DISK_NAMES];
    uint32_t now_count = disk_list(now);
    bool renamed = native_below(random, 2) == 0; /* the file system has written the names, too */
    const struct disk_name *names = renamed ? now : disk.names;
    uint32_t count = renamed ? now_count : disk.name_count;
    for (uint32_t i = 0; i < count; i++) {
        struct disk_file *file = &disk.files[names[i].file];
        int source = -1; /* the file as this machine's memory has it */
        for (uint32_t j = 0; j < now_count && source < 0; j++)
            if (now[j].file == names[i].file)
                source = __real_openat(disk.directory, now[j].text, O_RDONLY);
        int fd = __real_openat(target, names[i].text, O_RDWR | O_CREAT | O_EXCL, 0600);
        struct stat found = {.st_size = (off_t)file->size};
        if (source >= 0 && native_below(random, 2) == 0)
            (void)fstat(source, &found);
        if (ftruncate(fd, found.st_size) != 0)
            disk_broken(__LINE__);
        for (uint32_t block = 0; (off_t)block * DISK_BLOCK < found.st_size; block++) {
            uint8_t bytes[DISK_BLOCK];
            memcpy(bytes, file->blocks[block], DISK_BLOCK);
            if (source >= 0 && file->dirty[block] && native_below(random, 2) == 0 &&
                pread(source, bytes, DISK_BLOCK, (off_t)block * DISK_BLOCK) < 0)
                disk_broken(__LINE__);
            if (__real_pwrite(fd, bytes, DISK_BLOCK, (off_t)block * DISK_BLOCK) < 0)
                disk_broken(__LINE__);
        }
        (void)close(fd);
        if (source >= 0)
            (void)close(source);
    }
}

/* ---- calls ---- */

static bool disk_fails(void)
{
    if (!disk.watching || disk.fail_at == 0 || ++disk.calls != disk.fail_at)
        return false;
    disk.failed = true;
    errno = disk.fail_errno;
    return true;
}

int __wrap_openat(int directory, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (disk_fails())
        return disk.fail_errno ? -1 : __real_openat(directory, path, flags, mode);
    int fd = __real_openat(directory, path, flags, mode);
    if (fd >= 0 && disk.watching && flags & O_EXCL) { /* the number may have been another file's */
        struct disk_file *file = disk_file_of(fd);
        ino_t number = file->number;
        file->number = 0;
        (void)disk_file(number);
    }
    return fd;
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    if (disk_fails()) {
        if (disk.fail_errno)
            return -1;
        size = (size + 1) / 2;
    }
    ssize_t written = __real_pwrite(fd, bytes, size, at);
    if (written > 0 && disk.watching)
        for (off_t block = at / DISK_BLOCK; block * DISK_BLOCK < at + written; block++)
            disk_file_of(fd)->dirty[block] = true;
    return written;
}

static int disk_sync(int fd)
{
    if (disk_is_directory(fd)) {
        if (disk_fails() && disk.fail_errno)
            return -1;
        disk.name_count = disk_list(disk.names);
        return 0;
    }
    if (disk.flushing)
        disk.flushing();
    if (disk_fails() && disk.fail_errno) {
        if (disk.fail_errno != EINTR)
            memset(disk_file_of(fd)->dirty, false, DISK_BLOCKS);
        return -1;
    }
    disk_flush(fd);
    return 0;
}

int __wrap_fsync(int fd)
{
    return disk.watching ? disk_sync(fd) : __real_fsync(fd);
}

int __wrap_fdatasync(int fd)
{
    return disk.watching ? disk_sync(fd) : __real_fdatasync(fd);
}

int __wrap_renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    if (disk_fails() && disk.fail_errno)
        return -1;
    return __real_renameat2(from_at, from, to_at, to, flags);
}

int __wrap_unlinkat(int directory, const char *path, int flags)
{
    if (disk_fails() && disk.fail_errno)
        return -1;
    return __real_unlinkat(directory, path, flags);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t size)
{
    if (disk_fails() && disk.fail_errno)
        return -1;
    return __real_fallocate(fd, mode, at, size);
}

#endif
