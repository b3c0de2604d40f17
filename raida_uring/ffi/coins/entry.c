/* entry.c: a batch of changes as the journal stores it. */
#include "coins/entry.h"

#include <endian.h>
#include <string.h>

#include "check.h"
#include "coins/crc32c.h"

#define ENTRY_MAGIC 0x726a6172U /* "rajr", little-endian */
#define ENTRY_COINS (RU_STORE_PAGES * RU_PAGE_RECORDS_COUNT)

static void put32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static void put64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return le64toh(value);
}

uint64_t ru_entry_size(uint32_t count)
{
    uint64_t bytes = RU_ENTRY_HEAD_SIZE + (uint64_t)count * RU_ENTRY_CHANGE_SIZE;
    return (bytes + RU_ENTRY_BLOCK - 1) / RU_ENTRY_BLOCK * RU_ENTRY_BLOCK;
}

/* Of all that follows it in an entry with `bytes` behind the head. */
static uint32_t entry_crc(const uint8_t *at, uint64_t bytes)
{
    return ru_crc32c_add(0, at + RU_ENTRY_PREVIOUS_AT,
                         RU_ENTRY_HEAD_SIZE - RU_ENTRY_PREVIOUS_AT + bytes);
}

void ru_entry_pack(struct ru_entry *entry, const uint8_t *store, const struct ru_change *changes,
                   uint8_t *out)
{
    const uint64_t bytes = (uint64_t)entry->count * RU_ENTRY_CHANGE_SIZE;
    RU_CHECK(entry->durable < entry->number);
    RU_CHECK(entry->count <= RU_ENTRY_CHANGES_MAX);
    put32(out + RU_ENTRY_MAGIC_AT, ENTRY_MAGIC);
    put32(out + RU_ENTRY_PREVIOUS_AT, entry->previous);
    put32(out + RU_ENTRY_KIND_AT, entry->kind);
    put64(out + RU_ENTRY_NUMBER_AT, entry->number);
    put64(out + RU_ENTRY_DURABLE_AT, entry->durable);
    put64(out + RU_ENTRY_TIME_AT, entry->time_ns);
    memcpy(out + RU_ENTRY_STORE_AT, store, RU_STORE_ID_SIZE);
    put32(out + RU_ENTRY_BYTES_AT, (uint32_t)bytes);
    put32(out + RU_ENTRY_ZERO_AT, 0);
    uint8_t *at = out + RU_ENTRY_HEAD_SIZE;
    for (uint32_t i = 0; i < entry->count; i++, at += RU_ENTRY_CHANGE_SIZE) {
        RU_CHECK(changes[i].coin < ENTRY_COINS);
        put32(at, changes[i].coin);
        memcpy(at + RU_ENTRY_CHANGE_AN_AT, changes[i].an, RU_AN_SIZE);
        at[RU_ENTRY_CHANGE_MONTH_AT] = changes[i].month;
    }
    memset(at, 0, ru_entry_size(entry->count) - RU_ENTRY_HEAD_SIZE - bytes);
    entry->crc = entry_crc(out, bytes);
    put32(out + RU_ENTRY_CRC_AT, entry->crc);
}

uint64_t ru_entry_claims(const uint8_t *at, uint64_t size, const uint8_t *store)
{
    if (size < RU_ENTRY_HEAD_SIZE || get32(at + RU_ENTRY_MAGIC_AT) != ENTRY_MAGIC ||
        memcmp(at + RU_ENTRY_STORE_AT, store, RU_STORE_ID_SIZE) != 0)
        return 0;
    uint64_t bytes = RU_ENTRY_HEAD_SIZE + (uint64_t)get32(at + RU_ENTRY_BYTES_AT);
    bytes = (bytes + RU_ENTRY_BLOCK - 1) / RU_ENTRY_BLOCK * RU_ENTRY_BLOCK;
    return bytes <= ru_entry_size(RU_ENTRY_CHANGES_MAX) ? bytes : 0;
}

uint64_t ru_entry_durable(const uint8_t *at)
{
    return get64(at + RU_ENTRY_DURABLE_AT);
}

enum ru_entry_fault ru_entry_parse(const uint8_t *at, uint64_t size, const uint8_t *store,
                                   struct ru_entry *entry)
{
    if (ru_entry_claims(at, size, store) == 0)
        return RU_ENTRY_ABSENT;
    const uint32_t bytes = get32(at + RU_ENTRY_BYTES_AT);
    *entry = (struct ru_entry){
        .number = get64(at + RU_ENTRY_NUMBER_AT),
        .durable = get64(at + RU_ENTRY_DURABLE_AT),
        .time_ns = get64(at + RU_ENTRY_TIME_AT),
        .previous = get32(at + RU_ENTRY_PREVIOUS_AT),
        .crc = get32(at + RU_ENTRY_CRC_AT),
        .kind = get32(at + RU_ENTRY_KIND_AT),
        .count = bytes / RU_ENTRY_CHANGE_SIZE,
        .changes = at + RU_ENTRY_HEAD_SIZE,
    };
    if (bytes > size - RU_ENTRY_HEAD_SIZE || entry_crc(at, bytes) != entry->crc)
        return RU_ENTRY_ABSENT;
    if (entry->kind != RU_ENTRY_CHANGES || bytes % RU_ENTRY_CHANGE_SIZE != 0 ||
        entry->durable >= entry->number)
        return RU_ENTRY_UNKNOWN;
    const uint8_t *change = entry->changes;
    for (uint32_t i = 0; i < entry->count; i++, change += RU_ENTRY_CHANGE_SIZE)
        if (get32(change) >= ENTRY_COINS)
            return RU_ENTRY_UNKNOWN;
    return RU_ENTRY_GOOD;
}

struct ru_change ru_entry_change(const struct ru_entry *entry, uint32_t index)
{
    RU_CHECK(index < entry->count);
    const uint8_t *at = entry->changes + (size_t)index * RU_ENTRY_CHANGE_SIZE;
    struct ru_change change = {.coin = get32(at), .month = at[RU_ENTRY_CHANGE_MONTH_AT]};
    memcpy(change.an, at + RU_ENTRY_CHANGE_AN_AT, RU_AN_SIZE);
    return change;
}
