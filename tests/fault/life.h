/* life.h: one simulated life of a node: its peers, its workers, and what must hold throughout. */
#ifndef RU_TESTS_FAULT_LIFE_H
#define RU_TESTS_FAULT_LIFE_H

#include "backend_sim.h"
#include "engine/dispatch.h"
#include "engine/engine.h"
#include "seal/seal.h"

#define LIFE_REQUESTS_MAX 4
#define LIFE_NAMES_MAX 32768 /* datagrams and connections of one life */
#define LIFE_WORKERS_MAX 10
#define LIFE_CHANGES_MAX 3 /* by one request */
#define LIFE_STALE_MAX 8
#define LIFE_BATCH_MAX 8

enum life_command { /* group << 8 | command */
    LIFE_ECHO = 0x0001,
    LIFE_WORKER = 0x0302,
    LIFE_WRITE = 0x0304,
    LIFE_READ = 0x0320, /* native, as the next two and often the echo */
    LIFE_PUT = 0x0324,
    LIFE_GUESS = 0x0332,
    LIFE_SLOW = 0x0F7B,
    LIFE_UNKNOWN = 0x0909,
};

/* A request and what its reply may look like. The name is the peer's; it stands in the peer's
 * address, in the body and in the handler's reply, so that no reply can reach another peer unseen. */
struct life_request {
    uint32_t name;
    uint32_t size;
    uint16_t serial; /* the echo bytes of its header */
    uint16_t command;
    uint16_t body_size;
    uint8_t encryption;
    uint8_t header_size;
    bool vote;
    bool silent;      /* no reply may come: empty, short, itself a reply */
    bool spoilt;      /* its body does not end as it must, or its key is wrong */
    bool used;        /* a reply has come */
    bool settled;     /* a native command's ticket has been issued */
    bool unwritten;   /* it was executed in a batch that could not be committed */
    uint32_t changed; /* what it has changed for good */
    uint8_t challenge[RU_CHALLENGE_SIZE]; /* as the reply must show it */
    uint8_t header[RU_HEADER_LARGE];
    struct ru_unsealed key; /* of a whole encrypted request; otherwise not proved */
};

/* A reply while it arrives. */
struct life_reply {
    uint32_t have;
    uint32_t body_size;
    uint8_t header[RU_HEADER_LARGE];
};

struct life_client {
    bool used;
    uint32_t name;
    uint8_t *script;
    uint32_t size, sent;
    uint32_t chunk_max;
    uint32_t pace;  /* of 256: how often it acts */
    uint32_t reads; /* bytes it takes at a time; 0: never reads */
    uint32_t ends_at, resets_at;
    bool ended, reset;
    uint32_t requests_count, answered;
    struct life_request requests[LIFE_REQUESTS_MAX];
    struct life_reply reply;
};

struct life_worker {
    struct ru_worker *handle;
    uint32_t count, answered; /* of the batch it holds */
    bool native;              /* of a lane that executes commands in C */
    bool asleep;
    bool stuck; /* answers only once the node drains */
    bool dead;  /* answers only when it is closed */
    uint64_t stale[LIFE_STALE_MAX];
    uint32_t stale_count;
};

/* What native commands have done, and how often what is rare has happened. */
struct life_native {
    uint64_t echoes, coins, value;    /* as the node must count them */
    uint64_t busy, unwritten, undone; /* a view that must not wait; batches; changes taken back */
    uint64_t told_wrong, raida_wrong; /* replies that a guess was wrong: to others, to RAIDA */
    uint64_t slow_wrong;              /* failed checks of handlers */
    uint64_t failed_one,
        failed_all; /* failures of the store: of a request, of the rest of a batch */
    uint64_t light_lap, light_cost; /* what the I/O thread has executed in its latest lap */
};

struct life {
    struct ru_engine *engine;
    struct ru_config config;
    uint32_t laps, laps_max;
    uint64_t overflowed; /* counted before this lap */
    uint32_t idle_laps;  /* in a row that neither slept nor found anything */
    uint64_t last_events;
    uint32_t appetite; /* of 256: how often peers come */
    uint32_t drain_ms;
    bool draining, handing_over;
    bool ending, orderly; /* it ended before the deadline of its drain */
    bool other_dies;      /* the process that is handed over to, before it serves */
    uint32_t adopted;
    uint64_t moved_ns; /* when deadlines became others */
    uint32_t names;
    struct ru_seal *seal; /* the peers' */
    struct ru_view *view; /* of simulated coins, for handlers */
    struct life_native native;
    uint32_t workers_count;
    struct life_worker workers[LIFE_WORKERS_MAX];
    struct life_client clients[SIM_PEERS_MAX];
    struct life_request datagrams[LIFE_NAMES_MAX];
};

static inline void check(bool condition, const char *what, uint64_t value)
{
    if (!condition)
        sim_fail(what, value);
}

/* Names are addresses: those of RAIDA are in a network each. */
#define LIFE_RAIDA 0x20000000U

static inline bool life_is_raida(uint32_t name)
{
    return (name & LIFE_RAIDA) != 0;
}

/* What a native command makes of a request. */
static inline uint32_t life_changes(const struct life_request *request)
{
    return 1 + request->serial % LIFE_CHANGES_MAX;
}

static inline uint64_t life_change_value(const struct life_request *request)
{
    return 1 + request->name % 1000;
}

static inline bool life_has_ticket(const struct life_request *request)
{
    return request->serial % 5 == 0;
}

static inline bool life_guesses_wrong(const struct life_request *request)
{
    return life_is_raida(request->name) || request->serial % 4 != 0;
}

/* Simulated coins; never looked into. */
static inline struct ru_store *life_store(struct life *life)
{
    return (struct ru_store *)(void *)life;
}

/* commands.c */
void life_commands_begin(struct life *life);

/* peers.c; self is the life */
void life_peers_begin(struct life *life);
void life_peers_act(struct life *life);
void life_peers_end(struct life *life);
void life_take_datagram(void *self, uint32_t name, const uint8_t *bytes, uint32_t size);
void life_take_stream(void *self, uint32_t peer, const uint8_t *bytes, uint32_t size);
void life_take_close(void *self, uint32_t peer, int fd, bool reset);
/* NULL: its peer is gone. */
struct life_request *life_request_of(struct life *life, uint32_t name, uint16_t serial);
/* Byte `at` of a handler's reply body of `size` bytes, terminator included. */
uint8_t life_reply_byte(uint32_t name, uint16_t serial, uint32_t at, uint32_t size);
/* The AN of a coin by its name of RU_COIN_NAME_SIZE bytes; false if its page cannot be read. */
bool life_coin_an(const uint8_t *coin, uint8_t *an);

/* control.c */
uint32_t life_draw_factor(void);
void life_control_act(struct life *life);
void life_control_end(struct life *life);
/* Drain, or hand over to another process. */
void life_end_soon(struct life *life);
void life_take_pass(void *self, uint32_t peer);

/* invariants.c */
void life_check(struct life *life, bool sleeping);
/* Nobody has to wake the loop for what workers have returned, or somebody has. */
void life_check_awake(const struct life *life, bool sleeping);
void life_check_end(struct life *life);

#endif
