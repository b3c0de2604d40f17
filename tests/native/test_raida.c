/* test_raida.c: the addresses of the other RAIDA: published by one thread, looked up by others.
 *
 * What must hold: a sender is found if and only if its whole address is in the list that is published,
 * never by halves of two lists; whoever is not found leaves a trace, once.
 */
#include "guard/raida.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>

#include "native.h"

#define ADDRESS_SIZE 16
#define PUBLICATIONS 4000
#define READERS 3

static struct ru_raida raida;

/* ---- addresses ---- */

static void address_of(const char *text, uint8_t *address)
{
    if (inet_pton(AF_INET6, text, address) != 1)
        abort();
}

static bool has6(const char *text)
{
    uint8_t peer[RU_PEER_SIZE] = {0};
    struct sockaddr_in6 sender = {.sin6_family = AF_INET6, .sin6_port = 5, .sin6_scope_id = 3};
    address_of(text, sender.sin6_addr.s6_addr);
    memcpy(peer, &sender, sizeof(sender));
    return ru_raida_has(&raida, peer);
}

static bool has4(const char *text)
{
    uint8_t peer[RU_PEER_SIZE];
    struct sockaddr_in sender = {.sin_family = AF_INET, .sin_port = 7};
    memset(peer, 0xEE, sizeof(peer)); /* behind the address stands anything */
    if (inet_pton(AF_INET, text, &sender.sin_addr) != 1)
        abort();
    memcpy(peer, &sender, sizeof(sender));
    return ru_raida_has(&raida, peer);
}

/* ---- one thread ---- */

static void test_senders_are_found(void)
{
    uint8_t addresses[3][ADDRESS_SIZE];
    EXPECT(!has4("0.0.0.0") && !has6("::"));
    EXPECT(ru_raida_missed(&raida));
    EXPECT(!ru_raida_missed(&raida));
    address_of("::ffff:192.0.2.1", addresses[0]);
    address_of("2001:db8::1", addresses[1]);
    address_of("::ffff:192.0.2.3", addresses[2]);
    ru_raida_publish(&raida, addresses[0], 2);
    EXPECT(has4("192.0.2.1") && has6("::ffff:192.0.2.1") && has6("2001:db8::1"));
    EXPECT(!ru_raida_missed(&raida));
    EXPECT(!has4("192.0.2.3") && !has6("2001:db8::2") && !has6("2001:db9::1"));
    EXPECT(ru_raida_missed(&raida));
    ru_raida_publish(&raida, addresses[2], 1);
    EXPECT(has4("192.0.2.3") && !has4("192.0.2.1") && !has6("2001:db8::1"));
    ru_raida_publish(&raida, addresses[0], 0);
    EXPECT(!has4("192.0.2.1") && !has4("192.0.2.3"));
}

static void test_addresses_past_the_last_are_dropped(void)
{
    static uint8_t addresses[RU_RAIDA_ADDRESSES_MAX + 2][ADDRESS_SIZE];
    for (uint32_t i = 0; i < RU_RAIDA_ADDRESSES_MAX + 2; i++) {
        address_of("2001:db8::", addresses[i]);
        addresses[i][ADDRESS_SIZE - 1] = (uint8_t)i;
    }
    ru_raida_publish(&raida, addresses[0], RU_RAIDA_ADDRESSES_MAX + 2);
    EXPECT_EQUAL(raida.count, RU_RAIDA_ADDRESSES_MAX);
    EXPECT(has6("2001:db8::") && has6("2001:db8::7f"));
    EXPECT(!has6("2001:db8::80") && !has6("2001:db8::81"));
}

/* ---- threads ---- */

/* Two lists of different lengths. Both have 2001:db8::c, at other places; each of the others' addresses
 * shares its first half with one list and its second half with the other. */
static void lists_fill(uint8_t lists[2][RU_RAIDA_ADDRESSES_MAX][ADDRESS_SIZE],
                       const uint32_t counts[2])
{
    for (uint32_t list = 0; list < 2; list++) {
        for (uint32_t i = 0; i < counts[list]; i++) {
            address_of(list == 0 ? "2001:db8:a::a" : "2001:db8:b::b", lists[list][i]);
            lists[list][i][7] = lists[list][i][14] = (uint8_t)i;
        }
        address_of("2001:db8::c", lists[list][list == 0 ? 3 : counts[1] - 1]);
    }
}

static void *publish(void *finished)
{
    static uint8_t lists[2][RU_RAIDA_ADDRESSES_MAX][ADDRESS_SIZE];
    static const uint32_t counts[2] = {24, RU_RAIDA_ADDRESSES_MAX};
    lists_fill(lists, counts);
    for (uint32_t i = 0; i < PUBLICATIONS; i++)
        ru_raida_publish(&raida, lists[i % 2][0], counts[i % 2]);
    __atomic_store_n((bool *)finished, true, __ATOMIC_RELEASE);
    return NULL;
}

static void *look(void *finished)
{
    uint64_t looks = 0, seen = 0;
    do {
        if (!has6("2001:db8::c") || has6("2001:db8:a:5::50b") || has6("2001:db8:b:5::50a"))
            return NULL; /* the test counts who has not seen the end */
        seen += has6("2001:db8:a:5::50a");
        looks++;
    } while (!__atomic_load_n((bool *)finished, __ATOMIC_ACQUIRE));
    return looks > 0 && seen <= looks ? finished : NULL;
}

static void test_looks_while_a_publisher_writes(void)
{
    static uint8_t lists[2][RU_RAIDA_ADDRESSES_MAX][ADDRESS_SIZE];
    static bool finished;
    pthread_t publisher, readers[READERS];
    void *end;
    lists_fill(lists, (const uint32_t[2]){24, RU_RAIDA_ADDRESSES_MAX});
    ru_raida_publish(&raida, lists[0][0], 24);
    EXPECT(has6("2001:db8:a:5::50a") && !has6("2001:db8:b:5::50b"));
    for (uint32_t i = 0; i < READERS; i++)
        EXPECT_EQUAL(pthread_create(&readers[i], NULL, look, &finished), 0);
    EXPECT_EQUAL(pthread_create(&publisher, NULL, publish, &finished), 0);
    EXPECT_EQUAL(pthread_join(publisher, NULL), 0);
    for (uint32_t i = 0; i < READERS; i++) {
        EXPECT_EQUAL(pthread_join(readers[i], &end), 0);
        EXPECT(end == &finished);
    }
}

int main(void)
{
    RUN(test_senders_are_found);
    RUN(test_addresses_past_the_last_are_dropped);
    RUN(test_looks_while_a_publisher_writes);
    return native_finish();
}
