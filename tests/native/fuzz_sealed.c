/* fuzz_sealed.c: libFuzzer target: whatever stands in an encrypted request.
 *
 * Invariant, for all bodies, announced sizes and ANs, behind a header that header decisions pass:
 * - The status is the first one of docs/wire.md's tests that fails.
 * - What was sealed with the right key is opened to what it was, and its reply as well.
 * - A request that is refused leaves neither a key nor anything decrypted behind.
 * - No byte is touched but those of header and body, which are exactly as large as they say.
 *
 * Input: SETTINGS bytes (struct script says what they mean), ANs and header, then the body.
 * Replay: build/fuzz/sealed FILE. Memory: one thread's contexts, made at the first input.
 */
#include "seal/seal.h"

#include <openssl/sha.h>

#include "native.h"

#define SETTINGS 3
#define FRONT (SETTINGS + 2 * RU_AN_SIZE + RU_HEADER_LARGE)

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            seal_fail(__LINE__, #condition);                                                       \
    } while (0)

_Noreturn static void seal_fail(int line, const char *what)
{
    (void)fprintf(stderr, "fuzz_sealed.c:%d: not true: %s\n", line, what);
    abort();
}

/* What an input means. */
struct script {
    uint8_t type;
    bool is_public;
    bool known[2]; /* whether the ANs are there */
    bool well;     /* the body is sealed with the right key before it is opened */
    bool ends;     /* the terminator is put behind it */
    uint32_t announced;
    uint32_t present;
    uint8_t *header, *body; /* on the heap, exactly as large */
    const uint8_t *ans[2];
};

static bool script_is_long(const struct script *script)
{
    return script->type > RU_SMALL_TYPE_MAX;
}

static struct script script_read(const uint8_t *input, size_t size)
{
    static const uint8_t types[] = {1, 2, 4, 5};
    const uint8_t *rest = input + FRONT;
    const uint32_t rest_size = (uint32_t)(size - FRONT);
    struct script script = {.type = types[input[0] & 3],
                            .is_public = input[0] & 4,
                            .known = {!(input[0] & 8), !(input[0] & 16)},
                            .well = input[0] & 32,
                            .ends = input[0] & 64,
                            .announced = rest_size,
                            .present = rest_size};
    if (input[0] & 128) /* cut, or announced shorter than what is there */
        script.announced = (uint32_t)(input[1] << 8 | input[2]);
    if (script.present > script.announced)
        script.present = script.announced;
    const uint8_t header_size = script_is_long(&script) ? RU_HEADER_LARGE : RU_HEADER_SMALL;
    script.header = malloc(header_size);
    script.body = malloc(script.present + (script.present == 0));
    if (!script.header || !script.body)
        abort();
    memcpy(script.header, input + SETTINGS + 2 * RU_AN_SIZE, header_size);
    script.header[RU_REQUEST_ENCRYPTION_AT] = script.type;
    uint8_t *at = script.header + (script_is_long(&script) ? RU_REQUEST_LARGE_BODY_SIZE_AT
                                                           : RU_REQUEST_SMALL_BODY_SIZE_AT);
    at[0] = (uint8_t)(script.announced >> 8);
    at[1] = (uint8_t)script.announced;
    memcpy(script.body, rest, script.present);
    if (script.ends && script.present >= RU_TERMINATOR_SIZE)
        memset(script.body + script.present - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE,
               RU_TERMINATOR_SIZE);
    for (uint32_t i = 0; i < 2; i++)
        script.ans[i] = script.known[i] ? input + SETTINGS + (size_t)i * RU_AN_SIZE : NULL;
    return script;
}

static struct ru_unsealed script_key(const struct script *script)
{
    struct ru_unsealed key = {.proved = 1};
    uint8_t both[2 * RU_AN_SIZE];
    memcpy(key.key, script->ans[0], RU_AN_SIZE);
    memcpy(both, script->ans[0], RU_AN_SIZE);
    if (script->type == 5)
        memcpy(both + RU_AN_SIZE, script->ans[1], RU_AN_SIZE);
    if (script_is_long(script))
        (void)SHA256(both, script->type == 5 ? sizeof(both) : RU_AN_SIZE, key.key);
    return key;
}

/* The status that does not depend on whether the key is right; OK if that decides. */
static enum ru_status script_foresee(const struct script *script)
{
    const uint32_t least = script_is_long(script) ? RU_SEALED_BODY_MIN : RU_PLAIN_BODY_MIN;
    const uint32_t size = script->announced;
    if (!script->ans[0] || (script->type == 5 && !script->ans[1]))
        return script_is_long(script) ? RU_STATUS_KEY_COIN_NOT_FOUND : RU_STATUS_ENCRYPTION;
    if (script->is_public && !script_is_long(script))
        return RU_STATUS_EMPTY_REQUEST;
    if (size == 0)
        return RU_STATUS_OK;
    if (script->present < size || size < RU_TERMINATOR_SIZE)
        return RU_STATUS_PACKET_LENGTH;
    if (script->body[size - 1] != RU_TERMINATOR_BYTE ||
        script->body[size - 2] != RU_TERMINATOR_BYTE)
        return RU_STATUS_EOF;
    return size < least ? RU_STATUS_PACKET_LENGTH : RU_STATUS_OK;
}

/* Encrypt the body as a client does. Of a long type without a payload there is nothing to encrypt;
 * its HMAC is left as it is: false. */
static bool script_seal(struct script *script, struct ru_seal *seal)
{
    const struct ru_unsealed key = script_key(script);
    if (script_is_long(script)) {
        const uint32_t size = script->announced - RU_SEALED_BODY_MIN;
        MUST(ru_seal_reply(seal, script->header, &key, script->header + RU_REQUEST_LARGE_NONCE_AT,
                           script->body, size) == 0);
        return size > 0;
    }
    const uint32_t crc = ru_body_crc32(script->body, RU_CHALLENGE_RANDOM_SIZE);
    for (uint32_t i = 0; i < 4; i++)
        script->body[RU_CHALLENGE_CRC_AT + i] = (uint8_t)(crc >> (24 - 8 * i));
    MUST(ru_seal_reply(seal, script->header, &key, NULL, script->body,
                       script->announced - RU_TERMINATOR_SIZE) == 0);
    return true;
}

/* Open it. clear: the body before it was encrypted, whose payload must come out again; or NULL. */
static void script_open(const struct script *script, struct ru_seal *seal, enum ru_status foreseen,
                        const uint8_t *clear)
{
    static const struct ru_unsealed nothing;
    struct ru_unsealed out;
    int status = ru_seal_open(seal, script->header, script->body, script->present, script->ans[0],
                              script->ans[1], script->is_public, &out);
    if (foreseen != RU_STATUS_OK || script->announced == 0) {
        MUST(status == (int)foreseen && memcmp(&out, &nothing, sizeof(out)) == 0);
        return;
    }
    if (!clear) {
        MUST(status == (script_is_long(script) ? RU_STATUS_HMAC : RU_STATUS_CRC));
        MUST(memcmp(&out, &nothing, sizeof(out)) == 0);
        for (uint32_t i = 0; i < script->present; i++)
            MUST(script->body[i] == 0);
        return;
    }
    MUST(status == RU_STATUS_OK && out.proved == 1);
    MUST(out.payload_at + out.payload_size <= script->announced);
    MUST(memcmp(script->body + out.payload_at, clear + out.payload_at, out.payload_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static struct ru_seal_library *library;
    static struct ru_seal *seal;
    static uint8_t clear[RU_BODY_MAX];
    if (!library) {
        library = ru_seal_library_create();
        seal = ru_seal_create(library);
    }
    if (size < FRONT || size - FRONT > RU_BODY_MAX)
        return 0;
    struct script script = script_read(input, size);
    enum ru_status foreseen = script_foresee(&script);
    bool sealed = false;
    if (foreseen == RU_STATUS_OK && script.announced > 0 && script.well) {
        memcpy(clear, script.body, script.announced);
        sealed = script_seal(&script, seal);
    }
    script_open(&script, seal, foreseen, sealed ? clear : NULL);
    free(script.header);
    free(script.body);
    return 0;
}
