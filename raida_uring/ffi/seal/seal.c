/* seal.c: opening and sealing by the EVP functions of OpenSSL 3.
 *
 * A context is made once per thread and given another key each time, which costs a tenth of making
 * it. The library has a context of its own, so that neither the machine's openssl.cnf nor what the
 * interpreter loads changes which implementation runs here.
 *
 * Nothing that depends on a key is compared but by CRYPTO_memcmp(), and nothing that was decrypted
 * stays where the request has not shown the key.
 */
#include "seal/seal.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "check.h"
#include "wire/body.h"

#define SEAL_NONCES 11 /* drawn at once: within the 256 bytes that getrandom() never cuts short */

enum seal_width {
    SEAL_SHORT, /* types 1, 2: AES-128 */
    SEAL_LONG,  /* types 4, 5: AES-256, HMAC-SHA-256 */
    SEAL_WIDTHS,
};

static const char *const seal_cipher_names[SEAL_WIDTHS] = {"AES-128-CTR", "AES-256-CTR"};

struct ru_seal_library {
    OSSL_LIB_CTX *context;
    EVP_CIPHER *ciphers[SEAL_WIDTHS];
    EVP_MD *sha256;
    EVP_MAC *hmac;
};

struct ru_seal {
    const struct ru_seal_library *library;
    EVP_CIPHER_CTX *ciphers[SEAL_WIDTHS];
    EVP_MD_CTX *sha256;
    EVP_MAC_CTX *hmac;
    bool keyed[SEAL_WIDTHS]; /* the contexts have somebody's key */
    uint32_t random_left;
    uint8_t random[RU_REPLY_NONCE_SIZE * SEAL_NONCES];
};

_Static_assert(sizeof(((struct ru_unsealed *)0)->challenge) == RU_CHALLENGE_SIZE, "challenge");
_Static_assert(sizeof(((struct ru_seal *)0)->random) <= 256, "one getrandom() call");
_Static_assert(RU_REPLY_NONCE_SIZE >= RU_COUNTER_SIZE, "a nonce begins with the counter block");

/* ---- life ---- */

struct ru_seal_library *ru_seal_library_create(void)
{
    struct ru_seal_library *library = calloc(1, sizeof(*library));
    if (!library)
        return NULL;
    library->context = OSSL_LIB_CTX_new();
    bool found = library->context != NULL;
    for (uint32_t width = 0; found && width < SEAL_WIDTHS; width++) {
        library->ciphers[width] =
            EVP_CIPHER_fetch(library->context, seal_cipher_names[width], NULL);
        found = library->ciphers[width] != NULL;
    }
    if (found) {
        library->sha256 = EVP_MD_fetch(library->context, "SHA256", NULL);
        library->hmac = EVP_MAC_fetch(library->context, "HMAC", NULL);
        found = library->sha256 && library->hmac;
    }
    if (found)
        return library;
    ru_seal_library_destroy(library);
    return NULL;
}

void ru_seal_library_destroy(struct ru_seal_library *library)
{
    if (!library)
        return;
    EVP_MAC_free(library->hmac);
    EVP_MD_free(library->sha256);
    for (uint32_t width = 0; width < SEAL_WIDTHS; width++)
        EVP_CIPHER_free(library->ciphers[width]);
    OSSL_LIB_CTX_free(library->context);
    free(library);
}

static bool seal_set_up(struct ru_seal *seal)
{
    char digest[] = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    for (uint32_t width = 0; width < SEAL_WIDTHS; width++) {
        seal->ciphers[width] = EVP_CIPHER_CTX_new();
        if (!seal->ciphers[width] ||
            EVP_EncryptInit_ex2(seal->ciphers[width], seal->library->ciphers[width], NULL, NULL,
                                NULL) != 1)
            return false;
    }
    seal->sha256 = EVP_MD_CTX_new();
    seal->hmac = EVP_MAC_CTX_new(seal->library->hmac);
    return seal->sha256 && seal->hmac && EVP_MAC_CTX_set_params(seal->hmac, parameters) == 1;
}

struct ru_seal *ru_seal_create(const struct ru_seal_library *library)
{
    struct ru_seal *seal = calloc(1, sizeof(*seal));
    if (!seal)
        return NULL;
    seal->library = library;
    if (seal_set_up(seal))
        return seal;
    ru_seal_destroy(seal);
    return NULL;
}

void ru_seal_destroy(struct ru_seal *seal)
{
    if (!seal)
        return;
    EVP_MAC_CTX_free(seal->hmac);
    EVP_MD_CTX_free(seal->sha256);
    for (uint32_t width = 0; width < SEAL_WIDTHS; width++)
        EVP_CIPHER_CTX_free(seal->ciphers[width]);
    OPENSSL_cleanse(seal, sizeof(*seal));
    free(seal);
}

/* ---- ciphers ---- */

static enum seal_width seal_width_of(const uint8_t *header)
{
    return ru_header_size(header) == RU_HEADER_SMALL ? SEAL_SHORT : SEAL_LONG;
}

/* Encrypt or decrypt, which is the same in this mode. counter: RU_COUNTER_SIZE bytes. */
static bool seal_cipher(struct ru_seal *seal, enum seal_width width, const uint8_t *key,
                        const uint8_t *counter, uint8_t *data, uint32_t size)
{
    RU_CHECK(size <= RU_REPLY_MAX);
    EVP_CIPHER_CTX *context = seal->ciphers[width];
    int done = 0;
    if (size == 0)
        return true;
    seal->keyed[width] = true;
    return EVP_EncryptInit_ex2(context, NULL, key, counter, NULL) == 1 &&
           EVP_EncryptUpdate(context, data, &done, data, (int)size) == 1 && done == (int)size;
}

static bool seal_hmac(struct ru_seal *seal, const uint8_t *key, const uint8_t *data, uint32_t size,
                      uint8_t *out)
{
    size_t written = 0;
    seal->keyed[SEAL_LONG] = true;
    return EVP_MAC_init(seal->hmac, key, RU_SEAL_KEY_MAX, NULL) == 1 &&
           EVP_MAC_update(seal->hmac, data, size) == 1 &&
           EVP_MAC_final(seal->hmac, out, &written, RU_HMAC_SIZE) == 1 && written == RU_HMAC_SIZE;
}

/* The key of types 4 and 5. second: NULL under type 4. */
static bool seal_hash_key(struct ru_seal *seal, const uint8_t *first, const uint8_t *second,
                          uint8_t *key)
{
    unsigned written = 0;
    return EVP_DigestInit_ex2(seal->sha256, seal->library->sha256, NULL) == 1 &&
           EVP_DigestUpdate(seal->sha256, first, RU_AN_SIZE) == 1 &&
           (!second || EVP_DigestUpdate(seal->sha256, second, RU_AN_SIZE) == 1) &&
           EVP_DigestFinal_ex(seal->sha256, key, &written) == 1 && written == RU_SEAL_KEY_MAX;
}

static void seal_short_counter(const uint8_t *header, uint8_t *counter)
{
    memset(counter, 0, RU_COUNTER_SIZE);
    memcpy(counter, header + RU_REQUEST_SMALL_NONCE_AT, RU_REQUEST_SMALL_NONCE_SIZE);
}

/* ---- requests ---- */

/* Check a body as far as possible without its key. */
static enum ru_status seal_look(const uint8_t *body, uint32_t present, uint32_t announced,
                                uint32_t least)
{
    if (present < announced || announced < RU_TERMINATOR_SIZE)
        return RU_STATUS_PACKET_LENGTH;
    const uint8_t *end = body + announced - RU_TERMINATOR_SIZE;
    if (end[0] != RU_TERMINATOR_BYTE || end[1] != RU_TERMINATOR_BYTE)
        return RU_STATUS_EOF;
    return announced < least ? RU_STATUS_PACKET_LENGTH : RU_STATUS_OK;
}

/* Types 1 and 2. The challenge field is ciphertext XOR keystream XOR key: with 16 known bytes of a
 * reply under the same nonce it reveals the key, so only who has shown the key gets it. */
static enum ru_status seal_open_short(struct ru_seal *seal, const uint8_t *header, uint8_t *body,
                                      uint32_t size, struct ru_unsealed *out)
{
    uint8_t counter[RU_COUNTER_SIZE];
    uint8_t crc[RU_CHALLENGE_SIZE - RU_CHALLENGE_CRC_AT];
    seal_short_counter(header, counter);
    if (!seal_cipher(seal, SEAL_SHORT, out->key, counter, body, size - RU_TERMINATOR_SIZE))
        return RU_STATUS_INTERNAL;
    const uint32_t sum = ru_body_crc32(body, RU_CHALLENGE_RANDOM_SIZE);
    for (uint32_t i = 0; i < sizeof(crc); i++)
        crc[i] = (uint8_t)(sum >> (24 - 8 * i));
    if (CRYPTO_memcmp(crc, body + RU_CHALLENGE_CRC_AT, sizeof(crc)) != 0)
        return RU_STATUS_CRC;
    for (uint32_t i = 0; i < RU_CHALLENGE_SIZE; i++)
        out->challenge[i] = body[i] ^ out->key[i];
    out->payload_at = RU_CHALLENGE_SIZE;
    out->payload_size = size - RU_PLAIN_BODY_MIN;
    return RU_STATUS_OK;
}

static enum ru_status seal_open_long(struct ru_seal *seal, const uint8_t *header, uint8_t *body,
                                     uint32_t size, struct ru_unsealed *out)
{
    const uint32_t sealed = size - RU_SEALED_BODY_MIN;
    uint8_t seen[RU_HMAC_SIZE];
    if (!seal_hmac(seal, out->key, body, sealed, seen))
        return RU_STATUS_INTERNAL;
    if (CRYPTO_memcmp(seen, body + sealed, sizeof(seen)) != 0)
        return RU_STATUS_HMAC;
    if (!seal_cipher(seal, SEAL_LONG, out->key, header + RU_REQUEST_LARGE_NONCE_AT, body, sealed))
        return RU_STATUS_INTERNAL;
    out->payload_size = sealed;
    return RU_STATUS_OK;
}

/* A body that is complete as far as can be seen without its key. */
static enum ru_status seal_open_body(struct ru_seal *seal, const uint8_t *header, uint8_t *body,
                                     uint32_t size, const uint8_t *first, const uint8_t *second,
                                     struct ru_unsealed *out)
{
    enum ru_status status = RU_STATUS_INTERNAL;
    if (seal_width_of(header) == SEAL_SHORT) {
        memcpy(out->key, first, RU_AN_SIZE);
        status = seal_open_short(seal, header, body, size, out);
    } else if (seal_hash_key(seal, first, second, out->key)) {
        status = seal_open_long(seal, header, body, size, out);
    }
    out->proved = status == RU_STATUS_OK;
    if (!out->proved) {
        ru_seal_wipe(out);
        memset(body, 0, size);
    }
    return status;
}

int ru_seal_open(struct ru_seal *seal, const uint8_t *header, uint8_t *body, uint32_t present,
                 const uint8_t *first, const uint8_t *second, uint32_t is_public,
                 struct ru_unsealed *out)
{
    const uint8_t encryption = header[RU_REQUEST_ENCRYPTION_AT];
    const bool small = seal_width_of(header) == SEAL_SHORT;
    RU_CHECK(encryption != 0 && present <= RU_BODY_MAX);
    *out = (struct ru_unsealed){0};
    if (encryption != 5)
        second = NULL;
    if (!first || (encryption == 5 && !second))
        return small ? RU_STATUS_ENCRYPTION : RU_STATUS_KEY_COIN_NOT_FOUND;
    if (small && is_public)
        return RU_STATUS_EMPTY_REQUEST;
    const uint32_t announced = ru_get_u16(
        header + (small ? RU_REQUEST_SMALL_BODY_SIZE_AT : RU_REQUEST_LARGE_BODY_SIZE_AT));
    if (announced == 0)
        return RU_STATUS_OK;
    const enum ru_status status =
        seal_look(body, present, announced, small ? RU_PLAIN_BODY_MIN : RU_SEALED_BODY_MIN);
    if (status != RU_STATUS_OK)
        return status;
    return seal_open_body(seal, header, body, announced, first, second, out);
}

/* ---- replies ---- */

void ru_seal_draw_nonce(struct ru_seal *seal, const uint8_t *header, uint8_t *nonce)
{
    if (seal->random_left == 0) {
        RU_CHECK(getrandom(seal->random, sizeof(seal->random), 0) == sizeof(seal->random));
        seal->random_left = sizeof(seal->random);
    }
    seal->random_left -= RU_REPLY_NONCE_SIZE;
    memcpy(nonce, seal->random + seal->random_left, RU_REPLY_NONCE_SIZE);
    if (header[RU_REQUEST_ENCRYPTION_AT] == 5) /* the header shows the whole counter block */
        memcpy(nonce, header + RU_REQUEST_LARGE_SECOND_COIN_AT, RU_COIN_NAME_SIZE);
}

uint32_t ru_seal_reply_size(const uint8_t *header, uint32_t payload_size)
{
    const bool mac = payload_size > 0 && seal_width_of(header) == SEAL_LONG;
    return payload_size + (mac ? RU_HMAC_SIZE : 0);
}

int ru_seal_reply(struct ru_seal *seal, const uint8_t *header, const struct ru_unsealed *from,
                  const uint8_t *nonce, uint8_t *data, uint32_t payload_size)
{
    RU_CHECK(from->proved && payload_size <= RU_REPLY_MAX);
    uint8_t counter[RU_COUNTER_SIZE];
    bool sealed = true;
    if (seal_width_of(header) == SEAL_SHORT) {
        seal_short_counter(header, counter); /* the request's: the protocol wants it so */
        sealed = seal_cipher(seal, SEAL_SHORT, from->key, counter, data, payload_size);
    } else if (payload_size > 0) {
        sealed = seal_cipher(seal, SEAL_LONG, from->key, nonce, data, payload_size) &&
                 seal_hmac(seal, from->key, data, payload_size, data + payload_size);
    }
    return sealed ? 0 : -ENOMEM;
}

/* ---- keys ---- */

void ru_seal_wipe(struct ru_unsealed *unsealed)
{
    OPENSSL_cleanse(unsealed, sizeof(*unsealed));
}

void ru_seal_forget(struct ru_seal *seal)
{
    static const uint8_t zeros[RU_SEAL_KEY_MAX];
    for (uint32_t width = 0; width < SEAL_WIDTHS; width++) {
        uint8_t byte = 0;
        if (!seal->keyed[width])
            continue;
        /* Another key, and a byte for the block of the key stream that was not used up. */
        (void)seal_cipher(seal, width, zeros, zeros, &byte, sizeof(byte));
        seal->keyed[width] = false;
        if (width == SEAL_SHORT)
            continue;
        (void)EVP_MAC_init(seal->hmac, zeros, sizeof(zeros), NULL);
        /* Its state is the last key. */
        (void)EVP_DigestInit_ex2(seal->sha256, seal->library->sha256, NULL);
    }
}
