/* defaults.h: the records of coins on pages that were never written, computed from a seed.
 *
 * Such a record is the MD5 of a text, and month 0. The text is the seed, then the coin's
 * denomination, page and record in hex (wire specification, section 8.3): the reference server
 * fills new pages in this way. MD5 is part of a data format here, and nothing relies on it as a
 * cryptographic hash.
 * Pure. Thread: any, for all functions here.
 */
#ifndef RU_DEFAULTS_H
#define RU_DEFAULTS_H

#include <stdint.h>

#define RU_DEFAULTS_BLOCK 64 /* bytes that MD5 hashes at a time */

/* A seed, hashed as far as its bytes fill blocks. */
struct ru_defaults {
    uint64_t seed_bytes;
    uint32_t state[4];
    uint8_t tail[RU_DEFAULTS_BLOCK]; /* the seed's last bytes, which fill no block; then zeros */
};

/* seed: of any length, not needed after the call. */
void ru_defaults_init(struct ru_defaults *defaults, const uint8_t *seed, uint64_t seed_bytes);
/* Write the default records of `count` coins, RU_PAGE_RECORD_SIZE bytes each. numbers: the coins'
 * numbers, as in coin.h. Eight coins take little longer than one. */
void ru_defaults_records(const struct ru_defaults *defaults, const uint32_t *numbers,
                         uint32_t count, uint8_t *records);
/* Write the RU_PAGE_SIZE bytes of a default page. */
void ru_defaults_page(const struct ru_defaults *defaults, uint32_t page, uint8_t *bytes);

#endif
