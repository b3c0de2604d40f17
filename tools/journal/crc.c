/* crc.c: CRC-32C of a record, by the processor's instruction where there is one. */
#include "contender.h"

#include <string.h>

#define CRC_POLYNOMIAL 0x82F63B78U /* Castagnoli's, reflected */

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const uint8_t *bytes,
                                                           size_t size)
{
    uint64_t wide = crc;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; bytes++, size--)
        crc = __builtin_ia32_crc32qi(crc, *bytes);
    return crc;
}
#endif

static uint32_t crc_slow(uint32_t crc, const uint8_t *bytes, size_t size)
{
    for (; size > 0; bytes++, size--) {
        crc ^= *bytes;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? CRC_POLYNOMIAL : 0);
    }
    return crc;
}

uint32_t jb_record_crc(const struct jb_record *record, uint32_t previous)
{
    size_t skipped = offsetof(struct jb_record, sequence);
    const uint8_t *bytes = (const uint8_t *)record + skipped;
    size_t size = record->size - skipped;
    uint32_t crc = ~previous ^ record->size;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_fast(crc, bytes, size);
#endif
    return ~crc_slow(crc, bytes, size);
}
