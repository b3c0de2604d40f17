/* test_command.c: commands in C, statuses in their order, edges, effects, memory.
 *
 * What must hold: no byte is read but the payload's, which are as many as they say, none written but
 * those of the scratch, as large as command.h says (address sanitizer); the first fault decides; a
 * refusal has no payload and no effect. tests/property/test_commands.py compares answers to a model.
 */
#include "commands/command.h"

#include "commands/distinct.h"
#include "commands/run.h"
#include "store_rig.h"

#define NOW_S 1796000000ULL /* November 2026 */
#define MONTH 45            /* as a record has it */
#define ROOM 65502U

static struct rig rig;
static struct ru_roots no_roots;
static struct ru_trees no_trees;
static struct ru_facts facts = {
    .version = "20250323",
    .version_size = 8,
    .has_admin_key = 1,
    .admin_key = "an operator's ke",
    .statistics = {1, 2, UINT64_MAX, 0x0102030405060708ULL},
    .roots = &no_roots,
    .trees = &no_trees,
};

/* A request, and what came of it. Memory of the exact size for each. */
struct call {
    uint8_t *payload;
    uint8_t *scratch;
    struct ru_command_request request;
    struct ru_command_reply reply;
};

static int call_run(struct call *call, struct ru_view *view, uint32_t number,
                    const uint8_t *payload, uint32_t size)
{
    const struct ru_command *command = ru_command_find(number);
    const bool light = command->light_max > 0 && size <= command->light_max;
    *call = (struct call){.payload = malloc(size + 1),
                          .scratch = malloc(light ? RU_COMMAND_LIGHT_SCRATCH : RU_COMMAND_SCRATCH)};
    if (!call->payload || !call->scratch)
        abort();
    uint8_t *at = call->payload + 1; /* not aligned, and its end is the allocation's */
    memcpy(at, payload, size);
    call->request =
        (struct ru_command_request){.payload = at, .size = size, .room = ROOM, .now_s = NOW_S};
    const struct ru_command_ground ground = {view, &facts, call->scratch};
    return ru_command_execute(command, &ground, &call->request, &call->reply);
}

static void call_end(struct call *call)
{
    free(call->payload);
    free(call->scratch);
}

/* The status of a reply without payload and effect. */
static uint32_t status_of(struct ru_view *view, uint32_t number, const uint8_t *payload,
                          uint32_t size)
{
    struct call call;
    EXPECT_EQUAL(call_run(&call, view, number, payload, size), 0);
    EXPECT_EQUAL(call.reply.size, 0);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_NONE);
    call_end(&call);
    return call.reply.status;
}

/* A coin with its AN, and `pan` behind it. */
static void coin_write(struct ru_view *view, uint8_t *at, int denomination, uint32_t serial,
                       uint8_t pan)
{
    rig_name(at, denomination, serial);
    rig_an(view, at, at + RU_COIN_AN_AT);
    memset(at + RU_COIN_PAN_AT, pan, RU_AN_SIZE);
}

/* `count` coins by name, and behind them the XOR of their ANs. Returns the bytes. */
static uint32_t sum_write(struct ru_view *view, uint8_t *at, uint32_t count)
{
    uint8_t *sum = at + (size_t)count * RU_COIN_NAME_SIZE;
    memset(sum, 0, RU_AN_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t an[RU_AN_SIZE];
        rig_name(at + (size_t)i * RU_COIN_NAME_SIZE, 6, 1000 + 77 * i % 100003);
        rig_an(view, at + (size_t)i * RU_COIN_NAME_SIZE, an);
        for (uint32_t byte = 0; byte < RU_AN_SIZE; byte++)
            sum[byte] ^= an[byte];
    }
    return count * RU_COIN_NAME_SIZE + RU_AN_SIZE;
}

/* ---- the table ---- */

static void test_rows(void)
{
    uint32_t count = 0;
    const struct ru_command *row;
    for (uint32_t last = 0; (row = ru_command_row(count)); count++) {
        EXPECT(count == 0 || row->number > last);
        EXPECT(ru_command_find(row->number) == row);
        EXPECT(row->light_max == 0 || !row->writes);
        last = row->number;
    }
    EXPECT_EQUAL(count, 12);
    EXPECT(!ru_command_find(0x0003) && !ru_command_find(0x0250) && !ru_command_find(0x10000));
    EXPECT_EQUAL(ru_command_find(0x010A)->light_max, 32 * RU_COIN_AN_SIZE);
    EXPECT_EQUAL(ru_command_find(0x010B)->light_max, 32 * RU_COIN_NAME_SIZE + RU_AN_SIZE);
}

static void test_what_is_no_request_of_a_row(void)
{
    const uint8_t zeros[40] = {0};
    const struct ru_command copy = *ru_command_find(0x010A);
    const struct ru_command_request request = {.payload = zeros, .size = RU_BODY_MAX + 1};
    struct ru_command_ground ground = {NULL, &facts, NULL};
    struct ru_command_reply reply;
    struct ru_view *view = rig_view(&rig, false);
    struct call call;
    EXPECT_ABORT(ru_command_execute(&copy, &ground, &request, &reply));
    EXPECT_ABORT(ru_command_execute(ru_command_find(0), &ground, &request, &reply));
    EXPECT_EQUAL(call_run(&call, NULL, 0x010A, zeros, RU_COIN_AN_SIZE), RU_STORE_MISUSED);
    call_end(&call);
    EXPECT_EQUAL(call_run(&call, view, 0x0114, zeros, RU_COIN_PAN_SIZE), RU_STORE_MISUSED);
    call_end(&call);
    ru_view_close(view);
}

/* ---- lengths ---- */

/* Of a command that takes coins. */
static enum ru_status length_status(uint32_t size, uint32_t stride, uint32_t rest)
{
    if (size < stride + rest)
        return RU_STATUS_PACKET_LENGTH;
    return (size - rest) % stride ? RU_STATUS_COINS_NOT_DIV : RU_STATUS_OK;
}

static void test_every_length_of_coin_commands(void)
{
    static const struct {
        uint32_t number, stride, rest;
        enum ru_status status; /* of coins that do not exist */
    } takers[] = {
        {0x010A, RU_COIN_AN_SIZE, 0, RU_STATUS_ALL_FAIL},
        {0x010B, RU_COIN_NAME_SIZE, RU_AN_SIZE, RU_STATUS_NO_SUCH_COIN},
        {0x0114, RU_COIN_PAN_SIZE, 0, RU_STATUS_ALL_FAIL},
        {0x0115, RU_COIN_NAME_SIZE, 2 * RU_AN_SIZE, RU_STATUS_NO_SUCH_COIN},
        {0x0228, RU_COIN_AN_SIZE, 0, RU_STATUS_NO_SUCH_COIN},
        {0x023C, RU_COIN_PAN_SIZE, 0, RU_STATUS_NO_SUCH_COIN},
    };
    static uint8_t payload[RU_BODY_MAX];
    memset(payload, 0x7f, sizeof(payload)); /* no such denomination */
    struct ru_view *view = rig_view(&rig, true);
    for (uint32_t i = 0; i < sizeof(takers) / sizeof(takers[0]); i++) {
        for (uint32_t size = 0; size <= RU_BODY_MAX; size += size < 1300 ? 1 : 997) {
            enum ru_status status = length_status(size, takers[i].stride, takers[i].rest);
            EXPECT_EQUAL(status_of(view, takers[i].number, payload, size),
                         status == RU_STATUS_OK ? takers[i].status : status);
        }
    }
    ru_view_close(view);
}

static void test_every_length_of_the_others(void)
{
    static const struct {
        uint32_t number, size; /* the only size it takes */
    } takers[] = {{0x0232, 5}, {0x0E02, 9}, {0x0E05, RU_ROOTS_SIZE}};
    static uint8_t payload[RU_BODY_MAX];
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t size = 0; size <= RU_BODY_MAX; size += size < 1000 ? 1 : 997) {
            if (size != takers[i].size)
                EXPECT_EQUAL(status_of(NULL, takers[i].number, payload, size),
                             RU_STATUS_PACKET_LENGTH);
        }
    }
    for (uint32_t size = 0; size <= 300; size++)
        EXPECT_EQUAL(status_of(NULL, 0x0002, payload, size), RU_STATUS_ADMIN_AUTH);
}

/* As many coins as fit: the scratch holds what they take. */
static void test_the_longest_requests(void)
{
    static uint8_t payload[RU_BODY_MAX];
    struct ru_view *view = rig_view(&rig, true);
    struct call call;
    const uint32_t sums = (RU_BODY_MAX - 2 * RU_AN_SIZE) / RU_COIN_NAME_SIZE;
    uint32_t size = sum_write(view, payload, sums);
    EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_ALL_PASS);
    memset(payload + size, 0, RU_AN_SIZE);
    EXPECT_EQUAL(call_run(&call, view, 0x0115, payload, size + RU_AN_SIZE), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_ALL_PASS);
    EXPECT_EQUAL(call.reply.effect.coins, sums);
    EXPECT_EQUAL(call.reply.effect.value, sums * 100000000000000ULL);
    call_end(&call);
    for (uint32_t i = 0; i < RU_BODY_MAX / RU_COIN_AN_SIZE; i++) {
        uint8_t coin[RU_COIN_PAN_SIZE];
        coin_write(view, coin, -8, i, 0);
        memcpy(payload + (size_t)i * RU_COIN_AN_SIZE, coin, RU_COIN_AN_SIZE);
    }
    payload[RU_COIN_AN_AT] ^= 1; /* the first one is wrong: bits, names and a ticket */
    size = RU_BODY_MAX / RU_COIN_AN_SIZE * RU_COIN_AN_SIZE;
    EXPECT_EQUAL(call_run(&call, view, 0x0228, payload, size), 0);
    EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_MIXED);
    EXPECT_EQUAL(call.reply.size, RU_RUN_BITS(RU_TICKET_COINS_MAX) + RU_TICKET_SIZE);
    call_end(&call);
    for (uint32_t i = 0; i < RU_BODY_MAX / RU_COIN_PAN_SIZE; i++)
        coin_write(view, payload + (size_t)i * RU_COIN_PAN_SIZE, -8, i, 9);
    size = RU_BODY_MAX / RU_COIN_PAN_SIZE * RU_COIN_PAN_SIZE;
    EXPECT_EQUAL(status_of(view, 0x023C, payload, size), RU_STATUS_FIND_ALL_AN);
    EXPECT_EQUAL(call_run(&call, view, 0x0114, payload, size), 0);
    EXPECT_EQUAL(call.reply.effect.coins, RU_BODY_MAX / RU_COIN_PAN_SIZE);
    call_end(&call);
    EXPECT_EQUAL(status_of(view, 0x023C, payload, size), RU_STATUS_FIND_ALL_PAN);
    ru_view_close(view);
}

/* ---- group 0 ---- */

static void test_status_commands(void)
{
    static const uint8_t stats[32] = {1,    0,    0, 0, 0, 0,    0,    0,    2,    0,    0,
                                      0,    0,    0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xff, 0xff, 8, 7, 6, 5,    4,    3,    2,    1};
    uint8_t key[RU_ADMIN_KEY_SIZE + 4] = {0};
    struct call call;
    memcpy(key, facts.admin_key, RU_ADMIN_KEY_SIZE);
    EXPECT_EQUAL(call_run(&call, NULL, 0x0000, key, sizeof(key)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_SUCCESS);
    EXPECT_EQUAL(call.reply.size, 0);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_ECHO);
    call_end(&call);
    EXPECT_EQUAL(call_run(&call, NULL, 0x0001, key, 0), 0);
    EXPECT_EQUAL(call.reply.size, 8);
    EXPECT_BYTES(call.reply.payload, (const uint8_t *)"20250323", 8);
    call_end(&call);
    EXPECT_EQUAL(call_run(&call, NULL, 0x0002, key, sizeof(key)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_SUCCESS);
    EXPECT_EQUAL(call.reply.size, sizeof(stats));
    EXPECT_BYTES(call.reply.payload, stats, sizeof(stats));
    call_end(&call);
    EXPECT_EQUAL(status_of(NULL, 0x0002, key, RU_ADMIN_KEY_SIZE - 1), RU_STATUS_ADMIN_AUTH);
    for (uint32_t bit = 0; bit < 8 * RU_ADMIN_KEY_SIZE; bit++) {
        key[bit / 8] ^= (uint8_t)(1 << bit % 8);
        EXPECT_EQUAL(status_of(NULL, 0x0002, key, sizeof(key)), RU_STATUS_ADMIN_AUTH);
        key[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    struct ru_facts known = facts;
    facts.admin_key[RU_ADMIN_KEY_SIZE - 1] = key[RU_ADMIN_KEY_SIZE - 1] = 0;
    EXPECT_EQUAL(status_of(NULL, 0x0002, key, RU_ADMIN_KEY_SIZE - 1), RU_STATUS_ADMIN_AUTH);
    facts.has_admin_key = 0;
    memset(facts.admin_key, 0, RU_ADMIN_KEY_SIZE);
    memset(key, 0, sizeof(key));
    EXPECT_EQUAL(status_of(NULL, 0x0002, key, sizeof(key)), RU_STATUS_ADMIN_AUTH);
    EXPECT_EQUAL(status_of(NULL, 0x0002, key, 0), RU_STATUS_ADMIN_AUTH);
    facts = known;
}

/* ---- coins ---- */

static void test_detect(void)
{
    uint8_t payload[9 * RU_COIN_AN_SIZE];
    uint8_t coin[RU_COIN_PAN_SIZE];
    struct ru_view *view = rig_view(&rig, false);
    struct call call;
    for (uint32_t i = 0; i < 9; i++) {
        coin_write(view, coin, (int)i - 8, i * 100000, 0);
        memcpy(payload + (size_t)i * RU_COIN_AN_SIZE, coin, RU_COIN_AN_SIZE);
    }
    EXPECT_EQUAL(status_of(view, 0x010A, payload, sizeof(payload)), RU_STATUS_ALL_PASS);
    payload[RU_COIN_AN_AT] ^= 1;      /* the first one's AN */
    payload[7 * RU_COIN_AN_SIZE] = 7; /* the eighth one does not exist */
    EXPECT_EQUAL(call_run(&call, view, 0x010A, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_MIXED);
    EXPECT_EQUAL(call.reply.size, 2);
    EXPECT_BYTES(call.reply.payload, ((const uint8_t[]){0x7e, 0x01}), 2);
    call_end(&call);
    EXPECT_EQUAL(status_of(view, 0x010A, payload, RU_COIN_AN_SIZE), RU_STATUS_ALL_FAIL);
    for (uint32_t shard = 0; shard < 4; shard++) {
        const struct ru_command_ground ground = {view, &facts, coin};
        struct ru_command_request request = {
            .payload = payload + RU_COIN_AN_SIZE, .size = RU_COIN_AN_SIZE, .shard = shard};
        const struct ru_command *command = ru_command_find(0x010A);
        EXPECT_EQUAL(ru_command_execute(command, &ground, &request, &call.reply), 0);
        EXPECT_EQUAL(call.reply.status,
                     shard == 1 || shard == 2 ? RU_STATUS_LEGACY_DB : RU_STATUS_ALL_PASS);
        request.size--; /* the length is looked at first */
        EXPECT_EQUAL(ru_command_execute(command, &ground, &request, &call.reply), 0);
        EXPECT_EQUAL(call.reply.status, RU_STATUS_PACKET_LENGTH);
    }
    ru_view_close(view);
}

/* A coin twice: its second record has the AN that the first one gave it. */
static void test_pown_is_in_order(void)
{
    uint8_t payload[3 * RU_COIN_PAN_SIZE];
    uint8_t record[RU_PAGE_RECORD_SIZE];
    uint8_t state;
    struct ru_view *view = rig_view(&rig, true);
    struct call call;
    coin_write(view, payload, 2, 5, 0x11);
    coin_write(view, payload + RU_COIN_PAN_SIZE, 2, 5, 0x22);
    memset(payload + RU_COIN_PAN_SIZE + RU_COIN_AN_AT, 0x11, RU_AN_SIZE);
    rig_name(payload + 2 * RU_COIN_PAN_SIZE, -1, 7 * 1024);
    EXPECT_EQUAL(call_run(&call, view, 0x0114, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_MIXED);
    EXPECT_EQUAL(call.reply.size, 1);
    EXPECT_EQUAL(call.reply.payload[0], 3);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_POWNED);
    EXPECT_EQUAL(call.reply.effect.coins, 2);
    EXPECT_EQUAL(call.reply.effect.value, 20000000000ULL);
    call_end(&call);
    EXPECT_EQUAL(ru_view_gather(view, payload, 1, RU_COIN_NAME_SIZE, record, &state), 1);
    EXPECT_EQUAL(record[0], 0x22);
    EXPECT_EQUAL(record[RU_AN_SIZE], MONTH);
    EXPECT_EQUAL(status_of(view, 0x0114, payload, sizeof(payload)), RU_STATUS_ALL_FAIL);
    ru_view_close(view);
}

/* A few and many, sorted and not; the repeated one anywhere. */
static void test_sums_of_repeated_coins(void)
{
    static const uint32_t counts[] = {2, 3, 31, 32, 33, 34, 500, 13000};
    static uint8_t payload[RU_BODY_MAX];
    struct ru_view *view = rig_view(&rig, true);
    for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const uint32_t count = counts[i];
        uint32_t size = sum_write(view, payload, count);
        uint8_t *last = payload + (size_t)(count - 1) * RU_COIN_NAME_SIZE;
        uint8_t own[RU_COIN_NAME_SIZE];
        memcpy(own, last, sizeof(own));
        EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_ALL_PASS);
        for (uint32_t other = 0; other + 1 < count; other += 1 + count / 5) {
            memcpy(last, payload + (size_t)other * RU_COIN_NAME_SIZE, RU_COIN_NAME_SIZE);
            EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_NO_SUCH_COIN);
        }
        memcpy(last, own, sizeof(own));
        last[0] = 7;
        EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_NO_SUCH_COIN);
        rig_name(last, -1, 7 * 1024 + 9); /* on a page that cannot be read */
        EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_NO_SUCH_COIN);
        memcpy(last, own, sizeof(own));
        payload[size - 1] ^= 1;
        EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_ALL_FAIL);
    }
    ru_view_close(view);
}

static void test_sums_of_equal_ans(void)
{
    static const uint32_t counts[] = {2, 4, 32, 34, 600};
    static uint8_t payload[RU_BODY_MAX];
    struct ru_view *view = rig_view(&rig, true);
    for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const uint32_t count = counts[i];
        uint32_t size = sum_write(view, payload, count);
        uint8_t *last = payload + (size_t)(count - 1) * RU_COIN_NAME_SIZE;
        uint8_t coin[RU_COIN_AN_SIZE];
        uint8_t state;
        rig_an(view, payload, coin + RU_COIN_AN_AT); /* the first one's for the last one */
        memcpy(coin, last, RU_COIN_NAME_SIZE);
        uint8_t old[RU_AN_SIZE];
        rig_an(view, last, old);
        EXPECT_EQUAL(ru_view_set(view, coin, 1, sizeof(coin), RU_COIN_AN_AT, 1, &state), 1);
        for (uint32_t byte = 0; byte < RU_AN_SIZE; byte++)
            payload[size - RU_AN_SIZE + byte] ^= old[byte] ^ coin[RU_COIN_AN_AT + byte];
        EXPECT_EQUAL(status_of(view, 0x010B, payload, size), RU_STATUS_ALL_FAIL);
        memset(payload + size, 0xee, RU_AN_SIZE);
        EXPECT_EQUAL(status_of(view, 0x0115, payload, size + RU_AN_SIZE), RU_STATUS_ALL_FAIL);
        rig_an(view, last, old);
        EXPECT_BYTES(old, coin + RU_COIN_AN_AT, RU_AN_SIZE); /* unchanged */
        ru_view_undo(view, 0);
    }
    ru_view_close(view);
}

static void test_a_sum_of_one_is_its_an(void)
{
    uint8_t payload[RU_COIN_NAME_SIZE + 2 * RU_AN_SIZE];
    uint8_t an[RU_AN_SIZE];
    struct ru_view *view = rig_view(&rig, true);
    struct call call;
    uint32_t size = sum_write(view, payload, 1);
    memset(payload + size, 0x0f, RU_AN_SIZE);
    EXPECT_EQUAL(call_run(&call, view, 0x0115, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_ALL_PASS);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_POWNED);
    EXPECT_EQUAL(call.reply.effect.value, 100000000000000ULL);
    call_end(&call);
    rig_an(view, payload, an);
    for (uint32_t byte = 0; byte < RU_AN_SIZE; byte++)
        EXPECT_EQUAL(an[byte], payload[RU_COIN_NAME_SIZE + byte] ^ 0x0f);
    ru_view_close(view);
}

static void test_months(void)
{
    static const struct {
        uint64_t now_s;
        uint8_t month;
    } known[] = {
        {0, 131}, /* January 1970, 637 months before */
        {1675209600 - 1, 255},
        {1675209600, 0},  /* 1 February 2023 */
        {1709164799, 12}, /* 28 February 2024 */
        {1709164800, 12}, /* the 29th */
        {1709251200, 13},
        {4107542400 - 1, (77 * 12) & 0xff}, /* 28 February 2100, no leap year */
        {4107542400, (77 * 12 + 1) & 0xff},
        {NOW_S, MONTH},
    };
    for (uint32_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        EXPECT_EQUAL(ru_coins_month(known[i].now_s), known[i].month);
    (void)ru_coins_month(UINT64_MAX);
}

/* ---- find, tickets ---- */

static void test_find(void)
{
    uint8_t payload[3 * RU_COIN_PAN_SIZE];
    struct ru_view *view = rig_view(&rig, false);
    struct call call;
    for (uint32_t i = 0; i < 3; i++)
        coin_write(view, payload + (size_t)i * RU_COIN_PAN_SIZE, 1, i, 0x33);
    EXPECT_EQUAL(status_of(view, 0x023C, payload, sizeof(payload)), RU_STATUS_FIND_ALL_AN);
    uint8_t *second = payload + RU_COIN_PAN_SIZE;
    memcpy(second + RU_COIN_PAN_AT, second + RU_COIN_AN_AT, RU_AN_SIZE); /* both: the AN counts */
    EXPECT_EQUAL(status_of(view, 0x023C, payload, sizeof(payload)), RU_STATUS_FIND_ALL_AN);
    second[RU_COIN_AN_AT] ^= 1;
    payload[2 * RU_COIN_PAN_SIZE + RU_COIN_AN_AT + 15] ^= 0x80;
    EXPECT_EQUAL(call_run(&call, view, 0x023C, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_FIND_MIXED);
    EXPECT_EQUAL(call.reply.size, 3);
    EXPECT_BYTES(call.reply.payload, ((const uint8_t[]){1, 2, 0}), 3);
    call_end(&call);
    EXPECT_EQUAL(status_of(view, 0x023C, second, RU_COIN_PAN_SIZE), RU_STATUS_FIND_ALL_PAN);
    EXPECT_EQUAL(status_of(view, 0x023C, second + RU_COIN_PAN_SIZE, RU_COIN_PAN_SIZE),
                 RU_STATUS_FIND_NEITHER);
    rig_name(second, -1, 7 * 1024 + 1023);
    EXPECT_EQUAL(status_of(view, 0x023C, payload, sizeof(payload)), RU_STATUS_NO_SUCH_COIN);
    ru_view_close(view);
}

/* The status and, for RAIDA `raida`, the coins of ticket `number`. */
static uint32_t claim(const uint8_t *number, uint8_t raida, uint32_t room, uint32_t *size)
{
    uint8_t payload[1 + RU_TICKET_SIZE] = {raida};
    struct call call;
    memcpy(payload + 1, number, RU_TICKET_SIZE);
    EXPECT_EQUAL(call_run(&call, NULL, 0x0232, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_CLAIM);
    call.request.room = room;
    const struct ru_command *row = ru_command_find(0x0232);
    bool wrong = ru_command_guesses_wrong(row, rig.store, &call.request, &call.reply);
    EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
    EXPECT_EQUAL(wrong, call.reply.status == RU_STATUS_NO_TICKET_FOUND);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_NONE);
    *size = call.reply.size;
    call_end(&call);
    return call.reply.status;
}

static void test_tickets(void)
{
    uint8_t payload[2 * RU_COIN_AN_SIZE];
    uint8_t coin[RU_COIN_PAN_SIZE];
    uint8_t number[RU_TICKET_SIZE];
    struct ru_view *view = rig_view(&rig, false);
    struct call call;
    uint32_t size;
    coin_write(view, coin, 1, 40, 0);
    memcpy(payload, coin, RU_COIN_AN_SIZE);
    memcpy(payload + RU_COIN_AN_SIZE, coin, RU_COIN_AN_SIZE);
    payload[RU_COIN_AN_AT] ^= 1; /* only the second one is right */
    const uint32_t before = ru_store_tickets_alive(rig.store, NOW_S);
    EXPECT_EQUAL(call_run(&call, view, 0x0228, payload, sizeof(payload)), 0);
    EXPECT_EQUAL(call.reply.effect.kind, RU_EFFECT_ISSUE);
    EXPECT_EQUAL(call.reply.effect.coins, 1);
    EXPECT_BYTES(call.reply.effect.names, coin, RU_COIN_NAME_SIZE);
    EXPECT_EQUAL(ru_store_tickets_alive(rig.store, NOW_S), before); /* not yet */
    EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
    EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
    EXPECT_EQUAL(ru_store_tickets_alive(rig.store, NOW_S), before + 1); /* once */
    EXPECT_EQUAL(call.reply.status, RU_STATUS_MIXED);
    EXPECT_EQUAL(call.reply.size, 1 + RU_TICKET_SIZE);
    EXPECT_EQUAL(call.reply.payload[0], 2);
    memcpy(number, call.reply.payload + 1, sizeof(number));
    call_end(&call);
    EXPECT_EQUAL(claim(number, 24, RU_COIN_NAME_SIZE - 1, &size), RU_STATUS_NOT_IMPLEMENTED);
    EXPECT_EQUAL(claim(number, 24, RU_COIN_NAME_SIZE, &size), RU_STATUS_SUCCESS);
    EXPECT_EQUAL(size, RU_COIN_NAME_SIZE);
    EXPECT_EQUAL(claim(number, 24, ROOM, &size), RU_STATUS_TICKET_CLAIMED);
    EXPECT_EQUAL(size, 0);
    memset(number, 0, sizeof(number));
    EXPECT_EQUAL(claim(number, 24, ROOM, &size), RU_STATUS_NO_TICKET_FOUND);
    payload[0] = RU_RAIDA_COUNT;
    EXPECT_EQUAL(status_of(NULL, 0x0232, payload, 1 + RU_TICKET_SIZE), RU_STATUS_WRONG_RAIDA);
    ru_view_close(view);
}

static void test_tickets_without_room(void)
{
    uint8_t coin[RU_COIN_PAN_SIZE];
    struct ru_view *view = rig_view(&rig, false);
    struct call call;
    uint32_t alive = ru_store_tickets_alive(rig.store, NOW_S);
    coin_write(view, coin, 1, 0, 0);
    EXPECT_EQUAL(call_run(&call, view, 0x0228, coin, RU_COIN_AN_SIZE), 0);
    call.request.room = RU_TICKET_SIZE - 1;
    EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
    EXPECT_EQUAL(call.reply.status, RU_STATUS_NOT_IMPLEMENTED);
    EXPECT_EQUAL(ru_store_tickets_alive(rig.store, NOW_S), alive);
    call_end(&call);
    for (uint32_t i = 0; i <= RU_TICKETS_MAX - alive; i++) {
        coin_write(view, coin, 3, i, 0);
        EXPECT_EQUAL(call_run(&call, view, 0x0228, coin, RU_COIN_AN_SIZE), 0);
        EXPECT_EQUAL(ru_command_settle(rig.store, &call.request, &call.reply, call.scratch), 0);
        const bool full = i == RU_TICKETS_MAX - alive;
        EXPECT_EQUAL(call.reply.status, full ? RU_STATUS_NO_TICKET_SLOT : RU_STATUS_ALL_PASS);
        EXPECT_EQUAL(call.reply.size, full ? 0 : RU_TICKET_SIZE);
        call_end(&call);
    }
    ru_view_close(view);
}

/* ---- trees ---- */

static void test_trees_that_are_not_shown(void)
{
    static const uint8_t zeros[RU_ROOTS_SIZE];
    struct ru_facts known = facts;
    struct call call;
    for (uint32_t shown = 0; shown < 3; shown++) {
        facts.roots = shown >= 1 ? &no_roots : NULL;
        facts.trees = shown == 2 ? &no_trees : NULL;
        EXPECT_EQUAL(status_of(NULL, 0x0E02, zeros, 9), RU_STATUS_FILE_NOT_EXIST);
        EXPECT_EQUAL(call_run(&call, NULL, 0x0E05, zeros, RU_ROOTS_SIZE), 0);
        EXPECT_EQUAL(call.reply.status, RU_STATUS_SUCCESS);
        EXPECT_EQUAL(call.reply.size, RU_ROOTS_SIZE);
        EXPECT_BYTES(call.reply.payload, zeros, RU_ROOTS_SIZE);
        call_end(&call);
    }
    facts = known;
}

/* ---- distinct ---- */

static void test_distinct_keys(void)
{
    static uint16_t room[2 * 400];
    static uint8_t keys[400 * 7];
    struct ru_random random = {native_seed()};
    for (uint32_t turn = 0; turn < 3000; turn++) {
        struct ru_keys list = {keys, native_below(&random, 1 + (turn % 10 ? 40 : 400)), 7,
                               1 + native_below(&random, 7)};
        const uint8_t mask = turn % 3 ? 0x0f : 0xff;
        bool distinct = true;
        ru_random_fill(&random, keys, sizeof(keys));
        for (uint32_t i = 0; i < sizeof(keys); i++)
            keys[i] &= mask;
        for (uint32_t i = 0; i < list.count; i++) {
            for (uint32_t j = 0; j < i; j++)
                distinct &= memcmp(keys + (size_t)i * 7, keys + (size_t)j * 7, list.size) != 0;
        }
        EXPECT_EQUAL(ru_distinct_keys(&list, room), distinct);
    }
}

int main(void)
{
    rig_open(&rig);
    RUN(test_rows);
    RUN(test_what_is_no_request_of_a_row);
    RUN(test_every_length_of_coin_commands);
    RUN(test_every_length_of_the_others);
    RUN(test_the_longest_requests);
    RUN(test_status_commands);
    RUN(test_detect);
    RUN(test_pown_is_in_order);
    RUN(test_sums_of_repeated_coins);
    RUN(test_sums_of_equal_ans);
    RUN(test_a_sum_of_one_is_its_an);
    RUN(test_months);
    RUN(test_find);
    RUN(test_tickets);
    RUN(test_tickets_without_room);
    RUN(test_trees_that_are_not_shown);
    RUN(test_distinct_keys);
    rig_close(&rig);
    return native_finish();
}
