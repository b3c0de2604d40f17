/* request_rig.h: requests for native commands as clients send them, plain or of encryption type 1, and
 * what is in the replies.
 */
#ifndef RU_TESTS_REQUEST_RIG_H
#define RU_TESTS_REQUEST_RIG_H

#include <openssl/evp.h>

#include "native.h"
#include "wire/body.h"

/* The coin whose AN a request is encrypted with. */
struct rig_key {
    uint8_t name[RU_COIN_NAME_SIZE];
    uint8_t an[RU_AN_SIZE];
};

/* Encrypt or decrypt `data`, all that the request with this header or its reply has encrypted. */
static inline void rig_crypt(const struct rig_key *key, const uint8_t *header, uint8_t *data,
                             uint32_t size)
{
    uint8_t counter[RU_COUNTER_SIZE] = {0};
    int done = 0;
    memcpy(counter, header + RU_REQUEST_SMALL_NONCE_AT, RU_REQUEST_SMALL_NONCE_SIZE);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (!context || EVP_EncryptInit_ex2(context, EVP_aes_128_ctr(), key->an, counter, NULL) != 1 ||
        EVP_EncryptUpdate(context, data, &done, data, (int)size) != 1)
        abort();
    EVP_CIPHER_CTX_free(context);
}

/* Bytes of a request with that many bytes of payload. */
static inline uint32_t rig_request_size(uint32_t payload_size)
{
    return RU_HEADER_SMALL + RU_PLAIN_BODY_MIN + payload_size;
}

/* Write a request for command `number`. key: NULL: it is plain. */
static inline void rig_request(uint8_t *out, uint32_t number, const uint8_t *payload,
                               uint32_t payload_size, const struct rig_key *key,
                               struct ru_random *random)
{
    const uint32_t body_size = rig_request_size(payload_size) - RU_HEADER_SMALL;
    uint8_t *body = out + RU_HEADER_SMALL;
    (void)native_header(out, key ? 1 : 0, (enum native_command)number, (uint16_t)body_size,
                        (uint8_t)native_random(random));
    out[RU_REQUEST_SHARD_AT] = 0;
    native_body(body, body_size, random);
    memcpy(body + RU_CHALLENGE_SIZE, payload, payload_size);
    if (!key)
        return;
    memcpy(out + RU_REQUEST_SMALL_COIN_AT, key->name, RU_COIN_NAME_SIZE);
    ru_random_fill(random, out + RU_REQUEST_SMALL_NONCE_AT, RU_REQUEST_SMALL_NONCE_SIZE);
    rig_crypt(key, out, body, body_size - RU_TERMINATOR_SIZE);
}

/* Bytes of a reply behind its header. */
static inline uint32_t rig_reply_rest(const uint8_t *reply)
{
    const uint8_t *size = reply + RU_REPLY_BODY_SIZE_AT;
    return (uint32_t)size[0] << 16 | (uint32_t)size[1] << 8 | size[2];
}

#endif
