/* entry.h: a batch of changes as the journal stores it. Pure; thread: any.
 *
 * An entry fills whole blocks of RU_ENTRY_BLOCK bytes, so that a block with acknowledged changes is
 * never written again and no torn write can reach it. It names its store, its number, its
 * predecessor's checksum, and the newest entry that was on the disk when it was written: from the
 * last a reader knows whether an entry that it misses was acknowledged. Numbers of several bytes are
 * little-endian.
 */
#ifndef RU_ENTRY_H
#define RU_ENTRY_H

#include <stdint.h>

#include "coins/memory.h"

#define RU_ENTRY_BLOCK 4096U
#define RU_STORE_ID_SIZE 16
#define RU_ENTRY_CHANGES_MAX 1000000U /* 21 MB: far more than the requests of a batch name */

/* Offsets from the entry's start; sizes in bytes. */
enum ru_entry_layout {
    RU_ENTRY_MAGIC_AT = 0,    /* 4 */
    RU_ENTRY_CRC_AT = 4,      /* 4: CRC-32C of all that follows, up to the last change */
    RU_ENTRY_PREVIOUS_AT = 8, /* 4: the CRC of the entry before it; 0 for the first one */
    RU_ENTRY_KIND_AT = 12,    /* 4 */
    RU_ENTRY_NUMBER_AT = 16,  /* 8 */
    RU_ENTRY_DURABLE_AT = 24, /* 8 */
    RU_ENTRY_TIME_AT = 32,    /* 8: nanoseconds since 1970 */
    RU_ENTRY_STORE_AT = 40,   /* RU_STORE_ID_SIZE */
    RU_ENTRY_BYTES_AT = 56,   /* 4: what follows the head */
    RU_ENTRY_ZERO_AT = 60,    /* 4 */
    RU_ENTRY_HEAD_SIZE = 64,
    /* A change: coin number, AN, month. */
    RU_ENTRY_CHANGE_AN_AT = 4,
    RU_ENTRY_CHANGE_MONTH_AT = 20,
    RU_ENTRY_CHANGE_SIZE = 21,
};

enum ru_entry_kind {
    RU_ENTRY_CHANGES = 1, /* whole records of coins; the last change of a coin remains */
};

struct ru_entry {
    uint64_t number;
    uint64_t durable;
    uint64_t time_ns;
    uint32_t previous; /* CRC of the entry before it */
    uint32_t crc;
    uint32_t kind;
    uint32_t count;
    const uint8_t *changes; /* `count` of RU_ENTRY_CHANGE_SIZE, in the reader's buffer */
};

enum ru_entry_fault {
    RU_ENTRY_GOOD = 0,
    RU_ENTRY_ABSENT, /* no entry of this store starts here, or its bytes are not what was written */
    RU_ENTRY_UNKNOWN, /* a whole entry of a kind that this version does not know */
};

/* Bytes that an entry of `count` changes fills: a multiple of RU_ENTRY_BLOCK. */
uint64_t ru_entry_size(uint32_t count);
/* Write an entry, ru_entry_size() bytes, to `out`, and set entry->crc. `changes` replaces
 * entry->changes, which is not read. */
void ru_entry_pack(struct ru_entry *entry, const uint8_t *store, const struct ru_change *changes,
                   uint8_t *out);
/* Bytes that the entry at `at` claims to fill, of which `size` bytes are there; 0: no entry of this
 * store starts here. What is left of an older entry may look like the start of one, since clients
 * choose its ANs; they do not know the store's id. */
uint64_t ru_entry_claims(const uint8_t *at, uint64_t size, const uint8_t *store);
/* The newest entry that was durable when this one was written, as it claims itself. */
uint64_t ru_entry_durable(const uint8_t *at);
/* Read the entry at `at`, of which `size` bytes are there. */
enum ru_entry_fault ru_entry_parse(const uint8_t *at, uint64_t size, const uint8_t *store,
                                   struct ru_entry *entry);
/* Change `index` of an entry that was parsed; its coin exists. */
struct ru_change ru_entry_change(const struct ru_entry *entry, uint32_t index);

#endif
