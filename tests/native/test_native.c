/* test_native.c: native commands of clients that run beside each other, on a node without Python.
 *
 * Each case runs on every backend that this kernel has. Also run under the thread sanitizer. Whatever
 * happens: a reply shows one state of all its coins, and no older one than those acknowledged before it
 * was asked for; what fails changes nothing; the journal alone yields what was acknowledged; every
 * request is answered and counted once.
 */
#include "node_rig.h"

#include <sched.h>

#include "clock.h"
#include "commands/run.h"

enum number {
    DETECT = 0x010A,
    DETECT_SUM = 0x010B,
    POWN = 0x0114,
    POWN_SUM = 0x0115,
    GET_TICKET = 0x0228,
    VALIDATE_TICKET = 0x0232,
    FIND = 0x023C,
};

/* ---- every client with coins of its own, on pages that all share ---- */

#define OWNERS 5U
#define BESIDE 4U  /* the one who is no client */
#define OWNED 100U /* coins of a client */
#define TURNS 120U

struct owner {
    struct client client;
    uint8_t ans[OWNED][RU_AN_SIZE];
    uint64_t powned, refused;
};

static void owner_name(const struct owner *owner, uint32_t coin, uint8_t *name)
{
    rig_name(name, 1, coin * 409 + owner->client.index);
}

/* Coins `first` on with their ANs, one in eight with a wrong one where `faults`; `right` says which. */
static void owner_write(struct owner *owner, uint32_t first, uint32_t count, uint32_t stride,
                        bool faults, uint8_t *payload, bool *right)
{
    for (uint32_t i = 0; i < count; i++, payload += stride) {
        const uint32_t coin = (first + i) % OWNED;
        right[i] = !faults || native_below(&owner->client.random, 8) != 0;
        owner_name(owner, coin, payload);
        memcpy(payload + RU_COIN_AN_AT, owner->ans[coin], RU_AN_SIZE);
        payload[RU_COIN_AN_AT + 7] ^= right[i] ? 0 : 0x40;
        if (stride == RU_COIN_PAN_SIZE)
            ru_random_fill(&owner->client.random, payload + RU_COIN_PAN_AT, RU_AN_SIZE);
    }
}

static void expect_verdict(const struct client *client, uint32_t status, uint32_t count,
                           const bool *right)
{
    uint8_t bits[(OWNED + 7) / 8] = {0};
    uint32_t passed = 0;
    for (uint32_t i = 0; i < count; i++) {
        bits[i / 8] |= (uint8_t)(right[i] << i % 8);
        passed += right[i];
    }
    const bool mixed = passed > 0 && passed < count;
    EXPECT_EQUAL(status, mixed        ? RU_STATUS_MIXED
                         : passed > 0 ? RU_STATUS_ALL_PASS
                                      : RU_STATUS_ALL_FAIL);
    EXPECT_EQUAL(client->reply_size, mixed ? (count + 7) / 8 : 0);
    EXPECT_BYTES(client->reply + RU_HEADER_SMALL, bits, client->reply_size);
}

static void owner_pown(struct owner *owner, bool faults)
{
    uint8_t payload[40 * RU_COIN_PAN_SIZE];
    bool right[40];
    const uint32_t first = native_below(&owner->client.random, OWNED);
    const uint32_t count = 1 + native_below(&owner->client.random, 40);
    owner_write(owner, first, count, RU_COIN_PAN_SIZE, faults, payload, right);
    const uint32_t status = client_ask(&owner->client, POWN, payload, count * RU_COIN_PAN_SIZE);
    if (status == RU_STATUS_FILESYSTEM) {
        EXPECT_EQUAL(owner->client.reply_size, 0);
        owner->refused++;
        return;
    }
    expect_verdict(&owner->client, status, count, right);
    for (uint32_t i = 0; i < count; i++) {
        if (!right[i])
            continue;
        memcpy(owner->ans[(first + i) % OWNED],
               payload + (size_t)i * RU_COIN_PAN_SIZE + RU_COIN_PAN_AT, RU_AN_SIZE);
        owner->powned++;
    }
}

static void owner_detect(struct owner *owner, uint32_t count, bool faults)
{
    uint8_t payload[OWNED * RU_COIN_AN_SIZE];
    bool right[OWNED];
    owner_write(owner, native_below(&owner->client.random, OWNED), count, RU_COIN_AN_SIZE, faults,
                payload, right);
    expect_verdict(&owner->client,
                   client_ask(&owner->client, DETECT, payload, count * RU_COIN_AN_SIZE), count,
                   right);
}

/* clients_run() has the clients, each of which is the first field of its owner. */
static void *own(void *self)
{
    struct owner *owner = self;
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        owner_pown(owner, turn % 3 == 0);
        owner_detect(owner, 1 + native_below(&owner->client.random, 30), turn % 2 == 0); /* light */
        owner_detect(owner, OWNED, turn % 5 == 0);
    }
    owner_detect(owner, OWNED, false);
    return NULL;
}

static void owner_open(struct owner *owner, struct node *node, uint32_t index)
{
    uint8_t name[RU_COIN_NAME_SIZE];
    client_open(&owner->client, node, index);
    owner->powned = owner->refused = 0;
    struct ru_view *view = rig_view(&(struct rig){.store = node->store}, false);
    for (uint32_t coin = 0; coin < OWNED; coin++) {
        owner_name(owner, coin, name);
        rig_an(view, name, owner->ans[coin]);
    }
    ru_view_close(view);
}

/* As a handler's worker does: it takes turns with the native writer, on the same pages. */
static void *own_beside(void *self)
{
    struct owner *owner = self;
    uint8_t payload[10 * RU_COIN_PAN_SIZE];
    uint8_t states[10];
    bool right[10];
    struct ru_view *view;
    if (ru_view_open(owner->client.node->store, RU_VIEW_WRITES, &view) != 0)
        abort();
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        const uint32_t first = native_below(&owner->client.random, OWNED);
        owner_write(owner, first, 10, RU_COIN_PAN_SIZE, true, payload, right);
        EXPECT_EQUAL(ru_view_begin(view), 0);
        EXPECT(ru_view_exchange(view, payload, 10, RU_COIN_PAN_SIZE, RU_COIN_AN_AT, RU_COIN_PAN_AT,
                                turn & 0xFF, states) >= 0);
        for (uint32_t i = 0; i < 10; i++) {
            EXPECT_EQUAL(states[i], right[i] ? RU_COIN_EQUAL : RU_COIN_DIFFERS);
            if (right[i])
                memcpy(owner->ans[(first + i) % OWNED],
                       payload + (size_t)i * RU_COIN_PAN_SIZE + RU_COIN_PAN_AT, RU_AN_SIZE);
        }
        EXPECT_EQUAL(ru_view_commit(view), 0);
    }
    ru_view_close(view);
    return NULL;
}

/* After a restart of the store, without a base: all that was acknowledged is in the journal. */
static void expect_durable(const struct owner *owners, struct node *node)
{
    uint8_t name[RU_COIN_NAME_SIZE];
    uint8_t an[RU_AN_SIZE];
    struct rig again = {.store = rig_serve(node->directory.fd, false, false)};
    struct ru_view *view = rig_view(&again, false);
    for (uint32_t i = 0; i < OWNERS; i++) {
        for (uint32_t coin = 0; coin < OWNED; coin++) {
            owner_name(&owners[i], coin, name);
            rig_an(view, name, an);
            EXPECT_BYTES(an, owners[i].ans[coin], RU_AN_SIZE);
        }
    }
    ru_view_close(view);
    ru_store_close(again.store);
}

/* Refuses commits now and then, until it is told to end. */
struct refuser {
    struct node *node;
    bool ending; /* atomic */
};

static void *refuse(void *self)
{
    struct refuser *refuser = self;
    const struct timespec pause = {.tv_nsec = 2000000};
    for (uint32_t turn = 0; !__atomic_load_n(&refuser->ending, __ATOMIC_ACQUIRE); turn++) {
        ru_store_refuse(refuser->node->store, turn % 4 == 3 ? -EIO : 0);
        (void)nanosleep(&pause, NULL);
    }
    ru_store_refuse(refuser->node->store, 0);
    return NULL;
}

static void own_coins(bool refusing)
{
    static struct owner owners[OWNERS];
    struct node node;
    struct ru_counters counters = {0};
    struct refuser refuser = {.node = &node};
    pthread_t threads[OWNERS], other;
    uint64_t asked = 0, powned = 0, refused = 0;
    if (node_start(&node) != 0)
        abort();
    for (uint32_t i = 0; i < OWNERS; i++)
        owner_open(&owners[i], &node, i);
    if (refusing)
        EXPECT_EQUAL(pthread_create(&other, NULL, refuse, &refuser), 0);
    for (uint32_t i = 0; i < OWNERS; i++)
        EXPECT_EQUAL(pthread_create(&threads[i], NULL, i == BESIDE ? own_beside : own, &owners[i]),
                     0);
    for (uint32_t i = 0; i < OWNERS; i++) {
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
        client_close(&owners[i].client);
        asked += owners[i].client.asked;
        powned += owners[i].powned;
        refused += owners[i].refused;
    }
    __atomic_store_n(&refuser.ending, true, __ATOMIC_RELEASE);
    if (refusing)
        EXPECT_EQUAL(pthread_join(other, NULL), 0);
    node_stop(&node, &counters);
    EXPECT_EQUAL(counters.udp_answered + counters.tcp_answered, asked);
    EXPECT_EQUAL(counters.coins_powned, powned);
    EXPECT_EQUAL(node.failed, refused);
    EXPECT(refusing || refused == 0);
    expect_durable(owners, &node);
    node_remove(&node);
}

static void test_owners_see_what_they_have_changed(void)
{
    own_coins(false);
}

static void test_what_cannot_be_written_changes_nothing(void)
{
    own_coins(true);
}

/* ---- pown_sum, and who looks at the same coins meanwhile ---- */

#define LOOKERS 3U
#define COINS 41U /* odd: or the sum would stay the same */
#define LIGHT 25U /* of them, for the I/O thread */
#define CHANGES 1500U

/* All coins are changed back and forth between two states. */
struct swing {
    uint8_t names[COINS * RU_COIN_NAME_SIZE];
    uint8_t pairs[COINS * RU_COIN_PAN_SIZE]; /* names with both ANs */
    uint8_t sums[2][RU_AN_SIZE];
    uint8_t difference[RU_AN_SIZE];
    uint64_t begun, acknowledged; /* changes; atomic */
};

static struct swing swing;

static void swing_open(struct node *node)
{
    struct ru_random random = {native_seed()};
    struct ru_view *view = rig_view(&(struct rig){.store = node->store}, false);
    memset(&swing, 0, sizeof(swing));
    ru_random_fill(&random, swing.difference, RU_AN_SIZE);
    for (uint32_t i = 0; i < COINS; i++) {
        uint8_t *name = swing.names + (size_t)i * RU_COIN_NAME_SIZE;
        uint8_t *pair = swing.pairs + (size_t)i * RU_COIN_PAN_SIZE;
        rig_name(name, 2, i * RU_PAGE_RECORDS_COUNT + i); /* on pages of their own */
        memcpy(pair, name, RU_COIN_NAME_SIZE);
        rig_an(view, name, pair + RU_COIN_AN_AT);
        for (uint32_t byte = 0; byte < RU_AN_SIZE; byte++) {
            pair[RU_COIN_PAN_AT + byte] = pair[RU_COIN_AN_AT + byte] ^ swing.difference[byte];
            swing.sums[0][byte] ^= pair[RU_COIN_AN_AT + byte];
            swing.sums[1][byte] ^= pair[RU_COIN_PAN_AT + byte];
        }
    }
    ru_view_close(view);
}

/* The status that says that the coins are in state 0 or 1. */
static uint32_t swing_look(struct client *client, uint32_t way, uint32_t count,
                           const uint32_t **statuses)
{
    static const uint32_t found[] = {RU_STATUS_FIND_ALL_AN, RU_STATUS_FIND_ALL_PAN};
    static const uint32_t detected[] = {RU_STATUS_ALL_PASS, RU_STATUS_ALL_FAIL};
    uint8_t payload[COINS * RU_COIN_PAN_SIZE];
    *statuses = way == 0 ? found : detected;
    if (way == 0)
        return client_ask(client, FIND, swing.pairs, count * RU_COIN_PAN_SIZE);
    if (way == 1) {
        for (uint32_t i = 0; i < count; i++)
            memcpy(payload + (size_t)i * RU_COIN_AN_SIZE,
                   swing.pairs + (size_t)i * RU_COIN_PAN_SIZE, RU_COIN_AN_SIZE);
        return client_ask(client, DETECT, payload, count * RU_COIN_AN_SIZE);
    }
    memcpy(payload, swing.names, sizeof(swing.names)); /* the sum is of all */
    memcpy(payload + sizeof(swing.names), swing.sums[0], RU_AN_SIZE);
    return client_ask(client, DETECT_SUM, payload, sizeof(swing.names) + RU_AN_SIZE);
}

static void *look(void *self)
{
    struct client *client = self;
    const uint32_t *statuses;
    uint64_t least = 0;
    while (least < CHANGES) {
        least = __atomic_load_n(&swing.acknowledged, __ATOMIC_ACQUIRE);
        const uint32_t way = native_below(&client->random, 3);
        const uint32_t count = native_below(&client->random, 2) ? LIGHT : COINS;
        const uint32_t status = swing_look(client, way, count, &statuses);
        const uint64_t most = __atomic_load_n(&swing.begun, __ATOMIC_ACQUIRE);
        EXPECT(status == statuses[0] || status == statuses[1]); /* no mixture */
        if (most == least)
            EXPECT_EQUAL(status, statuses[least % 2]);
    }
    return NULL;
}

static void *change(void *self)
{
    struct client *client = self;
    uint8_t payload[sizeof(swing.names) + 2 * RU_AN_SIZE];
    memcpy(payload, swing.names, sizeof(swing.names));
    memcpy(payload + sizeof(swing.names) + RU_AN_SIZE, swing.difference, RU_AN_SIZE);
    for (uint64_t turn = 0; turn < CHANGES; turn++) {
        memcpy(payload + sizeof(swing.names), swing.sums[turn % 2], RU_AN_SIZE);
        __atomic_store_n(&swing.begun, turn + 1, __ATOMIC_RELEASE);
        EXPECT_EQUAL(client_ask(client, POWN_SUM, payload, sizeof(payload)), RU_STATUS_ALL_PASS);
        __atomic_store_n(&swing.acknowledged, turn + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void *look_or_change(void *self)
{
    const struct client *client = self;
    return client->index == 0 ? change(self) : look(self);
}

static void test_sums_beside_their_changes(void)
{
    static struct client clients[1 + LOOKERS];
    struct node node;
    struct ru_counters counters = {0};
    if (node_start(&node) != 0)
        abort();
    swing_open(&node);
    for (uint32_t i = 0; i <= LOOKERS; i++)
        client_open(&clients[i], &node, i);
    clients_run(clients, 1 + LOOKERS, look_or_change);
    for (uint32_t i = 0; i <= LOOKERS; i++)
        client_close(&clients[i]);
    node_stop(&node, &counters);
    EXPECT_EQUAL(counters.coins_powned, (uint64_t)CHANGES * COINS);
    node_remove(&node);
}

/* ---- tickets ---- */

#define ISSUERS 3U
#define CLAIMERS 3U
#define EACH 20U /* tickets of an issuer */
#define RAIDA 5U
#define TICKETS (ISSUERS * EACH)
#define TICKET_COINS 3U

struct board {
    uint32_t numbers[TICKETS];        /* atomic; 0: not issued yet */
    uint32_t claimed[TICKETS][RAIDA]; /* how often; atomic */
};

static struct board board;

static void ticket_names(uint32_t ticket, uint8_t *names)
{
    for (uint32_t i = 0; i < TICKET_COINS; i++)
        rig_name(names + (size_t)i * RU_COIN_NAME_SIZE, 4, 1000 * i + ticket);
}

static void issue(struct client *client, uint32_t ticket)
{
    uint8_t names[TICKET_COINS * RU_COIN_NAME_SIZE];
    uint8_t payload[TICKET_COINS * RU_COIN_AN_SIZE];
    struct ru_view *view = rig_view(&(struct rig){.store = client->node->store}, false);
    ticket_names(ticket, names);
    for (uint32_t i = 0; i < TICKET_COINS; i++) {
        uint8_t *coin = payload + (size_t)i * RU_COIN_AN_SIZE;
        memcpy(coin, names + (size_t)i * RU_COIN_NAME_SIZE, RU_COIN_NAME_SIZE);
        rig_an(view, coin, coin + RU_COIN_AN_AT);
    }
    ru_view_close(view);
    EXPECT_EQUAL(client_ask(client, GET_TICKET, payload, sizeof(payload)), RU_STATUS_ALL_PASS);
    EXPECT_EQUAL(client->reply_size, RU_TICKET_SIZE);
    const uint32_t number = ru_get_u32(client->reply + RU_HEADER_SMALL);
    EXPECT(number != 0);
    __atomic_store_n(&board.numbers[ticket], number, __ATOMIC_RELEASE);
}

static void claim(struct client *client, uint32_t ticket, uint32_t number, uint8_t raida)
{
    uint8_t names[TICKET_COINS * RU_COIN_NAME_SIZE];
    const uint8_t payload[1 + RU_TICKET_SIZE] = {raida, (uint8_t)(number >> 24),
                                                 (uint8_t)(number >> 16), (uint8_t)(number >> 8),
                                                 (uint8_t)number};
    const uint32_t status = client_ask(client, VALIDATE_TICKET, payload, sizeof(payload));
    if (status != RU_STATUS_SUCCESS) {
        EXPECT_EQUAL(status, RU_STATUS_TICKET_CLAIMED);
        EXPECT_EQUAL(client->reply_size, 0);
        return;
    }
    ticket_names(ticket, names);
    EXPECT_EQUAL(client->reply_size, sizeof(names));
    EXPECT_BYTES(client->reply + RU_HEADER_SMALL, names, sizeof(names));
    (void)__atomic_fetch_add(&board.claimed[ticket][raida], 1, __ATOMIC_RELAXED);
}

static void *issue_or_claim(void *self)
{
    struct client *client = self;
    const uint64_t end_ns = ru_now_ns() + PATIENCE_MS * RU_MILLISECOND_NS;
    for (uint32_t i = 0; client->index < ISSUERS && i < EACH; i++)
        issue(client, i * ISSUERS + client->index);
    for (uint32_t ticket = 0; client->index >= ISSUERS && ticket < TICKETS; ticket++) {
        uint32_t number;
        while ((number = __atomic_load_n(&board.numbers[ticket], __ATOMIC_ACQUIRE)) == 0 &&
               ru_now_ns() < end_ns)
            (void)sched_yield();
        for (uint8_t raida = 0; raida < RAIDA; raida++)
            claim(client, ticket, number, raida);
    }
    return NULL;
}

/* Each ticket is claimed once for each RAIDA, whoever asks at the same time. */
static void test_tickets_are_claimed_once(void)
{
    static struct client clients[ISSUERS + CLAIMERS];
    struct node node;
    struct ru_counters counters = {0};
    if (node_start(&node) != 0)
        abort();
    memset(&board, 0, sizeof(board));
    for (uint32_t i = 0; i < ISSUERS + CLAIMERS; i++)
        client_open(&clients[i], &node, i);
    clients_run(clients, ISSUERS + CLAIMERS, issue_or_claim);
    for (uint32_t i = 0; i < ISSUERS + CLAIMERS; i++)
        client_close(&clients[i]);
    for (uint32_t ticket = 0; ticket < TICKETS; ticket++)
        for (uint32_t raida = 0; raida < RAIDA; raida++)
            EXPECT_EQUAL(board.claimed[ticket][raida], 1);
    EXPECT_EQUAL(ru_store_tickets_alive(node.store, ru_clock_ns(CLOCK_REALTIME) / RU_SECOND_NS),
                 TICKETS);
    node_stop(&node, &counters);
    EXPECT_EQUAL(counters.coins_powned, 0);
    node_remove(&node);
}

int main(void)
{
    static const enum ru_backend_choice choices[] = {RU_BACKEND_URING, RU_BACKEND_EPOLL};
    for (uint32_t i = 0; i < 2; i++) {
        struct node node;
        struct ru_counters counters = {0};
        chosen = choices[i];
        const int result = node_start(&node);
        printf("%s: %s\n", chosen == RU_BACKEND_EPOLL ? "epoll" : "io_uring",
               result == 0 ? node.engine->tier : ru_engine_fault(node.engine));
        node_stop(&node, &counters);
        node_remove(&node);
        if (result != 0)
            continue;
        RUN(test_owners_see_what_they_have_changed);
        RUN(test_what_cannot_be_written_changes_nothing);
        RUN(test_sums_beside_their_changes);
        RUN(test_tickets_are_claimed_once);
    }
    return native_finish();
}
