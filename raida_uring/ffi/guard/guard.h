/* guard.h: limits on failed checks of a secret, by sender, network and key coin.
 *
 * Why: under encryption types 1 and 2 only a 32-bit CRC proves a key, and tickets have 32 bits,
 * too, so both could be guessed. Failed checks are counted per sender (an IPv4 address, an IPv6
 * /64), per network (/24, /48), and per key coin over all senders. Past a bound the result of a
 * check is not revealed, right or wrong, and no check is made where the bound is known beforehand.
 * UDP and TCP are counted separately, because a datagram's source address may be forged.
 *
 * The decision is made after the check and before its result is revealed: with any number of
 * concurrent requests, no more failures are revealed than the bound allows, and a sender without
 * failures is limited only by the failures of its network or key coin.
 * Source: protocol specification, section 27, S3. Makes no system call except for the lock.
 */
#ifndef RU_GUARD_H
#define RU_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "ru.h"
#include "guard/source.h"

#define RU_GUARD_ADDRESS_BYTES 24

enum ru_guard_bound {
    RU_GUARD_NONE = 0, /* no bound: the result may be revealed */
    RU_GUARD_SOURCE = 1,
    RU_GUARD_NETWORK = 2,
    RU_GUARD_COIN = 3,
};

/* How fast the charges of one kind of bucket expire, and how far ahead of the clock it may be. */
struct ru_guard_pace {
    uint64_t interval_ns; /* until one failed check expires */
    uint64_t slack_ns;    /* the intervals of a burst, less one */
};

struct ru_guard_charge {
    struct ru_source_name name;
    uint64_t id;
};

/* What one check is charged to: sender, network, key coin. */
struct ru_guard_check {
    struct ru_guard_charge charges[RU_GUARD_COIN];
    uint32_t count; /* charges in use; 0: none */
};

/* The sender that the loop looked at last: a flood often comes from one sender. */
struct ru_guard_seen {
    uint8_t address[RU_GUARD_ADDRESS_BYTES]; /* of a sockaddr, after the port */
    uint8_t family[2];
    uint8_t transport;
    bool known;   /* the other fields are valid */
    bool limited; /* bounds apply to this sender */
};

struct ru_guard {
    struct ru_sources sources;
    struct ru_checks settings; /* the loop writes `settings` and `paces` under sources.lock */
    struct ru_guard_pace paces[RU_GUARD_COIN];
    uint64_t groups[2];                      /* group ids of coins and of lockers */
    uint8_t commands[RU_COMMANDS_COUNT / 8]; /* bits: commands that check a secret themselves */
    struct ru_guard_seen seen;               /* loop: the sender it looked at last */
    struct ru_guard_check last;              /* loop: ... and the charges of that sender */
};

/* Thread: control. settings: as ru_config_check() passes them. 0 or -errno. */
int ru_guard_init(struct ru_guard *guard, const struct ru_checks *settings);
void ru_guard_destroy(struct ru_guard *guard);
/* Thread: loop. Waits for the lock, which workers hold for some 100 ns at a time. */
void ru_guard_set(struct ru_guard *guard, const struct ru_checks *settings, uint64_t now_ns);
/* Thread: control, before the loop runs. */
void ru_guard_add_command(struct ru_guard *guard, uint16_t command);
/* True if a request with this header needs a check: it is encrypted, or its command makes one. */
bool ru_guard_asks(const struct ru_guard *guard, const uint8_t *header);
/* Thread: loop. The bound that forbids a check, if any. peer: RU_PEER_SIZE bytes of a sockaddr. */
enum ru_guard_bound ru_guard_look(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. The same, before a check that costs or changes something. */
enum ru_guard_bound ru_guard_peek(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. A check has failed: the bound that forbids revealing it; if none, charges it. */
enum ru_guard_bound ru_guard_fail(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. Writes up to `count` of those that are limited now; returns how many there are. */
uint32_t ru_guard_list(struct ru_guard *guard, struct ru_limited *limited, uint32_t count,
                       uint64_t now_ns);

#endif
