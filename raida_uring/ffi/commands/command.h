/* command.h: the commands that are answered without the interpreter.
 *
 * build.py reads the marked region, as in ru.h. A command is a function of a request, of the coins as
 * a view shows them, and of facts about the node. It makes no system call, allocates nothing, and
 * reads no clock. A ticket that it would issue or claim, and what it counts, it returns as an effect,
 * which whoever runs it applies, so that a reply that is not sent has none.
 *
 * Thread: any; the caller's, for what a ground refers to.
 * Source: docs/wire.md, "Commands".
 */
#ifndef RU_COMMAND_H
#define RU_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "coins/store.h"
#include "layout.h"
#include "memory/roots.h"
#include "memory/trees.h"

/* cdef: begin */
/* What a command is declared as, a row each. */
struct ru_command {
    const char *name;
    uint16_t number;          /* group << 8 | code */
    uint8_t writes;           /* 1: it may change coins, and is given a view that does */
    uint8_t needs_body;       /* 1: without a body it is answered 36 and not executed */
    uint8_t needs_store;      /* 1: a node without a store answers 89 */
    uint8_t is_public;        /* 1: strangers can know the payload of its reply */
    uint8_t needs_statistics; /* 1: ru_facts.statistics are of this moment */
    uint8_t guess;      /* the status that says that a secret in the payload was wrong; 0: none */
    uint32_t light_max; /* bytes of payload up to which the I/O thread may execute it; 0: never */
    /* What executing it takes of RU_LIGHT_BUDGET, apart from what its encryption does. */
    uint16_t cost;      /* of a request */
    uint16_t coin_cost; /* and of each coin that it names */
    uint16_t coin_size; /* bytes of payload that name one; 0: it names none */
};

enum ru_effect_kind {
    RU_EFFECT_NONE = 0,
    RU_EFFECT_ECHO = 1,   /* an echo was answered */
    RU_EFFECT_POWNED = 2, /* `coins` coins worth `value` have changed hands */
    RU_EFFECT_ISSUE = 3,  /* issue a ticket for the coins at `names`, and put its number behind the
                             payload; there is none left: status NO_TICKET_SLOT without a payload */
    RU_EFFECT_CLAIM = 4,  /* claim ticket `ticket` for RAIDA `raida`: its coins are the payload */
};

/* What executing a command leaves to do. */
struct ru_effect {
    uint32_t kind;        /* enum ru_effect_kind */
    uint32_t coins;       /* POWNED, ISSUE: how many */
    uint64_t value;       /* POWNED: in units of 10^-8 coin */
    const uint8_t *names; /* ISSUE: RU_COIN_NAME_SIZE bytes each, in the ground's scratch */
    uint32_t ticket;      /* CLAIM */
    uint32_t raida;       /* CLAIM */
};

/* What show_stats tells, in this order. */
enum ru_statistic {
    RU_STATISTIC_ECHOES = 0,
    RU_STATISTIC_COINS = 1, /* that changed hands */
    RU_STATISTIC_VALUE = 2, /* theirs, in units of 10^-8 coin */
    RU_STATISTIC_DATAGRAMS = 3,
    RU_STATISTICS = 4,
};

enum ru_command_constant {
    /* Bytes of scratch that the longest request takes: for each coin of a sum a record, a state, and
     * two indexes to sort by. */
    RU_COMMAND_SCRATCH = 290816,
    RU_COMMAND_LIGHT_COINS = 32,     /* most coins of a request that the I/O thread may execute */
    RU_COMMAND_LIGHT_SCRATCH = 1024, /* bytes, for requests of at most light_max */
};

/* Bound to the view's thread, like the view. */
struct ru_command_ground {
    struct ru_view *view; /* has begun; NULL: the node has no store */
    const struct ru_facts *facts;
    uint8_t *scratch; /* RU_COMMAND_SCRATCH bytes, or of a light one; aligned to 8 */
};

struct ru_command_request {
    const uint8_t *payload; /* in the clear; its body has been checked */
    uint32_t size;
    uint32_t room; /* bytes that the payload of a reply may have, or it is not sent */
    uint32_t shard;
    uint64_t now_s; /* since 1970 */
};

struct ru_command_reply {
    uint32_t status;        /* enum ru_status */
    uint32_t size;          /* of the payload */
    const uint8_t *payload; /* at the start of the ground's scratch, or a fact */
    struct ru_effect effect;
};

/* What commands tell of the node. */
struct ru_facts {
    uint8_t version[8];
    uint32_t version_size;
    uint32_t has_admin_key;
    uint8_t admin_key[16];
    uint32_t raida_id;
    uint64_t statistics[RU_STATISTICS];
    const struct ru_roots *roots; /* the published roots; NULL: none, as zeros */
    const struct ru_trees *trees; /* the trees of these roots; NULL: there are none */
};

/* Thread: any. Row `index` of the table; NULL past the last. */
const struct ru_command *ru_command_row(uint32_t index);
/* Thread: any. The row of a command; NULL: it is not one of them. */
const struct ru_command *ru_command_find(uint32_t number);
/* Thread: the view's. Execute a command whose row the request fits (a body where it needs one, a
 * writing view where it writes). Returns 0 with `reply` set; or an error of the view's functions,
 * after which the caller takes the request's changes back: RU_STORE_BUSY, -ENOMEM. */
int ru_command_execute(const struct ru_command *command, const struct ru_command_ground *ground,
                       const struct ru_command_request *request, struct ru_command_reply *reply);
/* Thread: any. Do what the effect of a reply says about tickets, which may change the reply and leaves
 * it without effect; nothing for effects that are counted. A reply that is longer than the request's
 * room becomes status NOT_IMPLEMENTED, and no ticket is issued or claimed. store: the view's. scratch:
 * the ground's, as execution has left it. Returns 0 or -errno. */
int ru_command_settle(struct ru_store *store, const struct ru_command_request *request,
                      struct ru_command_reply *reply, uint8_t *scratch);
/* cdef: end */

/* Thread: any. Whether a secret in the request is wrong: by the status of the reply, or, of a ticket
 * that the effect would claim, before it is claimed, since a claim cannot be taken back. */
bool ru_command_guesses_wrong(const struct ru_command *command, const struct ru_store *store,
                              const struct ru_command_request *request,
                              const struct ru_command_reply *reply);

#endif
