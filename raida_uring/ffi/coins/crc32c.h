/* crc32c.h: CRC-32C (Castagnoli), which processors compute in hardware. Pure; thread: any. */
#ifndef RU_CRC32C_H
#define RU_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Go on from `crc`, which is 0 for the first bytes. */
uint32_t ru_crc32c_add(uint32_t crc, const void *bytes, size_t size);

#endif
