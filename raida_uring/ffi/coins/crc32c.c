/* crc32c.c: CRC-32C, by the processor's instruction or a table. */
#include "coins/crc32c.h"

#include <stdbool.h>
#include <string.h>

#define CRC32C_POLYNOMIAL 0x82f63b78U /* bits reversed */

#ifdef __x86_64__
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc_hardware(uint32_t crc, const uint8_t *at,
                                                               size_t size)
{
    uint64_t wide = crc;
    for (; size >= sizeof(uint64_t); at += sizeof(uint64_t), size -= sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; at++, size--)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
}
#endif

/* One bit at a time: for processors without the instruction, where the disk is slower still. */
static uint32_t crc_software(uint32_t crc, const uint8_t *at, size_t size)
{
    for (; size > 0; at++, size--) {
        crc ^= *at;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? CRC32C_POLYNOMIAL : 0);
    }
    return crc;
}

uint32_t ru_crc32c_add(uint32_t crc, const void *bytes, size_t size)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_hardware(~crc, bytes, size);
#endif
    return ~crc_software(~crc, bytes, size);
}
