/* test_header.c: header decisions in the specification's order, and every reply layout.
 *
 * Source: protocol specification 2.4 (decisions), 3.2 (CRC), 3.5 (body), 4.1 to 4.3 (replies).
 */
#include "wire/body.h"
#include "wire/reply.h"
#include "native.h"

static const uint8_t encryptions[] = {0, 1, 2, 4, 5};
#define ENCRYPTIONS_COUNT (sizeof(encryptions) / sizeof(encryptions[0]))

static uint8_t classes[RU_COMMANDS_COUNT] = {[NATIVE_ECHO] = RU_CLASS_ECHO,
                                             [NATIVE_WORKER] = RU_CLASS_ORDINARY,
                                             [NATIVE_SLOW] = RU_CLASS_SLOW};
static const struct ru_identity identity = {
    .raida_id = NATIVE_RAIDA_ID, .coin_id = NATIVE_COIN_ID, .classes = classes};

/* ---- decisions ---- */

/* Each line of the list: a byte, a value that fails its test, the status. */
static const struct {
    uint8_t at, value, status;
} faults[] = {
    {0, 2, 255}, /* routing */
    {1, 1, 2},   /* split id */
    {2, 15, 3},  /* raida id */
    {4, 16, 5},  /* group, before the shard */
    {3, 4, 4},   /* shard */
    {5, 99, 6},  /* command */
    {7, 7, 7},   /* coin id */
    {16, 3, 27}, /* encryption type */
};
#define FAULTS_COUNT (sizeof(faults) / sizeof(faults[0]))

/* Every set of faults at once: the first of the list is the answer. */
static void test_the_first_fault_wins(void)
{
    for (uint32_t e = 0; e < ENCRYPTIONS_COUNT; e++) {
        for (uint32_t set = 0; set < 1U << FAULTS_COUNT; set++) {
            uint8_t bytes[RU_HEADER_LARGE] = {0};
            struct ru_header header;
            uint8_t want = RU_STATUS_OK;
            (void)native_header(bytes, encryptions[e], NATIVE_WORKER, 18, 0);
            for (uint32_t i = FAULTS_COUNT; i > 0; i--) {
                if (set & 1U << (i - 1)) {
                    bytes[faults[i - 1].at] = faults[i - 1].value;
                    want = faults[i - 1].status;
                }
            }
            EXPECT_EQUAL(ru_header_decide(&identity, bytes, &header), want);
        }
    }
}

/* What one byte of an otherwise valid worker's header decides. */
static uint8_t status_of(uint32_t at, uint8_t value)
{
    switch (at) {
    case 0:
        return value == 1 ? 0 : 255;
    case 1:
        return value == 0 ? 0 : 2;
    case 2:
        return value == NATIVE_RAIDA_ID ? 0 : 3;
    case 3:
        return value <= 3 ? 0 : 4;
    case 4:
        return value == NATIVE_WORKER >> 8 ? 0 : value > 15 ? 5 : 6;
    case 5:
        return value == (NATIVE_WORKER & 0xFF) ? 0 : 6;
    case 6:
        return value == 0 ? 0 : 7;
    case 7:
        return value == NATIVE_COIN_ID ? 0 : 7;
    case 16:
        return value <= 2 || value == 4 || value == 5 ? 0 : 27;
    default:
        return 0;
    }
}

static void test_every_value_of_every_byte(void)
{
    for (uint32_t e = 0; e < ENCRYPTIONS_COUNT; e++) {
        for (uint32_t at = 0; at < RU_HEADER_LARGE; at++) {
            for (uint32_t value = 0; value < 256; value++) {
                uint8_t bytes[RU_HEADER_LARGE] = {0};
                struct ru_header header;
                (void)native_header(bytes, encryptions[e], NATIVE_WORKER, 0x1234, 0xA5);
                bytes[at] = (uint8_t)value;
                bool small = bytes[16] <= 2;
                uint32_t length_at = small ? 22 : 17;
                EXPECT_EQUAL(ru_header_decide(&identity, bytes, &header),
                             status_of(at, (uint8_t)value));
                EXPECT_EQUAL(header.size, small ? 32 : 48);
                EXPECT_EQUAL(header.encryption, bytes[16]);
                EXPECT_EQUAL(header.body_size, bytes[length_at] * 256 + bytes[length_at + 1]);
            }
        }
    }
}

/* All 65,536 group and command bytes, with lanes drawn at random. */
static void test_every_command(void)
{
    static uint8_t drawn[RU_COMMANDS_COUNT];
    struct ru_random random = {native_seed()};
    struct ru_identity other = identity;
    other.classes = drawn;
    for (uint32_t i = 0; i < RU_COMMANDS_COUNT; i++)
        drawn[i] = (uint8_t)native_below(&random, 4);
    for (uint32_t command = 0; command < 65536; command++) {
        uint8_t bytes[RU_HEADER_LARGE];
        struct ru_header header;
        (void)native_header(bytes, 0, (enum native_command)command, 0, 0);
        enum ru_status status = ru_header_decide(&other, bytes, &header);
        uint8_t lane = command < RU_COMMANDS_COUNT ? drawn[command] : RU_CLASS_NONE;
        EXPECT_EQUAL(header.lane, lane);
        EXPECT_EQUAL(status, command >= RU_COMMANDS_COUNT ? 5 : lane == RU_CLASS_NONE ? 6 : 0);
    }
}

static void test_coin_id_has_two_bytes(void)
{
    struct ru_identity other = identity;
    uint8_t bytes[RU_HEADER_LARGE];
    struct ru_header header;
    other.coin_id = 0x0102;
    (void)native_header(bytes, 0, NATIVE_ECHO, 0, 0);
    EXPECT_EQUAL(ru_header_decide(&other, bytes, &header), 7);
    bytes[6] = 1;
    bytes[7] = 2;
    EXPECT_EQUAL(ru_header_decide(&other, bytes, &header), RU_STATUS_OK);
}

static void test_scope_of_each_status(void)
{
    for (uint32_t i = 0; i < FAULTS_COUNT; i++) {
        enum ru_scope want = faults[i].status == 7    ? RU_SCOPE_GROUP
                             : faults[i].status == 27 ? RU_SCOPE_TYPE
                                                      : RU_SCOPE_NOTHING;
        EXPECT_EQUAL(ru_reply_scope((enum ru_status)faults[i].status), want);
    }
}

/* ---- bodies ---- */

static void test_crc_check_values(void)
{
    uint8_t bytes[12] = {0};
    EXPECT_EQUAL(ru_body_crc32(bytes, 12), 0x7BD5C66F);
    memset(bytes, 0xFF, sizeof(bytes));
    EXPECT_EQUAL(ru_body_crc32(bytes, 12), 0xBB99FF8A);
    EXPECT_EQUAL(ru_body_crc32((const uint8_t *)"Hello World!", 12), 0x1C291CA3);
    EXPECT_EQUAL(ru_body_crc32((const uint8_t *)"123456789", 9), 0xCBF43926);
    EXPECT_EQUAL(ru_body_crc32(bytes, 0), 0);
}

static void test_plain_body_decisions(void)
{
    struct ru_random random = {native_seed()};
    for (size_t size = 1; size < 100; size++) {
        uint8_t body[100];
        const uint8_t *challenge;
        native_body(body, size, &random);
        uint8_t valid = size < 18 ? 16 : RU_STATUS_OK;
        EXPECT_EQUAL(ru_body_check_plain(body, size, &challenge), valid);
        EXPECT(challenge == (size < 18 ? NULL : body));
        for (size_t at = 0; at < size; at++) {
            uint8_t want = size < 2 ? 16 : at + 2 >= size ? 33 : size < 18 ? 16 : at < 16 ? 37 : 0;
            body[at] ^= 0x10;
            EXPECT_EQUAL(ru_body_check_plain(body, size, &challenge), want);
            EXPECT(challenge == (want == 37 || want == 0 ? body : NULL));
            body[at] ^= 0x10;
        }
    }
}

/* ---- replies ---- */

/* A request whose every byte tells where it stood: 80, 81, ... in hexadecimal. */
static void request_marked(uint8_t *request, uint8_t encryption)
{
    for (uint32_t i = 0; i < RU_HEADER_LARGE; i++)
        request[i] = (uint8_t)(0x80 + i);
    request[16] = encryption;
}

static const uint8_t challenge[16] = {0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7,
                                      0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF};
static const uint8_t nonce[22] = {0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
                                  0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xE1, 0xE2, 0xE3, 0xE4, 0xE5};

/* Over a dirty buffer: what the layout does not name must be zero, what lies behind untouched. */
static void expect_reply(enum ru_scope scope, uint8_t encryption, const uint8_t *shown,
                         const uint8_t *want, uint8_t want_size)
{
    uint8_t request[RU_HEADER_LARGE], out[64];
    request_marked(request, encryption);
    memset(out, 0xEE, sizeof(out));
    struct ru_reply reply = {.raida_id = 0x0E,
                             .status = 0x5A,
                             .scope = (uint8_t)scope,
                             .execution_us = 0x01020304,
                             .body_size = 0x0A0B0C,
                             .request = request,
                             .challenge = shown,
                             .nonce = nonce};
    EXPECT_EQUAL(ru_reply_header_size(&reply), want_size);
    EXPECT_EQUAL(ru_reply_header_write(&reply, out), want_size);
    EXPECT_BYTES(out, want, want_size);
    EXPECT_EQUAL(out[want_size], 0xEE);
}

static void test_small_replies(void)
{
    static const uint8_t types[] = {0, 1, 2, 3, 4, 5, 255};
    uint8_t want[32] = {0x0E, 0, 0x5A, 0, 0, 1, 0, 0, 0, 0x0A, 0x0B, 0x0C, 1, 2, 3, 4};
    for (uint32_t i = 0; i < sizeof(types); i++) {
        want[3] = 0;
        expect_reply(RU_SCOPE_NOTHING, types[i], NULL, want, 32);
        want[3] = 0x84;
        expect_reply(RU_SCOPE_GROUP, types[i], NULL, want, 32);
    }
    want[6] = 0x80 + 30;
    want[7] = 0x80 + 31;
    for (uint8_t type = 0; type <= 2; type++)
        expect_reply(RU_SCOPE_ALL, type, NULL, want, 32);
    memcpy(want + 16, challenge, sizeof(challenge));
    for (uint8_t type = 0; type <= 2; type++)
        expect_reply(RU_SCOPE_ALL, type, challenge, want, 32);
}

static void test_large_replies(void)
{
    uint8_t want[48] = {0x0E, 0, 0x5A, 0x84, 1, 2, 3, 4, 0, 0x0A, 0x0B, 0x0C};
    memcpy(want + 24, nonce, sizeof(nonce));
    want[16] = 3;
    expect_reply(RU_SCOPE_TYPE, 3, NULL, want, 48);
    want[16] = 255;
    expect_reply(RU_SCOPE_TYPE, 255, NULL, want, 48);

    static const uint8_t first_coin[5] = {0x93, 0x94, 0x95, 0x96, 0x97};
    static const uint8_t second_coin[5] = {0x98, 0x99, 0x9A, 0x9B, 0x9C};
    want[16] = 4;
    memcpy(want + 17, first_coin, 5);
    want[46] = 0x80 + 46;
    want[47] = 0x80 + 47;
    expect_reply(RU_SCOPE_ALL, 4, NULL, want, 48);
    want[16] = 5;
    memcpy(want + 24, second_coin, 5);
    expect_reply(RU_SCOPE_ALL, 5, NULL, want, 48);
}

/* The worked echo of specification 4.4, through decision, body check and reply. */
static void test_worked_echo(void)
{
    static const uint8_t request[] = {0x01, 0x00, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x06, 0x01, 0x00,
                                      0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00,
                                      0x00, 0x00, 0x00, 0x12, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                      0x11, 0x22, 0x1d, 0x58, 0xf7, 0xbb, 0x84, 0xf8, 0x57, 0x6f,
                                      0x08, 0x97, 0xb3, 0x19, 0x0f, 0xdc, 0x2b, 0xd0, 0x3e, 0x3e};
    static const uint8_t want[] = {0x0e, 0x00, 0xfa, 0x00, 0x00, 0x01, 0x11, 0x22, 0x00, 0x00, 0x00,
                                   0x00, 0x00, 0x00, 0x00, 0x00, 0x1d, 0x58, 0xf7, 0xbb, 0x84, 0xf8,
                                   0x57, 0x6f, 0x08, 0x97, 0xb3, 0x19, 0x0f, 0xdc, 0x2b, 0xd0};
    static uint8_t echo_only[RU_COMMANDS_COUNT] = {[0x0000] = RU_CLASS_ECHO};
    struct ru_front front = {.identity = identity};
    struct ru_header header;
    uint8_t out[32];
    front.identity.classes = echo_only;
    EXPECT_EQUAL(ru_header_decide(&front.identity, request, &header), RU_STATUS_OK);
    EXPECT_EQUAL(header.body_size, 18);
    EXPECT_EQUAL(ru_fast_echo(&front, &header, request, request + 32, out), 32);
    EXPECT_BYTES(out, want, 32);
}

/* Refusals and echoes may be written over the request they answer. */
static void test_replies_in_place(void)
{
    struct ru_random random = {native_seed()};
    for (uint32_t e = 0; e < ENCRYPTIONS_COUNT; e++) {
        struct ru_front front = {.identity = identity, .random = {7}};
        uint8_t bytes[RU_HEADER_LARGE + 18], apart[RU_HEADER_LARGE];
        uint8_t size = native_header(bytes, encryptions[e], NATIVE_ECHO, 18, 0x77);
        native_body(bytes + size, 18, &random);
        EXPECT_EQUAL(ru_fast_refuse(&front, RU_STATUS_PACKET_LENGTH, RU_SCOPE_ALL, bytes, apart),
                     size);
        uint8_t copy[sizeof(bytes)];
        memcpy(copy, bytes, sizeof(bytes));
        front.random.state = 7;
        EXPECT_EQUAL(ru_fast_refuse(&front, RU_STATUS_PACKET_LENGTH, RU_SCOPE_ALL, copy, copy),
                     size);
        EXPECT_BYTES(copy, apart, size);

        struct ru_header header;
        EXPECT_EQUAL(ru_header_decide(&identity, bytes, &header), RU_STATUS_OK);
        uint32_t echoed = ru_fast_echo(&front, &header, bytes, bytes + size, apart);
        EXPECT_EQUAL(echoed, encryptions[e] == 0 ? 32 : 0);
        EXPECT_EQUAL(ru_fast_echo(&front, &header, bytes, bytes + size, bytes), echoed);
        EXPECT_BYTES(bytes, apart, echoed);
    }
}

int main(void)
{
    RUN(test_the_first_fault_wins);
    RUN(test_every_value_of_every_byte);
    RUN(test_every_command);
    RUN(test_coin_id_has_two_bytes);
    RUN(test_scope_of_each_status);
    RUN(test_crc_check_values);
    RUN(test_plain_body_decisions);
    RUN(test_small_replies);
    RUN(test_large_replies);
    RUN(test_worked_echo);
    RUN(test_replies_in_place);
    return native_finish();
}
