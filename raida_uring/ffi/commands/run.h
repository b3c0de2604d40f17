/* run.h: the functions behind the rows of command.c, and what they share. Pure, as command.h says. */
#ifndef RU_RUN_H
#define RU_RUN_H

#include "commands/command.h"
#include "wire/header.h"

/* Thread: the view's. `reply` is SUCCESS, without payload and effect, its payload the ground's scratch.
 * Returns as ru_command_execute(). */
typedef int ru_command_run(const struct ru_command_ground *ground,
                           const struct ru_command_request *request,
                           struct ru_command_reply *reply);

ru_command_run ru_status_echo;
ru_command_run ru_status_version;
ru_command_run ru_status_show_stats;
ru_command_run ru_coins_detect;
ru_command_run ru_coins_detect_sum;
ru_command_run ru_coins_pown;
ru_command_run ru_coins_pown_sum;
ru_command_run ru_healing_get_ticket;
ru_command_run ru_healing_validate_ticket;
ru_command_run ru_healing_find;
ru_command_run ru_integrity_get_merkle_branch;
ru_command_run ru_integrity_get_all_roots;

/* Bytes of a bit for each coin. */
#define RU_RUN_BITS(count) (((count) + 7) / 8)

/* Answer a status without a payload. */
static inline int ru_run_answer(struct ru_command_reply *reply, enum ru_status status)
{
    reply->status = status;
    reply->size = 0;
    return 0;
}

static inline uint32_t ru_get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void ru_put_u32(uint8_t *at, uint32_t value)
{
    for (uint32_t i = 0; i < sizeof(value); i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* How many coins of `stride` bytes precede the last `rest` bytes of the payload; 0: none, or not whole
 * ones, which has been answered. */
uint32_t ru_coins_count(const struct ru_command_request *request, uint32_t stride, uint32_t rest,
                        struct ru_command_reply *reply);
/* Answer whether all, none or some coins are EQUAL, some with a bit for each, the first coin's lowest,
 * at `bits`. equal: how many are. */
int ru_coins_verdict(struct ru_command_reply *reply, const uint8_t *states, uint32_t count,
                     uint32_t equal, uint8_t *bits);

/* The month as a record stores it: months since February 2023, UTC, modulo 256. */
uint8_t ru_coins_month(uint64_t now_s);

#endif
