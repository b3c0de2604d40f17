/* commands.c: native commands over simulated coins, in place of the node's own commands and its store.
 *
 * A change is a number that a request has when its batch is committed, so that a reply can be compared
 * with what became of it. Views fail as the store's do: one that must not wait is told that it would
 * have to; beginning, the look for what a start needs, and a commit fail with the whole batch.
 */
#include "commands/command.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "engine/admission.h"
#include "engine/worker.h"
#include "life.h"

#define COMMANDS_LIGHT_BYTES 300 /* so that bodies of both sizes come often */
#define COMMANDS_REPLY_MAX 65500

struct change {
    struct life_request *request;
    uint64_t value;
};

struct ru_view {
    uint32_t kind; /* enum ru_view_kind */
    bool begun, required;
    uint32_t count; /* changes that are not committed */
    struct change changes[RU_BATCH_MAX * LIFE_CHANGES_MAX];
};

/* The life that is played: one at a time, since the node's commands know of none. */
static struct {
    struct life *life;
    struct ru_view *writing;      /* the view with the latest change */
    struct life_request stranger; /* whoever has left meanwhile */
} played;

/* So that a few requests exhaust a lap's budget, more or fewer of them with their size. */
#define COMMANDS_COST (RU_LIGHT_BUDGET / 8) /* of an echo */
#define COMMANDS_BYTE_COST (RU_LIGHT_BUDGET / COMMANDS_LIGHT_BYTES / 4)

static const struct ru_command commands_rows[] = {
    {.name = "echo", .number = LIFE_ECHO, .light_max = COMMANDS_LIGHT_BYTES, .cost = COMMANDS_COST},
    {.name = "read",
     .number = LIFE_READ,
     .needs_store = 1,
     .light_max = COMMANDS_LIGHT_BYTES,
     .cost = 4 * COMMANDS_COST,
     .coin_cost = COMMANDS_BYTE_COST,
     .coin_size = 1},
    {.name = "put", .number = LIFE_PUT, .writes = 1, .needs_body = 1, .needs_store = 1},
    {.name = "guess",
     .number = LIFE_GUESS,
     .needs_body = 1,
     .guess = RU_STATUS_NO_TICKET_FOUND,
     .light_max = COMMANDS_LIGHT_BYTES,
     .cost = 3 * COMMANDS_COST},
};

const struct ru_command *ru_command_find(uint32_t number)
{
    for (size_t i = 0; i < sizeof(commands_rows) / sizeof(commands_rows[0]); i++)
        if (commands_rows[i].number == number)
            return &commands_rows[i];
    return NULL;
}

/* ---- views ---- */

int ru_view_open(struct ru_store *store, uint32_t kind, struct ru_view **view)
{
    check(store == life_store(played.life), "another's store", kind);
    *view = calloc(1, sizeof(**view));
    if (!*view)
        abort();
    (*view)->kind = kind;
    return 0;
}

/* A failure: of one request, or of all that its batch still has to answer. */
static int view_failed(int fault, bool of_all)
{
    played.life->native.failed_one += !of_all;
    played.life->native.failed_all += of_all;
    return fault;
}

/* The changes are dropped together. */
static void view_drop(struct ru_view *view)
{
    played.life->native.unwritten += view->count > 0;
    for (uint32_t i = 0; i < view->count; i++)
        view->changes[i].request->unwritten = true;
    view->count = 0;
    view->begun = view->required = false;
}

void ru_view_close(struct ru_view *view)
{
    if (!view)
        return;
    check(view->count == 0, "closed with changes that nobody has decided on", view->count);
    free(view);
}

int ru_view_begin(struct ru_view *view)
{
    check(!view->begun, "a view has begun twice", view->kind);
    if (view->kind == RU_VIEW_WRITES && sim_chance(4))
        return view_failed(-EIO, true);
    view->begun = true;
    return 0;
}

void ru_view_end(struct ru_view *view)
{
    if (view->begun)
        view_drop(view);
}

int ru_view_commit(struct ru_view *view)
{
    check(view->begun && view->kind == RU_VIEW_WRITES, "commits what has not begun", view->kind);
    check(view->count == 0 || view->required, "commits what a start may not find", view->count);
    if (sim_chance(16)) {
        view_drop(view);
        return view_failed(sim_chance(128) ? -EIO : -ECANCELED, true);
    }
    for (uint32_t i = 0; i < view->count; i++) {
        view->changes[i].request->changed++;
        played.life->native.coins++;
        played.life->native.value += view->changes[i].value;
    }
    view->count = 0;
    view->begun = view->required = false;
    return 0;
}

uint32_t ru_view_mark(struct ru_view *view)
{
    return view->count;
}

void ru_view_undo(struct ru_view *view, uint32_t mark)
{
    check(view->begun && mark <= view->count, "undoes what was not done", mark);
    played.life->native.undone += mark < view->count;
    view->count = mark;
}

/* Of the writing view that has changes: one at a time has. */
int ru_store_require(struct ru_store *store)
{
    (void)store;
    if (sim_chance(8))
        return view_failed(RU_STORE_UNOWNED, true);
    played.writing->required = true;
    return 0;
}

/* Whether a call of the view fails now, and how. batch: it is for a whole batch that only reads. */
static int view_fails(struct ru_view *view, bool batch)
{
    check(view->begun, "reads what has not begun", view->kind);
    bool hurried = view->kind == RU_VIEW_GLANCES;
    if (!sim_chance(hurried ? 48 : 2))
        return 0;
    played.life->native.busy += hurried;
    int fault = hurried || sim_chance(128) ? RU_STORE_BUSY : -EIO;
    bool of_all = batch || fault == RU_STORE_BUSY;
    return view_failed(fault, of_all && view->kind != RU_VIEW_WRITES);
}

int ru_view_gather(struct ru_view *view, const uint8_t *coins, uint32_t count, uint32_t stride,
                   uint8_t *records, uint8_t *states)
{
    int result = view_fails(view, true);
    if (result != 0)
        return result;
    for (uint32_t i = 0; i < count; i++) {
        bool known = life_coin_an(coins + (size_t)i * stride, records);
        states[i] = known ? RU_COIN_EQUAL : RU_COIN_UNREADABLE;
        records += RU_PAGE_RECORD_SIZE;
    }
    return (int)count;
}

/* ---- requests ---- */

/* What stands in front of a body: the peer's name, twice in its address, and the request's serial. */
static bool request_read(const uint8_t *body, uint32_t *name, uint16_t *serial)
{
    const uint8_t *header = body - RU_HEADER_LARGE;
    const uint8_t *echo =
        header + (header[RU_REQUEST_ENCRYPTION_AT] <= RU_SMALL_TYPE_MAX ? RU_REQUEST_SMALL_ECHO_AT
                                                                        : RU_REQUEST_LARGE_ECHO_AT);
    struct sockaddr_in peer;
    memcpy(&peer, header - RU_PEER_SIZE, sizeof(peer));
    *name = ntohl(peer.sin_addr.s_addr);
    *serial = (uint16_t)(echo[0] << 8 | echo[1]);
    return peer.sin_family == AF_INET && peer.sin_port == (in_port_t)*name;
}

/* A payload begins with its body, or behind the challenge. */
static const uint8_t *request_body(const struct ru_command_request *request, uint32_t *name,
                                   uint16_t *serial)
{
    if (request_read(request->payload, name, serial))
        return request->payload;
    if (!request_read(request->payload - RU_CHALLENGE_SIZE, name, serial))
        sim_fail("a payload without a request", request->size);
    return request->payload - RU_CHALLENGE_SIZE;
}

static struct life_request *request_of(const struct ru_command_request *request)
{
    uint32_t name;
    uint16_t serial;
    (void)request_body(request, &name, &serial);
    struct life_request *known = life_request_of(played.life, name, serial);
    if (known)
        return known;
    played.stranger = (struct life_request){.name = name, .serial = serial};
    return &played.stranger;
}

static uint32_t reply_size(const struct ru_view *view, bool writes)
{
    static const uint32_t sizes[] = {0, 6, 100, 200, 256, 300, 1400, 9000, COMMANDS_REPLY_MAX};
    if (!view || view->kind == RU_VIEW_GLANCES)
        return sizes[sim_below(4)];
    if (writes)
        return sizes[sim_below(sim_chance(32) ? 6 : 5)];
    return sizes[sim_below(sim_chance(4) ? 9 : 5)]; /* who has no block waits, with everybody */
}

static void reply_fill(struct ru_command_reply *reply, const struct life_request *asked,
                       uint32_t size, uint8_t *scratch)
{
    for (uint32_t i = 0; i < size; i++)
        scratch[i] = life_reply_byte(asked->name, asked->serial, i, size + RU_TERMINATOR_SIZE);
    *reply =
        (struct ru_command_reply){.status = RU_STATUS_SUCCESS, .size = size, .payload = scratch};
}

/* Meanwhile, other workers find so many guesses of the same sender wrong that it must not be told of
 * this one. */
static void guess_is_one_too_many(const struct ru_command_request *request)
{
    struct ru_guard *guard = &played.life->engine->guard;
    uint32_t name;
    uint16_t serial;
    const uint8_t *header = request_body(request, &name, &serial) - RU_HEADER_LARGE;
    for (uint8_t transport = RU_UDP; transport <= RU_TCP; transport++)
        for (uint32_t left = guard->settings.burst; left > 0; left--)
            (void)ru_guard_fail(guard, header - RU_PEER_SIZE, header, transport, ru_now_ns());
}

/* Right, or a ticket that would be claimed. */
static void command_guess(const struct ru_view *view, const struct ru_command_request *request,
                          const struct life_request *asked, struct ru_command_reply *reply)
{
    if (view && view->kind == RU_VIEW_READS)
        reply->effect.kind = RU_EFFECT_CLAIM;
    else if (life_guesses_wrong(asked))
        *reply = (struct ru_command_reply){.status = RU_STATUS_NO_TICKET_FOUND};
    if (!life_is_raida(asked->name) && sim_chance(8))
        guess_is_one_too_many(request);
}

/* Changes that do not fit the reply's size, or that fail half-way, are left to be undone. */
static int command_put(struct ru_view *view, struct life_request *request,
                       struct ru_command_reply *reply)
{
    const uint32_t wanted = life_changes(request);
    check(view->kind == RU_VIEW_WRITES && view->begun, "changes without a writing view", 0);
    played.writing = view;
    for (uint32_t i = 0; i < wanted; i++) {
        if (sim_chance(2))
            return view_failed(sim_chance(128) ? RU_STORE_BUSY : -ENOMEM, false);
        check(view->count < RU_BATCH_MAX * LIFE_CHANGES_MAX, "changes", view->count);
        view->changes[view->count++] = (struct change){request, life_change_value(request)};
    }
    reply->effect = (struct ru_effect){
        .kind = RU_EFFECT_POWNED, .coins = wanted, .value = wanted * life_change_value(request)};
    return 0;
}

/* In no lap does the I/O thread execute more than the budget allows. */
static void check_budget(const struct ru_command *command, const struct ru_command_ground *ground,
                         const struct life_request *asked)
{
    const struct ru_engine *engine = played.life->engine;
    struct life_native *native = &played.life->native;
    if (!engine->light || ground->scratch != engine->light->ground->scratch)
        return;
    if (native->light_lap != engine->counters.laps)
        native->light_cost = 0;
    native->light_lap = engine->counters.laps;
    native->light_cost += ru_admission_cost(command, asked->encryption, asked->body_size);
    check(native->light_cost <= RU_LIGHT_BUDGET, "a lap over its budget", native->light_cost);
}

int ru_command_execute(const struct ru_command *command, const struct ru_command_ground *ground,
                       const struct ru_command_request *request, struct ru_command_reply *reply)
{
    struct life_request *asked = request_of(request);
    check_budget(command, ground, asked);
    check(!command->needs_store || ground->view, "executed without a store", command->number);
    reply_fill(reply, asked, reply_size(ground->view, command->writes), ground->scratch);
    switch ((enum life_command)command->number) {
    case LIFE_ECHO:
        reply->size = 0;
        reply->effect.kind = RU_EFFECT_ECHO;
        played.life->native.echoes++;
        return 0;
    case LIFE_READ:
        if (ground->view->kind == RU_VIEW_READS && life_has_ticket(asked))
            reply->effect.kind = RU_EFFECT_ISSUE;
        return view_fails(ground->view, false);
    case LIFE_PUT:
        return command_put(ground->view, asked, reply);
    case LIFE_GUESS:
        command_guess(ground->view, request, asked, reply);
        return 0;
    case LIFE_WORKER:
    case LIFE_WRITE:
    case LIFE_SLOW:
    case LIFE_UNKNOWN:
        break;
    }
    sim_fail("no native command", command->number);
}

bool ru_command_guesses_wrong(const struct ru_command *command, const struct ru_store *store,
                              const struct ru_command_request *request,
                              const struct ru_command_reply *reply)
{
    (void)store;
    check(command->guess != 0, "guesses nothing", command->number);
    return reply->status == command->guess ||
           (reply->effect.kind == RU_EFFECT_CLAIM && life_guesses_wrong(request_of(request)));
}

int ru_command_settle(struct ru_store *store, const struct ru_command_request *request,
                      struct ru_command_reply *reply, uint8_t *scratch)
{
    (void)store;
    const bool claims = reply->effect.kind == RU_EFFECT_CLAIM;
    check((claims || reply->effect.kind == RU_EFFECT_ISSUE) && reply->payload == scratch, "settles",
          reply->effect.kind);
    reply->effect.kind = RU_EFFECT_NONE;
    if (claims && life_guesses_wrong(request_of(request))) {
        *reply = (struct ru_command_reply){.status = RU_STATUS_NO_TICKET_FOUND};
        return 0;
    }
    if (sim_chance(8))
        return view_failed(-ENOMEM, false);
    if (reply->size > request->room)
        *reply = (struct ru_command_reply){.status = RU_STATUS_NOT_IMPLEMENTED};
    else
        request_of(request)->settled = true;
    return 0;
}

/* ---- a life ---- */

/* Publish what is answered natively: some commands, where there are workers for them. */
void life_commands_begin(struct life *life)
{
    const struct ru_facts facts = {0};
    const bool stored = sim_chance(208);
    struct ru_store *store = stored ? life_store(life) : NULL;
    played.life = life;
    ru_engine_set_native(life->engine, store, sim_chance(64) ? life_store(life) : store, &facts);
    for (size_t i = 0; i < sizeof(commands_rows) / sizeof(commands_rows[0]); i++) {
        const struct ru_command *row = &commands_rows[i];
        bool has_workers = life->config.native_workers > 0 &&
                           (!row->writes || !stored || life->config.native_writers > 0);
        if (row->guess != 0)
            (void)ru_engine_guard(life->engine, row->number >> 8, row->number & 0xFF);
        if (sim_chance(32))
            continue;
        check(ru_engine_set_native_command(life->engine, row->number >> 8, row->number & 0xFF) ==
                  (has_workers ? 0 : -EINVAL),
              "a native command published", row->number);
    }
}
