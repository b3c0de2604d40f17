/* test_source.c: the table of sources, and which bounds on failed checks follow from it.
 *
 * Also run under the thread sanitizer. What must hold: nobody is told of more failures than its bound
 * has; who fails none is never limited; nobody is limited by a stranger.
 */
#include "guard/source.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>

#include "clock.h"
#include "guard/guard.h"
#include "native.h"

#define SECOND RU_SECOND_NS
#define START (1000 * SECOND) /* any moment: no test looks at a clock */
#define WORKERS 4U
#define ROUNDS 5000U

static const struct ru_checks usual = {.burst = 20, .per_min = 60, .coin_per_s = 10};

struct peer {
    uint8_t bytes[RU_PEER_SIZE];
};

static struct peer peer_of(const char *text)
{
    struct peer peer = {{0}};
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)peer.bytes;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)peer.bytes;
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1)
        four->sin_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1)
        six->sin6_family = AF_INET6;
    return peer;
}

/* A header of that encryption type under coin `number`. */
static const uint8_t *header_of(uint8_t encryption, uint8_t number)
{
    static _Thread_local uint8_t header[RU_HEADER_LARGE];
    memset(header, 0, sizeof(header));
    header[RU_REQUEST_ENCRYPTION_AT] = encryption;
    header[RU_REQUEST_SMALL_COIN_AT + RU_COIN_NAME_SIZE - 1] = number;
    return header;
}

static struct ru_guard *guard_with(const struct ru_checks *settings)
{
    static struct ru_guard guard;
    memset(&guard, 0, sizeof(guard));
    EXPECT_EQUAL(ru_guard_init(&guard, settings), 0);
    return &guard;
}

/* How many of `count` failing checks are told. */
static uint32_t fails(struct ru_guard *guard, const char *address, const uint8_t *header,
                      uint8_t transport, uint64_t now_ns, uint32_t count)
{
    struct peer peer = peer_of(address);
    uint32_t told = 0;
    for (uint32_t i = 0; i < count; i++) {
        enum ru_guard_bound looked = ru_guard_look(guard, peer.bytes, header, transport, now_ns);
        enum ru_guard_bound peeked = ru_guard_peek(guard, peer.bytes, header, transport, now_ns);
        enum ru_guard_bound failed = ru_guard_fail(guard, peer.bytes, header, transport, now_ns);
        EXPECT_EQUAL(looked, failed);
        EXPECT_EQUAL(peeked, failed);
        told += failed == RU_GUARD_NONE;
    }
    return told;
}

static enum ru_guard_bound look(struct ru_guard *guard, const char *address, const uint8_t *header,
                                uint8_t transport, uint64_t now_ns)
{
    struct peer peer = peer_of(address);
    return ru_guard_look(guard, peer.bytes, header, transport, now_ns);
}

/* ---- the table ---- */

static void test_a_charge_is_forgiven_in_its_interval(void)
{
    struct ru_sources sources;
    const struct ru_source_name name = {1, 2};
    EXPECT_EQUAL(ru_sources_init(&sources), 0);
    uint64_t id = ru_sources_id(&sources, name);
    EXPECT_EQUAL(ru_sources_until(&sources, id), 0);
    ru_sources_charge(&sources, id, name, 5, UINT64_MAX, 100);
    ru_sources_charge(&sources, id, name, 7, UINT64_MAX, 101);
    EXPECT_EQUAL(ru_sources_until(&sources, id), 112);
    ru_sources_charge(&sources, id, name, 5, UINT64_MAX, 200); /* what was before is forgiven */
    EXPECT_EQUAL(ru_sources_until(&sources, id), 205);
    ru_sources_charge(&sources, id, name, 5, 207, 200);
    EXPECT_EQUAL(ru_sources_until(&sources, id), 207);
    ru_sources_destroy(&sources);
}

static void test_a_full_line_gives_up_what_is_forgiven_first(void)
{
    struct ru_sources sources;
    EXPECT_EQUAL(ru_sources_init(&sources), 0);
    for (uint64_t i = 0; i <= RU_SOURCE_WAYS; i++) { /* of one line: lines go by the upper bits */
        const struct ru_source_name name = {i, 0};
        ru_sources_charge(&sources, 1 + i, name, i == 2 ? 1 : 10 + i, UINT64_MAX, 100);
    }
    for (uint64_t i = 0; i <= RU_SOURCE_WAYS; i++)
        EXPECT_EQUAL(ru_sources_until(&sources, 1 + i), i == 2 ? 0 : 110 + i);
    ru_sources_destroy(&sources);
}

/* Neighbours, as a network's addresses are, are spread as chance would spread them: under a key that
 * is another one each time, half again as many as on average per line already is far out. */
static void test_neighbours_are_spread_over_the_lines(void)
{
    static uint32_t counts[RU_SOURCE_LINES];
    const uint32_t each = 256;
    struct ru_sources sources;
    EXPECT_EQUAL(ru_sources_init(&sources), 0);
    memset(counts, 0, sizeof(counts));
    for (uint64_t i = 0; i < (uint64_t)each * RU_SOURCE_LINES; i++)
        counts[ru_sources_id(&sources, (struct ru_source_name){i, 3}) >> 51]++;
    EXPECT_EQUAL(RU_SOURCE_LINES, 1ULL << (64 - 51));
    for (uint32_t line = 0; line < RU_SOURCE_LINES; line++)
        EXPECT(counts[line] > each / 2 && counts[line] < each + each / 2);
    ru_sources_destroy(&sources);
}

/* SipHash-1-3 as its authors' reference code computes it, key 00 01 … 0f, message 00 01 … 0f. */
static void test_the_hash_is_the_known_one(void)
{
    struct ru_sources sources = {.key = {0x0706050403020100ULL, 0x0F0E0D0C0B0A0908ULL}};
    const struct ru_source_name name = {0x0706050403020100ULL, 0x0F0E0D0C0B0A0908ULL};
    EXPECT_EQUAL(ru_sources_id(&sources, name), 0xCC4FDD1A7D908B66ULL);
}

/* ---- bounds ---- */

static void test_a_sender_fails_its_burst_and_then_once_a_second(void)
{
    struct ru_guard *guard = guard_with(&usual);
    for (uint8_t transport = 0; transport < 2; transport++) { /* counted apart */
        const uint8_t *header = header_of(4, 0);
        EXPECT_EQUAL(fails(guard, "192.0.2.1", header, transport, START, 1000), 20);
        EXPECT_EQUAL(look(guard, "192.0.2.1", header, transport, START), RU_GUARD_SOURCE);
        EXPECT_EQUAL(fails(guard, "192.0.2.1", header, transport, START + SECOND - 1, 10), 0);
        EXPECT_EQUAL(fails(guard, "192.0.2.1", header, transport, START + SECOND, 10), 1);
        EXPECT_EQUAL(fails(guard, "192.0.2.1", header, transport, START + 11 * SECOND, 100), 10);
        EXPECT_EQUAL(fails(guard, "192.0.2.1", header, transport, START + 99 * SECOND, 100), 20);
        EXPECT_EQUAL(look(guard, "192.0.2.2", header, transport, START + 99 * SECOND),
                     RU_GUARD_NONE);
    }
    ru_guard_destroy(guard);
}

static void test_a_network_has_a_wider_bound(void)
{
    struct ru_guard *guard = guard_with(&usual);
    const uint8_t *header = header_of(5, 0);
    char address[INET6_ADDRSTRLEN];
    uint32_t made = 0;
    for (uint32_t i = 0; i < 256; i++) {
        (void)snprintf(address, sizeof(address), "198.51.100.%u", i);
        made += fails(guard, address, header, RU_TCP, START, 20);
    }
    EXPECT_EQUAL(made, 20 * RU_GUARD_NETWORK_FACTOR);
    EXPECT_EQUAL(look(guard, "198.51.100.255", header, RU_TCP, START), RU_GUARD_NETWORK);
    EXPECT_EQUAL(look(guard, "198.51.100.255", header, RU_UDP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "198.51.101.0", header, RU_TCP, START), RU_GUARD_NONE);
    ru_guard_destroy(guard);
}

static void test_ipv6_counts_by_64_and_48_bits(void)
{
    struct ru_guard *guard = guard_with(&usual);
    const uint8_t *header = header_of(4, 0);
    EXPECT_EQUAL(fails(guard, "2001:db8:1:2::1", header, RU_UDP, START, 100), 20);
    EXPECT_EQUAL(look(guard, "2001:db8:1:2:ffff::9", header, RU_UDP, START), RU_GUARD_SOURCE);
    EXPECT_EQUAL(look(guard, "2001:db8:1:3::1", header, RU_UDP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(fails(guard, "::ffff:192.0.2.7", header, RU_UDP, START, 100), 20);
    EXPECT_EQUAL(look(guard, "192.0.2.7", header, RU_UDP, START), RU_GUARD_SOURCE);
    char address[INET6_ADDRSTRLEN];
    for (uint32_t i = 0; i < RU_GUARD_NETWORK_FACTOR; i++) {
        (void)snprintf(address, sizeof(address), "2001:db8:9:%x::1", i);
        EXPECT_EQUAL(fails(guard, address, header, RU_UDP, START, 20), 20);
    }
    EXPECT_EQUAL(look(guard, "2001:db8:9:ffff::1", header, RU_UDP, START), RU_GUARD_NETWORK);
    ru_guard_destroy(guard);
}

static void test_a_coin_has_a_bound_over_all_senders(void)
{
    struct ru_guard *guard = guard_with(&usual);
    EXPECT_EQUAL(fails(guard, "192.0.2.1", header_of(1, 9), RU_UDP, START, 5), 5);
    EXPECT_EQUAL(fails(guard, "203.0.113.1", header_of(1, 9), RU_TCP, START, 5), 5);
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(1, 9), RU_UDP, START), RU_GUARD_COIN);
    /* The owner has TCP, and the types whose keys cannot be guessed. */
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(1, 9), RU_TCP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(4, 9), RU_UDP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(1, 8), RU_UDP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(2, 9), RU_UDP, START), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "10.0.0.1", header_of(1, 9), RU_UDP, START + SECOND / 10),
                 RU_GUARD_NONE);
    ru_guard_destroy(guard);
}

/* Over TCP a coin's bound forbids nothing, and is met all the same. */
static void test_a_debt_is_forgiven_whatever_was_tried_meanwhile(void)
{
    struct ru_guard *guard = guard_with(&usual);
    char address[INET6_ADDRSTRLEN];
    for (uint32_t i = 0; i < 250; i++) {
        (void)snprintf(address, sizeof(address), "10.%u.0.1", i);
        EXPECT_EQUAL(fails(guard, address, header_of(1, 9), RU_TCP, START, 19), 19);
    }
    EXPECT_EQUAL(look(guard, "192.0.2.1", header_of(1, 9), RU_UDP, START), RU_GUARD_COIN);
    EXPECT_EQUAL(look(guard, "192.0.2.1", header_of(1, 9), RU_UDP, START + SECOND / 10),
                 RU_GUARD_NONE);
    ru_guard_destroy(guard);
}

static void test_other_settings_leave_no_old_debt(void)
{
    const struct ru_checks wide = {.burst = 1000000, .per_min = 1, .coin_per_s = 10};
    struct ru_guard *guard = guard_with(&wide);
    EXPECT_EQUAL(fails(guard, "192.0.2.1", header_of(4, 0), RU_UDP, START, 1000), 1000);
    ru_guard_set(guard, &usual, START);
    EXPECT_EQUAL(look(guard, "192.0.2.1", header_of(4, 0), RU_UDP, START), RU_GUARD_SOURCE);
    EXPECT_EQUAL(look(guard, "192.0.2.1", header_of(4, 0), RU_UDP, START + SECOND), RU_GUARD_NONE);
    EXPECT_EQUAL(look(guard, "192.0.2.2", header_of(4, 0), RU_UDP, START + SECOND), RU_GUARD_NONE);
    ru_guard_destroy(guard);
}

static void test_settings_widen_exempt_and_switch_off(void)
{
    struct ru_checks settings = {.burst = 3, .per_min = 120, .coin_per_s = 0, .exempt_count = 2};
    struct ru_guard *guard;
    memcpy(settings.exempt[0].address, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\0", 16);
    settings.exempt[0].bits = 96 + 24; /* 192.0.2.0/24 */
    memcpy(settings.exempt[1].address, "\x20\x01\x0d\xb8\0\0\0\x80\0\0\0\0\0\0\0\0", 16);
    settings.exempt[1].bits = 57; /* 2001:db8:0:80::/57 */
    guard = guard_with(&settings);
    const uint8_t *header = header_of(1, 1);
    EXPECT_EQUAL(fails(guard, "192.0.2.255", header, RU_UDP, START, 500), 500);
    EXPECT_EQUAL(fails(guard, "192.0.3.1", header, RU_UDP, START, 500), 3);
    EXPECT_EQUAL(fails(guard, "192.0.3.1", header, RU_UDP, START + SECOND, 500), 2);
    EXPECT_EQUAL(fails(guard, "2001:db8:0:ff::1", header, RU_UDP, START, 500), 500);
    EXPECT_EQUAL(fails(guard, "2001:db8:0:7f::1", header, RU_UDP, START, 500), 3);
    memset(&settings.exempt[1], 0, sizeof(settings.exempt[1])); /* ::/0 */
    ru_guard_set(guard, &settings, START);
    EXPECT_EQUAL(fails(guard, "2001:db8:9::1", header, RU_UDP, START, 500), 500);
    EXPECT_EQUAL(fails(guard, "198.51.100.1", header, RU_UDP, START, 500), 3);
    settings.burst = 0;
    ru_guard_set(guard, &settings, START);
    EXPECT_EQUAL(fails(guard, "192.0.3.1", header, RU_UDP, START, 500), 500);
    ru_guard_destroy(guard);
}

static void test_what_is_limited_can_be_listed(void)
{
    struct ru_guard *guard = guard_with(&usual);
    struct ru_limited limited[4];
    (void)fails(guard, "192.0.2.1", header_of(1, 7), RU_UDP, START, 100);
    (void)fails(guard, "192.0.2.1", header_of(4, 7), RU_UDP, START, 100);
    (void)fails(guard, "2001:db8::1", header_of(4, 7), RU_TCP, START, 100);
    EXPECT_EQUAL(ru_guard_list(guard, limited, 1, START), 3);
    EXPECT_EQUAL(ru_guard_list(guard, limited, 4, START), 3);
    bool found[3] = {false};
    for (uint32_t i = 0; i < 3; i++) {
        const struct ru_limited *one = &limited[i];
        found[0] |= one->family == 4 && one->bits == 32 && one->transport == RU_UDP &&
                    memcmp(one->name, "\xc0\0\x02\x01", 4) == 0 && one->rest_ns == SECOND;
        found[1] |= one->family == 6 && one->bits == 64 && one->transport == RU_TCP &&
                    memcmp(one->name, "\x20\x01\x0d\xb8\0\0\0\0", 8) == 0;
        found[2] |= one->family == 1 && memcmp(one->name, "\0\0\0\0\x07", 5) == 0;
    }
    EXPECT(found[0] && found[1] && found[2]);
    EXPECT_EQUAL(ru_guard_list(guard, limited, 4, START + 60 * SECOND), 0);
    struct ru_checks exempting = usual;
    exempting.exempt_count = 1;
    memcpy(exempting.exempt[0].address, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01", 16);
    exempting.exempt[0].bits = 128;
    ru_guard_set(guard, &exempting, START);
    EXPECT_EQUAL(ru_guard_list(guard, limited, 4, START), 2);
    ru_guard_destroy(guard);
}

static void test_which_requests_ask_for_a_check(void)
{
    struct ru_guard *guard = guard_with(&usual);
    uint8_t header[RU_HEADER_LARGE] = {[RU_REQUEST_GROUP_AT] = 2, [RU_REQUEST_COMMAND_AT] = 50};
    EXPECT(!ru_guard_asks(guard, header));
    ru_guard_add_command(guard, 2 << 8 | 50);
    EXPECT(ru_guard_asks(guard, header));
    header[RU_REQUEST_COMMAND_AT] = 51;
    EXPECT(!ru_guard_asks(guard, header));
    header[RU_REQUEST_ENCRYPTION_AT] = 1;
    EXPECT(ru_guard_asks(guard, header));
    ru_guard_destroy(guard);
}

/* ---- threads ---- */

static struct ru_guard *shared_guard;
static uint32_t told_count, workers_done;

/* Checks fail under an address that all threads share, and none under one of the thread's own. */
static void *work(void *argument)
{
    struct peer shared = peer_of("192.0.2.1"), own = peer_of("203.0.113.1");
    own.bytes[7] = (uint8_t)(uintptr_t)argument;
    own.bytes[6] = own.bytes[7]; /* a network of its own, too */
    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (ru_guard_fail(shared_guard, shared.bytes, header_of(4, 0), RU_UDP, START) ==
            RU_GUARD_NONE)
            __atomic_fetch_add(&told_count, 1, __ATOMIC_RELAXED);
        EXPECT_EQUAL(ru_guard_peek(shared_guard, own.bytes, header_of(4, 0), RU_UDP, START),
                     RU_GUARD_NONE);
    }
    __atomic_fetch_add(&workers_done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void test_threads_at_once_get_no_more(void)
{
    pthread_t threads[WORKERS];
    struct peer shared = peer_of("192.0.2.1");
    uint32_t limited = 0;
    told_count = workers_done = 0;
    shared_guard = guard_with(&usual);
    for (uintptr_t i = 0; i < WORKERS; i++)
        EXPECT_EQUAL(pthread_create(&threads[i], NULL, work, (void *)(i + 10)), 0);
    while (__atomic_load_n(&workers_done, __ATOMIC_ACQUIRE) < WORKERS) {
        bool now = look(shared_guard, "192.0.2.1", header_of(4, 0), RU_UDP, START) != 0;
        EXPECT(now || limited == 0); /* once past its bound it stays there: no time passes */
        limited += now;
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        EXPECT_EQUAL(pthread_join(threads[i], NULL), 0);
    EXPECT_EQUAL(told_count, 20);
    EXPECT_EQUAL(ru_guard_look(shared_guard, shared.bytes, header_of(4, 0), RU_UDP, START),
                 RU_GUARD_SOURCE);
    EXPECT_EQUAL(ru_guard_list(shared_guard, NULL, 0, START), 1);
    ru_guard_destroy(shared_guard);
}

int main(void)
{
    RUN(test_a_charge_is_forgiven_in_its_interval);
    RUN(test_a_full_line_gives_up_what_is_forgiven_first);
    RUN(test_neighbours_are_spread_over_the_lines);
    RUN(test_the_hash_is_the_known_one);
    RUN(test_a_sender_fails_its_burst_and_then_once_a_second);
    RUN(test_a_debt_is_forgiven_whatever_was_tried_meanwhile);
    RUN(test_other_settings_leave_no_old_debt);
    RUN(test_a_network_has_a_wider_bound);
    RUN(test_ipv6_counts_by_64_and_48_bits);
    RUN(test_a_coin_has_a_bound_over_all_senders);
    RUN(test_settings_widen_exempt_and_switch_off);
    RUN(test_what_is_limited_can_be_listed);
    RUN(test_which_requests_ask_for_a_check);
    RUN(test_threads_at_once_get_no_more);
    return native_finish();
}
