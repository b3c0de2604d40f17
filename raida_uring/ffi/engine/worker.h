/* worker.h: a worker's batch between take and reply, for the files that share it.
 *
 * Owner: the worker's thread. ru.h has what Python calls.
 */
#ifndef RU_WORKER_H
#define RU_WORKER_H

#include "engine/engine.h"
#include "engine/ground.h"
#include "seal/seal.h"

/* The key coins of a batch. */
#define RU_WORKER_KEYS_MAX (RU_BATCH_MAX * RU_SEAL_COINS_MAX)

/* What is needed to answer, kept from the request. */
struct ru_worker_entry {
    uint64_t token;
    const uint8_t *header;    /* in the scratch */
    const uint8_t *challenge; /* of a plain body, in the scratch; or NULL */
    uint16_t key_at;          /* of its first key coin, in the batch's keys */
    uint8_t keys_count;
    uint8_t limited; /* enum ru_guard_bound: not looked at */
    uint8_t refusal; /* enum ru_status: of an encrypted request that was looked at */
    bool encrypted;
    struct ru_unsealed unsealed;
};

/* An answer to one request, in the clear. */
struct ru_worker_answer {
    uint8_t status;
    const uint8_t *payload;
    uint32_t size;
};

struct ru_worker {
    struct ru_engine *engine;
    struct ru_mailbox *mailbox;
    struct ru_tally **tallies; /* by command; the engine's */
    struct ru_tap *tap;        /* the engine's */
    struct ru_seal *seal;
    struct ru_ground *ground; /* NULL: it runs handlers */
    uint32_t opened;          /* entries and records of the batch */
    uint32_t answered;        /* ... of which the first are answered */
    uint32_t sealed;          /* ... and whose bodies are still encrypted */
    uint32_t used;            /* bytes of the scratch */
    uint32_t reply_factor;    /* udp_reply_factor_max, for the replies of the batch */
    uint64_t since_ns;        /* busy since; 0: not busy */
    uint64_t taken_ns;        /* when a batch was taken that Python does not run yet; 0: it does */
    uint64_t waiting;         /* a token that did not fit the last batch; 0: none */
    uint32_t looked;          /* the record that asked for a check last */
    uint32_t keys_count;
    uint8_t key_names[RU_WORKER_KEYS_MAX * RU_COIN_NAME_SIZE];
    uint8_t key_records[RU_WORKER_KEYS_MAX * RU_PAGE_RECORD_SIZE];
    uint8_t key_states[RU_WORKER_KEYS_MAX];
    struct ru_worker_entry entries[RU_BATCH_MAX];
    struct ru_record records[RU_BATCH_MAX];
    struct ru_record refused[RU_BATCH_MAX]; /* while a batch is opened */
    uint8_t scratch[RU_SCRATCH_SIZE];
};

typedef enum ru_guard_bound ru_worker_ask(struct ru_guard *guard, const uint8_t *peer,
                                          const uint8_t *header, uint8_t transport,
                                          uint64_t now_ns);

/* The entry whose request stands at `payload_at`, and its record in worker->looked; NULL: none. */
struct ru_worker_entry *ru_worker_entry_at(struct ru_worker *worker, uint32_t payload_at);
/* Ask the guard about a check for an entry: whether its result may be revealed. */
bool ru_worker_ask_guard(struct ru_worker *worker, struct ru_worker_entry *entry,
                         ru_worker_ask *ask);
/* A check has been made for an entry: whether its result may be revealed. */
bool ru_worker_told(struct ru_worker *worker, struct ru_worker_entry *entry, bool failed);
/* Answer an entry. record: where to note what became of it, or NULL. */
void ru_worker_answer(struct ru_worker *worker, struct ru_worker_entry *entry,
                      struct ru_worker_answer answer, uint64_t now_ns, struct ru_record *record);
/* Add the time since the last call to busy_ns, from which the loop estimates the lane's pace. */
void ru_worker_spent(struct ru_worker *worker, uint64_t now_ns);
/* Have the loop look for what was answered. */
void ru_worker_wake_loop(struct ru_worker *worker);
/* Begin a batch with as many of the waiting requests as fit; 0 only when there are none left that
 * need more than a check of their bodies. */
uint32_t ru_worker_fill(struct ru_worker *worker);
/* Add to one of the worker's counters, which other threads read at any time. */
void ru_worker_raise(uint64_t *counter, uint64_t by);

#endif
