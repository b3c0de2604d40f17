/* fuzz_journal.c: libFuzzer target: whatever stands in a journal's files.
 *
 * Invariant, for all bytes of one or two segments:
 * - A reader ends, after at most an entry a block, and delivers consecutive numbers; every change names
 *   a coin that exists. No byte outside its buffers is touched (address sanitizer).
 * - A journal that can be opened ends where the reader ended, and takes another entry, unless its file
 *   is shorter than its first block says. A later start finds exactly that entry behind the others.
 *
 * Input: SETTINGS bytes (struct script), then the blocks of the files. A block is a size, then as many
 * bytes; the rest of it is zeros. Size 255: the next byte, over and over. An empty block with the bit
 * `split` ends the first file. Checksums may be put right, so that what stands behind them is reached.
 * Seeds: RU_SEEDS=directory build/fuzz/journal -runs=0 writes real journals. Replay:
 * build/fuzz/journal FILE. Files: a directory on tmpfs, made at the first input and used for all.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "coins/crc32c.h"
#include "coins/journal.h"
#include "coins/segment.h"
#include "native.h"

#define SETTINGS 2
#define BLOCKS 40U /* of a file */
#define FILL 255

/* What segment.c keeps to itself: offsets in a first block. */
enum head_layout {
    HEAD_CRC_AT = 12,
    HEAD_CHECKED_AT = 16,
    HEAD_PREVIOUS_AT = 56,
    HEAD_SIZE = 64,
};

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            journal_fail(__LINE__, #condition);                                                    \
    } while (0)

_Noreturn static void journal_fail(int line, const char *what)
{
    (void)fprintf(stderr, "fuzz_journal.c:%d: not true: %s\n", line, what);
    abort();
}

static const struct ru_journal_settings settings = {.store = "a fuzzed journal",
                                                    .first_bytes = 4 * RU_ENTRY_BLOCK,
                                                    .segment_bytes = 16 * RU_ENTRY_BLOCK,
                                                    .segments_max = 8};

static struct {
    struct native_directory own;
    int directory;
} host;

/* What an input means. */
struct script {
    bool checksums; /* put right */
    bool chained;   /* ... and so is the predecessor's in each entry */
    bool apart;     /* the second file is not the next segment */
    bool split;
    uint8_t from; /* the entry wanted */
};

struct file {
    uint32_t blocks;
    uint8_t bytes[BLOCKS][RU_ENTRY_BLOCK];
};

/* ---- the input ---- */

static size_t block_read(const uint8_t *input, size_t size, uint8_t *block)
{
    memset(block, 0, RU_ENTRY_BLOCK);
    if (input[0] == FILL) {
        memset(block, size > 1 ? input[1] : 0, RU_ENTRY_BLOCK);
        return size > 1 ? 2 : 1;
    }
    size_t given = input[0] < size - 1 ? input[0] : size - 1;
    memcpy(block, input + 1, given);
    return 1 + given;
}

static uint32_t files_read(const struct script *script, const uint8_t *input, size_t size,
                           struct file files[2])
{
    uint32_t which = 0;
    files[0].blocks = files[1].blocks = 0;
    while (size > 0) {
        struct file *file = &files[which];
        if (script->split && which == 0 && input[0] == 0) {
            which = 1;
            input++;
            size--;
            continue;
        }
        if (file->blocks == BLOCKS)
            break;
        size_t used = block_read(input, size, file->bytes[file->blocks++]);
        input += used;
        size -= used;
    }
    return which + 1;
}

static void put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value)); /* the fuzzer runs on x86 */
}

static void file_repair(struct file *file, bool chained)
{
    uint8_t *bytes = *file->bytes;
    uint32_t previous;
    if (file->blocks == 0)
        return;
    memcpy(&previous, bytes + HEAD_PREVIOUS_AT, sizeof(previous));
    put32(bytes + HEAD_CRC_AT,
          ru_crc32c_add(0, bytes + HEAD_CHECKED_AT, HEAD_SIZE - HEAD_CHECKED_AT));
    for (uint32_t block = 1; block < file->blocks;) {
        uint8_t *at = file->bytes[block];
        uint64_t left = (uint64_t)(file->blocks - block) * RU_ENTRY_BLOCK;
        uint64_t whole = ru_entry_claims(at, left, settings.store);
        uint32_t size;
        memcpy(&size, at + RU_ENTRY_BYTES_AT, sizeof(size));
        block += whole > 0 && whole <= left ? (uint32_t)(whole / RU_ENTRY_BLOCK) : 1;
        if (whole == 0 || whole > left)
            continue;
        if (chained)
            put32(at + RU_ENTRY_PREVIOUS_AT, previous);
        previous = ru_crc32c_add(0, at + RU_ENTRY_PREVIOUS_AT,
                                 RU_ENTRY_HEAD_SIZE - RU_ENTRY_PREVIOUS_AT + size);
        put32(at + RU_ENTRY_CRC_AT, previous);
    }
}

/* ---- the directory ---- */

static void host_open(void)
{
    host.own = native_directory_new();
    host.directory = host.own.fd;
}

static void host_clear(void)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    int count = ru_segment_list(host.directory, segments);
    for (int i = 0; i < count; i++)
        MUST(ru_segment_remove(host.directory, segments[i].index) == 0);
}

static void host_remove(void)
{
    host_clear();
    native_directory_remove(&host.own);
}

static void host_write(uint64_t index, const struct file *file)
{
    int fd = ru_segment_open(host.directory, index, O_RDWR);
    if (fd < 0) {
        char name[32];
        (void)snprintf(name, sizeof(name), "%016llx.journal", (unsigned long long)index);
        fd = openat(host.directory, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    MUST(fd >= 0);
    uint64_t size = (uint64_t)file->blocks * RU_ENTRY_BLOCK;
    MUST(ru_segment_write(fd, *file->bytes, size, 0) == 0);
    (void)close(fd);
}

/* ---- what must hold ---- */

static bool is_fault(int rc)
{
    return rc >= RU_JOURNAL_DAMAGED && rc <= RU_JOURNAL_FULL;
}

/* Read to the end. Returns the last number, or how it ended. */
static int64_t read_all(uint64_t from, uint32_t blocks, uint32_t *crc)
{
    struct ru_reader reader;
    struct ru_entry entry;
    uint64_t number = from;
    int rc = ru_reader_open(&reader, host.directory, &settings, from);
    if (rc != 0) {
        MUST(is_fault(rc));
        return rc;
    }
    for (uint32_t count = 0; (rc = ru_reader_next(&reader, &entry)) > 0; count++) {
        MUST(count < blocks && entry.number == number++);
        for (uint32_t i = 0; i < entry.count; i++)
            MUST(ru_entry_change(&entry, i).coin < RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT);
    }
    MUST(rc == 0 || is_fault(rc));
    if (rc == 0)
        rc = ru_reader_judge(&reader);
    MUST(rc == 0 || is_fault(rc));
    *crc = reader.crc;
    ru_reader_close(&reader);
    return rc == 0 ? (int64_t)number - 1 : rc;
}

/* Another entry after number `last`: found again, as the last one. */
static void append_one(struct ru_journal *journal, uint64_t last, uint32_t blocks)
{
    const struct ru_change change = {.coin = 77, .an = {1, 2, 3}, .month = 9};
    struct ru_reader reader;
    struct ru_entry entry;
    struct stat found;
    MUST(fstat(journal->fd, &found) == 0);
    bool cut = (uint64_t)found.st_size < journal->position->bytes;
    int rc = ru_journal_append(journal, 42, &change, 1);
    MUST(rc == (cut ? RU_JOURNAL_GONE : 0));
    if (cut)
        return;
    MUST(ru_journal_sync(journal) == 0);
    uint32_t crc;
    int64_t found_last = read_all(last + 1, blocks + 1, &crc);
    if (found_last != (int64_t)last + 1)
        (void)fprintf(stderr, "appended %llu, read %lld\n", (unsigned long long)last + 1,
                      (long long)found_last);
    MUST(found_last == (int64_t)last + 1);
    MUST(crc == journal->position->crc);
    MUST(ru_reader_open(&reader, host.directory, &settings, last + 1) == 0);
    MUST(ru_reader_next(&reader, &entry) == 1);
    struct ru_change again = ru_entry_change(&entry, 0);
    MUST(entry.count == 1 && entry.time_ns == 42 && again.coin == 77 && again.month == 9);
    MUST(memcmp(again.an, change.an, RU_AN_SIZE) == 0);
    MUST(ru_reader_next(&reader, &entry) == 0);
    ru_reader_close(&reader);
}

static void play(const struct script *script, uint32_t blocks)
{
    struct ru_journal journal;
    struct ru_position position = {0};
    uint64_t from = 1 + (uint64_t)script->from;
    uint32_t crc;
    int64_t last = read_all(from, blocks, &crc);
    int rc = ru_journal_open(&journal, host.directory, &settings, from, &position);
    if (last < 0) {
        MUST(rc != 0 && is_fault(rc));
        return;
    }
    if (rc != 0) { /* other segments are looked at as well; or the file ends in the entry's block */
        MUST(rc == RU_JOURNAL_FOREIGN || rc == RU_JOURNAL_NEWER || rc == RU_JOURNAL_GONE);
        return;
    }
    MUST(position.last == (uint64_t)last && position.crc == crc);
    append_one(&journal, (uint64_t)last, blocks);
    ru_journal_close(&journal);
}

/* ---- seeds ---- */

static void seed_block(FILE *out, const uint8_t *block)
{
    uint32_t size = RU_ENTRY_BLOCK;
    while (size > 0 && block[size - 1] == 0)
        size--;
    if (size >= FILL) {
        (void)fputc(FILL, out);
        (void)fputc(block[0], out);
        return;
    }
    (void)fputc((int)(size > 0 ? size : 1), out);
    (void)fwrite(block, size > 0 ? size : 1, 1, out);
}

static void seed_write(const char *directory, uint32_t number, uint8_t flags)
{
    char path[256];
    struct ru_segment segments[RU_SEGMENTS_MAX];
    (void)snprintf(path, sizeof(path), "%s/journal-%u-%u", directory, number, flags);
    FILE *out = fopen(path, "w");
    MUST(out != NULL);
    (void)fputc(flags, out);
    (void)fputc((int)(number % 3), out);
    int count = ru_segment_list(host.directory, segments);
    for (int i = 0; i < count && i < 2; i++) {
        uint8_t block[RU_ENTRY_BLOCK];
        int fd = ru_segment_open(host.directory, segments[i].index, O_RDONLY);
        if (i > 0)
            (void)fputc(0, out);
        for (uint64_t at = 0; ru_segment_bytes(fd, block, sizeof(block), at) > 0;
             at += sizeof(block))
            seed_block(out, block);
        (void)close(fd);
    }
    (void)fclose(out);
}

/* Journals of one and of two segments, with entries of zero to nine changes. */
static void seeds_write(const char *directory)
{
    for (uint32_t number = 1; number < 12; number++) {
        struct ru_journal journal;
        struct ru_position position;
        struct ru_change changes[9];
        struct ru_random random = {number};
        host_clear();
        MUST(ru_journal_create(host.directory, &settings, 1) == 0);
        MUST(ru_journal_open(&journal, host.directory, &settings, 1, &position) == 0);
        for (uint32_t i = 0; i < number; i++) {
            ru_random_fill(&random, (uint8_t *)changes, sizeof(changes));
            for (uint32_t j = 0; j < 9; j++)
                changes[j].coin %= RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT;
            MUST(ru_journal_append(&journal, i, changes, native_below(&random, 10)) == 0);
            if (number % 2)
                MUST(ru_journal_sync(&journal) == 0);
        }
        ru_journal_close(&journal);
        for (uint8_t flags = 8; flags < 12; flags++)
            seed_write(directory, number, flags);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *seeds = getenv("RU_SEEDS");
    (void)argc;
    (void)argv;
    host_open();
    (void)atexit(host_remove);
    if (seeds)
        seeds_write(seeds);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static struct file files[2];
    if (size <= SETTINGS)
        return 0;
    const struct script script = {.checksums = input[0] & 1,
                                  .chained = input[0] & 2,
                                  .apart = input[0] & 4,
                                  .split = input[0] & 8,
                                  .from = input[1]};
    host_clear();
    uint32_t count = files_read(&script, input + SETTINGS, size - SETTINGS, files);
    for (uint32_t i = 0; i < count; i++) {
        if (script.checksums)
            file_repair(&files[i], script.chained);
        host_write(i == 0 ? 1 : script.apart ? 3 : 2, &files[i]);
    }
    play(&script, files[0].blocks + files[1].blocks);
    return 0;
}
