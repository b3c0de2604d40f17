/* unseal.c: the encrypted requests of a batch, opened before a handler sees them.
 *
 * Why after the take: their keys are ANs, and those stand in the state of the store that the batch is
 * answered from, which Python has chosen. Runs on the worker's own thread without the interpreter
 * lock. A request that is refused here is answered here, so that no handler's turn is spent on it.
 */
#include <openssl/crypto.h>
#include <string.h>

#include "coins/store.h"
#include "engine/unseal.h"
#include "engine/worker.h"

/* Whether a request that was refused with that status has tried a wrong key. */
static bool unseal_is_guess(int status)
{
    return status == RU_STATUS_ENCRYPTION || status == RU_STATUS_KEY_COIN_NOT_FOUND ||
           status == RU_STATUS_CRC || status == RU_STATUS_HMAC;
}

static void unseal_forget_keys(struct ru_worker *worker, uint32_t first, uint32_t count)
{
    OPENSSL_cleanse(worker->key_records + (size_t)first * RU_PAGE_RECORD_SIZE,
                    (size_t)count * RU_PAGE_RECORD_SIZE);
}

/* Look up `count` keys from number `first` on. Returns 0 or the store's error, and keeps none then. */
static int unseal_look_up(struct ru_worker *worker, struct ru_view *view, uint32_t first,
                          uint32_t count)
{
    RU_CHECK(first + count <= worker->keys_count);
    uint8_t *states = worker->key_states + first;
    if (!view)
        memset(states, RU_COIN_UNREADABLE, count);
    if (!view || count == 0)
        return 0;
    int found = ru_view_gather(view, worker->key_names + (size_t)first * RU_COIN_NAME_SIZE, count,
                               RU_COIN_NAME_SIZE,
                               worker->key_records + (size_t)first * RU_PAGE_RECORD_SIZE, states);
    if (found >= 0)
        return 0;
    unseal_forget_keys(worker, first, count);
    return found;
}

static const uint8_t *unseal_an(const struct ru_worker *worker, const struct ru_worker_entry *entry,
                                uint32_t number)
{
    uint32_t key = entry->key_at + number;
    if (number >= entry->keys_count || worker->key_states[key] != RU_COIN_EQUAL)
        return NULL;
    return worker->key_records + (size_t)key * RU_PAGE_RECORD_SIZE;
}

static bool unseal_is_public(const struct ru_worker *worker, uint16_t command)
{
    return worker->engine->public_commands[command / 8] >> command % 8 & 1;
}

/* Open one request whose keys have been looked up. Its record says what it is from now on, its entry
 * whether it is refused. */
static void unseal_one(struct ru_worker *worker, struct ru_worker_entry *entry,
                       struct ru_record *record)
{
    RU_CHECK(record->kind == RU_REQUEST_SEALED && entry->refusal == 0 && worker->sealed > 0);
    struct ru_unsealed *unsealed = &entry->unsealed;
    const uint8_t *classes = ru_page_of(&worker->engine->arena)->classes;
    int status =
        ru_seal_open(worker->seal, entry->header, worker->scratch + record->payload_at,
                     record->payload_size, unseal_an(worker, entry, 0), unseal_an(worker, entry, 1),
                     unseal_is_public(worker, record->command), unsealed);
    worker->sealed--;
    if (!ru_worker_told(worker, entry, unseal_is_guess(status))) {
        ru_seal_wipe(unsealed);
        status = RU_STATUS_REQUEST_RATE;
    } else if (status == RU_STATUS_OK && !unsealed->proved) {
        /* Without a body no key was shown: only an echo, which reveals nothing, is answered. */
        record->kind = RU_REQUEST_BARE;
        if (__atomic_load_n(&classes[record->command], __ATOMIC_RELAXED) != RU_CLASS_ECHO)
            status = RU_STATUS_EMPTY_REQUEST;
    } else if (status == RU_STATUS_OK) {
        record->kind = unsealed->payload_at > 0 ? RU_REQUEST_PLAIN : RU_REQUEST_OPENED;
        record->payload_at += unsealed->payload_at;
        record->payload_size = unsealed->payload_size;
    }
    entry->refusal = (uint8_t)status;
}

/* Answer what is refused, and close the gaps: what is left comes first, in its order. */
static void unseal_answer_refused(struct ru_worker *worker)
{
    uint32_t kept = 0;
    uint32_t refused = 0;
    uint64_t now_ns = ru_now_ns();
    ru_worker_spent(worker, now_ns);
    for (uint32_t i = 0; i < worker->opened; i++) {
        struct ru_worker_entry *entry = &worker->entries[i];
        if (entry->refusal != 0) {
            const struct ru_worker_answer answer = {.status = entry->refusal};
            ru_worker_answer(worker, entry, answer, now_ns, &worker->records[i]);
            worker->refused[refused++] = worker->records[i];
            continue;
        }
        if (kept != i) {
            worker->entries[kept] = *entry;
            worker->records[kept] = worker->records[i];
            OPENSSL_cleanse(&entry->unsealed, sizeof(entry->unsealed));
        }
        kept++;
    }
    RU_CHECK(kept + refused == worker->opened);
    memcpy(worker->records + kept, worker->refused, refused * sizeof(*worker->refused));
    worker->opened = kept;
    worker->looked = 0;
    if (refused > 0)
        ru_worker_wake_loop(worker);
}

int ru_worker_unseal(struct ru_worker *worker, struct ru_view *view)
{
    (void)ru_worker_resumed(worker);
    RU_CHECK(worker->answered == 0);
    int result = unseal_look_up(worker, view, 0, worker->keys_count);
    if (result != 0)
        return result;
    bool any_refused = false;
    for (uint32_t i = 0; i < worker->opened; i++) {
        if (worker->records[i].kind != RU_REQUEST_SEALED)
            continue;
        unseal_one(worker, &worker->entries[i], &worker->records[i]);
        any_refused |= worker->entries[i].refusal != 0;
    }
    unseal_forget_keys(worker, 0, worker->keys_count);
    if (any_refused)
        unseal_answer_refused(worker);
    return (int)worker->opened;
}

int ru_unseal_entry(struct ru_worker *worker, uint32_t number, struct ru_view *view)
{
    RU_CHECK(number < worker->opened);
    struct ru_worker_entry *entry = &worker->entries[number];
    struct ru_record *record = &worker->records[number];
    if (record->kind != RU_REQUEST_SEALED || entry->refusal != 0)
        return entry->refusal; /* again, as after a failed transaction */
    int result = unseal_look_up(worker, view, entry->key_at, entry->keys_count);
    if (result != 0)
        return result;
    unseal_one(worker, entry, record);
    unseal_forget_keys(worker, entry->key_at, entry->keys_count);
    return entry->refusal;
}

int ru_worker_unseal_at(struct ru_worker *worker, uint32_t payload_at, struct ru_view *view,
                        const struct ru_record **record)
{
    const struct ru_worker_entry *entry = ru_worker_entry_at(worker, payload_at);
    RU_CHECK(entry != NULL);
    *record = &worker->records[worker->looked];
    return ru_unseal_entry(worker, worker->looked, view);
}
