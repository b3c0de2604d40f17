/* test_seal.c: encrypted requests opened and replies sealed, beside a reference by one-shot calls.
 *
 * Also run under the thread sanitizer. What must hold: every type carries payloads of any length both
 * ways; what has not shown its key leaves neither key nor plain text behind; no byte outside header
 * and body is touched, however long they claim to be; threads share nothing but the algorithms;
 * libcrypto remembers nothing of a request that was forgotten.
 */
#include "seal/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <pthread.h>

#include "native.h"
#include "wire/body.h"

#define THREADS 4U
#define ROUNDS 2000U

static const uint8_t types[] = {1, 2, 4, 5};

/* Exactly as large as it must be, so that a byte too far is noticed. */
struct sealed {
    uint8_t header[RU_HEADER_LARGE];
    uint8_t an[2][RU_AN_SIZE];
    uint8_t key[RU_SEAL_KEY_MAX];
    uint8_t *body; /* on the heap */
    uint8_t *payload;
    uint32_t size, payload_size;
};

static bool is_long(uint8_t type)
{
    return type > RU_SMALL_TYPE_MAX;
}

static void reference_ctr(uint8_t type, const uint8_t *key, const uint8_t *counter, uint8_t *data,
                          uint32_t size)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int done = 0;
    EXPECT(EVP_EncryptInit_ex2(context, is_long(type) ? EVP_aes_256_ctr() : EVP_aes_128_ctr(), key,
                               counter, NULL) == 1);
    if (size > 0)
        EXPECT(EVP_EncryptUpdate(context, data, &done, data, (int)size) == 1);
    EVP_CIPHER_CTX_free(context);
}

static void reference_hmac(const uint8_t *key, const uint8_t *data, uint32_t size, uint8_t *out)
{
    unsigned written = RU_HMAC_SIZE;
    EXPECT(HMAC(EVP_sha256(), key, RU_SEAL_KEY_MAX, data, size, out, &written) != NULL);
}

static void reference_key(struct sealed *sealed, uint8_t type)
{
    uint8_t both[2 * RU_AN_SIZE];
    memcpy(both, sealed->an[0], RU_AN_SIZE);
    memcpy(both + RU_AN_SIZE, sealed->an[1], RU_AN_SIZE);
    memcpy(sealed->key, both, RU_AN_SIZE);
    if (is_long(type))
        (void)SHA256(both, type == 5 ? sizeof(both) : RU_AN_SIZE, sealed->key);
}

static void request_counter(const uint8_t *header, uint8_t *counter)
{
    memset(counter, 0, RU_COUNTER_SIZE);
    if (is_long(header[RU_REQUEST_ENCRYPTION_AT]))
        memcpy(counter, header + RU_REQUEST_LARGE_NONCE_AT, RU_COUNTER_SIZE);
    else
        memcpy(counter, header + RU_REQUEST_SMALL_NONCE_AT, RU_REQUEST_SMALL_NONCE_SIZE);
}

/* A request as a client seals it. */
static struct sealed seal_request(uint8_t type, uint32_t payload_size, struct ru_random *random)
{
    uint32_t least = is_long(type) ? RU_SEALED_BODY_MIN : RU_PLAIN_BODY_MIN;
    struct sealed sealed = {.size = least + payload_size, .payload_size = payload_size};
    uint8_t counter[RU_COUNTER_SIZE];
    ru_random_fill(random, sealed.an[0], sizeof(sealed.an));
    (void)native_header(sealed.header, type, NATIVE_WORKER, (uint16_t)sealed.size,
                        (uint8_t)native_random(random));
    reference_key(&sealed, type);
    request_counter(sealed.header, counter);
    sealed.body = malloc(sealed.size);
    sealed.payload = malloc(payload_size + 1);
    if (!sealed.body || !sealed.payload)
        abort();
    if (is_long(type)) {
        ru_random_fill(random, sealed.body, payload_size);
        memcpy(sealed.payload, sealed.body, payload_size);
        reference_ctr(type, sealed.key, counter, sealed.body, payload_size);
        reference_hmac(sealed.key, sealed.body, payload_size, sealed.body + payload_size);
    } else {
        native_body(sealed.body, sealed.size, random);
        memcpy(sealed.payload, sealed.body + RU_CHALLENGE_SIZE, payload_size);
        reference_ctr(type, sealed.key, counter, sealed.body, sealed.size - RU_TERMINATOR_SIZE);
    }
    memset(sealed.body + sealed.size - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
    return sealed;
}

static void sealed_free(struct sealed *sealed)
{
    free(sealed->body);
    free(sealed->payload);
}

static int open_it(struct ru_seal *seal, struct sealed *sealed, struct ru_unsealed *out)
{
    return ru_seal_open(seal, sealed->header, sealed->body, sealed->size, sealed->an[0],
                        sealed->an[1], 0, out);
}

/* What a client makes of the reply's body. */
static void expect_reply(struct ru_seal *seal, const struct sealed *sealed,
                         const struct ru_unsealed *from, uint32_t size, struct ru_random *random)
{
    uint8_t type = sealed->header[RU_REQUEST_ENCRYPTION_AT];
    uint8_t nonce[RU_REPLY_NONCE_SIZE] = {0};
    uint8_t counter[RU_COUNTER_SIZE];
    uint8_t seen[RU_HMAC_SIZE];
    uint32_t whole = ru_seal_reply_size(sealed->header, size);
    EXPECT_EQUAL(whole, size + (size > 0 && is_long(type) ? RU_HMAC_SIZE : 0));
    uint8_t *data = malloc(whole + 1);
    uint8_t *clear = malloc(size + 1);
    if (!data || !clear)
        abort();
    ru_random_fill(random, clear, size);
    memcpy(data, clear, size);
    request_counter(sealed->header, counter);
    if (is_long(type)) {
        ru_seal_draw_nonce(seal, sealed->header, nonce);
        memcpy(counter, nonce, RU_COUNTER_SIZE);
        if (type == 5)
            EXPECT_BYTES(nonce, sealed->header + RU_REQUEST_LARGE_SECOND_COIN_AT,
                         RU_COIN_NAME_SIZE);
    }
    EXPECT_EQUAL(ru_seal_reply(seal, sealed->header, from, nonce, data, size), 0);
    if (whole > size) {
        reference_hmac(sealed->key, data, size, seen);
        EXPECT_BYTES(data + size, seen, RU_HMAC_SIZE);
    }
    reference_ctr(type, sealed->key, counter, data, size);
    EXPECT_BYTES(data, clear, size);
    free(data);
    free(clear);
}

static struct ru_seal_library *library;

static void test_round_trips(void)
{
    struct ru_random random = {native_seed()};
    struct ru_seal *seal = ru_seal_create(library);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint8_t type = types[round % 4];
        uint32_t most =
            is_long(type) ? RU_BODY_MAX - RU_SEALED_BODY_MIN : RU_BODY_MAX - RU_PLAIN_BODY_MIN;
        uint32_t size = round < 400 ? round / 4 : native_below(&random, 2000);
        if (round % 400 >= 396)
            size = most;
        struct sealed sealed = seal_request(type, size, &random);
        struct ru_unsealed out;
        EXPECT_EQUAL(open_it(seal, &sealed, &out), RU_STATUS_OK);
        EXPECT_EQUAL(out.proved, 1);
        EXPECT_EQUAL(out.payload_size, size);
        EXPECT_EQUAL(out.payload_at, is_long(type) ? 0 : RU_CHALLENGE_SIZE);
        EXPECT_BYTES(sealed.body + out.payload_at, sealed.payload, size);
        for (uint32_t i = 0; !is_long(type) && i < RU_CHALLENGE_SIZE; i++)
            EXPECT_EQUAL(out.challenge[i], sealed.body[i] ^ sealed.an[0][i]);
        if (native_below(&random, 4) == 0)
            ru_seal_forget(seal);
        expect_reply(seal, &sealed, &out, native_below(&random, 300), &random);
        expect_reply(seal, &sealed, &out, size, &random);
        ru_seal_wipe(&out);
        EXPECT_EQUAL(out.proved, 0);
        sealed_free(&sealed);
    }
    ru_seal_destroy(seal);
}

static void expect_nothing(const struct ru_unsealed *out)
{
    static const struct ru_unsealed nothing;
    EXPECT(memcmp(out, &nothing, sizeof(nothing)) == 0);
}

static void test_every_damaged_bit_of_a_body(void)
{
    struct ru_random random = {native_seed() + 1};
    struct ru_seal *seal = ru_seal_create(library);
    for (uint32_t type = 0; type < sizeof(types); type++)
        for (uint32_t bit = 0; bit < 8 * 60; bit++) {
            struct sealed sealed = seal_request(types[type], 26, &random);
            struct ru_unsealed out;
            uint32_t at = bit / 8;
            bool ends = at >= sealed.size - RU_TERMINATOR_SIZE;
            if (at < sealed.size) {
                sealed.body[at] ^= (uint8_t)(1U << bit % 8);
                bool proved = !is_long(types[type]) && !ends && at >= RU_CHALLENGE_SIZE;
                int expected = is_long(types[type]) ? RU_STATUS_HMAC : RU_STATUS_CRC;
                if (ends)
                    expected = RU_STATUS_EOF;
                EXPECT_EQUAL(open_it(seal, &sealed, &out), proved ? RU_STATUS_OK : expected);
                if (!proved)
                    expect_nothing(&out);
                for (uint32_t i = 0; !proved && !ends && i < sealed.size; i++)
                    EXPECT_EQUAL(sealed.body[i], 0);
            }
            sealed_free(&sealed);
        }
    ru_seal_destroy(seal);
}

static void test_keys_that_are_not_there(void)
{
    struct ru_random random = {native_seed() + 2};
    struct ru_seal *seal = ru_seal_create(library);
    for (uint32_t i = 0; i < sizeof(types); i++) {
        struct sealed sealed = seal_request(types[i], 5, &random);
        const int unknown = is_long(types[i]) ? RU_STATUS_KEY_COIN_NOT_FOUND : RU_STATUS_ENCRYPTION;
        const uint8_t *names[RU_SEAL_COINS_MAX];
        struct ru_unsealed out;
        static const uint32_t counts[] = {1, 0, 1, 2};
        EXPECT_EQUAL(ru_seal_coins(sealed.header, names), counts[i]);
        for (uint32_t is_public = 0; is_public < 2; is_public++) {
            EXPECT_EQUAL(ru_seal_open(seal, sealed.header, sealed.body, sealed.size, NULL,
                                      sealed.an[1], is_public, &out),
                         unknown);
            expect_nothing(&out);
        }
        if (types[i] == 5)
            EXPECT_EQUAL(ru_seal_open(seal, sealed.header, sealed.body, sealed.size, sealed.an[0],
                                      NULL, 0, &out),
                         unknown);
        EXPECT_EQUAL(ru_seal_open(seal, sealed.header, sealed.body, sealed.size, sealed.an[0],
                                  sealed.an[1], 1, &out),
                     is_long(types[i]) ? RU_STATUS_OK : RU_STATUS_EMPTY_REQUEST);
        sealed_free(&sealed);
    }
    ru_seal_destroy(seal);
}

/* Headers and bodies of noise: nothing but a status comes of them. */
static void test_noise(void)
{
    struct ru_random random = {native_seed() + 3};
    struct ru_seal *seal = ru_seal_create(library);
    for (uint32_t round = 0; round < 50 * ROUNDS; round++) {
        struct ru_unsealed out;
        uint8_t an[2][RU_AN_SIZE] = {{1}, {2}};
        uint32_t announced = native_below(&random, 80);
        uint32_t present =
            native_below(&random, 4) > 0 ? announced : native_below(&random, announced + 1);
        uint8_t type = types[native_below(&random, 4)];
        uint8_t size = is_long(type) ? RU_HEADER_LARGE : RU_HEADER_SMALL;
        uint8_t *header = malloc(size);
        uint8_t *body = malloc(present + (present == 0));
        if (!header || !body)
            abort();
        (void)native_header(header, type, NATIVE_WORKER, (uint16_t)announced, (uint8_t)round);
        ru_random_fill(&random, body, present);
        if (present >= RU_TERMINATOR_SIZE && native_below(&random, 2) == 0)
            memset(body + present - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
        int status = ru_seal_open(seal, header, body, present, an[0], an[1], 0, &out);
        if (announced == 0)
            EXPECT_EQUAL(status, RU_STATUS_OK);
        else
            EXPECT(status == RU_STATUS_PACKET_LENGTH || status == RU_STATUS_EOF ||
                   status == (is_long(type) ? RU_STATUS_HMAC : RU_STATUS_CRC));
        EXPECT(present == announced || announced == 0 || status == RU_STATUS_PACKET_LENGTH);
        expect_nothing(&out);
        free(header);
        free(body);
    }
    ru_seal_destroy(seal);
}

static void test_nonces_differ(void)
{
    struct ru_random random = {native_seed() + 4};
    struct ru_seal *seal = ru_seal_create(library);
    struct sealed four = seal_request(4, 0, &random), five = seal_request(5, 0, &random);
    static uint8_t drawn[200][RU_REPLY_NONCE_SIZE];
    for (uint32_t i = 0; i < 200; i++) {
        ru_seal_draw_nonce(seal, i % 2 ? four.header : five.header, drawn[i]);
        for (uint32_t k = 0; k < i; k++)
            EXPECT(memcmp(drawn[i] + RU_COIN_NAME_SIZE, drawn[k] + RU_COIN_NAME_SIZE,
                          RU_REPLY_NONCE_SIZE - RU_COIN_NAME_SIZE) != 0);
    }
    sealed_free(&four);
    sealed_free(&five);
    ru_seal_destroy(seal);
}

static void test_what_a_caller_must_not_do(void)
{
    struct ru_random random = {native_seed() + 5};
    struct ru_seal *seal = ru_seal_create(library);
    struct sealed sealed = seal_request(1, 5, &random);
    const struct ru_unsealed nothing = {0};
    uint8_t data[64] = {0};
    struct ru_unsealed out;
    EXPECT_ABORT((void)ru_seal_reply(seal, sealed.header, &nothing, data, data, 5));
    sealed.header[RU_REQUEST_ENCRYPTION_AT] = 0;
    EXPECT_ABORT((void)open_it(seal, &sealed, &out));
    sealed_free(&sealed);
    ru_seal_destroy(seal);
    ru_seal_destroy(NULL);
    ru_seal_library_destroy(NULL);
}

static void *round_trips(void *self)
{
    struct ru_random random = {native_seed() + (uint64_t)(uintptr_t)self};
    struct ru_seal *seal = ru_seal_create(library);
    uintptr_t wrong = 0;
    for (uint32_t round = 0; round < ROUNDS / 4; round++) {
        struct sealed sealed = seal_request(types[round % 4], round % 50, &random);
        struct ru_unsealed out;
        wrong += open_it(seal, &sealed, &out) != RU_STATUS_OK;
        wrong += memcmp(sealed.body + out.payload_at, sealed.payload, round % 50) != 0;
        sealed_free(&sealed);
    }
    ru_seal_destroy(seal);
    return (void *)wrong;
}

static void test_threads_share_a_library(void)
{
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, round_trips, (void *)i) != 0)
            abort();
    for (uint32_t i = 0; i < THREADS; i++) {
        void *wrong;
        (void)pthread_join(threads[i], &wrong);
        EXPECT_EQUAL((uintptr_t)wrong, 0);
    }
}

/* ---- what libcrypto remembers ---- */

/* Every block of memory that libcrypto has. */
struct block {
    struct block *next, **link;
    size_t size;
    uint8_t bytes[] __attribute__((aligned(16)));
};

static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;

static void *block_take(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    struct block *made = calloc(1, sizeof(*made) + size);
    if (!made)
        return NULL;
    made->size = size;
    (void)pthread_mutex_lock(&blocks_lock);
    made->next = blocks;
    made->link = &blocks;
    if (blocks)
        blocks->link = &made->next;
    blocks = made;
    (void)pthread_mutex_unlock(&blocks_lock);
    return made->bytes;
}

static void block_give(void *bytes, const char *file, int line)
{
    (void)file;
    (void)line;
    if (!bytes)
        return;
    struct block *block =
        (struct block *)(void *)((uint8_t *)bytes - offsetof(struct block, bytes));
    (void)pthread_mutex_lock(&blocks_lock);
    *block->link = block->next;
    if (block->next)
        block->next->link = block->link;
    (void)pthread_mutex_unlock(&blocks_lock);
    free(block);
}

static void *block_change(void *bytes, size_t size, const char *file, int line)
{
    void *made = block_take(size, file, line);
    if (!bytes || !made)
        return made;
    const struct block *before =
        (const struct block *)(const void *)((uint8_t *)bytes - offsetof(struct block, bytes));
    memcpy(made, bytes, before->size < size ? before->size : size);
    block_give(bytes, file, line);
    return made;
}

/* How many blocks have these bytes anywhere. */
static uint32_t blocks_with(const uint8_t *bytes, size_t size)
{
    uint32_t count = 0;
    for (const struct block *block = blocks; block; block = block->next)
        for (size_t at = 0; at + size <= block->size; at++)
            if (memcmp(block->bytes + at, bytes, size) == 0) {
                count++;
                break;
            }
    return count;
}

/* Also with the bytes of each word the other way round, as a hash has its state. */
static uint32_t secrets_of(const uint8_t *bytes)
{
    uint8_t turned[8];
    for (uint32_t i = 0; i < sizeof(turned); i++)
        turned[i] = bytes[i ^ 3];
    return blocks_with(bytes, sizeof(turned)) + blocks_with(turned, sizeof(turned));
}

static void test_nothing_is_remembered(void)
{
    struct ru_random random = {7};
    struct ru_seal *seal = ru_seal_create(library);
    for (uint32_t i = 0; i < sizeof(types); i++) {
        struct sealed sealed = seal_request(types[i], 1001, &random);
        struct ru_unsealed opened;
        uint8_t nonce[RU_REPLY_NONCE_SIZE];
        uint8_t data[1001 + RU_HMAC_SIZE];
        uint8_t stream[1001] = {0}; /* what the reply is encrypted with */
        EXPECT_EQUAL(open_it(seal, &sealed, &opened), RU_STATUS_OK);
        ru_seal_draw_nonce(seal, sealed.header, nonce);
        memset(data, 0, sizeof(data));
        EXPECT_EQUAL(ru_seal_reply(seal, sealed.header, &opened, nonce, data, 1001), 0);
        memcpy(stream, data, sizeof(stream));
        EXPECT(secrets_of(sealed.key) > 0);
        ru_seal_wipe(&opened);
        ru_seal_forget(seal);
        EXPECT_EQUAL(secrets_of(sealed.key), 0);
        EXPECT_EQUAL(secrets_of(sealed.an[0]), 0);
        EXPECT_EQUAL(secrets_of(stream + 1001 - 9),
                     0); /* the last, incomplete block: 992 to 1007 */
        sealed_free(&sealed);
    }
    ru_seal_destroy(seal);
}

int main(void)
{
    EXPECT(CRYPTO_set_mem_functions(block_take, block_change, block_give) == 1);
    library = ru_seal_library_create();
    if (!library)
        abort();
    RUN(test_round_trips);
    RUN(test_every_damaged_bit_of_a_body);
    RUN(test_keys_that_are_not_there);
    RUN(test_noise);
    RUN(test_nonces_differ);
    RUN(test_what_a_caller_must_not_do);
    RUN(test_nothing_is_remembered);
    RUN(test_threads_share_a_library);
    ru_seal_library_destroy(library);
    return native_finish();
}
