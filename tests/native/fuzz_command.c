/* fuzz_command.c: libFuzzer target: whatever stands in the payload of a command in C.
 *
 * Invariant, for all payloads:
 * - No byte is touched but the payload's and those of the scratch, as many as command.h says.
 * - Lengths decide first. The status is one of the command's; only the statuses that tell something
 *   have a payload; whoever is refused has changed nothing and leaves no effect.
 * - A view for changes answers as one for reading, a light request as any other.
 *
 * Input: SETTINGS bytes (struct script says what they mean), then the payload. Replay:
 * build/fuzz/command FILE. A store on tmpfs, made at the first input and used for all; what an input
 * changes is taken back.
 */
#include "commands/command.h"

#include "commands/run.h"
#include "store_rig.h"

#define SETTINGS 2
#define STATUSES_MAX 8
#define TREES_SHOWN 5 /* trees of as many denominations have nodes */

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            command_fail(__LINE__, #condition);                                                    \
    } while (0)

_Noreturn static void command_fail(int line, const char *what)
{
    (void)fprintf(stderr, "fuzz_command.c:%d: not true: %s\n", line, what);
    abort();
}

/* What a command may answer, lengths apart. */
struct rule {
    uint32_t number;
    uint32_t stride, rest; /* of a payload of coins; stride 0: of `rest` bytes, or of any */
    bool any;
    bool summed;
    enum ru_effect_kind effect;
    uint8_t statuses[STATUSES_MAX];
};

static const struct rule rules[] = {
    {0x0000, .any = true, .effect = RU_EFFECT_ECHO, .statuses = {RU_STATUS_SUCCESS}},
    {0x0001, .any = true, .statuses = {RU_STATUS_SUCCESS}},
    {0x0002, .any = true, .statuses = {RU_STATUS_SUCCESS, RU_STATUS_ADMIN_AUTH}},
    {0x010A, RU_COIN_AN_SIZE,
     .statuses = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL, RU_STATUS_MIXED, RU_STATUS_LEGACY_DB}},
    {0x010B, RU_COIN_NAME_SIZE, RU_AN_SIZE, .summed = true,
     .statuses = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL, RU_STATUS_NO_SUCH_COIN}},
    {0x0114, RU_COIN_PAN_SIZE, .effect = RU_EFFECT_POWNED,
     .statuses = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL, RU_STATUS_MIXED}},
    {0x0115, RU_COIN_NAME_SIZE, 2 * RU_AN_SIZE, .summed = true, .effect = RU_EFFECT_POWNED,
     .statuses = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL, RU_STATUS_NO_SUCH_COIN}},
    {0x0228, RU_COIN_AN_SIZE, .effect = RU_EFFECT_ISSUE,
     .statuses = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL, RU_STATUS_MIXED, RU_STATUS_NO_SUCH_COIN}},
    {0x0232, .rest = 1 + RU_TICKET_SIZE, .effect = RU_EFFECT_CLAIM,
     .statuses = {RU_STATUS_SUCCESS, RU_STATUS_WRONG_RAIDA}},
    {0x023C, RU_COIN_PAN_SIZE,
     .statuses = {RU_STATUS_FIND_NEITHER, RU_STATUS_FIND_ALL_AN, RU_STATUS_FIND_ALL_PAN,
                  RU_STATUS_FIND_MIXED, RU_STATUS_NO_SUCH_COIN}},
    {0x0E02, .rest = 9, .statuses = {RU_STATUS_SUCCESS, RU_STATUS_FILE_NOT_EXIST}},
    {0x0E05, .rest = RU_ROOTS_SIZE, .statuses = {RU_STATUS_SUCCESS}},
};

#define RULES (sizeof(rules) / sizeof(rules[0]))

static struct {
    struct rig rig;
    struct ru_roots roots;
    struct ru_trees trees;
    struct ru_facts facts;
    struct ru_view *views[2]; /* for reading, for changes */
    uint8_t *scratch, *light_scratch;
    uint64_t now_s;
} host;

/* What an input means. */
struct script {
    const struct rule *rule;
    bool near;   /* coins are few, so that they repeat */
    bool spread; /* ... unless each gets a number of its own */
    bool right;  /* ANs that begin with an even byte, and sums, are made right */
    bool whole;  /* the payload is given a length that the command takes */
    uint32_t room;
    uint32_t size;
    uint8_t *payload; /* on the heap, exactly as large */
    struct ru_command_request request;
};

static void host_open(void)
{
    static uint8_t nodes[RU_TREES_SIZE];
    struct ru_random random = {1};
    ru_random_fill(&random, nodes, (size_t)TREES_SHOWN * RU_TREE_SIZE);
    rig_open(&host.rig);
    host.views[0] = rig_view(&host.rig, false);
    host.views[1] = rig_view(&host.rig, true);
    host.scratch = malloc(RU_COMMAND_SCRATCH);
    host.light_scratch = malloc(RU_COMMAND_LIGHT_SCRATCH);
    host.facts = (struct ru_facts){.version = "20250323",
                                   .version_size = 8,
                                   .has_admin_key = 1,
                                   .roots = &host.roots,
                                   .trees = &host.trees};
    ru_trees_publish(&host.trees, &host.roots, (1U << TREES_SHOWN) - 1, nodes);
    MUST(host.scratch && host.light_scratch);
    for (uint32_t i = 0; i < RULES; i++)
        MUST(ru_command_row(i)->number == rules[i].number);
    MUST(!ru_command_row(RULES));
}

/* How many coins the payload has; 0: their lengths are wrong. */
static uint32_t script_coins(const struct script *script)
{
    const struct rule *rule = script->rule;
    if (rule->stride == 0 || script->size < rule->stride + rule->rest ||
        (script->size - rule->rest) % rule->stride != 0)
        return 0;
    return (script->size - rule->rest) / rule->stride;
}

/* Give coins of few pages, and the ANs that they have. */
static void script_improve(const struct script *script)
{
    const struct rule *rule = script->rule;
    uint8_t *sum = script->payload + script->size - rule->rest;
    uint8_t an[RU_AN_SIZE];
    const uint32_t count = script_coins(script);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *coin = script->payload + (size_t)i * rule->stride;
        if (script->near) {
            coin[0] = (uint8_t)((coin[0] & 15) - 8);
            coin[1] = coin[2] = 0;
            coin[3] &= 31;
            coin[4] = (uint8_t)(script->spread ? i : coin[4]);
        }
        uint32_t number = ru_coin_number(coin);
        if (!script->right || number == RU_NONE || number / RU_PAGE_RECORDS_COUNT == RIG_SHORT_PAGE)
            continue;
        rig_an(host.views[0], coin, an);
        for (uint32_t byte = 0; rule->summed && byte < RU_AN_SIZE; byte++)
            sum[byte] = (uint8_t)((i > 0 ? sum[byte] : 0) ^ an[byte]);
        if (!rule->summed && coin[RU_COIN_AN_AT] % 2 == 0)
            memcpy(coin + RU_COIN_AN_AT, an, RU_AN_SIZE);
        else if (rule->stride == RU_COIN_PAN_SIZE && coin[RU_COIN_PAN_AT] % 2 == 0)
            memcpy(coin + RU_COIN_PAN_AT, an, RU_AN_SIZE);
    }
}

/* The payload's bytes, cut or with zeros behind them. */
static void script_payload(struct script *script, const uint8_t *bytes)
{
    const struct rule *rule = script->rule;
    const uint32_t given = script->size;
    if (script->whole && rule->stride == 0 && !rule->any)
        script->size = rule->rest;
    else if (script->whole && rule->stride > 0 && given >= rule->stride + rule->rest)
        script->size -= (given - rule->rest) % rule->stride;
    script->payload = calloc(1, script->size + (script->size == 0));
    MUST(script->payload);
    memcpy(script->payload, bytes, given < script->size ? given : script->size);
}

static struct script script_read(const uint8_t *input, size_t size)
{
    struct script script = {.rule = &rules[input[0] % RULES],
                            .spread = input[0] / RULES & 1,
                            .near = input[1] & 1,
                            .right = input[1] & 2,
                            .room = input[1] & 4 ? input[1] >> 4 : RU_BODY_MAX,
                            .whole = input[1] & 8,
                            .size = (uint32_t)size - SETTINGS};
    script_payload(&script, input + SETTINGS);
    script_improve(&script);
    host.now_s += RU_TICKET_LIFETIME_S; /* the last input's ticket has expired */
    script.request = (struct ru_command_request){.payload = script.payload,
                                                 .size = script.size,
                                                 .room = script.room,
                                                 .shard = input[1] >> 4 & 3,
                                                 .now_s = host.now_s};
    return script;
}

/* The status that lengths decide; OK: they are right. */
static enum ru_status script_foresee(const struct script *script)
{
    const struct rule *rule = script->rule;
    if (rule->any || script_coins(script) > 0 || (rule->stride == 0 && script->size == rule->rest))
        return RU_STATUS_OK;
    if (rule->stride == 0 || script->size < rule->stride + rule->rest)
        return RU_STATUS_PACKET_LENGTH;
    return RU_STATUS_COINS_NOT_DIV;
}

static void reply_check(const struct script *script, const struct ru_command_reply *reply)
{
    const struct rule *rule = script->rule;
    const enum ru_status foreseen = script_foresee(script);
    const bool passed = reply->status == RU_STATUS_SUCCESS || reply->status == RU_STATUS_ALL_PASS ||
                        reply->status == RU_STATUS_MIXED;
    if (foreseen != RU_STATUS_OK)
        MUST(reply->status == foreseen);
    else
        MUST(reply->status != 0 && memchr(rule->statuses, (int)reply->status, STATUSES_MAX));
    MUST(reply->effect.kind == (passed ? rule->effect : RU_EFFECT_NONE));
    if (reply->effect.kind == RU_EFFECT_POWNED || reply->effect.kind == RU_EFFECT_ISSUE)
        MUST(reply->effect.coins > 0 && reply->effect.coins <= script_coins(script));
    if (reply->status == RU_STATUS_MIXED)
        MUST(reply->size == RU_RUN_BITS(script_coins(script)));
    else if (reply->status == RU_STATUS_FIND_MIXED)
        MUST(reply->size == script_coins(script));
    else if (reply->status != RU_STATUS_SUCCESS)
        MUST(reply->size == 0);
}

static struct ru_command_reply script_run(const struct script *script, bool writing, bool light)
{
    const struct ru_command_ground ground = {host.views[writing], &host.facts,
                                             light ? host.light_scratch : host.scratch};
    struct ru_command_reply reply;
    const struct ru_command *command = ru_command_find(script->rule->number);
    MUST(ru_command_execute(command, &ground, &script->request, &reply) == 0);
    reply_check(script, &reply);
    return reply;
}

static void reply_settle(const struct script *script, struct ru_command_reply *reply)
{
    const enum ru_effect_kind kind = (enum ru_effect_kind)reply->effect.kind;
    const uint32_t size = reply->size;
    MUST(ru_command_settle(host.rig.store, &script->request, reply, host.scratch) == 0);
    if (kind != RU_EFFECT_ISSUE && kind != RU_EFFECT_CLAIM)
        return;
    MUST(reply->effect.kind == RU_EFFECT_NONE && reply->size <= script->room);
    if (kind == RU_EFFECT_CLAIM)
        MUST(reply->status == RU_STATUS_NO_TICKET_FOUND && reply->size == 0);
    else if (size + RU_TICKET_SIZE > script->room)
        MUST(reply->status == RU_STATUS_NOT_IMPLEMENTED && reply->size == 0);
    else
        MUST(reply->size == size + RU_TICKET_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (!host.rig.store)
        host_open();
    if (size < SETTINGS || size - SETTINGS > RU_BODY_MAX)
        return 0;
    struct script script = script_read(input, size);
    const struct ru_command *command = ru_command_find(script.rule->number);
    struct ru_command_reply reply = script_run(&script, true, false);
    MUST(ru_view_mark(host.views[1]) == 0 || reply.effect.kind == RU_EFFECT_POWNED);
    ru_view_undo(host.views[1], 0);
    if (!command->writes) {
        const bool light = command->light_max > 0 && script.size <= command->light_max;
        uint8_t *kept = malloc(reply.size + (reply.size == 0));
        MUST(kept);
        memcpy(kept, reply.payload, reply.size);
        struct ru_command_reply again = script_run(&script, false, light);
        MUST(again.status == reply.status && again.size == reply.size);
        MUST(memcmp(again.payload, kept, reply.size) == 0);
        free(kept);
        if (!light)
            reply_settle(&script, &again);
    }
    free(script.payload);
    return 0;
}
