/* guard.c: limits on failed checks of a secret, by sender, network and key coin. */
#include "guard/guard.h"

#include <endian.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "memory/arena.h"
#include "clock.h"

#define GUARD_ADDRESS 16 /* bytes; IPv4 is mapped into IPv6, in the last four */
#define GUARD_MAPPED 96  /* bits in front of it */
#define GUARD_LISTED 256 /* buckets listed while the lock is held */

/* The second word of a name: family, bits and transport. */
static uint64_t guard_kind(uint32_t family, uint32_t bits, uint32_t transport)
{
    return (uint64_t)family << 16 | (uint64_t)bits << 8 | transport;
}

static struct ru_guard_pace guard_pace(uint64_t interval_ns, uint32_t burst)
{
    return (struct ru_guard_pace){interval_ns, (burst - 1) * interval_ns};
}

static void guard_apply(struct ru_guard *guard, const struct ru_checks *settings)
{
    guard->settings = *settings;
    guard->seen.known = false;
    if (settings->burst == 0)
        return;
    uint64_t interval_ns = 60 * RU_SECOND_NS / settings->per_min;
    guard->paces[RU_GUARD_SOURCE - 1] = guard_pace(interval_ns, settings->burst);
    guard->paces[RU_GUARD_NETWORK - 1] = guard_pace(interval_ns / RU_GUARD_NETWORK_FACTOR,
                                                    settings->burst * RU_GUARD_NETWORK_FACTOR);
    if (settings->coin_per_s > 0)
        guard->paces[RU_GUARD_COIN - 1] =
            guard_pace(RU_SECOND_NS / settings->coin_per_s, settings->coin_per_s);
}

int ru_guard_init(struct ru_guard *guard, const struct ru_checks *settings)
{
    int result = ru_sources_init(&guard->sources);
    if (result != 0)
        return result;
    guard->groups[0] = ru_sources_id(&guard->sources,
                                     (struct ru_source_name){0, guard_kind(RU_FAMILY_COIN, 0, 0)});
    guard->groups[1] = ru_sources_id(
        &guard->sources, (struct ru_source_name){0, guard_kind(RU_FAMILY_LOCKER, 0, 0)});
    guard_apply(guard, settings);
    return 0;
}

void ru_guard_destroy(struct ru_guard *guard)
{
    ru_sources_destroy(&guard->sources);
}

static uint32_t guard_family(const struct ru_source_name *name)
{
    return (uint32_t)(name->kind >> 16);
}

static uint32_t guard_bits(const struct ru_source_name *name)
{
    return (uint32_t)(name->kind >> 8 & 0xFF);
}

static enum ru_guard_bound guard_bound_of(const struct ru_source_name *name)
{
    uint32_t family = guard_family(name), bits = guard_bits(name);
    if (family == RU_FAMILY_COIN || family == RU_FAMILY_LOCKER)
        return RU_GUARD_COIN;
    return bits == 24 || bits == 48 ? RU_GUARD_NETWORK : RU_GUARD_SOURCE;
}

/* The latest time a bucket may have: one check past its bound. */
static uint64_t guard_most_ns(const struct ru_guard_pace *pace, uint64_t now_ns)
{
    return now_ns + pace->slack_ns + pace->interval_ns;
}

void ru_guard_set(struct ru_guard *guard, const struct ru_checks *settings, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&guard->sources.lock);
    guard_apply(guard, settings);
    for (uint32_t i = 0; settings->burst > 0 && i < RU_SOURCE_BUCKETS; i++) {
        struct ru_source_name name; /* failures that the old bounds allowed must not block longer */
        if (ru_sources_at(&guard->sources, i, &name) > now_ns)
            ru_sources_cap(&guard->sources, i,
                           guard_most_ns(&guard->paces[guard_bound_of(&name) - 1], now_ns));
    }
    (void)pthread_mutex_unlock(&guard->sources.lock);
}

void ru_guard_add_command(struct ru_guard *guard, uint16_t command)
{
    guard->commands[command / 8] |= (uint8_t)(1U << command % 8);
}

bool ru_guard_asks(const struct ru_guard *guard, const uint8_t *header)
{
    uint32_t command = (uint32_t)header[RU_REQUEST_GROUP_AT] << 8 | header[RU_REQUEST_COMMAND_AT];
    return header[RU_REQUEST_ENCRYPTION_AT] != 0 ||
           (guard->commands[command / 8] >> command % 8 & 1) != 0;
}

/* ---- senders and keys ---- */

static const uint8_t guard_mapped[GUARD_MAPPED / 8] = {[10] = 0xFF, [11] = 0xFF};

/* The address of a sockaddr as 16 bytes; zeros if it has none. */
static void guard_address(const uint8_t *peer, uint8_t *address)
{
    sa_family_t family;
    memset(address, 0, GUARD_ADDRESS);
    memcpy(&family, peer, sizeof(family));
    if (family == AF_INET6) {
        memcpy(address, peer + offsetof(struct sockaddr_in6, sin6_addr), GUARD_ADDRESS);
    } else if (family == AF_INET) {
        memcpy(address, guard_mapped, sizeof(guard_mapped));
        memcpy(address + sizeof(guard_mapped), peer + offsetof(struct sockaddr_in, sin_addr), 4);
    }
}

static bool guard_within(const uint8_t *address, const struct ru_network *network)
{
    uint32_t whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(address, network->address, whole) != 0)
        return false;
    return rest == 0 || ((address[whole] ^ network->address[whole]) >> (8 - rest)) == 0;
}

/* IPv4 is not within "::/0", although its mapped form is. */
static bool guard_exempt(const struct ru_checks *settings, const uint8_t *address)
{
    bool mapped = memcmp(address, guard_mapped, sizeof(guard_mapped)) == 0;
    for (uint32_t i = 0; i < settings->exempt_count; i++)
        if ((!mapped || settings->exempt[i].bits >= GUARD_MAPPED) &&
            guard_within(address, &settings->exempt[i]))
            return true;
    return false;
}

static uint64_t guard_u32(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof(word));
    return be32toh(word);
}

static uint64_t guard_u64(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return be64toh(word);
}

static void guard_name_sender(const uint8_t *address, uint8_t transport,
                              struct ru_source_name *host, struct ru_source_name *network)
{
    if (memcmp(address, guard_mapped, sizeof(guard_mapped)) == 0) {
        uint64_t whole = guard_u32(address + sizeof(guard_mapped));
        *host = (struct ru_source_name){whole, guard_kind(RU_FAMILY_IPV4, 32, transport)};
        *network =
            (struct ru_source_name){whole & ~0xFFULL, guard_kind(RU_FAMILY_IPV4, 24, transport)};
    } else {
        uint64_t whole = guard_u64(address);
        *host = (struct ru_source_name){whole, guard_kind(RU_FAMILY_IPV6, 64, transport)};
        *network =
            (struct ru_source_name){whole & ~0xFFFFULL, guard_kind(RU_FAMILY_IPV6, 48, transport)};
    }
}

/* Key coin or locker of encryption types 1 and 2, where a CRC alone proves the key; the keys of the
 * other types cannot be guessed. */
static bool guard_name_key(const uint8_t *header, struct ru_source_name *name)
{
    uint8_t type = header[RU_REQUEST_ENCRYPTION_AT];
    if (type != 1 && type != 2)
        return false;
    const uint8_t *key =
        header + RU_REQUEST_SMALL_COIN_AT; /* type 2 has the prefix of the locker's key there */
    uint32_t family = type == 1 ? RU_FAMILY_COIN : RU_FAMILY_LOCKER;
    *name = (struct ru_source_name){guard_u32(key) << 8 | key[RU_COIN_NAME_SIZE - 1],
                                    guard_kind(family, 0, 0)};
    return true;
}

/* ---- checks ---- */

/* Fill in the charges for sender and network; false if no limit applies to them. The network's id
 * is hashed again only if `check` has another network; the sender is a member of its network. */
static bool guard_charge_sender(const struct ru_guard *guard, const uint8_t *peer,
                                uint8_t transport, struct ru_guard_check *check)
{
    struct ru_guard_charge *sender = &check->charges[0], *network = &check->charges[1];
    struct ru_source_name host, net;
    uint8_t address[GUARD_ADDRESS];
    if (guard->settings.burst == 0)
        return false;
    guard_address(peer, address);
    if (guard_exempt(&guard->settings, address))
        return false;
    guard_name_sender(address, transport, &host, &net);
    if (check->count == 0 || network->name.what != net.what || network->name.kind != net.kind)
        network->id = ru_sources_id(&guard->sources, net);
    network->name = net;
    ru_sources_expect(&guard->sources, network->id);
    sender->id = ru_sources_member_id(&guard->sources, network->id, host.what - net.what);
    sender->name = host;
    ru_sources_expect(&guard->sources, sender->id);
    check->count = 2;
    return true;
}

/* The id of a key coin, a member of the group of coins or lockers, and its name; 0 if no limit
 * applies to it. */
static uint64_t guard_coin_id(const struct ru_guard *guard, const uint8_t *header,
                              struct ru_source_name *name)
{
    if (guard->settings.coin_per_s == 0 || !guard_name_key(header, name))
        return 0;
    return ru_sources_member_id(&guard->sources,
                                guard->groups[header[RU_REQUEST_ENCRYPTION_AT] == 2], name->what);
}

static bool guard_is_past(const struct ru_guard *guard, enum ru_guard_bound bound, uint64_t id,
                          uint64_t now_ns)
{
    return ru_sources_until(&guard->sources, id) > now_ns + guard->paces[bound - 1].slack_ns;
}

/* sender: the charges of sender and network. coin: the key coin's id, or 0; not checked over TCP,
 * where the sender's address is proven and its own bounds suffice. */
static enum ru_guard_bound guard_judge(const struct ru_guard *guard,
                                       const struct ru_guard_charge *sender, uint64_t coin,
                                       uint8_t transport, uint64_t now_ns)
{
    if (guard_is_past(guard, RU_GUARD_SOURCE, sender[0].id, now_ns))
        return RU_GUARD_SOURCE;
    if (guard_is_past(guard, RU_GUARD_NETWORK, sender[1].id, now_ns))
        return RU_GUARD_NETWORK;
    if (transport == RU_UDP && coin != 0 && guard_is_past(guard, RU_GUARD_COIN, coin, now_ns))
        return RU_GUARD_COIN;
    return RU_GUARD_NONE;
}

static bool guard_is_seen(const struct ru_guard_seen *seen, const uint8_t *peer, uint8_t transport)
{
    return seen->known && seen->transport == transport &&
           memcmp(seen->family, peer, sizeof(seen->family)) == 0 &&
           memcmp(seen->address, peer + 4, sizeof(seen->address)) == 0;
}

static void guard_see(struct ru_guard *guard, const uint8_t *peer, uint8_t transport)
{
    struct ru_guard_seen *seen = &guard->seen;
    memcpy(seen->family, peer, sizeof(seen->family));
    memcpy(seen->address, peer + 4, sizeof(seen->address));
    seen->transport = transport;
    seen->known = true;
    seen->limited = guard_charge_sender(guard, peer, transport, &guard->last);
}

enum ru_guard_bound ru_guard_look(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns)
{
    if (!guard_is_seen(&guard->seen, peer, transport))
        guard_see(guard, peer, transport);
    if (!guard->seen.limited)
        return RU_GUARD_NONE;
    struct ru_source_name coin;
    return guard_judge(guard, guard->last.charges, guard_coin_id(guard, header, &coin), transport,
                       now_ns);
}

/* Fill in all charges of a check; false if no limit applies. */
static bool guard_ask(const struct ru_guard *guard, const uint8_t *peer, const uint8_t *header,
                      uint8_t transport, struct ru_guard_check *check)
{
    struct ru_guard_charge *coin = &check->charges[2];
    check->count = 0;
    if (!guard_charge_sender(guard, peer, transport, check))
        return false;
    coin->id = guard_coin_id(guard, header, &coin->name);
    check->count += coin->id != 0;
    return true;
}

enum ru_guard_bound ru_guard_peek(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns)
{
    struct ru_guard_check check;
    enum ru_guard_bound bound = RU_GUARD_NONE;
    (void)pthread_mutex_lock(&guard->sources.lock); /* for the settings */
    if (guard_ask(guard, peer, header, transport, &check))
        bound = guard_judge(guard, check.charges, check.charges[2].id, transport, now_ns);
    (void)pthread_mutex_unlock(&guard->sources.lock);
    return bound;
}

enum ru_guard_bound ru_guard_fail(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns)
{
    struct ru_guard_check check;
    enum ru_guard_bound bound = RU_GUARD_NONE;
    (void)pthread_mutex_lock(&guard->sources.lock);
    if (guard_ask(guard, peer, header, transport, &check))
        bound = guard_judge(guard, check.charges, check.charges[2].id, transport, now_ns);
    for (uint32_t i = 0; bound == RU_GUARD_NONE && i < check.count; i++)
        ru_sources_charge(&guard->sources, check.charges[i].id, check.charges[i].name,
                          guard->paces[i].interval_ns, guard_most_ns(&guard->paces[i], now_ns),
                          now_ns);
    (void)pthread_mutex_unlock(&guard->sources.lock);
    return bound;
}

/* ---- listing ---- */

static bool guard_name_exempt(const struct ru_guard *guard, const struct ru_source_name *name)
{
    uint8_t address[GUARD_ADDRESS] = {0};
    uint64_t six = htobe64(name->what);
    uint32_t four = htobe32((uint32_t)name->what);
    if (guard_family(name) == RU_FAMILY_IPV4) {
        memcpy(address, guard_mapped, sizeof(guard_mapped));
        memcpy(address + sizeof(guard_mapped), &four, sizeof(four));
    } else if (guard_family(name) == RU_FAMILY_IPV6) {
        memcpy(address, &six, sizeof(six));
    } else {
        return false;
    }
    return guard_exempt(&guard->settings, address);
}

/* True if bucket `index` forbids checks now; `limited` describes it. */
static bool guard_show(const struct ru_guard *guard, uint32_t index, uint64_t now_ns,
                       struct ru_limited *limited)
{
    struct ru_source_name name;
    uint64_t until_ns = ru_sources_at(&guard->sources, index, &name);
    if (until_ns <= now_ns || guard_name_exempt(guard, &name))
        return false;
    enum ru_guard_bound bound = guard_bound_of(&name);
    uint64_t free_ns = now_ns + guard->paces[bound - 1].slack_ns;
    if (until_ns <= free_ns || (bound == RU_GUARD_COIN && guard->settings.coin_per_s == 0))
        return false;
    *limited = (struct ru_limited){.family = (uint8_t)guard_family(&name),
                                   .bits = (uint8_t)guard_bits(&name),
                                   .transport = (uint8_t)name.kind,
                                   .rest_ns = until_ns - free_ns};
    uint32_t size = limited->family == RU_FAMILY_IPV4   ? 4
                    : limited->family == RU_FAMILY_IPV6 ? 8
                                                        : 5;
    for (uint32_t i = 0; i < size && limited->family != RU_FAMILY_LOCKER; i++)
        limited->name[i] = (uint8_t)(name.what >> 8 * (size - 1 - i));
    return true;
}

uint32_t ru_guard_list(struct ru_guard *guard, struct ru_limited *limited, uint32_t count,
                       uint64_t now_ns)
{
    uint32_t found = 0;
    struct ru_limited one;
    for (uint32_t i = 0; i < RU_SOURCE_BUCKETS; i++) {
        if (i % GUARD_LISTED == 0) /* the loop may be waiting to charge a failed check */
            (void)pthread_mutex_lock(&guard->sources.lock);
        if (guard->settings.burst > 0 && guard_show(guard, i, now_ns, &one)) {
            if (found < count)
                limited[found] = one;
            found++;
        }
        if (i % GUARD_LISTED == GUARD_LISTED - 1)
            (void)pthread_mutex_unlock(&guard->sources.lock);
    }
    return found;
}

_Static_assert(RU_SOURCE_BUCKETS % GUARD_LISTED == 0, "the lock is released");
