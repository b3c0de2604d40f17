/* guard.h: who has failed too many checks of a secret to be told of another one.
 *
 * Why: a 32-bit CRC is all that proves a key under encryption types 1 and 2, and tickets have 32
 * bits, too. Counted are checks that failed: per sender (an IPv4 address, an IPv6 /64), per network
 * (/24, /48), and per key coin over all senders. Past a bound nothing is told of a check, right or
 * wrong, and none is made where that can be known beforehand. UDP and TCP are counted apart: a
 * datagram's sender may be forged.
 *
 * The decision falls when a check has been made, before anything of it is told: however many
 * requests are on their way at once, no more failures than the bound allows are told, and who fails
 * none is never limited.
 * Source: protocol specification, section 27, S3. No system call but for the lock's.
 */
#ifndef RU_GUARD_H
#define RU_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "ru.h"
#include "guard/source.h"

#define RU_GUARD_ADDRESS_BYTES 24

enum ru_guard_bound {
    RU_GUARD_NONE = 0, /* none: it may be told */
    RU_GUARD_SOURCE = 1,
    RU_GUARD_NETWORK = 2,
    RU_GUARD_COIN = 3,
};

/* How fast one kind of bucket is forgiven, and how far ahead of the clock it may be. */
struct ru_guard_pace {
    uint64_t interval_ns; /* for one failed check */
    uint64_t slack_ns;    /* all checks of a burst but one */
};

struct ru_guard_charge {
    struct ru_source_name name;
    uint64_t id;
};

/* What one check is charged to: sender, network, key coin. */
struct ru_guard_check {
    struct ru_guard_charge charges[RU_GUARD_COIN];
    uint32_t count; /* of them; 0: not known */
};

/* Whom the loop looked at last: a flood often comes from one sender. */
struct ru_guard_seen {
    uint8_t address[RU_GUARD_ADDRESS_BYTES]; /* of a sockaddr, behind the port */
    uint8_t family[2];
    uint8_t transport;
    bool known;   /* the rest is of somebody */
    bool limited; /* ... to whom bounds apply */
};

struct ru_guard {
    struct ru_sources sources;
    struct ru_checks settings; /* written by the loop under the lock of `sources`, as is the next */
    struct ru_guard_pace paces[RU_GUARD_COIN];
    uint64_t groups[2]; /* ids that those of coins and of lockers follow from */
    uint8_t commands[RU_COMMANDS_COUNT / 8]; /* those that check a secret of their own */
    struct ru_guard_seen seen;               /* loop: whom it looked at last */
    struct ru_guard_check last;              /* loop: ... and what its checks are charged to */
};

/* Thread: control. settings: as ru_config_check() passes them. 0 or -errno. */
int ru_guard_init(struct ru_guard *guard, const struct ru_checks *settings);
void ru_guard_destroy(struct ru_guard *guard);
/* Thread: loop. Waits for the lock, which workers hold for some 100 ns at a time. */
void ru_guard_set(struct ru_guard *guard, const struct ru_checks *settings, uint64_t now_ns);
/* Thread: control, before the loop runs. */
void ru_guard_add_command(struct ru_guard *guard, uint16_t command);
/* Whether a request with this header asks for a check: it is encrypted, or its command makes one. */
bool ru_guard_asks(const struct ru_guard *guard, const uint8_t *header);
/* Thread: loop. Which bound, if any, forbids a check. peer: RU_PEER_SIZE bytes of a sockaddr. */
enum ru_guard_bound ru_guard_look(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. The same, before a check that costs or changes something. */
enum ru_guard_bound ru_guard_peek(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. A check has failed: which bound, if any, forbids to tell; if none does, it is charged. */
enum ru_guard_bound ru_guard_fail(struct ru_guard *guard, const uint8_t *peer,
                                  const uint8_t *header, uint8_t transport, uint64_t now_ns);
/* Thread: any. What is limited now: up to `count` of them, and how many there are. */
uint32_t ru_guard_list(struct ru_guard *guard, struct ru_limited *limited, uint32_t count,
                       uint64_t now_ns);

#endif
