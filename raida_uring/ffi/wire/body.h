/* body.h: bodies of encryption type 0.
 *
 * Pure. Source: docs/wire.md, "Body" and "Body decisions".
 */
#ifndef RU_BODY_H
#define RU_BODY_H

#include "wire/header.h"

/* Check a whole type 0 body of at least one byte. *challenge is set once the
 * reply may show it. */
enum ru_status ru_body_check_plain(const uint8_t *body, size_t size, const uint8_t **challenge);
/* CRC-32 as zlib computes it. */
uint32_t ru_body_crc32(const uint8_t *bytes, size_t size);

#endif
