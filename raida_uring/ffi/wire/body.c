/* body.c: the body decisions of encryption type 0. */
#include "wire/body.h"

/* CRC-32, reflected polynomial EDB88320: what zlib computes. The table is linear: an entry is the
 * exclusive or of those of its index's bits. */
#define CRC_BIT(index, bit, entry) ((index) & (bit) ? (entry) : 0U)
#define CRC_ENTRY(index)                                                                           \
    (CRC_BIT(index, 1, 0x77073096U) ^ CRC_BIT(index, 2, 0xEE0E612CU) ^                             \
     CRC_BIT(index, 4, 0x076DC419U) ^ CRC_BIT(index, 8, 0x0EDB8832U) ^                             \
     CRC_BIT(index, 16, 0x1DB71064U) ^ CRC_BIT(index, 32, 0x3B6E20C8U) ^                           \
     CRC_BIT(index, 64, 0x76DC4190U) ^ CRC_BIT(index, 128, 0xEDB88320U))
#define CRC_4(index)                                                                               \
    CRC_ENTRY(index), CRC_ENTRY((index) + 1), CRC_ENTRY((index) + 2), CRC_ENTRY((index) + 3)
#define CRC_16(index) CRC_4(index), CRC_4((index) + 4), CRC_4((index) + 8), CRC_4((index) + 12)
#define CRC_64(index)                                                                              \
    CRC_16(index), CRC_16((index) + 16), CRC_16((index) + 32), CRC_16((index) + 48)
static const uint32_t crc_table[256] = {CRC_64(0), CRC_64(64), CRC_64(128), CRC_64(192)};

uint32_t ru_body_crc32(const uint8_t *bytes, size_t size)
{
    uint32_t crc = 0xFFFFFFFFU;
    for (size_t i = 0; i < size; i++)
        crc = crc_table[(crc ^ bytes[i]) & 0xFF] ^ crc >> 8;
    return ~crc;
}

static uint32_t body_get_u32(const uint8_t *at)
{
    return (uint32_t)ru_get_u16(at) << 16 | ru_get_u16(at + 2);
}

enum ru_status ru_body_check_plain(const uint8_t *body, size_t size, const uint8_t **challenge)
{
    *challenge = NULL;
    if (size < RU_TERMINATOR_SIZE)
        return RU_STATUS_PACKET_LENGTH;
    const uint8_t *end = body + size - RU_TERMINATOR_SIZE;
    if (end[0] != RU_TERMINATOR_BYTE || end[1] != RU_TERMINATOR_BYTE)
        return RU_STATUS_EOF;
    if (size < RU_PLAIN_BODY_MIN)
        return RU_STATUS_PACKET_LENGTH;
    *challenge = body;
    return ru_body_crc32(body, RU_CHALLENGE_RANDOM_SIZE) == body_get_u32(body + RU_CHALLENGE_CRC_AT)
               ? RU_STATUS_OK
               : RU_STATUS_CRC;
}
