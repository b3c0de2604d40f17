/* command.c: the table of commands, and what is done with a row of it. */
#include "commands/command.h"

#include "check.h"
#include "commands/run.h"
#include "number.h"

#define LIGHT_BYTES 64 /* of a payload that names no coins */
/* Light up to a number of coins of `stride` bytes before the last `rest` ones, each of that cost. */
#define LIGHT_COINS(stride, rest, each)                                                            \
    .light_max = RU_COMMAND_LIGHT_COINS * (stride) + (rest), .coin_size = (stride),                \
    .coin_cost = (each)

/* The row that others see is its first field. */
struct command_row {
    struct ru_command command;
    ru_command_run *run;
};

/* By number. Never light: what waits for the disk; what issues or claims a ticket, which searches
 * hundreds of slots and may have the kernel set memory aside; long replies. */
static const struct command_row command_rows[] = {
    {{.name = "echo", .number = 0x0000, .light_max = LIGHT_BYTES, .cost = 200}, ru_status_echo},
    {{.name = "version", .number = 0x0001, .is_public = 1, .light_max = LIGHT_BYTES, .cost = 200},
     ru_status_version},
    {{.name = "show_stats",
      .number = 0x0002,
      .needs_body = 1,
      .needs_statistics = 1,
      .guess = RU_STATUS_ADMIN_AUTH,
      .light_max = LIGHT_BYTES,
      .cost = 700},
     ru_status_show_stats},
    {{.name = "detect",
      .number = 0x010A,
      .needs_body = 1,
      .needs_store = 1,
      .cost = 500,
      LIGHT_COINS(RU_COIN_AN_SIZE, 0, 30)},
     ru_coins_detect},
    {{.name = "detect_sum",
      .number = 0x010B,
      .needs_body = 1,
      .needs_store = 1,
      .cost = 500,
      LIGHT_COINS(RU_COIN_NAME_SIZE, RU_AN_SIZE, 55)},
     ru_coins_detect_sum},
    {{.name = "pown", .number = 0x0114, .writes = 1, .needs_body = 1, .needs_store = 1},
     ru_coins_pown},
    {{.name = "pown_sum", .number = 0x0115, .writes = 1, .needs_body = 1, .needs_store = 1},
     ru_coins_pown_sum},
    {{.name = "get_ticket", .number = 0x0228, .needs_body = 1, .needs_store = 1},
     ru_healing_get_ticket},
    /* Public: the client that got a ticket knows its coins, and could make this node encrypt them
     * under the key of another client whose request it has recorded. */
    {{.name = "validate_ticket",
      .number = 0x0232,
      .needs_body = 1,
      .needs_store = 1,
      .is_public = 1,
      .guess = RU_STATUS_NO_TICKET_FOUND},
     ru_healing_validate_ticket},
    {{.name = "find",
      .number = 0x023C,
      .needs_body = 1,
      .needs_store = 1,
      .cost = 500,
      LIGHT_COINS(RU_COIN_PAN_SIZE, 0, 50)},
     ru_healing_find},
    {{.name = "get_merkle_branch",
      .number = 0x0E02,
      .needs_body = 1,
      .needs_store = 1,
      .is_public = 1,
      .light_max = LIGHT_BYTES,
      .cost = 400},
     ru_integrity_get_merkle_branch},
    {{.name = "get_all_roots", .number = 0x0E05, .needs_body = 1, .needs_store = 1, .is_public = 1},
     ru_integrity_get_all_roots},
};

#define COMMAND_ROWS (sizeof(command_rows) / sizeof(command_rows[0]))

const struct ru_command *ru_command_row(uint32_t index)
{
    return index < COMMAND_ROWS ? &command_rows[index].command : NULL;
}

const struct ru_command *ru_command_find(uint32_t number)
{
    for (uint32_t i = 0; i < COMMAND_ROWS; i++) {
        if (command_rows[i].command.number == number)
            return &command_rows[i].command;
    }
    return NULL;
}

int ru_command_execute(const struct ru_command *command, const struct ru_command_ground *ground,
                       const struct ru_command_request *request, struct ru_command_reply *reply)
{
    const struct command_row *row = (const struct command_row *)(const void *)command;
    RU_CHECK(row >= command_rows && row < command_rows + COMMAND_ROWS);
    RU_CHECK(request->size <= RU_BODY_MAX);
    *reply = (struct ru_command_reply){.status = RU_STATUS_SUCCESS, .payload = ground->scratch};
    return row->run(ground, request, reply);
}

/* ---- tickets ---- */

static int issue_ticket(struct ru_store *store, const struct ru_command_request *request,
                        struct ru_command_reply *reply, uint8_t *scratch)
{
    uint32_t number;
    RU_CHECK(reply->payload == scratch);
    if (reply->size + RU_TICKET_SIZE > request->room)
        return ru_run_answer(reply, RU_STATUS_NOT_IMPLEMENTED);
    int rc = ru_store_issue_ticket(store, reply->effect.names, reply->effect.coins, request->now_s,
                                   &number);
    if (rc == RU_TICKET_FULL)
        return ru_run_answer(reply, RU_STATUS_NO_TICKET_SLOT);
    if (rc != 0)
        return rc;
    ru_put_u32(scratch + reply->size, number);
    reply->size += RU_TICKET_SIZE;
    return 0;
}

static int claim_ticket(struct ru_store *store, const struct ru_command_request *request,
                        struct ru_command_reply *reply, uint8_t *scratch)
{
    const struct ru_effect *effect = &reply->effect;
    const uint32_t room = ru_number_min32(request->room, RU_TICKET_COINS_MAX * RU_COIN_NAME_SIZE);
    int rc =
        ru_store_claim_ticket(store, effect->ticket, effect->raida, request->now_s, scratch, room);
    switch (rc) {
    case RU_TICKET_UNKNOWN:
        return ru_run_answer(reply, RU_STATUS_NO_TICKET_FOUND);
    case RU_TICKET_CLAIMED:
        return ru_run_answer(reply, RU_STATUS_TICKET_CLAIMED);
    case RU_TICKET_LARGE: /* ask again over TCP */
        return ru_run_answer(reply, RU_STATUS_NOT_IMPLEMENTED);
    default:
        break;
    }
    if (rc < 0)
        return rc;
    reply->payload = scratch;
    reply->size = (uint32_t)rc;
    return 0;
}

bool ru_command_guesses_wrong(const struct ru_command *command, const struct ru_store *store,
                              const struct ru_command_request *request,
                              const struct ru_command_reply *reply)
{
    RU_CHECK(command->guess != 0);
    if (reply->effect.kind == RU_EFFECT_CLAIM)
        return !ru_store_knows_ticket(store, reply->effect.ticket, request->now_s);
    return reply->status == command->guess;
}

int ru_command_settle(struct ru_store *store, const struct ru_command_request *request,
                      struct ru_command_reply *reply, uint8_t *scratch)
{
    int rc;
    switch ((enum ru_effect_kind)reply->effect.kind) {
    case RU_EFFECT_ISSUE:
        rc = issue_ticket(store, request, reply, scratch);
        break;
    case RU_EFFECT_CLAIM:
        rc = claim_ticket(store, request, reply, scratch);
        break;
    case RU_EFFECT_NONE:
    case RU_EFFECT_ECHO:
    case RU_EFFECT_POWNED:
        return 0;
    default:
        RU_UNREACHABLE();
    }
    reply->effect.kind = RU_EFFECT_NONE;
    return rc;
}

_Static_assert(RU_TICKET_COINS_MAX *RU_COIN_NAME_SIZE <= RU_COMMAND_SCRATCH, "claimed coins");
