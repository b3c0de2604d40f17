/* memory.c: every coin's AN and month in shared memory, read without a lock.
 *
 * Why no fence: data words are stored with release and loaded with acquire, which costs nothing on
 * x86. A thread that has loaded a word of batch n finds n in the page's number and in `started`
 * afterwards, because the writer stored both first.
 */
#include "coins/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "coins/tickets.h"
#include "number.h"

#define MEMORY_MAGIC 0x736e696f63756172ULL /* "raucoins", little-endian */
#define MEMORY_VERSION 1
#define MEMORY_RESERVED 0x80 /* in a page's state: the kernel has set memory aside */
#define MEMORY_CHUNK 64U     /* coins located, then prefetched, then read */

#define AN_WORDS (RU_AN_SIZE / sizeof(uint64_t))
#define PAGE_AN_WORDS (RU_PAGE_RECORDS_COUNT * AN_WORDS)
#define PAGE_BIT_WORDS (RU_PAGE_RECORDS_COUNT / 64)
#define KERNEL_PAGE 4096ULL
#define ROUNDED(bytes) (((bytes) + KERNEL_PAGE - 1) / KERNEL_PAGE * KERNEL_PAGE)

#define MEMORY_RECORDS ((uint64_t)RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT)

/* Where the parts stand in the memfd; the first four and TICKETS are reserved at once. */
enum {
    HEAD_AT = 0,
    NUMBERS_AT = HEAD_AT + KERNEL_PAGE,
    STATES_AT = NUMBERS_AT + ROUNDED(RU_STORE_PAGES * sizeof(uint64_t)),
    WRITTEN_AT = STATES_AT + ROUNDED(RU_STORE_PAGES),
    MONTHS_AT = WRITTEN_AT + ROUNDED(MEMORY_RECORDS / 64 * sizeof(uint64_t)),
    ANS_AT = MONTHS_AT + ROUNDED(MEMORY_RECORDS),
    TICKETS_AT = ANS_AT + MEMORY_RECORDS * RU_AN_SIZE,
    TICKET_LISTS_AT = TICKETS_AT + ROUNDED(sizeof(struct ru_ticket_slots)),
    MEMORY_SIZE = TICKET_LISTS_AT + RU_TICKETS_MAX * sizeof(struct ru_ticket_list),
};

_Static_assert(sizeof(struct ru_memory_head) <= KERNEL_PAGE, "head");
_Static_assert((uint64_t)RU_PAGE_RECORDS_COUNT *RU_AN_SIZE % KERNEL_PAGE == 0,
               "a page's ANs are its own");
_Static_assert(RU_PAGE_RECORDS_COUNT % 64 == 0, "bits");

/* ---- create, attach, detach ---- */

static int memory_map(struct ru_memory *memory, int fd)
{
    uint8_t *at = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return errno > 0 ? -errno : -ENOMEM;
    (void)madvise(at, MEMORY_SIZE, MADV_DONTDUMP); /* ANs stay out of core files */
    *memory = (struct ru_memory){
        .fd = fd,
        .head = (struct ru_memory_head *)(void *)(at + HEAD_AT),
        .numbers = (uint64_t *)(void *)(at + NUMBERS_AT),
        .states = at + STATES_AT,
        .written = (uint64_t *)(void *)(at + WRITTEN_AT),
        .months = at + MONTHS_AT,
        .ans = (uint64_t *)(void *)(at + ANS_AT),
        .tickets = (struct ru_ticket_slots *)(void *)(at + TICKETS_AT),
        .ticket_lists = (struct ru_ticket_list *)(void *)(at + TICKET_LISTS_AT),
    };
    return 0;
}

/* Without memory for it the first write would be a SIGBUS. */
static int memory_set_aside(int fd, uint64_t at, uint64_t bytes)
{
    int rc;
    do {
        rc = fallocate(fd, 0, (off_t)at, (off_t)bytes);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

int ru_memory_set_aside(const struct ru_memory *memory, const void *at, uint64_t bytes)
{
    const uint64_t offset = (uint64_t)((const uint8_t *)at - (const uint8_t *)memory->head);
    RU_CHECK(offset < MEMORY_SIZE && bytes <= MEMORY_SIZE - offset);
    return memory_set_aside(memory->fd, offset, bytes);
}

int ru_memory_create(struct ru_memory *memory, const struct ru_defaults *seed)
{
    int fd = memfd_create("raida-coins", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int rc = ftruncate(fd, MEMORY_SIZE) == 0 ? 0 : -errno;
    if (rc == 0) /* nobody can cut it, which would be a SIGBUS for everybody else */
        rc = fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 ? 0 : -errno;
    if (rc == 0)
        rc = memory_set_aside(fd, HEAD_AT, MONTHS_AT);
    if (rc == 0)
        rc = memory_set_aside(fd, TICKETS_AT, sizeof(struct ru_ticket_slots));
    if (rc == 0)
        rc = memory_map(memory, fd);
    if (rc != 0) {
        (void)close(fd);
        return rc;
    }
    *memory->head = (struct ru_memory_head){
        .magic = MEMORY_MAGIC,
        .version = MEMORY_VERSION,
        .head_bytes = sizeof(*memory->head),
        .size_bytes = MEMORY_SIZE,
        .seed = *seed,
    };
    return 0;
}

int ru_memory_attach(struct ru_memory *memory, int fd)
{
    struct stat stat;
    if (fstat(fd, &stat) != 0)
        return -errno;
    if (stat.st_size != MEMORY_SIZE)
        return -EPROTO;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPROTO;
    struct ru_memory mapped = {.fd = -1};
    int rc = memory_map(&mapped, fd);
    if (rc != 0)
        return rc;
    const struct ru_memory_head *head = mapped.head;
    RU_CHECK(head != NULL);
    if (head->magic != MEMORY_MAGIC || head->version != MEMORY_VERSION ||
        head->head_bytes != sizeof(*head) || head->size_bytes != MEMORY_SIZE) {
        (void)munmap(mapped.head, MEMORY_SIZE);
        return -EPROTO;
    }
    *memory = mapped;
    return 0;
}

void ru_memory_detach(struct ru_memory *memory)
{
    if (!memory->head)
        return;
    RU_CHECK(memory->head->magic == MEMORY_MAGIC);
    (void)munmap(memory->head, MEMORY_SIZE);
    (void)close(memory->fd);
    *memory = (struct ru_memory){.fd = -1};
}

/* ---- words that readers and the writer share ---- */

static uint64_t word_load(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void word_store(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

enum ru_page_state ru_memory_state(const struct ru_memory *memory, uint32_t page)
{
    return __atomic_load_n(&memory->states[page], __ATOMIC_ACQUIRE) & ~MEMORY_RESERVED;
}

static bool record_is_written(const struct ru_memory *memory, uint32_t index)
{
    return word_load(&memory->written[index / 64]) >> index % 64 & 1;
}

static void record_an(const struct ru_memory *memory, uint32_t index, uint64_t an[AN_WORDS])
{
    const uint64_t *at = &memory->ans[(size_t)index * AN_WORDS];
    for (uint32_t i = 0; i < AN_WORDS; i++)
        an[i] = word_load(&at[i]);
}

static uint8_t record_month(const struct ru_memory *memory, uint32_t index)
{
    return __atomic_load_n(&memory->months[index], __ATOMIC_ACQUIRE);
}

/* ---- one state ---- */

/* The number of the newest visible batch; what is read now and passes one of the two checks below
 * is the state after it. */
static uint64_t memory_state(const struct ru_memory *memory)
{
    return word_load(&memory->head->applied);
}

static bool memory_is_still(const struct ru_memory *memory, uint64_t state)
{
    return word_load(&memory->head->started) == state;
}

/* Whether no page that `coins` name was changed after `state`. */
static bool memory_holds(const struct ru_memory *memory, uint64_t state, struct ru_coin_list coins)
{
    if (memory_is_still(memory, state))
        return true;
    for (uint32_t i = 0; i < coins.count; i++) {
        uint32_t coin = ru_coin_number(coins.at + (size_t)i * coins.stride);
        if (coin != RU_NONE && word_load(&memory->numbers[coin / RU_PAGE_RECORDS_COUNT]) > state)
            return false;
    }
    return true;
}

static void memory_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* ---- reading coins ---- */

/* A record as it was read. */
struct memory_copy {
    uint64_t an[AN_WORDS];
    uint8_t month;
};

/* Read up to MEMORY_CHUNK coins. Three passes, so that the processor waits for many cache lines at a
 * time, and default records are computed four at once. */
static void chunk_read(const struct ru_memory *memory, struct ru_coin_list coins, bool months,
                       struct memory_copy *copies, uint8_t *states)
{
    uint32_t numbers[MEMORY_CHUNK];
    uint32_t blank[MEMORY_CHUNK]; /* records never written */
    uint8_t blank_at[MEMORY_CHUNK];
    uint32_t blank_count = 0;
    RU_CHECK(coins.count <= MEMORY_CHUNK);
    for (uint32_t i = 0; i < coins.count; i++) {
        numbers[i] = ru_coin_number(coins.at + (size_t)i * coins.stride);
        if (numbers[i] == RU_NONE)
            continue;
        __builtin_prefetch(&memory->written[numbers[i] / 64]);
        __builtin_prefetch(&memory->ans[(size_t)numbers[i] * AN_WORDS]); /* allocates nothing */
    }
    for (uint32_t i = 0; i < coins.count; i++) {
        uint32_t coin = numbers[i];
        states[i] = RU_COIN_EQUAL;
        if (coin != RU_NONE && record_is_written(memory, coin)) {
            record_an(memory, coin, copies[i].an);
            if (months)
                copies[i].month = record_month(memory, coin);
        } else if (coin == RU_NONE ||
                   ru_memory_state(memory, coin / RU_PAGE_RECORDS_COUNT) == RU_PAGE_UNREADABLE) {
            states[i] = RU_COIN_UNREADABLE;
        } else {
            blank[blank_count] = coin;
            blank_at[blank_count++] = (uint8_t)i;
        }
    }
    if (blank_count == 0)
        return;
    uint8_t records[MEMORY_CHUNK][RU_PAGE_RECORD_SIZE];
    ru_defaults_records(&memory->head->seed, blank, blank_count, records[0]);
    for (uint32_t i = 0; i < blank_count; i++) {
        memcpy(copies[blank_at[i]].an, records[i], RU_AN_SIZE);
        copies[blank_at[i]].month = records[i][RU_AN_SIZE];
    }
}

static struct ru_coin_list list_part(struct ru_coin_list coins, uint32_t first)
{
    return (struct ru_coin_list){
        .at = coins.at + (size_t)first * coins.stride,
        .count = ru_number_min32(coins.count - first, MEMORY_CHUNK),
        .stride = coins.stride,
    };
}

static int match_once(const struct ru_memory *memory, struct ru_coin_list coins, uint32_t an_at,
                      uint8_t *states)
{
    struct memory_copy copies[MEMORY_CHUNK];
    int equal = 0;
    for (uint32_t first = 0; first < coins.count; first += MEMORY_CHUNK) {
        struct ru_coin_list part = list_part(coins, first);
        uint8_t *found = states + first;
        chunk_read(memory, part, false, copies, found);
        for (uint32_t i = 0; i < part.count; i++) {
            if (found[i] == RU_COIN_UNREADABLE)
                continue;
            uint64_t given[AN_WORDS];
            memcpy(given, part.at + (size_t)i * part.stride + an_at, sizeof(given));
            bool same = ((copies[i].an[0] ^ given[0]) | (copies[i].an[1] ^ given[1])) == 0;
            found[i] = same ? RU_COIN_EQUAL : RU_COIN_DIFFERS;
            equal += same;
        }
    }
    return equal;
}

int ru_memory_match(const struct ru_memory *memory, struct ru_coin_list coins, uint32_t an_at,
                    uint8_t *states)
{
    for (uint32_t tries = 0; tries < RU_MEMORY_TRIES; tries++) {
        uint64_t state = memory_state(memory);
        int equal = match_once(memory, coins, an_at, states);
        if (memory_holds(memory, state, coins))
            return equal;
        memory_pause();
    }
    return -EAGAIN;
}

static int gather_once(const struct ru_memory *memory, struct ru_coin_list coins, uint8_t *records,
                       uint8_t *states)
{
    struct memory_copy copies[MEMORY_CHUNK];
    int readable = 0;
    for (uint32_t first = 0; first < coins.count; first += MEMORY_CHUNK) {
        struct ru_coin_list part = list_part(coins, first);
        chunk_read(memory, part, true, copies, states + first);
        for (uint32_t i = 0; i < part.count; i++, records += RU_PAGE_RECORD_SIZE) {
            memset(records, 0, RU_PAGE_RECORD_SIZE);
            if (states[first + i] == RU_COIN_UNREADABLE)
                continue;
            memcpy(records, copies[i].an, RU_AN_SIZE);
            records[RU_AN_SIZE] = copies[i].month;
            readable++;
        }
    }
    return readable;
}

int ru_memory_gather(const struct ru_memory *memory, struct ru_coin_list coins, uint8_t *records,
                     uint8_t *states)
{
    for (uint32_t tries = 0; tries < RU_MEMORY_TRIES; tries++) {
        uint64_t state = memory_state(memory);
        int readable = gather_once(memory, coins, records, states);
        if (memory_holds(memory, state, coins))
            return readable;
        memory_pause();
    }
    return -EAGAIN;
}

/* ---- reading pages ---- */

/* Whether every record of a page was written: none becomes unwritten again. */
static bool page_is_full(const struct ru_memory *memory, uint32_t page)
{
    uint64_t bits = UINT64_MAX;
    for (uint32_t i = 0; i < PAGE_BIT_WORDS; i++)
        bits &= word_load(&memory->written[page * PAGE_BIT_WORDS + i]);
    return bits == UINT64_MAX;
}

/* Copy those records of a page that were written. */
static void page_copy(const struct ru_memory *memory, uint32_t page, uint8_t *bytes)
{
    uint32_t first = page * RU_PAGE_RECORDS_COUNT;
    for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++, bytes += RU_PAGE_RECORD_SIZE) {
        if (!record_is_written(memory, first + i))
            continue;
        uint64_t an[AN_WORDS];
        record_an(memory, first + i, an);
        memcpy(bytes, an, sizeof(an));
        bytes[RU_AN_SIZE] = record_month(memory, first + i);
    }
}

int ru_memory_page(const struct ru_memory *memory, uint32_t page, uint8_t *bytes, uint64_t *number)
{
    RU_CHECK(page < RU_STORE_PAGES);
    for (uint32_t tries = 0; tries < RU_MEMORY_TRIES; tries++) {
        uint64_t state = memory_state(memory);
        *number = word_load(&memory->numbers[page]);
        enum ru_page_state found = ru_memory_state(memory, page);
        if (found != RU_PAGE_UNREADABLE) {
            if (!page_is_full(memory, page)) /* else they would be computed for nothing */
                ru_defaults_page(&memory->head->seed, page, bytes);
            page_copy(memory, page, bytes);
        }
        if (*number <= state && word_load(&memory->numbers[page]) == *number)
            return (int)found;
        memory_pause();
    }
    return -EAGAIN;
}

static uint32_t page_select(const struct ru_memory *memory, uint32_t page, uint8_t *selected)
{
    uint32_t circulating = 0;
    uint32_t first = page * RU_PAGE_RECORDS_COUNT;
    for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++, selected += RU_AN_SIZE) {
        uint64_t an[AN_WORDS] = {0};
        if (record_is_written(memory, first + i) && record_month(memory, first + i) != 0) {
            record_an(memory, first + i, an);
            circulating++;
        }
        memcpy(selected, an, sizeof(an));
    }
    return circulating;
}

int ru_memory_select(const struct ru_memory *memory, uint32_t page, uint8_t *selected,
                     uint32_t *circulating, uint64_t *number)
{
    RU_CHECK(page < RU_STORE_PAGES);
    for (uint32_t tries = 0; tries < RU_MEMORY_TRIES; tries++) {
        uint64_t state = memory_state(memory);
        *number = word_load(&memory->numbers[page]);
        enum ru_page_state found = ru_memory_state(memory, page);
        *circulating = found == RU_PAGE_WRITTEN ? page_select(memory, page, selected) : 0;
        if (*number <= state && word_load(&memory->numbers[page]) == *number)
            return (int)found;
        memory_pause();
    }
    return -EAGAIN;
}

/* ---- writing ---- */

enum ru_page_state ru_memory_record(const struct ru_memory *memory, uint32_t coin, uint8_t *record)
{
    RU_CHECK(coin < RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT);
    enum ru_page_state state = ru_memory_state(memory, coin / RU_PAGE_RECORDS_COUNT);
    if (state == RU_PAGE_UNREADABLE)
        return state;
    if (record_is_written(memory, coin)) {
        uint64_t an[AN_WORDS];
        record_an(memory, coin, an);
        memcpy(record, an, sizeof(an));
        record[RU_AN_SIZE] = record_month(memory, coin);
    } else {
        ru_defaults_records(&memory->head->seed, &coin, 1, record);
    }
    return state;
}

static int page_reserve(struct ru_memory *memory, uint32_t page)
{
    const uint64_t months_at = MONTHS_AT + (uint64_t)page * RU_PAGE_RECORDS_COUNT;
    const uint64_t ans_at = ANS_AT + (uint64_t)page * RU_PAGE_RECORDS_COUNT * RU_AN_SIZE;
    uint8_t state = __atomic_load_n(&memory->states[page], __ATOMIC_RELAXED);
    if (state & MEMORY_RESERVED)
        return 0;
    int rc = memory_set_aside(memory->fd, months_at, RU_PAGE_RECORDS_COUNT);
    if (rc == 0)
        rc = memory_set_aside(memory->fd, ans_at, (uint64_t)RU_PAGE_RECORDS_COUNT * RU_AN_SIZE);
    if (rc == 0)
        __atomic_store_n(&memory->states[page], state | MEMORY_RESERVED, __ATOMIC_RELEASE);
    return rc;
}

int ru_memory_reserve(struct ru_memory *memory, const struct ru_change *changes, uint32_t count)
{
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = page_reserve(memory, changes[i].coin / RU_PAGE_RECORDS_COUNT);
    return rc;
}

static void record_write(struct ru_memory *memory, uint32_t index, const uint8_t *an, uint8_t month)
{
    uint64_t words[AN_WORDS];
    memcpy(words, an, sizeof(words));
    for (uint32_t i = 0; i < AN_WORDS; i++)
        word_store(&memory->ans[(size_t)index * AN_WORDS + i], words[i]);
    __atomic_store_n(&memory->months[index], month, __ATOMIC_RELEASE);
    uint64_t bits = __atomic_load_n(&memory->written[index / 64], __ATOMIC_RELAXED);
    uint64_t with = bits | 1ULL << index % 64;
    if (with != bits)
        word_store(&memory->written[index / 64], with);
}

void ru_memory_apply(struct ru_memory *memory, uint64_t number, const struct ru_change *changes,
                     uint32_t count)
{
    struct ru_memory_head *head = memory->head;
    RU_CHECK(number > head->applied && number >= head->started);
    word_store(&head->started, number);
    /* All pages first: who reads the first changed word must find every page marked. */
    for (uint32_t i = 0; i < count; i++)
        word_store(&memory->numbers[changes[i].coin / RU_PAGE_RECORDS_COUNT], number);
    for (uint32_t i = 0; i < count; i++) {
        const struct ru_change *change = &changes[i];
        uint8_t *at = &memory->states[change->coin / RU_PAGE_RECORDS_COUNT];
        uint8_t state = __atomic_load_n(at, __ATOMIC_RELAXED);
        RU_CHECK(state == (RU_PAGE_WRITTEN | MEMORY_RESERVED) ||
                 state == (RU_PAGE_BLANK | MEMORY_RESERVED));
        record_write(memory, change->coin, change->an, change->month);
        if (state != (RU_PAGE_WRITTEN | MEMORY_RESERVED))
            __atomic_store_n(at, RU_PAGE_WRITTEN | MEMORY_RESERVED, __ATOMIC_RELEASE);
    }
    word_store(&head->applied, number);
}

/* ---- filling ---- */

int ru_memory_load(struct ru_memory *memory, uint32_t page, const uint8_t *bytes, uint64_t number)
{
    RU_CHECK(page < RU_STORE_PAGES);
    uint8_t state = memory->states[page] & MEMORY_RESERVED;
    if (bytes) {
        int rc = page_reserve(memory, page);
        if (rc != 0)
            return rc;
        uint32_t coin = page * RU_PAGE_RECORDS_COUNT;
        for (uint32_t i = 0; i < RU_PAGE_RECORDS_COUNT; i++, bytes += RU_PAGE_RECORD_SIZE)
            record_write(memory, coin + i, bytes, bytes[RU_AN_SIZE]);
        state = RU_PAGE_WRITTEN | MEMORY_RESERVED;
    } else {
        state |= RU_PAGE_UNREADABLE;
        for (uint32_t i = 0; i < PAGE_BIT_WORDS; i++) /* readers look at them first */
            word_store(&memory->written[page * PAGE_BIT_WORDS + i], 0);
    }
    __atomic_store_n(&memory->states[page], state, __ATOMIC_RELEASE);
    word_store(&memory->numbers[page], number);
    return 0;
}

int ru_memory_replay(struct ru_memory *memory, uint64_t number, const struct ru_change *changes,
                     uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = changes[i].coin / RU_PAGE_RECORDS_COUNT;
        /* Equal: by an earlier change of this batch, or the page has it; again does no harm. */
        if (memory->numbers[page] > number || ru_memory_state(memory, page) == RU_PAGE_UNREADABLE)
            continue;
        int rc = page_reserve(memory, page);
        if (rc != 0)
            return rc;
        record_write(memory, changes[i].coin, changes[i].an, changes[i].month);
        memory->states[page] = RU_PAGE_WRITTEN | MEMORY_RESERVED;
        word_store(&memory->numbers[page], number);
    }
    return 0;
}

void ru_memory_ready(struct ru_memory *memory, uint64_t number)
{
    RU_CHECK(number >= memory->head->applied);
    word_store(&memory->head->started, number);
    word_store(&memory->head->applied, number);
}
