/* seal.h: encryption types 1, 2, 4 and 5: requests opened and replies sealed in place, by libcrypto.
 *
 * Opening takes two steps, so that it does not matter where coins are kept: ru_seal_coins() names the
 * coins whose ANs make the key, the caller looks these up, and ru_seal_open() takes them.
 *
 * Owner: a library serves any number of threads; a struct ru_seal belongs to one. The caller keeps the
 * key of an opened request until ru_seal_wipe().
 * Memory: allocated by the two create functions. libcrypto itself copies the key of each HMAC into
 * memory that it clears and frees.
 * System calls: none but getrandom(), one for many nonces.
 * Source: docs/wire.md, "Encryption" and "Decisions, in order".
 */
#ifndef RU_SEAL_H
#define RU_SEAL_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"
#include "wire/header.h"

/* cdef: begin */
enum ru_seal_constant {
    RU_SEAL_KEY_MAX = 32,
    RU_SEAL_COINS_MAX = 2, /* whose ANs make one key */
};

struct ru_seal_library; /* libcrypto's algorithms, looked up once */
struct ru_seal;         /* one thread's contexts and unused random bytes */

/* What a request has shown, and what sealing its reply takes. */
struct ru_unsealed {
    uint32_t payload_at; /* from the body's first byte */
    uint32_t payload_size;
    uint8_t proved;               /* 1: by the right key, so that the reply may be sealed */
    uint8_t key[RU_SEAL_KEY_MAX]; /* types 1, 2: the first 16 bytes */
    uint8_t challenge[16];        /* types 1, 2: what the reply's header shows */
};

/* Thread: any. NULL: no memory, or libcrypto lacks an algorithm. It reads no configuration file. */
struct ru_seal_library *ru_seal_library_create(void);
/* Thread: any, once every struct ru_seal of it is destroyed. */
void ru_seal_library_destroy(struct ru_seal_library *library);
/* Thread: any. NULL: no memory. */
struct ru_seal *ru_seal_create(const struct ru_seal_library *library);
void ru_seal_destroy(struct ru_seal *seal);

/* Thread: the seal's, for this function and all that follow. Decide on an encrypted request and
 * decrypt its body in place. header: has passed header decisions 1 to 8. present: bytes of the body
 * that have arrived, at most those announced. first, second: the ANs of ru_seal_coins(), of type 2
 * the locker's key; NULL: there is no such coin or locker. is_public: strangers can know the payload
 * of the reply. Returns enum ru_status: 0, or why the request is refused; then nothing decrypted is
 * left in `body`, and no key in `out`. */
int ru_seal_open(struct ru_seal *seal, const uint8_t *header, uint8_t *body, uint32_t present,
                 const uint8_t *first, const uint8_t *second, uint32_t is_public,
                 struct ru_unsealed *out);
/* Draw RU_REPLY_NONCE_SIZE bytes for the reply to a request with a large header. */
void ru_seal_draw_nonce(struct ru_seal *seal, const uint8_t *header, uint8_t *nonce);
/* Bytes of a reply's body without its terminator, from those of its payload. */
uint32_t ru_seal_reply_size(const uint8_t *header, uint32_t payload_size);
/* Encrypt the payload of the reply to a proved request in place, which takes ru_seal_reply_size()
 * bytes. nonce: as drawn; ignored under types 1 and 2. 0, or -ENOMEM: do not send `data`. */
int ru_seal_reply(struct ru_seal *seal, const uint8_t *header, const struct ru_unsealed *from,
                  const uint8_t *nonce, uint8_t *data, uint32_t payload_size);
/* Remove a request's key from memory. */
void ru_seal_wipe(struct ru_unsealed *unsealed);
/* Remove the keys of the latest requests from the contexts: before the thread waits. */
void ru_seal_forget(struct ru_seal *seal);
/* cdef: end */

/* The names of the key coins of a request with this header, in the order of their ANs in the key.
 * Returns how many there are; 0 under type 2, whose key is a locker's. */
static inline uint32_t ru_seal_coins(const uint8_t *header, const uint8_t *names[RU_SEAL_COINS_MAX])
{
    const uint8_t encryption = header[RU_REQUEST_ENCRYPTION_AT];
    names[0] = header + (encryption <= RU_SMALL_TYPE_MAX ? RU_REQUEST_SMALL_COIN_AT
                                                         : RU_REQUEST_LARGE_COIN_AT);
    names[1] = header + RU_REQUEST_LARGE_SECOND_COIN_AT;
    if (encryption == 2)
        return 0;
    return encryption == 5 ? 2 : 1;
}

#endif
