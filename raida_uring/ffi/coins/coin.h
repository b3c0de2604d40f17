/* coin.h: coins by number, as every store of them numbers them, and the comparison of ANs. Pure.
 *
 * build.py reads the marked region, as in ru.h. A coin's number is that of its page *
 * RU_PAGE_RECORDS_COUNT + its record; pages are numbered through all denominations.
 */
#ifndef RU_COIN_H
#define RU_COIN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"
#include "number.h"

/* cdef: begin */
enum ru_store_constant {
    RU_STORE_DEN_PAGES = 1000, /* pages of a denomination */
    RU_STORE_PAGES = 15000,
    RU_STORE_SELECTED = 16384, /* bytes that a page's leaf is the hash of */
};

enum ru_coin_state {
    RU_COIN_DIFFERS = 0,
    RU_COIN_EQUAL = 1,
    RU_COIN_UNREADABLE = 2, /* no such denomination or number, or its page cannot be read */
};
/* cdef: end */

_Static_assert(RU_STORE_PAGES == RU_DENOMINATIONS_COUNT * RU_STORE_DEN_PAGES, "pages");
_Static_assert(RU_STORE_SELECTED == RU_PAGE_RECORDS_COUNT * RU_AN_SIZE, "selected");

/* The number of the coin whose RU_COIN_NAME_SIZE bytes are given; RU_NONE: no such coin. */
static inline uint32_t ru_coin_number(const uint8_t *coin)
{
    const uint8_t *serial = coin + RU_COIN_SERIAL_AT;
    uint32_t sn = (uint32_t)serial[0] << 24 | (uint32_t)serial[1] << 16 | (uint32_t)serial[2] << 8 |
                  serial[3];
    int den = (int8_t)coin[RU_COIN_DENOMINATION_AT] - RU_DENOMINATION_MIN;
    if (den < 0 || den >= RU_DENOMINATIONS_COUNT ||
        sn >= RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT)
        return RU_NONE;
    return (uint32_t)den * RU_STORE_DEN_PAGES * RU_PAGE_RECORDS_COUNT + sn;
}

/* In constant time, whatever differs. */
static inline bool ru_coin_an_equal(const uint8_t *one, const uint8_t *other)
{
    uint64_t a[2];
    uint64_t b[2];
    memcpy(a, one, sizeof(a));
    memcpy(b, other, sizeof(b));
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
}

#endif
