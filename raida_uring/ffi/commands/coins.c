/* coins.c: detect, pown, and their sums. Source: docs/wire.md, "Authentication group". */
#include <string.h>

#include "check.h"
#include "commands/distinct.h"
#include "commands/run.h"
#include "number.h"

#define SUM_COINS_MAX (RU_BODY_MAX / RU_COIN_NAME_SIZE) /* in one request */
#define SUM_COIN_SCRATCH (2 * sizeof(uint16_t) + RU_PAGE_RECORD_SIZE + 1)
#define CHANGES_AT_ONCE 64           /* of a pown_sum: built on the stack */
#define FIRST_MONTHS (2023 * 12 + 1) /* January of year 0 to February 2023 */

_Static_assert(SUM_COINS_MAX *SUM_COIN_SCRATCH <= RU_COMMAND_SCRATCH, "coins of a sum");
_Static_assert(RU_COMMAND_LIGHT_COINS *SUM_COIN_SCRATCH <= RU_COMMAND_LIGHT_SCRATCH, "light sums");
_Static_assert(RU_RUN_BITS(RU_BODY_MAX / RU_COIN_AN_SIZE) + RU_BODY_MAX / RU_COIN_AN_SIZE <=
                   RU_COMMAND_SCRATCH,
               "detected coins");
_Static_assert(RU_RUN_BITS(RU_COMMAND_LIGHT_COINS) + RU_COMMAND_LIGHT_COINS <=
                   RU_COMMAND_LIGHT_SCRATCH,
               "light detect");
_Static_assert(SUM_COINS_MAX <= UINT16_MAX, "indexes");

/* ---- what coin commands share ---- */

uint32_t ru_coins_count(const struct ru_command_request *request, uint32_t stride, uint32_t rest,
                        struct ru_command_reply *reply)
{
    if (request->size < stride + rest) {
        (void)ru_run_answer(reply, RU_STATUS_PACKET_LENGTH);
        return 0;
    }
    if ((request->size - rest) % stride != 0) {
        (void)ru_run_answer(reply, RU_STATUS_COINS_NOT_DIV);
        return 0;
    }
    return (request->size - rest) / stride;
}

int ru_coins_verdict(struct ru_command_reply *reply, const uint8_t *states, uint32_t count,
                     uint32_t equal, uint8_t *bits)
{
    RU_CHECK(equal <= count);
    if (equal == count)
        return ru_run_answer(reply, RU_STATUS_ALL_PASS);
    if (equal == 0)
        return ru_run_answer(reply, RU_STATUS_ALL_FAIL);
    reply->status = RU_STATUS_MIXED;
    reply->size = RU_RUN_BITS(count);
    memset(bits, 0, reply->size);
    for (uint32_t i = 0; i < count; i++)
        bits[i / 8] |= (uint8_t)((states[i] == RU_COIN_EQUAL) << i % 8);
    return 0;
}

/* The proleptic Gregorian calendar, with years that begin in March, so that the day that some years
 * have more comes last. */
uint8_t ru_coins_month(uint64_t now_s)
{
    enum {
        DAY_S = 86400,
        ERA_YEARS = 400,
        ERA_DAYS = 146097,
        EPOCH_DAYS = 719468, /* 1 March of year 0 to 1970 */
    };
    const uint64_t days = now_s / DAY_S + EPOCH_DAYS;
    const uint64_t of_era = days % ERA_DAYS;
    const uint64_t year_of_era =
        (of_era - of_era / 1460 + of_era / 36524 - of_era / (ERA_DAYS - 1)) / 365;
    const uint64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const uint64_t months = 12 * (days / ERA_DAYS * ERA_YEARS + year_of_era) +
                            (5 * of_year + 2) / 153 + 2; /* from January of year 0 on */
    return (uint8_t)(months - FIRST_MONTHS);
}

/* In units of 10^-8 coin. The coin exists. */
static uint64_t coin_value(const uint8_t *coin)
{
    uint64_t value = 1;
    int power = (int8_t)coin[RU_COIN_DENOMINATION_AT] - RU_DENOMINATION_MIN;
    RU_CHECK(power >= 0 && power < RU_DENOMINATIONS_COUNT);
    while (power-- > 0)
        value *= 10;
    return value;
}

/* ---- detect, pown ---- */

int ru_coins_detect(const struct ru_command_ground *ground,
                    const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const uint32_t count = ru_coins_count(request, RU_COIN_AN_SIZE, 0, reply);
    if (count == 0)
        return 0;
    if (request->shard == 1 || request->shard == 2)
        return ru_run_answer(reply, RU_STATUS_LEGACY_DB);
    uint8_t *states = ground->scratch + RU_RUN_BITS(count);
    int equal = ru_view_match(ground->view, request->payload, count, RU_COIN_AN_SIZE, RU_COIN_AN_AT,
                              states);
    return equal < 0 ? equal
                     : ru_coins_verdict(reply, states, count, (uint32_t)equal, ground->scratch);
}

int ru_coins_pown(const struct ru_command_ground *ground, const struct ru_command_request *request,
                  struct ru_command_reply *reply)
{
    const uint8_t *coins = request->payload;
    const uint32_t count = ru_coins_count(request, RU_COIN_PAN_SIZE, 0, reply);
    if (count == 0)
        return 0;
    uint8_t *states = ground->scratch + RU_RUN_BITS(count);
    int equal = ru_view_exchange(ground->view, coins, count, RU_COIN_PAN_SIZE, RU_COIN_AN_AT,
                                 RU_COIN_PAN_AT, ru_coins_month(request->now_s), states);
    if (equal < 0)
        return equal;
    if (equal > 0)
        reply->effect = (struct ru_effect){.kind = RU_EFFECT_POWNED, .coins = (uint32_t)equal};
    for (uint32_t i = 0; i < count; i++) {
        if (states[i] == RU_COIN_EQUAL)
            reply->effect.value += coin_value(coins + (size_t)i * RU_COIN_PAN_SIZE);
    }
    return ru_coins_verdict(reply, states, count, (uint32_t)equal, ground->scratch);
}

/* ---- sums ---- */

/* Read the coins of a sum. `records`: of all of them. Returns 0; RU_NONE: a coin is listed twice,
 * which a sum would not reveal, or cannot be read, and that has been answered; or an error. */
static int64_t sum_read(const struct ru_command_ground *ground,
                        const struct ru_command_request *request, uint32_t count,
                        struct ru_command_reply *reply, uint8_t **records)
{
    const struct ru_keys names = {request->payload, count, RU_COIN_NAME_SIZE, RU_COIN_NAME_SIZE};
    uint16_t *room = (uint16_t *)(void *)ground->scratch;
    *records = ground->scratch + 2 * sizeof(*room) * (size_t)count;
    uint8_t *states = *records + (size_t)count * RU_PAGE_RECORD_SIZE;
    RU_CHECK((uintptr_t)room % sizeof(*room) == 0);
    bool readable = ru_distinct_keys(&names, room);
    if (readable) {
        int rc = ru_view_gather(ground->view, names.at, count, names.stride, *records, states);
        if (rc < 0)
            return rc;
        readable = (uint32_t)rc == count;
    }
    if (!readable)
        (void)ru_run_answer(reply, RU_STATUS_NO_SUCH_COIN);
    return readable ? 0 : RU_NONE;
}

/* Whether `given` is the XOR of the records' ANs and so proves that the client knows all of them. Equal
 * ANs, as the coins of a locker have, cancel each other out: their sum proves nothing. They are looked
 * for when the sum is right, so that the time says nothing about ANs to others than their owner. */
static bool sum_proves(const uint8_t *records, uint32_t count, const uint8_t *given, uint16_t *room)
{
    const struct ru_keys ans = {records, count, RU_PAGE_RECORD_SIZE, RU_AN_SIZE};
    uint64_t sum[2] = {0};
    uint8_t bytes[RU_AN_SIZE];
    _Static_assert(sizeof(sum) == RU_AN_SIZE, "sum");
    for (uint32_t i = 0; i < count; i++) {
        uint64_t an[2];
        memcpy(an, records + (size_t)i * RU_PAGE_RECORD_SIZE, sizeof(an));
        sum[0] ^= an[0];
        sum[1] ^= an[1];
    }
    memcpy(bytes, sum, sizeof(bytes));
    return ru_coin_an_equal(bytes, given) && ru_distinct_keys(&ans, room);
}

int ru_coins_detect_sum(const struct ru_command_ground *ground,
                        const struct ru_command_request *request, struct ru_command_reply *reply)
{
    uint8_t *records;
    const uint32_t count = ru_coins_count(request, RU_COIN_NAME_SIZE, RU_AN_SIZE, reply);
    if (count == 0)
        return 0;
    int64_t rc = sum_read(ground, request, count, reply, &records);
    if (rc != 0)
        return rc < 0 ? (int)rc : 0;
    const bool proven = sum_proves(records, count, request->payload + request->size - RU_AN_SIZE,
                                   (uint16_t *)(void *)ground->scratch);
    return ru_run_answer(reply, proven ? RU_STATUS_ALL_PASS : RU_STATUS_ALL_FAIL);
}

/* XOR `difference` into the ANs of coins that the view can read; `records` are theirs. */
static int sum_change(struct ru_view *view, const uint8_t *names, const uint8_t *records,
                      uint32_t count, const uint8_t *difference, uint8_t month)
{
    uint8_t coins[CHANGES_AT_ONCE][RU_COIN_AN_SIZE];
    uint8_t states[CHANGES_AT_ONCE];
    for (uint32_t first = 0; first < count; first += CHANGES_AT_ONCE) {
        const uint32_t some = ru_number_min32(count - first, CHANGES_AT_ONCE);
        for (uint32_t i = 0; i < some; i++) {
            const uint8_t *record = records + (size_t)(first + i) * RU_PAGE_RECORD_SIZE;
            memcpy(coins[i], names + (size_t)(first + i) * RU_COIN_NAME_SIZE, RU_COIN_NAME_SIZE);
            for (uint32_t byte = 0; byte < RU_AN_SIZE; byte++)
                coins[i][RU_COIN_AN_AT + byte] = record[byte] ^ difference[byte];
        }
        int rc = ru_view_set(view, coins[0], some, RU_COIN_AN_SIZE, RU_COIN_AN_AT, month, states);
        if (rc < 0)
            return rc;
        RU_CHECK((uint32_t)rc == some);
    }
    return 0;
}

int ru_coins_pown_sum(const struct ru_command_ground *ground,
                      const struct ru_command_request *request, struct ru_command_reply *reply)
{
    uint8_t *records;
    const uint8_t *names = request->payload;
    const uint32_t count = ru_coins_count(request, RU_COIN_NAME_SIZE, 2 * RU_AN_SIZE, reply);
    if (count == 0)
        return 0;
    const uint8_t *sum = names + (request->size - 2U * RU_AN_SIZE);
    int64_t read = sum_read(ground, request, count, reply, &records);
    if (read != 0)
        return read < 0 ? (int)read : 0;
    if (!sum_proves(records, count, sum, (uint16_t *)(void *)ground->scratch))
        return ru_run_answer(reply, RU_STATUS_ALL_FAIL);
    int rc = sum_change(ground->view, names, records, count, sum + RU_AN_SIZE,
                        ru_coins_month(request->now_s));
    if (rc != 0)
        return rc;
    reply->effect = (struct ru_effect){.kind = RU_EFFECT_POWNED, .coins = count};
    for (uint32_t i = 0; i < count; i++)
        reply->effect.value += coin_value(names + (size_t)i * RU_COIN_NAME_SIZE);
    return ru_run_answer(reply, RU_STATUS_ALL_PASS);
}
