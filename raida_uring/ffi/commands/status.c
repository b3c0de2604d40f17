/* status.c: echo, version, show_stats. Source: docs/wire.md, "Status group". */
#include <endian.h>
#include <string.h>

#include "check.h"
#include "commands/run.h"
#include "number.h"

int ru_status_echo(const struct ru_command_ground *ground, const struct ru_command_request *request,
                   struct ru_command_reply *reply)
{
    (void)ground;
    (void)request;
    reply->effect.kind = RU_EFFECT_ECHO;
    return 0;
}

int ru_status_version(const struct ru_command_ground *ground,
                      const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const struct ru_facts *facts = ground->facts;
    (void)request;
    RU_CHECK(facts->version_size <= sizeof(facts->version));
    reply->payload = facts->version;
    reply->size = facts->version_size;
    return 0;
}

/* A wrong key, a payload shorter than a key, and a node without a key are answered alike, after the
 * same time. */
int ru_status_show_stats(const struct ru_command_ground *ground,
                         const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const struct ru_facts *facts = ground->facts;
    uint64_t values[sizeof(facts->statistics) / sizeof(facts->statistics[0])];
    uint8_t given[RU_ADMIN_KEY_SIZE] = {0};
    memcpy(given, request->payload, ru_number_min32(request->size, sizeof(given)));
    const bool right = ru_coin_an_equal(given, facts->admin_key);
    if (!((unsigned)right & (facts->has_admin_key != 0) & (request->size >= sizeof(given))))
        return ru_run_answer(reply, RU_STATUS_ADMIN_AUTH);
    for (uint32_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        values[i] = htole64(facts->statistics[i]); /* unlike everything else on this wire */
    memcpy(ground->scratch, values, sizeof(values));
    reply->size = sizeof(values);
    return 0;
}

_Static_assert(RU_ADMIN_KEY_SIZE == RU_AN_SIZE, "a key is compared as an AN is");
