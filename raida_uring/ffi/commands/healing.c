/* healing.c: find, get_ticket, validate_ticket. Source: docs/wire.md, "Healing group". */
#include <string.h>

#include "check.h"
#include "commands/run.h"

#define FIND_COINS_MAX (RU_BODY_MAX / RU_COIN_PAN_SIZE)
#define FIND_COIN_SCRATCH (1 + RU_PAGE_RECORD_SIZE + 1) /* what was found, record, state */
#define TICKET_COIN_SCRATCH (1 + RU_COIN_NAME_SIZE)     /* state, name; before them the reply */

_Static_assert(FIND_COINS_MAX *FIND_COIN_SCRATCH <= RU_COMMAND_SCRATCH, "find");
_Static_assert(RU_COMMAND_LIGHT_COINS *FIND_COIN_SCRATCH <= RU_COMMAND_LIGHT_SCRATCH, "light find");
_Static_assert(RU_RUN_BITS(RU_TICKET_COINS_MAX) + RU_TICKET_SIZE +
                       RU_TICKET_COINS_MAX * TICKET_COIN_SCRATCH <=
                   RU_COMMAND_SCRATCH,
               "get_ticket");
_Static_assert(RU_BODY_MAX / RU_COIN_AN_SIZE <= RU_TICKET_COINS_MAX, "a ticket takes every coin");

/* Which of its two ANs a coin has. */
enum find_result {
    FIND_NEITHER = 0,
    FIND_AN = 1,
    FIND_PAN = 2,
};

/* Both ANs are compared with one state of the coins, between whose changes by their owner two calls
 * could see neither; and both always, so that the time says nothing. */
int ru_healing_find(const struct ru_command_ground *ground,
                    const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const uint32_t count = ru_coins_count(request, RU_COIN_PAN_SIZE, 0, reply);
    uint32_t ans = 0;
    uint32_t pans = 0;
    if (count == 0)
        return 0;
    uint8_t *found = ground->scratch;
    uint8_t *records = found + count;
    int rc = ru_view_gather(ground->view, request->payload, count, RU_COIN_PAN_SIZE, records,
                            records + (size_t)count * RU_PAGE_RECORD_SIZE);
    if (rc < 0)
        return rc;
    if ((uint32_t)rc < count)
        return ru_run_answer(reply, RU_STATUS_NO_SUCH_COIN);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *coin = request->payload + (size_t)i * RU_COIN_PAN_SIZE;
        const uint8_t *record = records + (size_t)i * RU_PAGE_RECORD_SIZE;
        const unsigned an = ru_coin_an_equal(record, coin + RU_COIN_AN_AT);
        const unsigned pan = ru_coin_an_equal(record, coin + RU_COIN_PAN_AT) & ~an;
        found[i] = (uint8_t)(an * FIND_AN + pan * FIND_PAN);
        ans += an;
        pans += pan;
    }
    RU_CHECK(ans + pans <= count);
    if (ans == count)
        return ru_run_answer(reply, RU_STATUS_FIND_ALL_AN);
    if (pans == count)
        return ru_run_answer(reply, RU_STATUS_FIND_ALL_PAN);
    if (ans + pans == 0)
        return ru_run_answer(reply, RU_STATUS_FIND_NEITHER);
    reply->status = RU_STATUS_FIND_MIXED;
    reply->size = count;
    return 0;
}

int ru_healing_get_ticket(const struct ru_command_ground *ground,
                          const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const uint8_t *coins = request->payload;
    const uint32_t count = ru_coins_count(request, RU_COIN_AN_SIZE, 0, reply);
    if (count == 0)
        return 0;
    uint8_t *states = ground->scratch + RU_RUN_BITS(count) + RU_TICKET_SIZE;
    uint8_t *names = states + count;
    int equal = ru_view_match(ground->view, coins, count, RU_COIN_AN_SIZE, RU_COIN_AN_AT, states);
    if (equal < 0)
        return equal;
    if (memchr(states, RU_COIN_UNREADABLE, count))
        return ru_run_answer(reply, RU_STATUS_NO_SUCH_COIN);
    if (equal == 0)
        return ru_run_answer(reply, RU_STATUS_ALL_FAIL);
    reply->effect =
        (struct ru_effect){.kind = RU_EFFECT_ISSUE, .coins = (uint32_t)equal, .names = names};
    for (uint32_t i = 0; i < count; i++) {
        if (states[i] != RU_COIN_EQUAL)
            continue;
        memcpy(names, coins + (size_t)i * RU_COIN_AN_SIZE, RU_COIN_NAME_SIZE);
        names += RU_COIN_NAME_SIZE;
    }
    return ru_coins_verdict(reply, states, count, (uint32_t)equal, ground->scratch);
}

int ru_healing_validate_ticket(const struct ru_command_ground *ground,
                               const struct ru_command_request *request,
                               struct ru_command_reply *reply)
{
    (void)ground;
    if (request->size != 1 + RU_TICKET_SIZE)
        return ru_run_answer(reply, RU_STATUS_PACKET_LENGTH);
    if (request->payload[0] >= RU_RAIDA_COUNT)
        return ru_run_answer(reply, RU_STATUS_WRONG_RAIDA);
    reply->effect = (struct ru_effect){.kind = RU_EFFECT_CLAIM,
                                       .ticket = ru_get_u32(request->payload + 1),
                                       .raida = request->payload[0]};
    return 0;
}
